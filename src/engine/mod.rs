//! The calls we make to an engine.
//!
//! Source: Docker Engine API 1.24 to 1.51; podman's Docker API answers the same calls.

pub mod error;
pub mod images;
pub mod push;
pub mod registries;
pub mod stream;
pub mod tag;
pub mod transport;

use std::env;
use std::mem::take;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, LOCATION, SERVER, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::de::DeserializeOwned;

use crate::docker::context::{Address, Endpoint};
use crate::engine::error::{EngineError, error_message};
use crate::engine::stream::DecodeError;
use crate::engine::transport::Transport;
use crate::engine::transport::error::TransportError;
use crate::failure::wants_tls;
use crate::net::{Trace, USER_AGENT_VALUE};
use crate::secret::{Redactor, Secret};
use crate::text::sanitize;

/// The newest API that this client knows; an older engine's own is used.
const API_VERSION: (u32, u32) = (1, 51);
/// An answer that is not a stream: errors, `/auth`, lists of images.
const MAX_BODY: usize = 16 << 20;
/// The same of an error: a page of HTML, at most.
const MAX_REFUSAL: usize = 1 << 20;
/// The oldest that any engine in use speaks; its push is the one we know.
const MIN_API_VERSION: (u32, u32) = (1, 24);
/// An engine that answers at all answers a ping at once.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// The same where ssh has to log in first; docker has it give up a connection after 30 s.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(60);

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

/// An engine, with the API version agreed on.
#[derive(Debug)]
pub struct Engine {
    transport: Transport,
    /// The API version agreed on; `None`: the engine named none, and uses its own.
    version: Option<(u32, u32)>,
    /// `None`: it was not asked.
    is_podman: Option<bool>,
    /// `/v1.41`, or nothing.
    prefix: String,
    /// `Host`, which is none for a socket, and the user's own.
    headers: HeaderMap,
    trace: Option<Trace>,
    /// The secrets sent with this call, which must not appear in a message.
    redactor: Redactor,
    removals: Arc<Removals>,
}

/// Names that are being taken away, of pushes that were dropped. All at once, each on a thread of its own: who
/// ends the program does not wait for one after the other. The last engine waits for them.
#[derive(Debug, Default)]
struct Removals {
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// podman 4.3 loses names where two are taken away at once.
    turn: Arc<Mutex<()>>,
}

impl Drop for Removals {
    fn drop(&mut self) {
        for removal in self.threads.get_mut().map(take).unwrap_or_default() {
            // The program is ending: an error cannot be shown any more.
            let _ = removal.join();
        }
    }
}

impl Engine {
    /// Connects, and agrees on an API version: the lower of the engine's and ours, or what
    /// `DOCKER_API_VERSION` says, unasked.
    ///
    /// * `headers`: sent with every call, unless they are ours to set.
    ///
    /// # Errors
    /// Nothing listens there, it does not answer a ping within 20 s (60 s over ssh), it is too old, or
    /// the variable is no version.
    pub async fn connect(
        endpoint: Endpoint,
        headers: HeaderMap,
        trace: Option<Trace>,
    ) -> Result<Self, EngineError> {
        let transport = Transport::new(endpoint);
        let mut engine = Self {
            transport,
            version: None,
            is_podman: None,
            prefix: String::new(),
            headers,
            trace,
            redactor: Redactor::default(),
            removals: Arc::default(),
        };
        engine.headers.insert(HOST, host_header(&engine.transport.endpoint().address));
        let pinned = env::var_os("DOCKER_API_VERSION").filter(|version| !version.is_empty());
        if let Some(version) = pinned {
            let version = version.to_string_lossy();
            let number =
                parse_version(&version).ok_or_else(|| EngineError::ApiVersion(sanitize(&version)))?;
            engine.agree_on(number);
            return Ok(engine);
        }
        let limit = if engine.is_connect_expensive() { LOGIN_TIMEOUT } else { PING_TIMEOUT };
        let ping = tokio::time::timeout(limit, engine.ping()).await;
        if let Some(version) = ping.map_err(|_| engine.silent())?? {
            if version < MIN_API_VERSION {
                return Err(EngineError::TooOld {
                    endpoint: engine.endpoint(),
                    version,
                    oldest: MIN_API_VERSION,
                });
            }
            engine.agree_on(version.min(API_VERSION));
        }
        Ok(engine)
    }

    fn agree_on(&mut self, version: (u32, u32)) {
        self.version = Some(version);
        self.prefix = format!("/v{}.{}", version.0, version.1);
    }

    fn speaks(&self, version: (u32, u32)) -> bool {
        self.version.is_some_and(|own| own >= version)
    }

    /// Whether it says what an image for several platforms is made of.
    pub fn tells_platforms(&self) -> bool {
        self.speaks((1, 48))
    }

    /// Why it cannot push one platform of an image; `None`: it can.
    ///
    /// # Errors
    /// The engine is gone.
    ///
    /// Source: Docker Engine API 1.46 took the parameter in; older engines and podman (4.3, measured) push
    /// whatever they have, without a word.
    pub async fn lacks_platforms(&mut self) -> Result<Option<String>, EngineError> {
        if self.is_podman.is_none() {
            let asked = tokio::time::timeout(PING_TIMEOUT, self.ping()).await;
            asked.map_err(|_| self.silent())??;
        }
        Ok(match self.version {
            _ if self.is_podman == Some(true) => {
                Some("podman pushes what it has, and not one platform of an image".to_owned())
            }
            Some((major, minor)) if !self.speaks((1, 46)) => Some(format!(
                "the engine speaks API {major}.{minor}, and --platform needs 1.46 (docker 27 or later)"
            )),
            _ => None,
        })
    }

    /// Where it is.
    pub fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(self.transport.endpoint())
    }

    /// Another connection to it costs a login, so the one there is does it all.
    pub fn is_connect_expensive(&self) -> bool {
        self.transport.endpoint().is_connect_expensive()
    }

    fn silent(&self) -> EngineError {
        EngineError::Silent { endpoint: self.endpoint() }
    }

    /// The engine's API version, from `HEAD /_ping`, or from `GET` where that is unknown.
    async fn ping(&mut self) -> Result<Option<(u32, u32)>, EngineError> {
        for method in [Method::HEAD, Method::GET] {
            let is_last = method == Method::GET;
            let response = match self.call(method, "/_ping", None, Bytes::new()).await {
                // A proxy in front of the engine may not know HEAD, and close the connection.
                Err(EngineError::Transport(TransportError::Lost { .. }))
                    if !is_last && !self.is_connect_expensive() =>
                {
                    continue;
                }
                response => response?,
            };
            let version = response.headers().get("api-version").and_then(|value| value.to_str().ok());
            let version = version.and_then(parse_version);
            let answered = response.status() == StatusCode::OK;
            if answered {
                self.is_podman = Some(is_podman(response.headers()));
                self.whole(response).await?;
                return Ok(version);
            }
            // The first call will say what is wrong, unless it is known already.
            if let error @ EngineError::Transport(TransportError::WantsTls { .. }) =
                self.refusal(response).await
            {
                return Err(error);
            }
        }
        Ok(None)
    }

    /// Ends the connection, and with it what the engine does for us on it.
    pub fn hang_up(&mut self) {
        self.transport.hang_up();
    }

    /// The same engine, over a connection of its own.
    #[must_use]
    pub fn fork(&self) -> Self {
        let (prefix, headers) = (self.prefix.clone(), self.headers.clone());
        Self {
            transport: Transport::new(self.endpoint()),
            version: self.version,
            is_podman: self.is_podman,
            prefix,
            headers,
            trace: self.trace,
            redactor: Redactor::default(),
            removals: Arc::clone(&self.removals),
        }
    }

    /// Replaces a lost connection by the error of the program that carried it (ssh), if it printed one.
    pub async fn explain(&mut self, error: EngineError) -> EngineError {
        match error {
            EngineError::Transport(error @ TransportError::Lost { .. }) => {
                self.transport.explain_loss(error).await.into()
            }
            error => error,
        }
    }

    /// A question whose answer is JSON; `None`: it is something else.
    ///
    /// # Errors
    /// [`EngineError::Answered`] among them.
    async fn ask<T: DeserializeOwned>(
        &mut self,
        path: &str,
        registry_auth: Option<&Secret>,
    ) -> Result<Option<T>, EngineError> {
        Ok(serde_json::from_slice(&self.answer(path, registry_auth).await?).ok())
    }

    /// The body of an answer with status 200.
    async fn answer(&mut self, path: &str, registry_auth: Option<&Secret>) -> Result<Bytes, EngineError> {
        let response = self.call(Method::GET, path, registry_auth, Bytes::new()).await?;
        match response.status() {
            StatusCode::OK => self.whole(response).await,
            _ => Err(self.refusal(response).await),
        }
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
        // The user's first: ours count.
        headers.clone_from(&self.headers);
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
        let base = match &self.transport.endpoint().address {
            Address::Tcp { base, .. } => base,
            _ => "",
        };
        let url = format!("{base}{path}").parse();
        *request.uri_mut() = url.expect("a reference, percent-encoded, and a base, checked, make a path");
        let response = self.transport.send(request, repeatable).await?;
        if let Some(trace) = self.trace {
            trace(&response.status().to_string());
        }
        Ok(response)
    }

    async fn whole(&self, response: Response<Incoming>) -> Result<Bytes, EngineError> {
        let limit = if response.status().is_success() { MAX_BODY } else { MAX_REFUSAL };
        match Limited::new(response.into_body(), limit).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(EngineError::TooLong(limit)),
            Err(error) => match error.downcast::<hyper::Error>() {
                Ok(error) => Err(TransportError::lost(self.transport.endpoint(), true, *error).into()),
                Err(_) => Err(self.silent()),
            },
        }
    }

    async fn refusal(&self, response: Response<Incoming>) -> EngineError {
        let status = response.status();
        let target = response
            .headers()
            .get(LOCATION)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        // An engine's router sends a path with an empty name to itself.
        let is_own =
            target.as_ref().is_none_or(|target| target.starts_with('/') && target.contains("/images/"));
        if status.is_redirection() && !(status == StatusCode::MOVED_PERMANENTLY && is_own) {
            let endpoint = self.endpoint();
            let target = self.redactor.redact(target.unwrap_or_default());
            return EngineError::Redirected { endpoint, status, target };
        }
        // Over any other way these are a registry's words, passed on.
        let endpoint = self.transport.endpoint();
        let is_plain_tcp = endpoint.tls.is_none() && matches!(endpoint.address, Address::Tcp { .. });
        let may_want_tls = is_plain_tcp && status == StatusCode::BAD_REQUEST;
        match self.whole(response).await {
            Ok(body) if may_want_tls && wants_tls(&String::from_utf8_lossy(&body)) => {
                TransportError::WantsTls { endpoint: self.endpoint() }.into()
            }
            // A proxy's page; what engines write is JSON, or a line of text.
            Ok(body) if body.trim_ascii_start().starts_with(b"<") => {
                DecodeError::not_json(&body, &self.redactor).into()
            }
            Ok(body) => EngineError::Answered { status, message: self.redactor.redact(error_message(&body)) },
            Err(error) => error,
        }
    }
}

fn is_podman(headers: &HeaderMap) -> bool {
    headers.get(SERVER).is_some_and(|server| server.as_bytes().starts_with(b"Libpod"))
}

/// A reference or an ID, as it stands in a path.
fn in_path(name: &str) -> String {
    utf8_percent_encode(name, PATH).to_string()
}

/// docker's own for what has no host.
fn host_header(address: &Address) -> HeaderValue {
    match address {
        Address::Tcp { .. } => {
            let authority = address.authority().expect("TCP has one");
            HeaderValue::from_str(&authority).expect("checked when the address was read")
        }
        Address::Ssh(_) | Address::ThroughDocker { .. } => HeaderValue::from_static("docker.example.com"),
        Address::Unix(_) | Address::NamedPipe(_) => HeaderValue::from_static("api.moby.localhost"),
    }
}

/// `1.41` or `v1.41`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers =
        text.strip_prefix('v').unwrap_or(text).split('.').map(|number| number.parse::<u32>().ok());
    let (major, minor) = (numbers.next()??, numbers.next()??);
    // docker takes a third one, and engines do not mind.
    numbers.all(|number| number.is_some()).then_some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_two_numbers() {
        let table = [
            ("1.41", Some((1, 41))),
            ("v1.9", Some((1, 9))),
            ("garbage", None),
            ("1", None),
            ("1.x", None),
            ("1.41.2", Some((1, 41))),
        ];
        for (text, want) in table {
            assert_eq!(parse_version(text), want, "{text}");
        }
        assert!((1, 9) < (1, 41), "compared as numbers");
    }
}
