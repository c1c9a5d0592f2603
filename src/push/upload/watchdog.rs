//! Distinguishes a stalled push from a slow one.
//!
//! Output from the engine does not prove progress, because the containerd store repeats each status every 100 ms. Only
//! a changed value proves progress.
//!
//! Silence does not prove a stall. After a layer is sent, engines report nothing until the registry has stored the
//! layer. Storing a large layer can take long, since registries read the layer again for the digest, and often copy
//! the layer.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::event::{Event, LayerState};
use crate::progress::Progress;

/// Computes the time at which a push counts as stalled.
#[derive(Debug)]
pub struct Watchdog {
    limit: Duration,
    moved: Instant,
    /// The times at which the engine reported the first and the latest bytes of a layer, by layer ID.
    sending: HashMap<String, (Instant, Instant)>,
}

impl Watchdog {
    /// * `limit`: the longest time for which a push may report no change (`--stall-timeout`).
    pub fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, moved: now, sending: HashMap::new() }
    }

    /// Records the time of an event. `has_changed`: the event is not a repetition of an earlier event.
    pub fn saw(&mut self, event: &Event, has_changed: bool, now: Instant) {
        if !has_changed {
            return;
        }
        self.moved(now);
        match event {
            Event::Layer { id, state: LayerState::Pushing { .. } } => match self.sending.get_mut(id) {
                Some((_, last)) => *last = now,
                None => _ = self.sending.insert(id.clone(), (now, now)),
            },
            // The engine sends the layer again from the start.
            Event::Layer { id, state: LayerState::Retrying { .. } } => _ = self.sending.remove(id),
            _ => {}
        }
    }

    /// Records that the push is at work.
    pub fn moved(&mut self, now: Instant) {
        self.moved = now;
    }

    /// Returns the time at which the push counts as stalled if the engine reports no change before.
    ///
    /// After all layers are sent, the registry gets as much time to store the layers as the slowest layer took to send,
    /// but at least the time of `--stall-timeout`.
    pub fn deadline(&self, progress: &Progress) -> Instant {
        self.moved + self.timeout(progress)
    }

    fn timeout(&self, progress: &Progress) -> Duration {
        if !progress.is_sent() {
            return self.limit;
        }
        let stored = progress.layers().iter().filter(|layer| !layer.state.is_final());
        let took = stored.filter_map(|layer| self.sending.get(&layer.id)).map(|(first, last)| *last - *first);
        took.fold(self.limit, Duration::max)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::engine::stream::Decoder;

    const LIMIT: Duration = Duration::from_secs(60);

    /// A simulated push, with events at given times.
    struct Scenario {
        start: Instant,
        watchdog: Watchdog,
        progress: Progress,
        /// The second at which the push first counted as stalled.
        stalled: Option<u64>,
    }

    impl Scenario {
        fn new() -> Self {
            let start = Instant::now();
            Self {
                start,
                watchdog: Watchdog::new(LIMIT, start),
                progress: Progress::default(),
                stalled: None,
            }
        }

        fn at(&mut self, second: u64, id: &str, state: LayerState) {
            let now = self.start + Duration::from_secs(second);
            self.pass(second);
            let event = Event::Layer { id: id.to_owned(), state };
            let has_changed = self.progress.apply(&event);
            self.watchdog.saw(&event, has_changed, now);
        }

        /// Lets time pass up to the given second, and records the first stall if the deadline has passed.
        fn pass(&mut self, second: u64) {
            let deadline = self.watchdog.deadline(&self.progress).duration_since(self.start).as_secs();
            if deadline <= second && self.stalled.is_none() {
                self.stalled = Some(deadline);
            }
        }
    }

    fn pushing(current: u64, total: u64) -> LayerState {
        LayerState::Pushing { current, total }
    }

    #[test]
    fn slow_push_is_not_stalled() {
        let mut scenario = Scenario::new();
        scenario.at(0, "a", LayerState::Preparing);
        for step in 1..=24 {
            // The engine reports one new value every 50 s, and repeats the value each second.
            scenario.at(50 * step, "a", pushing(step, 1000));
            for second in 1..50 {
                scenario.at(50 * step + second, "a", pushing(step, 1000));
                scenario.at(50 * step + second, "b", LayerState::Waiting);
            }
        }
        assert_eq!(scenario.stalled, None);
        // The engine reported the last new value after 1200 s.
        scenario.pass(10_000);
        assert_eq!(scenario.stalled, Some(1260), "repeated values are not progress");
    }

    #[test]
    fn waits_for_the_registry_as_long_as_sending_took() {
        let cases: [(&[(u64, LayerState)], u64); 6] = [
            // events of layer "a", second at which the push counts as stalled
            (&[], 60),
            (&[(1, LayerState::Waiting), (30, LayerState::Waiting)], 61),
            // The layer is partly sent, so the limit of 60 s applies.
            (&[(0, pushing(1, 9)), (50, pushing(2, 9)), (100, pushing(3, 9))], 160),
            // The layer is completely sent: in 1 s in the first case, and in 100 s in the second case.
            (&[(0, pushing(1, 9)), (1, pushing(9, 9))], 61),
            (&[(0, pushing(1, 9)), (50, pushing(2, 9)), (100, pushing(10, 9))], 200),
            // The layer is pushed, so the limit of 60 s applies to the manifest.
            (
                &[(0, pushing(1, 9)), (50, pushing(2, 9)), (100, pushing(9, 9)), (110, LayerState::Pushed)],
                170,
            ),
        ];
        for (states, want) in cases {
            let mut scenario = Scenario::new();
            for (second, state) in states {
                scenario.at(*second, "a", state.clone());
            }
            scenario.pass(10_000);
            assert_eq!(scenario.stalled, Some(want), "{states:?}");
        }
    }

    /// In both stores of docker 29, a layer without an upload slot is reported as `Preparing` or `Waiting`, and repeated
    /// lines are no progress. The recordings have no times; the containerd store sends a line every 100 ms.
    #[test]
    fn recordings_of_docker_29_show_when_a_push_begins_and_stalls() {
        #[derive(Deserialize)]
        struct Recorded {
            id: String,
            engine: String,
            http_status: u16,
            stream: Vec<String>,
        }
        const INTERVAL: Duration = Duration::from_millis(100);
        let mut stalled = Vec::new();
        for line in include_str!("../../../tests/failures/recorded_29.jsonl").lines() {
            let recorded: Recorded = serde_json::from_str(line).unwrap();
            if recorded.http_status != 200 {
                continue;
            }
            let start = Instant::now();
            let mut watchdog = Watchdog::new(Duration::from_secs(10), start);
            let (mut progress, mut now, mut has_begun) = (Progress::default(), start, false);
            let name = format!("{} {}", recorded.engine, recorded.id);
            for line in &recorded.stream {
                now += INTERVAL;
                if watchdog.deadline(&progress) <= now {
                    stalled.push(recorded.id.clone());
                    break;
                }
                let decoded = Decoder::default().decode(line.as_bytes(), |event| {
                    let has_changed = progress.apply(&event);
                    watchdog.saw(&event, has_changed, now);
                });
                decoded.unwrap();
                has_begun |=
                    ["\"Pushing\"", "\"Pushed\"", "\"Retrying in"].iter().any(|status| line.contains(status));
                assert_eq!(progress.has_begun_nothing(), !has_begun, "{name}: {line}");
            }
        }
        assert_eq!(stalled, ["stall"], "the others end before the limit, or report new values");
    }

    #[test]
    fn retries_of_the_engine_count_as_progress() {
        let mut scenario = Scenario::new();
        scenario.at(0, "a", pushing(9, 9));
        for second in 1..100 {
            scenario.at(second, "a", LayerState::Retrying { seconds: 100 - second });
        }
        scenario.at(100, "a", pushing(1, 9));
        assert_eq!(scenario.stalled, None);
    }
}
