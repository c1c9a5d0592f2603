//! Stores and prints the results of the images that one run pushes, and a summary of all results.

use std::collections::HashSet;
use std::time::Duration;

use crate::cli::PushOptions;
use crate::command::push::report::Report;
use crate::error::Error;
use crate::present::presenter::{Ending, ImageReporter, Level, Reporter, Update};
use crate::print::{unless_closed, worded};
use crate::push::outcome::{Outcome, Record, Status};
use crate::push::target::Target;
use crate::reference::Reference;
use crate::text::{amount, counted, sanitize};

/// The images that one run of the plugin pushes, and the result of each image.
pub struct Results<'a> {
    pub options: &'a PushOptions,
    pub asked: Vec<Asked>,
    /// The result of each image, in the order of `asked`; `None` while the push of the image has not ended.
    pub ended: Vec<Option<Finished>>,
    /// Number of results written to stdout so far. Results are written in the order of `asked`.
    pub told: usize,
    /// The exit status of the first failed image in the order of `asked`; 0 if no image has failed.
    pub status: u8,
}

/// An image that the user wants to push.
pub struct Asked {
    pub typed: String,
    /// The image and its destination; `None` if `typed` is not a valid reference.
    pub target: Option<Target>,
}

/// The result of the push of one image.
pub struct Finished {
    pub result: Result<Outcome, Error>,
    pub record: Record,
    pub elapsed: Duration,
}

impl Asked {
    pub fn reference(&self) -> Option<&Reference> {
        self.target.as_ref().map(|target| &target.reference)
    }

    /// Returns the familiar reference of the image; if `typed` is not a valid reference, returns `typed`.
    pub fn name(&self) -> String {
        self.reference().map_or_else(|| sanitize(&self.typed), Reference::familiar)
    }

    pub fn canonical(&self) -> String {
        self.reference().map_or_else(|| sanitize(&self.typed), Reference::canonical)
    }
}

impl Results<'_> {
    /// Returns the registries of all images, without duplicates, in the order of `asked`.
    pub fn registries(&self) -> Vec<&str> {
        let mut seen = HashSet::new();
        let asked = self.asked.iter().filter_map(Asked::reference).map(Reference::domain);
        asked.filter(|registry| seen.insert(*registry)).collect()
    }

    pub fn report<'b>(
        &'b self,
        at: usize,
        record: &'b Record,
        elapsed: Duration,
        result: &'b Result<Outcome, Error>,
    ) -> Report<'b> {
        let Asked { typed, .. } = &self.asked[at];
        Report { typed, reference: self.asked[at].reference(), record, elapsed, result }
    }

    /// Stores the result of an image, and shows the result to the user.
    pub fn end(&mut self, at: usize, ended: Finished, reporter: &Reporter) {
        let Finished { result, record, elapsed } = &ended;
        let json = self.report(at, record, *elapsed, result).json();
        // After a successful dry run, the findings are printed to stdout instead of a summary.
        let text = if self.options.dry_run && result.is_ok() {
            String::new()
        } else {
            text(self.asked[at].reference(), record, result)
        };
        let ending = Ending { is_failure: result.is_err(), text: &text, json: &json };
        ImageReporter { reporter, at }.show(&Update::Finished(ending));
        self.ended[at] = Some(ended);
    }

    /// Writes results to stdout in the order of `asked`, up to the first unfinished image. Does nothing during a
    /// prompt. Clears the redrawn lines on stderr first, since stdout may lead to the same terminal, directly or
    /// through `tee`.
    pub fn write_out(&mut self, reporter: &Reporter) {
        let is_next_known = self.ended.get(self.told).is_some_and(Option::is_some);
        if !is_next_known || reporter.is_held() {
            return;
        }
        reporter.clear();
        while let Some(Some(Finished { result, record, elapsed })) = self.ended.get(self.told) {
            let report = self.report(self.told, record, *elapsed, result);
            let written = unless_closed(report.print(self.options.format));
            let failed = result.as_ref().err().map(Error::exit_status);
            self.told += 1;
            if self.status == 0 {
                self.status = failed.unwrap_or_default();
            }
            if let Err(error) = written {
                self.fail_to_write(&error, reporter);
            }
        }
    }

    /// Reports that a result could not be written. Sets the exit status, unless a failed push has already set the
    /// exit status.
    pub fn fail_to_write(&mut self, error: &Error, reporter: &Reporter) {
        reporter.say(Level::Notice, &worded(error));
        if self.status == 0 {
            self.status = error.exit_status();
        }
    }

    /// Returns the reference and digest of each image that is in its registry after the push. Returns nothing for a
    /// dry run.
    pub fn pushed(&self) -> Vec<(&Reference, &str)> {
        let pairs = self.asked.iter().zip(&self.ended);
        let pushed = pairs.filter_map(|(asked, ended)| {
            let named = ended.as_ref()?.result.as_ref().ok()?.named.as_ref()?;
            Some((asked.reference()?, named.digest.as_str()))
        });
        pushed.filter(|_| !self.options.dry_run).collect()
    }

    /// Prints a summary of several images: how many were pushed, and which images failed. Prints nothing for a single
    /// image.
    pub fn summarize(&self, reporter: &Reporter) {
        if self.asked.len() < 2 {
            return;
        }
        let ended = self.ended.iter().flatten();
        let outcomes: Vec<Option<&Outcome>> = ended.map(|ended| ended.result.as_ref().ok()).collect();
        let count = |fits: &dyn Fn(Option<Status>) -> bool| {
            outcomes.iter().filter(|outcome| fits(outcome.map(|outcome| outcome.status))).count()
        };
        let parts = [
            (count(&|status| status == Some(Status::Pushed)), "pushed"),
            (count(&|status| status == Some(Status::Unchanged)), "unchanged"),
            (count(&|status| status == Some(Status::Skipped)), "skipped"),
            (count(&|status| status == Some(Status::WouldPush)), "would be pushed"),
            (count(&|status| status.is_none()), "failed"),
            (self.asked.len() - outcomes.len(), "not pushed"),
        ];
        let parts = parts.iter().filter(|(number, _)| *number > 0);
        let parts: Vec<String> = parts.map(|(number, what)| format!("{number} {what}")).collect();
        let mut lines = vec![format!("{} images: {}", self.asked.len(), parts.join(", "))];
        for (asked, ended) in self.asked.iter().zip(&self.ended) {
            match ended.as_ref().map(|ended| &ended.result) {
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    lines.push(format!("  failed: {} ({})", asked.name(), error.class().name()));
                }
                None => lines.push(format!("  not pushed: {}", asked.name())),
            }
        }
        // If an image failed, the summary is shown even with `--quiet`, since the summary names the failed images.
        let level = if lines.len() > 1 { Level::Notice } else { Level::Note };
        lines.iter().for_each(|line| reporter.say(level, line));
    }
}

/// Returns the message for the user about the result of a push.
pub fn text(reference: Option<&Reference>, record: &Record, result: &Result<Outcome, Error>) -> String {
    let name = reference.map(Reference::familiar).unwrap_or_default();
    match result.as_ref().map(|outcome| outcome.status) {
        Err(error) => worded(error),
        Ok(Status::Unchanged) => format!("unchanged {name}: the tag already points to this image"),
        Ok(Status::Skipped) => format!("skipped {name}: the tag exists in the registry"),
        Ok(Status::Pushed | Status::WouldPush) => summary(&name, record),
    }
}

/// Returns a message such as `pushed app:1: 1 of 3 layers sent, 1 mounted, 21 MB in 1.3 s`. Omits numbers that the
/// engine did not report: podman reports no layers, and the containerd store reports no bytes for small layers.
fn summary(name: &str, record: &Record) -> String {
    let progress = &record.progress;
    let counts = progress.counts();
    let verified = if record.verified == Some(true) { ", verified" } else { "" };
    if counts.total > 0 && counts.exists == counts.total {
        return format!("pushed {name}: all layers already present{verified}");
    }
    let mut parts = Vec::new();
    if counts.total > 0 {
        let of = if counts.pushed == counts.total { String::new() } else { format!("{} of ", counts.pushed) };
        parts.push(format!("{of}{} sent", counted(counts.total, "layer")));
    }
    if counts.mounted > 0 {
        parts.push(format!("{} mounted", counts.mounted));
    }
    if counts.exists > 0 {
        parts.push(format!("{} already present", counts.exists));
    }
    if progress.bytes().0 > 0 {
        parts.push(amount(progress.bytes().0));
    }
    let told = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
    format!("pushed {name}{told} in {:.1}s{verified}", progress.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, LayerState};

    #[test]
    fn summarizes_the_layers_that_the_engine_reported() {
        let mounted = || LayerState::MountedFrom("x".to_owned());
        let pushing = LayerState::Pushing { current: 5, total: 10 };
        let table = [
            (vec![], "pushed app:1 in 0.0s"),
            (vec![LayerState::AlreadyExists], "pushed app:1: all layers already present"),
            (
                vec![LayerState::Pushed, LayerState::AlreadyExists],
                "pushed app:1: 1 of 2 layers sent, 1 already present in 0.0s",
            ),
            (vec![mounted()], "pushed app:1: 0 of 1 layer sent, 1 mounted in 0.0s"),
            (vec![mounted(), pushing], "pushed app:1: 0 of 2 layers sent, 1 mounted, 5 B in 0.0s"),
        ];
        for (states, want) in table {
            let mut record = Record::default();
            for (at, state) in states.into_iter().enumerate() {
                record.progress.apply(&Event::Layer { id: at.to_string(), state });
            }
            assert_eq!(summary("app:1", &record), want);
            record.verified = Some(true);
            assert_eq!(summary("app:1", &record), format!("{want}, verified"));
        }
    }
}
