//! Tests of `ls`, which lists local images, or the repositories and tags of a registry. A second fake engine plays the
//! registry.

use std::io::{BufReader, Write};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::engine::{DIGEST, FakeEngine, Reply, read_head};
use crate::support::env::{Run, TestEnv, run, run_with_stdin};

const INFO: &str = "GET /v1.41/info";

fn engine() -> FakeEngine {
    FakeEngine::start().on(INFO, Reply::json(200, "{}"))
}

/// Starts a registry without authentication, and returns the registry and its `host:port`.
fn registry() -> (FakeEngine, String) {
    let registry = FakeEngine::at_tcp().on("GET /v2/", Reply::json(200, "{}"));
    let host = registry.host.trim_start_matches("tcp://").to_owned();
    (registry, host)
}

fn with_header(name: &'static str, value: &str, reply: Reply) -> Reply {
    // The leak gives the header value the lifetime `'static`, and is small since the tests are few.
    Reply { headers: vec![(name, Box::leak(value.to_owned().into_boxed_str()))], ..reply }
}

fn challenge(text: &str) -> Reply {
    let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
    with_header("WWW-Authenticate", text, Reply::json(401, body))
}

fn digest() -> Reply {
    with_header("Docker-Content-Digest", DIGEST, Reply::json(200, ""))
}

fn ls(env: &TestEnv, engine: &FakeEngine, arguments: &[&str]) -> Run {
    run(env.command(engine).args(["regpush", "ls"]).args(arguments))
}

#[test]
fn lists_local_images_that_name_a_registry() {
    let other = "sha256:fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";
    let images = json!([
        {"Id": "sha256:a", "RepoTags": ["localhost:0/app:1.10", "localhost:0/app:1.9", "app:1"],
         "RepoDigests": [format!("localhost:0/app@{DIGEST}")], "Size": 20_971_520},
        {"Id": "sha256:b", "RepoTags": ["ghcr.io/team/web:2"], "RepoDigests": null, "Size": 512},
        {"Id": other, "RepoTags": ["localhost:0/new:1"], "RepoDigests": [format!("localhost:0/new@{other}")],
         "Size": 1000},
        {"Id": "sha256:c", "RepoTags": null, "RepoDigests": [], "Size": 1},
        {"Id": "sha256:d", "RepoTags": ["localhost:0/\u{1b}[2Jx:1"], "Size": -1},
    ])
    .to_string();
    let list = || FakeEngine::start().on("GET /v1.41/images/json", Reply::json(200, &images));
    let run = ls(&TestEnv::new(), &list(), &[]);
    assert_eq!(run.status, 0, "{run}");
    let want = format!(
        "IMAGE                  SIZE      DIGEST                                                                    PUSHED\n\
         ghcr.io/team/web:2     512B      -                                                                         no\n\
         localhost:0/[2Jx:1     0B        -                                                                         no\n\
         localhost:0/app:1.9    20.97MB   {DIGEST}   yes\n\
         localhost:0/app:1.10   20.97MB   {DIGEST}   yes\n\
         localhost:0/new:1      1kB       {other}   unknown\n"
    );
    assert_eq!(run.stdout, want, "{run}");

    let run = ls(&TestEnv::new(), &list(), &["--format", "json"]);
    let lines: Vec<Value> = run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        lines[3],
        json!({"image": "localhost:0/app:1.10", "registry": "localhost:0", "size": 20_971_520,
            "digest": DIGEST, "pushed": true})
    );
    assert_eq!(lines[4]["pushed"], json!(null));

    // podman changes the digest of an image during a push, so `ls` does not report digests of podman.
    let podman = with_header("Server", "Libpod/4.3.1 (linux)", Reply::json(200, &images));
    let engine = FakeEngine::start().on("GET /v1.41/images/json", podman);
    let run = ls(&TestEnv::new(), &engine, &["--format", "json"]);
    let first: Value = serde_json::from_str(run.stdout.lines().nth(3).unwrap()).unwrap();
    assert_eq!((&first["digest"], &first["pushed"]), (&json!(null), &json!(null)), "{run}");
}

#[test]
fn reads_catalog_pages_from_this_registry_only() {
    let (registry, host) = registry();
    let registry = registry
        .on(
            "GET /v2/_catalog?n=1000",
            with_header(
                "Link",
                r#"</v2/_catalog?last=b&n=2>; rel="next""#,
                Reply::json(200, r#"{"repositories":["a","b"]}"#),
            ),
        )
        .on(
            "GET /v2/_catalog?last=b&n=2",
            // A registry behind a proxy, or a hostile registry that wants credentials, may send a link to another host.
            with_header(
                "Link",
                r#"<https://elsewhere.example.com/v2/_catalog?last=c>; rel="next""#,
                Reply::json(200, r#"{"repositories":["\u001b[2Jc"]}"#),
            ),
        )
        .on("GET /v2/_catalog?last=c", Reply::json(200, r#"{"repositories":null}"#));
    let run = ls(&TestEnv::new(), &engine(), &[&host]);
    assert_eq!(run.status, 0, "{run}");
    assert_eq!(run.stdout, format!("REPOSITORY\n{host}/[2Jc\n{host}/a\n{host}/b\n"), "{run}");
    drop(registry);
}

#[test]
fn lists_tags_in_version_order_with_digests() {
    let (registry, host) = registry();
    let tags = r#"{"name":"team/app","tags":["1.10","latest","1.9","../../secret","gone","1.9","1.10-rc1"]}"#;
    let mut registry = registry.on("GET /v2/team/app/tags/list?n=1000", Reply::json(200, tags));
    for tag in ["1.9", "1.10-rc1", "1.10", "latest"] {
        registry = registry.on(&format!("HEAD /v2/team/app/manifests/{tag}"), digest());
    }
    let registry = registry.on("HEAD /v2/team/app/manifests/gone", Reply::json(404, ""));
    let run = ls(&TestEnv::new(), &engine(), &["--format", "json", &format!("{host}/team/app")]);
    assert_eq!(run.status, 0, "{run}");
    let lines: Vec<Value> = run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let shown: Vec<_> =
        lines.iter().map(|line| (line["tag"].as_str().unwrap(), line["digest"].as_str())).collect();
    let want = [
        ("../../secret", None),
        ("1.9", Some(DIGEST)),
        ("1.10-rc1", Some(DIGEST)),
        ("1.10", Some(DIGEST)),
        ("gone", None),
        ("latest", Some(DIGEST)),
    ];
    assert_eq!(shown, want, "{run}");
    assert_eq!(lines[1]["reference"], format!("{host}/team/app:1.9"));
    for request in registry.requests().iter().filter(|request| request.line.starts_with("HEAD")) {
        let accept = request.header("accept").unwrap();
        assert!(accept.contains("oci.image.index") && accept.contains("manifest.list"), "{accept}");
    }
}

#[test]
fn sends_credentials_only_after_a_challenge() {
    let (registry, host) = registry();
    let registry = registry
        .on("GET /v2/_catalog", challenge("Basic realm=\"x\""))
        .on("GET /v2/_catalog", Reply::json(200, r#"{"repositories":["app"]}"#));
    let env = TestEnv::new();
    let engine = engine();
    let mut command = env.command(&engine);
    command.args(["-D", "regpush", "ls", "-u", "alice", "--password-stdin", &host]);
    let run = run_with_stdin(&mut command, b"s3cret\n");
    assert_eq!(run.status, 0, "{run}");
    let shown: Vec<_> = registry
        .requests()
        .iter()
        .map(|request| request.header("authorization").map(str::to_owned))
        .collect();
    assert_eq!(shown, [None, None, Some("Basic YWxpY2U6czNjcmV0".to_owned())]);
    assert!(run.stderr.contains("debug: GET http://") && run.stderr.contains("(authorization)"), "{run}");
    assert!(!run.to_string().contains("s3cret") && !run.to_string().contains("YWxpY2U6"), "{run}");
}

#[test]
fn fetches_a_token_from_the_server_the_registry_names() {
    let (registry, host) = registry();
    let bearer = format!(
        "Bearer realm=\"http://{host}/token\",service=\"the registry\",scope=\"repository:app:pull\""
    );
    let registry = registry
        .on("GET /v2/app/tags/list", challenge(&bearer))
        .on("GET /token", Reply::json(200, r#"{"token":"T1","expires_in":300}"#))
        .on("GET /v2/app/tags/list", Reply::json(200, r#"{"tags":["1"]}"#))
        .on("HEAD /v2/app/manifests/1", digest());
    let env =
        TestEnv::new().with_config(&json!({"auths": {&host: {"auth": "YWxpY2U6czNjcmV0"}}}).to_string());
    let run = ls(&env, &engine(), &[&format!("{host}/app")]);
    assert_eq!(run.status, 0, "{run}");
    let requests = registry.requests();
    assert_eq!(
        requests[2].line,
        "GET /token?service=the+registry&scope=repository%3Aapp%3Apull&account=alice"
    );
    assert_eq!(requests[2].header("authorization"), Some("Basic YWxpY2U6czNjcmV0"));
    for request in &requests[3..] {
        assert_eq!(request.header("authorization"), Some("Bearer T1"), "{}", request.line);
    }
}

#[test]
fn exchanges_an_identity_token_for_an_access_token() {
    let (registry, host) = registry();
    let bearer = format!("Bearer realm=\"http://{host}/token\",service=\"s\"");
    let registry = registry
        .on("GET /v2/_catalog", challenge(&bearer))
        .on("POST /token", Reply::json(200, r#"{"access_token":"T2"}"#))
        .on("GET /v2/_catalog", Reply::json(200, r#"{"repositories":[]}"#));
    let config = json!({"auths": {&host: {"auth": "YWxpY2U6", "identitytoken": "id tok"}}}).to_string();
    let run = ls(&TestEnv::new().with_config(&config), &engine(), &[&host]);
    assert_eq!((run.status, run.stdout.as_str()), (0, "REPOSITORY\n"), "{run}");
    let requests = registry.requests();
    let form = String::from_utf8(requests[2].body.clone()).unwrap();
    assert_eq!(
        form,
        "service=s&scope=registry%3Acatalog%3A*&grant_type=refresh_token&client_id=docker&refresh_token=id+tok"
    );
    assert_eq!(requests[3].header("authorization"), Some("Bearer T2"));
}

#[test]
fn explains_each_refusal_of_a_registry() {
    let unauthorized = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
    let basic = || challenge("Basic realm=\"x\"");
    let alice = "YWxpY2U6czNjcmV0";
    // path, stored credentials, expected requests with responses → exit status, error, hint
    let table = [
        (
            "",
            None,
            vec![("GET /v2/_catalog", basic())],
            3,
            "requires authentication, and no credentials are stored for it: unauthorized: authentication required",
            "run `docker login 127.0.0.1",
        ),
        (
            "",
            Some(alice),
            vec![("GET /v2/_catalog", basic()), ("GET /v2/_catalog", Reply::json(401, unauthorized))],
            3,
            "does not accept user `alice` from `",
            "run `docker login 127.0.0.1",
        ),
        (
            "",
            Some(alice),
            vec![
                ("GET /v2/_catalog", basic()),
                (
                    "GET /v2/_catalog",
                    Reply::json(403, r#"{"message":"admins only: YWxpY2U6czNjcmV0 s3cret"}"#),
                ),
            ],
            3,
            "denies access for user `alice` from `",
            "use an account with access",
        ),
        (
            "",
            None,
            vec![("GET /v2/_catalog", Reply::json(404, "404 page not found"))],
            1,
            "does not list its repositories",
            "docker regpush ls 127.0.0.1",
        ),
        (
            "",
            None,
            vec![("GET /v2/_catalog", Reply::json(405, ""))],
            1,
            "does not list its repositories",
            "REPOSITORY`",
        ),
        (
            "/nope",
            None,
            vec![("GET /v2/nope/tags/list", Reply::json(404, r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#))],
            5,
            "has no repository `nope`, or does not show it without credentials",
            "docker regpush ls 127.0.0.1",
        ),
        (
            "",
            None,
            vec![("GET /v2/_catalog", Reply::json(429, "slow down"))],
            6,
            "answered 429 Too Many Requests: slow down",
            "wait a minute",
        ),
        (
            "",
            None,
            vec![("GET /v2/_catalog", Reply::json(503, "<html>x</html>"))],
            6,
            "answered 503 Service Unavailable: service unavailable",
            "try again later",
        ),
        (
            "",
            None,
            vec![("GET /v2/_catalog", Reply::json(200, "<html>welcome</html>"))],
            1,
            "is not a registry: its list of names is not JSON",
            "check its name and port",
        ),
        (
            "",
            None,
            vec![(
                "GET /v2/_catalog",
                with_header("Location", "http://127.0.0.1:0/v2/_catalog", Reply::json(307, "")),
            )],
            6,
            "cannot reach the registry 127.0.0.1:",
            "",
        ),
        (
            "",
            Some(alice),
            vec![("GET /v2/_catalog", challenge("Bearer realm=\"http://192.0.2.1:1/token\""))],
            1,
            "the token server `192.0.2.1` does not use TLS, so the plugin sends no credentials to it",
            "",
        ),
        (
            "",
            Some(alice),
            vec![("GET /v2/_catalog", challenge("Digest realm=\"x\""))],
            1,
            "unsupported authentication scheme (Digest): unauthorized: authentication required",
            "",
        ),
        (
            "",
            Some(alice),
            vec![("GET /v2/_catalog", challenge("Bearer service=\"x\""))],
            1,
            "cannot get a token for 127.0.0.1",
            "",
        ),
        (
            "",
            Some(alice),
            vec![("GET /v2/_catalog", challenge("Bearer realm=\"file:///etc/passwd\""))],
            1,
            "is not a server address",
            "",
        ),
        (
            "",
            None,
            vec![(
                "GET /v2/_catalog",
                with_header("Link", "</v2/_catalog?n=1000>; rel=\"next\"", Reply::json(200, "{}")),
            )],
            1,
            "its list of names does not end",
            "",
        ),
        (
            "",
            None,
            vec![(
                "GET /v2/_catalog",
                Reply { pieces: vec![vec![b' '; 1 << 20]; 17], ..Reply::json(200, "") },
            )],
            1,
            "it sent more than 16 MB",
            "",
        ),
    ];
    for (path, login, answers, status, told, hint) in table {
        let (registry, host) = registry();
        let registry = answers.into_iter().fold(registry, |registry, (line, reply)| registry.on(line, reply));
        let config = login.map_or_else(|| json!({}), |auth| json!({"auths": {&host: {"auth": auth}}}));
        let env = TestEnv::new().with_config(&config.to_string());
        let run = ls(&env, &engine(), &[&format!("{host}{path}")]);
        assert_eq!(run.status, status, "{told}: {run}");
        assert!(run.stderr.contains(told) && run.stderr.contains(hint), "{told}: {run}");
        assert_eq!(run.stdout, "");
        assert!(!run.stderr.contains("s3cret") && !run.stderr.contains(alice), "{run}");
        drop(registry);
    }
}

#[test]
fn reports_refused_credentials_of_a_token_server() {
    let (registry, host) = registry();
    let registry = registry
        .on("GET /v2/_catalog", challenge(&format!("Bearer realm=\"http://{host}/token\"")))
        .on("GET /token", Reply::json(401, r#"{"details":"incorrect username or password: s3cret"}"#));
    let env =
        TestEnv::new().with_config(&json!({"auths": {&host: {"auth": "YWxpY2U6czNjcmV0"}}}).to_string());
    let run = ls(&env, &engine(), &[&host]);
    assert_eq!(run.status, 3, "{run}");
    assert!(
        run.stderr.contains("does not accept user `alice`") && run.stderr.contains("or password: ***"),
        "{run}"
    );
    drop(registry);
}

#[test]
fn does_not_request_the_catalog_of_registries_without_one() {
    for (registry, hint) in [
        ("docker.io", "https://hub.docker.com/repositories"),
        ("ghcr.io", "https://github.com/OWNER?tab=packages"),
        ("123456789012.dkr.ecr.eu-central-1.amazonaws.com", "aws ecr describe-repositories"),
    ] {
        let run = run(TestEnv::new().without_engine().args(["regpush", "ls", registry]));
        assert_eq!(run.status, 1, "{run}");
        assert!(run.stderr.contains(&format!("{registry} does not list its repositories")), "{run}");
        assert!(run.stderr.contains(hint), "{run}");
    }
}

/// The engine's settings for the registry decide whether `ls` uses TLS. Without an engine, docker's defaults decide.
#[test]
fn engine_settings_decide_about_tls() {
    let list = |info: &str| {
        let (registry, host) = registry();
        let registry = registry.on("GET /v2/_catalog", Reply::json(200, r#"{"repositories":["app"]}"#));
        let info = info.replace("HOST", &host);
        let engine = FakeEngine::start().on(INFO, Reply::json(200, &info));
        (ls(&TestEnv::new(), &engine, &[&host]), registry)
    };
    for info in [
        r#"{"RegistryConfig":{"InsecureRegistryCIDRs":["127.0.0.0/8"],"IndexConfigs":{}}}"#,
        r#"{"RegistryConfig":{"InsecureRegistryCIDRs":null,"IndexConfigs":{"HOST":{"Secure":false}}}}"#,
        r#"{"RegistryConfig":null}"#,
    ] {
        let (run, _registry) = list(info);
        assert_eq!(run.status, 0, "{info}: {run}");
    }

    let (registry, host) = self::registry();
    let registry = registry.on("GET /v2/_catalog", Reply::json(200, r#"{"repositories":["app"]}"#));
    let info = format!(r#"{{"RegistryConfig":{{"IndexConfigs":{{"{host}":{{"Secure":true}}}}}}}}"#);
    let engine = FakeEngine::start().on(INFO, Reply::json(200, &info));
    let refused = ls(&TestEnv::new(), &engine, &[&host]);
    assert_eq!(refused.status, 6, "{refused}");
    assert!(registry.requests().is_empty(), "no request without TLS");

    // Without an engine, `ls` uses docker's default for a loopback registry, which is plain HTTP.
    let env = TestEnv::new();
    let mut command = env.without_engine();
    let run = run(command.env("DOCKER_HOST", "unix:///nothing/here").args(["regpush", "ls", &host]));
    assert_eq!(run.status, 0, "{run}");
    assert!(run.stderr.contains("warning: cannot connect to the engine at unix:///nothing/here"), "{run}");
    drop(registry);
}

#[test]
fn ls_of_an_invalid_reference_is_a_usage_error() {
    let env = TestEnv::new();
    for (typed, told) in [
        ("localhost:0/app:1", "cannot list one tag: `ls` lists all tags of a repository"),
        ("localhost:0/UPPER", "must be lowercase"),
        ("", "invalid reference format"),
    ] {
        let run = run(env.without_engine().args(["regpush", "ls", typed]));
        assert_eq!(run.status, 125, "{run}");
        assert!(run.stderr.contains(told), "{run}");
    }
}

/// The token is valid but lacks a permission, so the error must not blame the password.
#[test]
fn missing_permission_is_not_reported_as_a_wrong_password() {
    let (registry, host) = registry();
    let bearer = format!("Bearer realm=\"http://{host}/token\"");
    let quoted = r#"{"errors":[{"code":"UNAUTHORIZED","message":"not with Bearer T1-long-token"}]}"#;
    let registry = registry
        .on("GET /v2/_catalog", challenge(&bearer))
        .on("GET /token", Reply::json(200, r#"{"token":"T1-long-token"}"#))
        .on("GET /v2/_catalog", Reply::json(401, quoted));
    let env =
        TestEnv::new().with_config(&json!({"auths": {&host: {"auth": "YWxpY2U6czNjcmV0"}}}).to_string());
    let run = ls(&env, &engine(), &[&host]);
    assert_eq!(run.status, 3, "{run}");
    assert!(
        run.stderr.contains("denies access for user `alice`") && run.stderr.contains("not with Bearer ***"),
        "{run}"
    );
    assert!(!run.to_string().contains("T1-long-token"), "{run}");
    drop(registry);
}

/// The password is an ordinary word, which also occurs in tags.
#[test]
fn prints_valid_tags_unredacted() {
    let (registry, host) = registry();
    let tags = r#"{"tags":["alpine-1.0","an alpine\u001b[2J"]}"#;
    let registry = registry
        .on("GET /v2/alpine/tags/list", Reply::json(200, tags))
        .on("HEAD /v2/alpine/manifests/alpine-1.0", digest());
    let env = TestEnv::new();
    let engine = engine();
    let mut command = env.command(&engine);
    command.args(["regpush", "ls", "-u", "me", "--password-stdin", &format!("{host}/alpine")]);
    let run = run_with_stdin(&mut command, b"alpine");
    assert_eq!(run.status, 0, "{run}");
    assert!(run.stdout.contains("alpine-1.0") && run.stdout.contains("an ***[2J "), "{run}");
    drop(registry);
}

#[test]
fn warns_about_missing_digests_and_stops_after_429() {
    let (registry, host) = registry();
    let names: Vec<String> = (0..100).map(|number| format!("v{number}")).collect();
    let mut registry =
        registry.on("GET /v2/app/tags/list", Reply::json(200, &json!({"tags": names}).to_string()));
    // The plugin sends eight requests concurrently, so eight requests get the response 429.
    for number in 0..8 {
        registry = registry.on(&format!("HEAD /v2/app/manifests/v{number}"), Reply::json(429, ""));
    }
    let run = ls(&TestEnv::new(), &engine(), &[&format!("{host}/app")]);
    assert_eq!(run.status, 0, "{run}");
    assert_eq!(run.stdout.lines().count(), 101, "{run}");
    assert!(run.stderr.contains("warning: no digest for 100 of 100 tags: the registry 127.0.0.1:"), "{run}");
    assert!(run.stderr.contains("answered 429 Too Many Requests"), "{run}");
    drop(registry);
}

#[test]
fn follows_a_redirect_without_forwarding_credentials() {
    let (registry, host) = registry();
    let other = FakeEngine::at_tcp().on("GET /elsewhere", Reply::json(200, r#"{"repositories":["app"]}"#));
    let place = format!("{}/elsewhere", other.host.replace("tcp://", "http://"));
    let registry = registry
        .on("GET /v2/_catalog", challenge("Basic realm=\"x\""))
        .on("GET /v2/_catalog", with_header("Location", &place, Reply::json(307, "")));
    let env =
        TestEnv::new().with_config(&json!({"auths": {&host: {"auth": "YWxpY2U6czNjcmV0"}}}).to_string());
    let run = ls(&env, &engine(), &[&host]);
    assert_eq!((run.status, run.stdout), (0, format!("REPOSITORY\n{host}/app\n")));
    assert!(registry.requests().last().unwrap().header("authorization").is_some());
    assert_eq!(other.requests()[0].header("authorization"), None);
}

#[test]
fn lists_sorted_names_and_warns_if_the_link_is_broken() {
    let page = Reply::json(200, r#"{"repositories":["b","a","c","a"]}"#);
    let (registry, host) = registry();
    let registry = registry.on("GET /v2/_catalog", with_header("Link", "/v2/_catalog?last=c", page));
    let run = ls(&TestEnv::new(), &engine(), &[&host]);
    assert_eq!(run.status, 0, "{run}");
    assert_eq!(run.stdout, format!("REPOSITORY\n{host}/a\n{host}/b\n{host}/c\n"));
    let warning =
        format!("warning: the list may be incomplete: cannot parse the link of {host} to the next page");
    assert!(run.stderr.contains(&warning), "{run}");
    drop(registry);
}

#[test]
fn lists_registries_that_refuse_the_page_size() {
    let refused =
        r#"{"errors":[{"code":"PAGINATION_NUMBER_INVALID","message":"invalid number of results"}]}"#;
    let (registry, host) = registry();
    let registry = registry
        .on("GET /v2/_catalog?n=1000", Reply::json(400, refused))
        .on("GET /v2/_catalog", Reply::json(200, r#"{"repositories":["app"]}"#));
    let run = ls(&TestEnv::new(), &engine(), &[&host]);
    assert_eq!((run.status, run.stdout.as_str()), (0, format!("REPOSITORY\n{host}/app\n").as_str()), "{run}");
    drop(registry);
}

/// Some registries send a challenge only at `/v2/`.
#[test]
fn answers_the_challenge_of_the_base_path_for_a_bare_401() {
    let registry = FakeEngine::at_tcp();
    let host = registry.host.trim_start_matches("tcp://").to_owned();
    let registry = registry
        .on("GET /v2/", challenge("Basic realm=\"x\""))
        .on("GET /v2/app/tags/list", Reply::json(401, ""))
        .on("GET /v2/app/tags/list", Reply::json(200, r#"{"tags":["1"]}"#))
        .on("HEAD /v2/app/manifests/1", digest());
    let config = json!({"auths": {&host: {"auth": "YWxpY2U6czNjcmV0"}}}).to_string();
    let run = ls(&TestEnv::new().with_config(&config), &engine(), &[&format!("{host}/app")]);
    assert_eq!(run.status, 0, "{run}");
    assert!(run.stdout.contains(DIGEST), "{run}");
    assert_eq!(registry.requests()[2].header("authorization"), Some("Basic YWxpY2U6czNjcmV0"));
}

#[test]
fn names_the_proxy_that_cannot_be_used() {
    let refusing = FakeEngine::at_tcp().on("CONNECT registry.example.com:443", Reply::json(407, "no"));
    let asks = refusing.host.trim_start_matches("tcp://").to_owned();
    for (proxy, reason) in
        [("127.0.0.1:1", "Connection refused"), (asks.as_str(), "tunnel error: proxy authorization required")]
    {
        let env = TestEnv::new();
        let engine = engine();
        let mut command = env.command(&engine);
        command.env("HTTPS_PROXY", format!("http://user:s3cret@{proxy}"));
        let run = run(command.args(["regpush", "ls", "registry.example.com/app"]));
        assert_eq!(run.status, 6, "{run}");
        let told = format!(
            "cannot reach the registry registry.example.com through the proxy {proxy} (HTTPS_PROXY): {reason}"
        );
        assert!(run.stderr.contains(&told), "{run}");
        assert!(run.stderr.contains("hint: check the proxy in HTTPS_PROXY"), "{run}");
        assert!(!run.to_string().contains("s3cret"), "{run}");
    }
}

/// Some servers without TLS leave a TLS handshake unanswered, instead of closing the connection.
#[test]
fn does_not_wait_for_a_tls_handshake_that_nobody_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut first = [0];
                // Every TLS record of a handshake begins with this byte (RFC 8446, 5.1).
                while client.peek(&mut first).is_ok_and(|length| length > 0) && first[0] == 22 {
                    thread::park();
                }
                let mut reader = BufReader::new(&client);
                while let Ok(Some(_)) = read_head(&mut reader) {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"tags\":null}";
                    (&client).write_all(answer).unwrap();
                }
            });
        }
    });
    let started = Instant::now();
    let listed = ls(&TestEnv::new(), &engine(), &[&format!("{host}/app")]);
    assert_eq!(listed.status, 0, "{listed}");
    // The time limit for a connection is 15 s.
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}
