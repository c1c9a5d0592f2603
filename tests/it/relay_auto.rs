//! Tests when `--relay auto` uses the relay, and why an engine cannot reach the relay.

#![expect(clippy::unwrap_used, reason = "all of it is a test")]

use std::fs;
use std::net::TcpListener;

use serde_json::json;

use crate::support::client::{Store, blob};
use crate::support::engine::{FakeEngine, Reply, refusal};
use crate::support::env::{Run, TestEnv, run};
use crate::support::registry::FakeRegistry;

const ID: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const INFO: &str = "GET /v1.41/info";

/// A registry on a loopback address under a name that the plugin does not take for the relay's.
struct Registry {
    registry: FakeRegistry,
    image: String,
}

impl Registry {
    fn start() -> Self {
        let registry = FakeRegistry::start(&[]);
        let port = registry.domain.rsplit(':').next().unwrap();
        let image = format!("localhost:{port}/team/app:1");
        Self { registry, image }
    }

    /// Pushes the image without retries.
    fn push(&self, engine: &FakeEngine, options: &[&str]) -> Run {
        let mut command = TestEnv::new().command(engine);
        command.args(["regpush", "--retries", "0", "--format", "json"]).args(options);
        run(command.arg(&self.image))
    }
}

/// Returns the number of push requests that name a loopback address.
fn relayed(engine: &FakeEngine) -> usize {
    engine.pushes().iter().filter(|push| push.line.contains("/images/127.")).count()
}

#[test]
fn failures_that_the_plugin_may_avoid_lead_to_one_attempt_through_the_relay() {
    let table = [
        // the engine's message, whether the plugin uploads the image then
        (
            "Get \"https://h/v2/\": tls: failed to verify certificate: x509: certificate signed by unknown authority",
            true,
        ),
        (
            "failed to do request: Put \"https://h/v2/app/manifests/1\": net/http: timeout awaiting response headers",
            true,
        ),
        (
            "error parsing HTTP 413 response body: invalid character '<' looking for beginning of value: \"413\"",
            true,
        ),
        (
            "unexpected status from PUT request to https://h/v2/app/blobs/uploads/1: 413 Request Entity Too Large",
            true,
        ),
        ("Get \"https://h/v2/\": dial tcp: lookup h on 10.0.0.1:53: no such host", true),
        (
            "Get \"https://h/v2/\": proxyconnect tcp: dial tcp 10.0.0.1:3128: connect: connection refused",
            true,
        ),
        ("read tcp 10.0.0.2:1->10.0.0.1:443: read: connection reset by peer", false),
        ("received unexpected HTTP status: 503 Service Unavailable", false),
        ("toomanyrequests: slow down", false),
    ];
    for (message, switches) in table {
        let registry = Registry::start();
        let engine = FakeEngine::with_info()
            .has(&registry.image, ID)
            .on_every_push(Reply::stream([refusal(message)]))
            .pushing_to_relay(Store::Containerd, vec![blob(9)]);
        let pushed = registry.push(&engine, &[]);
        assert_eq!(
            (pushed.status == 0, relayed(&engine)),
            (switches, usize::from(switches)),
            "{message}: {pushed}"
        );
        let result = pushed.json();
        let (route, attempts) = if switches { ("relay", 2) } else { ("engine", 1) };
        assert_eq!((&result["route"], &result["attempts"]), (&json!(route), &json!(attempts)), "{pushed}");
        let notes = pushed.stderr.matches("; the plugin uploads the image instead").count();
        assert_eq!(notes, usize::from(switches), "{pushed}");
        assert_eq!(
            registry.registry.state.lock().unwrap().manifests.contains_key("1"),
            switches,
            "{message}"
        );
    }
}

#[test]
fn never_names_the_relay_in_the_hint_only_if_it_may_help() {
    for (message, helps) in [
        ("x509: certificate signed by unknown authority", true),
        ("received unexpected HTTP status: 503 Service Unavailable", false),
    ] {
        let registry = Registry::start();
        let engine = FakeEngine::start().on_every_push(Reply::stream([refusal(message)]));
        let failed = registry.push(&engine, &["--relay", "never", "--verify", "never"]);
        assert_ne!(failed.status, 0, "{failed}");
        assert_eq!(failed.stderr.contains("remove `--relay never`"), helps, "{failed}");
    }
}

/// If the relay cannot be used, the failure of the engine's upload counts. podman's push shows the obstacle.
#[test]
fn obstacle_is_a_note_if_no_option_needs_the_relay() {
    for inspects in [true, false] {
        let registry = Registry::start();
        let message = "x509: certificate signed by unknown authority";
        let engine = FakeEngine::start()
            .has(&registry.image, ID)
            .on_every_push(Reply::stream([refusal(message)]))
            .in_another_network(inspects);
        let failed = registry.push(&engine, &[]);
        assert_eq!((failed.status, &failed.json()["route"]), (6, &json!("engine")), "{failed}");
        let note = "the plugin cannot upload the image instead of the engine: the engine ";
        assert_eq!(failed.stderr.matches(note).count(), 1, "{failed}");
        let errors = failed.stderr.lines().filter(|line| line.starts_with("error: "));
        assert_eq!(errors.filter(|line| line.ends_with(message)).count(), 1, "{failed}");
        assert_eq!(engine.names(), [registry.image], "{failed}");
    }
}

#[test]
fn obstacles_between_engine_and_plugin_are_named() {
    let refused = "Get \"https://127.1.2.3:4/v2/\": dial tcp 127.1.2.3:4: connect: connection refused";
    let tls = "Get \"https://127.1.2.3:4/v2/\": http: server gave HTTP response to HTTPS client";
    let table = [
        // the engine's message, its facts, a part of the error, a part of the hint
        (refused, json!({}), "the engine is in another network than the plugin", "remove `--limit-rate`"),
        (
            refused,
            json!({"SecurityOptions": ["name=seccomp", "name=rootless"]}),
            "the engine is rootless",
            "remove `--limit-rate`",
        ),
        (
            refused,
            json!({"OperatingSystem": "Docker Desktop"}),
            "the engine is in a virtual machine (Docker Desktop)",
            "remove `--limit-rate`",
        ),
        (refused, json!({"Name": "colima"}), "the engine is in a virtual machine", "remove `--limit-rate`"),
        // docker 29.10 with `insecure-registries`.
        (
            tls,
            json!({}),
            "the engine requires TLS at 127.",
            r#""insecure-registries": ["127.0.0.0/8", "::1/128"]"#,
        ),
    ];
    for (message, facts, part, hint) in table {
        let registry = Registry::start();
        let engine = FakeEngine::start()
            .has(&registry.image, ID)
            .allow(INFO, Reply::json(200, &facts.to_string()))
            .refusing_relays(message);
        let failed = registry.push(&engine, &["--limit-rate", "1m"]);
        assert_eq!((failed.status, &failed.json()["error"]["class"]), (4, &json!("engine")), "{failed}");
        let error =
            format!("error: cannot push {} through the plugin, as --limit-rate requires: ", registry.image);
        assert!(failed.stderr.contains(&error) && failed.stderr.contains(part), "{part}: {failed}");
        let mut hints = failed.stderr.lines().filter(|line| line.starts_with("hint: "));
        assert!(hints.clone().count() == 1 && hints.next_back().unwrap().contains(hint), "{hint}: {failed}");
        assert_eq!((engine.pushes().len(), engine.names()), (0, vec![registry.image.clone()]), "{failed}");
    }
}

#[test]
fn connection_options_have_variables_in_each_command() {
    let env = TestEnv::new();
    // Nothing listens at this port, so the error shows the scheme of the request.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = env.without_engine();
    command.env("REGPUSH_PLAIN_HTTP", "1").env("REGPUSH_TLS_VERIFY", "false");
    let failed = run(command.args(["-D", "regpush", "ls", &closed.to_string()]));
    assert_eq!(failed.status, 6, "{failed}");
    assert!(failed.stderr.contains("GET http://") && !failed.stderr.contains("https://"), "{failed}");
    for words in [["ls", "localhost:1"], ["auth", "localhost:1"], ["--quiet", "localhost:1/app:1"]] {
        let mut command = env.without_engine();
        let failed = run(command.env("REGPUSH_CA_FILE", "/no/such/file").arg("regpush").args(words));
        assert_eq!(failed.status, 125, "{words:?}: {failed}");
        assert!(failed.stderr.contains("cannot read --ca-file `/no/such/file`"), "{failed}");
    }
}

#[test]
fn unusable_files_are_named_with_their_option() {
    let env = TestEnv::new();
    fs::write(env.path("home/text"), "no certificate").unwrap();
    let file = env.path("home/text").display().to_string();
    let table = [
        (vec!["--ca-file", &file], "cannot use --ca-file: `"),
        (vec!["--cert-file", &file, "--key-file", &file], "cannot use --cert-file: the client certificate `"),
    ];
    for (options, message) in table {
        let words = [vec!["regpush", "ls"], options, vec!["localhost:1"]].concat();
        let failed = run(env.without_engine().args(words));
        assert_eq!(failed.status, 125, "{failed}");
        assert!(failed.stderr.contains(message) && failed.stderr.contains(&file), "{failed}");
    }
}
