//! Computes how far the push of each image is, from the [`Update`]s of the pushes.

use std::time::{Duration, Instant};

use crate::event::Event;
use crate::present::presenter::Update;
use crate::present::rate::Rate;
use crate::progress::{Layer, Progress};
use crate::text::{amount, amounts, counted, span};

/// The state of the pushes of all images, and the time at which the upload rates were last measured.
pub struct Board {
    pub rows: Vec<Row>,
    now: Instant,
}

/// The state of the push of one image.
pub struct Row {
    pub name: String,
    /// The name of the local image, if the image goes to several destinations in one upload by the engine.
    pub image: Option<String>,
    pub phase: Phase,
    pub progress: Progress,
    pub rate: Rate,
    /// Bytes sent and total bytes of the image, set when the push of the image ends.
    bytes: (u64, u64),
    /// The upload rate of each layer, in the order of [`Progress::layers`].
    layer_rates: Vec<Rate>,
    /// The time at which the push of the image started.
    since: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The push of the image has not started.
    Waiting,
    Running,
    /// An attempt failed. The next attempt starts at the time `at`, and is number `number` of at most `of` attempts.
    Retrying {
        number: u32,
        of: u32,
        at: Instant,
    },
    Ended,
}

impl Board {
    pub fn new(names: Vec<String>, now: Instant) -> Self {
        let row = |name| Row {
            name,
            image: None,
            phase: Phase::Waiting,
            progress: Progress::default(),
            rate: Rate::default(),
            bytes: (0, 0),
            layer_rates: Vec::new(),
            since: now,
        };
        Self { rows: names.into_iter().map(row).collect(), now }
    }

    pub fn show(&mut self, at: usize, update: &Update<'_>) {
        let now = Instant::now();
        let Some(row) = self.rows.get_mut(at) else { return };
        match update {
            Update::Shared(image) => row.image = Some((*image).to_owned()),
            Update::Start { .. } => row.enter(Phase::Running, now),
            Update::Push => {
                (row.progress, row.rate) = (Progress::default(), Rate::default());
                row.layer_rates.clear();
                row.enter(Phase::Running, now);
            }
            Update::Event(event) => {
                row.progress.apply(event);
            }
            Update::Wait(next, _) => {
                let phase = Phase::Retrying { number: next.number, of: next.of, at: now + next.wait };
                row.enter(phase, now);
            }
            Update::Finished(_) => {
                row.enter(Phase::Ended, now);
                // Drops the layers, since layers are not shown after the push of the image has ended.
                (row.bytes, row.layer_rates) = (row.progress.bytes(), Vec::new());
                row.progress = Progress::default();
            }
        }
    }

    /// Sets the current time, and updates the upload rates of the images whose push has started and not ended.
    pub fn measure(&mut self, now: Instant) {
        self.now = now;
        for row in self.rows.iter_mut().filter(|row| row.is_under_way()) {
            let Row { progress, rate, layer_rates, .. } = row;
            rate.update(now, progress.bytes().0);
            layer_rates.resize(progress.layers().len(), Rate::default());
            for (layer, rate) in progress.layers().iter().zip(layer_rates) {
                rate.update(now, layer.current);
            }
        }
    }

    /// Returns the name of an image; `None` if the board has only one image.
    pub fn name_among_others(&self, at: usize) -> Option<&str> {
        self.rows.get(at).filter(|_| self.rows.len() > 1).map(|row| row.name.as_str())
    }

    pub fn under_way(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.is_under_way())
    }

    /// Returns the segments of a line such as `42 %  310 of 740 MB  12 MB/s  36 s left`, summed over the images. For
    /// a single image, adds the time since the current phase of the image began.
    pub fn totals(&self) -> Vec<String> {
        let (mut sent, mut all, mut rate, mut left) = (0_u64, 0_u64, 0_u64, None);
        for row in &self.rows {
            let (row_sent, row_all) = match row.phase {
                Phase::Ended => row.bytes,
                _ => row.progress.bytes(),
            };
            (sent, all) = (sent.saturating_add(row_sent), all.saturating_add(row_all));
            if row.phase == Phase::Running {
                rate = rate.saturating_add(row.rate.per_second());
                // The run ends when the slowest image is pushed, so the line shows the longest time left of any image.
                left = left.max(row.rate.time_for(row_all - row_sent));
            }
        }
        let mut parts = Vec::new();
        let ended = self.rows.iter().filter(|row| row.phase == Phase::Ended).count();
        if self.rows.len() > 1 {
            parts.push(format!("{ended} of {} images", self.rows.len()));
        }
        let is_all = self.rows.iter().all(Row::has_all_sizes);
        let done = self.rows.iter().map(Row::done).sum::<f64>() / self.rows.len().max(1) as f64;
        parts.extend(bytes(sent, all, Some(done).filter(|_| !is_all), rate, left));
        if let [row] = self.rows.as_slice() {
            parts.push(span(self.since(row)));
        }
        parts
    }

    fn since(&self, row: &Row) -> Duration {
        self.now.saturating_duration_since(row.since)
    }

    /// Describes the progress of one image, as in `42 %  310 of 740 MB  12 MB/s  36 s left  3 of 7 layers`.
    pub fn standing(&self, row: &Row) -> String {
        if let Some(retry) = self.retry(row) {
            return retry;
        }
        let (sent, all) = row.progress.bytes();
        let (rate, left) = (row.rate.per_second(), row.rate.time_for(all - sent));
        let mut parts = bytes(sent, all, Some(row.done()).filter(|_| !row.has_all_sizes()), rate, left);
        parts.push(self.stage(row));
        parts.join("  ")
    }

    /// Describes the stage of an image: the wait before a retry, or a count such as `3 of 7 layers`. If the engine
    /// has reported no layers, gives the time since the push of the image started.
    pub fn stage(&self, row: &Row) -> String {
        if let Some(retry) = self.retry(row) {
            return retry;
        }
        let counts = row.progress.counts();
        match counts.total {
            0 => format!("in progress for {}", span(self.since(row))),
            total => {
                let done = counts.pushed + counts.exists + counts.mounted;
                format!("{done} of {}", counted(total, "layer"))
            }
        }
    }

    fn retry(&self, row: &Row) -> Option<String> {
        let Phase::Retrying { number, of, at } = &row.phase else { return None };
        let wait = at.saturating_duration_since(self.now);
        // Rounds the wait up to whole seconds, since `0 s` would mean that the attempt starts now.
        Some(format!(
            "attempt {number} of {of} in {}",
            span(Duration::from_secs(wait.as_millis().div_ceil(1000) as u64))
        ))
    }
}

impl Row {
    fn enter(&mut self, phase: Phase, now: Instant) {
        if self.phase == Phase::Waiting {
            self.since = now;
        }
        self.phase = phase;
    }

    /// Returns whether the sizes of all layers are known. The classic store reports the size of a layer only when the
    /// upload of the layer starts.
    fn has_all_sizes(&self) -> bool {
        match self.phase {
            Phase::Waiting => false,
            Phase::Ended => true,
            _ => self.progress.layers().iter().all(|layer| layer.total > 0 || layer.state.is_final()),
        }
    }

    /// Returns the fraction of the image that is done, 0 to 1. All layers have equal weight, since the sizes of some
    /// layers may be unknown.
    fn done(&self) -> f64 {
        let of_layer = |layer: &Layer| match layer.total {
            _ if layer.state.is_final() => 1.0,
            0 => 0.0,
            total => layer.current.min(total) as f64 / total as f64,
        };
        let layers = self.progress.layers();
        match self.phase {
            Phase::Ended => 1.0,
            _ if layers.is_empty() => 0.0,
            _ => layers.iter().map(of_layer).sum::<f64>() / layers.len() as f64,
        }
    }

    pub fn is_under_way(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Retrying { .. })
    }

    /// Returns the layers whose push has started and not ended, each with its upload rate. Returns no layers unless
    /// an attempt is running.
    pub fn active_layers(&self) -> impl Iterator<Item = (&Layer, Rate)> {
        let rates = self.layer_rates.iter().copied().chain(std::iter::repeat(Rate::default()));
        let layers = self.progress.layers().iter().zip(rates);
        layers.filter(|(layer, _)| self.phase == Phase::Running && layer.is_active())
    }
}

/// Formats the known numbers of an upload as segments of a line: percentage, bytes, rate and time left.
///
/// * `done`: the fraction that is done, 0 to 1, if the sizes of some layers are unknown. `None`: all sizes are known,
///   so the time left is shown.
fn bytes(sent: u64, all: u64, done: Option<f64>, rate: u64, left: Option<Duration>) -> Vec<String> {
    let mut parts = Vec::new();
    match done {
        _ if all == 0 => {}
        None => {
            let percent = u128::from(sent) * 100 / u128::from(all);
            parts.extend([format!("{percent} %"), amounts(sent, all)]);
        }
        Some(done) => {
            let percent = (done * 100.0) as u64;
            parts.extend([format!("{percent} %"), format!("{} so far", amounts(sent, all))]);
        }
    }
    if rate > 0 {
        parts.push(format!("{}/s", amount(rate)));
    }
    if let Some(left) = left.filter(|_| all > sent && done.is_none()) {
        parts.push(format!("{} left", span(left)));
    }
    parts
}

/// Returns whether `event` repeats an earlier [`Event::Pushed`] of the same tag.
pub fn is_said_again(progress: &Progress, event: &Event) -> bool {
    matches!(event, Event::Pushed { tag, .. } if progress.pushed.iter().any(|pushed| pushed.tag == *tag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::LayerState;
    use crate::present::presenter::Ending;
    use crate::retry::NextAttempt;

    fn layer(id: &str, state: LayerState) -> Event {
        Event::Layer { id: id.to_owned(), state }
    }

    fn standing(board: &Board) -> String {
        board.standing(&board.rows[0])
    }

    #[test]
    fn reports_the_progress_that_is_known() {
        let start = Instant::now();
        let mut board = Board::new(vec!["app:1".to_owned()], start);
        assert_eq!(board.under_way().count(), 0);
        board.show(0, &Update::Start { is_dry_run: false, route: "engine" });
        board.measure(start + Duration::from_secs(20));
        assert!(standing(&board).starts_with("in progress for "), "{}", standing(&board));
        for (id, state) in [("a", LayerState::AlreadyExists), ("b", LayerState::Waiting)] {
            board.show(0, &Update::Event(&layer(id, state)));
        }
        assert_eq!(standing(&board), "1 of 2 layers");
        board.rows[0].rate = Rate::default();
        for (seconds, current) in [(30, 298_000_000), (31, 310_000_000)] {
            let pushing = layer("b", LayerState::Pushing { current, total: 740_000_000 });
            board.show(0, &Update::Event(&pushing));
            board.measure(start + Duration::from_secs(seconds));
        }
        assert_eq!(standing(&board), "41 %  310 of 740 MB  12 MB/s  35s left  1 of 2 layers");

        let next = NextAttempt { number: 2, of: 6, wait: Duration::from_secs(4) };
        board.show(0, &Update::Wait(&next, "reset"));
        board.measure(Instant::now());
        assert_eq!(standing(&board), "attempt 2 of 6 in 4s");
        board.show(0, &Update::Push);
        // A new attempt does not count bytes sent before, and the time goes on.
        board.measure(start + Duration::from_secs(90));
        let expected = ["in progress for 89s", "in progress for 90s"];
        assert!(expected.contains(&standing(&board).as_str()), "{}", standing(&board));
    }

    #[test]
    fn totals_cover_all_images() {
        let start = Instant::now();
        let mut board = Board::new(["a:1", "b:1", "c:1"].map(str::to_owned).into(), start);
        let totals = |board: &Board| board.totals().join("  ");
        assert_eq!(totals(&board), "0 of 3 images");
        for at in 0..2 {
            board.show(at, &Update::Push);
            let pushing = |current| layer("x", LayerState::Pushing { current, total: 100_000_000 });
            board.show(at, &Update::Event(&pushing(0)));
            board.measure(start + Duration::from_secs(1));
            board.show(at, &Update::Event(&pushing(10_000_000)));
        }
        board.measure(start + Duration::from_secs(2));
        assert_eq!(
            totals(&board),
            "0 of 3 images  6 %  20 of 200 MB so far  20 MB/s",
            "the size of the third image is unknown"
        );
        board.show(2, &Update::Push);
        assert_eq!(totals(&board), "0 of 3 images  10 %  20 of 200 MB  20 MB/s  9s left");
        board.show(1, &Update::Finished(Ending { is_failure: true, text: "", json: "" }));
        assert_eq!(totals(&board), "1 of 3 images  10 %  20 of 200 MB  10 MB/s  9s left");
    }
}
