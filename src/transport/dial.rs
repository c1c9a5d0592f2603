//! A connection to an endpoint: bytes both ways, whatever they travel over.

use std::env;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel as ProxyTunnel};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_service::Service as _;

use super::child::Tunnel;
use super::{Forward, TransportError, tls};
use crate::context::{Address, Endpoint};

/// docker's own limit (moby `client/client.go`).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection, and what has to be known about it.
pub struct Dialed {
    pub stream: Box<dyn Stream>,
    pub forward: Option<Forward>,
    pub tunnel: Option<Tunnel>,
}

/// Connects to an endpoint, with TLS where it has that.
///
/// # Errors
/// [`TransportError::Unreachable`], [`TransportError::Tls`]. That ssh fails is seen by the first
/// exchange.
pub async fn dial(endpoint: &Arc<Endpoint>) -> Result<Dialed, TransportError> {
    let unreachable = |source| TransportError::Unreachable { endpoint: Arc::clone(endpoint), source };
    let mut dialed = connect(endpoint).await.map_err(unreachable)?;
    if let (Some(tls), Address::Tcp { host, .. }) = (&endpoint.tls, &endpoint.address) {
        dialed.stream = tls::wrap(dialed.stream, tls, host).await.map_err(|error| match error {
            tls::WrapError::Problem(problem) => {
                TransportError::Tls { endpoint: Arc::clone(endpoint), problem }
            }
            tls::WrapError::Io(source) => unreachable(source),
        })?;
    }
    Ok(dialed)
}

async fn connect(endpoint: &Endpoint) -> io::Result<Dialed> {
    let direct = |stream| Dialed { stream, forward: None, tunnel: None };
    match &endpoint.address {
        #[cfg(unix)]
        Address::Unix(path) => {
            // The path of the request is not for here: with "/" this `Uri` cannot panic.
            let uri = hyperlocal::Uri::new(path, "/").into();
            Ok(direct(Box::new(hyperlocal::UnixConnector.call(uri).await?)))
        }
        #[cfg(windows)]
        Address::NamedPipe(path) => Ok(direct(Box::new(open_pipe(path).await?))),
        Address::Tcp { host, port, .. } => match proxy(host, *port, endpoint.tls.is_some()) {
            None => Ok(direct(Box::new(tcp(host, *port).await?))),
            Some(proxy) => through(&proxy, host, *port, endpoint.tls.is_some()).await,
        },
        Address::Ssh(host) => Ok(carried(Tunnel::ssh(host)?)),
        Address::ThroughDocker { arguments } => Ok(carried(Tunnel::docker(arguments)?)),
        #[allow(unreachable_patterns, reason = "the endpoints of another system")]
        address => {
            Err(io::Error::new(io::ErrorKind::Unsupported, format!("{address} is not for this system")))
        }
    }
}

fn carried((tunnel, stream): (Tunnel, Box<dyn Stream>)) -> Dialed {
    Dialed { stream, forward: None, tunnel: Some(tunnel) }
}

async fn in_time<T>(connecting: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| {
        let seconds = CONNECT_TIMEOUT.as_secs();
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {seconds} s")))
    })
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = in_time(TcpStream::connect((host, port))).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// As docker's HTTP client: `HTTPS_PROXY` for TLS and `HTTP_PROXY` without, unless `NO_PROXY` names
/// the host; never for this machine. `ALL_PROXY` is not heeded.
fn proxy(host: &str, port: u16, has_tls: bool) -> Option<Intercept> {
    let is_local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if is_local {
        return None;
    }
    let first = |names: [&str; 2]| {
        names
            .iter()
            .filter_map(|name| env::var(name).ok())
            .find(|value| !value.is_empty())
            .unwrap_or_default()
    };
    let matcher = Matcher::builder()
        .http(first(["HTTP_PROXY", "http_proxy"]))
        .https(first(["HTTPS_PROXY", "https_proxy"]))
        .no(first(["NO_PROXY", "no_proxy"]))
        .build();
    matcher.intercept(&url(host, port, has_tls)?)
}

fn url(host: &str, port: u16, has_tls: bool) -> Option<Uri> {
    let scheme = if has_tls { "https" } else { "http" };
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    format!("{scheme}://{host}:{port}/").parse().ok()
}

async fn through(proxy: &Intercept, host: &str, port: u16, has_tls: bool) -> io::Result<Dialed> {
    let told = |reason: String| io::Error::other(format!("proxy {}: {reason}", proxy.uri()));
    let target = url(host, port, has_tls).ok_or_else(|| told("the host makes no URL".to_owned()))?;
    let mut connector = HttpConnector::new();
    // Its scheme is looked at here.
    connector.enforce_http(false);
    let stream: TokioIo<TcpStream> = match proxy.uri().scheme_str() {
        Some("http") if has_tls => {
            let mut tunnel = ProxyTunnel::new(proxy.uri().clone(), connector);
            if let Some(authorization) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(authorization.clone());
            }
            let connecting = async { tunnel.call(target).await.map_err(|error| told(reasons(&error))) };
            in_time(connecting).await?
        }
        Some("http") => {
            let (proxy_host, proxy_port) =
                (proxy.uri().host().unwrap_or_default(), proxy.uri().port_u16().unwrap_or(80));
            let stream = tcp(proxy_host.trim_matches(['[', ']']), proxy_port).await;
            let stream = stream
                .map_err(|error| io::Error::new(error.kind(), format!("proxy {}: {error}", proxy.uri())))?;
            let origin = target.to_string().trim_end_matches('/').to_owned();
            let forward = Forward { origin, authorization: proxy.basic_auth().cloned() };
            return Ok(Dialed { stream: Box::new(stream), forward: Some(forward), tunnel: None });
        }
        Some("socks5" | "socks5h") => {
            let mut socks = SocksV5::new(proxy.uri().clone(), connector);
            if let Some((user, password)) = proxy.raw_auth() {
                socks = socks.with_auth(user.to_owned(), password.to_owned());
            }
            let connecting = async { socks.call(target).await.map_err(|error| told(reasons(&error))) };
            in_time(connecting).await?
        }
        _ => return Err(told("only http:// and socks5:// proxies are supported".to_owned())),
    };
    Ok(Dialed { stream: Box::new(stream.into_inner()), forward: None, tunnel: None })
}

fn reasons(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// An engine's pipe has a few instances; while all are taken, docker too waits for one.
#[cfg(windows)]
async fn open_pipe(path: &str) -> io::Result<tokio::net::windows::named_pipe::NamedPipeClient> {
    use tokio::net::windows::named_pipe::ClientOptions;
    /// `ERROR_PIPE_BUSY`
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
