//! Asks the registry before a push whether the registry accepts the credentials.
//!
//! Engines send wrong credentials once for each layer, and registries lock accounts after a few failed logins. The
//! plugin sends the credentials once.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};

use crate::engine::Engine;
use crate::push::error::Cause;
use crate::push::session::Session;
use crate::push::subject::Subject;
use crate::registry::error::RegistryError;
use crate::registry::identity::Identity;

/// The maximum time that a push waits for the registry's answer.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Returns the refusal if the registry refuses the credentials, and otherwise `None`: the credentials are valid, the
/// push is anonymous, or the registry gave no clear answer.
pub async fn refusal(session: &Session<'_>, engine: &mut Engine, subject: &Subject<'_>) -> Option<Cause> {
    if subject.active.credentials.is_anonymous() {
        return None;
    }
    match session.pool.check_identity(engine, subject).await {
        Ok(Identity::Refused { reason }) => {
            let (registry, login) = (subject.reference.domain().to_owned(), subject.active.login.clone());
            let error = RegistryError::Unauthorized { registry, login: Box::new(login), reason };
            Some(Cause::Registry(Box::new(error)))
        }
        _ => None,
    }
}

/// Runs `attempt` unless `check` returns a refusal. If the check takes too long, the attempt starts, and a later
/// refusal ends the attempt.
///
/// # Errors
/// The refusal. The attempt did not run, or was dropped.
pub async fn guard<T>(
    check: impl Future<Output = Option<Cause>>,
    attempt: impl Future<Output = T>,
) -> Result<T, Cause> {
    let mut check = pin!(check);
    match tokio::time::timeout(PATIENCE, &mut check).await {
        Ok(Some(cause)) => return Err(cause),
        Ok(None) => return Ok(attempt.await),
        Err(_) => {}
    }
    match select(pin!(attempt), check).await {
        Either::Left((done, _)) => Ok(done),
        Either::Right((Some(cause), _)) => Err(cause),
        Either::Right((None, attempt)) => Ok(attempt.await),
    }
}
