//! Tests of the sentence about credentials that a registry refused: they have expired, or something is wrong with them. A
//! second fake engine plays the registry.

use std::fs;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;

use crate::support::engine::{FakeEngine, Reply, digest_line, refusal};
use crate::support::env::{Run, TestEnv, run, run_with_stdin};

const UNAUTHORIZED: &str = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;

/// Starts a registry that asks for credentials and refuses or accepts them. Returns it with its `host:port`.
fn registry(accepts: bool) -> (FakeEngine, String) {
    let asks = || Reply::json(401, UNAUTHORIZED).header("WWW-Authenticate", "Basic realm=\"x\"");
    let second = if accepts { Reply::json(200, "{}") } else { asks() };
    let registry = FakeEngine::at_tcp().on("GET /v2/", asks()).on("GET /v2/", second);
    let host = registry.host.trim_start_matches("tcp://").to_owned();
    (registry, host)
}

/// Returns a JSON Web Token that ends `seconds` after now, or before if negative.
pub fn token(seconds: i64) -> String {
    let now =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs().cast_signed();
    let claims = json!({"sub": "ci", "exp": now + seconds}).to_string();
    format!("eyJhbGciOiJub25lIn0.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
}

fn stored(host: &str, password: &str) -> String {
    json!({"auths": {host: {"auth": STANDARD.encode(format!("ci:{password}"))}}}).to_string()
}

/// Pushes with stored credentials.
fn push(config: &str, host: &str, engine: &FakeEngine) -> Run {
    let env = TestEnv::new().with_config(config);
    run(env.command(engine).args([
        "regpush",
        "--format",
        "json",
        "--verify",
        "never",
        &format!("{host}/app:1"),
    ]))
}

fn idle() -> FakeEngine {
    FakeEngine::start().allow("GET /v1.41/info", Reply::json(200, "{}"))
}

#[test]
fn refused_credentials_that_have_expired_name_the_time() {
    let secrets = [
        token(-3 * 3600 - 100),
        STANDARD.encode(json!({"payload": "x", "type": "DATA_KEY", "expiration": 1_515_000_000}).to_string()),
    ];
    for secret in secrets {
        let (registry, host) = registry(false);
        let engine = idle();
        let refused = push(&stored(&host, &secret), &host, &engine);
        assert_eq!((refused.status, &refused.json()["error"]["class"]), (3, &json!("auth")), "{refused}");
        let hint = refused.json()["error"]["hint"].as_str().unwrap().to_owned();
        assert!(hint.starts_with(&format!("the credentials for {host} expired at ")), "{hint}");
        assert!(hint.ends_with(&format!(" ago: run `docker login {host}` again")), "{hint}");
        assert!(hint.contains("h ago"), "{hint}");
        assert!(engine.pushes().is_empty() && !refused.stderr.contains(&secret), "{refused}");
        assert_eq!(registry.count("GET /v2/"), 2, "one failed login");
    }
}

#[test]
fn accepted_credentials_with_an_odd_end_get_a_note() {
    let table = [
        (token(-7200), "2h ago, but the registry accepts them: the clock of this machine may be wrong\n"),
        (token(400), "expire at "),
        (token(3600), ""),
        ("opaque".to_owned(), ""),
    ];
    for (secret, note) in table {
        let (_registry, host) = registry(true);
        let engine = idle().on_every_push(Reply::stream([digest_line("1")]));
        let pushed = push(&stored(&host, &secret), &host, &engine);
        assert_eq!(pushed.status, 0, "{pushed}");
        let has_note = pushed.stderr.contains(&format!("the credentials for {host} "));
        assert_eq!(has_note, !note.is_empty(), "{pushed}");
        assert!(pushed.stderr.contains(note), "{pushed}");
    }
}

#[test]
fn auth_shows_when_credentials_expire() {
    let (secret, host) = (token(-7200), "localhost:1");
    let env = TestEnv::new().with_config(&stored(host, &secret));
    let list = |options: &[&str]| run(env.without_engine().args(["regpush", "auth"]).args(options));
    let table = list(&[]);
    assert!(table.stdout.contains("EXPIRES") && table.stdout.contains(" UTC"), "{table}");
    let line = list(&["--format", "json"]).json();
    let expires = line["expires"].as_str().unwrap();
    assert!(is_two_hours_ago(expires), "{line}");
    assert!(!table.stdout.contains(&secret));
    let engine = FakeEngine::with_info().on(
        "POST /v1.41/auth",
        Reply::json(401, r#"{"message":"unauthorized: incorrect username or password"}"#),
    );
    let run = run(env.command(&engine).args(["regpush", "auth", "--format", "json", host]));
    assert_eq!(run.status, 3, "{run}");
    assert_eq!(run.json()["expires"], line["expires"]);
    assert!(run.stderr.contains(&format!("hint: the credentials for {host} expired at ")), "{run}");
}

/// Returns whether a time in the format of RFC 3339 was two hours ago, within a minute.
fn is_two_hours_ago(text: &str) -> bool {
    let ago = SystemTime::now()
        .duration_since(humantime::parse_rfc3339(text).expect("a time"))
        .expect("in the past");
    (7140..7260).contains(&ago.as_secs())
}

#[test]
fn refused_credentials_that_look_wrong_get_one_sentence() {
    let table = [
        // user name, password, words of the hint
        ("robot", "hunter2", "Harbor's robots are named `robot$NAME`: write the name in single quotes"),
        ("ci", "hunter2 \n", "the password begins or ends with a blank"),
        ("ci", "\u{feff}hunter2\n", "the password begins with a byte order mark"),
        ("ci", "h\0u\0n\0t\0e\0r\0", "the password is text in UTF-16"),
        ("ci", "$REGISTRY_PASSWORD", "the password looks like a variable that was not filled in"),
        ("ci", "\"hunter2\"", "the password is in quotes"),
        ("_json_key", "hunter2", "`_json_key` needs the whole JSON key file"),
        ("ci", "hunter2", "check --username and the password on stdin"),
    ];
    for (username, password, words) in table {
        let (_registry, host) = registry(false);
        let engine = idle();
        let env = TestEnv::new();
        let mut command = env.command(&engine);
        command.args(["regpush", "-u", username, "--password-stdin", &format!("{host}/app:1")]);
        let refused = run_with_stdin(&mut command, password.as_bytes());
        assert_eq!(refused.status, 3, "{refused}");
        assert!(refused.stderr.contains(&format!("hint: {words}")), "{refused}");
        assert!(
            !refused.stderr.contains("hunter2") && !refused.stderr.contains("REGISTRY_PASSWORD"),
            "{refused}"
        );
    }
}

#[test]
fn unusable_passwords_on_stdin_are_explained() {
    let table = [
        ("", "true", "check that the secret is set: jobs for pull requests from forks get no secrets"),
        ("", "", "write the password to stdin: `--password-stdin <FILE`"),
    ];
    for (password, ci, hint) in table {
        let mut command = TestEnv::new().without_engine();
        command.env("CI", ci).args(["regpush", "-u", "ci", "--password-stdin", "app"]);
        let run = run_with_stdin(&mut command, password.as_bytes());
        assert_eq!(run.status, 125, "{run}");
        assert!(run.stderr.contains(&format!("hint: {hint}")), "{run}");
    }
    let mut command = TestEnv::new().without_engine();
    command.args(["regpush", "-u", "ci", "--password-stdin", "app"]);
    let run = run_with_stdin(&mut command, b"\xff\xfeh\0u\0n\0");
    assert!(
        run.status == 125 && run.stderr.contains("hint: write the password as UTF-8: PowerShell"),
        "{run}"
    );
}

/// Pushes without usable credentials to a registry that requires some.
fn anonymous(env: &TestEnv, registry: &str) -> Run {
    let engine = idle().on_next_push(Reply::stream([refusal("no basic auth credentials")]));
    run(env.command(&engine).args(["regpush", "--verify", "never", &format!("{registry}/app:1")]))
}

#[test]
fn credentials_for_nearly_this_registry_are_named() {
    let config = |key: &str| TestEnv::new().with_config(&stored(key, "hunter2"));
    let table = [
        ("eu.gcr.invalid", "gcr.invalid", true),
        ("https://r.example.invalid:443/v2/", "r.example.invalid", true),
        ("quay.example", "r.example.invalid", false),
        ("https://r.example.invalid/v2/", "r.example.invalid:443", true),
    ];
    for (key, registry, is_near) in table {
        let refused = anonymous(&config(key), registry);
        assert_eq!(refused.status, 3, "{refused}");
        let hint = format!("hint: run `docker login {registry}`: Docker has credentials for ");
        assert_eq!(refused.stderr.contains(&hint), is_near, "{refused}");
        assert!(!refused.stderr.contains("hunter2"));
    }
}

/// docker cannot read such files either.
#[test]
fn files_of_powershell_are_explained() {
    let text = stored("registry.invalid", "hunter2");
    let utf_16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let table = [
        ([b"\xEF\xBB\xBF".as_slice(), text.as_bytes()].concat(), "UTF-8 with a byte order mark"),
        ([b"\xFF\xFE".as_slice(), &utf_16(&text)].concat(), "UTF-16"),
        (utf_16(&text), "UTF-16"),
    ];
    for (bytes, encoding) in table {
        let env = TestEnv::new();
        fs::write(env.config_file(), &bytes).unwrap();
        let refused = anonymous(&env, "registry.invalid");
        assert_eq!(refused.status, 3, "{refused}");
        assert!(
            refused.stderr.contains(&format!("config.json` is {encoding}, which docker cannot read")),
            "{refused}"
        );
        assert!(
            refused.stderr.contains("hint: save it as UTF-8 without a byte order mark: PowerShell"),
            "{refused}"
        );
        assert_eq!(fs::read(env.config_file()).unwrap(), bytes, "unchanged");
    }
}

/// Another job with the same config.json logs out while the engine pushes.
#[test]
fn credentials_that_vanish_during_the_push_are_named() {
    let env = TestEnv::new().with_config(&stored("registry.invalid", "hunter2"));
    let status = json!({"status": "The push refers to repository [registry.invalid/app]"}).to_string();
    let lines = [status, refusal("unauthorized: authentication required")];
    let engine = idle().on_next_push(Reply::stream(lines).slowly(Duration::from_secs(3)));
    let mut command = env.command(&engine);
    let child = command.args(["regpush", "--verify", "never", "registry.invalid/app:1"]);
    let child = child.stderr(std::process::Stdio::piped()).spawn().unwrap();
    engine.wait_for_pushes(1);
    fs::write(env.config_file(), r#"{"auths":{}}"#).unwrap();
    let ended = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(3), "{stderr}");
    let hint =
        "hint: give each job its own DOCKER_CONFIG: the credentials for registry.invalid were removed from `";
    assert!(stderr.contains(hint), "{stderr}");
}

#[test]
fn locked_helpers_are_named() {
    let table = [
        ("User interaction is not allowed. (-25308)", true),
        ("gpg: public key decryption failed: Inappropriate ioctl for device", true),
        ("failed to unlock correct collection /org/freedesktop/secrets/aliases/default", true),
        ("Prompt was dismissed", true),
        ("A specified logon session does not exist. It may already have been terminated.", true),
        ("gpg: decryption failed: No secret key", false),
        ("pass not initialized: exit status 1", false),
    ];
    for (said, is_locked) in table {
        let script = format!("echo '{said}'; exit 1");
        let env = TestEnv::new().with_config(r#"{"credsStore":"x"}"#).with_helper("x", &script);
        let refused = anonymous(&env, "registry.invalid");
        assert_eq!(refused.status, 3, "{refused}");
        let hint = "hint: unlock the credential helper, which cannot ask its user here";
        assert_eq!(refused.stderr.contains(hint), is_locked, "{refused}");
        assert!(refused.stderr.contains(said), "its own words: {refused}");
    }
}

#[test]
fn two_factor_authentication_needs_an_access_token() {
    let texts = [
        "denied: HTTP Basic: Access denied. The provided password or token is incorrect or your account has 2FA enabled and you must use a personal access token instead of a password.",
        "unauthorized: your account must log in with a Personal Access Token (PAT)",
    ];
    for text in texts {
        let engine = idle().on_next_push(Reply::stream([refusal(text)]));
        let env = TestEnv::new().with_config(&stored("registry.invalid", "hunter2"));
        let refused =
            run(env.command(&engine).args(["regpush", "--verify", "never", "registry.invalid/app:1"]));
        assert!(
            refused.status == 3 && refused.stderr.contains("hint: use an access token as password"),
            "{refused}"
        );
    }
    let engine =
        idle().on_next_push(Reply::stream([refusal("unauthorized: incorrect username or password")]));
    let env = TestEnv::new().with_config(&stored("https://index.docker.io/v1/", "hunter2"));
    let refused = run(env.command(&engine).args(["regpush", "--verify", "never", "me/app:1"]));
    let hint =
        "hint: run `docker login`; with two-factor authentication, docker.io accepts only an access token";
    assert!(refused.status == 3 && refused.stderr.contains(hint), "{refused}");
}
