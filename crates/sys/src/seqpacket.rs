//! Unix sockets that keep message boundaries and carry descriptors.

use std::{
    io::IoSlice,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr,
        UnixCredentials, accept4, bind, connect, getsockopt, listen, sendmsg, socket, sockopt,
    },
};

/// Most descriptors that one message may carry.
pub const MAX_FDS: usize = 16;

/// Most descriptors that Linux lets one message carry: `SCM_MAX_FD`, see `unix(7)`.
const SCM_MAX_FD: usize = 253;

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
/// The connection must not ask for other control messages than descriptors (`SO_PASSCRED` and its like).
///
/// # Errors
/// `EMSGSIZE` when the message has more bytes or descriptors than allowed, or more descriptors than this process may
/// open (they are closed), `EAGAIN` when non-blocking and nothing waits.
pub fn recv(connection: impl AsFd, max_bytes: usize) -> Result<Message, Errno> {
    let mut bytes = vec![0; max_bytes];
    let mut control = Control::new();
    let mut slice = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all of msghdr's fields are integers and pointers, for which zero is a value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut slice;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = size_of::<Control>();
    let connection = connection.as_fd().as_raw_fd();
    // Not nix's, which hides the descriptors of a truncated message, so that nobody could close them.
    // SAFETY: `header` describes `bytes` and `control` with their lengths, and both outlive the call.
    let ret = unsafe { libc::recvmsg(connection, &raw mut header, libc::MSG_CMSG_CLOEXEC) };
    let length = Errno::result(ret)?;
    // SAFETY: `control` is what recvmsg has just filled.
    let fds = unsafe { control.into_fds() };
    let truncated = header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
    if truncated || fds.len() > MAX_FDS {
        return Err(Errno::EMSGSIZE);
    }
    bytes.truncate(usize::try_from(length).map_err(|_negative| Errno::EMSGSIZE)?);
    Ok(Message { bytes, fds })
}

/// Room for the one control message with descriptors that the kernel makes of all that were sent.
///
/// There is room for more than we take, because the kernel installs those that fit before it says that some did not.
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    fds: [RawFd; SCM_MAX_FD],
}

impl Control {
    fn new() -> Self {
        // SAFETY: all of cmsghdr's fields are integers.
        let header = unsafe { std::mem::zeroed() };
        Self { header, fds: [-1; SCM_MAX_FD] }
    }

    /// Takes what has been received.
    ///
    /// # Safety
    /// recvmsg(2) must have filled `self`, or left it as it was made.
    unsafe fn into_fds(self) -> Vec<OwnedFd> {
        if (self.header.cmsg_level, self.header.cmsg_type) != (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            return Vec::new();
        }
        let installed = self.fds.into_iter().take_while(|fd| *fd >= 0);
        // SAFETY: the kernel has overwritten -1 by a descriptor that it has installed for us; nobody else owns it.
        installed.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Write},
        process::Command,
    };

    use nix::{
        fcntl::OFlag,
        poll::{PollFd, PollFlags, poll},
        sys::resource::{Resource, getrlimit, setrlimit},
        unistd::pipe2,
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

    /// Whether nobody has the other end of `pipe` open any more, within 5 s: other tests' children may hold copies
    /// until they exec.
    fn is_abandoned(pipe: &OwnedFd) -> bool {
        poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::empty())], 5000_u16).expect("poll") == 1
    }

    #[test]
    fn as_many_descriptors_as_allowed_arrive_and_more_are_closed() {
        let (a, b) = pair();
        let (read, write) = pipe2(OFlag::O_CLOEXEC).expect("pipe");
        send(&a, b"x", &[write.as_fd(); MAX_FDS]).expect("send");
        assert_eq!(recv(&b, 1).expect("recv").fds.len(), MAX_FDS);
        for count in [MAX_FDS + 1, 253] {
            send(&a, b"x", &vec![write.as_fd(); count]).expect("send");
            assert_eq!(recv(&b, 1).map(drop), Err(Errno::EMSGSIZE), "{count} descriptors");
        }
        drop(write);
        assert!(is_abandoned(&read));
    }

    #[test]
    fn descriptors_beyond_the_process_limit_are_an_error_and_the_others_closed() {
        let this = std::env::current_exe().expect("this program");
        let test = "seqpacket::tests::in_a_process_of_its_own_with_two_descriptors_left";
        let output = Command::new(this).args(["--ignored", "--exact", test]).output().expect("run");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }

    #[test]
    #[ignore = "limits its whole process; another test runs it"]
    fn in_a_process_of_its_own_with_two_descriptors_left() {
        let (a, b) = pair();
        let (read, write) = pipe2(OFlag::O_CLOEXEC).expect("pipe");
        send(&a, b"x", &[write.as_fd(); 4]).expect("send");
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limit");
        let next = read.try_clone().expect("dup").as_raw_fd();
        setrlimit(Resource::RLIMIT_NOFILE, u64::try_from(next).expect("a number") + 2, hard)
            .expect("limit");
        assert_eq!(recv(&b, 1).map(drop), Err(Errno::EMSGSIZE));
        drop(write);
        assert!(is_abandoned(&read));
    }

    #[test]
    fn a_closed_peer_reads_as_empty() {
        let (a, b) = pair();
        drop(a);
        assert!(recv(&b, 10).expect("recv").bytes.is_empty());
    }
}
