//! The gRPC edge: CRI v1 over a Unix socket.
//!
//! Owns what lies between the messages of the CRI and the types of `model` (`convert`), the services themselves, list
//! filters, and the one place that makes a gRPC status of an error (`status`). A request is checked once, whole, before
//! the engine hears of it.
//!
//! Never: what pods are made of, files, processes. RPCs that this release does not have answer `Unimplemented` with
//! their name.
#![forbid(unsafe_code)]

mod call;
mod clock;
mod containers;
mod convert;
mod deadline;
mod filter;
#[cfg(test)]
mod fixtures;
mod image_service;
mod images;
mod info;
mod listen;
mod node;
mod paging;
mod runtime_service;
mod sandboxes;
mod serve;
mod service;
mod stats;
mod status;
mod unsupported;

pub use serve::{ServerError, serve};
