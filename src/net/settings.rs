//! The engine's settings for connections to registries.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::net::{is_on_loopback, proxy};

/// The engine's settings for connections to registries.
#[derive(Debug, Default)]
pub struct RegistrySettings {
    /// For each registry (`host[:port]`), whether the engine requires TLS with a valid certificate.
    pub secure: BTreeMap<String, bool>,
    pub insecure_networks: Vec<IpNet>,
    /// Whether the engine runs without root. A rootless engine reads the certificates of registries from
    /// the user's configuration directory instead of `/etc`.
    pub is_rootless: bool,
    /// The engine has an HTTP or HTTPS proxy.
    pub has_proxy: bool,
    /// The engine's `NO_PROXY`.
    pub no_proxy: String,
}

impl RegistrySettings {
    /// Returns whether the engine connects to this registry through its proxy.
    pub fn uses_proxy(&self, domain: &str) -> bool {
        let (host, port) = domain.rsplit_once(':').unwrap_or((domain, "443"));
        let port = port.parse().unwrap_or_default();
        self.has_proxy && !is_on_loopback(domain) && !proxy::is_excluded(&self.no_proxy, host, port)
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_use_their_proxy_except_for_excluded_hosts() {
        let table = [
            // the engine has a proxy, its NO_PROXY, registry, expected result
            (true, "", "registry.example.com", true),
            (true, "other.com", "registry.example.com:5000", true),
            (true, "example.com", "registry.example.com", false),
            (true, "registry.example.com:443", "registry.example.com", false),
            (true, "registry.example.com:443", "registry.example.com:5000", true),
            (true, "", "localhost:5000", false),
            (false, "", "registry.example.com", false),
        ];
        for (has_proxy, no_proxy, domain, want) in table {
            let settings =
                RegistrySettings { has_proxy, no_proxy: no_proxy.to_owned(), ..RegistrySettings::default() };
            assert_eq!(settings.uses_proxy(domain), want, "{has_proxy} {no_proxy} {domain}");
        }
    }
}
