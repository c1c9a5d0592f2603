//! Determines how to connect to a registry: TLS settings, certificates and credentials.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, io};

use crate::credentials::Credentials;
use crate::credentials::login::Login;
use crate::net::settings::RegistrySettings;
use crate::net::tls::{Identity, Pem, Tls};
use crate::net::{Trace, is_on_loopback, proxy};
use crate::registry::error::RegistryError;
use crate::secret::Secret;

/// The settings of one call for connections to registries and their token servers. They take precedence over the engine's
/// settings.
#[derive(Clone, Debug, Default)]
pub struct ConnectionOptions {
    /// CAs to trust in addition to those of the system and of the certificates directory.
    pub authorities: Option<Pem>,
    /// The client certificate, instead of one in the certificates directory.
    pub identity: Option<Identity>,
    /// Whether to require a valid certificate.
    pub verify: Option<bool>,
    pub plain_http: bool,
}

impl ConnectionOptions {
    /// Returns whether at least one setting is given, so that the engine may not be able to connect to the registries.
    pub fn is_set(&self) -> bool {
        self.authorities.is_some() || self.identity.is_some() || self.verify.is_some() || self.plain_http
    }
}

/// The scheme of a registry's URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Https,
    /// HTTPS, or HTTP if HTTPS fails.
    HttpsOrHttp,
    Http,
}

/// The settings and credentials for connections to a registry.
#[derive(Clone, Debug)]
pub struct Access {
    /// The directory `/etc/docker/certs.d/HOST:PORT`, with CAs (`*.crt`), client certificates (`*.cert`) and
    /// keys (`*.key`).
    pub certificates: PathBuf,
    pub credentials: Credentials,
    /// The username and the source of the credentials, for error messages.
    pub login: Login,
    pub trace: Option<Trace>,
    pub(super) tls: Tls,
    pub(super) scheme: Scheme,
    /// Whether the token server may use plain HTTP too.
    pub(super) allows_plain_token_server: bool,
    /// Whether `tls.skip_verify` is for the token server, and other servers of the registry, too.
    pub(super) skips_verify_elsewhere: bool,
    /// Whether the plugin connects to the registry through a proxy.
    pub(super) is_proxied: bool,
    /// The addresses of the registry's host, looked up once for all connections. Empty if the lookup failed, or if a proxy
    /// looks them up.
    pub(super) addresses: Vec<SocketAddr>,
}

impl Access {
    /// Determines how to connect to a registry, by the same rules and settings as the engine.
    ///
    /// * `options`: take precedence over the engine's settings.
    /// * `warn`: called with a message about each certificate file that this user cannot read.
    ///
    /// # Errors
    /// [`RegistryError::Certificates`] if a certificate file cannot be used.
    pub async fn new(
        domain: &str,
        settings: &RegistrySettings,
        options: &ConnectionOptions,
        credentials: Credentials,
        login: Login,
        trace: Option<Trace>,
        warn: impl FnMut(&str),
    ) -> Result<Self, RegistryError> {
        let certificates = certificates_directory(settings.is_rootless).join(domain);
        let is_proxied = is_behind_proxy(domain);
        let needs_addresses = !is_proxied || settings.depends_on_addresses();
        let mut addresses = if needs_addresses { addresses(domain).await } else { Vec::new() };
        let ips: Vec<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
        if is_proxied {
            addresses.clear();
        }
        let is_insecure = options.verify != Some(true) && settings.is_insecure(domain, &ips);
        let scheme = match is_insecure {
            _ if options.plain_http => Scheme::Http,
            true => Scheme::HttpsOrHttp,
            false => Scheme::Https,
        };
        let mut tls = tls(domain, &certificates, warn)?;
        tls.skip_verify = options.verify.map_or(is_insecure, |verify| !verify);
        if let Some(pem) = &options.authorities {
            tls.add_authorities(pem.clone());
        }
        if let Some(identity) = &options.identity {
            tls.identity = Some(identity.clone());
        }
        // The engine allows plain HTTP and any certificate for registries on loopback addresses without a setting. This is
        // not meant for other servers.
        let is_meant = is_insecure && !is_on_loopback(domain);
        Ok(Self {
            certificates,
            credentials,
            login,
            trace,
            tls,
            scheme,
            allows_plain_token_server: options.plain_http || is_meant,
            skips_verify_elsewhere: options.verify == Some(false) || is_meant,
            is_proxied,
            addresses,
        })
    }
}

/// Returns whether the plugin connects to a registry through a proxy. The proxy then looks up the registry's host, which may
/// be unknown here.
fn is_behind_proxy(domain: &str) -> bool {
    ["https", "http"].iter().any(|scheme| {
        format!("{scheme}://{domain}/").parse().is_ok_and(|url| !matches!(proxy::setting(&url), Ok(None)))
    })
}

/// Returns whether the settings of an engine before docker 29 may differ from the defaults for a registry. For these
/// engines a registry on a loopback address is always insecure, so its settings can differ only in the certificates
/// directory of a rootless engine.
///
/// Source: moby `registry/config.go` (`loadInsecureRegistries`).
pub fn is_special(domain: &str) -> bool {
    !is_on_loopback(domain) || certificates_directory(true).join(domain).exists()
}

/// Returns the directory in which the engine looks for certificates of registries.
///
/// Source: moby `registry/config_unix.go` (`CertsDir`).
fn certificates_directory(is_rootless: bool) -> PathBuf {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let own = || variable("XDG_CONFIG_HOME").or_else(|| env::home_dir().map(|home| home.join(".config")));
    match is_rootless.then(own).flatten() {
        Some(own) => own.join("docker/certs.d"),
        None => PathBuf::from("/etc/docker/certs.d"),
    }
}

/// Reads the CAs and the client certificate for a registry, like moby's `ReadCertsDirectory`. The returned
/// settings require a valid certificate from the registry.
pub fn tls(registry: &str, directory: &Path, mut warn: impl FnMut(&str)) -> Result<Tls, RegistryError> {
    let broken = |reason: String| RegistryError::Certificates { registry: registry.to_owned(), reason };
    let unreadable = |path: &Path, error: io::Error| broken(format!("`{}`: {error}", path.display()));
    // Skip a file that only root can read: the engine uses this file, but the plugin may not need it.
    let mut skip = |path: &Path| warn(&format!("skipping `{}`: this user cannot read it", path.display()));
    let mut files = match fs::read_dir(directory) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect::<Vec<_>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            skip(directory);
            Vec::new()
        }
        Err(error) => return Err(unreadable(directory, error)),
    };
    files.sort();
    let mut read = |path: &Path| match fs::read_to_string(path) {
        Ok(text) => Ok(Some(Pem { path: path.to_owned(), text: Secret::new(text) })),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            skip(path);
            Ok(None)
        }
        Err(error) => Err(unreadable(path, error)),
    };
    let mut tls = Tls { with_system: true, ..Tls::default() };
    for path in &files {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => {
                let Some(pem) = read(path)? else { continue };
                tls.add_authorities(pem);
            }
            Some("cert") => {
                let key = path.with_extension("key");
                if !key.exists() {
                    // docker's message for a missing key.
                    return Err(broken(format!(
                        "missing key `{}` for client certificate `{}`; CA certificates must use the extension .crt",
                        key.display(),
                        path.display()
                    )));
                }
                if let (Some(certificate), Some(key)) = (read(path)?, read(&key)?) {
                    tls.identity = Some(Identity { certificate, key });
                }
            }
            Some("key") if !path.with_extension("cert").exists() => {
                return Err(broken(format!(
                    "there is no client certificate for the key `{}`",
                    path.display()
                )));
            }
            _ => {}
        }
    }
    Ok(tls)
}

/// Looks up the addresses of a registry's host. Returns no addresses if the lookup fails or takes more
/// than 5 s.
async fn addresses(domain: &str) -> Vec<SocketAddr> {
    const TIMEOUT: Duration = Duration::from_secs(5);
    let has_port =
        domain.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let place = if has_port { domain.to_owned() } else { format!("{domain}:443") };
    match tokio::time::timeout(TIMEOUT, tokio::net::lookup_host(place)).await {
        Ok(Ok(found)) => found.collect(),
        _ => Vec::new(),
    }
}
