//! Docker's config directory, and what is read of it.
//!
//! Source: docker/cli `cli/config`. Read as docker reads it: keys in any case, only the first JSON
//! value of the file, an empty file is an empty config. Better than docker where that loses
//! something: one bad entry of `auths` costs that entry, not random others.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
#[cfg(unix)]
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use serde_json::{Map, Value};

use crate::secret::Secret;

/// The keys of `config.json` that matter for a push.
#[derive(Debug, Default)]
pub struct Config {
    /// The file itself, whether it exists or not.
    pub path: PathBuf,
    /// `auths`, by registry as it is spelled in the file.
    pub auths: BTreeMap<String, AuthEntry>,
    /// `credsStore`: the credential helper for every registry.
    pub credentials_store: Option<String>,
    /// `credHelpers`: the helper for one registry; an empty name means `auths`, `None` something
    /// that is no name.
    pub credential_helpers: BTreeMap<String, Option<String>>,
    pub current_context: Option<String>,
    /// `HttpHeaders`: sent with every call to an engine.
    pub headers: BTreeMap<String, Secret>,
}

/// One entry of `auths`, not yet decoded.
#[derive(Debug, Default)]
pub struct AuthEntry {
    /// base64 of `user:password`.
    pub auth: Option<Secret>,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub identity_token: Option<Secret>,
    pub registry_token: Option<Secret>,
    /// Something in it has a type that docker would not take.
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
    #[error("`{}` is not a JSON object", path.display())]
    NotAnObject { path: PathBuf },
    #[error("`{key}` in `{}` is not what docker expects there", path.display())]
    WrongType { path: PathBuf, key: &'static str },
    #[error("no home directory: set DOCKER_CONFIG or HOME")]
    NoHome,
}

/// Docker's config directory: `--config`, else `DOCKER_CONFIG`, else `~/.docker`.
///
/// An empty one counts as unset.
///
/// # Errors
/// [`ConfigError::NoHome`] if there is nothing to go by.
pub fn directory(flag: Option<&Path>) -> Result<PathBuf, ConfigError> {
    let variable = || env::var_os("DOCKER_CONFIG").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let home =
        || env::home_dir().filter(|home| !home.as_os_str().is_empty()).map(|home| home.join(".docker"));
    let flag = flag.filter(|directory| !directory.as_os_str().is_empty());
    flag.map(Path::to_owned).or_else(variable).or_else(home).ok_or(ConfigError::NoHome)
}

impl Config {
    /// What a missing file means.
    pub fn empty(directory: &Path) -> Self {
        Self { path: directory.join("config.json"), ..Self::default() }
    }

    /// Reads `config.json` of this directory.
    ///
    /// # Errors
    /// A file that is there and cannot be understood; a missing or empty one is an empty config.
    pub fn load(directory: &Path) -> Result<Self, ConfigError> {
        let mut config = Self::empty(directory);
        let bytes = match read_file(&config.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(config),
            Err(source) => return Err(ConfigError::Unreadable { path: config.path, source }),
        };
        // Like Go, which docker is written in: a bad byte in one value is no reason to lose the others.
        let text = String::from_utf8_lossy(&bytes);
        let mut values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
        match values.next() {
            None => {}
            Some(Ok(value)) => config.read(&value)?,
            Some(Err(source)) => return Err(ConfigError::Malformed { path: config.path, source }),
        }
        Ok(config)
    }

    fn read(&mut self, value: &Value) -> Result<(), ConfigError> {
        let wrong = |key| ConfigError::WrongType { path: self.path.clone(), key };
        let text = |key| match field(value, key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
            Some(_) => Err(wrong(key)),
        };
        let object = |key| match field(value, key) {
            None | Some(Value::Null) => Ok(Map::new()),
            Some(Value::Object(map)) => Ok(map.clone()),
            Some(_) => Err(wrong(key)),
        };
        if !value.is_object() {
            return Err(ConfigError::NotAnObject { path: self.path.clone() });
        }
        let credentials_store = text("credsStore")?;
        let current_context = text("currentContext")?;
        let helpers = object("credHelpers")?;
        let auths = object("auths")?;
        let headers = object("HttpHeaders")?;
        let name = |value: Value| value.as_str().map(str::to_owned);
        self.credential_helpers = helpers.into_iter().map(|(key, value)| (key, name(value))).collect();
        self.auths = auths.into_iter().map(|(key, entry)| (key, AuthEntry::read(&entry))).collect();
        // docker takes no other value than a text, and the whole file for broken with one.
        let header = |value: Value| value.as_str().map(|text| Secret::new(text.to_owned()));
        self.headers = headers.into_iter().filter_map(|(name, value)| Some((name, header(value)?))).collect();
        self.credentials_store = credentials_store;
        self.current_context = current_context;
        Ok(())
    }
}

/// A file of docker's, but not one that would keep us waiting (a FIFO), or has no end.
///
/// # Errors
/// As for any file.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    const MAX: u64 = 64 << 20;
    #[cfg(unix)]
    {
        let kind = fs::metadata(path)?.file_type();
        if kind.is_fifo() || kind.is_socket() {
            return Err(io::Error::other("it is no file"));
        }
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Puts another text in the place of a file, or takes it away (`None`), in one step: whoever reads it
/// meanwhile sees the old or the new. Links are followed; mode and owner stay; a new file is for its
/// owner alone.
///
/// * `before`: what it held when it was read. It is not written if that is no longer true.
///
/// # Errors
/// As for any file, or it was changed by somebody else.
pub fn write_file(path: &Path, before: Option<&[u8]>, after: Option<&str>) -> io::Result<()> {
    let target = match fs::canonicalize(path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A link may lead to where no file is yet.
            let directory = path.parent().unwrap_or(Path::new("."));
            fs::read_link(path).map_or_else(|_| path.to_owned(), |target| directory.join(target))
        }
        Err(error) => return Err(error),
    };
    let now = read_file(&target);
    let is_the_same = match (&now, before) {
        (Ok(now), Some(before)) => now == before,
        (Err(error), None) => error.kind() == io::ErrorKind::NotFound,
        _ => false,
    };
    if !is_the_same {
        return Err(io::Error::other("it was changed meanwhile; try again"));
    }
    let Some(text) = after else { return fs::remove_file(target) };
    let directory = target.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let mut file = tempfile::Builder::new().prefix("config.json").tempfile_in(directory)?;
    file.write_all(text.as_bytes())?;
    if let Ok(old) = fs::metadata(&target) {
        file.as_file().set_permissions(old.permissions())?;
        // Root may be changing another's; a file whose owner cannot be kept so is written where it is.
        #[cfg(unix)]
        if !has_owner(file.as_file(), &old)? {
            return fs::write(target, text);
        }
    }
    file.as_file().sync_all()?;
    match file.persist(&target) {
        Ok(_) => Ok(()),
        // A file that is mounted by itself, as into a container, can only be written where it is.
        Err(error) if error.error.kind() == io::ErrorKind::ResourceBusy => fs::write(target, text),
        Err(error) => Err(error.error),
    }
}

/// Gives a file the owner and group of another, if it may.
#[cfg(unix)]
fn has_owner(file: &fs::File, other: &fs::Metadata) -> io::Result<bool> {
    let own = file.metadata()?;
    let is_owned = (own.uid(), own.gid()) == (other.uid(), other.gid());
    Ok(is_owned || std::os::unix::fs::fchown(file, Some(other.uid()), Some(other.gid())).is_ok())
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

/// The value of a key, in any case, as Go's JSON finds it; the exact spelling goes first.
pub fn field<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    let map = object.as_object()?;
    map.get(key).or_else(|| map.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, value)| value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("config.json"), text).unwrap();
        Config::load(directory.path())
    }

    #[test]
    fn reads_what_docker_reads() {
        let text = r#"{"AUTHS":{"localhost:1":{"Auth":"Ym9iOng=","identityToken":""},"h":null},
            "credsstore":"pass","credHelpers":{"ghcr.io":"gh","plain.example.com":""},
            "currentContext":"far","plugins":{"x":{"y":"z"}}} trailing"#;
        let config = load(text).unwrap();
        assert_eq!(config.auths["localhost:1"].auth.as_ref().unwrap().expose(), "Ym9iOng=");
        assert!(config.auths["localhost:1"].identity_token.is_none(), "empty means none");
        assert!(config.auths["h"].auth.is_none());
        assert_eq!(config.credentials_store.as_deref(), Some("pass"));
        assert_eq!(config.credential_helpers["ghcr.io"].as_deref(), Some("gh"));
        assert_eq!(config.credential_helpers["plain.example.com"].as_deref(), Some(""));
        assert_eq!(config.current_context.as_deref(), Some("far"));
    }

    #[test]
    fn a_bad_byte_costs_the_value_it_stands_in() {
        let directory = tempfile::tempdir().unwrap();
        let text = b"{\"auths\":{\"h\":{\"auth\":\"Ym9iOng=\",\"x\":\"\xff\"}}}";
        fs::write(directory.path().join("config.json"), text).unwrap();
        let config = Config::load(directory.path()).unwrap();
        assert_eq!(config.auths["h"].auth.as_ref().unwrap().expose(), "Ym9iOng=");
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = Config::load(directory.path()).unwrap_err();
        assert!(matches!(error, ConfigError::Unreadable { .. }), "{error}");

        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(Config::load(directory.path()).unwrap().auths.is_empty(), "a way to say: no config");
    }

    #[test]
    fn what_somebody_else_has_written_meanwhile_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        fs::write(&path, "theirs").unwrap();
        for before in [None, Some(&b"read"[..])] {
            let error = write_file(&path, before, Some("ours")).unwrap_err();
            assert_eq!(error.to_string(), "it was changed meanwhile; try again");
            assert!(write_file(&path, before, None).is_err());
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
        write_file(&path, Some(b"theirs"), Some("ours")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "ours");
        write_file(&path, Some(b"ours"), None).unwrap();
        assert!(write_file(&path, Some(b"ours"), Some("again")).is_err(), "it is gone");
    }

    #[test]
    fn nothing_there_is_an_empty_config() {
        for text in ["", " \n", "{}"] {
            let config = load(text).unwrap();
            assert!(config.auths.is_empty() && config.credentials_store.is_none(), "{text:?}");
        }
        let nowhere = tempfile::tempdir().unwrap();
        assert!(Config::load(nowhere.path()).unwrap().auths.is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_an_error_that_names_the_file() {
        for text in ["{", "\u{feff}{}", "[]", r#"{"auths":[]}"#, r#"{"credsStore":5}"#] {
            let error = load(text).unwrap_err();
            assert!(error.to_string().contains("config.json`"), "{text:?}: {error}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let config = load(r#"{"auths":{"h":{"auth":"c2VjcmV0","password":"geheim"}}}"#).unwrap();
        let shown = format!("{config:?}");
        assert!(!shown.contains("c2VjcmV0") && !shown.contains("geheim"), "{shown}");
    }
}
