//! Parts that connections to engines and connections to registries share.

pub mod proxy;
pub mod tls;

use std::collections::BTreeMap;
use std::env;
use std::net::IpAddr;

use ipnet::IpNet;

/// How we name ourselves.
pub const USER_AGENT_VALUE: &str = concat!("docker-regpush/", env!("CARGO_PKG_VERSION"));

/// This machine itself. `host`: without brackets.
pub fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// How the engine is set up to speak with registries.
#[derive(Debug, Default)]
pub struct RegistrySettings {
    /// By `host[:port]`, whether only TLS with a good certificate will do.
    pub secure: BTreeMap<String, bool>,
    pub insecure_networks: Vec<IpNet>,
    /// Its files are the user's, not the system's.
    pub is_rootless: bool,
}

impl RegistrySettings {
    /// Whether plain HTTP, or TLS with any certificate, is good enough for this registry.
    ///
    /// * `addresses`: of its host.
    ///
    /// Source: moby `registry/config.go` (`isSecureIndex`); podman, which tells nothing, is told by us that
    /// its own machine needs no TLS.
    pub fn is_insecure(&self, domain: &str, addresses: &[IpAddr]) -> bool {
        let in_network = || {
            addresses
                .iter()
                .any(|address| self.insecure_networks.iter().any(|network| network.contains(address)))
        };
        self.secure.get(domain).map_or_else(|| is_on_loopback(domain) || in_network(), |secure| !secure)
    }
}

/// Takes a line about each call, for `--debug`; of headers only the names.
pub type Trace = fn(&str);

/// A registry on the engine's own machine, where docker needs no TLS (moby `registry/config.go`).
pub fn is_on_loopback(domain: &str) -> bool {
    let host = match domain.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => domain,
    };
    is_loopback(host.trim_matches(['[', ']']))
}
