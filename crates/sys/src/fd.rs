//! Descriptors: taking ownership, flags, and `/proc/self/fd` paths.

use std::{
    ffi::c_long,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
    path::PathBuf,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
};

/// Takes ownership of the descriptor that a system call has just returned.
///
/// # Safety
/// `ret` must be the result of a call that returns a new descriptor, and must be passed here once.
pub(crate) unsafe fn owned_fd(ret: c_long) -> Result<OwnedFd, Errno> {
    let ret = Errno::result(ret)?;
    let raw = RawFd::try_from(ret).map_err(|_out_of_range| Errno::EBADF)?;
    // SAFETY: the caller promises that `raw` is new, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Adopts a descriptor that this process inherited under a known number.
///
/// Returns `None` when nothing is open under that number.
///
/// The number must be part of the contract with the process that started this one (a helper's argument, systemd's
/// `LISTEN_FDS`), and each number may be adopted once: a second owner would close it under the first.
#[must_use]
pub fn adopt_inherited(raw: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_GETFD takes no pointer; an unused number gives EBADF.
    let flags = unsafe { libc::fcntl(raw, libc::F_GETFD) };
    if flags < 0 {
        return None;
    }
    // SAFETY: the descriptor is open, and the contract above makes this its only owner.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    set_cloexec(&fd, true).ok()?;
    Some(fd)
}

/// Sets or clears `FD_CLOEXEC`.
///
/// # Errors
/// `EBADF` cannot happen for a borrowed descriptor; other errnos are the kernel's.
pub fn set_cloexec(fd: impl AsFd, on: bool) -> Result<(), Errno> {
    let flags = if on { FdFlag::FD_CLOEXEC } else { FdFlag::empty() };
    fcntl(fd.as_fd(), FcntlArg::F_SETFD(flags)).map(drop)
}

/// Sets or clears `O_NONBLOCK` on the open file description, which other holders of it share.
///
/// # Errors
/// As `fcntl(2)`.
pub fn set_nonblocking(fd: impl AsFd, on: bool) -> Result<(), Errno> {
    let bits = fcntl(fd.as_fd(), FcntlArg::F_GETFL)?;
    let mut flags = OFlag::from_bits_truncate(bits);
    flags.set(OFlag::O_NONBLOCK, on);
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags)).map(drop)
}

/// The path under which this process can hand an open descriptor to interfaces that take paths.
#[must_use]
pub fn proc_path(fd: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}
