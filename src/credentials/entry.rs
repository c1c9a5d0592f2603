//! Decodes stored credentials: entries of `auths` in config.json and in `DOCKER_AUTH_CONFIG`.
//!
//! The crate `docker_credential` gets only one entry at a time, because that crate chooses among several
//! entries differently from docker (measured: 35 of 80 cases agree). Types and errors of the crate must not
//! leave this module, because their `Debug` output contains passwords.

use std::collections::BTreeMap;

use docker_credential::{DockerCredential, get_credential_from_reader};
use serde_json::{Value, json};

use crate::credentials::Credentials;
use crate::credentials::login::CredentialsError;
use crate::docker::config::{AuthEntry, field};
use crate::secret::Secret;
use crate::text::sanitize;

/// Decodes an entry of `auths`. Returns `Ok(None)` if the entry has no credentials.
pub fn decode(entry: &AuthEntry) -> Result<Option<Credentials>, &'static str> {
    if entry.is_malformed {
        return Err("does not have the form that docker expects");
    }
    let (username, password) = match &entry.auth {
        Some(auth) => decode_auth(auth).map(|(username, password)| (Some(username), Some(password)))?,
        None => (entry.username.clone(), entry.password.clone()),
    };
    let identity_token = entry.identity_token.clone();
    // docker stores an empty password next to an identity token. Ignore that password.
    let password = password.filter(|password| identity_token.is_none() || !password.expose().is_empty());
    let registry_token = entry.registry_token.clone();
    let credentials = Credentials { username, password, identity_token, registry_token };
    Ok(Some(credentials).filter(|credentials| !credentials.is_anonymous()))
}

/// Decodes the base64 of `user:password`. As docker does, ignores line ends in the base64, and NUL bytes
/// after the password.
pub fn decode_auth(auth: &Secret) -> Result<(String, Secret), &'static str> {
    let packed: String = auth.expose().chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    let config = Secret::new(json!({"auths": {"x": {"auth": packed}}}).to_string());
    match get_credential_from_reader(config.expose().as_bytes(), "x") {
        Ok(DockerCredential::UsernamePassword(username, password)) if !username.is_empty() => {
            let password = Secret::new(password);
            let trimmed = password.expose().trim_end_matches('\0').to_owned();
            Ok((username, Secret::new(trimmed)))
        }
        Ok(DockerCredential::UsernamePassword(..)) => Err("has an `auth` without a user name"),
        _ => Err("has an `auth` that is not the base64 of `user:password`"),
    }
}

/// Parses `DOCKER_AUTH_CONFIG` as docker does since 28.3: rejects unknown keys, and ignores the case of keys.
/// Returns the base64 of `user:password` for each registry.
pub fn read_variable(text: &Secret) -> Result<BTreeMap<String, Secret>, CredentialsError> {
    let broken = |reason: String| CredentialsError::Variable { reason };
    // The error contains only a position, because serde's message could quote a secret.
    let variable: Value = serde_json::from_str(text.expose()).map_err(|error| {
        broken(format!("invalid JSON at line {}, column {}", error.line(), error.column()))
    })?;
    let auths = only_field(&variable, "auths").map_err(broken)?;
    let entries = auths.as_object().ok_or_else(|| broken("`auths` is not an object".to_owned()))?;
    let auth = |(registry, entry): (&String, &Value)| {
        let auth = only_field(entry, "auth")
            .and_then(|auth| auth.as_str().ok_or("`auth` is not a string".to_owned()));
        let auth =
            auth.map_err(|reason| broken(format!("in the entry for {}, {reason}", sanitize(registry))))?;
        Ok((registry.clone(), Secret::new(auth.to_owned())))
    };
    entries.iter().map(auth).collect()
}

/// Returns the value of the field `key`. Fails if the JSON object has any other field.
fn only_field<'a>(object: &'a Value, key: &str) -> Result<&'a Value, String> {
    let fields = object.as_object().ok_or("it is not an object")?;
    match fields.iter().find(|(name, _)| !name.eq_ignore_ascii_case(key)) {
        Some((other, _)) => Err(format!("unknown key `{}`", sanitize(other))),
        None => field(object, key).ok_or_else(|| format!("`{key}` is missing")),
    }
}

/// Returns the credentials in `DOCKER_AUTH_CONFIG` for exactly this registry key. Unlike docker, accepts the
/// variable if the `auth` of another entry cannot be decoded.
pub fn from_variable(text: &Secret, key: &str) -> Result<Option<Credentials>, CredentialsError> {
    let Some(auth) = read_variable(text)?.remove(key) else { return Ok(None) };
    let (username, password) = decode_auth(&auth).map_err(|problem| bad_variable_entry(key, problem))?;
    Ok(Some(Credentials::basic(username, password)))
}

pub fn bad_variable_entry(registry: &str, problem: &str) -> CredentialsError {
    CredentialsError::Variable { reason: format!("the entry for {} {problem}", sanitize(registry)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::tests::{basic, entry, shown};

    #[test]
    fn decodes_entries_as_docker_does() {
        // The base64 values decode to `bob:a:b` (twice), `bob:pw\0\0`, `:pw` and `bob`.
        let table = [
            (entry(Some("Ym9iOmE6Yg==")), Ok(Some(shown(&basic("bob", "a:b"))))),
            (entry(Some("Ym9i\nOmE6\r\nYg==")), Ok(Some(shown(&basic("bob", "a:b"))))),
            (entry(Some("Ym9iOnB3AAA=")), Ok(Some(shown(&basic("bob", "pw"))))),
            (entry(Some("OnB3")), Err("has an `auth` without a user name")),
            (entry(Some("Ym9i")), Err("has an `auth` that is not the base64 of `user:password`")),
            (entry(Some("%%%")), Err("has an `auth` that is not the base64 of `user:password`")),
            (entry(None), Ok(None)),
        ];
        for (entry, want) in table {
            assert_eq!(
                decode(&entry).map(|found| found.as_ref().map(shown)),
                want,
                "{:?}",
                entry.auth.map(|a| a.expose().to_owned())
            );
        }
        let plain = AuthEntry {
            username: Some("bob".to_owned()),
            password: Some(Secret::new("pw".to_owned())),
            ..AuthEntry::default()
        };
        assert_eq!(decode(&plain).unwrap().as_ref().map(shown), Some(shown(&basic("bob", "pw"))));
        let token =
            AuthEntry { identity_token: Some(Secret::new("ID".to_owned())), ..entry(Some("Ym9iOg==")) };
        let want = r#"{"username":"bob","serveraddress":"h","identitytoken":"ID"}"#;
        assert_eq!(decode(&token).unwrap().as_ref().map(shown).as_deref(), Some(want));
    }

    #[test]
    fn rejects_malformed_docker_auth_config() {
        let read = |text: &str| {
            from_variable(&Secret::new(text.to_owned()), "h")
                .map(|found| found.as_ref().map(shown))
                .map_err(|e| e.to_string())
        };
        assert_eq!(read(r#"{"auths":{"h":{"auth":"Ym9iOnB3"}}}"#), Ok(Some(shown(&basic("bob", "pw")))));
        assert_eq!(read(r#"{"auths":{"https://h/v1/":{"auth":"Ym9iOnB3"}}}"#), Ok(None));
        for text in
            ["", "{}x", r#"{"auths":{},"more":1}"#, r#"{"auths":{"h":{}}}"#, r#"{"auths":{"h":"s3cret"}}"#]
        {
            let error = read(text).unwrap_err();
            assert!(
                error.starts_with("cannot parse DOCKER_AUTH_CONFIG: ") && !error.contains("s3cret"),
                "{error}"
            );
        }
    }
}
