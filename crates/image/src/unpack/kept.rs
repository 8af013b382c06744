//! Content that is about to go from the tree, although it is in the archive.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, Mode, SFlag};
use sys::beneath::{self, Resolve};

use super::{Failure, on};
use crate::transcript::Recorder;

/// Has the recorder keep what the files at and below `name` contain; `path` is `name`'s path in
/// the layer.
pub(super) fn keep_content(
    recorder: &mut Recorder<'_>,
    dir: BorrowedFd<'_>,
    name: &OsStr,
    path: &[u8],
) -> Result<(), Failure> {
    if !recorder.listens() {
        return Ok(());
    }
    let stat = beneath::lstat(dir, name)?;
    if beneath::file_type(&stat) != SFlag::S_IFDIR {
        return keep_file(recorder, dir, Path::new(name), &stat, path);
    }
    let top = beneath::open_dir(dir, name)?;
    beneath::walk(&top, |below, stat| {
        let path = [path, b"/", below.as_os_str().as_bytes()].concat();
        keep_file(recorder, top.as_fd(), below, stat, &path)
    })
}

fn keep_file(
    recorder: &mut Recorder<'_>,
    dir: BorrowedFd<'_>,
    name: &Path,
    stat: &FileStat,
    path: &[u8],
) -> Result<(), Failure> {
    let bytes = u64::try_from(stat.st_size).unwrap_or(0);
    if beneath::file_type(stat) != SFlag::S_IFREG || bytes == 0 {
        return Ok(());
    }
    let Some(length) = recorder.room_for(bytes) else {
        return recorder.lost(path).map_err(Failure::recording);
    };
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW;
    let fd = beneath::open(dir, name, Resolve::NoSymlinks, flags, Mode::empty())?;
    let mut content = vec![0; length];
    File::from(fd).read_exact(&mut content).map_err(|error| {
        on("read back")(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
    })?;
    recorder.replaced(path, &content).map_err(Failure::recording)
}
