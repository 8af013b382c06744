//! What holder and clients say to each other: one JSON message each way per connection.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::facts::NodeFacts;

/// Changes only when an old side could misunderstand a new one; additions do not count.
pub(crate) const VERSION: u32 = 1;

/// More than facts ever need.
pub(crate) const MAX_BYTES: usize = 65_536;

/// From the client.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) version: u32,
    pub(crate) call: Call,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Call {
    /// Answered by [`Reply::Joined`] and the descriptors of [`Descriptors`].
    Join,
}

/// From the holder.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    Joined { version: u32, facts: Box<NodeFacts> },
    Refused { version: u32, reason: String },
}

/// What a node consists of, in the order in which it travels.
#[derive(Debug)]
pub(crate) struct Descriptors {
    pub(crate) user: OwnedFd,
    pub(crate) mount: OwnedFd,
    pub(crate) cgroup: OwnedFd,
    pub(crate) network: OwnedFd,
    pub(crate) host_network: OwnedFd,
    /// A listening stream socket.
    pub(crate) cri_listener: OwnedFd,
}

impl Descriptors {
    /// How many travel; a later version may append some.
    pub(crate) const COUNT: usize = 6;

    pub(crate) fn received(fds: Vec<OwnedFd>) -> Option<Self> {
        let mut fds = fds.into_iter();
        let mut next = || fds.next();
        Some(Self {
            user: next()?,
            mount: next()?,
            cgroup: next()?,
            network: next()?,
            host_network: next()?,
            cri_listener: next()?,
        })
    }
}
