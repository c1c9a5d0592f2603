//! Implements `--if-exists`: decides whether to push an image if the registry already has the tag.

use futures_util::future::join;

use crate::cli::IfExists;
use crate::engine::Engine;
use crate::failure::Class;
use crate::oci::Descriptor;
use crate::push::announce::Announcer;
use crate::push::error::{AttemptError, PushError, QueryError};
use crate::push::outcome::{ImageLog, Outcome, Status};
use crate::push::session::Session;
use crate::push::subject::{Subject, inspect};
use crate::reference::Reference;

/// Returns the outcome of a push that needs no upload, or `None` if the image must be uploaded.
///
/// * `named`: the manifest that the tag names in the registry.
/// * `is_same`: `named` is the image to push.
/// * `id`: the ID of the image to push, for the error message.
///
/// # Errors
/// [`PushError::Exists`] if `--if-exists fail` forbids replacing the image in the registry.
pub fn if_exists_outcome(
    if_exists: IfExists,
    reference: &Reference,
    named: Option<Descriptor>,
    is_same: bool,
    id: String,
) -> Result<Option<Outcome>, PushError> {
    let Some(named) = named.filter(|_| if_exists != IfExists::Overwrite) else { return Ok(None) };
    match if_exists {
        _ if is_same => Ok(Some(Outcome::new(Status::Unchanged, named))),
        IfExists::Skip => Ok(Some(Outcome::new(Status::Skipped, named))),
        IfExists::Fail => Err(PushError::Exists { reference: reference.familiar(), found: named.digest, id }),
        IfExists::Overwrite | IfExists::Update => Ok(None),
    }
}

/// Queries the engine and the registry about the tag, unless `--if-exists` is `overwrite`.
///
/// Returns the outcome of a push that needs no upload, or `None` if the image must be uploaded.
///
/// # Errors
/// The engine does not have the image, the registry does not respond, or [`PushError::Exists`].
pub async fn outcome_before_upload(
    session: &Session<'_>,
    engine: &mut Engine,
    subject: &Subject<'_>,
    announcer: &Announcer<'_>,
    log: &mut ImageLog<'_>,
) -> Result<Option<Outcome>, AttemptError> {
    let if_exists = session.options.if_exists;
    if if_exists == IfExists::Overwrite {
        return Ok(None);
    }
    let pool = &session.pool;
    let (image, named) = if engine.is_connect_expensive() {
        (inspect(engine, subject).await, pool.resolve(engine, subject).await)
    } else {
        let mut other = engine.fork();
        join(inspect(&mut other, subject), pool.resolve(engine, subject)).await
    };
    let image = image.map_err(|error| subject.attempt_error(error))?;
    announcer.announce(&image)?;
    let named = match named {
        Ok(Some(named)) => named,
        Ok(None) => return Ok(None),
        // Upload the image, since the credentials may allow pushing but not reading. Pushing an unchanged image is
        // harmless.
        Err(QueryError::Cause(cause))
            if if_exists == IfExists::Update
                && (cause.class() != Class::Auth || pool.has_accepted(subject)) =>
        {
            log.warn(cannot_look_up(&cause.reason()));
            return Ok(None);
        }
        Err(error) => return Err(subject.attempt_error(error)),
    };
    let is_same = match pool.is_same(engine, subject, &image, &named).await {
        // Only `--if-exists fail` must know whether the tag already names the local image. If `is_same` fails, `skip`
        // skips the push, and `update` uploads the image.
        Err(QueryError::Cause(_)) if if_exists != IfExists::Fail => false,
        is_same => is_same.map_err(|error| subject.attempt_error(error))?,
    };
    Ok(if_exists_outcome(if_exists, subject.reference, Some(named), is_same, image.id)?)
}

/// Returns the warning for a registry that does not tell which manifest the tag names.
pub fn cannot_look_up(reason: &str) -> String {
    format!("cannot look up the tag in the registry: {reason}")
}

/// Returns the manifest that the tag names in the registry, if that manifest is the image to push.
///
/// The caller uses this function after the registry refused a push. Refusing to change an immutable tag is not an
/// error if the tag already names the image.
pub async fn find_same(
    session: &Session<'_>,
    engine: &mut Engine,
    subject: &Subject<'_>,
) -> Option<Descriptor> {
    let image = inspect(engine, subject).await.ok()?;
    let named = session.pool.resolve(engine, subject).await.ok()??;
    let is_same = session.pool.is_same(engine, subject, &image, &named).await.ok()?;
    is_same.then_some(named)
}
