//! Uploads an image with the engine's push request, and detects stalls.

use std::time::Duration;

use hyper::StatusCode;
use tokio::time::Instant;

use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::engine::push::PushRequest;
use crate::engine::tag::TemporaryTag;
use crate::event::Event;
use crate::failure::{Class, stalled, waiting};
use crate::oci::Descriptor;
use crate::present::presenter::Update;
use crate::progress::Progress;
use crate::push::diagnose::{Diagnosis, diagnose};
use crate::push::error::{AttemptError, Cause, PushError};
use crate::push::naming::untag;
use crate::push::outcome::{ImageLog, Uploaded};
use crate::push::session::Session;
use crate::push::subject::{Subject, inspect};
use crate::push::upload::stream::{
    AFTER_REFUSAL, AttemptLog, StreamFacts, finished, no_progress, stop, until,
};

/// The timeout for the registry to confirm a push for which the engine reported no digest.
const CONFIRMATION: Duration = Duration::from_secs(30);

/// The route that uploads an image through the engine.
#[derive(Default)]
pub struct EngineUpload {
    /// The local tag with another spelling of the registry's name, if an upload under the usual name hangs in the
    /// engine.
    detour: Option<TemporaryTag>,
    /// The push has tried to change to the relay.
    pub has_tried_relay: bool,
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
    /// Returns the upload of a push that cannot use the relay.
    pub fn without_relay() -> Self {
        Self { has_tried_relay: true, ..Self::default() }
    }

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
        let credentials_sent = !subject.active.credentials.is_anonymous();
        let refused =
            |message: &str, status| facts.cause(message, status, progress, credentials_sent, &repository);
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
                return Err(retryable(no_progress(session.options.stall_timeout)));
            }
            Err(EngineError::Answered { status, message }) => {
                return Err(retryable(refused(&message, Some(status))));
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
        on_event: impl FnMut(&Event),
    ) -> Result<StreamEnd, EngineError> {
        let request = PushRequest {
            reference: self.detour.as_ref().map_or(subject.reference, |tag| &tag.name),
            credentials: &subject.active.credentials,
            platform: subject.platform,
            wants_objects: log.reporter.wants_objects(),
        };
        let mut attempt = AttemptLog::new(session, log, on_event);
        let mut deadline: Option<Instant> = None;
        // The engine may be slow to respond, since the engine resolves the registry's host name first.
        let answered = async { Some(engine.push(&request).await) };
        let Some(stream) = (tokio::select! {
            stream = answered => stream,
            () = until(attempt.stall_deadline()) => None,
        }) else {
            return Err(EngineError::Silent { endpoint: engine.endpoint() });
        };
        let mut stream = stream?;
        // The diagnosis starts when the engine reports a retry for the first time.
        let mut diagnosis = None;
        facts.is_silent = stream.is_silent;
        let is_watched = !stream.is_silent;
        loop {
            let stalls = attempt.stall_deadline().filter(|_| is_watched);
            let goes_on = tokio::select! {
                // Poll the stream before the stall timeout. After a suspension of the plugin's process, data may have
                // arrived although the timeout has passed.
                biased;
                () = until(deadline) => false,
                more = stream.next(|event| {
                    facts.apply(&event);
                    attempt.report(&event);
                }) => more?,
                found = finished(&mut diagnosis) => {
                    diagnosis = None;
                    match Diagnosis::into_final_cause(found) {
                        Ok(cause) => {
                            stop(engine, stream, attempt.log).await;
                            return Ok(StreamEnd::Diagnosed(cause));
                        }
                        Err(found) => facts.diagnosis = Some(found),
                    }
                    continue;
                }
                () = until(stalls) => {
                    // Another push may have moved since the wait began.
                    if attempt.stall_deadline() > Some(Instant::now()) {
                        continue;
                    }
                    stop(engine, stream, attempt.log).await;
                    return Ok(StreamEnd::Stalled);
                }
            };
            if facts.is_retrying && diagnosis.is_none() && facts.diagnosis.is_none() {
                let layer = size_to_probe(&attempt.log.record.progress, facts.is_classic);
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

/// Returns the size in bytes for which a diagnosis checks whether the registry accepts a layer of this size.
fn size_to_probe(progress: &Progress, is_classic: bool) -> Option<u64> {
    let size = progress.largest_unfinished_layer()?;
    // The classic store reports the size of the uncompressed layer, and sends the compressed layer.
    Some(if is_classic { size / 2 } else { size })
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
