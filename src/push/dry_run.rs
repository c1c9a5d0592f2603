//! Implements `--dry-run`: queries the engine and the registry about an image, and uploads nothing.

use std::collections::{BTreeSet, HashSet};

use serde::Serialize;

use crate::engine::Engine;
use crate::engine::images::ImageInspect;
use crate::oci::{Descriptor, is_digest};
use crate::platform::Platform;
use crate::push::error::QueryError;
use crate::push::pool::RegistryPool;
use crate::push::subject::{Subject, inspect};
use crate::registry::Registry;
use crate::registry::error::{Misplaced, RegistryError};
use crate::registry::manifest::ServedManifest;

/// The maximum number of tags whose images are searched for the local image's layers, in addition to the tag to push.
const MAX_OTHER_TAGS: usize = 5;
/// The maximum number of manifests in an index that are searched for the local image's layers.
const MAX_PLATFORMS: usize = 10;

/// The findings of a dry run. The JSON output is a public format: fields may be added, never renamed.
#[derive(Debug, Serialize)]
pub struct Findings {
    /// The ID of the image in the engine.
    pub id: String,
    /// The size of the image in bytes, as reported by the engine.
    pub size: u64,
    /// The digests of the image's uncompressed layers (diff IDs).
    pub layers: Vec<String>,
    /// The `layers` that were not found in the repository. The engine may still mount these layers from another
    /// repository.
    pub missing_layers: Vec<String>,
    /// The registry allowed the plugin to start an upload to the repository.
    #[serde(rename = "may_write")]
    pub can_push: bool,
    /// The digest that the tag names in the registry. `None`: the tag does not exist.
    pub tag_names: Option<String>,
    /// The tag in the registry names the local image.
    pub is_same: bool,
    #[serde(skip)]
    pub named: Option<Descriptor>,
    /// The reason why the registry did not answer which manifest the tag names.
    #[serde(skip)]
    pub unknown: Option<String>,
    /// A problem that only some engines have with the registry.
    #[serde(skip)]
    pub warning: Option<String>,
}

/// Queries the engine and the registry in the same order as a push, so that a dry run fails with the same error as a
/// push.
///
/// * `needs_tag`: the push needs to know which manifest the tag names in the registry.
///
/// # Errors
/// The first error that a push would report before the upload.
pub async fn run(
    pool: &RegistryPool,
    engine: &mut Engine,
    subject: &Subject<'_>,
    needs_tag: bool,
) -> Result<Findings, QueryError> {
    let mut image = inspect(engine, subject).await?;
    add_platforms(engine, subject, &mut image).await;
    let registry = pool.registry(engine, subject).await?;
    let warning = match registry.probe_upload(subject.reference.path(), None).await {
        Ok(()) => None,
        // Docker's containerd store ignores the scheme, and its classic store does not.
        Err(error @ RegistryError::UploadElsewhere { problem: Misplaced::Scheme, .. }) => Some(format!(
            "docker's classic store cannot push there: {error}; {}",
            error.hint().unwrap_or_default()
        )),
        Err(error) => return Err(error.into()),
    };
    let (named, unknown) = match pool.resolve(engine, subject).await {
        Ok(named) => (named, None),
        // The account may have the right to push, but not to read.
        Err(QueryError::Cause(cause)) if !needs_tag => (None, Some(cause.reason())),
        Err(error) => return Err(error),
    };
    let mut search = Search::new(&registry, subject.reference.path(), &image);
    let is_same = match &named {
        Some(named) => {
            let manifest = registry.manifest(subject.reference.path(), &named.digest).await;
            let manifest = match manifest {
                Err(_) if image.has_digest(&named.digest) => None,
                manifest => manifest?,
            };
            let config = manifest.as_ref().and_then(ServedManifest::config);
            let is_same = image.has_digest(&named.digest) || config == Some(&image.id);
            if let Some(manifest) = manifest {
                search.add(manifest).await;
            }
            is_same
        }
        None => false,
    };
    search.add_other_images(subject.reference.tag_or_latest()).await;
    let there = search.there;
    let missing = image.layers.iter().filter(|layer| !there.contains(*layer)).cloned();
    Ok(Findings {
        missing_layers: missing.collect(),
        can_push: true,
        tag_names: named.as_ref().map(|named| named.digest.clone()),
        is_same,
        named,
        unknown,
        warning,
        id: image.id,
        size: image.size,
        layers: image.layers,
    })
}

/// Adds the layers and the size of each platform that the engine has, since the engine reports the layers of one platform.
/// Leaves the image as it is if the user chose one platform, if the engine lacks a platform and therefore pushes one only,
/// or if the engine cannot inspect a platform (API before 1.49).
async fn add_platforms(engine: &mut Engine, subject: &Subject<'_>, image: &mut ImageInspect) {
    let platforms: Vec<Platform> =
        image.manifests.iter().filter_map(|manifest| manifest.platform.clone()).collect();
    let is_complete = image.manifests.iter().all(|manifest| manifest.is_here);
    if subject.platform.is_some() || platforms.len() < 2 || !is_complete {
        return;
    }
    let (mut layers, mut size) = (Vec::new(), 0_u64);
    for platform in &platforms {
        let Ok(Some(own)) = engine.inspect_platform(subject.local_name, platform).await else { return };
        let new = own.layers.into_iter().filter(|layer| !layers.contains(layer)).collect::<Vec<_>>();
        layers.extend(new);
        size = size.saturating_add(own.size);
    }
    (image.layers, image.size) = (layers, size);
}

/// Searches the repository in the registry for the layers of the local image.
///
/// Engines do not report the digests of compressed layers. So this search compares the diff IDs with images in the
/// repository: the image under the tag to push, the images with the local image's digests, and the images under the
/// other tags with the highest versions.
struct Search<'a> {
    registry: &'a Registry,
    repository: &'a str,
    image: &'a ImageInspect,
    /// The diff IDs of the local image's layers that the repository has.
    there: BTreeSet<String>,
    /// The digests of the manifests, configurations and layers that were requested.
    requested: HashSet<String>,
}

impl<'a> Search<'a> {
    fn new(registry: &'a Registry, repository: &'a str, image: &'a ImageInspect) -> Self {
        Self { registry, repository, image, there: BTreeSet::new(), requested: HashSet::new() }
    }

    /// Searches the images with the local image's digests, and the images under other tags than `tag`.
    async fn add_other_images(&mut self, tag: &str) {
        let image = self.image;
        // If the registry cannot list its tags, search fewer images.
        let tags = self.registry.tags(self.repository).await.unwrap_or_default();
        let others = tags.names.into_iter().rev().filter(|other| other != tag).take(MAX_OTHER_TAGS);
        for named in image.digests.iter().cloned().chain(others) {
            if image.layers.iter().all(|layer| self.there.contains(layer)) {
                break;
            }
            if !self.requested.contains(&named)
                && let Ok(Some(manifest)) = self.registry.manifest(self.repository, &named).await
            {
                self.add(manifest).await;
            }
        }
    }

    /// Searches an image or an index. Skips a manifest, a configuration or a layer that cannot be read.
    async fn add(&mut self, manifest: ServedManifest) {
        if !self.requested.insert(manifest.descriptor.digest.clone()) {
            return;
        }
        for platform in manifest.manifests().into_iter().take(MAX_PLATFORMS) {
            if self.requested.insert(platform.clone())
                && let Ok(Some(manifest)) = self.registry.manifest(self.repository, &platform).await
            {
                self.add_layers(&manifest).await;
            }
        }
        self.add_layers(&manifest).await;
    }

    async fn add_layers(&mut self, manifest: &ServedManifest) {
        let Some(config) = manifest.config().filter(|config| self.requested.insert((*config).to_owned()))
        else {
            return;
        };
        let Ok(Some(ids)) = self.registry.diff_ids(self.repository, config).await else { return };
        for (id, blob) in ids.into_iter().zip(manifest.layers()) {
            if self.image.layers.contains(&id)
                && is_digest(blob)
                && self.requested.insert(blob.to_owned())
                && self.registry.has_blob(self.repository, blob).await.is_ok_and(|is_there| is_there)
            {
                self.there.insert(id);
            }
        }
    }
}
