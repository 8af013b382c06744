//! From a validated request to an OCI runtime specification, user, system call filter and cgroup settings.
//!
//! Everything here is a pure function: what files contain and what the host can do is passed in, so that each rule can
//! be tried without a kernel. Request and image never meet anywhere else. The request's author (a kubelet) is obeyed;
//! the image's author is not trusted: whatever comes from an image is parsed strictly and refused when it is odd.
//!
//! The specification is made for libcontainer 0.7.0; where its reading differs from the OCI text, the code says so.
#![forbid(unsafe_code)]

pub mod cgroup;
pub mod command;
mod container;
#[cfg(test)]
mod fixture;
mod mounts;
pub mod seccomp;
pub mod user;

use std::path::{Path, PathBuf};

use model::{
    ContainerConfig, ContainerId, ImageDefaults, InvalidField, ResolvedUser, SandboxConfig,
};
use oci_spec::runtime::LinuxSeccomp;
use thiserror::Error;

pub use container::generate;
pub use mounts::image_mount_point;

/// All that determines a container's OCI runtime specification.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// Whose specification.
    pub container_id: &'a ContainerId,
    /// The request.
    pub config: &'a ContainerConfig,
    /// The pod's request.
    pub sandbox: &'a SandboxConfig,
    /// What the image says.
    pub image: &'a ImageDefaults,
    /// From [`user::resolve`].
    pub user: &'a ResolvedUser,
    /// Host name that the pod's UTS namespace has; becomes `HOSTNAME`.
    pub hostname: &'a str,
    /// Where the container's root file system will be mounted.
    pub rootfs: &'a Path,
    /// The directory in which the images that are mounted are attached, by [`image_mount_point`].
    pub image_mounts: &'a Path,
    /// Made for the pod, bound into each of its containers.
    pub pod_files: &'a PodFiles,
    /// From [`seccomp::runtime_default`] or [`seccomp::parse_profile`]; `None`: unconfined. Not used when privileged.
    pub seccomp: Option<LinuxSeccomp>,
    /// What the host can do.
    pub host: &'a HostFacts,
}

/// Files of a pod, as paths on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFiles {
    /// `/etc/hostname`
    pub hostname: PathBuf,
    /// `/etc/hosts`
    pub hosts: PathBuf,
    /// `/etc/resolv.conf`
    pub resolv_conf: PathBuf,
    /// `/dev/shm`: the pod's, or the node's for a pod in the node's IPC namespace.
    pub shm: PathBuf,
}

/// What the node can do for a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// A pod with network NODE is in the host's network namespace, which the node does not own: the kernel then
    /// refuses a sysfs of its own (`EPERM`).
    pub network_is_hosts: bool,
    /// A cgroup namespace with a cgroup v2 mount can be made.
    pub cgroup_namespace: bool,
    /// `/dev/mqueue` is a directory on the node; matters only to pods in the node's IPC namespace.
    pub has_mqueue: bool,
    /// User ids 0 to this, exclusive, are mapped in the node.
    pub mapped_uids: u32,
    /// Group ids 0 to this, exclusive, are mapped in the node.
    pub mapped_gids: u32,
    /// The `oom_score_adj` of the process that starts containers; nobody without `CAP_SYS_RESOURCE` on the host gets
    /// below it.
    pub lowest_oom_score_adj: i64,
}

/// Why no specification can be made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SpecError {
    /// Request or image are at fault. CRI: `InvalidArgument`.
    #[error(transparent)]
    Invalid(#[from] InvalidField),
    /// The specification's library does not know a capability that the kernel knows.
    #[error("{name} cannot be expressed in an OCI runtime specification")]
    Capability {
        /// Such as `CAP_CHOWN`.
        name: String,
    },
}
