//! One registry of a push through the relay: what it has, and what it must still store.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use hyper::body::Bytes;
use reqwest::header::HeaderValue;
use tokio::sync::{Mutex as AsyncMutex, OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::failure::Class;
use crate::oci::Descriptor;
use crate::reference::Reference;
use crate::registry::error::RegistryError;
use crate::registry::manifest::ServedManifest;
use crate::registry::write::{Mounted, Upload, Writer};
use crate::registry::{ChunkLimits, Registry};
use crate::relay::layers::{Layers, Row};
use crate::relay::profile::{self, Profile};
use crate::relay::rate::RateLimit;
use crate::relay::watched::Watched;
use crate::relay::window::{Reader, Window};
use crate::retry::{AttemptFailure, RetryBudget};

/// The maximum number of blobs that are sent to a registry at the same time.
pub const BODIES: usize = 3;
/// The maximum time for a query to the registry, after which the registry counts as one that lacks the blob. docker 29 waits
/// for 30 s.
pub const QUERY: Duration = Duration::from_secs(15);

/// The reason why a push to a registry through the relay failed.
#[derive(Debug)]
pub enum Failure {
    /// The registry refuses the push, or no retry is left.
    Final(RegistryError),
    /// The registry lost data that only the engine has.
    Lost(RegistryError),
    /// The other registries go on without this one, and only the engine has the data that it lacks. The reason is for messages.
    LeftBehind(String),
}

impl Failure {
    /// Returns whether the engine can send the image again in smaller requests, which the registry may accept.
    pub fn can_retry_in_chunks(&self) -> bool {
        matches!(self, Self::Lost(RegistryError::TooLarge { .. }))
    }
}

/// A manifest that the engine sent.
#[derive(Clone, Debug)]
pub struct SentManifest {
    /// The digest under which it is stored; `None`: it is stored under the tag of the push.
    pub by_digest: Option<String>,
    pub media_type: HeaderValue,
    pub body: Bytes,
}

impl SentManifest {
    /// Returns the digests of the blobs that a registry must have, and those of the layers, starting with the lowest. An index
    /// has none.
    pub fn blobs_and_layers(&self) -> (Vec<String>, Vec<String>) {
        let Ok(manifest) = ServedManifest::parse(&self.body) else { return (Vec::new(), Vec::new()) };
        (manifest.blobs(), manifest.layers().map(str::to_owned).collect())
    }
}

/// Whether the repository has a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    /// The plugin asks the registry.
    Asking,
    Missing,
    /// The size is in bytes.
    Stored(u64),
}

/// Stops the upload to a registry on drop.
pub struct Stopping(pub Arc<Upstream>);

impl Drop for Stopping {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// The options of an upload through the relay.
#[derive(Clone, Default)]
pub struct Settings {
    /// The maximum number of retries for one blob or one manifest.
    pub retries: u32,
    /// The limit of the rate of all uploads.
    pub rate: Option<Arc<RateLimit>>,
    /// The size of chunks in bytes that the user wants; 0: one stream.
    pub chunk_size: Option<u64>,
}

/// The repository of one registry in one attempt to push an image through the relay.
pub struct Upstream {
    /// The `host[:port]` of the registry.
    pub domain: String,
    /// The repository and the tag, set when the registry may receive data.
    target: OnceCell<(Writer, String)>,
    pub layers: Layers,
    /// Limits the number of blobs that are sent at the same time.
    bodies: Arc<Semaphore>,
    settings: Settings,
    /// Other repositories of the registry that may have blobs of the image.
    mount_sources: Vec<String>,
    pub profile: Profile,
    state: Watched<State>,
    /// The background tasks. Each has a reference to this value, so [`stop`](Self::stop) must end them.
    tasks: Mutex<JoinSet<()>>,
    /// Locked while a manifest is stored, in the order in which the engine sent the manifests.
    manifest_turn: AsyncMutex<()>,
}

struct State {
    blobs: HashMap<String, Presence>,
    /// The blobs that the engine has sent, and that the registry may not have stored so far.
    unstored_blobs: HashSet<String>,
    /// An upload at the registry that has received nothing, after a mount that the registry refused.
    unused_upload: Option<Upload>,
    /// The number of manifests that the registry has not stored so far.
    unstored_manifests: usize,
    has_ended: bool,
    failure: Option<Failure>,
    /// The latest time until which a request waits before a retry.
    waits_until: Option<Instant>,
    /// The readers of the blobs that the engine sends.
    readers: Vec<(Weak<Window>, usize)>,
    /// The time at which data was last handed to a connection with the registry, a blob began, or a blob was stored.
    moved: Instant,
}

impl Upstream {
    /// * `domain`: the `host[:port]` of the registry.
    /// * `mount_sources`: other repositories of the registry that may have blobs of the image.
    pub fn new(domain: &str, settings: Settings, mount_sources: Vec<String>) -> Arc<Self> {
        let state = State {
            blobs: HashMap::new(),
            unstored_blobs: HashSet::new(),
            unused_upload: None,
            unstored_manifests: 0,
            has_ended: false,
            failure: None,
            waits_until: None,
            readers: Vec::new(),
            moved: Instant::now(),
        };
        Arc::new(Self {
            domain: domain.to_owned(),
            target: OnceCell::new(),
            layers: Layers::default(),
            bodies: Arc::new(Semaphore::new(BODIES)),
            profile: Profile::of(domain),
            settings,
            mount_sources,
            state: Watched::new(state),
            tasks: Mutex::default(),
            manifest_turn: AsyncMutex::default(),
        })
    }

    /// Lets the registry receive data.
    ///
    /// * `reference`: the reference under which the registry gets the image.
    ///
    /// # Errors
    /// The TLS configuration for the registry cannot be used.
    pub fn connect(&self, registry: Arc<Registry>, reference: &Reference) -> Result<(), RegistryError> {
        let writer = Writer::new(registry, reference.path())?;
        // A second call changes nothing.
        let _ = self.target.set((writer, reference.tag_or_latest().to_owned()));
        self.state.change(|state| state.moved = Instant::now());
        Ok(())
    }

    /// Waits until the registry may receive data, and returns its writer.
    pub async fn writer(&self) -> &Writer {
        &self.target().await.0
    }

    async fn target(&self) -> &(Writer, String) {
        self.state.until(|_| self.target.get()).await
    }

    fn known_writer(&self) -> Option<&Writer> {
        self.target.get().map(|(writer, _)| writer)
    }

    /// Runs a task in the background until it ends or [`stop`](Self::stop) is called.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        if !self.has_ended() {
            tasks.spawn(task);
        }
    }

    /// Ends all background tasks. The registry receives nothing more.
    pub fn stop(&self) {
        self.state.change(|state| state.has_ended = true);
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }

    /// Returns whether the registry receives nothing more.
    pub fn has_ended(&self) -> bool {
        self.state.lock().has_ended
    }

    /// Waits until the registry receives nothing more.
    pub async fn ended(&self) {
        self.state.until(|state| state.has_ended.then_some(())).await;
    }

    /// Ends the push to this registry with a failure, unless it has failed already.
    pub fn fail(&self, failure: Failure) {
        self.state.change(|state| _ = state.failure.get_or_insert(failure));
        self.stop();
    }

    pub fn take_failure(&self) -> Option<Failure> {
        self.state.lock().failure.take()
    }

    /// Returns the latest time until which a request to the registry waits before a retry.
    pub fn waits_until(&self) -> Option<Instant> {
        self.state.lock().waits_until
    }

    /// Returns notes about the registry's answers.
    pub fn notes(&self) -> Vec<String> {
        let is_asked = self.settings.chunk_size.is_some_and(|size| size > 0);
        let no_chunks = (is_asked && !self.profile.accepts_chunks())
            .then(|| format!("{} does not support chunks, so --chunk-size has no effect", self.domain));
        no_chunks.into_iter().chain(self.known_writer().map(Writer::take_notes).unwrap_or_default()).collect()
    }

    /// Waits until the registry has stored everything that the engine has sent so far, or the push has failed.
    pub async fn settled(&self) {
        self.state
            .until(|state| {
                let is_stored = state.unstored_manifests == 0 && state.unstored_blobs.is_empty();
                (is_stored || state.has_ended).then_some(())
            })
            .await;
    }

    /// Waits until a blob may be sent.
    pub async fn slot(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.bodies).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Returns the limit of the rate of all uploads.
    pub fn rate(&self) -> Option<&Arc<RateLimit>> {
        self.settings.rate.as_ref()
    }

    /// Records that data was handed to a connection with the registry.
    pub fn saw_movement(&self) {
        self.state.lock().moved = Instant::now();
    }

    /// Returns the reader of a blob for this registry.
    ///
    /// * `index`: the index of the reader in the window.
    pub fn add_reader(&self, window: &Arc<Window>, index: usize) -> Reader {
        self.state.change(|state| {
            state.readers.retain(|(window, _)| window.strong_count() > 0);
            state.readers.push((Arc::downgrade(window), index));
            state.moved = Instant::now();
        });
        Reader::new(Arc::clone(window), index)
    }

    /// Returns whether there is data that was not handed to a connection with the registry.
    pub fn has_unsent_data(&self) -> bool {
        let readers = self.state.lock().readers.clone();
        readers.iter().any(|(window, index)| window.upgrade().is_some_and(|window| window.has_unread(*index)))
    }

    /// Returns whether the registry has received no data for some time, although there is data for it.
    pub fn is_stuck(&self, time: Duration) -> bool {
        let has_moved = self.state.lock().moved.elapsed() < time;
        !has_moved && self.has_unsent_data()
    }
}

impl Upstream {
    fn chunk_limits(&self) -> ChunkLimits {
        self.known_writer().map(Writer::chunk_limits).unwrap_or_default()
    }

    /// Returns the size in bytes of the chunks of a blob; `None`: the blob is sent in one stream.
    ///
    /// * `size`: the size of the blob in bytes, if known.
    pub fn chunk_size(&self, size: Option<u64>) -> Option<u64> {
        self.profile.chunk_size(self.settings.chunk_size, self.chunk_limits(), size)
    }

    /// Returns whether the registry, or a proxy in front of it, has refused a request because of its size.
    pub fn has_refused_size(&self) -> bool {
        self.chunk_limits().refused.is_some()
    }

    /// Returns the size in bytes of chunks after the registry refused a request without the length of its body. `None`: the
    /// user wants one stream.
    pub async fn chunk_size_with_length(&self) -> Option<u64> {
        self.writer().await.set_requires_length();
        self.chunk_size(None)
    }

    /// Returns the size in bytes of chunks after the registry refused a request because of its size. `None`: no smaller size
    /// is left, or the user wants one stream.
    ///
    /// * `size`: the size of the refused request in bytes.
    pub async fn smaller_chunk(&self, size: u64) -> Option<u64> {
        profile::smaller(size)?;
        self.writer().await.set_refused_size(size);
        self.chunk_size(None).filter(|chunk| *chunk < size)
    }

    /// Returns the retries for one blob or one manifest.
    pub fn retries(&self) -> RetryBudget {
        RetryBudget::new(self.settings.retries)
    }

    /// Waits before a retry, as long as the registry demands.
    ///
    /// * `row`: shows the wait.
    ///
    /// # Errors
    /// The failure, if a retry cannot help or none is left.
    pub async fn wait_after(
        &self,
        error: RegistryError,
        retries: &mut RetryBudget,
        row: Option<&Row>,
    ) -> Result<(), RegistryError> {
        const STEP: Duration = Duration::from_secs(1);
        let failure = AttemptFailure {
            verdict: error.verdict(),
            has_pushed_layer: false,
            max_retries: u32::MAX,
            retry_after: error.retry_after(),
            sent: None,
        };
        let Some(next) = retries.after(&failure) else { return Err(error) };
        let end = Instant::now() + next.wait;
        self.state.change(|state| state.waits_until = state.waits_until.max(Some(end)));
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if let Some(row) = row {
                row.set_retrying(left.as_secs_f64().ceil() as u64);
            }
            tokio::time::sleep(left.min(STEP)).await;
        }
        Ok(())
    }
}

impl Upstream {
    /// Returns the size in bytes of a blob if the repository has it. Mounts the blob from a repository that may have it. Asks
    /// the registry once for each blob.
    pub async fn find(self: &Arc<Self>, digest: &str) -> Option<u64> {
        let asks = self.state.change(|state| {
            let is_new = !state.blobs.contains_key(digest);
            if is_new {
                state.blobs.insert(digest.to_owned(), Presence::Asking);
            }
            is_new
        });
        if asks {
            let (own, digest) = (Arc::clone(self), digest.to_owned());
            self.spawn(async move {
                let found = tokio::time::timeout(QUERY, own.ask_for(&digest)).await.ok().flatten();
                match found {
                    Some(size) => own.set_stored(&digest, size),
                    None => own.set_missing(&digest),
                }
            });
        }
        self.state
            .until(|state| match state.blobs.get(digest) {
                _ if state.has_ended => Some(None),
                None | Some(Presence::Asking) => None,
                Some(Presence::Stored(size)) => Some(Some(*size)),
                Some(Presence::Missing) => Some(None),
            })
            .await
    }

    /// After a failure, returns `None`, since the upload that follows reports the failure. Refused credentials end the push.
    async fn ask_for(&self, digest: &str) -> Option<u64> {
        let writer = self.writer().await;
        let found = async {
            let mut found = writer.size_of(digest).await?;
            for from in &self.mount_sources {
                if found.is_none() && self.is_mounted(digest, from).await {
                    found = writer.size_of(digest).await?;
                }
            }
            Ok(found)
        };
        match found.await {
            Ok(found) => found,
            Err(error) => {
                self.refuse_credentials(error);
                None
            }
        }
    }

    /// Mounts a blob from another repository of the registry. Returns whether the repository has the blob now.
    pub async fn mount(self: &Arc<Self>, digest: &str, from: &str) -> bool {
        let writer = self.writer().await;
        if !self.is_mounted(digest, from).await {
            return false;
        }
        let size = writer.size_of(digest).await.ok().flatten();
        if let Some(size) = size {
            self.set_stored(digest, size);
        }
        size.is_some()
    }

    /// Asks the registry to mount a blob. If the registry starts an upload instead, one such upload is kept for the next blob,
    /// and others are cancelled.
    async fn is_mounted(&self, digest: &str, from: &str) -> bool {
        let writer = self.writer().await;
        match writer.mount(digest, from).await {
            Ok(Mounted::Yes) => true,
            Ok(Mounted::No(upload)) => {
                let is_needed = self.state.lock().unused_upload.is_none();
                match upload {
                    Some(upload) if is_needed => self.state.lock().unused_upload = Some(upload),
                    Some(upload) => writer.cancel(&upload).await,
                    None => {}
                }
                false
            }
            // The upload that follows shows whether the registry refuses more than the mount.
            Err(error) => {
                self.refuse_credentials(error);
                false
            }
        }
    }

    /// Ends the push if the registry has refused the credentials, which are not sent again.
    fn refuse_credentials(&self, error: RegistryError) {
        if error.class() == Class::Auth {
            self.fail(Failure::Final(error));
        }
    }

    /// Cancels an upload at the registry that was not needed.
    pub async fn cancel_unused_upload(&self) {
        let unused = self.state.lock().unused_upload.take();
        if let (Some(upload), Some(writer)) = (unused, self.known_writer()) {
            writer.cancel(&upload).await;
        }
    }

    /// Returns the unused upload if there is one, or starts an upload at the registry.
    pub async fn start(&self, retries: &mut RetryBudget, row: Option<&Row>) -> Result<Upload, RegistryError> {
        if let Some(unused) = self.state.lock().unused_upload.take() {
            return Ok(unused);
        }
        loop {
            match self.writer().await.start().await {
                Ok(upload) => return Ok(upload),
                Err(error) => self.wait_after(error, retries, row).await?,
            }
        }
    }

    /// Records that the engine has sent a blob, which the registry must store unless it has it.
    pub fn must_store(&self, digest: &str) {
        self.state.change(|state| {
            if !matches!(state.blobs.get(digest), Some(Presence::Stored(_))) {
                state.unstored_blobs.insert(digest.to_owned());
            }
        });
    }

    /// Records that the repository has a blob.
    ///
    /// * `size`: in bytes.
    pub fn set_stored(&self, digest: &str, size: u64) {
        self.state.change(|state| {
            state.blobs.insert(digest.to_owned(), Presence::Stored(size));
            state.unstored_blobs.remove(digest);
            state.moved = Instant::now();
        });
    }

    /// Records the answer that the repository lacks a blob, unless it got the blob meanwhile.
    fn set_missing(&self, digest: &str) {
        self.state.change(|state| {
            if let Some(presence @ Presence::Asking) = state.blobs.get_mut(digest) {
                *presence = Presence::Missing;
            }
        });
    }

    /// Returns the manifest that a digest names in the repository, or the tag of the push (`None`).
    pub async fn resolve(&self, digest: Option<&str>) -> Option<Descriptor> {
        let asked = async {
            let (writer, tag) = self.target().await;
            writer.resolve(digest.unwrap_or(tag)).await
        };
        tokio::time::timeout(QUERY, asked).await.ok()?.ok()?
    }

    /// Stores a manifest in the registry, after all blobs. The manifests are stored in the order of the calls.
    pub fn store_manifest(self: &Arc<Self>, manifest: SentManifest) {
        self.state.change(|state| state.unstored_manifests += 1);
        let own = Arc::clone(self);
        self.spawn(async move {
            let _turn = own.manifest_turn.lock().await;
            own.state.until(|state| state.unstored_blobs.is_empty().then_some(())).await;
            let SentManifest { by_digest, media_type, body } = manifest;
            let (writer, tag) = own.target().await;
            let reference = by_digest.as_deref().unwrap_or(tag);
            let mut retries = own.retries();
            loop {
                let put = writer.put_manifest(reference, media_type.clone(), body.clone()).await;
                let Err(error) = put else { break };
                if let Err(error) = own.wait_after(error, &mut retries, None).await {
                    return own.fail(Failure::Final(error));
                }
            }
            own.state.change(|state| state.unstored_manifests -= 1);
        });
    }
}
