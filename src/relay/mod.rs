//! Uploads an image from the engine through the plugin: the relay.
//!
//! The plugin listens on a loopback address, where engines accept plain HTTP. The engine pushes the image to that address
//! under a temporary name, and the plugin forwards each blob and each manifest to the registry. The plugin, not the
//! engine, decides whether the push succeeded, because the relay answers the engine as soon as it has the data.

pub mod address;
mod blob;
pub mod job;
pub mod layers;
pub mod leftover;
pub mod request;
mod server;
mod window;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::relay::job::Job;

/// The connections of the engine, and the uploads to the registry. Dropping this value ends both.
pub struct Serving {
    server: JoinSet<()>,
    job: Arc<Job>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.server.abort_all();
        self.job.stop();
    }
}

/// A loopback address at which the relay accepts connections from the engine, for the attempts of one push.
#[derive(Debug)]
pub struct Relay {
    listener: Arc<TcpListener>,
    address: SocketAddr,
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
        Ok(Self { address: listener.local_addr()?, listener: Arc::new(listener) })
    }

    /// Returns the `address:port` that the engine uses as the name of a registry.
    pub fn domain(&self) -> String {
        self.address.to_string()
    }

    /// Answers the requests of the engine until the returned value is dropped.
    pub fn serve(&self, job: &Arc<Job>) -> Serving {
        let (listener, own) = (Arc::clone(&self.listener), Arc::clone(job));
        let mut server = JoinSet::new();
        server.spawn(async move { server::serve(&listener, &own).await });
        Serving { server, job: Arc::clone(job) }
    }
}
