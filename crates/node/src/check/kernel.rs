//! Tried in a child process that ends afterwards.

use std::{
    ffi::CString,
    fs::{self, DirBuilder, File},
    io::Write,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::wait::{WaitStatus, waitpid},
    unistd::{AccessFlags, access, getegid, geteuid},
};
use sys::{
    mount::{Overlay, overlay as mount_overlay},
    process::{Forked, SingleThreaded, exit_now, fork},
};

use super::Check;
use crate::config::NodeConfig;

pub(super) fn user_namespaces() -> Check {
    let name = "user namespaces";
    match in_child(enter_user_namespace) {
        None => not_tried(name),
        Some(Ok(())) => Check::ok(name, "an ordinary user can make them"),
        Some(Err(errno)) => Check::missing(name, format!("refused: {errno}"), user_remedy()),
    }
}

/// Names the switches that this kernel has; distributions differ.
fn user_remedy() -> String {
    let switches = [
        ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0", "user.max_user_namespaces=15000"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns=0 (or an AppArmor profile with `userns,` for usnea)",
        ),
    ];
    let set = switches.into_iter().filter(|(path, bad, _)| {
        let value = fs::read_to_string(Path::new("/proc/sys").join(path));
        value.is_ok_and(|value| value.trim() == *bad)
    });
    let set: Vec<_> = set.map(|(_, _, remedy)| format!("sysctl -w {remedy}")).collect();
    if set.is_empty() {
        "allow user namespaces: kernel.unprivileged_userns_clone=1, user.max_user_namespaces above 0, \
         kernel.apparmor_restrict_unprivileged_userns=0, and no seccomp filter of a container around this shell"
            .to_owned()
    } else {
        format!("as root: {}; and the same in /etc/sysctl.d/usnea.conf", set.join(" && "))
    }
}

fn enter_user_namespace() -> Result<(), Errno> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", &format!("0 {gid} 1"))
}

fn write(path: &str, text: &str) -> Result<(), Errno> {
    let written =
        File::options().write(true).open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))
}

pub(super) fn overlay(config: &NodeConfig) -> Check {
    let name = "overlay";
    let scratch = match Scratch::beside(&config.data_dir) {
        Ok(scratch) => scratch,
        Err(reason) => return Check::missing(name, reason, "make the data directory writable"),
    };
    let place = scratch.0.parent().unwrap_or(&scratch.0).display();
    match in_child(|| try_overlay(&scratch.0)) {
        None => not_tried(name),
        Some(Ok(())) => Check::ok(name, format!("mounts in a user namespace at {place}")),
        Some(Err(errno)) => Check::missing(
            name,
            format!("refused at {place}: {errno}"),
            "use Linux 5.11 or newer with the overlay module loaded (as root: modprobe overlay), and a data directory \
             on ext4, xfs, btrfs or tmpfs, not on NFS or another overlay",
        ),
    }
}

fn try_overlay(scratch: &Path) -> Result<(), Errno> {
    enter_user_namespace()?;
    let path =
        |name: &str| CString::new(scratch.join(name).as_os_str().as_bytes()).or(Err(Errno::EINVAL));
    let (lower, upper, work) = ([path("lower")?], path("upper")?, path("work")?);
    mount_overlay(&Overlay { lower: &lower, upper: Some((&upper, &work)) }).map(drop)
}

/// Three empty directories on the data directory's file system; removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn beside(data_dir: &Path) -> Result<Self, String> {
        let existing = data_dir.ancestors().find(|path| path.is_dir());
        let writable = existing.filter(|path| access(*path, AccessFlags::W_OK).is_ok());
        let parent = writable.ok_or_else(|| format!("{} cannot be made", data_dir.display()))?;
        let scratch = Self(parent.join(format!(".usnea-check-{}", std::process::id())));
        for name in ["lower", "upper", "work"] {
            let path = scratch.0.join(name);
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The kernel's own directories below `work`, the last marks `volatile`; it makes them without permissions.
        let mut path = self.0.join("work");
        for name in ["work", "incompat", "volatile"] {
            path.push(name);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).ok();
        }
        // Nothing of value is lost when this fails, and the name says what it was.
        fs::remove_dir_all(&self.0).ok();
    }
}

fn not_tried(name: &str) -> Check {
    Check::warning(name, "not tried: this process has threads", "run `usnea check` by itself")
}

/// Runs `attempt` in a child; `None` when this process has threads, so that it may not fork.
fn in_child(attempt: impl FnOnce() -> Result<(), Errno>) -> Option<Result<(), Errno>> {
    let proof = SingleThreaded::prove().ok()?;
    let pid = match fork(&proof, CloneFlags::empty(), None) {
        Err(errno) => return Some(Err(errno)),
        #[expect(clippy::as_conversions, reason = "a field-less enum's own number")]
        Ok(Forked::Child) => exit_now(attempt().err().map_or(0, |errno| errno as i32)),
        Ok(Forked::Parent { pid, .. }) => pid,
    };
    Some(match waitpid(pid, None) {
        Ok(WaitStatus::Exited(_, 0)) => Ok(()),
        Ok(WaitStatus::Exited(_, errno)) => Err(Errno::from_raw(errno)),
        Ok(_) => Err(Errno::EINTR),
        Err(errno) => Err(errno),
    })
}
