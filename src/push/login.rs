//! Prompts the user for credentials. The engine, or the plugin itself, checks the credentials with the registry before a push
//! uses them.

use crate::credentials::Credentials;
use crate::credentials::login::{CredentialsError, Login, Source, docker_login};
use crate::credentials::prompt::{PromptError, Terminal};
use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::engine::registries::AuthAnswer;
use crate::failure::{Class, Evidence, classify};
use crate::registry::Registry;
use crate::registry::identity::Identity;
use crate::secret::Secret;
use crate::text::{counted, sanitize};

#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The user typed no complete pair of user name and password.
    #[error("no credentials were entered for {registry}")]
    NothingTyped { registry: String },
    #[error("{registry} refused the credentials entered ({})", counted(*refused, "attempt"))]
    GivenUp { registry: String, refused: usize },
    #[error("cannot prompt for credentials for {registry}")]
    Prompt {
        registry: String,
        #[source]
        source: PromptError,
    },
    /// The command of `--password-command` returned no password.
    #[error(transparent)]
    Command(#[from] CredentialsError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl LoginError {
    /// Returns a hint for the user: a command to run or a setting to change.
    pub fn hint(&self) -> Option<String> {
        let registry = match self {
            Self::Engine(error) => return error.hint(),
            Self::Command(_) => {
                return Some(
                    "run the command in a shell: it must print the password, and exit with 0".to_owned(),
                );
            }
            Self::NothingTyped { registry }
            | Self::GivenUp { registry, .. }
            | Self::Prompt { registry, .. } => registry,
        };
        Some(format!("check the user name and password, or run `{}`", docker_login(registry)))
    }

    pub fn class(&self) -> Class {
        Class::Auth
    }
}

/// A prompt for the credentials of one registry.
pub struct Question<'a> {
    /// The domain of the registry, for messages.
    pub registry: &'a str,
    /// The client with which the plugin checks the credentials itself, if the options of this call decide how to connect to
    /// the registry.
    pub of_call: Option<&'a Registry>,
    /// The key under which docker stores the credentials: see [`crate::reference::Reference::credentials_key`].
    pub key: &'a str,
    pub terminal: &'a Terminal,
    pub engine: &'a mut Engine,
}

/// Credentials that the registry has not refused.
#[derive(Debug)]
pub struct Checked {
    pub credentials: Credentials,
    /// The raw reason, if the credentials could not be checked. `None`: the registry accepts the
    /// credentials.
    pub unchecked: Option<String>,
}

impl Question<'_> {
    /// Prompts until the registry accepts the typed credentials or no prompt is left.
    ///
    /// The engine checks the credentials with the `/auth` request. Without this check, a wrong password would cause
    /// one failed login for each layer.
    ///
    /// * `username`: the default user name in the prompt.
    /// * `prompts_left`: the number of remaining prompts, decremented by each prompt.
    /// * `tell`: shows the user why the typed credentials were not accepted.
    ///
    /// # Errors
    /// The registry accepts none of the typed credentials, the prompt fails, or the engine cannot be reached.
    pub async fn ask(
        &mut self,
        username: Option<&str>,
        prompts_left: &mut usize,
        mut tell: impl FnMut(&str),
    ) -> Result<Checked, LoginError> {
        let registry = self.registry.to_owned();
        let mut username = username.map(str::to_owned);
        let mut refused = 0;
        while *prompts_left > 0 {
            *prompts_left -= 1;
            let asked = self.terminal.ask(username.as_deref()).await;
            let (typed_name, password) =
                asked.map_err(|source| LoginError::Prompt { registry: registry.clone(), source })?;
            username = typed_name;
            let (Some(name), Some(password)) = (&username, password) else {
                tell("a user name and a password are required");
                continue;
            };
            if name.contains(':') {
                // In basic authentication, a colon ends the user name (RFC 7617, 2).
                tell("a user name cannot contain a colon");
                username = None;
                continue;
            }
            let typed = Credentials::basic(name.clone(), password);
            match check(self.engine, self.of_call, typed, self.key).await? {
                Ok(login) => return Ok(login),
                Err(message) => {
                    refused += 1;
                    let who = username.as_deref().map(sanitize).unwrap_or_default();
                    tell(&format!(
                        "{registry} does not accept this password for `{who}`: {}",
                        sanitize(&message)
                    ));
                }
            }
        }
        Err(if refused == 0 {
            LoginError::NothingTyped { registry }
        } else {
            LoginError::GivenUp { registry, refused }
        })
    }
}

/// Checks credentials with the registry, through the engine or, with a client of the registry, directly. The inner `Err` is the
/// raw error message if the registry refuses the credentials.
///
/// # Errors
/// The engine cannot be reached.
pub async fn check(
    engine: &mut Engine,
    registry: Option<&Registry>,
    credentials: Credentials,
    key: &str,
) -> Result<Result<Checked, String>, EngineError> {
    if let Some(registry) = registry {
        let login = Login::new(&credentials, Source::Prompt, Vec::new());
        let asked = registry.with_credentials(credentials.clone(), login);
        let unchecked = match asked.check_identity(None, false).await {
            Ok(Identity::Refused { reason }) => return Ok(Err(reason)),
            Ok(Identity::Accepted) => None,
            Ok(Identity::Unclear) if credentials.is_anonymous() => None,
            Ok(Identity::Unclear) => Some("its answer does not show whether it accepts them".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        return Ok(Ok(Checked { credentials, unchecked }));
    }
    Ok(match engine.registry_login(&credentials, key).await? {
        AuthAnswer::Accepted { identity_token: Some(token) } => {
            Ok(Checked { credentials: with_token(credentials, token), unchecked: None })
        }
        AuthAnswer::Accepted { identity_token: None } => Ok(Checked { credentials, unchecked: None }),
        AuthAnswer::Refused { message } if is_about_login(&message) => Err(message),
        AuthAnswer::Refused { message } => Ok(Checked { credentials, unchecked: Some(message) }),
    })
}

/// Replaces the password in the credentials with an identity token.
fn with_token(credentials: Credentials, token: Secret) -> Credentials {
    Credentials { password: None, identity_token: Some(token), ..credentials }
}

/// Returns whether an error message of the engine means that the registry refused the credentials.
///
/// For a registry with basic authentication, the engine responds with HTTP 500 and mentions the registry's 401 only in
/// the message.
fn is_about_login(message: &str) -> bool {
    matches!(classify(&Evidence::of_text(message, true)).class, Class::Auth | Class::Denied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_a_refused_login_from_an_unreachable_registry() {
        let table = [
            ("login attempt to http://localhost:5001/v2/ failed with status: 401 Unauthorized", true),
            (r#"Get "https://h/v2/": unauthorized: incorrect username or password"#, true),
            (r#"Get "http://localhost:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused"#, false),
            ("login attempt to http://h/v2/ failed with status: 503 Service Unavailable", false),
        ];
        for (message, about_login) in table {
            assert_eq!(is_about_login(message), about_login, "{message}");
        }
    }
}
