//! Shows progress in logs: prints a line for each important event, and the progress of each image every 10 s.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::event::{Event, LayerState};
use crate::failure::is_opening;
use crate::palette::Palette;
use crate::present::board::{Board, is_said_again};
use crate::present::lines::{Lines, worded, worded_ending};
use crate::present::presenter::{Level, Presenter, Update};

/// Maximum number of lines about single layers in one run. An image has about seven layers. After this number of
/// lines, the log shows only counts of layers.
const MAX_LAYER_LINES: usize = 60;

pub struct Plain<W> {
    lines: Lines<W>,
    board: Board,
    layer_lines: usize,
}

impl<W: Write> Plain<W> {
    pub fn new(out: W, palette: Palette, names: Vec<String>) -> Self {
        Self { lines: Lines::new(out, palette), board: Board::new(names, Instant::now()), layer_lines: 0 }
    }

    /// Returns the writer to which this presenter prints.
    pub fn into_inner(self) -> W {
        self.lines.out
    }

    /// Prints a line about an image. If there are several images, the line begins with the name of the image.
    fn line(&mut self, at: usize, line: &str) {
        let line = worded(self.lines.palette, self.board.name_among_others(at), Level::Note, line);
        self.lines.line(&line);
    }

    fn event(&mut self, at: usize, event: &Event) {
        let Some(row) = self.board.rows.get(at) else { return };
        match event {
            Event::Layer { id, state } if is_news(row.progress.state_of(id), state) => {
                self.layer_lines += 1;
                match self.layer_lines {
                    ..=MAX_LAYER_LINES => self.line(at, &format!("{id}: {state}")),
                    lines if lines == MAX_LAYER_LINES + 1 => {
                        self.lines.line("too many layers to list; only counts are shown from here on");
                    }
                    _ => {}
                }
            }
            // The engine's first line of a push only repeats the reference, which was printed for `Update::Start`.
            Event::Note { text } if is_opening(text) => {}
            Event::Note { text } => self.line(at, text),
            // The classic store reports the tag and digest twice: in a status line and in the field `aux`.
            Event::Pushed { .. } if is_said_again(&row.progress, event) => {}
            Event::Pushed { tag, digest, size } => {
                let line = format!("{tag}: digest: {digest} size: {size}");
                self.line(at, &self.lines.palette.dim(&line));
            }
            // These events are reported with the result of the push, or are not important.
            Event::Refused { .. }
            | Event::ContentMissing
            | Event::PlatformInsteadOfIndex(_)
            | Event::Object { .. }
            | Event::Layer { .. } => {}
        }
    }
}

impl<W: Write> Presenter for Plain<W> {
    fn show(&mut self, at: usize, update: &Update<'_>) {
        match update {
            Update::Start { is_dry_run, .. } => {
                if let Some(row) = self.board.rows.get(at) {
                    let what = if *is_dry_run { "looking at" } else { "pushing" };
                    self.lines.line(&format!("{what} {}", row.name));
                }
            }
            Update::Event(event) => self.event(at, event),
            Update::Wait(next, reason) => {
                let next = self.lines.palette.warning(&next.to_string());
                self.line(at, &format!("{reason}; {next}"));
            }
            Update::Finished(ending) if !ending.text.is_empty() => {
                self.lines.line(&worded_ending(self.lines.palette, ending));
            }
            Update::Shared(_) | Update::Push | Update::Finished(_) => {}
        }
        self.board.show(at, update);
    }

    fn say(&mut self, at: Option<usize>, level: Level, line: &str) {
        let name = at.and_then(|at| self.board.name_among_others(at));
        let line = worded(self.lines.palette, name, level, line);
        match level {
            Level::Asking => self.lines.line_now(&line),
            _ => self.lines.line(&line),
        }
    }

    fn tick(&mut self, now: Instant) {
        self.board.measure(now);
        for row in self.board.under_way() {
            self.lines.line(&format!("{}  {}", row.name, self.board.standing(row)));
        }
    }

    fn period(&self) -> Option<Duration> {
        Some(Duration::from_secs(10))
    }

    fn hold(&mut self, is_asking: bool) {
        self.lines.hold(is_asking);
    }
}

/// Returns whether a new state of a layer is printed: the layer was sent, waits for a retry by the engine, or has an
/// unknown state. Layers in other states are only counted, in the progress lines and in the summary.
fn is_news(before: Option<&LayerState>, now: &LayerState) -> bool {
    match (before, now) {
        (Some(LayerState::Other(before)), LayerState::Other(now)) => before != now,
        // A longer wait means a new retry. A shorter wait is the countdown of the current retry.
        (Some(LayerState::Retrying { seconds: before }), LayerState::Retrying { seconds: now }) => {
            now > before
        }
        // The containerd store reports the state `Pushed` ten times a second.
        (Some(LayerState::Pushed), LayerState::Pushed) => false,
        (Some(LayerState::SkippedForeign), LayerState::SkippedForeign) => false,
        (
            _,
            LayerState::Pushed
            | LayerState::Retrying { .. }
            | LayerState::SkippedForeign
            | LayerState::Other(_),
        ) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::present::presenter::Ending;
    use crate::retry::NextAttempt;

    fn layer(id: &str, state: LayerState) -> Event {
        Event::Layer { id: id.to_owned(), state }
    }

    fn plain(names: &[&str]) -> Plain<Vec<u8>> {
        Plain::new(Vec::new(), Palette::default(), names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn shown(plain: Plain<Vec<u8>>) -> String {
        String::from_utf8(plain.into_inner()).unwrap()
    }

    fn events() -> Vec<Event> {
        vec![
            Event::Note { text: "The push refers to repository [localhost:5000/app]".to_owned() },
            layer("aaa", LayerState::Preparing),
            layer("bbb", LayerState::Waiting),
            layer("aaa", LayerState::Pushing { current: 1, total: 9 }),
            layer("aaa", LayerState::Retrying { seconds: 5 }),
            layer("aaa", LayerState::Retrying { seconds: 4 }),
            layer("aaa", LayerState::Retrying { seconds: 10 }),
            layer("aaa", LayerState::Pushing { current: 5, total: 9 }),
            layer("aaa", LayerState::Pushed),
            layer("aaa", LayerState::Pushed),
            layer("bbb", LayerState::Other("Unavailable".to_owned())),
            layer("bbb", LayerState::Other("Unavailable".to_owned())),
            layer("bbb", LayerState::Other("Strange".to_owned())),
            layer("bbb", LayerState::AlreadyExists),
            Event::Pushed { tag: "1".to_owned(), digest: "sha256:00".to_owned(), size: 5 },
            Event::Pushed { tag: "1".to_owned(), digest: "sha256:00".to_owned(), size: 5 },
        ]
    }

    #[test]
    fn prints_important_events_once() {
        let mut plain = plain(&["app:1"]);
        plain.show(0, &Update::Start { is_dry_run: false, route: "engine" });
        for event in events() {
            plain.show(0, &Update::Event(&event));
        }
        plain.tick(Instant::now());
        plain.show(0, &Update::Finished(Ending { is_failure: false, text: "pushed app:1", json: "{}" }));
        plain.tick(Instant::now());
        insta::assert_snapshot!(shown(plain), @r"
        pushing app:1
        aaa: Retrying in 5 seconds
        aaa: Retrying in 10 seconds
        aaa: Pushed
        bbb: Unavailable
        bbb: Strange
        1: digest: sha256:00 size: 5
        app:1  100 %  9 of 9 B  2 of 2 layers
        pushed app:1
        ");
    }

    #[test]
    fn prefixes_lines_with_the_image_if_several() {
        let mut plain = plain(&["app:1", "web:2"]);
        plain.show(1, &Update::Start { is_dry_run: true, route: "engine" });
        plain.show(1, &Update::Event(&layer("aaa", LayerState::Pushed)));
        let next = NextAttempt { number: 2, of: 6, wait: Duration::from_millis(1400) };
        plain.show(1, &Update::Wait(&next, "broken pipe"));
        plain.say(Some(1), Level::Note, "a note");
        plain.say(Some(1), Level::Warning, "something about it");
        plain.say(None, Level::Warning, "something else");
        insta::assert_snapshot!(shown(plain), @r"
        looking at web:2
        web:2: aaa: Pushed
        web:2: broken pipe; attempt 2 of 6 in 1s
        web:2: a note
        warning: web:2: something about it
        warning: something else
        ");
    }

    /// Other lines must not appear among the lines of a prompt.
    #[test]
    fn holds_other_lines_back_during_a_prompt() {
        let mut plain = plain(&["app:1", "web:2"]);
        plain.hold(true);
        plain.show(1, &Update::Event(&layer("aaa", LayerState::Pushed)));
        plain.say(Some(0), Level::Asking, "that was wrong");
        plain.hold(false);
        plain.say(Some(0), Level::Note, "go on");
        insta::assert_snapshot!(shown(plain), @r"
        that was wrong
        web:2: aaa: Pushed
        app:1: go on
        ");
    }

    #[test]
    fn limits_the_number_of_layer_lines() {
        let mut plain = plain(&["app:1"]);
        for number in 0..1000 {
            plain.show(0, &Update::Event(&layer(&number.to_string(), LayerState::Pushed)));
        }
        let shown = shown(plain);
        assert_eq!(shown.lines().count(), MAX_LAYER_LINES + 1);
        assert_eq!(shown.lines().last(), Some("too many layers to list; only counts are shown from here on"));
    }
}
