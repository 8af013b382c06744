//! Processes, as `/proc` shows them.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt, path::PathBuf};

/// The kinds of namespaces that Usnea makes, by their name in `/proc/PID/ns`.
pub const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// A process at the time it was looked at; each question reads `/proc` again and answers nothing for one that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Process id in the reader's namespace.
    pub pid: i32,
}

/// All processes.
#[must_use]
pub fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.map(|pid| Process { pid }).collect()
}

impl Process {
    fn path(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.pid)).join(name)
    }

    /// Program and arguments, separated by blanks; empty for a zombie.
    #[must_use]
    pub fn command_line(self) -> String {
        let bytes = fs::read(self.path("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ").trim_end().to_owned()
    }

    /// Whether it was started with the environment variable `name=value`.
    #[must_use]
    pub fn has_env(self, name: &str, value: &str) -> bool {
        let wanted = format!("{name}={value}");
        let environ = fs::read(self.path("environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes())
    }

    /// Its cgroup in the v2 hierarchy, as its own line of `/proc/PID/cgroup` tells.
    #[must_use]
    pub fn cgroup(self) -> Option<String> {
        let text = fs::read_to_string(self.path("cgroup")).ok()?;
        text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
    }

    /// Its namespace of this kind, such as `net:[4026531840]`.
    #[must_use]
    pub fn namespace(self, kind: &str) -> Option<String> {
        let link = fs::read_link(self.path("ns").join(kind)).ok()?;
        link.to_str().map(str::to_owned)
    }

    /// Whether one of its threads is in `namespace`, such as `net:[4026531840]`.
    #[must_use]
    pub fn is_in(self, namespace: &str) -> bool {
        let Some(kind) = namespace.split(':').next() else { return false };
        let tasks = fs::read_dir(self.path("task")).into_iter().flatten().flatten();
        let links = tasks.map(|task| fs::read_link(task.path().join("ns").join(kind)));
        links.flatten().any(|link| link.to_str() == Some(namespace))
    }

    /// The namespaces of its threads and those that its descriptors hold.
    #[must_use]
    pub fn namespaces(self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let tasks = fs::read_dir(self.path("task")).into_iter().flatten().flatten();
        for task in tasks {
            let links = NAMESPACES.map(|kind| fs::read_link(task.path().join("ns").join(kind)));
            found.extend(links.into_iter().flatten());
        }
        found.extend(self.descriptors());
        let text = found.into_iter().filter_map(|link| link.to_str().map(str::to_owned));
        text.filter(|link| is_namespace(link)).collect()
    }

    /// What its descriptors refer to.
    #[must_use]
    pub fn descriptors(self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path("fd")).into_iter().flatten().flatten();
        entries.filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
    }

    /// The owner of its `/proc` directory.
    #[must_use]
    pub fn uid(self) -> Option<u32> {
        fs::metadata(self.path("")).ok().map(|metadata| metadata.uid())
    }

    /// The lines of its `mountinfo`.
    #[must_use]
    pub fn mounts(self) -> Vec<String> {
        let text = fs::read_to_string(self.path("mountinfo")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// A field of its `status`, such as `Seccomp`.
    #[must_use]
    pub fn status_field(self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.path("status")).ok()?;
        let value =
            |line: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned());
        text.lines().find_map(value)
    }

    /// Proportional share of its memory, in kB.
    #[must_use]
    pub fn pss_kilobytes(self) -> Option<u64> {
        let text = fs::read_to_string(self.path("smaps_rollup")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    }
}

/// Whether a link's target names a namespace: `net:[4026531840]`.
pub(crate) fn is_namespace(link: &str) -> bool {
    let kind = link.split(':').next().unwrap_or_default();
    link.contains(":[") && NAMESPACES.contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen() {
        let pid = i32::try_from(std::process::id()).expect("pids fit");
        let this = Process { pid };
        assert!(all().contains(&this));
        assert!(!this.command_line().is_empty());
        assert!(this.namespaces().contains(&this.namespace("net").expect("readable")));
        assert_eq!(this.status_field("Pid"), Some(pid.to_string()));
        assert!(!this.mounts().is_empty());
    }

    #[test]
    fn links_to_namespaces() {
        assert!(is_namespace("net:[4026531840]"));
        assert!(!is_namespace("socket:[1234]"));
        assert!(!is_namespace("/etc/net:[1]"));
    }
}
