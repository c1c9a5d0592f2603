//! Queries a registry for tags, manifests and blobs.
//!
//! Source: OCI distribution specification 1.1, "Pull".

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use hyper::StatusCode;
use reqwest::{Method, Response, Url};
use serde::Deserialize;

use crate::failure::Class;
use crate::oci::{Descriptor, is_digest};
use crate::reference::is_tag;
use crate::registry::Registry;
use crate::registry::client::{MAX_BODY, place};
use crate::registry::error::RegistryError;
use crate::registry::manifest::ServedManifest;
use crate::registry::token::scope;

/// Maximum number of manifests, and of blobs, in one image.
const MAX_PARTS: usize = 10_000;

impl Registry {
    /// Returns the descriptor (digest and size) of the manifest that a tag or a digest names; `None` if this manifest does
    /// not exist.
    ///
    /// # Errors
    /// The registry cannot be reached, or refuses the request.
    pub async fn resolve(
        &self,
        repository: &str,
        reference: &str,
    ) -> Result<Option<Descriptor>, RegistryError> {
        if !is_tag(reference) && !is_digest(reference) {
            return Ok(None);
        }
        let url = self.path(&format!("v2/{repository}/manifests/{reference}"))?;
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
            // A registry may omit `Docker-Content-Digest` and `Content-Length` (OCI distribution specification,
            // "Checking if content exists").
            _ => Ok(self.manifest(repository, reference).await?.map(|manifest| manifest.descriptor)),
        }
    }

    /// Returns the manifest that a tag or digest names in a registry; `None` if this manifest does not exist.
    /// The returned digest is computed from the bytes of the manifest.
    ///
    /// # Errors
    /// The registry cannot be reached, refuses the request, or sends a document that is not a manifest.
    pub async fn manifest(
        &self,
        repository: &str,
        reference: &str,
    ) -> Result<Option<ServedManifest>, RegistryError> {
        let url = self.path(&format!("v2/{repository}/manifests/{reference}"))?;
        let response = self.ask(Method::GET, url, &scope(repository)).await?;
        let Some(body) = self.found(response).await? else { return Ok(None) };
        let manifest = ServedManifest::parse(&body);
        manifest.map(Some).map_err(|_| RegistryError::NoManifest { registry: self.domain.clone() })
    }

    /// Returns the digests of an image's uncompressed layers, in the order of the image's configuration.
    /// Returns `None` if the registry does not have the configuration, or if the configuration is not
    /// JSON with `rootfs.diff_ids`.
    ///
    /// # Errors
    /// The registry cannot be reached, or refuses the request.
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

    /// Returns the digests of an image's blobs and manifests that are missing in the registry.
    ///
    /// # Errors
    /// The registry cannot be reached, or refuses the request.
    pub async fn missing_blobs(
        self: &Arc<Self>,
        repository: &str,
        digest: &str,
    ) -> Result<Vec<String>, RegistryError> {
        match self.manifest(repository, digest).await? {
            Some(manifest) if manifest.is_called(digest) => self.missing_blobs_of(repository, manifest).await,
            _ => Ok(vec![digest.to_owned()]),
        }
    }

    /// Returns the digests of an image's blobs and manifests that are missing in the registry. Unlike
    /// [`missing_blobs`](Self::missing_blobs), takes a manifest that the caller already has.
    ///
    /// # Errors
    /// The registry cannot be reached, or refuses the request.
    pub async fn missing_blobs_of(
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

    /// Returns whether the registry has a blob.
    ///
    /// # Errors
    /// The registry cannot be reached, or refuses the request.
    pub async fn has_blob(&self, repository: &str, digest: &str) -> Result<bool, RegistryError> {
        Ok(self.head_blob(repository, digest, &scope(repository)).await?.is_some())
    }

    /// Returns the response to a query for a blob; `None` if the registry does not have the blob.
    pub(super) async fn head_blob(
        &self,
        repository: &str,
        digest: &str,
        scope: &str,
    ) -> Result<Option<Response>, RegistryError> {
        let url = self.blob(repository, digest)?;
        let response = self.ask(Method::HEAD, url.clone(), scope).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(response)),
            // A redirect to a blob store shows that the blob exists. The signed URL of the store accepts only
            // GET, so this HEAD request fails.
            _ if place(response.url()) != place(&url) => Ok(Some(response)),
            _ => Err(self.unexpected(response).await),
        }
    }

    fn blob(&self, repository: &str, digest: &str) -> Result<Url, RegistryError> {
        self.path(&format!("v2/{repository}/blobs/{digest}"))
    }

    /// Returns the body of a successful response, or `None` if the status is 404.
    async fn found(&self, response: Response) -> Result<Option<Vec<u8>>, RegistryError> {
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => self.body(response, MAX_BODY).await.map(Some),
            _ => Err(self.unexpected(response).await),
        }
    }
}

/// Sends one query for each of `things`, at most 8 at once. Returns the results in the order of `things`. If
/// queries fail, also returns the number of missing results and the first error.
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
                // After an error of these classes, more queries would fail too, or prolong a rate limit.
                let is_over = matches!(error.class(), Class::Network | Class::RateLimited | Class::Auth);
                let missing = &mut trouble.get_or_insert((0, error)).0;
                *missing += 1;
                if is_over {
                    *missing += waiting.by_ref().count();
                }
            }
            // Cannot happen: a query does not panic, and no query is cancelled while this loop runs.
            Some(Err(_)) => {}
        }
    }
}

/// Returns the digest of the manifest that each of `tags` names, in the order of `tags`. If queries
/// fail, also returns the number of missing digests and the first error.
pub async fn digests(
    registry: &Arc<Registry>,
    repository: &str,
    tags: &[String],
) -> (Vec<Option<String>>, Option<(usize, RegistryError)>) {
    let ask = |tag: String| {
        let (registry, repository) = (Arc::clone(registry), repository.to_owned());
        async move { registry.resolve(&repository, &tag).await }
    };
    let (named, trouble) = at_once(tags, ask).await;
    let digest = |named: Option<Option<Descriptor>>| named.flatten().map(|descriptor| descriptor.digest);
    (named.into_iter().map(digest).collect(), trouble)
}
