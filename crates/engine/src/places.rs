//! Where things are: directories of the data and runtime trees, and cgroups.

use std::path::{Path, PathBuf};

use model::{ContainerId, SandboxConfig, SandboxId};

/// The two trees that the daemon works in.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// Survives a reboot.
    data: PathBuf,
    /// Gone at reboot.
    runtime: PathBuf,
}

impl Places {
    pub(crate) fn new(data: PathBuf, runtime: PathBuf) -> Self {
        Self { data, runtime }
    }

    /// Where all that survives a reboot is.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Records and files of sandboxes, one directory each.
    pub(crate) fn sandboxes(&self) -> PathBuf {
        self.data.join("pods")
    }

    pub(crate) fn sandbox(&self, id: &SandboxId) -> PathBuf {
        self.sandboxes().join(id.as_str())
    }

    /// Records, bundles and changed files of containers, one directory each.
    pub(crate) fn containers(&self) -> PathBuf {
        self.data.join("containers")
    }

    pub(crate) fn container(&self, id: &ContainerId) -> PathBuf {
        self.containers().join(id.as_str())
    }

    /// Unpacked layers, one directory each.
    pub(crate) fn layers(&self) -> PathBuf {
        self.data.join("layers")
    }

    /// Where records go that cannot be read.
    pub(crate) fn quarantine(&self) -> PathBuf {
        self.data.join("quarantine")
    }

    /// Sockets, `/dev/shm` and runtime state of sandboxes, one directory each.
    pub(crate) fn runtimes(&self) -> PathBuf {
        self.runtime.join("pods")
    }

    /// Compiled seccomp filters, by the digest of their profile.
    pub(crate) fn seccomp_programs(&self) -> PathBuf {
        self.runtime.join("seccomp")
    }

    pub(crate) fn runtime(&self, id: &SandboxId) -> PathBuf {
        self.runtimes().join(id.as_str())
    }
}

/// The shim's socket in its sandbox's runtime directory.
pub(crate) const SHIM_SOCKET: &str = "shim.sock";
/// Mount point of the pod's `/dev/shm` in the same directory.
pub(crate) const SHM: &str = "shm";
/// Where the shims live, below the node's cgroup root.
pub(crate) const SHIM_CGROUPS: &str = "shims";
/// Where pods live that no kubelet has made a cgroup for.
pub(crate) const POD_CGROUPS: &str = "usnea";

/// The cgroup that the containers of a pod are below, relative to the node's cgroup root.
pub(crate) fn pod_cgroup(id: &SandboxId, config: &SandboxConfig) -> PathBuf {
    match &config.cgroup_parent {
        Some(parent) => relative(parent.as_path()),
        None => Path::new(POD_CGROUPS).join(id.as_str()),
    }
}

fn relative(path: &Path) -> PathBuf {
    path.strip_prefix("/").unwrap_or(path).to_owned()
}
