//! The use case: one image to its registry, with the conversation that a refusal leads to.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::credentials::prompt::{PromptError, Terminal};
use crate::credentials::{Credentials, Keyring, Known, Source};
use crate::engine::{AuthAnswer, Engine, EngineError, LocalImage, PushRequest};
use crate::failure::{Class, Evidence, Verdict, classify};
use crate::present::Presenter;
use crate::progress::{Progress, PushedTag};
use crate::reference::Reference;
use crate::text::clean;

/// How often somebody is asked for a login.
const QUESTIONS: usize = 3;
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
    /// Nothing was typed that the registry could be asked about.
    #[error("no login was typed for {registry}")]
    NothingTyped { registry: String },
    #[error("{registry} accepted none of the {refused} logins typed")]
    GivenUp { registry: String, refused: usize },
    #[error("no login for {registry}")]
    Prompt {
        registry: String,
        #[source]
        source: PromptError,
    },
}

impl PushError {
    /// Somebody was asked for a login, and none came of it.
    pub fn is_unanswered(&self) -> bool {
        matches!(self, Self::NothingTyped { .. } | Self::GivenUp { .. } | Self::Prompt { .. })
    }
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

/// What a push went with.
#[derive(Clone, Debug)]
pub struct Login {
    pub username: Option<String>,
    pub anonymous: bool,
    pub source: Source,
    /// Why sources that should have answered did not.
    pub problems: Vec<String>,
}

impl Login {
    fn new(credentials: &Credentials, source: Source, problems: Vec<String>) -> Self {
        let username = credentials.username().map(clean);
        Self { username, anonymous: credentials.is_anonymous(), source, problems }
    }

    /// Whose it was, and where it came from, after which others failed.
    fn describe(&self) -> String {
        let login = match (&self.username, &self.source) {
            (Some(username), Source::Prompt) => format!("user `{username}`, as typed"),
            (Some(username), source) => format!("user `{username}` from {source}"),
            (None, source) => format!("the token from {source}"),
        };
        if self.problems.is_empty() { login } else { format!("{login} ({})", self.problems.join("; ")) }
    }

    /// Why there was none.
    fn describe_nothing(&self) -> String {
        match (&self.source, self.problems.is_empty()) {
            (Source::CommandLine, _) => "--anonymous was given: no credentials were sent".to_owned(),
            (_, true) => "there are no credentials for it".to_owned(),
            (_, false) => format!("no credentials were found for it ({})", self.problems.join("; ")),
        }
    }
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
}

impl Push<'_> {
    /// Pushes with what Docker holds for the registry; if that is refused, asks, checks the
    /// answer, and pushes again.
    ///
    /// # Errors
    /// [`PushError`]; the record tells how far it came.
    pub async fn run(mut self) -> Result<PushedTag, PushError> {
        let key = self.reference.credentials_key();
        let Known { mut credentials, source, problems, .. } = self.look_up(key).await;
        let mut login = Login::new(&credentials, source, problems);
        let mut same_again = true;
        let mut questions = QUESTIONS;
        loop {
            self.record.login = Some(login.clone());
            let verdict = match self.attempt(&credentials).await? {
                Ok(pushed) => return Ok(pushed),
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
            if !self.may_ask(&refusal, questions) {
                return Err(PushError::Refused(Box::new(refusal)));
            }
            self.presenter.tell(&refusal.to_string());
            credentials = self.ask(login.username.as_deref(), &mut questions).await?;
            login = Login::new(&credentials, Source::Prompt, Vec::new());
            self.keyring.known = Some(Known {
                key: key.to_owned(),
                credentials: credentials.clone(),
                source: Source::Prompt,
                problems: Vec::new(),
            });
        }
    }

    /// What the keyring holds for the registry; with warnings about it, the first time.
    async fn look_up(&mut self, key: &str) -> Known {
        if let Some(known) = self.keyring.known.as_ref().filter(|known| known.key == key) {
            return known.clone();
        }
        let presenter = &mut *self.presenter;
        let found = self
            .keyring
            .find(key, |helper| {
                presenter.tell(&format!("waiting for docker-credential-{helper}, asked for {key} …"))
            })
            .await;
        let problems: Vec<String> =
            found.problems.iter().map(|problem| clean(&problem.to_string())).collect();
        for problem in &problems {
            self.warn(problem.clone());
        }
        let problems = self.keyring.config_problem.iter().cloned().chain(problems).collect();
        let known =
            Known { key: key.to_owned(), credentials: found.credentials, source: found.source, problems };
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

    /// Asks until the registry takes a login. It is checked by the engine's `/auth`, so that a
    /// wrong password costs one failed login, not one for each layer.
    async fn ask(&mut self, username: Option<&str>, questions: &mut usize) -> Result<Credentials, PushError> {
        let registry = self.reference.domain();
        let terminal = self.terminal.expect("checked by may_ask");
        let mut username = username.map(str::to_owned);
        let mut refused = 0;
        while *questions > 0 {
            *questions -= 1;
            let asked = terminal.ask(username.as_deref()).await;
            let asked =
                asked.map_err(|source| PushError::Prompt { registry: registry.to_owned(), source })?;
            let (typed_name, password) = asked;
            username = typed_name;
            let (Some(name), Some(password)) = (&username, password) else {
                self.presenter.tell("a user name and a password are needed");
                continue;
            };
            if name.contains(':') {
                // Basic authentication would end it there (RFC 7617, 2).
                self.presenter.tell("a user name cannot have a colon");
                username = None;
                continue;
            }
            let typed = Credentials::Basic { username: name.clone(), password };
            let checked = self.engine.check(&typed, self.reference.credentials_key()).await;
            match checked.map_err(|error| self.engine_error(error))? {
                AuthAnswer::Accepted { identity_token: Some(token) } => {
                    return Ok(Credentials::IdentityToken { username, token });
                }
                AuthAnswer::Accepted { identity_token: None } => return Ok(typed),
                AuthAnswer::Refused { message } if is_about_login(&message) => {
                    refused += 1;
                    let who = username.as_deref().map(clean).unwrap_or_default();
                    self.presenter.tell(&format!(
                        "{registry} does not accept this password for `{who}`: {}",
                        clean(&message)
                    ));
                }
                // The engine could not ask the registry; the push itself will tell.
                AuthAnswer::Refused { .. } => return Ok(typed),
            }
        }
        let registry = registry.to_owned();
        Err(if refused == 0 {
            PushError::NothingTyped { registry }
        } else {
            PushError::GivenUp { registry, refused }
        })
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

/// Basic registries come as HTTP 500 with their 401 inside the text, so only the text can tell.
fn is_about_login(message: &str) -> bool {
    matches!(classify(&Evidence::of_text(message, true)).class, Class::Auth | Class::Denied)
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
            let image = |name: &&str| LocalImage { name: (*name).to_owned(), size: 0 };
            let images: Vec<LocalImage> = here.iter().map(image).collect();
            assert_eq!(suggest(&wanted.parse().unwrap(), &images), want, "{wanted}");
        }
    }

    #[test]
    fn tells_a_wrong_password_from_a_registry_that_cannot_be_asked() {
        let table = [
            ("login attempt to http://localhost:5001/v2/ failed with status: 401 Unauthorized", true),
            (r#"Get "https://h/v2/": unauthorized: incorrect username or password"#, true),
            (r#"Get "http://localhost:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused"#, false),
            ("login attempt to http://h/v2/ failed with status: 503 Service Unavailable", false),
        ];
        for (message, about_login) in table {
            assert_eq!(is_about_login(message), about_login, "{message}");
        }
    }
}
