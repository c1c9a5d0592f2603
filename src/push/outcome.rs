//! The outcome of a push, and the record of facts about the push.

use crate::credentials::login::Login;
use crate::event::{Event, Narrowed};
use crate::oci::Descriptor;
use crate::present::presenter::{ImageReporter, Level, Update};
use crate::progress::Progress;
use crate::push::dry_run::Findings;
use crate::push::platforms::Platforms;

/// The kinds of success of a push or of a dry run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Pushed,
    /// The tag in the registry already named the image.
    Unchanged,
    /// The tag existed in the registry, and was not replaced (`--if-exists skip`).
    Skipped,
    /// The dry run found that a push would upload the image (`--dry-run`).
    WouldPush,
}

/// The result of a successful push, or of a dry run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub status: Status,
    /// The manifest that the tag names in the registry. `None` for [`Status::WouldPush`].
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
    /// Set if the engine pushed the manifest of one platform instead of the index.
    pub narrowed: Option<Narrowed>,
}

/// The facts about one push, for the report of a success or of a failure.
#[derive(Debug, Default)]
pub struct Record {
    /// Whether the last upload went through the relay.
    pub is_relayed: bool,
    /// The number of uploads that were started, with any credentials.
    pub attempts: u32,
    /// The reasons why the attempts with the current credentials failed.
    pub failures: Vec<String>,
    pub progress: Progress,
    pub login: Option<Login>,
    /// The manifest that the engine pushed, as reported by the engine.
    pub pushed: Option<Descriptor>,
    /// The platforms of the image, if the image has several platforms.
    pub platforms: Option<Platforms>,
    /// Whether the registry serves the image. `None`: the push was not verified.
    pub verified: Option<bool>,
    pub findings: Option<Findings>,
    pub warnings: Vec<String>,
}

impl Record {
    /// Returns the route of the last upload, as JSON output names it.
    pub fn route(&self) -> &'static str {
        if self.is_relayed { "relay" } else { "engine" }
    }
}

/// The reporter and the record of one push.
pub struct ImageLog<'a> {
    pub reporter: ImageReporter<'a>,
    pub record: &'a mut Record,
}

impl ImageLog<'_> {
    /// Shows an event of an upload and updates the progress. Returns whether the progress has changed.
    pub fn record_event(&mut self, event: &Event) -> bool {
        self.reporter.show(&Update::Event(event));
        self.record.progress.apply(event)
    }

    pub fn note(&self, line: &str) {
        self.reporter.note(line);
    }

    /// Shows a line, and adds a warning to the record.
    pub fn tell(&mut self, level: Level, line: String) {
        match level {
            Level::Warning => self.warn(line),
            level => self.reporter.say(level, &line),
        }
    }

    /// Shows a warning and adds the warning to the record, unless the record already contains the warning.
    pub fn warn(&mut self, warning: String) {
        if self.record.warnings.contains(&warning) {
            return;
        }
        self.reporter.say(Level::Warning, &warning);
        self.record.warnings.push(warning);
    }
}
