//! Tests which credentials a push sends to the engine, and that the plugin does not leak credentials.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::engine::{FakeEngine, Ping, Reply, digest_line, refusal};
use crate::support::env::{Run, TestEnv, exists, run, run_with_stdin};
use crate::support::wait::wait_for;

const IMAGE: &str = "localhost:0/app:1";
/// The base64 encoding of `bob:filepw`.
const BOB: &str = "Ym9iOmZpbGVwdw==";

/// Pushes an image. Returns the credentials that the engine received, and the exit status and output of the plugin.
fn push(env: &TestEnv, arguments: &[&str], image: &str, variable: Option<&str>) -> (Value, Run) {
    let engine = FakeEngine::start()
        .serving_pushed()
        .on_every_push(Reply::stream([digest_line("1")]))
        // The plugin requests `/info` only for registries that are not on this machine.
        .allow("GET /v1.41/info", Reply::json(200, "{}"));
    let mut command = env.command(&engine);
    command.args(["regpush", "--format", "json"]).args(arguments).arg(image);
    // No proxy listens on this port, so the plugin does not send these credentials to a real registry.
    command.env("HTTPS_PROXY", "http://127.0.0.1:1");
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
fn uses_credential_sources_in_order() {
    let file = format!(r#""auths":{{"localhost:0":{{"auth":"{BOB}"}}}}"#);
    let helper = r#"echo '{"ServerURL":"other","Username":"alice","Secret":"s3cret"}'"#;
    let nothing = "echo credentials not found in native keychain; exit 1";
    let server = "localhost:0";
    let alice = basic("alice", "s3cret", server);
    let bob = basic("bob", "filepw", server);
    let variable = format!(r#"{{"auths":{{"localhost:0":{{"auth":"{BOB}"}}}}}}"#);
    let table = [
        // config.json, script of the helper `x`, DOCKER_AUTH_CONFIG, options → credentials in the push request, their
        // source
        ("{}".to_owned(), helper, None, &[][..], json!({}), "none"),
        (format!("{{{file}}}"), helper, None, &[], bob.clone(), "config"),
        (format!(r#"{{{file},"credsStore":"x"}}"#), helper, None, &[], alice.clone(), "helper:x"),
        (format!(r#"{{{file},"CREDSSTORE":"x"}}"#), helper, None, &[], alice.clone(), "helper:x"),
        (format!(r#"{{{file},"credsStore":"x"}}"#), nothing, None, &[], bob.clone(), "config"),
        (
            format!(r#"{{{file},"credHelpers":{{"localhost:0":"x"}}}}"#),
            helper,
            None,
            &[],
            alice.clone(),
            "helper:x",
        ),
        (
            format!(r#"{{{file},"credsStore":"x","credHelpers":{{"localhost:0":""}}}}"#),
            helper,
            None,
            &[],
            bob.clone(),
            "config",
        ),
        (r#"{"credHelpers":{"127.0.0.1:0":"x"}}"#.to_owned(), helper, None, &[], json!({}), "none"),
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
fn looks_up_docker_hub_under_its_old_address() {
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
fn warns_about_each_broken_credential_source() {
    let table = [
        (
            r#"{"credsStore":"gone"}"#,
            "credential helper `docker-credential-gone`, needed to return credentials for localhost:0, is not in PATH",
        ),
        (
            r#"{"credsStore":"x"}"#,
            "credential helper `docker-credential-x` failed to return credentials for localhost:0: boom: on stderr",
        ),
        (
            r#"{"credsStore":"junk"}"#,
            "`docker-credential-junk` failed to return credentials for localhost:0: its output is not the JSON",
        ),
        (
            r#"{"credsStore":"leaky"}"#,
            "`docker-credential-leaky` failed to return credentials for localhost:0: exit status: 1",
        ),
        (r#"{"auths":{"localhost:0":{"auth":"%%%"}}}"#, "the entry for localhost:0 in `"),
        (r#"{"auths":"#, "config.json` is not valid JSON"),
        (
            r#"{"auths":{"localhost:0":{"auth":5}}}"#,
            "config.json` does not have the form that docker expects",
        ),
        (
            r#"{"auths":{"localhost:0":"Ym9iOmZpbGVwdw=="}}"#,
            "config.json` does not have the form that docker expects",
        ),
        (
            r#"{"credHelpers":{"localhost:0":5}}"#,
            "config.json` is not the name of a credential helper (`credHelpers`)",
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
    assert!(run.stderr.contains("warning: cannot parse DOCKER_AUTH_CONFIG"), "{run}");
    assert!(!run.to_string().contains("hunter2"), "{run}");
}

#[test]
fn reports_helpers_that_are_not_executable() {
    let missing = "`docker-credential-x`, needed to return credentials for localhost:0, is not in PATH";
    for is_directory in [false, true] {
        let env = TestEnv::new().with_config(r#"{"credsStore":"x"}"#);
        let path = env.path("bin/docker-credential-x");
        let made = if is_directory { fs::create_dir(&path) } else { fs::write(&path, "no program") };
        made.unwrap();
        let (sent, run) = push(&env, &[], IMAGE, None);
        assert_eq!(sent, json!({}));
        let told = if is_directory { "is a directory" } else { "is not executable" };
        let told = format!("`{}` {told}", path.display());
        assert!(run.stderr.contains(missing) && run.stderr.contains(&told), "{run}");
    }
}

#[test]
fn accepts_the_answer_of_a_helper_that_closes_stdin() {
    let env = TestEnv::new()
        .with_config(r#"{"credsStore":"x"}"#)
        .with_helper("x", r#"exec 0<&-; printf '{"Username":"alice","Secret":"s3cret"}'"#);
    for _ in 0..20 {
        assert_eq!(push(&env, &[], IMAGE, None).0["username"], "alice");
    }
}

/// The script of a credential helper that starts a child process, and then hangs.
pub const HANGS: &str = r#"sleep 1000 & echo $$ $! >"$HOME/new"; mv "$HOME/new" "$HOME/processes"; wait"#;

/// Waits until the helper with the script [`HANGS`] has started its child process.
pub fn wait_until_started(env: &TestEnv) {
    wait_for("the helper starts", || exists(&env.path("home/processes")).then_some(()));
}

/// Waits until the helper with the script [`HANGS`] and its child process have exited.
pub fn wait_until_ended(env: &TestEnv) {
    let processes = fs::read_to_string(env.path("home/processes")).expect("the helper was started");
    assert_eq!(processes.split_whitespace().count(), 2, "{processes}");
    // A zombie counts as exited, since orphans remain zombies if no process reaps them.
    let is_gone = |process: &str| match fs::read_to_string(format!("/proc/{process}/stat")) {
        Ok(stat) => stat.contains(") Z "),
        Err(_) => true,
    };
    wait_for("the helper and its child process end", || {
        processes.split_whitespace().all(is_gone).then_some(())
    });
}

#[test]
fn names_a_slow_helper_and_ends_it_on_sigterm() {
    let env = TestEnv::new().with_config(r#"{"credsStore":"x"}"#).with_helper("x", HANGS);
    let engine = FakeEngine::start();
    let mut child = env.command(&engine).args(["regpush", IMAGE]).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    let lines: Vec<String> = stderr.by_ref().take(2).map(Result::unwrap).collect();
    let waiting = "waiting for docker-credential-x to return credentials for localhost:0 …".to_owned();
    assert_eq!(lines, [format!("pushing {IMAGE}"), waiting]);
    wait_until_started(&env);
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    wait_until_ended(&env);
}

/// At a terminal a credential helper runs in the plugin's process group, so that the helper can prompt at the terminal.
#[test]
fn sigterm_at_a_terminal_ends_a_helper_and_its_children() {
    // The helper ignores SIGHUP, which Linux sends when the plugin, as the leader of the terminal session, exits.
    let script = format!("trap '' HUP; {HANGS}");
    let env = TestEnv::new().with_config(r#"{"credsStore":"x"}"#).with_helper("x", &script);
    let engine = FakeEngine::start();
    let terminal = env.at_terminal(&engine, "xterm", &["regpush", IMAGE]);
    terminal.wait_for("waiting for docker-credential-x to return credentials for localhost:0 …");
    wait_until_started(&env);
    kill(Pid::from_raw(terminal.process()), Signal::SIGTERM).unwrap();
    assert_eq!(terminal.finish().status, 143);
    wait_until_ended(&env);
}

/// The terminal's SIGINT kills the helper, but not the background processes that the helper started. The plugin must
/// kill these processes.
#[test]
fn ctrl_c_ends_a_helper_and_its_children() {
    let script = format!("trap '' HUP; {HANGS}");
    let env = TestEnv::new().with_config(r#"{"credsStore":"x"}"#).with_helper("x", &script);
    let engine = FakeEngine::start();
    let mut terminal = env.at_terminal(&engine, "xterm", &["regpush", IMAGE]);
    terminal.wait_for("waiting for docker-credential-x to return credentials for localhost:0 …");
    wait_until_started(&env);
    terminal.type_in("\x03");
    let ended = terminal.finish();
    assert_eq!(ended.status, 130, "{}", ended.text);
    assert!(!ended.text.contains("warning"), "the helper did not fail: {}", ended.text);
    wait_until_ended(&env);
}

#[test]
fn gives_up_a_hanging_helper_after_30_s_without_a_terminal() {
    let env = TestEnv::new().with_config(r#"{"credsStore":"x"}"#).with_helper("x", HANGS);
    let started = Instant::now();
    let (sent, run) = push(&env, &[], IMAGE, None);
    assert!(started.elapsed() > Duration::from_secs(29), "it may be slow: {:?}", started.elapsed());
    assert_eq!((sent, run.status), (json!({}), 0), "{run}");
    let told =
        "`docker-credential-x` failed to return credentials for localhost:0: it did not answer within 30s";
    assert!(run.stderr.contains(told), "{run}");
    wait_until_ended(&env);
}

#[test]
fn names_a_misbehaving_helper_without_leaking_its_secret() {
    let json = r#"{"Username":"alice","Secret":"hunter2"}"#;
    let html = "<!DOCTYPE html><p>502";
    let table = [
        // script of the helper, expected reason in the warning
        ("head -c 100000000 /dev/zero; exit 0", "its output is longer than 1024 kB"),
        ("head -c 100000000 /dev/zero >&2; exit 1", "exit status: 1"),
        (&format!("echo '{html}'"), "its output is not the JSON of a credential helper"),
        (&format!("echo '{html}'; exit 1"), "it printed an HTML page"),
        (&format!("echo '{json}'; echo my hunter2 >&2; exit 1"), "my ***"),
        ("echo 'login failed, password: hunter2' >&2; exit 1", "login failed, password: ***"),
        (&format!("echo '{json}' >&2; exit 1"), "exit status: 1"),
        ("kill -9 $$", "signal: 9"),
    ];
    for (script, told) in table {
        let env = TestEnv::new().with_config(r#"{"credsStore":"x"}"#).with_helper("x", script);
        let (sent, run) = push(&env, &[], IMAGE, None);
        assert_eq!((sent, run.status), (json!({}), 0), "{script}: {run}");
        let told = format!(
            "warning: credential helper `docker-credential-x` failed to return credentials for localhost:0: {told}"
        );
        assert!(run.stderr.contains(&told), "{script}: {run}");
        assert!(!run.to_string().contains("hunter2"), "{run}");
    }
    // The plugin does not print the stderr of a helper that exits with status 0.
    let script = format!("echo '{json}'; echo the password is hunter2 >&2");
    let env = TestEnv::new().with_config(r#"{"credsStore":"x"}"#).with_helper("x", &script);
    let (sent, run) = push(&env, &[], IMAGE, None);
    assert_eq!((&sent["password"], run.status), (&json!("hunter2"), 0), "{run}");
    assert!(!run.to_string().contains("hunter2"), "{run}");
}

/// A helper may start a background process that inherits the helper's stdout and keeps running.
#[test]
fn accepts_the_answer_of_a_helper_whose_child_keeps_stdout_open() {
    let script = r#"sleep 1000 & echo $! >"$HOME/child"; echo '{"Username":"alice","Secret":"s3cret"}'"#;
    let env = TestEnv::new().with_config(r#"{"credsStore":"x"}"#).with_helper("x", script);
    // If the plugin waited for the child process, the helper would reach its time limit, and the push would be anonymous.
    let (sent, _) = push(&env, &[], IMAGE, None);
    assert_eq!(sent["username"], "alice");
    let child = fs::read_to_string(env.path("home/child")).unwrap();
    // The plugin does not kill the child process of a successful helper, so the test does.
    kill(Pid::from_raw(child.trim().parse().unwrap()), Signal::SIGKILL).unwrap();
}

#[test]
fn refusal_names_registry_user_source_and_remedy() {
    let file = format!(r#"{{"auths":{{"localhost:0":{{"auth":"{BOB}"}}}}}}"#);
    let helper = r#"{"credsStore":"x"}"#;
    let wrong = "unauthorized: authentication required";
    let variable = format!(r#"{{"auths":{{"localhost:0":{{"auth":"{BOB}"}}}}}}"#);
    let denied = "denied: requested access to the resource is denied";
    let table = [
        (
            "{}",
            None,
            "no basic auth credentials",
            vec![
                "localhost:0 requires authentication",
                "no credentials",
                "docker login localhost:0",
                "--password-stdin",
                "DOCKER_AUTH_CONFIG",
            ],
        ),
        (
            "{}",
            None,
            denied,
            vec!["localhost:0 requires authentication", "no credentials", "docker login localhost:0"],
        ),
        (
            file.as_str(),
            None,
            wrong,
            vec!["localhost:0 does not accept user `bob` from `", "config.json`", "docker login localhost:0"],
        ),
        (helper, None, wrong, vec!["user `alice` from the credential helper `docker-credential-x`"]),
        (
            &file,
            None,
            denied,
            vec!["localhost:0 denies access for user `bob`", "use an account that can write to it"],
        ),
        (
            "{}",
            Some(variable.as_str()),
            wrong,
            vec!["user `bob` from DOCKER_AUTH_CONFIG", "overrides `docker login`"],
        ),
        (
            r#"{"credsStore":"gone","auths":{"localhost:0":{"auth":"Ym9iOmZpbGVwdw=="}}}"#,
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
            vec![
                "no credentials were found for it (credential helper `docker-credential-gone`",
                "hint: fix the credential helper first",
            ],
        ),
        (
            r#"{"auths":{},}"#,
            None,
            "no basic auth credentials",
            vec!["no credentials were found for it (`", "hint: fix config.json first"],
        ),
        (
            "{}",
            Some("{"),
            "no basic auth credentials",
            vec!["cannot parse DOCKER_AUTH_CONFIG", "hint: fix or unset DOCKER_AUTH_CONFIG"],
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
        assert_eq!(engine.pushes().len(), 1, "without a prompt there is no second push");
        for word in words {
            assert!(run.stderr.contains(word), "no {word:?}: {run}");
        }
    }
}

#[test]
fn retries_once_if_credentials_expire_in_mid_push() {
    let moved =
        [r#"{"status":"Pushed","id":"aa"}"#.to_owned(), refusal("unauthorized: authentication required")];
    let engine = FakeEngine::start().serving_pushed().on_next_push(Reply::stream(&moved)).on_next_push(
        Reply::stream([r#"{"status":"Layer already exists","id":"aa"}"#.to_owned(), digest_line("1")]),
    );
    let env = TestEnv::new().with_config(&format!(r#"{{"auths":{{"localhost:0":{{"auth":"{BOB}"}}}}}}"#));
    let pushed = run(env.command(&engine).args(["regpush", "--format", "json", IMAGE]));
    assert_eq!(pushed.status, 0, "{pushed}");
    assert_eq!(pushed.json()["attempts"], 2);

    let engine = FakeEngine::start().on_next_push(Reply::stream(&moved)).on_next_push(Reply::stream(&moved));
    let refused = run(env.command(&engine).args(["regpush", IMAGE]));
    assert_eq!(refused.status, 3, "only one retry: {refused}");
}

/// Neither the password nor its base64 encodings appear in the output, in the plugin's arguments or in the helper's
/// environment.
#[test]
fn shows_no_secret_in_output_or_to_helpers() {
    let seen = r#"
        tr '\0' '\n' </proc/self/environ >"$HOME/seen"; tr '\0' '\n' </proc/$PPID/cmdline >>"$HOME/seen"
        echo '{"Username":"alice","Secret":"hunter2secret"}'"#;
    let env = TestEnv::new().with_config(r#"{"credHelpers":{"localhost:0":"x"}}"#).with_helper("x", seen);
    let engine = FakeEngine::start()
        .with_ping(Ping::Version("1.41"))
        .on_every_push(Reply::stream([refusal("unauthorized: authentication required")]));
    let variable = r#"{"auths":{"elsewhere":{"auth":"Ym9iOmh1bnRlcjJzZWNyZXQ="}}}"#;
    let mut command = env.command(&engine);
    command.args(["-D", "regpush", "--format", "json", IMAGE]).env("DOCKER_AUTH_CONFIG", variable);
    let run = run(&mut command);
    assert!(
        run.stderr.contains("debug: POST /v1.41/images/localhost:0/app/push?tag=1&tlsVerify=false"),
        "{run}"
    );
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
fn given_credentials_are_not_written_to_config() {
    let env = TestEnv::new();
    push(&env, &["-u", "carol", "--password-stdin"], IMAGE, None);
    assert!(!exists(&env.config_file()));
}

#[test]
fn warns_that_docker_auth_config_overrides_stored_credentials() {
    let variable = format!(r#"{{"auths":{{"localhost:0":{{"auth":"{BOB}"}}}}}}"#);
    let hidden = "DOCKER_AUTH_CONFIG overrides the credentials for localhost:0 in ";
    let table = [
        (format!(r#"{{"auths":{{"localhost:0":{{"auth":"{BOB}"}}}}}}"#), Some("`")),
        // docker writes an empty entry for a registry if a helper stores the credentials for this registry.
        (
            r#"{"auths":{"localhost:0":{}},"credsStore":"x"}"#.to_owned(),
            Some("the credential helper `docker-credential-x`"),
        ),
        (r#"{"auths":{"localhost:0":{}}}"#.to_owned(), None),
        (r#"{"auths":{"127.0.0.1:0":{"auth":"eDp5"}}}"#.to_owned(), None),
    ];
    for (config, place) in table {
        let env = TestEnv::new().with_config(&config);
        let (sent, run) = push(&env, &[], IMAGE, Some(&variable));
        assert_eq!(sent["username"], "bob");
        match place {
            Some(place) => assert!(run.stderr.contains(&format!("{hidden}{place}")), "{config}: {run}"),
            None => assert!(!run.stderr.contains(hidden), "{config}: {run}"),
        }
    }
}

/// Engines and registries may quote received credentials in error messages.
#[test]
fn redacts_secrets_quoted_by_the_engine() {
    let login = ["-u", "bob", "--password-stdin", "--format", "json"];
    let env = TestEnv::new();
    let header =
        "eyJ1c2VybmFtZSI6ImJvYiIsInBhc3N3b3JkIjoidHlwZWQgPHB3PiIsInNlcnZlcmFkZHJlc3MiOiJsb2NhbGhvc3Q6MCJ9";
    let stream = [
        r#"{"status":"logging in with typed <pw>"}"#.to_owned(),
        r#"{"status":"typed <pw>","id":"typed <pw>"}"#.to_owned(),
        refusal(&format!("unauthorized: Basic Ym9iOnR5cGVkIDxwdz4= of {header}: 'typed <pw>' is wrong")),
    ];
    let html = "<html>typed <pw></html>";
    let replies = [
        (Reply::stream(stream), "Basic *** of ***: '***' is wrong"),
        (Reply::json(500, r#"{"message":"login with typed <pw> failed"}"#), "login with *** failed"),
        (Reply::json(502, html), "<html>***</html>"),
        (Reply::stream([html]), "<html>***</html>"),
        (Reply::stream([r#"{"status":["typed <pw>"]}"#]), "***"),
    ];
    for (reply, told) in replies {
        let engine = FakeEngine::start().on_every_push(reply);
        let mut command = env.command(&engine);
        command.args(["regpush", "--progress", "plain"]).args(login).arg(IMAGE);
        let run = run_with_stdin(&mut command, b"typed <pw>\n");
        assert_eq!(
            engine.pushes()[0].header("x-registry-auth"),
            Some(header),
            "the header is the one that the replies quote"
        );
        assert_ne!(run.status, 0, "{run}");
        assert!(run.stderr.contains(told), "{told}: {run}");
        for secret in ["typed <pw>", "Ym9iOnR5cGVkIDxwdz4=", header] {
            assert!(!run.to_string().contains(secret), "{run}");
        }
    }
}
