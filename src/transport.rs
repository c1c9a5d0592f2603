//! One HTTP exchange with the engine at a time, over a connection that is kept.
//!
//! hyperlocal dials the Unix socket and hyper speaks HTTP/1.1 on it. Not hyperlocal's own client:
//! that sends `Host: <hex of the socket's path>`, and panics on a space in a request's path.

use std::io;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyperlocal::UnixConnector;
use tower_service::Service as _;

use crate::context::{Address, Endpoint};

pub type Body = Full<Bytes>;

#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Nobody answers at the endpoint, or we may not ask there.
    #[error("cannot connect to the engine at {address} ({origin})", address = endpoint.address, origin = endpoint.origin)]
    Unreachable {
        endpoint: Endpoint,
        #[source]
        source: io::Error,
    },
    #[error("lost the connection to the engine")]
    Lost(#[source] hyper::Error),
}

/// An engine's endpoint, with the connection to it once there is one.
///
/// Dropping it, and the body that is being read, closes the connection, and with that the engine
/// gives up a push it was doing (docker 20.10 and 28, podman 4.3: measured within 2.5 s).
#[derive(Debug)]
pub struct Transport {
    endpoint: Endpoint,
    link: Option<SendRequest<Body>>,
}

impl Transport {
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, link: None }
    }

    /// Sends a request, and returns when the engine has answered with a status. The connection is
    /// used again if the answer before was read to its end; if it turns out to be dead, the request
    /// goes out once more on a new one.
    ///
    /// * `repeatable`: may arrive twice. What may not goes on a new connection at once, since of one
    ///   that breaks nobody knows what had arrived.
    ///
    /// # Errors
    /// [`TransportError::Unreachable`] if no connection can be made, [`TransportError::Lost`] if
    /// it breaks before the answer.
    pub async fn send(
        &mut self,
        request: Request<Body>,
        repeatable: bool,
    ) -> Result<Response<Incoming>, TransportError> {
        if let Some(mut link) = self.link.take().filter(|_| repeatable)
            && link.ready().await.is_ok()
            && let Ok(response) = link.send_request(request.clone()).await
        {
            self.link = Some(link);
            return Ok(response);
        }
        let mut link = self.dial().await?;
        let response = link.send_request(request).await.map_err(TransportError::Lost)?;
        self.link = Some(link);
        Ok(response)
    }

    async fn dial(&self) -> Result<SendRequest<Body>, TransportError> {
        let unreachable = |source| TransportError::Unreachable { endpoint: self.endpoint.clone(), source };
        let Address::Unix(path) = &self.endpoint.address;
        // The path of the request is not for here: with "/" this `Uri` cannot panic.
        let stream = UnixConnector.call(hyperlocal::Uri::new(path, "/").into()).await.map_err(unreachable)?;
        let (sender, connection) = handshake(stream).await.map_err(TransportError::Lost)?;
        // Moves the bytes. How a connection ended is told by the exchange that it broke.
        tokio::spawn(async { drop(connection.await) });
        Ok(sender)
    }
}
