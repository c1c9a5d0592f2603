//! Suggests local images that a user may have meant.

use crate::engine::images::ImageSummary;
use crate::reference::Reference;

/// The maximum number of images that a hint suggests.
const MAX_SIMILAR: usize = 3;

/// A suggestion for the user if the engine does not have the requested image.
#[derive(Debug, PartialEq, Eq)]
pub enum Suggestion {
    /// Local images with a reference similar to the requested reference, the most similar first.
    Near(Vec<String>),
    /// The image before this one, as the user typed it: the reference was probably meant as the destination of that image.
    Destination(String),
    /// A local image in another repository, with the last path component and tag of the requested reference.
    Tag(String),
}

impl Suggestion {
    /// Returns a hint for the user. `wanted`: the requested reference.
    pub fn hint(&self, wanted: &str) -> String {
        match self {
            Self::Destination(image) => {
                format!("to push {image} as {wanted}, run `docker regpush {image} --to {wanted}`")
            }
            Self::Near(names) => format!("did you mean {}?", names.join(" or ")),
            // The image exists under the name of the destination, which no tag has to change.
            Self::Tag(name) if name == wanted => format!("did you mean {name}?"),
            Self::Tag(name) => format!("tag the image first: `docker tag {name} {wanted}`"),
        }
    }
}

/// Suggests images whose references differ from the wanted reference in a few letters or only in the tag. If no such
/// image exists, suggests to push another image to the reference, or an image with the same last path component and tag.
///
/// * `destination_of`: an image that the user may have meant to push to `wanted`.
pub fn suggest(
    wanted: &Reference,
    images: &[ImageSummary],
    destination_of: Option<&str>,
) -> Option<Suggestion> {
    let wanted_name = wanted.familiar();
    let limit = 2.max(wanted.path().len() / 4);
    let here: Vec<(&String, Reference)> =
        images.iter().filter_map(|image| Some((&image.name, image.name.parse().ok()?))).collect();
    let mut near: Vec<(usize, &String)> = here
        .iter()
        .map(|(name, reference)| {
            (strsim::damerau_levenshtein(&reference.familiar(), &wanted_name), *name, reference)
        })
        .filter(|(distance, _, reference)| {
            *distance <= limit || reference.repository() == wanted.repository()
        })
        .map(|(distance, name, _)| (distance, name))
        .collect();
    let source = destination_of.and_then(|image| Some((image, image.parse::<Reference>().ok()?)));
    if let Some((image, source)) = source
        && here.iter().any(|(_, reference)| reference.canonical() == source.canonical())
    {
        // The repository that the user typed first is not what the user meant by the second name.
        let is_other =
            |name: &str| !name.parse::<Reference>().is_ok_and(|own| own.repository() == source.repository());
        near.retain(|(_, name)| is_other(name));
        if near.is_empty() {
            return Some(Suggestion::Destination(image.to_owned()));
        }
    }
    if !near.is_empty() {
        near.sort();
        return Some(Suggestion::Near(
            near.into_iter().map(|(_, name)| name.clone()).take(MAX_SIMILAR).collect(),
        ));
    }
    let last = |reference: &Reference| reference.path().rsplit('/').next().map(str::to_owned);
    let mut namesakes = here.into_iter().filter(|(_, reference)| last(reference) == last(wanted)).peekable();
    if wanted.tag().is_none() {
        // A user who left out the tag may have left out the registry too, so suggest images of any registry.
        namesakes.peek()?;
        return Some(Suggestion::Near(namesakes.map(|(name, _)| name.clone()).take(MAX_SIMILAR).collect()));
    }
    let same_tag = |reference: &Reference| reference.tag_or_latest() == wanted.tag_or_latest();
    namesakes.find(|(_, reference)| same_tag(reference)).map(|(name, _)| Suggestion::Tag(name.clone()))
}

/// Returns whether a reference looks like an image ID (`0bc980ece940`, `sha256:…`). docker reads an image ID as a
/// repository on Docker Hub.
pub fn looks_like_id(reference: &Reference) -> bool {
    let name = reference.familiar_repository();
    let is_hex = |text: &str| text.len() >= 12 && text.bytes().all(|b| b.is_ascii_hexdigit());
    name == "sha256" || (reference.tag().is_none() && is_hex(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_not_suggest_to_tag_an_image_with_its_own_name() {
        let name = "localhost:5500/me/app:1";
        let hint = Suggestion::Tag(name.to_owned()).hint(name);
        assert_eq!(hint, "did you mean localhost:5500/me/app:1?");
    }

    #[test]
    fn suggests_similar_names() {
        let near =
            |names: &[&str]| Some(Suggestion::Near(names.iter().map(|name| (*name).to_owned()).collect()));
        let tag = |name: &str| Some(Suggestion::Tag(name.to_owned()));
        let table: [(&str, &[&str], Option<Suggestion>); 8] = [
            // requested reference, images of the engine, suggestion
            (
                "localhost:5000/app:3",
                &["localhost:5000/app:1", "localhost:5000/app:2", "app:1"],
                near(&["localhost:5000/app:1", "localhost:5000/app:2"]),
            ),
            ("localhost:5000/apq:1", &["localhost:5000/app:1", "seed:1"], near(&["localhost:5000/app:1"])),
            (
                "registy.example.com/app:1",
                &["registry.example.com/app:1"],
                near(&["registry.example.com/app:1"]),
            ),
            ("localhost:5000/app:1", &["localhost:5001/apb:1", "app:2"], near(&["localhost:5001/apb:1"])),
            ("registry.example.com/team/seed:1", &["app:1", "seed:2", "seed:1"], tag("seed:1")),
            ("web:latest", &["ghcr.io/team/web:latest"], tag("ghcr.io/team/web:latest")),
            ("web", &["seed:1", "localhost:5000/web:1"], near(&["localhost:5000/web:1"])),
            ("registry.example.com/nothing-like-it:9", &["app:1"], None),
        ];
        for (wanted, here, want) in table {
            let image = |name: &&str| ImageSummary { name: (*name).to_owned(), ..ImageSummary::default() };
            let images: Vec<ImageSummary> = here.iter().map(image).collect();
            assert_eq!(suggest(&wanted.parse().unwrap(), &images, None), want, "{wanted}");
        }
    }
}
