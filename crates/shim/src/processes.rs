//! Finding processes in `/proc` where no cgroup keeps them together.

use std::{fs, os::unix::fs::MetadataExt};

use nix::{sys::signal::Signal, unistd::Pid};
use sys::pidfd;

/// A process that forks while it is looked for may escape one round; its parent does not survive it.
const ROUNDS: u32 = 16;

/// Identifies the mount namespace of `pid`; `None` when the process is gone or dead.
pub(crate) fn mount_namespace(pid: Pid) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/mnt")).ok().map(|metadata| metadata.ino())
}

/// Kills every process whose mount namespace is `namespace`, as [`mount_namespace`] identifies it.
pub(crate) fn kill_by_mount_namespace(namespace: u64) {
    kill_while_found(|pid| mount_namespace(pid) == Some(namespace));
}

/// Kills every process of the session that `leader` has made.
pub(crate) fn kill_session(leader: Pid) {
    kill_while_found(|pid| stat(pid).is_some_and(|stat| stat.session == leader && stat.alive));
}

/// Kills the children of this process that still run its own program and are not among `known`.
///
/// These are a helper and what it forked; a container's process runs another program.
pub(crate) fn kill_unfinished(known: &[Pid]) {
    let Some(own) = program(Pid::this()) else { return };
    let this = Pid::this();
    kill_while_found(|pid| {
        !known.contains(&pid)
            && stat(pid).is_some_and(|stat| stat.parent == this && stat.alive)
            && program(pid) == Some(own)
    });
}

fn kill_while_found(is_meant: impl Fn(Pid) -> bool) {
    let mut killed = Vec::new();
    for _ in 0..ROUNDS {
        let before = killed.len();
        for pid in all().filter(|pid| !killed.contains(pid)).collect::<Vec<_>>() {
            // The handle first: what is then found to be meant is what the handle stands for.
            let Ok(handle) = pidfd::open(pid) else { continue };
            if is_meant(pid) {
                // It may have ended meanwhile, which is what is wanted.
                pidfd::send_signal(handle, Signal::SIGKILL).ok();
                killed.push(pid);
            }
        }
        if killed.len() == before {
            return;
        }
    }
}

fn all() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let this = Pid::this();
    numbers.map(Pid::from_raw).filter(move |pid| *pid != this)
}

/// Device and inode of the program that `pid` runs.
fn program(pid: Pid) -> Option<(u64, u64)> {
    fs::metadata(format!("/proc/{pid}/exe")).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    alive: bool,
    parent: Pid,
    session: Pid,
}

fn stat(pid: Pid) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Source: `proc_pid_stat(5)`. The name in parentheses may contain anything.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, after_name) = text.rsplit_once(") ")?;
    let mut fields = after_name.split(' ');
    let alive = !matches!(fields.next()?, "Z" | "X");
    let parent = Pid::from_raw(fields.next()?.parse().ok()?);
    let session = Pid::from_raw(fields.nth(1)?.parse().ok()?);
    Some(Stat { alive, parent, session })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_name_cannot_disguise_its_process() {
        let text = "42 (evil) S 1 1 7) Z 40 41 39 0 -1 4194560\n";
        let expected = Stat { alive: false, parent: Pid::from_raw(40), session: Pid::from_raw(39) };
        assert_eq!(parse_stat(text), Some(expected));
        assert_eq!(parse_stat("42 (cut off"), None);
    }

    #[test]
    fn a_session_dies_with_all_its_processes() {
        let script = "sleep 60 & sleep 60 & wait";
        let mut leader = Command::new("setsid").args(["sh", "-c", script]).spawn().expect("setsid");
        let pid = Pid::from_raw(i32::try_from(leader.id()).expect("pid"));
        let is_member =
            |pid: Pid, leader| stat(pid).is_some_and(|stat| stat.session == leader && stat.alive);
        let members_are = |number| {
            (0..1000).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(5));
                all().filter(|member| is_member(*member, pid)).count() == number
            })
        };
        assert!(members_are(3), "a shell and two sleepers");
        kill_session(pid);
        leader.wait().expect("wait");
        assert!(members_are(0));
    }

    #[test]
    fn own_mount_namespace_is_known() {
        assert!(mount_namespace(Pid::this()).is_some());
        assert_eq!(mount_namespace(Pid::from_raw(i32::MAX)), None);
    }
}
