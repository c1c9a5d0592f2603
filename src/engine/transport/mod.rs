//! Sends HTTP requests to the engine, one at a time, over a connection that is reused.
//!
//! [`dial`] connects to any kind of endpoint, and hyper speaks HTTP/1.1 on the connection. hyperlocal's own
//! HTTP client is not used: it sends `Host: <hex of the socket's path>`, and panics on a space in a request's
//! path.

pub mod dial;
pub mod error;
pub mod forward;
pub mod ssh;
pub mod stream;
pub mod tunnel;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::PROXY_AUTHORIZATION;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use crate::docker::context::Endpoint;
use crate::engine::transport::dial::Forward;
use crate::engine::transport::error::TransportError;
use crate::engine::transport::stream::Closable;
use crate::engine::transport::tunnel::Tunnel;
use crate::failure::is_throttled_ssh;

pub type Body = Full<Bytes>;

/// An engine's endpoint, with the open connection to this endpoint, if there is one.
///
/// Dropping the `Transport` and the body of the current response closes the connection. The engine then stops
/// a running push (docker 20.10 and 28, podman 4.3: measured within 2.5 s).
#[derive(Debug)]
pub struct Transport {
    endpoint: Arc<Endpoint>,
    link: Option<Link>,
    /// Whether the endpoint has responded at least once.
    was_heard: bool,
}

/// The shortest wait before another connection to an ssh server that refuses more connections. The wait is at most twice
/// as long.
const THROTTLED: Duration = Duration::from_secs(1);

/// An open connection to an engine that carries HTTP requests.
#[derive(Debug)]
struct Link {
    sender: SendRequest<Body>,
    /// Closes the sending side of the connection when a message is sent on this channel.
    close: oneshot::Sender<()>,
    forward: Option<Forward>,
    /// The program that carries the connection. Dropping the `Link` kills this program.
    tunnel: Option<Tunnel>,
}

impl Transport {
    pub fn new(endpoint: impl Into<Arc<Endpoint>>) -> Self {
        Self { endpoint: endpoint.into(), link: None, was_heard: false }
    }

    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Sends a request, and returns the response as soon as the status has arrived.
    ///
    /// Reuses the connection if the previous response was read to its end. If the reused connection is
    /// broken, sends the request again on a new connection.
    ///
    /// * `repeatable`: whether the engine may receive the request twice. A request that is not repeatable is
    ///   sent only once, over a new connection: a reused connection may break after the engine has received
    ///   the request. If connecting is expensive, the existing connection is used nevertheless.
    ///
    /// # Errors
    /// [`TransportError::Lost`] if the connection breaks before the response, for an unknown reason. The
    /// other variants if connecting fails, or if TLS or the program that carries the connection fails.
    pub async fn send(
        &mut self,
        request: Request<Body>,
        repeatable: bool,
    ) -> Result<Response<Incoming>, TransportError> {
        if let Some(mut link) =
            self.link.take().filter(|_| repeatable || self.endpoint.is_connect_expensive())
            && link.sender.ready().await.is_ok()
        {
            match link.send(request.clone()).await {
                Ok(response) => return self.answered(link, response),
                Err(error) if !repeatable => return Err(self.explain(error, link.tunnel).await),
                Err(_) => {}
            }
        }
        let mut link = self.dial().await?;
        let error = match link.send(request.clone()).await {
            Ok(response) => return self.answered(link, response),
            Err(error) => self.explain(error, link.tunnel).await,
        };
        // An ssh server that refuses more connections for a moment has not forwarded the request.
        if !matches!(&error, TransportError::Tunnel { said, .. } if is_throttled_ssh(said)) {
            return Err(error);
        }
        tokio::time::sleep(THROTTLED.mul_f64(1.0 + fastrand::f64())).await;
        let mut link = self.dial().await?;
        match link.send(request).await {
            Ok(response) => self.answered(link, response),
            Err(error) => Err(self.explain(error, link.tunnel).await),
        }
    }

    /// Stores the connection for the next request. Returns an error if the response comes from a proxy
    /// instead of the engine.
    fn answered(
        &mut self,
        link: Link,
        response: Response<Incoming>,
    ) -> Result<Response<Incoming>, TransportError> {
        const PROXYS_OWN: [StatusCode; 3] =
            [StatusCode::PROXY_AUTHENTICATION_REQUIRED, StatusCode::BAD_GATEWAY, StatusCode::GATEWAY_TIMEOUT];
        if let Some(forward) = link.forward.as_ref().filter(|_| PROXYS_OWN.contains(&response.status())) {
            let source = io::Error::other(format!("it answered {}", response.status()));
            return Err(TransportError::Proxy {
                endpoint: Arc::clone(&self.endpoint),
                proxy: forward.proxy.clone(),
                source,
            });
        }
        self.link = Some(link);
        self.was_heard = true;
        Ok(response)
    }

    /// Closes the sending side of the connection. The response can still be read.
    pub fn close_writing(&mut self) {
        if let Some(link) = &mut self.link {
            // `send` consumes the channel's sender, so replace the sender with a disconnected one.
            let close = std::mem::replace(&mut link.close, oneshot::channel().0);
            let _ = close.send(());
        }
    }

    /// Closes the connection, and kills the program that carries the connection.
    pub fn hang_up(&mut self) {
        self.link = None;
    }

    async fn dial(&self) -> Result<Link, TransportError> {
        let dialed = dial::dial(&self.endpoint).await?;
        let (stream, close) = Closable::new(dialed.stream);
        let handshake = handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|source| self.lost(source))?;
        // The task sends and receives the connection's bytes. If the connection breaks, the running request
        // reports the error.
        tokio::spawn(async { drop(connection.await) });
        Ok(Link { sender, close, forward: dialed.forward, tunnel: dialed.tunnel })
    }

    /// Returns why a connection broke, from the most precise source: the program that carried the connection,
    /// TLS, or hyper.
    async fn explain(&self, error: hyper::Error, tunnel: Option<Tunnel>) -> TransportError {
        match tunnel {
            Some(tunnel) => tunnel.explain(self.lost(error), &self.endpoint).await,
            None => self.lost(error),
        }
    }

    fn lost(&self, source: hyper::Error) -> TransportError {
        TransportError::lost(&self.endpoint, self.was_heard, source)
    }

    /// Returns why a connection broke while a response was read: the failure of the program that carried the
    /// connection, or `error` if no program failed.
    pub async fn explain_loss(&mut self, error: TransportError) -> TransportError {
        match self.link.take().and_then(|link| link.tunnel) {
            Some(tunnel) => tunnel.explain(error, &self.endpoint).await,
            None => error,
        }
    }
}

impl Link {
    async fn send(&mut self, mut request: Request<Body>) -> Result<Response<Incoming>, hyper::Error> {
        if let Some(forward) = &self.forward {
            let url = format!("{}{}", forward.origin, request.uri());
            *request.uri_mut() = url.parse().expect("host and path make a URL");
            if let Some(authorization) = &forward.authorization {
                request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
            }
        }
        self.sender.send_request(request).await
    }
}
