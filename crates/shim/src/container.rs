//! One container: its processes, its output and its record.

use std::{
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use model::{ExitRecord, UnixNanos};
use nix::{sys::signal::Signal, unistd::Pid};
use shim_api::v1::{
    ContainerExited, ContainerState,
    container_state::{self, Created, Running},
};
use sys::pidfd;

use crate::{
    cgroups::OwnCgroup,
    error::ShimError,
    output::Output,
    processes,
    state::{Event, Exit, State},
};

/// A container that the shim is the parent of.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    /// Names it in event tokens.
    pub(crate) number: u32,
    pub(crate) state: State,
    /// Its init, in the shim's PID namespace.
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) cgroup: Option<OwnCgroup>,
    pub(crate) isolation: Isolation,
    pub(crate) output: Output,
    /// Says whether the program was executed; until it is started.
    pub(crate) exec_status: Option<OwnedFd>,
    pub(crate) paths: Paths,
}

/// What tells the container's processes from others where no cgroup does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// Its init is PID 1 of the namespace that they all live in: the kernel lets none survive it.
    OwnPidNamespace,
    /// They share a mount namespace, see [`processes::mount_namespace`].
    MountNamespace(u64),
}

/// Where things of a container are.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) bundle: PathBuf,
    /// Where its root file system is mounted.
    pub(crate) rootfs: PathBuf,
    /// Relative to the pod's log directory; `None` when output is discarded.
    pub(crate) log: Option<PathBuf>,
    /// Where its exit is recorded.
    pub(crate) record_dir: PathBuf,
    /// Where its compiled seccomp filter is, if it has one.
    pub(crate) seccomp_program: PathBuf,
}

impl Container {
    /// Moves on to the state after `event`.
    pub(crate) fn apply(&mut self, event: Event) -> Result<(), ShimError> {
        self.state = self
            .state
            .apply(event)
            .map_err(|source| ShimError::Transition { id: self.id.clone(), source })?;
        Ok(())
    }

    /// Whether `pid` is its init. Once that was reaped, the number may belong to another process.
    pub(crate) fn has_init(&self, pid: Pid) -> bool {
        let lives = match self.state {
            State::Created | State::CannotRun { .. } | State::Running { .. } => true,
            State::Ending { .. } | State::Exited { .. } => false,
        };
        lives && self.pid == pid
    }

    /// An error for `operation`, which the present state does not allow.
    pub(crate) fn wrong_state(&self, operation: &'static str) -> ShimError {
        ShimError::WrongState { operation, id: self.id.clone(), state: self.state.name() }
    }

    /// Kills every process of the container.
    pub(crate) fn kill(&self) -> Result<(), ShimError> {
        if let Some(cgroup) = &self.cgroup {
            return cgroup.kill();
        }
        match self.isolation {
            // One that is gone is killed already.
            Isolation::OwnPidNamespace => drop(pidfd::send_signal(&self.pidfd, Signal::SIGKILL)),
            Isolation::MountNamespace(namespace) => processes::kill_by_mount_namespace(namespace),
        }
        Ok(())
    }

    /// The container is over: closes its log, removes its cgroup and writes its record.
    ///
    /// What goes wrong on the way is reported and keeps nobody from hearing of the exit.
    pub(crate) fn finish(&mut self) {
        self.output.finish();
        let oom_killed = self.cgroup.as_ref().is_some_and(OwnCgroup::oom_killed);
        let removed = self.cgroup.as_ref().map_or(Ok(()), OwnCgroup::remove);
        if removed.is_ok() {
            self.cgroup = None;
        }
        let finished = self.apply(Event::Finished { oom_killed });
        for error in [removed, finished, self.write_record()].into_iter().filter_map(Result::err) {
            error.report();
        }
    }

    /// Replaces `exit.json` in one step. It is not synced: a machine that loses power ends the container anyway.
    fn write_record(&self) -> Result<(), ShimError> {
        let State::Exited { exit, oom_killed } = &self.state else { return Ok(()) };
        let record = exit_record(&self.id, exit, *oom_killed);
        let json = serde_json::to_vec(&record)
            .map_err(|source| ShimError::EncodeExitRecord { id: self.id.clone(), source })?;
        let path = self.paths.record_dir.join("exit.json");
        let temporary = self.paths.record_dir.join(".exit.json.new");
        write_and_rename(&temporary, &path, &json)
            .map_err(|source| ShimError::WriteExitRecord { path, source })
    }

    /// What is reported of the exit; `None` before it.
    pub(crate) fn exited(&self) -> Option<ContainerExited> {
        let State::Exited { exit, oom_killed } = &self.state else { return None };
        Some(ContainerExited {
            container_id: self.id.clone(),
            exit_code: exit.exit_code,
            started_at: exit.started_at.unwrap_or(0),
            finished_at: exit.finished_at,
            oom_killed: *oom_killed,
            start_error: exit.start_error.clone(),
        })
    }

    /// What a daemon that has just connected is told.
    ///
    /// A container that is ending is still what it was, because its exit will be reported.
    pub(crate) fn describe(&self) -> ContainerState {
        use container_state::State as S;
        let state = match &self.state {
            State::Created | State::CannotRun { .. } => S::Created(Created {}),
            State::Running { started_at } => S::Running(Running { started_at: *started_at }),
            State::Ending { exit, .. } => match exit.started_at {
                None => S::Created(Created {}),
                Some(started_at) => S::Running(Running { started_at }),
            },
            State::Exited { .. } => S::Exited(self.exited().unwrap_or_default()),
        };
        ContainerState {
            container_id: self.id.clone(),
            pid: self.pid.as_raw(),
            log_records_dropped: self.output.dropped_records(),
            state: Some(state),
        }
    }
}

fn exit_record(id: &str, exit: &Exit, oom_killed: bool) -> ExitRecord {
    ExitRecord {
        container_id: id.to_owned(),
        started_at: exit.started_at.map(UnixNanos),
        finished_at: UnixNanos(exit.finished_at),
        exit_code: exit.exit_code,
        oom_killed,
        start_error: exit.start_error.clone(),
    }
}

fn write_and_rename(temporary: &Path, path: &Path, content: &[u8]) -> std::io::Result<()> {
    fs::write(temporary, content)?;
    fs::rename(temporary, path)
}
