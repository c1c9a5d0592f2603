//! Sends HTTP requests to a registry, and reads the responses.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use hyper::body::Bytes;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE,
};
use reqwest::redirect::{Action, Attempt, Policy};
use reqwest::{Client, ClientBuilder, Method, Proxy, RequestBuilder, Response, Url};
use rustls::ClientConfig;

use crate::credentials::Kind;
use crate::failure::is_lock_out;
use crate::net::tls::{self, Tls, TlsProblem};
use crate::net::{USER_AGENT_VALUE, proxy};
use crate::reference::HUB;
use crate::registry::error::{RegistryError, code, reason, root_cause};
use crate::registry::{Authorization, PING, Registry};
use crate::secret::Secret;
use crate::text::{sanitize, with_causes};

/// The reason if a proxy refuses a connection to the registry.
const PROXY_REFUSED: &str = "proxy authorization required, or the proxy does not allow this host";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum time without new bytes while a response arrives.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum time for a whole request and its response.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Maximum redirects to follow for one request.
pub(super) const MAX_REDIRECTS: usize = 5;
/// Maximum size in bytes of one response: the limit for manifests in the OCI distribution specification.
pub const MAX_BODY: usize = 4 << 20;
/// Maximum number of bytes to read from an error response, which may be a long HTML page.
pub(super) const MAX_REASON: usize = 256 << 10;
/// The value of `Accept` with all media types of manifests and indexes, so that the registry does not convert
/// a manifest.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

impl Registry {
    /// Checks that the registry accepts the credentials.
    ///
    /// # Errors
    /// The registry refuses the credentials, or the request fails.
    pub async fn accepts(&self) -> Result<(), RegistryError> {
        let response = self.ask(Method::GET, self.path(PING)?, "").await?;
        if response.status().is_success() { Ok(()) } else { Err(self.unexpected(response).await) }
    }

    /// Sends a request. If the registry asks for credentials, sends the request again with credentials.
    pub(super) async fn ask(&self, method: Method, url: Url, scope: &str) -> Result<Response, RegistryError> {
        let is_manifest = url.path().contains("/manifests/");
        let headers =
            is_manifest.then(|| HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(MANIFESTS))]));
        let headers = headers.unwrap_or_default();
        self.ask_repeatable(&Repeatable { client: &self.client, method, url, headers, body: None }, scope)
            .await
    }

    /// Sends a request. If the registry asks for credentials, sends the request again with credentials.
    pub(super) async fn ask_repeatable(
        &self,
        request: &Repeatable<'_>,
        scope: &str,
    ) -> Result<Response, RegistryError> {
        let known = self.known_authorization(scope).map(|known| known.value);
        let response = self.send_repeatable(request, known.as_ref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let authorization = self.authorize_after(response, scope, known.as_ref()).await?;
        let response = self.send_repeatable(request, Some(&authorization.value)).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let refusal = self.read_refusal(response).await?;
            // The token server accepted the credentials, but the user has no permission for this request.
            let kind = self.access.credentials.kind();
            let was_taken = authorization.value.expose().starts_with("Bearer ")
                && matches!(kind, Some(Kind::Password | Kind::IdentityToken));
            return Err(if was_taken { self.denied(refusal.reason) } else { self.refusal(refusal) });
        }
        self.remember(scope, authorization);
        Ok(response)
    }

    /// Returns another value of `Authorization` after a response with status 401: the request had none, or the token in it
    /// has expired.
    ///
    /// * `sent`: the value that the request had.
    ///
    /// # Errors
    /// The registry, or its token server, refuses the credentials. [`RegistryError::Denied`] if there is no other value.
    pub(super) async fn authorize_after(
        &self,
        response: Response,
        scope: &str,
        sent: Option<&Secret>,
    ) -> Result<Authorization, RegistryError> {
        let challenges = challenges(&response);
        let refusal = self.read_refusal(response).await?;
        // Some registries send challenges only at `/v2/`.
        let challenges = if challenges.is_empty() { &self.ping.challenges } else { &challenges };
        let authorization = self.authorize(challenges, scope, &refusal.reason).await?;
        // The registry has accepted this password at another path, so the refusal is about this request. A second
        // request would be another failed login.
        if sent.is_some_and(|sent| sent.expose() == authorization.value.expose()) {
            return Err(self.denied(refusal.reason));
        }
        Ok(authorization)
    }

    /// Returns the value of `Authorization` from an earlier request with this scope.
    pub(super) fn known_authorization(&self, scope: &str) -> Option<Authorization> {
        let known = self.authorization.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(scope).or_else(|| known.get("")).cloned()
    }

    /// Keeps a value of `Authorization` for later requests with this scope.
    pub(super) fn remember(&self, scope: &str, authorization: Authorization) {
        self.authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(scope.to_owned(), authorization);
    }

    pub(super) async fn ask_with(
        &self,
        method: Method,
        url: Url,
        authorization: Option<&Secret>,
    ) -> Result<Response, RegistryError> {
        let headers = HeaderMap::new();
        let request = Repeatable { client: &self.client, method, url, headers, body: None };
        self.send_repeatable(&request, authorization).await
    }

    async fn send_repeatable(
        &self,
        request: &Repeatable<'_>,
        authorization: Option<&Secret>,
    ) -> Result<Response, RegistryError> {
        let Repeatable { client, method, url, headers, body } = request;
        let mut asked = client.request(method.clone(), url.clone()).headers(headers.clone());
        if let Some(authorization) = authorization {
            asked = asked.header(AUTHORIZATION, self.sensitive(authorization)?);
        }
        if let Some(body) = body {
            asked = asked.body(body.clone());
        }
        self.send(client, asked).await
    }

    pub(super) fn request(
        &self,
        method: Method,
        url: Url,
        authorization: Option<&Secret>,
    ) -> Result<RequestBuilder, RegistryError> {
        let request = self.client.request(method, url);
        Ok(match authorization {
            Some(authorization) => request.header(AUTHORIZATION, self.sensitive(authorization)?),
            None => request,
        })
    }
}

impl Registry {
    pub(super) fn redact(&self, text: String) -> String {
        self.redactor.lock().unwrap_or_else(PoisonError::into_inner).redact(text)
    }

    /// Describes the server of a URL for error messages: the registry, or another server that the registry
    /// uses.
    pub(super) fn server(&self, url: &Url) -> String {
        if place(url) == place(&self.api) {
            return format!("the registry {}", self.domain);
        }
        let (host, port) = place(url);
        format!("{} for the registry {}", sanitize(&format!("{host}:{port}")), self.domain)
    }

    /// Returns a secret as a header value that is marked as sensitive.
    ///
    /// # Errors
    /// The secret contains characters that a header cannot contain, such as a line end.
    pub(super) fn sensitive(&self, secret: &Secret) -> Result<HeaderValue, RegistryError> {
        let value = HeaderValue::from_str(secret.expose());
        let mut value =
            value.map_err(|_| self.unauthorized("it holds characters that cannot be sent".to_owned()))?;
        value.set_sensitive(true);
        Ok(value)
    }

    pub(super) fn path(&self, path: &str) -> Result<Url, RegistryError> {
        self.api.join(path).map_err(|error| self.not_a_registry(&error.to_string()))
    }

    pub(super) async fn send(
        &self,
        client: &Client,
        request: RequestBuilder,
    ) -> Result<Response, RegistryError> {
        let request = request.build().map_err(|error| self.unreachable(&self.api, &error.without_url()))?;
        let url = request.url().clone();
        // Fail if the proxy setting is not valid, because a request must not bypass a configured proxy.
        if let Some(Err(variable)) = url.as_str().parse().ok().map(|url| proxy::setting(&url)) {
            let reason = format!("{variable} is not a valid proxy URL");
            let server = self.server(&url);
            return Err(RegistryError::Unreachable { server, reason, proxy: Some(variable) });
        }
        if let Some(trace) = self.access.trace {
            // These names do not include the headers that reqwest adds.
            let names: Vec<&str> = request.headers().keys().map(|name| name.as_str()).collect();
            let names = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
            trace(&sanitize(&self.redact(format!("{} {url}{names}", request.method()))));
        }
        let response = client.execute(request).await.map_err(|error| {
            // After a redirect, `url` may be the wrong URL, because reqwest does not report which server
            // failed.
            let error = error.without_url();
            match tls::find(&error) {
                Some(problem) => RegistryError::Tls {
                    server: self.server(&url),
                    registry: self.domain.clone(),
                    directory: self.access.certificates.clone(),
                    problem: Box::new(TlsProblem::of(problem, &self.access.tls)),
                },
                None => self.unreachable(&url, &error),
            }
        })?;
        if let Some(trace) = self.access.trace {
            trace(&response.status().to_string());
        }
        // Only a proxy sends this status.
        if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            return Err(self.unreachable_because(&url, response.status().to_string().to_lowercase()));
        }
        Ok(response)
    }

    pub(super) async fn body(&self, response: Response, limit: usize) -> Result<Vec<u8>, RegistryError> {
        let body = self.start_of(response, limit + 1).await?;
        if body.len() > limit {
            return Err(self.not_a_registry(&format!("it sent more than {} MB", limit >> 20)));
        }
        Ok(body)
    }

    /// Returns the first bytes of a response's body, at most `limit`.
    pub(super) async fn start_of(
        &self,
        mut response: Response,
        limit: usize,
    ) -> Result<Vec<u8>, RegistryError> {
        let mut body = Vec::new();
        let url = response.url().clone();
        while body.len() < limit
            && let Some(chunk) =
                response.chunk().await.map_err(|error| self.unreachable(&url, &error.without_url()))?
        {
            body.extend_from_slice(&chunk[..chunk.len().min(limit - body.len())]);
        }
        Ok(body)
    }

    /// Reads the reason from an error response or a redirect that was not followed: the message in the body, or
    /// the target of the redirect.
    pub(super) async fn read_refusal(&self, response: Response) -> Result<Refusal, RegistryError> {
        let (status, server) = (response.status(), self.server(response.url()));
        let target =
            response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let retry_after = retry_after(response.headers(), SystemTime::now());
        let body = self.start_of(response, MAX_REASON).await?;
        let reason = target
            .filter(|_| status.is_redirection())
            .map(|target| format!("it redirects to `{target}`"))
            .unwrap_or_else(|| reason(&body, status));
        Ok(Refusal { status, code: code(&body), reason: sanitize(&self.redact(reason)), server, retry_after })
    }

    pub(super) async fn unexpected(&self, response: Response) -> RegistryError {
        match self.read_refusal(response).await {
            Ok(refusal) => self.refusal(refusal),
            Err(error) => error,
        }
    }

    pub(super) fn refusal(&self, refusal: Refusal) -> RegistryError {
        let Refusal { status, code, reason, server, retry_after } = refusal;
        match status {
            StatusCode::UNAUTHORIZED => self.unauthorized(reason),
            StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS if is_lock_out(&reason) => {
                self.unauthorized(reason)
            }
            StatusCode::FORBIDDEN => self.denied(reason),
            StatusCode::NOT_FOUND => self.not_a_registry(&format!("it answered {status}: {reason}")),
            _ => RegistryError::Answered { server, status, code, reason, retry_after },
        }
    }

    pub(super) fn denied(&self, reason: String) -> RegistryError {
        let login = Box::new(self.access.login.clone());
        RegistryError::Denied { registry: self.domain.clone(), login, reason }
    }

    pub(super) fn unauthorized(&self, reason: String) -> RegistryError {
        RegistryError::refused_credentials(&self.domain, &self.access.login, reason)
    }

    pub(super) fn no_token(&self, reason: &str) -> RegistryError {
        RegistryError::NoToken { registry: self.domain.clone(), reason: reason.to_owned() }
    }

    pub(super) fn not_a_registry(&self, reason: &str) -> RegistryError {
        RegistryError::NotARegistry { registry: self.domain.clone(), reason: reason.to_owned() }
    }

    fn unreachable(&self, url: &Url, error: &reqwest::Error) -> RegistryError {
        let reason = match root_cause(error) {
            _ if error.is_timeout() => "it does not answer".to_owned(),
            // hyper-util hides the proxy's status. Proxies answer a wrong password with 401, 403 or 407.
            reason if reason.ends_with("tunnel error: unsuccessful") => PROXY_REFUSED.to_owned(),
            reason => reason,
        };
        self.unreachable_because(url, reason)
    }

    /// Returns the error for a failed connection, and names the proxy of the connection.
    fn unreachable_because(&self, url: &Url, reason: String) -> RegistryError {
        let server = self.server(url);
        match url.as_str().parse().ok().and_then(|url| proxy::named(&url)) {
            Some((variable, proxy)) => RegistryError::Unreachable {
                server: format!("{server} through the proxy {} ({variable})", sanitize(&proxy)),
                reason,
                proxy: Some(variable),
            },
            None => RegistryError::Unreachable { server, reason, proxy: None },
        }
    }
}

/// A request that can be sent again, with credentials.
pub(super) struct Repeatable<'a> {
    pub(super) client: &'a Client,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
}

/// An error response of a server, with the reason of the error.
pub struct Refusal {
    pub(super) status: StatusCode,
    /// The error code in the response: `errors[0].code` of a registry, or `error` of a token server.
    pub(super) code: Option<String>,
    /// The reason in the response, redacted and sanitized.
    pub(super) reason: String,
    /// The server that sent the response: the registry, or its token server.
    pub(super) server: String,
    pub(super) retry_after: Option<Duration>,
}

/// Returns the time in the header `Retry-After`, which is a number of seconds or a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).ok(),
    }
}

/// Returns a URL for a message, without the query, the fragment and the user, which may contain secrets.
pub fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    let _ = (shown.set_username(""), shown.set_password(None));
    sanitize(shown.as_str())
}

/// Returns the URL in the header `Location` of a response.
pub fn location(response: &Response) -> Option<Url> {
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    response.url().join(location).ok()
}

/// Returns whether a response contains an HTML page, by its header `Content-Type`.
pub fn is_html(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.contains("html"))
}

/// Returns the values of `WWW-Authenticate` in a response.
pub(super) fn challenges(response: &Response) -> Vec<String> {
    let values = response.headers().get_all(WWW_AUTHENTICATE).iter();
    values.filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
}

/// Returns the host and the port of a URL.
pub fn place(url: &Url) -> (&str, u16) {
    (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
}

/// Follows a redirect from a registry, unless the target changes HTTPS to HTTP. reqwest does not send the
/// credentials to another host or port. Redirects of `/v2/` are not followed, because they may lead to a sign-in
/// page, and redirects of uploads only if the method remains.
pub fn follow(attempt: Attempt<'_>) -> Action {
    let first = attempt.previous().first().map_or("", Url::path);
    // With these statuses, clients repeat a POST request as a GET request.
    let loses_method = matches!(attempt.status().as_u16(), 301..=303);
    if first == PING || (loses_method && first.contains("/blobs/uploads")) {
        return attempt.stop();
    }
    let is_downgrade = attempt.url().scheme() != "https"
        && attempt.previous().iter().any(|previous| previous.scheme() == "https");
    if is_downgrade || attempt.previous().len() > MAX_REDIRECTS { attempt.stop() } else { attempt.follow() }
}

pub fn url(registry: &str, text: &str) -> Result<Url, RegistryError> {
    let not_a_registry =
        |reason: String| RegistryError::NotARegistry { registry: registry.to_owned(), reason };
    let url = Url::parse(text).map_err(|error| not_a_registry(format!("`{}`: {error}", sanitize(text))))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        _ => Err(not_a_registry(format!("`{}` is not a server address", sanitize(text)))),
    }
}

/// Returns the TLS configuration for connections to a registry.
///
/// * `directory`: the directory of the certificates, for error messages.
pub fn tls_config_for(registry: &str, tls: &Tls, directory: &Path) -> Result<ClientConfig, RegistryError> {
    tls::config(tls).map_err(|problem| RegistryError::Tls {
        server: format!("the registry {registry}"),
        registry: registry.to_owned(),
        directory: directory.to_owned(),
        problem: Box::new(problem),
    })
}

pub fn builder(tls_config: ClientConfig, redirects: Policy) -> ClientBuilder {
    unlimited_builder(tls_config, redirects).read_timeout(READ_TIMEOUT).timeout(TIMEOUT)
}

/// Makes a client of a registry connect to the addresses that were looked up before.
///
/// * `api`: the base URL of the registry's API.
pub fn resolved(client: ClientBuilder, domain: &str, api: &Url, addresses: &[SocketAddr]) -> ClientBuilder {
    // Docker Hub's API has another host than the domain whose addresses were looked up.
    if domain == HUB || addresses.is_empty() {
        return client;
    }
    client.resolve_to_addrs(api.host_str().unwrap_or_default(), addresses)
}

/// Returns a client builder without a time limit for responses, for uploads.
pub fn unlimited_builder(tls_config: ClientConfig, redirects: Policy) -> ClientBuilder {
    Client::builder()
        .user_agent(USER_AGENT_VALUE)
        .tls_backend_preconfigured(tls_config)
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(redirects)
        .no_proxy()
        .proxy(Proxy::custom(|url| {
            // `send` has already rejected a proxy setting that is not a valid URL.
            let proxy = proxy::setting(&url.as_str().parse().ok()?).ok()??;
            Url::parse(&proxy).ok()
        }))
}

pub fn build(registry: &str, client: ClientBuilder) -> Result<Client, RegistryError> {
    client.build().map_err(|error| RegistryError::Unreachable {
        server: format!("the registry {registry}"),
        reason: with_causes(&error),
        proxy: None,
    })
}
