//! Tests of prompts after a registry refused a push, and of signals that interrupt a prompt or a push.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::engine::{DIGEST, End, FakeEngine, Reply, digest_line, refusal};
use crate::support::env::{TestEnv, run};
use crate::support::terminal::Terminal;
use crate::support::wait::PATIENCE;

const IMAGE: &str = "localhost:0/app:1";
const LOGIN_FAILED: &str =
    r#"{"message":"login attempt to http://localhost:0/v2/ failed with status: 401 Unauthorized"}"#;
const LOGIN_GOOD: &str = r#"{"IdentityToken":"","Status":"Login Succeeded"}"#;
const AUTH: &str = "POST /v1.41/auth";
const PUSH: &str = "POST /v1.41/images/localhost:0/app/push?tag=1&tlsVerify=false";

fn refused() -> Reply {
    Reply::stream([refusal("no basic auth credentials")])
}

fn accepted() -> Reply {
    Reply::stream([digest_line("1")])
}

fn at_terminal(env: &TestEnv, engine: &FakeEngine, options: &[&str]) -> Terminal {
    env.at_terminal(engine, "xterm", &[&["regpush"], options, &[IMAGE]].concat())
}

/// Types the username and the password when the plugin prompts for them.
fn log_in(terminal: &mut Terminal, username: &str, password: &str) {
    terminal.wait_for("Username");
    terminal.type_in(&format!("{username}\r"));
    terminal.wait_for("Password: ");
    terminal.type_in(&format!("{password}\r"));
}

#[test]
fn typed_credentials_restart_the_attempt_count() {
    let broken = || Reply::stream([refusal("write: connection reset by peer")]);
    let engine = FakeEngine::start()
        .on(PUSH, refused())
        .on(AUTH, Reply::json(200, LOGIN_GOOD))
        .on(PUSH, broken())
        .on(PUSH, broken());
    let mut terminal = at_terminal(&TestEnv::new(), &engine, &["--retries", "1", "--progress", "plain"]);
    log_in(&mut terminal, "alice", "s3cret");
    terminal.wait_for("attempt 2 of 2 in ");
    let ended = terminal.finish();
    assert_eq!(ended.status, 6, "{}", ended.text);
    assert!(ended.text.contains("after 2 attempts, each with the same error"), "{}", ended.text);
}

#[test]
fn prompts_checks_and_pushes_again() {
    let engine = FakeEngine::start()
        .serving_pushed()
        .on(PUSH, refused())
        .on(AUTH, Reply::json(500, LOGIN_FAILED))
        .on(AUTH, Reply::json(200, LOGIN_GOOD))
        .on(PUSH, accepted());
    let mut terminal = at_terminal(&TestEnv::new(), &engine, &[]);
    terminal.wait_for("localhost:0 requires authentication, and no credentials are stored for it");
    terminal.wait_for("Username: ");
    terminal.type_in("alice\r");
    terminal.wait_for("Password: ");
    assert!(!terminal.echoes());
    terminal.type_in("wrong\r");
    terminal.wait_for("localhost:0 does not accept this password for `alice`");
    terminal.wait_for("Username (alice): ");
    terminal.type_in("\r");
    terminal.wait_for("Password: ");
    terminal.type_in("right\r");
    let ended = terminal.finish();
    assert_eq!(ended.status, 0, "{}", ended.text);
    assert!(ended.text.contains(&format!("localhost:0/app\x1b[2m@{DIGEST}")), "{}", ended.text);
    assert!(!ended.text.contains("wrong") && !ended.text.contains("right"), "{}", ended.text);
    assert!(ended.restored);

    let requests = engine.requests();
    let login = json!({"username": "alice", "password": "right", "serveraddress": "localhost:0"});
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&requests[2].body).unwrap(), login);
    assert_eq!(requests[3].registry_auth(), login, "the push sends the checked credentials");
}

#[test]
fn odd_passwords_arrive_as_typed() {
    for password in ["~?>~?>", "  both ends  ", r#"quo"te's\back"#, "pässwörd 密码 🔑", "a:b"] {
        let engine = FakeEngine::start()
            .serving_pushed()
            .on(PUSH, refused())
            .on(AUTH, Reply::json(200, LOGIN_GOOD))
            .on(PUSH, accepted());
        let mut terminal = at_terminal(&TestEnv::new(), &engine, &[]);
        log_in(&mut terminal, "alice", password);
        let ended = terminal.finish();
        assert_eq!(ended.status, 0, "{}", ended.text);
        assert_eq!(engine.pushes()[1].registry_auth()["password"], password);
    }
}

#[test]
fn sends_the_identity_token_instead_of_the_password() {
    let engine = FakeEngine::start()
        .serving_pushed()
        .on(PUSH, refused())
        .on(AUTH, Reply::json(200, r#"{"IdentityToken":"idtok","Status":"Login Succeeded"}"#))
        .on(PUSH, accepted());
    let mut terminal = at_terminal(&TestEnv::new(), &engine, &[]);
    log_in(&mut terminal, "alice", "pw");
    assert_eq!(terminal.finish().status, 0);
    let sent = json!({"username": "alice", "serveraddress": "localhost:0", "identitytoken": "idtok"});
    assert_eq!(engine.pushes()[1].registry_auth(), sent);
}

#[test]
fn gives_up_after_three_wrong_answers() {
    let mut engine = FakeEngine::start().on(PUSH, refused());
    for _ in 0..2 {
        engine = engine
            .on(AUTH, Reply::json(401, r#"{"message":"unauthorized: incorrect username or password"}"#));
    }
    let mut terminal = at_terminal(&TestEnv::new(), &engine, &[]);
    // The plugin does not send an empty password to the registry.
    log_in(&mut terminal, "alice", "");
    terminal.wait_for("a user name and a password are required");
    for _ in 0..2 {
        log_in(&mut terminal, "bob", "pw");
    }
    let ended = terminal.finish();
    assert_eq!(ended.status, 3, "{}", ended.text);
    assert!(
        ended.text.contains("error: localhost:0 refused the credentials entered (2 attempts)"),
        "{}",
        ended.text
    );
    assert_eq!(engine.pushes().len(), 1);
}

#[test]
fn closes_the_refused_push_while_prompting() {
    let hanging = refused().ending(End::Hang);
    let engine = FakeEngine::start()
        .serving_pushed()
        .on(PUSH, hanging)
        .on(AUTH, Reply::json(200, LOGIN_GOOD))
        .on(PUSH, accepted());
    let mut terminal = at_terminal(&TestEnv::new(), &engine, &[]);
    terminal.wait_for("Username");
    engine.wait_until_connection_is_over();
    terminal.type_in("alice\r");
    terminal.wait_for("Password: ");
    terminal.type_in("pw\r");
    let ended = terminal.finish();
    assert_eq!(ended.status, 0, "{}", ended.text);
}

#[test]
fn reconnects_if_the_engine_closes_the_connection() {
    for _ in 0..10 {
        let engine = FakeEngine::start()
            .serving_pushed()
            .on(PUSH, refused().ending(End::Rude))
            .on(AUTH, Reply::json(200, LOGIN_GOOD).ending(End::Rude))
            .on(PUSH, accepted());
        let mut terminal = at_terminal(&TestEnv::new(), &engine, &[]);
        engine.wait_until_connection_is_over();
        log_in(&mut terminal, "alice", "pw");
        let ended = terminal.finish();
        assert_eq!(ended.status, 0, "{}", ended.text);
    }
}

#[test]
fn never_repeats_a_login_request() {
    let engine = FakeEngine::start().on(PUSH, refused()).on(AUTH, Reply::json(200, "").ending(End::Nothing));
    let mut terminal = at_terminal(&TestEnv::new(), &engine, &[]);
    log_in(&mut terminal, "alice", "pw");
    let ended = terminal.finish();
    assert_eq!(ended.status, 4, "{}", ended.text);
    assert!(ended.text.contains("lost the connection to the engine"), "{}", ended.text);
    assert_eq!(engine.requests().len(), 2, "one push and one login request");
}

#[test]
fn prompts_after_http_401_and_403() {
    for (status, body) in [(401, r#"{"message":"unauthorized"}"#), (403, r#"{"message":""}"#), (401, "")] {
        let engine = FakeEngine::start()
            .serving_pushed()
            .on(PUSH, Reply::json(status, body))
            .on(AUTH, Reply::json(200, LOGIN_GOOD))
            .on(PUSH, accepted());
        let mut terminal = at_terminal(&TestEnv::new(), &engine, &["-q"]);
        log_in(&mut terminal, "alice", "pw");
        let ended = terminal.finish();
        assert_eq!(ended.status, 0, "{status}: {}", ended.text);
    }
}

#[test]
fn does_not_prompt_again_after_denied() {
    let denied = || Reply::stream([refusal("denied: requested access to the resource is denied")]);
    let engine =
        FakeEngine::start().on(PUSH, denied()).on(AUTH, Reply::json(200, LOGIN_GOOD)).on(PUSH, denied());
    let mut terminal = at_terminal(&TestEnv::new(), &engine, &[]);
    log_in(&mut terminal, "alice", "pw");
    let ended = terminal.finish();
    assert_eq!(ended.status, 3, "{}", ended.text);
    assert!(ended.text.contains("denies access for user `alice` from the prompt"), "{}", ended.text);
    assert!(ended.text.contains("use an account that can write to it"), "{}", ended.text);
}

#[test]
fn does_not_prompt_with_no_prompt_or_anonymous() {
    for options in [&["--no-prompt"][..], &["--anonymous"]] {
        let engine = FakeEngine::start().on(PUSH, refused());
        let ended = at_terminal(&TestEnv::new(), &engine, options).finish();
        assert_eq!(ended.status, 3, "{options:?}: {}", ended.text);
        assert!(!ended.text.contains("Username"), "{options:?}: {}", ended.text);
    }
}

#[test]
fn does_not_prompt_without_a_terminal() {
    let engine = FakeEngine::start().on(PUSH, refused());
    let run = run(TestEnv::new().command(&engine).args(["regpush", IMAGE]));
    assert_eq!(run.status, 3, "{run}");
    assert!(!run.stderr.contains("Username"), "{run}");
}

#[test]
fn every_way_out_of_the_prompt_restores_the_terminal() {
    enum Way {
        Keys(&'static str),
        Signal(Signal),
    }
    let ways = [
        (Way::Keys("\x03"), 130),
        (Way::Keys("\x04"), 3),
        (Way::Signal(Signal::SIGINT), 130),
        (Way::Signal(Signal::SIGTERM), 143),
        (Way::Signal(Signal::SIGHUP), 129),
    ];
    for (way, status) in ways {
        for question in ["Username: ", "Password: "] {
            let engine = FakeEngine::start().on(PUSH, refused());
            let mut terminal = at_terminal(&TestEnv::new(), &engine, &[]);
            terminal.wait_for("Username: ");
            if question == "Password: " {
                terminal.type_in("alice\r");
                terminal.wait_for("Password: ");
            }
            match way {
                Way::Keys(keys) => terminal.type_in(keys),
                Way::Signal(signal) => kill(Pid::from_raw(terminal.process()), signal).unwrap(),
            }
            let ended = terminal.finish();
            assert_eq!(ended.status, status, "{question}: {}", ended.text);
            assert!(ended.restored, "{question}: {status}");
            assert!(ended.text.ends_with("\r\n"), "{question}: {:?}", ended.text);
        }
    }
}

#[test]
fn signals_in_mid_push_close_the_connection() {
    let pushing = r#"{"status":"Pushing","progressDetail":{"current":5,"total":10},"id":"aa"}"#;
    for (signal, status) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let engine = FakeEngine::start().on_every_push(Reply::stream([pushing]).ending(End::Hang));
        let terminal = at_terminal(&TestEnv::new(), &engine, &[]);
        terminal.wait_for("  aa  [");
        kill(Pid::from_raw(terminal.process()), signal).unwrap();
        let ended = terminal.finish();
        assert_eq!(ended.status, status, "{}", ended.text);
        assert!(ended.restored);
        engine.wait_until_connection_is_over();
    }
}

/// Starts a push that blocks because its stderr is a full pipe. Returns the process and the read end of the pipe.
fn hanging_push(engine: &FakeEngine) -> (std::process::Child, Pid, std::io::PipeReader) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut command = TestEnv::new().command(engine);
    let child = command.args(["regpush", IMAGE]).stderr(writer).spawn().expect("the executable runs");
    let process = Pid::from_raw(child.id().try_into().expect("a process number"));
    // The pipe is full (64 KiB) when its content stops growing.
    let started = Instant::now();
    let mut held = 0;
    loop {
        std::thread::sleep(Duration::from_millis(50));
        let now = rustix::io::ioctl_fionread(&reader).expect("a pipe");
        if now == held && now > 60_000 {
            break;
        }
        held = now;
        assert!(started.elapsed() < PATIENCE, "it does not fill its pipe");
    }
    (child, process, reader)
}

/// Starts an engine whose response to a push is longer than the 64 KiB that a pipe holds.
fn chatty_engine() -> FakeEngine {
    let line = |n| format!(r#"{{"status":"a note, and another, and another: {n}"}}"#);
    FakeEngine::start().on_every_push(Reply::stream((0..20_000).map(line)).ending(End::Hang))
}

#[test]
fn sigint_stops_a_push_blocked_on_stderr() {
    let engine = chatty_engine();
    let (mut child, process, _reader) = hanging_push(&engine);
    kill(process, Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn ignores_sighup_under_nohup_and_obeys_sigint() {
    let pushing = r#"{"status":"Pushing","id":"aa"}"#;
    let engine = FakeEngine::start().on_every_push(Reply::stream([pushing]).ending(End::Hang));
    let env = TestEnv::new();
    let program = env.command(&engine).get_program().to_owned();
    let mut command = std::process::Command::new("sh");
    command.env_clear().envs(env.variables()).env("DOCKER_HOST", &engine.host);
    // Starts the plugin with SIGHUP and SIGINT ignored, as `nohup` or a background job of a script would.
    command.args(["-c", r#"trap '' HUP INT; exec "$0" regpush "$1""#]).arg(program).arg(IMAGE);
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    assert_eq!(stderr.next().unwrap().unwrap(), format!("pushing {IMAGE}"));
    engine.wait_for_pushes(1);
    let process = Pid::from_raw(child.id().try_into().unwrap());
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
    assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & 1, 1, "{status}");
    kill(process, Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn closed_control_socket_stops_the_push() {
    let engine = FakeEngine::start().on_every_push(Reply::stream(["{}"]).ending(End::Hang));
    let env = TestEnv::new();
    let socket = env.path("control.sock");
    let docker = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = env.command(&engine);
    command.args(["regpush", IMAGE]).env("DOCKER_CLI_PLUGIN_SOCKET", &socket);
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let (control, _) = docker.accept().unwrap();
    engine.wait_for_pushes(1);
    drop(control);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    engine.wait_until_connection_is_over();
}

/// docker before version 25 has no control socket. The plugin notices that docker has exited because the plugin's
/// parent process changes.
#[test]
fn killing_docker_stops_the_push() {
    let engine = FakeEngine::start().on_every_push(Reply::stream(["{}"]).ending(End::Hang));
    let env = TestEnv::new();
    let program = env.command(&engine).get_program().to_owned();
    let mut docker = std::process::Command::new("sh");
    docker.env_clear().envs(env.variables()).env("DOCKER_HOST", &engine.host);
    docker.env("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND", "docker");
    docker.args(["-c", r#""$0" regpush "$1"; exit"#]).arg(program).arg(IMAGE);
    let mut docker = docker.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    engine.wait_for_pushes(1);
    docker.kill().unwrap();
    docker.wait().unwrap();
    engine.wait_until_connection_is_over();
}

#[test]
fn third_signal_exits_at_once() {
    let time_to_exit = || {
        let engine = chatty_engine();
        let (mut child, process, _reader) = hanging_push(&engine);
        let stopped = Instant::now();
        while child.try_wait().unwrap().is_none() {
            let _ = kill(process, Signal::SIGINT);
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(child.wait().unwrap().code(), Some(130));
        stopped.elapsed()
    };
    // After one signal the blocked plugin would exit only after 3 s, so the test sends further signals. A busy machine may
    // delay some of the runs.
    let mut times = std::iter::repeat_with(time_to_exit).take(10);
    assert!(times.any(|time| time < Duration::from_secs(2)), "no run was fast");
}
