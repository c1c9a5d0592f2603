//! Answers the requests that the engine sends to the relay: the part of a registry's API that engines use for a push.
//!
//! Any program on this machine can connect to a loopback address. So a request needs the password of the attempt, and the relay
//! limits the number and the time of connections that have not sent it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use crate::oci::{Descriptor, sha256};
use crate::relay::blob::{SMALL, Transfer};
use crate::relay::guard::Guard;
use crate::relay::job::{Job, Started};
use crate::relay::request::{EngineRequest, Refusal};
use crate::relay::window::{Arrived, Window};

/// The maximum number of connections that have not sent the password. One more connection closes the oldest. The containerd
/// store opens two connections for each layer at once, since it tries TLS first.
const MAX_UNAUTHENTICATED: usize = 512;
/// The time in which a new connection must send the password.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// The wait before the next connection if the process has no free file descriptor.
const BUSY: Duration = Duration::from_millis(100);
/// The maximum time between two requests of the engine on a connection, and for the headers of a request.
const IDLE: Duration = Duration::from_secs(120);
/// The maximum number of bytes that are read from a connection at once, and so of the headers of a request.
const MAX_READ: usize = 256 << 10;
/// The maximum size in bytes of a manifest (OCI distribution specification 1.1).
const MAX_MANIFEST: usize = 4 << 20;
/// The first byte of a TLS handshake. Engines try TLS first.
const TLS: u8 = 0x16;
/// The answer to a TLS handshake, after which engines use plain HTTP.
const NO_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
/// The path of the first request of some engines (OCI distribution specification 1.1, `end-1`).
const PING: &str = "/v2/";
const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

pub type Answer = Response<Full<Bytes>>;
/// Answers the requests that have the password.
pub type Answerer = Arc<dyn Fn(Request<Incoming>) -> BoxFuture<'static, Answer> + Send + Sync>;

/// The connections that have not sent the password, the oldest first.
#[derive(Clone, Debug, Default)]
struct Unauthenticated(Arc<Mutex<VecDeque<(u64, AbortHandle)>>>);

impl Unauthenticated {
    fn list(&self) -> MutexGuard<'_, VecDeque<(u64, AbortHandle)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, id: u64, connection: AbortHandle) {
        let mut list = self.list();
        list.push_back((id, connection));
        if list.len() > MAX_UNAUTHENTICATED
            && let Some((_, oldest)) = list.pop_front()
        {
            oldest.abort();
        }
    }

    fn remove(&self, id: u64) {
        self.list().retain(|(found, _)| *found != id);
    }
}

/// Accepts connections, and answers the requests that `guard` admits. Dropping the returned future closes all connections.
pub async fn serve(listener: &TcpListener, guard: &Arc<Guard>, answer: &Answerer) {
    let (mut connections, unauthenticated) = (JoinSet::new(), Unauthenticated::default());
    for id in 0.. {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            // The process has no free file descriptor, until a connection ends.
            tokio::time::sleep(BUSY).await;
            continue;
        };
        // A failure here concerns only the speed.
        let _ = stream.set_nodelay(true);
        let (guard, answer, inside) = (Arc::clone(guard), Arc::clone(answer), unauthenticated.clone());
        let connection = connections.spawn(async move {
            serve_connection(stream, &guard, &answer, &inside, id).await;
            inside.remove(id);
        });
        unauthenticated.add(id, connection);
    }
}

/// Answers the requests on one connection.
async fn serve_connection(
    stream: TcpStream,
    guard: &Guard,
    answer: &Answerer,
    unauthenticated: &Unauthenticated,
    id: u64,
) {
    let mut first = [0];
    let peeked = tokio::time::timeout(LOGIN_TIMEOUT, stream.peek(&mut first)).await;
    if !matches!(peeked, Ok(Ok(1))) {
        return;
    }
    if first[0] == TLS {
        // An error means that the engine has closed the connection.
        let _ = tokio::time::timeout(LOGIN_TIMEOUT, refuse_tls(stream)).await;
        return;
    }
    let is_known = AtomicBool::new(false);
    let service = service_fn(async |request: Request<Incoming>| {
        if request.uri().path() == PING {
            guard.set_pinged();
        }
        if !guard.admits(request.headers().get(AUTHORIZATION)) {
            return Ok::<_, Infallible>(refusal(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "no password"));
        }
        if !is_known.swap(true, Ordering::Relaxed) {
            unauthenticated.remove(id);
        }
        Ok(answer(request).await)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(MAX_READ);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let timeout = async {
        tokio::time::sleep(LOGIN_TIMEOUT).await;
        if is_known.load(Ordering::Relaxed) {
            std::future::pending().await
        }
    };
    tokio::select! {
        // An error means that the connection is broken, or that the request is not HTTP.
        _ = &mut connection => {}
        () = timeout => {}
    }
}

/// Answers a TLS handshake. Reads the handshake first, because the system resets a connection that is closed with unread
/// data, and the engine then loses the answer.
async fn refuse_tls(mut stream: TcpStream) -> io::Result<()> {
    let mut handshake = [0; 4096];
    let _: usize = stream.read(&mut handshake).await?;
    stream.write_all(NO_TLS).await?;
    stream.shutdown().await?;
    while stream.read(&mut handshake).await? > 0 {}
    Ok(())
}

/// Answers one request of the engine that pushes an image.
pub async fn answer(job: Arc<Job>, request: Request<Incoming>) -> Answer {
    let job = &job;
    let uri = request.uri();
    let query = uri.query().unwrap_or_default();
    match EngineRequest::parse(request.method(), uri.path(), query, &job.repository, &job.tag) {
        EngineRequest::Ping => with_body(StatusCode::OK, "application/json", "{}"),
        EngineRequest::Start { mount } => start(job, mount).await,
        EngineRequest::Receive { id } => receive(job, &id, request.into_body()).await,
        EngineRequest::Finish { id, digest } => finish(job, &id, digest, request.into_body()).await,
        EngineRequest::Cancel { id } => {
            give_up(job.take_upload(&id));
            empty(StatusCode::NO_CONTENT)
        }
        EngineRequest::FindBlob { digest } => find_blob(job, &digest).await,
        EngineRequest::FindManifest { reference } => find_manifest(job, &reference).await,
        EngineRequest::PutManifest { reference } => put_manifest(job, reference, request).await,
        EngineRequest::Invalid(Refusal { status, code, reason }) => refusal(status, code, reason),
    }
}

/// `HEAD blobs/DIGEST`.
async fn find_blob(job: &Arc<Job>, digest: &str) -> Answer {
    match job.find(digest).await {
        Some(size) => found(digest, size),
        // After a refusal of the credentials, the engine must send nothing more.
        None if job.live().next().is_none() => std::future::pending().await,
        None => refusal(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "no such blob"),
    }
}

/// `POST blobs/uploads/`: starts an upload at the relay, or mounts a blob in the registries.
async fn start(job: &Arc<Job>, mount: Option<(String, String)>) -> Answer {
    let mut likely = job.take_announced();
    if let Some((digest, from)) = mount {
        if job.mount(&digest, &from).await {
            return stored(job, &digest);
        }
        likely = Some(digest);
    }
    accepted(job, &job.add_upload(likely), 0)
}

/// `PATCH blobs/uploads/ID`: receives a blob whose digest the engine tells later.
async fn receive(job: &Arc<Job>, id: &str, body: Incoming) -> Answer {
    let likely = match job.take_upload(id) {
        Some(Started { likely, arrived: None }) => likely,
        started => {
            give_up(started);
            return refusal(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", "no such upload");
        }
    };
    let (arrived, window) = transfer(job, body, id.to_owned(), None, likely).await;
    let end = arrived.size;
    job.put_upload(id, Started { likely: None, arrived: Some((arrived, window)) });
    accepted(job, id, end)
}

/// `PUT blobs/uploads/ID?digest=DIGEST`: finishes an upload. The body is the whole blob, or empty after a `PATCH`.
async fn finish(job: &Arc<Job>, id: &str, digest: String, body: Incoming) -> Answer {
    match job.take_upload(id) {
        Some(Started { arrived: Some((arrived, window)), .. }) => {
            if !body.is_end_stream() {
                window.leave();
                return refusal(StatusCode::BAD_REQUEST, "SIZE_INVALID", "a second chunk of a blob");
            }
            store(job, &digest, arrived, &window)
        }
        Some(Started { arrived: None, .. }) => {
            while !job.reserve(&digest) {
                if job.arrives(&digest).await {
                    // Another request has sent this blob.
                    drain(body).await;
                    return stored(job, &digest);
                }
            }
            let likely = Some(digest.clone());
            let (arrived, window) = transfer(job, body, digest.clone(), Some(&digest), likely).await;
            store(job, &digest, arrived, &window)
        }
        None => refusal(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", "no such upload"),
    }
}

/// Records that the engine does not finish an upload.
fn give_up(started: Option<Started>) {
    if let Some(Started { arrived: Some((_, window)), .. }) = started {
        window.leave();
    }
}

/// Records that the engine does not finish a blob, if the request ends before the blob has arrived.
struct Receiving<'a> {
    job: &'a Job,
    window: &'a Window,
    digest: Option<&'a str>,
}

impl Drop for Receiving<'_> {
    fn drop(&mut self) {
        if self.window.is_complete() {
            return;
        }
        self.window.leave();
        if let Some(digest) = self.digest {
            self.job.forget_blob(digest);
        }
    }
}

/// Receives a blob, and lets each registry that lacks it receive it at the same time. Waits forever if the engine does not
/// finish the blob, since an engine would retry after an error.
///
/// * `likely`: the digest that the blob probably has.
async fn transfer(
    job: &Arc<Job>,
    mut incoming: Incoming,
    name: String,
    digest: Option<&str>,
    likely: Option<String>,
) -> (Arrived, Arc<Window>) {
    let size = incoming.size_hint().exact();
    // The registries check a digest that the first request names. Otherwise the plugin checks it, before it confirms the blob
    // to the engine.
    let window = Window::new(Arc::clone(&job.backlog), digest.is_none(), job.upstreams.len());
    let receiving = Receiving { job, window: &window, digest };
    let mut has_begun = false;
    loop {
        if !has_begun && window.end() > SMALL {
            window.set_slot(job.slot(size).await);
            forward(job, &window, &name, digest, size, likely.as_ref());
            has_begun = true;
        }
        if has_begun {
            job.room(&window).await;
        }
        match incoming.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    window.add(&data);
                }
            }
            Some(Err(_)) => {
                drop(receiving);
                return std::future::pending().await;
            }
            None => break,
        }
        if incoming.is_end_stream() {
            break;
        }
    }
    let arrived = window.complete(!job.is_shared());
    drop(receiving);
    if !has_begun {
        forward(job, &window, &name, digest, size, likely.as_ref());
    }
    (arrived, window)
}

/// Sends a blob to the registries in the background.
fn forward(
    job: &Job,
    window: &Arc<Window>,
    name: &str,
    digest: Option<&str>,
    size: Option<u64>,
    likely: Option<&String>,
) {
    for (index, upstream) in job.upstreams.iter().enumerate() {
        let transfer = Transfer {
            upstream: Arc::clone(upstream),
            reader: upstream.add_reader(window, index),
            name: name.to_owned(),
            digest: digest.map(str::to_owned),
            size,
            // A single registry lacks each blob that the engine sends.
            likely: likely.cloned().filter(|_| job.is_shared()),
        };
        upstream.spawn(transfer.run());
    }
}

/// Stores a blob that has arrived. Answers the engine at once, while the registries may still store the blob.
fn store(job: &Arc<Job>, digest: &str, arrived: Arrived, window: &Window) -> Answer {
    // The registries check digests of other algorithms.
    if digest.starts_with("sha256:") && arrived.digest.is_some_and(|own| own != digest) {
        window.leave();
        job.forget_blob(digest);
        return refusal(StatusCode::BAD_REQUEST, "DIGEST_INVALID", "the blob has another digest");
    }
    job.must_store(digest, arrived.size);
    window.set_digest(digest);
    stored(job, digest)
}

/// `HEAD manifests/REFERENCE`.
async fn find_manifest(job: &Arc<Job>, reference: &str) -> Answer {
    match job.find_manifest(reference).await {
        Some(Descriptor { digest, size, .. }) => found(&digest, size),
        None => refusal(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "no such manifest"),
    }
}

/// `PUT manifests/REFERENCE`. Answers the engine at once, while the registry may still store blobs.
async fn put_manifest(job: &Arc<Job>, reference: String, request: Request<Incoming>) -> Answer {
    let invalid = |reason| refusal(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", reason);
    let media_type = request.headers().get(CONTENT_TYPE).cloned();
    let Some(media_type) = media_type else { return invalid("no media type") };
    // docker 20.10 sends a manifest of this type after a refusal of the right one. Its digest differs.
    if media_type.as_bytes().starts_with(b"application/vnd.docker.distribution.manifest.v1+") {
        return invalid("schema 1");
    }
    let body = match Limited::new(request.into_body(), MAX_MANIFEST).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return refusal(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", "more than 4 MiB"),
    };
    let own = format!("sha256:{}", sha256(&body));
    let digest = if reference.starts_with("sha512:") { reference.clone() } else { own };
    if reference.starts_with("sha256:") && reference != digest {
        return invalid("another digest");
    }
    let descriptor = Descriptor::new(digest.clone(), body.len() as u64);
    let location = format!("/v2/{}/manifests/{reference}", job.repository);
    job.store_manifest(&reference, &descriptor, &media_type, &body);
    with_header(created(&location), DIGEST, &digest)
}

/// Reads the rest of a body.
async fn drain(mut body: Incoming) {
    while let Some(Ok(_)) = body.frame().await {}
}

/// Returns the answer to a `HEAD` request for a blob or a manifest that exists.
///
/// * `size`: in bytes.
fn found(digest: &str, size: u64) -> Answer {
    let mut answer = with_header(empty(StatusCode::OK), DIGEST, digest);
    answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(size));
    answer
}

/// Returns the answer for a blob that the registry has, or that the plugin stores.
fn stored(job: &Job, digest: &str) -> Answer {
    with_header(created(&format!("/v2/{}/blobs/{digest}", job.repository)), DIGEST, digest)
}

fn created(location: &str) -> Answer {
    with_header(empty(StatusCode::CREATED), hyper::header::LOCATION, location)
}

/// Returns the answer for an upload of which the relay has received `end` bytes.
fn accepted(job: &Job, id: &str, end: u64) -> Answer {
    let location = format!("/v2/{}/blobs/uploads/{id}", job.repository);
    let answer = with_header(empty(StatusCode::ACCEPTED), hyper::header::LOCATION, &location);
    let answer = with_header(answer, UPLOAD_ID, id);
    with_header(answer, hyper::header::RANGE, &format!("0-{}", end.saturating_sub(1)))
}

pub fn refusal(status: StatusCode, code: &str, message: &str) -> Answer {
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#);
    let answer = with_body(status, "application/json", &body);
    if status == StatusCode::UNAUTHORIZED {
        return with_header(answer, hyper::header::WWW_AUTHENTICATE, r#"Basic realm="docker regpush""#);
    }
    answer
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}

pub fn with_body(status: StatusCode, kind: &'static str, body: &str) -> Answer {
    let mut answer = Response::new(Full::from(body.to_owned()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn with_header(mut answer: Answer, name: HeaderName, value: &str) -> Answer {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
    answer
}
