//! The state of one attempt to push an image through the relay, shared by the requests of the engine.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use reqwest::header::HeaderValue;
use tokio::sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::failure::Class;
use crate::oci::Descriptor;
use crate::reference::Reference;
use crate::registry::Registry;
use crate::registry::error::RegistryError;
use crate::registry::write::{Mounted, Upload, Writer};
use crate::relay::guard::{Guard, random_hex};
use crate::relay::layers::{Layers, Row};
use crate::relay::profile::{self, Profile};
use crate::relay::rate::RateLimit;
use crate::relay::window::{Arrived, KEPT};
use crate::retry::{AttemptFailure, RetryBudget};

/// The maximum number of blobs that the relay sends at the same time. The relay keeps up to
/// [`KEPT`](super::window::KEPT) bytes of each, and the containerd store opens the requests for all layers at once.
const BODIES: usize = 3;

/// The reason why a push through the relay failed.
#[derive(Debug)]
pub struct Failure {
    pub error: RegistryError,
    /// Another attempt can help, because the registry lost data that only the engine has.
    pub can_retry: bool,
}

impl Failure {
    /// Returns whether the engine can send the image again in smaller requests, which the registry may accept.
    pub fn can_retry_in_chunks(&self) -> bool {
        self.can_retry && matches!(self.error, RegistryError::TooLarge { .. })
    }
}

/// The state of a blob in the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blob {
    /// The engine is sending the blob.
    Arriving,
    /// The engine has sent the blob, and the registry may not have stored it yet. The size is in bytes.
    Storing(u64),
    /// The repository has the blob. The size is in bytes.
    Stored(u64),
}

/// An upload that the engine has started at the relay.
#[derive(Debug, Default)]
pub struct Started {
    /// The blob that has arrived, and the sender of the digest under which the engine finishes the upload.
    pub arrived: Option<(Arrived, oneshot::Sender<String>)>,
}

/// The options of an upload through the relay.
#[derive(Default)]
pub struct Settings {
    /// The maximum number of retries for one blob or one manifest.
    pub retries: u32,
    /// Other repositories of the registry that may have blobs of the image.
    pub mount_sources: Vec<String>,
    /// The limit of the rate of all uploads.
    pub rate: Option<Arc<RateLimit>>,
    /// The size of chunks in bytes that the user wants; 0: one stream.
    pub chunk_size: Option<u64>,
}

/// One attempt to push an image through the relay.
pub struct Job {
    /// The path of the repository, which is the same at the relay and at the registry.
    pub repository: String,
    /// The only tag that the engine may push.
    pub tag: String,
    pub writer: Writer,
    pub layers: Layers,
    /// Limits the number of blobs that are sent at the same time.
    bodies: Arc<Semaphore>,
    settings: Settings,
    pub profile: Profile,
    pub guard: Arc<Guard>,
    state: Mutex<State>,
    /// Changes with the state.
    version: watch::Sender<()>,
    /// The background tasks. Each has a reference to the job, so [`stop`](Self::stop) must end them.
    tasks: Mutex<JoinSet<()>>,
    /// Locked while a manifest is stored, in the order in which the engine sent the manifests.
    manifest_turn: AsyncMutex<()>,
}

#[derive(Default)]
struct State {
    blobs: HashMap<String, Blob>,
    uploads: HashMap<String, Started>,
    /// An upload at the registry that has received nothing, after a mount that the registry refused.
    unused_upload: Option<Upload>,
    /// The manifests that the engine sent, or that the registry has, by tag and by digest.
    manifests: HashMap<String, Descriptor>,
    /// The number of manifests that the registry has not stored so far.
    unstored: usize,
    failure: Option<Failure>,
    /// The latest time until which a request waits before a retry.
    waits_until: Option<Instant>,
}

impl Job {
    /// # Errors
    /// The TLS configuration for the registry cannot be used.
    pub fn new(
        registry: Arc<Registry>,
        reference: &Reference,
        settings: Settings,
    ) -> Result<Arc<Self>, RegistryError> {
        let writer = Writer::new(registry, reference.path())?;
        Ok(Arc::new(Self {
            repository: reference.path().to_owned(),
            tag: reference.tag_or_latest().to_owned(),
            writer,
            layers: Layers::default(),
            bodies: Arc::new(Semaphore::new(BODIES)),
            profile: Profile::of(reference.domain()),
            settings,
            guard: Arc::new(Guard::new()),
            state: Mutex::default(),
            version: watch::Sender::new(()),
            tasks: Mutex::default(),
            manifest_turn: AsyncMutex::default(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes all tasks that wait for a change.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state());
        self.version.send_replace(());
        changed
    }

    /// Waits until `check` returns a value. Calls `check` after each change of the state.
    async fn until<T>(&self, mut check: impl FnMut(&State) -> Option<T>) -> T {
        let mut version = self.version.subscribe();
        loop {
            if let Some(value) = check(&self.state()) {
                return value;
            }
            // The sender exists as long as `self`, so this wait does not fail.
            let _ = version.changed().await;
        }
    }

    /// Ends all background tasks.
    pub fn stop(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }

    /// Returns the latest time until which a request to the registry waits before a retry.
    pub fn waits_until(&self) -> Option<Instant> {
        self.state().waits_until
    }

    /// Runs a task in the background until it ends or the job is stopped.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Ends the push with a failure, unless it has failed already.
    pub fn fail(&self, failure: Failure) {
        self.change(|state| _ = state.failure.get_or_insert(failure));
    }

    /// Ends the push because the registry refuses it.
    pub fn refuse(&self, error: RegistryError) {
        self.fail(Failure { error, can_retry: false });
    }

    /// Waits until the push has failed.
    pub async fn failed(&self) {
        self.until(|state| state.failure.as_ref().map(|_| ())).await;
    }

    /// Returns notes about the registry's answers.
    pub fn notes(&self) -> Vec<String> {
        let is_asked = self.settings.chunk_size.is_some_and(|size| size > 0);
        let no_chunks = (is_asked && !self.profile.accepts_chunks()).then(|| {
            format!("{} does not support chunks, so --chunk-size has no effect", self.writer.domain())
        });
        no_chunks.into_iter().chain(self.writer.take_notes()).collect()
    }

    pub fn take_failure(&self) -> Option<Failure> {
        self.state().failure.take()
    }

    /// Waits until the registry has stored everything that the engine sent, or the push has failed.
    pub async fn settled(&self) {
        self.until(|state| {
            let is_stored = state.unstored == 0 && state.blobs.values().all(is_stored);
            (is_stored || state.failure.is_some()).then_some(())
        })
        .await;
    }

    /// Waits until a blob may be sent.
    ///
    /// * `chunk`: the size of its chunks in bytes. Large chunks need the memory of several blobs.
    pub async fn slot(&self, chunk: Option<u64>) -> OwnedSemaphorePermit {
        let bodies = Arc::clone(&self.bodies);
        let needed = chunk.unwrap_or_default().div_ceil(KEPT as u64).clamp(1, BODIES as u64);
        let needed = u32::try_from(needed).expect("at most the number of slots");
        bodies.acquire_many_owned(needed).await.expect("the semaphore is never closed")
    }

    /// Returns the limit of the rate of all uploads.
    pub fn rate(&self) -> Option<&RateLimit> {
        self.settings.rate.as_deref()
    }

    /// Returns the size in bytes of the chunks of a blob; `None`: the blob is sent in one stream.
    ///
    /// * `size`: the size of the blob in bytes, if known.
    pub fn chunk_size(&self, size: Option<u64>) -> Option<u64> {
        self.profile.chunk_size(self.settings.chunk_size, self.writer.chunk_limits(), size)
    }

    /// Returns the size in bytes of chunks after the registry refused a request without the length of its body. `None`: the
    /// user wants one stream.
    pub fn chunk_size_with_length(&self) -> Option<u64> {
        self.writer.set_requires_length();
        self.chunk_size(None)
    }

    /// Returns the size in bytes of chunks after the registry refused a request because of its size. `None`: no smaller size
    /// is left, or the user wants one stream.
    ///
    /// * `size`: the size of the refused request in bytes.
    pub fn smaller_chunk(&self, size: u64) -> Option<u64> {
        profile::smaller(size)?;
        self.writer.set_refused_size(size);
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
        self.change(|state| state.waits_until = state.waits_until.max(Some(end)));
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if let Some(row) = row {
                row.set_retrying(left.as_secs_f64().ceil() as u64);
            }
            tokio::time::sleep(left.min(STEP)).await;
        }
        Ok(())
    }
}

impl Job {
    /// Returns the size in bytes of a blob if the repository has it. Mounts the blob from a repository that may have it.
    pub async fn find(&self, digest: &str) -> Result<Option<u64>, RegistryError> {
        if let Some(Blob::Storing(size) | Blob::Stored(size)) = self.blob(digest) {
            return Ok(Some(size));
        }
        let mut found = self.writer.size_of(digest).await?;
        for from in &self.settings.mount_sources {
            if found.is_none() && self.mount(digest, from).await {
                found = self.writer.size_of(digest).await?;
            }
        }
        if let Some(size) = found {
            self.change(|state| state.blobs.insert(digest.to_owned(), Blob::Stored(size)));
        }
        Ok(found)
    }

    /// Mounts a blob from another repository of the registry. Returns whether the repository has the blob now. If the
    /// registry starts an upload instead, one such upload is kept for the next blob, and others are cancelled.
    pub async fn mount(&self, digest: &str, from: &str) -> bool {
        match self.writer.mount(digest, from).await {
            Ok(Mounted::Yes) => true,
            Ok(Mounted::No(upload)) => {
                let is_needed = self.state().unused_upload.is_none();
                match upload {
                    Some(upload) if is_needed => self.state().unused_upload = Some(upload),
                    Some(upload) => self.writer.cancel(&upload).await,
                    None => {}
                }
                false
            }
            Err(error) => {
                // The upload that follows shows whether the registry refuses more than the mount. Refused credentials are
                // not sent again.
                if error.class() == Class::Auth {
                    self.refuse(error);
                }
                false
            }
        }
    }

    /// Cancels an upload at the registry that was not needed.
    pub async fn cancel_unused_upload(&self) {
        let unused = self.state().unused_upload.take();
        if let Some(upload) = unused {
            self.writer.cancel(&upload).await;
        }
    }

    /// Returns the unused upload if there is one, or starts an upload at the registry.
    pub async fn start(&self, retries: &mut RetryBudget, row: Option<&Row>) -> Result<Upload, RegistryError> {
        if let Some(unused) = self.state().unused_upload.take() {
            return Ok(unused);
        }
        loop {
            match self.writer.start().await {
                Ok(upload) => return Ok(upload),
                Err(error) => self.wait_after(error, retries, row).await?,
            }
        }
    }

    pub fn blob(&self, digest: &str) -> Option<Blob> {
        self.state().blobs.get(digest).copied()
    }

    pub fn set_blob(&self, digest: &str, blob: Blob) {
        self.change(|state| state.blobs.insert(digest.to_owned(), blob));
    }

    /// Forgets a blob that has not arrived.
    pub fn forget_blob(&self, digest: &str) {
        self.change(|state| state.blobs.remove(digest));
    }

    /// Reserves a blob for the request that sends it. Returns `false` if another request sends or has sent the blob.
    pub fn reserve(&self, digest: &str) -> bool {
        self.change(|state| match state.blobs.get(digest) {
            Some(_) => false,
            None => {
                state.blobs.insert(digest.to_owned(), Blob::Arriving);
                true
            }
        })
    }

    /// Waits until a blob has arrived in another request. Returns `false` if that request failed.
    pub async fn arrives(&self, digest: &str) -> bool {
        self.until(|state| match state.blobs.get(digest) {
            Some(Blob::Arriving) => None,
            blob => Some(blob.is_some()),
        })
        .await
    }

    /// Adds an upload that the engine starts, and returns its ID.
    pub fn add_upload(&self) -> String {
        let id = random_hex::<16>();
        self.state().uploads.insert(id.clone(), Started::default());
        id
    }

    pub fn put_upload(&self, id: &str, started: Started) {
        self.state().uploads.insert(id.to_owned(), started);
    }

    pub fn take_upload(&self, id: &str) -> Option<Started> {
        self.state().uploads.remove(id)
    }

    pub fn manifest(&self, reference: &str) -> Option<Descriptor> {
        self.state().manifests.get(reference).cloned()
    }

    /// Records a manifest that the registry has.
    pub fn add_manifest(&self, reference: &str, manifest: Descriptor) {
        self.state().manifests.insert(reference.to_owned(), manifest);
    }

    /// Stores a manifest in the registry, after all blobs. The manifests are stored in the order of the calls.
    pub fn store_manifest(
        self: &Arc<Self>,
        reference: String,
        manifest: Descriptor,
        media_type: HeaderValue,
        body: Bytes,
    ) {
        self.change(|state| {
            state.unstored += 1;
            state.manifests.insert(manifest.digest.clone(), manifest.clone());
            state.manifests.insert(reference.clone(), manifest);
        });
        let job = Arc::clone(self);
        self.spawn(async move {
            let _turn = job.manifest_turn.lock().await;
            job.until(|state| state.blobs.values().all(is_stored).then_some(())).await;
            let mut retries = job.retries();
            loop {
                let put = job.writer.put_manifest(&reference, media_type.clone(), body.clone()).await;
                let Err(error) = put else { break };
                if let Err(error) = job.wait_after(error, &mut retries, None).await {
                    return job.refuse(error);
                }
            }
            job.change(|state| state.unstored -= 1);
        });
    }
}

fn is_stored(blob: &Blob) -> bool {
    matches!(blob, Blob::Stored(_))
}
