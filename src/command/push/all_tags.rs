//! Implements `--all-tags`: replaces a repository by the tags of that repository in the engine.

use crate::command::push::results::Asked;
use crate::engine::Engine;
use crate::engine::images::{ImageSummary, LIST_TIMEOUT};
use crate::error::Error;
use crate::push::suggest::suggest;
use crate::push::target::{Target, expand};
use crate::reference::Reference;

/// The targets of a push with `--all-tags`.
pub struct Expanded {
    /// One target per tag of each typed repository. A repository without tags has one target without a tag.
    pub targets: Vec<(String, Target)>,
    /// For each repository without tags: the index in `targets`, and the error to report.
    pub tagless: Vec<(usize, Error)>,
}

/// Replaces each repository by the tags of that repository in the engine, sorted by name. The tags are pushed one by
/// one, so that each tag has its own result, and because podman cannot push all tags in one request.
///
/// # Errors
/// The engine cannot list its images.
pub async fn expand_all(engine: &mut Engine, asked: &[Asked]) -> Result<Expanded, Error> {
    let images = engine.local_images(LIST_TIMEOUT).await?;
    let mut expanded = Expanded { targets: Vec::new(), tagless: Vec::new() };
    for Asked { typed, target } in asked {
        let Some(target) = target else { continue };
        let repository: Reference = target.local_name.parse().expect("a reference was checked");
        let tag = |image: &ImageSummary| {
            let named = image.name.parse::<Reference>().ok()?;
            let tag = named.tag().filter(|_| named.repository() == repository.repository())?;
            Some(tag.to_owned())
        };
        let mut tags: Vec<String> = images.iter().filter_map(tag).collect();
        tags.sort();
        tags.dedup();
        if tags.is_empty() {
            let suggestion = suggest(&repository, &repositories(images.clone()), None);
            let error = Error::NoTags { repository: repository.familiar_repository(), suggestion };
            expanded.tagless.push((expanded.targets.len(), error));
            expanded.targets.push((typed.clone(), target.clone()));
            continue;
        }
        expanded.targets.extend(expand(target, &tags).into_iter().map(|target| (typed.clone(), target)));
    }
    Ok(expanded)
}

/// Removes the tags from the references of the images, and then removes duplicates.
fn repositories(mut images: Vec<ImageSummary>) -> Vec<ImageSummary> {
    for image in &mut images {
        if let Some((repository, _)) = image.name.rsplit_once(':') {
            image.name.truncate(repository.len());
        }
    }
    images.sort_by(|a, b| a.name.cmp(&b.name));
    images.dedup_by(|a, b| a.name == b.name);
    images
}
