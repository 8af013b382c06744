//! Reaping children whatever ended them.
//!
//! nix reports a child that a real-time signal has ended as `EINVAL` and loses its pid; containers are stopped with
//! such signals (systemd's is `SIGRTMIN+3`).

use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

use nix::{errno::Errno, unistd::Pid};

/// Reaps one child that has ended, without waiting; `None` when there is none.
///
/// Whoever waits for a certain child must not be in the same process: its status may be taken here.
///
/// Source: `waitpid(2)` with `WNOHANG`.
///
/// # Errors
/// None but those of a broken sandbox, such as `ENOSYS`.
pub fn reap_any() -> Result<Option<(Pid, ExitStatus)>, Errno> {
    let mut status = 0;
    // SAFETY: `status` is writable and outlives the call.
    let ret = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    match Errno::result(ret) {
        Ok(0) | Err(Errno::ECHILD) => Ok(None),
        Ok(pid) => Ok(Some((Pid::from_raw(pid), ExitStatus::from_raw(status)))),
        Err(errno) => Err(errno),
    }
}
