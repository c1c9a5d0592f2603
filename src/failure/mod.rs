//! Classifies failures by the error message.
//!
//! Engines report failures only as English messages, and each engine words the same response of a registry
//! differently. Only this module interprets error messages. The module uses no network and no files.
//!
//! The first rule in `rules::RULES` that matches decides the class. The order of the rules matters: a refusal by IAM contains
//! the word "policy", and registries report an exceeded quota as "denied".
//!
//! The tests use the messages in `tests/failures/`, with the source of each message.

mod class;
mod rules;

use hyper::StatusCode;

pub use class::Class;
pub use rules::{CHECK_REPOSITORY, RAISE_LIMIT, WAIT_AND_CORRECT};

use Class::{Auth, ContentMissing, Denied, Engine, Network, Other, Rejected};
use rules::Conclusion::{AuthUnlessSent, Is, NetworkUnlessManifest};
use rules::{
    Advice, ENGINE_WENT, LOCK_OUT, LOG_IN, MAY_NOT_WRITE, PULL_AGAIN, RULES, SEE_REGISTRY, STALLED,
    WAIT_FOR_SLOT, WANTS_TLS,
};

/// The progress of a push at the time of the failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The engine had not reported any layer.
    Start,
    /// At least one layer was not yet in the registry.
    Layers,
    /// Every layer was in the registry, so the engine sent the manifest next.
    Manifest,
}

/// The facts about a failure that [`classify`] uses.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The engine's raw error message, including line ends.
    pub message: &'a str,
    /// The HTTP status of the engine's response, if the response was an error.
    pub http_status: Option<u16>,
    /// The engine reported in an `aux` object that its store lacks blobs of the image.
    pub content_missing: bool,
    pub phase: Phase,
    pub credentials_sent: bool,
    /// The repository as `domain/path`. Removed from the message before the rules are applied, since a repository may
    /// have a name such as `team/forbidden`.
    pub repository: &'a str,
}

impl<'a> Evidence<'a> {
    /// Returns the evidence of a failure for which only the error message is available.
    pub fn of_text(message: &'a str, credentials_sent: bool) -> Self {
        Self {
            message,
            http_status: None,
            content_missing: false,
            phase: Phase::Layers,
            credentials_sent,
            repository: "(none)",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub class: Class,
    /// The hint for the user, with the placeholders `{registry}`, `{repository}`, `{tag}` and `{server}` (the server in the message).
    pub hint: &'static str,
    /// The maximum number of retries that can help; `u32::MAX`: no limit.
    pub retries: u32,
    /// Other credentials may help.
    pub can_prompt: bool,
    /// The message may hide the cause, so the registry's own response decides.
    pub is_unsettled: bool,
}

impl Verdict {
    /// Replaces [`Class::Cancelled`] with [`Class::Engine`], for a push that the plugin did not cancel: the engine
    /// cancelled the push because the engine was stopping.
    pub fn uncancelled(self) -> Self {
        match self.class {
            Class::Cancelled => Self::new(Class::Engine, ENGINE_WENT),
            _ => self,
        }
    }

    /// Returns a verdict with an empty hint, for a failure whose hint comes from another type, such as `RegistryError`.
    pub fn without_hint(class: Class) -> Self {
        Self::new(class, Advice::new(""))
    }

    fn new(class: Class, Advice { hint, retries, can_prompt, is_unsettled, .. }: Advice) -> Self {
        let can_prompt = can_prompt && matches!(class, Auth | Denied);
        Self { class, hint, retries, can_prompt, is_unsettled }
    }
}

/// Returns the verdict on a stalled push.
pub fn stalled() -> Verdict {
    Verdict::new(Class::Stalled, STALLED)
}

/// Returns the verdict on a push that the engine has not started, since its upload slots are occupied.
pub fn waiting() -> Verdict {
    Verdict::new(Class::Stalled, WAIT_FOR_SLOT)
}

/// Classifies a failure by the first rule that matches.
pub fn classify(evidence: &Evidence<'_>) -> Verdict {
    if evidence.content_missing {
        return Verdict::new(ContentMissing, PULL_AGAIN);
    }
    let text = readable(evidence.message, evidence.repository);
    let status = registry_status(&text);
    let rule = RULES.iter().find(|rule| {
        rule.words.iter().any(|words| contains(&text, words))
            || status.is_some_and(|status| rule.statuses.contains(&status))
    });
    if let Some(rule) = rule {
        let class = match rule.conclusion {
            Is(class) => class,
            AuthUnlessSent if evidence.credentials_sent => Denied,
            AuthUnlessSent => Auth,
            NetworkUnlessManifest if evidence.phase == Phase::Manifest => Rejected,
            NetworkUnlessManifest => Network,
        };
        // A hint about the rights of an account is wrong if no credentials were sent.
        let nobody = !evidence.credentials_sent && rule.advice.is_about_account;
        let log_in = Advice { is_unsettled: rule.advice.is_unsettled, ..LOG_IN };
        return Verdict::new(class, if nobody { log_in } else { rule.advice });
    }
    match evidence.http_status {
        // The engine's router redirects a request whose image name is empty.
        Some(301) => Verdict::new(Class::Reference, Advice::new("check the name of the image")),
        Some(401) => Verdict::new(Auth, LOG_IN),
        Some(403) => Verdict::new(Denied, MAY_NOT_WRITE),
        Some(_) => Verdict::new(Engine, Advice::new("check the engine's log (`journalctl -u docker`)")),
        None => Verdict::new(Other, SEE_REGISTRY.unsettled()),
    }
}

/// Returns whether a 404 message of the engine's `/distribution` endpoint contains the registry's response (`manifest
/// unknown`, `name unknown`). Engines without this endpoint respond with 404 too (podman: `Not Found`).
pub fn is_unknown_to_registry(text: &str) -> bool {
    text.contains(" unknown")
}

/// Returns whether a status line is the line with which nearly every engine begins a push. The line only repeats the
/// name of the repository.
pub fn is_opening(text: &str) -> bool {
    text.starts_with("The push refers to repository")
}

/// Returns whether a message means that the docker CLI rejected the command line (messages of spf13/cobra and
/// spf13/pflag).
pub fn is_usage(text: &str) -> bool {
    ["requires*argument", "unknown flag", "unknown shorthand flag"].iter().any(|words| contains(text, words))
}

/// Returns whether a registry refuses all logins for some time, after too many failed logins.
pub fn is_lock_out(text: &str) -> bool {
    let text = text.to_lowercase();
    LOCK_OUT.iter().any(|words| contains(&text, words))
}

/// Returns whether a response with status 400 to plain HTTP comes from a TLS server: Go (dockerd), nginx or Apache.
pub fn wants_tls(text: &str) -> bool {
    let text = text.to_lowercase();
    WANTS_TLS.iter().any(|words| contains(&text, words))
}

/// Messages of ssh if the other machine refuses more connections or sessions, in lower case.
///
/// Source: OpenSSH `sshd_config(5)`, MaxStartups and MaxSessions; docker/compose#8191, #10117.
const THROTTLED_SSH: [&str; 3] =
    ["kex_exchange_identification", "session open refused by peer", "mux_client_request_session"];

/// Returns whether the stderr of ssh means that the other machine refuses more connections or sessions for a moment.
pub fn is_throttled_ssh(said: &str) -> bool {
    let said = said.to_lowercase();
    THROTTLED_SSH.iter().any(|words| contains(&said, words))
}

/// Returns the hint for a failed SSH connection to an engine, with the placeholders `{login}`, `{host}` and
/// `{docker}`.
///
/// * `said`: the stderr of ssh, and of docker on the remote machine.
///
/// Source: OpenSSH `sshconnect.c`, `sshconnect2.c`; docker/cli `cli/command/system/dial_stdio.go`.
pub fn tunnel_hint(said: &str) -> &'static str {
    const RULES: [(&[&str], &str); 8] = [
        (
            &THROTTLED_SSH,
            "raise MaxStartups and MaxSessions in sshd_config on that machine, or run fewer jobs at once",
        ),
        (
            &["remote host identification has changed", "host key for * has changed"],
            "find out why the machine's host key changed; if it was reinstalled, run `ssh-keygen -R {host}`, then `ssh {login}`",
        ),
        (
            &["host key verification failed", "host key is known for"],
            "connect once with `ssh {login}` and check the machine's host key, which is not known here",
        ),
        (
            &[
                "permission denied while trying to connect",
                "permission denied: unix",
                "dial unix * permission denied",
            ],
            "add that user to the group `docker` on the engine's machine",
        ),
        (
            &["permission denied", "too many authentication failures"],
            "check the user name and load the key (`ssh-add`): `ssh {login}` must work without a prompt",
        ),
        (
            // The messages of bash, dash, zsh (the default shell on macOS) and fish for a missing command.
            &[
                "docker: command not found",
                "docker: not found",
                "command not found: docker",
                "unknown command: docker",
            ],
            "install docker on that machine, or add it to the PATH of ssh sessions; check with `ssh {login} {docker} version`",
        ),
        (
            &["cannot connect to the docker daemon", "failed to connect to the docker api", "dial unix"],
            "start the engine on that machine; check with `ssh {login} {docker} version`",
        ),
        (
            &[
                "could not resolve",
                "connection refused",
                "timed out",
                "no route to host",
                "network is unreachable",
            ],
            "run `ssh {login}` to check that the machine can be reached",
        ),
    ];
    let text = said.to_lowercase();
    let rule = RULES.iter().find(|(words, _)| words.iter().any(|words| contains(&text, words)));
    rule.map_or("run `ssh {login} {docker} system dial-stdio` to see the error", |(_, hint)| hint)
}

/// Returns a message in lower case and on one line. Replaces URLs with `(url)` and references with `(name)`, since
/// URLs and references can contain any word.
fn readable(message: &str, repository: &str) -> String {
    let lower = message
        .to_lowercase()
        .replace(&repository.to_lowercase(), "(name)")
        // Some clients add these phrases to any error message.
        .replace("(http code 500) server error", "")
        .replace("and that you are authenticated correctly", "")
        .replace("checking push permission", "");
    let mut text = String::with_capacity(lower.len());
    for word in lower.split_whitespace() {
        if !text.is_empty() {
            text.push(' ');
        }
        match word.find("http://").or_else(|| word.find("https://")) {
            // Keep the URLs of help pages about a refusal, since these URLs identify the refusal.
            Some(_) if word.contains("aka.ms/") || word.contains("docs.quay.io/issues/") => {
                text.push_str(word)
            }
            Some(at) => {
                text.push_str(&word[..at]);
                text.push_str("(url)");
            }
            None if is_name(word) => text.push_str("(name)"),
            None => text.push_str(word),
        }
    }
    text.push('\n');
    text
}

/// Returns whether a word is a reference with a domain, such as `ghcr.io/team/authentication:1`. A word such as
/// `username/password`, or a file path, is not a reference.
fn is_name(word: &str) -> bool {
    word.split_once('/').is_some_and(|(first, _)| first.contains(['.', ':'])) && !word.contains("aka.ms/")
}

/// Returns whether a message contains all phrases of `words` in order. `*` separates the phrases.
fn contains(text: &str, words: &str) -> bool {
    let mut rest = text;
    words.split('*').all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

/// Returns the HTTP status that a message reports for the registry, a token server or a proxy.
///
/// Accepts a number after a phrase that engines use, or before the standard reason phrase of the status (`403
/// (Forbidden)`). Ignores other numbers, which may be ports, sizes or digests.
fn registry_status(text: &str) -> Option<u16> {
    const BEFORE: &[&str] = &[
        "(url) ",
        "parsing http ",
        "http status: ",
        "http status code: ",
        "http code ",
        "http code: ",
        "statuscode: ",
        "status code: ",
        "status code ",
        "code from registry ",
        "unexpected ",
        "server error: ",
        "unexpected status: ",
        "authorization status: ",
        "failed with status: ",
        "server returned ",
        "response code: ",
        "<title>",
        "returned status ",
        "error: status ",
        " returned ",
        "status=",
        "status ",
    ];
    let mut found: Vec<(usize, u16)> = Vec::new();
    for before in BEFORE {
        for (at, _) in text.match_indices(before) {
            let number = at + before.len();
            found.extend(number_at(text, number).map(|status| (number, status)));
        }
    }
    for (at, _) in text.match_indices(['4', '5']) {
        if let Some(status) = number_at(text, at) {
            let phrase = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
            let after = text[at + 3..].trim_start_matches([' ', '(', ':', '"']);
            if phrase.is_some_and(|phrase| after.starts_with(&phrase.to_lowercase())) {
                found.push((at, status));
            }
        }
    }
    found.into_iter().min().map(|(_, status)| status)
}

/// Returns the number at the given position, if the number has exactly three digits and no adjacent letter or digit.
fn number_at(text: &str, at: usize) -> Option<u16> {
    let bytes = text.as_bytes();
    let alone = |byte: Option<&u8>| byte.is_none_or(|b| !b.is_ascii_alphanumeric());
    let before = at.checked_sub(1).and_then(|at| bytes.get(at));
    let digits = text.get(at..at + 3)?;
    let fits = digits.bytes().all(|b| b.is_ascii_digit()) && alone(before) && alone(bytes.get(at + 3));
    fits.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;
    use crate::engine::stream::Decoder;
    use crate::event::Event;
    use crate::progress::Progress;

    #[derive(Deserialize)]
    struct Recorded {
        id: String,
        engine: String,
        http_status: u16,
        stream: Vec<String>,
        ended: String,
        class: String,
        credentials_sent: bool,
    }

    #[derive(Deserialize)]
    struct Wild {
        message: String,
        class: String,
        #[serde(default)]
        acceptable: Vec<String>,
        source: String,
    }

    fn lines<T: for<'a> Deserialize<'a>>(text: &str) -> Vec<T> {
        text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
    }

    /// Decodes and classifies the recorded response of an engine as a push does. Returns the name of the class. If the
    /// response contains no error message, returns `success` if it names a digest, and otherwise `engine`.
    fn class_of(recorded: &Recorded) -> &'static str {
        let stream = recorded.stream.join("\r\n");
        let refused = |message: &str, content_missing, phase| {
            classify(&Evidence {
                message,
                http_status: (recorded.http_status != 200).then_some(recorded.http_status),
                content_missing,
                phase,
                credentials_sent: recorded.credentials_sent,
                repository: "localhost/none",
            })
            .class
            .name()
        };
        if recorded.http_status != 200 {
            return refused(&crate::engine::error::error_message(stream.as_bytes()), false, Phase::Start);
        }
        let (mut progress, mut refusal, mut content_missing) = (Progress::default(), None, false);
        let decoded = Decoder::default().decode(stream.as_bytes(), |event| {
            progress.apply(&event);
            match event {
                Event::Refused { message } => _ = refusal.get_or_insert(message),
                Event::ContentMissing => content_missing = true,
                _ => {}
            }
        });
        decoded.unwrap_or_else(|error| panic!("{}: {error}", recorded.id));
        match &refusal {
            Some(message) => refused(message, content_missing, progress.phase()),
            None if progress.pushed.is_empty() => "engine",
            None => "success",
        }
    }

    /// Returns whether the recording ended before the engine responded, so that no message can be classified.
    fn hung(recorded: &Recorded) -> bool {
        recorded.ended != "complete"
    }

    #[test]
    fn classifies_recordings_as_labelled() {
        let mut recorded: Vec<Recorded> = lines(include_str!("../../tests/failures/recorded.jsonl"));
        recorded.extend(lines(include_str!("../../tests/failures/recorded_29.jsonl")));
        let mut by_engine: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        let mut wrong = Vec::new();
        for recording in recorded.iter().filter(|recording| !hung(recording)) {
            let got = class_of(recording);
            let (right, all) = by_engine.entry(&recording.engine).or_default();
            *all += 1;
            if got == recording.class {
                *right += 1;
            } else {
                wrong.push(format!(
                    "{} {}: expected {}, got {got}",
                    recording.engine, recording.id, recording.class
                ));
            }
        }
        println!("classified correctly and in total, by engine: {by_engine:?}");
        assert_eq!(wrong, Vec::<String>::new());
    }

    /// A registry on several machines may not find a layer yet that another machine has stored.
    #[test]
    fn unknown_blobs_are_retried_after_all_layers_were_sent() {
        let message = "manifest blob unknown: blob unknown to registry";
        let verdict = classify(&Evidence { phase: Phase::Manifest, ..Evidence::of_text(message, true) });
        assert!(verdict.class == Network && verdict.retries > 0, "{verdict:?}");
    }

    #[test]
    fn missing_permission_is_denied_whatever_the_prefix() {
        let table = [
            ("unauthorized: The client does not have permission for manifest: demo/app/1", Denied),
            ("denied: The client does not have permission for manifest", Denied),
            ("Unauthenticated request. Unauthenticated requests do not have permission \"x\"", Auth),
        ];
        for (message, class) in table {
            let evidence = Evidence::of_text(message, true);
            assert_eq!(classify(&evidence).class, class, "{message}");
        }
    }

    #[test]
    fn suggests_logging_in_if_no_credentials_were_sent() {
        for message in ["denied: requested access to the resource is denied", "denied", "403 (Forbidden)"] {
            assert_eq!(classify(&Evidence::of_text(message, false)).hint, LOG_IN.hint, "{message}");
            assert_ne!(classify(&Evidence::of_text(message, true)).hint, LOG_IN.hint, "{message}");
        }
    }

    /// Classifies messages from public issue threads.
    ///
    /// A person who had not read the rules collected `found.jsonl` in two batches. On the first run, the rules
    /// classified 138 of 149 messages of the first batch as labelled, and 84 of 100 messages of the second batch. The
    /// second batch contains more messages from image builders and old clients. `found.jsonl` omits two of the 249
    /// messages, since an engine's push cannot produce these two messages.
    #[test]
    fn classifies_texts_from_issues_as_labelled() {
        for (name, text) in [
            ("wild", include_str!("../../tests/failures/wild.jsonl")),
            ("found", include_str!("../../tests/failures/found.jsonl")),
        ] {
            let wild: Vec<Wild> = lines(text);
            let wrong: Vec<String> = wild.iter().filter_map(Wild::complaint).collect();
            println!("{name}: {} of {} classified correctly", wild.len() - wrong.len(), wild.len());
            assert_eq!(wrong, Vec::<String>::new());
        }
    }

    impl Wild {
        fn class(&self, credentials_sent: bool) -> &'static str {
            let evidence = Evidence::of_text(&self.message, credentials_sent);
            classify(&evidence).class.name()
        }

        /// Returns an error message if the rules do not classify the message as labelled.
        ///
        /// `class` is the expected class if credentials were sent. If `acceptable` is not empty, each class in
        /// `acceptable` is correct with or without credentials.
        fn complaint(&self) -> Option<String> {
            let (with, without) = (self.class(true), self.class(false));
            let right = if self.acceptable.is_empty() {
                with == self.class
            } else {
                [with, without].iter().all(|class| self.acceptable.iter().any(|other| other == class))
            };
            let Self { source, class, message, .. } = self;
            (!right).then(|| format!("{source}: expected {class}, got {with}/{without}: {message}"))
        }
    }

    #[test]
    fn certificates_without_the_registrys_name_need_another_certificate() {
        for text in [
            "x509: certificate is valid for 10.0.0.1, not 198.18.0.1",
            "x509: cannot validate certificate for 198.18.0.1 because it doesn't contain any IP SANs",
            "x509: certificate relies on legacy Common Name field, use SANs instead",
        ] {
            let verdict = classify(&Evidence::of_text(text, true));
            assert_eq!(verdict.class, Class::Tls, "{text}");
            assert!(verdict.hint.contains("reissue the certificate"), "{text}: {}", verdict.hint);
        }
    }
}
