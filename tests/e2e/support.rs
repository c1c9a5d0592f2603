//! Real engines (started by `tests/run.sh`), real registries, and the real docker CLI.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use docker_regpush::oci::sha256;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portable_pty::CommandBuilder;
use reqwest::header::ACCEPT;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::namespace::{Network, command_in};
pub use crate::wait::wait_for;

pub const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json";
/// Environment variables that imitate a system without any CA, such as a minimal container.
pub const WITHOUT_CAS: [(&str, &str); 2] =
    [("SSL_CERT_FILE", "/nothing/here"), ("SSL_CERT_DIR", "/nothing/here")];
const LOOPBACK: &str = "127.0.0.1";

/// An engine, and the docker CLI of the same version.
pub struct Engine {
    pub name: &'static str,
    directory: PathBuf,
    pub socket: PathBuf,
    pub docker: PathBuf,
    /// The network namespace of new engines; `None` for the test's own network.
    network: Option<PathBuf>,
}

const ENGINES: [&str; 6] =
    ["docker-20.10", "docker-26", "docker-28-classic", "docker-28-containerd", "podman", "podman-5"];

/// Returns all engines that `tests/run.sh` has started. podman is used with the newest docker CLI.
pub fn engines() -> [Engine; 6] {
    ENGINES.map(engine)
}

/// Returns the directory in which `tests/run.sh` has prepared engines and tools.
fn work() -> PathBuf {
    let root = std::env::var_os("REGPUSH_E2E");
    root.expect("start these tests with tests/run.sh, which starts the engines").into()
}

/// Returns the engine with the given name, such as `docker-28-classic` for version 28 with the classic store.
pub fn engine(name: &'static str) -> Engine {
    let directory = work().join(name);
    let socket = directory.join("docker.sock");
    Engine { name, socket, docker: directory.join("docker"), directory, network: None }
}

/// An engine with the containerd store fails to list images while an image is being removed (docker 28.5: "content
/// digest … not found"). So no test lists images while another test removes an image.
static IMAGES: RwLock<()> = RwLock::new(());

impl Engine {
    /// Calls a function that lists images, while no test removes an image.
    pub fn while_images_stay<T>(&self, list: impl FnOnce() -> T) -> T {
        let _guard = IMAGES.read().unwrap_or_else(PoisonError::into_inner);
        list()
    }

    /// Removes images, which must exist.
    ///
    /// * `arguments`: the arguments of `docker rmi`.
    pub fn remove(&self, arguments: &[&str]) {
        let removed = self.rmi(arguments);
        assert_eq!(removed.status, 0, "{arguments:?}: {removed:?}");
    }

    fn rmi(&self, arguments: &[&str]) -> Run {
        let _guard = IMAGES.write().unwrap_or_else(PoisonError::into_inner);
        run(Command::new(&self.docker).arg("-H").arg(self.host()).arg("rmi").args(arguments))
    }

    pub fn is_podman(&self) -> bool {
        self.name.starts_with("podman")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Returns an engine with the same version and CLI that listens at `socket`.
    pub fn at(&self, socket: &Path) -> Self {
        let Self { name, directory, docker, network, .. } = self;
        let (directory, docker, network) = (directory.clone(), docker.clone(), network.clone());
        Self { name, directory, socket: socket.to_owned(), docker, network }
    }

    /// Returns an engine with the same version and CLI, whose `dockerd` starts engines in `network`.
    pub fn in_network(&self, network: &Network) -> Self {
        Self { network: Some(network.file()), ..self.at(&self.socket) }
    }

    /// Returns a command that starts a new dockerd of this engine's version.
    pub fn dockerd(&self) -> Command {
        command_in(self.network.as_deref(), self.directory.join("dockerd"))
    }

    /// Pulls an image. podman requires TLS even for registries on its own machine, so the function calls podman's
    /// native API, which has a parameter to disable TLS.
    pub fn pull(&self, home: &Home, name: &str) {
        if !self.is_podman() {
            ok(self.docker(home).args(["pull", "-q", name]));
            return;
        }
        let mut curl = home.command("curl");
        curl.args(["--silent", "--fail", "--request", "POST", "--unix-socket"]).arg(&self.socket);
        ok(curl.arg(format!("http://podman/v4.0.0/libpod/images/pull?tlsVerify=false&reference={name}")));
    }

    /// Returns a command that runs the docker CLI with this engine, in the environment of the user of `home`.
    pub fn docker(&self, home: &Home) -> Command {
        let mut command = Command::new(&self.docker);
        command.env_clear().stdin(Stdio::null());
        for (name, value) in self.variables(home) {
            command.env(name, value);
        }
        command
    }

    pub fn docker_at_terminal(&self, home: &Home) -> CommandBuilder {
        let mut command = CommandBuilder::new(&self.docker);
        command.env_clear();
        for (name, value) in self.variables(home) {
            command.env(name, value);
        }
        command.env("TERM", "xterm");
        command
    }

    fn variables(&self, home: &Home) -> Vec<(&'static str, String)> {
        let mut variables = home.variables();
        variables.push(("DOCKER_HOST", self.host()));
        variables
    }

    /// Creates an image named `name` with random content. Dropping the returned guard removes the image.
    pub fn image(&self, home: &Home, name: &str, size: usize) -> Image<'_> {
        let content = home.path("content");
        let mut random = fs::File::open("/dev/urandom").expect("random bytes").take(size as u64);
        let mut file = fs::File::create(&content).expect("a file");
        std::io::copy(&mut random, &mut file).expect("random bytes");
        let tar = home.path("content.tar");
        ok(Command::new("tar").arg("-C").arg(home.root()).arg("-cf").arg(&tar).arg("content"));
        ok(self.docker(home).arg("import").arg(&tar).arg(name));
        let id = ok(self.docker(home).args(["image", "inspect", "-f", "{{.Id}}", name]));
        Image { engine: self, name: name.to_owned(), id: id.trim().to_owned() }
    }

    /// Makes an image with several layers of random content, by `docker load`.
    ///
    /// * `layers`: the number of layers, and the size in bytes of each.
    pub fn layered_image(&self, home: &Home, name: &str, (count, size): (usize, usize)) -> Image<'_> {
        let random = |_| {
            let mut content = Vec::new();
            let random = fs::File::open("/dev/urandom").expect("random bytes");
            random.take(size as u64).read_to_end(&mut content).expect("random bytes");
            content
        };
        self.image_of(home, name, (0..count).map(random))
    }

    /// Makes an image by `docker load`, with one layer for each content. Empty content makes a layer without files.
    pub fn image_of(&self, home: &Home, name: &str, contents: impl Iterator<Item = Vec<u8>>) -> Image<'_> {
        /// The size in bytes of an archive without files.
        const NO_FILES: usize = 1024;
        let folder = home.path("layered");
        fs::create_dir_all(&folder).expect("a folder");
        let mut layers = Vec::new();
        let diff_ids = contents.enumerate().map(|(number, bytes)| {
            let layer = format!("{number}.tar");
            let tar = folder.join(&layer);
            layers.push(layer);
            if bytes.is_empty() {
                fs::write(&tar, [0; NO_FILES]).expect("a file");
            } else {
                fs::write(home.path("content"), bytes).expect("a file");
                let mut pack = Command::new("tar");
                pack.args(["--mtime=@0", "-C"]).arg(home.root()).arg("-cf").arg(&tar).arg("content");
                ok(&mut pack);
            }
            format!("sha256:{}", sha256(&fs::read(&tar).expect("a file")))
        });
        let diff_ids: Vec<String> = diff_ids.collect();
        let config = json!({"architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        fs::write(folder.join("config.json"), config.to_string()).expect("a file");
        let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": layers}]);
        fs::write(folder.join("manifest.json"), manifest.to_string()).expect("a file");
        let tar = home.path("layered.tar");
        ok(Command::new("tar").arg("-C").arg(&folder).arg("-cf").arg(&tar).arg("."));
        ok(self.docker(home).args(["load", "-q", "-i"]).arg(&tar));
        fs::remove_file(tar).expect("a file");
        let id = ok(self.docker(home).args(["image", "inspect", "-f", "{{.Id}}", name]));
        Image { engine: self, name: name.to_owned(), id: id.trim().to_owned() }
    }
}

/// A dockerd for a single test, in addition to the engines that `tests/run.sh` has started.
pub struct PrivateEngine {
    directory: TempDir,
    arguments: Vec<String>,
    process: Child,
}

impl PrivateEngine {
    /// * `engine`: the engine whose version and store the new dockerd uses.
    /// * `arguments`: options of dockerd, which must set the address to listen at.
    pub fn start(engine: &Engine, arguments: &[String]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::copy(engine.directory.join("daemon.json"), directory.path().join("daemon.json")).expect("a file");
        let process = Self::spawn(engine, directory.path(), arguments);
        Self { directory, arguments: arguments.to_owned(), process }
    }

    fn spawn(engine: &Engine, directory: &Path, arguments: &[String]) -> Child {
        let log = fs::File::create(directory.join("log")).expect("a file");
        let mut command = engine.dockerd();
        command.args(arguments);
        for (option, name) in [
            ("--data-root", "data"),
            ("--exec-root", "exec"),
            ("--pidfile", "pid"),
            ("--config-file", "daemon.json"),
        ] {
            command.arg(option).arg(directory.join(name));
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
        let mut process = command.spawn().expect("dockerd runs");
        let log = || fs::read_to_string(directory.join("log")).unwrap_or_default();
        wait_for("the engine listens", || {
            assert!(process.try_wait().expect("it runs").is_none(), "{}", log());
            log().contains("API listen on ").then_some(())
        });
        process
    }

    /// Stops dockerd with SIGTERM, or with SIGKILL as in a crash.
    pub fn end(&mut self, signal: Signal) {
        let process = Pid::from_raw(self.process.id().try_into().expect("a process number"));
        kill(process, signal).expect("it runs");
        self.process.wait().expect("it runs");
        self.end_containerd(signal);
    }

    /// Stops the containerd of dockerd. Only a killed dockerd leaves its containerd running.
    fn end_containerd(&self, signal: Signal) {
        let file = self.directory.path().join("exec/containerd/containerd.pid");
        let Ok(process) = fs::read_to_string(&file) else { return };
        let _ = kill(Pid::from_raw(process.trim().parse().expect("a process number")), signal);
        // The killed containerd may remain as a zombie. If the PID file named the zombie, a new dockerd would assume
        // that containerd is running.
        let _ = fs::remove_file(file);
    }

    pub fn start_again(&mut self, engine: &Engine) {
        self.process = Self::spawn(engine, self.directory.path(), &self.arguments);
    }
}

impl Drop for PrivateEngine {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.process.id().to_string()).stderr(Stdio::null()).status();
        let _ = self.process.wait();
        self.end_containerd(Signal::SIGKILL);
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let own = |line: &&str| line.contains(&self.directory.path().display().to_string());
        for mount in mounts.lines().filter(own) {
            let _ = Command::new("umount").args(mount.split(' ').nth(1)).status();
        }
    }
}

pub struct Image<'a> {
    engine: &'a Engine,
    pub name: String,
    pub id: String,
}

impl Drop for Image<'_> {
    fn drop(&mut self) {
        // A test may have removed the image already, so the result is ignored.
        self.engine.rmi(&["-f", &self.name, &self.id]);
    }
}

/// The home directory of a user who has installed the plugin.
pub struct Home(TempDir);

impl Home {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let plugins = directory.path().join(".docker/cli-plugins");
        fs::create_dir_all(&plugins).expect("a directory");
        symlink(env!("CARGO_BIN_EXE_docker-regpush"), plugins.join("docker-regpush")).expect("the plugin");
        fs::create_dir(directory.path().join("bin")).expect("a directory");
        Self(directory)
    }

    pub fn root(&self) -> &Path {
        self.0.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub fn config(&self, config: &Value) {
        fs::write(self.path(".docker/config.json"), config.to_string()).expect("config.json");
    }

    pub fn helper(&self, name: &str, script: &str) {
        self.program(&format!("docker-credential-{name}"), script);
    }

    /// Adds a shell script to PATH. Linux cannot execute a file that any process has open for writing. So a separate
    /// process writes the script: a child process of another test could inherit a file handle of the test program.
    pub fn program(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"cat >"$0" && chmod 755 "$0""#]).arg(path);
        ok_with_stdin(&mut shell, format!("#!/bin/sh\n{script}\n").as_bytes());
    }

    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let root = self.root().display();
        vec![
            ("HOME", root.to_string()),
            ("PATH", format!("{root}/bin:{}", work().join("tools").display())),
            ("GNUPGHOME", format!("{root}/gnupg")),
            ("PASSWORD_STORE_DIR", format!("{root}/store")),
        ]
    }

    /// Returns a command that runs a program in the environment of this user.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear();
        for (name, value) in self.variables() {
            command.env(name, value);
        }
        command
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.path("gnupg").is_dir() {
            // Stops the agent that gpg leaves running.
            let _ = self.command("gpgconf").args(["--kill", "all"]).output();
        }
    }
}

/// A `docker-registry` process on a free port, of the loopback interface or in another network.
pub struct Registry {
    pub port: u16,
    /// The IP address at which the registry listens.
    address: String,
    network: Option<PathBuf>,
    process: Child,
    directory: TempDir,
    config: Value,
}

impl Registry {
    pub fn open() -> Self {
        Self::start(|_, _| {})
    }

    /// Starts a registry that accepts the usernames and passwords in `users`.
    pub fn with_users(users: &[(&str, &str)]) -> Self {
        Self::start(|config, directory| Self::allow(config, directory, users))
    }

    /// Changes the configuration of a registry, so that only `users` may use the registry.
    ///
    /// * `directory`: the registry's directory.
    pub fn allow(config: &mut Value, directory: &Path, users: &[(&str, &str)]) {
        let file = directory.join("htpasswd");
        fs::write(&file, "").expect("a file");
        for (user, password) in users {
            let mut htpasswd = Command::new("htpasswd");
            htpasswd.args(["-B", "-C", "5", "-i"]).arg(&file).arg(user);
            ok_with_stdin(&mut htpasswd, password.as_bytes());
        }
        config["auth"] = json!({"htpasswd": {"realm": "test", "path": file}});
    }

    /// Starts a registry with a custom configuration.
    ///
    /// * `set_up`: a function that changes the configuration, and gets the registry's directory.
    pub fn start(set_up: impl FnOnce(&mut Value, &Path)) -> Self {
        Self::start_at(None, LOOPBACK, set_up)
    }

    /// Starts a registry in another network, at the address of that network. See [`Registry::start`].
    pub fn start_in(network: &Network, set_up: impl FnOnce(&mut Value, &Path)) -> Self {
        Self::start_at(Some(network.file()), &network.address, set_up)
    }

    fn start_at(network: Option<PathBuf>, address: &str, set_up: impl FnOnce(&mut Value, &Path)) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let data = directory.path().join("data");
        let mut config = json!({
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": data}},
            "http": {"addr": format!("{address}:0")},
        });
        set_up(&mut config, directory.path());
        let process = serve(network.as_deref(), &config, directory.path());
        let mut registry = Self { port: 0, address: address.to_owned(), network, process, directory, config };
        registry.port = wait_for("the registry listens", || {
            let log = registry.log();
            let (_, port) = log.split_once(&format!("listening on {address}:"))?;
            port.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        });
        registry
    }

    /// Kills the registry, as in a crash.
    pub fn kill(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it runs");
    }

    /// Starts the registry again with its previous port and data.
    pub fn start_again(&mut self) {
        self.config["http"]["addr"] = json!(format!("{}:{}", self.address, self.port));
        self.process = serve(self.network.as_deref(), &self.config, self.directory.path());
        wait_for("the registry listens again", || TcpStream::connect((&*self.address, self.port)).ok());
    }

    /// Waits until the registry has received more than 1 MiB of a layer.
    pub fn wait_for_an_upload(&self) {
        wait_for("an upload begins", || {
            let mut find = Command::new("find");
            find.arg(self.data()).args(["-path", "*/_uploads/*/data", "-size", "+1M"]).stderr(Stdio::null());
            let found = find.output().expect("find is everywhere");
            (!found.stdout.is_empty()).then_some(())
        });
    }

    /// Waits until the registry has stored a blob completely.
    pub fn wait_for_a_blob(&self) {
        wait_for("a blob is stored", || {
            let mut find = Command::new("find");
            find.arg(self.data()).args(["-path", "*/_layers/*/link", "-size", "+0"]).stderr(Stdio::null());
            let found = find.output().expect("find is everywhere");
            (!found.stdout.is_empty()).then_some(())
        });
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Counts the failed logins with a username in the registry's log.
    pub fn failed_logins(&self) -> usize {
        let (all, of_nobody) = (r#"error authenticating user \""#, r#"error authenticating user \"\""#);
        // Without credentials podman sends an empty username.
        self.log().matches(all).count() - self.log().matches(of_nobody).count()
    }

    /// Asserts that the registry received no request for a manifest of `repository`.
    pub fn assert_no_manifest(&self, repository: &str) {
        assert!(!self.log().contains(&format!("/{repository}/manifests/")), "{}", self.log());
    }

    /// Waits until the registry logs that the engine disconnected in the middle of a layer upload. The test cannot wait
    /// for a closed connection instead, since engines keep idle connections for 30 s.
    pub fn wait_for_a_broken_upload(&self) {
        wait_for("the registry sees the upload break", || {
            self.log().contains("client disconnected during blob").then_some(())
        });
    }

    /// Returns the digest that this registry serves for a tag.
    pub fn digest(&self, repository: &str, tag: &str, login: Option<(&str, &str)>) -> String {
        let url = format!("http://{}:{}/v2/{repository}/manifests/{tag}", self.address, self.port);
        // reqwest needs a crypto provider even without TLS; another test may have installed a provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut request = reqwest::Client::new().head(url).header(ACCEPT, MANIFESTS);
        if let Some((user, password)) = login {
            request = request.basic_auth(user, Some(password));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let response = runtime.block_on(request.send()).expect("the registry answers");
        assert!(response.status().is_success(), "{repository}:{tag}: {}", response.status());
        response.headers()["docker-content-digest"].to_str().expect("a digest").to_owned()
    }

    /// Returns the manifest that this registry serves for a tag.
    pub fn manifest(&self, repository: &str, tag: &str) -> Value {
        let url = format!("http://{}:{}/v2/{repository}/manifests/{tag}", self.address, self.port);
        let body = ok(Command::new("curl").args(["-sf", "-H", &format!("Accept: {MANIFESTS}")]).arg(url));
        serde_json::from_str(&body).expect("a manifest")
    }

    /// Returns the storage directory of this registry.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Returns the directory of this registry's blobs, which contains a folder for each blob.
    pub fn blobs(&self) -> PathBuf {
        self.data().join("docker/registry/v2/blobs/sha256")
    }

    pub fn name(&self, path: &str) -> String {
        format!("{}/{path}", self.host())
    }

    /// Returns the domain of this registry: `localhost:PORT`, or the address and port in another network.
    pub fn host(&self) -> String {
        let host = if self.address == LOOPBACK { "localhost" } else { &self.address };
        format!("{host}:{}", self.port)
    }
}

fn serve(network: Option<&Path>, config: &Value, directory: &Path) -> Child {
    let path = |name: &str| directory.join(name);
    // The registry reads YAML, and all JSON is valid YAML.
    fs::write(path("config.yml"), config.to_string()).expect("a file");
    let log = fs::File::options().create(true).append(true).open(path("log")).expect("a file");
    let mut command = command_in(network, "docker-registry");
    command.arg("serve").arg(path("config.yml")).stdin(Stdio::null());
    command.stdout(log.try_clone().expect("a second handle")).stderr(log);
    command.spawn().expect("docker-registry is installed by tests/run.sh")
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Opens a loopback port that forwards connections to a Unix socket, and returns the port.
pub fn port_to(socket: &Path) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let socket = socket.to_owned();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let engine = UnixStream::connect(&socket).expect("an engine");
            let (engine_reads, engine_writes) = (engine.try_clone().expect("a handle"), engine);
            copy_in_background(client.try_clone().expect("a handle"), engine_writes, |to| {
                to.shutdown(Shutdown::Both)
            });
            copy_in_background(engine_reads, client, |to| to.shutdown(Shutdown::Both));
        }
    });
    port
}

/// Copies from `from` to `to` until `from` or `to` is closed, and then closes `to`.
pub fn copy_in_background<R: Read + Send + 'static, W: Write + Send + 'static>(
    mut from: R,
    mut to: W,
    hang_up: fn(&W) -> std::io::Result<()>,
) {
    thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = hang_up(&to);
    });
}

/// A slow proxy in front of a registry, which limits the bytes per second of each connection.
pub struct SlowLine {
    pub port: u16,
    moved: Arc<AtomicUsize>,
}

impl SlowLine {
    pub fn to(registry: &Registry, bytes_per_second: usize) -> Self {
        Self::to_port(registry.port, bytes_per_second)
    }

    pub fn to_port(target: u16, bytes_per_second: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let line = Self { port, moved: Arc::default() };
        let moved = Arc::clone(&line.moved);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(registry) = TcpStream::connect(("127.0.0.1", target)) else { return };
                let (back_from, back_to) = (registry.try_clone().unwrap(), client.try_clone().unwrap());
                copy_in_background(back_from, back_to, |to| to.shutdown(Shutdown::Both));
                let moved = Arc::clone(&moved);
                thread::spawn(move || crawl(client, registry, bytes_per_second, &moved));
            }
        });
        line
    }

    pub fn name(&self, path: &str) -> String {
        format!("localhost:{}/{path}", self.port)
    }

    pub fn wait_until_moved(&self, bytes: usize) {
        wait_for("bytes move", || (self.moved.load(Ordering::SeqCst) >= bytes).then_some(()));
    }
}

fn crawl(
    mut from: TcpStream,
    mut to: TcpStream,
    bytes_per_second: usize,
    moved: &AtomicUsize,
) -> std::io::Result<()> {
    const SLICE: Duration = Duration::from_millis(20);
    let mut buffer = vec![0; (bytes_per_second / 50).max(1)];
    loop {
        match from.read(&mut buffer)? {
            0 => return to.shutdown(Shutdown::Write),
            read => {
                to.write_all(&buffer[..read])?;
                moved.fetch_add(read, Ordering::SeqCst);
                // The sleep limits the speed of the connection; it is not a wait for a condition.
                thread::sleep(SLICE);
            }
        }
    }
}

/// A system call in a trace of `strace -f -o`.
pub struct SystemCall<'a> {
    pub name: &'a str,
    /// The whole line of the trace.
    pub line: &'a str,
}

impl<'a> SystemCall<'a> {
    const WRITES: [&'static str; 7] =
        ["write", "writev", "pwrite64", "pwritev", "sendto", "sendmsg", "sendmmsg"];
    const READS: [&'static str; 5] = ["read", "readv", "pread64", "recvfrom", "recvmsg"];

    /// Parses a trace, and skips lines about signals, exits and resumed system calls.
    pub fn read_all(trace: &'a str) -> Vec<Self> {
        let read = |line: &'a str| {
            let (_process, call) = line.split_once(' ')?;
            let (name, _) = call.trim_start().split_once('(')?;
            name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_').then_some(Self { name, line })
        };
        trace.lines().filter_map(read).collect()
    }

    /// Returns the first string among the arguments. In system calls that neither read nor write, the first string is a
    /// path.
    pub fn path(&self) -> Option<&'a str> {
        let (_, rest) = self.line.split_once('"')?;
        rest.split('"')
            .next()
            .filter(|_| !Self::WRITES.contains(&self.name) && !Self::READS.contains(&self.name))
    }

    /// Returns whether the system call starts a process or a thread.
    pub fn starts_something(&self) -> bool {
        ["clone", "clone3", "fork", "vfork"].contains(&self.name)
    }

    /// Returns whether the system call sends or writes `text`.
    pub fn writes(&self, text: &str) -> bool {
        Self::WRITES.contains(&self.name) && self.line.contains(text)
    }
}

/// The exit status and the output of a finished program.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// Parses stdout, which must be a single JSON result.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().expect("not killed by a signal"),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }
}

pub fn run(command: &mut Command) -> Run {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}")).into()
}

pub fn run_with_stdin(command: &mut Command, stdin: &[u8]) -> Run {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    child.stdin.take().expect("piped").write_all(stdin).expect("it reads its stdin");
    child.wait_with_output().expect("it ends").into()
}

/// Runs a command that must succeed, and returns its stdout.
pub fn ok(command: &mut Command) -> String {
    let run = run(command);
    assert_eq!(run.status, 0, "{command:?}: {run:?}");
    run.stdout
}

pub fn ok_with_stdin(command: &mut Command, stdin: &[u8]) -> String {
    let run = run_with_stdin(command, stdin);
    assert_eq!(run.status, 0, "{command:?}: {run:?}");
    run.stdout
}
