//! The entry point of the program: parses argv, runs a command, catches signals, and returns the exit status.

use std::convert::Infallible;
use std::ffi::OsString;
use std::process::{self, ExitCode};
use std::sync::mpsc;
use std::time::Duration;
use std::{env, io, thread};

use docker_regpush::cli::{argv, help};
use docker_regpush::command::{self, complete};
use docker_regpush::docker::hook;
use docker_regpush::plugin;
use docker_regpush::secret::{self, Secret};
use tokio::runtime::Runtime;
#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// Exit status after a usage error. docker exits with the same status.
const USAGE: u8 = 125;
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let args: Vec<OsString> = env::args_os().collect();
    // docker requests the metadata before every run of the plugin, so the program prints the metadata before it
    // parses options or starts the runtime.
    if plugin::wants_metadata(&args) {
        return match plugin::write_metadata(io::stdout()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    if let Some(question) = plugin::hook_question(&args) {
        // docker ignores an invalid response of the plugin's hook, so the program prints no error message.
        return if hook::answer(question, io::stdout()).is_ok() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    if let Some(request) = complete::Request::read(&args) {
        return if request.answer(io::stdout()).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let call = match argv::parse(&args) {
        Ok(call) => call,
        Err(error) => {
            let printed = help::print(&error);
            return match printed {
                _ if error.use_stderr() => USAGE.into(),
                // A closed stdout is not an error.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
                _ => ExitCode::SUCCESS,
            };
        }
    };
    secret::forbid_core_dumps();
    let auth_config = take_auth_config();
    let runtime = match new_runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let status = runtime.block_on(command::run(&call.docker, &call.command, auth_config, cancelled()));
    // Does not wait for threads that are blocked by a credential helper or by the terminal.
    runtime.shutdown_background();
    status.into()
}

fn new_runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Removes `DOCKER_AUTH_CONFIG` from the environment, and returns the value of the variable. The value contains
/// passwords, which child processes would inherit.
fn take_auth_config() -> Option<Secret> {
    const NAME: &str = "DOCKER_AUTH_CONFIG";
    // Replaces invalid UTF-8, so that the parser later reports the value as malformed.
    let text = env::var_os(NAME).map(|text| text.to_string_lossy().into_owned());
    #[expect(unsafe_code, reason = "no other thread runs yet that could read the environment")]
    // SAFETY: `main` calls this function before starting the runtime, so no other thread runs.
    unsafe {
        env::remove_var(NAME);
    }
    text.filter(|text| !text.is_empty()).map(Secret::new)
}

/// Returns an exit status when a signal arrives, or when docker stops the plugin.
///
/// A separate thread waits for signals, because the main thread may block on a write to a terminal or pipe that has
/// no reader. After the first signal, the command has a grace period to finish. Then the separate thread exits the
/// process. Two more signals end the grace period early.
async fn cancelled() -> u8 {
    const GRACE: Duration = Duration::from_secs(3);
    let (tell, told) = oneshot::channel();
    let (ready, is_ready) = mpsc::channel::<Infallible>();
    thread::spawn(move || {
        let Ok(runtime) = new_runtime() else { return };
        runtime.block_on(async {
            let Ok(mut signals) = Signals::catch() else { return };
            drop(ready);
            let status = signals.first_reason().await;
            // Sending fails if the command has finished, because the receiver is dropped.
            let _ = tell.send(status);
            // docker also kills a plugin at the third signal.
            let insisted = async {
                signals.next().await;
                signals.next().await
            };
            let _ = tokio::time::timeout(GRACE, insisted).await;
            process::exit(status.into());
        });
    });
    // Waits until the separate thread catches all signals, before any prompt can start.
    let _ = is_ready.recv();
    match told.await {
        Ok(status) => status,
        // If the separate thread could not start, signals keep their default action, which kills the process.
        Err(_) => std::future::pending().await,
    }
}

impl Signals {
    /// Waits until a signal arrives or docker closes the plugin's control socket. Returns the exit status for that
    /// event.
    async fn first_reason(&mut self) -> u8 {
        tokio::select! {
            status = self.next() => status,
            () = plugin::stopped_by_docker() => {
                // In `docker regpush … | tee`, Ctrl-C sends a signal to docker and the plugin, and docker closes the
                // control socket. Waits briefly for the signal, since the signal determines the exit status.
                tokio::time::timeout(Duration::from_millis(50), self.next()).await.unwrap_or(INTERRUPTED)
            }
        }
    }
}

/// The signals that stop the program on Windows: only Ctrl-C.
#[cfg(windows)]
struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    fn catch() -> io::Result<Self> {
        tokio::signal::windows::ctrl_c().map(Self)
    }

    async fn next(&mut self) -> u8 {
        self.0.recv().await;
        INTERRUPTED
    }
}

/// The signals that stop the program on Unix. Like docker, the program catches SIGINT and SIGTERM even if these
/// signals are ignored, as in the background of a script. An ignored SIGHUP remains ignored, so that `nohup docker …`
/// continues.
#[cfg(unix)]
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
    quit: Signal,
}

#[cfg(unix)]
impl Signals {
    fn catch() -> io::Result<Self> {
        let hangup = if is_hangup_ignored() { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup,
            quit: signal(SignalKind::quit())?,
        })
    }

    async fn next(&mut self) -> u8 {
        let hangup = async {
            match &mut self.hangup {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPTED,
            _ = self.terminate.recv() => 143,
            _ = hangup => 129,
            // SIGQUIT (Ctrl-\) stops docker too.
            _ = self.quit.recv() => 131,
        }
    }
}

/// Returns whether the process ignores SIGHUP, as under `nohup`. Returns `false` on systems other than Linux, which
/// do not report ignored signals. Source: proc(5), `SigIgn`, lowest bit.
#[cfg(unix)]
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
