//! Shims: starting one from the sealed binary, reaching one that runs, and seeing one end.

use std::{
    collections::HashMap,
    ffi::CString,
    fs::{self, File},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use model::SandboxId;
use nix::{errno::Errno, sys::signal::Signal, unistd::Pid};
use shim_api::{
    client::{Answer, ClientError, Notice, ShimClient},
    v1::{ExecExited, request::Call},
};
use sys::{
    cgroup::Cgroup,
    fd::proc_path,
    memfd, pidfd, seqpacket,
    spawn::{Spawn, SpawnError, spawn},
};
use thiserror::Error;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc, oneshot},
};

use crate::places::SHIM_SOCKET;

/// Descriptor under which a shim finds its listening socket.
const LISTENER: i32 = 3;
/// How long a shim that was told to end, or killed, may take.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a process is looked at that cannot be watched.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How long a healthy shim may take to answer what it can answer at once.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no shim.
#[derive(Debug, Error)]
pub(crate) enum ShimError {
    /// A file or socket of the shim could not be made.
    #[error("prepare {}", path.display())]
    Prepare {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It did not start.
    #[error("start usnea-shim")]
    Spawn(#[from] SpawnError),
    /// It started, but does not talk.
    #[error("greet usnea-shim")]
    Connect(#[from] ClientError),
    /// It answers, but has no pod: it is of a sandbox whose making failed.
    #[error("usnea-shim does not know its pod")]
    NoPod,
}

impl ShimError {
    /// Whether this says that there is no shim to talk to, and never will be. Everything else may pass: a shim that is
    /// stopped, or busy with the making of a container, is alive.
    pub(crate) fn is_gone(&self) -> bool {
        match self {
            Self::Prepare { source, .. } => {
                source.kind() == io::ErrorKind::NotFound
                    || source.raw_os_error() == Some(nix::libc::ESRCH)
            }
            Self::Connect(ClientError::Connect { source, .. }) => {
                matches!(source, Errno::ECONNREFUSED | Errno::ENOENT)
            }
            Self::Connect(ClientError::Version { .. }) | Self::NoPod => true,
            // A socket that was closed before the Hello: the next attempt says whether anybody listens.
            Self::Connect(_) | Self::Spawn(_) => false,
        }
    }
}

/// The shim's program, sealed so that no container can change what later pods run.
#[derive(Debug)]
pub(crate) struct ShimProgram(OwnedFd);

impl ShimProgram {
    /// Seals a copy of the file at `path`.
    pub(crate) fn load(path: &Path) -> io::Result<Self> {
        memfd::sealed_copy(c"usnea-shim", File::open(path)?).map(Self)
    }
}

/// A shim that answers, or did.
#[derive(Debug)]
pub(crate) struct Shim {
    client: ShimClient,
    /// In the daemon's PID namespace.
    pub(crate) pid: i32,
    pidfd: OwnedFd,
    /// Callers that wait for an exec'd program, by exec id.
    execs: Mutex<HashMap<String, oneshot::Sender<ExecExited>>>,
}

/// What a shim is started with.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    pub(crate) program: &'a ShimProgram,
    pub(crate) sandbox: &'a SandboxId,
    /// The sandbox's runtime directory.
    pub(crate) directory: &'a Path,
    /// Receives what the shim prints, which is nothing unless it has a bug.
    pub(crate) log: &'a Path,
    /// Where the shim lives.
    pub(crate) cgroup: Option<&'a Cgroup>,
}

impl Shim {
    /// Starts a shim and connects to it.
    pub(crate) async fn start(
        start: &Start<'_>,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Notice>), ShimError> {
        let prepare = |path: &Path| {
            let path = path.to_owned();
            move |source| ShimError::Prepare { path, source }
        };
        let directory = File::open(start.directory).map_err(prepare(start.directory))?;
        let socket = proc_path(&directory).join(SHIM_SOCKET);
        let listener = seqpacket::listen_at(&socket)
            .map_err(io::Error::from)
            .map_err(prepare(&start.directory.join(SHIM_SOCKET)))?;
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(start.log)
            .map_err(prepare(start.log))?;
        let null = File::open("/dev/null").map_err(prepare(Path::new("/dev/null")))?;
        let argv = [c"usnea-shim".to_owned(), c"pod".to_owned(), c_string(start.sandbox)];
        let child = spawn(&Spawn {
            exe: start.program.0.as_fd(),
            argv: &argv,
            envp: &[],
            fds: &[
                (null.as_fd(), 0),
                (log.as_fd(), 1),
                (log.as_fd(), 2),
                (listener.as_fd(), LISTENER),
            ],
            cgroup: start.cgroup.map(AsFd::as_fd),
            new_session: true,
        })?;
        match answered(ShimClient::connect(&socket)).await {
            Ok((client, notices)) => {
                Ok((Self::new(client, child.pid.as_raw(), child.pidfd), notices))
            }
            Err(error) => {
                end(&child.pidfd).await;
                Err(error.into())
            }
        }
    }

    /// Connects to a shim that may be there, and waits for it no longer than a healthy one needs.
    pub(crate) async fn reconnect_soon(
        directory: &Path,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Notice>), ShimError> {
        let silent = ClientError::Silent { seconds: ANSWER_TIMEOUT.as_secs() };
        let limited = tokio::time::timeout(ANSWER_TIMEOUT, Self::reconnect(directory));
        limited.await.unwrap_or(Err(ShimError::Connect(silent)))
    }

    /// Connects to a shim that may be there, of this daemon or an earlier one, and waits until it answers.
    pub(crate) async fn reconnect(
        directory: &Path,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Notice>), ShimError> {
        let prepare = |source| ShimError::Prepare { path: directory.to_owned(), source };
        let opened = File::open(directory).map_err(prepare)?;
        let socket = proc_path(&opened).join(SHIM_SOCKET);
        let (client, notices) = ShimClient::connect(&socket).await?;
        let pid = client.pid();
        let pidfd = pidfd::open(Pid::from_raw(pid)).map_err(|errno| prepare(errno.into()))?;
        Ok((Self::new(client, pid, pidfd), notices))
    }

    fn new(client: ShimClient, pid: i32, pidfd: OwnedFd) -> Self {
        Self { client, pid, pidfd, execs: Mutex::new(HashMap::new()) }
    }

    /// Asks for something that takes as long as it takes.
    pub(crate) async fn call(
        &self,
        call: Call,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Answer, ClientError> {
        self.client.call(call, fds).await
    }

    /// Asks for something that a healthy shim answers at once.
    pub(crate) async fn ask(&self, call: Call) -> Result<Answer, ClientError> {
        answered(self.client.call(call, &[])).await
    }

    /// Registers interest in the end of `exec_id`, before it is started.
    pub(crate) fn watch_exec(&self, exec_id: &str) -> oneshot::Receiver<ExecExited> {
        let (sender, receiver) = oneshot::channel();
        self.execs().insert(exec_id.to_owned(), sender);
        receiver
    }

    /// Passes the end of an exec'd program to whoever waits for it.
    pub(crate) fn exec_exited(&self, exit: ExecExited) {
        if let Some(waiter) = self.execs().remove(&exit.exec_id) {
            // A waiter that is gone has no use for it.
            drop(waiter.send(exit));
        }
    }

    /// Gives up on `exec_id`.
    pub(crate) fn forget_exec(&self, exec_id: &str) {
        self.execs().remove(exec_id);
    }

    /// Ends every wait, after the connection has ended.
    pub(crate) fn disconnected(&self) {
        self.execs().clear();
    }

    /// Waits until the process is gone, killing it when it takes too long, and reaps it if it is our child.
    pub(crate) async fn ended(&self) {
        end_within(&self.pidfd, END_TIMEOUT).await;
    }

    /// Waits until the process is gone; returns whether it is within `limit`.
    pub(crate) async fn is_gone_within(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, exit(&self.pidfd)).await.is_ok()
    }

    /// Waits until the process is gone, however long that takes, and reaps it if it is our child.
    pub(crate) async fn outlive(&self) {
        exit(&self.pidfd).await;
        reap(&self.pidfd);
    }

    fn execs(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<ExecExited>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shared handle; a sandbox without one has no shim any more.
pub(crate) type ShimHandle = Arc<Shim>;

fn c_string(id: &SandboxId) -> CString {
    // An id has hexadecimal digits only.
    CString::new(id.as_str()).unwrap_or_default()
}

/// Limits what a healthy shim does at once.
async fn answered<T>(
    answer: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    tokio::time::timeout(ANSWER_TIMEOUT, answer)
        .await
        .unwrap_or(Err(ClientError::Silent { seconds: ANSWER_TIMEOUT.as_secs() }))
}

async fn end(process: &OwnedFd) {
    pidfd::send_signal(process, Signal::SIGKILL).ok();
    end_within(process, END_TIMEOUT).await;
}

async fn end_within(process: &OwnedFd, limit: Duration) {
    if tokio::time::timeout(limit, exit(process)).await.is_err() {
        pidfd::send_signal(process, Signal::SIGKILL).ok();
        tokio::time::timeout(END_TIMEOUT, exit(process)).await.ok();
    }
    reap(process);
}

/// Waits until the process has exited. No thread waits: the daemon can end meanwhile.
async fn exit(process: &OwnedFd) {
    #[expect(
        deprecated,
        reason = "its replacement is unsafe; an owned descriptor keeps what that one asks for"
    )]
    let watch = |process| AsyncFd::with_interest(process, Interest::READABLE);
    // A descriptor of its own, because one cannot be watched twice.
    let watched = process.try_clone().and_then(watch);
    match watched {
        Ok(watched) => drop(watched.readable().await),
        Err(error) => {
            tracing::warn!(%error, "watch a shim's process; asking instead");
            while !pidfd::wait_exit(process, Some(0)).unwrap_or(true) {
                tokio::time::sleep(ASK_EVERY).await;
            }
        }
    }
}

fn reap(process: &OwnedFd) {
    // The shim of an earlier daemon is not our child; its new parent reaps it.
    pidfd::try_reap(process).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(source: Errno) -> ShimError {
        ClientError::Connect { path: PathBuf::new(), source }.into()
    }

    #[test]
    fn only_who_cannot_be_there_is_gone() {
        let prepare =
            |errno: Errno| ShimError::Prepare { path: PathBuf::new(), source: errno.into() };
        let gone = [
            connect(Errno::ECONNREFUSED),
            connect(Errno::ENOENT),
            prepare(Errno::ENOENT),
            prepare(Errno::ESRCH),
            ClientError::Version { theirs: 7 }.into(),
        ];
        assert!(gone.iter().all(ShimError::is_gone), "{gone:?}");
        let may_live = [
            connect(Errno::EAGAIN),
            prepare(Errno::EMFILE),
            ClientError::Silent { seconds: 5 }.into(),
            ClientError::Closed.into(),
        ];
        assert!(!may_live.iter().any(ShimError::is_gone), "{may_live:?}");
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_waited_for_by_several_and_reaped() {
        let child = spawn(&Spawn {
            exe: File::open("/bin/sleep").expect("sleep").as_fd(),
            argv: &[c"sleep".to_owned(), c"60".to_owned()],
            envp: &[],
            fds: &[],
            cgroup: None,
            new_session: false,
        })
        .expect("spawn");
        let process = child.pidfd;
        let early = tokio::time::timeout(Duration::from_millis(50), exit(&process));
        early.await.expect_err("it lives");
        tokio::join!(exit(&process), end(&process));
        assert_eq!(pidfd::try_reap(&process), Err(Errno::ECHILD), "reaped already");
    }
}
