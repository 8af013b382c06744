use std::{io, path::PathBuf};

use libcontainer::error::LibcontainerError;
use nix::errno::Errno;
use oci_spec::OciSpecError;
use sys::{beneath::BeneathError, process::ThreadsError};
use thiserror::Error;

/// Why a container could not be created, started, checked or entered.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// The specification or the image is at fault, not this node.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The helper must have one thread.
    #[error("prove that the helper has one thread")]
    Threads(#[from] ThreadsError),
    /// A descriptor of the helper's contract is missing.
    #[error("descriptor {number} is not open")]
    MissingDescriptor {
        /// One of [`fds`](crate::create::fds).
        number: i32,
    },
    /// A file could not be read or written.
    #[error("{operation} {}", path.display())]
    File {
        /// `read`, `write`, `create`, …
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A document was not what it should be.
    #[error("parse {what}")]
    Parse {
        /// `config.json`, `plan`, `report`, …
        what: &'static str,
        /// Where it is wrong.
        source: serde_json::Error,
    },
    /// A part of the specification could not be put together again.
    #[error("fit the specification to this node")]
    Fit(#[source] OciSpecError),
    /// A system call without a more telling subject failed.
    #[error("{operation}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// The kernel's answer.
        source: Errno,
    },
    /// The overlay could not be mounted.
    #[error("mount overlay of {layers} layers from {}", layers_dir.display())]
    Overlay {
        /// How many lower directories it has.
        layers: usize,
        /// What they are relative to.
        layers_dir: PathBuf,
        /// `EINVAL` for a missing directory, `EPERM` where overlays are not allowed.
        source: Errno,
    },
    /// Something in the root file system could not be made for want of rights or space.
    #[error("prepare the root file system")]
    Prepare(#[source] BeneathError),
    /// libcontainer failed.
    #[error("libcontainer [{log}]")]
    Libcontainer {
        /// The error events that its three processes have logged, the innermost cause first.
        log: String,
        /// Its own error, which has lost the cause.
        source: Box<LibcontainerError>,
    },
    /// libcontainer reported success without a process.
    #[error("libcontainer created a container without a process")]
    NoInit,
    /// A seccomp profile could not be compiled.
    #[error("compile the seccomp profile: {rule}")]
    Seccomp {
        /// The part of the profile.
        rule: String,
        /// libseccomp's answer.
        source: libseccomp::error::SeccompError,
    },
    /// A pipe of a helper or of a new program ended early.
    #[error("{what} ended without a message")]
    Silent {
        /// Which pipe.
        what: &'static str,
    },
    /// Nothing was heard within the time allowed.
    #[error("{what} took longer than {milliseconds} ms")]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// How long.
        milliseconds: u128,
    },
    /// A created process differs from its specification.
    #[error("process {pid} has {field} {found}, specified is {expected}")]
    Differs {
        /// The container's init.
        pid: i32,
        /// A field of `/proc/PID/status`, or `cgroup`.
        field: &'static str,
        /// As in the specification.
        expected: String,
        /// As in `/proc`.
        found: String,
    },
    /// A program could not be started in the container, for a reason that is not the program's.
    #[error("exec in the container: {step}")]
    Exec {
        /// What was being done.
        step: String,
        /// The kernel's answer.
        source: Errno,
    },
}

impl RuntimeError {
    /// For `map_err` on file operations.
    pub(crate) fn file(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { operation, path, source }
    }

    /// For `map_err` on system calls.
    pub(crate) fn system(operation: &'static str) -> impl FnOnce(Errno) -> Self {
        move |source| Self::System { operation, source }
    }
}

/// What is wrong with a specification or an image.
#[derive(Debug, Error)]
pub enum Refusal {
    /// A part that every container needs is missing.
    #[error("the specification has no {what}")]
    Missing {
        /// Its name in `config.json`.
        what: &'static str,
    },
    /// A value that is not supported, or not safe with libcontainer.
    #[error("{what} is not supported: {reason}")]
    Unsupported {
        /// The field.
        what: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// A string contains NUL.
    #[error("{what} contains a NUL byte")]
    Nul {
        /// Which string.
        what: &'static str,
    },
    /// The image has something else where a kernel file system goes.
    #[error("{} in the image is not a directory", path.display())]
    NotADirectory {
        /// In the container.
        path: PathBuf,
    },
    /// What should be mounted is not there.
    #[error("mount source {} does not exist", path.display())]
    MissingSource {
        /// On the node.
        path: PathBuf,
    },
    /// What should be mounted of an image is not there, or not in it.
    #[error("path {} in the image", path.display())]
    SubPath {
        /// In the image.
        path: PathBuf,
        /// Why.
        source: BeneathError,
    },
    /// A mount's destination or the working directory cannot be made.
    #[error("{what} {}", path.display())]
    Path {
        /// `mount destination` or `working directory`.
        what: &'static str,
        /// In the container.
        path: PathBuf,
        /// Why.
        source: BeneathError,
    },
    /// A path that may not be used.
    #[error("{what} {}: {reason}", path.display())]
    BadPath {
        /// `mount destination` or `working directory`.
        what: &'static str,
        /// In the container.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
}

/// `error` and its sources, joined by `: `.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // libcontainer's wrappers repeat what they wrap.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_names_every_cause_once() {
        let error = RuntimeError::File {
            operation: "read",
            path: "/x".into(),
            source: Errno::ENOENT.into(),
        };
        assert_eq!(chain(&error), "read /x: No such file or directory (os error 2)");
        let wrapped = RuntimeError::Refused(Refusal::Missing { what: "process" });
        assert_eq!(chain(&wrapped), "the specification has no process");
    }
}
