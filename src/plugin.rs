//! The interface between docker and a plugin: how docker finds, runs and stops the plugin.
//!
//! Source: docker/cli `cli-plugins/metadata`, `cli-plugins/manager` and `cli-plugins/socket`.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};

/// The metadata that docker requests from the plugin.
const METADATA: &str = include_str!("../plugin-metadata/metadata.json");
pub const NAME: &str = "regpush";

/// Returns whether argv is docker's request for the metadata of the plugin. docker sends this request before each run
/// of the plugin and for each `docker --help`.
pub fn wants_metadata(args: &[OsString]) -> bool {
    matches!(args, [_, word] if word == "docker-cli-plugin-metadata")
}

/// Writes the metadata of the plugin: one JSON object.
///
/// # Errors
/// stdout is closed or full.
pub fn write_metadata(mut out: impl Write) -> io::Result<()> {
    out.write_all(METADATA.as_bytes())?;
    out.flush()
}

/// Returns the JSON that docker passes to the plugin's hook after a command such as `docker push`; `None` if docker
/// does not run the hook.
pub fn hook_question(args: &[OsString]) -> Option<&OsStr> {
    match args {
        [_, name, word, question] if name == NAME && word == "docker-cli-plugin-hooks" => Some(question),
        _ => None,
    }
}

/// Waits until docker closes the control socket, because docker stops the plugin or has itself exited. If a user runs
/// the plugin without docker, waits forever, since only signals then stop the plugin.
///
/// docker never writes to the socket, so end of file or a read error means that the plugin must stop. If docker's
/// stdout is a terminal, docker does not close the socket after Ctrl-C, since the terminal sends SIGINT to the plugin
/// too.
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
    // `@name` means an abstract socket, whose address on Linux begins with a NUL byte.
    let path = name.strip_prefix('@').map_or_else(|| name.to_owned(), |rest| format!("\0{rest}"));
    let Ok(mut socket) = tokio::net::UnixStream::connect(path).await else {
        return std::future::pending().await;
    };
    let mut ignored = [0; 64];
    while socket.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
}

/// Waits until the parent process changes, which means that docker has exited. docker before 25 has no control
/// socket.
#[cfg(unix)]
async fn until_orphaned() {
    use rustix::process::getppid;
    const PERIOD: std::time::Duration = std::time::Duration::from_millis(200);
    let docker = getppid();
    while getppid() == docker {
        tokio::time::sleep(PERIOD).await;
    }
}

/// Waits forever, so that only Ctrl-C stops the plugin on Windows. docker's control socket is a Unix socket, which
/// tokio does not support on Windows.
#[cfg(windows)]
pub async fn stopped_by_docker() {
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn metadata_is_one_object_that_docker_accepts() {
        let metadata: Value = serde_json::from_str(METADATA).expect("metadata is one JSON object");
        // docker before 28.5 accepts no other schema version.
        assert_eq!(metadata["SchemaVersion"], "0.1.0");
        assert_eq!(metadata["Version"], env!("CARGO_PKG_VERSION"));
        assert!(metadata["Vendor"].as_str().is_some_and(|vendor| !vendor.is_empty()));
        assert!(metadata["ShortDescription"].as_str().is_some_and(|text| !text.is_empty()));
    }

    #[test]
    fn accepts_the_metadata_argument_only_alone() {
        let args = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert!(wants_metadata(&args(&["x", "docker-cli-plugin-metadata"])));
        assert!(!wants_metadata(&args(&["x", "docker-cli-plugin-metadata", "more"])));
        assert!(!wants_metadata(&args(&["x"])));
    }
}
