//! Getting subordinate ids into a user namespace with the setuid helpers newuidmap and newgidmap.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    sched::{CloneFlags, unshare},
    sys::wait::{WaitStatus, waitpid},
    unistd::{Gid, Pid, Uid, pipe2},
};
use serde::{Deserialize, Serialize};
use sys::process::{Forked, SingleThreaded, exit_now, fork};
use thiserror::Error;

use crate::{
    error::NodeError,
    facts::Ids,
    idmap::{self, IdMap, Subject},
    origin::login_name,
};

/// Where the helpers may be; `PATH` is not asked, because the user sets it.
const DIRECTORIES: [&str; 3] = ["/usr/bin", "/usr/sbin", "/bin"];

/// A helper could not be used, or did not do what it should.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum ToolFailure {
    /// Not installed.
    #[error(
        "{name} is in none of /usr/bin, /usr/sbin, /bin; install the package uidmap (shadow-utils)"
    )]
    Missing {
        /// `newuidmap` or `newgidmap`.
        name: String,
    },
    /// Somebody else than root could have changed it, or it lacks its privilege.
    #[error("{} is not trusted: {reason}", path.display())]
    Untrusted {
        /// The helper.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It failed.
    #[error("{} failed ({status}): {stderr}", path.display())]
    Failed {
        /// The helper.
        path: PathBuf,
        /// Exit code, signal, or why it did not start.
        status: String,
        /// What it wrote.
        stderr: String,
    },
}

/// Both helpers, looked at and found trustworthy.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    pub(crate) newuidmap: PathBuf,
    pub(crate) newgidmap: PathBuf,
}

impl Tools {
    pub(crate) fn find() -> Result<Self, ToolFailure> {
        Ok(Self { newuidmap: find("newuidmap")?, newgidmap: find("newgidmap")? })
    }
}

fn find(name: &str) -> Result<PathBuf, ToolFailure> {
    let paths = DIRECTORIES.iter().map(|directory| Path::new(directory).join(name));
    let path = paths.into_iter().find(|path| path.exists());
    let path = path.ok_or_else(|| ToolFailure::Missing { name: name.to_owned() })?;
    match distrust(&path) {
        None => Ok(path),
        Some(reason) => Err(ToolFailure::Untrusted { path, reason }),
    }
}

/// Why the program at `path` should not be given our ids.
pub(crate) fn distrust(path: &Path) -> Option<String> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return Some(error.to_string()),
    };
    let mode = metadata.mode();
    if !metadata.is_file() {
        Some("it is no regular file".to_owned())
    } else if metadata.uid() != 0 {
        Some(format!("its owner is uid {}, not root", metadata.uid()))
    } else if mode & 0o022 != 0 {
        Some(format!("its mode {:o} lets others write it", mode & 0o7777))
    } else if mode & 0o4000 == 0 && !has_capabilities(path) {
        Some("it is neither setuid nor has file capabilities".to_owned())
    } else {
        None
    }
}

fn has_capabilities(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    matches!(sys::beneath::get_xattr(&file, OsStr::new("security.capability")), Ok(Some(_)))
}

/// The ids that the calling user may map, and what an administrator should know.
pub(crate) fn plan(uid: Uid, gid: Gid) -> Result<(Plan, Vec<String>), NodeError> {
    let name = login_name(uid);
    let read = |file: &'static str, own_id: u32| -> Result<idmap::Grant, NodeError> {
        let text = match fs::read_to_string(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            result => result.map_err(NodeError::file("read", file))?,
        };
        let subject = Subject { name: name.as_deref(), uid: uid.as_raw(), own_id };
        Ok(idmap::grant(&text, Path::new(file), &subject)?)
    };
    let uids = read("/etc/subuid", uid.as_raw())?;
    let gids = read("/etc/subgid", gid.as_raw())?;
    let warnings = [uids.warnings, gids.warnings].concat();
    let (Some(uids), Some(gids)) = (uids.map, gids.map) else {
        let user = name.unwrap_or_else(|| uid.to_string());
        return Ok((Plan::Single { reason: no_ids(&user) }, warnings));
    };
    match Tools::find() {
        Ok(tools) => Ok((Plan::Subordinate { tools, uids, gids }, warnings)),
        Err(missing @ ToolFailure::Missing { .. }) => {
            Ok((Plan::Single { reason: missing.to_string() }, warnings))
        }
        Err(failure) => Err(failure.into()),
    }
}

fn no_ids(user: &str) -> String {
    format!(
        "{user} has no subordinate ids in /etc/subuid and /etc/subgid; as root: \
         usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user} (choose free ranges)"
    )
}

/// How the user namespace will be mapped.
#[derive(Clone, Debug)]
pub(crate) enum Plan {
    /// Root and all subordinate ids.
    Subordinate { tools: Tools, uids: IdMap, gids: IdMap },
    /// Root only.
    Single { reason: String },
}

impl Plan {
    /// Makes a user namespace, maps it and becomes its root.
    pub(crate) fn carry_out(self, proof: &SingleThreaded) -> Result<Ids, NodeError> {
        match self {
            Self::Subordinate { tools, uids, gids } => {
                map_with_tools(proof, &tools, &uids, &gids)?;
                become_root(true)?;
                Ok(Ids::Mapped { uids, gids })
            }
            Self::Single { reason } => {
                map_self()?;
                become_root(false)?;
                Ok(Ids::SingleId { reason })
            }
        }
    }
}

/// Takes uid and gid 0 of the user namespace that the caller is in, without further groups where these can be set.
pub(crate) fn become_root(groups: bool) -> Result<(), NodeError> {
    let failed = NodeError::namespace("become root of the user namespace");
    let become_it = || {
        if groups {
            nix::unistd::setgroups(&[])?;
        }
        let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
        nix::unistd::setresgid(gid, gid, gid)?;
        nix::unistd::setresuid(uid, uid, uid)
    };
    become_it().map_err(failed)
}

/// Maps the caller to root; the kernel lets everybody do that for the own id.
fn map_self() -> Result<(), NodeError> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(NodeError::namespace("make a user namespace"))?;
    // Without "deny" gid_map is refused: dropping groups could open files that a group is kept out of.
    let writes = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ];
    for (path, text) in writes {
        let written = File::options().write(true).open(path);
        written
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(NodeError::file("write", path))?;
    }
    Ok(())
}

/// The helpers must run outside the new namespace, where they are setuid root: so a child is there before it is made.
fn map_with_tools(
    proof: &SingleThreaded,
    tools: &Tools,
    uids: &IdMap,
    gids: &IdMap,
) -> Result<(), NodeError> {
    let failed = |operation| NodeError::namespace(operation);
    let new_pipe = || pipe2(OFlag::O_CLOEXEC).map_err(failed("make a pipe"));
    let (go_read, go_write) = new_pipe()?;
    let (report_read, report_write) = new_pipe()?;
    let parent = Pid::this();
    match fork(proof, CloneFlags::empty(), None).map_err(failed("start a process"))? {
        Forked::Child => {
            drop((go_write, report_read));
            map_when_told(go_read.into(), report_write.into(), parent, tools, uids, gids)
        }
        Forked::Parent { pid, .. } => {
            drop((go_read, report_write));
            let made = unshare(CloneFlags::CLONE_NEWUSER);
            if made.is_ok() {
                // A child that is gone reports nothing, which is seen below.
                nix::unistd::write(&go_write, b"1").ok();
            }
            drop(go_write);
            let report = read_report(report_read.into(), pid, tools);
            made.map_err(failed("make a user namespace"))?;
            report.map_err(NodeError::from)
        }
    }
}

/// The child: waits for the namespace, maps it, reports a failure as JSON, or nothing.
fn map_when_told(
    mut go: File,
    mut report: File,
    parent: Pid,
    tools: &Tools,
    uids: &IdMap,
    gids: &IdMap,
) -> ! {
    if !matches!(go.read(&mut [0]), Ok(1)) {
        exit_now(1);
    }
    let mapped =
        run(&tools.newuidmap, parent, uids).and_then(|()| run(&tools.newgidmap, parent, gids));
    match mapped {
        Ok(()) => exit_now(0),
        Err(failure) => {
            // Nobody is left to tell when this fails; the exit code says the rest.
            serde_json::to_writer(&mut report, &failure).ok();
            exit_now(1)
        }
    }
}

fn run(tool: &Path, target: Pid, map: &IdMap) -> Result<(), ToolFailure> {
    let failed = |status: String, stderr: String| ToolFailure::Failed {
        path: tool.to_owned(),
        status,
        stderr,
    };
    let mut command = Command::new(tool);
    // The helpers need nothing of our environment, and setuid programs are better off without.
    command.env_clear().arg(target.to_string()).args(map.arguments());
    match command.output() {
        Err(error) => Err(failed(error.to_string(), String::new())),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(failed(output.status.to_string(), stderr))
        }
    }
}

fn read_report(mut report: File, child: Pid, tools: &Tools) -> Result<(), ToolFailure> {
    let mut text = Vec::new();
    let read = report.read_to_end(&mut text);
    let status = waitpid(child, None);
    if let (Ok(_), Ok(WaitStatus::Exited(_, 0))) = (&read, status) {
        return Ok(());
    }
    Err(serde_json::from_slice(&text).unwrap_or_else(|_not_reported| ToolFailure::Failed {
        path: tools.newuidmap.clone(),
        status: format!("the process that runs it: {}", describe(status)),
        stderr: String::from_utf8_lossy(&text).into_owned(),
    }))
}

fn describe(status: Result<WaitStatus, Errno>) -> String {
    match status {
        Ok(WaitStatus::Exited(_, code)) => format!("exit code {code}"),
        Ok(WaitStatus::Signaled(_, signal, _)) => format!("killed by {signal}"),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_privilege_is_not_trusted() {
        let reason = distrust(Path::new("/bin/true")).expect("not setuid");
        assert!(reason.contains("setuid"), "{reason}");
    }

    #[test]
    fn a_missing_program_and_a_directory_are_not_trusted() {
        assert!(distrust(Path::new("/no/such/file")).is_some());
        assert_eq!(distrust(Path::new("/usr")).as_deref(), Some("it is no regular file"));
    }

    #[test]
    fn what_others_may_write_is_not_trusted() {
        use std::os::unix::fs::PermissionsExt;
        let file = std::env::temp_dir().join(format!("usnea-untrusted-{}", std::process::id()));
        File::create(&file).expect("create");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o4777)).expect("chmod");
        let reason = distrust(&file).expect("writable");
        fs::remove_file(&file).expect("remove");
        assert!(reason.contains("owner") || reason.contains("4777"), "{reason}");
    }
}
