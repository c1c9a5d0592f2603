//! Builds the command line of ssh, and the docker command that ssh runs on the engine's machine.
//!
//! Source: docker/cli 28.5, `cli/connhelper`. A fake ssh recorded the arguments that docker passes.

use std::ffi::OsString;
use std::net::SocketAddr;

use crate::docker::context::SshHost;

/// Returns the arguments that a user types after `ssh`, such as `-p 2222 me@box`. The arguments are quoted
/// for a shell, because a user or host in a URL may contain any character.
pub fn login(SshHost { user, host, port, .. }: &SshHost) -> String {
    let port = port.as_ref().map(|port| format!("-p {} ", quoted(port))).unwrap_or_default();
    let user = user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
    let place = format!("{user}{host}");
    let end_of_options = if place.starts_with('-') { "-- " } else { "" };
    format!("{port}{end_of_options}{}", quoted(&place))
}

/// Returns the start of the docker command line for the engine's machine: `docker`, with `--host` if the
/// `ssh://` URL of the engine contains a socket's path.
pub fn remote_docker(host: &SshHost) -> String {
    match &host.socket {
        Some(path) => format!("docker {}", quoted(&format!("--host=unix://{path}"))),
        None => "docker".to_owned(),
    }
}

/// Returns the same arguments that docker passes to ssh. As in docker, `-o ConnectTimeout=30` is one
/// argument, and user and port are quoted although no shell parses them.
pub fn ssh_arguments(ssh: &SshHost) -> Vec<OsString> {
    let remote = format!("{} system dial-stdio", remote_docker(ssh));
    let mut arguments = user_and_port(ssh);
    arguments.extend(["-o ConnectTimeout=30", "-T", "--", &quoted(&ssh.host), &remote].map(OsString::from));
    arguments
}

/// Returns the arguments with which ssh forwards a free port of 127.0.0.1 on the engine's machine to an address here, over a
/// connection of its own, and prints the port to stderr. The settings of the user's ssh_config that would prevent this are
/// replaced.
pub fn forward_arguments(ssh: &SshHost, to: SocketAddr) -> Vec<OsString> {
    const SETTINGS: [&str; 7] = [
        "-oConnectTimeout=30",
        "-oControlMaster=no",
        "-oControlPath=none",
        "-oClearAllForwardings=no",
        "-oExitOnForwardFailure=no",
        "-oForkAfterAuthentication=no",
        // ssh prints the allocated port at this level.
        "-oLogLevel=INFO",
    ];
    let mut arguments = user_and_port(ssh);
    arguments.extend(SETTINGS.map(OsString::from));
    let forward = format!("127.0.0.1:0:{to}");
    arguments.extend(["-N", "-T", "-R", &forward, "--", &quoted(&ssh.host)].map(OsString::from));
    arguments
}

fn user_and_port(SshHost { user, port, .. }: &SshHost) -> Vec<OsString> {
    let pairs = [("-l", user), ("-p", port)];
    let given =
        pairs.into_iter().filter_map(|(option, value)| Some([option.to_owned(), quoted(value.as_ref()?)]));
    given.flatten().map(OsString::from).collect()
}

/// Quotes a word for a POSIX shell, like `syntax.Quote` of mvdan.cc/sh, which docker uses.
fn quoted(word: &str) -> String {
    const SPECIAL: &str = ";\"'()$|&><` \t\r\n\\#{~*?[=";
    if word.is_empty() {
        return "''".to_owned();
    }
    if !word.contains(|c| SPECIAL.contains(c)) {
        return word.to_owned();
    }
    if !word.contains('\'') {
        return format!("'{word}'");
    }
    let escaped = |c| if matches!(c, '"' | '\\' | '`' | '$') { format!("\\{c}") } else { c.to_string() };
    format!("\"{}\"", word.chars().map(escaped).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::config::Config;
    use crate::docker::context::{Address, Choice, Endpoint};

    /// The expected arguments were recorded with docker 28.5.2 and a fake ssh.
    #[test]
    fn calls_ssh_with_the_same_arguments_as_docker() {
        let plain = "docker system dial-stdio";
        let table: [(&str, &[&str], &str, &str); 14] = [
            // URL, expected arguments before `-o`, expected host, expected remote command
            ("ssh://h", &[], "h", plain),
            ("ssh://me@h:22", &["-l", "me", "-p", "22"], "h", plain),
            ("ssh://us%20er@h", &["-l", "'us er'"], "h", plain),
            ("ssh://us'er@h", &["-l", "\"us'er\""], "h", plain),
            ("ssh://a$b@h", &["-l", "'a$b'"], "h", plain),
            ("ssh://[::1]:22", &["-p", "22"], "::1", plain),
            (
                "ssh://me@h/run/x.sock",
                &["-l", "me"],
                "h",
                "docker '--host=unix:///run/x.sock' system dial-stdio",
            ),
            (
                "ssh://me@h/run/a%20b.sock",
                &["-l", "me"],
                "h",
                "docker '--host=unix:///run/a b.sock' system dial-stdio",
            ),
            (
                "ssh://me@h/run/it's",
                &["-l", "me"],
                "h",
                "docker \"--host=unix:///run/it's\" system dial-stdio",
            ),
            ("ssh://me@h//x", &["-l", "me"], "h", "docker '--host=unix:////x' system dial-stdio"),
            ("ssh://-oX@h", &["-l", "-oX"], "h", plain),
            ("ssh://me@-oP", &["-l", "me"], "-oP", plain),
            ("ssh://a%23b=c@h/", &["-l", "'a#b=c'"], "h", plain),
            ("ssh://ME@HoST:", &["-l", "ME"], "HoST", plain),
        ];
        for (url, before, host, remote) in table {
            let choice = Choice { host: Some(url.to_owned()), ..Choice::default() };
            let endpoint =
                Endpoint::resolve(&choice, &Config::default()).unwrap_or_else(|e| panic!("{url}: {e}"));
            let Address::Ssh(ssh) = &endpoint.address else { panic!("{endpoint:?}") };
            let want = [before, &["-o ConnectTimeout=30", "-T", "--", host, remote]].concat();
            assert_eq!(ssh_arguments(ssh), want, "{url}");
        }
    }
}
