//! Which engine: flag, variable, context or default.
//!
//! Source: docker/cli `cli/command/cli.go` (`resolveContextName`) and `cli/context/store`; the
//! order was held against the CLI, whose documentation has two of them the other way round.

use std::fmt;
use std::path::{Path, PathBuf};
use std::{env, io};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::config::{Config, field, read_file};

const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
const DEFAULT_CONTEXT: &str = "default";

/// Where an engine listens, and who said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: Address,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
}

/// What chose the endpoint, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `-H`, `--host`
    Flag,
    /// `DOCKER_HOST`
    Variable,
    Context(String),
    Default,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("from --host"),
            Self::Variable => f.write_str("from DOCKER_HOST"),
            Self::Context(name) => write!(f, "from context `{name}`"),
            Self::Default => f.write_str("the default"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    #[error("conflicting options: cannot specify both --host and --context")]
    Conflict,
    #[error("context `{name}` not found in `{}`", path.display())]
    NotFound {
        name: String,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("context `{name}` has no docker endpoint in `{}`", path.display())]
    NoEndpoint { name: String, path: PathBuf },
    #[error("invalid bind address format: {host}")]
    Format { host: String },
    #[error("cannot reach `{host}` ({origin}): this version speaks to engines over Unix sockets only")]
    Unsupported { host: String, origin: Origin },
}

/// What was said about the engine before any file is read.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// `--host`
    pub host: Option<String>,
    /// `--context`
    pub context: Option<String>,
    /// `DOCKER_HOST`; docker takes an empty one for unset.
    pub host_variable: Option<String>,
    /// `DOCKER_CONTEXT`
    pub context_variable: Option<String>,
}

impl Choice {
    /// The flags given, with the variables of this process. What is not UTF-8 in one is replaced: the
    /// endpoint is then not found, by a name that can be shown.
    pub fn from_environment(host: Option<String>, context: Option<String>) -> Self {
        let variable = |name| {
            env::var_os(name)
                .map(|value| value.to_string_lossy().into_owned())
                .filter(|value| !value.is_empty())
        };
        // docker takes an empty one for unset too: `-H "$UNSET"`.
        let given = |flag: Option<String>| flag.filter(|value| !value.is_empty());
        Self {
            host: given(host),
            context: given(context),
            host_variable: variable("DOCKER_HOST"),
            context_variable: variable("DOCKER_CONTEXT"),
        }
    }
}

impl Endpoint {
    /// The endpoint that docker would use: `--context`, `--host`, `DOCKER_HOST`, `DOCKER_CONTEXT`,
    /// `currentContext`, default. A context named `default` is the choice without contexts.
    ///
    /// # Errors
    /// A context that is not in the store, or an endpoint that this version cannot reach.
    pub fn resolve(choice: &Choice, config: &Config) -> Result<Self, ContextError> {
        if choice.host.is_some() && choice.context.is_some() {
            return Err(ContextError::Conflict);
        }
        let named = match (&choice.context, &choice.host, &choice.host_variable) {
            (Some(name), _, _) => Some(name),
            (None, None, None) => choice.context_variable.as_ref().or(config.current_context.as_ref()),
            _ => None,
        };
        if let Some(name) = named.filter(|name| *name != DEFAULT_CONTEXT) {
            let directory = config.path.parent().unwrap_or(Path::new("."));
            return Self::parse(&stored_host(directory, name)?, Origin::Context(name.clone()));
        }
        match (&choice.host, &choice.host_variable) {
            (Some(host), _) => Self::parse(host, Origin::Flag),
            (None, Some(host)) => Self::parse(host, Origin::Variable),
            (None, None) => Self::parse("unix://", Origin::Default),
        }
    }

    fn parse(host: &str, origin: Origin) -> Result<Self, ContextError> {
        let host = host.trim();
        if let Some(path) = host.strip_prefix("unix://") {
            let path = if path.is_empty() { DEFAULT_SOCKET } else { path };
            return Ok(Self { address: Address::Unix(PathBuf::from(path)), origin });
        }
        let known = ["tcp://", "ssh://", "npipe://", "fd://"].iter().any(|scheme| host.starts_with(scheme));
        // Without a scheme docker reads a TCP address.
        if known || !host.contains("://") {
            return Err(ContextError::Unsupported { host: host.to_owned(), origin });
        }
        Err(ContextError::Format { host: host.to_owned() })
    }
}

/// `Endpoints.docker.Host` of a stored context: `meta/<sha256 of the name>/meta.json`.
fn stored_host(directory: &Path, name: &str) -> Result<String, ContextError> {
    let id: String = Sha256::digest(name).iter().map(|byte| format!("{byte:02x}")).collect();
    let path = directory.join("contexts/meta").join(id).join("meta.json");
    let store = directory.join("contexts");
    let not_found = |source| ContextError::NotFound { name: name.to_owned(), path: store.clone(), source };
    let bytes = read_file(&path).map_err(not_found)?;
    let meta: Value = serde_json::from_slice(&bytes).map_err(|error| not_found(error.into()))?;
    let docker = field(&meta, "Endpoints").and_then(|endpoints| field(endpoints, "docker"));
    let host = docker.and_then(|docker| field(docker, "Host")).and_then(Value::as_str);
    host.map(str::to_owned)
        .ok_or_else(|| ContextError::NoEndpoint { name: name.to_owned(), path: path.clone() })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_choice_is_dockers() {
        let directory = tempfile::tempdir().unwrap();
        // sha256 of "fk", as docker names the folder.
        let id = "5bddbdea794b5ac1ebd76c5987e666ec03cc3f70f07276253550ba7bb8876cc0";
        let meta = directory.path().join("contexts/meta").join(id);
        fs::create_dir_all(&meta).unwrap();
        let text = r#"{"Name":"fk","Metadata":{},"endpoints":{"docker":{"host":"unix:///fk","SkipTLSVerify":false}}}"#;
        fs::write(meta.join("meta.json"), text).unwrap();

        let context = |name: &str| Origin::Context(name.to_owned());
        let table = [
            // --host, --context, DOCKER_HOST, DOCKER_CONTEXT, currentContext → socket, origin
            ([None, None, None, None, None], DEFAULT_SOCKET, Origin::Default),
            ([Some("unix:///a"), None, Some("unix:///b"), Some("fk"), Some("fk")], "/a", Origin::Flag),
            ([None, None, Some("unix:///b"), Some("fk"), Some("fk")], "/b", Origin::Variable),
            ([None, None, None, Some("fk"), Some("default")], "/fk", context("fk")),
            ([None, None, None, None, Some("fk")], "/fk", context("fk")),
            ([None, Some("fk"), Some("unix:///b"), None, None], "/fk", context("fk")),
            ([None, Some("default"), Some("unix:///b"), None, Some("fk")], "/b", Origin::Variable),
            ([None, None, None, Some("default"), Some("fk")], DEFAULT_SOCKET, Origin::Default),
            ([Some("unix://fake.sock"), None, None, None, None], "fake.sock", Origin::Flag),
            ([Some(" unix:// "), None, None, None, None], DEFAULT_SOCKET, Origin::Flag),
        ];
        for ([host, flag, host_variable, context_variable, current], socket, origin) in table {
            let own = |text: Option<&str>| text.map(str::to_owned);
            let choice = Choice {
                host: own(host),
                context: own(flag),
                host_variable: own(host_variable),
                context_variable: own(context_variable),
            };
            let config = Config { current_context: own(current), ..Config::empty(directory.path()) };
            let got = Endpoint::resolve(&choice, &config).unwrap();
            assert_eq!(got, Endpoint { address: Address::Unix(socket.into()), origin }, "{choice:?}");
        }
    }

    #[test]
    fn says_why_there_is_no_endpoint() {
        let directory = tempfile::tempdir().unwrap();
        let config = Config::empty(directory.path());
        let with = |host: Option<&str>, context: Option<&str>| {
            let own = |text: Option<&str>| text.map(str::to_owned);
            let choice = Choice { host: own(host), context: own(context), ..Choice::default() };
            Endpoint::resolve(&choice, &config).unwrap_err()
        };
        assert!(matches!(with(Some("unix:///a"), Some("b")), ContextError::Conflict));
        assert!(matches!(with(None, Some("nope")), ContextError::NotFound { .. }));
        assert!(matches!(with(Some("http://x"), None), ContextError::Format { .. }));
        for host in ["tcp://h:1", "ssh://me@h", "h:2375"] {
            assert!(matches!(with(Some(host), None), ContextError::Unsupported { .. }), "{host}");
        }
    }
}
