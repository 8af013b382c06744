//! `/etc/passwd` and `/etc/group` of images, read without making a container.

use std::{
    collections::HashMap,
    ffi::CString,
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use image::Image;
use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::{SFlag, fstat},
};
use sys::{fd::proc_path, mount};

/// Most of either file that is read; a real one is a thousandth of that.
const MAX_BYTES: u64 = 1 << 20;

/// The two files of one image; `None` where the image has none.
#[derive(Debug)]
pub(crate) struct UserFiles {
    pub(crate) passwd: Option<String>,
    pub(crate) group: Option<String>,
}

/// Files by image id: an image does not change.
#[derive(Debug, Default)]
pub(crate) struct ImageUsers(Mutex<HashMap<String, Arc<UserFiles>>>);

impl ImageUsers {
    /// The files of `image`, whose layers lie at `layers`, lowest first.
    pub(crate) fn of(
        &self,
        image: &Image,
        layers: &[std::path::PathBuf],
    ) -> io::Result<Arc<UserFiles>> {
        let id = image.id.to_string();
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let root = merged(layers)?;
        let files = Arc::new(UserFiles {
            passwd: root.as_ref().map_or(Ok(None), |root| read(root, "etc/passwd"))?,
            group: root.as_ref().map_or(Ok(None), |root| read(root, "etc/group"))?,
        });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&files));
        Ok(files)
    }

    /// Forgets an image that was removed.
    pub(crate) fn forget(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

/// The image's root: its only layer, or a detached read-only overlay of all. `None` for an image without layers.
pub(crate) fn merged(layers: &[std::path::PathBuf]) -> io::Result<Option<OwnedFd>> {
    let (first, rest) = match layers {
        [] => return Ok(None),
        [first, rest @ ..] => (first, rest),
    };
    if rest.is_empty() {
        return Ok(Some(File::open(first)?.into()));
    }
    // By descriptor, because the mount API takes no path longer than 255 bytes.
    let opened: Vec<File> = layers.iter().map(File::open).collect::<Result<_, _>>()?;
    let lower = opened.iter().rev().map(|layer| path_string(&proc_path(layer)));
    let lower: Vec<CString> = lower.collect::<Result<_, _>>()?;
    Ok(Some(mount::overlay(&mount::Overlay { lower: &lower, upper: None })?))
}

fn path_string(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_encoded_bytes())?)
}

/// Reads a regular file of a hostile tree: symbolic links cannot lead out of it, a FIFO cannot make us wait.
fn read(root: &OwnedFd, path: &str) -> io::Result<Option<String>> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = match openat2(root.as_fd(), path, how) {
        Ok(fd) => fd,
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ENXIO) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let kind = SFlag::from_bits_truncate(fstat(&file)?.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFREG {
        return Err(io::Error::other(format!("/{path} of the image is no regular file")));
    }
    let mut bytes = Vec::new();
    let length = File::from(file).take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if u64::try_from(length).is_ok_and(|length| length > MAX_BYTES) {
        return Err(io::Error::other(format!("/{path} of the image is larger than 1 MiB")));
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn root(dir: &Path) -> OwnedFd {
        File::open(dir).expect("open").into()
    }

    #[test]
    fn a_link_out_of_the_image_is_resolved_inside_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        fs::create_dir(dir.path().join("etc")).expect("mkdir");
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("etc/passwd")).expect("link");
        assert_eq!(read(&root(dir.path()), "etc/passwd").expect("read"), None);
        fs::write(dir.path().join("etc/hostname"), "inside").expect("write");
        let text = read(&root(dir.path()), "etc/passwd").expect("read");
        assert_eq!(text.as_deref(), Some("inside"));
    }

    #[test]
    fn r18_what_is_not_a_small_regular_file_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = |name: &str| dir.path().join(name);
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        read(&root(dir.path()), "fifo").expect_err("FIFO");
        read(&root(dir.path()), ".").expect_err("directory");
        File::create(path("sparse")).expect("create").set_len(2 << 30).expect("sparse");
        read(&root(dir.path()), "sparse").expect_err("2 GiB");
    }
}
