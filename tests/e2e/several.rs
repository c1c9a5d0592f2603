//! Tests of pushing several images, to several destinations, and images for several platforms.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use docker_regpush::oci::sha256;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::{Engine, Home, Image, Registry, SlowLine, engine, ok, run};
use crate::terminal::Terminal;
use crate::{PASSWORD, SMALL, on_each_engine, packed};

/// Returns all image names in the engine, including image names of other tests.
fn names(engine: &Engine, home: &Home) -> Vec<String> {
    let arguments = ["images", "--format", "{{.Repository}}:{{.Tag}}"];
    let list = engine.while_images_stay(|| ok(engine.docker(home).args(arguments)));
    list.lines().map(str::to_owned).collect()
}

/// Asserts that no image name in the engine contains the registry `host`.
fn assert_no_name_of(engine: &Engine, home: &Home, host: &str) {
    let left: Vec<String> = names(engine, home).into_iter().filter(|name| name.contains(host)).collect();
    assert_eq!(left, Vec::<String>::new(), "{}", engine.name);
}

/// Creates two images with short names that no other test uses.
fn two<'a>(engine: &'a Engine, home: &Home) -> [Image<'a>; 2] {
    let unique = home.root().file_name().unwrap().to_str().unwrap().trim_start_matches('.').to_lowercase();
    [("a", "1"), ("b", "2")].map(|(name, tag)| engine.image(home, &format!("{name}-{unique}:{tag}"), SMALL))
}

fn pushed_names(stdout: &str) -> Vec<&str> {
    stdout.lines().map(|line| line.split('@').next().unwrap().trim_end()).collect()
}

#[test]
fn pushes_two_images_to_two_registries_with_one_prompt() {
    on_each_engine(|engine| {
        let (home, open) = (Home::new(), Registry::open());
        let locked = Registry::with_users(&[("alice", PASSWORD)]);
        let images = two(engine, &home);
        let [first, second] = [&images[0].name, &images[1].name];
        let (to_open, to_locked) = (open.name(""), locked.name("team/"));
        let mut command = engine.docker_at_terminal(&home);
        command.args(["regpush", first, second, "--to", &to_open, "--to", &to_locked]);
        let mut terminal = Terminal::start(command, 100, 30);
        terminal.wait_for("Username: ");
        terminal.type_in("alice\r");
        terminal.wait_for("Password: ");
        terminal.type_in(&format!("{PASSWORD}\r"));
        let ended = terminal.finish();
        assert_eq!(ended.status, 0, "{}", ended.text);
        assert_eq!(ended.text.matches("Username").count(), 1, "{}", ended.text);
        assert!(ended.restored && ended.text.contains("4 images: 4 pushed"), "{}", ended.text);
        assert_eq!(locked.failed_logins(), 0, "the typed password was checked first, and was right");
        let login = Some(("alice", PASSWORD));
        for (number, name) in [first, second].into_iter().enumerate() {
            let (name, tag) = name.split_once(':').unwrap();
            let there = open.digest(name, tag, None);
            assert!(
                ended.text.contains(&format!("{}\u{1b}[2m@{there}", open.name(name))),
                "{number}: {}",
                ended.text
            );
            assert_eq!(locked.digest(&format!("team/{name}"), tag, login), there, "{number}");
        }
        for registry in [&open, &locked] {
            assert_no_name_of(engine, &home, &registry.host());
        }
        assert!(images.iter().all(|image| names(engine, &home).contains(&image.name)));
    });
}

#[test]
fn one_failure_of_four_does_not_stop_the_others() {
    on_each_engine(|engine| {
        let (home, open, other) = (Home::new(), Registry::open(), Registry::open());
        let images = two(engine, &home);
        // The destination `taken` already names another image.
        let taken = other.name(&images[0].name);
        ok(engine.docker(&home).args(["tag", &images[1].name, &taken]));
        let mut command = engine.docker(&home);
        command.args(["regpush", &images[0].name, &images[1].name]);
        command.args(["--to", &open.name(""), "--to", &other.name("")]);
        let run = run(&mut command);
        assert_eq!(run.status, 1, "{run:?}");
        let want = [open.name(&images[0].name), open.name(&images[1].name), other.name(&images[1].name)];
        let want = want.map(|name| name.rsplit_once(':').unwrap().0.to_owned());
        assert_eq!(pushed_names(&run.stdout), want, "{run:?}");
        assert!(run.stderr.contains("4 images: 3 pushed, 1 failed\n"), "{run:?}");
        assert!(run.stderr.contains(&format!("  failed: {taken} (other)\n")), "{run:?}");
        let id = ok(engine.docker(&home).args(["image", "inspect", "-f", "{{.Id}}", &taken]));
        assert_eq!(id.trim(), images[1].id, "it was not moved");
        engine.remove(&[&taken]);
        assert_no_name_of(engine, &home, &open.host());
        assert_no_name_of(engine, &home, &other.host());
    });
}

/// SIGINT goes to the whole process group, as with Ctrl-C. SIGTERM goes only to docker, which then notifies the plugin,
/// except in the CLI 20.10.
#[test]
fn interrupted_push_leaves_no_tag() {
    on_each_engine(|engine| {
        let signals = [Signal::SIGINT, Signal::SIGTERM];
        for signal in &signals[..if engine.name == "docker-20.10" { 1 } else { 2 }] {
            let (home, registry) = (Home::new(), Registry::open());
            let line = SlowLine::to(&registry, 200_000);
            let images = [1, 2].map(|number| {
                let name = format!("slow-{}-{number}:1", line.port);
                engine.image(&home, &name, 8_000_000)
            });
            let mut command = engine.docker(&home);
            command.args(["regpush", "-q", &images[0].name, &images[1].name, "--to", &line.name("")]);
            let mut docker = command.process_group(0).stdout(Stdio::null()).spawn().unwrap();
            line.wait_until_moved(100_000);
            let process: i32 = docker.id().try_into().unwrap();
            let whom = if *signal == Signal::SIGINT { -process } else { process };
            kill(Pid::from_raw(whom), *signal).unwrap();
            let status = docker.wait().unwrap().code();
            // docker tells the plugin to stop, but not which signal docker received.
            assert!([Some(130), Some(143)].contains(&status), "{}: {signal}: {status:?}", engine.name);
            crate::support::wait_for("the names are removed", || {
                let host = format!("localhost:{}", line.port);
                (!names(engine, &home).iter().any(|name| name.contains(&host))).then_some(())
            });
            assert!(images.iter().all(|image| names(engine, &home).contains(&image.name)));
        }
    });
}

/// The plugin must not remove an unnamed image by removing the tag that the plugin added for the push.
#[test]
fn unnamed_image_survives_its_push() {
    on_each_engine(|engine| {
        let (home, registry) = (Home::new(), Registry::open());
        let image = engine.image(&home, &registry.name("was/here:1"), SMALL);
        // A second image takes the name of the first image, which then has no name. If the test untagged the first
        // image instead, the engine would remove the image.
        let other = engine.image(&home, &image.name, SMALL);
        assert_ne!(image.id, other.id);
        let name = registry.name("nameless/app:1");
        let pushed = run(engine.docker(&home).args(["regpush", "-q", &image.id, "--to", &name]));
        if pushed.status != 0 {
            // The containerd store removes an image that loses its last name.
            assert!(engine.name.ends_with("containerd") && pushed.status == 5, "{pushed:?}");
            return;
        }
        assert!(
            pushed.stderr.contains("will not be removed: it is the only name of the image"),
            "{pushed:?}"
        );
        let id = ok(engine.docker(&home).args(["image", "inspect", "-f", "{{.Id}}", &name]));
        assert_eq!(id.trim(), image.id);
        // The image now has a name, so the plugin removes the tag that it adds for a push by ID.
        let second = registry.name("named/app:1");
        let short = image.id.trim_start_matches("sha256:")[..12].to_owned();
        ok(engine.docker(&home).args(["regpush", "-q", &short, "--to", &second]));
        assert!(!names(engine, &home).contains(&second));
        ok(engine.docker(&home).args(["image", "inspect", &image.id]));
        engine.remove(&["-f", &image.id]);
    });
}

#[test]
fn twelve_tags_print_twelve_lines() {
    on_each_engine(|engine| {
        let (home, registry) = (Home::new(), Registry::open());
        let images: Vec<Image<'_>> = (1..=12)
            .map(|tag| engine.image(&home, &registry.name(&format!("tags/app:{tag}")), 1000))
            .collect();
        let repository = registry.name("tags/app");
        let arguments = ["regpush", "-q", "--all-tags", "--parallel", "4", &repository];
        let pushed = engine.while_images_stay(|| run(engine.docker(&home).args(arguments)));
        assert_eq!((pushed.status, pushed.stderr.as_str()), (0, ""), "{pushed:?}");
        // The results are in alphabetical order of the tags: 1, 10, 11, 12, 2, …
        let mut tags: Vec<String> = (1..=12).map(|tag: u32| tag.to_string()).collect();
        tags.sort();
        let want: Vec<String> = tags
            .iter()
            .map(|tag| format!("{repository}@{}", registry.digest("tags/app", tag, None)))
            .collect();
        assert_eq!(pushed.stdout.lines().collect::<Vec<_>>(), want);
        drop(images);
    });
}

/// A script may read only stdout, or close stdout early.
#[test]
fn stdout_has_only_references_and_may_be_closed() {
    let engine = engine("docker-28-containerd");
    let (home, registry) = (Home::new(), Registry::open());
    let images = two(&engine, &home);
    let arguments = format!("regpush {} {} --to {}", images[0].name, images[1].name, registry.name(""));
    let docker = engine.docker(&home).get_program().to_str().unwrap().to_owned();
    let shell = |script: &str| {
        let mut command = engine.docker(&home);
        let variables: Vec<_> = command
            .get_envs()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
            .collect();
        command = Command::new("sh");
        command.env_clear().envs(variables).arg("-c").arg(script);
        run(&mut command)
    };
    let references: Vec<String> = images
        .iter()
        .map(|image| {
            let (name, _) = image.name.split_once(':').unwrap();
            registry.name(name)
        })
        .collect();
    let quiet = shell(&format!("{docker} {arguments} -q | cat"));
    assert_eq!(pushed_names(&quiet.stdout), references, "{quiet:?}");
    assert_eq!(quiet.stderr, "");
    let deaf = shell(&format!("{docker} {arguments} 2>/dev/null"));
    assert_eq!(
        (deaf.status, pushed_names(&deaf.stdout)),
        (0, references.iter().map(String::as_str).collect())
    );
    let short = shell(&format!("{docker} {arguments} -q | head -n 1; {docker} {arguments} -q | true"));
    assert_eq!((short.status, short.stdout.lines().count(), short.stderr.as_str()), (0, 1, ""), "{short:?}");
}

/// Makes an image with two platforms and an attestation, as buildx does. Returns the path of a tar file with the image.
fn index(home: &Home, name: &str) -> std::path::PathBuf {
    let layout = home.path("layout");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let blob = |kind: &str, bytes: &[u8]| {
        let hex = sha256(bytes);
        fs::write(blobs.join(&hex), bytes).unwrap();
        json!({"mediaType": kind, "digest": format!("sha256:{hex}"), "size": bytes.len()})
    };
    let config = |platform: &Value, layer: &Value| {
        let diff_ids = [&layer["digest"]];
        let mut config = json!({"config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        config.as_object_mut().unwrap().extend(platform.as_object().unwrap().clone());
        blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes())
    };
    let manifest = |platform: Value, layer: Value, annotations: Value| {
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let config = config(&platform, &layer);
        let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer]});
        let mut descriptor = blob(kind, manifest.to_string().as_bytes());
        descriptor["platform"] = platform;
        descriptor["annotations"] = annotations;
        descriptor
    };
    let platform = |architecture: &str| json!({"os": "linux", "architecture": architecture});
    let image = |architecture: &str| {
        let content = home.path("content");
        fs::write(&content, format!("{architecture} in {name}")).unwrap();
        let tar = home.path("layer.tar");
        ok(Command::new("tar").arg("-C").arg(home.root()).arg("-cf").arg(&tar).arg("content"));
        let layer = blob("application/vnd.oci.image.layer.v1.tar", &fs::read(&tar).unwrap());
        manifest(platform(architecture), layer, json!({}))
    };
    let [amd64, arm64] = ["amd64", "arm64"].map(image);
    let statement = json!({"_type": "https://in-toto.io/Statement/v0.1", "about": name}).to_string();
    let attestation = manifest(
        json!({"os": "unknown", "architecture": "unknown"}),
        blob("application/vnd.in-toto+json", statement.as_bytes()),
        json!({"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": amd64["digest"]}),
    );
    let kind = "application/vnd.oci.image.index.v1+json";
    let list = json!({"schemaVersion": 2, "mediaType": kind, "manifests": [amd64, arm64, attestation]});
    let mut top = blob(kind, list.to_string().as_bytes());
    top["annotations"] = json!({"io.containerd.image.name": name});
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    fs::write(layout.join("index.json"), json!({"schemaVersion": 2, "manifests": [top]}).to_string())
        .unwrap();
    let tar = home.path("image.tar");
    ok(Command::new("tar").arg("-C").arg(&layout).arg("-cf").arg(&tar).arg("."));
    tar
}

pub fn load(engine: &Engine, home: &Home, name: &str) {
    let tar = index(home, name);
    ok(engine.docker(home).args([Path::new("load"), Path::new("-q"), Path::new("-i"), &tar]));
}

/// Returns the architectures in the index under the tag `1`, or nothing if the tag names a manifest.
pub fn architectures(registry: &Registry, repository: &str) -> Vec<String> {
    let manifest = registry.manifest(repository, "1");
    let manifests = manifest["manifests"].as_array().cloned().unwrap_or_default();
    manifests.iter().map(|one| one["platform"]["architecture"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn registry_holds_the_announced_platforms() {
    let engine = engine("docker-28-containerd");
    let (home, registry) = (Home::new(), Registry::open());
    let push = |options: &[&str], name: &str| {
        run(engine.docker(&home).args(["regpush", "--format", "json"]).args(options).arg(name))
    };
    let whole = registry.name("multi/whole:1");
    load(&engine, &home, &whole);
    // The engine lists only the layer of its own platform.
    let dry = push(&["--dry-run"], &whole);
    assert_eq!(dry.json()["dry_run"]["missing_layers"].as_array().unwrap().len(), 2, "{dry:?}");
    let pushed = push(&["--platform", "all"], &whole);
    assert_eq!(pushed.status, 0, "{pushed:?}");
    let announced = "platforms: linux/amd64, linux/arm64 and 1 attestation, all in the engine\n";
    assert!(pushed.stderr.contains(announced), "{pushed:?}");
    assert_eq!(architectures(&registry, "multi/whole"), ["amd64", "arm64", "unknown"]);
    let platforms = json!({"sent": ["linux/amd64", "linux/arm64"], "missing": [], "others": 1, "all": 2});
    assert_eq!(pushed.json()["platforms"], platforms);

    // The manifest of one platform replaces the index under the tag. A second push finds the tag unchanged.
    for (status, option) in [("pushed", "overwrite"), ("unchanged", "update")] {
        let one = push(&["--platform", "aarch64", "--if-exists", option], &whole);
        assert_eq!((one.status, &one.json()["status"]), (0, &json!(status)), "{one:?}");
        let announced = "platforms: only linux/arm64, one of 2, without attestations\n";
        assert!(one.stderr.contains(announced), "{one:?}");
        let digest = one.json()["digest"].as_str().unwrap().to_owned();
        assert_eq!(registry.digest("multi/whole", "1", None), digest);
        assert!(architectures(&registry, "multi/whole").is_empty(), "a manifest, not an index");
    }
    let other = push(&["--platform", "linux/s390x"], &whole);
    assert_eq!((other.status, &other.json()["error"]["class"]), (5, &json!("content_missing")), "{other:?}");

    // The engine has the image without one of its platforms.
    let part = registry.name("multi/part:1");
    load(&engine, &home, &part);
    ok(engine.docker(&home).args(["image", "rm", "-f", "--platform", "linux/arm64", &part]));
    let all = push(&["--platform", "all"], &part);
    assert_eq!((all.status, &all.json()["error"]["class"]), (5, &json!("content_missing")), "{all:?}");
    registry.assert_no_manifest("multi/part");
    let narrowed = push(&[], &part);
    assert_eq!(narrowed.status, 0, "{narrowed:?}");
    assert!(narrowed.stderr.contains("the engine has linux/amd64, but not linux/arm64"), "{narrowed:?}");
    let warning = "warning: only linux/amd64 was pushed, as sha256:";
    assert!(narrowed.stderr.contains(warning), "{narrowed:?}");
    let platforms = json!({"sent": ["linux/amd64"], "missing": ["linux/arm64"], "others": 0, "all": 2});
    assert_eq!(narrowed.json()["platforms"], platforms, "{narrowed:?}");
    assert_eq!(narrowed.json()["warnings"].as_array().unwrap().len(), 1, "{narrowed:?}");
    assert!(architectures(&registry, "multi/part").is_empty(), "a manifest, not an index");

    // The push of an incomplete index replaces the complete one in the registry.
    assert_eq!(push(&["--platform", "all"], &whole).status, 0);
    assert_eq!(architectures(&registry, "multi/whole").len(), 3);
    ok(engine.docker(&home).args(["image", "rm", "-f", "--platform", "linux/arm64", &whole]));
    let narrowed = push(&[], &whole);
    assert!(narrowed.stderr.contains("the tag then names this image"), "{narrowed:?}");
    assert!(architectures(&registry, "multi/whole").is_empty(), "a manifest, not an index");
    engine.remove(&["-f", &whole, &part]);
}

#[test]
fn explains_engines_without_platform_support() {
    on_each_engine(|engine| {
        let (home, registry) = (Home::new(), Registry::open());
        let image = engine.image(&home, &registry.name("one/app:1"), SMALL);
        let pushed = run(engine.docker(&home).args(["regpush", "--platform", "linux/amd64", &image.name]));
        let why = match engine.name {
            "docker-20.10" => "the engine has API version 1.41; --platform requires 1.46",
            "docker-26" => "the engine has API version 1.45; --platform requires 1.46",
            "podman" | "podman-5" => "podman cannot push a single platform of an image",
            _ => {
                assert_eq!(pushed.status, 0, "{pushed:?}");
                return;
            }
        };
        assert_eq!(pushed.status, 4, "{pushed:?}");
        assert!(pushed.stderr.contains(why), "{pushed:?}");
        registry.assert_no_manifest("one/app");
    });
}

/// The plugin prompts once for each registry, even if several images go to one registry.
#[test]
fn prompts_separately_for_each_registry() {
    let engine = engine("docker-28-classic");
    let home = Home::new();
    let registries = [(); 2].map(|()| Registry::with_users(&[("alice", PASSWORD)]));
    home.config(&json!({"auths": {registries[0].host(): {"auth": packed("alice", "old")}}}));
    let images = two(&engine, &home);
    let mut command = engine.docker_at_terminal(&home);
    command.args(["regpush", "--save-credentials", &images[0].name, &images[1].name]);
    for registry in &registries {
        command.args(["--to", &registry.name("")]);
    }
    let mut terminal = Terminal::start(command, 100, 30);
    for _ in &registries {
        terminal.wait_for("Username");
        terminal.type_in("alice\r");
        terminal.wait_for("Password: ");
        terminal.type_in(&format!("{PASSWORD}\r"));
    }
    let ended = terminal.finish();
    assert_eq!(ended.status, 0, "{}", ended.text);
    assert_eq!(ended.text.matches("Password: ").count(), 2, "{}", ended.text);
    assert_eq!(
        registries[0].failed_logins(),
        1,
        "the old password is tried once by all pushes together: {}",
        ended.text
    );
    let config: Value = serde_json::from_slice(&fs::read(home.path(".docker/config.json")).unwrap()).unwrap();
    for registry in &registries {
        assert_eq!(config["auths"][registry.host()]["auth"], packed("alice", PASSWORD), "{config}");
    }
}
