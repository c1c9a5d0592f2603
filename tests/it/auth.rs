//! Tests of `docker regpush auth`, which reports the stored credentials for a registry, and whether the registry
//! accepts these credentials.

use serde_json::{Value, json};

use crate::support::engine::{End, FakeEngine, Reply};
use crate::support::env::{Run, TestEnv, run, run_with_stdin};

/// The base64 encoding of `bob:filepw`.
const BOB: &str = "Ym9iOmZpbGVwdw==";
const WRONG: &str =
    r#"{"message":"login attempt to http://localhost:1/v2/ failed with status: 401 Unauthorized"}"#;
const AUTH: &str = "POST /v1.41/auth";

fn auth(env: &TestEnv, engine: &FakeEngine, arguments: &[&str]) -> Run {
    run(env.command(engine).args(["regpush", "auth"]).args(arguments))
}

fn stored(entry: &Value) -> String {
    json!({"auths": {"localhost:1": entry}}).to_string()
}

#[test]
fn reports_source_user_kind_and_acceptance_of_credentials() {
    let file = stored(&json!({"auth": BOB}));
    let token = stored(&json!({"auth": "Ym9iOg==", "identitytoken": "idtok"}));
    let refused = r#"{"message":"Get \"http://localhost:1/v2/\": dial tcp 127.0.0.1:5000: connect: connection refused"}"#;
    let alice = r#"echo '{"Username":"alice","Secret":"s3cret"}'"#;
    let table = [
        // config.json, the engine's response → exit status, row on stdout, JSON on stdout, text in stderr
        (
            file.as_str(),
            Reply::json(200, "{}"),
            0,
            "localhost:1   config    bob        password   yes",
            json!({"source": "config", "username": "bob", "kind": "password", "accepted": true, "error": null}),
            "",
        ),
        (
            &token,
            Reply::json(200, "{}"),
            0,
            "localhost:1   config    bob        identity-token   yes",
            json!({"source": "config", "username": "bob", "kind": "identity-token", "accepted": true}),
            "",
        ),
        (
            r#"{"credsStore":"x"}"#,
            Reply::json(200, "{}"),
            0,
            "localhost:1   helper:x   alice      password   yes",
            json!({"source": "helper:x", "username": "alice", "accepted": true}),
            "",
        ),
        (
            &file,
            Reply::json(500, WRONG),
            3,
            "localhost:1   config    bob        password   no",
            json!({"accepted": false, "username": "bob"}),
            "localhost:1 does not accept user `bob` from `",
        ),
        (
            &file,
            Reply::json(500, refused),
            6,
            "localhost:1   config    bob        password   unknown",
            json!({"accepted": null}),
            "cannot check the credentials for localhost:1: Get",
        ),
    ];
    for (config, reply, status, row, json, told) in table {
        let env = TestEnv::new().with_config(config).with_helper("x", alice);
        let engine = FakeEngine::with_info().on(AUTH, reply.clone()).on(AUTH, reply);
        let run = auth(&env, &engine, &["localhost:1"]);
        assert_eq!(run.status, status, "{run}");
        assert!(run.stderr.contains(told), "{run}");
        let lines: Vec<&str> = run.stdout.lines().collect();
        assert_eq!(lines.len(), 2, "{run}");
        assert!(lines[0].starts_with("REGISTRY      SOURCE"), "{run}");
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(lines[1]), words(&format!("{row} -")), "{run}");

        let run = auth(&env, &engine, &["--format", "json", "localhost:1"]);
        assert_eq!(run.status, status, "{run}");
        let line = run.json();
        assert_eq!(line["registry"], "localhost:1");
        for (key, value) in json.as_object().unwrap() {
            assert_eq!(line[key], *value, "{key}: {run}");
        }
        assert_eq!(line["error"].is_null(), status == 0, "{run}");
        assert!(!run.to_string().contains("filepw") && !run.to_string().contains("s3cret"), "{run}");
    }
}

#[test]
fn exits_3_without_credentials_and_without_an_engine() {
    let table = [
        (
            "{}",
            "cannot check credentials for localhost:1: no credentials are stored for it",
            "docker login localhost:1",
        ),
        (
            r#"{"credsStore":"gone"}"#,
            "no credentials were found for it (credential helper `docker-credential-gone`",
            "fix the credential helper first, `docker login` uses it too",
        ),
        ("{", "no credentials were found for it (`", "fix config.json first: `docker login` would overwrite"),
    ];
    for (config, told, hint) in table {
        let env = TestEnv::new().with_config(config);
        let run = run(env.without_engine().args(["regpush", "auth", "--format", "json", "localhost:1"]));
        assert_eq!(run.status, 3, "{run}");
        assert!(run.stderr.contains(told) && run.stderr.contains(hint), "{run}");
        assert_eq!((run.json()["source"].as_str(), &run.json()["accepted"]), (Some("none"), &json!(null)));
    }
}

#[test]
fn checks_given_credentials_without_saving_them() {
    let env = TestEnv::new();
    let engine = FakeEngine::with_info().on(AUTH, Reply::json(200, "{}"));
    let mut command = env.command(&engine);
    command.args(["regpush", "auth", "-u", "ci", "--password-stdin", "https://localhost:1/v2/"]);
    let run = run_with_stdin(&mut command, b" pw \r\n");
    assert_eq!(run.status, 0, "{run}");
    let sent: Value = serde_json::from_slice(&engine.requests().last().unwrap().body).unwrap();
    assert_eq!(sent, json!({"username": "ci", "password": " pw ", "serveraddress": "localhost:1"}));
    assert!(run.stdout.contains("command-line"), "{run}");
    assert!(!env.config_file().exists());
}

#[test]
fn saves_typed_credentials_after_checking_them() {
    let env = TestEnv::new();
    let engine = FakeEngine::with_info().on(AUTH, Reply::json(500, WRONG)).on(AUTH, Reply::json(200, "{}"));
    let mut terminal = env.at_terminal(&engine, "xterm", &["regpush", "auth", "--login", "localhost:1"]);
    terminal.wait_for("Username: ");
    terminal.type_in("alice\r");
    terminal.wait_for("Password: ");
    assert!(!terminal.echoes());
    terminal.type_in("wrong\r");
    terminal.wait_for("localhost:1 does not accept this password for `alice`");
    terminal.wait_for("Username (alice): ");
    terminal.type_in("\r");
    terminal.wait_for("Password: ");
    terminal.type_in("s3cret\r");
    terminal.wait_for("saved the credentials for localhost:1 in `");
    let ended = terminal.finish();
    assert_eq!((ended.status, ended.restored), (0, true), "{}", ended.text);
    assert!(ended.text.contains("yes"), "{}", ended.text);
    let config = std::fs::read_to_string(env.config_file()).unwrap();
    assert!(config.contains("YWxpY2U6czNjcmV0"), "{config}");

    // If saving fails, `auth --login` still prints the result of the check of the typed credentials.
    let env = TestEnv::new().with_config(r#"{"credsStore":"gone"}"#);
    let engine = FakeEngine::with_info().on(AUTH, Reply::json(200, "{}"));
    let arguments = ["regpush", "auth", "--login", "--format", "json", "localhost:1"];
    let mut terminal = env.at_terminal(&engine, "xterm", &arguments);
    terminal.wait_for("Username: ");
    terminal.type_in("alice\r");
    terminal.wait_for("Password: ");
    terminal.type_in("s3cret\r");
    let ended = terminal.finish();
    assert_eq!(ended.status, 1, "{}", ended.text);
    assert!(
        ended.text.contains(r#""source":"prompt","username":"alice","kind":"password","accepted":true"#),
        "{}",
        ended.text
    );

    // The prompt for a username offers the value of `--username`.
    let engine = FakeEngine::with_info();
    let arguments = ["regpush", "auth", "--login", "-u", "carol", "localhost:1"];
    let mut terminal = env.at_terminal(&engine, "xterm", &arguments);
    terminal.wait_for("Username (carol): ");
    terminal.type_in("\x03");
    let ended = terminal.finish();
    assert_eq!((ended.status, ended.restored), (130, true), "{}", ended.text);
}

#[test]
fn explains_why_auth_cannot_check() {
    let env = TestEnv::new();
    let table: [(&[&str], i32, &str, &str); 7] = [
        (&["localhost:99999"], 125, "`localhost:99999` is not a valid registry name", ""),
        (
            &["https://me:hunter2@localhost:1"],
            125,
            "`https://…@localhost:1` is not a valid registry name",
            "",
        ),
        (&["team"], 125, "`team` is not a valid registry name", "write the registry as HOST or HOST:PORT"),
        (
            &["--login", "docker.io"],
            3,
            "cannot log in to Docker Hub through the browser: only `docker login` can",
            "run `docker login`",
        ),
        (
            &["--login", "localhost:1"],
            3,
            "cannot prompt for credentials for localhost:1",
            "`docker regpush auth --login -u NAME --password-stdin localhost:1`",
        ),
        (&["docker.io"], 3, "cannot check credentials for docker.io", "run `docker login` or"),
        (&["-u", "me", "localhost:1"], 125, "--username requires --login", ""),
    ];
    for (arguments, status, told, hint) in table {
        let run = run(env.without_engine().args(["regpush", "auth"]).args(arguments));
        assert_eq!(run.status, status, "{run}");
        assert!(run.stderr.contains(told) && run.stderr.contains(hint), "{run}");
    }
    // If the engine is unreachable, `auth` does not report that the registry refused the credentials.
    let env = TestEnv::new().with_config(&stored(&json!({"auth": BOB})));
    let mut command = env.without_engine();
    let run =
        run(command.env("DOCKER_HOST", "unix:///nothing/here").args(["regpush", "auth", "localhost:1"]));
    assert_eq!(run.status, 4, "{run}");
    assert!(run.stdout.contains("unknown"), "{run}");
}

/// Engines ignore a registry token in a request to `/auth`, so the plugin sends the token to the registry itself.
#[test]
fn checks_a_registry_token_at_the_registry_itself() {
    for (status, accepted) in [(200, 0), (401, 3)] {
        let registry = FakeEngine::at_tcp()
            .on("GET /v2/", challenge("Bearer realm=\"http://127.0.0.1:0/token\",service=\"x\""))
            .on("GET /v2/", challenge("Bearer realm=\"http://127.0.0.1:0/token\",service=\"x\""))
            .on("GET /v2/", Reply::json(status, "{}"));
        let host = registry.host.trim_start_matches("tcp://").to_owned();
        let config = json!({"auths": {&host: {"registrytoken": "RT-secret"}}}).to_string();
        let env = TestEnv::new().with_config(&config);
        let engine = FakeEngine::with_info();
        let run = auth(&env, &engine, &[&host]);
        assert_eq!(run.status, accepted, "{run}");
        let row = if accepted == 0 { "registry-token   yes" } else { "registry-token   no" };
        assert!(run.stdout.contains(row), "{run}");
        let shown = registry.requests().last().unwrap().header("authorization").map(str::to_owned);
        assert_eq!(shown.as_deref(), Some("Bearer RT-secret"));
        assert!(!run.to_string().contains("RT-secret"), "{run}");
    }
}

fn challenge(text: &str) -> Reply {
    let text: &'static str = Box::leak(text.to_owned().into_boxed_str());
    Reply { headers: vec![("WWW-Authenticate", text)], ..Reply::json(401, "{}") }
}

#[test]
fn lists_stored_credentials_without_an_engine() {
    let config = json!({
        "auths": {
            "localhost:1": {"auth": BOB},
            "https://old.example.com/v1/": {"auth": "Ym9iOg==", "identitytoken": "ID"},
            "https://index.docker.io/v1/": {},
            "https://index.docker.io/v1/access-token": {"auth": BOB},
            "bad.example.com": {"auth": "%%%"},
            "shadowed.example.com": {"auth": BOB},
        },
        "credsStore": "x",
        "credHelpers": {"own.example.com": "y", "plain.example.com": ""},
    });
    let all = r#"test "$1" = list && echo '{"https://index.docker.io/v1/":"hubuser","token.example.com":"<token>","own.example.com":"not this","https://index.docker.io/v1/refresh-token":"z"}'"#;
    let env = TestEnv::new()
        .with_config(&config.to_string())
        .with_helper("x", all)
        .with_helper("y", "echo not implemented; exit 1");
    let variable = json!({"auths": {"shadowed.example.com": {"auth": "ZXZlOng="}}}).to_string();
    let list = |arguments: &[&str]| {
        let mut command = env.without_engine();
        command.env("DOCKER_HOST", "unix:///nothing/here").env("DOCKER_AUTH_CONFIG", &variable);
        run(command.args(["regpush", "auth"]).args(arguments))
    };
    let table = list(&[]);
    assert_eq!(table.status, 0, "{table}");
    let want = "\
        REGISTRY               SOURCE               USERNAME   KIND             EXPIRES\n\
        bad.example.com        helper:x             -          -                -\n\
        docker.io              helper:x             hubuser    password         -\n\
        localhost:1            config               bob        password         -\n\
        old.example.com        config               bob        identity-token   -\n\
        own.example.com        helper:y             -          -                -\n\
        plain.example.com      config               -          -                -\n\
        shadowed.example.com   DOCKER_AUTH_CONFIG   eve        password         -\n\
        token.example.com      helper:x             -          identity-token   -\n";
    assert_eq!(table.stdout, want, "{table}");
    for warning in [
        "warning: credential helper `docker-credential-y` failed to list its credentials: not implemented",
        "warning: the entry for bad.example.com in `",
    ] {
        assert!(table.stderr.contains(warning), "{table}");
    }
    let lines = list(&["--format", "json"]);
    let lines: Vec<Value> = lines.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 8);
    assert_eq!(
        lines[1],
        json!({"registry": "docker.io", "source": "helper:x", "username": "hubuser", "kind": "password",
            "accepted": null, "asked": null, "repository": null, "pull": null, "push": null, "expires": null, "warnings": [], "error": null})
    );
}

#[test]
fn ctrl_c_ends_auth_while_the_engine_hangs() {
    let env = TestEnv::new().with_config(&stored(&json!({"auth": BOB})));
    let engine = FakeEngine::with_info().on(AUTH, Reply::json(200, "{").ending(End::Hang));
    let mut terminal = env.at_terminal(&engine, "xterm", &["regpush", "auth", "localhost:1"]);
    engine.wait_for_request(AUTH);
    terminal.type_in("\x03");
    assert_eq!(terminal.finish().status, 130);
}

/// A registry without authentication accepts any password, and some registries ask for credentials only on writes.
#[test]
fn reports_that_the_registry_does_not_ask_for_credentials() {
    let open = || {
        let registry = FakeEngine::at_tcp().on("GET /v2/", Reply::json(200, "{}"));
        let host = registry.host.trim_start_matches("tcp://").to_owned();
        (registry, host)
    };
    let told = |run: &Run, host: &str| {
        assert_eq!(run.status, 0, "{run}");
        assert!(run.stderr.contains(&format!("{host} requires no credentials")), "{run}");
    };
    let (_registry, host) = open();
    let env = TestEnv::new();
    let run = auth(&env, &FakeEngine::with_info(), &[&host]);
    told(&run, &host);
    assert_eq!(run.stdout, "");

    let (_registry, host) = open();
    let config = json!({"auths": {&host: {"auth": BOB}}}).to_string();
    let run = auth(&TestEnv::new().with_config(&config), &FakeEngine::with_info(), &[&host]);
    told(&run, &host);
    assert!(run.stdout.contains("bob        password   not asked"), "{run}");

    let (_registry, host) = open();
    let run =
        auth(&TestEnv::new().with_config(&config), &FakeEngine::with_info(), &["--format", "json", &host]);
    told(&run, &host);
    assert_eq!((&run.json()["accepted"], &run.json()["asked"]), (&json!(null), &json!(false)), "{run}");

    // `auth --login` saves nothing that the registry has not accepted.
    let (registry, host) = open();
    let log_in = |engine: &FakeEngine, options: &[&str]| {
        let mut command = env.command(engine);
        command.args(["regpush", "auth", "--login", "-u", "bob", "--password-stdin"]);
        run_with_stdin(command.args(options), b"filepw")
    };
    let run = log_in(&FakeEngine::with_info(), &[&host]);
    told(&run, &host);
    assert!(run.stderr.contains("warning: nothing was saved") && !env.config_file().exists(), "{run}");
    let registry = registry.on("GET /v2/", Reply::json(200, "{}"));
    let run = log_in(&FakeEngine::with_info().on(AUTH, Reply::json(200, "{}")), &["--force", &host]);
    told(&run, &host);
    let saved = std::fs::read_to_string(env.config_file()).unwrap();
    assert!(saved.contains(BOB) && run.stdout.contains("not asked"), "{run}");
    drop(registry);

    // `--force` saves credentials that neither the plugin nor the engine can check.
    let unreachable =
        || FakeEngine::with_info().on(AUTH, Reply::json(500, r#"{"message":"connection refused"}"#));
    let env = TestEnv::new();
    for (options, status) in [(vec!["localhost:1"], 6), (vec!["--force", "localhost:1"], 0)] {
        let engine = unreachable();
        let mut command = env.command(&engine);
        command.args(["regpush", "auth", "--login", "-u", "bob", "--password-stdin"]).args(options);
        let run = run_with_stdin(&mut command, b"filepw");
        assert_eq!((run.status, env.config_file().exists()), (status, status == 0), "{run}");
    }

    // The hint fills in the registry.
    let text = r#"{"message":"Get \"https://r.invalid:5000/v2/\": http: server gave HTTP response to HTTPS client"}"#;
    let engine = FakeEngine::with_info().on(AUTH, Reply::json(500, text));
    let mut command = env.command(&engine);
    command.args(["regpush", "auth", "--login", "-u", "bob", "--password-stdin", "r.invalid:5000"]);
    let run = run_with_stdin(&mut command, b"filepw");
    let hint = r#"hint: set `"insecure-registries": ["r.invalid:5000"]` in the engine's daemon.json"#;
    assert!(run.status == 6 && run.stderr.contains(hint), "{run}");
}

/// The plugin cannot reach a registry on the engine's machine, so the engine answers both questions.
#[test]
fn asks_through_a_remote_engine_whether_the_registry_requires_credentials() {
    for (without, accepted) in [(Reply::json(200, "{}"), "not asked"), (Reply::json(500, WRONG), "yes")] {
        let env = TestEnv::new().with_config(&stored(&json!({"auth": BOB})));
        let engine = FakeEngine::at_tcp().on(AUTH, without);
        let engine = if accepted == "yes" { engine.on(AUTH, Reply::json(200, "{}")) } else { engine };
        // The plugin does not treat `0.0.0.0` as this machine.
        let remote = engine.host.replace("127.0.0.1", "0.0.0.0");
        let mut command = env.command(&engine);
        let run = run(command.env("DOCKER_HOST", remote).args(["regpush", "auth", "localhost:1"]));
        assert_eq!(run.status, 0, "{run}");
        assert!(run.stdout.contains(accepted), "{run}");
    }
}
