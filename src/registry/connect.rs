//! Connects to a registry: finds out whether it uses TLS, and whether the server is a registry at all.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures_util::future::{Either, select};
use hyper::StatusCode;
use reqwest::header::CONTENT_TYPE;
use reqwest::redirect::Policy;
use reqwest::{Response, Url};
use tower::util::MapResponseLayer;

use crate::credentials::Credentials;
use crate::credentials::login::Login;
use crate::failure::Class;
use crate::net::tls::TlsProblem;
use crate::reference::HUB;
use crate::registry::access::{Access, Scheme};
use crate::registry::client::{
    MAX_REASON, MAX_REDIRECTS, build, builder, challenges, follow, location, resolved, shown, tls_config_for,
    url,
};
use crate::registry::error::RegistryError;
use crate::registry::{PING, Ping, Registry};
use crate::secret::Redactor;

/// The host of Docker Hub's API.
const HUB_API: &str = "registry-1.docker.io";
/// The time after which the plugin also tries plain HTTP, if the engine allows plain HTTP for the registry. A server
/// that does not speak TLS may leave a TLS handshake unanswered.
const TLS_GRACE: Duration = Duration::from_secs(1);

impl Registry {
    /// Connects to a registry with the scheme of its [`Access`].
    ///
    /// * `domain`: the `host[:port]` of the registry, from [`crate::reference::Reference::domain`].
    /// * `has_connected`: set as soon as a connection is established, before the registry has responded.
    ///
    /// # Errors
    /// The registry cannot be reached, has an invalid certificate, or does not respond like a registry.
    pub async fn connect(
        domain: &str,
        access: Access,
        has_connected: Arc<AtomicBool>,
    ) -> Result<Self, RegistryError> {
        let host = if domain == HUB { HUB_API } else { domain };
        let redactor = Redactor::new(access.credentials.secrets());
        let tls_config = tls_config_for(domain, &access.tls, &access.certificates)?;
        let api = url(domain, &format!("https://{host}/"))?;
        let mut client = builder(tls_config.clone(), Policy::custom(follow));
        client = client.connector_layer(MapResponseLayer::new(move |connection| {
            has_connected.store(true, Ordering::Relaxed);
            connection
        }));
        client = resolved(client, domain, &api, &access.addresses);
        let mut registry = Self {
            domain: domain.to_owned(),
            api,
            client: build(domain, client)?,
            tls_config,
            access,
            redactor: Mutex::new(redactor),
            authorization: Mutex::default(),
            ping: Ping::default(),
            upload_server: Mutex::default(),
            chunk_limits: Arc::default(),
            refused: OnceLock::new(),
        };
        let plain = url(domain, &format!("http://{host}/"))?;
        (registry.api, registry.ping) = match registry.access.scheme {
            Scheme::Https => (registry.api.clone(), registry.ping(&registry.api).await?),
            Scheme::HttpsOrHttp => registry.ping_with_or_without_tls(&plain).await?,
            Scheme::Http => (plain.clone(), registry.ping(&plain).await?),
        };
        Ok(registry)
    }

    /// Returns a client of the same registry with other credentials. Sends no request.
    #[must_use]
    pub fn with_credentials(&self, credentials: Credentials, login: Login) -> Self {
        Self {
            domain: self.domain.clone(),
            api: self.api.clone(),
            client: self.client.clone(),
            tls_config: self.tls_config.clone(),
            redactor: Mutex::new(Redactor::new(credentials.secrets())),
            authorization: Mutex::default(),
            ping: self.ping.clone(),
            upload_server: Mutex::default(),
            chunk_limits: Arc::clone(&self.chunk_limits),
            refused: OnceLock::new(),
            access: Access { credentials, login, ..self.access.clone() },
        }
    }

    /// Returns whether the registry asks for credentials at `/v2/`. Docker logs in only to such registries. `None`: the
    /// registry refused the request in another way.
    pub fn asks_for_credentials(&self) -> Option<bool> {
        self.ping.asks_for_credentials
    }

    /// Sends the first request with TLS. If TLS fails, or takes longer than [`TLS_GRACE`], sends the request with plain
    /// HTTP too. Returns the base URL of the scheme that the registry responded to.
    ///
    /// * `plain`: the base URL with the scheme `http`.
    async fn ping_with_or_without_tls(&self, plain: &Url) -> Result<(Url, Ping), RegistryError> {
        let late = async {
            tokio::time::sleep(TLS_GRACE).await;
            self.ping(plain).await
        };
        let secure = match select(Box::pin(self.ping(&self.api)), Box::pin(late)).await {
            Either::Left((secure, _)) => secure,
            // A redirect may lead to the TLS port of the registry, so this response does not count.
            Either::Right((Ok(ping), _)) if ping.redirected_to.is_none() => return Ok((plain.clone(), ping)),
            Either::Right((_, secure)) => secure.await,
        };
        let error = match secure {
            Ok(ping) => return Ok((self.api.clone(), ping)),
            Err(error @ (RegistryError::Unreachable { .. } | RegistryError::Tls { .. })) => error,
            Err(error) => return Err(error),
        };
        // If HTTPS and HTTP both fail, report the TLS error, unless this error only says that the server does not speak
        // TLS.
        let ping = self.ping(plain).await.map_err(|without| match error {
            RegistryError::Tls { problem, .. } if matches!(*problem, TlsProblem::PlainText) => without,
            error @ RegistryError::Tls { .. } => error,
            _ => without,
        })?;
        Ok((plain.clone(), ping))
    }

    /// Sends `GET /v2/` without credentials, and follows redirects.
    ///
    /// * `api`: the base URL of the registry.
    async fn ping(&self, api: &Url) -> Result<Ping, RegistryError> {
        let mut url = api.join(PING).map_err(|error| self.not_a_registry(&error.to_string()))?;
        let mut redirected_to = None;
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.send(&self.client, self.client.get(url.clone())).await;
            let response = answer.map_err(|error| {
                // The registry itself responded, and the sign-in page cannot be reached.
                let is_page = redirected_to.is_some() && is_sign_in(&url);
                if is_page { self.elsewhere(&url, false) } else { error }
            })?;
            if let Some(next) = location(&response).filter(|_| response.status().is_redirection()) {
                if url.scheme() == "https" && next.scheme() != "https" {
                    return Err(self.elsewhere(&next, false));
                }
                url = next;
                redirected_to = Some(url.clone());
                continue;
            }
            return self.read_ping(response, redirected_to).await;
        }
        Err(self.elsewhere(&url, false))
    }

    /// Reads the response to the first request.
    ///
    /// # Errors
    /// The response does not come from a registry, but for example from a sign-in page in front of the registry.
    async fn read_ping(&self, response: Response, redirected_to: Option<Url>) -> Result<Ping, RegistryError> {
        let (status, challenges) = (response.status(), challenges(&response));
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_json = content_type.is_some_and(|content_type| content_type.contains("json"));
        let is_refused = status == StatusCode::UNAUTHORIZED;
        let asks_for_credentials = match status {
            StatusCode::UNAUTHORIZED => Some(true),
            status if status.is_success() => Some(false),
            _ => None,
        };
        let ping = Ping { asks_for_credentials, challenges, redirected_to };
        let can_be_page = status.is_success() || (is_refused && ping.challenges.is_empty());
        if can_be_page && !is_json {
            let body = self.start_of(response, MAX_REASON).await?;
            let page = String::from_utf8_lossy(&body);
            if page.trim_start().starts_with('<') {
                let has_password = page.to_lowercase().replace(['"', '\''], "").contains("type=password");
                return Err(match &ping.redirected_to {
                    Some(url) => self.elsewhere(url, has_password),
                    None => RegistryError::WebPage {
                        registry: self.domain.clone(),
                        redirect: None,
                        is_sign_in: has_password || is_refused,
                    },
                });
            }
            return Ok(ping);
        }
        if matches!(status, StatusCode::OK | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Ok(ping);
        }
        let error = self.unexpected(response).await;
        let is_transient = matches!(error.class(), Class::RateLimited | Class::Server);
        Err(ping.redirected_to.filter(|_| !is_transient).map_or(error, |url| self.elsewhere(&url, false)))
    }

    /// Returns the error for a redirect to a server that is not a registry.
    fn elsewhere(&self, url: &Url, has_password: bool) -> RegistryError {
        RegistryError::WebPage {
            registry: self.domain.clone(),
            redirect: Some(shown(url)),
            is_sign_in: has_password || is_sign_in(url),
        }
    }
}

/// Words in the URLs of sign-in pages.
const SIGN_IN: [&str; 8] = ["login", "log-in", "logon", "signin", "sign-in", "sign_in", "sso", "saml"];
/// Words in the URLs of servers that issue tokens, and of sign-in pages.
const TOKENS: [&str; 5] = ["oauth", "oidc", "openid", "authorize", "/auth"];

/// Returns whether a URL to which a registry redirects names a sign-in page, by words that single sign-on servers use.
fn is_sign_in(url: &Url) -> bool {
    has_word(url, &SIGN_IN) || has_word(url, &TOKENS)
}

/// Returns whether a token server redirects to a sign-in page on another host. A redirect to another URL of a token server
/// is harmless, since engines follow it.
pub fn redirects_to_sign_in(from: &Url, to: &Url) -> bool {
    to.host_str() != from.host_str() && has_word(to, &SIGN_IN) && !has_word(from, &SIGN_IN)
}

fn has_word(url: &Url, words: &[&str]) -> bool {
    let text = format!("{}{}", url.host_str().unwrap_or_default(), url.path()).to_lowercase();
    words.iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognizes_urls_of_sign_in_pages() {
        let table = [
            ("https://sso.example.com/", true),
            ("http://127.0.0.1:5717/login?next=/v2/", true),
            ("https://example.com/users/sign_in", true),
            ("https://login.microsoftonline.com/common/oauth2/v2.0/authorize", true),
            ("https://id.example.com/realms/x/protocol/openid-connect/auth", true),
            ("https://www.example.com/", false),
            ("https://registry.example.com/v2/", false),
        ];
        for (text, want) in table {
            assert_eq!(is_sign_in(&Url::parse(text).unwrap()), want, "{text}");
        }
        let redirects = |to: &str| {
            let from = Url::parse("https://gitlab.example.com/jwt/auth").unwrap();
            redirects_to_sign_in(&from, &Url::parse(to).unwrap())
        };
        assert!(redirects("https://sso.example.com/login"));
        assert!(
            !redirects("https://gitlab.example.com/login") && !redirects("https://auth.example.com/jwt/auth")
        );
    }
}
