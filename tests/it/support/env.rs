//! Runs the executable in a clean environment: HOME and DOCKER_CONFIG are empty directories, and PATH contains only the
//! programs of the test.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portable_pty::CommandBuilder;
use serde_json::Value;

use super::engine::FakeEngine;
use super::terminal::Terminal;
use super::wait::PATIENCE;

/// The system programs that test scripts call. PATH contains no other system programs, so that the plugin finds no
/// installed credential helper.
const TOOLS: [&str; 9] = ["cat", "head", "mv", "nohup", "rm", "sh", "sleep", "tr", "yes"];

pub struct TestEnv {
    directory: tempfile::TempDir,
}

impl TestEnv {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for name in ["home", "docker", "bin", "tools"] {
            fs::create_dir(directory.path().join(name)).expect("a directory");
        }
        for tool in TOOLS {
            let found = ["/usr/bin", "/bin"].map(|place| Path::new(place).join(tool));
            let found = found.iter().find(|path| path.exists()).expect("every system has it");
            symlink(found, directory.path().join("tools").join(tool)).expect("a link");
        }
        Self { directory }
    }

    pub fn config_directory(&self) -> PathBuf {
        self.directory.path().join("docker")
    }

    pub fn config_file(&self) -> PathBuf {
        self.config_directory().join("config.json")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn with_config(self, json: &str) -> Self {
        fs::write(self.config_file(), json).expect("config.json");
        self
    }

    /// Adds a credential helper to PATH: a shell script named `docker-credential-NAME`.
    pub fn with_helper(self, name: &str, script: &str) -> Self {
        self.with_program(&format!("docker-credential-{name}"), script)
    }

    /// Adds a shell script named `name` to PATH.
    pub fn with_program(self, name: &str, script: &str) -> Self {
        let path = self.path("bin").join(name);
        // Linux cannot execute a file that any process has open for writing. So a separate process writes the file: a
        // child process of another test could inherit a file handle of the test program.
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"cat >"$0" && chmod 755 "$0""#]).arg(&path);
        assert_eq!(run_with_stdin(&mut shell, format!("#!/bin/sh\n{script}\n").as_bytes()).status, 0);
        self
    }

    /// Returns a command that runs the plugin with the fake engine as `DOCKER_HOST`.
    pub fn command(&self, engine: &FakeEngine) -> Command {
        let mut command = self.without_engine();
        command.env("DOCKER_HOST", &engine.host);
        command
    }

    /// Runs the plugin on a pseudo-terminal.
    ///
    /// * `kind`: the value of `TERM`.
    pub fn at_terminal(&self, engine: &FakeEngine, kind: &str, arguments: &[&str]) -> Terminal {
        self.at_terminal_with(engine, &[("TERM", kind)], arguments)
    }

    pub fn at_terminal_with(
        &self,
        engine: &FakeEngine,
        variables: &[(&str, &str)],
        arguments: &[&str],
    ) -> Terminal {
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_docker-regpush"));
        command.env_clear();
        for (name, value) in self.variables() {
            command.env(name, value);
        }
        command.env("DOCKER_HOST", &engine.host);
        for (name, value) in variables {
            command.env(name, value);
        }
        command.args(arguments);
        Terminal::start(command, 100, 30)
    }

    pub fn without_engine(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_docker-regpush"));
        command.env_clear().stdin(Stdio::null());
        for (name, value) in self.variables() {
            command.env(name, value);
        }
        command
    }

    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let own = |path: PathBuf| path.to_str().expect("UTF-8").to_owned();
        vec![
            ("HOME", own(self.path("home"))),
            ("DOCKER_CONFIG", own(self.config_directory())),
            ("PATH", format!("{}:{}", own(self.path("bin")), own(self.path("tools")))),
            // An invalid proxy, so that tests cannot reach registries on a network.
            ("HTTPS_PROXY", "http://127.0.0.1:0".to_owned()),
        ]
    }
}

/// The exit status and the output of a finished program.
pub struct Run {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self}"))
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "status {}\nstdout: {}\nstderr: {}", self.status, self.stdout, self.stderr)
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self {
            status: output.status.code().expect("not killed by a signal"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// Runs a command without changing its stdin, which is empty for a command from [`TestEnv`].
pub fn run(command: &mut Command) -> Run {
    finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the executable runs"))
}

/// Runs a command with the bytes `stdin` as its input.
pub fn run_with_stdin(command: &mut Command, stdin: &[u8]) -> Run {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("the executable runs");
    match child.stdin.take().expect("piped").write_all(stdin) {
        // The program exited before it read all of its stdin.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written.expect("a pipe"),
    }
    finish(child)
}

/// Waits until a program exits, and fails the test after [`PATIENCE`].
fn finish(child: Child) -> Run {
    let process = Pid::from_raw(child.id().try_into().expect("a process number"));
    let (ended, is_ended) = mpsc::channel();
    thread::spawn(move || ended.send(child.wait_with_output()));
    let Ok(output) = is_ended.recv_timeout(PATIENCE) else {
        let _ = kill(process, Signal::SIGKILL);
        panic!("the executable does not end");
    };
    output.expect("it can be waited for").into()
}

pub fn exists(path: &Path) -> bool {
    path.try_exists().expect("a path that can be looked at")
}
