//! Client for the HTTP API of a registry.
//!
//! Source: OCI distribution specification 1.1 (`/v2/`), distribution's `docs/spec/auth/token.md`, and moby
//! `registry/registry.go` for certificates, TLS and plain HTTP.

pub mod access;
mod client;
mod connect;
pub mod error;
pub mod identity;
pub mod list;
pub mod manifest;
mod probe;
pub mod read;
mod token;
pub mod write;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use reqwest::{Client, Url};
use rustls::ClientConfig;

use crate::registry::access::Access;
use crate::secret::{Redactor, Secret};

/// The path of the first request to a registry (OCI distribution specification 1.1, `end-1`).
const PING: &str = "/v2/";

/// The response of a registry to `GET /v2/` without credentials.
#[derive(Clone, Debug, Default)]
struct Ping {
    /// `true`: the status was 401. `false`: the status was a success. `None`: any other status.
    asks_for_credentials: Option<bool>,
    /// The values of `WWW-Authenticate`.
    challenges: Vec<String>,
    /// The URL that the response came from, if the registry redirected the request.
    redirected_to: Option<Url>,
}

/// A value of the header `Authorization`.
#[derive(Clone, Debug)]
struct Authorization {
    value: Secret,
    /// The origin of a token; `None` for a password, or for a token that the user stored.
    origin: Option<TokenOrigin>,
}

/// The token server that issued a token, and the times at which the token was issued and expires.
#[derive(Clone, Debug)]
struct TokenOrigin {
    realm: String,
    service: Option<String>,
    issued: Instant,
    expires: Instant,
}

impl Authorization {
    /// Returns the value for a password, or for a token that the user stored.
    fn lasting(value: Secret) -> Self {
        Self { value, origin: None }
    }

    /// Returns whether a token expires within a minute and was not issued just now.
    fn expires_soon(&self, now: Instant) -> bool {
        const SOON: Duration = Duration::from_secs(60);
        const NEW: Duration = Duration::from_secs(1);
        self.origin.as_ref().is_some_and(|origin| origin.expires < now + SOON && origin.issued + NEW < now)
    }
}

/// Limits on the sizes in bytes of chunks, from the responses of a registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkLimits {
    /// `OCI-Chunk-Min-Length` (OCI distribution specification 1.1): the smallest size of a chunk that is not the last.
    pub min: Option<u64>,
    /// `oci-chunk-max-length` (Cloudflare's registry): the largest size of a chunk.
    pub max: Option<u64>,
    /// The size of the smallest request that the registry has refused because of its size.
    pub refused: Option<u64>,
    /// The registry refuses requests without the length of their body (411).
    pub requires_length: bool,
}

/// A client of a registry that has responded to `GET /v2/`.
#[derive(Debug)]
pub struct Registry {
    domain: String,
    /// The base URL of the registry's API, such as `https://HOST/`.
    api: Url,
    client: Client,
    /// The TLS configuration for connections to the registry, built once because reading the system's CA
    /// certificates takes time.
    tls_config: ClientConfig,
    access: Access,
    /// Redacts the credentials, and each token obtained with these credentials, in messages.
    redactor: Mutex<Redactor>,
    /// For each scope, the value of `Authorization` to send in later requests. The scope `""` is for all scopes.
    authorization: Mutex<BTreeMap<String, Authorization>>,
    /// The response to `GET /v2/` without credentials.
    ping: Ping,
    /// The server to which the registry redirected the body of an upload. The next upload starts there.
    upload_server: Mutex<Option<Url>>,
    /// The limits on chunks that are known from the registry's responses in this call.
    chunk_limits: Arc<Mutex<ChunkLimits>>,
    /// The reason why the registry refused the credentials. The plugin does not send refused credentials again.
    refused: OnceLock<String>,
}
