//! Runs `docker regpush` through the real docker CLI, with real registries. The engines are docker 20.10, docker 26 or
//! 27, docker 28 or later (one engine with the classic store, one with the containerd store), the installed podman, and
//! podman 5. Each test has its own registries, repositories and content, since the containerd store mounts blobs across
//! repositories, even if the registries differ in the port.

#![expect(clippy::unwrap_used, reason = "all of it is a test")]

#[path = "../it/support/body.rs"]
mod body;
mod calls;
mod credentials;
mod diagnosis;
mod endpoints;
/// The fake engine of the other test program, with the modules that it imports.
#[expect(dead_code, reason = "the other test program uses all of it")]
#[path = "../it/support"]
mod fake {
    pub mod client;
    pub mod engine;
    use crate::wait;
}
mod faults;
mod install;
mod limits;
mod many;
mod namespace;
mod networks;
mod nginx;
mod preflight;
mod protocol;
mod proxy;
mod readme;
mod registries;
mod relay;
mod saving;
mod several;
mod support;
#[expect(dead_code, reason = "the other test program uses all of it")]
#[path = "../it/support/terminal.rs"]
mod terminal;
#[path = "../it/support/wait.rs"]
mod wait;
mod wishes;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use support::{Engine, Home, Registry, SlowLine, engine, engines, ok, ok_with_stdin, run, run_with_stdin};
use terminal::Terminal;

const SMALL: usize = 100_000;
const PASSWORD: &str = "s3cret pass~?>";

fn on_each_engine(test: impl Fn(&Engine)) {
    for engine in engines() {
        println!("engine {}", engine.name);
        test(&engine);
    }
}

fn packed(user: &str, password: &str) -> String {
    STANDARD.encode(format!("{user}:{password}"))
}

#[test]
fn docker_lists_the_plugin_and_asks_it_for_help() {
    on_each_engine(|engine| {
        let home = Home::new();
        let help = ok(engine.docker(&home).arg("--help"));
        assert!(help.lines().any(|line| line.trim().starts_with("regpush*")), "{help}");
        let info = ok(engine.docker(&home).args(["info", "--format", "{{json .ClientInfo.Plugins}}"]));
        let plugins: Value = serde_json::from_str(&info).unwrap();
        let ours = plugins.as_array().unwrap().iter().find(|plugin| plugin["Name"] == "regpush").unwrap();
        assert_eq!(ours["Version"], env!("CARGO_PKG_VERSION"));
        assert!(ours["Err"].is_null(), "{ours}");
        for words in [["help", "regpush"], ["regpush", "--help"]] {
            assert!(
                ok(engine.docker(&home).args(words)).contains("docker regpush [OPTIONS] IMAGE"),
                "{words:?}"
            );
        }
        assert!(ok(engine.docker(&home).args(["regpush", "--version"])).starts_with("docker-regpush "));
    });
}

#[test]
fn open_registry_serves_the_printed_digest() {
    on_each_engine(|engine| {
        let (home, registry) = (Home::new(), Registry::open());
        let image = engine.image(&home, &registry.name("open/app:1"), SMALL);
        let pushed = run(engine.docker(&home).args(["regpush", &image.name]));
        assert_eq!(pushed.status, 0, "{pushed:?}");
        let digest = registry.digest("open/app", "1", None);
        let reference = registry.name(&format!("open/app@{digest}"));
        assert_eq!(pushed.stdout, format!("{reference}\n"));

        let again = run(engine.docker(&home).args(["regpush", "--format", "json", &image.name]));
        assert_eq!(again.status, 0, "{again:?}");
        let result: Value = serde_json::from_str(&again.stdout).unwrap();
        assert_eq!(result["digest"], digest);
        // podman does not report layers.
        let layers = usize::from(!engine.is_podman());
        assert_eq!(result["layers"], json!({"total": layers, "pushed": 0, "exists": layers, "mounted": 0}));

        for name in [&image.name, &reference] {
            engine.remove(&["-f", &image.id]);
            engine.pull(&home, name);
            let id = ok(engine.docker(&home).args(["inspect", "-f", "{{.Id}}", name]));
            assert_eq!(id.trim(), image.id, "{name} is not the image that was pushed");
        }
    });
}

#[test]
fn pushes_with_stored_credentials() {
    on_each_engine(|engine| {
        let registry = Registry::with_users(&[("alice", PASSWORD)]);
        let host = registry.name("").trim_end_matches('/').to_owned();
        let helper = json!({"ServerURL": host, "Username": "alice", "Secret": PASSWORD}).to_string();
        let configs = [
            ("config", json!({"auths": {&host: {"auth": packed("alice", PASSWORD)}}})),
            ("helper:pass", json!({"credsStore": "pass"})),
            ("helper:script", json!({"credsStore": "pass", "credHelpers": {&host: "script"}})),
        ];
        for (source, config) in configs {
            let home = Home::new();
            home.config(&config);
            if source == "helper:pass" {
                fill_pass(&home, &helper);
            }
            home.helper("script", &format!("cat >/dev/null\ncat <<'X'\n{helper}\nX"));

            let path = format!("stored/{}", source.replace(':', "-"));
            let image = engine.image(&home, &registry.name(&format!("{path}:1")), SMALL);
            let pushed = run(engine.docker(&home).args(["regpush", "--format", "json", &image.name]));
            assert_eq!(pushed.status, 0, "{source}: {pushed:?}");
            let result: Value = serde_json::from_str(&pushed.stdout).unwrap();
            assert_eq!(result["credentials"], json!({"source": source, "username": "alice"}));
            assert_eq!(result["digest"], registry.digest(&path, "1", Some(("alice", PASSWORD))));
        }
        assert_eq!(registry.failed_logins(), 0);
    });
}

/// Creates a `pass` store with a new key, and stores `credentials` in the store.
fn fill_pass(home: &Home, credentials: &str) {
    fs::create_dir(home.path("gnupg")).unwrap();
    fs::set_permissions(home.path("gnupg"), fs::Permissions::from_mode(0o700)).unwrap();
    let mut gpg = home.command("gpg");
    gpg.args(["--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]);
    ok(gpg.args(["--quick-generate-key", "regpush-test", "default", "default", "never"]));
    ok(home.command("pass").args(["init", "regpush-test"]));
    symlink("/usr/bin/docker-credential-pass", home.path("bin/docker-credential-pass")).unwrap();
    ok_with_stdin(home.command("docker-credential-pass").arg("store"), credentials.as_bytes());
}

#[test]
fn one_wrong_password_at_the_terminal_is_one_failed_login() {
    on_each_engine(|engine| {
        let (home, registry) = (Home::new(), Registry::with_users(&[("alice", PASSWORD)]));
        let image = engine.image(&home, &registry.name("typed/app:1"), SMALL);
        let mut command = engine.docker_at_terminal(&home);
        command.args(["regpush", &image.name]);
        let mut terminal = Terminal::start(command, 120, 30);
        terminal.wait_for("requires authentication, and no credentials are stored for it");
        terminal.wait_for("Username: ");
        terminal.type_in("alice\r");
        terminal.wait_for("Password: ");
        terminal.type_in("wrong\r");
        terminal.wait_for("does not accept this password for `alice`");
        terminal.wait_for("Username (alice): ");
        terminal.type_in("\r");
        terminal.wait_for("Password: ");
        terminal.type_in(&format!("{PASSWORD}\r"));
        let ended = terminal.finish();
        assert_eq!(ended.status, 0, "{}", ended.text);
        assert!(ended.restored);
        assert!(!ended.text.contains(PASSWORD), "{}", ended.text);
        let digest = registry.digest("typed/app", "1", Some(("alice", PASSWORD)));
        assert!(ended.text.contains(&digest), "{}", ended.text);
        assert_eq!(registry.failed_logins(), 1, "{}", registry.log());
        assert!(!home.path(".docker/config.json").exists(), "typed credentials are not saved");
    });
}

#[test]
fn odd_passwords_reach_the_registry_unchanged() {
    let users = [
        ("tilde", "~?>~?>~?>"),
        ("spaces", "  both ends  "),
        ("quotes", r#"qu"o'te\s"#),
        ("utf8", "pässwörd密码🔑"),
    ];
    on_each_engine(|engine| {
        let (home, registry) = (Home::new(), Registry::with_users(&users));
        let image = engine.image(&home, &registry.name("odd/app:1"), SMALL);
        let host = registry.name("").trim_end_matches('/').to_owned();
        for (user, password) in users {
            let given = ["regpush", "-q", "-u", user, "--password-stdin", &image.name];
            let stdin = format!("{password}\n");
            let pushed = run_with_stdin(engine.docker(&home).args(given), stdin.as_bytes());
            assert_eq!(pushed.status, 0, "{user} from stdin: {pushed:?}");

            home.config(&json!({"auths": {&host: {"auth": packed(user, password)}}}));
            let pushed = run(engine.docker(&home).args(["regpush", "-q", &image.name]));
            assert_eq!(pushed.status, 0, "{user} from config.json: {pushed:?}");
            home.config(&json!({}));

            let mut command = engine.docker_at_terminal(&home);
            command.args(["regpush", &image.name]);
            let mut terminal = Terminal::start(command, 120, 30);
            terminal.wait_for("Username: ");
            terminal.type_in(&format!("{user}\r"));
            terminal.wait_for("Password: ");
            terminal.type_in(&format!("{password}\r"));
            let ended = terminal.finish();
            assert_eq!(ended.status, 0, "{user} typed: {}", ended.text);
        }
        assert_eq!(registry.failed_logins(), 0);
    });
}

#[test]
fn refusal_without_a_terminal_is_final_and_names_remedies() {
    on_each_engine(|engine| {
        let (home, registry) = (Home::new(), Registry::with_users(&[("alice", PASSWORD)]));
        let host = registry.name("").trim_end_matches('/').to_owned();
        let image = engine.image(&home, &registry.name("refused/app:1"), SMALL);

        let refused = run(engine.docker(&home).args(["regpush", &image.name]));
        assert_eq!(refused.status, 3, "{refused:?}");
        assert!(!["attempt", "Username"].iter().any(|word| refused.stderr.contains(word)), "{refused:?}");
        let login = format!("docker login {host}");
        for words in [host.as_str(), "no credentials", &login, "--password-stdin", "DOCKER_AUTH_CONFIG"] {
            assert!(refused.stderr.contains(words), "{words}: {refused:?}");
        }

        home.config(&json!({"auths": {&host: {"auth": packed("alice", "stale")}}}));
        let stale = run(engine.docker(&home).args(["regpush", &image.name]));
        assert_eq!(stale.status, 3, "{stale:?}");
        let file = home.path(".docker/config.json").display().to_string();
        assert!(stale.stderr.contains(&format!("does not accept user `alice` from `{file}`")), "{stale:?}");

        home.config(&json!({"credsStore": "stale"}));
        home.helper("stale", r#"echo '{"Username":"alice","Secret":"stale"}'"#);
        let stale = run(engine.docker(&home).args(["regpush", &image.name]));
        assert!(
            stale.stderr.contains("user `alice` from the credential helper `docker-credential-stale`"),
            "{stale:?}"
        );
    });
}

#[test]
fn missing_image_exits_5_and_suggests_names() {
    on_each_engine(|engine| {
        let (home, registry) = (Home::new(), Registry::open());
        let image = engine.image(&home, &registry.name("near/application:1"), SMALL);
        let missing = registry.name("near/aplication:1");
        let run = engine.while_images_stay(|| run(engine.docker(&home).args(["regpush", &missing])));
        assert_eq!(run.status, 5, "{run:?}");
        assert!(run.stderr.contains(&format!("did you mean {}?", image.name)), "{run:?}");
    });
}

#[test]
fn pushes_all_tags_of_a_repository() {
    on_each_engine(|engine| {
        let (home, registry) = (Home::new(), Registry::open());
        let image = engine.image(&home, &registry.name("all/app:1"), SMALL);
        let other = registry.name("all/app:2");
        ok(engine.docker(&home).args(["tag", &image.name, &other]));
        let arguments = ["regpush", "--all-tags", &registry.name("all/app")];
        let pushed = engine.while_images_stay(|| run(engine.docker(&home).args(arguments)));
        assert_eq!(pushed.status, 0, "{pushed:?}");
        let line = |tag| format!("{}@{}\n", registry.name("all/app"), registry.digest("all/app", tag, None));
        assert_eq!(pushed.stdout, line("1") + &line("2"), "{pushed:?}");
        engine.remove(&[&other]);
    });
}

#[test]
fn ctrl_c_in_mid_push_stops_the_engine() {
    on_each_engine(|engine| {
        let (home, registry) = (Home::new(), Registry::with_users(&[("alice", PASSWORD)]));
        let line = SlowLine::to(&registry, 2_000_000);
        let image = engine.image(&home, &line.name("slow/app:1"), 60_000_000);
        let host = line.name("").trim_end_matches('/').to_owned();
        home.config(&json!({"auths": {&host: {"auth": packed("alice", PASSWORD)}}}));
        let mut command = engine.docker_at_terminal(&home);
        command.args(["regpush", &image.name]);
        let mut terminal = Terminal::start(command, 80, 24);
        line.wait_until_moved(1_000_000);
        // podman does not report layers.
        if !engine.is_podman() {
            terminal.wait_for(" of 60 MB");
        }
        terminal.type_in("\x03");
        let ended = terminal.finish();
        assert_eq!(ended.status, 130, "{}", ended.text);
        assert!(ended.restored && ended.text.contains("error: interrupted"), "{}", ended.text);
        registry.wait_for_a_broken_upload();
        if engine.name.starts_with("docker") && !engine.name.ends_with("containerd") {
            // podman and engines with the containerd store do not log a canceled push.
            support::wait_for("the engine logs it", || {
                engine.log().contains("context canceled").then_some(())
            });
        }
        registry.assert_no_manifest("slow/app");
    });
}

#[test]
fn password_is_in_no_argv_or_environment_during_a_push() {
    let engine = engine("docker-28-containerd");
    let (home, registry) = (Home::new(), Registry::with_users(&[("alice", PASSWORD)]));
    let line = SlowLine::to(&registry, 1_000_000);
    let image = engine.image(&home, &line.name("secret/app:1"), 30_000_000);
    let mut command = engine.docker(&home);
    command.args(["-D", "regpush", "-u", "alice", "--password-stdin", &image.name]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), PASSWORD.as_bytes()).unwrap();
    line.wait_until_moved(500_000);
    let mut seen = 0;
    for process in fs::read_dir("/proc").unwrap().flatten() {
        for file in ["cmdline", "environ"] {
            // Skips files that cannot be read, for example because the process has exited.
            let Ok(bytes) = fs::read(process.path().join(file)) else { continue };
            let text = String::from_utf8_lossy(&bytes);
            seen += usize::from(file == "cmdline" && text.contains(&image.name));
            for secret in [PASSWORD, &packed("alice", PASSWORD)] {
                assert!(!text.contains(secret), "{:?} {file}: {text}", process.path());
            }
        }
    }
    assert_eq!(seen, 2, "docker and the plugin were checked");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id().try_into().unwrap()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    let output = child.wait_with_output().unwrap();
    // docker stops the plugin through the control socket, so the plugin does not know which signal docker received.
    assert_eq!(output.status.code(), Some(130));
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(printed.contains("debug: POST ") && !printed.contains(PASSWORD), "{printed}");
    registry.wait_for_a_broken_upload();
}
