//! One daemon at a time: the lock on the data directory.

use std::{
    fs::{File, TryLockError},
    io,
    path::Path,
};

use thiserror::Error;

/// Name of the file that is locked; it is never removed.
const LOCK: &str = "daemon.lock";

/// The data directory is this process's for as long as this lives. The kernel ends it with the process, however that
/// ends.
#[derive(Debug)]
pub(crate) struct DaemonLock {
    _file: File,
}

/// Why the data directory is not ours.
#[derive(Debug, Error)]
pub(crate) enum LockError {
    /// Another daemon has it.
    #[error("another `usnea serve` uses the data directory")]
    Held,
    /// The file cannot be made or locked.
    #[error("open or lock the file")]
    File(#[source] io::Error),
}

impl DaemonLock {
    /// Takes the lock without waiting for it.
    pub(crate) fn take(data_dir: &Path) -> Result<Self, LockError> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(data_dir.join(LOCK))
            .map_err(LockError::File)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LockError::Held),
            Err(TryLockError::Error(source)) => Err(LockError::File(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_until_the_first_has_ended() {
        let directory = tempfile::tempdir().expect("tempdir");
        let first = DaemonLock::take(directory.path()).expect("free");
        let refused = DaemonLock::take(directory.path()).expect_err("taken");
        assert!(matches!(refused, LockError::Held), "{refused:?}");
        drop(first);
        DaemonLock::take(directory.path()).expect("free again");
    }
}
