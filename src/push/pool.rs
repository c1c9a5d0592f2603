//! Questions to registries about an image, asked by the engine or from this machine, which may be another one.

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

/// Time limit of a question. Engines themselves wait for a registry without limit.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The same if the engine can be asked instead of the registry, or the answer is optional.
const SHORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections to the registries of a call: one for each registry and set of credentials, shared by all pushes.
#[derive(Debug)]
pub struct RegistryPool {
    /// How the engine speaks with registries.
    settings: OnceCell<RegistrySettings>,
    /// By domain and [number](ActiveCredentials::number) of the credentials.
    connections: RefCell<HashMap<(String, u32), Rc<Connection>>>,
    trace: Option<Trace>,
}

#[derive(Debug, Default)]
struct Connection {
    registry: OnceCell<Arc<Registry>>,
    /// The registry did not answer in time. It is not asked again if the engine can be asked, or the answer is
    /// optional.
    is_out_of_reach: Cell<bool>,
}

/// The answer of a registry about an image, asked from this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The tag names the image. `missing`: its blobs that are not there; `is_index`: it may be for several platforms.
    There { missing: Vec<String>, is_index: bool },
    /// The engine must be asked: the registry cannot be asked from this machine, or the tag names something else.
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

    /// Returns the manifest that the tag names; `None`: there is no such tag.
    ///
    /// # Errors
    /// Neither engine nor plugin can ask, or the registry does not answer within 30 s.
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
            // The registry must see a wrong password only once.
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

    /// Whether the tag names the engine's image: they share a digest, or the digest of the configuration is the image's
    /// ID.
    ///
    /// # Errors
    /// The digests differ, and the plugin cannot ask the registry.
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

    /// The digests of blobs and manifests that the manifest names, and that the registry does not have.
    ///
    /// # Errors
    /// The plugin cannot ask the registry, or it does not answer within 30 s.
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

    /// Asks the registry from this machine whether the tag names the image, if it answers soon: that takes fewer
    /// requests than through the engine. A digest identifies an image, whichever server answers.
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

    /// The missing blobs, if the registry answers soon; otherwise none.
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

    /// Waits a short time for an answer. `None`: there was none in time, now or before.
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

    /// Connects to the registry from this machine, with the engine's settings for it.
    ///
    /// # Errors
    /// The plugin cannot reach it, or it is not a registry.
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
            // No warning about certificates that only the engine may read: if one is needed, the connection fails.
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
