//! Limits the rate of uploads.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The number of pieces that uploads may send in one second.
const PIECES: u64 = 10;

/// The time that uploads may catch up after they were late, for example because the machine was busy.
const CATCH_UP: Duration = Duration::from_secs(1);

/// A limit in bytes per second, shared by all uploads of a call. An upload that waits does not read from the engine, so the
/// engine waits too.
#[derive(Debug)]
pub struct RateLimit {
    rate: NonZeroU64,
    /// The time at which the next piece may be sent.
    next: Mutex<Instant>,
}

impl RateLimit {
    /// * `rate`: in bytes per second.
    pub fn new(rate: NonZeroU64) -> Self {
        Self { rate, next: Mutex::new(Instant::now()) }
    }

    /// Returns the maximum size in bytes of one piece, so that an upload moves several times in a second.
    pub fn piece(&self) -> usize {
        usize::try_from(self.rate.get() / PIECES).unwrap_or(usize::MAX).max(1)
    }

    /// Waits until this number of bytes may be sent.
    pub async fn wait(&self, bytes: usize) {
        let time = Duration::from_secs_f64(bytes as f64 / self.rate.get() as f64);
        let start = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let start = (*next).max(now.checked_sub(CATCH_UP).unwrap_or(now));
            *next = start + time;
            start
        };
        tokio::time::sleep_until(start).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn uploads_share_the_rate() {
        let limit = RateLimit::new(NonZeroU64::new(1000).unwrap());
        assert_eq!(limit.piece(), 100);
        let upload = async || {
            for _ in 0..50 {
                limit.wait(limit.piece()).await;
            }
        };
        let start = Instant::now();
        futures_util::future::join(upload(), upload()).await;
        let elapsed = start.elapsed();
        // 10 kB at 1 kB/s; nothing follows the last piece.
        assert!((9800..=10_000).contains(&elapsed.as_millis()), "{elapsed:?}");
        tokio::time::sleep(Duration::from_secs(60)).await;
        let start = Instant::now();
        for _ in 0..20 {
            limit.wait(100).await;
        }
        let elapsed = start.elapsed();
        assert!((900..=1000).contains(&elapsed.as_millis()), "only one second counts later: {elapsed:?}");
    }
}
