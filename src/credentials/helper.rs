//! Runs credential helpers: programs named `docker-credential-NAME`. For the argument `get`, a helper reads a
//! registry from stdin and prints credentials as JSON.
//!
//! The plugin does not let the crate `docker_credential` run helpers: the crate fails at random if a helper
//! exits without reading its input (108 of 400 runs), and cannot stop a helper that hangs.
//!
//! Source: docker-credential-helpers `credentials/credentials.go` and `client/client.go`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::Metadata;
#[cfg(unix)]
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use std::{env, io};

#[cfg(unix)]
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::credentials::Credentials;
use crate::credentials::login::CredentialsError;
use crate::docker::config::field;
use crate::secret::{Redactor, Secret};
use crate::text::sanitize;

/// The prefix of every helper's program name.
pub const PREFIX: &str = "docker-credential-";
/// The user name that marks a helper's secret as an identity token.
pub const TOKEN: &str = "<token>";
/// The output of a helper that has no credentials for a registry. The plugin does not report this output as
/// an error. Source: docker-credential-helpers `credentials.ErrCredentialsNotFound`.
const NOT_FOUND: &str = "credentials not found in native keychain";
/// The time after which the plugin reports a slow helper. Such a helper is probably waiting for the user to
/// type a PIN or to touch a security key.
const SLOW: Duration = Duration::from_secs(3);
/// The longest wait for output after a helper has exited: its child processes may keep the helper's stdout
/// open.
const AFTERMATH: Duration = Duration::from_millis(500);
/// The longest accepted output of a helper, in bytes. A token has a few thousand bytes, and a list of a
/// thousand registries has 50 thousand bytes.
const MAX_ANSWER: usize = 1 << 20;
/// The number of bytes of a helper's stderr that the plugin keeps, to show them to the user.
const MAX_SAID: usize = 4096;
/// The greatest number of characters that the plugin quotes from a helper's stdout, from its stderr, or from
/// one line of its stderr.
const MAX_REASON: usize = 200;
/// The interval at which the plugin looks for new stderr lines and new child processes of a helper.
const LISTENING: Duration = Duration::from_millis(100);

/// Gets the credentials for a registry from a credential helper. Returns `Ok(None)` if the helper has no
/// credentials for this registry.
///
/// * `key`: the key under which docker stores the registry's credentials.
/// * `helper_timeout`: the time limit for the helper; `None` if the user may have to type a PIN.
/// * `tell`: called with a message if the helper takes longer than 3 s. If `helper_timeout` is `None`, is
///   also called with each line of the helper's stderr, but not during the first 3 s.
///
/// Dropping the future kills the helper and its child processes.
///
/// # Errors
/// [`CredentialsError::HelperMissing`] if the helper is not in PATH, or [`CredentialsError::HelperFailed`]
/// with the reason of the failure.
pub async fn get(
    helper: &str,
    key: &str,
    helper_timeout: Option<Duration>,
    tell: impl FnMut(&str),
) -> Result<Option<Credentials>, CredentialsError> {
    let call = Call {
        helper,
        action: "get",
        task: format!("to return credentials for {}", sanitize(key)),
        helper_timeout,
    };
    let answer = call.run(&Secret::new(key.to_owned()), tell).await?;
    if !answer.status.success() && answer.stdout.expose().trim() == NOT_FOUND {
        return Ok(None);
    }
    read_login(call.checked(answer)?.stdout.expose())
        .ok_or_else(|| call.failed("its output is not the JSON of a credential helper".to_owned()))
}

/// Stores credentials for a registry in a credential helper. As docker does, stores an identity token under
/// the user name `<token>`.
///
/// # Errors
/// The same errors as for [`get`]. After an error, the helper has not stored the credentials.
pub async fn store(
    helper: &str,
    key: &str,
    credentials: &Credentials,
    helper_timeout: Option<Duration>,
    tell: impl FnMut(&str),
) -> Result<(), CredentialsError> {
    let (username, secret) = match (&credentials.identity_token, &credentials.password) {
        (Some(token), _) => (TOKEN, token.expose()),
        (None, password) => {
            (credentials.username.as_deref().unwrap_or_default(), super::exposed(password.as_ref()))
        }
    };
    let login = Secret::new(json!({"ServerURL": key, "Username": username, "Secret": secret}).to_string());
    let task = format!("to store credentials for {}", sanitize(key));
    let call = Call { helper, action: "store", task, helper_timeout };
    let line = Secret::new(format!("{}\n", login.expose()));
    let mut answer = call.run(&line, tell).await?;
    answer.given = credentials.secrets();
    call.checked(answer).map(drop)
}

/// Lists all credentials in a credential helper. Returns a map from registry to user name.
///
/// # Errors
/// The same errors as for [`get`].
pub async fn list(
    helper: &str,
    helper_timeout: Option<Duration>,
    tell: impl FnMut(&str),
) -> Result<BTreeMap<String, String>, CredentialsError> {
    let call = Call { helper, action: "list", task: "to list its credentials".to_owned(), helper_timeout };
    // The helper needs no input for `list`, but docker sends the word `unused`.
    let answer = call.checked(call.run(&Secret::new("unused".to_owned()), tell).await?)?;
    let mut values = serde_json::Deserializer::from_str(answer.stdout.expose()).into_iter();
    match values.next() {
        Some(Ok(kept)) => Ok(kept),
        _ => Err(call.failed("its output is not the list of a credential helper".to_owned())),
    }
}

/// Returns whether PATH has an executable program with this name.
pub fn is_installed(program: &str) -> bool {
    in_path(&format!("{program}{}", env::consts::EXE_SUFFIX)).is_ok()
}

/// One run of a credential helper.
struct Call<'a> {
    helper: &'a str,
    /// The argument for the helper: `get`, `store` or `list`.
    action: &'static str,
    /// The purpose of this run, for messages, such as `to list its credentials`.
    task: String,
    helper_timeout: Option<Duration>,
}

/// The exit status and output of a helper.
struct Answer {
    status: ExitStatus,
    stdout: Secret,
    stderr: String,
    /// Secrets that the plugin sent to the helper, and that messages must not show.
    given: Vec<Secret>,
}

impl Call<'_> {
    fn failed(&self, reason: String) -> CredentialsError {
        CredentialsError::HelperFailed { helper: sanitize(self.helper), task: self.task.clone(), reason }
    }

    async fn run(&self, input: &Secret, mut tell: impl FnMut(&str)) -> Result<Answer, CredentialsError> {
        let program =
            in_path(&format!("{PREFIX}{}{}", self.helper, env::consts::EXE_SUFFIX)).map_err(|found| {
                CredentialsError::HelperMissing {
                    helper: sanitize(self.helper),
                    task: self.task.clone(),
                    found,
                }
            })?;
        let said = RefCell::default();
        let told = async {
            tokio::time::sleep(SLOW).await;
            tell(&format!("waiting for {PREFIX}{} {} …", sanitize(self.helper), self.task));
            match self.helper_timeout {
                Some(helper_timeout) => tokio::time::sleep(helper_timeout.saturating_sub(SLOW)).await,
                None => pass_on(&said, &mut tell).await,
            }
        };
        tokio::select! {
            answer = self.talk(program, input, &said) => {
                let answer = answer.map_err(|error| self.failed(sanitize(&error.to_string())))?;
                #[cfg(unix)]
                if is_interrupted(answer.status) {
                    // Ctrl-C at the helper's prompt also sends a signal to this process. Wait for this signal
                    // before returning.
                    tokio::time::sleep(AFTERMATH).await;
                }
                Ok(answer)
            }
            () = told => {
                let seconds = self.helper_timeout.unwrap_or_default().as_secs();
                Err(self.failed(format!("it did not answer within {seconds}s")))
            }
        }
    }

    /// Runs the helper, and reads its exit status and output.
    ///
    /// * `said`: receives the stderr of the helper.
    async fn talk(&self, program: PathBuf, input: &Secret, said: &RefCell<Vec<u8>>) -> io::Result<Answer> {
        let mut command = Command::new(program);
        command.arg(self.action).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Without a timeout, the helper runs in the plugin's process group, so that the helper can prompt on
        // the terminal. With a timeout, the helper gets its own process group, which the plugin can kill as a
        // whole.
        let has_group = self.helper_timeout.is_some();
        #[cfg(unix)]
        if has_group {
            command.process_group(0);
        }
        let mut started = Started::new(command.kill_on_drop(true).spawn()?, has_group);
        let child = &mut started.child;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut answer = Zeroizing::new(Vec::with_capacity(MAX_SAID));
        let status = {
            let written = async {
                match stdin.expect("piped").write_all(input.expose().as_bytes()).await {
                    // A helper that closes stdin without reading its input has not failed.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                    written => written,
                }
            };
            let read = read_up_to(stdout.expect("piped"), MAX_ANSWER, &mut answer);
            let talk = async { tokio::try_join!(written, read, keep_start(stderr.expect("piped"), said)) };
            tokio::pin!(talk);
            let mut ticks = tokio::time::interval(LISTENING);
            loop {
                tokio::select! {
                    talked = &mut talk => {
                        talked?;
                        break started.child.wait().await?;
                    }
                    status = started.child.wait() => {
                        let status = status?;
                        if let Ok(talked) = timeout(AFTERMATH, &mut talk).await {
                            talked?;
                        }
                        break status;
                    }
                    _ = ticks.tick() => started.look_at_children(),
                }
            }
        };
        // If the helper exited by itself, do not kill processes that the helper left running.
        started.has_ended = status.code().is_some();
        let stdout = String::from_utf8(std::mem::take(&mut *answer))
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        let stderr = String::from_utf8_lossy(&said.borrow()).into_owned();
        Ok(Answer { status, stdout: Secret::new(stdout), stderr, given: Vec::new() })
    }

    /// Returns the answer of a helper that succeeded. For a helper that failed, returns an error that quotes
    /// the helper's stdout and stderr. The error does not quote credentials, or text that looks like a
    /// secret.
    fn checked(&self, answer: Answer) -> Result<Answer, CredentialsError> {
        if answer.status.success() {
            return Ok(answer);
        }
        let login = read_login(answer.stdout.expose()).flatten();
        let redactor =
            Redactor::new(login.iter().flat_map(Credentials::secrets).chain(answer.given.iter().cloned()));
        let reasons: Vec<String> = [answer.stdout.expose(), &answer.stderr]
            .into_iter()
            .filter_map(|text| quotable(text, &redactor))
            .collect();
        Err(self.failed(if reasons.is_empty() { answer.status.to_string() } else { reasons.join(": ") }))
    }
}

/// A running credential helper. Dropping this value kills the helper and its child processes, unless the
/// helper has exited by itself.
#[cfg_attr(windows, expect(dead_code, reason = "there the helper alone is ended"))]
struct Started {
    child: Child,
    /// Whether the helper leads a process group of its own.
    has_group: bool,
    has_ended: bool,
    #[cfg(unix)]
    id: Option<Pid>,
    /// The child processes that the plugin last found for the helper. The system cannot list these processes
    /// after the helper has exited.
    #[cfg(unix)]
    children: Vec<Pid>,
}

impl Started {
    fn new(child: Child, has_group: bool) -> Self {
        Self {
            #[cfg(unix)]
            id: child.id().and_then(|id| Pid::from_raw(id.cast_signed())),
            #[cfg(unix)]
            children: Vec::new(),
            child,
            has_group,
            has_ended: false,
        }
    }

    fn look_at_children(&mut self) {
        #[cfg(unix)]
        if let Some(id) = self.id.filter(|_| !self.has_group) {
            let children = descendants(id);
            // The system lists no child processes of a helper that has exited. Keep those found before.
            if !is_zombie(id) {
                self.children = children;
            }
        }
    }
}

#[cfg(unix)]
impl Drop for Started {
    fn drop(&mut self) {
        let Some(id) = self.id.filter(|_| !self.has_ended) else { return };
        if self.has_group {
            let _ = kill_process_group(id, Signal::KILL);
            return;
        }
        // Kill the current child processes of the helper, and those found before Ctrl-C killed the helper.
        // `self.child.id()` is `None` if the plugin has waited for the helper's exit: another
        // process may now have the helper's id.
        let children = self.child.id().map(|_| descendants(id)).unwrap_or_default();
        for process in children.iter().chain(&self.children) {
            let _ = kill_process(*process, Signal::KILL);
        }
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

/// Returns whether a child process has exited but was not waited for yet. Always returns false on systems
/// other than Linux.
///
/// Source: proc(5), `/proc/PID/stat`.
#[cfg(unix)]
fn is_zombie(process: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()));
    stat.is_ok_and(|stat| stat.rsplit_once(')').is_some_and(|(_, state)| state.starts_with(" Z")))
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

/// Passes each line of a helper's stderr to `tell`, for example the request to touch a security key.
async fn pass_on(said: &RefCell<Vec<u8>>, tell: &mut impl FnMut(&str)) {
    let mut told = 0;
    loop {
        let lines = {
            let said = said.borrow();
            let whole = said.iter().rposition(|byte| *byte == b'\n').map_or(told, |end| end + 1);
            let lines = String::from_utf8_lossy(&said[told.min(whole)..whole]).into_owned();
            told = told.max(whole);
            lines
        };
        for line in lines.lines().filter_map(|line| quotable(line, &Redactor::default())) {
            tell(&line);
        }
        tokio::time::sleep(LISTENING).await;
    }
}

/// Returns a helper's output with secrets redacted, or `None` if nothing remains to show. Cannot redact a
/// secret that is unknown to `redactor` and that [`hide_named`] does not recognize.
fn quotable(text: &str, redactor: &Redactor) -> Option<String> {
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

/// Parses the credentials that a helper prints: `{"Username":"…","Secret":"…"}`. As docker does, ignores the
/// case of keys, and everything after the JSON value. The outer `None` means that `stdout` has another form;
/// the inner `None` means that the helper has no credentials.
fn read_login(stdout: &str) -> Option<Option<Credentials>> {
    let mut values = serde_json::Deserializer::from_str(stdout).into_iter::<Value>();
    let answer = values.next()?.ok().filter(Value::is_object)?;
    let text = |key| field(&answer, key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (username, secret) = (text("Username"), Secret::new(text("Secret")));
    Some(match username.as_str() {
        // Without credentials, old versions of docker-credential-pass print an empty user name and secret.
        "" if secret.expose().is_empty() => None,
        TOKEN => Some(Credentials { identity_token: Some(secret), ..Credentials::default() }),
        _ => Some(Credentials::basic(username, secret)),
    })
}

/// Finds a program in PATH. As docker does, skips relative directories, in which anyone may have put a
/// program.
///
/// # Errors
/// PATH has no executable program with this name. If PATH has a file with this name, the error says why the
/// file cannot be run.
fn in_path(program: &str) -> Result<PathBuf, Option<String>> {
    if program.contains('/') {
        return Err(None);
    }
    let paths = env::var_os("PATH").unwrap_or_default();
    let mut found = None;
    for directory in env::split_paths(&paths).filter(|directory| directory.is_absolute()) {
        let path = directory.join(program);
        match what_is_wrong(&path) {
            Ok(()) => return Ok(path),
            Err(problem) => {
                found = found.or(problem.map(|problem| format!("`{}` {problem}", path.display())))
            }
        }
    }
    Err(found)
}

/// Checks that a file can be run. Returns `Err(None)` if the file does not exist, or `Err(Some(reason))` if
/// the file cannot be run.
fn what_is_wrong(path: &Path) -> Result<(), Option<&'static str>> {
    #[cfg(unix)]
    let may_run = |metadata: &Metadata| metadata.permissions().mode() & 0o111 != 0;
    #[cfg(windows)]
    let may_run = |_: &Metadata| true;
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => Err(Some("is a directory")),
        Ok(metadata) if !metadata.is_file() => Err(Some("is not a regular file")),
        Ok(metadata) if !may_run(&metadata) => Err(Some("is not executable")),
        Ok(_) => Ok(()),
        Err(_) => Err(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_answers_as_docker_does() {
        let shown = |text: &str| {
            let answer = read_login(text);
            answer.map(|found| found.map(|credentials| credentials.auth_config("h").expose().to_owned()))
        };
        let alice = r#"{"username":"alice","password":"s3cret","serveraddress":"h"}"#.to_owned();
        let table = [
            (r#"{"ServerURL":"other","Username":"alice","Secret":"s3cret"}"#, Some(Some(alice.clone()))),
            (r#"{"username":"alice","secret":"s3cret"} trailing"#, Some(Some(alice))),
            (r#"{"ServerURL":"h","Username":"","Secret":""}"#, Some(None)),
            (
                r#"{"Username":"<token>","Secret":"idtok"}"#,
                Some(Some(r#"{"serveraddress":"h","identitytoken":"idtok"}"#.to_owned())),
            ),
            ("", None),
            ("{oops", None),
            ("[]", None),
        ];
        for (text, want) in table {
            assert_eq!(shown(text), want, "{text}");
        }
    }

    #[test]
    fn redacts_secrets_in_helper_messages() {
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

    /// Regression: if Ctrl-C killed a helper just before the plugin listed its child processes, the child
    /// processes kept running.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn keeps_the_children_of_an_exited_helper() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & echo started; wait"]).stdout(Stdio::piped()).kill_on_drop(true);
        let mut started = Started::new(command.spawn().unwrap(), false);
        let mut line = [0; 8];
        started.child.stdout.take().unwrap().read_exact(&mut line).await.unwrap();
        started.look_at_children();
        let before = started.children.clone();
        assert_eq!(before.len(), 1);
        kill_process(started.id.unwrap(), Signal::KILL).unwrap();
        // Wait until the killed helper is a zombie.
        while !is_zombie(started.id.unwrap()) {
            std::thread::yield_now();
        }
        started.look_at_children();
        assert_eq!(started.children, before);
        drop(started);
        while std::fs::read_to_string(format!("/proc/{}/stat", before[0].as_raw_nonzero()))
            .is_ok_and(|stat| !stat.contains(") Z "))
        {
            std::thread::yield_now();
        }
    }
}
