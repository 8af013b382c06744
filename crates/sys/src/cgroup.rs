//! cgroup v2 directories, held by descriptor.
//!
//! Every operation is relative to an open directory, so that it works from a mount namespace in which `/sys/fs/cgroup`
//! is read-only or absent. Source: kernel documentation `admin-guide/cgroup-v2`.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open, openat},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{Signal, kill},
        stat::{Mode, mkdirat},
        statfs::{CGROUP2_SUPER_MAGIC, fstatfs},
    },
    unistd::{Pid, UnlinkatFlags, unlinkat},
};

/// An open cgroup.
#[derive(Debug)]
pub struct Cgroup(OwnedFd);

const DIRECTORY: OFlag =
    OFlag::O_DIRECTORY.union(OFlag::O_CLOEXEC).union(OFlag::O_NOFOLLOW).union(OFlag::O_RDONLY);

impl Cgroup {
    /// Opens the cgroup at `path`.
    ///
    /// # Errors
    /// `ENOENT`; `ENOTSUP` when `path` is not on a cgroup v2 file system.
    pub fn open(path: &Path) -> Result<Self, Errno> {
        let fd = open(path, DIRECTORY, Mode::empty())?;
        if fstatfs(&fd)?.filesystem_type() != CGROUP2_SUPER_MAGIC {
            return Err(Errno::ENOTSUP);
        }
        Ok(Self(fd))
    }

    /// Takes an already open directory, for instance one that was received from another process.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Opens the cgroup at `path` below this one; a leading `/` is taken as this one.
    ///
    /// # Errors
    /// `ENOENT` when it does not exist, `EINVAL` for a path with `..`.
    pub fn descend(&self, path: &Path) -> Result<Self, Errno> {
        self.walk(path, |dir, name| openat(dir, name, DIRECTORY, Mode::empty()))
    }

    /// As [`descend`](Self::descend), making what is missing.
    ///
    /// # Errors
    /// Also `EACCES` outside the delegated part and `EAGAIN` at `cgroup.max.descendants`.
    pub fn make(&self, path: &Path) -> Result<Self, Errno> {
        self.walk(path, |dir, name| match mkdirat(dir, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => openat(dir, name, DIRECTORY, Mode::empty()),
            Err(errno) => Err(errno),
        })
    }

    fn walk(
        &self,
        path: &Path,
        mut step: impl FnMut(&OwnedFd, &std::ffi::OsStr) -> Result<OwnedFd, Errno>,
    ) -> Result<Self, Errno> {
        let mut at = self.0.try_clone().map_err(|e| errno_of(&e))?;
        for component in path.components() {
            match component {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(name) => at = step(&at, name)?,
                Component::ParentDir | Component::Prefix(_) => return Err(Errno::EINVAL),
            }
        }
        Ok(Self(at))
    }

    /// The whole content of an interface file such as `memory.events`.
    ///
    /// # Errors
    /// `ENOENT` when the controller is absent, `ENODEV` when the cgroup has been removed.
    pub fn read(&self, file: &str) -> io::Result<String> {
        let fd = openat(&self.0, file, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        let mut text = String::new();
        File::from(fd).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Writes an interface file in one `write(2)`.
    ///
    /// # Errors
    /// `ENOENT` when the controller or file is absent; what the kernel says of the value.
    pub fn write(&self, file: &str, value: &str) -> io::Result<()> {
        let fd = openat(&self.0, file, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        File::from(fd).write_all(value.as_bytes())
    }

    /// The value of `key` in a flat-keyed file such as `cgroup.events`; `None` when file or key is absent.
    #[must_use]
    pub fn flat_keyed(&self, file: &str, key: &str) -> Option<u64> {
        let text = self.read(file).ok()?;
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
    }

    /// Whether a process lives in this cgroup or below it.
    #[must_use]
    pub fn populated(&self) -> bool {
        self.flat_keyed("cgroup.events", "populated") == Some(1)
    }

    /// Processes directly in this cgroup, as seen from the caller's PID namespace.
    ///
    /// # Errors
    /// `ENODEV` when the cgroup has been removed.
    pub fn processes(&self) -> io::Result<Vec<Pid>> {
        let text = self.read("cgroup.procs")?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).map(Pid::from_raw).collect())
    }

    /// Kills every process in this cgroup and below it.
    ///
    /// Kernels before 5.14 have no `cgroup.kill`: there the cgroup is frozen, so that nothing can fork away, every
    /// process is signalled, and it is thawed.
    ///
    /// # Errors
    /// `ENODEV` or `ENOENT` when the cgroup has been removed.
    pub fn kill(&self) -> io::Result<()> {
        match self.write("cgroup.kill", "1") {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => self.freeze_and_kill(),
            result => result,
        }
    }

    fn freeze_and_kill(&self) -> io::Result<()> {
        self.write("cgroup.freeze", "1")?;
        let signalled = self.signal_tree();
        self.write("cgroup.freeze", "0")?;
        signalled
    }

    fn signal_tree(&self) -> io::Result<()> {
        for pid in self.processes()? {
            match kill(pid, Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.children()?.iter().try_for_each(Self::signal_tree)
    }

    fn children(&self) -> io::Result<Vec<Self>> {
        let mut children = Vec::new();
        for name in self.child_names()? {
            match self.descend(Path::new(&name)) {
                Ok(child) => children.push(child),
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(children)
    }

    /// Names of the cgroups directly below this one.
    ///
    /// # Errors
    /// `ENODEV` when the cgroup has been removed.
    pub fn child_names(&self) -> io::Result<Vec<std::ffi::OsString>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(crate::fd::proc_path(&self.0))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                names.push(entry.file_name());
            }
        }
        Ok(names)
    }

    /// Waits until nothing lives here any more; returns whether that was so within `timeout`.
    ///
    /// # Errors
    /// As `poll(2)`; a removed cgroup counts as empty.
    pub fn wait_empty(&self, timeout: Duration) -> io::Result<bool> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let mut events = match openat(&self.0, "cgroup.events", flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::ENOENT | Errno::ENODEV) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        };
        let deadline = Instant::now() + timeout;
        loop {
            // Reading re-arms the notification, so a change after it wakes the poll below.
            let mut text = String::new();
            io::Seek::rewind(&mut events)?;
            match events.read_to_string(&mut text) {
                Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return Ok(true),
                result => result?,
            };
            if text.contains("populated 0") {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Removes the cgroup `name` directly below this one, together with the cgroups below that.
    ///
    /// One that does not exist is removed already.
    ///
    /// # Errors
    /// `EBUSY` while a process lives there.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.0, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EBUSY | Errno::ENOTEMPTY) => {}
            Err(errno) => return Err(errno.into()),
        }
        let inner = match self.descend(Path::new(name)) {
            Ok(inner) => inner,
            Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        for child in inner.child_names()? {
            if let Some(child) = child.to_str() {
                inner.remove(child)?;
            }
        }
        match unlinkat(&self.0, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// A second handle to the same cgroup.
    ///
    /// # Errors
    /// `EMFILE` when this process has no descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// The caller's cgroup in the v2 hierarchy, relative to the root of its cgroup namespace; `None` on a host without
/// one.
///
/// Source: `cgroups(7)`, `/proc/PID/cgroup`, the line `0::PATH`.
#[must_use]
pub fn own_path() -> Option<String> {
    path_of("self")
}

/// As [`own_path`], for the process `pid`.
#[must_use]
pub fn path_of(pid: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::").map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_no_cgroup_is_refused() {
        assert_eq!(Cgroup::open(Path::new("/proc")).map(drop), Err(Errno::ENOTSUP));
    }

    #[test]
    fn a_path_may_not_climb() {
        let fd = open("/proc", DIRECTORY, Mode::empty()).expect("proc");
        let error = Cgroup::from_fd(fd).descend(Path::new("a/../../etc")).expect_err("climbs");
        assert!(matches!(error, Errno::EINVAL | Errno::ENOENT), "{error}");
    }
}
