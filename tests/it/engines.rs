//! Tests which engine the plugin connects to, over which transport and with which headers, and how the plugin reports
//! failures of engines.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::engine::{DIGEST, End, FakeEngine, Ping, Reply, digest_line, no_such_image, refusal};
use crate::support::env::{Run, TestEnv, run};
use crate::support::wait::wait_for;

const IMAGE: &str = "localhost:0/app:1";

fn pushed() -> Reply {
    Reply::stream([digest_line("1")])
}

/// Pushes an image with `DOCKER_HOST` set to `host`, and with further environment variables.
fn push_to(env: &TestEnv, host: &str, variables: &[(&str, &str)]) -> Run {
    let mut command = env.without_engine();
    command.env("DOCKER_HOST", host).envs(variables.iter().copied()).args(["regpush", "-q", IMAGE]);
    run(&mut command)
}

#[test]
fn accepts_a_base_path_in_a_tcp_host() {
    let engine = FakeEngine::at_tcp()
        .serving_pushed()
        .on("POST /base/v1.41/images/localhost:0/app/push?tag=1&tlsVerify=false", pushed());
    let host = format!("{}/base/", engine.host);
    let run = push_to(&TestEnv::new(), &host, &[]);
    assert_eq!(run.status, 0, "{run}");
    let request = &engine.pushes()[0];
    assert_eq!(request.header("host"), engine.host.strip_prefix("tcp://"));
}

#[test]
fn uses_a_proxy_as_docker_does() {
    let url = "http://engine.example.com:2375";
    let proxy = FakeEngine::at_tcp()
        .serving_pushed()
        .on(&format!("POST {url}/v1.41/images/localhost:0/app/push?tag=1&tlsVerify=false"), pushed());
    let address = proxy.host.replace("tcp://", "http://me:s3cret@");
    let env = TestEnv::new();
    let run = push_to(&env, "tcp://engine.example.com:2375", &[("HTTP_PROXY", &address)]);
    assert_eq!(run.status, 0, "{run}");
    let request = &proxy.pushes()[0];
    assert_eq!(request.header("proxy-authorization"), Some("Basic bWU6czNjcmV0"));
    assert_eq!(request.header("host"), Some("engine.example.com:2375"));

    // In each row the variables do not apply to the engine's address, so the plugin does not use the proxy, and fails
    // to resolve the engine's host name itself.
    let engine = "tcp://engine.invalid:2375";
    for variables in [
        &[("HTTPS_PROXY", address.as_str())][..],
        &[("ALL_PROXY", &address)],
        &[("HTTP_PROXY", &address), ("NO_PROXY", "*.invalid")],
        &[("http_proxy", &address), ("no_proxy", "engine.invalid:2375")],
    ] {
        let away = push_to(&env, engine, variables);
        assert_eq!(away.status, 4, "{variables:?}: {away}");
        assert!(away.stderr.contains("hint: check host name, network and firewall"), "{variables:?}: {away}");
    }
    assert_eq!(proxy.pushes().len(), 1);
    // The plugin does not use a proxy for an engine on this machine.
    let local = FakeEngine::at_tcp().serving_pushed().on_every_push(pushed());
    assert_eq!(push_to(&env, &local.host, &[("HTTP_PROXY", "http://127.0.0.1:0")]).status, 0);

    let dead = "http://me:s3cret@127.0.0.1:0";
    let run = push_to(&env, "tcp://engine.example.com:2375", &[("HTTP_PROXY", dead)]);
    assert_eq!(run.status, 4, "{run}");
    assert!(run.stderr.contains("through the proxy http://127.0.0.1:0/: Connection refused"), "{run}");
    assert!(run.stderr.contains("hint: check HTTP_PROXY and HTTPS_PROXY"), "{run}");
    assert!(!run.stderr.contains("s3cret"), "{run}");

    // The plugin reports a response 407 as an error of the proxy, not of the engine or the registry.
    let strict = FakeEngine::at_tcp().on_every_push(Reply::json(407, "nope"));
    let variables = [("HTTP_PROXY", strict.host.replace("tcp://", "http://"))];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let run = push_to(&env, "tcp://engine.example.com:2375", &variables);
    assert_eq!(run.status, 4, "{run}");
    assert!(run.stderr.contains("it answered 407 Proxy Authentication Required"), "{run}");
    // An invalid proxy setting is an error, since the user may not want a direct connection.
    for garbage in ["::garbage::", "ftp://me:s3cret@127.0.0.1:1"] {
        let run = push_to(&env, "tcp://engine.invalid:2375", &[("HTTP_PROXY", garbage)]);
        assert_eq!(run.status, 4, "{run}");
        assert!(run.stderr.contains("through the proxy HTTP_PROXY: it is not the URL of an"), "{run}");
        assert!(!run.stderr.contains("s3cret"), "{run}");
    }
}

#[test]
fn names_a_proxy_that_refuses_connect() {
    let proxy = FakeEngine::at_tcp().on("CONNECT engine.example.com:2376", Reply::json(407, "who are you?"));
    let env = TestEnv::new();
    fs::write(env.path("ca.pem"), CA).unwrap();
    let ca = env.path("ca.pem").display().to_string();
    let mut command = env.without_engine();
    command.env("HTTPS_PROXY", proxy.host.replace("tcp://", "http://"));
    command.args([
        "-H",
        "tcp://engine.example.com:2376",
        "--tlsverify",
        "--tlscacert",
        &ca,
        "regpush",
        IMAGE,
    ]);
    let run = run(&mut command);
    assert_eq!(run.status, 4, "{run}");
    let address = proxy.host.replace("tcp://", "http://");
    let want = format!(
        "cannot connect to the engine at tcp://engine.example.com:2376 (from --host) through the proxy {address}/:"
    );
    assert!(run.stderr.contains(&want), "{run}");
}

#[test]
fn sends_custom_headers_but_own_headers_win() {
    let config =
        r#"{"HTTPHEADERS":{"X-Meta-Team":"infra","User-Agent":"mine","X-Registry-Auth":"junk","Host":"h"}}"#;
    let engine = FakeEngine::start().serving_pushed().on_every_push(pushed());
    let env = TestEnv::new().with_config(config);
    assert_eq!(run(env.command(&engine).args(["-D", "regpush", IMAGE])).status, 0);
    let request = &engine.pushes()[0];
    assert_eq!(request.header("x-meta-team"), Some("infra"));
    assert_eq!(request.registry_auth(), json!({}));
    assert_eq!(request.header("user-agent"), Some(concat!("docker-regpush/", env!("CARGO_PKG_VERSION"))));
    assert_eq!(request.header("host"), Some("api.moby.localhost"));

    let custom = r#"one=1,"two=s3cret,x",three="#;
    let replaced =
        run(env.command(&engine).args(["-D", "regpush", IMAGE]).env("DOCKER_CUSTOM_HEADERS", custom));
    assert_eq!(replaced.status, 0, "{replaced}");
    assert!(replaced.stderr.contains("two") && !replaced.stderr.contains("s3cret"), "{replaced}");
    let request = &engine.pushes()[1];
    let header = |name| request.header(name);
    assert_eq!((header("one"), header("two"), header("three")), (Some("1"), Some("s3cret,x"), Some("")));
    assert_eq!(header("x-meta-team"), None, "the variable replaces the config's");

    let broken = run(env.command(&engine).args(["regpush", IMAGE]).env("DOCKER_CUSTOM_HEADERS", "oops"));
    assert_eq!(broken.status, 125, "{broken}");
    assert!(broken.stderr.contains("failed to set custom headers from DOCKER_CUSTOM_HEADERS"), "{broken}");
}

#[test]
fn does_not_follow_redirects_of_the_engine() {
    let target = "http://elsewhere.invalid/push";
    let redirect = Reply { headers: vec![("Location", target)], ..Reply::json(307, "") };
    let engine = FakeEngine::start().on_every_push(redirect);
    let run = run(TestEnv::new().command(&engine).args(["regpush", IMAGE]));
    assert_eq!(run.status, 4, "{run}");
    // The plugin does not follow a redirect, which would send the credentials to another host.
    assert!(run.stderr.contains(&format!("answered 307 Temporary Redirect, to `{target}`")), "{run}");
    assert!(
        run.stderr.contains("hint: check --host, --context and DOCKER_HOST: a proxy in front of the engine"),
        "{run}"
    );

    // The plugin does not report a redirect to a sign-in page as a response of the registry.
    let login = Reply { headers: vec![("Location", "/authenticate?rd=/images/")], ..Reply::json(302, "") };
    let engine = FakeEngine::start().on_every_push(login);
    let run = self::run(TestEnv::new().command(&engine).args(["regpush", IMAGE]));
    assert_eq!(run.status, 4, "{run}");
}

#[test]
fn explains_incompatible_api_versions() {
    let old = FakeEngine::start().with_ping(Ping::Version("1.23"));
    let refused = run(TestEnv::new().command(&old).args(["regpush", IMAGE]));
    assert_eq!(refused.status, 4, "{refused}");
    let want = format!(
        "the engine at {} (from DOCKER_HOST) has API version 1.23; docker-regpush requires 1.24 or later",
        old.host
    );
    assert!(refused.stderr.contains(&want), "{refused}");
    assert!(refused.stderr.contains("hint: update docker on the engine's machine"), "{refused}");

    let text = "client version 1.55 is too old. Minimum supported API version is 1.60, please upgrade your client to a newer version";
    let body = json!({"message": text}).to_string();
    // The plugin inspects the image if a push takes longer than 100 ms.
    let new = FakeEngine::start()
        .with_ping(Ping::Version("1.70"))
        .allow("GET /v1.55/info", Reply::json(200, "{}"))
        .allow("GET /v1.55/images/localhost:0/app:1/json", no_such_image())
        .on("POST /v1.55/images/localhost:0/app/push", Reply::json(400, &body));
    let refused = run(TestEnv::new().command(&new).args(["regpush", IMAGE]));
    assert_eq!(refused.status, 4, "{refused}");
    assert!(refused.stderr.contains("Minimum supported API version is 1.60"), "{refused}");
    let want =
        format!("the engine at {} (from DOCKER_HOST) does not support API version 1.55: {text}", new.host);
    assert!(refused.stderr.contains(&want), "{refused}");
    assert!(
        refused
            .stderr
            .contains("hint: update docker-regpush: the engine requires API version 1.60 or later\n"),
        "{refused}"
    );
    // With the user's own version the hint names the variable.
    let text = json!({"message": "client version 1.30 is too old. Minimum supported API version is 1.40, please upgrade"}).to_string();
    let pinned = FakeEngine::start()
        .allow("GET /v1.30/info", Reply::json(200, "{}"))
        .on("POST /v1.30/images/localhost:0/app/push", Reply::json(400, &text));
    let refused = push_to(&TestEnv::new(), &pinned.host, &[("DOCKER_API_VERSION", "1.30")]);
    assert_eq!(refused.status, 4, "{refused}");
    assert!(refused.stderr.contains("hint: unset DOCKER_API_VERSION, or set it to 1.40\n"), "{refused}");

    // Without the variable, the plugin would use a version that the engine refuses too.
    let text = json!({"message": "client version 1.51 is too old. Minimum supported API version is 1.60, please upgrade"}).to_string();
    let pinned = FakeEngine::start()
        .allow("GET /v1.51/info", Reply::json(200, "{}"))
        .allow("GET /v1.51/images/localhost:0/app:1/json", no_such_image())
        .on("POST /v1.51/images/localhost:0/app/push", Reply::json(400, &text));
    let refused = push_to(&TestEnv::new(), &pinned.host, &[("DOCKER_API_VERSION", "1.51")]);
    assert!(
        refused.stderr.contains("hint: update docker-regpush: the engine requires API version 1.60"),
        "{refused}"
    );
    let text = json!({"message": "client version 1.99 is too new. Maximum supported API version is 1.41"})
        .to_string();
    let pinned = FakeEngine::start()
        .allow("GET /v1.99/info", Reply::json(200, "{}"))
        .allow("GET /v1.99/images/localhost:0/app:1/json", no_such_image())
        .on("POST /v1.99/images/localhost:0/app/push", Reply::json(400, &text));
    let refused = push_to(&TestEnv::new(), &pinned.host, &[("DOCKER_API_VERSION", "1.99")]);
    assert_eq!(refused.status, 4, "{refused}");
    assert!(refused.stderr.contains("hint: unset DOCKER_API_VERSION, or set it to 1.41\n"), "{refused}");
    // The plugin prints the same hint if the engine refuses the API version of a request to list images.
    let listing = FakeEngine::start().on("GET /v1.99/images/json", Reply::json(400, &text));
    let mut command = TestEnv::new().command(&listing);
    let refused = run(command.env("DOCKER_API_VERSION", "1.99").args(["regpush", "-a", "localhost:0/app"]));
    assert_eq!(refused.status, 4, "{refused}");
    assert!(refused.stderr.contains("hint: unset DOCKER_API_VERSION, or set it to 1.41\n"), "{refused}");
}

#[test]
fn reports_an_engine_that_requires_tls() {
    let text = "Client sent an HTTP request to an HTTPS server.\n";
    let engine = FakeEngine::at_tcp().with_ping(Ping::Refused(text));
    let refused = push_to(&TestEnv::new(), &engine.host, &[]);
    assert_eq!(refused.status, 4, "{refused}");
    let want = format!("the engine at {} (from DOCKER_HOST) requires TLS", engine.host);
    assert!(refused.stderr.contains(&want), "{refused}");
    assert!(refused.stderr.contains("hint: pass --tlsverify"), "{refused}");

    // With `DOCKER_API_VERSION` the plugin sends no ping, so the push is the first request that the engine refuses.
    let engine = FakeEngine::at_tcp()
        .allow("GET /v1.41/info", Reply::json(200, "{}"))
        .on_every_push(Reply { content_type: None, ..Reply::json(400, text) });
    let refused = push_to(&TestEnv::new(), &engine.host, &[("DOCKER_API_VERSION", "1.41")]);
    assert_eq!(refused.status, 4, "{refused}");
    assert!(refused.stderr.contains("(from DOCKER_HOST) requires TLS"), "{refused}");

    // An engine does not use TLS on a Unix socket, so a message about HTTPS on a socket comes from a registry.
    let body = json!({"message": text}).to_string();
    let engine = FakeEngine::start().on_every_push(Reply::json(400, &body));
    assert_eq!(push_to(&TestEnv::new(), &engine.host, &[]).status, 6);

    // Some TLS servers answer a plain HTTP request with a TLS alert.
    let host = door_that_says(b"\x15\x03\x03\x00\x02\x02\x46");
    let refused = push_to(&TestEnv::new(), &host, &[]);
    assert_eq!(refused.status, 4, "{refused}");
    assert!(refused.stderr.contains(&format!("lost the connection to the engine at {host}")), "{refused}");
    assert!(refused.stderr.contains("or requires TLS"), "{refused}");
}

/// Starts a TCP server that reads a few bytes, sends `answer`, and closes the connection.
fn door_that_says(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let host = format!("tcp://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 16]);
            let _ = stream.write_all(answer);
        }
    });
    host
}

/// Only TCP keepalives detect that the engine's machine has become unreachable during a push.
#[test]
fn sends_keepalives_to_a_silent_tcp_engine() {
    let engine = FakeEngine::at_tcp().on_every_push(Reply::stream(["{}"]).ending(End::Hang));
    let port: u16 = engine.host.rsplit(':').next().unwrap().parse().unwrap();
    let mut command = TestEnv::new().without_engine();
    command.env("DOCKER_HOST", &engine.host).args(["regpush", IMAGE]).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    engine.wait_for_pushes(1);
    let remote = format!("0100007F:{port:04X}");
    let is_asked = || {
        let connections = fs::read_to_string("/proc/net/tcp").unwrap();
        let fields = connections.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        // The timer field contains `02:` (proc(5): timer 2) and the hundredths of a second until the next keepalive.
        // Linux's default is 2 hours.
        fields.into_iter().filter(|fields| fields[2] == remote).any(|fields| {
            let wait = fields[5].strip_prefix("02:").and_then(|wait| u64::from_str_radix(wait, 16).ok());
            wait.is_some_and(|wait| wait <= 3000)
        })
    };
    wait_for("a keepalive is due", || is_asked().then_some(()));
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

/// With `DOCKER_API_VERSION` the plugin sends no ping, so the timeout of pings does not apply.
#[test]
fn gives_up_a_port_that_never_answers_the_tls_handshake() {
    let env = TestEnv::new();
    fs::write(env.path("ca.pem"), CA).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = format!("tcp://{}", listener.local_addr().unwrap());
    let cert_path = env.path("").display().to_string();
    let variables =
        [("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", &*cert_path), ("DOCKER_API_VERSION", "1.41")];
    let refused = push_to(&env, &host, &variables);
    assert_eq!(refused.status, 4, "{refused}");
    assert!(refused.stderr.contains("no TLS handshake within 10s"), "{refused}");
}

#[test]
fn suggests_tls_if_the_port_closes_without_an_answer() {
    let host = door_that_says(b"");
    let refused = push_to(&TestEnv::new(), &host, &[]);
    assert_eq!(refused.status, 4, "{refused}");
    assert!(
        refused.stderr.contains(
            "hint: check --host, --context and DOCKER_HOST: the server is not an engine, or requires TLS"
        ),
        "{refused}"
    );
}

#[test]
fn refused_handshake_does_not_blame_the_certificate() {
    let env = TestEnv::new();
    fs::write(env.path("ca.pem"), CA).unwrap();
    let cert_path = env.path("").display().to_string();
    let variables = [("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", cert_path.as_str())];
    // The server answers with TLS alert 40, handshake_failure.
    let refused = push_to(&env, &door_that_says(b"\x15\x03\x03\x00\x02\x02\x28"), &variables);
    assert_eq!(refused.status, 4, "{refused}");
    assert!(refused.stderr.contains("it refused the handshake"), "{refused}");
}

#[test]
fn reports_tls_to_a_port_without_tls() {
    let env = TestEnv::new();
    fs::write(env.path("ca.pem"), CA).unwrap();
    let cert_path = env.path("").display().to_string();
    let variables = [("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", cert_path.as_str())];
    // An engine without TLS answers the TLS handshake with an HTTP error.
    let host = door_that_says(b"HTTP/1.1 400 Bad Request\r\n\r\n400 Bad Request");
    let refused = push_to(&env, &host, &variables);
    assert_eq!(refused.status, 4, "{refused}");
    let want = format!(
        "cannot establish TLS with the engine at {host} (from DOCKER_HOST): the server does not speak TLS"
    );
    assert!(refused.stderr.contains(&want), "{refused}");
    assert!(refused.stderr.contains("unset DOCKER_TLS and DOCKER_TLS_VERIFY"), "{refused}");
}

#[test]
fn names_an_unusable_endpoint_and_its_origin() {
    let env = TestEnv::new();
    let table = [
        ("fd://", 125, "`fd://` (from DOCKER_HOST) is not an address that a client can connect to"),
        ("http://x", 125, "invalid bind address format: http://x (from DOCKER_HOST)"),
        ("ssh://me:pw@h", 125, "invalid SSH URL: plain-text password is not supported (from DOCKER_HOST)"),
        ("/run/docker.sock", 4, "cannot connect to the engine at tcp://localhost:2375/run/docker.sock"),
        ("/run/docker.sock", 4, "hint: write unix:///run/docker.sock for a socket"),
        ("tcp://127.0.0.1:0", 4, "engine at tcp://127.0.0.1:0 (from DOCKER_HOST): Connection refused"),
        ("tcp://127.0.0.1:0", 4, "hint: start the engine with this address"),
        ("tcp://nowhere.invalid:1", 4, "hint: check host name, network and firewall"),
    ];
    for (host, status, message) in table {
        let run = push_to(&env, host, &[]);
        assert_eq!(run.status, status, "{host}: {run}");
        assert!(run.stderr.contains(message), "{host}: {message}: {run}");
    }
    let run = push_to(&env, "unix:///x", &[("DOCKER_TLS_VERIFY", "1")]);
    assert_eq!(run.status, 4, "{run}");
    assert!(run.stderr.contains("ca.pem`, needed for TLS to the engine (from DOCKER_HOST)"), "{run}");

    let mut command = env.without_engine();
    let unknown = self::run(command.env("DOCKER_CONTEXT", "nope").args(["regpush", IMAGE]));
    assert_eq!(unknown.status, 4, "{unknown}");
    assert!(unknown.stderr.contains("context `nope` (named by DOCKER_CONTEXT) not found in `"), "{unknown}");
    assert!(
        unknown.stderr.contains("hint: run `docker context ls`, then change or unset DOCKER_CONTEXT"),
        "{unknown}"
    );
}

/// In this test `ssh` is a script that prints an error and fails. The tests in tests/e2e run a real ssh.
#[test]
fn runs_a_failing_ssh_once_and_reports_its_stderr() {
    let table = [
        (
            "ssh: Could not resolve hostname box",
            255,
            "hint: run `ssh -p 2222 me@box` to check that the machine can be reached",
        ),
        ("me@box: Permission denied (publickey).", 255, "`ssh -p 2222 me@box` must work without a prompt"),
        ("Host key verification failed.", 255, "connect once with `ssh -p 2222 me@box`"),
        ("bash: line 1: docker: command not found", 127, "install docker on that machine"),
        ("Cannot connect to the Docker daemon at unix:///x", 1, "start the engine on that machine"),
        ("zsh:1: command not found: docker", 127, "install docker on that machine"),
        ("", 255, "hint: run `ssh -p 2222 me@box docker system dial-stdio` to see the error"),
    ];
    for (said, status, hint) in table {
        let script = format!(
            r#"printf '%s\n' "$@" >>"$HOME/argv"; echo run >>"$HOME/runs"; printf '%s\033[2J' "{said}" >&2; exit {status}"#
        );
        let env = TestEnv::new().with_program("ssh", &script);
        let run = push_to(&env, "ssh://me@box:2222", &[]);
        assert_eq!(run.status, 4, "{said}: {run}");
        let message = "cannot reach the engine at ssh://me@box:2222 (from DOCKER_HOST): `ssh -l me -p 2222 \
             -o ConnectTimeout=30 -T -- box docker system dial-stdio` ended with exit status: ";
        assert!(run.stderr.contains(&format!("{message}{status}")), "{said}: {run}");
        assert!(run.stderr.contains(said) && run.stderr.contains(hint), "{said}: {run}");
        assert!(!run.stderr.contains('\u{1b}'), "{run}");
        assert_eq!(
            fs::read_to_string(env.path("home/runs")).unwrap(),
            "run\n",
            "ssh runs once, not three times"
        );
        let argv = fs::read_to_string(env.path("home/argv")).unwrap();
        let want = "-l\nme\n-p\n2222\n-o ConnectTimeout=30\n-T\n--\nbox\ndocker system dial-stdio\n";
        assert_eq!(argv, want);
    }
    // An ssh server that refuses more connections may accept one a moment later.
    let script = r#"echo run >>"$HOME/runs"; echo "kex_exchange_identification: read: Connection reset by peer" >&2; exit 255"#;
    let env = TestEnv::new().with_program("ssh", script);
    let throttled = push_to(&env, "ssh://me@box:2222", &[]);
    assert_eq!(throttled.status, 4, "{throttled}");
    assert!(throttled.stderr.contains("hint: raise MaxStartups and MaxSessions"), "{throttled}");
    assert_eq!(fs::read_to_string(env.path("home/runs")).unwrap(), "run\nrun\n");

    // The command in the hint quotes host names, so that users can paste the command into a shell.
    let env = TestEnv::new().with_program("ssh", "exit 255");
    for (host, typed) in [
        ("ssh://a$(id)@box", "`ssh 'a$(id)@box' docker system dial-stdio`"),
        ("ssh://-oProxyCommand=id@x", "`ssh -- '-oProxyCommand=id@x' docker system dial-stdio`"),
        ("ssh://box/run/x.sock", "`ssh box docker '--host=unix:///run/x.sock' system dial-stdio`"),
    ] {
        let refused = push_to(&env, host, &[]);
        assert!(refused.stderr.contains(&format!("hint: run {typed} to see the error")), "{host}: {refused}");
    }
    // ssh prints the server's banner first, and the reason of the failure last.
    let script = r#"yes 'authorised users only' | head -n 100 >&2; echo 'Permission denied (publickey).' >&2; exit 255"#;
    let env = TestEnv::new().with_program("ssh", script);
    let refused = push_to(&env, "ssh://box", &[]);
    assert!(refused.stderr.contains("only Permission denied (publickey)."), "{refused}");
    // If the remote shell prints text before docker's response, the plugin does not report a failure of ssh, and does
    // not run ssh again.
    let script = r#"echo run >>"$HOME/runs"; echo Welcome; cat >/dev/null"#;
    let env = TestEnv::new().with_program("ssh", script);
    let refused = push_to(&env, "ssh://box", &[]);
    assert_eq!(refused.status, 4, "{refused}");
    assert!(
        refused.stderr.contains("hint: check --host, --context and DOCKER_HOST: the server is not an engine"),
        "{refused}"
    );
    assert_eq!(fs::read_to_string(env.path("home/runs")).unwrap(), "run\n");

    let mut command = TestEnv::new().without_engine();
    command.env("PATH", "/nowhere").env("DOCKER_HOST", "ssh://box").args(["regpush", IMAGE]);
    let missing = run(&mut command);
    assert_eq!(missing.status, 4, "{missing}");
    assert!(
        missing.stderr.contains("cannot run `ssh ") && missing.stderr.contains("hint: install ssh"),
        "{missing}"
    );
}

#[test]
fn ends_a_hanging_ssh_and_its_children() {
    let env = TestEnv::new().with_program(
        "ssh",
        r#"sleep 1000 & echo "$$ $!" >"$HOME/new"; mv "$HOME/new" "$HOME/pids"; sleep 1001"#,
    );
    let mut command = env.without_engine();
    command.env("DOCKER_HOST", "ssh://box").args(["regpush", IMAGE]).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    wait_for("ssh is started", || env.path("home/pids").exists().then_some(()));
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    let pids = fs::read_to_string(env.path("home/pids")).unwrap();
    // A zombie counts as exited, since orphans remain zombies if no process reaps them.
    let has_ended = |pid: &str| {
        fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
    };
    wait_for("ssh and its child process end", || pids.split_whitespace().all(has_ended).then_some(()));
}

#[test]
fn reports_why_ssh_broke_in_mid_push() {
    let script = r#"
        request() { while IFS= read -r line && [ "$line" != "$(printf '\r')" ]; do :; done; }
        request; printf 'HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 0\r\n\r\n'
        request; printf 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n{"status":"Waiting"}\r\n'
        echo 'Connection to box closed by remote host.' >&2; exit 255"#;
    let run = push_to(&TestEnv::new().with_program("ssh", script), "ssh://box", &[]);
    assert_eq!(run.status, 4, "{run}");
    assert!(
        run.stderr.contains("cannot push localhost:0/app:1: cannot reach the engine at ssh://box"),
        "{run}"
    );
    assert!(run.stderr.contains("exit status: 255: Connection to box closed by remote host."), "{run}");
}

/// For endpoint types that the plugin does not support, the plugin connects through `docker system dial-stdio`.
#[test]
fn reaches_unknown_endpoints_through_docker_dial_stdio() {
    let script = r#"printf '%s ' "$@" >"$HOME/argv"; echo 'no way' >&2
        echo "socket=$DOCKER_CLI_PLUGIN_SOCKET otel=$OTEL_RESOURCE_ATTRIBUTES" >"$HOME/env"; exit 1"#;
    let env = TestEnv::new().with_program("docker", script);
    let name = "vm";
    let mut create = Command::new("sh");
    // docker stores a context in a folder whose name is the SHA-256 of the context's name.
    create.env("DIR", env.config_directory()).args([
        "-c",
        r#"d=$DIR/contexts/meta/$(printf %s "$0" | sha256sum | cut -d' ' -f1); mkdir -p "$d"; printf '%s' "$1" >"$d/meta.json""#,
        name,
        r#"{"Name":"vm","Endpoints":{"docker":{"Host":"vsock://3"}}}"#,
    ]);
    assert_eq!(run(&mut create).status, 0);
    let mut command = env.without_engine();
    command.env("DOCKER_CLI_PLUGIN_SOCKET", "/nothing");
    command.env("OTEL_RESOURCE_ATTRIBUTES", "a=1,docker.cli.cobra.command_path=docker%20regpush,b=2");
    let refused = run(command.args(["--context", name, "-D", "regpush", IMAGE]));
    assert_eq!(
        fs::read_to_string(env.path("home/env")).unwrap(),
        "socket= otel=a=1,b=2\n",
        "variables for the plugin are not passed on"
    );
    assert_eq!(refused.status, 4, "{refused}");
    let want = "cannot reach the engine at `docker system dial-stdio` (from context `vm`, named by --context): \
         `docker --context vm system dial-stdio` ended with exit status: 1: no way";
    assert!(refused.stderr.contains(want), "{refused}");
    assert_eq!(fs::read_to_string(env.path("home/argv")).unwrap(), "--context vm system dial-stdio ");

    let mut command = env.without_engine();
    command.env("DOCKER_CLI_PLUGIN_USE_DIAL_STDIO", "1").args(["-H", "tcp://h:1", "regpush", IMAGE]);
    let refused = run(&mut command);
    assert!(refused.stderr.contains("required by DOCKER_CLI_PLUGIN_USE_DIAL_STDIO"), "{refused}");
    assert_eq!(fs::read_to_string(env.path("home/argv")).unwrap(), "--host tcp://h:1 system dial-stdio ");
}

/// docker 24 with the containerd store and podman before 3 do not report a digest after a push.
#[test]
fn confirms_a_push_without_a_digest_at_the_registry_or_fails() {
    let refers = r#"{"status":"The push refers to repository [localhost:0/app]"}"#;
    let descriptor = json!({"Descriptor": {"digest": DIGEST, "size": 527}}).to_string();
    let other = format!("sha256:{}", "9".repeat(64));
    let by_id = json!({"Id": DIGEST, "RepoDigests": null}).to_string();
    let by_name = json!({"Id": other, "RepoDigests": [format!("localhost:0/app@{DIGEST}")]}).to_string();
    let different = json!({"Id": other, "RepoDigests": []}).to_string();
    for (lines, image, is_confirmed) in [
        (vec![refers], by_id.clone(), true),
        (vec![], by_name, true),
        (vec![refers], different, false),
        (vec![refers], "garbage".to_owned(), false),
    ] {
        let engine = FakeEngine::start()
            .on_every_push(Reply::stream(lines))
            .on("GET /v1.41/distribution/localhost:0/app:1/json", Reply::json(200, &descriptor))
            // The plugin may repeat the `/distribution` request to verify the digest.
            .allow("GET /v1.41/distribution/localhost:0/app:1/json", Reply::json(200, &descriptor))
            .on("GET /v1.41/images/localhost:0/app:1/json", Reply::json(200, &image));
        let run = run(TestEnv::new().command(&engine).args(["regpush", "--format", "json", IMAGE]));
        assert_eq!(run.status, if is_confirmed { 0 } else { 4 }, "{image}: {run}");
        let result = run.json();
        if is_confirmed {
            assert_eq!((&result["digest"], &result["verified"]), (&json!(DIGEST), &json!(true)), "{run}");
            let asked = engine.request("GET /v1.41/distribution/").unwrap();
            assert_eq!(asked.header("x-registry-auth"), Some("e30="));
        } else {
            assert_eq!(result["error"]["class"], "engine");
            assert!(run.stderr.contains("the plugin could not confirm the image in the registry"), "{run}");
        }
    }
}

#[test]
fn all_tags_prints_one_result_per_tag() {
    let images = json!([
        {"RepoTags": ["localhost:0/app:2", "localhost:0/other:1", "localhost:0/app:1"]},
        {"RepoTags": null},
        {"RepoTags": ["localhost:0/app:3", "localhost:0/app:4"]},
    ]);
    let push = |tag| format!("POST /v1.41/images/localhost:0/app/push?tag={tag}&tlsVerify=false");
    let engine = FakeEngine::start()
        .serving_pushed()
        .on("GET /v1.41/images/json", Reply::json(200, &images.to_string()))
        .on(&push(1), Reply::stream([digest_line("1")]))
        .on(&push(2), Reply::stream([refusal("manifest invalid")]))
        .on("GET /v1.41/images/localhost:0/app:2/json", no_such_image())
        .on(&push(3), Reply::stream([refusal("denied: requested access to the resource is denied")]))
        .on(&push(4), Reply::stream([digest_line("4")]));
    let helper = r#"echo run >>"$HOME/runs"; echo '{"Username":"bob","Secret":"s3cret"}'"#;
    let env = TestEnv::new().with_config(r#"{"credsStore":"x"}"#).with_helper("x", helper);
    let all = run(env.command(&engine).args(["regpush", "-a", "--format", "json", "localhost:0/app"]));
    assert_eq!(all.status, 1, "the status of the first failure: {all}");
    let results: Vec<serde_json::Value> =
        all.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = results.iter().map(|result| {
        format!("{} {}", result["reference"].as_str().unwrap(), result["status"].as_str().unwrap())
    });
    let want = [(1, "pushed"), (2, "failed"), (3, "failed"), (4, "pushed")]
        .map(|(tag, status)| format!("localhost:0/app:{tag} {status}"));
    assert_eq!(told.collect::<Vec<_>>(), want);
    assert_eq!(fs::read_to_string(env.path("home/runs")).unwrap(), "run\n", "the helper is called once");

    let none = FakeEngine::start()
        .serving_pushed()
        .on("GET /v1.41/images/json", Reply::json(200, &images.to_string()));
    let missing = run(env.command(&none).args(["regpush", "-a", "localhost:0/apo"]));
    assert_eq!(missing.status, 5, "{missing}");
    assert!(missing.stderr.contains("no tag of localhost:0/apo is in the engine"), "{missing}");
    assert!(missing.stderr.contains("hint: did you mean localhost:0/app?"), "{missing}");

    let mut command = env.without_engine();
    let tagged = run(command.args(["regpush", "--all-tags", IMAGE]));
    assert_eq!(tagged.status, 125, "{tagged}");
    assert!(tagged.stderr.contains("tag can't be used with --all-tags/-a"), "{tagged}");
}

#[test]
fn prompts_once_for_all_tags() {
    let images = json!([{"RepoTags": ["localhost:0/app:1", "localhost:0/app:2"]}]).to_string();
    let refused = || Reply::stream([refusal("no basic auth credentials")]);
    let engine = FakeEngine::start()
        .serving_pushed()
        .on("GET /v1.41/images/json", Reply::json(200, &images))
        .on("POST /v1.41/images/localhost:0/app/push?tag=1&tlsVerify=false", refused())
        .on("POST /v1.41/auth", Reply::json(200, "{}"))
        .on(
            "POST /v1.41/images/localhost:0/app/push?tag=1&tlsVerify=false",
            Reply::stream([digest_line("1")]),
        )
        .on(
            "POST /v1.41/images/localhost:0/app/push?tag=2&tlsVerify=false",
            Reply::stream([digest_line("2")]),
        );
    let env = TestEnv::new();
    let mut terminal = env.at_terminal(&engine, "xterm", &["regpush", "-a", "localhost:0/app"]);
    terminal.wait_for("Username: ");
    terminal.type_in("alice\r");
    terminal.wait_for("Password: ");
    terminal.type_in("s3cret\r");
    let ended = terminal.finish();
    assert_eq!(ended.status, 0, "{}", ended.text);
    assert_eq!(engine.pushes()[2].registry_auth()["username"], "alice");

    let engine =
        FakeEngine::start().on("GET /v1.41/images/json", Reply::json(200, &images)).on_every_push(refused());
    let mut terminal = env.at_terminal(&engine, "xterm", &["regpush", "-a", "localhost:0/app"]);
    terminal.wait_for("Username: ");
    terminal.type_in("\x04");
    let ended = terminal.finish();
    assert_eq!(ended.status, 3, "{}", ended.text);
    assert_eq!(ended.text.matches("Username: ").count(), 1, "{}", ended.text);
    assert_eq!(engine.pushes().len(), 2);
}

#[test]
fn all_tags_call_a_helper_once_and_prompt_once_after_denied() {
    let images = json!([{"RepoTags": ["localhost:0/app:1", "localhost:0/app:2"]}]).to_string();
    let helper = r#"echo run >>"$HOME/runs"; echo '{"Username":"bob","Secret":"s3cret"}'"#;
    let env = TestEnv::new().with_config(r#"{"credsStore":"x"}"#).with_helper("x", helper);
    let engine = FakeEngine::start()
        .on("GET /v1.41/images/json", Reply::json(200, &images))
        .on_every_push(Reply::stream([refusal("denied: requested access to the resource is denied")]))
        .on("POST /v1.41/auth", Reply::json(200, "{}"));
    let mut terminal = env.at_terminal(&engine, "xterm", &["regpush", "-a", "localhost:0/app"]);
    terminal.wait_for("Username (bob): ");
    terminal.type_in("alice\r");
    terminal.wait_for("Password: ");
    terminal.type_in("other\r");
    let ended = terminal.finish();
    assert_eq!(ended.status, 3, "{}", ended.text);
    assert_eq!(ended.text.matches("Username").count(), 1, "{}", ended.text);
    assert_eq!(fs::read_to_string(env.path("home/runs")).unwrap(), "run\n");
    let users: Vec<_> = engine.pushes().iter().map(|push| push.registry_auth()["username"].clone()).collect();
    assert_eq!(users, ["bob", "alice", "alice"]);
}

/// Completion in a shell must not wait for a silent or unreachable engine.
#[test]
fn completes_images_within_a_short_time_limit() {
    let images = json!([
        {"RepoTags": ["localhost:0/app:1", "app:1", "team/app:1"], "Size": 20_971_520},
        {"RepoTags": ["ghcr.io/team/web:2", "<none>:<none>"]},
    ])
    .to_string();
    let list = || ("GET /v1.41/images/json", Reply::json(200, &images));
    let offered = |engine: &FakeEngine, words: &[&str], named_by_docker: bool| {
        let mut command = TestEnv::new().command(engine);
        if named_by_docker {
            command.env("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND", "/usr/bin/docker");
        }
        let run = run(command.args(words));
        assert_eq!((run.status, run.stderr.as_str()), (0, ""), "{words:?}: {run}");
        run.stdout
    };
    let described = "ghcr.io/team/web:2\t0B\nlocalhost:0/app:1\t20.97MB\n:4\n";
    let table: [(&[&str], bool, &str); 5] = [
        (&["__complete", "regpush", "-q", ""], true, described),
        (&["__complete", "regpush", "lo"], false, "localhost:0/app:1\t20.97MB\n:4\n"),
        (&["__completeNoDesc", "l"], false, "ls\nlocalhost:0/app:1\n:4\n"),
        (&["__completeNoDesc", "regpush", "-a", "l"], true, "localhost:0/app\n:4\n"),
        (&["__completeNoDesc", "regpush", "--format", "ref", "gh"], true, "ghcr.io/team/web:2\n:4\n"),
    ];
    for (words, named_by_docker, want) in table {
        let (line, reply) = list();
        let engine = FakeEngine::start().on(line, reply);
        assert_eq!(offered(&engine, words, named_by_docker), want, "{words:?}");
        // The engine finds the images, since Docker's containerd store needs some milliseconds for each image.
        let word = words.last().unwrap();
        let asked = engine.request("GET /v1.41/images/json").unwrap().line;
        let filter = format!("%7B%22reference%22%3A%7B%22{word}%2A%22%3Atrue");
        assert_eq!(asked.contains(&filter), !word.is_empty(), "{words:?}: {asked}");
    }

    let (line, _) = list();
    let hanging = FakeEngine::start().on(line, Reply::json(200, "[").ending(End::Hang));
    let started = Instant::now();
    assert_eq!(offered(&hanging, &["__complete", "regpush", "lo"], true), ":4\n");
    // The time limit for completion is 2 s, and the time limit for other lists of images is 60 s.
    assert!(started.elapsed().as_secs() < 40, "{:?}", started.elapsed());

    for host in ["unix:///nothing/here", "tcp://127.0.0.1:0", "ssh://box", "nonsense://"] {
        let env = TestEnv::new().with_program("ssh", r#"echo run >"$HOME/ran""#);
        let mut command = env.without_engine();
        let run = run(command.env("DOCKER_HOST", host).args(["__complete", "regpush", "lo"]));
        assert_eq!((run.status, run.stdout.as_str(), run.stderr.as_str()), (0, ":4\n", ""), "{host}");
        assert!(!env.path("home/ran").exists(), "TAB does not run ssh");
    }
}

#[test]
fn completes_registries_and_contexts() {
    let config = r#"{"auths":{"https://index.docker.io/v1/":{},"https://index.docker.io/v1/refresh-token":{},
        "https://old.example.com/v2/":{}},"credHelpers":{"ghcr.io":"gh"}}"#;
    let env = TestEnv::new().with_config(config);
    let offered = |words: &[&str]| {
        let run = run(env.without_engine().args(words));
        assert_eq!(run.status, 0, "{run}");
        run.stdout
    };
    for word in ["auth", "ls"] {
        assert_eq!(
            offered(&["__completeNoDesc", "regpush", word, ""]),
            "docker.io\nghcr.io\nold.example.com\n:4\n"
        );
        assert!(offered(&["__completeNoDesc", "regpush", &word[..1]]).starts_with(word));
    }
    let described = offered(&["__complete", "regpush", "auth", "gh"]);
    assert_eq!(described, "ghcr.io\tthe credential helper `docker-credential-gh`\n:4\n");
    assert_eq!(offered(&["__completeNoDesc", "-c", "d"]), "default\n:4\n");
}

/// The certificate of a CA that signed no certificate in these tests (made with `openssl req -x509`).
const CA: &str = include_str!("support/ca.pem");
