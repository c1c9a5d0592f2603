//! The image to push, and functions that inspect the image in the engine.

use crate::cli::PushOptions;
use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::engine::images::{ImageInspect, LocalManifest};
use crate::engine::push::PushRequest;
use crate::failure::{Evidence, classify};
use crate::platform::{Platform, PlatformSelection};
use crate::push::error::{AttemptError, Cause, PushError, QueryError};
use crate::push::gate::ActiveCredentials;
use crate::push::target::Target;
use crate::reference::Reference;
use crate::text::one_line;

/// The image to push, and the credentials for its registry.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub reference: &'a Reference,
    /// The image's name in the engine: a reference or an ID.
    pub local_name: &'a str,
    /// The single platform that `--platform` selects, if the user selected one.
    pub platform: Option<&'a Platform>,
    pub active: &'a ActiveCredentials,
}

impl<'a> Subject<'a> {
    pub fn new(target: &'a Target, options: &'a PushOptions, active: &'a ActiveCredentials) -> Self {
        let platform = options.platform.as_ref().and_then(PlatformSelection::one);
        Self { reference: &target.reference, local_name: &target.local_name, platform, active }
    }
}

impl Subject<'_> {
    pub fn engine_error(&self, source: EngineError) -> PushError {
        PushError::Engine { reference: self.reference.familiar(), source }
    }

    /// Converts the error of a query about the image. The result is fatal if the engine cannot be reached, and
    /// retryable in all other cases.
    pub fn attempt_error(&self, error: QueryError) -> AttemptError {
        match error {
            QueryError::Cause(cause) => cause.into(),
            QueryError::Engine(error) => self.engine_error(error).into(),
        }
    }

    pub fn request(&self) -> PushRequest<'_> {
        PushRequest::new(self.reference, &self.active.credentials)
    }

    /// Classifies the engine's refusal of a query about this image.
    pub fn refused(&self, message: &str, http_status: Option<u16>) -> QueryError {
        let verdict = classify(&Evidence {
            http_status,
            repository: &self.reference.repository(),
            ..Evidence::of_text(message, !self.active.credentials.is_anonymous())
        });
        QueryError::Cause(Cause::Engine { verdict, reason: one_line(message) })
    }
}

/// Inspects the image, or only the selected platform of the image if the engine can inspect single platforms.
///
/// # Errors
/// The engine does not have the image, or cannot be reached.
pub async fn inspect(engine: &mut Engine, subject: &Subject<'_>) -> Result<ImageInspect, QueryError> {
    let mut image = inspect_all(engine, subject).await?;
    let is_wanted = |manifest: &&LocalManifest| {
        manifest.platform.as_ref().zip(subject.platform).is_some_and(|(own, wanted)| own.is(wanted))
    };
    if let Some(digest) = image.manifests.iter().find(is_wanted).map(|manifest| manifest.digest.clone()) {
        // The engine pushes the manifest of the selected platform, not the index.
        (image.id, image.digests) = (digest.clone(), vec![digest]);
    }
    if let Some(platform) = subject.platform
        && let Ok(Some(own)) = engine.inspect_platform(subject.local_name, platform).await
    {
        (image.layers, image.size) = (own.layers, own.size);
    }
    Ok(image)
}

/// Inspects the image with all its platforms.
///
/// # Errors
/// The engine does not have the image, or cannot be reached.
pub async fn inspect_all(engine: &mut Engine, subject: &Subject<'_>) -> Result<ImageInspect, QueryError> {
    match engine.inspect(subject.local_name).await {
        Err(EngineError::Answered { status, message }) => {
            Err(subject.refused(&message, Some(status.as_u16())))
        }
        answer => Ok(answer?),
    }
}
