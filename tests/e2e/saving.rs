//! Tests that the plugin saves credentials in docker's format, also in a file that cannot be replaced, and does not
//! leak the password.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Engine, Home, Registry, Run, SlowLine, SystemCall, engine, ok, run, run_with_stdin};
use crate::terminal::Terminal;
use crate::{PASSWORD, SMALL, fill_pass, packed};

fn docker_28() -> Engine {
    engine("docker-28-containerd")
}

fn config(home: &Home) -> String {
    fs::read_to_string(home.path(".docker/config.json")).unwrap()
}

/// Runs `docker WORDS -u alice --password-stdin HOST`.
fn log_in(engine: &Engine, home: &Home, words: &[&str], host: &str) -> Run {
    let mut docker = engine.docker(home);
    docker.args(words).args(["-u", "alice", "--password-stdin", host]);
    run_with_stdin(&mut docker, PASSWORD.as_bytes())
}

const OURS: [&str; 3] = ["regpush", "auth", "--login"];

#[test]
fn saves_what_docker_login_saves() {
    let engine = docker_28();
    let registry = Registry::with_users(&[("alice", PASSWORD)]);
    let host = registry.host();
    let stored = |at: &str| {
        json!({"auths": {"a.example.com": {"auth": packed("bob", "pw")}, at: {"auth": packed("old", "old")}},
            "currentContext": "default"})
    };
    let helper = json!({"credsStore": "x", "auths": {&host: {"auth": packed("old", "old")}}});
    for before in [None, Some(stored("b.example.com")), Some(stored(&host)), Some(helper)] {
        let [theirs, ours] = [&["login"][..], &OURS].map(|words| {
            let home = Home::new();
            home.helper("x", r#"read -r login; test "$1" = store && echo "$login" >"$HOME/kept""#);
            // Formats config.json as docker does, so that the files of docker and of the plugin can be equal.
            if let Some(config) = &before {
                let mut bytes = Vec::new();
                let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
                serde::Serialize::serialize(
                    config,
                    &mut serde_json::Serializer::with_formatter(&mut bytes, tabs),
                )
                .unwrap();
                fs::write(home.path(".docker/config.json"), bytes).unwrap();
            }
            let done = log_in(&engine, &home, words, &host);
            assert_eq!(done.status, 0, "{words:?}: {done:?}");
            let warned = done.stderr.contains("WARNING! Your credentials are stored unencrypted in '");
            let login = |text: &str| serde_json::from_str::<Value>(text).unwrap();
            let kept = fs::read_to_string(home.path("kept")).ok().map(|text| login(&text));
            (config(&home), kept, warned)
        });
        assert_eq!(ours, theirs, "{before:?}");
    }
}

#[test]
fn docker_and_plugin_read_each_others_credentials() {
    let engine = docker_28();
    let registry = Registry::with_users(&[("alice", PASSWORD)]);
    let host = registry.host();
    for (keeper, user) in [(&["login"][..], &["regpush"][..]), (&OURS, &["push"])] {
        let home = Home::new();
        fill_pass(&home, r#"{"ServerURL":"other.example.com","Username":"bob","Secret":"x"}"#);
        home.config(&json!({"credsStore": "pass"}));
        let mut docker = engine.docker(&home);
        docker.args(keeper).args(["-u", "alice", "--password-stdin", &host]);
        let kept = run_with_stdin(&mut docker, PASSWORD.as_bytes());
        assert_eq!(kept.status, 0, "{keeper:?}: {kept:?}");
        let image = engine.image(&home, &registry.name("kept/app:1"), SMALL);
        let pushed = run(engine.docker(&home).args(user).arg(&image.name));
        assert_eq!(pushed.status, 0, "{user:?}: {pushed:?}");

        let listed = ok(engine.docker(&home).args(["regpush", "auth", "--format", "json"]));
        let lines: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let users = lines
            .iter()
            .map(|line| (line["registry"].as_str(), line["username"].as_str(), line["source"].as_str()));
        let want = [(host.as_str(), "alice"), ("other.example.com", "bob")];
        let want = want.map(|(registry, user)| (Some(registry), Some(user), Some("helper:pass")));
        assert_eq!(users.collect::<Vec<_>>(), want);
        assert!(!listed.contains(PASSWORD) && !config(&home).contains("auth\":"), "{listed}");
    }
}

/// The plugin cannot replace a config.json that is mounted into a container, so the plugin overwrites the content of
/// the file.
#[test]
fn writes_a_bind_mounted_config_in_place() {
    let engine = docker_28();
    let registry = Registry::with_users(&[("alice", PASSWORD)]);
    let home = Home::new();
    home.config(&json!({"auths": {}, "mine": 1}));
    fs::write(home.path("outside.json"), r#"{"auths":{"a.example.com":{"auth":"eDp5"}},"other":2}"#).unwrap();
    let script = r#"
        mount --bind "$HOME/outside.json" "$HOME/.docker/config.json"
        printf %s "$1" | "$2" regpush auth --login -u alice --password-stdin "$3""#;
    let mut unshare = home.command("unshare");
    unshare.env("DOCKER_HOST", engine.host()).args(["--mount", "sh", "-ec", script, "sh", PASSWORD]);
    let done = run(unshare.arg(&engine.docker).arg(registry.host()));
    assert_eq!(done.status, 0, "{done:?}");
    let outside: Value =
        serde_json::from_str(&fs::read_to_string(home.path("outside.json")).unwrap()).unwrap();
    let auth = packed("alice", PASSWORD);
    let want =
        json!({"auths": {"a.example.com": {"auth": "eDp5"}, registry.host(): {"auth": auth}}, "other": 2});
    assert_eq!(outside, want);
    assert_eq!(config(&home), r#"{"auths":{},"mine":1}"#);
    let mut names: Vec<_> =
        fs::read_dir(home.path(".docker")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["cli-plugins", "config.json"], "nothing is left");
}

/// A password that no message contains by chance, and that `strace` prints unescaped.
const TRACED: &str = "hunter2-of-the-trace";

/// Searches the system calls of docker and the plugin, and all of /proc, for the typed password.
#[test]
fn typed_password_reaches_only_engine_registry_and_helper() {
    let engine = docker_28();
    let registry = Registry::with_users(&[("alice", TRACED)]);
    let (home, line) = (Home::new(), SlowLine::to(&registry, 500_000));
    let host = line.name("").trim_end_matches('/').to_owned();
    let image = engine.image(&home, &line.name("traced/app:1"), 4_000_000);
    home.config(&json!({"credsStore": "x"}));
    home.helper(
        "x",
        r#"test "$1" = store || exec echo '{"Username":"","Secret":""}'; read -r login; : >"$HOME/kept""#,
    );

    let mut command = engine.docker_at_terminal(&home);
    let argv = command.get_argv_mut();
    let trace = home.path("trace");
    let strace =
        ["strace", "-f", "-yy", "-s", "100000", "-e", "trace=execve,write,writev,sendto,sendmsg,prctl", "-o"];
    let strace = strace.iter().map(std::ffi::OsString::from).chain([trace.clone().into_os_string()]);
    argv.splice(..0, strace);
    command.args(["regpush", "--save-credentials", &image.name]);
    let mut terminal = Terminal::start(command, 100, 30);
    terminal.wait_for("Username: ");
    terminal.type_in("alice\r");
    terminal.wait_for("Password: ");
    terminal.type_in(&format!("{TRACED}\r"));
    line.wait_until_moved(500_000);
    let header = {
        let auth = format!(r#"{{"username":"alice","password":"{TRACED}","serveraddress":"{host}"}}"#);
        base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE, auth)
    };
    let forms = [TRACED.to_owned(), packed("alice", TRACED), header];
    let mut looked_at = 0;
    for process in fs::read_dir("/proc").unwrap().flatten() {
        for file in ["cmdline", "environ"] {
            // Skips files that cannot be read, for example because the process has exited.
            let Ok(bytes) = fs::read(process.path().join(file)) else { continue };
            let text = String::from_utf8_lossy(&bytes);
            looked_at += usize::from(file == "cmdline" && text.contains(&image.name));
            assert!(!forms.iter().any(|form| text.contains(form)), "{:?} {file}", process.path());
        }
    }
    assert_eq!(looked_at, 3, "strace, docker and the plugin");
    let ended = terminal.finish();
    assert_eq!(ended.status, 0, "{}", ended.text);
    assert!(home.path("kept").exists() && !ended.text.contains(TRACED), "{}", ended.text);

    let trace = fs::read_to_string(trace).unwrap();
    let calls = SystemCall::read_all(&trace);
    let lines: Vec<&str> =
        trace.lines().filter(|line| forms.iter().any(|form| line.contains(form))).collect();
    let count = |target: &str| {
        let has_secret = |call: &&SystemCall<'_>| forms.iter().any(|form| call.writes(form));
        calls.iter().filter(has_secret).filter(|call| call.line.contains(target)).count()
    };
    // The helper's stdin is the only pipe that receives the password.
    let (to_engine, to_helper) = (count("<UNIX-STREAM:"), count("<pipe:"));
    assert_eq!((to_engine, to_helper), (2, 1), "engine: /auth and the push; helper: store: {lines:#?}");
    // To verify the push, the plugin requests the manifest and the blobs from the registry.
    let to_registry = count(&format!("->127.0.0.1:{}]>", line.port));
    assert!(to_registry > 0, "{lines:#?}");
    assert_eq!(lines.len(), to_engine + to_helper + to_registry, "{lines:#?}");
    assert!(
        calls.iter().any(|call| call.name == "execve") && trace.contains("docker-credential-x\", \"store\"]"),
        "{trace}"
    );
    assert!(
        trace.contains("prctl(PR_SET_DUMPABLE, SUID_DUMP_DISABLE) = 0"),
        "the password is in no core dump"
    );
}
