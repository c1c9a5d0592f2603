//! Tests all transports to an engine (Unix socket, TCP port, TLS, ssh), chosen by option, variable or context. Compares
//! the plugin's choice of engine with the choice of the real docker CLI.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use tempfile::TempDir;

use crate::SMALL;
use crate::namespace::{Network, command_in};
use crate::support::{
    Engine, Home, PrivateEngine, Registry, Run, WITHOUT_CAS, copy_in_background, engine, ok, port_to, run,
    wait_for,
};

/// Runs `docker OPTIONS regpush -q IMAGE` with the environment variables `variables`. `DOCKER_HOST` is unset, unless
/// `variables` contains `DOCKER_HOST`.
fn push(engine: &Engine, home: &Home, variables: &[(&str, &str)], options: &[&str], image: &str) -> Run {
    let mut command = engine.docker(home);
    command.env_remove("DOCKER_HOST").envs(variables.iter().copied());
    run(command.args(options).args(["regpush", "-q", image]))
}

/// Creates a docker context. Pushes an image three times, with the context set by option, by variable and by `docker
/// context use`.
fn push_by_context(engine: &Engine, home: &Home, context: &str, endpoint: &str, image: &str) {
    let docker = |words: &[&str]| ok(engine.docker(home).env_remove("DOCKER_HOST").args(words));
    docker(&["context", "create", context, "--docker", endpoint]);
    let by_flag = push(engine, home, &[], &["--context", context], image);
    assert_eq!(by_flag.status, 0, "{context}: {by_flag:?}");
    let by_variable = push(engine, home, &[("DOCKER_CONTEXT", context)], &[], image);
    assert_eq!(by_variable, by_flag, "{context}");
    docker(&["context", "use", context]);
    assert_eq!(push(engine, home, &[], &[], image), by_flag, "{context}");
    docker(&["context", "use", "default"]);
}

#[test]
fn pushes_through_contexts_with_sockets_and_ports() {
    for engine in crate::support::engines() {
        let (home, registry) = (Home::new(), Registry::open());
        let image = engine.image(&home, &registry.name("contexts/app:1"), SMALL);
        let port = port_to(&engine.socket);
        push_by_context(&engine, &home, "local", &format!("host={}", engine.host()), &image.name);
        push_by_context(&engine, &home, "port", &format!("host=tcp://127.0.0.1:{port}"), &image.name);
        let host = format!("tcp://127.0.0.1:{port}");
        assert_eq!(push(&engine, &home, &[], &["-H", &host], &image.name).status, 0);
    }
}

// ------------------------------------------------------------------------------------------------
// TLS

/// A certificate authority (CA), and a directory with PEM files of the CA and of signed certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "regpush test CA");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Signs a certificate for `hosts`. Writes `NAME/{ca,cert,key}.pem`, which is the layout of `DOCKER_CERT_PATH`.
    pub fn sign(&self, name: &str, hosts: &[&str], has_expired: bool) -> PathBuf {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(if has_expired { 2021 } else { 2090 }, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let directory = self.path(name);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("ca.pem"), self.issuer.pem()).unwrap();
        fs::write(directory.join("cert.pem"), certificate.pem()).unwrap();
        fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
        directory
    }
}

/// Makes a self-signed certificate for localhost, as `openssl req -x509` does. Returns the certificate and the private
/// key in PEM.
fn self_signed() -> (String, String) {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// A dockerd that accepts only TLS connections with a client certificate signed by the CA in `ca.pem`.
struct TlsEngine {
    port: u16,
    _process: PrivateEngine,
}

impl TlsEngine {
    fn start(engine: &Engine, certificates: &Path) -> Self {
        // dockerd cannot choose a free port itself, so the test does.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut arguments = vec!["--host".into(), format!("tcp://127.0.0.1:{port}"), "--tlsverify".into()];
        for (option, name) in [("--tlscacert", "ca.pem"), ("--tlscert", "cert.pem"), ("--tlskey", "key.pem")]
        {
            arguments.extend([option.to_owned(), certificates.join(name).display().to_string()]);
        }
        Self { port, _process: PrivateEngine::start(engine, &arguments) }
    }
}

#[test]
fn tls_engine_accepts_valid_certificates_and_each_wrong_one_is_explained() {
    let (home, registry) = (Home::new(), Registry::open());
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = authority.sign("server", &["localhost", "engine.test"], false);
    let client = authority.sign("client", &[], false);
    let old_client = authority.sign("old", &[], true);
    let other_client = stranger.sign("other", &[], false);
    // The client `misled` has a valid certificate, but trusts a CA that did not sign the engine's certificate.
    let misled = authority.sign("misled", &[], false);
    fs::copy(stranger.path("ca.pem"), misled.join("ca.pem")).unwrap();
    let distrusted = authority.sign("distrusted", &[], false);
    fs::copy(other_client.join("cert.pem"), distrusted.join("cert.pem")).unwrap();
    fs::copy(other_client.join("key.pem"), distrusted.join("key.pem")).unwrap();
    let nobody = authority.path("nobody");
    fs::create_dir(&nobody).unwrap();
    fs::copy(authority.path("ca.pem"), nobody.join("ca.pem")).unwrap();

    let docker = engine("docker-28-classic");
    let tls_engine = TlsEngine::start(&docker, &server);
    let host = format!("tcp://localhost:{}", tls_engine.port);
    let by_address = format!("tcp://127.0.0.1:{}", tls_engine.port);

    // The docker CLI imports the test image through the engine's TLS port.
    let name = registry.name("tls/app:1");
    let content = home.path("content");
    fs::write(&content, registry.port.to_string()).unwrap();
    ok(Command::new("tar").arg("-C").arg(home.root()).arg("-cf").arg(home.path("tar")).arg("content"));
    let in_tls = |words: &[&str]| {
        let mut command = docker.docker(&home);
        command.env("DOCKER_HOST", &host).env("DOCKER_TLS_VERIFY", "1").env("DOCKER_CERT_PATH", &client);
        ok(command.args(words))
    };
    in_tls(&["import", &home.path("tar").display().to_string(), &name]);

    let with = |host: &str, certificates: &Path| {
        let certificates = certificates.display().to_string();
        let variables =
            [("DOCKER_HOST", host), ("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", certificates.as_str())];
        push(&docker, &home, &variables, &[], &name)
    };
    let pushed = with(&host, &client);
    assert_eq!(pushed.status, 0, "{pushed:?}");
    assert_eq!(
        pushed.stdout,
        format!("{}@{}\n", registry.name("tls/app"), registry.digest("tls/app", "1", None))
    );

    let file = |directory: &Path, name: &str| directory.join(name).display().to_string();
    let table = [
        (
            with(&host, &misled),
            format!("its certificate is not signed by the CA in `{}`", file(&misled, "ca.pem")),
            "hint: pass its CA with --tlscacert",
        ),
        (
            with(&host, &nobody),
            "it requires a client certificate, and none is configured".to_owned(),
            "hint: pass a client certificate signed by the engine's CA",
        ),
        (
            with(&host, &old_client),
            format!("it does not accept the client certificate `{}`", file(&old_client, "cert.pem")),
            "hint: pass a client certificate signed by the engine's CA",
        ),
        (
            with(&host, &distrusted),
            format!("it does not accept the client certificate `{}`", file(&distrusted, "cert.pem")),
            "hint: pass a client certificate signed by the engine's CA",
        ),
        (
            with(&by_address, &client),
            "its certificate is not for `127.0.0.1`, but for localhost, engine.test".to_owned(),
            "hint: use the name in the engine's certificate",
        ),
        (
            push(&docker, &home, &[("DOCKER_HOST", &host)], &[], &name),
            format!("the engine at {host} (from DOCKER_HOST) requires TLS"),
            "hint: pass --tlsverify",
        ),
        (
            push(&docker, &home, &[("DOCKER_CERT_PATH", "/nothing")], &["--tls", "-H", &host], &name),
            "cannot read `/nothing/ca.pem`, needed for TLS to the engine (from --host)".to_owned(),
            "hint: pass --tlscacert",
        ),
    ];
    for (run, sentence, hint) in table {
        assert_eq!(run.status, 4, "{sentence}: {run:?}");
        assert!(run.stderr.contains(&sentence) && run.stderr.contains(hint), "{sentence}: {run:?}");
        let endpoint = format!("localhost:{}", tls_engine.port);
        let named = [&endpoint, "127.0.0.1", "/nothing"].iter().any(|place| run.stderr.contains(*place));
        assert!(named, "{run:?}");
    }
    // The error message says that the client's certificate has expired.
    assert!(with(&host, &old_client).stderr.contains("it has expired"), "{:?}", with(&host, &old_client));

    // With `--tls` but without `--tlsverify`, the plugin does not verify the engine's certificate.
    let lenient = [("DOCKER_HOST", by_address.as_str()), ("DOCKER_CERT_PATH", &client.display().to_string())];
    let unverified = push(&docker, &home, &lenient, &["--tls"], &name);
    assert_eq!(unverified.status, 0, "{unverified:?}");

    // The test stores CA, certificate and key in a context. `DOCKER_TLS_VERIFY` has no effect on a context.
    let endpoint = format!(
        "host={host},ca={},cert={},key={}",
        file(&client, "ca.pem"),
        file(&client, "cert.pem"),
        file(&client, "key.pem")
    );
    push_by_context(&docker, &home, "secure", &endpoint, &name);
    let chosen = push(&docker, &home, &[("DOCKER_TLS_VERIFY", "1")], &["-c", "secure"], &name);
    assert_eq!(chosen.status, 0, "{chosen:?}");
    push_by_context(
        &docker,
        &home,
        "careless",
        &format!("{endpoint},skip-tls-verify=true").replace("localhost", "127.0.0.1"),
        &name,
    );
    // If a context has no TLS files, the plugin's error message shows a command that adds the files.
    ok(docker.docker(&home).args(["context", "create", "bare", "--docker", &format!("host={host}")]));
    let bare = push(&docker, &home, &[], &["-c", "bare"], &name);
    assert!(bare.stderr.contains("`docker context update bare --docker host=tcp://localhost:"), "{bare:?}");

    // For a context without a CA file, the plugin trusts the CAs of the system. On Linux `SSL_CERT_FILE` can replace
    // the system's CAs.
    let endpoint = format!("host={host},cert={},key={}", file(&client, "cert.pem"), file(&client, "key.pem"));
    ok(docker.docker(&home).args(["context", "create", "public", "--docker", &endpoint]));
    let unknown = push(&docker, &home, &[], &["-c", "public"], &name);
    assert_eq!(unknown.status, 4, "{unknown:?}");
    assert!(unknown.stderr.contains("not signed by a CA that this system trusts"), "{unknown:?}");
    let system = [("SSL_CERT_FILE", &*authority.path("ca.pem").display().to_string())];
    let known = push(&docker, &home, &system, &["-c", "public"], &name);
    assert_eq!(known.status, 0, "{known:?}");
    let without = push(&docker, &home, &WITHOUT_CAS, &["-c", "public"], &name);
    assert_eq!(without.status, 4, "{without:?}");
    let told = ": cannot find CA certificates on this system\nhint: install the package ca-certificates, ";
    assert!(
        without.stderr.contains(told) && without.stderr.contains("`docker context update public "),
        "{without:?}"
    );

    // Pushes through a proxy, which receives the engine's host name.
    let proxy = connect_proxy(tls_engine.port);
    let variables = [
        ("DOCKER_HOST", "tcp://engine.test:2376"),
        ("DOCKER_TLS_VERIFY", "1"),
        ("DOCKER_CERT_PATH", &client.display().to_string()),
        ("HTTPS_PROXY", &format!("http://127.0.0.1:{proxy}")),
    ];
    let proxied = push(&docker, &home, &variables, &[], &name);
    assert_eq!(proxied.status, 0, "{proxied:?}");

    // Starts an engine with an expired certificate.
    drop(tls_engine);
    let old_server = authority.sign("old-server", &["localhost"], true);
    let old_engine = TlsEngine::start(&docker, &old_server);
    let expired = with(&format!("tcp://localhost:{}", old_engine.port), &client);
    assert_eq!(expired.status, 4, "{expired:?}");
    assert!(expired.stderr.contains("its certificate has expired"), "{expired:?}");
    assert!(expired.stderr.contains("hint: renew the engine's certificate"), "{expired:?}");
}

/// If the self-signed certificate of an engine is also the configured CA, the plugin accepts this certificate, as the
/// docker CLI does. rustls alone would refuse it.
#[test]
fn trusts_a_self_signed_engine_certificate_given_as_ca() {
    let home = Home::new();
    let authority = Authority::new();
    let (certificate, key) = self_signed();
    let server = authority.sign("server", &[], false);
    fs::write(server.join("cert.pem"), &certificate).unwrap();
    fs::write(server.join("key.pem"), key).unwrap();
    let client = authority.sign("client", &[], false);
    fs::write(client.join("ca.pem"), &certificate).unwrap();
    let stranger = authority.sign("stranger", &[], false);
    fs::write(stranger.join("ca.pem"), self_signed().0).unwrap();

    let docker = engine("docker-28-classic");
    let tls_engine = TlsEngine::start(&docker, &server);
    for (host, certificates, is_known) in
        [("localhost", &client, true), ("127.0.0.1", &client, false), ("localhost", &stranger, false)]
    {
        let called = |words: &[&str]| {
            let mut command = docker.docker(&home);
            command.env("DOCKER_HOST", format!("tcp://{host}:{}", tls_engine.port));
            command.env("DOCKER_TLS_VERIFY", "1").env("DOCKER_CERT_PATH", certificates);
            run(command.args(words))
        };
        let (cli, ours) = (called(&["images"]), called(&["regpush", "localhost:1/nothing:1"]));
        assert_eq!(cli.status == 0, is_known, "{host}: {cli:?}");
        // Status 5: the engine does not have the image. Status 4: the plugin cannot connect to the engine.
        assert_eq!(ours.status, if is_known { 5 } else { 4 }, "{host}: {ours:?}");
    }
}

/// Starts a proxy that forwards every `CONNECT` request to the port `target`, and returns the proxy's port.
fn connect_proxy(target: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                client.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            assert!(head.starts_with(b"CONNECT engine.test:2376 "), "{}", String::from_utf8_lossy(&head));
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            let engine = TcpStream::connect(("127.0.0.1", target)).unwrap();
            let (engine_reads, client_writes) = (engine.try_clone().unwrap(), client.try_clone().unwrap());
            copy_in_background(client, engine, |to| to.shutdown(Shutdown::Both));
            copy_in_background(engine_reads, client_writes, |to| to.shutdown(Shutdown::Both));
        }
    });
    port
}

// ------------------------------------------------------------------------------------------------
// ssh

/// An ssh server, which accepts root with a key.
pub struct Sshd {
    pub port: u16,
    process: Child,
    directory: TempDir,
}

impl Sshd {
    /// Starts sshd on the loopback interface.
    ///
    /// * `path`: the PATH of commands on the ssh server, which must contain docker.
    fn start(home: &Home, path: &Path) -> Self {
        Self::start_at(None, "127.0.0.1", home, path, "")
    }

    /// Starts sshd in another network, at the address of that network.
    ///
    /// * `path`: the PATH of commands on the ssh server, which must contain docker.
    /// * `options`: more lines of `sshd_config`, each with a newline.
    pub fn start_in(network: &Network, home: &Home, path: &Path, options: &str) -> Self {
        Self::start_at(Some(&network.file()), &network.address, home, path, options)
    }

    fn start_at(network: Option<&Path>, address: &str, home: &Home, path: &Path, options: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name).display().to_string();
        for name in ["host_key", "user_key", "other_key"] {
            ok(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &file(name)]));
        }
        fs::copy(file("user_key.pub"), file("authorized_keys")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "{options}Port {port}\nListenAddress {address}\nHostKey {}\nPidFile none\nAuthorizedKeysFile {}\n\
             PermitRootLogin prohibit-password\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             UsePAM no\nStrictModes no\nLogLevel VERBOSE\nSetEnv PATH={}\n",
            file("host_key"),
            file("authorized_keys"),
            path.display()
        );
        fs::write(file("sshd_config"), config).unwrap();
        let log = fs::File::create(file("log")).unwrap();
        let mut sshd = command_in(network, "/usr/sbin/sshd");
        sshd.args(["-D", "-e", "-f", &file("sshd_config")]).stdin(Stdio::null()).stderr(log);
        let process = sshd.spawn().unwrap();
        wait_for("sshd listens", || {
            fs::read_to_string(file("log")).ok()?.contains("listening on").then_some(())
        });

        let known = fs::read_to_string(file("host_key.pub")).unwrap();
        let known: Vec<&str> = known.split(' ').take(2).collect();
        fs::write(file("known_hosts"), format!("[{address}]:{port} {}\n", known.join(" "))).unwrap();
        let sshd = Self { port, process, directory };
        sshd.trust(home, "user_key");
        sshd
    }

    /// Installs an `ssh` script that runs the real ssh with the key `key`. The script names a configuration file, since
    /// ssh takes the home directory from passwd, not from HOME.
    fn trust(&self, home: &Home, key: &str) {
        let directory = self.directory.path().display();
        let config = format!(
            "UserKnownHostsFile {directory}/known_hosts\nGlobalKnownHostsFile none\nStrictHostKeyChecking yes\n\
             IdentityFile {directory}/{key}\nIdentitiesOnly yes\nBatchMode yes\n"
        );
        fs::write(home.path("ssh_config"), config).unwrap();
        home.program("ssh", &format!("exec /usr/bin/ssh -F {} \"$@\"", home.path("ssh_config").display()));
    }

    /// Returns the number of successful logins.
    pub fn logins(&self) -> usize {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap();
        log.matches("Accepted publickey").count()
    }

    /// Returns the TCP addresses at which programs listen in the network of this server, in the form of `/proc/net/tcp`.
    pub fn listeners(&self) -> BTreeSet<String> {
        /// The code of `TCP_LISTEN` in Linux's `tcp_states.h`.
        const LISTEN: &str = "0A";
        let mut listeners = BTreeSet::new();
        for table in ["tcp", "tcp6"] {
            let sockets = fs::read_to_string(format!("/proc/{}/net/{table}", self.process.id())).unwrap();
            for socket in sockets.lines() {
                let fields: Vec<&str> = socket.split_whitespace().take(4).collect();
                if let [_, address, _, LISTEN] = fields[..] {
                    listeners.insert(address.to_owned());
                }
            }
        }
        listeners
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn reaches_an_engine_over_ssh_with_one_login_and_explains_each_failure() {
    let (home, registry) = (Home::new(), Registry::open());
    let engine = engine("docker-28-classic");
    let image = engine.image(&home, &registry.name("ssh/app:1"), SMALL);
    let other_side = home.path("other-side");
    fs::create_dir(&other_side).unwrap();
    let sshd = Sshd::start(&home, &other_side);
    let place = format!("ssh://root@127.0.0.1:{}", sshd.port);
    let host = format!("{place}{}", engine.socket.display());

    let without_docker = push(&engine, &home, &[], &["-H", &host], &image.name);
    assert_eq!(without_docker.status, 4, "{without_docker:?}");
    assert!(without_docker.stderr.contains("ended with exit status: 127"), "{without_docker:?}");
    assert!(without_docker.stderr.contains("hint: install docker on that machine"), "{without_docker:?}");

    symlink(fs::read_link(&engine.docker).unwrap(), other_side.join("docker")).unwrap();
    let before = sshd.logins();
    let pushed = push(&engine, &home, &[], &["-H", &host], &image.name);
    assert_eq!(pushed.status, 0, "{pushed:?}");
    assert_eq!(sshd.logins() - before, 1, "one login per command");
    let digest = registry.digest("ssh/app", "1", None);
    assert_eq!(pushed.stdout, format!("{}@{digest}\n", registry.name("ssh/app")));
    push_by_context(&engine, &home, "box", &format!("host={host}"), &image.name);
    let relayed = push(&engine, &home, &[("REGPUSH_RELAY", "always")], &["-H", &host], &image.name);
    assert_eq!(relayed.status, 1, "{relayed:?}");
    assert!(relayed.stderr.contains("is on the engine's machine"), "{relayed:?}");

    let no_engine = push(&engine, &home, &[], &["-H", &format!("{place}/nothing/here.sock")], &image.name);
    assert_eq!(no_engine.status, 4, "{no_engine:?}");
    assert!(no_engine.stderr.contains("hint: start the engine on that machine"), "{no_engine:?}");

    let wrong_user = push(&engine, &home, &[], &["-H", &host.replace("root@", "stranger@")], &image.name);
    assert_eq!(wrong_user.status, 4, "{wrong_user:?}");
    assert!(wrong_user.stderr.contains("Permission denied (publickey)"), "{wrong_user:?}");
    assert!(
        wrong_user.stderr.contains(&format!("`ssh -p {} stranger@127.0.0.1` must work", sshd.port)),
        "{wrong_user:?}"
    );

    let known_hosts = sshd.directory.path().join("known_hosts");
    let other_key = fs::read_to_string(sshd.directory.path().join("other_key.pub")).unwrap();
    fs::write(&known_hosts, format!("[127.0.0.1]:{} {other_key}", sshd.port)).unwrap();
    let other_host_key = push(&engine, &home, &[], &["-H", &host], &image.name);
    assert_eq!(other_host_key.status, 4, "{other_host_key:?}");
    assert!(
        other_host_key.stderr.contains("hint: find out why the machine's host key changed"),
        "{other_host_key:?}"
    );
    fs::write(&known_hosts, "").unwrap();
    let unknown = push(&engine, &home, &[], &["-H", &host], &image.name);
    assert!(unknown.stderr.contains("host key, which is not known here"), "{unknown:?}");
    for run in [&without_docker, &no_engine, &wrong_user, &other_host_key, &unknown] {
        assert!(run.stderr.contains("(from --host)") && run.stderr.contains("engine at ssh://"), "{run:?}");
    }
}

#[test]
fn pushes_through_docker_dial_stdio() {
    let (home, registry) = (Home::new(), Registry::open());
    let engine = engine("docker-28-containerd");
    let image = engine.image(&home, &registry.name("dial/app:1"), SMALL);
    // The script `docker-noted` records its arguments, and then runs docker.
    let docker = engine.docker.display();
    home.program(
        "docker-noted",
        &format!("echo \"$@\" >>{0}\nexec {docker} \"$@\"", home.path("noted").display()),
    );
    let mut command = Command::new("bash");
    command.env_clear().envs(home.variables()).env("DOCKER_CLI_PLUGIN_USE_DIAL_STDIO", "1");
    command.env("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND", home.path("bin/docker-noted"));
    command.arg("-c").arg("exec \"$0\" \"$@\"").arg(home.path(".docker/cli-plugins/docker-regpush"));
    let pushed = run(command.args(["-H", &engine.host(), "regpush", "-q", &image.name]));
    let noted = fs::read_to_string(home.path("noted")).unwrap();
    assert_eq!(noted, format!("--host {} system dial-stdio\n", engine.host()), "once");
    assert_eq!(pushed.status, 0, "{pushed:?}");
    assert_eq!(
        pushed.stdout,
        format!("{}@{}\n", registry.name("dial/app"), registry.digest("dial/app", "1", None))
    );
}

// ------------------------------------------------------------------------------------------------
// Choice of the engine

/// Listening sockets and ports that record and then close each connection.
#[derive(Clone, Default)]
struct Doors(Arc<Mutex<BTreeSet<String>>>);

impl Doors {
    fn note(&self, name: &str, mut stream: impl Read) {
        let mut first = [0];
        let read = stream.read(&mut first).unwrap_or_default();
        let spoken = if read == 1 && first[0] == 0x16 { "TLS" } else { "HTTP" };
        self.0.lock().unwrap().insert(format!("{name} {spoken}"));
    }

    fn socket(&self, name: &'static str, path: &Path) -> String {
        let (doors, listener) = (self.clone(), UnixListener::bind(path).unwrap());
        thread::spawn(move || listener.incoming().flatten().for_each(|stream| doors.note(name, stream)));
        format!("unix://{}", path.display())
    }

    fn port(&self, name: &'static str, port: u16) -> String {
        let (doors, listener) = (self.clone(), TcpListener::bind(("127.0.0.1", port)).unwrap());
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || listener.incoming().flatten().for_each(|stream| doors.note(name, stream)));
        format!("tcp://127.0.0.1:{port}")
    }

    /// Runs a command, and returns the sockets and ports to which the command connected.
    fn taken(&self, command: &mut Command) -> BTreeSet<String> {
        self.0.lock().unwrap().clear();
        let run = run(command);
        assert_ne!(run.status, 0, "none of them is an engine: {run:?}");
        self.0.lock().unwrap().clone()
    }
}

/// A test case: docker's options, environment variables, and the current context.
type Case = (Vec<String>, Vec<(&'static str, String)>, Option<&'static str>);

/// The test records the connections of the docker CLI and of the plugin.
#[test]
fn chooses_the_engine_that_the_cli_chooses() {
    let (home, doors) = (Home::new(), Doors::default());
    let docker = engine("docker-28-classic");
    let door = |name: &'static str| doors.socket(name, &home.path(name));
    let (flag, variable) = (door("flag"), door("variable"));
    let (one, two, three) = (door("one"), door("two"), door("three"));
    let port = doors.port("port", 0);
    // docker connects to port 2376 if the options request TLS but give no host.
    doors.port("2376", 2376);
    let authority = Authority::new();
    let certificates = authority.sign("certificates", &["localhost"], false);
    let certificates_path = certificates.display().to_string();
    for (context, host) in [("one", &one), ("two", &two), ("three", &three)] {
        ok(docker.docker(&home).args(["context", "create", context, "--docker", &format!("host={host}")]));
    }
    let secure = format!("host={port},ca={}", certificates.join("ca.pem").display());
    ok(docker.docker(&home).args(["context", "create", "secure", "--docker", &secure]));

    let mut cases: Vec<Case> = Vec::new();
    let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    for options in [
        vec![],
        own(&["-H", &flag]),
        own(&["-c", "one"]),
        own(&["-c", "default"]),
        own(&["--context=nope"]),
        own(&["-c", "one", "--host", &flag]),
    ] {
        for docker_host in [None, Some(variable.as_str())] {
            for docker_context in [None, Some("two")] {
                for current in [None, Some("three")] {
                    let mut variables = Vec::new();
                    variables.extend(docker_host.map(|host| ("DOCKER_HOST", host.to_owned())));
                    variables.extend(docker_context.map(|context| ("DOCKER_CONTEXT", context.to_owned())));
                    cases.push((options.clone(), variables, current));
                }
            }
        }
    }
    let with = |words: &[&str], variables: &[(&'static str, &str)], current| {
        let variables = variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        (own(words), variables, current)
    };
    let cert_path = ("DOCKER_CERT_PATH", certificates_path.as_str());
    cases.extend([
        with(&[], &[("DOCKER_HOST", ""), ("DOCKER_CONTEXT", "two")], Some("three")),
        with(&[], &[("DOCKER_CONTEXT", "")], Some("three")),
        with(&[], &[("DOCKER_CONTEXT", "default")], Some("three")),
        with(&["-H", ""], &[("DOCKER_HOST", &variable)], None),
        with(&["-c", ""], &[("DOCKER_CONTEXT", "two")], None),
        with(&["-H", &port], &[], None),
        with(&["-H", &port.replace("tcp://", "")], &[], None),
        with(&["-H", &format!("{port}/base")], &[], None),
        with(&["-H", &port.replace("tcp://", "http://")], &[], None),
        with(&["-H", &port, "--tls"], &[cert_path], None),
        with(&["-H", &port, "--tlsverify"], &[cert_path], None),
        with(&["-H", &port, "--tlsverify=false"], &[cert_path], None),
        with(&["-H", &port, "--tls=false"], &[cert_path, ("DOCKER_TLS", "1")], None),
        with(&["-H", &port], &[cert_path, ("DOCKER_TLS", "0")], None),
        with(&["-H", &port], &[cert_path, ("DOCKER_TLS_VERIFY", "0")], None),
        with(&["-H", &port], &[cert_path, ("DOCKER_TLS_VERIFY", "")], None),
        with(&["-H", &port, "--tls"], &[("DOCKER_CERT_PATH", "/nothing")], None),
        with(&["-H", &flag, "--tlsverify"], &[("DOCKER_CERT_PATH", "/nothing")], None),
        with(&["-H", &flag, "--tlsverify"], &[cert_path], None),
        with(&["--tlsverify"], &[cert_path], None),
        with(&["--tls"], &[cert_path], Some("three")),
        with(&["-c", "secure"], &[], None),
        with(&["-c", "secure", "--tls=false"], &[], None),
        with(&["-c", "two", "--tlsverify"], &[("DOCKER_CERT_PATH", "/nothing")], None),
    ]);
    assert!(cases.len() >= 60);
    let mut different = Vec::new();
    for (options, variables, current) in cases {
        ok(docker.docker(&home).args(["context", "use", current.unwrap_or("default")]));
        let called = |words: &[&str]| {
            let mut command = docker.docker(&home);
            command.env_remove("DOCKER_HOST").envs(variables.clone()).args(&options).args(words);
            command
        };
        // docker does not connect to an engine before it starts a plugin, so only the plugin connects.
        let (cli, ours) =
            (doors.taken(&mut called(&["images"])), doors.taken(&mut called(&["regpush", "app"])));
        if cli != ours {
            different.push(format!("{options:?} {variables:?} {current:?}: {cli:?}, ours {ours:?}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// Only root and the group of the engine's socket may open the socket.
#[test]
fn reports_a_socket_that_the_user_may_not_open() {
    let engine = engine("docker-20.10");
    let home = Home::new();
    // The unprivileged user needs a copy of the plugin in a readable directory.
    let program = home.path("docker-regpush");
    fs::copy(env!("CARGO_BIN_EXE_docker-regpush"), &program).unwrap();
    for path in [home.root(), &program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(&engine.socket, fs::Permissions::from_mode(0o660)).unwrap();
    let mut command = home.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
    let run = run(command.args(["-H", &engine.host(), "regpush", "app"]));
    assert_eq!(run.status, 4, "{run:?}");
    let socket = engine.socket.display();
    assert!(run.stderr.contains(&format!("cannot connect to the engine at unix://{socket}")), "{run:?}");
    assert!(run.stderr.contains(&format!("hint: join the group of {socket}")), "{run:?}");
}
