//! The outcome of a push, and the facts about it.

use crate::credentials::login::Login;
use crate::event::{Event, Narrowed};
use crate::oci::Descriptor;
use crate::present::presenter::{ImageReporter, Level, Update};
use crate::progress::Progress;
use crate::push::dry_run::Findings;
use crate::push::platforms::Platforms;

/// How a push succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Pushed,
    /// The tag named this image already.
    Unchanged,
    /// The tag was there, and was not replaced (`--if-exists skip`).
    Skipped,
    /// A push would succeed (`--dry-run`).
    WouldPush,
}

/// An image that is in its registry, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub status: Status,
    /// The manifest that the tag names; `None` before a push.
    pub named: Option<Descriptor>,
}

impl Outcome {
    pub fn new(status: Status, named: impl Into<Option<Descriptor>>) -> Self {
        Self { status, named: named.into() }
    }
}

/// The result of an upload.
pub struct Uploaded {
    pub descriptor: Descriptor,
    /// The engine sent one platform instead of all.
    pub narrowed: Option<Narrowed>,
}

/// The facts about a push when it ends, with or without success.
#[derive(Debug, Default)]
pub struct Record {
    /// Uploads that were begun, also with other credentials.
    pub attempts: u32,
    /// Why attempts with the present credentials failed.
    pub failures: Vec<String>,
    pub progress: Progress,
    pub login: Option<Login>,
    /// The manifest that was pushed, as the engine reports it.
    pub pushed: Option<Descriptor>,
    /// The platforms of an image for several.
    pub platforms: Option<Platforms>,
    /// Whether the registry serves the image, if it was asked.
    pub verified: Option<bool>,
    pub findings: Option<Findings>,
    pub warnings: Vec<String>,
}

/// Where the parts of one push report to.
pub struct ImageLog<'a> {
    pub reporter: ImageReporter<'a>,
    pub record: &'a mut Record,
}

impl ImageLog<'_> {
    /// Shows an event of an upload and adds it to the progress; `true` if the progress has changed.
    pub fn record_event(&mut self, event: &Event) -> bool {
        self.reporter.show(&Update::Event(event));
        self.record.progress.apply(event)
    }

    pub fn note(&self, line: &str) {
        self.reporter.note(line);
    }

    /// Shows a warning and adds it to the record, unless an earlier attempt has.
    pub fn warn(&mut self, warning: String) {
        if self.record.warnings.contains(&warning) {
            return;
        }
        self.reporter.say(Level::Warning, &warning);
        self.record.warnings.push(warning);
    }
}
