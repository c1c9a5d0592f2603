//! Docker's config directory, and what is read of it.
//!
//! Source: docker/cli `cli/config`. Read as docker reads it: keys in any case, only the first JSON
//! value of the file, an empty file is an empty config. Better than docker where that loses
//! something: one bad entry of `auths` costs that entry, not random others.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fmt, thread};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use crate::failure::Class;
use crate::secret::Secret;
#[cfg(unix)]
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

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

impl ConfigError {
    pub fn class(&self) -> Class {
        Class::Other
    }
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
        config.read_text(&String::from_utf8_lossy(&bytes))?;
        Ok(config)
    }

    /// Reads a text that stands in a `config.json` of this path. Returns the length of what docker reads of
    /// it, the first JSON value, in bytes.
    ///
    /// # Errors
    /// It cannot be understood.
    pub fn read_text(&mut self, text: &str) -> Result<usize, ConfigError> {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<Known>();
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

    fn read(&mut self, known: &Known) -> Result<(), ConfigError> {
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
        // docker takes no other value than a text, and the whole file for broken with one.
        let header = |value: Value| value.as_str().map(|text| Secret::new(text.to_owned()));
        self.headers = headers.into_iter().filter_map(|(name, value)| Some((name, header(value)?))).collect();
        self.credentials_store = credentials_store;
        self.current_context = current_context;
        Ok(())
    }
}

/// What is read of a config.json, in the order of the file: a key may be there twice, in other letters, and
/// Go's JSON takes both. What else is there does not matter, whatever it is.
struct Known(Vec<(String, Value)>);

impl Known {
    const KEYS: [&str; 5] = ["auths", "credsStore", "credHelpers", "currentContext", "HttpHeaders"];

    fn of(&self, key: &str) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(move |(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value)
    }
}

impl<'de> Deserialize<'de> for Known {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Known;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            /// `null`, which Go takes for an empty one.
            fn visit_unit<E>(self) -> Result<Known, E> {
                Ok(Known(Vec::new()))
            }

            fn visit_map<M: MapAccess<'de>>(self, mut members: M) -> Result<Known, M::Error> {
                let mut known = Vec::new();
                while let Some(name) = members.next_key::<String>()? {
                    if Known::KEYS.iter().any(|key| name.eq_ignore_ascii_case(key)) {
                        known.push((name, members.next_value()?));
                    } else {
                        members.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Known(known))
            }
        }
        deserializer.deserialize_any(Members)
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
    File::open(path)?.take(MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Puts another text in the place of a file, or takes it away (`None`), as [`Held::write`] does.
///
/// * `before`: what it held when it was read.
///
/// # Errors
/// As for any file, or it was changed by somebody else.
pub fn write_file(path: &Path, before: Option<&[u8]>, after: Option<&str>) -> io::Result<()> {
    Held::take(path)?.write(before, after, Mode::AsItIs)
}

/// What a file is called while it is written: `config.json.regpush-0123456789abcdef.tmp`.
const RANDOM: usize = 16;
const SUFFIX: &str = ".tmp";

/// Who may read a file that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As before; a new file is for its owner alone.
    AsItIs,
    /// Its owner alone: it holds secrets now.
    Private,
}

/// A file of docker's that nobody else of us writes to meanwhile: they wait for the lock file beside it.
/// docker itself has no lock.
#[derive(Debug)]
pub struct Held {
    /// The file itself, behind all links.
    target: PathBuf,
    /// Unlocked when it is closed, by whatever ends us.
    _lock: File,
    lock_path: Option<PathBuf>,
}

impl Held {
    /// How long another may hold it; writing takes milliseconds.
    const PATIENCE: Duration = Duration::from_secs(10);
    const PAUSE: Duration = Duration::from_millis(2);

    /// Waits until nobody else holds it. Its directory is made if there is none.
    ///
    /// # Errors
    /// As for any file, or it is held for longer than 10 s.
    pub fn take(path: &Path) -> io::Result<Self> {
        let target = match fs::canonicalize(path) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A link may lead to where no file is yet.
                let directory = path.parent().unwrap_or(Path::new("."));
                fs::read_link(path).map_or_else(|_| path.to_owned(), |target| directory.join(target))
            }
            Err(error) => return Err(error),
        };
        // `/dev/null` is a way to say: no config. Nothing may take its place.
        if fs::metadata(&target).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(io::Error::other("it is no file"));
        }
        make_private_directory(directory_of(&target))?;
        let lock_path = beside(&target, ".lock");
        let started = Instant::now();
        loop {
            let (lock, lock_path) = match private_file().open(&lock_path) {
                Ok(lock) => (lock, Some(lock_path.clone())),
                // The directory is not ours: the file may be mounted into it by itself. It can be locked too.
                Err(_) if target.exists() => (File::open(&target)?, None),
                Err(error) => return Err(error),
            };
            let is_locked = match lock.try_lock() {
                Ok(()) => true,
                Err(TryLockError::WouldBlock) if started.elapsed() < Self::PATIENCE => {
                    thread::sleep(Self::PAUSE);
                    continue;
                }
                Err(TryLockError::WouldBlock) => {
                    let shown = lock_path.as_ref().unwrap_or(&target).display();
                    return Err(io::Error::other(format!("another process holds `{shown}`")));
                }
                // Some network file systems know no locks: then it is as with docker.
                Err(TryLockError::Error(error)) if has_no_locks(&error) => false,
                Err(TryLockError::Error(error)) => return Err(error),
            };
            // Who held it before has taken the lock file away, or put a new file there.
            if is_at(&lock, lock_path.as_ref().unwrap_or(&target)) {
                let held = Self { target, _lock: lock, lock_path };
                if is_locked && held.lock_path.is_some() {
                    held.remove_leftovers();
                }
                return Ok(held);
            }
        }
    }

    /// What is in it now; `None`: there is no file.
    ///
    /// # Errors
    /// As for any file.
    pub fn read(&self) -> io::Result<Option<Vec<u8>>> {
        match read_file(&self.target) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts another text in its place, or takes it away (`None`), in one step: whoever reads it meanwhile
    /// sees the old or the new. Links are followed; the owner stays.
    ///
    /// * `before`: what it held when it was read. It is not written if that is no longer true.
    ///
    /// # Errors
    /// As for any file, or it was changed by somebody else.
    pub fn write(&self, before: Option<&[u8]>, after: Option<&str>, mode: Mode) -> io::Result<()> {
        if self.read()?.as_deref() != before {
            return Err(io::Error::other("it was changed meanwhile; try again"));
        }
        let target = &self.target;
        let Some(text) = after else { return fs::remove_file(target) };
        let old = fs::metadata(target).ok();
        let in_place = || {
            #[cfg(unix)]
            if mode == Mode::Private {
                self.make_private()?;
            }
            write_in_place(target, before.unwrap_or_default(), text.as_bytes())
        };
        let prefix = leftover_prefix(target);
        let mut named = tempfile::Builder::new();
        let named = named.prefix(&prefix).rand_bytes(RANDOM).suffix(SUFFIX);
        let named = named.tempfile_in(directory_of(target));
        let mut file = match named {
            Ok(file) => file,
            Err(_) if old.is_some() => return in_place(),
            Err(error) => return Err(error),
        };
        file.write_all(text.as_bytes())?;
        if let Some(old) = &old
            && mode == Mode::AsItIs
        {
            file.as_file().set_permissions(old.permissions())?;
        }
        // Root may be changing another's; a file whose owner cannot be kept so is written where it is.
        #[cfg(unix)]
        if let Some(old) = &old
            && !has_owner(file.as_file(), old)?
        {
            return in_place();
        }
        file.as_file().sync_all()?;
        match file.persist(target) {
            Ok(_) => {}
            // A file that is mounted by itself, as into a container, can only be written where it is.
            Err(error)
                if matches!(
                    error.error.kind(),
                    io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices
                ) =>
            {
                return in_place();
            }
            Err(error) => return Err(error.error),
        }
        // So that the new name is there after a crash of the system, too. Not every file system can do that.
        #[cfg(unix)]
        let _ = File::open(directory_of(target)).and_then(|directory| directory.sync_all());
        Ok(())
    }

    /// Makes sure that nobody but its owner reads it: it holds secrets.
    ///
    /// # Errors
    /// As for any file.
    #[cfg(unix)]
    pub fn make_private(&self) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(&self.target)?.permissions().mode();
        if mode & 0o077 == 0 {
            Ok(())
        } else {
            fs::set_permissions(&self.target, fs::Permissions::from_mode(0o600))
        }
    }

    /// What a process of ours that was killed while it wrote has left: files only we make, and only while
    /// we hold the lock.
    fn remove_leftovers(&self) {
        let prefix = leftover_prefix(&self.target);
        let is_ours = |name: &OsStr| {
            let rest = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes());
            let random = rest.and_then(|rest| rest.strip_suffix(SUFFIX.as_bytes()));
            random
                .is_some_and(|random| random.len() == RANDOM && random.iter().all(u8::is_ascii_alphanumeric))
        };
        for entry in fs::read_dir(directory_of(&self.target)).into_iter().flatten().flatten() {
            if is_ours(&entry.file_name()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(unix)]
impl Drop for Held {
    fn drop(&mut self) {
        // Before it is unlocked, so that nobody takes one that goes away.
        if let Some(path) = &self.lock_path {
            let _ = fs::remove_file(path);
        }
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

fn leftover_prefix(target: &Path) -> OsString {
    beside(target, ".regpush-").file_name().unwrap_or_default().to_owned()
}

/// Whether this path still leads to this open file.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    matches!((file.metadata().map(id), fs::metadata(path).map(id)), (Ok(own), Ok(there)) if own == there)
}

/// Lock files stay there.
#[cfg(windows)]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

/// `ENOLCK` is NFS without its lock manager.
fn has_no_locks(error: &io::Error) -> bool {
    #[cfg(unix)]
    let is_without = error.raw_os_error() == Some(rustix::io::Errno::NOLCK.raw_os_error());
    #[cfg(windows)]
    let is_without = false;
    is_without || error.kind() == io::ErrorKind::Unsupported
}

fn make_private_directory(directory: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(directory)
}

fn private_file() -> fs::OpenOptions {
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Not in one step, but never cut off before the new text is there; what cannot be written is put back.
fn write_in_place(path: &Path, before: &[u8], after: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).open(path)?;
    let mut put = |bytes: &[u8]| {
        file.seek(SeekFrom::Start(0))?;
        file.write_all(bytes)?;
        file.set_len(bytes.len() as u64)?;
        file.sync_all()
    };
    put(after).inspect_err(|_| drop(put(before)))
}

/// Gives a file the owner and group of another, if it may.
#[cfg(unix)]
fn has_owner(file: &File, other: &fs::Metadata) -> io::Result<bool> {
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
    use std::sync::atomic::{AtomicBool, Ordering};

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
    fn what_is_no_file_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let (path, fifo) = (directory.path().join("config.json"), directory.path().join("fifo"));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink(&fifo, &path).unwrap();
        assert_eq!(write_file(&path, None, Some("ours")).unwrap_err().to_string(), "it is no file");
        assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "no lock was made");
    }

    /// A lock file that was opened may be gone by the time it is locked.
    #[test]
    fn one_alone_holds_a_file_however_many_want_it() {
        const ROUNDS: usize = 3000;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        let is_held = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        let held = Held::take(&path).unwrap();
                        assert!(!is_held.swap(true, Ordering::SeqCst), "two hold it");
                        thread::yield_now();
                        is_held.store(false, Ordering::SeqCst);
                        drop(held);
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
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
    fn a_key_may_be_there_twice() {
        let config = load(r#"{"auths":{"a":{"auth":"eDp5"},"b":{}},"AUTHS":{"b":{"auth":"eDp6"}}}"#).unwrap();
        assert_eq!(config.auths["a"].auth.as_ref().unwrap().expose(), "eDp5");
        assert_eq!(config.auths["b"].auth.as_ref().unwrap().expose(), "eDp6");
    }

    #[test]
    fn what_is_not_read_may_be_anything() {
        let deep = format!("{}{}", "[".repeat(400), "]".repeat(400));
        for value in ["1e400", r#""\ud83d""#, &deep] {
            let config = load(&format!(r#"{{"x":{value},"auths":{{"a":{{"auth":"eDp5"}}}}}}"#)).unwrap();
            assert!(config.auths.contains_key("a"), "{value}");
        }
    }

    #[test]
    fn nothing_there_is_an_empty_config() {
        for text in ["", " \n", "{}", "null"] {
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
