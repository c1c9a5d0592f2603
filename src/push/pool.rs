//! Queries registries about an image, either through the engine or directly from the plugin.
//!
//! The engine may run on another machine. So the engine may reach a registry that the plugin cannot reach, or the
//! reverse.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::OnceCell;

use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::engine::images::ImageInspect;
use crate::engine::registries::{AuthAnswer, DistributionAnswer};
use crate::failure::{Class, Evidence, classify};
use crate::net::settings::RegistrySettings;
use crate::net::{Trace, is_on_loopback, proxy};
use crate::oci::Descriptor;
use crate::push::error::{Cause, QueryError};
use crate::push::gate::ActiveCredentials;
use crate::push::subject::Subject;
use crate::registry::Registry;
use crate::registry::access::{Access, ConnectionOptions, is_special};
use crate::registry::error::RegistryError;
use crate::registry::identity::Identity;
use crate::text::sanitize;

/// The timeout of a query to a registry. Engines themselves wait for a registry without a limit.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The timeout of an optional query, or of a direct query that the plugin can also make through the engine.
const SHORT_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum time that a push waits for a connection from the plugin to the registry.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Direct connections from the plugin to registries, shared by all pushes. Each pair of registry and credentials has
/// one connection.
#[derive(Debug)]
pub struct RegistryPool {
    /// The engine's settings for registries.
    settings: OnceCell<RegistrySettings>,
    /// The settings of this call, which take precedence over the engine's.
    options: ConnectionOptions,
    /// The settings of an engine without special settings.
    defaults: RegistrySettings,
    /// The clients without credentials, by the domain of the registry.
    anonymous: RefCell<HashMap<String, Rc<Anonymous>>>,
    /// The connections, by the only repository that uses the credentials, or else the domain of the registry, and by
    /// the [number](ActiveCredentials::number) of the credentials.
    connections: RefCell<HashMap<(String, u32), Rc<Connection>>>,
    trace: Option<Trace>,
}

/// The client of a registry without credentials. The clients with credentials use its connections.
#[derive(Debug, Default)]
struct Anonymous {
    registry: OnceCell<Registry>,
    /// A connection to the registry is established. The registry may not have responded so far.
    has_connected: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Connection {
    registry: OnceCell<Arc<Registry>>,
    /// The result of the check of the credentials.
    identity: OnceCell<Identity>,
    /// An earlier query timed out or could not reach the registry, so queries with the short timeout are skipped.
    is_out_of_reach: Cell<bool>,
    /// A push has told the user when the credentials expire.
    has_told_expiry: Cell<bool>,
}

/// The result of a direct query about the tag of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The tag names the image. `missing`: the image's blobs that the registry lacks; `is_index`: the tag names an
    /// index.
    There { missing: Vec<String>, is_index: bool },
    /// The tag does not name the image, or the query failed. The caller must query the registry through the engine.
    Unknown,
}

impl RegistryPool {
    pub fn new(options: ConnectionOptions, trace: Option<Trace>) -> Self {
        Self {
            options,
            settings: OnceCell::new(),
            defaults: RegistrySettings::default(),
            anonymous: RefCell::default(),
            connections: RefCell::default(),
            trace,
        }
    }

    fn connection(&self, subject: &Subject<'_>) -> Rc<Connection> {
        let active = subject.active;
        let place = active.only_for.clone().unwrap_or_else(|| subject.reference.domain().to_owned());
        let key = (place, active.number);
        Rc::clone(self.connections.borrow_mut().entry(key).or_default())
    }

    /// Returns the descriptor that the tag names in the registry, or `None` if the tag does not exist.
    ///
    /// # Errors
    /// Neither the engine nor the plugin can query the registry, or the registry does not respond within 30 s.
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
        let message = if self.options.is_set() {
            None
        } else {
            match engine.distribution_inspect(&subject.request()).await? {
                DistributionAnswer::Names(descriptor) => return Ok(Some(descriptor)),
                DistributionAnswer::NamesNothing => return Ok(None),
                DistributionAnswer::NotAsked { message } => message,
            }
        };
        if let Some(message) = &message {
            let refused = subject.refused(message, None);
            // The engine has already sent the password: the plugin must not send a wrong password a second time.
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
            // If the plugin cannot reach the registry, the engine's error message says more than the plugin's.
            (Err(QueryError::Cause(Cause::Registry(error))), Some(message)) if error.is_about_the_way() => {
                Err(subject.refused(&message, None))
            }
            (answer, _) => answer,
        }
    }

    /// Returns whether the manifest in the registry is the image in the engine.
    ///
    /// Compares the digests first, and then the image ID with the digest of the manifest's configuration.
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

    /// Returns the digests of blobs and manifests that the given manifest refers to and that the registry lacks.
    ///
    /// # Errors
    /// The plugin cannot query the registry, or the registry does not respond within 30 s.
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

    /// Checks directly with the registry, within the short timeout, whether the tag names the image. A direct query
    /// needs fewer requests than a query through the engine. A matching digest identifies the image, even if the
    /// registry's host name leads the plugin and the engine to different servers.
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

    /// Returns the [missing blobs](Self::missing_blobs), or an empty list if the query fails or exceeds the short
    /// timeout.
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

    /// Runs a query with the short timeout. Returns `None` if the query fails, or if an earlier query could not reach
    /// the registry.
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

    /// Checks once for each pair of registry and credentials whether the registry accepts the credentials. If only the
    /// engine reaches the registry, the engine checks the credentials.
    ///
    /// * `is_push`: see [`Registry::check_identity`].
    ///
    /// # Errors
    /// The server is not a registry, or neither the plugin nor the engine can reach it.
    pub async fn check_identity(
        &self,
        engine: &mut Engine,
        subject: &Subject<'_>,
        is_push: bool,
    ) -> Result<Identity, QueryError> {
        let connection = self.connection(subject);
        let check = async {
            let is_here = engine.endpoint().address.is_here();
            let connect = self.registry(engine, subject);
            let registry = if is_here {
                connect.await
            } else {
                let connected = tokio::time::timeout(CONNECT_TIMEOUT, connect).await;
                connected.unwrap_or_else(|_| Err(no_answer(subject)))
            };
            match registry {
                Ok(registry) => {
                    let check = Box::pin(registry.check_identity(Some(subject.reference.path()), is_push));
                    Ok::<_, QueryError>(check.await?)
                }
                // The plugin cannot connect from here, or not to the registry that the engine reaches.
                Err(QueryError::Cause(_))
                    if !is_here && !self.options.is_set() && !subject.active.credentials.is_anonymous() =>
                {
                    Ok(Box::pin(check_through_engine(engine, subject)).await?)
                }
                Err(error) => {
                    if matches!(&error, QueryError::Cause(Cause::Registry(error)) if error.is_about_the_way())
                    {
                        connection.is_out_of_reach.set(true);
                    }
                    Err(error)
                }
            }
        };
        connection.identity.get_or_try_init(|| check).await.cloned()
    }

    /// Returns whether the registry is known to accept the credentials, so that a refusal is about the rights of the
    /// account.
    pub fn has_accepted(&self, subject: &Subject<'_>) -> bool {
        self.connection(subject).identity.get() == Some(&Identity::Accepted)
    }

    /// Returns whether the plugin has a connection to the registry, even if the registry has not responded so far.
    pub fn has_connected(&self, domain: &str) -> bool {
        self.anonymous(domain).has_connected.load(Ordering::Relaxed)
    }

    /// Returns whether the registry is known not to ask for credentials at `/v2/`.
    pub fn asks_late(&self, domain: &str) -> bool {
        let anonymous = self.anonymous(domain);
        anonymous.registry.get().is_some_and(|registry| registry.asks_for_credentials() == Some(false))
    }

    /// Returns whether no push has told the user so far when the credentials expire. Returns `false` from the second call
    /// on.
    pub fn tells_expiry(&self, subject: &Subject<'_>) -> bool {
        !self.connection(subject).has_told_expiry.replace(true)
    }

    /// Returns whether an earlier query could not reach the registry in time.
    pub fn is_out_of_reach(&self, subject: &Subject<'_>) -> bool {
        self.connection(subject).is_out_of_reach.get()
    }

    /// Records that the plugin cannot reach the registry in time, so that later queries do not wait for the registry.
    pub fn set_out_of_reach(&self, subject: &Subject<'_>) {
        self.connection(subject).is_out_of_reach.set(true);
    }

    /// Returns the `host:port` of the proxy through which the engine connects to the registry, if the engine tells.
    pub async fn proxy_of_engine(&self, engine: &mut Engine, domain: &str) -> Option<String> {
        self.settings_for(engine, domain).await.ok()?.proxy_for(domain).map(str::to_owned)
    }

    /// Returns whether the registry has responded to the plugin.
    pub fn has_responded(&self, domain: &str) -> bool {
        self.anonymous(domain).registry.initialized()
    }

    /// Returns whether the plugin and the engine reach the same server under the registry's name: the engine is on this
    /// machine, and both connect to the registry without a proxy. Returns `false` if the engine does not tell.
    pub async fn engine_reaches_same_server(&self, engine: &mut Engine, domain: &str) -> bool {
        let is_direct = ["https", "http"].iter().all(|scheme| {
            format!("{scheme}://{domain}/").parse().is_ok_and(|url| matches!(proxy::setting(&url), Ok(None)))
        });
        let is_here = engine.endpoint().address.is_here() && is_direct;
        is_here
            && self
                .settings_for(engine, domain)
                .await
                .is_ok_and(|settings| settings.proxy_for(domain).is_none())
    }

    /// Returns a client of the registry without credentials if the options of this call decide how to connect to it.
    ///
    /// # Errors
    /// The plugin cannot reach the server, or the server is not a registry.
    pub async fn registry_of_call(
        &self,
        engine: &mut Engine,
        domain: &str,
    ) -> Result<Option<Registry>, QueryError> {
        if !self.options.is_set() {
            return Ok(None);
        }
        let anonymous = self.anonymous(domain);
        let registry = self.connect(engine, domain, &anonymous).await?;
        let ActiveCredentials { credentials, login, .. } = ActiveCredentials::anonymous();
        Ok(Some(registry.with_credentials(credentials, login)))
    }

    /// Returns a direct connection to the registry, with the engine's settings for that registry.
    ///
    /// # Errors
    /// The plugin cannot reach the server, or the server is not a registry.
    pub async fn registry(
        &self,
        engine: &mut Engine,
        subject: &Subject<'_>,
    ) -> Result<Arc<Registry>, QueryError> {
        let connection = self.connection(subject);
        let connect = async {
            let anonymous = self.anonymous(subject.reference.domain());
            let anonymous = self.connect(engine, subject.reference.domain(), &anonymous).await?;
            let ActiveCredentials { credentials, login, .. } = subject.active.clone();
            Ok::<_, QueryError>(Arc::new(anonymous.with_credentials(credentials, login)))
        };
        connection.registry.get_or_try_init(|| connect).await.map(Arc::clone)
    }

    /// Connects to a registry before the plugin needs the connection. Ignores errors, since the next query reports them.
    pub async fn connect_early(&self, engine: &mut Engine, domain: &str) {
        let anonymous = self.anonymous(domain);
        let _ = self.connect(engine, domain, &anonymous).await;
    }

    fn anonymous(&self, domain: &str) -> Rc<Anonymous> {
        Rc::clone(self.anonymous.borrow_mut().entry(domain.to_owned()).or_default())
    }

    /// Connects to a registry once, with the engine's settings for that registry, and without credentials.
    async fn connect<'b>(
        &self,
        engine: &mut Engine,
        domain: &str,
        anonymous: &'b Anonymous,
    ) -> Result<&'b Registry, QueryError> {
        let connect = async {
            let endpoint = engine.endpoint();
            if is_on_loopback(domain) && !endpoint.address.is_here() {
                return Err(RegistryError::Elsewhere { registry: domain.to_owned(), endpoint }.into());
            }
            let settings = self.settings_for(engine, domain).await?;
            let ActiveCredentials { credentials, login, .. } = ActiveCredentials::anonymous();
            // Ignore warnings about certificates that only the engine can read. If the connection needs such a
            // certificate, the connection fails.
            let access =
                Access::new(domain, settings, &self.options, credentials, login, self.trace, |_| {}).await?;
            let has_connected = Arc::clone(&anonymous.has_connected);
            Ok::<_, QueryError>(Registry::connect(domain, access, has_connected).await?)
        };
        // The future is large, and most pushes poll it only once or never.
        anonymous.registry.get_or_try_init(|| Box::pin(connect)).await
    }

    /// Returns the engine's settings for registries, or the defaults if no setting can matter for this registry.
    async fn settings_for(
        &self,
        engine: &mut Engine,
        domain: &str,
    ) -> Result<&RegistrySettings, EngineError> {
        if !is_special(domain) && !engine.may_require_tls_on_loopback() {
            return Ok(&self.defaults);
        }
        self.settings.get_or_try_init(|| Box::pin(engine.registry_settings())).await
    }
}

/// Lets the engine check the credentials at the registry.
async fn check_through_engine(engine: &mut Engine, subject: &Subject<'_>) -> Result<Identity, EngineError> {
    let key = subject.reference.credentials_key();
    Ok(match engine.registry_login(&subject.active.credentials, key).await? {
        AuthAnswer::Accepted { .. } => Identity::Accepted,
        AuthAnswer::Refused { message } => match classify(&Evidence::of_text(&message, true)).class {
            Class::Auth => Identity::Refused { reason: sanitize(&message) },
            _ => Identity::Unclear,
        },
    })
}

fn no_answer(subject: &Subject<'_>) -> QueryError {
    let reason = format!("{} does not answer: timed out", subject.reference.domain());
    subject.refused(&reason, None)
}
