//! Lists and inspects the images in the engine.

use std::time::Duration;

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use crate::engine::error::EngineError;
use crate::engine::{Engine, in_path, is_podman};
use crate::oci::is_digest;
use crate::platform::Platform;
use crate::text::sanitize;

/// How long an engine may take to list its images.
pub const LIST_TIMEOUT: Duration = Duration::from_secs(60);

/// One name of an image in the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageSummary {
    /// `repository:tag`, as the engine shows it.
    pub name: String,
    /// Bytes, as the engine counts them.
    pub size: u64,
    /// The manifest digest that the image has, or would get with a push, in this name's repository; `None` if
    /// it is not known yet.
    pub digest: Option<String>,
    /// Whether the image was pushed to that repository (or pulled from it). `None` if this is not known:
    /// docker's containerd store and podman name a digest for every repository.
    pub is_pushed: Option<bool>,
}

/// An image in the engine's store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageInspect {
    pub id: String,
    /// Bytes, as the engine counts them.
    pub size: u64,
    /// Its digests in registries (`RepoDigests`). An image with one of these digests has the same content.
    pub digests: Vec<String>,
    /// The digests of its uncompressed layers.
    pub layers: Vec<String>,
    /// Its names in the engine (`RepoTags`).
    pub names: Vec<String>,
    /// Its manifests if the engine lists them (containerd store, API 1.48), else empty.
    pub manifests: Vec<LocalManifest>,
}

/// One manifest of a multi-platform image in the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalManifest {
    pub digest: String,
    /// The platform; `None` for an attestation, which is about another manifest, and for unknown kinds.
    pub platform: Option<Platform>,
    /// Whether all of its content is in the engine.
    pub is_here: bool,
}

impl ImageInspect {
    /// Whether the image has this manifest digest. In the containerd store the ID is the manifest digest too.
    pub fn has_digest(&self, digest: &str) -> bool {
        self.id == digest || self.digests.iter().any(|own| own == digest)
    }
}

impl Engine {
    /// Sends an image inspect.
    ///
    /// * `name`: a reference or an ID.
    ///
    /// # Errors
    /// The image does not exist ([`EngineError::Answered`]), or the engine cannot be reached.
    ///
    /// Source: Docker Engine API 1.24, `GET /images/{name}/json`; 1.48 for `manifests`.
    pub async fn inspect(&mut self, name: &str) -> Result<ImageInspect, EngineError> {
        let query = if self.tells_platforms() { "?manifests=true" } else { "" };
        self.inspect_with(name, query).await
    }

    /// Sends an image inspect for one platform, which returns the layers of that platform; `None` if the engine
    /// does not support it.
    ///
    /// # Errors
    /// Those of [`inspect`](Self::inspect), or the image does not have the platform.
    ///
    /// Source: Docker Engine API 1.49, `platform`.
    pub async fn inspect_platform(
        &mut self,
        name: &str,
        platform: &Platform,
    ) -> Result<Option<ImageInspect>, EngineError> {
        if !self.speaks((1, 49)) {
            return Ok(None);
        }
        self.inspect_with(name, &format!("?platform={}", in_query(platform))).await.map(Some)
    }

    async fn inspect_with(&mut self, name: &str, query: &str) -> Result<ImageInspect, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            id: String,
            #[serde(default)]
            size: i64,
            #[serde(default)]
            repo_digests: Option<Vec<String>>,
            #[serde(default)]
            repo_tags: Option<Vec<String>>,
            #[serde(rename = "RootFS", default)]
            root: Root,
            #[serde(default)]
            manifests: Option<Vec<Manifest>>,
        }
        #[derive(Default, Deserialize)]
        struct Root {
            #[serde(rename = "Layers", default)]
            layers: Option<Vec<String>>,
        }
        let path = format!("{}/images/{}/json{query}", self.prefix, in_path(name));
        let unreadable = |error| EngineError::Unreadable("/images/{name}/json", error);
        let body = self.answer(&path, None).await?;
        let answer: Answer = serde_json::from_slice(&body).map_err(unreadable)?;
        let digest = |name: &String| name.split_once('@').map(|(_, digest)| digest.to_owned());
        let own = answer.repo_digests.unwrap_or_default();
        Ok(ImageInspect {
            digests: own.iter().filter_map(digest).collect(),
            id: sanitize(&answer.id),
            size: u64::try_from(answer.size).unwrap_or_default(),
            layers: answer.root.layers.unwrap_or_default().iter().map(|layer| sanitize(layer)).collect(),
            names: answer.repo_tags.unwrap_or_default().iter().map(|name| sanitize(name)).collect(),
            manifests: answer.manifests.unwrap_or_default().into_iter().map(Manifest::read).collect(),
        })
    }

    /// Lists all local images that have a name.
    ///
    /// # Errors
    /// The engine cannot be reached, does not answer within `limit`, or does not answer with a list of images.
    pub async fn local_images(&mut self, limit: Duration) -> Result<Vec<ImageSummary>, EngineError> {
        #[derive(Deserialize)]
        struct Image {
            /// `null` on engines before 1.43 for an image without a name.
            #[serde(rename = "RepoTags", default)]
            names: Option<Vec<String>>,
            #[serde(rename = "Id", default)]
            id: String,
            #[serde(rename = "RepoDigests", default)]
            digests: Option<Vec<String>>,
            #[serde(rename = "Size", default)]
            size: i64,
        }
        let path = format!("{}/images/json", self.prefix);
        let asked = async {
            let response = self.call(Method::GET, &path, None, Bytes::new()).await?;
            if response.status() != StatusCode::OK {
                return Err(self.refusal(response).await);
            }
            // podman's digests are not used, since they change with a push.
            let is_podman = is_podman(response.headers());
            Ok((self.whole(response).await?, is_podman))
        };
        let asked = tokio::time::timeout(limit, asked).await;
        let (body, is_podman) = asked.map_err(|_| self.silent())??;
        let images: Vec<Image> =
            serde_json::from_slice(&body).map_err(|error| EngineError::Unreadable("/images/json", error))?;
        let named = images.into_iter().flat_map(|image| {
            let size = u64::try_from(image.size).unwrap_or_default();
            let digests = image.digests.unwrap_or_default();
            // In the containerd store, the ID of an image is the digest of its manifest.
            let is_containerd = digests.iter().any(|name| name.ends_with(&format!("@{}", image.id)));
            let names = image.names.unwrap_or_default().into_iter();
            names.map(move |name| {
                let name = sanitize(&name);
                let repository = name.rsplit_once(':').map_or(name.as_str(), |(repository, _)| repository);
                let of_repository = |named: &String| {
                    named
                        .split_once('@')
                        .filter(|(named, _)| *named == repository)
                        .map(|(_, digest)| digest.to_owned())
                };
                let digest = digests.iter().find_map(of_repository).filter(|digest| is_digest(digest));
                let (digest, is_pushed) = match () {
                    () if is_podman => (None, None),
                    () if is_containerd => (Some(image.id.clone()), None),
                    () => (digest.clone(), Some(digest.is_some())),
                };
                ImageSummary { name, size, digest, is_pushed }
            })
        });
        Ok(named.filter(|image| !image.name.starts_with("<none>")).collect())
    }
}

/// A manifest as the engine lists it.
///
/// Source: Docker Engine API 1.47, `ImageManifestSummary`.
#[derive(Deserialize)]
struct Manifest {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(rename = "Available", default)]
    is_here: bool,
    #[serde(rename = "ImageData", default)]
    image: Option<ManifestImage>,
}

#[derive(Deserialize)]
struct ManifestImage {
    #[serde(rename = "Platform")]
    platform: Platform,
}

impl Manifest {
    fn read(self) -> LocalManifest {
        let filled = |text: Option<String>| text.map(|text| sanitize(&text)).filter(|text| !text.is_empty());
        let platform = self.image.map(|ManifestImage { platform }| Platform {
            os: sanitize(&platform.os),
            os_version: filled(platform.os_version),
            architecture: sanitize(&platform.architecture),
            variant: filled(platform.variant),
        });
        LocalManifest { digest: sanitize(&self.id), platform, is_here: self.is_here }
    }
}

pub fn in_query(platform: &Platform) -> String {
    let json = serde_json::to_string(platform).expect("texts make JSON");
    utf8_percent_encode(&json, NON_ALPHANUMERIC).to_string()
}
