//! The errors of a push, of one attempt to push, and of a query about an image.

use std::fmt;
use std::time::Duration;

use humantime::format_duration;
use hyper::Uri;

use crate::cli::env::variable_of;
use crate::credentials::login::{Login, SHADOWS, Source, docker_login};
use crate::engine::error::EngineError;
use crate::failure::{ACCESS_TOKEN, Class, RAISE_LIMIT, Verdict};
use crate::net::settings::insecure_registries;
use crate::push::login::LoginError;
use crate::push::suggest::{Suggestion, looks_like_id};
use crate::reference::Reference;
use crate::registry::error::RegistryError;
use crate::retry::Pattern;
use crate::text::{amount, sanitize};

#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// The connection to the engine broke, or the program at the endpoint does not speak the engine's protocol.
    #[error("cannot push {reference}")]
    Engine {
        reference: String,
        #[source]
        source: EngineError,
    },
    /// The engine's stream closed without an error and without a digest, and the registry did not confirm the push.
    #[error(
        "the engine ended the push of {reference} without a digest for tag `{tag}`, and the plugin could not confirm the image in the registry"
    )]
    Unconfirmed { reference: String, tag: String },
    /// The tag in the registry names another image, and `--if-exists fail` forbids replacing that image.
    #[error(
        "{reference} exists in the registry and points to another image, {found}; the local image is {id}"
    )]
    Exists { reference: String, found: String, id: String },
    #[error("{reference} was pushed as {expected}, but {found}")]
    Unverified { reference: String, expected: String, found: Found },
    /// The plugin could not query the registry after the push, and `--verify always` requires a response of the
    /// registry.
    #[error("cannot verify {reference} after the push: {}", cause.reason())]
    Unverifiable { reference: String, cause: Cause },
    /// The push exceeded `--timeout`.
    #[error("{} within {}{}", match pushed {
        Some(digest) => format!("{reference} was pushed as {digest}, but not verified"),
        None => format!("cannot push {reference}"),
    }, format_duration(*after), last_failure(failures))]
    /// `pushed`: the digest of the pushed manifest, if the engine reported a digest before the timeout.
    TimedOut { reference: String, after: Duration, pushed: Option<String>, failures: Vec<String> },
    /// The push needs `reference` as a local tag, but in the engine this tag names another image.
    #[error(
        "cannot tag {reference}: it already names another local image ({found}); the image to push is {id}"
    )]
    Taken { reference: String, found: String, id: String },
    /// The value of `--to` is a prefix, to which the plugin appends the image's path and tag. But the user typed an
    /// image ID, which has no path and tag.
    #[error("`{typed}` is an image ID, and has no path and tag for {reference}")]
    Nameless { reference: String, typed: String },
    /// The user selected one platform with `--platform`, but the engine cannot push a single platform.
    #[error("cannot push {reference} for one platform: {reason}")]
    NoPlatforms { reference: String, reason: String },
    /// The user passed `--platform all`, but the engine does not have all platforms of the image.
    #[error("the engine does not have all platforms of {reference}: {} missing", platforms.join(", "))]
    Incomplete { reference: String, platforms: Vec<String> },
    /// The user passed `--platform all`, but the engine pushed only one platform of the image.
    #[error(
        "{reference} was pushed as {digest}, one platform only: the engine does not have all platforms of the index"
    )]
    Narrowed { reference: String, digest: String },
    /// An option requires the relay, and the engine cannot use it. `hint`: an action that helps, besides removing the option.
    #[error("cannot push {reference} through the plugin, as {option} requires: {reason}")]
    NoRelay { reference: String, option: &'static str, reason: String, hint: Option<String> },
    #[error(transparent)]
    Login(LoginError),
}

impl PushError {
    pub fn class(&self) -> Class {
        match self {
            Self::Refused(refusal) => refusal.cause.class(),
            Self::Engine { source, .. } => source.class(),
            Self::Unconfirmed { .. } | Self::NoPlatforms { .. } | Self::NoRelay { .. } => Class::Engine,
            Self::Exists { .. } => Class::Exists,
            Self::Unverified { .. } => Class::Unverified,
            Self::Unverifiable { cause, .. } => cause.class(),
            Self::TimedOut { .. } => Class::Stalled,
            Self::Taken { .. } => Class::Other,
            Self::Nameless { .. } => Class::Reference,
            Self::Incomplete { .. } | Self::Narrowed { .. } => Class::ContentMissing,
            Self::Login(error) => error.class(),
        }
    }

    /// Returns a hint for the user: a command to run or a setting to change.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Taken { reference, .. } => {
                return Some(format!(
                    "run `docker rmi {reference}` if that name is no longer needed, or push under another name"
                ));
            }
            Self::Nameless { typed, .. } => {
                return Some(format!(
                    "give the full destination: `docker regpush {typed} --to HOST/PATH:TAG`"
                ));
            }
            Self::NoPlatforms { .. } => {
                "remove --platform, or use another engine (`docker -c CONTEXT regpush …`)"
            }
            Self::Incomplete { .. } | Self::Narrowed { .. } => {
                "pull the missing platforms (`docker pull --platform`), or push without `--platform all`"
            }
            Self::Engine { source, .. } => return source.hint(),
            Self::Refused(refusal) => return refusal.hint(),
            Self::Unconfirmed { .. } => "check the engine's log (`journalctl -u docker`), then push again",
            Self::Exists { .. } => "push another tag, or replace it with `--if-exists update`",
            Self::Unverified { found, .. } => match found {
                Found::Another(_) => "push again, unless another user pushed to this tag at the same time",
                Found::NoRegistry(_) => {
                    "check the name and port of the registry, and the proxy in front of it"
                }
                Found::Nothing | Found::Incomplete(_) => {
                    "check the registry's log and storage, then push again"
                }
            },
            Self::Unverifiable { cause, .. } => return cause.hint(),
            Self::NoRelay { option, hint, .. } => {
                let long = option.trim_start_matches('-').split(' ').next().unwrap_or_default();
                let remove = format!(
                    "remove `{option}` (or the variable {}), so that the engine uploads the image",
                    variable_of(long)
                );
                return Some(hint.as_ref().map_or(remove.clone(), |hint| format!("{hint}, or {remove}")));
            }
            Self::TimedOut { .. } => "check the registry's log, or raise --timeout",
            Self::Login(error) => return error.hint(),
        };
        Some(hint.to_owned())
    }
}

/// The content that the registry serves instead of the pushed image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The registry does not have the tag.
    Nothing,
    /// The tag in the registry names another manifest, with this digest.
    Another(String),
    /// The registry lacks the blobs or manifests with these digests.
    Incomplete(Vec<String>),
    /// The server sent something else than a manifest, such as a web page. Contains the error message.
    NoRegistry(String),
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("the registry does not have this tag"),
            Self::Another(digest) => write!(f, "the tag in the registry points to {digest}"),
            Self::Incomplete(missing) => {
                let more = missing.len().saturating_sub(1);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                write!(f, "the registry lacks {}{more}", missing.first().map_or("", String::as_str))
            }
            Self::NoRegistry(message) => f.write_str(message),
        }
    }
}

/// A push that the engine or the registry refused. The fields are the facts for the error message and the hint.
#[derive(Debug)]
pub struct Refusal {
    pub cause: Cause,
    pub reference: Reference,
    pub login: Login,
    /// A local image that the user may have meant, if the engine does not have the requested image.
    pub suggestion: Option<Suggestion>,
    /// The reasons why the attempts failed, one reason for each attempt.
    pub failures: Vec<String>,
    /// The image's name in the engine differs from `reference`, so the push needs `reference` as a local tag.
    pub is_renamed: bool,
    /// The registry does not ask for credentials at `/v2/`, but may ask when an image is pushed.
    pub asks_late: bool,
    /// The common point at which the last two attempts ended.
    pub pattern: Option<Pattern>,
    /// A fact about the connection between the engine and the registry.
    pub way: Option<Way>,
    /// The relay may avoid the failure, and `--relay never` forbids it.
    pub can_relay: bool,
}

/// Facts about the connection between the engine and the registry, which a hint names first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// The engine connects to the registry through the proxy with this `host:port`.
    Proxy(String),
    /// The registry is on a loopback address, and answers the plugin. The engine connects to another machine.
    OtherMachine,
    /// The registry refuses the engine during an upload, and accepts a new upload of the same account.
    ShortToken,
}

impl Refusal {
    /// Returns a hint for the user: a command to run or a setting to change.
    pub fn hint(&self) -> Option<String> {
        let hint = self.hint_for_cause();
        if !self.can_relay {
            return hint;
        }
        let relay = "remove `--relay never`, so that the plugin uploads the image";
        Some(hint.map_or(relay.to_owned(), |hint| format!("{hint}, or {relay}")))
    }

    fn hint_for_cause(&self) -> Option<String> {
        let reference = &self.reference;
        if let Some(pattern) = self.pattern {
            let limit = match pattern {
                Pattern::Time(_) => "time limit (nginx: `client_body_timeout`, `proxy_read_timeout`)",
                Pattern::Bytes(_) => "size limit (nginx: `client_max_body_size`)",
            };
            return Some(format!("raise the {limit} of the proxy in front of {}", reference.domain()));
        }
        let registry = reference.domain();
        match &self.way {
            Some(Way::Proxy(proxy)) => {
                return Some(format!(
                    "check the engine's proxy {proxy}, or add {registry} to the engine's NO_PROXY setting"
                ));
            }
            Some(Way::OtherMachine) => {
                return Some(format!(
                    "push under a host name of this machine: the engine looks up {registry} on its own machine"
                ));
            }
            Some(Way::ShortToken) => {
                return Some(format!(
                    "raise the lifetime of the tokens that the token server of {registry} issues: a token expires before one layer is sent"
                ));
            }
            None => {}
        }
        if let Cause::Registry(_) = &self.cause {
            // The registry's error has no remark about credentials that have vanished since the lookup.
            let remark = self.login.remark.clone().filter(|_| self.cause.class() == Class::Auth);
            return remark.or_else(|| Some(self.filled(&self.cause.hint()?)));
        }
        if reference.has_underscore_in_host() && self.cause.class() == Class::Other {
            return Some(format!(
                "use another host name for {registry}: it has an underscore, which docker does not accept in a host name"
            ));
        }
        if let Some(suggestion) = &self.suggestion {
            return Some(suggestion.hint(&reference.familiar()));
        }
        let is_refused_login = matches!(self.cause.class(), Class::Auth | Class::Denied);
        if let Some(hint) = self.login.broken_hint().filter(|_| self.login.anonymous && is_refused_login) {
            return Some(hint);
        }
        let hint = self.cause.verdict().hint;
        let is_about_login = self.cause.class() == Class::Auth
            || (self.cause.class() == Class::Denied && self.login.anonymous);
        if is_about_login
            && self.cause.verdict().can_prompt
            && hint != ACCESS_TOKEN
            && let Some(hint) = self.login.refusal_hint(registry)
        {
            return Some(hint);
        }
        if self.asks_late && is_refused_login && !self.login.anonymous {
            return Some(format!(
                "configure {} to answer 401 at `/v2/`: it does not ask for credentials there, so docker may not send them",
                reference.domain()
            ));
        }
        if self.login.source == Source::Variable && self.cause.class() == Class::Auth {
            return Some(SHADOWS.to_owned());
        }
        if let Some(hint) = self.login.source.hint_to_check().filter(|_| self.cause.class() == Class::Auth) {
            return Some(if self.login.anonymous { "remove --anonymous".to_owned() } else { hint });
        }
        if self.cause.class() == Class::NotFound && self.is_renamed {
            return Some("run `docker images` to list local images".to_owned());
        }
        if self.cause.class() == Class::NotFound && looks_like_id(reference) {
            return Some(format!(
                "tag the image first: `docker tag {} HOST/PATH:TAG` (this looks like an image ID)",
                reference.tag().map_or_else(|| reference.familiar_repository(), |_| reference.familiar())
            ));
        }
        Some(self.filled(self.cause.verdict().hint))
    }

    /// Returns a hint with names instead of `{registry}` and other placeholders.
    fn filled(&self, hint: &str) -> String {
        let reference = &self.reference;
        let hint = hint.replace("docker login {registry}", &docker_login(reference.domain()));
        let filled = hint.replace("{registry}", reference.domain());
        let filled = filled.replace("{insecure}", &insecure_registries(reference.domain()));
        let filled = filled.replace("{repository}", &reference.familiar_repository());
        let filled = filled.replace("{server}", &server_in(&self.cause.reason()));
        filled.replace("{tag}", reference.tag_or_latest())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reference, login, cause, failures, .. } = self;
        let registry = reference.domain();
        write!(f, "cannot push {}{}: ", reference.familiar(), attempts(failures))?;
        let reason = cause.reason();
        match self.pattern {
            Some(Pattern::Time(time)) => {
                write!(
                    f,
                    "each attempt ended after {}: a time limit in front of {registry}: ",
                    format_duration(time)
                )?;
            }
            Some(Pattern::Bytes(bytes)) => {
                write!(
                    f,
                    "each attempt ended after {}: a size limit in front of {registry}: ",
                    amount(bytes)
                )?;
            }
            None => {}
        }
        let Cause::Engine { verdict, .. } = cause else { return f.write_str(&reason) };
        match verdict.class {
            Class::Auth if login.anonymous => {
                write!(f, "{registry} requires authentication, and {}: {reason}", login.describe_nothing())
            }
            Class::Denied if login.anonymous => {
                write!(
                    f,
                    "{registry} denies access without credentials, and {}: {reason}",
                    login.describe_nothing()
                )
            }
            Class::Auth => write!(f, "{registry} does not accept {}: {reason}", login.describe()),
            Class::Denied => write!(f, "{registry} denies access for {}: {reason}", login.describe()),
            Class::NotFound => write!(f, "no such image in the engine: {reason}"),
            _ => f.write_str(&reason),
        }
    }
}

/// Returns the host of the first URL in a message.
fn server_in(message: &str) -> String {
    let mut urls = message.split(['"', ' ']).filter(|word| word.contains("://"));
    let host = urls.find_map(|word| Some(word.parse::<Uri>().ok()?.host()?.to_owned()));
    host.unwrap_or_else(|| "the token server".to_owned())
}

/// Returns `; the last attempt failed: …`, or an empty string if no attempt has failed.
fn last_failure(failures: &[String]) -> String {
    failures.last().map(|reason| format!("; the last attempt failed: {reason}")).unwrap_or_default()
}

/// Returns ` after 6 attempts (1: …; 2 to 6: …)`, or an empty string if at most one attempt has failed.
fn attempts(failures: &[String]) -> String {
    match failures {
        [] | [_] => return String::new(),
        [first, rest @ ..] if rest.iter().all(|other| other == first) => {
            return format!(" after {} attempts, each with the same error", failures.len());
        }
        _ => {}
    }
    let mut first = 1;
    let same = failures.chunk_by(|a, b| a == b).map(|same| {
        let last = first + same.len() - 1;
        let which = if first == last { format!("{first}") } else { format!("{first} to {last}") };
        first = last + 1;
        format!("{which}: {}", same[0])
    });
    let same: Vec<String> = same.collect();
    format!(" after {} attempts ({})", failures.len(), same.join("; "))
}

/// The reason why a registry refused a request or did not respond.
#[derive(Debug)]
pub enum Cause {
    /// The engine reported the failure. `reason`: the engine's error message, sanitized.
    Engine { verdict: Verdict, reason: String },
    /// A direct request from the plugin to the registry failed.
    Registry(Box<RegistryError>),
}

impl Cause {
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Engine { verdict, .. } => *verdict,
            Self::Registry(error) => error.verdict(),
        }
    }

    pub fn class(&self) -> Class {
        self.verdict().class
    }

    /// Returns whether the registry, or a proxy in front of it, refused a request because of its size.
    pub fn is_about_size(&self) -> bool {
        match self {
            Self::Engine { verdict, .. } => verdict.hint == RAISE_LIMIT,
            Self::Registry(error) => matches!(**error, RegistryError::TooLarge { .. }),
        }
    }

    /// Returns the time after which the registry allows another request, if the registry told.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Registry(error) => error.retry_after(),
            Self::Engine { .. } => None,
        }
    }

    pub fn reason(&self) -> String {
        match self {
            Self::Engine { reason, .. } if reason.is_empty() => "the engine gave no reason".to_owned(),
            Self::Engine { reason, .. } => reason.clone(),
            Self::Registry(error) => sanitize(&error.to_string()),
        }
    }

    /// Returns a hint for the user if a direct request from the plugin to the registry failed.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::Engine { .. } => None,
        }
    }
}

/// The reason why a query to the engine or to a registry about an image failed.
#[derive(Debug)]
pub enum QueryError {
    Cause(Cause),
    /// The engine cannot be reached.
    Engine(EngineError),
}

impl From<EngineError> for QueryError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<RegistryError> for QueryError {
    fn from(error: RegistryError) -> Self {
        Self::Cause(Cause::Registry(Box::new(error)))
    }
}

/// The reason why an attempt to push failed.
#[derive(Debug)]
pub enum AttemptError {
    /// Another attempt, or an attempt with other credentials, may succeed.
    Retryable {
        cause: Cause,
        /// The maximum number of further attempts that can help; `u32::MAX`: no limit.
        max_retries: u32,
        /// After the failure, the registry accepted an upload of this account.
        may_write: bool,
    },
    Fatal(PushError),
}

impl From<PushError> for AttemptError {
    fn from(error: PushError) -> Self {
        Self::Fatal(error)
    }
}

impl From<Cause> for AttemptError {
    fn from(cause: Cause) -> Self {
        Self::Retryable { cause, max_retries: u32::MAX, may_write: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_that_the_engine_gave_no_reason() {
        let cause = |reason: &str| {
            let (verdict, reason) = (Verdict::without_hint(Class::Other), reason.to_owned());
            Cause::Engine { verdict, reason }.reason()
        };
        assert_eq!(cause(""), "the engine gave no reason");
        assert_eq!(cause("denied"), "denied");
    }
}
