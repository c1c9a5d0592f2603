//! Tests of the check of the registry before a push, with nginx in front of a registry.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use serde_json::json;

use crate::nginx::{Logged, Nginx};
use crate::support::{Engine, Home, Registry, Run, engine, run, wait_for};
use crate::terminal::Terminal;
use crate::{PASSWORD, SMALL, packed};

const REQUIRE_PASSWORD: &str = "location / { AUTH PROXY }";

/// The oldest engine, and both stores of the newest engine.
fn three_engines() -> [Engine; 3] {
    ["docker-20.10", "docker-28-classic", "docker-28-containerd"].map(engine)
}

fn regpush(engine: &Engine, home: &Home, arguments: &[&str]) -> Run {
    run(engine.docker(home).arg("regpush").args(arguments))
}

/// Stores a password of `alice` for the host.
fn store(home: &Home, host: &str, password: &str) {
    home.config(&json!({"auths": {host: {"auth": packed("alice", password)}}}));
}

#[test]
fn wrong_password_causes_one_failed_login() {
    for engine in three_engines() {
        println!("engine {}", engine.name);
        let (home, registry) = (Home::new(), Registry::open());
        let nginx = Nginx::before(&registry, REQUIRE_PASSWORD);
        store(&home, &nginx.host(), "wrong");
        let images =
            ["a", "b", "c"].map(|path| engine.image(&home, &nginx.name(&format!("{path}:1")), SMALL));
        let [a, b, c] = images.each_ref().map(|image| image.name.as_str());
        let to = ["w", "x", "y", "z"].map(|path| nginx.name(&format!("{path}/")));
        let commands: [&[&str]; 7] = [
            &[a],
            &[a, b, c],
            &[a, "--to", &to[0], "--to", &to[1], "--to", &to[2], "--to", &to[3]],
            &["--dry-run", a],
            &["--if-exists", "update", a],
            &["--if-exists", "fail", a, b],
            &["auth", &nginx.host()],
        ];
        for arguments in commands {
            let refused = regpush(&engine, &home, arguments);
            assert_eq!((refused.status, nginx.failed_logins()), (3, 1), "{arguments:?}: {refused:?}");
        }
    }
}

#[test]
fn right_password_causes_no_failed_login_and_one_more_request() {
    for engine in three_engines() {
        println!("engine {}", engine.name);
        let (home, registry) = (Home::new(), Registry::open());
        let nginx = Nginx::before(&registry, REQUIRE_PASSWORD);
        store(&home, &nginx.host(), PASSWORD);
        let image = engine.image(&home, &nginx.name("app:1"), SMALL);
        let pushed = regpush(&engine, &home, &[&image.name]);
        assert_eq!(pushed.status, 0, "{pushed:?}");
        let log = nginx.take_log();
        assert!(!log.iter().any(|request| request.status == 401 && request.has_credentials), "{log:?}");
        let own = log.iter().filter(|request| request.is_by_the_plugin());
        let own: Vec<_> = own.map(|request| (request.method.as_str(), request.status)).collect();
        // `/v2/` without and with credentials, and the verification: the manifest, the configuration and the layer.
        let want = [("GET", 401), ("GET", 200), ("GET", 200), ("HEAD", 200), ("HEAD", 200)];
        assert_eq!(own, want, "{log:?}");
    }
}

/// The engine contacts the registry only after the user has typed the right password.
#[test]
fn prompts_before_the_engine_contacts_the_registry() {
    for engine in three_engines() {
        println!("engine {}", engine.name);
        let (home, registry) = (Home::new(), Registry::open());
        let nginx = Nginx::before(&registry, REQUIRE_PASSWORD);
        store(&home, &nginx.host(), "old");
        let image = engine.image(&home, &nginx.name("app:1"), SMALL);
        let mut command = engine.docker_at_terminal(&home);
        command.args(["regpush", &image.name]);
        let mut terminal = Terminal::start(command, 100, 30);
        terminal.wait_for("Username (alice): ");
        let log = nginx.take_log();
        assert!(log.iter().all(Logged::is_by_the_plugin), "{log:?}");
        terminal.type_in("\r");
        terminal.wait_for("Password: ");
        terminal.type_in(&format!("{PASSWORD}\r"));
        let ended = terminal.finish();
        assert_eq!(ended.status, 0, "{}", ended.text);
        assert_eq!(nginx.failed_logins(), 0);
    }
}

#[test]
fn ends_at_once_at_a_sign_in_page() {
    let pages = [
        // configuration of nginx, exit status, message
        (
            "location /login { default_type text/html; return 200 '<form></form>'; } location / { return 302 http://$http_host/login?next=$uri; }",
            3,
            "HOST redirects to http://HOST/login: a sign-in page, not a registry",
        ),
        (
            "location / { default_type text/html; return 200 '<p>hello</p>'; }",
            1,
            "HOST is not a registry: it answers with a web page",
        ),
    ];
    for engine in three_engines() {
        for (locations, status, told) in &pages {
            println!("engine {}, {told}", engine.name);
            let (home, registry) = (Home::new(), Registry::open());
            let nginx = Nginx::before(&registry, locations);
            let image = engine.image(&home, &nginx.name("app:1"), SMALL);
            let told = told.replace("HOST", &nginx.host());
            for arguments in
                [&[image.name.as_str()][..], &["--dry-run", &image.name], &["auth", &nginx.host()]]
            {
                let ended = regpush(&engine, &home, arguments);
                assert_eq!(ended.status, *status, "{arguments:?}: {ended:?}");
                assert!(ended.stderr.contains(&told), "{arguments:?}: {ended:?}");
            }
        }
    }
}

/// nginx requires a password only for requests that write.
#[test]
fn explains_a_registry_that_asks_for_credentials_only_on_writes() {
    for engine in three_engines() {
        println!("engine {}", engine.name);
        let (home, registry) = (Home::new(), Registry::open());
        let nginx = Nginx::before(&registry, "location / { limit_except GET HEAD { AUTH } PROXY }");
        store(&home, &nginx.host(), "wrong");
        let image = engine.image(&home, &nginx.name("app:1"), SMALL);
        let refused = regpush(&engine, &home, &[&image.name]);
        assert_eq!(refused.status, 3, "{refused:?}");
        let hint = format!("hint: configure {} to answer 401 at `/v2/`", nginx.host());
        assert!(refused.stderr.contains(&hint), "{refused:?}");
        let auth = regpush(&engine, &home, &["auth", &nginx.host()]);
        assert_eq!(auth.status, 0, "{auth:?}");
        assert!(auth.stdout.contains("not asked"), "{auth:?}");
    }
}

/// nginx sends the challenge only at `/v2/`, and elsewhere a 401 without a challenge.
#[test]
fn uses_the_challenge_of_the_base_path_for_a_bare_401() {
    let engine = engine("docker-28-classic");
    let (home, registry) = (Home::new(), Registry::open());
    let required = packed("alice", PASSWORD);
    let nginx = Nginx::before(
        &registry,
        &format!(
            "location = /v2/ {{ AUTH PROXY }} location / {{ if ($http_authorization != 'Basic {required}') {{ return 401; }} PROXY }}"
        ),
    );
    store(&home, &nginx.host(), PASSWORD);
    let image = engine.image(&home, &nginx.name("app:1"), SMALL);
    for options in [&["--verify", "always"][..], &["--dry-run"]] {
        let done = regpush(&engine, &home, &[options, &[&image.name]].concat());
        assert_eq!(done.status, 0, "{done:?}");
    }
    let listed = regpush(&engine, &home, &["ls", &nginx.name("app")]);
    assert!(listed.status == 0 && listed.stdout.contains("sha256:"), "{listed:?}");
}

/// An account that may write but not read.
#[test]
fn unreadable_manifests_are_a_warning() {
    let limits = [
        ("limit_except PUT { deny all; }", "denies access for user `alice`"),
        ("if ($request_method ~ 'GET|HEAD') { return 412; }", "412 Precondition Failed"),
    ];
    for engine in three_engines() {
        for (limit, told) in limits {
            println!("engine {}, {limit}", engine.name);
            let (home, registry) = (Home::new(), Registry::open());
            let nginx = Nginx::before(
                &registry,
                &format!("location ~ /manifests/ {{ AUTH {limit} PROXY }} location / {{ AUTH PROXY }}"),
            );
            store(&home, &nginx.host(), PASSWORD);
            let image = engine.image(&home, &nginx.name("app:1"), SMALL);
            let dry = regpush(&engine, &home, &["--dry-run", &image.name]);
            assert!(dry.status == 0 && dry.stdout.contains("1 cannot be looked up"), "{dry:?}");
            // The containerd store reads the manifest itself, and fails.
            if engine.name != "docker-28-containerd" {
                let pushed = regpush(&engine, &home, &["--if-exists", "update", &image.name]);
                assert_eq!(pushed.status, 0, "{pushed:?}");
                for warning in ["cannot look up the tag in the registry: ", "cannot verify the push: "] {
                    let mut lines = pushed.stderr.lines();
                    let line = lines.find(|line| line.starts_with(&format!("warning: {warning}")));
                    assert!(line.is_some_and(|line| line.contains(told)), "{warning}: {pushed:?}");
                }
            }
        }
    }
}

/// tinyproxy requires a password that HTTPS_PROXY does not contain.
#[test]
fn names_the_proxy_that_requires_a_password() {
    let engine = engine("docker-28-classic");
    let home = Home::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = home.path("tinyproxy.conf");
    fs::write(&config, format!("Port {port}\nListen 127.0.0.1\nBasicAuth proxyuser proxypass\n")).unwrap();
    let mut tinyproxy = Command::new("tinyproxy");
    let log = home.path("tinyproxy.log");
    tinyproxy.arg("-d").arg("-c").arg(config).stdout(fs::File::create(&log).unwrap());
    let mut tinyproxy = tinyproxy.spawn().unwrap();
    wait_for("tinyproxy listens", || TcpStream::connect(("127.0.0.1", port)).ok());
    let mut docker = engine.docker(&home);
    docker.env("HTTPS_PROXY", format!("http://proxyuser:wrong@127.0.0.1:{port}"));
    let refused = run(docker.args(["regpush", "ls", "registry.example.com/app"]));
    assert_eq!(refused.status, 6, "{refused:?}");
    let told = format!(
        "cannot reach the registry registry.example.com through the proxy 127.0.0.1:{port} (HTTPS_PROXY)"
    );
    assert!(refused.stderr.contains(&told) && !refused.stderr.contains("wrong"), "{refused:?}");
    tinyproxy.kill().unwrap();
    tinyproxy.wait().unwrap();
    let log = fs::read_to_string(log).unwrap();
    assert_eq!(log.matches("CONNECT registry.example.com:443").count(), 1, "not retried: {log}");
}
