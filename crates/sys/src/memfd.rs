//! Files in memory that nobody can change any more.

use std::{
    ffi::CStr,
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, SealFlag, fcntl},
};

use crate::fd::owned_fd;

/// Copies `source` into a sealed, executable, close-on-exec memfd.
///
/// A process that runs from it cannot be rewritten through `/proc/PID/exe`: in a rootless node the container's root
/// would own the binary otherwise.
///
/// Source: `memfd_create(2)`; `MFD_EXEC` since Linux 6.3, older kernels make every memfd executable.
///
/// # Errors
/// `EACCES` when `vm.memfd_noexec` is 2; errors of reading `source`.
pub fn sealed_copy(name: &CStr, mut source: impl Read) -> io::Result<OwnedFd> {
    let mut file = File::from(create(name)?);
    io::copy(&mut source, &mut file)?;
    let seals = SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

fn create(name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    match create_with(name, flags | libc::MFD_EXEC) {
        Err(Errno::EINVAL) => create_with(name, flags),
        result => result,
    }
}

fn create_with(name: &CStr, flags: libc::c_uint) -> Result<OwnedFd, Errno> {
    // SAFETY: `name` is a valid C string for the duration of the call.
    let ret = unsafe { libc::syscall(libc::SYS_memfd_create, name.as_ptr(), flags) };
    // SAFETY: `ret` is what memfd_create has just returned.
    unsafe { owned_fd(ret) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn sealed_copy_cannot_be_written() {
        let fd = sealed_copy(c"test", &b"content"[..]).expect("memfd");
        let mut file = File::from(fd);
        let error = file.write_all(b"x").expect_err("sealed");
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }
}
