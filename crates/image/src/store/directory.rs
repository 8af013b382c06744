//! A directory of the store: atomic files, temporary directories and the lock.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::stat::Mode;
use nix::unistd;
use sys::beneath::{self, BeneathError, DirEntry, Resolve};

use crate::error::ImageError;

const LOCK: &str = ".lock";
const TEMPORARY_PREFIX: &str = ".tmp-";

/// Whether the name is one of a file or directory that is not finished.
pub(super) fn is_temporary(name: &str) -> bool {
    name.starts_with(TEMPORARY_PREFIX)
}

/// A name that no other import or removal of this or another process uses.
pub(super) fn temporary_name() -> OsString {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let (pid, nanos) = (std::process::id(), nanos.as_nanos());
    format!("{TEMPORARY_PREFIX}{pid}-{nanos:x}-{count}").into()
}

/// An open directory and, for errors, its path.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

impl Directory {
    pub(super) fn root(path: &Path) -> Result<Self, ImageError> {
        let fd = File::open(path).map_err(|source| ImageError::Io {
            operation: "open",
            path: path.into(),
            source,
        })?;
        Ok(Self { fd: fd.into(), path: path.into() })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens a directory in this one; one that is made is for its owner only.
    pub(super) fn subdirectory(&self, name: &str) -> Result<Self, ImageError> {
        match beneath::mkdir(&self.fd, OsStr::new(name), Mode::S_IRWXU) {
            Err(BeneathError { source: Errno::EEXIST, .. }) => {}
            result => result?,
        }
        self.existing(name)
    }

    /// Opens a directory in this one.
    pub(super) fn existing(&self, name: &str) -> Result<Self, ImageError> {
        let fd = beneath::open_dir(&self.fd, OsStr::new(name))?;
        Ok(Self { fd, path: self.path.join(name) })
    }

    fn failed(&self, operation: &'static str) -> impl FnOnce(Errno) -> ImageError {
        let path = self.path.clone();
        move |errno| ImageError::Io { operation, path, source: errno.into() }
    }

    /// Keeps other threads and processes from changing the store until it is dropped.
    pub(super) fn lock(&self) -> Result<Flock<OwnedFd>, ImageError> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let mut fd = beneath::open(&self.fd, Path::new(LOCK), Resolve::NoSymlinks, flags, mode)?;
        loop {
            match Flock::lock(fd, FlockArg::LockExclusive) {
                Ok(lock) => return Ok(lock),
                Err((again, Errno::EINTR)) => fd = again,
                Err((_, errno)) => return Err(self.failed("lock")(errno)),
            }
        }
    }

    pub(super) fn list(&self) -> Result<Vec<DirEntry>, ImageError> {
        Ok(beneath::read_dir(&self.fd)?)
    }

    pub(super) fn modified(&self) -> Result<SystemTime, ImageError> {
        let stat = nix::sys::stat::fstat(&self.fd).map_err(self.failed("stat"))?;
        let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
        let nanos = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
        Ok(SystemTime::UNIX_EPOCH + std::time::Duration::new(seconds, nanos))
    }

    pub(super) fn sync(&self) -> Result<(), ImageError> {
        unistd::fsync(&self.fd).map_err(self.failed("sync"))
    }

    pub(super) fn contains(&self, name: &str) -> Result<bool, ImageError> {
        match beneath::lstat(&self.fd, OsStr::new(name)) {
            Ok(_) => Ok(true),
            Err(BeneathError { source: Errno::ENOENT, .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads a file of at most `limit` bytes.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
        let path = Path::new(name);
        let fd = beneath::open(&self.fd, path, Resolve::NoSymlinks, flags, Mode::empty())?;
        let mut bytes = Vec::new();
        File::from(fd).take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|source| {
            ImageError::Io { operation: "read", path: self.path.join(name), source }
        })?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length <= limit) {
            Ok(bytes)
        } else {
            Err(ImageError::Record { path: self.path.join(name) })
        }
    }

    /// Writes a file that is there as a whole or not at all, and that survives a power loss.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), ImageError> {
        let temporary = temporary_name();
        let result = self
            .write_temporary(&temporary, bytes)
            .and_then(|()| Ok(beneath::rename(&self.fd, &temporary, &self.fd, OsStr::new(name))?));
        if result.is_err() {
            // The first error is the one to report; what is left is swept at the next start.
            beneath::unlink(&self.fd, &temporary).ok();
        }
        result.and_then(|()| self.sync())
    }

    fn write_temporary(&self, name: &OsStr, bytes: &[u8]) -> Result<(), ImageError> {
        let fd = beneath::create_file(&self.fd, name, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let mut file = File::from(fd);
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|source| ImageError::Io {
            operation: "write",
            path: self.path.join(name),
            source,
        })
    }

    /// Removes a file; one that is absent is a success.
    pub(super) fn remove_file(&self, name: &str) -> Result<(), ImageError> {
        match beneath::unlink(&self.fd, OsStr::new(name)) {
            Err(BeneathError { source: Errno::ENOENT, .. }) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Files are written under the store's lock, so whoever holds it meets abandoned ones only.
    pub(super) fn remove_temporary_files(&self) -> Result<(), ImageError> {
        for entry in self.list()? {
            if entry.name.to_str().is_some_and(is_temporary) {
                beneath::unlink(&self.fd, &entry.name)?;
            }
        }
        Ok(())
    }

    /// Makes a directory that [`Directory::claim_abandoned`] leaves alone while `self` lives.
    ///
    /// The caller holds the store's lock: between its making and its locking the directory looks
    /// abandoned.
    pub(super) fn make_temporary(&self) -> Result<TemporaryDirectory, ImageError> {
        let name = temporary_name();
        beneath::mkdir(&self.fd, &name, Mode::S_IRWXU)?;
        let fd = beneath::open_dir(&self.fd, &name)?;
        let path = self.path.join(&name);
        let lock = Flock::lock(fd, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| self.failed("lock directory in")(errno))?;
        let fd = lock.as_fd().try_clone_to_owned().map_err(|source| ImageError::Io {
            operation: "open",
            path: path.clone(),
            source,
        })?;
        Ok(TemporaryDirectory { directory: Self { fd, path }, name, _lock: lock })
    }

    /// Locks the temporary directories that nobody holds.
    ///
    /// The caller holds the store's lock.
    pub(super) fn claim_abandoned(&self) -> Result<Vec<Claimed>, ImageError> {
        let mut claimed = Vec::new();
        for entry in self.list()? {
            if !entry.name.to_str().is_some_and(is_temporary) {
                continue;
            }
            let fd = match beneath::open_dir(&self.fd, &entry.name) {
                // Trees are deleted without the store's lock.
                Err(BeneathError { source: Errno::ENOENT, .. }) => continue,
                result => result?,
            };
            if let Ok(lock) = Flock::lock(fd, FlockArg::LockExclusiveNonblock) {
                claimed.push(Claimed { name: entry.name, _lock: lock });
            }
        }
        Ok(claimed)
    }

    /// Takes a directory out of use by giving it a temporary name; `None` when someone holds it.
    ///
    /// The caller holds the store's lock.
    pub(super) fn claim(&self, name: &OsStr) -> Result<Option<Claimed>, ImageError> {
        let fd = beneath::open_dir(&self.fd, name)?;
        let Ok(lock) = Flock::lock(fd, FlockArg::LockExclusiveNonblock) else { return Ok(None) };
        let temporary = temporary_name();
        beneath::rename(&self.fd, name, &self.fd, &temporary)?;
        Ok(Some(Claimed { name: temporary, _lock: lock }))
    }

    /// Removes directories; tries all and reports the first failure.
    pub(super) fn remove_claimed(&self, claimed: Vec<Claimed>) -> Result<(), ImageError> {
        let mut result = Ok(());
        for directory in claimed {
            let removed = beneath::remove_tree(&self.fd, &directory.name);
            result = result.and(removed.map_err(ImageError::from));
        }
        result
    }
}

/// A temporary directory that this process alone removes.
#[derive(Debug)]
pub(super) struct Claimed {
    name: OsString,
    _lock: Flock<OwnedFd>,
}

/// A directory that is being filled.
#[derive(Debug)]
pub(super) struct TemporaryDirectory {
    pub(super) directory: Directory,
    pub(super) name: OsString,
    _lock: Flock<OwnedFd>,
}
