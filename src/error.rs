//! Every way in which a call can fail, with what to do about it and the status it ends with.

use std::io;
use std::path::PathBuf;

use serde::Serialize;

use crate::config::ConfigError;
use crate::context::{Address, ContextError, Endpoint, NamedBy, Origin};
use crate::credentials::prompt::PromptError;
use crate::credentials::save::SaveError;
use crate::credentials::{Broken, CredentialsError, Login, Source};
use crate::engine::EngineError;
use crate::event::DecodeError;
use crate::failure::{Class, Evidence, classify, tunnel_hint};
use crate::headers::HeadersError;
use crate::hook::HookError;
use crate::login::LoginError;
use crate::net::tls::TlsProblem;
use crate::push::{Found, PushError, Refusal, Suggestion};
use crate::reference::{HUB, Reference, ReferenceError};
use crate::registry::{RegistryError, is_without_catalog};
use crate::remote::Cause;
use crate::target::TargetError;
use crate::text::{clean, with_causes};
use crate::transport::error::TransportError;
use crate::transport::ssh::{login, remote_docker};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{reason}")]
    Reference { typed: String, reason: ReferenceError },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Context(#[from] ContextError),
    #[error(transparent)]
    Headers(#[from] HeadersError),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Push(PushError),
    /// `--all-tags` of a repository that has none here.
    #[error("no tag of {repository} is in the engine")]
    NoTags { repository: String, suggestion: Option<Suggestion> },
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A password is for one of them.
    #[error("--username is for one registry, and these images go to several: {registries}")]
    OneLogin { registries: String },
    #[error("--digest-file is for one image, and these may be several")]
    OneDigest,
    #[error("--digest-file and --metadata-file name the same file")]
    SameFile,
    #[error("cannot write `{}`", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Login(LoginError),
    #[error(transparent)]
    Save(#[from] SaveError),
    #[error(transparent)]
    Registry(Box<RegistryError>),
    #[error("`{typed}` is no registry")]
    RegistryName { typed: String },
    #[error("no login for {registry}: {}", login.describe_nothing())]
    NoLogin { registry: String, login: Box<Login> },
    /// The registry's answer to `auth`; `message` is unclean.
    #[error("{registry} does not accept {}: {}", login.describe(), clean(message))]
    LoginRefused { registry: String, login: Box<Login>, message: String },
    #[error("the login for {registry} could not be checked: {}", clean(message))]
    Unchecked { registry: String, message: String },
    /// The Hub's login in the browser belongs to docker.
    #[error("Docker Hub's login in the browser is docker's own")]
    WebLogin,
    #[error("cannot ask for a login to {registry}: stdin and stderr have to be a terminal")]
    NoTerminal { registry: String },
    #[error("`ls` lists all tags of a repository")]
    TagWithLs { repository: String },
    #[error("cannot read the password from stdin")]
    PasswordUnreadable(#[source] io::Error),
    #[error("no password on stdin")]
    PasswordMissing,
    #[error("the password on stdin is longer than 64 kB: is that the right file?")]
    PasswordTooLong,
    #[error("cannot write the result to stdout")]
    Output(#[source] io::Error),
    #[error("{}", match .0 { 143 => "terminated", 129 => "hung up", _ => "interrupted" })]
    Cancelled(u8),
}

impl From<PushError> for Error {
    fn from(error: PushError) -> Self {
        match error {
            PushError::Login(error) => error.into(),
            error => Self::Push(error),
        }
    }
}

impl From<RegistryError> for Error {
    fn from(error: RegistryError) -> Self {
        Self::Registry(Box::new(error))
    }
}

impl From<LoginError> for Error {
    fn from(error: LoginError) -> Self {
        match error {
            // Ctrl-C, as rpassword reads it: the same as the signal.
            LoginError::Prompt { source: PromptError::Interrupted, .. } => Self::Cancelled(130),
            LoginError::Engine(error) => Self::Engine(error),
            error => Self::Login(error),
        }
    }
}

/// An error as JSON has it.
#[derive(Serialize)]
pub struct Told {
    class: &'static str,
    message: String,
    hint: Option<String>,
}

impl Told {
    pub fn new(error: &Error) -> Self {
        Self { class: error.class().name(), message: error.message(), hint: error.hint() }
    }
}

impl Error {
    pub fn class(&self) -> Class {
        match self {
            Self::Reference { .. } => Class::Reference,
            Self::NoTags { .. } => Class::NotFound,
            Self::Target(_) | Self::OneLogin { .. } | Self::OneDigest | Self::SameFile => Class::Reference,
            Self::Context(_) | Self::Headers(_) | Self::Engine(_) => Class::Engine,
            Self::Push(error) => match error {
                PushError::Refused(refusal) => refusal.cause.class(),
                PushError::Engine { .. } | PushError::Unconfirmed { .. } => Class::Engine,
                PushError::Exists { .. } => Class::Exists,
                PushError::Unverified { .. } => Class::Unverified,
                PushError::Unverifiable { cause, .. } => cause.class(),
                PushError::TimedOut { .. } => Class::Stalled,
                PushError::Taken { .. } => Class::Other,
                PushError::Nameless { .. } => Class::Reference,
                PushError::NoPlatforms { .. } => Class::Engine,
                PushError::Incomplete { .. } | PushError::Narrowed { .. } => Class::ContentMissing,
                PushError::Login(_) => Class::Auth,
            },
            Self::Login(_) | Self::NoLogin { .. } | Self::LoginRefused { .. } => Class::Auth,
            Self::WebLogin | Self::NoTerminal { .. } => Class::Auth,
            Self::Unchecked { message, .. } => classify(&Evidence::of_text(message, true)).class,
            Self::Registry(error) => error.class(),
            Self::RegistryName { .. } | Self::TagWithLs { .. } => Class::Reference,
            Self::Cancelled(_) => Class::Cancelled,
            Self::PasswordUnreadable(_) | Self::PasswordMissing | Self::PasswordTooLong => Class::Other,
            Self::Config(_) | Self::Output(_) | Self::Hook(_) | Self::Save(_) | Self::File { .. } => {
                Class::Other
            }
        }
    }

    /// The table of `--help` and README; 125 for usage is docker's own.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Cancelled(status) => return *status,
            Self::PasswordUnreadable(_) | Self::PasswordMissing | Self::PasswordTooLong => return 125,
            Self::Context(
                ContextError::Conflict
                | ContextError::Format { .. }
                | ContextError::Ssh { .. }
                | ContextError::NoAddress { .. },
            )
            | Self::Headers(_) => return 125,
            _ => {}
        }
        match self.class() {
            Class::Rejected | Class::Other => 1,
            Class::Auth | Class::Denied => 3,
            Class::Engine => 4,
            Class::NotFound | Class::ContentMissing => 5,
            Class::Network | Class::RateLimited | Class::Server | Class::Tls => 6,
            Class::Stalled => 7,
            Class::Exists => 8,
            Class::Unverified => 9,
            Class::Reference => 125,
            Class::Cancelled => 130,
        }
    }

    /// What to type or look at next.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Reference { reason: ReferenceError::Uppercase { .. }, .. } => {
                "spell the repository in lower case"
            }
            Self::Reference { typed, .. } => {
                return Some(format!(
                    "`{typed}` is not named like `registry.example.com/team/app:tag`, without a scheme"
                ));
            }
            Self::Context(error) => return context_hint(error),
            Self::Headers(_) => "mend or remove that header",
            Self::Hook(HookError::Malformed { .. }) => "mend that file first; docker cannot read it either",
            Self::Hook(HookError::Foreign { .. }) => "take `plugins.regpush.hooks` out of that file",
            Self::NoTags { suggestion: Some(suggestion), repository } => {
                return Some(suggestion_hint(suggestion, repository));
            }
            Self::NoTags { .. } => "see what is here with `docker images`",
            Self::Target(error) => return Some(error.hint()),
            Self::OneLogin { .. } => {
                "push to one at a time, or keep logins with `docker regpush auth --login`"
            }
            Self::OneDigest => "--metadata-file takes several",
            Self::SameFile => "give each its own",
            Self::Push(PushError::Taken { reference, .. }) => {
                return Some(format!(
                    "if that name is not needed any more, `docker rmi {reference}`; else push under another"
                ));
            }
            Self::Push(PushError::Nameless { typed, .. }) => {
                return Some(format!(
                    "name the destination in full: `docker regpush {typed} --to HOST/PATH:TAG`"
                ));
            }
            Self::Push(PushError::NoPlatforms { .. }) => {
                "leave out --platform, or use another engine (`docker -c CONTEXT regpush …`)"
            }
            Self::Push(PushError::Incomplete { .. } | PushError::Narrowed { .. }) => {
                "get the rest of it with `docker pull --platform`, or push what is here without `--platform all`"
            }
            Self::Engine(error) | Self::Push(PushError::Engine { source: error, .. }) => {
                return engine_hint(error);
            }
            Self::Push(PushError::Refused(refusal)) => return refusal_hint(refusal),
            Self::Push(PushError::Unconfirmed { .. }) => "look into the engine's log, and push again",
            Self::Push(PushError::Exists { .. }) => {
                "push another tag; or replace it with `--if-exists update`"
            }
            Self::Push(PushError::Unverified { found, .. }) => match found {
                Found::Another(_) => {
                    "somebody may have pushed to this tag at the same time: see who, and push again"
                }
                Found::Nothing | Found::Incomplete(_) => {
                    "the registry has lost it: look into its log and storage, and push again"
                }
            },
            Self::Push(PushError::Unverifiable { cause, .. }) => return cause_hint(cause),
            Self::Push(PushError::TimedOut { .. }) => {
                "look into the log of the registry; `--timeout` sets another limit"
            }
            Self::Push(PushError::Login(error)) | Self::Login(error) => return login_hint(error),
            Self::Registry(error) => return registry_hint(error),
            Self::RegistryName { .. } => {
                "a registry is named like `registry.example.com` or `localhost:5000`"
            }
            Self::NoLogin { registry, login } => {
                if let Some(hint) = broken_hint(login) {
                    return Some(hint.to_owned());
                }
                return Some(format!(
                    "log in with `{}`, or with `docker regpush auth --login {registry}`",
                    docker_login(registry)
                ));
            }
            Self::LoginRefused { login, .. } if login.source == Source::CommandLine => {
                "check --username, and the password given on stdin"
            }
            Self::LoginRefused { login, .. } if login.source == Source::Variable => SHADOWS,
            Self::LoginRefused { registry, .. } => {
                return Some(format!("log in again with `{}`", docker_login(registry)));
            }
            Self::Unchecked { registry, message } => {
                let hint = classify(&Evidence::of_text(message, true)).hint;
                return Some(hint.replace("{registry}", registry)).filter(|hint| !hint.contains('{'));
            }
            Self::WebLogin => {
                "run `docker login`; with a password or access token: `docker regpush auth --login -u NAME docker.io`"
            }
            Self::NoTerminal { registry } => {
                return Some(format!("give the login with `--login -u NAME --password-stdin {registry}`"));
            }
            Self::TagWithLs { repository } => {
                return Some(format!("leave out the tag: `docker regpush ls {repository}`"));
            }
            Self::Save(error) => return save_hint(error),
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// The message and its causes, on one line.
    pub fn message(&self) -> String {
        with_causes(self)
    }
}

/// What an environment variable does that its owner may have forgotten.
const SHADOWS: &str = "DOCKER_AUTH_CONFIG goes before every `docker login`: change or unset it";

/// What to mend before another login can help.
fn broken_hint(login: &Login) -> Option<&'static str> {
    Some(match login.broken? {
        Broken::Config => {
            "mend config.json first: `docker login` would write it anew, and lose what it cannot read; for one call there is `--username NAME --password-stdin`"
        }
        Broken::Variable => {
            "mend or unset DOCKER_AUTH_CONFIG; for one call there is `--username NAME --password-stdin`"
        }
        Broken::Helper => {
            "see to the credential helper first, which `docker login` uses too; for one call there is `--username NAME --password-stdin`"
        }
        Broken::Entry => return None,
    })
}

/// For the Hub docker needs no name, and with none logs in by the browser.
fn docker_login(registry: &str) -> String {
    if registry == HUB { "docker login".to_owned() } else { format!("docker login {registry}") }
}

fn login_hint(error: &LoginError) -> Option<String> {
    let registry = match error {
        LoginError::Engine(error) => return engine_hint(error),
        LoginError::NothingTyped { registry }
        | LoginError::GivenUp { registry, .. }
        | LoginError::Prompt { registry, .. } => registry,
    };
    Some(format!("check the account, or log in with `{}`", docker_login(registry)))
}

fn save_hint(error: &SaveError) -> Option<String> {
    let hint = match error {
        SaveError::Helper(CredentialsError::HelperMissing { helper, .. }) => {
            return Some(format!(
                "install `docker-credential-{helper}`, or take it out of `credsStore` and `credHelpers`"
            ));
        }
        SaveError::Helper(_) => "see what the helper needs; the login is kept nowhere else",
        SaveError::Config(ConfigError::Unreadable { .. }) => "see who may read that file; nothing was kept",
        SaveError::Config(_) | SaveError::NotEditable { .. } => "mend that file first; nothing was kept",
        SaveError::Unwritable { .. } => "see why that cannot be written; nothing was kept",
    };
    Some(hint.to_owned())
}

fn registry_hint(error: &RegistryError) -> Option<String> {
    let hint = match error {
        RegistryError::Unreachable { .. } => "check its name and port, the network, HTTPS_PROXY and NO_PROXY",
        RegistryError::Tls { registry, directory, problem, .. } => {
            let directory = directory.display();
            let host = if registry == HUB { "registry-1.docker.io" } else { registry };
            return Some(match &**problem {
                TlsProblem::UnknownAuthority { .. } | TlsProblem::Authorities { .. } => {
                    format!("put its CA into `{directory}/ca.crt`, where docker looks for it too")
                }
                TlsProblem::IdentityMissing
                | TlsProblem::Identity { .. }
                | TlsProblem::IdentityRefused { .. }
                | TlsProblem::Refused => {
                    format!(
                        "if it wants a client certificate, put client.cert and client.key into `{directory}/`"
                    )
                }
                TlsProblem::PlainText => format!(
                    "it may speak plain HTTP: then name `{registry}` in `insecure-registries` of the engine's daemon.json"
                ),
                TlsProblem::Expired | TlsProblem::NotYetValid => {
                    "have its certificate renewed, and check the clocks of both machines".to_owned()
                }
                TlsProblem::WrongName { .. } => {
                    "name the registry as its certificate does, or have that renewed for this name".to_owned()
                }
                TlsProblem::Other(_) => {
                    let port = if host.contains(':') { "" } else { ":443" };
                    format!("see what it says: `openssl s_client -connect {host}{port}`")
                }
            });
        }
        RegistryError::Certificates { .. } => "mend or remove that file; docker cannot use it either",
        RegistryError::Unauthorized { login, .. } if login.source == Source::Variable => SHADOWS,
        RegistryError::Unauthorized { login, .. }
            if login.source == Source::CommandLine && login.anonymous =>
        {
            "leave out --anonymous"
        }
        RegistryError::Unauthorized { login, .. } if login.source == Source::CommandLine => {
            "check --username, and the password given on stdin"
        }
        RegistryError::Unauthorized { login, .. } if login.anonymous && broken_hint(login).is_some() => {
            return broken_hint(login).map(str::to_owned);
        }
        RegistryError::Unauthorized { registry, .. } => {
            return Some(format!(
                "log in with `{}`, or pass `--username NAME --password-stdin`",
                docker_login(registry)
            ));
        }
        RegistryError::Denied { registry, login, .. }
        | RegistryError::MayNotWrite { registry, login, .. }
            if login.anonymous =>
        {
            return Some(format!(
                "log in with `{}`, or pass `--username NAME --password-stdin`",
                docker_login(registry)
            ));
        }
        RegistryError::Denied { registry, .. } => {
            return Some(format!(
                "this account may not look there: ask for the right, or use another; it may be shown the tags of one repository: `docker regpush ls {registry}/REPOSITORY`"
            ));
        }
        RegistryError::MayNotWrite { registry, repository, .. } => {
            return Some(format!(
                "this account may not write to {registry}/{repository}: check the name, or log in with another account (`{}`)",
                docker_login(registry)
            ));
        }
        RegistryError::NoRepository { registry, .. } => {
            return Some(format!("see what is there with `docker regpush ls {registry}`"))
                .filter(|_| !is_without_catalog(registry));
        }
        RegistryError::NoCatalog { registry } => {
            let place = match registry.as_str() {
                HUB => "; its repositories are listed at https://hub.docker.com/repositories",
                "ghcr.io" => "; its packages are listed at https://github.com/OWNER?tab=packages",
                _ if is_without_catalog(registry) => {
                    "; its repositories are listed by `aws ecr describe-repositories`"
                }
                _ => "",
            };
            return Some(format!("list the tags of one: `docker regpush ls {registry}/REPOSITORY`{place}"));
        }
        RegistryError::Answered { status, .. } => match status.as_u16() {
            429 => "wait a minute, and ask again",
            500.. => "the registry is in trouble: try again later, or look into its log",
            _ => return None,
        },
        RegistryError::Elsewhere { .. } => "ask from that machine",
        RegistryError::NotARegistry { .. } => "check its name and port",
    };
    Some(hint.to_owned())
}

fn context_hint(error: &ContextError) -> Option<String> {
    let hint = match error {
        ContextError::NotFound { named_by: NamedBy::Variable, .. } => {
            "see `docker context ls`, and change or unset DOCKER_CONTEXT"
        }
        ContextError::NotFound { named_by: NamedBy::Flag, .. } => "see `docker context ls`",
        ContextError::NotFound { named_by: NamedBy::Current, .. } => {
            "see `docker context ls`, and choose another with `docker context use`"
        }
        ContextError::Unreadable { name, .. } | ContextError::NoEndpoint { name, .. } => {
            return Some(format!("make it anew: `docker context rm {name}`, then `docker context create`"));
        }
        ContextError::Format { .. } | ContextError::NoAddress { .. } => {
            "an engine is at unix://PATH, tcp://HOST:PORT or ssh://USER@HOST"
        }
        ContextError::Ssh { .. } => "it is ssh://[USER@]HOST[:PORT][/SOCKET]",
        ContextError::TlsFile { origin: Origin::Context { name, .. }, .. } => {
            return Some(format!(
                "give the context its certificates anew: `docker context update {name} --docker …`"
            ));
        }
        ContextError::TlsFile { .. } => {
            "name it with --tlscacert, --tlscert and --tlskey, or its folder with DOCKER_CERT_PATH; for an engine without TLS unset DOCKER_TLS and DOCKER_TLS_VERIFY"
        }
        ContextError::Conflict => "leave out one of them",
        ContextError::Config(_) => return None,
    };
    Some(hint.to_owned())
}

fn engine_hint(error: &EngineError) -> Option<String> {
    let hint = match error {
        EngineError::Transport(error) => return Some(transport_hint(error)),
        EngineError::Decode(DecodeError::Truncated { .. }) => {
            "the engine may have stopped: look into its log, and push again"
        }
        EngineError::ApiVersion(_) => "set it to a version like 1.41, or unset it",
        EngineError::TooOld { .. } => "update docker on the engine's machine",
        EngineError::Redirected { .. } => {
            "something stands before the engine and wants its users elsewhere: check --host, --context and DOCKER_HOST"
        }
        EngineError::Answered { status, message } => {
            let verdict = classify(&Evidence {
                http_status: Some(status.as_u16()),
                ..Evidence::of_text(message, false)
            });
            if verdict.class == Class::Engine { verdict.hint } else { "look into the engine's log" }
        }
        _ => "check that an engine listens at this endpoint: `docker version`",
    };
    Some(hint.to_owned())
}

fn transport_hint(error: &TransportError) -> String {
    match error {
        TransportError::Unreachable { endpoint, source } => unreachable_hint(endpoint, source),
        TransportError::Proxy { endpoint, .. } => {
            let host = match &endpoint.address {
                Address::Tcp { host, .. } => host,
                _ => "HOST",
            };
            format!("check HTTP_PROXY and HTTPS_PROXY, or go there directly with NO_PROXY={host}")
        }
        TransportError::WantsTls { endpoint } => with_tls_options(
            endpoint,
            "pass --tlsverify with --tlscacert, --tlscert and --tlskey, or set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH",
        ),
        TransportError::Tls { endpoint, problem } => match problem {
            TlsProblem::PlainText => with_tls_options(
                endpoint,
                "leave out --tls and --tlsverify, and unset DOCKER_TLS and DOCKER_TLS_VERIFY",
            ),
            TlsProblem::UnknownAuthority { .. } | TlsProblem::Authorities { .. } => with_tls_options(
                endpoint,
                "name the CA that signed it with --tlscacert, or as ca.pem in DOCKER_CERT_PATH",
            ),
            TlsProblem::IdentityMissing | TlsProblem::Identity { .. } | TlsProblem::IdentityRefused { .. } => {
                with_tls_options(
                    endpoint,
                    "name one that the engine's CA signed with --tlscert and --tlskey, or as cert.pem and key.pem in DOCKER_CERT_PATH",
                )
            }
            TlsProblem::Refused => with_tls_options(
                endpoint,
                "if it wants a client certificate, name that with --tlscert and --tlskey, or put it into DOCKER_CERT_PATH; else see what the engine speaks",
            ),
            TlsProblem::Expired | TlsProblem::NotYetValid => {
                "have the engine's certificate renewed, and check the clocks of both machines".to_owned()
            }
            TlsProblem::WrongName { .. } => {
                "name the engine as its certificate does, or have that renewed for this name".to_owned()
            }
            TlsProblem::Other(_) => "see what it says: `openssl s_client -connect HOST:PORT`".to_owned(),
        },
        TransportError::Tunnel { endpoint, said, .. } => match &endpoint.address {
            Address::Ssh(ssh) => {
                // As ssh-keygen wants it.
                let known = match &ssh.port {
                    Some(port) => format!("'[{}]:{port}'", ssh.host),
                    None => ssh.host.clone(),
                };
                let hint = tunnel_hint(said).replace("{login}", &login(ssh)).replace("{host}", &known);
                hint.replace("{docker}", &remote_docker(ssh))
            }
            _ => "see what `docker version` says with the same options".to_owned(),
        },
        TransportError::Lost { endpoint, source, .. } if source.is_parse() => match &endpoint.address {
            Address::Tcp { .. } if endpoint.tls.is_none() => {
                "what answers there is no engine, or one that wants TLS (--tlsverify, DOCKER_TLS_VERIFY): check --host, --context and DOCKER_HOST".to_owned()
            }
            _ => "what answers there is no engine: check --host, --context and DOCKER_HOST".to_owned(),
        },
        TransportError::Lost { was_heard: true, .. } => {
            "the engine may have stopped: look into its log, and push again".to_owned()
        }
        TransportError::Lost { endpoint, .. } => match &endpoint.address {
            Address::Tcp { .. } if endpoint.tls.is_none() => {
                "what is there hangs up without a word: it may want TLS (--tlsverify, DOCKER_TLS_VERIFY), or is no engine".to_owned()
            }
            _ => "what is there hangs up without a word: is it an engine? See `docker version`".to_owned(),
        },
    }
}

/// A stored context keeps its own TLS: there the options do nothing.
fn with_tls_options(endpoint: &Endpoint, options: &str) -> String {
    match &endpoint.origin {
        Origin::Context { name, .. } => format!(
            "the context keeps its own: `docker context update {name} --docker host={},ca=FILE,cert=FILE,key=FILE`, without the files for no TLS",
            endpoint.address
        ),
        _ => options.to_owned(),
    }
}

fn unreachable_hint(endpoint: &Endpoint, source: &io::Error) -> String {
    const ANOTHER: &str = "or name another with --context or DOCKER_HOST";
    match (&endpoint.address, source.kind()) {
        (Address::Unix(path), io::ErrorKind::PermissionDenied) => {
            let path = path.display();
            format!("you may not open {path}: join its group (often `docker`) and log in again, or use sudo")
        }
        (Address::Unix(_), io::ErrorKind::InvalidInput) => "link the socket to a shorter path".to_owned(),
        (Address::Unix(path), io::ErrorKind::NotFound) => {
            format!(
                "nothing is at {}: start the engine (`systemctl start docker`), {ANOTHER}",
                path.display()
            )
        }
        (Address::Unix(path), _) => {
            format!("no engine listens at {}: start it (`systemctl start docker`), {ANOTHER}", path.display())
        }
        (Address::Tcp { base, .. }, _) if base.ends_with(".sock") => {
            format!("for a socket write unix://{base}")
        }
        (Address::Tcp { .. }, io::ErrorKind::ConnectionRefused) => {
            format!("no engine listens there: start it with this address (dockerd `-H`), {ANOTHER}")
        }
        (Address::Tcp { .. }, _) => format!("check host name, network and firewall, {ANOTHER}"),
        (Address::Ssh(_), io::ErrorKind::NotFound) => "install ssh, of OpenSSH".to_owned(),
        (Address::ThroughDocker { .. }, io::ErrorKind::NotFound) => "install the docker CLI".to_owned(),
        _ => format!("see `docker version`, {ANOTHER}"),
    }
}

/// What may have been meant in place of what is not here.
fn suggestion_hint(suggestion: &Suggestion, wanted: &str) -> String {
    match suggestion {
        Suggestion::Near(names) => format!("did you mean {}?", names.join(" or ")),
        Suggestion::Tag(name) => format!("name it for the registry first: `docker tag {name} {wanted}`"),
    }
}

/// What to do about a question that the registry did not answer; of the engine's words nothing more is known.
fn cause_hint(cause: &Cause) -> Option<String> {
    match cause {
        Cause::Registry(error) => registry_hint(error),
        Cause::Engine { .. } => None,
    }
}

fn refusal_hint(refusal: &Refusal) -> Option<String> {
    let reference = &refusal.reference;
    if let Cause::Registry(error) = &refusal.cause {
        return registry_hint(error);
    }
    if let Some(suggestion) = &refusal.suggestion {
        return Some(suggestion_hint(suggestion, &reference.familiar()));
    }
    let is_refused_login = matches!(refusal.cause.class(), Class::Auth | Class::Denied);
    if let Some(hint) = broken_hint(&refusal.login).filter(|_| refusal.login.anonymous && is_refused_login) {
        return Some(hint.to_owned());
    }
    if refusal.login.source == Source::Variable && refusal.cause.class() == Class::Auth {
        return Some(SHADOWS.to_owned());
    }
    if refusal.login.source == Source::CommandLine && refusal.cause.class() == Class::Auth {
        let hint = if refusal.login.anonymous {
            "leave out --anonymous"
        } else {
            "check --username, and the password given on stdin"
        };
        return Some(hint.to_owned());
    }
    if refusal.cause.class() == Class::NotFound && refusal.is_renamed {
        return Some("see what is here with `docker images`".to_owned());
    }
    if refusal.cause.class() == Class::NotFound && looks_like_id(reference) {
        return Some(format!(
            "that looks like an image ID; name it first: `docker tag {} HOST/PATH:TAG`",
            reference.tag().map_or_else(|| reference.familiar_repository(), |_| reference.familiar())
        ));
    }
    let hint = refusal.cause.verdict().hint;
    let hint = hint.replace("docker login {registry}", &docker_login(reference.domain()));
    let filled = hint.replace("{registry}", reference.domain());
    let filled = filled.replace("{repository}", &reference.familiar_repository());
    Some(filled.replace("{tag}", reference.tag_or_latest()))
}

/// `0bc980ece940` or `sha256:…`, which docker reads as names of the Hub.
fn looks_like_id(reference: &Reference) -> bool {
    let name = reference.familiar_repository();
    let is_hex = |text: &str| text.len() >= 12 && text.bytes().all(|b| b.is_ascii_hexdigit());
    name == "sha256" || (reference.tag().is_none() && is_hex(&name))
}
