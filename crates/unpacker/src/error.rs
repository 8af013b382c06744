//! Why a layer could not be unpacked.

use std::io;

use nix::errno::Errno;
use sys::spawn::SpawnError;
use thiserror::Error;

/// Why a layer could not be unpacked.
#[derive(Debug, Error)]
pub enum UnpackerError {
    /// A pipe cannot be made or read.
    #[error("{operation} for the unpacker")]
    Pipe {
        /// What was tried.
        operation: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The unpacker cannot be started.
    #[error("start the unpacker")]
    Start(#[source] SpawnError),
    /// The options cannot be passed on.
    #[error("options of the unpacker")]
    Options(#[source] serde_json::Error),
    /// The layer is refused: malformed, too large, or an attack.
    #[error("{message}")]
    Faulty {
        /// What the unpacker says, causes last.
        message: String,
    },
    /// The disk or a quota is full.
    #[error("{message}")]
    NoSpace {
        /// What the unpacker says, causes last.
        message: String,
    },
    /// The file system refuses, or the unpacker could not confine itself.
    #[error("{message}")]
    Failed {
        /// What the unpacker says, causes last.
        message: String,
    },
    /// The unpacker ended without an answer.
    #[error("the unpacker {ending}")]
    NoAnswer {
        /// Such as `was killed by SIGKILL`.
        ending: String,
    },
    /// The unpacker cannot be waited for.
    #[error("wait for the unpacker")]
    Wait(#[source] Errno),
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The layer's.
    Faulty,
    /// The disk or a quota is full.
    NoSpace,
    /// Ours, or the machine's.
    Internal,
}

impl UnpackerError {
    /// Whose fault it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Faulty { .. } => ErrorKind::Faulty,
            Self::NoSpace { .. } => ErrorKind::NoSpace,
            Self::Pipe { .. }
            | Self::Start(_)
            | Self::Options(_)
            | Self::Failed { .. }
            | Self::NoAnswer { .. }
            | Self::Wait(_) => ErrorKind::Internal,
        }
    }
}

impl From<UnpackerError> for image::ImageError {
    fn from(error: UnpackerError) -> Self {
        Self::Unpacker { source: Box::new(error) }
    }
}
