//! Measures how fast the engine sends the bytes of layers.

use std::time::{Duration, Instant};

/// An upload rate in bytes per second. For the first few seconds, the rate is the plain average since the start,
/// because the first bytes often only fill buffers. Later, the rate is a moving average, in which older measurements
/// have less weight.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    started: Option<Instant>,
    last: Option<(Instant, u64)>,
    per_second: f64,
}

impl Rate {
    /// Age at which the weight of a measurement has dropped to about 1/e.
    const MEMORY: Duration = Duration::from_secs(3);

    /// Adds a measurement: the number of bytes sent so far.
    pub fn update(&mut self, now: Instant, bytes: u64) {
        let Some((before, had)) = self.last else {
            (self.started, self.last) = (Some(now), Some((now, bytes)));
            return;
        };
        let seconds = now.saturating_duration_since(before).as_secs_f64();
        if bytes < had {
            // The count of bytes has dropped, because the engine sends a layer again or has reported another size
            // of a layer. Earlier measurements do not apply.
            *self = Self { started: Some(now), last: Some((now, bytes)), per_second: 0.0 };
        } else if seconds > 0.0 {
            let measured = (bytes - had) as f64 / seconds;
            let all = self.started.map_or(seconds, |started| (now - started).as_secs_f64());
            // Does not use `exp`: for this one function, libm would be loaded at every start of the program.
            let weight = (seconds / all).max(seconds / (seconds + Self::MEMORY.as_secs_f64()));
            self.per_second += (measured - self.per_second) * weight;
            self.last = Some((now, bytes));
        }
    }

    /// Returns the rate in bytes per second; 0 before the second measurement, or if no bytes are being sent.
    pub fn per_second(&self) -> u64 {
        self.per_second as u64
    }

    /// Estimates how long the upload of `bytes` takes; `None` if no bytes are being sent.
    pub fn time_for(&self, bytes: u64) -> Option<Duration> {
        (self.per_second >= 1.0).then(|| Duration::from_secs((bytes as f64 / self.per_second) as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_current_speed() {
        let start = Instant::now();
        let mut rate = Rate::default();
        let mut at = |tenths: u64, bytes: u64| {
            rate.update(start + Duration::from_millis(100 * tenths), bytes);
            rate
        };
        assert_eq!(at(0, 5_000_000).per_second(), 0, "bytes before the first update do not count");
        assert_eq!(at(1, 6_000_000).per_second(), 10_000_000);
        assert_eq!(at(10, 6_000_000).per_second(), 1_000_000, "a burst is averaged over the whole time");
        for tenths in 11..100 {
            at(tenths, 5_000_000 + tenths * 200_000);
        }
        let slow = at(100, 25_000_000);
        assert!((1_900_000..2_600_000).contains(&slow.per_second()), "{slow:?}");
        assert_eq!(slow.time_for(10 * slow.per_second()), Some(Duration::from_secs(10)));
        for tenths in 101..150 {
            at(tenths, 25_000_000 + (tenths - 100) * 1_000_000);
        }
        assert!(at(150, 75_000_000).per_second() > 8_000_000, "recent speed outweighs earlier speed");
        assert_eq!(at(151, 0).per_second(), 0, "the bytes start again from zero");
        assert_eq!(at(152, 0).time_for(1), None);
    }
}
