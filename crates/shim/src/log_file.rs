//! The file that a container's output goes to.

use std::{
    io::IoSlice,
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path},
    time::SystemTime,
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::{
        stat::{Mode, SFlag, fstat},
        uio::writev,
    },
};
use sys::beneath::{self, BeneathError, Resolve};

use crate::{
    error::ShimError,
    log::{self, Stream, Tag},
};

/// An open log.
///
/// The kubelet renames and compresses logs at any time, so that each record is appended by one system call: the file
/// that it begins in is the file that it ends in.
#[derive(Debug)]
pub(crate) struct LogFile {
    file: OwnedFd,
    /// The last record could only be written in part: the next one begins on a line of its own.
    torn: bool,
    dropped_records: u64,
}

impl LogFile {
    /// Opens `path` below the directory `dir`, making it and the directories on the way when they are missing.
    pub(crate) fn create(dir: impl AsFd, path: &Path) -> Result<Self, ShimError> {
        make_parents(&dir, path)
            .map_err(|source| ShimError::OpenLog { path: path.into(), source })?;
        Ok(Self { file: open(dir, path)?, torn: false, dropped_records: 0 })
    }

    /// Goes on in the file that is now called `path`. After an error the open one stays in use.
    pub(crate) fn reopen(&mut self, dir: impl AsFd, path: &Path) -> Result<(), ShimError> {
        self.file = open(dir, path)?;
        self.torn = false;
        Ok(())
    }

    /// Appends one record. A file system that is full costs records, never the container's progress.
    pub(crate) fn write(&mut self, stream: Stream, tag: Tag, text: &[u8]) {
        let header = log::header(SystemTime::now(), stream, tag);
        let start: &[u8] = if self.torn { b"\n" } else { b"" };
        let expected = start.len() + header.len() + text.len() + 1;
        let record = [start, &header, text, b"\n"].map(IoSlice::new);
        match write_once(&self.file, &record) {
            Ok(written) if written == expected => self.torn = false,
            Ok(written) => {
                self.torn |= written > 0;
                self.dropped_records += 1;
            }
            Err(_full_or_broken) => self.dropped_records += 1,
        }
    }

    /// Records that could not be written, or not to their end.
    pub(crate) fn dropped_records(&self) -> u64 {
        self.dropped_records
    }
}

fn write_once(file: &OwnedFd, record: &[IoSlice<'_>]) -> Result<usize, Errno> {
    loop {
        match writev(file, record) {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

fn make_parents(dir: &impl AsFd, path: &Path) -> Result<(), BeneathError> {
    let mut at: Option<OwnedFd> = None;
    for component in path.parent().into_iter().flat_map(Path::components) {
        let Component::Normal(name) = component else {
            return Err(BeneathError {
                operation: "make",
                path: path.into(),
                source: Errno::EINVAL,
            });
        };
        let here = at.as_ref().map_or_else(|| dir.as_fd(), AsFd::as_fd);
        match beneath::mkdir(here, name, Mode::from_bits_truncate(0o755)) {
            Err(error) if error.source != Errno::EEXIST => return Err(error),
            _ => {}
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        at = Some(beneath::open(here, Path::new(name), Resolve::NoSymlinks, flags, Mode::empty())?);
    }
    Ok(())
}

fn open(dir: impl AsFd, path: &Path) -> Result<OwnedFd, ShimError> {
    // Non-blocking, so that a FIFO in the log's place is an error and not the end of the event loop.
    let flags =
        OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let file =
        beneath::open(dir, path, Resolve::NoSymlinks, flags, Mode::from_bits_truncate(0o640))
            .map_err(|source| ShimError::OpenLog { path: path.into(), source })?;
    let stat = fstat(&file).map_err(|source| ShimError::StatLog { path: path.into(), source })?;
    if beneath::file_type(&stat) == SFlag::S_IFREG {
        Ok(file)
    } else {
        Err(ShimError::LogIsNoFile { path: path.into() })
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io, os::unix::fs::PermissionsExt};

    use super::*;

    fn directory() -> (tempfile::TempDir, fs::File) {
        let directory = tempfile::tempdir().expect("directory");
        let handle = fs::File::open(directory.path()).expect("open");
        (directory, handle)
    }

    #[test]
    fn records_are_appended_below_made_directories() {
        let (directory, handle) = directory();
        for text in ["first", "second"] {
            let mut log = LogFile::create(&handle, Path::new("a/b/0.log")).expect("log");
            log.write(Stream::Stdout, Tag::Full, text.as_bytes());
            assert_eq!(log.dropped_records(), 0);
        }
        let path = directory.path().join("a/b/0.log");
        let content = fs::read_to_string(&path).expect("content");
        let texts: Vec<_> = content.lines().map(|line| &line[30..]).collect();
        assert_eq!(texts, [" stdout F first", " stdout F second"]);
        assert_eq!(fs::metadata(&path).expect("stat").permissions().mode() & 0o7777, 0o640);
    }

    #[test]
    fn a_reopened_log_goes_on_in_the_new_file() {
        let (directory, handle) = directory();
        let (current, rotated) = (directory.path().join("0.log"), directory.path().join("0.log.1"));
        let mut log = LogFile::create(&handle, Path::new("0.log")).expect("log");
        log.write(Stream::Stdout, Tag::Full, b"before");
        fs::rename(&current, &rotated).expect("rename");
        log.write(Stream::Stdout, Tag::Full, b"between");
        log.reopen(&handle, Path::new("0.log")).expect("reopen");
        log.write(Stream::Stdout, Tag::Full, b"after");
        assert_eq!(fs::read_to_string(rotated).expect("rotated").lines().count(), 2);
        assert!(fs::read_to_string(current).expect("current").ends_with("stdout F after\n"));
    }

    #[test]
    fn a_failed_reopen_keeps_the_old_file_and_makes_nothing() {
        let (directory, handle) = directory();
        let mut log = LogFile::create(&handle, Path::new("0.log")).expect("log");
        log.reopen(&handle, Path::new("missing/0.log")).expect_err("no such directory");
        log.write(Stream::Stderr, Tag::Partial, b"still here");
        let names: Vec<_> = fs::read_dir(directory.path())
            .expect("list")
            .map(|e| e.expect("entry").file_name())
            .collect();
        assert_eq!(names, ["0.log"]);
        let content = fs::read_to_string(directory.path().join("0.log")).expect("content");
        assert!(content.ends_with("stderr P still here\n"));
    }

    #[test]
    fn links_and_special_files_are_refused() {
        let (directory, handle) = directory();
        let outside = tempfile::tempdir().expect("directory");
        std::os::unix::fs::symlink(outside.path().join("0.log"), directory.path().join("link"))
            .expect("link");
        std::os::unix::fs::symlink(outside.path(), directory.path().join("dir")).expect("link");
        nix::unistd::mkfifo(&directory.path().join("fifo"), Mode::S_IRWXU).expect("fifo");
        for path in ["link", "dir/0.log", "fifo", "../0.log", "a/../../0.log", "/etc/0.log"] {
            LogFile::create(&handle, Path::new(path)).map(drop).expect_err(path);
        }
        assert_eq!(fs::read_dir(outside.path()).expect("list").count(), 0);
    }

    #[test]
    fn a_full_file_system_costs_records_only() {
        let mut log = LogFile {
            file: fs::OpenOptions::new().write(true).open("/dev/full").expect("full").into(),
            torn: false,
            dropped_records: 0,
        };
        log.write(Stream::Stdout, Tag::Full, b"lost");
        log.write(Stream::Stdout, Tag::Full, b"lost");
        assert_eq!(log.dropped_records(), 2);
    }

    #[test]
    fn what_follows_a_torn_record_begins_on_its_own_line() {
        let (directory, handle) = directory();
        let mut log = LogFile::create(&handle, Path::new("0.log")).expect("log");
        io::Write::write_all(
            &mut fs::File::from(log.file.try_clone().expect("dup")),
            b"2006-01-02T15:04",
        )
        .expect("write");
        log.torn = true;
        log.write(Stream::Stdout, Tag::Full, b"whole");
        let content = fs::read_to_string(directory.path().join("0.log")).expect("content");
        assert_eq!(content.lines().count(), 2);
        assert!(content.lines().nth(1).expect("line").ends_with(" stdout F whole"));
    }
}
