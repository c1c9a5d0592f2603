//! Tests of retries, stalled pushes, timeouts, verification, `--if-exists` and `--dry-run`.

use std::panic::AssertUnwindSafe;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use docker_regpush::docker::config::Config;
use docker_regpush::docker::context::{Choice, Endpoint};
use docker_regpush::engine::Engine;
use docker_regpush::reference::Reference;
use hyper::HeaderMap;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::engine::{DIGEST, End, FakeEngine, Reply, digest_line, no_such_image, refusal};
use crate::support::env::{Run, TestEnv, run, run_with_stdin};

const IMAGE: &str = "localhost:0/app:1";
const PUSH: &str = "POST /v1.41/images/localhost:0/app/push?tag=1&tlsVerify=false";
const DISTRIBUTION: &str = "GET /v1.41/distribution/localhost:0/app:1/json";
const INSPECT: &str = "GET /v1.41/images/localhost:0/app:1/json";
const ID: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const OTHER: &str = "sha256:9999999999999999999999999999999999999999999999999999999999999999";

fn pushing(current: u64) -> String {
    json!({"status": "Pushing", "progressDetail": {"current": current, "total": 1000}, "id": "a"}).to_string()
}

fn push(engine: &FakeEngine, options: &[&str]) -> Run {
    let env = TestEnv::new();
    run(env.command(engine).args(["regpush", "--format", "json"]).args(options).arg(IMAGE))
}

fn broken() -> Reply {
    Reply::stream([refusal("write tcp 127.0.0.1:1->127.0.0.1:2: write: connection reset by peer")])
}

fn pushed() -> Reply {
    Reply::stream([digest_line("1")])
}

#[test]
fn retries_transient_failures_and_prints_each_wait() {
    let engine =
        FakeEngine::start().serving_pushed().on(PUSH, broken()).on(PUSH, broken()).on(PUSH, pushed());
    let healed = push(&engine, &[]);
    assert_eq!(healed.status, 0, "{healed}");
    assert_eq!(healed.json()["attempts"], 3);
    for number in [2, 3] {
        let start = format!("connection reset by peer; attempt {number} of 6 in ");
        assert!(
            healed.stderr.lines().any(|line| line.starts_with(&start) && line.ends_with('s')),
            "{healed}"
        );
    }
}

#[test]
fn final_error_lists_all_attempts() {
    let other = Reply::stream([refusal("received unexpected HTTP status: 503 Service Unavailable")]);
    let engine = FakeEngine::start().on(PUSH, broken()).on(PUSH, other);
    let given_up = push(&engine, &["--retries", "1"]);
    assert_eq!(given_up.status, 6, "{given_up}");
    let message = given_up.json()["error"]["message"].as_str().unwrap().to_owned();
    let told = "after 2 attempts (1: connection reset by peer; 2: received unexpected HTTP status: 503 Service Unavailable): received";
    assert!(message.contains(told), "{message}");
    assert_eq!(push(&FakeEngine::start().on(PUSH, broken()), &["--retries", "0"]).json()["attempts"], 1);
}

#[test]
fn does_not_retry_refusals() {
    for (message, status) in [
        ("denied: requested access to the resource is denied", 3),
        ("no basic auth credentials", 3),
        ("tag invalid: The image tag '1' is immutable", 1),
        ("x509: certificate signed by unknown authority", 6),
        ("tag does not exist: localhost:0/app:1", 5),
        // The plugin did not cancel the push, so this message means that the engine is shutting down.
        ("failed to copy: context canceled", 4),
    ] {
        let mut engine =
            FakeEngine::start().on(PUSH, Reply::stream([refusal(message)])).in_another_network(true);
        if status == 1 {
            // The plugin inspects the local image to find out whether the immutable tag in the registry already names
            // this image.
            engine = engine.on(INSPECT, no_such_image());
        }
        if status == 5 {
            engine = engine.on("GET /v1.41/images/json", Reply::json(200, "[]"));
        }
        let refused = push(&engine, &[]);
        assert_eq!((refused.status, &refused.json()["attempts"]), (status, &json!(1)), "{refused}");
    }
}

/// Starts a command, and returns when the command has printed `told` to stderr.
fn start(command: &mut Command, told: &str) -> std::process::Child {
    use std::io::{BufRead as _, BufReader};
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut lines = BufReader::new(child.stderr.as_mut().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains(told)), "{told}");
    child
}

#[test]
fn signals_end_a_retry_wait_at_once() {
    for (signal, status) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let engine = FakeEngine::start().on(PUSH, Reply::stream([refusal("toomanyrequests: slow down")]));
        let env = TestEnv::new();
        let mut child = start(env.command(&engine).args(["regpush", IMAGE]), "; attempt 2 of 6 in ");
        let told = Instant::now();
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(status));
        // Without SIGINT or SIGTERM, the plugin would wait at least 5 s before attempt 2.
        assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
    }
}

/// The push takes four times as long as the stall timeout.
#[test]
fn slow_but_moving_push_is_not_stalled() {
    let steps = (1..=40).map(pushing).chain([digest_line("1")]);
    let engine = FakeEngine::start()
        .serving_pushed()
        .on(PUSH, Reply::stream(steps).slowly(Duration::from_millis(200)));
    let slow = push(&engine, &["--stall-timeout", "2s"]);
    assert_eq!(slow.status, 0, "{slow}");
    assert_eq!(slow.json()["attempts"], 1, "{slow}");
    assert!(slow.json()["seconds"].as_f64().unwrap() >= 8.0, "{slow}");
}

#[test]
fn stall_timeout_0_disables_the_limit() {
    let slow = Reply::stream([pushing(5), digest_line("1")]).slowly(Duration::from_millis(500));
    let engine = FakeEngine::start().serving_pushed().on(PUSH, slow);
    assert_eq!(push(&engine, &["--stall-timeout", "0"]).json()["attempts"], 1);
}

#[test]
fn ends_and_retries_a_stalled_push() {
    // The first engine stops sending, and the second engine repeats one progress line forever.
    let silent = Reply::stream([pushing(5)]).ending(End::Hang);
    let repeating = Reply::stream([pushing(5)]).times(usize::MAX).slowly(Duration::from_millis(100));
    for stalled in [silent, repeating] {
        let engine = FakeEngine::start().serving_pushed().on(PUSH, stalled).on(PUSH, pushed());
        let healed = push(&engine, &["--stall-timeout", "1s"]);
        assert_eq!((healed.status, &healed.json()["attempts"]), (0, &json!(2)), "{healed}");
        assert!(healed.stderr.contains("\nno progress for 1s; attempt 2 of 6 in "), "{healed}");
    }
}

#[test]
fn exits_7_if_every_attempt_stalls() {
    let hanging = || Reply::stream([pushing(5)]).ending(End::Hang);
    let engine = FakeEngine::start().on(PUSH, hanging()).on(PUSH, hanging());
    let stalled = push(&engine, &["--stall-timeout", "1s", "--retries", "1"]);
    assert_eq!(stalled.status, 7, "{stalled}");
    let error = &stalled.json()["error"];
    assert_eq!(error["class"], "stalled");
    assert!(
        error["message"].as_str().unwrap().contains("after 2 attempts, each with the same error"),
        "{error}"
    );
    assert!(error["hint"].as_str().unwrap().contains("raise --stall-timeout"), "{error}");
}

/// podman sends no progress during a push, so the plugin cannot detect a stall.
#[test]
fn never_treats_podman_as_stalled() {
    let quiet = |podman: bool| {
        let reply = Reply::stream([r#"{"status":"x"}"#.to_owned(), digest_line("1")]);
        let reply = reply.slowly(Duration::from_secs(3));
        let reply = if podman { reply.header("Server", "Libpod/4.3.1 (linux)") } else { reply };
        let engine = FakeEngine::start().on(PUSH, reply);
        let engine = if podman { engine.serving_pushed() } else { engine };
        push(&engine, &["--stall-timeout", "1s", "--retries", "0"]).status
    };
    assert_eq!((quiet(true), quiet(false)), (0, 7));
}

#[test]
fn timeout_covers_all_attempts() {
    let engine =
        FakeEngine::start().on(PUSH, broken()).on(PUSH, Reply::stream([pushing(5)]).ending(End::Hang));
    let late = push(&engine, &["--timeout", "10s"]);
    assert_eq!(late.status, 7, "{late}");
    // Without `--timeout`, the second attempt would stall for 60 s.
    assert!(late.json()["seconds"].as_f64().unwrap() < 60.0, "{late}");
    let told = "cannot push localhost:0/app:1 within 10s; the last attempt failed: connection reset by peer";
    assert!(late.stderr.contains(told), "{late}");
    assert_eq!(late.json()["error"]["class"], "stalled");
}

#[test]
fn timeout_during_verification_says_that_the_image_was_pushed() {
    let hanging = Reply::stream(["{"]).ending(End::Hang);
    let engine = FakeEngine::start().on(PUSH, pushed()).on(DISTRIBUTION, hanging);
    let late = push(&engine, &["--timeout", "5s"]);
    assert_eq!(late.status, 7, "{late}");
    let told = format!("localhost:0/app:1 was pushed as {DIGEST}, but not verified within 5s");
    assert!(late.stderr.contains(&told), "{late}");
}

#[test]
fn parses_durations_and_refuses_invalid_option_values() {
    for (options, told) in [
        (["--stall-timeout", "soon"], "invalid value 'soon' for '--stall-timeout"),
        (["--stall-timeout=-1s", "-q"], "invalid value '-1s' for '--stall-timeout"),
        (["--timeout", "90"], "invalid value '90' for '--timeout"),
        (["--retries", "many"], "invalid value 'many' for '--retries"),
        (["--if-exists", "replace"], "invalid value 'replace' for '--if-exists"),
        (["--verify", "sometimes"], "invalid value 'sometimes' for '--verify"),
    ] {
        let refused = run(TestEnv::new().without_engine().arg("regpush").args(options).arg(IMAGE));
        assert_eq!(refused.status, 125, "{refused}");
        assert!(refused.stderr.contains(told), "{told}: {refused}");
    }
    for options in
        [["--stall-timeout", "0"], ["--timeout", "0"], ["--timeout", "1h30m"], ["--timeout", "999999999y"]]
    {
        assert_eq!(
            push(&FakeEngine::start().serving_pushed().on(PUSH, pushed()), &options).status,
            0,
            "{options:?}"
        );
    }
}

fn names(digest: &str) -> Reply {
    Reply::json(200, &json!({"Descriptor": {"digest": digest, "size": 528}}).to_string())
}

fn names_nothing() -> Reply {
    Reply::json(404, r#"{"message":"manifest unknown: manifest unknown"}"#)
}

#[test]
fn exits_9_if_the_registry_serves_another_digest() {
    for (reply, found) in [
        (names(OTHER), format!("but the tag in the registry points to {OTHER}")),
        (names_nothing(), "but the registry does not have this tag".to_owned()),
    ] {
        let engine = FakeEngine::start().serving_pushed().on(PUSH, pushed());
        let engine = (0..3).fold(engine, |engine, _| engine.on(DISTRIBUTION, reply.clone()));
        let unverified = push(&engine, &["--verify-wait", "2s"]);
        assert_eq!(unverified.status, 9, "{unverified}");
        let result = unverified.json();
        assert_eq!((&result["verified"], &result["digest"]), (&json!(false), &json!(null)), "{unverified}");
        assert_eq!(result["error"]["class"], "unverified");
        let message = result["error"]["message"].as_str().unwrap();
        assert!(message.contains(&format!("was pushed as {DIGEST}, {found}")), "{message}");
    }
}

#[test]
fn verification_asks_a_slow_registry_again() {
    let engine = FakeEngine::start().serving_pushed().on(PUSH, pushed()).on(DISTRIBUTION, names_nothing());
    let pushed = push(&engine, &[]);
    assert_eq!((pushed.status, &pushed.json()["verified"]), (0, &json!(true)), "{pushed}");
}

/// A cache in front of the registry may answer for some time as before the push.
#[test]
fn verification_waits_as_long_as_the_user_allows() {
    let engine = FakeEngine::start()
        .on(PUSH, pushed())
        .on(DISTRIBUTION, names_nothing())
        .on(DISTRIBUTION, names_nothing())
        .on(DISTRIBUTION, names(OTHER))
        .on(DISTRIBUTION, names(DIGEST));
    let late = run(TestEnv::new().command(&engine).args(["regpush", IMAGE]));
    assert_eq!(late.status, 0, "{late}");
    let notes = [
        "the registry does not have this tag; asking the registry again in 2s",
        &format!("the tag in the registry points to {OTHER}; asking the registry again in 4s"),
    ];
    assert!(notes.iter().all(|note| late.stderr.contains(note)), "{late}");
    assert!(late.stderr.contains(", verified"), "{late}");

    let engine = FakeEngine::start().serving_pushed().on(PUSH, pushed()).on(DISTRIBUTION, names_nothing());
    assert_eq!(push(&engine, &["--verify-wait", "0"]).status, 9);
}

/// An engine may report success although a web server answered each request.
#[test]
fn exits_9_if_a_web_server_answers_instead_of_the_registry() {
    let page = || Reply { content_type: Some("text/html"), ..Reply::json(200, "<html>hello</html>") };
    for verify in ["auto", "always"] {
        let registry = FakeEngine::at_tcp()
            .on("GET /v2/", Reply::json(200, "{}"))
            .allow("GET /v2/app/manifests/1", page())
            .allow("HEAD /v2/app/manifests/1", page());
        let host = registry.host.trim_start_matches("tcp://").to_owned();
        let unsure =
            Reply::json(500, r#"{"message":"invalid character '<' looking for beginning of value"}"#);
        let engine = FakeEngine::start()
            .on_next_push(pushed())
            .on(&format!("GET /v1.41/distribution/{host}/app:1/json"), unsure);
        let env = TestEnv::new();
        let mut command = env.command(&engine);
        let web = run(command.args(["regpush", "--verify", verify, &format!("{host}/app:1")]));
        assert_eq!(web.status, 9, "{web}");
        let told = format!("was pushed as {DIGEST}, but {host} is not a registry: its manifest is not JSON");
        assert!(web.stderr.contains(&told), "{web}");
    }
}

/// An account may have the right to push, but not to read.
#[test]
fn update_pushes_if_the_registry_shows_no_tags() {
    for (status, told) in [
        (401, "denies access for user `alice` from the command line"),
        (403, "denies access for user `alice` from the command line"),
        (412, "answered 412 Precondition Failed"),
    ] {
        let basic = || Reply::json(401, "{}").header("WWW-Authenticate", "Basic realm=\"x\"");
        let registry = FakeEngine::at_tcp()
            .on("GET /v2/", basic())
            .on("GET /v2/", Reply::json(200, "{}"))
            .allow("HEAD /v2/app/manifests/1", Reply::json(status, ""))
            .allow("GET /v2/app/manifests/1", Reply::json(status, ""));
        let host = registry.host.trim_start_matches("tcp://").to_owned();
        let unsure = Reply::json(404, "Not Found");
        let engine = FakeEngine::start()
            .on(&format!("GET /v1.41/images/{host}/app:1/json"), image(&[]))
            .on_next_push(pushed())
            .allow(&format!("GET /v1.41/distribution/{host}/app:1/json"), unsure);
        let env = TestEnv::new();
        let mut command = env.command(&engine);
        command.args(["regpush", "--if-exists", "update", "-u", "alice", "--password-stdin"]);
        let update = run_with_stdin(command.arg(format!("{host}/app:1")), b"s3cret");
        assert_eq!(update.status, 0, "{update}");
        for warning in ["cannot look up the tag in the registry: ", "cannot verify the push: "] {
            let lines = update.stderr.lines().filter(|line| line.starts_with(&format!("warning: {warning}")));
            let lines: Vec<&str> = lines.collect();
            assert!(lines.len() == 1 && lines[0].contains(told), "{warning}: {update}");
        }
        drop(registry);
    }
}

#[test]
fn failed_verification_is_a_warning_or_with_always_an_error() {
    // podman does not support `/distribution`, and no registry listens on port 0.
    let engine = |image: &str| {
        let path = format!("POST /v1.41/images/{}/push?tag=1&tlsVerify=false", image.trim_end_matches(":1"));
        let asked = format!("GET /v1.41/distribution/{image}/json");
        let unknown = || Reply::json(404, "Not Found");
        // With `--verify always` the plugin repeats the `/distribution` request.
        FakeEngine::start().on(&path, pushed()).on(&asked, unknown()).allow(&asked, unknown())
    };
    let image = "localhost:0/app:1";
    let verified = |verify: &str| {
        let engine = engine(image);
        let arguments = ["regpush", "--format", "json", "--verify", verify, "--verify-wait", "2s", image];
        run(TestEnv::new().command(&engine).args(arguments))
    };
    let auto = verified("auto");
    assert_eq!((auto.status, &auto.json()["verified"]), (0, &json!(null)), "{auto}");
    let warning = "cannot verify the push: cannot reach the registry localhost:0";
    assert!(auto.stderr.contains(&format!("warning: {warning}")), "{auto}");
    assert!(auto.json()["warnings"][0].as_str().unwrap().starts_with(warning), "{auto}");
    let always = verified("always");
    assert_eq!((always.status, &always.json()["error"]["class"]), (6, &json!("network")), "{always}");
    assert!(always.stderr.contains("cannot verify localhost:0/app:1 after the push"), "{always}");

    let never = FakeEngine::start().on(PUSH, pushed());
    assert_eq!(push(&never, &["--verify", "never"]).json()["verified"], json!(null));
    assert!(never.request(DISTRIBUTION).is_none(), "no verification request");
}

#[test]
fn verify_always_repeats_a_failed_distribution_request() {
    let broken = Reply::json(500, r#"{"message":"Get http://localhost:0/v2/: EOF"}"#);
    let engine = FakeEngine::start().serving_pushed().on(PUSH, pushed()).on(DISTRIBUTION, broken);
    let env = TestEnv::new();
    let mut command = env.command(&engine);
    command.args(["regpush", "--format", "json", "--verify", "always", "--verify-wait", "2s", IMAGE]);
    let asked = run(&mut command);
    // No registry listens on port 0, so the plugin cannot check the blobs.
    assert_eq!(asked.status, 6, "{asked}");
    assert!(asked.stderr.contains("cannot reach the registry localhost:0"), "{asked}");
}

/// A proxy in front of the engine's socket may allow only pushes.
#[test]
fn pushes_through_an_engine_that_refuses_other_calls() {
    let page = || Reply { content_type: Some("text/html"), ..Reply::json(403, "<html>no</html>") };
    let engine = FakeEngine::start()
        .on("POST /v1.41/images/0.0.0.0:0/app/push?tag=1", pushed())
        .on("GET /v1.41/distribution/0.0.0.0:0/app:1/json", page())
        .on("GET /v1.41/info", page());
    // The plugin does not treat `0.0.0.0` as this machine, so it requests the engine's settings for registries with
    // `/info`.
    let run = run(TestEnv::new().command(&engine).args(["regpush", "--format", "json", "0.0.0.0:0/app:1"]));
    assert_eq!((run.status, &run.json()["verified"]), (0, &json!(null)), "{run}");
    assert!(run.stderr.contains("warning: cannot verify the push"), "{run}");
}

fn image(digests: &[&str]) -> Reply {
    let digests: Vec<String> = digests.iter().map(|digest| format!("localhost:0/app@{digest}")).collect();
    let layers = ["sha256:aaaaaaaaaaaa0", "sha256:bbbbbbbbbbbb0"];
    Reply::json(
        200,
        &json!({"Id": ID, "Size": 20_000_000, "RepoDigests": digests, "RootFS": {"Layers": layers}})
            .to_string(),
    )
}

#[test]
fn if_exists_decides_about_an_existing_tag() {
    // digest in the registry, digests of the local image, value of `--if-exists` → exit status, result
    let (nothing, same, other): (&[&str], &[&str], &[&str]) = (&[], &[DIGEST], &[OTHER]);
    let table = [
        (None, nothing, "update", 0, "pushed"),
        (None, nothing, "skip", 0, "pushed"),
        (None, nothing, "fail", 0, "pushed"),
        (Some(DIGEST), same, "update", 0, "unchanged"),
        (Some(DIGEST), same, "skip", 0, "unchanged"),
        (Some(DIGEST), same, "fail", 0, "unchanged"),
        // In the containerd store, the ID of an image is the digest of its manifest.
        (Some(ID), nothing, "fail", 0, "unchanged"),
        (Some(DIGEST), other, "update", 0, "pushed"),
        (Some(DIGEST), other, "skip", 0, "skipped"),
    ];
    for (there, own, wish, status, end) in table {
        let engine = FakeEngine::start()
            .serving_pushed()
            .on(INSPECT, image(own))
            .on(DISTRIBUTION, there.map_or_else(names_nothing, names));
        let engine = if end == "pushed" { engine.on(PUSH, pushed()) } else { engine };
        let run = push(&engine, &["--if-exists", wish]);
        let result = run.json();
        assert_eq!((run.status, &result["status"]), (status, &json!(end)), "{there:?} {own:?} {wish}: {run}");
        if end == "unchanged" || end == "skipped" {
            assert_eq!((&result["digest"], &result["attempts"]), (&json!(there), &json!(0)), "{run}");
        }
    }
}

/// If the registry is unreachable, the plugin cannot tell whether the tag names another image.
#[test]
fn unreachable_registry_is_not_reported_as_another_image() {
    let engine = FakeEngine::start().on(INSPECT, image(&[])).on(DISTRIBUTION, names(DIGEST));
    let unknown = push(&engine, &["--if-exists", "fail", "--retries", "0"]);
    assert_eq!((unknown.status, &unknown.json()["error"]["class"]), (6, &json!("network")), "{unknown}");
    assert_eq!(unknown.json()["attempts"], 1);
}

/// Starts a fake registry, and returns the registry and its `host:port`.
fn registry() -> (FakeEngine, String) {
    let registry = FakeEngine::at_tcp().on("GET /v2/", Reply { pieces: vec![], ..Reply::json(200, "") });
    let host = registry.host.trim_start_matches("tcp://").to_owned();
    (registry, host)
}

/// docker's classic store has no digest for an unpushed image, so the plugin compares image configurations.
#[test]
fn same_configuration_means_same_image() {
    for (config, wish, status, end) in [
        (ID, "update", 0, "unchanged"),
        (OTHER, "update", 0, "pushed"),
        (ID, "fail", 0, "unchanged"),
        (OTHER, "fail", 8, "failed"),
    ] {
        let (registry, host) = registry();
        let manifest = json!({"config": {"digest": config}, "layers": []}).to_string();
        let registry = registry.on(&format!("GET /v2/app/manifests/{DIGEST}"), Reply::json(200, &manifest));
        let engine = FakeEngine::start()
            .on(&format!("GET /v1.41/images/{host}/app:1/json"), image(&[]))
            .on(&format!("GET /v1.41/distribution/{host}/app:1/json"), names(DIGEST));
        let engine = if end == "pushed" { engine.on_every_push(pushed()) } else { engine };
        let env = TestEnv::new();
        let mut command = env.command(&engine);
        command.args(["regpush", "--format", "json", "--verify", "never", "--if-exists", wish]);
        let run = run(command.arg(format!("{host}/app:1")));
        assert_eq!((run.status, &run.json()["status"]), (status, &json!(end)), "{run}");
        drop(registry);
        assert_eq!(engine.pushes().is_empty(), end != "pushed");
        if status == 8 {
            let error = run.json()["error"].clone();
            assert_eq!(error["class"], "exists");
            let message = error["message"].as_str().unwrap();
            assert!(message.contains(DIGEST) && message.contains(ID), "{message}");
        }
    }
}

#[test]
fn immutable_tag_with_the_same_image_is_unchanged() {
    let refused = || Reply::stream([refusal("tag invalid: The image tag '1' is immutable")]);
    let engine =
        FakeEngine::start().on(PUSH, refused()).on(INSPECT, image(&[DIGEST])).on(DISTRIBUTION, names(DIGEST));
    let same = push(&engine, &[]);
    assert_eq!((same.status, &same.json()["status"]), (0, &json!("unchanged")), "{same}");
    let engine =
        FakeEngine::start().on(PUSH, refused()).on(INSPECT, image(&[OTHER])).on(DISTRIBUTION, names(DIGEST));
    let other = push(&engine, &[]);
    assert_eq!((other.status, &other.json()["error"]["class"]), (1, &json!("rejected")), "{other}");
    // The first attempt stored the tag, but its answer was lost.
    let engine = FakeEngine::start()
        .on(PUSH, broken())
        .on(PUSH, refused())
        .on(INSPECT, image(&[DIGEST]))
        .on(DISTRIBUTION, names(DIGEST));
    let lost = push(&engine, &[]);
    assert_eq!((lost.status, &lost.json()["status"]), (0, &json!("unchanged")), "{lost}");
}

const UPLOADS: &str = "POST /v2/app/blobs/uploads/";

fn begun() -> Reply {
    Reply::json(202, "").header("Location", "/v2/app/blobs/uploads/1234?_state=x")
}

#[test]
fn dry_run_prints_what_a_push_would_do() {
    let (registry, host) = registry();
    let own = json!({"config": {"digest": ID}, "layers": [{"digest": OTHER}]}).to_string();
    let config = json!({"rootfs": {"diff_ids": ["sha256:aaaaaaaaaaaa0"]}}).to_string();
    let registry = registry
        .on(UPLOADS, begun())
        // An account may have permission to upload layers but not to delete uploads.
        .on("DELETE /v2/app/blobs/uploads/1234?_state=x", Reply::json(403, "{}"))
        .on("GET /v2/app/tags/list?n=1000", Reply::json(200, r#"{"tags":["1","0.9"]}"#))
        .on("GET /v2/app/manifests/0.9", Reply::json(200, &own))
        .on(&format!("GET /v2/app/blobs/{ID}"), Reply::json(200, &config))
        .on(&format!("HEAD /v2/app/blobs/{OTHER}"), Reply::json(200, ""));
    let engine = FakeEngine::start()
        .on(&format!("GET /v1.41/images/{host}/app:1/json"), image(&[]))
        .on(&format!("GET /v1.41/distribution/{host}/app:1/json"), names_nothing());
    let name = format!("{host}/app:1");
    let dry =
        run(TestEnv::new().command(&engine).args(["regpush", "--dry-run", "--verify", "always", &name]));
    assert_eq!(dry.status, 0, "{dry}");
    let told = format!(
        "\
Image:       {name}
ID:          {ID}, 20MB, 2 layers
Credentials: none; can write to {host}/app
Tag:         1 does not exist
Layers:      1 of 2 missing: bbbbbbbbbbbb
Result:      would be pushed; nothing was sent
"
    );
    assert_eq!(dry.stdout, told, "{dry}");
    assert!(engine.pushes().is_empty());
    drop(registry);
}

#[test]
fn dry_run_exits_as_the_push_would() {
    let refused = Reply::json(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"log in"}]}"#)
        .header("WWW-Authenticate", "Basic realm=\"x\"");
    let denied = Reply::json(403, r#"{"errors":[{"code":"DENIED","message":"read only"}]}"#);
    for (answer, login, status, class) in [
        (refused.clone(), false, 3, "auth"),
        (refused, true, 3, "auth"),
        (denied, true, 3, "denied"),
        (Reply::json(404, "nope"), false, 1, "other"),
        (Reply::json(202, ""), false, 1, "other"),
        (Reply::json(503, "busy"), false, 6, "server"),
    ] {
        let (registry, host) = registry();
        let answers = if class == "auth" && login { 2 } else { 1 };
        let registry = (0..answers).fold(registry, |registry, _| registry.on(UPLOADS, answer.clone()));
        let engine = FakeEngine::start().on(&format!("GET /v1.41/images/{host}/app:1/json"), image(&[]));
        let env = TestEnv::new();
        let mut command = env.command(&engine);
        command
            .args(["regpush", "--dry-run", "--retries", "0", "--format", "json"])
            .arg(format!("{host}/app:1"));
        let run = if login {
            run_with_stdin(command.args(["-u", "alice", "--password-stdin"]), b"s3cret")
        } else {
            run(&mut command)
        };
        assert_eq!((run.status, &run.json()["error"]["class"]), (status, &json!(class)), "{run}");
        assert!(!run.stderr.contains("s3cret") && engine.pushes().is_empty(), "{run}");
        assert_eq!(run.stderr.contains("use an account that can write to it"), class == "denied", "{run}");
        drop(registry);
    }
    let engine = FakeEngine::start()
        .on(INSPECT, Reply::json(404, r#"{"message":"No such image: localhost:0/app:1"}"#))
        .on("GET /v1.41/images/json", Reply::json(200, "[]"));
    assert_eq!(push(&engine, &["--dry-run"]).status, 5);
}

const DETOUR: &str = "POST /v1.41/images/Localhost:0/app/push?tag=1";
const TAG: &str = "POST /v1.41/images/localhost:0/app:1/tag?repo=Localhost:0/app&tag=1";
const UNTAG: &str = "DELETE /v1.41/images/Localhost:0/app:1?noprune=true";

/// Starts an engine with the classic store, whose first push stalls. The engine answers the second push, to the
/// registry `Localhost:0` instead of `localhost:0`, with `detour`.
fn stuck(detour: Reply) -> FakeEngine {
    let preparing = json!({"status": "Preparing", "progressDetail": {}, "id": "a"}).to_string();
    FakeEngine::start()
        .has(IMAGE, ID)
        .on(PUSH, Reply::stream([preparing, pushing(5)]).ending(End::Hang))
        .on(TAG, Reply::json(201, ""))
        .on(DETOUR, detour)
        .on(UNTAG, Reply::json(200, "[]"))
}

#[test]
fn retries_a_stalled_upload_under_another_name() {
    // The plugin verifies the push under the reference that the user typed, not under `Localhost:0/app:1`.
    let engine = stuck(pushed()).on(DISTRIBUTION, names(DIGEST));
    let healed = push(&engine, &["--stall-timeout", "1s"]);
    assert_eq!((healed.status, &healed.json()["attempts"]), (0, &json!(2)), "{healed}");
    assert_eq!(healed.json()["reference"], IMAGE);
    // A TLS certificate may not be valid for `Localhost`, and a proxy may refuse this host name.
    for refused in ["x509: certificate is valid for localhost, not Localhost", "denied: no such host here"] {
        let engine = stuck(Reply::stream([refusal(refused)]));
        let closed = push(&engine, &["--stall-timeout", "1s"]);
        assert_eq!((closed.status, &closed.json()["attempts"]), (7, &json!(2)), "{closed}");
        let told = format!(
            "an earlier upload hangs in the engine, and a push under another spelling of the registry failed: {refused}"
        );
        assert!(closed.stderr.contains(&told), "{closed}");
    }
}

/// The engine runs at most five uploads at once, including stalled uploads. So the plugin retries under at most two
/// other spellings of the registry's host name.
#[test]
fn tries_at_most_two_other_names() {
    let hanging = || Reply::stream([pushing(5)]).ending(End::Hang);
    let preparing = json!({"status": "Preparing", "progressDetail": {}, "id": "a"}).to_string();
    let hanging = |_: ()| Reply {
        pieces: [preparing.clone().into_bytes(), hanging().pieces.concat()].into(),
        ..hanging()
    };
    let other = |line: &str| line.replace("Localhost", "lOcalhost");
    let engine = stuck(hanging(()))
        .on(&other(TAG), Reply::json(201, ""))
        .on(&other(DETOUR), hanging(()))
        .on(&other(UNTAG), Reply::json(200, "[]"));
    let stalled = push(&engine, &["--stall-timeout", "1s"]);
    assert_eq!((stalled.status, &stalled.json()["attempts"]), (7, &json!(3)), "{stalled}");
    assert!(stalled.stderr.contains("attempt 2 of 3 in "), "{stalled}");
}

/// The engine runs at most five uploads at once, and the three stalled uploads of tag 1 still run. So the plugin pushes
/// tag 2 under the usual host name, not under another spelling where a fourth upload could stall.
#[test]
fn next_tag_is_pushed_under_its_own_name_after_stalls() {
    let preparing = json!({"status": "Preparing", "progressDetail": {}, "id": "a"}).to_string();
    let hanging = || Reply::stream([preparing.clone(), pushing(5)]).ending(End::Hang);
    let other = |line: &str| line.replace("Localhost", "lOcalhost");
    let images = json!([{"RepoTags": [IMAGE, "localhost:0/app:2"]}]).to_string();
    let engine = stuck(hanging())
        .on("GET /v1.41/images/json", Reply::json(200, &images))
        .on(&other(TAG), Reply::json(201, ""))
        .on(&other(DETOUR), hanging())
        .on(&other(UNTAG), Reply::json(200, "[]"))
        .on(&PUSH.replace("tag=1", "tag=2"), Reply::stream([digest_line("2")]))
        .serving_pushed();
    let env = TestEnv::new();
    let mut command = env.command(&engine);
    let run = run(command.args(["regpush", "-a", "--stall-timeout", "1s", "localhost:0/app"]));
    assert_eq!((run.status, run.stdout), (7, format!("localhost:0/app@{DIGEST}\n")));
}

#[test]
fn keeps_a_taken_name_and_warns_about_one_it_cannot_remove() {
    let preparing = json!({"status": "Preparing", "progressDetail": {}, "id": "a"}).to_string();
    let engine = FakeEngine::start()
        .serving_pushed()
        .on(PUSH, Reply::stream([preparing, pushing(5)]).ending(End::Hang))
        .on("GET /v1.41/images/Localhost:0/app:1/json", image(&[]))
        .on(PUSH, pushed());
    let healed = push(&engine, &["--stall-timeout", "1s"]);
    assert_eq!(healed.status, 0, "{healed}");
    assert!(
        healed
            .stderr
            .contains("not pushing under the spelling Localhost:0/app:1: a local image has that name"),
        "{healed}"
    );

    let preparing = json!({"status": "Preparing", "progressDetail": {}, "id": "a"}).to_string();
    let engine = FakeEngine::start()
        .has(IMAGE, ID)
        .on(PUSH, Reply::stream([preparing, pushing(5)]).ending(End::Hang))
        .on(TAG, Reply::json(201, ""))
        .on(DETOUR, pushed())
        .on(DISTRIBUTION, names(DIGEST))
        .on(UNTAG, Reply::json(403, r#"{"message":"not you"}"#));
    let healed = push(&engine, &["--stall-timeout", "1s"]);
    assert_eq!(healed.status, 0, "{healed}");
    let told = "warning: tag Localhost:0/app:1 was not removed: the engine answered 403 Forbidden: not you; remove it with `docker rmi Localhost:0/app:1`";
    assert!(healed.stderr.contains(told), "{healed}");
}

/// After a signal during a push, and after a broken connection, the plugin removes the tag `Localhost:0/app:1` from the
/// engine.
#[test]
fn removes_the_other_name_on_signals_and_failures() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let engine = stuck(Reply::stream([pushing(5)]).ending(End::Hang));
        let env = TestEnv::new();
        let mut command = env.command(&engine);
        command
            .args(["regpush", "--stall-timeout", "1s", IMAGE])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        engine.wait_for_pushes(2);
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(if signal == Signal::SIGINT { 130 } else { 143 }));
        engine.wait_for_request(UNTAG);
    }
    let engine = stuck(Reply::stream([pushing(5)]).ending(End::Cut));
    assert_eq!(push(&engine, &["--stall-timeout", "1s"]).status, 4, "the connection broke");
}

/// A panic drops the guard that [`Engine::tag`] returns. The guard removes the tag from the engine.
#[test]
fn removes_the_other_name_on_panic() {
    let engine = FakeEngine::start().has(IMAGE, ID);
    let choice = Choice { host: Some(engine.host.clone()), ..Choice::default() };
    let endpoint = Endpoint::resolve(&choice, &Config::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let panicked = std::panic::catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let mut engine = Engine::connect(endpoint, HeaderMap::new(), None).await.unwrap();
            let name: Reference = "Localhost:0/app:1".parse().unwrap();
            let _tag = engine.tag(IMAGE, ID, &name, None).await.unwrap();
            panic!("in the middle of a push");
        })
    }));
    assert!(panicked.is_err());
    assert!(engine.request(TAG).is_some() && engine.request(UNTAG).is_some());
}
