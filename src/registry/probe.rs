//! Checks whether a registry would accept an upload: starts an upload as an engine does, and cancels it.
//!
//! Source: OCI distribution specification 1.1, "Pushing a blob in chunks". The `DELETE` request that cancels an upload is
//! from the API of the registry software `distribution`.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Response, Url};

use crate::failure::{Class, Evidence, Phase, classify};
use crate::registry::Registry;
use crate::registry::client::{Refusal, is_html, location, place, shown};
use crate::registry::error::{Misplaced, RegistryError};
use crate::registry::token::write_scope;

/// The maximum time that the plugin waits for a refusal of a layer by its size. A server that checks the size answers
/// before the layer is sent.
const EARLY_ANSWER: Duration = Duration::from_secs(2);
/// The maximum time for a request to another server that the location of an upload names.
const OTHER_SERVER: Duration = Duration::from_secs(5);

impl Registry {
    /// Checks whether the registry would accept an upload to a repository.
    ///
    /// * `layer`: the size of a layer in bytes, to check whether the registry accepts a layer of this size; `None`: the
    ///   size is not checked.
    ///
    /// # Errors
    /// The reason why an upload would fail. [`RegistryError::MayNotWrite`] if the account has no right to push.
    pub async fn probe_upload(&self, repository: &str, layer: Option<u64>) -> Result<(), RegistryError> {
        let scope = write_scope(repository);
        let asked = self.path(&format!("v2/{repository}/blobs/uploads/"))?;
        let begun = self.ask(Method::POST, asked.clone(), &scope).await;
        let response = begun.map_err(|error| self.may_not_write(repository, error))?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(self.refused_upload(repository, response, Phase::Start).await);
        }
        let upload =
            location(&response).ok_or_else(|| RegistryError::NoLocation { registry: self.domain.clone() })?;
        // Use only the path and query of the upload's URL, since no other host may receive the credentials.
        let mut own = self.api.clone();
        own.set_path(upload.path());
        own.set_query(upload.query());
        let mut result = self.check_location(&asked, &upload, &scope).await;
        if let (Ok(()), Some(size)) = (&result, layer.filter(|_| place(&upload) == place(&self.api))) {
            result = self.probe_size(own.clone(), &scope, size).await;
        }
        // A failure to cancel the upload is ignored. A registry drops an unfinished upload later, and the credentials
        // may lack the right to delete.
        let _ = self.ask(Method::DELETE, own, &scope).await;
        result
    }

    /// Checks that an engine can continue an upload at the location that the registry returned. An engine sends the
    /// layers to the location as it is.
    async fn check_location(&self, asked: &Url, upload: &Url, scope: &str) -> Result<(), RegistryError> {
        let misplaced = |problem: Misplaced| RegistryError::UploadElsewhere {
            registry: self.domain.clone(),
            location: shown(upload),
            problem,
        };
        let is_same_server = upload.scheme() == asked.scheme() && place(upload) == place(asked);
        if is_same_server {
            if !is_other_repository(asked.path(), upload.path()) {
                return Ok(());
            }
            // The upload may exist under this path too.
            return match self.ask(Method::GET, upload.clone(), scope).await {
                Ok(response) if response.status().is_success() => Ok(()),
                _ => Err(misplaced(Misplaced::OtherRepository)),
            };
        }
        if asked.scheme() == "https" && upload.scheme() == "http" {
            return Err(misplaced(Misplaced::Plain));
        }
        // Another server may be meant, if it knows the upload.
        let request = self.client.get(upload.clone()).timeout(OTHER_SERVER);
        let status = self.send(&self.client, request).await;
        let is_scheme = upload.scheme() != asked.scheme();
        match status.map(|response| response.status()) {
            Ok(status) if status.is_success() || status == StatusCode::UNAUTHORIZED => Ok(()),
            Ok(_) => Err(misplaced(Misplaced::OtherServer)),
            Err(_) if is_scheme => Err(misplaced(Misplaced::Scheme)),
            Err(_) => Err(misplaced(Misplaced::Unreachable)),
        }
    }

    /// Sends the head of a request for a layer, and no layer. A server that limits the size of requests refuses the
    /// layer at once.
    async fn probe_size(&self, upload: Url, scope: &str, size: u64) -> Result<(), RegistryError> {
        let request = self
            .request(
                Method::PATCH,
                upload,
                self.known_authorization(scope).map(|known| known.value).as_ref(),
            )?
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, HeaderValue::from(size))
            .body(reqwest::Body::wrap(Never(size)));
        match tokio::time::timeout(EARLY_ANSWER, self.send(&self.client, request)).await {
            Ok(Ok(response)) if response.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(RegistryError::TooLarge { registry: self.domain.clone() })
            }
            // The server waits for the layer, or refuses this request for a reason that need not concern an engine.
            _ => Ok(()),
        }
    }

    /// Returns the error for a response that refuses an upload, a blob or a manifest. If the status does not settle the
    /// class, the text of the refusal does, as for a refusal that an engine reports.
    ///
    /// * `phase`: the phase of the push to which the request belongs.
    pub(super) async fn refused_upload(
        &self,
        repository: &str,
        response: Response,
        phase: Phase,
    ) -> RegistryError {
        let status = response.status();
        let is_page = is_html(&response);
        if let Some(target) = location(&response).filter(|_| status.is_redirection()) {
            let port = target.port().map(|port| format!(":{port}")).unwrap_or_default();
            let name = format!("{}{port}", target.host_str().unwrap_or_default());
            return RegistryError::Redirected { registry: self.domain.clone(), target: shown(&target), name };
        }
        let registry = self.domain.clone();
        let refusal = match self.read_refusal(response).await {
            Ok(refusal) => refusal,
            Err(error) => return error,
        };
        let verdict = classify(&Evidence {
            phase,
            repository: &format!("{registry}/{repository}"),
            ..Evidence::of_text(&refusal.reason, !self.access.credentials.is_anonymous())
        });
        let is_start = phase == Phase::Start;
        match status {
            StatusCode::FORBIDDEN if is_page => RegistryError::ProxyRefused { registry, status },
            StatusCode::METHOD_NOT_ALLOWED => RegistryError::ReadOnly { registry, reason: refusal.reason },
            StatusCode::PAYLOAD_TOO_LARGE => RegistryError::TooLarge { registry },
            StatusCode::NOT_FOUND if is_start && refusal.code.is_some() => RegistryError::NoPushTarget {
                registry,
                repository: repository.to_owned(),
                reason: refusal.reason,
            },
            status if status.is_success() && is_page => {
                RegistryError::WebPage { registry, redirect: None, is_sign_in: false }
            }
            _ => {
                let is_rejected = status == StatusCode::FORBIDDEN && verdict.class == Class::Rejected;
                let is_settled = matches!(status.as_u16(), 401..=403 | 407 | 408 | 429 | 451)
                    || (status == StatusCode::NOT_FOUND && is_start);
                let is_unsettled = status.is_client_error() && !is_settled;
                if is_rejected || is_unsettled {
                    let Refusal { server, reason, .. } = refusal;
                    return RegistryError::Refused { server, status, reason, verdict };
                }
                self.may_not_write(repository, self.refusal(refusal))
            }
        }
    }

    /// Converts a refusal of access into [`RegistryError::MayNotWrite`].
    fn may_not_write(&self, repository: &str, error: RegistryError) -> RegistryError {
        match error {
            RegistryError::Denied { registry, login, reason } => {
                RegistryError::MayNotWrite { registry, repository: repository.to_owned(), login, reason }
            }
            error => error,
        }
    }
}

/// Returns whether the location of an upload names another repository than the request, as after a proxy has rewritten
/// the path of the request, but not the location.
///
/// Some registries have upload paths without a repository, such as `/artifacts-uploads/…` (Google Artifact Registry).
fn is_other_repository(asked: &str, upload: &str) -> bool {
    let repository =
        |path: &str| path.split_once("/blobs/upload").map(|(repository, _)| repository.to_owned());
    repository(upload).is_some_and(|upload| Some(upload) != repository(asked))
}

/// The body of a request that announces its size and sends nothing.
struct Never(u64);

impl Body for Never {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_of_other_repositories_are_recognized() {
        let table = [
            ("/v2/app/blobs/uploads/1234", false),
            ("/v2/app/blobs/upload/1:1234", false),
            ("/artifacts-uploads/namespaces/x/uploads/1234", false),
            ("/v2/mirror/app/blobs/uploads/1234", true),
            ("/prefix/v2/app/blobs/uploads/1234", true),
        ];
        for (upload, want) in table {
            assert_eq!(is_other_repository("/v2/app/blobs/uploads/", upload), want, "{upload}");
        }
    }
}
