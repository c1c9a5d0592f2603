//! Checks the plugin's JSON output against the schemas in `docs/`.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::engine::{DIGEST, End, FakeEngine, Ping, Reply, digest_line, refusal};
use crate::support::env::{Run, TestEnv, run};
use crate::support::schema::Printed;

const IMAGE: &str = "localhost:0/app:1";

/// Validates every line of stdout and stderr against the schemas. Returns the results and the events.
fn checked(run: &Run) -> (Vec<Value>, Vec<Value>) {
    let printed = Printed::new();
    let results = run.stdout.lines().map(|line| printed.assert_result(line)).collect();
    let events = run.stderr.lines().map(|line| printed.assert_event(line)).collect();
    (results, events)
}

fn push(engine: &FakeEngine, arguments: &[&str]) -> Run {
    let env = TestEnv::new();
    let json = ["regpush", "--format", "json", "--progress", "json"];
    run(env.command(engine).args(json).args(arguments))
}

fn of_kind<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["event"] == kind).collect()
}

#[test]
fn retried_push_matches_the_schemas() {
    let layer = |status: &str, detail: Value| {
        json!({"status": status, "progressDetail": detail, "id": "91efb8fa70ba"}).to_string()
    };
    let broken = [
        layer("Preparing", json!({})),
        layer("Pushing", json!({"current": 5, "total": 10})),
        layer("Mounted from team/x", json!({})),
        layer("Something new\u{1b}[2J", json!({})),
        refusal("write tcp 127.0.0.1:1->127.0.0.1:2: write: connection reset by peer"),
    ];
    let healed = [
        json!({"status": "The push refers to repository [localhost:0/app]"}).to_string(),
        layer("Waiting", json!({})),
        layer("Waiting", json!({})),
        layer("Retrying in 5 seconds", json!({})),
        layer("Pushing", json!({"current": 12, "total": 10})),
        layer("Pushed", json!({})),
        digest_line("1"),
    ];
    let path = "POST /v1.41/images/localhost:0/app/push";
    let engine =
        FakeEngine::start().serving_pushed().on(path, Reply::stream(broken)).on(path, Reply::stream(healed));
    let run = push(&engine, &[IMAGE]);
    let (results, events) = checked(&run);
    assert_eq!((run.status, results.len()), (0, 1), "{run}");
    assert_eq!(of_kind(&events, "start").len(), 1, "{run}");
    let attempt = of_kind(&events, "attempt")[0];
    assert_eq!((&attempt["number"], &attempt["of"]), (&json!(2), &json!(6)), "{attempt}");
    assert_eq!(attempt["reason"], "connection reset by peer");
    let states: Vec<&Value> = of_kind(&events, "layer").into_iter().map(|event| &event["state"]).collect();
    let want = ["preparing", "pushing", "mounted", "other", "waiting", "retrying", "pushing", "pushed"];
    assert_eq!(states, want, "repeated states are not reported: {run}");
    let told = events.last().unwrap();
    assert_eq!((&told["event"], &told["digest"]), (&json!("result"), &json!(DIGEST)));
    for (name, value) in results[0].as_object().unwrap() {
        assert_eq!(&told[name], value, "the event has the fields of stdout: {name}");
    }
    assert!(!run.stderr.contains('\u{1b}') && !run.stderr.contains("\\u001b"), "{run}");
}

#[test]
fn failures_match_the_schemas() {
    let digest = format!("app@sha256:{}", "0".repeat(64));
    let refused = FakeEngine::start().on_every_push(Reply::stream([refusal("no basic auth credentials")]));
    let table: [(&FakeEngine, &[&str], i32, &str); 3] = [
        (&refused, &[IMAGE], 3, "auth"),
        (&refused, &["localhost:0/app:1", "localhost:0/web:2"], 3, "auth"),
        (&refused, &[&digest], 125, "reference"),
    ];
    for (engine, arguments, status, class) in table {
        let run = push(engine, arguments);
        let (results, events) = checked(&run);
        assert_eq!(run.status, status, "{run}");
        assert_eq!(results.len(), arguments.len(), "{run}");
        assert_eq!(results[0]["error"]["class"], class, "{run}");
        assert_eq!(of_kind(&events, "result").len(), arguments.len(), "{run}");
    }
    // Without an engine, the push of every image fails.
    let env = TestEnv::new();
    let json = ["-H", "unix:///nowhere.sock", "regpush", "--format", "json", "--progress", "json"];
    let gone = run(env.without_engine().args(json).args(["a:1", "b:2"]));
    let (results, events) = checked(&gone);
    assert_eq!((gone.status, results.len()), (4, 2), "{gone}");
    assert_eq!(of_kind(&events, "result").len(), 2, "{gone}");
}

/// Returns an image with two platforms, of which the engine has only one.
fn image_for_two_platforms() -> Value {
    let manifest = |id: &str, here: bool, platform: Value| json!({"ID": id, "Available": here, "ImageData": {"Platform": platform}});
    json!({
        "Id": DIGEST,
        "RepoTags": [IMAGE],
        "Manifests": [
            manifest("sha256:aa", true, json!({"os": "linux", "architecture": "amd64"})),
            manifest("sha256:bb", false, json!({"os": "linux", "architecture": "arm64", "variant": "v8"})),
            {"ID": "sha256:cc", "Available": true, "Kind": "attestation"},
        ],
    })
}

#[test]
fn an_interrupted_push_reports_the_announced_platforms() {
    let engine = FakeEngine::start()
        .with_ping(Ping::Version("1.51"))
        .on(
            "GET /v1.51/images/localhost:0/app:1/json?manifests=true",
            Reply::json(200, &image_for_two_platforms().to_string()),
        )
        .on_every_push(Reply::stream([digest_line("2")]).ending(End::Hang));
    let env = TestEnv::new();
    let mut command = env.command(&engine);
    command.args(["regpush", "--format", "json", "--platform", "linux/amd64", "--verify", "never", IMAGE]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    engine.wait_for_pushes(1);
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let ended = child.wait_with_output().unwrap();
    let result = Printed::new().assert_result(String::from_utf8(ended.stdout).unwrap().trim());
    assert_eq!(
        (ended.status.code(), &result["error"]["class"]),
        (Some(130), &json!("cancelled")),
        "{result}"
    );
    assert_eq!(result["platforms"]["sent"], json!(["linux/amd64"]), "{result}");
}

#[test]
fn platforms_and_dry_run_findings_match_the_schemas() {
    let image = image_for_two_platforms();
    let narrowed = json!({"aux": {
        "manifestPushedInsteadOfIndex": true,
        "originalIndex": {"digest": "sha256:index"},
        "selectedManifest": {"digest": "sha256:aa", "platform": {"os": "linux", "architecture": "amd64"}},
    }});
    let stream = || Reply::stream([narrowed.to_string(), digest_line("1")]);
    let engine = FakeEngine::start()
        .serving_pushed()
        .with_ping(Ping::Version("1.51"))
        .on("GET /v1.51/images/localhost:0/app:1/json?manifests=true", Reply::json(200, &image.to_string()))
        // If the push ends before the engine has answered, the plugin asks again.
        .allow("GET /v1.51/images/localhost:0/app:1/json", Reply::json(200, &image.to_string()))
        .on_every_push(stream());
    let run = push(&engine, &[IMAGE]);
    let (results, events) = checked(&run);
    assert_eq!(run.status, 0, "{run}");
    let platforms = json!({"sent": ["linux/amd64"], "missing": ["linux/arm64/v8"], "others": 0, "all": 2});
    assert_eq!(results[0]["platforms"], platforms, "{run}");
    let warning = "only linux/amd64 was pushed, as sha256:aa: the engine does not have all platforms of the index sha256:index";
    assert_eq!(results[0]["warnings"], json!([warning]), "{run}");
    let notes: Vec<&Value> = of_kind(&events, "note").into_iter().map(|note| &note["message"]).collect();
    assert!(notes.contains(&&json!(warning)), "{run}");
    let announced = "platforms: the engine has linux/amd64, but not linux/arm64/v8; the engine pushes one platform only, without attestations, and the tag then names this image, even if it names the complete one now";
    assert!(notes.contains(&&json!(announced)), "{run}");

    // The plugin prints the note about missing platforms once, even if the engine answers the first inspect request
    // only during the verification.
    let text = image.to_string();
    let halves = text.split_at(1);
    let late = FakeEngine::start()
        .serving_pushed()
        .with_ping(Ping::Version("1.51"))
        .on(
            "GET /v1.51/images/localhost:0/app:1/json",
            Reply::stream([halves.0, halves.1]).slowly(Duration::from_secs(3)),
        )
        .on("GET /v1.51/images/localhost:0/app:1/json", Reply::json(200, &text))
        .on(
            "GET /v1.51/distribution/localhost:0/app:1/json",
            Reply::stream([r#"{"Descriptor":"#, &format!(r#"{{"digest":"{DIGEST}","size":528}}}}"#)])
                .slowly(Duration::from_secs(3)),
        )
        .on_every_push(stream().slowly(Duration::from_millis(1500)));
    let run = push(&late, &[IMAGE]);
    let (results, events) = checked(&run);
    assert_eq!((run.status, &results[0]["platforms"]), (0, &platforms), "{run}");
    let notes = of_kind(&events, "note").into_iter().filter(|note| note["message"] == announced);
    assert_eq!(notes.count(), 1, "{run}");

    // With `--platform all` a missing platform is an error. If the engine cannot list platforms, the plugin reports
    // this error only after the push.
    let known = FakeEngine::start()
        .with_ping(Ping::Version("1.51"))
        .on("GET /v1.51/images/localhost:0/app:1/json?manifests=true", Reply::json(200, &image.to_string()));
    let unknown = FakeEngine::start().with_ping(Ping::Version("1.47")).on_every_push(stream());
    let afterwards = format!(
        "localhost:0/app:1 was pushed as {DIGEST}, one platform only: the engine does not have all platforms of the index"
    );
    for (engine, told) in [
        (&known, "the engine does not have all platforms of localhost:0/app:1: linux/arm64/v8 missing"),
        (&unknown, &afterwards),
    ] {
        let run = push(engine, &["--platform", "all", IMAGE]);
        let (results, _) = checked(&run);
        assert_eq!((run.status, &results[0]["error"]["message"]), (5, &json!(told)), "{run}");
    }

    // Checks the result of a dry run.
    let manifest = json!({"config": {"digest": "sha256:cc"}, "layers": []}).to_string();
    let registry = FakeEngine::at_tcp()
        .on("GET /v2/", Reply::json(200, "{}"))
        .on("POST /v2/app/blobs/uploads/", Reply::json(202, "").header("Location", "/v2/app/blobs/uploads/1"))
        .on("DELETE /v2/app/blobs/uploads/1", Reply::json(204, ""))
        .on(&format!("GET /v2/app/manifests/{DIGEST}"), Reply::json(200, &manifest))
        .on("GET /v2/app/tags/list", Reply::json(200, r#"{"tags":["1"]}"#))
        .on("GET /v2/app/blobs/sha256:cc", Reply::json(404, "{}"));
    let host = registry.host.trim_start_matches("tcp://").to_owned();
    let names = json!({"Descriptor": {"digest": DIGEST, "size": 528}}).to_string();
    let image = json!({"Id": "sha256:aa", "Size": 5, "RootFS": {"Layers": ["sha256:bb"]}}).to_string();
    let engine = FakeEngine::start()
        .on(&format!("GET /v1.41/images/{host}/app:1/json"), Reply::json(200, &image))
        .on(&format!("GET /v1.41/distribution/{host}/app:1/json"), Reply::json(200, &names));
    let run = push(&engine, &["--dry-run", &format!("{host}/app:1")]);
    let (results, events) = checked(&run);
    let findings = json!({
        "id": "sha256:aa", "size": 5, "layers": ["sha256:bb"], "missing_layers": ["sha256:bb"],
        "may_write": true, "tag_names": DIGEST, "is_same": false,
    });
    assert_eq!((run.status, &results[0]["dry_run"]), (0, &findings), "{run}");
    assert_eq!(of_kind(&events, "result")[0]["dry_run"], findings, "{run}");
}

/// `--progress rawjson` prints each JSON object of the engine on one line, with control characters escaped and secrets
/// redacted.
#[test]
fn rawjson_prints_engine_objects_escaped_and_redacted() {
    let lines = [
        "{\"status\":\"Pushing\",\r\n \"progressDetail\":{\"current\":5,\"total\":10},\t\"id\":\"aa\"}"
            .to_owned(),
        "{\"status\":\"a \u{9b}31m b \u{202e} s3cret\"}".to_owned(),
        digest_line("1"),
    ];
    let engine = FakeEngine::start().serving_pushed().on_every_push(Reply::stream(&lines));
    let env = TestEnv::new();
    let mut command = env.command(&engine);
    command.args(["regpush", "--progress", "rawjson", "-u", "alice", "--password-stdin", IMAGE]);
    let run = crate::support::env::run_with_stdin(&mut command, b"s3cret");
    assert_eq!(run.status, 0, "{run}");
    let shown: Vec<Value> = run.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(shown.len(), 3, "{run}");
    assert_eq!(
        shown[0],
        json!({"status": "Pushing", "progressDetail": {"current": 5, "total": 10}, "id": "aa"})
    );
    let status = shown[1]["status"].as_str().unwrap();
    assert!(status.starts_with("a \u{9b}31m b \u{202e} ") && !status.contains("s3cret"), "{run}");
    assert!(!run.stderr.contains(['\u{9b}', '\u{202e}', '\r', '\t']), "{run}");
}
