//! Verifies after a push that the registry serves the pushed image.

use std::time::Duration;

use humantime::format_duration;

use crate::cli::Verify;
use crate::engine::Engine;
use crate::oci::Descriptor;
use crate::push::announce::Announcer;
use crate::push::error::{Cause, Found, PushError, QueryError};
use crate::push::outcome::ImageLog;
use crate::push::pool::Seen;
use crate::push::session::Session;
use crate::push::subject::Subject;
use crate::retry::is_transient;
use crate::text::with_causes;

/// The first wait before the plugin queries the registry again. Each wait is twice as long as the wait before.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Checks that the tag in the registry names the pushed manifest, and that the registry has all blobs of the manifest.
///
/// A registry on several machines, or behind a cache, may need time until it serves the pushed image. So the plugin
/// queries the registry again until `--verify-wait` has passed.
///
/// # Errors
/// [`PushError::Unverified`] if the registry does not serve the pushed image. A failed query is an error only with
/// `--verify always`, and otherwise a warning.
pub async fn verify(
    session: &Session<'_>,
    engine: &mut Engine,
    subject: &Subject<'_>,
    pushed: &Descriptor,
    announcer: &Announcer<'_>,
    log: &mut ImageLog<'_>,
) -> Result<(), PushError> {
    let mode = session.options.verify;
    if mode == Verify::Never {
        return Ok(());
    }
    let is_required = mode == Verify::Always;
    let reference = || subject.reference.familiar();
    let mut waits = Waits { next: FIRST_WAIT, left: session.options.verify_wait };
    loop {
        let answer = find_mismatch(session, engine, subject, pushed, announcer).await;
        match Step::after(answer, waits.next(), is_required) {
            Step::Served => {
                log.record.verified = Some(true);
                return Ok(());
            }
            Step::AskAgain(wait, reason) => {
                if wait > FIRST_WAIT {
                    log.note(&format!("{reason}; asking the registry again in {}", format_duration(wait)));
                }
                tokio::time::sleep(wait).await;
            }
            Step::Mismatch(found) => {
                log.record.verified = Some(false);
                let expected = pushed.digest.clone();
                return Err(PushError::Unverified { reference: reference(), expected, found });
            }
            Step::Unanswered(QueryError::Engine(error)) if is_required => {
                return Err(subject.engine_error(error));
            }
            Step::Unanswered(QueryError::Cause(cause)) if is_required => {
                return Err(PushError::Unverifiable { reference: reference(), cause });
            }
            Step::Unanswered(error) => {
                let reason = match error {
                    QueryError::Engine(error) => with_causes(&error),
                    QueryError::Cause(cause) => cause.reason(),
                };
                log.warn(format!("cannot verify the push: {reason}"));
                return Ok(());
            }
        }
    }
}

/// The waits between the queries.
struct Waits {
    next: Duration,
    /// The time that is left for waits.
    left: Duration,
}

impl Iterator for Waits {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.next.min(self.left);
        self.left -= wait;
        self.next *= 2;
        Some(wait).filter(|wait| !wait.is_zero())
    }
}

/// The next step after a query to the registry.
#[derive(Debug)]
enum Step {
    Served,
    /// The wait, and the reason for it.
    AskAgain(Duration, String),
    Mismatch(Found),
    Unanswered(QueryError),
}

impl Step {
    /// * `wait`: the wait before the next query; `None`: no query is left.
    /// * `is_required`: the user passed `--verify always`, so a failed query is an error.
    fn after(answer: Result<Option<Found>, QueryError>, wait: Option<Duration>, is_required: bool) -> Self {
        match (answer, wait) {
            (Ok(None), _) => Self::Served,
            (Ok(Some(found)), Some(wait)) if !matches!(found, Found::NoRegistry(_)) => {
                Self::AskAgain(wait, found.to_string())
            }
            (Ok(Some(found)), _) => Self::Mismatch(found),
            (Err(QueryError::Cause(cause)), Some(wait))
                if is_required && is_transient(cause.class()) && cause.verdict().retries > 0 =>
            {
                Self::AskAgain(wait, cause.reason())
            }
            (Err(error), _) => Self::Unanswered(error),
        }
    }
}

/// Compares the registry's content with the pushed image. Returns the difference, or `None` if the registry serves the
/// pushed image.
async fn find_mismatch(
    session: &Session<'_>,
    engine: &mut Engine,
    subject: &Subject<'_>,
    pushed: &Descriptor,
    announcer: &Announcer<'_>,
) -> Result<Option<Found>, QueryError> {
    match compare(session, engine, subject, pushed, announcer).await {
        // A server that sends something else than a manifest does not serve the image.
        Err(QueryError::Cause(Cause::Registry(error)))
            if error.is_not_a_registry()
                && session.pool.engine_reaches_same_server(engine, subject.reference.domain()).await =>
        {
            Ok(Some(Found::NoRegistry(error.to_string())))
        }
        found => found,
    }
}

/// Queries the registry, and returns the difference between its content and the pushed image, as
/// [`find_mismatch`] does.
async fn compare(
    session: &Session<'_>,
    engine: &mut Engine,
    subject: &Subject<'_>,
    pushed: &Descriptor,
    announcer: &Announcer<'_>,
) -> Result<Option<Found>, QueryError> {
    let pool = &session.pool;
    let missing = match pool.look_up_tag(engine, subject, &pushed.digest).await? {
        Seen::There { missing, is_index } => {
            if !is_index {
                announcer.skip();
            }
            missing
        }
        Seen::Unknown => match pool.resolve(engine, subject).await? {
            None => return Ok(Some(Found::Nothing)),
            Some(named) if named.digest != pushed.digest => {
                return Ok(Some(Found::Another(named.digest)));
            }
            Some(_) => match session.options.verify {
                Verify::Always => pool.missing_blobs(engine, subject, &pushed.digest).await?,
                // The tag names the pushed manifest. The check of the blobs is optional, since the plugin may not
                // reach the registry.
                _ => pool.blobs_known_missing(engine, subject, &pushed.digest).await?,
            },
        },
    };
    Ok(Some(missing).filter(|missing| !missing.is_empty()).map(Found::Incomplete))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Class, Verdict};

    #[test]
    fn waits_grow_until_the_time_has_passed() {
        let waits = |seconds| Waits { next: FIRST_WAIT, left: Duration::from_secs(seconds) };
        let seconds = |limit| waits(limit).map(|wait| wait.as_secs()).collect::<Vec<_>>();
        assert_eq!(seconds(30), [1, 2, 4, 8, 15]);
        assert_eq!(seconds(2), [1, 1]);
        assert_eq!(seconds(0), [] as [u64; 0]);
    }

    #[test]
    fn answers_lead_to_the_expected_steps() {
        let served = || Ok(None);
        let nothing = || Ok(Some(Found::Nothing));
        let page = || Ok(Some(Found::NoRegistry("a web page".to_owned())));
        let failed = |class| {
            let (verdict, reason) = (Verdict::without_hint(class), String::new());
            Err(QueryError::Cause(Cause::Engine { verdict, reason }))
        };
        let wait = Some(Duration::from_secs(1));
        let table = [
            // result of the query, wait before the next query, --verify always, next step
            (served(), wait, false, "Served"),
            (served(), None, true, "Served"),
            (nothing(), wait, false, "AskAgain(1s, \"the registry does not have this tag\")"),
            (nothing(), None, false, "Mismatch(Nothing)"),
            (page(), wait, false, "Mismatch(NoRegistry"),
            (failed(Class::Network), wait, true, "AskAgain(1s, "),
            (failed(Class::RateLimited), wait, true, "AskAgain(1s, "),
            (failed(Class::Network), None, true, "Unanswered"),
            (failed(Class::Network), wait, false, "Unanswered"),
            (failed(Class::Denied), wait, true, "Unanswered"),
        ];
        for (answer, wait, is_required, want) in table {
            let case = format!("{answer:?} {wait:?} {is_required}");
            let step = format!("{:?}", Step::after(answer, wait, is_required));
            assert!(step.starts_with(want), "{case}: {step}");
        }
    }
}
