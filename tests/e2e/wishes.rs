//! Tests of `--if-exists` and `--dry-run` with real registries.

use std::process::Command;

use serde_json::{Value, json};

use crate::proxy::{Fault, Proxy, ask};
use crate::support::{Engine, Home, Registry, Run, engine, ok, ok_with_stdin, run};
use crate::{PASSWORD, SMALL, on_each_engine, packed};

fn push(engine: &Engine, home: &Home, options: &[&str], image: &str) -> (Run, Value) {
    let run = run(engine.docker(home).args(["regpush", "--format", "json"]).args(options).arg(image));
    let result = serde_json::from_str(&run.stdout).unwrap();
    (run, result)
}

#[test]
fn same_image_is_unchanged_and_if_exists_decides_about_another() {
    on_each_engine(|engine| {
        let (home, registry) = (Home::new(), Registry::open());
        let proxy = Proxy::to(&registry);
        let name = proxy.name("wishes/app:1");
        let image = engine.image(&home, &name, SMALL);
        for (wish, status) in
            [("skip", "pushed"), ("skip", "unchanged"), ("update", "unchanged"), ("fail", "unchanged")]
        {
            let (run, result) = push(engine, &home, &["--if-exists", wish], &name);
            assert_eq!((run.status, &result["status"]), (0, &json!(status)), "{wish}: {run:?}");
            assert_eq!(result["digest"], registry.digest("wishes/app", "1", None), "{wish}");
        }
        assert_eq!(proxy.count(ask::manifest), 1, "pushed once");
        drop(image);
        let before = registry.digest("wishes/app", "1", None);
        let _other = engine.image(&home, &name, SMALL);
        for (wish, end, status) in [("fail", 8, "failed"), ("skip", 0, "skipped"), ("update", 0, "pushed")] {
            assert_eq!(registry.digest("wishes/app", "1", None), before, "left alone");
            let (run, result) = push(engine, &home, &["--if-exists", wish], &name);
            assert_eq!((run.status, &result["status"]), (end, &json!(status)), "{wish}: {run:?}");
        }
        assert_ne!(registry.digest("wishes/app", "1", None), before);
    });
}

/// Two engines with the classic store make different manifests of one image, and neither engine knows the manifest of
/// the other engine.
#[test]
fn same_image_from_another_engine_is_unchanged() {
    let (one, other) = (engine("docker-20.10"), engine("docker-28-classic"));
    let (home, registry) = (Home::new(), Registry::open());
    let image = one.image(&home, &registry.name("wishes/two:1"), SMALL);
    assert_eq!(push(&one, &home, &[], &image.name).0.status, 0);
    let saved = one.docker(&home).args(["save", &image.name]).output().unwrap();
    ok_with_stdin(other.docker(&home).arg("load"), &saved.stdout);
    let (run, result) = push(&other, &home, &["--if-exists", "fail"], &image.name);
    assert_eq!((run.status, &result["status"]), (0, &json!("unchanged")), "{run:?}");
    other.remove(&[&image.name]);
}

#[test]
fn immutable_tag_accepts_the_same_image() {
    on_each_engine(|engine| {
        let (home, registry) = (Home::new(), Registry::open());
        let proxy = Proxy::to(&registry);
        let name = proxy.name("wishes/immutable:1");
        let image = engine.image(&home, &name, SMALL);
        assert_eq!(push(engine, &home, &[], &name).0.status, 0);
        let refusal = Fault::refusal("400 Bad Request", "TAG_INVALID", "The tag '1' is immutable");
        proxy.fails(usize::MAX, ask::manifest, refusal);
        let (run, result) = push(engine, &home, &[], &name);
        // An engine with the containerd store does not upload the manifest if the engine finds the manifest in the
        // registry.
        let status = if proxy.count(ask::manifest) > 1 { "unchanged" } else { "pushed" };
        assert_eq!((run.status, &result["status"]), (0, &json!(status)), "{run:?}");
        drop(image);
        let _other = engine.image(&home, &name, SMALL);
        let (run, result) = push(engine, &home, &[], &name);
        assert_eq!((run.status, &result["error"]["class"]), (1, &json!("rejected")), "{run:?}");
    });
}

#[test]
fn dry_run_checks_write_permission_and_leaves_nothing_behind() {
    on_each_engine(|engine| {
        let registry = Registry::with_users(&[("alice", PASSWORD)]);
        let image_home = Home::new();
        let name = registry.name("wishes/dry:1");
        let image = engine.image(&image_home, &name, SMALL);
        for (password, status, class) in
            [(None, 3, json!("auth")), (Some("wrong"), 3, json!("auth")), (Some(PASSWORD), 0, json!(null))]
        {
            let home = Home::new();
            if let Some(password) = password {
                home.config(&json!({"auths": {registry.host(): {"auth": packed("alice", password)}}}));
            }
            let (run, result) = push(engine, &home, &["--dry-run"], &name);
            assert_eq!((run.status, &result["error"]["class"]), (status, &class), "{run:?}");
            if status == 0 {
                let found = &result["dry_run"];
                assert_eq!(result["status"], "would_push");
                assert_eq!(found["id"], image.id.as_str());
                assert_eq!(
                    (&found["may_write"], &found["tag_names"]),
                    (&json!(true), &json!(null)),
                    "{run:?}"
                );
                assert_eq!(found["layers"], found["missing_layers"], "{run:?}");
                assert_eq!(found["layers"].as_array().unwrap().len(), 1, "{run:?}");
                // The dry run has uploaded no data, and has canceled the upload that it began.
                let log = registry.log();
                assert!(!log.contains(r#""PUT "#) && !log.contains(r#""PATCH "#), "{log}");
                assert!(log.contains(r#""DELETE /v2/wishes/dry/blobs/uploads/"#), "{log}");
                assert_eq!(registry.files("data"), 0, "no upload is left open");
                let mut ls = engine.docker(&home);
                ls.args(["regpush", "ls", "--format", "json", &registry.host()]);
                assert_eq!(ok(&mut ls), "", "no repository is made");
                assert_eq!(push(engine, &home, &[], &name).0.status, 0);
                let (_, again) = push(engine, &home, &["--dry-run", "--if-exists", "update"], &name);
                assert_eq!(again["status"], "unchanged", "{again}");
                assert_eq!(again["dry_run"]["missing_layers"], json!([]), "{again}");
            }
        }
    });
}

impl Registry {
    /// Counts the files named `name` in the storage directory of this registry.
    fn files(&self, name: &str) -> usize {
        let mut find = Command::new("find");
        ok(find.arg(self.data()).args(["-type", "f", "-name", name])).lines().count()
    }
}
