//! A socket in front of an engine, which logs the calls of the API.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::{Engine, Home};

/// A call of the API.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// The engine has closed the connection of the call. An engine does so when the client has closed the connection and
    /// the engine has stopped the work for the call.
    pub has_ended: bool,
    connection: usize,
}

/// The calls that an engine has received through the socket.
pub struct Calls(Arc<Mutex<Vec<Call>>>);

impl Calls {
    /// Opens a socket in front of an engine. Returns the engine at this socket, and the log of the calls.
    pub fn to(engine: &Engine, home: &Home) -> (Engine, Self) {
        let socket = home.path("logged.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let log: Arc<Mutex<Vec<Call>>> = Arc::default();
        let (logging, target) = (Arc::clone(&log), engine.socket.clone());
        thread::spawn(move || {
            for (connection, client) in listener.incoming().map_while(Result::ok).enumerate() {
                let log = Arc::clone(&logging);
                forward(client, &target, connection, &log).expect("the engine listens");
            }
        });
        (engine.at(&socket), Self(log))
    }

    fn log(&self) -> Vec<Call> {
        self.0.lock().expect("no thread panics").clone()
    }

    /// Returns the calls that let the engine push an image.
    pub fn pushes(&self) -> Vec<Call> {
        let is_push = |call: &Call| call.method == "POST" && call.path.ends_with("/push");
        self.log().into_iter().filter(is_push).collect()
    }

    pub fn clear(&self) {
        self.0.lock().expect("no thread panics").clear();
    }
}

/// Forwards a connection in two threads.
fn forward(
    client: UnixStream,
    target: &Path,
    connection: usize,
    log: &Arc<Mutex<Vec<Call>>>,
) -> io::Result<()> {
    let engine = UnixStream::connect(target)?;
    let (to_client, from_engine) = (client.try_clone()?, engine.try_clone()?);
    let calls = Arc::clone(log);
    thread::spawn(move || copy(client, engine, |data| note(data, connection, &calls)));
    let calls = Arc::clone(log);
    thread::spawn(move || {
        copy(from_engine, to_client, |_| {});
        let mut calls = calls.lock().expect("no thread panics");
        calls.iter_mut().filter(|call| call.connection == connection).for_each(|call| call.has_ended = true);
    });
    Ok(())
}

/// Copies until the end of `from`, also if `to` accepts no more data. The end of the client does not end the responses,
/// so that the end of the engine shows when the engine has stopped its work.
fn copy(mut from: UnixStream, mut to: UnixStream, mut look: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        look(&buffer[..read]);
        let _ = to.write_all(&buffer[..read]);
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Logs a call if the data begins with one. A client sends each call separately, since it first waits for the response to
/// the call before.
fn note(data: &[u8], connection: usize, log: &Mutex<Vec<Call>>) {
    let line = data.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let Ok(line) = std::str::from_utf8(line) else { return };
    let words: Vec<&str> = line.split(' ').collect();
    if let [method, target, "HTTP/1.1"] = words[..] {
        let path = target.split('?').next().unwrap_or_default();
        let (method, path) = (method.to_owned(), path.to_owned());
        log.lock().expect("no thread panics").push(Call { method, path, has_ended: false, connection });
    }
}
