//! Tests docker's plugin protocol with the real CLI: completion in a real bash, the hint after a failed `docker push`,
//! and stopping a push.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portable_pty::CommandBuilder;

use crate::SMALL;
use crate::support::{Engine, Home, Registry, SlowLine, SystemCall, engine, engines, ok, run, wait_for};
use crate::terminal::Terminal;

/// Starts an interactive bash with the completion script that docker generates.
fn bash(engine: &Engine, home: &Home) -> Terminal {
    symlink(fs::read_link(&engine.docker).unwrap(), home.path("bin/docker")).unwrap();
    let start = "set +o history\nPS1='$ '\nbind 'set bell-style none'\nbind 'set completion-query-items 0'\n\
         bind 'set page-completions off'\nbind 'set show-all-if-ambiguous on'\nbind 'set enable-bracketed-paste off'\n\
         . /usr/share/bash-completion/bash_completion\n. <(docker completion bash)\necho ready\n";
    fs::write(home.path("bashrc"), start).unwrap();
    let mut command = CommandBuilder::new("bash");
    command.args(["--noprofile", "--rcfile"]);
    command.arg(home.path("bashrc"));
    command.arg("-i");
    command.env_clear();
    for (name, value) in home.variables() {
        command.env(name, value);
    }
    command.env("TERM", "dumb");
    command.env("DOCKER_HOST", engine.host());
    let terminal = Terminal::start(command, 200, 50);
    terminal.wait_for("ready");
    terminal
}

#[test]
fn bash_completes_images_and_options() {
    let (home, registry) = (Home::new(), Registry::open());
    let engine = engine("docker-28-containerd");
    let image = engine.image(&home, &registry.name("complete/app:1"), SMALL);
    let mut bash = bash(&engine, &home);
    // Bash completes the image name, then an option, and then the value of this option.
    let typed = registry.name("compl");
    engine.while_images_stay(|| {
        bash.type_in(&format!("docker regpush {typed}\t"));
        bash.wait_for(&image.name);
    });
    bash.type_in("--prog\t");
    bash.wait_for("--progress");
    bash.type_in(" pl\t");
    bash.wait_for("plain");
    // The completed command pushes the image.
    bash.type_in("\r");
    bash.wait_for("1: digest: sha256:");
    // If several words are possible, bash lists the words with descriptions.
    bash.type_in("docker regpush --no\t\x15docker regpush hook \t");
    bash.wait_for("Enable the hint after a failed docker push");
    bash.type_in("\x15docker regpush --tls\t\x15exit\r");
    let ended = bash.finish();
    assert!(!ended.text.contains("--tlsverify"), "docker's options come before the name: {}", ended.text);
}

/// docker's completion scripts for bash, zsh and fish all run `docker __complete`, so the test runs this command
/// without a shell.
#[test]
fn docker_forwards_completion_requests() {
    for engine in engines().into_iter().filter(|engine| engine.name != "docker-20.10") {
        let (home, registry) = (Home::new(), Registry::open());
        let image = engine.image(&home, &registry.name("protocol/app:1"), SMALL);
        let complete =
            |word: &str, words: &[&str]| ok(engine.docker(&home).args([word, "regpush"]).args(words));
        // On a busy machine, the engine may not list its images within the time limit of a completion.
        wait_for("the image is completed", || {
            let images = engine.while_images_stay(|| complete("__complete", &[&registry.name("pro")]));
            let line = images.lines().next().unwrap();
            (line.starts_with(&format!("{}\t", image.name)) && images.ends_with(":4\n")).then_some(())
        });
        let options = complete("__complete", &["--pa"]);
        assert!(options.contains("--password-stdin\tRead the password"), "{options}");
        let mut command = engine.docker(&home);
        command.env("DOCKER_HOST", "unix:///nothing/here").args(["__complete", "regpush", "lo"]);
        assert_eq!(ok(&mut command), ":4\n");
    }
}

#[test]
fn failed_docker_push_prints_our_hint() {
    // docker supports hooks since version 26.1.
    for name in ["docker-26", "docker-28-classic", "docker-28-containerd"] {
        let engine = engine(name);
        let (home, registry) = (Home::new(), Registry::with_users(&[("alice", "s3cret")]));
        let image = engine.image(&home, &registry.name("hooked/app:1"), SMALL);
        let config = home.path(".docker/config.json");
        let before = "{\n\t\"auths\": {},\n\t\"features\": {\n\t\t\"hooks\": \"true\"\n\t}\n}";
        fs::write(&config, before).unwrap();
        let installed = run(engine.docker(&home).args(["regpush", "hook", "install"]));
        assert_eq!(installed.status, 0, "{installed:?}");
        assert!(installed.stdout.contains("hints: on (features.hooks)"), "{installed:?}");

        let push = |words: &[&str]| {
            let mut command = engine.docker_at_terminal(&home);
            command.args(words);
            Terminal::start(command, 120, 30).finish()
        };
        let refused = push(&["push", &image.name]);
        assert_ne!(refused.status, 0);
        let next =
            refused.text.split("What's next:").nth(1).unwrap_or_else(|| panic!("{name}: {}", refused.text));
        assert!(next.contains("The registry requires authentication."), "{name}: {next}");
        assert!(next.contains(&format!("docker regpush {}", image.name)), "{name}: {next}");
        let long = push(&["image", "push", "--quiet", &image.name]);
        assert!(long.text.contains(&format!("docker regpush {}", image.name)), "{name}: {}", long.text);

        if name != "docker-26" {
            let one = push(&["push", "--platform", "linux/amd64", &image.name]);
            let command = format!("docker regpush --platform linux/amd64 {}", image.name);
            assert!(one.text.contains(&command), "{name}: {}", one.text);
        }

        // A successful push prints no hint.
        let open = Registry::open();
        let fine = open.name("hooked/app:1");
        ok(engine.docker(&home).args(["tag", &image.name, &fine]));
        let pushed = push(&["push", &fine]);
        assert_eq!(pushed.status, 0, "{name}: {}", pushed.text);
        assert!(!pushed.text.contains("What's next"), "{name}: {}", pushed.text);
        engine.remove(&[&fine]);

        assert_eq!(run(engine.docker(&home).args(["regpush", "hook", "remove"])).status, 0);
        assert_eq!(fs::read_to_string(&config).unwrap(), before);
        assert!(!push(&["push", &image.name]).text.contains("What's next"));

        // docker itself rewrites config.json between `hook install` and `hook remove`.
        ok(engine.docker(&home).args(["regpush", "hook", "install"]));
        ok(engine.docker(&home).args(["context", "create", "other", "--docker", "host=unix:///x"]));
        ok(engine.docker(&home).args(["context", "use", "other"]));
        assert_eq!(run(engine.docker(&home).args(["regpush", "hook", "remove"])).status, 0);
        let left: serde_json::Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
        assert!(left["plugins"].is_null() && left["currentContext"] == "other", "{left}");
    }
}

/// Copies the plugin into a directory that every user may enter.
fn program_for_everyone(home: &Home) -> PathBuf {
    let program = home.path("docker-regpush");
    fs::copy(env!("CARGO_BIN_EXE_docker-regpush"), &program).unwrap();
    for path in [home.root(), &program] {
        set_mode(path, 0o755);
    }
    program
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn as_nobody(home: &Home, program: &Path) -> Command {
    let mut command = home.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
    command
}

#[test]
fn config_that_this_user_may_not_read_is_named() {
    let home = Home::new();
    let program = program_for_everyone(&home);
    let (directory, config) = (home.path("config"), home.path("config/config.json"));
    fs::create_dir(&directory).unwrap();
    fs::write(&config, "{}").unwrap();
    let assert_hint = |hint: String| {
        let mut command = as_nobody(&home, &program);
        let refused = run(command.arg("--config").arg(&directory).args(["regpush", "auth", "localhost:1"]));
        let hint = format!("hint: {hint}\n");
        assert!(refused.status == 3 && refused.stderr.contains(&hint), "{hint}: {refused:?}");
    };
    let chown_hint =
        |path: &Path| format!("run `sudo chown -R \"$(id -un)\" '{}'`: another user owns it", path.display());
    set_mode(&config, 0o600);
    assert_hint(chown_hint(&config));
    set_mode(&directory, 0o700);
    assert_hint(chown_hint(&directory));
    chown(&directory, Some(65534), None).unwrap();
    chown(&config, Some(65534), None).unwrap();
    set_mode(&config, 0);
    assert_hint(format!("check the permissions of `{}`", config.display()));
}

/// A list of users that only this test sees names the user who ran sudo.
#[test]
fn credentials_of_the_user_who_ran_sudo_are_named() {
    let home = Home::new();
    let other = home.path("other/.docker");
    fs::create_dir_all(&other).unwrap();
    let passwd =
        format!("root:x:0:0::/root:/bin/sh\nsam:x:4711:4711::{}:/bin/sh\n", home.path("other").display());
    fs::write(home.path("passwd"), passwd).unwrap();
    let auth = |config: &str| {
        fs::write(other.join("config.json"), config).unwrap();
        let mut command = home.command("unshare");
        let script = r#"mount --bind "$1" /etc/passwd && shift && exec "$@""#;
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(home.path("passwd"));
        command.arg(env!("CARGO_BIN_EXE_docker-regpush")).args(["regpush", "auth", "localhost:1"]);
        run(command.env("SUDO_USER", "sam"))
    };
    let hint = format!(
        "hint: run it without sudo, or as `sudo env DOCKER_CONFIG={} docker regpush …`: sam has credentials for localhost:1, and root has none\n",
        other.display()
    );
    for config in
        [r#"{"auths":{"localhost:1":{"auth":"Y2k6eA=="}}}"#, r#"{"credHelpers":{"localhost:1":"x"}}"#]
    {
        let refused = auth(config);
        assert!(refused.status == 3 && refused.stderr.contains(&hint), "{refused:?}");
    }
    for config in ["{}", r#"{"credsStore":"x"}"#, r#"{"auths":{"localhost:1":{}}}"#] {
        let refused = auth(config);
        assert!(refused.status == 3 && !refused.stderr.contains("sudo"), "{refused:?}");
    }
}

/// The owner of config.json may write to the file, but cannot create a new file with the group of config.json.
#[test]
fn config_keeps_its_owner_and_group() {
    let home = Home::new();
    let program = program_for_everyone(&home);
    let (directory, config) = (home.path("config"), home.path("config/config.json"));
    fs::create_dir(&directory).unwrap();
    fs::write(&config, "{}").unwrap();
    for path in [&directory, &config] {
        chown(path, Some(65534), Some(0)).unwrap();
    }
    for (action, is_there) in [("install", true), ("remove", false)] {
        ok(as_nobody(&home, &program).arg("--config").arg(&directory).args(["hook", action]));
        let metadata = fs::metadata(&config).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (65534, 0), "{action}");
        assert_eq!(fs::read_to_string(&config).unwrap() != "{}", is_there, "{action}");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "no temporary file is left");
    }
}

/// Returns the process ID of the plugin that pushes `image`.
fn plugin_of(image: &str) -> Option<Pid> {
    fs::read_dir("/proc").unwrap().flatten().find_map(|process| {
        let arguments = fs::read(process.path().join("cmdline")).ok()?;
        let text = String::from_utf8_lossy(&arguments);
        let pid = process.file_name().to_str()?.parse().ok()?;
        (text.contains(image) && text.contains("docker-regpush")).then_some(Pid::from_raw(pid))
    })
}

/// Sends SIGTERM or SIGKILL to docker, which runs without a terminal.
#[test]
fn stopping_docker_stops_the_push() {
    for engine in engines() {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let (home, registry) = (Home::new(), Registry::open());
            let line = SlowLine::to(&registry, 1_000_000);
            let path = format!("stopped/{}", signal.as_str().to_lowercase());
            let image = engine.image(&home, &line.name(&format!("{path}:1")), 30_000_000);
            let mut docker = push_in_background(&engine, &home, &image.name);
            line.wait_until_moved(500_000);
            let plugin = plugin_of(&image.name).expect("it runs");
            let told = Instant::now();
            let process = Pid::from_raw(docker.id().try_into().unwrap());
            kill(process, signal).unwrap();
            // docker before version 25 catches the first two signals, and does not notify the plugin.
            while engine.name == "docker-20.10" && docker.try_wait().unwrap().is_none() {
                let _ = kill(process, signal);
            }
            wait_for("the plugin ends", || has_ended(plugin).then_some(()));
            // The plugin exits within one second. The upload would last for 30 s.
            assert!(
                told.elapsed() < Duration::from_secs(20),
                "{}: {signal}: {:?}",
                engine.name,
                told.elapsed()
            );
            println!("{} {signal}: {:?}", engine.name, told.elapsed());
            let status = docker.wait().unwrap();
            if signal == Signal::SIGTERM && engine.name != "docker-20.10" {
                assert_eq!(status.code(), Some(130), "{}", engine.name);
            }
            registry.wait_for_a_broken_upload();
            registry.assert_no_manifest(&path);
        }
    }
}

/// Runs the plugin with strace and these environment variables, and returns the trace.
pub fn trace(home: &Home, engine: &Engine, variables: &[(&str, &str)], arguments: &[&str]) -> String {
    let file = home.path("trace");
    let mut command = home.command("strace");
    command
        .args(["-f", "-s", "200", "-o"])
        .arg(&file)
        .arg(env!("CARGO_BIN_EXE_docker-regpush"))
        .args(arguments);
    ok(command.env("DOCKER_HOST", engine.host()).envs(variables.iter().copied()));
    fs::read_to_string(file).unwrap()
}

/// The plugin must start fast, since docker requests the plugin's metadata before each run, and shells request
/// completions of each word.
#[test]
fn help_and_completion_start_nothing_and_read_no_config() {
    let (home, engine) = (Home::new(), engine("docker-28-classic"));
    home.config(&serde_json::json!({}));
    let questions: [&[&str]; 4] = [
        &["docker-cli-plugin-metadata"],
        &["regpush", "--help"],
        &["regpush", "--version"],
        &["__complete", "regpush", "--progress", ""],
    ];
    let config = home.path(".docker/config.json");
    let is_config = |path: &str| Path::new(path) == config;
    // Recognizes paths of CA certificates on any Linux distribution. The test excludes its own folders, whose paths
    // may also contain a part such as `/ssl/`.
    let is_own =
        |path: &str| Path::new(path).starts_with(home.root()) || path.starts_with(env!("CARGO_MANIFEST_DIR"));
    let is_authority = |path: &str| {
        !is_own(path) && ["/ssl/", "/pki/", "/ca-certificates/"].iter().any(|part| path.contains(part))
    };
    for arguments in questions {
        let trace = trace(&home, &engine, &[], arguments);
        let calls = SystemCall::read_all(&trace);
        for call in &calls {
            let is_needless =
                call.starts_something() || call.name.starts_with("epoll_") || call.name == "socket";
            let reads_needless = call
                .path()
                .is_some_and(|path| is_config(path) || is_authority(path) || path == "/proc/self/status");
            assert!(!is_needless && !reads_needless, "{arguments:?}: {}", call.line);
        }
        assert!((1..120).contains(&calls.len()), "{arguments:?}: {trace}");
    }
    // A push to a registry without TLS reads no CA certificates. The plugin starts two threads: one waits for signals,
    // the other resolves the registry's address.
    let registry = Registry::open();
    let image = engine.image(&home, &registry.name("traced/start:1"), SMALL);
    let trace = trace(&home, &engine, &[], &["regpush", "-q", &image.name]);
    let calls = SystemCall::read_all(&trace);
    let paths: Vec<&str> = calls.iter().filter_map(SystemCall::path).collect();
    assert!(paths.iter().any(|path| is_config(path)), "{trace}");
    assert!(!paths.iter().any(|path| is_authority(path)), "{trace}");
    assert_eq!(calls.iter().filter(|call| call.starts_something()).count(), 2, "{trace}");
    let count = |text: &str| calls.iter().filter(|call| call.writes(text)).count();
    assert_eq!((count("/push?"), count("/distribution/"), count("/info ")), (1, 0, 0), "{trace}");
}

/// Returns whether a process has exited. Zombies count as exited, since orphans remain zombies if no process reaps
/// them.
fn has_ended(process: Pid) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

fn push_in_background(engine: &Engine, home: &Home, image: &str) -> Child {
    let mut command: Command = engine.docker(home);
    command.args(["regpush", image]).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}
