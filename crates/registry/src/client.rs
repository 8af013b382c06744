//! The client: what is configured, and what is remembered between requests.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use image::Reference;
use url::Url;

use crate::auth::Grants;
use crate::credentials::Credentials;
use crate::endpoint::endpoints;
use crate::error::RegistryError;
use crate::repository::Repository;
use crate::retry::RetryPolicy;
use crate::transport::Transport;

/// How registries are talked to.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Registries that need more than their name, by their name in references, such as
    /// `registry.k8s.io`.
    pub registries: BTreeMap<String, RegistrySettings>,
    /// A transfer fails that waits so long for the network while less than 16 KiB arrive.
    pub stall: Duration,
    /// Files in the format of Docker's `config.json`; the first that knows a registry counts.
    pub credential_files: Vec<PathBuf>,
    /// The header `User-Agent`.
    pub user_agent: String,
    /// How often a request is repeated.
    pub retry: RetryPolicy,
    /// How long a mirror that cannot be reached is left alone.
    pub mirror_pause: Duration,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            registries: BTreeMap::new(),
            stall: Duration::from_secs(60),
            credential_files: Vec::new(),
            user_agent: "usnea".to_owned(),
            retry: RetryPolicy::default(),
            mirror_pause: Duration::from_secs(60),
        }
    }
}

/// One registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistrySettings {
    /// Base URLs of servers that are asked first, in order. A mirror with settings of its own,
    /// by host and port, has its certificate authorities and token servers from there.
    pub mirrors: Vec<Url>,
    /// Certificate authorities in PEM, beside the system's.
    pub ca_files: Vec<PathBuf>,
    /// The registry speaks http.
    pub plain_http: bool,
    /// Other hosts that credentials for this registry may be sent to, to get a token.
    pub auth_hosts: Vec<String>,
}

/// Talks to registries; clones share connections and tokens.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: ClientConfig,
    pub(crate) transport: Transport,
    pub(crate) grants: Grants,
    /// Mirrors that could not be reached, until they are asked again.
    absent: Mutex<HashMap<String, Instant>>,
    /// The schemes that endpoints turned out to speak.
    schemes: Mutex<HashMap<String, String>>,
}

impl Shared {
    /// Whether a mirror could not be reached a moment ago.
    pub(crate) fn is_absent(&self, mirror: &str) -> bool {
        let absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
        absent.get(mirror).is_some_and(|until| *until > Instant::now())
    }

    /// Leaves a mirror alone for a while: every pull would wait for it.
    pub(crate) fn note_absent(&self, mirror: &str) {
        let mut absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
        absent.insert(mirror.to_owned(), Instant::now() + self.config.mirror_pause);
    }

    pub(crate) fn scheme(&self, endpoint: &str) -> Option<String> {
        self.schemes.lock().unwrap_or_else(PoisonError::into_inner).get(endpoint).cloned()
    }

    pub(crate) fn remember_scheme(&self, endpoint: &str, scheme: &str) {
        let mut schemes = self.schemes.lock().unwrap_or_else(PoisonError::into_inner);
        schemes.insert(endpoint.to_owned(), scheme.to_owned());
    }

    /// Forgets a scheme that works no longer.
    pub(crate) fn forget_scheme(&self, endpoint: &str) {
        self.schemes.lock().unwrap_or_else(PoisonError::into_inner).remove(endpoint);
    }
}

impl Client {
    /// Makes a client. No connection is made and no file is read yet, but those with certificates.
    ///
    /// # Errors
    /// [`RegistryError::Certificates`] for a file that holds none.
    pub fn new(config: ClientConfig) -> Result<Self, RegistryError> {
        for settings in config.registries.values().filter(|one| !one.ca_files.is_empty()) {
            crate::transport::check_certificates(&settings.ca_files)?;
        }
        let transport = Transport::new(config.user_agent.clone());
        let (grants, absent, schemes) = (Grants::default(), Mutex::default(), Mutex::default());
        Ok(Self { shared: Arc::new(Shared { config, transport, grants, absent, schemes }) })
    }

    /// The repository of `reference`.
    ///
    /// `credentials` are for the registry that the reference names, and go to no mirror. Without
    /// any, the credentials files are looked into when a server asks for some.
    #[must_use]
    pub fn repository(
        &self,
        reference: &Reference,
        credentials: Option<Credentials>,
    ) -> Repository {
        let endpoints = endpoints(reference, &self.shared.config.registries);
        let shared = Arc::clone(&self.shared);
        Repository::new(shared, reference.path().to_owned(), endpoints, credentials)
    }
}
