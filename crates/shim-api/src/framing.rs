//! One message to one packet and back.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv as receive},
};
use prost::Message;
use sys::{memfd, seqpacket};
use thiserror::Error;

/// The longest encoding that travels in the packet itself; far below the default send buffer of a socket.
pub const PACKET_MAX_BYTES: usize = 64 * 1024;

/// The longest encoding that is sent or accepted at all.
pub const MESSAGE_MAX_BYTES: usize = 32 * 1024 * 1024;

/// The packet that says: the message is in the last descriptor. No protobuf field has the number 0.
const IN_MEMFD: &[u8] = &[0];

/// Why a message could not be sent or received.
#[derive(Debug, Error)]
pub enum ShimApiError {
    /// The message has no field set; an empty packet would read as the end of the connection.
    #[error("send an empty message")]
    Empty,
    /// The message is longer than [`MESSAGE_MAX_BYTES`].
    #[error("message of {bytes} bytes exceeds {MESSAGE_MAX_BYTES}")]
    TooLong {
        /// Length of the encoding.
        bytes: u64,
    },
    /// The memfd for a long message could not be made.
    #[error("make a memory file for a message of {bytes} bytes")]
    MakeMemfd {
        /// Length of the encoding.
        bytes: usize,
        /// From `memfd_create(2)`, `write(2)` or `fcntl(2)`.
        source: io::Error,
    },
    /// The kernel did not take the packet: `EAGAIN` when the socket is non-blocking and full, `EPIPE` without a peer.
    #[error("send to the peer")]
    Send(#[source] Errno),
    /// No packet could be received: `EAGAIN` when the socket is non-blocking and none waits.
    #[error("receive from the peer")]
    Receive(#[source] Errno),
    /// The packet points at a descriptor that did not come with it.
    #[error("long message without its memory file")]
    NoMemfd,
    /// The memory file of a long message could not be read, or is no regular file.
    #[error("read the memory file of a long message")]
    ReadMemfd(#[source] io::Error),
    /// The bytes are not a message of the expected type.
    #[error("decode message of {bytes} bytes")]
    Decode {
        /// Length of the encoding.
        bytes: usize,
        /// What prost found wrong.
        source: prost::DecodeError,
    },
}

impl ShimApiError {
    /// Whether the socket is non-blocking and the call has to wait for readiness.
    #[must_use]
    pub fn would_block(&self) -> bool {
        matches!(self, Self::Send(Errno::EAGAIN) | Self::Receive(Errno::EAGAIN))
    }
}

/// Sends `message` with `fds`.
///
/// # Errors
/// [`ShimApiError::Send`] as `sendmsg(2)`, see [`ShimApiError::would_block`]; the other variants for a message that
/// cannot travel. Nothing has been sent then.
pub fn send(
    connection: impl AsFd,
    message: &impl Message,
    fds: &[BorrowedFd<'_>],
) -> Result<(), ShimApiError> {
    let bytes = message.encoded_len();
    if bytes == 0 {
        return Err(ShimApiError::Empty);
    }
    if bytes >= MESSAGE_MAX_BYTES {
        return Err(ShimApiError::TooLong { bytes: u64::try_from(bytes).unwrap_or(u64::MAX) });
    }
    let encoding = message.encode_to_vec();
    if bytes <= PACKET_MAX_BYTES {
        return seqpacket::send(connection, &encoding, fds).map_err(ShimApiError::Send);
    }
    let memfd = memfd::sealed_copy(c"usnea-message", encoding.as_slice())
        .map_err(|source| ShimApiError::MakeMemfd { bytes, source })?;
    let with_memfd: Vec<_> = fds.iter().copied().chain([memfd.as_fd()]).collect();
    seqpacket::send(connection, IN_MEMFD, &with_memfd).map_err(ShimApiError::Send)
}

/// Receives one message and its descriptors; `None` when the peer has closed the connection.
///
/// # Errors
/// [`ShimApiError::Receive`] as `recvmsg(2)`, see [`ShimApiError::would_block`]. After any other error the peer does
/// not speak this protocol and the connection is worth nothing.
pub fn recv<T: Message + Default>(
    connection: impl AsFd,
) -> Result<Option<(T, Vec<OwnedFd>)>, ShimApiError> {
    let length = next_packet_bytes(&connection).map_err(ShimApiError::Receive)?;
    if length > PACKET_MAX_BYTES {
        return Err(ShimApiError::Receive(Errno::EMSGSIZE));
    }
    let packet = seqpacket::recv(&connection, length.max(1)).map_err(ShimApiError::Receive)?;
    let mut fds = packet.fds;
    let bytes = match packet.bytes.as_slice() {
        [] => return Ok(None),
        IN_MEMFD => read_memfd(fds.pop().ok_or(ShimApiError::NoMemfd)?)?,
        _ => packet.bytes,
    };
    let message = T::decode(bytes.as_slice())
        .map_err(|source| ShimApiError::Decode { bytes: bytes.len(), source })?;
    Ok(Some((message, fds)))
}

/// The length of the packet that waits, so that no more memory is taken than it needs.
fn next_packet_bytes(connection: &impl AsFd) -> Result<usize, Errno> {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC;
    loop {
        match receive(connection.as_fd().as_raw_fd(), &mut [0], flags) {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

fn read_memfd(memfd: OwnedFd) -> Result<Vec<u8>, ShimApiError> {
    let file = File::from(memfd);
    let metadata = file.metadata().map_err(ShimApiError::ReadMemfd)?;
    // Anything else could block the reader for ever.
    if !metadata.is_file() {
        return Err(ShimApiError::ReadMemfd(io::ErrorKind::InvalidInput.into()));
    }
    let max = u64::try_from(MESSAGE_MAX_BYTES).unwrap_or(u64::MAX);
    if metadata.len() >= max {
        return Err(ShimApiError::TooLong { bytes: metadata.len() });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    // The writer's file offset came along with the descriptor.
    io::Seek::rewind(&mut &file).map_err(ShimApiError::ReadMemfd)?;
    file.take(max).read_to_end(&mut bytes).map_err(ShimApiError::ReadMemfd)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
