//! Implements the progress modes `rawjson` and `none`. `--progress rawjson` prints the engine's own JSON objects, one
//! per line. `--progress none` prints only warnings, prompts and failures.

use std::io::Write;

use crate::event::Event;
use crate::palette::Palette;
use crate::present::lines::{Lines, worded, worded_ending};
use crate::present::presenter::{Level, Presenter, Update};

/// Shows only warnings, prompts and failures, for `--progress none` and `--quiet`.
pub struct Silent<W> {
    lines: Lines<W>,
    names: Vec<String>,
}

/// Shows the engine's JSON objects, and also the warnings, prompts and failures that [`Silent`] shows.
pub struct Raw<W>(Silent<W>);

impl<W: Write> Silent<W> {
    pub fn new(out: W, palette: Palette, names: Vec<String>) -> Self {
        Self { lines: Lines::new(out, palette), names }
    }
}

impl<W: Write> Raw<W> {
    pub fn new(out: W, palette: Palette, names: Vec<String>) -> Self {
        Self(Silent::new(out, palette, names))
    }
}

impl<W: Write> Presenter for Silent<W> {
    fn show(&mut self, _: usize, update: &Update<'_>) {
        if let Update::Finished(ending) = update
            && ending.is_failure
            && !ending.text.is_empty()
        {
            self.lines.line(&worded_ending(self.lines.palette, ending));
        }
    }

    fn say(&mut self, at: Option<usize>, level: Level, line: &str) {
        let name = at.and_then(|at| self.names.get(at)).filter(|_| self.names.len() > 1);
        match level {
            Level::Note => {}
            Level::Notice | Level::Warning => {
                self.lines.line(&worded(self.lines.palette, name.map(String::as_str), level, line));
            }
            Level::Asking => self.lines.line_now(line),
        }
    }

    fn hold(&mut self, is_asking: bool) {
        self.lines.hold(is_asking);
    }
}

impl<W: Write> Presenter for Raw<W> {
    fn show(&mut self, at: usize, update: &Update<'_>) {
        match update {
            Update::Event(Event::Object { line }) => self.0.lines.line(line),
            update => self.0.show(at, update),
        }
    }

    fn say(&mut self, at: Option<usize>, level: Level, line: &str) {
        self.0.say(at, level, line);
    }

    fn hold(&mut self, is_asking: bool) {
        self.0.hold(is_asking);
    }

    fn wants_objects(&self) -> bool {
        true
    }
}
