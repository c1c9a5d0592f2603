//! The error of one run of the plugin, with a hint and an exit status.
//!
//! [`Error`] wraps the errors of all modules, and returns the `class()` and `hint()` of the wrapped error. Only this
//! module defines exit statuses.

use std::path::PathBuf;
use std::{env, io};

use serde::Serialize;

use crate::credentials::login::{Login, SHADOWS, Source, docker_login};
use crate::credentials::prompt::PromptError;
use crate::credentials::save::SaveError;
use crate::docker::config::ConfigError;
use crate::docker::context::ContextError;
use crate::docker::headers::HeadersError;
use crate::docker::hook::HookError;
use crate::engine::error::EngineError;
use crate::failure::{ACCESS_TOKEN, Class, Evidence, classify, wants_access_token};
use crate::net::settings::insecure_registries;
use crate::push::error::PushError;
use crate::push::login::LoginError;
use crate::push::suggest::Suggestion;
use crate::push::target::TargetError;
use crate::reference::ReferenceError;
use crate::registry::error::RegistryError;
use crate::text::{sanitize, with_causes};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{reason}")]
    Reference { typed: String, reason: ReferenceError },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Context(#[from] ContextError),
    #[error(transparent)]
    Headers(#[from] HeadersError),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Push(PushError),
    /// The user passed `--all-tags`, but the engine has no tags of the repository.
    #[error("no tag of {repository} is in the engine")]
    NoTags { repository: String, suggestion: Option<Suggestion> },
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The user passed `--username` for images of several registries, but a password is valid for one registry only.
    #[error("--username works with one registry, and these images go to several: {registries}")]
    OneLogin { registries: String },
    #[error("--digest-file works with a single image")]
    OneDigest,
    #[error("--digest-file and --metadata-file name the same file")]
    SameFile,
    /// A file of `--ca-file`, `--cert-file` or `--key-file` cannot be used.
    #[error("{reason}")]
    ConnectionFile { reason: String },
    #[error("cannot write `{}`", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Login(LoginError),
    #[error(transparent)]
    Save(#[from] SaveError),
    #[error(transparent)]
    Registry(Box<RegistryError>),
    #[error("`{typed}` is not a valid registry name")]
    RegistryName { typed: String },
    #[error("cannot check credentials for {registry}: {}", login.describe_nothing())]
    NoLogin { registry: String, login: Box<Login> },
    /// The registry refused the credentials that `auth` checked. `message`: the engine's raw error message.
    #[error("{registry} does not accept {}: {}", login.describe(), sanitize(message))]
    LoginRefused { registry: String, login: Box<Login>, message: String },
    #[error("cannot check the credentials for {registry}: {}", sanitize(message))]
    Unchecked { registry: String, message: String },
    /// The user ran `auth --login` for Docker Hub without `--username`. Only `docker login` can log in through the
    /// browser.
    #[error("cannot log in to Docker Hub through the browser: only `docker login` can")]
    WebLogin,
    #[error("cannot prompt for credentials for {registry}: stdin and stderr must be a terminal")]
    NoTerminal { registry: String },
    #[error("cannot list one tag: `ls` lists all tags of a repository")]
    TagWithLs { repository: String },
    #[error("cannot read the password from stdin")]
    PasswordUnreadable(#[source] io::Error),
    #[error("cannot read the password: stdin is empty")]
    PasswordMissing,
    #[error("the password on stdin is longer than 64 kB; check that it is the right file")]
    PasswordTooLong,
    #[error("cannot write the result to stdout")]
    Output(#[source] io::Error),
    #[error("{}", match .0 { 143 => "terminated", 129 => "hung up", _ => "interrupted" })]
    Cancelled(u8),
}

impl From<PushError> for Error {
    fn from(error: PushError) -> Self {
        match error {
            PushError::Login(error) => error.into(),
            error => Self::Push(error),
        }
    }
}

impl From<RegistryError> for Error {
    fn from(error: RegistryError) -> Self {
        Self::Registry(Box::new(error))
    }
}

impl From<LoginError> for Error {
    fn from(error: LoginError) -> Self {
        match error {
            // rpassword reports Ctrl-C at a prompt as an error. Use the exit status of the signal SIGINT.
            LoginError::Prompt { source: PromptError::Interrupted, .. } => Self::Cancelled(130),
            LoginError::Engine(error) => Self::Engine(error),
            error => Self::Login(error),
        }
    }
}

/// The JSON form of an error.
#[derive(Serialize)]
pub struct ErrorReport {
    class: &'static str,
    message: String,
    hint: Option<String>,
}

impl ErrorReport {
    pub fn new(error: &Error) -> Self {
        Self { class: error.class().name(), message: error.message(), hint: error.hint() }
    }
}

impl Error {
    pub fn class(&self) -> Class {
        match self {
            Self::Reference { .. } => Class::Reference,
            Self::NoTags { .. } => Class::NotFound,
            Self::Target(error) => error.class(),
            Self::OneLogin { .. } | Self::OneDigest | Self::SameFile | Self::ConnectionFile { .. } => {
                Class::Reference
            }
            Self::Context(error) => error.class(),
            Self::Headers(error) => error.class(),
            Self::Engine(error) => error.class(),
            Self::Push(error) => error.class(),
            Self::Login(error) => error.class(),
            Self::NoLogin { .. } | Self::LoginRefused { .. } => Class::Auth,
            Self::WebLogin | Self::NoTerminal { .. } => Class::Auth,
            Self::Unchecked { message, .. } => classify(&Evidence::of_text(message, true)).class,
            Self::Registry(error) => error.class(),
            Self::RegistryName { .. } | Self::TagWithLs { .. } => Class::Reference,
            Self::Cancelled(_) => Class::Cancelled,
            Self::PasswordUnreadable(_) | Self::PasswordMissing | Self::PasswordTooLong => Class::Other,
            Self::Config(error) => error.class(),
            Self::Hook(error) => error.class(),
            Self::Save(error) => error.class(),
            Self::Output(_) | Self::File { .. } => Class::Other,
        }
    }

    /// Returns the exit status, as documented in `docs/exit-status.md`. Usage errors have status 125, as in docker.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Cancelled(status) => return *status,
            Self::PasswordUnreadable(_) | Self::PasswordMissing | Self::PasswordTooLong => return 125,
            Self::Context(error) if error.is_usage() => return 125,
            Self::Headers(_) => return 125,
            _ => {}
        }
        status_of(self.class())
    }

    /// Returns a hint for the user: a command to run or a setting to change.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Reference { typed, reason } => return Some(reason.hint(typed)),
            Self::Context(error) => return error.hint(),
            Self::Headers(error) => error.hint(),
            Self::Hook(error) => return error.hint(),
            Self::NoTags { suggestion: Some(suggestion), repository } => {
                return Some(suggestion.hint(repository));
            }
            Self::NoTags { .. } => "run `docker images` to list local images",
            Self::Target(error) => return Some(error.hint()),
            Self::OneLogin { .. } => {
                "save the credentials of each registry with `docker regpush auth --login REGISTRY`, or pass them in DOCKER_AUTH_CONFIG"
            }
            Self::OneDigest => "use --metadata-file for several images",
            Self::SameFile => "use a different file for each",
            Self::ConnectionFile { .. } => "pass a PEM file that this user can read",
            Self::Engine(error) => return error.hint(),
            Self::Push(error) => return error.hint(),
            Self::Login(error) => return error.hint(),
            Self::Registry(error) => return error.hint(),
            Self::RegistryName { .. } => "write the registry as HOST or HOST:PORT, such as `localhost:5000`",
            Self::NoLogin { registry, login } => {
                if let Some(hint) = login.broken_hint().or_else(|| login.refusal_hint(registry)) {
                    return Some(hint);
                }
                return Some(format!(
                    "run `{}` or `docker regpush auth --login {registry}`",
                    docker_login(registry)
                ));
            }
            Self::LoginRefused { message, .. } if wants_access_token(message) => ACCESS_TOKEN,
            Self::LoginRefused { registry, login, .. } if login.source == Source::Variable => {
                return login.refusal_hint(registry).or_else(|| Some(SHADOWS.to_owned()));
            }
            Self::LoginRefused { registry, login, .. } => {
                let hint = login.refusal_hint(registry).or_else(|| login.source.hint_to_check());
                return Some(
                    hint.unwrap_or_else(|| format!("run `{}` to log in again", docker_login(registry))),
                );
            }
            Self::Unchecked { registry, message } => {
                let hint = classify(&Evidence::of_text(message, true)).hint;
                let hint = hint.replace("{insecure}", &insecure_registries(registry));
                return Some(hint.replace("{registry}", registry)).filter(|hint| !hint.contains('{'));
            }
            Self::PasswordMissing if env::var_os("CI").is_some_and(|value| !value.is_empty()) => {
                "check that the secret is set: jobs for pull requests from forks get no secrets"
            }
            Self::PasswordMissing => "write the password to stdin: `--password-stdin <FILE`",
            Self::PasswordUnreadable(error) if error.kind() == io::ErrorKind::InvalidData => {
                "write the password as UTF-8: PowerShell pipes UTF-16, unless `$OutputEncoding = [Text.UTF8Encoding]::new()` is set"
            }
            Self::WebLogin => {
                "run `docker login`; with a password or access token, run `docker regpush auth --login -u NAME docker.io`"
            }
            Self::NoTerminal { registry } => {
                return Some(format!(
                    "pass the credentials: `docker regpush auth --login -u NAME --password-stdin {registry}`"
                ));
            }
            Self::TagWithLs { repository } => {
                return Some(format!("omit the tag: `docker regpush ls {repository}`"));
            }
            Self::Save(error) => return error.hint(),
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// Returns the error message and the messages of all causes, on one line.
    pub fn message(&self) -> String {
        with_causes(self)
    }
}

/// Returns the exit status for an error class.
fn status_of(class: Class) -> u8 {
    match class {
        Class::Rejected | Class::Other => 1,
        Class::Auth | Class::Denied => 3,
        Class::Engine => 4,
        Class::NotFound | Class::ContentMissing => 5,
        Class::Network | Class::RateLimited | Class::Server | Class::Tls => 6,
        Class::Stalled => 7,
        Class::Exists => 8,
        Class::Unverified => 9,
        Class::Reference => 125,
        Class::Cancelled => 130,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::credentials::Credentials;
    use crate::failure::{Verdict, stalled};
    use crate::push::error::{Cause, Found, Refusal};

    const IMAGE: &str = "registry.example.com/team/app:1";

    fn login() -> Login {
        Login::new(&Credentials::anonymous(), Source::Nothing, Vec::new())
    }

    fn refused(verdict: Verdict) -> Error {
        let cause = Cause::Engine { verdict, reason: "why".to_owned() };
        let (reference, login) = (IMAGE.parse().unwrap(), login());
        let refusal = Refusal {
            can_relay: false,
            cause,
            reference,
            login,
            suggestion: None,
            failures: Vec::new(),
            is_renamed: false,
            asks_late: false,
            pattern: None,
            way: None,
        };
        Error::Push(PushError::Refused(Box::new(refusal)))
    }

    #[test]
    fn each_class_has_its_documented_exit_status() {
        let table = [
            (Class::Auth, 3),
            (Class::Denied, 3),
            (Class::Rejected, 1),
            (Class::Network, 6),
            (Class::RateLimited, 6),
            (Class::Server, 6),
            (Class::Stalled, 7),
            (Class::Tls, 6),
            (Class::NotFound, 5),
            (Class::ContentMissing, 5),
            (Class::Reference, 125),
            (Class::Engine, 4),
            (Class::Cancelled, 130),
            (Class::Exists, 8),
            (Class::Unverified, 9),
            (Class::Other, 1),
        ];
        for (class, status) in table {
            let error = refused(Verdict::without_hint(class));
            assert_eq!((error.class(), error.exit_status()), (class, status));
        }
        assert_eq!(Error::Cancelled(143).exit_status(), 143, "a signal sets its own status");
        let usage = [
            Error::PasswordMissing,
            Error::Context(ContextError::Conflict),
            Error::Headers(HeadersError::Variable { reason: String::new() }),
        ];
        for error in usage {
            assert_eq!(error.exit_status(), 125, "{error}");
        }
    }

    /// Asserts that the error has a hint, and that the hint is not empty and contains no placeholder.
    fn assert_hint(error: &Error) {
        let hint = error.hint().unwrap_or_else(|| panic!("no hint: {error}"));
        assert!(!hint.is_empty() && !hint.contains(['{', '}']), "{error}: {hint}");
    }

    #[test]
    fn engine_errors_have_a_hint() {
        // error message of an engine, expected class if credentials were sent
        let table = [
            ("no basic auth credentials", Class::Auth),
            ("denied: requested access to the resource is denied", Class::Denied),
            ("tag invalid: The image tag '1' is immutable", Class::Rejected),
            ("write tcp 10.0.0.1:1->10.0.0.2:2: write: connection reset by peer", Class::Network),
            ("toomanyrequests: slow down", Class::RateLimited),
            ("received unexpected HTTP status: 503 Service Unavailable", Class::Server),
            ("x509: certificate signed by unknown authority", Class::Tls),
            ("tag does not exist: registry.example.com/team/app:1", Class::NotFound),
            ("invalid reference format", Class::Reference),
            ("no space left on device", Class::Engine),
            ("context canceled", Class::Cancelled),
            ("something new", Class::Other),
        ];
        for (message, class) in table {
            let verdict = classify(&Evidence::of_text(message, true));
            assert_eq!(verdict.class, class, "{message}");
            assert_hint(&refused(verdict));
        }
        let missing = Evidence { content_missing: true, ..Evidence::of_text("", true) };
        assert_hint(&refused(classify(&missing)));
        assert_hint(&refused(stalled()));
    }

    #[test]
    fn push_errors_have_a_hint() {
        let reference = || IMAGE.to_owned();
        let digest = || format!("sha256:{}", "0".repeat(64));
        let ends = [
            PushError::Unconfirmed { reference: reference(), tag: "1".to_owned() },
            PushError::Exists { reference: reference(), found: digest(), id: digest() },
            PushError::Unverified { reference: reference(), expected: digest(), found: Found::Nothing },
            PushError::TimedOut {
                reference: reference(),
                after: Duration::from_secs(1),
                pushed: None,
                failures: Vec::new(),
            },
            PushError::Taken { reference: reference(), found: digest(), id: digest() },
            PushError::Nameless { reference: reference(), typed: "deadbeefcafe".to_owned() },
            PushError::NoPlatforms { reference: reference(), reason: String::new() },
            PushError::Incomplete { reference: reference(), platforms: Vec::new() },
            PushError::Narrowed { reference: reference(), digest: digest() },
        ];
        for end in ends {
            assert_hint(&Error::from(end));
        }
    }

    #[test]
    fn registry_errors_have_a_hint() {
        let registry = || "registry.example.com".to_owned();
        let login = || Box::new(login());
        let reason = String::new;
        let answered = |status: u16| RegistryError::Answered {
            server: registry(),
            status: status.try_into().unwrap(),
            code: None,
            reason: reason(),
            retry_after: None,
        };
        let errors = [
            RegistryError::Unreachable { server: registry(), reason: reason(), proxy: None },
            RegistryError::Certificates { registry: registry(), reason: reason() },
            RegistryError::Unauthorized { registry: registry(), login: login(), reason: reason() },
            RegistryError::Denied { registry: registry(), login: login(), reason: reason() },
            RegistryError::MayNotWrite {
                registry: registry(),
                repository: "team/app".to_owned(),
                login: login(),
                reason: reason(),
            },
            answered(507),
            RegistryError::ReadOnly { registry: registry(), reason: reason() },
            RegistryError::TooLarge { registry: registry() },
            RegistryError::ProxyRefused { registry: registry(), status: 403.try_into().unwrap() },
            RegistryError::Redirected {
                registry: registry(),
                target: "https://other.example.com/v2/".to_owned(),
                name: registry(),
            },
            RegistryError::NoLocation { registry: registry() },
            RegistryError::CatalogDenied { registry: registry(), login: login(), reason: reason() },
            RegistryError::NoPushTarget {
                registry: registry(),
                repository: "app".to_owned(),
                reason: reason(),
            },
            RegistryError::LockedOut { registry: registry(), login: login(), reason: reason() },
            RegistryError::WebPage { registry: registry(), redirect: None, is_sign_in: true },
            RegistryError::WebPage { registry: registry(), redirect: None, is_sign_in: false },
            RegistryError::NoManifest { registry: registry() },
            RegistryError::TokenPage { registry: registry(), server: String::new() },
            RegistryError::NoCatalog { registry: registry() },
            RegistryError::NoRepository {
                registry: registry(),
                repository: "team/app".to_owned(),
                login: login(),
            },
            answered(429),
            answered(503),
            RegistryError::NotARegistry { registry: registry(), reason: reason() },
            RegistryError::NoToken { registry: registry(), reason: reason() },
        ];
        for error in errors {
            assert_hint(&Error::from(error));
        }
        assert_eq!(Error::from(answered(418)).hint(), None, "unknown statuses have no hint");
    }
}
