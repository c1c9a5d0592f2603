//! The engine's own push.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};
use hyper::{Method, StatusCode};
use percent_encoding::utf8_percent_encode;

use crate::credentials::Credentials;
use crate::docker::context::Endpoint;
use crate::engine::error::EngineError;
use crate::engine::images::in_query;
use crate::engine::stream::Decoder;
use crate::engine::transport::error::TransportError;
use crate::engine::{Engine, PATH, is_podman};
use crate::event::Event;
use crate::net::is_on_loopback;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::secret::{Redactor, Secret};

/// One `POST /images/{name}/push`.
#[derive(Debug)]
pub struct PushRequest<'a> {
    pub reference: &'a Reference,
    pub credentials: &'a Credentials,
    /// One platform of an image for several. Needs API 1.46; older engines ignore it.
    pub platform: Option<&'a Platform>,
    /// The objects of the stream are wanted as they come.
    pub wants_objects: bool,
}

impl<'a> PushRequest<'a> {
    pub fn new(reference: &'a Reference, credentials: &'a Credentials) -> Self {
        Self { reference, credentials, platform: None, wants_objects: false }
    }
}

impl Engine {
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
        let decoder = Decoder::new(self.redactor.clone()).with_objects(request.wants_objects);
        let is_silent = is_podman(response.headers());
        Ok(PushStream { body: response.into_body(), decoder, endpoint, is_silent })
    }

    /// Has the engine give up a push, and waits until it has; `false`: it did not say so in time.
    ///
    /// An engine gives up once its client has hung up, but a client that has hung up does not see that. So
    /// only the way there is closed: engines take that for the same, end the answer, and then the
    /// connection (docker 20.10 and 28, podman 4.3: measured within 0.1 s).
    pub async fn stop(&mut self, mut stream: PushStream) -> bool {
        /// How long to wait for the engine, which ends the uploads that it has started.
        const TIMEOUT: Duration = Duration::from_secs(5);
        self.transport.close_writing();
        let rest = async { while let Ok(true) = stream.next(|_| {}).await {} };
        let has_ended = tokio::time::timeout(TIMEOUT, rest).await.is_ok();
        self.transport.hang_up();
        has_ended
    }

    /// The value of `X-Registry-Auth`, which from now on is watched for in what the engine says.
    pub(super) fn sending(&mut self, request: &PushRequest<'_>) -> Secret {
        let header = request.credentials.header(request.reference.credentials_key());
        let secrets = request.credentials.secrets().into_iter();
        // Of nobody there is nothing to hide.
        let sent = Some(header.clone()).filter(|_| !request.credentials.is_anonymous());
        self.redactor = Redactor::new(secrets.chain(sent));
        header
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
