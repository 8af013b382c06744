//! Why a request could not be done, and what the daemon is told.

use std::{
    error::Error,
    io::{self, Write},
    path::PathBuf,
};

use nix::errno::Errno;
use runtime::RuntimeError;
use shim_api::{
    ShimApiError,
    v1::{Failure, failure::Kind},
};
use sys::{beneath::BeneathError, process::ThreadsError, spawn::SpawnError};
use thiserror::Error;

use crate::state::TransitionError;

/// What can go wrong in a shim.
#[derive(Debug, Error)]
pub(crate) enum ShimError {
    #[error("pod is up already")]
    PodIsUp,
    #[error("pod is not up")]
    PodIsNotUp,
    #[error("pod is being stopped")]
    PodIsStopping,
    #[error("container {id:?} exists already")]
    ContainerExists { id: String },
    #[error("exec {id:?} exists already")]
    ExecExists { id: String },
    #[error("container {id:?} is not known")]
    UnknownContainer { id: String },
    #[error("{operation} container {id:?}, which is {state}")]
    WrongState { operation: &'static str, id: String, state: &'static str },
    #[error("container {id:?}")]
    Transition { id: String, source: TransitionError },

    #[error("request asks for nothing that this shim knows")]
    UnknownCall,
    #[error("request lacks {what}")]
    MissingField { what: &'static str },
    #[error("request lacks the descriptor of {what}")]
    MissingDescriptor { what: &'static str },
    #[error("{id:?} cannot be the id of {what}")]
    InvalidId { what: &'static str, id: String },
    #[error("signal {signal} to container {id:?}")]
    Signal { id: String, signal: i32, source: Errno },

    #[error("make the pod's namespaces")]
    Unshare(#[source] Errno),
    #[error("join the node's network namespace")]
    JoinNetwork(#[source] Errno),
    #[error("keep the pod's mounts to itself")]
    Propagation(#[source] Errno),
    #[error("set the loopback interface up")]
    Loopback(#[source] Errno),
    #[error("set the pod's hostname")]
    SetHostname(#[source] Errno),
    #[error("set sysctl {key}")]
    Sysctl { key: String, source: io::Error },
    #[error("make the cgroup file system read-only")]
    ProtectCgroups(#[source] Errno),
    #[error("mount shared memory at {}", path.display())]
    MountShm { path: PathBuf, source: Errno },
    #[error("open the pod's network namespace")]
    OpenNetworkNamespace(#[source] Errno),
    #[error("make the program of the pause process")]
    MakePause(#[source] io::Error),
    #[error("start the pause process")]
    StartPause(#[source] Errno),

    #[error("make cgroup {path:?}")]
    MakeCgroup { path: String, source: Errno },
    #[error("write {value:?} to {file}")]
    WriteCgroup { file: String, value: String, source: io::Error },
    #[error("kill the processes of cgroup {name:?}")]
    KillCgroup { name: String, source: io::Error },
    #[error("remove cgroup {name:?}")]
    RemoveCgroup { name: String, source: io::Error },
    #[error("read the events of cgroup {name:?}")]
    WatchCgroup { name: String, source: Errno },

    #[error("make the standard streams")]
    MakeStreams(#[source] Errno),
    #[error("open log {}", path.display())]
    OpenLog { path: PathBuf, source: BeneathError },
    #[error("examine log {}", path.display())]
    StatLog { path: PathBuf, source: Errno },
    #[error("log {} is no regular file", path.display())]
    LogIsNoFile { path: PathBuf },
    #[error("container {id:?} has no log")]
    NoLog { id: String },

    #[error("read {}", path.display())]
    ReadBundle { path: PathBuf, source: io::Error },
    #[error("understand {}", path.display())]
    ParseSpec { path: PathBuf, source: serde_json::Error },
    #[error("{} has no {what}", path.display())]
    IncompleteSpec { path: PathBuf, what: &'static str },
    #[error("open the PID namespace of process {pid}")]
    OpenPidNamespace { pid: i32, source: Errno },
    #[error("write the plan of container {id:?}")]
    WritePlan { id: String, source: io::Error },
    #[error("make the helper's report pipes")]
    ReportPipes(#[source] Errno),
    #[error("open this program")]
    OpenProgram(#[source] Errno),
    #[error("start the helper")]
    StartHelper(#[source] SpawnError),
    #[error("wait for the helper")]
    WaitForHelper(#[source] Errno),
    #[error("the helper gave no report within {milliseconds} ms")]
    HelperIsSilent { milliseconds: u16 },
    #[error("the helper ended without a report")]
    HelperEnded,
    #[error("create container {id:?}: {message}")]
    CreateRefused { id: String, message: String },
    #[error("create container {id:?}: {message}")]
    CreateFailed { id: String, message: String },
    #[error("process {pid} ended before it could be examined")]
    InitEnded { pid: i32, source: Errno },
    #[error(transparent)]
    Runtime(RuntimeError),
    #[error("start container {id:?}: {message}")]
    CannotRun { id: String, message: String },

    #[error("write {}", path.display())]
    WriteExitRecord { path: PathBuf, source: io::Error },
    #[error("encode the exit of container {id:?}")]
    EncodeExitRecord { id: String, source: serde_json::Error },

    #[error("the shim must have one thread")]
    Threads(#[source] ThreadsError),
    #[error("prepare this process")]
    Prepare(#[source] Errno),
    #[error("nothing listens under descriptor {number}")]
    NoListener { number: i32 },
    #[error("wait for events")]
    Events(#[source] Errno),
    #[error("reap children")]
    Reap(#[source] Errno),
    #[error("connection to the daemon")]
    Connection(#[source] ShimApiError),
    #[error("accept a connection")]
    Accept(#[source] Errno),
    #[error("the daemon speaks protocol {theirs}")]
    Version { theirs: u32 },
    #[error("the daemon does not follow the protocol")]
    Protocol,
    #[error("the daemon does not read what it is told")]
    Backlog,
}

impl ShimError {
    /// Whose fault it is.
    fn kind(&self) -> Kind {
        match self {
            Self::UnknownContainer { .. } => Kind::NotFound,

            Self::PodIsUp
            | Self::PodIsNotUp
            | Self::PodIsStopping
            | Self::ContainerExists { .. }
            | Self::ExecExists { .. }
            | Self::WrongState { .. }
            | Self::NoLog { .. }
            | Self::Transition { .. } => Kind::WrongState,

            Self::UnknownCall
            | Self::MissingField { .. }
            | Self::MissingDescriptor { .. }
            | Self::InvalidId { .. }
            | Self::Signal { .. }
            | Self::SetHostname(_)
            | Self::Sysctl { .. }
            | Self::WriteCgroup { .. }
            | Self::OpenLog { .. }
            | Self::LogIsNoFile { .. }
            | Self::CreateRefused { .. }
            | Self::Runtime(RuntimeError::Refused(_)) => Kind::Refused,

            Self::CannotRun { .. } => Kind::CannotRun,

            Self::Unshare(_)
            | Self::JoinNetwork(_)
            | Self::Propagation(_)
            | Self::Loopback(_)
            | Self::ProtectCgroups(_)
            | Self::MountShm { .. }
            | Self::OpenNetworkNamespace(_)
            | Self::MakePause(_)
            | Self::StartPause(_)
            | Self::MakeCgroup { .. }
            | Self::KillCgroup { .. }
            | Self::RemoveCgroup { .. }
            | Self::WatchCgroup { .. }
            | Self::MakeStreams(_)
            | Self::StatLog { .. }
            | Self::ReadBundle { .. }
            | Self::ParseSpec { .. }
            | Self::IncompleteSpec { .. }
            | Self::OpenPidNamespace { .. }
            | Self::WritePlan { .. }
            | Self::ReportPipes(_)
            | Self::OpenProgram(_)
            | Self::StartHelper(_)
            | Self::WaitForHelper(_)
            | Self::HelperIsSilent { .. }
            | Self::HelperEnded
            | Self::CreateFailed { .. }
            | Self::InitEnded { .. }
            | Self::Runtime(_)
            | Self::WriteExitRecord { .. }
            | Self::EncodeExitRecord { .. }
            | Self::Threads(_)
            | Self::Prepare(_)
            | Self::NoListener { .. }
            | Self::Events(_)
            | Self::Reap(_)
            | Self::Connection(_)
            | Self::Accept(_)
            | Self::Version { .. }
            | Self::Protocol
            | Self::Backlog => Kind::Internal,
        }
    }

    /// The error and its causes, the innermost last.
    fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    /// What the daemon is told.
    pub(crate) fn to_failure(&self) -> Failure {
        Failure { kind: self.kind().into(), message: self.chain() }
    }

    /// Tells an error that no request has caused, on standard error, which the daemon collects.
    pub(crate) fn report(&self) {
        // Without standard error there is nobody to tell.
        writeln!(io::stderr(), "usnea-shim: {}", self.chain()).ok();
    }
}
