//! Combines the images and destinations that the user typed into targets, without contacting the engine.

use std::collections::BTreeMap;

use crate::failure::Class;
use crate::reference::{HUB, Reference, ReferenceError, has_registry};

/// An image that the user typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    Named(Reference),
    /// An ID or a digest, which identifies an image in the engine, but no repository to push to.
    Id(String),
}

/// A value of `--to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    Reference(Reference),
    /// A prefix, such as `registry.example.com/` or `registry.example.com/team/`, before the path and tag of the
    /// image.
    Under(String),
}

/// One image to push, and the reference to push the image to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The reference to push to.
    pub reference: Reference,
    /// The canonical reference of the image in the engine, or the ID that the user typed.
    pub local_name: String,
    /// The image name that supplies the path and tag of the destination, if the typed text could also be an image ID.
    /// If the image in the engine does not have this name, the user typed an ID, which has no path and tag.
    pub stands_for: Option<Reference>,
    /// The image before this one, if the user may have meant the reference as the destination of that image, as in the
    /// syntax of `podman push`, `skopeo copy` and `crane push`.
    pub may_be_destination_of: Option<String>,
}

impl Target {
    pub fn new(reference: Reference) -> Self {
        Self { local_name: reference.canonical(), reference, stands_for: None, may_be_destination_of: None }
    }

    /// Returns whether the name of the image in the engine differs from the reference to push to.
    pub fn is_renamed(&self) -> bool {
        self.local_name != self.reference.canonical()
    }
}

/// The reason why images and destinations cannot be combined into targets.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("{reason}")]
    Image { typed: String, reason: ReferenceError },
    #[error("--to {typed}: {reason}")]
    Destination { typed: String, reason: ReferenceError },
    /// The value of `--to` is a registry without a slash at the end. docker would read the value as a repository on
    /// Docker Hub.
    #[error("--to {typed} means a repository on Docker Hub")]
    Registry { typed: String },
    #[error("tag can't be used with --all-tags/-a")]
    TagWithAllTags { typed: String },
    /// The user passed `--all-tags` with a digest or an ID, which does not name a repository.
    #[error("--all-tags requires a repository name, and `{typed}` is not one")]
    IdWithAllTags { typed: String },
    #[error("`{typed}` has no path and tag to append to --to {destination}")]
    Nameless { typed: String, destination: String },
    /// The first word is a command of docker, and the words after it are probably its arguments.
    #[error("`{typed}` is a command of docker, not of `docker regpush`")]
    DockersCommand { typed: String, instead: String },
    #[error("{first} and {second} would both be pushed as {reference}")]
    Collision { first: String, second: String, reference: String },
}

impl TargetError {
    /// Returns the image or destination that caused the error, as the user typed it.
    pub fn typed(&self) -> &str {
        match self {
            Self::Image { typed, .. }
            | Self::Destination { typed, .. }
            | Self::Registry { typed }
            | Self::TagWithAllTags { typed }
            | Self::IdWithAllTags { typed }
            | Self::Nameless { typed, .. }
            | Self::DockersCommand { typed, .. }
            | Self::Collision { second: typed, .. } => typed,
        }
    }

    /// Returns a hint for the user: a command to run or a setting to change.
    pub fn hint(&self) -> String {
        match self {
            Self::Image { reason: ReferenceError::Digest, .. } => {
                "push one of its tags; the digest will be the same".to_owned()
            }
            Self::Image { reason: ReferenceError::Identifier { .. }, .. } => {
                "pass `--to registry.example.com/PATH:TAG` for an image without a name".to_owned()
            }
            Self::Image { typed, reason } | Self::Destination { typed, reason } => reason.hint(typed),
            Self::Registry { typed } => format!("write `--to {typed}/` for that registry"),
            Self::TagWithAllTags { typed } => format!("omit the tag of `{typed}`, or --all-tags"),
            Self::IdWithAllTags { .. } => "pass a repository name, or remove --all-tags".to_owned(),
            Self::Nameless { destination, .. } => {
                format!("give the full destination: `--to {destination}PATH:TAG`")
            }
            Self::DockersCommand { typed, instead } => {
                format!("{instead}; to push an image of that name, write `docker.io/library/{typed}`")
            }
            Self::Collision { .. } => {
                "give each image its own destination, or use one that ends with a slash".to_owned()
            }
        }
    }

    pub fn class(&self) -> Class {
        Class::Reference
    }
}

/// Returns whether an argument may be an image ID or the beginning of an ID: 4 to 64 hex digits. Engines accept fewer
/// digits too, but a shorter argument is more likely an image name. The 4 to 64 hex digits may also be an image name,
/// which engines search for before an ID.
fn is_id(text: &str) -> bool {
    let is_hex = |digits: &str| digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match text.strip_prefix("sha256:") {
        Some(digits) => (1..=64).contains(&digits.len()) && is_hex(digits),
        None => (4..=64).contains(&text.len()) && is_hex(text),
    }
}

impl Image {
    fn read(typed: &str) -> Result<Self, TargetError> {
        match typed.parse::<Reference>() {
            // Up to 63 hex digits may be the name or the ID of an image. Only the engine can tell which.
            Ok(reference) if !typed.starts_with("sha256:") => Ok(Self::Named(reference)),
            Err(ReferenceError::Digest) => Ok(Self::Id(typed.to_owned())),
            _ if is_id(typed) => Ok(Self::Id(typed.to_owned())),
            Ok(reference) => Ok(Self::Named(reference)),
            Err(reason) => Err(TargetError::Image { typed: typed.to_owned(), reason }),
        }
    }
}

impl Destination {
    fn read(typed: &str) -> Result<Self, TargetError> {
        let problem = |reason| TargetError::Destination { typed: typed.to_owned(), reason };
        if let Some(prefix) = typed.strip_suffix('/') {
            // Test with an example whether a reference can begin with the prefix.
            let example = format!("{typed}x").parse::<Reference>();
            let example = example.map_err(|reason| match reason {
                ReferenceError::Uppercase { .. } => {
                    problem(ReferenceError::Uppercase { repository: prefix.to_owned() })
                }
                reason => problem(reason),
            })?;
            let is_registry = !prefix.contains('/') && example.domain() == HUB && prefix != HUB;
            return match is_registry && prefix != "index.docker.io" {
                // A prefix without a dot or colon, such as `team/`, is a namespace on Docker Hub.
                true if prefix.contains(['.', ':']) => Err(problem(ReferenceError::Format)),
                _ => Ok(Self::Under(prefix.to_owned())),
            };
        }
        let reference: Reference = typed.parse().map_err(problem)?;
        let names_a_host = |text: &str| text == "localhost" || text.contains('.') || is_port(text);
        if !typed.contains('/') && names_a_host(typed) {
            return Err(TargetError::Registry { typed: typed.to_owned() });
        }
        Ok(Self::Reference(reference))
    }
}

/// Returns whether an argument is `host:port` instead of `name:tag`. A host is `localhost` or contains a dot, and a
/// port consists of digits.
fn is_port(text: &str) -> bool {
    text.split_once(':').is_some_and(|(host, port)| {
        (host == "localhost" || host.contains('.')) && port.bytes().all(|b| b.is_ascii_digit())
    })
}

/// Combines each image with each destination, in the order of the command line. Drops duplicate targets.
///
/// * `all_tags`: the images are repositories; [`expand`] adds the tags of the repositories later.
///
/// # Errors
/// An image or destination is not a valid reference, or two images would be pushed to the same reference.
pub fn targets(
    images: &[String],
    to: &[String],
    all_tags: bool,
) -> Result<Vec<(String, Target)>, TargetError> {
    if let [first, rest @ ..] = images
        && to.is_empty()
        && let Some(instead) = instead_of(first, rest)
    {
        return Err(TargetError::DockersCommand { typed: first.clone(), instead });
    }
    let mut targets: Vec<(String, Target)> = Vec::new();
    let destinations = to.iter().map(|typed| Ok((typed, Destination::read(typed)?)));
    let destinations: Vec<(&String, Destination)> = destinations.collect::<Result<_, TargetError>>()?;
    for typed in images {
        let image = Image::read(typed)?;
        let has_tag = |reference: &Reference| reference.tag().is_some();
        match &image {
            Image::Named(reference) if all_tags && has_tag(reference) => {
                return Err(TargetError::TagWithAllTags { typed: typed.clone() });
            }
            Image::Id(_) if all_tags => return Err(TargetError::IdWithAllTags { typed: typed.clone() }),
            _ => {}
        }
        if destinations.is_empty() {
            targets.push((typed.clone(), Target::new(alone(typed, &image)?)));
        }
        for (written, destination) in &destinations {
            if let Destination::Reference(reference) = destination
                && all_tags
                && has_tag(reference)
            {
                return Err(TargetError::TagWithAllTags { typed: (*written).clone() });
            }
            targets.push((typed.clone(), sent_to(typed, &image, written, destination)?));
        }
    }
    if let [(typed, image), (other, target)] = &mut targets[..]
        && has_registry(other)
        && (!has_registry(typed) || image.reference.name_and_tag() == target.reference.name_and_tag())
    {
        target.may_be_destination_of = Some(typed.clone()).filter(|_| to.is_empty() && !all_tags);
    }
    let mut first: BTreeMap<String, (String, String)> = BTreeMap::new();
    let mut collision = None;
    targets.retain(|(typed, target)| {
        let (key, local) = (target.reference.canonical(), target.local_name.clone());
        match first.get(&key) {
            Some((_, there)) if *there == local => false,
            Some((other, _)) => {
                collision.get_or_insert_with(|| TargetError::Collision {
                    first: other.clone(),
                    second: typed.clone(),
                    reference: target.reference.familiar(),
                });
                true
            }
            None => {
                first.insert(key, (typed.clone(), local));
                true
            }
        }
    });
    collision.map_or(Ok(targets), Err)
}

/// Returns what to do instead, if the first word is a command of docker.
///
/// * `rest`: the words after the first one.
fn instead_of(first: &str, rest: &[String]) -> Option<String> {
    let words = rest.join(" ");
    Some(match (first, rest) {
        // docker has the same commands after `image`: `docker image push`.
        ("image", [command, rest @ ..]) => return instead_of(command, rest),
        ("push", _) => "leave out `push`".to_owned(),
        ("tag", [image, destination]) => format!("run `docker regpush {image} --to {destination}`"),
        ("images" | "image" | "list", _) => "run `docker regpush ls`".to_owned(),
        (
            "build" | "buildx" | "commit" | "import" | "inspect" | "load" | "login" | "logout" | "manifest"
            | "pull" | "rmi" | "run" | "save" | "search" | "tag",
            _,
        ) => format!("run `{}`", format!("docker {first} {words}").trim_end()),
        _ => return None,
    })
}

/// Returns the reference to push to if the user passed no `--to`: the name of the image.
fn alone(typed: &str, image: &Image) -> Result<Reference, TargetError> {
    match image {
        Image::Named(reference) => Ok(reference.clone()),
        // The engine would read an ID as a repository on Docker Hub.
        Image::Id(_) => {
            let reason = match typed.parse::<Reference>() {
                Err(reason) => reason,
                Ok(_) => ReferenceError::Identifier { name: typed.to_owned() },
            };
            Err(TargetError::Image { typed: typed.to_owned(), reason })
        }
    }
}

fn sent_to(
    typed: &str,
    image: &Image,
    written: &str,
    destination: &Destination,
) -> Result<Target, TargetError> {
    let local_name = match image {
        // Hex digits may be the ID or the name of an image. The engine accepts the digits as typed in both cases.
        Image::Named(_) if is_id(typed) => typed.to_owned(),
        Image::Named(reference) => reference.canonical(),
        Image::Id(id) => id.clone(),
    };
    let reference = match (destination, image) {
        (Destination::Reference(reference), _) => reference.clone(),
        (Destination::Under(prefix), Image::Named(image)) => {
            let tagged = format!("{prefix}/{}:{}", image.familiar_path(), image.tag_or_latest());
            let problem = |reason| TargetError::Destination { typed: written.to_owned(), reason };
            tagged.parse().map_err(problem)?
        }
        // An image such as `app:1@sha256:…`, whose name has a tag.
        (Destination::Under(prefix), Image::Id(id)) if name_beside_digest(id).is_some() => {
            let name = name_beside_digest(id).expect("just seen");
            let tagged = format!("{prefix}/{}:{}", name.familiar_path(), name.tag_or_latest());
            let problem = |reason| TargetError::Destination { typed: written.to_owned(), reason };
            tagged.parse().map_err(problem)?
        }
        (Destination::Under(_), Image::Id(_)) => {
            let (typed, destination) = (typed.to_owned(), written.to_owned());
            return Err(TargetError::Nameless { typed, destination });
        }
    };
    let stands_for = match (destination, image) {
        (Destination::Under(_), Image::Named(image)) if is_id(typed) => Some(image.clone()),
        _ => None,
    };
    Ok(Target { reference, local_name, stands_for, may_be_destination_of: None })
}

/// Returns the name before the `@` of a digest reference, if the name has a tag.
fn name_beside_digest(id: &str) -> Option<Reference> {
    let (name, _) = id.split_once('@')?;
    name.parse::<Reference>().ok().filter(|name| name.tag().is_some())
}

/// Returns one target for each tag of the repository that the given target names.
pub fn expand(target: &Target, tags: &[String]) -> Vec<Target> {
    let repository = target.local_name.rsplit_once(':').map_or(target.local_name.as_str(), |(name, _)| name);
    let with = |tag: &String| Target {
        reference: target.reference.with_tag(tag),
        local_name: format!("{repository}:{tag}"),
        stands_for: None,
        may_be_destination_of: None,
    };
    tags.iter().map(with).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    /// Formats each target as `local name -> reference`, or returns the error message.
    fn read(images: &[&str], to: &[&str], all_tags: bool) -> Result<Vec<String>, String> {
        let targets = targets(&texts(images), &texts(to), all_tags).map_err(|error| error.to_string())?;
        let format_target = |(_, target): &(String, Target)| match target.is_renamed() {
            false => target.reference.familiar(),
            true => format!("{} -> {}", target.local_name, target.reference.familiar()),
        };
        Ok(targets.iter().map(format_target).collect())
    }

    #[test]
    fn combines_each_image_with_each_destination() {
        const ID: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let id = format!("{ID} -> r.example.com/app:1");
        let digest = format!("app@{ID}");
        let by_digest = format!("{digest} -> r.example.com/app:1");
        let tagged = format!("app:1@{ID}");
        let by_tagged = format!("{tagged} -> r.example.com/x/app:1");
        let table: [(&[&str], &[&str], &[&str]); 17] = [
            (&[&tagged], &["r.example.com/x/"], &[&by_tagged]),
            (&["cafe"], &["r.io/app:1"], &["cafe -> r.io/app:1"]),
            (&["r.example.com/app:1"], &[], &["r.example.com/app:1"]),
            (&["b", "a:1"], &[], &["b:latest", "a:1"]),
            (
                &["a:1", "b:2"],
                &["localhost:1/", "localhost:2/team/"],
                &[
                    "docker.io/library/a:1 -> localhost:1/a:1",
                    "docker.io/library/a:1 -> localhost:2/team/a:1",
                    "docker.io/library/b:2 -> localhost:1/b:2",
                    "docker.io/library/b:2 -> localhost:2/team/b:2",
                ],
            ),
            (&["team/a:1"], &["r.io/"], &["docker.io/team/a:1 -> r.io/team/a:1"]),
            (&["localhost:1/x/a"], &["r.io/"], &["localhost:1/x/a:latest -> r.io/x/a:latest"]),
            (&["a:1"], &["r.io/other:2"], &["docker.io/library/a:1 -> r.io/other:2"]),
            (&["a:1"], &["r.io/other"], &["docker.io/library/a:1 -> r.io/other:latest"]),
            (&["a:1"], &["team/"], &["docker.io/library/a:1 -> team/a:1"]),
            (&["r.io/a:1"], &["docker.io/"], &["r.io/a:1 -> a:1"]),
            (&["r.io/a:1"], &["r.io/"], &["r.io/a:1"]),
            (&["a:1", "a:1"], &["r.io/", "r.io/"], &["docker.io/library/a:1 -> r.io/a:1"]),
            (&[ID], &["r.example.com/app:1"], &[&id]),
            (&[&digest], &["r.example.com/app:1"], &[&by_digest]),
            (&["0123456789ab"], &["r.io/app:1"], &["0123456789ab -> r.io/app:1"]),
            (&["0123456789ab"], &["r.io/"], &["0123456789ab -> r.io/0123456789ab:latest"]),
        ];
        for (images, to, want) in table {
            assert_eq!(read(images, to, false), Ok(texts(want)), "{images:?} {to:?}");
        }
    }

    #[test]
    fn refuses_invalid_and_conflicting_arguments() {
        const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let table: [(&[&str], &[&str], bool, &str); 12] = [
            (&["APP"], &[], false, "must be lowercase"),
            (&["ok", "http://x/y"], &[], false, "invalid reference format"),
            (&[ID], &[], false, "cannot specify 64-byte hexadecimal strings"),
            (&[ID], &["r.io/"], false, "has no path and tag to append to --to r.io/"),
            (&["a:1", "b:2"], &["r.io/x:1"], false, "a:1 and b:2 would both be pushed as r.io/x:1"),
            (&["a:1", "r.io/a:1"], &["r.io/"], false, "would both be pushed as r.io/a:1"),
            (&["a:1"], &["http://r.io/"], false, "--to http://r.io/: invalid reference format"),
            (&["a:1"], &["/"], false, "invalid reference format"),
            (&["a:1"], &["localhost:5000"], false, "means a repository on Docker Hub"),
            (&["a:1"], &["registry.example.com"], false, "means a repository on Docker Hub"),
            (&["a:1"], &[], true, "tag can't be used with --all-tags/-a"),
            (&["a"], &["r.io/a:1"], true, "tag can't be used with --all-tags/-a"),
        ];
        for (images, to, all_tags, want) in table {
            let error = read(images, to, all_tags).unwrap_err();
            assert!(error.contains(want), "{images:?} {to:?}: {error}");
        }
    }

    #[test]
    fn expands_a_repository_to_its_tags() {
        let list = targets(&texts(&["a"]), &texts(&["r.io/team/"]), true).unwrap();
        let expanded = expand(&list[0].1, &texts(&["1", "2"]));
        let names: Vec<_> =
            expanded.iter().map(|target| (target.local_name.clone(), target.reference.familiar())).collect();
        let want = |tag: &str| (format!("docker.io/library/a:{tag}"), format!("r.io/team/a:{tag}"));
        assert_eq!(names, [want("1"), want("2")]);
    }
}
