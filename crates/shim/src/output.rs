//! A container's standard streams: pipes, and the log behind them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl, open},
    sys::stat::Mode,
    unistd::{Gid, Uid, fchown, pipe2, read},
};

use crate::{
    error::ShimError,
    log::{Splitter, Stream},
    log_file::LogFile,
};

/// What a pipe holds unless told otherwise, see `pipe(7)`.
const PIPE_BYTES: usize = 65_536;

/// The ends that a container's process gets as its standard streams.
#[derive(Debug)]
pub(crate) struct ContainerEnds {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// The ends that the shim keeps.
#[derive(Debug, Default)]
pub(crate) struct ShimEnds {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// Makes the streams: pipes for output and, if `stdin`, for input, which is `/dev/null` else.
///
/// The pipes belong to the container's user, who may then open `/dev/stdout` by its name. Output that nobody wants is
/// read, too: libcontainer opens a `/dev/null` among the output streams anew, and read-only.
pub(crate) fn make_streams(
    stdin: bool,
    owner: (Uid, Gid),
) -> Result<(ContainerEnds, ShimEnds), ShimError> {
    make(stdin, owner).map_err(ShimError::MakeStreams)
}

fn make(stdin: bool, owner: (Uid, Gid)) -> Result<(ContainerEnds, ShimEnds), Errno> {
    let mut ours = ShimEnds::default();
    let stdin = if stdin {
        let (read, write) = owned_pipe(owner)?;
        ours.stdin = Some(write);
        read
    } else {
        open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?
    };
    let (stdout_read, stdout) = owned_pipe(owner)?;
    let (stderr_read, stderr) = owned_pipe(owner)?;
    sys::fd::set_nonblocking(&stdout_read, true)?;
    sys::fd::set_nonblocking(&stderr_read, true)?;
    ours.stdout = Some(stdout_read);
    ours.stderr = Some(stderr_read);
    Ok((ContainerEnds { stdin, stdout, stderr }, ours))
}

fn owned_pipe((uid, gid): (Uid, Gid)) -> Result<(OwnedFd, OwnedFd), Errno> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    fchown(&write, Some(uid), Some(gid))?;
    Ok((read, write))
}

/// How much `pipe` can hold. The container may have changed it.
fn capacity_bytes(pipe: BorrowedFd<'_>) -> usize {
    let capacity = fcntl(pipe, FcntlArg::F_GETPIPE_SZ).ok();
    capacity.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(PIPE_BYTES)
}

/// What came of reading a stream once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// So many bytes were read; there may be more.
    Moved(usize),
    /// There is nothing at present.
    Idle,
    /// Every process that could write has closed it.
    Ended,
}

/// The way from a container's pipes to its log.
#[derive(Debug, Default)]
pub(crate) struct Output {
    #[expect(
        dead_code,
        reason = "held open, so that the container's reads wait instead of ending"
    )]
    stdin: Option<OwnedFd>,
    stdout: Source,
    stderr: Source,
    log: Option<LogFile>,
    /// Of the log that was closed.
    dropped_records: u64,
}

#[derive(Debug, Default)]
struct Source {
    /// `None` once the stream has ended.
    pipe: Option<OwnedFd>,
    lines: Splitter,
}

impl Output {
    pub(crate) fn new(ends: ShimEnds, log: Option<LogFile>) -> Self {
        let source = |pipe| Source { pipe, lines: Splitter::default() };
        Self {
            stdin: ends.stdin,
            stdout: source(ends.stdout),
            stderr: source(ends.stderr),
            log,
            dropped_records: 0,
        }
    }

    /// The pipes that are still open.
    pub(crate) fn pipes(&self) -> impl Iterator<Item = (Stream, BorrowedFd<'_>)> {
        [(Stream::Stdout, &self.stdout), (Stream::Stderr, &self.stderr)]
            .into_iter()
            .filter_map(|(stream, source)| Some((stream, source.pipe.as_ref()?.as_fd())))
    }

    pub(crate) fn log_mut(&mut self) -> Option<&mut LogFile> {
        self.log.as_mut()
    }

    /// See [`LogFile::dropped_records`].
    pub(crate) fn dropped_records(&self) -> u64 {
        self.log.as_ref().map_or(self.dropped_records, LogFile::dropped_records)
    }

    /// Moves at most one `buffer` of output from `stream` to the log, so that no container keeps the shim to itself.
    pub(crate) fn forward(&mut self, stream: Stream, buffer: &mut [u8]) -> Progress {
        let source = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let Some(pipe) = &source.pipe else { return Progress::Ended };
        let length = match read(pipe, buffer) {
            // Nothing interrupts a read that does not wait, in fact.
            Err(Errno::EAGAIN | Errno::EINTR) => return Progress::Idle,
            // A pipe has no other errors that reading again would repair.
            Err(_) | Ok(0) => return Progress::Ended,
            Ok(length) => length,
        };
        let log = &mut self.log;
        source.lines.push(&buffer[..length], |tag, text| {
            if let Some(log) = log {
                log.write(stream, tag, text);
            }
        });
        Progress::Moved(length)
    }

    /// Moves what the pipes hold to the log. Somebody may go on writing, so that reading a stream ends with the
    /// `buffer` that reaches its pipe's capacity.
    pub(crate) fn drain(&mut self, buffer: &mut [u8]) {
        let capacities: Vec<_> =
            self.pipes().map(|(stream, pipe)| (stream, capacity_bytes(pipe))).collect();
        for (stream, mut left) in capacities {
            while left > 0
                && let Progress::Moved(length) = self.forward(stream, buffer)
            {
                left = left.saturating_sub(length);
            }
        }
    }

    /// Gives up the pipe of a stream that has ended.
    pub(crate) fn take_pipe(&mut self, stream: Stream) -> Option<OwnedFd> {
        match stream {
            Stream::Stdout => self.stdout.pipe.take(),
            Stream::Stderr => self.stderr.pipe.take(),
        }
    }

    /// Writes what is left of unfinished lines and closes everything.
    pub(crate) fn finish(&mut self) {
        let mut log = self.log.take();
        for (stream, source) in
            [(Stream::Stdout, &mut self.stdout), (Stream::Stderr, &mut self.stderr)]
        {
            source.lines.finish(|tag, text| {
                if let Some(log) = &mut log {
                    log.write(stream, tag, text);
                }
            });
        }
        *self =
            Self { dropped_records: log.map_or(0, |log| log.dropped_records()), ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write, thread};

    use super::*;

    #[test]
    fn draining_empties_the_pipes_and_ends_though_somebody_writes_on() {
        let owner = (nix::unistd::getuid(), nix::unistd::getgid());
        let (theirs, ours) = make_streams(false, owner).expect("streams");
        let mut output = Output::new(ours, None);
        let mut buffer = [0; 4096];
        let (mut stdout, mut stderr) = (File::from(theirs.stdout), File::from(theirs.stderr));
        for pipe in [&mut stdout, &mut stderr] {
            pipe.write_all(&[b'x'; PIPE_BYTES]).expect("a pipe has room");
        }
        output.drain(&mut buffer);
        for stream in [Stream::Stdout, Stream::Stderr] {
            assert_eq!(output.forward(stream, &mut buffer), Progress::Idle, "{stream:?}");
        }
        let writer = thread::spawn(move || while stdout.write_all(&[b'x'; PIPE_BYTES]).is_ok() {});
        output.drain(&mut buffer);
        output.finish();
        writer.join().expect("its pipe is closed");
    }
}
