//! Namespaces such as a rootless node has.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::stat::Mode,
    unistd::{Gid, geteuid, getpid, setgroups},
};
use sys::{cgroup::Cgroup, process::SingleThreaded};
use tempfile::TempDir;

/// Where everything happens.
pub(crate) struct Node {
    pub(crate) proof: SingleThreaded,
    /// For the files of containers.
    pub(crate) directory: TempDir,
    /// A cgroup of ours, and its path as `/proc/PID/cgroup` of our own processes shows it.
    pub(crate) cgroup: Cgroup,
    pub(crate) cgroup_path: String,
}

/// Where libcontainer looks for cgroups.
pub(crate) const CGROUP_MOUNT: &str = "/sys/fs/cgroup";

impl Node {
    /// Enters a user namespace with the ids 0 to 65535 and everything that a pod's shim makes for itself.
    pub(crate) fn enter() -> Result<Self, String> {
        if !geteuid().is_root() {
            return Err("needs root, to map a range of ids".to_owned());
        }
        if !Path::new("/bin/busybox").exists() {
            return Err("needs /bin/busybox, linked statically".to_owned());
        }
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let proof = SingleThreaded::prove().map_err(|error| error.to_string())?;
        enter_namespaces()?;
        let cgroups = directory.path().join("cgroups");
        mount_cgroups(&cgroups).map_err(|errno| format!("mount cgroups: {errno}"))?;
        let root = Cgroup::open(&cgroups).map_err(|errno| errno.to_string())?;
        let name = format!("runtime-test-{}", getpid());
        let cgroup =
            root.make(Path::new(&name)).map_err(|errno| format!("make cgroup: {errno}"))?;
        sys::process::become_subreaper().map_err(|errno| errno.to_string())?;
        let own = sys::cgroup::own_path().unwrap_or_default();
        let cgroup_path = format!("{}/{name}", own.trim_end_matches('/'));
        Ok(Self { proof, directory, cgroup, cgroup_path })
    }

    pub(crate) fn state_root(&self) -> PathBuf {
        self.directory.path().join("oci")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.cgroup.kill().ok();
        self.cgroup.wait_empty(std::time::Duration::from_secs(2)).ok();
        if let Ok(root) = Cgroup::open(&self.directory.path().join("cgroups")) {
            root.remove(self.cgroup_path.trim_start_matches('/')).ok();
        }
        // The directory is removed next, and must not be a mount then.
        umount2(&self.directory.path().join("cgroups"), MntFlags::MNT_DETACH).ok();
    }
}

fn enter_namespaces() -> Result<(), String> {
    // Only a process outside can map more than one id.
    let pid = getpid();
    let script = format!(
        "read go; echo 0 0 65536 > /proc/{pid}/uid_map && echo 0 0 65536 > /proc/{pid}/gid_map"
    );
    let mut outside = Command::new("/bin/sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let flags = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    unshare(flags).map_err(|errno| format!("unshare: {errno}"))?;
    let stdin = outside.stdin.as_mut().ok_or("no pipe")?;
    stdin.write_all(b"\n").map_err(|error| error.to_string())?;
    if !outside.wait().map_err(|error| error.to_string())?.success() {
        return Err("ids could not be mapped".to_owned());
    }
    setgroups(&[Gid::from_raw(0)]).map_err(|errno| format!("setgroups: {errno}"))?;
    nix::unistd::sethostname("pod-host").map_err(|errno| format!("sethostname: {errno}"))
}

/// Mounts cgroup v2 at `path`, for our own use, and unchangeable where libcontainer looks: its own cgroups must not
/// come to be. The shim does the same.
fn mount_cgroups(path: &Path) -> nix::Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    nix::unistd::mkdir(path, Mode::S_IRWXU)?;
    mount(Some("cgroup2"), path, Some("cgroup2"), MsFlags::empty(), none)?;
    mount(Some(path), CGROUP_MOUNT, none, MsFlags::MS_BIND, none)?;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(none, CGROUP_MOUNT, none, flags, none)
}

/// A root file system with busybox, and nothing that libcontainer would have to make.
pub(crate) fn make_image(layer: &Path) {
    for directory in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
        fs::create_dir_all(layer.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", layer.join("bin/busybox")).unwrap();
    for applet in ["sh", "cat", "echo", "sleep", "true", "id", "grep", "ls", "env", "hostname"] {
        std::os::unix::fs::symlink("busybox", layer.join("bin").join(applet)).unwrap();
    }
    fs::write(layer.join("bin/text"), "not a program").unwrap();
    fs::set_permissions(
        layer.join("bin/text"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
}
