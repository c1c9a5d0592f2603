//! Tests pushes over networks that the engine cannot use by itself: registries with a private CA, client certificates or
//! plain HTTP, proxies with a password, and engines in other networks. The registries have an address that is not a loopback
//! address, for which engines require valid TLS certificates, and clients use proxies.

use std::collections::BTreeSet;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::endpoints::{Authority, Sshd};
use crate::namespace::Network;
use crate::nginx::Nginx;
use crate::proxy::{Fault, Proxy, ask};
use crate::registries::TokenServer;
use crate::relay::{images, kill_plugin, on_each, records};
use crate::support::{Engine, Home, MANIFESTS, PrivateEngine, Registry, Run, engine, ok, run, wait_for};
use crate::{PASSWORD, SMALL, packed};

/// The size in bytes of a layer that the relay streams.
const LARGE: usize = 24_000_000;
/// The end of the note about a push that the plugin repeats through the relay.
pub const RELAY_NOTE: &str = "the plugin uploads the image instead";

/// Runs a command of the plugin, with the environment variables `variables`.
fn regpush(engine: &Engine, home: &Home, variables: &[(&str, &str)], arguments: &[&str]) -> Run {
    let mut docker = engine.docker(home);
    let done = run(docker.envs(variables.iter().copied()).arg("regpush").args(arguments));
    println!("{}: {arguments:?}: {}\n{}{}", engine.name, done.status, done.stderr, done.stdout);
    done
}

/// Pushes an image, and returns the run with a JSON result.
fn push(engine: &Engine, home: &Home, options: &[&str], image: &str) -> Run {
    regpush(engine, home, &[], &[&["--format", "json"], options, &[image]].concat())
}

/// Asserts that a push through the relay succeeded.
///
/// * `digest`: returns the digest that the registry serves.
fn assert_relayed(pushed: &Run, digest: impl FnOnce() -> String) {
    assert_eq!(pushed.status, 0, "{pushed:?}");
    let result = pushed.json();
    assert_eq!((&result["digest"], &result["route"]), (&json!(digest()), &json!("relay")), "{pushed:?}");
}

/// Asserts that a push failed, and why.
///
/// * `words`: texts that stderr contains.
fn assert_failed(pushed: &Run, (status, class): (i32, &str), words: &[&str]) {
    assert_eq!(pushed.status, status, "{pushed:?}");
    assert_eq!(pushed.json()["error"]["class"], class, "{pushed:?}");
    for word in words {
        assert!(pushed.stderr.contains(word), "{word}: {pushed:?}");
    }
}

// ------------------------------------------------------------------------------------------------
// Registries

/// A registry in another network. Its certificate is signed by a CA that neither the system nor the engines trust.
struct PrivateRegistry {
    registry: Registry,
    /// The file with the CA.
    ca: String,
    /// The arguments with which curl connects to the registry.
    curl: Vec<String>,
}

impl PrivateRegistry {
    /// * `set_up`: as for [`Registry::start`]. The configuration already has the TLS settings of the registry.
    fn start(network: &Network, authority: &Authority, set_up: impl FnOnce(&mut Value, &Path)) -> Self {
        let server = authority.sign("server", &[&network.address], false);
        let registry = Registry::start_in(network, |config, directory| {
            let (certificate, key) = (server.join("cert.pem"), server.join("key.pem"));
            config["http"]["tls"] = json!({"certificate": certificate, "key": key});
            set_up(config, directory);
        });
        let ca = authority.path("ca.pem").display().to_string();
        let curl = vec!["--cacert".to_owned(), ca.clone()];
        Self { registry, ca, curl }
    }

    fn open(network: &Network) -> (Self, Authority) {
        let authority = Authority::new();
        (Self::start(network, &authority, |_, _| {}), authority)
    }

    /// Returns the digest that the registry serves for the tag `1` of a repository.
    fn digest(&self, repository: &str) -> String {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--head", "--noproxy", "*"]).args(&self.curl);
        curl.args(["--header", &format!("Accept: {MANIFESTS}")]);
        let head = ok(curl.arg(format!("https://{}/v2/{repository}/manifests/1", self.registry.host())));
        let digest =
            |line: &str| Some(line.to_lowercase().strip_prefix("docker-content-digest: ")?.to_owned());
        head.lines().find_map(digest).expect("a digest")
    }
}

#[test]
fn private_ca_is_trusted_with_ca_file() {
    let (network, authority) = (Network::new(), Authority::new());
    let mut private = PrivateRegistry::start(&network, &authority, |config, directory| {
        Registry::allow(config, directory, &[("alice", PASSWORD)]);
    });
    private.curl.extend(["--user".to_owned(), format!("alice:{PASSWORD}")]);
    let (private, registry) = (&private, &private.registry);
    let (ca, host) = (private.ca.as_str(), registry.host());
    on_each(|engine, home| {
        home.config(&json!({"auths": {&host: {"auth": packed("alice", PASSWORD)}}}));
        let path = format!("private/{}", engine.name);
        let image = engine.image(home, &registry.name(&format!("{path}:1")), SMALL);
        let untrusted = push(engine, home, &[], &image.name);
        assert_failed(&untrusted, (6, "tls"), &["hint: ", "--ca-file"]);
        let pushed = push(engine, home, &["--ca-file", ca], &image.name);
        assert_relayed(&pushed, || private.digest(&path));

        // The engine does not use the option.
        let by_engine = push(engine, home, &["--ca-file", ca, "--relay", "never"], &image.name);
        assert_failed(&by_engine, (6, "tls"), &["--ca-file"]);
        let warnings = by_engine.json()["warnings"].to_string();
        assert!(warnings.contains("--ca-file"), "{by_engine:?}");

        let listed = regpush(engine, home, &[], &["ls", "--ca-file", ca, &registry.name(&path)]);
        assert!(listed.status == 0 && listed.stdout.contains(&private.digest(&path)[..12]), "{listed:?}");
        let unlisted = regpush(engine, home, &[], &["ls", &registry.name(&path)]);
        assert!(unlisted.status == 6 && unlisted.stderr.contains("--ca-file"), "{unlisted:?}");
        let checked = regpush(engine, home, &[], &["auth", "--ca-file", ca, &host]);
        assert!(checked.status == 0 && checked.stdout.contains("alice"), "{checked:?}");
        let unchecked = regpush(engine, home, &[], &["auth", &host]);
        assert!(unchecked.status == 6 && unchecked.stderr.contains("x509: "), "{unchecked:?}");
    });
}

/// The plugin trusts the CA without an option, and the engine does not. `--tls-verify=false` needs no CA.
#[test]
fn private_ca_that_only_the_plugin_trusts() {
    let network = Network::new();
    let (private, _authority) = PrivateRegistry::open(&network);
    let (private, registry) = (&private, &private.registry);
    on_each(|engine, home| {
        let pushed_with = |case: &str, variables: &[(&str, &str)], options: &[&str]| {
            let path = format!("{case}/{}", engine.name);
            let image = engine.image(home, &registry.name(&format!("{path}:1")), SMALL);
            let arguments = [&["--format", "json"], options, &[&image.name]].concat();
            let pushed = regpush(engine, home, variables, &arguments);
            assert_relayed(&pushed, || private.digest(&path));
            pushed
        };
        pushed_with("variable", &[("REGPUSH_CA_FILE", &private.ca)], &[]);
        pushed_with("unverified", &[], &["--tls-verify=false"]);
        // On Linux `SSL_CERT_FILE` replaces the system's CAs. The relay is one more attempt after the engine's failure.
        let system = [("SSL_CERT_FILE", private.ca.as_str())];
        let again = pushed_with("system", &system, &["--retries", "0"]);
        assert_eq!(again.stderr.matches(RELAY_NOTE).count(), 1, "{again:?}");
    });
}

#[test]
fn client_certificates_reach_a_registry_that_requires_them() {
    let (network, authority) = (Network::new(), Authority::new());
    let mut private = PrivateRegistry::start(&network, &authority, |config, _| {
        config["http"]["tls"]["clientcas"] = json!([authority.path("ca.pem")]);
    });
    let client = authority.sign("client", &[], false);
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| client.join(name).display().to_string());
    private.curl.extend(["--cert", &certificate, "--key", &key].map(str::to_owned));
    let (private, registry) = (&private, &private.registry);
    let with_ca = ["--ca-file", private.ca.as_str()];
    let all = [&with_ca[..], &["--cert-file", &certificate, "--key-file", &key]].concat();
    on_each(|engine, home| {
        let path = format!("mutual/{}", engine.name);
        let image = engine.image(home, &registry.name(&format!("{path}:1")), SMALL);
        let without = push(engine, home, &with_ca, &image.name);
        assert_failed(&without, (6, "tls"), &["hint: ", "--cert-file"]);
        let pushed = push(engine, home, &all, &image.name);
        assert_relayed(&pushed, || private.digest(&path));
        let listed = regpush(engine, home, &[], &[&["ls"], &all[..], &[&registry.name(&path)]].concat());
        assert!(listed.status == 0 && listed.stdout.contains(&private.digest(&path)[..12]), "{listed:?}");
        let checked = regpush(engine, home, &[], &[&["auth"], &all[..], &[&registry.host()]].concat());
        assert_eq!(checked.status, 0, "{checked:?}");
    });
}

/// The CA signs the certificates of a registry and of its token server.
#[test]
fn token_server_with_a_private_ca() {
    let (network, authority, tokens) = (Network::new(), Authority::new(), TokenServer::start());
    let listener = TcpListener::bind((&*network.gateway, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let private = PrivateRegistry::start(&network, &authority, |config, directory| {
        tokens.allow(config, directory, &format!("https://{address}/token"));
    });
    let registry = &private.registry;
    let front = authority.sign("front", &[&network.gateway], false);
    let server = format!(
        "listen {address} ssl; ssl_certificate {0}/cert.pem; ssl_certificate_key {0}/key.pem;
        location / {{ proxy_pass http://127.0.0.1:{1}; }}",
        front.display(),
        tokens.port
    );
    let _nginx = Nginx::before(registry, &server);
    on_each(|engine, home| {
        home.config(&json!({"auths": {registry.host(): {"auth": packed("alice", PASSWORD)}}}));
        let path = format!("tokens/{}", engine.name);
        let image = engine.image(home, &registry.name(&format!("{path}:1")), SMALL);
        let pushed = push(engine, home, &["--ca-file", &private.ca], &image.name);
        let link = format!("docker/registry/v2/repositories/{path}/_manifests/tags/1/current/link");
        assert_relayed(&pushed, || fs::read_to_string(registry.data().join(link)).unwrap());
        let checked = regpush(engine, home, &[], &["auth", "--ca-file", &private.ca, &registry.name(&path)]);
        assert!(checked.status == 0 && checked.stdout.contains("yes"), "{checked:?}");
    });
}

#[test]
fn plain_http_is_used_only_on_request() {
    let network = Network::new();
    let registry = Registry::start_in(&network, |_, _| {});
    on_each(|engine, home| {
        let path = format!("plain/{}", engine.name);
        let image = engine.image(home, &registry.name(&format!("{path}:1")), SMALL);
        for options in [&[][..], &["--tls-verify=false"]] {
            let refused = push(engine, home, options, &image.name);
            assert_eq!(refused.status, 6, "{options:?}: {refused:?}");
        }
        registry.assert_no_manifest(&path);
        let pushed = push(engine, home, &["--plain-http"], &image.name);
        assert_relayed(&pushed, || registry.digest(&path, "1", None));
        let listed = regpush(engine, home, &[], &["ls", "--plain-http", &registry.name(&path)]);
        assert_eq!(listed.status, 0, "{listed:?}");
        let checked = regpush(engine, home, &[], &["auth", "--plain-http", &registry.host()]);
        assert_eq!(checked.status, 0, "{checked:?}");
    });
}

// ------------------------------------------------------------------------------------------------
// Proxies

/// A tinyproxy on a loopback port, which requires a username and a password.
struct Tinyproxy {
    process: Child,
    log: PathBuf,
    port: u16,
}

impl Tinyproxy {
    /// The password of the user `proxyuser`.
    const PASSWORD: &'static str = "proxysecret";

    fn start(home: &Home) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (config, log) = (home.path("tinyproxy.conf"), home.path("tinyproxy.log"));
        let password = Self::PASSWORD;
        let settings =
            format!("Port {port}\nListen 127.0.0.1\nLogLevel Info\nBasicAuth proxyuser {password}\n");
        fs::write(&config, settings).unwrap();
        let mut tinyproxy = Command::new("tinyproxy");
        tinyproxy
            .arg("-d")
            .arg("-c")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&log).unwrap());
        let process = tinyproxy.spawn().unwrap();
        wait_for("tinyproxy listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        Self { process, log, port }
    }

    fn url(&self, password: &str) -> String {
        format!("http://proxyuser:{password}@127.0.0.1:{}", self.port)
    }

    /// Returns whether the proxy has connected to `host`, which it does only after a request with the right password.
    fn has_connected_to(&self, host: &str) -> bool {
        fs::read_to_string(&self.log).unwrap().contains(&format!("opening connection to {host}\n"))
    }
}

impl Drop for Tinyproxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn relay_uses_a_proxy_that_requires_a_password() {
    let network = Network::new();
    let (private, _authority) = PrivateRegistry::open(&network);
    let (registry, ca) = (&private.registry, private.ca.as_str());
    let plain = Registry::start_in(&network, |_, _| {});
    on_each(|engine, home| {
        let proxy = Tinyproxy::start(home);
        let path = format!("proxied/{}", engine.name);
        let image = engine.image(home, &registry.name(&format!("{path}:1")), SMALL);
        let good = proxy.url(Tinyproxy::PASSWORD);
        let (wrong, bad) = ("notthesecret", proxy.url("notthesecret"));
        let arguments = &["--format", "json", "--ca-file", ca, &image.name];

        let refused = regpush(engine, home, &[("HTTPS_PROXY", &bad)], arguments);
        assert_failed(&refused, (6, "network"), &["HTTPS_PROXY"]);
        assert_eq!(refused.json()["attempts"], 1, "a wrong password is sent once: {refused:?}");
        for command in ["ls", "auth"] {
            let host = registry.host();
            let refused = regpush(engine, home, &[("HTTPS_PROXY", &bad)], &[command, "--ca-file", ca, &host]);
            assert!(refused.status != 0 && refused.stderr.contains("HTTPS_PROXY"), "{refused:?}");
            assert!(!format!("{refused:?}").contains(wrong), "{refused:?}");
        }
        assert!(!format!("{refused:?}").contains(wrong), "{refused:?}");
        let mut debug = engine.docker(home);
        let debug = run(debug.env("HTTPS_PROXY", &bad).args(["-D", "regpush"]).args(arguments));
        assert_eq!(debug.status, 6, "{debug:?}");
        assert!(!format!("{debug:?}").contains(wrong), "{debug:?}");

        let pushed = regpush(engine, home, &[("HTTPS_PROXY", &good)], arguments);
        assert_relayed(&pushed, || private.digest(&path));
        assert!(proxy.has_connected_to(&registry.host()), "the proxy was used");
        assert!(!format!("{pushed:?}").contains(Tinyproxy::PASSWORD), "{pushed:?}");

        // HTTP_PROXY is the proxy for plain HTTP.
        let image = engine.image(home, &plain.name(&format!("{path}:1")), SMALL);
        let variables = [("HTTP_PROXY", good.as_str()), ("HTTPS_PROXY", "http://127.0.0.1:1")];
        let pushed = regpush(engine, home, &variables, &["--format", "json", "--plain-http", &image.name]);
        assert_relayed(&pushed, || plain.digest(&path, "1", None));
        assert!(proxy.has_connected_to(&plain.host()), "the proxy was used");

        let variables = [("HTTPS_PROXY", bad.as_str()), ("NO_PROXY", network.subnet.as_str())];
        let direct = regpush(engine, home, &variables, arguments);
        assert_eq!(direct.status, 0, "{direct:?}");
    });
}

/// The engine's proxy does not answer, so only the plugin can reach the registry.
#[test]
fn relay_is_used_if_only_the_plugin_reaches_the_registry() {
    let network = Network::new();
    let (private, _authority) = PrivateRegistry::open(&network);
    let home = Home::new();
    let socket = home.path("engine.sock");
    let docker = engine("docker-28-classic");
    let arguments =
        [format!("--host=unix://{}", socket.display()), "--https-proxy=http://127.0.0.1:1".to_owned()];
    let _dockerd = PrivateEngine::start(&docker, &arguments);
    let docker = docker.at(&socket);
    let image = docker.image(&home, &private.registry.name("cut/app:1"), SMALL);
    let trusted = [("SSL_CERT_FILE", private.ca.as_str())];
    let pushed = regpush(&docker, &home, &trusted, &["--format", "json", "--retries", "0", &image.name]);
    assert_relayed(&pushed, || private.digest("cut/app"));
    assert_eq!(pushed.stderr.matches(RELAY_NOTE).count(), 1, "{pushed:?}");
}

// ------------------------------------------------------------------------------------------------
// Engines in other networks

/// Returns the ssh processes with a connection to `sshd`.
fn ssh_processes(network: &Network, sshd: &Sshd) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        // Skips files that cannot be read, for example because the process has exited.
        let Ok(bytes) = fs::read(process.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&bytes);
        let arguments: Vec<&str> = line.split('\0').collect();
        let is_host = |argument: &&str| argument.rsplit('@').next() == Some(&network.address);
        if arguments.iter().any(is_host) && arguments.contains(&sshd.port.to_string().as_str()) {
            found.insert(arguments.join(" "));
        }
    }
    found
}

#[test]
fn relay_reaches_an_engine_over_ssh_with_one_more_login() {
    let (network, home) = (Network::new(), Home::new());
    let docker = engine("docker-28-classic").in_network(&network);
    let socket = home.path("engine.sock");
    let host = format!("--host=unix://{}", socket.display());
    let _dockerd = PrivateEngine::start(&docker, &[host, format!("--insecure-registry={}", network.subnet)]);
    let docker = docker.at(&socket);
    let other_side = home.path("other-side");
    fs::create_dir(&other_side).unwrap();
    symlink(fs::read_link(&docker.docker).unwrap(), other_side.join("docker")).unwrap();
    let place = |sshd: &Sshd| format!("ssh://root@{}:{}{}", network.address, sshd.port, socket.display());
    let push = |host: &str, options: &[&str], image: &str| {
        let arguments = [&["--format", "json"], options, &[image]].concat();
        regpush(&docker, &home, &[("DOCKER_HOST", host)], &arguments)
    };
    // Both the engine and the plugin can reach this registry, so both kinds of push work.
    let shared = Registry::start_in(&network, |_, _| {});
    let sshd = Sshd::start_in(&network, &home, &other_side, "");
    let before = sshd.listeners();
    let mut logins = Vec::new();
    for relay in ["never", "always"] {
        let image = docker.image(&home, &shared.name(&format!("ssh/{relay}:1")), SMALL);
        let earlier = sshd.logins();
        let pushed = push(&place(&sshd), &["--relay", relay], &image.name);
        assert_eq!(pushed.status, 0, "{pushed:?}");
        assert_eq!(pushed.json()["digest"], shared.digest(&format!("ssh/{relay}"), "1", None));
        logins.push(sshd.logins() - earlier);
    }
    assert_eq!(logins[1], logins[0] + 1, "{logins:?}");

    // The proxy listens in a subnet that the engine cannot reach.
    let (other, registry) = (Network::new(), Registry::open());
    let proxy = Proxy::at(&other.gateway, &registry);
    let relayed = ["--relay", "always", "--plain-http"];
    let image = docker.image(&home, &proxy.name("ssh/app:1"), LARGE);
    let pushed = push(&place(&sshd), &relayed, &image.name);
    assert_relayed(&pushed, || registry.digest("ssh/app", "1", None));
    assert_eq!(images(&docker, &home, "ssh/app").len(), 1, "the temporary name is removed");
    let assert_nothing_left = || {
        wait_for("no ssh is left", || ssh_processes(&network, &sshd).is_empty().then_some(()));
        wait_for("no listener is left", || (sshd.listeners() == before).then_some(()));
    };
    assert_nothing_left();

    // The plugin is killed in the middle of a push.
    let image = docker.image(&home, &proxy.name("ssh/killed:1"), LARGE);
    proxy.fails(1, ask::send, Fault::Stall(1 << 20));
    let mut command = docker.docker(&home);
    command.env("DOCKER_HOST", place(&sshd)).arg("regpush").args(relayed).arg(&image.name);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the upload stalls", || proxy.log().iter().any(|asked| asked.is_faulty).then_some(()));
    assert_ne!(sshd.listeners(), before, "the forwarded port");
    assert!(!ssh_processes(&network, &sshd).is_empty());
    kill_plugin(child);
    assert_nothing_left();
    let pushed = push(&place(&sshd), &relayed, &image.name);
    assert_relayed(&pushed, || registry.digest("ssh/killed", "1", None));
    assert_eq!(images(&docker, &home, "ssh/killed").len(), 1, "the name of the killed push is removed");
    assert_nothing_left();

    // An ssh server that listens on all addresses, and one that forwards no ports.
    let open = Sshd::start_in(&network, &home, &other_side, "GatewayPorts yes\n");
    let image = docker.image(&home, &proxy.name("ssh/open:1"), SMALL);
    let pushed = push(&place(&open), &relayed, &image.name);
    assert_relayed(&pushed, || registry.digest("ssh/open", "1", None));
    assert!(pushed.json()["warnings"].to_string().contains("GatewayPorts"), "{pushed:?}");
    let closed = Sshd::start_in(&network, &home, &other_side, "AllowTcpForwarding no\n");
    let image = docker.image(&home, &proxy.name("ssh/closed:1"), SMALL);
    let refused = push(&place(&closed), &relayed, &image.name);
    assert_failed(&refused, (4, "engine"), &["AllowTcpForwarding"]);
    for sshd in [&open, &closed] {
        wait_for("no ssh is left", || ssh_processes(&network, sshd).is_empty().then_some(()));
    }
    assert_eq!(records(&home), Vec::<PathBuf>::new());
}

/// Like a rootless engine, an engine in another network shares its socket with the plugin, and not the loopback interface.
#[test]
fn engine_that_cannot_reach_the_plugin_is_reported_at_once() {
    let (network, home) = (Network::new(), Home::new());
    let (private, _authority) = PrivateRegistry::open(&network);
    let docker = engine("docker-28-containerd").in_network(&network);
    let socket = home.path("engine.sock");
    let unix = format!("unix://{}", socket.display());
    let tcp = format!("tcp://{}:2375", network.address);
    // Without `--tls=false`, docker delays the start of an engine with a TCP port and without TLS.
    let arguments = [format!("--host={unix}"), format!("--host={tcp}"), "--tls=false".to_owned()];
    let _dockerd = PrivateEngine::start(&docker, &arguments);
    let docker = docker.at(&socket);
    let registry = Registry::open();
    let image = docker.image(&home, &registry.name("far/app:1"), SMALL);
    let private_image = docker.image(&home, &private.registry.name("far/app:1"), SMALL);
    let before = images(&docker, &home, "far/app");
    let always = (&["--relay", "always"][..], &image);
    let rate = (&["--limit-rate", "1m"][..], &image);
    let ca = (&["--ca-file", &private.ca][..], &private_image);
    // With an engine on another machine, only `--relay always` asks whether the engine reaches the plugin.
    let table = [
        (&unix, &[always, rate, ca][..], "network"),
        (&tcp, &[always], "network"),
        (&tcp, &[rate, ca], "the engine is on another machine"),
    ];
    for (host, pushes, words) in table {
        for (options, image) in pushes {
            let started = Instant::now();
            let arguments = [&["--format", "json"], *options, &[&image.name]].concat();
            let refused = regpush(&docker, &home, &[("DOCKER_HOST", host)], &arguments);
            let took = started.elapsed();
            assert_failed(&refused, (4, "engine"), &[words]);
            // The time limit for the engine to answer is 5 s.
            assert!(took < Duration::from_secs(5), "{host} {options:?}: {took:?}");
        }
    }
    assert_eq!(images(&docker, &home, "far/app"), before);
    assert_eq!(records(&home), Vec::<PathBuf>::new());
}
