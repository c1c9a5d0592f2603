//! Checks whether a registry accepts credentials, before the engine uses the credentials for many requests.

use hyper::StatusCode;
use reqwest::Method;

use crate::credentials::Kind;
use crate::failure::{Class, Evidence, classify};
use crate::registry::Registry;
use crate::registry::client::Refusal;
use crate::registry::token::{Challenge, scope, write_scope};
use crate::secret::Secret;

/// The result of a check of credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The registry, or its token server, accepted the credentials.
    Accepted,
    /// The registry does not ask for credentials at `/v2/`, so the plugin sent none.
    NotAsked,
    /// The registry refused the credentials, for every repository. `reason`: redacted and sanitized.
    Refused { reason: String },
    /// The response shows neither that the credentials are valid nor that they are not.
    Unclear,
}

impl Registry {
    /// Checks the credentials with at most one refused request, or two if the token server refuses with status 403.
    /// After a refusal, this client does not send the credentials again.
    ///
    /// * `repository`: the token is requested for this repository, and later requests use the token again.
    pub async fn check_identity(&self, repository: &str) -> Identity {
        if !self.ping.asks_for_credentials {
            return Identity::NotAsked;
        }
        let identity = match (Challenge::choose(&self.ping.challenges), self.access.credentials.kind()) {
            (
                Challenge::Bearer { realm: Some(realm), service, .. },
                Some(Kind::Password | Kind::IdentityToken),
            ) => self.check_at_token_server(&realm, service, repository).await,
            (Challenge::Basic, Some(Kind::Password)) => self.check_password().await,
            _ => Identity::Unclear,
        };
        if let Identity::Refused { reason } = &identity {
            let _ = self.refused.set(reason.clone());
        }
        identity
    }

    /// Requests a token. Status 403 may be about the repository (GHCR, GitLab), so the request is then repeated
    /// without a scope, as `docker login` sends it.
    async fn check_at_token_server(
        &self,
        realm: &str,
        service: Option<String>,
        repository: &str,
    ) -> Identity {
        let push = write_scope(repository);
        let refusal = match self.request_token(realm, service.clone(), &push).await {
            Ok(Ok(token)) => {
                for scope in [scope(repository), push] {
                    self.remember(&scope, Secret::new(format!("Bearer {}", token.expose())));
                }
                return Identity::Accepted;
            }
            Ok(Err(refusal)) => refusal,
            Err(_) => return Identity::Unclear,
        };
        if refusal.status != StatusCode::FORBIDDEN {
            return identity_of(refusal);
        }
        match self.request_token(realm, service, "").await {
            Ok(Ok(_)) => Identity::Accepted,
            Ok(Err(again)) if again.status == StatusCode::FORBIDDEN => {
                Identity::Refused { reason: again.reason }
            }
            Ok(Err(again)) => identity_of(again),
            Err(_) => Identity::Unclear,
        }
    }

    /// Sends the user name and the password to `/v2/`.
    async fn check_password(&self) -> Identity {
        let (Some(packed), Ok(url)) = (self.access.credentials.basic_auth(), self.path("v2/")) else {
            return Identity::Unclear;
        };
        let basic = Secret::new(format!("Basic {}", packed.expose()));
        match self.ask_with(Method::GET, url, Some(&basic)).await {
            Ok(response) if response.status().is_success() => {
                self.remember("", basic);
                Identity::Accepted
            }
            Ok(response) => self.read_refusal(response).await.map_or(Identity::Unclear, identity_of),
            Err(_) => Identity::Unclear,
        }
    }
}

/// Returns whether a refused request with credentials means that the credentials are not valid: status 401,
/// `invalid_grant` of a token server (RFC 6749, 5.2), or a 403 that is about expired credentials (ECR).
fn identity_of(refusal: Refusal) -> Identity {
    let is_about_identity = match refusal.status {
        StatusCode::UNAUTHORIZED => true,
        StatusCode::BAD_REQUEST => refusal.code.as_deref() == Some("invalid_grant"),
        StatusCode::FORBIDDEN => classify(&Evidence::of_text(&refusal.reason, true)).class == Class::Auth,
        _ => false,
    };
    if is_about_identity { Identity::Refused { reason: refusal.reason } } else { Identity::Unclear }
}
