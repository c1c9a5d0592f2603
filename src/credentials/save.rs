//! Saves credentials as `docker login` does: in the configured helper, or else in config.json.
//!
//! Changes only one entry of config.json, and keeps the rest of the file byte for byte. docker rewrites the
//! file: it drops unknown keys and, after a parse error, all values that it has not read yet.
//!
//! Source: docker/cli `cli/config/credentials/{file_store,native_store}.go`.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use jsonc_parser::cst::CstInputValue;
use serde::Serialize as _;
use serde_json::json;
use serde_json::ser::{PrettyFormatter, Serializer};

use crate::credentials::entry::decode;
use crate::credentials::keyring::{Keyring, credentials_store, helpers, shown};
use crate::credentials::login::{CredentialsError, Source};
use crate::credentials::{Credentials, Kind, helper};
use crate::docker::config::{Config, ConfigError, hint_to_own};
use crate::docker::edit::{self, Change, EditError, object_at, object_of, set};
use crate::docker::file::Mode;
use crate::failure::Class;
use crate::secret::Secret;
use crate::text::with_causes;

/// The reason why the plugin did not save credentials.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    #[error(transparent)]
    Helper(#[from] CredentialsError),
    /// config.json cannot be read or parsed, so the plugin does not write to the file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot change `{}`: {reason}", path.display())]
    NotEditable { path: PathBuf, reason: &'static str },
    #[error("cannot write `{}`", path.display())]
    Unwritable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl SaveError {
    /// Returns a hint that names the command to run or the setting to change.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Helper(CredentialsError::HelperMissing { helper, .. }) => {
                return Some(format!(
                    "install `docker-credential-{helper}`, or remove it from `credsStore` and `credHelpers` in config.json"
                ));
            }
            Self::Helper(_) => "fix the credential helper; the credentials were not saved",
            Self::Config(error) if error.hint().is_some() => {
                return error.hint().map(|hint| format!("{hint}; the credentials were not saved"));
            }
            Self::Unwritable { path, source } if source.kind() == io::ErrorKind::PermissionDenied => {
                let directory = path.parent().unwrap_or(path);
                return Some(format!("{}; the credentials were not saved", hint_to_own(directory)));
            }
            Self::Config(ConfigError::Unreadable { .. }) => {
                "check the permissions of that file; the credentials were not saved"
            }
            Self::Config(_) | Self::NotEditable { .. } => {
                "fix that file first; the credentials were not saved"
            }
            Self::Unwritable { .. } => {
                "check the permissions and free space of its directory; the credentials were not saved"
            }
        };
        Some(hint.to_owned())
    }

    pub fn class(&self) -> Class {
        Class::Other
    }
}

impl Keyring {
    /// Saves credentials for a registry in the configured credential helper, or else in config.json.
    ///
    /// * `key`: the key of the registry in config.json, from
    ///   [`crate::reference::Reference::credentials_key`].
    /// * `tell`: called with a message if the helper takes longer than 3 s.
    ///
    /// # Errors
    /// The helper fails, or config.json cannot be read, edited or written. After an error, the plugin does
    /// not save the credentials anywhere else.
    pub async fn save(
        &self,
        key: &str,
        credentials: &Credentials,
        mut tell: impl FnMut(&str),
    ) -> Result<Kept, SaveError> {
        let path = &self.config.path;
        let config = self.config_now()?;
        let helper = helpers(&config, key).into_iter().next();
        if let Some(helper) = &helper {
            helper::store(helper, key, credentials, self.helper_timeout, &mut tell).await?;
        }
        // docker uses a default credential store only while `auths` and `credHelpers` are empty. So the
        // plugin must set `credsStore` to the default store when it adds the first entry to `auths`.
        let guessed = helper
            .as_ref()
            .and_then(|_| credentials_store(&config))
            .filter(|_| config.credentials_store.is_none());
        let entry = match &helper {
            // For credentials in a helper, docker writes an empty entry to config.json.
            Some(_) => Credentials::anonymous(),
            None => credentials.clone(),
        };
        let written = write(path, key, &entry, guessed.as_deref(), helper.is_some());
        let (is_written, unmarked) = match (written, &helper) {
            (Ok(is_written), _) => (is_written, None),
            // The helper has saved the credentials, so a failure to write the empty entry to config.json is
            // only a warning.
            (Err(error), Some(_)) => (
                false,
                Some(format!(
                    "the credential helper has the credentials, but config.json has no entry for them: {}",
                    with_causes(&error)
                )),
            ),
            (Err(error), None) => return Err(error),
        };
        Ok(Kept {
            registry: shown(key),
            place: helper.map_or_else(|| Source::File(path.clone()), Source::Helper),
            is_new_password: is_written && credentials.kind() == Some(Kind::Password),
            unmarked,
        })
    }

    /// Reads config.json again, since the user or docker may have changed the file after the plugin started.
    ///
    /// # Errors
    /// config.json cannot be read or parsed.
    pub fn config_now(&self) -> Result<Config, SaveError> {
        Ok(Config::load(self.config.path.parent().unwrap_or(Path::new(".")))?)
    }
}

/// Writes the entry for a registry to config.json. Returns whether the file was changed.
fn write(
    path: &Path,
    key: &str,
    entry: &Credentials,
    store: Option<&str>,
    is_mark: bool,
) -> Result<bool, SaveError> {
    let change = |text: Option<&str>| {
        let after = edited(path, text.unwrap_or_default(), key, entry, store)?;
        Ok(after.map_or(Change::Nothing, Change::Text))
    };
    let mode = if is_mark { Mode::AsItIs } else { Mode::Private };
    edit::edit(path, mode, change).map_err(|error| match error {
        EditError::Io(source) => SaveError::Unwritable { path: path.to_owned(), source },
        EditError::NotUtf8(_) => SaveError::NotEditable { path: path.to_owned(), reason: "it is not UTF-8" },
        EditError::Change(error) => error,
    })
}

/// The result of saving credentials: the registry, and the helper or file that now has the credentials.
#[derive(Debug)]
pub struct Kept {
    registry: String,
    pub place: Source,
    is_new_password: bool,
    /// A warning if a helper has saved the credentials but config.json could not be written.
    pub unmarked: Option<String>,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "saved the credentials for {} in {}", self.registry, self.place)
    }
}

impl Kept {
    /// Returns the exact warning that docker prints when it saves a password in config.json; `None` if
    /// config.json got no new password.
    pub fn plain_text_warning(&self) -> Option<String> {
        match &self.place {
            Source::File(path) if self.is_new_password => Some(format!(
                "WARNING! Your credentials are stored unencrypted in '{}'.\n\
                 Configure a credential helper to remove this warning. See\n\
                 https://docs.docker.com/go/credential-store/",
                path.display()
            )),
            _ => None,
        }
    }
}

/// Adds `entry` for the registry `key`, and `store` as `credsStore` if given, to the content of config.json.
/// Returns the new content, or `None` if nothing changes.
///
/// # Errors
/// docker cannot parse the file, or would not find the entry in the new content.
pub fn edited(
    path: &Path,
    text: &str,
    key: &str,
    entry: &Credentials,
    store: Option<&str>,
) -> Result<Option<Secret>, SaveError> {
    let mut config = Config { path: path.to_owned(), ..Config::default() };
    let length = config.read_text(text)?;
    let is_kept = |config: &Config| {
        let kept = config.auths.get(key).and_then(|kept| Some((kept.auth.as_ref(), decode(kept).ok()?)));
        let packed = members(entry).into_iter().find(|(name, _)| *name == "auth").map(|(_, packed)| packed);
        // Compare the encoded `auth` too, because this plugin decodes some base64 that docker rejects.
        let is_same = kept.is_some_and(|(auth, kept)| {
            auth.map(Secret::expose) == packed.as_ref().map(Secret::expose) && same(kept.as_ref(), entry)
        });
        is_same && store.is_none_or(|store| config.credentials_store.as_deref() == Some(store))
    };
    if is_kept(&config) {
        return Ok(None);
    }
    let after = if text.trim().is_empty() {
        new_file(key, entry, store)
    } else {
        // docker reads only the first JSON value of the file. Keep everything after that value.
        with_entry(&text[..length], key, entry, store).map(|edited| edited + &text[length..])
    };
    let not_editable = |reason| SaveError::NotEditable { path: path.to_owned(), reason };
    let after = Secret::new(after.ok_or_else(|| not_editable("its layout cannot be edited safely"))?);
    // Parse the new content, and fail if docker would not find the entry, for example because a key occurs
    // twice.
    let mut config = Config { path: path.to_owned(), ..Config::default() };
    config.read_text(after.expose())?;
    if !is_kept(&config) {
        return Err(not_editable(
            "it has several entries for the registry, and docker would not find a new one",
        ));
    }
    Ok(Some(after))
}

fn same(kept: Option<&Credentials>, wanted: &Credentials) -> bool {
    let nothing = Credentials::anonymous();
    let kept = kept.unwrap_or(&nothing);
    // `auth_config` needs a server address. Pass the placeholder `h` for both, because only the credentials
    // are compared.
    kept.auth_config("h").expose() == wanted.auth_config("h").expose()
}

/// Returns the JSON members `auth` and `identitytoken` of an entry, as docker writes them.
fn members(entry: &Credentials) -> Vec<(&'static str, Secret)> {
    let auth = entry.basic_auth().map(|auth| ("auth", auth));
    auth.into_iter().chain(entry.identity_token.clone().map(|token| ("identitytoken", token))).collect()
}

/// Returns the content of a new config.json with one entry, in docker's layout.
fn new_file(key: &str, entry: &Credentials, store: Option<&str>) -> Option<String> {
    let members: serde_json::Map<_, _> =
        members(entry).into_iter().map(|(name, value)| (name.to_owned(), json!(value.expose()))).collect();
    let mut config = json!({"auths": {key: members}});
    if let Some(store) = store {
        config["credsStore"] = json!(store);
    }
    let mut bytes = Vec::new();
    config
        .serialize(&mut Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b"\t")))
        .ok()?;
    String::from_utf8(bytes).ok()
}

/// Adds an entry to the content of config.json. Returns `None` if the structure of the JSON does not allow
/// the edit.
fn with_entry(text: &str, key: &str, entry: &Credentials, store: Option<&str>) -> Option<String> {
    let (root, config) = edit::parse(text)?;
    let auths = object_of(&config, "auths")?;
    let login = match auths.get(key) {
        Some(property) => object_at(&property)?,
        None => auths.append(key, CstInputValue::Object(Vec::new())).object_value()?,
    };
    let members = members(entry);
    for property in login.properties() {
        let name = property.decoded_name()?.to_lowercase();
        let is_replaced = members.iter().any(|(member, _)| *member == name);
        if !is_replaced
            && ["auth", "username", "password", "identitytoken", "registrytoken"].contains(&name.as_str())
        {
            property.remove();
        }
    }
    for (name, value) in members {
        set(&login, name, value.expose());
    }
    if let Some(store) = store {
        set(&config, "credsStore", store);
    }
    Some(root.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bob() -> Credentials {
        Credentials::basic("bob".to_owned(), Secret::new("pw".to_owned()))
    }

    fn token() -> Credentials {
        let token = Some(Secret::new("ID".to_owned()));
        Credentials { username: Some("bob".to_owned()), identity_token: token, ..Credentials::default() }
    }

    fn edit(text: &str, entry: &Credentials, store: Option<&str>) -> Result<Option<String>, String> {
        let edited = edited(Path::new("c"), text, "h", entry, store);
        edited.map(|text| text.map(|text| text.expose().to_owned())).map_err(|error| error.to_string())
    }

    #[test]
    fn keeps_everything_else_in_the_file() {
        let (bob, token, anonymous) = (bob(), token(), Credentials::anonymous());
        let table = [
            // content before, entry, credsStore, content after
            ("", &bob, None, "{\n\t\"auths\": {\n\t\t\"h\": {\n\t\t\t\"auth\": \"Ym9iOnB3\"\n\t\t}\n\t}\n}"),
            (
                "",
                &anonymous,
                Some("pass"),
                "{\n\t\"auths\": {\n\t\t\"h\": {}\n\t},\n\t\"credsStore\": \"pass\"\n}",
            ),
            (
                "{\n\t\"zeta\": 1.50,\n\t\"auths\": {\n\t\t\"a\": {\n\t\t\t\"auth\": \"eDp5\"\n\t\t}\n\t},\n\t\"alpha\": [1, 2]\n}\n",
                &bob,
                None,
                "{\n\t\"zeta\": 1.50,\n\t\"auths\": {\n\t\t\"a\": {\n\t\t\t\"auth\": \"eDp5\"\n\t\t},\n\t\t\"h\": {\n\t\t\t\"auth\": \"Ym9iOnB3\"\n\t\t}\n\t},\n\t\"alpha\": [1, 2]\n}\n",
            ),
            (
                r#"{"AUTHS":{"h":{"Auth":"eDp5","email":"e","username":"u","registrytoken":"R"}},"x":1} tail"#,
                &bob,
                None,
                r#"{"AUTHS":{"h":{"Auth":"Ym9iOnB3","email":"e"}},"x":1} tail"#,
            ),
            (
                r#"{"auths":{"h":{"auth":"eDp5","email":"e"}}}"#,
                &anonymous,
                None,
                r#"{"auths":{"h":{"email":"e"}}}"#,
            ),
            (
                "{\r\n  \"auths\": null\r\n}",
                &token,
                None,
                "{\r\n  \"auths\": {\r\n    \"h\": {\r\n      \"auth\": \"Ym9iOg==\",\r\n      \"identitytoken\": \"ID\"\r\n    }\r\n  }\r\n}",
            ),
        ];
        for (text, entry, store, want) in table {
            assert_eq!(edit(text, entry, store).as_ref().map(Option::as_deref), Ok(Some(want)), "{text}");
            assert_eq!(edit(want, entry, store), Ok(None), "a second edit changes nothing: {want}");
        }
    }

    #[test]
    fn replaces_an_entry_that_docker_cannot_read() {
        // The `auth` is base64 without padding, which docker cannot read.
        let text = r#"{"auths":{"h":{"auth":"Ym9iOnB3ZA"}}}"#;
        let bob = Credentials::basic("bob".to_owned(), Secret::new("pwd".to_owned()));
        assert_eq!(edit(text, &bob, None), Ok(Some(text.replace("ZA", "ZA=="))));
    }

    #[test]
    fn refuses_to_write_an_entry_that_docker_would_not_find() {
        let table = [
            ("{", "`c` is not valid JSON"),
            ("\u{feff}{}", "`c` is not valid JSON"),
            ("[]", "`c` is not a JSON object"),
            (r#"{"auths":[]}"#, "`auths` in `c` does not have the form that docker expects"),
            (r#"{"auths":{"h":"x"}}"#, "its layout cannot be edited safely"),
            (r#"{"auths":{"h":null,"h":null}}"#, "it has several entries for the registry"),
        ];
        for (text, want) in table {
            let error = edit(text, &bob(), None).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
