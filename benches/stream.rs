//! Measures with `cargo bench` how fast the plugin processes the stream of an engine. benches/compare.sh measures
//! whole commands.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use docker_regpush::engine::stream::Decoder;
use docker_regpush::event::Event;
use docker_regpush::failure::{Evidence, classify};
use docker_regpush::progress::Progress;

fn main() {
    divan::main();
}

const CLASSIC: &[u8] = include_bytes!("../tests/recordings/docker-20.10-classic-seven-layers.ndjson");
const CONTAINERD: &[u8] = include_bytes!("../tests/recordings/docker-28.5-containerd-seven-layers.ndjson");

/// Sizes in bytes of the chunks of a stream: 8192 as hyper delivers them, and 64 as a proxy might deliver them.
const PIECES: [usize; 2] = [8192, 64];

fn events(stream: &[u8], piece: usize, on_event: impl Fn(Event) + Copy) {
    let mut decoder = Decoder::default();
    stream.chunks(piece).for_each(|piece| decoder.decode(piece, on_event).expect("a recording"));
}

#[divan::bench(args = PIECES)]
fn decode_classic(bencher: Bencher<'_, '_>, piece: usize) {
    bencher
        .counter(BytesCount::of_slice(CLASSIC))
        .bench(|| events(CLASSIC, piece, |event| _ = black_box(event)));
}

#[divan::bench(args = PIECES)]
fn decode_containerd(bencher: Bencher<'_, '_>, piece: usize) {
    let count = BytesCount::of_slice(CONTAINERD);
    bencher.counter(count).bench(|| events(CONTAINERD, piece, |event| _ = black_box(event)));
}

#[divan::bench]
fn follow_progress(bencher: Bencher<'_, '_>) {
    let mut all = Vec::new();
    let mut decoder = Decoder::default();
    decoder.decode(CLASSIC, |event| all.push(event)).expect("a recording");
    bencher.counter(ItemsCount::new(all.len())).bench(|| {
        let mut progress = Progress::default();
        all.iter().for_each(|event| _ = black_box(progress.apply(event)));
        progress
    });
}

/// Measures the classification of the three error messages in `args`. `classify` recognizes the first message by its
/// words and the second message only by the HTTP status, and does not recognize the third message. Filler follows each
/// message, as in an HTML page.
#[divan::bench(args = ["unauthorized: authentication required", "received unexpected HTTP status: 503 Service Unavailable", "something else"], consts = [1, 1000])]
fn classify_text<const TIMES: usize>(bencher: Bencher<'_, '_>, text: &str) {
    let page = text.to_owned() + &" and more of it".repeat(TIMES);
    bencher.counter(BytesCount::of_str(&page)).bench(|| classify(&Evidence::of_text(black_box(&page), true)));
}
