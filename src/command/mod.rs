//! The commands of the program. A command is set up from its options, runs, prints its result, and returns an exit
//! status.

mod auth;
pub mod complete;
mod hook;
mod ls;
mod push;
mod table;

use std::future::Future;

use crate::cli::DockerOptions;
use crate::cli::argv::Command;
use crate::error::Error;
use crate::print::tell_error;
use crate::secret::Secret;
use crate::setup::given_login;

/// Runs a command, and returns the exit status of the program.
///
/// * `auth_config`: the value of `DOCKER_AUTH_CONFIG`. The caller has removed the variable from the environment, so
///   that no child process inherits the value.
/// * `cancelled`: returns an exit status when the command must stop. `cancelled` is first polled after credentials
///   were read from stdin, so a signal during that read kills the process.
pub async fn run(
    docker: &DockerOptions,
    command: &Command,
    auth_config: Option<Secret>,
    cancelled: impl Future<Output = u8>,
) -> u8 {
    let result = match command {
        Command::Push(options) => {
            return push::run(docker, options, auth_config, cancelled).await;
        }
        Command::Auth(options) => match auth::given(options) {
            Ok(given) => until(cancelled, auth::run(docker, options, given, auth_config)).await,
            Err(error) => Err(error),
        },
        Command::Ls(options) => match given_login(&options.given) {
            Ok(given) => until(cancelled, ls::run(docker, options, given, auth_config)).await,
            Err(error) => Err(error),
        },
        Command::Hook(action) => return hook::run(*action, docker),
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            tell_error(&error);
            error.exit_status()
        }
    }
}

async fn until(
    cancelled: impl Future<Output = u8>,
    work: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    tokio::select! {
        // Polls `cancelled` before `work`, so that signals are caught before the work starts.
        biased;
        status = cancelled => Err(Error::Cancelled(status)),
        result = work => result,
    }
}
