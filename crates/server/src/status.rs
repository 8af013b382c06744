//! Errors → gRPC codes: the only place that builds a `Status`.

use std::error::Error;

use engine::{EngineError, PullErrorKind};
use model::{InvalidField, LookupError};
use thiserror::Error;
use tonic::{Code, Status};

/// Longest message that is sent, in bytes: headers carry it, percent-encoded.
const MESSAGE_BYTES: usize = 2048;

/// Why a call was not answered.
#[derive(Debug, Error)]
pub(crate) enum CallError {
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The answer fits in no message that a client takes.
    #[error("{rpc}: the answer has {bytes} bytes, and a client takes 16 MiB; call {stream}")]
    TooLarge {
        /// What was called.
        rpc: &'static str,
        /// What gives the same in several messages.
        stream: &'static str,
        /// Size of the answer.
        bytes: usize,
    },
    /// This release does not have it.
    #[error("{rpc} is not implemented{hint}")]
    Unimplemented {
        /// What was called.
        rpc: &'static str,
        /// Begins with a separator, or empty.
        hint: &'static str,
    },
    /// The caller's time is over, and its work was ended.
    #[error("{rpc}: the caller's deadline is over")]
    DeadlineExceeded {
        /// What was called.
        rpc: &'static str,
    },
    /// A bug; the call is lost and the daemon lives on.
    #[error("{rpc} panicked")]
    Panicked {
        /// What was called.
        rpc: &'static str,
    },
}

impl From<InvalidField> for CallError {
    fn from(error: InvalidField) -> Self {
        Self::Engine(error.into())
    }
}

/// Logs an error, once, and makes the answer of it.
pub(crate) fn to_status(error: &CallError) -> Status {
    let code = code(error);
    let message = shortened(format!("{}{}", prefix(error), chain(error)));
    match code {
        Code::Internal | Code::Unavailable => tracing::warn!(?code, %message, "call failed"),
        // The kubelet polls objects that it has removed itself, and statistics that are not there.
        Code::NotFound | Code::Unimplemented => tracing::debug!(?code, %message, "call refused"),
        _ => tracing::info!(?code, %message, "call refused"),
    }
    Status::new(code, message)
}

fn code(error: &CallError) -> Code {
    match error {
        CallError::Engine(error) => engine_code(error),
        CallError::TooLarge { .. } => Code::ResourceExhausted,
        CallError::Unimplemented { .. } => Code::Unimplemented,
        CallError::DeadlineExceeded { .. } => Code::DeadlineExceeded,
        CallError::Panicked { .. } => Code::Internal,
    }
}

fn engine_code(error: &EngineError) -> Code {
    match error {
        EngineError::Invalid(_) => Code::InvalidArgument,
        EngineError::Lookup { source: LookupError::NotFound { .. }, .. } => Code::NotFound,
        EngineError::Lookup {
            source: LookupError::Ambiguous { .. } | LookupError::TooShort { .. },
            ..
        } => Code::InvalidArgument,
        EngineError::ImageNotFound { .. } => Code::NotFound,
        EngineError::AlreadyExists { .. } => Code::AlreadyExists,
        EngineError::WrongState { .. }
        | EngineError::Precondition { .. }
        | EngineError::CannotRun { .. } => Code::FailedPrecondition,
        EngineError::DeadlineExceeded { .. } => Code::DeadlineExceeded,
        EngineError::Pull(error) => pull_code(error.kind()),
        EngineError::Shim { .. } => Code::Unavailable,
        EngineError::Shared(shared) => engine_code(shared),
        EngineError::Internal { .. } => Code::Internal,
    }
}

/// The word that the kubelet looks for at the beginning of a message of code `Unknown`.
///
/// Source: Kubernetes, `cri-api/pkg/errors`.
fn prefix(error: &CallError) -> &'static str {
    match error {
        CallError::Engine(EngineError::Pull(error))
            if error.kind() == PullErrorKind::Unavailable =>
        {
            "RegistryUnavailable: "
        }
        _ => "",
    }
}

fn pull_code(kind: PullErrorKind) -> Code {
    match kind {
        PullErrorKind::Unavailable => Code::Unknown,
        PullErrorKind::NotFound => Code::NotFound,
        PullErrorKind::Denied => Code::PermissionDenied,
        PullErrorKind::NoSpace => Code::ResourceExhausted,
        PullErrorKind::Faulty | PullErrorKind::Config => Code::FailedPrecondition,
        PullErrorKind::Internal => Code::Internal,
    }
}

/// The error and its causes, the last cause last.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn shortened(mut message: String) -> String {
    let end = (0..=MESSAGE_BYTES).rev().find(|end| message.is_char_boundary(*end));
    message.truncate(end.unwrap_or(0));
    message
}

#[cfg(test)]
mod tests;
