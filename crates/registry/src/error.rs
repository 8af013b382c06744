//! Why a registry did not give what was asked for.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use image::Digest;
use thiserror::Error;

/// Why a registry did not give what was asked for. No variant holds a secret.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// A file with certificates cannot be used.
    #[error("certificates of {}", path.display())]
    Certificates {
        /// The file, from `ca_files`.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The HTTP client cannot be set up.
    #[error("set up the HTTP client")]
    Setup(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A file with credentials cannot be used.
    #[error("credentials file {}: repair or remove it", path.display())]
    CredentialsFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A credential helper does not work.
    #[error("credential helper docker-credential-{name}: {reason}")]
    Helper {
        /// What follows `docker-credential-` in its name.
        name: String,
        /// What it did.
        reason: String,
    },
    /// The registry cannot be reached, or the connection broke.
    #[error("registry {registry}")]
    Connection {
        /// Host and port.
        registry: String,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
    /// Nothing, or next to nothing, arrives.
    #[error("registry {registry} sent nothing to speak of for {} s", waited.as_secs())]
    Stalled {
        /// Host and port.
        registry: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The registry is not able to answer now.
    #[error("registry {registry} answers {status}{message}")]
    Failing {
        /// Host and port.
        registry: String,
        /// The HTTP status.
        status: u16,
        /// What it says, after a separator; or empty.
        message: String,
        /// When to ask again, if it says so.
        retry_after: Option<Duration>,
    },
    /// There is no such thing.
    #[error("registry {registry} has no {what}{message}")]
    NotFound {
        /// Host and port.
        registry: String,
        /// Repository and tag or digest.
        what: String,
        /// What it says, after a separator; or empty.
        message: String,
    },
    /// The registry wants credentials, or others.
    #[error("registry {registry} refuses {what}{message}; {hint}")]
    Denied {
        /// Host and port, of the registry or its token server.
        registry: String,
        /// Repository and tag or digest.
        what: String,
        /// What it says, after a separator; or empty.
        message: String,
        /// The way out.
        hint: &'static str,
    },
    /// Credentials would leave the registry.
    #[error(
        "registry {registry} wants its credentials sent to {host}: if that is right, add {host:?} to auth_hosts in [registry.{domain:?}]"
    )]
    AuthHost {
        /// Host and port.
        registry: String,
        /// The registry's name in references.
        domain: String,
        /// Where the token server is.
        host: String,
    },
    /// A redirect or token server that is not followed.
    #[error("registry {registry} leads to {target}, which is refused: {reason}")]
    Redirect {
        /// Host and port.
        registry: String,
        /// Scheme, host and port.
        target: String,
        /// Why.
        reason: &'static str,
    },
    /// An answer that the protocol does not have.
    #[error("registry {registry}: unexpected answer to {what}: {reason}")]
    Protocol {
        /// Host and port.
        registry: String,
        /// Repository and tag or digest, or the token.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// More or fewer bytes than the image's manifest says.
    #[error("{what} from registry {registry} has {actual} bytes instead of {expected}")]
    Size {
        /// Host and port.
        registry: String,
        /// Repository and digest.
        what: String,
        /// What it should be.
        expected: u64,
        /// What it is, or is at least.
        actual: u64,
    },
    /// Other bytes than the digest says.
    #[error("{what} from registry {registry} has the digest {actual}")]
    Digest {
        /// Host and port.
        registry: String,
        /// Repository and digest.
        what: String,
        /// What it is.
        actual: Digest,
    },
}

/// What a [`RegistryError`] means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// It cannot be reached or does not work; later it may.
    Unavailable,
    /// It has no such thing.
    NotFound,
    /// It wants other credentials.
    Denied,
    /// Its answers are not what they should be.
    Invalid,
    /// Something here is set up wrongly.
    Config,
}

impl RegistryError {
    /// What it means.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Connection { .. } | Self::Stalled { .. } | Self::Failing { .. } => {
                ErrorKind::Unavailable
            }
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Denied { .. } => ErrorKind::Denied,
            Self::Redirect { .. }
            | Self::Protocol { .. }
            | Self::Size { .. }
            | Self::Digest { .. } => ErrorKind::Invalid,
            Self::Certificates { .. }
            | Self::Setup(_)
            | Self::CredentialsFile { .. }
            | Self::Helper { .. }
            | Self::AuthHost { .. } => ErrorKind::Config,
        }
    }

    /// Whether asking again may help.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Failing { .. } => true,
            Self::Connection { source, .. } => !is_bad_certificate(source),
            _ => false,
        }
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Failing { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// A certificate that is not trusted now will not be in a second.
fn is_bad_certificate(error: &reqwest::Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        // The error inside an `io::Error` is no source of it.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let tls = match inner {
            Some(inner) => inner.downcast_ref::<rustls::Error>(),
            None => error.downcast_ref::<rustls::Error>(),
        };
        if matches!(tls, Some(rustls::Error::InvalidCertificate(_))) {
            return true;
        }
        next = error.source();
    }
    false
}
