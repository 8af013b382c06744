//! Directories that the node's root may write to, at paths that belong to the host's root.
//!
//! Each is backed by a directory of the user. Where the path exists it is covered by a bind mount. Where it does not,
//! its nearest existing ancestor is covered by a small tmpfs that looks like it: one symbolic link per entry, to the
//! same entry of the original, which stays mounted at a hidden name in the tmpfs. That makes two mounts; every pod
//! copies them, so there must not be many.
//!
//! What the host adds to a covered directory later is not seen until the holder restarts; changes of what was there
//! are.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::fs::symlink,
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    unistd::{AccessFlags, access},
};
use sys::mount::{FsContext, MountAttributes, attach, clone_tree};
use thiserror::Error;

use crate::{error::chain, facts::DirectoryFacts, mounts::open_directory};

/// In a covering tmpfs: the host as seen from the covered directory.
const HIDDEN: &str = ".usnea-host";

#[derive(Debug, Error)]
enum DirectoryError {
    #[error("the path is not absolute, or has `.` or `..` in it; write it in full")]
    Path,
    #[error("it is a file on the host; choose another path")]
    NotADirectory,
    #[error("Usnea's own data would be covered; move the data directory")]
    CoversData,
    #[error("the host has no {}; create that directory as root", .0.display())]
    NoAncestor(PathBuf),
    #[error("{operation} {}", path.display())]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("{operation} {}", path.display())]
    Mount { operation: &'static str, path: PathBuf, source: Errno },
}

/// Makes every path of `paths` writable in the caller's mount namespace, backed below `backing`.
///
/// One that cannot be made so is reported, and the others are still made.
pub(crate) fn provide(paths: &[PathBuf], backing: &Path) -> Vec<DirectoryFacts> {
    let mut covered = Vec::new();
    let mut facts: Vec<DirectoryFacts> = in_order(paths)
        .into_iter()
        .map(|path| {
            let problem = place(&path, backing, &mut covered).err().map(|error| chain(&error));
            DirectoryFacts { path, problem }
        })
        .collect();
    facts.sort_by(|a, b| a.path.cmp(&b.path));
    facts
}

/// Missing paths first, because covering an ancestor copies what is mounted below it already; paths inside of others
/// last, because they would be hidden.
fn in_order(paths: &[PathBuf]) -> Vec<PathBuf> {
    let inside = |path: &Path| path.ancestors().skip(1).any(|a| paths.iter().any(|p| p == a));
    let mut ordered = paths.to_vec();
    ordered.sort_by_cached_key(|path| (inside(path), path.exists(), path.clone()));
    ordered.dedup();
    ordered
}

fn place(path: &Path, backing: &Path, covered: &mut Vec<PathBuf>) -> Result<(), DirectoryError> {
    let plain =
        path.components().skip(1).all(|component| matches!(component, Component::Normal(_)));
    if !path.is_absolute() || !plain || path == Path::new("/") {
        return Err(DirectoryError::Path);
    }
    let source = backing.join(backing_name(path));
    fs::create_dir_all(&source).map_err(file("create", &source))?;
    if source.starts_with(path) {
        return Err(DirectoryError::CoversData);
    }
    make_target(path, covered)?;
    bind(&source, path)
}

/// A name for `path` in the backing directory: `-` between components, as in `var-lib-kubelet`.
fn backing_name(path: &Path) -> PathBuf {
    let text = path.strip_prefix("/").unwrap_or(path).as_os_str().as_encoded_bytes();
    let mut name = Vec::with_capacity(text.len());
    for byte in text {
        match byte {
            b'/' => name.push(b'-'),
            b'-' => name.extend(b"%2d"),
            b'%' => name.extend(b"%25"),
            other => name.push(*other),
        }
    }
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(name).into()
}

/// Ensures that `path` is a directory that can be mounted on.
fn make_target(path: &Path, covered: &mut Vec<PathBuf>) -> Result<(), DirectoryError> {
    let parent_is_ours =
        path.parent().is_some_and(|parent| covered.iter().any(|ours| ours == parent));
    if parent_is_ours && path.is_symlink() {
        // The link to the host's directory; a mount there would show under another name in mountinfo.
        fs::remove_file(path).map_err(file("replace", path))?;
    }
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => return Err(DirectoryError::NotADirectory),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(file("look at", path)(source)),
    }
    let ancestor = nearest_ancestor(path)?;
    if access(&ancestor, AccessFlags::W_OK).is_err() {
        if ancestor == Path::new("/") {
            let top: PathBuf = path.components().take(2).collect();
            return Err(DirectoryError::NoAncestor(top));
        }
        cover(&ancestor)?;
        covered.push(ancestor);
    }
    fs::create_dir_all(path).map_err(file("create", path))
}

/// The nearest directory above `path` that exists, without symbolic links in its name.
fn nearest_ancestor(path: &Path) -> Result<PathBuf, DirectoryError> {
    let exists = |path: &&Path| path.is_dir();
    let ancestor = path.ancestors().skip(1).find(exists).unwrap_or(Path::new("/"));
    ancestor.canonicalize().map_err(file("look at", ancestor))
}

fn bind(source: &Path, target: &Path) -> Result<(), DirectoryError> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(mounting("bind over", target))
}

/// Puts a tmpfs over `directory` in which everything is found as before.
fn cover(directory: &Path) -> Result<(), DirectoryError> {
    // What cannot be listed cannot be shown again.
    fs::read_dir(directory).map_err(file("list", directory))?;
    let failed = || mounting("cover", directory);
    let original = open_directory(directory).map_err(failed())?;
    let original = clone_tree(std::os::fd::AsFd::as_fd(&original), Path::new(""), true)
        .map_err(mounting("clone", directory))?;
    let tmpfs = small_tmpfs().map_err(mounting("make a tmpfs for", directory))?;
    attach(&tmpfs, open_directory(directory).map_err(failed())?).map_err(failed())?;

    let relative = directory.strip_prefix("/").unwrap_or(directory);
    let shown = Path::new(HIDDEN).join(relative);
    let hidden = directory.join(&shown);
    mirror_ancestors(&directory.join(HIDDEN), relative)?;
    attach(&original, open_directory(&hidden).map_err(failed())?).map_err(failed())?;
    let entries = fs::read_dir(&hidden).map_err(file("list", &hidden))?;
    for entry in entries.filter_map(Result::ok) {
        let link = directory.join(entry.file_name());
        let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        // A relative link would lead elsewhere when followed from the hidden place, so it is copied.
        let target = if is_link {
            fs::read_link(entry.path()).map_err(file("read", &entry.path()))?
        } else {
            shown.join(entry.file_name())
        };
        symlink(target, &link).map_err(file("link", &link))?;
    }
    Ok(())
}

/// Makes the directories of `relative` below `root`, each with links to what is beside it on the host: a link with
/// `..` deep in the covered directory then leads where it did.
fn mirror_ancestors(root: &Path, relative: &Path) -> Result<(), DirectoryError> {
    let (mut place, mut original) = (root.to_owned(), PathBuf::from("/"));
    for component in relative.components() {
        fs::create_dir_all(&place).map_err(file("create", &place))?;
        link_siblings(&place, &original, component.as_os_str())?;
        place.push(component);
        original.push(component);
    }
    fs::create_dir_all(&place).map_err(file("create", &place))
}

fn link_siblings(place: &Path, original: &Path, except: &OsStr) -> Result<(), DirectoryError> {
    // A directory that this user may pass but not list has nothing that a link could be made for.
    let Ok(entries) = fs::read_dir(original) else { return Ok(()) };
    for entry in entries.filter_map(Result::ok).filter(|entry| entry.file_name() != except) {
        let link = place.join(entry.file_name());
        symlink(entry.path(), &link).map_err(file("link", &link))?;
    }
    Ok(())
}

/// Room for links and directories, not for data.
fn small_tmpfs() -> Result<std::os::fd::OwnedFd, Errno> {
    let context = FsContext::open(c"tmpfs")?;
    context.set(c"source", c"usnea")?;
    context.set(c"mode", c"0755")?;
    context.set(c"size", c"4m")?;
    context.mount(MountAttributes { no_suid: true, no_dev: true, ..Default::default() })
}

fn file(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError::File { operation, path, source }
}

fn mounting(operation: &'static str, path: &Path) -> impl FnOnce(Errno) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError::Mount { operation, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backing_names_are_readable_and_distinct() {
        let name = |path: &str| backing_name(Path::new(path)).display().to_string();
        assert_eq!(name("/var/lib/kubelet"), "var-lib-kubelet");
        assert_eq!(name("/var/lib-kubelet"), "var-lib%2dkubelet");
        assert_eq!(name("/a%2db"), "a%252db");
    }

    #[test]
    fn paths_that_are_not_plain_are_refused() {
        for path in ["relative", "/", "/a/../b", ""] {
            let error = place(Path::new(path), Path::new("/nowhere"), &mut Vec::new());
            assert!(matches!(error, Err(DirectoryError::Path)), "{path}: {error:?}");
        }
    }

    #[test]
    fn the_data_directory_is_not_covered() {
        let data = std::env::temp_dir().join(format!("usnea-covers-{}", std::process::id()));
        let error = place(&std::env::temp_dir(), &data, &mut Vec::new());
        fs::remove_dir_all(&data).expect("made by place");
        assert!(matches!(error, Err(DirectoryError::CoversData)), "{error:?}");
    }
}
