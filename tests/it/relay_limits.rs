//! Tests how the relay sends blobs to registries that limit the size of requests. The plugin runs with a fake engine that
//! pushes to the relay, and with a fake registry that also is the HTTP proxy for the names of known registries.

#![expect(clippy::unwrap_used, reason = "all of it is a test")]

use std::collections::BTreeMap;
use std::thread;

use docker_regpush::oci::sha256;

use crate::support::client::{Store, blob};
use crate::support::engine::{FakeEngine, Reply};
use crate::support::env::{Run, TestEnv, run};
use crate::support::registry::{DataRequest, FakeRegistry, Fault, Limits};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const STORES: [Store; 2] = [Store::Classic, Store::Containerd];
const ID: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const GHCR: Limits = Limits::Chunk(4 << 20);
const ECR: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/app:1";
const ACR: &str = "example.azurecr.io/team/app:1";

/// The result of a push through the relay.
struct Pushed {
    run: Run,
    registry: FakeRegistry,
    layers: Vec<Vec<u8>>,
    /// The number of push requests to the engine.
    attempts: usize,
    /// The push requests to the engine name a loopback address.
    is_relayed: bool,
}

impl Pushed {
    /// Checks that the registry has the image, and that no request had wrong data.
    fn assert_stored(&self, case: &str) -> &Self {
        let state = self.registry.state.lock().unwrap();
        let summary: Vec<String> = state.data.iter().map(DataRequest::summary).collect();
        assert_eq!(self.run.status, 0, "{case}: {}\n{summary:?}", self.run);
        for layer in &self.layers {
            let stored = state.blobs.get(&format!("sha256:{}", sha256(layer)));
            assert!(stored == Some(layer), "{case}: a layer is missing\n{summary:?}");
        }
        assert!(state.manifests.contains_key("1"), "{case}: {:?}", state.requests);
        assert!(state.faults.is_empty(), "{case}: {:?}", state.faults);
        assert!(summary.iter().all(|request| !request.ends_with(" 400")), "{case}: {summary:?}");
        self
    }

    /// Checks that the push failed because the registry refuses requests of this size.
    fn assert_too_large(&self, case: &str) {
        let summary = self.registry.summary();
        assert_eq!(self.run.status, 1, "{case}: {}\n{summary:?}", self.run);
        let result = self.run.json();
        assert_eq!(result["error"]["class"], "rejected", "{case}: {}\n{summary:?}", self.run);
        assert!(self.run.stderr.contains("413"), "{case}: {}", self.run);
        assert_eq!(self.attempts, 1, "{case}: {}", self.run);
    }

    /// Returns the sizes of the chunks that the registry received. Checks that all chunks of each finished upload follow one
    /// another.
    fn chunks(&self, case: &str) -> Vec<usize> {
        // An upload may begin with a stream that the registry refused after some data.
        let mut ends: BTreeMap<String, u64> = BTreeMap::new();
        let mut sizes = Vec::new();
        for request in self.registry.layer_data() {
            let chunk = request.chunk().unwrap_or_else(|error| panic!("{case}: {error}"));
            let Some((first, last)) = chunk.filter(|_| (200..300).contains(&request.status)) else {
                continue;
            };
            let end = ends.entry(request.upload).or_insert(first);
            assert_eq!(*end, first, "{case}: {:?}", self.registry.summary());
            *end = last + 1;
            sizes.push(usize::try_from(last - first + 1).unwrap());
        }
        sizes
    }

    /// Checks that the chunks are at most as long as the limit, and not shorter than half of it, except the last chunk of a
    /// blob.
    fn assert_chunks_near(&self, most: usize, case: &str) {
        let (sizes, summary) = (self.chunks(case), self.registry.summary());
        let lengths: Vec<usize> = self.layers.iter().map(Vec::len).collect();
        let shorter = sizes.iter().filter(|size| **size <= most / 2).count();
        assert!(!sizes.is_empty() && sizes.iter().all(|size| *size <= most), "{case}: {summary:?}");
        assert!(shorter <= lengths.len(), "{case}: {summary:?}");
    }

    fn count(&self, status: u16) -> usize {
        self.registry.layer_data().iter().filter(|request| request.status == status).count()
    }
}

/// Pushes an image to an unknown registry.
fn push(store: Store, layers: &[Vec<u8>], options: &[&str], limits: Limits, faults: &[Fault]) -> Pushed {
    push_to(None, store, layers, options, limits, faults)
}

/// Pushes an image with these layers.
///
/// * `image`: the name in a known registry; `None`: a name in an unknown registry.
fn push_to(
    image: Option<&str>,
    store: Store,
    layers: &[Vec<u8>],
    options: &[&str],
    limits: Limits,
    faults: &[Fault],
) -> Pushed {
    let options: Vec<&str> = ["--relay", "always"].iter().chain(options).copied().collect();
    push_with(image, store, layers, &options, &[], limits, faults)
}

fn push_with(
    image: Option<&str>,
    store: Store,
    layers: &[Vec<u8>],
    options: &[&str],
    variables: &[(&str, &str)],
    limits: Limits,
    faults: &[Fault],
) -> Pushed {
    let registry = FakeRegistry::with_limits(limits, faults);
    let own = format!("{}/team/app:1", registry.domain);
    let name = image.unwrap_or(&own);
    let engine = FakeEngine::start()
        .has(name, ID)
        .allow("GET /v1.41/info", Reply::json(200, "{}"))
        .pushing_to_relay(store, layers.to_vec());
    let env = TestEnv::new();
    let mut command = env.command(&engine);
    command.args(["regpush", "--verify", "never", "--format", "json"]).args(options);
    if image.is_some() {
        command.arg("--plain-http").env("HTTP_PROXY", format!("http://{}", registry.domain));
    }
    let run = run(command.envs(variables.iter().copied()).arg(name));
    let pushes = engine.pushes();
    Pushed {
        run,
        registry,
        layers: layers.to_vec(),
        attempts: pushes.len(),
        is_relayed: pushes.iter().all(|push| push.line.contains("/images/127.")),
    }
}

/// Runs all rows of a table at the same time.
fn each<T: Copy + Send + Sync>(rows: &[T], test: impl Fn(T) + Sync) {
    // Many programs at a time would make one another slow.
    for rows in rows.chunks(4) {
        thread::scope(|scope| rows.iter().for_each(|row| _ = scope.spawn(|| test(*row))));
    }
}

#[test]
fn sends_one_stream_without_limits() {
    let table: [(Store, &[&str]); 2] =
        [(Store::Classic, &["PATCH stream 202", "PUT 0 201"]), (Store::Containerd, &["PUT 1048581 201"])];
    for (store, want) in table {
        let pushed = push(store, &[blob(MIB + 5)], &[], Limits::None, &[]);
        pushed.assert_stored("a stream");
        assert_eq!(pushed.registry.summary(), want, "{store:?}");
        assert!(pushed.is_relayed);
    }
}

#[test]
fn splits_blobs_into_chunks() {
    let table: [(&str, usize, &[&str]); 5] = [
        // option, size of the blob, requests
        (
            "1m",
            2 * MIB + 5,
            &["PATCH 0-1048575 202", "PATCH 1048576-2097151 202", "PATCH 2097152-2097156 202", "PUT 0 201"],
        ),
        ("1m", 2 * MIB, &["PATCH 0-1048575 202", "PATCH 1048576-2097151 202", "PUT 0 201"]),
        ("256k", 300 * KIB, &["PATCH 0-262143 202", "PATCH 262144-307199 202", "PUT 0 201"]),
        ("300000", 300_001, &["PATCH 0-299999 202", "PATCH 300000-300000 202", "PUT 0 201"]),
        // A blob that is kept as a whole needs no chunks.
        ("64k", 128 * KIB, &["PUT 131072 201"]),
    ];
    each(&table, |(option, size, want)| {
        for store in STORES {
            let case = format!("{option} {size} {store:?}");
            let pushed = push(store, &[blob(size)], &["--chunk-size", option], Limits::None, &[]);
            pushed.assert_stored(&case).chunks(&case);
            assert_eq!(pushed.registry.summary(), want, "{case}");
        }
    });
}

#[test]
fn blobs_of_at_most_one_chunk_go_in_one_request() {
    let size = MIB;
    let pushed = push(Store::Containerd, &[blob(size)], &["--chunk-size", "1m"], Limits::None, &[]);
    pushed.assert_stored("one chunk");
    assert_eq!(pushed.registry.summary(), ["PUT 1048576 201"]);
    // The size is not known before the end.
    let pushed = push(Store::Classic, &[blob(size)], &["--chunk-size", "1m"], Limits::None, &[]);
    pushed.assert_stored("one chunk");
    assert_eq!(pushed.registry.layer_data().iter().filter(|data| data.length != Some(0)).count(), 1);
}

#[test]
fn chunks_need_the_relay() {
    let layers = [blob(MIB + 5)];
    let options = ["--chunk-size", "1m"];
    let pushed = push_with(None, Store::Containerd, &layers, &options, &[], Limits::None, &[]);
    assert_eq!(pushed.assert_stored("auto").chunks("auto"), [MIB, 5]);
    assert!(pushed.is_relayed);
    assert_eq!(pushed.run.json()["route"], "relay", "{}", pushed.run);
    let variables = [("REGPUSH_CHUNK_SIZE", "1m"), ("REGPUSH_RELAY", "always")];
    let pushed = push_with(None, Store::Classic, &layers, &[], &variables, Limits::None, &[]);
    assert_eq!(pushed.assert_stored("variables").chunks("variables"), [MIB, 5]);
}

#[test]
fn chunk_size_zero_sends_one_stream() {
    for store in STORES {
        let case = format!("{store:?}");
        let options = ["--chunk-size", "0"];
        let pushed = push(store, &[blob(3 * MIB)], &options, Limits::None, &[]);
        assert!(pushed.assert_stored(&case).chunks(&case).is_empty(), "{case}");
        let limits = Limits::Body { most: 1 << 20, is_buffering: true };
        let pushed = push(store, &[blob(3 * MIB)], &options, limits, &[]);
        pushed.assert_too_large(&case);
        let data = pushed.registry.layer_data();
        assert!(
            data.iter().all(|request| request.range.is_none()),
            "{case}: {:?}",
            pushed.registry.summary()
        );
    }
}

/// A proxy such as nginx limits the size of requests, and the plugin does not know the limit.
#[test]
fn chunks_shrink_until_they_pass() {
    let table = [
        // limit in bytes, size of the blob
        (10 * MIB, 12 * MIB),
        (MIB, 3 * MIB + 5),
        (300_000, 3 * MIB + 5),
        (256 * KIB, MIB),
    ];
    each(&table, |(most, size)| {
        for (store, is_buffering) in
            [(Store::Containerd, true), (Store::Classic, true), (Store::Classic, false)]
        {
            let case = format!("{most} {size} {store:?} buffering: {is_buffering}");
            let limits = Limits::Body { most: most as u64, is_buffering };
            let pushed = push(store, &[blob(size)], &[], limits, &[]);
            pushed.assert_stored(&case).assert_chunks_near(most, &case);
            let summary = pushed.registry.summary();
            assert_eq!(pushed.attempts, 1, "{case}: {summary:?}");
            assert!(summary[0].ends_with(" 413"), "{case}: {summary:?}");
            assert!(pushed.count(413) <= 8, "{case}: {summary:?}");
        }
    });
}

#[test]
fn limits_below_the_smallest_chunk_fail_the_push() {
    for store in STORES {
        let limits = Limits::Body { most: 100_000, is_buffering: true };
        let pushed = push(store, &[blob(3 * MIB)], &[], limits, &[]);
        pushed.assert_too_large(&format!("{store:?}"));
        let data = pushed.registry.layer_data();
        let sizes = data.iter().filter_map(|request| request.chunk().unwrap());
        let least = sizes.map(|(first, last)| last - first + 1).min();
        assert_eq!(least, Some(256 << 10), "{:?}", pushed.registry.summary());
    }
}

/// Small blobs are not divided.
#[test]
fn limits_below_a_small_blob_fail_the_push() {
    each(&STORES, |store| {
        for size in [120 * KIB, 200 * KIB] {
            let limits = Limits::Body { most: 100_000, is_buffering: true };
            let pushed = push(store, &[blob(size)], &[], limits, &[]);
            pushed.assert_too_large(&format!("{size} {store:?}"));
        }
    });
}

/// A chunk is another request, not another attempt.
#[test]
fn chunks_after_a_refusal_need_no_retries() {
    each(&STORES, |store| {
        let limits = Limits::Body { most: 1 << 20, is_buffering: true };
        let pushed = push(store, &[blob(3 * MIB)], &["--retries", "0"], limits, &[]);
        pushed.assert_stored("without retries").assert_chunks_near(MIB, "without retries");
    });
}

#[test]
fn layers_sent_at_once_all_pass() {
    let layers =
        [blob(3 * MIB), blob(3 * MIB + 1), blob(5 * MIB), blob(200 * KIB), blob(1000), blob(4 * MIB)];
    let limits = Limits::Body { most: 1 << 20, is_buffering: true };
    let pushed = push(Store::ContainerdAtOnce, &layers, &[], limits, &[]);
    pushed.assert_stored("413").assert_chunks_near(MIB, "413");
    let pushed = push(Store::ContainerdAtOnce, &layers, &["--chunk-size", "1m"], Limits::None, &[]);
    assert!(pushed.assert_stored("chunks").chunks("chunks").len() > 14);
}

/// The registry refuses the stream when the plugin does not have its beginning any more, so the engine sends the layer again.
#[test]
fn engine_sends_a_layer_again_that_is_not_kept() {
    let limits = Limits::Body { most: 20 << 20, is_buffering: true };
    let pushed = push(Store::Classic, &[blob(24 * MIB)], &[], limits, &[]);
    let sizes = pushed.assert_stored("24 MiB").chunks("24 MiB");
    assert!(sizes.iter().all(|size| *size <= 16 * MIB), "{sizes:?}");
    assert_eq!((pushed.attempts, pushed.count(413)), (2, 1), "{:?}", pushed.registry.summary());
}

#[test]
fn later_layers_use_the_learned_size() {
    each(&STORES, |store| {
        let case = format!("{store:?}");
        let layers = [blob(2 * MIB), blob(2 * MIB + 1)];
        let pushed = push(store, &layers, &[], Limits::Body { most: 1 << 20, is_buffering: true }, &[]);
        pushed.assert_stored(&case).assert_chunks_near(MIB, &case);
        let data = pushed.registry.layer_data();
        let first = data.iter().position(|request| request.status < 300).unwrap();
        assert!(
            data[first..].iter().all(|request| request.status < 300),
            "{case}: {:?}",
            pushed.registry.summary()
        );
    });
}

#[test]
fn later_images_use_the_learned_size() {
    let registry = FakeRegistry::with_limits(Limits::Body { most: 1 << 20, is_buffering: true }, &[]);
    let names = ["first", "second"].map(|name| format!("{}/team/{name}:1", registry.domain));
    let engine = FakeEngine::start()
        .has(&names[0], ID)
        .has(&names[1], ID)
        .pushing_to_relay(Store::Containerd, vec![blob(2 * MIB)]);
    let env = TestEnv::new();
    let options = ["--verify", "never", "--relay", "always", "--parallel", "1"];
    let run = run(env.command(&engine).arg("regpush").args(options).args(&names));
    let summary = registry.summary();
    assert_eq!(run.status, 0, "{run}\n{summary:?}");
    let finished = summary.iter().position(|request| request == "PUT 0 201").unwrap();
    let second = &summary[finished + 1..];
    assert!(!second.is_empty() && second.iter().all(|request| !request.ends_with(" 413")), "{summary:?}");
}

#[test]
fn chunks_have_a_length_if_the_registry_requires_it() {
    let pushed = push(Store::Classic, &[blob(3 * MIB), blob(MIB)], &[], Limits::LengthRequired, &[]);
    pushed.assert_stored("classic").chunks("classic");
    let summary = pushed.registry.summary();
    assert_eq!((summary[0].as_str(), pushed.count(411)), ("PATCH stream 411", 1), "{summary:?}");
    let pushed = push(Store::Classic, &[blob(20 * MIB)], &[], Limits::LengthRequired, &[]);
    let sizes = pushed.assert_stored("20 MiB").chunks("20 MiB");
    assert!(sizes.iter().all(|size| *size <= 16 * MIB), "{sizes:?}");
    let pushed = push(Store::Containerd, &[blob(3 * MIB)], &[], Limits::LengthRequired, &[]);
    pushed.assert_stored("containerd");
    assert_eq!(pushed.count(411), 0, "{:?}", pushed.registry.summary());
}

/// The registry answers before the plugin knows how large the layer is.
#[test]
fn missing_length_says_nothing_about_the_size() {
    let pushed = push(Store::SlowClassic, &[blob(3 * MIB)], &[], Limits::LengthRequired, &[]);
    let sizes = pushed.assert_stored("a slow engine").chunks("a slow engine");
    assert!(sizes.len() <= 2, "{:?}", pushed.registry.summary());
}

#[test]
fn each_chunk_can_be_redirected() {
    each(&STORES, |store| {
        let case = format!("{store:?}");
        let pushed = push(store, &[blob(8 * MIB)], &["--chunk-size", "1m"], Limits::Redirects, &[]);
        assert_eq!(pushed.assert_stored(&case).chunks(&case), [MIB; 8], "{case}");
    });
}

/// A registry whose limit the plugin does not know answers 416 to a chunk that is too large.
#[test]
fn chunks_shrink_after_416_without_progress() {
    each(&STORES, |store| {
        let case = format!("{store:?}");
        let pushed = push(store, &[blob(10 * MIB)], &["--chunk-size", "8m"], GHCR, &[]);
        let sizes = pushed.assert_stored(&case).chunks(&case);
        let summary = pushed.registry.summary();
        assert_eq!(sizes, [4 * MIB, 4 * MIB, 2 * MIB], "{case}: {summary:?}");
        assert_eq!((pushed.count(416), pushed.attempts), (1, 1), "{case}: {summary:?}");
        assert!(pushed.registry.count("GET /v2/team/app/blobs/uploads/") > 0, "{case}");
    });
}

#[test]
fn registry_that_answers_416_to_every_chunk_fails_the_push() {
    each(&STORES, |store| {
        let options = ["--chunk-size", "1m", "--retries", "1"];
        let pushed = push(store, &[blob(3 * MIB)], &options, Limits::Chunk(100_000), &[]);
        let summary = pushed.registry.summary();
        // The plugin cannot know that the next upload fails too.
        assert_eq!(pushed.run.status, 6, "{store:?}: {}\n{summary:?}", pushed.run);
        assert!(pushed.run.stderr.contains("416"), "{store:?}: {}", pushed.run);
        assert!(summary.len() < 60, "{store:?}: {summary:?}");
    });
}

#[test]
fn chunks_go_on_after_the_offset_that_a_registry_reports() {
    let table = [
        // fault, expected number of 416, expected number of uploads of the layer
        (Fault::Forget { after: 3 * MIB, kept: 2 * MIB + 7 }, 1, 1),
        (Fault::Forget { after: 3 * MIB, kept: 0 }, 1, 1),
        // The connection ends in the middle of a chunk, or before the answer to a chunk.
        (Fault::Cut { after: 2 * MIB + 500_000, kept: 2 * MIB + 400_000 }, 0, 1),
        (Fault::Cut { after: 2 * MIB + 500_000, kept: 2 * MIB }, 0, 1),
        (Fault::Cut { after: 3 * MIB, kept: 3 * MIB }, 0, 1),
        // Also before the answer to the last chunk.
        (Fault::Cut { after: 5 * MIB + 5, kept: 5 * MIB + 5 }, 0, 1),
        (Fault::Status(503), 0, 1),
        (Fault::Lose { after: 1000 }, 0, 2),
    ];
    each(&table, |(fault, refusals, uploads)| {
        for store in STORES {
            let case = format!("{fault:?} {store:?}");
            let pushed = push(store, &[blob(5 * MIB + 5)], &["--chunk-size", "1m"], Limits::None, &[fault]);
            pushed.assert_stored(&case);
            let summary = pushed.registry.summary();
            assert_eq!((pushed.count(416), pushed.attempts), (refusals, 1), "{case}: {summary:?}");
            assert!(pushed.registry.count("GET /v2/team/app/blobs/uploads/") > 0, "{case}");
            // One more upload is for the configuration.
            let started = pushed.registry.count("POST /v2/team/app/blobs/uploads/");
            assert_eq!(started, uploads + 1, "{case}: {summary:?}");
            if let Fault::Cut { kept, .. } = fault {
                let next = summary.iter().position(|request| request.ends_with(" 0")).unwrap() + 1;
                let want =
                    if kept == 5 * MIB + 5 { "PUT 0 201".to_owned() } else { format!("PATCH {kept}-") };
                assert!(summary[next].starts_with(&want), "{case}: {summary:?}");
            }
        }
    });
    // The plugin does not have the forgotten data any more, so the engine sends the layer again.
    let fault = Fault::Forget { after: 20 * MIB, kept: MIB };
    let pushed = push(Store::Classic, &[blob(24 * MIB)], &["--chunk-size", "1m"], Limits::None, &[fault]);
    pushed.assert_stored("forgotten");
    assert_eq!(pushed.attempts, 2, "{}", pushed.run);
}

/// The plugin holds a chunk until the registry has received it.
#[test]
fn large_chunks_go_on_after_a_cut() {
    let options = ["--chunk-size", "32m"];
    let fault = Fault::Cut { after: 30 * MIB, kept: MIB };
    let pushed = push(Store::Containerd, &[blob(40 * MIB)], &options, Limits::None, &[fault]);
    pushed.assert_stored("32 MiB");
    let want =
        ["PATCH 0-33554431 0", "PATCH 1048576-34603007 202", "PATCH 34603008-41943039 202", "PUT 0 201"];
    assert_eq!(pushed.registry.summary(), want);
    assert_eq!(pushed.attempts, 1, "{}", pushed.run);
}

#[test]
fn chunk_is_sent_again_with_a_new_token() {
    each(&STORES, |store| {
        let case = format!("{store:?}");
        let options = ["--chunk-size", "1m", "--retries", "0"];
        let pushed = push(store, &[blob(2 * MIB)], &options, Limits::None, &[Fault::Expired]);
        let sizes = pushed.assert_stored(&case).chunks(&case);
        let summary = pushed.registry.summary();
        assert_eq!(sizes, [MIB, MIB], "{case}: {summary:?}");
        assert_eq!(summary[0], "PATCH 0-1048575 401", "{case}: {summary:?}");
        assert_eq!(pushed.registry.state.lock().unwrap().tokens, 1, "{case}");
    });
}

#[test]
fn chunks_have_at_least_the_length_that_the_registry_demands() {
    each(&STORES, |store| {
        let case = format!("{store:?}");
        let limits = Limits::MinLength(1 << 20);
        let pushed = push(store, &[blob(3 * MIB + 5)], &["--chunk-size", "256k"], limits, &[]);
        let sizes = pushed.assert_stored(&case).chunks(&case);
        let summary = pushed.registry.summary();
        assert_eq!(sizes, [MIB, MIB, MIB, 5], "{case}: {summary:?}");
        assert_eq!(pushed.count(416), 0, "{case}: {summary:?}");
    });
}

#[test]
fn chunks_have_at_most_the_length_that_the_registry_allows() {
    let table: [&[&str]; 2] = [&[], &["--chunk-size", "4m"]];
    each(&table, |options| {
        for store in STORES {
            let case = format!("{options:?} {store:?}");
            let limits = Limits::MaxLength(1 << 20);
            let pushed = push(store, &[blob(2 * MIB + 5)], options, limits, &[]);
            let sizes = pushed.assert_stored(&case).chunks(&case);
            let summary = pushed.registry.summary();
            assert_eq!(sizes, [MIB, MIB, 5], "{case}: {summary:?}");
            assert_eq!(pushed.count(413), 0, "{case}: {summary:?}");
        }
    });
    let pushed = push(Store::Containerd, &[blob(MIB)], &[], Limits::MaxLength(1 << 20), &[]);
    pushed.assert_stored("at most the maximum");
    assert_eq!(pushed.registry.summary(), ["PUT 1048576 201"]);
}

#[test]
fn ghcr_gets_chunks_of_at_most_4_mib() {
    let table: [(&[&str], bool); 3] =
        [(&[], false), (&["--chunk-size", "16m"], true), (&["--chunk-size", "1m"], true)];
    each(&table, |(options, has_chunks)| {
        for store in STORES {
            let case = format!("{options:?} {store:?}");
            let image = Some("ghcr.io/team/app:1");
            let pushed = push_to(image, store, &[blob(9 * MIB)], options, GHCR, &[]);
            let sizes = pushed.assert_stored(&case).chunks(&case);
            let summary = pushed.registry.summary();
            assert_eq!(pushed.count(416), 0, "{case}: {summary:?}");
            if has_chunks {
                let most = if options.contains(&"1m") { MIB } else { 4 * MIB };
                let (last, others) = sizes.split_last().unwrap();
                assert!(*last <= most && others.iter().all(|size| *size == most), "{case}: {summary:?}");
            }
            let hosts = pushed.registry.state.lock().unwrap().hosts.clone();
            assert!(!hosts.is_empty() && hosts.iter().all(|host| host == "ghcr.io"), "{hosts:?}");
        }
    });
}

#[test]
fn ecr_gets_the_last_chunk_in_the_final_request() {
    let table: [(&[&str], usize, &[&str]); 3] = [
        // options, size of the blob, requests
        (
            &["--chunk-size", "1m"],
            12 * MIB + 7,
            &["PATCH 0-5242879 201", "PATCH 5242880-10485759 201", "PUT 10485760-12582918 201"],
        ),
        (&["--chunk-size", "1m"], 10 * MIB, &["PATCH 0-5242879 201", "PUT 5242880-10485759 201"]),
        (&["--chunk-size", "6m"], 7 * MIB, &["PATCH 0-6291455 201", "PUT 6291456-7340031 201"]),
    ];
    each(&table, |(options, size, want)| {
        for store in STORES {
            let case = format!("{options:?} {size} {store:?}");
            let pushed = push_to(Some(ECR), store, &[blob(size)], options, Limits::Ecr, &[]);
            pushed.assert_stored(&case).chunks(&case);
            assert_eq!(pushed.registry.summary(), want, "{case}");
        }
    });
    for (options, size) in [(&[][..], 6 * MIB), (&["--chunk-size", "1m"], 3 * MIB)] {
        for store in STORES {
            let pushed = push_to(Some(ECR), store, &[blob(size)], options, Limits::Ecr, &[]);
            pushed.assert_stored(&format!("{options:?} {store:?}"));
        }
    }
}

#[test]
fn acr_gets_one_stream() {
    let table: [(&[&str], usize); 3] =
        [(&[], 21_000_000), (&["--chunk-size", "5m"], 21_000_000), (&["--chunk-size", "1m"], 3 * MIB)];
    each(&table, |(options, size)| {
        for store in STORES {
            let case = format!("{options:?} {size} {store:?}");
            let pushed = push_to(Some(ACR), store, &[blob(size)], options, Limits::Acr, &[]);
            assert!(pushed.assert_stored(&case).chunks(&case).is_empty(), "{case}");
            let data = pushed.registry.layer_data();
            let with_data = data.iter().filter(|request| request.length != Some(0)).count();
            let summary = pushed.registry.summary();
            assert_eq!((with_data, pushed.count(413), pushed.attempts), (1, 0, 1), "{case}: {summary:?}");
            if size > 20_000_000 {
                assert_eq!(data[0].method, "PATCH", "{case}: {summary:?}");
            }
            let has_note =
                pushed.run.stderr.contains("chunk") && pushed.run.stderr.contains("example.azurecr.io");
            assert_eq!(has_note, !options.is_empty(), "{case}: {}", pushed.run);
        }
    });
}

#[test]
fn google_gets_one_stream() {
    let options = ["--chunk-size", "1m"];
    let images = ["europe-west1-docker.pkg.dev/project/repository/app:1", "gcr.io/project/app:1"];
    each(&images, |image| {
        for store in STORES {
            let case = format!("{image} {store:?}");
            let pushed = push_to(Some(image), store, &[blob(3 * MIB)], &options, Limits::Google, &[]);
            assert!(pushed.assert_stored(&case).chunks(&case).is_empty(), "{case}");
            let data = pushed.registry.layer_data();
            let with_data = data.iter().filter(|request| request.length != Some(0)).count();
            assert_eq!((with_data, pushed.attempts), (1, 1), "{case}: {:?}", pushed.registry.summary());
            let (domain, stderr) = (image.split('/').next().unwrap(), &pushed.run.stderr);
            assert!(stderr.contains("chunk") && stderr.contains(domain), "{case}: {}", pushed.run);
        }
    });
}

#[test]
fn hints_name_the_registry() {
    each(&[400, 405, 409, 418, 451, 500, 507], |status| {
        let options = ["--retries", "0"];
        let faults = [Fault::Status(status); 3];
        let pushed = push(Store::Containerd, &[blob(MIB)], &options, Limits::None, &faults);
        assert_ne!(pushed.run.status, 0, "{status}: {}", pushed.run);
        assert!(pushed.run.stderr.contains("hint: "), "{status}: {}", pushed.run);
        assert!(!pushed.run.stderr.contains('{'), "{status}: {}", pushed.run);
    });
}

/// A proxy in front of a registry has limits that the registry does not have.
#[test]
fn limits_learned_in_the_call_override_the_table() {
    let image = Some("europe-west1-docker.pkg.dev/project/repository/app:1");
    let limits = Limits::Body { most: 1 << 20, is_buffering: true };
    let pushed = push_to(image, Store::Containerd, &[blob(2 * MIB + 5)], &[], limits, &[]);
    pushed.assert_stored("413").assert_chunks_near(MIB, "413");
    let pushed =
        push_to(image, Store::Containerd, &[blob(2 * MIB + 5)], &[], Limits::MaxLength(1 << 20), &[]);
    assert_eq!(pushed.assert_stored("a header").chunks("a header"), [MIB, MIB, 5]);
}

/// These registries cannot go on with an upload whose connection was cut.
#[test]
fn ecr_and_acr_get_a_new_upload_after_a_cut() {
    let options: &[&str] = &["--chunk-size", "5m"];
    let table = [
        // image, limits, size of the blob, offset of the cut, number of attempts of the engine
        (ECR, Limits::Ecr, 12 * MIB, 7 * MIB, 1),
        (ECR, Limits::Ecr, 12 * MIB, 10 * MIB, 1),
        // The last request has data too. It is sent after the engine got its answer.
        (ECR, Limits::Ecr, 12 * MIB, 11 * MIB, 1),
        (ECR, Limits::Ecr, 24 * MIB, 21 * MIB, 2),
        (ACR, Limits::Acr, 12 * MIB, 6 * MIB, 1),
        (ACR, Limits::Acr, 24 * MIB, 22 * MIB, 2),
    ];
    each(&table, |(image, limits, size, after, attempts)| {
        let options = if image == ECR { options } else { &[] };
        for store in STORES {
            let case = format!("{image} {size} {store:?}");
            let fault = Fault::Cut { after, kept: after };
            let pushed = push_to(Some(image), store, &[blob(size)], options, limits, &[fault]);
            pushed.assert_stored(&case);
            let summary = pushed.registry.summary();
            assert_eq!(pushed.attempts, attempts, "{case}: {summary:?}");
            let data = pushed.registry.layer_data();
            let cut = data.iter().position(|request| request.status == 0).unwrap();
            let is_other = data[cut + 1..].iter().all(|request| request.upload != data[cut].upload);
            assert!(is_other, "{case}: {summary:?}");
        }
    });
}

#[test]
fn wrong_sizes_and_rates_are_usage_errors() {
    let table: [(&[&str], Option<&str>, &str); 6] = [
        // options, value of `REGPUSH_CHUNK_SIZE`, part of the message
        (&["--chunk-size", "5x"], None, "--chunk-size"),
        (&["--chunk-size=-1"], None, "--chunk-size"),
        (&["--chunk-size="], None, "--chunk-size"),
        (&["--limit-rate", "-1"], None, "--limit-rate"),
        (&["--limit-rate=-1"], None, "--limit-rate"),
        (&[], Some("5x"), "REGPUSH_CHUNK_SIZE"),
    ];
    let mut wrong = Vec::new();
    for (options, variable, part) in table {
        let env = TestEnv::new();
        let mut command = env.without_engine();
        command.envs(variable.map(|value| ("REGPUSH_CHUNK_SIZE", value)));
        let run = run(command.arg("regpush").args(options).arg("app"));
        let is_named = run.stderr.contains(part) && !run.stderr.contains("unexpected argument '--");
        if run.status != 125 || !is_named {
            wrong.push(format!("{options:?}: {run}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn engine_in_another_network_is_found_before_the_push() {
    for options in [&["--relay", "always"][..], &["--chunk-size", "1m"]] {
        let registry = FakeRegistry::start(&[]);
        let image = format!("{}/app:1", registry.domain);
        let engine = FakeEngine::with_info().has(&image, ID).in_another_network(true);
        let run = run(TestEnv::new().command(&engine).arg("regpush").args(options).arg(&image));
        assert_eq!(run.status, 4, "{run}");
        assert!(run.stderr.contains("the engine is in another network than the plugin"), "{run}");
        assert!(run.stderr.contains("cannot reach the plugin at 127."), "{run}");
        assert_eq!(engine.pushes().len(), 0, "{run}");
        assert_eq!(engine.names(), [image], "no temporary name is left");
    }
}
