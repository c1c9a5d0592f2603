//! Connects to any kind of engine endpoint: a socket, a pipe, TCP (with TLS or a proxy), or a program such as
//! ssh.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use hyper::header::HeaderValue;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel as ProxyTunnel};
use hyper_util::client::proxy::matcher::Intercept;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tower_service::Service as _;

use crate::docker::context::{Address, Endpoint};
use crate::engine::transport::error::TransportError;
use crate::engine::transport::stream::Stream;
use crate::engine::transport::tunnel::Tunnel;
use crate::net::proxy;
use crate::net::tls::{self, Tls, TlsProblem, cause};

/// Maximum time to connect, as in docker (moby `client/client.go`). The TLS handshake has the same limit.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence before the first TCP keepalive probe. After nine unanswered probes, 15 s apart, the connection is
/// lost. Go uses the same values.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 9;

/// An HTTP proxy that requires the whole URL in each request.
#[derive(Debug)]
pub struct Forward {
    /// The URL of the proxy, without a password.
    pub proxy: String,
    /// The URL of the engine, `http://host:port`.
    pub origin: String,
    pub authorization: Option<HeaderValue>,
}

/// A new connection to an engine, with the proxy or the program that carries the connection.
pub struct Dialed {
    pub stream: Box<dyn Stream>,
    pub forward: Option<Forward>,
    pub tunnel: Option<Tunnel>,
}

impl Dialed {
    fn direct(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), forward: None, tunnel: None }
    }

    fn carried((tunnel, stream): (Tunnel, Box<dyn Stream>)) -> Self {
        Self { stream, forward: None, tunnel: Some(tunnel) }
    }
}

/// Connects to the endpoint of an engine, with TLS if the endpoint has TLS settings.
///
/// # Errors
/// [`TransportError::Unreachable`], [`TransportError::Proxy`], [`TransportError::Tls`]. A failure of ssh is
/// not reported until the first request.
pub async fn dial(endpoint: &Arc<Endpoint>) -> Result<Dialed, TransportError> {
    let unreachable = |source| TransportError::Unreachable { endpoint: Arc::clone(endpoint), source };
    match &endpoint.address {
        #[cfg(unix)]
        Address::Unix(path) => connect_socket(path).await.map(Dialed::direct).map_err(unreachable),
        #[cfg(windows)]
        Address::NamedPipe(path) => open_pipe(path).await.map(Dialed::direct).map_err(unreachable),
        Address::Tcp { .. } => dial_tcp(endpoint).await,
        Address::Ssh(host) => Tunnel::ssh(host).map(Dialed::carried).map_err(unreachable),
        Address::ThroughDocker { arguments } => {
            Tunnel::docker(arguments).map(Dialed::carried).map_err(unreachable)
        }
        #[allow(unreachable_patterns, reason = "the endpoints of another system")]
        _ => Err(unreachable(io::Error::new(
            io::ErrorKind::Unsupported,
            "this system does not support this kind of endpoint",
        ))),
    }
}

#[cfg(unix)]
async fn connect_socket(path: &std::path::Path) -> io::Result<impl Stream + use<>> {
    // The longest path of a Unix socket on Linux (`sun_path`, unix(7)); other systems allow fewer bytes.
    // hyperlocal panics on a far longer path.
    const MAX_PATH: usize = 107;
    if path.as_os_str().len() > MAX_PATH {
        let reason = format!("a socket path can have at most {MAX_PATH} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    // The connector ignores the second argument, the path of a request.
    hyperlocal::UnixConnector.call(hyperlocal::Uri::new(path, "/").into()).await
}

async fn dial_tcp(endpoint: &Arc<Endpoint>) -> Result<Dialed, TransportError> {
    let unreachable = |source| TransportError::Unreachable { endpoint: Arc::clone(endpoint), source };
    let Some((host, url)) = url(endpoint) else {
        return Err(unreachable(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the host is not valid in a URL",
        )));
    };
    let refused = |proxy, source| TransportError::Proxy { endpoint: Arc::clone(endpoint), proxy, source };
    let mut dialed = match proxy::of(&url) {
        Ok(None) => Dialed::direct(connect_tcp(url).await.map_err(unreachable)?),
        Ok(Some(proxy)) => {
            through(&proxy, url).await.map_err(|source| refused(proxy.uri().to_string(), source))?
        }
        Err(variable) => {
            let source = io::Error::other("it is not the URL of an http:// or socks5:// proxy");
            return Err(refused(variable.to_owned(), source));
        }
    };
    let Some(tls) = &endpoint.tls else { return Ok(dialed) };
    let wrapped = timeout(CONNECT_TIMEOUT, wrap(dialed.stream, tls, host)).await;
    dialed.stream = match wrapped {
        Ok(Ok(stream)) => stream,
        Ok(Err(WrapError::Problem(problem))) => {
            return Err(TransportError::Tls { endpoint: Arc::clone(endpoint), problem });
        }
        Ok(Err(WrapError::Io(source))) => return Err(unreachable(source)),
        Err(_) => return Err(unreachable(too_late("no TLS handshake"))),
    };
    Ok(dialed)
}

/// Returns the host of the engine, and the URL of the engine without a path.
fn url(endpoint: &Endpoint) -> Option<(&str, Uri)> {
    let Address::Tcp { host, .. } = &endpoint.address else { return None };
    let scheme = if endpoint.tls.is_some() { "https" } else { "http" };
    Some((host, format!("{scheme}://{}/", endpoint.address.authority()?).parse().ok()?))
}

fn too_late(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what} within {}s", CONNECT_TIMEOUT.as_secs()))
}

/// Returns a connector that tries all addresses of a host, and tries IPv4 soon after IPv6 (RFC 8305).
fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    connector
}

async fn connect_tcp(url: Uri) -> io::Result<TcpStream> {
    // The timeout includes the DNS lookup.
    match timeout(CONNECT_TIMEOUT, connector().call(url)).await {
        Ok(Ok(stream)) => Ok(stream.into_inner()),
        Ok(Err(error)) => Err(match cause::<io::Error>(&error) {
            Some(source) => io::Error::new(source.kind(), source.to_string()),
            None => io::Error::other(error.to_string()),
        }),
        Err(_) => Err(too_late("no answer")),
    }
}

/// Connects to the engine through a proxy. `url`: the URL of the engine.
async fn through(proxy: &Intercept, url: Uri) -> io::Result<Dialed> {
    let stream: TokioIo<TcpStream> = match proxy.uri().scheme_str() {
        Some("http") if url.scheme_str() == Some("https") => {
            let mut tunnel = ProxyTunnel::new(proxy.uri().clone(), connector());
            if let Some(authorization) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(authorization.clone());
            }
            in_time(tunnel.call(url)).await?
        }
        Some("http") => {
            let stream = connect_tcp(proxy.uri().clone()).await?;
            let origin = url.to_string().trim_end_matches('/').to_owned();
            let authorization = proxy.basic_auth().cloned();
            let forward = Forward { proxy: proxy.uri().to_string(), origin, authorization };
            return Ok(Dialed { forward: Some(forward), ..Dialed::direct(stream) });
        }
        Some("socks5" | "socks5h") => {
            let mut socks = SocksV5::new(proxy.uri().clone(), connector());
            if let Some((user, password)) = proxy.raw_auth() {
                socks = socks.with_auth(user.to_owned(), password.to_owned());
            }
            in_time(socks.call(url)).await?
        }
        _ => return Err(io::Error::other("only http:// and socks5:// proxies are supported")),
    };
    Ok(Dialed::direct(stream.into_inner()))
}

async fn in_time<T, E: std::error::Error>(connecting: impl Future<Output = Result<T, E>>) -> io::Result<T> {
    let reasons = |error: E| {
        let mut reasons = error.to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            reasons += &format!(": {cause}");
            next = cause.source();
        }
        io::Error::other(reasons)
    };
    timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| too_late("no answer"))?.map_err(reasons)
}

/// Opens an engine's named pipe. If all instances of the pipe are busy, waits for a free instance, as docker
/// does.
#[cfg(windows)]
async fn open_pipe(path: &str) -> io::Result<tokio::net::windows::named_pipe::NamedPipeClient> {
    use tokio::net::windows::named_pipe::ClientOptions;
    /// The Windows error code `ERROR_PIPE_BUSY`.
    const BUSY: i32 = 231;
    let path = path.replace('/', "\\");
    in_time(async {
        loop {
            match ClientOptions::new().open(&path) {
                Err(error) if error.raw_os_error() == Some(BUSY) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                opened => return opened,
            }
        }
    })
    .await
}

pub enum WrapError {
    Problem(TlsProblem),
    /// The connection broke during the TLS handshake.
    Io(io::Error),
}

/// Starts TLS on a connection to an engine.
///
/// * `host`: the host name that the engine's certificate must contain.
pub async fn wrap(stream: Box<dyn Stream>, tls: &Tls, host: &str) -> Result<Box<dyn Stream>, WrapError> {
    let config = tls::config(tls).map_err(WrapError::Problem)?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| {
        WrapError::Problem(TlsProblem::Other(format!("`{host}` is not a valid name for a certificate")))
    })?;
    match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(match tls::find(&error) {
            Some(problem) => WrapError::Problem(TlsProblem::of(problem, tls)),
            None => WrapError::Io(error),
        }),
    }
}
