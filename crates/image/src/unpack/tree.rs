//! The directories of a layer that is being unpacked.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{self, Mode, SFlag};
use nix::sys::time::TimeSpec;
use sys::beneath::{self, BeneathError, Resolve};

use super::kept::keep_content;
use super::name::EntryPath;
use super::{Failure, on};
use crate::error::EntryFault;
use crate::transcript::Recorder;

const OPAQUE_XATTR: &str = "user.overlay.opaque";
const OPAQUE_VALUE: &[u8] = b"y";
/// What a directory has that no entry describes.
const IMPLIED_MODE: u32 = 0o755;

/// What a directory gets once everything is in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes {
    pub(super) mode: Mode,
    pub(super) mtime: Option<TimeSpec>,
}

impl Attributes {
    fn implied() -> Self {
        Self { mode: Mode::from_bits_truncate(IMPLIED_MODE), mtime: None }
    }
}

/// The layer's root and what is known about the directories below it.
///
/// While the layer is unpacked every directory belongs to its maker and has mode 0700: an
/// entry's mode could keep the following entries out.
pub(super) struct Tree<'a> {
    root: BorrowedFd<'a>,
    attributes: BTreeMap<Vec<OsString>, Attributes>,
    /// The directory that was used last; archives are sorted by directory.
    last: Option<(Vec<OsString>, OwnedFd)>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(root: BorrowedFd<'a>) -> Self {
        let attributes = BTreeMap::from([(Vec::new(), Attributes::implied())]);
        Self { root, attributes, last: None }
    }

    pub(super) fn root(&self) -> BorrowedFd<'a> {
        self.root
    }

    pub(super) fn set_attributes(&mut self, path: &[OsString], attributes: Attributes) {
        self.attributes.insert(path.to_vec(), attributes);
    }

    /// Makes an entry with `make`; what has its name is removed first.
    pub(super) fn place<T>(
        &mut self,
        recorder: &mut Recorder<'_>,
        path: &EntryPath,
        make: impl Fn(BorrowedFd<'_>, &OsStr) -> Result<T, BeneathError>,
    ) -> Result<T, Failure> {
        let (dir, name) = self.parent_of(path)?;
        match make(dir, name) {
            Err(BeneathError { source: Errno::EEXIST, .. }) => {}
            result => return Ok(result?),
        }
        self.clear(recorder, path)?;
        let (dir, name) = self.parent_of(path)?;
        Ok(make(dir, name)?)
    }

    /// The directory that an entry is in, made if need be, and the entry's name.
    pub(super) fn parent_of<'p>(
        &mut self,
        path: &'p EntryPath,
    ) -> Result<(BorrowedFd<'_>, &'p OsStr), Failure> {
        let name = path.name().ok_or(EntryFault::Root)?;
        Ok((self.enter(path.parent())?, name))
    }

    /// The directory of an entry that is one; anything else of that name is replaced.
    pub(super) fn directory(
        &mut self,
        recorder: &mut Recorder<'_>,
        path: &EntryPath,
    ) -> Result<OwnedFd, Failure> {
        let (parent_fd, name) = self.parent_of(path)?;
        match enter_component(parent_fd, name) {
            Ok((fd, _)) => return Ok(fd),
            Err(Failure::Entry(EntryFault::Parent)) => {}
            Err(failure) => return Err(failure),
        }
        keep_content(recorder, parent_fd, name, &path.joined())?;
        beneath::unlink(parent_fd, name)?;
        Ok(enter_component(parent_fd, name)?.0)
    }

    /// Opens a directory, making the missing part of its path.
    fn enter(&mut self, path: &[OsString]) -> Result<BorrowedFd<'_>, Failure> {
        if path.is_empty() {
            return Ok(self.root);
        }
        let known = self.last.as_ref().is_some_and(|(last, _)| last == path);
        if !known {
            let fd = match self.existing(path)? {
                Some(fd) => fd,
                None => self.make_path(path)?,
            };
            self.last = Some((path.to_vec(), fd));
        }
        match &self.last {
            Some((_, fd)) => Ok(fd.as_fd()),
            None => Ok(self.root),
        }
    }

    /// Opens a directory of the layer; `None` when it is missing or something else.
    pub(super) fn existing(&self, path: &[OsString]) -> Result<Option<OwnedFd>, Failure> {
        let path: PathBuf =
            std::iter::once(OsStr::new(".")).chain(path.iter().map(OsString::as_os_str)).collect();
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        match beneath::open(self.root, &path, Resolve::NoSymlinks, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(BeneathError { source: Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP, .. }) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn make_path(&mut self, path: &[OsString]) -> Result<OwnedFd, Failure> {
        let mut at: Option<OwnedFd> = None;
        for (index, name) in path.iter().enumerate() {
            let dir = at.as_ref().map_or(self.root, AsFd::as_fd);
            let (next, made) = enter_component(dir, name)?;
            if made {
                self.attributes.insert(path[..=index].to_vec(), Attributes::implied());
            }
            at = Some(next);
        }
        at.ok_or_else(|| EntryFault::Parent.into())
    }

    /// Hides what lower layers have in the directory `path`.
    pub(super) fn make_opaque(&mut self, path: &[OsString]) -> Result<(), Failure> {
        set_opaque(self.enter(path)?)
    }

    /// Hides `name` of the lower layers. What this very layer has of that name stays: the
    /// specification lets whiteouts apply to lower layers only.
    pub(super) fn hide(&mut self, parent: &[OsString], name: &OsStr) -> Result<(), Failure> {
        let dir = self.enter(parent)?;
        match beneath::lstat(dir, name) {
            Err(BeneathError { source: Errno::ENOENT, .. }) => {
                Ok(beneath::make_whiteout(dir, name)?)
            }
            Err(error) => Err(error.into()),
            Ok(stat) if beneath::file_type(&stat) == SFlag::S_IFDIR => {
                set_opaque(beneath::open_dir(dir, name)?.as_fd())
            }
            Ok(_) => Ok(()),
        }
    }

    /// Removes what has an entry's name, directories with all that is in them.
    fn clear(&mut self, recorder: &mut Recorder<'_>, path: &EntryPath) -> Result<(), Failure> {
        let (dir, name) = self.parent_of(path)?;
        keep_content(recorder, dir, name, &path.joined())?;
        beneath::remove_tree(dir, name)?;
        self.last = None;
        let first = path.components().to_vec();
        let gone = self.attributes.range(first.clone()..).map(|(known, _)| known.clone());
        let gone: Vec<_> = gone.take_while(|known| known.starts_with(&first)).collect();
        for known in gone {
            self.attributes.remove(&known);
        }
        Ok(())
    }

    /// Gives every directory its mode and time, children before parents.
    pub(super) fn finish(&mut self) -> Result<(), Failure> {
        for (path, attributes) in self.attributes.iter().rev() {
            // Everything recorded exists; `existing` is `None` only if someone interferes.
            let Some(fd) = self.existing(path)? else {
                return Err(EntryFault::Parent.into());
            };
            stat::fchmod(&fd, attributes.mode).map_err(on("chmod"))?;
            if let Some(mtime) = attributes.mtime {
                stat::futimens(&fd, &mtime, &mtime).map_err(on("set times of"))?;
            }
        }
        Ok(())
    }
}

/// Opens the directory `name`, which is made when missing; says whether it was made.
///
/// A whiteout of that name becomes an opaque directory: it still hides the lower one.
fn enter_component(dir: BorrowedFd<'_>, name: &OsStr) -> Result<(OwnedFd, bool), Failure> {
    let hides = match beneath::lstat(dir, name) {
        Err(BeneathError { source: Errno::ENOENT, .. }) => false,
        Err(error) => return Err(error.into()),
        Ok(stat) if beneath::file_type(&stat) == SFlag::S_IFDIR => {
            return Ok((beneath::open_dir(dir, name)?, false));
        }
        Ok(stat) if beneath::is_whiteout(&stat) => {
            beneath::unlink(dir, name)?;
            true
        }
        Ok(_) => return Err(EntryFault::Parent.into()),
    };
    beneath::mkdir(dir, name, Mode::S_IRWXU)?;
    let fd = beneath::open_dir(dir, name)?;
    if hides {
        set_opaque(fd.as_fd())?;
    }
    Ok((fd, true))
}

fn set_opaque(dir: BorrowedFd<'_>) -> Result<(), Failure> {
    beneath::set_xattr(dir, OsStr::new(OPAQUE_XATTR), OPAQUE_VALUE).map_err(on("mark opaque"))
}
