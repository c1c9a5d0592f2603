//! Adds temporary tags to images for a push, and removes these tags.

use std::fs;
use std::mem::take;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use percent_encoding::utf8_percent_encode;

use crate::engine::error::EngineError;
use crate::engine::{Engine, PATH, in_path};
use crate::reference::Reference;

/// The result of removing a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    IsGone,
    WasNotThere,
    /// Another program has moved the tag to another image, so the plugin did not remove the tag.
    WasMoved,
    /// The tag is the image's only name. The plugin did not remove the tag, because the engine would also
    /// remove the image.
    IsTheLast,
}

impl Removed {
    /// Returns whether the image does not have the tag now.
    pub fn is_final(self) -> bool {
        self != Self::IsTheLast
    }
}

/// A tag that the plugin added to an image in the engine. Dropping this value removes the tag, even after an
/// error, Ctrl-C or a panic.
#[derive(Debug)]
pub struct TemporaryTag {
    /// The client that removes the tag on drop. `None` if the tag is already removed or must be kept.
    engine: Option<Engine>,
    /// The ID of the image to which the tag was added.
    id: String,
    pub name: Reference,
    /// A file that is removed after the tag.
    record: Option<PathBuf>,
}

impl Engine {
    /// Adds a tag to an image. Dropping the returned value removes the tag. The tag must not exist yet.
    ///
    /// * `image`: a reference or an ID of the image.
    /// * `id`: the ID of the image. The tag is removed only if the tag still names this image.
    /// * `record`: a file that is removed after the tag.
    ///
    /// # Errors
    /// The engine cannot be reached, or refuses to add the tag.
    ///
    /// Source: Docker Engine API 1.24, `POST /images/{name}/tag`.
    pub async fn tag(
        &mut self,
        image: &str,
        id: &str,
        name: &Reference,
        record: Option<PathBuf>,
    ) -> Result<TemporaryTag, EngineError> {
        let repository = utf8_percent_encode(&name.repository(), PATH).to_string();
        let tag = name.tag_or_latest();
        let path = format!("{}/images/{}/tag?repo={repository}&tag={tag}", self.prefix, in_path(image));
        // Create `made` before the request. If the request fails although the engine added the tag, dropping
        // `made` removes the tag.
        let made = TemporaryTag { engine: Some(self.fork()), id: id.to_owned(), name: name.clone(), record };
        let response = self.call(Method::POST, &path, None, Bytes::new()).await?;
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        self.whole(response).await?;
        Ok(made)
    }

    /// Removes a temporary tag from an image in the engine.
    ///
    /// # Errors
    /// The engine cannot be reached, or refuses to remove the tag.
    pub async fn remove(&mut self, mut tag: TemporaryTag) -> Result<Removed, EngineError> {
        const TIMEOUT: Duration = Duration::from_secs(10);
        let removed = tokio::time::timeout(TIMEOUT, self.untag(&tag.name, &tag.id)).await;
        let removed = removed.unwrap_or_else(|_| Err(self.silent()));
        // `drop` must not retry a removal that the engine refused.
        tag.engine = None;
        if removed.as_ref().is_ok_and(|removed| removed.is_final()) {
            forget(tag.record.take());
        }
        removed
    }

    /// Removes a name from an image, unless the image has no other name. With the last name, engines would
    /// remove the image too (docker 20.10 and 28, podman: measured).
    ///
    /// Source: Docker Engine API 1.24, `DELETE /images/{name}`.
    pub async fn untag(&mut self, name: &Reference, id: &str) -> Result<Removed, EngineError> {
        match self.inspect(&name.canonical()).await {
            Ok(image) if image.id != id => return Ok(Removed::WasMoved),
            Ok(image) if image.names.len() < 2 => return Ok(Removed::IsTheLast),
            Ok(_) => {}
            Err(EngineError::Answered { status: StatusCode::NOT_FOUND, .. }) => {
                return Ok(Removed::WasNotThere);
            }
            Err(error) => return Err(error),
        }
        let path = format!("{}/images/{}?noprune=true", self.prefix, in_path(&name.canonical()));
        let response = self.call(Method::DELETE, &path, None, Bytes::new()).await?;
        match response.status() {
            StatusCode::OK | StatusCode::NOT_FOUND => self.whole(response).await.map(|_| Removed::IsGone),
            _ => Err(self.refusal(response).await),
        }
    }
}

/// Removes the record of a tag. If the file remains, the next call that reads it removes it.
fn forget(record: Option<PathBuf>) {
    if let Some(record) = record {
        let _ = fs::remove_file(record);
    }
}

impl TemporaryTag {
    /// Drops this value without removing the tag from the image.
    pub fn keep(mut self) {
        self.engine = None;
    }
}

impl Drop for TemporaryTag {
    fn drop(&mut self) {
        /// Maximum time for the removal. Shorter than the 3 s that `main` waits after a signal before the
        /// process exits.
        const TIMEOUT: Duration = Duration::from_millis(2500);
        /// Delay before the second removal, if the first removal found no tag. If the request of
        /// [`Engine::tag`] loses its connection, the engine may still add the tag a little later.
        const AGAIN: Duration = Duration::from_millis(300);
        let Some(mut engine) = self.engine.take() else { return };
        let removals = take(&mut engine.removals);
        let (name, id, record) = (self.name.clone(), self.id.clone(), self.record.take());
        let turn = Arc::clone(&removals.turn);
        // Use a new thread, because `drop` cannot await, and the current runtime may be shutting down.
        let removal = std::thread::spawn(move || {
            let _turn = turn.lock().ok().filter(|_| engine.is_podman == Some(true));
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            let removed = async {
                let mut removed = engine.untag(&name, &id).await;
                if let Ok(Removed::WasNotThere) = removed {
                    tokio::time::sleep(AGAIN).await;
                    removed = engine.untag(&name, &id).await;
                }
                if removed.is_ok_and(Removed::is_final) {
                    forget(record);
                }
            };
            // The result is ignored, because `drop` cannot report an error.
            let _ = runtime.block_on(async { tokio::time::timeout(TIMEOUT, removed).await });
            runtime.shutdown_background();
        });
        if let Ok(mut threads) = removals.threads.lock() {
            threads.push(removal);
        }
    }
}
