//! Queries registries about an image, through the engine or directly from the plugin. The engine may run on another
//! machine, so one of them may reach a registry that the other cannot.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;

use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::engine::images::ImageInspect;
use crate::engine::registries::DistributionAnswer;
use crate::failure::Class;
use crate::net::{RegistrySettings, Trace, is_on_loopback};
use crate::oci::Descriptor;
use crate::push::error::{Cause, QueryError};
use crate::push::gate::ActiveCredentials;
use crate::push::subject::Subject;
use crate::registry::Registry;
use crate::registry::access::{Access, is_special};
use crate::registry::error::RegistryError;

/// Timeout of a query. Engines themselves wait for a registry without limit.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout of a direct query that the engine can answer instead, or whose answer is optional.
const SHORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Direct connections to registries, one for each registry and set of credentials, shared by all pushes of a call.
#[derive(Debug)]
pub struct RegistryPool {
    /// The engine's settings for registries.
    settings: OnceCell<RegistrySettings>,
    /// By domain and [number](ActiveCredentials::number) of the credentials.
    connections: RefCell<HashMap<(String, u32), Rc<Connection>>>,
    trace: Option<Trace>,
}

#[derive(Debug, Default)]
struct Connection {
    registry: OnceCell<Arc<Registry>>,
    /// The registry did not answer in time or could not be reached. Queries with the short timeout are then skipped.
    is_out_of_reach: Cell<bool>,
}

/// The registry's answer to a direct query about an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The tag names the image. `missing`: its blobs that are not in the registry; `is_index`: it is an index.
    There { missing: Vec<String>, is_index: bool },
    /// The tag names something else, or the plugin got no answer. The engine must be asked.
    Unknown,
}

impl RegistryPool {
    pub fn new(trace: Option<Trace>) -> Self {
        Self { settings: OnceCell::new(), connections: RefCell::default(), trace }
    }

    fn connection(&self, subject: &Subject<'_>) -> Rc<Connection> {
        let key = (subject.reference.domain().to_owned(), subject.active.number);
        Rc::clone(self.connections.borrow_mut().entry(key).or_default())
    }

    /// Returns the descriptor that the tag names; `None`: the tag does not exist.
    ///
    /// # Errors
    /// Neither the engine nor the plugin can query the registry, or it does not answer within 30 s.
    pub async fn resolve(
        &self,
        engine: &mut Engine,
        subject: &Subject<'_>,
    ) -> Result<Option<Descriptor>, QueryError> {
        let asked = tokio::time::timeout(TIMEOUT, self.ask_what_is_named(engine, subject)).await;
        asked.unwrap_or_else(|_| Err(no_answer(subject)))
    }

    async fn ask_what_is_named(
        &self,
        engine: &mut Engine,
        subject: &Subject<'_>,
    ) -> Result<Option<Descriptor>, QueryError> {
        let message = match engine.distribution_inspect(&subject.request()).await? {
            DistributionAnswer::Names(descriptor) => return Ok(Some(descriptor)),
            DistributionAnswer::NamesNothing => return Ok(None),
            DistributionAnswer::NotAsked { message } => message,
        };
        if let Some(message) = &message {
            let refused = subject.refused(message, None);
            // The plugin must not send a wrong password to the registry a second time.
            if matches!(&refused, QueryError::Cause(cause) if cause.class() == Class::Auth) {
                return Err(refused);
            }
        }
        let asked = async {
            let registry = self.registry(engine, subject).await?;
            let reference = subject.reference;
            Ok(registry.resolve(reference.path(), reference.tag_or_latest()).await?)
        };
        match (asked.await, message) {
            // The plugin cannot reach the registry, so the engine's error says more.
            (Err(QueryError::Cause(Cause::Registry(error))), Some(message)) if error.is_about_the_way() => {
                Err(subject.refused(&message, None))
            }
            (answer, _) => answer,
        }
    }

    /// Returns whether the tag names the engine's image: the image has the same digest, or its ID is the digest of the
    /// configuration.
    ///
    /// # Errors
    /// The digests differ, and the plugin cannot query the registry.
    pub async fn is_same(
        &self,
        engine: &mut Engine,
        subject: &Subject<'_>,
        image: &ImageInspect,
        named: &Descriptor,
    ) -> Result<bool, QueryError> {
        if image.has_digest(&named.digest) {
            return Ok(true);
        }
        let registry = self.registry(engine, subject).await?;
        let manifest = registry.manifest(subject.reference.path(), &named.digest).await?;
        Ok(manifest.is_some_and(|manifest| manifest.config() == Some(&image.id)))
    }

    /// Returns the digests of blobs and manifests that a manifest refers to and that the registry does not have.
    ///
    /// # Errors
    /// The plugin cannot query the registry, or it does not answer within 30 s.
    pub async fn missing_blobs(
        &self,
        engine: &mut Engine,
        subject: &Subject<'_>,
        digest: &str,
    ) -> Result<Vec<String>, QueryError> {
        let asked = async {
            let registry = self.registry(engine, subject).await?;
            Ok(registry.missing_blobs(subject.reference.path(), digest).await?)
        };
        tokio::time::timeout(TIMEOUT, asked).await.unwrap_or_else(|_| Err(no_answer(subject)))
    }

    /// Asks the registry directly, with the short timeout, whether the tag names the image. This needs fewer requests
    /// than the engine does. A matching digest identifies the image, whichever server answers.
    ///
    /// # Errors
    /// The engine cannot be reached.
    pub async fn look_up_tag(
        &self,
        engine: &mut Engine,
        subject: &Subject<'_>,
        digest: &str,
    ) -> Result<Seen, EngineError> {
        let (repository, tag) = (subject.reference.path(), subject.reference.tag_or_latest());
        let asked = async {
            let registry = self.registry(engine, subject).await?;
            let Some(manifest) = registry.manifest(repository, tag).await? else { return Ok(Seen::Unknown) };
            if manifest.descriptor.digest != digest {
                return Ok(Seen::Unknown);
            }
            let is_index = !manifest.manifests().is_empty();
            Ok(Seen::There { missing: registry.missing_blobs_of(repository, manifest).await?, is_index })
        };
        let seen = self.within_short_time(subject, asked).await?;
        Ok(seen.unwrap_or(Seen::Unknown))
    }

    /// Returns the [missing blobs](Self::missing_blobs), or none if there is no answer within the short timeout.
    ///
    /// # Errors
    /// The engine cannot be reached.
    pub async fn blobs_known_missing(
        &self,
        engine: &mut Engine,
        subject: &Subject<'_>,
        digest: &str,
    ) -> Result<Vec<String>, EngineError> {
        let missing = self.within_short_time(subject, self.missing_blobs(engine, subject, digest)).await?;
        Ok(missing.unwrap_or_default())
    }

    /// Limits a query to the short timeout. `None`: no answer, or an earlier query found the registry out of reach.
    async fn within_short_time<T>(
        &self,
        subject: &Subject<'_>,
        asked: impl Future<Output = Result<T, QueryError>>,
    ) -> Result<Option<T>, EngineError> {
        let connection = self.connection(subject);
        if connection.is_out_of_reach.get() {
            return Ok(None);
        }
        match tokio::time::timeout(SHORT_TIMEOUT, asked).await {
            Ok(Ok(answer)) => return Ok(Some(answer)),
            Ok(Err(QueryError::Engine(error))) => return Err(error),
            Ok(Err(QueryError::Cause(Cause::Registry(error)))) => {
                connection.is_out_of_reach.set(error.is_about_the_way());
            }
            Ok(Err(QueryError::Cause(_))) => {}
            Err(_) => connection.is_out_of_reach.set(true),
        }
        Ok(None)
    }

    /// Connects to the registry directly, with the engine's settings for it.
    ///
    /// # Errors
    /// The plugin cannot reach the registry, or it is not a registry.
    pub async fn registry(
        &self,
        engine: &mut Engine,
        subject: &Subject<'_>,
    ) -> Result<Arc<Registry>, QueryError> {
        let connection = self.connection(subject);
        let connect = async {
            let domain = subject.reference.domain();
            let endpoint = engine.endpoint();
            if is_on_loopback(domain) && !endpoint.address.is_here() {
                return Err(RegistryError::Elsewhere { registry: domain.to_owned(), endpoint }.into());
            }
            let of_any = RegistrySettings::default();
            let settings = if is_special(domain) {
                self.settings.get_or_try_init(async || engine.registry_settings().await).await?
            } else {
                &of_any
            };
            let ActiveCredentials { credentials, login, .. } = subject.active.clone();
            // Warnings about certificates that only the engine can read are ignored: if one is needed, the
            // connection fails.
            let access = Access::new(domain, settings, credentials, login, self.trace, |_| {}).await?;
            Ok::<_, QueryError>(Arc::new(Registry::connect(domain, access).await?))
        };
        connection.registry.get_or_try_init(|| connect).await.map(Arc::clone)
    }
}

fn no_answer(subject: &Subject<'_>) -> QueryError {
    let reason = format!("{} does not answer: timed out", subject.reference.domain());
    subject.refused(&reason, None)
}
