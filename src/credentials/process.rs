//! Runs programs that return credentials: credential helpers, and the command of `--password-command`.
//!
//! A program may ask its user on the terminal. Dropping the future of a run kills the program and its child processes.

use std::cell::{Cell, RefCell};
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

#[cfg(unix)]
use rustix::process::{Pid, Signal, getpgid, getpgrp, getpid, kill_process, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::secret::{Redactor, Secret};
use crate::text::sanitize;

/// The time after which the plugin reports a slow program. Such a program is probably waiting for the user to type a PIN
/// or to touch a security key.
const SLOW: Duration = Duration::from_secs(3);
/// The longest wait for output after a program has exited: its child processes may keep its stdout open.
const AFTERMATH: Duration = Duration::from_millis(500);
/// The longest accepted output of a program, in bytes. A token has a few thousand bytes, and a list of a thousand
/// registries has 50 thousand bytes.
const MAX_ANSWER: usize = 1 << 20;
/// The number of bytes of a program's stderr that the plugin keeps, to show them to the user.
const MAX_SAID: usize = 64 << 10;
/// The greatest number of characters that the plugin quotes from a program's stdout, from its stderr, or from one line of
/// its stderr.
const MAX_REASON: usize = 200;
/// The interval at which the plugin looks for new stderr lines of a program.
const LISTENING: Duration = Duration::from_millis(100);

/// One run of a program.
pub struct Run<'a> {
    pub command: Command,
    /// The text that the program reads from stdin; `None`: the program has the stdin of `command`.
    pub input: Option<&'a Secret>,
    /// The program and its task, for the message about a slow program: `docker-credential-pass to list its credentials`.
    pub waits_for: String,
    /// The time limit; `None` if the user may have to type a PIN.
    pub limit: Option<Duration>,
    /// Whether the user sees each line of stderr at once. Otherwise the user sees the lines of a slow program without a
    /// time limit.
    pub shows_stderr: bool,
}

/// The exit status and output of a program.
pub struct Answer {
    pub status: ExitStatus,
    /// The output as text, with a replacement character for each part that is not UTF-8.
    pub stdout: Secret,
    pub is_utf8: bool,
    pub stderr: String,
}

/// The stderr of a program, up to now.
#[derive(Default)]
struct Said {
    bytes: RefCell<Vec<u8>>,
    /// The number of bytes that the user has seen.
    told: Cell<usize>,
}

impl Run<'_> {
    /// Runs the program.
    ///
    /// * `tell`: called with a message if the program takes longer than 3 s, and with lines of its stderr.
    ///
    /// # Errors
    /// The reason why the program cannot be started, or has not answered in time.
    pub async fn answer(self, tell: &mut dyn FnMut(&str)) -> Result<Answer, String> {
        let said = Said::default();
        let (limit, shows_stderr) = (self.limit, self.shows_stderr);
        let waiting = format!("waiting for {} …", self.waits_for);
        let ended = {
            let told = async {
                if shows_stderr {
                    let _ = timeout(SLOW, said.pass_on(tell)).await;
                } else {
                    tokio::time::sleep(SLOW).await;
                }
                tell(&waiting);
                let listen = async {
                    if shows_stderr || limit.is_none() {
                        said.pass_on(tell).await;
                    }
                    std::future::pending::<()>().await;
                };
                match limit {
                    Some(limit) => _ = timeout(limit.saturating_sub(SLOW), listen).await,
                    None => listen.await,
                }
            };
            tokio::select! {
                answer = self.talk(&said) => Some(answer),
                () = told => None,
            }
        };
        if shows_stderr {
            said.tell_new_lines(true, tell);
        }
        let Some(answer) = ended else {
            return Err(format!("it did not answer within {}s", limit.unwrap_or_default().as_secs()));
        };
        let answer = answer.map_err(|error| sanitize(&error.to_string()))?;
        #[cfg(unix)]
        if is_interrupted(answer.status) {
            // Ctrl-C at the program's prompt also sends a signal to this process. Wait for this signal before returning.
            tokio::time::sleep(AFTERMATH).await;
        }
        Ok(answer)
    }

    /// Runs the program, and reads its exit status and output.
    async fn talk(mut self, said: &Said) -> io::Result<Answer> {
        if self.input.is_some() {
            self.command.stdin(Stdio::piped());
        }
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        // Without a time limit, the program runs in the plugin's process group, so that it can prompt on the terminal. With
        // a time limit, the program gets its own process group, which the plugin can kill as a whole.
        let has_group = self.limit.is_some();
        #[cfg(unix)]
        if has_group {
            self.command.process_group(0);
        }
        // Linux then makes the program's child processes children of the plugin if the program exits first.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        let child = self.command.kill_on_drop(true).spawn()?;
        let group = child.id().filter(|_| has_group);
        let mut started = Started { child, group, has_ended: false };
        let child = &mut started.child;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut answer = Zeroizing::new(Vec::with_capacity(4096));
        let status = {
            let written = async {
                let (Some(mut stdin), Some(input)) = (stdin, self.input) else { return Ok(()) };
                match stdin.write_all(input.expose().as_bytes()).await {
                    // A program that closes stdin without reading its input has not failed.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                    written => written,
                }
            };
            let read = read_up_to(stdout.expect("piped"), MAX_ANSWER, &mut answer);
            let talk =
                async { tokio::try_join!(written, read, keep_start(stderr.expect("piped"), &said.bytes)) };
            tokio::pin!(talk);
            tokio::select! {
                talked = &mut talk => {
                    talked?;
                    started.child.wait().await?
                }
                status = started.child.wait() => {
                    if let Ok(talked) = timeout(AFTERMATH, &mut talk).await {
                        talked?;
                    }
                    status?
                }
            }
        };
        // If the program exited by itself, do not kill processes that the program left running.
        started.has_ended = status.code().is_some();
        let text = String::from_utf8(std::mem::take(&mut *answer));
        let is_utf8 = text.is_ok();
        let stdout = text.unwrap_or_else(|error| {
            let bytes = Zeroizing::new(error.into_bytes());
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let stderr = String::from_utf8_lossy(&said.bytes.borrow()).into_owned();
        Ok(Answer { status, stdout: Secret::new(stdout), is_utf8, stderr })
    }
}

impl Said {
    /// Passes each new line to `tell`, for example the request to touch a security key. Never returns.
    ///
    /// A line that the program leaves without a line end is probably a prompt, and is passed after a pause.
    async fn pass_on(&self, tell: &mut dyn FnMut(&str)) {
        let mut before = 0;
        loop {
            let now = self.bytes.borrow().len();
            self.tell_new_lines(now == before, tell);
            before = now;
            tokio::time::sleep(LISTENING).await;
        }
    }

    /// * `is_end`: the last line is complete even without a line end.
    fn tell_new_lines(&self, is_end: bool, tell: &mut dyn FnMut(&str)) {
        let (lines, whole) = {
            let bytes = self.bytes.borrow();
            let told = self.told.get();
            let whole = match bytes.iter().rposition(|byte| *byte == b'\n') {
                _ if is_end => bytes.len(),
                Some(end) => end + 1,
                None => told,
            };
            (String::from_utf8_lossy(&bytes[told.min(whole)..whole]).into_owned(), whole)
        };
        self.told.set(self.told.get().max(whole));
        for line in lines.lines().filter_map(|line| quotable(line, &Redactor::default())) {
            tell(&line);
        }
    }
}

/// A running program. Dropping this value kills the program and its child processes, unless the program has exited by
/// itself.
#[cfg_attr(windows, expect(dead_code, reason = "there the program alone is ended"))]
struct Started {
    child: Child,
    /// The process group of the program, if it has one of its own.
    group: Option<u32>,
    has_ended: bool,
}

#[cfg(unix)]
impl Drop for Started {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        match self.group.and_then(|group| Pid::from_raw(group.cast_signed())) {
            Some(group) => _ = kill_process_group(group, Signal::KILL),
            None => kill_descendants_in_own_group(),
        }
    }
}

/// Kills all descendants of this process that are in its process group. Other programs of the plugin have their own
/// process group or session, and so have services that a program started, such as gpg-agent.
#[cfg(unix)]
fn kill_descendants_in_own_group() {
    let mut killed = Vec::new();
    // The descendants may start processes until they have received the signal.
    loop {
        let mut found = descendants(getpid());
        found.retain(|process| {
            !killed.contains(process) && getpgid(Some(*process)).is_ok_and(|group| group == getpgrp())
        });
        if found.is_empty() {
            return;
        }
        for process in &found {
            let _ = kill_process(*process, Signal::KILL);
        }
        killed.append(&mut found);
    }
}

/// Returns all descendants of a process: its child processes, their child processes, and so on. Returns an
/// empty list on systems other than Linux.
///
/// Source: proc(5), `/proc/PID/task/TID/children`.
#[cfg(unix)]
fn descendants(process: Pid) -> Vec<Pid> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero()));
    let lists = tasks.into_iter().flatten().flatten();
    let lists = lists.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<_> = lists
        .flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<i32>>())
        .filter_map(Pid::from_raw)
        .collect();
    children.into_iter().flat_map(|child| descendants(child).into_iter().chain([child])).collect()
}

/// Reads a stream to its end into the buffer `into`.
///
/// # Errors
/// The stream has more than `limit` bytes, or cannot be read.
async fn read_up_to(mut from: impl AsyncRead + Unpin, limit: usize, into: &mut Vec<u8>) -> io::Result<()> {
    while from.read_buf(into).await? > 0 {
        if into.len() > limit {
            return Err(io::Error::other(format!("its output is longer than {} kB", limit / 1024)));
        }
    }
    Ok(())
}

#[cfg(unix)]
fn is_interrupted(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt as _;
    status.signal() == Some(Signal::INT.as_raw())
}

/// Reads a stream to its end, but keeps only the first [`MAX_SAID`] bytes.
async fn keep_start(mut from: impl AsyncRead + Unpin, into: &RefCell<Vec<u8>>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let mut kept = into.borrow_mut();
        let room = MAX_SAID - kept.len();
        kept.extend_from_slice(&buffer[..read.min(room)]);
    }
}

/// Returns a program's output with secrets redacted, or `None` if nothing remains to show. Cannot redact a
/// secret that is unknown to `redactor` and that [`hide_named`] does not recognize.
pub fn quotable(text: &str, redactor: &Redactor) -> Option<String> {
    if text.trim_start().starts_with('<') {
        return Some("it printed an HTML page".to_owned());
    }
    let text = redactor.redact(text.to_owned());
    // Drop lines that begin with `+`: a shell script with `set -x` prints commands with their arguments,
    // which may be secrets.
    let lines = text.lines().filter(|line| !line.starts_with('+')).map(hide_named).collect::<Vec<_>>();
    let text: String = sanitize(&lines.join("\n")).chars().take(MAX_REASON).collect();
    Some(text).filter(|text| !text.is_empty() && !text.contains('{'))
}

/// Replaces with `***` each value that the line itself marks as a secret: `password: x y`, `TOKEN=x`,
/// `--password x`, `-u me:x`, `Authorization: Basic x`, `https://me:x@host`.
fn hide_named(line: &str) -> String {
    const NAMES: [&str; 6] = ["passw", "passphrase", "secret", "token", "authorization", "credential"];
    let is_name = |word: &str| NAMES.iter().any(|name| word.to_lowercase().contains(name));
    let mut shown: Vec<String> = Vec::new();
    let mut hide_next = false;
    for word in line.split_whitespace() {
        let is_verb = matches!(word, "is" | "was" | "=" | ":");
        if is_verb && shown.last().is_some_and(|last| is_name(last)) {
            shown.extend([word.to_owned(), "***".to_owned()]);
            break;
        }
        if hide_next {
            shown.push("***".to_owned());
            hide_next = false;
            continue;
        }
        hide_next =
            word == "-u" || word == "-p" || (word.starts_with("--") && is_name(word) && !word.contains('='));
        match word.find([':', '=']) {
            Some(at) if is_name(&word[..at]) && word[at..].starts_with(':') => {
                // Hide the rest of the line, because the secret may contain blanks.
                shown.push(format!("{}: ***", &word[..at]));
                break;
            }
            Some(at) if is_name(&word[..at]) => shown.push(format!("{}***", &word[..=at])),
            _ => shown.push(without_userinfo(word)),
        }
    }
    shown.join(" ")
}

fn without_userinfo(word: &str) -> String {
    let Some((scheme, rest)) = word.split_once("://") else { return word.to_owned() };
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://***{}", &rest[at..]),
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redacts_secrets_in_messages() {
        let redactor = Redactor::new([Secret::new("hunter2".to_owned())]);
        let table = [
            ("boom", Some("boom")),
            ("wrong: hunter2!", Some("wrong: ***!")),
            ("password: geheim", Some("password: ***")),
            ("AWS_SECRET_KEY=geheim failed", Some("AWS_SECRET_KEY=*** failed")),
            ("sent Authorization: Basic Z2VoZWlt to h", Some("sent Authorization: ***")),
            ("password: correct horse\nbattery", Some("password: *** battery")),
            ("+ curl -d geheim\nboom", Some("boom")),
            (
                "curl -u me:geheim --auth-token geheim https://me:geheim@h/x",
                Some("curl -u *** --auth-token *** https://***@h/x"),
            ),
            ("+ set -x alone", None),
            ("your secret is geheim", Some("your secret is ***")),
            ("the token has expired: log in", Some("the token has expired: log in")),
            (r#"{"Secret":"geheim"}"#, None),
            (" <!DOCTYPE html><p>geheim", Some("it printed an HTML page")),
            (" \n", None),
        ];
        for (text, want) in table {
            assert_eq!(quotable(text, &redactor).as_deref(), want, "{text:?}");
        }
    }
}
