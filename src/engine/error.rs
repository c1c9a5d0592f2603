//! Errors of requests to an engine.

use std::sync::Arc;

use hyper::StatusCode;
use serde_json::Value;

use crate::docker::context::Endpoint;
use crate::engine::stream::DecodeError;
use crate::engine::transport::error::TransportError;
use crate::failure::{Class, Evidence, classify};
use crate::text::sanitize;

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The engine returned an HTTP error status. `message`: the engine's error message, not sanitized.
    #[error("the engine answered {status}: {}", sanitize(message))]
    Answered { status: StatusCode, message: String },
    /// The response is a redirect. The plugin does not follow redirects, because the target would receive the
    /// credentials.
    #[error(
        "unexpected redirect in response: the engine at {endpoint} answered {status}, to `{}`",
        sanitize(target)
    )]
    Redirected { endpoint: Arc<Endpoint>, status: StatusCode, target: String },
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("the engine at {endpoint} does not answer")]
    Silent { endpoint: Arc<Endpoint> },
    #[error("the engine at {endpoint} has API version {}.{}; docker-regpush requires {}.{} or later", version.0, version.1, oldest.0, oldest.1)]
    TooOld { endpoint: Arc<Endpoint>, version: (u32, u32), oldest: (u32, u32) },
    /// The engine does not support the API version of the request. `limit`: the oldest or newest version that the engine
    /// supports. `helps_to_unset`: DOCKER_API_VERSION sets the version, and the plugin supports one that the engine
    /// supports. `message`: the engine's error message, not sanitized.
    #[error("the engine at {endpoint} does not support API version {}.{}: {}", version.0, version.1, sanitize(message))]
    ApiVersionRefused {
        endpoint: Arc<Endpoint>,
        version: (u32, u32),
        limit: String,
        helps_to_unset: bool,
        message: String,
    },
    #[error("the engine's answer is longer than {} MB", .0 >> 20)]
    TooLong(usize),
    #[error("invalid API version (`{0}`) in DOCKER_API_VERSION")]
    ApiVersion(String),
    #[error("cannot parse the engine's answer to {0}")]
    Unreadable(&'static str, #[source] serde_json::Error),
}

impl EngineError {
    /// Returns a hint for this error: a command to run, or a setting to change.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Transport(error) => return Some(error.hint()),
            Self::Decode(DecodeError::Truncated { .. }) => {
                "check the engine's log (`journalctl -u docker`), then push again"
            }
            Self::ApiVersion(_) => "set it to a version like 1.41, or unset it",
            Self::ApiVersionRefused { limit, helps_to_unset: true, .. } => {
                return Some(format!("unset DOCKER_API_VERSION, or set it to {limit}"));
            }
            Self::ApiVersionRefused { limit, .. } => {
                return Some(format!(
                    "update docker-regpush: the engine requires API version {limit} or later"
                ));
            }
            Self::TooOld { .. } => "update docker on the engine's machine",
            Self::Redirected { .. } => {
                "check --host, --context and DOCKER_HOST: a proxy in front of the engine redirects requests"
            }
            Self::Answered { status, message } => {
                let verdict = classify(&Evidence {
                    http_status: Some(status.as_u16()),
                    ..Evidence::of_text(message, false)
                });
                if verdict.class == Class::Engine {
                    verdict.hint
                } else {
                    "check the engine's log (`journalctl -u docker`)"
                }
            }
            _ => "run `docker version` to check that an engine listens at this endpoint",
        };
        Some(hint.to_owned())
    }

    pub fn class(&self) -> Class {
        Class::Engine
    }
}

/// Returns the error message in the body of an error response, or the whole body if no field contains a
/// message.
///
/// docker sends the field `message`. podman sends the field `cause` or, since 4.6, the fields `errorDetail`
/// and `error`, like an error in the push stream.
pub fn error_message(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    text(&value["message"])
        .or_else(|| text(&value["errorDetail"]["message"]))
        .or_else(|| text(&value["error"]))
        .or_else(|| text(&value["cause"]))
        .unwrap_or_else(|| String::from_utf8_lossy(body).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_message_in_each_error_format() {
        let table = [
            (r#"{"message":"invalid tag format"}"#, "invalid tag format"),
            (r#"{"cause":"x","message":"y","response":404}"#, "y"),
            (r#"{"cause":"image not known","response":404}"#, "image not known"),
            (r#"{"errorDetail":{"message":"denied"},"error":"denied"}"#, "denied"),
            (r#"{"error":"denied"}"#, "denied"),
            ("plain text", "plain text"),
            ("", ""),
        ];
        for (body, want) in table {
            assert_eq!(error_message(body.as_bytes()), want);
        }
    }
}
