//! Containers from OCI specifications: libcontainer creates them, everything after that is our own.
//!
//! Owns the whole contact surface with libcontainer and the guards around it, the exec technique, seccomp compilation
//! and the check that a created container is what its specification says. `docs/libcontainer.md` tells why.
//!
//! Never: the pod, cgroup limits, logs, CRI. Nothing here starts a thread; what forks asks for proof that there is
//! only one.

pub mod create;
pub mod exec;
pub mod seccomp;
pub mod start;
pub mod verify;

mod capabilities;
mod error;
mod limits;
mod program;

pub use error::{Refusal, RuntimeError};
