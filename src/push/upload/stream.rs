//! Follows the engine's stream, for both routes: collects facts from the stream, logs an attempt, and ends a push.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use humantime::format_duration;
use hyper::StatusCode;
use tokio::time::Instant;

use crate::engine::Engine;
use crate::engine::push::PushStream;
use crate::event::{Event, LayerState, Narrowed};
use crate::failure::{Evidence, classify, stalled};
use crate::progress::Progress;
use crate::push::diagnose::Diagnosis;
use crate::push::error::Cause;
use crate::push::outcome::ImageLog;
use crate::push::session::Session;
use crate::push::upload::watchdog::Watchdog;
use crate::text::one_line;

/// How long the plugin reads the engine's stream after the stream reported that the push was refused. Later messages
/// only repeat or explain the refusal.
pub const AFTER_REFUSAL: Duration = Duration::from_secs(2);

/// Facts about one push, collected from the engine's stream.
#[derive(Debug, Default)]
pub struct StreamFacts {
    /// The raw message of the first [`Event::Refused`]. Later refusals only repeat or explain the first refusal.
    pub refusal: Option<String>,
    content_missing: bool,
    pub narrowed: Option<Narrowed>,
    /// The engine uses Docker's classic store, the only store that reports `Preparing`.
    pub is_classic: bool,
    /// The engine reports nothing until the push has finished (podman).
    pub is_silent: bool,
    /// The engine itself retries a layer.
    pub is_retrying: bool,
    /// The result of a diagnosis while the engine itself retried a layer.
    pub diagnosis: Option<Diagnosis>,
}

impl StreamFacts {
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Refused { message } => _ = self.refusal.get_or_insert_with(|| message.clone()),
            Event::ContentMissing => self.content_missing = true,
            Event::PlatformInsteadOfIndex(narrowed) => self.narrowed = Some(narrowed.clone()),
            Event::Layer { state: LayerState::Preparing, .. } => self.is_classic = true,
            Event::Layer { state: LayerState::Retrying { .. }, .. } => self.is_retrying = true,
            _ => {}
        }
    }

    /// Returns the cause of a failure that the engine reported.
    ///
    /// * `message`: the engine's message; empty if the engine gave none.
    /// * `http_status`: the status of the engine's response, if the response was an error.
    /// * `progress`: the progress of the layers as the engine reported it.
    /// * `repository`: the repository in the message.
    pub fn cause(
        &self,
        message: &str,
        http_status: Option<StatusCode>,
        progress: &Progress,
        credentials_sent: bool,
        repository: &str,
    ) -> Cause {
        let status = http_status.filter(|_| message.trim().is_empty()).map(|status| status.to_string());
        let message = status.as_deref().unwrap_or(message);
        let verdict = classify(&Evidence {
            message,
            http_status: http_status.map(|status| status.as_u16()),
            content_missing: self.content_missing,
            has_foreign_layers: progress.has_foreign_layers(),
            phase: progress.phase(),
            credentials_sent,
            repository,
        });
        Cause::Engine { verdict: verdict.uncancelled(), reason: one_line(message) }
    }
}

/// Shows and records the events of one attempt, and finds out whether the attempt has stalled.
pub struct AttemptLog<'a, 'l, F> {
    pub session: &'a Session<'a>,
    pub log: &'a mut ImageLog<'l>,
    watchdog: Watchdog,
    /// Called with each event, after the event was shown and recorded.
    on_event: F,
}

impl<'a, 'l, F: FnMut(&Event)> AttemptLog<'a, 'l, F> {
    pub fn new(session: &'a Session<'a>, log: &'a mut ImageLog<'l>, on_event: F) -> Self {
        let watchdog = Watchdog::new(session.options.stall_timeout, Instant::now());
        Self { session, log, watchdog, on_event }
    }

    pub fn report(&mut self, event: &Event) {
        let has_changed = self.log.record_event(event);
        self.watchdog.saw(event, has_changed, Instant::now());
        let is_movement =
            |state: &LayerState| matches!(state, LayerState::Pushing { .. } | LayerState::Pushed);
        if has_changed && matches!(event, Event::Layer { state, .. } if is_movement(state)) {
            self.session.last_movement.set(Instant::now());
        }
        (self.on_event)(event);
    }

    /// Records that the engine is at work, so that the attempt has not stalled.
    pub fn saw_work(&mut self) {
        self.watchdog.moved(Instant::now());
    }

    /// Returns the time at which the attempt counts as stalled; `None`: never. A push that has sent nothing may wait for an
    /// upload slot of the engine, so it does not count as stalled while the engine sends layers of other pushes.
    pub fn stall_deadline(&self) -> Option<Instant> {
        let limit = self.session.options.stall_timeout;
        let progress = &self.log.record.progress;
        let own = self.watchdog.deadline(progress);
        let deadline = if progress.has_begun_nothing() {
            own.max(self.session.last_movement.get() + limit)
        } else {
            own
        };
        Some(deadline).filter(|_| !limit.is_zero())
    }
}

/// Returns the cause of a stall.
///
/// * `limit`: the value of `--stall-timeout`.
pub fn no_progress(limit: Duration) -> Cause {
    Cause::Engine { verdict: stalled(), reason: format!("no progress for {}", format_duration(limit)) }
}

/// Stops a push, and tells the user if the engine does not confirm it.
pub async fn stop(engine: &mut Engine, stream: PushStream, log: &ImageLog<'_>) {
    if !engine.stop(stream).await {
        log.note("the engine did not confirm that it stopped the push");
    }
}

/// Waits for a future; forever if there is none.
pub async fn finished<F: Future>(future: &mut Option<Pin<Box<F>>>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Waits until a time; forever if there is none.
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
