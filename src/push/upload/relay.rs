//! Uploads an image through the relay: the engine pushes to the plugin, and the plugin to the registry.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use hyper::StatusCode;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::engine::Engine;
use crate::event::Event;
use crate::failure::Class;
use crate::oci::Descriptor;
use crate::present::presenter::Update;
use crate::push::error::{AttemptError, Cause, PushError};
use crate::push::outcome::{ImageLog, Uploaded};
use crate::push::session::Session;
use crate::push::subject::Subject;
use crate::push::upload::shared::{
    EngineEnd, EngineFailure, News, OpenError, Participant, SharedPush, check_reach,
};
use crate::push::upload::stream::{AttemptLog, no_progress, until};
use crate::relay::reach::Obstacle;
use crate::relay::upstream::{Failure, Upstream};

/// The time between two updates of the progress.
const TICK: Duration = Duration::from_millis(100);

/// The route that uploads an image through the relay.
#[derive(Default)]
pub struct RelayUpload {
    /// The part in a push by the engine to several registries, until a push to its registry has used it. `None`: the next push
    /// by the engine is for this registry alone.
    participant: Rc<RefCell<Option<Participant>>>,
    /// The image goes to several registries.
    is_of_several: bool,
    /// The earlier push by the engine to several registries.
    earlier: Option<Rc<SharedPush>>,
    /// The upload has started again because of a limit of the registry. This happens once.
    has_restarted: bool,
}

/// The reason why an upload has ended without success.
pub enum End {
    Failed(AttemptError),
    /// The registry gets the image in another push by the engine. The reason is for the user, if there is one.
    Alone(Option<String>),
    /// The upload may succeed in smaller requests.
    TooLarge(Cause),
}

impl<E: Into<AttemptError>> From<E> for End {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// The reason why the plugin stopped following a push.
pub enum Followed {
    /// The push has failed; or the engine's push ended, and the registry has stored everything.
    Over(Option<Rc<EngineEnd>>),
    Stalled,
}

impl RelayUpload {
    /// Returns the upload of a push that takes part in a push by the engine to several registries, unless another push to its
    /// registry has done so.
    pub fn at(participant: &Rc<RefCell<Option<Participant>>>) -> Self {
        Self { participant: Rc::clone(participant), is_of_several: true, ..Self::default() }
    }

    /// Returns an upload that begins after an earlier push by the engine has ended.
    pub fn after(earlier: &Rc<SharedPush>) -> Self {
        Self { earlier: Some(Rc::clone(earlier)), is_of_several: true, ..Self::default() }
    }

    /// Returns whether the image goes to several registries.
    pub fn is_of_several(&self) -> bool {
        self.is_of_several
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
        loop {
            // An engine that cannot use the relay needs no connection to the registry.
            let reach = check_reach(session, engine, subject).await;
            reach.map_err(|error| not_opened(session, subject, error))?;
            let registry = session.pool.registry(engine, subject).await;
            let registry = registry.map_err(|error| subject.attempt_error(error))?;
            let connect = |upstream: &Upstream| {
                upstream
                    .connect(registry, subject.reference)
                    .map_err(|error| subject.attempt_error(error.into()))
            };
            log.reporter.show(&Update::Push);
            let participant = self.participant.borrow_mut().take();
            let end = match participant {
                Some(participant) => {
                    self.earlier = Some(Rc::clone(participant.shared()));
                    receive(participant, connect, session, subject, log, &mut on_event).await
                }
                None => {
                    // Two pushes of one image at once would make the engine compress its layers twice.
                    if let Some(earlier) = self.earlier.take() {
                        if !earlier.is_cleaned_up() {
                            log.note("waiting until the engine has sent the image to the other registries");
                        }
                        earlier.cleaned_up().await;
                    }
                    let (shared, participants) = SharedPush::new(vec![subject.reference.clone()]);
                    let participant = participants.into_iter().next().expect("one for each reference");
                    let wants_objects = log.reporter.wants_objects();
                    let driving = shared.run(session, engine, subject, wants_objects);
                    let receiving = receive(participant, connect, session, subject, log, &mut on_event);
                    let ((), end) = join(driving, receiving).await;
                    shared.take_late().into_iter().for_each(|(level, line)| log.tell(level, line));
                    end
                }
            };
            match end {
                Ok(uploaded) => return Ok(uploaded),
                Err(End::Failed(error)) => return Err(error),
                Err(End::Alone(reason)) => {
                    if let Some(reason) = reason {
                        log.note(&format!("{reason}; the engine pushes the image again, for this registry"));
                    }
                }
                Err(End::TooLarge(cause)) if self.has_restarted => return Err(cause.into()),
                Err(End::TooLarge(cause)) => {
                    self.has_restarted = true;
                    log.note(&format!("{}; starting the upload again, in chunks", cause.reason()));
                }
            }
            log.record.attempts += 1;
        }
    }
}

/// Returns the error for an image that cannot go through the relay.
fn not_opened(session: &Session<'_>, subject: &Subject<'_>, error: OpenError) -> AttemptError {
    match error {
        OpenError::Unusable(obstacle) => unusable(session, subject, obstacle),
        OpenError::Failed(error) => error,
    }
}

/// Returns the error if the engine cannot use the relay.
fn unusable(session: &Session<'_>, subject: &Subject<'_>, obstacle: Obstacle) -> AttemptError {
    let (reference, Obstacle { reason, hint }) = (subject.reference.familiar(), obstacle);
    let option = session.options.relay_wanted_by().unwrap_or("--relay auto");
    PushError::NoRelay { reference, option, reason, hint }.into()
}

/// Receives the image from the relay, and follows the upload to one registry.
///
/// * `connect`: lets the registry receive data.
async fn receive(
    mut participant: Participant,
    connect: impl FnOnce(&Upstream) -> Result<(), AttemptError>,
    session: &Session<'_>,
    subject: &Subject<'_>,
    log: &mut ImageLog<'_>,
    on_event: &mut impl FnMut(&Event),
) -> Result<Uploaded, End> {
    let reference = subject.reference;
    let upstream = participant.upstream().await.map_err(|error| match error {
        Some(error) => not_opened(session, subject, error).into(),
        None => End::Alone(None),
    })?;
    connect(&upstream)?;
    let attempt = AttemptLog::new(session, log, &mut *on_event);
    let shared = Rc::clone(participant.shared());
    let followed = follow(&shared, &mut participant.news, &upstream, attempt).await;
    upstream.stop();
    upstream.notes().iter().for_each(|note| log.note(note));
    if let Some(failure) = upstream.take_failure() {
        return Err(ended(failure));
    }
    let Followed::Over(Some(end)) = followed else {
        return Err(no_progress(session.options.stall_timeout).into());
    };
    match &end.failure {
        None => {}
        Some(EngineFailure::Refused { message, status }) => {
            return Err(refused(&end, message, *status, session, subject).into());
        }
        Some(EngineFailure::Other(error)) => {
            return Err(error.take().map_or(End::Alone(None), |error| subject.engine_error(error).into()));
        }
    }
    let tag = reference.tag_or_latest();
    let descriptor = end.manifest.clone();
    let descriptor = descriptor
        .ok_or_else(|| PushError::Unconfirmed { reference: reference.familiar(), tag: tag.to_owned() })?;
    upstream.cancel_unused_upload().await;
    Ok(stored(&end, descriptor, tag, log, on_event))
}

/// Reports that the registry has stored the image.
pub fn stored(
    end: &EngineEnd,
    descriptor: Descriptor,
    tag: &str,
    log: &mut ImageLog<'_>,
    on_event: &mut impl FnMut(&Event),
) -> Uploaded {
    let Descriptor { digest, size, .. } = descriptor.clone();
    let event = Event::Pushed { tag: tag.to_owned(), digest, size };
    log.record_event(&event);
    on_event(&event);
    Uploaded { descriptor, narrowed: end.facts.narrowed.clone() }
}

/// Returns the end of an upload after a failure at the registry.
pub fn ended(failure: Failure) -> End {
    let is_too_large = failure.can_retry_in_chunks();
    match failure {
        Failure::LeftBehind(reason) => End::Alone(Some(reason)),
        Failure::Lost(error) if is_too_large => End::TooLarge(Cause::Registry(Box::new(error))),
        Failure::Lost(error) => Cause::Registry(Box::new(error)).into(),
        // The relay has already repeated the request.
        Failure::Final(error) => {
            let cause = Cause::Registry(Box::new(error));
            AttemptError::Retryable { cause, max_retries: 0, may_write: false }.into()
        }
    }
}

/// Returns the error for an image that the engine refused to push.
fn refused(
    end: &EngineEnd,
    message: &str,
    status: Option<StatusCode>,
    session: &Session<'_>,
    subject: &Subject<'_>,
) -> AttemptError {
    let (reference, address) = (subject.reference, &end.domain);
    // The temporary name means nothing to users.
    let message = message.replace(address, reference.domain());
    let cause = end.facts.cause(&message, status, &end.progress, true, &reference.repository());
    let is_about_way = matches!(cause.class(), Class::Network | Class::Tls | Class::Other);
    if is_about_way && !end.was_reached {
        let reason = cause.reason().replace(reference.domain(), address);
        let reason = format!("the engine cannot reach the plugin at {address}: {reason}");
        return unusable(session, subject, Obstacle { reason, hint: None });
    }
    AttemptError::from(cause)
}

/// Follows an upload until the registry has stored the image, or until a failure.
pub async fn follow(
    shared: &SharedPush,
    news: &mut UnboundedReceiver<News>,
    upstream: &Arc<Upstream>,
    mut attempt: AttemptLog<'_, '_, impl FnMut(&Event)>,
) -> Followed {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut end: Option<Rc<EngineEnd>> = None;
    let followed = loop {
        let stalls = stall_deadline(&attempt, upstream);
        tokio::select! {
            biased;
            Some(news) = news.recv() => match news {
                News::Event(event) => attempt.report(&event),
                // A registry that has not received its data does not move because the engine sends data to others.
                News::Work if upstream.has_unsent_data() => {}
                News::Work => attempt.saw_work(),
                News::Line(level, line) => attempt.log.tell(level, line),
            },
            () = upstream.ended() => break Followed::Over(end),
            ended = shared.end(), if end.is_none() => {
                if ended.failure.is_some() {
                    break Followed::Over(Some(ended));
                }
                end = Some(ended);
            }
            () = upstream.settled(), if end.is_some() => break Followed::Over(end),
            _ = ticks.tick() => report_changes(&mut attempt, upstream),
            () = until(stalls) => {
                // A blob may have moved since the last tick.
                report_changes(&mut attempt, upstream);
                if stall_deadline(&attempt, upstream) <= Some(Instant::now()) {
                    break Followed::Stalled;
                }
            }
        }
    };
    report_changes(&mut attempt, upstream);
    followed
}

fn report_changes(attempt: &mut AttemptLog<'_, '_, impl FnMut(&Event)>, upstream: &Upstream) {
    upstream.layers.changes().iter().for_each(|event| attempt.report(event));
}

/// Returns the time at which the push counts as stalled; `None`: never. A request that waits as long as the registry demands
/// is not stalled.
fn stall_deadline(attempt: &AttemptLog<'_, '_, impl FnMut(&Event)>, upstream: &Upstream) -> Option<Instant> {
    let own = attempt.stall_deadline()?;
    let waits_until = upstream.waits_until().map(|until| until + attempt.session.options.stall_timeout);
    waits_until.max(Some(own))
}
