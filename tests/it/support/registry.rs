//! A fake registry that verifies digests, with faults that no real registry shows on request, and with the limits of known
//! registries.

#![expect(clippy::unwrap_used, reason = "all of it is a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use docker_regpush::oci::sha256;

use super::body::Body;
use super::engine::read_head;
use super::wait::wait_for;

const MIB: u64 = 1 << 20;
const UNKNOWN_UPLOAD: &str = r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"x"}]}"#;

/// A fault that the registry shows once, unless its description says otherwise.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Closes the connection when an upload has this number of bytes, and keeps `kept` of them.
    Cut { after: usize, kept: usize },
    /// Keeps `kept` bytes when an upload has `after` bytes, and answers as if it had kept all.
    Forget { after: usize, kept: usize },
    /// Closes the connection after this number of bytes of a request, and forgets the upload.
    Lose { after: usize },
    /// Stores the blob, and closes the connection without an answer.
    StoreSilently,
    /// Stores the blob, and answers when the test says so.
    AnswerLate,
    /// Answers 201 before the blob has arrived.
    AnswerEarly,
    /// Answers a blob with this status.
    Status(u16),
    /// Refuses the token of a request with data. The request without a token is such a request too.
    Expired,
    /// Answers the start of an upload with this status.
    StartStatus(u16),
    /// Names a location with another scheme and port on the same host.
    WrongPort,
    /// Redirects a blob to the registry at this port, after this number of bytes.
    Redirect { after: usize, port: u16 },
    /// Reads nothing more of each upload that has this number of bytes, until the test says so.
    Hold { after: usize },
    /// Answers a manifest with this status.
    ManifestStatus(u16),
    /// Answers 201 to a manifest, and does not store it.
    LoseManifest,
}

/// The limits of a registry, or of a proxy in front of it, for requests with data of a blob. Sizes are in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub enum Limits {
    /// Any chunks, and streams.
    #[default]
    None,
    /// Answers 413 to a longer body, as nginx does: at once if the length is known, otherwise after this number of bytes.
    ///
    /// * `is_buffering`: passes a body to the registry only if the body is complete (`proxy_request_buffering on`).
    Body { most: u64, is_buffering: bool },
    /// Answers 411 to a body of unknown length.
    LengthRequired,
    /// Redirects each request with data once.
    Redirects,
    /// Tells this minimum in `OCI-Chunk-Min-Length`, and refuses data after a shorter chunk.
    MinLength(u64),
    /// Tells this maximum in `oci-chunk-max-length`, and answers 413 to a longer body.
    MaxLength(u64),
    /// Answers 416 to a longer chunk. GitHub does so at 4 MiB.
    Chunk(u64),
    /// Amazon ECR: refuses chunks of less than 5 MiB except the last, and an empty request at the end of chunks. Tells the
    /// end of the first chunk in each `Range`, and loses an upload whose connection was cut.
    Ecr,
    /// Azure: takes the blob in one stream, or in one `PUT` of at most 20 MB. Loses an upload whose connection was cut.
    Acr,
    /// Google: takes the blob in one request.
    Google,
}

impl Limits {
    /// The maximum length of a body, and whether a longer body is kept from the registry.
    fn body(self, method: &str) -> Option<(u64, bool)> {
        match self {
            Self::Body { most, is_buffering } => Some((most, is_buffering)),
            Self::MaxLength(most) => Some((most, true)),
            Self::Acr if method == "PUT" => Some((20_000_000, true)),
            _ => None,
        }
    }

    /// Returns the status of a refusal that depends only on the headers of a request and on the upload.
    fn refusal(self, data: &DataRequest, upload: &Upload) -> Option<u16> {
        let has_data = data.length != Some(0);
        let length = data.length.unwrap_or(u64::MAX);
        let is_chunk = data.range.is_some();
        match self {
            Self::MinLength(_) if has_data && upload.has_short_chunk => Some(416),
            Self::Chunk(most) if is_chunk && length > most => Some(416),
            Self::Ecr if is_chunk && data.method == "PATCH" && length < 5 * MIB => Some(400),
            Self::Ecr if !has_data && upload.first_chunk.is_some() => Some(400),
            Self::Acr | Self::Google if is_chunk || has_data && !upload.data.is_empty() => Some(416),
            _ => None,
        }
    }
}

/// An upload that has not finished.
#[derive(Default)]
struct Upload {
    data: Vec<u8>,
    /// The size of the first chunk in bytes.
    first_chunk: Option<usize>,
    has_short_chunk: bool,
    /// The registry refuses all further data.
    is_lost: bool,
    /// A request with data is in progress.
    is_busy: bool,
}

impl Upload {
    fn range(&self, limits: Limits) -> String {
        let end = match (limits, self.first_chunk) {
            (Limits::Ecr, Some(first)) => first,
            _ => self.data.len(),
        };
        format!("Range: 0-{}\r\n", end.saturating_sub(1))
    }
}

/// A request that sent data of a blob, or that finished an upload.
#[derive(Clone, Debug)]
pub struct DataRequest {
    pub method: String,
    /// The ID of the upload.
    pub upload: String,
    /// The value of `Content-Length`.
    pub length: Option<u64>,
    /// The value of `Content-Range`.
    pub range: Option<String>,
    /// The status of the answer; 0: there was none.
    pub status: u16,
    /// The number of bytes of the body that the registry has read.
    pub received: usize,
    /// The data begins like a JSON document, such as the configuration of an image.
    pub is_document: bool,
}

impl DataRequest {
    /// Describes the request and its answer: `PATCH 0-1048575 202` for a chunk, `PUT 5 201` for a body of five bytes, and
    /// `PATCH stream 202` for a body of unknown length.
    pub fn summary(&self) -> String {
        let Self { method, length, range, status, .. } = self;
        let size = length.map_or("stream".to_owned(), |length| length.to_string());
        format!("{method} {} {status}", range.as_ref().unwrap_or(&size))
    }

    /// Returns the first and the last offset of a chunk in the form of the OCI distribution specification.
    ///
    /// # Errors
    /// The header `Content-Range` has another form, or differs from the length.
    pub fn chunk(&self) -> Result<Option<(u64, u64)>, String> {
        let Some(range) = &self.range else { return Ok(None) };
        let number = |digits: &str| {
            let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse::<u64>().ok().filter(|_| is_number)
        };
        let pair = range.split_once('-').and_then(|(first, last)| number(first).zip(number(last)));
        let pair = pair.filter(|(first, last)| self.length == last.checked_sub(*first).map(|more| more + 1));
        pair.map(Some).ok_or_else(|| format!("Content-Range: {range}, Content-Length: {:?}", self.length))
    }
}

#[derive(Default)]
pub struct State {
    limits: Limits,
    pub faults: Vec<Fault>,
    uploads: BTreeMap<String, Upload>,
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// The path of each blob. A registry has a blob in each repository that received it.
    paths: BTreeSet<String>,
    /// The media type and the content of each manifest, by tag and by digest.
    pub manifests: BTreeMap<String, (String, Vec<u8>)>,
    /// The method and the path of each request, without the query.
    pub requests: Vec<String>,
    /// The host of each request that came as a proxy receives it.
    pub hosts: Vec<String>,
    pub data: Vec<DataRequest>,
    /// The token that the registry requires, and its lifetime in seconds.
    pub token_lifetime: Option<u64>,
    pub tokens: usize,
    /// The password of the user `alice`, which the registry requires for each request.
    pub password: Option<&'static str>,
    /// The registry answers each request that finishes an upload like [`Fault::AnswerLate`].
    pub holds_finish: bool,
    /// The registry answers each request whether it has a blob like [`Fault::AnswerLate`].
    pub holds_head: bool,
    /// The registry answers a request with [`Fault::AnswerLate`] now, and reads on after [`Fault::Hold`].
    pub may_answer: bool,
    /// The pause after each 64 KiB of data.
    pub pause: Duration,
    /// The registry mounts blobs from its other repositories. Otherwise it starts an upload instead.
    pub mounts: bool,
    /// The repository of each request to mount a blob, and the repository that has the blob.
    pub mounted: Vec<(String, String)>,
}

/// A registry that verifies digests. As an HTTP proxy, plays every registry.
pub struct FakeRegistry {
    pub domain: String,
    pub state: Arc<Mutex<State>>,
}

impl FakeRegistry {
    pub fn start(faults: &[Fault]) -> Self {
        Self::with_limits(Limits::None, faults)
    }

    pub fn with_limits(limits: Limits, faults: &[Fault]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let domain = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State { limits, faults: faults.to_vec(), ..State::default() }));
        let (shared, own) = (Arc::clone(&state), domain.clone());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (shared, own) = (Arc::clone(&shared), own.clone());
                // An error means that the plugin has closed the connection.
                thread::spawn(move || serve(stream, &shared, &own));
            }
        });
        Self { domain, state }
    }

    /// Adds a blob to a repository. Returns its digest.
    pub fn add_blob(&self, repository: &str, content: &[u8]) -> String {
        let digest = format!("sha256:{}", sha256(content));
        let mut state = self.state.lock().unwrap();
        state.paths.insert(format!("/v2/{repository}/blobs/{digest}"));
        state.blobs.insert(digest.clone(), content.to_vec());
        digest
    }

    /// Returns the number of bytes of blobs that the registry has read.
    pub fn received(&self) -> usize {
        self.state.lock().unwrap().data.iter().map(|request| request.received).sum()
    }

    pub fn count(&self, start: &str) -> usize {
        self.state.lock().unwrap().requests.iter().filter(|request| request.starts_with(start)).count()
    }

    /// Returns the requests with the data of layers.
    pub fn layer_data(&self) -> Vec<DataRequest> {
        let state = self.state.lock().unwrap();
        state.data.iter().filter(|request| !request.is_document).cloned().collect()
    }

    /// See [`DataRequest::summary`].
    pub fn summary(&self) -> Vec<String> {
        self.layer_data().iter().map(DataRequest::summary).collect()
    }
}

impl Drop for FakeRegistry {
    /// Ends the threads that wait for the test.
    fn drop(&mut self) {
        // Another thread may have panicked.
        if let Ok(mut state) = self.state.lock() {
            state.may_answer = true;
        }
    }
}

/// Waits until the state of a registry meets a condition.
pub fn wait_until(state: &Mutex<State>, what: &str, condition: impl Fn(&State) -> bool) {
    wait_for(what, || condition(&state.lock().unwrap()).then_some(()));
}

/// A request without its body.
struct Asked {
    method: String,
    path: String,
    /// The path with the query.
    target: String,
    /// The last part of the path.
    id: String,
    /// The digest in the query.
    digest: Option<String>,
    headers: Vec<(String, String)>,
}

impl Asked {
    fn header(&self, name: &str) -> Option<String> {
        let found = self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone())
    }

    /// Mounts a blob if the request asks for it, and the registry mounts blobs. Returns whether it has mounted the blob.
    fn mounts_from(&self, state: &mut State) -> bool {
        let parameter = |name: &str| {
            let (_, query) = self.target.split_once('?')?;
            let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
            Some(value.replace("%3A", ":").replace("%2F", "/"))
        };
        let Some((digest, from)) = parameter("mount").zip(parameter("from")) else { return false };
        let blobs = self.path.trim_end_matches('/').trim_end_matches("uploads");
        let own = blobs.trim_start_matches("/v2/").trim_end_matches("/blobs/").to_owned();
        state.mounted.push((own, from.clone()));
        let has_blob = state.paths.contains(&format!("/v2/{from}/blobs/{digest}"));
        let is_mounted = state.mounts && has_blob;
        if is_mounted {
            state.paths.insert(format!("{blobs}{digest}"));
        }
        is_mounted
    }

    fn is_data(&self) -> bool {
        matches!(self.method.as_str(), "PATCH" | "PUT") && self.path.contains("/uploads/")
    }

    fn data(&self) -> DataRequest {
        let length = self.header("content-length").and_then(|length| length.parse().ok());
        let is_stream = self.header("transfer-encoding").is_some();
        DataRequest {
            method: self.method.clone(),
            upload: self.id.clone(),
            length: (!is_stream).then(|| length.unwrap_or_default()),
            range: self.header("content-range"),
            status: 0,
            received: 0,
            is_document: false,
        }
    }
}

struct Answer {
    status: u16,
    headers: String,
    text: String,
}

impl Answer {
    fn new(status: u16, headers: &str) -> Self {
        Self { status, headers: headers.to_owned(), text: String::new() }
    }

    fn with(status: u16, text: &str) -> Self {
        Self { text: text.to_owned(), ..Self::new(status, "") }
    }

    fn send(&self, mut stream: &TcpStream) -> io::Result<()> {
        let Self { status, headers, text } = self;
        let length = match headers.contains("Content-Length") {
            true => String::new(),
            false => format!("Content-Length: {}\r\n", text.len()),
        };
        let head = format!("HTTP/1.1 {status} X\r\n{headers}{length}Connection: close\r\n\r\n");
        stream.write_all(format!("{head}{text}").as_bytes())
    }
}

fn drain(body: &mut impl Read) -> io::Result<()> {
    io::copy(body, &mut io::sink()).map(|_| ())
}

fn serve(mut stream: TcpStream, shared: &Mutex<State>, domain: &str) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    if reader.fill_buf()?.first() == Some(&0x16) {
        return stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
    }
    let Some((line, headers)) = read_head(&mut reader)? else { return Ok(()) };
    let mut words = line.split(' ');
    let (method, mut target) = (words.next().unwrap().to_owned(), words.next().unwrap());
    if let Some((host, path)) = target.strip_prefix("http://").and_then(|url| url.split_once('/')) {
        shared.lock().unwrap().hosts.push(host.to_owned());
        target = &target[target.len() - path.len() - 1..];
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let digest = query.split('&').find_map(|pair| pair.strip_prefix("digest="));
    let asked = Asked {
        method,
        path: path.to_owned(),
        target: target.to_owned(),
        id: path.rsplit('/').next().unwrap().to_owned(),
        digest: digest.map(|digest| digest.replace("%3A", ":")),
        headers,
    };
    let mut body = Body::of(&asked.headers, reader);
    let redirects = matches!(shared.lock().unwrap().limits, Limits::Redirects);
    if redirects && asked.is_data() && !query.contains("node=2") {
        let sign = if query.is_empty() { "?" } else { "&" };
        Answer::new(307, &format!("Location: {target}{sign}node=2\r\n")).send(&stream)?;
        return drain(&mut body);
    }
    let (fault, record) = {
        let mut state = shared.lock().unwrap();
        state.requests.push(format!("{} {path}", asked.method));
        let record = asked.is_data().then(|| {
            state.data.push(asked.data());
            state.data.len() - 1
        });
        let is_meant = |fault: &Fault| match fault {
            // These depend on the data.
            Fault::Cut { .. } | Fault::Forget { .. } | Fault::Hold { .. } => false,
            Fault::ManifestStatus(_) | Fault::LoseManifest => {
                asked.method == "PUT" && path.contains("/manifests/")
            }
            Fault::StartStatus(_) | Fault::WrongPort => asked.method == "POST",
            _ => asked.is_data(),
        };
        let at = state.faults.first().is_some_and(is_meant);
        (at.then(|| state.faults.remove(0)), record)
    };
    if let Some(refusal) = authorize(&asked, shared, domain) {
        return refusal.send(&stream);
    }
    let asks_for_blob = asked.method == "HEAD" && path.contains("/blobs/");
    let is_held = || {
        let state = shared.lock().unwrap();
        asks_for_blob && state.holds_head && !state.may_answer
    };
    while is_held() {
        thread::sleep(Duration::from_millis(5));
    }
    let answer = match (fault, record) {
        (Some(Fault::Lose { after }), _) => {
            drain(&mut body.take(after as u64))?;
            shared.lock().unwrap().uploads.remove(&asked.id);
            return Ok(());
        }
        (Some(Fault::Redirect { after, port }), _) => {
            drain(&mut Read::by_ref(&mut body).take(after as u64))?;
            Answer::new(307, &format!("Location: http://127.0.0.1:{port}{}\r\n", asked.target))
        }
        (Some(Fault::Expired), _) => Answer::new(401, &challenge(domain)),
        (Some(Fault::AnswerEarly), _) => Answer::new(201, ""),
        (Some(Fault::Status(status) | Fault::StartStatus(status) | Fault::ManifestStatus(status)), _) => {
            drain(&mut body)?;
            Answer::new(status, "")
        }
        (Some(Fault::LoseManifest), _) => {
            drain(&mut body)?;
            Answer::new(201, "")
        }
        (_, Some(record)) => match receive(&asked, record, &mut body, shared)? {
            Some(answer) => answer,
            None => return Ok(()),
        },
        _ => answer_without_data(&asked, fault, &mut body, shared)?,
    };
    if asked.is_data() && answer.status == 201 {
        if matches!(fault, Some(Fault::StoreSilently)) {
            return Ok(());
        }
        let holds = shared.lock().unwrap().holds_finish || matches!(fault, Some(Fault::AnswerLate));
        while holds && asked.digest.is_some() && !shared.lock().unwrap().may_answer {
            thread::sleep(Duration::from_millis(5));
        }
    }
    if let Some(record) = record {
        shared.lock().unwrap().data[record].status = answer.status;
    }
    answer.send(&stream)?;
    // The system resets a connection that is closed with unread data, and the plugin then loses the answer.
    drain(&mut body)
}

/// Returns the answer to a request without the token that the registry requires, or to a request for a token.
fn authorize(asked: &Asked, shared: &Mutex<State>, domain: &str) -> Option<Answer> {
    let mut state = shared.lock().unwrap();
    if let Some(password) = state.password {
        let packed = STANDARD.encode(format!("alice:{password}"));
        let is_right = asked.header("authorization") == Some(format!("Basic {packed}"));
        return (!is_right).then(|| Answer::new(401, "WWW-Authenticate: Basic realm=\"registry\"\r\n"));
    }
    if asked.path == "/token" {
        state.tokens += 1;
        let lifetime = state.token_lifetime.unwrap_or(300);
        let token = format!(r#"{{"token":"token-{}","expires_in":{lifetime}}}"#, state.tokens);
        let headers = "Content-Type: application/json\r\n".to_owned();
        return Some(Answer { status: 200, headers, text: token });
    }
    let is_refused = state.token_lifetime.is_some() && asked.header("authorization").is_none();
    is_refused.then(|| Answer::new(401, &challenge(domain)))
}

fn challenge(domain: &str) -> String {
    format!("WWW-Authenticate: Bearer realm=\"http://{domain}/token\"\r\n")
}

fn answer_without_data(
    asked: &Asked,
    fault: Option<Fault>,
    body: &mut impl Read,
    shared: &Mutex<State>,
) -> io::Result<Answer> {
    let Asked { method, path, id, .. } = asked;
    let is_manifest = path.contains("/manifests/");
    if method == "GET" && path.contains("/uploads/") {
        return Ok(offset(asked, shared));
    }
    let mut content = Vec::new();
    body.read_to_end(&mut content)?;
    let mut state = shared.lock().unwrap();
    Ok(match method.as_str() {
        "GET" if path == "/v2/" => Answer::new(200, ""),
        "HEAD" | "GET" if is_manifest => match state.manifests.get(id) {
            Some((media_type, manifest)) => {
                let (length, digest) = (manifest.len(), sha256(manifest));
                let headers = format!(
                    "Content-Length: {length}\r\nContent-Type: {media_type}\r\nDocker-Content-Digest: sha256:{digest}\r\n"
                );
                let text = if method == "GET" {
                    String::from_utf8_lossy(manifest).into_owned()
                } else {
                    String::new()
                };
                Answer { status: 200, headers, text }
            }
            None => Answer::new(404, ""),
        },
        "HEAD" => match state.blobs.get(id).filter(|_| state.paths.contains(path)) {
            Some(blob) => Answer::new(200, &format!("Content-Length: {}\r\n", blob.len())),
            None => Answer::new(404, ""),
        },
        "POST" if asked.mounts_from(&mut state) => Answer::new(201, ""),
        "POST" => {
            let id = format!("u{}", state.requests.len());
            state.uploads.insert(id.clone(), Upload::default());
            let server = if matches!(fault, Some(Fault::WrongPort)) { "https://127.0.0.1:1" } else { "" };
            let limits = match state.limits {
                Limits::MinLength(least) => format!("OCI-Chunk-Min-Length: {least}\r\n"),
                Limits::MaxLength(most) => format!("oci-chunk-max-length: {most}\r\n"),
                _ => String::new(),
            };
            Answer::new(202, &format!("Location: {server}{path}{id}\r\n{limits}"))
        }
        "PUT" => {
            let manifest = (asked.header("content-type").unwrap_or_default(), content);
            state.manifests.insert(format!("sha256:{}", sha256(&manifest.1)), manifest.clone());
            state.manifests.insert(id.clone(), manifest);
            Answer::new(201, "")
        }
        "DELETE" => {
            state.uploads.remove(id);
            Answer::new(204, "")
        }
        _ => Answer::new(404, ""),
    })
}

/// Returns how much of an upload the registry has. Waits for the end of a request that sends data, since its connection may
/// still hold data that the registry receives.
fn offset(asked: &Asked, shared: &Mutex<State>) -> Answer {
    wait_for("the request that sends data ends", || {
        let state = shared.lock().unwrap();
        match state.uploads.get(&asked.id) {
            Some(upload) if upload.is_busy => None,
            Some(upload) => {
                let location = format!("Location: {}\r\n", asked.path);
                Some(Answer::new(204, &format!("{location}{}", upload.range(state.limits))))
            }
            None => Some(Answer::with(404, UNKNOWN_UPLOAD)),
        }
    })
}

/// Receives data of a blob. Returns `None` if the connection must be closed without an answer.
///
/// * `record`: the index of the request in [`State::data`].
fn receive(
    asked: &Asked,
    record: usize,
    body: &mut impl Read,
    shared: &Mutex<State>,
) -> io::Result<Option<Answer>> {
    let location = format!("Location: {}\r\n", asked.path);
    let unknown = || Ok(Some(Answer::with(404, UNKNOWN_UPLOAD)));
    let mut state = shared.lock().unwrap();
    let data = state.data[record].clone();
    let limits = state.limits;
    let most = limits.body(&asked.method);
    if matches!(limits, Limits::LengthRequired) && data.length.is_none() {
        return Ok(Some(Answer::new(411, "")));
    }
    if most.is_some_and(|(most, _)| data.length.is_some_and(|length| length > most)) {
        return Ok(Some(Answer::new(413, "")));
    }
    let Some(upload) = state.uploads.get_mut(&asked.id) else { return unknown() };
    if upload.is_lost {
        return unknown();
    }
    let Ok(chunk) = data.chunk() else { return Ok(Some(Answer::new(400, ""))) };
    let is_wrong_place = chunk.is_some_and(|(first, _)| first != upload.data.len() as u64);
    let refusal = is_wrong_place.then_some(416).or_else(|| limits.refusal(&data, upload));
    if let Some(status) = refusal {
        return Ok(Some(Answer::new(status, &format!("{location}{}", upload.range(limits)))));
    }
    upload.is_busy = true;
    let before = upload.data.len();
    let faults = state.faults.first().copied();
    let pause = state.pause;
    drop(state);

    let (mut more, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    let end = loop {
        if let Some(Fault::Cut { after, .. } | Fault::Forget { after, .. }) = faults
            && before + more.len() >= after
        {
            break Ok(false);
        }
        while let Some(Fault::Hold { after }) = faults
            && before + more.len() >= after
            && !shared.lock().unwrap().may_answer
        {
            thread::sleep(Duration::from_millis(5));
        }
        if let Some((most, _)) = most.filter(|(most, _)| more.len() as u64 > *most) {
            more.truncate(usize::try_from(most).unwrap());
            break Ok(true);
        }
        match body.read(&mut piece) {
            Ok(0) => break Ok(false),
            Ok(read) => {
                more.extend_from_slice(&piece[..read]);
                thread::sleep(pause);
            }
            // The plugin closed the connection.
            Err(error) => break Err(error),
        }
    };
    let mut state = shared.lock().unwrap();
    state.data[record].is_document = more.starts_with(b"{");
    state.data[record].received = more.len();
    let Some(upload) = state.uploads.get_mut(&asked.id) else { return unknown() };
    upload.is_busy = false;
    let is_too_long = matches!(end, Ok(true));
    if !is_too_long || most.is_some_and(|(_, is_buffering)| !is_buffering) {
        upload.data.append(&mut more);
    }
    end?;
    if is_too_long {
        return Ok(Some(Answer::new(413, "")));
    }
    let length = upload.data.len() - before;
    if data.range.is_some() {
        upload.first_chunk.get_or_insert(length);
        upload.has_short_chunk = matches!(limits, Limits::MinLength(least) if (length as u64) < least);
    }
    let answered = upload.range(limits);
    match faults {
        Some(Fault::Cut { after, kept }) if before + length >= after => {
            upload.data.truncate(kept);
            upload.is_lost = matches!(limits, Limits::Ecr | Limits::Acr);
            state.faults.remove(0);
            return Ok(None);
        }
        Some(Fault::Forget { after, kept }) if before + length >= after => {
            drop(state);
            // The rest of this request is forgotten too.
            drain(body)?;
            let mut state = shared.lock().unwrap();
            state.faults.remove(0);
            if let Some(upload) = state.uploads.get_mut(&asked.id) {
                upload.data.truncate(kept);
            }
            let end = chunk.map_or(answered, |(_, last)| format!("Range: 0-{last}\r\n"));
            return Ok(Some(Answer::new(202, &format!("{location}{end}"))));
        }
        _ => {}
    }
    let Some(digest) = &asked.digest else {
        let status = if matches!(limits, Limits::Ecr) { 201 } else { 202 };
        return Ok(Some(Answer::new(status, &format!("{location}{answered}"))));
    };
    let data = state.uploads.remove(&asked.id).map(|upload| upload.data).unwrap_or_default();
    if format!("sha256:{}", sha256(&data)) != *digest {
        return Ok(Some(Answer::with(400, r#"{"errors":[{"code":"DIGEST_INVALID","message":"x"}]}"#)));
    }
    let (blobs, _) = asked.path.split_once("uploads/").unwrap();
    state.paths.insert(format!("{blobs}{digest}"));
    state.blobs.insert(digest.clone(), data);
    Ok(Some(Answer::new(201, "")))
}
