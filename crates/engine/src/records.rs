//! Records on disk: written whole or not at all, and set aside when they cannot be read.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::stop::remove_tree;

/// Name of the record in its object's directory.
pub(crate) const RECORD: &str = "record.json";
/// Name of the exit record that a shim writes beside it.
pub(crate) const EXIT: &str = "exit.json";

/// Whether a record must be on the disk before the caller goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// It survives a power failure.
    Synced,
    /// After a power failure it may be the one before; what it says does not outlive the machine anyway.
    Ordered,
}

/// Replaces `<directory>/<name>`.
pub(crate) fn write<T: Serialize>(
    directory: &Path,
    name: &str,
    value: &T,
    durability: Durability,
) -> io::Result<()> {
    let bytes = serde_json::to_vec(value)?;
    let temporary = directory.join(format!(".{name}.new"));
    let mut file = File::create(&temporary)?;
    file.write_all(&bytes)?;
    // Always: on some file systems a rename may reach the disk before the data does.
    file.sync_data()?;
    fs::rename(&temporary, directory.join(name))?;
    if durability == Durability::Synced {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

/// Removes the directory of an object, its record first: a removal that is cut short leaves something unfinished, not
/// an object that lacks a part.
pub(crate) fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_file(directory.join(RECORD)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => result?,
    }
    remove_tree(directory)
}

/// Reads `<directory>/<name>`.
pub(crate) fn read<T: DeserializeOwned>(directory: &Path, name: &str) -> io::Result<T> {
    let bytes = fs::read(directory.join(name))?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// What [`load_all`] found below one directory.
#[derive(Debug)]
pub(crate) struct Loaded<T> {
    /// Directory and record of each object.
    pub(crate) records: Vec<(PathBuf, T)>,
    /// Directories without a record: their making was never finished.
    pub(crate) unfinished: Vec<PathBuf>,
    /// Directories whose record cannot be read, and why.
    pub(crate) unreadable: Vec<(PathBuf, io::Error)>,
}

/// Reads the record of every directory below `parent`, which may be absent.
pub(crate) fn load_all<T: DeserializeOwned>(parent: &Path) -> io::Result<Loaded<T>> {
    let mut loaded = Loaded { records: Vec::new(), unfinished: Vec::new(), unreadable: Vec::new() };
    for entry in fs::read_dir(parent)? {
        let directory = entry?.path();
        match read(&directory, RECORD) {
            Ok(record) => loaded.records.push((directory, record)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                loaded.unfinished.push(directory);
            }
            Err(error) => loaded.unreadable.push((directory, error)),
        }
    }
    Ok(loaded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_directory_is_a_record_unfinished_or_unreadable() {
        let dir = tempfile::tempdir().expect("tempdir");
        for name in ["good", "unfinished", "torn"] {
            fs::create_dir(dir.path().join(name)).expect("mkdir");
        }
        write(&dir.path().join("good"), RECORD, &7, Durability::Synced).expect("write");
        fs::write(dir.path().join("torn").join(RECORD), b"{\"a\":").expect("write");
        let loaded = load_all::<u32>(dir.path()).expect("load");
        assert_eq!(loaded.records.len(), 1);
        assert_eq!(loaded.records[0].1, 7);
        assert_eq!(loaded.unfinished, [dir.path().join("unfinished")]);
        assert_eq!(loaded.unreadable.len(), 1);
    }

    #[test]
    fn a_record_is_replaced_and_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().expect("tempdir");
        for value in [1, 2] {
            write(dir.path(), RECORD, &value, Durability::Ordered).expect("write");
        }
        assert_eq!(read::<u32>(dir.path(), RECORD).expect("read"), 2);
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1);
    }
}
