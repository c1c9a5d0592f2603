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
    /// Whether `insecure_networks` decides about loopback addresses too. Otherwise they are always insecure.
    pub decides_about_loopback: bool,
    /// Whether the engine runs without root. A rootless engine reads the certificates of registries from
    /// the user's configuration directory instead of `/etc`.
    pub is_rootless: bool,
    /// The `host:port` of the engine's proxy, if the engine has an HTTP or HTTPS proxy.
    pub proxy: Option<String>,
    /// The engine's `NO_PROXY`.
    pub no_proxy: String,
}

impl RegistrySettings {
    /// Returns the `host:port` of the proxy through which the engine connects to this registry.
    pub fn proxy_for(&self, domain: &str) -> Option<&str> {
        let (host, port) = domain.rsplit_once(':').unwrap_or((domain, "443"));
        let port = port.parse().unwrap_or_default();
        let is_direct = is_on_loopback(domain) || proxy::is_excluded(&self.no_proxy, host, port);
        self.proxy.as_deref().filter(|_| !is_direct)
    }

    /// Returns whether the addresses of a registry that is not on a loopback address decide about plain HTTP.
    pub fn depends_on_addresses(&self) -> bool {
        self.insecure_networks.iter().any(|network| !network.addr().is_loopback())
    }

    /// Returns whether the engine allows plain HTTP, or TLS with any certificate, for this registry.
    ///
    /// * `addresses`: the addresses of the registry's host.
    ///
    /// Source: moby `registry/config.go` (`isSecureIndex`).
    pub fn is_insecure(&self, domain: &str, addresses: &[IpAddr]) -> bool {
        let in_network = || {
            addresses
                .iter()
                .any(|address| self.insecure_networks.iter().any(|network| network.contains(address)))
        };
        let by_default = || is_on_loopback(domain) && !self.decides_about_loopback;
        self.secure.get(domain).map_or_else(|| by_default() || in_network(), |secure| !secure)
    }
}

/// Returns the line of the engine's `daemon.json` that allows plain HTTP to a registry.
///
/// Source: moby#53868; for loopback addresses the line is docker's default before 29.10.
pub fn insecure_registries(domain: &str) -> String {
    let values = if is_on_loopback(domain) {
        r#""127.0.0.0/8", "::1/128""#.to_owned()
    } else {
        format!("\"{domain}\"")
    };
    format!("\"insecure-registries\": [{values}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_decide_about_loopback_if_the_engine_has_some() {
        let loopback = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        let own = "localhost:5000";
        let table = [
            // whether the settings decide, insecure network, whether the registry must be secure, expected result
            (false, None, None, true),
            (false, Some("10.0.0.0/8"), None, true),
            (false, None, Some(true), false),
            (true, None, None, false),
            (true, Some("10.0.0.0/8"), None, false),
            (true, Some("127.0.0.0/8"), None, true),
            (true, Some("::1/128"), None, true),
            (true, None, Some(false), true),
            (true, Some("127.0.0.0/8"), Some(true), false),
        ];
        for (decides_about_loopback, network, secure, want) in table {
            let settings = RegistrySettings {
                secure: secure.into_iter().map(|is_secure| (own.to_owned(), is_secure)).collect(),
                insecure_networks: network.into_iter().map(|network| network.parse().unwrap()).collect(),
                decides_about_loopback,
                ..RegistrySettings::default()
            };
            assert_eq!(settings.is_insecure(own, &loopback), want, "{settings:?}");
        }
    }

    #[test]
    fn engines_use_their_proxy_except_for_excluded_hosts() {
        let table = [
            // the engine's proxy, its NO_PROXY, registry, expected result
            (Some("p:1"), "", "registry.example.com", Some("p:1")),
            (Some("p:1"), "other.com", "registry.example.com:5000", Some("p:1")),
            (Some("p:1"), "example.com", "registry.example.com", None),
            (Some("p:1"), "registry.example.com:443", "registry.example.com", None),
            (Some("p:1"), "registry.example.com:443", "registry.example.com:5000", Some("p:1")),
            (Some("p:1"), "", "localhost:5000", None),
            (None, "", "registry.example.com", None),
        ];
        for (proxy, no_proxy, domain, want) in table {
            let (proxy, no_proxy) = (proxy.map(str::to_owned), no_proxy.to_owned());
            let settings = RegistrySettings { proxy, no_proxy, ..RegistrySettings::default() };
            assert_eq!(settings.proxy_for(domain), want, "{settings:?} {domain}");
        }
    }
}
