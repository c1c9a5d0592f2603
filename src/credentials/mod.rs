//! Which credentials a push goes with: the chain of sources, and what engines want to hear of them.
//!
//! `docker_credential` decodes the entries of config.json. It is always handed a config of one entry
//! made here, since its own choice among several is not docker's (measured: 35 of 80 cases agree).
//! Its types and error texts stay in this module: their `Debug` prints passwords.

mod helper;
pub mod prompt;
pub mod save;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use docker_credential::{DockerCredential, get_credential_from_reader};
use serde::Serialize;
use serde_json::{Value, json};

use crate::docker::config::{AuthEntry, Config, field};
use crate::reference::{HUB, HUB_CREDENTIALS_KEY, credentials_key};
use crate::secret::Secret;
use crate::text::clean;

/// What the engine is to show the registry: docker's `AuthConfig` (API 1.24 and later) without the
/// address. Nothing in it: anonymous.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// An OAuth refresh token, as helpers return it with the user `<token>`.
    pub identity_token: Option<Secret>,
    /// Sent to the registry as a Bearer token, as it is.
    pub registry_token: Option<Secret>,
}

/// What a registry is shown. Of several, engines use the last of these that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Password,
    IdentityToken,
    RegistryToken,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::IdentityToken => "identity-token",
            Self::RegistryToken => "registry-token",
        }
    }
}

impl Credentials {
    pub fn anonymous() -> Self {
        Self::default()
    }

    pub fn basic(username: String, password: Secret) -> Self {
        Self { username: Some(username), password: Some(password), ..Self::default() }
    }

    /// `None`: nothing that a registry could take. A user name alone is nothing.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self { registry_token: Some(_), .. } => Some(Kind::RegistryToken),
            Self { identity_token: Some(_), .. } => Some(Kind::IdentityToken),
            Self { password: Some(_), .. } => Some(Kind::Password),
            _ => None,
        }
    }

    pub fn is_anonymous(&self) -> bool {
        self.kind().is_none()
    }

    /// JSON as the engine takes it, without what is empty, as docker sends it. `server`: the reference's
    /// domain or the Hub's key; with any other the containerd store silently drops the credentials.
    pub fn auth_config(&self, server: &str) -> Secret {
        #[derive(Serialize)]
        struct AuthConfig<'a> {
            #[serde(skip_serializing_if = "str::is_empty")]
            username: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            password: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            serveraddress: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            identitytoken: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            registrytoken: &'a str,
        }
        let config = AuthConfig {
            username: self.username.as_deref().unwrap_or_default(),
            password: exposed(self.password.as_ref()),
            serveraddress: if self.is_anonymous() { "" } else { server },
            identitytoken: exposed(self.identity_token.as_ref()),
            registrytoken: exposed(self.registry_token.as_ref()),
        };
        Secret::new(serde_json::to_string(&config).expect("strings become JSON"))
    }

    /// The value of `X-Registry-Auth`: base64 of the JSON in the URL-safe alphabet *with* padding
    /// (RFC 4648, 5). Anything else the engine drops without a word, and pushes anonymously.
    pub fn header(&self, server: &str) -> Secret {
        Secret::new(URL_SAFE.encode(self.auth_config(server).expose()))
    }

    /// What must stand in no message, in each form that it is sent in.
    pub fn secrets(&self) -> Vec<Secret> {
        let tokens = [&self.identity_token, &self.registry_token, &self.password].into_iter().flatten();
        tokens.cloned().chain(self.packed()).collect()
    }

    /// base64 of `user:password`, as config.json and Basic authentication have it (RFC 7617, 2).
    pub fn packed(&self) -> Option<Secret> {
        let (username, password) = (self.username.as_ref()?, exposed(self.password.as_ref()));
        let pair = Secret::new(format!("{username}:{password}"));
        Some(Secret::new(STANDARD.encode(pair.expose())))
    }
}

fn exposed(secret: Option<&Secret>) -> &str {
    secret.map_or("", Secret::expose)
}

/// Where credentials came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `--username` with `--password-stdin`, or `--anonymous`.
    CommandLine,
    /// `DOCKER_AUTH_CONFIG`
    Variable,
    /// `docker-credential-NAME`
    Helper(String),
    /// `auths` of this file.
    File(PathBuf),
    /// Typed by the user.
    Prompt,
    /// Nothing was found anywhere.
    Nothing,
}

impl Source {
    /// The word for it in JSON and tables.
    pub fn name(&self) -> String {
        match self {
            Self::CommandLine => "command-line".to_owned(),
            Self::Variable => "DOCKER_AUTH_CONFIG".to_owned(),
            Self::Helper(name) => format!("helper:{}", clean(name)),
            Self::File(_) => "config".to_owned(),
            Self::Prompt => "prompt".to_owned(),
            Self::Nothing => "none".to_owned(),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("the command line"),
            Self::Variable => f.write_str("DOCKER_AUTH_CONFIG"),
            Self::Helper(name) => write!(f, "the credential helper `docker-credential-{}`", clean(name)),
            Self::File(path) => write!(f, "`{}`", path.display()),
            Self::Prompt => f.write_str("the prompt"),
            Self::Nothing => f.write_str("nowhere"),
        }
    }
}

/// A source that should have answered, and is broken.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("DOCKER_AUTH_CONFIG is not what docker expects: {reason}")]
    Variable { reason: String },
    #[error("the entry for {registry} in `{}` {problem}", path.display())]
    Entry { registry: String, path: PathBuf, problem: &'static str },
    /// `task`: `for R`, `to store the login for R`. `found`: what is there by that name, if anything.
    #[error("credential helper `docker-credential-{helper}`, wanted {task}, is no program in PATH{}", found.as_ref().map_or(String::new(), |found| format!(": {found}")))]
    HelperMissing { helper: String, task: String, found: Option<String> },
    #[error("credential helper `docker-credential-{helper}` failed {task}: {reason}")]
    HelperFailed { helper: String, task: String, reason: String },
}

/// Credentials for one registry, how they were found, and what is to be told of that.
#[derive(Debug)]
pub struct LookedUp {
    pub credentials: Credentials,
    pub login: Login,
    /// What the variable hides, which its owner may have forgotten.
    pub shadow: Option<String>,
    /// Of the broken sources; that of config.json was told when it was read.
    pub warnings: Vec<String>,
}

/// What a call went with, for messages.
#[derive(Clone, Debug)]
pub struct Login {
    pub username: Option<String>,
    pub anonymous: bool,
    pub source: Source,
    /// Why sources that should have answered did not.
    pub problems: Vec<String>,
    /// What is to be mended first.
    pub broken: Option<Broken>,
}

/// A source that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// config.json as a whole. `docker login` would write it anew, and lose what it cannot read.
    Config,
    Variable,
    /// `docker login` would use it too.
    Helper,
    /// One entry of config.json.
    Entry,
}

impl CredentialsError {
    fn broken(&self) -> Broken {
        match self {
            Self::Variable { .. } => Broken::Variable,
            Self::HelperMissing { .. } | Self::HelperFailed { .. } => Broken::Helper,
            Self::Entry { .. } => Broken::Entry,
        }
    }
}

impl Login {
    pub fn new(credentials: &Credentials, source: Source, problems: Vec<String>) -> Self {
        let username = credentials.username.as_deref().map(clean);
        Self { username, anonymous: credentials.is_anonymous(), source, problems, broken: None }
    }

    /// Whose it was, and where it came from, after which others failed.
    pub fn describe(&self) -> String {
        let login = match (&self.username, &self.source) {
            (Some(username), Source::Prompt) => format!("user `{username}`, as typed"),
            (Some(username), source) => format!("user `{username}` from {source}"),
            (None, source) => format!("the token from {source}"),
        };
        if self.problems.is_empty() { login } else { format!("{login} ({})", self.problems.join("; ")) }
    }

    /// Why there was none.
    pub fn describe_nothing(&self) -> String {
        match (&self.source, self.problems.is_empty()) {
            (Source::CommandLine, _) => "--anonymous was given: no credentials were sent".to_owned(),
            (_, true) => "there are no credentials for it".to_owned(),
            (_, false) => format!("no credentials were found for it ({})", self.problems.join("; ")),
        }
    }

    /// What to mend before another login can help.
    pub fn broken_hint(&self) -> Option<&'static str> {
        Some(match self.broken? {
            Broken::Config => {
                "mend config.json first: `docker login` would write it anew, and lose what it cannot read; for one call there is `--username NAME --password-stdin`"
            }
            Broken::Variable => {
                "mend or unset DOCKER_AUTH_CONFIG; for one call there is `--username NAME --password-stdin`"
            }
            Broken::Helper => {
                "see to the credential helper first, which `docker login` uses too; for one call there is `--username NAME --password-stdin`"
            }
            Broken::Entry => return None,
        })
    }
}

/// One line of what Docker holds.
#[derive(Debug)]
pub struct Entry {
    /// `host[:port]`
    pub registry: String,
    pub source: Source,
    pub username: Option<String>,
    /// `None`: nothing but the name of the registry is kept.
    pub kind: Option<Kind>,
}

/// `docker login` keeps the tokens of its web login beside the Hub's key; they are no password.
const HUB_TOKEN_KEYS: [&str; 2] =
    ["https://index.docker.io/v1/access-token", "https://index.docker.io/v1/refresh-token"];

/// Everything that may hold credentials, in the order it is asked.
#[derive(Debug)]
pub struct Keyring {
    /// From the command line; nothing else is asked then.
    pub given: Option<Credentials>,
    /// The text of `DOCKER_AUTH_CONFIG`.
    pub variable: Option<Secret>,
    pub config: Config,
    /// Why config.json could not be read; told already, and part of the explanation at a refusal.
    pub config_problem: Option<String>,
    /// How long a helper may take; `None` where its user may be typing a PIN.
    pub patience: Option<Duration>,
}

impl Keyring {
    /// Asks the sources in turn: command line, `DOCKER_AUTH_CONFIG`, `credHelpers`, `credsStore`,
    /// `auths`. One that has nothing, or is broken, leaves it to the next.
    ///
    /// docker stops at the first helper that is configured; credentials still lying in `auths`
    /// behind it are used here.
    ///
    /// * `registry`: its domain.
    /// * `tell`: told of a helper that has not answered within 3 s.
    pub async fn look_up(&self, registry: &str, tell: impl FnMut(&str)) -> LookedUp {
        let key = credentials_key(registry);
        let mut problems = Vec::new();
        let found = match &self.given {
            Some(credentials) => Some((credentials.clone(), Source::CommandLine)),
            None => self.search(key, &mut problems, tell).await,
        };
        let (credentials, source) = found.unwrap_or((Credentials::anonymous(), Source::Nothing));
        let shadowed = if source == Source::Variable { self.stored(key) } else { None };
        let shadow = shadowed
            .map(|stored| format!("DOCKER_AUTH_CONFIG goes before the login for {registry} in {stored}"));
        let broken = self.config_problem.as_ref().map(|_| Broken::Config);
        let broken = broken.or_else(|| problems.first().map(CredentialsError::broken));
        let warnings: Vec<String> = problems.iter().map(|problem| clean(&problem.to_string())).collect();
        let problems = self.config_problem.iter().chain(&warnings).cloned().collect();
        let login = Login { broken, ..Login::new(&credentials, source, problems) };
        LookedUp { credentials, login, shadow, warnings }
    }

    /// What the variable does to a login that has just been kept elsewhere.
    pub fn shadow_of_kept(&self, registry: &str) -> Option<String> {
        let variable = self.variable.as_ref()?;
        from_variable(variable, credentials_key(registry)).ok()??;
        Some(format!(
            "DOCKER_AUTH_CONFIG goes before it: unset that, or change it, to use the login for {registry} that was kept"
        ))
    }

    async fn search(
        &self,
        key: &str,
        problems: &mut Vec<CredentialsError>,
        mut tell: impl FnMut(&str),
    ) -> Option<(Credentials, Source)> {
        let mut keep = |result: Result<Option<Credentials>, CredentialsError>| {
            result.unwrap_or_else(|problem| {
                problems.push(problem);
                None
            })
        };
        if let Some(text) = &self.variable
            && let Some(credentials) = keep(from_variable(text, key))
        {
            return Some((credentials, Source::Variable));
        }
        if let Some(None) = self.config.credential_helpers.get(key) {
            keep(Err(self.bad_entry(key, "is, in `credHelpers`, not the name of a helper")));
        }
        let entry = entry_for(&self.config.auths, key);
        for name in helpers(&self.config, key) {
            if let Some(mut credentials) = keep(helper::get(&name, key, self.patience, &mut tell).await) {
                // No helper keeps one of these, so docker takes it from the file all the same.
                credentials.registry_token = entry.and_then(|(_, entry)| entry.registry_token.clone());
                return Some((credentials, Source::Helper(name)));
            }
        }
        let (name, entry) = entry?;
        let credentials = keep(decode(entry).map_err(|problem| self.bad_entry(name, problem)))?;
        Some((credentials, Source::File(self.config.path.clone())))
    }

    /// Where `docker login` has kept a login, as far as config.json tells.
    fn stored(&self, key: &str) -> Option<Source> {
        let (_, entry) = entry_for(&self.config.auths, key)?;
        if decode(entry).is_ok_and(|found| found.is_some()) {
            return Some(Source::File(self.config.path.clone()));
        }
        // It leaves an empty entry behind for what it gave to a helper.
        helpers(&self.config, key).into_iter().next().map(Source::Helper)
    }

    /// All registries that Docker holds something for, by name, with the source that would be used; and
    /// the sources that are broken. No registry is asked.
    ///
    /// * `tell`: told of a helper that has not answered within 3 s.
    pub async fn list(&self, mut tell: impl FnMut(&str)) -> (Vec<Entry>, Vec<CredentialsError>) {
        let (mut entries, mut problems) = (BTreeMap::new(), Vec::new());
        // What is put in first stays.
        let mut put = |name: &str, source: Source, username: Option<String>, kind: Option<Kind>| {
            if !HUB_TOKEN_KEYS.contains(&name) {
                let registry = shown(name);
                let entry = Entry { registry: registry.clone(), source, username, kind };
                entries.entry(registry).or_insert(entry);
            }
        };
        if let Some(text) = &self.variable {
            match read_variable(text) {
                Ok(auths) => {
                    for (name, auth) in auths {
                        match decode_auth(&auth) {
                            Ok((username, _)) => {
                                put(&name, Source::Variable, Some(username), Some(Kind::Password));
                            }
                            Err(problem) => problems.push(bad_variable_entry(&name, problem)),
                        }
                    }
                }
                Err(problem) => problems.push(problem),
            }
        }
        let store = credentials_store(&self.config);
        let own = self.config.credential_helpers.iter();
        let own = own.filter_map(|(name, helper)| Some((name, helper.as_ref()?)));
        let mut names: Vec<&String> = own.clone().map(|(_, helper)| helper).chain(&store).collect();
        names.retain(|name| !name.is_empty());
        names.sort();
        names.dedup();
        for name in names {
            let kept = match helper::list(name, self.patience, &mut tell).await {
                Ok(kept) => kept,
                Err(problem) => {
                    problems.push(problem);
                    BTreeMap::new()
                }
            };
            for (registry, username) in kept {
                if helpers(&self.config, &registry).first() == Some(name) {
                    let kind = if username == helper::TOKEN { Kind::IdentityToken } else { Kind::Password };
                    let username = Some(username).filter(|_| kind == Kind::Password);
                    put(&registry, Source::Helper(name.clone()), username, Some(kind));
                }
            }
        }
        let file = || Source::File(self.config.path.clone());
        for (name, entry) in &self.config.auths {
            match decode(entry) {
                Ok(Some(found)) => {
                    let kind = found.kind();
                    put(name, file(), found.username, kind);
                }
                // Only a name: what a helper was given, or nothing.
                Ok(None) => {}
                Err(problem) => problems.push(self.bad_entry(name, problem)),
            }
        }
        for (name, source) in registries(&self.config) {
            put(&name, source, None, None);
        }
        (entries.into_values().collect(), problems)
    }

    fn bad_entry(&self, registry: &str, problem: &'static str) -> CredentialsError {
        CredentialsError::Entry { registry: clean(registry), path: self.config.path.clone(), problem }
    }
}

/// The helper for every registry: `credsStore`, or where nothing at all is configured the one that docker
/// takes for this system, if it is installed.
///
/// Source: docker/cli `cli/config/credentials/default_store*.go`.
pub fn credentials_store(config: &Config) -> Option<String> {
    let is_configured = !config.auths.is_empty() || !config.credential_helpers.is_empty();
    if config.credentials_store.is_some() || is_configured {
        return config.credentials_store.clone();
    }
    let name = match std::env::consts::OS {
        "windows" => "wincred",
        "macos" => "osxkeychain",
        "linux" if helper::is_installed("pass") => "pass",
        "linux" => "secretservice",
        _ => return None,
    };
    helper::is_installed(&format!("{}{name}", helper::PREFIX)).then(|| name.to_owned())
}

/// The helpers to be asked for a registry, in this order: its own, the one for all. An empty name in
/// `credHelpers` forces `auths`.
fn helpers(config: &Config, key: &str) -> Vec<String> {
    let own = config.credential_helpers.get(key).cloned().flatten();
    if own.as_ref().is_some_and(String::is_empty) {
        return Vec::new();
    }
    let mut helpers: Vec<String> = own.into_iter().chain(credentials_store(config)).collect();
    helpers.dedup();
    helpers
}

/// The registries that config.json names, each with where its credentials are. For completion, and where a
/// helper does not tell.
pub fn registries(config: &Config) -> BTreeMap<String, Source> {
    let file = || Source::File(config.path.clone());
    let stored = config.auths.keys().filter(|name| !HUB_TOKEN_KEYS.contains(&name.as_str()));
    let stored =
        stored.map(|name| (shown(name), config.credentials_store.clone().map_or_else(file, Source::Helper)));
    let own = config.credential_helpers.iter().map(|(name, helper)| {
        let helper = helper.clone().filter(|helper| !helper.is_empty());
        (shown(name), helper.map_or_else(file, Source::Helper))
    });
    stored.chain(own).collect()
}

/// The registry as people write it.
fn shown(name: &str) -> String {
    if name == HUB_CREDENTIALS_KEY { HUB.to_owned() } else { clean(&host(name)) }
}

/// `localhost:5000` of `https://me@localhost:5000/v1/` and `localhost:5000/v1`, which older logins wrote.
fn host(name: &str) -> String {
    match name.split_once("://") {
        Some((_, rest)) => {
            let authority = rest.split('/').next().unwrap_or_default();
            authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_owned()
        }
        None => name.split('/').next().unwrap_or_default().to_owned(),
    }
}

/// The exact key, else the first whose host is the key: older logins wrote `https://host/v1/`.
fn entry_for<'a>(auths: &'a BTreeMap<String, AuthEntry>, key: &str) -> Option<(&'a str, &'a AuthEntry)> {
    let exact = auths.get_key_value(key);
    let by_host =
        || auths.iter().find(|(name, _)| !HUB_TOKEN_KEYS.contains(&name.as_str()) && host(name) == key);
    exact.or_else(by_host).map(|(name, entry)| (name.as_str(), entry))
}

/// `Ok(None)`: there is no login in it.
fn decode(entry: &AuthEntry) -> Result<Option<Credentials>, &'static str> {
    if entry.is_malformed {
        return Err("is not what docker expects there");
    }
    let (username, password) = match &entry.auth {
        Some(auth) => decode_auth(auth).map(|(username, password)| (Some(username), Some(password)))?,
        None => (entry.username.clone(), entry.password.clone()),
    };
    let identity_token = entry.identity_token.clone();
    // Beside a token docker keeps an empty password.
    let password = password.filter(|password| identity_token.is_none() || !password.expose().is_empty());
    let registry_token = entry.registry_token.clone();
    let credentials = Credentials { username, password, identity_token, registry_token };
    Ok(Some(credentials).filter(|credentials| !credentials.is_anonymous()))
}

/// base64 of `user:password`, in which docker allows line ends, and NULs behind the password.
fn decode_auth(auth: &Secret) -> Result<(String, Secret), &'static str> {
    let packed: String = auth.expose().chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    let config = Secret::new(json!({"auths": {"x": {"auth": packed}}}).to_string());
    match get_credential_from_reader(config.expose().as_bytes(), "x") {
        Ok(DockerCredential::UsernamePassword(username, password)) if !username.is_empty() => {
            let password = Secret::new(password);
            let trimmed = password.expose().trim_end_matches('\0').to_owned();
            Ok((username, Secret::new(trimmed)))
        }
        Ok(DockerCredential::UsernamePassword(..)) => Err("has an `auth` without a user name"),
        _ => Err("has an `auth` that is not the base64 of `user:password`"),
    }
}

/// `DOCKER_AUTH_CONFIG` as docker reads it since 28.3: strictly, its keys in any case; base64 by registry.
fn read_variable(text: &Secret) -> Result<BTreeMap<String, Secret>, CredentialsError> {
    let broken = |reason: String| CredentialsError::Variable { reason };
    // serde's own message could quote a secret that stands where something else is expected.
    let variable: Value = serde_json::from_str(text.expose())
        .map_err(|error| broken(format!("line {}, column {}", error.line(), error.column())))?;
    let auths = only_field(&variable, "auths").map_err(broken)?;
    let entries = auths.as_object().ok_or_else(|| broken("`auths` is no object".to_owned()))?;
    let auth = |(registry, entry): (&String, &Value)| {
        let auth =
            only_field(entry, "auth").and_then(|auth| auth.as_str().ok_or("`auth` is no text".to_owned()));
        let auth =
            auth.map_err(|reason| broken(format!("in the entry for {}, {reason}", clean(registry))))?;
        Ok((registry.clone(), Secret::new(auth.to_owned())))
    };
    entries.iter().map(auth).collect()
}

/// The one field that an object may have.
fn only_field<'a>(object: &'a Value, key: &str) -> Result<&'a Value, String> {
    let fields = object.as_object().ok_or("something else than an object is there")?;
    match fields.iter().find(|(name, _)| !name.eq_ignore_ascii_case(key)) {
        Some((other, _)) => Err(format!("`{}` is not known", clean(other))),
        None => field(object, key).ok_or_else(|| format!("`{key}` is missing")),
    }
}

/// What it holds for this very key. (docker leaves all of it aside for one bad entry.)
fn from_variable(text: &Secret, key: &str) -> Result<Option<Credentials>, CredentialsError> {
    let Some(auth) = read_variable(text)?.remove(key) else { return Ok(None) };
    let (username, password) = decode_auth(&auth).map_err(|problem| bad_variable_entry(key, problem))?;
    Ok(Some(Credentials::basic(username, password)))
}

fn bad_variable_entry(registry: &str, problem: &str) -> CredentialsError {
    CredentialsError::Variable { reason: format!("the entry for {} {problem}", clean(registry)) }
}

/// What an environment variable does that its owner may have forgotten.
pub const SHADOWS: &str = "DOCKER_AUTH_CONFIG goes before every `docker login`: change or unset it";

/// For the Hub docker needs no name, and with none logs in by the browser.
pub fn docker_login(registry: &str) -> String {
    if registry == HUB { "docker login".to_owned() } else { format!("docker login {registry}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(auth: Option<&str>) -> AuthEntry {
        AuthEntry { auth: auth.map(|auth| Secret::new(auth.to_owned())), ..AuthEntry::default() }
    }

    fn basic(username: &str, password: &str) -> Credentials {
        Credentials::basic(username.to_owned(), Secret::new(password.to_owned()))
    }

    /// Clear text, to compare.
    fn shown(credentials: &Credentials) -> String {
        credentials.auth_config("h").expose().to_owned()
    }

    #[test]
    fn the_header_is_what_docker_sends() {
        let table = [
            (
                basic("alice", "s3cret"),
                "localhost:5001",
                "eyJ1c2VybmFtZSI6ImFsaWNlIiwicGFzc3dvcmQiOiJzM2NyZXQiLCJzZXJ2ZXJhZGRyZXNzIjoibG9jYWxob3N0OjUwMDEifQ==",
            ),
            (Credentials::anonymous(), "localhost:5001", "e30="),
        ];
        for (credentials, server, want) in table {
            assert_eq!(credentials.header(server).expose(), want);
        }
        // The same in the standard alphabet has `+` and `/`, which engines drop in silence.
        let header = basic("a", "~~~???>>>").header("h");
        assert!(
            header.expose().contains(['-', '_']) && !header.expose().contains(['+', '/']),
            "{}",
            header.expose()
        );
    }

    #[test]
    fn the_body_is_what_docker_sends() {
        let token = |text: &str| Some(Secret::new(text.to_owned()));
        let identity = || Credentials { identity_token: token("ID"), ..Credentials::default() };
        let table = [
            (Credentials::anonymous(), "{}"),
            (
                Credentials { username: Some("bob".to_owned()), ..Credentials::default() },
                "{\"username\":\"bob\"}",
            ),
            (basic("bob", "filepw"), r#"{"username":"bob","password":"filepw","serveraddress":"h"}"#),
            (basic("bob", ""), r#"{"username":"bob","serveraddress":"h"}"#),
            (identity(), r#"{"serveraddress":"h","identitytoken":"ID"}"#),
            (
                Credentials { identity_token: token("ID"), ..basic("bob", "pw") },
                r#"{"username":"bob","password":"pw","serveraddress":"h","identitytoken":"ID"}"#,
            ),
            (
                Credentials { registry_token: token("RT"), ..identity() },
                r#"{"serveraddress":"h","identitytoken":"ID","registrytoken":"RT"}"#,
            ),
        ];
        for (credentials, want) in table {
            assert_eq!(shown(&credentials), want);
        }
    }

    #[test]
    fn entries_are_decoded_as_docker_does() {
        // base64 of: bob:a:b · bob:pw\0\0 · :pw · bob
        let table = [
            (entry(Some("Ym9iOmE6Yg==")), Ok(Some(shown(&basic("bob", "a:b"))))),
            (entry(Some("Ym9i\nOmE6\r\nYg==")), Ok(Some(shown(&basic("bob", "a:b"))))),
            (entry(Some("Ym9iOnB3AAA=")), Ok(Some(shown(&basic("bob", "pw"))))),
            (entry(Some("OnB3")), Err("has an `auth` without a user name")),
            (entry(Some("Ym9i")), Err("has an `auth` that is not the base64 of `user:password`")),
            (entry(Some("%%%")), Err("has an `auth` that is not the base64 of `user:password`")),
            (entry(None), Ok(None)),
        ];
        for (entry, want) in table {
            assert_eq!(
                decode(&entry).map(|found| found.as_ref().map(shown)),
                want,
                "{:?}",
                entry.auth.map(|a| a.expose().to_owned())
            );
        }
        let plain = AuthEntry {
            username: Some("bob".to_owned()),
            password: Some(Secret::new("pw".to_owned())),
            ..AuthEntry::default()
        };
        assert_eq!(decode(&plain).unwrap().as_ref().map(shown), Some(shown(&basic("bob", "pw"))));
        let token =
            AuthEntry { identity_token: Some(Secret::new("ID".to_owned())), ..entry(Some("Ym9iOg==")) };
        let want = r#"{"username":"bob","serveraddress":"h","identitytoken":"ID"}"#;
        assert_eq!(decode(&token).unwrap().as_ref().map(shown).as_deref(), Some(want));
    }

    #[test]
    fn keys_of_older_logins_are_found() {
        let hub = "https://index.docker.io/v1/";
        let keys = ["https://h.example.com/v1/", "http://other.example.com", "path.example.com/v2/", hub];
        let mut auths: BTreeMap<_, _> = keys.iter().map(|key| ((*key).to_owned(), entry(None))).collect();
        auths.extend(HUB_TOKEN_KEYS.map(|key| (key.to_owned(), entry(None))));
        let table = [
            ("h.example.com", Some("https://h.example.com/v1/")),
            ("other.example.com", Some("http://other.example.com")),
            ("path.example.com", Some("path.example.com/v2/")),
            ("h.example.com:5000", None),
            (hub, Some(hub)),
            ("index.docker.io", Some(hub)),
        ];
        for (key, want) in table {
            assert_eq!(entry_for(&auths, key).map(|(name, _)| name), want, "{key}");
        }
        auths.remove(hub);
        assert!(
            entry_for(&auths, "index.docker.io").is_none(),
            "the tokens of the web login are no password"
        );
    }

    #[test]
    fn the_variable_is_read_strictly() {
        let read = |text: &str| {
            from_variable(&Secret::new(text.to_owned()), "h")
                .map(|found| found.as_ref().map(shown))
                .map_err(|e| e.to_string())
        };
        assert_eq!(read(r#"{"auths":{"h":{"auth":"Ym9iOnB3"}}}"#), Ok(Some(shown(&basic("bob", "pw")))));
        assert_eq!(read(r#"{"auths":{"https://h/v1/":{"auth":"Ym9iOnB3"}}}"#), Ok(None));
        for text in
            ["", "{}x", r#"{"auths":{},"more":1}"#, r#"{"auths":{"h":{}}}"#, r#"{"auths":{"h":"s3cret"}}"#]
        {
            let error = read(text).unwrap_err();
            assert!(error.starts_with("DOCKER_AUTH_CONFIG is not") && !error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn debug_and_errors_show_no_secret() {
        let credentials = basic("alice", "hunter2");
        let login = Login::new(&credentials, Source::Prompt, Vec::new());
        let found = LookedUp { credentials, login, shadow: None, warnings: Vec::new() };
        let keyring = Keyring {
            given: Some(basic("alice", "hunter2")),
            variable: Some(Secret::new("hunter2".to_owned())),
            config: Config::default(),
            config_problem: None,
            patience: None,
        };
        assert!(!format!("{found:?}{keyring:?}").contains("hunter2"));
    }
}
