//! The node's mount namespace: the host's files, a cgroup file system, writable directories.

use std::path::Path;

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::stat::Mode,
};
use sys::mount::{FsContext, MountAttributes, attach};

use crate::{
    cgroup,
    config::NodeConfig,
    directories,
    error::{NodeError, chain},
    facts::DirectoryFacts,
};

/// What became of the mounts that the node can live without.
#[derive(Debug)]
pub(crate) struct Mounts {
    pub(crate) directories: Vec<DirectoryFacts>,
    pub(crate) warnings: Vec<String>,
}

/// Moves the caller, root of its user namespace, to a new mount namespace and furnishes it.
///
/// Host mounts appear in it, nothing of it appears on the host; below it, mounts propagate both ways, so that what a
/// kubelet mounts reaches the pods that ask for it.
pub(crate) fn make(config: &NodeConfig) -> Result<Mounts, NodeError> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(NodeError::namespace("make a mount namespace"))?;
    propagate(MsFlags::MS_SLAVE)?;
    let warnings = mount_cgroup().err().into_iter().collect();
    let directories = directories::provide(&config.writable_dirs, &config.backing_dir());
    propagate(MsFlags::MS_SHARED)?;
    Ok(Mounts { directories, warnings })
}

fn propagate(how: MsFlags) -> Result<(), NodeError> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | how, none).map_err(|source| NodeError::Mount {
        operation: "set the propagation of",
        path: "/".into(),
        source,
    })
}

/// Also where the host has cgroup v1 or both: what is then seen is the node's place in an empty hierarchy.
fn mount_cgroup() -> Result<(), String> {
    let attributes =
        MountAttributes { no_suid: true, no_dev: true, no_exec: true, ..Default::default() };
    let mount_it = || -> Result<(), Errno> {
        let cgroups = FsContext::open(c"cgroup2")?.mount(attributes)?;
        attach(&cgroups, open_directory(Path::new(cgroup::MOUNT_POINT))?)
    };
    mount_it().map_err(|errno| {
        format!(
            "cgroup v2 could not be mounted in the node, pods run without limits: {}",
            chain(&errno)
        )
    })
}

/// A handle for mounting to and from.
pub(crate) fn open_directory(path: &Path) -> Result<std::os::fd::OwnedFd, Errno> {
    open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}
