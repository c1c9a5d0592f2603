//! Parts that connections to engines and connections to registries share.

pub mod proxy;
pub mod tls;

use std::collections::BTreeMap;
use std::env;
use std::net::IpAddr;

use ipnet::IpNet;

/// The plugin's `User-Agent`.
pub const USER_AGENT_VALUE: &str = concat!("docker-regpush/", env!("CARGO_PKG_VERSION"));

/// Whether a host is this machine. `host`: without brackets.
pub fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The engine's settings for connections to registries.
#[derive(Debug, Default)]
pub struct RegistrySettings {
    /// By `host[:port]`, whether the registry must have TLS with a valid certificate.
    pub secure: BTreeMap<String, bool>,
    pub insecure_networks: Vec<IpNet>,
    /// Whether the engine runs without root, so that its files are the user's and not the system's.
    pub is_rootless: bool,
}

impl RegistrySettings {
    /// Whether plain HTTP, or TLS with any certificate, is allowed for this registry.
    ///
    /// * `addresses`: the addresses of its host.
    ///
    /// Source: moby `registry/config.go` (`isSecureIndex`). podman reports no settings; the engine's push passes
    /// `tlsVerify=false` to it for its own machine.
    pub fn is_insecure(&self, domain: &str, addresses: &[IpAddr]) -> bool {
        let in_network = || {
            addresses
                .iter()
                .any(|address| self.insecure_networks.iter().any(|network| network.contains(address)))
        };
        self.secure.get(domain).map_or_else(|| is_on_loopback(domain) || in_network(), |secure| !secure)
    }
}

/// Called with a line about each call, for `--debug`. The line contains only the names of headers.
pub type Trace = fn(&str);

/// Whether a registry is on the engine's own machine, where docker requires no TLS (moby `registry/config.go`).
pub fn is_on_loopback(domain: &str) -> bool {
    let host = match domain.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => domain,
    };
    is_loopback(host.trim_matches(['[', ']']))
}
