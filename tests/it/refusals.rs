//! Tests of refusals whose cause is not in the message: the plugin compares the refusal with the image, with the progress
//! or with the command line.

use serde_json::json;

use crate::support::engine::{FakeEngine, Reply, refusal};
use crate::support::env::{Run, TestEnv, run};

fn push(engine: &FakeEngine, arguments: &[&str]) -> Run {
    run(TestEnv::new().command(engine).args(["regpush", "--format", "json"]).args(arguments))
}

/// Windows images have layers that other servers host. Source: distribution#2795.
#[test]
fn refused_foreign_layers_are_not_retried() {
    let layer =
        |id: &str, status: &str| json!({"status": status, "progressDetail": {}, "id": id}).to_string();
    let hint = "hint: allow the layers' URLs in localhost:0 (`validation.manifests.urls.allow`), or add it to `allow-nondistributable-artifacts`";
    let table = [
        ("received unexpected HTTP status: 500 Internal Server Error", 1, "rejected", true),
        ("manifest invalid: manifest invalid", 1, "rejected", true),
        ("manifest blob unknown: blob unknown to registry", 1, "rejected", true),
        ("write tcp 127.0.0.1:1->127.0.0.1:2: write: connection reset by peer", 6, "network", false),
        ("received unexpected HTTP status: 503 Service Unavailable", 6, "server", false),
        // Messages about the tag or the account keep their own hint.
        ("tag invalid: The image tag '1' is immutable", 1, "rejected", false),
        ("denied: requested access to the resource is denied", 3, "auth", false),
    ];
    for (message, status, class, is_foreign) in table {
        let lines = [layer("a", "Pushed"), layer("b", "Skipped foreign layer"), refusal(message)];
        let engine = FakeEngine::start()
            .allow("GET /v1.41/images/localhost:0/app:1/json", Reply::json(404, "{}"))
            .on_next_push(Reply::stream(lines));
        let options: &[&str] = if is_foreign { &[] } else { &["--retries", "0"] };
        let refused = push(&engine, &[options, &["localhost:0/app:1"]].concat());
        assert_eq!(
            (refused.status, &refused.json()["error"]["class"]),
            (status, &json!(class)),
            "{message}: {refused}"
        );
        assert_eq!(refused.stderr.contains(hint), is_foreign, "{message}: {refused}");
        assert!(refused.stderr.contains("b: Skipped foreign layer"), "{message}: {refused}");
    }
}

/// The syntax of `podman push`, `skopeo copy` and `crane push`.
#[test]
fn second_image_may_be_meant_as_destination() {
    let missing = |name: &str| Reply::stream([refusal(&format!("tag does not exist: {name}"))]);
    let table = [
        // images, local images, whether the hint names `--to`
        (["app:1", "localhost:0/team/app:1"], "app:1", true),
        (["localhost:0/app:1", "localhost:1/app:1"], "localhost:0/app:1", true),
        (["localhost:0/app", "localhost:1/app"], "localhost:0/app:latest", true),
        (["localhost:0/app:1", "localhost:1/web:1"], "localhost:0/app:1", false),
        // The first image is missing too.
        (["app:1", "localhost:0/team/app:1"], "other:1", false),
        (["app:1", "web:1"], "app:1", false),
        // The second name is probably misspelt.
        (["app:1", "localhost:0/team/web:1"], "localhost:0/team/wep:1", false),
    ];
    for (images, local, is_meant) in table {
        let listed = json!([{"Id": "sha256:aa", "RepoTags": [local], "Size": 1}]).to_string();
        let engine = FakeEngine::start()
            .allow("GET /v1.41/info", Reply::json(200, "{}"))
            .allow("GET /v1.41/images/json", Reply::json(200, &listed))
            .has(local, "sha256:aa")
            .on_every_push(missing(images[1]));
        let refused = push(&engine, &images);
        assert_eq!(refused.status, 5, "{refused}");
        let tag = if images[1].ends_with(":1") { "" } else { ":latest" };
        let (image, destination) = (images[0], format!("{}{tag}", images[1]));
        let hint = format!(
            "hint: to push {image} as {destination}, run `docker regpush {image} --to {destination}`\n"
        );
        assert_eq!(refused.stderr.contains(&hint), is_meant, "{images:?}: {refused}");
    }
}

/// docker's classic store cannot parse such a host name. Source: moby#34975.
#[test]
fn underscore_in_the_host_is_named() {
    let text = "Get https:///v2/: http: no Host in request URL";
    let refused = |text| {
        let engine = FakeEngine::with_info().on_next_push(Reply::stream([refusal(text)]));
        push(&engine, &["--retries", "0", "my_registry.invalid/app:1"])
    };
    let hint = "hint: use another host name for my_registry.invalid: it has an underscore, which docker does not accept in a host name\n";
    let by_parser = refused(text);
    assert_eq!((by_parser.status, &by_parser.json()["error"]["class"]), (1, &json!("other")), "{by_parser}");
    assert!(by_parser.stderr.contains(hint), "{by_parser}");
    // The containerd store pushes to such a host.
    let down = refused("dial tcp 192.0.2.1:443: connect: connection refused");
    assert_eq!((down.status, down.stderr.contains(hint)), (6, false), "{down}");
}
