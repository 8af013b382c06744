//! The process that is PID 1 of a pod's shared PID namespace.

use std::{
    ffi::CStr,
    fs::File,
    io::{Read, Write},
    os::fd::{BorrowedFd, OwnedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    sched::CloneFlags,
    sys::signal::Signal,
    unistd::{Pid, fexecve, pipe2},
};
use sys::{
    memfd, pidfd,
    process::{self, Forked, SingleThreaded},
};

use crate::error::ShimError;

/// The program; `pause/pause.rs`.
static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

/// A running pause.
#[derive(Debug)]
pub(crate) struct Pause {
    pub(crate) pid: Pid,
    pidfd: OwnedFd,
}

impl Pause {
    /// Starts pause in a new PID namespace and, when given, in `cgroup`.
    pub(crate) fn start(
        proof: &SingleThreaded,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Result<Self, ShimError> {
        let program = memfd::sealed_copy(c"usnea-pause", PROGRAM).map_err(ShimError::MakePause)?;
        let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(ShimError::StartPause)?;
        match process::fork(proof, CloneFlags::CLONE_NEWPID, cgroup)
            .map_err(ShimError::StartPause)?
        {
            Forked::Child => become_pause(&program, write),
            Forked::Parent { pid, pidfd } => {
                drop(write);
                let pause = Self { pid, pidfd };
                match exec_errno(read) {
                    None => Ok(pause),
                    Some(errno) => {
                        pause.stop();
                        Err(ShimError::StartPause(errno))
                    }
                }
            }
        }
    }

    /// Kills pause, and with it every process of its namespace, and reaps it.
    pub(crate) fn stop(self) {
        const WITHIN: Duration = Duration::from_secs(1);
        // What fails here has ended already.
        pidfd::send_signal(&self.pidfd, Signal::SIGKILL).ok();
        pidfd::wait_exit(&self.pidfd, u16::try_from(WITHIN.as_millis()).ok()).ok();
        pidfd::try_reap(&self.pidfd).ok();
    }
}

/// In the child: goes on as pause, or reports the errno and ends.
fn become_pause(program: &OwnedFd, report: OwnedFd) -> ! {
    let Err(errno) = exec(program);
    #[expect(clippy::as_conversions, reason = "a field-less enum's own number")]
    let number = errno as i32;
    // Nobody is left to tell when this fails; the shim then sees the process end.
    File::from(report).write_all(&number.to_ne_bytes()).ok();
    process::exit_now(127)
}

fn exec(program: &OwnedFd) -> Result<std::convert::Infallible, Errno> {
    // A pod's namespace does not outlive its shim.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    process::reset_signals();
    process::cloexec_from(0)?;
    fexecve::<_, _, &CStr>(program, &[c"pause"], &[])
}

/// The errno that the child has reported; `None` when exec has closed the pipe.
fn exec_errno(pipe: OwnedFd) -> Option<Errno> {
    let mut number = [0; 4];
    File::from(pipe).read_exact(&mut number).ok()?;
    Some(Errno::from_raw(i32::from_ne_bytes(number)))
}
