//! Answers the authentication challenges of a registry, and obtains tokens from the registry's token server.
//!
//! Source: distribution `docs/spec/auth/token.md`; RFC 7235 for challenges.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use http_auth::ChallengeRef;
use hyper::StatusCode;
use reqwest::header::AUTHORIZATION;
use reqwest::redirect::Policy;
use serde::Deserialize;
use serde_json::Value;

use crate::credentials::Kind;
use crate::failure::Class;
use crate::net::is_loopback;
use crate::net::tls::Tls;
use crate::registry::client::{
    MAX_BODY, Refusal, build, builder, is_html, location, place, shown, tls_config_for, url,
};
use crate::registry::connect::redirects_to_sign_in;
use crate::registry::error::RegistryError;
use crate::registry::{Authorization, Registry, TokenOrigin};
use crate::secret::Secret;
use crate::text::sanitize;

/// The client ID that docker sends to token servers. Token servers issued the stored identity tokens
/// to this ID.
const CLIENT_ID: &str = "docker";

/// Returns the scope of a token that may pull from a repository.
pub fn scope(repository: &str) -> String {
    format!("repository:{repository}:pull")
}

/// Returns the scope of a token that may push to a repository.
pub fn write_scope(repository: &str) -> String {
    format!("repository:{repository}:pull,push")
}

/// The lifetime of a token if the token server reports none.
///
/// Source: distribution `docs/spec/auth/token.md`.
const LIFETIME: Duration = Duration::from_secs(60);
/// Longer lifetimes of tokens are shortened to this, so that the time at which a token expires can be computed.
const MAX_LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The authentication scheme that a registry requires, from the header `WWW-Authenticate`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// The registry requires a token from a token server.
    Bearer {
        /// The URL of the token server.
        realm: Option<String>,
        service: Option<String>,
        /// The scope that the registry requires; `None` if the header names no scope.
        scope: Option<String>,
    },
    /// The registry requires a username and a password.
    Basic,
    /// The registry requires an unsupported scheme. `schemes`: the names of the schemes, sanitized for a
    /// message.
    Unknown { schemes: String },
}

impl Challenge {
    /// Chooses a challenge from the values of `WWW-Authenticate`. Prefers a token (Bearer) to a password
    /// (Basic).
    pub(super) fn choose(headers: &[String]) -> Self {
        let parsed = parse(headers);
        let of = |scheme: &str| parsed.iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case(scheme));
        if let Some(bearer) = of("Bearer") {
            let parameter = |name: &str| {
                let mut parameters = bearer.params.iter();
                let found = parameters.find(|(found, _)| found.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            let (realm, service, scope) = (parameter("realm"), parameter("service"), parameter("scope"));
            return Self::Bearer { realm, service, scope };
        }
        if of("Basic").is_some() {
            return Self::Basic;
        }
        let schemes: Vec<&str> = parsed.iter().map(|challenge| challenge.scheme).collect();
        let schemes =
            if schemes.is_empty() { "none is named".to_owned() } else { sanitize(&schemes.join(", ")) };
        Self::Unknown { schemes }
    }

    /// Returns whether the values of `WWW-Authenticate` offer Basic authentication, possibly beside a token.
    pub(super) fn offers_basic(headers: &[String]) -> bool {
        parse(headers).iter().any(|challenge| challenge.scheme.eq_ignore_ascii_case("Basic"))
    }
}

/// Returns the value of `Authorization` with a token.
fn bearer(token: &Secret) -> Secret {
    Secret::new(format!("Bearer {}", token.expose()))
}

/// Parses the values of `WWW-Authenticate`. Ignores values that cannot be parsed.
fn parse(headers: &[String]) -> Vec<ChallengeRef<'_>> {
    headers.iter().filter_map(|text| http_auth::parse_challenges(text).ok()).flatten().collect()
}

impl Registry {
    /// Returns the value of `Authorization` that satisfies one of the challenges.
    pub(super) async fn authorize(
        &self,
        challenges: &[String],
        scope: &str,
        reason: &str,
    ) -> Result<Authorization, RegistryError> {
        let credentials = &self.access.credentials;
        if let Some(reason) = self.refused.get() {
            return Err(self.unauthorized(reason.clone()));
        }
        let unauthorized = || self.unauthorized(reason.to_owned());
        match (Challenge::choose(challenges), credentials.kind()) {
            (Challenge::Bearer { realm, service, scope: asked }, _) => {
                if let Some(token) = &credentials.registry_token {
                    return Ok(Authorization::lasting(bearer(token)));
                }
                let realm = realm.ok_or_else(|| self.no_token("the registry does not name a token server"));
                let token = match realm {
                    Ok(realm) => self.token(&realm, service, asked.as_deref().unwrap_or(scope)).await,
                    Err(error) => Err(error),
                };
                match (token, self.basic()) {
                    (Ok(token), _) => Ok(token),
                    // The URL of the token server may be wrong, and the registry also accepts a password.
                    (Err(error), Some(basic))
                        if (error.class() == Class::Other || error.is_web_page())
                            && Challenge::offers_basic(challenges) =>
                    {
                        Ok(Authorization::lasting(basic))
                    }
                    (Err(error), _) => Err(error),
                }
            }
            (Challenge::Basic, Some(Kind::Password)) => {
                self.basic().map(Authorization::lasting).ok_or_else(unauthorized)
            }
            (Challenge::Basic, None) => Err(unauthorized()),
            (Challenge::Basic, _) => {
                Err(self.unauthorized("it requires a password, and only a token is stored".to_owned()))
            }
            (Challenge::Unknown { .. }, _) if challenges.is_empty() => Err(unauthorized()),
            (Challenge::Unknown { schemes }, _) => {
                let reason =
                    format!("it requires an unsupported authentication scheme ({schemes}): {reason}");
                Err(RegistryError::Answered {
                    server: self.server(&self.api),
                    status: StatusCode::UNAUTHORIZED,
                    code: None,
                    reason,
                    retry_after: None,
                })
            }
        }
    }

    /// Returns the value of `Authorization` with the user name and the password.
    pub(super) fn basic(&self) -> Option<Secret> {
        let packed = self.access.credentials.basic_auth()?;
        Some(Secret::new(format!("Basic {}", packed.expose())))
    }

    /// Obtains a token for a scope from the token server that the registry names.
    async fn token(
        &self,
        realm: &str,
        service: Option<String>,
        scope: &str,
    ) -> Result<Authorization, RegistryError> {
        self.request_token(realm, service, scope).await?.map_err(|refusal| {
            if matches!(refusal.status.as_u16(), 400 | 401 | 403) {
                self.unauthorized(refusal.reason)
            } else {
                self.refusal(refusal)
            }
        })
    }

    /// Requests a token for a scope from a token server. Returns `Ok(Err(_))` if the token server refuses the request.
    pub(super) async fn request_token(
        &self,
        realm: &str,
        service: Option<String>,
        scope: &str,
    ) -> Result<Result<Authorization, Refusal>, RegistryError> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<Secret>,
            access_token: Option<Secret>,
            expires_in: Option<Value>,
        }
        let credentials = &self.access.credentials;
        // Some registries name the token server by a path on their own host.
        let realm = self.api.join(realm).map_or_else(|_| realm.to_owned(), String::from);
        let mut url = url(&self.domain, &realm)?;
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let is_own = place(&url) == place(&self.api);
        let may_be_plain = is_own || self.access.allows_plain_token_server || is_loopback(&host);
        if url.scheme() != "https" && !credentials.is_anonymous() && !may_be_plain {
            let reason = format!(
                "the token server `{}` does not use TLS, so the plugin sends no credentials to it",
                sanitize(&host)
            );
            return Err(self.no_token(&reason));
        }
        let skips_verify = is_own || self.access.skips_verify_elsewhere;
        let tls_config = if url.scheme() == "https" && self.access.tls.skip_verify && !skips_verify {
            let tls = Tls { skip_verify: false, ..self.access.tls.clone() };
            tls_config_for(&self.domain, &tls, &self.access.certificates)?
        } else {
            self.tls_config.clone()
        };
        // The client does not follow redirects, because another server must not receive the credentials.
        let client = build(&self.domain, builder(tls_config, Policy::none()))?;
        let asked_service = service.clone();
        let fields = service.map(|service| ("service", service)).into_iter();
        // A challenge may contain several scopes, separated by spaces.
        let fields = fields.chain(scope.split_whitespace().map(|scope| ("scope", scope.to_owned())));
        let request = if let Some(token) = &credentials.identity_token {
            let mut form: Vec<_> = fields.collect();
            let fixed = [("grant_type", "refresh_token"), ("client_id", CLIENT_ID)];
            form.extend(fixed.map(|(name, value)| (name, value.to_owned())));
            form.push(("refresh_token", token.expose().to_owned()));
            client.post(url).form(&form)
        } else {
            url.query_pairs_mut().extend_pairs(fields);
            let request = client.get(url);
            match (&credentials.username, &credentials.password, self.basic()) {
                (Some(username), Some(_), Some(basic)) => {
                    request.query(&[("account", username)]).header(AUTHORIZATION, self.sensitive(&basic)?)
                }
                _ => request,
            }
        };
        let response = self.send(&client, request).await?;
        let is_redirection = response.status().is_redirection();
        let target = location(&response).filter(|_| is_redirection);
        let server = shown(response.url());
        let page = || RegistryError::TokenPage { registry: self.domain.clone(), server: server.clone() };
        if target.is_some_and(|target| redirects_to_sign_in(response.url(), &target)) {
            return Err(page());
        }
        let is_html = is_html(&response);
        if !response.status().is_success() {
            return Ok(Err(self.read_refusal(response).await?));
        }
        let body = Secret::new(String::from_utf8_lossy(&self.body(response, MAX_BODY).await?).into_owned());
        if is_html && body.expose().trim_start().starts_with('<') {
            return Err(page());
        }
        let answer: Option<Answer> = serde_json::from_str(body.expose()).ok();
        let lifetime = answer.as_ref().and_then(|answer| answer.expires_in.as_ref()?.as_f64());
        let lifetime = lifetime.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let token = answer.and_then(|answer| answer.token.or(answer.access_token));
        let token = token.filter(|token| !token.expose().is_empty());
        let token = token.ok_or_else(|| self.no_token("the token server returned no token"))?;
        self.redactor.lock().unwrap_or_else(PoisonError::into_inner).add(&token);
        let issued = Instant::now();
        let expires = issued + lifetime.unwrap_or(LIFETIME).min(MAX_LIFETIME);
        let origin = TokenOrigin { realm, service: asked_service, issued, expires };
        Ok(Ok(Authorization { value: bearer(&token), origin: Some(origin) }))
    }

    /// Returns the value of `Authorization` for a request with this scope whose body cannot be sent a second time. A token
    /// that expires within a minute is replaced first, if the token server issues another. Returns `None` if the registry has
    /// not asked for credentials so far.
    pub(super) async fn fresh_authorization(&self, scope: &str) -> Option<Secret> {
        let known = self.known_authorization(scope)?;
        if known.expires_soon(Instant::now())
            && let Some(TokenOrigin { realm, service, .. }) = &known.origin
            && let Ok(newer) = self.token(realm, service.clone(), scope).await
        {
            self.remember(scope, newer.clone());
            return Some(newer.value);
        }
        Some(known.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefers_bearer_to_basic_challenges() {
        let bearer = |realm: Option<&str>, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
            realm: realm.map(str::to_owned),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        };
        let unknown = |schemes: &str| Challenge::Unknown { schemes: schemes.to_owned() };
        let table: [(&[&str], Challenge); 9] = [
            // values of `WWW-Authenticate`, expected challenge
            (&[r#"Basic realm="x""#], Challenge::Basic),
            (
                &[r#"Bearer realm="https://t/token",service="the registry",scope="repository:a:pull""#],
                bearer(Some("https://t/token"), Some("the registry"), Some("repository:a:pull")),
            ),
            (&[r#"Basic realm="x""#, r#"bearer REALM="https://t""#], bearer(Some("https://t"), None, None)),
            (&[r#"Basic realm="x", Bearer realm="https://t""#], bearer(Some("https://t"), None, None)),
            (&[r#"Bearer realm="https://t/\"q\"""#], bearer(Some("https://t/\"q\""), None, None)),
            (&["Bearer service=x"], bearer(None, Some("x"), None)),
            (&[r#"Digest realm="x", Negotiate"#], unknown("Digest, Negotiate")),
            (&["\u{1b}[2J", ""], unknown("none is named")),
            (&[], unknown("none is named")),
        ];
        for (headers, want) in table {
            let owned: Vec<String> = headers.iter().map(|header| (*header).to_owned()).collect();
            assert_eq!(Challenge::choose(&owned), want, "{headers:?}");
        }
    }

    #[test]
    fn scopes_name_one_repository() {
        assert_eq!(scope("team/app"), "repository:team/app:pull");
        assert_eq!(write_scope("team/app"), "repository:team/app:pull,push");
    }
}
