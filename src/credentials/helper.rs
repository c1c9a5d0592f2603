//! Credential helpers: `docker-credential-NAME get`, the registry on stdin, JSON on stdout.
//!
//! Run here and not by `docker_credential`, which fails by chance where a helper exits without
//! reading its input (108 of 400 runs), and gives no hold on one that hangs.
//!
//! Source: docker-credential-helpers `credentials/credentials.go` and `client/client.go`.

use std::fs::Metadata;
#[cfg(unix)]
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use std::{env, io};

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::{Credentials, CredentialsError};
use crate::config::field;
use crate::secret::Secret;
use crate::text::clean;

/// What a helper prints when it has nothing for a registry
/// (docker-credential-helpers `credentials.ErrCredentialsNotFound`); no error.
const NOT_FOUND: &str = "credentials not found in native keychain";
/// The user name that says: the secret is an identity token.
const TOKEN: &str = "<token>";
/// A helper that takes longer is probably waiting for its user: a PIN, a touch.
const SLOW: Duration = Duration::from_secs(3);
/// Characters of what a helper says for itself.
const MAX_REASON: usize = 200;

/// Asks a helper. `Ok(None)`: it has nothing for this registry.
///
/// * `key`: the registry as docker keeps it.
/// * `patience`: how long it may take; `None` where its user may be typing a PIN.
/// * `on_slow`: called once, after 3 s.
///
/// Dropping the future ends the helper.
///
/// # Errors
/// [`CredentialsError::HelperMissing`], or [`CredentialsError::HelperFailed`] with its reason.
pub async fn get(
    helper: &str,
    key: &str,
    patience: Option<Duration>,
    on_slow: impl FnOnce(&str),
) -> Result<Option<Credentials>, CredentialsError> {
    let failed = |reason: &str| CredentialsError::HelperFailed {
        helper: clean(helper),
        registry: clean(key),
        reason: clean(reason),
    };
    let Some(program) = in_path(&format!("docker-credential-{helper}{}", env::consts::EXE_SUFFIX)) else {
        return Err(CredentialsError::HelperMissing { helper: clean(helper), registry: clean(key) });
    };
    let asked = ask(program, key);
    let told = async {
        tokio::time::sleep(SLOW).await;
        on_slow(helper);
        match patience {
            Some(patience) => tokio::time::sleep(patience.saturating_sub(SLOW)).await,
            None => std::future::pending().await,
        }
    };
    let output = tokio::select! {
        output = asked => output.map_err(|error| failed(&error.to_string()))?,
        () = told => return Err(failed(&format!("it did not answer within {} s", patience.unwrap_or_default().as_secs()))),
    };
    let stdout = Secret::new(String::from_utf8_lossy(&output.stdout).into_owned());
    if output.status.success() {
        return read_answer(&stdout)
            .ok_or_else(|| failed("its answer is not the JSON of a credential helper"));
    }
    if stdout.expose().trim() == NOT_FOUND {
        return Ok(None);
    }
    // The reason stands on stdout; what looks like an answer all the same is not quoted.
    let stderr = String::from_utf8_lossy(&output.stderr);
    let reasons =
        [stdout.expose(), &stderr].map(|text| clean(text).chars().take(MAX_REASON).collect::<String>());
    let reasons: Vec<String> =
        reasons.into_iter().filter(|reason| !reason.is_empty() && !reason.contains('{')).collect();
    Err(failed(&if reasons.is_empty() { output.status.to_string() } else { reasons.join(": ") }))
}

/// In our process group, since a helper may ask at the terminal.
async fn ask(program: PathBuf, key: &str) -> io::Result<std::process::Output> {
    let mut command = Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(key.as_bytes()).await {
            // It knows without asking.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written?,
        }
    }
    child.wait_with_output().await
}

/// `{"Username":"…","Secret":"…"}`, its keys in any case, whatever stands behind it, as for docker.
/// The outer `None`: that is no answer.
fn read_answer(stdout: &Secret) -> Option<Option<Credentials>> {
    let mut values = serde_json::Deserializer::from_str(stdout.expose()).into_iter::<Value>();
    let answer = values.next()?.ok().filter(Value::is_object)?;
    let text = |key| field(&answer, key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (username, secret) = (text("Username"), Secret::new(text("Secret")));
    Some(match username.as_str() {
        // How an old `pass` helper says that it has nothing.
        "" if secret.expose().is_empty() => None,
        TOKEN => Some(Credentials::IdentityToken { username: None, token: secret }),
        _ => Some(Credentials::Basic { username, password: secret }),
    })
}

/// The program in PATH. Relative entries do not count, as for docker: they could be anybody's.
fn in_path(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return None;
    }
    let paths = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&paths)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(program))
        .find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    #[cfg(unix)]
    let may_run = |metadata: Metadata| metadata.permissions().mode() & 0o111 != 0;
    #[cfg(windows)]
    let may_run = |_: Metadata| true;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && may_run(metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_docker_reads_them() {
        let shown = |text: &str| {
            let answer = read_answer(&Secret::new(text.to_owned()));
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
