//! Connects to an engine over the stdin and stdout of a program.
//!
//! `ssh … docker system dial-stdio` reaches an engine on another machine. `docker … system dial-stdio`
//! reaches an endpoint that only docker can open.
//!
//! Source: docker/cli `cli/connhelper` (28.5; a fake ssh recorded docker's arguments) and
//! `cli-plugins/plugin`.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{env, io};

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::docker::context::{Endpoint, SshHost};
use crate::engine::transport::error::TransportError;
use crate::engine::transport::ssh::ssh_arguments;
use crate::engine::transport::stream::Stream;
use crate::text::sanitize;

/// How many of the last bytes of a program's stderr to keep.
const MAX_SAID: usize = 4096;
/// Maximum time for a program to exit after the program has closed its stdout.
const END: Duration = Duration::from_secs(3);

/// The program that carries a connection to an engine. Dropping this value kills the program at once, because
/// the program has no data to save. (docker asks the program to exit, and kills it after 3 s.)
#[derive(Debug)]
pub struct Tunnel {
    child: Child,
    /// The command line of the program, for error messages.
    command: String,
    said: Arc<Mutex<VecDeque<u8>>>,
    /// Notified when `said` changes.
    heard: Arc<Notify>,
    listener: JoinHandle<()>,
}

impl Tunnel {
    pub fn ssh(host: &SshHost) -> io::Result<(Self, Box<dyn Stream>)> {
        Self::start(OsStr::new("ssh"), &ssh_arguments(host))
    }

    /// Starts docker as the program that carries the connection.
    ///
    /// * `arguments`: the options of `docker` that select the engine.
    pub fn docker(arguments: &[OsString]) -> io::Result<(Self, Box<dyn Stream>)> {
        // Run the docker executable that started the plugin: this variable contains docker's `argv[0]`.
        let docker = env::var_os("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND").filter(|name| !name.is_empty());
        let docker = docker.unwrap_or_else(|| OsString::from("docker"));
        let words = ["system", "dial-stdio"].map(OsString::from);
        Self::start(&docker, &[arguments, &words].concat())
    }

    /// Starts a program. Returns the program, and its stdout and stdin as a stream.
    pub fn start(program: &OsStr, arguments: &[OsString]) -> io::Result<(Self, Box<dyn Stream>)> {
        let mut command = Command::new(program);
        command.args(arguments).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // docker set these two variables for the plugin, not for programs that the plugin starts.
        command.env_remove("DOCKER_CLI_PLUGIN_SOCKET");
        if let Ok(attributes) = env::var("OTEL_RESOURCE_ATTRIBUTES") {
            let others = attributes.split(',').filter(|pair| !pair.starts_with("docker.cli."));
            command.env("OTEL_RESOURCE_ATTRIBUTES", others.collect::<Vec<_>>().join(","));
        }
        #[cfg(unix)]
        detach(&mut command);
        let shown = shown(program, arguments);
        let mut child = command
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("cannot run `{shown}`: {error}")))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (said, heard) = (Arc::default(), Arc::default());
        let listener = tokio::spawn(listen(stderr.expect("piped"), Arc::clone(&said), Arc::clone(&heard)));
        let stream = tokio::io::join(stdout.expect("piped"), stdin.expect("piped"));
        Ok((Self { child, command: shown, said, heard, listener }, Box::new(stream)))
    }

    /// Waits until `find` finds something in the end of the program's stderr.
    ///
    /// # Errors
    /// The last line of stderr, if the program has closed stderr.
    pub async fn wait_for<T>(&mut self, find: impl Fn(&str) -> Option<T>) -> Result<T, String> {
        loop {
            let has_ended = self.listener.is_finished();
            let said = self.said();
            if let Some(found) = find(&said) {
                return Ok(found);
            }
            if has_ended {
                return Err(sanitize(said.lines().last().unwrap_or("it ended")));
            }
            tokio::select! {
                () = self.heard.notified() => {}
                _ = &mut self.listener => {}
            }
        }
    }

    /// Returns whether the program still runs.
    pub fn is_running(&self) -> bool {
        !self.listener.is_finished()
    }

    /// Returns the end of the program's stderr.
    fn said(&self) -> String {
        let said: Vec<u8> =
            self.said.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Replaces the error of a broken connection with the failure of the program. Keeps the error if the
    /// program exited with success, or if the program still runs and has printed nothing.
    pub async fn explain(mut self, error: TransportError, endpoint: &Arc<Endpoint>) -> TransportError {
        let end = match timeout(END, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => return error,
            Ok(Ok(status)) => format!("ended with {status}"),
            _ => "hung up".to_owned(),
        };
        // A process that the program left running may keep stderr open, so the wait for the end of stderr is
        // limited.
        let _ = timeout(END, &mut self.listener).await;
        let said = self.said();
        if said.is_empty() && end == "hung up" {
            return error;
        }
        TransportError::Tunnel { endpoint: Arc::clone(endpoint), command: self.command.clone(), end, said }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.listener.abort();
        // Kills the program's child processes too: the program leads its own process group.
        #[cfg(unix)]
        if let Some(group) = self.child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

/// Makes the program start in its own session, as docker does. Ctrl-C in the terminal then reaches only the
/// plugin, which kills the program. If the plugin is killed, Linux kills the program.
#[cfg(unix)]
fn detach(command: &mut Command) {
    let prepare = || {
        rustix::process::setsid()?;
        // Linux kills the program when the thread that started the program exits. The starting thread is the
        // only thread of its tokio runtime, and so does not exit before the runtime has ended.
        #[cfg(target_os = "linux")]
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        Ok(())
    };
    #[expect(unsafe_code, reason = "there is no safe way to prepare a child")]
    // SAFETY: `prepare` makes two system calls, and neither allocates nor locks.
    unsafe {
        command.pre_exec(prepare);
    }
}

async fn listen(mut stderr: impl AsyncRead + Unpin, said: Arc<Mutex<VecDeque<u8>>>, heard: Arc<Notify>) {
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.extend(&buffer[..read]);
        let surplus = said.len().saturating_sub(MAX_SAID);
        said.drain(..surplus);
        heard.notify_one();
    }
}

fn shown(program: &OsStr, arguments: &[OsString]) -> String {
    let words = std::iter::once(program).chain(arguments.iter().map(OsString::as_os_str));
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
