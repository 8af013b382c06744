//! The private mount namespace in which root presents a machine to an ordinary user's daemon.
//!
//! A machine that boots with systemd gives each user a delegated cgroup. Others do not, so root makes one for the
//! test where only the test sees it: cgroup2 is mounted in a mount namespace of the test's own.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::Account;

/// Arguments: bin-dir mount-point uid gid [cgroup-name]. Says "ready" and stays until standard input ends, then kills what is left in
/// the cgroup: a test run that was interrupted has no other chance to.
const SCRIPT: &str = r#"
set -eu
mount --bind "$1" "$2"
if [ -n "$5" ]; then
    mount -t cgroup2 none /sys/fs/cgroup
    cd /sys/fs/cgroup
    for controller in $(cat cgroup.controllers); do
        echo "+$controller" >cgroup.subtree_control 2>/dev/null || true
    done
    mkdir "$5"
    cd "$5"
    chown "$3:$4" . cgroup.procs cgroup.subtree_control cgroup.threads
fi
cd /
echo ready
cat >/dev/null
if [ -n "$5" ] && cd "/sys/fs/cgroup/$5" 2>/dev/null; then
    echo 1 >cgroup.kill
fi
"#;

/// Keeps the namespace alive; ends with this process at the latest.
#[derive(Debug)]
pub(crate) struct Stage {
    keeper: Child,
    cgroup_name: Option<String>,
}

impl Stage {
    /// Makes a namespace that shows `bin_dir` at `mount_point`, whatever the modes of its parents, and, with a
    /// `cgroup_name`, a delegated cgroup of that name.
    pub(crate) fn new(
        bin_dir: &Path,
        mount_point: &Path,
        account: &Account,
        cgroup_name: Option<String>,
    ) -> Self {
        let mut keeper = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "stage"])
            .args([bin_dir, mount_point])
            .args([account.uid.to_string(), account.gid.to_string()])
            .arg(cgroup_name.as_deref().unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run unshare(1)");
        let mut line = String::new();
        let stdout = keeper.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("read from the stage");
        assert_eq!(line, "ready\n", "the private mount namespace could not be prepared");
        Self { keeper, cgroup_name }
    }

    /// The process whose namespace it is.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.keeper.id()).expect("pids fit")
    }

    /// Mounts an empty file system of `mib` MiB that only the stage sees.
    pub(crate) fn mount_memory(&self, mount_point: &Path, account: &Account, mib: u32) {
        let Account { uid, gid, .. } = account;
        let status = Command::new("nsenter")
            .arg(format!("--mount=/proc/{}/ns/mnt", self.pid()))
            .args(["mount", "-t", "tmpfs", "-o"])
            .arg(format!("size={mib}m,uid={uid},gid={gid},mode=0755"))
            .arg("usnea-test")
            .arg(mount_point)
            .status();
        assert!(status.is_ok_and(|status| status.success()), "mount a tmpfs");
    }

    /// The delegated cgroup, as a path that works outside the namespace.
    pub(crate) fn cgroup(&self) -> Option<PathBuf> {
        let name = self.cgroup_name.as_ref()?;
        Some(PathBuf::from(format!("/proc/{}/root/sys/fs/cgroup", self.pid())).join(name))
    }

    /// The shell that puts itself into the delegated cgroup, becomes the user and runs its arguments, all with the
    /// process id that it was started with.
    pub(crate) fn command(&self, account: &Account) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.pid()));
        command.args(["sh", "-c", &self.entry(account), "stage"]);
        command
    }

    fn entry(&self, account: &Account) -> String {
        let enter = self.cgroup_name.as_ref().map_or_else(String::new, |name| {
            // Once the daemon has enabled controllers, processes are only allowed in the leaves.
            format!(
                "cd /sys/fs/cgroup/{name} && {{ echo $$ >cgroup.procs || echo $$ >system/cgroup.procs; }} \
                 2>/dev/null && cd / && "
            )
        });
        let Account { uid, gid, .. } = account;
        format!(
            "{enter}exec setpriv --reuid {uid} --regid {gid} --clear-groups --inh-caps=-all -- \"$@\""
        )
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(cgroup) = self.cgroup() {
            remove_cgroups(&cgroup);
        }
        drop(self.keeper.stdin.take());
        if let Err(error) = self.keeper.wait() {
            panic!("wait for the stage: {error}");
        }
    }
}

/// Removes a cgroup and those below it; one with processes stays.
fn remove_cgroups(cgroup: &Path) {
    for child in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&child.path());
        }
    }
    if let Err(error) = fs::remove_dir(cgroup) {
        report(&format!("remove cgroup {}: {error}", cgroup.display()));
    }
}

#[expect(clippy::print_stderr, reason = "for who reads the test's output")]
fn report(message: &str) {
    eprintln!("testkit: {message}");
}
