//! Runs a program on a pseudo-terminal, types keys and reads the screen.

use std::io::{Read, Write};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::termios::{LocalFlags, Termios};
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

use super::wait::PATIENCE;

pub struct Terminal {
    child: Box<dyn Child + Send + Sync>,
    keyboard: Box<dyn Write + Send>,
    master: Box<dyn MasterPty + Send>,
    settings_before: Termios,
    screen: Arc<(Mutex<Screen>, Condvar)>,
}

#[derive(Default)]
struct Screen {
    text: Vec<u8>,
    ended: bool,
    /// The offset in `text` after the last text that a test waited for.
    read: usize,
}

impl Terminal {
    pub fn start(command: CommandBuilder, columns: u16, rows: u16) -> Self {
        let size = PtySize { rows, cols: columns, pixel_width: 0, pixel_height: 0 };
        let pty = native_pty_system().openpty(size).expect("a pseudo-terminal");
        let settings_before = pty.master.get_termios().expect("a terminal has settings");
        let child = pty.slave.spawn_command(command).expect("the executable runs");
        drop(pty.slave);
        let mut output = pty.master.try_clone_reader().expect("a reader");
        let screen = Arc::new((Mutex::new(Screen::default()), Condvar::new()));
        let for_reader = Arc::clone(&screen);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Linux returns EIO when the last process has closed the terminal, which ends the loop.
            while let Ok(read @ 1..) = output.read(&mut bytes) {
                for_reader.0.lock().expect("no panic").text.extend_from_slice(&bytes[..read]);
                for_reader.1.notify_all();
            }
            for_reader.0.lock().expect("no panic").ended = true;
            for_reader.1.notify_all();
        });
        let keyboard = pty.master.take_writer().expect("a writer");
        Self { child, keyboard, master: pty.master, settings_before, screen }
    }

    /// Waits until `text` appears in the output, after the text that the previous `wait_for` found.
    pub fn wait_for(&self, text: &str) {
        let find = |screen: &Screen| {
            screen.text[screen.read..].windows(text.len()).position(|part| part == text.as_bytes())
        };
        let guard = self.screen.0.lock().expect("no panic");
        let waiting = self.screen.1.wait_timeout_while(guard, PATIENCE, |s| find(s).is_none() && !s.ended);
        let (mut screen, _) = waiting.expect("no panic");
        match find(&screen) {
            Some(at) => screen.read += at + text.len(),
            None => panic!("no {text:?} on the screen: {}", String::from_utf8_lossy(&screen.text)),
        }
    }

    pub fn type_in(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal is open");
        self.keyboard.flush().expect("the terminal is open");
    }

    pub fn process(&self) -> i32 {
        self.child.process_id().expect("it runs").try_into().expect("a process number")
    }

    /// Returns whether the terminal currently echoes typed keys.
    pub fn echoes(&self) -> bool {
        self.settings().local_flags.contains(LocalFlags::ECHO)
    }

    fn settings(&self) -> Termios {
        self.master.get_termios().expect("a terminal has settings")
    }

    pub fn finish(mut self) -> Ended {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                break status.exit_code();
            }
            if started.elapsed() > PATIENCE {
                let _ = self.child.kill();
                let screen = self.screen.0.lock().expect("no panic");
                panic!("it does not end: {}", String::from_utf8_lossy(&screen.text));
            }
            thread::sleep(Duration::from_millis(1));
        };
        let restored = self.settings() == self.settings_before;
        let guard = self.screen.0.lock().expect("no panic");
        let waiting = self.screen.1.wait_timeout_while(guard, PATIENCE, |screen| !screen.ended);
        let text = String::from_utf8_lossy(&waiting.expect("no panic").0.text).into_owned();
        Ended { status, text, restored }
    }
}

/// The state of the terminal after the program has exited.
pub struct Ended {
    pub status: u32,
    /// All output of the program, including escape sequences.
    pub text: String,
    /// Whether the terminal has the same settings as before the program started.
    pub restored: bool,
}
