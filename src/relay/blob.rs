//! Forwards one blob from the engine to the registry.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::{Either, select};
use hyper::body::{Bytes, Incoming};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::registry::error::RegistryError;
use crate::registry::write::{BlobBody, Sent, Upload};
use crate::relay::job::{Blob, Failure, Job};
use crate::relay::layers::Row;
use crate::relay::window::{Arrived, EngineLeft, Source};
use crate::retry::RetryBudget;

/// The maximum size in bytes of a blob that is held in memory as a whole and sent in one request.
const SMALL: u64 = 128 << 10;
/// The maximum number of redirects to follow for one blob.
const MAX_REDIRECTS: usize = 5;
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
        let body = Bytes::from(source.kept_from(0).concat());
        source.forget();
        loop {
            let upload = self.job.start(&mut self.retries, self.row).await?;
            let slot = self.job.slot().await;
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
        wanted: oneshot::Receiver<String>,
    ) -> Result<String, End> {
        let mut slot = Some(self.job.slot().await);
        let mut upload = self.job.start(&mut self.retries, self.row).await?;
        let mut offset = 0;
        let (mut has_authorized, mut redirects) = (false, 0);
        // If the digest is known, the first request also finishes the upload. The requests after a failure do not, since
        // the registry then has a part of the blob.
        let mut finishing = self.digest.clone();
        let is_stored = loop {
            let digest = finishing.take();
            let sent = self.send_from(source, &upload, offset, digest.clone(), &mut slot).await?;
            self.report_arrival(source);
            let problem = match sent {
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
                Ok(Sent::NeedsNewToken) => {
                    has_authorized = true;
                    self.job.writer.lost("the token has expired")
                }
                Err(error) => self.wait_after(error).await?,
            };
            if let Some(digest) = self.digest.clone().filter(|_| source.is_complete())
                && self.has(&digest, source.end()).await
            {
                break true;
            }
            (upload, offset) = self.resume(source, upload, problem).await?;
            if source.is_complete() && offset == source.end() {
                break false;
            }
        };
        drop(slot);
        self.report_arrival(source);
        self.set_sent(source.end());
        self.show_sending(source);
        let Ok(digest) = wanted.await else {
            self.job.writer.cancel(&upload).await;
            return Err(End::EngineLeft);
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
    /// * `finishing`: the digest with which the request finishes the upload.
    async fn send_from(
        &mut self,
        source: &mut Source,
        upload: &Upload,
        offset: u64,
        finishing: Option<String>,
        slot: &mut Option<OwnedSemaphorePermit>,
    ) -> Result<Result<Sent, RegistryError>, End> {
        let (chunks, receiver) = mpsc::channel(1);
        self.set_sent(offset);
        self.show_sending(source);
        let total = self.size.or(source.is_complete().then_some(source.end()));
        let body = BlobBody {
            chunks: receiver,
            sent: self.row.map(|row| Arc::clone(&row.sent)).unwrap_or_default(),
            length: total.and_then(|total| total.checked_sub(offset)),
        };
        let writer = &self.job.writer;
        let mut request = pin!(writer.send(upload, body, finishing.as_deref()));
        let fed = {
            let feed = pin!(feed(source, offset, chunks));
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

/// Sends the kept data from `offset` on, and then the data that arrives. Waits forever if the receiver is dropped, since the
/// caller then learns the result of the request.
async fn feed(
    source: &mut Source,
    offset: u64,
    chunks: mpsc::Sender<Option<Bytes>>,
) -> Result<(), EngineLeft> {
    for chunk in source.kept_from(offset) {
        if chunks.send(Some(chunk)).await.is_err() {
            return std::future::pending().await;
        }
    }
    while let Some(chunk) = source.next().await? {
        if chunks.send(Some(chunk)).await.is_err() {
            return std::future::pending().await;
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

/// Returns the failure for a blob that only the engine can send again.
fn lost(error: RegistryError) -> End {
    End::Failed(Failure { error, can_retry: true })
}
