//! Prompts for credentials on the terminal.
//!
//! Prompts go to the terminal device, never to stdout. The crate rpassword reads the password in raw mode,
//! but has three faults:
//! * rpassword leaves the terminal in raw mode if a signal kills the process.
//! * rpassword prints its prompt before it switches off echo.
//! * rpassword loses a Ctrl-D that the user types before raw mode is set.
//!
//! So [`Terminal::ask`] sets raw mode before it calls rpassword, and [`TerminalGuard`] always restores the
//! terminal's settings.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use crate::secret::Secret;
use crate::text::sanitize;
use device::Settings;

/// The terminal device on Unix, which is available even if stdin and stdout are redirected.
#[cfg(unix)]
mod device {
    use std::fs::File;
    use std::io;

    use rustix::process::getpgrp;
    use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};

    pub const KEYBOARD: &str = "/dev/tty";
    pub const SCREEN: &str = "/dev/tty";

    /// Returns whether this process is in the foreground. The system stops a background process that reads
    /// from the terminal.
    pub fn is_in_foreground() -> bool {
        tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp())
    }

    pub struct Settings(Termios);

    impl Settings {
        pub fn of(terminal: &File) -> io::Result<Self> {
            Ok(Self(tcgetattr(terminal)?))
        }

        /// Sets the same terminal mode as rpassword: no echo, and the process receives each key as soon as
        /// the user types it.
        pub fn set_raw(&self, terminal: &File) -> io::Result<()> {
            let mut settings = self.0.clone();
            settings.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
            Ok(tcsetattr(terminal, OptionalActions::Now, &settings)?)
        }

        pub fn restore(&self, terminal: &File) {
            // Ignore an error: the terminal may have been closed.
            let _ = tcsetattr(terminal, OptionalActions::Now, &self.0);
        }
    }
}

/// The console on Windows. rpassword restores the console's mode, so this module changes no settings.
#[cfg(windows)]
mod device {
    use std::fs::File;
    use std::io;

    pub const KEYBOARD: &str = "CONIN$";
    pub const SCREEN: &str = "CONOUT$";

    pub fn is_in_foreground() -> bool {
        true
    }

    pub struct Settings;

    impl Settings {
        pub fn of(_: &File) -> io::Result<Self> {
            Ok(Self)
        }

        pub fn set_raw(&self, _: &File) -> io::Result<()> {
            Ok(())
        }

        pub fn restore(&self, _: &File) {}
    }
}

#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// The user pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// The user pressed Ctrl-D, or the terminal was closed.
    #[error("no answer was given")]
    NoAnswer,
    #[error("cannot use the terminal")]
    Terminal(#[source] io::Error),
}

/// A terminal on which the plugin can prompt the user.
#[derive(Debug)]
pub struct Terminal(());

impl Terminal {
    /// Returns the terminal if stdin and stderr are terminals and this process is in the foreground.
    pub fn find() -> Option<Self> {
        let attended = io::stdin().is_terminal() && io::stderr().is_terminal();
        (attended && device::is_in_foreground() && File::open(device::KEYBOARD).is_ok()).then_some(Self(()))
    }

    /// Prompts for a user name and a password. Returns `None` for an empty user name or password. Does not
    /// prompt for a password after an empty user name.
    ///
    /// * `username`: the default user name, which applies if the user presses Enter without typing a name.
    ///
    /// Dropping the future restores the terminal's settings. The thread that reads from the terminal runs
    /// until the process exits.
    ///
    /// # Errors
    /// The user presses Ctrl-C or Ctrl-D, or the terminal cannot be used.
    pub async fn ask(&self, username: Option<&str>) -> Result<(Option<String>, Option<Secret>), PromptError> {
        let mut guard = TerminalGuard::new().map_err(PromptError::Terminal)?;
        let default = username.map(str::to_owned);
        let username = tokio::task::spawn_blocking(move || ask_username(default)).await;
        let username = username.unwrap_or(Err(PromptError::NoAnswer))?;
        if username.is_none() {
            guard.line_ended = true;
            return Ok((None, None));
        }
        guard.settings.set_raw(&guard.terminal).map_err(PromptError::Terminal)?;
        let (reading, read) = mpsc::channel();
        guard.reader = Some(read);
        let password = tokio::task::spawn_blocking(move || ask_password(reading)).await;
        let password = password.unwrap_or(Err(PromptError::NoAnswer))?;
        guard.line_ended = true;
        Ok((username, password))
    }
}

fn ask_username(default: Option<String>) -> Result<Option<String>, PromptError> {
    let label = default
        .as_ref()
        .map_or_else(|| "Username: ".to_owned(), |name| format!("Username ({}): ", sanitize(name)));
    let typed = read_line(&label).map_err(sort)?;
    Ok(Some(typed.trim().to_owned()).filter(|typed| !typed.is_empty()).or(default))
}

/// Prompts for the password. Drops `_reading` as a signal to [`TerminalGuard`] that rpassword no longer uses
/// the terminal.
fn ask_password(_reading: mpsc::Sender<Infallible>) -> Result<Option<Secret>, PromptError> {
    let password = Secret::new(rpassword::prompt_password("Password: ").map_err(sort)?);
    Ok(Some(password).filter(|password| !password.expose().is_empty()))
}

fn sort(error: io::Error) -> PromptError {
    match error.kind() {
        io::ErrorKind::Interrupted => PromptError::Interrupted,
        io::ErrorKind::UnexpectedEof => PromptError::NoAnswer,
        _ => PromptError::Terminal(error),
    }
}

/// Prompts with `label`, and reads one line from the terminal with echo. Reads byte by byte, since input
/// after that line belongs to the password.
fn read_line(label: &str) -> io::Result<String> {
    let mut keyboard = File::open(device::KEYBOARD)?;
    screen()?.write_all(label.as_bytes())?;
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        match keyboard.read(&mut byte) {
            Ok(0) if line.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(0) => break,
            Ok(_) if byte[0] == b'\n' => break,
            Ok(_) => line.push(byte[0]),
            // A signal that does not kill the process, such as a window resize, interrupted the read. Read
            // again.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

fn screen() -> io::Result<File> {
    File::options().write(true).open(device::SCREEN)
}

/// Restores the terminal's settings on drop, and moves the cursor to a new line.
struct TerminalGuard {
    terminal: File,
    settings: Settings,
    /// Whether the cursor is already on a new line, because the user finished the last prompt with Enter.
    line_ended: bool,
    /// A channel that disconnects when rpassword has finished. On Ctrl-C, rpassword first raises a signal,
    /// which drops this guard, and then sets the terminal to raw mode again. So the guard waits for rpassword
    /// before the guard restores `settings`.
    reader: Option<mpsc::Receiver<Infallible>>,
}

impl TerminalGuard {
    /// The longest wait for rpassword to finish. If rpassword takes longer, it is waiting for a key and
    /// changes no settings.
    const READER_ENDS: Duration = Duration::from_millis(100);

    fn new() -> io::Result<Self> {
        let terminal = screen()?;
        let settings = Settings::of(&terminal)?;
        Ok(Self { terminal, settings, line_ended: false, reader: None })
    }
}

impl Drop for TerminalGuard {
    fn drop(&mut self) {
        if let Some(reader) = &self.reader {
            let _ = reader.recv_timeout(Self::READER_ENDS);
        }
        self.settings.restore(&self.terminal);
        if !self.line_ended {
            let _ = self.terminal.write_all(b"\n");
        }
    }
}
