//! The progress of the blobs of one push at the registry, reported as the events of layers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::event::{Event, LayerState};

/// The state of one blob.
#[derive(Debug)]
pub struct Row {
    /// 12 hex digits: of the digest, or a random ID if the digest is not known before the blob has arrived.
    id: String,
    /// The number of bytes that were handed to the connection with the registry.
    pub sent: Arc<AtomicU64>,
    /// The state, and the state that was reported last.
    state: Mutex<(State, Option<LayerState>)>,
}

/// Sizes are in bytes.
#[derive(Clone, Debug)]
enum State {
    Waiting,
    /// `total`: the size of the blob; 0 if it is not known.
    Sending {
        total: u64,
    },
    /// The plugin waits before it sends more of the blob.
    Retrying {
        seconds: u64,
    },
    /// The registry has stored the blob.
    Stored {
        size: u64,
    },
    /// The registry had the blob before, or has mounted it.
    Present(LayerState),
}

/// The blobs of one push, in the order in which they arrived.
#[derive(Debug, Default)]
pub struct Layers(Mutex<Vec<Arc<Row>>>);

impl Row {
    fn set(&self, state: State) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 = state;
    }

    pub fn set_retrying(&self, seconds: u64) {
        self.set(State::Retrying { seconds });
    }

    /// * `total`: the size of the blob in bytes; 0 if it is not known.
    pub fn set_sending(&self, total: u64) {
        self.set(State::Sending { total });
    }

    /// * `size`: the size of the blob in bytes.
    pub fn set_stored(&self, size: u64) {
        self.set(State::Stored { size });
    }

    pub fn set_exists(&self) {
        self.set(State::Present(LayerState::AlreadyExists));
    }

    /// * `from`: the repository from which the registry has mounted the blob.
    pub fn set_mounted(&self, from: &str) {
        self.set(State::Present(LayerState::MountedFrom(from.to_owned())));
    }

    /// Adds the events for the changes of the blob since the last call.
    fn add_changes(&self, events: &mut Vec<Event>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, then) = match state.0 {
            State::Waiting => (LayerState::Waiting, None),
            State::Sending { total } => {
                (LayerState::Pushing { current: self.sent.load(Ordering::Relaxed), total }, None)
            }
            State::Retrying { seconds } => (LayerState::Retrying { seconds }, None),
            State::Present(ref state) => (state.clone(), None),
            // The event with the size comes first, so that the sent bytes of a quick blob count too.
            State::Stored { size } => {
                (LayerState::Pushing { current: size, total: size }, Some(LayerState::Pushed))
            }
        };
        let last = then.clone().unwrap_or_else(|| now.clone());
        if state.1.as_ref() == Some(&last) {
            return;
        }
        state.1 = Some(last);
        let states = [now].into_iter().chain(then);
        events.extend(states.map(|state| Event::Layer { id: self.id.clone(), state }));
    }
}

impl Layers {
    /// Returns the row of a blob, and adds the row if there is none.
    ///
    /// * `name`: the digest of the blob, or the ID of the upload if the digest is not known.
    pub fn add(&self, name: &str) -> Arc<Row> {
        let id: String = name.rsplit(':').next().unwrap_or_default().chars().take(12).collect();
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(row) = rows.iter().find(|row| row.id == id) {
            return Arc::clone(row);
        }
        let row = Arc::new(Row { id, sent: Arc::default(), state: Mutex::new((State::Waiting, None)) });
        rows.push(Arc::clone(&row));
        row
    }

    /// Returns the events for the blobs whose state has changed since the last call.
    pub fn changes(&self) -> Vec<Event> {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut events = Vec::new();
        rows.iter().for_each(|row| row.add_changes(&mut events));
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_each_change_once() {
        let layers = Layers::default();
        let row = layers.add("sha256:0123456789abcdef");
        let event = |state| vec![Event::Layer { id: "0123456789ab".to_owned(), state }];
        assert_eq!(layers.changes(), event(LayerState::Waiting));
        assert_eq!(layers.changes(), []);
        row.set_sending(9);
        row.sent.store(4, Ordering::Relaxed);
        assert_eq!(layers.changes(), event(LayerState::Pushing { current: 4, total: 9 }));
        row.set_stored(9);
        let stored =
            [event(LayerState::Pushing { current: 9, total: 9 }), event(LayerState::Pushed)].concat();
        assert_eq!(layers.changes(), stored);
        row.sent.store(1, Ordering::Relaxed);
        layers.add("sha256:0123456789abcdef");
        assert_eq!(layers.changes(), [], "a blob has one row");
    }
}
