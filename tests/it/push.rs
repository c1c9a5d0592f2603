//! Tests of the push request, and of the exit status for each response of the engine.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use serde::Deserialize;

use crate::support::engine::{DIGEST, End, FakeEngine, Ping, Reply, digest_line, no_such_image, refusal};
use crate::support::env::{TestEnv, run, run_with_stdin};

const REFERS: &str = r#"{"status":"The push refers to repository [localhost:0/app]"}"#;

#[test]
fn sends_the_request_that_docker_sends() {
    let table = [
        ("localhost:0/app:1", "/v1.41/images/localhost:0/app/push?tag=1&tlsVerify=false"),
        ("app", "/v1.41/images/docker.io/library/app/push?tag=latest"),
        ("[::1]:0/r:1", "/v1.41/images/%5B::1%5D:0/r/push?tag=1&tlsVerify=false"),
    ];
    for (image, path) in table {
        let tag = image.rsplit_once(":").map_or("latest", |(_, tag)| tag);
        let engine = FakeEngine::start()
            .serving_pushed()
            .on(&format!("POST {path}"), Reply::stream([digest_line(tag)]))
            // The plugin requests `/info` only for registries that are not on this machine.
            .allow("GET /v1.41/info", Reply::json(200, "{}"));
        let pushed = run(TestEnv::new().command(&engine).args(["regpush", "-q", image]));
        assert_eq!(pushed.status, 0, "{image}: {pushed}");
        let request = &engine.pushes()[0];
        assert_eq!(request.header("x-registry-auth"), Some("e30="), "always sent: 20.10 answers 400 without");
        assert_eq!(request.body, b"", "podman 5 does not stop a push whose request has a body");
        assert_eq!(request.header("host"), Some("api.moby.localhost"));
        // Without `tlsVerify=false`, podman does not use plain HTTP for a registry on its own machine.
        let on_loopback = ["localhost", "[::1]"].iter().any(|host| image.starts_with(host));
        assert_eq!(request.line.ends_with("&tlsVerify=false"), on_loopback, "{}", request.line);
    }
}

#[test]
fn prints_repository_and_digest_on_stdout() {
    let lines = [REFERS.to_owned(), digest_line("1")];
    for options in [&["regpush"][..], &["regpush", "-q"], &["regpush", "--progress", "none"]] {
        let engine = FakeEngine::start().serving_pushed().on_every_push(Reply::stream(&lines));
        let run = run(TestEnv::new().command(&engine).args(options).arg("localhost:0/app:1"));
        assert_eq!(run.stdout, format!("localhost:0/app@{DIGEST}\n"), "{run}");
        assert_eq!(run.stderr.is_empty(), options.len() > 1, "{run}");
    }
}

/// Replays the recorded responses of all engines to the executable.
#[test]
fn recordings_end_with_their_labelled_class() {
    #[derive(Deserialize)]
    struct Recorded {
        id: String,
        engine: String,
        http_status: u16,
        content_type: Option<String>,
        stream: Vec<String>,
        ended: String,
        class: String,
        credentials_sent: bool,
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/failures");
    let files = ["recorded.jsonl", "recorded_29.jsonl", "recorded_podman_5.jsonl"];
    let text = files.map(|file| fs::read_to_string(folder.join(file)).unwrap()).concat();
    let recorded = text.lines().map(|line| serde_json::from_str::<Recorded>(line).unwrap());
    let env = TestEnv::new();
    let (mut count, mut wrong) = (0, Vec::new());
    // Skips recordings in which the client stopped waiting before the engine's response was complete.
    for recording in recorded.filter(|recording| recording.ended == "complete") {
        let tag = tag_pushed(&recording.stream).unwrap_or("1");
        let line_end = if recording.engine.starts_with("podman") { "\n" } else { "\r\n" };
        let reply = Reply {
            status: recording.http_status,
            content_type: recording.content_type.as_ref().map(|_| "application/json"),
            pieces: recording.stream.iter().map(|line| format!("{line}{line_end}").into_bytes()).collect(),
            ..Reply::json(200, "")
        };
        let mut engine = FakeEngine::start()
            .on_every_push(reply)
            .in_another_network(true)
            // The plugin inspects the local image only if the refusal may mean that the tag already exists in the
            // registry.
            .allow(&format!("GET /v1.41/images/localhost:0/t/none:{tag}/json"), no_such_image());
        if recording.class == "success" {
            engine = engine.serving_pushed();
        }
        if recording.class == "not_found" {
            engine = engine.on("GET /v1.41/images/json", Reply::json(200, "[]"));
        }
        let mut command = env.command(&engine);
        command.args(["regpush", "--retries", "0", "--format", "json"]);
        command.arg(format!("localhost:0/t/none:{tag}"));
        let run = if recording.credentials_sent {
            run_with_stdin(command.args(["-u", "alice", "--password-stdin"]), b"secret")
        } else {
            run(&mut command)
        };
        let result = run.json();
        let class = result["error"]["class"].as_str().unwrap_or("success");
        count += 1;
        assert_eq!(run.status, status_of(class), "{run}");
        if class != recording.class || run.stderr.bytes().any(|byte| byte.is_ascii_control() && byte != b'\n')
        {
            wrong.push(format!(
                "{} {}: {} is not {class}: {run}",
                recording.engine, recording.id, recording.class
            ));
        }
    }
    assert!(count > 860, "only {count} recordings were read");
    assert!(wrong.is_empty(), "{} of {count} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Returns the documented exit status for an error class or for `success`.
fn status_of(class: &str) -> i32 {
    match class {
        "success" => 0,
        "rejected" | "other" => 1,
        "auth" | "denied" => 3,
        "engine" => 4,
        "not_found" | "content_missing" => 5,
        "network" | "rate_limited" | "server" | "tls" => 6,
        "reference" => 125,
        class => panic!("no recording is {class}"),
    }
}

/// Returns the tag for which the engine's stream reports a digest.
fn tag_pushed(stream: &[String]) -> Option<&str> {
    let line = stream.iter().find(|line| line.contains(": digest: "))?;
    line.strip_prefix(r#"{"status":""#)?.split(": digest: ").next()
}

#[test]
fn stream_without_a_digest_fails_with_its_reason() {
    let line = |text: &str| vec![text.as_bytes().to_vec()];
    let lost = "lost the connection to the engine";
    let table = [
        ("an empty answer", vec![], End::Proper, "without a digest for tag `1`"),
        ("the first line alone", line(REFERS), End::Proper, "without a digest"),
        ("the first line alone, closed", line(REFERS), End::Close, "without a digest"),
        ("another tag's digest", line(&digest_line("2")), End::Proper, "without a digest for tag `1`"),
        ("cut between objects", line(REFERS), End::Cut, lost),
        ("cut after the digest", line(&digest_line("1")), End::Cut, lost),
        ("cut in an object", line(r#"{"status":"Pus"#), End::Cut, lost),
        ("an object without end", line(r#"{"status":"Pus"#), End::Close, "ends in the middle of an object"),
        ("HTML", line("<html><h1>502"), End::Proper, "is not JSON: `<html><h1>502`"),
        ("HTML after a line", line(&format!("{REFERS}\r\n<html>")), End::Close, "is not JSON: `<html>`"),
        (
            "an object that is not a message",
            line(r#"{"status":7}"#),
            End::Proper,
            "cannot parse an object from the engine",
        ),
    ];
    for (name, pieces, end, message) in table {
        let reply = Reply { pieces, end, ..Reply::json(200, "") };
        let mut engine = FakeEngine::start().on_every_push(reply);
        if message.contains("digest") || message.contains("confirm") {
            engine = engine.on("GET /v1.41/distribution/localhost:0/app:1/json", Reply::json(404, "{}"));
        }
        let run = run(TestEnv::new().command(&engine).args(["regpush", "localhost:0/app:1"]));
        assert_eq!(run.status, 4, "{name}: {run}");
        assert!(run.stderr.contains(message), "{name}: {run}");
        assert!(run.stderr.contains("localhost:0/app:1"), "{name}: {run}");
        assert_eq!(run.stdout, "", "{name}");
    }
}

#[test]
fn closed_stdout_succeeds_and_full_stdout_fails() {
    let engine = FakeEngine::start().serving_pushed().on_every_push(Reply::stream([digest_line("1")]));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = TestEnv::new().command(&engine);
    let status = command.args(["regpush", "-q", "localhost:0/app:1"]).stdout(writer).status().unwrap();
    assert_eq!(status.code(), Some(0));

    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = TestEnv::new().command(&engine);
    let status =
        command.args(["regpush", "-q", "localhost:0/app:1"]).stdout(full).stderr(Stdio::null()).status();
    assert_eq!(status.unwrap().code(), Some(1), "a result that is lost is an error");
}

#[test]
fn html_page_of_a_proxy_is_an_engine_error() {
    let page =
        Reply { content_type: Some("text/html"), ..Reply::json(502, "<html><title>502 Bad Gateway</title>") };
    let engine = FakeEngine::start().on_every_push(page);
    let run = run(TestEnv::new().command(&engine).args(["regpush", "localhost:0/app:1"]));
    assert_eq!(run.status, 4, "{run}");
    assert!(run.stderr.contains("the engine's answer is not JSON: `<html><title>502 Bad Gateway"), "{run}");
}

#[test]
fn error_without_detail_fails_the_push() {
    let engine = FakeEngine::start().on_every_push(Reply::stream([r#"{"error":"no space left on device"}"#]));
    let run = run(TestEnv::new().command(&engine).args(["regpush", "localhost:0/app:1"]));
    assert_eq!(run.status, 4, "{run}");
    assert!(run.stderr.contains("cannot push localhost:0/app:1: no space left on device"), "{run}");
}

#[test]
fn refusal_ends_the_push_while_the_connection_stays_open() {
    let reply = Reply::stream([refusal("manifest invalid")]).ending(End::Hang);
    let engine = FakeEngine::start()
        .on_every_push(reply)
        .on("GET /v1.41/images/localhost:0/app:1/json", no_such_image());
    let started = Instant::now();
    let run = run(TestEnv::new().command(&engine).args(["regpush", "localhost:0/app:1"]));
    assert_eq!(run.status, 1, "{run}");
    // A push without progress stalls after 60 s.
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}

#[test]
fn decodes_the_stream_independent_of_chunk_sizes() {
    let page = "x".repeat(200_000);
    let long = format!(r#"{{"status":"{page}","unknown":{{"a":[{{}}]}}}}"#);
    let stream = format!("{REFERS}\r\n{long}{}\n\n{}", r#"{"status":"Pushed","id":"aa"}"#, digest_line("1"));
    for size in [1, 7, 4096, 1 << 20] {
        let pieces = stream.as_bytes().chunks(size).map(<[u8]>::to_vec).collect();
        let reply = Reply { content_type: None, pieces, ..Reply::json(200, "") };
        let engine = FakeEngine::start().serving_pushed().on_every_push(reply);
        let mut command = TestEnv::new().command(&engine);
        // On a slow machine, an object whose bytes come one by one may take long.
        command.args(["regpush", "--format", "json", "--stall-timeout", "0", "localhost:0/app:1"]);
        let run = run(&mut command);
        assert_eq!(run.status, 0, "{size}: {run}");
        assert_eq!(run.json()["layers"]["pushed"], 1, "{size}");
    }
}

#[test]
fn missing_image_error_suggests_local_names() {
    let images =
        r#"[{"RepoTags":["app:1","localhost:0/other:1"]},{"RepoTags":null},{"RepoTags":["<none>:<none>"]}]"#;
    let table = [
        ("localhost:0/app:1", "hint: tag the image first: `docker tag app:1 localhost:0/app:1`"),
        ("localhost:0/othr:1", "hint: did you mean localhost:0/other:1?"),
        ("localhost:0/nothing-like-that:7", "hint: run `docker images` to list local images"),
    ];
    for (image, hint) in table {
        let engine = FakeEngine::start()
            .on_every_push(Reply::stream([refusal(&format!("tag does not exist: {image}"))]))
            .on("GET /v1.41/images/json", Reply::json(200, images));
        let run = run(TestEnv::new().command(&engine).args(["regpush", image]));
        assert_eq!(run.status, 5, "{run}");
        assert!(run.stderr.contains(hint), "{run}");
    }
}

#[test]
fn negotiates_the_api_version_by_ping() {
    let table = [
        (Ping::Version("1.41"), "POST /v1.41/images/"),
        (Ping::NoVersion, "POST /images/"),
        (Ping::GetOnly, "POST /v1.41/images/"),
    ];
    for (ping, line) in table {
        let engine = FakeEngine::start()
            .serving_pushed()
            .with_ping(ping)
            .on_every_push(Reply::stream([digest_line("1")]));
        let run = run(TestEnv::new().command(&engine).args(["regpush", "localhost:0/app:1"]));
        assert_eq!(run.status, 0, "{ping:?}: {run}");
        assert!(engine.pushes()[0].line.starts_with(line), "{ping:?}: {:?}", engine.pushes());
    }
}

#[test]
fn docker_api_version_is_used_without_negotiation() {
    let engine = FakeEngine::start()
        .serving_pushed()
        .allow("GET /v1.30/info", Reply::json(200, "{}"))
        .on_every_push(Reply::stream([digest_line("1")]));
    let mut command = TestEnv::new().command(&engine);
    let pinned = run(command.args(["regpush", "localhost:0/app:1"]).env("DOCKER_API_VERSION", "v1.30"));
    assert_eq!(pinned.status, 0, "{pinned}");
    assert!(engine.pushes()[0].line.starts_with("POST /v1.30/images/"), "{:?}", engine.pushes());

    let garbage =
        run(TestEnv::new().command(&engine).args(["regpush", "app"]).env("DOCKER_API_VERSION", "garbage"));
    assert_eq!(garbage.status, 4, "{garbage}");
    assert!(garbage.stderr.contains("invalid API version (`garbage`) in DOCKER_API_VERSION"), "{garbage}");
}

#[test]
fn host_option_overrides_docker_host() {
    let engine = FakeEngine::start().serving_pushed().on_every_push(Reply::stream([digest_line("1")]));
    let env = TestEnv::new();
    let mut command = env.without_engine();
    command.env("DOCKER_HOST", "unix:///nothing/here").args(["--host", &engine.host]);
    let chosen = run(command.args(["regpush", "localhost:0/app:1"]));
    assert_eq!(chosen.status, 0, "{chosen}");

    // Like docker, the plugin ignores an empty `--context`.
    let mut command = env.command(&engine);
    let unset = run(command.args(["-c", "", "regpush", "localhost:0/app:1"]));
    assert_eq!(unset.status, 0, "{unset}");
}
