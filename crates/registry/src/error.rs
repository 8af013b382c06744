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
    /// The credentials of the call cannot be sent.
    #[error("credentials for registry {registry}: {reason}")]
    Credentials {
        /// Host and port.
        registry: String,
        /// Why, and what else is expected.
        reason: &'static str,
    },
    /// The registry cannot be reached, or the connection broke.
    #[error("registry {registry}: request for {what} failed{}", connection_hint(source))]
    Connection {
        /// Host and port.
        registry: String,
        /// Repository and tag or digest, or the token.
        what: String,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
    /// Nothing, or next to nothing, arrives.
    #[error(
        "registry {registry} sent next to nothing of {what} for {} s; images.stall_seconds bounds the wait",
        waited.as_secs_f32()
    )]
    Stalled {
        /// Host and port.
        registry: String,
        /// Repository and tag or digest, or the token.
        what: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The registry is not able to answer now.
    #[error("registry {registry} answers {status} to the request for {what}{message}")]
    Failing {
        /// Host and port.
        registry: String,
        /// Repository and tag or digest, or the token.
        what: String,
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
    /// A token server failed while it exchanged an identity token. It is not asked again: the
    /// exchange may have been the last one that this identity token is good for.
    #[error("exchange the identity token for registry {registry}")]
    Exchange {
        /// Host and port of the registry.
        registry: String,
        /// The cause.
        #[source]
        source: Box<RegistryError>,
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
    /// A document that is larger than such documents may be.
    #[error(
        "{what} from registry {registry} is larger than {limit} bytes, the limit for documents"
    )]
    TooLarge {
        /// Host and port.
        registry: String,
        /// Repository and tag or digest.
        what: String,
        /// The limit.
        limit: u64,
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
            Self::Exchange { source, .. } => source.kind(),
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Denied { .. } => ErrorKind::Denied,
            Self::Redirect { .. }
            | Self::Protocol { .. }
            | Self::Size { .. }
            | Self::TooLarge { .. }
            | Self::Digest { .. } => ErrorKind::Invalid,
            Self::Certificates { .. }
            | Self::Setup(_)
            | Self::Credentials { .. }
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

    /// Whether the server at `host` cannot be reached by the scheme that was tried, but may be by
    /// another. A certificate that is not trusted is no reason to go on without encryption.
    pub(crate) fn is_other_scheme(&self, host: &str) -> bool {
        match self {
            Self::Connection { registry, source, .. } if registry == host => {
                let tls = tls_error(source);
                source.is_connect() && tls.is_none_or(is_no_tls)
            }
            _ => false,
        }
    }

    /// Whether no request got as far as a server.
    pub(crate) fn is_unsent(&self) -> bool {
        matches!(self, Self::Connection { source, .. } if source.is_connect())
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Failing { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// What somebody can do about a connection that fails, after a separator; often nothing.
fn connection_hint(error: &reqwest::Error) -> &'static str {
    match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(_)) => {
            "; if its certificate is right, name its authority's file in ca_files of this registry"
        }
        Some(error) if is_no_tls(error) => {
            "; if it speaks http only, set plain_http of this registry"
        }
        _ => "",
    }
}

/// A certificate that is not trusted now will not be in a second.
fn is_bad_certificate(error: &reqwest::Error) -> bool {
    matches!(tls_error(error), Some(rustls::Error::InvalidCertificate(_)))
}

/// Whether what answered was no TLS.
fn is_no_tls(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidMessage(_))
}

fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        // The error inside an `io::Error` is no source of it, and there may be another one in it.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}
