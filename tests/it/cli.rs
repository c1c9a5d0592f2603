//! Tests of the plugin's metadata, help and usage errors, and of output to closed pipes.

use std::path::Path;
use std::process::Command;

use docker_regpush::cli::VERSION;
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

/// Users try the options of docker, podman, skopeo, crane, regctl, oras and kaniko.
#[test]
fn tips_name_the_option_that_does_the_same() {
    let table = [
        // options, beginning of the tip
        ("--insecure app", "pass `--tls-verify=false` to accept any certificate, or `--plain-http`"),
        ("--password hunter2 app", "pass the password on stdin: `--username NAME --password-stdin <FILE`"),
        ("--password=hunter2 app", "pass the password on stdin: `--username NAME --password-stdin <FILE`"),
        ("-phunter2 app", "pass the password on stdin: `--username NAME --password-stdin <FILE`"),
        ("--creds me:hunter2 app", "pass the password on stdin: `--username NAME --password-stdin <FILE`"),
        ("auth --password hunter2 r", "pass the password on stdin: `--username NAME --password-stdin <FILE`"),
        ("--authfile f app", "the plugin uses docker's credentials: pass docker's `--config DIR`"),
        ("-t r/app:2 app", "name the destination with `--to`: `docker regpush IMAGE --to DESTINATION`"),
        ("--tag=r/app:2 app", "name the destination with `--to`: `docker regpush IMAGE --to DESTINATION`"),
        (
            "--destination r/app app",
            "name the destination with `--to`: `docker regpush IMAGE --to DESTINATION`",
        ),
        ("--registry r app", "write the registry into the name, or pass `--to HOST/`"),
        ("--all app", "pass `--all-tags` for all tags, or `--platform all` for all platforms"),
        ("--multi-arch=all app", "pass `--platform all` for all platforms"),
        ("--digestfile f app", "pass `--digest-file FILE`"),
        ("--retry-times 3 app", "pass `--retries N`"),
        ("-j 3 app", "pass `--parallel N`"),
        ("--force app", "a push replaces an existing tag, unless you pass `--if-exists`"),
        ("--user me app", "pass `--username NAME --password-stdin`"),
        ("-o json app", "pass `--format json` for a result to parse"),
        ("-v app", "pass docker's `--debug` before `regpush`"),
        (
            "--format {{.Digest}} app",
            "the plugin has no Go templates: `--format ref` prints NAME@DIGEST, `--format json`",
        ),
        (
            "ls --format {{json}} r",
            "the plugin has no Go templates: `--format json` prints an object per line",
        ),
        ("--verfy never app", "a similar argument exists: '--verify'"),
    ];
    let env = TestEnv::new();
    for (options, tip) in table {
        let words: Vec<&str> = ["regpush"].into_iter().chain(options.split(' ')).collect();
        let run = run(env.without_engine().args(&words));
        assert_eq!(run.status, 125, "{options}: {run}");
        assert!(run.stderr.contains(&format!("\n  tip: {tip}")), "{options}: {run}");
        assert!(!run.stderr.contains("hunter2"), "{options}: {run}");
    }
    // A subcommand has no `--to`.
    let run = run(env.without_engine().args(["regpush", "ls", "-t", "x"]));
    assert!(!run.stderr.contains("--to"), "{run}");
}

#[test]
fn commands_of_docker_are_no_images() {
    let table = [
        ("login", "run `docker login`"),
        ("login registry.example.com", "run `docker login registry.example.com`"),
        ("push app:1", "leave out `push`"),
        ("push", "leave out `push`"),
        ("pull app:1", "run `docker pull app:1`"),
        ("tag app:1 r.example.com/app:1", "run `docker regpush app:1 --to r.example.com/app:1`"),
        ("images", "run `docker regpush ls`"),
        ("image push app:1", "leave out `push`"),
        ("rmi app:1", "run `docker rmi app:1`"),
    ];
    let env = TestEnv::new();
    for (typed, instead) in table {
        let word = typed.split(' ').next().unwrap();
        let words: Vec<&str> = ["regpush"].into_iter().chain(typed.split(' ')).collect();
        let run = run(env.without_engine().args(&words));
        let want = format!(
            "error: `{word}` is a command of docker, not of `docker regpush`\nhint: {instead}; to push an image of that name, write `docker.io/library/{word}`\n"
        );
        assert_eq!((run.status, run.stderr.as_str()), (125, want.as_str()), "{typed}");
    }
    // With a tag or `--to`, the word is an image.
    for words in [
        &["regpush", "login:1"][..],
        &["regpush", "-a", "docker.io/library/build"],
        &["regpush", "push", "--to", "localhost:0/"],
    ] {
        let run = run(env.without_engine().env("DOCKER_HOST", "unix:///nothing").args(words));
        assert_eq!(run.status, 4, "{words:?}: {run}");
    }
}

/// Source: docker/cli#4877, moby#34975, nipreps/smriprep#330, microsoft/azure-pipelines-tasks#7388.
#[test]
fn hints_name_the_wrong_part_of_a_reference() {
    let table = [
        ("app:", "write a tag after `app:`: is the variable for the tag set?"),
        ("r.example.com:5000/team/app:", "write a tag after `r.example.com:5000/team/app:`: is the variable"),
        ("app:1.0+build.5", "write `-` instead of `+`: `app:1.0-build.5`"),
        ("r.example.com:5000/app:1.0+b+c", "write `-` instead of `+`: `r.example.com:5000/app:1.0-b-c`"),
        (
            "my_registry:5000/app:1",
            "use another host name for my_registry:5000: docker accepts no underscore",
        ),
        ("app:1\r", "remove the line break at its end: is the file or variable from Windows?"),
        ("app:1\n", "remove the line break at its end: is the file or variable from Windows?"),
        (
            "http://r/app",
            "write `http://r/app` in the form `registry.example.com/team/app:tag`, without a scheme",
        ),
    ];
    let env = TestEnv::new();
    for (typed, hint) in table {
        for words in [&["regpush", typed][..], &["regpush", "app:1", "--to", typed]] {
            let run = run(env.without_engine().args(words));
            assert_eq!(run.status, 125, "{words:?}: {run}");
            assert!(run.stderr.contains(&format!("\nhint: {hint}")), "{words:?}: {run}");
        }
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
        assert_eq!(run.stdout, format!("docker-regpush {VERSION}\n"), "{arguments:?}");
    }
}

#[test]
fn version_names_the_commit_of_the_source_code() {
    let source = env!("CARGO_MANIFEST_DIR");
    let git = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).current_dir(source).output();
    let version = match git {
        Ok(git) if git.status.success() && Path::new(source).join(".git").exists() => {
            let commit = String::from_utf8(git.stdout).unwrap();
            format!("{} ({})", env!("CARGO_PKG_VERSION"), commit.trim())
        }
        // A source archive has no commit.
        _ => env!("CARGO_PKG_VERSION").to_owned(),
    };
    assert_eq!(VERSION.replace("-modified", ""), version);
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
