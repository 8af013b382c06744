//! The cgroups that the shim makes: one per container, one below it per exec, one for pause.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Seek},
    path::Path,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, openat},
    sys::stat::Mode,
};
use shim_api::v1::CgroupSetting;
use sys::cgroup::Cgroup;

use crate::error::ShimError;

/// How long the kernel may take to bury the processes that were killed.
const EMPTY_WITHIN: Duration = Duration::from_millis(500);

/// A cgroup that the shim has made and will remove.
#[derive(Debug)]
pub(crate) struct OwnCgroup {
    parent: Cgroup,
    name: String,
    cgroup: Cgroup,
}

impl OwnCgroup {
    /// Makes `path` below `root`.
    ///
    /// One that exists is taken over when nothing lives in it, for it is what a killed shim has left.
    pub(crate) fn make(root: &Cgroup, path: &str) -> Result<Self, ShimError> {
        let failed = |source| ShimError::MakeCgroup { path: path.to_owned(), source };
        let relative = Path::new(path);
        let name =
            relative.file_name().and_then(OsStr::to_str).ok_or_else(|| failed(Errno::EINVAL))?;
        let parent = root.make(relative.parent().unwrap_or(Path::new(""))).map_err(failed)?;
        let cgroup = parent.make(Path::new(name)).map_err(failed)?;
        if cgroup.populated() {
            return Err(failed(Errno::EBUSY));
        }
        Ok(Self { parent, name: name.to_owned(), cgroup })
    }

    /// Makes the cgroup `name` directly below this one.
    pub(crate) fn make_child(&self, name: &str) -> Result<Self, ShimError> {
        Self::make(&self.cgroup, name)
    }

    /// Writes `settings` in their order.
    pub(crate) fn configure(&self, settings: &[CgroupSetting]) -> Result<(), ShimError> {
        settings.iter().try_for_each(|CgroupSetting { file, value }| {
            // One name in this directory: the request may not reach other cgroups.
            let written = if file.contains('/') || file.starts_with('.') {
                Err(io::ErrorKind::InvalidInput.into())
            } else {
                self.cgroup.write(file, value)
            };
            written.map_err(|source| ShimError::WriteCgroup {
                file: file.clone(),
                value: value.clone(),
                source,
            })
        })
    }

    pub(crate) fn get(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Kills everything that lives here or below. One that is gone has nobody to kill.
    pub(crate) fn kill(&self) -> Result<(), ShimError> {
        match self.cgroup.kill() {
            Err(error) if is_gone(&error) => Ok(()),
            result => {
                result.map_err(|source| ShimError::KillCgroup { name: self.name.clone(), source })
            }
        }
    }

    /// A file with an urgent event when something about its processes changes; `None` when nothing lives here.
    ///
    /// Source: kernel documentation `admin-guide/cgroup-v2`, `cgroup.events`.
    pub(crate) fn watch(&self) -> Result<Option<File>, ShimError> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let opened = openat(&self.cgroup, "cgroup.events", flags, Mode::empty());
        let events =
            opened.map_err(|source| ShimError::WatchCgroup { name: self.name.clone(), source })?;
        let mut events = File::from(events);
        Ok(acknowledge(&mut events).then_some(events))
    }

    /// Whether a process of it was killed for want of memory.
    pub(crate) fn oom_killed(&self) -> bool {
        self.cgroup.flat_keyed("memory.events", "oom_kill").is_some_and(|count| count > 0)
    }

    /// Removes it and what is below, once the processes that were killed are gone.
    pub(crate) fn remove(&self) -> Result<(), ShimError> {
        let removed =
            self.cgroup.wait_empty(EMPTY_WITHIN).and_then(|_| self.parent.remove(&self.name));
        removed.map_err(|source| ShimError::RemoveCgroup { name: self.name.clone(), source })
    }
}

/// Reads what [`OwnCgroup::watch`] has returned, so that it can tell of the next change; returns whether something
/// still lives there.
pub(crate) fn acknowledge(events: &mut File) -> bool {
    let mut text = String::new();
    // A cgroup that is gone cannot be read.
    events.rewind().is_ok()
        && events.read_to_string(&mut text).is_ok()
        && text.contains("populated 1")
}

fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error().map(Errno::from_raw) == Some(Errno::ENODEV)
}
