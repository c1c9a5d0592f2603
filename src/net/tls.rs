//! Configures TLS for engines and registries: trusted CAs and client certificates. Also describes TLS errors.
//!
//! Source: docker/cli `cli/context/docker/load.go` for engines: TLS 1.2 or later, and a configured CA
//! replaces the CAs of the system. moby `registry/registry.go` for registries: a configured CA is trusted in
//! addition to the CAs of the system.

use std::error::Error as StdError;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::{fmt, io};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, InvalidMessage,
    OtherError, RootCertStore, SignatureScheme,
};

use crate::secret::Secret;

/// The TLS settings for an engine or a registry.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// The configured CAs, in PEM; `None` to trust the CAs of the system.
    pub authorities: Option<Pem>,
    /// Whether to trust the CAs of the system in addition to `authorities`. `true` for registries, `false`
    /// for engines.
    pub with_system: bool,
    pub identity: Option<Identity>,
    /// Whether to accept any server certificate.
    pub skip_verify: bool,
}

impl Tls {
    /// Adds configured CAs. Messages name the file that was added last.
    pub fn add_authorities(&mut self, pem: Pem) {
        self.authorities = Some(match self.authorities.take() {
            None => pem,
            Some(before) => {
                let text = Secret::new(format!("{}\n{}", before.text.expose(), pem.text.expose()));
                Pem { path: pem.path, text }
            }
        });
    }
}

/// A client certificate with its key.
#[derive(Clone, Debug)]
pub struct Identity {
    pub certificate: Pem,
    pub key: Pem,
}

/// A PEM file and its content.
#[derive(Clone)]
pub struct Pem {
    pub path: PathBuf,
    pub text: Secret,
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pem({})", self.path.display())
    }
}

/// The reason why a TLS connection failed.
#[derive(Debug, thiserror::Error)]
pub enum TlsProblem {
    #[error("`{}` contains no CA certificate", path.display())]
    Authorities { path: PathBuf },
    #[error("the client certificate `{}` with the key `{}` is not usable: {reason}", certificate.display(), key.display())]
    Identity { certificate: PathBuf, key: PathBuf, reason: String },
    #[error("the server does not speak TLS")]
    PlainText,
    #[error("its certificate is not signed by {}", authorities.as_ref().map_or("a CA that this system trusts".to_owned(), |path| format!("the CA in `{}`", path.display())))]
    UnknownAuthority { authorities: Option<PathBuf> },
    #[error("cannot find CA certificates on this system")]
    NoSystemAuthorities,
    #[error("its certificate has expired")]
    Expired,
    #[error("its certificate is not valid yet; check the clock")]
    NotYetValid,
    #[error("its certificate is not for `{host}`{}", if names.is_empty() { String::new() } else { format!(", but for {}", names.join(", ")) })]
    WrongName { host: String, names: Vec<String> },
    #[error("it requires a client certificate, and none is configured")]
    IdentityMissing,
    #[error("it does not accept the client certificate `{}`: {reason}", certificate.display())]
    IdentityRefused { certificate: PathBuf, reason: &'static str },
    #[error(
        "it refused the handshake: there is no common TLS version or cipher, or it requires a client certificate"
    )]
    Refused,
    #[error("{0}")]
    Other(String),
}

/// Returns the TLS error of rustls among the causes of `error`, if there is one.
pub fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    cause(error)
}

impl TlsProblem {
    pub fn of(error: &Error, tls: &Tls) -> Self {
        let authorities = tls.authorities.as_ref().map(|pem| pem.path.clone());
        match error {
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::PlainText,
            error if is_of_another(error) => Self::UnknownAuthority { authorities },
            Error::Other(OtherError(error))
                if matches!(error.downcast_ref(), Some(Self::NoSystemAuthorities)) =>
            {
                Self::NoSystemAuthorities
            }
            Error::InvalidCertificate(error) => match error {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    Self::NotYetValid
                }
                CertificateError::NotValidForNameContext { expected, presented } => {
                    Self::WrongName { host: expected.to_str().into_owned(), names: names(presented) }
                }
                error => Self::Other(format!("its certificate is not valid: {error}")),
            },
            Error::AlertReceived(alert) => Self::of_alert(*alert, tls),
            error => Self::Other(error.to_string()),
        }
    }

    /// Returns the problem that a TLS alert from the server reports (RFC 8446, 6.2). Most alerts are about a
    /// rejected or missing client certificate.
    fn of_alert(alert: AlertDescription, tls: &Tls) -> Self {
        use AlertDescription as Alert;
        let reason = match alert {
            Alert::CertificateExpired => "it has expired",
            Alert::UnknownCA => "the server does not trust its CA",
            Alert::BadCertificate
            | Alert::CertificateRequired
            | Alert::CertificateUnknown
            | Alert::UnsupportedCertificate
            | Alert::AccessDenied => "the server does not accept it for clients",
            Alert::HandshakeFailure | Alert::ProtocolVersion => return Self::Refused,
            alert => return Self::Other(format!("the server ended the handshake: {alert:?}")),
        };
        match &tls.identity {
            Some(identity) => {
                Self::IdentityRefused { certificate: identity.certificate.path.clone(), reason }
            }
            None => Self::IdentityMissing,
        }
    }
}

/// Extracts the host names from the form that rustls reports, such as `DnsName("x")` and
/// `IpAddress(127.0.0.1)`.
fn names(presented: &[String]) -> Vec<String> {
    let inner = |name: &String| {
        let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
        inner.trim_matches('"').to_owned()
    };
    presented.iter().map(inner).collect()
}

/// Returns the rustls configuration for TLS settings.
///
/// # Errors
/// A certificate or key cannot be used.
pub fn config(tls: &Tls) -> Result<ClientConfig, TlsProblem> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let other = |error: Error| TlsProblem::Other(error.to_string());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(other)?;
    // Like docker, reject a CA file without certificates even if `skip_verify` is set.
    let named = tls.authorities.as_ref().map(|pem| Named::new(pem, &provider)).transpose()?;
    let trust = match named {
        _ if tls.skip_verify => Trust::All,
        Some(named) if !tls.with_system => Trust::Named(named),
        named => Trust::System(named),
    };
    let verifier = Arc::new(Verifier { trust, provider });
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let Some(identity) = &tls.identity else { return Ok(builder.with_no_client_auth()) };
    let unusable = |reason: String| TlsProblem::Identity {
        certificate: identity.certificate.path.clone(),
        key: identity.key.path.clone(),
        reason,
    };
    let (certificates, key) = read_identity(identity).map_err(unusable)?;
    builder.with_client_auth_cert(certificates, key).map_err(|error| unusable(error.to_string()))
}

fn certificates(pem: &Pem) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.text.expose().as_bytes()).filter_map(Result::ok).collect()
}

fn read_identity(
    identity: &Identity,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let text = identity.key.text.expose();
    // docker prints the same message. docker 23.0 removed support for encrypted keys.
    if text.contains("Proc-Type: 4,ENCRYPTED") || text.contains("BEGIN ENCRYPTED PRIVATE KEY") {
        return Err(
            "private key is encrypted - support for encrypted private keys has been removed".to_owned()
        );
    }
    let certificates = certificates(&identity.certificate);
    if certificates.is_empty() {
        return Err("no certificate found".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| "no valid private key found")?;
    Ok((certificates, key))
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

/// The CAs that may sign a server's certificate.
#[derive(Debug)]
enum Trust {
    /// Only the CAs in the configured file.
    Named(Named),
    /// The CAs of the system, and the CAs in the configured file if there is one.
    System(Option<Named>),
    /// Accepts any certificate, for a context with `SkipTLSVerify` or an insecure registry.
    All,
}

#[derive(Debug)]
struct Named {
    certificates: Vec<CertificateDer<'static>>,
    inner: Arc<WebPkiServerVerifier>,
}

impl Named {
    fn new(pem: &Pem, provider: &Arc<CryptoProvider>) -> Result<Self, TlsProblem> {
        let certificates = certificates(pem);
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        match inner.build() {
            Ok(inner) => Ok(Self { certificates, inner }),
            Err(_) => Err(TlsProblem::Authorities { path: pem.path.clone() }),
        }
    }

    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp, now);
        match verified {
            // Accept a self-signed server certificate that is also a configured CA, as Go does. rustls
            // rejects this certificate (rustls/webpki#205).
            Err(Error::InvalidCertificate(CertificateError::Other(OtherError(reason))))
                if is_ca_as_end_entity(&*reason)
                    && self.certificates.iter().any(|known| known == end_entity) =>
            {
                let parsed = rustls::server::ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_name(&parsed, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }
}

/// The first part of a hint after [`TlsProblem::NoSystemAuthorities`].
pub const FIND_SYSTEM_AUTHORITIES: &str =
    "install the package ca-certificates, correct SSL_CERT_FILE and SSL_CERT_DIR if they are set";

/// Returns the verifier with the CAs of the system, which all connections share. Reads the CAs at the first call only, because
/// on Linux they are more than a hundred files.
///
/// # Errors
/// The system has no CAs ([`TlsProblem::NoSystemAuthorities`]).
fn system_verifier(
    provider: &Arc<CryptoProvider>,
) -> Result<&'static rustls_platform_verifier::Verifier, Error> {
    static VERIFIER: OnceLock<Option<rustls_platform_verifier::Verifier>> = OnceLock::new();
    let verifier =
        VERIFIER.get_or_init(|| rustls_platform_verifier::Verifier::new(Arc::clone(provider)).ok());
    verifier.as_ref().ok_or_else(|| Error::Other(OtherError(Arc::new(TlsProblem::NoSystemAuthorities))))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let named = match &self.trust {
            Trust::All => return Ok(ServerCertVerified::assertion()),
            Trust::Named(named) => return named.verify(end_entity, intermediates, server_name, ocsp, now),
            Trust::System(named) => named.as_ref(),
        };
        let by_named = named.map(|named| named.verify(end_entity, intermediates, server_name, ocsp, now));
        let refusal = match by_named {
            Some(Err(error)) if is_of_another(&error) => Some(error),
            // A configured CA signed the certificate, so the CAs of the system are not tried, even if the certificate is invalid.
            Some(verified) => return verified,
            None => None,
        };
        // If the system has no CAs, only the configured CAs count.
        let system = system_verifier(&self.provider).map_err(|missing| refusal.unwrap_or(missing))?;
        system.verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Returns whether the error means that none of the checked CAs signed the certificate.
fn is_of_another(error: &Error) -> bool {
    use CertificateError::{BadSignature, UnknownIssuer};
    match error {
        Error::InvalidCertificate(UnknownIssuer | BadSignature) => true,
        // The server's certificate is self-signed, and is not one of the configured CAs.
        Error::InvalidCertificate(CertificateError::Other(OtherError(reason))) => {
            is_ca_as_end_entity(&**reason)
        }
        _ => false,
    }
}

/// Returns whether the error is webpki's `CaUsedAsEndEntity`. Compares the message, because rustls does not
/// export the type of this error.
fn is_ca_as_end_entity(reason: &(dyn StdError + Send + Sync + 'static)) -> bool {
    reason.to_string().contains("CaUsedAsEndEntity")
}

/// Returns the first error of type `T` among `error` and its causes. Also checks the error inside an
/// `io::Error`, because `io::Error::source` skips this inner error.
pub fn cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = wrapped.map(|wrapped| wrapped as &(dyn StdError + 'static)).or_else(|| error.source());
    }
    None
}
