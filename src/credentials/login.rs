//! Describes the credentials that the plugin used: the user name, the source, and the sources that failed.

use std::fmt;
use std::path::PathBuf;

use crate::credentials::Credentials;
use crate::reference::HUB;
use crate::text::sanitize;

/// The source of credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `--username` with `--password-stdin`, or `--anonymous`.
    CommandLine,
    /// `DOCKER_AUTH_CONFIG`
    Variable,
    /// `docker-credential-NAME`
    Helper(String),
    /// `auths` in the config.json at this path.
    File(PathBuf),
    /// The user typed the credentials at a prompt.
    Prompt,
    /// No source has credentials.
    Nothing,
}

impl Source {
    /// Returns the name of the source in JSON output and in tables.
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

/// An error in a source of credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("cannot parse DOCKER_AUTH_CONFIG: {reason}")]
    Variable { reason: String },
    #[error("the entry for {registry} in `{}` {problem}", path.display())]
    Entry { registry: String, path: PathBuf, problem: &'static str },
    /// `task`: the purpose of running the helper, such as `to store credentials for ghcr.io`. `found`: the
    /// path of a file with the helper's name, and the reason why this file cannot be run.
    #[error("credential helper `docker-credential-{helper}`, needed {task}, is not in PATH{}", found.as_ref().map_or(String::new(), |found| format!(": {found}")))]
    HelperMissing { helper: String, task: String, found: Option<String> },
    #[error("credential helper `docker-credential-{helper}` failed {task}: {reason}")]
    HelperFailed { helper: String, task: String, reason: String },
}

/// A description of the credentials that the plugin used for a registry, for messages.
#[derive(Clone, Debug)]
pub struct Login {
    pub username: Option<String>,
    pub anonymous: bool,
    pub source: Source,
    /// The errors of all broken sources of credentials.
    pub problems: Vec<String>,
    /// The kind of broken source that [`Login::broken_hint`] names; `None` if no source is broken.
    pub broken: Option<Broken>,
}

/// The kinds of sources of credentials that can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The whole config.json. `docker login` would rewrite the file, and lose all values that docker cannot
    /// read.
    Config,
    Variable,
    /// A credential helper. `docker login` uses the same helper, so the user must fix the helper first.
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

    /// Describes the user name and the source of the credentials, and the errors of broken sources.
    pub fn describe(&self) -> String {
        let login = match (&self.username, &self.source) {
            (Some(username), source) => format!("user `{username}` from {source}"),
            (None, source) => format!("the token from {source}"),
        };
        if self.problems.is_empty() { login } else { format!("{login} ({})", self.problems.join("; ")) }
    }

    /// Explains why the plugin found no credentials for a registry.
    pub fn describe_nothing(&self) -> String {
        match (&self.source, self.problems.is_empty()) {
            (Source::CommandLine, _) => "--anonymous was given".to_owned(),
            (_, true) => "no credentials are stored for it".to_owned(),
            (_, false) => format!("no credentials were found for it ({})", self.problems.join("; ")),
        }
    }

    /// Returns a hint that names the broken source to fix before the user tries other credentials.
    pub fn broken_hint(&self) -> Option<&'static str> {
        Some(match self.broken? {
            Broken::Config => {
                "fix config.json first: `docker login` would overwrite what it cannot parse; or pass `--username NAME --password-stdin`"
            }
            Broken::Variable => "fix or unset DOCKER_AUTH_CONFIG; or pass `--username NAME --password-stdin`",
            Broken::Helper => {
                "fix the credential helper first, `docker login` uses it too; or pass `--username NAME --password-stdin`"
            }
            Broken::Entry => return None,
        })
    }
}

/// The hint if a registry refuses credentials from `DOCKER_AUTH_CONFIG`: the user may have forgotten this
/// variable.
pub const SHADOWS: &str = "DOCKER_AUTH_CONFIG overrides `docker login`; change or unset it";

/// Returns the `docker login` command for a registry. Without an argument, `docker login` logs in to Docker
/// Hub through the browser.
pub fn docker_login(registry: &str) -> String {
    if registry == HUB { "docker login".to_owned() } else { format!("docker login {registry}") }
}
