//! A fake engine on a Unix socket or a TCP port, which also serves as a fake registry. The fake engine replays recorded
//! responses and records requests. The fake engine fails the test if no request came, if a planned request never came,
//! or if a request was not planned. Pings need no plan.
//!
//! With the variable `FAKE_ENGINE_API=1.55`, every fake engine whose API version the test does not set behaves as docker
//! 29 does instead of docker 20.10.

use std::collections::{BTreeMap, VecDeque};
use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use serde_json::{Value, json};

use super::client::{Cancellation, Relayed, Store};
use super::wait::PATIENCE;

/// An HTTP request that the fake engine received.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method and path, such as `POST /v1.41/images/x/push?tag=1`.
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Decodes the credentials in the header `X-Registry-Auth` as an engine does.
    pub fn registry_auth(&self) -> Value {
        let header = self.header("x-registry-auth").expect("the header is always sent");
        let json = URL_SAFE.decode(header).expect("padded base64 of the URL alphabet");
        serde_json::from_slice(&json).expect("JSON in the header")
    }
}

/// How a response ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The fake engine sends the last chunk.
    Proper,
    /// The fake engine closes the connection before the last chunk.
    Cut,
    /// The response has no chunks: the body lasts until the fake engine closes the connection.
    Close,
    /// The response never ends, so the client must close the connection.
    Hang,
    /// The fake engine sends the last chunk, and then closes the connection without a header `Connection: close`.
    Rude,
    /// The fake engine closes the connection without a response.
    Nothing,
}

/// How the fake engine answers a ping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ping {
    /// Answers with API version 1.41, as docker 20.10 does; with 1.55 if `FAKE_ENGINE_API` says so.
    #[default]
    Normal,
    /// Answers without a header for the API version.
    NoVersion,
    /// Answers `GET` as [`Normal`](Self::Normal), but closes the connection on `HEAD`.
    GetOnly,
    /// Answers with the given API version.
    Version(&'static str),
    /// Answers with status 400 and the given error message.
    Refused(&'static str),
}

impl Ping {
    /// Returns whether the fake engine behaves as docker 29 does.
    fn is_docker_29(self) -> bool {
        let wanted = matches!(self, Self::Normal | Self::GetOnly);
        wanted && env::var("FAKE_ENGINE_API").is_ok_and(|version| version == NEW_API)
    }
}

/// The newest API version that the plugin supports.
const NEW_API: &str = "1.55";
/// The settings for registries of docker 29.
const NEW_INFO: &str = r#"{"RegistryConfig":{"IndexConfigs":{"docker.io":{"Name":"docker.io","Mirrors":[],"Secure":true,"Official":true}},"InsecureRegistryCIDRs":["::1/128","127.0.0.0/8"]}}"#;

#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub content_type: Option<&'static str>,
    pub headers: Vec<(&'static str, &'static str)>,
    /// The pieces of the body, which the fake engine writes separately.
    pub pieces: Vec<Vec<u8>>,
    /// How many times the fake engine sends the last piece of the body.
    pub times: usize,
    /// The pause between two pieces of the body.
    pub pause: Duration,
    /// The fake engine sends only the first piece before this number of pushes have been in progress at a time.
    pub together: usize,
    pub end: End,
}

impl Reply {
    /// Returns the response to an accepted push, which streams `lines` with docker's line endings.
    pub fn stream<S: AsRef<str>>(lines: impl IntoIterator<Item = S>) -> Self {
        let pieces = lines.into_iter().map(|line| format!("{}\r\n", line.as_ref()).into_bytes()).collect();
        Self {
            status: 200,
            content_type: Some("application/json"),
            headers: Vec::new(),
            pieces,
            times: 1,
            pause: Duration::ZERO,
            together: 0,
            end: End::Proper,
        }
    }

    pub fn json(status: u16, body: &str) -> Self {
        Self { status, ..Self::stream([body]) }
    }

    pub fn ending(mut self, end: End) -> Self {
        self.end = end;
        self
    }

    /// Sets the pause between two lines of the response.
    pub fn slowly(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Sends only the first line before `count` pushes have been in progress at a time.
    pub fn together(mut self, count: usize) -> Self {
        self.together = count;
        self
    }

    /// Sets how many times the fake engine sends the last line of the response.
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    pub fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }
}

#[derive(Default)]
struct State {
    ping: Ping,
    planned: VecDeque<(String, Reply)>,
    allowed: Vec<(String, Reply)>,
    /// The response to any number of pushes. `true` overrides planned responses; `false` applies only to pushes without
    /// a planned response.
    always: Option<(Reply, bool)>,
    /// The number of pushes in progress, and the maximum of this number so far.
    at_work: usize,
    most_at_work: usize,
    requests: Vec<Request>,
    unplanned: Vec<String>,
    /// The digests of pushed images, by `REPOSITORY:TAG`.
    pushed: BTreeMap<String, String>,
    /// Whether the fake engine answers `/distribution` requests with the digests in `pushed`.
    serves_pushed: bool,
    /// Whether the test added images. If so, the fake engine answers inspections of unknown images with 404.
    has_images: bool,
    /// Image IDs by image name. The key of an unnamed image is its ID.
    images: BTreeMap<String, String>,
    /// The behavior for a relay, if the test uses a relay.
    /// Shared, because a copy of the layers for each request would make the engine slow.
    relayed: Option<Arc<Relayed>>,
    /// The number of connections that the client closed during [`End::Hang`] or the fake engine closed after
    /// [`End::Rude`].
    gone: usize,
}

pub struct FakeEngine {
    /// The address of the fake engine, in the format of docker's `--host`.
    pub host: String,
    shared: Arc<(Mutex<State>, Condvar)>,
    _directory: Option<tempfile::TempDir>,
}

impl FakeEngine {
    /// Starts a fake engine on a Unix socket, which answers pings as docker 20.10 does, and planned requests.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let socket = directory.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let host = format!("unix://{}", socket.display());
        Self::serve(host, Some(directory), move || {
            let (stream, _) = listener.accept()?;
            Ok((stream.try_clone()?, stream))
        })
    }

    /// Starts an engine that tells its settings for registries, any number of times.
    pub fn with_info() -> Self {
        Self::start().allow("GET /v1.41/info", Reply::json(200, "{}"))
    }

    /// Starts a fake engine on a loopback port.
    pub fn at_tcp() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let host = format!("tcp://{}", listener.local_addr().expect("an address"));
        Self::serve(host, None, move || {
            let (stream, _) = listener.accept()?;
            Ok((stream.try_clone()?, stream))
        })
    }

    fn serve<R: Read + Send + 'static, W: Write + Send + 'static>(
        host: String,
        directory: Option<tempfile::TempDir>,
        accept: impl Fn() -> io::Result<(R, W)> + Send + 'static,
    ) -> Self {
        let shared = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let for_clients = Arc::clone(&shared);
        thread::spawn(move || {
            while let Ok((reader, writer)) = accept() {
                let shared = Arc::clone(&for_clients);
                thread::spawn(move || serve(BufReader::new(reader), writer, &shared));
            }
        });
        Self { host, shared, _directory: directory }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().expect("no client panics")
    }

    pub fn with_ping(self, ping: Ping) -> Self {
        self.state().ping = ping;
        self
    }

    /// Plans the response to one request, and fails the test if the request never comes.
    ///
    /// * `line`: method and whole path of the request; a path without a query matches any query.
    pub fn on(self, line: &str, reply: Reply) -> Self {
        self.state().planned.push_back((line.to_owned(), reply));
        self
    }

    /// Plans the response to one push of any image.
    pub fn on_next_push(self, reply: Reply) -> Self {
        self.on(ANY_PUSH, reply)
    }

    /// Plans a response to any number of requests, including none. Meant for requests that depend on timing.
    ///
    /// * `line`: method and path of the request, as for [`on`](Self::on)
    pub fn allow(self, line: &str, reply: Reply) -> Self {
        self.state().allowed.push((line.to_owned(), reply));
        self
    }

    /// Answers `/distribution` requests with the pushed digests. Fails the test if an image was pushed and no
    /// `/distribution` request came.
    pub fn serving_pushed(self) -> Self {
        self.state().serves_pushed = true;
        self
    }

    /// Adds an image, which requests can inspect, tag and untag. For an unnamed image, `name` is the ID. The fake
    /// engine answers inspections of unknown images with 404.
    pub fn has(self, name: &str, id: &str) -> Self {
        let mut state = self.state();
        state.images.insert(name.to_owned(), id.to_owned());
        state.has_images = true;
        drop(state);
        self
    }

    /// Answers inspections of all images with 404, as an engine without images.
    pub fn without_images(self) -> Self {
        self.state().has_images = true;
        self
    }

    /// Returns the current names of all images in the fake engine.
    pub fn names(&self) -> Vec<String> {
        self.state().images.keys().cloned().collect()
    }

    /// Answers every push with `reply`, even if another response is planned.
    pub fn on_every_push(self, reply: Reply) -> Self {
        self.state().always = Some((reply, true));
        self
    }

    /// Answers every push without a planned response with `reply`.
    pub fn on_every_push_else(self, reply: Reply) -> Self {
        self.state().always = Some((reply, false));
        self
    }

    /// Pushes an image with these layers to the relay, as often as the plugin asks for it.
    pub fn pushing_to_relay(self, store: Store, layers: Vec<Vec<u8>>) -> Self {
        self.state().relayed = Some(Arc::new(Relayed::Pushes(store, layers)));
        self
    }

    /// Pushes these layers to the relay, and then reports a failure.
    pub fn failing_after(self, layers: Vec<Vec<u8>>, message: &'static str) -> Self {
        self.state().relayed = Some(Arc::new(Relayed::Breaks(layers, message)));
        self
    }

    /// Answers requests for a relay as an engine in another network.
    ///
    /// * `inspects`: the engine has the distribution inspect request, unlike podman.
    pub fn in_another_network(self, inspects: bool) -> Self {
        self.state().relayed = Some(Arc::new(Relayed::Unreachable { inspects }));
        // The plugin asks which kind of engine this is.
        self.allow("GET /v1.41/info", Reply::json(200, "{}"))
    }

    /// Answers requests for a relay with an error message.
    pub fn refusing_relays(self, message: &'static str) -> Self {
        self.state().relayed = Some(Arc::new(Relayed::Refuses(message)));
        self
    }

    /// Returns the maximum number of pushes that were in progress at a time.
    pub fn most_at_once(&self) -> usize {
        self.state().most_at_work
    }

    /// Returns the first request whose method and path start with `line`.
    pub fn request(&self, line: &str) -> Option<Request> {
        self.state().requests.iter().find(|request| request.line.starts_with(line)).cloned()
    }

    /// Counts the requests whose method and path equal `line`.
    pub fn count(&self, line: &str) -> usize {
        self.state().requests.iter().filter(|request| request.line == line).count()
    }

    /// Returns all received requests except pings.
    pub fn requests(&self) -> Vec<Request> {
        self.state().requests.iter().filter(|request| !is_ping(&request.line)).cloned().collect()
    }

    pub fn pushes(&self) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.line.contains("/push?")).collect()
    }

    /// Waits until the client closes a connection during [`End::Hang`], or the fake engine closes a connection after
    /// [`End::Rude`].
    pub fn wait_until_connection_is_over(&self) {
        self.wait("no connection was closed", |state| state.gone > 0);
    }

    /// Waits until the fake engine has received `count` push requests.
    pub fn wait_for_pushes(&self, count: usize) {
        self.wait("too few pushes", |state| {
            state.requests.iter().filter(|request| request.line.contains("/push?")).count() >= count
        });
    }

    /// Waits for a request whose method and path equal `line`.
    pub fn wait_for_request(&self, line: &str) {
        self.wait("the request did not come", |state| {
            state.requests.iter().any(|request| request.line == line)
        });
    }

    fn wait(&self, otherwise: &str, condition: impl Fn(&State) -> bool) {
        let (_, changed) = &*self.shared;
        let waited = changed.wait_timeout_while(self.state(), PATIENCE, |state| !condition(state));
        assert!(!waited.expect("no client panics").1.timed_out(), "{otherwise}");
    }
}

impl Drop for FakeEngine {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        let state = self.state();
        assert!(!state.requests.is_empty(), "the engine was never called");
        assert_eq!(state.unplanned, Vec::<String>::new(), "requests that were not planned");
        let missing: Vec<&str> = state.planned.iter().map(|(line, _)| line.as_str()).collect();
        assert_eq!(missing, Vec::<&str>::new(), "planned requests that did not come");
        let has = |part: &str| state.requests.iter().any(|request| request.line.contains(part));
        let is_expected = state.serves_pushed && !state.pushed.is_empty();
        assert!(!is_expected || has("/distribution/"), "`/distribution` was never called");
        assert!(state.always.is_none() || has("/push?"), "pushes were planned, and none came");
    }
}

/// The end of a body with `Transfer-Encoding: chunked` (RFC 9112, 7.1).
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

fn serve(
    mut reader: impl BufRead + Send + 'static,
    mut writer: impl Write,
    shared: &(Mutex<State>, Condvar),
) {
    while let Ok(Some(mut request)) = read_request(&mut reader) {
        let (mut reply, ping, relayed) = {
            let mut state = shared.0.lock().expect("no client panics");
            let is_docker_29 = state.ping.is_docker_29();
            if is_docker_29 {
                // Tests plan requests of API version 1.41.
                request.line = request.line.replacen(&format!("/v{NEW_API}/"), "/v1.41/", 1);
            }
            state.requests.push(request.clone());
            let relayed = state.relayed.clone().filter(|_| Relayed::takes(&request));
            let mut reply = match &relayed {
                // The connection must bring no other request.
                Some(_) => Reply::stream([Relayed::first_line(&request)]).header("Connection", "close"),
                None => reply_to(&mut state, &request),
            };
            if is_docker_29 {
                reply.pieces = reply.pieces.iter().map(|piece| as_docker_29(piece)).collect();
            }
            if let Some((repository, tag)) = pushed(&request.line) {
                let name = format!("{repository}:{tag}");
                state.pushed.extend(digest_in(&reply).map(|digest| (name, digest)));
                state.at_work += 1;
                state.most_at_work = state.most_at_work.max(state.at_work);
            }
            (reply, state.ping, relayed)
        };
        shared.1.notify_all();
        let head_only = request.line.starts_with("HEAD ");
        let is_inspection = Relayed::is_inspection(&request);
        if let Some(relayed) = relayed.as_ref().filter(|_| is_inspection) {
            reply = relayed.inspect(&request);
        }
        let wait = || {
            thread::sleep(reply.pause);
            let is_alone = |state: &mut State| state.most_at_work < reply.together;
            let state = shared.0.lock().expect("no client panics");
            drop(shared.1.wait_timeout_while(state, PATIENCE, is_alone));
        };
        let answered = answer(&mut writer, &reply, head_only, ping, wait);
        if let Some(relayed) = relayed.filter(|_| !is_inspection) {
            let engine_push = Cancellation::default();
            let watched = engine_push.clone();
            thread::spawn(move || {
                // An engine stops a push when the client closes the connection.
                let _ = reader.read(&mut [0]);
                watched.cancel();
            });
            let lines = relayed.push(&request, engine_push).join("\r\n");
            // The plugin may have closed the connection.
            let _ = write!(writer, "{:x}\r\n{lines}\r\n\r\n0\r\n\r\n", lines.len() + 2);
            shared.0.lock().expect("no client panics").at_work -= 1;
            return;
        }
        if request.line.contains("/push?") {
            shared.0.lock().expect("no client panics").at_work -= 1;
        }
        // The client may push again as soon as the response is complete, so the end is sent after the push is counted
        // as finished.
        if matches!(answered, Ok(End::Proper | End::Rude))
            && !head_only
            && writer.write_all(LAST_CHUNK).is_err()
        {
            return;
        }
        match answered {
            Ok(End::Proper) => {}
            Ok(End::Hang) => {
                // `read` returns when the client closes the connection.
                let _ = reader.read(&mut [0]);
                shared.0.lock().expect("no client panics").gone += 1;
                shared.1.notify_all();
                return;
            }
            Ok(End::Rude) => {
                drop((reader, writer));
                shared.0.lock().expect("no client panics").gone += 1;
                shared.1.notify_all();
                return;
            }
            Ok(End::Cut | End::Close | End::Nothing) | Err(_) => return,
        }
    }
}

/// Removes the members that docker 29 does not send: empty ones (API 1.52), and the deprecated `progress` and `error`.
fn as_docker_29(piece: &[u8]) -> Vec<u8> {
    let Ok(Value::Object(mut object)) = serde_json::from_slice(piece) else { return piece.to_owned() };
    object.retain(|_, value| !matches!(value, Value::Null) && *value != json!("") && *value != json!([]));
    if object.contains_key("errorDetail") {
        object.remove("error");
    }
    object.remove("progress");
    let end = if piece.ends_with(b"\r\n") { "\r\n" } else { "" };
    format!("{}{end}", Value::Object(object)).into_bytes()
}

fn reply_to(state: &mut State, request: &Request) -> Reply {
    if is_ping(&request.line) {
        if let Ping::Refused(text) = state.ping {
            return Reply { content_type: None, ..Reply::json(400, text) };
        }
        let hangs_up = state.ping == Ping::GetOnly && request.line.starts_with("HEAD ");
        return Reply::json(200, "OK").ending(if hangs_up { End::Nothing } else { End::Proper });
    }
    let always = state.always.as_ref().filter(|_| request.line.contains("/push?"));
    if let Some((reply, true)) = always {
        return reply.clone();
    }
    if let Some(at) = state.planned.iter().position(|(line, _)| is_planned(line, &request.line)) {
        let (line, reply) = state.planned.remove(at).expect("it was just found");
        if state.ping.is_docker_29() && inspected(&line).is_some() {
            state.allowed.push((line, reply.clone()));
        }
        if reply.status < 300 {
            change_names(state, &request.line);
        }
        return reply;
    }
    if let Some((reply, _)) = always {
        return reply.clone();
    }
    if change_names(state, &request.line) {
        return Reply::json(if request.line.starts_with("DELETE ") { 200 } else { 201 }, "[]");
    }
    if let Some((_, reply)) = state.allowed.iter().find(|(line, _)| is_planned(line, &request.line)) {
        return reply.clone();
    }
    if let Some(reply) = answer_from_state(state, &request.line) {
        return reply;
    }
    let as_docker_29 = state.ping.is_docker_29().then(|| answer_of_docker_29(&request.line)).flatten();
    if let Some(reply) = as_docker_29 {
        // Tests count only the requests that are sent to every engine.
        state.requests.pop();
        return reply;
    }
    state.unplanned.push(request.line.clone());
    Reply::json(404, r#"{"message":"page not found"}"#)
}

fn is_ping(line: &str) -> bool {
    line.ends_with("/_ping")
}

/// Returns whether the planned line `plan` matches the request line `line`. Queries are compared only if `plan` has a
/// query.
fn is_planned(plan: &str, line: &str) -> bool {
    plan == line
        || plan == ANY_PUSH && line.contains("/push?")
        || line.split_once('?').is_some_and(|(path, _)| path == plan)
}

/// Returns the image name in the path of an image inspect request.
fn inspected(path: &str) -> Option<&str> {
    let (path, _) = path.split_once('?').unwrap_or((path, ""));
    path.split_once("/images/")?.1.strip_suffix("/json")
}

/// Returns the repository and the tag in the line of a push request.
fn pushed(line: &str) -> Option<(&str, &str)> {
    let (path, query) = line.split_once("/push?tag=")?;
    let (_, repository) = path.split_once("/images/")?;
    Some((repository, query.split('&').next()?))
}

/// Returns the ID of the image whose name or ID is `name`.
fn id_of<'a>(state: &'a State, name: &str) -> Option<&'a String> {
    state.images.get(name).or_else(|| state.images.values().find(|id| *id == name))
}

/// Tags or untags an image of the fake engine. Returns `false` if the request does neither, or if the image does not
/// exist.
fn change_names(state: &mut State, line: &str) -> bool {
    let Some((call, query)) = line.split_once('?') else { return false };
    let Some((method, name)) = call.split_once("/images/") else { return false };
    if method.starts_with("DELETE ") {
        return state.images.remove(name).is_some();
    }
    let id = name.strip_suffix("/tag").and_then(|name| id_of(state, name)).cloned();
    let Some(id) = id else { return false };
    let new = query.strip_prefix("repo=").and_then(|query| query.split_once("&tag="));
    let (repository, tag) = new.expect("a repository and a tag");
    state.images.insert(format!("{repository}:{tag}"), id);
    true
}

/// Returns the response to a request for an image of the fake engine or for a pushed digest. Returns `None` if the fake
/// engine has no such image or digest, or for any other request.
fn answer_from_state(state: &State, line: &str) -> Option<Reply> {
    let path = line.strip_prefix("GET ")?;
    if let Some(name) = inspected(path) {
        let Some(id) = id_of(state, name) else {
            return state.has_images.then(no_such_image);
        };
        let names: Vec<&String> = state
            .images
            .iter()
            .filter(|(name, own)| *own == id && *name != id)
            .map(|(name, _)| name)
            .collect();
        return Some(Reply::json(200, &json!({"Id": id, "RepoTags": names}).to_string()));
    }
    let (_, name) = path.split_once("/distribution/").filter(|_| state.serves_pushed)?;
    let pushed = state.pushed.get(name.strip_suffix("/json")?)?;
    Some(Reply::json(200, &format!(r#"{{"Descriptor":{{"digest":"{pushed}","size":528}}}}"#)))
}

/// Returns the response to a request that the plugin sends only to docker 29: for the engine's settings, for the platforms
/// of an image, and for the tag after a refusal.
fn answer_of_docker_29(line: &str) -> Option<Reply> {
    // The client of a proxy sends the whole URL, and a proxy may add a path.
    let (_, path) = line.strip_prefix("GET ")?.split_once("/v1.41/")?;
    if path == "info" {
        Some(Reply::json(200, NEW_INFO))
    } else if inspected(line).is_some() {
        Some(Reply::json(200, &json!({"Id": DIGEST, "RootFS": {"Type": "layers"}}).to_string()))
    } else {
        path.starts_with("distribution/").then(|| Reply::json(404, r#"{"message":"manifest unknown"}"#))
    }
}

/// The line of a plan that matches any push request.
pub const ANY_PUSH: &str = "POST a push";

/// Returns the digest that the response to a push reports.
fn digest_in(reply: &Reply) -> Option<String> {
    let text = String::from_utf8_lossy(&reply.pieces.concat()).into_owned();
    let rest = text.split(": digest: ").nth(1)?;
    Some(rest.split(' ').next()?.to_owned())
}

/// The first line and the headers of a request.
pub type Head = (String, Vec<(String, String)>);

/// Reads the first line and the headers of the next request. Returns `None` if the client has closed the connection.
pub fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let mut lines = head.into_iter();
    let line = lines.next().unwrap_or_default();
    let header =
        |line: String| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    Ok(Some((line, lines.filter_map(header).collect())))
}

fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let Some((line, headers)) = read_head(reader)? else { return Ok(None) };
    let line = line.trim_end_matches(" HTTP/1.1").to_owned();
    let mut request = Request { line, headers, body: Vec::new() };
    let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    request.body = vec![0; length];
    reader.read_exact(&mut request.body)?;
    Ok(Some(request))
}

/// Sends a response up to the last chunk of its body. Calls `wait` between two pieces of the body.
fn answer(
    writer: &mut impl Write,
    reply: &Reply,
    head_only: bool,
    ping: Ping,
    wait: impl Fn(),
) -> io::Result<End> {
    if reply.end == End::Nothing {
        return Ok(End::Nothing);
    }
    let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
    match ping {
        Ping::Normal | Ping::GetOnly => {
            let version = if ping.is_docker_29() { NEW_API } else { "1.41" };
            head += &format!("Api-Version: {version}\r\n");
        }
        Ping::Version(version) => head += &format!("Api-Version: {version}\r\n"),
        Ping::NoVersion | Ping::Refused(_) => {}
    }
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if let Some(content_type) = reply.content_type {
        head += &format!("Content-Type: {content_type}\r\n");
    }
    if head_only {
        writer.write_all(format!("{head}Content-Length: 0\r\n\r\n").as_bytes())?;
        return Ok(End::Proper);
    }
    let chunked = reply.end != End::Close;
    head += if chunked { "Transfer-Encoding: chunked\r\n\r\n" } else { "Connection: close\r\n\r\n" };
    writer.write_all(head.as_bytes())?;
    let (last, before) =
        reply.pieces.split_last().map_or((None, &[][..]), |(last, before)| (Some(last), before));
    let last = last.into_iter().flat_map(|last| std::iter::repeat_n(last, reply.times));
    for (number, piece) in before.iter().chain(last).filter(|piece| !piece.is_empty()).enumerate() {
        if number > 0 {
            wait();
        }
        if chunked {
            let frame = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
            writer.write_all(&frame)?;
        } else {
            writer.write_all(piece)?;
        }
    }
    Ok(reply.end)
}

/// Returns the status line that every engine sends after a successful push of a tag.
pub fn digest_line(tag: &str) -> String {
    format!(r#"{{"status":"{tag}: digest: {DIGEST} size: 528"}}"#)
}

pub const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Returns the response of an engine to the inspection of an image that does not exist.
pub fn no_such_image() -> Reply {
    Reply::json(404, r#"{"message":"No such image"}"#)
}

pub fn refusal(message: &str) -> String {
    json!({"errorDetail": {"message": message}, "error": message}).to_string()
}
