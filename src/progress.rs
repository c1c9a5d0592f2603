//! Computes the progress of a push from the events of the push.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::event::{Event, LayerState};
use crate::failure::Phase;

/// The maximum number of layers whose state is stored. Docker's classic store allows 127 layers, so a genuine push
/// does not reach this maximum.
const MAX_LAYERS: usize = 10_000;
/// The maximum number of tags that are stored. A push has one tag, but podman reports the tag twice, and the two
/// reports can differ.
const MAX_TAGS: usize = 100;

/// The last reported state of a layer. Sizes are in bytes, as reported by the engine.
#[derive(Clone, Debug)]
pub struct Layer {
    pub id: String,
    pub state: LayerState,
    pub current: u64,
    /// The size of the layer; 0 if the engine never reported the size.
    pub total: u64,
    /// The engine itself has retried the layer.
    was_retried: bool,
    /// The engine has sent data of the layer, perhaps before a retry.
    has_moved: bool,
}

impl Layer {
    /// Returns whether the engine has started to push the layer and has not finished.
    pub fn is_active(&self) -> bool {
        !self.state.is_final() && !matches!(self.state, LayerState::Waiting | LayerState::Preparing)
    }
}

/// A tag whose manifest the registry accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedTag {
    pub tag: String,
    pub digest: String,
    /// The size of the manifest in bytes.
    pub size: u64,
}

/// The number of layers in total, and in each final state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct LayerCounts {
    pub total: usize,
    pub pushed: usize,
    pub exists: usize,
    pub mounted: usize,
}

/// The progress of one attempt to push an image.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    layers: Vec<Layer>,
    by_id: HashMap<String, usize>,
    pub pushed: Vec<PushedTag>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { started: Instant::now(), layers: Vec::new(), by_id: HashMap::new(), pushed: Vec::new() }
    }
}

impl Progress {
    /// Returns the time since the attempt began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Applies an event. Returns whether the event changed the progress, since the containerd store repeats each
    /// status ten times a second.
    pub fn apply(&mut self, event: &Event) -> bool {
        match event {
            Event::Layer { id, state } => return self.apply_to_layer(id, state),
            Event::Pushed { tag, digest, size } => {
                let pushed = PushedTag { tag: tag.clone(), digest: digest.clone(), size: *size };
                // Some engines report the pushed tag twice, in a status line and in an `aux` object.
                if !self.pushed.contains(&pushed) && self.pushed.len() < MAX_TAGS {
                    self.pushed.push(pushed);
                    return true;
                }
            }
            Event::Refused { .. }
            | Event::ContentMissing
            | Event::PlatformInsteadOfIndex(_)
            | Event::Note { .. }
            | Event::Object { .. } => {}
        }
        false
    }

    fn apply_to_layer(&mut self, id: &str, state: &LayerState) -> bool {
        let (at, is_new) = match self.by_id.get(id) {
            Some(at) => (*at, false),
            None if self.layers.len() >= MAX_LAYERS => return false,
            None => {
                let layer = Layer {
                    id: id.to_owned(),
                    state: LayerState::Waiting,
                    current: 0,
                    total: 0,
                    was_retried: false,
                    has_moved: false,
                };
                self.layers.push(layer);
                self.by_id.insert(id.to_owned(), self.layers.len() - 1);
                (self.layers.len() - 1, true)
            }
        };
        let layer = &mut self.layers[at];
        let has_changed = is_new || layer.state != *state;
        match state {
            LayerState::Pushing { current, total } => {
                (layer.current, layer.total) = (*current, layer.total.max(*total));
                layer.has_moved |= *current > 0;
            }
            LayerState::Pushed => layer.current = layer.total.max(layer.current),
            LayerState::Retrying { .. } => {
                layer.current = 0;
                layer.was_retried = true;
            }
            _ => {}
        }
        layer.state = state.clone();
        has_changed
    }

    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    pub fn layer(&self, id: &str) -> Option<&Layer> {
        self.by_id.get(id).map(|at| &self.layers[*at])
    }

    /// Returns the last reported state of a layer.
    pub fn state_of(&self, id: &str) -> Option<&LayerState> {
        self.layer(id).map(|layer| &layer.state)
    }

    pub fn counts(&self) -> LayerCounts {
        let count =
            |fits: fn(&LayerState) -> bool| self.layers.iter().filter(|layer| fits(&layer.state)).count();
        LayerCounts {
            total: self.layers.len(),
            pushed: count(|state| matches!(state, LayerState::Pushed)),
            exists: count(|state| matches!(state, LayerState::AlreadyExists)),
            mounted: count(|state| matches!(state, LayerState::MountedFrom(_))),
        }
    }

    /// Returns the sent bytes and the total bytes of all layers. Never returns more sent bytes than total bytes.
    pub fn bytes(&self) -> (u64, u64) {
        self.layers.iter().fold((0, 0), |(sent, all): (u64, u64), layer| {
            let total = layer.total.max(if layer.state.is_final() { layer.current } else { 0 });
            let current = if total == 0 { layer.current } else { layer.current.min(total) };
            (sent.saturating_add(current), all.saturating_add(total.max(current)))
        })
    }

    /// Returns whether the engine sent layer data, which shows that the registry accepted the credentials.
    pub fn has_moved(&self) -> bool {
        self.layers.iter().any(|layer| layer.has_moved || layer.state == LayerState::Pushed)
    }

    /// Returns the time since the attempt began, and the number of bytes that the engine sent, if the attempt ended while
    /// the engine sent layers, and the engine has not retried itself.
    pub fn sent(&self) -> Option<(Duration, u64)> {
        let is_complete =
            |layer: &Layer| layer.is_active() && layer.total > 0 && layer.current >= layer.total;
        let was_retried = self.layers.iter().any(|layer| layer.was_retried || is_complete(layer));
        let sent = self.layers.iter().filter(|layer| layer.is_active()).map(|layer| layer.current).sum();
        Some((self.elapsed(), sent)).filter(|(_, sent)| *sent > 0 && !was_retried)
    }

    /// Returns whether the image has layers that other servers host, which the engine does not push.
    pub fn has_foreign_layers(&self) -> bool {
        self.layers.iter().any(|layer| layer.state == LayerState::SkippedForeign)
    }

    /// Returns whether the engine has not begun to send any layer.
    pub fn has_begun_nothing(&self) -> bool {
        let has_begun =
            |layer: &Layer| layer.is_active() || layer.was_retried || layer.state == LayerState::Pushed;
        !self.layers.iter().any(has_begun)
    }

    /// Returns the size in bytes of the largest layer that the engine has started to push and has not finished, as
    /// reported by the engine.
    pub fn largest_unfinished_layer(&self) -> Option<u64> {
        let unfinished = self.layers.iter().filter(|layer| layer.is_active());
        unfinished.map(|layer| layer.total).max().filter(|size| *size > 0)
    }

    /// Returns whether a layer is unfinished although the engine itself has retried it.
    pub fn was_retried_in_vain(&self) -> bool {
        self.layers.iter().any(|layer| layer.was_retried && !layer.state.is_final())
    }

    /// Returns whether the engine has sent all data of each layer that the engine has started to push, and now
    /// waits for the registry.
    pub fn is_sent(&self) -> bool {
        let is_sent = |layer: &Layer| match layer.state {
            LayerState::Pushing { current, .. } => layer.total > 0 && current >= layer.total,
            LayerState::Other(_) | LayerState::Retrying { .. } => false,
            _ => true,
        };
        !self.layers.is_empty() && self.layers.iter().all(is_sent)
    }

    pub fn phase(&self) -> Phase {
        match self.layers.as_slice() {
            [] => Phase::Start,
            layers if layers.iter().all(|layer| layer.state.is_final()) => Phase::Manifest,
            _ => Phase::Layers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fold(states: &[(&str, LayerState)]) -> Progress {
        let mut progress = Progress::default();
        for (id, state) in states {
            progress.apply(&Event::Layer { id: (*id).to_owned(), state: state.clone() });
        }
        progress
    }

    fn pushing(current: u64, total: u64) -> LayerState {
        LayerState::Pushing { current, total }
    }

    #[test]
    fn counts_layers_and_bytes() {
        let progress = fold(&[
            ("a", pushing(5, 10)),
            ("a", LayerState::Pushed),
            ("b", pushing(12, 10)),
            ("c", LayerState::AlreadyExists),
            ("d", LayerState::MountedFrom("x".to_owned())),
            ("e", pushing(3, 0)),
        ]);
        assert_eq!(progress.counts(), LayerCounts { total: 5, pushed: 1, exists: 1, mounted: 1 });
        assert_eq!(progress.bytes(), (23, 23), "the sent bytes of a layer do not exceed its size");
    }

    #[test]
    fn huge_sizes_do_not_overflow() {
        let progress = fold(&[("a", pushing(u64::MAX, u64::MAX)), ("b", pushing(u64::MAX, u64::MAX))]);
        assert_eq!(progress.bytes(), (u64::MAX, u64::MAX));
    }

    #[test]
    fn limits_the_number_of_layers() {
        let mut progress = Progress::default();
        for number in 0..2 * MAX_LAYERS {
            progress.apply(&Event::Layer { id: number.to_string(), state: LayerState::Waiting });
        }
        assert_eq!(progress.layers().len(), MAX_LAYERS);
    }

    #[test]
    fn reports_the_phase_and_whether_bytes_moved() {
        let table = [
            (vec![], Phase::Start, false),
            (vec![("a", LayerState::Preparing)], Phase::Layers, false),
            (vec![("a", pushing(1, 9))], Phase::Layers, true),
            (vec![("a", pushing(1, 9)), ("a", LayerState::Retrying { seconds: 5 })], Phase::Layers, true),
            (vec![("a", LayerState::AlreadyExists)], Phase::Manifest, false),
            (vec![("a", LayerState::Pushed), ("b", LayerState::Waiting)], Phase::Layers, true),
            (vec![("a", LayerState::Pushed), ("b", LayerState::AlreadyExists)], Phase::Manifest, true),
        ];
        for (states, phase, moved) in table {
            let progress = fold(&states);
            assert_eq!((progress.phase(), progress.has_moved()), (phase, moved), "{states:?}");
        }
    }
}
