//! Pushes an image to a registry that got the image's layers in this call: to another tag, or to another repository.

use std::rc::Rc;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};
use tokio::sync::mpsc::unbounded_channel;

use crate::engine::Engine;
use crate::event::Event;
use crate::present::presenter::Update;
use crate::push::error::AttemptError;
use crate::push::outcome::{ImageLog, Uploaded};
use crate::push::session::Session;
use crate::push::subject::Subject;
use crate::push::upload::relay::{End, Followed, RelayUpload, ended, follow, stored};
use crate::push::upload::shared::{EngineEnd, SharedPush, settings};
use crate::push::upload::stream::{AttemptLog, no_progress};
use crate::relay::upstream::{Stopping, Upstream};

/// The maximum number of blobs for which the registry is asked at once.
const AT_ONCE: usize = 8;

/// The route that stores the manifests of an image, and mounts its layers from the repository that got them.
pub struct CopyUpload {
    /// The push by the engine through which the registry got the layers.
    earlier: Rc<SharedPush>,
    end: Rc<EngineEnd>,
    /// The path of the repository that has the layers.
    from: String,
}

impl CopyUpload {
    /// * `from`: the path of the repository of the same registry that has the layers.
    ///
    /// Returns `None` if the plugin does not have the manifests of the image.
    pub fn new(earlier: &Rc<SharedPush>, from: String) -> Option<Self> {
        let end = earlier.complete_end()?;
        Some(Self { earlier: Rc::clone(earlier), end, from })
    }

    /// Returns the upload by which the image gets to a repository that does not mount its layers.
    pub fn instead(&self) -> RelayUpload {
        RelayUpload::after(&self.earlier)
    }

    /// Makes one attempt to store the image. See `Route::upload`. Returns `None` if the repository lacks a layer and does not
    /// mount it.
    pub async fn upload(
        &self,
        session: &Session<'_>,
        engine: &mut Engine,
        subject: &Subject<'_>,
        log: &mut ImageLog<'_>,
        mut on_event: impl FnMut(&Event),
    ) -> Result<Option<Uploaded>, AttemptError> {
        let reference = subject.reference;
        let registry = session.pool.registry(engine, subject).await;
        let registry = registry.map_err(|error| subject.attempt_error(error))?;
        log.reporter.show(&Update::Push);
        let Some(descriptor) = self.end.manifest.clone() else { return Ok(None) };
        let is_other = self.from != reference.path();
        let sources = is_other.then(|| self.from.clone()).into_iter().collect();
        let upstream = Upstream::new(reference.domain(), settings(session), sources);
        let _stopping = Stopping(Arc::clone(&upstream));
        upstream.connect(registry, reference).map_err(|error| subject.attempt_error(error.into()))?;
        if is_other && !self.has_blobs(&upstream).await && !upstream.has_ended() {
            upstream.stop();
            upstream.cancel_unused_upload().await;
            let (path, from) = (reference.path(), &self.from);
            log.note(&format!(
                "{path} does not get all layers from {from}; the engine pushes the image again"
            ));
            return Ok(None);
        }
        self.show_layers(&upstream, is_other);
        // The same repository has the manifests of an index.
        let needed = self.end.manifests.iter().filter(|manifest| is_other || manifest.by_digest.is_none());
        needed.cloned().for_each(|manifest| upstream.store_manifest(manifest));
        let attempt = AttemptLog::new(session, log, &mut on_event);
        let (_sender, mut news) = unbounded_channel();
        let followed = follow(&self.earlier, &mut news, &upstream, attempt).await;
        upstream.stop();
        upstream.notes().iter().for_each(|note| log.note(note));
        match (upstream.take_failure(), followed) {
            (Some(failure), _) => match ended(failure) {
                End::Failed(error) => Err(error),
                End::Alone(_) | End::TooLarge(_) => Ok(None),
            },
            (None, Followed::Stalled) => Err(no_progress(session.options.stall_timeout).into()),
            (None, Followed::Over(_)) => {
                upstream.cancel_unused_upload().await;
                let tag = reference.tag_or_latest();
                Ok(Some(stored(&self.end, descriptor, tag, log, &mut on_event)))
            }
        }
    }

    /// Returns whether the repository has all blobs, or has mounted them.
    async fn has_blobs(&self, upstream: &Arc<Upstream>) -> bool {
        let blobs = self.end.manifests.iter().flat_map(|manifest| manifest.blobs_and_layers().0);
        let mut found = stream::iter(blobs)
            .map(|digest| async move { upstream.find(&digest).await.is_some() })
            .buffer_unordered(AT_ONCE);
        while let Some(is_found) = found.next().await {
            if !is_found {
                return false;
            }
        }
        true
    }

    fn show_layers(&self, upstream: &Upstream, is_other: bool) {
        for digest in self.end.manifests.iter().flat_map(|manifest| manifest.blobs_and_layers().1) {
            let row = upstream.layers.add(&digest);
            if is_other {
                row.set_mounted(&self.from);
            } else {
                row.set_exists();
            }
        }
    }
}
