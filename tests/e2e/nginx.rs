//! nginx in front of a registry.

use std::fs;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::PASSWORD;
use crate::support::{Registry, ok_with_stdin, port_to, wait_for};

/// An nginx process with one server, on a loopback port.
pub struct Nginx {
    pub port: u16,
    process: Child,
    directory: TempDir,
}

/// A request in nginx's access log.
#[derive(Clone, Debug)]
pub struct Logged {
    pub method: String,
    pub status: u16,
    /// The request had the header `Authorization`.
    pub has_credentials: bool,
    pub user_agent: String,
}

impl Logged {
    pub fn is_by_the_plugin(&self) -> bool {
        self.user_agent.starts_with("docker-regpush/")
    }
}

impl Nginx {
    /// Starts nginx in front of a registry.
    ///
    /// * `locations`: the blocks of the configuration inside `server`. `PROXY` stands for directives that forward a
    ///   request to the registry without credentials, `AUTH` for directives that require the password of `alice`, and
    ///   `REWRITE` for directives that forward a request with the path of the location replaced by `/v2/`.
    pub fn before(registry: &Registry, locations: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = directory.path().display();
        let path = |name: &str| directory.path().join(name);
        let users = path("users");
        fs::write(&users, "").expect("a file");
        let mut htpasswd = Command::new("htpasswd");
        ok_with_stdin(htpasswd.args(["-s", "-i"]).arg(&users).arg("alice"), PASSWORD.as_bytes());
        let forward = format!(
            "proxy_set_header Host $http_host; proxy_set_header Authorization \"\"; proxy_pass http://127.0.0.1:{};",
            registry.port
        );
        let auth = format!("auth_basic \"test\"; auth_basic_user_file {};", users.display());
        let rewrite =
            format!("proxy_set_header Host $http_host; proxy_pass http://127.0.0.1:{}/v2/;", registry.port);
        let locations =
            locations.replace("PROXY", &forward).replace("AUTH", &auth).replace("REWRITE", &rewrite);
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary: String =
            temporary.iter().map(|kind| format!("{kind}_temp_path {root}/{kind};\n")).collect();
        let config = format!(
            "daemon off; user root; pid {root}/pid; error_log {root}/error.log; worker_processes 1;
            events {{}}
            http {{
                {temporary}
                log_format requests '$request_method $uri $status $http_authorization|$http_user_agent';
                access_log {root}/access.log requests;
                client_max_body_size 0; proxy_http_version 1.1; proxy_request_buffering off;
                server {{ listen unix:{root}/socket; {locations} }}
            }}"
        );
        fs::write(path("nginx.conf"), config).expect("a file");
        let mut nginx = Command::new("nginx");
        nginx.arg("-c").arg(path("nginx.conf")).arg("-e").arg(path("error.log")).stdin(Stdio::null());
        let process = nginx.spawn().expect("nginx is installed by tests/run.sh");
        wait_for("nginx listens", || path("socket").exists().then_some(()));
        Self { port: port_to(&path("socket")), process, directory }
    }

    pub fn name(&self, path: &str) -> String {
        format!("localhost:{}/{path}", self.port)
    }

    pub fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// Returns the requests since the last call, except requests that nginx could not parse, such as TLS handshakes.
    pub fn take_log(&self) -> Vec<Logged> {
        let file = self.directory.path().join("access.log");
        let log = fs::read_to_string(&file).unwrap_or_default();
        // nginx appends, so that it goes on at the new end of the file.
        fs::write(&file, "").expect("a file");
        let parse = |line: &str| {
            let (request, user_agent) = line.rsplit_once('|')?;
            let mut words = request.splitn(4, ' ');
            let mut next = || words.next().map(str::to_owned);
            let (method, _path, status) = (next()?, next()?, next()?.parse().ok()?);
            let has_credentials = next().is_some_and(|value| value != "-");
            Some(Logged { method, status, has_credentials, user_agent: user_agent.to_owned() })
        };
        // nginx logs a request that it cannot parse, such as a TLS handshake, without a method.
        log.lines().filter_map(parse).filter(|request: &Logged| request.method != "-").collect()
    }

    /// Returns the number of refused requests with credentials since the last call.
    pub fn failed_logins(&self) -> usize {
        self.take_log().iter().filter(|request| request.status == 401 && request.has_credentials).count()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master process ends its worker.
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.process.wait();
    }
}
