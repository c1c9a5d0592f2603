//! Tests of the check of credentials before a push. A second fake engine plays the registry.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::support::engine::{ANY_PUSH, End, FakeEngine, Reply, digest_line, refusal};
use crate::support::env::{Run, TestEnv, run, run_with_stdin};

const UNAUTHORIZED: &str = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
const TOKEN: &str = "GET /token";
/// The engine's response to an inspection of the image.
const IMAGE: &str = r#"{"Id":"sha256:aa","Size":5,"RootFS":{"Layers":[]}}"#;

/// Starts a registry that sends this challenge at `/v2/`, and returns the registry and its `host:port`.
fn registry(challenge: &str) -> (FakeEngine, String) {
    let registry = FakeEngine::at_tcp();
    let host = registry.host.trim_start_matches("tcp://").to_owned();
    let challenge = leak(challenge.replace("HOST", &host));
    let ping = Reply::json(401, UNAUTHORIZED).header("WWW-Authenticate", challenge);
    (registry.on("GET /v2/", ping), host)
}

/// Starts a registry that does not ask for credentials at `/v2/`, and returns the registry and its `host:port`.
fn open_registry() -> (FakeEngine, String) {
    let registry = FakeEngine::at_tcp();
    let host = registry.host.trim_start_matches("tcp://").to_owned();
    (registry.on("GET /v2/", Reply::json(200, "{}")), host)
}

/// Gives the value of a header the lifetime `'static`. The leak is small since the tests are few.
fn leak(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

const BASIC: &str = "Basic realm=\"x\"";
const BEARER: &str = "Bearer realm=\"http://HOST/token\",service=\"s\"";

fn pushing_engine() -> FakeEngine {
    FakeEngine::start().on_every_push(Reply::stream([digest_line("1")]))
}

/// Pushes these images with the credentials of `alice`.
fn push(engine: &FakeEngine, images: &[String]) -> Run {
    let env = TestEnv::new();
    let mut command = env.command(engine);
    command.args(["regpush", "--verify", "never", "-u", "alice", "--password-stdin"]).args(images);
    run_with_stdin(&mut command, b"s3cret")
}

#[test]
fn stops_the_push_only_if_the_identity_is_refused() {
    let grant = r#"{"error":"invalid_grant","error_description":"the token has expired"}"#;
    let other = r#"{"error":"invalid_request"}"#;
    let denied = r#"{"errors":[{"code":"DENIED","message":"no access to this repository"}]}"#;
    let expired = r#"{"message":"Your authorization token has expired. Reauthenticate and try again."}"#;
    let page = "<html>no</html>";
    let token = r#"{"token":"T"}"#;
    let locked = r#"{"details":"too many failed login attempts for username or IP address"}"#;
    type Row<'a> = (&'a str, &'a str, &'a [(u16, &'a str)], bool);
    let table: [Row<'_>; 16] = [
        // challenge, request with credentials, responses, whether the push goes on
        (BASIC, "GET /v2/", &[(401, UNAUTHORIZED)], false),
        (BASIC, "GET /v2/", &[(200, "{}")], true),
        (BASIC, "GET /v2/", &[(403, expired)], false),
        (BASIC, "GET /v2/", &[(403, page)], true),
        (BASIC, "GET /v2/", &[(429, "slow down")], true),
        (BASIC, "GET /v2/", &[(503, "busy")], true),
        (BEARER, TOKEN, &[(401, UNAUTHORIZED)], false),
        (BEARER, TOKEN, &[(200, token)], true),
        (BEARER, TOKEN, &[(400, grant)], false),
        (BEARER, TOKEN, &[(400, other)], true),
        (BEARER, TOKEN, &[(403, denied), (403, denied)], false),
        (BEARER, TOKEN, &[(403, denied), (200, token)], true),
        (BEARER, TOKEN, &[(429, locked)], false),
        (BEARER, TOKEN, &[(403, locked)], false),
        (BEARER, TOKEN, &[(429, "slow down")], true),
        (BASIC, "GET /v2/", &[(429, locked)], false),
    ];
    for (challenge, request, responses, goes_on) in table {
        let case = format!("{challenge} {responses:?}");
        let (registry, host) = registry(challenge);
        let registry = responses
            .iter()
            .fold(registry, |registry, (status, body)| registry.on(request, Reply::json(*status, body)));
        let engine = if goes_on { pushing_engine() } else { FakeEngine::start() };
        let pushed = push(&engine, &[format!("{host}/app:1")]);
        assert_eq!(pushed.status, if goes_on { 0 } else { 3 }, "{case}: {pushed}");
        assert_eq!(engine.pushes().len(), usize::from(goes_on), "{case}: {pushed}");
        let refused = format!("{host} does not accept user `alice` from the command line: ");
        assert_eq!(pushed.stderr.contains(&refused), !goes_on, "{case}: {pushed}");
        let is_locked = responses[0].1 == locked;
        assert_eq!(pushed.stderr.contains("hint: wait about 15 minutes"), is_locked, "{case}: {pushed}");
        assert!(!pushed.to_string().contains("s3cret"), "{case}: {pushed}");
        let requests = registry.requests();
        assert_eq!(requests.len(), 1 + responses.len(), "{case}");
        let alice = format!("Basic {}", STANDARD.encode("alice:s3cret"));
        for request in &requests[1..] {
            assert_eq!(request.header("authorization"), Some(alice.as_str()), "{case}");
        }
    }
}

#[test]
fn sends_wrong_credentials_once_for_all_images() {
    let (registry, host) = registry(BASIC);
    let registry = registry.on("GET /v2/", Reply::json(401, UNAUTHORIZED));
    let engine = FakeEngine::start();
    let images = ["a", "b", "c"].map(|name| format!("{host}/{name}:1"));
    let refused = push(&engine, &images);
    assert_eq!(refused.status, 3, "{refused}");
    assert!(refused.stderr.contains("3 images: 3 failed"), "{refused}");
    assert!(engine.pushes().is_empty(), "{refused}");
    assert_eq!(registry.requests().len(), 2, "one without credentials, and one with credentials");
}

#[test]
fn requests_tokens_as_each_challenge_demands() {
    let push = "scope=repository%3Ateam%2Fapp%3Apull%2Cpush&account=alice";
    let table = [
        // challenge, options of the push, request to the token server
        (
            // The scope in the challenge of GHCR is a placeholder.
            r#"Bearer realm="http://HOST/token",service="s",scope="repository:user/image:pull""#,
            "overwrite",
            format!("GET /token?service=s&{push}"),
        ),
        (r#"Bearer realm="/token""#, "overwrite", format!("GET /token?{push}")),
        (r#"Basic realm="x", Bearer realm="http://HOST/token""#, "overwrite", format!("GET /token?{push}")),
        (
            r#"Bearer realm="http://HOST/token?tenant=a,b&x=1",service="s, t""#,
            "overwrite",
            format!("GET /token?tenant=a,b&x=1&service=s%2C+t&{push}"),
        ),
        (
            r#"Bearer realm="http://HOST/token",service="s""#,
            "skip",
            "GET /token?service=s&scope=repository%3Ateam%2Fapp%3Apull&account=alice".to_owned(),
        ),
    ];
    for (challenge, if_exists, line) in table {
        let (registry, host) = registry(challenge);
        let registry = registry
            .on(TOKEN, Reply::json(200, r#"{"access_token":"T"}"#))
            .allow("GET /v2/team/app/manifests/1", Reply::json(404, "{}"))
            .allow("HEAD /v2/team/app/manifests/1", Reply::json(404, ""));
        let image = format!("{host}/team/app:1");
        let engine = pushing_engine()
            .allow(&format!("GET /v1.41/images/{image}/json"), Reply::json(200, IMAGE))
            .allow(&format!("GET /v1.41/distribution/{image}/json"), Reply::json(404, "Not Found"));
        let pushed = self::push(&engine, &["--if-exists".to_owned(), if_exists.to_owned(), image]);
        assert_eq!(pushed.status, 0, "{challenge}: {pushed}");
        assert_eq!(registry.requests()[1].line, line, "{challenge}");
        for request in &registry.requests()[2..] {
            assert_eq!(request.header("authorization"), Some("Bearer T"), "{challenge}");
        }
    }
}

/// The URL of the token server leads to another server, and the registry also accepts a password.
#[test]
fn sends_the_password_if_the_token_server_is_none() {
    for answer in [Reply::json(200, "<html>hello</html>"), Reply::json(404, "{}")] {
        let (registry, host) = registry(r#"Bearer realm="http://HOST/token", Basic realm="x""#);
        let registry = registry.on(TOKEN, answer).on("GET /v2/", Reply::json(200, "{}"));
        let engine = pushing_engine();
        let pushed = push(&engine, &[format!("{host}/app:1")]);
        assert_eq!(pushed.status, 0, "{pushed}");
        let alice = format!("Basic {}", STANDARD.encode("alice:s3cret"));
        assert_eq!(registry.requests()[2].header("authorization"), Some(alice.as_str()));
    }
}

#[test]
fn ends_the_push_if_a_web_page_answers_instead_of_the_registry() {
    let html = |body: &str| Reply { content_type: Some("text/html"), ..Reply::json(200, body) };
    let (form, plain) = (html("<!doctype html><form><input type='password'></form>"), html("<p>hello</p>"));
    let to = |url: &str| Reply { status: 302, ..plain.clone() }.header("Location", leak(url.to_owned()));
    let page = "is not a registry: it answers with a";
    let table = [
        // response at `/v2/` or its redirect, exit status, message after the name of the registry
        (Ok(form), 3, format!("{page} sign-in page")),
        (Ok(plain.clone()), 1, format!("{page} web page")),
        (
            Err("http://HOST/login?next=/v2/"),
            3,
            "redirects to http://HOST/login: a sign-in page, not".to_owned(),
        ),
        (
            Err("http://OTHER/login?state=xyz"),
            3,
            "redirects to http://OTHER/login: a sign-in page, not".to_owned(),
        ),
        (Err("http://OTHER/home"), 1, "redirects to http://OTHER/home, which is not a registry".to_owned()),
        (
            Err("http://127.0.0.1:1/sso"),
            3,
            "redirects to http://127.0.0.1:1/sso: a sign-in page, not".to_owned(),
        ),
    ];
    for ((answer, status, told), has_login) in table.iter().flat_map(|row| [(row, true), (row, false)]) {
        let other = FakeEngine::at_tcp().allow("GET /login", plain.clone()).allow("GET /home", plain.clone());
        let registry = FakeEngine::at_tcp().allow("GET /login", plain.clone());
        let [host, elsewhere] = [&registry, &other].map(|server| server.host.replace("tcp://", ""));
        let fill = |text: &str| text.replace("HOST", &host).replace("OTHER", &elsewhere);
        let answer = match answer {
            Ok(page) => page.clone(),
            Err(url) => to(&fill(url)),
        };
        let registry = registry.on("GET /v2/", answer);
        // An anonymous push does not wait for the registry's response, and ends as soon as the response has come.
        let hangs = Reply::stream(["{}"]).ending(End::Hang);
        let engine = FakeEngine::start().allow(ANY_PUSH, hangs);
        let image = format!("{host}/app:1");
        let ended = if has_login {
            push(&engine, &[image])
        } else {
            run(TestEnv::new().command(&engine).args(["regpush", &image]))
        };
        assert_eq!(ended.status, *status, "{ended}");
        assert!(
            ended.stderr.contains(&format!("cannot push {host}/app:1: {host} {}", fill(told))),
            "{ended}"
        );
        assert!(!has_login || engine.pushes().is_empty(), "{ended}");
        for request in [registry.requests(), other.requests()].concat() {
            assert_eq!(request.header("authorization"), None, "{ended}");
        }
        if other.requests().is_empty() {
            // The fake server fails the test if no request came.
            std::net::TcpStream::connect(&elsewhere).unwrap();
            std::mem::forget(other);
        }
    }
}

/// A proxy with single sign-on in front of the token server.
#[test]
fn ends_the_push_if_a_web_page_answers_instead_of_the_token_server() {
    let page = Reply { content_type: Some("text/html"), ..Reply::json(200, "<html>sign in</html>") };
    let redirect = Reply { status: 302, ..page.clone() }.header("Location", "https://sso.example.com/login");
    for answer in [page, redirect] {
        let (registry, host) = registry(BEARER);
        let registry = registry.on(TOKEN, answer);
        let engine = FakeEngine::start();
        let ended = push(&engine, &[format!("{host}/app:1")]);
        assert_eq!(ended.status, 3, "{ended}");
        let told = format!(
            "cannot get a token for {host}: the token server http://{host}/token answers with a web page"
        );
        assert!(ended.stderr.contains(&told) && engine.pushes().is_empty(), "{ended}");
        drop(registry);
    }
}

/// The plugin cannot reach a registry on the machine of a remote engine, so the engine checks the credentials.
#[test]
fn remote_engine_checks_credentials_before_the_push() {
    let refused =
        r#"{"message":"login attempt to http://localhost:1/v2/ failed with status: 401 Unauthorized"}"#;
    for (checked, status) in [(Reply::json(500, refused), 3), (Reply::json(200, "{}"), 0)] {
        let engine = FakeEngine::at_tcp().on("POST /v1.41/auth", checked);
        let engine =
            if status == 0 { engine.on_every_push(Reply::stream([digest_line("1")])) } else { engine };
        let mut command = TestEnv::new().command(&engine);
        // The plugin does not treat `0.0.0.0` as this machine.
        command.env("DOCKER_HOST", engine.host.replace("127.0.0.1", "0.0.0.0"));
        command.args(["regpush", "--verify", "never", "-u", "alice", "--password-stdin"]);
        let images = ["localhost:1/a:1", "localhost:1/b:1"];
        let pushed = run_with_stdin(command.args(images), b"s3cret");
        assert_eq!(pushed.status, status, "{pushed}");
        assert_eq!(engine.pushes().len(), if status == 0 { 2 } else { 0 }, "{pushed}");
        assert_eq!(engine.count("POST /v1.41/auth"), 1, "one check for all images");
    }
}

/// The engine's proxy may lead to the registry, although the plugin reaches a web page.
#[test]
fn web_page_is_a_note_if_the_engine_uses_a_proxy() {
    let page = Reply { content_type: Some("text/html"), ..Reply::json(200, "<p>hello</p>") };
    for (proxy, status) in [("http://proxy.example.com:3128", 0), ("", 1)] {
        let registry = FakeEngine::at_tcp().allow("GET /v2/", page.clone());
        // The plugin does not treat `0.0.0.0` as this machine, so it requests the engine's settings.
        let host = registry.host.replace("tcp://127.0.0.1", "0.0.0.0");
        let info =
            json!({"HttpProxy": proxy, "RegistryConfig": {"IndexConfigs": {&host: {"Secure": false}}}});
        let engine = FakeEngine::start().allow("GET /v1.41/info", Reply::json(200, &info.to_string()));
        let engine =
            if status == 0 { engine.on_every_push(Reply::stream([digest_line("1")])) } else { engine };
        let mut command = TestEnv::new().command(&engine);
        command.env("NO_PROXY", "0.0.0.0").args(["regpush", "--verify", "never", "-u", "alice"]);
        let image = format!("{host}/app:1");
        let pushed = run_with_stdin(command.args(["--password-stdin", &image]), b"s3cret");
        assert_eq!(pushed.status, status, "{pushed}");
        let note = format!(
            "{host} is not a registry: it answers with a web page; the engine may reach another server"
        );
        assert_eq!(pushed.stderr.contains(&note), status == 0, "{pushed}");
    }
}

/// A registry that does not ask for credentials at `/v2/`, but for an upload. Docker's classic store never sends
/// credentials to such a registry.
#[test]
fn explains_registries_that_ask_for_credentials_only_on_writes() {
    let (registry, host) = open_registry();
    let asks = Reply::json(401, UNAUTHORIZED).header("WWW-Authenticate", BASIC);
    let registry =
        registry.allow("GET /v2/", Reply::json(200, "{}")).allow("POST /v2/app/blobs/uploads/", asks);
    let refused = || Reply::stream([refusal("unauthorized: authentication required")]);
    let engine = FakeEngine::start().on_next_push(refused());
    let image = format!("{host}/app:1");
    let hint = format!("hint: configure {host} to answer 401 at `/v2/`");
    let stored = push(&engine, std::slice::from_ref(&image));
    assert_eq!(stored.status, 3, "{stored}");
    // Without verification, the plugin queries the registry only if it would send credentials.
    assert!(stored.stderr.contains(&hint), "{stored}");
    assert!(
        registry.requests().iter().all(|request| request.header("authorization").is_none()),
        "the plugin sends no credentials that the registry has not accepted"
    );

    let engine = FakeEngine::start()
        .on_next_push(refused())
        .on("POST /v1.41/auth", Reply::json(200, "{}"))
        .on_next_push(refused());
    let mut terminal = TestEnv::new().at_terminal(&engine, "dumb", &["regpush", &image]);
    terminal.wait_for("Username: ");
    terminal.type_in("alice\r");
    terminal.wait_for("Password: ");
    terminal.type_in("s3cret\r");
    let ended = terminal.finish();
    assert_eq!(ended.status, 3, "{}", ended.text);
    assert!(ended.text.contains(&hint), "{}", ended.text);
    assert_eq!(ended.text.matches("Password: ").count(), 1, "{}", ended.text);
}

/// The registry refuses the credentials after the push has begun, because the plugin no longer waits.
#[test]
fn late_refusal_ends_the_push() {
    let (registry, host) = registry(BASIC);
    let late = Reply::json(401, UNAUTHORIZED).slowly(Duration::from_secs(15));
    let late = Reply { pieces: vec![b"{}".to_vec(), b"{}".to_vec()], ..late };
    let registry = registry.on("GET /v2/", late);
    let engine = FakeEngine::start().on_next_push(Reply::stream(["{}"]).ending(End::Hang));
    let refused = push(&engine, &[format!("{host}/app:1")]);
    assert_eq!(refused.status, 3, "{refused}");
    engine.wait_until_connection_is_over();
    drop(registry);
}

/// After too many failed logins, another prompt would only make the lock longer.
#[test]
fn does_not_prompt_while_the_registry_refuses_all_logins() {
    let locked = "toomanyrequests: too many failed login attempts for username or IP address";
    let engine = FakeEngine::start().on_next_push(Reply::stream([refusal(locked)]));
    let terminal = TestEnv::new().at_terminal(&engine, "dumb", &["regpush", "localhost:0/app:1"]);
    let ended = terminal.finish();
    assert_eq!(ended.status, 3, "{}", ended.text);
    assert!(
        ended.text.contains("hint: wait about 15 minutes, and correct the password first"),
        "{}",
        ended.text
    );
    assert_eq!(engine.pushes().len(), 1);
}

#[test]
fn pushes_without_a_check_if_the_registry_does_not_answer() {
    // The kernel accepts connections to this port, and no program reads from them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = silent.local_addr().unwrap().to_string();
    let engine = pushing_engine();
    let started = Instant::now();
    let pushed = push(&engine, &[format!("{host}/app:1")]);
    assert_eq!(pushed.status, 0, "{pushed}");
    let took = started.elapsed();
    // Without this time limit, the plugin would wait for an answer for at least 30 s.
    assert!(took > Duration::from_secs(10) && took < Duration::from_secs(30), "{took:?}");
}

/// The registry refuses stored credentials, so the plugin prompts before the engine pushes.
#[test]
fn prompts_before_the_engine_pushes() {
    let (registry, host) = registry(BASIC);
    let registry =
        registry.on("GET /v2/", Reply::json(401, UNAUTHORIZED)).on("GET /v2/", Reply::json(200, "{}"));
    let engine = pushing_engine().on("POST /v1.41/auth", Reply::json(200, "{}"));
    let config = json!({"auths": {&host: {"auth": STANDARD.encode("alice:old")}}}).to_string();
    let image = format!("{host}/app:1");
    let env = TestEnv::new().with_config(&config);
    let mut terminal = env.at_terminal(&engine, "dumb", &["regpush", "--verify", "never", &image]);
    terminal.wait_for("does not accept user `alice` from ");
    terminal.wait_for("Username (alice): ");
    assert!(engine.pushes().is_empty());
    terminal.type_in("\r");
    terminal.wait_for("Password: ");
    terminal.type_in("new\r");
    let ended = terminal.finish();
    assert_eq!(ended.status, 0, "{}", ended.text);
    assert_eq!(engine.pushes().len(), 1);
    assert_eq!(registry.requests().len(), 3);
}
