//! Describes the credentials that a call used: their user, their source, and which sources failed.

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
    /// No source has credentials.
    Nothing,
}

impl Source {
    /// Returns the name used in JSON and tables.
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

/// A broken source of credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("cannot parse DOCKER_AUTH_CONFIG: {reason}")]
    Variable { reason: String },
    #[error("the entry for {registry} in `{}` {problem}", path.display())]
    Entry { registry: String, path: PathBuf, problem: &'static str },
    /// `task`: `for R`, `to store the login for R`. `found`: the file of that name, if any, and why it cannot
    /// be run.
    #[error("credential helper `docker-credential-{helper}`, needed {task}, is not in PATH{}", found.as_ref().map_or(String::new(), |found| format!(": {found}")))]
    HelperMissing { helper: String, task: String, found: Option<String> },
    #[error("credential helper `docker-credential-{helper}` failed {task}: {reason}")]
    HelperFailed { helper: String, task: String, reason: String },
}

/// Describes the credentials that a call used, for messages.
#[derive(Clone, Debug)]
pub struct Login {
    pub username: Option<String>,
    pub anonymous: bool,
    pub source: Source,
    /// The error of each broken source.
    pub problems: Vec<String>,
    /// The broken source that must be fixed first.
    pub broken: Option<Broken>,
}

/// The kinds of broken source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// All of config.json. `docker login` would rewrite it, and lose what it cannot read.
    Config,
    Variable,
    /// A credential helper, which `docker login` would use too.
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

    /// Returns the user and the source, and the errors of the broken sources.
    pub fn describe(&self) -> String {
        let login = match (&self.username, &self.source) {
            (Some(username), source) => format!("user `{username}` from {source}"),
            (None, source) => format!("the token from {source}"),
        };
        if self.problems.is_empty() { login } else { format!("{login} ({})", self.problems.join("; ")) }
    }

    /// Explains why there were no credentials.
    pub fn describe_nothing(&self) -> String {
        match (&self.source, self.problems.is_empty()) {
            (Source::CommandLine, _) => "--anonymous was given".to_owned(),
            (_, true) => "no credentials are stored for it".to_owned(),
            (_, false) => format!("no credentials were found for it ({})", self.problems.join("; ")),
        }
    }

    /// Returns what to fix before other credentials can help.
    pub fn broken_hint(&self) -> Option<&'static str> {
        Some(match self.broken? {
            Broken::Config => {
                "fix config.json first: `docker login` would overwrite what it cannot parse; for this call, pass `--username NAME --password-stdin`"
            }
            Broken::Variable => {
                "fix or unset DOCKER_AUTH_CONFIG; for this call, pass `--username NAME --password-stdin`"
            }
            Broken::Helper => {
                "fix the credential helper first, `docker login` uses it too; for this call, pass `--username NAME --password-stdin`"
            }
            Broken::Entry => return None,
        })
    }
}

/// The hint if credentials from the variable are refused: the user may have forgotten the variable.
pub const SHADOWS: &str = "DOCKER_AUTH_CONFIG overrides `docker login`; change or unset it";

/// Returns the command to type. Without a name, docker logs in to the Hub, through the browser.
pub fn docker_login(registry: &str) -> String {
    if registry == HUB { "docker login".to_owned() } else { format!("docker login {registry}") }
}
