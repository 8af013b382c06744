//! Starting a created container.

use std::{
    fs::File,
    io::{Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::stat::Mode,
};
use sys::fd::proc_path;

use crate::error::RuntimeError;

/// Lets the waiting init of a created container become its program.
///
/// Whether it could is told by [`read_exec_status`].
///
/// # Errors
/// [`RuntimeError::File`]: `ENOENT` for a container that is unknown, `ECONNREFUSED` when its init does not wait (any
/// more).
pub fn release(state_root: &Path, container_id: &str) -> Result<(), RuntimeError> {
    let directory = state_root.join(container_id);
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let connect = || {
        // A socket's path may have 107 bytes; this one always fits.
        let directory = open(&directory, flags, Mode::empty())?;
        let mut socket = UnixStream::connect(proc_path(&directory).join("notify.sock"))?;
        socket.write_all(b"start container")
    };
    connect().map_err(RuntimeError::file("connect to init in", &directory))
}

/// What became of a released init.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecStatus {
    /// It has become its program, or has died trying, which its exit tells.
    Running,
    /// It could not and has exited.
    Failed {
        /// For people, such as `exec "/x": No such file or directory (os error 2)`.
        message: String,
    },
}

/// Reads the pipe whose other end is [`EXEC_STATUS`](crate::create::fds::EXEC_STATUS), after [`release`].
///
/// # Errors
/// [`RuntimeError::TimedOut`] when init does neither within `timeout`.
pub fn read_exec_status(pipe: OwnedFd, timeout: Duration) -> Result<ExecStatus, RuntimeError> {
    let text = read_within(pipe, timeout, "exec of the container's program")?;
    if text.is_empty() {
        return Ok(ExecStatus::Running);
    }
    Ok(ExecStatus::Failed { message: String::from_utf8_lossy(&text).into_owned() })
}

/// Everything that is written to `pipe` until its end.
pub(crate) fn read_within(
    pipe: OwnedFd,
    timeout: Duration,
    what: &'static str,
) -> Result<Vec<u8>, RuntimeError> {
    let deadline = Instant::now() + timeout;
    let mut pipe = File::from(pipe);
    let mut text = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        if !readable(&pipe, deadline).map_err(RuntimeError::system("poll"))? {
            return Err(RuntimeError::TimedOut { what, milliseconds: timeout.as_millis() });
        }
        match pipe.read(&mut buffer).map_err(RuntimeError::file("read", what))? {
            0 => return Ok(text),
            length => text.extend_from_slice(&buffer[..length]),
        }
    }
}

fn readable(pipe: &File, deadline: Instant) -> Result<bool, Errno> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::pipe;

    use super::*;

    #[test]
    fn a_closed_pipe_means_running_and_a_text_means_failure() {
        let (read, write) = pipe().expect("pipe");
        drop(write);
        let status = read_exec_status(read, Duration::from_secs(1)).expect("status");
        assert_eq!(status, ExecStatus::Running);

        let (read, write) = pipe().expect("pipe");
        File::from(write).write_all(b"exec \"/x\": no").expect("write");
        let status = read_exec_status(read, Duration::from_secs(1)).expect("status");
        assert_eq!(status, ExecStatus::Failed { message: "exec \"/x\": no".to_owned() });
    }

    #[test]
    fn an_open_pipe_is_not_waited_for_without_end() {
        let (read, _write) = pipe().expect("pipe");
        let error = read_exec_status(read, Duration::from_millis(20)).expect_err("open");
        assert!(matches!(error, RuntimeError::TimedOut { milliseconds: 20, .. }), "{error:?}");
    }

    #[test]
    fn a_container_that_does_not_wait_is_an_error() {
        let directory = tempfile::tempdir().expect("directory");
        let error = release(directory.path(), "none").expect_err("unknown");
        assert!(matches!(error, RuntimeError::File { .. }), "{error:?}");
        std::fs::create_dir(directory.path().join("long".repeat(40))).expect("state");
        let socket = std::os::unix::net::UnixListener::bind(directory.path().join("s")).expect("s");
        std::fs::rename(
            directory.path().join("s"),
            directory.path().join("long".repeat(40)).join("notify.sock"),
        )
        .expect("rename");
        release(directory.path(), &"long".repeat(40)).expect("a long path is no obstacle");
        let mut text = String::new();
        socket.accept().expect("accept").0.read_to_string(&mut text).expect("read");
        assert!(!text.is_empty());
    }
}
