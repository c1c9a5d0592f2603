//! Asking for a login at the terminal.
//!
//! Prompts go to the terminal itself, never to stdout. The password is read by rpassword, which
//! puts the terminal into raw mode and leaves it there when a signal ends the process, and which
//! prints its prompt while the terminal still echoes, and turns a quick Ctrl-D into nothing. So
//! [`TerminalGuard`] sets the mode before, and puts everything back on every way out.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use crate::secret::Secret;
use crate::text::sanitize;
use device::Settings;

/// The terminal itself, whatever stdin and stdout are.
#[cfg(unix)]
mod device {
    use std::fs::File;
    use std::io;

    use rustix::process::getpgrp;
    use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};

    pub const KEYBOARD: &str = "/dev/tty";
    pub const SCREEN: &str = "/dev/tty";

    /// In the background a read would stop us.
    pub fn is_in_foreground() -> bool {
        tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp())
    }

    pub struct Settings(Termios);

    impl Settings {
        pub fn of(terminal: &File) -> io::Result<Self> {
            Ok(Self(tcgetattr(terminal)?))
        }

        /// The mode rpassword is about to set: no echo, and every key as it is typed.
        pub fn set_raw(&self, terminal: &File) -> io::Result<()> {
            let mut settings = self.0.clone();
            settings.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
            Ok(tcsetattr(terminal, OptionalActions::Now, &settings)?)
        }

        pub fn restore(&self, terminal: &File) {
            // Nothing can be done for a terminal that is gone.
            let _ = tcsetattr(terminal, OptionalActions::Now, &self.0);
        }
    }
}

/// A console; rpassword puts its mode back by itself.
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
    /// Ctrl-D, or the terminal is gone.
    #[error("no answer was given")]
    NoAnswer,
    #[error("cannot ask at the terminal")]
    Terminal(#[source] io::Error),
}

/// Somebody who can be asked.
#[derive(Debug)]
pub struct Terminal(());

impl Terminal {
    /// The terminal, if there is one to ask on: stdin and stderr belong to it, and this process
    /// is in its foreground (in the background a read would stop it).
    pub fn find() -> Option<Self> {
        let attended = io::stdin().is_terminal() && io::stderr().is_terminal();
        (attended && device::is_in_foreground() && File::open(device::KEYBOARD).is_ok()).then_some(Self(()))
    }

    /// Asks for user name and password. `username`: what Enter alone means. What is left empty is
    /// `None`, and without a name no password is asked for.
    ///
    /// Cancel-safe as far as the terminal goes: dropping the future restores its settings, though
    /// the thread that reads from it stays until the process ends.
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

/// `_reading` is dropped when rpassword has finished with the terminal.
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

/// A line from the terminal, with echo. Byte by byte: what is typed ahead is the password's.
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
            // A signal that the process goes on after, such as a resize.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

fn screen() -> io::Result<File> {
    File::options().write(true).open(device::SCREEN)
}

/// Puts the terminal back as it was, the cursor on a line of its own.
struct TerminalGuard {
    terminal: File,
    settings: Settings,
    /// The last answer was ended by Enter, so the cursor is not behind a prompt.
    line_ended: bool,
    /// Hangs up when rpassword is done. On Ctrl-C it raises the signal that drops this guard, and
    /// only then puts back the settings it found: ours must come last.
    reader: Option<mpsc::Receiver<Infallible>>,
}

impl TerminalGuard {
    /// rpassword needs no time at all, unless it still waits for a key; then it sets nothing more.
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
