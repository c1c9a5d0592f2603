//! Tests one push by the engine for several registries: the relay between a client that behaves like an engine and fake
//! registries, and the executable with a fake engine that pushes to the relay.

#![expect(clippy::unwrap_used, reason = "all of it is a test")]

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use docker_regpush::oci::sha256;
use docker_regpush::relay::Relay;
use docker_regpush::relay::job::{Job, MAX_KEPT};
use docker_regpush::relay::upstream::{Failure, Settings, Upstream};
use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::relay::{connect, runtime};
use crate::support::client::{CONFIG, Cancellation, Client, Store, blob};
use crate::support::engine::{DIGEST, FakeEngine, Reply, digest_line};
use crate::support::env::{Run, TestEnv, run, run_with_stdin};
use crate::support::registry::{FakeRegistry, Fault, Limits, State, wait_until};

const MIB: usize = 1 << 20;
/// The size in bytes of a blob that the relay keeps as a whole, and of a blob that it does not.
const KEPT: usize = 4 * MIB;
const LARGE: usize = 24 * MIB;
const MANIFEST: &[u8] = b"{}";

/// The maximum time of a push in these tests.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a client sends a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Classic,
    Containerd,
}

const STYLES: [Style; 2] = [Style::Classic, Style::Containerd];

impl Style {
    /// Sends a blob. Returns the status of the last request.
    fn send(self, client: &Client, content: &[u8]) -> u16 {
        match self {
            Self::Classic => client.patch(content, &digest(content)).1,
            Self::Containerd => client.put(content),
        }
    }

    /// Makes the first request of a push.
    fn begin(self, client: &Client) {
        if self == Self::Classic {
            client.ping();
        }
    }

    /// Sends the blobs that the relay does not have, and the manifest. Returns whether the relay accepted all of them.
    fn push(self, client: &Client, blobs: &[Vec<u8>]) -> bool {
        self.begin(client);
        let has = |content: &[u8]| client.find(&digest(content)).0 == 200;
        let are_sent = blobs.iter().all(|content| has(content) || self.send(client, content) == 201);
        are_sent && client.put_manifest("1", MANIFEST) == 201
    }
}

fn digest(content: &[u8]) -> String {
    format!("sha256:{}", sha256(content))
}

/// One attempt to push an image through a relay to several registries.
struct Attempt {
    job: Arc<Job>,
    client: Client,
    _relay: Relay,
    _server: JoinSet<()>,
}

impl Attempt {
    async fn start(registries: &[FakeRegistry], settings: &Settings) -> Self {
        let upstreams =
            registries.iter().map(|registry| Upstream::new(&registry.domain, settings.clone(), Vec::new()));
        let job = Job::new("app".to_owned(), "1".to_owned(), upstreams.collect());
        let relay = Relay::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let packed = job.guard.credentials().basic_auth().unwrap();
        let client = Client {
            address: relay.domain().parse().unwrap(),
            authorization: format!("Basic {}", packed.expose()),
            repository: "app".to_owned(),
            cancellation: Cancellation::default(),
            sent: Arc::default(),
        };
        Self { _server: relay.serve(&job), job, client, _relay: relay }
    }

    async fn connect(&self, index: usize, registry: &FakeRegistry) {
        let reference = format!("{}/app:1", registry.domain).parse().unwrap();
        self.job.upstreams[index].connect(connect(registry).await, &reference).unwrap();
    }

    /// Runs `engine` as a client of the relay. Returns its result, or `None` if all pushes have failed before.
    async fn run<T: Send + 'static>(&self, engine: impl FnOnce(Client) -> T + Send + 'static) -> Option<T> {
        let (sender, mut receiver) = tokio::sync::oneshot::channel();
        let client = self.client.clone();
        thread::spawn(move || sender.send(engine(client)));
        tokio::select! {
            done = &mut receiver => Some(done.expect("the client has not panicked")),
            () = self.job.ended() => None,
        }
    }

    /// Waits until each registry has stored everything, or its push has failed. Returns the failures.
    async fn finish(self) -> Vec<Option<Failure>> {
        join_all(self.job.upstreams.iter().map(|upstream| upstream.settled())).await;
        self.job.upstreams.iter().for_each(|upstream| upstream.stop());
        self.job.upstreams.iter().map(|upstream| upstream.take_failure()).collect()
    }
}

/// Runs a test of the relay, which must end.
fn in_time<T>(registries: &[FakeRegistry], test: impl Future<Output = T>) -> T {
    let done = runtime().block_on(async { tokio::time::timeout(PATIENCE, test).await });
    let requests = || -> Vec<_> {
        registries.iter().map(|registry| registry.state.lock().unwrap().requests.clone()).collect()
    };
    done.unwrap_or_else(|_| panic!("the push hangs: {:?}", requests()))
}

/// The failure of the push to each registry, and the result of the client.
type Done<T> = (Vec<Option<Failure>>, Option<T>);

/// Pushes blobs to all registries, which must get all of them.
fn push_to_all(registries: &[FakeRegistry], style: Style, blobs: Vec<Vec<u8>>, case: &str) {
    let wanted = blobs.clone();
    let (failures, sent) = through_relay(registries, &settings(), move |client| style.push(&client, &blobs));
    assert!(failures.iter().all(Option::is_none), "{case}: {failures:?}");
    assert_eq!(sent, Some(true), "{case}");
    registries.iter().for_each(|registry| assert_complete(registry, &wanted, case));
}

/// Makes one attempt. See [`Attempt::run`] and [`Attempt::finish`].
fn through_relay<T: Send + 'static>(
    registries: &[FakeRegistry],
    settings: &Settings,
    engine: impl FnOnce(Client) -> T + Send + 'static,
) -> Done<T> {
    in_time(registries, async {
        let attempt = Attempt::start(registries, settings).await;
        for (index, registry) in registries.iter().enumerate() {
            attempt.connect(index, registry).await;
        }
        let sent = attempt.run(engine).await;
        (attempt.finish().await, sent)
    })
}

fn settings() -> Settings {
    Settings { retries: 5, ..Settings::default() }
}

fn registries<const N: usize>(faults: [&[Fault]; N]) -> [FakeRegistry; N] {
    faults.map(FakeRegistry::start)
}

/// Checks that a registry has the blobs and, after them, the manifest.
fn assert_complete(registry: &FakeRegistry, blobs: &[Vec<u8>], case: &str) {
    let state = registry.state.lock().unwrap();
    for content in blobs {
        let stored = state.blobs.get(&digest(content));
        assert!(stored == Some(content), "{case}: a blob is missing: {:?}", state.requests);
    }
    assert!(state.manifests.contains_key("1"), "{case}: {:?}", state.requests);
    let last = state.requests.iter().rfind(|request| !request.starts_with("GET ")).unwrap();
    assert_eq!(last, "PUT /v2/app/manifests/1", "{case}: {:?}", state.requests);
}

/// Runs `test` for each row of a table, in a few threads.
fn each<T: Copy + Send + Sync>(rows: &[T], test: impl Fn(T) + Sync) {
    // Many pushes at a time would make one another slow.
    for rows in rows.chunks(2) {
        thread::scope(|scope| rows.iter().for_each(|row| _ = scope.spawn(|| test(*row))));
    }
}

/// The relay takes a blob for the one that the engine asked for if the blob comes soon after. On a busy machine it may
/// come later, so the test is repeated until `test` returns `true`.
fn until_in_time(mut test: impl FnMut() -> bool) {
    assert!((0..10).any(|_| test()), "the relay took no blob for the one that the engine asked for");
}

#[test]
fn each_registry_gets_each_blob_once_and_then_the_manifest() {
    each(&STYLES, |style| {
        let case = format!("{style:?}");
        let registries = registries([&[], &[], &[]]);
        let blobs = vec![blob(LARGE), blob(KEPT), blob(1000), blob(0)];
        let wanted = blobs.clone();
        let (failures, sent) =
            through_relay(&registries, &settings(), move |client| style.push(&client, &blobs));
        assert!(failures.iter().all(Option::is_none), "{case}: {failures:?}");
        assert_eq!(sent, Some(true), "{case}");
        for registry in &registries {
            assert_complete(registry, &wanted, &case);
            assert_eq!(registry.count("POST /v2/app/blobs/uploads/"), wanted.len(), "{case}");
            assert_eq!(registry.received(), wanted.iter().map(Vec::len).sum::<usize>(), "{case}");
        }
    });
}

#[test]
fn a_registry_that_has_a_blob_gets_no_data_of_it() {
    let table = [
        // style, whether the engine asks for the blob first, size of the blob
        (Style::Classic, true, LARGE),
        (Style::Classic, true, 1000),
        (Style::Containerd, true, LARGE),
        (Style::Containerd, true, 1000),
        (Style::Containerd, false, LARGE),
        (Style::Containerd, false, 1000),
    ];
    each(&table, |(style, asks, size)| {
        let case = format!("{style:?} asks: {asks} {size}");
        until_in_time(|| {
            let registries = registries([&[], &[], &[]]);
            let content = blob(size);
            for registry in &registries[..2] {
                registry.add_blob("app", &content);
            }
            let sent_content = content.clone();
            let (failures, sent) = through_relay(&registries, &settings(), move |client| {
                style.begin(&client);
                let found = if asks { client.find(&digest(&sent_content)).0 } else { 404 };
                (found, style.send(&client, &sent_content), client.put_manifest("1", MANIFEST))
            });
            assert!(failures.iter().all(Option::is_none), "{case}: {failures:?}");
            assert_eq!(sent, Some((404, 201, 201)), "{case}");
            registries
                .iter()
                .for_each(|registry| assert_complete(registry, std::slice::from_ref(&content), &case));
            assert_eq!(registries[2].received(), size, "{case}");
            let is_in_time = registries[..2].iter().all(|registry| registry.count("POST") == 0);
            assert!(is_in_time || style == Style::Classic, "{case}: {:?}", registries[0].summary());
            is_in_time
        });
    });
}

/// The engine has sent the blob and the manifest before the registry has answered.
#[test]
fn a_registry_may_answer_late_whether_it_has_a_blob() {
    for has_blob in [true, false] {
        for size in [KEPT, 1000] {
            let case = format!("has the blob: {has_blob}, {size}");
            let registries = registries([&[], &[]]);
            let content = blob(size);
            let blobs = vec![content.clone()];
            if has_blob {
                registries[1].add_blob("app", &content);
            }
            let state = Arc::clone(&registries[1].state);
            {
                let mut state = state.lock().unwrap();
                state.holds_head = true;
                state.pause = Duration::from_millis(20);
            }
            let (failures, sent) = through_relay(&registries, &settings(), move |client| {
                let statuses = (client.put(&content), client.put_manifest("1", MANIFEST));
                state.lock().unwrap().may_answer = true;
                statuses
            });
            assert!(failures.iter().all(Option::is_none), "{case}: {failures:?}");
            assert_eq!(sent, Some((201, 201)), "{case}");
            registries.iter().for_each(|registry| assert_complete(registry, &blobs, &case));
            let received = if has_blob { 0 } else { size };
            let uploads = usize::from(!has_blob);
            assert_eq!(
                (registries[1].received(), registries[1].count("POST")),
                (received, uploads),
                "{case}"
            );
        }
    }
}

/// docker's classic store sends several layers at once, and may begin with another than the one for which it asked first. The
/// plugin can repair this if it keeps the whole blob.
#[test]
fn a_registry_that_was_taken_to_have_another_blob_gets_it_or_is_left_behind() {
    for size in [1000, KEPT, LARGE] {
        let push = || {
            let registries = registries([&[], &[]]);
            let (asked, content) = (blob(5000), blob(size));
            registries[0].add_blob("app", &asked);
            let blobs = vec![content.clone()];
            let (failures, sent) = through_relay(&registries, &settings(), move |client| {
                Style::Classic.begin(&client);
                let found = client.find(&digest(&asked)).0;
                (found, Style::Classic.send(&client, &content), client.put_manifest("1", MANIFEST))
            });
            assert_eq!(sent, Some((404, 201, 201)), "{size}");
            assert!(failures[1].is_none(), "{size}: {failures:?}");
            assert_complete(&registries[1], &blobs, "the other registry");
            match &failures[0] {
                Some(Failure::LeftBehind(reason)) if size == LARGE => {
                    assert_eq!(reason, "the engine sent another blob than it asked for");
                    assert!(registries[0].state.lock().unwrap().manifests.is_empty());
                    true
                }
                Some(failure) => panic!("{size}: {failure:?}"),
                None => {
                    assert_complete(&registries[0], &blobs, "the first registry");
                    false
                }
            }
        };
        if size == LARGE {
            until_in_time(push);
        } else {
            push();
        }
    }
}

#[test]
fn the_relay_has_a_blob_only_if_all_registries_have_it() {
    for (have, status) in
        [([false, false], 404), ([true, false], 404), ([false, true], 404), ([true; 2], 200)]
    {
        let registries = registries([&[], &[]]);
        let content = blob(1000);
        for (registry, _) in registries.iter().zip(have).filter(|(_, has)| *has) {
            registry.add_blob("app", &content);
        }
        let (_, sent) = through_relay(&registries, &settings(), move |client| client.find(&digest(&content)));
        let (found, headers) = sent.unwrap();
        assert_eq!(found, status, "{have:?}");
        let length = headers.get("content-length").map(String::as_str);
        assert!(status == 404 || length == Some("1000"), "{have:?}: {headers:?}");
    }
}

/// A registry may not receive data before the user has typed the password for it.
#[test]
fn a_registry_that_is_connected_late_gets_the_image_from_memory() {
    let table: [(Style, &[usize]); 4] = [
        // style, sizes of the blobs
        (Style::Classic, &[LARGE, 1000]),
        (Style::Containerd, &[LARGE, KEPT, 1000]),
        // More blobs than the relay sends to one registry at a time.
        (Style::Classic, &[MIB, MIB + 1, MIB + 2, MIB + 3, MIB + 4, MIB + 5]),
        (Style::Containerd, &[MIB, MIB + 1, MIB + 2, MIB + 3, MIB + 4, MIB + 5]),
    ];
    each(&table, |(style, sizes)| {
        let case = format!("{style:?} {sizes:?}");
        let registries = registries([&[], &[]]);
        let blobs: Vec<Vec<u8>> = sizes.iter().map(|size| blob(*size)).collect();
        let (wanted, first) = (blobs.clone(), Arc::clone(&registries[0].state));
        let failures = in_time(&registries, async {
            let attempt = Attempt::start(&registries, &settings()).await;
            attempt.connect(0, &registries[0]).await;
            let is_sent = attempt.run(move |client| {
                let is_sent = style.push(&client, &blobs);
                wait_until(&first, "manifest", |state| state.manifests.contains_key("1"));
                is_sent
            });
            assert_eq!(is_sent.await, Some(true), "{case}");
            assert_eq!(registries[1].count(""), 0, "{case}");
            attempt.connect(1, &registries[1]).await;
            attempt.finish().await
        });
        assert!(failures.iter().all(Option::is_none), "{case}: {failures:?}");
        registries.iter().for_each(|registry| assert_complete(registry, &wanted, &case));
    });
}

#[test]
fn a_registry_that_stalls_does_not_delay_the_others_within_the_bound() {
    let table: [(Style, &[usize], usize); 4] = [
        // style, sizes of the blobs, number of bytes of each blob after which the registry stalls
        (Style::Classic, &[LARGE, 1000], MIB),
        (Style::Containerd, &[LARGE, KEPT, 1000], MIB),
        // More blobs than the relay sends to one registry at a time, and larger than the buffers of the system.
        (Style::Classic, &[9 * MIB, 9 * MIB + 1, 9 * MIB + 2, 9 * MIB + 3, 9 * MIB + 4], 0),
        (Style::Containerd, &[9 * MIB, 9 * MIB + 1, 9 * MIB + 2, 9 * MIB + 3, 9 * MIB + 4], 0),
    ];
    each(&table, |(style, sizes, after)| {
        let case = format!("{style:?} {sizes:?}");
        let registries = registries([&[], &[Fault::Hold { after }], &[]]);
        let blobs: Vec<Vec<u8>> = sizes.iter().map(|size| blob(*size)).collect();
        let wanted = blobs.clone();
        let states: Vec<Arc<Mutex<State>>> =
            registries.iter().map(|registry| Arc::clone(&registry.state)).collect();
        let (failures, sent) = through_relay(&registries, &settings(), move |client| {
            let is_sent = style.push(&client, &blobs);
            for state in [&states[0], &states[2]] {
                wait_until(state, "manifest", |state| state.manifests.contains_key("1"));
            }
            states[1].lock().unwrap().may_answer = true;
            is_sent
        });
        assert!(failures.iter().all(Option::is_none), "{case}: {failures:?}");
        assert_eq!(sent, Some(true), "{case}");
        registries.iter().for_each(|registry| assert_complete(registry, &wanted, &case));
    });
}

/// Also measures how much of the image waits in memory for the registry that stalls.
#[test]
fn a_registry_that_stalls_beyond_the_bound_is_left_behind() {
    // The buffers of the connections hold several MB more.
    const BUFFERS: usize = 24 * MIB;
    let behind = usize::try_from(MAX_KEPT).unwrap();
    let registries = registries([&[], &[Fault::Hold { after: 0 }]]);
    let content = blob(behind + 2 * BUFFERS);
    let blobs = vec![content.clone()];
    let (failures, sent) = in_time(&registries, async {
        let attempt = Attempt::start(&registries, &settings()).await;
        for (index, registry) in registries.iter().enumerate() {
            attempt.connect(index, registry).await;
        }
        let (sent, upstream) = (Arc::clone(&attempt.client.sent), Arc::clone(&attempt.job.upstreams[1]));
        let sent_before = tokio::spawn(async move {
            upstream.ended().await;
            sent.load(Ordering::Relaxed)
        });
        let sending = attempt.run(move |client| Style::Containerd.push(&client, &[content]));
        assert_eq!(sending.await, Some(true));
        (attempt.finish().await, sent_before.await.unwrap())
    });
    assert!((behind..behind + BUFFERS).contains(&sent), "{} MiB", sent / MIB);
    assert!(failures[0].is_none(), "{failures:?}");
    assert_complete(&registries[0], &blobs, "the other registry");
    let Some(Failure::LeftBehind(reason)) = &failures[1] else { panic!("{failures:?}") };
    assert_eq!(reason, "it received nothing for 10s, while the other registries waited");
}

#[test]
fn a_registry_that_fails_does_not_disturb_the_others() {
    use Fault::{Cut, Lose, ManifestStatus, StartStatus, Status};
    // Each blob has its own retries.
    const SERVER: &[Fault] = &[StartStatus(503); 6];
    const RATE: &[Fault] = &[StartStatus(429); 6];
    let table: [(&[Fault], Option<&str>); 9] = [
        // faults, part of the message; `None`: the registry lost data that only the engine has
        (&[StartStatus(403)], Some("denies access")),
        (&[StartStatus(405)], Some("read-only")),
        (&[Status(403)], Some("denies access")),
        (SERVER, Some("503")),
        (RATE, Some("429")),
        (&[ManifestStatus(403)], Some("denies access")),
        (&[ManifestStatus(409)], Some("409")),
        (&[Lose { after: 20 * MIB }], None),
        (&[Cut { after: 20 * MIB, kept: 0 }], None),
    ];
    each(&table, |(faults, message)| {
        for style in STYLES {
            let case = format!("{style:?} {faults:?}");
            let registries = registries([&[], faults, &[]]);
            let blobs = vec![blob(LARGE), blob(1000)];
            let wanted = blobs.clone();
            let two_retries = Settings { retries: 2, ..Settings::default() };
            let (failures, sent) =
                through_relay(&registries, &two_retries, move |client| style.push(&client, &blobs));
            assert_eq!(sent, Some(true), "{case}");
            for index in [0, 2] {
                assert!(failures[index].is_none(), "{case}: {failures:?}");
                assert_complete(&registries[index], &wanted, &case);
                let received = wanted.iter().map(Vec::len).sum::<usize>();
                assert_eq!(registries[index].received(), received, "{case}");
            }
            match (&failures[1], message) {
                (Some(Failure::Final(error)), Some(message)) => {
                    assert!(error.to_string().contains(message), "{case}: {error}");
                }
                (Some(Failure::Lost(_)), None) => {}
                (failure, _) => panic!("{case}: {failure:?}"),
            }
            assert!(registries[1].state.lock().unwrap().manifests.is_empty(), "{case}");
        }
    });
}

#[test]
fn a_registry_goes_on_where_it_stopped_while_the_others_are_fine() {
    use Fault::{Cut, Status, StoreSilently};
    let table: [(usize, &[Fault]); 5] = [
        // size of the blob, faults
        (LARGE, &[Cut { after: 20 * MIB, kept: 20 * MIB }]),
        (LARGE, &[Cut { after: 20 * MIB, kept: 18 * MIB + 7 }]),
        (LARGE, &[Cut { after: 20 * MIB, kept: 19 * MIB }, Cut { after: 20 * MIB, kept: 20 * MIB }]),
        (KEPT, &[Cut { after: 2 * MIB, kept: 0 }, StoreSilently]),
        (1000, &[Status(503), Status(500)]),
    ];
    each(&table, |(size, faults)| {
        for style in STYLES {
            let case = format!("{style:?} {size} {faults:?}");
            let registries = registries([faults, &[]]);
            let blobs = vec![blob(size)];
            push_to_all(&registries, style, blobs, &case);
            assert!(registries[0].state.lock().unwrap().faults.is_empty(), "{case}");
            assert_eq!((registries[1].received(), registries[1].count("POST")), (size, 1), "{case}");
        }
    });
}

/// After a cut, each registry gets only the data that it lacks.
#[test]
fn each_registry_goes_on_at_its_own_offset() {
    let cut = |kept| [Fault::Cut { after: 20 * MIB, kept }];
    let (first, second) = (cut(20 * MIB), cut(10 * MIB));
    let registries = registries([&first, &second, &[]]);
    let blobs = vec![blob(LARGE)];
    let wanted = blobs.clone();
    let (failures, _) =
        through_relay(&registries, &settings(), move |client| Style::Containerd.push(&client, &blobs));
    assert!(failures.iter().all(Option::is_none), "{failures:?}");
    registries.iter().for_each(|registry| assert_complete(registry, &wanted, "two cuts"));
    assert_eq!(registries[2].received(), LARGE);
    let data = registries[1].layer_data();
    assert_eq!(data.iter().filter(|request| request.method == "PATCH").count(), 1, "{data:?}");
    assert_eq!(data[1].received, LARGE - 10 * MIB, "{data:?}");
}

#[test]
fn an_engine_that_leaves_in_the_middle_of_a_blob_may_send_it_again() {
    let registries = registries([&[], &[]]);
    let content = blob(LARGE);
    let blobs = vec![content.clone()];
    let states: Vec<Arc<Mutex<State>>> =
        registries.iter().map(|registry| Arc::clone(&registry.state)).collect();
    let (failures, sent) = through_relay(&registries, &settings(), move |client| {
        client.put_part(&content, LARGE / 2);
        for state in &states {
            wait_until(state, "cancelled upload", |state| {
                state.requests.iter().any(|request| request.starts_with("DELETE "))
            });
        }
        Style::Containerd.push(&client, &[content])
    });
    assert!(failures.iter().all(Option::is_none), "{failures:?}");
    assert_eq!(sent, Some(true));
    for registry in &registries {
        assert_complete(registry, &blobs, "sent again");
        let counts = (registry.count("POST"), registry.count("DELETE"));
        assert_eq!(counts, (2, 1), "{:?}", registry.state.lock().unwrap().requests);
    }
}

#[test]
fn blobs_at_once_with_a_slow_registry_all_arrive() {
    let table = [
        // style, size of chunks
        (Style::Classic, None),
        (Style::Containerd, None),
        (Style::Classic, Some(32 << 20)),
        (Style::Containerd, Some(32 << 20)),
    ];
    for (style, chunk_size) in table {
        let case = format!("{style:?} {chunk_size:?}");
        let registries = registries([&[], &[]]);
        registries[1].state.lock().unwrap().pause = Duration::from_millis(2);
        let blobs = vec![blob(40 * MIB), blob(40 * MIB + 1), blob(40 * MIB + 2)];
        let wanted = blobs.clone();
        let chunks = Settings { chunk_size, ..settings() };
        let (failures, sent) = through_relay(&registries, &chunks, move |client| {
            let statuses: Vec<u16> = thread::scope(|scope| {
                let sending: Vec<_> =
                    blobs.iter().map(|content| scope.spawn(|| style.send(&client, content))).collect();
                sending.into_iter().map(|sent| sent.join().unwrap()).collect()
            });
            (statuses, client.put_manifest("1", MANIFEST))
        });
        assert!(failures.iter().all(Option::is_none), "{case}: {failures:?}");
        assert_eq!(sent, Some((vec![201; 3], 201)), "{case}");
        registries.iter().for_each(|registry| assert_complete(registry, &wanted, &case));
    }
}

#[test]
fn wrong_digests_are_stored_nowhere() {
    for size in [KEPT, 1000] {
        let registries = registries([&[], &[]]);
        let blobs = vec![blob(size)];
        let wanted = blobs.clone();
        let states: Vec<Arc<Mutex<State>>> =
            registries.iter().map(|registry| Arc::clone(&registry.state)).collect();
        let (failures, sent) = through_relay(&registries, &settings(), move |client| {
            let refused = client.patch(&blobs[0], &format!("sha256:{}", "0".repeat(64)));
            let has_blobs = states.iter().any(|state| !state.lock().unwrap().blobs.is_empty());
            (refused, has_blobs, Style::Classic.push(&client, &blobs))
        });
        assert!(failures.iter().all(Option::is_none), "{failures:?}");
        assert_eq!(sent, Some(((202, 400), false, true)), "{size}");
        for registry in &registries {
            assert_complete(registry, &wanted, "the right digest");
            assert_eq!(registry.state.lock().unwrap().blobs.len(), 1, "{size}");
        }
    }
}

#[test]
fn a_blob_that_arrives_twice_goes_to_each_registry_once() {
    let registries = registries([&[], &[]]);
    let blobs = vec![blob(LARGE)];
    let wanted = blobs.clone();
    let (failures, sent) = through_relay(&registries, &settings(), move |client| {
        let statuses: Vec<u16> = thread::scope(|scope| {
            let sending: Vec<_> = (0..4).map(|_| scope.spawn(|| client.put(&blobs[0]))).collect();
            sending.into_iter().map(|sent| sent.join().unwrap()).collect()
        });
        (statuses, client.put_manifest("1", MANIFEST))
    });
    assert!(failures.iter().all(Option::is_none), "{failures:?}");
    assert_eq!(sent, Some((vec![201; 4], 201)));
    for registry in &registries {
        assert_complete(registry, &wanted, "twice");
        assert_eq!((registry.count("POST"), registry.received()), (1, LARGE));
    }
}

#[test]
fn each_registry_gets_the_manifests_of_an_index_before_the_index() {
    // The second registry refuses the first manifest once.
    let registries = registries([&[], &[Fault::ManifestStatus(503)], &[]]);
    let (first, second) = (br#"{"number":1}"#, br#"{"number":2}"#);
    let blobs = vec![blob(KEPT), blob(1000)];
    let wanted = blobs.clone();
    let names = [digest(first), digest(second)];
    let (own, manifest) = (names.clone(), first.to_vec());
    // A registry that has one of the manifests gets it again.
    let known = ("application/vnd.docker.distribution.manifest.v2+json".to_owned(), manifest);
    registries[2].state.lock().unwrap().manifests.insert(names[0].clone(), known);
    let (failures, sent) = through_relay(&registries, &settings(), move |client| {
        let are_sent = blobs.iter().all(|content| client.put(content) == 201);
        let found = client.ask("HEAD", &format!("/v2/app/manifests/{}", own[0]), "", b"").0;
        let statuses = [
            client.put_manifest(&own[0], first),
            client.put_manifest(&own[1], second),
            client.put_manifest("1", MANIFEST),
        ];
        (are_sent, found, statuses)
    });
    assert!(failures.iter().all(Option::is_none), "{failures:?}");
    assert_eq!(sent, Some((true, 404, [201; 3])));
    let [first, second] = names.map(|name| format!("PUT /v2/app/manifests/{name}"));
    for (registry, attempts) in registries.iter().zip([1, 2, 1]) {
        assert_complete(registry, &wanted, "an index");
        let state = registry.state.lock().unwrap();
        let stored = state.requests.iter().filter(|request| request.starts_with("PUT /v2/app/manifests/"));
        let mut want = vec![first.clone(); attempts];
        want.extend([second.clone(), "PUT /v2/app/manifests/1".to_owned()]);
        assert_eq!(stored.cloned().collect::<Vec<_>>(), want);
    }
}

/// A proxy in front of one registry limits the size of requests.
#[test]
fn only_the_registry_that_refuses_large_requests_gets_chunks() {
    let size = 3 * MIB + 5;
    for style in STYLES {
        let case = format!("{style:?}");
        let limits = Limits::Body { most: 1 << 20, is_buffering: true };
        let registries = [FakeRegistry::with_limits(limits, &[]), FakeRegistry::start(&[])];
        let blobs = vec![blob(size)];
        push_to_all(&registries, style, blobs, &case);
        let of_other = registries[1].layer_data();
        let with_data = of_other.iter().filter(|request| request.received > 0);
        assert!(of_other.iter().all(|request| request.range.is_none()), "{case}: {of_other:?}");
        assert_eq!(with_data.count(), 1, "{case}: {of_other:?}");
        let data = registries[0].layer_data();
        let chunks: Vec<_> = data.iter().filter_map(|request| request.chunk().unwrap()).collect();
        assert!(chunks.len() > 3 && data[0].status == 413, "{case}: {:?}", registries[0].summary());
        let stored = data.iter().filter(|request| request.status == 202);
        assert!(stored.clone().all(|request| request.length.unwrap() <= 1 << 20), "{case}: {data:?}");
    }
}

const ID: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const OTHER: &str = "sha256:9999999999999999999999999999999999999999999999999999999999999999";
const IMAGE: &str = "docker.io/library/app:1";
const STORES: [Store; 2] = [Store::Classic, Store::Containerd];

/// Starts an engine that pushes the image `app:1` to the relay.
fn engine(store: Store, layers: &[Vec<u8>]) -> FakeEngine {
    FakeEngine::with_info().has(IMAGE, ID).pushing_to_relay(store, layers.to_vec())
}

/// Returns the domain of a registry under a name that differs from the relay's.
fn domain(registry: &FakeRegistry) -> String {
    format!("localhost:{}", registry.domain.rsplit(':').next().unwrap())
}

/// Lets the engine answer distribution inspect requests as podman does, which does not have them.
fn without_distribution(engine: FakeEngine, registries: &[FakeRegistry]) -> FakeEngine {
    let allow = |engine: FakeEngine, registry: &FakeRegistry| {
        let line = format!("GET /v1.41/distribution/{}/team/app:1/json", domain(registry));
        engine.allow(&line, Reply::json(404, r#"{"message":"Not Found"}"#))
    };
    registries.iter().fold(engine, allow)
}

/// Returns a command that pushes `app:1` to the repository `team/app` of each registry.
fn command(env: &TestEnv, engine: &FakeEngine, registries: &[FakeRegistry], options: &[&str]) -> Command {
    let mut command = env.command(engine);
    command.args(["regpush", "app:1"]).args(options);
    for registry in registries {
        command.args(["--to", &format!("{}/team/", domain(registry))]);
    }
    command
}

fn push(engine: &FakeEngine, registries: &[FakeRegistry], options: &[&str]) -> Run {
    let options = [&["--format", "json"], options].concat();
    run(&mut command(&TestEnv::new(), engine, registries, &options))
}

/// Returns the result of each destination.
fn results(run: &Run) -> Vec<Value> {
    run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns a field of the result of each destination.
fn fields(run: &Run, name: &str) -> Vec<Value> {
    results(run).into_iter().map(|result| result[name].clone()).collect()
}

/// Returns the numbers of push requests for the relay, and for registries.
fn pushes(engine: &FakeEngine) -> (usize, usize) {
    let (relayed, direct): (Vec<_>, Vec<_>) =
        engine.pushes().into_iter().partition(|push| push.line.contains("/images/127."));
    (relayed.len(), direct.len())
}

/// Checks that a repository has the layers, and under each tag a manifest.
fn assert_pushed(registry: &FakeRegistry, layers: &[Vec<u8>], tags: &[&str], case: &str) {
    let state = registry.state.lock().unwrap();
    for layer in layers {
        assert!(state.blobs.get(&digest(layer)) == Some(layer), "{case}: {:?}", state.requests);
    }
    for tag in tags {
        assert!(state.manifests.contains_key(*tag), "{case} {tag}: {:?}", state.requests);
    }
}

/// Returns a response to pushes that the engine sends to registries.
fn direct() -> Reply {
    Reply::stream([digest_line("1")])
}

#[test]
fn three_registries_get_an_image_in_one_push() {
    each(&STORES, |store| {
        let registries = registries([&[], &[], &[]]);
        let layers = [blob(MIB), blob(2000)];
        let engine = engine(store, &layers);
        let run = push(&engine, &registries, &[]);
        assert_eq!(run.status, 0, "{run}");
        assert_eq!(pushes(&engine), (1, 0), "{run}");
        let want: Vec<Value> =
            registries.iter().map(|registry| json!(format!("{}/team/app:1", domain(registry)))).collect();
        assert_eq!(fields(&run, "reference"), want, "in the order asked: {run}");
        for result in results(&run) {
            assert_eq!((&result["status"], &result["route"]), (&json!("pushed"), &json!("relay")), "{run}");
            assert_eq!((&result["attempts"], &result["verified"]), (&json!(1), &json!(true)), "{run}");
            assert_eq!(result["layers"]["pushed"], 2, "{run}");
        }
        let digests: BTreeSet<String> =
            fields(&run, "digest").iter().map(|digest| digest.as_str().unwrap().to_owned()).collect();
        assert_eq!(digests.len(), 1, "{run}");
        for registry in &registries {
            assert_pushed(registry, &layers, &["1"], &run.to_string());
            // One more upload is for the configuration.
            assert_eq!(registry.count("POST /v2/team/app/blobs/uploads/"), 3, "{run}");
        }
        assert_eq!(engine.names(), [IMAGE], "no temporary name is left: {run}");
    });
}

#[test]
fn a_failure_of_one_registry_is_its_own() {
    use Fault::{LoseManifest, ManifestStatus, StartStatus};
    let table: [(&[Fault], &str, i32); 7] = [
        // faults, class, status
        (&[StartStatus(403); 3], "denied", 3),
        (&[StartStatus(405); 3], "rejected", 1),
        (&[StartStatus(429); 3], "rate_limited", 6),
        (&[StartStatus(503); 3], "server", 6),
        (&[StartStatus(507); 3], "rejected", 1),
        (&[ManifestStatus(403)], "denied", 3),
        (&[LoseManifest], "unverified", 9),
    ];
    each(&table, |(faults, class, status)| {
        for store in STORES {
            let case = format!("{store:?} {faults:?}");
            let registries = registries([&[], faults, &[]]);
            let layers = [blob(MIB), blob(2000)];
            let engine = without_distribution(engine(store, &layers), &registries);
            let run = push(&engine, &registries, &["--retries", "0", "--verify-wait", "1s"]);
            assert_eq!(run.status, status, "{case}: {run}");
            assert_eq!(pushes(&engine), (1, 0), "{case}: {run}");
            let results = results(&run);
            assert_eq!(results.len(), 3, "{case}: {run}");
            assert_eq!(results[1]["error"]["class"], class, "{case}: {run}");
            for index in [0, 2] {
                assert_eq!(results[index]["status"], "pushed", "{case}: {run}");
                assert_pushed(&registries[index], &layers, &["1"], &case);
            }
            let name = domain(&registries[1]);
            let errors: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
            assert!(errors.len() == 1 && errors[0].contains(&name), "{case}: {run}");
            assert!(run.stderr.contains("3 images: 2 pushed, 1 failed"), "{case}: {run}");
            assert_eq!(engine.names(), [IMAGE], "{case}: {run}");
        }
    });
}

#[test]
fn the_first_failure_in_the_order_asked_sets_the_status() {
    let (denied, server) = ([Fault::StartStatus(403); 3], [Fault::StartStatus(503); 3]);
    for (faults, status) in [([&denied, &server], 3), ([&server, &denied], 6)] {
        let registries = registries([&[], faults[0], faults[1]]);
        let engine = engine(Store::Containerd, &[blob(MIB)]);
        let run = push(&engine, &registries, &["--retries", "0"]);
        assert_eq!(run.status, status, "{run}");
        assert_eq!((pushes(&engine), &results(&run)[0]["status"]), ((1, 0), &json!("pushed")), "{run}");
    }
}

/// The engine need not send the rest if no registry gets it.
#[test]
fn a_failure_of_all_registries_ends_the_push() {
    let denied = [Fault::StartStatus(403); 3];
    let registries = registries([&denied, &denied]);
    let engine = engine(Store::Containerd, &[blob(MIB)]);
    let run = push(&engine, &registries, &["--retries", "0"]);
    assert_eq!((run.status, pushes(&engine)), (3, (1, 0)), "{run}");
    assert_eq!(results(&run).len(), 2, "{run}");
    assert_eq!(engine.names(), [IMAGE], "{run}");
}

#[test]
fn without_the_relay_the_engine_pushes_to_each_registry() {
    let registries = registries([&[], &[], &[]]);
    let engine = engine(Store::Containerd, &[blob(MIB)]).on_every_push(direct());
    let run = push(&engine, &registries, &["--relay", "never", "--verify", "never"]);
    assert_eq!((run.status, pushes(&engine)), (0, (0, 3)), "{run}");
    assert_eq!(fields(&run, "route"), vec![json!("engine"); 3], "{run}");
    assert_eq!(fields(&run, "digest"), vec![json!(DIGEST); 3], "{run}");
    assert_eq!(engine.names(), [IMAGE], "{run}");
}

#[test]
fn the_engine_uploads_to_repositories_of_one_registry() {
    let registry = FakeRegistry::start(&[]);
    let engine = engine(Store::Containerd, &[blob(MIB)]).on_every_push(direct());
    let name = domain(&registry);
    let (one, two) = (format!("{name}/one/"), format!("{name}/two/"));
    let to = ["--to", &one, "--to", &two];
    let run = push(&engine, &[], &[&["--verify", "never"], to.as_slice()].concat());
    assert_eq!((run.status, pushes(&engine)), (0, (0, 2)), "{run}");
    assert_eq!(fields(&run, "route"), vec![json!("engine"); 2], "{run}");
}

#[test]
fn names_of_one_image_go_together() {
    let table = [
        // ID of the second image, numbers of pushes, route
        (ID, (1, 0), "relay"),
        (OTHER, (0, 2), "engine"),
    ];
    for (id, want, route) in table {
        let registries = registries([&[], &[]]);
        let names: Vec<String> =
            registries.iter().map(|registry| format!("{}/team/app:1", domain(registry))).collect();
        let layers = [blob(MIB)];
        let mut engine = FakeEngine::with_info()
            .has(&names[0], ID)
            .has(&names[1], id)
            .pushing_to_relay(Store::Containerd, layers.to_vec());
        if want.1 > 0 {
            engine = engine.on_every_push(direct());
        }
        let env = TestEnv::new();
        let mut command = env.command(&engine);
        command.args(["regpush", "--format", "json", "--verify", "never"]).args(&names);
        let run = run(&mut command);
        assert_eq!((run.status, pushes(&engine)), (0, want), "{run}");
        assert_eq!(fields(&run, "route"), vec![json!(route); 2], "{run}");
        assert_eq!(fields(&run, "reference"), vec![json!(names[0]), json!(names[1])], "{run}");
        if route == "relay" {
            registries.iter().for_each(|registry| assert_pushed(registry, &layers, &["1"], "together"));
        }
        let mut before = names.clone();
        before.sort();
        assert_eq!(engine.names(), before, "{run}");
    }
}

/// podman has no request with which the plugin can test whether the engine reaches the relay, so its push shows the obstacle.
#[test]
fn an_engine_that_cannot_reach_the_relay_uploads_to_each_registry() {
    for inspects in [true, false] {
        let registries = registries([&[], &[]]);
        let engine = FakeEngine::start().has(IMAGE, ID).on_every_push(direct()).in_another_network(inspects);
        let uploaded = push(&engine, &registries, &["--verify", "never"]);
        assert_eq!((uploaded.status, pushes(&engine).1), (0, 2), "{inspects}: {uploaded}");
        assert_eq!(fields(&uploaded, "route"), vec![json!("engine"); 2], "{inspects}: {uploaded}");
        assert!(uploaded.stderr.contains("cannot reach the plugin at 127."), "{inspects}: {uploaded}");
        assert_eq!(uploaded.stderr.matches("error: ").count(), 0, "{inspects}: {uploaded}");
        if inspects {
            let notes = uploaded.stderr.matches("the engine uploads the image once for each registry: ");
            assert_eq!(notes.count(), 1, "{uploaded}");
        }
        assert_eq!(engine.names(), [IMAGE], "{inspects}: {uploaded}");

        let engine = FakeEngine::start().has(IMAGE, ID).in_another_network(inspects);
        let failed = push(&engine, &registries, &["--relay", "always"]);
        assert_eq!((failed.status, pushes(&engine).1), (4, 0), "{inspects}: {failed}");
        for error in fields(&failed, "error") {
            assert_eq!(error["class"], "engine", "{inspects}: {failed}");
        }
        assert_eq!(results(&failed).len(), 2, "{inspects}: {failed}");
        assert!(failed.stderr.contains("hint: remove `--relay always`"), "{inspects}: {failed}");
        assert_eq!(engine.names(), [IMAGE], "{inspects}: {failed}");
    }
}

#[test]
fn a_registry_that_is_left_behind_gets_another_push() {
    // The first registry has the configuration, for which the engine asks last, just before it sends the layer.
    let layers = [blob(LARGE)];
    until_in_time(|| {
        let registries = registries([&[], &[]]);
        registries[0].add_blob("team/app", CONFIG);
        let engine = engine(Store::EagerClassic, &layers);
        let run = push(&engine, &registries, &["--retries", "0"]);
        assert_eq!(run.status, 0, "{run}");
        for registry in &registries {
            assert_pushed(registry, &layers, &["1"], &run.to_string());
        }
        assert_eq!(registries[1].count("POST"), 2, "the other registry gets each blob once: {run}");
        assert_eq!(engine.names(), [IMAGE], "{run}");
        let attempts = fields(&run, "attempts");
        match pushes(&engine) {
            (2, 0) => {
                let note = "the engine pushes the image again, for this registry";
                assert_eq!(run.stderr.matches(note).count(), 1, "{run}");
                assert_eq!(attempts, [json!(2), json!(1)], "{run}");
                true
            }
            counts => {
                assert_eq!((counts, attempts), ((1, 0), vec![json!(1); 2]), "{run}");
                false
            }
        }
    });
}

/// The registry lost data that the plugin does not have any more.
#[test]
fn a_registry_that_lost_data_gets_another_push() {
    each(&STORES, |store| {
        let registries = registries([&[], &[Fault::Lose { after: 20 * MIB }]]);
        let layers = [blob(LARGE)];
        let engine = engine(store, &layers);
        let run = push(&engine, &registries, &[]);
        assert_eq!((run.status, pushes(&engine)), (0, (2, 0)), "{run}");
        assert_eq!(fields(&run, "attempts"), [json!(1), json!(2)], "{run}");
        registries.iter().for_each(|registry| assert_pushed(registry, &layers, &["1"], "lost"));
        assert_eq!(registries[0].layer_data().iter().map(|data| data.received).sum::<usize>(), LARGE);
        assert_eq!(engine.names(), [IMAGE], "{run}");
    });
}

#[test]
fn tags_and_repositories_of_a_registry_get_the_layers_once() {
    for mounts in [true, false] {
        let registries = registries([&[], &[], &[]]);
        registries.iter().for_each(|registry| registry.state.lock().unwrap().mounts = mounts);
        let layers = [blob(MIB), blob(2000)];
        let engine = engine(Store::Containerd, &layers);
        let tags: Vec<String> = (1..=12).map(|tag| format!("v{tag}")).collect();
        let tagged = registries
            .iter()
            .flat_map(|registry| tags.iter().map(move |tag| format!("{}/team/app:{tag}", domain(registry))));
        let references: Vec<String> =
            tagged.chain([format!("{}/other/app:v1", domain(&registries[0]))]).collect();
        let to: Vec<&str> = references.iter().flat_map(|reference| ["--to", reference.as_str()]).collect();
        let run = push(&engine, &[], &to);
        assert_eq!(run.status, 0, "{run}");
        // A repository that does not mount the layers gets the image in another push by the engine.
        assert_eq!(pushes(&engine), (if mounts { 1 } else { 2 }, 0), "{run}");
        let want: Vec<Value> = references.iter().map(|reference| json!(reference)).collect();
        assert_eq!(fields(&run, "reference"), want, "{run}");
        assert_eq!(fields(&run, "route"), vec![json!("relay"); want.len()], "{run}");
        assert!(results(&run).iter().all(|result| result["verified"] == true), "{run}");
        let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
        for registry in &registries {
            assert_pushed(registry, &layers, &tags, &run.to_string());
            assert_eq!(registry.count("POST /v2/team/app/blobs/uploads/"), 3, "each blob once: {run}");
            assert_eq!(registry.count("PUT /v2/team/app/manifests/v"), 12, "{run}");
        }
        let state = registries[0].state.lock().unwrap();
        assert!(state.requests.contains(&"PUT /v2/other/app/manifests/v1".to_owned()), "{run}");
        let mounted = &state.mounted;
        let is_wanted = |(own, from): &(String, String)| own == "other/app" && from == "team/app";
        assert!(!mounted.is_empty() && mounted.iter().all(is_wanted), "{mounted:?}");
        let notes = run.stderr.matches("other/app does not get all layers from team/app").count();
        assert_eq!(notes, usize::from(!mounts), "{run}");
        assert_eq!(engine.names(), [IMAGE], "{run}");
    }
}

/// If the first repository of a registry fails, the next one gets the layers.
#[test]
fn a_failure_of_the_first_tag_does_not_fail_the_others_of_the_registry() {
    let registries = registries([&[Fault::ManifestStatus(403)], &[]]);
    let layers = [blob(MIB)];
    let engine = engine(Store::Containerd, &layers);
    let references: Vec<String> = ["v1", "v2", "v3"]
        .iter()
        .map(|tag| format!("{}/team/app:{tag}", domain(&registries[0])))
        .chain([format!("{}/team/app:v1", domain(&registries[1]))])
        .collect();
    let to: Vec<&str> = references.iter().flat_map(|reference| ["--to", reference.as_str()]).collect();
    let run = push(&engine, &[], &[&["--retries", "0"], to.as_slice()].concat());
    assert_eq!(run.status, 3, "{run}");
    let want = ["failed", "pushed", "pushed", "pushed"];
    assert_eq!(fields(&run, "status"), want.map(|status| json!(status)), "{run}");
    assert_pushed(&registries[0], &layers, &["v2", "v3"], &run.to_string());
    assert_pushed(&registries[1], &layers, &["v1"], &run.to_string());
    assert_eq!(registries[0].count("POST"), 2, "each blob once: {run}");
    assert_eq!(engine.names(), [IMAGE], "{run}");
}

#[test]
fn a_tag_that_is_skipped_leaves_the_upload_to_the_next_tag() {
    let registries = registries([&[], &[]]);
    let layers = [blob(MIB)];
    for registry in &registries {
        let media_type = "application/vnd.docker.distribution.manifest.v2+json".to_owned();
        let manifest = (media_type, b"{\"schemaVersion\":2}".to_vec());
        registry.state.lock().unwrap().manifests.insert("v1".to_owned(), manifest);
    }
    let references: Vec<String> = registries
        .iter()
        .flat_map(|registry| (1..=4).map(move |tag| format!("{}/team/app:v{tag}", domain(registry))))
        .collect();
    let mut engine = engine(Store::Containerd, &layers);
    for reference in &references {
        let line = format!("GET /v1.41/distribution/{reference}/json");
        engine = engine.allow(&line, Reply::json(404, "page not found"));
    }
    let to = references.iter().flat_map(|reference| ["--to", reference.as_str()]);
    let arguments: Vec<&str> = ["--if-exists", "skip"].into_iter().chain(to).collect();
    let run = push(&engine, &[], &arguments);
    assert_eq!((run.status, pushes(&engine)), (0, (1, 0)), "{run}");
    let want = ["skipped", "pushed", "pushed", "pushed"].repeat(2);
    assert_eq!(fields(&run, "status"), want.iter().map(|status| json!(status)).collect::<Vec<_>>(), "{run}");
    for registry in &registries {
        assert_eq!(registry.count("POST /v2/team/app/blobs/uploads/"), 2, "each blob once: {run}");
    }
}

#[test]
fn a_registry_that_has_the_tag_gets_no_data_with_if_exists_skip() {
    let registries = registries([&[], &[], &[]]);
    let media_type = "application/vnd.docker.distribution.manifest.v2+json".to_owned();
    let manifest = (media_type, b"{\"schemaVersion\":2}".to_vec());
    registries[1].state.lock().unwrap().manifests.insert("1".to_owned(), manifest);
    let layers = [blob(MIB)];
    let engine = without_distribution(engine(Store::Containerd, &layers), &registries);
    let run = push(&engine, &registries, &["--if-exists", "skip"]);
    assert_eq!((run.status, pushes(&engine)), (0, (1, 0)), "{run}");
    let want = ["pushed", "skipped", "pushed"];
    assert_eq!(fields(&run, "status"), want.map(|status| json!(status)), "{run}");
    assert_eq!((registries[1].received(), registries[1].count("POST")), (0, 0), "{run}");
    for index in [0, 2] {
        assert_pushed(&registries[index], &layers, &["1"], &run.to_string());
    }
    // If every registry has the tag, the engine pushes nothing.
    let engine = without_distribution(engine_without_pushes(), &registries);
    let run = push(&engine, &registries, &["--if-exists", "skip"]);
    assert_eq!((run.status, pushes(&engine)), (0, (0, 0)), "{run}");
    assert_eq!(fields(&run, "status"), vec![json!("skipped"); 3], "{run}");
}

fn engine_without_pushes() -> FakeEngine {
    engine(Store::Containerd, &[blob(MIB)])
}

#[test]
fn a_dry_run_makes_no_push() {
    let registries = registries([&[], &[]]);
    let engine = without_distribution(engine_without_pushes(), &registries);
    let run = push(&engine, &registries, &["--dry-run"]);
    assert_eq!((run.status, pushes(&engine)), (0, (0, 0)), "{run}");
    assert_eq!(fields(&run, "status"), vec![json!("would_push"); 2], "{run}");
    for registry in &registries {
        assert_eq!((registry.received(), registry.count("PUT")), (0, 0), "{run}");
    }
    assert_eq!(engine.names(), [IMAGE], "{run}");
}

#[test]
fn events_name_the_destination() {
    let registries = registries([&[], &[]]);
    let engine = engine(Store::Containerd, &[blob(MIB)]);
    let run = push(&engine, &registries, &["--progress", "json"]);
    assert_eq!(run.status, 0, "{run}");
    let events: Vec<Value> = run.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for registry in &registries {
        let destination = format!("{}/team/app:1", domain(registry));
        let own = events.iter().filter(|event| event["destination"] == destination.as_str());
        let kinds: BTreeSet<&str> = own.map(|event| event["event"].as_str().unwrap()).collect();
        assert!(["start", "layer", "result"].iter().all(|kind| kinds.contains(kind)), "{kinds:?}: {run}");
    }
    let with_destination = events.iter().filter(|event| event["event"] != "note");
    assert!(with_destination.clone().all(|event| event["destination"].is_string()), "{run}");
}

#[test]
fn logs_have_lines_for_each_destination() {
    let registries = registries([&[], &[]]);
    let engine = engine(Store::Containerd, &[blob(MIB)]);
    let run = push(&engine, &registries, &["--progress", "plain"]);
    assert_eq!(run.status, 0, "{run}");
    for registry in &registries {
        let name = format!("{}/team/app:1", domain(registry));
        assert!(run.stderr.contains(&format!("pushing {name}\n")), "{run}");
        let layer = digest(&blob(MIB));
        let layer = format!("{}: Pushed", &layer["sha256:".len()..][..12]);
        let is_own = |line: &&str| line.contains(&name) && line.contains(&layer);
        assert_eq!(run.stderr.lines().filter(is_own).count(), 1, "{layer}: {run}");
        let summary = format!("pushed {name}");
        assert_eq!(run.stderr.lines().filter(|line| line.starts_with(&summary)).count(), 1, "{run}");
    }
    assert!(run.stderr.contains("2 images: 2 pushed"), "{run}");
}

#[test]
fn given_credentials_are_for_one_registry() {
    let env = TestEnv::new();
    let mut command = env.without_engine();
    command.args(["regpush", "app:1", "--username", "ci", "--password-stdin"]);
    command.args(["--to", "localhost:1/", "--to", "localhost:2/"]);
    let run = run_with_stdin(&mut command, b"pw");
    assert_eq!(run.status, 125, "{run}");
    let hints: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("hint: ")).collect();
    assert!(hints.len() == 1 && hints[0].contains("auth --login"), "{run}");
}

#[test]
fn signals_end_the_push_to_all_registries() {
    for (signal, status) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let registries = registries([&[Fault::Hold { after: 0 }], &[]]);
        let engine = engine(Store::Containerd, &[blob(LARGE)]);
        let env = TestEnv::new();
        let mut command = command(&env, &engine, &registries, &["--format", "json"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_until(&registries[0].state, "data", |state| !state.data.is_empty());
        wait_until(&registries[1].state, "manifest", |state| state.manifests.contains_key("1"));
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        let run = Run::from(child.wait_with_output().unwrap());
        assert_eq!(run.status, status, "{run}");
        assert_eq!(results(&run).len(), 2, "{run}");
        assert_eq!(results(&run)[0]["error"]["class"], "cancelled", "{run}");
        assert_eq!(engine.names(), [IMAGE], "{run}");
    }
}

const LOGIN_GOOD: &str = r#"{"IdentityToken":"","Status":"Login Succeeded"}"#;

#[test]
fn a_prompt_for_one_registry_does_not_delay_the_others() {
    for has_wrong_password in [true, false] {
        let registries = registries([&[], &[]]);
        registries[0].state.lock().unwrap().password = Some("s3cret");
        let layers = [blob(LARGE), blob(2000)];
        let engine = engine(Store::Classic, &layers).allow("POST /v1.41/auth", Reply::json(200, LOGIN_GOOD));
        let env = TestEnv::new();
        let env = if has_wrong_password {
            let auth = STANDARD.encode("alice:wrong");
            env.with_config(&json!({"auths": {domain(&registries[0]): {"auth": auth}}}).to_string())
        } else {
            env
        };
        let to: Vec<String> =
            registries.iter().map(|registry| format!("{}/team/", domain(registry))).collect();
        let arguments = ["regpush", "app:1", "--to", &to[0], "--to", &to[1]];
        let mut terminal = env.at_terminal(&engine, "xterm", &arguments);
        terminal.wait_for("Username");
        wait_until(&registries[1].state, "manifest", |state| state.manifests.contains_key("1"));
        assert_eq!(registries[0].received(), 0);
        terminal.type_in("alice\r");
        terminal.wait_for("Password: ");
        terminal.type_in("s3cret\r");
        let ended = terminal.finish();
        assert_eq!(ended.status, 0, "{}", ended.text);
        registries.iter().for_each(|registry| assert_pushed(registry, &layers, &["1"], &ended.text));
        assert_eq!(ended.text.matches("Username").count(), 1, "{}", ended.text);
        assert_eq!(registries[1].received(), registries[0].received(), "{}", ended.text);
        // Without credentials, the upload begins before the registry refuses it. With refused credentials, the plugin keeps
        // the image for the registry while the user types.
        if has_wrong_password {
            assert_eq!(pushes(&engine), (1, 0), "{}", ended.text);
        }
        assert_eq!(engine.names(), [IMAGE], "{}", ended.text);
    }
}

#[test]
fn a_registry_without_credentials_fails_alone() {
    each(&STORES, |store| {
        let registries = registries([&[], &[], &[]]);
        registries[0].state.lock().unwrap().password = Some("s3cret");
        let layers = [blob(MIB)];
        let engine = engine(store, &layers);
        let run = push(&engine, &registries, &["--no-prompt"]);
        assert_eq!((run.status, pushes(&engine)), (3, (1, 0)), "{run}");
        let want = ["failed", "pushed", "pushed"];
        assert_eq!(fields(&run, "status"), want.map(|status| json!(status)), "{run}");
        assert_eq!(results(&run)[0]["error"]["class"], "auth", "{run}");
        registries[1..].iter().for_each(|registry| assert_pushed(registry, &layers, &["1"], "others"));
        assert_eq!(engine.names(), [IMAGE], "{run}");
    });
}

#[test]
fn a_registry_that_stalls_fails_alone() {
    let registries = registries([&[], &[Fault::Hold { after: MIB }], &[]]);
    let layers = [blob(LARGE)];
    let engine = engine(Store::Containerd, &layers);
    let run = push(&engine, &registries, &["--stall-timeout", "2s", "--retries", "0"]);
    assert_eq!((run.status, pushes(&engine)), (7, (1, 0)), "{run}");
    let want = ["pushed", "failed", "pushed"];
    assert_eq!(fields(&run, "status"), want.map(|status| json!(status)), "{run}");
    assert_eq!(results(&run)[1]["error"]["class"], "stalled", "{run}");
    for index in [0, 2] {
        assert_pushed(&registries[index], &layers, &["1"], &run.to_string());
    }
    assert_eq!(engine.names(), [IMAGE], "{run}");
}

/// While a registry that stalls beyond the bound holds up the engine, the others wait for data. They are not stalled.
#[test]
fn registries_that_wait_for_one_that_stalls_are_not_stalled() {
    let registries = registries([&[], &[Fault::Hold { after: MIB }]]);
    let size = usize::try_from(MAX_KEPT).unwrap() + 48 * MIB;
    let layers = [blob(size)];
    let engine = engine(Store::Containerd, &layers);
    let run = push(&engine, &registries, &["--stall-timeout", "4s", "--retries", "0"]);
    let results = results(&run);
    assert_eq!(results[0]["status"], "pushed", "{run}");
    assert_eq!(results[1]["error"]["class"], "stalled", "{run}");
    assert_eq!(run.status, 7, "{run}");
    assert_pushed(&registries[0], &layers, &["1"], &run.to_string());
}

/// Another push by the engine cannot succeed.
#[test]
fn a_failure_of_the_engine_fails_all_destinations() {
    let registries = registries([&[], &[]]);
    let message = "failed commit on ref \"x\": content digest sha256:5d20: not found";
    let engine = FakeEngine::with_info().has(IMAGE, ID).failing_after(vec![blob(MIB)], message);
    let engine = without_distribution(engine, &registries);
    let run = push(&engine, &registries, &["--retries", "0"]);
    assert_eq!((run.status, pushes(&engine)), (5, (1, 0)), "{run}");
    for error in fields(&run, "error") {
        assert_eq!(error["class"], "content_missing", "{run}");
    }
    assert_eq!(results(&run).len(), 2, "{run}");
    assert_eq!(engine.names(), [IMAGE], "{run}");
}

/// The other destinations are pushed if one destination already names another local image, or if nothing listens there.
#[test]
fn a_destination_that_fails_before_the_upload_fails_alone() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (is_taken, class, status) in [(true, "other", 1), (false, "network", 6)] {
        let registries = registries([&[], &[], &[]]);
        let mut names: Vec<String> =
            registries.iter().map(|registry| format!("{}/team/app:1", domain(registry))).collect();
        let layers = [blob(MIB)];
        let mut engine = engine(Store::Containerd, &layers);
        if is_taken {
            engine = engine.has(&names[1], OTHER);
        } else {
            names[1] = format!("localhost:{closed}/team/app:1");
        }
        let before = engine.names();
        let to: Vec<&str> = names.iter().flat_map(|name| ["--to", name.as_str()]).collect();
        let run = push(&engine, &[], &[&["--retries", "0"], to.as_slice()].concat());
        assert_eq!((run.status, pushes(&engine)), (status, (1, 0)), "{run}");
        let want = ["pushed", "failed", "pushed"];
        assert_eq!(fields(&run, "status"), want.map(|status| json!(status)), "{run}");
        assert_eq!(results(&run)[1]["error"]["class"], class, "{run}");
        for index in [0, 2] {
            assert_pushed(&registries[index], &layers, &["1"], &run.to_string());
        }
        assert_eq!(engine.names(), before, "{run}");
    }
}

#[test]
fn options_of_the_relay_apply_to_each_registry() {
    each(&STORES, |store| {
        let registries = registries([&[], &[]]);
        let layers = [blob(3 * MIB)];
        let engine = engine(store, &layers);
        let run = push(&engine, &registries, &["--chunk-size", "1m"]);
        assert_eq!((run.status, pushes(&engine)), (0, (1, 0)), "{run}");
        for registry in &registries {
            assert_pushed(registry, &layers, &["1"], &run.to_string());
            let want = [
                "PATCH 0-1048575 202",
                "PATCH 1048576-2097151 202",
                "PATCH 2097152-3145727 202",
                "PUT 0 201",
            ];
            assert_eq!(registry.summary(), want, "{run}");
        }
    });
}

#[test]
fn registries_that_have_the_layers_get_only_the_manifest() {
    each(&STORES, |store| {
        let registries = registries([&[], &[]]);
        let layers = [blob(MIB), blob(2000)];
        let pushed = || {
            let engine = engine(store, &layers);
            let run = push(&engine, &registries, &[]);
            assert_eq!((run.status, pushes(&engine)), (0, (1, 0)), "{run}");
            run
        };
        pushed();
        let before = registries.each_ref().map(|registry| (registry.received(), registry.count("POST")));
        let again = pushed();
        let after = registries.each_ref().map(|registry| (registry.received(), registry.count("POST")));
        assert_eq!(before, after, "{again}");
        for result in results(&again) {
            assert_eq!(result["layers"]["pushed"], 0, "{again}");
        }
    });
}

/// Two images that go to the same repositories wait for one another, but not forever.
#[test]
fn images_have_pushes_of_their_own() {
    for (images, parallel) in [(["a:1", "b:1"], "3"), (["a:1", "a:2"], "3"), (["a:1", "b:1"], "1")] {
        let registries = registries([&[], &[]]);
        let layers = [blob(MIB)];
        let engine = FakeEngine::with_info()
            .has(&format!("docker.io/library/{}", images[0]), ID)
            .has(&format!("docker.io/library/{}", images[1]), OTHER)
            .pushing_to_relay(Store::Containerd, layers.to_vec());
        let env = TestEnv::new();
        let mut command = env.command(&engine);
        command.args(["regpush", "--format", "json", "--parallel", parallel]).args(images);
        let domains: Vec<String> = registries.iter().map(domain).collect();
        command.args(["--to", &format!("{}/", domains[0]), "--to", &format!("{}/", domains[1])]);
        let run = run(&mut command);
        assert_eq!((run.status, pushes(&engine)), (0, (2, 0)), "{run}");
        let want: Vec<Value> = images
            .iter()
            .flat_map(|image| domains.iter().map(move |domain| json!(format!("{domain}/{image}"))))
            .collect();
        assert_eq!(fields(&run, "reference"), want, "{run}");
        let tags = images.map(|image| image.split_once(':').unwrap().1);
        registries.iter().for_each(|registry| assert_pushed(registry, &layers, &tags, "two images"));
        assert_eq!(engine.names().len(), 2, "{run}");
    }
}
