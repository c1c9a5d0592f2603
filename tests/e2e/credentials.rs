//! Compares the credentials that the plugin and the real docker CLI send to a fake engine. The cases vary config.json,
//! credential helpers and `DOCKER_AUTH_CONFIG`.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::fake::engine::{ANY_PUSH, FakeEngine, Reply, digest_line};
use crate::packed;
use crate::support::{Engine, Home, engine, run};

const HOST: &str = "localhost:1";
const HUB: &str = "https://index.docker.io/v1/";
const ALICE: &str = r#"echo '{"ServerURL":"other","Username":"alice","Secret":"s3cret"}'"#;
const NOTHING: &str = "echo credentials not found in native keychain; exit 1";

/// The expected credentials in the push requests of docker and of the plugin.
enum Sent {
    Same(Value),
    /// The plugin sends other credentials than docker; `why` gives the reason.
    Ours {
        docker: Docker,
        ours: Value,
        why: &'static str,
    },
}

enum Docker {
    Sends(Value),
    /// docker fails before sending a push request.
    Fails,
    /// docker's credentials vary from run to run, since docker reads maps in random order.
    Varies,
}

struct Case {
    name: &'static str,
    /// The content of config.json; `None` if the file does not exist.
    config: Option<String>,
    /// Name and script of each program in PATH.
    programs: Vec<(&'static str, &'static str)>,
    variable: Option<String>,
    image: &'static str,
    sent: Sent,
}

/// Returns a test case that sets only config.json.
fn file(name: &'static str, config: &Value, sent: Sent) -> Case {
    let config = Some(config.to_string());
    Case { name, config, programs: Vec::new(), variable: None, image: "localhost:1/t:1", sent }
}

fn auths(entry: &Value) -> Value {
    json!({"auths": {HOST: entry}})
}

/// Returns a test case in which `credsStore` names a helper `x`, which runs `script`.
fn store(name: &'static str, script: &'static str, sent: Sent) -> Case {
    Case { programs: vec![("docker-credential-x", script)], ..file(name, &json!({"credsStore": "x"}), sent) }
}

fn variable(name: &'static str, text: impl ToString, sent: Sent) -> Case {
    Case { variable: Some(text.to_string()), ..file(name, &json!({}), sent) }
}

fn user(name: &str, password: &str, server: &str) -> Value {
    json!({"username": name, "password": password, "serveraddress": server})
}

fn bob() -> Value {
    user("bob", "filepw", HOST)
}

fn alice() -> Value {
    user("alice", "s3cret", HOST)
}

const BARE_SERVER: &str =
    "podman accepts only the bare host, and the containerd store compares hosts; a URL adds nothing";

fn cases() -> Vec<Case> {
    let entry = json!({"auth": packed("bob", "filepw")});
    let nothing = || Sent::Same(json!({}));
    let same = |sent: Value| Sent::Same(sent);
    let bare = |key: &str| Sent::Ours {
        docker: Docker::Sends(user("bob", "filepw", key)),
        ours: bob(),
        why: BARE_SERVER,
    };
    let keyed = |key: &str| json!({"auths": {key: entry}});
    let address_alone = || Sent::Ours {
        docker: Docker::Sends(json!({"serveraddress": HOST})),
        ours: json!({}),
        why: "an address is not a credential: to an engine both are anonymous",
    };
    let undecoded = |auth: &str| Sent::Ours {
        docker: Docker::Sends(json!({"auth": auth})),
        ours: json!({}),
        why: "no engine reads `auth`, so both are anonymous; ours does not reveal the value",
    };
    let mut cases = vec![
        Case { config: None, ..file("no config.json", &json!(null), nothing()) },
        file("nothing in it", &json!({}), nothing()),
        Case { config: Some(String::new()), ..file("an empty file", &json!(null), nothing()) },
        file("auth", &auths(&entry), same(bob())),
        file(
            "plain-text user and password",
            &auths(&json!({"username": "bob", "password": "filepw"})),
            same(bob()),
        ),
        file(
            "auth next to plain-text fields",
            &auths(&json!({"auth": packed("bob", "filepw"), "username": "eve", "password": "x"})),
            same(bob()),
        ),
        file(
            "an identity token, as docker keeps it",
            &auths(&json!({"auth": packed("bob", ""), "identitytoken": "ID"})),
            same(json!({"username": "bob", "serveraddress": HOST, "identitytoken": "ID"})),
        ),
        file(
            "an identity token and a password",
            &auths(&json!({"auth": packed("bob", "filepw"), "identitytoken": "ID"})),
            same(
                json!({"username": "bob", "password": "filepw", "serveraddress": HOST, "identitytoken": "ID"}),
            ),
        ),
        file(
            "an identity token alone",
            &auths(&json!({"identitytoken": "ID"})),
            same(json!({"serveraddress": HOST, "identitytoken": "ID"})),
        ),
        file(
            "an empty identity token",
            &auths(&json!({"auth": packed("bob", "filepw"), "identitytoken": ""})),
            same(bob()),
        ),
        file(
            "a registry token alone",
            &auths(&json!({"registrytoken": "RT"})),
            same(json!({"serveraddress": HOST, "registrytoken": "RT"})),
        ),
        file(
            "a registry token and a password",
            &auths(&json!({"auth": packed("bob", "filepw"), "registrytoken": "RT"})),
            same(
                json!({"username": "bob", "password": "filepw", "serveraddress": HOST, "registrytoken": "RT"}),
            ),
        ),
        file("keys in capitals", &json!({"AUTHS": {HOST: {"AUTH": packed("bob", "filepw")}}}), same(bob())),
        file("https:// and a path", &keyed("https://localhost:1/v1/"), bare("https://localhost:1/v1/")),
        file("http://", &keyed("http://localhost:1"), bare("http://localhost:1")),
        file("a path", &keyed("localhost:1/v2/"), bare("localhost:1/v2/")),
        file("another scheme", &keyed("ftp://localhost:1"), bare("ftp://localhost:1")),
        file("a scheme in capitals", &keyed("HTTPS://localhost:1"), bare("HTTPS://localhost:1")),
        file("a user in a URL", &keyed("https://me@localhost:1"), bare("https://me@localhost:1")),
        file(
            "the exact key before a URL",
            &json!({"auths": {"https://localhost:1/v1/": {"auth": packed("eve", "x")}, HOST: entry}}),
            same(bob()),
        ),
        file("another port", &keyed("localhost:2"), nothing()),
        file("no port", &keyed("localhost"), nothing()),
        Case {
            image: "[::1]:5000/t:1",
            ..file("IPv6", &keyed("[::1]:5000"), same(user("bob", "filepw", "[::1]:5000")))
        },
        Case {
            image: "[::1]:5000/t:1",
            ..file(
                "IPv6 in a URL",
                &keyed("https://[::1]:5000/v1/"),
                Sent::Ours {
                    docker: Docker::Sends(user("bob", "filepw", "https://[::1]:5000/v1/")),
                    ours: user("bob", "filepw", "[::1]:5000"),
                    why: BARE_SERVER,
                },
            )
        },
        file("line ends in the base64", &auths(&json!({"auth": "Ym9iOmZp\nbGVwdw\r\n=="})), same(bob())),
        file("NULs after the password", &auths(&json!({"auth": packed("bob", "filepw\0\0")})), same(bob())),
        file(
            "an empty password",
            &auths(&json!({"auth": packed("bob", "")})),
            same(json!({"username": "bob", "serveraddress": HOST})),
        ),
        file(
            "colons in the password",
            &auths(&json!({"auth": packed("bob", "a:b:")})),
            same(user("bob", "a:b:", HOST)),
        ),
        file(
            "a password that needs the URL alphabet",
            &auths(&json!({"auth": packed("bob", "~~~???>>>ü密")})),
            same(user("bob", "~~~???>>>ü密", HOST)),
        ),
        file(
            "a user name alone",
            &auths(&json!({"username": "bob"})),
            Sent::Ours {
                docker: Docker::Sends(json!({"username": "bob", "serveraddress": HOST})),
                ours: json!({}),
                why: "not credentials: an engine would send the registry an empty password",
            },
        ),
        file("null for an entry", &auths(&json!(null)), address_alone()),
        file("an empty entry", &auths(&json!({})), address_alone()),
        file(
            "extra fields of older logins",
            &auths(
                &json!({"auth": packed("bob", "filepw"), "email": "b@example.com", "serveraddress": "elsewhere"}),
            ),
            same(bob()),
        ),
        Case {
            config: Some(format!("{} trailing", auths(&entry))),
            ..file("text after the JSON", &json!(null), same(bob()))
        },
        file("invalid base64", &auths(&json!({"auth": "%%%"})), undecoded("%%%")),
        file("no colon in it", &auths(&json!({"auth": "Ym9i"})), undecoded("Ym9i")),
        file("no user in it", &auths(&json!({"auth": packed("", "pw")})), undecoded(&packed("", "pw"))),
        file(
            "another entry that is broken",
            &json!({"auths": {HOST: entry, "a": {"auth": "%%%"}, "z": {"auth": "%%%"}}}),
            Sent::Ours {
                docker: Docker::Varies,
                ours: bob(),
                why: "a bad entry does not affect the entries that docker reads after it",
            },
        ),
        Case { config: Some("{".to_owned()), ..file("half a file", &json!(null), nothing()) },
        Case { image: "bob/x:1", ..file("the Hub", &keyed(HUB), same(user("bob", "filepw", HUB))) },
        Case {
            image: "index.docker.io/bob/x:1",
            ..file("the Hub by its old name", &keyed(HUB), same(user("bob", "filepw", HUB)))
        },
        Case { image: "bob/x:1", ..file("the Hub by its domain", &keyed("docker.io"), nothing()) },
        Case {
            image: "bob/x:1",
            ..file("the Hub without the last slash", &keyed("https://index.docker.io/v1"), nothing())
        },
        Case {
            image: "bob/x:1",
            ..file(
                "only the tokens of the Hub's web login",
                &json!({"auths": {format!("{HUB}access-token"): entry, format!("{HUB}refresh-token"): entry}}),
                nothing(),
            )
        },
        store("a helper for all", ALICE, same(alice())),
        Case {
            config: Some(json!({"credsStore": "x", "auths": {HOST: entry}}).to_string()),
            ..store("a helper before the file", ALICE, same(alice()))
        },
        Case {
            config: Some(json!({"credsStore": "x", "auths": {HOST: entry}}).to_string()),
            ..store(
                "a helper with nothing before the file",
                NOTHING,
                Sent::Ours {
                    docker: Docker::Sends(json!({})),
                    ours: bob(),
                    why: "the file has credentials, so they are used",
                },
            )
        },
        Case {
            config: Some(json!({"CREDSSTORE": "x"}).to_string()),
            ..store("credsStore in capitals", ALICE, same(alice()))
        },
        Case {
            config: Some(json!({"credHelpers": {HOST: "x"}}).to_string()),
            ..store("a helper for one", ALICE, same(alice()))
        },
        Case {
            config: Some(json!({"credsStore": "y", "credHelpers": {HOST: "x"}}).to_string()),
            ..store("a helper for one before the one for all", ALICE, same(alice()))
        },
        Case {
            config: Some(
                json!({"credsStore": "x", "credHelpers": {HOST: ""}, "auths": {HOST: entry}}).to_string(),
            ),
            ..store("an empty helper for one: the file", ALICE, same(bob()))
        },
        Case {
            config: Some(json!({"credHelpers": {"https://localhost:1": "x"}}).to_string()),
            ..store("a helper for a URL", ALICE, nothing())
        },
        Case {
            config: Some(json!({"credHelpers": {"localhost:2": "x"}, "auths": {HOST: entry}}).to_string()),
            ..store("a helper for another", ALICE, same(bob()))
        },
        store(
            "a helper's identity token",
            r#"echo '{"Username":"<token>","Secret":"idtok"}'"#,
            same(json!({"serveraddress": HOST, "identitytoken": "idtok"})),
        ),
        store(
            "a helper in small letters",
            r#"echo '{"username":"alice","secret":"s3cret"} more'"#,
            same(alice()),
        ),
        store("a helper's empty user and secret", r#"echo '{"Username":"","Secret":""}'"#, address_alone()),
        store("a helper with nothing", NOTHING, nothing()),
        store(
            "a helper that reads its input",
            r#"read -r key; test "$key" = localhost:1 && echo '{"Username":"alice","Secret":"s3cret"}'"#,
            same(alice()),
        ),
        store(
            "a helper that does not read its input",
            r#"exec 0<&-; echo '{"Username":"alice","Secret":"s3cret"}'"#,
            same(alice()),
        ),
        Case {
            config: Some(json!({"credsStore": "x", "auths": {HOST: {"registrytoken": "RT"}}}).to_string()),
            ..store(
                "a helper, and a registry token in the file",
                ALICE,
                same(
                    json!({"username": "alice", "password": "s3cret", "serveraddress": HOST, "registrytoken": "RT"}),
                ),
            )
        },
        Case {
            programs: vec![
                ("pass", ""),
                ("docker-credential-pass", ALICE),
                ("docker-credential-secretservice", "exit 1"),
            ],
            ..file("pass is there, and nothing configured", &json!({"currentContext": ""}), same(alice()))
        },
        Case {
            programs: vec![("docker-credential-secretservice", ALICE), ("docker-credential-pass", "exit 1")],
            ..file("no pass, and nothing configured", &json!({}), same(alice()))
        },
        Case {
            programs: vec![("pass", ""), ("docker-credential-secretservice", ALICE)],
            ..file("pass without its helper", &json!({}), nothing())
        },
        Case {
            programs: vec![("pass", ""), ("docker-credential-pass", ALICE)],
            ..file("pass is there, and other credentials in the file", &keyed("localhost:2"), nothing())
        },
        variable("the variable", keyed(HOST), same(bob())),
        Case {
            config: Some(json!({"credsStore": "x"}).to_string()),
            programs: vec![("docker-credential-x", ALICE)],
            ..variable("the variable before a helper", keyed(HOST), same(bob()))
        },
        Case {
            config: Some(keyed(HOST).to_string()),
            ..variable("the variable without this registry", keyed("localhost:2"), same(bob()))
        },
        variable("a URL in the variable", keyed("https://localhost:1"), nothing()),
        variable("an unknown field in the variable", json!({"auths": {HOST: entry}, "more": 1}), nothing()),
        variable(
            "an unknown field in its entry",
            json!({"auths": {HOST: {"auth": packed("bob", "filepw"), "email": "x"}}}),
            nothing(),
        ),
        variable("no auth in the variable", auths(&json!({})), nothing()),
        variable("two documents in the variable", format!("{0}{0}", keyed(HOST)), nothing()),
        variable(
            "the variable with keys in capitals",
            json!({"AUTHS": {HOST: {"Auth": packed("bob", "filepw")}}}),
            same(bob()),
        ),
        variable("an empty variable", "", nothing()),
        variable("no JSON in the variable", "bob:filepw", nothing()),
    ];
    let broken = [
        (
            "a helper with nothing that says so on stderr",
            "echo credentials not found in native keychain >&2; exit 1",
        ),
        ("a helper that fails", "echo boom; exit 3"),
        ("a helper that prints nothing", "exit 0"),
        ("a helper that prints half an object", "echo '{oops'"),
    ];
    cases.extend(broken.map(|(name, script)| store(name, script, failing())));
    cases.push(Case { programs: Vec::new(), ..store("a helper that is not there", "", failing()) });
    cases
}

fn failing() -> Sent {
    Sent::Ours {
        docker: Docker::Fails,
        ours: json!({}),
        why: "a broken helper is a warning, and part of the explanation if the registry refuses",
    }
}

/// Runs docker with the arguments `words`. Returns the credentials in the push request, if any, and the exit status and
/// output of docker as a string.
fn shown(cli: &Engine, case: &Case, words: &[&str]) -> (Option<Value>, String) {
    let home = Home::new();
    if let Some(config) = &case.config {
        fs::write(home.path(".docker/config.json"), config).unwrap();
    }
    for (name, script) in &case.programs {
        home.program(name, script);
    }
    // `allow` accepts a case without a push request, since docker may fail before the request.
    let fake = FakeEngine::start()
        .allow(ANY_PUSH, Reply::stream([digest_line("1")]))
        .allow("GET /v1.41/info", Reply::json(200, "{}"));
    let mut docker = cli.docker(&home);
    docker.env("PATH", home.path("bin")).env("DOCKER_HOST", &fake.host);
    // No proxy listens on this port, so the plugin does not send these credentials to a real registry.
    docker.env("HTTPS_PROXY", "http://127.0.0.1:1");
    if let Some(variable) = &case.variable {
        docker.env("DOCKER_AUTH_CONFIG", variable);
    }
    let run = run(docker.args(words).arg(case.image));
    let pushes = fake.pushes();
    if pushes.is_empty() {
        // The fake engine fails a test that sends no request. docker may have sent none, so the test sends a ping.
        let mut engine = UnixStream::connect(fake.host.trim_start_matches("unix://")).unwrap();
        engine.write_all(b"GET /_ping HTTP/1.1\r\n\r\n").unwrap();
        engine.read_exact(&mut [0]).unwrap();
    }
    (pushes.first().map(|push| push.registry_auth()), format!("{run:?}"))
}

#[test]
fn sends_dockers_credentials_except_where_the_table_explains() {
    let cli = engine("docker-28-classic");
    let cases = cases();
    let same = cases.iter().filter(|case| matches!(case.sent, Sent::Same(_))).count();
    println!("{} cases, {same} the same", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        // The plugin cannot verify the push, since the fake engine has no registry.
        let (ours, our_run) = shown(&cli, case, &["regpush", "-q", "--verify", "never"]);
        let (docker, docker_run) = shown(&cli, case, &["push", "-q"]);
        let is_right = match &case.sent {
            Sent::Same(want) => docker.as_ref() == Some(want) && ours.as_ref() == Some(want),
            Sent::Ours { docker: expected, ours: want, why } => {
                assert!(!why.is_empty());
                let docker_is_right = match expected {
                    Docker::Sends(want) => docker.as_ref() == Some(want),
                    Docker::Fails => docker.is_none(),
                    Docker::Varies => true,
                };
                docker_is_right && ours.as_ref() == Some(want)
            }
        };
        if !is_right {
            let name = case.name;
            wrong.push(format!("{name}: docker {docker:?}, ours {ours:?}\n  {docker_run}\n  {our_run}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() >= 40, "{}", cases.len());
}
