//! Asks the registry why an upload fails.
//!
//! Engines report failures only as English messages, often without the registry's status. So the plugin starts an upload
//! itself, and goes by the status, the code and the headers of the response.

use std::time::Duration;

use crate::engine::Engine;
use crate::failure::Class;
use crate::net::is_on_loopback;
use crate::push::error::{Cause, QueryError, Way};
use crate::push::gate::ActiveCredentials;
use crate::push::pool::RegistryPool;
use crate::push::session::Session;
use crate::push::subject::Subject;
use crate::registry::error::RegistryError;
use crate::retry::is_transient;

/// The maximum time for a diagnosis.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The maximum time for a request for the engine's settings, after a failure.
const INFO_TIMEOUT: Duration = Duration::from_secs(2);

/// The result of a diagnosis.
#[derive(Debug)]
pub enum Diagnosis {
    /// The registry would accept an upload from the plugin.
    Healthy,
    /// The registry refuses an upload from the plugin too.
    Refused(Box<RegistryError>),
    /// The plugin cannot tell: it cannot reach the registry, or must not send the credentials.
    Unknown,
}

impl Diagnosis {
    /// Returns whether the registry requires credentials, or other credentials.
    pub fn requires_credentials(&self) -> bool {
        matches!(self, Self::Refused(error) if matches!(**error, RegistryError::Unauthorized { .. }))
    }

    /// Returns the refusal as the cause of a failed attempt, if another attempt cannot help.
    ///
    /// # Errors
    /// Returns `self` if another attempt may help.
    pub fn into_final_cause(self) -> Result<Cause, Self> {
        match self {
            Self::Refused(error) if !is_transient(error.class()) => Ok(Cause::Registry(error)),
            other => Err(other),
        }
    }
}

/// Starts an upload, and cancels it. Sends credentials only if the registry has accepted them in this call.
///
/// * `layer`: the size of the layer that the engine sends, if known.
pub async fn diagnose(
    session: &Session<'_>,
    mut engine: Engine,
    subject: &Subject<'_>,
    layer: Option<u64>,
) -> Diagnosis {
    let pool = &session.pool;
    let may_send = subject.active.credentials.is_anonymous() || pool.has_accepted(subject);
    let anonymous = ActiveCredentials::anonymous();
    let asking = if may_send { *subject } else { Subject { active: &anonymous, ..*subject } };
    if pool.is_out_of_reach(&asking) {
        return Diagnosis::Unknown;
    }
    let probe = async {
        let registry = pool.registry(&mut engine, &asking).await?;
        Ok::<_, QueryError>(registry.probe_upload(subject.reference.path(), layer).await?)
    };
    match tokio::time::timeout(TIMEOUT, probe).await {
        Ok(Ok(())) => Diagnosis::Healthy,
        Ok(Err(QueryError::Cause(Cause::Registry(error)))) => {
            // Without credentials, the registry may hide whether the upload would succeed.
            let depends_on_account = matches!(
                *error,
                RegistryError::Unauthorized { .. }
                    | RegistryError::Denied { .. }
                    | RegistryError::MayNotWrite { .. }
                    | RegistryError::NoPushTarget { .. }
                    | RegistryError::NotARegistry { .. }
            );
            let is_final = !is_transient(error.class());
            if error.is_about_the_way()
                || (depends_on_account && !may_send)
                || (is_final
                    && !pool.engine_reaches_same_server(&mut engine, subject.reference.domain()).await)
            {
                Diagnosis::Unknown
            } else {
                Diagnosis::Refused(error)
            }
        }
        Ok(Err(_)) => Diagnosis::Unknown,
        Err(_) => {
            pool.set_out_of_reach(&asking);
            Diagnosis::Unknown
        }
    }
}

/// Returns what is known about the connection between the engine and the registry, if the connection may have caused the
/// failure.
///
/// * `domain`: the domain of the registry.
/// * `has_moved`: the engine sent layer data.
pub async fn way(
    pool: &RegistryPool,
    engine: &mut Engine,
    domain: &str,
    cause: &Cause,
    has_moved: bool,
) -> Option<Way> {
    let Cause::Engine { verdict, .. } = cause else { return None };
    if !matches!(verdict.class, Class::Network | Class::Server) {
        return None;
    }
    if is_on_loopback(domain) {
        let is_other = verdict.class == Class::Network && pool.has_responded(domain) && !has_moved;
        return is_other.then_some(Way::OtherMachine);
    }
    let asked = tokio::time::timeout(INFO_TIMEOUT, pool.proxy_of_engine(engine, domain)).await;
    // Docker Desktop always has a proxy of its own.
    asked.ok().flatten().filter(|proxy| !proxy.contains("docker.internal")).map(Way::Proxy)
}
