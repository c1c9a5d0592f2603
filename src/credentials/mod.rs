//! Which credentials a push goes with: the chain of sources, and what engines want to hear of them.
//!
//! `docker_credential` decodes the entries of config.json. It is always handed a config of one entry
//! made here, since its own choice among several is not docker's (measured: 35 of 80 cases agree).
//! Its types and error texts stay in this module: their `Debug` prints passwords.

mod helper;
pub mod prompt;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use docker_credential::{DockerCredential, get_credential_from_reader};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::config::{AuthEntry, Config};
use crate::reference::{HUB, HUB_CREDENTIALS_KEY};
use crate::secret::Secret;
use crate::text::clean;

/// What the engine is to show the registry.
#[derive(Clone, Debug)]
pub enum Credentials {
    Anonymous,
    Basic {
        username: String,
        password: Secret,
    },
    /// An OAuth refresh token, as helpers return it with the user `<token>`.
    IdentityToken {
        username: Option<String>,
        token: Secret,
    },
    /// Sent to the registry as a Bearer token, as it is.
    RegistryToken(Secret),
}

/// The engine's `AuthConfig` (API 1.24 and later). Empty fields are left out, as docker does.
#[derive(Serialize)]
struct AuthConfig<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serveraddress: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identitytoken: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    registrytoken: Option<&'a str>,
}

impl Credentials {
    pub fn is_anonymous(&self) -> bool {
        matches!(self, Self::Anonymous)
    }

    /// The account they belong to, where they name one.
    pub fn username(&self) -> Option<&str> {
        match self {
            Self::Basic { username, .. } => Some(username),
            Self::IdentityToken { username, .. } => username.as_deref(),
            Self::Anonymous | Self::RegistryToken(_) => None,
        }
    }

    /// JSON as the engine takes it. `server`: the reference's domain or the Hub's key; with any
    /// other the containerd store silently drops the credentials.
    pub fn auth_config(&self, server: &str) -> Secret {
        let mut config = AuthConfig {
            username: self.username(),
            password: None,
            serveraddress: Some(server),
            identitytoken: None,
            registrytoken: None,
        };
        match self {
            Self::Anonymous => config.serveraddress = None,
            Self::Basic { password, .. } => config.password = Some(password.expose()),
            Self::IdentityToken { token, .. } => config.identitytoken = Some(token.expose()),
            Self::RegistryToken(token) => config.registrytoken = Some(token.expose()),
        }
        Secret::new(serde_json::to_string(&config).expect("strings become JSON"))
    }

    /// The value of `X-Registry-Auth`: base64 of the JSON in the URL-safe alphabet *with* padding
    /// (RFC 4648, 5). Anything else the engine drops without a word, and pushes anonymously.
    pub fn header(&self, server: &str) -> Secret {
        Secret::new(URL_SAFE.encode(self.auth_config(server).expose()))
    }
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
    /// The word for it in JSON.
    pub fn name(&self) -> String {
        match self {
            Self::CommandLine => "command-line".to_owned(),
            Self::Variable => "DOCKER_AUTH_CONFIG".to_owned(),
            Self::Helper(name) => format!("helper:{name}"),
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
            Self::Helper(name) => write!(f, "the credential helper `docker-credential-{name}`"),
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
    #[error("credential helper `docker-credential-{helper}`, wanted for {registry}, is no program in PATH")]
    HelperMissing { helper: String, registry: String },
    #[error("credential helper `docker-credential-{helper}` failed for {registry}: {reason}")]
    HelperFailed { helper: String, registry: String, reason: String },
}

/// Credentials for one registry, and how they were found.
#[derive(Debug)]
pub struct Found {
    pub credentials: Credentials,
    pub source: Source,
    /// Sources that were asked before and are broken.
    pub problems: Vec<CredentialsError>,
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
    /// What was found or typed before in this call: neither a helper nor a user is asked twice.
    pub known: Option<Known>,
}

/// Credentials of one registry that are in use.
#[derive(Clone, Debug)]
pub struct Known {
    /// [`crate::reference::Reference::credentials_key`]
    pub key: String,
    pub credentials: Credentials,
    pub source: Source,
    /// Of the sources that were asked before; told already.
    pub problems: Vec<String>,
}

impl Keyring {
    /// Asks the sources in turn: command line, `DOCKER_AUTH_CONFIG`, `credHelpers`, `credsStore`,
    /// `auths`. One that has nothing, or is broken, leaves it to the next.
    ///
    /// docker stops at the first helper that is configured; credentials still lying in `auths`
    /// behind it are used here.
    ///
    /// * `key`: [`crate::reference::Reference::credentials_key`]
    /// * `on_slow`: called with the name of a helper that has not answered within 3 s.
    pub async fn find(&self, key: &str, on_slow: impl FnMut(&str)) -> Found {
        if let Some(credentials) = &self.given {
            return Found {
                credentials: credentials.clone(),
                source: Source::CommandLine,
                problems: Vec::new(),
            };
        }
        let mut problems = Vec::new();
        let (credentials, source) = match self.search(key, &mut problems, on_slow).await {
            Some((credentials, source)) => (credentials, source),
            None => (Credentials::Anonymous, Source::Nothing),
        };
        Found { credentials, source, problems }
    }

    async fn search(
        &self,
        key: &str,
        problems: &mut Vec<CredentialsError>,
        mut on_slow: impl FnMut(&str),
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
        let own = self.config.credential_helpers.get(key);
        if let Some(None) = own {
            keep(Err(self.bad_entry(key, "is, in `credHelpers`, not the name of a helper")));
        }
        let own = own.and_then(Option::as_ref);
        // An empty name in `credHelpers` forces `auths` for this registry.
        let store =
            self.config.credentials_store.as_ref().filter(|_| own.is_none_or(|name| !name.is_empty()));
        let mut helpers: Vec<&String> =
            own.into_iter().chain(store).filter(|name| !name.is_empty()).collect();
        helpers.dedup();
        for name in helpers {
            if let Some(credentials) = keep(helper::get(name, key, self.patience, &mut on_slow).await) {
                return Some((credentials, Source::Helper(name.clone())));
            }
        }
        let (name, entry) = entry_for(&self.config.auths, key)?;
        let credentials = keep(decode(entry).map_err(|problem| self.bad_entry(name, problem)))?;
        Some((credentials, Source::File(self.config.path.clone())))
    }

    fn bad_entry(&self, registry: &str, problem: &'static str) -> CredentialsError {
        CredentialsError::Entry { registry: clean(registry), path: self.config.path.clone(), problem }
    }
}

/// The registries that config.json names, each with where its credentials are. For completion.
pub fn registries(config: &Config) -> BTreeMap<String, Source> {
    let shown = |name: &str| if name == HUB_CREDENTIALS_KEY { HUB.to_owned() } else { host(name).to_owned() };
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

/// `localhost:5000` of `https://localhost:5000/v1/`, which older logins wrote.
fn host(name: &str) -> &str {
    let rest = name.split_once("://").map_or(name, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

/// The exact key, else the first whose host is the key: older logins wrote `https://host/v1/`.
fn entry_for<'a>(auths: &'a BTreeMap<String, AuthEntry>, key: &str) -> Option<(&'a str, &'a AuthEntry)> {
    let exact = auths.get_key_value(key);
    let by_host =
        || auths.iter().find(|(name, _)| !HUB_TOKEN_KEYS.contains(&name.as_str()) && host(name) == key);
    exact.or_else(by_host).map(|(name, entry)| (name.as_str(), entry))
}

fn decode(entry: &AuthEntry) -> Result<Option<Credentials>, &'static str> {
    if entry.is_malformed {
        return Err("is not what docker expects there");
    }
    let basic = match (&entry.auth, &entry.username, &entry.password) {
        (Some(auth), _, _) => Some(decode_auth(auth)?),
        (None, Some(username), Some(password)) => Some((username.clone(), password.clone())),
        _ => None,
    };
    if let Some(token) = &entry.registry_token {
        return Ok(Some(Credentials::RegistryToken(token.clone())));
    }
    if let Some(token) = &entry.identity_token {
        let username = basic.map(|(username, _)| username).or_else(|| entry.username.clone());
        return Ok(Some(Credentials::IdentityToken { username, token: token.clone() }));
    }
    Ok(basic.map(|(username, password)| Credentials::Basic { username, password }))
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

/// `DOCKER_AUTH_CONFIG` as docker reads it since 28.3: strictly, and by the exact key.
fn from_variable(text: &Secret, key: &str) -> Result<Option<Credentials>, CredentialsError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Variable {
        auths: BTreeMap<String, Entry>,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Entry {
        auth: String,
    }
    let broken = |reason: String| CredentialsError::Variable { reason };
    // serde's own message could quote a secret that stands where something else is expected.
    let variable: Variable = serde_json::from_str(text.expose())
        .map_err(|error| broken(format!("line {}, column {}", error.line(), error.column())))?;
    match variable.auths.get(key) {
        None => Ok(None),
        Some(entry) => match decode_auth(&Secret::new(entry.auth.clone())) {
            Ok((username, password)) => Ok(Some(Credentials::Basic { username, password })),
            Err(problem) => Err(broken(format!("the entry for {key} {problem}"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(auth: Option<&str>) -> AuthEntry {
        AuthEntry { auth: auth.map(|auth| Secret::new(auth.to_owned())), ..AuthEntry::default() }
    }

    fn basic(username: &str, password: &str) -> Credentials {
        Credentials::Basic { username: username.to_owned(), password: Secret::new(password.to_owned()) }
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
            (Credentials::Anonymous, "localhost:5001", "e30="),
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
        let token = |text: &str| Secret::new(text.to_owned());
        let table = [
            (Credentials::Anonymous, "{}"),
            (basic("bob", "filepw"), r#"{"username":"bob","password":"filepw","serveraddress":"h"}"#),
            (
                Credentials::IdentityToken { username: None, token: token("ID") },
                r#"{"serveraddress":"h","identitytoken":"ID"}"#,
            ),
            (
                Credentials::IdentityToken { username: Some("bob".to_owned()), token: token("ID") },
                r#"{"username":"bob","serveraddress":"h","identitytoken":"ID"}"#,
            ),
            (Credentials::RegistryToken(token("RT")), r#"{"serveraddress":"h","registrytoken":"RT"}"#),
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
        let found =
            Found { credentials: basic("alice", "hunter2"), source: Source::Prompt, problems: Vec::new() };
        let keyring = Keyring {
            known: None,
            given: Some(basic("alice", "hunter2")),
            variable: Some(Secret::new("hunter2".to_owned())),
            config: Config::default(),
            config_problem: None,
            patience: None,
        };
        assert!(!format!("{found:?}{keyring:?}").contains("hunter2"));
    }
}
