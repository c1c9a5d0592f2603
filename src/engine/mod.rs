//! The calls we make to an engine.
//!
//! Source: Docker Engine API 1.24 to 1.51; podman's Docker API answers the same calls.

pub mod transport;

use std::collections::BTreeMap;
use std::env;
use std::mem::take;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, LOCATION, SERVER, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::credentials::Credentials;
use crate::docker::context::{Address, Endpoint};
use crate::engine::transport::Transport;
use crate::engine::transport::error::TransportError;
use crate::event::{DecodeError, Decoder, Event};
use crate::failure::{Class, Evidence, classify, wants_tls};
use crate::net::{RegistrySettings, Trace, USER_AGENT_VALUE, is_on_loopback};
use crate::oci::{Descriptor, is_digest};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::secret::{Censor, Secret};
use crate::text::clean;

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

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// An HTTP error of the engine itself; `message`: its text, unclean.
    #[error("the engine answered {status}: {}", clean(message))]
    Answered { status: StatusCode, message: String },
    /// Never followed: credentials would go along.
    #[error(
        "unexpected redirect in response: the engine at {endpoint} answered {status}, to `{}`",
        clean(target)
    )]
    Redirected { endpoint: Arc<Endpoint>, status: StatusCode, target: String },
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("the engine at {endpoint} does not answer")]
    Silent { endpoint: Arc<Endpoint> },
    #[error("the engine at {endpoint} speaks API {}.{}, and {}.{} is the oldest that can be used", version.0, version.1, MIN_API_VERSION.0, MIN_API_VERSION.1)]
    TooOld { endpoint: Arc<Endpoint>, version: (u32, u32) },
    #[error("the engine's answer is longer than {} MB", .0 >> 20)]
    TooLong(usize),
    #[error("invalid API version (`{0}`) in DOCKER_API_VERSION")]
    ApiVersion(String),
    #[error("the engine's answer to {0} cannot be read")]
    Unreadable(&'static str, #[source] serde_json::Error),
}

impl EngineError {
    /// What to type or to change next.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Transport(error) => return Some(error.hint()),
            Self::Decode(DecodeError::Truncated { .. }) => {
                "the engine may have stopped: look into its log, and push again"
            }
            Self::ApiVersion(_) => "set it to a version like 1.41, or unset it",
            Self::TooOld { .. } => "update docker on the engine's machine",
            Self::Redirected { .. } => {
                "something stands before the engine and wants its users elsewhere: check --host, --context and DOCKER_HOST"
            }
            Self::Answered { status, message } => {
                let verdict = classify(&Evidence {
                    http_status: Some(status.as_u16()),
                    ..Evidence::of_text(message, false)
                });
                if verdict.class == Class::Engine { verdict.hint } else { "look into the engine's log" }
            }
            _ => "check that an engine listens at this endpoint: `docker version`",
        };
        Some(hint.to_owned())
    }

    pub fn class(&self) -> Class {
        Class::Engine
    }
}

/// One `POST /images/{name}/push`.
#[derive(Debug)]
pub struct PushRequest<'a> {
    pub reference: &'a Reference,
    pub credentials: &'a Credentials,
    /// Of an image for several; API 1.46 and later, of which others know nothing.
    pub platform: Option<&'a Platform>,
    /// The objects of the stream are wanted as they come.
    pub wants_objects: bool,
}

impl<'a> PushRequest<'a> {
    pub fn new(reference: &'a Reference, credentials: &'a Credentials) -> Self {
        Self { reference, credentials, platform: None, wants_objects: false }
    }
}

/// One name of an image in the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalImage {
    /// `repository:tag`, as the engine shows it.
    pub name: String,
    /// Bytes, as the engine counts them.
    pub size: u64,
    /// Of the manifest that the repository in this name has, or would get; `None`: nobody knows it yet.
    pub digest: Option<String>,
    /// Whether the image was pushed to that repository (or pulled from it). `None`: docker's containerd
    /// store and podman name a digest for every repository, so there nobody can tell.
    pub is_pushed: Option<bool>,
}

/// An image in the engine's store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageDetails {
    pub id: String,
    /// Bytes, as the engine counts them.
    pub size: u64,
    /// What registries call it (`RepoDigests`). Whatever has one of these digests has the same content.
    pub digests: Vec<String>,
    /// The digests of its layers before they are compressed.
    pub layers: Vec<String>,
    /// What it is called here (`RepoTags`).
    pub names: Vec<String>,
    /// What it is made of, where the engine tells (the containerd store, API 1.48); else nothing.
    pub manifests: Vec<LocalManifest>,
}

/// A part of an image for several platforms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalManifest {
    pub digest: String,
    /// `None`: it is about another, an attestation, or of a kind unknown.
    pub platform: Option<Platform>,
    /// All of it is in the engine.
    pub is_here: bool,
}

impl ImageDetails {
    /// That is the image's own digest: of its manifest, which the containerd store takes for its ID.
    pub fn has_digest(&self, digest: &str) -> bool {
        self.id == digest || self.digests.iter().any(|own| own == digest)
    }
}

/// What an engine says that a registry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InRegistry {
    Names(Descriptor),
    NamesNothing,
    /// The engine does not know how, or could not; `message`: why, unclean.
    NotAsked {
        message: Option<String>,
    },
}

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
    /// What was agreed on; `None`: the engine did not say, and takes its own.
    version: Option<(u32, u32)>,
    /// `None`: it was not asked.
    is_podman: Option<bool>,
    /// `/v1.41`, or nothing.
    prefix: String,
    /// `Host`, which is none for a socket, and the user's own.
    headers: HeaderMap,
    trace: Option<Trace>,
    /// What was sent with the call at hand, and must not come back in a message.
    censor: Censor,
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
            // Nobody is left to be told.
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
            censor: Censor::default(),
            removals: Arc::default(),
        };
        engine.headers.insert(HOST, host_header(&engine.transport.endpoint().address));
        let pinned = env::var_os("DOCKER_API_VERSION").filter(|version| !version.is_empty());
        if let Some(version) = pinned {
            let version = version.to_string_lossy();
            let number = parse_version(&version).ok_or_else(|| EngineError::ApiVersion(clean(&version)))?;
            engine.agree_on(number);
            return Ok(engine);
        }
        let limit = if engine.is_dear() { LOGIN_TIMEOUT } else { PING_TIMEOUT };
        let ping = tokio::time::timeout(limit, engine.ping()).await;
        if let Some(version) = ping.map_err(|_| engine.silent())?? {
            if version < MIN_API_VERSION {
                return Err(EngineError::TooOld { endpoint: engine.endpoint(), version });
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
    pub fn is_dear(&self) -> bool {
        self.transport.endpoint().is_dear()
    }

    fn silent(&self) -> EngineError {
        EngineError::Silent { endpoint: self.endpoint() }
    }

    /// The engine's API version, from `HEAD /_ping`, or from `GET` where that is unknown.
    async fn ping(&mut self) -> Result<Option<(u32, u32)>, EngineError> {
        for method in [Method::HEAD, Method::GET] {
            let is_last = method == Method::GET;
            let response = match self.call(method, "/_ping", None, Bytes::new()).await {
                // What stands between us and an engine may not know HEAD, and hang up.
                Err(EngineError::Transport(TransportError::Lost { .. })) if !is_last && !self.is_dear() => {
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
        let mut path = format!("{}/images/{name}/push?tag={}", self.prefix, reference.tag_or_latest());
        if is_on_loopback(reference.domain()) {
            // podman needs to be told what docker knows by itself: on its own machine, plain HTTP will do.
            path += "&tlsVerify=false";
        }
        if let Some(platform) = request.platform {
            path += &format!("&platform={}", in_query(platform));
        }
        let header = self.sending(request);
        let response = self.call(Method::POST, &path, Some(&header), Bytes::from_static(b"{}")).await?;
        if response.status() != StatusCode::OK {
            return Err(self.refusal(response).await);
        }
        let endpoint = self.endpoint();
        let decoder = Decoder::new(self.censor.clone()).with_objects(request.wants_objects);
        let is_silent = is_podman(response.headers());
        Ok(PushStream { body: response.into_body(), decoder, endpoint, is_silent })
    }

    /// Has the engine give up a push, and waits until it has; `false`: it did not say so in time.
    ///
    /// An engine gives up once its client has hung up, but a client that has hung up does not see that. So
    /// only the way there is closed: engines take that for the same, end the answer, and then the
    /// connection (docker 20.10 and 28, podman 4.3: measured within 0.1 s).
    pub async fn stop(&mut self, mut stream: PushStream) -> bool {
        /// docker waits for what it has started to end.
        const PATIENCE: Duration = Duration::from_secs(5);
        self.transport.close_writing();
        let rest = async { while let Ok(true) = stream.next(|_| {}).await {} };
        let has_ended = tokio::time::timeout(PATIENCE, rest).await.is_ok();
        self.transport.hang_up();
        has_ended
    }

    /// The value of `X-Registry-Auth`, which from now on is watched for in what the engine says.
    fn sending(&mut self, request: &PushRequest<'_>) -> Secret {
        let header = request.credentials.header(request.reference.credentials_key());
        let secrets = request.credentials.secrets().into_iter();
        // Of nobody there is nothing to hide.
        let sent = Some(header.clone()).filter(|_| !request.credentials.is_anonymous());
        self.censor = Censor::new(secrets.chain(sent));
        header
    }

    /// Gives an image one more name, until what this returns is dropped. The name must not be taken.
    ///
    /// * `image`: a reference or an ID.
    /// * `id`: the image's own. The name is taken only from that.
    ///
    /// # Errors
    /// The engine is gone, or refuses.
    ///
    /// Source: Docker Engine API 1.24, `POST /images/{name}/tag`.
    pub async fn tag(
        &mut self,
        image: &str,
        id: &str,
        name: &Reference,
    ) -> Result<TemporaryTag, EngineError> {
        let repository = utf8_percent_encode(&name.repository(), PATH).to_string();
        let tag = name.tag_or_latest();
        let path = format!("{}/images/{}/tag?repo={repository}&tag={tag}", self.prefix, in_path(image));
        // Before the name is there: however this call ends, it is taken away.
        let made = TemporaryTag { engine: Some(self.fork()), id: id.to_owned(), name: name.clone() };
        let response = self.call(Method::POST, &path, None, Bytes::new()).await?;
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        self.whole(response).await?;
        Ok(made)
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
            censor: Censor::default(),
            removals: Arc::clone(&self.removals),
        }
    }

    /// Takes a name away again.
    ///
    /// # Errors
    /// The engine is gone, or refuses: the name stays.
    pub async fn remove(&mut self, mut tag: TemporaryTag) -> Result<Removed, EngineError> {
        const PATIENCE: Duration = Duration::from_secs(10);
        let removed = tokio::time::timeout(PATIENCE, self.untag(&tag.name, &tag.id)).await;
        let removed = removed.unwrap_or_else(|_| Err(self.silent()));
        // What was refused once is not tried again.
        tag.engine = None;
        removed
    }

    /// Takes a name from an image, and leaves the image. With its last name engines remove the image itself
    /// (docker 20.10 and 28, podman: measured), so that one stays.
    ///
    /// Source: Docker Engine API 1.24, `DELETE /images/{name}`.
    async fn untag(&mut self, name: &Reference, id: &str) -> Result<Removed, EngineError> {
        match self.inspect(&name.canonical()).await {
            Ok(image) if image.id != id => return Ok(Removed::WasMoved),
            Ok(image) if image.names.len() < 2 => return Ok(Removed::IsTheLast),
            Ok(_) => {}
            Err(EngineError::Answered { status: StatusCode::NOT_FOUND, .. }) => {
                return Ok(Removed::WasNotThere);
            }
            Err(error) => return Err(error),
        }
        let path = format!("{}/images/{}?noprune=true", self.prefix, in_path(&name.canonical()));
        let response = self.call(Method::DELETE, &path, None, Bytes::new()).await?;
        match response.status() {
            StatusCode::OK | StatusCode::NOT_FOUND => self.whole(response).await.map(|_| Removed::IsGone),
            _ => Err(self.refusal(response).await),
        }
    }

    /// What a stream that broke off really died of: the program that carried it may have said.
    pub async fn explain(&mut self, error: EngineError) -> EngineError {
        match error {
            EngineError::Transport(error @ TransportError::Lost { .. }) => {
                self.transport.explain_loss(error).await.into()
            }
            error => error,
        }
    }

    /// Has the engine ask the registry what the tag names.
    ///
    /// # Errors
    /// The engine is gone.
    ///
    /// Source: Docker Engine API 1.30, `GET /distribution/{name}/json`; podman does not have it.
    pub async fn in_registry(&mut self, request: &PushRequest<'_>) -> Result<InRegistry, EngineError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(rename = "Descriptor")]
            descriptor: Named,
        }
        #[derive(Deserialize)]
        struct Named {
            digest: String,
            size: u64,
        }
        let path = format!("{}/distribution/{}/json", self.prefix, in_path(&request.reference.canonical()));
        let header = self.sending(request);
        match self.ask::<Answer>(&path, Some(&header)).await {
            Ok(Some(Answer { descriptor: Named { digest, size } })) if is_digest(&digest) => {
                Ok(InRegistry::Names(Descriptor::new(digest, size)))
            }
            Ok(_) => Ok(InRegistry::NotAsked { message: None }),
            // `manifest unknown`, `name unknown`: the registry's own words. podman: `Not Found`.
            Err(EngineError::Answered { status: StatusCode::NOT_FOUND, message }) => {
                let is_registrys = message.contains(" unknown");
                Ok(if is_registrys {
                    InRegistry::NamesNothing
                } else {
                    InRegistry::NotAsked { message: None }
                })
            }
            Err(EngineError::Answered { message, .. }) => Ok(InRegistry::NotAsked { message: Some(message) }),
            Err(error @ (EngineError::Transport(_) | EngineError::Silent { .. })) => Err(error),
            // The page of something that stands before it, and lets not every call pass.
            Err(_) => Ok(InRegistry::NotAsked { message: None }),
        }
    }

    /// What the engine knows of an image.
    ///
    /// * `name`: a reference or an ID.
    ///
    /// # Errors
    /// It is not there ([`EngineError::Answered`]), or the engine is gone.
    ///
    /// Source: Docker Engine API 1.24, `GET /images/{name}/json`; 1.48 for `manifests`.
    pub async fn inspect(&mut self, name: &str) -> Result<ImageDetails, EngineError> {
        let query = if self.tells_platforms() { "?manifests=true" } else { "" };
        self.inspect_with(name, query).await
    }

    /// The same of one platform, where the engine can tell: its layers are those of that.
    ///
    /// # Errors
    /// That of [`inspect`](Self::inspect); also if it does not have the platform.
    ///
    /// Source: Docker Engine API 1.49, `platform`.
    pub async fn inspect_platform(
        &mut self,
        name: &str,
        platform: &Platform,
    ) -> Result<Option<ImageDetails>, EngineError> {
        if !self.speaks((1, 49)) {
            return Ok(None);
        }
        self.inspect_with(name, &format!("?platform={}", in_query(platform))).await.map(Some)
    }

    async fn inspect_with(&mut self, name: &str, query: &str) -> Result<ImageDetails, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            id: String,
            #[serde(default)]
            size: i64,
            #[serde(default)]
            repo_digests: Option<Vec<String>>,
            #[serde(default)]
            repo_tags: Option<Vec<String>>,
            #[serde(rename = "RootFS", default)]
            root: Root,
            #[serde(default)]
            manifests: Option<Vec<Manifest>>,
        }
        #[derive(Default, Deserialize)]
        struct Root {
            #[serde(rename = "Layers", default)]
            layers: Option<Vec<String>>,
        }
        let path = format!("{}/images/{}/json{query}", self.prefix, in_path(name));
        let unreadable = |error| EngineError::Unreadable("/images/{name}/json", error);
        let body = self.answer(&path, None).await?;
        let answer: Answer = serde_json::from_slice(&body).map_err(unreadable)?;
        let digest = |name: &String| name.split_once('@').map(|(_, digest)| digest.to_owned());
        let own = answer.repo_digests.unwrap_or_default();
        Ok(ImageDetails {
            digests: own.iter().filter_map(digest).collect(),
            id: clean(&answer.id),
            size: u64::try_from(answer.size).unwrap_or_default(),
            layers: answer.root.layers.unwrap_or_default().iter().map(|layer| clean(layer)).collect(),
            names: answer.repo_tags.unwrap_or_default().iter().map(|name| clean(name)).collect(),
            manifests: answer.manifests.unwrap_or_default().into_iter().map(Manifest::read).collect(),
        })
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
        self.censor = Censor::new(credentials.secrets());
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

    /// All local images that have a name.
    ///
    /// # Errors
    /// The engine is gone or silent for longer than `limit`, or its answer is no list of images.
    pub async fn local_images(&mut self, limit: Duration) -> Result<Vec<LocalImage>, EngineError> {
        #[derive(Deserialize)]
        struct Image {
            /// `null` on engines before 1.43 for an image without a name.
            #[serde(rename = "RepoTags", default)]
            names: Option<Vec<String>>,
            #[serde(rename = "Id", default)]
            id: String,
            #[serde(rename = "RepoDigests", default)]
            digests: Option<Vec<String>>,
            #[serde(rename = "Size", default)]
            size: i64,
        }
        let path = format!("{}/images/json", self.prefix);
        let asked = async {
            let response = self.call(Method::GET, &path, None, Bytes::new()).await?;
            if response.status() != StatusCode::OK {
                return Err(self.refusal(response).await);
            }
            // The digests it names change when it pushes.
            let is_podman = is_podman(response.headers());
            Ok((self.whole(response).await?, is_podman))
        };
        let asked = tokio::time::timeout(limit, asked).await;
        let (body, is_podman) = asked.map_err(|_| self.silent())??;
        let images: Vec<Image> =
            serde_json::from_slice(&body).map_err(|error| EngineError::Unreadable("/images/json", error))?;
        let named = images.into_iter().flat_map(|image| {
            let size = u64::try_from(image.size).unwrap_or_default();
            let digests = image.digests.unwrap_or_default();
            // The containerd store knows an image by the digest of its manifest.
            let is_containerd = digests.iter().any(|name| name.ends_with(&format!("@{}", image.id)));
            let names = image.names.unwrap_or_default().into_iter();
            names.map(move |name| {
                let name = clean(&name);
                let repository = name.rsplit_once(':').map_or(name.as_str(), |(repository, _)| repository);
                let of_repository = |named: &String| {
                    named
                        .split_once('@')
                        .filter(|(named, _)| *named == repository)
                        .map(|(_, digest)| digest.to_owned())
                };
                let digest = digests.iter().find_map(of_repository).filter(|digest| is_digest(digest));
                let (digest, is_pushed) = match () {
                    () if is_podman => (None, None),
                    () if is_containerd => (Some(image.id.clone()), None),
                    () => (digest.clone(), Some(digest.is_some())),
                };
                LocalImage { name, size, digest, is_pushed }
            })
        });
        Ok(named.filter(|image| !image.name.starts_with("<none>")).collect())
    }

    /// How the engine speaks with registries; with nothing special where it does not tell.
    ///
    /// # Errors
    /// The engine is gone.
    ///
    /// Source: Docker Engine API 1.24, `GET /info`.
    pub async fn registry_settings(&mut self) -> Result<RegistrySettings, EngineError> {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "PascalCase", default)]
        struct Info {
            registry_config: Option<RegistryConfig>,
            security_options: Option<Vec<String>>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct RegistryConfig {
            #[serde(rename = "IndexConfigs")]
            registries: Option<BTreeMap<String, Index>>,
            #[serde(rename = "InsecureRegistryCIDRs")]
            networks: Option<Vec<String>>,
        }
        #[derive(Deserialize)]
        struct Index {
            #[serde(rename = "Secure", default)]
            secure: bool,
        }
        let info: Info = match self.ask(&format!("{}/info", self.prefix), None).await {
            Ok(info) => info.unwrap_or_default(),
            Err(error @ (EngineError::Transport(_) | EngineError::Silent { .. })) => return Err(error),
            // It does not have the call, or does not let us.
            Err(_) => Info::default(),
        };
        let config = info.registry_config.unwrap_or_default();
        let registries = config.registries.unwrap_or_default().into_iter();
        let networks = config.networks.unwrap_or_default();
        Ok(RegistrySettings {
            secure: registries.map(|(name, index)| (name, index.secure)).collect(),
            insecure_networks: networks.iter().filter_map(|network| network.parse().ok()).collect(),
            is_rootless: info
                .security_options
                .unwrap_or_default()
                .iter()
                .any(|option| option == "name=rootless"),
        })
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
            let target = self.censor.hide(target.unwrap_or_default());
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
                DecodeError::not_json(&body, &self.censor).into()
            }
            Ok(body) => EngineError::Answered { status, message: self.censor.hide(error_message(&body)) },
            Err(error) => error,
        }
    }
}

/// As the engine lists it.
///
/// Source: Docker Engine API 1.47, `ImageManifestSummary`.
#[derive(Deserialize)]
struct Manifest {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(rename = "Available", default)]
    is_here: bool,
    #[serde(rename = "ImageData", default)]
    image: Option<ManifestImage>,
}

#[derive(Deserialize)]
struct ManifestImage {
    #[serde(rename = "Platform")]
    platform: Platform,
}

impl Manifest {
    fn read(self) -> LocalManifest {
        let filled = |text: Option<String>| text.map(|text| clean(&text)).filter(|text| !text.is_empty());
        let platform = self.image.map(|ManifestImage { platform }| Platform {
            os: clean(&platform.os),
            os_version: filled(platform.os_version),
            architecture: clean(&platform.architecture),
            variant: filled(platform.variant),
        });
        LocalManifest { digest: clean(&self.id), platform, is_here: self.is_here }
    }
}

/// What became of a name that was to be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    IsGone,
    WasNotThere,
    /// Somebody has given it to another image meanwhile; it is theirs.
    WasMoved,
    /// The image has no other any more, and would go with it.
    IsTheLast,
}

/// A name that we gave to an image in the engine. It goes when this is dropped, however we end: by an error,
/// by Ctrl-C, by a panic.
#[derive(Debug)]
pub struct TemporaryTag {
    /// `None`: it is gone, or stays.
    engine: Option<Engine>,
    /// Of the image.
    id: String,
    pub name: Reference,
}

impl TemporaryTag {
    /// It stays.
    pub fn keep(mut self) {
        self.engine = None;
    }
}

impl Drop for TemporaryTag {
    fn drop(&mut self) {
        /// Less than `main` waits for the end once a signal has come.
        const PATIENCE: Duration = Duration::from_millis(1500);
        /// Until an engine has done what it was told by a connection that has broken since.
        const AGAIN: Duration = Duration::from_millis(300);
        let Some(mut engine) = self.engine.take() else { return };
        let removals = take(&mut engine.removals);
        let (name, id) = (self.name.clone(), self.id.clone());
        let turn = Arc::clone(&removals.turn);
        // The runtime that we are in may be ending, and cannot wait for us in any case.
        let removal = std::thread::spawn(move || {
            let _turn = turn.lock().ok().filter(|_| engine.is_podman == Some(true));
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            let removed = async {
                if let Ok(Removed::WasNotThere) = engine.untag(&name, &id).await {
                    tokio::time::sleep(AGAIN).await;
                    let _ = engine.untag(&name, &id).await;
                }
            };
            // Nobody is left to be told.
            let _ = runtime.block_on(async { tokio::time::timeout(PATIENCE, removed).await });
            runtime.shutdown_background();
        });
        if let Ok(mut threads) = removals.threads.lock() {
            threads.push(removal);
        }
    }
}

/// The answer to a push, as it comes.
#[derive(Debug)]
pub struct PushStream {
    body: Incoming,
    decoder: Decoder,
    endpoint: Arc<Endpoint>,
    /// podman says nothing until the end.
    pub is_silent: bool,
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
            Some(Err(error)) => Err(TransportError::lost(&self.endpoint, true, error).into()),
            None => Ok(self.decoder.finish().map(|()| false)?),
        }
    }
}

fn is_podman(headers: &HeaderMap) -> bool {
    headers.get(SERVER).is_some_and(|server| server.as_bytes().starts_with(b"Libpod"))
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

fn in_query(platform: &Platform) -> String {
    let json = serde_json::to_string(platform).expect("texts make JSON");
    utf8_percent_encode(&json, NON_ALPHANUMERIC).to_string()
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
