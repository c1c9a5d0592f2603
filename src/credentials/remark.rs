//! Says what is probably wrong with credentials that a registry refused, in one sentence. No sentence contains a part of a
//! secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::IgnoredAny;
use zeroize::Zeroizing;

use crate::credentials::{Credentials, exposed};
use crate::reference::HUB;

/// Returns what is probably wrong with credentials, judged by the credentials alone.
pub fn about(credentials: &Credentials) -> Option<&'static str> {
    let username = credentials.username.as_deref().unwrap_or_default();
    let secret = match credentials {
        Credentials { registry_token: Some(token), .. } | Credentials { identity_token: Some(token), .. } => {
            token.expose()
        }
        _ => exposed(credentials.password.as_ref()),
    };
    if credentials.is_anonymous() {
        return None;
    }
    let is_json_user = ["_json_key", "_json_key_base64"].contains(&username);
    let is_json = serde_json::from_str::<IgnoredAny>(secret).is_ok() && secret.trim_start().starts_with('{');
    // `char` counts zero-width characters, which copies from web pages contain, neither as blanks nor as control characters.
    let is_invisible = |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}');
    let is_edge = |c: char| c.is_whitespace() || c.is_control() || is_invisible(c);
    Some(if secret.is_empty() {
        "the password is empty: check that the secret is set"
    } else if is_json_user && secret.contains(['\u{feff}', '\0']) {
        "the JSON key file is not UTF-8 without a byte order mark, which the registry needs: save it again"
    } else if username == "_json_key" && !is_json {
        "`_json_key` needs the whole JSON key file as password, and this is not JSON; for a key in base64 the user is `_json_key_base64`"
    } else if username == "_json_key_base64" && (is_json || STANDARD.decode(secret.trim()).is_err()) {
        "`_json_key_base64` needs the JSON key file in base64 as password; for the JSON file itself the user is `_json_key`"
    } else if is_json_user {
        return None;
    } else if is_utf16(secret) {
        "the password is text in UTF-16, as PowerShell writes it: save it as UTF-8, or set `$OutputEncoding = [Text.UTF8Encoding]::new()` for a pipe"
    } else if secret.starts_with('\u{feff}') {
        "the password begins with a byte order mark (BOM): save its file without one"
    } else if secret.starts_with(is_edge) || secret.ends_with(is_edge) {
        "the password begins or ends with a blank, a line end or a control character: remove it"
    } else if username.starts_with(is_edge) || username.ends_with(is_edge) {
        "the user name begins or ends with a blank: remove it"
    } else if is_eaten_robot(username) {
        "Harbor's robots are named `robot$NAME`: write the name in single quotes, so that the shell does not replace `$NAME`"
    } else if is_unfilled(username) {
        "the user name looks like a variable that was not filled in: check the name of the variable"
    } else if is_unfilled(secret) {
        "the password looks like a variable that was not filled in: check the name of the variable"
    } else if is_quoted(secret) {
        "the password is in quotes: remove them"
    } else if is_pair(username, secret) {
        "the password is the base64 of `user:password`: pass the password itself"
    } else if ["bearer ", "basic "].iter().any(|scheme| secret.to_lowercase().starts_with(scheme)) {
        "the password begins with the name of an HTTP authentication scheme: remove it"
    } else if secret.contains('\n') && !is_json && !secret.starts_with("-----BEGIN") {
        "the password has several lines: check what was passed"
    } else {
        return None;
    })
}

/// Returns whether a user name may be what a shell or an escape made of `robot$NAME`, the name of a robot of Harbor.
fn is_eaten_robot(username: &str) -> bool {
    let Some(rest) = username.strip_prefix("robot") else { return false };
    rest.is_empty() || rest.starts_with(['+', '-', '.', '\\']) || rest.starts_with("$$")
}

/// Returns whether every second character is NUL, as in UTF-16 that was read as UTF-8.
fn is_utf16(secret: &str) -> bool {
    let is_nul_from = |start: usize| {
        let mut halves = secret.trim_start_matches('\u{fffd}').chars().skip(start).step_by(2).peekable();
        halves.peek().is_some() && halves.all(|c| c == '\0')
    };
    is_nul_from(0) || is_nul_from(1)
}

/// Returns whether a secret is a variable of a shell, of a CI system or of a template, such as `$TOKEN`, `%TOKEN%` and
/// `{{ secrets.TOKEN }}`, or the text that a program prints for a missing value.
fn is_unfilled(secret: &str) -> bool {
    let is_name = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ' '))
    };
    let between = |start, end| secret.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
    let forms = [
        between("${{", "}}"),
        between("{{", "}}"),
        between("${", "}"),
        between("$(", ")"),
        between("%", "%"),
    ];
    let is_shell = secret.strip_prefix('$').is_some_and(|name| {
        name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
            && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    });
    let is_missing = ["null", "undefined", "None", "<no value>", "<nil>", "***"].contains(&secret);
    is_shell || is_missing || forms.into_iter().flatten().any(is_name)
}

fn is_quoted(secret: &str) -> bool {
    ['"', '\''].iter().any(|quote| secret.len() > 2 && secret.starts_with(*quote) && secret.ends_with(*quote))
}

/// Returns whether a secret is the base64 of `user:password`, as in the `auth` of config.json.
fn is_pair(username: &str, secret: &str) -> bool {
    let decoded = Zeroizing::new(STANDARD.decode(secret).unwrap_or_default());
    !username.is_empty()
        && decoded.strip_prefix(username.as_bytes()).is_some_and(|rest| rest.starts_with(b":"))
}

/// Returns whether a secret is an access token, by the prefixes of Docker Hub, GitHub and GitLab.
pub fn is_access_token(credentials: &Credentials) -> bool {
    const PREFIXES: [&str; 10] = [
        "dckr_pat_",
        "dckr_oat_",
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "github_pat_",
        "glpat-",
        "gldt-",
        "glcbt-",
    ];
    let secret = exposed(credentials.password.as_ref());
    PREFIXES.iter().any(|prefix| secret.starts_with(prefix))
}

/// Returns whether a password may be one that the registry does not accept: with two-factor authentication, these
/// registries accept only an access token. `ghcr.io` accepts no password at all.
pub fn needs_access_token(registry: &str) -> bool {
    [HUB, "ghcr.io", "registry.gitlab.com"].contains(&registry)
}

/// The hosts that users take for Docker Hub's.
const HUB_HOSTS: [&str; 5] =
    [HUB, "index.docker.io", "registry-1.docker.io", "hub.docker.com", "registry.hub.docker.com"];

/// Returns the registry that a user may have logged in to instead of `registry`: the nearest of the same host with or
/// without port 443, another name of Docker Hub or of this machine, a host above or below, or another host of the same
/// domain.
///
/// * `others`: registries with credentials, each with its `host[:port]`.
pub fn near_miss(registry: &str, others: impl Iterator<Item = (String, String)>) -> Option<String> {
    let ranked = others.filter_map(|(name, host)| Some((distance(registry, &host)?, name)));
    ranked.min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

/// Returns how unlike two hosts are, from 0; `None` if users do not confuse them.
fn distance(a: &str, b: &str) -> Option<u8> {
    let (a, b) = (a.to_lowercase(), b.to_lowercase());
    let [a, b] = [&a, &b].map(|host| host.strip_suffix(":443").unwrap_or(host));
    let [port_a, port_b] = [a, b].map(loopback_port);
    let [domain_a, domain_b] = [a, b].map(domain);
    let is_below = |a: &str, b: &str| a.strip_suffix(b).is_some_and(|rest| rest.ends_with('.'));
    if a == b {
        Some(0)
    } else if (HUB_HOSTS.contains(&a) && HUB_HOSTS.contains(&b)) || (port_a.is_some() && port_a == port_b) {
        Some(1)
    } else if domain_a.is_none() || domain_a != domain_b {
        None
    } else if is_below(a, b) || is_below(b, a) {
        Some(2)
    } else {
        Some(3)
    }
}

/// Returns the domain that one owner has: the last two labels of a host name, or three for names like `example.co.uk`.
/// Returns `None` for an address and for `localhost`.
fn domain(host: &str) -> Option<String> {
    const PUBLIC: [&str; 10] = ["ac", "co", "com", "edu", "go", "gov", "ne", "net", "or", "org"];
    let labels: Vec<&str> = host.split(':').next()?.rsplit('.').collect();
    let last = labels.first().filter(|last| last.starts_with(|c: char| c.is_ascii_alphabetic()))?;
    let is_public = labels.len() > 2 && last.len() == 2 && PUBLIC.contains(&labels[1]);
    let count = if is_public { 3 } else { 2 };
    (labels.len() >= 2).then(|| labels[..count].join("."))
}

/// Returns the port of a registry on this machine; `None` for other registries.
fn loopback_port(host: &str) -> Option<&str> {
    let (name, port) = host.rsplit_once(':').unwrap_or((host, "443"));
    (name == "localhost" || name == "[::1]" || name.starts_with("127.")).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::tests::basic;

    #[test]
    fn says_what_is_wrong_with_credentials() {
        let table = [
            // user name, password, words of the sentence
            ("robot", "x", Some("Harbor's robots are named")),
            ("robot+ci", "x", Some("Harbor's robots are named")),
            ("robot-ci", "x", Some("Harbor's robots are named")),
            ("robot\\$ci", "x", Some("Harbor's robots are named")),
            ("robot$$ci", "x", Some("Harbor's robots are named")),
            ("robot$ci", "x", None),
            ("robotics", "x", None),
            ("ci", "h\0u\0n\0t\0e\0r\0\x32\0", Some("UTF-16")),
            ("ci", "\u{feff}hunter2", Some("byte order mark")),
            ("ci", "hunter2 ", Some("begins or ends with a blank")),
            ("ci", "hunter2\r", Some("begins or ends with a blank")),
            ("ci", "\u{a0}hunter2", Some("begins or ends with a blank")),
            ("ci ", "hunter2", Some("the user name begins or ends")),
            ("_json_key", "eyJ0eXBlIjo", Some("needs the whole JSON key file")),
            ("_json_key", "{\"type\":\"service_account\"}", None),
            ("_json_key", "{\"type\":\"service_account\"}\n", None),
            ("_json_key", "{\"type\":\"service_acc", Some("this is not JSON")),
            ("_json_key_base64", "not base64!", Some("needs the JSON key file in base64")),
            ("_json_key_base64", "{\"type\":1}", Some("needs the JSON key file in base64")),
            ("_json_key_base64", "eyJ0eXBlIjox", None),
            ("ci", "$REGISTRY_TOKEN", Some("was not filled in")),
            ("ci", "${{ secrets.TOKEN }}", Some("was not filled in")),
            ("ci", "%TOKEN%", Some("was not filled in")),
            ("ci", "$(cat token)", Some("was not filled in")),
            ("ci", "$2y$05$abc/def", None),
            ("ci", "$uperSecret1", None),
            ("ci", "null", Some("was not filled in")),
            ("ci", "hunter2\0", Some("begins or ends with a blank")),
            ("ci", "\"hunter2\"", Some("in quotes")),
            ("ci", "", Some("is empty")),
            ("ci", "hunter2\u{200b}", Some("begins or ends with a blank")),
            ("$CI_REGISTRY_USER", "hunter2", Some("the user name looks like a variable")),
            ("ci", "Y2k6aHVudGVyMg==", Some("is the base64 of `user:password`")),
            ("other", "Y2k6aHVudGVyMg==", None),
            ("ci", "Bearer hunter2", Some("HTTP authentication scheme")),
            ("ci", "hunter2\nhunter3", Some("several lines")),
            ("ci", "hunter2", None),
            ("ci", "h u n t e r", None),
        ];
        for (username, password, words) in table {
            let said = about(&basic(username, password));
            assert_eq!(said.is_some(), words.is_some(), "{username}: {password:?}: {said:?}");
            assert!(said.unwrap_or_default().contains(words.unwrap_or_default()), "{said:?}");
        }
        assert_eq!(about(&Credentials::anonymous()), None);
    }

    #[test]
    fn finds_hosts_that_users_confuse() {
        let table: [(&str, &[&str], Option<&str>); 16] = [
            ("gcr.io", &["eu.gcr.io"], Some("eu.gcr.io")),
            ("eu.gcr.io", &["quay.io", "asia.gcr.io", "gcr.io"], Some("gcr.io")),
            ("r.example.com", &["r.example.com:443"], Some("r.example.com:443")),
            ("r.example.com:443", &["r.example.com"], Some("r.example.com")),
            ("docker.io", &["docker.io"], Some("docker.io")),
            ("docker.io", &["hub.docker.com"], Some("hub.docker.com")),
            ("docker.io", &["registry-1.docker.io"], Some("registry-1.docker.io")),
            ("localhost:5000", &["localhost:5001"], None),
            ("10.0.0.1:5000", &["10.0.0.2:5000"], None),
            ("quay.io", &["ghcr.io"], None),
            ("localhost:5000", &["127.0.0.1:5000"], Some("127.0.0.1:5000")),
            ("a.co.uk", &["b.co.uk"], None),
            ("r.a.co.uk", &["s.a.co.uk"], Some("s.a.co.uk")),
            ("R.example.com:5000", &["r.example.com:5001"], Some("r.example.com:5001")),
            ("10.0.0.1", &["10.0.0.1:443"], Some("10.0.0.1:443")),
            (
                "1.dkr.ecr.us-east-1.amazonaws.com",
                &["1.dkr.ecr.eu-west-1.amazonaws.com"],
                Some("1.dkr.ecr.eu-west-1.amazonaws.com"),
            ),
        ];
        for (registry, hosts, want) in table {
            let others = hosts.iter().map(|host| ((*host).to_owned(), (*host).to_owned()));
            assert_eq!(near_miss(registry, others).as_deref(), want, "{registry} {hosts:?}");
        }
    }
}
