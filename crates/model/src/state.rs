//! The lives of a sandbox and of a container.
//!
//! One pure `apply` for each; the caller persists the new state before it acts on it.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::UnixNanos;

/// Life of one container. What a state needs, it carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerState {
    /// The process exists and waits for `StartContainer`.
    Created,
    /// The workload runs.
    Running {
        /// When `execve` had succeeded.
        started_at: UnixNanos,
    },
    /// The workload ended, or never began.
    Exited {
        /// Absent when the process died before it was started.
        started_at: Option<UnixNanos>,
        /// When the shim reaped it.
        finished_at: UnixNanos,
        /// 0 to 255; 128 + signal number when killed.
        exit_code: i32,
        /// CRI `ContainerStatus.reason`.
        reason: ExitReason,
        /// Why it could not be started, else empty.
        message: String,
    },
    /// Its shim cannot be reached.
    Unknown,
}

/// Why a container is where it is; CRI `ContainerStatus.reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitReason {
    /// Exit code 0.
    Completed,
    /// Any other exit code.
    Error,
    /// Killed by the kernel for want of memory.
    OomKilled,
    /// The program could not be executed.
    CannotRun,
    /// The exit was not seen.
    Unknown,
}

impl ExitReason {
    /// The word that Kubernetes shows.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::CannotRun => "ContainerCannotRun",
            Self::Unknown => "Unknown",
        }
    }
}

/// What can happen to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerEvent {
    /// The shim released the workload.
    Started {
        /// Time of release.
        at: UnixNanos,
    },
    /// It is over.
    Exited {
        /// When it was started, if the shim says so: an exit can be heard of before the start.
        started_at: Option<UnixNanos>,
        /// See [`ContainerState::Exited`].
        at: UnixNanos,
        /// See [`ContainerState::Exited`].
        exit_code: i32,
        /// See [`ContainerState::Exited`].
        reason: ExitReason,
        /// See [`ContainerState::Exited`].
        message: String,
    },
    /// The shim stopped answering.
    Lost,
    /// The shim answers again, and says that the process still waits for its start.
    FoundWaiting,
}

/// A transition that a lifecycle does not have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no transition from {from} on {event}")]
pub struct TransitionError {
    /// The state that was left unchanged.
    pub from: &'static str,
    /// The event that did not fit.
    pub event: &'static str,
}

impl ContainerState {
    /// The state after `event`.
    ///
    /// # Errors
    /// [`TransitionError`] when `event` cannot happen in this state.
    pub fn apply(&self, event: ContainerEvent) -> Result<Self, TransitionError> {
        use {ContainerEvent as E, ContainerState as S};
        let exited = |known: Option<UnixNanos>, event| match event {
            E::Exited { started_at, at, exit_code, reason, message } => {
                let started_at = known.or(started_at);
                Ok(S::Exited { started_at, finished_at: at, exit_code, reason, message })
            }
            E::Lost => Ok(S::Unknown),
            E::Started { .. } => Err(self.refuse("started")),
            E::FoundWaiting => Err(self.refuse("found waiting")),
        };
        match (self, event) {
            (S::Created | S::Unknown, E::Started { at }) => Ok(S::Running { started_at: at }),
            (S::Created | S::Unknown, E::FoundWaiting) => Ok(S::Created),
            (S::Created | S::Unknown, event) => exited(None, event),
            (S::Running { started_at }, event) => exited(Some(*started_at), event),
            (S::Exited { .. }, E::Started { .. }) => Err(self.refuse("started")),
            (S::Exited { .. }, E::Exited { .. }) => Err(self.refuse("exited")),
            (S::Exited { .. }, E::Lost) => Err(self.refuse("lost")),
            (S::Exited { .. }, E::FoundWaiting) => Err(self.refuse("found waiting")),
        }
    }

    /// The state's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running { .. } => "running",
            Self::Exited { .. } => "exited",
            Self::Unknown => "unknown",
        }
    }

    fn refuse(&self, event: &'static str) -> TransitionError {
        TransitionError { from: self.name(), event }
    }
}

/// Life of a pod sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxState {
    /// Its record exists; its shim and namespaces may not. Not listed.
    Creating,
    /// Containers can be created in it.
    Ready,
    /// Its containers are being killed.
    Stopping,
    /// Its namespaces are gone; its records and its exited containers remain.
    NotReady,
    /// Its records are being removed. Not listed.
    Removing,
}

/// What can happen to a pod sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxEvent {
    /// Everything is set up.
    SetUp,
    /// `StopPodSandbox` begins, or the shim is gone.
    StopBegun,
    /// Nothing runs any more.
    Stopped,
    /// `RemovePodSandbox` begins.
    RemoveBegun,
}

impl SandboxState {
    /// The state after `event`. Events that only repeat what is so already change nothing.
    ///
    /// # Errors
    /// [`TransitionError`] when `event` cannot happen in this state.
    pub fn apply(self, event: SandboxEvent) -> Result<Self, TransitionError> {
        use {SandboxEvent as E, SandboxState as S};
        match (self, event) {
            (S::Creating, E::SetUp) => Ok(S::Ready),
            (S::Creating | S::Ready | S::Stopping, E::StopBegun) => Ok(S::Stopping),
            (S::Stopping | S::NotReady, E::Stopped) => Ok(S::NotReady),
            (S::NotReady, E::StopBegun) => Ok(S::NotReady),
            (S::Creating | S::NotReady | S::Removing, E::RemoveBegun) => Ok(S::Removing),
            (from, event) => Err(TransitionError { from: from.name(), event: event.name() }),
        }
    }

    /// The state's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
            Self::NotReady => "not ready",
            Self::Removing => "removing",
        }
    }
}

impl SandboxEvent {
    fn name(self) -> &'static str {
        match self {
            Self::SetUp => "set up",
            Self::StopBegun => "stop begun",
            Self::Stopped => "stopped",
            Self::RemoveBegun => "remove begun",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: UnixNanos = UnixNanos(1);

    fn exit() -> ContainerEvent {
        let (reason, message) = (ExitReason::Error, String::new());
        ContainerEvent::Exited { started_at: None, at: T, exit_code: 1, reason, message }
    }

    #[test]
    fn every_container_state_meets_every_event() {
        let exited = ContainerState::Created.apply(exit()).expect("legal");
        let states = [
            ContainerState::Created,
            ContainerState::Running { started_at: T },
            ContainerState::Unknown,
            exited,
        ];
        let started = ContainerEvent::Started { at: T };
        let events = [started, exit(), ContainerEvent::Lost, ContainerEvent::FoundWaiting];
        let legal = states.map(|s| events.clone().map(|e| s.apply(e).is_ok()));
        let expected = [
            [true, true, true, true],
            [false, true, true, false],
            [true, true, true, true],
            [false, false, false, false],
        ];
        assert_eq!(legal, expected);
    }

    #[test]
    fn a_lost_container_becomes_what_its_shim_says() {
        let running = ContainerState::Unknown.apply(ContainerEvent::Started { at: T });
        assert_eq!(running, Ok(ContainerState::Running { started_at: T }));
        let created = ContainerState::Unknown.apply(ContainerEvent::FoundWaiting);
        assert_eq!(created, Ok(ContainerState::Created));
    }

    #[test]
    fn an_exit_keeps_the_start() {
        let running = ContainerState::Created.apply(ContainerEvent::Started { at: T });
        let exited = running.and_then(|s| s.apply(exit())).expect("legal");
        assert!(matches!(exited, ContainerState::Exited { started_at: Some(T), .. }), "{exited:?}");
    }

    #[test]
    fn every_sandbox_state_meets_every_event() {
        use {SandboxEvent as E, SandboxState as S};
        let states = [S::Creating, S::Ready, S::Stopping, S::NotReady, S::Removing];
        let events = [E::SetUp, E::StopBegun, E::Stopped, E::RemoveBegun];
        let legal = states.map(|s| events.map(|e| s.apply(e).is_ok()));
        let expected = [
            [true, true, false, true],
            [false, true, false, false],
            [false, true, true, false],
            [false, true, true, true],
            [false, false, false, true],
        ];
        assert_eq!(legal, expected);
    }
}
