//! Why the engine refused or failed.

use model::{ContainerId, InvalidField, LookupError, SandboxId};
use pull::PullError;
use shim_api::{client::ClientError, v1::failure::Kind};
use thiserror::Error;

/// Why the engine refused or failed. The server's match over it decides the gRPC code.
#[derive(Debug, Error)]
pub enum EngineError {
    /// A field cannot be accepted. `InvalidArgument`.
    #[error(transparent)]
    Invalid(#[from] InvalidField),
    /// No or no single object has this id. `NotFound` or `InvalidArgument`.
    #[error("{kind}")]
    Lookup {
        /// `pod sandbox` or `container`.
        kind: &'static str,
        /// Which, and why not.
        #[source]
        source: LookupError,
    },
    /// No image has this name. `NotFound`.
    #[error("{keyword}image {reference:?} not found; pull it first")]
    ImageNotFound {
        /// What clients recognise the message by: it begins with this. Mostly empty.
        keyword: &'static str,
        /// As the request names it.
        reference: String,
    },
    /// The key is held by another object with another configuration. `AlreadyExists`.
    #[error("{key} exists already: {id}")]
    AlreadyExists {
        /// The key, for people.
        key: String,
        /// The holder.
        id: String,
    },
    /// The object is not in a state for this. `FailedPrecondition`.
    #[error("{operation} {id}: it is {state}")]
    WrongState {
        /// Such as `start container`.
        operation: &'static str,
        /// Which.
        id: String,
        /// What it is.
        state: &'static str,
    },
    /// The host or the request's files lack something. `FailedPrecondition`.
    #[error("{what}")]
    Precondition {
        /// What is missing, and the way out.
        what: String,
    },
    /// A container's program could not be executed. `FailedPrecondition`.
    #[error("start container {id}: {message}")]
    CannotRun {
        /// Which.
        id: ContainerId,
        /// From the kernel.
        message: String,
    },
    /// The caller's time is over. `DeadlineExceeded`.
    #[error("{operation} took longer than {seconds} s")]
    DeadlineExceeded {
        /// Such as `exec in container …`.
        operation: String,
        /// The limit.
        seconds: u64,
    },
    /// An image could not be pulled. The code depends on the error's kind.
    #[error(transparent)]
    Pull(std::sync::Arc<PullError>),
    /// The shim of a pod does not answer. `Unavailable`.
    #[error("shim of pod sandbox {id}")]
    Shim {
        /// Which pod.
        id: SandboxId,
        /// Why.
        #[source]
        source: ClientError,
    },
    /// Another call for the same object, which this one joined, failed. The code of that failure.
    #[error(transparent)]
    Shared(std::sync::Arc<EngineError>),
    /// A bug, or a disk that fails. `Internal`.
    #[error("{operation}")]
    Internal {
        /// What was being done.
        operation: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl EngineError {
    /// Nothing is called `reference`; `keyword` as in [`EngineError::ImageNotFound`].
    pub(crate) fn image_not_found(keyword: &'static str, reference: &str) -> Self {
        Self::ImageNotFound { keyword, reference: reference.to_owned() }
    }
}

/// Wraps what should not happen.
pub(crate) fn internal(
    operation: impl Into<String>,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> EngineError {
    EngineError::Internal { operation: operation.into(), source: source.into() }
}

/// What a shim's answer means to the caller.
pub(crate) fn shim_failure(id: &SandboxId, error: ClientError) -> EngineError {
    match error {
        ClientError::Failed { kind: Kind::Refused, message } => {
            EngineError::Precondition { what: message }
        }
        ClientError::Failed { kind: Kind::WrongState, message } => {
            EngineError::Precondition { what: message }
        }
        source => EngineError::Shim { id: id.clone(), source },
    }
}
