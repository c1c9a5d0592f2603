//! Network namespaces: another machine as far as the network is concerned. A program in such a network has its own loopback
//! interface, and one address that the test's own network can reach.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{ok, run};

/// A network namespace, which a pair of virtual interfaces connects to the test's own network.
pub struct Network {
    name: String,
    /// The interface in the test's own network.
    link: String,
    /// The address in the namespace, which is not a loopback address.
    pub address: String,
    /// The test's address in the same subnet.
    pub gateway: String,
    /// The subnet of the address, such as `10.213.0.0/30`.
    pub subnet: String,
}

impl Network {
    /// Creates a namespace and its interfaces. Dropping the value removes them.
    pub fn new() -> Self {
        /// The number of subnets with four addresses in 10.213.0.0/16.
        const SUBNETS: usize = 1 << 14;
        // Only one process can create a namespace with a given name. So the name reserves the subnet of the same number, even
        // if several test programs run.
        let number = (0..SUBNETS)
            .find(|number| run(Command::new("ip").args(["netns", "add", &Self::name(*number)])).status == 0);
        let number = number.expect("root can add a network namespace");
        let address = |host: usize| format!("10.213.{}.{}", number / 64, number % 64 * 4 + host);
        let network = Self {
            name: Self::name(number),
            link: format!("regpush{number}"),
            address: address(2),
            gateway: address(1),
            subnet: format!("{}/30", address(0)),
        };
        let peer = format!("{}i", network.link);
        let (outside, inside) = (format!("{}/30", network.gateway), format!("{}/30", network.address));
        let namespace = network.name.as_str();
        let ip = |arguments: &[&str]| ok(Command::new("ip").args(arguments));
        ip(&["link", "add", &network.link, "type", "veth", "peer", "name", &peer, "netns", namespace]);
        ip(&["address", "add", &outside, "dev", &network.link]);
        ip(&["link", "set", &network.link, "up"]);
        ip(&["-n", namespace, "address", "add", &inside, "dev", &peer]);
        ip(&["-n", namespace, "link", "set", &peer, "up"]);
        ip(&["-n", namespace, "link", "set", "lo", "up"]);
        network
    }

    fn name(number: usize) -> String {
        format!("regpush-{number}")
    }

    /// Returns the file that stands for the namespace.
    pub fn file(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // A namespace removes its interfaces some time after its last process has ended, and the next namespace with the same
        // number needs the interface's name. So this function removes the interface first.
        for arguments in [["link", "delete", &self.link], ["netns", "delete", &self.name]] {
            let _ = Command::new("ip").args(arguments).stderr(Stdio::null()).status();
        }
    }
}

/// Returns a command that runs a program in the namespace with the given file; `None` for the test's own network.
pub fn command_in(network: Option<&Path>, program: impl AsRef<OsStr>) -> Command {
    let Some(network) = network else { return Command::new(program) };
    let mut net = std::ffi::OsString::from("--net=");
    net.push(network);
    let mut nsenter = Command::new("nsenter");
    nsenter.arg(net).arg("--").arg(program);
    nsenter
}
