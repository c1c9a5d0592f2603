//! Tests of the diagnosis after a failed upload. A second fake engine plays the registry.

use std::time::Duration;

use serde_json::json;

use crate::support::engine::{FakeEngine, Ping, Reply, digest_line, refusal};
use crate::support::env::{Run, TestEnv, run, run_with_stdin};

const UPLOADS: &str = "POST /v2/app/blobs/uploads/";
const CANCEL: &str = "DELETE /v2/app/blobs/uploads/1";

/// Starts a registry that asks for the password of `alice`, and returns the registry and its `host:port`.
fn registry() -> (FakeEngine, String) {
    let basic = Reply::json(401, "{}").header("WWW-Authenticate", "Basic realm=\"x\"");
    let registry = FakeEngine::at_tcp().on("GET /v2/", basic).on("GET /v2/", Reply::json(200, "{}"));
    let host = registry.host.trim_start_matches("tcp://").to_owned();
    (registry, host)
}

/// Makes a registry accept uploads.
fn accepting(registry: FakeEngine) -> FakeEngine {
    registry
        .allow(UPLOADS, Reply::json(202, "").header("Location", "/v2/app/blobs/uploads/1"))
        .allow("PATCH /v2/app/blobs/uploads/1", Reply::json(202, ""))
        .allow(CANCEL, Reply::json(204, ""))
}

fn push(engine: &FakeEngine, image: &str) -> Run {
    let mut command = TestEnv::new().command(engine);
    command.args([
        "regpush",
        "--format",
        "json",
        "--verify",
        "never",
        "-u",
        "alice",
        "--password-stdin",
        image,
    ]);
    run_with_stdin(&mut command, b"s3cret")
}

/// A layer that the engine has sent in part.
fn moving() -> String {
    json!({"status": "Pushing", "id": "0123456789ab", "progressDetail": {"current": 5000, "total": 9000}})
        .to_string()
}

#[test]
fn status_and_code_of_the_registry_decide() {
    let page = |status| Reply { content_type: Some("text/html"), ..Reply::json(status, "<html>no</html>") };
    let coded = |status, code: &str| {
        Reply::json(status, &json!({"errors": [{"code": code, "message": "no"}]}).to_string())
    };
    let table = [
        // the registry's response to an upload, exit status, class, message
        (coded(405, "UNSUPPORTED"), 1, "rejected", "accepts no pushes: it is read-only, or a mirror"),
        (
            coded(403, "DENIED"),
            3,
            "denied",
            "denies access for user `alice` from the command line: accepted, but not allowed to write to app: ",
        ),
        (
            coded(401, "UNAUTHORIZED"),
            3,
            "denied",
            "denies access for user `alice` from the command line: accepted, but not allowed to write to app: ",
        ),
        (page(403), 3, "denied", "refuses the upload (403 Forbidden)"),
        (coded(404, "NAME_UNKNOWN"), 1, "rejected", "has no repository or project for app: name_unknown: no"),
        (
            coded(429, "TOOMANYREQUESTS"),
            6,
            "rate_limited",
            "answered 429 Too Many Requests: toomanyrequests: no",
        ),
        (coded(503, "UNAVAILABLE"), 6, "server", "answered 503 Service Unavailable: unavailable: no"),
        (coded(507, "X"), 1, "rejected", "answered 507 Insufficient Storage: x: no"),
        (page(200), 1, "other", "is not a registry: it answers with a web page"),
        (Reply::json(202, ""), 1, "other", "is not a registry, or a proxy in front of it removes the header"),
    ];
    for (answer, status, class, told) in table {
        let (registry, host) = registry();
        let registry = registry.allow(UPLOADS, answer);
        let engine = FakeEngine::start()
            .on_next_push(Reply::stream([refusal("error from registry: no")]))
            .allow(&format!("GET /v1.41/images/{host}/app:1/json"), Reply::json(404, "{}"));
        let mut command = TestEnv::new().command(&engine);
        command.args(["regpush", "--format", "json", "--verify", "never", "--retries", "0"]);
        let image = format!("{host}/app:1");
        let refused = run_with_stdin(command.args(["-u", "alice", "--password-stdin", &image]), b"s3cret");
        assert_eq!((refused.status, &refused.json()["error"]["class"]), (status, &json!(class)), "{refused}");
        assert!(refused.stderr.contains(told), "{told}: {refused}");
        assert!(registry.count(UPLOADS) >= 1);
    }
}

#[test]
fn healthy_registry_leaves_the_verdict_to_the_message() {
    let (registry, host) = registry();
    let registry = accepting(registry);
    let other = host.replace("127.0.0.1", "localhost");
    let engine = FakeEngine::start()
        .allow(&format!("GET /v1.41/images/{host}/app:1/json"), Reply::json(404, "{}"))
        .allow(&format!("GET /v1.41/images/{other}/app:1/json"), Reply::json(404, "{}"))
        .on_every_push(Reply::stream([refusal("error from registry: strange")]));
    let refused = push(&engine, &format!("{host}/app:1"));
    assert_eq!(engine.pushes().len(), 2, "the second without mounts");
    assert_eq!((refused.status, &refused.json()["error"]["class"]), (1, &json!("other")), "{refused}");
    assert!(refused.stderr.contains("error from registry: strange"), "{refused}");
    assert_eq!(registry.count(UPLOADS), registry.count(CANCEL), "each upload is cancelled");
}

/// A registry sends credentials' rights in a token, which may expire while a layer is sent.
#[test]
fn names_tokens_that_expire_before_a_layer_is_sent() {
    let (registry, host) = registry();
    let registry = accepting(registry);
    let denied = || Reply::stream([moving(), refusal("denied: requested access to the resource is denied")]);
    let engine = FakeEngine::start().on_next_push(denied()).on_next_push(denied());
    let refused = push(&engine, &format!("{host}/app:1"));
    assert_eq!(refused.status, 3, "{refused}");
    assert!(refused.stderr.contains("hint: raise the lifetime of the tokens"), "{refused}");

    let engine = FakeEngine::start().on_next_push(denied()).on_next_push(Reply::stream([digest_line("1")]));
    let registry = registry
        .on("GET /v2/", Reply::json(401, "{}").header("WWW-Authenticate", "Basic realm=\"x\""))
        .on("GET /v2/", Reply::json(200, "{}"));
    let healed = push(&engine, &format!("{host}/app:1"));
    assert_eq!(healed.status, 0, "{healed}");
    drop(registry);
}

/// In a container with the engine's socket, `localhost` is another machine for the engine.
#[test]
fn names_the_machine_that_localhost_means() {
    let (registry, host) = registry();
    let registry = accepting(registry);
    let message = format!("Get \"http://{host}/v2/\": dial tcp [::1]:1: connect: connection refused");
    let engine = FakeEngine::start().on_every_push(Reply::stream([refusal(&message)]));
    let engine = engine.in_another_network(true);
    let mut command = TestEnv::new().command(&engine);
    command.args(["regpush", "--verify", "never", "--retries", "0", "-u", "alice", "--password-stdin"]);
    let refused = run_with_stdin(command.arg(format!("{host}/app:1")), b"s3cret");
    assert_eq!(refused.status, 6, "{refused}");
    assert!(refused.stderr.contains(&format!("the engine looks up {host} on its own machine")), "{refused}");
    drop(registry);
}

#[test]
fn names_the_proxy_of_the_engine_first() {
    let info =
        json!({"HttpsProxy": "http://user:s3cret@proxy.example.com:3128/", "NoProxy": "other.example.com"});
    let engine = FakeEngine::start()
        .allow("GET /v1.41/info", Reply::json(200, &info.to_string()))
        .on_every_push(Reply::stream([refusal("received unexpected HTTP status: 502 Bad Gateway")]));
    let image = "registry.example.com/app:1";
    let refused =
        run(TestEnv::new().command(&engine).args(["regpush", "--verify", "never", "--retries", "0", image]));
    assert_eq!(refused.status, 6, "{refused}");
    let hint = "hint: check the engine's proxy proxy.example.com:3128, or add registry.example.com to the engine's NO_PROXY";
    assert!(refused.stderr.contains(hint), "{refused}");
    assert!(!refused.to_string().contains("s3cret"), "{refused}");
}

#[test]
fn names_the_token_server_whose_certificate_is_unknown() {
    let message = "failed to authorize: failed to fetch oauth token: Post \"https://harbor.example.com/service/token\": tls: failed to verify certificate: x509: certificate signed by unknown authority";
    let engine =
        FakeEngine::start().on_every_push(Reply::stream([refusal(message)])).in_another_network(true);
    let refused =
        run(TestEnv::new().command(&engine).args(["regpush", "--verify", "never", "localhost:0/app:1"]));
    assert_eq!(refused.status, 6, "{refused}");
    assert!(
        refused.stderr.contains("hint: add the CA of harbor.example.com to the system's CAs"),
        "{refused}"
    );
}

/// An attestation that the engine does not have would be lost, as a missing platform would.
#[test]
fn all_platforms_include_attestations() {
    let here = |id: &str, here: bool| json!({"ID": id, "Available": here, "ImageData": {"Platform": {"os": "linux", "architecture": "amd64"}}});
    let image = json!({
        "Id": "sha256:aa",
        "Manifests": [here("sha256:bb", true), {"ID": "sha256:cc", "Available": false, "Kind": "attestation"}],
    });
    let engine = FakeEngine::start()
        .with_ping(Ping::Version("1.51"))
        .on("GET /v1.51/images/localhost:0/app:1/json?manifests=true", Reply::json(200, &image.to_string()));
    let image = ["regpush", "--platform", "all", "localhost:0/app:1"];
    let refused = run(TestEnv::new().command(&engine).args(image));
    assert_eq!(refused.status, 5, "{refused}");
    assert!(refused.stderr.contains("1 attestation missing") && engine.pushes().is_empty(), "{refused}");
}

/// A proxy in front of the registry may close each connection after some time.
#[test]
fn names_a_time_limit_that_ends_each_attempt() {
    let ended = Reply::stream([moving(), moving(), refusal("unexpected EOF")]).slowly(Duration::from_secs(5));
    let engine = FakeEngine::start().on_next_push(ended.clone()).on_next_push(ended);
    let refused =
        run(TestEnv::new().command(&engine).args(["regpush", "--verify", "never", "localhost:0/app:1"]));
    assert_eq!(refused.status, 6, "{refused}");
    // The attempts last 10 s. On a busy machine, they may last 11 s.
    let told = |seconds| {
        format!("each attempt ended after {seconds}s: a time limit in front of localhost:0: unexpected EOF")
    };
    assert!([10, 11].map(told).iter().any(|told| refused.stderr.contains(told)), "{refused}");
    assert!(refused.stderr.contains("hint: raise the time limit"), "{refused}");
    assert_eq!(engine.pushes().len(), 2);
}

/// The engine's stream may end while the plugin asks the registry.
#[test]
fn diagnosis_during_a_retry_is_finished_and_not_repeated() {
    let (registry, host) = registry();
    let slow = Reply { pieces: vec![b"{}".to_vec(), b"{}".to_vec()], ..Reply::json(429, "") };
    let registry = registry.on(UPLOADS, slow.slowly(Duration::from_millis(500)));
    let retrying = json!({"status": "Retrying in 5 seconds", "id": "0123456789ab"}).to_string();
    let engine = FakeEngine::start().on_next_push(Reply::stream([retrying, refusal("unexpected EOF")]));
    let mut command = TestEnv::new().command(&engine);
    command.args(["regpush", "--format", "json", "--verify", "never", "--retries", "0", "-u", "alice"]);
    let image = format!("{host}/app:1");
    let refused = run_with_stdin(command.args(["--password-stdin", &image]), b"s3cret");
    assert_eq!((refused.status, &refused.json()["error"]["class"]), (6, &json!("rate_limited")), "{refused}");
    assert_eq!(registry.count(UPLOADS), 1, "{refused}");
}
