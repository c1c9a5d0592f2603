//! Looks up the credentials for a registry in all sources, in order of precedence.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::credentials::buildx::{Action, HUB_BACKED};
use crate::credentials::command::Given;
use crate::credentials::entry::{bad_variable_entry, decode, decode_auth, from_variable, read_variable};
use crate::credentials::login::{Broken, CredentialsError, Login, Source, docker_login};
use crate::credentials::remark::near_miss;
use crate::credentials::{Credentials, Kind, buildx, expiry, helper};
use crate::docker::config::{AuthEntry, Config, FILE_NAME};
use crate::reference::{HUB, HUB_CREDENTIALS_KEY, Reference, credentials_key};
use crate::secret::Secret;
use crate::text::{sanitize, with_causes};

/// The result of a lookup: credentials for one registry, their source, and warnings about broken sources.
#[derive(Debug)]
pub struct LookedUp {
    pub credentials: Credentials,
    pub login: Login,
    /// A warning if DOCKER_AUTH_CONFIG overrides credentials that `docker login` stored.
    pub shadow: Option<String>,
    /// The error of `--password-command`. The push then cannot continue, because no other source is tried.
    pub failure: Option<CredentialsError>,
    /// One warning for each broken source except config.json. The plugin reports an error in config.json when
    /// it reads the file.
    pub warnings: Vec<String>,
}

/// A registry for which Docker stores credentials, for the list that `docker regpush auth` prints.
#[derive(Debug)]
pub struct Entry {
    /// The domain of the registry: `host[:port]`, or the name of buildx's folder.
    pub registry: String,
    pub source: Source,
    pub username: Option<String>,
    /// The kind of the stored secret; `None` if config.json names the registry but no secret was found.
    pub kind: Option<Kind>,
    /// When the secret expires, if the secret is in config.json and contains its end.
    pub expires: Option<SystemTime>,
}

/// The keys under which `docker login` stores the tokens of a browser login to Docker Hub. These tokens are
/// not passwords.
pub const HUB_TOKEN_KEYS: [&str; 2] =
    ["https://index.docker.io/v1/access-token", "https://index.docker.io/v1/refresh-token"];

/// The purpose of a lookup: a registry or repository, and an action there.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The domain of the registry.
    pub registry: &'a str,
    /// The path of the repository; `None`: the whole registry.
    pub repository: Option<&'a str>,
    pub action: Action,
}

impl<'a> Wanted<'a> {
    /// Credentials for pushes to a registry.
    pub fn to_push(registry: &'a str, repository: Option<&'a str>) -> Self {
        Self { registry, repository, action: Action::Push }
    }
}

/// All sources of credentials, in the order in which the plugin tries them.
#[derive(Debug)]
pub struct Keyring {
    /// Credentials from the command line. If they are set, the plugin tries no other source.
    pub given: Option<Given>,
    /// The value of `DOCKER_AUTH_CONFIG`.
    pub variable: Option<Secret>,
    /// The directory of [buildx's scoped credentials](buildx).
    pub buildx: PathBuf,
    pub config: Config,
    /// The error from reading config.json, if any. The plugin reports this error at once, and again if a
    /// registry refuses the push.
    pub config_problem: Option<String>,
    /// A hint for the user about `config_problem`, if the plugin has one.
    pub config_hint: Option<String>,
    /// The time limit for a credential helper, or for the command of `--password-command`; `None` if the user may have to type a PIN.
    pub helper_timeout: Option<Duration>,
}

impl Keyring {
    /// Looks up credentials on the command line, then in `DOCKER_AUTH_CONFIG`, buildx's scoped credentials,
    /// `credHelpers`, `credsStore` and `auths`. Skips a source that is broken or has no credentials for the
    /// registry.
    ///
    /// Unlike docker, which asks only the first configured helper, continues with the next source if that
    /// helper has no credentials.
    ///
    /// * `tell`: called with a message about each program that takes longer than 3 s, and with the stderr of the command of
    ///   `--password-command`.
    pub async fn look_up(&self, wanted: &Wanted<'_>, mut tell: impl FnMut(&str)) -> LookedUp {
        let (registry, key) = (wanted.registry, credentials_key(wanted.registry));
        let mut problems = Vec::new();
        let mut failure = None;
        let found = match &self.given {
            Some(Given::Ready(credentials)) => Some((credentials.clone(), Source::CommandLine)),
            Some(Given::Command(command)) => match command.run(self.helper_timeout, &mut tell).await {
                Ok(credentials) => Some((credentials, Source::Command)),
                Err(error) => {
                    failure = Some(error);
                    Some((Credentials::anonymous(), Source::Command))
                }
            },
            None => self.search(wanted, &mut problems, &mut tell).await,
        };
        let (credentials, source) = found.unwrap_or((Credentials::anonymous(), Source::Nothing));
        let shadowed = if source == Source::Variable { self.stored(key) } else { None };
        let shadow = shadowed
            .map(|stored| format!("DOCKER_AUTH_CONFIG overrides the credentials for {registry} in {stored}"));
        let broken = self.config_problem.as_ref().map(|_| Broken::Config);
        // A locked helper says more than an entry that is broken too.
        let kinds = problems.iter().map(CredentialsError::broken);
        let broken = broken.or_else(|| kinds.min());
        let warnings: Vec<String> = problems.iter().map(|problem| sanitize(&problem.to_string())).collect();
        let problems = self.config_problem.iter().chain(&warnings).cloned().collect();
        let mut login = Login { broken, ..Login::new(&credentials, source, problems) };
        if login.anonymous && self.given.is_none() {
            login.remark = self.config_hint.clone().or_else(|| self.why_nothing(registry));
        }
        LookedUp { credentials, login, shadow, failure, warnings }
    }

    /// Returns whether a repository may have credentials of its own, other than those of the registry.
    pub fn is_scoped(&self, reference: &Reference) -> bool {
        let is_scoped_at = |registry| {
            let folders = buildx::repository_folders(&self.buildx, registry, reference.path(), Action::Push);
            folders.iter().any(|folder| may_have(folder, credentials_key(registry)))
        };
        let domain = reference.domain();
        let is_given = self.given.is_some() || self.variable_has(credentials_key(domain));
        !is_given && (is_scoped_at(domain) || (HUB_BACKED.contains(&domain) && is_scoped_at(HUB)))
    }

    /// Returns why Docker probably has no credentials for a registry: it has some for another name of the registry, or
    /// another user has some.
    fn why_nothing(&self, registry: &str) -> Option<String> {
        let key = credentials_key(registry);
        let auths = self.config.auths.iter().filter(|(name, entry)| {
            let is_set = decode(entry).is_ok_and(|found| found.is_some());
            !HUB_TOKEN_KEYS.contains(&name.as_str()) && (is_set || !helpers(&self.config, name).is_empty())
        });
        let names = auths.map(|(name, _)| name).chain(self.config.credential_helpers.keys());
        let variable = self.variable.as_ref().and_then(|text| read_variable(text).ok()).unwrap_or_default();
        let others = names.chain(variable.keys()).filter(|name| *name != key);
        if let Some(other) = near_miss(registry, others.map(|name| (name.clone(), host(name)))) {
            return Some(format!(
                "run `{}`: Docker has credentials for {}, and this push looks for {registry}",
                docker_login(registry),
                sanitize(&other)
            ));
        }
        let (user, config) = config_before_sudo()?;
        let entry = entry_for(&config.auths, key).map(|(_, entry)| entry);
        let is_set = entry.is_some_and(|entry| decode(entry).is_ok_and(|found| found.is_some()));
        let has_helper = config.credential_helpers.contains_key(key)
            || (entry.is_some() && config.credentials_store.is_some());
        let is_other = config.path != self.config.path;
        (is_other && (is_set || has_helper)).then(|| {
            format!(
                "run it without sudo, or as `sudo env DOCKER_CONFIG={} docker regpush …`: {user} has credentials for {registry}, and root has none",
                config.path.parent().unwrap_or(&config.path).display()
            )
        })
    }

    /// Returns a hint if config.json had credentials for a registry when the plugin read the file, and has none now.
    pub fn why_vanished(&self, registry: &str, login: &Login) -> Option<String> {
        let (Source::File(path) | Source::Buildx(path)) = &login.source else { return None };
        let now = Config::load(path.parent()?).ok()?;
        let is_there = entry_for(&now.auths, credentials_key(registry))
            .is_some_and(|(_, entry)| decode(entry).is_ok_and(|found| found.is_some()));
        (!is_there).then(|| {
            format!(
                "give each job its own DOCKER_CONFIG: the credentials for {registry} were removed from `{}` during this call",
                path.display()
            )
        })
    }

    /// Returns a warning if DOCKER_AUTH_CONFIG or a folder of buildx overrides credentials that the plugin has just saved for
    /// a registry.
    pub fn shadow_of_kept(&self, registry: &str) -> Option<String> {
        let key = credentials_key(registry);
        if self.variable_has(key) {
            return Some(format!(
                "DOCKER_AUTH_CONFIG overrides the saved credentials for {registry}: change or unset it to use them"
            ));
        }
        let folders = buildx::folders(&self.buildx, registry, None, Action::Push);
        let folder = folders.iter().find(|folder| may_have(folder, key))?;
        Some(format!(
            "`{}` overrides the saved credentials for {registry}: remove it to use them",
            folder.join(FILE_NAME).display()
        ))
    }

    fn variable_has(&self, key: &str) -> bool {
        self.variable.as_ref().is_some_and(|text| matches!(from_variable(text, key), Ok(Some(_))))
    }

    async fn search(
        &self,
        wanted: &Wanted<'_>,
        problems: &mut Vec<CredentialsError>,
        tell: &mut dyn FnMut(&str),
    ) -> Option<(Credentials, Source)> {
        let key = credentials_key(wanted.registry);
        if let Some(text) = &self.variable
            && let Some(credentials) = keep(problems, from_variable(text, key))
        {
            return Some((credentials, Source::Variable));
        }
        if let Some(found) = self.search_buildx(wanted, problems, tell).await {
            return Some(found);
        }
        let store = credentials_store(&self.config);
        if let Some(found) = self.search_config(&self.config, store, key, problems, tell).await {
            return Some(found);
        }
        if !HUB_BACKED.contains(&wanted.registry) {
            return None;
        }
        self.search_buildx(&Wanted { registry: HUB, ..*wanted }, problems, tell).await
    }

    /// Looks up credentials in buildx's folders. Unlike buildx, continues with the next folder if a folder has none.
    async fn search_buildx(
        &self,
        wanted: &Wanted<'_>,
        problems: &mut Vec<CredentialsError>,
        tell: &mut dyn FnMut(&str),
    ) -> Option<(Credentials, Source)> {
        let key = credentials_key(wanted.registry);
        for folder in buildx::folders(&self.buildx, wanted.registry, wanted.repository, wanted.action) {
            let Some(config) = keep(problems, load_scoped(&folder).map(Some)) else { continue };
            let store = config.credentials_store.clone();
            if let Some((credentials, _)) = self.search_config(&config, store, key, problems, tell).await {
                return Some((credentials, Source::Buildx(config.path)));
            }
        }
        None
    }

    /// Looks up credentials as configured in one config.json.
    ///
    /// * `store`: the credential helper for all registries.
    async fn search_config(
        &self,
        config: &Config,
        store: Option<String>,
        key: &str,
        problems: &mut Vec<CredentialsError>,
        tell: &mut dyn FnMut(&str),
    ) -> Option<(Credentials, Source)> {
        if let Some(None) = config.credential_helpers.get(key) {
            let problem = "is not the name of a credential helper (`credHelpers`)";
            problems.push(bad_entry(config, key, problem));
        }
        let entry = entry_for(&config.auths, key);
        for name in helpers_with(config, store, key) {
            let answer = helper::get(&name, key, self.helper_timeout, tell).await;
            if let Some(mut credentials) = keep(problems, answer) {
                // Helpers do not store registry tokens, so docker always reads the registry token from
                // config.json.
                credentials.registry_token = entry.and_then(|(_, entry)| entry.registry_token.clone());
                return Some((credentials, Source::Helper(name)));
            }
        }
        let (name, entry) = entry?;
        let decoded = decode(entry).map_err(|problem| bad_entry(config, name, problem));
        Some((keep(problems, decoded)?, Source::File(config.path.clone())))
    }

    /// Returns the source in which `docker login` stored credentials for a registry. Reads only config.json,
    /// and runs no helper.
    fn stored(&self, key: &str) -> Option<Source> {
        let (_, entry) = entry_for(&self.config.auths, key)?;
        if decode(entry).is_ok_and(|found| found.is_some()) {
            return Some(Source::File(self.config.path.clone()));
        }
        // `docker login` writes an empty entry to `auths` after storing credentials in a helper.
        helpers(&self.config, key).into_iter().next().map(Source::Helper)
    }

    /// Lists all registries for which Docker stores credentials, each with the source that a push would use.
    /// Also returns the errors of broken sources. Contacts no registry.
    ///
    /// * `tell`: called with a message about each helper that takes longer than 3 s.
    pub async fn list(&self, mut tell: impl FnMut(&str)) -> (Vec<Entry>, Vec<CredentialsError>) {
        let (mut entries, mut problems) = (BTreeMap::new(), Vec::new());
        // If several sources have credentials for a registry, keep only the source that a push would use.
        let mut put = |name: &str,
                       source: Source,
                       username: Option<String>,
                       kind: Option<Kind>,
                       expires: Option<SystemTime>| {
            if !HUB_TOKEN_KEYS.contains(&name) {
                let registry = shown(name);
                let entry = Entry { registry: registry.clone(), source, username, kind, expires };
                entries.entry(registry).or_insert(entry);
            }
        };
        if let Some(text) = &self.variable {
            match read_variable(text) {
                Ok(auths) => {
                    for (name, auth) in auths {
                        match decode_auth(&auth) {
                            Ok((username, password)) => {
                                let expires = expiry::expires(password.expose());
                                put(&name, Source::Variable, Some(username), Some(Kind::Password), expires);
                            }
                            Err(problem) => problems.push(bad_variable_entry(&name, problem)),
                        }
                    }
                }
                Err(problem) => problems.push(problem),
            }
        }
        let store = credentials_store(&self.config);
        let own = self.config.credential_helpers.iter();
        let own = own.filter_map(|(name, helper)| Some((name, helper.as_ref()?)));
        let mut names: Vec<&String> = own.clone().map(|(_, helper)| helper).chain(&store).collect();
        names.retain(|name| !name.is_empty());
        names.sort();
        names.dedup();
        for name in names {
            let kept = match helper::list(name, self.helper_timeout, &mut tell).await {
                Ok(kept) => kept,
                Err(problem) => {
                    problems.push(problem);
                    BTreeMap::new()
                }
            };
            for (registry, username) in kept {
                if helpers(&self.config, &registry).first() == Some(name) {
                    let kind = if username == helper::TOKEN { Kind::IdentityToken } else { Kind::Password };
                    let username = Some(username).filter(|_| kind == Kind::Password);
                    put(&registry, Source::Helper(name.clone()), username, Some(kind), None);
                }
            }
        }
        let file = || Source::File(self.config.path.clone());
        for (name, entry) in &self.config.auths {
            match decode(entry) {
                Ok(Some(found)) => {
                    let (kind, expires) = (found.kind(), found.expires());
                    put(name, file(), found.username, kind, expires);
                }
                // The entry is empty: a helper has the credentials, or no source has any.
                Ok(None) => {}
                Err(problem) => problems.push(bad_entry(&self.config, name, problem)),
            }
        }
        for (name, source) in registries(&self.config) {
            put(&name, source, None, None, None);
        }
        for (name, folder) in buildx::all(&self.buildx) {
            match read_scoped(&name, &folder) {
                Ok(found) => {
                    let (kind, expires) = (found.kind(), found.expires());
                    let source = Source::Buildx(folder);
                    let entry =
                        Entry { registry: sanitize(&name), source, username: found.username, kind, expires };
                    // A push uses DOCKER_AUTH_CONFIG first, and goes on if a folder has no credentials.
                    let is_hidden = entries.get(&name).is_some_and(|other: &Entry| {
                        other.source == Source::Variable || (kind.is_none() && other.kind.is_some())
                    });
                    if !is_hidden {
                        entries.insert(name, entry);
                    }
                }
                Err(problem) => problems.push(problem),
            }
        }
        (entries.into_values().collect(), problems)
    }
}

/// Reads the credentials in the config.json of buildx's folder `name`; returns empty credentials if a helper has them.
fn read_scoped(name: &str, folder: &Path) -> Result<Credentials, CredentialsError> {
    let config = load_scoped(folder)?;
    let Some((key, entry)) = entry_for(&config.auths, credentials_key(buildx::registry(name))) else {
        return Ok(Credentials::anonymous());
    };
    let found = decode(entry).map_err(|problem| bad_entry(&config, key, problem))?;
    Ok(found.unwrap_or_default())
}

/// Returns whether a folder of buildx has credentials for a registry, names a credential helper for it, or is broken.
fn may_have(folder: &Path, key: &str) -> bool {
    load_scoped(folder).map_or(true, |config| {
        let store = config.credentials_store.clone();
        let is_set = |entry| !matches!(decode(entry), Ok(None));
        entry_for(&config.auths, key).is_some_and(|(_, entry)| is_set(entry))
            || !helpers_with(&config, store, key).is_empty()
    })
}

fn load_scoped(folder: &Path) -> Result<Config, CredentialsError> {
    Config::load(folder).map_err(|error| CredentialsError::Scoped { reason: with_causes(&error) })
}

/// Adds the error of a broken source to the problems.
fn keep<T>(problems: &mut Vec<CredentialsError>, result: Result<Option<T>, CredentialsError>) -> Option<T> {
    result.unwrap_or_else(|problem| {
        problems.push(problem);
        None
    })
}

fn bad_entry(config: &Config, registry: &str, problem: &'static str) -> CredentialsError {
    CredentialsError::Entry { registry: sanitize(registry), path: config.path.clone(), problem }
}

/// Returns the user who runs the plugin with sudo, and the user's config.json. Returns `None` without sudo, or if the file
/// cannot be read.
fn config_before_sudo() -> Option<(String, Config)> {
    #[cfg(unix)]
    {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let user = std::env::var("SUDO_USER").ok().filter(|user| !user.is_empty() && user != "root")?;
        let home = nix::unistd::User::from_name(&user).ok()??.dir;
        Some((sanitize(&user), Config::load(&home.join(".docker")).ok()?))
    }
    #[cfg(not(unix))]
    None
}

/// Returns the name of the credential helper for all registries: `credsStore`, or else docker's default for
/// this operating system. The default applies only if config.json configures no credentials and the default
/// helper is installed.
///
/// Source: docker/cli `cli/config/credentials/default_store*.go`.
pub fn credentials_store(config: &Config) -> Option<String> {
    let is_configured = !config.auths.is_empty() || !config.credential_helpers.is_empty();
    if config.credentials_store.is_some() || is_configured {
        return config.credentials_store.clone();
    }
    let name = match std::env::consts::OS {
        "windows" => "wincred",
        "macos" => "osxkeychain",
        "linux" if helper::is_installed("pass") => "pass",
        "linux" => "secretservice",
        _ => return None,
    };
    helper::is_installed(&format!("{}{name}", helper::PREFIX)).then(|| name.to_owned())
}

/// Returns the credential helpers to try for a registry: first the helper in `credHelpers`, then the helper
/// for all registries. Returns no helper if the name in `credHelpers` is empty.
pub fn helpers(config: &Config, key: &str) -> Vec<String> {
    helpers_with(config, credentials_store(config), key)
}

/// * `store`: the helper for all registries.
fn helpers_with(config: &Config, store: Option<String>, key: &str) -> Vec<String> {
    let own = config.credential_helpers.get(key).cloned().flatten();
    if own.as_ref().is_some_and(String::is_empty) {
        return Vec::new();
    }
    let mut helpers: Vec<String> = own.into_iter().chain(store).collect();
    helpers.dedup();
    helpers
}

/// Returns the registries that config.json names, each with the source of its credentials. Used for shell
/// completion, and to list registries that no helper lists.
pub fn registries(config: &Config) -> BTreeMap<String, Source> {
    let file = || Source::File(config.path.clone());
    let stored = config.auths.keys().filter(|name| !HUB_TOKEN_KEYS.contains(&name.as_str()));
    let stored =
        stored.map(|name| (shown(name), config.credentials_store.clone().map_or_else(file, Source::Helper)));
    let own = config.credential_helpers.iter().map(|(name, helper)| {
        let helper = helper.clone().filter(|helper| !helper.is_empty());
        (shown(name), helper.map_or_else(file, Source::Helper))
    });
    stored.chain(own).collect()
}

/// Converts a registry key of config.json into the domain that users write in image references.
pub fn shown(name: &str) -> String {
    if name == HUB_CREDENTIALS_KEY { HUB.to_owned() } else { sanitize(&host(name)) }
}

/// Returns the host and port in a registry key: `localhost:5000` for `https://me@localhost:5000/v1/` and
/// `localhost:5000/v1`. Older versions of docker wrote keys like these.
fn host(name: &str) -> String {
    match name.split_once("://") {
        Some((_, rest)) => {
            let authority = rest.split('/').next().unwrap_or_default();
            authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_owned()
        }
        None => name.split('/').next().unwrap_or_default().to_owned(),
    }
}

/// Finds the entry of `auths` with exactly this key, or else the first entry whose host equals the key. Older
/// versions of docker wrote keys like `https://host/v1/`.
pub fn entry_for<'a>(auths: &'a BTreeMap<String, AuthEntry>, key: &str) -> Option<(&'a str, &'a AuthEntry)> {
    let exact = auths.get_key_value(key);
    let by_host =
        || auths.iter().find(|(name, _)| !HUB_TOKEN_KEYS.contains(&name.as_str()) && host(name) == key);
    exact.or_else(by_host).map(|(name, entry)| (name.as_str(), entry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::tests::{basic, entry};

    #[test]
    fn finds_keys_of_older_logins() {
        let hub = "https://index.docker.io/v1/";
        let keys = ["https://h.example.com/v1/", "http://other.example.com", "path.example.com/v2/", hub];
        let mut auths: BTreeMap<_, _> = keys.iter().map(|key| ((*key).to_owned(), entry(None))).collect();
        auths.extend(HUB_TOKEN_KEYS.map(|key| (key.to_owned(), entry(None))));
        let table = [
            ("h.example.com", Some("https://h.example.com/v1/")),
            ("other.example.com", Some("http://other.example.com")),
            ("path.example.com", Some("path.example.com/v2/")),
            ("h.example.com:5000", None),
            (hub, Some(hub)),
            ("index.docker.io", Some(hub)),
        ];
        for (key, want) in table {
            assert_eq!(entry_for(&auths, key).map(|(name, _)| name), want, "{key}");
        }
        auths.remove(hub);
        assert!(
            entry_for(&auths, "index.docker.io").is_none(),
            "the tokens of the web login are not a password"
        );
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let credentials = basic("alice", "hunter2");
        let login = Login::new(&credentials, Source::Prompt, Vec::new());
        let found = LookedUp { credentials, login, shadow: None, failure: None, warnings: Vec::new() };
        let keyring = Keyring {
            given: Some(Given::Ready(basic("alice", "hunter2"))),
            variable: Some(Secret::new("hunter2".to_owned())),
            buildx: PathBuf::default(),
            config: Config::default(),
            config_problem: None,
            config_hint: None,
            helper_timeout: None,
        };
        assert!(!format!("{found:?}{keyring:?}").contains("hunter2"));
    }
}
