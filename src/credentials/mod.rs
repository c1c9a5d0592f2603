//! Finds credentials for registries, prompts for and saves credentials, and encodes credentials for the
//! engine.

pub mod buildx;
pub mod command;
mod entry;
pub mod expiry;
mod helper;
pub mod keyring;
pub mod login;
mod process;
pub mod prompt;
mod remark;
pub mod save;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::Serialize;
use std::time::SystemTime;

use crate::secret::Secret;

/// Credentials that the engine sends to the registry: docker's `AuthConfig` (API 1.24 and later) without the
/// server address. Without a secret, the engine pushes anonymously.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// An OAuth refresh token, which credential helpers return with the user name `<token>`.
    pub identity_token: Option<Secret>,
    /// A Bearer token that the engine sends to the registry unchanged.
    pub registry_token: Option<Secret>,
}

/// The kinds of secret in credentials. If credentials have several secrets, engines use the kind that is last
/// in this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Password,
    IdentityToken,
    RegistryToken,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::IdentityToken => "identity-token",
            Self::RegistryToken => "registry-token",
        }
    }
}

impl Credentials {
    pub fn anonymous() -> Self {
        Self::default()
    }

    pub fn basic(username: String, password: Secret) -> Self {
        Self { username: Some(username), password: Some(password), ..Self::default() }
    }

    /// Returns the kind of secret that engines use; `None` if the credentials have no secret, even if they
    /// have a user name.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self { registry_token: Some(_), .. } => Some(Kind::RegistryToken),
            Self { identity_token: Some(_), .. } => Some(Kind::IdentityToken),
            Self { password: Some(_), .. } => Some(Kind::Password),
            _ => None,
        }
    }

    pub fn is_anonymous(&self) -> bool {
        self.kind().is_none()
    }

    /// Returns when the secret that engines use expires; `None` if the secret does not contain its end.
    pub fn expires(&self) -> Option<SystemTime> {
        let secret = match self.kind()? {
            Kind::RegistryToken => &self.registry_token,
            Kind::IdentityToken => &self.identity_token,
            Kind::Password => &self.password,
        };
        expiry::expires(exposed(secret.as_ref()))
    }

    /// Returns these credentials as the JSON that docker sends to the engine, without empty fields.
    ///
    /// * `server`: the domain in the image reference, or `https://index.docker.io/v1/` for Docker Hub. With
    ///   any other value, an engine with the containerd store silently drops the credentials.
    pub fn auth_config(&self, server: &str) -> Secret {
        #[derive(Serialize)]
        struct AuthConfig<'a> {
            #[serde(skip_serializing_if = "str::is_empty")]
            username: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            password: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            serveraddress: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            identitytoken: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            registrytoken: &'a str,
        }
        let config = AuthConfig {
            username: self.username.as_deref().unwrap_or_default(),
            password: exposed(self.password.as_ref()),
            serveraddress: if self.is_anonymous() { "" } else { server },
            identitytoken: exposed(self.identity_token.as_ref()),
            registrytoken: exposed(self.registry_token.as_ref()),
        };
        Secret::new(serde_json::to_string(&config).expect("strings become JSON"))
    }

    /// Returns the value of the header `X-Registry-Auth`: these credentials as JSON in URL-safe base64 *with*
    /// padding (RFC 4648, 5). The engine silently drops a value in any other encoding, and pushes
    /// anonymously.
    pub fn header(&self, server: &str) -> Secret {
        Secret::new(URL_SAFE.encode(self.auth_config(server).expose()))
    }

    /// Returns all secrets in these credentials that messages must not show: tokens, the password, and the
    /// base64 of `user:password`.
    pub fn secrets(&self) -> Vec<Secret> {
        let tokens = [&self.identity_token, &self.registry_token, &self.password].into_iter().flatten();
        tokens.cloned().chain(self.basic_auth()).collect()
    }

    /// Returns the base64 of `user:password`, as in config.json and Basic authentication (RFC 7617, 2).
    pub fn basic_auth(&self) -> Option<Secret> {
        let (username, password) = (self.username.as_ref()?, exposed(self.password.as_ref()));
        let pair = Secret::new(format!("{username}:{password}"));
        Some(Secret::new(STANDARD.encode(pair.expose())))
    }
}

fn exposed(secret: Option<&Secret>) -> &str {
    secret.map_or("", Secret::expose)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::docker::config::AuthEntry;

    pub fn entry(auth: Option<&str>) -> AuthEntry {
        AuthEntry { auth: auth.map(|auth| Secret::new(auth.to_owned())), ..AuthEntry::default() }
    }

    pub fn basic(username: &str, password: &str) -> Credentials {
        Credentials::basic(username.to_owned(), Secret::new(password.to_owned()))
    }

    /// Returns credentials as JSON in clear text, so that tests can compare the result.
    pub fn shown(credentials: &Credentials) -> String {
        credentials.auth_config("h").expose().to_owned()
    }

    #[test]
    fn header_matches_the_one_docker_sends() {
        let table = [
            (
                basic("alice", "s3cret"),
                "localhost:5001",
                "eyJ1c2VybmFtZSI6ImFsaWNlIiwicGFzc3dvcmQiOiJzM2NyZXQiLCJzZXJ2ZXJhZGRyZXNzIjoibG9jYWxob3N0OjUwMDEifQ==",
            ),
            (Credentials::anonymous(), "localhost:5001", "e30="),
        ];
        for (credentials, server, want) in table {
            assert_eq!(credentials.header(server).expose(), want);
        }
        // The standard base64 of these credentials contains `+` and `/`, and engines silently ignore a header
        // with these characters.
        let header = basic("a", "~~~???>>>").header("h");
        assert!(
            header.expose().contains(['-', '_']) && !header.expose().contains(['+', '/']),
            "{}",
            header.expose()
        );
    }

    #[test]
    fn body_matches_the_one_docker_sends() {
        let token = |text: &str| Some(Secret::new(text.to_owned()));
        let identity = || Credentials { identity_token: token("ID"), ..Credentials::default() };
        let table = [
            (Credentials::anonymous(), "{}"),
            (
                Credentials { username: Some("bob".to_owned()), ..Credentials::default() },
                "{\"username\":\"bob\"}",
            ),
            (basic("bob", "filepw"), r#"{"username":"bob","password":"filepw","serveraddress":"h"}"#),
            (basic("bob", ""), r#"{"username":"bob","serveraddress":"h"}"#),
            (identity(), r#"{"serveraddress":"h","identitytoken":"ID"}"#),
            (
                Credentials { identity_token: token("ID"), ..basic("bob", "pw") },
                r#"{"username":"bob","password":"pw","serveraddress":"h","identitytoken":"ID"}"#,
            ),
            (
                Credentials { registry_token: token("RT"), ..identity() },
                r#"{"serveraddress":"h","identitytoken":"ID","registrytoken":"RT"}"#,
            ),
        ];
        for (credentials, want) in table {
            assert_eq!(shown(&credentials), want);
        }
    }
}
