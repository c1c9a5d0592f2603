//! The registry's own HTTP API: what it holds.
//!
//! Source: OCI distribution specification 1.1 (`/v2/`), distribution's `docs/spec/auth/token.md`, and moby
//! `registry/registry.go` for certificates, TLS and plain HTTP.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::error::Error as StdError;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{env, fs, io};

use hyper::StatusCode;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LINK, LOCATION, WWW_AUTHENTICATE};
use reqwest::redirect::{Action, Attempt, Policy};
use reqwest::{Client, ClientBuilder, Method, Proxy, RequestBuilder, Response, Url};
use rustls::ClientConfig;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::credentials::login::{Login, SHADOWS, Source, docker_login};
use crate::credentials::{Credentials, Kind};
use crate::docker::context::Endpoint;
use crate::failure::Class;
use crate::net::proxy::setting as proxy_for;
use crate::net::tls::{Identity, Pem, Tls, TlsProblem, config as tls_config, find as tls_error};
use crate::net::{RegistrySettings, Trace, USER_AGENT_VALUE, is_loopback, is_on_loopback};
use crate::oci::{Descriptor, Document, is_digest, sha256};
use crate::reference::{HUB, is_path, is_tag};
use crate::secret::{Censor, Secret};
use crate::text::{clean, with_causes};

/// Where the Hub's API is.
const HUB_API: &str = "registry-1.docker.io";
/// docker's: it is the one that such tokens were given to.
const CLIENT_ID: &str = "docker";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest silence within an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// For a whole answer.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Names asked for at once; a registry may give fewer.
const PAGE: usize = 1000;
/// Names in all. Nobody reads more, and a registry that goes on for ever means no good.
const MAX_NAMES: usize = 1_000_000;
const MAX_PAGES: usize = 1000;
/// Places that one answer may be looked for at.
const MAX_REDIRECTS: usize = 5;
/// Bytes of a list; some registries know no pages.
const MAX_LIST: usize = 16 << 20;
/// Bytes of one answer; a manifest has at most as many (OCI distribution specification).
const MAX_BODY: usize = 4 << 20;
/// Bytes of an error that are read; the rest of a page says no more.
const MAX_REASON: usize = 256 << 10;
/// Manifests, or blobs, of one image.
const MAX_PARTS: usize = 10_000;
/// All that a tag may name, so that the registry does not turn it into something else.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// `server`: the registry, or its token server.
    #[error("cannot reach {server}: {reason}")]
    Unreachable { server: String, reason: String },
    #[error("no TLS with {server}: {problem}")]
    Tls {
        server: String,
        registry: String,
        /// Of its CA and client certificates.
        directory: PathBuf,
        problem: Box<TlsProblem>,
    },
    #[error("the certificates for {registry} cannot be used: {reason}")]
    Certificates { registry: String, reason: String },
    #[error("{}", refused(registry, login, reason))]
    Unauthorized { registry: String, login: Box<Login>, reason: String },
    #[error("{registry} does not allow it{}: {reason}", if login.anonymous { " without a login".to_owned() } else { format!(" to {}", login.describe()) })]
    Denied { registry: String, login: Box<Login>, reason: String },
    #[error("{registry} does not allow writing to {repository}{}: {reason}", if login.anonymous { " without a login".to_owned() } else { format!(" to {}", login.describe()) })]
    MayNotWrite { registry: String, repository: String, login: Box<Login>, reason: String },
    #[error("{registry} shows no catalog of its repositories")]
    NoCatalog { registry: String },
    #[error("{registry} has no repository `{repository}`, or does not show it{}", if login.anonymous { " without a login".to_owned() } else { format!(" to {}", login.describe()) })]
    NoRepository { registry: String, repository: String, login: Box<Login> },
    #[error("{server} answered {status}: {reason}")]
    Answered { server: String, status: StatusCode, reason: String },
    /// `localhost` of the engine's machine is not ours.
    #[error("{registry} is on the machine of the engine at {endpoint}, and cannot be asked from here")]
    Elsewhere { registry: String, endpoint: Arc<Endpoint> },
    #[error("what answers at {registry} is no registry: {reason}")]
    NotARegistry { registry: String, reason: String },
}

fn refused(registry: &str, login: &Login, reason: &str) -> String {
    if login.anonymous {
        format!("{registry} wants a login, and {}: {reason}", login.describe_nothing())
    } else {
        format!("{registry} does not accept {}: {reason}", login.describe())
    }
}

impl RegistryError {
    pub fn class(&self) -> Class {
        match self {
            Self::Unreachable { .. } => Class::Network,
            Self::Tls { .. } | Self::Certificates { .. } => Class::Tls,
            Self::Unauthorized { .. } => Class::Auth,
            Self::Denied { .. } | Self::MayNotWrite { .. } => Class::Denied,
            Self::NoRepository { .. } => Class::NotFound,
            Self::Answered { status, .. } => match status.as_u16() {
                429 => Class::RateLimited,
                500.. => Class::Server,
                _ => Class::Other,
            },
            Self::Elsewhere { .. } | Self::NoCatalog { .. } | Self::NotARegistry { .. } => Class::Other,
        }
    }

    /// It is the way from here to the registry that is wrong, of which an engine may have another.
    pub fn is_about_the_way(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Tls { .. } | Self::Certificates { .. } | Self::Elsewhere { .. }
        )
    }

    /// What to type or to change next.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unreachable { .. } => "check its name and port, the network, HTTPS_PROXY and NO_PROXY",
            Self::Tls { registry, directory, problem, .. } => {
                let directory = directory.display();
                let host = if registry == HUB { "registry-1.docker.io" } else { registry };
                return Some(match &**problem {
                    TlsProblem::UnknownAuthority { .. } | TlsProblem::Authorities { .. } => {
                        format!("put its CA into `{directory}/ca.crt`, where docker looks for it too")
                    }
                    TlsProblem::IdentityMissing
                    | TlsProblem::Identity { .. }
                    | TlsProblem::IdentityRefused { .. }
                    | TlsProblem::Refused => {
                        format!(
                            "if it wants a client certificate, put client.cert and client.key into `{directory}/`"
                        )
                    }
                    TlsProblem::PlainText => format!(
                        "it may speak plain HTTP: then name `{registry}` in `insecure-registries` of the engine's daemon.json"
                    ),
                    TlsProblem::Expired | TlsProblem::NotYetValid => {
                        "have its certificate renewed, and check the clocks of both machines".to_owned()
                    }
                    TlsProblem::WrongName { .. } => {
                        "name the registry as its certificate does, or have that renewed for this name"
                            .to_owned()
                    }
                    TlsProblem::Other(_) => {
                        let port = if host.contains(':') { "" } else { ":443" };
                        format!("see what it says: `openssl s_client -connect {host}{port}`")
                    }
                });
            }
            Self::Certificates { .. } => "mend or remove that file; docker cannot use it either",
            Self::Unauthorized { login, .. } if login.source == Source::Variable => SHADOWS,
            Self::Unauthorized { login, .. } if login.source == Source::CommandLine && login.anonymous => {
                "leave out --anonymous"
            }
            Self::Unauthorized { login, .. } if login.source == Source::CommandLine => {
                "check --username, and the password given on stdin"
            }
            Self::Unauthorized { login, .. } if login.anonymous && login.broken_hint().is_some() => {
                return login.broken_hint().map(str::to_owned);
            }
            Self::Unauthorized { registry, .. } => {
                return Some(format!(
                    "log in with `{}`, or pass `--username NAME --password-stdin`",
                    docker_login(registry)
                ));
            }
            Self::Denied { registry, login, .. } | Self::MayNotWrite { registry, login, .. }
                if login.anonymous =>
            {
                return Some(format!(
                    "log in with `{}`, or pass `--username NAME --password-stdin`",
                    docker_login(registry)
                ));
            }
            Self::Denied { registry, .. } => {
                return Some(format!(
                    "this account may not look there: ask for the right, or use another; it may be shown the tags of one repository: `docker regpush ls {registry}/REPOSITORY`"
                ));
            }
            Self::MayNotWrite { registry, repository, .. } => {
                return Some(format!(
                    "this account may not write to {registry}/{repository}: check the name, or log in with another account (`{}`)",
                    docker_login(registry)
                ));
            }
            Self::NoRepository { registry, .. } => {
                return Some(format!("see what is there with `docker regpush ls {registry}`"))
                    .filter(|_| !is_without_catalog(registry));
            }
            Self::NoCatalog { registry } => {
                let place = match registry.as_str() {
                    HUB => "; its repositories are listed at https://hub.docker.com/repositories",
                    "ghcr.io" => "; its packages are listed at https://github.com/OWNER?tab=packages",
                    _ if is_without_catalog(registry) => {
                        "; its repositories are listed by `aws ecr describe-repositories`"
                    }
                    _ => "",
                };
                return Some(format!(
                    "list the tags of one: `docker regpush ls {registry}/REPOSITORY`{place}"
                ));
            }
            Self::Answered { status, .. } => match status.as_u16() {
                429 => "wait a minute, and ask again",
                500.. => "the registry is in trouble: try again later, or look into its log",
                _ => return None,
            },
            Self::Elsewhere { .. } => "ask from that machine",
            Self::NotARegistry { .. } => "check its name and port",
        };
        Some(hint.to_owned())
    }
}

/// How a registry is to be spoken to.
#[derive(Debug)]
pub struct Access {
    /// `/etc/docker/certs.d/HOST:PORT`: `*.crt`, and pairs of `*.cert` and `*.key`.
    pub certificates: PathBuf,
    pub credentials: Credentials,
    /// Whose they are, for messages.
    pub login: Login,
    pub trace: Option<Trace>,
    /// Where any certificate will do, so will plain HTTP: the registry is called insecure.
    tls: Tls,
    /// Of its host, which need not be looked up again for each connection; none: they are not known.
    addresses: Vec<SocketAddr>,
}

impl Access {
    /// As the engine would speak to it, going by its settings.
    ///
    /// * `warn`: told of certificates that only the engine may read.
    ///
    /// # Errors
    /// [`RegistryError::Certificates`]
    pub async fn new(
        domain: &str,
        settings: &RegistrySettings,
        credentials: Credentials,
        login: Login,
        trace: Option<Trace>,
        warn: impl FnMut(&str),
    ) -> Result<Self, RegistryError> {
        let certificates = certificates_directory(settings.is_rootless).join(domain);
        let addresses = addresses(domain).await;
        let ips: Vec<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
        let skip_verify = settings.is_insecure(domain, &ips);
        let tls = Tls { skip_verify, ..tls(domain, &certificates, warn)? };
        Ok(Self { certificates, credentials, login, trace, tls, addresses })
    }

    /// Whether its token server may be as insecure as the registry itself. Every registry of this machine
    /// is called insecure, and that says nothing of another.
    fn lends_insecurity(&self, domain: &str) -> bool {
        self.tls.skip_verify && !is_on_loopback(domain)
    }
}

/// Whether an engine may speak with this registry in a way of its own. On the engine's machine every registry
/// is insecure, and only an engine without root has other certificates than those of the system.
///
/// Source: moby `registry/config.go` (`loadInsecureRegistries`): loopback addresses are always among them.
pub fn is_special(domain: &str) -> bool {
    !is_on_loopback(domain) || certificates_directory(true).join(domain).exists()
}

/// Source: moby `registry/config_unix.go` (`CertsDir`).
fn certificates_directory(is_rootless: bool) -> PathBuf {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let own = || variable("XDG_CONFIG_HOME").or_else(|| env::home_dir().map(|home| home.join(".config")));
    match is_rootless.then(own).flatten() {
        Some(own) => own.join("docker/certs.d"),
        None => PathBuf::from("/etc/docker/certs.d"),
    }
}

/// A registry that has answered.
#[derive(Debug)]
pub struct Registry {
    domain: String,
    /// `https://HOST/`
    api: Url,
    client: Client,
    /// What its clients do for TLS: it takes a while to read all authorities of the system.
    tls_config: ClientConfig,
    access: Access,
    /// Of the credentials, and of each token that was got for them.
    censor: Mutex<Censor>,
    /// The value of `Authorization`, by scope: it is found once for each.
    authorization: Mutex<BTreeMap<String, Secret>>,
}

/// Who may be told what, in the words of token servers.
fn scope(repository: &str) -> String {
    format!("repository:{repository}:pull")
}

/// Who may write, in the same words.
fn write_scope(repository: &str) -> String {
    format!("repository:{repository}:pull,push")
}

/// A manifest or an index as the registry serves it.
#[derive(Clone, Debug)]
pub struct ServedManifest {
    /// Digest and size of the bytes that came.
    pub descriptor: Descriptor,
    content: Document,
}

impl ServedManifest {
    /// Whether it is what this digest names, as far as that can be computed here: only SHA-256 is.
    fn is_called(&self, digest: &str) -> bool {
        self.descriptor.digest == digest || !digest.starts_with("sha256:")
    }

    /// The digest of the image's configuration; an index has none.
    pub fn config(&self) -> Option<&str> {
        let Document::Manifest(manifest) = &self.content else { return None };
        manifest.config.as_ref().map(|config| config.digest.as_str())
    }

    /// The digests of the image's layers, the lowest first; an index has none.
    pub fn layers(&self) -> impl Iterator<Item = &str> {
        let layers = match &self.content {
            Document::Manifest(manifest) => manifest.layers.as_slice(),
            Document::Index(_) => &[],
        };
        layers.iter().map(|layer| layer.digest.as_str())
    }

    /// The digests of the manifests in an index.
    pub fn manifests(&self) -> Vec<String> {
        match &self.content {
            Document::Manifest(_) => Vec::new(),
            Document::Index(index) => digests_of(index.manifests.iter()),
        }
    }

    /// The digests of the image's blobs that have to be in the registry.
    fn blobs(&self) -> Vec<String> {
        let Document::Manifest(manifest) = &self.content else { return Vec::new() };
        let blobs = manifest.config.iter().chain(&manifest.layers);
        digests_of(blobs.filter(|blob| blob.urls.is_empty()))
    }
}

fn digests_of<'a>(descriptors: impl Iterator<Item = &'a Descriptor>) -> Vec<String> {
    descriptors.map(|descriptor| &descriptor.digest).filter(|digest| is_digest(digest)).cloned().collect()
}

impl Registry {
    /// Finds out how the registry speaks: TLS, or where it is called insecure and has none, plain HTTP.
    ///
    /// * `domain`: [`crate::reference::Reference::domain`]
    ///
    /// # Errors
    /// It cannot be reached, its certificate is not good, or it is no registry.
    pub async fn connect(domain: &str, access: Access) -> Result<Self, RegistryError> {
        let host = if domain == HUB { HUB_API } else { domain };
        let censor = Censor::new(access.credentials.secrets());
        let tls_config = tls_config_for(domain, &access.tls, &access.certificates)?;
        let api = url(domain, &format!("https://{host}/"))?;
        let mut client = client(tls_config.clone(), Policy::custom(follow));
        if host == domain && !access.addresses.is_empty() {
            client = client.resolve_to_addrs(api.host_str().unwrap_or_default(), &access.addresses);
        }
        let mut registry = Self {
            domain: domain.to_owned(),
            api,
            client: build(domain, client)?,
            tls_config,
            access,
            censor: Mutex::new(censor),
            authorization: Mutex::default(),
        };
        match registry.ping().await {
            Err(error @ (RegistryError::Unreachable { .. } | RegistryError::Tls { .. }))
                if registry.access.tls.skip_verify =>
            {
                registry.api = url(domain, &format!("http://{host}/"))?;
                // Where nothing answers either way, the first says it as well as the second.
                registry.ping().await.map_err(|plain| match error {
                    RegistryError::Tls { problem, .. } if matches!(*problem, TlsProblem::PlainText) => plain,
                    error @ RegistryError::Tls { .. } => error,
                    _ => plain,
                })?;
            }
            answered => answered?,
        }
        Ok(registry)
    }

    async fn ping(&self) -> Result<(), RegistryError> {
        let response = self.send(&self.client, self.client.get(self.path("v2/")?)).await?;
        match response.status() {
            StatusCode::OK | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Ok(()),
            _ => Err(self.unexpected(response).await),
        }
    }

    /// Whether it takes the credentials at all.
    ///
    /// # Errors
    /// It does not.
    pub async fn accepts(&self) -> Result<(), RegistryError> {
        let response = self.ask(Method::GET, self.path("v2/")?, "").await?;
        if response.status().is_success() { Ok(()) } else { Err(self.unexpected(response).await) }
    }

    /// The names of its repositories, in its order.
    ///
    /// # Errors
    /// It has no catalog, does not show it, or anything else goes wrong.
    pub async fn repositories(&self) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            repositories: Option<Vec<String>>,
        }
        let names = |page: Page| page.repositories;
        let pages = self.pages("v2/_catalog", "registry:catalog:*", names, is_path).await;
        pages?.map_err(|refusal| match refusal.status.as_u16() {
            400 | 404 | 405 | 501 => RegistryError::NoCatalog { registry: self.domain.clone() },
            _ => self.refusal(refusal),
        })
    }

    /// The tags of a repository, in the order of versions.
    ///
    /// * `repository`: [`crate::reference::Reference::path`]
    ///
    /// # Errors
    /// There is no such repository, it is not shown, or anything else goes wrong.
    pub async fn tags(&self, repository: &str) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let path = format!("v2/{repository}/tags/list");
        let pages = self.pages(&path, &scope(repository), |page: Page| page.tags, is_tag).await;
        let mut tags = pages?.map_err(|refusal| match refusal.status {
            StatusCode::NOT_FOUND => RegistryError::NoRepository {
                registry: self.domain.clone(),
                repository: repository.to_owned(),
                login: Box::new(self.access.login.clone()),
            },
            _ => self.refusal(refusal),
        })?;
        alphanumeric_sort::sort_str_slice(&mut tags);
        tags.dedup();
        Ok(tags)
    }

    /// What a tag names; `None`: nothing.
    ///
    /// # Errors
    /// It cannot be asked, or refuses.
    pub async fn named(&self, repository: &str, tag: &str) -> Result<Option<Descriptor>, RegistryError> {
        if !is_tag(tag) {
            return Ok(None);
        }
        let url = self.path(&format!("v2/{repository}/manifests/{tag}"))?;
        let response = self.ask(Method::HEAD, url, &scope(repository)).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if !response.status().is_success() {
            return Err(self.unexpected(response).await);
        }
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let digest = header("docker-content-digest").filter(|digest| is_digest(digest));
        match (digest, header("content-length").and_then(|length| length.parse().ok())) {
            (Some(digest), Some(size)) => Ok(Some(Descriptor::new(digest.to_owned(), size))),
            // Both may be left out (OCI distribution specification, "Checking if content exists").
            _ => Ok(self.manifest(repository, tag).await?.map(|manifest| manifest.descriptor)),
        }
    }

    /// The manifest under a tag or digest, its digest reckoned from its bytes; `None`: there is none.
    ///
    /// # Errors
    /// It cannot be asked, or refuses; or what it has is no manifest.
    pub async fn manifest(
        &self,
        repository: &str,
        reference: &str,
    ) -> Result<Option<ServedManifest>, RegistryError> {
        let url = self.path(&format!("v2/{repository}/manifests/{reference}"))?;
        let response = self.ask(Method::GET, url, &scope(repository)).await?;
        let Some(body) = self.found(response).await? else { return Ok(None) };
        let digest = format!("sha256:{}", sha256(&body));
        let content =
            serde_json::from_slice(&body).map_err(|_| self.not_a_registry("its manifest is no JSON"))?;
        Ok(Some(ServedManifest { descriptor: Descriptor::new(digest, body.len() as u64), content }))
    }

    /// The layers' digests before they were compressed, in their order, as an image's configuration lists
    /// them; `None`: it is not there, or is of another kind.
    ///
    /// # Errors
    /// It cannot be asked, or refuses.
    ///
    /// Source: OCI image specification 1.1, `config.md` (`rootfs.diff_ids`).
    pub async fn diff_ids(
        &self,
        repository: &str,
        config: &str,
    ) -> Result<Option<Vec<String>>, RegistryError> {
        #[derive(Deserialize)]
        struct Config {
            rootfs: RootFs,
        }
        #[derive(Deserialize)]
        struct RootFs {
            diff_ids: Vec<String>,
        }
        let response = self.ask(Method::GET, self.blob(repository, config)?, &scope(repository)).await?;
        let Some(body) = self.found(response).await? else { return Ok(None) };
        Ok(serde_json::from_slice::<Config>(&body).ok().map(|config| config.rootfs.diff_ids))
    }

    /// The blobs and manifests of an image that the registry does not have.
    ///
    /// # Errors
    /// It cannot be asked, or refuses.
    pub async fn missing_parts(
        self: &Arc<Self>,
        repository: &str,
        digest: &str,
    ) -> Result<Vec<String>, RegistryError> {
        match self.manifest(repository, digest).await? {
            Some(manifest) if manifest.is_called(digest) => self.missing_parts_of(repository, manifest).await,
            _ => Ok(vec![digest.to_owned()]),
        }
    }

    /// The same of an image whose manifest is at hand.
    ///
    /// # Errors
    /// It cannot be asked, or refuses.
    pub async fn missing_parts_of(
        self: &Arc<Self>,
        repository: &str,
        manifest: ServedManifest,
    ) -> Result<Vec<String>, RegistryError> {
        let mut seen = HashSet::from([manifest.descriptor.digest.clone()]);
        let (mut blobs, mut manifests) = (BTreeSet::from_iter(manifest.blobs()), manifest.manifests());
        let mut missing = Vec::new();
        while let Some(digest) = manifests.pop() {
            if !seen.insert(digest.clone()) {
                continue;
            }
            match self.manifest(repository, &digest).await? {
                Some(manifest) if manifest.is_called(&digest) => {
                    blobs.extend(manifest.blobs());
                    manifests.extend(manifest.manifests());
                }
                _ => missing.push(digest),
            }
            if seen.len() + manifests.len() > MAX_PARTS || blobs.len() > MAX_PARTS {
                return Err(self.not_a_registry(&format!("its image has more than {MAX_PARTS} parts")));
            }
        }
        let blobs: Vec<String> = blobs.into_iter().collect();
        let has = |digest: String| {
            let (registry, repository) = (Arc::clone(self), repository.to_owned());
            async move { registry.has_blob(&repository, &digest).await }
        };
        let (found, trouble) = at_once(&blobs, has).await;
        if let Some((_, error)) = trouble {
            return Err(error);
        }
        let lost = blobs.into_iter().zip(found).filter(|(_, found)| *found == Some(false));
        missing.extend(lost.map(|(digest, _)| digest));
        Ok(missing)
    }

    /// Whether a blob is there.
    ///
    /// # Errors
    /// It cannot be asked, or refuses.
    pub async fn has_blob(&self, repository: &str, digest: &str) -> Result<bool, RegistryError> {
        let url = self.blob(repository, digest)?;
        let response = self.ask(Method::HEAD, url.clone(), &scope(repository)).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            // It has sent us to its store, which lets nobody but a GET in.
            _ if place(response.url()) != place(&url) => Ok(true),
            _ => Err(self.unexpected(response).await),
        }
    }

    /// Whether these credentials may write to a repository: starts an upload, and cancels it.
    ///
    /// # Errors
    /// They may not, or it cannot be asked.
    ///
    /// Source: OCI distribution specification 1.1, "Pushing a blob in chunks"; distribution's `DELETE` of an
    /// upload.
    pub async fn may_write(&self, repository: &str) -> Result<(), RegistryError> {
        self.begin_and_cancel(repository).await.map_err(|error| match error {
            RegistryError::Denied { registry, login, reason } => {
                RegistryError::MayNotWrite { registry, repository: repository.to_owned(), login, reason }
            }
            error => error,
        })
    }

    async fn begin_and_cancel(&self, repository: &str) -> Result<(), RegistryError> {
        let scope = write_scope(repository);
        let url = self.path(&format!("v2/{repository}/blobs/uploads/"))?;
        let response = self.ask(Method::POST, url.clone(), &scope).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(self.unexpected(response).await);
        }
        let place = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let upload = place.and_then(|place| url.join(place).ok());
        let upload = upload.ok_or_else(|| self.not_a_registry("it does not say where an upload goes"))?;
        // Behind a proxy it may not know its own name.
        let mut own = self.api.clone();
        own.set_path(upload.path());
        own.set_query(upload.query());
        // Those that know no cancelling forget it by themselves; nor has everybody who may write the right
        // to delete.
        let _ = self.ask(Method::DELETE, own, &scope).await;
        Ok(())
    }

    fn blob(&self, repository: &str, digest: &str) -> Result<Url, RegistryError> {
        self.path(&format!("v2/{repository}/blobs/{digest}"))
    }

    /// The body of what is there.
    async fn found(&self, response: Response) -> Result<Option<Vec<u8>>, RegistryError> {
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => self.body(response, MAX_BODY).await.map(Some),
            _ => Err(self.unexpected(response).await),
        }
    }

    /// All pages of a list; the inner error: it is refused.
    async fn pages<T: DeserializeOwned>(
        &self,
        path: &str,
        scope: &str,
        names: impl Fn(T) -> Option<Vec<String>>,
        is_name: fn(&str) -> bool,
    ) -> Result<Result<Vec<String>, Refusal>, RegistryError> {
        let mut url = self.path(path)?;
        url.set_query(Some(&format!("n={PAGE}")));
        let (mut all, mut seen) = (Vec::new(), HashSet::new());
        // What is no name goes to a terminal all the same.
        let shown = |name: String| if is_name(&name) { name } else { clean(&self.hide(name)) };
        loop {
            let response = self.ask(Method::GET, url.clone(), scope).await?;
            if !response.status().is_success() {
                return Ok(Err(self.read_refusal(response).await?));
            }
            let next = self.next(&url, response.headers())?;
            let body = self.body(response, MAX_LIST).await?;
            let page =
                serde_json::from_slice(&body).map_err(|_| self.not_a_registry("its list is no JSON"))?;
            all.extend(names(page).unwrap_or_default().into_iter().map(shown));
            seen.insert(url);
            match next {
                None => return Ok(Ok(all)),
                Some(next) if seen.contains(&next) || seen.len() > MAX_PAGES || all.len() > MAX_NAMES => {
                    return Err(self.not_a_registry("its list has no end"));
                }
                Some(next) => url = next,
            }
        }
    }

    /// Where a list goes on: on this registry, whatever host it names. It may not know its own name, behind
    /// a proxy; and elsewhere our login has no business.
    fn next(&self, url: &Url, headers: &HeaderMap) -> Result<Option<Url>, RegistryError> {
        let unreadable = || self.not_a_registry("it does not say readably where its list goes on");
        let mut links = Vec::new();
        for link in headers.get_all(LINK) {
            let link = link.to_str().map_err(|_| unreadable())?;
            links.extend(http_link::parse_link_header(link, url).map_err(|_| unreadable())?);
        }
        let Some(link) = links.into_iter().find(|link| link.rel == "next") else { return Ok(None) };
        let mut next = self.api.clone();
        next.set_path(link.target.path());
        next.set_query(link.target.query());
        Ok(Some(next))
    }

    /// Sends a request, with the credentials once the registry asks for some.
    async fn ask(&self, method: Method, url: Url, scope: &str) -> Result<Response, RegistryError> {
        let known = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).get(scope).cloned();
        let response = self.ask_with(method.clone(), url.clone(), known.as_ref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        // None yet, or a token that has expired.
        let challenges = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenges: Vec<String> =
            challenges.filter_map(|value| value.to_str().ok()).map(str::to_owned).collect();
        let refusal = self.read_refusal(response).await?;
        let authorization = self.authorize(&challenges, scope, &refusal.reason).await?;
        let response = self.ask_with(method, url, Some(&authorization)).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let refusal = self.read_refusal(response).await?;
            // A token server has taken the login, and has not given this right with it.
            let kind = self.access.credentials.kind();
            let was_taken = authorization.expose().starts_with("Bearer ")
                && matches!(kind, Some(Kind::Password | Kind::IdentityToken));
            return Err(if was_taken { self.denied(refusal.reason) } else { self.refusal(refusal) });
        }
        self.authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(scope.to_owned(), authorization);
        Ok(response)
    }

    async fn ask_with(
        &self,
        method: Method,
        url: Url,
        authorization: Option<&Secret>,
    ) -> Result<Response, RegistryError> {
        let is_manifest = url.path().contains("/manifests/");
        let mut request = self.client.request(method, url);
        if is_manifest {
            request = request.header(ACCEPT, MANIFESTS);
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, self.sensitive(authorization)?);
        }
        self.send(&self.client, request).await
    }

    /// The value of `Authorization` that these challenges want.
    async fn authorize(
        &self,
        challenges: &[String],
        scope: &str,
        reason: &str,
    ) -> Result<Secret, RegistryError> {
        let credentials = &self.access.credentials;
        let parsed = challenges.iter().filter_map(|text| http_auth::parse_challenges(text).ok()).flatten();
        let parsed: Vec<_> = parsed.collect();
        let of = |scheme: &str| parsed.iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case(scheme));
        let unauthorized = || self.unauthorized(reason.to_owned());
        if let Some(bearer) = of("Bearer") {
            if let Some(token) = &credentials.registry_token {
                return Ok(Secret::new(format!("Bearer {}", token.expose())));
            }
            let parameter = |name: &str| {
                let mut parameters = bearer.params.iter();
                let found = parameters.find(|(found, _)| found.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            let realm = parameter("realm").ok_or_else(|| self.not_a_registry("it names no token server"))?;
            let scope = parameter("scope").unwrap_or_else(|| scope.to_owned());
            let token = self.token(&realm, parameter("service"), &scope).await?;
            return Ok(Secret::new(format!("Bearer {}", token.expose())));
        }
        match (of("Basic"), credentials.kind()) {
            (Some(_), Some(Kind::Password)) => {
                let packed = credentials.packed().ok_or_else(unauthorized)?;
                Ok(Secret::new(format!("Basic {}", packed.expose())))
            }
            (Some(_), None) => Err(unauthorized()),
            (Some(_), _) => {
                Err(self.unauthorized("it wants a password, and there is none but a token".to_owned()))
            }
            (None, _) => {
                let schemes: Vec<&str> = parsed.iter().map(|challenge| challenge.scheme).collect();
                let asked =
                    if schemes.is_empty() { "none is named".to_owned() } else { clean(&schemes.join(", ")) };
                let reason = format!("it wants a login of a kind that is not known here ({asked}): {reason}");
                Err(RegistryError::Answered {
                    server: self.server(&self.api),
                    status: StatusCode::UNAUTHORIZED,
                    reason,
                })
            }
        }
    }

    /// A token for this scope, from the server that the registry names.
    async fn token(
        &self,
        realm: &str,
        service: Option<String>,
        scope: &str,
    ) -> Result<Secret, RegistryError> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<Secret>,
            access_token: Option<Secret>,
        }
        let credentials = &self.access.credentials;
        let mut url = url(&self.domain, realm)?;
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let is_own = place(&url) == place(&self.api);
        let is_as_registry = is_own || self.access.lends_insecurity(&self.domain);
        if url.scheme() != "https" && !credentials.is_anonymous() && !is_as_registry && !is_loopback(&host) {
            let reason =
                format!("its token server `{}` has no TLS, and no login is sent there", clean(&host));
            return Err(self.not_a_registry(&reason));
        }
        let tls_config = if url.scheme() == "https" && self.access.tls.skip_verify && !is_as_registry {
            let tls = Tls { skip_verify: false, ..self.access.tls.clone() };
            tls_config_for(&self.domain, &tls, &self.access.certificates)?
        } else {
            self.tls_config.clone()
        };
        // A login goes nowhere else.
        let client = build(&self.domain, client(tls_config, Policy::none()))?;
        let fields = service.map(|service| ("service", service)).into_iter();
        // Several stand in one, with spaces between.
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
            match (&credentials.username, &credentials.password, credentials.packed()) {
                (Some(username), Some(_), Some(packed)) => {
                    let basic = Secret::new(format!("Basic {}", packed.expose()));
                    request.query(&[("account", username)]).header(AUTHORIZATION, self.sensitive(&basic)?)
                }
                _ => request,
            }
        };
        let response = self.send(&client, request).await?;
        if !response.status().is_success() {
            let refusal = self.read_refusal(response).await?;
            let is_about_login = matches!(refusal.status.as_u16(), 400 | 401 | 403);
            return Err(if is_about_login {
                self.unauthorized(refusal.reason)
            } else {
                self.refusal(refusal)
            });
        }
        let body = Secret::new(String::from_utf8_lossy(&self.body(response, MAX_BODY).await?).into_owned());
        let answer: Option<Answer> = serde_json::from_str(body.expose()).ok();
        let token = answer.and_then(|answer| answer.token.or(answer.access_token));
        let token = token.filter(|token| !token.expose().is_empty());
        let token = token.ok_or_else(|| self.not_a_registry("its token server gives no token"))?;
        self.censor.lock().unwrap_or_else(PoisonError::into_inner).add(&token);
        Ok(token)
    }

    fn hide(&self, text: String) -> String {
        self.censor.lock().unwrap_or_else(PoisonError::into_inner).hide(text)
    }

    /// The registry, or where another is asked for it, that server.
    fn server(&self, url: &Url) -> String {
        if place(url) == place(&self.api) {
            return format!("the registry {}", self.domain);
        }
        let (host, port) = place(url);
        format!("{} for the registry {}", clean(&format!("{host}:{port}")), self.domain)
    }

    /// # Errors
    /// It cannot be sent: there is a line end in it, say.
    fn sensitive(&self, secret: &Secret) -> Result<HeaderValue, RegistryError> {
        let value = HeaderValue::from_str(secret.expose());
        let mut value =
            value.map_err(|_| self.unauthorized("it holds characters that cannot be sent".to_owned()))?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn path(&self, path: &str) -> Result<Url, RegistryError> {
        self.api.join(path).map_err(|error| self.not_a_registry(&error.to_string()))
    }

    async fn send(&self, client: &Client, request: RequestBuilder) -> Result<Response, RegistryError> {
        let request = request.build().map_err(|error| self.unreachable(&self.api, &error.without_url()))?;
        let url = request.url().clone();
        // Without the proxy that somebody wanted is not how anybody wants it.
        if let Some(Err(variable)) = url.as_str().parse().ok().map(|url| proxy_for(&url)) {
            let reason = format!("what {variable} says is no proxy");
            return Err(RegistryError::Unreachable { server: self.server(&url), reason });
        }
        if let Some(trace) = self.access.trace {
            // Beside those that reqwest adds.
            let names: Vec<&str> = request.headers().keys().map(|name| name.as_str()).collect();
            let names = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
            trace(&clean(&self.hide(format!("{} {url}{names}", request.method()))));
        }
        let response = client.execute(request).await.map_err(|error| {
            // (reqwest does not say so if it broke at a place that a redirect led to.)
            let error = error.without_url();
            match tls_error(&error) {
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
        Ok(response)
    }

    async fn body(&self, response: Response, limit: usize) -> Result<Vec<u8>, RegistryError> {
        let body = self.start_of(response, limit + 1).await?;
        if body.len() > limit {
            return Err(self.not_a_registry(&format!("it sends more than {} MB at once", limit >> 20)));
        }
        Ok(body)
    }

    /// The first bytes of a body, so many at most.
    async fn start_of(&self, mut response: Response, limit: usize) -> Result<Vec<u8>, RegistryError> {
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

    /// Why it refuses, from the body of an error.
    async fn read_refusal(&self, response: Response) -> Result<Refusal, RegistryError> {
        let (status, server) = (response.status(), self.server(response.url()));
        let target =
            response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = self.start_of(response, MAX_REASON).await?;
        let reason = target
            .filter(|_| status.is_redirection())
            .map(|target| format!("its place is `{target}`"))
            .unwrap_or_else(|| reason(&body, status));
        Ok(Refusal { status, reason: clean(&self.hide(reason)), server })
    }

    async fn unexpected(&self, response: Response) -> RegistryError {
        match self.read_refusal(response).await {
            Ok(refusal) => self.refusal(refusal),
            Err(error) => error,
        }
    }

    fn refusal(&self, Refusal { status, reason, server }: Refusal) -> RegistryError {
        match status {
            StatusCode::UNAUTHORIZED => self.unauthorized(reason),
            StatusCode::FORBIDDEN => self.denied(reason),
            StatusCode::NOT_FOUND => self.not_a_registry(&format!("it answered {status}: {reason}")),
            _ => RegistryError::Answered { server, status, reason },
        }
    }

    fn denied(&self, reason: String) -> RegistryError {
        let login = Box::new(self.access.login.clone());
        RegistryError::Denied { registry: self.domain.clone(), login, reason }
    }

    fn unauthorized(&self, reason: String) -> RegistryError {
        let login = Box::new(self.access.login.clone());
        RegistryError::Unauthorized { registry: self.domain.clone(), login, reason }
    }

    fn not_a_registry(&self, reason: &str) -> RegistryError {
        RegistryError::NotARegistry { registry: self.domain.clone(), reason: reason.to_owned() }
    }

    fn unreachable(&self, url: &Url, error: &reqwest::Error) -> RegistryError {
        let reason = if error.is_timeout() { "it does not answer".to_owned() } else { root_cause(error) };
        RegistryError::Unreachable { server: self.server(url), reason }
    }
}

/// Host and port.
fn place(url: &Url) -> (&str, u16) {
    (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
}

/// Some registries answer for others. reqwest leaves our login behind at another host or port.
fn follow(attempt: Attempt<'_>) -> Action {
    let is_downgrade = attempt.url().scheme() != "https"
        && attempt.previous().iter().any(|previous| previous.scheme() == "https");
    if is_downgrade || attempt.previous().len() > MAX_REDIRECTS { attempt.stop() } else { attempt.follow() }
}

/// An HTTP error, read.
struct Refusal {
    status: StatusCode,
    /// Clean.
    reason: String,
    /// Who said it.
    server: String,
}

/// What a registry says in an error: `errors[].code: message` (OCI distribution), `details` or `message` of
/// token servers, else the body itself, if it is not a page.
fn reason(body: &[u8], status: StatusCode) -> String {
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

/// The innermost cause: what reqwest wraps round it says nothing more.
fn root_cause(error: &reqwest::Error) -> String {
    let causes = std::iter::successors(Some(error as &(dyn StdError + 'static)), |error| (*error).source());
    causes.last().map(|cause| clean(&cause.to_string())).unwrap_or_default()
}

fn url(registry: &str, text: &str) -> Result<Url, RegistryError> {
    let not_a_registry =
        |reason: String| RegistryError::NotARegistry { registry: registry.to_owned(), reason };
    let url = Url::parse(text).map_err(|error| not_a_registry(format!("`{}`: {error}", clean(text))))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        _ => Err(not_a_registry(format!("`{}` is no address of a server", clean(text)))),
    }
}

/// * `directory`: of the certificates, for messages.
fn tls_config_for(registry: &str, tls: &Tls, directory: &Path) -> Result<ClientConfig, RegistryError> {
    tls_config(tls).map_err(|problem| RegistryError::Tls {
        server: format!("the registry {registry}"),
        registry: registry.to_owned(),
        directory: directory.to_owned(),
        problem: Box::new(problem),
    })
}

fn client(tls_config: ClientConfig, redirects: Policy) -> ClientBuilder {
    Client::builder()
        .user_agent(USER_AGENT_VALUE)
        .tls_backend_preconfigured(tls_config)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .timeout(TIMEOUT)
        .redirect(redirects)
        .no_proxy()
        .proxy(Proxy::custom(|url| {
            // What is no proxy was found out before the request.
            let proxy = proxy_for(&url.as_str().parse().ok()?).ok()??;
            Url::parse(&proxy).ok()
        }))
}

fn build(registry: &str, client: ClientBuilder) -> Result<Client, RegistryError> {
    client.build().map_err(|error| RegistryError::Unreachable {
        server: format!("the registry {registry}"),
        reason: with_causes(&error),
    })
}

/// CA and client certificates for a registry, as moby's `ReadCertsDirectory` finds them; whatever
/// certificate the registry shows has to be good.
fn tls(registry: &str, directory: &Path, mut warn: impl FnMut(&str)) -> Result<Tls, RegistryError> {
    let broken = |reason: String| RegistryError::Certificates { registry: registry.to_owned(), reason };
    let unreadable = |path: &Path, error: io::Error| broken(format!("`{}`: {error}", path.display()));
    // What is root's alone is the engine's, and may not be needed.
    let mut skip =
        |path: &Path| warn(&format!("`{}` is not used: only the engine may read it", path.display()));
    let mut files = match fs::read_dir(directory) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect::<Vec<_>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            skip(directory);
            Vec::new()
        }
        Err(error) => return Err(unreadable(directory, error)),
    };
    files.sort();
    let mut read = |path: &Path| match fs::read_to_string(path) {
        Ok(text) => Ok(Some(Pem { path: path.to_owned(), text: Secret::new(text) })),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            skip(path);
            Ok(None)
        }
        Err(error) => Err(unreadable(path, error)),
    };
    let (mut authorities, mut identity): (Option<Pem>, _) = (None, None);
    for path in &files {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => {
                let Some(pem) = read(path)? else { continue };
                authorities = Some(match authorities {
                    None => pem,
                    Some(Pem { path, text }) => {
                        Pem { path, text: Secret::new(format!("{}\n{}", text.expose(), pem.text.expose())) }
                    }
                });
            }
            Some("cert") => {
                let key = path.with_extension("key");
                if !key.exists() {
                    // docker's own explanation.
                    return Err(broken(format!(
                        "missing key `{}` for client certificate `{}`; CA certificates must use the extension .crt",
                        key.display(),
                        path.display()
                    )));
                }
                if let (Some(certificate), Some(key)) = (read(path)?, read(&key)?) {
                    identity = Some(Identity { certificate, key });
                }
            }
            Some("key") if !path.with_extension("cert").exists() => {
                return Err(broken(format!(
                    "there is no client certificate for the key `{}`",
                    path.display()
                )));
            }
            _ => {}
        }
    }
    Ok(Tls { authorities, with_system: true, identity, skip_verify: false })
}

/// The addresses of a registry's host; none where they cannot be found in time.
async fn addresses(domain: &str) -> Vec<SocketAddr> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let has_port =
        domain.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let place = if has_port { domain.to_owned() } else { format!("{domain}:443") };
    match tokio::time::timeout(PATIENCE, tokio::net::lookup_host(place)).await {
        Ok(Ok(found)) => found.collect(),
        _ => Vec::new(),
    }
}

/// Whether a registry is known to have no catalog, so that it need not be asked.
pub fn is_without_catalog(domain: &str) -> bool {
    let is_ecr = domain.contains(".dkr.ecr") && domain.contains(".amazonaws.com");
    is_ecr || [HUB, "ghcr.io", "public.ecr.aws"].contains(&domain)
}

/// Asks about many things at once, but not too many: the answers in their order; and how many are missing,
/// with the first reason.
async fn at_once<T: Send + 'static, F>(
    things: &[String],
    ask: impl Fn(String) -> F,
) -> (Vec<Option<T>>, Option<(usize, RegistryError)>)
where
    F: Future<Output = Result<T, RegistryError>> + Send + 'static,
{
    const AT_ONCE: usize = 8;
    let mut found: Vec<Option<T>> = things.iter().map(|_| None).collect();
    let mut trouble: Option<(usize, RegistryError)> = None;
    let mut running = tokio::task::JoinSet::new();
    let mut waiting = things.iter().cloned().enumerate();
    loop {
        while running.len() < AT_ONCE
            && let Some((at, thing)) = waiting.next()
        {
            let asked = ask(thing);
            running.spawn(async move { (at, asked.await) });
        }
        match running.join_next().await {
            None => return (found, trouble),
            Some(Ok((at, Ok(answer)))) => found[at] = Some(answer),
            Some(Ok((_, Err(error)))) => {
                // Asking on would make it no better, or worse.
                let is_over = matches!(error.class(), Class::Network | Class::RateLimited | Class::Auth);
                let missing = &mut trouble.get_or_insert((0, error)).0;
                *missing += 1;
                if is_over {
                    *missing += waiting.by_ref().count();
                }
            }
            // It cannot panic, and nobody ends it but us.
            Some(Err(_)) => {}
        }
    }
}

/// What these tags name, in their order; and how many could not be asked about, with the first reason.
pub async fn digests(
    registry: &Arc<Registry>,
    repository: &str,
    tags: &[String],
) -> (Vec<Option<String>>, Option<(usize, RegistryError)>) {
    let ask = |tag: String| {
        let (registry, repository) = (Arc::clone(registry), repository.to_owned());
        async move { registry.named(&repository, &tag).await }
    };
    let (named, trouble) = at_once(tags, ask).await;
    let digest = |named: Option<Option<Descriptor>>| named.flatten().map(|descriptor| descriptor.digest);
    (named.into_iter().map(digest).collect(), trouble)
}
