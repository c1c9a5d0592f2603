//! Docker's side of it: how docker finds, calls and stops a plugin.
//!
//! Source: docker/cli `cli-plugins/metadata`, `cli-plugins/manager` and `cli-plugins/socket`.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

use crate::cli::{DockerOptions, PluginCommand, PushOptions, StandaloneCommand};

/// What docker is told about us; the file is its one source.
const METADATA: &str = include_str!("../plugin-metadata/metadata.json");
const NAME: &str = "regpush";

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

/// A call, sorted.
#[derive(Debug)]
pub struct Call {
    pub docker: DockerOptions,
    pub push: PushOptions,
}

/// docker's argv is the user's own: docker's options, the plugin's name, what follows it.
#[derive(Parser)]
#[command(
    name = "docker",
    disable_help_flag = true,
    disable_version_flag = true,
    disable_help_subcommand = true
)]
struct FromDocker {
    #[command(flatten)]
    docker: DockerOptions,
    #[arg(short, long)]
    help: bool,
    #[arg(short, long)]
    version: bool,
    #[command(subcommand)]
    words: Words,
}

#[derive(Subcommand)]
enum Words {
    #[command(external_subcommand)]
    All(Vec<OsString>),
}

/// Reads argv, as docker passes it or as typed without docker.
///
/// # Errors
/// clap's: a usage error, or the help or version that was asked for.
pub fn parse(args: &[OsString]) -> Result<Call, clap::Error> {
    if let Ok(FromDocker { docker, help, version, words: Words::All(words) }) =
        FromDocker::try_parse_from(args)
    {
        match words.split_first() {
            Some((name, _)) if name == NAME && help => return parse_plugin(docker, &["--help".into()]),
            // `docker -v regpush` asks the plugin.
            Some((name, _)) if name == NAME && version => return parse_plugin(docker, &["--version".into()]),
            Some((name, rest)) if name == NAME => return parse_plugin(docker, rest),
            // `docker help regpush`; a plugin must leave with 0 here.
            Some((word, _)) if word == "help" => return parse_plugin(docker, &["--help".into()]),
            _ => {}
        }
    }
    let command = StandaloneCommand::try_parse_from(args)?;
    checked(command.docker, command.push, StandaloneCommand::command())
}

fn parse_plugin(docker: DockerOptions, rest: &[OsString]) -> Result<Call, clap::Error> {
    let name: &OsStr = NAME.as_ref();
    let rest = match rest {
        [word, ..] if word == "help" => &["--help".into()],
        rest => rest,
    };
    let words = std::iter::once(name).chain(rest.iter().map(OsString::as_os_str));
    let command = PluginCommand::try_parse_from(words)?;
    checked(docker, command.push, PluginCommand::command())
}

/// What clap cannot say of an option.
fn checked(
    docker: DockerOptions,
    push: PushOptions,
    mut command: clap::Command,
) -> Result<Call, clap::Error> {
    if docker.hosts.len() > 1 {
        return Err(command.error(ErrorKind::TooManyValues, "specify only one -H"));
    }
    const LEVELS: [&str; 8] = ["debug", "info", "warn", "warning", "error", "fatal", "panic", "trace"];
    if let Some(level) = docker.log_level().filter(|level| !LEVELS.contains(&level.as_str())) {
        return Err(command.error(ErrorKind::InvalidValue, format!("unable to parse logging level: {level}")));
    }
    Ok(Call { docker, push })
}

/// Waits until docker hangs up the control socket: it was told to stop, or is gone. Without a
/// socket (docker before 25, or no docker at all) it waits for ever: there are only signals then.
///
/// docker never writes to it; end and error both mean stop. Where docker's stdout is a terminal
/// it leaves stopping to the terminal's own signal.
pub async fn stopped_by_docker() {
    let Some(name) = env::var("DOCKER_CLI_PLUGIN_SOCKET").ok().filter(|name| !name.is_empty()) else {
        return std::future::pending().await;
    };
    // `@name` is an abstract socket, which Linux spells with a NUL.
    let path = name.strip_prefix('@').map_or_else(|| name.clone(), |rest| format!("\0{rest}"));
    let Ok(mut socket) = UnixStream::connect(path).await else {
        return std::future::pending().await;
    };
    let mut ignored = [0; 64];
    while socket.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn parse_words(line: &str) -> Result<Call, clap::Error> {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        parse(&args)
    }

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

    #[test]
    fn dockers_options_come_before_the_name() {
        let call = parse_words("x --config=C -H U -D --log-level debug regpush -q app:1").unwrap();
        assert_eq!(call.docker.config.as_deref(), Some("C".as_ref()));
        assert_eq!(call.docker.hosts, ["U"]);
        assert!(call.docker.debug && call.push.quiet);
        assert_eq!(call.push.image, "app:1");

        let call = parse_words("x -DHregpush -c far --tls --tlsverify=false regpush regpush").unwrap();
        assert_eq!(call.docker.hosts, ["regpush"]);
        assert_eq!(call.push.image, "regpush");
        assert_eq!((call.docker.tls, call.docker.tlsverify), (Some(true), Some(false)));

        for (level, is_debug) in
            [("debug", true), ("DEBUG", true), ("trace", true), ("warning", false), ("Info", false)]
        {
            let call = parse_words(&format!("x -l {level} regpush app")).unwrap();
            assert_eq!(call.docker.is_debug(), is_debug, "{level}");
        }

        let call = parse_words("x regpush -- -a").unwrap();
        assert_eq!(call.push.image, "-a", "refused later, as a reference");
    }

    #[test]
    fn without_docker_all_options_stand_anywhere() {
        for line in ["x -H U -q app:1", "x -q app:1 -H U", "x -H U regpush -q app:1"] {
            let call = parse_words(line).unwrap();
            assert_eq!(
                (call.docker.hosts.as_slice(), call.push.image.as_str()),
                (&["U".to_owned()][..], "app:1"),
                "{line}"
            );
            assert!(call.push.quiet, "{line}");
        }
    }

    #[test]
    fn help_and_version_are_asked_for_in_many_ways() {
        for line in [
            "x regpush --help",
            "x regpush -h",
            "x --help regpush",
            "x help regpush",
            "x regpush help",
            "x help",
        ] {
            let help = parse_words(line).unwrap_err();
            assert_eq!(help.exit_code(), 0, "{line}");
            assert!(help.to_string().contains("Usage: docker regpush"), "{line}: {help}");
        }
        assert!(parse_words("x --help").unwrap_err().to_string().contains("Usage: docker-regpush"));
        for line in ["x regpush --version", "x -v regpush", "x --version"] {
            let version = parse_words(line).unwrap_err();
            assert_eq!(
                version.to_string(),
                concat!("docker-regpush ", env!("CARGO_PKG_VERSION"), "\n"),
                "{line}"
            );
            assert!(!version.use_stderr(), "{line}");
        }
    }

    #[test]
    fn wrong_words_are_usage_errors() {
        let lines = [
            "x regpush",
            "x regpush a b",
            "x regpush --nope a",
            "x -H a -H b regpush app",
            "x -l loud regpush app",
            "x regpush -u me app",
            "x regpush --password-stdin app",
            "x regpush --anonymous -u me --password-stdin app",
            "x regpush --progress fancy app",
            "x regpush -H U app",
        ];
        for line in lines {
            assert!(parse_words(line).unwrap_err().use_stderr(), "{line}");
        }
    }
}
