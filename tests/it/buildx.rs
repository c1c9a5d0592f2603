//! Tests of buildx's scoped credentials.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::engine::{FakeEngine, Reply, digest_line, refusal};
use crate::support::env::{Run, TestEnv, run};

const HUB: &str = "https://index.docker.io/v1/";

fn auths(key: &str, username: &str) -> String {
    json!({"auths": {key: {"auth": STANDARD.encode(format!("{username}:hunter2secret"))}}}).to_string()
}

/// Writes a config.json for each of buildx's folders.
fn write(env: &TestEnv, folders: &[(&str, String)]) {
    for (folder, config) in folders {
        let folder = env.config_directory().join("buildx/config").join(folder);
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("config.json"), config).expect("config.json");
    }
}

fn engine() -> FakeEngine {
    FakeEngine::start()
        .serving_pushed()
        .on_every_push(Reply::stream([digest_line("1")]))
        .allow("GET /v1.41/info", Reply::json(200, "{}"))
}

/// Pushes images. Returns the user names that the engine received, in the order of the pushes.
fn push(env: &TestEnv, images: &[&str], variables: &[(&str, &str)]) -> (Vec<Value>, Run) {
    let engine = engine();
    let mut command = env.command(&engine);
    command.args(["regpush", "--format", "json", "--parallel", "1"]).args(images);
    let run = run(command.envs(variables.iter().copied()));
    (engine.pushes().iter().map(|push| push.registry_auth()["username"].clone()).collect(), run)
}

#[test]
fn most_specific_folder_that_serves_a_push_is_used() {
    let local = |username| auths("localhost:0", username);
    let hub = |username| auths(HUB, username);
    let helper = r#"{"credHelpers":{"localhost:0":"x"}}"#.to_owned();
    let store = r#"{"credsStore":"x"}"#.to_owned();
    type Folders<'a> = Vec<(&'a str, String)>;
    let table: Vec<(Folders<'_>, &str, Value)> = vec![
        (
            vec![("localhost:0/team/app@push", local("a")), ("localhost:0/team/app", local("b"))],
            "localhost:0/team/app:1",
            json!("a"),
        ),
        (
            vec![("localhost:0/team/app@pull,push", local("a")), ("localhost:0/team/app@push", local("b"))],
            "localhost:0/team/app:1",
            json!("a"),
        ),
        (
            vec![("localhost:0/team/app", local("a")), ("localhost:0@push", local("b"))],
            "localhost:0/team/app:1",
            json!("a"),
        ),
        (
            vec![("localhost:0@push", local("a")), ("localhost:0", local("b"))],
            "localhost:0/team/app:1",
            json!("a"),
        ),
        (vec![("localhost:0", local("a"))], "localhost:0/team/app:1", json!("a")),
        // No prefix of a repository, no other registry, and not for pulls only.
        (vec![("localhost:0/team", local("a"))], "localhost:0/team/app:1", json!("docker")),
        (vec![("localhost:1/team/app", local("a"))], "localhost:0/team/app:1", json!("docker")),
        (vec![("localhost:0/team/app@pull", local("a"))], "localhost:0/team/app:1", json!("docker")),
        // A folder without credentials for the registry does not end the search.
        (
            vec![("localhost:0/team/app", auths("localhost:1", "a")), ("localhost:0", local("b"))],
            "localhost:0/team/app:1",
            json!("b"),
        ),
        (vec![("localhost:0/team/app", "{}".to_owned())], "localhost:0/team/app:1", json!("docker")),
        (vec![("localhost:0/team/app", helper)], "localhost:0/team/app:1", json!("helped")),
        (vec![("localhost:0/team/app", store)], "localhost:0/team/app:1", json!("helped")),
        (vec![("registry-1.docker.io/team/app@push", hub("a"))], "team/app:1", json!("a")),
        (vec![("registry-1.docker.io", hub("a"))], "docker.io/library/x:1", json!("a")),
        (vec![("docker.io/team/app", hub("a"))], "team/app:1", Value::Null),
        (vec![("registry-1.docker.io", hub("a"))], "dhi.io/team/x:1", json!("a")),
        (
            vec![("dhi.io", auths("dhi.io", "b")), ("registry-1.docker.io", hub("a"))],
            "dhi.io/team/x:1",
            json!("b"),
        ),
        (vec![("registry-1.docker.io", hub("a"))], "registry.scout.docker.com/team/x:1", json!("a")),
        (vec![("registry-1.docker.io/team/x@push", hub("a"))], "dhi.io/team/x:1", json!("a")),
        (vec![("registry-1.docker.io", hub("a"))], "example.invalid/team/x:1", Value::Null),
    ];
    for (folders, image, username) in table {
        let helper = r#"echo '{"Username":"helped","Secret":"hunter2secret"}'"#;
        let env = TestEnv::new().with_config(&local("docker")).with_helper("x", helper);
        write(&env, &folders);
        let (sent, run) = push(&env, &[image], &[]);
        let names: Vec<&str> = folders.iter().map(|(name, _)| *name).collect();
        assert_eq!(sent, std::slice::from_ref(&username), "{names:?}: {run}");
        let source = match username.as_str() {
            None => "none",
            Some("docker") => "config",
            Some(_) => "buildx",
        };
        assert_eq!(run.json()["credentials"]["source"], source, "{names:?}: {run}");
        assert!(!run.to_string().contains("hunter2secret") && !run.stderr.contains("warning"), "{run}");
    }
}

#[test]
fn each_repository_uses_its_own_credentials() {
    let env = TestEnv::new().with_config(&auths("localhost:0", "docker"));
    write(
        &env,
        &[
            ("localhost:0/a@push", auths("localhost:0", "a")),
            ("localhost:0/b@push", auths("localhost:0", "b")),
        ],
    );
    let images = ["localhost:0/a:1", "localhost:0/b:1", "localhost:0/c:1"];
    let (mut sent, run) = push(&env, &images, &[]);
    sent.sort_by_key(Value::to_string);
    assert_eq!((sent, run.status), (vec![json!("a"), json!("b"), json!("docker")], 0), "{run}");
}

#[test]
fn order_of_sources_and_place_of_the_folders() {
    let env = TestEnv::new();
    write(&env, &[("localhost:0/app", auths("localhost:0", "buildx"))]);
    let variable = auths("localhost:0", "variable");
    let image = "localhost:0/app:1";
    assert_eq!(push(&env, &[image], &[]).0, ["buildx"]);
    assert_eq!(push(&env, &[image], &[("DOCKER_AUTH_CONFIG", &variable)]).0, ["variable"]);
    assert_eq!(push(&env, &["-u", "me", "--password-command", "echo x", image], &[]).0, ["me"]);
    assert_eq!(push(&env, &["--anonymous", image], &[]).0, [Value::Null]);
    let elsewhere = env.path("elsewhere");
    let other = elsewhere.join("config/localhost:0/app@push");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("config.json"), auths("localhost:0", "other")).unwrap();
    let variables = [("BUILDX_CONFIG", elsewhere.to_str().unwrap())];
    assert_eq!(push(&env, &[image], &variables).0, ["other"]);
    assert_eq!(
        push(&env, &[image], &[("BUILDX_CONFIG", "")]).0,
        ["buildx"],
        "an empty variable counts as unset"
    );
}

#[test]
fn broken_folder_is_a_warning_that_names_the_file() {
    let cut = r#"{"auths":{"localhost:0":{"auth":"!"}}}"#;
    let table = [
        ("{oops", "is not valid JSON"),
        ("[]", "is not a JSON object"),
        (cut, "the entry for localhost:0 in"),
    ];
    for (config, words) in table {
        let env = TestEnv::new().with_config(&auths("localhost:0", "docker"));
        write(&env, &[("localhost:0/app", config.to_owned())]);
        let (sent, run) = push(&env, &["localhost:0/app:1"], &[]);
        assert_eq!((sent, run.status), (vec![json!("docker")], 0), "{run}");
        let warning = run.stderr.lines().find(|line| line.starts_with("warning: ")).expect("a warning");
        assert!(
            warning.contains(words) && warning.contains("buildx/config/localhost:0/app/config.json"),
            "{run}"
        );
    }
}

#[test]
fn refusal_names_the_file_of_the_credentials() {
    let env = TestEnv::new();
    write(&env, &[("localhost:0/app@push", auths("localhost:0", "alice"))]);
    let engine = FakeEngine::start().on_next_push(Reply::stream([refusal("unauthorized: no")]));
    let run = run(env.command(&engine).args(["-D", "regpush", "--format", "json", "localhost:0/app:1"]));
    assert_eq!(run.status, 3, "{run}");
    assert!(run.stderr.contains("user `alice` from `"), "{run}");
    assert!(run.stderr.contains("buildx/config/localhost:0/app@push/config.json`"), "{run}");
    assert!(!run.to_string().contains("hunter2secret"), "{run}");
    let hint = "app@push/config.json`, or remove that file: it overrides `docker login`";
    assert!(run.stderr.contains("hint: renew the credentials in `") && run.stderr.contains(hint), "{run}");
}

/// A folder without credentials for the registry does not separate the repository's credentials from those of the others.
#[test]
fn wrong_password_is_sent_once_beside_a_folder_without_credentials() {
    let asks = || {
        Reply::json(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#)
            .header("WWW-Authenticate", "Basic realm=\"x\"")
    };
    let registry = FakeEngine::at_tcp().on("GET /v2/", asks()).on("GET /v2/", asks());
    let host = registry.host.trim_start_matches("tcp://").to_owned();
    let env = TestEnv::new().with_config(&auths(&host, "alice"));
    write(&env, &[(&format!("{host}/a@push"), "{}".to_owned())]);
    let engine = FakeEngine::start().allow("GET /v1.41/info", Reply::json(200, "{}"));
    let images = ["a:1", "b:1"].map(|path| format!("{host}/{path}"));
    let run = run(env.command(&engine).args(["regpush", "--verify", "never"]).args(images));
    assert_eq!(run.status, 3, "{run}");
    assert_eq!(registry.count("GET /v2/"), 2, "{run}");
}

#[test]
fn folder_that_overrides_saved_credentials_is_named() {
    let asks = Reply::json(401, "{}").header("WWW-Authenticate", "Basic realm=\"x\"");
    let registry = FakeEngine::at_tcp().on("GET /v2/", asks);
    let host = registry.host.trim_start_matches("tcp://").to_owned();
    let env = TestEnv::new();
    write(&env, &[(&format!("{host}@push"), auths(&host, "alice"))]);
    let accepted = r#"{"IdentityToken":"","Status":"Login Succeeded"}"#;
    let engine = FakeEngine::with_info().on("POST /v1.41/auth", Reply::json(200, accepted));
    let words = ["regpush", "auth", "--login", "-u", "bob", "--password-command", "echo hunter2", &host];
    let saved = run(env.command(&engine).args(words));
    assert_eq!(saved.status, 0, "{saved}");
    let warning = format!("config.json` overrides the saved credentials for {host}: remove it to use them");
    assert!(saved.stderr.contains(&warning), "{saved}");
}

#[test]
fn auth_lists_the_folders() {
    let env = TestEnv::new().with_config(&auths("localhost:0", "docker"));
    write(
        &env,
        &[
            ("localhost:0/team/app@push", auths("localhost:0", "alice")),
            ("registry-1.docker.io", auths(HUB, "bob")),
            ("ghcr.io", r#"{"credsStore":"x"}"#.to_owned()),
            ("h", "{oops".to_owned()),
        ],
    );
    let list = run(env.without_engine().args(["regpush", "auth"]));
    let rows: Vec<Vec<&str>> =
        list.stdout.lines().skip(1).map(|row| row.split_whitespace().collect()).collect();
    let want = [
        vec!["ghcr.io", "buildx", "-", "-", "-"],
        vec!["localhost:0", "config", "docker", "password", "-"],
        vec!["localhost:0/team/app@push", "buildx", "alice", "password", "-"],
        vec!["registry-1.docker.io", "buildx", "bob", "password", "-"],
    ];
    assert_eq!(rows, want, "{list}");
    assert!(list.stderr.contains("buildx/config/h/config.json` is not valid JSON"), "{list}");

    // The list names the source that a push would use.
    let source_with = |folder: String, variable: &str| {
        let env = TestEnv::new().with_config(&auths("localhost:0", "docker"));
        write(&env, &[("localhost:0", folder)]);
        let mut command = env.without_engine();
        command.args(["regpush", "auth", "--format", "json"]).env("DOCKER_AUTH_CONFIG", variable);
        run(&mut command).json()["source"].clone()
    };
    let full = || auths("localhost:0", "alice");
    assert_eq!(source_with(full(), ""), "buildx");
    assert_eq!(source_with(full(), &auths("localhost:0", "variable")), "DOCKER_AUTH_CONFIG");
    assert_eq!(source_with("{}".to_owned(), ""), "config");
}
