//! One program that was started in a running container.

use std::{
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::unistd::Pid;
use runtime::exec::{Program, Started, Stdio, Target};
use sys::process::SingleThreaded;

use crate::{bundle, cgroups::OwnCgroup, container::Container, error::ShimError, processes};

/// A program, from its start until nothing of it is left.
#[derive(Debug)]
pub(crate) struct Exec {
    /// Names it in event tokens.
    pub(crate) number: u32,
    pub(crate) container_id: String,
    /// `None` when the program could not be executed.
    pub(crate) pid: Option<Pid>,
    cgroup: Option<OwnCgroup>,
    pub(crate) phase: Phase,
}

/// Where an exec is in its life.
#[derive(Debug)]
pub(crate) enum Phase {
    Running,
    /// The program has ended, which the daemon has not been told yet.
    Ended {
        exit_code: i32,
    },
    /// What the program has left behind lives on; the file tells when its cgroup is empty.
    Outlived {
        events: fs::File,
    },
}

/// Starts `argv` in `container`, with `streams` as its standard input, output and error.
pub(crate) fn start(
    proof: &SingleThreaded,
    container: &Container,
    exec_id: &str,
    argv: &[String],
    streams: &[OwnedFd; 3],
    number: u32,
) -> Result<Exec, ShimError> {
    let spec = bundle::read_spec(&container.paths.bundle)?;
    let seccomp = match bundle::has_seccomp(&spec) {
        true => {
            let path = &container.paths.seccomp_program;
            let read = fs::read(path);
            Some(read.map_err(|source| ShimError::ReadBundle { path: path.clone(), source })?)
        }
        false => None,
    };
    let cgroup = container.cgroup.as_ref();
    let cgroup = cgroup.map(|own| own.make_child(&format!("exec-{exec_id}"))).transpose()?;
    let program = Program { argv, spec: &spec, seccomp: seccomp.as_deref() };
    let target = Target {
        init: container.pidfd.as_fd(),
        init_pid: container.pid,
        cgroup: cgroup.as_ref().map(|own| own.get().as_fd()),
    };
    let [stdin, stdout, stderr] = streams.each_ref().map(AsFd::as_fd);
    let stdio = Stdio { stdin, stdout, stderr };
    let (pid, phase) = match runtime::exec::start(proof, &program, &target, &stdio) {
        Ok(Started::Running { pid, .. }) => (Some(pid), Phase::Running),
        Ok(Started::CannotRun { exit_code }) => (None, Phase::Ended { exit_code }),
        Err(source) => {
            if let Some(Err(error)) = cgroup.map(|own| own.kill().and_then(|()| own.remove())) {
                error.report();
            }
            return Err(ShimError::Runtime(source));
        }
    };
    Ok(Exec { number, container_id: container.id.clone(), pid, cgroup, phase })
}

impl Exec {
    /// Kills the program and what it has started.
    pub(crate) fn kill(&self) -> Result<(), ShimError> {
        match (&self.cgroup, self.pid) {
            (Some(cgroup), _) => cgroup.kill()?,
            (None, Some(leader)) => processes::kill_session(leader),
            (None, None) => {}
        }
        Ok(())
    }

    /// After the program's end: a file to watch while something of it lives on in its cgroup.
    pub(crate) fn outlive(&mut self) -> Result<Option<BorrowedFd<'_>>, ShimError> {
        let Some(cgroup) = &self.cgroup else { return Ok(None) };
        let Some(events) = cgroup.watch()? else { return Ok(None) };
        self.phase = Phase::Outlived { events };
        Ok(self.watched())
    }

    /// Removes its cgroup, in which nothing may live any more.
    pub(crate) fn remove_cgroup(&self) -> Result<(), ShimError> {
        self.cgroup.as_ref().map_or(Ok(()), OwnCgroup::remove)
    }

    /// The file that is being watched.
    pub(crate) fn watched(&self) -> Option<BorrowedFd<'_>> {
        match &self.phase {
            Phase::Running | Phase::Ended { .. } => None,
            Phase::Outlived { events } => Some(events.as_fd()),
        }
    }
}
