//! Images that a container mounts: attached beside its root, for libcontainer to bind from.

use std::{
    fs::{self, File},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sys::stat::{Mode, SFlag, fstat},
};
use sys::{
    beneath::{self, BeneathError, Resolve},
    mount::{self, MountAttributes, Overlay},
    process::SingleThreaded,
};

use super::{ImageMount, Plan, rootfs, unmount_rootfs};
use crate::error::{Refusal, RuntimeError};

const ATTRIBUTES: MountAttributes =
    MountAttributes { read_only: true, no_dev: true, no_suid: false, no_exec: false };

/// Images that are attached in the mount namespace of the helper's pod, until this is dropped.
#[derive(Debug, Default)]
pub(super) struct Attached(Vec<PathBuf>);

impl Drop for Attached {
    fn drop(&mut self) {
        for path in &self.0 {
            // What cannot be taken away goes with the pod.
            unmount_rootfs(path).ok();
        }
    }
}

/// Attaches what the plan says.
pub(super) fn attach(proof: &SingleThreaded, plan: &Plan) -> Result<Attached, RuntimeError> {
    let mut attached = Attached::default();
    for image in &plan.image_mounts {
        let tree = tree(proof, &plan.rootfs.layers_dir, image)?;
        attach_at(&tree, &image.mount_point)?;
        attached.0.push(image.mount_point.clone());
    }
    Ok(attached)
}

/// A detached mount of what is wanted of the image.
fn tree(
    proof: &SingleThreaded,
    layers_dir: &Path,
    image: &ImageMount,
) -> Result<OwnedFd, RuntimeError> {
    if image.lower.is_empty() {
        let at = &image.mount_point;
        fs::create_dir_all(at).map_err(RuntimeError::file("make", at))?;
    }
    let whole = whole(proof, layers_dir, image)?;
    let Some(path) = &image.sub_path else { return Ok(whole) };
    let refused = |source: BeneathError| Refusal::SubPath { path: path.clone(), source };
    // Links of the image are followed as far as they stay in it.
    let part = beneath::open(&whole, path, Resolve::Beneath, OFlag::O_PATH, Mode::empty());
    let part = part.map_err(refused)?;
    let tree = mount::clone_tree(part.as_fd(), Path::new(""), false);
    let tree = tree.map_err(RuntimeError::system("open_tree"))?;
    set_attributes(&tree)?;
    Ok(tree)
}

fn whole(
    _proof: &SingleThreaded,
    layers_dir: &Path,
    image: &ImageMount,
) -> Result<OwnedFd, RuntimeError> {
    let (layers, dir) = (image.lower.len(), layers_dir.to_owned());
    let failed = |source| RuntimeError::Overlay { layers, layers_dir: dir, source };
    let mounted = || match image.lower.as_slice() {
        // An empty image is shown as the empty directory that it will be attached to.
        [] => clone(&image.mount_point),
        // Overlayfs without an upper directory wants two lower ones.
        [only] => clone(&layers_dir.join(only)),
        several => {
            let lower = rootfs::lower(several)?;
            // Relative names keep within the 255 bytes of an option; see the root's overlay.
            nix::unistd::chdir(layers_dir)?;
            mount::overlay(&Overlay { lower: &lower, upper: None })
        }
    };
    let mounted = mounted().map_err(failed);
    nix::unistd::chdir("/").map_err(RuntimeError::system("chdir /"))?;
    let mounted = mounted?;
    set_attributes(&mounted)?;
    Ok(mounted)
}

fn clone(directory: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    mount::clone_tree(open(directory, flags, Mode::empty())?.as_fd(), Path::new(""), false)
}

fn set_attributes(tree: &OwnedFd) -> Result<(), RuntimeError> {
    mount::set_attributes(tree, ATTRIBUTES, Some(mount::Propagation::Private), false)
        .map_err(RuntimeError::system("mount_setattr"))
}

/// Puts a tree, whose root may be a file, at `path`.
fn attach_at(tree: &OwnedFd, path: &Path) -> Result<(), RuntimeError> {
    let stat = fstat(tree).map_err(RuntimeError::system("fstat"))?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    let made = fs::create_dir_all(parent).and_then(|()| {
        if beneath::file_type(&stat) == SFlag::S_IFDIR {
            fs::create_dir_all(path)
        } else {
            File::create(path).map(drop)
        }
    });
    made.map_err(RuntimeError::file("make", path))?;
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty())
        .and_then(|target| mount::attach(tree, target))
        .map_err(|errno| RuntimeError::file("mount an image at", path)(errno.into()))
}
