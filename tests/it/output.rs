//! Tests of the output on stdout, on stderr and on terminals, for each `--progress` mode.

use crate::support::engine::{DIGEST, FakeEngine, Reply, digest_line, no_such_image, refusal};
use crate::support::env::{TestEnv, run};

const IMAGE: &str = "localhost:0/app:1";

fn lines() -> Vec<String> {
    let mut lines = vec![r#"{"status":"The push refers to repository [localhost:0/app]"}"#.to_owned()];
    for id in ["aa", "bb"] {
        lines.push(format!(r#"{{"status":"Preparing","progressDetail":{{}},"id":"{id}"}}"#));
    }
    for current in [1000, 500_000, 1_000_000] {
        let detail = format!(r#"{{"current":{current},"total":1000000}}"#);
        lines.push(format!(r#"{{"status":"Pushing","progressDetail":{detail},"id":"aa"}}"#));
    }
    lines.push(r#"{"status":"Pushed","progressDetail":{},"id":"aa"}"#.to_owned());
    lines.push(r#"{"status":"Layer already exists","progressDetail":{},"id":"bb"}"#.to_owned());
    lines.push(digest_line("1"));
    lines.push(format!(r#"{{"progressDetail":{{}},"aux":{{"Tag":"1","Digest":"{DIGEST}","Size":528}}}}"#));
    lines
}

#[test]
fn json_result_has_every_field() {
    let engine = FakeEngine::start().serving_pushed().on_every_push(Reply::stream(lines()));
    let run = run(TestEnv::new().command(&engine).args(["regpush", "--format", "json", IMAGE]));
    let mut result = run.json();
    assert!(result["seconds"].as_f64().is_some_and(|seconds| seconds >= 0.0));
    result["seconds"] = 0.into();
    insta::assert_snapshot!(result.to_string(), @r#"{"attempts":1,"bytes":1000000,"credentials":{"source":"none","username":null},"destination":"localhost:0/app:1","digest":"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef","error":null,"layers":{"exists":1,"mounted":0,"pushed":1,"total":2},"name":"localhost:0/app","reference":"localhost:0/app:1","route":"engine","seconds":0,"size":528,"status":"pushed","tag":"1","verified":true,"warnings":[]}"#);
    assert!(run.stdout.ends_with("}\n") && run.stdout.lines().count() == 1, "{run}");
}

#[test]
fn json_failure_has_class_message_and_hint() {
    let engine = FakeEngine::start()
        .on_every_push(Reply::stream([refusal("denied: quota exceeded")]))
        .on("GET /v1.41/images/localhost:0/app:1/json", no_such_image());
    let run = run(TestEnv::new().command(&engine).args(["regpush", "--format", "json", IMAGE]));
    assert_eq!(run.status, 1, "{run}");
    let result = run.json();
    assert_eq!(result["status"], "failed");
    insta::assert_snapshot!(result["error"].to_string(), @r#"{"class":"rejected","hint":"delete images in localhost:0, or raise its quota","message":"cannot push localhost:0/app:1: denied: quota exceeded"}"#);
    assert!(result["digest"].is_null() && result["size"].is_null());
}

#[test]
fn invalid_reference_fails_in_json_too() {
    let run = run(TestEnv::new().without_engine().args(["regpush", "--format", "json", "APP:1"]));
    assert_eq!(run.status, 125, "{run}");
    let result = run.json();
    assert_eq!(
        (result["reference"].as_str(), result["error"]["class"].as_str()),
        (Some("APP:1"), Some("reference"))
    );
}

#[test]
fn prints_plain_lines_without_a_terminal() {
    let engine = FakeEngine::start().serving_pushed().on_every_push(Reply::stream(lines()));
    let run = run(TestEnv::new().command(&engine).args(["regpush", IMAGE]));
    let (shown, summary) = run.stderr.trim_end().rsplit_once('\n').unwrap();
    insta::assert_snapshot!(shown, @r"
    pushing localhost:0/app:1
    aa: Pushed
    1: digest: sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef size: 528
    ");
    assert!(
        summary.starts_with("pushed localhost:0/app:1: 1 of 2 layers sent, 1 already present, 1 MB in "),
        "{summary}"
    );
}

/// Replays recorded pushes of an image with seven layers, one from docker's classic store and one from the containerd
/// store.
#[test]
fn summarizes_recorded_streams_in_a_few_lines() {
    let table = [
        ("docker-20.10-classic-seven-layers", "localhost:0/rec20", 16_844_800),
        ("docker-28.5-containerd-seven-layers", "localhost:0/rec28", 16_844_800),
    ];
    for (name, repository, bytes) in table {
        let path = format!("{}/tests/recordings/{name}.ndjson", env!("CARGO_MANIFEST_DIR"));
        let stream = std::fs::read_to_string(path).unwrap();
        let engine = FakeEngine::start().serving_pushed().on_every_push(Reply::stream(stream.lines()));
        let image = format!("{repository}:1");
        let run = run(TestEnv::new().command(&engine).args(["regpush", "--format", "json", &image]));
        assert_eq!(run.status, 0, "{run}");
        let result = run.json();
        assert_eq!(
            result["layers"],
            serde_json::json!({"total": 7, "pushed": 7, "exists": 0, "mounted": 0}),
            "{name}"
        );
        assert_eq!(result["bytes"], bytes, "{name}");
        let digest = result["digest"].as_str().unwrap();
        assert!(stream.contains(&format!("1: digest: {digest} size: {}", result["size"])), "{name}: {run}");
        // Stderr has one line for the image, seven lines for the layers, one line for the digest and one line for the
        // summary.
        assert!(run.stderr.lines().count() <= 1 + 7 + 2, "{name}: {run}");
        assert_eq!(run.stderr.matches(": Pushed").count(), 7, "{name}: {run}");
    }
}

#[test]
fn strips_control_characters_sent_by_the_engine() {
    let escapes = "\u{1b}]0;title\u{7}\u{1b}[2J\u{9b}31m\u{202e}\r\n\u{8}";
    let mut lines = vec![
        serde_json::json!({"status": format!("note {escapes}")}).to_string(),
        serde_json::json!({"status": format!("state {escapes}"), "id": format!("aa{escapes}")}).to_string(),
        serde_json::json!({"status": format!("Mounted from {escapes}x"), "id": "bb"}).to_string(),
    ];
    lines.push(refusal(&format!("denied: {escapes}really")));
    let engine = FakeEngine::start().on_every_push(Reply::stream(&lines));
    for progress in ["tty", "plain", "none"] {
        let run = run(TestEnv::new().command(&engine).args([
            "regpush",
            "--format",
            "json",
            "--progress",
            progress,
            IMAGE,
        ]));
        let odd = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        // The escape sequences that `--progress tty` itself prints.
        let own = [
            "\u{1b}[?2026h",
            "\u{1b}[?2026l",
            "\u{1b}[J",
            "\u{1b}[K",
            "\u{1b}[1A",
            "\u{1b}[1B",
            "\u{1b}[2A",
            "\u{1b}[3A",
            "\r\n",
        ];
        let shown = own.iter().fold(run.stderr.clone(), |text, own| text.replace(own, "\n"));
        assert!(!shown.contains(odd) && !run.stdout.contains(odd), "{run}");
        assert!(
            run.stderr.contains("denied: ]0;title [2J") || run.stderr.contains("denied: ]0;title[2J31m"),
            "{run}"
        );
    }
}

#[test]
fn draws_progress_on_a_terminal_and_clears_it_at_the_end() {
    // The fake engine sends without pauses, so only a long stream lasts for several frames of the progress display.
    let mut stream = lines();
    let last = stream.split_off(6);
    for step in 0..60_000 {
        let detail = format!(r#"{{"current":{},"total":1000000}}"#, step * 16);
        stream.push(format!(r#"{{"status":"Pushing","progressDetail":{detail},"id":"aa"}}"#));
    }
    stream.extend(last);
    let engine = FakeEngine::start().serving_pushed().on_every_push(Reply::stream(stream));
    let ended = TestEnv::new().at_terminal(&engine, "xterm", &["regpush", IMAGE]).finish();
    assert_eq!(ended.status, 0, "{}", ended.text);
    assert!(ended.text.contains("\x1b[?2026h"), "frames were drawn: {:?}", ended.text);
    let mut screen = vt100::Parser::new(30.try_into().unwrap(), 100.try_into().unwrap(), 100);
    screen.process(ended.text.as_bytes());
    let contents = screen.screen().contents();
    let rows: Vec<&str> = contents.lines().collect();
    assert!(
        rows[0].starts_with("pushed localhost:0/app:1: 1 of 2 layers sent, 1 already present, 1 MB in "),
        "{rows:?}"
    );
    assert!(rows[1].starts_with("localhost:0/app@sha256:"), "{rows:?}");
    assert!(ended.restored);
}

#[test]
fn prints_plain_lines_on_a_dumb_terminal() {
    let engine = FakeEngine::start().serving_pushed().on_every_push(Reply::stream(lines()));
    let ended = TestEnv::new().at_terminal(&engine, "dumb", &["regpush", IMAGE]).finish();
    assert!(!ended.text.contains('\x1b') && ended.text.contains("aa: Pushed"), "{:?}", ended.text);
}

#[test]
fn colours_messages_on_a_terminal_unless_they_are_turned_off() {
    let stream = || vec![digest_line("1")];
    let engine = || FakeEngine::start().serving_pushed().on_every_push(Reply::stream(stream()));
    let env = TestEnv::new();
    let pushed = |variables: &[(&str, &str)]| {
        let engine = engine();
        env.at_terminal_with(&engine, variables, &["regpush", "--progress", "plain", IMAGE]).finish().text
    };
    let coloured = pushed(&[("TERM", "xterm")]);
    for part in [
        format!("\x1b[2m1: digest: {DIGEST} size: 528\x1b[0m"),
        "\x1b[32mpushed localhost:0/app:1 in ".to_owned(),
        "s, verified\x1b[0m".to_owned(),
        format!("localhost:0/app\x1b[2m@{DIGEST}\x1b[0m"),
    ] {
        assert!(coloured.contains(&part), "no {part:?}: {coloured:?}");
    }
    for off in [("NO_COLOR", "1"), ("CLICOLOR", "0"), ("TERM", "dumb")] {
        let text = pushed(&[("TERM", "xterm"), off]);
        assert!(!text.contains('\x1b') && text.contains("pushed localhost:0/app:1"), "{off:?}: {text:?}");
    }
    let refused = FakeEngine::start().on_every_push(Reply::stream([refusal("toomanyrequests: slow down")]));
    let text = env.at_terminal(&refused, "xterm", &["regpush", "-q", "--retries", "0", IMAGE]).finish().text;
    let error = "\x1b[31merror: cannot push localhost:0/app:1: toomanyrequests: slow down\x1b[0m\r\nhint: ";
    assert!(text.contains(error), "{text:?}");
    let warned =
        env.with_config("{").at_terminal(&engine(), "xterm", &["regpush", "-q", IMAGE]).finish().text;
    assert!(warned.contains("\x1b[33mwarning: "), "{warned:?}");
}
