//! Handles to processes that a later process with the same number cannot take over.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::CloneFlags,
    sys::{
        signal::Signal,
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};

use crate::fd::owned_fd;

/// Opens a handle to `pid`.
///
/// Source: `pidfd_open(2)`, Linux 5.3. The descriptor is close-on-exec.
///
/// # Errors
/// `ESRCH` when the process is gone, `ENOSYS` on an older kernel.
pub fn open(pid: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_open takes two integers and touches none of our memory.
    let ret = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    // SAFETY: `ret` is what pidfd_open has just returned.
    unsafe { owned_fd(ret) }
}

/// Sends `signal` to the process behind `pidfd`.
///
/// Source: `pidfd_send_signal(2)`, Linux 5.1.
///
/// # Errors
/// `ESRCH` when it has been reaped, `EPERM` when the caller may not signal it.
pub fn send_signal(pidfd: impl AsFd, signal: Signal) -> Result<(), Errno> {
    #[expect(clippy::as_conversions, reason = "a field-less enum's own number")]
    let number = signal as i32;
    send_signal_number(pidfd, number)
}

/// As [`send_signal`], for numbers that nix has no name for: the real-time signals 34 to 64.
///
/// # Errors
/// As [`send_signal`]; `EINVAL` for a number that is no signal.
pub fn send_signal_number(pidfd: impl AsFd, signal: i32) -> Result<(), Errno> {
    let raw = pidfd.as_fd().as_raw_fd();
    // SAFETY: a null siginfo_t makes the kernel fill in its own; the other arguments are integers.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            raw,
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Errno::result(ret).map(drop)
}

/// Moves the caller into the namespaces in `which` of the process behind `pidfd`.
///
/// Source: `setns(2)`, pidfds since Linux 5.8. A PID namespace takes effect for children only.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN` over a namespace, `EINVAL` for the own user namespace or, for a user or mount
/// namespace, in a multithreaded process.
pub fn enter_namespaces(pidfd: impl AsFd, which: CloneFlags) -> Result<(), Errno> {
    nix::sched::setns(pidfd, which)
}

/// Waits up to `timeout_ms` (none: without limit) until the process has exited; it need not be a child.
///
/// Returns whether it has.
///
/// # Errors
/// As `poll(2)`.
pub fn wait_exit(pidfd: impl AsFd, timeout_ms: Option<u16>) -> Result<bool, Errno> {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    let timeout = timeout_ms.map_or(PollTimeout::NONE, PollTimeout::from);
    loop {
        match poll(&mut fds, timeout) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Reaps the child behind `pidfd` without blocking; `None` while it runs.
///
/// # Errors
/// `ECHILD` when it is not a child of the caller or has been reaped.
pub fn try_reap(pidfd: impl AsFd) -> Result<Option<WaitStatus>, Errno> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
    match waitid(Id::PIDFd(pidfd.as_fd()), flags)? {
        WaitStatus::StillAlive => Ok(None),
        status => Ok(Some(status)),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn pidfd_of_self_opens() {
        open(Pid::this()).expect("own pid");
    }

    #[test]
    fn pidfd_of_impossible_pid_is_refused() {
        assert_eq!(open(Pid::from_raw(-1)).expect_err("negative pid"), Errno::EINVAL);
    }

    #[test]
    fn killed_child_is_seen_and_reaped() {
        #[expect(clippy::zombie_processes, reason = "reaped below, by pidfd")]
        let child = Command::new("sleep").arg("60").spawn().expect("sleep");
        let pidfd = open(Pid::from_raw(i32::try_from(child.id()).expect("pid"))).expect("pidfd");
        assert!(!wait_exit(&pidfd, Some(0)).expect("poll"));
        assert_eq!(try_reap(&pidfd).expect("waitid"), None);
        send_signal(&pidfd, Signal::SIGKILL).expect("kill");
        assert!(wait_exit(&pidfd, Some(5000)).expect("poll"));
        let status = try_reap(&pidfd).expect("waitid").expect("dead");
        assert!(matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _)), "{status:?}");
    }
}
