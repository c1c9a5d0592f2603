//! Why an engine cannot be reached.

use std::io;
use std::sync::Arc;

use crate::docker::context::{Address, Endpoint, Origin};
use crate::engine::transport::ssh::{login, remote_docker};
use crate::failure::tunnel_hint;
use crate::net::tls::{self, TlsProblem};

#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Nothing answers at the endpoint, or the user may not open it.
    #[error("cannot connect to the engine at {endpoint}")]
    Unreachable {
        endpoint: Arc<Endpoint>,
        #[source]
        source: io::Error,
    },
    /// The proxy in front of the endpoint does not forward the connection, or its setting is not a proxy.
    #[error("cannot connect to the engine at {endpoint} through the proxy {proxy}")]
    Proxy {
        endpoint: Arc<Endpoint>,
        /// The URL of the proxy without a password, or the variable whose value is not a proxy.
        proxy: String,
        #[source]
        source: io::Error,
    },
    /// The TLS handshake failed, or one side does not accept the other's certificate.
    #[error("no TLS with the engine at {endpoint}: {problem}")]
    Tls { endpoint: Arc<Endpoint>, problem: TlsProblem },
    /// The engine, or a proxy in front of it, expects TLS, and the plugin connected without TLS.
    #[error("the engine at {endpoint} wants TLS")]
    WantsTls { endpoint: Arc<Endpoint> },
    /// The program that carries the connection failed. `said`: the end of its stderr, raw.
    #[error("cannot reach the engine at {endpoint}: `{command}` {end}{}", last_words(said))]
    Tunnel { endpoint: Arc<Endpoint>, command: String, end: String, said: String },
    #[error("lost the connection to the engine at {endpoint}")]
    Lost {
        endpoint: Arc<Endpoint>,
        /// Whether the endpoint had answered before.
        was_heard: bool,
        #[source]
        source: hyper::Error,
    },
}

/// Returns the end of the program's stderr, because the reason comes after a banner.
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
    /// Returns the error for an HTTP exchange that broke off.
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

    /// Returns a command to run or a setting to change next.
    pub fn hint(&self) -> String {
        match self {
            Self::Unreachable { endpoint, source } => unreachable_hint(endpoint, source),
            Self::Proxy { endpoint, .. } => {
                let host = match &endpoint.address {
                    Address::Tcp { host, .. } => host,
                    _ => "HOST",
                };
                format!("check HTTP_PROXY and HTTPS_PROXY, or go there directly with NO_PROXY={host}")
            }
            Self::WantsTls { endpoint } => with_tls_options(
                endpoint,
                "pass --tlsverify with --tlscacert, --tlscert and --tlskey, or set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH",
            ),
            Self::Tls { endpoint, problem } => match problem {
                TlsProblem::PlainText => with_tls_options(
                    endpoint,
                    "leave out --tls and --tlsverify, and unset DOCKER_TLS and DOCKER_TLS_VERIFY",
                ),
                TlsProblem::UnknownAuthority { .. } | TlsProblem::Authorities { .. } => with_tls_options(
                    endpoint,
                    "name the CA that signed it with --tlscacert, or as ca.pem in DOCKER_CERT_PATH",
                ),
                TlsProblem::IdentityMissing | TlsProblem::Identity { .. } | TlsProblem::IdentityRefused { .. } => {
                    with_tls_options(
                        endpoint,
                        "name one that the engine's CA signed with --tlscert and --tlskey, or as cert.pem and key.pem in DOCKER_CERT_PATH",
                    )
                }
                TlsProblem::Refused => with_tls_options(
                    endpoint,
                    "if it wants a client certificate, name that with --tlscert and --tlskey, or put it into DOCKER_CERT_PATH; else see what the engine speaks",
                ),
                TlsProblem::Expired | TlsProblem::NotYetValid => {
                    "have the engine's certificate renewed, and check the clocks of both machines".to_owned()
                }
                TlsProblem::WrongName { .. } => {
                    "name the engine as its certificate does, or have that renewed for this name".to_owned()
                }
                TlsProblem::Other(_) => "see what it says: `openssl s_client -connect HOST:PORT`".to_owned(),
            },
            Self::Tunnel { endpoint, said, .. } => match &endpoint.address {
                Address::Ssh(ssh) => {
                    // The form that ssh-keygen needs.
                    let known = match &ssh.port {
                        Some(port) => format!("'[{}]:{port}'", ssh.host),
                        None => ssh.host.clone(),
                    };
                    let hint = tunnel_hint(said).replace("{login}", &login(ssh)).replace("{host}", &known);
                    hint.replace("{docker}", &remote_docker(ssh))
                }
                _ => "see what `docker version` says with the same options".to_owned(),
            },
            Self::Lost { endpoint, source, .. } if source.is_parse() => match &endpoint.address {
                Address::Tcp { .. } if endpoint.tls.is_none() => {
                    "what answers there is no engine, or one that wants TLS (--tlsverify, DOCKER_TLS_VERIFY): check --host, --context and DOCKER_HOST".to_owned()
                }
                _ => "what answers there is no engine: check --host, --context and DOCKER_HOST".to_owned(),
            },
            Self::Lost { was_heard: true, .. } => {
                "the engine may have stopped: look into its log, and push again".to_owned()
            }
            Self::Lost { endpoint, .. } => match &endpoint.address {
                Address::Tcp { .. } if endpoint.tls.is_none() => {
                    "what is there hangs up without a word: it may want TLS (--tlsverify, DOCKER_TLS_VERIFY), or is no engine".to_owned()
                }
                _ => "what is there hangs up without a word: is it an engine? See `docker version`".to_owned(),
            },
        }
    }
}

/// Returns `options` as the hint. A stored context has its own TLS files and ignores the options, so for a
/// context returns how to update it.
fn with_tls_options(endpoint: &Endpoint, options: &str) -> String {
    match &endpoint.origin {
        Origin::Context { name, .. } => format!(
            "the context keeps its own: `docker context update {name} --docker host={},ca=FILE,cert=FILE,key=FILE`, without the files for no TLS",
            endpoint.address
        ),
        _ => options.to_owned(),
    }
}

fn unreachable_hint(endpoint: &Endpoint, source: &io::Error) -> String {
    const ANOTHER: &str = "or name another with --context or DOCKER_HOST";
    match (&endpoint.address, source.kind()) {
        (Address::Unix(path), io::ErrorKind::PermissionDenied) => {
            let path = path.display();
            format!("you may not open {path}: join its group (often `docker`) and log in again, or use sudo")
        }
        (Address::Unix(_), io::ErrorKind::InvalidInput) => "link the socket to a shorter path".to_owned(),
        (Address::Unix(path), io::ErrorKind::NotFound) => {
            format!(
                "nothing is at {}: start the engine (`systemctl start docker`), {ANOTHER}",
                path.display()
            )
        }
        (Address::Unix(path), _) => {
            format!("no engine listens at {}: start it (`systemctl start docker`), {ANOTHER}", path.display())
        }
        (Address::Tcp { base, .. }, _) if base.ends_with(".sock") => {
            format!("for a socket write unix://{base}")
        }
        (Address::Tcp { .. }, io::ErrorKind::ConnectionRefused) => {
            format!("no engine listens there: start it with this address (dockerd `-H`), {ANOTHER}")
        }
        (Address::Tcp { .. }, _) => format!("check host name, network and firewall, {ANOTHER}"),
        (Address::Ssh(_), io::ErrorKind::NotFound) => "install ssh, of OpenSSH".to_owned(),
        (Address::ThroughDocker { .. }, io::ErrorKind::NotFound) => "install the docker CLI".to_owned(),
        _ => format!("see `docker version`, {ANOTHER}"),
    }
}
