//! Classifies failures by the error message.
//!
//! Engines report failures only as English messages, and each engine words the same response of a registry
//! differently. Only this module interprets error messages. The module uses no network and no files.
//!
//! The first rule in `RULES` that matches decides the class. The order of the rules matters: a refusal by IAM contains
//! the word "policy", and registries report an exceeded quota as "denied".
//!
//! The tests use the messages in `tests/failures/`, with the source of each message.

use Class::{
    Auth, Cancelled, ContentMissing, Denied, Engine, Network, NotFound, Other, RateLimited, Rejected, Server,
    Tls,
};
use Conclusion::{AuthUnlessSent, Is, NetworkUnlessManifest};
use hyper::StatusCode;

/// The class of a failure. [`crate::error`] maps each class to an exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Credentials are missing, wrong or expired.
    Auth,
    /// The registry accepts the credentials, but does not allow the account to write to the repository.
    Denied,
    /// The registry refuses the content: immutable tag, quota, size, policy.
    Rejected,
    /// The connection between engine and registry failed.
    Network,
    RateLimited,
    /// The registry has an internal error or is unavailable.
    Server,
    /// The push made no progress for too long, or exceeded `--timeout`. The plugin detects this class, not the engine.
    Stalled,
    Tls,
    /// The engine does not have the image.
    NotFound,
    /// The engine has the image, but not all of its content.
    ContentMissing,
    Reference,
    /// The engine itself failed: unreachable, too old, out of disk space, or stopped during the push.
    Engine,
    Cancelled,
    /// The tag in the registry already names another image, and `--if-exists fail` forbids replacing that image.
    Exists,
    /// The registry does not serve the pushed image.
    Unverified,
    Other,
}

impl Class {
    /// Returns the name of the class in the JSON output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Denied => "denied",
            Self::Rejected => "rejected",
            Self::Network => "network",
            Self::RateLimited => "rate_limited",
            Self::Server => "server",
            Self::Stalled => "stalled",
            Self::Tls => "tls",
            Self::NotFound => "not_found",
            Self::ContentMissing => "content_missing",
            Self::Reference => "reference",
            Self::Engine => "engine",
            Self::Cancelled => "cancelled",
            Self::Exists => "exists",
            Self::Unverified => "unverified",
            Self::Other => "other",
        }
    }
}

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
    /// The hint for the user, with the placeholders `{registry}`, `{repository}` and `{tag}`.
    pub hint: &'static str,
    /// The maximum number of retries that can help; `u32::MAX`: no limit.
    pub retries: u32,
    /// Other credentials may help.
    pub can_prompt: bool,
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

    fn new(class: Class, Advice { hint, retries, can_prompt, .. }: Advice) -> Self {
        Self { class, hint, retries, can_prompt: can_prompt && matches!(class, Auth | Denied) }
    }
}

/// The hint for a failure, and the maximum number of retries that can help.
#[derive(Clone, Copy)]
struct Advice {
    hint: &'static str,
    retries: u32,
    /// The hint is about the rights of an account, so the hint is wrong if no credentials were sent.
    is_about_account: bool,
    /// If the failure is about credentials, other credentials may help.
    can_prompt: bool,
}

impl Advice {
    const fn new(hint: &'static str) -> Self {
        Self { hint, retries: u32::MAX, is_about_account: false, can_prompt: true }
    }

    /// Returns advice with a maximum number of retries, for a failure that is probably not transient. Examples are a
    /// misspelt host name, and a registry that loses uploads repeatedly.
    const fn retried(retries: u32, hint: &'static str) -> Self {
        Self { retries, ..Self::new(hint) }
    }

    /// Returns advice for a registry that refuses all credentials for some time.
    const fn without_prompt(hint: &'static str) -> Self {
        Self { can_prompt: false, ..Self::new(hint) }
    }

    const fn about_account(hint: &'static str) -> Self {
        Self { is_about_account: true, ..Self::new(hint) }
    }
}

/// The class that a [`Rule`] assigns to a failure.
#[derive(Clone, Copy)]
enum Conclusion {
    Is(Class),
    /// `Auth` if no credentials were sent, `Denied` if credentials were sent. Registries use the same message in both
    /// cases.
    AuthUnlessSent,
    /// `Rejected` if every layer was in the registry, `Network` if a layer was missing. Registries use the same
    /// message for a refused manifest and for a layer that was lost during the upload.
    NetworkUnlessManifest,
}

struct Rule {
    conclusion: Conclusion,
    /// The rule matches if the message in lower case contains any of these phrases. `*` in a phrase matches any
    /// characters.
    words: &'static [&'static str],
    /// The rule matches if the registry, or a proxy in front of the registry, responded with any of these statuses.
    statuses: &'static [u16],
    advice: Advice,
}

/// Builds the table of rules from a compact notation.
macro_rules! rules {
    ($($conclusion:expr, $words:tt, [$($status:literal),*], $advice:expr;)*) => {
        &[$(Rule { conclusion: $conclusion, words: &$words, statuses: &[$($status),*], advice: $advice }),*]
    };
}

const LOG_IN: Advice = Advice::new(
    "run `docker login {registry}`, pass `--username NAME --password-stdin`, or set DOCKER_AUTH_CONFIG",
);
const MAY_NOT_WRITE: Advice = Advice::about_account(
    "check the name {repository}, or use an account that can write to it (`docker login {registry}`)",
);
const TOKEN_RIGHTS: Advice =
    Advice::new("give the token permission to write packages, or use a token that has it");
const EXPIRED: Advice = Advice::new(
    "run `docker login {registry}` right before the push; on ECR `aws ecr get-login-password | docker login --username AWS --password-stdin {registry}`",
);
const LOCKED_OUT: Advice = Advice::without_prompt(
    "wait about 15 minutes, and correct the password first (`docker login {registry}`)",
);
const NO_LOGIN_CAME: Advice =
    Advice::new("run `docker login {registry}`; on Google `gcloud auth configure-docker {registry}`");
const NO_REASON: Advice = Advice::about_account(
    "check that this account can write to {repository} and has not expired, and that no firewall or proxy blocks the engine",
);
const NEW_TAG: Advice = Advice::new("push another tag: this one exists and cannot be changed");
const QUOTA: Advice = Advice::new("delete images in {registry}, or raise its quota");
const TOO_LARGE: Advice = Advice::new(
    "raise the request size limit of the proxy in front of {registry} (nginx: `client_max_body_size 0`)",
);
const TRY_AGAIN: Advice =
    Advice::new("check that {registry} is up, then push again: its connection to the engine broke");
const WAIT: Advice =
    Advice::new("wait a minute, then try again; authenticated users often have a higher limit");
const TRUST: Advice = Advice::new(
    "put the CA of {registry} into /etc/docker/certs.d/{registry}/ca.crt on the engine's machine",
);
const PLAIN_HTTP: Advice = Advice::new(
    "add {registry} to `insecure-registries` in the engine's daemon.json, or enable TLS on it: it speaks plain HTTP",
);
const PROXY_SCHEME: Advice = Advice::new(
    "set `X-Forwarded-Proto: https` in the proxy in front of {registry}: the registry returns plain HTTP addresses",
);
const MAY_BE_CUT: Advice = Advice::new(
    "check that {registry} is up; if the connection breaks each time, a proxy may limit the size of requests, or this account cannot write there",
);
const STALLED: Advice =
    Advice::new("{registry} or its proxy stopped accepting data: check its log, or raise --stall-timeout");
const PROXY_LOGIN: Advice =
    Advice::retried(0, "add credentials to the engine's HTTP_PROXY and HTTPS_PROXY settings");
const LOST_UPLOAD: Advice =
    Advice::retried(2, "push again; if it fails again, check the log of {registry}, which lost the upload");
const CHECK_NAME: Advice =
    Advice::retried(1, "check the name {registry}, and that the engine's machine can resolve it");
const CHECK_LISTENS: Advice =
    Advice::new("check that {registry} is up, and that the engine's machine can reach it");
const NOT_A_REGISTRY: Advice = Advice::new("check host and port: {registry} is not a registry");
const BUILD_FIRST: Advice =
    Advice::new("run `docker images` to list local images, then `docker tag IMAGE {repository}:{tag}`");
const PULL_AGAIN: Advice =
    Advice::new("pull or build the image again for the platform to push (`docker pull --platform`)");
const SERVER_TROUBLE: Advice = Advice::new("try again later, or check the log of {registry}");
const SEE_REGISTRY: Advice = Advice::new("check the log of {registry}");
const FORMAT: Advice = Advice::new(
    "build without attestations (`docker build --provenance=false`): the registry may not accept an image index with attestations",
);
const CREATE_REPOSITORY: Advice =
    Advice::new("check the name {repository}, and that its repository or project exists in {registry}");
const UPDATE_ENGINE: Advice =
    Advice::new("update docker on the engine's machine, or unset DOCKER_API_VERSION");
const UPDATE_PLUGIN: Advice = Advice::new("unset DOCKER_API_VERSION, or update docker-regpush");
const ENGINE_WENT: Advice =
    Advice::new("check the engine's log (`journalctl -u docker`): the engine or its builder stopped");
const ENGINE_DISK: Advice = Advice::new("run `docker system prune`: the engine's disk is full");

/// Phrases in the response of TLS servers to plain HTTP, in lower case.
const WANTS_TLS: [&str; 3] = [
    "plain http request was sent to https port",
    "client sent an http request to an https server",
    "speaking plain http to an ssl",
];

/// Phrases of registries that refuse all logins for some time after failed logins, in lower case.
///
/// Source: Docker Hub (docker/hub-feedback#2201), Artifactory ("Blocked due to recurrent login failures").
const LOCK_OUT: [&str; 6] = [
    "too many failed login",
    "too many login attempts",
    "too many failed authentication",
    "recurrent login failures",
    "account is locked",
    "account has been locked",
];

/// The rules for the classification of failures. The first rule that matches decides. The order of the numbered
/// groups was tested with real messages.
const RULES: &[Rule] = rules![
    // 1 · a stopping engine; a cancellation by the plugin, reported by the engine
    Is(Engine), ["grpc: the client connection"], [], ENGINE_WENT;
    Is(Cancelled), ["context canceled", "context cancelled", "upload cancelled", "operation was canceled"], [], TRY_AGAIN;

    // 2 · the engine, or the connection to it
    Is(Engine), ["permission denied while trying to connect to the docker"], [],
        Advice::new("join the `docker` group and log in again, or use sudo");
    Is(Engine), ["connect to the docker daemon", "connect to docker daemon", "connect to podman", "is the docker daemon running",
        "failed to connect to the docker api", "error during connect", "docker daemon is not running"], [],
        Advice::new("start the engine (`systemctl start docker`), or choose another with `--context` or DOCKER_HOST");
    Is(Engine), ["client version * is too old"], [], UPDATE_PLUGIN;
    Is(Engine), ["client version * is too", "requires api version", "client is newer than server"], [], UPDATE_ENGINE;
    Is(Engine), ["authorization denied by plugin"], [], Advice::new("ask the engine's administrator: its authorization plugin denies this call");
    Is(Other), ["errno 28"], [], SEE_REGISTRY;
    Is(Engine), ["no space left on device"], [], ENGINE_DISK;
    Is(Engine), ["file integrity checksum failed", "layer does not exist", "input/output error", "error creating overlay mount",
        "error reading tar", "failed to get layer", "layer not known", "/containers/storage/overlay", "no such file or directory"], [],
        Advice::new("remove the image, then pull or build it again: the engine's copy is damaged");
    Is(Engine), ["failed to receive status"], [], ENGINE_WENT;
    Is(Engine), ["already in progress"], [], Advice::new("wait for the engine's earlier push of this image to end");
    Is(Auth), ["x-registry-auth"], [], LOG_IN;

    // 3 · no such image in the engine; engines use these messages only for the local store
    Is(NotFound), ["tag does not exist: ", "image not known", "no such image",
        "repository does not exist: ", "failed to find image", "does not resolve to an image id", "image not found locally",
        "unable to find image", "no such id", "image does not exist locally"], [], BUILD_FIRST;

    // 4 · invalid references
    Is(Class::Reference), ["invalid reference format", "invalid tag format", "must be lowercase", "cannot push a digest reference",
        "not be more than 255", "64-byte hexadecimal", "invalid image name", "name invalid", "name_invalid",
        "invalid repository name", "must be a storage reference", "destination specifies a digest", "could not parse reference",
        "couldn't parse reference", "failed to parse platform", "both os and architecture must be provided",
        "is not a valid repository", "is not a valid image", "invalid image reference", "repository name component",
        "repository can only contain", "no host in request url", "tag can only contain", "not a valid tag", "refusing to create an ambiguous tag"], [],
        Advice::new("write the reference as `registry.example.com/team/app:tag`, in lower case, without a scheme");

    // 5 · the engine has the image, but not all of its content
    Is(ContentMissing), ["content digest * not found", "does not provide the specified platform", "does not provide any platform",
        "does not match the specified platform", "manifests found for platform", "no specific platform requested",
        "no match for platform", "blob not found locally", "missing content"], [], PULL_AGAIN;

    // 6 · certificates; a handshake timeout is a network failure
    Is(Network), ["handshake timeout"], [], TRY_AGAIN;
    Is(Tls), ["server gave http response to https client", "first record does not look like a tls"], [], PLAIN_HTTP;
    Is(Tls), WANTS_TLS, [], PROXY_SCHEME;
    Is(Tls), ["missing key client.key", "missing client certificate", "certificate required", "bad certificate"], [],
        Advice::new("put client.cert and client.key into /etc/docker/certs.d/{registry}/ on the engine's machine: {registry} requires a client certificate");
    Is(Tls), ["common name", "ip sans", "certificate is valid for", "not valid for any names"], [],
        Advice::new("use the name in the certificate of {registry}, or reissue the certificate with this name (SAN)");
    Is(Tls), ["certificate has expired"], [], Advice::new("renew the certificate of {registry}, or correct the clock of the engine's machine");
    Is(Tls), ["x509:", "tls: ", "unable to ping registry endpoint", "certificate verify failed",
        "certificate signed by unknown", "self-signed certificate", "self signed certificate"], [], TRUST;

    // 7 · proxy authentication, servers that are not registries, rate limits (checked before credentials because of
    // "unauthenticated pull rate limit")
    Is(Network), ["proxy authentication required", "proxy authorization required"], [407], PROXY_LOGIN;
    Is(Other), ["malformed http response", "stopped after 10 redirects", "did not include a token", "invalid checksum digest",
        "invalid content digest in response", "got digest * expected", "unsupported protocol scheme", "not a valid registry"],
        [200, 202, 204], NOT_A_REGISTRY;
    Is(Auth), LOCK_OUT, [], LOCKED_OUT;
    Is(RateLimited), ["toomanyrequests", "too many requests", "rate exceeded", "rate limit", "ratelimit", "rate-limit", "hap429",
        "throttl", "request limit", "quota metric"], [429], WAIT;

    // 8 · unambiguous messages: first about rights (IAM says "policy", GAR "may not exist"), then about credentials
    Is(Auth), ["unauthenticated request", "may have invalid credentials", "missing authentication token"], [], NO_LOGIN_CAME;
    Is(Denied), ["is not authorized to perform", "artifactregistry.repositories.* denied", "storage.buckets.",
        "does not have permission", "requires * permission", "lacks * permission"], [],
        Advice::new("give this account permission to push to {repository} (IAM policy or role)");
    Is(Denied), ["unauthorized to access repository", "no-repo-write-permission", "you do not have permission", "insufficient permission",
        "insufficient privileges", "does not have sufficient", "insufficient rights", "not have access", "write access"], [], MAY_NOT_WRITE;
    Is(Denied), ["permission_denied", "installation not allowed", "reqpackageaccess", "insufficient scopes", "write_package"], [], TOKEN_RIGHTS;
    Is(Auth), ["token has expired", "token is expired", "token expired", "expired token", "expiredtoken"], [], EXPIRED;
    Is(Auth), ["no basic auth credentials", "incorrect username or password", "invalid username/password", "unauthenticated",
        "anonymous users", "could not find robot", "access denied. the provided password", "not login", "not logged in", "authenticate error",
        "invalid username or password", "wrong username or password", "bad credentials", "invalid credentials", "bad username or password",
        "login required", "requires login", "invalid_token", "invalid token", "must be authenticated", "personal access token",
        "please login", "please log in", "docker login", "error getting credentials", "bad refresh token", "invalid_grant",
        "could not authenticate", "unable to authenticate", "not authenticated", "failed to authenticate",
        "authentication failed", "unable to retrieve auth token"], [], LOG_IN;

    // 9 · refused content (checked before groups 10 to 13, because messages about refused content may begin with
    // "denied:", "unauthorized:" or "unknown:")
    Is(Rejected), ["immutable", "immutability", "cannot be overwritten", "cannot overwrite", "can't overwrite", "not allow overwrit",
        "does not allow updating", "cannot update tag", "tag invalid", "tag_invalid", "manifest tag did not match", "already exists in the"], [], NEW_TAG;
    Is(Rejected), ["entity too large", "payload too large", "content too large", "request body too large", "body is too large"], [413], TOO_LARGE;
    Is(Rejected), ["quota", "upper limit", "hard limit", "limit is ", "storage limit", "size limit", "limit exceeded", "limit reached",
        "exceeds the limit", "maximum allowed", "maximum number", "exceeded the maximum", "insufficient storage"], [507], QUOTA;
    Is(Rejected), ["aka.ms/acr/firewall", "is not allowed access", "ip address is not allowed"], [],
        Advice::new("allow the engine's address in the firewall of {registry}, or push from inside its network");
    Is(Rejected), ["does not exist in the registry with id", "name unknown", "name_unknown", "name not known", "no default local repository",
        "repository \"*\" not found", "repository '*' not found", "repository not found", "project * not found", "namespace * not found", "namespace unknown",
        "project not found"], [], CREATE_REPOSITORY;
    Is(Rejected), ["manifest invalid", "manifest_invalid", "manifest unverified", "manifest_unverified", "manifest failed signature",
        "schema 1", "media type", "media-type", "mediatype", "unsupported manifest"], [415], FORMAT;
    Is(Rejected), ["deploying to groups", "is disallowed", "read-only", "read only mode", "readonly", "is blocked",
        "been blocked", "blocked by", "method not allowed", "policy violation", "violates", "vulnerabilit", "not signed", "unsupported: ", "is unsupported", "unsupported\n",
        "policy_violation", "legal reasons", "payment required", "billing", "subscription", "pricing plan"], [402, 405, 409, 412, 451],
        Advice::new("check the settings of {registry} for {repository}: read-only mode, policies, subscription");

    // 10 · messages that registries and engines use both for missing credentials and for missing rights
    AuthUnlessSent, ["insufficient_scope", "requested access to the resource", "access to the requested resource",
        "push access denied", "access to the resource is denied"], [], MAY_NOT_WRITE;

    // 11 · messages that are probably about credentials; "denied" before "unauthorized" means missing rights
    Is(Auth), ["authentication required", "authentication is required"], [401], LOG_IN;
    Is(Denied), ["denied*unauthorized"], [], MAY_NOT_WRITE;
    Is(Auth), ["unauthorized", "unauthorised", "authenticat", "credential"], [], LOG_IN;

    // 12 · server errors, by HTTP status
    Is(Server), [], [500, 501, 502, 503, 504, 505, 506, 508, 509, 510, 511, 520, 521, 522, 523, 524, 525, 526, 527, 529, 530, 599], SERVER_TROUBLE;

    // 13 · refusals whose message gives no reason
    Is(Network), ["connect: permission denied"], [], CHECK_LISTENS;
    Is(Denied), ["<html*denied", "<html*forbidden", "denied*<html", "cloudflare"], [],
        Advice::new("ask the administrator of the proxy in front of {registry}: the proxy answered, not the registry");
    Is(Denied), [], [403], NO_REASON;
    Is(Denied), ["denied", "forbidden", "permission", "not authorized", "not authorised", "not allowed to"], [], MAY_NOT_WRITE;

    // 14 · server errors, by message
    Is(Server), ["internal server error", "internal error", "service unavailable", "bad gateway", "gateway timeout", "gateway time-out",
        "temporarily unavailable", "unavailable", "unknown error", "registry: unknown unknown", "circuit breaker"], [], SERVER_TROUBLE;

    // 15 · the connection between engine and registry
    NetworkUnlessManifest, ["blob upload invalid", "blob_upload_invalid"], [], LOST_UPLOAD;
    Is(Network), ["blob upload unknown", "blob_upload_unknown", "unknown blob", "blob unknown", "blob_unknown", "digest invalid", "digest_invalid",
        "size invalid", "size_invalid", "did not match uploaded", "did not match content length", "digest did not match"], [], LOST_UPLOAD;
    Is(Network), ["no such host", "server misbehaving", "name resolution", "lookup "], [], CHECK_NAME;
    Is(Network), ["connection refused", "no route to host", "network is unreachable", "host is unreachable", "host is down"], [], CHECK_LISTENS;
    Is(Network), ["eof", "broken pipe", "closed network connection", "closed pipe"], [], MAY_BE_CUT;
    Is(Network), ["connection", "timeout", "timed out", "deadline exceeded", "dial tcp", "stream error", "goaway",
        "proxyconnect", "http2: ", "no response", "pected size", "request canceled", "must be retried", "retrying in", "read tcp", "write tcp"], [], TRY_AGAIN;
];

/// Returns the verdict on a stalled push.
pub fn stalled() -> Verdict {
    Verdict::new(Class::Stalled, STALLED)
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
        return Verdict::new(class, if nobody { LOG_IN } else { rule.advice });
    }
    match evidence.http_status {
        // The engine's router redirects a request whose image name is empty.
        Some(301) => Verdict::new(Class::Reference, Advice::new("check the name of the image")),
        Some(401) => Verdict::new(Auth, LOG_IN),
        Some(403) => Verdict::new(Denied, MAY_NOT_WRITE),
        Some(_) => Verdict::new(Engine, Advice::new("check the engine's log (`journalctl -u docker`)")),
        None => Verdict::new(Other, SEE_REGISTRY),
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

/// Returns the hint for a failed SSH connection to an engine, with the placeholders `{login}`, `{host}` and
/// `{docker}`.
///
/// * `said`: the stderr of ssh, and of docker on the remote machine.
///
/// Source: OpenSSH `sshconnect.c`, `sshconnect2.c`; docker/cli `cli/command/system/dial_stdio.go`.
pub fn tunnel_hint(said: &str) -> &'static str {
    const RULES: [(&[&str], &str); 7] = [
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
        let recorded: Vec<Recorded> = lines(include_str!("../../tests/failures/recorded.jsonl"));
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
