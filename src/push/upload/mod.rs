//! Uploads an image. An attempt reports events, and returns a descriptor or an error.

pub mod copy;
pub mod detour;
mod engine;
pub mod relay;
pub mod shared;
mod stream;
mod watchdog;

use crate::cli::PushOptions;
use crate::engine::Engine;
use crate::event::Event;
use crate::failure::{Class, is_about_connecting, is_about_engines_settings};
use crate::push::error::{AttemptError, Cause, PushError};
use crate::push::outcome::{ImageLog, Uploaded};
use crate::push::session::Session;
use crate::push::subject::Subject;
use crate::push::upload::copy::CopyUpload;
use crate::push::upload::engine::EngineUpload;
use crate::push::upload::relay::RelayUpload;
use crate::push::upload::shared::{OpenError, check_reach};
use crate::retry::root_cause;

/// The size in bytes of the first chunks after the registry has refused a request of the engine because of its size.
const FIRST_CHUNK: u64 = 4 << 20;

/// The way to upload an image.
pub enum Route {
    /// The engine uploads the image.
    Engine(Box<EngineUpload>),
    /// The plugin uploads the image that the engine pushes to it.
    Relay(RelayUpload),
    /// The plugin stores the image's manifests in a registry that has the image's layers.
    Copy(CopyUpload),
}

/// Returns whether an upload by the plugin may succeed after a failure of the engine's upload.
///
/// * `is_in_reach`: the registry has answered the plugin, and the engine has sent nothing to it.
pub fn may_help(cause: &Cause, is_in_reach: bool) -> bool {
    let reason = cause.reason();
    let is_about_engine = || {
        matches!(cause, Cause::Engine { .. })
            && matches!(cause.class(), Class::Tls | Class::Network)
            && (is_about_engines_settings(&reason) || (is_in_reach && is_about_connecting(&reason)))
    };
    cause.is_about_size() || is_about_engine()
}

/// Returns the note that the relay cannot upload the image after a failure of the engine's upload.
pub fn cannot_replace_engine(reason: &str) -> String {
    format!("the plugin cannot upload the image instead of the engine: {reason}")
}

impl Route {
    pub fn new(options: &PushOptions) -> Self {
        match options.relay_wanted_by() {
            Some(_) => Self::Relay(RelayUpload::default()),
            None => Self::Engine(Box::default()),
        }
    }

    pub fn is_relay(&self) -> bool {
        matches!(self, Self::Relay(_) | Self::Copy(_))
    }

    /// Changes from the engine's upload to the relay, at most once. Tells the user why, or why the relay cannot be used.
    /// Returns whether the route has changed.
    ///
    /// * `cause`: the failure of the engine's upload.
    pub async fn switch_to_relay(
        &mut self,
        session: &Session<'_>,
        engine: &mut Engine,
        subject: &Subject<'_>,
        log: &mut ImageLog<'_>,
        cause: &Cause,
    ) -> bool {
        match self {
            Self::Engine(upload) if !upload.has_tried_relay => upload.has_tried_relay = true,
            _ => return false,
        }
        let reason = root_cause(&cause.reason(), cause.class());
        match Box::pin(check_reach(session, engine, subject)).await {
            Ok(()) => {
                // A proxy may close the connection before the plugin can read its 413, so the first requests are small.
                if cause.is_about_size()
                    && let Ok(registry) = session.pool.registry(engine, subject).await
                {
                    registry.set_refused_size(2 * FIRST_CHUNK);
                }
                *self = Self::Relay(RelayUpload::default());
                log.record.is_relayed = true;
                log.note(&format!(
                    "the engine's upload failed: {reason}; the plugin uploads the image instead"
                ));
                true
            }
            Err(OpenError::Unusable(obstacle)) => {
                log.note(&cannot_replace_engine(&obstacle.to_string()));
                false
            }
            // The failure of the engine's upload says more.
            Err(OpenError::Failed(_)) => false,
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
        mut on_event: impl FnMut(&Event),
    ) -> Result<Uploaded, AttemptError> {
        match self {
            Self::Engine(upload) => upload.upload(session, engine, subject, log, on_event).await,
            Self::Relay(upload) => {
                let is_choice = upload.is_of_several() && session.options.relay_wanted_by().is_none();
                let uploaded = Box::pin(upload.upload(session, engine, subject, log, &mut on_event)).await;
                match uploaded {
                    Err(AttemptError::Fatal(PushError::NoRelay { reason, .. })) if is_choice => {
                        log.note(&format!("the engine uploads the image to each registry: {reason}"));
                        log.record.is_relayed = false;
                        let mut upload = Box::new(EngineUpload::without_relay());
                        let uploaded = upload.upload(session, engine, subject, log, on_event).await;
                        *self = Self::Engine(upload);
                        uploaded
                    }
                    uploaded => uploaded,
                }
            }
            Self::Copy(upload) => {
                let copied = Box::pin(upload.upload(session, engine, subject, log, &mut on_event)).await;
                if let Some(uploaded) = copied? {
                    return Ok(uploaded);
                }
                let mut upload = upload.instead();
                let uploaded = Box::pin(upload.upload(session, engine, subject, log, on_event)).await;
                *self = Self::Relay(upload);
                uploaded
            }
        }
    }

    /// Removes the local tags that the attempts added.
    pub async fn clean_up(&mut self, session: &Session<'_>, engine: &mut Engine, log: &mut ImageLog<'_>) {
        if let Self::Engine(upload) = self {
            upload.clean_up(session, engine, log).await;
        }
    }
}
