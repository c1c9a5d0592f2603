//! What ssh and a shell on the other machine are called with.
//!
//! Source: docker/cli `cli/connhelper` (28.5; its argv was recorded with a fake ssh).

use std::ffi::OsString;

use crate::docker::context::SshHost;

/// `-p 2222 me@box`, as somebody types it behind `ssh`, quoted for a shell: names in a URL may hold anything.
pub fn login(SshHost { user, host, port, .. }: &SshHost) -> String {
    let port = port.as_ref().map(|port| format!("-p {} ", quoted(port))).unwrap_or_default();
    let user = user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
    let place = format!("{user}{host}");
    let end_of_options = if place.starts_with('-') { "-- " } else { "" };
    format!("{port}{end_of_options}{}", quoted(&place))
}

/// docker as the other side calls it.
pub fn remote_docker(host: &SshHost) -> String {
    match &host.socket {
        Some(path) => format!("docker {}", quoted(&format!("--host=unix://{path}"))),
        None => "docker".to_owned(),
    }
}

/// docker's own, to the letter: `-o ConnectTimeout=30` is one word, and user and port are quoted
/// although no shell reads them.
pub fn ssh_arguments(ssh: &SshHost) -> Vec<OsString> {
    let SshHost { user, host, port, .. } = ssh;
    let mut arguments = Vec::new();
    for (option, value) in [("-l", user), ("-p", port)] {
        if let Some(value) = value {
            arguments.extend([option.to_owned(), quoted(value)]);
        }
    }
    let remote = format!("{} system dial-stdio", remote_docker(ssh));
    arguments.extend(["-o ConnectTimeout=30", "-T", "--", &quoted(host), &remote].map(str::to_owned));
    arguments.into_iter().map(OsString::from).collect()
}

/// As `syntax.Quote` of mvdan.cc/sh, which docker uses, for a POSIX shell.
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
