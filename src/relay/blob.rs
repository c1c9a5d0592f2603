//! Forwards one blob from the engine to one registry.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::stream::StreamExt as _;
use hyper::StatusCode;
use hyper::body::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use crate::registry::error::RegistryError;
use crate::registry::write::{BlobBody, Part, Sent, Upload, Writer};
use crate::relay::layers::Row;
use crate::relay::profile::can_shrink;
use crate::relay::upstream::{Failure, Upstream};
use crate::relay::window::{EngineLeft, KEPT, Reader, Window};
use crate::retry::RetryBudget;

/// The maximum size in bytes of a blob that is held in memory as a whole and sent in one request.
pub const SMALL: u64 = 128 << 10;
/// The maximum number of redirects to follow for one blob.
const MAX_REDIRECTS: usize = 5;
/// The maximum number of answers 416 for one blob that do not count as failures.
const MAX_RANGES: u32 = 16;
/// The time for which data is kept after the last byte was sent, if the registry has not confirmed the blob.
const KEEPING: Duration = Duration::from_secs(3);

/// The reason why a blob was not stored.
enum End {
    /// The engine closed the connection, or did not finish the upload.
    EngineLeft,
    Failed(Failure),
}

impl From<EngineLeft> for End {
    fn from(EngineLeft: EngineLeft) -> Self {
        Self::EngineLeft
    }
}

impl From<RegistryError> for End {
    fn from(error: RegistryError) -> Self {
        Self::Failed(Failure::Final(error))
    }
}

/// A blob that the engine sends to the relay, for one registry.
pub struct Transfer {
    pub upstream: Arc<Upstream>,
    pub reader: Reader,
    /// The name of the blob in the progress: the digest, or the ID of the upload if the digest is not known.
    pub name: String,
    /// The digest of the blob, if the engine told it before the data.
    pub digest: Option<String>,
    /// The size of the blob in bytes, if the engine told it before the data.
    pub size: Option<u64>,
    /// The digest that the blob probably has. If the registry has a blob with this digest, it receives no data. `None`: the
    /// registry lacks the blob.
    pub likely: Option<String>,
}

impl Transfer {
    /// Sends the blob to the registry, and records the result.
    pub async fn run(self) {
        let upstream = Arc::clone(&self.upstream);
        if let Err(End::Failed(failure)) = self.forward().await {
            upstream.fail(failure);
        }
    }

    async fn forward(self) -> Result<(), End> {
        let Self { upstream, reader, name, digest, size, likely } = self;
        let writer = upstream.writer().await;
        let row = (!reader.window().is_document()).then(|| upstream.layers.add(&name));
        let row = row.as_deref();
        if let Some(likely) = likely
            && upstream.find(&likely).await.is_some()
        {
            let window = reader.window();
            if digest.is_some() {
                reader.release();
            } else {
                // The blob may have another digest. A large one is not kept until its digest is known.
                reader.hold();
                window.fill(KEPT).await?;
                if !window.is_complete() {
                    reader.release();
                }
            }
            let digest = window.digest().await?;
            if let Some(size) = upstream.find(&digest).await {
                upstream.set_stored(&digest, size);
                if let Some(row) = row {
                    row.set_exists();
                }
                return Ok(());
            }
            if !reader.seek(0) {
                let reason = "the engine sent another blob than it asked for".to_owned();
                return Err(End::Failed(Failure::LeftBehind(reason)));
            }
        }
        let retries = upstream.retries();
        let forwarding =
            Forwarding { upstream: &upstream, writer, reader: &reader, row, digest, size, retries };
        let digest = if reader.window().is_complete() && reader.window().end() <= SMALL {
            forwarding.send_whole().await?
        } else {
            Streaming::start(forwarding).await?.run().await?
        };
        let size = reader.window().end();
        if let Some(row) = row {
            row.set_stored(size);
        }
        upstream.set_stored(&digest, size);
        Ok(())
    }
}

struct Forwarding<'a> {
    upstream: &'a Arc<Upstream>,
    writer: &'a Writer,
    reader: &'a Reader,
    row: Option<&'a Row>,
    /// See [`Transfer`].
    digest: Option<String>,
    size: Option<u64>,
    retries: RetryBudget,
}

impl Forwarding<'_> {
    fn show_sending(&self) {
        if let Some(row) = self.row {
            let window = self.reader.window();
            let size = self.size.or_else(|| window.is_complete().then(|| window.end()));
            row.set_sending(size.unwrap_or_default());
        }
    }

    fn set_sent(&self, offset: u64) {
        if let Some(row) = self.row {
            row.sent.store(offset, Ordering::Relaxed);
        }
    }

    /// Sends a small blob in one request, which can be repeated. Returns the digest.
    async fn send_whole(mut self) -> Result<String, End> {
        let body = self.reader.whole();
        self.reader.release();
        let digest = self.reader.window().digest().await?;
        loop {
            let upload = self.upstream.start(&mut self.retries, self.row).await?;
            let slot = self.upstream.slot().await;
            if let Some(rate) = self.upstream.rate() {
                rate.wait(body.len()).await;
            }
            self.set_sent(body.len() as u64);
            self.show_sending();
            let finished = self.writer.finish(&upload, &digest, body.clone()).await;
            drop(slot);
            let Err(error) = finished else { return Ok(digest) };
            self.wait_after(error).await?;
        }
    }

    /// Returns whether the registry has stored the blob, although the request that stored it failed.
    async fn has(&self, digest: &str) -> bool {
        let size = self.reader.window().end();
        self.writer.size_of(digest).await.is_ok_and(|found| found == Some(size))
    }

    /// Waits after a failed request with data. Returns the error to report if the registry has lost the data.
    async fn wait_after(&mut self, error: RegistryError) -> Result<RegistryError, RegistryError> {
        let lost = || self.writer.lost(&error.to_string());
        let (reported, lost) = (lost(), is_about_upload(&error).then(lost));
        self.upstream.wait_after(lost.unwrap_or(error), &mut self.retries, self.row).await?;
        Ok(reported)
    }

    /// Returns the data from the place of the reader on, as the body of a request.
    ///
    /// * `end`: the end of the data; `None`: the end of the blob.
    /// * `length`: the number of bytes, if known.
    fn body(&self, end: Option<u64>, length: Option<u64>) -> BlobBody {
        let upstream = Arc::clone(self.upstream);
        let piece = upstream.rate().map_or(usize::MAX, |rate| rate.piece());
        let data = self.reader.data(end, piece).then(move |data| {
            let upstream = Arc::clone(&upstream);
            async move {
                upstream.saw_movement();
                if let (Some(rate), Ok(data)) = (upstream.rate(), &data) {
                    rate.wait(data.len()).await;
                }
                data
            }
        });
        let sent = self.row.map(|row| Arc::clone(&row.sent)).unwrap_or_default();
        BlobBody { data: Box::pin(data), sent, length }
    }
}

/// A blob that is sent while it arrives.
struct Streaming<'a> {
    blob: Forwarding<'a>,
    slot: Option<OwnedSemaphorePermit>,
    upload: Upload,
    /// The number of bytes that the registry has received.
    offset: u64,
    /// The size of chunks in bytes; `None`: the rest of the blob is sent in one request.
    chunk: Option<u64>,
    /// The digest of the blob, if the next request also finishes the upload. The requests after a failure do not, since the
    /// registry then has a part of the blob.
    finishing: Option<String>,
    /// The digest under which to store the blob, once the engine has told it.
    stored_as: Option<String>,
    has_authorized: bool,
    redirects: usize,
    refused_ranges: u32,
}

/// The next step after the answer to a request with data.
enum Next {
    /// The registry has received the whole blob. `is_stored`: it has also stored the blob.
    Sent { is_stored: bool },
    /// The next request follows at once.
    GoOn,
    /// The registry may have received a part of the data. `error`: the failure, if that part cannot be found out.
    Resume { error: RegistryError, shrinks: bool },
}

impl<'a> Streaming<'a> {
    async fn start(mut blob: Forwarding<'a>) -> Result<Self, End> {
        let upstream = blob.upstream;
        let slot = Some(upstream.slot().await);
        let upload = upstream.start(&mut blob.retries, blob.row).await?;
        let accepts_large_put = upstream.profile.accepts_large_put;
        // A blob of one chunk with a known digest needs one request.
        let is_one_request = |chunk: &u64| {
            accepts_large_put && blob.digest.is_some() && blob.size.is_some_and(|size| size <= *chunk)
        };
        let chunk = upstream.chunk_size(blob.size).filter(|chunk| !is_one_request(chunk));
        let finishing = blob.digest.clone().filter(|_| accepts_large_put);
        Ok(Self {
            blob,
            slot,
            upload,
            offset: 0,
            chunk,
            finishing,
            stored_as: None,
            has_authorized: false,
            redirects: 0,
            refused_ranges: 0,
        })
    }

    /// Sends the blob. Returns the digest.
    async fn run(mut self) -> Result<String, End> {
        let is_stored = loop {
            match self.step().await? {
                Next::Sent { is_stored } => break is_stored,
                Next::GoOn => {}
                Next::Resume { error, shrinks } => {
                    if self.is_stored_already().await {
                        break true;
                    }
                    let before = self.offset;
                    self.resume(error).await?;
                    if let Some(size) =
                        self.chunk.or(self.blob.size).filter(|_| shrinks && self.offset == before)
                    {
                        self.chunk = self.blob.upstream.smaller_chunk(size).await.or(self.chunk);
                    }
                    if self.window().ends_at(self.offset) {
                        break false;
                    }
                }
            }
        };
        self.slot = None;
        // The registry may have the blob already, and answer before the blob has arrived.
        if is_stored {
            self.blob.reader.release();
        }
        self.window().completed().await?;
        self.blob.set_sent(self.window().end());
        self.blob.show_sending();
        let digest = match self.stored_as.take() {
            Some(digest) => digest,
            None => match self.window().digest().await {
                Ok(digest) => digest,
                Err(left) => {
                    self.blob.writer.cancel(&self.upload).await;
                    return Err(left.into());
                }
            },
        };
        if !is_stored {
            self.finish(&digest).await?;
        }
        Ok(digest)
    }

    fn window(&self) -> &'a Window {
        self.blob.reader.window()
    }

    /// Makes one request with data.
    async fn step(&mut self) -> Result<Next, End> {
        let digest = self.finishing.take();
        let (start, mut end, mut is_last) = (self.offset, None, false);
        if let Some(size) = self.chunk {
            self.blob.reader.keep_chunks(size);
            self.window().fill(start + size).await?;
            let chunk_end = self.window().end().min(start + size);
            is_last = self.blob.upstream.profile.last_chunk_finishes && self.window().ends_at(chunk_end);
            if is_last && self.stored_as.is_none() {
                self.stored_as = Some(self.window().digest().await?);
            }
            end = Some(chunk_end);
        }
        let part = match (end, &digest, &self.stored_as) {
            (Some(end), _, Some(digest)) if is_last => Part::LastChunk { start, end, digest },
            (Some(end), ..) => Part::Chunk { start, end },
            (None, Some(digest), _) => Part::Last(digest),
            (None, None, _) => Part::Rest,
        };
        let is_chunk = matches!(part, Part::Chunk { .. });
        let sent = send(&self.blob, &self.upload, start, end, part, &mut self.slot).await?;
        match sent {
            Ok(Sent::Received(next)) => {
                self.upload = next;
                self.after_received(end.filter(|_| is_chunk)).await
            }
            Ok(Sent::Stored) => Ok(Next::Sent { is_stored: true }),
            Ok(Sent::Redirected(next)) => {
                self.upload = next;
                self.finishing = digest;
                self.after_redirect()
            }
            Ok(Sent::NeedsNewToken) => self.after_new_token(),
            Err(error) => self.after_refusal(error).await,
        }
    }

    /// * `end`: the end of the chunk that the registry has received; `None`: the request had all data up to the end.
    async fn after_received(&mut self, end: Option<u64>) -> Result<Next, End> {
        if let Some(end) = end {
            self.offset = end;
            (self.has_authorized, self.redirects) = (false, 0);
            let is_end = self.window().ends_at(end);
            return Ok(if is_end { Next::Sent { is_stored: false } } else { Next::GoOn });
        }
        if self.window().is_complete() {
            return Ok(Next::Sent { is_stored: false });
        }
        let error = self.blob.writer.lost("it answered before it had received the blob");
        Ok(Next::Resume { error: self.blob.wait_after(error).await?, shrinks: false })
    }

    fn after_redirect(&mut self) -> Result<Next, End> {
        let error = self.blob.writer.lost("it redirected the upload to another server");
        if !self.blob.reader.seek(self.offset) {
            self.blob.writer.set_upload_server(&self.upload);
            return Err(lost(error));
        }
        self.redirects += 1;
        if self.redirects > MAX_REDIRECTS {
            return Err(error.into());
        }
        Ok(Next::GoOn)
    }

    fn after_new_token(&mut self) -> Result<Next, End> {
        if self.has_authorized {
            return Err(self.blob.writer.lost("it asked for credentials again").into());
        }
        self.has_authorized = true;
        Ok(match self.chunk {
            Some(_) => Next::GoOn,
            None => Next::Resume { error: self.blob.writer.lost("the token has expired"), shrinks: false },
        })
    }

    async fn after_refusal(&mut self, error: RegistryError) -> Result<Next, End> {
        let upstream = self.blob.upstream;
        if requires_length(&error)
            && self.chunk.is_none()
            && let Some(size) = upstream.chunk_size_with_length().await
        {
            self.chunk = Some(size);
            return Ok(Next::Resume { error, shrinks: false });
        }
        if matches!(error, RegistryError::TooLarge { .. }) {
            let left = self.blob.size.unwrap_or_else(|| self.window().end()) - self.offset;
            let refused = self.chunk.map_or(left, |size| size.min(left));
            let Some(smaller) = upstream.smaller_chunk(refused).await else { return Err(error.into()) };
            // A refused chunk has changed nothing at the registry.
            let is_unchanged = self.chunk.replace(smaller).is_some() && !upstream.profile.can_resume;
            return Ok(if is_unchanged { Next::GoOn } else { Next::Resume { error, shrinks: false } });
        }
        // The registry has received nothing of the chunk, which may be too large.
        if has_wrong_range(&error) && self.refused_ranges < MAX_RANGES && self.chunk.is_some_and(can_shrink) {
            self.refused_ranges += 1;
            return Ok(Next::Resume { error: self.blob.writer.lost(&error.to_string()), shrinks: true });
        }
        // A proxy that refuses large requests may close the connection before the plugin can read its answer.
        let shrinks = upstream.has_refused_size() && matches!(error, RegistryError::Unreachable { .. });
        Ok(Next::Resume { error: self.blob.wait_after(error).await?, shrinks })
    }

    /// Returns whether the registry has stored the blob, although the last request failed.
    async fn is_stored_already(&self) -> bool {
        match &self.blob.digest {
            Some(digest) if self.window().is_complete() => self.blob.has(digest).await,
            _ => false,
        }
    }

    /// After a failed request, asks the registry how much of the blob it has received. Starts again if the registry has lost
    /// the upload and the whole blob is kept.
    ///
    /// * `error`: the failure, if the registry has lost data that is not kept.
    async fn resume(&mut self, error: RegistryError) -> Result<(), End> {
        let blob = &mut self.blob;
        let found = loop {
            if !blob.upstream.profile.can_resume {
                break None;
            }
            match blob.writer.offset(&self.upload).await {
                Ok(found) => break found,
                Err(error) => blob.upstream.wait_after(error, &mut blob.retries, blob.row).await?,
            }
        };
        if let Some((offset, upload)) = found
            && blob.reader.seek(offset)
        {
            (self.upload, self.offset) = (upload, offset);
            return Ok(());
        }
        if !blob.reader.seek(0) {
            return Err(lost(error));
        }
        self.upload = blob.upstream.start(&mut blob.retries, blob.row).await?;
        self.offset = 0;
        Ok(())
    }

    /// Finishes an upload whose data the registry has received.
    async fn finish(&mut self, digest: &str) -> Result<(), End> {
        let blob = &mut self.blob;
        loop {
            let Err(error) = blob.writer.finish(&self.upload, digest, Bytes::new()).await else {
                return Ok(());
            };
            let reason = error.to_string();
            if is_about_upload(&error) {
                return Err(lost(blob.writer.lost(&reason)));
            }
            blob.upstream.wait_after(error, &mut blob.retries, blob.row).await?;
            if blob.has(digest).await {
                return Ok(());
            }
            match blob.writer.offset(&self.upload).await {
                Ok(Some((offset, next))) if offset == blob.reader.window().end() => self.upload = next,
                _ => return Err(lost(blob.writer.lost(&reason))),
            }
        }
    }
}

/// Sends the data from `start` on in one request, while the data arrives. Returns the result of the request.
///
/// * `end`: the end of the data; `None`: the end of the blob.
/// * `part`: the part of the blob in the request.
/// * `slot`: dropped if the registry is slow to confirm the request, so that the memory is used for the next blob.
async fn send(
    blob: &Forwarding<'_>,
    upload: &Upload,
    start: u64,
    end: Option<u64>,
    part: Part<'_>,
    slot: &mut Option<OwnedSemaphorePermit>,
) -> Result<Result<Sent, RegistryError>, End> {
    let (reader, window) = (blob.reader, blob.reader.window());
    reader.seek(start);
    blob.set_sent(start);
    blob.show_sending();
    let total = end.or(blob.size).or_else(|| window.is_complete().then(|| window.end()));
    let length = total.and_then(|total| total.checked_sub(start));
    let mut request: Pin<&mut _> = pin!(blob.writer.send(upload, blob.body(end, length), part));
    if end.is_none() {
        let handed_over = async {
            if window.completed().await.is_ok() {
                blob.show_sending();
            }
            reader.drained().await;
            tokio::time::sleep(KEEPING).await;
        };
        match select(&mut request, pin!(handed_over)).await {
            Either::Left((result, _)) => return left_or(blob, upload, result).await,
            Either::Right(_) => {
                reader.release();
                *slot = None;
            }
        }
    }
    let result = request.await;
    left_or(blob, upload, result).await
}

/// Returns the result of a request, unless it failed because the engine does not finish the blob.
async fn left_or(
    blob: &Forwarding<'_>,
    upload: &Upload,
    result: Result<Sent, RegistryError>,
) -> Result<Result<Sent, RegistryError>, End> {
    if result.is_err() && blob.reader.window().has_left() {
        blob.writer.cancel(upload).await;
        return Err(End::EngineLeft);
    }
    Ok(result)
}

/// Returns whether a registry refused a request because it does not know the upload, or has received other data.
fn is_about_upload(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Refused { status, .. } if matches!(status.as_u16(), 400 | 404 | 416))
}

/// Returns whether a registry, or a proxy in front of it, refused a request without the length of its body.
fn requires_length(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Refused { status: StatusCode::LENGTH_REQUIRED, .. })
}

/// Returns whether a registry refused a chunk because of its range.
fn has_wrong_range(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Refused { status: StatusCode::RANGE_NOT_SATISFIABLE, .. })
}

/// Returns the failure for a blob that only the engine can send again.
fn lost(error: RegistryError) -> End {
    End::Failed(Failure::Lost(error))
}
