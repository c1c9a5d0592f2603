//! Names that an image is given for a push, and how they are removed.

use std::mem::take;
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
    /// Somebody has given it to another image meanwhile; it is theirs.
    WasMoved,
    /// The image has no other any more, and would go with it.
    IsTheLast,
}

/// A name that we gave to an image in the engine. It goes when this is dropped, however we end: by an error,
/// by Ctrl-C, by a panic.
#[derive(Debug)]
pub struct TemporaryTag {
    /// `None`: it is gone, or stays.
    engine: Option<Engine>,
    /// The ID of the image.
    id: String,
    pub name: Reference,
}

impl Engine {
    /// Gives an image one more name, until what this returns is dropped. The name must not be taken.
    ///
    /// * `image`: a reference or an ID.
    /// * `id`: the image's own. The name is taken only from that.
    ///
    /// # Errors
    /// The engine is gone, or refuses.
    ///
    /// Source: Docker Engine API 1.24, `POST /images/{name}/tag`.
    pub async fn tag(
        &mut self,
        image: &str,
        id: &str,
        name: &Reference,
    ) -> Result<TemporaryTag, EngineError> {
        let repository = utf8_percent_encode(&name.repository(), PATH).to_string();
        let tag = name.tag_or_latest();
        let path = format!("{}/images/{}/tag?repo={repository}&tag={tag}", self.prefix, in_path(image));
        // Before the name is there: however this call ends, it is taken away.
        let made = TemporaryTag { engine: Some(self.fork()), id: id.to_owned(), name: name.clone() };
        let response = self.call(Method::POST, &path, None, Bytes::new()).await?;
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        self.whole(response).await?;
        Ok(made)
    }

    /// Removes the tag.
    ///
    /// # Errors
    /// The engine cannot be reached, or refuses; the tag was not removed.
    pub async fn remove(&mut self, mut tag: TemporaryTag) -> Result<Removed, EngineError> {
        const TIMEOUT: Duration = Duration::from_secs(10);
        let removed = tokio::time::timeout(TIMEOUT, self.untag(&tag.name, &tag.id)).await;
        let removed = removed.unwrap_or_else(|_| Err(self.silent()));
        // A removal that was refused is not tried again on drop.
        tag.engine = None;
        removed
    }

    /// Takes a name from an image, and leaves the image. With its last name engines remove the image itself
    /// (docker 20.10 and 28, podman: measured), so that one stays.
    ///
    /// Source: Docker Engine API 1.24, `DELETE /images/{name}`.
    async fn untag(&mut self, name: &Reference, id: &str) -> Result<Removed, EngineError> {
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

impl TemporaryTag {
    /// Does not remove the tag on drop.
    pub fn keep(mut self) {
        self.engine = None;
    }
}

impl Drop for TemporaryTag {
    fn drop(&mut self) {
        /// Less than `main` waits for the end once a signal has come.
        const TIMEOUT: Duration = Duration::from_millis(1500);
        /// How long an engine may take to carry out a request whose connection has broken.
        const AGAIN: Duration = Duration::from_millis(300);
        let Some(mut engine) = self.engine.take() else { return };
        let removals = take(&mut engine.removals);
        let (name, id) = (self.name.clone(), self.id.clone());
        let turn = Arc::clone(&removals.turn);
        // The runtime that we are in may be ending, and cannot wait for us in any case.
        let removal = std::thread::spawn(move || {
            let _turn = turn.lock().ok().filter(|_| engine.is_podman == Some(true));
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            let removed = async {
                if let Ok(Removed::WasNotThere) = engine.untag(&name, &id).await {
                    tokio::time::sleep(AGAIN).await;
                    let _ = engine.untag(&name, &id).await;
                }
            };
            // The program is ending: an error cannot be shown any more.
            let _ = runtime.block_on(async { tokio::time::timeout(TIMEOUT, removed).await });
            runtime.shutdown_background();
        });
        if let Ok(mut threads) = removals.threads.lock() {
            threads.push(removal);
        }
    }
}
