//! Certificates, and connections with and without TLS.

use std::{
    fs,
    io::{self, Read, Write},
    net::TcpStream,
    path::Path,
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::Acceptor,
};

/// A certificate authority of one test, which nobody trusts by default.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// Makes a key and a certificate.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = parameters.self_signed(&key).expect("sign").pem();
        Self { issuer: Issuer::new(parameters, key), pem }
    }

    /// The certificate.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes the certificate to a file.
    ///
    /// # Panics
    /// When that fails.
    pub fn write(&self, path: &Path) {
        fs::write(path, &self.pem)
            .unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    }

    pub(super) fn server_config(&self, names: &[&str]) -> Arc<ServerConfig> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let parameters = CertificateParams::new(names).expect("names");
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("sign");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a certificate");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

/// A connection to a client.
pub(super) enum Connection {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Connection {
    /// Greets a client that speaks TLS; returns the protocols that it offers, too.
    pub(super) fn accept(
        mut stream: TcpStream,
        config: Arc<ServerConfig>,
    ) -> io::Result<(Self, Vec<String>)> {
        let mut acceptor = Acceptor::default();
        let accepted = loop {
            if acceptor.read_tls(&mut stream)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let accepted = acceptor.accept().map_err(|(error, _alert)| io::Error::other(error))?;
            if let Some(accepted) = accepted {
                break accepted;
            }
        };
        let hello = accepted.client_hello();
        let offered = hello.alpn().into_iter().flatten();
        let offered = offered.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        let connection =
            accepted.into_connection(config).map_err(|(error, _alert)| io::Error::other(error))?;
        Ok((Self::Tls(Box::new(StreamOwned::new(connection, stream))), offered))
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
