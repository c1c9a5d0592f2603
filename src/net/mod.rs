//! Code for connections to engines and to registries: TLS, proxies and loopback addresses.

pub mod proxy;
pub mod settings;
pub mod tls;

use std::env;
use std::net::IpAddr;

/// The value of the header `User-Agent` in the plugin's requests.
pub const USER_AGENT_VALUE: &str = concat!("docker-regpush/", env!("CARGO_PKG_VERSION"));

/// Returns whether a host is `localhost` or a loopback address. An IPv6 address must have no brackets.
pub fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
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
