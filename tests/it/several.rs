//! Tests of pushing several images or to several destinations: the requests, prompts, order of results, and leftover
//! tags.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::engine::{DIGEST, End, FakeEngine, Reply, digest_line, no_such_image, refusal};
use crate::support::env::{Run, TestEnv, run};
use crate::support::wait::wait_for;

const ID: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const OTHER: &str = "sha256:9999999999999999999999999999999999999999999999999999999999999999";
const LOGIN_GOOD: &str = r#"{"IdentityToken":"","Status":"Login Succeeded"}"#;

fn push(engine: &FakeEngine, arguments: &[&str]) -> Run {
    let env = TestEnv::new();
    run(env.command(engine).arg("regpush").args(arguments))
}

fn path(name: &str, tag: &str) -> String {
    format!("POST /v1.41/images/{name}/push?tag={tag}&tlsVerify=false")
}

fn pushed(tag: &str) -> Reply {
    Reply::stream([digest_line(tag)])
}

fn lines(run: &Run) -> Vec<&str> {
    run.stdout.lines().map(|line| line.split('@').next().unwrap_or_default()).collect()
}

#[test]
fn prints_results_in_argument_order() {
    let engine = FakeEngine::start()
        .without_images()
        .serving_pushed()
        .on(&path("localhost:0/slow", "1"), pushed("1").slowly(Duration::from_millis(250)).times(12))
        .on(&path("127.0.0.1:0/refused", "1"), Reply::stream([refusal("denied: quota exceeded")]))
        .on("GET /v1.41/images/127.0.0.1:0/refused:1/json", no_such_image())
        .on(&path("127.0.0.2:0/quick", "1"), pushed("1"));
    let run = push(&engine, &["localhost:0/slow:1", "127.0.0.1:0/refused:1", "127.0.0.2:0/quick:1"]);
    assert_eq!(run.status, 1, "{run}");
    assert_eq!(lines(&run), ["localhost:0/slow", "127.0.0.2:0/quick"], "{run}");
    let at = |text: &str| run.stderr.find(text).unwrap_or_else(|| panic!("no {text}: {run}"));
    assert!(
        at("pushed 127.0.0.2:0/quick:1") < at("pushed localhost:0/slow:1"),
        "each summary is printed at once: {run}"
    );
    assert!(
        run.stderr.ends_with("3 images: 2 pushed, 1 failed\n  failed: 127.0.0.1:0/refused:1 (rejected)\n"),
        "{run}"
    );
}

/// The failed image that comes first in argument order sets the exit status, not the image that fails first.
#[test]
fn first_failure_in_argument_order_sets_the_status() {
    let engine = FakeEngine::start()
        .without_images()
        .on(&path("localhost:0/a", "1"), {
            let late = Reply::stream(["{\"status\":\"x\"}".to_owned(), refusal("denied: quota exceeded")]);
            late.slowly(Duration::from_secs(2))
        })
        .on("GET /v1.41/images/localhost:0/a:1/json", no_such_image())
        .on(&path("127.0.0.1:0/b", "1"), Reply::stream([refusal("unauthorized: authentication required")]));
    let run = push(&engine, &["-q", "localhost:0/a:1", "127.0.0.1:0/b:1"]);
    assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{run}");
    assert!(run.stderr.starts_with("error: cannot push 127.0.0.1:0/b:1"), "{run}");
    assert!(run.stderr.contains("  failed: localhost:0/a:1 (rejected)\n"), "{run}");
}

#[test]
fn parallel_limits_concurrent_pushes() {
    let names = ["a", "b", "c", "d", "e"].map(|name| format!("localhost:0/{name}:1"));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for (parallel, most) in [("1", 1), ("2", 2), ("9", 5)] {
        // Each push is slow, so that more pushes would overlap if they were allowed to.
        let exists = json!({"status": "Layer already exists", "progressDetail": {}, "id": "a"}).to_string();
        let reply = Reply::stream([exists, digest_line("1")]).slowly(Duration::from_millis(600));
        let engine = FakeEngine::start().serving_pushed().on_every_push(reply.together(most));
        let run = push(&engine, &[&["--parallel", parallel], names.as_slice()].concat());
        assert_eq!((run.status, engine.most_at_once()), (0, most), "{run}");
        assert_eq!(lines(&run).len(), 5, "{run}");
    }
}

/// Engines upload a layer again for each push that starts before the registry has this layer.
#[test]
fn first_push_to_a_repository_runs_alone() {
    let exists = json!({"status": "Layer already exists", "progressDetail": {}, "id": "a"}).to_string();
    let app = |tag: &str| format!("localhost:0/app:{tag}");
    let push = |engine: &FakeEngine, names: &[String]| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        push(engine, &[&["--parallel", "9"], names.as_slice()].concat())
    };
    let slow =
        |tag: &str| Reply::stream([exists.clone(), digest_line(tag)]).slowly(Duration::from_millis(600));
    for (tags, most) in [(["1", "2"].as_slice(), 1), (&["1", "2", "3", "4"], 3)] {
        let plan = |engine: FakeEngine, tag: &&str| {
            let together = if *tag == "1" { 1 } else { most };
            engine.on(&path("localhost:0/app", tag), slow(tag).together(together))
        };
        let engine = tags.iter().fold(FakeEngine::start().serving_pushed(), plan);
        let run = push(&engine, &tags.iter().map(|tag| app(tag)).collect::<Vec<_>>());
        assert_eq!((run.status, engine.most_at_once()), (0, most), "{run}");
    }

    // If the first push to a repository fails, the second push also runs alone. Pushes to other repositories do not
    // wait.
    let refused = Reply::stream([refusal("manifest invalid: no")]);
    let failing = FakeEngine::start()
        .serving_pushed()
        .on(&path("localhost:0/app", "1"), refused)
        .on("GET /v1.41/images/localhost:0/app:1/json", no_such_image())
        .on(&path("localhost:0/app", "2"), slow("2"))
        .on(&path("localhost:0/app", "3"), pushed("3"));
    let run = push(&failing, &["1", "2", "3"].map(app));
    assert_eq!((run.status, failing.most_at_once()), (1, 1), "{run}");
    assert!(run.stderr.contains("3 images: 2 pushed, 1 failed"), "{run}");
    let mixed = FakeEngine::start().serving_pushed().on_every_push(slow("1").together(2));
    let run = push(&mixed, &[app("1"), "localhost:0/other:1".to_owned()]);
    assert_eq!((run.status, mixed.most_at_once()), (0, 2), "{run}");
}

/// A credential helper and an engine may both be slow, so the plugin calls the helper and the engine concurrently.
#[test]
fn looks_up_credentials_while_connecting_to_the_engine() {
    let script = r#"read registry; echo "$registry" >>"$HOME/asked"; echo '{"Username":"u","Secret":"s"}'"#;
    let env = TestEnv::new().with_config(r#"{"credsStore":"x"}"#).with_helper("x", script);
    let directory = tempfile::tempdir().unwrap();
    // The engine's socket accepts connections, but no process answers.
    let socket = directory.path().join("docker.sock");
    let _silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mut command = env.without_engine();
    command.env("DOCKER_HOST", format!("unix://{}", socket.display()));
    command.args(["regpush", "localhost:0/app:1", "localhost:0/app:2"]).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let asked = || fs::read_to_string(env.path("home").join("asked")).unwrap_or_default();
    wait_for("the helper is called", || (asked() == "localhost:0\n").then_some(()));
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

/// With `DOCKER_API_VERSION` the plugin sends no ping, so a push may need the credentials before the plugin's early
/// lookup of the credentials has finished.
#[test]
fn prefetch_and_pushes_share_one_helper_call() {
    let script =
        r#"read registry; echo "$registry" >>"$HOME/asked"; sleep 0.3; echo '{"Username":"u","Secret":"s"}'"#;
    for version in ["1.41", ""] {
        let env = TestEnv::new().with_config(r#"{"credsStore":"x"}"#).with_helper("x", script);
        let engine = FakeEngine::with_info().without_images().serving_pushed().on_every_push(pushed("1"));
        let mut command = env.command(&engine);
        command.args(["regpush", "-q", "localhost:0/a:1", "localhost:0/b:1", "127.0.0.1:0/c:1"]);
        let run = run(command.env("DOCKER_API_VERSION", version));
        assert_eq!(run.status, 0, "{run}");
        let asked = fs::read_to_string(env.path("home").join("asked")).unwrap();
        assert_eq!(asked.lines().count(), 2, "{version}: {asked}");
    }
}

/// The engine's settings for registries do not depend on the image, so one request is enough.
#[test]
fn requests_the_engines_settings_once() {
    let engine = FakeEngine::start()
        .without_images()
        .serving_pushed()
        .on_every_push(pushed("1"))
        .on("GET /v1.41/info", Reply::json(200, "{}"));
    // The plugin does not treat `0.0.0.0` and `[::]` as this machine. No registry listens on port 0.
    let run = push(&engine, &["0.0.0.0:0/a:1", "[::]:0/b:1", "[::]:0/c:1"]);
    assert_eq!((run.status, engine.count("GET /v1.41/info")), (0, 1), "{run}");
}

/// Concurrent pushes with a wrong password would cause several failed logins at the registry.
#[test]
fn tries_credentials_in_one_push_and_prompts_once() {
    let names = ["a", "b", "c", "d"].map(|name| format!("localhost:0/{name}:1"));
    let engine = FakeEngine::start()
        .serving_pushed()
        .on_next_push(Reply::stream([refusal("no basic auth credentials")]))
        .on("POST /v1.41/auth", Reply::json(200, LOGIN_GOOD))
        .on_every_push_else(pushed("1"));
    let arguments = [vec!["regpush", "--parallel", "4"], names.iter().map(String::as_str).collect()].concat();
    let mut terminal = TestEnv::new().at_terminal(&engine, "xterm", &arguments);
    terminal.wait_for("Username: ");
    terminal.type_in("alice\r");
    terminal.wait_for("Password: ");
    terminal.type_in("s3cret\r");
    let ended = terminal.finish();
    assert_eq!(ended.status, 0, "{}", ended.text);
    assert_eq!(ended.text.matches("Username").count(), 1, "{}", ended.text);
    assert!(ended.text.contains("4 images: 4 pushed"), "{}", ended.text);
    let logins: Vec<Value> =
        engine.pushes().iter().map(|push| push.registry_auth()["username"].clone()).collect();
    assert_eq!(logins, [Value::Null, json!("alice"), json!("alice"), json!("alice"), json!("alice")]);
}

/// A push that fails for a reason other than credentials does not prove that the registry accepts the credentials.
#[test]
fn tries_unaccepted_credentials_in_one_push_at_a_time() {
    let names = ["a", "b", "c", "d", "e"].map(|name| format!("localhost:0/{name}:1"));
    let note = r#"{"status":"x"}"#.to_owned();
    let refused = Reply::stream([note, refusal("unauthorized: wrong")]).slowly(Duration::from_millis(600));
    let broken =
        Reply::stream([refusal("write tcp 127.0.0.1:1->127.0.0.1:2: write: connection reset by peer")]);
    let engine = FakeEngine::start().on_next_push(broken).on_every_push_else(refused);
    let images: Vec<&str> = names.iter().map(String::as_str).collect();
    let run = push(&engine, &[["--parallel", "5"].as_slice(), &images].concat());
    assert_eq!((run.status, engine.pushes().len(), engine.most_at_once()), (3, 6, 1), "{run}");
}

/// After Ctrl-D at a prompt, the plugin does not prompt again for the same registry, but still prompts for other
/// registries.
#[test]
fn prompts_once_per_registry_if_there_is_no_answer() {
    let refused = Reply::stream([refusal("no basic auth credentials")]);
    let engine = FakeEngine::start().without_images().on_every_push(refused);
    let images = ["localhost:0/a:1", "127.0.0.1:0/x:1", "localhost:0/b:1"];
    let mut terminal = TestEnv::new().at_terminal(
        &engine,
        "xterm",
        &[&["regpush", "--parallel", "1"], images.as_slice()].concat(),
    );
    for _ in 0..2 {
        terminal.wait_for("Username: ");
        terminal.type_in("\x04");
    }
    let ended = terminal.finish();
    assert_eq!(ended.status, 3, "{}", ended.text);
    assert_eq!(ended.text.matches("Username").count(), 2, "{}", ended.text);
    assert!(ended.text.contains("3 images: 3 failed"), "{}", ended.text);
}

/// Credentials on the command line are for one registry, so the plugin must not send them to another registry.
#[test]
fn refuses_given_credentials_for_several_registries() {
    let env = TestEnv::new();
    let mut command = env.without_engine();
    command.args([
        "regpush",
        "-u",
        "ci",
        "--password-stdin",
        "a:1",
        "--to",
        "localhost:1/",
        "--to",
        "localhost:2/",
    ]);
    let run = crate::support::env::run_with_stdin(&mut command, b"pw");
    assert_eq!(run.status, 125, "{run}");
    assert!(run.stderr.contains("these images go to several: localhost:1, localhost:2"), "{run}");
}

#[test]
fn calls_a_helper_once_per_registry() {
    let script = r#"read registry; echo "$registry" >>"$HOME/asked"; echo '{"Username":"u","Secret":"s"}'"#;
    let env = TestEnv::new().with_config(r#"{"credsStore":"x"}"#).with_helper("x", script);
    let engine = FakeEngine::start().without_images().serving_pushed().on_every_push(pushed("1"));
    let images = ["localhost:0/a:1", "localhost:0/b:1", "127.0.0.1:0/c:1", "localhost:0/d:1"];
    let run = run(env.command(&engine).args(["regpush", "-q"]).args(images));
    assert_eq!(run.status, 0, "{run}");
    let asked = fs::read_to_string(env.path("home").join("asked")).unwrap();
    let mut asked: Vec<&str> = asked.lines().collect();
    asked.sort_unstable();
    assert_eq!(asked, ["127.0.0.1:0", "localhost:0"]);
}

/// Starts an engine that has the image `app:1` and accepts all pushes.
fn with_app() -> FakeEngine {
    FakeEngine::start().serving_pushed().has("docker.io/library/app:1", ID).on_every_push(pushed("1"))
}

#[test]
fn tags_pushes_and_untags_each_destination() {
    let engine = with_app();
    let run =
        push(&engine, &["app:1", "--to", "localhost:0/", "--to", "127.0.0.1:0/team/", "--relay", "never"]);
    assert_eq!(run.status, 0, "{run}");
    assert_eq!(lines(&run), ["localhost:0/app", "127.0.0.1:0/team/app"], "{run}");
    assert!(!run.stderr.contains("warning"), "{run}");
    assert_eq!(engine.names(), ["docker.io/library/app:1"]);
    let kept = with_app();
    assert_eq!(push(&kept, &["app:1", "--keep-tag", "--to", "localhost:0/"]).status, 0);
    assert_eq!(kept.names(), ["docker.io/library/app:1", "localhost:0/app:1"]);
    let by_id = with_app();
    assert_eq!(lines(&push(&by_id, &[ID, "--to", "localhost:0/app:1"])), ["localhost:0/app"]);
    assert_eq!(by_id.names(), ["docker.io/library/app:1"]);
}

#[test]
fn does_not_move_a_tag_of_another_image() {
    let engine = with_app().has("localhost:0/app:1", OTHER);
    let run = push(&engine, &["app:1", "--to", "localhost:0/", "--to", "127.0.0.1:0/", "--relay", "never"]);
    assert_eq!(run.status, 1, "{run}");
    assert_eq!(lines(&run), ["127.0.0.1:0/app"], "the other destination is pushed: {run}");
    let told = format!(
        "error: cannot tag localhost:0/app:1: it already names another local image ({OTHER}); the image to push is {ID}"
    );
    assert!(run.stderr.contains(&told), "{run}");
    assert_eq!(engine.names(), ["docker.io/library/app:1", "localhost:0/app:1"]);
}

/// The plugin removes only tags that the plugin itself added.
#[test]
fn keeps_a_tag_that_existed_before() {
    let engine = with_app().has("localhost:0/app:1", ID);
    let run = push(&engine, &["app:1", "--to", "localhost:0/"]);
    assert_eq!((run.status, engine.names().len()), (0, 2), "{run}");
    assert!(engine.request("DELETE ").is_none() && engine.pushes().len() == 1);
}

/// Engines remove an image when its last tag is removed.
#[test]
fn keeps_the_only_tags_of_an_unnamed_image() {
    // The two pushes run concurrently, or one after the other. If the pushes run in sequence, the image already has the
    // tag of the first push when the second push begins.
    for parallel in ["2", "1"] {
        let engine = FakeEngine::start().serving_pushed().has(ID, ID).on_every_push(pushed("1"));
        let to = ["--to", "localhost:0/app:1", "--to", "127.0.0.1:0/app:1", "--relay", "never"];
        let run = push(&engine, &[&[ID, "--parallel", parallel], to.as_slice()].concat());
        assert_eq!(run.status, 0, "{run}");
        for name in ["localhost:0/app:1", "127.0.0.1:0/app:1"] {
            let stays = format!(
                "tag {name} will not be removed: it is the only name of the image, and the engine would remove the image with it"
            );
            assert!(run.stderr.contains(&stays), "{run}");
        }
        assert!(engine.request("DELETE ").is_none(), "{run}");
        assert_eq!(engine.names().len(), 3);
    }
}

/// `deadbeefcafe` may be a repository or an image ID; only the engine can tell.
#[test]
fn refuses_to_derive_a_path_from_an_image_id() {
    let engine = FakeEngine::start().has("app:1", "deadbeefcafe");
    let run = push(&engine, &["deadbeefcafe", "--to", "localhost:0/"]);
    assert_eq!(run.status, 125, "{run}");
    assert!(run.stderr.contains("`deadbeefcafe` is an image ID, and has no path and tag"), "{run}");
    assert!(engine.pushes().is_empty() && engine.names() == ["app:1"]);
}

/// After an interrupt, the plugin writes the results of finished pushes to stdout and to the metadata file. For several
/// images the file maps each pushed image's name to an object, even if only one image is pushed.
#[test]
fn interrupted_call_reports_finished_pushes() {
    let hanging = Reply::stream([r#"{"status":"Layer already exists","id":"aa"}"#]).ending(End::Hang);
    let engine = FakeEngine::start()
        .without_images()
        .serving_pushed()
        .on(&path("localhost:0/a", "1"), hanging)
        .on(&path("127.0.0.1:0/b", "1"), pushed("1"));
    let env = TestEnv::new();
    let metadata = env.path("metadata");
    let mut command = env.command(&engine);
    command.args(["regpush", "localhost:0/a:1", "127.0.0.1:0/b:1", "--metadata-file"]).arg(&metadata);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    stderr.find(|line| line.starts_with("pushed 127.0.0.1:0/b:1")).expect("the summary is printed at once");
    engine.wait_for_pushes(2);
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let rest: Vec<String> = stderr.collect();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let summary = ["error: interrupted", "2 images: 1 pushed, 1 not pushed", "  not pushed: localhost:0/a:1"];
    assert_eq!(rest[rest.len() - 3..], summary);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("127.0.0.1:0/b@{DIGEST}\n"));
    let metadata: Value = serde_json::from_slice(&fs::read(metadata).unwrap()).unwrap();
    let own = json!({"containerimage.digest": DIGEST, "image.name": "127.0.0.1:0/b:1"});
    assert_eq!(metadata, json!({"127.0.0.1:0/b:1": own}));
}

#[test]
fn keep_tag_keeps_the_tag_of_an_interrupted_push() {
    let engine = with_app().on_every_push(Reply {
        end: End::Hang,
        ..Reply::stream([r#"{"status":"Layer already exists","id":"aa"}"#])
    });
    let env = TestEnv::new();
    let mut command = env.command(&engine);
    let mut child =
        command.args(["regpush", "-q", "--keep-tag", "app:1", "--to", "localhost:0/"]).spawn().unwrap();
    engine.wait_for_pushes(1);
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(engine.names(), ["docker.io/library/app:1", "localhost:0/app:1"]);
}

#[test]
fn removes_the_tag_on_signals_failure_and_timeout() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let engine = FakeEngine::start().has("docker.io/library/app:1", ID).on_every_push(Reply {
            end: End::Hang,
            ..Reply::stream([r#"{"status":"Layer already exists","id":"aa"}"#])
        });
        let env = TestEnv::new();
        let mut command = env.command(&engine);
        command.args([
            "regpush",
            "app:1",
            "--to",
            "localhost:0/",
            "--to",
            "127.0.0.1:0/",
            "--relay",
            "never",
        ]);
        let child = command.args(["--format", "json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = child.spawn().unwrap();
        engine.wait_for_pushes(2);
        assert_eq!(engine.names().len(), 3);
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(if signal == Signal::SIGINT { 130 } else { 143 }));
        assert_eq!(engine.names(), ["docker.io/library/app:1"], "{signal}");
        let stdout = String::from_utf8(output.stdout).unwrap();
        let results: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(results.len(), 2, "each has its result: {stdout}");
        assert!(results.iter().all(|result| result["error"]["class"] == "cancelled"), "{stdout}");
    }
    // Checks a push that fails, and a push that times out.
    let refused = FakeEngine::start()
        .has("docker.io/library/app:1", ID)
        .allow("GET /v1.41/distribution/localhost:0/app:1/json", Reply::json(404, "manifest unknown"))
        .on_every_push(Reply::stream([refusal("denied: quota exceeded")]));
    assert_eq!(push(&refused, &["app:1", "--to", "localhost:0/"]).status, 1);
    assert_eq!(refused.names(), ["docker.io/library/app:1"]);
    let slow =
        FakeEngine::start().has("docker.io/library/app:1", ID).on_every_push(pushed("1").ending(End::Hang));
    assert_eq!(push(&slow, &["--timeout", "3s", "app:1", "--to", "localhost:0/"]).status, 7);
    assert_eq!(slow.names(), ["docker.io/library/app:1"]);
}

/// The user may move the added tag to another image during the push.
#[test]
fn does_not_remove_a_tag_that_was_moved_meanwhile() {
    let engine = with_app();
    let moved = json!({"Id": OTHER, "RepoTags": ["localhost:0/app:1", "x:1"]}).to_string();
    let inspect = "GET /v1.41/images/localhost:0/app:1/json";
    let engine = engine.on(inspect, Reply::json(404, "{}")).on(inspect, Reply::json(200, &moved));
    let run = push(&engine, &["app:1", "--to", "localhost:0/"]);
    assert_eq!(run.status, 0, "{run}");
    let stays = "warning: tag localhost:0/app:1 was not removed: it names another image now";
    assert!(run.stderr.contains(stays), "{run}");
    assert!(engine.request("DELETE ").is_none());
}

#[test]
fn dry_run_adds_no_tag() {
    let engine = FakeEngine::start().has("docker.io/library/app:1", ID);
    let run = push(&engine, &["--dry-run", "--retries", "0", "app:1", "--to", "localhost:0/"]);
    assert_eq!(run.status, 6, "nothing listens there: {run}");
    assert!(engine.pushes().is_empty() && engine.request("POST ").is_none(), "{run}");
}

#[test]
fn all_tags_of_several_repositories_report_one_without_tags() {
    let images = json!([{"RepoTags": ["app:1", "app:2", "web:1", "other:1"], "Id": ID}]).to_string();
    let mut engine =
        FakeEngine::start().serving_pushed().on("GET /v1.41/images/json", Reply::json(200, &images));
    for name in ["app:1", "app:2", "web:1"] {
        engine = engine.has(&format!("docker.io/library/{name}"), ID);
        let (name, tag) = name.split_once(':').unwrap();
        engine = engine.on(&path(&format!("localhost:0/x/{name}"), tag), pushed(tag));
    }
    let run = push(&engine, &["-a", "app", "none", "web", "--to", "localhost:0/x/"]);
    assert_eq!(run.status, 5, "{run}");
    let want = ["localhost:0/x/app", "localhost:0/x/app", "localhost:0/x/web"];
    assert_eq!(lines(&run), want, "{run}");
    assert!(run.stderr.contains("error: no tag of none is in the engine"), "{run}");
    assert!(run.stderr.contains("4 images: 3 pushed, 1 failed"), "{run}");
    assert_eq!(engine.names().len(), 3, "no tag is left");
}

#[test]
fn checks_all_arguments_before_pushing() {
    let table: [(&[&str], i32, &str); 4] = [
        (&["app:1", "APP:2"], 125, "must be lowercase"),
        (&["a:1", "b:1", "--to", "localhost:0/x:1"], 125, "would both be pushed as localhost:0/x:1"),
        (&["a:1", "b:1", "--digest-file", "d"], 125, "--digest-file works with a single image"),
        (&["a:1", "--metadata-file", "/no/such/folder/m"], 1, "cannot write `/no/such/folder/m`"),
    ];
    for (arguments, status, told) in table {
        let run = run(TestEnv::new().without_engine().arg("regpush").args(arguments));
        assert!(run.status == status && run.stderr.contains(told), "{run}");
    }
}

#[test]
fn writes_digest_metadata_and_github_files() {
    let engine = FakeEngine::start().serving_pushed().on_every_push(pushed("1"));
    let env = TestEnv::new();
    let file = |name: &str| env.path(name).to_str().unwrap().to_owned();
    fs::write(file("digest"), "of an earlier push, and longer than a digest: ".repeat(5)).unwrap();
    let mut command = env.command(&engine);
    command.args(["regpush", "-q", "localhost:0/app:1", "--digest-file", &file("digest")]);
    command
        .args(["--metadata-file", &file("metadata"), "--github-output"])
        .env("GITHUB_OUTPUT", file("github"));
    fs::write(file("github"), "before=1\n").unwrap();
    let one = run(&mut command);
    assert_eq!((one.status, one.stderr.as_str()), (0, ""), "{one}");
    assert_eq!(fs::read_to_string(file("digest")).unwrap(), DIGEST);
    let metadata: Value = serde_json::from_str(&fs::read_to_string(file("metadata")).unwrap()).unwrap();
    assert_eq!(metadata, json!({"containerimage.digest": DIGEST, "image.name": "localhost:0/app:1"}));
    let github = fs::read_to_string(file("github")).unwrap();
    assert_eq!(github, format!("before=1\ndigest={DIGEST}\nreference=localhost:0/app:1\n"));

    // If one of several images fails, the metadata file contains the pushed images. If the only image fails, the digest
    // file does not change.
    let half = FakeEngine::start()
        .serving_pushed()
        .on(&path("localhost:0/a", "1"), Reply::stream([refusal("denied: quota exceeded")]))
        .on("GET /v1.41/images/localhost:0/a:1/json", no_such_image())
        .on(&path("localhost:0/b", "1"), pushed("1"));
    let mut command = env.command(&half);
    command.args([
        "regpush",
        "-q",
        "localhost:0/a:1",
        "localhost:0/b:1",
        "--metadata-file",
        &file("metadata"),
    ]);
    assert_eq!(run(&mut command).status, 1);
    let metadata: Value = serde_json::from_str(&fs::read_to_string(file("metadata")).unwrap()).unwrap();
    assert_eq!(
        metadata["localhost:0/b:1"]["image.name"], "localhost:0/b:1",
        "keyed by name, as if both were pushed"
    );
    let refused = FakeEngine::start()
        .on_every_push(Reply::stream([refusal("denied: quota exceeded")]))
        .on("GET /v1.41/images/localhost:0/a:1/json", no_such_image());
    let mut command = env.command(&refused);
    command.args(["regpush", "-q", "localhost:0/a:1", "--digest-file", &file("digest")]);
    assert_eq!(run(&mut command).status, 1);
    assert_eq!(fs::read_to_string(file("digest")).unwrap(), DIGEST);
    let left: Vec<String> = fs::read_dir(env.path("."))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(".regpush"))
        .collect();
    assert_eq!(left, Vec::<String>::new(), "nothing temporary is left");
}

#[test]
fn variables_set_options_that_the_command_line_leaves_out() {
    let variables = |set: &[(&str, &str)], arguments: &[&str]| {
        let engine = FakeEngine::start().serving_pushed().on_every_push(pushed("1"));
        let env = TestEnv::new();
        let mut command = env.command(&engine);
        command.arg("regpush").args(arguments).envs(set.iter().copied());
        run(&mut command)
    };
    let image = "localhost:0/app:1";
    let json = variables(&[("REGPUSH_FORMAT", "json"), ("REGPUSH_QUIET", "1")], &[image]);
    assert_eq!((json.json()["status"].as_str(), json.stderr.as_str()), (Some("pushed"), ""), "{json}");
    let typed =
        variables(&[("REGPUSH_FORMAT", "json"), ("REGPUSH_QUIET", "true")], &["--format", "ref", image]);
    assert!(typed.stdout.starts_with("localhost:0/app@"), "{typed}");
    let loud = variables(&[("REGPUSH_QUIET", "1")], &["--progress", "plain", image]);
    assert!(loud.stderr.contains("pushing"), "the command line wins: {loud}");
    let off = variables(
        &[("REGPUSH_DRY_RUN", "1"), ("REGPUSH_QUIET", "1")],
        &["--dry-run=false", "-q=false", image],
    );
    assert!(off.status == 0 && off.stderr.contains("pushed localhost:0/app:1"), "{off}");
    let empty = variables(&[("REGPUSH_FORMAT", ""), ("REGPUSH_DRY_RUN", "0"), ("REGPUSH_TO", "")], &[image]);
    assert_eq!(empty.status, 0, "{empty}");
    let contrary = variables(
        &[("REGPUSH_USERNAME", "ci"), ("REGPUSH_PASSWORD_STDIN", "1"), ("REGPUSH_SAVE_CREDENTIALS", "1")],
        &["--anonymous", image],
    );
    assert_eq!(contrary.status, 0, "{contrary}");
    let several = FakeEngine::start()
        .serving_pushed()
        .has("docker.io/library/app:1", ID)
        .on(&path("localhost:0/app", "1"), pushed("1"))
        .on(&path("127.0.0.1:0/x", "1"), pushed("1"));
    let env = TestEnv::new();
    let mut command = env.command(&several);
    command.args(["regpush", "--relay", "never", "app:1"]).env("REGPUSH_TO", "localhost:0/,127.0.0.1:0/x:1");
    let run = run(&mut command);
    assert_eq!(lines(&run), ["localhost:0/app", "127.0.0.1:0/x"], "{run}");
}

/// If a push finishes during a prompt, the plugin prints the result after the user has answered.
#[test]
fn prints_nothing_during_a_prompt() {
    for mode in ["tty", "plain"] {
        let engine = FakeEngine::start()
            .without_images()
            .serving_pushed()
            .on(
                "POST /v1.41/images/localhost:0/locked/push",
                Reply::stream([refusal("no basic auth credentials")]),
            )
            .on("POST /v1.41/auth", Reply::json(200, LOGIN_GOOD))
            .on(
                "POST /v1.41/images/127.0.0.1:0/open/push",
                pushed("1").slowly(Duration::from_secs(1)).times(4),
            )
            .on_every_push_else(pushed("1"));
        let images = ["127.0.0.1:0/open:1", "localhost:0/locked:1"];
        let arguments = [&["regpush", "--progress", mode], images.as_slice()].concat();
        let mut terminal = TestEnv::new().at_terminal(&engine, "xterm", &arguments);
        terminal.wait_for("Username: ");
        // Waits for the last request of the push that does not prompt. The test cannot wait for missing output, so the
        // test sleeps.
        engine.wait_for_request("GET /v1.41/distribution/127.0.0.1:0/open:1/json");
        std::thread::sleep(Duration::from_millis(300));
        terminal.type_in("alice\r");
        terminal.wait_for("Password: ");
        terminal.type_in("s3cret\r");
        let ended = terminal.finish();
        assert_eq!(ended.status, 0, "{}", ended.text);
        let (_, after) = ended.text.split_once("Username: ").unwrap();
        assert!(after.starts_with("alice\r\nPassword: \r\n"), "{mode}: {}", ended.text);
        let at = |text: &str| after.find(text).unwrap_or_else(|| panic!("no {text}: {}", ended.text));
        assert!(at("127.0.0.1:0/open\x1b[2m@") < at("localhost:0/locked\x1b[2m@"), "{mode}: {}", ended.text);
    }
}

/// A credential helper may prompt at the same terminal as the plugin.
#[test]
fn does_not_prompt_while_a_helper_uses_the_terminal() {
    let script = r#"read registry
if [ "$registry" = 127.0.0.1:0 ]; then
    printf 'PIN: ' >/dev/tty; read pin </dev/tty; echo "$pin" >"$HOME/pin"
fi
echo '{"Username":"u","Secret":"s"}'"#;
    let env = TestEnv::new().with_config(r#"{"credsStore":"x"}"#).with_helper("x", script);
    let engine = FakeEngine::start()
        .without_images()
        .serving_pushed()
        .on("POST /v1.41/images/localhost:0/a/push", Reply::stream([refusal("unauthorized: wrong")]))
        .on("POST /v1.41/auth", Reply::json(200, LOGIN_GOOD))
        .on_every_push_else(pushed("1"));
    let images = ["localhost:0/a:1", "127.0.0.1:0/b:1"];
    let mut terminal = env.at_terminal(&engine, "xterm", &[&["regpush"], images.as_slice()].concat());
    terminal.wait_for("PIN: ");
    // The prompt for the second registry must wait for the helper. The test cannot wait for missing output, so the test
    // sleeps.
    engine.wait_for_pushes(1);
    std::thread::sleep(Duration::from_millis(300));
    terminal.type_in("1234\r");
    terminal.wait_for("Username (u): ");
    terminal.type_in("alice\r");
    terminal.wait_for("Password: ");
    terminal.type_in("s3cret\r");
    let ended = terminal.finish();
    assert_eq!(ended.status, 0, "{}", ended.text);
    assert_eq!(fs::read_to_string(env.path("home").join("pin")).unwrap(), "1234\n");
    assert!(ended.text.contains("PIN: 1234\r\n"), "nothing in between: {}", ended.text);
}

/// The plugin exits two seconds after an interrupt, which is too short to remove the added tags one after the other.
#[test]
fn removes_all_tags_concurrently() {
    let names = ["a", "b", "c", "d"];
    let mut engine = FakeEngine::start().on_every_push(Reply {
        end: End::Hang,
        ..Reply::stream([r#"{"status":"Layer already exists","id":"aa"}"#])
    });
    for name in names {
        let slow = Reply::stream(["[", "]"]).slowly(Duration::from_millis(900));
        engine = engine
            .has(&format!("docker.io/library/{name}:1"), &format!("sha256:{name}"))
            .on(&format!("DELETE /v1.41/images/localhost:0/{name}:1"), slow);
    }
    let env = TestEnv::new();
    let mut command = env.command(&engine);
    command.args(["regpush", "-q", "--parallel", "4", "--to", "localhost:0/"]);
    let mut child = command.args(names.map(|name| format!("{name}:1"))).spawn().unwrap();
    engine.wait_for_pushes(4);
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(engine.names(), names.map(|name| format!("docker.io/library/{name}:1")));
}

/// The plugin can remove the added tag, since the image has another tag.
#[test]
fn removes_the_added_tag_if_the_image_keeps_its_own_name() {
    let engine = FakeEngine::start().serving_pushed().has("localhost:0/app:1", ID).on_every_push(pushed("1"));
    let run = push(
        &engine,
        &["localhost:0/app:1", "--to", "localhost:0/", "--to", "127.0.0.1:0/", "--relay", "never"],
    );
    assert_eq!((run.status, lines(&run).len()), (0, 2), "{run}");
    assert_eq!(engine.names(), ["localhost:0/app:1"], "{run}");
}

/// Pushes of tags that share a layer wait for the same stalled upload, so the plugin retries all these pushes with the
/// host name `Localhost`.
#[test]
fn pushes_that_stall_together_retry_under_another_name() {
    let stall = |tag: &str| {
        let line = |status: &str, detail: Value| {
            json!({"status": status, "progressDetail": detail, "id": "aa"}).to_string()
        };
        let lines = [line("Preparing", json!({})), line("Pushing", json!({"current": 5, "total": 10}))];
        (path("localhost:0/app", tag), Reply::stream(lines).ending(End::Hang))
    };
    // The first push to a repository runs alone, so `app:0` is pushed before the other tags.
    let mut engine = FakeEngine::start()
        .serving_pushed()
        .has("localhost:0/app:0", "sha256:0")
        .on(&path("localhost:0/app", "0"), pushed("0"));
    let tags = ["1", "2", "3"];
    for tag in tags {
        let (line, reply) = stall(tag);
        let name = format!("localhost:0/app:{tag}");
        engine = engine.has(&name, &format!("sha256:{tag}")).on(&line, reply);
        engine = engine.on(&format!("POST /v1.41/images/Localhost:0/app/push?tag={tag}"), pushed(tag));
        // The plugin verifies the push under the reference that the user typed, not under `Localhost:0/app`.
        let names = json!({"Descriptor": {"digest": DIGEST, "size": 528}}).to_string();
        engine = engine.on(&format!("GET /v1.41/distribution/{name}/json"), Reply::json(200, &names));
    }
    let images = ["0", "1", "2", "3"].map(|tag| format!("localhost:0/app:{tag}"));
    let run = push(
        &engine,
        &[&["--stall-timeout", "1s"], images.each_ref().map(String::as_str).as_slice()].concat(),
    );
    assert_eq!((run.status, lines(&run).len()), (0, 4), "{run}");
    assert_eq!(engine.names(), images);
}

/// `--timeout` limits the total time of all attempts and of the waits between attempts.
#[test]
fn timeout_includes_waits_between_attempts() {
    let table = [
        // message, time limit, least sum of the first waits in seconds, which exceeds the time limit
        ("toomanyrequests: slow down", "2s", 5.0),
        ("write tcp 127.0.0.1:1->127.0.0.1:2: write: connection reset by peer", "4s", 1.0 + 2.0 + 4.0),
    ];
    for (message, timeout, waits) in table {
        let engine = FakeEngine::start().on_every_push(Reply::stream([refusal(message)]));
        let run = push(&engine, &["--format", "json", "--timeout", timeout, "localhost:0/app:1"]);
        assert_eq!(run.status, 7, "{run}");
        assert!(run.json()["seconds"].as_f64().unwrap() < waits, "{run}");
        assert!(run.stderr.contains(&format!("cannot push localhost:0/app:1 within {timeout}")), "{run}");
    }
}

/// `--timeout` includes neither the time at a prompt nor the push of an earlier image.
#[test]
fn timeout_excludes_time_at_the_prompt() {
    let engine = FakeEngine::start()
        .serving_pushed()
        .on_next_push(Reply::stream([refusal("no basic auth credentials")]))
        .on("POST /v1.41/auth", Reply::json(200, LOGIN_GOOD))
        .on_every_push_else(pushed("1"));
    let arguments = ["regpush", "--timeout", "3s", "localhost:0/a:1", "localhost:0/b:1"];
    let mut terminal = TestEnv::new().at_terminal(&engine, "xterm", &arguments);
    terminal.wait_for("Username: ");
    std::thread::sleep(Duration::from_secs(4));
    terminal.type_in("alice\r");
    terminal.wait_for("Password: ");
    terminal.type_in("s3cret\r");
    let ended = terminal.finish();
    assert_eq!(ended.status, 0, "{}", ended.text);
    assert!(ended.text.contains("2 images: 2 pushed"), "{}", ended.text);
}
