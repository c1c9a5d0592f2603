//! Finds out whether the engine can reach the relay, before an image gets a temporary name.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::ready;
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use tokio::sync::OnceCell;

use crate::docker::context::Address;
use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::engine::push::PushRequest;
use crate::engine::registries::DistributionAnswer;
use crate::net::settings::insecure_registries;
use crate::reference::Reference;
use crate::relay::Relay;
use crate::relay::guard::Guard;
use crate::relay::server::{self, Answer, Answerer};
use crate::text::{one_line, sanitize};

/// The maximum time for the engine to try a connection to the relay. An engine on this machine needs less than 10 ms, also if
/// it cannot connect, unless the machine is busy.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum time for an engine on another machine.
const REMOTE_TIMEOUT: Duration = Duration::from_secs(10);
/// The repository that the engine asks for. The relay has no repository with this name.
const REPOSITORY: &str = "probe";
/// The files that docker and podman put into each container.
const CONTAINER_FILES: [&str; 2] = ["/.dockerenv", "/run/.containerenv"];

/// The result of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The engine has reached the relay.
    Yes,
    /// The engine cannot reach the relay.
    No(Obstacle),
    /// The engine does not support the request of the probe (podman). The push shows whether it reaches the relay.
    Unknown,
}

/// The reason why an engine cannot reach the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// A sentence without its end, such as "the engine is in another network than the plugin".
    pub reason: String,
    /// An action that helps; `None`: there is none.
    pub hint: Option<String>,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        self.hint.iter().try_for_each(|hint| write!(f, "; {hint}"))
    }
}

/// The reason why there is no relay that the engine can reach.
#[derive(Debug)]
pub enum Unreachable {
    Obstacle(Obstacle),
    /// The engine cannot be reached.
    Engine(EngineError),
}

impl From<EngineError> for Unreachable {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<String> for Unreachable {
    fn from(reason: String) -> Self {
        Self::Obstacle(Obstacle { reason, hint: None })
    }
}

/// Listens on a loopback address that the engine can reach. For an engine behind SSH, ssh forwards a port of the engine's
/// machine to it. Also returns a warning for the user.
///
/// * `preferred`: the address to use, if it is free.
/// * `known`: the result of the first probe of an engine on this machine, which is the same for all relays of a call.
///
/// # Errors
/// The engine cannot reach the relay, or cannot be reached.
pub async fn listen(
    preferred: SocketAddr,
    engine: &mut Engine,
    known: &OnceCell<Reach>,
) -> Result<(Relay, Option<String>), Unreachable> {
    let (endpoint, mut warning) = (engine.endpoint(), None);
    let relay = Relay::listen(preferred).await;
    let mut relay = relay.map_err(|error| format!("cannot listen on {}: {error}", preferred.ip()))?;
    match &endpoint.address {
        Address::Ssh(host) if cfg!(unix) => {
            relay.forward_from(host).await?;
            if is_open_to_others(&relay, engine).await {
                warning = Some(format!(
                    "the ssh server of {} lets other machines connect to the forwarded port {} (`GatewayPorts yes`); the port requires a random password",
                    sanitize(&host.host),
                    relay.domain()
                ));
            }
        }
        Address::Ssh(_) | Address::ThroughDocker { .. } => {
            return Err(
                format!("the plugin cannot forward a port of the engine's machine ({endpoint})").into()
            );
        }
        _ => {}
    }
    let reach = match endpoint.address.is_here() {
        true => known.get_or_try_init(|| probe(&relay, engine)).await?.clone(),
        false => probe(&relay, engine).await?,
    };
    match reach {
        Reach::No(obstacle) => Err(Unreachable::Obstacle(obstacle)),
        Reach::Unknown if matches!(endpoint.address, Address::Tcp { .. }) => {
            let domain = relay.domain();
            Err(format!("the plugin cannot test whether the engine at {endpoint} reaches it at {domain}")
                .into())
        }
        Reach::Yes | Reach::Unknown => Ok((relay, warning)),
    }
}

/// Lets the engine ask the relay for a manifest, and finds out whether the request arrives.
///
/// # Errors
/// The engine cannot be reached.
///
/// Source: Docker Engine API 1.30, `GET /distribution/{name}/json`.
async fn probe(relay: &Relay, engine: &mut Engine) -> Result<Reach, EngineError> {
    let is_here = engine.endpoint().address.is_here();
    let limit = if is_here { TIMEOUT } else { REMOTE_TIMEOUT };
    let message = match ask(relay, engine, &relay.domain(), limit).await? {
        Asked::Reached => return Ok(Reach::Yes),
        Asked::Unsupported => return Ok(Reach::Unknown),
        Asked::Failed(message) => message,
    };
    Ok(Reach::No(explain(relay, engine, &message).await))
}

/// Returns whether other machines may reach the relay, because sshd has bound the forwarded port to all addresses.
async fn is_open_to_others(relay: &Relay, engine: &mut Engine) -> bool {
    let domain = relay.domain();
    let port = domain.rsplit(':').next().unwrap_or_default();
    // sshd binds a port of 127.0.0.1, unless it binds all addresses.
    let other = format!("127.0.0.2:{port}");
    matches!(ask(relay, engine, &other, REMOTE_TIMEOUT).await, Ok(Asked::Reached))
}

enum Asked {
    Reached,
    /// The engine does not support the request.
    Unsupported,
    /// The engine's raw message; empty if it did not answer in time.
    Failed(String),
}

/// * `domain`: the `address:port` that the engine asks.
async fn ask(
    relay: &Relay,
    engine: &mut Engine,
    domain: &str,
    limit: Duration,
) -> Result<Asked, EngineError> {
    let guard = Arc::new(Guard::new());
    let reference: Reference = format!("{domain}/{REPOSITORY}:{REPOSITORY}")
        .parse()
        .expect("an address and a name make a reference");
    let credentials = guard.credentials();
    let request = PushRequest::new(&reference, &credentials);
    let answer = {
        let answerer: Answerer = Arc::new(|request| Box::pin(ready(answer(&request))));
        let served = server::serve(&relay.listener, &guard, &answerer);
        let asked = tokio::time::timeout(limit, engine.distribution_inspect(&request));
        tokio::select! {
            answer = asked => answer,
            () = served => unreachable!("the server does not end"),
        }
    };
    if guard.was_reached() {
        return Ok(Asked::Reached);
    }
    Ok(match answer {
        Ok(Ok(DistributionAnswer::NotAsked { message: None })) => Asked::Unsupported,
        Ok(Ok(DistributionAnswer::NotAsked { message: Some(message) })) => Asked::Failed(message),
        // Another server answers at this address.
        Ok(Ok(DistributionAnswer::Names(_) | DistributionAnswer::NamesNothing)) => {
            Asked::Failed("another server answered".to_owned())
        }
        Ok(Err(error)) => return Err(error),
        Err(_) => {
            // The engine still waits, and the next request needs another connection.
            engine.hang_up();
            Asked::Failed(String::new())
        }
    })
}

/// Answers a request of the engine: the relay is a registry, and has no repository.
fn answer(request: &Request<Incoming>) -> Answer {
    match request.uri().path() {
        "/v2/" => server::with_body(StatusCode::OK, "application/json", "{}"),
        _ => server::refusal(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "no such manifest"),
    }
}

/// Finds out why the engine did not reach the relay.
///
/// * `message`: the engine's raw message.
async fn explain(relay: &Relay, engine: &mut Engine, message: &str) -> Obstacle {
    let domain = relay.domain();
    if message.contains("HTTP response to HTTPS client") {
        return Obstacle {
            reason: format!("the engine requires TLS at {domain}, the address of the plugin"),
            hint: Some(format!(
                "set `{}` in the engine's daemon.json, beside its other entries",
                insecure_registries(&domain)
            )),
        };
    }
    let host =
        tokio::time::timeout(TIMEOUT, engine.host()).await.ok().and_then(Result::ok).unwrap_or_default();
    let place = match &engine.endpoint().address {
        Address::Tcp { .. } => "the engine is on another machine, or in another network".to_owned(),
        Address::Ssh(ssh) => {
            format!("the engine on {} is in another network than the ssh server there", sanitize(&ssh.host))
        }
        _ if host.is_rootless => "the engine is rootless: it has loopback addresses of its own".to_owned(),
        _ if host.is_virtual() => {
            format!("the engine is in a virtual machine ({})", sanitize(&host.operating_system))
        }
        _ if CONTAINER_FILES.iter().any(|file| Path::new(file).exists()) => {
            "the engine is in another network than the plugin, which is in a container".to_owned()
        }
        _ => "the engine is in another network than the plugin".to_owned(),
    };
    let message = one_line(message);
    let message = if message.is_empty() { "it does not answer".to_owned() } else { message };
    Obstacle { reason: format!("{place}; it cannot reach the plugin at {domain}: {message}"), hint: None }
}
