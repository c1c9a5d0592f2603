//! Uploads an image. An attempt reports events, and returns a descriptor or an error.

pub mod detour;
mod engine;
mod relay;
mod stream;
mod watchdog;

use crate::cli::RelayMode;
use crate::engine::Engine;
use crate::event::Event;
use crate::push::error::AttemptError;
use crate::push::outcome::{ImageLog, Uploaded};
use crate::push::session::Session;
use crate::push::subject::Subject;
use crate::push::upload::engine::EngineUpload;
use crate::push::upload::relay::RelayUpload;

/// The way to upload an image.
pub enum Route {
    /// The engine uploads the image.
    Engine(EngineUpload),
    /// The plugin uploads the image that the engine pushes to it.
    Relay(RelayUpload),
}

impl Route {
    pub fn new(mode: RelayMode) -> Self {
        match mode {
            RelayMode::Always => Self::Relay(RelayUpload::default()),
            RelayMode::Auto | RelayMode::Never => Self::Engine(EngineUpload::default()),
        }
    }

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
            Self::Relay(upload) => Box::pin(upload.upload(session, engine, subject, log, on_event)).await,
        }
    }

    /// Removes the local tags that the attempts added.
    pub async fn clean_up(&mut self, session: &Session<'_>, engine: &mut Engine, log: &mut ImageLog<'_>) {
        match self {
            Self::Engine(upload) => upload.clean_up(session, engine, log).await,
            Self::Relay(upload) => upload.clean_up(session, engine, log).await,
        }
    }
}
