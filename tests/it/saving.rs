//! Tests that the plugin saves credentials in the configured credential store or in config.json, and keeps all other
//! fields of config.json.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::engine::{DIGEST, FakeEngine, Reply, digest_line, no_such_image, refusal};
use crate::support::env::{Run, TestEnv, exists, run, run_with_stdin};

const IMAGE: &str = "localhost:1/app:1";
/// An image in a registry that cannot answer, since no program can listen on port 0.
const NOWHERE: &str = "localhost:1/app:1";
const HOST: &str = "localhost:1";
/// The base64 encoding of `alice:s3cret`.
const ALICE: &str = "YWxpY2U6czNjcmV0";
/// The config.json that docker writes for the credentials [`ALICE`].
const DOCKERS_FILE: &str =
    "{\n\t\"auths\": {\n\t\t\"localhost:1\": {\n\t\t\t\"auth\": \"YWxpY2U6czNjcmV0\"\n\t\t}\n\t}\n}";
/// The script of a credential helper that writes received credentials to `$HOME/stored`.
const KEEPS: &str = r#"test "$1" = store && cat >"$HOME/stored""#;
const WARNING: &str = "WARNING! Your credentials are stored unencrypted in '";

/// Starts an engine that refuses the first push, answers the `/auth` request with `checked`, and answers further pushes
/// with `pushes`.
fn asked(pushes: &[Reply], checked: &str) -> FakeEngine {
    let engine = FakeEngine::start().on_next_push(Reply::stream([refusal("no basic auth credentials")]));
    let engine = engine.on("POST /v1.41/auth", Reply::json(200, checked));
    pushes.iter().fold(engine, |engine, push| engine.on_next_push(push.clone()))
}

/// Runs the plugin, and types `alice` and `s3cret` at the prompts. Returns the exit status and the terminal output.
fn typed(env: &TestEnv, engine: &FakeEngine, arguments: &[&str]) -> (u32, String) {
    let mut terminal = env.at_terminal(engine, "xterm", arguments);
    terminal.wait_for("Username");
    terminal.type_in("alice\r");
    terminal.wait_for("Password: ");
    terminal.type_in("s3cret\r");
    let ended = terminal.finish();
    assert!(ended.restored && !ended.text.contains("s3cret"), "{}", ended.text);
    (ended.status, ended.text)
}

/// Runs `auth --login` with the password on stdin.
fn log_in(env: &TestEnv, engine: &FakeEngine, registry: &str) -> Run {
    let mut command = env.command(engine);
    command.args(["regpush", "auth", "--login", "-u", "alice", "--password-stdin", registry]);
    run_with_stdin(&mut command, b"s3cret\n")
}

fn accepting() -> FakeEngine {
    FakeEngine::with_info().on("POST /v1.41/auth", Reply::json(200, "{}"))
}

fn config(env: &TestEnv) -> String {
    fs::read_to_string(env.config_file()).expect("config.json")
}

fn mode(env: &TestEnv) -> u32 {
    fs::metadata(env.config_file()).expect("config.json").permissions().mode() & 0o777
}

/// Asserts that docker's configuration directory contains nothing except config.json.
fn assert_only_config(env: &TestEnv) {
    let names = fs::read_dir(env.config_directory()).expect("a directory");
    let names = names.map(|entry| entry.expect("a name").file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["config.json"]);
}

#[test]
fn saves_typed_credentials_as_docker_does() {
    let env = TestEnv::new();
    let engine = asked(&[Reply::stream([digest_line("1")])], "{}");
    let (status, text) = typed(&env, &engine, &["regpush", "--verify", "never", "--save-credentials", IMAGE]);
    assert_eq!(status, 0, "{text}");
    assert_eq!(config(&env), DOCKERS_FILE);
    assert_eq!(mode(&env), 0o600);
    assert!(
        text.contains(WARNING) && text.contains("https://docs.docker.com/go/credential-store/"),
        "{text}"
    );
    assert!(text.contains("saved the credentials for localhost:1 in `"), "{text}");
    assert_only_config(&env);

    // The next push uses the saved credentials.
    let engine = FakeEngine::start().on_every_push(Reply::stream([digest_line("1")]));
    run(env.command(&engine).args(["regpush", "--verify", "never", IMAGE]));
    assert_eq!(engine.pushes()[0].registry_auth()["password"], "s3cret");
}

#[test]
fn stores_credentials_in_the_helper_and_marks_config() {
    let table = [
        // config.json before saving, expected config.json after saving
        (r#"{"credsStore":"x"}"#, json!({"credsStore": "x", "auths": {HOST: {}}})),
        (r#"{"credHelpers":{"localhost:1":"x"}}"#, json!({"credHelpers": {HOST: "x"}, "auths": {HOST: {}}})),
        // When the plugin saves credentials to a helper, the plugin removes plain-text credentials from config.json.
        (
            r#"{"credsStore":"x","auths":{"localhost:1":{"auth":"b2xkOm9sZA==","email":"e"}}}"#,
            json!({"credsStore": "x", "auths": {HOST: {"email": "e"}}}),
        ),
    ];
    for (before, after) in table {
        let env = TestEnv::new().with_config(before).with_helper("x", KEEPS);
        let engine = accepting();
        let run = log_in(&env, &engine, HOST);
        assert_eq!(run.status, 0, "{run}");
        assert_eq!(serde_json::from_str::<Value>(&config(&env)).unwrap(), after);
        let stored = fs::read_to_string(env.path("home/stored")).unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&stored).unwrap(),
            json!({"ServerURL": HOST, "Username": "alice", "Secret": "s3cret"})
        );
        assert!(stored.ends_with("}\n"), "{stored:?}");
        assert!(
            run.stderr.contains("credentials for localhost:1 in the credential helper `docker-credential-x`"),
            "{run}"
        );
        assert!(!run.stderr.contains("WARNING"), "{run}");
    }
}

/// docker looks for an installed credential store only while config.json has no credentials and names no helper. The
/// plugin adds an entry for the registry, so the plugin must also write the store's name to config.json.
#[test]
fn writes_a_detected_store_to_config() {
    let env = TestEnv::new().with_program("pass", "").with_helper("pass", KEEPS);
    let engine = accepting();
    assert_eq!(log_in(&env, &engine, HOST).status, 0);
    let config: Value = serde_json::from_str(&config(&env)).unwrap();
    assert_eq!(config, json!({"auths": {HOST: {}}, "credsStore": "pass"}));
}

#[test]
fn saves_the_identity_token_instead_of_the_password() {
    let token = r#"{"IdentityToken":"idtok","Status":"Login Succeeded"}"#;
    let env = TestEnv::new();
    let engine = FakeEngine::with_info().on("POST /v1.41/auth", Reply::json(200, token));
    let kept = log_in(&env, &engine, HOST);
    let config: Value = serde_json::from_str(&config(&env)).unwrap();
    assert_eq!(config["auths"][HOST], json!({"auth": "YWxpY2U6", "identitytoken": "idtok"}));
    assert!(!kept.stderr.contains("WARNING"), "docker warns about passwords only: {kept}");

    let env = TestEnv::new().with_config(r#"{"credsStore":"x"}"#).with_helper("x", KEEPS);
    let engine = FakeEngine::with_info().on("POST /v1.41/auth", Reply::json(200, token));
    assert_eq!(log_in(&env, &engine, HOST).status, 0);
    let stored: Value = serde_json::from_slice(&fs::read(env.path("home/stored")).unwrap()).unwrap();
    assert_eq!(stored, json!({"ServerURL": HOST, "Username": "<token>", "Secret": "idtok"}));
}

#[test]
fn saves_only_credentials_that_the_registry_accepted() {
    let denied = || Reply::stream([refusal("denied: requested access to the resource is denied")]);
    let engine = asked(&[denied()], "{}");
    let env = TestEnv::new();
    let (status, text) = typed(&env, &engine, &["regpush", "--verify", "never", "--save-credentials", IMAGE]);
    assert_eq!(status, 3, "{text}");
    assert_eq!(config(&env), DOCKERS_FILE, "the credentials are valid, even without the permission to push");

    for (given, reply) in [
        ("wrong for the push", Reply::stream([refusal("unauthorized: authentication required")])),
        ("not asked for its login", Reply::stream([refusal("quota exceeded")])),
    ] {
        let env = TestEnv::new();
        let engine = FakeEngine::start()
            .on_every_push(reply)
            .allow("GET /v1.41/images/localhost:1/app:1/json", no_such_image());
        let mut command = env.command(&engine);
        command.args(["regpush", "--save-credentials", "-u", "alice", "--password-stdin", NOWHERE]);
        assert_ne!(run_with_stdin(&mut command, b"s3cret").status, 0, "{given}");
        assert!(!exists(&env.config_file()), "{given}");
    }

    let env = TestEnv::new();
    let wrong =
        r#"{"message":"login attempt to http://localhost:1/v2/ failed with status: 401 Unauthorized"}"#;
    let engine = FakeEngine::with_info().on("POST /v1.41/auth", Reply::json(500, wrong));
    let refused = log_in(&env, &engine, HOST);
    assert_eq!(refused.status, 3, "{refused}");
    assert!(!exists(&env.config_file()));
}

/// A registry may answer the check of `--if-exists` without credentials, so an existing image does not prove that the
/// given credentials are valid.
#[test]
fn does_not_save_credentials_that_were_not_needed() {
    let image = json!({"Id": DIGEST}).to_string();
    let names = json!({"Descriptor": {"digest": DIGEST, "size": 528}}).to_string();
    let engine = FakeEngine::start()
        .on("GET /v1.41/images/localhost:1/app:1/json", Reply::json(200, &image))
        .on("GET /v1.41/distribution/localhost:1/app:1/json", Reply::json(200, &names));
    let env = TestEnv::new();
    let mut command = env.command(&engine);
    command.args([
        "regpush",
        "--if-exists",
        "update",
        "--save-credentials",
        "-u",
        "alice",
        "--password-stdin",
        NOWHERE,
    ]);
    let unchanged = run_with_stdin(&mut command, b"wrong");
    assert!(unchanged.status == 0 && unchanged.stderr.contains("unchanged localhost:1/app:1"), "{unchanged}");
    assert!(!exists(&env.config_file()));
}

#[test]
fn saves_given_credentials_only_with_save_credentials() {
    let push = |options: &[&str], answer: &str| {
        let env = TestEnv::new();
        let mut engine = FakeEngine::start().on_every_push(Reply::stream([digest_line("1")]));
        if !options.is_empty() {
            engine = engine.on("POST /v1.41/auth", Reply::json(200, answer));
        }
        let mut command = env.command(&engine);
        command
            .args(["regpush", "-q", "--verify", "never", "-u", "alice", "--password-stdin"])
            .args(options)
            .arg(IMAGE);
        let run = run_with_stdin(&mut command, b"s3cret\n");
        assert_eq!(run.status, 0, "{run}");
        (env, run)
    };
    let (env, run) = push(&["--save-credentials"], "{}");
    assert_eq!(config(&env), DOCKERS_FILE);
    assert!(run.stderr.contains(WARNING), "{run}");
    // As `docker login` does, saves the token that the registry issues for the password.
    let (env, run) = push(&["--save-credentials"], r#"{"IdentityToken":"idtok"}"#);
    let saved: Value = serde_json::from_str(&config(&env)).unwrap();
    assert_eq!(saved["auths"][HOST], json!({"auth": "YWxpY2U6", "identitytoken": "idtok"}), "{run}");
    assert!(!exists(&push(&[], "").0.config_file()));
}

/// After a successful push, a failure to save the credentials is only a warning.
#[test]
fn failed_save_is_a_warning_of_push_and_an_error_of_auth() {
    let table = [
        // config.json, expected message
        (r#"{"credsStore":"x"}"#, "failed to store credentials for localhost:1: locked"),
        (
            r#"{"credsStore":"gone"}"#,
            "`docker-credential-gone`, needed to store credentials for localhost:1, is not in PATH",
        ),
        ("{ half", "config.json` is not valid JSON"),
        ("\u{feff}{}", "config.json` is UTF-8 with a byte order mark, which docker cannot read"),
        (r#"{"auths":[]}"#, "`auths` in `"),
        (r#"{"auths":{"localhost:1":null,"localhost:1":null}}"#, "it has several entries for the registry"),
    ];
    for (text, told) in table {
        let env = TestEnv::new().with_config(text).with_helper("x", "echo locked; exit 1");
        let engine = FakeEngine::start()
            .allow("POST /v1.41/auth", Reply::json(200, "{}"))
            .on_every_push(Reply::stream([digest_line("1")]));
        let mut command = env.command(&engine);
        command.args([
            "regpush",
            "--format",
            "json",
            "--verify",
            "never",
            "-u",
            "alice",
            "--password-stdin",
            "--save-credentials",
            IMAGE,
        ]);
        let pushed = run_with_stdin(&mut command, b"s3cret\n");
        assert_eq!(pushed.status, 0, "{pushed}");
        let warned = "cannot save the credentials for localhost:1: ";
        let warnings = pushed.json()["warnings"].as_array().unwrap().clone();
        let warnings: Vec<&str> = warnings.iter().filter_map(Value::as_str).collect();
        assert!(
            warnings.iter().any(|line| line.starts_with(warned) && line.contains(told)),
            "{text}: {pushed}"
        );
        assert!(pushed.stderr.contains(&format!("warning: {warned}")), "{pushed}");

        let kept = if told.contains("several entries") || told.contains("to store") {
            log_in(&env, &accepting(), HOST)
        } else {
            // `auth` reports the error in config.json before prompting or sending a request to the engine.
            let words = ["regpush", "auth", "--login", "-u", "alice", "--password-stdin", HOST];
            run_with_stdin(env.without_engine().args(words), b"s3cret\n")
        };
        assert_eq!(kept.status, 1, "{kept}");
        assert!(kept.stderr.contains(told) && kept.stderr.contains("hint: "), "{text}: {kept}");
        assert_eq!(config(&env), text, "not a byte of it is lost");
        assert_only_config(&env);
    }
}

#[test]
fn follows_symlinks_and_makes_config_private() {
    let before = "{\n  \"zeta\": [1.50, {}],\n  \"auths\": {\n    \"a\": {\n      \"auth\": \"eDp5\"\n    }\n  },\n  \"alpha\": null\n}\n";
    let after = "{\n  \"zeta\": [1.50, {}],\n  \"auths\": {\n    \"a\": {\n      \"auth\": \"eDp5\"\n    },\n    \"localhost:1\": {\n      \"auth\": \"YWxpY2U6czNjcmV0\"\n    }\n  },\n  \"alpha\": null\n}\n";
    let env = TestEnv::new();
    fs::create_dir(env.path("dotfiles")).unwrap();
    fs::write(env.path("dotfiles/docker.json"), before).unwrap();
    fs::set_permissions(env.path("dotfiles/docker.json"), fs::Permissions::from_mode(0o644)).unwrap();
    symlink("../dotfiles/docker.json", env.config_file()).unwrap();
    let engine = accepting();
    assert_eq!(log_in(&env, &engine, HOST).status, 0);
    assert_eq!(config(&env), after);
    assert_eq!(mode(&env), 0o600, "it contains a password now");
    assert!(env.config_file().is_symlink());
    assert_only_config(&env);
    assert_eq!(fs::read_dir(env.path("dotfiles")).unwrap().count(), 1, "no lock or temporary file is left");

    // config.json is a symlink to a file in a directory that does not exist yet.
    let env = TestEnv::new();
    symlink("elsewhere/docker.json", env.config_file()).unwrap();
    let engine = accepting();
    assert_eq!(log_in(&env, &engine, HOST).status, 0);
    assert_eq!(
        fs::read_to_string(env.config_directory().join("elsewhere/docker.json")).unwrap(),
        DOCKERS_FILE
    );
}

#[test]
fn does_not_rewrite_credentials_already_stored() {
    let env = TestEnv::new().with_config(&format!(r#"{{"auths":{{"localhost:1":{{"auth":"{ALICE}"}}}}}}"#));
    fs::set_permissions(env.config_file(), fs::Permissions::from_mode(0o644)).unwrap();
    let modified = || fs::metadata(env.config_file()).unwrap().modified().unwrap();
    let before = modified();
    let engine = accepting();
    let kept = log_in(&env, &engine, HOST);
    assert_eq!(kept.status, 0, "{kept}");
    assert_eq!((modified(), mode(&env)), (before, 0o600), "unchanged, but private");
    assert!(!kept.stderr.contains("WARNING"), "{kept}");
}

/// The helper has stored the credentials, so a failure to change the registry's entry in config.json is only a warning.
#[test]
fn failed_mark_in_config_is_a_warning() {
    let old = r#"{"auth":"b2xkOm9sZA=="}"#;
    let text = &format!(r#"{{"auths":{{"localhost:1":{old},"localhost:1":{old}}},"credsStore":"x"}}"#);
    let env = TestEnv::new().with_config(text).with_helper("x", KEEPS);
    let engine = accepting();
    let kept = log_in(&env, &engine, HOST);
    assert_eq!(kept.status, 0, "{kept}");
    assert!(
        kept.stderr.contains("credentials for localhost:1 in the credential helper `docker-credential-x`"),
        "{kept}"
    );
    assert!(kept.stderr.contains("warning: the credential helper has the credentials, but config.json has no entry for them: cannot change `"), "{kept}");
    assert!(exists(&env.path("home/stored")) && config(&env) == *text);
}

#[test]
fn warns_if_docker_auth_config_overrides_saved_credentials() {
    let variable = json!({"auths": {HOST: {"auth": "ZXZlOng="}}}).to_string();
    let hidden = "warning: DOCKER_AUTH_CONFIG overrides the saved credentials";
    let env = TestEnv::new();
    let engine = FakeEngine::start()
        .on("POST /v1.41/auth", Reply::json(200, "{}"))
        .on_every_push(Reply::stream([digest_line("1")]));
    let mut command = env.command(&engine);
    command.args([
        "regpush",
        "--verify",
        "never",
        "-u",
        "alice",
        "--password-stdin",
        "--save-credentials",
        IMAGE,
    ]);
    let pushed = run_with_stdin(command.env("DOCKER_AUTH_CONFIG", &variable), b"s3cret");
    assert!(pushed.status == 0 && pushed.stderr.contains(hidden), "{pushed}");
    assert_eq!(config(&env), DOCKERS_FILE);

    let engine = accepting();
    let mut command = env.command(&engine);
    command.args(["regpush", "auth", "--login", "-u", "alice", "--password-stdin", HOST]);
    let kept = run_with_stdin(command.env("DOCKER_AUTH_CONFIG", &variable), b"s3cret");
    assert!(kept.status == 0 && kept.stderr.contains(hidden), "{kept}");
}

/// The number of registries for which each of two processes saves credentials.
const LOGINS: usize = 200;

/// While two processes write config.json, the file is always complete. Finally the file contains the credentials of
/// both processes.
#[test]
fn concurrent_writers_lose_no_credentials() {
    let env = TestEnv::new().with_config("{\n\t\"first\": 1,\n\t\"auths\": {},\n\t\"last\": [true]\n}");
    let is_over = AtomicBool::new(false);
    let reads = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !is_over.load(Ordering::SeqCst) {
                let text = config(&env);
                let value: Value =
                    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
                assert_eq!((&value["first"], &value["last"]), (&json!(1), &json!([true])));
                reads += 1;
            }
            reads
        });
        let write = |letter: char| {
            let env = &env;
            move || {
                for number in 0..LOGINS {
                    let engine = accepting();
                    let kept = log_in(env, &engine, &format!("{letter}{number}.example.com"));
                    assert_eq!(kept.status, 0, "{kept}");
                }
            }
        };
        let writers = [scope.spawn(write('a')), scope.spawn(write('b'))];
        let ended = writers.map(|writer| writer.join());
        is_over.store(true, Ordering::SeqCst);
        assert!(ended.iter().all(Result::is_ok));
        reader.join().expect("the file was always complete")
    });
    assert!(reads > LOGINS, "{reads}");
    let text = config(&env);
    let value: Value = serde_json::from_str(&text).unwrap();
    let auths = value["auths"].as_object().unwrap();
    assert_eq!(auths.len(), 2 * LOGINS);
    assert!(auths.values().all(|entry| entry["auth"] == ALICE));
    let place = |key: &str| text.find(key).unwrap();
    assert!(place("\"first\"") < place("\"auths\"") && place("\"auths\"") < place("\"last\""), "{text}");
    assert_eq!(mode(&env), 0o600);
    assert_only_config(&env);
}

/// A process that is killed while saving leaves either the old or the new config.json.
#[test]
fn killed_writer_leaves_a_complete_file() {
    let env = TestEnv::new().with_config(r#"{"auths":{"first.example.com":{"auth":"eDp5"}}}"#);
    // Starts `auth --login` for a registry, and returns when the fake engine has accepted the credentials.
    let start = |registry: &str| {
        let engine = FakeEngine::with_info().on("POST /v1.41/auth", Reply::json(200, "{}"));
        let mut command = env.command(&engine);
        command.args(["regpush", "auth", "--login", "-u", "alice", "--password-stdin", registry]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"s3cret\n").unwrap();
        engine.wait_for_request("POST /v1.41/auth");
        (child, engine)
    };
    let (mut kept, mut time_to_save) = (0, Duration::ZERO);
    for number in 0..120 {
        // The time to save depends on the load of the machine, so the test measures the time several times.
        if number % 20 == 0 {
            let (mut child, _engine) = start(&format!("unharmed{number}.example.com"));
            let accepted = Instant::now();
            assert!(child.wait().unwrap().success());
            time_to_save = accepted.elapsed();
            kept += 1;
        }
        let (mut child, _engine) = start(&format!("r{number}.example.com"));
        // Kills each process at a different moment between the engine's response and the exit of the process.
        let percent = number % 20 * 6 + number / 20;
        thread::sleep(time_to_save * percent / 100);
        child.kill().unwrap();
        child.wait().unwrap();
        let text = config(&env);
        let value: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{number}: {error}: {text}"));
        assert_eq!(value["auths"]["first.example.com"]["auth"], "eDp5");
        let count = value["auths"].as_object().unwrap().len() - 1;
        assert!(count == kept || count == kept + 1, "{number}: {count} after {kept}");
        kept = count;
    }
    assert!(kept > 6 && kept < 126, "some were saved, and some were not: {kept}");
    // The next login removes the temporary files that the killed processes left.
    let engine = accepting();
    assert_eq!(log_in(&env, &engine, HOST).status, 0);
    assert_only_config(&env);
}
