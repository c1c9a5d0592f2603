//! Parses and normalizes image references as docker does.
//!
//! Source: the grammar of `distribution/reference` (`regexp.go`, `normalize.go`), compared with the docker
//! CLI. No maintained crate follows this grammar exactly: `oci-spec` 0.10 differs in 11 of 100 inputs
//! (`Foo/bar`, IPv6 domains, 64-digit names, the tag `ü`).

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// The domain of a reference that names no domain: Docker Hub.
pub const HUB: &str = "docker.io";
const LEGACY_HUB: &str = "index.docker.io";
/// The key under which docker stores the credentials for [`HUB`]. docker looks for exactly this string.
pub const HUB_CREDENTIALS_KEY: &str = "https://index.docker.io/v1/";
/// The namespace that docker adds to a Docker Hub path of one component.
const OFFICIAL: &str = "library/";
/// Maximum length of a domain: the maximum in DNS plus a port. docker does not limit the length of a domain,
/// but HTTP requests do.
const MAX_DOMAIN: usize = 261;
const MAX_PATH: usize = 255;
const MAX_TAG: usize = 128;

/// A reference that can be pushed: `domain/path` with an optional tag, without a digest.
///
/// `Display` always writes the domain, and writes the tag only if the reference has one:
/// `docker.io/library/app:1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
}

/// The reason why a string is not a reference that can be pushed. The messages are the same as docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("invalid reference format")]
    Format,
    #[error("invalid reference format: repository name ({repository}) must be lowercase")]
    Uppercase { repository: String },
    #[error("repository name must not be more than 255 characters")]
    TooLong,
    #[error("invalid repository name ({name}), cannot specify 64-byte hexadecimal strings")]
    Identifier { name: String },
    #[error("unsupported digest algorithm")]
    DigestAlgorithm,
    #[error("invalid checksum digest length")]
    DigestLength,
    #[error("invalid checksum digest format")]
    DigestFormat,
    #[error("cannot push a digest reference")]
    Digest,
}

impl ReferenceError {
    /// Returns a hint that shows how to write the reference.
    ///
    /// * `typed`: the string that the user typed as a reference.
    pub fn hint(&self, typed: &str) -> String {
        match self {
            Self::Uppercase { .. } => "write the repository in lower case".to_owned(),
            Self::Format => format_hint(typed),
            _ => general_hint(typed),
        }
    }
}

/// Returns a hint for a string that is not a reference, with the part of the string to change.
fn format_hint(typed: &str) -> String {
    if typed.ends_with(['\r', '\n']) {
        return "remove the line break at its end: is the file or variable from Windows?".to_owned();
    }
    if let Some(name) = typed.strip_suffix(':').filter(|name| name.parse::<Reference>().is_ok()) {
        return format!("write a tag after `{name}:`: is the variable for the tag set?");
    }
    if let Some((name, tag)) = typed.rsplit_once(':') {
        let without = format!("{name}:{}", tag.replace('+', "-"));
        if without.parse::<Reference>().is_ok() {
            return format!("write `-` instead of `+`: `{without}`");
        }
    }
    if let Some((first, _)) = typed.split_once('/')
        && looks_like_domain(first)
        && first.contains('_')
    {
        return format!("use another host name for {first}: docker accepts no underscore in a host name");
    }
    general_hint(typed)
}

fn general_hint(typed: &str) -> String {
    format!("write `{typed}` in the form `registry.example.com/team/app:tag`, without a scheme")
}

impl Reference {
    /// Returns the `host[:port]` of the registry; `docker.io` for Docker Hub.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Returns whether the host name has an underscore. Such a reference is valid for docker, but not for the URL parser
    /// of docker's classic store (moby#34975).
    pub fn has_underscore_in_host(&self) -> bool {
        self.domain.contains('_')
    }

    /// Returns the path, including the `library/` that docker adds for Docker Hub.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the tag that a push uses: the tag of this reference, or `latest` if the reference has none.
    pub fn tag_or_latest(&self) -> &str {
        self.tag.as_deref().unwrap_or("latest")
    }

    /// Returns this reference with `127.0.0.1` instead of `localhost`, or the reverse. `None` for other hosts.
    pub fn under_loopback_name(&self) -> Option<Self> {
        let (host, port) = self.domain.split_once(':').unwrap_or((&self.domain, ""));
        let other = match host {
            "localhost" => "127.0.0.1",
            "127.0.0.1" => "localhost",
            _ => return None,
        };
        let domain = if port.is_empty() { other.to_owned() } else { format!("{other}:{port}") };
        Some(Self { domain, ..self.clone() })
    }

    /// Returns this reference with an alternative host name of the same registry. Host names are not
    /// case-sensitive, so each change of letter case gives an alternative.
    ///
    /// * `nth`: the number of the alternative, counted from 1. Returns `None` if the host name has fewer
    ///   alternatives.
    pub fn under_another_name(&self, nth: u32) -> Option<Self> {
        let domain = match self.domain.as_str() {
            // Use the host of Docker Hub's API, since docker replaces the other name of Docker Hub, `index.docker.io`,
            // with `docker.io`.
            HUB => "registry-1.docker.io".to_owned(),
            domain => match domain.split_once(':') {
                Some(("127.0.0.1", port)) => format!("localhost:{port}"),
                None if domain == "127.0.0.1" => "localhost".to_owned(),
                _ => domain.to_owned(),
            },
        };
        let is_new = domain != self.domain;
        // Each bit of `letters` changes the case of one letter. If `domain` already differs from
        // `self.domain`, the first alternative needs no change of case.
        let mut letters = nth - u32::from(is_new);
        let domain: String = domain
            .chars()
            .map(|letter| {
                let is_set = letter.is_ascii_alphabetic() && letters & 1 == 1;
                letters >>= u32::from(letter.is_ascii_alphabetic());
                match letter {
                    letter if !is_set => letter,
                    letter if letter.is_ascii_lowercase() => letter.to_ascii_uppercase(),
                    letter => letter.to_ascii_lowercase(),
                }
            })
            .collect();
        (domain != self.domain && letters == 0).then(|| Self { domain, ..self.clone() })
    }

    /// Returns a reference to the same repository with another tag.
    #[must_use]
    pub fn with_tag(&self, tag: &str) -> Self {
        Self { tag: Some(tag.to_owned()), ..self.clone() }
    }

    /// Returns the canonical reference without the tag: `docker.io/library/app`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// Returns the familiar path: `app` for Docker Hub's `library/app`.
    pub fn familiar_path(&self) -> &str {
        match self.path.strip_prefix(OFFICIAL) {
            Some(name) if self.domain == HUB && !name.contains('/') => name,
            _ => &self.path,
        }
    }

    /// Returns the canonical reference with the tag: `docker.io/library/app:latest`.
    pub fn canonical(&self) -> String {
        format!("{}:{}", self.repository(), self.tag_or_latest())
    }

    /// Returns the familiar repository: `app` for `docker.io/library/app`. Unlike docker, keeps `docker.io`
    /// if the path begins like a domain: `docker.io/a.b/app`.
    pub fn familiar_repository(&self) -> String {
        if self.domain != HUB || has_registry(&self.path) {
            return self.repository();
        }
        self.familiar_path().to_owned()
    }

    /// Returns the familiar reference with the tag: `app:latest`.
    pub fn familiar(&self) -> String {
        format!("{}:{}", self.familiar_repository(), self.tag_or_latest())
    }

    /// Returns the last component of the path, and the tag.
    pub fn name_and_tag(&self) -> (&str, &str) {
        (self.path.rsplit('/').next().unwrap_or(&self.path), self.tag_or_latest())
    }

    /// Returns the key under which docker stores credentials for the registry: the domain, or a historical
    /// URL for Docker Hub. Engines require the same value in the field `serveraddress` of the credentials.
    pub fn credentials_key(&self) -> &str {
        credentials_key(&self.domain)
    }
}

/// Returns the key under which docker stores credentials for the registry at a domain.
pub fn credentials_key(domain: &str) -> &str {
    if domain == HUB { HUB_CREDENTIALS_KEY } else { domain }
}

/// Returns the domain of a registry that the user typed as `host[:port]` or as a URL, as for `docker login`.
/// Returns `None` if no reference can have this domain.
pub fn registry_domain(typed: &str) -> Option<String> {
    let rest = ["https://", "http://"].iter().find_map(|scheme| typed.strip_prefix(scheme)).unwrap_or(typed);
    let host = rest.split('/').next().unwrap_or_default();
    let reference: Reference = format!("{host}/x").parse().ok()?;
    // If the parsed domain differs from `host`, the parser read `host` as a path on Docker Hub.
    let is_host = reference.domain == host || [HUB, LEGACY_HUB].contains(&host);
    let port = host.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.contains(']'));
    let is_reachable = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    (is_host && is_reachable).then_some(reference.domain)
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        match &self.tag {
            Some(tag) => write!(f, ":{tag}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(input: &str) -> Result<Self, ReferenceError> {
        if input.len() == 64 && input.bytes().all(is_lower_hex) {
            return Err(ReferenceError::Identifier { name: input.to_owned() });
        }
        let (domain, rest) = split_domain(input);
        // Like docker, check for upper case first, in everything between the domain and the next colon, even if
        // this text is not a valid path.
        let before_colon = rest.split(':').next().unwrap_or_default();
        if before_colon.to_lowercase() != before_colon {
            return Err(ReferenceError::Uppercase { repository: before_colon.to_owned() });
        }
        let (name, digest) = match rest.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (rest.as_str(), None),
        };
        let (path, tag) = match name.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (name, None),
        };
        // A domain cannot have an underscore, so docker parses `exa_mple.com/app` as a path without a domain.
        // Engines with the containerd store push the image to the host `exa_mple.com` nevertheless (measured
        // with docker 28.5). This parser accepts the domain, so that the plugin finds the credentials for this host.
        let domain_fits = domain.len() <= MAX_DOMAIN && (is_domain(domain) || is_path_component(domain));
        let valid = domain_fits && is_path(path) && tag.is_none_or(is_tag);
        if !valid || digest.is_some_and(|digest| !has_digest_shape(digest)) {
            return Err(ReferenceError::Format);
        }
        if path.len() > MAX_PATH {
            return Err(ReferenceError::TooLong);
        }
        if let Some(digest) = digest {
            check_digest(digest)?;
            return Err(ReferenceError::Digest);
        }
        Ok(Self { domain: domain.to_owned(), path: path.to_owned(), tag: tag.map(str::to_owned) })
    }
}

/// Splits a reference into the domain and the rest. Adds docker's defaults, `docker.io` and `library/`, if
/// they are missing.
///
/// A reference without a slash has no domain: `localhost:5000` is the repository `localhost` on Docker Hub,
/// with the tag `5000`.
fn split_domain(input: &str) -> (&str, String) {
    let (domain, rest) = match input.split_once('/') {
        Some((LEGACY_HUB, rest)) => (HUB, rest),
        Some((first, rest)) if looks_like_domain(first) => (first, rest),
        _ => (HUB, input),
    };
    let official = domain == HUB && !rest.contains('/');
    let rest = if official { format!("{OFFICIAL}{rest}") } else { rest.to_owned() };
    (domain, rest)
}

/// Returns whether a reference contains a domain. `team/app` contains no domain, and implies Docker Hub.
pub fn has_registry(name: &str) -> bool {
    name.split_once('/').is_some_and(|(first, _)| looks_like_domain(first))
}

/// Returns whether the first component of a reference is a domain: `localhost`, or a string with a dot, colon
/// or capital letter. A namespace on Docker Hub cannot have these characters.
fn looks_like_domain(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.to_lowercase() != first
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rfind(':') {
        // The last colon of `[::1]` belongs to the address, and does not begin a port.
        Some(at) if !domain.ends_with(']') => (&domain[..at], Some(&domain[at + 1..])),
        _ => (domain, None),
    };
    let host_fits = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(ipv6) => !ipv6.is_empty() && ipv6.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'),
        None => host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        }),
    };
    host_fits && port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
}

/// Returns whether a string is a valid path of a repository.
pub fn is_path(path: &str) -> bool {
    path.split('/').all(is_path_component)
}

/// Returns whether a string is a valid component of a path: `[a-z0-9]+`, joined by `.`, `_`, `__` or any
/// number of `-`.
fn is_path_component(component: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends_fit = bytes.first().is_some_and(|b| is_word(*b)) && bytes.last().is_some_and(|b| is_word(*b));
    ends_fit
        && component
            .split(|c: char| c.is_ascii() && is_word(c as u8))
            .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|b| b == b'-'))
}

/// Returns whether a string is a valid tag: `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`.
pub fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

/// Returns whether a string has the form `algorithm:hex`. The algorithm consists of words of letters and
/// digits, joined by `+ . _ -`; `hex` has at least 32 digits.
fn has_digest_shape(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else {
        return false;
    };
    let algorithm_fits = algorithm.split(['+', '.', '_', '-']).all(|part| {
        part.starts_with(|c: char| c.is_ascii_alphabetic()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
    });
    algorithm_fits && hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

fn check_digest(digest: &str) -> Result<(), ReferenceError> {
    let (algorithm, hex) = digest.split_once(':').ok_or(ReferenceError::Format)?;
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err(ReferenceError::DigestAlgorithm),
    };
    if hex.len() != length {
        return Err(ReferenceError::DigestLength);
    }
    if !hex.bytes().all(is_lower_hex) {
        return Err(ReferenceError::DigestFormat);
    }
    Ok(())
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// Compares two tags as versions: numbers by value, and a pre-release before its release (`1.2.0-rc1` before
/// `1.2.0`). A tag with another suffix, such as `-alpine`, comes after the release.
///
/// Source: Semantic Versioning 2.0, section 11, which however counts `-alpine` as a pre-release.
pub fn compare_tags(a: &str, b: &str) -> Ordering {
    /// Words at the start of a suffix that mark a pre-release.
    const PRE_RELEASES: [&str; 10] =
        ["alpha", "beta", "canary", "dev", "nightly", "pre", "preview", "rc", "snapshot", "test"];
    /// Returns the tag without its suffix, and whether the tag is a pre-release.
    fn release(tag: &str) -> (&str, bool) {
        let (release, suffix) = tag.split_once('-').unwrap_or((tag, ""));
        let word = suffix.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
        let is_version = release.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit());
        (release, is_version && PRE_RELEASES.contains(&word.to_ascii_lowercase().as_str()))
    }
    let (a_release, a_is_pre) = release(a);
    let (b_release, b_is_pre) = release(b);
    alphanumeric_sort::compare_str(a_release, b_release)
        .then_with(|| b_is_pre.cmp(&a_is_pre))
        .then_with(|| alphanumeric_sort::compare_str(a, b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn finds_other_names_of_a_registry() {
        let table = [
            // reference, nth, expected reference
            ("localhost:5000/app:1", 1, Some("Localhost:5000/app:1")),
            ("localhost:5000/app:1", 3, Some("LOcalhost:5000/app:1")),
            ("Registry.example.com/a/b", 1, Some("registry.example.com/a/b:latest")),
            ("127.0.0.1:5000/app:1", 1, Some("localhost:5000/app:1")),
            ("127.0.0.1:5000/app:1", 2, Some("Localhost:5000/app:1")),
            ("app:1", 1, Some("registry-1.docker.io/library/app:1")),
            ("app:1", 2, Some("Registry-1.docker.io/library/app:1")),
            ("10.0.0.5:5000/app:1", 1, None),
            ("127.0.0.10:5000/app:1", 1, None),
            ("127.0.0.1.nip.io:5000/app:1", 1, Some("127.0.0.1.Nip.io:5000/app:1")),
            ("a.b/app:1", 3, Some("A.B/app:1")),
            ("a.b/app:1", 4, None),
        ];
        for (text, nth, want) in table {
            let other = text.parse::<Reference>().unwrap().under_another_name(nth);
            assert_eq!(other.map(|other| other.familiar()).as_deref(), want, "{text} {nth}");
        }
    }

    #[test]
    fn parses_typed_registries() {
        let table = [
            ("localhost:5000", Some("localhost:5000")),
            ("registry.example.com", Some("registry.example.com")),
            ("https://registry.example.com/v2/", Some("registry.example.com")),
            ("http://[::1]:5000", Some("[::1]:5000")),
            ("localhost", Some("localhost")),
            ("docker.io", Some(HUB)),
            (HUB_CREDENTIALS_KEY, Some(HUB)),
            ("localhost:99999", None),
            ("localhost:0", None),
            ("https://me:pw@registry.example.com", None),
            ("team", None),
            ("ftp://registry.example.com", None),
            ("a b.example.com", None),
            ("", None),
        ];
        for (typed, want) in table {
            assert_eq!(registry_domain(typed).as_deref(), want, "{typed}");
        }
    }

    #[test]
    fn splits_domain_path_and_tag() {
        let table = [
            // input, expected domain, expected path, expected tag, expected familiar reference
            ("app", "docker.io", "library/app", None, "app:latest"),
            ("app:1", "docker.io", "library/app", Some("1"), "app:1"),
            ("docker.io/app", "docker.io", "library/app", None, "app:latest"),
            ("index.docker.io/app", "docker.io", "library/app", None, "app:latest"),
            ("docker.io/library/app", "docker.io", "library/app", None, "app:latest"),
            ("team/app:1.2", "docker.io", "team/app", Some("1.2"), "team/app:1.2"),
            ("library/a/b", "docker.io", "library/a/b", None, "library/a/b:latest"),
            ("localhost:5000", "docker.io", "library/localhost", Some("5000"), "localhost:5000"),
            ("localhost/app", "localhost", "app", None, "localhost/app:latest"),
            ("LOCALHOST:5000/x", "LOCALHOST:5000", "x", None, "LOCALHOST:5000/x:latest"),
            ("127.0.0.1/a", "127.0.0.1", "a", None, "127.0.0.1/a:latest"),
            ("[::1]:5000/app:a", "[::1]:5000", "app", Some("a"), "[::1]:5000/app:a"),
            ("[2001:db8::1]/app", "[2001:db8::1]", "app", None, "[2001:db8::1]/app:latest"),
            ("exa_mple.com/app", "exa_mple.com", "app", None, "exa_mple.com/app:latest"),
            ("Foo/bar", "Foo", "bar", None, "Foo/bar:latest"),
            ("registry-1.docker.io/x", "registry-1.docker.io", "x", None, "registry-1.docker.io/x:latest"),
            ("a--b", "docker.io", "library/a--b", None, "a--b:latest"),
            ("a__b", "docker.io", "library/a__b", None, "a__b:latest"),
            ("a-----b.c_d", "docker.io", "library/a-----b.c_d", None, "a-----b.c_d:latest"),
            ("app:_A-.9", "docker.io", "library/app", Some("_A-.9"), "app:_A-.9"),
            (
                "x-y.example.com:443/a/b/c",
                "x-y.example.com:443",
                "a/b/c",
                None,
                "x-y.example.com:443/a/b/c:latest",
            ),
        ];
        for (input, domain, path, tag, familiar) in table {
            let reference: Reference = input.parse().unwrap_or_else(|e| panic!("{input}: {e}"));
            let got = (reference.domain(), reference.path(), reference.tag());
            assert_eq!(got, (domain, path, tag), "{input}");
            assert_eq!(reference.familiar(), familiar, "{input}");
        }
    }

    #[test]
    fn refuses_invalid_references_with_dockers_messages() {
        let format = "invalid reference format";
        let digest = "cannot push a digest reference";
        let hex64 = &DIGEST[7..];
        let table = [
            ("", format),
            (" app", format),
            ("app ", format),
            ("app:", format),
            (":1", format),
            ("a___b", format),
            ("a._b", format),
            ("-a", format),
            ("a-", format),
            ("a//b", format),
            ("ex..com/a", format),
            ("-ex.com/a", format),
            ("http://f/b", format),
            ("https://x.example.com/y", format),
            ("::1/app", format),
            ("[]:5000/app", format),
            ("[fe80::1%25eth0]:5000/app", format),
            ("localhost:5000/", format),
            ("localhost:/app", format),
            ("localhost:abc/app", format),
            ("exa_mple.com:5000/app", format),
            ("app:ü", format),
            ("äpp", format),
            ("app:1:2", format),
            ("app:.1", format),
            ("app@sha256:abc", format),
            ("app@", format),
            ("APP:1", "invalid reference format: repository name (library/APP) must be lowercase"),
            (
                "host.example.com/Team/app",
                "invalid reference format: repository name (Team/app) must be lowercase",
            ),
            (
                "app@SHA256:1",
                "invalid reference format: repository name (library/app@SHA256) must be lowercase",
            ),
            (&format!("app@{DIGEST}"), digest),
            (&format!("app:1@{DIGEST}"), digest),
            (&format!("localhost:5000/app@{DIGEST}"), digest),
            (&format!("app@md5:{hex64}"), "unsupported digest algorithm"),
            (&format!("app@sha512:{hex64}"), "invalid checksum digest length"),
            (&format!("app@sha256:{}", hex64.to_uppercase()), "invalid checksum digest format"),
            (
                hex64,
                &format!("invalid repository name ({hex64}), cannot specify 64-byte hexadecimal strings"),
            ),
            (&"a".repeat(256), "repository name must not be more than 255 characters"),
            (&"a".repeat(248), "repository name must not be more than 255 characters"),
            (&format!("app:{}", "t".repeat(129)), format),
            (&format!("{}.example.com/app", "a".repeat(70_000)), format),
        ];
        for (input, want) in table {
            let got = input.parse::<Reference>().map(|r| r.to_string());
            assert_eq!(got.map_err(|e| e.to_string()), Err(want.to_owned()), "{input}");
        }
    }

    #[test]
    fn length_limit_excludes_the_domain() {
        let path = "a".repeat(255);
        assert!(format!("registry.example.com:5000/{path}").parse::<Reference>().is_ok());
        assert!("a".repeat(247).parse::<Reference>().is_ok(), "the limit includes library/");
        assert!(format!("app:{}", "t".repeat(128)).parse::<Reference>().is_ok());
    }

    #[test]
    fn docker_hub_has_its_own_credentials_key() {
        let key = |input: &str| input.parse::<Reference>().unwrap().credentials_key().to_owned();
        assert_eq!(key("bob/x"), "https://index.docker.io/v1/");
        assert_eq!(key("index.docker.io/bob/x"), "https://index.docker.io/v1/");
        assert_eq!(key("localhost:5000/x"), "localhost:5000");
        assert_eq!(key("registry-1.docker.io/x"), "registry-1.docker.io");
    }

    proptest! {
        #[test]
        fn canonical_and_familiar_forms_name_the_same_repository(
            domain in prop_oneof![
                "[a-z0-9]{1,8}(-[a-z0-9]{1,3})?\\.[a-z]{2,3}(:[0-9]{1,5})?",
                "\\[[0-9a-f]{0,4}:[0-9a-f:]{1,12}\\](:[0-9]{1,5})?",
                Just("docker.io".to_owned()),
            ],
            path in "[a-z0-9]{1,9}((\\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}(/[a-z0-9]{1,9}){0,3}",
            tag in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
        ) {
            let suffix = tag.as_ref().map(|t| format!(":{t}")).unwrap_or_default();
            let input = format!("{domain}/{path}{suffix}");
            let reference: Reference = input.parse().unwrap();
            prop_assert_eq!(reference.domain(), &domain);
            prop_assert_eq!(reference.tag(), tag.as_deref());
            prop_assert_eq!(&reference.to_string().parse::<Reference>().unwrap(), &reference);
            let familiar: Reference = reference.familiar().parse().unwrap();
            prop_assert_eq!(familiar.repository(), reference.repository());
        }

        #[test]
        fn parses_its_own_output(input in "\\PC{0,80}") {
            if let Ok(reference) = input.parse::<Reference>() {
                let again: Reference = reference.to_string().parse().unwrap();
                prop_assert_eq!(again, reference);
            }
        }
    }

    #[test]
    fn sorts_tags_by_version() {
        let sorted = [
            "1-alpine",
            "1.2.0-beta.2",
            "1.2.0-rc1",
            "1.2.0-rc10",
            "1.2.0",
            "1.2.0-alpine",
            "1.2.0-rcs",
            "1.9",
            "1.10-dev",
            "1.10",
            "latest",
            "latest-dev",
            "v2-RC1",
            "v2",
        ];
        let mut tags = sorted;
        tags.reverse();
        tags.sort_by(|a, b| compare_tags(a, b));
        assert_eq!(tags, sorted);
    }
}
