//! Errors of registries and their token servers.

use std::error::Error as StdError;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use humantime::format_duration;
use hyper::StatusCode;
use serde_json::Value;

use crate::credentials::login::{Login, SHADOWS, Source, docker_login};
use crate::docker::context::Endpoint;
use crate::failure::{
    ACCESS_TOKEN, CHECK_REPOSITORY, Class, Evidence, RAISE_LIMIT, Verdict, WAIT_AND_CORRECT, classify,
    is_lock_out, wants_access_token,
};
use crate::net::settings::insecure_registries;
use crate::net::tls::{FIND_SYSTEM_AUTHORITIES, TlsProblem};
use crate::reference::HUB;
use crate::text::sanitize;

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// `server`: the registry, or the token server of the registry.
    /// `proxy`: the variable that names the proxy of the connection, if the connection uses a proxy.
    #[error("cannot reach {server}: {reason}")]
    Unreachable { server: String, reason: String, proxy: Option<&'static str> },
    #[error("cannot establish TLS with {server}: {problem}")]
    Tls {
        server: String,
        registry: String,
        /// The directory of the CAs and client certificates for the registry.
        directory: PathBuf,
        problem: Box<TlsProblem>,
    },
    #[error("cannot use the certificates for {registry}: {reason}")]
    Certificates { registry: String, reason: String },
    #[error("{}", refused(registry, login, reason))]
    Unauthorized { registry: String, login: Box<Login>, reason: String },
    /// The registry refuses all credentials for some time, after too many failed logins.
    #[error("{}", refused(registry, login, reason))]
    LockedOut { registry: String, login: Box<Login>, reason: String },
    #[error("{registry} denies access{}: {reason}", if login.anonymous { " without credentials".to_owned() } else { format!(" for {}", login.describe()) })]
    Denied { registry: String, login: Box<Login>, reason: String },
    /// The registry denies access to its list of repositories.
    #[error("{registry} denies access{}: {reason}", if login.anonymous { " without credentials".to_owned() } else { format!(" for {}", login.describe()) })]
    CatalogDenied { registry: String, login: Box<Login>, reason: String },
    #[error("{registry} denies access {}allowed to write to {repository}: {reason}", if login.anonymous { "without credentials: not ".to_owned() } else { format!("for {}: accepted, but not ", login.describe()) })]
    MayNotWrite { registry: String, repository: String, login: Box<Login>, reason: String },
    #[error("{registry} does not list its repositories")]
    NoCatalog { registry: String },
    #[error("{registry} has no repository `{repository}`, or does not show it{}", if login.anonymous { " without credentials".to_owned() } else { format!(" to {}", login.describe()) })]
    NoRepository { registry: String, repository: String, login: Box<Login> },
    /// * `code`: the error code of the registry, such as `TOOMANYREQUESTS`.
    /// * `retry_after`: the time after which the server allows another request.
    #[error("{server} answered {status}: {reason}{}", after(*retry_after))]
    Answered {
        server: String,
        status: StatusCode,
        code: Option<String>,
        reason: String,
        retry_after: Option<Duration>,
    },
    /// The registry creates no repositories by itself, or lacks the project of the repository.
    #[error("{registry} has no repository or project for {repository}: {reason}")]
    NoPushTarget { registry: String, repository: String, reason: String },
    #[error("{registry} accepts no pushes: it is read-only, or a mirror of another registry ({reason})")]
    ReadOnly { registry: String, reason: String },
    #[error("{registry}, or a proxy in front of it, refuses requests of this size (413 Payload Too Large)")]
    TooLarge { registry: String },
    /// A proxy in front of the registry refused an upload with a web page.
    #[error("a proxy in front of {registry} refuses the upload ({status})")]
    ProxyRefused { registry: String, status: StatusCode },
    /// The registry redirects uploads. Engines repeat a redirected request with another method, so the upload fails.
    ///
    /// * `name`: the `host[:port]` of `target`.
    #[error("{registry} redirects uploads to {target}")]
    Redirected { registry: String, target: String, name: String },
    /// The registry started an upload, and named no location for the layer.
    #[error("{registry} is not a registry, or a proxy in front of it removes the header `Location`")]
    NoLocation { registry: String },
    /// The registry started an upload at a location that an engine cannot use.
    #[error("{registry} sends uploads to {location}, {problem}")]
    UploadElsewhere { registry: String, location: String, problem: Misplaced },
    /// The registry is on `localhost` of the engine's machine, and the plugin runs on another machine.
    #[error("{registry} is on the engine's machine ({endpoint}) and cannot be reached from here")]
    Elsewhere { registry: String, endpoint: Arc<Endpoint> },
    #[error("{registry} is not a registry: {reason}")]
    NotARegistry { registry: String, reason: String },
    #[error("{registry} is not a registry: its manifest is not JSON")]
    NoManifest { registry: String },
    /// A web page answers at `/v2/`, instead of a registry. `redirect`: the URL of the page, without the query, if the
    /// server redirects to another server; `is_sign_in`: the page is a sign-in page.
    #[error("{}", web_page(registry, redirect.as_deref(), *is_sign_in))]
    WebPage { registry: String, redirect: Option<String>, is_sign_in: bool },
    /// The registry refused a blob or a manifest from the plugin. `verdict`: the verdict on the text of the refusal.
    #[error("{server} answered {status}: {reason}")]
    Refused { server: String, status: StatusCode, reason: String, verdict: Verdict },
    /// The registry lost an upload, so the blob must be sent again. `reason`: the failure after which the
    /// upload was lost.
    #[error("{registry} lost an upload: {reason}")]
    UploadLost { registry: String, reason: String },
    /// A web page answers at the URL of the token server, such as the sign-in page of a proxy. `server`: the URL without
    /// the query.
    #[error("cannot get a token for {registry}: the token server {server} answers with a web page")]
    TokenPage { registry: String, server: String },
    /// The registry requires a token, and the plugin cannot request a token.
    #[error("cannot get a token for {registry}: {reason}")]
    NoToken { registry: String, reason: String },
}

/// The reason why an engine cannot continue an upload at the location that the registry returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misplaced {
    #[error("which is plain HTTP")]
    Plain,
    #[error("where no server answers with this scheme")]
    Scheme,
    #[error("which cannot be reached")]
    Unreachable,
    #[error("where no such upload exists")]
    OtherServer,
    #[error("which belongs to another repository")]
    OtherRepository,
}

/// Returns `; it asks to wait 7s`, or an empty string.
fn after(retry_after: Option<Duration>) -> String {
    let after = retry_after.filter(|after| !after.is_zero());
    after.map(|after| format!("; it asks to wait {}", format_duration(after))).unwrap_or_default()
}

fn refused(registry: &str, login: &Login, reason: &str) -> String {
    if login.anonymous {
        format!("{registry} requires authentication, and {}: {reason}", login.describe_nothing())
    } else {
        format!("{registry} does not accept {}: {reason}", login.describe())
    }
}

fn web_page(registry: &str, redirect: Option<&str>, is_sign_in: bool) -> String {
    match (redirect, is_sign_in) {
        (Some(url), true) => format!("{registry} redirects to {url}: a sign-in page, not a registry"),
        (Some(url), false) => format!("{registry} redirects to {url}, which is not a registry"),
        (None, true) => format!("{registry} is not a registry: it answers with a sign-in page"),
        (None, false) => format!("{registry} is not a registry: it answers with a web page"),
    }
}

impl RegistryError {
    /// Returns the error for credentials that a registry or its token server refused.
    pub fn refused_credentials(registry: &str, login: &Login, reason: String) -> Self {
        let (registry, login) = (registry.to_owned(), Box::new(login.clone()));
        if is_lock_out(&reason) {
            Self::LockedOut { registry, login, reason }
        } else {
            Self::Unauthorized { registry, login, reason }
        }
    }

    pub fn class(&self) -> Class {
        match self {
            Self::Unreachable { .. } | Self::UploadLost { .. } => Class::Network,
            Self::Refused { verdict, .. } => verdict.class,
            Self::Tls { .. } | Self::Certificates { .. } => Class::Tls,
            Self::Unauthorized { .. }
            | Self::LockedOut { .. }
            | Self::TokenPage { .. }
            | Self::WebPage { is_sign_in: true, .. } => Class::Auth,
            Self::Denied { .. } | Self::CatalogDenied { .. } | Self::MayNotWrite { .. } => Class::Denied,
            Self::NoRepository { .. } => Class::NotFound,
            Self::Answered { status, code, .. } => match (status.as_u16(), code.as_deref()) {
                (429, _) | (_, Some("TOOMANYREQUESTS")) => Class::RateLimited,
                (402 | 451 | 507, _) => Class::Rejected,
                (408 | 500.., _) => Class::Server,
                _ => Class::Other,
            },
            Self::ReadOnly { .. } | Self::TooLarge { .. } | Self::NoPushTarget { .. } => Class::Rejected,
            Self::ProxyRefused { .. } => Class::Denied,
            Self::Redirected { .. }
            | Self::NoLocation { .. }
            | Self::UploadElsewhere { .. }
            | Self::Elsewhere { .. }
            | Self::WebPage { is_sign_in: false, .. }
            | Self::NoCatalog { .. }
            | Self::NotARegistry { .. }
            | Self::NoManifest { .. }
            | Self::NoToken { .. } => Class::Other,
        }
    }

    /// Returns a hint for refused credentials with which nothing seems to be wrong, or for missing credentials.
    fn hint_to_log_in(&self) -> Option<String> {
        let Self::Unauthorized { registry, login, .. } = self else { return None };
        Some(match &login.source {
            Source::Variable => SHADOWS.to_owned(),
            Source::CommandLine if login.anonymous => "remove --anonymous".to_owned(),
            source if let Some(hint) = source.hint_to_check() => hint,
            _ => login.broken_hint().filter(|_| login.anonymous).unwrap_or_else(|| {
                format!("run `{}`, or pass `--username NAME --password-stdin`", docker_login(registry))
            }),
        })
    }

    /// Returns the verdict that decides about retries and prompts.
    pub fn verdict(&self) -> Verdict {
        let verdict = Verdict::without_hint(self.class());
        match self {
            // The text tells whether a host name cannot be resolved, or a proxy requires a password. Such a failure
            // allows fewer retries.
            Self::Unreachable { reason, .. } => Some(classify(&Evidence::of_text(reason, true)))
                .filter(|read| read.class == verdict.class)
                .unwrap_or(verdict),
            Self::Refused { verdict, .. } => *verdict,
            Self::LockedOut { .. }
            | Self::TokenPage { .. }
            | Self::WebPage { .. }
            | Self::ProxyRefused { .. } => Verdict { can_prompt: false, ..verdict },
            _ => verdict,
        }
    }

    /// Returns the time after which the server allows another request, if the server told.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Answered { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Returns whether a web page answers instead of a registry or its token server.
    pub fn is_web_page(&self) -> bool {
        matches!(self, Self::WebPage { .. } | Self::TokenPage { .. })
    }

    /// Returns whether the server answered a query for a manifest, and the answer is not a registry's.
    pub fn is_not_a_registry(&self) -> bool {
        self.is_web_page() || matches!(self, Self::NoManifest { .. })
    }

    /// Returns whether the plugin failed to connect to the registry. The engine may still be able to connect.
    pub fn is_about_the_way(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Tls { .. } | Self::Certificates { .. } | Self::Elsewhere { .. }
        )
    }

    /// Returns a hint for this error: a command to run, or a setting to change.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unreachable { proxy: Some(variable), .. } => {
                return Some(format!(
                    "check the proxy in {variable} and its password, or add the host to NO_PROXY"
                ));
            }
            Self::Unreachable { .. } => "check its name and port, and the network",
            Self::UploadLost { .. } => "push again, or check the registry's log",
            Self::Refused { verdict, .. } => verdict.hint,
            Self::Tls { registry, directory, problem, .. } => {
                let directory = directory.display();
                let host = if registry == HUB { "registry-1.docker.io" } else { registry };
                return Some(match &**problem {
                    TlsProblem::UnknownAuthority { .. } | TlsProblem::Authorities { .. } => {
                        format!(
                            "pass its CA with `--ca-file`, or put it into `{directory}/ca.crt`, where docker looks for it too"
                        )
                    }
                    TlsProblem::NoSystemAuthorities => {
                        format!("{FIND_SYSTEM_AUTHORITIES}, or pass the registry's CA with `--ca-file`")
                    }
                    TlsProblem::IdentityMissing
                    | TlsProblem::Identity { .. }
                    | TlsProblem::IdentityRefused { .. }
                    | TlsProblem::Refused => {
                        format!(
                            "pass `--cert-file` and `--key-file`, or put client.cert and client.key into `{directory}/`, if the registry requires a client certificate"
                        )
                    }
                    TlsProblem::PlainText => format!(
                        "pass `--plain-http` if the registry speaks plain HTTP, or set `{}` in the engine's daemon.json, beside its other entries",
                        insecure_registries(registry)
                    ),
                    TlsProblem::Expired | TlsProblem::NotYetValid => {
                        "renew its certificate, and check the clocks of both machines".to_owned()
                    }
                    TlsProblem::WrongName { .. } => {
                        "use the name in its certificate, or reissue the certificate for this name".to_owned()
                    }
                    TlsProblem::Other(_) => {
                        let port = if host.contains(':') { "" } else { ":443" };
                        format!("run `openssl s_client -connect {host}{port}` to see its certificate")
                    }
                });
            }
            Self::Certificates { .. } => "fix or remove that file; docker cannot use it either",
            Self::Unauthorized { reason, .. } if wants_access_token(reason) => ACCESS_TOKEN,
            Self::Unauthorized { registry, login, .. } if !login.anonymous || login.broken.is_none() => {
                if let Some(hint) = login.refusal_hint(registry) {
                    return Some(hint);
                }
                return self.hint_to_log_in();
            }
            Self::Unauthorized { .. } => return self.hint_to_log_in(),
            Self::LockedOut { registry, .. } => {
                return Some(WAIT_AND_CORRECT.replace("docker login {registry}", &docker_login(registry)));
            }
            Self::Denied { registry, login, .. }
            | Self::CatalogDenied { registry, login, .. }
            | Self::MayNotWrite { registry, login, .. }
                if login.anonymous =>
            {
                let hint = login.refusal_hint(registry);
                return hint.or_else(|| {
                    Some(format!(
                        "run `{}`, or pass `--username NAME --password-stdin`",
                        docker_login(registry)
                    ))
                });
            }
            Self::Denied { registry, .. } => {
                return Some(format!(
                    "use an account that can read from {registry} (`{}`)",
                    docker_login(registry)
                ));
            }
            Self::CatalogDenied { registry, .. } => {
                return Some(format!(
                    "use an account with access, or list the tags of one repository: `docker regpush ls {registry}/REPOSITORY`"
                ));
            }
            Self::MayNotWrite { registry, repository, .. } => {
                return Some(format!(
                    "check the name {registry}/{repository}, or use an account that can write to it (`{}`)",
                    docker_login(registry)
                ));
            }
            Self::NoRepository { registry, .. } => {
                return Some(format!("run `docker regpush ls {registry}` to list its repositories"))
                    .filter(|_| !is_without_catalog(registry));
            }
            Self::NoCatalog { registry } => {
                let place = match registry.as_str() {
                    HUB => "; repositories are listed at https://hub.docker.com/repositories",
                    "ghcr.io" => "; packages are listed at https://github.com/OWNER?tab=packages",
                    _ if is_without_catalog(registry) => {
                        "; list the repositories with `aws ecr describe-repositories`"
                    }
                    _ => "",
                };
                return Some(format!(
                    "list the tags of one repository: `docker regpush ls {registry}/REPOSITORY`{place}"
                ));
            }
            Self::Answered { .. } => match self.class() {
                Class::RateLimited => "wait a minute, then try again",
                Class::Server => "try again later, or check the registry's log",
                Class::Rejected => "check the registry's settings: storage, subscription, policies",
                _ => return None,
            },
            Self::NoPushTarget { registry, repository, .. } => {
                let hint = CHECK_REPOSITORY.replace("{repository}", &format!("{registry}/{repository}"));
                return Some(hint.replace("{registry}", registry));
            }
            Self::ReadOnly { .. } => {
                "push to the registry that it mirrors, or switch off the read-only mode in its configuration"
            }
            Self::TooLarge { registry } => return Some(RAISE_LIMIT.replace("{registry}", registry)),
            Self::ProxyRefused { registry, .. } => {
                return Some(format!(
                    "allow POST, PATCH and PUT in the proxy in front of {registry}: the proxy answered, not the registry"
                ));
            }
            Self::Redirected { name, .. } => {
                return Some(format!("push to that name: `docker regpush IMAGE --to {name}/`"));
            }
            Self::NoLocation { .. } => {
                "check the name and port, and let the proxy pass the header `Location`"
            }
            Self::UploadElsewhere { problem, .. } => match problem {
                Misplaced::Plain | Misplaced::Scheme => {
                    "set `X-Forwarded-Proto` and `Host` in the proxy in front of it, or `http.relativeurls: true` in its configuration"
                }
                Misplaced::Unreachable | Misplaced::OtherServer => {
                    "set `Host` in the proxy in front of it, or correct `http.host` in its configuration"
                }
                Misplaced::OtherRepository => {
                    "rewrite the header `Location` in the proxy in front of it, as it rewrites the path"
                }
            },
            Self::Elsewhere { .. } => "run this command on that machine",
            Self::WebPage { is_sign_in: true, .. } | Self::TokenPage { .. } => {
                "exempt `/v2/` and the token server from the sign-in page: docker cannot sign in there"
            }
            Self::NotARegistry { .. } | Self::NoManifest { .. } | Self::WebPage { .. } => {
                "check its name and port"
            }
            Self::NoToken { .. } => "check the address of the token server in the settings of the registry",
        };
        Some(hint.to_owned())
    }
}

/// Returns the reason in the body of an error response: `errors[].code: message` of a registry (OCI
/// distribution), or `details` or `message` of a token server. Without these fields, returns a plain-text
/// body, or else the name of the status.
pub fn reason(body: &[u8], status: StatusCode) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let first = &value["errors"][0];
    let of_list = match (text(&first["code"]), text(&first["message"])) {
        (Some(code), Some(message)) => Some(format!("{}: {message}", code.to_lowercase())),
        (code, message) => message.or(code),
    };
    let other =
        || ["details", "message", "error_description", "error"].iter().find_map(|key| text(&value[key]));
    let plain = || {
        let body = String::from_utf8_lossy(body);
        let body = body.trim();
        let is_text = !body.is_empty() && !body.starts_with(['<', '{', '[']);
        is_text.then(|| body.to_owned())
    };
    let status = || status.canonical_reason().unwrap_or("no reason given").to_lowercase();
    of_list.or_else(other).or_else(plain).unwrap_or_else(status)
}

/// Returns the error code in the body of an error response: `errors[0].code` of a registry (OCI distribution), or
/// `error` of a token server (RFC 6749, 5.2).
pub fn code(body: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let code = value["errors"][0]["code"].as_str().or_else(|| value["error"].as_str());
    code.map(str::to_owned)
}

/// Returns the message of the innermost cause, because the outer errors of reqwest add no information.
pub fn root_cause(error: &reqwest::Error) -> String {
    let causes = std::iter::successors(Some(error as &(dyn StdError + 'static)), |error| (*error).source());
    causes.last().map(|cause| sanitize(&cause.to_string())).unwrap_or_default()
}

/// Returns whether a registry with this domain is known to have no catalog of repositories.
pub fn is_without_catalog(domain: &str) -> bool {
    let is_ecr = domain.contains(".dkr.ecr") && domain.contains(".amazonaws.com");
    is_ecr || [HUB, "ghcr.io", "public.ecr.aws"].contains(&domain)
}
