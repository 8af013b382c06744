//! The cgroup that the user may divide, and the node's own place in it.

use std::path::{Path, PathBuf};

use nix::{
    errno::Errno,
    unistd::{AccessFlags, access},
};
use sys::cgroup::{Cgroup, own_path};
use thiserror::Error;

use crate::facts::CgroupFacts;

/// Where cgroup v2 is on the host, and always in the node.
pub(crate) const MOUNT_POINT: &str = "/sys/fs/cgroup";
/// Holder and daemon.
pub(crate) const SYSTEM: &str = "system";
/// Commands of `usnea node exec`, such as a kubelet.
pub(crate) const EXEC: &str = "exec";
/// The controllers that pods can be limited by.
pub const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// A cgroup in which the caller may make others.
#[derive(Debug)]
pub(crate) struct Delegation {
    pub(crate) root: Cgroup,
    /// In the host's hierarchy.
    pub(crate) path: PathBuf,
}

/// Why there is none.
#[derive(Debug, Error)]
pub(crate) enum NoDelegation {
    #[error("{MOUNT_POINT} is not cgroup v2")]
    NotUnified,
    #[error("this process's own cgroup is not below {MOUNT_POINT}")]
    Elsewhere,
    #[error("cgroup {} is not this user's to divide", path.display())]
    NotWritable { path: PathBuf, source: Errno },
}

impl NoDelegation {
    /// What would help.
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::NotUnified => "boot with systemd.unified_cgroup_hierarchy=1",
            Self::Elsewhere => "start Usnea outside of other tools' namespaces",
            Self::NotWritable { .. } => {
                "start Usnea as a systemd user service with Delegate=yes, or by: systemd-run --user --scope \
                 -p Delegate=yes usnea serve"
            }
        }
    }
}

/// Looks for the delegated cgroup: it must be the caller's own.
pub(crate) fn find() -> Result<Delegation, NoDelegation> {
    let mount = Cgroup::open(Path::new(MOUNT_POINT)).or(Err(NoDelegation::NotUnified))?;
    let path = PathBuf::from(own_path().ok_or(NoDelegation::Elsewhere)?);
    // A path with `..` leads out of the cgroup namespace, and descend refuses it.
    let root = mount.descend(&path).or(Err(NoDelegation::Elsewhere))?;
    let directory = Path::new(MOUNT_POINT).join(path.strip_prefix("/").unwrap_or(&path));
    for name in ["", "cgroup.procs", "cgroup.subtree_control"] {
        access(&directory.join(name), AccessFlags::W_OK)
            .map_err(|source| NoDelegation::NotWritable { path: path.clone(), source })?;
    }
    Ok(Delegation { root, path })
}

/// Moves the caller to the cgroup `name` below `root`.
pub(crate) fn move_to(root: &Cgroup, name: &str) -> std::io::Result<()> {
    root.make(Path::new(name))?.write("cgroup.procs", "0")
}

/// Which of [`CONTROLLERS`] `root` could give to the cgroups below it.
pub(crate) fn offered(root: &Cgroup) -> Vec<String> {
    listed(root, "cgroup.controllers")
}

fn listed(root: &Cgroup, file: &str) -> Vec<String> {
    let text = root.read(file).unwrap_or_default();
    let known = text.split_whitespace().filter(|name| CONTROLLERS.contains(name));
    known.map(str::to_owned).collect()
}

/// Enables what can be, and says what there is then.
///
/// The kernel refuses while a process lives in `root` itself, so everyone who leaves it tries again.
pub(crate) fn enable(root: &Cgroup, path: &Path) -> CgroupFacts {
    let offered = offered(root);
    let before = listed(root, "cgroup.subtree_control");
    let mut failures = Vec::new();
    for name in offered.iter().filter(|name| !before.contains(name)) {
        if let Err(error) = root.write("cgroup.subtree_control", &format!("+{name}")) {
            failures.push(failure(name, path, &error));
        }
    }
    failures.dedup();
    let controllers = listed(root, "cgroup.subtree_control");
    let problem = (!failures.is_empty()).then(|| failures.join("; "));
    CgroupFacts::Delegated { path: path.to_owned(), offered, controllers, problem }
}

fn failure(controller: &str, path: &Path, error: &std::io::Error) -> String {
    if error.raw_os_error().map(Errno::from_raw) == Some(Errno::EBUSY) {
        let path = path.display();
        format!("processes live in {path} itself; start Usnea in a cgroup of its own")
    } else {
        format!("controller {controller}: {error}")
    }
}
