//! Whose credentials a call uses, where they came from, and which sources failed.

use std::fmt;
use std::path::PathBuf;

use crate::credentials::Credentials;
use crate::reference::HUB;
use crate::text::sanitize;

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
            Self::Helper(name) => format!("helper:{}", sanitize(name)),
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
            Self::Helper(name) => write!(f, "the credential helper `docker-credential-{}`", sanitize(name)),
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

/// The login that a call used, for messages.
#[derive(Clone, Debug)]
pub struct Login {
    pub username: Option<String>,
    pub anonymous: bool,
    pub source: Source,
    /// Why sources that should have answered did not.
    pub problems: Vec<String>,
    /// The broken source that must be repaired first.
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
    pub(super) fn broken(&self) -> Broken {
        match self {
            Self::Variable { .. } => Broken::Variable,
            Self::HelperMissing { .. } | Self::HelperFailed { .. } => Broken::Helper,
            Self::Entry { .. } => Broken::Entry,
        }
    }
}

impl Login {
    pub fn new(credentials: &Credentials, source: Source, problems: Vec<String>) -> Self {
        let username = credentials.username.as_deref().map(sanitize);
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

/// What an environment variable does that its owner may have forgotten.
pub const SHADOWS: &str = "DOCKER_AUTH_CONFIG goes before every `docker login`: change or unset it";

/// For the Hub docker needs no name, and with none logs in by the browser.
pub fn docker_login(registry: &str) -> String {
    if registry == HUB { "docker login".to_owned() } else { format!("docker login {registry}") }
}
