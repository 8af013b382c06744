//! Unix sockets that keep message boundaries and carry descriptors.

use std::{
    io::{IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
        UnixAddr, UnixCredentials, accept4, bind, connect, getsockopt, listen, recvmsg, sendmsg,
        socket, sockopt,
    },
};

/// Most descriptors that one message may carry.
pub const MAX_FDS: usize = 16;

/// One message as received.
#[derive(Debug)]
pub struct Message {
    /// What was sent; empty when the peer has closed the connection.
    pub bytes: Vec<u8>,
    /// What came along, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// Listens at `path`, which must not exist and must fit into 107 bytes.
///
/// # Errors
/// `EADDRINUSE` when `path` exists, `ENAMETOOLONG` when it is too long, and those of `bind(2)`.
pub fn listen_at(path: &Path) -> Result<OwnedFd, Errno> {
    let fd = unix_socket()?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd, Backlog::MAXCONN)?;
    Ok(fd)
}

/// Connects to the listener at `path`.
///
/// # Errors
/// `ENOENT` without such a file, `ECONNREFUSED` when nobody listens any more.
pub fn connect_to(path: &Path) -> Result<OwnedFd, Errno> {
    let fd = unix_socket()?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd)
}

fn unix_socket() -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
}

/// Takes the next connection of a listener.
///
/// # Errors
/// `EAGAIN` when the listener is non-blocking and nobody waits.
pub fn accept(listener: impl AsFd) -> Result<OwnedFd, Errno> {
    let raw = accept4(listener.as_fd().as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: accept4 has just returned this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Who connected, in the reader's user and PID namespaces.
///
/// Source: `unix(7)` `SO_PEERCRED`.
///
/// # Errors
/// As `getsockopt(2)`.
pub fn peer(connection: impl AsFd) -> Result<UnixCredentials, Errno> {
    getsockopt(&connection, sockopt::PeerCredentials)
}

/// Sends one message.
///
/// # Errors
/// `EMSGSIZE` when it exceeds the send buffer, `EPIPE` when the peer is gone, `EAGAIN` when non-blocking and full.
pub fn send(connection: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    sendmsg::<()>(
        connection.as_fd().as_raw_fd(),
        &[IoSlice::new(bytes)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .map(drop)
}

/// Receives one message of at most `max_bytes`.
///
/// # Errors
/// `EMSGSIZE` when the message or its descriptors did not fit (they are dropped), `EAGAIN` when non-blocking and
/// nothing waits.
pub fn recv(connection: impl AsFd, max_bytes: usize) -> Result<Message, Errno> {
    let mut bytes = vec![0; max_bytes];
    let mut control = nix::cmsg_space!([RawFd; MAX_FDS]);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg::<()>(
        connection.as_fd().as_raw_fd(),
        &mut slices,
        Some(&mut control),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            // SAFETY: the kernel has just installed these descriptors for us and nobody else owns them.
            fds.extend(raw.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
        }
    }
    let (length, flags) = (received.bytes, received.flags);
    if flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(Errno::EMSGSIZE);
    }
    bytes.truncate(length);
    Ok(Message { bytes, fds })
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Write},
    };

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        nix::sys::socket::socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .expect("socketpair")
    }

    #[test]
    fn bytes_and_descriptors_arrive_together() {
        let (a, b) = pair();
        let (read, write) = nix::unistd::pipe().expect("pipe");
        send(&a, b"hello", &[write.as_fd()]).expect("send");
        drop(write);
        let message = recv(&b, 64).expect("recv");
        assert_eq!(message.bytes, b"hello");
        let mut passed = File::from(message.fds.into_iter().next().expect("one descriptor"));
        passed.write_all(b"through").expect("write");
        drop(passed);
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).expect("read");
        assert_eq!(text, "through");
    }

    #[test]
    fn a_message_that_does_not_fit_is_an_error() {
        let (a, b) = pair();
        send(&a, &[7; 100], &[]).expect("send");
        assert_eq!(recv(&b, 10).expect_err("too long"), Errno::EMSGSIZE);
    }

    #[test]
    fn a_closed_peer_reads_as_empty() {
        let (a, b) = pair();
        drop(a);
        assert!(recv(&b, 10).expect("recv").bytes.is_empty());
    }
}
