//! For logs: a line per change of state, and the totals every 10 s.

use std::io::Write;
use std::mem::discriminant;
use std::time::Duration;

use super::Presenter;
use crate::event::{Event, LayerState};
use crate::progress::Progress;
use crate::text::human_size;

pub struct Plain<W> {
    out: W,
}

impl<W: Write> Plain<W> {
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// Where it has written.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn line(&mut self, line: &str) {
        let _ = writeln!(self.out, "{line}");
    }
}

impl<W: Write> Presenter for Plain<W> {
    fn event(&mut self, event: &Event, progress: &Progress) {
        match event {
            Event::Layer { id, state } => {
                // The containerd store says "Waiting" ten times a second, for every layer.
                let news = progress.state_of(id).is_none_or(|before| is_news(before, state));
                if news && !matches!(state, LayerState::Preparing | LayerState::Waiting) {
                    self.line(&format!("{id}: {state}"));
                }
            }
            Event::Note { text } => self.line(text),
            // The classic store says it again in `aux`.
            Event::Pushed { tag, .. } if progress.pushed.iter().any(|pushed| pushed.tag == *tag) => {}
            Event::Pushed { tag, digest, size } => {
                self.line(&format!("{tag}: digest: {digest} size: {size}"))
            }
            // Told with the result.
            Event::Refused { .. } | Event::ContentMissing | Event::PlatformInsteadOfIndex => {}
        }
    }

    fn tick(&mut self, progress: &Progress) {
        let line = totals(progress, progress.elapsed());
        self.line(&line);
    }

    fn period(&self) -> Option<Duration> {
        Some(Duration::from_secs(10))
    }

    fn note(&mut self, line: &str) {
        self.line(line);
    }

    fn tell(&mut self, line: &str) {
        self.line(line);
    }

    fn finish(&mut self) {}
}

/// Another kind of state; bytes and seconds that pass are none.
fn is_news(before: &LayerState, now: &LayerState) -> bool {
    match (before, now) {
        (LayerState::Other(before), LayerState::Other(now)) => before != now,
        // The next wait, not a second less of this one.
        (LayerState::Retrying { seconds: before }, LayerState::Retrying { seconds: now }) => now > before,
        _ => discriminant(before) != discriminant(now),
    }
}

/// `3 of 7 layers  42 %  310MB of 740MB  12.4MB/s`; of the bytes only what is known.
pub fn totals(progress: &Progress, elapsed: Duration) -> String {
    let counts = progress.counts();
    let done = counts.pushed + counts.exists + counts.mounted;
    let (sent, all) = progress.bytes();
    let mut line = format!("{done} of {} layers", counts.total);
    if all > 0 {
        let percent = u128::from(sent) * 100 / u128::from(all);
        line += &format!("  {percent} %  {} of {}", human_size(sent), human_size(all));
        let seconds = elapsed.as_secs_f64();
        if seconds >= 1.0 {
            line += &format!("  {}/s", human_size((sent as f64 / seconds) as u64));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(events: &[Event]) -> String {
        let mut plain = Plain::new(Vec::new());
        let mut progress = Progress::default();
        for event in events {
            plain.event(event, &progress);
            progress.apply(event);
        }
        String::from_utf8(plain.out).unwrap()
    }

    fn layer(id: &str, state: LayerState) -> Event {
        Event::Layer { id: id.to_owned(), state }
    }

    #[test]
    fn tells_changes_and_nothing_twice() {
        let events = [
            Event::Note { text: "The push refers to repository [localhost:5000/app]".to_owned() },
            layer("aaa", LayerState::Preparing),
            layer("bbb", LayerState::Waiting),
            layer("bbb", LayerState::Waiting),
            layer("aaa", LayerState::Pushing { current: 1, total: 9 }),
            layer("aaa", LayerState::Pushing { current: 5, total: 9 }),
            layer("aaa", LayerState::Retrying { seconds: 5 }),
            layer("aaa", LayerState::Retrying { seconds: 4 }),
            layer("aaa", LayerState::Retrying { seconds: 10 }),
            layer("aaa", LayerState::Pushing { current: 5, total: 9 }),
            layer("aaa", LayerState::Pushed),
            layer("bbb", LayerState::Other("Unavailable".to_owned())),
            layer("bbb", LayerState::Other("Unavailable".to_owned())),
            layer("bbb", LayerState::Other("Strange".to_owned())),
            layer("bbb", LayerState::AlreadyExists),
            Event::Pushed { tag: "1".to_owned(), digest: "sha256:00".to_owned(), size: 5 },
            Event::Pushed { tag: "1".to_owned(), digest: "sha256:00".to_owned(), size: 5 },
        ];
        insta::assert_snapshot!(show(&events), @r"
        The push refers to repository [localhost:5000/app]
        aaa: Pushing
        aaa: Retrying in 5 seconds
        aaa: Retrying in 10 seconds
        aaa: Pushing
        aaa: Pushed
        bbb: Unavailable
        bbb: Strange
        bbb: Layer already exists
        1: digest: sha256:00 size: 5
        ");
    }

    #[test]
    fn totals_say_what_is_known() {
        let mut progress = Progress::default();
        assert_eq!(totals(&progress, Duration::ZERO), "0 of 0 layers");
        progress.apply(&layer("a", LayerState::AlreadyExists));
        assert_eq!(totals(&progress, Duration::ZERO), "1 of 1 layers");
        progress.apply(&layer("b", LayerState::Pushing { current: 310_000_000, total: 740_000_000 }));
        let line = totals(&progress, Duration::from_secs(25));
        assert_eq!(line, "1 of 2 layers  41 %  310MB of 740MB  12.4MB/s");
    }
}
