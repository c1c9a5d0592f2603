//! argv and signals in, exit status out.

use std::ffi::OsString;
use std::process::{self, ExitCode};
use std::time::Duration;
use std::{env, fs, io, thread};

use docker_regpush::secret::Secret;
use docker_regpush::{command, plugin};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Usage errors, as docker's own.
const USAGE: u8 = 125;
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let args: Vec<OsString> = env::args_os().collect();
    // Asked before every call of docker: nothing else is started for it.
    if plugin::wants_metadata(&args) {
        return match plugin::write_metadata(io::stdout()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let call = match plugin::parse(&args) {
        Ok(call) => call,
        Err(error) => {
            // A closed stdout or stderr leaves nothing to say.
            let _ = error.print();
            return if error.use_stderr() { USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    let auth_config = take_auth_config();
    let runtime = match new_runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let status = runtime.block_on(command::run(&call, auth_config, cancelled()));
    // A thread may still wait for a helper or for the terminal.
    runtime.shutdown_background();
    status.into()
}

fn new_runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Takes `DOCKER_AUTH_CONFIG` out of the environment: it holds passwords, and children inherit it.
fn take_auth_config() -> Option<Secret> {
    const NAME: &str = "DOCKER_AUTH_CONFIG";
    // What is not UTF-8 becomes something that is told as broken when it is read.
    let text = env::var_os(NAME).map(|text| text.to_string_lossy().into_owned());
    #[expect(unsafe_code, reason = "no other thread runs yet that could read the environment")]
    // SAFETY: called from `main` before the runtime and its threads.
    unsafe {
        env::remove_var(NAME);
    }
    text.filter(|text| !text.is_empty()).map(Secret::new)
}

/// Ends with an exit status when a signal, or docker, wants the call to be given up.
///
/// Signals are waited for on a thread of their own: the one that pushes may hang in writing to a
/// terminal or pipe that nobody reads. If it does not end in time, it is ended from here.
async fn cancelled() -> u8 {
    const GRACE: Duration = Duration::from_secs(2);
    let (tell, told) = oneshot::channel();
    thread::spawn(move || {
        let Ok(runtime) = new_runtime() else { return };
        runtime.block_on(async {
            let status = first_reason().await;
            // The receiver is gone when the call has just ended by itself.
            let _ = tell.send(status);
            tokio::time::sleep(GRACE).await;
            process::exit(status.into());
        });
    });
    match told.await {
        Ok(status) => status,
        // No thread, no signals: they end the process by themselves.
        Err(_) => std::future::pending().await,
    }
}

/// Waits for a signal, or for docker to hang up, and says what status that is.
async fn first_reason() -> u8 {
    let signalled = |kind: SignalKind, status: u8| async move {
        match signal(kind) {
            Ok(mut signals) => _ = signals.recv().await,
            // The signal then ends the process by itself.
            Err(_) => std::future::pending().await,
        }
        status
    };
    // docker takes the first two even where they are ignored, as in the background of a script; and
    // leaves the third alone, so that `nohup docker …` goes on.
    let hangs_up = !is_hangup_ignored();
    let any_signal = async {
        tokio::select! {
            status = signalled(SignalKind::interrupt(), INTERRUPTED) => status,
            status = signalled(SignalKind::terminate(), 143) => status,
            status = signalled(SignalKind::hangup(), 129), if hangs_up => status,
        }
    };
    tokio::pin!(any_signal);
    tokio::select! {
        status = &mut any_signal => status,
        () = plugin::stopped_by_docker() => {
            // With `docker regpush … | tee` both come together; the signal knows the status.
            tokio::time::timeout(Duration::from_millis(50), any_signal).await.unwrap_or(INTERRUPTED)
        }
    }
}

/// Started by `nohup`: Linux tells (proc(5), `SigIgn`, the lowest bit); elsewhere it is not known.
fn is_hangup_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
