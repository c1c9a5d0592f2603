//! Forwards one blob from the engine to the registry.

use std::mem::take;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::{Either, select};
use hyper::StatusCode;
use hyper::body::{Bytes, Incoming};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::registry::error::RegistryError;
use crate::registry::write::{BlobBody, Part, Sent, Upload};
use crate::relay::job::{Blob, Failure, Job};
use crate::relay::layers::Row;
use crate::relay::profile::can_shrink;
use crate::relay::rate::RateLimit;
use crate::relay::window::{Arrived, EngineLeft, Source};
use crate::retry::RetryBudget;

/// The maximum size in bytes of a blob that is held in memory as a whole and sent in one request.
const SMALL: u64 = 128 << 10;
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
        Self::Failed(Failure { error, can_retry: false })
    }
}

/// A blob that the engine sends.
pub struct Transfer {
    pub job: Arc<Job>,
    pub incoming: Incoming,
    /// The name of the blob in the progress: the digest, or the ID of the upload if the digest is not known.
    pub name: String,
    /// The digest of the blob, if the engine told it before the data.
    pub digest: Option<String>,
    /// The size of the blob in bytes, if the engine told it before the data.
    pub size: Option<u64>,
    /// Sends the size and the digest to the task that answers the engine, when the whole blob has arrived.
    pub arrived: oneshot::Sender<Arrived>,
    /// Receives the digest under which to store the blob. The sender is dropped if the blob must not be stored.
    pub wanted: oneshot::Receiver<String>,
}

impl Transfer {
    /// Sends the blob to the registry, and records the result in the job.
    pub async fn run(self) {
        let (job, digest) = (Arc::clone(&self.job), self.digest.clone());
        match self.forward().await {
            Ok(()) => {}
            Err(End::EngineLeft) => {
                if let Some(digest) = digest.filter(|digest| job.blob(digest) == Some(Blob::Arriving)) {
                    job.forget_blob(&digest);
                }
            }
            Err(End::Failed(failure)) => job.fail(failure),
        }
    }

    async fn forward(self) -> Result<(), End> {
        let Self { job, incoming, name, digest, size, arrived, wanted } = self;
        // The registry checks a digest that the first request names. Otherwise the plugin checks it, before it confirms the
        // blob to the engine.
        let mut source = Source::new(incoming, digest.is_none());
        let is_small = source.fill(SMALL).await?;
        let row = (!source.is_document()).then(|| job.layers.add(&name));
        let row = row.as_deref();
        let retries = job.retries();
        let mut forwarding = Forwarding { job: &job, row, digest, size, arrived: Some(arrived), retries };
        let digest = if is_small {
            forwarding.send_whole(&mut source, wanted).await?
        } else {
            forwarding.stream(&mut source, wanted).await?
        };
        if let Some(row) = row {
            row.set_stored(source.end());
        }
        job.set_blob(&digest, Blob::Stored(source.end()));
        Ok(())
    }
}

struct Forwarding<'a> {
    job: &'a Arc<Job>,
    row: Option<&'a Row>,
    /// See [`Transfer`].
    digest: Option<String>,
    size: Option<u64>,
    arrived: Option<oneshot::Sender<Arrived>>,
    retries: RetryBudget,
}

impl Forwarding<'_> {
    /// Reports once, to the task that answers the engine, that the whole blob has arrived.
    fn report_arrival(&mut self, source: &mut Source) {
        if let Some(sender) = self.arrived.take_if(|_| source.is_complete()) {
            // The engine may have closed the connection. `wanted` shows this too.
            let _ = sender.send(source.arrived());
        }
    }

    fn show_sending(&self, source: &Source) {
        if let Some(row) = self.row {
            row.set_sending(self.size.or(source.is_complete().then_some(source.end())).unwrap_or_default());
        }
    }

    fn set_sent(&self, offset: u64) {
        if let Some(row) = self.row {
            row.sent.store(offset, Ordering::Relaxed);
        }
    }

    /// Sends a small blob in one request, which can be repeated. Returns the digest.
    async fn send_whole(
        &mut self,
        source: &mut Source,
        wanted: oneshot::Receiver<String>,
    ) -> Result<String, End> {
        self.report_arrival(source);
        let digest = wanted.await.map_err(|_| End::EngineLeft)?;
        let body = Bytes::from(source.kept(0, source.end()).concat());
        source.forget();
        loop {
            let upload = self.job.start(&mut self.retries, self.row).await?;
            let slot = self.job.slot(None).await;
            if let Some(rate) = self.job.rate() {
                rate.wait(body.len()).await;
            }
            self.set_sent(source.end());
            self.show_sending(source);
            let finished = self.job.writer.finish(&upload, &digest, body.clone()).await;
            drop(slot);
            let Err(error) = finished else { return Ok(digest) };
            self.wait_after(error).await?;
        }
    }

    /// Sends a blob while it arrives. Returns the digest.
    async fn stream(
        &mut self,
        source: &mut Source,
        mut wanted: oneshot::Receiver<String>,
    ) -> Result<String, End> {
        let mut slot = Some(self.job.slot(self.job.chunk_size(self.size)).await);
        let mut upload = self.job.start(&mut self.retries, self.row).await?;
        let accepts_large_put = self.job.profile.accepts_large_put;
        // A blob of one chunk with a known digest needs one request.
        let is_one_request = |chunk: &u64| {
            accepts_large_put && self.digest.is_some() && self.size.is_some_and(|size| size <= *chunk)
        };
        let mut chunk = self.job.chunk_size(self.size).filter(|chunk| !is_one_request(chunk));
        let mut offset = 0;
        let (mut has_authorized, mut redirects) = (false, 0);
        // If the digest is known, the first request also finishes the upload. The requests after a failure do not, since
        // the registry then has a part of the blob.
        let mut finishing = self.digest.clone().filter(|_| accepts_large_put);
        // The digest under which to store the blob, once the engine has told it.
        let mut stored_as = None;
        let mut refused_ranges = 0;
        let is_stored = loop {
            let digest = finishing.take();
            // Whether the next chunk is smaller, if the registry has received nothing of this one.
            let mut shrinks = false;
            let part = match (chunk, &digest) {
                (Some(size), _) => {
                    source.keep_chunks(size);
                    source.fill(offset + size).await?;
                    self.report_arrival(source);
                    let (start, end) = (offset, source.end().min(offset + size));
                    if self.job.profile.last_chunk_finishes && source.ends_at(end) {
                        if stored_as.is_none() {
                            stored_as = Some((&mut wanted).await.map_err(|_| End::EngineLeft)?);
                        }
                        Part::LastChunk { start, end, digest: stored_as.as_deref().unwrap_or_default() }
                    } else {
                        Part::Chunk { start, end }
                    }
                }
                (None, Some(digest)) => Part::Last(digest),
                (None, None) => Part::Rest,
            };
            let sent = self.send_from(source, &upload, offset, part, &mut slot).await?;
            self.report_arrival(source);
            let problem = match sent {
                Ok(Sent::Received(next)) if let Part::Chunk { end, .. } = part => {
                    (upload, offset) = (next, end);
                    (has_authorized, redirects) = (false, 0);
                    if source.ends_at(end) {
                        break false;
                    }
                    continue;
                }
                Ok(Sent::Stored) => {
                    // The registry may have the blob already, and answer before the blob has arrived.
                    while source.next().await?.is_some() {
                        source.forget();
                    }
                    break true;
                }
                Ok(Sent::Received(next)) if source.is_complete() => {
                    upload = next;
                    break false;
                }
                Ok(Sent::Received(next)) => {
                    upload = next;
                    let error = self.job.writer.lost("it answered before it had received the blob");
                    self.wait_after(error).await?
                }
                Ok(Sent::Redirected(next)) => {
                    upload = next;
                    let error = self.job.writer.lost("it redirected the upload to another server");
                    if !source.has_kept(offset) {
                        self.job.writer.set_upload_server(&upload);
                        return Err(lost(error));
                    }
                    finishing = digest;
                    redirects += 1;
                    if redirects > MAX_REDIRECTS {
                        return Err(error.into());
                    }
                    continue;
                }
                Ok(Sent::NeedsNewToken) if has_authorized => {
                    return Err(self.job.writer.lost("it asked for credentials again").into());
                }
                Ok(Sent::NeedsNewToken) if chunk.is_some() => {
                    has_authorized = true;
                    continue;
                }
                Ok(Sent::NeedsNewToken) => {
                    has_authorized = true;
                    self.job.writer.lost("the token has expired")
                }
                Err(error)
                    if requires_length(&error)
                        && chunk.is_none()
                        && let Some(size) = self.job.chunk_size_with_length() =>
                {
                    chunk = Some(size);
                    error
                }
                Err(error) if matches!(error, RegistryError::TooLarge { .. }) => {
                    let total = self.size.unwrap_or(source.end());
                    let refused = chunk.map_or(total - offset, |size| size.min(total - offset));
                    let Some(smaller) = self.job.smaller_chunk(refused) else { return Err(error.into()) };
                    // A refused chunk has changed nothing at the registry.
                    let is_unchanged = chunk.replace(smaller).is_some();
                    if is_unchanged && !self.job.profile.can_resume {
                        continue;
                    }
                    error
                }
                // The registry has received nothing of the chunk, which may be too large.
                Err(error)
                    if has_wrong_range(&error)
                        && refused_ranges < MAX_RANGES
                        && chunk.is_some_and(can_shrink) =>
                {
                    (shrinks, refused_ranges) = (true, refused_ranges + 1);
                    self.job.writer.lost(&error.to_string())
                }
                Err(error) => {
                    // A proxy that refuses large requests may close the connection before the plugin can read its answer.
                    shrinks = self.job.writer.chunk_limits().refused.is_some()
                        && matches!(error, RegistryError::Unreachable { .. });
                    self.wait_after(error).await?
                }
            };
            if let Some(digest) = self.digest.clone().filter(|_| source.is_complete())
                && self.has(&digest, source.end()).await
            {
                break true;
            }
            let before = offset;
            (upload, offset) = self.resume(source, upload, problem).await?;
            if let Some(size) = chunk.or(self.size).filter(|_| shrinks && offset == before) {
                chunk = self.job.smaller_chunk(size).or(chunk);
            }
            if source.ends_at(offset) {
                break false;
            }
        };
        drop(slot);
        self.report_arrival(source);
        self.set_sent(source.end());
        self.show_sending(source);
        let digest = match stored_as {
            Some(digest) => digest,
            None => match wanted.await {
                Ok(digest) => digest,
                Err(_) => {
                    self.job.writer.cancel(&upload).await;
                    return Err(End::EngineLeft);
                }
            },
        };
        if !is_stored {
            self.finish(source, upload, &digest).await?;
        }
        Ok(digest)
    }

    /// Returns whether the registry has stored the blob, although the request that stored it failed.
    async fn has(&self, digest: &str, size: u64) -> bool {
        self.job.writer.size_of(digest).await.is_ok_and(|found| found == Some(size))
    }

    /// Sends the data from `offset` on in one request, while the data arrives. Returns the result of the request.
    ///
    /// * `part`: the part of the blob in the request.
    async fn send_from(
        &mut self,
        source: &mut Source,
        upload: &Upload,
        offset: u64,
        part: Part<'_>,
        slot: &mut Option<OwnedSemaphorePermit>,
    ) -> Result<Result<Sent, RegistryError>, End> {
        let (chunks, receiver) = mpsc::channel(1);
        self.set_sent(offset);
        self.show_sending(source);
        let end = match part {
            Part::Chunk { end, .. } | Part::LastChunk { end, .. } => Some(end),
            Part::Rest | Part::Last(_) => None,
        };
        let total = end.or(self.size).or(source.is_complete().then_some(source.end()));
        let body = BlobBody {
            chunks: receiver,
            sent: self.row.map(|row| Arc::clone(&row.sent)).unwrap_or_default(),
            length: total.and_then(|total| total.checked_sub(offset)),
        };
        let writer = &self.job.writer;
        let mut request = pin!(writer.send(upload, body, part));
        let fed = {
            let feed = pin!(feed(source, offset, end, chunks, self.job.rate()));
            match select(&mut request, feed).await {
                Either::Left((result, _)) => return Ok(result),
                Either::Right((fed, _)) => fed,
            }
        };
        if let Err(left) = fed {
            *slot = None;
            writer.cancel(upload).await;
            return Err(left.into());
        }
        if end.is_some() {
            return Ok(request.await);
        }
        self.report_arrival(source);
        self.show_sending(source);
        if let Ok(result) = tokio::time::timeout(KEEPING, &mut request).await {
            return Ok(result);
        }
        // The registry is slow to confirm, so the memory is used for the next blob.
        source.forget();
        *slot = None;
        Ok(request.await)
    }

    /// Waits after a failed request with data. Returns the error to report if the registry has lost the data.
    async fn wait_after(&mut self, error: RegistryError) -> Result<RegistryError, RegistryError> {
        let lost = || self.job.writer.lost(&error.to_string());
        let (reported, lost) = (lost(), is_about_upload(&error).then(lost));
        self.job.wait_after(lost.unwrap_or(error), &mut self.retries, self.row).await?;
        Ok(reported)
    }

    /// After a failed request, asks the registry how much of the blob it has received. Starts again if the registry has lost
    /// the upload and the whole blob is kept.
    ///
    /// * `error`: the failure, if the registry has lost data that is not kept.
    async fn resume(
        &mut self,
        source: &Source,
        upload: Upload,
        error: RegistryError,
    ) -> Result<(Upload, u64), End> {
        let found = loop {
            if !self.job.profile.can_resume {
                break None;
            }
            match self.job.writer.offset(&upload).await {
                Ok(found) => break found,
                Err(error) => self.job.wait_after(error, &mut self.retries, self.row).await?,
            }
        };
        if let Some((offset, upload)) = found
            && source.has_kept(offset)
        {
            return Ok((upload, offset));
        }
        if source.has_kept(0) {
            return Ok((self.job.start(&mut self.retries, self.row).await?, 0));
        }
        Err(lost(error))
    }

    /// Finishes an upload whose data the registry has received.
    async fn finish(&mut self, source: &Source, mut upload: Upload, digest: &str) -> Result<(), End> {
        loop {
            let Err(error) = self.job.writer.finish(&upload, digest, Bytes::new()).await else {
                return Ok(());
            };
            let reason = error.to_string();
            if is_about_upload(&error) {
                return Err(lost(self.job.writer.lost(&reason)));
            }
            self.job.wait_after(error, &mut self.retries, self.row).await?;
            if self.has(digest, source.end()).await {
                return Ok(());
            }
            match self.job.writer.offset(&upload).await {
                Ok(Some((offset, next))) if offset == source.end() => upload = next,
                _ => return Err(lost(self.job.writer.lost(&reason))),
            }
        }
    }
}

/// Sends the kept data from `offset` on, up to `end`. Without an end, sends the data that arrives too. Waits forever if the
/// receiver is dropped, since the caller then learns the result of the request.
///
/// * `rate`: the limit of the rate.
async fn feed(
    source: &mut Source,
    offset: u64,
    end: Option<u64>,
    chunks: mpsc::Sender<Option<Bytes>>,
    rate: Option<&RateLimit>,
) -> Result<(), EngineLeft> {
    let send = async |mut data: Bytes| {
        while !data.is_empty() {
            let piece = match rate {
                Some(rate) => {
                    let piece = data.split_to(data.len().min(rate.piece()));
                    rate.wait(piece.len()).await;
                    piece
                }
                None => take(&mut data),
            };
            if chunks.send(Some(piece)).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    for data in source.kept(offset, end.unwrap_or(u64::MAX)) {
        send(data).await;
    }
    if end.is_none() {
        while let Some(data) = source.next().await? {
            send(data).await;
        }
    }
    // If the length is known, hyper drops the body after the last byte, and does not read `None`.
    let _ = chunks.send(None).await;
    Ok(())
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
    End::Failed(Failure { error, can_retry: true })
}
