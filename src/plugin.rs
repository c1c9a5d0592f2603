//! Docker's side of it: how docker finds, calls and stops a plugin.
//!
//! Source: docker/cli `cli-plugins/metadata`, `cli-plugins/manager` and `cli-plugins/socket`.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};

/// What docker is told about us; the file is its one source.
const METADATA: &str = include_str!("../plugin-metadata/metadata.json");
pub const NAME: &str = "regpush";

/// docker asks for metadata with exactly this argument, before each run and for each `docker --help`.
pub fn wants_metadata(args: &[OsString]) -> bool {
    matches!(args, [_, word] if word == "docker-cli-plugin-metadata")
}

/// Answers the handshake: one JSON object.
///
/// # Errors
/// stdout is closed or full.
pub fn write_metadata(mut out: impl Write) -> io::Result<()> {
    out.write_all(METADATA.as_bytes())?;
    out.flush()
}

/// The question that docker asks after a command that a hook is installed for: one argument of JSON.
pub fn hook_question(args: &[OsString]) -> Option<&OsStr> {
    match args {
        [_, name, word, question] if name == NAME && word == "docker-cli-plugin-hooks" => Some(question),
        _ => None,
    }
}

/// Waits until docker hangs up the control socket: it was told to stop, or is gone. Without docker it
/// waits for ever: there are only signals then.
///
/// docker never writes to it; end and error both mean stop. Where docker's stdout is a terminal
/// it leaves stopping to the terminal's own signal.
#[cfg(unix)]
pub async fn stopped_by_docker() {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    match (variable("DOCKER_CLI_PLUGIN_SOCKET"), variable("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND")) {
        (Some(name), _) => until_hung_up(&name).await,
        (None, Some(_)) => until_orphaned().await,
        (None, None) => std::future::pending().await,
    }
}

#[cfg(unix)]
async fn until_hung_up(name: &str) {
    use tokio::io::AsyncReadExt as _;
    // `@name` is an abstract socket, which Linux spells with a NUL.
    let path = name.strip_prefix('@').map_or_else(|| name.to_owned(), |rest| format!("\0{rest}"));
    let Ok(mut socket) = tokio::net::UnixStream::connect(path).await else {
        return std::future::pending().await;
    };
    let mut ignored = [0; 64];
    while socket.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
}

/// docker before 25 has no socket. When it is gone, we have another parent.
#[cfg(unix)]
async fn until_orphaned() {
    use rustix::process::getppid;
    const PERIOD: std::time::Duration = std::time::Duration::from_millis(200);
    let docker = getppid();
    while getppid() == docker {
        tokio::time::sleep(PERIOD).await;
    }
}

/// docker's socket there is a Unix socket too, which tokio does not know: there is only Ctrl-C.
#[cfg(windows)]
pub async fn stopped_by_docker() {
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn metadata_is_one_object_that_every_docker_takes() {
        let metadata: Value = serde_json::from_str(METADATA).expect("one object, and nothing behind it");
        // docker before 28.5 takes no other version than this.
        assert_eq!(metadata["SchemaVersion"], "0.1.0");
        assert_eq!(metadata["Version"], env!("CARGO_PKG_VERSION"));
        assert!(metadata["Vendor"].as_str().is_some_and(|vendor| !vendor.is_empty()));
        assert!(metadata["ShortDescription"].as_str().is_some_and(|text| !text.is_empty()));
    }

    #[test]
    fn metadata_is_asked_for_by_one_word_alone() {
        let args = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert!(wants_metadata(&args(&["x", "docker-cli-plugin-metadata"])));
        assert!(!wants_metadata(&args(&["x", "docker-cli-plugin-metadata", "more"])));
        assert!(!wants_metadata(&args(&["x"])));
    }
}
