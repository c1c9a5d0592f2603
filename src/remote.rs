//! What the registry holds under the name of an image, by whoever can ask it: the engine, or else we
//! ourselves, who may be on another machine.

use std::sync::Arc;
use std::time::Duration;

use crate::credentials::{Credentials, Login};
use crate::engine::{
    Descriptor, Engine, EngineError, ImageDetails, InRegistry, LocalManifest, PushRequest, Trace,
    is_on_loopback,
};
use crate::failure::{Class, Evidence, Verdict, classify};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registry::{Access, Registry, RegistryError};
use crate::text::clean;

/// Why a registry did not take something, or did not answer.
#[derive(Debug)]
pub enum Cause {
    /// In the words of the engine. `reason`: clean.
    Engine { verdict: Verdict, reason: String },
    /// It was asked from here.
    Registry(Box<RegistryError>),
}

impl Cause {
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Engine { verdict, .. } => *verdict,
            Self::Registry(error) => {
                let verdict = Verdict { class: error.class(), hint: "" };
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
            Self::Registry(error) => clean(&error.to_string()),
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Unanswered {
    Cause(Cause),
    /// The engine itself is gone.
    Engine(EngineError),
}

impl From<EngineError> for Unanswered {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<RegistryError> for Unanswered {
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
    pub credentials: &'a Credentials,
    pub login: &'a Login,
}

impl Subject<'_> {
    fn request(&self) -> PushRequest<'_> {
        PushRequest::new(self.reference, self.credentials)
    }

    /// The engine's refusal of a question about it.
    fn refused(&self, message: &str, http_status: Option<u16>) -> Unanswered {
        let verdict = classify(&Evidence {
            http_status,
            repository: &self.reference.repository(),
            ..Evidence::of_text(message, !self.credentials.is_anonymous())
        });
        Unanswered::Cause(Cause::Engine { verdict, reason: clean(message) })
    }
}

/// How long a question may take. Engines themselves do not give up waiting for a registry.
const PATIENCE: Duration = Duration::from_secs(30);

/// A registry, connected to when only we can ask it.
#[derive(Debug)]
pub struct Remote {
    /// With the login at hand.
    registry: Option<Arc<Registry>>,
    /// It did not answer us in time, and is not asked what only would be good to know.
    is_out_of_reach: bool,
    trace: Option<Trace>,
}

impl Remote {
    pub fn new(trace: Option<Trace>) -> Self {
        Self { registry: None, is_out_of_reach: false, trace }
    }

    /// There is another login, or another registry.
    pub fn forget(&mut self) {
        (self.registry, self.is_out_of_reach) = (None, false);
    }

    /// What the tag names; `None`: nothing.
    ///
    /// # Errors
    /// Neither engine nor we can ask, or the registry does not say, or not within 30 s.
    pub async fn named(
        &mut self,
        engine: &mut Engine,
        subject: &Subject<'_>,
    ) -> Result<Option<Descriptor>, Unanswered> {
        let asked = tokio::time::timeout(PATIENCE, self.ask_what_is_named(engine, subject)).await;
        asked.unwrap_or_else(|_| Err(no_answer(subject)))
    }

    async fn ask_what_is_named(
        &mut self,
        engine: &mut Engine,
        subject: &Subject<'_>,
    ) -> Result<Option<Descriptor>, Unanswered> {
        let message = match engine.in_registry(&subject.request()).await? {
            InRegistry::Names(descriptor) => return Ok(Some(descriptor)),
            InRegistry::NamesNothing => return Ok(None),
            InRegistry::NotAsked { message } => message,
        };
        if let Some(message) = &message {
            let refused = subject.refused(message, None);
            // A login that fails must fail once.
            if matches!(&refused, Unanswered::Cause(cause) if cause.class() == Class::Auth) {
                return Err(refused);
            }
        }
        let asked = async {
            let registry = self.registry(engine, subject).await?;
            let reference = subject.reference;
            Ok(registry.named(reference.path(), reference.tag_or_latest()).await?)
        };
        match (asked.await, message) {
            // Only the engine can get there, so it knows what is wrong.
            (Err(Unanswered::Cause(Cause::Registry(error))), Some(message)) if error.is_about_the_way() => {
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
        &mut self,
        engine: &mut Engine,
        subject: &Subject<'_>,
        image: &ImageDetails,
        named: &Descriptor,
    ) -> Result<bool, Unanswered> {
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
    pub async fn missing_parts(
        &mut self,
        engine: &mut Engine,
        subject: &Subject<'_>,
        digest: &str,
    ) -> Result<Vec<String>, Unanswered> {
        let asked = async {
            let registry = self.registry(engine, subject).await?;
            Ok(registry.missing_parts(subject.reference.path(), digest).await?)
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(no_answer(subject)))
    }

    /// The same if it can be told soon; once it cannot, nothing is said to be missing.
    ///
    /// # Errors
    /// The engine is gone.
    pub async fn parts_known_missing(
        &mut self,
        engine: &mut Engine,
        subject: &Subject<'_>,
        digest: &str,
    ) -> Result<Vec<String>, EngineError> {
        const SOON: Duration = Duration::from_secs(5);
        if self.is_out_of_reach {
            return Ok(Vec::new());
        }
        match tokio::time::timeout(SOON, self.missing_parts(engine, subject, digest)).await {
            Ok(Ok(missing)) => return Ok(missing),
            Ok(Err(Unanswered::Engine(error))) => return Err(error),
            Ok(Err(Unanswered::Cause(Cause::Registry(error)))) => {
                self.is_out_of_reach = error.is_about_the_way();
            }
            Ok(Err(Unanswered::Cause(_))) => {}
            Err(_) => self.is_out_of_reach = true,
        }
        Ok(Vec::new())
    }

    /// The registry, to be asked from here as the engine would.
    ///
    /// # Errors
    /// It cannot be reached from here, or is no registry.
    pub async fn registry(
        &mut self,
        engine: &mut Engine,
        subject: &Subject<'_>,
    ) -> Result<Arc<Registry>, Unanswered> {
        if let Some(registry) = &self.registry {
            return Ok(Arc::clone(registry));
        }
        let domain = subject.reference.domain();
        let endpoint = engine.endpoint();
        if is_on_loopback(domain) && !endpoint.address.is_here() {
            return Err(RegistryError::Elsewhere { registry: domain.to_owned(), endpoint }.into());
        }
        let settings = engine.registry_settings().await?;
        let (credentials, login) = (subject.credentials.clone(), subject.login.clone());
        // Of certificates that only the engine may read: where they are needed, the error says so.
        let access = Access::new(domain, &settings, credentials, login, self.trace, |_| {}).await?;
        let registry = Arc::new(Registry::connect(domain, access).await?);
        Ok(Arc::clone(self.registry.insert(registry)))
    }
}

fn no_answer(subject: &Subject<'_>) -> Unanswered {
    let reason = format!("{} does not answer: timed out", subject.reference.domain());
    subject.refused(&reason, None)
}

/// What the engine knows of the image, or of that platform of it, as far as the engine tells them apart.
///
/// # Errors
/// It does not have it, or is gone.
pub async fn inspect(engine: &mut Engine, subject: &Subject<'_>) -> Result<ImageDetails, Unanswered> {
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
pub async fn inspect_all(engine: &mut Engine, subject: &Subject<'_>) -> Result<ImageDetails, Unanswered> {
    match engine.inspect(subject.local_name).await {
        Err(EngineError::Answered { status, message }) => {
            Err(subject.refused(&message, Some(status.as_u16())))
        }
        answer => Ok(answer?),
    }
}
