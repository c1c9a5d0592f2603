//! What the registry holds under the name of an image, by whoever can ask it: the engine, or else we
//! ourselves, who may be on another machine.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;

use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::engine::images::{ImageInspect, LocalManifest};
use crate::engine::push::PushRequest;
use crate::engine::registries::DistributionAnswer;
use crate::failure::{Class, Evidence, Verdict, classify};
use crate::gate::ActiveCredentials;
use crate::net::{RegistrySettings, Trace, is_on_loopback};
use crate::oci::Descriptor;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registry::Registry;
use crate::registry::access::{Access, is_special};
use crate::registry::error::RegistryError;
use crate::text::sanitize;

/// Why a registry did not take something, or did not answer.
#[derive(Debug)]
pub enum Cause {
    /// In the words of the engine. `reason`: sanitized.
    Engine { verdict: Verdict, reason: String },
    /// It was asked from here.
    Registry(Box<RegistryError>),
}

impl Cause {
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Engine { verdict, .. } => *verdict,
            Self::Registry(error) => {
                let verdict = Verdict::without_hint(error.class());
                match &**error {
                    // A name that is not found is one here too.
                    RegistryError::Unreachable { reason, .. } => {
                        Some(classify(&Evidence::of_text(reason, true)))
                            .filter(|read| read.class == verdict.class)
                    }
                    _ => None,
                }
                .unwrap_or(verdict)
            }
        }
    }

    pub fn class(&self) -> Class {
        self.verdict().class
    }

    pub fn reason(&self) -> String {
        match self {
            Self::Engine { reason, .. } => reason.clone(),
            Self::Registry(error) => sanitize(&error.to_string()),
        }
    }

    /// What to do about a question that the registry did not answer; of the engine's words nothing more is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::Engine { .. } => None,
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum QueryError {
    Cause(Cause),
    /// The engine itself is gone.
    Engine(EngineError),
}

impl From<EngineError> for QueryError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<RegistryError> for QueryError {
    fn from(error: RegistryError) -> Self {
        Self::Cause(Cause::Registry(Box::new(error)))
    }
}

/// An image, and with whose login its registry is asked.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub reference: &'a Reference,
    /// What the engine calls it: a reference or an ID.
    pub local_name: &'a str,
    /// The one that is wanted of it.
    pub platform: Option<&'a Platform>,
    pub active: &'a ActiveCredentials,
}

impl Subject<'_> {
    fn request(&self) -> PushRequest<'_> {
        PushRequest::new(self.reference, &self.active.credentials)
    }

    /// The engine's refusal of a question about it.
    fn refused(&self, message: &str, http_status: Option<u16>) -> QueryError {
        let verdict = classify(&Evidence {
            http_status,
            repository: &self.reference.repository(),
            ..Evidence::of_text(message, !self.active.credentials.is_anonymous())
        });
        QueryError::Cause(Cause::Engine { verdict, reason: sanitize(message) })
    }
}

/// How long a question may take. Engines themselves do not give up waiting for a registry.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The same where the engine can be asked in place of the registry, or the answer would only be good to know.
const SOON: Duration = Duration::from_secs(5);

/// The registries of a call. Each is connected to once with each login, whichever push asks first.
#[derive(Debug)]
pub struct RegistryPool {
    /// How the engine speaks with registries.
    settings: OnceCell<RegistrySettings>,
    /// By domain, and the [number](ActiveCredentials::number) of the login.
    connections: RefCell<HashMap<(String, u32), Rc<Connection>>>,
    trace: Option<Trace>,
}

#[derive(Debug, Default)]
struct Connection {
    registry: OnceCell<Arc<Registry>>,
    /// It did not answer us in time, and is not asked what the engine can be asked, or what only would be good
    /// to know.
    is_out_of_reach: Cell<bool>,
}

/// What was found of an image in its registry, from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The tag names it. `missing`: blobs of it that are not there; `is_index`: it may be for several platforms.
    There { missing: Vec<String>, is_index: bool },
    /// That is for the engine to say: the registry cannot be asked from here, or names something else.
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

    /// What the tag names; `None`: nothing.
    ///
    /// # Errors
    /// Neither engine nor we can ask, or the registry does not say, or not within 30 s.
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
            // A login that fails must fail once.
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
            // Only the engine can get there, so it knows what is wrong.
            (Err(QueryError::Cause(Cause::Registry(error))), Some(message)) if error.is_about_the_way() => {
                Err(subject.refused(&message, None))
            }
            (answer, _) => answer,
        }
    }

    /// Whether the tag names the image that the engine has: they share a digest, or the configuration of what
    /// it names is the image's ID.
    ///
    /// # Errors
    /// The digests differ, and the registry cannot be asked from here.
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

    /// The blobs of what is there that are not.
    ///
    /// # Errors
    /// The registry cannot be asked from here, or not within 30 s.
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

    /// Looks for an image under its tag, from here: where that can be done soon it takes fewer questions than to
    /// have the engine ask. What is there by this digest is the image, whoever serves it.
    ///
    /// # Errors
    /// The engine is gone.
    pub async fn see(
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
        let seen = self.soon(subject, asked).await?;
        Ok(seen.unwrap_or(Seen::Unknown))
    }

    /// The parts that are missing, if that can be told soon; else nothing is said to be missing.
    ///
    /// # Errors
    /// The engine is gone.
    pub async fn blobs_known_missing(
        &self,
        engine: &mut Engine,
        subject: &Subject<'_>,
        digest: &str,
    ) -> Result<Vec<String>, EngineError> {
        let missing = self.soon(subject, self.missing_blobs(engine, subject, digest)).await?;
        Ok(missing.unwrap_or_default())
    }

    /// Does this if it can be done soon; once it cannot, nothing is.
    async fn soon<T>(
        &self,
        subject: &Subject<'_>,
        asked: impl Future<Output = Result<T, QueryError>>,
    ) -> Result<Option<T>, EngineError> {
        let connection = self.connection(subject);
        if connection.is_out_of_reach.get() {
            return Ok(None);
        }
        match tokio::time::timeout(SOON, asked).await {
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

    /// The registry, to be asked from here as the engine would.
    ///
    /// # Errors
    /// It cannot be reached from here, or is no registry.
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
            // Of certificates that only the engine may read: where they are needed, the error says so.
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

/// What the engine knows of the image, or of that platform of it, as far as the engine tells them apart.
///
/// # Errors
/// It does not have it, or is gone.
pub async fn inspect(engine: &mut Engine, subject: &Subject<'_>) -> Result<ImageInspect, QueryError> {
    let mut image = inspect_all(engine, subject).await?;
    let is_wanted = |manifest: &&LocalManifest| {
        manifest.platform.as_ref().zip(subject.platform).is_some_and(|(own, wanted)| own.is(wanted))
    };
    if let Some(digest) = image.manifests.iter().find(is_wanted).map(|manifest| manifest.digest.clone()) {
        // The index is another image.
        (image.id, image.digests) = (digest.clone(), vec![digest]);
    }
    if let Some(platform) = subject.platform
        && let Ok(Some(own)) = engine.inspect_platform(subject.local_name, platform).await
    {
        (image.layers, image.size) = (own.layers, own.size);
    }
    Ok(image)
}

/// What the engine knows of the whole image.
///
/// # Errors
/// It does not have it, or is gone.
pub async fn inspect_all(engine: &mut Engine, subject: &Subject<'_>) -> Result<ImageInspect, QueryError> {
    match engine.inspect(subject.local_name).await {
        Err(EngineError::Answered { status, message }) => {
            Err(subject.refused(&message, Some(status.as_u16())))
        }
        answer => Ok(answer?),
    }
}
