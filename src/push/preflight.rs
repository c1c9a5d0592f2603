//! Asks the registry before a push whether the server is a registry, and whether it accepts the credentials.
//!
//! Engines send wrong credentials once for each layer, and registries lock accounts after a few failed logins. The
//! plugin sends the credentials once.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};

use crate::cli::{IfExists, Verify};
use crate::engine::Engine;
use crate::present::presenter::ImageReporter;
use crate::push::error::{AttemptError, Cause, QueryError};
use crate::push::pool::CONNECT_TIMEOUT;
use crate::push::session::Session;
use crate::push::subject::Subject;
use crate::registry::error::RegistryError;
use crate::registry::identity::Identity;

/// The maximum time that a push waits for the registry's response.
const PATIENCE: Duration = Duration::from_secs(10);
/// The maximum time that a push waits for the check after a failed attempt.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Returns whether the plugin connects to the registry while the engine prepares the push. Without credentials and
/// without verification, the plugin does not need the registry.
pub fn connects_early(session: &Session<'_>, engine: &Engine) -> bool {
    session.options.verify != Verify::Never && !engine.is_connect_expensive()
}

/// Asks the registry, once for each pair of registry and credentials.
///
/// # Errors
/// The registry refuses the credentials, or the server is a web page instead of a registry. All other failures are
/// ignored, since the engine may reach the registry in another way.
pub async fn check(
    session: &Session<'_>,
    engine: &mut Engine,
    subject: &Subject<'_>,
    reporter: ImageReporter<'_>,
) -> Result<(), Cause> {
    let pool = &session.pool;
    // After a check that took too long, another check would send the credentials again.
    if pool.is_out_of_reach(subject)
        || (subject.active.credentials.is_anonymous() && !connects_early(session, engine))
    {
        return Ok(());
    }
    // A dry run and `--if-exists` begin with queries, which need no right to push.
    let is_push = !session.options.dry_run && session.options.if_exists == IfExists::Overwrite;
    let domain = subject.reference.domain();
    match pool.check_identity(engine, subject, is_push).await {
        Ok(Identity::Refused { reason }) => {
            let error = RegistryError::refused_credentials(domain, &subject.active.login, reason);
            Err(Cause::Registry(Box::new(error)))
        }
        Ok(Identity::Accepted) if pool.tells_expiry(subject) => {
            if let Some(note) = subject.active.login.expiry_note(domain) {
                reporter.note(&note);
            }
            Ok(())
        }
        Err(QueryError::Cause(Cause::Registry(error))) if error.is_web_page() => {
            if pool.engine_reaches_same_server(engine, domain).await {
                return Err(Cause::Registry(error));
            }
            // Later attempts do not ask this server again.
            pool.set_out_of_reach(subject);
            reporter.note(&format!("{error}; the engine may reach another server"));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Waits as long as a push waits for the check.
///
/// * `is_here`: the engine is on this machine. Another engine may check the credentials itself, without a connection
///   from the plugin to the registry.
pub async fn patience(session: &Session<'_>, is_here: bool, subject: &Subject<'_>) {
    let pool = &session.pool;
    if subject.active.credentials.is_anonymous() || pool.is_out_of_reach(subject) {
        return;
    }
    tokio::time::sleep(CONNECT_TIMEOUT).await;
    if is_here && !pool.has_connected(subject.reference.domain()) {
        pool.set_out_of_reach(subject);
        return;
    }
    tokio::time::sleep(PATIENCE - CONNECT_TIMEOUT).await;
    pool.set_out_of_reach(subject);
}

/// Runs `attempt` unless `check` ends with a refusal. If the check takes longer than `patience`, the attempt starts, and
/// a later refusal ends the attempt. A refusal also replaces the error of a failed attempt, since the refusal says more.
///
/// # Errors
/// The refusal, or the error of the attempt.
pub async fn guard<T>(
    check: impl Future<Output = Result<(), Cause>>,
    patience: impl Future<Output = ()>,
    attempt: impl Future<Output = Result<T, AttemptError>>,
) -> Result<T, AttemptError> {
    let mut check = pin!(check);
    // Without patience, the attempt begins before the check.
    if let Either::Right((found, _)) = select(pin!(patience), &mut check).await {
        found?;
        return attempt.await;
    }
    match select(pin!(attempt), check).await {
        Either::Left((Err(error), check)) => match tokio::time::timeout(AFTER_FAILURE, check).await {
            Ok(Err(cause)) => Err(cause.into()),
            _ => Err(error),
        },
        Either::Left((done, _)) => done,
        Either::Right((found, attempt)) => {
            found?;
            attempt.await
        }
    }
}
