//! What a node turned out to be on this host.

use std::path::PathBuf;

use model::UnixNanos;
use serde::{Deserialize, Serialize};

use crate::idmap::IdMap;

/// What the holder tells everyone who joins, and what `Status` shows.
///
/// Fields are only added, each with `#[serde(default)]`: a daemon may be newer than the holder it finds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// The holder, in the PID namespace it was started in.
    pub pid: i32,
    /// When the namespaces were complete.
    pub started_at: UnixNanos,
    /// Whose user namespace it is.
    pub mode: Mode,
    /// Whose network namespace it is; in the adopted one others may have interfaces and listeners.
    pub network: Mode,
    /// Which ids exist in the node.
    pub ids: Ids,
    /// Whether limits can be set.
    pub cgroup: CgroupFacts,
    /// The writable directories that were asked for, in the order of their paths.
    pub directories: Vec<DirectoryFacts>,
    /// What works less well than it could, one sentence each.
    pub warnings: Vec<String>,
}

/// Where a namespace comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The holder made it.
    Own,
    /// The holder was started in it, for instance by rootlesskit.
    Adopted,
}

/// The ids of the node's user namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ids {
    /// Root and further ids.
    Mapped {
        /// User ids.
        uids: IdMap,
        /// Group ids.
        gids: IdMap,
    },
    /// Root only: images lose the ownership of their files, and programs cannot change their user.
    SingleId {
        /// Why, and what would help.
        reason: String,
    },
}

/// The node's cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CgroupFacts {
    /// It is the user's own to divide; in the node it is `/`.
    Delegated {
        /// Below the host's `/sys/fs/cgroup`, with a leading `/`.
        path: PathBuf,
        /// What the host offers there, of `cpu cpuset io memory pids`.
        offered: Vec<String>,
        /// What is enabled for the cgroups of pods.
        controllers: Vec<String>,
        /// Why `controllers` lacks some that are offered.
        problem: Option<String>,
    },
    /// No limits, no kill by cgroup.
    Missing {
        /// Why, and what would help.
        reason: String,
    },
}

/// One writable directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryFacts {
    /// As configured.
    pub path: PathBuf,
    /// Why the node's root cannot write there; none: it can.
    pub problem: Option<String>,
}
