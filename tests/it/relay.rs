//! Tests the relay between a client that behaves like an engine and a fake registry with faults that no real registry shows
//! on request.

#![expect(clippy::unwrap_used, reason = "all of it is a test")]

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use docker_regpush::credentials::Credentials;
use docker_regpush::net::settings::RegistrySettings;
use docker_regpush::oci::sha256;
use docker_regpush::push::gate::ActiveCredentials;
use docker_regpush::reference::Reference;
use docker_regpush::registry::Registry;
use docker_regpush::registry::access::{Access, ConnectionOptions};
use docker_regpush::relay::Relay;
use docker_regpush::relay::job::Job;
use docker_regpush::relay::upstream::{Failure, Settings, Upstream};
use docker_regpush::secret::Secret;

use crate::support::client::{Cancellation, Client, blob};
use crate::support::engine::FakeEngine;
use crate::support::env::{TestEnv, run};
use crate::support::registry::{FakeRegistry, Fault};
use crate::support::wait::PATIENCE;

/// The size in bytes of a blob that the relay keeps as a whole, and of a blob that it does not.
const KEPT: usize = 4 << 20;
const LARGE: usize = 24 << 20;

/// The result of a push through a relay.
struct Done<T> {
    failure: Option<Failure>,
    /// The result of the client; `None` if the push failed before the client ended.
    sent: Option<T>,
    notes: Vec<String>,
}

/// Runs `engine` as a client of a relay to the registry. Waits until the registry has stored everything, or until the push
/// has failed.
fn through_relay<T: Send + 'static>(
    registry: &FakeRegistry,
    retries: u32,
    engine: impl FnOnce(Client) -> T + Send + 'static,
) -> (Option<Failure>, Option<T>, Vec<String>) {
    let runtime = runtime();
    let Done { failure, sent, notes } = runtime.block_on(async {
        let connected = connect(registry).await;
        attempt(&connected, registry, retries, engine).await
    });
    (failure, sent, notes)
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Connects to a registry as a push does.
pub async fn connect(registry: &FakeRegistry) -> Arc<Registry> {
    // reqwest needs a crypto provider even without TLS; another test may have installed a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let login = ActiveCredentials::anonymous().login;
    let password = Secret::new("secret".to_owned());
    let credentials = match registry.state.lock().unwrap().token_lifetime {
        Some(_) => Credentials::basic("alice".to_owned(), password),
        None => Credentials::anonymous(),
    };
    let settings = RegistrySettings::default();
    let options = ConnectionOptions::default();
    let access = Access::new(&registry.domain, &settings, &options, credentials, login, None, |_| {});
    let access = access.await.unwrap();
    Arc::new(Registry::connect(&registry.domain, access, Arc::default()).await.unwrap())
}

/// Makes one attempt to push. See [`through_relay`].
async fn attempt<T: Send + 'static>(
    connected: &Arc<Registry>,
    registry: &FakeRegistry,
    retries: u32,
    engine: impl FnOnce(Client) -> T + Send + 'static,
) -> Done<T> {
    let reference: Reference = format!("{}/app:1", registry.domain).parse().unwrap();
    let settings = Settings { retries, ..Settings::default() };
    let upstream = Upstream::new(&registry.domain, settings, Vec::new());
    upstream.connect(Arc::clone(connected), &reference).unwrap();
    let job = Job::new("app".to_owned(), "1".to_owned(), vec![Arc::clone(&upstream)]);
    let relay = Relay::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let server = relay.serve(&job);
    let packed = job.guard.credentials().basic_auth().unwrap();
    let authorization = format!("Basic {}", packed.expose());
    let address = relay.domain().parse().unwrap();
    let repository = "app".to_owned();
    let cancellation = Cancellation::default();
    let client = Client { address, authorization, repository, cancellation, sent: Arc::default() };
    let (sender, mut receiver) = tokio::sync::oneshot::channel();
    thread::spawn(move || sender.send(engine(client)));
    let mut sent = None;
    let work = async {
        tokio::select! {
            done = &mut receiver => sent = Some(done.expect("the client has not panicked")),
            () = job.ended() => {}
        }
        upstream.settled().await;
    };
    let done = tokio::time::timeout(PATIENCE, work).await;
    assert!(done.is_ok(), "the push hangs: {:?}", registry.state.lock().unwrap().requests);
    drop(server);
    upstream.stop();
    Done { failure: upstream.take_failure(), sent, notes: upstream.notes() }
}

#[test]
fn goes_on_where_the_registry_stopped() {
    use Fault::{Cut, Lose, StartStatus, Status, StoreSilently};
    const MIB: usize = 1 << 20;
    let table: [(usize, &[Fault]); 10] = [
        // size of the blob, faults
        (LARGE, &[Cut { after: 20 * MIB, kept: 20 * MIB }]),
        (LARGE, &[Cut { after: 20 * MIB, kept: 18 * MIB + 7 }]),
        (LARGE, &[Cut { after: 20 * MIB, kept: 19 * MIB }, Cut { after: 20 * MIB, kept: 20 * MIB }]),
        (LARGE, &[StoreSilently]),
        (KEPT, &[Cut { after: 2 * MIB, kept: 0 }]),
        (KEPT, &[Lose { after: 2 * MIB }]),
        (KEPT, &[Status(503), Status(404)]),
        (KEPT, &[StartStatus(503), StartStatus(500)]),
        (1000, &[Status(500), Lose { after: 10 }]),
        (0, &[Status(503)]),
    ];
    thread::scope(|scope| {
        for (size, faults) in table {
            for is_classic in [false, true] {
                scope.spawn(move || {
                    let case = format!("{size} {faults:?} classic: {is_classic}");
                    let registry = FakeRegistry::start(faults);
                    let content = blob(size);
                    let digest = format!("sha256:{}", sha256(&content));
                    let wanted = digest.clone();
                    let (failure, sent, _) = through_relay(&registry, 5, move |client| {
                        if is_classic { client.patch(&content, &wanted).1 } else { client.put(&content) }
                    });
                    assert!(failure.is_none(), "{case}: {failure:?}");
                    assert_eq!(sent, Some(201), "{case}");
                    let state = registry.state.lock().unwrap();
                    assert!(state.blobs.contains_key(&digest), "{case}: {:?}", state.requests);
                    assert!(state.faults.is_empty(), "{case}");
                });
            }
        }
    });
}

#[test]
fn asks_how_much_has_arrived_before_it_sends_again() {
    let registry = FakeRegistry::start(&[Fault::Cut { after: 20 << 20, kept: 18 << 20 }]);
    let (failure, _, _) = through_relay(&registry, 5, |client| client.put(&blob(LARGE)));
    assert!(failure.is_none(), "{failure:?}");
    let requests = registry.state.lock().unwrap().requests.clone();
    let of_upload: Vec<&str> = requests
        .iter()
        .filter(|request| request.contains("/uploads/u"))
        .map(|request| request.split(' ').next().unwrap())
        .collect();
    assert_eq!(of_upload, ["PUT", "GET", "PATCH", "PUT"], "{requests:?}");
}

/// docker 29 waits for 30 s. The relay answers the engine when the blob has arrived, before the registry has stored it.
#[test]
fn answers_the_engine_before_the_registry_has_stored_a_blob() {
    for (size, is_classic) in [(LARGE, false), (LARGE, true), (1000, false), (1000, true)] {
        let registry = FakeRegistry::start(&if is_classic { vec![] } else { vec![Fault::AnswerLate] });
        if is_classic {
            // The classic store finishes the upload in a request of its own.
            registry.state.lock().unwrap().holds_finish = true;
        }
        let state = Arc::clone(&registry.state);
        let (failure, sent, _) = through_relay(&registry, 5, move |client| {
            let content = blob(size);
            let digest = format!("sha256:{}", sha256(&content));
            let status = if is_classic { client.patch(&content, &digest).1 } else { client.put(&content) };
            state.lock().unwrap().may_answer = true;
            status
        });
        assert!(failure.is_none(), "{failure:?}");
        assert_eq!(sent, Some(201), "{size} classic: {is_classic}");
    }
}

#[test]
fn early_answers_of_the_registry_do_not_stop_the_engine() {
    let registry = FakeRegistry::start(&[Fault::AnswerEarly]);
    let (failure, sent, _) = through_relay(&registry, 5, |client| client.put(&blob(LARGE)));
    assert!(failure.is_none(), "{failure:?}");
    assert_eq!(sent, Some(201));
}

#[test]
fn failures_end_the_push_as_the_registry_reported_them() {
    use Fault::{Lose, StartStatus, Status};
    let table: [(usize, &[Fault], bool, &str); 5] = [
        // size of the blob, faults, whether another attempt of the engine can help, part of the message
        (LARGE, &[Lose { after: 20 << 20 }], true, "lost an upload"),
        (LARGE, &[Status(403)], false, "denies access"),
        (KEPT, &[StartStatus(405)], false, "read-only"),
        (1000, &[Status(413)], false, "413"),
        (1000, &[Status(503), Status(503), Status(503)], false, "503"),
    ];
    thread::scope(|scope| {
        for (size, faults, can_retry, message) in table {
            scope.spawn(move || {
                let registry = FakeRegistry::start(faults);
                let (failure, ..) = through_relay(&registry, 2, move |client| client.put(&blob(size)));
                let failure = failure.unwrap_or_else(|| panic!("{faults:?}: no failure"));
                let (can_help, error) = match failure {
                    Failure::Lost(error) => (true, error),
                    Failure::Final(error) => (false, error),
                    failure @ Failure::LeftBehind(_) => panic!("{faults:?}: {failure:?}"),
                };
                assert_eq!(can_help, can_retry, "{faults:?}: {error:?}");
                assert!(error.to_string().contains(message), "{faults:?}: {error}");
            });
        }
    });
}

#[test]
fn wrong_digests_are_not_stored() {
    let registry = FakeRegistry::start(&[]);
    let other = format!("sha256:{}", "0".repeat(64));
    let (failure, sent, _) = through_relay(&registry, 5, move |client| client.patch(&blob(KEPT), &other));
    assert!(failure.is_none(), "{failure:?}");
    assert_eq!(sent, Some((202, 400)));
    assert!(registry.state.lock().unwrap().blobs.is_empty());
}

#[test]
fn sends_a_blob_once_that_arrives_twice() {
    let registry = FakeRegistry::start(&[]);
    let (failure, sent, _) = through_relay(&registry, 5, |client| {
        thread::scope(|scope| {
            let sending: Vec<_> = (0..4).map(|_| scope.spawn(|| client.put(&blob(LARGE)))).collect();
            sending.into_iter().map(|sent| sent.join().unwrap()).collect::<Vec<_>>()
        })
    });
    assert!(failure.is_none(), "{failure:?}");
    assert_eq!(sent, Some(vec![201; 4]));
    assert_eq!(registry.count("PUT /v2/app/blobs/uploads/"), 1);
}

#[test]
fn stores_the_manifest_after_the_blobs() {
    let registry = FakeRegistry::start(&[Fault::Status(503)]);
    let (failure, sent, _) = through_relay(&registry, 5, |client| {
        let blob = client.put(&blob(1000));
        let schema = |version: u8| {
            let kind = format!("application/vnd.docker.distribution.manifest.v{version}+json");
            let head = format!("Content-Type: {kind}\r\nContent-Length: 2\r\n");
            client.ask("PUT", "/v2/app/manifests/1", &head, b"{}").0
        };
        (blob, schema(1), schema(2), client.ask("HEAD", "/v2/app/manifests/1", "", b""))
    });
    assert!(failure.is_none(), "{failure:?}");
    let (blob, first, second, (status, headers)) = sent.unwrap();
    assert_eq!((blob, first, second, status), (201, 400, 201, 200));
    assert_eq!(headers["docker-content-digest"], format!("sha256:{}", sha256(b"{}")));
    let requests = registry.state.lock().unwrap().requests.clone();
    assert_eq!(requests.last().unwrap(), "PUT /v2/app/manifests/1", "{requests:?}");
}

#[test]
fn keeps_scheme_and_port_if_the_location_has_others() {
    let registry = FakeRegistry::start(&[Fault::WrongPort]);
    let (failure, sent, notes) = through_relay(&registry, 5, |client| client.put(&blob(KEPT)));
    assert!(failure.is_none(), "{failure:?}");
    assert_eq!(sent, Some(201));
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(
        notes[0].starts_with("the registry sends uploads to https://127.0.0.1:1/; going on at "),
        "{notes:?}"
    );
}

#[test]
fn replaces_a_token_that_ends_within_a_minute() {
    for (lifetime, is_replaced) in [(30, true), (300, false)] {
        let registry = FakeRegistry::start(&[]);
        registry.state.lock().unwrap().token_lifetime = Some(lifetime);
        let (failure, sent, _) = through_relay(&registry, 5, |client| {
            let first = client.put(&blob(KEPT));
            // A token that was issued less than a second ago is not replaced.
            thread::sleep(Duration::from_millis(1100));
            (first, client.put(&blob(KEPT + 1)))
        });
        assert!(failure.is_none(), "{failure:?}");
        assert_eq!(sent, Some((201, 201)));
        // On a slow machine, the token may be older than a second already when the first blob is sent.
        let tokens = registry.state.lock().unwrap().tokens;
        assert_eq!(tokens > 1, is_replaced, "{lifetime} s: {tokens}");
    }
}

/// The data that was sent before the redirect cannot be sent again, so only the next attempt can reach the other server.
#[test]
fn next_attempt_starts_at_the_server_to_which_a_blob_was_redirected() {
    let other = FakeRegistry::start(&[]);
    let port = other.domain.rsplit(':').next().unwrap().parse().unwrap();
    let registry = FakeRegistry::start(&[Fault::Redirect { after: 20 << 20, port }]);
    runtime().block_on(async {
        let connected = connect(&registry).await;
        let first = attempt(&connected, &registry, 5, |client| client.put(&blob(LARGE))).await;
        let failure = first.failure.expect("the first attempt fails");
        assert!(matches!(failure, Failure::Lost(_)), "{failure:?}");
        let second = attempt(&connected, &registry, 5, |client| client.put(&blob(LARGE))).await;
        assert!(second.failure.is_none(), "{:?}", second.failure);
        assert_eq!(second.sent, Some(201));
    });
    assert_eq!((registry.count("POST"), other.count("POST")), (1, 1), "one upload starts at each server");
    assert_eq!(other.state.lock().unwrap().blobs.len(), 1);
}

#[test]
fn engine_that_cannot_reach_the_relay_is_named() {
    for inspects in [true, false] {
        let registry = FakeRegistry::start(&[]);
        let image = format!("{}/app:1", registry.domain);
        let id = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
        let engine = FakeEngine::with_info().has(&image, id).in_another_network(inspects);
        let env = TestEnv::new();
        let run = run(env.command(&engine).args(["regpush", "--relay", "always", &image]));
        assert_eq!(run.status, 4, "{run}");
        assert!(run.stderr.contains("cannot reach the plugin at 127."), "{run}");
        assert!(run.stderr.contains("hint: remove `--relay always`"), "{run}");
        assert_eq!(engine.names(), [image], "the temporary name is removed");
    }
}
