//! The daemon at the other end of the socket.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use shim_api::{
    PROTOCOL_VERSION,
    v1::{Hello, Request, ToDaemon, ToShim, to_daemon, to_shim},
};
use sys::seqpacket;

use crate::error::ShimError;

/// More than a daemon can have open calls; one that lets them pile up does not read.
const QUEUE_MAX_MESSAGES: usize = 1024;

/// One connected daemon.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    greeted: bool,
    /// What the socket had no room for yet.
    queue: VecDeque<(ToDaemon, Vec<OwnedFd>)>,
}

/// What was received.
#[derive(Debug)]
pub(crate) enum Received {
    Request(Box<Request>, Vec<OwnedFd>),
    /// Nothing to act on.
    Nothing,
    /// The daemon is gone.
    Closed,
}

impl Connection {
    /// Takes the next connection of `listener` and greets it.
    pub(crate) fn accept(listener: impl AsFd) -> Result<Self, ShimError> {
        let socket = seqpacket::accept(listener).map_err(ShimError::Accept)?;
        sys::fd::set_nonblocking(&socket, true).map_err(ShimError::Accept)?;
        let mut connection = Self { socket, greeted: false, queue: VecDeque::new() };
        let hello = Hello {
            version: PROTOCOL_VERSION,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            pid: nix::unistd::getpid().as_raw(),
        };
        connection.send(to_daemon::Message::Hello(hello), Vec::new())?;
        Ok(connection)
    }

    /// Receives one message.
    ///
    /// After an error the connection is to be closed.
    pub(crate) fn receive(&mut self) -> Result<Received, ShimError> {
        match shim_api::recv::<ToShim>(&self.socket) {
            Err(error) if error.would_block() => Ok(Received::Nothing),
            Err(error) => Err(ShimError::Connection(error)),
            Ok(None) => Ok(Received::Closed),
            Ok(Some((ToShim { message }, fds))) => match message {
                Some(to_shim::Message::Hello(hello)) => self.greet(&hello),
                Some(to_shim::Message::Request(request)) if self.greeted => {
                    Ok(Received::Request(Box::new(request), fds))
                }
                Some(to_shim::Message::Request(_)) => Err(ShimError::Protocol),
                // A message of a kind that a later release has added.
                None => Ok(Received::Nothing),
            },
        }
    }

    fn greet(&mut self, hello: &Hello) -> Result<Received, ShimError> {
        if hello.version != PROTOCOL_VERSION {
            return Err(ShimError::Version { theirs: hello.version });
        }
        self.greeted = true;
        Ok(Received::Nothing)
    }

    /// Sends `message`, or keeps it until the socket has room.
    pub(crate) fn send(
        &mut self,
        message: to_daemon::Message,
        fds: Vec<OwnedFd>,
    ) -> Result<(), ShimError> {
        if self.queue.len() == QUEUE_MAX_MESSAGES {
            return Err(ShimError::Backlog);
        }
        self.queue.push_back((ToDaemon { message: Some(message) }, fds));
        self.flush()
    }

    /// Sends what was kept, as far as the socket has room.
    pub(crate) fn flush(&mut self) -> Result<(), ShimError> {
        while let Some((message, fds)) = self.queue.front() {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match shim_api::send(&self.socket, message, &fds) {
                Ok(()) => drop(self.queue.pop_front()),
                Err(error) if error.would_block() => break,
                Err(error) => return Err(ShimError::Connection(error)),
            }
        }
        if self.queue.is_empty() {
            // An idle shim keeps no buffer.
            self.queue = VecDeque::new();
        }
        Ok(())
    }

    /// Whether something waits for room in the socket.
    pub(crate) fn is_backed_up(&self) -> bool {
        !self.queue.is_empty()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
