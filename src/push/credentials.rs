//! Finds the credentials of a push, and gets new ones from `--password-command`.

use crate::credentials::login::Source;
use crate::push::error::PushError;
use crate::push::gate::{ActiveCredentials, Logins};
use crate::push::outcome::ImageLog;
use crate::push::session::Session;
use crate::reference::Reference;
use crate::secret::Secret;

/// Looks up the credentials, or takes those that were looked up in advance, and adds them to the logins of the gate.
///
/// # Errors
/// The command of `--password-command` fails. The pushes of other images fail with the same error.
pub async fn find(
    session: &Session<'_>,
    logins: &mut Logins,
    reference: &Reference,
    log: &mut ImageLog<'_>,
) -> Result<ActiveCredentials, PushError> {
    let found = match logins.prefetched.take() {
        Some(found) => found,
        None => session.look_up(reference, log.reporter.reporter).await,
    };
    if let Some(error) = found.failure.clone() {
        logins.prefetched = Some(found);
        return Err(PushError::Login(error.into()));
    }
    if let Some(shadow) = found.shadow {
        log.note(&shadow);
    }
    for warning in found.warnings {
        log.warn(warning);
    }
    Ok(logins.add(found.credentials, found.login, session.gate(reference).repository.clone()))
}

/// Runs the command of `--password-command` again, and adds the credentials to the logins of the gate. After a refusal, runs
/// it once until the registry accepts a push.
///
/// * `is_refused`: the registry has refused the active credentials; otherwise they have expired.
///
/// Returns `None` if the active credentials come from another source, or if the command fails, prints the same password, or
/// ran again before.
pub async fn renew(
    session: &Session<'_>,
    logins: &mut Logins,
    reference: &Reference,
    active: &ActiveCredentials,
    is_refused: bool,
    log: &mut ImageLog<'_>,
) -> Option<ActiveCredentials> {
    let gate = session.gate(reference);
    if active.login.source != Source::Command || (is_refused && gate.has_renewed.replace(true)) {
        return None;
    }
    let found = session.look_up(reference, log.reporter.reporter).await;
    if let Some(error) = found.failure {
        log.warn(error.to_string());
        return None;
    }
    let [new, old] = [&found.credentials, &active.credentials].map(|login| login.password.as_ref());
    if new.map(Secret::expose) == old.map(Secret::expose) {
        return None;
    }
    log.note("--password-command printed another password; pushing with it");
    gate.close();
    Some(logins.add(found.credentials, found.login, gate.repository.clone()))
}
