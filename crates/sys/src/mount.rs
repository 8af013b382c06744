//! Mounting by descriptors: file systems and trees are made detached and put in place when they are complete.
//!
//! Source: `fsopen(2)`, `fsconfig(2)`, `fsmount(2)`, `open_tree(2)`, `move_mount(2)` (Linux 5.2) and
//! `mount_setattr(2)` (Linux 5.12). Classic `mount(2)` is nix's.

use std::{
    ffi::{CStr, CString},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use nix::{NixPath, errno::Errno};

use crate::fd::owned_fd;

const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const OPEN_TREE_CLONE: libc::c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;
const AT_RECURSIVE: libc::c_uint = 0x8000;

/// Attributes of a mount, as `mount_setattr(2)` names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountAttributes {
    /// `MOUNT_ATTR_RDONLY`
    pub read_only: bool,
    /// `MOUNT_ATTR_NOSUID`
    pub no_suid: bool,
    /// `MOUNT_ATTR_NODEV`
    pub no_dev: bool,
    /// `MOUNT_ATTR_NOEXEC`
    pub no_exec: bool,
}

impl MountAttributes {
    fn bits(self) -> u64 {
        [(self.read_only, 1), (self.no_suid, 2), (self.no_dev, 4), (self.no_exec, 8)]
            .into_iter()
            .map(|(on, bit)| if on { bit } else { 0 })
            .sum()
    }
}

/// A file system that is being configured.
#[derive(Debug)]
pub struct FsContext(OwnedFd);

impl FsContext {
    /// Begins a file system of the type `name`, such as `overlay` or `tmpfs`.
    ///
    /// # Errors
    /// `ENODEV` when the kernel lacks the type, `EPERM` when the user namespace may not mount it.
    pub fn open(name: &CStr) -> Result<Self, Errno> {
        // SAFETY: `name` is a valid C string for the duration of the call.
        let ret = unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), FSOPEN_CLOEXEC) };
        // SAFETY: `ret` is what fsopen has just returned.
        unsafe { owned_fd(ret) }.map(Self)
    }

    /// Sets `key=value`. The kernel takes at most 255 bytes of value.
    ///
    /// # Errors
    /// `EINVAL` for an unknown key, a refused value or one that is too long.
    pub fn set(&self, key: &CStr, value: &CStr) -> Result<(), Errno> {
        self.config(FSCONFIG_SET_STRING, Some(key), Some(value))
    }

    /// Sets the option `key` that has no value.
    ///
    /// # Errors
    /// `EINVAL` for an unknown key.
    pub fn set_flag(&self, key: &CStr) -> Result<(), Errno> {
        self.config(FSCONFIG_SET_FLAG, Some(key), None)
    }

    /// Makes the file system and a detached mount of it, with no path yet.
    ///
    /// # Errors
    /// Those of the file system, for instance `EPERM` or `EINVAL`.
    pub fn mount(self, attributes: MountAttributes) -> Result<OwnedFd, Errno> {
        self.config(FSCONFIG_CMD_CREATE, None, None)?;
        let raw = self.0.as_raw_fd();
        // SAFETY: integers only.
        let ret =
            unsafe { libc::syscall(libc::SYS_fsmount, raw, FSMOUNT_CLOEXEC, attributes.bits()) };
        // SAFETY: `ret` is what fsmount has just returned.
        unsafe { owned_fd(ret) }
    }

    fn config(
        &self,
        command: libc::c_uint,
        key: Option<&CStr>,
        value: Option<&CStr>,
    ) -> Result<(), Errno> {
        let key = key.map_or(std::ptr::null(), CStr::as_ptr);
        let value = value.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: both pointers are null or valid C strings for the duration of the call, as the command wants.
        let ret = unsafe {
            libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, key, value, 0)
        };
        Errno::result(ret).map(drop)
    }
}

/// A detached copy of the mount that shows `path` below `dir`, with its submounts when `recursive`.
///
/// Symlinks in `path` are followed; `dir` itself is taken for an empty path.
///
/// # Errors
/// `ENOENT` for a missing path, `EPERM` without `CAP_SYS_ADMIN` over the mount namespace, `EINVAL` when `recursive`
/// is false and a locked submount would be uncovered.
pub fn clone_tree(dir: BorrowedFd<'_>, path: &Path, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags =
        OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned() | libc::AT_EMPTY_PATH.cast_unsigned();
    if recursive {
        flags |= AT_RECURSIVE;
    }
    let ret = path.with_nix_path(|path| {
        // SAFETY: `path` is a valid C string for the duration of the call.
        unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) }
    })?;
    // SAFETY: `ret` is what open_tree has just returned.
    unsafe { owned_fd(ret) }
}

/// Puts the detached mount `mount` over the file or directory behind `target`.
///
/// # Errors
/// `EINVAL` when one is a directory and the other is not, or `target` lies in another mount namespace.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    // SAFETY: both paths are empty C strings, as the two flags say.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            target.as_fd().as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    };
    Errno::result(ret).map(drop)
}

/// How mounts and unmounts below a mount reach its copies in other namespaces, and theirs reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Neither way; `MS_PRIVATE`.
    Private,
    /// Inwards only; `MS_SLAVE`.
    Slave,
    /// Both ways; `MS_SHARED`.
    Shared,
}

/// Adds `attributes` to the mount behind `mount` and sets its propagation; both for submounts too when `recursive`.
///
/// # Errors
/// `EPERM` for a flag that is locked by a more privileged mount namespace, `EINVAL` when `mount` is not the root of a
/// mount.
pub fn set_attributes(
    mount: impl AsFd,
    attributes: MountAttributes,
    propagation: Option<Propagation>,
    recursive: bool,
) -> Result<(), Errno> {
    let propagation = match propagation {
        None => 0,
        Some(Propagation::Private) => libc::MS_PRIVATE,
        Some(Propagation::Slave) => libc::MS_SLAVE,
        Some(Propagation::Shared) => libc::MS_SHARED,
    };
    let attr =
        libc::mount_attr { attr_set: attributes.bits(), attr_clr: 0, propagation, userns_fd: 0 };
    let recursive = if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, `attr` outlives the call and its size is given.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH.cast_unsigned() | recursive,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(ret).map(drop)
}

/// What an overlay is made of. Relative paths count from the working directory.
#[derive(Debug)]
pub struct Overlay<'a> {
    /// Read-only directories, the topmost first.
    pub lower: &'a [CString],
    /// Where changes go, and the empty directory beside it on the same file system; `None`: read-only.
    pub upper: Option<(&'a CStr, &'a CStr)>,
}

/// Makes a detached overlay for a user namespace: whiteouts and opaque marks as `user.overlay.*`, and no sync of the
/// upper directory at unmount, because a container's changes need not survive a power failure.
///
/// Source: kernel documentation `filesystems/overlayfs`: `userxattr` (5.11), `volatile` (5.10), `lowerdir+` (6.5;
/// older kernels get one `lowerdir` string, which must stay below 256 bytes).
///
/// # Errors
/// `EPERM` or `ENODEV` where user namespaces may not mount overlays, `EINVAL` for a missing or unfit directory.
pub fn overlay(overlay: &Overlay<'_>) -> Result<OwnedFd, Errno> {
    let context = FsContext::open(c"overlay")?;
    context.set(c"source", c"overlay")?;
    context.set_flag(c"userxattr")?;
    add_lower(&context, overlay.lower)?;
    if let Some((upper, work)) = overlay.upper {
        context.set(c"upperdir", upper)?;
        context.set(c"workdir", work)?;
        context.set_flag(c"volatile")?;
    }
    context.mount(MountAttributes::default())
}

fn add_lower(context: &FsContext, lower: &[CString]) -> Result<(), Errno> {
    for (index, directory) in lower.iter().enumerate() {
        match context.set(c"lowerdir+", directory) {
            Err(Errno::EINVAL) if index == 0 => return context.set(c"lowerdir", &joined(lower)?),
            result => result?,
        }
    }
    Ok(())
}

fn joined(lower: &[CString]) -> Result<CString, Errno> {
    let parts: Vec<&[u8]> = lower.iter().map(|path| path.as_bytes()).collect();
    CString::new(parts.join(&b':')).map_err(|_contains_nul| Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attribute_bits_are_the_kernels() {
        let all = MountAttributes { read_only: true, no_suid: true, no_dev: true, no_exec: true };
        assert_eq!(all.bits(), 0xf);
        assert_eq!(MountAttributes::default().bits(), 0);
        assert_eq!(MountAttributes { no_exec: true, ..Default::default() }.bits(), 8);
    }

    #[test]
    fn an_unknown_file_system_is_refused() {
        assert_eq!(FsContext::open(c"no-such-fs").map(drop), Err(Errno::ENODEV));
    }
}
