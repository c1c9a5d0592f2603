//! The use case: one image to its registry, with the conversation that a refusal leads to.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, join, join_all, select};
use humantime::format_duration;
use hyper::StatusCode;
use serde::Serialize;
use tokio::sync::{Mutex, MutexGuard, oneshot};
use tokio::time::Instant;

use crate::cli::{IfExists, PushOptions, Verify};
use crate::credentials::Credentials;
use crate::credentials::keyring::{Keyring, LookedUp};
use crate::credentials::login::{Login, SHADOWS, Source, docker_login};
use crate::credentials::prompt::Terminal;
use crate::dry_run::{self, Findings};
use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::engine::images::{ImageInspect, ImageSummary, LocalManifest};
use crate::engine::push::PushRequest;
use crate::engine::tag::{Removed, TemporaryTag};
use crate::event::{Event, LayerState, Narrowed};
use crate::failure::{Class, Evidence, classify, stalled};
use crate::gate::{ActiveCredentials, Gate, Pass};
use crate::login::{LoginError, QUESTIONS, Question};
use crate::oci::Descriptor;
use crate::platform::{Platform, PlatformSelection};
use crate::present::presenter::{ImageReporter, Level, Reporter, Update};
use crate::progress::Progress;
use crate::reference::Reference;
use crate::remote::{Cause, QueryError, RegistryPool, Seen, Subject, inspect, inspect_all};
use crate::retry::{AttemptFailure, NextAttempt, RetryBudget, is_transient, root_cause};
use crate::target::Target;
use crate::text::{sanitize, with_causes};
use crate::watchdog::Watchdog;

/// After a refusal the engine has nothing more to say that matters.
const AFTER_REFUSAL: Duration = Duration::from_secs(2);
/// How long the engine may take to list its images, where that only makes a message better.
const ASIDE: Duration = Duration::from_secs(2);
/// A push may be over as soon, above all where nothing is to be sent. To look at an image takes docker's
/// containerd store half as long, and what the registry then shows may make it needless.
const SHORT: Duration = Duration::from_millis(100);
/// How long the engine may take to ask the registry what it did not say itself.
const CONFIRMATION: Duration = Duration::from_secs(30);
/// A registry of several machines may not know at once on all of them what was pushed to one.
const SETTLING: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];
/// Names of local images offered in place of one that is not there.
const MAX_SIMILAR: usize = 3;

#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// The engine went away in the middle, or does not talk as one.
    #[error("cannot push {reference}")]
    Engine {
        reference: String,
        #[source]
        source: EngineError,
    },
    /// The stream ended properly, and named no digest.
    #[error(
        "the engine ended the push of {reference} without confirming it: no digest for tag `{tag}`, and asking the registry did not confirm it"
    )]
    Unconfirmed { reference: String, tag: String },
    /// The registry has another image under the tag, and it was to stay (`--if-exists fail`).
    #[error(
        "{reference} is in the registry already, and names another image: {found}; the image here is {id}"
    )]
    Exists { reference: String, found: String, id: String },
    #[error("{reference} was pushed as {expected}, and {found}")]
    Unverified { reference: String, expected: String, found: Found },
    /// `--verify always`, and nobody could tell.
    #[error("{reference} was pushed, and what the registry serves could not be asked: {}", cause.reason())]
    Unverifiable { reference: String, cause: Cause },
    /// `--timeout`
    #[error("{reference} was {} within {}{}", match pushed {
        Some(digest) => format!("pushed as {digest}, and not verified"),
        None => "not pushed".to_owned(),
    }, format_duration(*after), last(failures))]
    /// `pushed`: the digest, if the engine named one.
    TimedOut { reference: String, after: Duration, pushed: Option<String>, failures: Vec<String> },
    /// The name that `--to` would give it.
    #[error("{reference} names another image here ({found}), and is not moved; the image to push is {id}")]
    Taken { reference: String, found: String, id: String },
    /// What was typed is no name in the engine, so there is nothing to put behind the destination.
    #[error("`{typed}` is the ID of an image here, and names no path and tag for {reference}")]
    Nameless { reference: String, typed: String },
    /// The engine cannot push one platform of an image.
    #[error("cannot push {reference} for one platform: {reason}")]
    NoPlatforms { reference: String, reason: String },
    /// `--platform all`, and the engine does not have all.
    #[error("not all of {reference} is in the engine: {} missing", platforms.join(", "))]
    Incomplete { reference: String, platforms: Vec<String> },
    /// The same, and nobody knew before.
    #[error(
        "{reference} was pushed as {digest}, one platform in place of the index, of which not all is in the engine"
    )]
    Narrowed { reference: String, digest: String },
    #[error(transparent)]
    Login(LoginError),
}

impl PushError {
    pub fn class(&self) -> Class {
        match self {
            Self::Refused(refusal) => refusal.cause.class(),
            Self::Engine { source, .. } => source.class(),
            Self::Unconfirmed { .. } | Self::NoPlatforms { .. } => Class::Engine,
            Self::Exists { .. } => Class::Exists,
            Self::Unverified { .. } => Class::Unverified,
            Self::Unverifiable { cause, .. } => cause.class(),
            Self::TimedOut { .. } => Class::Stalled,
            Self::Taken { .. } => Class::Other,
            Self::Nameless { .. } => Class::Reference,
            Self::Incomplete { .. } | Self::Narrowed { .. } => Class::ContentMissing,
            Self::Login(error) => error.class(),
        }
    }

    /// What to type or to change next.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Taken { reference, .. } => {
                return Some(format!(
                    "if that name is not needed any more, `docker rmi {reference}`; else push under another"
                ));
            }
            Self::Nameless { typed, .. } => {
                return Some(format!(
                    "name the destination in full: `docker regpush {typed} --to HOST/PATH:TAG`"
                ));
            }
            Self::NoPlatforms { .. } => {
                "leave out --platform, or use another engine (`docker -c CONTEXT regpush …`)"
            }
            Self::Incomplete { .. } | Self::Narrowed { .. } => {
                "get the rest of it with `docker pull --platform`, or push what is here without `--platform all`"
            }
            Self::Engine { source, .. } => return source.hint(),
            Self::Refused(refusal) => return refusal.hint(),
            Self::Unconfirmed { .. } => "look into the engine's log, and push again",
            Self::Exists { .. } => "push another tag; or replace it with `--if-exists update`",
            Self::Unverified { found, .. } => match found {
                Found::Another(_) => {
                    "somebody may have pushed to this tag at the same time: see who, and push again"
                }
                Found::Nothing | Found::Incomplete(_) => {
                    "the registry has lost it: look into its log and storage, and push again"
                }
            },
            Self::Unverifiable { cause, .. } => return cause.hint(),
            Self::TimedOut { .. } => "look into the log of the registry; `--timeout` sets another limit",
            Self::Login(error) => return error.hint(),
        };
        Some(hint.to_owned())
    }
}

/// What a registry serves in place of what was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    /// A digest.
    Another(String),
    /// Digests of what is missing.
    Incomplete(Vec<String>),
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("the registry has nothing under this tag"),
            Self::Another(digest) => write!(f, "the tag names {digest} in the registry"),
            Self::Incomplete(missing) => {
                let more = missing.len().saturating_sub(1);
                let more = if more > 0 { format!(" and {more} more are") } else { " is".to_owned() };
                write!(
                    f,
                    "the registry does not have all of it: {}{more} missing",
                    missing.first().map_or("", String::as_str)
                )
            }
        }
    }
}

/// How a push ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Pushed,
    /// The tag named this image already.
    Unchanged,
    /// The tag was there, and is left alone, as asked for.
    Skipped,
    /// All would go well (`--dry-run`).
    WouldPush,
}

/// An image that is in its registry, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub status: Status,
    /// What the tag names; not known of what is not yet pushed.
    pub named: Option<Descriptor>,
}

impl Outcome {
    fn new(status: Status, named: impl Into<Option<Descriptor>>) -> Self {
        Self { status, named: named.into() }
    }
}

/// A push that engine or registry refused, with all that explains it.
#[derive(Debug)]
pub struct Refusal {
    pub cause: Cause,
    pub reference: Reference,
    pub login: Login,
    /// What may have been meant, if the image was not found.
    pub suggestion: Option<Suggestion>,
    /// Why each try failed, this one among them.
    pub failures: Vec<String>,
    /// The image has another name in the engine, and was to be tagged as this reference.
    pub is_renamed: bool,
}

impl Refusal {
    /// What to type or to change next.
    pub fn hint(&self) -> Option<String> {
        let reference = &self.reference;
        if let Cause::Registry(error) = &self.cause {
            return error.hint();
        }
        if let Some(suggestion) = &self.suggestion {
            return Some(suggestion.hint(&reference.familiar()));
        }
        let is_refused_login = matches!(self.cause.class(), Class::Auth | Class::Denied);
        if let Some(hint) = self.login.broken_hint().filter(|_| self.login.anonymous && is_refused_login) {
            return Some(hint.to_owned());
        }
        if self.login.source == Source::Variable && self.cause.class() == Class::Auth {
            return Some(SHADOWS.to_owned());
        }
        if self.login.source == Source::CommandLine && self.cause.class() == Class::Auth {
            let hint = if self.login.anonymous {
                "leave out --anonymous"
            } else {
                "check --username, and the password given on stdin"
            };
            return Some(hint.to_owned());
        }
        if self.cause.class() == Class::NotFound && self.is_renamed {
            return Some("see what is here with `docker images`".to_owned());
        }
        if self.cause.class() == Class::NotFound && looks_like_id(reference) {
            return Some(format!(
                "that looks like an image ID; name it first: `docker tag {} HOST/PATH:TAG`",
                reference.tag().map_or_else(|| reference.familiar_repository(), |_| reference.familiar())
            ));
        }
        let hint = self.cause.verdict().hint;
        let hint = hint.replace("docker login {registry}", &docker_login(reference.domain()));
        let filled = hint.replace("{registry}", reference.domain());
        let filled = filled.replace("{repository}", &reference.familiar_repository());
        Some(filled.replace("{tag}", reference.tag_or_latest()))
    }
}

/// What the last try ended with, if one had ended.
fn last(tries: &[String]) -> String {
    tries.last().map(|reason| format!("; the last try ended with: {reason}")).unwrap_or_default()
}

/// ` after 6 tries (1: …; 2 to 6: …)`, if there was more than one.
fn told(tries: &[String]) -> String {
    match tries {
        [] | [_] => return String::new(),
        [first, rest @ ..] if rest.iter().all(|other| other == first) => {
            return format!(" after {} tries, each time the same", tries.len());
        }
        _ => {}
    }
    let mut first = 1;
    let same = tries.chunk_by(|a, b| a == b).map(|same| {
        let last = first + same.len() - 1;
        let which = if first == last { format!("{first}") } else { format!("{first} to {last}") };
        first = last + 1;
        format!("{which}: {}", same[0])
    });
    let same: Vec<String> = same.collect();
    format!(" after {} tries ({})", tries.len(), same.join("; "))
}

/// In place of an image that is not here.
#[derive(Debug, PartialEq, Eq)]
pub enum Suggestion {
    /// Local images with nearly this name, the nearest first.
    Near(Vec<String>),
    /// The image is here, under a name without this registry.
    Tag(String),
}

impl Suggestion {
    /// The hint for a name that the engine does not have.
    pub fn hint(&self, wanted: &str) -> String {
        match self {
            Self::Near(names) => format!("did you mean {}?", names.join(" or ")),
            Self::Tag(name) => format!("name it for the registry first: `docker tag {name} {wanted}`"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reference, login, cause, failures, .. } = self;
        let registry = reference.domain();
        write!(f, "cannot push {}{}: ", reference.familiar(), told(failures))?;
        let Cause::Engine { verdict, reason } = cause else { return f.write_str(&cause.reason()) };
        match verdict.class {
            Class::Auth if login.anonymous => {
                write!(f, "{registry} wants a login, and {}: {reason}", login.describe_nothing())
            }
            Class::Denied if login.anonymous => {
                write!(
                    f,
                    "{registry} does not allow it without a login, and {}: {reason}",
                    login.describe_nothing()
                )
            }
            Class::Auth => write!(f, "{registry} does not accept {}: {reason}", login.describe()),
            Class::Denied => write!(f, "{registry} does not allow it to {}: {reason}", login.describe()),
            Class::NotFound => write!(f, "no such image in the engine: {reason}"),
            _ => f.write_str(reason),
        }
    }
}

/// What is known of a push when it ends, however it ends.
#[derive(Debug, Default)]
pub struct Record {
    /// Pushes that were begun, those with another login among them.
    pub attempts: u32,
    /// Why each try that failed did, where another may follow.
    pub failures: Vec<String>,
    pub progress: Progress,
    pub login: Option<Login>,
    /// What the engine says that it pushed.
    pub pushed: Option<Descriptor>,
    /// Of an image for several.
    pub platforms: Option<Platforms>,
    /// Whether the registry serves the image, if it was asked.
    pub verified: Option<bool>,
    pub findings: Option<Findings>,
    pub warnings: Vec<String>,
}

/// What an image for several platforms is made of, and what of it goes to the registry. As JSON part of a
/// public format: fields may be added, never renamed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Platforms {
    /// As far as the engine tells before the push; then, what it did tell.
    pub sent: Vec<String>,
    /// Parts of the image that are not in the engine.
    pub missing: Vec<String>,
    /// Attestations and the like that go along.
    pub others: usize,
    /// How many platforms the image is for.
    pub all: usize,
}

impl Platforms {
    /// What a push would send. `None`: the image is for one platform alone, or the engine does not tell; or it
    /// has not what is wanted, as the engine will say.
    ///
    /// An engine that does not have all pushes one platform in place of all, if there is one that it would
    /// choose (moby `daemon/containerd/image_push.go`).
    fn of(manifests: &[LocalManifest], wanted: Option<&Platform>) -> Option<Self> {
        let is_wanted = |platform: &Platform| wanted.is_none_or(|wanted| platform.is(wanted));
        let images =
            manifests.iter().filter_map(|manifest| Some((manifest.platform.as_ref()?, manifest.is_here)));
        let here = images.clone().filter(|(platform, is_here)| *is_here && is_wanted(platform));
        let missing = images.clone().filter(|(_, is_here)| !is_here);
        let named = |(platform, _): (&Platform, bool)| platform.to_string();
        let all = images.count();
        let others = manifests.len() - all;
        let found = Self {
            sent: here.map(named).collect(),
            missing: missing.map(named).collect(),
            others: if wanted.is_some() { 0 } else { others },
            all,
        };
        (all + others > 1 && !found.sent.is_empty()).then_some(found)
    }

    /// The same, for people.
    fn announce(&self, wanted: Option<&Platform>) -> String {
        let others = match self.others {
            0 => String::new(),
            1 => " and 1 attestation".to_owned(),
            others => format!(" and {others} attestations"),
        };
        let sent = self.sent.join(", ");
        match (wanted, self.missing.as_slice()) {
            (Some(wanted), _) => {
                format!("of an image for {} platforms only {wanted} is sent, without attestations", self.all)
            }
            (None, []) => format!("an image for {sent}{others}: all of it is sent"),
            (None, missing) => format!(
                "an image for several platforms: {sent} here, {} missing; unless the registry has that already, one platform is sent in place of all, without attestations",
                missing.join(", ")
            ),
        }
    }
}

/// What the pushes of a call share.
pub struct Session<'a> {
    pub options: &'a PushOptions,
    pub keyring: Keyring,
    /// Whom to ask for a login; nobody with `--no-prompt`.
    pub terminal: Option<Terminal>,
    /// Held by who gives a name to an image or takes it away: podman 4.3 loses names where two do so at once.
    pub naming: Mutex<()>,
    /// Held by who has the terminal: a question, or a credential helper that may ask one.
    pub dialogue: Mutex<()>,
    /// By the domain of the registry.
    pub gates: HashMap<String, Gate>,
    /// The registries, where the engine cannot ask them, or not as soon.
    pub remote: RegistryPool,
    /// An upload that hangs outlives its push.
    pub detours: RefCell<Detours>,
    /// Names that were given in this call, canonical: they go, so no image counts on them.
    pub made: RefCell<HashSet<String>>,
}

impl Session<'_> {
    /// The terminal, for a helper that may ask something there; `None`: nobody is at one.
    async fn dialogue(&self) -> Option<MutexGuard<'_, ()>> {
        match self.keyring.helper_timeout {
            Some(_) => None,
            None => Some(self.dialogue.lock().await),
        }
    }

    /// What the keyring holds for a registry.
    async fn look_up(&self, registry: &str, reporter: &Reporter) -> LookedUp {
        let dialogue = self.dialogue().await;
        let held = dialogue.is_some().then(|| reporter.hold());
        let found = self.keyring.look_up(registry, |line| reporter.say(Level::Asking, line)).await;
        drop((held, dialogue));
        found
    }

    /// Looks up the logins for the pushes that will want them: a helper may take its time, and the engine too.
    ///
    /// * `registries`: each once, in the order in which somebody may be asked by their helpers.
    pub async fn prefetch_credentials(&self, registries: &[String], reporter: &Reporter) {
        let ahead = registries.iter().map(async |registry| {
            let mut pass = self.gates[registry].enter().await;
            // The engine may have been faster, and a push too.
            if pass.is_empty() {
                pass.ahead = Some(self.look_up(registry, reporter).await);
            }
        });
        join_all(ahead).await;
    }
}

/// One image on its way.
pub struct Push<'a> {
    session: &'a Session<'a>,
    target: &'a Target,
    reference: &'a Reference,
    options: &'a PushOptions,
    engine: &'a mut Engine,
    gate: &'a Gate,
    /// Nobody else may try this login, or ask for another.
    pass: Option<Pass<'a>>,
    /// The name at hand under which it goes round a stall.
    detour: Option<TemporaryTag>,
    /// What an image for several platforms is made of was said, or there is nothing to say.
    is_announced: bool,
    /// What is left of `--timeout`: neither questions count nor waiting for other images.
    time_left: Option<Duration>,
    reporter: ImageReporter<'a>,
    record: &'a mut Record,
}

/// Other names for the registry, taken after a stall in docker's classic store.
///
/// That store has one upload of a layer to a repository at a time, whoever wants it, and one that hangs in a
/// connection it never gives up (docker 20.10 and 28: measured). Another push of the same name would wait for
/// it for ever; under another name for the registry it is another upload.
#[derive(Debug, Default)]
pub struct Detours {
    /// By repository: names that are blocked, its own first.
    blocked: HashMap<String, u32>,
    /// Uploads of this call that hang.
    hanging: u32,
    /// Registries that the engine does not reach under another name.
    closed: HashSet<String>,
}

impl Detours {
    /// Each upload that hangs takes one of the five places that the engine has for uploads (dockerd's
    /// `--max-concurrent-uploads`), for as long as its connection lasts: two are left for others.
    const MOST: u32 = 2;

    fn blocked(&self, reference: &Reference) -> u32 {
        self.blocked.get(&reference.repository()).copied().unwrap_or_default()
    }

    /// An upload hangs, of a push that was begun when so many names were blocked. Of several that were begun
    /// at once all wait for the same.
    fn hangs(&mut self, reference: &Reference, blocked_before: u32) {
        let blocked = self.blocked.entry(reference.repository()).or_default();
        if *blocked == blocked_before {
            *blocked += 1;
            self.hanging += 1;
        }
    }

    /// Which of the registry's other names is next; `None`: its own will do, or none would help.
    fn next(&self, reference: &Reference) -> Option<u32> {
        let is_possible = self.hanging <= Self::MOST && !self.closed.contains(reference.domain());
        Some(self.blocked(reference)).filter(|blocked| is_possible && *blocked > 0)
    }

    /// Tries that may help after a stall; `None`: any number, nothing hangs.
    fn left(&self, reference: &Reference) -> Option<u32> {
        self.blocked.get(&reference.repository())?;
        let is_closed = self.closed.contains(reference.domain());
        Some(if is_closed { 0 } else { (Self::MOST + 1).saturating_sub(self.hanging) })
    }
}

/// Why a try did not get there.
enum AttemptError {
    /// Another try, or another login, may.
    Retryable(Cause),
    /// Nothing will.
    Fatal(PushError),
}

impl From<PushError> for AttemptError {
    fn from(error: PushError) -> Self {
        Self::Fatal(error)
    }
}

impl From<Cause> for AttemptError {
    fn from(cause: Cause) -> Self {
        Self::Retryable(cause)
    }
}

impl<'a> Push<'a> {
    pub fn new(
        session: &'a Session<'a>,
        target: &'a Target,
        engine: &'a mut Engine,
        reporter: ImageReporter<'a>,
        record: &'a mut Record,
    ) -> Self {
        let reference = &target.reference;
        Self {
            session,
            target,
            reference,
            options: session.options,
            engine,
            gate: &session.gates[reference.domain()],
            pass: None,
            detour: None,
            is_announced: false,
            time_left: session.options.timeout.filter(|timeout| !timeout.is_zero()),
            reporter,
            record,
        }
    }

    /// Pushes the image, under the name that it is to have there; a name that it did not have before goes
    /// away again, however this ends.
    ///
    /// # Errors
    /// [`PushError`]; the record tells how far it came.
    pub async fn run(mut self) -> Result<Outcome, PushError> {
        self.reporter.show(&Update::Start { is_dry_run: self.options.dry_run });
        if self.platform().is_some()
            && let Some(reason) =
                self.engine.lacks_platforms().await.map_err(|error| self.engine_error(error))?
        {
            return Err(PushError::NoPlatforms { reference: self.reference.familiar(), reason });
        }
        let tag = match self.in_time(Self::ensure_tag).await? {
            Ok(tag) => tag,
            Err(AttemptError::Fatal(error)) => return Err(error),
            Err(AttemptError::Retryable(cause)) => {
                return Err(PushError::Refused(Box::new(
                    self.refusal(cause, ActiveCredentials::nobody().login).await,
                )));
            }
        };
        let result = self.push_with_auth().await;
        // Of a try that was given up in the middle.
        if let Some(detour) = self.detour.take() {
            self.untag(detour).await;
        }
        if let Some(tag) = tag {
            self.untag(tag).await;
        }
        result
    }

    /// Does this within what is left of the time.
    async fn in_time<T>(&mut self, work: impl AsyncFnOnce(&mut Self) -> T) -> Result<T, PushError> {
        let Some(left) = self.time_left else { return Ok(work(self).await) };
        let started = Instant::now();
        let done = tokio::time::timeout(left, work(self)).await;
        self.time_left = Some(left.saturating_sub(started.elapsed()));
        done.map_err(|_| {
            // With its connection the engine stops.
            self.engine.hang_up();
            let pushed = self.record.pushed.as_ref().map(|pushed| pushed.digest.clone());
            let tries = self.record.failures.clone();
            let after = self.options.timeout.unwrap_or_default();
            PushError::TimedOut { reference: self.reference.familiar(), after, pushed, failures: tries }
        })
    }

    /// Looks at the image where that is needed before the push, and gives it the name that it is to be
    /// pushed under. `None`: it has that, or keeps it.
    async fn ensure_tag(&mut self) -> Result<Option<TemporaryTag>, AttemptError> {
        let nobody = ActiveCredentials::nobody();
        let subject = self.subject(&nobody);
        let target = self.target;
        if !target.is_renamed() {
            // Where that decides nothing it can be done while the engine pushes, if another connection to it
            // costs nothing. That the image is not here, the push will say.
            let decides = self.options.platform.is_some() || self.options.dry_run;
            self.is_announced = !self.engine.tells_platforms();
            if !self.is_announced
                && (decides || self.engine.is_connect_expensive())
                && let Ok(image) = self.engine.inspect(subject.local_name).await
            {
                self.announce(&image)?;
            }
            return Ok(None);
        }
        let image = inspect_all(self.engine, &subject).await;
        let image = self.answer(image)?;
        let is_called = |name: &Reference| {
            let own =
                |own: &String| own.parse::<Reference>().is_ok_and(|own| own.canonical() == name.canonical());
            image.names.iter().any(own)
        };
        let reference = self.reference;
        if target.stands_for.as_ref().is_some_and(|name| !is_called(name)) {
            let typed = target.local_name.clone();
            return Err(PushError::Nameless { reference: reference.familiar(), typed }.into());
        }
        self.announce(&image)?;
        if is_called(reference) {
            return Ok(None);
        }
        match self.engine.inspect(&reference.canonical()).await {
            Ok(other) if other.id != image.id => {
                let (found, id) = (other.id, image.id);
                return Err(PushError::Taken { reference: reference.familiar(), found, id }.into());
            }
            // Given to it just now, by somebody else.
            Ok(_) => return Ok(None),
            Err(EngineError::Answered { status: StatusCode::NOT_FOUND, .. }) => {}
            Err(error) => return Err(self.engine_error(error).into()),
        }
        if self.options.dry_run {
            return Ok(None);
        }
        let naming = self.session.naming.lock().await;
        let tag = self.engine.tag(&target.local_name, &image.id, reference).await;
        drop(naming);
        let tag = tag.map_err(|error| self.engine_error(error))?;
        if self.options.keep_tag {
            tag.keep();
            return Ok(None);
        }
        let mut made = self.session.made.borrow_mut();
        made.insert(reference.canonical());
        // Engines remove an image with its last name. That two of a call are there is no help: each would
        // go because of the other.
        let is_ours =
            |name: &String| name.parse::<Reference>().is_ok_and(|name| made.contains(&name.canonical()));
        if image.names.iter().all(is_ours) {
            let name = reference.familiar();
            let reason = "the image has no other name here, and would go with it";
            drop(made);
            self.warn(format!("the tag {name} stays: {reason}"));
            tag.keep();
            return Ok(None);
        }
        Ok(Some(tag))
    }

    /// Says what of an image for several platforms will be sent.
    fn announce(&mut self, image: &ImageInspect) -> Result<(), PushError> {
        self.is_announced = true;
        let Some(platforms) = Platforms::of(&image.manifests, self.platform()) else { return Ok(()) };
        if self.options.platform == Some(PlatformSelection::All) && !platforms.missing.is_empty() {
            let reference = self.reference.familiar();
            return Err(PushError::Incomplete { reference, platforms: platforms.missing });
        }
        self.reporter.note(&platforms.announce(self.platform()));
        self.record.platforms = Some(platforms);
        Ok(())
    }

    /// The engine sent one platform in place of all.
    fn tell_narrowed(&mut self, Narrowed { platform, digest, index }: Narrowed) {
        let what = platform.clone().unwrap_or_else(|| "the platform that is".to_owned());
        let platforms = self.record.platforms.get_or_insert_default();
        (platforms.sent, platforms.others) = (platform.into_iter().collect(), 0);
        self.warn(format!(
            "not every platform of the image is here; only {what} was pushed under this tag: {digest} in place of the index {index}"
        ));
    }

    /// The one that is wanted of several.
    fn platform(&self) -> Option<&'a Platform> {
        match &self.options.platform {
            Some(PlatformSelection::One(platform)) => Some(platform),
            Some(PlatformSelection::All) | None => None,
        }
    }

    fn subject<'b>(&self, active: &'b ActiveCredentials) -> Subject<'b>
    where
        'a: 'b,
    {
        let (local_name, platform) = (self.target.local_name.as_str(), self.platform());
        Subject { reference: self.reference, local_name, platform, active }
    }

    /// Pushes with what Docker holds for the registry. What breaks is tried again; what is refused for the
    /// login leads to a question, and with the answer to another push.
    async fn push_with_auth(&mut self) -> Result<Outcome, PushError> {
        let key = self.reference.credentials_key();
        let mut active = self.enter().await;
        let mut tries = RetryBudget::new(self.options.retries);
        let mut same_again = true;
        let mut questions = QUESTIONS;
        // That the registry took the login, said before the push could say it.
        let mut is_accepted = false;
        loop {
            if self.pass.is_none() && !self.gate.is_open() {
                // Nobody was let in so far, so this one has to be alone again.
                active = self.enter().await;
            }
            let trying = active.clone();
            let ActiveCredentials { number, credentials, login, .. } = &trying;
            self.record.login = Some(login.clone());
            let tried = self.in_time(async |push: &mut Self| push.attempt(&trying).await).await?;
            let cause = match tried {
                Ok(outcome) => {
                    self.gate.open(&mut self.pass);
                    if is_accepted {
                        self.keep(key, credentials).await;
                    }
                    return Ok(outcome);
                }
                Err(AttemptError::Fatal(error)) => return Err(error),
                Err(AttemptError::Retryable(cause)) => cause,
            };
            let class = cause.class();
            if class == Class::Rejected
                && let Some(named) = self.is_there_already(&trying).await
            {
                self.reporter.note("the registry refuses the tag, which names this image already");
                return Ok(Outcome::new(Status::Unchanged, named));
            }
            // A token can expire while layers move; the same login then gets a new one.
            if class == Class::Auth && !login.anonymous && same_again && self.record.progress.has_moved() {
                same_again = false;
                self.reporter.note("the login expired on the way; pushing on with the same");
                continue;
            }
            self.record.failures.push(root_cause(&cause.reason(), class));
            if !matches!(class, Class::Auth | Class::Denied) {
                // That has nothing to do with the login, so others may come.
                self.pass = None;
            }
            if let Some(again) = tries.after(&self.setback(&cause)) {
                self.in_time(async |push: &mut Self| push.wait(&again).await).await?;
                continue;
            }
            let refusal = self.refusal(cause, login.clone()).await;
            if is_accepted && class != Class::Auth {
                // The login is good, whatever else is wrong with this push.
                self.keep(key, credentials).await;
            }
            if matches!(class, Class::Auth | Class::Denied)
                && let Some(newer) = self.newer_than(*number).await
            {
                active = newer;
            } else {
                if !self.may_ask(&refusal, questions) {
                    if login.source == Source::Prompt {
                        self.gate.may_ask.set(false);
                    }
                    return Err(PushError::Refused(Box::new(refusal)));
                }
                let (typed, was_checked) = self.ask(&refusal, &mut questions).await?;
                is_accepted = was_checked;
                let login = Login::new(&typed, Source::Prompt, Vec::new());
                // Who may not write here may write elsewhere.
                let only_for = (class == Class::Denied).then(|| self.reference.repository());
                if only_for.is_none() {
                    self.gate.close();
                }
                let pass = self.pass.as_mut().expect("nobody asks without");
                active = pass.add(typed, login, only_for);
            }
            // With another login all begins anew.
            tries = RetryBudget::new(self.options.retries);
            self.record.failures.clear();
        }
    }

    /// Goes through the gate with the login that is known, alone if nobody was let in with it so far.
    async fn enter(&mut self) -> ActiveCredentials {
        let mut pass = self.gate.enter().await;
        let active = match pass.of(&self.reference.repository()) {
            Some(active) => active.clone(),
            None => {
                let found = match pass.ahead.take() {
                    Some(found) => found,
                    None => self.session.look_up(self.reference.domain(), self.reporter.reporter).await,
                };
                if let Some(shadow) = found.shadow {
                    self.reporter.note(&shadow);
                }
                for warning in found.warnings {
                    self.warn(warning);
                }
                pass.add(found.credentials, found.login, None)
            }
        };
        self.pass = Some(pass).filter(|_| !self.gate.is_open());
        active
    }

    /// The login that another push has asked for meanwhile. `None`: it is for this one to ask.
    async fn newer_than(&mut self, number: u32) -> Option<ActiveCredentials> {
        let pass = match self.pass.take() {
            Some(pass) => pass,
            None => self.gate.enter().await,
        };
        let newer = pass.newer_than(number).cloned();
        self.pass = Some(pass).filter(|_| newer.is_none() || !self.gate.is_open());
        newer
    }

    /// One try, from the look at what is there to the look at what is there then.
    async fn attempt(&mut self, active: &ActiveCredentials) -> Result<Outcome, AttemptError> {
        let subject = self.subject(active);
        self.record.progress = Progress::default();
        if self.options.dry_run {
            return self.look(&subject).await;
        }
        if let Some(outcome) = self.look_before(&subject).await? {
            return Ok(outcome);
        }
        let (tell, told) = oneshot::channel();
        let ahead = self.prefetch_image(active, tell);
        with_background(ahead, self.push_and_verify(&subject, told)).await
    }

    /// What can be found out while the engine pushes, over a connection of its own: of what platforms the image
    /// is, and how its registry is asked from here.
    fn prefetch_image<'b>(
        &self,
        active: &'b ActiveCredentials,
        tell: oneshot::Sender<Option<Platforms>>,
    ) -> impl Future<Output = ()> + use<'a, 'b>
    where
        'a: 'b,
    {
        let (subject, session, reporter) = (self.subject(active), self.session, self.reporter);
        let (is_news, is_verified) = (!self.is_announced, self.options.verify != Verify::Never);
        let engine = Some(self.engine.fork()).filter(|engine| !engine.is_connect_expensive());
        async move {
            let Some(mut engine) = engine else { return };
            let mut other = engine.fork();
            // What goes wrong here is found again where it matters.
            let connect = async {
                if is_verified {
                    let _ = session.remote.registry(&mut other, &subject).await;
                }
            };
            let inspect = async {
                if is_verified {
                    tokio::time::sleep(SHORT).await;
                }
                if is_news && let Ok(image) = engine.inspect(subject.local_name).await {
                    let platforms = Platforms::of(&image.manifests, subject.platform);
                    if tell.send(platforms.clone()).is_ok()
                        && let Some(platforms) = platforms
                    {
                        reporter.note(&platforms.announce(subject.platform));
                    }
                }
            };
            join(connect, inspect).await;
        }
    }

    /// What was told by the look ahead.
    fn poll_prefetch(&mut self, told: &mut oneshot::Receiver<Option<Platforms>>) {
        if let Ok(platforms) = told.try_recv() {
            (self.is_announced, self.record.platforms) = (true, platforms);
        }
    }

    /// Says of what platforms the image is, where that was not known before.
    async fn announce_late(
        &mut self,
        told: &mut oneshot::Receiver<Option<Platforms>>,
    ) -> Result<(), PushError> {
        self.poll_prefetch(told);
        if self.is_announced {
            return Ok(());
        }
        // What is looked at now is told from here alone.
        told.close();
        let asked = tokio::time::timeout(ASIDE, self.engine.inspect(&self.target.local_name)).await;
        if let Ok(Ok(image)) = asked {
            self.announce(&image)?;
        }
        Ok(())
    }

    async fn push_and_verify(
        &mut self,
        subject: &Subject<'_>,
        mut told: oneshot::Receiver<Option<Platforms>>,
    ) -> Result<Outcome, AttemptError> {
        let pushed = self.push(subject).await;
        self.poll_prefetch(&mut told);
        let pushed = pushed?;
        self.record.pushed = Some(pushed.clone());
        if let Some(narrowed) = self.record.progress.narrowed.clone() {
            if self.options.platform == Some(PlatformSelection::All) {
                let (reference, digest) = (self.reference.familiar(), pushed.digest);
                return Err(PushError::Narrowed { reference, digest }.into());
            }
            // What is missing.
            self.announce_late(&mut told).await?;
            self.tell_narrowed(narrowed);
        }
        // The registry took the login, whatever it did with the image.
        self.gate.open(&mut self.pass);
        self.keep(self.reference.credentials_key(), &subject.active.credentials).await;
        self.verify(subject, &pushed).await?;
        self.announce_late(&mut told).await?;
        Ok(Outcome::new(Status::Pushed, pushed))
    }

    /// `--dry-run`
    async fn look(&mut self, subject: &Subject<'_>) -> Result<Outcome, AttemptError> {
        let found = dry_run::look(&self.session.remote, self.engine, subject).await;
        let findings = self.record.findings.insert(self.answer(found)?);
        let (named, is_same, id) = (findings.named.clone(), findings.is_same, findings.id.clone());
        Ok(self.if_exists_outcome(named, is_same, id)?.unwrap_or(Outcome::new(Status::WouldPush, None)))
    }

    /// `--if-exists`: how it ends without a push, by what the tag names.
    fn if_exists_outcome(
        &self,
        named: Option<Descriptor>,
        is_same: bool,
        id: String,
    ) -> Result<Option<Outcome>, PushError> {
        let wish = self.options.if_exists;
        let Some(named) = named.filter(|_| wish != IfExists::Overwrite) else { return Ok(None) };
        match wish {
            _ if is_same => Ok(Some(Outcome::new(Status::Unchanged, named))),
            IfExists::Skip => Ok(Some(Outcome::new(Status::Skipped, named))),
            IfExists::Fail => {
                let reference = self.reference.familiar();
                Err(PushError::Exists { reference, found: named.digest, id })
            }
            IfExists::Overwrite | IfExists::Update => Ok(None),
        }
    }

    /// Looks, where that is asked for, what there is before anything is pushed.
    async fn look_before(&mut self, subject: &Subject<'_>) -> Result<Option<Outcome>, AttemptError> {
        let wish = self.options.if_exists;
        if wish == IfExists::Overwrite {
            return Ok(None);
        }
        let remote = &self.session.remote;
        let (image, named) = if self.engine.is_connect_expensive() {
            (inspect(self.engine, subject).await, remote.resolve(self.engine, subject).await)
        } else {
            let mut other = self.engine.fork();
            join(inspect(&mut other, subject), remote.resolve(self.engine, subject)).await
        };
        let image = self.answer(image)?;
        if !self.is_announced {
            self.announce(&image)?;
        }
        let named = match self.answer(named) {
            Ok(Some(named)) => named,
            Ok(None) => return Ok(None),
            // Who may only write cannot look; pushing what is there already does no harm.
            Err(AttemptError::Retryable(cause))
                if wish == IfExists::Update && cause.class() != Class::Auth =>
            {
                self.warn(format!("what the tag names could not be asked: {}", cause.reason()));
                return Ok(None);
            }
            Err(trouble) => return Err(trouble),
        };
        let same = remote.is_same(self.engine, subject, &image, &named).await;
        let is_same = match self.answer(same) {
            // That it is another, only a look could tell; to the other wishes it does not matter.
            Err(AttemptError::Retryable(_)) if wish != IfExists::Fail => false,
            same => same?,
        };
        Ok(self.if_exists_outcome(Some(named), is_same, image.id)?)
    }

    /// The same image is never an error, also where the registry says no only at the end: an immutable tag.
    async fn is_there_already(&mut self, active: &ActiveCredentials) -> Option<Descriptor> {
        let (subject, remote) = (self.subject(active), &self.session.remote);
        let image = inspect(self.engine, &subject).await.ok()?;
        let named = remote.resolve(self.engine, &subject).await.ok()??;
        let is_same = remote.is_same(self.engine, &subject, &image, &named).await.ok()?;
        is_same.then_some(named)
    }

    /// Asks what the registry now serves under the tag, and whether that is all there.
    async fn verify(&mut self, subject: &Subject<'_>, pushed: &Descriptor) -> Result<(), PushError> {
        if self.options.verify == Verify::Never {
            return Ok(());
        }
        let mut waits = SETTLING.into_iter();
        loop {
            let is_wanted = self.options.verify == Verify::Always;
            let found = match self.find(subject, pushed).await {
                Ok(found) => Ok(found),
                Err(QueryError::Cause(cause)) => Err(cause),
                Err(QueryError::Engine(error)) if is_wanted => return Err(self.engine_error(error)),
                // It has done its work.
                Err(QueryError::Engine(error)) => {
                    self.warn(format!(
                        "what the registry serves could not be asked: {}",
                        with_causes(&error)
                    ));
                    return Ok(());
                }
            };
            match (found, waits.next()) {
                (Ok(None), _) => {
                    self.record.verified = Some(true);
                    return Ok(());
                }
                (Ok(Some(_)), Some(wait)) => tokio::time::sleep(wait).await,
                (Err(cause), Some(wait)) if is_wanted && is_transient(cause.class()) => {
                    tokio::time::sleep(wait).await;
                }
                (Ok(Some(found)), None) => {
                    self.record.verified = Some(false);
                    let (reference, expected) = (self.reference.familiar(), pushed.digest.clone());
                    return Err(PushError::Unverified { reference, expected, found });
                }
                (Err(cause), _) if is_wanted => {
                    return Err(PushError::Unverifiable { reference: self.reference.familiar(), cause });
                }
                (Err(cause), _) => {
                    self.warn(format!("what the registry serves could not be asked: {}", cause.reason()));
                    return Ok(());
                }
            }
        }
    }

    /// What the registry serves, if that is not what was pushed.
    async fn find(
        &mut self,
        subject: &Subject<'_>,
        pushed: &Descriptor,
    ) -> Result<Option<Found>, QueryError> {
        let (remote, engine) = (&self.session.remote, &mut *self.engine);
        let missing = match remote.see(engine, subject, &pushed.digest).await? {
            Seen::There { missing, is_index } => {
                // For one platform there is nothing to say.
                self.is_announced |= !is_index;
                missing
            }
            Seen::Unknown => match remote.resolve(engine, subject).await? {
                None => return Ok(Some(Found::Nothing)),
                Some(named) if named.digest != pushed.digest => {
                    return Ok(Some(Found::Another(named.digest)));
                }
                Some(_) => match self.options.verify {
                    Verify::Always => remote.missing_blobs(engine, subject, &pushed.digest).await?,
                    // The question was what the tag names; from here nobody may be able to look further.
                    _ => remote.blobs_known_missing(engine, subject, &pushed.digest).await?,
                },
            },
        };
        Ok(Some(missing).filter(|missing| !missing.is_empty()).map(Found::Incomplete))
    }

    /// That the engine is gone is the end, whatever was asked.
    fn answer<T>(&self, answer: Result<T, QueryError>) -> Result<T, AttemptError> {
        answer.map_err(|unanswered| match unanswered {
            QueryError::Cause(cause) => AttemptError::Retryable(cause),
            QueryError::Engine(error) => AttemptError::Fatal(self.engine_error(error)),
        })
    }

    fn setback(&self, cause: &Cause) -> AttemptFailure {
        let (verdict, progress) = (cause.verdict(), &self.record.progress);
        // podman waits for a registry that is too busy for up to two minutes, and does not say so.
        let in_silence = progress.is_silent && verdict.class == Class::RateLimited;
        let most = match verdict.class {
            Class::Stalled => self.session.detours.borrow().left(self.reference).unwrap_or(u32::MAX),
            // The engine itself has tried again for nearly a minute.
            _ if progress.was_retried_in_vain() || in_silence => 1,
            _ => u32::MAX,
        };
        AttemptFailure { verdict, has_pushed_layer: progress.counts().pushed > 0, max_retries: most }
    }

    async fn wait(&mut self, again: &NextAttempt) {
        let reason = self.record.failures.last().map_or("", String::as_str);
        self.reporter.show(&Update::Wait(again, reason));
        tokio::time::sleep(again.wait).await;
    }

    /// Keeps a login that was typed or given for this call, if that is wanted. The push is not at stake.
    async fn keep(&mut self, key: &str, credentials: &Credentials) {
        let source = self.record.login.as_ref().map(|login| &login.source);
        let is_new = matches!(source, Some(Source::Prompt | Source::CommandLine));
        if !is_new || credentials.is_anonymous() || !self.gate.is_to_be_kept.replace(false) {
            return;
        }
        let (keyring, reporter) = (&self.session.keyring, self.reporter);
        let dialogue = self.session.dialogue().await;
        let held = dialogue.is_some().then(|| reporter.reporter.hold());
        let saved = keyring.save(key, credentials, |line| reporter.say(Level::Asking, line)).await;
        drop((held, dialogue));
        match saved {
            Ok(kept) => {
                reporter.note(&kept.to_string());
                if let Some(warning) = kept.plain_text_warning() {
                    reporter.say(Level::Notice, &warning);
                }
                let shadow = keyring.shadow_of_kept(self.reference.domain());
                for warning in kept.unmarked.into_iter().chain(shadow) {
                    self.warn(warning);
                }
            }
            Err(error) => {
                let registry = self.reference.domain();
                self.warn(format!("the login for {registry} is not kept: {}", with_causes(&error)));
            }
        }
    }

    /// One push to its end: what the tag then names, or why it was refused.
    async fn push(&mut self, subject: &Subject<'_>) -> Result<Descriptor, AttemptError> {
        self.record.attempts += 1;
        self.take_a_detour().await?;
        let blocked_before = self.session.detours.borrow().blocked(self.reference);
        self.reporter.show(&Update::Push);
        let outcome = self.follow(&subject.active.credentials).await;
        let detour = match self.detour.take() {
            Some(tag) => {
                let name = tag.name.clone();
                self.untag(tag).await;
                Some(name)
            }
            None => None,
        };
        let repository = detour.as_ref().unwrap_or(self.reference).repository();
        let progress = &self.record.progress;
        let refused = |message: &str, http_status| {
            let verdict = classify(&Evidence {
                message,
                http_status,
                content_missing: progress.content_missing,
                phase: progress.phase(),
                credentials_sent: !subject.active.credentials.is_anonymous(),
                repository: &repository,
            });
            Cause::Engine { verdict: verdict.uncancelled(), reason: sanitize(message) }
        };
        // A refusal counts even where the stream broke behind it.
        if let Some(message) = &progress.refusal {
            let cause = refused(message, None);
            // Its certificates, or a proxy's rules, are for the name that it has: no word of the registry's.
            let is_the_names =
                matches!(cause.class(), Class::Tls | Class::Auth | Class::Denied | Class::Other);
            if detour.is_some() && is_the_names && !progress.has_moved() {
                let domain = self.reference.domain().to_owned();
                self.session.detours.borrow_mut().closed.insert(domain);
                let reason = format!(
                    "an upload hangs in the engine, and under the registry's other name: {}",
                    cause.reason()
                );
                return Err(Cause::Engine { verdict: stalled(), reason }.into());
            }
            return Err(cause.into());
        }
        match outcome {
            Ok(StreamEnd::Properly) => {}
            Ok(StreamEnd::Stalled) => {
                if progress.is_classic {
                    self.session.detours.borrow_mut().hangs(self.reference, blocked_before);
                }
                let reason = format!("nothing moved for {}", format_duration(self.options.stall_timeout));
                return Err(Cause::Engine { verdict: stalled(), reason }.into());
            }
            Err(EngineError::Answered { status, message }) => {
                let message = if message.trim().is_empty() { status.to_string() } else { message };
                return Err(refused(&message, Some(status.as_u16())).into());
            }
            Err(error) => {
                let error = self.engine.explain(error).await;
                return Err(self.engine_error(error).into());
            }
        }
        let tag = self.reference.tag_or_latest();
        let pushed = progress.pushed.iter().find(|pushed| pushed.tag == tag);
        match pushed.map(|pushed| Descriptor::new(pushed.digest.clone(), pushed.size)) {
            Some(pushed) => Ok(pushed),
            None => Ok(self.confirm(subject).await.ok_or_else(|| PushError::Unconfirmed {
                reference: self.reference.familiar(),
                tag: tag.to_owned(),
            })?),
        }
    }

    /// Takes a name away again that was given to the image for the push.
    async fn untag(&mut self, tag: TemporaryTag) {
        let name = tag.name.familiar();
        let naming = self.session.naming.lock().await;
        let removed = self.engine.remove(tag).await;
        drop(naming);
        let reason = match removed {
            Ok(Removed::IsGone | Removed::WasNotThere) => return,
            Ok(Removed::WasMoved) => "somebody has given it to another image".to_owned(),
            Ok(Removed::IsTheLast) => "the image has no other name any more, and would go with it".to_owned(),
            Err(error) => format!("it could not be removed ({}): `docker rmi {name}`", with_causes(&error)),
        };
        self.warn(format!("the tag {name} stays: {reason}"));
    }

    /// Gives the image another name to be pushed under, if a push under its own would not move.
    async fn take_a_detour(&mut self) -> Result<(), PushError> {
        let next = self.session.detours.borrow().next(self.reference);
        let Some(name) = next.and_then(|next| self.reference.under_another_name(next)) else { return Ok(()) };
        let is_free = match self.engine.inspect(&name.canonical()).await {
            Err(EngineError::Answered { status, .. }) => status == StatusCode::NOT_FOUND,
            Err(error @ EngineError::Transport(_)) => return Err(self.engine_error(error)),
            _ => false,
        };
        if !is_free {
            let name = name.familiar();
            self.reporter.note(&format!("not pushing under the name {name}: an image has it"));
            return Ok(());
        }
        let own = self.reference.canonical();
        let naming = self.session.naming.lock().await;
        let tagged = match self.engine.inspect(&own).await {
            Ok(image) => self.engine.tag(&own, &image.id, &name).await,
            Err(error) => Err(error),
        };
        drop(naming);
        match tagged {
            Ok(tag) => {
                let names = (self.reference.familiar_repository(), name.familiar_repository());
                self.reporter.note(&format!(
                    "the engine hangs in an upload to {}: pushing under the registry's other name, {}",
                    names.0, names.1
                ));
                self.detour = Some(tag);
                Ok(())
            }
            Err(error @ EngineError::Transport(_)) => Err(self.engine_error(error)),
            // Then it is tried as it is.
            Err(_) => Ok(()),
        }
    }

    /// Asks the registry what the tag names, since the engine itself did not say (docker 24 with the
    /// containerd store ends without a digest, podman before 3 with nothing at all). Believed if the
    /// engine's own image goes by that digest.
    async fn confirm(&mut self, subject: &Subject<'_>) -> Option<Descriptor> {
        let asked = async {
            let named = self.session.remote.resolve(self.engine, subject).await.ok()??;
            let own = inspect(self.engine, subject).await.ok()?;
            Some(named).filter(|named| own.has_digest(&named.digest))
        };
        let named = tokio::time::timeout(CONFIRMATION, asked).await.ok()??;
        self.record.verified = Some(true);
        self.reporter.note("the engine named no digest; the registry was asked, and has the image");
        Some(named)
    }

    /// Reads the stream to its end, and shows it.
    async fn follow(&mut self, credentials: &Credentials) -> Result<StreamEnd, EngineError> {
        let platform = self.platform();
        let Self { reporter, record, engine, detour, gate, pass, .. } = self;
        let progress = &mut record.progress;
        let reference = detour.as_ref().map_or(self.reference, |tag| &tag.name);
        let wants_objects = reporter.wants_objects();
        let request = PushRequest { reference, credentials, platform, wants_objects };
        let limit = self.options.stall_timeout;
        let mut watchdog = Watchdog::new(limit, Instant::now());
        // An engine may be long in answering at all: its own registry settings, a name to be looked up.
        let answered = async { Some(engine.push(&request).await) };
        let Some(stream) = (tokio::select! {
            stream = answered => stream,
            () = until(Some(watchdog.deadline(progress)).filter(|_| !limit.is_zero())) => None,
        }) else {
            return Err(EngineError::Silent { endpoint: engine.endpoint() });
        };
        let mut stream = stream?;
        progress.is_silent = stream.is_silent;
        let is_watched = !stream.is_silent && !limit.is_zero();
        let mut deadline: Option<Instant> = None;
        loop {
            let stalls = Some(watchdog.deadline(progress)).filter(|_| is_watched);
            let gone_on = tokio::select! {
                // What has come counts before the time that has passed: we may have been stopped for a while.
                biased;
                () = until(deadline) => false,
                more = stream.next(|event| {
                    reporter.show(&Update::Event(&event));
                    let has_changed = progress.apply(&event);
                    watchdog.saw(&event, has_changed, Instant::now());
                    if lets_in(&event) {
                        gate.open(pass);
                    }
                }) => more?,
                () = until(stalls) => {
                    if !engine.stop(stream).await {
                        reporter.note("the engine did not say that it gave up the push");
                    }
                    return Ok(StreamEnd::Stalled);
                }
            };
            if !gone_on {
                return Ok(StreamEnd::Properly);
            }
            if progress.refusal.is_some() && deadline.is_none() {
                deadline = Some(Instant::now() + AFTER_REFUSAL);
            }
        }
    }

    async fn refusal(&mut self, cause: Cause, login: Login) -> Refusal {
        let suggestion = match cause.class() {
            // Failing to ask would only have made the message better.
            Class::NotFound => {
                let wanted = self.target.local_name.parse().unwrap_or_else(|_| self.reference.clone());
                self.engine.local_images(ASIDE).await.ok().and_then(|images| suggest(&wanted, &images))
            }
            _ => None,
        };
        let tries = self.record.failures.clone();
        let is_renamed = self.target.is_renamed();
        Refusal { cause, reference: self.reference.clone(), login, suggestion, failures: tries, is_renamed }
    }

    /// Somebody is there, was not asked too often, and another login could help. Credentials given
    /// for this call alone are the user's last word; and who typed a good login, but may not write,
    /// is not asked again.
    fn may_ask(&self, refusal: &Refusal, questions: usize) -> bool {
        let helps = match refusal.cause.class() {
            Class::Auth => true,
            Class::Denied => refusal.login.source != Source::Prompt,
            _ => false,
        };
        let is_there = self.session.terminal.is_some() && self.gate.may_ask.get();
        helps && questions > 0 && is_there && refusal.login.source != Source::CommandLine
    }

    /// A login that somebody typed, and whether the registry has said that it is good.
    async fn ask(
        &mut self,
        refusal: &Refusal,
        questions: &mut usize,
    ) -> Result<(Credentials, bool), PushError> {
        let dialogue = self.session.dialogue.lock().await;
        let mut question = Question {
            registry: self.reference.domain(),
            key: self.reference.credentials_key(),
            terminal: self.session.terminal.as_ref().expect("checked by may_ask"),
            engine: self.engine,
        };
        let reporter = self.reporter;
        let held = reporter.reporter.hold();
        let tell = |line: &str| reporter.say(Level::Asking, line);
        tell(&refusal.to_string());
        // Until there is an answer: whoever gives up in between is not asked again.
        self.gate.may_ask.set(false);
        let asked = question.ask(refusal.login.username.as_deref(), questions, tell).await;
        self.gate.may_ask.set(asked.is_ok());
        drop((held, dialogue));
        match asked {
            // Where the engine could not ask the registry, the push itself will tell.
            Ok(login) => Ok((login.credentials, login.unchecked.is_none())),
            Err(LoginError::Engine(error)) => Err(self.engine_error(error)),
            Err(error) => Err(PushError::Login(error)),
        }
    }

    fn engine_error(&self, source: EngineError) -> PushError {
        PushError::Engine { reference: self.reference.familiar(), source }
    }

    fn warn(&mut self, warning: String) {
        // With each try the same.
        if self.record.warnings.contains(&warning) {
            return;
        }
        self.reporter.say(Level::Warning, &warning);
        self.record.warnings.push(warning);
    }
}

/// Does something beside the work, for as long as that takes.
pub async fn with_background<T>(aside: impl Future<Output = ()>, work: impl Future<Output = T>) -> T {
    match select(pin!(work), pin!(aside)).await {
        Either::Left((done, _)) => done,
        Either::Right(((), work)) => work.await,
    }
}

/// How a stream ended that did not break.
enum StreamEnd {
    Properly,
    /// By us, since nothing moved.
    Stalled,
}

/// The registry would not have come so far with somebody whom it does not let in.
fn lets_in(event: &Event) -> bool {
    match event {
        Event::Layer { state: LayerState::Pushing { current, .. }, .. } => *current > 0,
        Event::Layer { state, .. } => state.is_final(),
        Event::Pushed { .. } => true,
        _ => false,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Names that differ from this one in a few letters or in the tag; else an image of the same last
/// name and tag that was never named for this registry.
pub fn suggest(wanted: &Reference, images: &[ImageSummary]) -> Option<Suggestion> {
    let wanted_name = wanted.familiar();
    let limit = 2.max(wanted.path().len() / 4);
    let here: Vec<(&String, Reference)> =
        images.iter().filter_map(|image| Some((&image.name, image.name.parse().ok()?))).collect();
    let mut near: Vec<(usize, &String)> = here
        .iter()
        .map(|(name, reference)| {
            (strsim::damerau_levenshtein(&reference.familiar(), &wanted_name), *name, reference)
        })
        .filter(|(distance, _, reference)| {
            *distance <= limit || reference.repository() == wanted.repository()
        })
        .map(|(distance, name, _)| (distance, name))
        .collect();
    if !near.is_empty() {
        near.sort();
        return Some(Suggestion::Near(
            near.into_iter().map(|(_, name)| name.clone()).take(MAX_SIMILAR).collect(),
        ));
    }
    let last = |reference: &Reference| reference.path().rsplit('/').next().map(str::to_owned);
    let mut namesakes = here.into_iter().filter(|(_, reference)| last(reference) == last(wanted)).peekable();
    if wanted.tag().is_none() {
        // Whoever left out the tag may have left out the registry too.
        namesakes.peek()?;
        return Some(Suggestion::Near(namesakes.map(|(name, _)| name.clone()).take(MAX_SIMILAR).collect()));
    }
    let same_tag = |reference: &Reference| reference.tag_or_latest() == wanted.tag_or_latest();
    namesakes.find(|(_, reference)| same_tag(reference)).map(|(name, _)| Suggestion::Tag(name.clone()))
}

/// `0bc980ece940` or `sha256:…`, which docker reads as names of the Hub.
fn looks_like_id(reference: &Reference) -> bool {
    let name = reference.familiar_repository();
    let is_hex = |text: &str| text.len() >= 12 && text.bytes().all(|b| b.is_ascii_hexdigit());
    name == "sha256" || (reference.tag().is_none() && is_hex(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_names_that_may_be_meant() {
        let near =
            |names: &[&str]| Some(Suggestion::Near(names.iter().map(|name| (*name).to_owned()).collect()));
        let tag = |name: &str| Some(Suggestion::Tag(name.to_owned()));
        let table: [(&str, &[&str], Option<Suggestion>); 8] = [
            // wanted, here
            (
                "localhost:5000/app:3",
                &["localhost:5000/app:1", "localhost:5000/app:2", "app:1"],
                near(&["localhost:5000/app:1", "localhost:5000/app:2"]),
            ),
            ("localhost:5000/apq:1", &["localhost:5000/app:1", "seed:1"], near(&["localhost:5000/app:1"])),
            (
                "registy.example.com/app:1",
                &["registry.example.com/app:1"],
                near(&["registry.example.com/app:1"]),
            ),
            ("localhost:5000/app:1", &["localhost:5001/apb:1", "app:2"], near(&["localhost:5001/apb:1"])),
            ("registry.example.com/team/seed:1", &["app:1", "seed:2", "seed:1"], tag("seed:1")),
            ("web:latest", &["ghcr.io/team/web:latest"], tag("ghcr.io/team/web:latest")),
            ("web", &["seed:1", "localhost:5000/web:1"], near(&["localhost:5000/web:1"])),
            ("registry.example.com/nothing-like-it:9", &["app:1"], None),
        ];
        for (wanted, here, want) in table {
            let image = |name: &&str| ImageSummary { name: (*name).to_owned(), ..ImageSummary::default() };
            let images: Vec<ImageSummary> = here.iter().map(image).collect();
            assert_eq!(suggest(&wanted.parse().unwrap(), &images), want, "{wanted}");
        }
    }
}
