//! What the daemon and a pod's shim say to each other, and how it travels.
//!
//! The messages ([`v1`]) are generated from `proto/shim/v1/shim.proto`. They travel over a Unix `SOCK_SEQPACKET`
//! socket, which keeps their boundaries:
//!
//! - A packet is the protobuf encoding of one [`v1::ToShim`] or [`v1::ToDaemon`]; the descriptors that the message
//!   speaks of come with the packet, in the order that the message documents.
//! - A message longer than [`PACKET_MAX_BYTES`] travels in a sealed memfd, the *last* descriptor of a packet whose
//!   content is the single byte 0, with which no protobuf message begins.
//! - An empty packet means that the peer has closed the connection. Messages are therefore never empty.
//!
//! Each side first sends [`v1::Hello`] with [`PROTOCOL_VERSION`]; a side that receives another version closes the
//! connection. The daemon then sends requests, which the shim answers in any order, and the shim reports exits when
//! they happen.
//!
//! Never: libcontainer, policy. Who may connect is the business of the socket's directory.

#[cfg(feature = "client")]
pub mod client;
mod framing;

pub use framing::{MESSAGE_MAX_BYTES, PACKET_MAX_BYTES, ShimApiError, recv, send};

/// Counts changes of the protocol that an older peer cannot live with.
pub const PROTOCOL_VERSION: u32 = 1;

/// Package `usnea.shim.v1`.
#[allow(
    clippy::allow_attributes_without_reason,
    clippy::as_conversions,
    clippy::large_enum_variant,
    missing_docs,
    reason = "generated code"
)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/usnea.shim.v1.rs"));
}
