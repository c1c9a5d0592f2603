//! What is seen of a push, on stderr. A mode is a fold over events; none knows HTTP.
//!
//! Writing never fails a push: who closed stderr does not want to read it.

mod plain;
mod tty;

use std::io::{self, Write};
use std::time::Duration;

pub use plain::Plain;
pub use tty::{Tty, terminal_size};

use crate::event::Event;
use crate::progress::Progress;

pub trait Presenter {
    /// Something happened. `progress`: as it was before.
    fn event(&mut self, event: &Event, progress: &Progress);

    /// Time has passed: [`period`](Self::period) of it.
    fn tick(&mut self, progress: &Progress);

    /// How often [`tick`](Self::tick) is wanted; `None`: never.
    fn period(&self) -> Option<Duration>;

    /// A line about how things go.
    fn note(&mut self, line: &str);

    /// A line that is shown in every mode: a warning, or what a question is about. The next thing
    /// on the terminal may be a prompt.
    fn tell(&mut self, line: &str);

    /// The attempt is over: takes away what would not make sense to keep.
    fn finish(&mut self);
}

/// `--quiet`: only what must be said.
pub struct Silent;

impl Presenter for Silent {
    fn event(&mut self, _: &Event, _: &Progress) {}

    fn tick(&mut self, _: &Progress) {}

    fn period(&self) -> Option<Duration> {
        None
    }

    fn note(&mut self, _: &str) {}

    fn tell(&mut self, line: &str) {
        let _ = writeln!(io::stderr(), "{line}");
    }

    fn finish(&mut self) {}
}
