//! Tests with hostile engines: for each response, the plugin uses limited memory and reports a clear error.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::engine::{End, FakeEngine, Reply, digest_line};
use crate::support::env::{Run, TestEnv, run};

const IMAGE: &str = "localhost:0/app:1";
/// The memory in kB that a push may use in addition to the memory of an idle push.
const ALLOWED: u64 = 32 << 10;

/// Returns the data size in kB (proc(5), `VmData`) of a push that waits for the engine.
fn idle() -> u64 {
    let engine = FakeEngine::start().on_every_push(Reply::stream(["{}"]).ending(End::Hang));
    let mut command = TestEnv::new().command(&engine);
    let mut child = command.args(["regpush", "-q", IMAGE]).stdout(Stdio::null()).spawn().expect("it runs");
    engine.wait_for_pushes(1);
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).expect("it still runs");
    child.kill().and_then(|()| child.wait()).expect("it still runs");
    let data = status.lines().find_map(|line| line.strip_prefix("VmData:")).expect("Linux reports it");
    data.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Runs a push under a memory limit; the plugin aborts if it exceeds the limit. On a slow machine, a million objects without
/// progress may take long, so the push cannot stall.
fn push(engine: &FakeEngine) -> Run {
    let env = TestEnv::new();
    let ours = env.command(engine);
    let mut shell = Command::new("sh");
    shell.env_clear().stdin(Stdio::null());
    shell.envs(ours.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let limit = format!("ulimit -d {} && exec \"$@\"", idle() + ALLOWED);
    shell.args(["-c", &limit, "sh"]).arg(ours.get_program());
    shell.args(["regpush", "-q", "--retries", "0", "--stall-timeout", "0", "--format", "json", IMAGE]);
    run(&mut shell)
}

/// Runs a push under a memory limit, with an engine that answers the push with `reply` and expects no other request.
fn push_answered(reply: Reply) -> Run {
    push(&FakeEngine::start().on_next_push(reply))
}

fn pieces(first: &str, again: &str, times: usize) -> Reply {
    let pieces = vec![first.as_bytes().to_vec(), again.as_bytes().to_vec()];
    Reply { pieces, ..Reply::json(200, "") }.times(times)
}

#[test]
fn memory_limit_aborts_a_program_over_it() {
    for (bytes, is_too_much) in [(1, false), (40 << 20, true)] {
        let limit = idle() + ALLOWED;
        let script = format!("ulimit -d {limit} && x=$(head -c {bytes} /dev/zero | tr '\\0' x) && : $x");
        let ended = Command::new("sh").args(["-c", &script]).output().expect("sh is everywhere");
        assert_eq!(!ended.status.success(), is_too_much, "{bytes}");
    }
}

#[test]
fn gives_up_objects_larger_than_4_mb() {
    let megabyte = "x".repeat(1 << 20);
    for (name, reply) in [
        ("100 MB", pieces(r#"{"status":""#, &megabyte, 100)),
        ("endless", pieces(r#"{"status":""#, &megabyte, usize::MAX)),
        ("nested", pieces(r#"{"aux":["#, &"[],".repeat(300_000), usize::MAX)),
        ("keys", pieces("{", &r#""a":1,"#.repeat(100_000), usize::MAX)),
    ] {
        let given_up = push_answered(reply);
        assert_eq!(given_up.status, 4, "{name}: {given_up}");
        let message = given_up.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.ends_with("the engine sent an object of more than 4 MB"), "{name}: {message}");
    }
}

#[test]
fn accepts_objects_just_under_the_limit_in_bounded_memory() {
    let error = |text: &str| json!({"errorDetail": {"message": text}, "error": text}).to_string();
    for (name, line) in [
        ("error", error(&"<".repeat(1_900_000))),
        ("escapes", error(&"\u{1b}".repeat(300_000))),
        ("aux", format!(r#"{{"aux":[{}[]],"error":"x"}}"#, "[],".repeat(1_300_000))),
        ("status", json!({"status": "x".repeat(3_900_000), "error": "x"}).to_string()),
    ] {
        let refused = push_answered(Reply::stream([line]));
        assert_ne!(refused.status, 0, "{name}: {refused}");
        assert!(refused.stderr.len() < 4000, "{name}: {} bytes", refused.stderr.len());
        assert!(!refused.stderr.contains('\u{1b}'), "{name}: {refused}");
    }
}

#[test]
fn pushes_with_a_million_objects_and_ten_thousand_layers() {
    let name = |number: usize| format!("{number:012x}{}", "😀".repeat(500));
    let layers = (0..20_000).map(|number| {
        json!({"status": "😀".repeat(900), "id": name(number), "progressDetail": {"current": -5, "total": 1e300}})
            .to_string()
    });
    let wild =
        ["-5", "9223372036854775808", "1e300", "-1e300", "18446744073709551616", "null"].map(|number| {
            format!(
                r#"{{"status":"Pushing","id":"a","progressDetail":{{"current":{number},"total":{number}}}}}"#
            )
        });
    for (what, lines) in [
        ("objects", vec!["{}\n".repeat(10_000); 100]),
        ("layers", layers.collect()),
        ("numbers", wild.to_vec()),
        (
            "digests",
            (0..50)
                .map(|_| format!(r#"{{"status":"1: digest: sha256:{} size: 5"}}"#, "0".repeat(3_000_000)))
                .collect(),
        ),
    ] {
        let reply = Reply::stream(lines.into_iter().chain([digest_line("1")]));
        let pushed = push(&FakeEngine::start().serving_pushed().on_next_push(reply));
        assert_eq!(pushed.status, 0, "{what}: {}", pushed.stderr);
        let layers = pushed.json()["layers"]["total"].as_u64().unwrap();
        assert_eq!(
            layers,
            match what {
                "objects" | "digests" => 0,
                "layers" => 10_000,
                _ => 1,
            },
            "{what}"
        );
    }
}
