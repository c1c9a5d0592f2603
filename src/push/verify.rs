//! Verifies after a push that the registry serves the pushed image.

use std::time::Duration;

use crate::cli::Verify;
use crate::engine::Engine;
use crate::oci::Descriptor;
use crate::push::announce::Announcer;
use crate::push::error::{Found, PushError, QueryError};
use crate::push::outcome::ImageLog;
use crate::push::pool::Seen;
use crate::push::session::Session;
use crate::push::subject::Subject;
use crate::retry::is_transient;
use crate::text::with_causes;

/// The waits before the plugin queries the registry again. A registry on several machines may need a moment until
/// every machine serves the pushed image.
const WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

/// Checks that the tag in the registry names the pushed manifest, and that the registry has all blobs of the manifest.
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
    let mut waits = WAITS.into_iter();
    loop {
        let answer = find_mismatch(session, engine, subject, pushed, announcer).await;
        match Step::after(answer, waits.next(), is_required) {
            Step::Served => {
                log.record.verified = Some(true);
                return Ok(());
            }
            Step::AskAgain(wait) => tokio::time::sleep(wait).await,
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

/// The next step after a query to the registry.
#[derive(Debug)]
enum Step {
    Served,
    AskAgain(Duration),
    Mismatch(Found),
    Unanswered(QueryError),
}

impl Step {
    /// * `wait`: the wait before the next query; `None`: no query is left.
    /// * `is_required`: the user passed `--verify always`, so a failed query is an error.
    fn after(answer: Result<Option<Found>, QueryError>, wait: Option<Duration>, is_required: bool) -> Self {
        match (answer, wait) {
            (Ok(None), _) => Self::Served,
            (Ok(Some(_)), Some(wait)) => Self::AskAgain(wait),
            (Ok(Some(found)), None) => Self::Mismatch(found),
            (Err(QueryError::Cause(cause)), Some(wait)) if is_required && is_transient(cause.class()) => {
                Self::AskAgain(wait)
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
    use crate::push::error::Cause;

    #[test]
    fn answers_lead_to_the_expected_steps() {
        let served = || Ok(None);
        let nothing = || Ok(Some(Found::Nothing));
        let failed = |class| {
            let (verdict, reason) = (Verdict::without_hint(class), String::new());
            Err(QueryError::Cause(Cause::Engine { verdict, reason }))
        };
        let wait = Some(Duration::from_secs(1));
        let table = [
            // result of the query, wait before the next query, --verify always, next step
            (served(), wait, false, "Served"),
            (served(), None, true, "Served"),
            (nothing(), wait, false, "AskAgain(1s)"),
            (nothing(), None, false, "Mismatch(Nothing)"),
            (failed(Class::Network), wait, true, "AskAgain(1s)"),
            (failed(Class::RateLimited), wait, true, "AskAgain(1s)"),
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
