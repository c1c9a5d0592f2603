//! Uploads an image through the relay: the engine pushes to the plugin, and the plugin to the registry.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use humantime::format_duration;
use hyper::StatusCode;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::engine::push::{PushRequest, PushStream};
use crate::engine::tag::TemporaryTag;
use crate::event::{Event, LayerState, Narrowed};
use crate::failure::{Class, Evidence, classify, stalled};
use crate::oci::Descriptor;
use crate::present::presenter::Update;
use crate::progress::Progress;
use crate::push::error::{AttemptError, Cause, PushError};
use crate::push::naming::untag;
use crate::push::outcome::{ImageLog, Uploaded};
use crate::push::session::Session;
use crate::push::subject::{Subject, inspect_all};
use crate::push::upload::engine::{AFTER_REFUSAL, finished, record_movement, stall_deadline, stop, until};
use crate::push::upload::watchdog::Watchdog;
use crate::reference::Reference;
use crate::relay::job::Job;
use crate::relay::{Relay, address, leftover};
use crate::text::one_line;

/// The time between two updates of the progress.
const TICK: Duration = Duration::from_millis(100);

/// The route that uploads an image through the relay.
#[derive(Default)]
pub struct RelayUpload {
    /// The relay, from the first attempt to the end of the push.
    open: Option<Open>,
}

struct Open {
    relay: Relay,
    /// The name under which the engine pushes the image to the relay.
    name: Reference,
    /// The temporary tag with this name. `None`: the image had this name before.
    tag: Option<TemporaryTag>,
    /// Other repositories of the registry that have the image.
    mount_sources: Vec<String>,
}

/// Facts from the engine's stream.
#[derive(Default)]
struct Facts {
    /// The raw message of the first refusal.
    refusal: Option<String>,
    content_missing: bool,
    narrowed: Option<Narrowed>,
    /// The progress of the layers as the engine reports it.
    progress: Progress,
}

/// The reason why the plugin stopped following a push.
enum End {
    /// The engine's stream ended and the registry has stored everything, or the engine has reported a refusal.
    Finished,
    /// The job has failed.
    Failed,
    Stalled,
}

impl RelayUpload {
    /// Makes one attempt to upload the image. See `Route::upload`.
    pub async fn upload(
        &mut self,
        session: &Session<'_>,
        engine: &mut Engine,
        subject: &Subject<'_>,
        log: &mut ImageLog<'_>,
        mut on_event: impl FnMut(&Event),
    ) -> Result<Uploaded, AttemptError> {
        let reference = subject.reference;
        let unusable = |reason: String| PushError::NoRelay { reference: reference.familiar(), reason };
        if !engine.endpoint().address.is_here() {
            let endpoint = engine.endpoint();
            return Err(unusable(format!("the engine is on another machine ({endpoint})")).into());
        }
        let registry = session.pool.registry(engine, subject).await;
        let registry = registry.map_err(|error| subject.attempt_error(error))?;
        if self.open.is_none() {
            self.open = Some(open(session, engine, subject, log).await?);
        }
        let open = self.open.as_ref().expect("opened above");
        let job = Job::new(registry, reference, session.options.retries, open.mount_sources.clone());
        let job = job.map_err(|error| subject.attempt_error(error.into()))?;
        log.reporter.show(&Update::Push);
        let mut facts = Facts::default();
        let end = follow(session, engine, subject, open, &job, log, &mut facts, &mut on_event).await;
        job.notes().iter().for_each(|note| log.note(note));
        if let Some(failure) = job.take_failure() {
            // The relay has already repeated the request.
            let max_retries = if failure.can_retry { u32::MAX } else { 0 };
            let cause = Cause::Registry(Box::new(failure.error));
            return Err(AttemptError::Retryable { cause, max_retries, may_write: false });
        }
        let refused = |message: &str, http_status| {
            // The temporary name means nothing to users.
            let shown = one_line(&message.replace(open.name.domain(), reference.domain()));
            let verdict = classify(&Evidence {
                http_status,
                content_missing: facts.content_missing,
                has_foreign_layers: facts.progress.has_foreign_layers(),
                phase: facts.progress.phase(),
                repository: &open.name.repository(),
                ..Evidence::of_text(message, true)
            });
            let is_about_way = matches!(verdict.class, Class::Network | Class::Tls | Class::Other);
            if is_about_way && !job.was_reached() {
                return AttemptError::from(unusable(format!(
                    "the engine cannot reach the plugin at {}: {}",
                    open.name.domain(),
                    one_line(message)
                )));
            }
            Cause::Engine { verdict: verdict.uncancelled(), reason: shown }.into()
        };
        if let Some(message) = &facts.refusal {
            return Err(refused(message, None));
        }
        match end {
            Ok(End::Finished | End::Failed) => {}
            Ok(End::Stalled) => {
                let reason = format!("no progress for {}", format_duration(session.options.stall_timeout));
                return Err(Cause::Engine { verdict: stalled(), reason }.into());
            }
            Err(EngineError::Answered { status, message }) => {
                let message = if message.trim().is_empty() { status.to_string() } else { message };
                return Err(refused(&message, Some(status.as_u16())));
            }
            Err(error) => return Err(subject.engine_error(engine.explain(error).await).into()),
        }
        let tag = reference.tag_or_latest();
        let stored = job.manifest(tag).map(|manifest| manifest.descriptor);
        let descriptor = stored
            .ok_or_else(|| PushError::Unconfirmed { reference: reference.familiar(), tag: tag.to_owned() })?;
        job.cancel_unused_uploads().await;
        let Descriptor { digest, size, .. } = descriptor.clone();
        let event = Event::Pushed { tag: tag.to_owned(), digest, size };
        log.record_event(&event);
        on_event(&event);
        Ok(Uploaded { descriptor, narrowed: facts.narrowed })
    }

    /// Stops listening, and removes the temporary name.
    pub async fn clean_up(&mut self, session: &Session<'_>, engine: &mut Engine, log: &mut ImageLog<'_>) {
        if let Some(Open { tag: Some(tag), .. }) = self.open.take() {
            untag(session, engine, tag, log).await;
        }
    }
}

/// Listens on a loopback address, and gives the image a temporary name there.
async fn open(
    session: &Session<'_>,
    engine: &mut Engine,
    subject: &Subject<'_>,
    log: &mut ImageLog<'_>,
) -> Result<Open, AttemptError> {
    let reference = subject.reference;
    let directory = session.keyring.config.path.parent().unwrap_or(Path::new("."));
    let naming = session.naming.lock().await;
    leftover::remove_old(directory, engine).await;
    drop(naming);
    let image = inspect_all(engine, subject).await.map_err(|error| subject.attempt_error(error))?;
    let mut preferred = address::preferred(&address::user(), reference.domain());
    loop {
        let relay = Relay::listen(preferred).await.map_err(|error| PushError::NoRelay {
            reference: reference.familiar(),
            reason: format!("cannot listen on {}: {error}", preferred.ip()),
        })?;
        let name = format!("{}/{}:{}", relay.domain(), reference.path(), reference.tag_or_latest());
        let name: Reference = name.parse().map_err(|error| PushError::NoRelay {
            reference: reference.familiar(),
            reason: format!("`{name}`: {error}"),
        })?;
        let mount_sources = mount_sources(&image.repositories, reference);
        match engine.inspect(&name.canonical()).await {
            Err(EngineError::Answered { status: StatusCode::NOT_FOUND, .. }) => {}
            Err(error) => return Err(subject.engine_error(error).into()),
            Ok(own) if own.id == image.id => return Ok(Open { relay, name, tag: None, mount_sources }),
            // Another image has this name. Another port makes another name.
            Ok(_) if preferred.port() != 0 => {
                preferred = SocketAddr::from((preferred.ip(), 0));
                continue;
            }
            Ok(other) => {
                let (found, id) = (other.id, image.id);
                return Err(PushError::Taken { reference: name.familiar(), found, id }.into());
            }
        }
        let record = leftover::record(directory, engine, &name, &image.id);
        if let Err(error) = &record {
            log.note(&format!(
                "cannot record the temporary name {} in `{}`: {error}",
                name.familiar(),
                directory.display()
            ));
        }
        let naming = session.naming.lock().await;
        let tag = engine.tag(subject.local_name, &image.id, &name, record.ok()).await;
        drop(naming);
        let tag = tag.map_err(|error| subject.engine_error(error))?;
        session.added_tags.borrow_mut().insert(name.canonical());
        return Ok(Open { relay, name, tag: Some(tag), mount_sources });
    }
}

/// Returns the paths of other repositories of the registry that have the image, from the engine's `RepoDigests`.
fn mount_sources(repositories: &[String], reference: &Reference) -> Vec<String> {
    /// More repositories than this would cost more requests than the mounts save.
    const MOST: usize = 2;
    let names = repositories.iter().filter_map(|name| name.parse::<Reference>().ok());
    let others = names.filter(|name| name.domain() == reference.domain() && name.path() != reference.path());
    others.take(MOST).map(|name| name.path().to_owned()).collect()
}

/// Sends the push request, and follows the push until the registry has stored the image, or until a failure.
#[expect(clippy::too_many_arguments, reason = "the parts of one attempt")]
async fn follow(
    session: &Session<'_>,
    engine: &mut Engine,
    subject: &Subject<'_>,
    open: &Open,
    job: &Arc<Job>,
    log: &mut ImageLog<'_>,
    facts: &mut Facts,
    on_event: &mut impl FnMut(&Event),
) -> Result<End, EngineError> {
    let limit = session.options.stall_timeout;
    let mut watchdog = Watchdog::new(limit, Instant::now());
    let credentials = job.credentials();
    let request = PushRequest {
        reference: &open.name,
        credentials: &credentials,
        platform: subject.platform,
        wants_objects: log.reporter.wants_objects(),
    };
    let mut pushing = Some(Box::pin(engine.push(&request)));
    let mut stream: Option<PushStream> = None;
    // Declared after `pushing` and `stream`, so that the engine's connections close first if this future is dropped.
    let server = open.relay.serve(job);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut deadline: Option<Instant> = None;
    let end = loop {
        // A request that waits as long as the registry demands is not stalled.
        let stalls = |log: &ImageLog<'_>, watchdog: &Watchdog| {
            let waits_until = job.waits_until().map(|until| until + limit);
            waits_until.max(Some(stall_deadline(session, watchdog, &log.record.progress)))
        };
        let deadline_of_stall = stalls(log, &watchdog).filter(|_| !limit.is_zero());
        let mut events = Vec::new();
        let has_stalled = tokio::select! {
            biased;
            () = job.failed() => break End::Failed,
            () = until(deadline) => break End::Finished,
            answer = finished(&mut pushing) => {
                pushing = None;
                stream = Some(answer?);
                false
            }
            more = next(&mut stream, |event| events.push(event)) => {
                if !more? {
                    stream = None;
                    if facts.refusal.is_some() {
                        break End::Finished;
                    }
                }
                false
            }
            () = job.settled(), if pushing.is_none() && stream.is_none() => {
                show(session, job, log, &mut watchdog, on_event);
                break if job.has_failed() { End::Failed } else { End::Finished };
            }
            _ = ticks.tick() => false,
            () = until(deadline_of_stall) => true,
        };
        for event in events {
            facts.apply(session, &event, open, log, &mut watchdog, on_event);
        }
        show(session, job, log, &mut watchdog, on_event);
        if has_stalled && stalls(log, &watchdog) <= Some(Instant::now()) {
            break End::Stalled;
        }
        if facts.refusal.is_some() && deadline.is_none() {
            deadline = Some(Instant::now() + AFTER_REFUSAL);
        }
    };
    // Close the engine's connections before its push request, so that the engine sees no failure that it would retry.
    drop(server);
    drop(pushing);
    if let Some(stream) = stream {
        stop(engine, stream, log).await;
    }
    Ok(end)
}

/// Waits for more of the engine's stream; forever if there is no stream.
async fn next(stream: &mut Option<PushStream>, on_event: impl FnMut(Event)) -> Result<bool, EngineError> {
    match stream {
        Some(stream) => stream.next(on_event).await,
        None => std::future::pending().await,
    }
}

/// Shows the changes of the blobs at the registry.
fn show(
    session: &Session<'_>,
    job: &Job,
    log: &mut ImageLog<'_>,
    watchdog: &mut Watchdog,
    on_event: &mut impl FnMut(&Event),
) {
    for event in job.layers.changes() {
        report(session, &event, log, watchdog, on_event);
    }
}

/// Shows and records an event.
fn report(
    session: &Session<'_>,
    event: &Event,
    log: &mut ImageLog<'_>,
    watchdog: &mut Watchdog,
    on_event: &mut impl FnMut(&Event),
) {
    let has_changed = log.record_event(event);
    record_movement(session, event, has_changed);
    watchdog.saw(event, has_changed, Instant::now());
    on_event(event);
}

impl Facts {
    /// Applies an event of the engine's stream. Only the states of layers that the engine does not send are shown, since
    /// the relay reports the others.
    fn apply(
        &mut self,
        session: &Session<'_>,
        event: &Event,
        open: &Open,
        log: &mut ImageLog<'_>,
        watchdog: &mut Watchdog,
        on_event: &mut impl FnMut(&Event),
    ) {
        let has_changed = self.progress.apply(event);
        match event {
            Event::Layer {
                state: LayerState::AlreadyExists | LayerState::MountedFrom(_) | LayerState::SkippedForeign,
                ..
            } => {
                report(session, event, log, watchdog, on_event);
            }
            Event::Layer { .. } => {
                // Progress of the engine, such as while it compresses a layer, resets the stall timer. The event stands for
                // any event that is not about a blob at the registry.
                watchdog.saw(&Event::ContentMissing, has_changed, Instant::now());
            }
            Event::Refused { message } => _ = self.refusal.get_or_insert_with(|| message.clone()),
            Event::ContentMissing => self.content_missing = true,
            Event::PlatformInsteadOfIndex(narrowed) => self.narrowed = Some(narrowed.clone()),
            // The registry may not have stored the manifest so far.
            Event::Pushed { .. } => {}
            Event::Note { text } if text.contains(open.name.domain()) => {}
            Event::Note { .. } | Event::Object { .. } => _ = log.record_event(event),
        }
    }
}
