//! Requests that make an engine contact a registry, and the engine's settings for registries.

use std::collections::BTreeMap;

use hyper::body::Bytes;
use hyper::{Method, StatusCode, Uri};
use serde::Deserialize;

use crate::credentials::Credentials;
use crate::engine::error::EngineError;
use crate::engine::push::PushRequest;
use crate::engine::{Engine, in_path};
use crate::failure::is_unknown_to_registry;
use crate::net::settings::RegistrySettings;
use crate::oci::{Descriptor, is_digest};
use crate::secret::{Redactor, Secret};
use crate::text::sanitize;

/// The result of a distribution inspect: the manifest that a tag names in a registry, if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DistributionAnswer {
    Names(Descriptor),
    NamesNothing,
    /// The engine got no response from the registry, or does not support the request. `message`: the engine's
    /// reason, not sanitized.
    NotAsked {
        message: Option<String>,
    },
}

/// The result of checking credentials with `POST /auth`.
#[derive(Debug)]
pub enum AuthAnswer {
    /// The registry accepted the credentials. `identity_token`: a token from the registry, to use instead of
    /// the password.
    Accepted { identity_token: Option<Secret> },
    /// The registry refused the credentials, or the engine could not check them. `message`: the engine's
    /// reason, not sanitized.
    Refused { message: String },
}

/// Facts about the machine on which an engine runs.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EngineHost {
    /// Such as `Debian GNU/Linux 12 (bookworm)`, or `Docker Desktop`.
    pub operating_system: String,
    name: String,
    security_options: Option<Vec<String>>,
    #[serde(skip)]
    pub is_rootless: bool,
}

impl EngineHost {
    /// Returns whether the engine runs in the virtual machine of a desktop program, by the names that these programs use.
    pub fn is_virtual(&self) -> bool {
        const NAMES: [&str; 6] =
            ["docker desktop", "docker-desktop", "colima", "lima-", "rancher-desktop", "orbstack"];
        let text = format!("{} {}", self.operating_system, self.name).to_lowercase();
        NAMES.iter().any(|name| text.contains(name))
    }
}

fn is_rootless(security_options: Option<&[String]>) -> bool {
    security_options.unwrap_or_default().iter().any(|option| option == "name=rootless")
}

/// Returns the `host[:port]` of a proxy, without the scheme, the user and the password. `None` if the URL is not valid.
fn place_of(proxy: &str) -> Option<String> {
    let url: Uri = proxy.parse().ok()?;
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    Some(sanitize(&format!("{}{port}", url.host()?)))
}

impl Engine {
    /// Makes the engine ask the registry which manifest a tag names (distribution inspect).
    ///
    /// # Errors
    /// The engine cannot be reached.
    ///
    /// Source: Docker Engine API 1.30, `GET /distribution/{name}/json`; podman does not support this request.
    pub async fn distribution_inspect(
        &mut self,
        request: &PushRequest<'_>,
    ) -> Result<DistributionAnswer, EngineError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(rename = "Descriptor")]
            descriptor: Named,
        }
        #[derive(Deserialize)]
        struct Named {
            digest: String,
            size: u64,
        }
        let path = format!("{}/distribution/{}/json", self.prefix, in_path(&request.reference.canonical()));
        let header = self.sending(request);
        match self.ask::<Answer>(&path, Some(&header)).await {
            Ok(Some(Answer { descriptor: Named { digest, size } })) if is_digest(&digest) => {
                Ok(DistributionAnswer::Names(Descriptor::new(digest, size)))
            }
            Ok(_) => Ok(DistributionAnswer::NotAsked { message: None }),
            Err(EngineError::Answered { status: StatusCode::NOT_FOUND, message }) => {
                Ok(if is_unknown_to_registry(&message) {
                    DistributionAnswer::NamesNothing
                } else {
                    DistributionAnswer::NotAsked { message: None }
                })
            }
            Err(EngineError::Answered { message, .. }) => {
                Ok(DistributionAnswer::NotAsked { message: Some(message) })
            }
            Err(error @ (EngineError::Transport(_) | EngineError::Silent { .. })) => Err(error),
            // A proxy in front of the engine may block this request and return an HTML page.
            Err(_) => Ok(DistributionAnswer::NotAsked { message: None }),
        }
    }

    /// Makes the engine check credentials at a registry, without a push. The engine receives the request only
    /// once.
    ///
    /// # Errors
    /// The engine cannot be reached. A refusal by the registry is not an error, but [`AuthAnswer::Refused`].
    ///
    /// Source: Docker Engine API 1.24, `POST /auth`. For a wrong password, the engine answers 500 if the
    /// registry uses Basic authentication, and 401 if the registry uses tokens.
    pub async fn registry_login(
        &mut self,
        credentials: &Credentials,
        server: &str,
    ) -> Result<AuthAnswer, EngineError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(rename = "IdentityToken", default)]
            identity_token: String,
        }
        self.redactor = Redactor::new(credentials.secrets());
        let body = Bytes::from(credentials.auth_config(server).expose().to_owned());
        let path = format!("{}/auth", self.prefix);
        let response = self.call(Method::POST, &path, None, body).await?;
        if !response.status().is_success() {
            return match self.refusal(response).await {
                EngineError::Answered { message, .. } => Ok(AuthAnswer::Refused { message }),
                error => Err(error),
            };
        }
        let body = self.whole(response).await?;
        // podman answers 204 without a body, or 200 with a body in podman's own format.
        let token =
            serde_json::from_slice::<Answer>(&body).map(|answer| answer.identity_token).unwrap_or_default();
        Ok(AuthAnswer::Accepted { identity_token: Some(token).filter(|t| !t.is_empty()).map(Secret::new) })
    }

    /// Returns facts about the machine on which the engine runs.
    ///
    /// # Errors
    /// The engine cannot be reached, or refuses the request.
    ///
    /// Source: Docker Engine API 1.24, `GET /info`.
    pub async fn host(&mut self) -> Result<EngineHost, EngineError> {
        let mut host: EngineHost =
            self.ask(&format!("{}/info", self.prefix), None).await?.unwrap_or_default();
        host.is_rootless = is_rootless(host.security_options.as_deref());
        Ok(host)
    }

    /// Returns the engine's settings for registries, or the defaults if the engine reports no settings.
    ///
    /// # Errors
    /// The engine cannot be reached.
    ///
    /// Source: Docker Engine API 1.24, `GET /info`.
    pub async fn registry_settings(&mut self) -> Result<RegistrySettings, EngineError> {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "PascalCase", default)]
        struct Info {
            registry_config: Option<RegistryConfig>,
            security_options: Option<Vec<String>>,
            http_proxy: String,
            https_proxy: String,
            no_proxy: String,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct RegistryConfig {
            #[serde(rename = "IndexConfigs")]
            registries: Option<BTreeMap<String, Index>>,
            #[serde(rename = "InsecureRegistryCIDRs")]
            networks: Option<Vec<String>>,
        }
        #[derive(Deserialize)]
        struct Index {
            #[serde(rename = "Secure", default)]
            secure: bool,
        }
        let info: Info = match self.ask(&format!("{}/info", self.prefix), None).await {
            Ok(info) => info.unwrap_or_default(),
            Err(error @ (EngineError::Transport(_) | EngineError::Silent { .. })) => return Err(error),
            // The engine does not support `GET /info`, or does not allow `GET /info`.
            Err(_) => Info::default(),
        };
        let config = info.registry_config.unwrap_or_default();
        let registries = config.registries.unwrap_or_default().into_iter();
        let networks = config.networks.unwrap_or_default();
        // docker lists at least the settings for Docker Hub. Before 29.10, it always lists the loopback addresses, and
        // since then only if its configuration does (moby#53868). podman lists the registries of its `registries.conf`,
        // and never a network. To allow plain HTTP to a registry on podman's machine, a push request has
        // `tlsVerify=false`.
        let lists_settings = registries.len() > 0 || !networks.is_empty();
        let decides_about_loopback = lists_settings && self.is_podman != Some(true);
        Ok(RegistrySettings {
            decides_about_loopback,
            secure: registries.map(|(name, index)| (name, index.secure)).collect(),
            insecure_networks: networks.iter().filter_map(|network| network.parse().ok()).collect(),
            is_rootless: is_rootless(info.security_options.as_deref()),
            proxy: [info.https_proxy, info.http_proxy]
                .into_iter()
                .find(|proxy| !proxy.is_empty())
                .and_then(|proxy| place_of(&proxy)),
            no_proxy: info.no_proxy,
        })
    }
}
