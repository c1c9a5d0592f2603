//! What is seen of a push, on stderr. A mode is a fold over events; none knows HTTP.
//!
//! Writing never fails a push: who closed stderr does not want to read it.

mod plain;
mod tty;

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

pub use plain::Plain;
pub use tty::Tty;

use crate::cli::ProgressMode;
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

/// The presenter of a mode. `auto`: redrawing on a terminal that can do it, else lines.
pub fn presenter(mode: ProgressMode) -> Box<dyn Presenter> {
    let mode = match mode {
        ProgressMode::Auto if can_redraw() => ProgressMode::Tty,
        ProgressMode::Auto => ProgressMode::Plain,
        chosen => chosen,
    };
    match mode {
        ProgressMode::None => Box::new(Silent),
        ProgressMode::Tty => Box::new(Tty::new(io::stderr(), tty::terminal_size)),
        ProgressMode::Plain | ProgressMode::Auto => Box::new(Plain::new(io::stderr())),
    }
}

fn can_redraw() -> bool {
    io::stderr().is_terminal()
        && std::env::var_os("TERM").is_some_and(|term| term != "dumb" && !term.is_empty())
}

/// `--quiet`: only what must be said.
struct Silent;

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
