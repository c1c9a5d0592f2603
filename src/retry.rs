//! Whether another attempt can help, and when it is made.
//!
//! A transient failure may be over a moment later: the network, a registry that is failing or too busy, a push
//! that stalled. A refusal is not transient: another attempt would be refused too, and costs the registry a failed
//! login, or its user an account.

use std::fmt;
use std::time::Duration;

use crate::failure::{Class, Verdict};

/// Why an attempt failed, as far as a retry depends on it.
#[derive(Clone, Copy, Debug)]
pub struct AttemptFailure {
    pub verdict: Verdict,
    /// The registry has received a layer, which need not be sent again.
    pub has_pushed_layer: bool,
    /// How many more attempts can help, as far as the uploader knows.
    pub max_retries: u32,
}

/// How many attempts are left, and the waits between them.
#[derive(Debug)]
pub struct RetryBudget {
    /// Attempts that have ended.
    ended: u32,
    left: u32,
    waits: Backoff,
    long_waits: Backoff,
}

/// The attempt that follows a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextAttempt {
    /// Counted from 1.
    pub number: u32,
    /// How many attempts there will be at most, as far as is known now.
    pub of: u32,
    pub wait: Duration,
}

impl fmt::Display for NextAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attempt {} of {} in {} s", self.number, self.of, self.wait.as_secs_f64().round())
    }
}

impl RetryBudget {
    /// * `retries`: attempts after the first.
    pub fn new(retries: u32) -> Self {
        Self { ended: 0, left: retries, waits: Backoff::short(), long_waits: Backoff::long() }
    }

    /// Takes an attempt that failed into account. `None`: another would not help, or none is left.
    pub fn after(&mut self, failure: &AttemptFailure) -> Option<NextAttempt> {
        self.ended += 1;
        if !is_transient(failure.verdict.class) {
            return None;
        }
        self.left = self.left.min(failure.verdict.retries).min(failure.max_retries);
        self.left = self.left.checked_sub(1)?;
        if failure.has_pushed_layer {
            (self.waits, self.long_waits) = (Backoff::short(), Backoff::long());
        }
        let waits = match failure.verdict.class {
            Class::RateLimited => &mut self.long_waits,
            _ => &mut self.waits,
        };
        let number = self.ended + 1;
        Some(NextAttempt { number, of: number.saturating_add(self.left), wait: waits.wait() })
    }
}

/// Whether a failure of this class may be over a moment later.
pub fn is_transient(class: Class) -> bool {
    matches!(class, Class::Network | Class::Server | Class::RateLimited | Class::Stalled)
}

/// The last error of a chain as Go writes it (`dial tcp: lookup h: no such host`), for a network failure. A
/// registry's own words are not cut.
pub fn root_cause(reason: &str, class: Class) -> String {
    const MAX_CHARS: usize = 200;
    let cause = match class {
        Class::Network => reason.rsplit(": ").find(|part| !part.trim().is_empty()).unwrap_or(reason),
        _ => reason,
    };
    match cause.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &cause[..end]),
        None => cause.to_owned(),
    }
}

/// Waits that double.
#[derive(Debug)]
struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    /// For an outage that may end soon: from 1 s to 30 s.
    fn short() -> Self {
        Self { next: Duration::from_secs(1), longest: Duration::from_secs(30) }
    }

    /// For a limit of requests, which lasts: from 5 s to a minute.
    fn long() -> Self {
        Self { next: Duration::from_secs(5), longest: Duration::from_secs(60) }
    }

    /// The next wait, and at random up to as much again, so that clients that were cut off together do not come
    /// back together.
    fn wait(&mut self) -> Duration {
        let shortest = self.next;
        self.next = self.longest.min(2 * shortest);
        shortest + shortest.mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Evidence, classify};

    fn failure(message: &str) -> AttemptFailure {
        let verdict = classify(&Evidence::of_text(message, true));
        AttemptFailure { verdict, has_pushed_layer: false, max_retries: u32::MAX }
    }

    /// The shortest waits before the attempts after the first, in seconds, and the numbers of the attempts.
    fn attempts(retries: u32, failure: &AttemptFailure) -> Vec<(u64, String)> {
        let mut budget = RetryBudget::new(retries);
        std::iter::from_fn(|| budget.after(failure))
            .map(|again| {
                let shortest = 1 << (again.number - 2).min(5);
                (shortest, format!("{} of {}", again.number, again.of))
            })
            .collect()
    }

    #[test]
    fn only_transient_failures_are_retried() {
        let reset = "write tcp 127.0.0.1:1->127.0.0.1:2: write: connection reset by peer";
        let table = [
            // retries, message, attempts in all
            (5, reset, 6),
            (0, reset, 1),
            (5, "received unexpected HTTP status: 500 Internal Server Error", 6),
            (5, "toomanyrequests: slow down", 6),
            (5, "dial tcp: lookup registry.example.com: no such host", 2),
            (5, "blob upload unknown", 3),
            (5, "proxyconnect tcp: Proxy Authentication Required", 1),
            (5, "unauthorized: authentication required", 1),
            (5, "denied: requested access to the resource is denied", 1),
            (5, "tag invalid: The image tag '1' is immutable", 1),
            (5, "denied: quota exceeded", 1),
            (5, "x509: certificate signed by unknown authority", 1),
            (5, "tag does not exist: localhost:5000/app:1", 1),
            (5, "no idea what that is", 1),
        ];
        for (retries, message, want) in table {
            assert_eq!(attempts(retries, &failure(message)).len() + 1, want, "{message}");
        }
    }

    #[test]
    fn what_the_engine_has_tried_itself_is_tried_once_more() {
        let retried = AttemptFailure { max_retries: 1, ..failure("connection refused") };
        assert_eq!(attempts(5, &retried), [(1, "2 of 2".to_owned())]);
    }

    #[test]
    fn the_root_cause_is_the_last_of_a_chain() {
        let table = [
            (
                "failed to copy: failed to do request: Put \"http://h/v2/x\": write tcp 1->2: write: broken pipe",
                "broken pipe",
            ),
            ("EOF", "EOF"),
            ("connection lost: ", "connection lost"),
        ];
        for (reason, want) in table {
            assert_eq!(root_cause(reason, Class::Network), want);
        }
        assert_eq!(
            root_cause("toomanyrequests: slow down", Class::RateLimited),
            "toomanyrequests: slow down"
        );
        assert_eq!(root_cause(&"ä".repeat(300), Class::Server).chars().count(), 201);
    }

    #[test]
    fn waits_grow_and_start_again_after_a_layer_was_pushed() {
        let mut budget = RetryBudget::new(u32::MAX - 10);
        let broken = failure("connection reset by peer");
        let mut wait = |failure: &AttemptFailure| budget.after(failure).unwrap().wait.as_secs();
        for shortest in [1, 2, 4, 8, 16, 30, 30] {
            let wait = wait(&broken);
            assert!((shortest..=2 * shortest).contains(&wait), "{wait} is not about {shortest}");
        }
        assert!(wait(&AttemptFailure { has_pushed_layer: true, ..broken }) <= 2);
        let limited = failure("toomanyrequests: slow down");
        for shortest in [5, 10, 20, 40, 60, 60] {
            let wait = wait(&limited);
            assert!((shortest..=2 * shortest).contains(&wait), "{wait} is not about {shortest}");
        }
    }
}
