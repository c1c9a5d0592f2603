//! Tests limits on the size of requests and on the rate of an upload.

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::networks::RELAY_NOTE;
use crate::nginx::Nginx;
use crate::support::{Engine, Home, Registry, Run, engine, run};

/// The size in bytes of a layer that is larger than each limit of the tests.
const LARGE: usize = 12_000_000;
/// A layer of 10 MiB.
const TEN_MEBIBYTES: usize = 10 << 20;
const LIMITED: [&str; 3] = ["docker-20.10", "docker-28-classic", "docker-28-containerd"];

fn push(engine: &Engine, home: &Home, options: &[&str], image: &str) -> Run {
    let mut docker = engine.docker(home);
    let pushed = run(docker.args(["regpush", "--format", "json"]).args(options).arg(image));
    println!("{} {options:?}: {}\n{}{}", engine.name, pushed.status, pushed.stderr, pushed.stdout);
    pushed
}

/// Starts nginx with a limit on the size of requests.
///
/// * `options`: directives of nginx, each with a semicolon.
fn limited(registry: &Registry, size: &str, options: &str) -> Nginx {
    // Clients connect to nginx itself, so that nginx decides when to close the connection of a refused request.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let location = format!("location / {{ client_max_body_size {size}; {options} PROXY }}");
    let mut nginx = Nginx::before(registry, &format!("listen 127.0.0.1:{port}; {location}"));
    nginx.port = port;
    nginx
}

/// An engine sends a layer in one request, which nginx refuses with status 413. The plugin then sends smaller requests. With
/// `lingering_close off`, nginx closes the connection before it has read the request, so the client may not see the response.
#[test]
fn layers_larger_than_a_proxy_accepts() {
    thread::scope(|scope| {
        for name in LIMITED {
            let table = [
                ("never", "5m", "", &["--relay", "never"][..]),
                ("auto", "5m", "", &[]),
                ("once", "1m", "", &["--retries", "0"]),
                ("early", "5m", "lingering_close off;", &[]),
            ];
            for (case, size, directives, options) in table {
                scope.spawn(move || {
                    let (engine, home, registry) = (engine(name), Home::new(), Registry::open());
                    let nginx = limited(&registry, size, directives);
                    let path = format!("large/{name}-{case}");
                    let image = engine.image(&home, &nginx.name(&format!("{path}:1")), LARGE);
                    let pushed = push(&engine, &home, options, &image.name);
                    if case == "never" {
                        assert_eq!(pushed.status, 1, "{pushed:?}");
                        assert_eq!(pushed.json()["error"]["class"], "rejected", "{pushed:?}");
                        let is_hint = |line: &str| line.starts_with("hint: ") && line.contains("--relay");
                        assert!(pushed.stderr.lines().any(is_hint), "{pushed:?}");
                        return;
                    }
                    assert_eq!(pushed.status, 0, "{pushed:?}");
                    let (result, digest) = (pushed.json(), registry.digest(&path, "1", None));
                    let route = (&result["digest"], &result["route"]);
                    assert_eq!(route, (&json!(digest), &json!("relay")), "{pushed:?}");
                    assert_eq!(pushed.stderr.matches(RELAY_NOTE).count(), 1, "{pushed:?}");
                });
            }
        }
    });
}

/// With `--chunk-size`, the plugin does not have to learn the limit from a refused request.
#[test]
fn chunk_size_below_the_limit_of_a_proxy() {
    thread::scope(|scope| {
        for name in LIMITED {
            scope.spawn(move || {
                let (engine, home, registry) = (engine(name), Home::new(), Registry::open());
                let nginx = limited(&registry, "5m", "");
                let path = format!("chunks/{name}");
                let image = engine.image(&home, &nginx.name(&format!("{path}:1")), LARGE);
                let pushed = push(&engine, &home, &["--chunk-size", "4m"], &image.name);
                assert_eq!(pushed.status, 0, "{pushed:?}");
                assert_eq!(pushed.json()["digest"], registry.digest(&path, "1", None), "{pushed:?}");
                let log = nginx.take_log();
                assert!(log.iter().all(|request| request.status != 413), "{log:?}");
                let chunks = log.iter().filter(|request| request.method == "PATCH").count();
                assert!(chunks >= 3, "{log:?}");
            });
        }
    });
}

/// Returns the time of a JSON event, in seconds since midnight.
fn seconds(event: &Value) -> f64 {
    let (_, time) = event["time"].as_str().unwrap().trim_end_matches('Z').split_once('T').unwrap();
    time.split(':').fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().unwrap())
}

/// The stall timeout is shorter than the upload, and the limit makes no upload stall.
#[test]
fn limit_rate_is_kept_and_progress_rises() {
    thread::scope(|scope| {
        for name in ["docker-28-classic", "docker-28-containerd"] {
            scope.spawn(move || {
                let (engine, home, registry) = (engine(name), Home::new(), Registry::open());
                let path = format!("rate/{name}");
                let image = engine.image(&home, &registry.name(&format!("{path}:1")), TEN_MEBIBYTES);
                let options = ["--limit-rate", "1m", "--stall-timeout", "5s", "--progress", "json"];
                let pushed = push(&engine, &home, &options, &image.name);
                assert_eq!(pushed.status, 0, "{pushed:?}");
                let result = pushed.json();
                assert_eq!(result["digest"], registry.digest(&path, "1", None), "{result}");
                assert_eq!((&result["route"], &result["attempts"]), (&json!("relay"), &json!(1)), "{result}");

                let events: Vec<Value> =
                    pushed.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
                let layers: Vec<&Value> = events.iter().filter(|event| event["event"] == "layer").collect();
                let took = seconds(layers[layers.len() - 1]) - seconds(layers[0]);
                // A push around midnight (UTC) ends on another day.
                let took = took.rem_euclid(Duration::from_secs(24 * 60 * 60).as_secs_f64());
                // The upper bound is for a busy machine.
                assert!((9.0..30.0).contains(&took), "{took} s: {pushed:?}");
                let sent: Vec<u64> = layers.iter().map(|event| event["current"].as_u64().unwrap()).collect();
                assert!(sent.is_sorted(), "{sent:?}");
                let mut steps = sent.clone();
                steps.dedup();
                assert!(steps.len() >= 10, "{sent:?}");
                assert!(sent.last().unwrap() >= &(TEN_MEBIBYTES as u64), "{sent:?}");
            });
        }
    });
}

#[test]
fn limit_rate_without_the_relay_is_a_warning() {
    for name in LIMITED {
        let (engine, home, registry) = (engine(name), Home::new(), Registry::open());
        let image = engine.image(&home, &registry.name(&format!("unlimited/{name}:1")), crate::SMALL);
        let pushed = push(&engine, &home, &["--limit-rate", "1m", "--relay", "never"], &image.name);
        assert_eq!(pushed.status, 0, "{pushed:?}");
        let is_warning = |line: &str| line.starts_with("warning: ") && line.contains("--limit-rate");
        assert_eq!(pushed.stderr.lines().filter(|line| is_warning(line)).count(), 1, "{pushed:?}");
    }
}
