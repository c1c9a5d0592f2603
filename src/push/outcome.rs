//! The outcome of a push, and the record of its facts.

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

/// The result of a successful push, or of a dry run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub status: Status,
    /// The manifest that the tag names. `None`: the image would be pushed (`--dry-run`).
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
    /// Set if the engine sent one platform instead of the index.
    pub narrowed: Option<Narrowed>,
}

/// The facts about a push, collected whether it succeeds or fails.
#[derive(Debug, Default)]
pub struct Record {
    /// How many uploads were started, with any credentials.
    pub attempts: u32,
    /// Why the attempts with the current credentials failed.
    pub failures: Vec<String>,
    pub progress: Progress,
    pub login: Option<Login>,
    /// The manifest that was pushed, as the engine reports it.
    pub pushed: Option<Descriptor>,
    /// The platforms, if the image is for several.
    pub platforms: Option<Platforms>,
    /// Whether the registry serves the image, if it was asked.
    pub verified: Option<bool>,
    pub findings: Option<Findings>,
    pub warnings: Vec<String>,
}

/// The reporter and the record of one push.
pub struct ImageLog<'a> {
    pub reporter: ImageReporter<'a>,
    pub record: &'a mut Record,
}

impl ImageLog<'_> {
    /// Shows an event of an upload and adds it to the progress. Returns whether the progress has changed.
    pub fn record_event(&mut self, event: &Event) -> bool {
        self.reporter.show(&Update::Event(event));
        self.record.progress.apply(event)
    }

    pub fn note(&self, line: &str) {
        self.reporter.note(line);
    }

    /// Shows a warning and adds it to the record, unless an earlier attempt has done so.
    pub fn warn(&mut self, warning: String) {
        if self.record.warnings.contains(&warning) {
            return;
        }
        self.reporter.say(Level::Warning, &warning);
        self.record.warnings.push(warning);
    }
}
