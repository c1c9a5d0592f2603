//! Tests of the check of credentials before a push. A second fake engine plays the registry.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::support::engine::{FakeEngine, Reply, digest_line};
use crate::support::env::{Run, TestEnv, run_with_stdin};

const UNAUTHORIZED: &str = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
const TOKEN: &str = "GET /token";

/// Starts a registry that sends this challenge at `/v2/`, and returns the registry and its `host:port`.
fn registry(challenge: &str) -> (FakeEngine, String) {
    let registry = FakeEngine::at_tcp();
    let host = registry.host.trim_start_matches("tcp://").to_owned();
    let challenge = challenge.replace("HOST", &host);
    // The leak gives the header value the lifetime `'static`, and is small since the tests are few.
    let ping =
        Reply::json(401, UNAUTHORIZED).header("WWW-Authenticate", Box::leak(challenge.into_boxed_str()));
    (registry.on("GET /v2/", ping), host)
}

const BASIC: &str = "Basic realm=\"x\"";
const BEARER: &str = "Bearer realm=\"http://HOST/token\",service=\"s\"";

fn pushing_engine() -> FakeEngine {
    FakeEngine::start().on_every_push(Reply::stream([digest_line("1")]))
}

/// Pushes these images with the credentials of `alice`.
fn push(engine: &FakeEngine, images: &[String]) -> Run {
    let env = TestEnv::new();
    let mut command = env.command(engine);
    command.args(["regpush", "--verify", "never", "-u", "alice", "--password-stdin"]).args(images);
    run_with_stdin(&mut command, b"s3cret")
}

#[test]
fn stops_the_push_only_if_the_identity_is_refused() {
    let grant = r#"{"error":"invalid_grant","error_description":"the token has expired"}"#;
    let other = r#"{"error":"invalid_request"}"#;
    let denied = r#"{"errors":[{"code":"DENIED","message":"no access to this repository"}]}"#;
    let expired = r#"{"message":"Your authorization token has expired. Reauthenticate and try again."}"#;
    let page = "<html>no</html>";
    let token = r#"{"token":"T"}"#;
    type Row<'a> = (&'a str, &'a str, &'a [(u16, &'a str)], bool);
    let table: [Row<'_>; 12] = [
        // challenge, request with credentials, responses, whether the push goes on
        (BASIC, "GET /v2/", &[(401, UNAUTHORIZED)], false),
        (BASIC, "GET /v2/", &[(200, "{}")], true),
        (BASIC, "GET /v2/", &[(403, expired)], false),
        (BASIC, "GET /v2/", &[(403, page)], true),
        (BASIC, "GET /v2/", &[(429, "slow down")], true),
        (BASIC, "GET /v2/", &[(503, "busy")], true),
        (BEARER, TOKEN, &[(401, UNAUTHORIZED)], false),
        (BEARER, TOKEN, &[(200, token)], true),
        (BEARER, TOKEN, &[(400, grant)], false),
        (BEARER, TOKEN, &[(400, other)], true),
        (BEARER, TOKEN, &[(403, denied), (403, denied)], false),
        (BEARER, TOKEN, &[(403, denied), (200, token)], true),
    ];
    for (challenge, request, responses, goes_on) in table {
        let case = format!("{challenge} {responses:?}");
        let (registry, host) = registry(challenge);
        let registry = responses
            .iter()
            .fold(registry, |registry, (status, body)| registry.on(request, Reply::json(*status, body)));
        let engine = if goes_on { pushing_engine() } else { FakeEngine::start() };
        let pushed = push(&engine, &[format!("{host}/app:1")]);
        assert_eq!(pushed.status, if goes_on { 0 } else { 3 }, "{case}: {pushed}");
        assert_eq!(engine.pushes().len(), usize::from(goes_on), "{case}: {pushed}");
        let refused = format!("{host} does not accept user `alice` from the command line: ");
        assert_eq!(pushed.stderr.contains(&refused), !goes_on, "{case}: {pushed}");
        assert!(!pushed.to_string().contains("s3cret"), "{case}: {pushed}");
        let requests = registry.requests();
        assert_eq!(requests.len(), 1 + responses.len(), "{case}");
        let alice = format!("Basic {}", STANDARD.encode("alice:s3cret"));
        for request in &requests[1..] {
            assert_eq!(request.header("authorization"), Some(alice.as_str()), "{case}");
        }
    }
}

#[test]
fn sends_wrong_credentials_once_for_all_images() {
    let (registry, host) = registry(BASIC);
    let registry = registry.on("GET /v2/", Reply::json(401, UNAUTHORIZED));
    let engine = FakeEngine::start();
    let images = ["a", "b", "c"].map(|name| format!("{host}/{name}:1"));
    let refused = push(&engine, &images);
    assert_eq!(refused.status, 3, "{refused}");
    assert!(refused.stderr.contains("3 images: 3 failed"), "{refused}");
    assert!(engine.pushes().is_empty(), "{refused}");
    assert_eq!(registry.requests().len(), 2, "one without credentials, and one with credentials");
}

#[test]
fn asks_the_token_server_for_the_repository_of_the_push() {
    let placeholder = "Bearer realm=\"http://HOST/token\",service=\"s\",scope=\"repository:user/image:pull\"";
    let (registry, host) = registry(placeholder);
    let registry = registry.on(TOKEN, Reply::json(200, r#"{"access_token":"T"}"#));
    let engine = pushing_engine();
    let pushed = push(&engine, &[format!("{host}/team/app:1")]);
    assert_eq!(pushed.status, 0, "{pushed}");
    let line = registry.requests()[1].line.clone();
    assert_eq!(line, "GET /token?service=s&scope=repository%3Ateam%2Fapp%3Apull%2Cpush&account=alice",);
}

#[test]
fn pushes_without_a_check_if_the_registry_does_not_answer() {
    // The kernel accepts connections to this port, and no program reads from them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = silent.local_addr().unwrap().to_string();
    let engine = pushing_engine();
    let started = Instant::now();
    let pushed = push(&engine, &[format!("{host}/app:1")]);
    assert_eq!(pushed.status, 0, "{pushed}");
    let took = started.elapsed();
    assert!(took > Duration::from_secs(2) && took < Duration::from_secs(8), "{took:?}");
}

/// The registry refuses stored credentials, so the plugin prompts before the engine pushes.
#[test]
fn prompts_before_the_engine_pushes() {
    let (registry, host) = registry(BASIC);
    let registry =
        registry.on("GET /v2/", Reply::json(401, UNAUTHORIZED)).on("GET /v2/", Reply::json(200, "{}"));
    let engine = pushing_engine().on("POST /v1.41/auth", Reply::json(200, "{}"));
    let config = json!({"auths": {&host: {"auth": STANDARD.encode("alice:old")}}}).to_string();
    let image = format!("{host}/app:1");
    let env = TestEnv::new().with_config(&config);
    let mut terminal = env.at_terminal(&engine, "dumb", &["regpush", "--verify", "never", &image]);
    terminal.wait_for("does not accept user `alice` from ");
    terminal.wait_for("Username (alice): ");
    assert!(engine.pushes().is_empty());
    terminal.type_in("\r");
    terminal.wait_for("Password: ");
    terminal.type_in("new\r");
    let ended = terminal.finish();
    assert_eq!(ended.status, 0, "{}", ended.text);
    assert_eq!(engine.pushes().len(), 1);
    assert_eq!(registry.requests().len(), 3);
}
