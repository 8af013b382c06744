//! HTTP clients: TLS, proxies, name resolution.

use std::collections::HashMap;
use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::redirect::Policy;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};

use crate::address::{FilteredResolver, Reach, proxy_host};
use crate::error::RegistryError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// What one transfer may have in flight over HTTP/2. Over HTTP/1.1 hyper's buffer grows to 400 KiB
/// for each connection that is read.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// What tells one client from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Setup {
    /// Beside the system's authorities.
    pub(crate) ca_files: Vec<PathBuf>,
    /// Goes past any proxy.
    pub(crate) direct: bool,
    pub(crate) reach: Reach,
}

/// Clients, made when they are first needed and kept for their connections.
#[derive(Debug)]
pub(crate) struct Transport {
    user_agent: String,
    clients: Mutex<HashMap<Setup, reqwest::Client>>,
}

impl Transport {
    pub(crate) fn new(user_agent: String) -> Self {
        Self { user_agent, clients: Mutex::default() }
    }

    pub(crate) fn client(&self, setup: &Setup) -> Result<reqwest::Client, RegistryError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(setup) {
            return Ok(client.clone());
        }
        let client = self.build(setup)?;
        clients.insert(setup.clone(), client.clone());
        Ok(client)
    }

    fn build(&self, setup: &Setup) -> Result<reqwest::Client, RegistryError> {
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(&setup.ca_files)?)
            .user_agent(&self.user_agent)
            // Redirects are followed one by one, with an eye on where they lead.
            .redirect(Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
            .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        if setup.direct {
            builder = builder.no_proxy();
        }
        if setup.reach != Reach::Named {
            let proxies = proxies();
            builder =
                builder.dns_resolver(Arc::new(FilteredResolver { reach: setup.reach, proxies }));
        }
        builder.build().map_err(|error| RegistryError::Setup(error.into()))
    }
}

/// Hosts of the proxies that the environment sets.
fn proxies() -> Vec<String> {
    let values = ["https_proxy", "http_proxy", "all_proxy"].into_iter().flat_map(|name| {
        [name.to_owned(), name.to_ascii_uppercase()]
            .into_iter()
            .filter_map(|name| env::var(name).ok())
    });
    values.filter_map(|value| proxy_host(&value)).collect()
}

fn tls(ca_files: &[PathBuf]) -> Result<ClientConfig, RegistryError> {
    let mut roots = RootCertStore::empty();
    // One certificate of the system that cannot be read must not take the others away.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for path in ca_files {
        add_file(&mut roots, path)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| RegistryError::Setup(error.into()))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    // reqwest leaves this to whoever brings the configuration.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Reads files with certificates, to find the broken ones before they are needed.
pub(crate) fn check_certificates(ca_files: &[PathBuf]) -> Result<(), RegistryError> {
    let mut roots = RootCertStore::empty();
    ca_files.iter().try_for_each(|path| add_file(&mut roots, path))
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), RegistryError> {
    let failed = |source| RegistryError::Certificates { path: path.to_owned(), source };
    let mut found = false;
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| failed(error.into()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| failed(error.into()))?;
        roots.add(certificate).map_err(|error| failed(error.into()))?;
        found = true;
    }
    if found { Ok(()) } else { Err(failed("no certificate in it".into())) }
}
