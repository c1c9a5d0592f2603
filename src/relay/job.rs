//! The state of one attempt to push an image through the relay to one registry or several, shared by the requests of the
//! engine.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use humantime::format_duration;
use hyper::body::Bytes;
use reqwest::header::HeaderValue;
use tokio::sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout};

use crate::oci::Descriptor;
use crate::relay::guard::{Guard, random_hex};
use crate::relay::upstream::{BODIES, Failure, QUERY, SentManifest, Upstream};
use crate::relay::watched::Watched;
use crate::relay::window::{Arrived, Backlog, KEPT, Window};

/// The maximum number of bytes to keep while some of them wait for the slowest of several registries. The engine then waits
/// too.
pub const MAX_KEPT: u64 = 80 << 20;
/// If the engine cannot send because data waits for a registry, and that registry receives nothing for this time, the others
/// go on without it.
const PATIENCE: Duration = Duration::from_secs(10);
/// The time after which a wait for a registry is reported and checked.
const STEP: Duration = Duration::from_secs(1);
/// The maximum time to wait for the other registries after one has answered whether it has a blob.
const OTHERS: Duration = Duration::from_secs(2);
/// The maximum time between the answer that a blob is missing and the upload of that blob.
const UNTIL_UPLOAD: Duration = Duration::from_secs(2);
/// The maximum time that the next such answer waits for the upload.
const TURN: Duration = Duration::from_millis(250);

/// The state of a blob that the engine sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blob {
    /// The engine is sending the blob.
    Arriving,
    /// The engine has sent the blob. The size is in bytes.
    Arrived(u64),
}

/// An upload that the engine has started at the relay.
#[derive(Default)]
pub struct Started {
    /// The digest that the blob probably has.
    pub likely: Option<String>,
    /// The blob that has arrived.
    pub arrived: Option<(Arrived, Arc<Window>)>,
}

/// One attempt to push an image through the relay.
pub struct Job {
    /// The path of the repository at the relay.
    pub repository: String,
    /// The only tag that the engine may push.
    pub tag: String,
    /// The registries.
    pub upstreams: Vec<Arc<Upstream>>,
    pub guard: Arc<Guard>,
    pub backlog: Arc<Backlog>,
    /// Limits the number of blobs that the engine sends at the same time, since the containerd store opens the requests for
    /// all layers at once.
    slots: Arc<Semaphore>,
    state: Watched<State>,
    /// Locked while an answer waits for the upload of the blob before.
    announcing: AsyncMutex<()>,
    /// Changes each second while the engine waits for a registry.
    waits: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    blobs: HashMap<String, Blob>,
    uploads: HashMap<String, Started>,
    /// The manifests that the engine sent, or that the registries have, by tag and by digest.
    manifests: HashMap<String, Descriptor>,
    /// The manifests that the engine sent, in order.
    sent: Vec<SentManifest>,
    /// The blob that the engine will probably send next, since it asked for it, with the time of the answer.
    announced: Option<(String, Instant)>,
    /// The indexes of registries that did not answer in time.
    silent: HashSet<usize>,
}

impl Job {
    /// * `repository`, `tag`: the repository and the tag under which the engine pushes the image.
    pub fn new(repository: String, tag: String, upstreams: Vec<Arc<Upstream>>) -> Arc<Self> {
        // The data that one registry needs next always has room.
        let limit = if upstreams.len() > 1 { MAX_KEPT } else { 0 };
        Arc::new(Self {
            repository,
            tag,
            upstreams,
            guard: Arc::new(Guard::new()),
            backlog: Arc::new(Backlog::new(limit)),
            slots: Arc::new(Semaphore::new(BODIES)),
            state: Watched::new(State::default()),
            announcing: AsyncMutex::default(),
            waits: watch::Sender::new(()),
        })
    }

    /// Returns whether the image goes to several registries.
    pub fn is_shared(&self) -> bool {
        self.upstreams.len() > 1
    }

    /// Returns the registries whose push has not ended, with their indexes.
    pub fn live(&self) -> impl Iterator<Item = (usize, &Arc<Upstream>)> {
        self.upstreams.iter().enumerate().filter(|(_, upstream)| !upstream.has_ended())
    }

    /// Waits until the pushes to all registries have ended.
    pub async fn ended(&self) {
        join_all(self.upstreams.iter().map(|upstream| upstream.ended())).await;
    }

    /// Returns a receiver that changes each second while the engine waits for a registry.
    pub fn waits(&self) -> watch::Receiver<()> {
        self.waits.subscribe()
    }

    /// Waits until the engine may send a blob.
    ///
    /// * `size`: the size of the blob in bytes, if known. Large chunks of a blob need the memory of several blobs.
    pub async fn slot(&self, size: Option<u64>) -> OwnedSemaphorePermit {
        let chunk = self.live().filter_map(|(_, upstream)| upstream.chunk_size(size)).max();
        let needed = chunk.unwrap_or_default().div_ceil(KEPT).clamp(1, BODIES as u64);
        let needed = u32::try_from(needed).expect("at most the number of slots");
        Arc::clone(&self.slots).acquire_many_owned(needed).await.expect("the semaphore is never closed")
    }

    /// Waits until there is room for more data of a blob. Goes on without a registry that receives nothing while others wait
    /// for it.
    pub async fn room(&self, window: &Window) {
        while timeout(STEP, window.has_room()).await.is_err() {
            self.waits.send_replace(());
            let (stuck, others): (Vec<_>, Vec<_>) =
                self.live().partition(|(_, upstream)| upstream.is_stuck(PATIENCE));
            if others.is_empty() {
                continue;
            }
            for (_, upstream) in stuck {
                let time = format_duration(PATIENCE);
                let reason = format!("it received nothing for {time}, while the other registries waited");
                upstream.fail(Failure::LeftBehind(reason));
            }
        }
    }
}

impl Job {
    /// Returns the size in bytes of a blob if the engine has sent it, or if all registries have it.
    pub async fn find(&self, digest: &str) -> Option<u64> {
        if let Some(Blob::Arrived(size)) = self.blob(digest) {
            return Some(size);
        }
        let silent = self.state.lock().silent.clone();
        let mut asked: FuturesUnordered<_> = self
            .live()
            .filter(|(index, _)| !silent.contains(index))
            .map(|(index, upstream)| async move { (index, upstream.find(digest).await) })
            .collect();
        let mut unanswered: HashSet<usize> = self.live().map(|(index, _)| index).collect();
        let (mut size, mut limit) = (None, QUERY);
        // One registry that lacks the blob settles the answer. The answers of the others count when the blob arrives.
        let is_missing = loop {
            match timeout(limit, asked.next()).await {
                Ok(Some((index, found))) => {
                    limit = OTHERS;
                    unanswered.remove(&index);
                    if found.is_none() && !self.upstreams[index].has_ended() {
                        break true;
                    }
                    size = size.or(found);
                }
                Ok(None) => break !unanswered.is_empty(),
                Err(_) => {
                    // The engine does not wait for these registries again.
                    if self.is_shared() {
                        self.state.lock().silent.extend(unanswered);
                    }
                    break true;
                }
            }
        };
        // Engines that do not ping tell the digest before the data.
        if is_missing && self.is_shared() && self.guard.was_pinged() {
            self.announce(digest).await;
        }
        size.filter(|_| !is_missing)
    }

    /// Records a blob that the engine will probably send next, one at a time. Engines ask for several blobs at once.
    async fn announce(&self, digest: &str) {
        let _turn = self.announcing.lock().await;
        let free = self.state.until(|state| state.announced.is_none().then_some(()));
        let _ = timeout(TURN, free).await;
        self.state.change(|state| state.announced = Some((digest.to_owned(), Instant::now())));
    }

    /// Returns the digest of the blob that the engine probably sends next.
    pub fn take_announced(&self) -> Option<String> {
        let announced = self.state.change(|state| state.announced.take());
        announced.filter(|(_, time)| time.elapsed() < UNTIL_UPLOAD).map(|(digest, _)| digest)
    }

    /// Mounts a blob from another repository. Returns whether all registries have the blob now.
    pub async fn mount(&self, digest: &str, from: &str) -> bool {
        let mounts = self.live().map(|(_, upstream)| async move {
            let mounted =
                timeout(if self.is_shared() { OTHERS } else { QUERY }, upstream.mount(digest, from));
            mounted.await.unwrap_or_default()
        });
        join_all(mounts).await.into_iter().all(|is_mounted| is_mounted)
    }

    pub fn blob(&self, digest: &str) -> Option<Blob> {
        self.state.lock().blobs.get(digest).copied()
    }

    /// Records that the engine has sent a blob, which the registries must store.
    ///
    /// * `size`: in bytes.
    pub fn must_store(&self, digest: &str, size: u64) {
        self.live().for_each(|(_, upstream)| upstream.must_store(digest));
        self.state.change(|state| state.blobs.insert(digest.to_owned(), Blob::Arrived(size)));
    }

    /// Forgets a blob that has not arrived.
    pub fn forget_blob(&self, digest: &str) {
        self.state.change(|state| {
            if state.blobs.get(digest) == Some(&Blob::Arriving) {
                state.blobs.remove(digest);
            }
        });
    }

    /// Reserves a blob for the request that sends it. Returns `false` if another request sends or has sent the blob.
    pub fn reserve(&self, digest: &str) -> bool {
        self.state.change(|state| match state.blobs.get(digest) {
            Some(_) => false,
            None => {
                state.blobs.insert(digest.to_owned(), Blob::Arriving);
                true
            }
        })
    }

    /// Waits until a blob has arrived in another request. Returns `false` if that request failed.
    pub async fn arrives(&self, digest: &str) -> bool {
        self.state
            .until(|state| match state.blobs.get(digest) {
                Some(Blob::Arriving) => None,
                blob => Some(blob.is_some()),
            })
            .await
    }

    /// Adds an upload that the engine starts, and returns its ID.
    pub fn add_upload(&self, likely: Option<String>) -> String {
        let id = random_hex::<16>();
        self.state.lock().uploads.insert(id.clone(), Started { likely, arrived: None });
        id
    }

    pub fn put_upload(&self, id: &str, started: Started) {
        self.state.lock().uploads.insert(id.to_owned(), started);
    }

    pub fn take_upload(&self, id: &str) -> Option<Started> {
        self.state.lock().uploads.remove(id)
    }

    /// Returns the manifest that a tag or a digest names, if the engine has sent it.
    pub fn manifest(&self, reference: &str) -> Option<Descriptor> {
        self.state.lock().manifests.get(reference).cloned()
    }

    /// Returns the manifest that a tag or a digest names, if the engine has sent it, or a single registry has it. Several
    /// registries get each manifest, since some may lack it.
    pub async fn find_manifest(&self, reference: &str) -> Option<Descriptor> {
        if let (None, [upstream]) = (self.manifest(reference), self.upstreams.as_slice()) {
            let found = upstream.resolve(Some(reference).filter(|reference| *reference != self.tag)).await?;
            self.state.lock().manifests.insert(reference.to_owned(), found);
        }
        self.manifest(reference)
    }

    /// Stores a manifest in each registry, as soon as the registry has all blobs.
    ///
    /// * `reference`: the tag of the push, or a digest.
    pub fn store_manifest(
        &self,
        reference: &str,
        manifest: &Descriptor,
        media_type: &HeaderValue,
        body: &Bytes,
    ) {
        {
            let mut state = self.state.lock();
            state.manifests.insert(manifest.digest.clone(), manifest.clone());
            state.manifests.insert(reference.to_owned(), manifest.clone());
        }
        let by_digest = Some(reference.to_owned()).filter(|reference| *reference != self.tag);
        let sent = SentManifest { by_digest, media_type: media_type.clone(), body: body.clone() };
        self.live().for_each(|(_, upstream)| upstream.store_manifest(sent.clone()));
        self.state.lock().sent.push(sent);
    }

    /// Returns the manifests that the engine sent, in order.
    pub fn take_manifests(&self) -> Vec<SentManifest> {
        std::mem::take(&mut self.state.lock().sent)
    }
}
