//! The interface of a presenter, and how the pushes of a call share one.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use crate::event::Event;
use crate::retry::NextAttempt;

/// What happens to one image.
#[derive(Clone, Copy, Debug)]
pub enum Update<'a> {
    /// Its turn has come; in a dry run it is only looked at.
    Start {
        is_dry_run: bool,
    },
    /// A push begins; what an earlier one has told is over.
    Push,
    Event(&'a Event),
    /// The last try failed; another follows after a wait.
    Wait(&'a NextAttempt, &'a str),
    Finished(Ending<'a>),
}

/// How it ended.
#[derive(Clone, Copy, Debug)]
pub struct Ending<'a> {
    pub is_failure: bool,
    /// For people; of a failure what went wrong, and in a second line what to do. Empty: there is nothing to say.
    pub text: &'a str,
    /// The result as `--format json` has it.
    pub json: &'a str,
}

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// How things go; not with `--quiet`.
    Note,
    /// Shown in every mode.
    Notice,
    Warning,
    /// Belongs to a question: shown at once, also while all else is held back.
    Asking,
}

/// Images are identified by their index in the order asked, from 0.
pub trait Presenter {
    fn show(&mut self, at: usize, update: &Update<'_>);

    /// A line about an image, or about the call as a whole.
    fn say(&mut self, at: Option<usize>, level: Level, line: &str);

    /// Time has passed: [`period`](Self::period) of it.
    fn tick(&mut self, _now: Instant) {}

    /// How often [`tick`](Self::tick) is wanted; `None`: never.
    fn period(&self) -> Option<Duration> {
        None
    }

    /// Somebody is being asked at the terminal: until that is over nothing else is written there.
    fn hold(&mut self, is_asking: bool);

    /// Clears the lines that are redrawn until the next tick, so that other text can be written.
    fn clear(&mut self) {}

    /// Wants [`Event::Object`].
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

    /// The terminal is a question's, until what this returns is dropped.
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
        // A tick that was kept back would show old figures.
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
