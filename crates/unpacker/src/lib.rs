//! Unpacks one layer of an image in a process that can do nothing else.
//!
//! Image bytes are hostile, and decompressing and unpacking them is the most that happens to them.
//! So a process is started for each layer ([`Unpacker::start`]); it gives up what it does not need
//! ([`child()`]), reads the blob from a pipe, unpacks below one directory, and answers with what the
//! layer was. The parent verifies and places it.
//!
//! ```text
//! parent                     child
//! blob ─────── pipe ───────► 0   decompress, hash, unpack ──► 3, the directory
//! summary ◄─── pipe ──────── 1                           └──► 4, the transcript
//! ```
//!
//! Never: network, tokio, the store.
#![forbid(unsafe_code)]

mod answer;
mod child;
mod confine;
mod error;
mod parent;
mod syscalls;

pub use child::child;
pub use confine::{ConfineError, confine, has_landlock};
pub use error::{ErrorKind, UnpackerError};
pub use parent::{Unpacker, Unpacking};
