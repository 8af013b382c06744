//! Why there is no node, and what to do about it.

use std::{ffi::OsString, io, path::PathBuf};

use nix::errno::Errno;
use sys::{process::ThreadsError, spawn::SpawnError};
use thiserror::Error;

use crate::{idmap::IdMapError, subordinate::ToolFailure};

/// Everything that can go wrong with a node. Each text says the way out; causes are sources.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The machine's root started it.
    #[error(
        "Usnea is rootless: run it as an ordinary user, for instance with `machinectl shell USER@` or `su - USER`"
    )]
    RealRoot,
    /// It was called from a process with threads.
    #[error(
        "namespaces can only be joined before threads start; this is a defect of the calling program"
    )]
    Threads(#[from] ThreadsError),
    /// A file or directory of the node's own could not be used.
    #[error("{operation} {}; check its owner, its permissions and the free space", path.display())]
    File {
        /// The verb.
        operation: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The runtime directory belongs to somebody else.
    #[error("{} belongs to uid {owner}; remove it or choose another runtime directory", path.display())]
    ForeignDirectory {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Another holder has the lock.
    #[error("a node holder already runs for {}; stop that one first, or use it", path.display())]
    AlreadyHeld {
        /// The runtime directory.
        path: PathBuf,
    },
    /// A socket could not be made or reached.
    #[error("{operation} {}; use a runtime directory with a path of less than 90 bytes that this user owns", path.display())]
    Socket {
        /// The verb.
        operation: &'static str,
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        source: Errno,
    },
    /// `/etc/subuid` or `/etc/subgid` is wrong.
    #[error("the subordinate ids of this user are unusable; an administrator has to correct them")]
    IdMap(#[from] IdMapError),
    /// newuidmap or newgidmap exists, but cannot be used.
    #[error(
        "map the subordinate ids; reinstall the package uidmap (shadow-utils) and compare /etc/subuid and /etc/subgid"
    )]
    Tool(#[from] ToolFailure),
    /// A namespace could not be made or joined.
    #[error("{operation}; `usnea check` tells what this host lacks")]
    Namespace {
        /// What was tried.
        operation: &'static str,
        /// `EPERM` where a policy forbids it, `ENOSPC` at a limit of `user.max_*_namespaces`, `EUSERS` when nested
        /// too deeply.
        source: Errno,
    },
    /// A mount that the node cannot do without was refused.
    #[error("{operation} {}; `usnea check` tells what this host lacks", path.display())]
    Mount {
        /// What was tried.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        source: Errno,
    },
    /// The holder could not be started.
    #[error(
        "start the node holder; check that the program is still installed and the process limit (ulimit -u)"
    )]
    Spawn(#[source] SpawnError),
    /// The holder ended before it was ready.
    #[error("the node holder ended ({status}), see {}: {message}", log.display())]
    HolderEnded {
        /// Exit code or signal.
        status: String,
        /// Where it writes to.
        log: PathBuf,
        /// What it wrote.
        message: String,
    },
    /// The holder was not ready in time.
    #[error("the node holder was not ready within {seconds} s; see {}, end it and try again", log.display())]
    HolderSlow {
        /// How long was waited.
        seconds: u64,
        /// Where it writes to.
        log: PathBuf,
    },
    /// The other side of the node socket is not a holder of ours.
    #[error("uid {uid} listens at {}; end that process and start again", path.display())]
    ForeignHolder {
        /// The socket.
        path: PathBuf,
        /// Who listens.
        uid: u32,
    },
    /// The holder said no.
    #[error(
        "the node holder refused: {reason}; restart it when its release is another than this program's"
    )]
    Refused {
        /// In its words.
        reason: String,
    },
    /// The holder's answer could not be understood.
    #[error("the node holder's answer is not of protocol {version}; restart the holder with this release", version = crate::protocol::VERSION)]
    Protocol(#[source] Option<serde_json::Error>),
    /// The command of [`exec`](crate::exec()) could not be run.
    #[error("run {program:?} in the node; check its name and permissions")]
    Exec {
        /// The command.
        program: OsString,
        /// `ENOENT` when it does not exist.
        source: Errno,
    },
}

impl NodeError {
    /// The exit code that says which kind it is: 2 for root, 3 for a second holder, 126 and 127 as a shell's for a
    /// command that cannot be run or found, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::RealRoot => 2,
            Self::AlreadyHeld { .. } => ALREADY_HELD,
            Self::Exec { source: Errno::ENOENT, .. } => 127,
            Self::Exec { .. } => 126,
            Self::Threads(_)
            | Self::File { .. }
            | Self::ForeignDirectory { .. }
            | Self::Socket { .. }
            | Self::IdMap(_)
            | Self::Tool(_)
            | Self::Namespace { .. }
            | Self::Mount { .. }
            | Self::Spawn(_)
            | Self::HolderEnded { .. }
            | Self::HolderSlow { .. }
            | Self::ForeignHolder { .. }
            | Self::Refused { .. }
            | Self::Protocol(_) => 1,
        }
    }

    /// For `map_err`: a namespace operation failed.
    pub(crate) fn namespace(operation: &'static str) -> impl FnOnce(Errno) -> Self {
        move |source| Self::Namespace { operation, source }
    }

    /// For `map_err`: work on a file of ours failed.
    pub(crate) fn file(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { operation, path, source }
    }
}

/// How a holder ends that found another one at work.
pub(crate) const ALREADY_HELD: u8 = 3;

/// An error and its causes in one line, for facts and checks that outlive the error.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
