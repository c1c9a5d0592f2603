//! Tests pushes, `auth` and `ls` with registries that use tokens, TLS with a private CA, or client certificates.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use reqwest::Url;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};

use crate::nginx::Nginx;
use crate::protocol::trace;
use crate::support::{
    Engine, Home, Registry, Run, SlowLine, SystemCall, WITHOUT_CAS, engine, engines, ok, run, run_with_stdin,
};
use crate::{PASSWORD, SMALL, packed};

const SERVICE: &str = "test registry";
const ISSUER: &str = "test issuer";
/// The number of seconds for which the distribution registry accepts a token after the token has expired.
const LEEWAY: u64 = 60;

/// A token server, as specified in distribution's `docs/spec/auth/token.md`. The user `alice` has all permissions, and
/// `bob` may only pull. The password of `carol`, who has all permissions, is a JSON Web Token that has not expired.
pub struct TokenServer {
    pub port: u16,
    key: EcdsaKeyPair,
    certificate: Vec<u8>,
    asked: Mutex<Asked>,
}

#[derive(Default)]
struct Asked {
    tokens: usize,
    failed_logins: usize,
    /// The lifetime in seconds of the second token for a push, which the engine requests; the plugin requests the first
    /// token to check the credentials. `None`: the default of 600 s.
    short: Option<u64>,
    push_tokens: usize,
    /// Every later token for a push is as short as `short`.
    are_all_short: bool,
}

impl TokenServer {
    pub fn start() -> Arc<Self> {
        let pair = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, ISSUER);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&pair).unwrap().der().to_vec();
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pair.serialize_der(), &random);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Arc::new(Self { port, key: key.unwrap(), certificate, asked: Mutex::default() });
        let serving = Arc::clone(&server);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = Arc::clone(&serving);
                thread::spawn(move || server.serve(client));
            }
        });
        server
    }

    /// Starts a registry that accepts the tokens of this token server.
    fn registry(&self) -> Registry {
        let realm = format!("http://127.0.0.1:{}/token", self.port);
        Registry::start(|config, directory| self.allow(config, directory, &realm))
    }

    /// Changes the configuration of a registry, so that the registry accepts the tokens of this token server.
    ///
    /// * `directory`: the registry's directory.
    /// * `realm`: the URL at which clients request tokens.
    pub fn allow(&self, config: &mut Value, directory: &Path, realm: &str) {
        let bundle = directory.join("root.pem");
        let body = STANDARD.encode(&self.certificate);
        fs::write(&bundle, format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"))
            .unwrap();
        config["auth"] = json!({"token": {"realm": realm, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": bundle}});
    }

    fn serve(&self, client: TcpStream) {
        let mut reader = BufReader::new(client.try_clone().unwrap());
        let mut line = String::new();
        let (mut login, mut length) = (None, 0);
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header).unwrap_or(0) == 0 || header.trim().is_empty() {
                break;
            }
            let (name, value) = header.trim().split_once(": ").unwrap_or_default();
            match name.to_lowercase().as_str() {
                "authorization" => {
                    let pair = STANDARD.decode(value.trim_start_matches("Basic ")).unwrap();
                    let pair = String::from_utf8(pair).unwrap();
                    login =
                        pair.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()));
                }
                "content-length" => length = value.parse().unwrap(),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let query =
            line.split(' ').nth(1).and_then(|path| path.split_once('?')).map_or("", |(_, query)| query);
        let body = String::from_utf8(body).unwrap();
        let url = Url::parse(&format!("http://x/?{}", if body.is_empty() { query } else { &body })).unwrap();
        let fields: HashMap<String, String> = url.query_pairs().into_owned().collect();
        // containerd sends an OAuth request with the credentials as form fields.
        if let (Some(user), Some(password)) = (fields.get("username"), fields.get("password")) {
            login = Some((user.clone(), password.clone()));
        }
        let scopes: Vec<String> = url
            .query_pairs()
            .filter(|(name, _)| name == "scope")
            .map(|(_, scope)| scope.into_owned())
            .collect();
        let (status, answer) = self.answer(login, &scopes);
        let answer = answer.to_string();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
            answer.len()
        );
        let _ = (&client).write_all(format!("{head}Connection: close\r\n\r\n{answer}").as_bytes());
    }

    fn answer(&self, login: Option<(String, String)>, scopes: &[String]) -> (&'static str, Value) {
        let mut asked = self.asked.lock().unwrap();
        let is_good = |(user, password): &(String, String)| {
            password == PASSWORD || (user == "carol" && end(password).is_some_and(|end| end > now()))
        };
        if login.as_ref().is_some_and(|login| !is_good(login)) {
            asked.failed_logins += 1;
            return ("401 Unauthorized", json!({"details": "incorrect username or password"}));
        }
        let user = login.map(|(user, _)| user).unwrap_or_default();
        asked.tokens += 1;
        let scopes = scopes.iter().flat_map(|scope| scope.split(' ')).filter(|scope| !scope.is_empty());
        let access: Vec<Value> = scopes
            .map(|scope| {
                let (rest, actions) = scope.rsplit_once(':').unwrap();
                let (kind, name) = rest.split_once(':').unwrap();
                let may = |action: &&str| {
                    user == "alice" || user == "carol" || (user == "bob" && *action == "pull")
                };
                let actions: Vec<&str> = actions.split(',').filter(may).collect();
                json!({"type": kind, "name": name, "actions": actions})
            })
            .collect();
        let is_for_push = json!(access).to_string().contains("push");
        let now = now();
        asked.push_tokens += usize::from(is_for_push);
        let is_second =
            is_for_push && (asked.push_tokens == 2 || (asked.are_all_short && asked.push_tokens > 2));
        let end = match asked.short.filter(|_| is_second) {
            Some(seconds) => {
                asked.short = asked.short.filter(|_| asked.are_all_short);
                now - LEEWAY + seconds
            }
            None => now + 600,
        };
        let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(&self.certificate)]});
        let claims = json!({"iss": ISSUER, "aud": SERVICE, "sub": user, "exp": end, "nbf": now - 10, "iat": now - 10,
            "jti": asked.tokens.to_string(), "access": access});
        let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()));
        // Because of `expires_in`, the engine assumes that the token is valid for 600 s.
        ("200 OK", json!({"token": token, "access_token": token, "expires_in": 600}))
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Returns a JSON Web Token without a signature, as a password for `carol`.
fn token(end: u64) -> String {
    let parts = [json!({"alg": "none"}), json!({"sub": "carol", "exp": end})];
    format!("{}.sig", parts.map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join("."))
}

fn end(token: &str) -> Option<u64> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice::<Value>(&claims).ok()?["exp"].as_u64()
}

fn with_tokens() -> [Engine; 3] {
    ["docker-20.10", "docker-28-classic", "docker-28-containerd"].map(engine)
}

fn push(engine: &Engine, home: &Home, image: &str) -> Run {
    run(engine.docker(home).args(["regpush", "--format", "json", image]))
}

fn json(run: &Run) -> Value {
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:?}"))
}

#[test]
fn token_registry_decides_who_may_push() {
    for engine in with_tokens() {
        println!("engine {}", engine.name);
        let server = TokenServer::start();
        let (home, registry) = (Home::new(), server.registry());
        let host = registry.host();
        let image = engine.image(&home, &registry.name("tok/app:1"), SMALL);
        let log_in = |user: &str, password: &str| {
            home.config(&json!({"auths": {&host: {"auth": packed(user, password)}}}));
        };

        log_in("alice", PASSWORD);
        let pushed = push(&engine, &home, &image.name);
        assert_eq!(pushed.status, 0, "{pushed:?}");
        let tags =
            ok(engine.docker(&home).args(["regpush", "ls", "--format", "json", &registry.name("tok/app")]));
        assert_eq!(serde_json::from_str::<Value>(&tags).unwrap()["digest"], json(&pushed)["digest"]);
        let catalog = ok(engine.docker(&home).args(["regpush", "ls", &host]));
        assert_eq!(catalog, format!("REPOSITORY\n{}\n", registry.name("tok/app")));
        let checked = run(engine.docker(&home).args(["regpush", "auth", &host]));
        assert!(checked.status == 0 && checked.stdout.contains("yes"), "{checked:?}");

        let rehearse =
            |image: &str| run(engine.docker(&home).args(["regpush", "--dry-run", "--format", "json", image]));
        let may = rehearse(&image.name);
        assert_eq!((may.status, &json(&may)["dry_run"]["is_same"]), (0, &Value::Bool(true)), "{may:?}");

        log_in("alice", "stale");
        let wrong = push(&engine, &home, &image.name);
        assert_eq!((wrong.status, json(&wrong)["error"]["class"].as_str()), (3, Some("auth")), "{wrong:?}");
        let file = home.path(".docker/config.json").display().to_string();
        let told = format!("{host} does not accept user `alice` from `{file}`");
        assert!(wrong.stderr.contains(&told), "{wrong:?}");
        let checked = run(engine.docker(&home).args(["regpush", "auth", &host]));
        assert!(checked.status == 3 && checked.stderr.contains(&told), "{checked:?}");
        let listed = run(engine.docker(&home).args(["regpush", "ls", &host]));
        assert!(listed.status == 3 && listed.stderr.contains(&told), "{listed:?}");

        log_in("bob", PASSWORD);
        let may_not = rehearse(&image.name);
        assert_eq!(
            (may_not.status, json(&may_not)["error"]["class"].as_str()),
            (3, Some("denied")),
            "{may_not:?}"
        );
        // The test pushes a new image. The registry already has `image`, so the containerd store would report success
        // without an upload.
        let fresh = engine.image(&home, &registry.name("tok/fresh:1"), SMALL);
        let denied = push(&engine, &home, &fresh.name);
        assert_eq!(
            (denied.status, json(&denied)["error"]["class"].as_str()),
            (3, Some("denied")),
            "{denied:?}"
        );
        assert!(denied.stderr.contains(&format!("{host} denies access for user `bob`")), "{denied:?}");
        assert!(denied.stderr.contains("use an account that can write to it"), "{denied:?}");

        home.config(&json!({}));
        let nobody = push(&engine, &home, &image.name);
        assert_eq!(
            (nobody.status, json(&nobody)["error"]["class"].as_str()),
            (3, Some("auth")),
            "{nobody:?}"
        );
        assert!(nobody.stderr.contains(&format!("{host} requires authentication")), "{nobody:?}");
    }
}

#[test]
fn auth_shows_the_rights_in_a_repository() {
    for engine in with_tokens() {
        println!("engine {}", engine.name);
        let server = TokenServer::start();
        let (home, registry) = (Home::new(), server.registry());
        let name = registry.name("tok/app");
        let auth = |options: &[&str], password: &str| {
            let mut docker = engine.docker(&home);
            docker.args(["regpush", "auth", "--password-stdin", "-u"]).args(options).arg(&name);
            run_with_stdin(&mut docker, password.as_bytes())
        };
        let table = [("alice", "yes yes yes"), ("bob", "yes yes no")];
        for (user, rights) in table {
            let shown = auth(&[user], PASSWORD);
            let row: Vec<&str> = shown.stdout.lines().last().unwrap_or_default().split_whitespace().collect();
            let want = format!("{name} command-line {user} password {rights} -");
            assert_eq!((shown.status, row.join(" ")), (0, want), "{shown:?}");
            let shown = json(&auth(&[user, "--format", "json"], PASSWORD));
            let rights = json!([shown["repository"], shown["accepted"], shown["pull"], shown["push"]]);
            assert_eq!(rights, json!([name, true, true, user == "alice"]));
        }
        let wrong = auth(&["alice", "--format", "json"], "wrong");
        assert_eq!((wrong.status, &json(&wrong)["push"]), (3, &Value::Null), "{wrong:?}");
        assert_eq!(server.asked.lock().unwrap().failed_logins, 1);
        assert!(!registry.log().contains("\"PUT "), "{}", registry.log());

        // Without credentials: a registry that asks for some, and one that does not.
        let nobody = run(engine.docker(&home).args(["regpush", "auth", "--format", "json", &name]));
        let line = json(&nobody);
        assert_eq!(
            (nobody.status, json!([line["pull"], line["push"]])),
            (3, json!([false, false])),
            "{nobody:?}"
        );
        let open_registry = Registry::open();
        let open = open_registry.name("tok/app");
        let shown = ok(engine.docker(&home).args(["regpush", "auth", &open]));
        let row: Vec<&str> = shown.lines().last().unwrap_or_default().split_whitespace().collect();
        assert_eq!(row.join(" "), format!("{open} none - - not asked yes yes -"));
    }
}

#[test]
fn repository_uses_the_scoped_credentials_of_buildx() {
    for engine in with_tokens() {
        println!("engine {}", engine.name);
        let server = TokenServer::start();
        let (home, registry) = (Home::new(), server.registry());
        let host = registry.host();
        let auths = |user: &str| json!({"auths": {&host: {"auth": packed(user, PASSWORD)}}});
        home.config(&auths("bob"));
        let folder = home.path(&format!(".docker/buildx/config/{host}/tok/app@pull,push"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config.json"), auths("alice").to_string()).unwrap();
        let [app, other] =
            ["tok/app:1", "tok/other:1"].map(|path| engine.image(&home, &registry.name(path), SMALL));
        let both = run(engine.docker(&home).args(["regpush", "--format", "json", &app.name, &other.name]));
        assert_eq!(both.status, 3, "{both:?}");
        let results: Vec<Value> =
            both.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let logins: Vec<_> =
            results.iter().map(|result| (&result["status"], &result["credentials"])).collect();
        assert_eq!(logins[0], (&json!("pushed"), &json!({"source": "buildx", "username": "alice"})));
        assert_eq!(logins[1], (&json!("failed"), &json!({"source": "config", "username": "bob"})));
        let shown = ok(engine.docker(&home).args(["regpush", "auth", &registry.name("tok/app")]));
        assert!(shown.contains("buildx") && shown.contains("alice"), "{shown}");
    }
}

#[test]
fn credentials_that_expire_are_named() {
    for engine in with_tokens() {
        println!("engine {}", engine.name);
        let server = TokenServer::start();
        let (home, registry) = (Home::new(), server.registry());
        let host = registry.host();
        let image = engine.image(&home, &registry.name("tok/app:1"), SMALL);
        let log_in = |password: &str| {
            home.config(&json!({"auths": {&host: {"auth": packed("carol", password)}}}));
        };
        let (expired, short) = (token(now() - 3 * 3600 - 60), token(now() + 300));

        log_in(&expired);
        let refused = push(&engine, &home, &image.name);
        assert_eq!((refused.status, server.asked.lock().unwrap().failed_logins), (3, 1), "{refused:?}");
        let hint = json(&refused)["error"]["hint"].as_str().unwrap_or_default().to_owned();
        assert!(hint.starts_with(&format!("the credentials for {host} expired at ")), "{refused:?}");
        assert!(hint.ends_with(&format!("3h ago: run `docker login {host}` again")), "{refused:?}");

        log_in(&short);
        let pushed = push(&engine, &home, &image.name);
        assert!(
            pushed.status == 0 && pushed.stderr.contains(&format!("the credentials for {host} expire at "))
        );
        let shown = run(engine.docker(&home).args(["regpush", "auth", &host]));
        assert!(shown.stdout.contains(" UTC") && shown.stderr.contains("expire at "), "{shown:?}");

        // The command runs again, since the first token has expired.
        home.config(&json!({}));
        let ran = home.path("ran").display().to_string();
        let command =
            format!("if test -e '{ran}'; then echo {short}; else echo >'{ran}'; echo {expired}; fi");
        let mut docker = engine.docker(&home);
        docker.args(["-D", "regpush", "-u", "carol", "--password-command", &command, &image.name]);
        let healed = run(&mut docker);
        assert_eq!((healed.status, server.asked.lock().unwrap().failed_logins), (0, 2), "{healed:?}");
        for run in [refused, pushed, shown, healed] {
            assert!(![&expired, &short].iter().any(|secret| format!("{run:?}").contains(*secret)), "{run:?}");
        }
    }
}

#[test]
fn password_command_replaces_a_refused_password() {
    for engine in with_tokens() {
        println!("engine {}", engine.name);
        let server = TokenServer::start();
        let (home, registry) = (Home::new(), server.registry());
        let image = engine.image(&home, &registry.name("tok/app:1"), SMALL);
        let ran = home.path("ran").display().to_string();
        let command = format!("if test -e {ran}; then echo '{PASSWORD}'; else echo >'{ran}'; echo old; fi");
        let push = |command: &str| {
            let words = ["regpush", "--format", "json", "-u", "alice", "--password-command", command];
            run(engine.docker(&home).args(words).arg(&image.name))
        };
        let pushed = push(&command);
        assert_eq!(pushed.status, 0, "{pushed:?}");
        assert_eq!(json(&pushed)["credentials"], json!({"source": "command", "username": "alice"}));
        assert_eq!(server.asked.lock().unwrap().failed_logins, 1);
        let refused = push("echo old");
        assert_eq!(refused.status, 3, "{refused:?}");
        assert_eq!(server.asked.lock().unwrap().failed_logins, 2, "the same password is sent once");
    }
}

#[test]
fn wrong_password_is_sent_to_the_token_server_once() {
    for engine in with_tokens() {
        println!("engine {}", engine.name);
        let server = TokenServer::start();
        let (home, registry) = (Home::new(), server.registry());
        home.config(&json!({"auths": {registry.host(): {"auth": packed("alice", "wrong")}}}));
        let images =
            ["a", "b", "c"].map(|path| engine.image(&home, &registry.name(&format!("{path}:1")), SMALL));
        let [a, b, c] = images.each_ref().map(|image| image.name.as_str());
        let [to_x, to_y] = ["x", "y"].map(|path| registry.name(&format!("{path}/")));
        let commands: [&[&str]; 6] = [
            &[a],
            &[a, b, c],
            &[a, "--to", &to_x, "--to", &to_y],
            &["--dry-run", a],
            &["--if-exists", "update", a],
            &["auth", &registry.host()],
        ];
        for arguments in commands {
            let refused = run(engine.docker(&home).arg("regpush").args(arguments));
            let failed_logins = std::mem::take(&mut server.asked.lock().unwrap().failed_logins);
            assert_eq!((refused.status, failed_logins), (3, 1), "{arguments:?}: {refused:?}");
        }
    }
}

#[test]
fn renews_a_token_that_expires_in_mid_push_without_prompting() {
    for engine in with_tokens() {
        println!("engine {}", engine.name);
        let server = TokenServer::start();
        let (home, registry) = (Home::new(), server.registry());
        let line = SlowLine::to(&registry, 1_000_000);
        let image = engine.image(&home, &line.name("expires/app:1"), 8_000_000);
        let host = line.name("").trim_end_matches('/').to_owned();
        home.config(&json!({"auths": {&host: {"auth": packed("alice", PASSWORD)}}}));
        server.asked.lock().unwrap().short = Some(4);
        let pushed = push(&engine, &home, &image.name);
        assert_eq!(pushed.status, 0, "{pushed:?}");
        let asked = server.asked.lock().unwrap();
        assert!(asked.short.is_none() && asked.tokens >= 3, "{}", asked.tokens);
        assert_eq!(asked.failed_logins, 0);
        let attempts = json(&pushed)["attempts"].as_u64().unwrap();
        println!("{}: {attempts} attempts, {} tokens", engine.name, asked.tokens);
        // The containerd store renews an expired token itself, so the plugin does not retry.
        let expected = if engine.name.ends_with("containerd") { 1 } else { 2 };
        assert_eq!(attempts, expected, "{pushed:?}");
        assert_eq!(
            pushed.stderr.contains("the registry refused the credentials during the upload"),
            attempts == 2,
            "{pushed:?}"
        );
    }
}

/// The proxy forwards a layer after it has received the whole layer, and by then the token has expired. A proxy that streams
/// forwards the request at once, with a token that is still valid.
#[test]
fn tokens_that_expire_before_a_layer_is_sent_are_named() {
    for engine in with_tokens() {
        println!("engine {}", engine.name);
        let server = TokenServer::start();
        let (home, registry) = (Home::new(), server.registry());
        let buffering = format!(
            "location / {{ proxy_set_header Host $http_host; proxy_request_buffering on; proxy_pass http://127.0.0.1:{}; }}",
            registry.port
        );
        let nginx = Nginx::before(&registry, &buffering);
        // The registry reads up to 256 kB of a request that it has refused. It closes the connection in the middle of a longer
        // one, and nginx then answers 502.
        let line = SlowLine::to_port(nginx.port, 40_000);
        let image = engine.image(&home, &line.name("expires/app:1"), 200_000);
        let host = line.name("").trim_end_matches('/').to_owned();
        home.config(&json!({"auths": {&host: {"auth": packed("alice", PASSWORD)}}}));
        {
            let mut asked = server.asked.lock().unwrap();
            (asked.short, asked.are_all_short) = (Some(3), true);
        }
        let refused = push(&engine, &home, &image.name);
        assert_eq!(
            (refused.status, json(&refused)["error"]["class"].as_str()),
            (3, Some("auth")),
            "{refused:?}"
        );
        let hint = format!("raise the lifetime of the tokens that the token server of {host} issues");
        assert!(refused.stderr.contains(&hint), "{refused:?}");
        assert_eq!(server.asked.lock().unwrap().failed_logins, 0);
    }
}

/// An address of this machine that no engine treats as loopback, so engines require valid TLS certificates.
const STRICT_HOST: &str = "0.0.0.0";

/// A CA, and three certificates that the CA signed: for [`STRICT_HOST`], for another host, and for a client.
struct Certificates {
    ca: String,
    server: (String, String),
    other: (String, String),
    client: (String, String),
}

impl Certificates {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "registry CA of the tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let signed = |name: &str, usage| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            params.extended_key_usages = vec![usage];
            (params.signed_by(&key, &ca).unwrap().pem(), key.serialize_pem())
        };
        Self {
            server: signed(STRICT_HOST, ExtendedKeyUsagePurpose::ServerAuth),
            other: signed("other.example.com", ExtendedKeyUsagePurpose::ServerAuth),
            client: signed("client", ExtendedKeyUsagePurpose::ClientAuth),
            ca: ca.pem(),
        }
    }

    fn registry(&self, wants_client: bool) -> Registry {
        self.registry_as(&self.server, wants_client)
    }

    fn registry_as(&self, (certificate, key): &(String, String), wants_client: bool) -> Registry {
        Registry::start(|config, directory| {
            let write = |name: &str, text: &str| {
                fs::write(directory.join(name), text).unwrap();
                directory.join(name)
            };
            let mut tls =
                json!({"certificate": write("server.pem", certificate), "key": write("key.pem", key)});
            if wants_client {
                tls["clientcas"] = json!([write("ca.pem", &self.ca)]);
            }
            config["http"]["tls"] = tls;
        })
    }
}

/// The directory `/etc/docker/certs.d/HOST`. `drop` removes the directory and the parent folders that were created for
/// it.
struct TrustedHost {
    directory: PathBuf,
    made: PathBuf,
}

impl TrustedHost {
    fn new(host: &str) -> Self {
        let directory = Path::new("/etc/docker/certs.d").join(host);
        let is_new = |path: &&Path| !path.exists();
        let made = directory.ancestors().take_while(is_new).last().unwrap().to_owned();
        fs::create_dir_all(&directory).unwrap();
        Self { directory, made }
    }

    fn with_ca(host: &str, ca: &str) -> Self {
        let trusted = Self::new(host);
        trusted.put("ca.crt", ca);
        trusted
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.directory.join(name), text).unwrap();
    }
}

impl Drop for TrustedHost {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
        // `remove_dir` fails if a folder still contains the directory of another test.
        for directory in self.directory.ancestors().skip(1).take_while(|path| path.starts_with(&self.made)) {
            let _ = fs::remove_dir(directory);
        }
    }
}

#[test]
fn certs_d_makes_a_registry_ca_trusted() {
    let certificates = Certificates::new();
    for engine in engines() {
        println!("engine {}", engine.name);
        let (home, registry) = (Home::new(), certificates.registry(false));
        let host = format!("{STRICT_HOST}:{}", registry.port);
        let image = engine.image(&home, &format!("{host}/tls/app:1"), SMALL);
        let file = format!("/etc/docker/certs.d/{host}/ca.crt");
        let repository = format!("{host}/tls/app");

        let untrusted = push(&engine, &home, &image.name);
        assert_eq!(
            (untrusted.status, json(&untrusted)["error"]["class"].as_str()),
            (6, Some("tls")),
            "{untrusted:?}"
        );
        assert!(untrusted.stderr.contains(&file), "{untrusted:?}");
        let unlisted = run(engine.docker(&home).args(["regpush", "ls", &repository]));
        assert_eq!(unlisted.status, 6, "{unlisted:?}");
        assert!(
            unlisted.stderr.contains(&format!(
                "cannot establish TLS with the registry {host}: its certificate is not signed by"
            )),
            "{unlisted:?}"
        );
        assert!(unlisted.stderr.contains(&file), "{unlisted:?}");

        let _trusted = TrustedHost::with_ca(&host, &certificates.ca);
        let pushed = push(&engine, &home, &image.name);
        assert_eq!(pushed.status, 0, "{pushed:?}");
        let tags = ok(engine.docker(&home).args(["regpush", "ls", "--format", "json", &repository]));
        let tag: Value = serde_json::from_str(&tags).unwrap();
        assert_eq!(
            (&tag["tag"], &tag["digest"]),
            (&json!("1"), &json(&pushed)["digest"]),
            "what it serves is what was pushed"
        );
        assert_eq!(
            ok(engine.docker(&home).args(["regpush", "ls", &host])),
            format!("REPOSITORY\n{repository}\n")
        );
    }
}

#[test]
fn certs_d_needs_no_system_ca_and_a_wrong_host_name_is_reported() {
    let engine = engine("docker-28-classic");
    let (home, certificates) = (Home::new(), Certificates::new());
    let host_of = |registry: &Registry| format!("{STRICT_HOST}:{}", registry.port);
    let list = |host: &str, variables: &[(&str, &str)]| {
        run(engine.docker(&home).envs(variables.iter().copied()).args(["regpush", "ls", host]))
    };
    let registry = certificates.registry(false);
    let host = host_of(&registry);
    let unknown = list(&host, &WITHOUT_CAS);
    assert_eq!(unknown.status, 6, "{unknown:?}");
    let told = format!(
        "cannot establish TLS with the registry {host}: cannot find CA certificates on this system\nhint: install the package ca-certificates, "
    );
    assert!(unknown.stderr.contains(&told) && unknown.stderr.contains(" `--ca-file`"), "{unknown:?}");
    let trusted = TrustedHost::with_ca(&host, &certificates.ca);
    let listed = list(&host, &WITHOUT_CAS);
    assert_eq!((listed.status, listed.stdout.as_str()), (0, "REPOSITORY\n"), "{listed:?}");
    trusted.put("ca.crt", &Certificates::new().ca);
    let unsigned = list(&host, &WITHOUT_CAS);
    assert_eq!(unsigned.status, 6, "{unsigned:?}");
    let told = format!("its certificate is not signed by the CA in `/etc/docker/certs.d/{host}/ca.crt`");
    assert!(unsigned.stderr.contains(&told), "{unsigned:?}");

    let registry = certificates.registry_as(&certificates.other, false);
    let host = host_of(&registry);
    let _trusted = TrustedHost::with_ca(&host, &certificates.ca);
    let wrong = list(&host, &[]);
    assert_eq!(wrong.status, 6, "{wrong:?}");
    let told = format!("its certificate is not for `{STRICT_HOST}`, but for other.example.com");
    assert!(
        wrong.stderr.contains(&told) && wrong.stderr.contains("use the name in its certificate"),
        "{wrong:?}"
    );
}

#[test]
fn cas_of_the_system_are_read_once_and_only_if_needed() {
    let engine = engine("docker-28-classic");
    let (home, certificates) = (Home::new(), Certificates::new());
    let image = engine.image(&home, "authorities/app:1", SMALL);
    let registries = [(); 2].map(|()| certificates.registry(false));
    let hosts = registries.each_ref().map(|registry| format!("{STRICT_HOST}:{}", registry.port));
    let system = home.path("system.pem");
    fs::write(&system, &certificates.ca).unwrap();
    // Counts how often a push to both registries opens the file of the system's CAs. The engine pushes to the plugin, because
    // the engine does not trust the registries.
    let reads = || {
        let destinations = hosts.each_ref().map(|host| format!("--to={host}/"));
        let arguments = ["regpush", "--relay=always", &image.name, &destinations[0], &destinations[1]];
        let system = system.to_str().unwrap();
        let trace = trace(&home, &engine, &[("SSL_CERT_FILE", system)], &arguments);
        let calls = SystemCall::read_all(&trace);
        calls.iter().filter(|call| call.name == "openat" && call.path() == Some(system)).count()
    };
    assert_eq!(reads(), 1);
    let _trusted = hosts.each_ref().map(|host| TrustedHost::with_ca(host, &certificates.ca));
    assert_eq!(reads(), 0);
}

#[test]
fn reads_client_certificates_from_certs_d() {
    let certificates = Certificates::new();
    for engine in engines() {
        println!("engine {}", engine.name);
        let (home, registry) = (Home::new(), certificates.registry(true));
        let host = format!("{STRICT_HOST}:{}", registry.port);
        let image = engine.image(&home, &format!("{host}/mtls/app:1"), SMALL);
        let trusted = TrustedHost::with_ca(&host, &certificates.ca);
        let list = || run(engine.docker(&home).args(["regpush", "ls", &host]));
        let without = list();
        assert_eq!(without.status, 6, "{without:?}");
        let wanted = format!("put client.cert and client.key into `/etc/docker/certs.d/{host}/`");
        assert!(without.stderr.contains(&wanted), "{without:?}");

        trusted.put("client.cert", &certificates.client.0);
        let half = list();
        assert!(half.status == 6 && half.stderr.contains("missing key `/etc/docker/certs.d/"), "{half:?}");

        trusted.put("client.key", &certificates.client.1);
        let pushed = push(&engine, &home, &image.name);
        assert_eq!(pushed.status, 0, "{pushed:?}");
        let listed = list();
        assert_eq!((listed.status, listed.stdout), (0, format!("REPOSITORY\n{host}/mtls/app\n")));
    }
}

#[test]
fn ls_shows_what_was_pushed_if_the_engine_knows() {
    for engine in engines() {
        println!("engine {}", engine.name);
        let (home, registry) = (Home::new(), Registry::open());
        let image = engine.image(&home, &registry.name("local/app:1"), SMALL);
        let line = || {
            let arguments = ["regpush", "ls", "--format", "json"];
            let listed = engine.while_images_stay(|| ok(engine.docker(&home).args(arguments)));
            let lines = listed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            lines.into_iter().find(|line| line["image"] == image.name).unwrap()
        };
        let before = line();
        let pushed = json(&push(&engine, &home, &image.name));
        let after = line();
        match engine.name {
            "podman" | "podman-5" => {
                assert_eq!((&after["digest"], &after["pushed"]), (&json!(null), &json!(null)))
            }
            "docker-28-containerd" => {
                assert_eq!((&before["digest"], &before["pushed"]), (&pushed["digest"], &json!(null)));
                assert_eq!(after, before);
            }
            _ => {
                assert_eq!((&before["digest"], &before["pushed"]), (&json!(null), &json!(false)));
                assert_eq!((&after["digest"], &after["pushed"]), (&pushed["digest"], &json!(true)));
            }
        }
        assert_eq!(after["registry"], registry.host());
    }
}

#[test]
fn auth_checks_credentials_through_each_engine() {
    for engine in engines() {
        println!("engine {}", engine.name);
        let (home, registry) = (Home::new(), Registry::with_users(&[("alice", PASSWORD)]));
        let host = registry.host();
        let auth = |password: &str| {
            let mut docker = engine.docker(&home);
            docker.args(["regpush", "auth", "--format", "json", "-u", "alice", "--password-stdin", &host]);
            run_with_stdin(&mut docker, format!("{password}\n").as_bytes())
        };
        let good = auth(PASSWORD);
        assert_eq!((good.status, &json(&good)["accepted"]), (0, &json!(true)), "{good:?}");
        let wrong = auth("wrong");
        assert_eq!((wrong.status, &json(&wrong)["accepted"]), (3, &json!(false)), "{wrong:?}");
        assert_eq!(registry.failed_logins(), 1, "{}", registry.log());
    }
}
