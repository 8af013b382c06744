//! Directories and files that are made in a root whose links are not trusted.

use std::{
    ffi::OsStr,
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use nix::{errno::Errno, fcntl::OFlag, fcntl::readlinkat, sys::stat::Mode};
use sys::beneath::{self, BeneathError, Resolve};

/// As many links as the kernel follows in one path.
const MAX_LINKS: u32 = 40;
const DIRECTORY_MODE: Mode = Mode::from_bits_truncate(0o755);
const FILE_MODE: Mode = Mode::from_bits_truncate(0o644);

/// Opens the directory at `path` in `root`, making it and its parents where they are missing.
///
/// Links are followed as the container will follow them, from its own root; one that leads nowhere gets its target.
///
/// # Errors
/// `ENOTDIR` when something else is there, `ELOOP` for too many links, and those of making things.
pub(super) fn make_directory(root: impl AsFd, path: &Path) -> Result<OwnedFd, BeneathError> {
    directory(&Root(root), path, MAX_LINKS)
}

/// As [`make_directory`] for a file, which is made empty.
///
/// # Errors
/// `EISDIR` when a directory is there.
pub(super) fn make_file(root: impl AsFd, path: &Path) -> Result<OwnedFd, BeneathError> {
    file(&Root(root), path, MAX_LINKS)
}

struct Root<R>(R);

impl<R: AsFd> Root<R> {
    fn open(&self, path: &Path, flags: OFlag) -> Result<OwnedFd, BeneathError> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        beneath::open(&self.0, path, Resolve::InRoot, flags | OFlag::O_PATH, Mode::empty())
    }
}

fn directory<R: AsFd>(root: &Root<R>, path: &Path, links: u32) -> Result<OwnedFd, BeneathError> {
    match root.open(path, OFlag::O_DIRECTORY) {
        Err(error) if error.source == Errno::ENOENT => {}
        result => return result,
    }
    let (parent, name) = split(path)?;
    let holder = directory(root, parent, links)?;
    match beneath::mkdir(&holder, name, DIRECTORY_MODE) {
        Ok(()) => root.open(path, OFlag::O_DIRECTORY),
        Err(error) if error.source == Errno::EEXIST => {
            directory(root, &target(&holder, parent, name, links)?, links.saturating_sub(1))
        }
        Err(error) => Err(error),
    }
}

fn file<R: AsFd>(root: &Root<R>, path: &Path, links: u32) -> Result<OwnedFd, BeneathError> {
    match root.open(path, OFlag::empty()) {
        Err(error) if error.source == Errno::ENOENT => {}
        Ok(found) => return not_a_directory(found, path),
        Err(error) => return Err(error),
    }
    let (parent, name) = split(path)?;
    let holder = directory(root, parent, links)?;
    match beneath::create_file(&holder, name, FILE_MODE) {
        Err(error) if error.source == Errno::EEXIST => {
            file(root, &target(&holder, parent, name, links)?, links.saturating_sub(1))
        }
        result => result,
    }
}

fn not_a_directory(found: OwnedFd, path: &Path) -> Result<OwnedFd, BeneathError> {
    let stat = nix::sys::stat::fstat(&found).map_err(failed("stat", path))?;
    if beneath::file_type(&stat) == nix::sys::stat::SFlag::S_IFDIR {
        return Err(failed("mount a file on", path)(Errno::EISDIR));
    }
    Ok(found)
}

/// Where the link `name` leads that has no target yet, as a path in the root.
fn target(
    holder: &OwnedFd,
    parent: &Path,
    name: &OsStr,
    links: u32,
) -> Result<PathBuf, BeneathError> {
    let path = parent.join(name);
    if links == 0 {
        return Err(failed("follow", &path)(Errno::ELOOP));
    }
    let text = readlinkat(holder, name).map_err(failed("follow", &path))?;
    Ok(below_root(&parent.join(text)))
}

/// `path` without the root's slash, `..` resolved by its text and never above the root.
fn below_root(path: &Path) -> PathBuf {
    let mut resolved = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => resolved.push(name),
            Component::ParentDir => {
                resolved.pop();
            }
            Component::RootDir => resolved.clear(),
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    resolved
}

/// The directory and the last name of a path that does not exist, which therefore is not the root itself.
fn split(path: &Path) -> Result<(&Path, &OsStr), BeneathError> {
    path.parent().zip(path.file_name()).ok_or_else(|| failed("make", path)(Errno::ENOENT))
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(Errno) -> BeneathError {
    let path = path.to_path_buf();
    move |source| BeneathError { operation, path, source }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use tempfile::TempDir;

    use super::*;

    fn root() -> (TempDir, OwnedFd) {
        let directory = tempfile::tempdir().expect("directory");
        let fd = fs::File::open(directory.path()).expect("open").into();
        (directory, fd)
    }

    #[test]
    fn missing_parents_are_made() {
        let (at, root) = root();
        make_file(&root, Path::new("a/b/c")).expect("file");
        make_directory(&root, Path::new("a/d/e")).expect("directory");
        make_directory(&root, Path::new("")).expect("the root itself");
        assert!(at.path().join("a/b/c").is_file());
        assert!(at.path().join("a/d/e").is_dir());
    }

    #[test]
    fn links_stay_in_the_root() {
        let (at, root) = root();
        let outside = tempfile::tempdir().expect("outside");
        symlink(outside.path(), at.path().join("absolute")).expect("link");
        symlink("../../../../..", at.path().join("climbing")).expect("link");
        make_file(&root, Path::new("absolute/x")).expect("inside");
        make_file(&root, Path::new("climbing/y")).expect("inside");
        assert_eq!(fs::read_dir(outside.path()).expect("list").count(), 0);
        let inside = at.path().join(outside.path().strip_prefix("/").expect("absolute"));
        assert!(inside.join("x").is_file());
        assert!(at.path().join("y").is_file());
    }

    #[test]
    fn a_dangling_link_gets_its_target() {
        let (at, root) = root();
        fs::create_dir(at.path().join("etc")).expect("etc");
        symlink("../run/resolved/resolv.conf", at.path().join("etc/resolv.conf")).expect("link");
        make_file(&root, Path::new("etc/resolv.conf")).expect("target");
        assert!(at.path().join("run/resolved/resolv.conf").is_file());
    }

    #[test]
    fn a_circle_is_refused() {
        let (at, root) = root();
        symlink("b", at.path().join("a")).expect("link");
        symlink("a", at.path().join("b")).expect("link");
        let error = make_directory(&root, Path::new("a/x")).expect_err("circle");
        assert_eq!(error.source, Errno::ELOOP);
    }

    #[test]
    fn files_and_directories_are_not_exchanged() {
        let (at, root) = root();
        fs::write(at.path().join("file"), "").expect("file");
        fs::create_dir(at.path().join("directory")).expect("directory");
        let directory = make_directory(&root, Path::new("file")).expect_err("a file");
        assert_eq!(directory.source, Errno::ENOTDIR);
        let file = make_file(&root, Path::new("directory")).expect_err("a directory");
        assert_eq!(file.source, Errno::EISDIR);
    }
}
