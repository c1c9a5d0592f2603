//! Why an engine cannot be reached.

use std::io;
use std::sync::Arc;

use crate::context::Endpoint;
use crate::net::tls::{self, TlsProblem};

#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Nobody answers at the endpoint, or we may not ask there.
    #[error("cannot connect to the engine at {endpoint}")]
    Unreachable {
        endpoint: Arc<Endpoint>,
        #[source]
        source: io::Error,
    },
    /// A proxy stands before it, and does not let us through.
    #[error("cannot connect to the engine at {endpoint} through the proxy {proxy}")]
    Proxy {
        endpoint: Arc<Endpoint>,
        /// Its URL, without a password.
        proxy: String,
        #[source]
        source: io::Error,
    },
    /// The two do not agree on TLS, or on each other's certificates.
    #[error("no TLS with the engine at {endpoint}: {problem}")]
    Tls { endpoint: Arc<Endpoint>, problem: TlsProblem },
    /// The engine, or what stands before it, expects TLS, and we spoke without.
    #[error("the engine at {endpoint} wants TLS")]
    WantsTls { endpoint: Arc<Endpoint> },
    /// The program that was to carry the bytes failed. `said`: its last words, unclean.
    #[error("cannot reach the engine at {endpoint}: `{command}` {end}{}", last_words(said))]
    Tunnel { endpoint: Arc<Endpoint>, command: String, end: String, said: String },
    #[error("lost the connection to the engine at {endpoint}")]
    Lost {
        endpoint: Arc<Endpoint>,
        /// It had answered before.
        was_heard: bool,
        #[source]
        source: hyper::Error,
    },
}

/// The end of it: the reason comes after a banner.
fn last_words(said: &str) -> String {
    const MAX_CHARS: usize = 500;
    let said = said.trim();
    let surplus = said.chars().count().saturating_sub(MAX_CHARS);
    let last: String = said.chars().skip(surplus).collect();
    match (last.is_empty(), surplus) {
        (true, _) => String::new(),
        (false, 0) => format!(": {last}"),
        (false, _) => format!(": …{last}"),
    }
}

impl TransportError {
    /// What an exchange that broke means.
    pub fn lost(endpoint: &Arc<Endpoint>, was_heard: bool, source: hyper::Error) -> Self {
        let endpoint = Arc::clone(endpoint);
        match (&endpoint.tls, tls::find(&source)) {
            // With TLS 1.3 an engine refuses a client's certificate only after the handshake.
            (Some(tls), Some(error)) => {
                let problem = TlsProblem::of(error, tls);
                Self::Tls { endpoint, problem }
            }
            _ => Self::Lost { endpoint, was_heard, source },
        }
    }
}
