//! Looks up the credentials for a registry in all sources, in order of precedence.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::credentials::entry::{bad_variable_entry, decode, decode_auth, from_variable, read_variable};
use crate::credentials::login::{Broken, CredentialsError, Login, Source};
use crate::credentials::{Credentials, Kind, helper};
use crate::docker::config::{AuthEntry, Config};
use crate::reference::{HUB, HUB_CREDENTIALS_KEY, credentials_key};
use crate::secret::Secret;
use crate::text::sanitize;

/// The result of a lookup: credentials for one registry, their source, and warnings about broken sources.
#[derive(Debug)]
pub struct LookedUp {
    pub credentials: Credentials,
    pub login: Login,
    /// A warning if DOCKER_AUTH_CONFIG overrides credentials that `docker login` stored.
    pub shadow: Option<String>,
    /// One warning for each broken source except config.json. The plugin reports an error in config.json when
    /// it reads the file.
    pub warnings: Vec<String>,
}

/// A registry for which Docker stores credentials, for the list that `docker regpush auth` prints.
#[derive(Debug)]
pub struct Entry {
    /// The domain of the registry: `host[:port]`.
    pub registry: String,
    pub source: Source,
    pub username: Option<String>,
    /// The kind of the stored secret; `None` if config.json names the registry but no secret was found.
    pub kind: Option<Kind>,
}

/// The keys under which `docker login` stores the tokens of a browser login to Docker Hub. These tokens are
/// not passwords.
pub const HUB_TOKEN_KEYS: [&str; 2] =
    ["https://index.docker.io/v1/access-token", "https://index.docker.io/v1/refresh-token"];

/// All sources of credentials, in the order in which the plugin tries them.
#[derive(Debug)]
pub struct Keyring {
    /// Credentials from the command line. If they are set, the plugin tries no other source.
    pub given: Option<Credentials>,
    /// The value of `DOCKER_AUTH_CONFIG`.
    pub variable: Option<Secret>,
    pub config: Config,
    /// The error from reading config.json, if any. The plugin reports this error at once, and again if a
    /// registry refuses the push.
    pub config_problem: Option<String>,
    /// The time limit for a credential helper; `None` if the user may have to type a PIN.
    pub helper_timeout: Option<Duration>,
}

impl Keyring {
    /// Looks up the credentials for a registry on the command line, then in `DOCKER_AUTH_CONFIG`,
    /// `credHelpers`, `credsStore` and `auths`. Skips a source that is broken or has no credentials for the
    /// registry.
    ///
    /// Unlike docker, which asks only the first configured helper, continues with the next source if that
    /// helper has no credentials.
    ///
    /// * `registry`: the domain of the registry.
    /// * `tell`: called with a message about each helper that takes longer than 3 s.
    pub async fn look_up(&self, registry: &str, tell: impl FnMut(&str)) -> LookedUp {
        let key = credentials_key(registry);
        let mut problems = Vec::new();
        let found = match &self.given {
            Some(credentials) => Some((credentials.clone(), Source::CommandLine)),
            None => self.search(key, &mut problems, tell).await,
        };
        let (credentials, source) = found.unwrap_or((Credentials::anonymous(), Source::Nothing));
        let shadowed = if source == Source::Variable { self.stored(key) } else { None };
        let shadow = shadowed
            .map(|stored| format!("DOCKER_AUTH_CONFIG overrides the credentials for {registry} in {stored}"));
        let broken = self.config_problem.as_ref().map(|_| Broken::Config);
        let broken = broken.or_else(|| problems.first().map(CredentialsError::broken));
        let warnings: Vec<String> = problems.iter().map(|problem| sanitize(&problem.to_string())).collect();
        let problems = self.config_problem.iter().chain(&warnings).cloned().collect();
        let login = Login { broken, ..Login::new(&credentials, source, problems) };
        LookedUp { credentials, login, shadow, warnings }
    }

    /// Returns a warning if DOCKER_AUTH_CONFIG overrides credentials that the plugin has just saved for a
    /// registry.
    pub fn shadow_of_kept(&self, registry: &str) -> Option<String> {
        let variable = self.variable.as_ref()?;
        from_variable(variable, credentials_key(registry)).ok()??;
        Some(format!(
            "DOCKER_AUTH_CONFIG overrides the saved credentials for {registry}: change or unset it to use them"
        ))
    }

    async fn search(
        &self,
        key: &str,
        problems: &mut Vec<CredentialsError>,
        mut tell: impl FnMut(&str),
    ) -> Option<(Credentials, Source)> {
        let mut keep = |result: Result<Option<Credentials>, CredentialsError>| {
            result.unwrap_or_else(|problem| {
                problems.push(problem);
                None
            })
        };
        if let Some(text) = &self.variable
            && let Some(credentials) = keep(from_variable(text, key))
        {
            return Some((credentials, Source::Variable));
        }
        if let Some(None) = self.config.credential_helpers.get(key) {
            keep(Err(self.bad_entry(key, "is not the name of a credential helper (`credHelpers`)")));
        }
        let entry = entry_for(&self.config.auths, key);
        for name in helpers(&self.config, key) {
            if let Some(mut credentials) = keep(helper::get(&name, key, self.helper_timeout, &mut tell).await)
            {
                // Helpers do not store registry tokens, so docker always reads the registry token from
                // config.json.
                credentials.registry_token = entry.and_then(|(_, entry)| entry.registry_token.clone());
                return Some((credentials, Source::Helper(name)));
            }
        }
        let (name, entry) = entry?;
        let credentials = keep(decode(entry).map_err(|problem| self.bad_entry(name, problem)))?;
        Some((credentials, Source::File(self.config.path.clone())))
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
        let mut put = |name: &str, source: Source, username: Option<String>, kind: Option<Kind>| {
            if !HUB_TOKEN_KEYS.contains(&name) {
                let registry = shown(name);
                let entry = Entry { registry: registry.clone(), source, username, kind };
                entries.entry(registry).or_insert(entry);
            }
        };
        if let Some(text) = &self.variable {
            match read_variable(text) {
                Ok(auths) => {
                    for (name, auth) in auths {
                        match decode_auth(&auth) {
                            Ok((username, _)) => {
                                put(&name, Source::Variable, Some(username), Some(Kind::Password));
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
                    put(&registry, Source::Helper(name.clone()), username, Some(kind));
                }
            }
        }
        let file = || Source::File(self.config.path.clone());
        for (name, entry) in &self.config.auths {
            match decode(entry) {
                Ok(Some(found)) => {
                    let kind = found.kind();
                    put(name, file(), found.username, kind);
                }
                // The entry is empty: a helper has the credentials, or no source has any.
                Ok(None) => {}
                Err(problem) => problems.push(self.bad_entry(name, problem)),
            }
        }
        for (name, source) in registries(&self.config) {
            put(&name, source, None, None);
        }
        (entries.into_values().collect(), problems)
    }

    fn bad_entry(&self, registry: &str, problem: &'static str) -> CredentialsError {
        CredentialsError::Entry { registry: sanitize(registry), path: self.config.path.clone(), problem }
    }
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
    let own = config.credential_helpers.get(key).cloned().flatten();
    if own.as_ref().is_some_and(String::is_empty) {
        return Vec::new();
    }
    let mut helpers: Vec<String> = own.into_iter().chain(credentials_store(config)).collect();
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
        let found = LookedUp { credentials, login, shadow: None, warnings: Vec::new() };
        let keyring = Keyring {
            given: Some(basic("alice", "hunter2")),
            variable: Some(Secret::new("hunter2".to_owned())),
            config: Config::default(),
            config_problem: None,
            helper_timeout: None,
        };
        assert!(!format!("{found:?}{keyring:?}").contains("hunter2"));
    }
}
