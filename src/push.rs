//! The use case: one image to its registry, with the conversation that a refusal leads to.

use std::fmt;
use std::time::Duration;

use humantime::format_duration;
use hyper::StatusCode;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::cli::{IfExists, PushOptions, Verify};
use crate::credentials::prompt::Terminal;
use crate::credentials::{Credentials, Keyring, Known, Login, Source};
use crate::dry_run::{self, Findings};
use crate::engine::{Descriptor, Engine, EngineError, LocalImage, PushRequest, TemporaryTag};
use crate::failure::{Class, Evidence, classify, stalled};
use crate::login::{LoginError, QUESTIONS, Question};
use crate::present::Presenter;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::remote::{Cause, Remote, Subject, Unanswered, inspect};
use crate::retry::{Again, Setback, Tries, may_pass, root_cause};
use crate::text::{clean, with_causes};
use crate::watchdog::Watchdog;

/// After a refusal the engine has nothing more to say that matters.
const AFTER_REFUSAL: Duration = Duration::from_secs(2);
/// How long the engine may take to list its images, where that only makes a message better.
const ASIDE: Duration = Duration::from_secs(2);
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
        Some(pushed) => format!("pushed as {}, and not verified", pushed.digest),
        None => "not pushed".to_owned(),
    }, format_duration(*after), last(tries))]
    TimedOut { reference: String, after: Duration, pushed: Option<Descriptor>, tries: Vec<String> },
    #[error(transparent)]
    Login(LoginError),
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
    pub tries: Vec<String>,
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

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reference, login, cause, tries, .. } = self;
        let registry = reference.domain();
        write!(f, "cannot push {}{}: ", reference.familiar(), told(tries))?;
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
    pub tries: Vec<String>,
    pub progress: Progress,
    pub login: Option<Login>,
    /// What the engine says that it pushed.
    pub pushed: Option<Descriptor>,
    /// Somebody is being asked for a login.
    pub is_asking: bool,
    /// Whether the registry serves the image, if it was asked.
    pub verified: Option<bool>,
    pub findings: Option<Findings>,
    pub warnings: Vec<String>,
}

/// One image on its way.
pub struct Push<'a> {
    pub reference: &'a Reference,
    pub options: &'a PushOptions,
    pub engine: &'a mut Engine,
    /// Its registry, where the engine cannot ask it.
    pub remote: &'a mut Remote,
    pub keyring: &'a mut Keyring,
    /// Whom to ask for a login; nobody with `--no-prompt`.
    pub terminal: Option<&'a Terminal>,
    pub presenter: &'a mut dyn Presenter,
    pub record: &'a mut Record,
    /// Whether a login that was typed or given for this call is kept, once the registry has taken it.
    pub save: &'a mut bool,
    pub detours: &'a mut Detours,
}

/// Other names for the registry, taken after a stall in docker's classic store.
///
/// That store has one upload of a layer to a repository at a time, whoever wants it, and one that hangs in a
/// connection it never gives up (docker 20.10 and 28: measured). Another push of the same name would wait for
/// it for ever; under another name for the registry it is another upload.
#[derive(Debug, Default)]
pub struct Detours {
    /// Names that are blocked, the image's own first.
    blocked: u32,
    /// The one at hand; the tag goes when it is dropped.
    tag: Option<TemporaryTag>,
    /// The engine does not reach the registry under another name.
    is_closed: bool,
}

impl Detours {
    /// Each upload that hangs takes one of the five places that the engine has for uploads (dockerd's
    /// `--max-concurrent-uploads`), for as long as its connection lasts: two are left for others.
    const MOST: u32 = 2;

    /// Takes the tag at hand away.
    pub fn end(&mut self) {
        self.tag = None;
    }

    /// Tries that may help after a stall.
    fn left(&self) -> u32 {
        if self.is_closed { 0 } else { (Self::MOST + 1).saturating_sub(self.blocked) }
    }
}

/// Why a try did not get there.
enum Trouble {
    /// Another try, or another login, may.
    Cause(Cause),
    /// Nothing will.
    End(PushError),
}

impl From<PushError> for Trouble {
    fn from(error: PushError) -> Self {
        Self::End(error)
    }
}

impl From<Cause> for Trouble {
    fn from(cause: Cause) -> Self {
        Self::Cause(cause)
    }
}

impl Push<'_> {
    /// Pushes with what Docker holds for the registry. What breaks is tried again; what is refused for the
    /// login leads to a question, and with the answer to another push.
    ///
    /// # Errors
    /// [`PushError`]; the record tells how far it came.
    pub async fn run(mut self) -> Result<Outcome, PushError> {
        let key = self.reference.credentials_key();
        let Known { mut credentials, mut login, .. } = self.look_up(key).await;
        let mut tries = Tries::new(self.options.retries);
        let mut same_again = true;
        let mut questions = QUESTIONS;
        // That the registry took the login, said before the push could say it.
        let mut is_accepted = false;
        loop {
            self.record.login = Some(login.clone());
            let cause = match self.attempt(&credentials, &login).await {
                Ok(outcome) => {
                    if is_accepted {
                        self.keep(key, &credentials).await;
                    }
                    return Ok(outcome);
                }
                Err(Trouble::End(error)) => return Err(error),
                Err(Trouble::Cause(cause)) => cause,
            };
            let class = cause.class();
            if class == Class::Rejected
                && let Some(named) = self.is_there_already(&credentials, &login).await
            {
                self.presenter.note("the registry refuses the tag, which names this image already");
                return Ok(Outcome::new(Status::Unchanged, named));
            }
            // A token can expire while layers move; the same login then gets a new one.
            if class == Class::Auth && !login.anonymous && same_again && self.record.progress.has_moved() {
                same_again = false;
                self.presenter.note("the login expired on the way; pushing on with the same");
                continue;
            }
            self.record.tries.push(root_cause(&cause.reason(), class));
            if let Some(again) = tries.after(&self.setback(&cause)) {
                self.wait(&again).await;
                continue;
            }
            let refusal = self.refusal(cause, login.clone()).await;
            if is_accepted && class != Class::Auth {
                // The login is good, whatever else is wrong with this push.
                self.keep(key, &credentials).await;
            }
            if !self.may_ask(&refusal, questions) {
                return Err(PushError::Refused(Box::new(refusal)));
            }
            self.presenter.tell(&refusal.to_string());
            (credentials, is_accepted) = self.ask(login.username.as_deref(), &mut questions).await?;
            login = Login::new(&credentials, Source::Prompt, Vec::new());
            // With another login all begins anew.
            tries = Tries::new(self.options.retries);
            self.record.tries.clear();
            self.remote.forget();
            let (credentials, login) = (credentials.clone(), login.clone());
            self.keyring.known = Some(Known { key: key.to_owned(), credentials, login });
        }
    }

    /// One try, from the look at what is there to the look at what is there then.
    async fn attempt(&mut self, credentials: &Credentials, login: &Login) -> Result<Outcome, Trouble> {
        let subject = Subject { reference: self.reference, credentials, login };
        self.record.progress = Progress::default();
        if self.options.dry_run {
            return self.look(&subject).await;
        }
        if let Some(outcome) = self.look_before(&subject).await? {
            return Ok(outcome);
        }
        let pushed = self.push(&subject).await?;
        self.record.pushed = Some(pushed.clone());
        // The registry took the login, whatever it did with the image.
        self.keep(self.reference.credentials_key(), credentials).await;
        self.verify(&subject, &pushed).await?;
        Ok(Outcome::new(Status::Pushed, pushed))
    }

    /// `--dry-run`
    async fn look(&mut self, subject: &Subject<'_>) -> Result<Outcome, Trouble> {
        let found = dry_run::look(self.remote, self.engine, subject).await;
        let findings = self.record.findings.insert(self.answer(found)?);
        let (named, is_same, id) = (findings.named.clone(), findings.is_same, findings.id.clone());
        Ok(self.wished(named, is_same, id)?.unwrap_or(Outcome::new(Status::WouldPush, None)))
    }

    /// `--if-exists`: how it ends without a push, by what the tag names.
    fn wished(
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
    async fn look_before(&mut self, subject: &Subject<'_>) -> Result<Option<Outcome>, Trouble> {
        let wish = self.options.if_exists;
        if wish == IfExists::Overwrite {
            return Ok(None);
        }
        let image = inspect(self.engine, subject).await;
        let image = self.answer(image)?;
        let named = self.remote.named(self.engine, subject).await;
        let named = match self.answer(named) {
            Ok(Some(named)) => named,
            Ok(None) => return Ok(None),
            // Who may only write cannot look; pushing what is there already does no harm.
            Err(Trouble::Cause(cause)) if wish == IfExists::Update && cause.class() != Class::Auth => {
                self.warn(format!("what the tag names could not be asked: {}", cause.reason()));
                return Ok(None);
            }
            Err(trouble) => return Err(trouble),
        };
        let same = self.remote.is_same(self.engine, subject, &image, &named).await;
        let is_same = match self.answer(same) {
            // That it is another, only a look could tell; to the other wishes it does not matter.
            Err(Trouble::Cause(_)) if wish != IfExists::Fail => false,
            same => same?,
        };
        Ok(self.wished(Some(named), is_same, image.id)?)
    }

    /// The same image is never an error, also where the registry says no only at the end: an immutable tag.
    async fn is_there_already(&mut self, credentials: &Credentials, login: &Login) -> Option<Descriptor> {
        let subject = Subject { reference: self.reference, credentials, login };
        let image = inspect(self.engine, &subject).await.ok()?;
        let named = self.remote.named(self.engine, &subject).await.ok()??;
        let is_same = self.remote.is_same(self.engine, &subject, &image, &named).await.ok()?;
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
                Err(Unanswered::Cause(cause)) => Err(cause),
                Err(Unanswered::Engine(error)) if is_wanted => return Err(self.engine_error(error)),
                // It has done its work.
                Err(Unanswered::Engine(error)) => {
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
                (Err(cause), Some(wait)) if is_wanted && may_pass(cause.class()) => {
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
    ) -> Result<Option<Found>, Unanswered> {
        match self.remote.named(self.engine, subject).await? {
            None => return Ok(Some(Found::Nothing)),
            Some(named) if named.digest != pushed.digest => return Ok(Some(Found::Another(named.digest))),
            Some(_) => {}
        }
        let (remote, engine) = (&mut *self.remote, &mut *self.engine);
        let missing = match self.options.verify {
            Verify::Always => remote.missing_parts(engine, subject, &pushed.digest).await?,
            // The question was what the tag names; from here nobody may be able to look further.
            _ => remote.parts_known_missing(engine, subject, &pushed.digest).await?,
        };
        Ok(Some(missing).filter(|missing| !missing.is_empty()).map(Found::Incomplete))
    }

    /// That the engine is gone is the end, whatever was asked.
    fn answer<T>(&self, answer: Result<T, Unanswered>) -> Result<T, Trouble> {
        answer.map_err(|unanswered| match unanswered {
            Unanswered::Cause(cause) => Trouble::Cause(cause),
            Unanswered::Engine(error) => Trouble::End(self.engine_error(error)),
        })
    }

    fn setback(&self, cause: &Cause) -> Setback {
        let (verdict, progress) = (cause.verdict(), &self.record.progress);
        // podman waits for a registry that is too busy for up to two minutes, and does not say so.
        let in_silence = progress.is_silent && verdict.class == Class::RateLimited;
        let most = match verdict.class {
            Class::Stalled if self.detours.blocked > 0 => self.detours.left(),
            Class::Stalled => u32::MAX,
            // The engine itself has tried again for nearly a minute.
            _ if progress.was_retried_in_vain() || in_silence => 1,
            _ => u32::MAX,
        };
        Setback { verdict, got_on: progress.counts().pushed > 0, most }
    }

    async fn wait(&mut self, again: &Again) {
        let Again { number, of, wait } = again;
        let reason = self.record.tries.last().map_or("", String::as_str);
        let seconds = wait.as_secs_f64().round();
        self.presenter.note(&format!("attempt {number} of {of} in {seconds} s: {reason}"));
        tokio::time::sleep(*wait).await;
    }

    /// Keeps a login that was typed or given for this call, if that is wanted. The push is not at stake.
    async fn keep(&mut self, key: &str, credentials: &Credentials) {
        let source = self.record.login.as_ref().map(|login| &login.source);
        let is_new = matches!(source, Some(Source::Prompt | Source::CommandLine));
        if !*self.save || !is_new || credentials.is_anonymous() {
            return;
        }
        // Once, however many tags are pushed.
        *self.save = false;
        let presenter = &mut *self.presenter;
        match self.keyring.save(key, credentials, |line| presenter.tell(line)).await {
            Ok(kept) => {
                self.presenter.note(&kept.to_string());
                if let Some(warning) = kept.plain_text_warning() {
                    self.presenter.tell(&warning);
                }
                let shadow = self.keyring.shadow_of_kept(self.reference.domain());
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

    /// What the keyring holds for the registry; with warnings about it, the first time.
    async fn look_up(&mut self, key: &str) -> Known {
        if let Some(known) = self.keyring.known.as_ref().filter(|known| known.key == key) {
            return known.clone();
        }
        let (keyring, presenter) = (&*self.keyring, &mut *self.presenter);
        let found = keyring.look_up(self.reference.domain(), |line| presenter.tell(line)).await;
        if let Some(shadow) = found.shadow {
            self.presenter.note(&shadow);
        }
        for warning in found.warnings {
            self.warn(warning);
        }
        let known = Known { key: key.to_owned(), credentials: found.credentials, login: found.login };
        self.keyring.known = Some(known.clone());
        known
    }

    /// One push to its end: what the tag then names, or why it was refused.
    async fn push(&mut self, subject: &Subject<'_>) -> Result<Descriptor, Trouble> {
        self.record.attempts += 1;
        self.take_a_detour().await?;
        let outcome = self.follow(subject.credentials).await;
        self.presenter.finish();
        let detour = match self.detours.tag.take() {
            Some(tag) => Some(self.end_detour(tag).await),
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
                credentials_sent: !subject.credentials.is_anonymous(),
                repository: &repository,
            });
            Cause::Engine { verdict: verdict.uncancelled(), reason: clean(message) }
        };
        // A refusal counts even where the stream broke behind it.
        if let Some(message) = &progress.refusal {
            let cause = refused(message, None);
            // Its certificates, or a proxy's rules, are for the name that it has: no word of the registry's.
            let is_the_names =
                matches!(cause.class(), Class::Tls | Class::Auth | Class::Denied | Class::Other);
            if detour.is_some() && is_the_names && !progress.has_moved() {
                self.detours.is_closed = true;
                let reason = format!(
                    "an upload hangs in the engine, and under the registry's other name: {}",
                    cause.reason()
                );
                return Err(Cause::Engine { verdict: stalled(), reason }.into());
            }
            return Err(cause.into());
        }
        match outcome {
            Ok(Ended::Properly) => {}
            Ok(Ended::Stalled) => {
                self.detours.blocked += u32::from(progress.is_classic);
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
        match pushed.map(|pushed| Descriptor { digest: pushed.digest.clone(), size: pushed.size }) {
            Some(pushed) => Ok(pushed),
            None => Ok(self.confirm(subject).await.ok_or_else(|| PushError::Unconfirmed {
                reference: self.reference.familiar(),
                tag: tag.to_owned(),
            })?),
        }
    }

    /// Takes the other name away again, and returns it.
    async fn end_detour(&mut self, tag: TemporaryTag) -> Reference {
        let name = tag.name.clone();
        if let Err(error) = self.engine.remove(tag).await {
            let name = name.familiar();
            self.warn(format!("the tag {name} could not be removed ({error}): `docker rmi {name}`"));
        }
        name
    }

    /// Gives the image another name to be pushed under, if a push under its own would not move.
    async fn take_a_detour(&mut self) -> Result<(), PushError> {
        let Detours { blocked, is_closed, .. } = *self.detours;
        if blocked == 0 || blocked > Detours::MOST || is_closed {
            return Ok(());
        }
        let Some(name) = self.reference.under_another_name(blocked) else { return Ok(()) };
        let is_free = match self.engine.inspect(&name).await {
            Err(EngineError::Answered { status, .. }) => status == StatusCode::NOT_FOUND,
            Err(error @ EngineError::Transport(_)) => return Err(self.engine_error(error)),
            _ => false,
        };
        if !is_free {
            let name = name.familiar();
            self.presenter.note(&format!("not pushing under the name {name}: an image has it"));
            return Ok(());
        }
        match self.engine.tag(self.reference, &name).await {
            Ok(tag) => {
                let names = (self.reference.familiar_repository(), name.familiar_repository());
                self.presenter.note(&format!(
                    "the engine hangs in an upload to {}: pushing under the registry's other name, {}",
                    names.0, names.1
                ));
                self.detours.tag = Some(tag);
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
            let named = self.remote.named(self.engine, subject).await.ok()??;
            let own = inspect(self.engine, subject).await.ok()?;
            Some(named).filter(|named| own.has_digest(&named.digest))
        };
        let named = tokio::time::timeout(CONFIRMATION, asked).await.ok()??;
        self.record.verified = Some(true);
        self.presenter.note("the engine named no digest; the registry was asked, and has the image");
        Some(named)
    }

    /// Reads the stream to its end, and shows it.
    async fn follow(&mut self, credentials: &Credentials) -> Result<Ended, EngineError> {
        let Self { presenter, record, engine, detours, .. } = self;
        let progress = &mut record.progress;
        let reference = detours.tag.as_ref().map_or(self.reference, |tag| &tag.name);
        let request = PushRequest { reference, credentials };
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
        let mut ticks = presenter.period().map(|period| {
            let mut ticks = interval_at(Instant::now() + period, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        let mut deadline: Option<Instant> = None;
        loop {
            let stalls = Some(watchdog.deadline(progress)).filter(|_| is_watched);
            let gone_on = tokio::select! {
                // What has come counts before the time that has passed: we may have been stopped for a while.
                biased;
                () = until(deadline) => false,
                more = stream.next(|event| {
                    presenter.event(&event, progress);
                    let has_changed = progress.apply(&event);
                    watchdog.saw(&event, has_changed, Instant::now());
                }) => more?,
                () = next_tick(&mut ticks) => {
                    presenter.tick(progress);
                    true
                }
                () = until(stalls) => {
                    if !engine.stop(stream).await {
                        presenter.note("the engine did not say that it gave up the push");
                    }
                    return Ok(Ended::Stalled);
                }
            };
            if !gone_on {
                return Ok(Ended::Properly);
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
                self.engine.local_images(ASIDE).await.ok().and_then(|images| suggest(self.reference, &images))
            }
            _ => None,
        };
        let tries = self.record.tries.clone();
        Refusal { cause, reference: self.reference.clone(), login, suggestion, tries }
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
        helps && questions > 0 && self.terminal.is_some() && refusal.login.source != Source::CommandLine
    }

    /// A login that somebody typed, and whether the registry has said that it is good.
    async fn ask(
        &mut self,
        username: Option<&str>,
        questions: &mut usize,
    ) -> Result<(Credentials, bool), PushError> {
        let mut question = Question {
            registry: self.reference.domain(),
            key: self.reference.credentials_key(),
            terminal: self.terminal.expect("checked by may_ask"),
            engine: self.engine,
        };
        let presenter = &mut *self.presenter;
        self.record.is_asking = true;
        let asked = question.ask(username, questions, |line| presenter.tell(line)).await;
        self.record.is_asking = false;
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
        self.presenter.tell(&format!("warning: {warning}"));
        self.record.warnings.push(warning);
    }
}

/// How a stream ended that did not break.
enum Ended {
    Properly,
    /// By us, since nothing moved.
    Stalled,
}

async fn next_tick(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => _ = ticks.tick().await,
        None => std::future::pending().await,
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
pub fn suggest(wanted: &Reference, images: &[LocalImage]) -> Option<Suggestion> {
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
            let image = |name: &&str| LocalImage { name: (*name).to_owned(), ..LocalImage::default() };
            let images: Vec<LocalImage> = here.iter().map(image).collect();
            assert_eq!(suggest(&wanted.parse().unwrap(), &images), want, "{wanted}");
        }
    }
}
