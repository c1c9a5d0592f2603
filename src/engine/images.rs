//! Lists and inspects the images in the engine.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use crate::engine::error::EngineError;
use crate::engine::{Engine, in_path, is_podman};
use crate::oci::is_digest;
use crate::platform::Platform;
use crate::text::sanitize;

/// How long the plugin waits for an engine's list of images.
pub const LIST_TIMEOUT: Duration = Duration::from_secs(60);

/// A name of an image in the engine, with the size and digest of this image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageSummary {
    /// The name in the form `repository:tag`, as reported by the engine.
    pub name: String,
    /// The size of the image in bytes, as reported by the engine.
    pub size: u64,
    /// The digest of the image's manifest in the repository of `name`, or the digest that a push to this
    /// repository would produce. `None` if unknown.
    pub digest: Option<String>,
    /// Whether the image was pushed to, or pulled from, the repository of `name`. `None` if unknown: docker's
    /// containerd store and podman report a digest for every repository, even before the first push or pull.
    pub is_pushed: Option<bool>,
}

/// An image in the engine's store, as returned by an image inspect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageInspect {
    pub id: String,
    /// The size of the image in bytes, as reported by the engine.
    pub size: u64,
    /// The image's digests in registries (`RepoDigests`). Two images with a common digest have the same
    /// content.
    pub digests: Vec<String>,
    /// The repositories of these digests.
    pub repositories: Vec<String>,
    /// The digests of the image's uncompressed layers.
    pub layers: Vec<String>,
    /// The image's names in the engine (`RepoTags`).
    pub names: Vec<String>,
    /// The image's manifests. Empty unless the engine lists manifests (containerd store, API 1.48).
    pub manifests: Vec<LocalManifest>,
}

/// One manifest of a multi-platform image in the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalManifest {
    pub digest: String,
    /// The platform of the image. `None` for a manifest of unknown kind, and for an attestation, which
    /// describes another manifest.
    pub platform: Option<Platform>,
    /// Whether the engine has the image config and all layers of this manifest.
    pub is_here: bool,
}

impl ImageInspect {
    /// Returns whether `digest` is the digest of the image's manifest. Also compares the image's ID, because
    /// docker's containerd store uses the digest of the manifest as the ID.
    pub fn has_digest(&self, digest: &str) -> bool {
        self.id == digest || self.digests.iter().any(|own| own == digest)
    }
}

impl Engine {
    /// Returns the engine's details of an image (image inspect).
    ///
    /// * `name`: a reference or an ID of the image.
    ///
    /// # Errors
    /// The image does not exist ([`EngineError::Answered`]), or the engine cannot be reached.
    ///
    /// Source: Docker Engine API 1.24, `GET /images/{name}/json`. `manifests` requires API 1.48.
    pub async fn inspect(&mut self, name: &str) -> Result<ImageInspect, EngineError> {
        let query = if self.tells_platforms() { "?manifests=true" } else { "" };
        self.inspect_with(name, query).await
    }

    /// Returns the engine's details of one platform of an image, including the layers of this platform.
    /// Returns `None` if the engine's API is older than 1.49.
    ///
    /// # Errors
    /// The errors of [`inspect`](Self::inspect). Also fails if the image does not have the platform.
    ///
    /// Source: Docker Engine API 1.49, parameter `platform` of `GET /images/{name}/json`.
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
        let repository = |name: &String| name.split_once('@').map(|(repository, _)| sanitize(repository));
        Ok(ImageInspect {
            repositories: own.iter().filter_map(repository).collect(),
            digests: own.iter().filter_map(digest).collect(),
            id: sanitize(&answer.id),
            size: u64::try_from(answer.size).unwrap_or_default(),
            layers: answer.root.layers.unwrap_or_default().iter().map(|layer| sanitize(layer)).collect(),
            names: answer.repo_tags.unwrap_or_default().iter().map(|name| sanitize(name)).collect(),
            manifests: answer.manifests.unwrap_or_default().into_iter().map(Manifest::read).collect(),
        })
    }

    /// Lists the images in the engine, once per name. Images without a name are left out.
    ///
    /// # Errors
    /// The engine cannot be reached, does not respond within `limit`, or does not return a list of images.
    pub async fn local_images(&mut self, limit: Duration) -> Result<Vec<ImageSummary>, EngineError> {
        self.local_images_with_prefix(limit, "").await
    }

    /// Returns the local images whose familiar name begins with a prefix, and possibly other images.
    ///
    /// # Errors
    /// The errors of [`local_images`](Self::local_images).
    ///
    /// Source: Docker Engine API 1.24, the filter `reference`, whose patterns are those of Go's `path.Match`.
    pub async fn local_images_with_prefix(
        &mut self,
        limit: Duration,
        prefix: &str,
    ) -> Result<Vec<ImageSummary>, EngineError> {
        #[derive(Deserialize)]
        struct Image {
            /// The names of the image. Engines before API 1.43 send `null` for an image without a name.
            #[serde(rename = "RepoTags", default)]
            names: Option<Vec<String>>,
            #[serde(rename = "Id", default)]
            id: String,
            #[serde(rename = "RepoDigests", default)]
            digests: Option<Vec<String>>,
            #[serde(rename = "Size", default)]
            size: i64,
        }
        let mut path = format!("{}/images/json", self.prefix);
        // podman's patterns have other rules.
        let patterns = if self.is_podman == Some(false) { name_patterns(prefix) } else { Vec::new() };
        if !patterns.is_empty() {
            let patterns: BTreeMap<String, bool> =
                patterns.into_iter().map(|pattern| (pattern, true)).collect();
            let filters = BTreeMap::from([("reference", patterns)]);
            path += &format!("?filters={}", in_query(&filters));
        }
        let asked = async {
            let response = self.call(Method::GET, &path, None, Bytes::new()).await?;
            if response.status() != StatusCode::OK {
                return Err(self.refusal(response).await);
            }
            // A push with podman changes the digests that podman reports for an image, so these digests are
            // not used.
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

/// A manifest of an image, in the engine's response to an image inspect.
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

/// Returns a value as JSON in the query of a URL.
pub fn in_query(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).expect("texts make JSON");
    utf8_percent_encode(&json, NON_ALPHANUMERIC).to_string()
}

/// Returns the patterns that match all names with a prefix. Returns no patterns, which match all names, for a prefix with
/// other characters than names have.
///
/// Docker compares a pattern with the name and with the repository. `*` does not match `/`.
fn name_patterns(prefix: &str) -> Vec<String> {
    /// The maximum number of further path components of a name after the prefix.
    const DEPTH: usize = 6;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-/:".contains(c);
    if prefix.is_empty() || !prefix.chars().all(is_plain) {
        return Vec::new();
    }
    (0..DEPTH).map(|depth| format!("{prefix}*{}", "/*".repeat(depth))).collect()
}
