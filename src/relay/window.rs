//! The data of a blob that the engine sends: hashed as it arrives, and the latest bytes kept for a second request.

use std::collections::VecDeque;

use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Bytes, Incoming};
use ring::digest::{Context, SHA256};

use crate::oci::hex;

/// The maximum number of bytes to keep of one blob. A registry may have received less than the plugin has sent, since
/// connections and proxies hold back several MB.
pub const KEPT: usize = 16 << 20;

/// The blob that the engine sends in one request.
pub struct Source {
    incoming: Incoming,
    /// Computes the digest. `None`: the digest is not needed.
    hash: Option<Context>,
    kept: VecDeque<Bytes>,
    /// The offsets in the blob of the first kept byte, and of the first byte that has not arrived.
    start: u64,
    end: u64,
    is_complete: bool,
    /// The maximum number of bytes to keep.
    limit: u64,
}

/// A blob that has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// The SHA-256 digest; `None` if it was not computed.
    pub digest: Option<String>,
    /// The size in bytes.
    pub size: u64,
}

/// The engine closed the connection before it sent the whole blob.
#[derive(Debug)]
pub struct EngineLeft;

impl Source {
    /// * `needs_digest`: compute the digest while the data arrives.
    pub fn new(incoming: Incoming, needs_digest: bool) -> Self {
        Self {
            incoming,
            hash: needs_digest.then(|| Context::new(&SHA256)),
            kept: VecDeque::new(),
            start: 0,
            end: 0,
            is_complete: false,
            limit: KEPT as u64,
        }
    }

    /// Waits for more data. Returns `None` at the end of the blob. Cancel-safe.
    ///
    /// # Errors
    /// The engine closed the connection.
    pub async fn next(&mut self) -> Result<Option<Bytes>, EngineLeft> {
        while !self.is_complete {
            match self.incoming.frame().await {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if let Some(hash) = &mut self.hash {
                        hash.update(&data);
                    }
                    self.end += data.len() as u64;
                    self.kept.push_back(data.clone());
                    self.keep_latest();
                    self.is_complete = self.incoming.is_end_stream();
                    return Ok(Some(data));
                }
                Some(Err(_)) => return Err(EngineLeft),
                None => self.is_complete = true,
            }
        }
        Ok(None)
    }

    fn keep_latest(&mut self) {
        while self.end - self.start > self.limit
            && let Some(oldest) = self.kept.pop_front()
        {
            self.start += oldest.len() as u64;
        }
    }

    /// Keeps at least one chunk of this size in bytes, and the data that arrives together with its end.
    pub fn keep_chunks(&mut self, size: u64) {
        const SLACK: u64 = 1 << 20;
        self.limit = size.max(KEPT as u64) + SLACK;
    }

    /// Waits until the blob has ended, or until more than `limit` bytes have arrived. Returns whether the blob has ended.
    ///
    /// # Errors
    /// The engine closed the connection.
    pub async fn fill(&mut self, limit: u64) -> Result<bool, EngineLeft> {
        while self.end <= limit && self.next().await?.is_some() {}
        Ok(self.is_complete)
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    /// Returns whether the blob is a JSON document, such as the configuration of an image, and not a layer.
    pub fn is_document(&self) -> bool {
        self.kept.front().is_some_and(|chunk| chunk.starts_with(b"{"))
    }

    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Returns whether the whole blob has arrived, and ends at this offset.
    pub fn ends_at(&self, offset: u64) -> bool {
        self.is_complete && offset == self.end
    }

    /// Returns whether the data from this offset on is kept.
    pub fn has_kept(&self, offset: u64) -> bool {
        (self.start..=self.end).contains(&offset)
    }

    /// Returns the kept data from this offset on, up to the offset `end`.
    pub fn kept(&self, offset: u64, end: u64) -> Vec<Bytes> {
        let mut at = self.start;
        let mut parts = Vec::new();
        for part in &self.kept {
            let part_end = at + part.len() as u64;
            let (from, to) = (offset.clamp(at, part_end), end.clamp(at, part_end));
            if from < to {
                let within = |offset: u64| usize::try_from(offset - at).unwrap_or(usize::MAX);
                parts.push(part.slice(within(from)..within(to)));
            }
            at = part_end;
        }
        parts
    }

    /// Frees the memory of the kept data.
    pub fn forget(&mut self) {
        self.kept = VecDeque::new();
        self.start = self.end;
    }

    /// Returns the digest and the size of the blob, once, after the whole blob has arrived.
    pub fn arrived(&mut self) -> Arrived {
        let digest = self.hash.take().map(|hash| format!("sha256:{}", hex(hash.finish().as_ref())));
        Arrived { digest, size: self.end }
    }
}
