//! Checks whether the credentials may write to a repository.

use hyper::StatusCode;
use reqwest::Method;
use reqwest::header::LOCATION;

use crate::registry::Registry;
use crate::registry::error::RegistryError;
use crate::registry::token::write_scope;

impl Registry {
    /// Checks whether the credentials permit a push to a repository: starts an upload, and cancels this
    /// upload.
    ///
    /// # Errors
    /// [`RegistryError::MayNotWrite`] if the credentials do not permit a push; other variants if the check
    /// itself fails.
    ///
    /// Source: OCI distribution specification 1.1, "Pushing a blob in chunks". The `DELETE` request that
    /// cancels an upload is from the API of the registry software `distribution`.
    pub async fn can_push(&self, repository: &str) -> Result<(), RegistryError> {
        self.begin_and_cancel(repository).await.map_err(|error| match error {
            RegistryError::Denied { registry, login, reason } => {
                RegistryError::MayNotWrite { registry, repository: repository.to_owned(), login, reason }
            }
            error => error,
        })
    }

    async fn begin_and_cancel(&self, repository: &str) -> Result<(), RegistryError> {
        let scope = write_scope(repository);
        let url = self.path(&format!("v2/{repository}/blobs/uploads/"))?;
        let response = self.ask(Method::POST, url.clone(), &scope).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(self.unexpected(response).await);
        }
        let place = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let upload = place.and_then(|place| url.join(place).ok());
        let upload = upload.ok_or_else(|| self.not_a_registry("it returned no upload location"))?;
        // Use only the path and query of the upload's URL: a registry behind a proxy may not know its own
        // host name.
        let mut own = self.api.clone();
        own.set_path(upload.path());
        own.set_query(upload.query());
        // A failure to cancel the upload is ignored. A registry drops an unfinished upload later, and the
        // credentials may lack the right to delete.
        let _ = self.ask(Method::DELETE, own, &scope).await;
        Ok(())
    }
}
