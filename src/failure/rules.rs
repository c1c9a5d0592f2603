//! The rules that classify failures by their messages, and the hints for users.

use Conclusion::{AuthUnlessSent, Is, NetworkUnlessManifest};

use crate::failure::class::Class::{
    self, Auth, Cancelled, ContentMissing, Denied, Engine, Network, NotFound, Other, RateLimited, Rejected,
    Server, Tls,
};

/// The hint for a failure, and the maximum number of retries that can help.
#[derive(Clone, Copy)]
pub struct Advice {
    pub hint: &'static str,
    pub retries: u32,
    /// The hint is about the rights of an account, so the hint is wrong if no credentials were sent.
    pub is_about_account: bool,
    /// If the failure is about credentials, other credentials may help.
    pub can_prompt: bool,
    /// The message may hide the cause of the failure.
    pub is_unsettled: bool,
}

impl Advice {
    pub const fn new(hint: &'static str) -> Self {
        Self { hint, retries: u32::MAX, is_about_account: false, can_prompt: true, is_unsettled: false }
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

    /// Returns the same advice for a message that many causes share, such as a bare status.
    pub const fn unsettled(self) -> Self {
        Self { is_unsettled: true, ..self }
    }

    const fn about_account(hint: &'static str) -> Self {
        Self { is_about_account: true, ..Self::new(hint) }
    }
}

/// The class that a [`Rule`] assigns to a failure.
#[derive(Clone, Copy)]
pub enum Conclusion {
    Is(Class),
    /// `Auth` if no credentials were sent, `Denied` if credentials were sent. Registries use the same message in both
    /// cases.
    AuthUnlessSent,
    /// `Rejected` if every layer was in the registry, `Network` if a layer was missing. Registries use the same
    /// message for a refused manifest and for a layer that was lost during the upload.
    NetworkUnlessManifest,
}

pub struct Rule {
    pub conclusion: Conclusion,
    /// The rule matches if the message in lower case contains any of these phrases. `*` in a phrase matches any
    /// characters.
    pub words: &'static [&'static str],
    /// The rule matches if the registry, or a proxy in front of the registry, responded with any of these statuses.
    pub statuses: &'static [u16],
    pub advice: Advice,
}

/// Builds the table of rules from a compact notation.
macro_rules! rules {
    ($($conclusion:expr, $words:tt, [$($status:literal),*], $advice:expr;)*) => {
        &[$(Rule { conclusion: $conclusion, words: &$words, statuses: &[$($status),*], advice: $advice }),*]
    };
}

pub const LOG_IN: Advice = Advice::new(
    "run `docker login {registry}`, pass `--username NAME --password-stdin`, or set DOCKER_AUTH_CONFIG",
);
pub const MAY_NOT_WRITE: Advice = Advice::about_account(
    "check the name {repository}, or use an account that can write to it (`docker login {registry}`)",
);
const TOKEN_RIGHTS: Advice =
    Advice::new("give the token permission to write packages, or use a token that has it");
const EXPIRED: Advice = Advice::new(
    "run `docker login {registry}` right before the push; on ECR `aws ecr get-login-password | docker login --username AWS --password-stdin {registry}`",
);
pub const WAIT_AND_CORRECT: &str =
    "wait about 15 minutes, and correct the password first (`docker login {registry}`)";
const LOCKED_OUT: Advice = Advice::without_prompt(WAIT_AND_CORRECT);
const NO_LOGIN_CAME: Advice =
    Advice::new("run `docker login {registry}`; on Google `gcloud auth configure-docker {registry}`");
const NO_REASON: Advice = Advice::about_account(
    "check that this account can write to {repository} and has not expired, and that no firewall or proxy blocks the engine",
).unsettled();
const NEW_TAG: Advice = Advice::new("push another tag: this one exists and cannot be changed");
const PROXY_PROJECT: Advice = Advice::new(
    "push to the registry that {repository} mirrors, or to another project: {registry} accepts no pushes there",
);
const SWITCHED_OFF: Advice = Advice::new(
    "enable the service in the console of {registry} (API, billing), or push to the registry that replaced it",
);
const KEY_FILE: Advice = Advice::new(
    "pass the whole key file: `docker login -u _json_key --password-stdin https://{registry} <key.json` (user `_json_key_base64` for a key in base64)",
);
const NAME_PARTS: Advice = Advice::new(
    "add the missing part to the name {repository}: {registry} requires a project or repository before the image",
);
const FEWER_LAYERS: Advice =
    Advice::new("combine RUN instructions in the Dockerfile, or squash the image, to get fewer layers");
pub const FOREIGN_LAYERS: Advice = Advice::retried(
    0,
    "allow the layers' URLs in {registry} (`validation.manifests.urls.allow`), or add it to `allow-nondistributable-artifacts` in the engine's daemon.json",
);
const SMALLER: Advice = Advice::new("make the image smaller: {registry} limits the size of an image");
/// The answer of a registry whose names have a structure of their own, or of a server that is not a registry.
const CHECK_PATH: Advice = Advice::new(
    "check the name {repository}: a project or repository key may be missing, or {registry} is not a registry",
)
.unsettled();
const OTHER_NAME: Advice =
    Advice::new("choose another name: the image of this name belongs to another repository");
const STORAGE: Advice =
    Advice::new("check the disk of {registry}: it is full, read-only, or not writable for the registry");
const HELPER: Advice = Advice::new(
    "check `credsStore` and `credHelpers` in config.json: docker cannot run the credential helper, or the helper fails",
);
const CONFIG_FILE: Advice =
    Advice::new("make config.json readable for this user: `sudo chown -R $USER ~/.docker`");
const FILE_RIGHTS: Advice =
    Advice::new("check the owner of the file in the message (`ls -ld`): the engine may not use it");
const SIGNATURE_POLICY: Advice = Advice::new(
    "check /etc/containers/policy.json on the engine's machine, which decides which images podman accepts",
);
const HTTPS_PROXY: Advice =
    Advice::new("set HTTPS_PROXY of the engine to an address with `http://`: the proxy does not speak TLS");
const CHOOSE_PLATFORM: Advice =
    Advice::new("pass `--platform os/arch`: the image has several platforms, and the engine cannot choose");
const QUOTA: Advice = Advice::new("delete images in {registry}, or raise its quota");
pub const RAISE_LIMIT: &str =
    "raise the request size limit of the proxy in front of {registry} (nginx: `client_max_body_size 0`)";
const TOO_LARGE: Advice = Advice::new(RAISE_LIMIT);
const TRY_AGAIN: Advice =
    Advice::new("check that {registry} is up, then push again: its connection to the engine broke")
        .unsettled();
const SLOW_ANSWER: Advice = Advice::new(
    "raise --retries, or check the storage of {registry}: it needed more than 30 s to answer, and docker 29 gives up there",
);
const WAIT: Advice =
    Advice::new("wait a minute, then try again; authenticated users often have a higher limit").unsettled();
const TRUST: Advice = Advice::new(
    "pass the CA of {registry} with `--ca-file`, or put it into /etc/docker/certs.d/{registry}/ca.crt on the engine's machine",
);
/// Docker before 29.5 with the containerd store ignores certs.d for the token server (moby#52361).
const TRUST_TOKEN_SERVER: Advice = Advice::new(
    "add the CA of {server} to the system's CAs on the engine's machine, or update docker to 29.5: before, it ignores /etc/docker/certs.d for the token server",
);
const STRIPPED_DIGEST: Advice = Advice::new(
    "let the proxy in front of {registry} pass the header `Docker-Content-Digest`, or update docker to 29.1, which does without",
)
.unsettled();
const PLAIN_HTTP: Advice = Advice::new(
    "set `{insecure}` in the engine's daemon.json, beside its other entries, or enable TLS on {registry}: it speaks plain HTTP",
)
.unsettled();
const PROXY_SCHEME: Advice = Advice::new(
    "set `X-Forwarded-Proto: https` in the proxy in front of {registry}: the registry returns plain HTTP addresses",
).unsettled();
const MAY_BE_CUT: Advice = Advice::new(
    "check that {registry} is up; if the connection breaks each time, a proxy may limit the size of requests, or this account cannot write there",
).unsettled();
pub const STALLED: Advice =
    Advice::new("{registry} or its proxy stopped accepting data: check its log, or raise --stall-timeout");
pub const WAIT_FOR_SLOT: Advice = Advice::new(
    "raise --stall-timeout, or `max-concurrent-uploads` in the engine's daemon.json: the engine sends other images first",
);
const PROXY_LOGIN: Advice =
    Advice::retried(0, "add credentials to the engine's HTTP_PROXY and HTTPS_PROXY settings");
pub const LOST_UPLOAD: Advice =
    Advice::retried(2, "push again; if it fails again, check the log of {registry}, which lost the upload");
const CHECK_NAME: Advice =
    Advice::retried(1, "check the name {registry}, and that the engine's machine can resolve it").unsettled();
const CHECK_LISTENS: Advice =
    Advice::new("check that {registry} is up, and that the engine's machine can reach it").unsettled();
const NOT_A_REGISTRY: Advice = Advice::new("check host and port: {registry} is not a registry").unsettled();
const BUILD_FIRST: Advice =
    Advice::new("run `docker images` to list local images, then `docker tag IMAGE {repository}:{tag}`");
pub const PULL_AGAIN: Advice =
    Advice::new("pull or build the image again for the platform to push (`docker pull --platform`)");
const SERVER_TROUBLE: Advice = Advice::new("try again later, or check the log of {registry}").unsettled();
pub const SEE_REGISTRY: Advice = Advice::new("check the log of {registry}");
pub const FORMAT: Advice = Advice::new(
    "build without attestations (`docker build --provenance=false`): the registry may not accept an image index with attestations",
);
pub const CHECK_REPOSITORY: &str =
    "check the name {repository}, and that its repository or project exists in {registry}";
const CREATE_REPOSITORY: Advice = Advice::new(CHECK_REPOSITORY);
const UPDATE_ENGINE: Advice = Advice::new("update docker on the engine's machine");
const UPDATE_CLIENT: Advice = Advice::new("update docker and docker-regpush on this machine");
pub const ENGINE_WENT: Advice =
    Advice::new("check the engine's log (`journalctl -u docker`): the engine or its builder stopped");
const ENGINE_DISK: Advice = Advice::new("run `docker system prune`: the engine's disk is full");
const ENGINE_FILES: Advice =
    Advice::new("check the disk of the engine's machine: it is read-only, or has a quota");
const START_ENGINE: Advice = Advice::new(
    "start the engine (`systemctl start docker`), or choose another with `--context` or DOCKER_HOST",
);
const DAMAGED: Advice =
    Advice::new("remove the image, then pull or build it again: the engine's copy is damaged");
const ENGINE_LOG: Advice = Advice::new("check the engine's log (`journalctl -u docker`)");

/// Phrases in the response of TLS servers to plain HTTP, in lower case.
pub const WANTS_TLS: [&str; 3] = [
    "plain http request was sent to https port",
    "client sent an http request to an https server",
    "speaking plain http to an ssl",
];

/// Phrases of registries that accept no password of an account with two-factor authentication, in lower case.
///
/// Source: GitLab ("HTTP Basic: Access denied. … 2FA enabled"), Docker Hub ("must log in with a Personal Access Token").
pub const TWO_FACTOR: [&str; 5] =
    [" 2fa", "two-factor", "two factor", "personal access token", "token instead of a password"];
pub const ACCESS_TOKEN: &str = "use an access token as password: the registry accepts no passwords of accounts with two-factor authentication";

/// Phrases of registries that refuse all logins for some time after failed logins, in lower case.
///
/// Source: Docker Hub (docker/hub-feedback#2201), Artifactory ("Blocked due to recurrent login failures").
pub const LOCK_OUT: [&str; 6] = [
    "too many failed login",
    "too many login attempts",
    "too many failed authentication",
    "recurrent login failures",
    "account is locked",
    "account has been locked",
];

/// The rules for the classification of failures. The first rule that matches decides. The order of the numbered
/// groups was tested with real messages.
pub const RULES: &[Rule] = rules![
    // 1 · a stopping engine; a cancellation by the plugin, reported by the engine
    Is(Engine), ["grpc: the client connection"], [], ENGINE_WENT;
    Is(Cancelled), ["context canceled", "context cancelled", "upload cancelled", "operation was canceled"], [], TRY_AGAIN;

    // 2 · the engine, or the connection to it
    Is(Engine), ["permission denied while trying to connect to the docker", "dial unix *permission denied"], [],
        Advice::new("join the `docker` group and log in again, or use sudo");
    Is(Engine), ["connect to the docker daemon", "connect to docker daemon", "connect to podman", "is the docker daemon running",
        "failed to connect to the docker api", "error during connect", "docker daemon is not running", "dial unix *no such file"], [],
        START_ENGINE;
    Is(Engine), ["client version * is too old"], [], UPDATE_CLIENT;
    Is(Engine), ["client version * is too", "requires api version", "client is newer than server"], [], UPDATE_ENGINE;
    Is(Engine), ["authorization denied by plugin", "authzplugin."], [], Advice::new("ask the engine's administrator: its authorization plugin denies this call");
    Is(Other), ["permission denied*config.json", "config.json*permission denied"], [], CONFIG_FILE;
    // A registry written in Python (docker-archive/docker-registry)
    Is(Other), ["[errno "], [], SEE_REGISTRY;
    // Errors of the storage driver `filesystem` of distribution, which containerd quotes.
    Is(Server), ["filesystem: mkdir", "filesystem: open", "filesystem: write", "/var/lib/registry/"], [], STORAGE;
    Is(Engine), ["no space left on device"], [], ENGINE_DISK;
    Is(Engine), ["read-only file system", "disk quota exceeded"], [], ENGINE_FILES;
    // Go's `os.PathError`
    Is(Engine), ["open /*: permission denied", "mkdir /*: permission denied"], [], FILE_RIGHTS;
    Is(Other), ["source image rejected", "running image * is rejected by policy", "trust policy"], [], SIGNATURE_POLICY;
    Is(Engine), ["creating signature"], [], Advice::new("check the key with which podman signs images (`gpg --list-secret-keys`)");
    Is(Other), ["unknown shorthand flag", "unknown flag: "], [], Advice::new("check the options of the command");
    Is(Engine), ["file integrity checksum failed", "layer does not exist", "input/output error", "error creating overlay mount",
        "error reading tar", "failed to get layer", "layer not known", "/containers/storage/overlay", "/overlay2/*no such file",
        "/var/lib/docker/*no such file", "/var/lib/containers/*no such file", "/var/lib/containerd/*no such file"], [], DAMAGED;
    Is(Engine), ["no such file or directory"], [], ENGINE_LOG;
    Is(Engine), ["doesn't support multiplatform images"], [],
        Advice::new("use the containerd store for images with several platforms: `\"features\": {\"containerd-snapshotter\": true}` in the engine's daemon.json");
    Is(Engine), ["failed to receive status"], [], ENGINE_WENT;
    Is(Engine), ["already in progress"], [], Advice::new("wait for the engine's earlier push of this image to end");
    Is(Auth), ["x-registry-auth"], [], LOG_IN;

    // 3 · no such image in the engine; engines use these messages only for the local store
    Is(NotFound), ["tag does not exist: ", "image not known", "no such image",
        "repository does not exist: ", "failed to find image", "does not resolve to an image id", "image not found locally",
        "unable to find image", "no such id", "image does not exist locally", "daemon: reference does not exist"], [], BUILD_FIRST;

    // 4 · invalid references; first valid references that do not fit the registry's own structure of names (GAR:
    // gitpod-io/gitpod#3695)
    Is(Rejected), ["missing image name", "should be of the form", "invalid project name"], [], NAME_PARTS;
    Is(Class::Reference), ["invalid reference format", "invalid reference\n", "invalid tag format", "illegal tag name", "must be lowercase", "cannot push a digest reference",
        "not be more than 255", "64-byte hexadecimal", "invalid image name", "name invalid", "name_invalid",
        "invalid repository name", "must be a storage reference", "destination specifies a digest", "could not parse reference",
        "couldn't parse reference", "failed to parse platform", "both os and architecture must be provided",
        "is not a valid repository", "is not a valid image", "invalid image reference", "repository name component",
        "repository can only contain", "tag can only contain", "not a valid tag", "refusing to create an ambiguous tag"], [],
        Advice::new("write the reference as `registry.example.com/team/app:tag`, in lower case, without a scheme");

    // 5 · the engine has the image, but not all of its content
    // docker 29
    Is(ContentMissing), ["no specific platform requested"], [], CHOOSE_PLATFORM;
    Is(ContentMissing), ["content digest * not found", "does not provide the specified platform", "does not provide any platform",
        "does not match the specified platform", "manifests found for platform",
        "no match for platform", "blob not found locally", "missing content"], [], PULL_AGAIN;

    // docker 29 with the containerd store waits 30 s for the headers of a response.
    Is(Network), ["timeout awaiting response headers"], [], SLOW_ANSWER;

    // 6 · certificates; a handshake timeout is a network failure
    Is(Network), ["handshake timeout"], [], TRY_AGAIN;
    Is(Tls), ["proxyconnect*first record does not look like a tls", "proxyconnect*server gave http response"], [], HTTPS_PROXY;
    // "only secure connections": Jib (GoogleContainerTools/jib)
    Is(Tls), ["server gave http response to https client", "first record does not look like a tls", "only secure connections are allowed"], [], PLAIN_HTTP;
    Is(Tls), WANTS_TLS, [], PROXY_SCHEME;
    Is(Tls), ["failed to fetch oauth token*x509", "failed to fetch oauth token*certificate", "failed to fetch anonymous token*x509",
        "failed to fetch anonymous token*certificate"], [], TRUST_TOKEN_SERVER;
    Is(Tls), ["missing key * for client certificate", "missing client certificate", "certificate required", "bad certificate"], [],
        Advice::new("put client.cert and client.key into /etc/docker/certs.d/{registry}/ on the engine's machine: {registry} requires a client certificate");
    Is(Tls), ["common name", "ip sans", "certificate is valid for", "not valid for any names"], [],
        Advice::new("use the name in the certificate of {registry}, or reissue the certificate with this name (SAN)");
    Is(Tls), ["certificate has expired"], [], Advice::new("renew the certificate of {registry}, or correct the clock of the engine's machine");
    Is(Tls), ["x509:", "tls: ", "unable to ping registry endpoint", "certificate verify failed",
        "certificate signed by unknown", "self-signed certificate", "self signed certificate"], [], TRUST;

    // 7 · proxy authentication, servers that are not registries, rate limits (checked before credentials because of
    // "unauthenticated pull rate limit")
    Is(Network), ["proxy authentication required", "proxy authorization required"], [407], PROXY_LOGIN;
    Is(Other), ["invalid content digest in response*invalid checksum digest format"], [], STRIPPED_DIGEST;
    // The bytes of a TLS alert, quoted by Go.
    Is(Other), [r#"malformed http response "\x15\x03"#], [], PROXY_SCHEME;
    Is(Other), ["no host in request url", "malformed http response", "malformed http status", "stopped after 10 redirects", "did not include a token", "invalid checksum digest",
        "invalid content digest in response", "got digest * expected", "unsupported protocol scheme", "not a valid registry"],
        [200, 202, 204, 301, 302, 303, 307, 308], NOT_A_REGISTRY;
    Is(Auth), LOCK_OUT, [], LOCKED_OUT;
    // Google (gcp-gcr-orb#81)
    Is(Auth), ["parse json key"], [], KEY_FILE;
    // Services that are switched off: Google (gke-labs/vroom#449, google-github-actions/deploy-cloudrun#420)
    Is(Rejected), ["deprecated and shutting down", "api has not been used", "enable google container registry api",
        "enable the google container registry api", "api * is not enabled", "not enabled on project", "service_disabled", "billing * disabled", "billing to be enabled",
        "billing account"], [], SWITCHED_OFF;
    Is(RateLimited), ["toomanyrequests", "too many requests", "rate exceeded", "rate limit", "ratelimit", "rate-limit", "hap429",
        "throttl", "request limit", "quota metric"], [429], WAIT;

    // 8 · unambiguous messages: first about rights (IAM says "policy", GAR "may not exist"), then about credentials
    Is(Auth), ["unauthenticated request", "may have invalid credentials", "missing authentication token"], [], NO_LOGIN_CAME;
    Is(Denied), ["is not authorized to perform", "artifactregistry.repositories.* denied", "storage.buckets.",
        "does not have permission", "requires * permission", "lacks * permission"], [],
        Advice::new("give this account permission to push to {repository} (IAM policy or role)");
    Is(Denied), ["unauthorized to access repository", "no-repo-write-permission", "you do not have permission", "insufficient permission",
        "insufficient privileges", "not enough permissions", "does not have sufficient", "insufficient rights", "not have access", "write access"], [], MAY_NOT_WRITE;
    Is(Denied), ["permission_denied", "installation not allowed", "reqpackageaccess", "insufficient scopes", "write_package"], [], TOKEN_RIGHTS;
    Is(Auth), ["token has expired", "token is expired", "token expired", "expired token", "expiredtoken"], [], EXPIRED;
    Is(Auth), TWO_FACTOR, [], Advice::new(ACCESS_TOKEN);
    // docker cannot save credentials, so the login did not happen.
    Is(Other), ["error storing credentials", "error saving credentials"], [], HELPER;
    Is(Auth), ["no basic auth credentials", "incorrect username or password", "invalid username/password", "unauthenticated",
        "anonymous users", "could not find robot", "access denied. the provided password", "not login", "not logged in", "authenticate error",
        "invalid username or password", "wrong username or password", "bad credentials", "invalid credentials", "bad username or password",
        "login required", "requires login", "invalid_token", "invalid token", "must be authenticated",
        "please login", "please log in", "docker login", "error getting credentials", "bad refresh token", "invalid_grant",
        "could not authenticate", "unable to authenticate", "not authenticated", "failed to authenticate",
        "authentication failed", "unable to retrieve auth token"], [], LOG_IN;

    // 9 · refused content (checked before groups 10 to 13, because messages about refused content may begin with
    // "denied:", "unauthorized:" or "unknown:")
    Is(Rejected), ["limit on number of layers", "too many layers", "max depth exceeded"], [], FEWER_LAYERS;
    Is(Rejected), ["already associated with another repository"], [], OTHER_NAME;
    Is(Rejected), ["immutable", "immutability", "cannot be overwritten", "cannot overwrite", "can't overwrite", "not allow overwrit",
        "does not allow updating", "cannot update tag", "tag already exists", "tag invalid", "tag_invalid", "manifest tag did not match", "already exists in the"], [], NEW_TAG;
    Is(Rejected), ["entity too large", "payload too large", "content too large", "request body too large", "body is too large"], [413], TOO_LARGE;
    Is(Rejected), ["image too large"], [], SMALLER;
    Is(Rejected), ["quota", "upper limit", "hard limit", "limit is ", "storage limit", "size limit", "limit exceeded", "limit reached",
        "exceeds the limit", "exceeds maximum", "exceeds the maximum", "too many tags", "too many images", "too many repositories", "maximum allowed", "maximum number", "exceeded the maximum", "insufficient storage"], [507], QUOTA;
    Is(Rejected), ["aka.ms/acr/firewall", "is not allowed access", "ip address is not allowed"], [],
        Advice::new("allow the engine's address in the firewall of {registry}, or push from inside its network");
    Is(Rejected), ["does not exist in the registry with id", "name unknown", "name_unknown", "name not known", "no default local repository",
        "repository \"*\" not found", "repository '*' not found", "repository not found", "project * not found", "namespace * not found", "namespace unknown",
        "project not found"], [], CREATE_REPOSITORY;
    // Caches of other registries: Harbor (goharbor/harbor#12731)
    Is(Rejected), ["to a proxy project", "to a pull-through cache", "to a pull through cache", "is a pull-through cache", "is a pull through cache",
        "to a mirror", "is a mirror"], [], PROXY_PROJECT;
    Is(Rejected), ["manifest invalid", "manifest_invalid", "manifest unverified", "manifest_unverified", "manifest failed signature",
        "schema 1", "media type", "media-type", "mediatype", "unsupported manifest", "manifest.list is not supported", "manifest list is not supported"], [415], FORMAT;
    Is(Rejected), ["deploying to groups", "is disallowed", "read-only", "read only mode", "readonly", "is blocked",
        "been blocked", "blocked by", "method not allowed", "policy violation", "violates", "vulnerabilit", "not signed", "unsupported: ", "is unsupported", "unsupported\n", "push not supported",
        "policy_violation", "legal reasons", "payment required", "billing", "subscription", "pricing plan"], [402, 405, 409, 412, 451],
        Advice::new("check the settings of {registry} for {repository}: read-only mode, policies, subscription").unsettled();

    // 10 · messages that registries and engines use both for missing credentials and for missing rights
    AuthUnlessSent, ["insufficient_scope", "requested access to the resource", "access to the requested resource",
        "push access denied", "access to the resource is denied"], [], MAY_NOT_WRITE.unsettled();

    // 11 · messages that are probably about credentials; "denied" before "unauthorized" means missing rights
    Is(Auth), ["authentication required", "authentication is required"], [401], LOG_IN.unsettled();
    Is(Denied), ["denied*unauthorized", "unauthorized*403 forbidden"], [], MAY_NOT_WRITE;
    Is(Auth), ["unauthorized", "unauthorised", "authenticat", "credential"], [], LOG_IN.unsettled();

    // 12 · server errors, by HTTP status
    Is(Server), [], [500, 501, 502, 503, 504, 505, 506, 508, 509, 510, 511, 520, 521, 522, 523, 524, 525, 526, 527, 529, 530, 599], SERVER_TROUBLE;

    // 13 · refusals whose message gives no reason
    Is(Network), ["connect: permission denied"], [], CHECK_LISTENS;
    Is(Denied), ["<html*denied", "<html*forbidden", "denied*<html", "cloudflare"], [],
        Advice::new("ask the administrator of the proxy in front of {registry}: the proxy answered, not the registry").unsettled();
    Is(Denied), [], [403], NO_REASON;
    Is(Denied), ["denied", "forbidden", "permission", "not authorized", "not authorised", "not allowed to"], [], MAY_NOT_WRITE.unsettled();

    // 14 · server errors, by message
    Is(Server), ["internal server error", "internal error", "service unavailable", "bad gateway", "gateway timeout", "gateway time-out",
        "temporarily unavailable", "unavailable", "unknown error", "registry: unknown unknown", "error from registry: unknown\n", "circuit breaker"], [], SERVER_TROUBLE;

    // Harbor: two pushes of an image at the same time (goharbor/harbor#16995)
    Is(Server), ["attach to a non existing artifact"], [], SERVER_TROUBLE;

    // 15 · the connection between engine and registry
    // An index names a manifest that the registry does not show yet, or has lost.
    Is(Network), ["manifest unknown", "manifest_unknown"], [], LOST_UPLOAD;
    NetworkUnlessManifest, ["blob upload invalid", "blob_upload_invalid"], [], LOST_UPLOAD;
    Is(Network), ["blob upload unknown", "blob_upload_unknown", "unknown blob", "blob unknown", "blob_unknown", "digest invalid", "digest_invalid",
        "size invalid", "size_invalid", "did not match uploaded", "did not match content length", "digest did not match"], [], LOST_UPLOAD;
    Is(Network), ["no such host", "server misbehaving", "name resolution", "lookup "], [], CHECK_NAME;
    Is(Network), ["connection refused", "no route to host", "network is unreachable", "host is unreachable", "host is down"], [], CHECK_LISTENS;
    Is(Network), ["eof", "broken pipe", "closed network connection", "closed pipe"], [], MAY_BE_CUT;
    Is(Network), ["connection", "timeout", "timed out", "deadline exceeded", "dial tcp", "stream error", "goaway",
        "proxyconnect", "http2: ", "no response", "pected size", "request canceled", "must be retried", "retrying in", "read tcp", "write tcp"], [], TRY_AGAIN;

    // 16 · wrong paths: Artifactory (docker/build-push-action#1115), GitLab, Harbor
    Is(Other), [], [404], CHECK_PATH;
];
