//! Writes the result of a push to stdout, for scripts.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use crate::cli::Format;
use crate::error::{Error, ErrorReport};
use crate::palette::Palette;
use crate::progress::LayerCounts;
use crate::push::dry_run::Findings;
use crate::push::outcome::{Outcome, Record, Status};
use crate::push::platforms::Platforms;
use crate::reference::Reference;
use crate::text::{counted, human_size};

/// One line of the output of `--format json`. The format is public: fields may be added, but never renamed.
#[derive(Serialize)]
struct Line<'a> {
    /// The canonical reference of the image, such as `docker.io/library/app:1`. If the typed image is not a valid
    /// reference, the image as typed.
    reference: String,
    /// The same as `reference`, under the name that events use too.
    destination: String,
    name: Option<String>,
    tag: Option<&'a str>,
    status: &'static str,
    /// The route of the last upload: `engine`, or `relay` if the plugin uploads the image.
    route: &'static str,
    digest: Option<&'a str>,
    /// Size of the manifest, in bytes.
    size: Option<u64>,
    layers: LayerCounts,
    /// Number of sent bytes, as reported by the engine or counted by the relay.
    bytes: u64,
    attempts: u32,
    seconds: f64,
    /// Whether the registry serves the pushed image; `null` if the plugin did not check.
    verified: Option<bool>,
    credentials: Option<LineCredentials<'a>>,
    /// Platforms of a multi-platform image; omitted if the engine does not report platforms.
    #[serde(skip_serializing_if = "Option::is_none")]
    platforms: Option<&'a Platforms>,
    /// Findings of `--dry-run`; omitted without that option.
    #[serde(skip_serializing_if = "Option::is_none")]
    dry_run: Option<&'a Findings>,
    warnings: &'a [String],
    error: Option<ErrorReport>,
}

#[derive(Serialize)]
struct LineCredentials<'a> {
    source: String,
    username: Option<&'a str>,
}

/// The result of the push of one image, with the image as typed and the parsed reference.
pub struct Report<'a> {
    pub typed: &'a str,
    pub reference: Option<&'a Reference>,
    pub record: &'a Record,
    pub elapsed: Duration,
    pub result: &'a Result<Outcome, Error>,
}

impl Report<'_> {
    /// Writes the result of the image to `out`. With `--format json`, writes one line of JSON. With `--format ref`,
    /// writes `NAME@DIGEST` or the findings of a dry run, and nothing for a failed image.
    ///
    /// # Errors
    /// stdout is closed or full.
    pub fn print(&self, format: Format) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match (format, self.result, self.reference) {
            (Format::Ref, Ok(outcome), Some(reference)) => match (&self.record.findings, &outcome.named) {
                (Some(findings), _) => {
                    self.write_findings(findings, reference, outcome.status, &mut out)?;
                }
                (None, Some(named)) => {
                    let digest = Palette::of(&out).dim(&format!("@{}", named.digest));
                    writeln!(out, "{}{digest}", reference.repository())?;
                }
                (None, None) => {}
            },
            (Format::Ref, ..) => {}
            (Format::Json, ..) => {
                writeln!(out, "{}", self.json())?;
            }
        }
        out.flush()
    }

    /// Returns the result as a line of `--format json`, without the line end.
    pub fn json(&self) -> String {
        serde_json::to_string(&self.line()).expect("texts and numbers make JSON")
    }

    /// Writes the findings of a dry run, one per line.
    fn write_findings(
        &self,
        findings: &Findings,
        reference: &Reference,
        status: Status,
        out: &mut impl Write,
    ) -> io::Result<()> {
        /// Number of hexadecimal digits shown of a layer's digest. Engines show the same number of digits.
        const SHORT: usize = 12;
        let short = |digest: &String| {
            digest.rsplit(':').next().unwrap_or_default().chars().take(SHORT).collect::<String>()
        };
        let mut line = |name: &str, value: String| writeln!(out, "{name:<13}{value}");
        let count = findings.layers.len();
        let layers = counted(count, "layer");
        line("Image:", reference.familiar())?;
        line("ID:", format!("{}, {}, {layers}", findings.id, human_size(findings.size)))?;
        let who = match &self.record.login {
            Some(login) if !login.anonymous => login.describe(),
            _ => "none".to_owned(),
        };
        line("Credentials:", format!("{who}; can write to {}", reference.familiar_repository()))?;
        let tag = match &findings.tag_names {
            None if findings.unknown.is_some() => "cannot be looked up".to_owned(),
            None => "does not exist".to_owned(),
            Some(digest) if findings.is_same => format!("points to this image, {digest}"),
            Some(digest) => format!("points to another image, {digest}"),
        };
        line("Tag:", format!("{} {tag}", reference.tag_or_latest()))?;
        let missing: Vec<String> = findings.missing_layers.iter().map(short).collect();
        let missing = match missing.len() {
            0 => "all exist".to_owned(),
            number => format!("{number} of {count} missing: {}", missing.join(", ")),
        };
        line("Layers:", missing)?;
        let end = match status {
            Status::Unchanged => "unchanged, nothing to push",
            Status::Skipped => "skipped, the tag exists",
            Status::Pushed | Status::WouldPush => "would be pushed",
        };
        line("Result:", format!("{end}; nothing was sent"))
    }

    fn line(&self) -> Line<'_> {
        let outcome = self.result.as_ref().ok();
        let named = outcome.and_then(|outcome| outcome.named.as_ref());
        let credentials = self.record.login.as_ref();
        let reference = self.reference.map_or_else(|| self.typed.to_owned(), Reference::canonical);
        Line {
            destination: reference.clone(),
            reference,
            name: self.reference.map(Reference::repository),
            tag: self.reference.map(Reference::tag_or_latest),
            status: match outcome.map(|outcome| outcome.status) {
                Some(Status::Pushed) => "pushed",
                Some(Status::Unchanged) => "unchanged",
                Some(Status::Skipped) => "skipped",
                Some(Status::WouldPush) => "would_push",
                None => "failed",
            },
            route: self.record.route(),
            digest: named.map(|named| named.digest.as_str()),
            size: named.map(|named| named.size),
            layers: self.record.progress.counts(),
            bytes: self.record.progress.bytes().0,
            // `record.attempts` omits attempts that failed before the upload of layers; `record.failures` includes
            // these attempts.
            attempts: self.record.attempts.max(self.record.failures.len().try_into().unwrap_or(u32::MAX)),
            seconds: (self.elapsed.as_secs_f64() * 1000.0).round() / 1000.0,
            verified: self.record.verified,
            credentials: credentials.map(|login| LineCredentials {
                source: login.source.name(),
                username: login.username.as_deref(),
            }),
            platforms: self.record.platforms.as_ref(),
            dry_run: self.record.findings.as_ref(),
            warnings: &self.record.warnings,
            error: self.result.as_ref().err().map(ErrorReport::new),
        }
    }
}
