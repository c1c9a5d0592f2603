//! Uploads blobs and manifests to one repository of a registry.
//!
//! Source: OCI distribution specification 1.1, "Push".

use std::io;
use std::mem::take;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use hyper::StatusCode;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use reqwest::header::{AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response, Url};
use tokio::sync::OnceCell;

use crate::failure::Phase;
use crate::net::tls::Tls;
use crate::oci::Descriptor;
use crate::registry::client::{
    MAX_REDIRECTS, Repeatable, build, is_html, location, place, resolved, shown, tls_config_for,
    unlimited_builder,
};
use crate::registry::error::{Misplaced, RegistryError};
use crate::registry::token::write_scope;
use crate::registry::{ChunkLimits, Registry};

/// The maximum time to cancel an upload.
const CANCEL: Duration = Duration::from_secs(5);
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Uploads to one repository of a registry. Requests that store data have no time limit, since a registry may need long to
/// store a blob.
pub struct Writer {
    registry: Arc<Registry>,
    repository: String,
    /// The scope of a token that may pull from and push to the repository.
    scope: String,
    clients: Clients,
    /// Notes for the user that [`take_notes`](Self::take_notes) has not returned so far.
    notes: Mutex<Vec<String>>,
}

/// The HTTP clients for uploads.
struct Clients {
    /// For requests that can be sent again.
    requests: Client,
    /// For bodies that cannot be sent again: each uses a fresh connection, since the registry may close an idle connection
    /// at any time.
    bodies: Client,
    /// For servers other than the registry: without a client certificate. Made if it is needed, since reading the system's CA
    /// certificates takes time.
    other_servers: OnceCell<Client>,
}

/// An upload that a registry has started. Each response of the registry may change the URL.
#[derive(Clone, Debug)]
pub struct Upload {
    url: Url,
    /// The URL belongs to the registry, which may receive credentials.
    is_own: bool,
}

/// The part of a blob in one request.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// Data up to the end of the blob; the upload goes on.
    Rest,
    /// Data up to the end of the blob, which finishes the upload with this digest.
    Last(&'a str),
    /// The chunk that begins at `start` and ends before `end`. The caller can send it again.
    Chunk { start: u64, end: u64 },
    /// The last chunk, which finishes the upload with this digest.
    LastChunk { start: u64, end: u64, digest: &'a str },
}

/// The result of an attempt to mount a blob from another repository.
#[derive(Debug)]
pub enum Mounted {
    Yes,
    /// The registry did not mount the blob, and may have started an upload instead.
    No(Option<Upload>),
}

/// The result of a request with the data of a blob.
#[derive(Debug)]
pub enum Sent {
    /// The registry received all data of the request.
    Received(Upload),
    /// The registry stored the blob.
    Stored,
    /// The registry redirects the request to another URL, and has received nothing of it.
    Redirected(Upload),
    /// The registry refused the token. The plugin has a new one now, so the data must be sent again.
    NeedsNewToken,
}

impl Writer {
    /// # Errors
    /// The TLS configuration cannot be used.
    pub fn new(registry: Arc<Registry>, repository: &str) -> Result<Self, RegistryError> {
        let client = |client| {
            build(
                &registry.domain,
                resolved(client, &registry.domain, &registry.api, &registry.access.addresses),
            )
        };
        let own = || unlimited_builder(registry.tls_config.clone(), Policy::none());
        // A proxy for plain HTTP may close each connection after a response.
        let keeps_connections = !registry.access.is_proxied || registry.api.scheme() == "https";
        let requests = if keeps_connections { own() } else { own().pool_max_idle_per_host(0) };
        let clients = Clients {
            requests: client(requests)?,
            bodies: client(own().pool_max_idle_per_host(0))?,
            other_servers: OnceCell::new(),
        };
        Ok(Self {
            repository: repository.to_owned(),
            scope: write_scope(repository),
            clients,
            notes: Mutex::default(),
            registry,
        })
    }

    /// Returns notes about the registry's answers, once.
    pub fn take_notes(&self) -> Vec<String> {
        take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the size in bytes of a blob in the repository; `None` if the repository does not have the blob, or if the
    /// registry does not tell the size.
    ///
    /// # Errors
    /// The registry cannot be reached, or refuses the request.
    pub async fn size_of(&self, digest: &str) -> Result<Option<u64>, RegistryError> {
        let response = self.registry.head_blob(&self.repository, digest, &self.scope).await?;
        // A redirect to a blob store that refuses HEAD does not tell the size.
        Ok(response.filter(|response| response.status().is_success()).as_ref().and_then(content_length))
    }

    /// Returns the descriptor of the manifest that a tag or a digest names in the repository; `None` if there is none.
    ///
    /// # Errors
    /// The registry cannot be reached, or refuses the request.
    pub async fn resolve(&self, reference: &str) -> Result<Option<Descriptor>, RegistryError> {
        self.registry.resolve(&self.repository, reference).await
    }

    /// Mounts a blob from another repository of the registry, with the credentials for this repository.
    ///
    /// # Errors
    /// The registry cannot be reached, or refuses uploads.
    pub async fn mount(&self, digest: &str, from: &str) -> Result<Mounted, RegistryError> {
        let mut url = self.path("blobs/uploads/")?;
        url.query_pairs_mut().append_pair("mount", digest).append_pair("from", from);
        let response = self.ask(Method::POST, url).await?;
        match response.status() {
            StatusCode::CREATED => Ok(Mounted::Yes),
            StatusCode::ACCEPTED => Ok(Mounted::No(self.next(&response)?)),
            _ => Err(self.refused(response, Phase::Start).await),
        }
    }

    /// Starts an upload.
    ///
    /// # Errors
    /// The registry cannot be reached, or refuses uploads.
    pub async fn start(&self) -> Result<Upload, RegistryError> {
        let url = self.path("blobs/uploads/")?;
        let server = self.upload_server().clone();
        if let Some(server) = server {
            if let Ok(upload) = self.start_at(moved_to(&url, &server)).await {
                return Ok(upload);
            }
            *self.upload_server() = None;
        }
        self.start_at(url).await
    }

    /// Returns the limits on chunks that are known from the registry's responses in this call.
    pub fn chunk_limits(&self) -> ChunkLimits {
        *self.registry.chunk_limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the registry has refused a request of this size in bytes.
    pub fn set_refused_size(&self, size: u64) {
        self.registry.set_refused_size(size);
    }

    /// Records that the registry refuses requests without the length of their body.
    pub fn set_requires_length(&self) {
        self.registry.chunk_limits.lock().unwrap_or_else(PoisonError::into_inner).requires_length = true;
    }

    /// Returns the `host[:port]` of the registry.
    pub fn domain(&self) -> &str {
        &self.registry.domain
    }

    /// Sends data of a blob. The caller may not be able to send the body again, so a token that ends soon is replaced first.
    ///
    /// # Errors
    /// The registry cannot be reached, or refuses the data.
    pub async fn send(&self, upload: &Upload, body: BlobBody, part: Part<'_>) -> Result<Sent, RegistryError> {
        let (client, authorization) = if upload.is_own {
            let is_chunk = matches!(part, Part::Chunk { .. } | Part::LastChunk { .. });
            let client = if is_chunk { &self.clients.requests } else { &self.clients.bodies };
            (client, self.registry.fresh_authorization(&self.scope).await)
        } else {
            (self.other_servers().await?, None)
        };
        let request = match part {
            Part::Last(digest) => client.put(finishing(upload, digest)),
            Part::Rest => client.patch(upload.url.clone()),
            Part::Chunk { start, end } => {
                client.patch(upload.url.clone()).header(CONTENT_RANGE, content_range(start, end))
            }
            Part::LastChunk { start, end, digest } => {
                client.put(finishing(upload, digest)).header(CONTENT_RANGE, content_range(start, end))
            }
        };
        let mut request = request.header(CONTENT_TYPE, OCTETS);
        if let Some(authorization) = &authorization {
            request = request.header(AUTHORIZATION, self.registry.sensitive(authorization)?);
        }
        let response = self.registry.send(client, request.body(reqwest::Body::wrap(body))).await?;
        let status = response.status();
        let is_success = status.is_success() && !is_html(&response);
        if is_success && matches!(part, Part::Last(_) | Part::LastChunk { .. }) {
            return Ok(Sent::Stored);
        }
        if is_success {
            return Ok(Sent::Received(self.next(&response)?.unwrap_or_else(|| upload.clone())));
        }
        if let Some(target) = redirect(&response) {
            self.check_scheme(response.url(), &target)?;
            return Ok(Sent::Redirected(self.at(target)));
        }
        if status == StatusCode::UNAUTHORIZED && upload.is_own {
            let newer = self.registry.authorize_after(response, &self.scope, authorization.as_ref()).await?;
            self.registry.remember(&self.scope, newer);
            return Ok(Sent::NeedsNewToken);
        }
        Err(self.refused(response, Phase::Layers).await)
    }

    /// Returns the number of bytes of an upload that the registry has received, and the upload's new URL. `None`: the
    /// registry does not know the upload, or does not tell.
    ///
    /// # Errors
    /// The registry cannot be reached, or refuses the request.
    pub async fn offset(&self, upload: &Upload) -> Result<Option<(u64, Upload)>, RegistryError> {
        let response = self.ask(Method::GET, upload.url.clone()).await?;
        let status = response.status();
        if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            return Err(self.refused(response, Phase::Layers).await);
        }
        if !status.is_success() {
            return Ok(None);
        }
        let range = response.headers().get(RANGE).and_then(|range| range.to_str().ok()).and_then(received);
        let next = self.next(&response)?.unwrap_or_else(|| upload.clone());
        Ok(range.map(|offset| (offset, next)))
    }

    /// Finishes an upload. `body`: the whole blob, or nothing if the registry has received the blob.
    ///
    /// # Errors
    /// The registry cannot be reached, or refuses the blob.
    pub async fn finish(&self, upload: &Upload, digest: &str, body: Bytes) -> Result<(), RegistryError> {
        self.put(finishing(upload, digest), OCTETS, body, Phase::Layers).await
    }

    /// Starts the next upload at the server to which the registry has redirected an upload.
    pub fn set_upload_server(&self, upload: &Upload) {
        *self.upload_server() = Some(upload.url.clone());
    }

    /// Cancels an upload. Ignores errors, since a registry drops unfinished uploads later.
    pub async fn cancel(&self, upload: &Upload) {
        let cancelling = self.ask(Method::DELETE, upload.url.clone());
        let _ = tokio::time::timeout(CANCEL, cancelling).await;
    }

    /// Stores a manifest under a tag or under its digest.
    ///
    /// # Errors
    /// The registry cannot be reached, or refuses the manifest.
    pub async fn put_manifest(
        &self,
        reference: &str,
        media_type: HeaderValue,
        body: Bytes,
    ) -> Result<(), RegistryError> {
        let url = self.path(&format!("manifests/{reference}"))?;
        self.put(url, media_type, body, Phase::Manifest).await
    }

    /// Returns the error for an upload that the registry has lost.
    ///
    /// * `reason`: the failure after which the registry lost the upload.
    pub fn lost(&self, reason: &str) -> RegistryError {
        RegistryError::UploadLost { registry: self.registry.domain.clone(), reason: reason.to_owned() }
    }
}

impl Writer {
    fn upload_server(&self) -> MutexGuard<'_, Option<Url>> {
        self.registry.upload_server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, path: &str) -> Result<Url, RegistryError> {
        self.registry.path(&format!("v2/{}/{path}", self.repository))
    }

    /// Sends a request without a body. See [`ask_with`](Self::ask_with).
    async fn ask(&self, method: Method, url: Url) -> Result<Response, RegistryError> {
        self.ask_with(method, url, HeaderMap::new(), None).await
    }

    /// Sends a request that can be sent again. Follows redirects that keep the method. Only the registry receives
    /// credentials and a client certificate.
    async fn ask_with(
        &self,
        method: Method,
        mut url: Url,
        headers: HeaderMap,
        body: Option<Bytes>,
    ) -> Result<Response, RegistryError> {
        for redirects in 0.. {
            let (method, headers, body) = (method.clone(), headers.clone(), body.clone());
            let response = if self.at(url.clone()).is_own {
                let request = Repeatable { client: &self.clients.requests, method, url, headers, body };
                self.registry.ask_repeatable(&request, &self.scope).await?
            } else {
                let client = self.other_servers().await?;
                let request = client.request(method, url).headers(headers).body(body.unwrap_or_default());
                self.registry.send(client, request).await?
            };
            match redirect(&response).filter(|_| redirects < MAX_REDIRECTS) {
                Some(target) => {
                    self.check_scheme(response.url(), &target)?;
                    url = target;
                }
                None => return Ok(response),
            }
        }
        unreachable!("the loop returns after the last redirect")
    }

    /// Returns the client for servers other than the registry.
    async fn other_servers(&self) -> Result<&Client, RegistryError> {
        let make = async || {
            let (domain, access) = (&self.registry.domain, &self.registry.access);
            let skip_verify = access.tls.skip_verify && access.skips_verify_elsewhere;
            let tls = Tls { identity: None, skip_verify, ..access.tls.clone() };
            let tls_config = tls_config_for(domain, &tls, &access.certificates)?;
            build(domain, unlimited_builder(tls_config, Policy::none()).pool_max_idle_per_host(0))
        };
        self.clients.other_servers.get_or_try_init(make).await
    }

    /// Starts an upload at a URL.
    async fn start_at(&self, url: Url) -> Result<Upload, RegistryError> {
        let response = self.ask(Method::POST, url).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(self.refused(response, Phase::Start).await);
        }
        let registry = &self.registry.domain;
        self.next(&response)?.ok_or_else(|| RegistryError::NoLocation { registry: registry.clone() })
    }

    /// Stores a blob or a manifest.
    async fn put(
        &self,
        url: Url,
        media_type: HeaderValue,
        body: Bytes,
        phase: Phase,
    ) -> Result<(), RegistryError> {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, media_type)]);
        let response = self.ask_with(Method::PUT, url, headers, Some(body)).await?;
        // A web page is the answer of a proxy.
        if response.status().is_success() && !is_html(&response) {
            return Ok(());
        }
        Err(self.refused(response, phase).await)
    }

    fn at(&self, url: Url) -> Upload {
        let api = &self.registry.api;
        Upload { is_own: place(&url) == place(api) && url.scheme() == api.scheme(), url }
    }

    fn read_chunk_limits(&self, response: &Response) {
        let number =
            |name| response.headers().get(name)?.to_str().ok()?.parse().ok().filter(|size| *size > 0);
        let mut limits = self.registry.chunk_limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.min = number("oci-chunk-min-length").or(limits.min);
        limits.max = number("oci-chunk-max-length").or(limits.max);
    }

    /// Returns the upload at the location that a response names. A location on the registry's host with another scheme or
    /// port means that a proxy did not pass its scheme and port to the registry, so the scheme and port of the registry's
    /// API remain.
    fn next(&self, response: &Response) -> Result<Option<Upload>, RegistryError> {
        self.read_chunk_limits(response);
        let Some(mut url) = location(response) else { return Ok(None) };
        let api = &self.registry.api;
        let is_from_registry = self.at(response.url().clone()).is_own;
        if is_from_registry && url.host_str() == api.host_str() && !self.at(url.clone()).is_own {
            let note = format!("the registry sends uploads to {}; going on at {}", origin(&url), origin(api));
            let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
            if !notes.contains(&note) {
                notes.push(note);
            }
            url = moved_to(&url, api);
        }
        self.check_scheme(response.url(), &url)?;
        Ok(Some(self.at(url)))
    }

    /// # Errors
    /// A server that uses TLS sends the upload to a URL without TLS.
    fn check_scheme(&self, from: &Url, to: &Url) -> Result<(), RegistryError> {
        if from.scheme() != "https" || to.scheme() == "https" {
            return Ok(());
        }
        let registry = self.registry.domain.clone();
        Err(RegistryError::UploadElsewhere { registry, location: shown(to), problem: Misplaced::Plain })
    }

    /// Returns the error for a response that refuses an upload, a blob or a manifest.
    async fn refused(&self, response: Response, phase: Phase) -> RegistryError {
        let status = response.status();
        // Another server, such as a blob store with signed URLs, received no credentials, so this status means that the URL
        // of the upload is not valid any more.
        if !self.at(response.url().clone()).is_own && matches!(status.as_u16(), 401 | 403 | 404) {
            return self.lost(&format!("{} answered {status}", origin(response.url())));
        }
        self.registry.refused_upload(&self.repository, response, phase).await
    }
}

impl Registry {
    /// Records that the registry, or a proxy in front of it, has refused a request of this size in bytes.
    pub fn set_refused_size(&self, size: u64) {
        let mut limits = self.chunk_limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.refused = Some(limits.refused.map_or(size, |refused| refused.min(size)));
    }
}

/// The data of a blob, as the body of a request. An error in the data ends the request, so that the registry does not treat an
/// incomplete body as complete.
pub struct BlobBody {
    pub data: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send + Sync>>,
    /// Incremented by the number of bytes that were handed to the connection.
    pub sent: Arc<AtomicU64>,
    /// The number of bytes in the data, if known.
    pub length: Option<u64>,
}

impl Body for BlobBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let data = std::task::ready!(self.data.as_mut().poll_next(context));
        if let Some(Ok(data)) = &data {
            self.sent.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        Poll::Ready(data.map(|data| data.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map(SizeHint::with_exact).unwrap_or_default()
    }
}

/// Returns the header `Content-Range` of a chunk that ends before `end` (OCI distribution specification 1.1, "Pushing a blob in
/// chunks").
fn content_range(start: u64, end: u64) -> String {
    format!("{start}-{}", end.saturating_sub(1))
}

/// Returns the URL of the request that finishes an upload.
fn finishing(upload: &Upload, digest: &str) -> Url {
    let mut url = upload.url.clone();
    // The target of a redirect has the query of the redirected request.
    if url.query_pairs().any(|(name, _)| name == "digest") {
        return url;
    }
    url.query_pairs_mut().append_pair("digest", digest);
    url
}

/// Returns the target of a redirect that keeps the method of the request (RFC 9110, 15.4.8 and 15.4.9).
fn redirect(response: &Response) -> Option<Url> {
    let status = response.status();
    let keeps_method = matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
    location(response).filter(|_| keeps_method)
}

/// Returns the number of received bytes from the header `Range` of an upload, such as `0-1023` or `bytes=0-1023`. Some
/// registries send `0-0` if they have received nothing.
fn received(range: &str) -> Option<u64> {
    let range = range.trim().trim_start_matches("bytes=");
    let last: u64 = range.strip_prefix("0-")?.parse().ok()?;
    Some(if last == 0 { 0 } else { last + 1 })
}

fn content_length(response: &Response) -> Option<u64> {
    response.headers().get("content-length")?.to_str().ok()?.parse().ok()
}

/// Returns a URL with the scheme, host and port of another.
fn moved_to(url: &Url, server: &Url) -> Url {
    let mut moved = server.clone();
    moved.set_path(url.path());
    moved.set_query(url.query());
    moved
}

fn origin(url: &Url) -> String {
    shown(&moved_to(&Url::parse("http://x/").expect("a valid URL"), url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_number_of_received_bytes() {
        let table = [
            ("0-1023", Some(1024)),
            ("bytes=0-9", Some(10)),
            ("0-0", Some(0)),
            ("5-9", None),
            ("0-", None),
            ("", None),
        ];
        for (range, want) in table {
            assert_eq!(received(range), want, "{range}");
        }
    }
}
