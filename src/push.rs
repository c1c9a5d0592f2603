//! The use case: one image to its registry, with the conversation that a refusal leads to.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::credentials::prompt::Terminal;
use crate::credentials::{Credentials, Keyring, Known, Login, Source};
use crate::engine::{Engine, EngineError, LocalImage, PushRequest};
use crate::failure::{Class, Evidence, Verdict, classify};
use crate::login::{LoginError, QUESTIONS, Question};
use crate::present::Presenter;
use crate::progress::{Progress, PushedTag};
use crate::reference::Reference;
use crate::text::{clean, with_causes};

/// After a refusal the engine has nothing more to say that matters.
const AFTER_REFUSAL: Duration = Duration::from_secs(2);
/// How long the engine may take to list its images, where that only makes a message better.
const ASIDE: Duration = Duration::from_secs(2);
/// How long the engine may take to ask the registry what it did not say itself.
const CONFIRMATION: Duration = Duration::from_secs(30);
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
    #[error(transparent)]
    Login(LoginError),
}

/// A push that engine or registry refused, with all that explains it.
#[derive(Debug)]
pub struct Refusal {
    pub verdict: Verdict,
    /// The engine's text, cleaned.
    pub reason: String,
    pub reference: Reference,
    pub login: Login,
    /// What may have been meant, if the image was not found.
    pub suggestion: Option<Suggestion>,
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
        let Self { reference, login, reason, .. } = self;
        let registry = reference.domain();
        write!(f, "cannot push {}: ", reference.familiar())?;
        match self.verdict.class {
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
    pub attempts: u32,
    pub progress: Progress,
    pub login: Option<Login>,
    /// The registry was asked what it serves, and that is the image.
    pub verified: Option<bool>,
    pub warnings: Vec<String>,
}

/// One image on its way.
pub struct Push<'a> {
    pub reference: &'a Reference,
    pub engine: &'a mut Engine,
    pub keyring: &'a mut Keyring,
    /// Whom to ask for a login; nobody with `--no-prompt`.
    pub terminal: Option<&'a Terminal>,
    pub presenter: &'a mut dyn Presenter,
    pub record: &'a mut Record,
    /// Whether a login that was typed or given for this call is kept, once the registry has taken it.
    pub save: &'a mut bool,
}

impl Push<'_> {
    /// Pushes with what Docker holds for the registry; if that is refused, asks, checks the
    /// answer, and pushes again.
    ///
    /// # Errors
    /// [`PushError`]; the record tells how far it came.
    pub async fn run(mut self) -> Result<PushedTag, PushError> {
        let key = self.reference.credentials_key();
        let Known { mut credentials, mut login, .. } = self.look_up(key).await;
        let mut same_again = true;
        let mut questions = QUESTIONS;
        // That the registry took the login, said before the push could say it.
        let mut is_accepted = false;
        loop {
            self.record.login = Some(login.clone());
            let verdict = match self.attempt(&credentials).await? {
                Ok(pushed) => {
                    self.keep(key, &credentials).await;
                    return Ok(pushed);
                }
                Err(verdict) => verdict,
            };
            // A token can expire while layers move; the same login then gets a new one.
            if verdict.class == Class::Auth
                && !login.anonymous
                && same_again
                && self.record.progress.has_moved()
            {
                same_again = false;
                self.presenter.note("the login expired on the way; pushing on with the same");
                continue;
            }
            let refusal = self.refusal(verdict, login.clone()).await;
            if is_accepted && refusal.verdict.class != Class::Auth {
                // The login is good, whatever else is wrong with this push.
                self.keep(key, &credentials).await;
            }
            if !self.may_ask(&refusal, questions) {
                return Err(PushError::Refused(Box::new(refusal)));
            }
            self.presenter.tell(&refusal.to_string());
            (credentials, is_accepted) = self.ask(login.username.as_deref(), &mut questions).await?;
            login = Login::new(&credentials, Source::Prompt, Vec::new());
            let (credentials, login) = (credentials.clone(), login.clone());
            self.keyring.known = Some(Known { key: key.to_owned(), credentials, login });
        }
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

    /// One push to its end: the digest of the tag, or why it was refused.
    async fn attempt(&mut self, credentials: &Credentials) -> Result<Result<PushedTag, Verdict>, PushError> {
        self.record.attempts += 1;
        self.record.progress = Progress::default();
        let outcome = self.follow(credentials).await;
        self.presenter.finish();
        let repository = self.reference.repository();
        let evidence = |message, http_status| Evidence {
            message,
            http_status,
            content_missing: self.record.progress.content_missing,
            phase: self.record.progress.phase(),
            credentials_sent: !credentials.is_anonymous(),
            repository: &repository,
        };
        // A refusal counts even where the stream broke behind it.
        if let Some(message) = &self.record.progress.refusal {
            return Ok(Err(classify(&evidence(message, None))));
        }
        match outcome {
            Ok(()) => {}
            Err(EngineError::Answered { status, message }) => {
                let verdict = classify(&evidence(&message, Some(status.as_u16())));
                let reason = if message.trim().is_empty() { status.to_string() } else { message };
                self.record.progress.refusal = Some(reason);
                return Ok(Err(verdict));
            }
            Err(error) => {
                let error = self.engine.explain(error).await;
                return Err(self.engine_error(error));
            }
        }
        let tag = self.reference.tag_or_latest();
        let pushed = self.record.progress.pushed.iter().find(|pushed| pushed.tag == tag).cloned();
        match pushed {
            Some(pushed) => Ok(Ok(pushed)),
            None => self.confirm(credentials).await.map(Ok).ok_or_else(|| PushError::Unconfirmed {
                reference: self.reference.familiar(),
                tag: tag.to_owned(),
            }),
        }
    }

    /// Has the engine ask the registry what the tag names, since the engine itself did not say (docker 24
    /// with the containerd store ends without a digest, podman before 3 with nothing at all). Believed
    /// if the engine's own image goes by that digest.
    async fn confirm(&mut self, credentials: &Credentials) -> Option<PushedTag> {
        let request = PushRequest { reference: self.reference, credentials };
        let asked = async {
            let named = self.engine.in_registry(&request).await.ok()??;
            let own = self.engine.digests(self.reference).await.ok()?;
            Some(named).filter(|(digest, _)| own.contains(digest))
        };
        let (digest, size) = tokio::time::timeout(CONFIRMATION, asked).await.ok()??;
        self.record.verified = Some(true);
        self.presenter.note("the engine named no digest; the registry was asked, and has the image");
        Some(PushedTag { tag: self.reference.tag_or_latest().to_owned(), digest, size })
    }

    /// Reads the stream to its end, and shows it.
    async fn follow(&mut self, credentials: &Credentials) -> Result<(), EngineError> {
        let Self { presenter, record, .. } = self;
        let progress = &mut record.progress;
        let request = PushRequest { reference: self.reference, credentials };
        let mut stream = self.engine.push(&request).await?;
        let mut ticks = presenter.period().map(|period| {
            let mut ticks = interval_at(Instant::now() + period, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        let mut deadline: Option<Instant> = None;
        loop {
            let gone_on = tokio::select! {
                more = stream.next(|event| {
                    presenter.event(&event, progress);
                    progress.apply(&event);
                }) => more?,
                () = next_tick(&mut ticks) => {
                    presenter.tick(progress);
                    true
                }
                () = until(deadline) => false,
            };
            if !gone_on {
                return Ok(());
            }
            if progress.refusal.is_some() && deadline.is_none() {
                deadline = Some(Instant::now() + AFTER_REFUSAL);
            }
        }
    }

    async fn refusal(&mut self, verdict: Verdict, login: Login) -> Refusal {
        let reason = clean(self.record.progress.refusal.as_deref().unwrap_or_default());
        let suggestion = match verdict.class {
            // Failing to ask would only have made the message better.
            Class::NotFound => {
                self.engine.local_images(ASIDE).await.ok().and_then(|images| suggest(self.reference, &images))
            }
            _ => None,
        };
        Refusal { verdict, reason, reference: self.reference.clone(), login, suggestion }
    }

    /// Somebody is there, was not asked too often, and another login could help. Credentials given
    /// for this call alone are the user's last word; and who typed a good login, but may not write,
    /// is not asked again.
    fn may_ask(&self, refusal: &Refusal, questions: usize) -> bool {
        let helps = match refusal.verdict.class {
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
        let asked = question.ask(username, questions, |line| presenter.tell(line)).await;
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
        self.presenter.tell(&format!("warning: {warning}"));
        self.record.warnings.push(warning);
    }
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
