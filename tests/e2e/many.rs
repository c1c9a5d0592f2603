//! Tests pushes of one image to several registries. The engine pushes the image once, to the plugin, and the plugin
//! uploads it to each registry.

use std::fs;
use std::io::Read;
use std::process::Stdio;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::calls::Calls;
use crate::proxy::{Asked, Fault, Meant, Proxy, ask};
use crate::relay::{ENGINES, images, kill_plugin, records};
use crate::several::load;
use crate::support::{Engine, Home, Image, PrivateEngine, Registry, Run, engine, ok, run, wait_for};
use crate::terminal::Terminal;
use crate::{PASSWORD, SMALL, packed};

/// The engines that report layers, and store them compressed or name them by digest.
const DOCKER: [&str; 3] = ["docker-20.10", "docker-28-classic", "docker-28-containerd"];
/// The size in bytes of a layer of an image with three layers.
const LAYER: usize = 3_000_000;
/// The number of uploaded bytes of a layer after which a fault occurs.
const MIDDLE: usize = 1 << 20;

/// A registry behind a proxy, which logs requests and imitates faults.
struct Site {
    registry: Registry,
    proxy: Proxy,
}

impl Site {
    fn new() -> Self {
        Self::of(Registry::open())
    }

    fn of(registry: Registry) -> Self {
        Self { proxy: Proxy::to(&registry), registry }
    }

    /// Makes a registry that receives blobs at a limited speed.
    fn with_speed(bytes_per_second: u32) -> Self {
        let site = Self::new();
        site.proxy.fails(usize::MAX, ask::send, Fault::Slow(bytes_per_second));
        site
    }

    /// Returns the value of `--to` for the registry.
    fn prefix(&self) -> String {
        self.proxy.name("")
    }

    /// Returns a line for each request.
    fn requests(&self) -> String {
        let line = |asked: Asked| format!("{} {} {} bytes\n", asked.method, asked.path, asked.body);
        self.proxy.log().into_iter().map(line).collect()
    }

    /// Returns the uploads of layers and configurations.
    fn sends(&self) -> Vec<Asked> {
        self.proxy.log().into_iter().filter(|asked| ask::send(&asked.method, &asked.path)).collect()
    }

    /// Returns the sorted digests of the blobs whose uploads were finished, one for each upload.
    fn uploads(&self) -> Vec<String> {
        let finished = self.sends().into_iter().filter(|asked| asked.method == "PUT");
        let digest = |asked: Asked| {
            let (_, digest) = asked.path.split_once("digest=")?;
            Some(digest.split('&').next()?.replace("%3A", ":"))
        };
        let mut digests: Vec<String> = finished.filter_map(digest).collect();
        digests.sort();
        digests
    }

    /// Returns the number of bytes of all blobs that the registry has received.
    fn received(&self) -> usize {
        self.sends().iter().map(|asked| asked.body).sum()
    }

    /// Returns the sorted digests of the blobs in the manifest of a tag.
    fn blobs(&self, path: &str, tag: &str) -> Vec<String> {
        let mut blobs = digests(&self.registry.manifest(path, tag));
        blobs.sort();
        blobs
    }

    /// Returns when the registry had the manifest of a tag.
    fn time_of_tag(&self, tag: &str) -> Instant {
        let log = self.proxy.log();
        let is_tag = |asked: &&Asked| {
            ask::manifest(&asked.method, &asked.path) && asked.path.ends_with(&format!("/{tag}"))
        };
        let tagged = log.iter().filter(is_tag).find_map(|asked| asked.answered);
        tagged.unwrap_or_else(|| panic!("no tag {tag}:\n{}", self.requests()))
    }

    /// Asserts that the result of a push says that the registry has the image, and that the registry has it.
    fn assert_has(&self, result: &Value, path: &str, tag: &str) {
        assert_eq!(result["error"], json!(null), "{result}\n{}", self.requests());
        self.assert_serves(result, &self.registry.digest(path, tag, None));
        let reference = self.proxy.name(&format!("{path}:{tag}"));
        assert_eq!(result["reference"], reference, "{result}");
        for blob in self.blobs(path, tag) {
            assert!(has_blob(&self.registry, &blob), "{blob}: {result}");
        }
    }

    fn assert_serves(&self, result: &Value, digest: &str) {
        let found = (&result["status"], &result["verified"], &result["route"], &result["digest"]);
        assert_eq!(found, (&json!("pushed"), &json!(true), &json!("relay"), &json!(digest)), "{result}");
    }
}

/// Returns the digests of the layers and of the configuration in a manifest, in this order.
fn digests(manifest: &Value) -> Vec<String> {
    let layers = manifest["layers"].as_array().into_iter().flatten();
    let all = layers.chain([&manifest["config"]]);
    all.map(|blob| blob["digest"].as_str().expect("a digest").to_owned()).collect()
}

/// Returns whether a blob is in the storage of a registry.
fn has_blob(registry: &Registry, digest: &str) -> bool {
    let hex = digest.trim_start_matches("sha256:");
    registry.blobs().join(&hex[..2]).join(hex).join("data").exists()
}

/// An engine whose calls are logged, and its user.
struct Stage {
    engine: Engine,
    calls: Calls,
    home: Home,
}

/// The output of a push, and one result for each destination.
struct Pushed {
    run: Run,
    results: Vec<Value>,
}

impl Stage {
    fn new(name: &'static str) -> Self {
        Self::at(&engine(name), Home::new())
    }

    fn at(engine: &Engine, home: Home) -> Self {
        let (engine, calls) = Calls::to(engine, &home);
        Self { engine, calls, home }
    }

    /// Returns a repository that only one test uses, without a domain.
    fn path(&self, test: &str) -> String {
        format!("many/{test}-{}", self.engine.name)
    }

    /// Makes an image with several layers of random content, with the tag `1` in a repository without a domain.
    ///
    /// * `layers`: the number of layers, and the size in bytes of each.
    fn layered(&self, path: &str, layers: (usize, usize)) -> Image<'_> {
        // podman loads a name without a domain as `localhost/…`.
        self.engine.layered_image(&self.home, &format!("docker.io/{path}:1"), layers)
    }

    fn push(&self, arguments: &[&str], sites: &[&Site]) -> Pushed {
        let mut command = self.engine.docker(&self.home);
        command.args(["regpush", "--format", "json"]).args(arguments);
        for site in sites {
            command.args(["--to", &site.prefix()]);
        }
        let run = run(&mut command);
        println!("{} {arguments:?}: {}\n{}{}", self.engine.name, run.status, run.stderr, run.stdout);
        let results = run.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        Pushed { run, results }
    }

    /// Pushes an image with `docker push` under a name that is removed afterwards.
    fn push_by_docker(&self, image: &str, name: &str) {
        ok(self.engine.docker(&self.home).args(["tag", image, name]));
        ok(self.engine.docker(&self.home).args(["push", "-q", name]));
        self.engine.remove(&[name]);
    }

    fn assert_pushes(&self, count: usize) {
        let pushes = self.calls.pushes();
        assert_eq!(pushes.len(), count, "{}: {pushes:?}", self.engine.name);
    }

    /// Asserts that the names of the image are as before a push, and that no temporary name is recorded.
    fn assert_nothing_left(&self, before: &[String], path: &str) {
        assert_eq!(self.names(path), before, "{}", self.engine.name);
        assert!(records(&self.home).is_empty(), "{}: {:?}", self.engine.name, records(&self.home));
    }

    /// Returns the names of all images whose name contains `text`.
    fn names(&self, text: &str) -> Vec<String> {
        images(&self.engine, &self.home, text).into_iter().collect()
    }
}

impl Pushed {
    fn assert_status(&self, status: i32) {
        assert_eq!(self.run.status, status, "{:?}", self.run);
    }

    /// Asserts that a destination failed, with a hint.
    fn assert_failed(&self, index: usize, class: &str) {
        let error = &self.results[index]["error"];
        assert_eq!(error["class"], class, "{:?}", self.run);
        assert_eq!(self.results[index]["status"], "failed", "{:?}", self.run);
        assert!(error["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{:?}", self.run);
    }
}

/// Runs a test on several engines concurrently.
fn on_each(engines: &[&'static str], test: impl Fn(Stage) + Sync) {
    thread::scope(|scope| {
        for name in engines {
            let test = &test;
            scope.spawn(move || test(Stage::new(name)));
        }
    });
}

fn random(size: usize) -> Vec<u8> {
    let mut content = Vec::new();
    let random = fs::File::open("/dev/urandom").unwrap();
    random.take(size as u64).read_to_end(&mut content).unwrap();
    content
}

#[test]
fn three_registries_get_one_push_and_the_digest_of_a_direct_push() {
    on_each(&ENGINES, |stage| {
        let path = stage.path("three");
        let image = stage.layered(&path, (3, LAYER));
        let before = stage.names(&path);
        let sites = [Site::new(), Site::new(), Site::new()];
        let to = [&sites[2], &sites[0], &sites[1]];
        let pushed = stage.push(&["--verify", "always", &image.name], &to);
        pushed.assert_status(0);
        stage.assert_pushes(1);
        assert_eq!(pushed.results.len(), 3, "{:?}", pushed.run);
        for (site, result) in to.into_iter().zip(&pushed.results) {
            site.assert_has(result, &path, "1");
            assert_eq!(site.uploads(), site.blobs(&path, "1"), "{}", site.requests());
            assert_eq!(result["layers"], json!({"total": 3, "pushed": 3, "exists": 0, "mounted": 0}));
            assert_eq!(result["attempts"], 1, "{result}");
            // A registry counts what it has received, so a result cannot have counted for all three.
            let (sent, received) = (result["bytes"].as_u64().unwrap(), site.received() as u64);
            assert!(sent >= 3 * LAYER as u64 && sent <= received, "{sent} of {received}: {result}");
        }
        stage.assert_nothing_left(&before, &path);

        // A second push sends nothing, and prints references in the order asked.
        let sent: Vec<usize> = sites.iter().map(|site| site.sends().len()).collect();
        let mut again = stage.engine.docker(&stage.home);
        again.args(["regpush", "-q", &image.name]);
        for site in to {
            again.args(["--to", &site.prefix()]);
        }
        let again = run(&mut again);
        let digest = pushed.results[0]["digest"].as_str().unwrap();
        let references = to.map(|site| format!("{}@{digest}\n", site.proxy.name(&path)));
        assert_eq!(again, Run { status: 0, stdout: references.concat(), stderr: String::new() });
        if !stage.engine.is_podman() {
            let now: Vec<usize> = sites.iter().map(|site| site.sends().len()).collect();
            assert_eq!(now, sent, "{}", stage.engine.name);
        }

        // The engine itself pushes the same digest.
        let direct = Registry::open();
        let to_direct = direct.name("");
        let mut itself = stage.engine.docker(&stage.home);
        ok(itself.args(["regpush", "--relay", "never", &image.name, "--to", &to_direct]));
        assert_eq!(direct.digest(&path, "1", None), digest, "{}", stage.engine.name);
        if !stage.engine.is_podman() {
            stage.push_by_docker(&image.name, &direct.name(&format!("{path}:docker")));
            assert_eq!(direct.digest(&path, "docker", None), digest, "{}", stage.engine.name);
        }
        stage.assert_nothing_left(&before, &path);
    });
}

/// The classic store asks only for digests that it knows from an earlier push.
#[test]
fn registries_receive_only_the_blobs_that_they_lack() {
    on_each(&DOCKER, |stage| {
        let path = stage.path("lack");
        let [has_all, lacks_one, lacks_all] = [Site::new(), Site::new(), Site::new()];
        let contents = [random(LAYER), random(LAYER), random(LAYER)];
        let part = format!("{path}:part");
        let part = stage.engine.image_of(&stage.home, &part, contents[..2].iter().cloned());
        stage.push_by_docker(&part.name, &lacks_one.registry.name(&part.name));
        let image = stage.engine.image_of(&stage.home, &format!("{path}:1"), contents.into_iter());
        stage.push_by_docker(&image.name, &has_all.registry.name(&format!("{path}:docker")));

        stage.calls.clear();
        let sites = [&lacks_one, &has_all, &lacks_all];
        let pushed = stage.push(&[&image.name], &sites);
        pushed.assert_status(0);
        stage.assert_pushes(1);
        for (site, result) in sites.into_iter().zip(&pushed.results) {
            site.assert_has(result, &path, "1");
        }
        let all = lacks_all.blobs(&path, "1");
        assert_eq!(lacks_all.uploads(), all, "{}: {}", stage.engine.name, lacks_all.requests());
        assert!(has_all.sends().is_empty(), "{}: {}", stage.engine.name, has_all.requests());
        // The registry lacks the last layer and the configuration.
        let mut lacking = digests(&lacks_one.registry.manifest(&path, "1")).split_off(2);
        lacking.sort();
        assert_eq!(lacks_one.uploads(), lacking, "{}: {}", stage.engine.name, lacks_one.requests());
        let layers =
            |exists: usize| json!({"total": 3, "pushed": 3 - exists, "exists": exists, "mounted": 0});
        for (result, exists) in pushed.results.iter().zip([2, 3, 0]) {
            assert_eq!(result["layers"], layers(exists), "{}: {result}", stage.engine.name);
        }

        // Now all registries have all blobs.
        let sent = sites.map(|site| site.sends().len());
        let again = stage.push(&[&image.name], &sites);
        again.assert_status(0);
        assert_eq!(sites.map(|site| site.sends().len()), sent, "{}", stage.engine.name);
        for result in &again.results {
            assert_eq!(result["layers"], layers(3), "{}: {result}", stage.engine.name);
        }
    });
}

/// The classic store asks for the layers that it knows, and starts the upload of the new layer without a question.
#[test]
fn new_layer_on_known_layers() {
    on_each(&DOCKER, |stage| {
        let path = stage.path("new");
        let contents = [random(LAYER), random(LAYER), random(LAYER)];
        let old = stage.engine.image_of(&stage.home, &format!("{path}:old"), contents[..2].iter().cloned());
        let [has_old, lacks_all] = [Site::new(), Site::new()];
        stage.push_by_docker(&old.name, &has_old.registry.name(&old.name));
        let image = stage.engine.image_of(&stage.home, &format!("{path}:1"), contents.into_iter());
        stage.calls.clear();
        let sites = [&has_old, &lacks_all];
        let pushed = stage.push(&[&image.name], &sites);
        pushed.assert_status(0);
        for (site, result) in sites.into_iter().zip(&pushed.results) {
            site.assert_has(result, &path, "1");
        }
        stage.assert_pushes(1);
        let mut lacking = digests(&has_old.registry.manifest(&path, "1")).split_off(2);
        lacking.sort();
        assert_eq!(has_old.uploads(), lacking, "{}\n{}", stage.engine.name, has_old.requests());
        assert_eq!(lacks_all.uploads(), lacks_all.blobs(&path, "1"), "{}", lacks_all.requests());
    });
}

/// A push to three registries, one of which is faulty.
struct Case {
    name: &'static str,
    options: &'static [&'static str],
    /// The number of requests to which the proxy applies the fault, and a function that selects these requests.
    meant: (usize, Meant),
    fault: Fault,
    /// The exit status and the class of the error; `None` if the push to the faulty registry succeeds.
    failure: Option<(i32, &'static str)>,
}

/// Pushes an image to two registries, and then for each case to the two registries and to a faulty one. Asserts that
/// the fault does not affect the two others.
///
/// * `layers`: the number of layers, and the size in bytes of each.
/// * `speed`: the bytes per second that a registry without a fault receives. It is less than the speed of the machine,
///   so that the times depend little on other tests.
fn one_of_three(test: &str, layers: (usize, usize), speed: u32, cases: &[Case]) {
    thread::scope(|scope| {
        for name in DOCKER {
            scope.spawn(move || {
                // The engine serves no other test, since an engine runs at most five uploads at once.
                let (docker, home) = (engine(name), Home::new());
                let socket = home.path("private.sock");
                let arguments = ["--host".to_owned(), format!("unix://{}", socket.display())];
                let _private = PrivateEngine::start(&docker, &arguments);
                let stage = Stage::at(&docker.at(&socket), home);
                let path = stage.path(test);
                let image = stage.layered(&path, layers);
                let before = stage.names(&path);
                let mut without_fault = time_of_two(&stage, &image, &path, speed);
                for (number, case) in cases.iter().enumerate() {
                    let measure = || time_of_case(&stage, &image, &path, speed, (number % 3, case));
                    let is_delayed = |pushes: u32, with: Duration, without: Duration| {
                        with > without.mul_f64(1.3) + pushes * Duration::from_secs(1)
                    };
                    // Other tests slow down single pushes. A push that seems delayed is therefore repeated, in turn with a
                    // push without the fault, and the total times are compared.
                    let mut pushes = 1;
                    let (mut with, mut without) = (measure(), without_fault);
                    while pushes < 5 && is_delayed(pushes, with, without) {
                        pushes += 1;
                        without += time_of_two(&stage, &image, &path, speed);
                        with += measure();
                    }
                    let times = format!("{name}, {}: {with:?} instead of {without:?} ({pushes})", case.name);
                    println!("{times}");
                    assert!(!is_delayed(pushes, with, without), "{times}");
                    without_fault = without / pushes;
                    stage.assert_nothing_left(&before, &path);
                }
            });
        }
    });
}

/// Returns the time of a push to two registries, until both have the tag.
fn time_of_two(stage: &Stage, image: &Image<'_>, path: &str, speed: u32) -> Duration {
    let sites = [Site::with_speed(speed), Site::with_speed(speed)];
    let sites = sites.each_ref();
    stage.calls.clear();
    let started = Instant::now();
    let pushed = stage.push(&[&image.name], &sites);
    pushed.assert_status(0);
    stage.assert_pushes(1);
    for (site, result) in sites.into_iter().zip(&pushed.results) {
        site.assert_has(result, path, "1");
    }
    sites.map(|site| site.time_of_tag("1")).into_iter().max().expect("two") - started
}

/// Pushes to a faulty registry and to two others, and asserts that the results are right. Returns the time until the two
/// others have the tag.
///
/// * `index`: the place of the faulty registry in the order asked.
fn time_of_case(
    stage: &Stage,
    image: &Image<'_>,
    path: &str,
    speed: u32,
    (index, case): (usize, &Case),
) -> Duration {
    let [one, two, faulty] = [Site::with_speed(speed), Site::with_speed(speed), Site::new()];
    let (times, is_for) = case.meant;
    faulty.proxy.fails(times, is_for, case.fault.clone());
    faulty.proxy.fails(usize::MAX, ask::send, Fault::Slow(speed));
    let mut sites = vec![&one, &two];
    sites.insert(index, &faulty);
    let started = Instant::now();
    let pushed = stage.push(&[case.options, &[&image.name]].concat(), &sites);
    assert_eq!(pushed.results.len(), 3, "{}: {:?}", case.name, pushed.run);
    for (at, site) in sites.iter().enumerate().filter(|(at, _)| *at != index) {
        site.assert_has(&pushed.results[at], path, "1");
    }
    match case.failure {
        None => {
            pushed.assert_status(0);
            faulty.assert_has(&pushed.results[index], path, "1");
        }
        Some((status, class)) => {
            pushed.assert_status(status);
            pushed.assert_failed(index, class);
            let repository = faulty.registry.data().join("docker/registry/v2/repositories").join(path);
            assert!(!repository.join("_manifests/tags/1").exists(), "{}: {:?}", case.name, pushed.run);
        }
    }
    [one, two].iter().map(|site| site.time_of_tag("1")).max().expect("two") - started
}

#[test]
fn slow_registry_does_not_delay_the_others() {
    one_of_three(
        "slow",
        (5, 10_000_000),
        10_000_000,
        &[Case {
            name: "1 MB/s",
            options: &[],
            meant: (usize::MAX, ask::send),
            fault: Fault::Slow(1_000_000),
            failure: None,
        }],
    );
}

#[test]
fn stalled_and_broken_uploads_do_not_delay_the_others() {
    let case = |name, options, times, fault, failure| Case {
        name,
        options,
        meant: (times, ask::send),
        fault,
        failure,
    };
    one_of_three(
        "broken",
        (2, 6_000_000),
        3_000_000,
        &[
            case(
                "stalls",
                &["--stall-timeout", "5s", "--retries", "0"],
                usize::MAX,
                Fault::Stall(MIDDLE),
                Some((7, "stalled")),
            ),
            case("stalls once", &["--stall-timeout", "5s"], 1, Fault::Stall(MIDDLE), None),
            case("resets", &["--retries", "1"], usize::MAX, Fault::Reset(2 * MIDDLE), Some((6, "network"))),
            case("resets once", &[], 1, Fault::Reset(2 * MIDDLE), None),
        ],
    );
}

#[test]
fn refusals_of_a_registry_do_not_delay_the_others() {
    let case = |name, (is_for, fault): (Meant, Fault), failure| Case {
        name,
        options: &["--retries", "0", "--verify-wait", "2s"],
        meant: (usize::MAX, is_for),
        fault,
        failure: Some(failure),
    };
    let refusal =
        |is_for: Meant, status, code: &str, message: &str| (is_for, Fault::refusal(status, code, message));
    let begin = ask::begin as Meant;
    one_of_three(
        "refused",
        (2, 3_000_000),
        2_000_000,
        &[
            case(
                "429",
                refusal(begin, "429 Too Many Requests", "TOOMANYREQUESTS", "slow down"),
                (6, "rate_limited"),
            ),
            case("503", (begin, Fault::page("503 Service Unavailable")), (6, "server")),
            case("loses the manifest", (ask::manifest, Fault::Lose), (9, "unverified")),
            case("401", refusal(begin, "401 Unauthorized", "UNAUTHORIZED", "no such user"), (3, "auth")),
            case("403", refusal(begin, "403 Forbidden", "DENIED", "you may not push"), (3, "denied")),
            case(
                "405",
                refusal(begin, "405 Method Not Allowed", "UNSUPPORTED", "read-only"),
                (1, "rejected"),
            ),
            case(
                "413",
                refusal(begin, "413 Payload Too Large", "SIZE_INVALID", "too large"),
                (1, "rejected"),
            ),
            case(
                "immutable tag",
                refusal(ask::manifest, "400 Bad Request", "TAG_INVALID", "The tag '1' is immutable"),
                (1, "rejected"),
            ),
        ],
    );
}

/// Lets a registry answer 300 ms later whether it has a blob. The engine sends a blob as soon as one registry lacks it.
fn answer_late(site: &Site) {
    let is_query: Meant = |method, path| method == "HEAD" && path.contains("/blobs/");
    // The delay is the tested fault, not a wait for a condition.
    let delay = |_| thread::sleep(Duration::from_millis(300));
    site.proxy.fails(usize::MAX, is_query, Fault::Then(Arc::new(delay)));
}

#[test]
fn late_answer_about_a_blob_does_not_let_the_manifest_come_first() {
    on_each(&ENGINES, |stage| {
        let path = stage.path("late");
        // The layer has no files, so its size is about that of the configuration.
        let name = format!("docker.io/{path}:1");
        let image = stage.engine.image_of(&stage.home, &name, [Vec::new()].into_iter());
        let [one, late, two] = [Site::new(), Site::with_speed(500), Site::new()];
        answer_late(&late);
        let sites = [&one, &late, &two];
        let pushed = stage.push(&["--retries", "0", &image.name], &sites);
        for (site, result) in sites.into_iter().zip(&pushed.results) {
            site.assert_has(result, &path, "1");
        }
        pushed.assert_status(0);
        stage.assert_pushes(1);
    });
}

#[test]
fn late_answer_that_a_registry_has_a_blob_is_not_too_late() {
    on_each(&DOCKER, |stage| {
        let path = stage.path("known");
        let image = stage.layered(&path, (1, LAYER));
        let [late, lacks_all] = [Site::new(), Site::new()];
        stage.push_by_docker(&image.name, &late.registry.name(&format!("{path}:docker")));
        answer_late(&late);
        stage.calls.clear();
        let sites = [&late, &lacks_all];
        let pushed = stage.push(&[&image.name], &sites);
        pushed.assert_status(0);
        for (site, result) in sites.into_iter().zip(&pushed.results) {
            site.assert_has(result, &path, "1");
        }
        assert!(late.sends().is_empty(), "{}\n{}", stage.engine.name, late.requests());
        stage.assert_pushes(1);
    });
}

#[test]
fn status_is_that_of_the_first_failure_in_the_order_asked() {
    on_each(&ENGINES, |stage| {
        let path = stage.path("status");
        let image = stage.engine.image(&stage.home, &format!("{path}:1"), SMALL);
        let [denied, healthy, unavailable] = [Site::new(), Site::new(), Site::new()];
        let refusal = Fault::refusal("403 Forbidden", "DENIED", "you may not push");
        denied.proxy.fails(usize::MAX, ask::begin, refusal);
        unavailable.proxy.fails(usize::MAX, ask::begin, Fault::page("503 Service Unavailable"));
        for (sites, status, classes) in [
            ([&denied, &healthy, &unavailable], 3, ["denied", "", "server"]),
            ([&unavailable, &healthy, &denied], 6, ["server", "", "denied"]),
        ] {
            let pushed = stage.push(&["--retries", "0", &image.name], &sites);
            pushed.assert_status(status);
            pushed.assert_failed(0, classes[0]);
            healthy.assert_has(&pushed.results[1], &path, "1");
            pushed.assert_failed(2, classes[2]);
        }
    });
}

#[test]
fn twelve_tags_are_one_upload() {
    on_each(&ENGINES, |stage| {
        let path = stage.path("tags");
        let image = stage.layered(&path, (2, LAYER));
        let mut tags: Vec<String> = (1..=12).map(|tag: u32| tag.to_string()).collect();
        let names: Vec<String> = tags.iter().map(|tag| format!("{path}:{tag}")).collect();
        for name in &names[1..] {
            ok(stage.engine.docker(&stage.home).args(["tag", &image.name, name]));
        }
        let before = stage.names(&path);
        let sites = [Site::new(), Site::new(), Site::new()];
        let sites = sites.each_ref();
        let pushed = stage.engine.while_images_stay(|| stage.push(&["--all-tags", &path], &sites));
        pushed.assert_status(0);
        stage.assert_pushes(1);
        // For each registry, the results are in alphabetical order of the tags: 1, 10, 11, 12, 2, …
        tags.sort();
        let destinations: Vec<(&String, &Site)> =
            sites.into_iter().flat_map(|site| tags.iter().map(move |tag| (tag, site))).collect();
        assert_eq!(pushed.results.len(), destinations.len(), "{:?}", pushed.run);
        for ((tag, site), result) in destinations.into_iter().zip(&pushed.results) {
            site.assert_has(result, &path, tag);
        }
        for site in sites {
            assert_eq!(site.uploads(), site.blobs(&path, "1"), "{}", site.requests());
        }
        stage.assert_nothing_left(&before, &path);

        // Names given one by one are one upload too.
        let more = [Site::new(), Site::new()];
        let more = more.each_ref();
        stage.calls.clear();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let pushed = stage.push(&names, &more);
        pushed.assert_status(0);
        stage.assert_pushes(1);
        assert_eq!(pushed.results.len(), 24, "{:?}", pushed.run);
        for site in more {
            assert_eq!(site.uploads(), site.blobs(&path, "1"), "{}", site.requests());
        }
        stage.engine.remove(&names[1..]);
    });
}

#[test]
fn second_repository_of_a_registry_gets_mounts() {
    on_each(&ENGINES, |stage| {
        let path = stage.path("mounts");
        let image = stage.layered(&path, (3, LAYER));
        let before = stage.names(&path);
        let [twice, once] = [Site::new(), Site::new()];
        let to = [twice.proxy.name("one/"), once.prefix(), twice.proxy.name("two/")];
        let to: Vec<&str> = to.iter().flat_map(|to| ["--to", to]).collect();
        let pushed = stage.push(&[&[image.name.as_str()], &to[..]].concat(), &[]);
        pushed.assert_status(0);
        stage.assert_pushes(1);
        let [first, second] = ["one", "two"].map(|prefix| format!("{prefix}/{path}"));
        for (site, path, result) in [
            (&twice, &first, &pushed.results[0]),
            (&once, &path, &pushed.results[1]),
            (&twice, &second, &pushed.results[2]),
        ] {
            site.assert_has(result, path, "1");
        }
        for (site, path) in [(&twice, &first), (&once, &path)] {
            assert_eq!(site.uploads(), site.blobs(path, "1"), "{}\n{}", stage.engine.name, site.requests());
        }
        let log = twice.proxy.log();
        let mounts: Vec<&Asked> = log.iter().filter(|asked| asked.path.contains("mount=sha256")).collect();
        assert!(mounts.len() >= 4, "three layers and the configuration: {}: {log:?}", stage.engine.name);
        let is_mounted = |result: &&Value| result["layers"]["mounted"] == 3;
        assert_eq!(pushed.results.iter().filter(is_mounted).count(), 1, "{:?}", pushed.run);
        stage.assert_nothing_left(&before, &path);
    });
}

#[test]
fn indexes_and_attestations() {
    let stage = Stage::new("docker-28-containerd");
    let path = stage.path("index");
    let name = format!("docker.io/{path}:1");
    load(&stage.engine, &stage.home, &name);
    let before = stage.names(&path);
    for options in [&["--platform", "all"][..], &[]] {
        stage.calls.clear();
        let sites = [Site::new(), Site::new()];
        let sites = sites.each_ref();
        let pushed = stage.push(&[options, &[name.as_str()]].concat(), &sites);
        pushed.assert_status(0);
        stage.assert_pushes(1);
        for (site, result) in sites.into_iter().zip(&pushed.results) {
            site.assert_serves(result, &site.registry.digest(&path, "1", None));
            let index = site.registry.manifest(&path, "1");
            let children = index["manifests"].as_array().unwrap();
            let kinds: Vec<&Value> =
                children.iter().map(|child| &child["platform"]["architecture"]).collect();
            assert_eq!(kinds, ["amd64", "arm64", "unknown"], "{index}");
            for child in children {
                let manifest = site.registry.manifest(&path, child["digest"].as_str().unwrap());
                for blob in digests(&manifest) {
                    assert!(has_blob(&site.registry, &blob), "{blob} of {child}");
                }
            }
            // The manifests of the platforms come before the index.
            let log = site.proxy.log();
            let manifests: Vec<&Asked> =
                log.iter().filter(|asked| ask::manifest(&asked.method, &asked.path)).collect();
            assert_eq!(manifests.len(), 4, "{log:?}");
            assert!(manifests[3].path.ends_with("/1"), "{manifests:?}");
        }
        stage.assert_nothing_left(&before, &path);
    }
    // One platform is a manifest.
    let sites = [Site::new(), Site::new()];
    let sites = sites.each_ref();
    let pushed = stage.push(&["--platform", "linux/arm64", &name], &sites);
    pushed.assert_status(0);
    for (site, result) in sites.into_iter().zip(&pushed.results) {
        site.assert_has(result, &path, "1");
    }
    stage.engine.remove(&["-f", &name]);
}

/// Makes two registries whose uploads stall, so that a push to both is in progress until a signal ends it.
fn stalled() -> [Site; 2] {
    [(); 2].map(|()| {
        let site = Site::new();
        site.proxy.fails(usize::MAX, ask::send, Fault::Stall(MIDDLE));
        site
    })
}

fn wait_until_stalled(sites: &[Site; 2]) {
    for site in sites {
        wait_for("the upload stalls", || site.proxy.log().iter().any(|asked| asked.is_faulty).then_some(()));
    }
}

/// Waits until the engine works on no push.
fn wait_until_stopped(stage: &Stage) {
    wait_for(&format!("{} stops the push", stage.engine.name), || {
        let pushes = stage.calls.pushes();
        (!pushes.is_empty() && pushes.iter().all(|push| push.has_ended)).then_some(())
    });
}

/// The size in bytes of a layer of which the plugin keeps only a part in memory (64 MiB) while its uploads stall.
const LARGE: usize = 80_000_000;

#[test]
fn ctrl_c_stops_the_engine_and_leaves_no_name() {
    on_each(&ENGINES, |stage| {
        let path = stage.path("interrupted");
        let image = stage.engine.image(&stage.home, &format!("{path}:1"), LARGE);
        let before = stage.names(&path);
        let sites = stalled();
        let mut command = stage.engine.docker_at_terminal(&stage.home);
        command.args(["regpush", &image.name, "--to", &sites[0].prefix(), "--to", &sites[1].prefix()]);
        let mut terminal = Terminal::start(command, 100, 30);
        wait_until_stalled(&sites);
        terminal.type_in("\x03");
        let ended = terminal.finish();
        assert_eq!(ended.status, 130, "{}: {}", stage.engine.name, ended.text);
        assert!(ended.restored && ended.text.contains("error: interrupted"), "{}", ended.text);
        stage.assert_pushes(1);
        wait_until_stopped(&stage);
        stage.assert_nothing_left(&before, &path);
        for site in &sites {
            site.registry.assert_no_manifest(&path);
        }
    });
}

#[test]
fn killed_push_leaves_a_name_that_the_next_push_removes() {
    on_each(&ENGINES, |stage| {
        let path = stage.path("killed");
        let sites = stalled();
        let [first, second] = sites.each_ref().map(|site| site.proxy.name(&format!("{path}:1")));
        let image = stage.engine.image(&stage.home, &first, LARGE);
        ok(stage.engine.docker(&stage.home).args(["tag", &first, &second]));
        let before = stage.names(&path);
        let mut command = stage.engine.docker(&stage.home);
        command.args(["regpush", "-q", &first, &second]);
        let pushing = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until_stalled(&sites);
        kill_plugin(pushing);
        assert_eq!(records(&stage.home).len(), 1, "{}: a temporary name", stage.engine.name);
        assert_eq!(stage.names(&path).len(), before.len() + 1, "{}: a temporary name", stage.engine.name);
        wait_until_stopped(&stage);

        let sites = [Site::new(), Site::new()];
        let sites = sites.each_ref();
        stage.calls.clear();
        let pushed = stage.push(&[&image.name], &sites);
        pushed.assert_status(0);
        stage.assert_pushes(1);
        for (site, result) in sites.into_iter().zip(&pushed.results) {
            site.assert_has(result, &path, "1");
        }
        stage.assert_nothing_left(&before, &path);
        stage.engine.remove(&[&second]);
    });
}

#[test]
fn names_of_one_image_are_one_push() {
    on_each(&ENGINES, |stage| {
        let path = stage.path("names");
        let [one, two] = [Site::new(), Site::new()];
        let [first, second] = [&one, &two].map(|site| site.proxy.name(&format!("{path}:1")));
        let image = stage.engine.layered_image(&stage.home, &first, (2, LAYER));
        ok(stage.engine.docker(&stage.home).args(["tag", &first, &second]));
        let other = one.proxy.name(&format!("{path}:other"));
        let other = stage.engine.image(&stage.home, &other, SMALL);
        let before = stage.names(&path);
        // The other image has one destination, so the engine pushes it to the registry.
        let pushed = stage.push(&[&second, &other.name, &image.name], &[]);
        pushed.assert_status(0);
        stage.assert_pushes(2);
        two.assert_has(&pushed.results[0], &path, "1");
        let direct = &pushed.results[1];
        assert_eq!((&direct["route"], &direct["reference"]), (&json!("engine"), &json!(other.name)));
        assert_eq!(direct["digest"], one.registry.digest(&path, "other", None));
        one.assert_has(&pushed.results[2], &path, "1");
        for site in [&one, &two] {
            let blobs = site.blobs(&path, "1");
            let uploads = site.uploads();
            let count = |blob| uploads.iter().filter(|upload| *upload == blob).count();
            assert!(blobs.iter().all(|blob| count(blob) == 1), "{}: {uploads:?}", stage.engine.name);
        }
        stage.assert_nothing_left(&before, &path);
        stage.engine.remove(&[&second]);
    });
}

#[test]
fn one_registry_requires_a_password() {
    on_each(&ENGINES, |stage| {
        let path = stage.path("password");
        let image = stage.layered(&path, (2, LAYER));
        let locked = Site::of(Registry::with_users(&[("alice", PASSWORD)]));
        let [one, two] = [Site::new(), Site::new()];
        let sites = [&one, &locked, &two];
        let pushed = stage.push(&[&image.name], &sites);
        pushed.assert_status(3);
        one.assert_has(&pushed.results[0], &path, "1");
        pushed.assert_failed(1, "auth");
        let domain = locked.proxy.domain();
        let hint = pushed.results[1]["error"]["hint"].as_str().unwrap();
        assert!(hint.contains(&domain), "{hint}");
        two.assert_has(&pushed.results[2], &path, "1");
        locked.registry.assert_no_manifest(&path);

        let login = json!({"auths": {&domain: {"auth": packed("alice", PASSWORD)}}});
        stage.home.config(&login);
        stage.calls.clear();
        let pushed = stage.push(&[&image.name], &sites);
        pushed.assert_status(0);
        stage.assert_pushes(1);
        one.assert_has(&pushed.results[0], &path, "1");
        let digest = locked.registry.digest(&path, "1", Some(("alice", PASSWORD)));
        locked.assert_serves(&pushed.results[1], &digest);
        let credentials = json!({"source": "config", "username": "alice"});
        assert_eq!(pushed.results[1]["credentials"], credentials, "{:?}", pushed.run);
        two.assert_has(&pushed.results[2], &path, "1");
        let anonymous = json!({"source": "none", "username": null});
        for index in [0, 2] {
            assert_eq!(pushed.results[index]["credentials"], anonymous, "{:?}", pushed.run);
        }
        assert_eq!(locked.registry.failed_logins(), 0, "{}", locked.registry.log());
    });
}

#[test]
fn relay_never_pushes_to_each_registry() {
    on_each(&ENGINES, |stage| {
        let path = stage.path("never");
        let image = stage.engine.image(&stage.home, &format!("{path}:1"), SMALL);
        let before = stage.names(&path);
        let sites = [Site::new(), Site::new(), Site::new()];
        let sites = sites.each_ref();
        let pushed = stage.push(&["--relay", "never", &image.name], &sites);
        pushed.assert_status(0);
        stage.assert_pushes(3);
        for (site, result) in sites.into_iter().zip(&pushed.results) {
            assert_eq!(result["route"], "engine", "{}: {result}", stage.engine.name);
            assert_eq!(result["digest"], site.registry.digest(&path, "1", None), "{}", stage.engine.name);
        }
        stage.assert_nothing_left(&before, &path);
    });
}
