//! Chooses the loopback address of the relay.

use std::net::{Ipv4Addr, SocketAddr};

use ring::digest::{SHA256, digest};

/// The ports that the relay prefers. Systems choose the ports of outgoing connections from higher ones.
const PORTS: std::ops::Range<u16> = 10_240..32_768;

/// Returns the preferred address of the relay for a registry: always the same for a user and a registry, and almost always
/// different for others.
///
/// Engines remember by registry address which repositories have a layer: docker's classic store by address and port, and the
/// containerd store by address. If two registries shared an address, the engine would ask one registry for repositories of
/// the other. If the address changed between calls, podman would send all layers again.
///
/// * `user`: identifies the user on this machine.
/// * `domain`: the `host[:port]` of the registry.
pub fn preferred(user: &str, domain: &str) -> SocketAddr {
    let hash = digest(&SHA256, format!("{user}\n{domain}").as_bytes());
    let bytes = hash.as_ref();
    let span = u32::from(PORTS.end - PORTS.start);
    let offset = (u32::from(bytes[3]) << 8 | u32::from(bytes[4])) % span;
    let port = PORTS.start + u16::try_from(offset).expect("less than the number of ports");
    SocketAddr::from((host(bytes[0], bytes[1], bytes[2]), port))
}

/// Returns `127.x.y.z`, or `127.0.0.1` on a system that has no other loopback address.
fn host(x: u8, y: u8, z: u8) -> Ipv4Addr {
    if cfg!(target_os = "macos") {
        return Ipv4Addr::LOCALHOST;
    }
    // The first and the last address of 127.0.0.0/8 are not addresses of hosts, and 127.0.0.x has other uses.
    Ipv4Addr::new(127, 1 + x % 254, y, 1 + z % 254)
}

/// Returns a text that identifies the user on this machine.
pub fn user() -> String {
    #[cfg(unix)]
    return rustix::process::getuid().as_raw().to_string();
    #[cfg(not(unix))]
    return std::env::var("USERNAME").unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_registries_have_addresses_of_their_own() {
        let address = preferred("1000", "ghcr.io");
        assert_eq!(address, preferred("1000", "ghcr.io"));
        for (user, domain) in [("1001", "ghcr.io"), ("1000", "ghcr.io:443"), ("1000", "localhost:5000")] {
            assert_ne!(address, preferred(user, domain), "{user} {domain}");
        }
        for number in 0..500 {
            let address = preferred(&number.to_string(), "ghcr.io");
            assert!(address.ip().is_loopback() && PORTS.contains(&address.port()), "{address}");
        }
    }
}
