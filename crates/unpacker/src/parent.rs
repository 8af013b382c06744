//! The parent: starts an unpacker, hands it the blob, takes its answer.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use image::{Destination, ImageError, LayerSummary, Unpack, UnpackOptions};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use nix::unistd::{Pid, pipe2};
use sys::pidfd;
use sys::spawn::{Spawn, spawn};

use crate::answer::Answer;
use crate::child::{ERRORS, INPUT, OUTPUT, TARGET, TRANSCRIPT};
use crate::error::UnpackerError;

/// What a pipe holds if the user may still have one so large; else the kernel's default.
const PIPE_BYTES: i32 = 1 << 20;
/// No honest answer is longer.
const ANSWER_BYTES: u64 = 64 << 10;
const COPY_BYTES: usize = 128 << 10;
/// How long the process may take to end once it has answered.
const ENDING_MS: u16 = 2000;

/// The program that unpacks: one that calls [`child`](crate::child()).
#[derive(Clone, Debug)]
pub struct Unpacker {
    exe: Arc<OwnedFd>,
    arguments: Vec<CString>,
}

impl Unpacker {
    /// Takes the program and the arguments, its name first, that make it call
    /// [`child`](crate::child()) with those that follow.
    #[must_use]
    pub fn new(exe: OwnedFd, arguments: Vec<CString>) -> Self {
        Self { exe: Arc::new(exe), arguments }
    }

    /// Starts a process that unpacks one layer.
    ///
    /// When its parent dies, it finds the end of its input and ends as well.
    ///
    /// # Errors
    /// [`UnpackerError::Pipe`], [`UnpackerError::Start`]: descriptors, processes or memory are
    /// short.
    pub fn start(
        &self,
        destination: Destination<'_>,
        options: &UnpackOptions,
    ) -> Result<Unpacking, UnpackerError> {
        let (input, blob) = pipe()?;
        let (answer, output) = pipe()?;
        // Only for speed.
        fcntl(&blob, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)).ok();
        let errors = File::options().write(true).open("/dev/null");
        let errors = errors.map_err(on_pipe("open /dev/null"))?;
        let options = serde_json::to_vec(options).map_err(UnpackerError::Options)?;
        let mut argv = self.arguments.clone();
        // JSON text has no NUL.
        argv.extend(CString::new(options));
        let child = spawn(&Spawn {
            exe: self.exe.as_fd(),
            argv: &argv,
            envp: &[],
            fds: &[
                (input.as_fd(), INPUT),
                (output.as_fd(), OUTPUT),
                (errors.as_fd(), ERRORS),
                (destination.root, TARGET),
                (destination.transcript, TRANSCRIPT),
            ],
            cgroup: None,
            new_session: true,
        })
        .map_err(UnpackerError::Start)?;
        let (pid, pidfd) = (child.pid, child.pidfd);
        Ok(Unpacking { blob: Some(blob), answer: answer.into(), pid, pidfd, reaped: false })
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), UnpackerError> {
    pipe2(OFlag::O_CLOEXEC).map_err(|errno| on_pipe("make a pipe")(errno.into()))
}

fn on_pipe(operation: &'static str) -> impl FnOnce(io::Error) -> UnpackerError {
    move |source| UnpackerError::Pipe { operation, source }
}

/// A layer that is being unpacked. Dropped before its end, the process is killed.
///
/// Whatever its input or a layer that takes it over does, it is killed a little after the time that
/// the options give it, so neither writing to it nor waiting for it lasts longer.
#[derive(Debug)]
pub struct Unpacking {
    blob: Option<OwnedFd>,
    answer: File,
    pid: Pid,
    pidfd: OwnedFd,
    reaped: bool,
}

impl Unpacking {
    /// The process that unpacks.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The pipe to write the blob's bytes to, and to close at their end; once.
    ///
    /// `EPIPE` says that the unpacker has ended before; [`Unpacking::wait`] says why.
    pub fn take_input(&mut self) -> Option<OwnedFd> {
        self.blob.take()
    }

    /// Waits for the answer and the end of the process. Closes the pipe for the blob if that has
    /// not been taken.
    ///
    /// # Errors
    /// [`UnpackerError`], by whose fault it is.
    pub fn wait(mut self) -> Result<LayerSummary, UnpackerError> {
        // Nobody else will write.
        self.blob = None;
        let mut answer = Vec::new();
        let read = (&self.answer).take(ANSWER_BYTES).read_to_end(&mut answer);
        read.map_err(on_pipe("read the answer"))?;
        // It has nothing left to do, unless it has more to say than anyone reads.
        if !pidfd::wait_exit(&self.pidfd, Some(ENDING_MS)).map_err(UnpackerError::Wait)? {
            pidfd::send_signal(&self.pidfd, Signal::SIGKILL).ok();
        }
        let ending = self.reap().map_err(UnpackerError::Wait)?;
        match serde_json::from_slice::<Answer>(&answer) {
            Ok(answer) => answer.into_result(),
            Err(_) => Err(UnpackerError::NoAnswer { ending: describe(ending) }),
        }
    }

    /// Waits for the end of the process.
    fn reap(&mut self) -> Result<Option<WaitStatus>, Errno> {
        pidfd::wait_exit(&self.pidfd, None)?;
        self.reaped = true;
        pidfd::try_reap(&self.pidfd)
    }
}

fn describe(ending: Option<WaitStatus>) -> String {
    match ending {
        Some(WaitStatus::Signaled(_, signal, _)) => format!("was killed by {signal}"),
        Some(WaitStatus::Exited(_, code)) => format!("ended with code {code} and no answer"),
        _ => "ended without an answer".to_owned(),
    }
}

impl Drop for Unpacking {
    fn drop(&mut self) {
        if !self.reaped {
            pidfd::send_signal(&self.pidfd, Signal::SIGKILL).ok();
            self.reap().ok();
        }
    }
}

impl Unpack for Unpacker {
    fn unpack(
        &self,
        blob: &mut dyn Read,
        destination: Destination<'_>,
        options: &UnpackOptions,
    ) -> Result<LayerSummary, ImageError> {
        let mut unpacking = self.start(destination, options)?;
        if let Some(input) = unpacking.take_input() {
            feed(blob, &mut File::from(input))?;
        }
        Ok(unpacking.wait()?)
    }
}

/// Copies the blob; stops early when the unpacker has ended.
fn feed(blob: &mut dyn Read, input: &mut File) -> Result<(), ImageError> {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let count = match blob.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(ImageError::LayerRead { source }),
        };
        match input.write_all(&buffer[..count]) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.map_err(on_pipe("write the blob"))?,
        }
    }
}
