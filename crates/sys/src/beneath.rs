//! File system work below a directory descriptor that no symbolic link can lead outside.
//!
//! Two kinds of function live here. [`open`] resolves a path of several components with
//! `openat2(2)`, which the kernel confines to the directory. All others take a directory and
//! *one* name in it, refuse anything that is not a single component, and never follow a symbolic
//! link of that name. Whoever holds the directory therefore decides where work happens, whatever
//! another process renames meanwhile.

use std::ffi::{CString, OsStr, c_long};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{self, AtFlags, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{self, FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags};
use nix::sys::time::TimeSpec;
use nix::unistd::{self, Gid, LinkatFlags, Uid, UnlinkatFlags};

#[cfg(test)]
mod tests;
mod tree;

pub use tree::{DirEntry, TreeUsage, read_dir, remove_tree, usage, walk};

/// An operation below a directory failed.
///
/// `path` is relative to the directory that the caller passed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}", path.display())]
pub struct BeneathError {
    /// What was tried: the system call's name or a short verb.
    pub operation: &'static str,
    /// The name or path it was tried on, relative to the directory.
    pub path: PathBuf,
    /// The kernel's answer; `EINVAL` also for a name that is not a single component.
    #[source]
    pub source: Errno,
}

/// Turns an errno into a [`BeneathError`] that names the operation and its subject.
fn failed(operation: &'static str, path: &OsStr) -> impl FnOnce(Errno) -> BeneathError {
    let path = PathBuf::from(path);
    move |source| BeneathError { operation, path, source }
}

/// How [`open`] treats symbolic links and `..` on the way. No mode follows a magic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolve {
    /// No component may be a symbolic link (`ELOOP`), none may leave the directory (`EXDEV`).
    NoSymlinks,
    /// Symbolic links are followed as long as they stay below the directory (else `EXDEV`).
    Beneath,
    /// The directory is the root: absolute links start there and `..` stops there.
    InRoot,
}

impl Resolve {
    fn flags(self) -> ResolveFlag {
        let no_magic = ResolveFlag::RESOLVE_NO_MAGICLINKS;
        match self {
            Self::NoSymlinks => {
                no_magic | ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS
            }
            Self::Beneath => no_magic | ResolveFlag::RESOLVE_BENEATH,
            Self::InRoot => no_magic | ResolveFlag::RESOLVE_IN_ROOT,
        }
    }
}

/// With `..` in a path the kernel answers `EAGAIN` when something was renamed meanwhile.
const OPEN_ATTEMPTS: u32 = 64;

/// Opens `path` below `dir`; `mode` matters only when `flags` creates. `O_CLOEXEC` is added.
///
/// Source: `openat2(2)`, Linux 5.6.
///
/// # Errors
/// [`BeneathError`]: `EXDEV` when the path leaves `dir`, `ELOOP` for a link that [`Resolve`]
/// forbids, `ENOSYS` on an older kernel, else what `open(2)` answers.
pub fn open(
    dir: impl AsFd,
    path: &Path,
    resolve: Resolve,
    flags: OFlag,
    mode: Mode,
) -> Result<OwnedFd, BeneathError> {
    openat2(dir.as_fd(), path, resolve.flags(), flags, mode)
        .map_err(failed("open", path.as_os_str()))
}

fn openat2(
    dir: BorrowedFd<'_>,
    path: &Path,
    resolve: ResolveFlag,
    flags: OFlag,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let creates = flags.contains(OFlag::O_CREAT) || flags.contains(OFlag::O_TMPFILE);
    // openat2 refuses a mode that would not be used.
    let mode = if creates { mode } else { Mode::empty() };
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(mode).resolve(resolve);
    for _ in 1..OPEN_ATTEMPTS {
        match fcntl::openat2(dir, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            result => return result,
        }
    }
    fcntl::openat2(dir, path, how)
}

/// Opens the directory `name` in `dir` for reading, never through a symbolic link.
///
/// # Errors
/// [`BeneathError`]: `ELOOP` or `ENOTDIR` when it is something else, `EXDEV` for a mount point.
pub fn open_dir(dir: impl AsFd, name: &OsStr) -> Result<OwnedFd, BeneathError> {
    let name = single("open directory", name)?;
    let resolve = Resolve::NoSymlinks.flags() | ResolveFlag::RESOLVE_NO_XDEV;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    openat2(dir.as_fd(), Path::new(name), resolve, flags, Mode::empty())
        .map_err(failed("open directory", name))
}

/// Creates the regular file `name`, which must not exist, and opens it for writing.
///
/// # Errors
/// [`BeneathError`]: `EEXIST` for anything of that name, a dangling symbolic link included.
pub fn create_file(dir: impl AsFd, name: &OsStr, mode: Mode) -> Result<OwnedFd, BeneathError> {
    let name = single("create", name)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
    openat2(dir.as_fd(), Path::new(name), Resolve::NoSymlinks.flags(), flags, mode)
        .map_err(failed("create", name))
}

/// A name that is one component and thus cannot lead anywhere else.
fn single<'a>(operation: &'static str, name: &'a OsStr) -> Result<&'a OsStr, BeneathError> {
    let bytes = name.as_bytes();
    let ok = !matches!(bytes, b"" | b"." | b"..") && !bytes.contains(&b'/');
    if ok { Ok(name) } else { Err(failed(operation, name)(Errno::EINVAL)) }
}

/// Makes the directory `name`; the process's umask applies to `mode`.
///
/// # Errors
/// [`BeneathError`]: as `mkdirat(2)`, `EEXIST` for anything of that name.
pub fn mkdir(dir: impl AsFd, name: &OsStr, mode: Mode) -> Result<(), BeneathError> {
    let name = single("mkdir", name)?;
    stat::mkdirat(dir, name, mode).map_err(failed("mkdir", name))
}

/// Makes the FIFO `name`; the process's umask applies to `mode`.
///
/// # Errors
/// [`BeneathError`]: as `mknodat(2)`.
pub fn mkfifo(dir: impl AsFd, name: &OsStr, mode: Mode) -> Result<(), BeneathError> {
    let name = single("mkfifo", name)?;
    stat::mknodat(dir, name, SFlag::S_IFIFO, mode, 0).map_err(failed("mkfifo", name))
}

/// Makes an overlayfs whiteout: the character device 0:0 without permissions.
///
/// It is the only device that a user namespace may make, since Linux 5.8.
///
/// # Errors
/// [`BeneathError`]: `EPERM` on an older kernel, else as `mknodat(2)`.
pub fn make_whiteout(dir: impl AsFd, name: &OsStr) -> Result<(), BeneathError> {
    let name = single("make whiteout", name)?;
    stat::mknodat(dir, name, SFlag::S_IFCHR, Mode::empty(), stat::makedev(0, 0))
        .map_err(failed("make whiteout", name))
}

/// Whether `stat` describes what [`make_whiteout`] makes.
#[must_use]
pub fn is_whiteout(stat: &FileStat) -> bool {
    file_type(stat) == SFlag::S_IFCHR && stat.st_rdev == stat::makedev(0, 0)
}

/// The file type bits of `stat`.
#[must_use]
pub fn file_type(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Makes the symbolic link `name` with the text `target`, which is not looked at.
///
/// # Errors
/// [`BeneathError`]: as `symlinkat(2)`.
pub fn symlink(target: &OsStr, dir: impl AsFd, name: &OsStr) -> Result<(), BeneathError> {
    let name = single("symlink", name)?;
    unistd::symlinkat(target, dir, name).map_err(failed("symlink", name))
}

/// Makes `name` in `dir` a further name of `old_name` in `old_dir`; a symbolic link is linked
/// itself, not what it points to.
///
/// # Errors
/// [`BeneathError`]: as `linkat(2)`.
pub fn link(
    old_dir: impl AsFd,
    old_name: &OsStr,
    dir: impl AsFd,
    name: &OsStr,
) -> Result<(), BeneathError> {
    let old_name = single("link", old_name)?;
    let name = single("link", name)?;
    unistd::linkat(old_dir, old_name, dir, name, LinkatFlags::empty()).map_err(failed("link", name))
}

/// Renames `old_name` in `old_dir` to `name` in `dir`.
///
/// # Errors
/// [`BeneathError`]: as `renameat(2)`; `ENOTEMPTY` or `EEXIST` when both are directories and the
/// new one has entries.
pub fn rename(
    old_dir: impl AsFd,
    old_name: &OsStr,
    dir: impl AsFd,
    name: &OsStr,
) -> Result<(), BeneathError> {
    let old_name = single("rename", old_name)?;
    let name = single("rename", name)?;
    fcntl::renameat(old_dir, old_name, dir, name).map_err(failed("rename", old_name))
}

/// Removes `name`, which is no directory.
///
/// # Errors
/// [`BeneathError`]: as `unlinkat(2)`.
pub fn unlink(dir: impl AsFd, name: &OsStr) -> Result<(), BeneathError> {
    let name = single("unlink", name)?;
    unistd::unlinkat(dir, name, UnlinkatFlags::NoRemoveDir).map_err(failed("unlink", name))
}

/// Describes `name` itself, never what a symbolic link points to.
///
/// # Errors
/// [`BeneathError`]: `ENOENT` when nothing has that name.
pub fn lstat(dir: impl AsFd, name: &OsStr) -> Result<FileStat, BeneathError> {
    let name = single("stat", name)?;
    stat::fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(failed("stat", name))
}

/// Changes the owner of `name` itself.
///
/// # Errors
/// [`BeneathError`]: `EINVAL` when an id is not mapped in this user namespace.
pub fn chown(dir: impl AsFd, name: &OsStr, uid: Uid, gid: Gid) -> Result<(), BeneathError> {
    let name = single("chown", name)?;
    unistd::fchownat(dir, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
        .map_err(failed("chown", name))
}

/// Changes the permissions of `name`, which is no symbolic link.
///
/// Source: `fchmodat2(2)`, Linux 6.6; before that through `/proc/self/fd`.
///
/// # Errors
/// [`BeneathError`]: `EOPNOTSUPP` for a symbolic link.
pub fn chmod(dir: impl AsFd, name: &OsStr, mode: Mode) -> Result<(), BeneathError> {
    let name = single("chmod", name)?;
    let result = match fchmodat2(dir.as_fd(), name, mode) {
        Err(Errno::ENOSYS) => chmod_by_proc(dir.as_fd(), name, mode),
        result => result,
    };
    result.map_err(failed("chmod", name))
}

/// The number of `fchmodat2(2)` on every architecture; libc has it for some only.
pub const SYS_FCHMODAT2: c_long = 452;

/// Whether [`chmod`] needs `/proc` here: before Linux 6.6.
#[must_use]
pub fn chmod_needs_proc() -> bool {
    // No file has an empty name.
    fchmodat2(fcntl::AT_FDCWD, OsStr::new(""), Mode::empty()) == Err(Errno::ENOSYS)
}

fn fchmodat2(dir: BorrowedFd<'_>, name: &OsStr, mode: Mode) -> Result<(), Errno> {
    let name = c_string(name)?;
    // SAFETY: `name` is a NUL-terminated string that outlives the call and `dir` is borrowed
    // for longer than it; the kernel writes to no memory of ours.
    let ret = unsafe {
        libc::syscall(
            SYS_FCHMODAT2,
            dir.as_raw_fd(),
            name.as_ptr(),
            mode.bits(),
            libc::AT_SYMLINK_NOFOLLOW,
        )
    };
    Errno::result(ret).map(drop)
}

fn chmod_by_proc(dir: BorrowedFd<'_>, name: &OsStr, mode: Mode) -> Result<(), Errno> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
    let fd = openat2(dir, Path::new(name), ResolveFlag::RESOLVE_BENEATH, flags, Mode::empty())?;
    if file_type(&stat::fstat(&fd)?) == SFlag::S_IFLNK {
        return Err(Errno::EOPNOTSUPP);
    }
    let path = proc_path(fd.as_fd());
    stat::fchmodat(fcntl::AT_FDCWD, path.as_path(), mode, FchmodatFlags::FollowSymlink)
}

fn proc_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Sets the access and the modification time of `name` itself.
///
/// # Errors
/// [`BeneathError`]: as `utimensat(2)`.
pub fn set_times(
    dir: impl AsFd,
    name: &OsStr,
    atime: TimeSpec,
    mtime: TimeSpec,
) -> Result<(), BeneathError> {
    let name = single("set times of", name)?;
    stat::utimensat(dir, name, &atime, &mtime, UtimensatFlags::NoFollowSymlink)
        .map_err(failed("set times of", name))
}

/// Sets an extended attribute of an open file or directory.
///
/// # Errors
/// The errno of `fsetxattr(2)`: `EOPNOTSUPP` and `EPERM` when the file system or this user
/// namespace does not take the attribute, `EBADF` for an `O_PATH` descriptor.
pub fn set_xattr(fd: impl AsFd, attribute: &OsStr, value: &[u8]) -> Result<(), Errno> {
    let attribute = c_string(attribute)?;
    // SAFETY: `attribute` is NUL-terminated, `value` is as long as said, both outlive the call,
    // and the kernel only reads them.
    let ret = unsafe {
        libc::fsetxattr(
            fd.as_fd().as_raw_fd(),
            attribute.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    Errno::result(ret).map(drop)
}

/// Sets an extended attribute of `name` itself, a symbolic link included; needs `/proc`.
///
/// # Errors
/// [`BeneathError`]: as [`set_xattr`].
pub fn set_xattr_at(
    dir: impl AsFd,
    name: &OsStr,
    attribute: &OsStr,
    value: &[u8],
) -> Result<(), BeneathError> {
    let name = single("set attribute of", name)?;
    // The descriptor's magic link leads to `dir` itself; the last component is not followed.
    let path = proc_path(dir.as_fd()).join(name);
    let set = || {
        let path = c_string(path.as_os_str())?;
        let attribute = c_string(attribute)?;
        // SAFETY: both strings are NUL-terminated, `value` is as long as said, all outlive the
        // call, and the kernel only reads them.
        let ret = unsafe {
            libc::lsetxattr(
                path.as_ptr(),
                attribute.as_ptr(),
                value.as_ptr().cast(),
                value.len(),
                0,
            )
        };
        Errno::result(ret).map(drop)
    };
    set().map_err(failed("set attribute of", name))
}

/// The longest value the kernel stores (`XATTR_SIZE_MAX`).
const XATTR_MAX_BYTES: usize = 65_536;

/// Reads an extended attribute of an open file or directory; `None` when it has none of the name.
///
/// # Errors
/// The errno of `fgetxattr(2)`.
pub fn get_xattr(fd: impl AsFd, attribute: &OsStr) -> Result<Option<Vec<u8>>, Errno> {
    let attribute = c_string(attribute)?;
    let mut value = vec![0_u8; XATTR_MAX_BYTES];
    // SAFETY: `attribute` is NUL-terminated and `value` has as many writable bytes as said; both
    // outlive the call.
    let ret = unsafe {
        libc::fgetxattr(
            fd.as_fd().as_raw_fd(),
            attribute.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    match Errno::result(ret) {
        Ok(length) => {
            value.truncate(usize::try_from(length).unwrap_or(0));
            Ok(Some(value))
        }
        Err(Errno::ENODATA) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn c_string(text: &OsStr) -> Result<CString, Errno> {
    CString::new(text.as_bytes()).or(Err(Errno::EINVAL))
}
