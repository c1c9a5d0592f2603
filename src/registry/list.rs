//! Lists of a registry: its repositories, and the tags of a repository.
//!
//! Source: OCI distribution specification 1.1, "Listing Tags"; distribution `docs/spec/api.md` for the catalog.

use std::collections::HashSet;

use hyper::StatusCode;
use reqwest::header::{HeaderMap, LINK};
use reqwest::{Method, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::reference::{is_path, is_tag};
use crate::registry::Registry;
use crate::registry::client::Refusal;
use crate::registry::error::RegistryError;
use crate::registry::token::scope;
use crate::text::clean;

impl Registry {
    /// The names of its repositories, in its order.
    ///
    /// # Errors
    /// It has no catalog, does not show it, or anything else goes wrong.
    pub async fn repositories(&self) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            repositories: Option<Vec<String>>,
        }
        let names = |page: Page| page.repositories;
        let pages = self.pages("v2/_catalog", "registry:catalog:*", names, is_path).await;
        pages?.map_err(|refusal| match refusal.status.as_u16() {
            400 | 404 | 405 | 501 => RegistryError::NoCatalog { registry: self.domain.clone() },
            _ => self.refusal(refusal),
        })
    }

    /// The tags of a repository, in the order of versions.
    ///
    /// * `repository`: [`crate::reference::Reference::path`]
    ///
    /// # Errors
    /// There is no such repository, it is not shown, or anything else goes wrong.
    pub async fn tags(&self, repository: &str) -> Result<Vec<String>, RegistryError> {
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
        alphanumeric_sort::sort_str_slice(&mut tags);
        tags.dedup();
        Ok(tags)
    }

    /// All pages of a list; the inner error: it is refused.
    async fn pages<T: DeserializeOwned>(
        &self,
        path: &str,
        scope: &str,
        names: impl Fn(T) -> Option<Vec<String>>,
        is_name: fn(&str) -> bool,
    ) -> Result<Result<Vec<String>, Refusal>, RegistryError> {
        let mut url = self.path(path)?;
        url.set_query(Some(&format!("n={PAGE}")));
        let (mut all, mut seen) = (Vec::new(), HashSet::new());
        // What is no name goes to a terminal all the same.
        let shown = |name: String| if is_name(&name) { name } else { clean(&self.hide(name)) };
        loop {
            let response = self.ask(Method::GET, url.clone(), scope).await?;
            if !response.status().is_success() {
                return Ok(Err(self.read_refusal(response).await?));
            }
            let next = self.next(&url, response.headers())?;
            let body = self.body(response, MAX_LIST).await?;
            let page =
                serde_json::from_slice(&body).map_err(|_| self.not_a_registry("its list is no JSON"))?;
            all.extend(names(page).unwrap_or_default().into_iter().map(shown));
            seen.insert(url);
            match next {
                None => return Ok(Ok(all)),
                Some(next) if seen.contains(&next) || seen.len() > MAX_PAGES || all.len() > MAX_NAMES => {
                    return Err(self.not_a_registry("its list has no end"));
                }
                Some(next) => url = next,
            }
        }
    }

    /// Where a list goes on: on this registry, whatever host it names. It may not know its own name, behind
    /// a proxy; and elsewhere our login has no business.
    fn next(&self, url: &Url, headers: &HeaderMap) -> Result<Option<Url>, RegistryError> {
        let unreadable = || self.not_a_registry("it does not say readably where its list goes on");
        let mut links = Vec::new();
        for link in headers.get_all(LINK) {
            let link = link.to_str().map_err(|_| unreadable())?;
            links.extend(http_link::parse_link_header(link, url).map_err(|_| unreadable())?);
        }
        let Some(link) = links.into_iter().find(|link| link.rel == "next") else { return Ok(None) };
        let mut next = self.api.clone();
        next.set_path(link.target.path());
        next.set_query(link.target.query());
        Ok(Some(next))
    }
}

/// Names asked for at once; a registry may give fewer.
const PAGE: usize = 1000;

/// Names in all. Nobody reads more, and a registry that goes on for ever means no good.
const MAX_NAMES: usize = 1_000_000;

const MAX_PAGES: usize = 1000;

/// Bytes of a list; some registries know no pages.
const MAX_LIST: usize = 16 << 20;
