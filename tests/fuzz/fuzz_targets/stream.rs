//! What an engine sends: wherever it is cut, the same comes out of it, and nothing that acts on a terminal.

#![no_main]

use docker_regpush::event::{DecodeError, Decoder, Event};
use docker_regpush::present::{Plain, Presenter, Tty};
use docker_regpush::progress::Progress;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (size, stream) = input;
    let whole = decode([stream]);
    assert_eq!(decode(stream.chunks(usize::from(size).max(1))), whole);
    let (mut plain, mut tty) = (Plain::new(Vec::new()), Tty::new(Vec::new(), || (40, 10)));
    let mut progress = Progress::default();
    for event in &whole.0 {
        plain.event(event, &progress);
        tty.event(event, &progress);
        progress.apply(event);
        tty.tick(&progress);
    }
    plain.tick(&progress);
    let lines = plain.into_inner();
    assert!(!lines.iter().any(|byte| byte.is_ascii_control() && *byte != b'\n'));
    let (sent, all) = progress.bytes();
    assert!(sent <= all);
});

/// All events up to the end, or up to an error.
fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Event>, bool) {
    let mut decoder = Decoder::default();
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
