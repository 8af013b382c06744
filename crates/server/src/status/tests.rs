use std::{io, sync::Arc};

use model::{ContainerId, SandboxId};

use super::*;

fn lookup(source: LookupError) -> EngineError {
    EngineError::Lookup { kind: "container", source }
}

fn internal() -> EngineError {
    let cause = io::Error::from_raw_os_error(28);
    EngineError::Internal { operation: "write the record".to_owned(), source: cause.into() }
}

/// One of each variant, with the code that clients act upon.
fn every_engine_error() -> Vec<(EngineError, Code)> {
    let query = || "abcd".to_owned();
    let (first, second) = (query(), query());
    vec![
        (InvalidField::new("hostname", "_", "no").into(), Code::InvalidArgument),
        (lookup(LookupError::NotFound { query: query() }), Code::NotFound),
        (lookup(LookupError::Ambiguous { query: query(), first, second }), Code::InvalidArgument),
        (lookup(LookupError::TooShort { query: query() }), Code::InvalidArgument),
        (
            EngineError::ImageNotFound { keyword: "", reference: "busybox".to_owned() },
            Code::NotFound,
        ),
        (EngineError::AlreadyExists { key: query(), id: query() }, Code::AlreadyExists),
        (
            EngineError::WrongState { operation: "start", id: query(), state: "exited" },
            Code::FailedPrecondition,
        ),
        (EngineError::Precondition { what: "no controller".to_owned() }, Code::FailedPrecondition),
        (
            EngineError::CannotRun {
                id: ContainerId::from_random([1; 32]),
                message: "ENOENT".to_owned(),
            },
            Code::FailedPrecondition,
        ),
        (
            EngineError::DeadlineExceeded { operation: "exec".to_owned(), seconds: 1 },
            Code::DeadlineExceeded,
        ),
        (
            EngineError::Shim {
                id: SandboxId::from_random([1; 32]),
                source: shim_api::client::ClientError::Closed,
            },
            Code::Unavailable,
        ),
        (
            EngineError::Shared(Arc::new(lookup(LookupError::NotFound { query: query() }))),
            Code::NotFound,
        ),
        (internal(), Code::Internal),
    ]
}

#[test]
fn every_error_has_its_code() {
    for (error, code) in every_engine_error() {
        let error = CallError::Engine(error);
        assert_eq!(to_status(&error).code(), code, "{error:?}");
    }
    let (rpc, stream) = ("ListImages", "StreamImages");
    let too_large = CallError::TooLarge { rpc, stream, bytes: 1 << 25 };
    assert_eq!(to_status(&too_large).code(), Code::ResourceExhausted);
    let unimplemented = to_status(&CallError::Unimplemented { rpc: "Attach", hint: "" });
    assert_eq!(unimplemented.code(), Code::Unimplemented);
    assert_eq!(unimplemented.message(), "Attach is not implemented");
    assert_eq!(to_status(&CallError::Panicked { rpc }).code(), Code::Internal);
}

#[test]
fn causes_follow_once_each() {
    let status = to_status(&CallError::Engine(internal()));
    assert_eq!(status.message(), "write the record: No space left on device (os error 28)");
    let shared = EngineError::Shared(Arc::new(internal()));
    assert_eq!(to_status(&CallError::Engine(shared)).message(), status.message());
}

#[test]
fn a_message_fits_into_headers() {
    let what = "é".repeat(2000);
    let status = to_status(&CallError::Engine(EngineError::Precondition { what }));
    assert_eq!(status.message().len(), MESSAGE_BYTES);
    let what = format!("x{}", "é".repeat(2000));
    let status = to_status(&CallError::Engine(EngineError::Precondition { what }));
    assert_eq!(status.message().len(), MESSAGE_BYTES - 1);
}
