//! The command `ls`: lists the local images whose reference includes a registry, the repositories of a registry, or
//! the tags of a repository.

use std::cmp::Ordering;
use std::sync::Arc;

use serde::Serialize;

use crate::cli::{DockerOptions, ListFormat, LsOptions};
use crate::command::table::table;
use crate::credentials::buildx::Action;
use crate::credentials::command::Given;
use crate::credentials::keyring::{Keyring, Wanted};
use crate::docker::context::without_user;
use crate::engine::error::EngineError;
use crate::engine::images::{ImageSummary, LIST_TIMEOUT};
use crate::engine::transport::error::TransportError;
use crate::error::Error;
use crate::print::{print, tell, warn};
use crate::push::login::LoginError;
use crate::reference::{HUB, Reference, compare_tags, has_registry, registry_domain};
use crate::registry::Registry;
use crate::registry::access::ConnectionOptions;
use crate::registry::error::{RegistryError, is_without_catalog};
use crate::registry::list::Names;
use crate::registry::read::digests;
use crate::secret::Secret;
use crate::setup::{connection, engine, keyring, registry};
use crate::text::{human_size, with_causes};

/// The engine, registry or repository whose content `ls` lists.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Engine,
    Registry(String),
    Repository(Reference),
}

/// Runs the command `ls`.
///
/// # Errors
/// The engine or registry cannot be reached, or cannot list its content.
pub async fn run(
    docker: &DockerOptions,
    options: &LsOptions,
    given: Option<Given>,
    auth_config: Option<Secret>,
) -> Result<(), Error> {
    let place = place(options.registry.as_deref())?;
    let (keyring, _) = keyring(docker, given, auth_config, |warning| warn(&warning))?;
    let connection = connection(&options.connection)?;
    let connect = async |domain: &str, repository: Option<&str>| {
        connect(docker, &connection, &keyring, domain, repository).await
    };
    let text = match place {
        Place::Engine => images(docker, &keyring, options.format).await?,
        Place::Registry(domain) => {
            if is_without_catalog(&domain) {
                return Err(RegistryError::NoCatalog { registry: domain }.into());
            }
            let found = connect(&domain, None).await?.repositories().await?;
            warn_if_incomplete(&domain, &found);
            repositories(&domain, &found.names, options.format)
        }
        Place::Repository(repository) => {
            let registry = Arc::new(connect(repository.domain(), Some(repository.path())).await?);
            let found = registry.tags(repository.path()).await?;
            warn_if_incomplete(repository.domain(), &found);
            let tags = found.names;
            let (digests, trouble) = digests(&registry, repository.path(), &tags).await;
            if let Some((count, error)) = trouble {
                warn(&format!("no digest for {count} of {} tags: {}", tags.len(), with_causes(&error)));
            }
            listed_tags(&repository, tags.into_iter().zip(digests).collect(), options.format)
        }
    };
    print(&text)
}

fn warn_if_incomplete(domain: &str, found: &Names) {
    if found.may_lack_names {
        warn(&format!("the list may be incomplete: cannot parse the link of {domain} to the next page"));
    }
}

fn place(typed: Option<&str>) -> Result<Place, Error> {
    let Some(typed) = typed else { return Ok(Place::Engine) };
    let rest = ["https://", "http://"].iter().find_map(|scheme| typed.strip_prefix(scheme)).unwrap_or(typed);
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if !rest.contains('/')
        && let Some(domain) = registry_domain(rest)
    {
        return Ok(Place::Registry(domain));
    }
    let reference: Reference =
        rest.parse().map_err(|reason| Error::Reference { typed: shown(typed), reason })?;
    match reference.tag() {
        None => Ok(Place::Repository(reference)),
        Some(_) => Err(Error::TagWithLs { repository: reference.familiar_repository() }),
    }
}

/// Removes the user and password from a URL. Leaves a reference unchanged, because an `@` in a reference begins a
/// digest.
fn shown(typed: &str) -> String {
    if typed.contains("://") { without_user(typed) } else { typed.to_owned() }
}

async fn connect(
    docker: &DockerOptions,
    connection: &ConnectionOptions,
    keyring: &Keyring,
    domain: &str,
    repository: Option<&str>,
) -> Result<Registry, Error> {
    let mut engine = match engine(docker, &keyring.config).await {
        Ok(engine) => Some(engine),
        // Continues if the engine cannot be reached, since the registry can be listed without the engine. Other
        // errors, such as an invalid endpoint, are returned.
        Err(Error::Engine(EngineError::Transport(error @ TransportError::Unreachable { .. }))) => {
            let error = Error::Engine(EngineError::Transport(error));
            warn(&format!(
                "{}; continuing without the engine's settings for insecure registries",
                error.message()
            ));
            None
        }
        Err(error) => return Err(error),
    };
    let wanted = Wanted { registry: domain, repository, action: Action::Pull };
    let found = keyring.look_up(&wanted, tell).await;
    if let Some(error) = found.failure {
        return Err(LoginError::Command(error).into());
    }
    found.shadow.iter().for_each(|shadow| tell(shadow));
    found.warnings.iter().for_each(|warning| warn(warning));
    registry(docker, connection, engine.as_mut(), domain, found.credentials, found.login).await
}

/// Compares two references of images: first the repositories, then the tags.
fn compare_names(a: &str, b: &str) -> Ordering {
    let (a, a_tag) = a.rsplit_once(':').unwrap_or((a, ""));
    let (b, b_tag) = b.rsplit_once(':').unwrap_or((b, ""));
    alphanumeric_sort::compare_str(a, b).then_with(|| compare_tags(a_tag, b_tag))
}

async fn images(docker: &DockerOptions, keyring: &Keyring, format: ListFormat) -> Result<String, Error> {
    #[derive(Serialize)]
    struct Line<'a> {
        image: &'a str,
        registry: String,
        /// Size of the image in bytes, as reported by the engine.
        size: u64,
        digest: Option<&'a str>,
        pushed: Option<bool>,
    }
    let mut images = engine(docker, &keyring.config).await?.local_images(LIST_TIMEOUT).await?;
    images.retain(|image| has_registry(&image.name));
    images.sort_by(|a, b| compare_names(&a.name, &b.name));
    Ok(match format {
        ListFormat::Table => {
            let row = |image: ImageSummary| {
                let pushed = match image.is_pushed {
                    Some(true) => "yes",
                    Some(false) => "no",
                    None => "unknown",
                };
                [image.name, human_size(image.size), image.digest.unwrap_or_default(), pushed.to_owned()]
            };
            table(["IMAGE", "SIZE", "DIGEST", "PUSHED"], images.into_iter().map(row))
        }
        ListFormat::Json => json_lines(images.iter().map(|image| {
            Line {
                image: &image.name,
                registry: image
                    .name
                    .parse()
                    .map_or_else(|_| HUB.to_owned(), |named: Reference| named.domain().to_owned()),
                size: image.size,
                digest: image.digest.as_deref(),
                pushed: image.is_pushed,
            }
        })),
    })
}

fn repositories(domain: &str, names: &[String], format: ListFormat) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        repository: String,
        registry: &'a str,
        path: &'a str,
    }
    match format {
        ListFormat::Table => table(["REPOSITORY"], names.iter().map(|name| [format!("{domain}/{name}")])),
        ListFormat::Json => json_lines(names.iter().map(|name| Line {
            repository: format!("{domain}/{name}"),
            registry: domain,
            path: name,
        })),
    }
}

fn listed_tags(repository: &Reference, tags: Vec<(String, Option<String>)>, format: ListFormat) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        reference: String,
        tag: &'a str,
        digest: Option<&'a str>,
    }
    match format {
        ListFormat::Table => {
            table(["TAG", "DIGEST"], tags.into_iter().map(|(tag, digest)| [tag, digest.unwrap_or_default()]))
        }
        ListFormat::Json => json_lines(tags.iter().map(|(tag, digest)| Line {
            reference: format!("{}:{tag}", repository.repository()),
            tag,
            digest: digest.as_deref(),
        })),
    }
}

fn json_lines<T: Serialize>(lines: impl Iterator<Item = T>) -> String {
    lines.map(|line| serde_json::to_string(&line).expect("strings become JSON") + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_registries_from_repositories() {
        let registry = |domain: &str| Some(Place::Registry(domain.to_owned()));
        let repository = |name: &str| Some(Place::Repository(name.parse().unwrap()));
        let table = [
            (None, Some(Place::Engine)),
            (Some("localhost:5000"), registry("localhost:5000")),
            (Some("localhost:5000/"), registry("localhost:5000")),
            (Some("https://registry.example.com/"), registry("registry.example.com")),
            (Some("docker.io"), registry("docker.io")),
            (Some("localhost:5000/team/app"), repository("localhost:5000/team/app")),
            (Some("localhost:5000/app/"), repository("localhost:5000/app")),
            (Some("alpine"), repository("docker.io/library/alpine")),
            (Some("team/app"), repository("docker.io/team/app")),
            (Some("localhost:5000/app:1"), None),
            (Some("localhost:5000/UPPER"), None),
            (Some(""), None),
        ];
        for (typed, want) in table {
            assert_eq!(place(typed).ok(), want, "{typed:?}");
        }
    }

    #[test]
    fn sorts_images_by_repository_and_version() {
        let sorted = ["team/app:1.9", "team/app:1.10-rc1", "team/app:1.10", "team/app-base:1", "team/app2:1"];
        let mut names = sorted;
        names.reverse();
        names.sort_by(|a, b| compare_names(a, b));
        assert_eq!(names, sorted);
    }
}
