//! Lists the repositories of a registry, and the tags of a repository.
//!
//! Source: OCI distribution specification 1.1, "Listing Tags"; distribution `docs/spec/api.md` for the catalog.

use std::collections::HashSet;

use hyper::StatusCode;
use reqwest::header::{HeaderMap, LINK};
use reqwest::{Method, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::reference::{compare_tags, is_path, is_tag};
use crate::registry::Registry;
use crate::registry::client::Refusal;
use crate::registry::error::RegistryError;
use crate::registry::token::scope;
use crate::text::sanitize;

/// Number of names to request per page; a registry may return fewer names.
const PAGE: usize = 1000;
/// Maximum number of names in all pages, because the list of a faulty registry may never end.
const MAX_NAMES: usize = 1_000_000;
const MAX_PAGES: usize = 1000;
/// Maximum size in bytes of one page. Some registries send the whole list as one page.
const MAX_LIST: usize = 16 << 20;

/// The names in a list of a registry.
#[derive(Debug, Default)]
pub struct Names {
    pub names: Vec<String>,
    /// The link to the next page cannot be parsed, so the registry may have more names.
    pub may_lack_names: bool,
}

impl Registry {
    /// Returns the names of all repositories, sorted.
    ///
    /// # Errors
    /// The registry has no catalog ([`RegistryError::NoCatalog`]), denies access to the catalog, or the
    /// request fails.
    pub async fn repositories(&self) -> Result<Names, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            repositories: Option<Vec<String>>,
        }
        let names = |page: Page| page.repositories;
        let pages = self.pages("v2/_catalog", "registry:catalog:*", names, is_path).await;
        let repositories = pages.map_err(catalog_denied)?.map_err(|refusal| match refusal.status.as_u16() {
            400 | 404 | 405 | 501 => RegistryError::NoCatalog { registry: self.domain.clone() },
            _ => self.refusal(refusal),
        });
        let mut repositories = repositories.map_err(catalog_denied)?;
        repositories.names.sort();
        repositories.names.dedup();
        Ok(repositories)
    }

    /// Returns the tags of a repository, sorted by version.
    ///
    /// * `repository`: the path of the repository, from [`crate::reference::Reference::path`].
    ///
    /// # Errors
    /// The repository does not exist or is hidden ([`RegistryError::NoRepository`]), or the request fails.
    pub async fn tags(&self, repository: &str) -> Result<Names, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let path = format!("v2/{repository}/tags/list");
        let pages = self.pages(&path, &scope(repository), |page: Page| page.tags, is_tag).await;
        let mut tags = pages?.map_err(|refusal| match refusal.status {
            StatusCode::NOT_FOUND => RegistryError::NoRepository {
                registry: self.domain.clone(),
                repository: repository.to_owned(),
                login: Box::new(self.access.login.clone()),
            },
            _ => self.refusal(refusal),
        })?;
        tags.names.sort_by(|a, b| compare_tags(a, b));
        tags.names.dedup();
        Ok(tags)
    }

    /// Returns the names in all pages of a list, or `Ok(Err(_))` if the registry sends an error response.
    async fn pages<T: DeserializeOwned>(
        &self,
        path: &str,
        scope: &str,
        names: impl Fn(T) -> Option<Vec<String>>,
        is_name: fn(&str) -> bool,
    ) -> Result<Result<Names, Refusal>, RegistryError> {
        let mut url = self.path(path)?;
        url.set_query(Some(&format!("n={PAGE}")));
        let mut pages = Pages::default();
        // The result includes names that are not valid, so these names must be sanitized.
        let shown = |name: String| if is_name(&name) { name } else { sanitize(&self.redact(name)) };
        loop {
            let mut response = self.ask(Method::GET, url.clone(), scope).await?;
            if response.status() == StatusCode::BAD_REQUEST && pages.seen.is_empty() && url.query().is_some()
            {
                // The registry may limit pages to fewer names (distribution: `catalog.maxentries`).
                url.set_query(None);
                response = self.ask(Method::GET, url.clone(), scope).await?;
            }
            if !response.status().is_success() {
                return Ok(Err(self.read_refusal(response).await?));
            }
            let next = next_page(&self.api, &url, response.headers());
            let may_lack_names = next.is_err();
            let body = self.body(response, MAX_LIST).await?;
            let page = serde_json::from_slice(&body)
                .map_err(|_| self.not_a_registry("its list of names is not JSON"))?;
            let names = names(page).unwrap_or_default().into_iter().map(shown);
            match pages.add(url, names, next.unwrap_or_default()) {
                Ok(Some(next)) => url = next,
                Ok(None) => return Ok(Ok(Names { names: pages.names, may_lack_names })),
                Err(Endless) => return Err(self.not_a_registry("its list of names does not end")),
            }
        }
    }
}

/// Converts a refusal of access into [`RegistryError::CatalogDenied`].
fn catalog_denied(error: RegistryError) -> RegistryError {
    match error {
        RegistryError::Denied { registry, login, reason } => {
            RegistryError::CatalogDenied { registry, login, reason }
        }
        error => error,
    }
}

/// The pages of a list that have been read so far.
#[derive(Default)]
struct Pages {
    names: Vec<String>,
    seen: HashSet<Url>,
}

/// The error for a list that repeats a page or exceeds a limit.
#[derive(Debug, PartialEq, Eq)]
struct Endless;

impl Pages {
    /// Adds the names of a page, and returns the URL of the next page.
    fn add(
        &mut self,
        url: Url,
        names: impl Iterator<Item = String>,
        next: Option<Url>,
    ) -> Result<Option<Url>, Endless> {
        self.names.extend(names);
        self.seen.insert(url);
        let is_endless = next.as_ref().is_some_and(|next| {
            self.seen.contains(next) || self.seen.len() > MAX_PAGES || self.names.len() > MAX_NAMES
        });
        if is_endless { Err(Endless) } else { Ok(next) }
    }
}

/// The error for a `Link` header that cannot be parsed.
#[derive(Debug, PartialEq, Eq)]
struct Unreadable;

/// Returns the URL of the next page from the header `Link`. The URL always has the host of `api`: a registry
/// behind a proxy may not know its own name, and no other host may receive the credentials.
///
/// * `api`: the URL of the registry.
/// * `url`: the URL of the current page, to which `headers` belong.
///
/// Source: RFC 8288.
fn next_page(api: &Url, url: &Url, headers: &HeaderMap) -> Result<Option<Url>, Unreadable> {
    let mut links = Vec::new();
    for link in headers.get_all(LINK) {
        let link = link.to_str().map_err(|_| Unreadable)?;
        links.extend(http_link::parse_link_header(link, url).map_err(|_| Unreadable)?);
    }
    let Some(link) = links.into_iter().find(|link| link.rel == "next") else { return Ok(None) };
    let mut next = api.clone();
    next.set_path(link.target.path());
    next.set_query(link.target.query());
    Ok(Some(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn follows_next_links_on_the_same_registry() {
        type Row<'a> = (&'a [&'a str], Result<Option<&'a str>, Unreadable>);
        let table: [Row<'_>; 8] = [
            // values of `Link`, expected URL of the next page
            (&[], Ok(None)),
            (
                &[r#"</v2/_catalog?last=b&n=2>; rel="next""#],
                Ok(Some("https://r:5000/v2/_catalog?last=b&n=2")),
            ),
            (&["</v2/a>; rel=prev", "</v2/b>; rel=next"], Ok(Some("https://r:5000/v2/b"))),
            (&["<?last=b>; rel=next"], Ok(Some("https://r:5000/v2/_catalog?last=b"))),
            (&["<http://elsewhere.example.com/v2/c>; rel=next"], Ok(Some("https://r:5000/v2/c"))),
            (&["</v2/a>; rel=prev"], Ok(None)),
            (&["nonsense"], Err(Unreadable)),
            (&["</v2/\u{e4}>; rel=next"], Err(Unreadable)),
        ];
        for (links, want) in table {
            let links = links.iter().map(|link| (LINK, link.parse().unwrap()));
            let headers: HeaderMap = links.collect();
            let next = next_page(&url("https://r:5000/"), &url("https://r:5000/v2/_catalog?n=1"), &headers);
            assert_eq!(
                next.map(|next| next.map(String::from)),
                want.map(|w| w.map(str::to_owned)),
                "{headers:?}"
            );
        }
    }

    #[test]
    fn gives_up_on_endless_lists() {
        let name = |name: &str| [name.to_owned()].into_iter();
        let mut pages = Pages::default();
        let (first, second) = (url("https://r/v2/1"), url("https://r/v2/2"));
        assert_eq!(pages.add(first.clone(), name("a"), Some(second.clone())), Ok(Some(second.clone())));
        assert_eq!(pages.add(second.clone(), name("b"), None), Ok(None));
        assert_eq!(pages.names, ["a", "b"]);
        assert_eq!(pages.add(second, name("c"), Some(first)), Err(Endless), "the pages form a cycle");

        let mut pages = Pages::default();
        let page = |number: usize| url(&format!("https://r/v2/{number}"));
        let last = (0..).find(|number| pages.add(page(*number), name("a"), Some(page(number + 1))).is_err());
        assert_eq!(last, Some(MAX_PAGES), "too many pages");
        let mut pages = Pages::default();
        let names = std::iter::repeat_n("a".to_owned(), MAX_NAMES + 1);
        assert_eq!(pages.add(page(0), names, Some(page(1))), Err(Endless), "too many names");
    }
}
