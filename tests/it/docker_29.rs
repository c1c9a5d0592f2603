//! Tests of what docker 29 does differently. Docker 29 cannot be installed from packages of Debian, so a fake engine plays
//! it. The lines of its streams are those of `tests/failures/recorded_29.jsonl`.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::engine::{End, FakeEngine, Ping, Reply, digest_line};
use crate::support::env::{Run, TestEnv, run};

const IMAGE: &str = "localhost:0/app:1";

/// Starts an engine with API version 1.57, as docker 29.10 has, and the given settings for registries.
fn engine_29(settings: &serde_json::Value) -> FakeEngine {
    FakeEngine::start()
        .with_ping(Ping::Version("1.57"))
        .allow("GET /v1.55/info", Reply::json(200, &json!({"RegistryConfig": settings}).to_string()))
        .allow("GET /v1.55/images/localhost:0/app:1/json", Reply::json(404, r#"{"message":"No such image"}"#))
}

fn settings(networks: &[&str]) -> serde_json::Value {
    json!({"IndexConfigs": {"docker.io": {"Name": "docker.io", "Secure": true}}, "InsecureRegistryCIDRs": networks})
}

fn push(engine: &FakeEngine, image: &str) -> Run {
    run(TestEnv::new().command(engine).args(["regpush", "--format", "json", "--retries", "0", image]))
}

/// docker 29 sends no `error` beside `errorDetail`.
fn refusal(message: &str) -> String {
    json!({"errorDetail": {"message": message}}).to_string()
}

/// Starts a server that answers everything, also the start of a TLS handshake, with plain HTTP. Returns its `host:port`,
/// and the number of plain HTTP requests that it received.
fn plain_http_server() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (host, requests) =
        (listener.local_addr().expect("an address").to_string(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&requests);
    thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let mut start = [0; 4];
            if client.read_exact(&mut start).is_ok() && &start == b"GET " {
                counted.fetch_add(1, Ordering::SeqCst);
            }
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 19\r\nConnection: close\r\n\r\n";
            let _ = client.write_all(format!("{head}{{\"repositories\":[]}}").as_bytes());
            // Reads the rest of the request, since a reset would discard the response.
            let _ = client.shutdown(Shutdown::Write);
            let _ = client.read_to_end(&mut Vec::new());
        }
    });
    (host, requests)
}

/// Since docker 29.10, `insecure-registries` in daemon.json replaces the rule for loopback addresses (moby#53868).
#[test]
fn engine_decides_whether_loopback_may_use_plain_http() {
    let list = |networks: &[&str]| {
        let (host, requests) = plain_http_server();
        let engine = engine_29(&settings(networks));
        (run(TestEnv::new().command(&engine).args(["regpush", "ls", &host])), requests)
    };
    let (allowed, requests) = list(&["127.0.0.0/8", "::1/128"]);
    assert_eq!(allowed.status, 0, "{allowed}");
    assert!(requests.load(Ordering::SeqCst) > 0);
    let (refused, requests) = list(&["10.0.0.0/8"]);
    assert_eq!((refused.status, requests.load(Ordering::SeqCst)), (6, 0), "{refused}");
    let hint = r#"set `"insecure-registries": ["127.0.0.0/8", "::1/128"]` in the engine's daemon.json"#;
    assert!(refused.stderr.contains(hint), "{refused}");

    // A push asks the engine, too.
    let (host, requests) = plain_http_server();
    let text = format!(
        "failed to do request: Head \"https://{host}/v2/app/blobs/sha256:00\": http: server gave HTTP response to HTTPS client"
    );
    let engine = engine_29(&settings(&[]))
        .allow(&format!("GET /v1.55/images/{host}/app:1/json"), Reply::json(404, "{}"))
        .on_next_push(Reply::stream([refusal(&text)]));
    let refused = push(&engine, &format!("{host}/app:1"));
    assert_eq!((refused.status, &refused.json()["error"]["class"]), (6, &json!("tls")), "{refused}");
    assert!(refused.stderr.contains(hint), "{refused}");
    assert_eq!(requests.load(Ordering::SeqCst), 0, "{refused}");
}

/// docker 28 and earlier always allow plain HTTP on loopback, so the plugin saves the request.
#[test]
fn older_engines_are_not_asked_about_loopback() {
    let engine = FakeEngine::start()
        .with_ping(Ping::Version("1.51"))
        .allow("GET /v1.51/images/localhost:0/app:1/json", Reply::json(404, "{}"))
        .on_next_push(Reply::stream([digest_line("1")]))
        .serving_pushed();
    assert_eq!(push(&engine, IMAGE).status, 0);
    assert_eq!(engine.count("GET /v1.51/info"), 0);
}

#[test]
fn names_the_limit_of_30_s_for_an_answer() {
    let text = "failed commit on ref \"manifest-sha256:69\": failed to do request: Put \"https://localhost:0/v2/app/manifests/1\": net/http: timeout awaiting response headers";
    let engine = engine_29(&settings(&["127.0.0.0/8"])).on_next_push(Reply::stream([refusal(text)]));
    let engine = engine.in_another_network(true);
    let refused = push(&engine, IMAGE);
    assert_eq!((refused.status, &refused.json()["error"]["class"]), (6, &json!("network")), "{refused}");
    let hint = "hint: raise --retries, or check the storage of localhost:0: it needed more than 30 s to answer, and docker 29 gives up there";
    assert!(refused.stderr.contains(hint), "{refused}");
}

#[test]
fn names_the_option_that_chooses_a_platform() {
    let text = "multiple matching manifests found but no specific platform requested";
    let engine = engine_29(&settings(&["127.0.0.0/8"])).on_next_push(Reply::stream([refusal(text)]));
    let refused = push(&engine, IMAGE);
    assert_eq!(
        (refused.status, &refused.json()["error"]["class"]),
        (5, &json!("content_missing")),
        "{refused}"
    );
    let hint =
        "hint: pass `--platform os/arch`: the image has several platforms, and the engine cannot choose";
    assert!(refused.stderr.contains(hint), "{refused}");
}

/// All pushes share five upload slots. Both stores report a layer without a slot again and again.
#[test]
fn waiting_for_a_slot_is_no_stall_while_the_engine_sends_another_image() {
    let moving = (1..=20).map(|step| {
        json!({"status": "Pushing", "progressDetail": {"current": step * 1000, "total": 90_000}, "id": "9f58826c2cd7"})
            .to_string()
    });
    // A graph driver first prepares a layer.
    for waiting in [&["Waiting"][..], &["Preparing", "Waiting"]] {
        let waiting = waiting
            .iter()
            .map(|status| json!({"status": status, "progressDetail": {}, "id": "178421164e4d"}).to_string());
        let waiting = Reply::stream(waiting).ending(End::Hang);
        let first =
            Reply::stream(moving.clone().chain([digest_line("1")])).slowly(Duration::from_millis(200));
        let engine = engine_29(&settings(&["127.0.0.0/8"]))
            .allow("GET /v1.55/images/localhost:0/b:1/json", Reply::json(404, "{}"))
            .on("POST /v1.55/images/localhost:0/app/push", first)
            .on("POST /v1.55/images/localhost:0/b/push", waiting);
        let mut command = TestEnv::new().command(&engine);
        command.args(["regpush", "--format", "json", "--stall-timeout", "2s", "--retries", "0"]);
        let run = run(command.args(["--verify", "never", IMAGE, "localhost:0/b:1"]));
        let results: Vec<serde_json::Value> =
            run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(results[0]["status"], "pushed", "{run}");
        // The second image stalls only after the first has ended, which takes 4 s.
        assert_eq!(results[1]["error"]["class"], "stalled", "{run}");
        assert!(results[1]["seconds"].as_f64().unwrap() > 4.0, "{run}");
    }
}
