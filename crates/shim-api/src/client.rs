//! The daemon's side of the connection to one shim: calls that wait for their reply, and notices of exits.
//!
//! A task reads the connection until that ends, which ends every waiting call, and then tells why.

use std::{
    collections::HashMap,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use nix::errno::Errno;
use sys::{fd, seqpacket};
use thiserror::Error;
use tokio::{
    io::Interest,
    net::UnixStream,
    sync::{mpsc, oneshot},
};

use crate::{
    PROTOCOL_VERSION, ShimApiError, recv, send,
    v1::{self, reply, request::Call, to_daemon, to_shim},
};

/// Why a shim could not be reached, or did not do what it was asked.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens at the shim's socket.
    #[error("connect to {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// `ECONNREFUSED` or `ENOENT` when the shim is gone.
        source: Errno,
    },
    /// The runtime could not watch the socket.
    #[error("watch the connection")]
    Watch(#[source] io::Error),
    /// A message could not be sent or read.
    #[error("talk to the shim")]
    Transport(#[from] ShimApiError),
    /// The shim is of a release that this one cannot talk to.
    #[error("the shim speaks protocol {theirs}, this daemon {PROTOCOL_VERSION}")]
    Version {
        /// The shim's version.
        theirs: u32,
    },
    /// The connection ended before the reply.
    #[error("the shim has closed the connection")]
    Closed,
    /// The shim said nothing for too long.
    #[error("the shim did not answer within {seconds} s")]
    Silent {
        /// The limit.
        seconds: u64,
    },
    /// The shim refused or failed; the call has had no effect.
    #[error("{message}")]
    Failed {
        /// Whose fault it is.
        kind: v1::failure::Kind,
        /// For people.
        message: String,
    },
    /// The shim answered another question.
    #[error("unexpected reply")]
    Unexpected,
}

/// What a shim tells without being asked, in the order in which it happened.
#[derive(Debug)]
pub enum Notice {
    /// A container is over.
    ContainerExited(v1::ContainerExited),
    /// An exec'd program is over.
    ExecExited(v1::ExecExited),
    /// The connection has ended, which need not mean that the shim has. The last notice.
    Disconnected(ClientError),
}

/// A reply and the descriptors that came with it.
#[derive(Debug)]
pub struct Answer {
    /// Never [`reply::Result::Failure`].
    pub result: reply::Result,
    /// In the order that the message documents.
    pub fds: Vec<OwnedFd>,
}

/// A connection to a shim; clones share it.
#[derive(Clone, Debug)]
pub struct ShimClient {
    connection: Arc<Connection>,
    pid: i32,
}

#[derive(Debug)]
struct Connection {
    /// A `SOCK_SEQPACKET` socket: tokio only watches its readiness, all I/O is crate [`sys`]'s.
    socket: UnixStream,
    next_id: AtomicU64,
    /// `None` once the connection has ended.
    waiting: Mutex<Option<Waiting>>,
}

/// Callers by the id of their request.
type Waiting = HashMap<u64, oneshot::Sender<Result<Answer, ClientError>>>;

impl ShimClient {
    /// Connects to the shim that listens at `path`, and waits for its Hello as long as it takes: the limit is the
    /// caller's. The last notice is [`Notice::Disconnected`].
    ///
    /// Must run inside a tokio runtime, on which a task keeps reading.
    ///
    /// # Errors
    /// [`ClientError::Connect`] when the shim is gone, [`ClientError::Version`] when it is too different.
    pub async fn connect(
        path: &Path,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Notice>), ClientError> {
        let socket = seqpacket::connect_to(path)
            .and_then(|socket| fd::set_nonblocking(&socket, true).map(|()| socket))
            .map_err(|source| ClientError::Connect { path: path.to_owned(), source })?;
        let connection = Arc::new(Connection {
            socket: UnixStream::from_std(StdUnixStream::from(socket))
                .map_err(ClientError::Watch)?,
            next_id: AtomicU64::new(1),
            waiting: Mutex::new(Some(HashMap::new())),
        });
        let pid = connection.greet().await?;
        let (notices, receiver) = mpsc::unbounded_channel();
        let reader = Arc::clone(&connection);
        tokio::spawn(async move {
            let end = reader.read_to_end(&notices).await;
            reader.close();
            // Nobody listens any more while the daemon shuts down.
            notices.send(Notice::Disconnected(end)).ok();
        });
        Ok((Self { connection, pid }, receiver))
    }

    /// The shim's process, in its own PID namespace, which is the daemon's.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Asks the shim to do `call`, with `fds` beside it, and waits for the reply.
    ///
    /// # Errors
    /// [`ClientError::Failed`] when the shim refuses or fails, [`ClientError::Closed`] when the connection ends
    /// meanwhile.
    pub async fn call(&self, call: Call, fds: &[BorrowedFd<'_>]) -> Result<Answer, ClientError> {
        let connection = &self.connection;
        let id = connection.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        connection.waiting().as_mut().ok_or(ClientError::Closed)?.insert(id, sender);
        let request = v1::Request { id, call: Some(call) };
        if let Err(error) = connection.send(to_shim::Message::Request(request), fds).await {
            if let Some(waiting) = connection.waiting().as_mut() {
                waiting.remove(&id);
            }
            return Err(error);
        }
        receiver.await.map_err(|_dropped| ClientError::Closed)?
    }
}

impl Connection {
    /// Exchanges Hello; returns the shim's pid.
    async fn greet(&self) -> Result<i32, ClientError> {
        let release = env!("CARGO_PKG_VERSION").to_owned();
        let hello = v1::Hello { version: PROTOCOL_VERSION, release, ..v1::Hello::default() };
        self.send(to_shim::Message::Hello(hello), &[]).await?;
        match self.receive().await? {
            Some((to_daemon::Message::Hello(hello), _)) if hello.version == PROTOCOL_VERSION => {
                Ok(hello.pid)
            }
            Some((to_daemon::Message::Hello(hello), _)) => {
                Err(ClientError::Version { theirs: hello.version })
            }
            Some(_) => Err(ClientError::Unexpected),
            None => Err(ClientError::Closed),
        }
    }

    async fn send(
        &self,
        message: to_shim::Message,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), ClientError> {
        let message = v1::ToShim { message: Some(message) };
        self.when_ready(Interest::WRITABLE, |socket| send(socket, &message, fds)).await
    }

    async fn receive(&self) -> Result<Option<(to_daemon::Message, Vec<OwnedFd>)>, ClientError> {
        loop {
            let received =
                self.when_ready(Interest::READABLE, |socket| recv::<v1::ToDaemon>(socket)).await?;
            match received {
                None => return Ok(None),
                Some((v1::ToDaemon { message: Some(message) }, fds)) => {
                    return Ok(Some((message, fds)));
                }
                // A message of a kind that a later release has added.
                Some((v1::ToDaemon { message: None }, _)) => {}
            }
        }
    }

    /// Repeats `attempt` until it no longer asks to wait.
    async fn when_ready<T>(
        &self,
        interest: Interest,
        attempt: impl Fn(BorrowedFd<'_>) -> Result<T, ShimApiError>,
    ) -> Result<T, ClientError> {
        let attempted = self.socket.async_io(interest, || match attempt(self.socket.as_fd()) {
            Err(error) if error.would_block() => Err(io::ErrorKind::WouldBlock.into()),
            result => Ok(result),
        });
        Ok(attempted.await.map_err(ClientError::Watch)??)
    }

    /// Handles messages until the connection ends; returns why it has.
    async fn read_to_end(&self, notices: &mpsc::UnboundedSender<Notice>) -> ClientError {
        loop {
            let notice = match self.receive().await {
                Ok(Some((to_daemon::Message::Reply(reply), fds))) => {
                    self.settle(reply, fds);
                    continue;
                }
                Ok(Some((to_daemon::Message::Hello(_), _))) => continue,
                Ok(Some((to_daemon::Message::ContainerExited(exit), _))) => {
                    Notice::ContainerExited(exit)
                }
                Ok(Some((to_daemon::Message::ExecExited(exit), _))) => Notice::ExecExited(exit),
                Ok(None) => return ClientError::Closed,
                Err(error) => return error,
            };
            // Who does not listen to notices still waits for replies.
            notices.send(notice).ok();
        }
    }

    fn settle(&self, reply: v1::Reply, fds: Vec<OwnedFd>) {
        let Some(sender) = self.waiting().as_mut().and_then(|waiting| waiting.remove(&reply.id))
        else {
            return;
        };
        let answer = match reply.result {
            Some(reply::Result::Failure(failure)) => {
                Err(ClientError::Failed { kind: failure.kind(), message: failure.message })
            }
            Some(result) => Ok(Answer { result, fds }),
            None => Err(ClientError::Unexpected),
        };
        // The caller may have gone; then the answer is of no use.
        drop(sender.send(answer));
    }

    fn close(&self) {
        *self.waiting() = None;
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
