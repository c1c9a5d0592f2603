//! A proxy in front of a registry, which logs all requests. The proxy imitates faults of networks, other proxies and
//! registries for a given number of requests.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use docker_regpush::oci::sha256;
use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size};
use serde_json::json;

use crate::body::Body;
use crate::fake::engine::read_head;
use crate::support::Registry;

/// A fault that the proxy imitates.
#[derive(Clone)]
pub enum Fault {
    /// Resets the connection after the given number of bytes of the request body.
    Reset(usize),
    /// Stops reading after the given number of bytes of the request body, until the client closes the connection.
    Stall(usize),
    /// Sends the given response instead of forwarding the request.
    Answer { status: &'static str, headers: &'static str, body: String },
    /// Answers the upload of a manifest with success, but discards the manifest.
    Lose,
    /// Forwards the request. Calls the function with the registry's port before the engine receives the response.
    Then(Arc<dyn Fn(u16) + Send + Sync>),
    /// Forwards the request at the given number of bytes per second, which all slow requests to the proxy share.
    Slow(u32),
}

impl Fault {
    /// Returns a fault that answers with an error in the JSON format of registries.
    pub fn refusal(status: &'static str, code: &str, message: &str) -> Self {
        let body = json!({"errors": [{"code": code, "message": message}]}).to_string();
        Self::Answer { status, headers: "Content-Type: application/json\r\n", body }
    }

    /// Returns a fault that answers with an HTML error page, as proxies do.
    pub fn page(status: &'static str) -> Self {
        let body = format!("<html><head><title>{status}</title></head><body>{status}</body></html>");
        Self::Answer { status, headers: "Content-Type: text/html\r\n", body }
    }
}

/// A function that selects requests by method and path.
pub type Meant = fn(&str, &str) -> bool;

/// A fault, and the requests to which the proxy applies the fault.
#[derive(Clone)]
struct Rule {
    is_for: Meant,
    times: usize,
    fault: Fault,
}

/// Functions that recognize kinds of registry requests by method and path.
pub mod ask {
    pub fn begin(method: &str, path: &str) -> bool {
        method == "POST" && path.contains("/blobs/uploads/")
    }

    /// Recognizes the upload of a layer. The classic store sends layers by PATCH, the containerd store by PUT.
    pub fn send(method: &str, path: &str) -> bool {
        ["PATCH", "PUT"].contains(&method) && path.contains("/blobs/uploads/")
    }

    pub fn manifest(method: &str, path: &str) -> bool {
        method == "PUT" && path.contains("/manifests/")
    }
}

/// A request in the log of the proxy.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    /// Whether the engine sent the request, not the plugin.
    pub is_engine: bool,
    /// Whether the proxy applied a fault to the request.
    pub is_faulty: bool,
    /// Whether a stalled request is over: the client has closed the connection, or the test has finished.
    pub has_ended: bool,
    /// The number of bytes of the body that the proxy has read.
    pub body: usize,
    /// The time when the proxy had sent a response to the client.
    pub answered: Option<Instant>,
}

struct Shared {
    registry: u16,
    rules: Mutex<Vec<Rule>>,
    log: Mutex<Vec<Asked>>,
    /// The time when all bytes of slow requests so far may have arrived.
    slow_until: Mutex<Instant>,
    /// Whether the test has finished, so that stalled requests must end. An engine with the classic store runs at most
    /// five uploads at once, and a stalled upload is one of the five while its connection is open.
    is_over: AtomicBool,
}

/// A reader of a request body that counts bytes, and limits the speed.
struct Counted<'a, R> {
    body: R,
    bytes: usize,
    bytes_per_second: Option<u32>,
    shared: &'a Shared,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.body.read(buffer)?;
        self.bytes += read;
        if let Some(bytes_per_second) = self.bytes_per_second {
            let needs = Duration::from_secs_f64(read as f64 / f64::from(bytes_per_second));
            let until = {
                let mut until = self.shared.slow_until.lock().expect("no thread panics");
                *until = (*until).max(Instant::now()) + needs;
                *until
            };
            // The sleep limits the speed; it is not a wait for a condition.
            thread::sleep(until.saturating_duration_since(Instant::now()));
        }
        Ok(read)
    }
}

pub struct Proxy {
    pub port: u16,
    /// The host in image names that lead to the proxy.
    host: String,
    shared: Arc<Shared>,
}

impl Proxy {
    pub fn to(registry: &Registry) -> Self {
        let mut proxy = Self::at("127.0.0.1", registry);
        "localhost".clone_into(&mut proxy.host);
        proxy
    }

    /// Starts a proxy that listens at an address of this machine.
    pub fn at(address: &str, registry: &Registry) -> Self {
        let listener = TcpListener::bind((address, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            registry: registry.port,
            rules: Mutex::default(),
            log: Mutex::default(),
            slow_until: Mutex::new(Instant::now()),
            is_over: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&serving);
                // `serve` returns an error only if the client or the registry has closed its connection.
                thread::spawn(move || serve(client, &shared));
            }
        });
        Self { port, host: address.to_owned(), shared }
    }

    pub fn name(&self, path: &str) -> String {
        format!("{}/{path}", self.domain())
    }

    /// Returns the domain in image names that lead to the proxy.
    pub fn domain(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Applies the fault to the next `times` requests that `is_for` selects.
    pub fn fails(&self, times: usize, is_for: Meant, fault: Fault) {
        self.shared.rules.lock().expect("no thread panics").push(Rule { is_for, times, fault });
    }

    /// Applies the fault for some time to all requests that `is_for` selects, beginning with the first of them.
    pub fn fails_for(&self, time: Duration, is_for: Meant, fault: Fault) {
        self.fails(usize::MAX, is_for, fault);
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || {
            while !shared.log.lock().expect("no thread panics").iter().any(|asked| asked.is_faulty) {
                if shared.is_over.load(Ordering::SeqCst) {
                    return;
                }
                thread::sleep(Duration::from_millis(5));
            }
            thread::sleep(time);
            shared.rules.lock().expect("no thread panics").clear();
        });
    }

    pub fn log(&self) -> Vec<Asked> {
        self.shared.log.lock().expect("no thread panics").clone()
    }

    /// Counts the engine's requests that `is_meant` selects.
    pub fn count(&self, is_meant: Meant) -> usize {
        self.log().iter().filter(|asked| asked.is_engine && is_meant(&asked.method, &asked.path)).count()
    }

    pub fn clear(&self) {
        self.shared.log.lock().expect("no thread panics").clear();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
    }
}

struct Head {
    first: String,
    headers: Vec<(String, String)>,
}

impl Head {
    fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        Ok(read_head(reader)?.map(|(first, headers)| Self { first, headers }))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// Serves one request, and then closes the connection.
fn serve(client: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    // Engines try TLS first, and use plain HTTP if the response looks like HTTP.
    if reader.fill_buf()?.first() == Some(&0x16) {
        return (&client).write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nno TLS here\n");
    }
    let Some(head) = Head::read(&mut reader)? else { return Ok(()) };
    let mut words = head.first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let fault = {
        let mut rules = shared.rules.lock().expect("no thread panics");
        let rule = rules.iter_mut().find(|rule| rule.times > 0 && (rule.is_for)(method, path));
        rule.map(|rule| {
            rule.times -= 1;
            rule.fault.clone()
        })
    };
    let at = {
        let mut log = shared.log.lock().expect("no thread panics");
        log.push(Asked {
            method: method.to_owned(),
            path: path.to_owned(),
            is_engine: !head.header("user-agent").is_some_and(|agent| agent.starts_with("docker-regpush/")),
            is_faulty: fault.is_some(),
            has_ended: false,
            body: 0,
            answered: None,
        });
        log.len() - 1
    };
    if let Some(Fault::Slow(_) | Fault::Stall(_)) = fault {
        // Otherwise the client could send several MB that the proxy does not read.
        set_socket_recv_buffer_size(&client, 128 << 10)?;
    }
    let bytes_per_second = match fault {
        Some(Fault::Slow(bytes_per_second)) => Some(bytes_per_second),
        _ => None,
    };
    let mut body = Counted { body: Body::of(&head.headers, reader), bytes: 0, bytes_per_second, shared };
    let is_stall = matches!(fault, Some(Fault::Stall(_)));
    let answered = answer(fault, &head, &mut body, &client, shared);
    if let Some(asked) = shared.log.lock().expect("no thread panics").get_mut(at) {
        asked.body = body.bytes;
        asked.has_ended = is_stall;
        asked.answered = matches!(answered, Ok(true)).then(Instant::now);
    }
    answered.map(drop)
}

/// Answers a request, with the fault if there is one. Returns whether the client got a response.
fn answer(
    fault: Option<Fault>,
    head: &Head,
    body: &mut impl Read,
    mut client: &TcpStream,
    shared: &Shared,
) -> io::Result<bool> {
    match fault {
        None | Some(Fault::Slow(_)) => pass_on(head, body, client, shared.registry)?,
        Some(Fault::Then(then)) => {
            let mut answer = Vec::new();
            pass_on(head, body, &mut answer, shared.registry)?;
            then(shared.registry);
            client.write_all(&answer)?;
        }
        Some(Fault::Reset(bytes)) => {
            io::copy(&mut body.take(bytes as u64), &mut io::sink())?;
            // With a linger time of zero, closing the socket resets the connection.
            set_socket_linger(client, Some(Duration::ZERO))?;
            return Ok(false);
        }
        Some(Fault::Stall(bytes)) => {
            io::copy(&mut body.take(bytes as u64), &mut io::sink())?;
            while !has_gone(client)? && !shared.is_over.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(5));
            }
            return Ok(false);
        }
        Some(Fault::Answer { status, headers, body: text }) => {
            io::copy(body, &mut io::sink())?;
            let length = text.len();
            let text = if head.first.starts_with("HEAD ") { "" } else { &text };
            let head =
                format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n");
            client.write_all(format!("{head}\r\n{text}").as_bytes())?;
        }
        Some(Fault::Lose) => {
            let mut manifest = Vec::new();
            body.read_to_end(&mut manifest)?;
            let digest = sha256(&manifest);
            let path = head.first.split(' ').nth(1).unwrap_or_default();
            let head = format!("HTTP/1.1 201 Created\r\nDocker-Content-Digest: sha256:{digest}\r\n");
            let head = format!("{head}Location: {path}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            client.write_all(head.as_bytes())?;
        }
    }
    Ok(true)
}

fn pass_on(head: &Head, body: &mut impl Read, mut client: impl Write, registry: u16) -> io::Result<()> {
    let mut registry = TcpStream::connect(("127.0.0.1", registry))?;
    let is_chunked = head.header("transfer-encoding").is_some();
    let own = |name: &str| ["connection", "expect"].iter().any(|own| own.eq_ignore_ascii_case(name));
    let kept = head.headers.iter().filter(|(name, _)| !own(name));
    let headers: String = kept.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    registry.write_all(format!("{}\r\n{headers}connection: close\r\n\r\n", head.first).as_bytes())?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = body.read(&mut buffer)?;
        if is_chunked {
            registry.write_all(format!("{read:x}\r\n").as_bytes())?;
        }
        registry.write_all(&buffer[..read])?;
        if is_chunked {
            registry.write_all(b"\r\n")?;
        }
        if read == 0 {
            break;
        }
    }
    io::copy(&mut registry, &mut client).map(drop)
}

/// Returns whether the client has closed the connection. The proxy's socket does not report this before the proxy has
/// read all data, so the function looks up the state of the client's socket, which is on this machine.
fn has_gone(client: &TcpStream) -> io::Result<bool> {
    /// The code of `TCP_ESTABLISHED` in Linux's `tcp_states.h`.
    const ESTABLISHED: &str = "01";
    let theirs = format!(":{:04X}", client.peer_addr()?.port());
    let own = format!(":{:04X}", client.local_addr()?.port());
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let sockets = std::fs::read_to_string(table)?;
        for socket in sockets.lines() {
            let fields: Vec<&str> = socket.split_whitespace().take(4).collect();
            let [_, local, remote, state] = fields[..] else { continue };
            if local.ends_with(&theirs) && remote.ends_with(&own) {
                return Ok(state != ESTABLISHED);
            }
        }
    }
    Ok(true)
}
