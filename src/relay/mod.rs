//! Uploads an image from the engine through the plugin: the relay.
//!
//! The plugin listens on a loopback address, where engines accept plain HTTP. The engine pushes the image to that address
//! under a temporary name, and the plugin forwards each blob and each manifest to one registry or several. The plugin, not the
//! engine, decides whether the push succeeded, because the relay answers the engine as soon as it has the data.

pub mod address;
mod blob;
mod guard;
pub mod job;
pub mod layers;
pub mod leftover;
mod profile;
pub mod rate;
pub mod reach;
pub mod request;
mod server;
pub mod upstream;
pub mod watched;
mod window;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::docker::context::SshHost;
use crate::engine::transport::forward::ReverseForward;
use crate::relay::job::Job;
use crate::relay::server::Answerer;

/// A loopback address at which the relay accepts connections from the engine, for the attempts of one push.
#[derive(Debug)]
pub struct Relay {
    listener: Arc<TcpListener>,
    address: SocketAddr,
    /// The port on the engine's machine that ssh forwards to the relay, if the engine is on another machine.
    forward: Option<ReverseForward>,
}

impl Relay {
    /// Listens on a loopback address.
    ///
    /// * `preferred`: the address to use; if its port is in use, the system chooses another port.
    ///
    /// # Errors
    /// No port of the loopback address can be bound.
    pub async fn listen(preferred: SocketAddr) -> io::Result<Self> {
        let listener = match TcpListener::bind(preferred).await {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind((preferred.ip(), 0)).await?,
        };
        Ok(Self { address: listener.local_addr()?, listener: Arc::new(listener), forward: None })
    }

    /// Makes ssh forward a port on the engine's machine to the relay.
    ///
    /// # Errors
    /// The reason why ssh does not forward a port, for messages.
    pub async fn forward_from(&mut self, host: &SshHost) -> Result<(), String> {
        self.forward = Some(ReverseForward::open(host, self.address).await?);
        Ok(())
    }

    /// Returns the `address:port` that the engine uses as the name of a registry.
    pub fn domain(&self) -> String {
        match &self.forward {
            Some(forward) => format!("127.0.0.1:{}", forward.port()),
            None => self.address.to_string(),
        }
    }

    /// Returns whether ssh forwards a port of the engine's machine to the relay.
    pub fn is_forwarded(&self) -> bool {
        self.forward.as_ref().is_some_and(ReverseForward::is_open)
    }

    /// Returns the address at which the relay listens on this machine.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers the requests of the engine until the returned value is dropped.
    pub fn serve(&self, job: &Arc<Job>) -> JoinSet<()> {
        let (listener, own, guard) = (Arc::clone(&self.listener), Arc::clone(job), Arc::clone(&job.guard));
        let mut server = JoinSet::new();
        server.spawn(async move {
            let answer: Answerer =
                Arc::new(move |request| Box::pin(server::answer(Arc::clone(&own), request)));
            server::serve(&listener, &guard, &answer).await;
        });
        server
    }
}
