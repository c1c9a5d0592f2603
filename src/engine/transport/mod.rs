//! Sends HTTP requests to the engine, one at a time, over a connection that is kept.
//!
//! [`dial`] connects to any kind of endpoint, and hyper speaks HTTP/1.1 on the connection. hyperlocal's own
//! client is not used: it sends `Host: <hex of the socket's path>`, and panics on a space in a request's path.

pub mod dial;
pub mod error;
pub mod ssh;
pub mod stream;
pub mod tunnel;

use std::io;
use std::sync::Arc;

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

pub type Body = Full<Bytes>;

/// An engine's endpoint, with the connection to it once there is one.
///
/// Dropping it and the body that is being read closes the connection. The engine then stops a running push
/// (docker 20.10 and 28, podman 4.3: measured within 2.5 s).
#[derive(Debug)]
pub struct Transport {
    endpoint: Arc<Endpoint>,
    link: Option<Link>,
    /// Whether the endpoint has answered at least once.
    was_heard: bool,
}

/// A connection that speaks HTTP.
#[derive(Debug)]
struct Link {
    sender: SendRequest<Body>,
    /// Closes the sending side of the connection.
    close: oneshot::Sender<()>,
    forward: Option<Forward>,
    /// The program that carries the bytes; dropping the link ends it.
    tunnel: Option<Tunnel>,
}

impl Transport {
    pub fn new(endpoint: impl Into<Arc<Endpoint>>) -> Self {
        Self { endpoint: endpoint.into(), link: None, was_heard: false }
    }

    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Sends a request, and returns when the engine has answered with a status. Reuses the connection if the
    /// previous answer was read to its end. If that connection turns out to be dead, sends the request once more
    /// on a new one.
    ///
    /// * `repeatable`: whether the request may arrive twice. If not, it uses a new connection, since an old one
    ///   may break after the engine has received the request. If connections are expensive, it uses the old
    ///   one, and is not sent again.
    ///
    /// # Errors
    /// [`TransportError::Lost`] if the connection breaks before the answer and the reason is not known; the
    /// other variants if no connection can be made, or if TLS or the program that carries it failed.
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
        match link.send(request).await {
            Ok(response) => self.answered(link, response),
            Err(error) => Err(self.explain(error, link.tunnel).await),
        }
    }

    /// Keeps the connection for the next request. Returns an error if the answer is the proxy's own.
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

    /// Closes the sending side of the connection; the answer can still be read.
    pub fn close_writing(&mut self) {
        if let Some(link) = &mut self.link {
            // `send` consumes the sender, so replace it with a disconnected one.
            let close = std::mem::replace(&mut link.close, oneshot::channel().0);
            let _ = close.send(());
        }
    }

    /// Closes the connection, and ends the program that carries it.
    pub fn hang_up(&mut self) {
        self.link = None;
    }

    async fn dial(&self) -> Result<Link, TransportError> {
        let dialed = dial::dial(&self.endpoint).await?;
        let (stream, close) = Closable::new(dialed.stream);
        let handshake = handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|source| self.lost(source))?;
        // This task moves the bytes. If the connection breaks, the running request reports the error.
        tokio::spawn(async { drop(connection.await) });
        Ok(Link { sender, close, forward: dialed.forward, tunnel: dialed.tunnel })
    }

    /// Returns why a connection broke, from the best source: the program that carried it, TLS, or hyper.
    async fn explain(&self, error: hyper::Error, tunnel: Option<Tunnel>) -> TransportError {
        match tunnel {
            Some(tunnel) => tunnel.explain(self.lost(error), &self.endpoint).await,
            None => self.lost(error),
        }
    }

    fn lost(&self, source: hyper::Error) -> TransportError {
        TransportError::lost(&self.endpoint, self.was_heard, source)
    }

    /// Returns why a connection broke while an answer was read: the failure of the program that carried it, if
    /// there is one, or else `error`.
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
            *request.uri_mut() = url.parse().expect("an endpoint's host and a path make a URL");
            if let Some(authorization) = &forward.authorization {
                request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
            }
        }
        self.sender.send_request(request).await
    }
}
