//! Describes the credentials that the plugin used: the user name, the source, and the sources that failed.

use std::fmt;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::credentials::remark::{about, is_access_token, needs_access_token};
use crate::credentials::{Credentials, Kind, expiry};
use crate::reference::HUB;
use crate::text::sanitize;

/// The source of credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `--username` with `--password-stdin`, or `--anonymous`.
    CommandLine,
    /// `--username` with `--password-command`.
    Command,
    /// `DOCKER_AUTH_CONFIG`
    Variable,
    /// The config.json at this path, in a folder of buildx's scoped credentials.
    Buildx(PathBuf),
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
    /// Returns whether the user gave the credentials for this call only, in options. A prompt never replaces them.
    pub fn is_given(&self) -> bool {
        matches!(self, Self::CommandLine | Self::Command)
    }

    /// Returns a hint if a registry refuses credentials that `docker login` does not replace; `None` for other sources.
    pub fn hint_to_check(&self) -> Option<String> {
        match self {
            Self::CommandLine => Some("check --username and the password on stdin".to_owned()),
            Self::Command => {
                Some("check --username and what the command of --password-command prints".to_owned())
            }
            Self::Buildx(path) => Some(format!(
                "renew the credentials in `{}`, or remove that file: it overrides `docker login`",
                path.display()
            )),
            _ => None,
        }
    }

    /// Returns the name of the source in JSON output and in tables.
    pub fn name(&self) -> String {
        match self {
            Self::CommandLine => "command-line".to_owned(),
            Self::Command => "command".to_owned(),
            Self::Variable => "DOCKER_AUTH_CONFIG".to_owned(),
            Self::Buildx(_) => "buildx".to_owned(),
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
            Self::Command => f.write_str("--password-command"),
            Self::Variable => f.write_str("DOCKER_AUTH_CONFIG"),
            Self::Helper(name) => write!(f, "the credential helper `docker-credential-{}`", sanitize(name)),
            Self::File(path) | Self::Buildx(path) => write!(f, "`{}`", path.display()),
            Self::Prompt => f.write_str("the prompt"),
            Self::Nothing => f.write_str("nowhere"),
        }
    }
}

/// An error in a source of credentials.
#[derive(Clone, Debug, thiserror::Error)]
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
    /// A config.json of buildx's scoped credentials that cannot be read. `reason` names the file.
    #[error("{reason}")]
    Scoped { reason: String },
    /// The command of `--password-command` returned no password.
    #[error("the command of --password-command failed: {reason}")]
    CommandFailed { reason: String },
}

/// Returns whether a helper failed since it could not ask its user, by the messages of macOS, gpg, the Secret Service and
/// Windows.
///
/// Source: docker-credential-helpers#82, orbstack#860.
fn is_locked(reason: &str) -> bool {
    const WORDS: [&str; 17] = [
        "user interaction is not allowed",
        "-25308",
        "pinentry",
        "inappropriate ioctl for device",
        "decryption failed",
        "cannot autolaunch d-bus",
        "org.freedesktop.secrets",
        "freedesktop/secrets",
        "is locked",
        "user canceled",
        "was dismissed",
        "gpg-agent",
        "no display",
        "logon session",
        "unlock",
        "interactionnotallowed",
        "did not answer within",
    ];
    let reason = reason.to_lowercase();
    // A key that is missing cannot be unlocked.
    let reason = reason.replace("decryption failed: no secret key", "");
    WORDS.iter().any(|words| reason.contains(words))
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
    /// When the secret expires, if it contains its end.
    pub expires: Option<SystemTime>,
    /// The kind of the secret.
    pub kind: Option<Kind>,
    /// Whether the password is an access token of Docker Hub, GitHub or GitLab.
    pub is_access_token: bool,
    /// A hint after a refusal: names the probable mistake in the credentials, or the reason why there are none. Contains
    /// no part of a secret.
    pub remark: Option<String>,
}

/// The kinds of sources of credentials that can be broken. The kind that says most comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Broken {
    /// The whole config.json. `docker login` would rewrite the file, and lose all values that docker cannot
    /// read.
    Config,
    /// A credential helper that must ask its user, and cannot: for example a locked keychain.
    LockedHelper,
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
            Self::HelperFailed { reason, .. } if is_locked(reason) => Broken::LockedHelper,
            Self::HelperMissing { .. } | Self::HelperFailed { .. } | Self::CommandFailed { .. } => {
                Broken::Helper
            }
            Self::Entry { .. } | Self::Scoped { .. } => Broken::Entry,
        }
    }
}

impl Login {
    pub fn new(credentials: &Credentials, source: Source, problems: Vec<String>) -> Self {
        let username = credentials.username.as_deref().map(sanitize);
        Self {
            username,
            anonymous: credentials.is_anonymous(),
            source,
            problems,
            broken: None,
            expires: credentials.expires(),
            kind: credentials.kind(),
            is_access_token: is_access_token(credentials),
            remark: about(credentials).map(str::to_owned),
        }
    }

    /// Returns a hint about these credentials, after the registry has refused them: they have expired, or something is
    /// probably wrong with them.
    pub fn refusal_hint(&self, registry: &str) -> Option<String> {
        if let Some(expired) = self.expires.and_then(|end| expiry::passed(end, SystemTime::now())) {
            let renew = match self.source {
                Source::CommandLine => "pass new ones".to_owned(),
                Source::Command => "the command of --password-command must print new ones".to_owned(),
                Source::Variable => "set DOCKER_AUTH_CONFIG again".to_owned(),
                Source::Buildx(_) => self.source.hint_to_check().unwrap_or_default(),
                _ => format!("run `{}` again", docker_login(registry)),
            };
            return Some(format!("the credentials for {registry} {expired}: {renew}"));
        }
        if self.remark.is_some() {
            return self.remark.clone();
        }
        let is_password = self.kind == Some(Kind::Password) && self.source != Source::Variable;
        (is_password && !self.is_access_token && needs_access_token(registry)).then(|| {
            let check = self.source.hint_to_check();
            let check = check.unwrap_or_else(|| format!("run `{}`", docker_login(registry)));
            let when = if registry == "ghcr.io" { "" } else { "with two-factor authentication, " };
            format!("{check}; {when}{registry} accepts only an access token as password")
        })
    }

    /// Returns a note about accepted credentials that expire soon, or that have expired by this machine's clock.
    pub fn expiry_note(&self, registry: &str) -> Option<String> {
        let (end, now) = (self.expires?, SystemTime::now());
        if let Some(soon) = expiry::soon(end, now) {
            return Some(format!("the credentials for {registry} {soon}"));
        }
        let passed = expiry::passed(end, now)?;
        Some(format!(
            "the credentials for {registry} {passed}, but the registry accepts them: the clock of this machine may be wrong"
        ))
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
    pub fn broken_hint(&self) -> Option<String> {
        let hint = match self.broken? {
            Broken::Config if self.remark.is_some() => return self.remark.clone(),
            Broken::Config => {
                "fix config.json first: `docker login` would overwrite what it cannot parse; or pass `--username NAME --password-stdin`"
            }
            Broken::Variable => "fix or unset DOCKER_AUTH_CONFIG; or pass `--username NAME --password-stdin`",
            Broken::Helper => {
                "fix the credential helper first, `docker login` uses it too; or pass `--username NAME --password-stdin`"
            }
            Broken::LockedHelper => {
                "unlock the credential helper, which cannot ask its user here (macOS: `security unlock-keychain`; pass: `export GPG_TTY=$(tty)`; Linux desktops: run inside the session); or pass `--username NAME --password-stdin`"
            }
            Broken::Entry => return None,
        };
        Some(hint.to_owned())
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
