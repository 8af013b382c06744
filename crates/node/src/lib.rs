//! The node: the user, mount, cgroup and network namespaces, one set per user, that everything of Usnea lives in.
//!
//! Owns: making them ([`hold()`]), finding and entering them ([`find_or_start`], [`exec()`]), the delegated cgroup's
//! outermost division (`system/`, `exec/`), the writable directories, and the look at what a host offers
//! ([`check::check`]). Everything here runs before a process starts threads.
//!
//! Never: pods, CRI, tokio.

mod cgroup;
pub mod check;
mod config;
mod directories;
mod error;
mod exec;
mod facts;
mod hold;
pub mod idmap;
mod join;
mod listen;
mod mounts;
mod origin;
mod protocol;
mod start;
mod subordinate;

pub use cgroup::CONTROLLERS;
pub use config::{DEFAULT_WRITABLE_DIRS, NodeConfig};
pub use error::NodeError;
pub use exec::exec;
pub use facts::{CgroupFacts, DirectoryFacts, Ids, Mode, NodeFacts};
pub use hold::hold;
pub use join::{Entered, Node, find, find_or_start};
pub use start::HolderCommand;
pub use subordinate::ToolFailure;
