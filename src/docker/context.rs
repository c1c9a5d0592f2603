//! Determines the engine's endpoint and TLS options from flags, variables, contexts and defaults.
//!
//! Source: docker/cli `cli/command/cli.go` (`resolveContextName`), `cli/flags/options.go`, `opts/hosts.go`,
//! `cli/context/store` and `cli/connhelper`. The order of precedence was compared with the docker CLI itself,
//! because Docker's documentation gives `DOCKER_CONTEXT` and `DOCKER_HOST` in the wrong order.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{env, fmt, io};

use hyper::http::uri::PathAndQuery;
use percent_encoding::percent_decode_str;
use serde_json::Value;

use crate::docker::config::{Config, ConfigError, directory, field};
use crate::docker::file::read_file;
use crate::failure::Class;
use crate::net::is_loopback;
use crate::net::tls::{Identity, Pem, Tls};
use crate::oci::sha256;
use crate::secret::Secret;

const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
const DEFAULT_PIPE: &str = "//./pipe/docker_engine";
const DEFAULT_TCP_HOST: &str = "localhost";
const DEFAULT_TCP_PORT: u16 = 2375;
/// docker's default endpoint if the user requests TLS but gives no host.
const DEFAULT_TLS_HOST: &str = "tcp://localhost:2376";
const DEFAULT_CONTEXT: &str = "default";
/// The longest accepted base path of an endpoint, in bytes. The URL must have room for an image name after
/// the base path.
const MAX_BASE: usize = 4096;

/// An engine's address and TLS options, and the setting that selected the engine.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub address: Address,
    pub tls: Option<Tls>,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    /// A TCP address. `host` has no brackets around an IPv6 address. `base` is the prefix of every API path.
    Tcp {
        host: String,
        port: u16,
        base: String,
    },
    NamedPipe(String),
    Ssh(SshHost),
    /// The plugin runs `docker ARGUMENTS system dial-stdio`, and docker connects to the engine.
    ThroughDocker {
        arguments: Vec<OsString>,
    },
}

/// The address of an engine behind SSH: `ssh://[user@]host[:port][/socket]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SshHost {
    pub user: Option<String>,
    pub host: String,
    pub port: Option<String>,
    /// The path of the engine's socket on the SSH host; `None` for the default path.
    pub socket: Option<String>,
}

/// The setting that selected an endpoint, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The option `-H` or `--host`.
    Flag,
    /// `DOCKER_HOST`
    Variable,
    Context {
        name: String,
        named_by: NamedBy,
    },
    Default,
    /// `DOCKER_CLI_PLUGIN_USE_DIAL_STDIO` is set, so docker selects the endpoint.
    Docker,
}

/// The setting that contains the name of a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedBy {
    /// The option `-c` or `--context`.
    Flag,
    /// `DOCKER_CONTEXT`
    Variable,
    /// `currentContext` of config.json, which `docker context use` writes.
    Current,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.address, self.origin)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { host, port, base } => write!(f, "tcp://{}:{port}{base}", bracketed(host)),
            Self::NamedPipe(path) => write!(f, "npipe://{path}"),
            Self::Ssh(SshHost { user, host, port, socket }) => {
                f.write_str("ssh://")?;
                if let Some(user) = user {
                    write!(f, "{user}@")?;
                }
                f.write_str(&bracketed(host))?;
                if let Some(port) = port {
                    write!(f, ":{port}")?;
                }
                f.write_str(socket.as_deref().unwrap_or_default())
            }
            Self::ThroughDocker { .. } => f.write_str("`docker system dial-stdio`"),
        }
    }
}

impl Address {
    /// Returns `host:port` of a TCP address, as written in a URL; `None` for any other address.
    pub fn authority(&self) -> Option<String> {
        match self {
            Self::Tcp { host, port, .. } => Some(format!("{}:{port}", bracketed(host))),
            _ => None,
        }
    }

    /// Returns whether the engine's address is on this machine: a local socket, a named pipe or a loopback
    /// address.
    pub fn is_here(&self) -> bool {
        match self {
            Self::Unix(_) | Self::NamedPipe(_) => true,
            Self::Tcp { host, .. } => is_loopback(host),
            Self::Ssh(_) | Self::ThroughDocker { .. } => false,
        }
    }
}

/// Puts an IPv6 address in brackets, as in a URL (RFC 3986, 3.2.2).
fn bracketed(host: &str) -> Cow<'_, str> {
    if host.contains(':') { Cow::Owned(format!("[{host}]")) } else { Cow::Borrowed(host) }
}

/// Returns an engine's URL for messages, with `…` instead of the user and password before the `@`.
pub fn without_user(host: &str) -> String {
    match host.rsplit_once('@') {
        Some((before, rest)) => {
            let scheme = before.split_once("://").map(|(scheme, _)| format!("{scheme}://"));
            format!("{}…@{rest}", scheme.unwrap_or_default())
        }
        None => host.to_owned(),
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("from --host"),
            Self::Variable => f.write_str("from DOCKER_HOST"),
            Self::Context { name, named_by } => write!(f, "from context `{name}`, {named_by}"),
            Self::Default => f.write_str("the default"),
            Self::Docker => f.write_str("required by DOCKER_CLI_PLUGIN_USE_DIAL_STDIO"),
        }
    }
}

impl fmt::Display for NamedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag => "named by --context",
            Self::Variable => "named by DOCKER_CONTEXT",
            Self::Current => "the current context",
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    #[error("conflicting options: cannot specify both --host and --context")]
    Conflict,
    #[error("context `{name}` ({named_by}) not found in `{}`", path.display())]
    NotFound {
        name: String,
        named_by: NamedBy,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("context `{name}` ({named_by}) cannot be read: `{}`", path.display())]
    Unreadable {
        name: String,
        named_by: NamedBy,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("context `{name}` ({named_by}) has no docker endpoint in `{}`", path.display())]
    NoEndpoint { name: String, named_by: NamedBy, path: PathBuf },
    #[error("invalid bind address format: {host} ({origin})")]
    Format { host: String, origin: Origin },
    #[error("ssh host connection is not valid: invalid SSH URL: {reason} ({origin})")]
    Ssh { reason: String, origin: Origin },
    /// An address to which the plugin cannot connect, such as `fd://`, a socket that systemd passes to an
    /// engine. The docker CLI accepts `fd://` and then crashes.
    #[error("`{host}` ({origin}) is not an address that a client can connect to")]
    NoAddress { host: String, origin: Origin },
    #[error("cannot read `{}`, needed for TLS to the engine ({origin})", path.display())]
    TlsFile {
        path: PathBuf,
        origin: Origin,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl ContextError {
    /// Returns a hint that names the command to run or the setting to change.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotFound { named_by: NamedBy::Variable, .. } => {
                "run `docker context ls`, then change or unset DOCKER_CONTEXT"
            }
            Self::NotFound { named_by: NamedBy::Flag, .. } => "run `docker context ls` to list contexts",
            Self::NotFound { named_by: NamedBy::Current, .. } => {
                "run `docker context ls`, then choose another with `docker context use`"
            }
            Self::Unreadable { name, .. } | Self::NoEndpoint { name, .. } => {
                return Some(format!(
                    "recreate it: `docker context rm {name}`, then `docker context create`"
                ));
            }
            Self::Format { .. } | Self::NoAddress { .. } => {
                "write it as unix://PATH, tcp://HOST:PORT or ssh://USER@HOST"
            }
            Self::Ssh { .. } => "write it as ssh://[USER@]HOST[:PORT][/SOCKET]",
            Self::TlsFile { origin: Origin::Context { name, .. }, .. } => {
                return Some(format!(
                    "update the context's certificates: `docker context update {name} --docker …`"
                ));
            }
            Self::TlsFile { .. } => {
                "pass --tlscacert, --tlscert and --tlskey, or set DOCKER_CERT_PATH; for an engine without TLS, unset DOCKER_TLS and DOCKER_TLS_VERIFY"
            }
            Self::Conflict => "remove one of them",
            Self::Config(_) => return None,
        };
        Some(hint.to_owned())
    }

    pub fn class(&self) -> Class {
        Class::Engine
    }

    /// Returns whether the user must correct the command line or a variable, rather than a file.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Conflict | Self::Format { .. } | Self::Ssh { .. } | Self::NoAddress { .. })
    }
}

/// The flags and variables that select the engine, before the plugin reads any context or TLS file.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// `--host`
    pub host: Option<String>,
    /// `--context`
    pub context: Option<String>,
    /// `DOCKER_HOST`; docker treats an empty value as unset.
    pub host_variable: Option<String>,
    /// `DOCKER_CONTEXT`
    pub context_variable: Option<String>,
    pub tls: TlsChoice,
    /// Whether `DOCKER_CLI_PLUGIN_USE_DIAL_STDIO` is set.
    pub through_docker: bool,
    /// docker's options on the command line, which the plugin repeats when the plugin runs docker.
    pub docker_arguments: Vec<OsString>,
}

/// The flags and variables for TLS to the engine. They do not apply to a stored context, which has TLS
/// options of its own.
#[derive(Clone, Debug, Default)]
pub struct TlsChoice {
    /// The value of `--tls`, if given.
    pub on: Option<bool>,
    /// The value of `--tlsverify`, if given.
    pub verify: Option<bool>,
    /// `--tlscacert`
    pub authorities: Option<PathBuf>,
    /// `--tlscert`
    pub certificate: Option<PathBuf>,
    /// `--tlskey`
    pub key: Option<PathBuf>,
    /// Whether `DOCKER_TLS` is set to a value that is not empty, even `0`.
    pub on_variable: bool,
    /// Whether `DOCKER_TLS_VERIFY` is set to a value that is not empty.
    pub verify_variable: bool,
    /// `DOCKER_CERT_PATH`
    pub directory: Option<PathBuf>,
}

impl Choice {
    /// Adds the environment variables of this process to the choice. Replaces invalid UTF-8 in values, so
    /// that the plugin can print a value in an error.
    #[must_use]
    pub fn with_environment(self) -> Self {
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
        let text = |name| variable(name).map(|value| value.to_string_lossy().into_owned());
        Self {
            // docker treats an empty `--context` as unset. An empty `--host` means the default host, even if
            // DOCKER_HOST is set.
            context: self.context.filter(|name| !name.is_empty()),
            host_variable: text("DOCKER_HOST"),
            context_variable: text("DOCKER_CONTEXT"),
            tls: TlsChoice {
                on_variable: variable("DOCKER_TLS").is_some(),
                verify_variable: variable("DOCKER_TLS_VERIFY").is_some(),
                directory: variable("DOCKER_CERT_PATH").map(PathBuf::from),
                ..self.tls
            },
            through_docker: variable("DOCKER_CLI_PLUGIN_USE_DIAL_STDIO").is_some(),
            ..self
        }
    }
}

impl Endpoint {
    /// Returns the endpoint that docker would use. Takes the first of these settings: `--context`, `--host`,
    /// `DOCKER_HOST`, `DOCKER_CONTEXT`, `currentContext`, docker's default. For the context name
    /// `default`, uses `DOCKER_HOST` or docker's default, not a stored context.
    ///
    /// # Errors
    /// The flags conflict, the context is missing or unreadable, the address is invalid, or a TLS file cannot
    /// be read.
    pub fn resolve(choice: &Choice, config: &Config) -> Result<Self, ContextError> {
        if choice.host.is_some() && choice.context.is_some() {
            return Err(ContextError::Conflict);
        }
        if choice.through_docker {
            let address = Address::ThroughDocker { arguments: choice.docker_arguments.clone() };
            return Ok(Self::new(address, None, Origin::Docker));
        }
        let named = match (&choice.context, &choice.host, &choice.host_variable) {
            (Some(name), _, _) => Some((name, NamedBy::Flag)),
            (None, None, None) => {
                let variable = choice.context_variable.as_ref().map(|name| (name, NamedBy::Variable));
                variable.or(config.current_context.as_ref().map(|name| (name, NamedBy::Current)))
            }
            _ => None,
        };
        if let Some((name, named_by)) = named.filter(|(name, _)| *name != DEFAULT_CONTEXT) {
            let directory = config.path.parent().unwrap_or(Path::new(".")).join("contexts");
            let context = StoredContext::read(&directory, name, named_by)?;
            return context.endpoint(choice);
        }
        let (host, origin) = match (&choice.host, &choice.host_variable) {
            (Some(host), _) => (host.trim(), Origin::Flag),
            (None, Some(host)) => (host.trim(), Origin::Variable),
            (None, None) => ("", Origin::Default),
        };
        let address = match host {
            "" if choice.tls.is_on() => Address::from_option(DEFAULT_TLS_HOST, &origin),
            host => Address::from_option(host, &origin),
        }?;
        let tls = if choice.tls.is_on() { Some(choice.tls.read(&origin)?) } else { None };
        Ok(Self::new(address, tls, origin))
    }

    /// Returns whether each connection to the engine is slow and may prompt the user, since ssh authenticates
    /// for each connection.
    pub fn is_connect_expensive(&self) -> bool {
        matches!(self.address, Address::Ssh(_) | Address::ThroughDocker { .. })
    }

    /// Creates an endpoint. Drops the TLS options unless the address is TCP.
    fn new(address: Address, tls: Option<Tls>, origin: Origin) -> Self {
        let tls = tls.filter(|_| matches!(address, Address::Tcp { .. }));
        Self { address, tls, origin }
    }
}

impl TlsChoice {
    /// Returns whether the user requests TLS. Even `--tlsverify=false` requests TLS, without verification.
    fn is_on(&self) -> bool {
        self.verify.is_some() || self.verify_variable || self.on.unwrap_or(self.on_variable)
    }

    /// Reads the CA certificate, the client certificate and the client key. The client certificate and key
    /// may be missing if no option names their path. The CA certificate must exist, even if the plugin does
    /// not verify the engine.
    fn read(&self, origin: &Origin) -> Result<Tls, ContextError> {
        // docker computes the default directory of the TLS files before docker reads `--config`. So
        // `--config` does not change that directory.
        let default = |name: &str| {
            let directory = self.directory.clone().map_or_else(|| directory(None), Ok)?;
            Ok::<_, ContextError>(directory.join(name))
        };
        let named_or = |named: &Option<PathBuf>, name| named.clone().map_or_else(|| default(name), Ok);
        let optional = |named: &Option<PathBuf>, name| {
            let path = named_or(named, name)?;
            let is_there = named.is_some() || path.try_exists().unwrap_or(true);
            // An empty path in `--tlscert` or `--tlskey` means that the plugin sends no client certificate.
            if is_there && !path.as_os_str().is_empty() { read_pem(path, origin).map(Some) } else { Ok(None) }
        };
        let authorities =
            Some(named_or(&self.authorities, "ca.pem")?).filter(|path| !path.as_os_str().is_empty());
        let authorities = authorities.map(|path| read_pem(path, origin)).transpose()?;
        let certificate = optional(&self.certificate, "cert.pem")?;
        let key = optional(&self.key, "key.pem")?;
        let identity = certificate.zip(key).map(|(certificate, key)| Identity { certificate, key });
        let skip_verify = !self.verify.unwrap_or(self.verify_variable);
        Ok(Tls { authorities, identity, skip_verify, ..Tls::default() })
    }
}

fn read_pem(path: PathBuf, origin: &Origin) -> Result<Pem, ContextError> {
    match read_file(&path) {
        Ok(bytes) => Ok(Pem { path, text: Secret::new(String::from_utf8_lossy(&bytes).into_owned()) }),
        Err(source) => Err(ContextError::TlsFile { path, origin: origin.clone(), source }),
    }
}

impl Address {
    /// Parses the value of `--host` or `DOCKER_HOST`. An empty value means the default socket or pipe.
    fn from_option(host: &str, origin: &Origin) -> Result<Self, ContextError> {
        match host.split_once("://") {
            None if host.is_empty() => Ok(Self::default_local()),
            // docker reads an address without a scheme as a TCP address.
            None => Self::tcp(host, DEFAULT_TCP_PORT, host, origin),
            Some(("tcp", rest)) => Self::tcp(rest, DEFAULT_TCP_PORT, host, origin),
            Some(_) => Self::local_or_ssh(host, origin).unwrap_or_else(|| Err(no_format(host, origin))),
        }
    }

    /// Parses the address in a stored context. As in docker, the address must have a scheme or be empty. The
    /// default port is 80, or 443 with TLS.
    fn from_context(
        host: &str,
        has_tls: bool,
        choice: &Choice,
        origin: &Origin,
    ) -> Result<Self, ContextError> {
        match host.split_once("://") {
            None if host.is_empty() => Ok(Self::default_local()),
            None => Err(no_format(host, origin)),
            // As in docker, only the TLS options decide whether to use HTTPS, not the scheme.
            Some(("tcp" | "http" | "https", rest)) => {
                Self::tcp(rest, if has_tls { 443 } else { 80 }, host, origin)
            }
            Some(_) => Self::local_or_ssh(host, origin)
                .unwrap_or_else(|| Ok(Self::ThroughDocker { arguments: choice.docker_arguments.clone() })),
        }
    }

    fn default_local() -> Self {
        if cfg!(windows) {
            Self::NamedPipe(DEFAULT_PIPE.to_owned())
        } else {
            Self::Unix(PathBuf::from(DEFAULT_SOCKET))
        }
    }

    /// Parses an address with the scheme `unix`, `npipe`, `fd` or `ssh`. Returns `None` for any other scheme.
    fn local_or_ssh(host: &str, origin: &Origin) -> Option<Result<Self, ContextError>> {
        let (scheme, rest) = host.split_once("://")?;
        Some(match (scheme, rest) {
            ("unix", "") => Ok(Self::Unix(PathBuf::from(DEFAULT_SOCKET))),
            ("unix", path) => Ok(Self::Unix(PathBuf::from(path))),
            ("npipe", "") if cfg!(windows) => Ok(Self::NamedPipe(DEFAULT_PIPE.to_owned())),
            ("npipe", path) if cfg!(windows) => Ok(Self::NamedPipe(path.to_owned())),
            ("npipe" | "fd", _) => {
                Err(ContextError::NoAddress { host: without_user(host), origin: origin.clone() })
            }
            ("ssh", rest) => SshHost::parse(rest)
                .map(Self::Ssh)
                .map_err(|reason| ContextError::Ssh { reason, origin: origin.clone() }),
            _ => return None,
        })
    }

    /// Parses `[host][:port][/base]`, which follows the scheme of a TCP address. `given` is the whole
    /// address, for error messages.
    fn tcp(rest: &str, default_port: u16, given: &str, origin: &Origin) -> Result<Self, ContextError> {
        let format = || no_format(given, origin);
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let (authority, base) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (host, port) = split_port(authority.rsplit('@').next().unwrap_or_default()).ok_or_else(format)?;
        let port = match port {
            None | Some("") => default_port,
            Some(port) => port.parse().map_err(|_| format())?,
        };
        let host = if host.is_empty() { DEFAULT_TCP_HOST } else { host };
        let is_host = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~:%".contains(&b));
        let is_path = base.is_empty() || (base.len() <= MAX_BASE && base.parse::<PathAndQuery>().is_ok());
        if !is_host || !is_path {
            return Err(format());
        }
        Ok(Self::Tcp { host: host.to_owned(), port, base: base.trim_end_matches('/').to_owned() })
    }
}

fn no_format(host: &str, origin: &Origin) -> ContextError {
    ContextError::Format { host: without_user(host), origin: origin.clone() }
}

/// Splits `host:port` into the host, without the brackets of IPv6, and the port. Returns `None` if the input
/// is invalid.
fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        return match rest {
            "" => Some((host, None)),
            rest => Some((host, Some(rest.strip_prefix(':')?))),
        };
    }
    match authority.split_once(':') {
        Some((_, port)) if port.contains(':') => None,
        Some((host, port)) => Some((host, Some(port))),
        None => Some((authority, None)),
    }
}

impl SshHost {
    /// Parses the rest of an SSH URL after `ssh://`. Rejects the same URLs as docker, with docker's error
    /// messages.
    fn parse(rest: &str) -> Result<Self, String> {
        if let Some((_, fragment)) = rest.split_once('#').filter(|(_, fragment)| !fragment.is_empty()) {
            return Err(format!("fragments are not allowed: {fragment:?}"));
        }
        let rest = rest.trim_end_matches('#');
        if let Some((_, query)) = rest.split_once('?').filter(|(_, query)| !query.is_empty()) {
            return Err(format!("query parameters are not allowed: {query:?}"));
        }
        let rest = rest.trim_end_matches('?');
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (user, host) = authority.rsplit_once('@').map_or(("", authority), |(user, host)| (user, host));
        if user.contains(':') {
            return Err("plain-text password is not supported".to_owned());
        }
        let (host, port) = split_port(host).ok_or("cannot parse the host")?;
        if host.is_empty() {
            return Err("hostname is empty".to_owned());
        }
        let port = port.filter(|port| !port.is_empty());
        if port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return Err(format!("invalid port {:?} after host", port.unwrap_or_default()));
        }
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().map(|text| text.into_owned());
        let user = decoded(user).map_err(|_| "invalid user")?;
        let path = decoded(path).map_err(|_| "invalid path")?;
        // Reject control characters, because a shell cannot quote them. docker's own message for this error
        // is longer.
        if [host, &user, &path].iter().any(|text| text.chars().any(char::is_control)) {
            return Err("control characters are not allowed".to_owned());
        }
        Ok(Self {
            user: Some(user).filter(|user| !user.is_empty()),
            host: host.to_owned(),
            port: port.map(str::to_owned),
            socket: Some(path).filter(|path| !matches!(path.as_str(), "" | "/")),
        })
    }
}

/// A context that `docker context create` has written to `meta/<id>/meta.json` and `tls/<id>/docker/*.pem`.
/// `<id>` is the SHA-256 of the context's name.
struct StoredContext {
    host: String,
    skip_verify: bool,
    tls_directory: PathBuf,
    origin: Origin,
}

impl StoredContext {
    fn read(store: &Path, name: &str, named_by: NamedBy) -> Result<Self, ContextError> {
        let id = sha256(name.as_bytes());
        let path = store.join("meta").join(&id).join("meta.json");
        let name = name.to_owned();
        let meta = read_file(&path)
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).map_err(io::Error::from));
        let meta = match meta {
            Ok(meta) => meta,
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                return Err(ContextError::NotFound { name, named_by, path: store.to_owned(), source });
            }
            Err(source) => return Err(ContextError::Unreadable { name, named_by, path, source }),
        };
        // The endpoint name `docker` is case-sensitive, unlike keys such as `Endpoints` and `Host`.
        let docker = field(&meta, "Endpoints").and_then(|endpoints| endpoints.get("docker"));
        let Some(docker) = docker else {
            return Err(ContextError::NoEndpoint { name, named_by, path });
        };
        // `Host` and `SkipTLSVerify` may be missing or `null`, but a value of the wrong type is an error.
        let known = |key: &str| field(docker, key).filter(|value| !value.is_null());
        let (host, skip_verify) = (known("Host"), known("SkipTLSVerify"));
        let is_wrong = host.is_some_and(|host| !host.is_string())
            || skip_verify.is_some_and(|skip| !skip.is_boolean())
            || !docker.is_object();
        if is_wrong {
            let source = io::Error::new(
                io::ErrorKind::InvalidData,
                "its docker endpoint does not have the form that docker writes",
            );
            return Err(ContextError::Unreadable { name, named_by, path, source });
        }
        Ok(Self {
            host: host.and_then(Value::as_str).unwrap_or_default().to_owned(),
            skip_verify: skip_verify.and_then(Value::as_bool).unwrap_or_default(),
            tls_directory: store.join("tls").join(id).join("docker"),
            origin: Origin::Context { name, named_by },
        })
    }

    fn endpoint(self, choice: &Choice) -> Result<Endpoint, ContextError> {
        let file = |name| match read_pem(self.tls_directory.join(name), &self.origin) {
            Err(ContextError::TlsFile { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        };
        let (authorities, certificate, key) = (file("ca.pem")?, file("cert.pem")?, file("key.pem")?);
        let has_files = authorities.is_some() || certificate.is_some() || key.is_some();
        let identity = certificate.zip(key).map(|(certificate, key)| Identity { certificate, key });
        let tls = (has_files || self.skip_verify).then_some(Tls {
            authorities,
            identity,
            skip_verify: self.skip_verify,
            ..Tls::default()
        });
        let address = Address::from_context(&self.host, tls.is_some(), choice, &self.origin)?;
        Ok(Endpoint::new(address, tls, self.origin))
    }
}

/// Returns the name and description of every stored context, for shell completion. Skips contexts that cannot
/// be read.
pub fn stored_contexts(config_directory: &Path) -> Vec<(String, String)> {
    let Ok(entries) = std::fs::read_dir(config_directory.join("contexts/meta")) else { return Vec::new() };
    let read = |path: PathBuf| -> Option<(String, String)> {
        let meta: Value = serde_json::from_slice(&read_file(&path.join("meta.json")).ok()?).ok()?;
        let description = field(&meta, "Metadata").and_then(|metadata| field(metadata, "Description"));
        let name = field(&meta, "Name")?.as_str()?.to_owned();
        Some((name, description.and_then(Value::as_str).unwrap_or_default().to_owned()))
    };
    let mut contexts: Vec<_> = entries.flatten().filter_map(|entry| read(entry.path())).collect();
    contexts.sort();
    contexts
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn own(text: Option<&str>) -> Option<String> {
        text.map(str::to_owned)
    }

    /// Writes a context and its TLS files to `directory`, as docker does.
    fn store(directory: &Path, name: &str, endpoint: &str, tls: &[&str]) {
        let id = sha256(name.as_bytes());
        let meta = directory.join("contexts/meta").join(&id);
        fs::create_dir_all(&meta).unwrap();
        let text = format!(r#"{{"Name":"{name}","Metadata":{{}},"endpoints":{{"docker":{endpoint}}}}}"#);
        fs::write(meta.join("meta.json"), text).unwrap();
        let files = directory.join("contexts/tls").join(&id).join("docker");
        fs::create_dir_all(&files).unwrap();
        for file in tls {
            fs::write(files.join(file), *file).unwrap();
        }
    }

    #[test]
    fn hashes_the_context_name_as_docker_does() {
        // docker stores the context `fk` in a directory whose name is the hash below.
        let id = sha256(b"fk");
        assert_eq!(id, "5bddbdea794b5ac1ebd76c5987e666ec03cc3f70f07276253550ba7bb8876cc0");
    }

    /// The tests in tests/e2e compare the precedence of endpoint settings with the real docker CLI.
    #[test]
    fn chooses_the_endpoint_as_docker_does() {
        let directory = tempfile::tempdir().unwrap();
        store(directory.path(), "fk", r#"{"host":"unix:///fk","SkipTLSVerify":false}"#, &[]);
        let context = |named_by| Origin::Context { name: "fk".to_owned(), named_by };
        let table = [
            // --host, --context, DOCKER_HOST, DOCKER_CONTEXT, currentContext → socket, origin
            ([None, None, None, None, None], DEFAULT_SOCKET, Origin::Default),
            ([Some("unix:///a"), None, Some("unix:///b"), Some("fk"), Some("fk")], "/a", Origin::Flag),
            ([None, None, Some("unix:///b"), Some("fk"), Some("fk")], "/b", Origin::Variable),
            ([None, None, None, Some("fk"), Some("default")], "/fk", context(NamedBy::Variable)),
            ([None, None, None, None, Some("fk")], "/fk", context(NamedBy::Current)),
            ([None, Some("fk"), Some("unix:///b"), None, None], "/fk", context(NamedBy::Flag)),
            ([None, Some("default"), Some("unix:///b"), None, Some("fk")], "/b", Origin::Variable),
            ([None, None, None, Some("default"), Some("fk")], DEFAULT_SOCKET, Origin::Default),
            ([Some("unix://fake.sock"), None, None, None, None], "fake.sock", Origin::Flag),
            ([Some(" unix:// "), None, None, None, None], DEFAULT_SOCKET, Origin::Flag),
            ([Some(""), None, Some("unix:///b"), None, None], DEFAULT_SOCKET, Origin::Flag),
        ];
        for ([host, flag, host_variable, context_variable, current], socket, origin) in table {
            let choice = Choice {
                host: own(host),
                context: own(flag),
                host_variable: own(host_variable),
                context_variable: own(context_variable),
                ..Choice::default()
            };
            let config = Config { current_context: own(current), ..Config::empty(directory.path()) };
            let got = Endpoint::resolve(&choice, &config).unwrap();
            assert_eq!((got.address, got.origin), (Address::Unix(socket.into()), origin), "{choice:?}");
        }
    }

    #[test]
    fn reads_addresses_as_docker_does() {
        let table = [
            // --host, address that docker connects to
            ("tcp://", "tcp://localhost:2375"),
            (":9", "tcp://localhost:9"),
            ("127.0.0.1", "tcp://127.0.0.1:2375"),
            ("127.0.0.1:1", "tcp://127.0.0.1:1"),
            ("tcp://127.0.0.1:", "tcp://127.0.0.1:2375"),
            ("tcp://127.0.0.1:1/base", "tcp://127.0.0.1:1/base"),
            ("tcp://127.0.0.1:1?x=1", "tcp://127.0.0.1:1"),
            ("tcp://u:p@h:1", "tcp://h:1"),
            ("tcp://[::1]:1", "tcp://[::1]:1"),
            ("  tcp://127.0.0.1:1 ", "tcp://127.0.0.1:1"),
            ("/var/run/docker.sock", "tcp://localhost:2375/var/run/docker.sock"),
            ("unix:///a b.sock", "unix:///a b.sock"),
            ("ssh://me@[::1]:22/run/x.sock", "ssh://me@[::1]:22/run/x.sock"),
        ];
        for (host, want) in table {
            let choice = Choice { host: own(Some(host)), ..Choice::default() };
            let got =
                Endpoint::resolve(&choice, &Config::default()).unwrap_or_else(|e| panic!("{host}: {e}"));
            assert_eq!(got.address.to_string(), want, "{host}");
            assert!(got.tls.is_none());
        }
    }

    #[test]
    fn reads_address_and_tls_files_from_the_context() {
        let directory = tempfile::tempdir().unwrap();
        let all = ["ca.pem", "cert.pem", "key.pem"];
        let table: [(&str, &[&str], &str, &str); 9] = [
            // docker endpoint in meta.json, TLS files of the context → address, TLS options
            (r#"{"Host":"tcp://h:1"}"#, &[], "tcp://h:1", "none"),
            (r#"{"Host":"tcp://h"}"#, &[], "tcp://h:80", "none"),
            (r#"{"Host":"https://h"}"#, &all, "tcp://h:443", "ca identity"),
            (r#"{"Host":"tcp://h:1"}"#, &all[..1], "tcp://h:1", "ca"),
            (r#"{"Host":"tcp://h:1"}"#, &all[1..2], "tcp://h:1", ""),
            (r#"{"Host":"tcp://h:1","SKIPTLSVERIFY":true}"#, &[], "tcp://h:1", "unverified"),
            (r#"{"Host":"ssh://h"}"#, &all, "ssh://h", "none"),
            (r#"{"Host":"unix:///h"}"#, &all, "unix:///h", "none"),
            (r#"{"Host":"vsock://1"}"#, &[], "`docker system dial-stdio`", "none"),
        ];
        for (number, (endpoint, files, address, tls)) in table.into_iter().enumerate() {
            let name = format!("c{number}");
            store(directory.path(), &name, endpoint, files);
            let choice = Choice {
                context: Some(name),
                // A stored context must ignore `DOCKER_TLS_VERIFY`.
                tls: TlsChoice { verify_variable: true, ..TlsChoice::default() },
                ..Choice::default()
            };
            let got = Endpoint::resolve(&choice, &Config::empty(directory.path())).unwrap();
            let shown = got.tls.as_ref().map_or("none".to_owned(), |tls| {
                let parts = [
                    tls.authorities.as_ref().map(|_| "ca"),
                    tls.identity.as_ref().map(|_| "identity"),
                    tls.skip_verify.then_some("unverified"),
                ];
                parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
            });
            assert_eq!((got.address.to_string().as_str(), shown.as_str()), (address, tls), "{endpoint}");
        }
    }

    /// Each row of the table was observed with docker 28.5.
    #[test]
    fn enables_and_verifies_tls_as_docker_does() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["ca.pem", "cert.pem", "key.pem"] {
            fs::write(directory.path().join(name), name).unwrap();
        }
        let table = [
            // --tls, --tlsverify, DOCKER_TLS, DOCKER_TLS_VERIFY → verifies the certificate? (`None`: no TLS)
            (None, None, false, false, None),
            (Some(true), None, false, false, Some(false)),
            (Some(false), None, true, false, None),
            (Some(false), None, false, true, Some(true)),
            (None, None, true, false, Some(false)),
            (None, None, false, true, Some(true)),
            (None, Some(true), false, false, Some(true)),
            (None, Some(false), false, false, Some(false)),
            (None, Some(false), false, true, Some(false)),
            (Some(false), Some(false), false, false, Some(false)),
        ];
        for (on, verify, on_variable, verify_variable, want) in table {
            let path = directory.path().to_owned();
            let tls = TlsChoice {
                on,
                verify,
                on_variable,
                verify_variable,
                directory: Some(path),
                ..TlsChoice::default()
            };
            let choice = Choice { tls, ..Choice::default() };
            let got = Endpoint::resolve(&choice, &Config::default()).unwrap();
            assert_eq!(got.tls.as_ref().map(|tls| !tls.skip_verify), want, "{choice:?}");
            let address = if want.is_some() { DEFAULT_TLS_HOST } else { "unix:///var/run/docker.sock" };
            assert_eq!(got.address.to_string(), address, "{choice:?}");
        }
    }

    #[test]
    fn only_default_client_certificates_may_be_missing() {
        let directory = tempfile::tempdir().unwrap();
        let resolve = |tls: TlsChoice| {
            let tls = TlsChoice { on: Some(true), directory: Some(directory.path().to_owned()), ..tls };
            Endpoint::resolve(&Choice { tls, ..Choice::default() }, &Config::default())
        };
        let missing = resolve(TlsChoice::default()).unwrap_err().to_string();
        assert!(missing.contains("ca.pem`, needed for TLS to the engine"), "{missing}");
        fs::write(directory.path().join("ca.pem"), "x").unwrap();
        assert!(resolve(TlsChoice::default()).unwrap().tls.unwrap().identity.is_none());
        let named =
            TlsChoice { certificate: Some(directory.path().join("mine.pem")), ..TlsChoice::default() };
        let missing = resolve(named).unwrap_err().to_string();
        assert!(missing.contains("mine.pem`"), "{missing}");
    }

    #[test]
    fn reports_why_an_endpoint_is_invalid() {
        let directory = tempfile::tempdir().unwrap();
        store(directory.path(), "broken", "{}}", &[]);
        store(directory.path(), "bare", r#"{"Host":"h:1"}"#, &[]);
        let config = Config::empty(directory.path());
        let with = |host: Option<&str>, context: Option<&str>| {
            let choice = Choice { host: own(host), context: own(context), ..Choice::default() };
            Endpoint::resolve(&choice, &config).unwrap_err()
        };
        assert!(matches!(with(Some("unix:///a"), Some("b")), ContextError::Conflict));
        assert!(matches!(with(None, Some("nope")), ContextError::NotFound { .. }));
        assert!(matches!(with(None, Some("broken")), ContextError::Unreadable { .. }));
        assert!(matches!(with(None, Some("bare")), ContextError::Format { .. }));
        for endpoint in [r#"{"Host":5}"#, r#"{"Host":"unix:///x","SkipTLSVerify":"true"}"#, "[]"] {
            store(directory.path(), "wrong", endpoint, &[]);
            assert!(matches!(with(None, Some("wrong")), ContextError::Unreadable { .. }), "{endpoint}");
        }
        for host in ["http://me:s3cret@x", "tcp://me:s3cret@h:x", "me:s3cret@h h", "fd://me:s3cret@x"] {
            let shown = with(Some(host), None).to_string();
            assert!(!shown.contains("s3cret") && shown.contains('@'), "{host}: {shown}");
        }
        let long = format!("tcp://h:1/{}", "x".repeat(5000));
        for host in [
            long.as_str(),
            "tcp://h:1/<x>",
            "http://x",
            "TCP://127.0.0.1:1",
            "tcp://127.0.0.1:x",
            "tcp://h h:1",
            "tcp://h:99999",
            "::1",
        ] {
            assert!(matches!(with(Some(host), None), ContextError::Format { .. }), "{host}");
        }
        for host in ["fd://", "fd://3", "npipe:////./pipe/x"] {
            assert!(matches!(with(Some(host), None), ContextError::NoAddress { .. }), "{host}");
        }
        let table = [
            ("ssh://u:p@h", "plain-text password is not supported"),
            ("ssh://h?x=1", "query parameters are not allowed: \"x=1\""),
            ("ssh://h#f", "fragments are not allowed: \"f\""),
            ("ssh://", "hostname is empty"),
            ("ssh:///x", "hostname is empty"),
            ("ssh://h:x", "invalid port \"x\" after host"),
            ("ssh://m%0ae@h", "control characters are not allowed"),
        ];
        for (host, reason) in table {
            let error = with(Some(host), None).to_string();
            let want = format!("ssh host connection is not valid: invalid SSH URL: {reason} (from --host)");
            assert_eq!(error, want);
        }
    }
}
