//! Client for the registry's own HTTP API.
//!
//! Source: OCI distribution specification 1.1 (`/v2/`), distribution's `docs/spec/auth/token.md`, and moby
//! `registry/registry.go` for certificates, TLS and plain HTTP.

pub mod access;
mod client;
pub mod error;
mod list;
pub mod manifest;
pub mod read;
mod token;
mod write;

use std::collections::BTreeMap;
use std::sync::Mutex;

use reqwest::{Client, Url};
use rustls::ClientConfig;

use crate::registry::access::Access;
use crate::secret::{Redactor, Secret};

/// A registry that has answered.
#[derive(Debug)]
pub struct Registry {
    domain: String,
    /// `https://HOST/`
    api: Url,
    client: Client,
    /// The TLS configuration of its clients, kept because reading the system's CA certificates takes time.
    tls_config: ClientConfig,
    access: Access,
    /// Redacts the credentials, and each token obtained with them.
    redactor: Mutex<Redactor>,
    /// The value of `Authorization` by scope, kept for later requests.
    authorization: Mutex<BTreeMap<String, Secret>>,
}
