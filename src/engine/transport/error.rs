//! Errors of connections to an engine.

use std::io;
use std::sync::Arc;

use crate::docker::context::{Address, Endpoint, Origin};
use crate::engine::transport::ssh::{login, remote_docker};
use crate::failure::tunnel_hint;
use crate::net::tls::{self, FIND_SYSTEM_AUTHORITIES, TlsProblem};

#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Nothing listens at the endpoint, or the user may not open the endpoint.
    #[error("cannot connect to the engine at {endpoint}")]
    Unreachable {
        endpoint: Arc<Endpoint>,
        #[source]
        source: io::Error,
    },
    /// The proxy does not forward the connection to the endpoint, or the proxy setting is not valid.
    #[error("cannot connect to the engine at {endpoint} through the proxy {proxy}")]
    Proxy {
        endpoint: Arc<Endpoint>,
        /// The URL of the proxy without a password, or the name of the environment variable whose value is
        /// not a valid proxy URL.
        proxy: String,
        #[source]
        source: io::Error,
    },
    /// The TLS handshake failed, or the plugin or the engine rejected a certificate.
    #[error("cannot establish TLS with the engine at {endpoint}: {problem}")]
    Tls { endpoint: Arc<Endpoint>, problem: TlsProblem },
    /// The engine, or a proxy in front of the engine, requires TLS, but the plugin connected without TLS.
    #[error("the engine at {endpoint} requires TLS")]
    WantsTls { endpoint: Arc<Endpoint> },
    /// The program that carries the connection failed. `said`: the end of the program's stderr, not
    /// sanitized.
    #[error("cannot reach the engine at {endpoint}: `{command}` {end}{}", last_words(said))]
    Tunnel { endpoint: Arc<Endpoint>, command: String, end: String, said: String },
    #[error("lost the connection to the engine at {endpoint}")]
    Lost {
        endpoint: Arc<Endpoint>,
        /// Whether the endpoint had responded before the connection was lost.
        was_heard: bool,
        #[source]
        source: hyper::Error,
    },
}

/// Returns the end of a program's stderr, because a program may print a banner before the reason of a
/// failure.
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
    /// Returns the error for an HTTP request whose connection broke.
    pub fn lost(endpoint: &Arc<Endpoint>, was_heard: bool, source: hyper::Error) -> Self {
        let endpoint = Arc::clone(endpoint);
        match (&endpoint.tls, tls::find(&source)) {
            // With TLS 1.3, an engine rejects a client certificate only after the handshake.
            (Some(tls), Some(error)) => {
                let problem = TlsProblem::of(error, tls);
                Self::Tls { endpoint, problem }
            }
            _ => Self::Lost { endpoint, was_heard, source },
        }
    }

    /// Returns a hint for this error: a command to run, or a setting to change.
    pub fn hint(&self) -> String {
        match self {
            Self::Unreachable { endpoint, source } => unreachable_hint(endpoint, source),
            Self::Proxy { endpoint, .. } => {
                let host = match &endpoint.address {
                    Address::Tcp { host, .. } => host,
                    _ => "HOST",
                };
                format!("check HTTP_PROXY and HTTPS_PROXY, or bypass the proxy with NO_PROXY={host}")
            }
            Self::WantsTls { endpoint } => with_tls_options(
                endpoint,
                "pass --tlsverify with --tlscacert, --tlscert and --tlskey, or set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH (/certs/client with docker:dind)",
            ),
            Self::Tls { endpoint, problem } => match problem {
                TlsProblem::PlainText => with_tls_options(
                    endpoint,
                    "remove --tls and --tlsverify, and unset DOCKER_TLS and DOCKER_TLS_VERIFY",
                ),
                TlsProblem::UnknownAuthority { .. } | TlsProblem::Authorities { .. } => with_tls_options(
                    endpoint,
                    "pass its CA with --tlscacert, or as ca.pem in DOCKER_CERT_PATH",
                ),
                TlsProblem::NoSystemAuthorities => format!(
                    "{FIND_SYSTEM_AUTHORITIES}, or {}",
                    with_tls_options(endpoint, "pass the engine's CA with --tlscacert")
                ),
                TlsProblem::IdentityMissing | TlsProblem::Identity { .. } | TlsProblem::IdentityRefused { .. } => {
                    with_tls_options(
                        endpoint,
                        "pass a client certificate signed by the engine's CA with --tlscert and --tlskey, or as cert.pem and key.pem in DOCKER_CERT_PATH",
                    )
                }
                TlsProblem::Refused => with_tls_options(
                    endpoint,
                    "pass --tlscert and --tlskey, or set DOCKER_CERT_PATH, if the engine requires a client certificate; otherwise check its TLS settings",
                ),
                TlsProblem::Expired | TlsProblem::NotYetValid => {
                    "renew the engine's certificate, and check the clocks of both machines".to_owned()
                }
                TlsProblem::WrongName { .. } => {
                    "use the name in the engine's certificate, or reissue the certificate for this name".to_owned()
                }
                TlsProblem::Other(_) => "run `openssl s_client -connect HOST:PORT` to see its certificate".to_owned(),
            },
            Self::Tunnel { endpoint, said, .. } => match &endpoint.address {
                Address::Ssh(ssh) => {
                    // The form of host and port that `ssh-keygen -R` requires.
                    let known = match &ssh.port {
                        Some(port) => format!("'[{}]:{port}'", ssh.host),
                        None => ssh.host.clone(),
                    };
                    let hint = tunnel_hint(said).replace("{login}", &login(ssh)).replace("{host}", &known);
                    hint.replace("{docker}", &remote_docker(ssh))
                }
                _ => "run `docker version` with the same options".to_owned(),
            },
            Self::Lost { was_heard: true, source, .. } if !source.is_parse() => {
                "check the engine's log (`journalctl -u docker`), then push again".to_owned()
            }
            Self::Lost { endpoint, .. } => match &endpoint.address {
                Address::Tcp { .. } if endpoint.tls.is_none() => {
                    "check --host, --context and DOCKER_HOST: the server is not an engine, or requires TLS (--tlsverify, DOCKER_TLS_VERIFY)".to_owned()
                }
                _ => "check --host, --context and DOCKER_HOST: the server is not an engine".to_owned(),
            },
        }
    }
}

/// Returns `options`, a hint about TLS options of the command line. For an endpoint from a stored context,
/// returns the hint to run `docker context update` instead: a context has its own TLS files and ignores the
/// TLS options.
fn with_tls_options(endpoint: &Endpoint, options: &str) -> String {
    match &endpoint.origin {
        Origin::Context { name, .. } => format!(
            "update the context: `docker context update {name} --docker host={},ca=FILE,cert=FILE,key=FILE` (without the files: no TLS)",
            endpoint.address
        ),
        _ => options.to_owned(),
    }
}

fn unreachable_hint(endpoint: &Endpoint, source: &io::Error) -> String {
    const ANOTHER: &str = "or choose another with --context or DOCKER_HOST";
    match (&endpoint.address, source.kind()) {
        (Address::Unix(path), io::ErrorKind::PermissionDenied) => {
            let path = path.display();
            format!("join the group of {path} (often `docker`) and log in again, or use sudo")
        }
        (Address::Unix(_), io::ErrorKind::InvalidInput) => "link the socket to a shorter path".to_owned(),
        (Address::Unix(path), io::ErrorKind::NotFound) => {
            format!(
                "start the engine (`systemctl start docker`), {ANOTHER}: {} does not exist",
                path.display()
            )
        }
        (Address::Unix(path), _) => {
            format!(
                "start the engine (`systemctl start docker`), {ANOTHER}: nothing listens at {}",
                path.display()
            )
        }
        (Address::Tcp { base, .. }, _) if base.ends_with(".sock") => {
            format!("write unix://{base} for a socket")
        }
        (Address::Tcp { .. }, io::ErrorKind::ConnectionRefused) => {
            format!("start the engine with this address (`dockerd -H`), {ANOTHER}")
        }
        (Address::Tcp { .. }, _) => format!("check host name, network and firewall, {ANOTHER}"),
        (Address::Ssh(_), io::ErrorKind::NotFound) => "install ssh (OpenSSH)".to_owned(),
        (Address::ThroughDocker { .. }, io::ErrorKind::NotFound) => "install the docker CLI".to_owned(),
        _ => format!("run `docker version`, {ANOTHER}"),
    }
}
