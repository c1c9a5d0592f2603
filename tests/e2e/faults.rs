//! Tests how a push ends after a fault between an engine and a registry. Each row of the table in
//! docs/when-it-breaks.md has a test with docker's classic image store and a test with the containerd image store, and each
//! of them without and with the relay.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::proxy::{Asked, Fault, Meant, Proxy, ask};
use crate::support::{Engine, Home, MANIFESTS, PrivateEngine, Registry, Run, engine, ok, run, wait_for};

const ENGINES: [&str; 3] = ["docker-20.10", "docker-28-classic", "docker-28-containerd"];
/// The size in bytes of a layer that does not fit into the buffers of a TCP connection.
const LARGE: usize = 24_000_000;
const SMALL: usize = 100_000;
/// The number of uploaded bytes of a layer after which a fault occurs.
const MIDDLE: usize = 1 << 20;

/// An engine, a registry, and a proxy between the engine and the registry.
struct Stage {
    engine: Engine,
    home: Home,
    registry: Registry,
    proxy: Proxy,
    /// The plugin uploads the image (`--relay always`).
    is_relay: bool,
}

impl Stage {
    fn new(name: &'static str, is_relay: bool) -> Self {
        let registry = Registry::open();
        Self { engine: engine(name), home: Home::new(), proxy: Proxy::to(&registry), registry, is_relay }
    }

    fn push(&self, options: &[&str], image: &str) -> Pushed {
        let mut command = self.engine.docker(&self.home);
        command
            .args(["regpush", "--format", "json", "--relay", relay(self.is_relay)])
            .args(options)
            .arg(image);
        let run = run(&mut command);
        println!("{}, relay {}: {} {}", self.engine.name, relay(self.is_relay), run.stderr, run.stdout);
        let result = serde_json::from_str(&run.stdout).expect("an object of JSON");
        Pushed { run, result }
    }
}

impl Stage {
    /// Waits until the engine has closed the connection of every stalled upload.
    fn assert_has_let_go(&self) {
        let what = format!("{} lets go, relay {}", self.engine.name, relay(self.is_relay));
        wait_for(&what, || {
            let log = self.proxy.log();
            log.iter().filter(|asked| asked.is_faulty).all(|asked| asked.has_ended).then_some(())
        });
    }
}

/// Returns the value of `--relay`.
fn relay(is_relay: bool) -> &'static str {
    if is_relay { "always" } else { "never" }
}

struct Pushed {
    run: Run,
    result: Value,
}

impl Pushed {
    /// Asserts that the push succeeded, and that the registry serves the digest in the plugin's result.
    fn assert_is_there(&self, stage: &Stage, path: &str) {
        assert_eq!(self.run.status, 0, "{}: {:?}", stage.engine.name, self.run);
        assert_eq!(self.result["digest"], stage.registry.digest(path, "1", None), "{}", stage.engine.name);
        assert_eq!(self.result["verified"], true, "{}", stage.engine.name);
    }

    fn assert_fails(&self, status: i32, class: &str) {
        assert_eq!(self.run.status, status, "{:?}", self.run);
        assert_eq!(self.result["error"]["class"], class, "{:?}", self.run);
    }

    fn attempts(&self) -> u64 {
        self.result["attempts"].as_u64().unwrap()
    }
}

/// Runs a test on all engines concurrently, since the tests mostly wait: first without the relay, then with it. An engine
/// runs five uploads at once, and a test in which uploads stall needs some of them.
fn on_each(test: impl Fn(Stage) + Sync) {
    for is_relay in [false, true] {
        thread::scope(|scope| {
            for name in ENGINES {
                let test = &test;
                scope.spawn(move || test(Stage::new(name, is_relay)));
            }
        });
    }
}

/// Asserts that a push succeeds although each fault in `faults` occurs the given number of times.
fn heals(path: &str, size: usize, faults: &[(usize, Meant, Fault)]) {
    on_each(|stage| {
        for (times, is_for, fault) in faults {
            stage.proxy.fails(*times, *is_for, fault.clone());
        }
        let image = stage.engine.image(&stage.home, &stage.proxy.name(&format!("{path}:1")), size);
        stage.push(&[], &image.name).assert_is_there(&stage, path);
        let faulty = stage.proxy.log().iter().filter(|asked| asked.is_faulty).count();
        assert_eq!(faulty, faults.iter().map(|(times, ..)| times).sum::<usize>(), "{:?}", stage.proxy.log());
    });
}

#[test]
fn connection_reset_once() {
    heals("reset/once", LARGE, &[(1, ask::send, Fault::Reset(MIDDLE))]);
}

#[test]
fn connection_reset_twice() {
    heals("reset/twice", LARGE, &[(2, ask::send, Fault::Reset(MIDDLE))]);
}

#[test]
fn bad_gateway_once() {
    heals("status/502", SMALL, &[(1, ask::begin, Fault::page("502 Bad Gateway"))]);
}

#[test]
fn unavailable_twice() {
    heals("status/503", SMALL, &[(2, ask::begin, Fault::page("503 Service Unavailable"))]);
}

#[test]
fn server_error_three_times() {
    let error = Fault::refusal("500 Internal Server Error", "UNKNOWN", "unknown error");
    heals("status/500", SMALL, &[(3, ask::begin, error)]);
}

#[test]
fn too_many_requests_twice() {
    let Fault::Answer { status, body, .. } =
        Fault::refusal("429 Too Many Requests", "TOOMANYREQUESTS", "slow down")
    else {
        unreachable!("a refusal is an answer")
    };
    let headers = "Content-Type: application/json\r\nRetry-After: 2\r\n";
    heals("status/429", SMALL, &[(2, ask::begin, Fault::Answer { status, headers, body })]);
}

#[test]
fn stall_once() {
    on_each(|stage| {
        stage.proxy.fails(1, ask::send, Fault::Stall(MIDDLE));
        let path = format!("stall/once-{}", relay(stage.is_relay));
        let image = stage.engine.image(&stage.home, &stage.proxy.name(&format!("{path}:1")), LARGE);
        let pushed = stage.push(&["--stall-timeout", "12s"], &image.name);
        pushed.assert_is_there(&stage, &path);
        assert_eq!(pushed.attempts(), 2);
        let again = "no progress for 12s; attempt 2 of ";
        let printed = &pushed.run.stderr;
        assert!(printed.contains(again), "{printed}");
        if stage.engine.name.ends_with("containerd") || stage.is_relay {
            stage.assert_has_let_go();
        } else {
            // The classic store never closes a stalled upload, so the plugin retries with the registry's host name in
            // another letter case.
            let other = stage.proxy.name(&path).replacen('l', "L", 1);
            assert!(printed.contains(&format!("under another spelling, {other}")), "{printed}");
        }
        let mut images = stage.engine.docker(&stage.home);
        images.args(["images", "--format", "{{.Repository}}:{{.Tag}}", "--filter"]);
        images.arg(format!("reference=*/{path}"));
        let left = stage.engine.while_images_stay(|| ok(&mut images));
        assert_eq!(left, format!("{}\n", image.name), "no other name is left");
    });
}

#[test]
fn stall_always() {
    on_each(|stage| {
        stage.proxy.fails(usize::MAX, ask::send, Fault::Stall(MIDDLE));
        let image = stage.engine.image(&stage.home, &stage.proxy.name("stall/always:1"), LARGE);
        let pushed = stage.push(&["--stall-timeout", "2s", "--retries", "2"], &image.name);
        pushed.assert_fails(7, "stalled");
        assert_eq!(pushed.attempts(), 3);
        for words in [
            "attempt 2 of 3 in ",
            "attempt 3 of 3 in ",
            "after 3 attempts, each with the same error: no progress for 2s",
        ] {
            assert!(pushed.run.stderr.contains(words), "{words}: {:?}", pushed.run);
        }
        stage.registry.assert_no_manifest("stall/always");
    });
}

#[test]
fn timeout_for_all() {
    on_each(|stage| {
        stage.proxy.fails(usize::MAX, ask::send, Fault::Stall(MIDDLE));
        let image = stage.engine.image(&stage.home, &stage.proxy.name("stall/timeout:1"), LARGE);
        let pushed = stage.push(&["--stall-timeout", "2s", "--timeout", "4s"], &image.name);
        pushed.assert_fails(7, "stalled");
        // Without `--timeout`, three attempts and the waits between them would last at least 9 s.
        assert!(pushed.result["seconds"].as_f64().unwrap() < 9.0, "{:?}", pushed.run);
        assert!(pushed.run.stderr.contains("within 4s"), "{:?}", pushed.run);
        if stage.engine.name.ends_with("containerd") || stage.is_relay {
            stage.assert_has_let_go();
        }
        stage.registry.assert_no_manifest("stall/timeout");
    });
}

#[test]
fn registry_restarted_in_mid_blob() {
    on_each(|mut stage| {
        let name = stage.registry.name("restart/app:1");
        let image = stage.engine.image(&stage.home, &name, 6 * LARGE);
        thread::scope(|scope| {
            let relay = relay(stage.is_relay);
            let registry = &mut stage.registry;
            let mut command = stage.engine.docker(&stage.home);
            let pushing = scope.spawn(move || run(command.args(["regpush", "--relay", relay, &image.name])));
            registry.wait_for_an_upload();
            if stage.engine.name.ends_with("containerd") {
                // This store sends the image's config beside the layer. A registry that is killed while it stores the
                // config keeps a broken blob, and then answers 500 for ever.
                registry.wait_for_a_blob();
            }
            registry.kill();
            // The registry is down for seven seconds. This downtime is the tested fault, not a wait for a condition.
            thread::sleep(Duration::from_secs(7));
            registry.start_again();
            let pushed = pushing.join().unwrap();
            println!("{}: {}", stage.engine.name, pushed.stderr);
            assert_eq!(pushed.status, 0, "{}: {pushed:?}", stage.engine.name);
            let digest = registry.digest("restart/app", "1", None);
            assert!(pushed.stdout.ends_with(&format!("@{digest}\n")), "{pushed:?}");
        });
    });
}

#[test]
fn registry_gone() {
    on_each(|mut stage| {
        let image = stage.engine.image(&stage.home, &stage.registry.name("gone/app:1"), SMALL);
        stage.registry.kill();
        let pushed = stage.push(&["--retries", "2"], &image.name);
        pushed.assert_fails(6, "network");
        assert_eq!(pushed.attempts(), 3);
        for words in [
            "attempt 2 of 3 in ",
            "attempt 3 of 3 in ",
            "after 3 attempts, each with the same error: ",
            "onnection refused",
        ] {
            assert!(pushed.run.stderr.contains(words), "{words}: {:?}", pushed.run);
        }
    });
}

#[test]
fn registry_gone_in_mid_blob() {
    on_each(|mut stage| {
        let name = stage.registry.name("gone/middle:1");
        let image = stage.engine.image(&stage.home, &name, 6 * LARGE);
        thread::scope(|scope| {
            let (engine, home, relay) = (&stage.engine, &stage.home, relay(stage.is_relay));
            let registry = &mut stage.registry;
            let pushing = scope.spawn(move || {
                let options = ["--relay", relay, "--retries", "2", "--format", "json"];
                run(engine.docker(home).arg("regpush").args(options).arg(&image.name))
            });
            registry.wait_for_an_upload();
            registry.kill();
            let run = pushing.join().unwrap();
            println!("{}: {}", engine.name, run.stderr);
            let pushed = Pushed { result: serde_json::from_str(&run.stdout).unwrap(), run };
            pushed.assert_fails(6, "network");
            if stage.is_relay {
                // The relay itself repeats the request that failed.
                assert_eq!(pushed.attempts(), 1, "{:?}", pushed.run);
                return;
            }
            // An engine with the classic store itself retries the upload for 50 s, so the plugin retries the push only
            // once.
            let tries = if engine.name.ends_with("containerd") { 3 } else { 2 };
            assert_eq!(pushed.attempts(), tries, "{:?}", pushed.run);
            assert!(pushed.run.stderr.contains(&format!("after {tries} attempts")), "{:?}", pushed.run);
        });
    });
}

/// Asserts that the plugin makes one attempt, and that the engine sends as many requests as for one `docker push`.
fn is_tried_once(path: &str, is_for: Meant, fault: &Fault, status: i32, class: &str) {
    on_each(|stage| {
        stage.proxy.fails(usize::MAX, is_for, fault.clone());
        let image = stage.engine.image(&stage.home, &stage.proxy.name(&format!("{path}:1")), SMALL);
        let refused = run(stage.engine.docker(&stage.home).args(["push", &image.name]));
        assert_ne!(refused.status, 0, "{refused:?}");
        let once = stage.proxy.count(is_for);
        assert!(once > 0);
        stage.proxy.clear();
        let pushed = stage.push(&[], &image.name);
        pushed.assert_fails(status, class);
        assert_eq!(pushed.attempts(), 1, "{:?}", pushed.run);
        // An image has at least two blobs. The engine may send a request about the second blob before the registry
        // refuses the request about the first blob.
        let once = once.max(2);
        let log = stage.proxy.log();
        // The relay may have begun an upload of each of its three bodies.
        let (once, of_engine) = if stage.is_relay { (3, false) } else { (once, true) };
        let is_sent = |asked: &&Asked| is_for(&asked.method, &asked.path) && asked.is_engine == of_engine;
        assert!((1..=once).contains(&log.iter().filter(is_sent).count()), "{once}: {log:?}");
    });
}

#[test]
fn unauthorized_is_tried_once() {
    let mut refusal = Fault::refusal("401 Unauthorized", "UNAUTHORIZED", "no such user");
    if let Fault::Answer { headers, .. } = &mut refusal {
        *headers = "Content-Type: application/json\r\nWWW-Authenticate: Basic realm=\"x\"\r\n";
    }
    is_tried_once("refused/login", ask::begin, &refusal, 3, "auth");
}

#[test]
fn immutable_tag_is_tried_once() {
    let refusal = Fault::refusal("400 Bad Request", "TAG_INVALID", "The tag '1' is immutable");
    is_tried_once("refused/immutable", ask::manifest, &refusal, 1, "rejected");
}

#[test]
fn quota_is_tried_once() {
    let refusal = Fault::refusal("403 Forbidden", "DENIED", "storage quota exceeded");
    is_tried_once("refused/quota", ask::begin, &refusal, 1, "rejected");
}

#[test]
fn no_such_image_is_not_tried_at_all() {
    on_each(|stage| {
        let pushed = stage.push(&[], &stage.proxy.name("refused/nothing:1"));
        pushed.assert_fails(5, "not_found");
        // The plugin may request `/v2/` during the push to prepare the verification.
        let log = stage.proxy.log();
        assert!(log.iter().all(|asked| !asked.is_engine && asked.path == "/v2/"), "{log:?}");
    });
}

/// Asserts that the plugin exits with status 9, and that the error message contains the pushed digest and the text
/// `found`, which describes the state of the tag in the registry.
fn is_not_believed(path: &str, fault: impl Fn(&Stage) + Sync, found: impl Fn(&Stage) -> String + Sync) {
    on_each(|stage| {
        fault(&stage);
        let believed = stage.engine.image(&stage.home, &stage.proxy.name(&format!("{path}:docker")), SMALL);
        let believed = run(stage.engine.docker(&stage.home).args(["push", &believed.name]));
        assert_eq!(believed.status, 0, "docker does not notice it: {believed:?}");
        let image = stage.engine.image(&stage.home, &stage.proxy.name(&format!("{path}:1")), SMALL);
        let pushed = stage.push(&["--verify-wait", "3s"], &image.name);
        pushed.assert_fails(9, "unverified");
        assert_eq!(pushed.result["verified"], false);
        let message = pushed.result["error"]["message"].as_str().unwrap();
        assert!(message.contains("was pushed as sha256:"), "{message}");
        assert!(message.contains(&found(&stage)), "{message}");
    });
}

#[test]
fn manifest_thrown_away() {
    is_not_believed(
        "lost/manifest",
        |stage| stage.proxy.fails(usize::MAX, ask::manifest, Fault::Lose),
        |_| "the registry does not have this tag".to_owned(),
    );
}

#[test]
fn tag_swapped_after_the_push() {
    is_not_believed(
        "lost/tag",
        |stage| {
            let other = stage.engine.image(&stage.home, &stage.registry.name("lost/tag:other"), SMALL);
            ok(stage.engine.docker(&stage.home).args(["push", "-q", &other.name]));
            let swap = |registry: u16| swap(registry, "lost/tag");
            stage.proxy.fails(usize::MAX, ask::manifest, Fault::Then(Arc::new(swap)));
        },
        |stage| {
            format!("the tag in the registry points to {}", stage.registry.digest("lost/tag", "other", None))
        },
    );
}

/// Uploads the manifest of the tag `other` under the tag `1`.
fn swap(registry: u16, path: &str) {
    let url = |tag: &str| format!("http://127.0.0.1:{registry}/v2/{path}/manifests/{tag}");
    let accept = format!("Accept: {MANIFESTS}");
    let script = r#"set -e
        kind=$(curl -sfI -H "$0" "$1" | tr -d '\r' | sed -n 's/^Content-Type: //p')
        curl -sf -H "$0" "$1" | curl -sf -X PUT -H "Content-Type: $kind" --data-binary @- "$2""#;
    ok(std::process::Command::new("sh").args(["-c", script, &accept, &url("other"), &url("1")]));
}

#[test]
fn blob_missing_afterwards() {
    is_not_believed(
        "lost/blob",
        |stage| {
            let blobs = stage.registry.blobs();
            let lose = move |_| fs::remove_dir_all(largest(&blobs)).unwrap();
            stage.proxy.fails(usize::MAX, ask::manifest, Fault::Then(Arc::new(lose)));
        },
        |stage| {
            let manifest = stage.registry.manifest("lost/blob", "1");
            let layer = manifest["layers"][0]["digest"].as_str().unwrap();
            format!("the registry lacks {layer}")
        },
    );
}

/// Returns the folder of the largest blob, which is a layer.
fn largest(blobs: &Path) -> PathBuf {
    let folders = |path: &Path| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let size = |blob: &PathBuf| fs::metadata(blob.join("data")).map_or(0, |data| data.len());
    folders(blobs).flat_map(|prefix| folders(&prefix).collect::<Vec<_>>()).max_by_key(size).unwrap()
}

#[test]
fn engine_ended_in_mid_push() {
    thread::scope(|scope| {
        for name in ENGINES {
            for signal in [Signal::SIGKILL, Signal::SIGTERM] {
                scope.spawn(move || end_in_mid_push(name, signal));
            }
        }
    });
}

/// Sends `signal` to an engine during a push, and pushes again after a restart of the engine.
fn end_in_mid_push(name: &'static str, signal: Signal) {
    let docker = engine(name);
    let (home, registry) = (Home::new(), Registry::open());
    let proxy = Proxy::to(&registry);
    let socket = home.path("engine.sock");
    let mut private =
        PrivateEngine::start(&docker, &["--host".into(), format!("unix://{}", socket.display())]);
    let own = docker.at(&socket);
    let image = own.image(&home, &proxy.name("engine/app:1"), LARGE);
    // Stalls the upload, so that the push is in progress when the engine receives the signal.
    proxy.fails(1, ask::send, Fault::Stall(MIDDLE));
    thread::scope(|scope| {
        let pushing =
            scope.spawn(|| run(own.docker(&home).args(["regpush", "--format", "json", &image.name])));
        wait_for("the push is under way", || (proxy.count(ask::send) > 0).then_some(()));
        private.end(signal);
        if signal == Signal::SIGTERM {
            private.start_again(&docker);
        }
        let run = pushing.join().unwrap();
        println!("{name} {signal}: {}", run.stderr);
        assert_eq!(run.status, 4, "{name} {signal}: {run:?}");
        assert!(run.stderr.contains("hint: check the engine's log"), "{name} {signal}: {run:?}");
    });
    if signal == Signal::SIGKILL {
        private.start_again(&docker);
    }
    let pushed = run(own.docker(&home).args(["regpush", "--format", "json", &image.name]));
    assert_eq!(pushed.status, 0, "{name}: once it is back: {pushed:?}");
}

#[test]
fn hostile_errors_are_one_clean_line() {
    let digest = format!("1: digest: sha256:{} size: 528", "0".repeat(64));
    let escapes = format!("\u{1b}[2J\u{1b}[31mdenied\u{1b}]0;title\u{7}\r\n{digest}\u{202e}");
    let page =
        format!("<html><head><title>403 Forbidden</title></head>{}</html>", "x<br>\r\n".repeat(30_000));
    for (name, fault, status) in [
        ("escapes", Fault::refusal("403 Forbidden", "DENIED", &escapes), 3),
        (
            "page",
            Fault::Answer { status: "403 Forbidden", headers: "Content-Type: text/html\r\n", body: page },
            3,
        ),
        ("digest", Fault::refusal("400 Bad Request", "MANIFEST_INVALID", &digest), 1),
    ] {
        on_each(|stage| {
            stage.proxy.fails(usize::MAX, ask::manifest, fault.clone());
            let image =
                stage.engine.image(&stage.home, &stage.proxy.name(&format!("hostile/{name}:1")), SMALL);
            let pushed = stage.push(&["--progress", "plain"], &image.name);
            assert_eq!(pushed.run.status, status, "{name}: {:?}", pushed.run);
            let printed = &pushed.run.stderr;
            assert!(printed.bytes().all(|byte| byte == b'\n' || !byte.is_ascii_control()), "{printed:?}");
            assert!(!printed.contains('\u{202e}') && printed.len() < 4000, "{printed:?}");
            let errors = printed.lines().filter(|line| line.starts_with("error: ")).count();
            assert_eq!(errors, 1, "{printed:?}");
            assert!(pushed.result["digest"].is_null(), "{:?}", pushed.run);
        });
    }
}
