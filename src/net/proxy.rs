//! Finds the proxy for a connection to an engine over TCP or to a registry. The rules are those of Go's HTTP
//! client, which docker uses.
//!
//! Source: golang.org/x/net `http/httpproxy`. hyper-util parses the address of a proxy. The `NO_PROXY` rules
//! of hyper-util are not used, because these rules follow curl and match other hosts than Go.

use std::env;
use std::net::IpAddr;

use hyper::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use ipnet::IpNet;

use crate::net::is_loopback;

/// Returns the proxy for a URL: `HTTPS_PROXY` or `https_proxy` for an `https` URL, `HTTP_PROXY` or
/// `http_proxy` for other URLs. Like Go, ignores `ALL_PROXY`.
///
/// Returns `None` for a loopback address, or if `NO_PROXY` or `no_proxy` names the host.
///
/// # Errors
/// Returns the name of the proxy variable if its value is not a valid proxy URL. The caller must not connect
/// directly, because the user configured a proxy.
pub fn of(url: &Uri) -> Result<Option<Intercept>, &'static str> {
    Ok(chosen(url)?.map(|(_, _, proxy)| proxy))
}

/// Returns the proxy for a request to `url`. The result is the URL of the proxy, including any user and
/// password.
///
/// # Errors
/// The errors of [`of`].
pub fn setting(url: &Uri) -> Result<Option<String>, &'static str> {
    let with_scheme = |proxy: String| if proxy.contains("://") { proxy } else { format!("http://{proxy}") };
    Ok(chosen(url)?.map(|(_, proxy, _)| with_scheme(proxy)))
}

/// Returns the variable that names the proxy for a URL, and the `host:port` of the proxy. `None` without a proxy, or
/// if the value of the variable is not valid.
pub fn named(url: &Uri) -> Option<(&'static str, String)> {
    let (variable, _, proxy) = chosen(url).ok()??;
    Some((variable, proxy.uri().authority()?.to_string()))
}

fn chosen(url: &Uri) -> Result<Option<(&'static str, String, Intercept)>, &'static str> {
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_u16().unwrap_or_default();
    let first = |names: [&str; 2]| {
        names
            .iter()
            .filter_map(|name| env::var(name).ok())
            .find(|value| !value.is_empty())
            .unwrap_or_default()
    };
    if is_loopback(host) || is_excluded(&first(["NO_PROXY", "no_proxy"]), host, port) {
        return Ok(None);
    }
    let (names, variable) = match url.scheme_str() {
        Some("https") => (["HTTPS_PROXY", "https_proxy"], "HTTPS_PROXY"),
        _ => (["HTTP_PROXY", "http_proxy"], "HTTP_PROXY"),
    };
    let proxy = first(names);
    if proxy.is_empty() {
        return Ok(None);
    }
    let intercept = Matcher::builder().all(proxy.clone()).build().intercept(url).ok_or(variable)?;
    Ok(Some((variable, proxy, intercept)))
}

/// Returns whether a `NO_PROXY` list names this host. An entry is a domain (including its subdomains),
/// `.domain` or `*.domain` (only subdomains) or an address, each with an optional port. An entry can also be
/// a network, or `*` for all hosts.
pub(super) fn is_excluded(list: &str, host: &str, port: u16) -> bool {
    let host = host.to_lowercase();
    let address = host.parse::<IpAddr>().ok();
    list.split(',').map(|entry| entry.trim().to_lowercase()).filter(|entry| !entry.is_empty()).any(|entry| {
        if entry == "*" {
            return true;
        }
        if let Ok(network) = entry.parse::<IpNet>() {
            return address.is_some_and(|address| network.contains(&address));
        }
        let (name, entry_port) = match entry.rsplit_once(':') {
            // In an IPv6 address without brackets, the last colon does not begin a port.
            Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, Some(port)),
            _ => (entry.as_str(), None),
        };
        if entry_port.is_some_and(|entry_port| entry_port != port.to_string()) {
            return false;
        }
        let name = name.trim_matches(['[', ']']);
        if let Ok(named) = name.parse::<IpAddr>() {
            return address == Some(named);
        }
        let name = name.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(name);
        match name.strip_prefix('.') {
            Some(_) => host.ends_with(name),
            None if name.is_empty() => false,
            None => host == name || host.strip_suffix(name).is_some_and(|before| before.ends_with('.')),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_no_proxy_as_go_does() {
        let table = [
            // NO_PROXY, host, port, whether the list names the host
            ("", "box.example.com", 2375, false),
            ("*", "box.example.com", 2375, true),
            ("other.com,box.example.com", "box.example.com", 2375, true),
            ("example.com", "box.example.com", 2375, true),
            ("example.com", "example.com", 2375, true),
            ("example.com", "badexample.com", 2375, false),
            (".example.com", "box.example.com", 2375, true),
            (".example.com", "example.com", 2375, false),
            ("*.example.com", "box.example.com", 2375, true),
            ("*.example.com", "example.com", 2375, false),
            (" EXAMPLE.com ", "Box.Example.Com", 2375, true),
            ("box.example.com:2375", "box.example.com", 2375, true),
            ("box.example.com:2376", "box.example.com", 2375, false),
            ("10.0.0.5", "10.0.0.5", 2375, true),
            ("10.0.0.5:2375", "10.0.0.5", 2375, true),
            ("10.0.0.5:1", "10.0.0.5", 2375, false),
            ("10.0.0.0/8", "10.0.0.5", 2375, true),
            ("10.0.0.0/8", "11.0.0.5", 2375, false),
            ("fd00::/8", "fd00::1", 2375, true),
            ("fd00::1", "fd00::1", 2375, true),
            ("[fd00::1]:2375", "fd00::1", 2375, true),
            ("[fd00::1]:1", "fd00::1", 2375, false),
            (":2375", "box.example.com", 2375, false),
        ];
        for (list, host, port, want) in table {
            assert_eq!(is_excluded(list, host, port), want, "{list:?} {host}:{port}");
        }
    }
}
