//! Runs credential helpers: programs named `docker-credential-NAME`. For the argument `get`, a helper reads a
//! registry from stdin and prints credentials as JSON.
//!
//! The plugin does not let the crate `docker_credential` run helpers: the crate fails at random if a helper
//! exits without reading its input (108 of 400 runs), and cannot stop a helper that hangs.
//!
//! Source: docker-credential-helpers `credentials/credentials.go` and `client/client.go`.

use std::collections::BTreeMap;
use std::env;
use std::fs::Metadata;
#[cfg(unix)]
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::credentials::Credentials;
use crate::credentials::login::CredentialsError;
use crate::credentials::process::{Answer, Run, quotable};
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
    tell: &mut dyn FnMut(&str),
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
    read_login(call.checked(answer, &[])?.stdout.expose())
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
    tell: &mut dyn FnMut(&str),
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
    let answer = call.run(&line, tell).await?;
    call.checked(answer, &credentials.secrets()).map(drop)
}

/// Lists all credentials in a credential helper. Returns a map from registry to user name.
///
/// # Errors
/// The same errors as for [`get`].
pub async fn list(
    helper: &str,
    helper_timeout: Option<Duration>,
    tell: &mut dyn FnMut(&str),
) -> Result<BTreeMap<String, String>, CredentialsError> {
    let call = Call { helper, action: "list", task: "to list its credentials".to_owned(), helper_timeout };
    // The helper needs no input for `list`, but docker sends the word `unused`.
    let answer = call.checked(call.run(&Secret::new("unused".to_owned()), tell).await?, &[])?;
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

impl Call<'_> {
    fn failed(&self, reason: String) -> CredentialsError {
        CredentialsError::HelperFailed { helper: sanitize(self.helper), task: self.task.clone(), reason }
    }

    async fn run(&self, input: &Secret, tell: &mut dyn FnMut(&str)) -> Result<Answer, CredentialsError> {
        let program =
            in_path(&format!("{PREFIX}{}{}", self.helper, env::consts::EXE_SUFFIX)).map_err(|found| {
                CredentialsError::HelperMissing {
                    helper: sanitize(self.helper),
                    task: self.task.clone(),
                    found,
                }
            })?;
        let mut command = Command::new(program);
        command.arg(self.action);
        let run = Run {
            command,
            input: Some(input),
            waits_for: format!("{PREFIX}{} {}", sanitize(self.helper), self.task),
            limit: self.helper_timeout,
            shows_stderr: false,
        };
        run.answer(tell).await.map_err(|reason| self.failed(reason))
    }

    /// Returns the answer of a helper that succeeded. For a helper that failed, returns an error that quotes
    /// the helper's stdout and stderr. The error does not quote credentials, or text that looks like a
    /// secret.
    ///
    /// * `given`: secrets that the plugin sent to the helper.
    fn checked(&self, answer: Answer, given: &[Secret]) -> Result<Answer, CredentialsError> {
        if answer.status.success() {
            return Ok(answer);
        }
        let login = read_login(answer.stdout.expose()).flatten();
        let redactor =
            Redactor::new(login.iter().flat_map(Credentials::secrets).chain(given.iter().cloned()));
        let reasons: Vec<String> = [answer.stdout.expose(), &answer.stderr]
            .into_iter()
            .filter_map(|text| quotable(text, &redactor))
            .collect();
        Err(self.failed(if reasons.is_empty() { answer.status.to_string() } else { reasons.join(": ") }))
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
}
