//! Fuzzes the decoder and the presenters with the stream of an engine. The chunk size must not change the events, and
//! presenters must not print control characters.

#![no_main]

use std::time::Instant;

use docker_regpush::engine::stream::{DecodeError, Decoder};
use docker_regpush::event::Event;
use docker_regpush::palette::Palette;
use docker_regpush::present::json::Json;
use docker_regpush::present::plain::Plain;
use docker_regpush::present::presenter::{Presenter, Update};
use docker_regpush::present::tty::Tty;
use docker_regpush::progress::Progress;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (size, stream) = input;
    let whole = decode([stream]);
    assert_eq!(decode(stream.chunks(usize::from(size).max(1))), whole);
    let names = || vec!["app:1".to_owned()];
    let mut plain = Plain::new(Vec::new(), Palette::default(), names());
    let mut tty = Tty::new(Vec::new(), Palette::default(), names(), || (40, 10));
    let mut json = Json::new(Vec::new(), names());
    let mut progress = Progress::default();
    let now = Instant::now();
    for event in &whole.0 {
        plain.show(0, &Update::Event(event));
        tty.show(0, &Update::Event(event));
        json.show(0, &Update::Event(event));
        progress.apply(event);
        tty.tick(now);
    }
    plain.tick(now);
    for lines in [plain.into_inner(), json.into_inner()] {
        assert!(!lines.iter().any(|byte| byte.is_ascii_control() && *byte != b'\n'));
    }
    let (sent, all) = progress.bytes();
    assert!(sent <= all);
});

/// Decodes a stream. Returns the events before the end or the first error, and whether the stream is complete and
/// valid.
fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Event>, bool) {
    let mut decoder = Decoder::default().with_objects(true);
    let mut events = Vec::new();
    let decode = || -> Result<(), DecodeError> {
        for piece in pieces {
            decoder.decode(piece, |event| events.push(event))?;
        }
        decoder.finish()
    };
    let is_whole = decode().is_ok();
    (events, is_whole)
}
