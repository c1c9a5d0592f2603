//! Checks whether a registry accepts credentials, before the engine uses the credentials for many requests.

use hyper::StatusCode;
use reqwest::Method;

use crate::credentials::Kind;
use crate::failure::{Class, Evidence, classify, is_lock_out};
use crate::registry::client::Refusal;
use crate::registry::error::RegistryError;
use crate::registry::token::{Challenge, scope, write_scope};
use crate::registry::{Authorization, PING, Registry};

/// The result of a check of credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The registry, or its token server, accepted the credentials.
    Accepted,
    /// The registry refused the credentials, for every repository. `reason`: redacted and sanitized.
    Refused { reason: String },
    /// The registry does not ask for credentials at `/v2/`, so the plugin sent none; or the response shows neither that
    /// the credentials are valid nor that they are not.
    Unclear,
}

impl Registry {
    /// Checks the credentials with at most one refused request, or two if the token server refuses with status 403.
    /// After a refusal, this client does not send the credentials again.
    ///
    /// * `repository`: the token is requested for this repository, and later requests use the token again. `None`: the token
    ///   is for no repository.
    /// * `is_push`: request a token to push; otherwise a token to pull, which every account with access gets.
    ///
    /// # Errors
    /// [`RegistryError::TokenPage`]: a web page answers instead of the token server. Other failures are
    /// [`Identity::Unclear`].
    pub async fn check_identity(
        &self,
        repository: Option<&str>,
        is_push: bool,
    ) -> Result<Identity, RegistryError> {
        if self.ping.asks_for_credentials != Some(true) {
            return Ok(Identity::Unclear);
        }
        let identity = match (Challenge::choose(&self.ping.challenges), self.access.credentials.kind()) {
            (
                Challenge::Bearer { realm: Some(realm), service, .. },
                Some(Kind::Password | Kind::IdentityToken),
            ) => match self.check_at_token_server(&realm, service, repository, is_push).await {
                // The URL of the token server may be wrong, and the registry also accepts a password.
                Ok(Identity::Unclear) | Err(_) if Challenge::offers_basic(&self.ping.challenges) => {
                    self.check_password().await
                }
                identity => identity?,
            },
            (Challenge::Basic, Some(Kind::Password)) => self.check_password().await,
            _ => Identity::Unclear,
        };
        if let Identity::Refused { reason } = &identity {
            let _ = self.refused.set(reason.clone());
        }
        Ok(identity)
    }

    /// Requests a token. Status 403 may be about the repository (GHCR, GitLab), so the request is then repeated
    /// without a scope, as `docker login` sends it.
    async fn check_at_token_server(
        &self,
        realm: &str,
        service: Option<String>,
        repository: Option<&str>,
        is_push: bool,
    ) -> Result<Identity, RegistryError> {
        let pull = repository.map(scope);
        let push = repository.filter(|_| is_push).map(write_scope);
        let requested = push.as_ref().or(pull.as_ref()).map_or("", String::as_str);
        let refusal = match self.request_token(realm, service.clone(), requested).await {
            Ok(Ok(token)) => {
                for scope in [&push, &pull].into_iter().flatten() {
                    self.remember(scope, token.clone());
                }
                return Ok(Identity::Accepted);
            }
            Ok(Err(refusal)) => refusal,
            Err(error) if error.is_web_page() => return Err(error),
            Err(_) => return Ok(Identity::Unclear),
        };
        if refusal.status != StatusCode::FORBIDDEN || is_lock_out(&refusal.reason) {
            return Ok(identity_of(refusal));
        }
        let again = match requested {
            "" => Ok(Err(refusal)),
            _ => self.request_token(realm, service, "").await,
        };
        Ok(match again {
            Ok(Ok(_)) => Identity::Accepted,
            // A page of a proxy has no code, and a firewall refuses any credentials.
            Ok(Err(again)) if again.status == StatusCode::FORBIDDEN && again.code.is_some() => {
                match classify(&Evidence::of_text(&again.reason, true)).class {
                    Class::Auth | Class::Denied => Identity::Refused { reason: again.reason },
                    _ => Identity::Unclear,
                }
            }
            Ok(Err(again)) => identity_of(again),
            Err(_) => Identity::Unclear,
        })
    }

    /// Sends the user name and the password to `/v2/`.
    async fn check_password(&self) -> Identity {
        let (Some(basic), Ok(url)) = (self.basic(), self.path(PING)) else { return Identity::Unclear };
        match self.ask_with(Method::GET, url, Some(&basic)).await {
            Ok(response) if response.status().is_success() => {
                self.remember("", Authorization::lasting(basic));
                Identity::Accepted
            }
            Ok(response) => self.read_refusal(response).await.map_or(Identity::Unclear, identity_of),
            Err(_) => Identity::Unclear,
        }
    }
}

/// Returns whether a refused request with credentials means that the credentials are not valid: status 401,
/// `invalid_grant` of a token server (RFC 6749, 5.2), or a 403 or 429 whose reason is about credentials: expired
/// credentials (ECR), or too many failed logins (Docker Hub).
fn identity_of(refusal: Refusal) -> Identity {
    let is_about_identity = match refusal.status {
        StatusCode::UNAUTHORIZED => true,
        StatusCode::BAD_REQUEST => refusal.code.as_deref() == Some("invalid_grant"),
        StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => {
            classify(&Evidence::of_text(&refusal.reason, true)).class == Class::Auth
        }
        _ => false,
    };
    if is_about_identity { Identity::Refused { reason: refusal.reason } } else { Identity::Unclear }
}
