//! The root file system: mounted, checked and prepared before anything runs in it.
//!
//! An image decides what its root contains, so nothing in it is followed out of it: all work happens below the
//! descriptor of a mount that has no path yet.

use std::{
    ffi::CString,
    fs, io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sys::stat::{Mode, SFlag, fstat},
};
use oci_spec::runtime::{Mount, Spec};
use sys::{
    beneath::{self, BeneathError, Resolve},
    mount::{self, Overlay},
    process::SingleThreaded,
};

use super::{RootFs, specification::is_bind};
use crate::error::{Refusal, RuntimeError};

mod targets;

use targets::{make_directory, make_file};

/// Where libcontainer works with path strings that an image's symbolic links could redirect.
const KERNEL_DIRECTORIES: [&str; 3] = ["dev", "proc", "sys"];
const DESTINATION: &str = "mount destination";
const CWD: &str = "working directory";

/// Where the specification wants its root.
pub(super) fn mount_point(bundle: &Path, spec: &Spec) -> Result<PathBuf, RuntimeError> {
    let root = spec.root().as_ref().ok_or(Refusal::Missing { what: "root" })?;
    let path = bundle.join(root.path());
    match fs::create_dir(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(RuntimeError::file("create", path)(error))
        }
        _ => Ok(path),
    }
}

/// Mounts the overlay without a path and makes everything in it that `spec` presupposes.
pub(super) fn assemble(
    proof: &SingleThreaded,
    plan: &RootFs,
    spec: &Spec,
) -> Result<OwnedFd, RuntimeError> {
    let root = mount_overlay(proof, plan)?;
    for name in KERNEL_DIRECTORIES {
        check_directory(&root, name)?;
    }
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    for (index, mount) in mounts.iter().enumerate() {
        prepare_destination(&root, mount, &mounts[..index])?;
    }
    if let Some(process) = spec.process() {
        prepare_cwd(&root, process.cwd(), mounts)?;
    }
    Ok(root)
}

/// Puts the mount that [`assemble`] has made at `at`, in the mount namespace that the caller shares with its parent.
pub(super) fn attach(root: &OwnedFd, at: &Path) -> Result<(), RuntimeError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    open(at, flags, Mode::empty())
        .and_then(|target| mount::attach(root, target))
        .map_err(|errno| RuntimeError::file("mount the root at", at)(errno.into()))
}

fn mount_overlay(_proof: &SingleThreaded, plan: &RootFs) -> Result<OwnedFd, RuntimeError> {
    let layers_dir = plan.layers_dir.clone();
    let layers = plan.lower.len();
    let failed = |source| RuntimeError::Overlay { layers, layers_dir, source };
    let mount = || {
        let lower = lower(&plan.lower)?;
        let (upper, work) = (c_string(&plan.upper_dir)?, c_string(&plan.work_dir)?);
        // Relative names keep within the 255 bytes of an option. The one thread of a process that lives for this
        // may change its directory.
        nix::unistd::chdir(&plan.layers_dir)?;
        mount::overlay(&Overlay { lower: &lower, upper: Some((&upper, &work)) })
    };
    let mounted = mount().map_err(failed);
    nix::unistd::chdir("/").map_err(RuntimeError::system("chdir /"))?;
    mounted
}

/// Names of layers as the kernel takes them.
pub(super) fn lower<'a>(
    names: impl IntoIterator<Item = &'a String>,
) -> Result<Vec<CString>, Errno> {
    names.into_iter().map(|name| c_string(Path::new(name))).collect()
}

fn c_string(path: &Path) -> Result<CString, Errno> {
    CString::new(path.as_os_str().as_bytes()).or(Err(Errno::EINVAL))
}

/// Refuses an image in which `name` is there and not a directory: libcontainer would follow a link out of the root
/// and write where it leads.
fn check_directory(root: &OwnedFd, name: &str) -> Result<(), RuntimeError> {
    let refused = || Refusal::NotADirectory { path: Path::new("/").join(name) };
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
    match beneath::open(root, Path::new(name), Resolve::NoSymlinks, flags, Mode::empty()) {
        Err(BeneathError { source: Errno::ENOENT, .. }) => Ok(()),
        Err(BeneathError { source: Errno::ELOOP, .. }) => Err(refused().into()),
        Err(error) => Err(RuntimeError::Prepare(error)),
        Ok(found) if is_directory(&found)? => Ok(()),
        Ok(_) => Err(refused().into()),
    }
}

fn is_directory(fd: &OwnedFd) -> Result<bool, RuntimeError> {
    let stat = fstat(fd).map_err(RuntimeError::system("fstat"))?;
    Ok(beneath::file_type(&stat) == SFlag::S_IFDIR)
}

/// Makes what `mount` is put on, unless that lies on one of the mounts before it: those libcontainer makes there.
fn prepare_destination(
    root: &OwnedFd,
    mount: &Mount,
    earlier: &[Mount],
) -> Result<(), RuntimeError> {
    let path = normal(DESTINATION, mount.destination())?;
    let is_directory = !is_bind(mount) || source_is_directory(mount)?;
    if earlier.iter().any(|other| path.starts_with(relative(other.destination()))) {
        return Ok(());
    }
    let made = if is_directory { make_directory(root, &path) } else { make_file(root, &path) };
    made.map(drop).map_err(|error| failed(DESTINATION, mount.destination(), error))
}

fn source_is_directory(mount: &Mount) -> Result<bool, RuntimeError> {
    let source = mount.source().as_ref().ok_or(Refusal::Missing { what: "mounts source" })?;
    match fs::metadata(source) {
        Ok(metadata) => Ok(metadata.is_dir()),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Err(Refusal::MissingSource { path: source.clone() }.into())
        }
        Err(error) => Err(RuntimeError::file("look at mount source", source)(error)),
    }
}

/// Makes the working directory, in the root or in the writable volume that it lies on. Elsewhere it must exist.
fn prepare_cwd(root: &OwnedFd, cwd: &Path, mounts: &[Mount]) -> Result<(), RuntimeError> {
    let path = normal(CWD, cwd)?;
    let under = |mount: &&Mount| path.starts_with(relative(mount.destination()));
    let (directory, rest) = match mounts.iter().rev().find(under) {
        None => (None, path.as_path()),
        Some(volume) if is_writable_volume(volume) => {
            let rest = path.strip_prefix(relative(volume.destination())).unwrap_or(&path);
            (volume.source().as_deref(), rest)
        }
        Some(_) => return Ok(()),
    };
    let made = match directory {
        None => make_directory(root, rest),
        Some(source) => make_directory(&open_volume(source)?, rest),
    };
    let made = made.map_err(|error| failed(CWD, cwd, error))?;
    if directory.is_none() { refuse_procfs(&made, cwd) } else { Ok(()) }
}

fn is_writable_volume(mount: &Mount) -> bool {
    let read_only = |option: &String| option == "ro" || option == "rro";
    is_bind(mount) && !mount.options().iter().flatten().any(read_only)
}

fn open_volume(source: &Path) -> Result<OwnedFd, RuntimeError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(source, flags, Mode::empty())
        .map_err(|errno| RuntimeError::file("open mount source", source)(errno.into()))
}

/// Refuses a working directory that symbolic links place below `/proc`: once procfs is mounted there, its magic links
/// lead to whatever init has open.
fn refuse_procfs(directory: &OwnedFd, cwd: &Path) -> Result<(), RuntimeError> {
    let link = sys::fd::proc_path(directory);
    let path = fs::read_link(&link).map_err(RuntimeError::file("read", link))?;
    // The mount has no path, so that this one counts from its root.
    if path.starts_with("/proc") && path != Path::new("/proc") {
        return Err(bad(CWD, cwd, "lies in procfs").into());
    }
    Ok(())
}

/// An absolute path of the specification as one below the root, without `..`.
fn normal(what: &'static str, path: &Path) -> Result<PathBuf, Refusal> {
    if !path.is_absolute() {
        return Err(bad(what, path, "is not absolute"));
    }
    if path.components().any(|component| component == Component::ParentDir) {
        return Err(bad(what, path, "contains .."));
    }
    let path = relative(path);
    if what == CWD && path.starts_with("proc") && path != Path::new("proc") {
        return Err(bad(what, &path, "lies in procfs"));
    }
    Ok(path)
}

fn relative(path: &Path) -> PathBuf {
    path.components().filter(|c| matches!(c, Component::Normal(_))).collect()
}

fn bad(what: &'static str, path: &Path, reason: &'static str) -> Refusal {
    Refusal::BadPath { what, path: path.to_path_buf(), reason }
}

/// What the image or the request caused is refused; what the node caused is not.
fn failed(what: &'static str, path: &Path, source: BeneathError) -> RuntimeError {
    match source.source {
        Errno::ENOSPC | Errno::EDQUOT | Errno::EMFILE | Errno::ENFILE | Errno::EIO => {
            RuntimeError::Prepare(source)
        }
        _ => Refusal::Path { what, path: path.to_path_buf(), source }.into(),
    }
}
