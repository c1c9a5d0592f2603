//! Client for an engine's HTTP API: connects to the engine, agrees on an API version, and sends requests.
//!
//! Source: Docker Engine API 1.24 to 1.55. podman's Docker API accepts the same requests.

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
use crate::failure::{refused_api_version, wants_tls};
use crate::net::{Trace, USER_AGENT_VALUE};
use crate::secret::{Redactor, Secret};
use crate::text::sanitize;

/// The newest API version that this client supports. For an older engine, the client uses the engine's
/// version.
const API_VERSION: (u32, u32) = (1, 55);
/// Maximum size in bytes of a successful response that is not a stream, such as a list of images.
const MAX_BODY: usize = 16 << 20;
/// Maximum size in bytes of an error response. The largest normal error response is a proxy's HTML page.
const MAX_REFUSAL: usize = 1 << 20;
/// The oldest API version that this client supports. Every engine in use supports this version or a later
/// one.
const MIN_API_VERSION: (u32, u32) = (1, 24);
/// Maximum time for the engine's response to a ping. A working engine responds at once.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum time for the response to a ping if ssh must log in first. docker limits the connection attempt of
/// ssh to 30 s.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Characters to percent-encode in a path. Like docker, encodes `[` and `]`, but not `/` and `:`.
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

/// A client of one engine. Client and engine have agreed on an API version.
#[derive(Debug)]
pub struct Engine {
    transport: Transport,
    /// The API version of requests. `None` if the engine reported no version; the engine then uses its
    /// default version.
    version: Option<(u32, u32)>,
    /// The newest API version of the engine. `None` if the engine was not asked, or reported no version.
    newest: Option<(u32, u32)>,
    /// Whether `DOCKER_API_VERSION` sets `version`.
    is_pinned: bool,
    /// Whether the engine is podman; `None` before the first successful ping.
    is_podman: Option<bool>,
    /// The start of each request's path, such as `/v1.41`. Empty if `version` is `None`.
    prefix: String,
    /// The headers that the user configured, and `Host`. If the endpoint is not TCP, `Host` is the
    /// placeholder that docker sends, such as `api.moby.localhost`.
    headers: HeaderMap,
    trace: Option<Trace>,
    /// Replaces secrets in the engine's messages: the secrets that this client last sent to the engine.
    redactor: Redactor,
    removals: Arc<Removals>,
}

/// The threads that remove the tags of dropped `TemporaryTag` values, one thread per tag.
///
/// The threads run in parallel, so that a user who interrupts the program does not wait for one removal after
/// another. Dropping the last `Engine` waits for all threads.
#[derive(Debug, Default)]
struct Removals {
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Locked while podman removes a tag: podman 4.3 loses image names if two removals run at once.
    turn: Arc<Mutex<()>>,
}

impl Drop for Removals {
    fn drop(&mut self) {
        for removal in self.threads.get_mut().map(take).unwrap_or_default() {
            // The result is ignored, because `drop` cannot report that a thread panicked.
            let _ = removal.join();
        }
    }
}

impl Engine {
    /// Connects to an engine. Client and engine agree on the newest API version that both support.
    ///
    /// If `DOCKER_API_VERSION` is set, uses this version without contacting the engine.
    ///
    /// * `headers`: headers that the user configured, for every request. Headers that the client sets
    ///   override the user's headers.
    ///
    /// # Errors
    /// Nothing listens at the endpoint, the engine does not answer a ping within 20 s (60 s over ssh), or the
    /// engine is too old. Also fails if `DOCKER_API_VERSION` is not a version.
    pub async fn connect(
        endpoint: Endpoint,
        headers: HeaderMap,
        trace: Option<Trace>,
    ) -> Result<Self, EngineError> {
        let transport = Transport::new(endpoint);
        let mut engine = Self {
            transport,
            version: None,
            newest: None,
            is_pinned: false,
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
            engine.is_pinned = true;
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
            engine.newest = Some(version);
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

    /// Returns whether the engine may require TLS from registries on loopback addresses.
    ///
    /// Source: docker 29.10 does if `insecure-registries` is set (moby#53868). The API versions of docker 29 begin with
    /// 1.52. If the user sets the API version, the engine's own version is unknown.
    pub fn may_require_tls_on_loopback(&self) -> bool {
        self.is_pinned || self.newest.is_some_and(|newest| newest >= (1, 52))
    }

    /// Returns whether the engine lists the manifests of a multi-platform image.
    pub fn tells_platforms(&self) -> bool {
        self.speaks((1, 48))
    }

    /// Returns the reason why the engine cannot push a single platform of an image. Returns `None` if the
    /// engine can.
    ///
    /// # Errors
    /// The engine cannot be reached.
    ///
    /// Source: Docker Engine API 1.46 added the parameter `platform` for a push. Older engines and podman
    /// (4.3, measured) silently ignore this parameter and push all platforms in their store.
    pub async fn lacks_platforms(&mut self) -> Result<Option<String>, EngineError> {
        if self.is_podman.is_none() {
            let asked = tokio::time::timeout(PING_TIMEOUT, self.ping()).await;
            asked.map_err(|_| self.silent())??;
        }
        Ok(match self.version {
            _ if self.is_podman == Some(true) => {
                Some("podman cannot push a single platform of an image".to_owned())
            }
            Some((major, minor)) if !self.speaks((1, 46)) => Some(format!(
                "the engine has API version {major}.{minor}; --platform requires 1.46 (docker 27) or later"
            )),
            _ => None,
        })
    }

    /// Returns the endpoint of the engine.
    pub fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(self.transport.endpoint())
    }

    /// Returns whether each new connection starts ssh or docker, which may have to log in again. For an
    /// expensive connection, callers open no second connection.
    pub fn is_connect_expensive(&self) -> bool {
        self.transport.endpoint().is_connect_expensive()
    }

    fn silent(&self) -> EngineError {
        EngineError::Silent { endpoint: self.endpoint() }
    }

    /// Pings the engine and returns the engine's API version. Sends `GET /_ping` if `HEAD /_ping` fails.
    async fn ping(&mut self) -> Result<Option<(u32, u32)>, EngineError> {
        for method in [Method::HEAD, Method::GET] {
            let is_last = method == Method::GET;
            let response = match self.call(method, "/_ping", None, Bytes::new()).await {
                // A proxy in front of the engine may close the connection because it does not support HEAD.
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
            // Return `WantsTls` at once. Ignore any other refusal of the ping, because the next request to
            // the engine reports the refusal.
            if let error @ EngineError::Transport(TransportError::WantsTls { .. }) =
                self.refusal(response).await
            {
                return Err(error);
            }
        }
        Ok(None)
    }

    /// Closes the connection to the engine, so that the engine stops the running request.
    pub fn hang_up(&mut self) {
        self.transport.hang_up();
    }

    /// Returns another client of the same engine, with a connection of its own.
    #[must_use]
    pub fn fork(&self) -> Self {
        let (prefix, headers) = (self.prefix.clone(), self.headers.clone());
        Self {
            transport: Transport::new(self.endpoint()),
            version: self.version,
            newest: self.newest,
            is_pinned: self.is_pinned,
            is_podman: self.is_podman,
            prefix,
            headers,
            trace: self.trace,
            redactor: Redactor::default(),
            removals: Arc::clone(&self.removals),
        }
    }

    /// Replaces the error of a lost connection with the failure of the program (such as ssh) that carried the
    /// connection. Keeps the error if no program failed.
    pub async fn explain(&mut self, error: EngineError) -> EngineError {
        match error {
            EngineError::Transport(error @ TransportError::Lost { .. }) => {
                self.transport.explain_loss(error).await.into()
            }
            error => error,
        }
    }

    /// Sends a `GET` request and parses the JSON response. Returns `None` if the body is not a JSON `T`.
    ///
    /// # Errors
    /// The errors of [`answer`](Self::answer).
    async fn ask<T: DeserializeOwned>(
        &mut self,
        path: &str,
        registry_auth: Option<&Secret>,
    ) -> Result<Option<T>, EngineError> {
        Ok(serde_json::from_slice(&self.answer(path, registry_auth).await?).ok())
    }

    /// Sends a `GET` request and returns the body of the response.
    ///
    /// # Errors
    /// The engine cannot be reached, or the status is not 200 (usually [`EngineError::Answered`]).
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
        // Start with the user's headers, so that the headers of this client override them.
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
        // Requests to `/auth` are never repeated: a wrong password must reach the registry only once.
        let repeatable = !path.ends_with("/auth");
        *request.method_mut() = method;
        let base = match &self.transport.endpoint().address {
            Address::Tcp { base, .. } => base,
            _ => "",
        };
        let url = format!("{base}{path}").parse();
        *request.uri_mut() = url.expect("the base and an encoded name make a URL");
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
        // For an empty image name, the engine's router answers 301 with another path of the engine. This
        // response is not reported as `Redirected`.
        let is_own =
            target.as_ref().is_none_or(|target| target.starts_with('/') && target.contains("/images/"));
        if status.is_redirection() && !(status == StatusCode::MOVED_PERMANENTLY && is_own) {
            let endpoint = self.endpoint();
            let target = self.redactor.redact(target.unwrap_or_default());
            return EngineError::Redirected { endpoint, status, target };
        }
        // An error about missing TLS can come from the engine only if the plugin connected over TCP without
        // TLS. Over other connections, a registry is the source of this error.
        let endpoint = self.transport.endpoint();
        let is_plain_tcp = endpoint.tls.is_none() && matches!(endpoint.address, Address::Tcp { .. });
        let may_want_tls = is_plain_tcp && status == StatusCode::BAD_REQUEST;
        match self.whole(response).await {
            Ok(body) if may_want_tls && wants_tls(&String::from_utf8_lossy(&body)) => {
                TransportError::WantsTls { endpoint: self.endpoint() }.into()
            }
            // An HTML page comes from a proxy. Engines send JSON or a line of text.
            Ok(body) if body.trim_ascii_start().starts_with(b"<") => {
                DecodeError::not_json(&body, &self.redactor).into()
            }
            Ok(body) => {
                let message = self.redactor.redact(error_message(&body));
                match (self.version, refused_api_version(&message)) {
                    (Some(version), Some(limit)) if status == StatusCode::BAD_REQUEST => {
                        let endpoint = self.endpoint();
                        let is_supported = parse_version(&limit).is_none_or(|limit| limit <= API_VERSION);
                        EngineError::ApiVersionRefused {
                            endpoint,
                            version,
                            limit,
                            helps_to_unset: self.is_pinned && is_supported,
                            message,
                        }
                    }
                    _ => EngineError::Answered { status, message },
                }
            }
            Err(error) => error,
        }
    }
}

fn is_podman(headers: &HeaderMap) -> bool {
    headers.get(SERVER).is_some_and(|server| server.as_bytes().starts_with(b"Libpod"))
}

/// Percent-encodes an image's reference or ID for the path of a request.
fn in_path(name: &str) -> String {
    utf8_percent_encode(name, PATH).to_string()
}

/// Returns the `Host` header for an endpoint. For an endpoint other than TCP, returns the placeholder that
/// docker sends.
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

/// Parses an API version in the form `1.41` or `v1.41`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers =
        text.strip_prefix('v').unwrap_or(text).split('.').map(|number| number.parse::<u32>().ok());
    let (major, minor) = (numbers.next()??, numbers.next()??);
    // docker and engines accept an API version with a third number.
    numbers.all(|number| number.is_some()).then_some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_versions_as_two_numbers() {
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
        assert!((1, 9) < (1, 41), "versions are compared as numbers");
    }
}
