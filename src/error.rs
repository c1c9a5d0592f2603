//! Every way in which a call can fail, with what to do about it and the status it ends with.

use std::error::Error as StdError;
use std::io;

use crate::config::ConfigError;
use crate::context::{Address, ContextError, Endpoint};
use crate::credentials::Source;
use crate::credentials::prompt::PromptError;
use crate::engine::EngineError;
use crate::event::DecodeError;
use crate::failure::Class;
use crate::push::{PushError, Refusal, Suggestion};
use crate::reference::{Reference, ReferenceError};
use crate::text::clean;
use crate::transport::TransportError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{reason}")]
    Reference { typed: String, reason: ReferenceError },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Context(#[from] ContextError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Push(PushError),
    #[error("cannot read the password from stdin")]
    PasswordUnreadable(#[source] io::Error),
    #[error("no password on stdin")]
    PasswordMissing,
    #[error("the password on stdin is longer than 64 kB: is that the right file?")]
    PasswordTooLong,
    #[error("cannot write the result to stdout")]
    Output(#[source] io::Error),
    #[error("{}", match .0 { 143 => "terminated", 129 => "hung up", _ => "interrupted" })]
    Cancelled(u8),
}

impl From<PushError> for Error {
    fn from(error: PushError) -> Self {
        match error {
            // Ctrl-C, as rpassword reads it: the same as the signal.
            PushError::Prompt { source: PromptError::Interrupted, .. } => Self::Cancelled(130),
            error => Self::Push(error),
        }
    }
}

impl Error {
    pub fn class(&self) -> Class {
        match self {
            Self::Reference { .. } => Class::Reference,
            Self::Context(_) | Self::Engine(_) => Class::Engine,
            Self::Push(error) => match error {
                PushError::Refused(refusal) => refusal.verdict.class,
                PushError::Engine { .. } | PushError::Unconfirmed { .. } => Class::Engine,
                PushError::Prompt { .. } | PushError::GivenUp { .. } | PushError::NothingTyped { .. } => {
                    Class::Auth
                }
            },
            Self::Cancelled(_) => Class::Cancelled,
            Self::PasswordUnreadable(_) | Self::PasswordMissing | Self::PasswordTooLong => Class::Other,
            Self::Config(_) | Self::Output(_) => Class::Other,
        }
    }

    /// The table of `--help` and README; 125 for usage is docker's own.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Cancelled(status) => return *status,
            Self::PasswordUnreadable(_) | Self::PasswordMissing | Self::PasswordTooLong => return 125,
            Self::Context(ContextError::Conflict | ContextError::Format { .. }) => return 125,
            _ => {}
        }
        match self.class() {
            Class::Rejected | Class::Other => 1,
            Class::Auth | Class::Denied => 3,
            Class::Engine => 4,
            Class::NotFound | Class::ContentMissing => 5,
            Class::Network | Class::RateLimited | Class::Server | Class::Tls => 6,
            Class::Reference => 125,
            Class::Cancelled => 130,
        }
    }

    /// What to type or look at next.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Reference { reason: ReferenceError::Digest, .. } => {
                "push it by a tag; the digest comes out the same"
            }
            Self::Reference { reason: ReferenceError::Uppercase { .. }, .. } => {
                "spell the repository in lower case"
            }
            Self::Reference { typed, .. } => {
                return Some(format!(
                    "`{typed}` is not named like `registry.example.com/team/app:tag`, without a scheme"
                ));
            }
            Self::Context(ContextError::NotFound { .. }) => "see `docker context ls`",
            Self::Context(ContextError::Unsupported { .. }) => {
                "choose an engine with a unix:// endpoint (`docker context ls`), or use `docker push`"
            }
            Self::Engine(error) | Self::Push(PushError::Engine { source: error, .. }) => {
                return engine_hint(error);
            }
            Self::Push(PushError::Refused(refusal)) => return refusal_hint(refusal),
            Self::Push(PushError::Unconfirmed { .. }) => "look into the engine's log, and push again",
            Self::Push(
                PushError::GivenUp { registry, .. }
                | PushError::NothingTyped { registry }
                | PushError::Prompt { registry, .. },
            ) => {
                return Some(format!("check the account, or log in with `docker login {registry}`"));
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// The message and its causes, on one line.
    pub fn message(&self) -> String {
        let mut message = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        clean(&message)
    }
}

fn engine_hint(error: &EngineError) -> Option<String> {
    let hint = match error {
        EngineError::Transport(TransportError::Unreachable { endpoint, source }) => {
            unreachable_hint(endpoint, source)
        }
        EngineError::Transport(TransportError::Lost(error)) if error.is_parse() => {
            "what answers there is no engine: check --host, --context and DOCKER_HOST".to_owned()
        }
        EngineError::Transport(TransportError::Lost(_))
        | EngineError::Decode(DecodeError::Truncated { .. }) => {
            "the engine may have stopped: look into its log, and push again".to_owned()
        }
        EngineError::ApiVersion(_) => "set it to a version like 1.41, or unset it".to_owned(),
        _ => "check that an engine listens at this endpoint: `docker version`".to_owned(),
    };
    Some(hint)
}

fn unreachable_hint(endpoint: &Endpoint, source: &io::Error) -> String {
    let Address::Unix(path) = &endpoint.address;
    let path = path.display();
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("you may not open {path}: join its group (often `docker`) and log in again, or use sudo")
        }
        io::ErrorKind::NotFound => {
            format!(
                "nothing is at {path}: start the engine (`systemctl start docker`), or name another with --context or DOCKER_HOST"
            )
        }
        _ => format!(
            "no engine listens at {path}: start it (`systemctl start docker`), or name another with --context or DOCKER_HOST"
        ),
    }
}

fn refusal_hint(refusal: &Refusal) -> Option<String> {
    let reference = &refusal.reference;
    match &refusal.suggestion {
        Some(Suggestion::Near(names)) => return Some(format!("did you mean {}?", names.join(" or "))),
        Some(Suggestion::Tag(name)) => {
            return Some(format!(
                "name it for the registry first: `docker tag {name} {}`",
                reference.familiar()
            ));
        }
        None => {}
    }
    if refusal.login.source == Source::Variable && refusal.verdict.class == Class::Auth {
        return Some("DOCKER_AUTH_CONFIG goes before every `docker login`: change or unset it".to_owned());
    }
    if refusal.login.source == Source::CommandLine && refusal.verdict.class == Class::Auth {
        let hint = if refusal.login.anonymous {
            "leave out --anonymous"
        } else {
            "check --username, and the password given on stdin"
        };
        return Some(hint.to_owned());
    }
    if refusal.verdict.class == Class::NotFound && looks_like_id(reference) {
        return Some(format!(
            "that looks like an image ID; name it first: `docker tag {} HOST/PATH:TAG`",
            reference.tag().map_or_else(|| reference.familiar_repository(), |_| reference.familiar())
        ));
    }
    let hint = refusal.verdict.hint;
    let filled = hint.replace("{registry}", reference.domain());
    let filled = filled.replace("{repository}", &reference.familiar_repository());
    Some(filled.replace("{tag}", reference.tag_or_latest()))
}

/// `0bc980ece940` or `sha256:…`, which docker reads as names of the Hub.
fn looks_like_id(reference: &Reference) -> bool {
    let name = reference.familiar_repository();
    let is_hex = |text: &str| text.len() >= 12 && text.bytes().all(|b| b.is_ascii_hexdigit());
    name == "sha256" || (reference.tag().is_none() && is_hex(&name))
}
