//! Pushes with the engine's own push call.

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
    /// Pushes only this platform of a multi-platform image. Needs API 1.46; older engines ignore it.
    pub platform: Option<&'a Platform>,
    /// Whether to report each JSON object of the stream too ([`Event::Object`]).
    pub wants_objects: bool,
}

impl<'a> PushRequest<'a> {
    pub fn new(reference: &'a Reference, credentials: &'a Credentials) -> Self {
        Self { reference, credentials, platform: None, wants_objects: false }
    }
}

impl Engine {
    /// Asks the engine to push one tag. A refusal by the registry is nearly always an [`Event::Refused`] in the
    /// stream: engines answer 200 before they contact the registry.
    ///
    /// # Errors
    /// The engine cannot be reached, or refuses the call ([`EngineError::Answered`]). This error may also carry
    /// a refusal by the registry (podman, proxies between the plugin and the engine).
    ///
    /// Source: Docker Engine API 1.24, `POST /images/{name}/push`. Without `tag` an engine would push every
    /// tag; without the header, 20.10 answers 400.
    pub async fn push(&mut self, request: &PushRequest<'_>) -> Result<PushStream, EngineError> {
        let reference = request.reference;
        let name = utf8_percent_encode(&reference.repository(), PATH).to_string();
        let mut path = format!("{}/images/{name}/push?tag={}", self.prefix, reference.tag_or_latest());
        if is_on_loopback(reference.domain()) {
            // docker always allows plain HTTP to a registry on its own machine; podman needs this parameter.
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

    /// Stops a push, and waits until the engine has stopped; `false` if it did not stop in time.
    ///
    /// An engine stops a push if the client closes the connection, but then the client cannot see when. So this
    /// closes only the sending side: engines also stop, end the answer, and close the connection (docker 20.10
    /// and 28, podman 4.3: measured within 0.1 s).
    pub async fn stop(&mut self, mut stream: PushStream) -> bool {
        /// How long to wait for the engine to end the uploads that it has started.
        const TIMEOUT: Duration = Duration::from_secs(5);
        self.transport.close_writing();
        let rest = async { while let Ok(true) = stream.next(|_| {}).await {} };
        let has_ended = tokio::time::timeout(TIMEOUT, rest).await.is_ok();
        self.transport.hang_up();
        has_ended
    }

    /// Returns the value of `X-Registry-Auth`, and redacts it from now on in the engine's messages.
    pub(super) fn sending(&mut self, request: &PushRequest<'_>) -> Secret {
        let header = request.credentials.header(request.reference.credentials_key());
        let secrets = request.credentials.secrets().into_iter();
        // The header of anonymous credentials holds no secret.
        let sent = Some(header.clone()).filter(|_| !request.credentials.is_anonymous());
        self.redactor = Redactor::new(secrets.chain(sent));
        header
    }
}

/// The engine's answer to a push, as a stream of events.
#[derive(Debug)]
pub struct PushStream {
    body: Incoming,
    decoder: Decoder,
    endpoint: Arc<Endpoint>,
    /// Whether the engine is podman, which sends nothing until the push has ended.
    pub is_silent: bool,
}

impl PushStream {
    /// Waits for the next bytes of the stream, and reports the events in them; `false` at the end of a complete
    /// stream. Cancel-safe.
    ///
    /// # Errors
    /// The connection broke, or the bytes are not the stream of an engine.
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
