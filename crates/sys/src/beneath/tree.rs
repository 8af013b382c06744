//! Whole trees: listing, walking, measuring and removing.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, ResolveFlag};
use nix::sys::stat::{self, FileStat, Mode, SFlag};
use nix::unistd::{self, UnlinkatFlags};

use super::{
    BeneathError, Resolve, chmod, failed, file_type, lstat, open_dir, openat2, rename, single,
};

/// One name in a directory, `.` and `..` left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name, a single component.
    pub name: OsString,
    /// What the directory says it is; `None` when the file system does not tell.
    pub file_type: Option<Type>,
}

/// Lists `dir`, which may be an `O_PATH` descriptor; its own read position is not touched.
///
/// # Errors
/// [`BeneathError`]: as `openat(2)` and `getdents64(2)`.
pub fn read_dir(dir: impl AsFd) -> Result<Vec<DirEntry>, BeneathError> {
    let here = OsStr::new(".");
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut listing = Dir::openat(dir, here, flags, Mode::empty()).map_err(failed("list", here))?;
    let mut entries = Vec::new();
    for entry in listing.iter() {
        let entry = entry.map_err(failed("list", here))?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            let name = OsString::from_vec(name.to_vec());
            entries.push(DirEntry { name, file_type: entry.file_type() });
        }
    }
    Ok(entries)
}

/// Visits everything below `dir`, parents before children, with the path relative to `dir`.
///
/// Symbolic links and mount points are visited, not entered. What vanishes meanwhile is left out,
/// so that trees in use can be walked. One descriptor is open at a time, whatever the depth.
///
/// # Errors
/// The visitor's first error; [`BeneathError`] with `ENAMETOOLONG` for a tree deeper than
/// `PATH_MAX`.
pub fn walk<E: From<BeneathError>>(
    dir: impl AsFd,
    mut visit: impl FnMut(&Path, &FileStat) -> Result<(), E>,
) -> Result<(), E> {
    let resolve = Resolve::NoSymlinks.flags() | ResolveFlag::RESOLVE_NO_XDEV;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let mut pending = vec![PathBuf::from(".")];
    while let Some(path) = pending.pop() {
        let fd = match openat2(dir.as_fd(), &path, resolve, flags, Mode::empty()) {
            // Gone, replaced or mounted over since its parent was listed.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV) => continue,
            result => result.map_err(failed("walk", path.as_os_str()))?,
        };
        for entry in read_dir(&fd)? {
            let stat = match lstat(&fd, &entry.name) {
                Err(BeneathError { source: Errno::ENOENT, .. }) => continue,
                result => result?,
            };
            let child = path.strip_prefix(".").unwrap_or(&path).join(&entry.name);
            visit(&child, &stat)?;
            if file_type(&stat) == SFlag::S_IFDIR {
                pending.push(child);
            }
        }
    }
    Ok(())
}

/// What a tree occupies on its file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TreeUsage {
    /// Allocated bytes; a file with several names counts once.
    pub bytes: u64,
    /// Inodes; a file with several names counts once.
    pub inodes: u64,
}

/// Measures everything below `dir`, without `dir` itself.
///
/// # Errors
/// As [`walk`].
pub fn usage(dir: impl AsFd) -> Result<TreeUsage, BeneathError> {
    /// The unit of `st_blocks`, whatever the file system's block size is.
    const BLOCK_BYTES: u64 = 512;
    let mut usage = TreeUsage::default();
    let mut linked = HashSet::new();
    walk::<BeneathError>(dir, |_, stat| {
        let several_names = stat.st_nlink > 1 && file_type(stat) != SFlag::S_IFDIR;
        if !several_names || linked.insert((stat.st_dev, stat.st_ino)) {
            let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
            usage.bytes = usage.bytes.saturating_add(blocks.saturating_mul(BLOCK_BYTES));
            usage.inodes += 1;
        }
        Ok(())
    })?;
    Ok(usage)
}

/// Removes `name` in `dir` and, when it is a directory, everything below it.
///
/// Never enters a symbolic link or a mount point, even when another process swaps entries
/// meanwhile. Sub-directories are moved to the top before they are emptied, so neither the stack
/// nor the number of open descriptors grows with the depth. A name that is absent is a success.
///
/// # Errors
/// [`BeneathError`]: `EBUSY` or `EXDEV` for a mount point inside, else as `unlinkat(2)`.
pub fn remove_tree(dir: impl AsFd, name: &OsStr) -> Result<(), BeneathError> {
    let name = single("remove", name)?;
    while !remove_if_empty(dir.as_fd(), name)? {
        let Some(top) = open_to_empty(dir.as_fd(), name)? else { continue };
        let mut moved = 0_u64;
        loop {
            let entries = read_dir(&top)?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                if !remove_if_empty(top.as_fd(), &entry.name)? {
                    raise_entries(top.as_fd(), &entry.name, &mut moved)?;
                }
            }
        }
    }
    Ok(())
}

/// Removes a non-directory or an empty directory; says `false` when the directory has entries.
fn remove_if_empty(dir: BorrowedFd<'_>, name: &OsStr) -> Result<bool, BeneathError> {
    let first = match unistd::unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(true),
        Err(errno) => errno,
    };
    match unistd::unlinkat(dir, name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(false),
        // Not a directory: the first answer is the one that counts, unless it was swapped.
        Err(Errno::ENOTDIR) if first == Errno::EISDIR => Ok(false),
        Err(Errno::ENOTDIR) => Err(failed("remove", name)(first)),
        Err(errno) => Err(failed("remove", name)(errno)),
    }
}

/// Opens a directory that is about to be emptied; `None` when it is no directory any more.
fn open_to_empty(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Option<OwnedFd>, BeneathError> {
    let fd = match with_access(dir, name, || open_dir(dir, name)) {
        Ok(fd) => fd,
        Err(BeneathError { source: Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP, .. }) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    // Without privileges a read-only directory cannot be emptied. Where the change is refused,
    // the removal itself tells why.
    stat::fchmod(&fd, Mode::S_IRWXU).ok();
    Ok(Some(fd))
}

/// Removes what is in the directory `name` of `top`, moving its full sub-directories into `top`.
fn raise_entries(top: BorrowedFd<'_>, name: &OsStr, moved: &mut u64) -> Result<(), BeneathError> {
    let Some(directory) = open_to_empty(top, name)? else { return Ok(()) };
    for entry in read_dir(&directory)? {
        while !remove_if_empty(directory.as_fd(), &entry.name)? {
            *moved += 1;
            let unique = OsString::from(format!(".removing-{moved}"));
            let attempt = with_access(directory.as_fd(), &entry.name, || {
                rename(&directory, &entry.name, top, &unique)
            });
            match attempt {
                // The name is taken: try the next. Gone meanwhile: the loop notices.
                Err(BeneathError {
                    source: Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR | Errno::ENOENT,
                    ..
                }) => {}
                result => result?,
            }
        }
    }
    Ok(())
}

/// Runs `operation`, and once more with the owner's permissions when they were missing.
fn with_access<T>(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    operation: impl Fn() -> Result<T, BeneathError>,
) -> Result<T, BeneathError> {
    match operation() {
        Err(BeneathError { source: Errno::EACCES, .. }) => {
            chmod(dir, name, Mode::S_IRWXU)?;
            operation()
        }
        result => result,
    }
}
