//! The command `auth`: shows which credentials Docker has for a registry, and whether the registry accepts these
//! credentials.

use std::time::SystemTime;

use humantime::format_rfc3339_seconds;
use serde::Serialize;

use crate::cli::{AuthOptions, CredentialArgs, DockerOptions, ListFormat};
use crate::command::table::table;
use crate::credentials::command::Given;
use crate::credentials::keyring::{Entry, Keyring, LookedUp, Wanted};
use crate::credentials::login::{Login, Source};
use crate::credentials::prompt::Terminal;
use crate::credentials::{Credentials, Kind, expiry};
use crate::docker::context::without_user;
use crate::engine::Engine;
use crate::error::{Error, ErrorReport};
use crate::failure::Class;
use crate::net::is_on_loopback;
use crate::print::{print, tell, warn};
use crate::push::conversation::{MAX_PROMPTS, PromptRequest};
use crate::push::login::{Checked, LoginError, Question, check};
use crate::reference::{HUB, Reference, credentials_key, registry_domain};
use crate::registry::Registry;
use crate::registry::access::ConnectionOptions;
use crate::registry::error::RegistryError;
use crate::secret::Secret;
use crate::setup::{connection, engine, given_login, keyring, registry};
use crate::text::sanitize;

/// One line of the output of `auth --format json`. The format is public: fields may be added, but never renamed.
#[derive(Serialize)]
struct Line<'a> {
    registry: &'a str,
    /// The repository whose rights were checked: `HOST/PATH`. `null` without one.
    repository: Option<String>,
    source: String,
    username: Option<&'a str>,
    kind: Option<&'static str>,
    /// Whether the registry accepts the credentials. `null` if the credentials were not checked, or if the registry's
    /// response was unclear.
    accepted: Option<bool>,
    /// Whether the registry asks for credentials. `null` if the registry was not queried, or if its response was unclear.
    asked: Option<bool>,
    /// Whether the credentials may pull from the repository. `null` if unknown, or without a repository.
    pull: Option<bool>,
    /// Whether the credentials may push to the repository. `null` if unknown, or without a repository.
    push: Option<bool>,
    /// When the secret expires, in the format of RFC 3339. `null` if the secret does not contain its end, or if the plugin
    /// did not read the secret.
    expires: Option<String>,
    warnings: &'a [String],
    error: Option<ErrorReport>,
}

/// Returns the credentials of the options, as [`given_login`] does.
///
/// # Errors
/// The password on stdin is missing, unreadable or too long.
pub fn given(options: &AuthOptions) -> Result<Option<Given>, Error> {
    let AuthOptions { username, password_stdin, password_command, .. } = options.clone();
    given_login(&CredentialArgs { username, password_stdin, password_command, anonymous: false })
}

/// Runs the command `auth`.
///
/// # Errors
/// Docker has no credentials for the registry, the registry refuses the credentials, or no terminal is available for
/// a prompt.
pub async fn run(
    docker: &DockerOptions,
    options: &AuthOptions,
    given: Option<Given>,
    auth_config: Option<Secret>,
) -> Result<(), Error> {
    let mut warnings = Vec::new();
    let (keyring, terminal) = keyring(docker, given, auth_config, |warning| {
        warn(&warning);
        warnings.push(warning);
    })?;
    let Some(typed) = &options.registry else { return list(&keyring, options.format).await };
    let (domain, repository) = place(typed)
        .filter(|(_, repository)| repository.is_none() || !options.login)
        .ok_or_else(|| Error::RegistryName { typed: without_user(typed) })?;
    let rights = Rights::default();
    let connection = connection(&options.connection)?;
    let mut call = Call {
        connection,
        docker,
        options,
        keyring,
        terminal,
        domain,
        repository,
        warnings,
        asked: None,
        rights,
    };
    let (answer, result) = call.answer().await;
    call.report(&answer, &result)?;
    if result.is_ok() && call.asked == Some(false) {
        tell(&format!("{} requires no credentials at `/v2/`", call.domain));
    }
    result
}

/// Splits what the user typed into the domain of the registry and the repository, if any. The paths `/v1/` and `/v2/` of a
/// registry's URL are not a repository.
fn place(typed: &str) -> Option<(String, Option<Reference>)> {
    let rest = typed.split_once("://").map_or(typed, |(_, rest)| rest).trim_end_matches('/');
    match rest.split_once('/') {
        None | Some((_, "v1" | "v2")) => Some((registry_domain(typed)?, None)),
        Some(_) => {
            let repository: Reference = rest.parse().ok()?;
            Some((repository.domain().to_owned(), Some(repository)))
        }
    }
}

/// Prints every registry for which Docker has credentials. Contacts no registry.
async fn list(keyring: &Keyring, format: ListFormat) -> Result<(), Error> {
    let (entries, problems) = keyring.list(tell).await;
    for problem in problems {
        warn(&sanitize(&problem.to_string()));
    }
    let text = match format {
        ListFormat::Table => {
            let row = |entry: &Entry| {
                let username = entry.username.as_deref().map(sanitize).unwrap_or_default();
                let kind = entry.kind.map(Kind::name).unwrap_or_default().to_owned();
                [entry.registry.clone(), entry.source.name(), username, kind, time(entry.expires)]
            };
            table(["REGISTRY", "SOURCE", "USERNAME", "KIND", "EXPIRES"], entries.iter().map(row))
        }
        ListFormat::Json => entries
            .iter()
            .map(|entry| {
                let line = Line {
                    registry: &entry.registry,
                    repository: None,
                    source: entry.source.name(),
                    username: entry.username.as_deref(),
                    kind: entry.kind.map(Kind::name),
                    accepted: None,
                    asked: None,
                    pull: None,
                    push: None,
                    expires: entry.expires.map(|end| format_rfc3339_seconds(end).to_string()),
                    warnings: &[],
                    error: None,
                };
                json_line(&line)
            })
            .collect(),
    };
    print(&text)
}

/// Formats a time for a table; an empty string if there is none.
fn time(end: Option<SystemTime>) -> String {
    end.map(|end| expiry::clock(end, SystemTime::now())).unwrap_or_default()
}

fn json_line(line: &Line<'_>) -> String {
    serde_json::to_string(line).expect("strings become JSON") + "\n"
}

/// The state of one run of `auth` for one registry.
struct Call<'a> {
    connection: ConnectionOptions,
    docker: &'a DockerOptions,
    options: &'a AuthOptions,
    keyring: Keyring,
    terminal: Option<Terminal>,
    domain: String,
    repository: Option<Reference>,
    warnings: Vec<String>,
    /// Whether the registry asks for credentials; `None`: not known.
    asked: Option<bool>,
    rights: Rights,
}

/// The actions in the repository that the registry allows; `None`: not known.
#[derive(Default)]
struct Rights {
    pull: Option<bool>,
    push: Option<bool>,
}

/// The credentials that `auth` checks or saves, and the source of these credentials.
struct Answer {
    credentials: Credentials,
    login: Login,
}

impl Answer {
    fn new(credentials: &Credentials, source: Source) -> Self {
        Self { credentials: credentials.clone(), login: Login::new(credentials, source, Vec::new()) }
    }
}

/// Returns whether a request was allowed; `None` if the response does not tell.
fn is_allowed(response: &Result<(), RegistryError>) -> Option<bool> {
    match response {
        // The registry has begun the upload, so it lets the account write.
        Ok(()) | Err(RegistryError::NoLocation { .. } | RegistryError::UploadElsewhere { .. }) => Some(true),
        Err(error) if matches!(error.class(), Class::Auth | Class::Denied | Class::Rejected) => Some(false),
        Err(_) => None,
    }
}

fn yes_or_no(answer: Option<bool>) -> String {
    let word = match answer {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown",
    };
    word.to_owned()
}

impl Call<'_> {
    /// Checks the credentials that Docker has for the registry or, with `--login`, logs in and saves new credentials.
    /// Returns the credentials, and the result of the check or login.
    async fn answer(&mut self) -> (Answer, Result<(), Error>) {
        let mut answer = Answer::new(&Credentials::anonymous(), Source::Nothing);
        let result =
            if self.options.login { self.log_in(&mut answer).await } else { self.check(&mut answer).await };
        if matches!(result, Ok(()) | Err(Error::NoLogin { .. })) {
            self.find_rights(&answer).await;
        }
        if result.is_ok()
            && let Some(note) = answer.login.expiry_note(&self.domain)
        {
            tell(&note);
        }
        (answer, result)
    }

    /// Asks the registry what the credentials may do in the repository. Changes nothing there: an upload is started, and
    /// cancelled.
    async fn find_rights(&mut self, Answer { credentials, login }: &Answer) {
        let Some(repository) = &self.repository else { return };
        let Ok(mut engine) = engine(self.docker, &self.keyring.config).await else { return };
        let (credentials, login) = (credentials.clone(), login.clone());
        let connected = self.connect(&mut engine, credentials, login).await;
        let Ok(registry) = connected else { return };
        // A registry that answers that the tag does not exist has let the request pass.
        let pull = registry.resolve(repository.path(), "latest").await.map(drop);
        let push = registry.probe_upload(repository.path(), None).await;
        self.rights = Rights { pull: is_allowed(&pull), push: is_allowed(&push) };
    }

    async fn check(&mut self, answer: &mut Answer) -> Result<(), Error> {
        let found = self.keyring.look_up(&self.wanted(), tell).await;
        if let Some(shadow) = found.shadow {
            tell(&shadow);
        }
        for warning in found.warnings {
            self.warn(warning);
        }
        *answer = Answer { credentials: found.credentials, login: found.login };
        if let Some(error) = found.failure {
            return Err(LoginError::Command(error).into());
        }
        if answer.credentials.is_anonymous() {
            // Without an engine, the plugin does not know how to connect to the registry.
            if let Ok(mut engine) = engine(self.docker, &self.keyring.config).await {
                self.find_out_if_asked(&mut engine).await?;
            }
            if self.asked == Some(false) {
                return Ok(());
            }
            let login = Box::new(answer.login.clone());
            return Err(Error::NoLogin { registry: self.domain.clone(), login });
        }
        let mut engine = engine(self.docker, &self.keyring.config).await?;
        // Engines do not check registry tokens, so the plugin sends the token to the registry.
        if answer.credentials.kind() == Some(Kind::RegistryToken) {
            let (credentials, login) = (answer.credentials.clone(), answer.login.clone());
            let registry = self.connect(&mut engine, credentials, login).await?;
            self.asked = registry.asks_for_credentials();
            return Ok(registry.accepts().await?);
        }
        self.find_out_if_asked(&mut engine).await?;
        match self.asked {
            Some(false) => Ok(()),
            _ => self.checked(answer, &mut engine).await.map(drop),
        }
    }

    /// Finds out whether the registry asks for credentials at `/v2/`. Sends no credentials. If the registry does not
    /// answer, the engine's later check counts.
    ///
    /// # Errors
    /// The engine cannot be reached, or a web page answers instead of the registry.
    async fn find_out_if_asked(&mut self, engine: &mut Engine) -> Result<(), Error> {
        let (nobody, is_here) = (Credentials::anonymous(), engine.endpoint().address.is_here());
        if !is_on_loopback(&self.domain) || is_here {
            let login = Login::new(&nobody, Source::Nothing, Vec::new());
            match self.connect(engine, nobody.clone(), login).await {
                Ok(registry) => {
                    self.asked = registry.asks_for_credentials();
                    return Ok(());
                }
                Err(Error::Registry(error))
                    if (error.is_web_page() && is_here) || self.connection.is_set() =>
                {
                    return Err(Error::Registry(error));
                }
                Err(Error::Registry(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if !is_here {
            // Without credentials, the engine's login fails if the registry asks for credentials.
            self.asked = match check(engine, None, nobody, credentials_key(&self.domain)).await? {
                Ok(Checked { unchecked: None, .. }) => Some(false),
                Ok(_) => None,
                Err(_) => Some(true),
            };
        }
        Ok(())
    }

    async fn connect(
        &self,
        engine: &mut Engine,
        credentials: Credentials,
        login: Login,
    ) -> Result<Registry, Error> {
        registry(self.docker, &self.connection, Some(engine), &self.domain, credentials, login).await
    }

    /// Returns the client with which the plugin checks credentials itself. `None`: the engine checks them.
    async fn of_call(&self, engine: &mut Engine) -> Result<Option<Registry>, Error> {
        if !self.connection.is_set() {
            return Ok(None);
        }
        let nobody = Credentials::anonymous();
        let login = Login::new(&nobody, Source::Nothing, Vec::new());
        self.connect(engine, nobody, login).await.map(Some)
    }

    /// Lets the registry check the credentials. An unclear response of the registry is an error.
    async fn checked(&self, answer: &Answer, engine: &mut Engine) -> Result<Credentials, Error> {
        let key = credentials_key(&self.domain);
        let of_call = self.of_call(engine).await?;
        match check(engine, of_call.as_ref(), answer.credentials.clone(), key).await? {
            Ok(checked) => self.sure(checked),
            Err(message) => Err(Error::LoginRefused {
                registry: self.domain.clone(),
                login: Box::new(answer.login.clone()),
                message,
            }),
        }
    }

    fn sure(&self, Checked { credentials, unchecked }: Checked) -> Result<Credentials, Error> {
        match unchecked {
            Some(message) if !self.options.force => {
                Err(Error::Unchecked { registry: self.domain.clone(), message })
            }
            _ => Ok(credentials),
        }
    }

    async fn log_in(&mut self, answer: &mut Answer) -> Result<(), Error> {
        let key = credentials_key(&self.domain).to_owned();
        let username = self.options.username.as_deref();
        if self.domain == HUB && username.is_none() {
            return Err(Error::WebLogin);
        }
        // Reads config.json before the prompt, so that the user does not type a password that cannot be saved.
        self.keyring.config_now()?;
        let given = match self.keyring.given {
            Some(_) => {
                let LookedUp { credentials, login, failure, .. } =
                    self.keyring.look_up(&self.wanted(), tell).await;
                *answer = Answer { credentials: credentials.clone(), login };
                if let Some(error) = failure {
                    return Err(LoginError::Command(error).into());
                }
                Some(credentials)
            }
            None => None,
        };
        let is_allowed = PromptRequest::to_log_in(self.terminal.is_some()).is_allowed();
        if given.is_none() && !is_allowed {
            return Err(Error::NoTerminal { registry: self.domain.clone() });
        }
        let mut engine = engine(self.docker, &self.keyring.config).await?;
        self.find_out_if_asked(&mut engine).await?;
        if self.asked == Some(false) && !self.options.force {
            self.warn(format!(
                "nothing was saved, since {} does not check credentials; use --force to save them anyway",
                self.domain
            ));
            return Ok(());
        }
        let credentials = match (given, &self.terminal) {
            (None, Some(terminal)) => {
                let of_call = self.of_call(&mut engine).await?;
                let mut question = Question {
                    registry: &self.domain,
                    of_call: of_call.as_ref(),
                    key: &key,
                    terminal,
                    engine: &mut engine,
                };
                let typed = question.ask(username, &mut MAX_PROMPTS.clone(), tell).await?;
                *answer = Answer::new(&typed.credentials, Source::Prompt);
                self.sure(typed)?
            }
            _ => self.checked(answer, &mut engine).await?,
        };
        let kept = self.keyring.save(&key, &credentials, tell).await?;
        *answer = Answer::new(&credentials, kept.place.clone());
        tell(&kept.to_string());
        if let Some(warning) = kept.plain_text_warning() {
            tell(&warning);
        }
        for warning in kept.unmarked.into_iter().chain(self.keyring.shadow_of_kept(&self.domain)) {
            self.warn(warning);
        }
        Ok(())
    }

    fn wanted(&self) -> Wanted<'_> {
        Wanted::to_push(&self.domain, self.repository.as_ref().map(Reference::path))
    }

    fn warn(&mut self, warning: String) {
        warn(&warning);
        self.warnings.push(warning);
    }

    fn report(&self, answer: &Answer, result: &Result<(), Error>) -> Result<(), Error> {
        let Answer { credentials, login } = answer;
        let kind = credentials.kind().map(Kind::name);
        let accepted = match result {
            Ok(()) | Err(Error::Save(_)) if kind.is_some() && self.asked != Some(false) => Some(true),
            Err(Error::LoginRefused { .. } | Error::Login(LoginError::GivenUp { .. })) => Some(false),
            Err(Error::Registry(error)) if error.class() == Class::Auth => Some(false),
            _ => None,
        };
        match self.options.format {
            ListFormat::Json => print(&json_line(&Line {
                registry: &self.domain,
                repository: self.repository.as_ref().map(Reference::repository),
                source: login.source.name(),
                username: login.username.as_deref(),
                kind,
                accepted,
                asked: self.asked,
                pull: self.rights.pull,
                push: self.rights.push,
                expires: login.expires.map(|end| format_rfc3339_seconds(end).to_string()),
                warnings: &self.warnings,
                error: result.as_ref().err().map(ErrorReport::new),
            })),
            ListFormat::Table
                if kind.is_some() || self.rights.pull.is_some() || self.rights.push.is_some() =>
            {
                let accepted = match accepted {
                    None if self.asked == Some(false) => "not asked".to_owned(),
                    accepted => yes_or_no(accepted),
                };
                let source = login.source.name();
                let username = login.username.clone().unwrap_or_default();
                let (kind, accepted) = (kind.unwrap_or_default().to_owned(), accepted);
                let expires = time(login.expires);
                print(&match &self.repository {
                    None => {
                        let row = [self.domain.clone(), source, username, kind, accepted, expires];
                        table(["REGISTRY", "SOURCE", "USERNAME", "KIND", "ACCEPTED", "EXPIRES"], [row])
                    }
                    Some(repository) => {
                        let [pull, push] = [self.rights.pull, self.rights.push].map(yes_or_no);
                        let name = repository.repository();
                        let row = [name, source, username, kind, accepted, pull, push, expires];
                        let heads = [
                            "REPOSITORY",
                            "SOURCE",
                            "USERNAME",
                            "KIND",
                            "ACCEPTED",
                            "PULL",
                            "PUSH",
                            "EXPIRES",
                        ];
                        table(heads, [row])
                    }
                })
            }
            // Without credentials, the table would have no row. The caller prints the error about missing
            // credentials.
            ListFormat::Table => Ok(()),
        }
    }
}
