//! Tests `--relay always`: the engine pushes to the plugin, and the plugin to the registry.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::PASSWORD;
use crate::nginx::Nginx;
use crate::proxy::{Asked, Fault, Meant, Proxy, ask};
use crate::several::{architectures, load};
use crate::support::{Engine, Home, Registry, Run, engine, ok, run, wait_for};
use crate::wait::PATIENCE;

pub const ENGINES: [&str; 4] = ["docker-20.10", "docker-28-classic", "docker-28-containerd", "podman"];
/// The size in bytes of a layer that the relay streams.
const LARGE: usize = 24_000_000;

/// Runs a test on all engines concurrently.
pub fn on_each(test: impl Fn(&Engine, &Home) + Sync) {
    thread::scope(|scope| {
        for name in ENGINES {
            let test = &test;
            scope.spawn(move || test(&engine(name), &Home::new()));
        }
    });
}

fn push(engine: &Engine, home: &Home, options: &[&str], image: &str) -> Run {
    let mut command = engine.docker(home);
    command.args(["regpush", "--relay", "always", "--format", "json"]).args(options).arg(image);
    let pushed = run(&mut command);
    println!("{}: {} {}", engine.name, pushed.stderr, pushed.stdout);
    pushed
}

/// Pushes an image, and asserts that the registry then serves the digest in the plugin's result. Returns the result.
///
/// * `path`: the repository, whose tag `1` the image has.
fn assert_pushed(
    engine: &Engine,
    home: &Home,
    options: &[&str],
    image: &str,
    (registry, path): (&Registry, &str),
) -> Value {
    let pushed = push(engine, home, options, image);
    assert_eq!(pushed.status, 0, "{}: {pushed:?}", engine.name);
    let result = pushed.json();
    assert_eq!(result["digest"], registry.digest(path, "1", None), "{}", engine.name);
    result
}

/// Returns the names of all images that contain `text`, in the engine.
pub fn images(engine: &Engine, home: &Home, text: &str) -> BTreeSet<String> {
    let mut list = engine.docker(home);
    list.args(["images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"]);
    let names = engine.while_images_stay(|| ok(&mut list));
    names.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
}

/// Returns the files that record temporary names.
pub fn records(home: &Home) -> Vec<PathBuf> {
    let files = fs::read_dir(home.path(".docker/regpush/relay")).into_iter().flatten();
    files.map(|file| file.unwrap().path()).collect()
}

#[test]
fn same_digest_as_a_direct_push_and_nothing_left() {
    on_each(|engine, home| {
        let registry = Registry::open();
        let proxy = Proxy::to(&registry);
        let path = format!("relayed/{}", engine.name);
        let name = proxy.name(&format!("{path}:1"));
        let image = engine.layered_image(home, &name, (3, LARGE / 4));
        let before = images(engine, home, &path);
        let pushed = push(engine, home, &["--verify", "always"], &name);
        assert_eq!(pushed.status, 0, "{pushed:?}");
        let result = pushed.json();
        assert_eq!((&result["status"], &result["route"]), (&json!("pushed"), &json!("relay")));
        assert_eq!(result["layers"], json!({"total": 3, "pushed": 3, "exists": 0, "mounted": 0}), "{result}");
        assert!(result["bytes"].as_u64().unwrap() >= 3 * LARGE as u64 / 4, "{result}");
        assert_eq!(images(engine, home, &path), before, "the tags are the same");
        assert_eq!(records(home), Vec::<PathBuf>::new());
        let digest = registry.digest(&path, "1", None);
        assert_eq!(result["digest"], digest);

        // A second push sends no layer.
        proxy.clear();
        let again = push(engine, home, &[], &name);
        assert_eq!((again.status, &again.json()["digest"]), (0, &json!(digest)), "{again:?}");
        let sent = |log: Vec<Asked>| log.iter().filter(|asked| ask::send(&asked.method, &asked.path)).count();
        assert_eq!(sent(proxy.log()), 0, "{:?}", proxy.log());

        // The engine itself pushes the same digest to another registry.
        let other = Registry::open();
        let direct = other.name(&format!("{path}:1"));
        ok(engine.docker(home).args(["tag", &name, &direct]));
        let direct_push = run(engine.docker(home).args(["regpush", "--relay", "never", &direct]));
        assert_eq!(
            direct_push.stdout,
            format!("{}@{digest}\n", direct.trim_end_matches(":1")),
            "{direct_push:?}"
        );
        engine.remove(&["-f", &direct]);
        drop(image);

        engine.pull(home, &name);
        assert_eq!(images(engine, home, &path), before, "the pulled image is the pushed one");
        engine.remove(&["-f", &name]);
    });
}

#[test]
fn many_equal_and_empty_layers() {
    on_each(|engine, home| {
        let registry = Registry::open();
        let name = registry.name(&format!("layers/{}:1", engine.name));
        // docker's classic store has a limit of 125 layers.
        let count =
            if engine.name.ends_with("classic") || engine.name.ends_with("20.10") { 125 } else { 127 };
        let image = engine.layered_image(home, &name, (count, 20_000));
        let pushed = push(engine, home, &[], &name);
        assert_eq!(pushed.status, 0, "{pushed:?}");
        assert_eq!(pushed.json()["layers"]["pushed"], count, "{pushed:?}");
        drop(image);
        // Two equal layers, and two that are empty.
        let name = registry.name(&format!("layers/{}:2", engine.name));
        let image = engine.image_of(home, &name, ["same", "same", "", ""].map(Vec::from).into_iter());
        let pushed = push(engine, home, &[], &name);
        assert_eq!(pushed.status, 0, "{pushed:?}");
        let layers =
            registry.manifest(&format!("layers/{}", engine.name), "2")["layers"].as_array().unwrap().len();
        assert_eq!(layers, 4);
        drop(image);
    });
}

#[test]
fn indexes_attestations_and_single_platforms() {
    let engine = engine("docker-28-containerd");
    let (home, registry) = (Home::new(), Registry::open());
    let name = registry.name("relayed/multi:1");
    load(&engine, &home, &name);
    let whole = push(&engine, &home, &["--platform", "all"], &name);
    assert_eq!(whole.status, 0, "{whole:?}");
    assert_eq!(architectures(&registry, "relayed/multi"), ["amd64", "arm64", "unknown"]);
    let one = push(&engine, &home, &["--platform", "linux/arm64"], &name);
    assert_eq!(one.status, 0, "{one:?}");
    assert!(architectures(&registry, "relayed/multi").is_empty(), "a manifest, not an index");
    assert_eq!(one.json()["digest"], registry.digest("relayed/multi", "1", None));
    engine.remove(&["-f", &name]);
}

#[test]
fn resets_in_the_middle_of_a_large_layer() {
    on_each(|engine, home| {
        let registry = Registry::open();
        let proxy = Proxy::to(&registry);
        proxy.fails(1, ask::send, Fault::Reset(50_000_000));
        let path = format!("reset/{}", engine.name);
        let image = engine.image(home, &proxy.name(&format!("{path}:1")), 100_000_000);
        assert_pushed(engine, home, &[], &image.name, (&registry, &path));
    });
}

/// Makes the registry answer the first request that `is_for` selects with 429, and pushes an image. Asserts that the relay waits
/// as long as the registry asks, and repeats the request within the same attempt.
fn waits(engine: &Engine, home: &Home, is_for: Meant, headers: &'static str, wait: u64, options: &[&str]) {
    let registry = Registry::open();
    let proxy = Proxy::to(&registry);
    let body = json!({"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}]}).to_string();
    proxy.fails(1, is_for, Fault::Answer { status: "429 Too Many Requests", headers, body });
    let path = format!("wait/{}-{wait}", engine.name);
    let image = engine.image(home, &proxy.name(&format!("{path}:1")), 100_000);
    let started = Instant::now();
    let result = assert_pushed(engine, home, options, &image.name, (&registry, &path));
    assert!(started.elapsed() >= Duration::from_secs(wait), "{:?}", started.elapsed());
    assert_eq!(result["attempts"], 1, "{result}");
}

#[test]
fn waits_as_long_as_the_registry_asks() {
    on_each(|engine, home| {
        waits(engine, home, ask::begin, "Content-Type: application/json\r\nRetry-After: 3\r\n", 3, &[]);
    });
}

#[test]
fn wait_that_the_registry_asks_for_is_no_stall() {
    let headers = "Content-Type: application/json\r\nRetry-After: 15\r\n";
    let options = ["--stall-timeout", "12s"];
    waits(&engine("docker-28-containerd"), &Home::new(), ask::manifest, headers, 15, &options);
}

/// The classic store asks for layers that it knows from another repository, and does not ask to mount them, since the address
/// of the relay is another registry for it.
#[test]
fn mounts_layers_from_a_repository_that_the_engine_has_pushed_to() {
    for name in ["docker-20.10", "docker-28-classic"] {
        let (engine, home, registry) = (engine(name), Home::new(), Registry::open());
        let proxy = Proxy::to(&registry);
        let (old, new) =
            (proxy.name(&format!("mounts/{name}:1")), proxy.name(&format!("mounts/{name}-new:1")));
        let image = engine.layered_image(&home, &old, (2, 500_000));
        ok(engine.docker(&home).args(["push", "-q", &old]));
        proxy.clear();
        ok(engine.docker(&home).args(["tag", &old, &new]));
        let path = format!("mounts/{name}-new");
        let result = assert_pushed(&engine, &home, &[], &new, (&registry, &path));
        assert_eq!(result["layers"]["exists"], 2, "{result}");
        let log = proxy.log();
        let mounts = log.iter().filter(|asked| asked.path.contains("mount=sha256")).count();
        assert!(mounts >= 2, "{log:?}");
        engine.remove(&["-f", &new]);
        drop(image);
    }
}

/// docker 29 waits for 30 s, so the relay answers the engine before the registry has stored a layer.
#[test]
fn registry_that_needs_long_to_store_a_layer() {
    on_each(|engine, home| {
        let registry = Registry::open();
        let proxy = Proxy::to(&registry);
        let slow = |_| thread::sleep(Duration::from_secs(40));
        proxy.fails(1, ask::send, Fault::Then(Arc::new(slow)));
        let path = format!("slow/{}", engine.name);
        let image = engine.image(home, &proxy.name(&format!("{path}:1")), LARGE);
        let result = assert_pushed(engine, home, &[], &image.name, (&registry, &path));
        assert_eq!(result["attempts"], 1, "{result}");
    });
}

/// Sends a request to the relay, and returns the status of the response; `None` if the relay closes the connection.
fn ask_relay(address: SocketAddr, head: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(head.as_bytes()).ok()?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).ok()?;
    String::from_utf8_lossy(&answer[9..]).parse().ok()
}

#[test]
fn only_the_engine_can_use_the_relay() {
    let (engine, home, registry) = (engine("docker-28-classic"), Home::new(), Registry::open());
    let proxy = Proxy::to(&registry);
    proxy.fails(1, ask::send, Fault::Stall(1 << 20));
    let image = engine.image(&home, &proxy.name("guarded/app:1"), LARGE);
    thread::scope(|scope| {
        let pushing = scope.spawn(|| push(&engine, &home, &["--stall-timeout", "25s"], &image.name));
        let record: Value = wait_for("the push is recorded", || {
            serde_json::from_slice(&fs::read(records(&home).first()?).ok()?).ok()
        });
        let domain = record["name"].as_str().unwrap().split('/').next().unwrap().to_owned();
        let address: SocketAddr = domain.parse().unwrap();
        assert!(address.ip().is_loopback());
        wait_for("the upload stalls", || proxy.log().iter().any(|asked| asked.is_faulty).then_some(()));
        // The relay does not listen on other addresses.
        assert!(TcpStream::connect(("127.0.0.1", address.port())).is_err());
        let base = "Host: x\r\nConnection: close\r\n";
        let wrong = "Authorization: Basic cmVncHVzaDp4\r\n";
        for (path, extra) in
            [("/v2/", ""), ("/v2/", wrong), ("/v2/guarded/app/blobs/uploads/", wrong), ("/", "")]
        {
            for method in ["GET", "POST", "PUT", "DELETE"] {
                let head = format!("{method} {path} HTTP/1.1\r\n{base}{extra}Content-Length: 0\r\n\r\n");
                assert_eq!(ask_relay(address, &head), Some(401), "{head}");
            }
        }
        // Pipelined requests, headers that are too large, and requests that never end.
        let twice = format!("GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\nGET /v2/ HTTP/1.1\r\n{base}\r\n");
        assert_eq!(ask_relay(address, &twice), Some(401));
        let huge = format!("GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Large: {}\r\n\r\n", "x".repeat(1 << 20));
        assert!(matches!(ask_relay(address, &huge), None | Some(431)), "headers have a limit");
        let slow: Vec<TcpStream> = (0..200)
            .map(|_| {
                let mut stream = TcpStream::connect(address).unwrap();
                let _ = stream.write_all(b"GET /v2/ HTTP/1.1\r\nX");
                stream
            })
            .collect();
        let pushed = pushing.join().unwrap();
        assert_eq!(pushed.status, 0, "{pushed:?}");
        assert_eq!(pushed.json()["digest"], registry.digest("guarded/app", "1", None));
        drop(slow);
        assert!(TcpStream::connect(address).is_err(), "the relay is gone");
    });
}

/// A push that has started, as a process of the docker CLI.
fn start(engine: &Engine, home: &Home, image: &str) -> Child {
    let mut command = engine.docker(home);
    command.args(["regpush", "--relay", "always", "-q", image]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Kills the plugin, which is a child of the docker CLI, so that the plugin cannot clean up.
pub fn kill_plugin(mut docker: Child) {
    let plugins = Command::new("pgrep").args(["-P", &docker.id().to_string()]).output().unwrap();
    for plugin in String::from_utf8(plugins.stdout).unwrap().split_whitespace() {
        let _ = kill(Pid::from_raw(plugin.parse().unwrap()), Signal::SIGKILL);
    }
    docker.wait().unwrap();
}

#[test]
fn killed_calls_leave_nothing_that_the_next_call_does_not_remove() {
    thread::scope(|scope| {
        for name in ["docker-28-classic", "docker-28-containerd"] {
            scope.spawn(move || {
                let (engine, home, registry) = (engine(name), Home::new(), Registry::open());
                let proxy = Proxy::to(&registry);
                let path = format!("killed/{name}");
                let image = engine.image(&home, &proxy.name(&format!("{path}:1")), LARGE);
                let before = images(&engine, &home, &path);
                // This kill comes while the image has its temporary name.
                proxy.fails(1, ask::send, Fault::Stall(1 << 20));
                let stalled = start(&engine, &home, &image.name);
                wait_for("the upload stalls", || {
                    proxy.log().iter().any(|asked| asked.is_faulty).then_some(())
                });
                kill_plugin(stalled);
                assert_eq!(records(&home).len(), 1, "the record of the temporary name");
                assert_eq!(images(&engine, &home, &path).len(), before.len() + 1, "the temporary name");
                for moment in 0..20 {
                    let pushing = start(&engine, &home, &image.name);
                    // The moment of the kill is what the test varies.
                    thread::sleep(Duration::from_millis(25 + 15 * moment));
                    kill_plugin(pushing);
                }
                assert_pushed(&engine, &home, &[], &image.name, (&registry, &path));
                assert_eq!(images(&engine, &home, &path), before);
                assert_eq!(records(&home), Vec::<PathBuf>::new());
            });
        }
    });
}

#[test]
fn proxies_that_buffer_and_proxies_that_do_not() {
    on_each(|engine, home| {
        for buffering in ["on", "off"] {
            let registry = Registry::open();
            let location = format!("location / {{ PROXY proxy_request_buffering {buffering}; }}");
            let nginx = Nginx::before(&registry, &location);
            let path = format!("nginx/{}-{buffering}", engine.name);
            let image = engine.image(home, &nginx.name(&format!("{path}:1")), LARGE);
            assert_pushed(engine, home, &[], &image.name, (&registry, &path));
        }
    });
}

#[test]
fn credentials_are_not_sent_to_the_server_that_receives_a_redirected_upload() {
    on_each(|engine, home| {
        let registry = Registry::open();
        // The second server has no password, and logs whether it received one.
        let store = Nginx::before(&registry, "location / { PROXY }");
        let redirect = format!(
            "location / {{ AUTH PROXY }}
            location ~ /blobs/uploads/.+ {{
                AUTH if ($request_method ~ \"PATCH|PUT\") {{ return 307 http://127.0.0.1:{}$request_uri; }} PROXY
            }}",
            store.port
        );
        let front = Nginx::before(&registry, &redirect);
        let login = crate::packed("alice", PASSWORD);
        home.config(&json!({"auths": {front.host(): {"auth": login}}}));
        let path = format!("redirected/{}", engine.name);
        let image = engine.image(home, &front.name(&format!("{path}:1")), LARGE);
        assert_pushed(engine, home, &[], &image.name, (&registry, &path));
        let received = store.take_log();
        assert!(
            received.iter().any(|request| ["PATCH", "PUT"].contains(&request.method.as_str())),
            "{received:?}"
        );
        assert!(received.iter().all(|request| !request.has_credentials), "{received:?}");
        assert!(front.take_log().iter().any(|request| request.has_credentials));
    });
}

#[test]
fn refusals_are_reported_within_seconds() {
    let table = [
        ("401 Unauthorized", "UNAUTHORIZED", "no such user", 3, "auth"),
        ("403 Forbidden", "DENIED", "you may not push here", 3, "denied"),
        ("405 Method Not Allowed", "UNSUPPORTED", "read-only", 1, "rejected"),
        ("413 Payload Too Large", "SIZE_INVALID", "too large", 1, "rejected"),
    ];
    on_each(|engine, home| {
        for (status, code, message, exit, class) in table {
            let registry = Registry::open();
            let proxy = Proxy::to(&registry);
            proxy.fails(usize::MAX, ask::begin, Fault::refusal(status, code, message));
            let name = proxy.name(&format!("refused/{}:{exit}{class}", engine.name));
            let image = engine.image(home, &name, LARGE);
            let started = Instant::now();
            let pushed = push(engine, home, &[], &image.name);
            assert_eq!(pushed.status, exit, "{pushed:?}");
            assert_eq!(pushed.json()["error"]["class"], class, "{pushed:?}");
            // An engine with the classic store retries a refusal for 50 s. The limit allows for a busy machine.
            assert!(started.elapsed() < Duration::from_secs(40), "{status}: {:?}", started.elapsed());
        }
    });
}
