//! Forwards a port of the machine of an engine behind SSH to this machine.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;

use crate::docker::context::SshHost;
use crate::engine::transport::ssh::forward_arguments;
use crate::engine::transport::tunnel::Tunnel;
use crate::text::sanitize;

/// The maximum time for ssh to log in and to forward the port.
const TIMEOUT: Duration = Duration::from_secs(40);

/// A port of 127.0.0.1 on the machine of an engine, which ssh forwards to an address here. Dropping this value ends ssh, and
/// sshd then closes the port.
#[derive(Debug)]
pub struct ReverseForward {
    /// ssh with a connection of its own: a forwarding in a connection that other programs share would outlive the plugin.
    ssh: Tunnel,
    port: u16,
}

/// The part of ssh's messages that tells whether it forwards the port.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Port(u16),
    Refused,
}

impl ReverseForward {
    /// Starts ssh, and waits until it forwards a port.
    ///
    /// * `to`: the address here.
    ///
    /// # Errors
    /// The reason for messages: ssh cannot log in, or the server refuses to forward a port.
    pub async fn open(host: &SshHost, to: SocketAddr) -> Result<Self, String> {
        let place = sanitize(&host.host);
        let (mut ssh, _) = Tunnel::start(OsStr::new("ssh"), &forward_arguments(host, to))
            .map_err(|error| sanitize(&error.to_string()))?;
        match timeout(TIMEOUT, ssh.wait_for(find)).await {
            Ok(Ok(Said::Port(port))) => Ok(Self { ssh, port }),
            Ok(Ok(Said::Refused)) => Err(format!(
                "the ssh server of {place} refuses to forward a port (`AllowTcpForwarding`, `PermitListen` in sshd_config)"
            )),
            Ok(Err(said)) => Err(format!("ssh cannot forward a port of {place}: {said}")),
            Err(_) => Err(format!("ssh has not forwarded a port of {place} within {}s", TIMEOUT.as_secs())),
        }
    }

    /// Returns whether ssh still runs, and forwards the port.
    pub fn is_open(&self) -> bool {
        self.ssh.is_running()
    }

    /// Returns the port of 127.0.0.1 on the engine's machine.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Finds ssh's message about the forwarded port.
///
/// Source: OpenSSH 9.2 `clientloop.c` and `ssh.c`, `ssh_confirm_remote_forward`.
fn find(said: &str) -> Option<Said> {
    said.lines().find_map(|line| {
        if line.contains("remote port forwarding failed") {
            return Some(Said::Refused);
        }
        let (_, rest) = line.split_once("Allocated port ")?;
        Some(Said::Port(rest.split_once(" for remote forward")?.0.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_port_in_the_messages_of_ssh() {
        let table = [
            ("Allocated port 40123 for remote forward to 127.1.2.3:5555\r\n", Some(Said::Port(40123))),
            ("banner\nAllocated port 1 for remote forward to x", Some(Said::Port(1))),
            ("Allocated port 401", None),
            ("Warning: remote port forwarding failed for listen port 0\n", Some(Said::Refused)),
            ("", None),
        ];
        for (said, want) in table {
            assert_eq!(find(said), want, "{said}");
        }
    }
}
