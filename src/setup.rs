//! Sets up the credentials, engine, registry and terminal for a command, from the options of the command.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::cli::{ConnectionArgs, CredentialArgs, DockerOptions};
use crate::credentials::command::{Given, MAX_PASSWORD, PasswordCommand};
use crate::credentials::keyring::Keyring;
use crate::credentials::login::Login;
use crate::credentials::prompt::Terminal;
use crate::credentials::{Credentials, buildx};
use crate::docker::config::{self, Config};
use crate::docker::context::{Choice, Endpoint, TlsChoice};
use crate::docker::headers;
use crate::engine::Engine;
use crate::error::Error;
use crate::net::settings::RegistrySettings;
use crate::net::tls::{self, Identity, Pem, Tls};
use crate::net::{Trace, is_on_loopback};
use crate::print::{tell, warn};
use crate::registry::Registry;
use crate::registry::access::{Access, ConnectionOptions};
use crate::secret::Secret;
use crate::text::{with_causes, without_line_end};

/// Timeout of a credential helper if no terminal is available for prompts of the helper.
const UNATTENDED_HELPER: Duration = Duration::from_secs(30);

/// Returns the keyring with all sources of credentials, and the terminal for prompts if there is one.
///
/// * `warn`: receives the error message if config.json cannot be read.
pub fn keyring(
    docker: &DockerOptions,
    given: Option<Given>,
    variable: Option<Secret>,
    mut warn: impl FnMut(String),
) -> Result<(Keyring, Option<Terminal>), Error> {
    let directory = config::directory(docker.config.as_deref())?;
    let (config, config_problem, config_hint) = match Config::load(&directory) {
        Ok(config) => (config, None, None),
        Err(error) => {
            let problem = with_causes(&error);
            warn(problem.clone());
            (Config::empty(&directory), Some(problem), error.hint())
        }
    };
    let terminal = Terminal::find();
    let helper_timeout = terminal.is_none().then_some(UNATTENDED_HELPER);
    let buildx = buildx::directory(&directory);
    Ok((Keyring { given, variable, buildx, config, config_problem, config_hint, helper_timeout }, terminal))
}

/// Connects to the engine that docker's options and config.json select.
pub async fn engine(docker: &DockerOptions, config: &Config) -> Result<Engine, Error> {
    let endpoint = Endpoint::resolve(&choice(docker), config)?;
    let headers = headers::custom(config)?;
    Ok(Engine::connect(endpoint, headers, trace(docker)).await?)
}

/// Reads the files of the options for connections to registries.
///
/// # Errors
/// A file cannot be read, or cannot be used.
pub fn connection(args: &ConnectionArgs) -> Result<ConnectionOptions, Error> {
    let read = |name: &'static str, path: &Path| {
        let file = || format!("{name} `{}`", path.display());
        let text = fs::read_to_string(path)
            .map_err(|error| Error::ConnectionFile { reason: format!("cannot read {}: {error}", file()) })?;
        Ok::<_, Error>(Pem { path: path.to_owned(), text: Secret::new(text) })
    };
    let authorities = args.ca_file.as_deref().map(|path| read("--ca-file", path)).transpose()?;
    let identity = match (&args.cert_file, &args.key_file) {
        (Some(certificate), Some(key)) => {
            Some(Identity { certificate: read("--cert-file", certificate)?, key: read("--key-file", key)? })
        }
        _ => None,
    };
    let check = |name: &str, tls: Tls| match tls::config(&tls) {
        Ok(_) => Ok(()),
        Err(problem) => Err(Error::ConnectionFile { reason: format!("cannot use {name}: {problem}") }),
    };
    if authorities.is_some() {
        check("--ca-file", Tls { authorities: authorities.clone(), ..Tls::default() })?;
    }
    check("--cert-file", Tls { identity: identity.clone(), ..Tls::default() })?;
    Ok(ConnectionOptions { authorities, identity, verify: args.tls_verify, plain_http: args.plain_http })
}

/// Connects to a registry, with the engine's settings for registries. Without an engine, uses docker's default
/// settings.
pub async fn registry(
    docker: &DockerOptions,
    connection: &ConnectionOptions,
    engine: Option<&mut Engine>,
    domain: &str,
    credentials: Credentials,
    login: Login,
) -> Result<Registry, Error> {
    let settings = match engine {
        Some(engine) => {
            let endpoint = engine.endpoint();
            if is_on_loopback(domain) && !endpoint.address.is_here() {
                warn(&format!("the engine is at {endpoint}, but {domain} is looked up on this machine"));
            }
            engine.registry_settings().await?
        }
        None => RegistrySettings::default(),
    };
    let access = Access::new(domain, &settings, connection, credentials, login, trace(docker), warn).await?;
    Ok(Registry::connect(domain, access, Arc::default()).await?)
}

/// Returns the values of docker's options and environment variables that select an engine.
pub fn choice(docker: &DockerOptions) -> Choice {
    let choice = Choice {
        host: docker.hosts.first().cloned(),
        context: docker.context.clone(),
        tls: TlsChoice {
            on: docker.tls,
            verify: docker.tlsverify,
            authorities: docker.tlscacert.clone(),
            certificate: docker.tlscert.clone(),
            key: docker.tlskey.clone(),
            ..TlsChoice::default()
        },
        docker_arguments: docker.arguments(),
        ..Choice::default()
    };
    choice.with_environment()
}

/// Returns the credentials of `--username` with `--password-stdin` or `--password-command`, or empty credentials for
/// `--anonymous`; `None` without these options. Reads the password of `--password-stdin` from stdin.
///
/// # Errors
/// The password on stdin is missing, unreadable or too long.
pub fn given_login(options: &CredentialArgs) -> Result<Option<Given>, Error> {
    if options.anonymous {
        return Ok(Some(Given::Ready(Credentials::anonymous())));
    }
    let CredentialArgs { username: Some(username), password_stdin, password_command, .. } = options else {
        return Ok(None);
    };
    let username = username.clone();
    Ok(match password_command {
        Some(line) => Some(Given::Command(PasswordCommand { username, line: Secret::new(line.clone()) })),
        None if *password_stdin => Some(Given::Ready(Credentials::basic(username, password_from_stdin()?))),
        None => None,
    })
}

fn password_from_stdin() -> Result<Secret, Error> {
    let mut text = String::new();
    let read = io::stdin().take(MAX_PASSWORD as u64 + 1).read_to_string(&mut text);
    let text = Secret::new(text);
    if read.map_err(Error::PasswordUnreadable)? > MAX_PASSWORD {
        return Err(Error::PasswordTooLong);
    }
    let password = without_line_end(text.expose());
    if password.is_empty() {
        return Err(Error::PasswordMissing);
    }
    Ok(Secret::new(password.to_owned()))
}

/// Returns the function that prints HTTP requests for `--debug`; `None` without `--debug`.
pub fn trace(docker: &DockerOptions) -> Option<Trace> {
    docker.is_debug().then_some(|line| tell(&format!("debug: {line}")))
}
