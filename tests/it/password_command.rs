//! Tests of `--password-command`. The commands are shell scripts. A second fake engine plays the registry.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::credentials::{HANGS, wait_until_ended, wait_until_started};
use crate::remarks::token;
use crate::support::engine::{FakeEngine, Reply, Request, digest_line, no_such_image, refusal};
use crate::support::env::{Run, TestEnv, run};

const IMAGE: &str = "localhost:0/app:1";
/// Prints `first`, then `second`, and so on.
const COUNTS: &str = r#"
    echo x >>"$HOME/calls"
    case $(tr -d '\n' <"$HOME/calls") in x) echo first ;; xx) echo second ;; *) echo third ;; esac"#;

fn engine() -> FakeEngine {
    FakeEngine::start().serving_pushed().allow("GET /v1.41/info", Reply::json(200, "{}"))
}

fn pushed() -> Reply {
    Reply::stream([digest_line("1")])
}

fn refused() -> Reply {
    Reply::stream([refusal("unauthorized: authentication required")])
}

fn push(env: &TestEnv, engine: &FakeEngine, command: &str, options: &[&str]) -> Run {
    let mut plugin = env.command(engine);
    plugin.args(["regpush", "--format", "json", "-u", "ci", "--password-command", command]);
    run(plugin.args(options).arg(IMAGE))
}

/// Returns the password of each push that the engine received.
fn passwords(engine: &FakeEngine) -> Vec<String> {
    let password =
        |request: &Request| request.registry_auth()["password"].as_str().unwrap_or_default().to_owned();
    engine.pushes().iter().map(password).collect()
}

/// Returns how often the script [`COUNTS`] ran.
fn calls(env: &TestEnv) -> usize {
    fs::read_to_string(env.path("home/calls")).map_or(0, |calls| calls.lines().count())
}

#[test]
fn output_without_one_line_end_is_the_password() {
    let table = [
        ("echo hunter2", "hunter2"),
        ("printf 'hunter2\\r\\n'", "hunter2"),
        ("printf ' two words \\n\\n'", " two words \n"),
        ("printf hunter2; exit 0", "hunter2"),
        ("x=hunter2 && cat <<END\n$x\nEND", "hunter2"),
        // The shell's child keeps stdout open.
        ("echo hunter2; sleep 3 & exit 0", "hunter2"),
    ];
    for (command, password) in table {
        let engine = engine().on_every_push(pushed());
        let run = push(&TestEnv::new(), &engine, command, &[]);
        assert_eq!((run.status, run.stderr.contains("warning")), (0, false), "{command}: {run}");
        assert_eq!(passwords(&engine), [password], "{command}");
        assert_eq!(run.json()["credentials"], json!({"source": "command", "username": "ci"}));
        assert!(!run.to_string().contains("hunter2"), "{run}");
    }
}

#[test]
fn command_without_a_password_fails_the_push() {
    let table = [
        ("exit 3", "exit status: 3"),
        ("echo first >&2; echo 'no profile found' >&2; exit 1", "exit status: 1: no profile found"),
        ("echo 'token: hunter2secret' >&2; exit 1", "exit status: 1: token: ***"),
        ("true", "it printed nothing"),
        ("echo", "it printed nothing"),
        ("kill -9 $$", "signal: 9 (SIGKILL)"),
        ("printf '\\377\\376h'", "its output is not UTF-8 text"),
        ("head -c 100000 /dev/zero | tr '\\0' x", "its output is longer than 64 kB"),
        ("head -c 100000000 /dev/zero", "its output is longer than 1024 kB"),
        ("no-such-program-anywhere", "exit status: 127"),
    ];
    for (command, reason) in table {
        let engine = engine();
        let run = push(&TestEnv::new(), &engine, command, &[]);
        assert_eq!((run.status, &run.json()["error"]["class"]), (3, &json!("auth")), "{command}: {run}");
        let error = format!("error: the command of --password-command failed: {reason}");
        assert!(run.stderr.contains(&error), "{command}: {run}");
        let hint = "hint: run the command in a shell: it must print the password, and exit with 0";
        assert!(run.stderr.contains(hint), "{run}");
        assert!(!run.to_string().contains("hunter2secret"), "{run}");
        assert!(engine.pushes().is_empty(), "{command}");
    }
}

#[test]
fn user_sees_what_the_command_writes_to_stderr() {
    let engine = engine().on_every_push(pushed());
    let run = push(&TestEnv::new(), &engine, "printf 'opening \\033[31mvault' >&2; echo hunter2", &[]);
    assert!(run.status == 0 && run.stderr.contains("opening [31mvault\n"), "{run}");
}

#[test]
fn command_runs_once_for_all_images_and_again_after_a_refusal() {
    let env = TestEnv::new().with_program("token", COUNTS);
    let engine = engine().on_every_push(pushed());
    let run = push(&env, &engine, "token", &["localhost:0/x:1", "localhost:0/web:1"]);
    assert_eq!((run.status, calls(&env)), (0, 1), "{run}");
    assert_eq!(passwords(&engine), ["first", "first", "first"]);

    let env = TestEnv::new().with_program("token", COUNTS);
    let engine = self::engine().on_next_push(refused()).on_every_push_else(pushed());
    let run = push(&env, &engine, "token", &[]);
    assert_eq!((run.status, calls(&env)), (0, 2), "{run}");
    assert_eq!(passwords(&engine), ["first", "second"]);
    let note = "--password-command printed another password; pushing with it";
    assert!(run.stderr.contains(note), "{run}");
}

#[test]
fn refused_passwords_are_not_sent_again() {
    let env = TestEnv::new();
    let engine = engine().on_next_push(refused());
    let run = push(&env, &engine, "echo x >>\"$HOME/calls\"; echo same", &[]);
    assert_eq!((run.status, calls(&env)), (3, 2), "{run}");
    assert_eq!(passwords(&engine), ["same"], "the same password is sent once");
    let hint = "hint: check --username and what the command of --password-command prints";
    assert!(run.stderr.contains(hint), "{run}");

    // A command that always prints another password does not run without end.
    let env = TestEnv::new().with_program("token", COUNTS);
    let engine = self::engine().on_next_push(refused()).on_next_push(refused());
    let run = push(&env, &engine, "token", &[]);
    assert_eq!((run.status, calls(&env)), (3, 2), "{run}");

    // If the second run fails, the user sees the refusal and the failure.
    let env = TestEnv::new();
    let engine = self::engine().on_next_push(refused());
    let command = r#"test -e "$HOME/ran" && exit 4; echo >"$HOME/ran"; echo hunter2"#;
    let run = push(&env, &engine, command, &[]);
    assert_eq!(run.status, 3, "{run}");
    assert!(
        run.stderr.contains("warning: the command of --password-command failed: exit status: 4"),
        "{run}"
    );
    assert!(run.stderr.contains("unauthorized: authentication required"), "{run}");
}

#[test]
fn refusals_that_are_not_about_the_password_do_not_run_the_command_again() {
    let env = TestEnv::new().with_program("token", COUNTS);
    let denied = Reply::stream([refusal("denied: requested access to the resource is denied")]);
    let engine = engine().on_next_push(denied);
    let run = push(&env, &engine, "token", &[]);
    assert_eq!(calls(&env), 1, "{run}");
    assert_ne!(run.status, 0);
}

#[test]
fn command_runs_again_before_a_later_attempt_with_an_expired_token() {
    let (short, long) = (token(6), token(3600));
    let env = TestEnv::new();
    let command = format!(
        r#"echo x >>"$HOME/calls"; if test -e "$HOME/ran"; then echo {long}; else echo >"$HOME/ran"; echo {short}; fi"#
    );
    // The first attempt ends after the token has expired.
    let unavailable = refusal("received unexpected HTTP status: 503 Service Unavailable");
    let slow = Reply::stream([r#"{"status":"Preparing","id":"a"}"#.to_owned(), unavailable])
        .slowly(Duration::from_secs(7));
    let engine = engine().on_next_push(slow).on_every_push_else(pushed());
    let run = push(&env, &engine, &command, &[]);
    assert_eq!((run.status, calls(&env)), (0, 2), "{run}");
    assert_eq!(passwords(&engine), [short, long]);
}

#[test]
fn other_commands_take_the_option_too() {
    let accepted = r#"{"IdentityToken":"","Status":"Login Succeeded"}"#;
    let asks = || {
        Reply::json(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#)
            .header("WWW-Authenticate", "Basic realm=\"x\"")
    };
    let given = ["-u", "ci", "--password-command", "echo hunter2"];
    let engine = FakeEngine::with_info().on("POST /v1.41/auth", Reply::json(200, accepted));
    let env = TestEnv::new();
    let registry = FakeEngine::at_tcp().on("GET /v2/", asks());
    let host = registry.host.trim_start_matches("tcp://").to_owned();
    let auth = run(env.command(&engine).args(["regpush", "auth"]).args(given).arg(&host));
    assert!(auth.status == 0 && auth.stdout.contains("command   ci "), "{auth}");
    let sent = engine.request("POST /v1.41/auth").expect("the engine checks the password");
    assert!(String::from_utf8_lossy(&sent.body).contains(r#""password":"hunter2""#));

    let engine = FakeEngine::with_info().on("POST /v1.41/auth", Reply::json(200, accepted));
    let registry = FakeEngine::at_tcp().on("GET /v2/", asks());
    let host = registry.host.trim_start_matches("tcp://").to_owned();
    let login = run(env.command(&engine).args(["regpush", "auth", "--login"]).args(given).arg(&host));
    assert_eq!(login.status, 0, "{login}");
    assert!(fs::read_to_string(env.config_file()).unwrap().contains("Y2k6aHVudGVyMg=="), "{login}");

    for words in [["auth", "localhost:1"], ["ls", "localhost:1"]] {
        let mut command = env.without_engine();
        command.env("DOCKER_HOST", "tcp://127.0.0.1:1").arg("regpush").args(words).args([
            "-u",
            "ci",
            "--password-command",
            "exit 5",
        ]);
        let run = run(&mut command);
        assert_eq!(run.status, 3, "{run}");
        assert!(
            run.stderr.contains("error: the command of --password-command failed: exit status: 5"),
            "{run}"
        );
    }
}

#[test]
fn slow_command_is_named_and_ended_on_sigterm() {
    let env = TestEnv::new().with_program("hang", HANGS);
    let engine = FakeEngine::start();
    let mut command = env.command(&engine);
    command.args(["regpush", "-u", "ci", "--password-command", "hang", IMAGE]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    let lines: Vec<String> = stderr.by_ref().take(2).map(Result::unwrap).collect();
    assert_eq!(lines, [format!("pushing {IMAGE}"), "waiting for --password-command …".to_owned()]);
    wait_until_started(&env);
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    wait_until_ended(&env);
}

#[test]
fn command_that_hangs_without_a_terminal_is_ended_after_30_s() {
    let env = TestEnv::new().with_program("hang", HANGS);
    let started = Instant::now();
    let run = push(&env, &engine(), "hang", &[]);
    assert!(started.elapsed() > Duration::from_secs(29), "{:?}", started.elapsed());
    assert_eq!(run.status, 3, "{run}");
    assert!(run.stderr.contains("--password-command failed: it did not answer within 30s"), "{run}");
    wait_until_ended(&env);
}

#[test]
fn last_line_of_a_long_stderr_is_in_the_error() {
    let command = "head -c 20000 /dev/zero | tr '\\0' '\\n' >&2; yes trace | head -n 2000 >&2; echo 'no profile' >&2; exit 1";
    let run = push(&TestEnv::new(), &engine(), command, &[]);
    assert!(run.stderr.contains("failed: exit status: 1: no profile\n"), "{}", run.stderr.len());
}

#[test]
fn prompt_without_a_line_end_is_shown() {
    let env = TestEnv::new();
    let engine = engine().on_every_push(pushed());
    let command = "printf 'PIN: ' >&2; read -r pin; echo \"got-$pin\"";
    let words = ["regpush", "-u", "ci", "--password-command", command, IMAGE];
    let mut terminal = env.at_terminal(&engine, "xterm", &words);
    terminal.wait_for("PIN:");
    terminal.type_in("4711\n");
    assert_eq!(terminal.finish().status, 0);
    assert_eq!(passwords(&engine), ["got-4711"]);
}

#[test]
fn command_does_not_run_for_an_image_that_does_not_exist() {
    let env = TestEnv::new().with_program("token", COUNTS);
    let engine = FakeEngine::start()
        .on("GET /v1.41/images/docker.io/library/none:1/json", no_such_image())
        .allow("GET /v1.41/images/json", Reply::json(200, "[]"));
    let mut command = env.command(&engine);
    command.args(["regpush", "-u", "ci", "--password-command", "token", "none:1", "--to", "localhost:0/x:1"]);
    let run = run(&mut command);
    assert_eq!((run.status, calls(&env)), (5, 0), "{run}");
}

/// At a terminal, the command runs in the foreground, so that it can ask its user.
#[test]
fn command_asks_its_user_on_the_terminal() {
    let env = TestEnv::new();
    let engine = engine().on_every_push(pushed());
    let command = "printf 'PIN: ' >/dev/tty; read -r pin </dev/tty; echo \"got-$pin\"";
    let words = ["regpush", "-u", "ci", "--password-command", command, IMAGE];
    let mut terminal = env.at_terminal(&engine, "xterm", &words);
    terminal.wait_for("PIN: ");
    terminal.type_in("4711\n");
    let ended = terminal.finish();
    assert_eq!(ended.status, 0, "{}", ended.text);
    assert_eq!(passwords(&engine), ["got-4711"]);
}

#[test]
fn ctrl_c_ends_the_command_and_its_children() {
    let env = TestEnv::new().with_program("hang", &format!("trap '' HUP; {HANGS}"));
    let engine = FakeEngine::start();
    let words = ["regpush", "-u", "ci", "--password-command", "hang", IMAGE];
    let mut terminal = env.at_terminal(&engine, "xterm", &words);
    terminal.wait_for("waiting for --password-command …");
    wait_until_started(&env);
    terminal.type_in("\x03");
    let ended = terminal.finish();
    assert_eq!(ended.status, 130, "{}", ended.text);
    wait_until_ended(&env);
}

/// Regression: if Ctrl-C killed the command just after the command had started a process, the process kept running.
#[test]
fn child_processes_end_if_ctrl_c_kills_the_command_first() {
    let interrupted = format!("trap '' HUP; {}", HANGS.replace("; wait", "; kill -INT 0"));
    let env = TestEnv::new().with_program("interrupted", &interrupted);
    let words = ["regpush", "-u", "ci", "--password-command", "interrupted", IMAGE];
    let ended = env.at_terminal(&FakeEngine::start(), "xterm", &words).finish();
    assert_eq!(ended.status, 130, "{}", ended.text);
    wait_until_ended(&env);
}

#[test]
fn password_is_in_no_argv_environment_or_output() {
    let seen = r#"
        tr '\0' '\n' </proc/self/environ >"$HOME/seen"; tr '\0' '\n' </proc/$PPID/cmdline >>"$HOME/seen"
        echo x >>"$HOME/calls"; echo "hunter2secret$(tr -d '\n' <"$HOME/calls")""#;
    let env = TestEnv::new().with_program("token", seen);
    let quotes = |secret: &str| Reply::stream([refusal(&format!("unauthorized: bad {secret}"))]);
    let engine = engine().on_next_push(quotes("hunter2secretx")).on_next_push(quotes("hunter2secretxx"));
    let mut command = env.command(&engine);
    command.args(["-D", "regpush", "--format", "json", "-u", "ci", "--password-command", "token", IMAGE]);
    let run = run(command.env("REGPUSH_PASSWORD_COMMAND", "false"));
    assert_eq!(passwords(&engine), ["hunter2secretx", "hunter2secretxx"]);
    let child = fs::read_to_string(env.path("home/seen")).unwrap();
    assert!(!child.contains("hunter2secret") && child.contains("HOME="), "{child}");
    assert!(!run.to_string().contains("hunter2secret"), "{run}");
    assert!(run.stderr.contains("unauthorized: bad ***"), "{run}");
}

#[test]
fn option_needs_a_user_name_and_excludes_other_passwords() {
    let table: [(&[&str], &str); 5] = [
        (&["--password-command", "x"], "--username"),
        (&["-u", "ci", "--password-command", "x", "--password-stdin"], "cannot be used with"),
        (&["--anonymous", "--password-command", "x", "-u", "ci"], "cannot be used with"),
        (&["-u", "ci", "--password-command", ""], "a value is required"),
        (&["-u", "ci"], "|--password-command <command>"),
    ];
    for (options, words) in table {
        let run = run(TestEnv::new().without_engine().arg("regpush").args(options).arg("app"));
        assert!(run.status == 125 && run.stderr.contains(words), "{options:?}: {run}");
    }
    let mut command = TestEnv::new().without_engine();
    command.args(["regpush", "-u", "ci", "--password-command", "x", "localhost:0/a", "localhost:1/a"]);
    assert_eq!(run(&mut command).status, 125);
}
