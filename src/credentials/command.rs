//! Runs the command of `--password-command`, whose stdout is the password.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::credentials::Credentials;
use crate::credentials::login::CredentialsError;
use crate::credentials::process::{Run, quotable};
use crate::secret::{Redactor, Secret};
use crate::text::without_line_end;

/// The longest accepted password, in bytes. Tokens have a few thousand bytes, so a longer one is probably a wrong file.
pub const MAX_PASSWORD: usize = 64 << 10;

/// Credentials from the command line.
#[derive(Clone, Debug)]
pub enum Given {
    Ready(Credentials),
    /// `--username` with `--password-command`, which the plugin runs when credentials are first needed.
    Command(PasswordCommand),
}

/// The values of `--username` and `--password-command`.
#[derive(Clone, Debug)]
pub struct PasswordCommand {
    pub username: String,
    /// The command line for the shell. A user may have written a secret into it.
    pub line: Secret,
}

impl PasswordCommand {
    /// Runs the command through the shell, and returns the user name with the command's stdout as password, without one
    /// line end.
    ///
    /// * `limit`: the time limit; `None`: the command may ask its user on the terminal.
    /// * `tell`: called with each line of the command's stderr, and with a message if the command takes longer than 3 s.
    ///
    /// # Errors
    /// [`CredentialsError::CommandFailed`] if the command fails, prints nothing, or takes too long.
    pub async fn run(
        &self,
        limit: Option<Duration>,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Credentials, CredentialsError> {
        let failed = |reason: String| CredentialsError::CommandFailed { reason };
        let mut command = shell(self.line.expose());
        // With a time limit, no user is there to answer.
        command.stdin(if limit.is_none() { Stdio::inherit() } else { Stdio::null() });
        let run = Run {
            command,
            input: None,
            waits_for: "--password-command".to_owned(),
            limit,
            shows_stderr: true,
        };
        let answer = run.answer(tell).await.map_err(failed)?;
        if !answer.status.success() {
            let redactor =
                Redactor::new(answer.stdout.expose().lines().map(|line| Secret::new(line.to_owned())));
            let last = answer.stderr.lines().rev().find_map(|line| quotable(line, &redactor));
            let last = last.map(|line| format!(": {line}")).unwrap_or_default();
            return Err(failed(format!("{}{last}", answer.status)));
        }
        let text = without_line_end(answer.stdout.expose());
        if !answer.is_utf8 {
            return Err(failed("its output is not UTF-8 text".to_owned()));
        }
        if text.is_empty() {
            return Err(failed("it printed nothing".to_owned()));
        }
        if text.len() > MAX_PASSWORD {
            return Err(failed("its output is longer than 64 kB".to_owned()));
        }
        Ok(Credentials::basic(self.username.clone(), Secret::new(text.to_owned())))
    }
}

fn shell(line: &str) -> Command {
    #[cfg(windows)]
    {
        let mut command = Command::new("cmd");
        command.arg("/C").raw_arg(line);
        command
    }
    #[cfg(not(windows))]
    {
        let mut command = Command::new("sh");
        command.arg("-c").arg(line);
        command
    }
}
