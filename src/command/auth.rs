//! `auth`: which login Docker holds for a registry, and whether the registry takes it.

use serde::Serialize;

use super::table::table;
use super::{engine, keyring, password_from_stdin, print, tell, trace};
use crate::cli::{AuthOptions, DockerOptions, ListFormat};
use crate::credentials::prompt::Terminal;
use crate::credentials::{Credentials, Entry, Keyring, Kind, Login, Source};
use crate::engine::Engine;
use crate::error::{Error, Told};
use crate::login::{Checked, LoginError, QUESTIONS, Question, check};
use crate::reference::{HUB, credentials_key, registry_domain};
use crate::registry::{Access, Registry};
use crate::secret::Secret;
use crate::text::clean;

/// One line of `--format json`. A public format: fields may be added, never renamed.
#[derive(Serialize)]
struct Line<'a> {
    registry: &'a str,
    source: String,
    username: Option<&'a str>,
    kind: Option<&'static str>,
    /// `null`: the registry was not asked, or did not say.
    accepted: Option<bool>,
    warnings: &'a [String],
    error: Option<Told>,
}

/// What the command line says; it may read stdin.
///
/// # Errors
/// There is no password on stdin.
pub fn given(options: &AuthOptions) -> Result<Option<Credentials>, Error> {
    let Some(username) = options.username.clone().filter(|_| options.password_stdin) else { return Ok(None) };
    Ok(Some(Credentials::basic(username, password_from_stdin()?)))
}

/// # Errors
/// There is no login, the registry does not take it, or nobody could be asked.
pub async fn run(
    docker: &DockerOptions,
    options: &AuthOptions,
    given: Option<Credentials>,
    auth_config: Option<Secret>,
) -> Result<(), Error> {
    let mut warnings = Vec::new();
    let warn = |warning: String| {
        tell(&format!("warning: {warning}"));
        warnings.push(warning);
    };
    let (keyring, terminal) = keyring(docker, given, auth_config, warn)?;
    let Some(typed) = &options.registry else { return list(&keyring, options.format).await };
    let domain = registry_domain(typed).ok_or_else(|| Error::RegistryName { typed: typed.clone() })?;
    let mut call = Call { docker, options, keyring, terminal, domain, warnings };
    let (held, result) = call.held().await;
    call.report(&held, &result)?;
    result.map(drop)
}

/// Every registry that Docker holds a login for; nothing is sent to any of them.
async fn list(keyring: &Keyring, format: ListFormat) -> Result<(), Error> {
    let (entries, problems) = keyring.list(tell).await;
    for problem in problems {
        tell(&format!("warning: {}", clean(&problem.to_string())));
    }
    let text = match format {
        ListFormat::Table => {
            let row = |entry: &Entry| {
                let username = entry.username.as_deref().map(clean).unwrap_or_default();
                let kind = entry.kind.map(Kind::name).unwrap_or_default().to_owned();
                [entry.registry.clone(), entry.source.name(), username, kind]
            };
            table(["REGISTRY", "SOURCE", "USERNAME", "KIND"], entries.iter().map(row))
        }
        ListFormat::Json => entries
            .iter()
            .map(|entry| {
                let line = Line {
                    registry: &entry.registry,
                    source: entry.source.name(),
                    username: entry.username.as_deref(),
                    kind: entry.kind.map(Kind::name),
                    accepted: None,
                    warnings: &[],
                    error: None,
                };
                json_line(&line)
            })
            .collect(),
    };
    print(&text)
}

fn json_line(line: &Line<'_>) -> String {
    serde_json::to_string(line).expect("strings become JSON") + "\n"
}

/// One question about one registry.
struct Call<'a> {
    docker: &'a DockerOptions,
    options: &'a AuthOptions,
    keyring: Keyring,
    terminal: Option<Terminal>,
    domain: String,
    warnings: Vec<String>,
}

/// A login for the registry, with where it is from.
struct Held {
    credentials: Credentials,
    login: Login,
}

impl Call<'_> {
    /// The login in question, and what the registry says of it; with `--login`, the one that is kept.
    async fn held(&mut self) -> (Held, Result<(), Error>) {
        let nothing = Credentials::anonymous();
        let mut held =
            Held { login: Login::new(&nothing, Source::Nothing, Vec::new()), credentials: nothing };
        let result =
            if self.options.login { self.log_in(&mut held).await } else { self.check(&mut held).await };
        (held, result)
    }

    async fn check(&mut self, held: &mut Held) -> Result<(), Error> {
        let key = credentials_key(&self.domain).to_owned();
        let found = self.keyring.find(&key, tell).await;
        if let Some(told) = found.shadow_told(&self.domain) {
            tell(&told);
        }
        let mut problems: Vec<String> = Vec::new();
        for problem in &found.problems {
            let problem = clean(&problem.to_string());
            self.warn(problem.clone());
            problems.push(problem);
        }
        problems.splice(..0, self.keyring.config_problem.clone());
        held.login = Login::new(&found.credentials, found.source, problems);
        held.credentials = found.credentials;
        if held.credentials.is_anonymous() {
            return Err(Error::NoLogin {
                registry: self.domain.clone(),
                login: Box::new(held.login.clone()),
            });
        }
        let mut engine = engine(self.docker, &self.keyring.config).await?;
        if held.credentials.kind() == Some(Kind::RegistryToken) {
            return self.show_to_registry(held, &mut engine).await;
        }
        let checked = check(&mut engine, held.credentials.clone(), &key).await?;
        let refused = |message| Error::LoginRefused {
            registry: self.domain.clone(),
            login: Box::new(held.login.clone()),
            message,
        };
        match checked {
            Ok(Checked { unchecked: None, .. }) => Ok(()),
            Ok(Checked { unchecked: Some(message), .. }) => {
                Err(Error::Unchecked { registry: self.domain.clone(), message })
            }
            Err(message) => Err(refused(message)),
        }
    }

    /// Engines leave out a registry token when they check a login.
    async fn show_to_registry(&self, held: &Held, engine: &mut Engine) -> Result<(), Error> {
        let settings = engine.registry_settings().await?;
        let access = Access::new(&self.domain, &settings, held.credentials.clone(), held.login.clone());
        let access = Access { trace: trace(self.docker), ..access.await };
        Ok(Registry::connect(&self.domain, access).await?.accepts().await?)
    }

    async fn log_in(&mut self, held: &mut Held) -> Result<(), Error> {
        let key = credentials_key(&self.domain).to_owned();
        let username = self.options.username.as_deref();
        if self.domain == HUB && username.is_none() {
            return Err(Error::WebLogin);
        }
        let credentials = if let Some(given) = self.keyring.given.take() {
            let mut engine = engine(self.docker, &self.keyring.config).await?;
            held.login = Login::new(&given, Source::CommandLine, Vec::new());
            held.credentials = given.clone();
            let refused = |message| Error::LoginRefused {
                registry: self.domain.clone(),
                login: Box::new(held.login.clone()),
                message,
            };
            check(&mut engine, given, &key).await?.map_err(refused)?
        } else {
            let terminal = self.terminal.as_ref();
            let terminal = terminal.ok_or_else(|| Error::NoTerminal { registry: self.domain.clone() })?;
            let mut engine = engine(self.docker, &self.keyring.config).await?;
            let mut question = Question { registry: &self.domain, key: &key, terminal, engine: &mut engine };
            let asked = question.ask(username, &mut QUESTIONS.clone(), tell).await;
            asked.map_err(|error| match error {
                LoginError::Engine(error) => Error::Engine(error),
                error => Error::from(error),
            })?
        };
        if let Some(message) = credentials.unchecked {
            return Err(Error::Unchecked { registry: self.domain.clone(), message });
        }
        let kept = self.keyring.save(&key, &credentials.credentials, tell).await?;
        held.login = Login::new(&credentials.credentials, kept.place.clone(), Vec::new());
        held.credentials = credentials.credentials;
        tell(&kept.to_string());
        if let Some(warning) = kept.warning() {
            tell(&warning);
        }
        if self.keyring.variable.is_some() {
            // It would go before what has just been kept.
            let found = self.keyring.find(&key, tell).await;
            if let Some(told) = found.shadow_told(&self.domain) {
                self.warn(told);
            }
        }
        Ok(())
    }

    fn warn(&mut self, warning: String) {
        tell(&format!("warning: {warning}"));
        self.warnings.push(warning);
    }

    fn report(&self, Held { credentials, login }: &Held, result: &Result<(), Error>) -> Result<(), Error> {
        let kind = credentials.kind().map(Kind::name);
        let accepted = match result {
            Ok(()) | Err(Error::Save(_)) => Some(true),
            Err(Error::LoginRefused { .. }) => Some(false),
            Err(_) => None,
        };
        match self.options.format {
            ListFormat::Json => print(&json_line(&Line {
                registry: &self.domain,
                source: login.source.name(),
                username: login.username.as_deref(),
                kind,
                accepted,
                warnings: &self.warnings,
                error: result.as_ref().err().map(Told::new),
            })),
            ListFormat::Table if kind.is_some() => {
                let accepted = match accepted {
                    Some(true) => "yes",
                    Some(false) => "no",
                    None => "unknown",
                };
                let row = [
                    self.domain.clone(),
                    login.source.name(),
                    login.username.clone().unwrap_or_default(),
                    kind.unwrap_or_default().to_owned(),
                    accepted.to_owned(),
                ];
                print(&table(["REGISTRY", "SOURCE", "USERNAME", "KIND", "ACCEPTED"], [row]))
            }
            // There is nothing to show, and the error says so.
            ListFormat::Table => Ok(()),
        }
    }
}
