//! File system work below a directory descriptor that no symbolic link can lead outside.
//!
//! Two kinds of function live here. [`open`] resolves a path of several components with
//! `openat2(2)`, which the kernel confines to the directory. All others take a directory and
//! *one* name in it, refuse anything that is not a single component, and never follow a symbolic
//! link of that name. Whoever holds the directory therefore decides where work happens, whatever
//! another process renames meanwhile.

use std::collections::HashSet;
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{self, AtFlags, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{self, FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags};
use nix::sys::time::TimeSpec;
use nix::unistd::{self, Gid, LinkatFlags, Uid, UnlinkatFlags};

#[cfg(test)]
mod tests;

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

fn fchmodat2(dir: BorrowedFd<'_>, name: &OsStr, mode: Mode) -> Result<(), Errno> {
    let name = c_string(name)?;
    // SAFETY: `name` is a NUL-terminated string that outlives the call and `dir` is borrowed
    // for longer than it; the kernel writes to no memory of ours.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_fchmodat2,
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
    let _ = stat::fchmod(&fd, Mode::S_IRWXU);
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
