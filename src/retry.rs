//! Decides whether the plugin retries a failed attempt to push, and how long the plugin waits before the retry.
//!
//! Transient failures are retried: network errors, server errors, rate limits and stalls. Refusals are not retried:
//! the registry would refuse again, and repeated failed logins may lock the user's account.

use std::fmt;
use std::time::Duration;

use crate::failure::{Class, Verdict};

/// The longest wait that a registry can demand, since a faulty registry may demand years.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(10 * 60);

/// The facts about a failed attempt to push that decide whether the plugin retries.
#[derive(Clone, Copy, Debug)]
pub struct AttemptFailure {
    pub verdict: Verdict,
    /// The attempt pushed a layer, so the next attempt need not send that layer again.
    pub has_pushed_layer: bool,
    /// The maximum number of further attempts that can help; `u32::MAX`: no limit.
    pub max_retries: u32,
    /// The time after which the registry allows another request (`Retry-After`), if the registry told.
    pub retry_after: Option<Duration>,
    /// The duration of the attempt, and the bytes that the engine sent. `None`: the engine itself retried, or sent
    /// nothing.
    pub sent: Option<(Duration, u64)>,
}

/// The common point at which failed attempts ended, which shows a limit between the engine and the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Each attempt ended after this time.
    Time(Duration),
    /// Each attempt ended after this number of bytes.
    Bytes(u64),
}

impl Pattern {
    /// Shorter attempts may end after the same time by chance.
    const SHORTEST: Duration = Duration::from_secs(3);
    /// After fewer bytes, two attempts may end by chance. A connection takes up to 4 MB before the registry reads a byte.
    const FEWEST: u64 = 8 << 20;

    /// Compares two attempts: the same time within 5 %, or the same number of bytes within 1 %.
    fn of(first: (Duration, u64), second: (Duration, u64)) -> Option<Self> {
        let is_near = |a: f64, b: f64, most: f64| (a - b).abs() <= most * a.max(b);
        if first.0.min(second.0) >= Self::SHORTEST
            && is_near(first.0.as_secs_f64(), second.0.as_secs_f64(), 0.05)
        {
            return Some(Self::Time(Duration::from_secs(second.0.as_secs_f64().round() as u64)));
        }
        let is_same = first.1.min(second.1) >= Self::FEWEST && is_near(first.1 as f64, second.1 as f64, 0.01);
        is_same.then_some(Self::Bytes(second.1))
    }
}

/// Counts the remaining attempts of a push, and computes the waits between attempts.
#[derive(Debug)]
pub struct RetryBudget {
    /// The number of failed attempts.
    ended: u32,
    left: u32,
    waits: Backoff,
    long_waits: Backoff,
    /// [`AttemptFailure::sent`] of the last attempt.
    last: Option<(Duration, u64)>,
    /// The common point at which the last two attempts ended. No attempt follows, since it would end in the same way.
    pub pattern: Option<Pattern>,
}

/// The next attempt after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextAttempt {
    /// The number of the attempt, counted from 1.
    pub number: u32,
    /// The maximum number of attempts, which a later failure may reduce.
    pub of: u32,
    pub wait: Duration,
}

impl fmt::Display for NextAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attempt {} of {} in {}s", self.number, self.of, self.wait.as_secs_f64().round())
    }
}

impl RetryBudget {
    /// * `retries`: the maximum number of attempts after the first attempt.
    pub fn new(retries: u32) -> Self {
        let (waits, long_waits) = (Backoff::short(), Backoff::long());
        Self { ended: 0, left: retries, waits, long_waits, last: None, pattern: None }
    }

    /// Counts a failed attempt, and returns the next attempt. `None`: a retry cannot help, or no attempt is left.
    pub fn after(&mut self, failure: &AttemptFailure) -> Option<NextAttempt> {
        self.ended += 1;
        if !is_transient(failure.verdict.class) {
            return None;
        }
        let sent = failure.sent.filter(|_| matches!(failure.verdict.class, Class::Network | Class::Server));
        let last = std::mem::replace(&mut self.last, sent);
        // An attempt that pushed a layer has made progress, so another attempt may finish the push.
        let last = last.filter(|_| !failure.has_pushed_layer);
        self.pattern = last.zip(sent).and_then(|(last, sent)| Pattern::of(last, sent));
        if self.pattern.is_some() {
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
        let wait = match failure.retry_after {
            Some(wait) => spread(wait.min(MAX_RETRY_AFTER), 0.1),
            None => waits.wait(),
        };
        Some(NextAttempt { number, of: number.saturating_add(self.left), wait })
    }
}

/// Returns whether failures of the given class are transient.
pub fn is_transient(class: Class) -> bool {
    matches!(class, Class::Network | Class::Server | Class::RateLimited | Class::Stalled)
}

/// Shortens the reason of a failure to 200 characters. For a network failure, keeps only the last error of the chain
/// that Go writes: `no such host` from `dial tcp: lookup h: no such host`.
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

/// Computes the waits between attempts. Each wait is twice as long as the wait before, up to a maximum.
#[derive(Debug)]
struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    /// Returns short waits, for an outage that may pass soon: from 1 s to 30 s.
    fn short() -> Self {
        Self { next: Duration::from_secs(1), longest: Duration::from_secs(30) }
    }

    /// Returns long waits, for a rate limit, which lasts longer than an outage: from 5 s to 60 s.
    fn long() -> Self {
        Self { next: Duration::from_secs(5), longest: Duration::from_secs(60) }
    }

    /// Returns the next wait, lengthened by a random factor between 1 and 2.
    fn wait(&mut self) -> Duration {
        let shortest = self.next;
        self.next = self.longest.min(2 * shortest);
        spread(shortest, 1.0)
    }
}

/// Lengthens a wait by a random part of at most `most`, so that clients that failed at the same time do not retry at the
/// same time.
fn spread(wait: Duration, most: f64) -> Duration {
    wait + wait.mul_f64(most * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Evidence, classify};

    fn failure(message: &str) -> AttemptFailure {
        let verdict = classify(&Evidence::of_text(message, true));
        AttemptFailure {
            verdict,
            has_pushed_layer: false,
            max_retries: u32::MAX,
            retry_after: None,
            sent: None,
        }
    }

    /// Returns one entry for each attempt after the first: the shortest possible wait in seconds, and the number
    /// of the attempt with the maximum number of attempts, such as `2 of 6`.
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
    fn recognizes_attempts_that_end_at_the_same_point() {
        const MIB: u64 = 1 << 20;
        let table = [
            // seconds and bytes of two attempts, expected pattern
            ((60.0, 50 * MIB), (61.0, 40 * MIB), Some(Pattern::Time(Duration::from_secs(61)))),
            ((60.0, 50 * MIB), (70.0, 40 * MIB), None),
            ((1.0, 50 * MIB), (1.0, 40 * MIB), None),
            ((8.0, 100 * MIB), (4.0, 100 * MIB), Some(Pattern::Bytes(100 * MIB))),
            ((8.0, MIB), (4.0, MIB), None),
        ];
        let sent = |(seconds, bytes)| (Duration::from_secs_f64(seconds), bytes);
        for (first, second, want) in table {
            assert_eq!(Pattern::of(sent(first), sent(second)), want, "{first:?} {second:?}");
        }
        let mut budget = RetryBudget::new(5);
        let ended = |class, seconds| AttemptFailure {
            sent: Some((Duration::from_secs(seconds), MIB)),
            verdict: Verdict::without_hint(class),
            ..failure("")
        };
        assert!(budget.after(&ended(Class::Network, 60)).is_some());
        assert!(
            budget.after(&ended(Class::RateLimited, 60)).is_some(),
            "a rate limit does not come from a proxy"
        );
        assert!(budget.after(&ended(Class::Server, 60)).is_some());
        assert!(budget.after(&ended(Class::Network, 60)).is_none());
        assert_eq!(budget.pattern, Some(Pattern::Time(Duration::from_secs(60))));
    }

    #[test]
    fn waits_as_long_as_the_registry_demands() {
        let demanded = |seconds| AttemptFailure {
            retry_after: Some(Duration::from_secs(seconds)),
            verdict: Verdict::without_hint(Class::RateLimited),
            ..failure("")
        };
        let wait = |seconds| RetryBudget::new(5).after(&demanded(seconds)).unwrap().wait.as_secs_f64();
        assert!((7.0..=7.7).contains(&wait(7)) && (600.0..=660.0).contains(&wait(1_000_000)));
        assert!(wait(0) < 0.1);
    }

    #[test]
    fn retries_only_transient_failures() {
        let reset = "write tcp 127.0.0.1:1->127.0.0.1:2: write: connection reset by peer";
        let table = [
            // --retries, error message, total attempts
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
    fn retries_once_if_the_engine_already_retried() {
        let retried = AttemptFailure { max_retries: 1, ..failure("connection refused") };
        assert_eq!(attempts(5, &retried), [(1, "2 of 2".to_owned())]);
    }

    #[test]
    fn root_cause_is_the_last_of_a_chain() {
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
    fn backoff_grows_and_restarts_after_a_pushed_layer() {
        let mut budget = RetryBudget::new(u32::MAX - 10);
        let broken = failure("connection reset by peer");
        let mut wait = |failure: &AttemptFailure| budget.after(failure).unwrap().wait.as_secs();
        for shortest in [1, 2, 4, 8, 16, 30, 30] {
            let wait = wait(&broken);
            assert!(
                (shortest..=2 * shortest).contains(&wait),
                "{wait} is not between {shortest} and twice as much"
            );
        }
        assert!(wait(&AttemptFailure { has_pushed_layer: true, ..broken }) <= 2);
        let limited = failure("toomanyrequests: slow down");
        for shortest in [5, 10, 20, 40, 60, 60] {
            let wait = wait(&limited);
            assert!(
                (shortest..=2 * shortest).contains(&wait),
                "{wait} is not between {shortest} and twice as much"
            );
        }
    }
}
