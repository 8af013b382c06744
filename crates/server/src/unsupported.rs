//! RPCs that this release does not serve.

use tonic::Status;

use crate::status::{CallError, to_status};

/// Refuses a call of `rpc`, with the way out or the reason why there is none.
pub(crate) fn unsupported(rpc: &'static str) -> Status {
    let hint = match rpc {
        "CheckpointContainer" | "CheckpointPod" | "RestorePod" => {
            ": checkpoint needs CRIU with privileges that rootless Usnea does not have"
        }
        "Exec" => "; ExecSync runs a command without a terminal",
        _ => "",
    };
    to_status(&CallError::Unimplemented { rpc, hint })
}
