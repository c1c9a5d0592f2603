//! Tests of the plugin's metadata, help and usage errors, and of output to closed pipes.

use std::process::Command;

use serde_json::Value;

use crate::support::env::{TestEnv, run, run_with_stdin};

fn words(env: &TestEnv, words: &[&str]) -> Command {
    let mut command = env.without_engine();
    command.args(words);
    command
}

#[test]
fn prints_plugin_metadata_as_one_json_object() {
    let run = run(&mut words(&TestEnv::new(), &["docker-cli-plugin-metadata"]));
    let metadata: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(metadata["SchemaVersion"], "0.1.0");
    assert_eq!((run.status, run.stderr.as_str()), (0, ""));
}

#[test]
fn usage_errors_exit_125_with_dockers_reason_on_stderr() {
    let digest = format!("app@sha256:{}", "0".repeat(64));
    let table: [(&[&str], &str); 10] = [
        (&["regpush"], "the following required arguments were not provided"),
        (&["regpush", "--nope", "app"], "unexpected argument '--nope'"),
        (&["-H", "a", "-H", "b", "regpush", "app"], "specify only one -H"),
        (&["-H", "unix:///a", "-c", "b", "regpush", "app"], "cannot specify both --host and --context"),
        (
            &["regpush", "APP:1"],
            "error: invalid reference format: repository name (library/APP) must be lowercase",
        ),
        (&["regpush", "http://x/y"], "error: invalid reference format\n"),
        (&["regpush", &digest], "error: cannot push a digest reference\n"),
        (&["regpush", "-u", "me", "--password-stdin", "app"], "cannot read the password: stdin is empty"),
        (&["regpush", "-u", "", "--password-stdin", "app"], "a user name is required"),
        (&["regpush", "-u", "a:b", "--password-stdin", "app"], "a user name cannot contain a colon"),
    ];
    let env = TestEnv::new();
    for (arguments, reason) in table {
        let run = run(&mut words(&env, arguments));
        assert_eq!(run.status, 125, "{arguments:?}: {run}");
        assert!(run.stderr.contains(reason), "{arguments:?}: {run}");
        assert_eq!(run.stdout, "", "{arguments:?}");
    }
}

#[test]
fn refuses_a_password_longer_than_64_kb() {
    let mut command = words(&TestEnv::new(), &["regpush", "-u", "me", "--password-stdin", "app"]);
    let run = run_with_stdin(&mut command, &[b'x'; (64 << 10) + 1]);
    assert_eq!(run.status, 125, "{run}");
    assert!(run.stderr.contains("the password on stdin is longer than 64 kB"), "{run}");
}

#[test]
fn help_and_version_go_to_stdout() {
    let env = TestEnv::new();
    for arguments in [&["regpush", "--help"][..], &["help", "regpush"], &["--help"]] {
        let run = run(&mut words(&env, arguments));
        assert_eq!((run.status, run.stderr.as_str()), (0, ""), "{arguments:?}");
        assert!(run.stdout.contains("--password-stdin") && run.stdout.contains("Exit status:"), "{run}");
    }
    for arguments in [&["regpush", "--version"][..], &["-v", "regpush"], &["--version"]] {
        let run = run(&mut words(&env, arguments));
        assert_eq!(run.stdout, concat!("docker-regpush ", env!("CARGO_PKG_VERSION"), "\n"), "{arguments:?}");
    }
}

#[test]
fn unreachable_engine_error_names_socket_and_origin() {
    let env = TestEnv::new();
    let nowhere = env.path("nothing.sock");
    let url = format!("unix://{}", nowhere.display());

    let flag = run(&mut words(&env, &["-H", &url, "regpush", "app"]));
    assert_eq!(flag.status, 4, "{flag}");
    assert!(flag.stderr.contains(&format!("cannot connect to the engine at {url} (from --host)")), "{flag}");
    assert!(flag.stderr.contains("hint: start the engine "), "{flag}");

    let variable = run(words(&env, &["regpush", "--format", "json", "app"]).env("DOCKER_HOST", &url));
    assert_eq!(variable.status, 4, "{variable}");
    assert!(variable.stderr.contains("(from DOCKER_HOST)"), "{variable}");
    let result = variable.json();
    assert_eq!(result["error"]["class"], "engine");
    assert_eq!(result["reference"], "docker.io/library/app:latest");

    // Leaves a socket file on which no process listens.
    drop(std::os::unix::net::UnixListener::bind(&nowhere).unwrap());
    let refused = run(&mut words(&env, &["-H", &url, "regpush", "app"]));
    assert!(refused.stderr.contains(": nothing listens at "), "{refused}");
}

#[test]
fn closed_stdout_does_not_panic() {
    let env = TestEnv::new();
    for arguments in ["regpush --help", "docker-cli-plugin-metadata"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = words(&env, &arguments.split(' ').collect::<Vec<_>>());
        let status = command.stdout(writer).status().unwrap();
        assert!(status.code().is_some_and(|code| code <= 1), "{arguments}: {status}");
    }
}
