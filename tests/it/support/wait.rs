//! Waits for a condition.

use std::thread;
use std::time::{Duration, Instant};

/// The longest wait for something that must happen. Only a failing test waits that long, so the time allows for a busy
/// machine that is many times slower than usual.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// Calls `look` repeatedly until `look` returns a value.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "timed out waiting until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
