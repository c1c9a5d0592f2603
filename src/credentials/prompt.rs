//! Prompts for credentials on the terminal.
//!
//! Prompts go to the terminal itself, never to stdout. rpassword reads the password. It puts the terminal
//! into raw mode and leaves it there if a signal ends the process. It also prints its prompt while the
//! terminal still echoes, and loses a Ctrl-D typed before raw mode is set. So [`Terminal::ask`] sets the mode
//! earlier, and [`TerminalGuard`] restores the settings on every way out.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use crate::secret::Secret;
use crate::text::sanitize;
use device::Settings;

/// The terminal device, even if stdin and stdout are redirected.
#[cfg(unix)]
mod device {
    use std::fs::File;
    use std::io;

    use rustix::process::getpgrp;
    use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};

    pub const KEYBOARD: &str = "/dev/tty";
    pub const SCREEN: &str = "/dev/tty";

    /// A background process is stopped if it reads from the terminal.
    pub fn is_in_foreground() -> bool {
        tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp())
    }

    pub struct Settings(Termios);

    impl Settings {
        pub fn of(terminal: &File) -> io::Result<Self> {
            Ok(Self(tcgetattr(terminal)?))
        }

        /// Sets the mode that rpassword will set: no echo, and each key is delivered as it is typed.
        pub fn set_raw(&self, terminal: &File) -> io::Result<()> {
            let mut settings = self.0.clone();
            settings.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
            Ok(tcsetattr(terminal, OptionalActions::Now, &settings)?)
        }

        pub fn restore(&self, terminal: &File) {
            // The terminal may have been closed; nothing can be done then.
            let _ = tcsetattr(terminal, OptionalActions::Now, &self.0);
        }
    }
}

/// A Windows console; rpassword restores its mode.
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
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// Ctrl-D, or the terminal was closed.
    #[error("no answer was given")]
    NoAnswer,
    #[error("cannot use the terminal")]
    Terminal(#[source] io::Error),
}

/// A terminal on which the user can be prompted.
#[derive(Debug)]
pub struct Terminal(());

impl Terminal {
    /// Returns the terminal if stdin and stderr are terminals and this process is in the foreground.
    pub fn find() -> Option<Self> {
        let attended = io::stdin().is_terminal() && io::stderr().is_terminal();
        (attended && device::is_in_foreground() && File::open(device::KEYBOARD).is_ok()).then_some(Self(()))
    }

    /// Prompts for user name and password. An empty answer is `None`; without a user name it does not prompt
    /// for a password.
    ///
    /// * `username`: the default, if the user only presses Enter.
    ///
    /// Cancel-safe for the terminal: dropping the future restores its settings, but the thread that reads
    /// from it runs until the process ends.
    ///
    /// # Errors
    /// Ctrl-C, Ctrl-D, or a terminal that cannot be used.
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

/// Reads the password. Drops `_reading` when rpassword has finished with the terminal.
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

/// Reads a line from the terminal, with echo. Reads single bytes: what the user types ahead belongs to the
/// password.
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
            // A signal that does not end the process, such as a window resize.
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
    /// Enter ended the last answer, so the cursor is already on a new line.
    line_ended: bool,
    /// Disconnects when rpassword is done. On Ctrl-C rpassword raises the signal that drops this guard, and
    /// only then restores the settings it found. This guard must restore its settings after that.
    reader: Option<mpsc::Receiver<Infallible>>,
}

impl TerminalGuard {
    /// How long to wait for rpassword. It finishes at once unless it still waits for a key, and then it
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
