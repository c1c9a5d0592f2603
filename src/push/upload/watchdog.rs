//! Tells a push that has stalled from one that is only slow.
//!
//! A line from the engine does not mean that something moves: the containerd store repeats its lines every 100 ms.
//! Only a value that changes does. Silence does not mean a stall either: after a layer is sent, no engine says
//! anything until the registry has stored it, which takes long for a large layer (registries read it again for its
//! digest, and often copy it).

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::event::{Event, LayerState};
use crate::progress::Progress;

/// Waits for values that change.
#[derive(Debug)]
pub struct Watchdog {
    limit: Duration,
    moved: Instant,
    /// From when to when a layer's bytes moved.
    sending: HashMap<String, (Instant, Instant)>,
}

impl Watchdog {
    /// * `limit`: how long nothing may change.
    pub fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, moved: now, sending: HashMap::new() }
    }

    /// Takes an event into account. `has_changed`: it says something new.
    pub fn saw(&mut self, event: &Event, has_changed: bool, now: Instant) {
        if !has_changed {
            return;
        }
        self.moved = now;
        match event {
            Event::Layer { id, state: LayerState::Pushing { .. } } => match self.sending.get_mut(id) {
                Some((_, last)) => *last = now,
                None => _ = self.sending.insert(id.clone(), (now, now)),
            },
            // It is sent again.
            Event::Layer { id, state: LayerState::Retrying { .. } } => _ = self.sending.remove(id),
            _ => {}
        }
    }

    /// When it has stalled, if nothing changes until then. A registry may take as long to store a layer as it
    /// took to send it, if that is longer than the limit.
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
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// A push, told what the engine says and when, in seconds.
    struct Scenario {
        start: Instant,
        watchdog: Watchdog,
        progress: Progress,
        /// Of the first stall, in seconds.
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

        /// Time passes up to here.
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
    fn twenty_slow_minutes_are_no_stall() {
        let mut told = Scenario::new();
        told.at(0, "a", LayerState::Preparing);
        for step in 1..=24 {
            // One step in 50 s, and ten times a second what was said before.
            told.at(50 * step, "a", pushing(step, 1000));
            for second in 1..50 {
                told.at(50 * step + second, "a", pushing(step, 1000));
                told.at(50 * step + second, "b", LayerState::Waiting);
            }
        }
        assert_eq!(told.stalled, None);
        // The last new value came after 1200 s.
        told.pass(10_000);
        assert_eq!(told.stalled, Some(1260), "what is repeated is no movement");
    }

    #[test]
    fn waits_for_the_registry_as_long_as_it_took_to_send() {
        let cases: [(&[(u64, LayerState)], u64); 6] = [
            // the layer "a", and when it is called stalled
            (&[], 60),
            (&[(1, LayerState::Waiting), (30, LayerState::Waiting)], 61),
            // Half sent, however long that took.
            (&[(0, pushing(1, 9)), (50, pushing(2, 9)), (100, pushing(3, 9))], 160),
            // All sent, at once and in 100 s.
            (&[(0, pushing(1, 9)), (1, pushing(9, 9))], 61),
            (&[(0, pushing(1, 9)), (50, pushing(2, 9)), (100, pushing(10, 9))], 200),
            // Taken: the manifest has no more time than anything else.
            (
                &[(0, pushing(1, 9)), (50, pushing(2, 9)), (100, pushing(9, 9)), (110, LayerState::Pushed)],
                170,
            ),
        ];
        for (states, want) in cases {
            let mut told = Scenario::new();
            for (second, state) in states {
                told.at(*second, "a", state.clone());
            }
            told.pass(10_000);
            assert_eq!(told.stalled, Some(want), "{states:?}");
        }
    }

    #[test]
    fn an_engine_that_tries_again_moves() {
        let mut told = Scenario::new();
        told.at(0, "a", pushing(9, 9));
        for second in 1..100 {
            told.at(second, "a", LayerState::Retrying { seconds: 100 - second });
        }
        told.at(100, "a", pushing(1, 9));
        assert_eq!(told.stalled, None);
    }
}
