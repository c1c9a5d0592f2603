//! The interface of a presenter, and how the pushes of a call share one.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use crate::event::Event;
use crate::retry::NextAttempt;

/// What happens to an image.
#[derive(Clone, Copy, Debug)]
pub enum Update<'a> {
    /// Work on the image starts; a dry run only inspects it.
    Start {
        is_dry_run: bool,
    },
    /// A push starts. Progress of an earlier push no longer counts.
    Push,
    Event(&'a Event),
    /// An attempt failed for this reason; the next one follows after a wait.
    Wait(&'a NextAttempt, &'a str),
    Finished(Ending<'a>),
}

/// How an image ended.
#[derive(Clone, Copy, Debug)]
pub struct Ending<'a> {
    pub is_failure: bool,
    /// For people; for a failure the error, with its hint on a second line. Empty if there is nothing to show.
    pub text: &'a str,
    /// The result as a line of `--format json`.
    pub json: &'a str,
}

/// How important a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Information on the progress; not shown with `--quiet`.
    Note,
    /// Shown in every mode.
    Notice,
    Warning,
    /// Part of a prompt: shown at once, even while other lines are held back.
    Asking,
}

/// Images are identified by their index in the order asked, from 0.
pub trait Presenter {
    fn show(&mut self, at: usize, update: &Update<'_>);

    /// Shows a line about an image, or about the call as a whole.
    fn say(&mut self, at: Option<usize>, level: Level, line: &str);

    /// Shows the progress. Called once in each [`period`](Self::period).
    fn tick(&mut self, _now: Instant) {}

    /// Returns the time between two calls of [`tick`](Self::tick); `None`: it is never called.
    fn period(&self) -> Option<Duration> {
        None
    }

    /// Starts or ends a prompt on the terminal. Until it ends, only lines of the prompt are written.
    fn hold(&mut self, is_asking: bool);

    /// Clears the redrawn lines until the next tick, so that other text can be written.
    fn clear(&mut self) {}

    /// Returns whether this presenter uses [`Event::Object`].
    fn wants_objects(&self) -> bool {
        false
    }
}

/// The presenter of a call, shared by the pushes that run at once.
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

    /// Whether a prompt waits for an answer.
    pub fn is_held(&self) -> bool {
        self.is_held.get()
    }

    pub fn tick(&self) {
        // Skipped during a prompt, because a tick that is held back would show old figures.
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

/// Shows the events of one image.
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
