//! Saves the credentials of a push after the registry has accepted them (`--save-credentials`).

use crate::credentials::login::Source;
use crate::credentials::{Credentials, Kind};
use crate::engine::Engine;
use crate::present::presenter::Level;
use crate::push::gate::Gate;
use crate::push::login::check;
use crate::push::outcome::ImageLog;
use crate::push::session::Session;
use crate::reference::Reference;
use crate::text::with_causes;

/// Saves credentials from a prompt or from the command line, as `docker login` does. Saves the credentials of a registry
/// once, and warns if that fails.
pub async fn save(
    session: &Session<'_>,
    engine: &mut Engine,
    gate: &Gate,
    reference: &Reference,
    credentials: &Credentials,
    log: &mut ImageLog<'_>,
) {
    let source = log.record.login.as_ref().map(|login| &login.source);
    let is_new = matches!(source, Some(Source::Prompt | Source::CommandLine | Source::Command));
    if !is_new || credentials.is_anonymous() || !gate.must_be_saved.replace(false) {
        return;
    }
    let (keyring, reporter, registry) = (&session.keyring, log.reporter, reference.domain());
    let key = reference.credentials_key();
    let credentials = match source {
        // The engine has exchanged a typed password already.
        Some(Source::CommandLine | Source::Command) => as_docker_stores(engine, credentials, key).await,
        _ => credentials.clone(),
    };
    let dialogue = session.lock_terminal_for_helper().await;
    let held = dialogue.is_some().then(|| reporter.reporter.hold());
    let saved = keyring.save(key, &credentials, |line| reporter.say(Level::Asking, line)).await;
    drop((held, dialogue));
    match saved {
        Ok(kept) => {
            reporter.note(&kept.to_string());
            if let Some(warning) = kept.plain_text_warning() {
                reporter.say(Level::Notice, &warning);
            }
            for warning in kept.unmarked.into_iter().chain(keyring.shadow_of_kept(registry)) {
                log.warn(warning);
            }
        }
        Err(error) => {
            log.warn(format!("cannot save the credentials for {registry}: {}", with_causes(&error)));
        }
    }
}

/// Returns what `docker login` stores: the identity token that the registry issues for a password, or else the
/// credentials themselves.
async fn as_docker_stores(engine: &mut Engine, credentials: &Credentials, key: &str) -> Credentials {
    if credentials.kind() == Some(Kind::Password)
        && let Ok(Ok(checked)) = check(engine, None, credentials.clone(), key).await
    {
        return checked.credentials;
    }
    credentials.clone()
}
