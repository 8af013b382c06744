//! What is written down about a sandbox or container, so that a new daemon knows what an earlier one was asked.
//!
//! A record describes the request and finds the shim; whether something runs, the shim says.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{
    ContainerConfig, ContainerId, ContainerState, SandboxConfig, SandboxId, SandboxState, Signal,
    UnixNanos,
};

/// A pod sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// Also the name of its directory.
    pub id: SandboxId,
    /// Greater than that of every earlier sandbox.
    pub created_at: UnixNanos,
    /// The request.
    pub config: SandboxConfig,
    /// As last written.
    pub state: SandboxState,
    /// PID 1 of the shared PID namespace; 0 without.
    pub pause_pid: i32,
}

/// The image that a container was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerImage {
    /// `sha256:…` of the image's configuration.
    pub id: String,
    /// `repository@sha256:…` if known, else the id.
    pub image_ref: String,
    /// Layers by diff-id, lowest first.
    pub diff_ids: Vec<String>,
}

/// An image that a container mounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageVolume {
    /// Index of the mount in the request.
    pub mount: usize,
    /// `sha256:…` of the image's configuration.
    pub id: String,
    /// Layers by diff-id, lowest first.
    pub diff_ids: Vec<String>,
}

/// Who a container's first process is, in numbers of the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub additional_gids: Vec<u32>,
    /// Home directory.
    pub home: String,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Also the name of its directory.
    pub id: ContainerId,
    /// Its pod.
    pub sandbox_id: SandboxId,
    /// Greater than that of every earlier container.
    pub created_at: UnixNanos,
    /// The request.
    pub config: ContainerConfig,
    /// What it was made from.
    pub image: ContainerImage,
    /// The images that it mounts.
    #[serde(default)]
    pub image_volumes: Vec<ImageVolume>,
    /// Who it runs as.
    pub user: ResolvedUser,
    /// What stops it.
    pub stop_signal: Signal,
    /// Where its log is shown to be; never empty.
    pub log_path: PathBuf,
    /// Relative to the node's cgroup root; `None` without cgroups.
    pub cgroup: Option<String>,
    /// As last written.
    pub state: ContainerState,
}

impl ContainerRecord {
    /// The layers that it is made of and that it mounts, by diff-id.
    pub fn diff_ids(&self) -> impl Iterator<Item = &str> {
        let mounted = self.image_volumes.iter().flat_map(|volume| &volume.diff_ids);
        self.image.diff_ids.iter().chain(mounted).map(String::as_str)
    }
}

/// How a container ended, written by its shim beside the container's record: `exit.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Whose exit.
    pub container_id: String,
    /// Absent when it was never started.
    pub started_at: Option<UnixNanos>,
    /// When it was reaped.
    pub finished_at: UnixNanos,
    /// 0 to 255; 128 + signal number when killed.
    pub exit_code: i32,
    /// A process of it was killed for want of memory.
    pub oom_killed: bool,
    /// Why it could not be started, else empty.
    pub start_error: String,
}
