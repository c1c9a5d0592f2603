//! `--dry-run`: queries engine and registry for what a push would find, and uploads nothing.

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

/// How many other tags of the repository are searched for the image's layers.
const MAX_OTHER_TAGS: usize = 5;
/// How many manifests of an index are searched.
const MAX_PLATFORMS: usize = 10;

/// The findings of a dry run. Their JSON is part of a public format: fields may be added, never renamed.
#[derive(Debug, Serialize)]
pub struct Findings {
    /// The ID of the image in the engine.
    pub id: String,
    /// The image size in bytes, as the engine counts it.
    pub size: u64,
    /// The digests of the uncompressed layers (diff IDs).
    pub layers: Vec<String>,
    /// The `layers` that no searched image in the repository has. An engine may find them in another repository.
    pub missing_layers: Vec<String>,
    /// The registry has accepted the start of an upload.
    #[serde(rename = "may_write")]
    pub can_push: bool,
    /// The digest that the tag names now.
    pub tag_names: Option<String>,
    /// The tag names this image.
    pub is_same: bool,
    #[serde(skip)]
    pub named: Option<Descriptor>,
}

/// Queries engine and registry in the order of a push, so that the first error is the one a push would report.
///
/// # Errors
/// The error that a push would report.
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

/// Returns the layers of an image that are in its repository. Engines do not report the digests of compressed layers,
/// so this searches images in the repository for the same diff IDs: the one that the tag names, those with the image's
/// digests, and the newest other tags.
async fn layers_there(
    registry: &Arc<Registry>,
    reference: &Reference,
    image: &ImageInspect,
) -> BTreeSet<String> {
    let repository = reference.path();
    let tag = reference.tag_or_latest();
    // Without the list of tags, fewer images are searched.
    let tags = registry.tags(repository).await.unwrap_or_default();
    let others = tags.into_iter().rev().filter(|other| other != tag).take(MAX_OTHER_TAGS);
    let images = [tag.to_owned()].into_iter().chain(image.digests.iter().cloned()).chain(others);
    let mut there = BTreeSet::new();
    for named in images {
        if image.layers.iter().all(|layer| there.contains(layer)) {
            break;
        }
        // An image that cannot be read is skipped.
        there.extend(layers_of(registry, repository, &named, image).await.unwrap_or_default());
    }
    there
}

/// Returns the layers that an image shares with another image in the registry, if the registry has their blobs.
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
