//! The calls we make to an engine.
//!
//! Source: Docker Engine API 1.24 to 1.51; podman's Docker API answers the same calls.

use std::env;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;

use crate::context::Endpoint;
use crate::credentials::Credentials;
use crate::event::{DecodeError, Decoder, Event};
use crate::reference::Reference;
use crate::secret::Secret;
use crate::text::clean;
use crate::transport::{Transport, TransportError};

/// The newest API that this client knows; an older engine's own is used.
const API_VERSION: (u32, u32) = (1, 51);
/// An answer that is not a stream: errors, `/auth`, lists of images.
const MAX_BODY: usize = 16 << 20;
/// An engine that answers at all answers a ping at once.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// For questions whose answer only makes a message better.
const ASIDE_TIMEOUT: Duration = Duration::from_secs(2);
const USER_AGENT_VALUE: &str = concat!("docker-regpush/", env!("CARGO_PKG_VERSION"));

/// What stays as it is in a path. docker itself leaves `/` and `:` and encodes `[` and `]`.
const PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b']')
    .add(b'`')
    .add(b'{')
    .add(b'}');

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// An HTTP error of the engine itself; `message`: its text, unclean.
    #[error("the engine answered {status}: {}", clean(message))]
    Answered { status: StatusCode, message: String },
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("the engine does not answer")]
    Silent,
    #[error("the engine's answer is longer than {} MB", MAX_BODY >> 20)]
    TooLong,
    #[error("invalid API version (`{0}`) in DOCKER_API_VERSION")]
    ApiVersion(String),
    #[error("the engine's answer to {0} cannot be read")]
    Unreadable(&'static str, #[source] serde_json::Error),
}

/// One `POST /images/{name}/push`.
#[derive(Debug)]
pub struct PushRequest<'a> {
    pub reference: &'a Reference,
    pub credentials: &'a Credentials,
}

/// Takes a line about each call, for `--debug`; of headers only the names.
pub type Trace = fn(&str);

/// What `POST /auth` said of credentials.
#[derive(Debug)]
pub enum AuthAnswer {
    /// Good; some registries hand out a token to be used in place of the password.
    Accepted { identity_token: Option<Secret> },
    /// The registry was asked and said no, or could not be asked; `message` tells, unclean.
    Refused { message: String },
}

/// An engine, with the API version agreed on.
#[derive(Debug)]
pub struct Engine {
    transport: Transport,
    /// `/v1.41`, or nothing where the engine did not say: then it takes its own.
    prefix: String,
    trace: Option<Trace>,
}

impl Engine {
    /// Connects, and agrees on an API version: the lower of the engine's and ours, or what
    /// `DOCKER_API_VERSION` says, unasked.
    ///
    /// # Errors
    /// Nothing listens there, it does not answer a ping within 20 s, or the variable is no version.
    pub async fn connect(endpoint: Endpoint, trace: Option<Trace>) -> Result<Self, EngineError> {
        let mut engine = Self { transport: Transport::new(endpoint), prefix: String::new(), trace };
        let pinned = env::var_os("DOCKER_API_VERSION").filter(|version| !version.is_empty());
        if let Some(version) = pinned {
            let version = version.to_string_lossy();
            let number = parse_version(&version).ok_or_else(|| EngineError::ApiVersion(clean(&version)))?;
            engine.prefix = format!("/v{}.{}", number.0, number.1);
            return Ok(engine);
        }
        let ping = tokio::time::timeout(PING_TIMEOUT, engine.ping()).await;
        if let Some(version) = ping.map_err(|_| EngineError::Silent)?? {
            let (major, minor) = version.min(API_VERSION);
            engine.prefix = format!("/v{major}.{minor}");
        }
        Ok(engine)
    }

    /// The engine's API version, from `HEAD /_ping`, or from `GET` where that is unknown.
    async fn ping(&mut self) -> Result<Option<(u32, u32)>, EngineError> {
        for method in [Method::HEAD, Method::GET] {
            let is_last = method == Method::GET;
            let response = match self.call(method, "/_ping", None, Bytes::new()).await {
                // What stands between us and an engine may not know HEAD, and hang up.
                Err(EngineError::Transport(TransportError::Lost(_))) if !is_last => continue,
                response => response?,
            };
            let version = response.headers().get("api-version").and_then(|value| value.to_str().ok());
            let version = version.and_then(parse_version);
            let answered = response.status() == StatusCode::OK;
            self.whole(response).await?;
            if answered {
                return Ok(version);
            }
        }
        Ok(None)
    }

    /// Asks the engine to push one tag. A refusal of the registry nearly always is an
    /// [`Event::Refused`] in the stream: engines say 200 before they contact the registry.
    ///
    /// # Errors
    /// The engine is gone, or [`EngineError::Answered`]: it refuses the call, now and then for the
    /// registry (podman, proxies between us and the engine).
    ///
    /// Source: Docker Engine API 1.24, `POST /images/{name}/push`. Without `tag` an engine would
    /// push every tag; without the header 20.10 answers 400.
    pub async fn push(&mut self, request: &PushRequest<'_>) -> Result<PushStream, EngineError> {
        let reference = request.reference;
        let name = utf8_percent_encode(&reference.repository(), PATH).to_string();
        let path = format!("{}/images/{name}/push?tag={}", self.prefix, reference.tag_or_latest());
        let header = request.credentials.header(reference.credentials_key());
        let response = self.call(Method::POST, &path, Some(&header), Bytes::from_static(b"{}")).await?;
        if response.status() != StatusCode::OK {
            return Err(self.refusal(response).await);
        }
        Ok(PushStream { body: response.into_body(), decoder: Decoder::default() })
    }

    /// Has the registry check credentials, once, without a push.
    ///
    /// # Errors
    /// The engine is gone. That the registry says no is an answer.
    ///
    /// Source: Docker Engine API 1.24, `POST /auth`. A wrong password comes as 500 for Basic
    /// registries and as 401 for those with tokens.
    pub async fn check(
        &mut self,
        credentials: &Credentials,
        server: &str,
    ) -> Result<AuthAnswer, EngineError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(rename = "IdentityToken", default)]
            identity_token: String,
        }
        let body = Bytes::from(credentials.auth_config(server).expose().to_owned());
        let path = format!("{}/auth", self.prefix);
        let response = self.call(Method::POST, &path, None, body).await?;
        if !response.status().is_success() {
            return match self.refusal(response).await {
                EngineError::Answered { message, .. } => Ok(AuthAnswer::Refused { message }),
                error => Err(error),
            };
        }
        let body = self.whole(response).await?;
        // podman answers 204, or 200 with a body of its own.
        let token =
            serde_json::from_slice::<Answer>(&body).map(|answer| answer.identity_token).unwrap_or_default();
        Ok(AuthAnswer::Accepted { identity_token: Some(token).filter(|t| !t.is_empty()).map(Secret::new) })
    }

    /// The names of all local images, `repository:tag`, as the engine shows them. For messages:
    /// gives up after 2 s.
    ///
    /// # Errors
    /// The engine is gone or silent, or its answer is no list of images.
    pub async fn local_names(&mut self) -> Result<Vec<String>, EngineError> {
        #[derive(Deserialize)]
        struct Image {
            /// `null` on engines before 1.43 for an image without a name.
            #[serde(rename = "RepoTags", default)]
            names: Option<Vec<String>>,
        }
        let path = format!("{}/images/json", self.prefix);
        let asked = async {
            let response = self.call(Method::GET, &path, None, Bytes::new()).await?;
            self.whole(response).await
        };
        let body = tokio::time::timeout(ASIDE_TIMEOUT, asked).await.map_err(|_| EngineError::Silent)??;
        let images: Vec<Image> =
            serde_json::from_slice(&body).map_err(|error| EngineError::Unreadable("/images/json", error))?;
        let names = images.into_iter().flat_map(|image| image.names.unwrap_or_default());
        Ok(names.filter(|name| !name.starts_with("<none>")).map(|name| clean(&name)).collect())
    }

    async fn call(
        &mut self,
        method: Method,
        path: &str,
        registry_auth: Option<&Secret>,
        body: Bytes,
    ) -> Result<Response<Incoming>, EngineError> {
        let mut request = Request::new(Full::new(body.clone()));
        let headers = request.headers_mut();
        // docker's own; the name of a socket is no host.
        headers.insert(HOST, HeaderValue::from_static("api.moby.localhost"));
        headers.insert(USER_AGENT, HeaderValue::from_static(USER_AGENT_VALUE));
        if !body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(secret) = registry_auth {
            let mut value = HeaderValue::from_str(secret.expose()).expect("base64 fits into a header");
            value.set_sensitive(true);
            headers.insert("x-registry-auth", value);
        }
        if let Some(trace) = self.trace {
            let names: Vec<&str> = request.headers().keys().map(|name| name.as_str()).collect();
            trace(&format!("{method} {path} ({})", names.join(", ")));
        }
        // A login that fails must fail once.
        let repeatable = !path.ends_with("/auth");
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().expect("a reference, percent-encoded, is a path");
        let response = self.transport.send(request, repeatable).await?;
        if let Some(trace) = self.trace {
            trace(&response.status().to_string());
        }
        Ok(response)
    }

    async fn whole(&self, response: Response<Incoming>) -> Result<Bytes, EngineError> {
        match Limited::new(response.into_body(), MAX_BODY).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(EngineError::TooLong),
            Err(error) => match error.downcast::<hyper::Error>() {
                Ok(error) => Err(TransportError::Lost(*error).into()),
                Err(_) => Err(EngineError::Silent),
            },
        }
    }

    async fn refusal(&self, response: Response<Incoming>) -> EngineError {
        let status = response.status();
        match self.whole(response).await {
            // A proxy's page; what engines write is JSON, or a line of text.
            Ok(body) if body.trim_ascii_start().starts_with(b"<") => DecodeError::not_json(&body).into(),
            Ok(body) => EngineError::Answered { status, message: error_message(&body) },
            Err(error) => error,
        }
    }
}

/// The answer to a push, as it comes.
#[derive(Debug)]
pub struct PushStream {
    body: Incoming,
    decoder: Decoder,
}

impl PushStream {
    /// Hands over the next events, at least one piece of the stream's; `false` at its proper end.
    /// Cancel-safe.
    ///
    /// # Errors
    /// The connection broke, or what came is no stream of an engine.
    pub async fn next(&mut self, on_event: impl FnMut(Event)) -> Result<bool, EngineError> {
        match self.body.frame().await {
            Some(Ok(frame)) => {
                if let Some(bytes) = frame.data_ref() {
                    self.decoder.decode(bytes, on_event)?;
                }
                Ok(true)
            }
            Some(Err(error)) => Err(TransportError::Lost(error).into()),
            None => Ok(self.decoder.finish().map(|()| false)?),
        }
    }
}

/// The text of an error body: docker's `message`, podman's `cause` or its stream-shaped error
/// (4.6 and later), else the body itself.
pub fn error_message(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    text(&value["message"])
        .or_else(|| text(&value["errorDetail"]["message"]))
        .or_else(|| text(&value["error"]))
        .or_else(|| text(&value["cause"]))
        .unwrap_or_else(|| String::from_utf8_lossy(body).into_owned())
}

/// `1.41` or `v1.41`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.strip_prefix('v').unwrap_or(text).split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_text_in_every_kind_of_error_body() {
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

    #[test]
    fn versions_are_two_numbers() {
        let table =
            [("1.41", Some((1, 41))), ("v1.9", Some((1, 9))), ("garbage", None), ("1", None), ("1.x", None)];
        for (text, want) in table {
            assert_eq!(parse_version(text), want, "{text}");
        }
        assert!((1, 9) < (1, 41), "compared as numbers");
    }
}
