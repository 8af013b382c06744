//! Why an image could not be pulled.

use std::io;

use image::{Digest, ImageError};
use registry::RegistryError;
use thiserror::Error;
use unpacker::UnpackerError;

/// Why an image could not be pulled.
#[derive(Debug, Error)]
pub enum PullError {
    /// The registry does not give it.
    #[error("pull {reference}")]
    Registry {
        /// The image.
        reference: String,
        /// The cause.
        #[source]
        source: RegistryError,
    },
    /// A manifest, configuration or layer is not what it should be, or the store failed.
    #[error("pull {reference}")]
    Image {
        /// The image.
        reference: String,
        /// The cause.
        #[source]
        source: ImageError,
    },
    /// A layer cannot be unpacked.
    #[error("pull {reference}: layer {digest}")]
    Layer {
        /// The image.
        reference: String,
        /// The layer's blob.
        digest: Digest,
        /// The cause.
        #[source]
        source: UnpackerError,
    },
    /// A layer's bytes cannot be passed to the unpacker.
    #[error("pull {reference}: pass layer {digest} on")]
    Pipe {
        /// The image.
        reference: String,
        /// The layer's blob.
        digest: Digest,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Indexes are nested deeper than builders do.
    #[error("pull {reference}: index {digest} is nested too deeply")]
    Nested {
        /// The image.
        reference: String,
        /// The index.
        digest: Digest,
    },
    /// An index leads to more documents than an image can have for this machine.
    #[error("pull {reference}: more than {limit} documents do not lead to an image")]
    TooManyDocuments {
        /// The image.
        reference: String,
        /// The limit.
        limit: usize,
    },
    /// The process is ending, or a bug.
    #[error("pull {reference}: interrupted")]
    Interrupted {
        /// The image.
        reference: String,
    },
}

/// What a [`PullError`] means for whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullErrorKind {
    /// The registry cannot be reached or does not work; later it may.
    Unavailable,
    /// The registry has no such image, or none for this machine.
    NotFound,
    /// The registry wants other credentials.
    Denied,
    /// The disk is full.
    NoSpace,
    /// The image is not what it should be.
    Faulty,
    /// The configuration or the credentials files are not usable.
    Config,
    /// The disk fails, or a bug.
    Internal,
}

impl PullError {
    /// What it means for whoever asked.
    #[must_use]
    pub fn kind(&self) -> PullErrorKind {
        match self {
            Self::Registry { source, .. } => registry_kind(source.kind()),
            Self::Image { source, .. } => image_kind(source),
            Self::Layer { source, .. } => unpacker_kind(source.kind()),
            Self::Nested { .. } | Self::TooManyDocuments { .. } => PullErrorKind::Faulty,
            Self::Pipe { .. } | Self::Interrupted { .. } => PullErrorKind::Internal,
        }
    }
}

fn registry_kind(kind: registry::ErrorKind) -> PullErrorKind {
    match kind {
        registry::ErrorKind::Unavailable => PullErrorKind::Unavailable,
        registry::ErrorKind::NotFound => PullErrorKind::NotFound,
        registry::ErrorKind::Denied => PullErrorKind::Denied,
        registry::ErrorKind::Invalid => PullErrorKind::Faulty,
        registry::ErrorKind::Config => PullErrorKind::Config,
    }
}

fn unpacker_kind(kind: unpacker::ErrorKind) -> PullErrorKind {
    match kind {
        unpacker::ErrorKind::Faulty => PullErrorKind::Faulty,
        unpacker::ErrorKind::NoSpace => PullErrorKind::NoSpace,
        unpacker::ErrorKind::Internal => PullErrorKind::Internal,
    }
}

fn image_kind(error: &ImageError) -> PullErrorKind {
    match error {
        ImageError::Platform { .. } => PullErrorKind::NotFound,
        error if error.is_no_space() => PullErrorKind::NoSpace,
        ImageError::Io { .. }
        | ImageError::Beneath(_)
        | ImageError::Unpack { .. }
        | ImageError::LayerVanished { .. }
        | ImageError::Record { .. } => PullErrorKind::Internal,
        _ => PullErrorKind::Faulty,
    }
}
