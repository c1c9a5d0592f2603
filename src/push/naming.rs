//! Adds the local tag under which the engine pushes an image, and removes the tag after the push.

use hyper::StatusCode;

use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::engine::images::ImageInspect;
use crate::engine::tag::{Removed, TemporaryTag};
use crate::push::error::{AttemptError, PushError};
use crate::push::outcome::ImageLog;
use crate::push::session::Session;
use crate::push::subject::{Subject, inspect_all};
use crate::push::target::Target;
use crate::reference::Reference;
use crate::text::with_causes;

/// Inspects an image that the push must tag with another name.
///
/// # Errors
/// The engine does not have the image. [`PushError::Nameless`] if the user typed an image ID, but the destination needs
/// the path and tag of the image's name.
pub async fn inspect_source(
    engine: &mut Engine,
    subject: &Subject<'_>,
    target: &Target,
) -> Result<ImageInspect, AttemptError> {
    let image = inspect_all(engine, subject).await.map_err(|error| subject.attempt_error(error))?;
    if target.stands_for.as_ref().is_some_and(|name| !is_called(&image, name)) {
        let typed = target.local_name.clone();
        return Err(PushError::Nameless { reference: subject.reference.familiar(), typed }.into());
    }
    Ok(image)
}

/// Adds the local tag that the push needs, unless the image already has the tag.
///
/// Returns the tag if the caller must remove the tag after the push, and `None` if not.
///
/// # Errors
/// Another image has the tag, or the engine cannot add the tag.
pub async fn ensure_tag(
    session: &Session<'_>,
    engine: &mut Engine,
    subject: &Subject<'_>,
    image: ImageInspect,
    log: &mut ImageLog<'_>,
) -> Result<Option<TemporaryTag>, PushError> {
    let reference = subject.reference;
    if is_called(&image, reference) {
        return Ok(None);
    }
    match engine.inspect(&reference.canonical()).await {
        Ok(other) if other.id != image.id => {
            let (found, id) = (other.id, image.id);
            return Err(PushError::Taken { reference: reference.familiar(), found, id });
        }
        // Another program has added the tag since the image was inspected.
        Ok(_) => return Ok(None),
        Err(EngineError::Answered { status: StatusCode::NOT_FOUND, .. }) => {}
        Err(error) => return Err(subject.engine_error(error)),
    }
    if session.options.dry_run {
        return Ok(None);
    }
    let naming = session.naming.lock().await;
    let tag = engine.tag(subject.local_name, &image.id, reference, None).await;
    drop(naming);
    let tag = tag.map_err(|error| subject.engine_error(error))?;
    if session.options.keep_tag {
        tag.keep();
        return Ok(None);
    }
    // Engines delete an image together with its last tag, so the image must keep a tag. Tags that this run of the
    // plugin has added do not suffice, because the plugin removes these tags later.
    let mut added = session.added_tags.borrow_mut();
    added.insert(reference.canonical());
    let is_added =
        |name: &String| name.parse::<Reference>().is_ok_and(|name| added.contains(&name.canonical()));
    if image.names.iter().all(is_added) {
        let name = reference.familiar();
        log.warn(format!("tag {name} will not be removed: it is the only name of the image, and the engine would remove the image with it"));
        tag.keep();
        return Ok(None);
    }
    Ok(Some(tag))
}

/// Removes a local tag that was added for the push. Logs a warning if the engine does not remove the tag.
pub async fn untag(session: &Session<'_>, engine: &mut Engine, tag: TemporaryTag, log: &mut ImageLog<'_>) {
    if let Some(warning) = remove_tag(session, engine, tag).await {
        log.warn(warning);
    }
}

/// Removes a local tag that was added for a push. Returns a warning for the user if the engine does not remove the tag.
pub async fn remove_tag(session: &Session<'_>, engine: &mut Engine, tag: TemporaryTag) -> Option<String> {
    let name = tag.name.familiar();
    let naming = session.naming.lock().await;
    let removed = engine.remove(tag).await;
    drop(naming);
    let reason = match removed {
        Ok(Removed::IsGone | Removed::WasNotThere) => return None,
        Ok(Removed::WasMoved) => "it names another image now".to_owned(),
        Ok(Removed::IsTheLast) => {
            "it is the only name of the image, and the engine would remove the image with it".to_owned()
        }
        Err(error) => format!("{}; remove it with `docker rmi {name}`", with_causes(&error)),
    };
    Some(format!("tag {name} was not removed: {reason}"))
}

fn is_called(image: &ImageInspect, name: &Reference) -> bool {
    let is_same =
        |own: &String| own.parse::<Reference>().is_ok_and(|own| own.canonical() == name.canonical());
    image.names.iter().any(is_same)
}
