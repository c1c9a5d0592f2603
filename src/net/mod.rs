//! Code for connections to engines and to registries: TLS, proxies and loopback addresses.

pub mod proxy;
pub mod tls;

use std::collections::BTreeMap;
use std::env;
use std::net::IpAddr;

use ipnet::IpNet;

/// The value of the header `User-Agent` in the plugin's requests.
pub const USER_AGENT_VALUE: &str = concat!("docker-regpush/", env!("CARGO_PKG_VERSION"));

/// Returns whether a host is `localhost` or a loopback address. An IPv6 address must have no brackets.
pub fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The engine's settings for connections to registries.
#[derive(Debug, Default)]
pub struct RegistrySettings {
    /// For each registry (`host[:port]`), whether the engine requires TLS with a valid certificate.
    pub secure: BTreeMap<String, bool>,
    pub insecure_networks: Vec<IpNet>,
    /// Whether the engine runs without root. A rootless engine reads the certificates of registries from
    /// the user's configuration directory instead of `/etc`.
    pub is_rootless: bool,
}

impl RegistrySettings {
    /// Returns whether the engine allows plain HTTP, or TLS with any certificate, for this registry.
    ///
    /// * `addresses`: the addresses of the registry's host.
    ///
    /// Source: moby `registry/config.go` (`isSecureIndex`). podman does not report these settings. To
    /// allow plain HTTP to a registry on podman's machine, the plugin sends `tlsVerify=false` in a push
    /// request.
    pub fn is_insecure(&self, domain: &str, addresses: &[IpAddr]) -> bool {
        let in_network = || {
            addresses
                .iter()
                .any(|address| self.insecure_networks.iter().any(|network| network.contains(address)))
        };
        self.secure.get(domain).map_or_else(|| is_on_loopback(domain) || in_network(), |secure| !secure)
    }
}

/// A function that prints a line about an HTTP request or response, for `--debug`. The line contains the
/// names of headers, but not their values.
pub type Trace = fn(&str);

/// Returns whether a registry's domain is `localhost` or a loopback address, for which docker requires no TLS
/// (moby `registry/config.go`).
pub fn is_on_loopback(domain: &str) -> bool {
    let host = match domain.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => domain,
    };
    is_loopback(host.trim_matches(['[', ']']))
}
