//! Uploads an image through the relay: the engine pushes to the plugin, and the plugin to the registry.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::cli::RelayMode;
use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::engine::push::{PushRequest, PushStream};
use crate::engine::tag::TemporaryTag;
use crate::event::{Event, LayerState};
use crate::failure::Class;
use crate::oci::Descriptor;
use crate::present::presenter::Update;
use crate::progress::Progress;
use crate::push::error::{AttemptError, Cause, PushError};
use crate::push::naming::untag;
use crate::push::outcome::{ImageLog, Uploaded};
use crate::push::session::Session;
use crate::push::subject::{Subject, inspect_all};
use crate::push::upload::stream::{
    AFTER_REFUSAL, AttemptLog, StreamFacts, finished, no_progress, stop, until,
};
use crate::reference::Reference;
use crate::relay::job::{Job, Settings};
use crate::relay::reach::{self, Obstacle, Unreachable};
use crate::relay::{Relay, address, leftover};

/// The time between two updates of the progress.
const TICK: Duration = Duration::from_millis(100);

/// The route that uploads an image through the relay.
#[derive(Default)]
pub struct RelayUpload {
    /// The relay, from the first attempt to the end of the push.
    open: Option<Box<Open>>,
    /// The upload has started again because of a limit of the registry. This happens once.
    has_restarted: bool,
}

/// The reason why an image cannot go through the relay.
pub enum OpenError {
    /// The engine cannot use the relay.
    Unusable(Obstacle),
    Failed(AttemptError),
}

impl From<PushError> for OpenError {
    fn from(error: PushError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<String> for OpenError {
    fn from(reason: String) -> Self {
        Self::Unusable(Obstacle { reason, hint: None })
    }
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

/// The reason why the plugin stopped following a push.
enum End {
    /// The push has failed; or the engine's stream ended, and the registry has stored everything.
    Over,
    Stalled,
}

impl RelayUpload {
    /// Opens the relay for an image.
    ///
    /// # Errors
    /// The engine cannot use the relay.
    pub async fn open(
        session: &Session<'_>,
        engine: &mut Engine,
        subject: &Subject<'_>,
        log: &mut ImageLog<'_>,
    ) -> Result<Self, OpenError> {
        let open = Some(open(session, engine, subject, log).await?);
        Ok(Self { open, has_restarted: false })
    }

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
        let option = session.options.relay_wanted_by().unwrap_or("--relay auto");
        let unusable = |Obstacle { reason, hint }| {
            AttemptError::from(PushError::NoRelay { reference: reference.familiar(), option, reason, hint })
        };
        if self.open.as_ref().is_some_and(|open| open.relay.has_lost_forward()) {
            self.clean_up(session, engine, log).await;
        }
        if self.open.is_none() {
            let opened = open(session, engine, subject, log).await;
            self.open = Some(opened.map_err(|error| match error {
                OpenError::Unusable(obstacle) => unusable(obstacle),
                OpenError::Failed(error) => error,
            })?);
        }
        let registry = session.pool.registry(engine, subject).await;
        let registry = registry.map_err(|error| subject.attempt_error(error))?;
        let open = self.open.as_ref().expect("opened above");
        let options = session.options;
        let settings = Settings {
            retries: options.retries,
            mount_sources: open.mount_sources.clone(),
            rate: session.rate.clone(),
            chunk_size: options.chunk_size,
        };
        let job = Job::new(registry, reference, settings);
        let job = job.map_err(|error| subject.attempt_error(error.into()))?;
        log.reporter.show(&Update::Push);
        let mut facts = StreamFacts::default();
        // The progress of the layers as the engine reports it. The record has the progress at the registry.
        let mut engine_progress = Progress::default();
        let attempt = AttemptLog::new(session, log, &mut on_event);
        let end = follow(engine, subject, open, &job, attempt, &mut facts, &mut engine_progress).await;
        job.notes().iter().for_each(|note| log.note(note));
        if let Some(failure) = job.take_failure() {
            if failure.can_retry_in_chunks() && !self.has_restarted {
                self.has_restarted = true;
                log.note(&format!("{}; starting the upload again, in chunks", failure.error));
                log.record.attempts += 1;
                return Box::pin(self.upload(session, engine, subject, log, on_event)).await;
            }
            // The relay has already repeated the request.
            let max_retries = if failure.can_retry { u32::MAX } else { 0 };
            let cause = Cause::Registry(Box::new(failure.error));
            return Err(AttemptError::Retryable { cause, max_retries, may_write: false });
        }
        let refused = |message: &str, status| {
            // The temporary name means nothing to users.
            let message = message.replace(open.name.domain(), reference.domain());
            let cause = facts.cause(&message, status, &engine_progress, true, &reference.repository());
            let is_about_way = matches!(cause.class(), Class::Network | Class::Tls | Class::Other);
            if is_about_way && !job.guard.was_reached() {
                let address = open.name.domain();
                let reason = cause.reason().replace(reference.domain(), address);
                let reason = format!("the engine cannot reach the plugin at {address}: {reason}");
                return unusable(Obstacle { reason, hint: None });
            }
            AttemptError::from(cause)
        };
        if let Some(message) = &facts.refusal {
            return Err(refused(message, None));
        }
        match end {
            Ok(End::Over) => {}
            Ok(End::Stalled) => return Err(no_progress(session.options.stall_timeout).into()),
            Err(EngineError::Answered { status, message }) => return Err(refused(&message, Some(status))),
            Err(error) => return Err(subject.engine_error(engine.explain(error).await).into()),
        }
        let tag = reference.tag_or_latest();
        let stored = job.manifest(tag);
        let descriptor = stored
            .ok_or_else(|| PushError::Unconfirmed { reference: reference.familiar(), tag: tag.to_owned() })?;
        job.cancel_unused_upload().await;
        let Descriptor { digest, size, .. } = descriptor.clone();
        let event = Event::Pushed { tag: tag.to_owned(), digest, size };
        log.record_event(&event);
        on_event(&event);
        Ok(Uploaded { descriptor, narrowed: facts.narrowed })
    }

    /// Stops listening, and removes the temporary name.
    pub async fn clean_up(&mut self, session: &Session<'_>, engine: &mut Engine, log: &mut ImageLog<'_>) {
        let Some(open) = self.open.take() else { return };
        let Open { relay, tag, .. } = *open;
        if let Some(tag) = tag {
            untag(session, engine, tag, log).await;
        }
        if relay.is_forwarded() {
            // The next image needs no other login.
            session.forwarded.borrow_mut().push(relay);
        }
    }
}

/// Listens on a loopback address that the engine can reach.
///
/// * `preferred`: the address to use, if it is free.
async fn listen(
    session: &Session<'_>,
    engine: &mut Engine,
    subject: &Subject<'_>,
    log: &mut ImageLog<'_>,
    preferred: SocketAddr,
) -> Result<Relay, OpenError> {
    let endpoint = engine.endpoint();
    if !endpoint.address.is_here() && session.options.relay != RelayMode::Always {
        return Err(OpenError::Unusable(Obstacle {
            reason: format!("the engine is on another machine ({endpoint})"),
            hint: Some("pass `--relay always` to upload its images through this machine".to_owned()),
        }));
    }
    let idle = session.forwarded.borrow_mut().pop();
    if let Some(relay) = idle.filter(Relay::is_forwarded) {
        return Ok(relay);
    }
    let listening = reach::listen(preferred, engine, &session.reach).await;
    let (relay, warning) = listening.map_err(|error| match error {
        Unreachable::Obstacle(obstacle) => OpenError::Unusable(obstacle),
        Unreachable::Engine(error) => subject.engine_error(error).into(),
    })?;
    if let Some(warning) = warning {
        log.warn(warning);
    }
    Ok(relay)
}

/// Listens on a loopback address, and gives the image a temporary name there.
async fn open(
    session: &Session<'_>,
    engine: &mut Engine,
    subject: &Subject<'_>,
    log: &mut ImageLog<'_>,
) -> Result<Box<Open>, OpenError> {
    let reference = subject.reference;
    let directory = session.keyring.config.path.parent().unwrap_or(Path::new("."));
    let naming = session.naming.lock().await;
    leftover::remove_old(directory, engine).await;
    drop(naming);
    let mut preferred = address::preferred(&address::user(), reference.domain());
    loop {
        let relay = listen(session, engine, subject, log, preferred).await?;
        let image = inspect_all(engine, subject).await;
        let image = image.map_err(|error| OpenError::Failed(subject.attempt_error(error)))?;
        let name = format!("{}/{}:{}", relay.domain(), reference.path(), reference.tag_or_latest());
        let name: Reference = name.parse().map_err(|error| format!("`{name}`: {error}"))?;
        let mount_sources = mount_sources(&image.repositories, reference);
        match engine.inspect(&name.canonical()).await {
            Err(EngineError::Answered { status: StatusCode::NOT_FOUND, .. }) => {}
            Err(error) => return Err(subject.engine_error(error).into()),
            Ok(own) if own.id == image.id => {
                return Ok(Box::new(Open { relay, name, tag: None, mount_sources }));
            }
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
        let record = leftover::record(directory, engine, &name, &image.id, relay.address());
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
        return Ok(Box::new(Open { relay, name, tag: Some(tag), mount_sources }));
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
async fn follow(
    engine: &mut Engine,
    subject: &Subject<'_>,
    open: &Open,
    job: &Arc<Job>,
    mut attempt: AttemptLog<'_, '_, impl FnMut(&Event)>,
    facts: &mut StreamFacts,
    engine_progress: &mut Progress,
) -> Result<End, EngineError> {
    let credentials = job.guard.credentials();
    let request = PushRequest {
        reference: &open.name,
        credentials: &credentials,
        platform: subject.platform,
        wants_objects: attempt.log.reporter.wants_objects(),
    };
    let mut pushing = Some(Box::pin(engine.push(&request)));
    let mut stream: Option<PushStream> = None;
    // Declared after `pushing` and `stream`, so that the engine's connections close first if this future is dropped.
    let server = open.relay.serve(job);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut deadline: Option<Instant> = None;
    let end = loop {
        let stalls = stall_deadline(&attempt, job);
        tokio::select! {
            biased;
            () = job.failed() => break End::Over,
            () = until(deadline) => break End::Over,
            answer = finished(&mut pushing) => {
                pushing = None;
                stream = Some(answer?);
            }
            more = next(&mut stream, |event| {
                facts.apply(&event);
                report(&event, engine_progress.apply(&event), open, &mut attempt);
            }) => {
                if !more? {
                    stream = None;
                    if facts.refusal.is_some() {
                        break End::Over;
                    }
                }
            }
            () = job.settled(), if pushing.is_none() && stream.is_none() => break End::Over,
            _ = ticks.tick() => job.layers.changes().iter().for_each(|event| attempt.report(event)),
            () = until(stalls) => {
                // A blob may have moved since the last tick.
                job.layers.changes().iter().for_each(|event| attempt.report(event));
                if stall_deadline(&attempt, job) <= Some(Instant::now()) {
                    break End::Stalled;
                }
            }
        }
        if facts.refusal.is_some() && deadline.is_none() {
            deadline = Some(Instant::now() + AFTER_REFUSAL);
        }
    };
    job.layers.changes().iter().for_each(|event| attempt.report(event));
    // Close the engine's connections before its push request, so that the engine sees no failure that it would retry.
    drop(server);
    drop(pushing);
    if let Some(stream) = stream {
        stop(engine, stream, attempt.log).await;
    }
    Ok(end)
}

/// Returns the time at which the push counts as stalled; `None`: never. A request that waits as long as the registry demands
/// is not stalled.
fn stall_deadline(attempt: &AttemptLog<'_, '_, impl FnMut(&Event)>, job: &Job) -> Option<Instant> {
    let own = attempt.stall_deadline()?;
    let waits_until = job.waits_until().map(|until| until + attempt.session.options.stall_timeout);
    waits_until.max(Some(own))
}

/// Waits for more of the engine's stream; forever if there is no stream.
async fn next(stream: &mut Option<PushStream>, on_event: impl FnMut(Event)) -> Result<bool, EngineError> {
    match stream {
        Some(stream) => stream.next(on_event).await,
        None => std::future::pending().await,
    }
}

/// Reports an event of the engine's stream. Only the states of layers that the engine does not send are reported, since the
/// relay reports the others.
///
/// * `has_changed`: the event changed the progress of the engine.
fn report(
    event: &Event,
    has_changed: bool,
    open: &Open,
    attempt: &mut AttemptLog<'_, '_, impl FnMut(&Event)>,
) {
    match event {
        Event::Layer {
            state: LayerState::AlreadyExists | LayerState::MountedFrom(_) | LayerState::SkippedForeign,
            ..
        } => attempt.report(event),
        // The engine may compress a layer before it sends data.
        Event::Layer { .. } if has_changed => attempt.saw_work(),
        Event::Note { text } if text.contains(open.name.domain()) => {}
        Event::Note { .. } | Event::Object { .. } => attempt.report(event),
        // The facts have these, and the registry may not have stored a pushed manifest so far.
        Event::Layer { .. }
        | Event::Pushed { .. }
        | Event::Refused { .. }
        | Event::ContentMissing
        | Event::PlatformInsteadOfIndex(_) => {}
    }
}
