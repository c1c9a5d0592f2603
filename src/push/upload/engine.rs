//! Uploads an image with the engine's push request, and detects stalls.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use humantime::format_duration;
use hyper::StatusCode;
use tokio::time::Instant;

use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::engine::push::{PushRequest, PushStream};
use crate::engine::tag::TemporaryTag;
use crate::event::{Event, LayerState, Narrowed};
use crate::failure::{Class, Evidence, classify, stalled, waiting};
use crate::oci::Descriptor;
use crate::present::presenter::Update;
use crate::progress::Progress;
use crate::push::diagnose::{Diagnosis, diagnose};
use crate::push::error::{AttemptError, Cause, PushError};
use crate::push::naming::untag;
use crate::push::outcome::{ImageLog, Uploaded};
use crate::push::session::Session;
use crate::push::subject::{Subject, inspect};
use crate::push::upload::watchdog::Watchdog;
use crate::text::one_line;

/// How long the plugin reads the engine's stream after the stream reported that the push was refused. Later messages
/// only repeat or explain the refusal.
pub const AFTER_REFUSAL: Duration = Duration::from_secs(2);
/// The timeout for the registry to confirm a push for which the engine reported no digest.
const CONFIRMATION: Duration = Duration::from_secs(30);

/// The route that uploads an image through the engine.
#[derive(Default)]
pub struct EngineUpload {
    /// The local tag with another spelling of the registry's name, if an upload under the usual name hangs in the
    /// engine.
    detour: Option<TemporaryTag>,
}

/// Facts about one push, collected from the engine's stream.
#[derive(Debug, Default)]
struct StreamFacts {
    /// The raw message of the first [`Event::Refused`]. Later refusals only repeat or explain the first refusal.
    refusal: Option<String>,
    content_missing: bool,
    narrowed: Option<Narrowed>,
    /// The engine uses Docker's classic store, the only store that reports `Preparing`.
    is_classic: bool,
    /// The engine reports nothing until the push has finished (podman).
    is_silent: bool,
    /// The engine itself retries a layer.
    is_retrying: bool,
    /// The result of a diagnosis while the engine itself retried a layer.
    diagnosis: Option<Diagnosis>,
}

impl StreamFacts {
    fn apply(&mut self, event: &Event) {
        match event {
            Event::Refused { message } => _ = self.refusal.get_or_insert_with(|| message.clone()),
            Event::ContentMissing => self.content_missing = true,
            Event::PlatformInsteadOfIndex(narrowed) => self.narrowed = Some(narrowed.clone()),
            Event::Layer { state: LayerState::Preparing, .. } => self.is_classic = true,
            Event::Layer { state: LayerState::Retrying { .. }, .. } => self.is_retrying = true,
            _ => {}
        }
    }
}

/// The reason why the plugin stopped reading the engine's stream, unless the connection broke.
enum StreamEnd {
    Properly,
    /// The plugin stopped the push after a stall.
    Stalled,
    /// The plugin stopped the push, since the registry told why the engine's retries cannot help.
    Diagnosed(Cause),
}

impl EngineUpload {
    /// Makes one attempt to upload the image. See `Route::upload`.
    pub async fn upload(
        &mut self,
        session: &Session<'_>,
        engine: &mut Engine,
        subject: &Subject<'_>,
        log: &mut ImageLog<'_>,
        on_event: impl FnMut(&Event),
    ) -> Result<Uploaded, AttemptError> {
        let reference = subject.reference;
        self.take_a_detour(session, engine, subject, log).await?;
        let blocked_before = session.detours.borrow().blocked(reference);
        log.reporter.show(&Update::Push);
        let mut facts = StreamFacts::default();
        let end = self.follow(session, engine, subject, log, &mut facts, on_event).await;
        let detour = self.detour.as_ref().map(|tag| tag.name.clone());
        self.clean_up(session, engine, log).await;
        let repository = detour.as_ref().unwrap_or(reference).repository();
        let progress = &log.record.progress;
        let refused = |message: &str, http_status| {
            let verdict = classify(&Evidence {
                message,
                http_status,
                content_missing: facts.content_missing,
                has_foreign_layers: progress.has_foreign_layers(),
                phase: progress.phase(),
                credentials_sent: !subject.active.credentials.is_anonymous(),
                repository: &repository,
            });
            Cause::Engine { verdict: verdict.uncancelled(), reason: one_line(message) }
        };
        let is_silent = facts.is_silent;
        let retryable = |cause: Cause| {
            let max_retries = max_retries(session, subject, cause.class(), progress, is_silent);
            AttemptError::Retryable { cause, max_retries, may_write: false }
        };
        // A refusal is the cause of the failure, even if the stream breaks after the refusal.
        if let Some(message) = &facts.refusal {
            let cause = refused(message, None);
            // Certificates and proxy rules apply to the registry's usual name, so another spelling of the name may
            // cause a failure of these classes.
            let is_about_name =
                matches!(cause.class(), Class::Tls | Class::Auth | Class::Denied | Class::Other);
            let avoids_mounts = session.detours.borrow().avoids_mounts(reference);
            if detour.is_some() && !avoids_mounts && is_about_name && !progress.has_moved() {
                session.detours.borrow_mut().close(reference);
                let reason = format!(
                    "an earlier upload hangs in the engine, and a push under another spelling of the registry failed: {}",
                    cause.reason()
                );
                return Err(retryable(Cause::Engine { verdict: stalled(), reason }));
            }
            let layer = size_to_probe(progress, facts.is_classic);
            let (cause, may_write) =
                settle(session, engine, subject, layer, cause, progress.has_moved(), facts.diagnosis.take())
                    .await;
            let max_retries = max_retries(session, subject, cause.class(), progress, is_silent);
            return Err(AttemptError::Retryable { cause, max_retries, may_write });
        }
        match end {
            Ok(StreamEnd::Properly) => {}
            Ok(StreamEnd::Diagnosed(cause)) => return Err(retryable(cause)),
            Ok(StreamEnd::Stalled) => {
                if is_waiting_for_slot(session, engine, subject, progress).await {
                    let reason = "the engine has not started this upload; other uploads occupy it".to_owned();
                    return Err(retryable(Cause::Engine { verdict: waiting(), reason }));
                }
                if facts.is_classic {
                    session.detours.borrow_mut().hangs(reference, blocked_before);
                }
                let reason = format!("no progress for {}", format_duration(session.options.stall_timeout));
                return Err(retryable(Cause::Engine { verdict: stalled(), reason }));
            }
            Err(EngineError::Answered { status, message }) => {
                let message = if message.trim().is_empty() { status.to_string() } else { message };
                return Err(retryable(refused(&message, Some(status.as_u16()))));
            }
            Err(error) => {
                let error = engine.explain(error).await;
                return Err(subject.engine_error(error).into());
            }
        }
        let tag = reference.tag_or_latest();
        let pushed = progress.pushed.iter().find(|pushed| pushed.tag == tag);
        let descriptor = match pushed.map(|pushed| Descriptor::new(pushed.digest.clone(), pushed.size)) {
            Some(descriptor) => descriptor,
            None => confirm(session, engine, subject, log).await.ok_or_else(|| PushError::Unconfirmed {
                reference: reference.familiar(),
                tag: tag.to_owned(),
            })?,
        };
        Ok(Uploaded { descriptor, narrowed: facts.narrowed })
    }

    /// Removes the local tag with another spelling of the registry's name, if the attempt added such a tag.
    pub async fn clean_up(&mut self, session: &Session<'_>, engine: &mut Engine, log: &mut ImageLog<'_>) {
        if let Some(tag) = self.detour.take() {
            untag(session, engine, tag, log).await;
        }
    }

    /// Adds a local tag with another spelling of the registry's name, if an upload that hangs in the engine blocks
    /// pushes under the usual name.
    async fn take_a_detour(
        &mut self,
        session: &Session<'_>,
        engine: &mut Engine,
        subject: &Subject<'_>,
        log: &ImageLog<'_>,
    ) -> Result<(), PushError> {
        let reference = subject.reference;
        let (name, avoids_mounts) = {
            let detours = session.detours.borrow();
            (detours.name(reference), detours.avoids_mounts(reference))
        };
        let Some(name) = name else { return Ok(()) };
        let is_free = match engine.inspect(&name.canonical()).await {
            Err(EngineError::Answered { status, .. }) => status == StatusCode::NOT_FOUND,
            Err(error @ EngineError::Transport(_)) => return Err(subject.engine_error(error)),
            _ => false,
        };
        if !is_free {
            let name = name.familiar();
            log.note(&format!("not pushing under the spelling {name}: a local image has that name"));
            return Ok(());
        }
        let own = reference.canonical();
        let naming = session.naming.lock().await;
        let tagged = match engine.inspect(&own).await {
            Ok(image) => engine.tag(&own, &image.id, &name, None).await,
            Err(error) => Err(error),
        };
        drop(naming);
        match tagged {
            Ok(tag) => {
                let names = (reference.familiar_repository(), name.familiar_repository());
                log.note(&if avoids_mounts {
                    format!("pushing under another name, {}, for which the engine mounts no layers", names.1)
                } else {
                    format!(
                        "an earlier upload to {} hangs in the engine; pushing under another spelling, {}",
                        names.0, names.1
                    )
                });
                self.detour = Some(tag);
                Ok(())
            }
            Err(error @ EngineError::Transport(_)) => Err(subject.engine_error(error)),
            // If the engine cannot add the tag, the attempt uses the registry's usual name.
            Err(_) => Ok(()),
        }
    }

    /// Sends the push request, and reads the engine's stream until the push finishes or stalls.
    async fn follow(
        &self,
        session: &Session<'_>,
        engine: &mut Engine,
        subject: &Subject<'_>,
        log: &mut ImageLog<'_>,
        facts: &mut StreamFacts,
        mut on_event: impl FnMut(&Event),
    ) -> Result<StreamEnd, EngineError> {
        let request = PushRequest {
            reference: self.detour.as_ref().map_or(subject.reference, |tag| &tag.name),
            credentials: &subject.active.credentials,
            platform: subject.platform,
            wants_objects: log.reporter.wants_objects(),
        };
        let limit = session.options.stall_timeout;
        let mut watchdog = Watchdog::new(limit, Instant::now());
        let mut deadline: Option<Instant> = None;
        // The engine may be slow to respond, since the engine resolves the registry's host name first.
        let answered = async { Some(engine.push(&request).await) };
        let Some(stream) = (tokio::select! {
            stream = answered => stream,
            () = until(Some(watchdog.deadline(&log.record.progress)).filter(|_| !limit.is_zero())) => None,
        }) else {
            return Err(EngineError::Silent { endpoint: engine.endpoint() });
        };
        let mut stream = stream?;
        // The diagnosis starts when the engine reports a retry for the first time.
        let mut diagnosis = None;
        facts.is_silent = stream.is_silent;
        let is_watched = !stream.is_silent && !limit.is_zero();
        loop {
            let stalls =
                Some(stall_deadline(session, &watchdog, &log.record.progress)).filter(|_| is_watched);
            let goes_on = tokio::select! {
                // Poll the stream before the stall timeout. After a suspension of the plugin's process, data may have
                // arrived although the timeout has passed.
                biased;
                () = until(deadline) => false,
                more = stream.next(|event| {
                    let has_changed = log.record_event(&event);
                    facts.apply(&event);
                    watchdog.saw(&event, has_changed, Instant::now());
                    record_movement(session, &event, has_changed);
                    on_event(&event);
                }) => more?,
                found = finished(&mut diagnosis) => {
                    diagnosis = None;
                    match Diagnosis::into_final_cause(found) {
                        Ok(cause) => {
                            stop(engine, stream, log).await;
                            return Ok(StreamEnd::Diagnosed(cause));
                        }
                        Err(found) => facts.diagnosis = Some(found),
                    }
                    continue;
                }
                () = until(stalls) => {
                    // Another push may have moved since the wait began.
                    if stall_deadline(session, &watchdog, &log.record.progress) > Instant::now() {
                        continue;
                    }
                    stop(engine, stream, log).await;
                    return Ok(StreamEnd::Stalled);
                }
            };
            if facts.is_retrying && diagnosis.is_none() && facts.diagnosis.is_none() {
                let layer = size_to_probe(&log.record.progress, facts.is_classic);
                diagnosis = Some(Box::pin(diagnose(session, engine.fork(), subject, layer)));
            }
            if !goes_on {
                // A diagnosis that is dropped would not cancel its upload.
                if diagnosis.is_some() {
                    facts.diagnosis = Some(finished(&mut diagnosis).await);
                }
                return Ok(StreamEnd::Properly);
            }
            if facts.refusal.is_some() && deadline.is_none() {
                deadline = Some(Instant::now() + AFTER_REFUSAL);
            }
        }
    }
}

/// Records the time at which an upload moved, for all pushes.
pub fn record_movement(session: &Session<'_>, event: &Event, has_changed: bool) {
    let is_movement = |state: &LayerState| matches!(state, LayerState::Pushing { .. } | LayerState::Pushed);
    if has_changed && matches!(event, Event::Layer { state, .. } if is_movement(state)) {
        session.last_movement.set(Instant::now());
    }
}

/// Returns the time at which a push counts as stalled. A push that has sent nothing may wait for an upload slot of the
/// engine, so the push does not count as stalled while the engine sends layers of other pushes.
pub fn stall_deadline(session: &Session<'_>, watchdog: &Watchdog, progress: &Progress) -> Instant {
    let own = watchdog.deadline(progress);
    if progress.has_begun_nothing() {
        own.max(session.last_movement.get() + session.options.stall_timeout)
    } else {
        own
    }
}

/// Returns whether a push stalled since other programs occupy the engine's upload slots: the engine has begun no layer,
/// although the registry accepts uploads, and no upload of this run of the plugin hangs.
async fn is_waiting_for_slot(
    session: &Session<'_>,
    engine: &Engine,
    subject: &Subject<'_>,
    progress: &Progress,
) -> bool {
    progress.has_begun_nothing()
        && !progress.layers().is_empty()
        && !session.detours.borrow().has_hanging()
        && matches!(diagnose(session, engine.fork(), subject, None).await, Diagnosis::Healthy)
}

/// Stops a push, and tells the user if the engine does not confirm it.
pub async fn stop(engine: &mut Engine, stream: PushStream, log: &ImageLog<'_>) {
    if !engine.stop(stream).await {
        log.note("the engine did not confirm that it stopped the push");
    }
}

/// Returns the size in bytes for which a diagnosis checks whether the registry accepts a layer of this size.
fn size_to_probe(progress: &Progress, is_classic: bool) -> Option<u64> {
    let size = progress.largest_unfinished_layer()?;
    // The classic store reports the size of the uncompressed layer, and sends the compressed layer.
    Some(if is_classic { size / 2 } else { size })
}

/// Waits for a future; forever if there is none.
pub async fn finished<T>(future: &mut Option<Pin<Box<impl Future<Output = T>>>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Replaces the cause of a failure with the registry's own response, if the engine's message may hide the cause. Also
/// returns whether the registry accepts an upload of this account.
///
/// * `known`: the result of a diagnosis during the push.
async fn settle(
    session: &Session<'_>,
    engine: &mut Engine,
    subject: &Subject<'_>,
    layer: Option<u64>,
    cause: Cause,
    has_moved: bool,
    known: Option<Diagnosis>,
) -> (Cause, bool) {
    let verdict = cause.verdict();
    // The registry accepted the credentials before it received layer data, so a token may have expired.
    let may_be_expired = has_moved && verdict.class == Class::Auth && verdict.can_prompt;
    if !verdict.is_unsettled && !may_be_expired {
        return (cause, false);
    }
    let diagnosis = match known {
        Some(diagnosis) => diagnosis,
        None => diagnose(session, engine.fork(), subject, layer).await,
    };
    match diagnosis {
        // If both say that credentials are required, the engine's message has the hint with all ways to pass them.
        diagnosis if diagnosis.requires_credentials() && cause.class() == Class::Auth => (cause, false),
        Diagnosis::Refused(error) => (Cause::Registry(error), false),
        Diagnosis::Healthy => (cause, true),
        Diagnosis::Unknown => (cause, false),
    }
}

/// Returns how many more attempts can help after a failure of the given class.
fn max_retries(
    session: &Session<'_>,
    subject: &Subject<'_>,
    class: Class,
    progress: &Progress,
    is_silent: bool,
) -> u32 {
    match class {
        Class::Stalled => session.detours.borrow().left(subject.reference).unwrap_or(u32::MAX),
        // The engine itself has retried for nearly a minute. podman retries for up to two minutes, and reports no
        // retries.
        _ if progress.was_retried_in_vain() || (is_silent && class == Class::RateLimited) => 1,
        _ => u32::MAX,
    }
}

/// Confirms a push with the registry if the engine reported no digest. Returns the descriptor that the tag names in
/// the registry, if the engine's image has the same digest.
///
/// Docker 24 with the containerd store reports no digest. podman before version 3 reports nothing at all.
async fn confirm(
    session: &Session<'_>,
    engine: &mut Engine,
    subject: &Subject<'_>,
    log: &mut ImageLog<'_>,
) -> Option<Descriptor> {
    let asked = async {
        let named = session.pool.resolve(engine, subject).await.ok()??;
        let own = inspect(engine, subject).await.ok()?;
        Some(named).filter(|named| own.has_digest(&named.digest))
    };
    let named = tokio::time::timeout(CONFIRMATION, asked).await.ok()??;
    log.record.verified = Some(true);
    log.note("the engine reported no digest; the registry confirmed the image");
    Some(named)
}

pub async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_first_refusal() {
        let mut facts = StreamFacts::default();
        for message in ["denied", "later"] {
            facts.apply(&Event::Refused { message: message.to_owned() });
        }
        assert_eq!(facts.refusal.as_deref(), Some("denied"));
    }
}
