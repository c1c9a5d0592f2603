//! Tests of the diagnosis: the registry's own response decides what a failure means.

use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::nginx::Nginx;
use crate::proxy::{Asked, Fault, Proxy, ask};
use crate::support::{Home, PrivateEngine, Registry, SlowLine, engine, run};
use crate::{PASSWORD, SMALL, packed};

const ENGINES: [&str; 3] = ["docker-20.10", "docker-28-classic", "docker-28-containerd"];
/// The longest time until the plugin reports a final refusal on a busy machine. The classic store itself retries for up to
/// 50 s.
const AT_ONCE: Duration = Duration::from_secs(40);

/// The expected failure of a push.
struct Failure<'a> {
    engines: &'a [&'static str],
    /// The `host:port` of the registry or of the proxy in front of it, which messages contain as `HOST`.
    host: String,
    /// The path of the image, and its size in bytes.
    image: (&'a str, usize),
    /// Push with the credentials of `alice`.
    has_login: bool,
    status: i32,
    class: &'a str,
    told: &'a [&'a str],
}

impl<'a> Failure<'a> {
    /// Returns the failure of a small image without credentials, on all engines, with exit status 1.
    fn of(host: String, class: &'a str, told: &'a [&'a str]) -> Self {
        Self { engines: &ENGINES, host, image: ("app", SMALL), has_login: false, status: 1, class, told }
    }

    /// Pushes an image with each engine, and asserts that the push fails at once.
    fn assert(self) {
        let Self { engines, host, image: (path, size), has_login, status, class, told } = self;
        for name in engines.iter().copied() {
            let engine = engine(name);
            let home = Home::new();
            if has_login {
                home.config(&json!({"auths": {&host: {"auth": packed("alice", PASSWORD)}}}));
            }
            let image = engine.image(&home, &format!("{host}/{path}:1"), size);
            // With the relay, the push could succeed.
            let words = ["regpush", "--relay", "never", "--format", "json"];
            let started = Instant::now();
            let refused = run(engine.docker(&home).args(words).arg(&image.name));
            let took = started.elapsed();
            assert_eq!(refused.status, status, "{name}: {refused:?}");
            let result: Value = serde_json::from_str(&refused.stdout).unwrap();
            assert_eq!(result["error"]["class"], class, "{name}: {refused:?}");
            for text in told {
                assert!(refused.stderr.contains(&text.replace("HOST", &host)), "{name}: {text}: {refused:?}");
            }
            assert!(took < AT_ONCE, "{name}: {took:?}");
        }
    }
}

/// Asserts the exit status of `--dry-run`, and a part of its messages.
fn dry_run_ends(host: &str, path: &str, status: i32, told: &str) {
    let engine = engine("docker-28-classic");
    let home = Home::new();
    let image = engine.image(&home, &format!("{host}/{path}:1"), SMALL);
    let dry = run(engine.docker(&home).args(["regpush", "--dry-run", &image.name]));
    assert_eq!(dry.status, status, "{dry:?}");
    assert!(dry.stderr.contains(&told.replace("HOST", host)), "{dry:?}");
}

#[test]
fn read_only_registry_accepts_no_pushes() {
    let registry = Registry::start(|config, _| {
        config["storage"]["maintenance"] = json!({"readonly": {"enabled": true}});
    });
    let told = "HOST accepts no pushes: it is read-only, or a mirror of another registry (";
    Failure::of(registry.host(), "rejected", &[told, "hint: push to the registry that"]).assert();
    dry_run_ends(&registry.host(), "app", 1, told);
}

#[test]
fn size_limit_of_a_proxy_is_named() {
    let registry = Registry::open();
    let nginx = Nginx::before(&registry, "location / { client_max_body_size 1m; PROXY }");
    // docker 20.10 reports the status.
    let told = [
        "413 ",
        "hint: raise the request size limit of the proxy in front of HOST (nginx: `client_max_body_size 0`)",
    ];
    Failure { image: ("app", 3 << 20), ..Failure::of(nginx.host(), "rejected", &told) }.assert();
    // The plugin cancels each upload that it starts.
    let log = nginx.take_log();
    let count = |method, status| {
        let own = log.iter().filter(|request| request.is_by_the_plugin());
        own.filter(|request| (request.method.as_str(), request.status) == (method, status)).count()
    };
    // The classic store of docker 28 never reports the status. nginx may close the connection before another
    // engine has read it.
    let started = count("POST", 202);
    assert!(started >= 1, "{log:?}");
    assert_eq!(count("DELETE", 204), started, "{log:?}");
}

#[test]
fn upload_locations_elsewhere_are_named() {
    let registry = Registry::start(|config, _| config["http"]["host"] = json!("http://nowhere.invalid:5000"));
    let told = "HOST sends uploads to http://nowhere.invalid:5000/v2/app/blobs/uploads/";
    let told = [
        told,
        "which cannot be reached",
        "hint: set `Host` in the proxy in front of it, or correct `http.host`",
    ];
    Failure::of(registry.host(), "other", &told).assert();
    dry_run_ends(&registry.host(), "app", 1, told[0]);

    let registry = Registry::open();
    let nginx = Nginx::before(&registry, "location / { proxy_set_header X-Forwarded-Proto https; PROXY }");
    let told = [
        "HOST sends uploads to https://HOST/v2/app/blobs/uploads/",
        "hint: set `X-Forwarded-Proto` and `Host`",
    ];
    // The containerd store ignores the scheme.
    Failure { engines: &ENGINES[..2], ..Failure::of(nginx.host(), "other", &told) }.assert();
    dry_run_ends(
        &nginx.host(),
        "app",
        0,
        "warning: docker's classic store cannot push there: HOST sends uploads to https://",
    );

    let nginx = Nginx::before(&registry, "location /v2/mirror/ { REWRITE } location = /v2/ { PROXY }");
    let told =
        ["HOST sends uploads to http://HOST/v2/app/blobs/uploads/", "which belongs to another repository"];
    Failure { image: ("mirror/app", SMALL), ..Failure::of(nginx.host(), "other", &told) }.assert();
    dry_run_ends(&nginx.host(), "mirror/app", 1, told[0]);
}

#[test]
fn redirects_of_uploads_are_named() {
    let registry = Registry::open();
    let nginx = Nginx::before(
        &registry,
        "location ~ /uploads/ { return 301 https://registry.example.com$request_uri; } location / { PROXY }",
    );
    let told = [
        "HOST redirects uploads to https://registry.example.com/v2/app/blobs/uploads/",
        "hint: push to that name: `docker regpush IMAGE --to registry.example.com/`",
    ];
    Failure::of(nginx.host(), "other", &told).assert();
    dry_run_ends(&nginx.host(), "app", 1, told[0]);
}

#[test]
fn refusals_of_a_proxy_are_not_about_credentials() {
    let registry = Registry::open();
    let nginx = Nginx::before(&registry, "location ~ /uploads/ { return 403; } location / { PROXY }");
    let told =
        ["a proxy in front of HOST refuses the upload (403 Forbidden)", "hint: allow POST, PATCH and PUT"];
    Failure { status: 3, ..Failure::of(nginx.host(), "denied", &told) }.assert();
    dry_run_ends(&nginx.host(), "app", 3, told[0]);
}

#[test]
fn read_only_accounts_are_accepted_but_may_not_write() {
    let registry = Registry::open();
    let nginx = Nginx::before(&registry, "location ~ /uploads/ { return 401; } location / { AUTH PROXY }");
    let told = ["HOST denies access for user `alice` from ", ": accepted, but not allowed to write to app: "];
    Failure { has_login: true, status: 3, ..Failure::of(nginx.host(), "denied", &told) }.assert();
}

/// Engines with the containerd store report neither the status nor the code of such a response.
#[test]
fn statuses_count_if_messages_say_nothing() {
    for (status, seconds) in [
        ("429 Too Many Requests", 4),
        ("500 Internal Server Error", 4),
        ("502 Bad Gateway", 4),
        ("503 Service Unavailable", 4),
    ] {
        for name in ["docker-28-containerd", "docker-28-classic"] {
            let engine = engine(name);
            let (home, registry) = (Home::new(), Registry::open());
            let proxy = Proxy::to(&registry);
            proxy.fails_for(
                Duration::from_secs(seconds),
                ask::begin,
                Fault::refusal(status, "X", "slow down"),
            );
            let image = engine.image(&home, &proxy.name("app:1"), SMALL);
            let pushed = run(engine.docker(&home).args(["regpush", &image.name]));
            assert_eq!(pushed.status, 0, "{name} {status}: {pushed:?}");
        }
    }
}

#[test]
fn waits_as_long_as_the_registry_demands() {
    for name in ["docker-28-containerd", "docker-28-classic", "docker-20.10"] {
        let engine = engine(name);
        let (home, registry) = (Home::new(), Registry::open());
        let proxy = Proxy::to(&registry);
        let slow = Fault::Answer {
            status: "429 Too Many Requests",
            headers: "Content-Type: application/json\r\nRetry-After: 12\r\n",
            body: json!({"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}]}).to_string(),
        };
        proxy.fails_for(Duration::from_secs(12), ask::begin, slow);
        let image = engine.image(&home, &proxy.name("app:1"), SMALL);
        let started = Instant::now();
        let pushed = run(engine.docker(&home).args(["regpush", "--format", "json", &image.name]));
        let took = started.elapsed();
        // The plugin ends the first attempt, in which the classic store itself would retry after 5 s and 15 s.
        assert_eq!((pushed.status, &pushed.json()["attempts"]), (0, &json!(2)), "{name}: {pushed:?}");
        assert!(took >= Duration::from_secs(12), "{name}: {took:?} {pushed:?}");
        assert!(pushed.stderr.contains("it asks to wait 12s"), "{name}: {pushed:?}");
        let log = proxy.log();
        let is_begin = |asked: &&Asked| ask::begin(&asked.method, &asked.path);
        // The engine's own requests, and one of the plugin.
        assert_eq!(
            log.iter().filter(is_begin).filter(|asked| !asked.is_engine).count(),
            1,
            "{name}: {log:?}"
        );
    }
}

/// The registry refuses to mount layers of another repository, and accepts their upload.
#[test]
fn refused_mounts_are_avoided_once() {
    let engine = engine("docker-28-containerd");
    let (home, registry) = (Home::new(), Registry::open());
    let proxy = Proxy::to(&registry);
    let first = engine.image(&home, &proxy.name("first:1"), SMALL);
    assert_eq!(run(engine.docker(&home).args(["regpush", &first.name])).status, 0);
    let is_mount = |method: &str, path: &str| method == "POST" && path.contains("mount=");
    proxy.fails(1000, is_mount, Fault::refusal("403 Forbidden", "DENIED", "no"));
    let pushed = run(engine.docker(&home).args(["regpush", &first.name, "--to", &proxy.name("second:1")]));
    assert_eq!(pushed.status, 0, "{pushed:?}");
    assert!(pushed.stderr.contains("trying once without mounts"), "{pushed:?}");
}

/// A proxy removes the header that the containerd store needs. If the header is missing only in the response to the
/// manifest, the registry has the image nevertheless.
#[test]
fn believes_the_registry_if_a_proxy_removes_the_digest() {
    const STRIP: &str = "proxy_hide_header Docker-Content-Digest; PROXY";
    for name in ENGINES {
        let engine = engine(name);
        let (home, registry) = (Home::new(), Registry::open());
        let nginx =
            Nginx::before(&registry, &format!("location ~ /manifests/ {{ {STRIP} }} location / {{ PROXY }}"));
        let image = engine.image(&home, &nginx.name("app:1"), SMALL);
        let pushed = run(engine.docker(&home).args(["regpush", "--format", "json", &image.name]));
        assert_eq!(pushed.status, 0, "{name}: {pushed:?}");
        assert_eq!(pushed.json()["digest"], registry.digest("app", "1", None), "{name}: {pushed:?}");
    }
    let engine = engine("docker-28-containerd");
    let (home, registry) = (Home::new(), Registry::open());
    let nginx = Nginx::before(&registry, &format!("location / {{ {STRIP} }}"));
    let image = engine.image(&home, &nginx.name("app:1"), SMALL);
    let refused = run(engine.docker(&home).args(["regpush", &image.name]));
    assert_eq!(refused.status, 1, "{refused:?}");
    let hint =
        format!("hint: let the proxy in front of {} pass the header `Docker-Content-Digest`", nginx.host());
    assert!(refused.stderr.contains(&hint), "{refused:?}");
}

/// The layers of one image occupy the upload slots of the engine, so the layers of another image wait.
#[test]
fn waiting_for_upload_slots_is_no_stall() {
    const SLOW: (usize, usize) = (8, 12 << 20);
    thread::scope(|scope| {
        for name in ENGINES {
            scope.spawn(move || {
                // Other tests must not wait for the slots.
                let (home, far, near) = (Home::new(), Registry::open(), Registry::open());
                let socket = home.path("engine.sock");
                let shared = engine(name);
                let host = ["--host".to_owned(), format!("unix://{}", socket.display())];
                let _private = PrivateEngine::start(&shared, &host);
                let engine = shared.at(&socket);
                let line = SlowLine::to(&far, 1 << 20);
                let slow = engine.layered_image(&home, &line.name("slow:1"), SLOW);
                let small = engine.layered_image(&home, &near.name("small:1"), (3, 1000));
                let options = ["regpush", "--stall-timeout", "5s", "--verify", "never"];
                let both = run(engine.docker(&home).args(options).args([&slow.name, &small.name]));
                assert_eq!(both.status, 0, "{name}: {both:?}");
                assert!(!both.stderr.contains("no progress"), "{name}: {both:?}");

                // Another process of the plugin holds the slots.
                let (far, near) = (Registry::open(), Registry::open());
                let line = SlowLine::to(&far, 1 << 20);
                let slow = engine.layered_image(&home, &line.name("slow:2"), SLOW);
                let small = engine.layered_image(&home, &near.name("small:2"), (3, 1000));
                let mut other = engine.docker(&home);
                let mut other = other.args(options).arg(&slow.name).stderr(Stdio::null()).spawn().unwrap();
                line.wait_until_moved(1 << 20);
                let own = run(engine.docker(&home).args(options).arg(&small.name));
                assert_eq!(own.status, 0, "{name}: {own:?}");
                assert!(other.wait().unwrap().success(), "{name}");
            });
        }
    });
}

/// The registry mounts the layers of the first repository in the second, so that the engine sends them once.
#[test]
fn image_for_two_repositories_of_a_registry_is_sent_once() {
    for name in ENGINES {
        let engine = engine(name);
        let (home, registry) = (Home::new(), Registry::open());
        let proxy = Proxy::to(&registry);
        let image = engine.image(&home, &proxy.name("first:1"), SMALL);
        let to = ["second:1", "third:1"].map(|path| proxy.name(path));
        let pushed = run(engine.docker(&home).args([
            "regpush",
            &image.name,
            "--to",
            &image.name,
            "--to",
            &to[0],
            "--to",
            &to[1],
        ]));
        assert_eq!(pushed.status, 0, "{name}: {pushed:?}");
        let is_layer = |method: &str, path: &str| method == "PATCH" && path.contains("/blobs/uploads/");
        let sends = if name.ends_with("containerd") { ask::send } else { is_layer };
        // The containerd store mounts the configuration too; the classic store sends it to each repository.
        let most = if name.ends_with("containerd") { 2 } else { 4 };
        assert!(proxy.count(sends) <= most, "{name}: {:?}", proxy.log());
    }
}
