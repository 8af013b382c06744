//! What libcontainer sees of cgroups: a tree that it cannot change.
//!
//! The helper is in the container's cgroup already. libcontainer wants to make one by its own rules and move its
//! processes there; it puts up with a read-only tree, and with nothing else. Whoever starts the helper should show it
//! such a tree, which costs nothing here.

use std::{io, path::Path};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sched::{CloneFlags, unshare},
    sys::{
        stat::Mode,
        statfs::{CGROUP2_SUPER_MAGIC, statfs},
        statvfs::FsFlags,
    },
};
use sys::{
    mount::{FsContext, MountAttributes, attach, set_attributes},
    process::SingleThreaded,
};

use crate::error::RuntimeError;

/// Where libcontainer looks, whatever else a host has.
const MOUNT_POINT: &str = "/sys/fs/cgroup";

/// Makes [`MOUNT_POINT`] a read-only cgroup v2 file system for this process and what it creates.
///
/// Where it is something else, such as the directory of cgroup v1 hierarchies, a new file system is mounted over it.
/// It shows this process's cgroup as its root, because only a cgroup namespace of one's own may be mounted.
pub(super) fn make_read_only(_proof: &SingleThreaded) -> Result<(), RuntimeError> {
    let failed = |errno: Errno| RuntimeError::File {
        operation: "show libcontainer a read-only",
        path: MOUNT_POINT.into(),
        source: io::Error::from(errno),
    };
    let stat = statfs(MOUNT_POINT).map_err(failed)?;
    let is_unified = stat.filesystem_type() == CGROUP2_SUPER_MAGIC;
    if is_unified && stat.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(());
    }
    let result = if is_unified { protect() } else { cover() };
    result.map_err(failed)
}

const READ_ONLY: MountAttributes =
    MountAttributes { read_only: true, no_suid: true, no_dev: true, no_exec: true };

fn protect() -> Result<(), Errno> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    set_attributes(mount_point()?, READ_ONLY, None, false)
}

fn cover() -> Result<(), Errno> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP)?;
    let context = FsContext::open(c"cgroup2")?;
    context.set(c"source", c"cgroup2")?;
    attach(context.mount(READ_ONLY)?, mount_point()?)
}

fn mount_point() -> Result<std::os::fd::OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(Path::new(MOUNT_POINT), flags, Mode::empty())
}
