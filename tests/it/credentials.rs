//! Whose credentials a push goes with, and that they go nowhere else.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::engine::{FakeEngine, Reply, digest_line, refusal};
use crate::support::env::{Run, TestEnv, exists, run, run_with_stdin};

const IMAGE: &str = "localhost:5000/app:1";
/// base64 of bob:filepw
const BOB: &str = "Ym9iOmZpbGVwdw==";

/// What the engine was shown, and how it went.
fn push(env: &TestEnv, arguments: &[&str], image: &str, variable: Option<&str>) -> (Value, Run) {
    let engine = FakeEngine::start().on_every_push(Reply::stream([digest_line("1")]));
    let mut command = env.command(&engine);
    command.args(["regpush", "--format", "json"]).args(arguments).arg(image);
    if let Some(text) = variable {
        command.env("DOCKER_AUTH_CONFIG", text);
    }
    let run = run_with_stdin(&mut command, b" typed pw \n");
    (engine.pushes()[0].registry_auth(), run)
}

fn basic(username: &str, password: &str, server: &str) -> Value {
    json!({"username": username, "password": password, "serveraddress": server})
}

#[test]
fn each_source_is_asked_in_its_turn() {
    let file = format!(r#""auths":{{"localhost:5000":{{"auth":"{BOB}"}}}}"#);
    let helper = r#"echo '{"ServerURL":"other","Username":"alice","Secret":"s3cret"}'"#;
    let nothing = "echo credentials not found in native keychain; exit 1";
    let server = "localhost:5000";
    let alice = basic("alice", "s3cret", server);
    let bob = basic("bob", "filepw", server);
    let variable = format!(r#"{{"auths":{{"localhost:5000":{{"auth":"{BOB}"}}}}}}"#);
    let table = [
        // config.json, script of the helper `x`, DOCKER_AUTH_CONFIG, options → what is sent, source
        ("{}".to_owned(), helper, None, &[][..], json!({}), "none"),
        (format!("{{{file}}}"), helper, None, &[], bob.clone(), "config"),
        (format!(r#"{{{file},"credsStore":"x"}}"#), helper, None, &[], alice.clone(), "helper:x"),
        (format!(r#"{{{file},"CREDSSTORE":"x"}}"#), helper, None, &[], alice.clone(), "helper:x"),
        (format!(r#"{{{file},"credsStore":"x"}}"#), nothing, None, &[], bob.clone(), "config"),
        (
            format!(r#"{{{file},"credHelpers":{{"localhost:5000":"x"}}}}"#),
            helper,
            None,
            &[],
            alice.clone(),
            "helper:x",
        ),
        (
            format!(r#"{{{file},"credsStore":"x","credHelpers":{{"localhost:5000":""}}}}"#),
            helper,
            None,
            &[],
            bob.clone(),
            "config",
        ),
        (r#"{"credHelpers":{"localhost:5001":"x"}}"#.to_owned(), helper, None, &[], json!({}), "none"),
        (
            r#"{"credsStore":"x"}"#.to_owned(),
            helper,
            Some(variable.as_str()),
            &[],
            bob.clone(),
            "DOCKER_AUTH_CONFIG",
        ),
        (format!("{{{file}}}"), helper, Some(&variable), &["--anonymous"], json!({}), "command-line"),
        (
            format!("{{{file}}}"),
            helper,
            Some(&variable),
            &["--username", "carol", "--password-stdin"],
            basic("carol", " typed pw ", server),
            "command-line",
        ),
        (
            r#"{"credsStore":"x"}"#.to_owned(),
            r#"echo '{"Username":"<token>","Secret":"idtok"}'"#,
            None,
            &[],
            json!({"serveraddress": server, "identitytoken": "idtok"}),
            "helper:x",
        ),
        (
            r#"{"credsStore":"x"}"#.to_owned(),
            r#"echo '{"Username":"","Secret":""}'"#,
            None,
            &[],
            json!({}),
            "none",
        ),
    ];
    for (config, script, variable, options, sent, source) in table {
        let env = TestEnv::new().with_config(&config).with_helper("x", script);
        let (got, run) = push(&env, options, IMAGE, variable);
        assert_eq!(run.status, 0, "{config}: {run}");
        assert_eq!(got, sent, "{config} {options:?}");
        assert_eq!(run.json()["credentials"]["source"], source, "{config} {options:?}");
        assert_eq!(run.stderr.matches("warning:").count(), 0, "{config}: {run}");
    }
}

#[test]
fn the_hub_is_asked_for_by_its_old_address() {
    let hub = "https://index.docker.io/v1/";
    let config =
        json!({"auths": {hub: {"auth": BOB}, "https://index.docker.io/v1/access-token": {"auth": "eDp5"}}});
    let env = TestEnv::new().with_config(&config.to_string());
    for image in ["bob/x:1", "docker.io/bob/x:1", "index.docker.io/bob/x:1"] {
        assert_eq!(push(&env, &[], image, None).0, basic("bob", "filepw", hub), "{image}");
    }
    let helper = r#"test "$(cat)" = https://index.docker.io/v1/ && echo '{"Username":"h","Secret":"p"}'"#;
    let env = TestEnv::new().with_config(r#"{"credsStore":"x"}"#).with_helper("x", helper);
    assert_eq!(push(&env, &[], "bob/x:1", None).0, basic("h", "p", hub));
}

#[test]
fn a_broken_source_is_a_warning_that_names_it_and_never_silence() {
    let table = [
        (
            r#"{"credsStore":"gone"}"#,
            "credential helper `docker-credential-gone`, wanted for localhost:5000, is no program in PATH",
        ),
        (
            r#"{"credsStore":"x"}"#,
            "credential helper `docker-credential-x` failed for localhost:5000: boom: on stderr",
        ),
        (
            r#"{"credsStore":"junk"}"#,
            "`docker-credential-junk` failed for localhost:5000: its answer is not the JSON",
        ),
        (r#"{"credsStore":"leaky"}"#, "`docker-credential-leaky` failed for localhost:5000: exit status: 1"),
        (r#"{"auths":{"localhost:5000":{"auth":"%%%"}}}"#, "the entry for localhost:5000 in `"),
        (r#"{"auths":"#, "config.json` is not valid JSON"),
        (r#"{"auths":{"localhost:5000":{"auth":5}}}"#, "config.json` is not what docker expects there"),
        (
            r#"{"auths":{"localhost:5000":"Ym9iOmZpbGVwdw=="}}"#,
            "config.json` is not what docker expects there",
        ),
        (
            r#"{"credHelpers":{"localhost:5000":5}}"#,
            "config.json` is, in `credHelpers`, not the name of a helper",
        ),
    ];
    for (config, warning) in table {
        let env = TestEnv::new()
            .with_config(config)
            .with_helper("x", "echo boom; echo on stderr >&2; exit 3")
            .with_helper("junk", "echo hunter2")
            .with_helper("leaky", r#"echo '{"Secret":"hunter2"}'; exit 1"#);
        let (sent, run) = push(&env, &[], IMAGE, None);
        assert_eq!((sent, run.status), (json!({}), 0), "{config}: {run}");
        assert!(run.stderr.contains("warning: ") && run.stderr.contains(warning), "{config}: {run}");
        assert!(run.json()["warnings"][0].as_str().unwrap().contains(warning), "{config}: {run}");
        assert!(!run.to_string().contains("hunter2"), "{run}");
    }
    let variable = r#"{"auths":{},"surprise":"hunter2"}"#;
    let (_, run) = push(&TestEnv::new(), &[], IMAGE, Some(variable));
    assert!(run.stderr.contains("warning: DOCKER_AUTH_CONFIG is not what docker expects"), "{run}");
    assert!(!run.to_string().contains("hunter2"), "{run}");
}

#[test]
fn a_file_that_cannot_be_run_is_no_helper() {
    let env = TestEnv::new().with_config(r#"{"credsStore":"x"}"#);
    fs::write(env.path("bin/docker-credential-x"), "no program").unwrap();
    let (sent, run) = push(&env, &[], IMAGE, None);
    assert_eq!(sent, json!({}));
    assert!(
        run.stderr.contains("`docker-credential-x`, wanted for localhost:5000, is no program in PATH"),
        "{run}"
    );
}

#[test]
fn a_helper_that_does_not_read_its_input_is_heard() {
    let env = TestEnv::new()
        .with_config(r#"{"credsStore":"x"}"#)
        .with_helper("x", r#"exec 0<&-; printf '{"Username":"alice","Secret":"s3cret"}'"#);
    for _ in 0..20 {
        assert_eq!(push(&env, &[], IMAGE, None).0["username"], "alice");
    }
}

#[test]
fn a_helper_that_is_waited_for_is_named_and_ended_with_us() {
    let env = TestEnv::new()
        .with_config(r#"{"credsStore":"x"}"#)
        .with_helper("x", r#"echo $$ >"$HOME/pid"; exec sleep 1000"#);
    let engine = FakeEngine::start();
    let mut child = env.command(&engine).args(["regpush", IMAGE]).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    assert_eq!(
        stderr.next().unwrap().unwrap(),
        "waiting for docker-credential-x, asked for localhost:5000 …"
    );
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    let helper = fs::read_to_string(env.path("home/pid")).unwrap();
    // Or a zombie, where nobody waits for orphans.
    let gone = || match fs::read_to_string(format!("/proc/{}/stat", helper.trim())) {
        Ok(stat) => stat.contains(") Z "),
        Err(_) => true,
    };
    let started = Instant::now();
    while !gone() {
        assert!(started.elapsed() < Duration::from_secs(10), "the helper {helper} goes on");
        std::thread::yield_now();
    }
}

#[test]
fn a_refusal_names_registry_user_source_and_what_helps() {
    let file = format!(r#"{{"auths":{{"localhost:5000":{{"auth":"{BOB}"}}}}}}"#);
    let helper = r#"{"credsStore":"x"}"#;
    let wrong = "unauthorized: authentication required";
    let variable = format!(r#"{{"auths":{{"localhost:5000":{{"auth":"{BOB}"}}}}}}"#);
    let denied = "denied: requested access to the resource is denied";
    let table = [
        (
            "{}",
            None,
            "no basic auth credentials",
            vec![
                "localhost:5000 wants a login",
                "no credentials",
                "docker login localhost:5000",
                "--password-stdin",
                "DOCKER_AUTH_CONFIG",
            ],
        ),
        (
            "{}",
            None,
            denied,
            vec!["localhost:5000 wants a login", "no credentials", "docker login localhost:5000"],
        ),
        (
            file.as_str(),
            None,
            wrong,
            vec![
                "localhost:5000 does not accept user `bob` from `",
                "config.json`",
                "docker login localhost:5000",
            ],
        ),
        (helper, None, wrong, vec!["user `alice` from the credential helper `docker-credential-x`"]),
        (
            &file,
            None,
            denied,
            vec!["localhost:5000 does not allow it to user `bob`", "may not write to localhost:5000/app"],
        ),
        (
            "{}",
            Some(variable.as_str()),
            wrong,
            vec!["user `bob` from DOCKER_AUTH_CONFIG", "goes before every `docker login`"],
        ),
        (
            r#"{"credsStore":"gone","auths":{"localhost:5000":{"auth":"Ym9iOmZpbGVwdw=="}}}"#,
            None,
            wrong,
            vec![
                "does not accept user `bob` from `",
                "config.json` (credential helper `docker-credential-gone`",
            ],
        ),
        (
            r#"{"credsStore":"gone"}"#,
            None,
            "no basic auth credentials",
            vec!["no credentials were found for it (credential helper `docker-credential-gone`"],
        ),
    ];
    for (config, variable, message, words) in table {
        let env = TestEnv::new()
            .with_config(config)
            .with_helper("x", r#"echo '{"Username":"alice","Secret":"s3cret"}'"#);
        let engine = FakeEngine::start().on_every_push(Reply::stream([refusal(message)]));
        let mut command = env.command(&engine);
        command.args(["regpush", IMAGE]);
        if let Some(text) = variable {
            command.env("DOCKER_AUTH_CONFIG", text);
        }
        let run = run(&mut command);
        assert_eq!(run.status, 3, "{run}");
        assert_eq!(engine.pushes().len(), 1, "nobody is asked, so nothing is pushed again");
        for word in words {
            assert!(run.stderr.contains(word), "no {word:?}: {run}");
        }
    }
}

#[test]
fn a_login_that_expires_on_the_way_is_used_once_more() {
    let moved =
        [r#"{"status":"Pushed","id":"aa"}"#.to_owned(), refusal("unauthorized: authentication required")];
    let engine = FakeEngine::start().on("POST", Reply::stream(&moved)).on(
        "POST",
        Reply::stream([r#"{"status":"Layer already exists","id":"aa"}"#.to_owned(), digest_line("1")]),
    );
    let env = TestEnv::new().with_config(&format!(r#"{{"auths":{{"localhost:5000":{{"auth":"{BOB}"}}}}}}"#));
    let pushed = run(env.command(&engine).args(["regpush", "--format", "json", IMAGE]));
    assert_eq!(pushed.status, 0, "{pushed}");
    assert_eq!(pushed.json()["attempts"], 2);

    let engine = FakeEngine::start().on("POST", Reply::stream(&moved)).on("POST", Reply::stream(&moved));
    let refused = run(env.command(&engine).args(["regpush", IMAGE]));
    assert_eq!(refused.status, 3, "once, not for ever: {refused}");
}

/// The password, and its base64 in every form, in nothing that others can read.
#[test]
fn no_secret_leaves_by_another_way() {
    let seen = r#"
        tr '\0' '\n' </proc/self/environ >"$HOME/seen"; tr '\0' '\n' </proc/$PPID/cmdline >>"$HOME/seen"
        echo '{"Username":"alice","Secret":"hunter2secret"}'"#;
    let env = TestEnv::new().with_config(r#"{"credHelpers":{"localhost:5000":"x"}}"#).with_helper("x", seen);
    let engine =
        FakeEngine::start().on_every_push(Reply::stream([refusal("unauthorized: authentication required")]));
    let variable = r#"{"auths":{"elsewhere":{"auth":"Ym9iOmh1bnRlcjJzZWNyZXQ="}}}"#;
    let mut command = env.command(&engine);
    command.args(["-D", "regpush", "--format", "json", IMAGE]).env("DOCKER_AUTH_CONFIG", variable);
    let run = run(&mut command);
    assert!(run.stderr.contains("debug: POST /v1.41/images/localhost:5000/app/push?tag=1"), "{run}");
    assert!(run.stderr.contains("x-registry-auth"), "the name of the header is shown: {run}");
    let header = engine.pushes()[0].header("x-registry-auth").unwrap().to_owned();
    let child = fs::read_to_string(env.path("home/seen")).unwrap();
    for secret in ["hunter2secret", "Ym9iOmh1bnRlcjJzZWNyZXQ=", header.as_str()] {
        assert!(!run.to_string().contains(secret), "{secret} is printed: {run}");
        assert!(!child.contains(secret), "{secret} is seen by the helper: {child}");
    }
    assert!(child.contains("HOME=") && !child.contains("DOCKER_AUTH_CONFIG"), "{child}");
}

#[test]
fn nothing_is_written_to_dockers_config() {
    let env = TestEnv::new();
    push(&env, &["-u", "carol", "--password-stdin"], IMAGE, None);
    assert!(!exists(&env.config_file()));
}
