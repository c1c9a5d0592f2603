//! A client of the relay that behaves like an engine.

use std::collections::BTreeMap;
use std::io::{BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use docker_regpush::oci::sha256;
use serde_json::json;

use super::engine::{Reply, Request, read_head, refusal};
use super::wait::PATIENCE;

/// The status, the headers, and nothing of the body. The status is 0 if there was no answer.
type Answer = (u16, BTreeMap<String, String>);

/// The configuration of the image that a fake engine pushes, which is the last of the blobs.
pub const CONFIG: &[u8] =
    br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
/// The pause of a slow engine, and the number of bytes of a blob before it: more than the plugin sends in one request.
const PAUSE: Duration = Duration::from_millis(500);
const BEFORE_PAUSE: usize = 150_000;
/// The maximum number of bytes that a client writes at once.
const PIECE: usize = 64 << 10;

#[derive(Clone)]
pub struct Client {
    pub address: SocketAddr,
    pub authorization: String,
    /// The path of the repository.
    pub repository: String,
    pub cancellation: Cancellation,
    /// The number of bytes of bodies that the client has handed to its connections.
    pub sent: Arc<AtomicUsize>,
}

/// Cancels the requests of a client.
#[derive(Clone, Debug, Default)]
pub struct Cancellation(Arc<Mutex<(bool, Vec<TcpStream>)>>);

impl Cancellation {
    /// Opens a connection, unless the requests were cancelled or the relay does not listen any more.
    fn connect(&self, address: SocketAddr) -> Option<TcpStream> {
        let (is_cancelled, streams) = &mut *self.0.lock().expect("no client panics");
        let stream = TcpStream::connect(address).ok().filter(|_| !*is_cancelled)?;
        streams.extend(stream.try_clone());
        Some(stream)
    }

    pub fn cancel(&self) {
        let (is_cancelled, streams) = &mut *self.0.lock().expect("no client panics");
        *is_cancelled = true;
        // The relay may have closed a connection.
        streams.iter().for_each(|stream| _ = stream.shutdown(Shutdown::Both));
    }
}

impl Client {
    pub fn ask(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        self.ask_slowly(method, path, headers, body, Duration::ZERO)
    }

    /// Sends a request, with a pause after [`BEFORE_PAUSE`] bytes of the body.
    fn ask_slowly(&self, method: &str, path: &str, headers: &str, body: &[u8], pause: Duration) -> Answer {
        let none = (0, BTreeMap::new());
        let Some(mut stream) = self.cancellation.connect(self.address) else { return none };
        stream.set_read_timeout(Some(PATIENCE)).expect("a valid timeout");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {}\r\n",
            self.authorization
        );
        // The relay may end the push, and then closes the connection.
        let _ = stream.write_all(format!("{head}{headers}\r\n").as_bytes());
        let (first, rest) = body.split_at(body.len().min(BEFORE_PAUSE));
        self.write(&mut stream, first);
        thread::sleep(pause);
        self.write(&mut stream, rest);
        let Ok(Some((line, headers))) = read_head(&mut BufReader::new(stream)) else { return none };
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let headers = headers.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
        (status.expect("a status line"), headers)
    }

    /// Sends a body up to its end, or until the relay closes the connection.
    fn write(&self, stream: &mut TcpStream, body: &[u8]) {
        for piece in body.chunks(PIECE) {
            if stream.write_all(piece).is_err() {
                return;
            }
            self.sent.fetch_add(piece.len(), Ordering::Relaxed);
        }
    }

    fn path(&self, path: &str) -> String {
        format!("/v2/{}/{path}", self.repository)
    }

    /// Starts an upload. Returns its location, which is empty if the relay did not answer.
    fn start(&self) -> String {
        let (status, headers) = self.ask("POST", &self.path("blobs/uploads/"), "Content-Length: 0\r\n", b"");
        assert!(matches!(status, 0 | 202), "{status}");
        headers.get("location").cloned().unwrap_or_default()
    }

    /// Asks whether the server is a registry, as docker's classic store and podman do before a push.
    pub fn ping(&self) {
        self.ask("GET", "/v2/", "", b"");
    }

    /// Asks for a blob, as each store does before it sends the blob.
    pub fn find(&self, digest: &str) -> Answer {
        self.ask("HEAD", &self.path(&format!("blobs/{digest}")), "", b"")
    }

    /// Begins to send a blob like the containerd store, and closes the connection after `length` bytes.
    pub fn put_part(&self, blob: &[u8], length: usize) {
        let path = format!("{}?digest=sha256:{}", self.start(), sha256(blob));
        let Some(mut stream) = self.cancellation.connect(self.address) else { return };
        let (authorization, size) = (&self.authorization, blob.len());
        let head = format!(
            "PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\nContent-Length: {size}\r\n\r\n"
        );
        let _ = stream.write_all(head.as_bytes());
        self.write(&mut stream, &blob[..length]);
        let _ = stream.shutdown(Shutdown::Both);
    }

    /// Sends a manifest. Returns the status.
    pub fn put_manifest(&self, reference: &str, manifest: &[u8]) -> u16 {
        let kind = "application/vnd.docker.distribution.manifest.v2+json";
        let head = format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", manifest.len());
        self.ask("PUT", &self.path(&format!("manifests/{reference}")), &head, manifest).0
    }

    /// Sends a blob like the containerd store. Returns the status.
    pub fn put(&self, blob: &[u8]) -> u16 {
        let path = format!("{}?digest=sha256:{}", self.start(), sha256(blob));
        self.ask("PUT", &path, &format!("Content-Length: {}\r\n", blob.len()), blob).0
    }

    /// Sends a blob like the classic store, under a digest. Returns the statuses of both requests.
    pub fn patch(&self, blob: &[u8], digest: &str) -> (u16, u16) {
        self.patch_slowly(blob, digest, Duration::ZERO)
    }

    fn patch_slowly(&self, blob: &[u8], digest: &str, pause: Duration) -> (u16, u16) {
        let path = self.start();
        let mut chunked = Vec::new();
        for chunk in blob.chunks(100_000) {
            chunked.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            chunked.extend(chunk);
            chunked.extend(b"\r\n");
        }
        chunked.extend(b"0\r\n\r\n");
        let (status, headers) =
            self.ask_slowly("PATCH", &path, "Transfer-Encoding: chunked\r\n", &chunked, pause);
        if status != 202 {
            return (status, 0);
        }
        let path = format!("{}?digest={digest}", headers["location"]);
        (status, self.ask("PUT", &path, "Content-Length: 0\r\n", b"").0)
    }
}

/// The image store of an engine, which decides how the engine sends a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// One request without the length and the digest, and a second request with the digest.
    Classic,
    /// As `Classic`, with a pause in the middle of a layer.
    SlowClassic,
    /// As `Classic`, but asks for all blobs before it sends the first.
    EagerClassic,
    /// One request with the length and the digest.
    Containerd,
    /// As `Containerd`, with all layers at once.
    ContainerdAtOnce,
}

/// The behavior of a fake engine for a relay.
#[derive(Debug)]
pub enum Relayed {
    /// The engine cannot reach the relay, because it is in another network.
    ///
    /// * `inspects`: the engine has the distribution inspect request, unlike podman.
    Unreachable { inspects: bool },
    /// The engine does not connect to the relay, and reports this message.
    Refuses(&'static str),
    /// The engine reaches the relay, and pushes an image with these layers, one after the other or at once.
    Pushes(Store, Vec<Vec<u8>>),
    /// The engine sends these layers, and then reports this message instead of the rest of the image.
    Breaks(Vec<Vec<u8>>, &'static str),
}

impl Relayed {
    /// Returns whether the request is about a loopback address, at which a relay may listen.
    pub fn takes(request: &Request) -> bool {
        Self::is_inspection(request)
            || request.line.contains("/images/127.") && request.line.contains("/push?")
    }

    pub fn is_inspection(request: &Request) -> bool {
        request.line.starts_with("GET ") && request.line.contains("/distribution/127.")
    }

    /// Returns the line that an engine sends before a push.
    pub fn first_line(request: &Request) -> String {
        let (_, name) = request.line.split_once("/images/").unwrap_or_default();
        let repository = name.split("/push?").next().unwrap_or_default();
        json!({"status": format!("The push refers to repository [{repository}]")}).to_string()
    }

    /// Answers a distribution inspect request as an engine that asks the relay for the manifest.
    pub fn inspect(&self, request: &Request) -> Reply {
        let (client, _) = client(request, "/distribution/", "/json");
        let answer = |status, message: &str| Reply::json(status, &json!({ "message": message }).to_string());
        if let Self::Unreachable { inspects } = self {
            return if *inspects { answer(500, &unreachable(&client)) } else { answer(404, "Not Found") };
        }
        if let Self::Refuses(message) = self {
            return answer(500, message);
        }
        client.ping();
        match client.ask("GET", &client.path("manifests/latest"), "", b"").0 {
            0 => answer(500, &unreachable(&client)),
            401 => answer(401, "unauthorized: no password"),
            _ => answer(404, "manifest unknown: manifest unknown"),
        }
    }

    /// Pushes the image to the relay. Returns the lines that report the push.
    pub fn push(&self, request: &Request, cancellation: Cancellation) -> Vec<String> {
        let (client, tag) = client(request, "/images/", "/push");
        let client = Client { cancellation, ..client };
        let (store, layers) = match self {
            Self::Pushes(store, layers) => (store, layers),
            Self::Breaks(layers, message) => {
                layers.iter().for_each(|layer| _ = client.put(layer));
                return vec![refusal(message)];
            }
            Self::Unreachable { .. } | Self::Refuses(_) => return vec![refusal(&unreachable(&client))],
        };
        let blobs: Vec<&[u8]> = layers.iter().map(Vec::as_slice).chain([CONFIG]).collect();
        if !matches!(store, Store::Containerd | Store::ContainerdAtOnce) {
            client.ping();
        }
        let asks_first = *store == Store::EagerClassic;
        let has = |blob: &[u8]| client.find(&format!("sha256:{}", sha256(blob))).0 == 200;
        let blobs: Vec<&[u8]> =
            if asks_first { blobs.into_iter().filter(|blob| !has(blob)).collect() } else { blobs };
        let send = |blob: &[u8]| {
            let digest = format!("sha256:{}", sha256(blob));
            if !asks_first && has(blob) {
                return 201;
            }
            match store {
                Store::Classic | Store::EagerClassic => client.patch(blob, &digest).1,
                Store::SlowClassic => client.patch_slowly(blob, &digest, PAUSE).1,
                Store::Containerd | Store::ContainerdAtOnce => client.put(blob),
            }
        };
        let statuses: Vec<u16> = if *store == Store::ContainerdAtOnce {
            thread::scope(|scope| {
                let sending: Vec<_> = blobs.iter().map(|blob| scope.spawn(|| send(blob))).collect();
                sending.into_iter().map(|sent| sent.join().expect("no client panics")).collect()
            })
        } else {
            let mut has_failed = false;
            // The layers after a failed layer are not sent.
            let send = |blob: &&[u8]| {
                let status = if has_failed { 0 } else { send(blob) };
                has_failed |= status != 201;
                status
            };
            blobs.iter().map(send).collect()
        };
        if let Some(status) = statuses.iter().find(|status| **status != 201) {
            return vec![refusal(&format!("unexpected status {status} for a layer"))];
        }
        let kind = |name: &str| format!("application/vnd.docker.{name}");
        let descriptor = |media_type: String, blob: &[u8]| json!({"mediaType": media_type, "size": blob.len(), "digest": format!("sha256:{}", sha256(blob))});
        let media_type = kind("distribution.manifest.v2+json");
        let layer = kind("image.rootfs.diff.tar.gzip");
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": descriptor(kind("container.image.v1+json"), CONFIG),
            "layers": layers.iter().map(|blob| descriptor(layer.clone(), blob)).collect::<Vec<_>>(),
        });
        let manifest = manifest.to_string();
        match client.put_manifest(&tag, manifest.as_bytes()) {
            201 => {
                let (digest, size) = (sha256(manifest.as_bytes()), manifest.len());
                vec![json!({"status": format!("{tag}: digest: sha256:{digest} size: {size}")}).to_string()]
            }
            status => vec![refusal(&format!("unexpected status {status} for the manifest"))],
        }
    }
}

/// Returns a client of the relay that the path of a request names between `before` and `after`, with the password in the
/// request. Returns the tag of a push too.
fn client(request: &Request, before: &str, after: &str) -> (Client, String) {
    let path = request.line.split_once(before).expect("a name").1;
    let (name, query) = path.split_once(after).expect("a name");
    let (address, name) = name.split_once('/').expect("a repository");
    let repository = name.split(':').next().unwrap_or_default();
    let auth = request.registry_auth();
    let text = |field: &str| auth[field].as_str().unwrap_or_default().to_owned();
    let packed = STANDARD.encode(format!("{}:{}", text("username"), text("password")));
    let tag = query.split(['?', '&']).find_map(|pair| pair.strip_prefix("tag="));
    let client = Client {
        address: address.parse().expect("an address"),
        authorization: format!("Basic {packed}"),
        repository: repository.to_owned(),
        cancellation: Cancellation::default(),
        sent: Arc::default(),
    };
    (client, tag.unwrap_or_default().to_owned())
}

/// Returns the message of an engine that has no connection to the relay.
fn unreachable(client: &Client) -> String {
    let address = client.address;
    format!(r#"Get "https://{address}/v2/": dial tcp {address}: connect: connection refused"#)
}

/// Returns a blob without repetitions, so that doubled or missing content changes the digest.
pub fn blob(size: usize) -> Vec<u8> {
    let mut content = Vec::with_capacity(size + 8);
    let mut number: u64 = 0;
    while content.len() < size {
        content.extend_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        number += 1;
    }
    content.truncate(size);
    content
}
