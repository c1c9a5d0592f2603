//! Parses the requests that the engine sends to the relay.
//!
//! Source: OCI distribution specification 1.1, "Push".

use hyper::{Method, StatusCode};
use reqwest::Url;

use crate::oci::is_digest;

/// A request of the engine for the repository of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineRequest {
    Ping,
    /// Start an upload, or mount a blob (digest) from another repository (path).
    Start {
        mount: Option<(String, String)>,
    },
    /// Receive a blob in the upload with this ID.
    Receive {
        id: String,
    },
    /// Finish an upload with a digest.
    Finish {
        id: String,
        digest: String,
    },
    Cancel {
        id: String,
    },
    FindBlob {
        digest: String,
    },
    FindManifest {
        reference: String,
    },
    PutManifest {
        reference: String,
    },
    /// The request does not belong to the push.
    Invalid(Refusal),
}

/// The refusal of a request, in the terms of the OCI distribution specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    pub code: &'static str,
    pub reason: &'static str,
}

impl Refusal {
    pub fn new(status: StatusCode, code: &'static str, reason: &'static str) -> Self {
        Self { status, code, reason }
    }
}

impl EngineRequest {
    /// * `repository`, `tag`: the repository and the tag that the engine may push.
    pub fn parse(method: &Method, path: &str, query: &str, repository: &str, tag: &str) -> Self {
        let refused = |status, code, reason| Self::Invalid(Refusal::new(status, code, reason));
        let not_a_push = || refused(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "not a request of a push");
        if matches!(path, "/v2/" | "/v2") {
            return Self::Ping;
        }
        let below = path.strip_prefix("/v2/").and_then(|path| path.strip_prefix(repository));
        let Some(place) = below.and_then(|path| path.strip_prefix('/')) else {
            return refused(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "not the repository of this push");
        };
        let upload = place.strip_prefix("blobs/uploads");
        if let Some(id) = upload.and_then(|id| id.strip_prefix('/').or(id.is_empty().then_some(""))) {
            let id = id.to_owned();
            return match *method {
                Method::POST if id.is_empty() => Self::Start { mount: mount(query) },
                Method::PATCH => Self::Receive { id },
                Method::PUT => match parameter(query, "digest").filter(|digest| is_digest(digest)) {
                    Some(digest) => Self::Finish { id, digest },
                    None => refused(StatusCode::BAD_REQUEST, "DIGEST_INVALID", "no digest"),
                },
                Method::DELETE => Self::Cancel { id },
                _ => not_a_push(),
            };
        }
        match (method, place.split_once('/')) {
            (&Method::HEAD, Some(("blobs", digest))) if is_digest(digest) => {
                Self::FindBlob { digest: digest.to_owned() }
            }
            (&Method::HEAD | &Method::PUT, Some(("manifests", reference)))
                if reference != tag && !is_digest(reference) =>
            {
                refused(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "not the tag of this push")
            }
            (&Method::HEAD, Some(("manifests", reference))) => {
                Self::FindManifest { reference: reference.to_owned() }
            }
            (&Method::PUT, Some(("manifests", reference))) => {
                Self::PutManifest { reference: reference.to_owned() }
            }
            (&Method::GET, Some(("manifests", _))) => {
                refused(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "the relay serves no manifests")
            }
            _ => not_a_push(),
        }
    }
}

/// Returns the blob to mount, and the repository that has it.
fn mount(query: &str) -> Option<(String, String)> {
    parameter(query, "mount").filter(|digest| is_digest(digest)).zip(parameter(query, "from"))
}

/// Returns the first value of a parameter in a query.
fn parameter(query: &str, name: &str) -> Option<String> {
    let url = Url::parse(&format!("http://relay/?{query}")).ok()?;
    url.query_pairs().find(|(found, _)| found == name).map(|(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serves_only_the_requests_of_one_push() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let blob = format!("/v2/team/app/blobs/{digest}");
        let by_digest = format!("/v2/team/app/manifests/{digest}");
        let digest_query = format!("_state=x&digest={}", digest.replace(':', "%3A"));
        let mount_query = format!("from=team%2Fbase&mount={digest}");
        let own = |text: &str| text.to_owned();
        let refused = |status| (status, None);
        let is = |asked| (200, Some(asked));
        let id = || own("1a");
        let table = [
            // method, path, query, status of a refusal, expected request
            (Method::GET, "/v2/", "", is(EngineRequest::Ping)),
            (Method::HEAD, blob.as_str(), "", is(EngineRequest::FindBlob { digest: digest.clone() })),
            (Method::GET, blob.as_str(), "", refused(405)),
            (Method::POST, "/v2/team/app/blobs/uploads/", "", is(EngineRequest::Start { mount: None })),
            (
                Method::POST,
                "/v2/team/app/blobs/uploads/",
                mount_query.as_str(),
                is(EngineRequest::Start { mount: Some((digest.clone(), own("team/base"))) }),
            ),
            (
                Method::POST,
                "/v2/team/app/blobs/uploads",
                "mount=x&from=y",
                is(EngineRequest::Start { mount: None }),
            ),
            (Method::POST, "/v2/team/app/blobs/uploads/1a", "", refused(405)),
            (Method::PATCH, "/v2/team/app/blobs/uploads/1a", "", is(EngineRequest::Receive { id: id() })),
            (
                Method::PUT,
                "/v2/team/app/blobs/uploads/1a",
                digest_query.as_str(),
                is(EngineRequest::Finish { id: id(), digest: digest.clone() }),
            ),
            (Method::PUT, "/v2/team/app/blobs/uploads/1a", "digest=x", refused(400)),
            (Method::DELETE, "/v2/team/app/blobs/uploads/1a", "", is(EngineRequest::Cancel { id: id() })),
            (
                Method::PUT,
                "/v2/team/app/manifests/1",
                "",
                is(EngineRequest::PutManifest { reference: own("1") }),
            ),
            (
                Method::HEAD,
                by_digest.as_str(),
                "",
                is(EngineRequest::FindManifest { reference: digest.clone() }),
            ),
            (Method::PUT, "/v2/team/app/manifests/2", "", refused(404)),
            (Method::GET, "/v2/team/app/manifests/1", "", refused(404)),
            (Method::DELETE, "/v2/team/app/manifests/1", "", refused(405)),
            (Method::HEAD, "/v2/team/application/manifests/1", "", refused(404)),
            (Method::PUT, "/v2/team/manifests/1", "", refused(404)),
            (Method::GET, "/v2/_catalog", "", refused(404)),
            (Method::GET, "/", "", refused(404)),
            (Method::PUT, "/v2/team/app/../other/manifests/1", "", refused(405)),
        ];
        for (method, path, query, (status, want)) in table {
            let asked = EngineRequest::parse(&method, path, query, "team/app", "1");
            match (asked, want) {
                (EngineRequest::Invalid(refused), None) => {
                    assert_eq!(refused.status, status, "{method} {path}")
                }
                (asked, want) => assert_eq!(Some(asked), want, "{method} {path}?{query}"),
            }
        }
    }
}
