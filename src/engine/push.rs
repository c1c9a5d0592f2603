//! Makes the engine push images, with the push request of the engine's HTTP API.

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

/// The parameters of one push request, `POST /images/{name}/push`.
#[derive(Debug)]
pub struct PushRequest<'a> {
    pub reference: &'a Reference,
    pub credentials: &'a Credentials,
    /// The only platform of a multi-platform image to push; `None` for all. Engines before API 1.46 ignore
    /// this parameter.
    pub platform: Option<&'a Platform>,
    /// Whether to report each JSON object of the engine's response too ([`Event::Object`]).
    pub wants_objects: bool,
}

impl<'a> PushRequest<'a> {
    pub fn new(reference: &'a Reference, credentials: &'a Credentials) -> Self {
        Self { reference, credentials, platform: None, wants_objects: false }
    }
}

impl Engine {
    /// Asks the engine to push one tag, and returns the engine's response as a stream.
    ///
    /// Engines answer 200 before they contact the registry. A refusal by the registry is therefore nearly
    /// always an [`Event::Refused`] in the stream.
    ///
    /// # Errors
    /// The engine cannot be reached, or refuses the request ([`EngineError::Answered`]). With podman, or a
    /// proxy in front of the engine, `Answered` may also carry a refusal by the registry.
    ///
    /// Source: Docker Engine API 1.24, `POST /images/{name}/push`. Without the parameter `tag`, an engine
    /// pushes every tag. Without the header `X-Registry-Auth`, docker 20.10 answers 400.
    pub async fn push(&mut self, request: &PushRequest<'_>) -> Result<PushStream, EngineError> {
        let reference = request.reference;
        let name = utf8_percent_encode(&reference.repository(), PATH).to_string();
        let mut path = format!("{}/images/{name}/push?tag={}", self.prefix, reference.tag_or_latest());
        if is_on_loopback(reference.domain()) {
            // podman allows plain HTTP to a registry on its own machine only with this parameter. docker has a setting
            // for it.
            path += "&tlsVerify=false";
        }
        if let Some(platform) = request.platform {
            path += &format!("&platform={}", in_query(platform));
        }
        let header = self.sending(request);
        // The request has no body: podman 5 does not read a body, and then does not notice that the client closes the
        // connection (5.8, measured).
        let response = self.call(Method::POST, &path, Some(&header), Bytes::new()).await?;
        if response.status() != StatusCode::OK {
            return Err(self.refusal(response).await);
        }
        let endpoint = self.endpoint();
        let decoder = Decoder::new(self.redactor.clone()).with_objects(request.wants_objects);
        let is_silent = is_podman(response.headers());
        Ok(PushStream { body: response.into_body(), decoder, endpoint, is_silent })
    }

    /// Stops a push and waits until the engine has stopped. Returns `false` if the engine does not stop
    /// within 5 s.
    ///
    /// Closes only the sending side of the connection. Engines then stop the push and end the response, which
    /// tells the client that the push has stopped (docker 20.10 and 28, podman 4.3 and 5.8: measured within 0.1 s).
    pub async fn stop(&mut self, mut stream: PushStream) -> bool {
        /// Maximum time for the engine to stop its running uploads.
        const TIMEOUT: Duration = Duration::from_secs(5);
        self.transport.close_writing();
        let rest = async { while let Ok(true) = stream.next(|_| {}).await {} };
        let has_ended = tokio::time::timeout(TIMEOUT, rest).await.is_ok();
        self.transport.hang_up();
        has_ended
    }

    /// Returns the value of `X-Registry-Auth` for a request, and starts to redact this value in the engine's
    /// messages.
    pub(super) fn sending(&mut self, request: &PushRequest<'_>) -> Secret {
        let header = request.credentials.header(request.reference.credentials_key());
        let secrets = request.credentials.secrets().into_iter();
        // The header for anonymous credentials contains no secret to redact.
        let sent = Some(header.clone()).filter(|_| !request.credentials.is_anonymous());
        self.redactor = Redactor::new(secrets.chain(sent));
        header
    }
}

/// The engine's response to a push, as a stream of events.
#[derive(Debug)]
pub struct PushStream {
    body: Incoming,
    decoder: Decoder,
    endpoint: Arc<Endpoint>,
    /// Whether the engine is podman, which sends nothing until the push has finished.
    pub is_silent: bool,
}

impl PushStream {
    /// Waits for the next bytes of the response, and reports the events in these bytes. Returns `false` at
    /// the end of a complete response. Cancel-safe.
    ///
    /// # Errors
    /// The connection broke, or the response is not a valid push stream.
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
