//! Running a command in a container and collecting what it prints: CRI `ExecSync`.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use model::{IdQuery, SandboxId};
use shim_api::{
    client::ClientError,
    v1::{self, request::Call},
};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe::Receiver,
    sync::{oneshot, watch},
};

use crate::{
    Engine, EngineError, ExecOutput, clock,
    containers::running,
    error::{internal, shim_failure},
    shims::ShimHandle,
};

/// Most of both streams together: what fits into one gRPC message of 16 MiB beside everything else in it.
const OUTPUT_MAX_BYTES: usize = (16 << 20) - (64 << 10);
/// How long a process that outlives the command may hold its output open.
const ORPHAN_GRACE: Duration = Duration::from_secs(1);
/// How long a killed command may take to be reported.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
const READ_BYTES: usize = 32 << 10;
/// Stands for no limit, without overflowing a point in time.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

impl Engine {
    /// Runs `argv` in a running container, as the container's own user and under its restrictions.
    ///
    /// After `timeout` (`None`: no limit) the command and all that it started is killed. Dropping the future kills it
    /// too. Output beyond what a reply can carry is read and dropped.
    ///
    /// CRI `ExecSync`.
    ///
    /// # Errors
    /// [`EngineError::WrongState`] unless the container runs; [`EngineError::DeadlineExceeded`].
    pub async fn exec_sync(
        &self,
        query: &IdQuery,
        argv: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, EngineError> {
        let container = self.inner.registry.find_container(query)?;
        let (record, shim) = running(&container, "exec in container")?;
        let limit = timeout.unwrap_or(LONGEST).min(LONGEST);
        let deadline = tokio::time::Instant::now() + limit;
        let late = |_elapsed| EngineError::DeadlineExceeded {
            operation: format!("exec in container {}", record.id),
            seconds: limit.as_secs(),
        };
        let start = Command::start(shim, &record.sandbox_id, record.id.as_str(), argv);
        let mut command = tokio::time::timeout_at(deadline, start).await.map_err(late)??;
        match tokio::time::timeout_at(deadline, command.finish()).await {
            Ok(finished) => finished.map_err(|error| shim_failure(&record.sandbox_id, error)),
            Err(elapsed) => {
                command.kill().await;
                Err(late(elapsed))
            }
        }
    }
}

/// A command that runs; killed when dropped.
struct Command {
    shim: ShimHandle,
    exec_id: String,
    exit: Option<oneshot::Receiver<v1::ExecExited>>,
    stdout: Capture,
    stderr: Capture,
    /// Tells both captures that the command is over.
    over: watch::Sender<bool>,
}

impl Command {
    async fn start(
        shim: ShimHandle,
        sandbox: &SandboxId,
        container_id: &str,
        argv: Vec<String>,
    ) -> Result<Self, EngineError> {
        let setup = |source: io::Error| internal("prepare the exec", source);
        let bytes = clock::random_bytes().map_err(setup)?;
        let exec_id = model::ContainerId::from_random(bytes).short().to_owned();
        let stdin = File::open("/dev/null").map_err(setup)?;
        let (stdout, stdout_end) = pipe().map_err(setup)?;
        let (stderr, stderr_end) = pipe().map_err(setup)?;
        let (over, ended) = watch::channel(false);
        let exit = shim.watch_exec(&exec_id);
        let mut command = Self {
            stdout: Capture::new(stdout, ended.clone()),
            stderr: Capture::new(stderr, ended),
            over,
            shim,
            exec_id,
            exit: Some(exit),
        };
        let call = Call::Exec(v1::Exec {
            exec_id: command.exec_id.clone(),
            container_id: container_id.to_owned(),
            argv,
        });
        let fds = [stdin.as_fd(), stdout_end.as_fd(), stderr_end.as_fd()];
        if let Err(error) = command.shim.call(call, &fds).await {
            command.forget();
            return Err(shim_failure(sandbox, error));
        }
        Ok(command)
    }

    /// Collects until the command is over and its output is read.
    async fn finish(&mut self) -> Result<ExecOutput, ClientError> {
        let Some(exit) = self.exit.as_mut() else { return Err(ClientError::Closed) };
        let over = &self.over;
        let ended = async {
            let exit = exit.await;
            over.send_replace(true);
            exit
        };
        let (exit, (), ()) = tokio::join!(ended, self.stdout.fill(), self.stderr.fill());
        self.exit = None;
        let exit_code = exit.map_err(|_shim_gone| ClientError::Closed)?.exit_code;
        let stdout = std::mem::take(&mut self.stdout.bytes);
        let mut stderr = std::mem::take(&mut self.stderr.bytes);
        stderr.truncate(OUTPUT_MAX_BYTES.saturating_sub(stdout.len()));
        Ok(ExecOutput { stdout, stderr, exit_code })
    }

    /// Kills the command with everything that it started, and waits until it is gone.
    async fn kill(&mut self) {
        let call = Call::KillExec(v1::KillExec { exec_id: self.exec_id.clone() });
        if let Err(error) = self.shim.ask(call).await {
            tracing::debug!(exec_id = self.exec_id, %error, "kill exec");
        }
        if let Some(exit) = self.exit.take() {
            tokio::time::timeout(KILL_TIMEOUT, exit).await.ok();
        }
        self.forget();
    }

    fn forget(&mut self) {
        self.exit = None;
        self.shim.forget_exec(&self.exec_id);
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        // Still waited for: the caller has gone away.
        if self.exit.take().is_some() {
            let (shim, exec_id) = (self.shim.clone(), self.exec_id.clone());
            shim.forget_exec(&exec_id);
            tokio::spawn(async move {
                shim.ask(Call::KillExec(v1::KillExec { exec_id })).await.ok();
            });
        }
    }
}

/// One output stream of a command, kept up to the limit.
struct Capture {
    pipe: Receiver,
    over: watch::Receiver<bool>,
    bytes: Vec<u8>,
}

impl Capture {
    fn new(pipe: Receiver, over: watch::Receiver<bool>) -> Self {
        Self { pipe, over, bytes: Vec::new() }
    }

    /// Reads until the end of the stream, or until an orphan has held it open for too long.
    async fn fill(&mut self) {
        let mut over = self.over.clone();
        let grace = async {
            // An error means that the command's owner is gone, which ends this as well.
            over.wait_for(|over| *over).await.ok();
            tokio::time::sleep(ORPHAN_GRACE).await;
        };
        tokio::select! {
            () = read_all(&mut self.pipe, &mut self.bytes) => {}
            () = grace => {}
        }
    }
}

async fn read_all(pipe: &mut Receiver, bytes: &mut Vec<u8>) {
    let mut buffer = vec![0; READ_BYTES];
    // A pipe that fails has nothing more to say.
    while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
        let room = OUTPUT_MAX_BYTES.saturating_sub(bytes.len());
        bytes.extend_from_slice(&buffer[..length.min(room)]);
    }
}

fn pipe() -> io::Result<(Receiver, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    sys::fd::set_nonblocking(&read, true)?;
    Ok((Receiver::from_owned_fd(read)?, write))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn r19_output_is_read_to_the_end_but_kept_to_the_limit() {
        let (read, write) = pipe().expect("pipe");
        let (_over, ended) = watch::channel(false);
        let mut capture = Capture::new(read, ended);
        let writer = std::thread::spawn(move || {
            let mut write = File::from(write);
            let chunk = vec![b'y'; 1 << 20];
            (0..20).try_for_each(|_| write.write_all(&chunk))
        });
        capture.fill().await;
        writer.join().expect("thread").expect("everything was read");
        assert_eq!(capture.bytes.len(), OUTPUT_MAX_BYTES);
    }

    #[tokio::test]
    async fn c52_an_orphan_that_holds_the_pipe_delays_the_end_by_the_grace_only() {
        let (read, write) = pipe().expect("pipe");
        let (over, ended) = watch::channel(false);
        let mut capture = Capture::new(read, ended);
        File::from(write.try_clone().expect("dup")).write_all(b"text").expect("write");
        over.send_replace(true);
        capture.fill().await;
        assert_eq!(capture.bytes, b"text");
        drop(write);
    }
}
