//! Images that a container mounts: attached beside its root, for libcontainer to bind from.
//!
//! Every image becomes an overlay, one with a single layer too: an overlay without an upper directory cannot be written
//! to by any mount of it, so that not even a privileged container changes layers that others use, and locks and FIFOs
//! are those of one container.

use std::{
    fs::{self, File},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sched::{CloneFlags, unshare},
    sys::stat::{Mode, SFlag, fstat},
};
use sys::{
    beneath::{self, Resolve},
    fd::proc_path,
    mount::{self, FsContext, MountAttributes, Overlay},
    process::SingleThreaded,
};

use super::{Plan, rootfs, unmount_rootfs};
use crate::error::{Refusal, RuntimeError};

/// Programs may be executed, set-user-id ones as in the container's own image.
const ATTRIBUTES: MountAttributes =
    MountAttributes { read_only: true, no_dev: true, no_suid: false, no_exec: false };

/// Beside the mount points, which have numbers for names: an empty directory.
const EMPTY: &str = "empty";

/// An image that is mounted without a path yet.
#[derive(Debug)]
pub(super) struct Prepared<'a> {
    mount_point: &'a Path,
    whole: OwnedFd,
    /// What of it is wanted, if not all.
    part: Option<OwnedFd>,
}

/// Mounts what the plan says, and makes the mount points.
pub(super) fn prepare<'a>(
    proof: &SingleThreaded,
    plan: &'a Plan,
) -> Result<Vec<Prepared<'a>>, RuntimeError> {
    let prepared = plan.image_mounts.iter().map(|image| {
        let empty = empty(&image.mount_point);
        fs::create_dir_all(&empty).map_err(RuntimeError::file("make", &empty))?;
        let whole = whole(proof, &plan.rootfs.layers_dir, &image.lower, &empty)?;
        let part = image.sub_path.as_deref().map(|path| part(&whole, path)).transpose()?;
        make_mount_point(part.as_ref().unwrap_or(&whole), &image.mount_point)?;
        Ok(Prepared { mount_point: &image.mount_point, whole, part })
    });
    prepared.collect()
}

/// Attaches the images in a mount namespace of this process's own, which goes with it, however it ends.
pub(super) fn attach(
    _proof: &SingleThreaded,
    images: Vec<Prepared<'_>>,
) -> Result<(), RuntimeError> {
    if images.is_empty() {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNS).map_err(RuntimeError::system("unshare"))?;
    images.into_iter().try_for_each(|image| match &image.part {
        None => attach_at(&image.whole, image.mount_point),
        Some(part) => {
            // Before Linux 6.15 only what is attached can be cloned.
            let place = empty(image.mount_point);
            attach_at(&image.whole, &place)?;
            let tree = mount::clone_tree(part.as_fd(), Path::new(""), false)
                .map_err(RuntimeError::system("open_tree"))?;
            unmount_rootfs(&place)?;
            attach_at(&tree, image.mount_point)
        }
    })
}

fn empty(mount_point: &Path) -> PathBuf {
    mount_point.with_file_name(EMPTY)
}

fn whole(
    _proof: &SingleThreaded,
    layers_dir: &Path,
    lower: &[String],
    empty: &Path,
) -> Result<OwnedFd, RuntimeError> {
    let mounted = || {
        if lower.is_empty() {
            return nothing();
        }
        // Overlayfs without an upper directory wants two lower ones. This one by descriptor, the others by relative
        // names, because an option keeps within 255 bytes; see the root's overlay.
        let empty = open(empty, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        let filler = proc_path(&empty).display().to_string();
        let filler = (lower.len() == 1).then_some(&filler);
        let lower = rootfs::lower(lower.iter().chain(filler))?;
        nix::unistd::chdir(layers_dir)?;
        mount::overlay(&Overlay { lower: &lower, upper: None })
    };
    let mounted = mounted().map_err(|source| RuntimeError::Overlay {
        layers: lower.len(),
        layers_dir: layers_dir.to_owned(),
        source,
    });
    nix::unistd::chdir("/").map_err(RuntimeError::system("chdir /"))?;
    let mounted = mounted?;
    mount::set_attributes(&mounted, ATTRIBUTES, None, false)
        .map_err(RuntimeError::system("mount_setattr"))?;
    Ok(mounted)
}

/// What an image without layers shows.
fn nothing() -> Result<OwnedFd, Errno> {
    let context = FsContext::open(c"tmpfs")?;
    context.set(c"mode", c"0755")?;
    // Room for its root, should a privileged container make it writable.
    context.set(c"nr_inodes", c"1")?;
    context.set_flag(c"ro")?;
    context.mount(ATTRIBUTES)
}

/// Opens what is wanted of an image. Its symbolic links are followed as long as they stay in it.
fn part(whole: &OwnedFd, path: &Path) -> Result<OwnedFd, RuntimeError> {
    beneath::open(whole, path, Resolve::Beneath, OFlag::O_PATH, Mode::empty())
        .map_err(|source| Refusal::SubPath { path: path.to_owned(), source }.into())
}

/// Makes what `shown` can be attached to: a directory or a file.
fn make_mount_point(shown: &OwnedFd, path: &Path) -> Result<(), RuntimeError> {
    let stat = fstat(shown).map_err(RuntimeError::system("fstat"))?;
    let made = if beneath::file_type(&stat) == SFlag::S_IFDIR {
        fs::create_dir_all(path)
    } else {
        File::create(path).map(drop)
    };
    made.map_err(RuntimeError::file("make", path))
}

fn attach_at(tree: &OwnedFd, path: &Path) -> Result<(), RuntimeError> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty())
        .and_then(|target| mount::attach(tree, target))
        .map_err(|errno| RuntimeError::file("mount an image at", path)(errno.into()))
}
