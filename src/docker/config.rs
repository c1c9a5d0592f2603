//! Finds Docker's config directory and reads config.json.
//!
//! Source: docker/cli `cli/config`. As docker does, ignores the case of keys, reads only the first JSON
//! value, and accepts an empty file. One difference: an invalid entry of `auths` does not affect other
//! entries, while docker loses random other entries.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fmt, io};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use crate::docker::file::read_file;
use crate::failure::Class;
use crate::secret::Secret;

/// The name of the file with Docker's configuration.
pub const FILE_NAME: &str = "config.json";

/// The values of Docker's config.json that this plugin uses.
#[derive(Debug, Default)]
pub struct Config {
    /// The path of config.json, even if the file does not exist.
    pub path: PathBuf,
    /// `auths`: the stored credentials by registry. Each registry is spelled as in config.json.
    pub auths: BTreeMap<String, AuthEntry>,
    /// `credsStore`: the credential helper for every registry.
    pub credentials_store: Option<String>,
    /// `credHelpers`: the credential helper of each registry. An empty name means that `auths` has the
    /// credentials; `None` means that the value is not a string.
    pub credential_helpers: BTreeMap<String, Option<String>>,
    pub current_context: Option<String>,
    /// `HttpHeaders`: HTTP headers for every request to an engine.
    pub headers: BTreeMap<String, Secret>,
}

/// One entry of `auths` in config.json, not yet decoded.
#[derive(Debug, Default)]
pub struct AuthEntry {
    /// The base64 of `user:password`.
    pub auth: Option<Secret>,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub identity_token: Option<Secret>,
    pub registry_token: Option<Secret>,
    /// Whether a value in the entry has a type that docker does not accept.
    pub is_malformed: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read `{}`", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{}` is not valid JSON", path.display())]
    Malformed {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("`{}` is {encoding}, which docker cannot read", path.display())]
    Encoding { path: PathBuf, encoding: &'static str },
    #[error("`{}` is not a JSON object", path.display())]
    NotAnObject { path: PathBuf },
    #[error("`{key}` in `{}` does not have the form that docker expects", path.display())]
    WrongType { path: PathBuf, key: &'static str },
    #[error("no home directory: set DOCKER_CONFIG or HOME")]
    NoHome,
}

impl ConfigError {
    pub fn class(&self) -> Class {
        Class::Other
    }

    /// Returns a command that repairs the file, if the plugin knows one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Encoding { .. } => Some(
                "save it as UTF-8 without a byte order mark: PowerShell saved it (use `[IO.File]::WriteAllText(PATH, TEXT)` there)"
                    .to_owned(),
            ),
            Self::Unreadable { path, source } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some(hint_to_own(path))
            }
            _ => None,
        }
    }
}

/// Returns a hint for a file or directory that this user may not read or write.
pub fn hint_to_own(path: &Path) -> String {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        // A directory that this user may not enter hides the owner of the file.
        let mut shown = path;
        while shown.metadata().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
            let Some(parent) = shown.parent() else { break };
            shown = parent;
        }
        let owner = shown.metadata().map(|metadata| metadata.uid());
        if owner.is_ok_and(|owner| owner != rustix::process::geteuid().as_raw()) {
            return format!("run `sudo chown -R \"$(id -un)\" '{}'`: another user owns it", shown.display());
        }
    }
    format!("check the permissions of `{}`", path.display())
}

/// Returns Docker's config directory: `--config`, else `DOCKER_CONFIG`, else `~/.docker`.
///
/// An empty option or variable counts as unset.
///
/// # Errors
/// [`ConfigError::NoHome`] if neither `--config` nor `DOCKER_CONFIG` is set and the user has no home
/// directory.
pub fn directory(flag: Option<&Path>) -> Result<PathBuf, ConfigError> {
    let variable = || env::var_os("DOCKER_CONFIG").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let home =
        || env::home_dir().filter(|home| !home.as_os_str().is_empty()).map(|home| home.join(".docker"));
    let flag = flag.filter(|directory| !directory.as_os_str().is_empty());
    flag.map(Path::to_owned).or_else(variable).or_else(home).ok_or(ConfigError::NoHome)
}

impl Config {
    /// Returns the empty config of a directory without a config.json.
    pub fn empty(directory: &Path) -> Self {
        Self { path: directory.join(FILE_NAME), ..Self::default() }
    }

    /// Reads `config.json` in a directory. If the file is missing or empty, returns an empty config.
    ///
    /// # Errors
    /// The file exists but cannot be read or parsed.
    pub fn load(directory: &Path) -> Result<Self, ConfigError> {
        let mut config = Self::empty(directory);
        let bytes = match read_file(&config.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(config),
            Err(source) => return Err(ConfigError::Unreadable { path: config.path, source }),
        };
        let encoding = match bytes.as_slice() {
            [0xEF, 0xBB, 0xBF, ..] => Some("UTF-8 with a byte order mark"),
            [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] | [b'{', 0, ..] | [0, b'{', ..] => Some("UTF-16"),
            _ => None,
        };
        if let Some(encoding) = encoding {
            return Err(ConfigError::Encoding { path: config.path, encoding });
        }
        // As in docker, invalid UTF-8 in one value does not make the other values unreadable.
        config.read_text(&String::from_utf8_lossy(&bytes))?;
        Ok(config)
    }

    /// Reads the values of this config from the content of a config.json. Returns the length of the first
    /// JSON value in bytes; docker ignores everything after that value.
    ///
    /// # Errors
    /// `text` cannot be parsed.
    pub fn read_text(&mut self, text: &str) -> Result<usize, ConfigError> {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<RawConfig>();
        match values.next() {
            None => {}
            Some(Ok(known)) => self.read(&known)?,
            Some(Err(source)) if source.is_data() => {
                return Err(ConfigError::NotAnObject { path: self.path.clone() });
            }
            Some(Err(source)) => {
                return Err(ConfigError::Malformed { path: self.path.clone(), source });
            }
        }
        Ok(values.byte_offset())
    }

    fn read(&mut self, known: &RawConfig) -> Result<(), ConfigError> {
        let wrong = |key| ConfigError::WrongType { path: self.path.clone(), key };
        let text = |key| match known.of(key).last() {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
            Some(_) => Err(wrong(key)),
        };
        let object = |key| {
            let mut all = Map::new();
            for value in known.of(key) {
                match value {
                    Value::Null => {}
                    Value::Object(map) => all.extend(map.clone()),
                    _ => return Err(wrong(key)),
                }
            }
            Ok(all)
        };
        let credentials_store = text("credsStore")?;
        let current_context = text("currentContext")?;
        let helpers = object("credHelpers")?;
        let auths = object("auths")?;
        let headers = object("HttpHeaders")?;
        let name = |value: Value| value.as_str().map(str::to_owned);
        self.credential_helpers = helpers.into_iter().map(|(key, value)| (key, name(value))).collect();
        self.auths = auths.into_iter().map(|(key, entry)| (key, AuthEntry::read(&entry))).collect();
        // Skip a header whose value is not a string. docker instead rejects the whole config.json.
        let header = |value: Value| value.as_str().map(|text| Secret::new(text.to_owned()));
        self.headers = headers.into_iter().filter_map(|(name, value)| Some((name, header(value)?))).collect();
        self.credentials_store = credentials_store;
        self.current_context = current_context;
        Ok(())
    }
}

/// The keys and values of a config.json that this plugin uses, in the order of the file. A key may occur
/// twice, in different case, and Go's JSON parser reads both values. Values of all other keys are skipped
/// without being checked.
struct RawConfig(Vec<(String, Value)>);

impl RawConfig {
    const KEYS: [&str; 5] = ["auths", "credsStore", "credHelpers", "currentContext", "HttpHeaders"];

    fn of(&self, key: &str) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(move |(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value)
    }
}

impl<'de> Deserialize<'de> for RawConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = RawConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            /// Reads `null` as an empty object, as Go's JSON parser does.
            fn visit_unit<E>(self) -> Result<RawConfig, E> {
                Ok(RawConfig(Vec::new()))
            }

            fn visit_map<M: MapAccess<'de>>(self, mut members: M) -> Result<RawConfig, M::Error> {
                let mut known = Vec::new();
                while let Some(name) = members.next_key::<String>()? {
                    if RawConfig::KEYS.iter().any(|key| name.eq_ignore_ascii_case(key)) {
                        known.push((name, members.next_value()?));
                    } else {
                        members.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(RawConfig(known))
            }
        }
        deserializer.deserialize_any(Members)
    }
}

impl AuthEntry {
    fn read(entry: &Value) -> Self {
        let mut is_malformed = !(entry.is_object() || entry.is_null());
        let mut text = |key| match field(entry, key) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.clone()).filter(|text| !text.is_empty()),
            Some(_) => {
                is_malformed = true;
                None
            }
        };
        Self {
            auth: text("auth").map(Secret::new),
            username: text("username"),
            password: text("password").map(Secret::new),
            identity_token: text("identitytoken").map(Secret::new),
            registry_token: text("registrytoken").map(Secret::new),
            is_malformed,
        }
    }
}

/// Returns the value of a key in a JSON object. Prefers the exact spelling of the key, and otherwise ignores
/// case, as Go's JSON parser does.
pub fn field<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    let map = object.as_object()?;
    map.get(key).or_else(|| map.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, value)| value))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("config.json"), text).unwrap();
        Config::load(directory.path())
    }

    #[test]
    fn reads_config_files_as_docker_does() {
        let text = r#"{"AUTHS":{"localhost:1":{"Auth":"Ym9iOng=","identityToken":""},"h":null},
            "credsstore":"pass","credHelpers":{"ghcr.io":"gh","plain.example.com":""},
            "currentContext":"far","plugins":{"x":{"y":"z"}}} trailing"#;
        let config = load(text).unwrap();
        assert_eq!(config.auths["localhost:1"].auth.as_ref().unwrap().expose(), "Ym9iOng=");
        assert!(config.auths["localhost:1"].identity_token.is_none(), "an empty token counts as none");
        assert!(config.auths["h"].auth.is_none());
        assert_eq!(config.credentials_store.as_deref(), Some("pass"));
        assert_eq!(config.credential_helpers["ghcr.io"].as_deref(), Some("gh"));
        assert_eq!(config.credential_helpers["plain.example.com"].as_deref(), Some(""));
        assert_eq!(config.current_context.as_deref(), Some("far"));
    }

    #[test]
    fn invalid_utf8_does_not_affect_other_values() {
        let directory = tempfile::tempdir().unwrap();
        let text = b"{\"auths\":{\"h\":{\"auth\":\"Ym9iOng=\",\"x\":\"\xff\"}}}";
        fs::write(directory.path().join("config.json"), text).unwrap();
        let config = Config::load(directory.path()).unwrap();
        assert_eq!(config.auths["h"].auth.as_ref().unwrap().expose(), "Ym9iOng=");
    }

    #[cfg(unix)]
    #[test]
    fn does_not_wait_for_a_fifo() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = Config::load(directory.path()).unwrap_err();
        assert!(matches!(error, ConfigError::Unreadable { .. }), "{error}");

        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(Config::load(directory.path()).unwrap().auths.is_empty(), "`/dev/null` is an empty config");
    }

    #[test]
    fn merges_duplicate_keys() {
        let config = load(r#"{"auths":{"a":{"auth":"eDp5"},"b":{}},"AUTHS":{"b":{"auth":"eDp6"}}}"#).unwrap();
        assert_eq!(config.auths["a"].auth.as_ref().unwrap().expose(), "eDp5");
        assert_eq!(config.auths["b"].auth.as_ref().unwrap().expose(), "eDp6");
    }

    #[test]
    fn ignores_invalid_values_of_unused_keys() {
        let deep = format!("{}{}", "[".repeat(400), "]".repeat(400));
        for value in ["1e400", r#""\ud83d""#, &deep] {
            let config = load(&format!(r#"{{"x":{value},"auths":{{"a":{{"auth":"eDp5"}}}}}}"#)).unwrap();
            assert!(config.auths.contains_key("a"), "{value}");
        }
    }

    #[test]
    fn missing_or_empty_file_is_an_empty_config() {
        for text in ["", " \n", "{}", "null"] {
            let config = load(text).unwrap();
            assert!(config.auths.is_empty() && config.credentials_store.is_none(), "{text:?}");
        }
        let nowhere = tempfile::tempdir().unwrap();
        assert!(Config::load(nowhere.path()).unwrap().auths.is_empty());
    }

    #[test]
    fn parse_errors_name_the_file() {
        for text in ["{", "\u{feff}{}", "[]", r#"{"auths":[]}"#, r#"{"credsStore":5}"#] {
            let error = load(text).unwrap_err();
            assert!(error.to_string().contains("config.json`"), "{text:?}: {error}");
        }
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let config = load(r#"{"auths":{"h":{"auth":"c2VjcmV0","password":"geheim"}}}"#).unwrap();
        let shown = format!("{config:?}");
        assert!(!shown.contains("c2VjcmV0") && !shown.contains("geheim"), "{shown}");
    }
}
