//! What the holder and its clients must agree on.

use std::path::PathBuf;

/// Directories that a kubelet and CNI plugins write to, at the places where they expect them.
pub const DEFAULT_WRITABLE_DIRS: [&str; 6] = [
    "/etc/cni/net.d",
    "/etc/kubernetes",
    "/opt/cni/bin",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
];

/// Where a node lives on the host. The caller resolves `XDG_*`; nothing here reads the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Sockets and the lock; gone at reboot. Usually `$XDG_RUNTIME_DIR/usnea`. Socket paths may have 107 bytes.
    pub runtime_dir: PathBuf,
    /// What lasts. Usually `$XDG_DATA_HOME/usnea`.
    pub data_dir: PathBuf,
    /// Absolute paths that the node's root may write to; see [`DEFAULT_WRITABLE_DIRS`].
    pub writable_dirs: Vec<PathBuf>,
}

impl NodeConfig {
    /// A node with the default writable directories.
    #[must_use]
    pub fn new(runtime_dir: PathBuf, data_dir: PathBuf) -> Self {
        let writable_dirs = DEFAULT_WRITABLE_DIRS.map(PathBuf::from).to_vec();
        Self { runtime_dir, data_dir, writable_dirs }
    }

    /// Where the holder answers, as `SOCK_SEQPACKET`.
    #[must_use]
    pub fn node_socket(&self) -> PathBuf {
        self.runtime_dir.join("node.sock")
    }

    /// Where CRI clients connect; the holder listens, the daemon accepts.
    #[must_use]
    pub fn cri_socket(&self) -> PathBuf {
        self.runtime_dir.join("usnea.sock")
    }

    /// Locked by the one holder.
    pub(crate) fn lock_file(&self) -> PathBuf {
        self.runtime_dir.join("node.lock")
    }

    /// Standard output and error of a holder that was started by [`find_or_start`](crate::find_or_start).
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.data_dir.join("node.log")
    }

    /// Where the contents of the writable directories are kept.
    pub(crate) fn backing_dir(&self) -> PathBuf {
        self.data_dir.join("node")
    }
}
