//! The interface of presenters, and the reporter through which all pushes share one presenter.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use crate::event::Event;
use crate::retry::NextAttempt;

/// A step in the push of an image, which a presenter shows.
#[derive(Clone, Copy, Debug)]
pub enum Update<'a> {
    /// Work on the image starts. A dry run only inspects the image.
    Start {
        is_dry_run: bool,
        /// The route of the upload: `engine`, or `relay` if the plugin uploads the image.
        route: &'static str,
    },
    /// The image goes to several destinations in one upload by the engine. The name is that of the image in the engine.
    Shared(&'a str),
    /// An attempt to push the image starts. The presenter discards the progress of an earlier attempt.
    Push,
    Event(&'a Event),
    /// An attempt failed. Contains the next attempt, which follows after a wait, and the reason of the failure.
    Wait(&'a NextAttempt, &'a str),
    Finished(Ending<'a>),
}

/// The result of the push of an image, as messages.
#[derive(Clone, Copy, Debug)]
pub struct Ending<'a> {
    pub is_failure: bool,
    /// The message for people. After a failure: the error, with the hint of the error on a second line. Empty if no
    /// message is shown.
    pub text: &'a str,
    /// The result of the push as a line of `--format json`.
    pub json: &'a str,
}

/// The importance of a line. Decides in which progress modes the line is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A line about progress; not shown with `--quiet`.
    Note,
    /// A line that is shown in every progress mode.
    Notice,
    Warning,
    /// A line of a prompt: shown at once, even while other lines are held back.
    Asking,
}

/// Shows the progress of pushes. The argument `at` is the index of an image, from 0, in the order that the user
/// typed.
pub trait Presenter {
    fn show(&mut self, at: usize, update: &Update<'_>);

    /// Shows a line about one image, or about all images (`None`).
    fn say(&mut self, at: Option<usize>, level: Level, line: &str);

    /// Shows the current progress. The caller calls `tick` once in each [`period`](Self::period).
    fn tick(&mut self, _now: Instant) {}

    /// Returns the time between two calls of [`tick`](Self::tick); `None`: `tick` is never called.
    fn period(&self) -> Option<Duration> {
        None
    }

    /// Announces that a prompt on the terminal starts (`true`) or ends (`false`). During a prompt, only lines of the
    /// prompt are written.
    fn hold(&mut self, is_asking: bool);

    /// Clears the redrawn lines until the next [`tick`](Self::tick), so that the caller can write to the terminal.
    fn clear(&mut self) {}

    /// Returns whether this presenter uses [`Event::Object`].
    fn wants_objects(&self) -> bool {
        false
    }
}

/// The only presenter of the program, shared by the pushes that run at the same time.
pub struct Reporter {
    presenter: RefCell<Box<dyn Presenter>>,
    is_held: Cell<bool>,
}

impl Reporter {
    pub fn new(presenter: Box<dyn Presenter>) -> Self {
        Self { presenter: RefCell::new(presenter), is_held: Cell::new(false) }
    }

    pub fn say(&self, level: Level, line: &str) {
        self.presenter.borrow_mut().say(None, level, line);
    }

    /// Keeps the terminal free for a prompt until the returned guard is dropped.
    pub fn hold(&self) -> impl Drop + use<'_> {
        struct Held<'a>(&'a Reporter);
        impl Drop for Held<'_> {
            fn drop(&mut self) {
                self.0.is_held.set(false);
                self.0.presenter.borrow_mut().hold(false);
            }
        }
        self.is_held.set(true);
        self.presenter.borrow_mut().hold(true);
        Held(self)
    }

    /// Returns whether a prompt waits for input from the user.
    pub fn is_held(&self) -> bool {
        self.is_held.get()
    }

    pub fn tick(&self) {
        // Skips the tick during a prompt. The presenter would hold the progress lines back until the prompt ends, and
        // then show outdated progress.
        if !self.is_held() {
            self.presenter.borrow_mut().tick(Instant::now());
        }
    }

    pub fn period(&self) -> Option<Duration> {
        self.presenter.borrow().period()
    }

    pub fn clear(&self) {
        self.presenter.borrow_mut().clear();
    }
}

/// Shows the updates of one image through the shared reporter.
#[derive(Clone, Copy)]
pub struct ImageReporter<'a> {
    pub reporter: &'a Reporter,
    pub at: usize,
}

impl ImageReporter<'_> {
    pub fn show(&self, update: &Update<'_>) {
        self.reporter.presenter.borrow_mut().show(self.at, update);
    }

    pub fn say(&self, level: Level, line: &str) {
        self.reporter.presenter.borrow_mut().say(Some(self.at), level, line);
    }

    pub fn note(&self, line: &str) {
        self.say(Level::Note, line);
    }

    pub fn wants_objects(&self) -> bool {
        self.reporter.presenter.borrow().wants_objects()
    }
}
