//! Implements `--dry-run`: queries the engine and the registry about an image, and uploads nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use crate::engine::Engine;
use crate::engine::images::ImageInspect;
use crate::oci::{Descriptor, is_digest};
use crate::push::error::QueryError;
use crate::push::pool::RegistryPool;
use crate::push::subject::{Subject, inspect};
use crate::reference::Reference;
use crate::registry::Registry;
use crate::registry::error::RegistryError;

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
}

/// Queries the engine and the registry in the same order as a push, so that a dry run fails with the same error as a
/// push.
///
/// # Errors
/// The first error that a push would report before the upload.
pub async fn run(
    pool: &RegistryPool,
    engine: &mut Engine,
    subject: &Subject<'_>,
) -> Result<Findings, QueryError> {
    let image = inspect(engine, subject).await?;
    let registry = pool.registry(engine, subject).await?;
    registry.can_push(subject.reference.path()).await?;
    let named = pool.resolve(engine, subject).await?;
    let is_same = match &named {
        Some(named) => pool.is_same(engine, subject, &image, named).await?,
        None => false,
    };
    let there = layers_there(&registry, subject.reference, &image).await;
    let missing = image.layers.iter().filter(|layer| !there.contains(*layer)).cloned();
    Ok(Findings {
        missing_layers: missing.collect(),
        can_push: true,
        tag_names: named.as_ref().map(|named| named.digest.clone()),
        is_same,
        named,
        id: image.id,
        size: image.size,
        layers: image.layers,
    })
}

/// Returns the diff IDs of the local image's layers that the repository in the registry has.
///
/// Engines do not report the digests of compressed layers. So this function compares the diff IDs with images in the
/// repository: the image under the tag to push, the images with the local image's digests, and the images under the
/// other tags with the highest versions.
async fn layers_there(
    registry: &Arc<Registry>,
    reference: &Reference,
    image: &ImageInspect,
) -> BTreeSet<String> {
    let repository = reference.path();
    let tag = reference.tag_or_latest();
    // If the registry cannot list its tags, search fewer images.
    let tags = registry.tags(repository).await.unwrap_or_default();
    let others = tags.names.into_iter().rev().filter(|other| other != tag).take(MAX_OTHER_TAGS);
    let images = [tag.to_owned()].into_iter().chain(image.digests.iter().cloned()).chain(others);
    let mut there = BTreeSet::new();
    for named in images {
        if image.layers.iter().all(|layer| there.contains(layer)) {
            break;
        }
        // Skip an image whose manifest or configuration cannot be read.
        there.extend(layers_of(registry, repository, &named, image).await.unwrap_or_default());
    }
    there
}

/// Returns the diff IDs of the layers that the local image shares with an image in the registry. Omits layers whose
/// blobs the registry lacks.
async fn layers_of(
    registry: &Registry,
    repository: &str,
    named: &str,
    image: &ImageInspect,
) -> Result<BTreeSet<String>, RegistryError> {
    let mut there = BTreeSet::new();
    let Some(manifest) = registry.manifest(repository, named).await? else { return Ok(there) };
    let mut manifests = vec![];
    for platform in manifest.manifests().iter().take(MAX_PLATFORMS) {
        manifests.extend(registry.manifest(repository, platform).await?);
    }
    manifests.push(manifest);
    for manifest in manifests {
        let Some(config) = manifest.config() else { continue };
        let Some(ids) = registry.diff_ids(repository, config).await? else { continue };
        for (id, blob) in ids.into_iter().zip(manifest.layers()) {
            if image.layers.contains(&id) && is_digest(blob) && registry.has_blob(repository, blob).await? {
                there.insert(id);
            }
        }
    }
    Ok(there)
}
