//! Whether another try can help, and when.
//!
//! What broke may work a moment later: the network, a registry in trouble or too busy, a push that stalled.
//! What was refused is refused again, and trying costs the registry a failed login, or its user an account.

use std::fmt;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

use crate::failure::{Class, Verdict};

/// What one try ended with.
#[derive(Clone, Copy, Debug)]
pub struct AttemptFailure {
    pub verdict: Verdict,
    /// A layer got to the registry, which need not be sent again: this try was not in vain.
    pub got_on: bool,
    /// How many tries may help after this one, as far as the engine goes.
    pub most: u32,
}

/// The tries that are left, and the waits between them.
#[derive(Debug)]
pub struct RetryBudget {
    /// Tries that were made, and are over.
    made: u32,
    left: u32,
    waits: ExponentialBackoff,
    long_waits: ExponentialBackoff,
}

/// Another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextAttempt {
    /// Of the try, counted from 1.
    pub number: u32,
    /// How many there may be, as it looks now.
    pub of: u32,
    pub wait: Duration,
}

impl fmt::Display for NextAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attempt {} of {} in {} s", self.number, self.of, self.wait.as_secs_f64().round())
    }
}

impl RetryBudget {
    /// * `retries`: after the first try.
    pub fn new(retries: u32) -> Self {
        Self { made: 0, left: retries, waits: waits(), long_waits: long_waits() }
    }

    /// A try is over: whether there is another. `None`: none would help, or there were enough.
    pub fn after(&mut self, setback: &AttemptFailure) -> Option<NextAttempt> {
        self.made += 1;
        if !is_transient(setback.verdict.class) {
            return None;
        }
        self.left = self.left.min(setback.verdict.retries).min(setback.most);
        self.left = self.left.checked_sub(1)?;
        if setback.got_on {
            (self.waits, self.long_waits) = (waits(), long_waits());
        }
        let waits = match setback.verdict.class {
            Class::RateLimited => &mut self.long_waits,
            _ => &mut self.waits,
        };
        let number = self.made + 1;
        Some(NextAttempt { number, of: number.saturating_add(self.left), wait: waits.next()? })
    }
}

/// What broke may work a moment later.
pub fn is_transient(class: Class) -> bool {
    matches!(class, Class::Network | Class::Server | Class::RateLimited | Class::Stalled)
}

/// What broke, without the way there: of a chain of errors as Go writes it the last. A registry's own
/// words stay as they are.
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

/// From 1 s, twice as long each time, up to 30 s; and by chance up to as much again, so that those who were
/// cut off together do not come back together.
fn waits() -> ExponentialBackoff {
    exponential(Duration::from_secs(1), Duration::from_secs(30))
}

/// A limit of requests lasts: from 5 s to a minute.
fn long_waits() -> ExponentialBackoff {
    exponential(Duration::from_secs(5), Duration::from_secs(60))
}

fn exponential(shortest: Duration, longest: Duration) -> ExponentialBackoff {
    let builder = ExponentialBuilder::default().with_min_delay(shortest).with_max_delay(longest);
    builder.with_factor(2.0).with_jitter().without_max_times().build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Evidence, classify};

    fn setback(message: &str) -> AttemptFailure {
        let verdict = classify(&Evidence::of_text(message, true));
        AttemptFailure { verdict, got_on: false, most: u32::MAX }
    }

    /// Shortest waits of the tries after the first, in seconds, and what they are called.
    fn tries(retries: u32, setback: &AttemptFailure) -> Vec<(u64, String)> {
        let mut tries = RetryBudget::new(retries);
        std::iter::from_fn(|| tries.after(setback))
            .map(|again| {
                let shortest = 1 << (again.number - 2).min(5);
                (shortest, format!("{} of {}", again.number, again.of))
            })
            .collect()
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let reset = "write tcp 127.0.0.1:1->127.0.0.1:2: write: connection reset by peer";
        let table = [
            // retries, message, tries in all
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
            assert_eq!(tries(retries, &setback(message)).len() + 1, want, "{message}");
        }
    }

    #[test]
    fn what_the_engine_has_tried_itself_is_tried_once_more() {
        let retried = AttemptFailure { most: 1, ..setback("connection refused") };
        assert_eq!(tries(5, &retried), [(1, "2 of 2".to_owned())]);
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
    fn waits_grow_and_begin_anew_after_a_layer_got_there() {
        let mut tries = RetryBudget::new(u32::MAX - 10);
        let broken = setback("connection reset by peer");
        let mut wait = |setback: &AttemptFailure| tries.after(setback).unwrap().wait.as_secs();
        for shortest in [1, 2, 4, 8, 16, 30, 30] {
            let wait = wait(&broken);
            assert!((shortest..=2 * shortest).contains(&wait), "{wait} is not about {shortest}");
        }
        assert!(wait(&AttemptFailure { got_on: true, ..broken }) <= 2);
        let limited = setback("toomanyrequests: slow down");
        for shortest in [5, 10, 20, 40, 60, 60] {
            let wait = wait(&limited);
            assert!((shortest..=2 * shortest).contains(&wait), "{wait} is not about {shortest}");
        }
    }
}
