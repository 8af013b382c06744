//! The leak audit: what an instance has left behind since it was looked at before.

use std::{
    collections::BTreeMap,
    fmt, fs,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::processes::{self, Process};

/// How long removed things may take to vanish, such as the last zombie of a killed pod.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);
/// What may grow: images, compiled seccomp filters by profile, and directories that hold one entry per pod or container.
const STORES: [&str; 4] = ["images", "layers", "blobs", "seccomp"];
const PARENTS: [&str; 3] = ["pods", "containers", "quarantine"];
/// Cgroups that stay: of the daemon and holder, of commands run in the node, and the parents of shims' and pods' cgroups.
const RESIDENT_CGROUPS: [&str; 4] = ["system", "exec", "shims", "usnea"];

/// What belongs to an instance.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Contains `run/usnea` and `data/usnea`.
    pub directory: PathBuf,
    /// The delegated cgroup.
    pub cgroup: Option<PathBuf>,
    /// The node's user namespace, such as `user:[4026531837]`.
    pub user_namespace: Option<String>,
    /// Processes in whose mount namespaces the instance may mount.
    pub mount_views: Vec<Process>,
    /// Daemon and holder.
    pub residents: Vec<Process>,
}

/// What a leak is one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A process or zombie.
    Process,
    /// A line of `mountinfo`.
    Mount,
    /// A cgroup.
    Cgroup,
    /// A namespace that a process is in or holds open.
    Namespace,
    /// A socket in the file system.
    Socket,
    /// Any other file or directory.
    File,
}

/// Something that was not there before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leak {
    /// What it is.
    pub kind: Kind,
    /// Which one.
    pub what: String,
    /// Whose: a process and its command line, or the file system.
    pub owner: String,
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} (owner: {})", self.kind, self.what, self.owner)
    }
}

/// Things and their owners at one time.
type Snapshot = BTreeMap<(Kind, String), String>;

/// What there was before.
#[derive(Clone, Debug)]
pub struct Audit {
    before: Snapshot,
}

impl Audit {
    /// Looks at what there is.
    #[must_use]
    pub fn before(scope: &Scope) -> Self {
        Self { before: scope.snapshot() }
    }

    /// What is there now and was not before, given time to vanish.
    #[must_use]
    pub fn after(&self, scope: &Scope) -> Vec<Leak> {
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        loop {
            let leaks = self.now(scope);
            if leaks.is_empty() || Instant::now() > deadline {
                return leaks;
            }
            sleep(POLL);
        }
    }

    /// What is there now and was not before.
    #[must_use]
    pub fn now(&self, scope: &Scope) -> Vec<Leak> {
        let new =
            scope.snapshot().into_iter().filter(|(thing, _)| !self.before.contains_key(thing));
        new.map(|((kind, what), owner)| Leak { kind, what, owner }).collect()
    }
}

impl Scope {
    /// The instance's processes, whoever they run as: those in its cgroup or its user namespace.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        let name = self.cgroup.as_ref().and_then(|path| path.file_name()?.to_str());
        let is_ours = |process: &Process| {
            let in_cgroup = name.is_some_and(|name| {
                process
                    .cgroup()
                    .is_some_and(|cgroup| cgroup.split('/').any(|component| component == name))
            });
            let user_namespace = process.namespace("user");
            in_cgroup || (user_namespace.is_some() && user_namespace == self.user_namespace)
        };
        processes::all().into_iter().filter(is_ours).collect()
    }

    fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::new();
        self.add_processes(&mut snapshot);
        self.add_mounts(&mut snapshot);
        if let Some(cgroup) = &self.cgroup {
            add_cgroups(cgroup, cgroup, &mut snapshot);
        }
        let [run, data] = ["run", "data"].map(|name| self.directory.join(name).join("usnea"));
        add_files(&run, &mut snapshot);
        add_files(&data, &mut snapshot);
        snapshot
    }

    fn add_processes(&self, snapshot: &mut Snapshot) {
        let ours = self.processes();
        for process in ours.iter().chain(&self.residents) {
            let owner = format!("{} {}", process.pid, process.command_line());
            // Residents may be in whatever they like; what they only hold open may be leaked.
            let resides =
                |name: &String| self.residents.iter().any(|resident| resident.is_in(name));
            for namespace in process.namespaces().into_iter().filter(|name| !resides(name)) {
                snapshot.entry((Kind::Namespace, namespace)).or_insert_with(|| owner.clone());
            }
            if !self.residents.contains(process) {
                snapshot.insert((Kind::Process, process.pid.to_string()), owner);
            }
        }
    }

    /// All mounts of the instance's own namespaces, and those of ours that show one of its directories.
    fn add_mounts(&self, snapshot: &mut Snapshot) {
        for view in &self.mount_views {
            for line in view.mounts() {
                let owner = format!("mount namespace of {}", view.pid);
                snapshot.insert((Kind::Mount, without_numbers(&line)), owner);
            }
        }
        let this = Process { pid: i32::try_from(std::process::id()).unwrap_or_default() };
        let directory = self.directory.to_string_lossy();
        for line in this.mounts().iter().filter(|line| line.contains(&*directory)) {
            snapshot.insert((Kind::Mount, without_numbers(line)), "host".to_owned());
        }
    }
}

/// Mounts and peer groups are numbered anew in every namespace.
///
/// Source: `proc_pid_mountinfo(5)`: ids of mount and parent come first, peer groups are optional fields before a `-`.
fn without_numbers(line: &str) -> String {
    let mut fields: Vec<&str> = line.split(' ').skip(2).collect();
    let is_peer_group = |field: &str| {
        ["shared:", "master:", "propagate_from:"].iter().any(|name| field.starts_with(name))
    };
    fields.retain(|field| !is_peer_group(field));
    fields.join(" ")
}

fn add_cgroups(root: &Path, cgroup: &Path, snapshot: &mut Snapshot) {
    for child in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if !child.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = child.path();
        add_cgroups(root, &path, snapshot);
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        if !RESIDENT_CGROUPS.contains(&name.as_str()) {
            let processes = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
            let owner = format!("processes: {}", processes.replace('\n', " "));
            snapshot.insert((Kind::Cgroup, name), owner);
        }
    }
}

fn add_files(root: &Path, snapshot: &mut Snapshot) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if STORES.contains(&name.as_str()) {
            continue;
        }
        if PARENTS.contains(&name.as_str()) {
            add_tree(&entry.path(), snapshot);
            continue;
        }
        add_file(&entry, snapshot);
    }
}

fn add_tree(directory: &Path, snapshot: &mut Snapshot) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        add_file(&entry, snapshot);
    }
}

/// Adds an entry and, for a directory, all below it. Links are not followed.
fn add_file(entry: &fs::DirEntry, snapshot: &mut Snapshot) {
    let Ok(kind) = entry.file_type() else { return };
    if kind.is_dir() {
        add_tree(&entry.path(), snapshot);
    }
    let kind = if kind.is_socket() { Kind::Socket } else { Kind::File };
    let path = entry.path().to_string_lossy().into_owned();
    snapshot.insert((kind, path), "file system".to_owned());
}

#[cfg(test)]
mod tests;
