//! Uploads an image. An attempt reports events, and returns a descriptor or an error.

pub mod detour;
mod engine;
mod watchdog;

use crate::engine::Engine;
use crate::event::Event;
use crate::push::error::AttemptError;
use crate::push::outcome::{ImageLog, Uploaded};
use crate::push::session::Session;
use crate::push::subject::Subject;
use crate::push::upload::engine::EngineUpload;

/// The way to upload an image. The only way is through the engine.
pub enum Route {
    Engine(EngineUpload),
}

impl Default for Route {
    fn default() -> Self {
        Self::Engine(EngineUpload::default())
    }
}

impl Route {
    /// Makes one attempt to upload the image.
    ///
    /// * `on_event`: called with each event, after the event was shown and recorded.
    ///
    /// # Errors
    /// [`AttemptError`] if the upload fails.
    pub async fn upload(
        &mut self,
        session: &Session<'_>,
        engine: &mut Engine,
        subject: &Subject<'_>,
        log: &mut ImageLog<'_>,
        on_event: impl FnMut(&Event),
    ) -> Result<Uploaded, AttemptError> {
        match self {
            Self::Engine(upload) => upload.upload(session, engine, subject, log, on_event).await,
        }
    }

    /// Removes the local tag with another spelling of the registry's name, which an attempt left because `--timeout`
    /// stopped the attempt.
    pub async fn clean_up(&mut self, session: &Session<'_>, engine: &mut Engine, log: &mut ImageLog<'_>) {
        match self {
            Self::Engine(upload) => upload.clean_up(session, engine, log).await,
        }
    }
}
