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
use nix::{sys::signal::Signal, unistd::Pid};
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
use tokio::sync::{mpsc, oneshot};

use crate::places::SHIM_SOCKET;

/// Descriptor under which a shim finds its listening socket.
const LISTENER: i32 = 3;
/// How long a shim that was told to end, or killed, may take.
const END_TIMEOUT_MS: u16 = 10_000;
/// How long a shim may take to answer when the daemon comes back.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

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
        match ShimClient::connect(&socket).await {
            Ok((client, notices)) => {
                Ok((Self::new(client, child.pid.as_raw(), child.pidfd), notices))
            }
            Err(error) => {
                end(&child.pidfd).await;
                Err(error.into())
            }
        }
    }

    /// Connects to the shim of an earlier daemon.
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
        tokio::time::timeout(ANSWER_TIMEOUT, self.client.call(call, &[]))
            .await
            .map_err(|_elapsed| ClientError::Silent { seconds: ANSWER_TIMEOUT.as_secs() })?
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
        if let Ok(pidfd) = self.pidfd.try_clone() {
            wait_and_reap(pidfd).await;
        }
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

async fn end(pidfd: &OwnedFd) {
    pidfd::send_signal(pidfd, Signal::SIGKILL).ok();
    if let Ok(pidfd) = pidfd.try_clone() {
        wait_and_reap(pidfd).await;
    }
}

async fn wait_and_reap(process: OwnedFd) {
    let waiting = tokio::task::spawn_blocking(move || {
        if !pidfd::wait_exit(&process, Some(END_TIMEOUT_MS)).unwrap_or(true) {
            pidfd::send_signal(&process, Signal::SIGKILL).ok();
            pidfd::wait_exit(&process, Some(END_TIMEOUT_MS)).ok();
        }
        // The shim of an earlier daemon is not our child; its new parent reaps it.
        pidfd::try_reap(&process).ok();
    });
    waiting.await.ok();
}
