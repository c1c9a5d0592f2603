//! The data of a blob that the engine sends: hashed as it arrives, and kept until each registry has received it.

use std::collections::VecDeque;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use futures_util::stream::unfold;
use ring::digest::{Context, SHA256};
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::oci::hex;
use crate::relay::watched::Watched;

/// The maximum number of bytes to keep of one blob after they were sent. A registry may have received less than the plugin
/// has sent, since connections and proxies hold back several MB.
pub const KEPT: u64 = 16 << 20;
/// The sizes in bytes of allocations: small ones for small blobs.
const BLOCKS: RangeInclusive<u64> = 16 << 10..=256 << 10;
/// The number of bytes of a blob that may always wait for a registry.
const LEAST: u64 = 1 << 20;

/// The number of bytes that are kept of all blobs of a push.
#[derive(Debug)]
pub struct Backlog {
    total: AtomicU64,
    /// The engine sends no more while this number of bytes is kept and data waits for a registry.
    limit: u64,
    /// Changes if there may be room for more data.
    version: watch::Sender<()>,
}

impl Backlog {
    /// * `limit`: in bytes.
    pub fn new(limit: u64) -> Self {
        Self { total: AtomicU64::new(0), limit, version: watch::Sender::new(()) }
    }

    fn has_room(&self) -> bool {
        self.total.load(Ordering::Relaxed) < self.limit
    }

    fn replace(&self, before: u64, now: u64) {
        if now > before {
            self.total.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.total.fetch_sub(before - now, Ordering::Relaxed);
        }
    }
}

/// A blob that has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// The SHA-256 digest; `None` if it was not computed.
    pub digest: Option<String>,
    /// The size in bytes.
    pub size: u64,
}

/// The engine closed the connection before it sent the whole blob, or did not finish the upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineLeft;

/// One blob, written by the request of the engine, and read by one [`Reader`] for each registry.
pub struct Window {
    backlog: Arc<Backlog>,
    state: Watched<State>,
}

struct State {
    /// Computes the digest. `None`: the digest is not needed.
    hash: Option<Context>,
    /// The kept data, with the offset of each part in the blob.
    kept: VecDeque<(u64, Bytes)>,
    /// The free rest of the memory of the last part. The parts are copies, since the data that a connection returns occupies
    /// the memory of its whole read buffer.
    block: BytesMut,
    /// The offsets in the blob of the first kept byte, and of the first byte that has not arrived.
    start: u64,
    end: u64,
    is_complete: bool,
    has_left: bool,
    /// The digest under which the engine finishes the upload.
    digest: Option<String>,
    readers: Vec<Place>,
    /// The maximum number of bytes to keep after they were sent.
    limit: u64,
    /// The number of bytes that may wait for a registry also if there is no room in the backlog.
    least: u64,
    /// The number of kept bytes that the backlog counts.
    counted: u64,
    /// The offset of the first byte that a reader needed at the last change.
    slowest: u64,
    /// The right to receive a blob. Returned as soon as the blob needs no memory, or the backlog counts its memory.
    slot: Option<OwnedSemaphorePermit>,
}

/// The place of a reader in a blob.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The offset of the first byte that the reader still needs; `None`: it needs no more data.
    offset: Option<u64>,
    /// Incremented if the reader goes to another place, so that an earlier request reads no more.
    generation: u64,
    /// The registry may not need the data.
    is_holding: bool,
}

impl State {
    /// Returns the offset of the first byte that a reader still needs.
    fn needed(&self) -> u64 {
        self.readers.iter().filter_map(|place| place.offset).min().unwrap_or(self.end)
    }

    fn is_needed(&self) -> bool {
        self.readers.iter().any(|place| place.offset.is_some())
    }

    /// Drops the data that no reader needs, and updates the backlog.
    fn trim(&mut self, backlog: &Backlog) {
        let keep_from = if self.is_needed() { self.needed().saturating_sub(self.limit) } else { self.end };
        while self.kept.front().is_some_and(|(at, part)| at + part.len() as u64 <= keep_from) {
            self.kept.pop_front();
        }
        self.start = self.kept.front().map_or(self.end, |(at, _)| *at);
        if self.kept.is_empty() {
            self.kept = VecDeque::new();
        }
        let counted = self.end - self.start;
        let (kept_before, needed_before) = (self.counted, self.slowest);
        backlog.replace(kept_before, counted);
        (self.counted, self.slowest) = (counted, self.needed());
        if counted < kept_before || self.slowest > needed_before {
            backlog.version.send_replace(());
        }
        if self.is_complete && !self.is_needed() {
            self.slot = None;
        }
    }
}

impl Window {
    /// * `needs_digest`: compute the digest while the data arrives.
    /// * `readers`: the number of registries for which a [`Reader`] will be made.
    pub fn new(backlog: Arc<Backlog>, needs_digest: bool, readers: usize) -> Arc<Self> {
        let state = State {
            hash: needs_digest.then(|| Context::new(&SHA256)),
            kept: VecDeque::new(),
            block: BytesMut::new(),
            start: 0,
            end: 0,
            is_complete: false,
            has_left: false,
            digest: None,
            readers: vec![Place { offset: Some(0), generation: 0, is_holding: false }; readers],
            limit: KEPT,
            least: LEAST,
            counted: 0,
            slowest: 0,
            slot: None,
        };
        Arc::new(Self { backlog, state: Watched::new(state) })
    }

    /// Changes the state, and drops the data that no reader needs any more.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        self.state.change(|state| {
            let changed = change(state);
            state.trim(&self.backlog);
            changed
        })
    }

    /// Waits until more data may arrive.
    pub async fn has_room(&self) {
        let mut version = self.backlog.version.subscribe();
        loop {
            let has_own_room = {
                let state = self.state.lock();
                state.end - state.needed() < state.least
            };
            if has_own_room || self.backlog.has_room() {
                return;
            }
            // The window owns a reference to the sender, so this wait does not fail.
            let _ = version.changed().await;
        }
    }

    /// Adds data that has arrived.
    pub fn add(&self, mut data: &[u8]) {
        self.change(|state| {
            if let Some(hash) = &mut state.hash {
                hash.update(data);
            }
            while !data.is_empty() {
                if state.block.capacity() == 0 {
                    let size = state.end.clamp(*BLOCKS.start(), *BLOCKS.end());
                    state.block = BytesMut::with_capacity(size as usize);
                }
                let (part, rest) = data.split_at(data.len().min(state.block.capacity()));
                state.block.extend_from_slice(part);
                state.kept.push_back((state.end, state.block.split().freeze()));
                state.end += part.len() as u64;
                data = rest;
            }
        });
    }

    /// Records that the whole blob has arrived. Returns its digest and its size.
    ///
    /// * `keeps_slot`: no more blobs arrive while this blob needs memory.
    pub fn complete(&self, keeps_slot: bool) -> Arrived {
        self.change(|state| {
            state.is_complete = true;
            state.block = BytesMut::new();
            if !keeps_slot {
                state.slot = None;
            }
            let digest = state.hash.take().map(|hash| format!("sha256:{}", hex(hash.finish().as_ref())));
            Arrived { digest, size: state.end }
        })
    }

    /// Records that the engine does not finish the blob.
    pub fn leave(&self) {
        self.change(|state| state.has_left = true);
    }

    /// Sets the digest under which to store the blob.
    pub fn set_digest(&self, digest: &str) {
        self.change(|state| state.digest = Some(digest.to_owned()));
    }

    /// Stores the right to receive a blob until the blob needs no memory.
    pub fn set_slot(&self, slot: OwnedSemaphorePermit) {
        self.change(|state| state.slot = Some(slot));
    }

    /// Returns whether data has arrived that a reader needs and has not read.
    pub fn has_unread(&self, index: usize) -> bool {
        let state = self.state.lock();
        let place = state.readers[index];
        !place.is_holding && place.offset.is_some_and(|offset| offset < state.end)
    }

    pub fn end(&self) -> u64 {
        self.state.lock().end
    }

    pub fn is_complete(&self) -> bool {
        self.state.lock().is_complete
    }

    pub fn has_left(&self) -> bool {
        self.state.lock().has_left
    }

    /// Returns whether the blob is a JSON document, such as the configuration of an image, and not a layer.
    pub fn is_document(&self) -> bool {
        let state = self.state.lock();
        state.start == 0 && state.kept.front().is_some_and(|(_, part)| part.starts_with(b"{"))
    }

    /// Returns whether the whole blob has arrived, and ends at this offset.
    pub fn ends_at(&self, offset: u64) -> bool {
        let state = self.state.lock();
        state.is_complete && offset == state.end
    }

    /// Waits for the digest under which to store the blob.
    pub async fn digest(&self) -> Result<String, EngineLeft> {
        self.state
            .until(|state| match &state.digest {
                Some(digest) => Some(Ok(digest.clone())),
                None => state.has_left.then_some(Err(EngineLeft)),
            })
            .await
    }

    /// Waits until the blob has ended, or until more than `limit` bytes have arrived.
    pub async fn fill(&self, limit: u64) -> Result<(), EngineLeft> {
        let is_full = |state: &State| state.is_complete || state.end > limit;
        self.state
            .until(|state| match state.has_left {
                _ if is_full(state) => Some(Ok(())),
                true => Some(Err(EngineLeft)),
                false => None,
            })
            .await
    }

    /// Waits until the whole blob has arrived.
    pub async fn completed(&self) -> Result<(), EngineLeft> {
        self.fill(u64::MAX).await
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let counted = self.state.lock().counted;
        self.backlog.replace(counted, 0);
    }
}

/// Reads a blob for one registry. The data that it needs is kept until the reader is dropped.
pub struct Reader {
    window: Arc<Window>,
    index: usize,
}

impl Reader {
    /// * `index`: the index of the registry, less than the number of readers of the window.
    pub fn new(window: Arc<Window>, index: usize) -> Self {
        Self { window, index }
    }

    pub fn window(&self) -> &Window {
        &self.window
    }

    /// Goes to an offset, from which [`data`](Self::data) reads next. Returns whether the data from there on is kept.
    pub fn seek(&self, offset: u64) -> bool {
        self.window.change(|state| {
            let is_kept = (state.start..=state.end).contains(&offset);
            let place = &mut state.readers[self.index];
            if is_kept && place.offset.is_some() {
                let generation = place.generation + 1;
                *place = Place { offset: Some(offset), generation, is_holding: false };
                return true;
            }
            false
        })
    }

    /// Keeps at least one chunk of this size in bytes, and the data that arrives together with its end.
    pub fn keep_chunks(&self, size: u64) {
        const SLACK: u64 = 1 << 20;
        self.window.change(|state| {
            state.limit = state.limit.max(size.max(KEPT) + SLACK);
            state.least = state.least.max(size + SLACK);
        });
        self.window.backlog.version.send_replace(());
    }

    /// Keeps the data, which the registry may not need, until the next [`seek`](Self::seek).
    pub fn hold(&self) {
        self.window.change(|state| state.readers[self.index].is_holding = true);
    }

    /// Records that the registry needs no more data of the blob.
    pub fn release(&self) {
        self.window.change(|state| {
            let place = &mut state.readers[self.index];
            *place = Place { offset: None, generation: place.generation + 1, is_holding: false };
        });
    }

    /// Waits until the whole blob was read.
    pub async fn drained(&self) {
        let is_at_end = |state: &State| state.readers[self.index].offset.is_none_or(|at| at == state.end);
        self.window
            .state
            .until(|state| (state.has_left || state.is_complete && is_at_end(state)).then_some(()))
            .await;
    }

    /// Returns the whole blob, which must have arrived, in one piece.
    pub fn whole(&self) -> Bytes {
        let state = self.window.state.lock();
        let parts: Vec<&[u8]> = state.kept.iter().map(|(_, part)| part.as_ref()).collect();
        Bytes::from(parts.concat())
    }

    /// Returns the data from the offset of the last [`seek`](Self::seek) on, up to `end` or to the end of the blob, as it
    /// arrives. The data ends with an error if the engine leaves, or if the reader goes to another place.
    ///
    /// * `piece`: the maximum number of bytes in one part.
    pub fn data(&self, end: Option<u64>, piece: usize) -> impl Stream<Item = io::Result<Bytes>> + use<> {
        let (window, index, end) = (Arc::clone(&self.window), self.index, end.unwrap_or(u64::MAX));
        let generation = window.state.lock().readers[index].generation;
        let version = window.state.changes();
        unfold((window, version), move |(window, mut version)| async move {
            let read = loop {
                if let Some(read) = window.read(index, generation, end, piece) {
                    break read;
                }
                // The window owns the sender, so this wait does not fail.
                let _ = version.changed().await;
            };
            read.transpose().map(|read| (read, (window, version)))
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.release();
    }
}

impl Window {
    /// Returns the next data for a reader; `Some(Ok(None))` at the end, and `None` if the data has not arrived.
    fn read(
        &self,
        index: usize,
        generation: u64,
        end: u64,
        piece: usize,
    ) -> Option<io::Result<Option<Bytes>>> {
        let stopped = || Some(Err(io::Error::other("the upload was stopped")));
        let mut state = self.state.lock();
        let place = state.readers[index];
        let Some(offset) = place.offset.filter(|_| place.generation == generation) else { return stopped() };
        let end = if state.is_complete { end.min(state.end) } else { end };
        if offset >= end {
            return Some(Ok(None));
        }
        if offset >= state.end {
            return if state.has_left { stopped() } else { None };
        }
        let after = state.kept.partition_point(|(at, _)| *at <= offset);
        let (at, part) = &state.kept[after.checked_sub(1)?];
        let from = usize::try_from(offset - at).ok()?;
        let room = usize::try_from(end - offset).unwrap_or(usize::MAX).min(piece);
        let data = part.slice(from..part.len().min(from.saturating_add(room)));
        let offset = offset + data.len() as u64;
        state.readers[index].offset = Some(offset);
        let has_read_all = state.is_complete && offset == state.end;
        state.trim(&self.backlog);
        drop(state);
        // Only `drained` waits for the places of readers.
        if has_read_all {
            self.state.wake();
        }
        Some(Ok(Some(data)))
    }
}
