//! Unpacks one layer below a directory descriptor, as overlayfs wants it in a user namespace.
//!
//! What the archive says never becomes a path string for the kernel: every entry's parent is
//! opened with `openat2(2)` below the target, links refused, and the entry itself is made by its
//! last component. Whiteouts become character devices 0:0, opaque directories get the attribute
//! `user.overlay.opaque` (mount option `userxattr`).
//!
//! Layers are unpacked without the layers below them. A directory that an archive only implies is
//! therefore made with mode 0755 and owner 0:0.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::sys::stat::{self, Mode, SFlag};
use nix::sys::time::TimeSpec;
use nix::unistd::{self, Gid, Uid};
use serde::{Deserialize, Serialize};
use sys::beneath::{self, BeneathError};

use crate::digest::Digest;
use crate::error::{EntryFault, ImageError, LimitFault};
use crate::stream::{ArchiveSource, LayerStream, Limits};
use crate::tar_reader::{Entry, Kind, TarReader, not_recorded, os_string, printable, stream_error};
use crate::transcript::Recorder;

mod kept;
mod name;
mod tree;

use name::{Action, EntryPath};
use tree::{Attributes, Tree};

/// Ids that a node maps for containers: 0 to 65535.
const MAPPED_IDS: u64 = 65_536;
const COPY_BYTES: usize = 128 * 1024;
const MAX_SYMLINK_BYTES: usize = 4095;

/// Whom unpacked files belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ownership {
    /// As the layer says; needs root in a user namespace with 65,536 ids.
    Preserve,
    /// The unpacking process, for user namespaces with a single id.
    Squash,
}

/// How [`unpack_layer`] works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnpackOptions {
    /// Whom the files belong to.
    pub ownership: Ownership,
    /// What the layer may cost.
    pub limits: Limits,
}

/// What a layer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerSummary {
    /// Digest of the blob as read, compressed or not.
    pub blob_digest: Digest,
    /// Bytes of the blob.
    pub blob_bytes: u64,
    /// Digest of the uncompressed archive.
    pub diff_id: Digest,
    /// Bytes of the uncompressed archive.
    pub archive_bytes: u64,
    /// Bytes of content of all regular files that were written.
    pub file_bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// Device entries, none of which was made.
    pub skipped_devices: u64,
    /// The layer hides everything below it. Overlayfs ignores an opaque root; whoever stacks the
    /// layers has to leave out the lower ones.
    pub opaque_root: bool,
}

/// Where a layer goes.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    /// The empty directory for its files.
    pub root: BorrowedFd<'a>,
    /// The empty file, open for writing, for what [`Store::export`](crate::Store::export) needs
    /// besides.
    pub transcript: BorrowedFd<'a>,
}

/// Whatever runs [`unpack_layer_recording`]: this process, or one that can do nothing else.
pub trait Unpack: fmt::Debug + Send + Sync {
    /// Unpacks the layer that `blob` reads.
    ///
    /// # Errors
    /// As [`unpack_layer_recording`].
    fn unpack(
        &self,
        blob: &mut dyn Read,
        destination: Destination<'_>,
        options: &UnpackOptions,
    ) -> Result<LayerSummary, ImageError>;
}

/// Unpacks in this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct InProcess;

impl Unpack for InProcess {
    fn unpack(
        &self,
        blob: &mut dyn Read,
        destination: Destination<'_>,
        options: &UnpackOptions,
    ) -> Result<LayerSummary, ImageError> {
        let transcript = destination.transcript.try_clone_to_owned().map_err(not_recorded)?;
        unpack_layer_recording(blob, destination.root, File::from(transcript), options)
    }
}

/// Unpacks the layer that `blob` reads, plain or compressed, into the empty directory `target`.
///
/// Needs nothing but the reader and the descriptor, so that it can run confined. The caller
/// compares the digests of the summary with what it expects and, after an error, removes what was
/// made. Attributes `trusted.*` and `user.overlay.*` are dropped, others kept where the kernel
/// takes them. Of several entries of one path the last wins.
///
/// # Errors
/// [`ImageError::Entry`] for an entry that leaves the layer or cannot be confined,
/// [`ImageError::Limit`], [`ImageError::LayerArchive`] and [`ImageError::LayerRead`] for a
/// malformed or truncated blob, [`ImageError::Unpack`] when the file system refuses.
pub fn unpack_layer(
    blob: impl Read,
    target: impl AsFd,
    options: &UnpackOptions,
) -> Result<LayerSummary, ImageError> {
    unpack(blob, target.as_fd(), options, Recorder::silent())
}

/// As [`unpack_layer`], and writes to `transcript` what the archive has besides its files' content,
/// so that [`Store::export`](crate::Store::export) can make it again byte by byte.
///
/// # Errors
/// As [`unpack_layer`], and [`ImageError::Io`] when the transcript cannot be written.
pub fn unpack_layer_recording(
    blob: impl Read,
    target: impl AsFd,
    mut transcript: impl Write,
    options: &UnpackOptions,
) -> Result<LayerSummary, ImageError> {
    let recorder = Recorder::new(&mut transcript).map_err(not_recorded)?;
    unpack(blob, target.as_fd(), options, recorder)
}

fn unpack(
    blob: impl Read,
    target: BorrowedFd<'_>,
    options: &UnpackOptions,
    recorder: Recorder<'_>,
) -> Result<LayerSummary, ImageError> {
    let stream =
        LayerStream::new(blob, options.limits.clone()).map_err(|error| stream_error(error, ""))?;
    let mut archive = TarReader::recording(stream, recorder);
    let mut unpacker = Unpacker {
        tree: Tree::new(target),
        options,
        as_root: unistd::geteuid().is_root() && unistd::getegid().as_raw() == 0,
        buffer: vec![0; COPY_BYTES],
        file_bytes: 0,
        skipped_devices: 0,
        opaque_root: false,
    };
    let mut entries = 0;
    while let Some(entry) = archive.next_entry()? {
        entries += 1;
        if entries > options.limits.entries {
            return Err(archive.exceeded(LimitFault::Entries));
        }
        unpacker
            .entry(&mut archive, &entry)
            .map_err(|failure| failure.at(printable(&entry.path)))?;
    }
    unpacker.tree.finish().map_err(|failure| failure.at("directories".to_owned()))?;
    let summary = archive.finish()?;
    Ok(LayerSummary {
        blob_digest: summary.blob_digest,
        blob_bytes: summary.blob_bytes,
        diff_id: summary.diff_id,
        archive_bytes: summary.archive_bytes,
        file_bytes: unpacker.file_bytes,
        entries,
        skipped_devices: unpacker.skipped_devices,
        opaque_root: unpacker.opaque_root,
    })
}

/// Why an entry cannot be unpacked; [`Failure::at`] adds its name.
enum Failure {
    Entry(EntryFault),
    Limit(LimitFault),
    System { operation: &'static str, source: Errno },
    Read(ImageError),
}

impl Failure {
    fn at(self, path: String) -> ImageError {
        match self {
            Self::Entry(source) => ImageError::Entry { path, source },
            Self::Limit(source) => ImageError::Limit { path, source },
            Self::System { operation, source } => ImageError::Unpack { operation, path, source },
            Self::Read(error) => error,
        }
    }

    fn recording(error: io::Error) -> Self {
        Self::Read(not_recorded(error))
    }
}

impl From<EntryFault> for Failure {
    fn from(fault: EntryFault) -> Self {
        Self::Entry(fault)
    }
}

impl From<BeneathError> for Failure {
    fn from(error: BeneathError) -> Self {
        Self::System { operation: error.operation, source: error.source }
    }
}

/// Names the operation of a bare errno.
fn on(operation: &'static str) -> impl FnOnce(Errno) -> Failure {
    move |source| Failure::System { operation, source }
}

struct Unpacker<'a> {
    tree: Tree<'a>,
    options: &'a UnpackOptions,
    /// What this process makes already belongs to 0:0.
    as_root: bool,
    buffer: Vec<u8>,
    file_bytes: u64,
    skipped_devices: u64,
    opaque_root: bool,
}

impl Unpacker<'_> {
    fn entry<S: ArchiveSource>(
        &mut self,
        archive: &mut TarReader<'_, S>,
        entry: &Entry,
    ) -> Result<(), Failure> {
        let path = EntryPath::parse(&entry.path, &self.options.limits)?;
        match path.action()? {
            Action::Make if path.is_root() => self.root(entry),
            Action::Make => self.make(archive, entry, &path),
            Action::Ignore => Ok(()),
            Action::Opaque | Action::Whiteout(_)
                if !matches!(entry.kind, Kind::Regular | Kind::HardLink) =>
            {
                Err(EntryFault::Whiteout.into())
            }
            Action::Opaque if path.parent().is_empty() => {
                self.opaque_root = true;
                Ok(())
            }
            Action::Opaque => self.tree.make_opaque(path.parent()),
            Action::Whiteout(hidden) => self.tree.hide(path.parent(), &hidden),
        }
    }

    fn root(&mut self, entry: &Entry) -> Result<(), Failure> {
        if entry.kind != Kind::Directory {
            return Err(EntryFault::Root.into());
        }
        let root = self.tree.root();
        if let Some((uid, gid)) = self.owner(entry)? {
            unistd::fchown(root, Some(uid), Some(gid)).map_err(on("chown"))?;
        }
        set_xattrs(root, entry)?;
        self.tree.set_attributes(&[], attributes(entry));
        Ok(())
    }

    fn make<S: ArchiveSource>(
        &mut self,
        archive: &mut TarReader<'_, S>,
        entry: &Entry,
        path: &EntryPath,
    ) -> Result<(), Failure> {
        match entry.kind {
            Kind::Device => {
                self.skipped_devices += 1;
                Ok(())
            }
            Kind::Directory => self.directory(archive.recorder(), entry, path),
            Kind::Regular => self.regular(archive, entry, path),
            Kind::HardLink => self.hard_link(archive.recorder(), entry, path),
            Kind::Symlink => {
                let target = symlink_target(&entry.link)?;
                let make = |dir: BorrowedFd<'_>, name: &OsStr| beneath::symlink(&target, dir, name);
                self.tree.place(archive.recorder(), path, make)?;
                self.own_and_date(entry, path)
            }
            Kind::Fifo => {
                let make =
                    |dir: BorrowedFd<'_>, name: &OsStr| beneath::mkfifo(dir, name, Mode::empty());
                self.tree.place(archive.recorder(), path, make)?;
                self.own_and_date(entry, path)
            }
        }
    }

    fn directory(
        &mut self,
        recorder: &mut Recorder<'_>,
        entry: &Entry,
        path: &EntryPath,
    ) -> Result<(), Failure> {
        let fd = self.tree.directory(recorder, path)?;
        if let Some((uid, gid)) = self.owner(entry)? {
            unistd::fchown(&fd, Some(uid), Some(gid)).map_err(on("chown"))?;
        }
        set_xattrs(fd.as_fd(), entry)?;
        self.tree.set_attributes(path.components(), attributes(entry));
        Ok(())
    }

    fn regular<S: ArchiveSource>(
        &mut self,
        archive: &mut TarReader<'_, S>,
        entry: &Entry,
        path: &EntryPath,
    ) -> Result<(), Failure> {
        let owner = self.owner(entry)?;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let make = |dir: BorrowedFd<'_>, name: &OsStr| beneath::create_file(dir, name, mode);
        let mut file = File::from(self.tree.place(archive.recorder(), path, make)?);
        archive.recorder().content(&path.joined(), entry.size).map_err(Failure::recording)?;
        loop {
            let count = archive.read(&mut self.buffer).map_err(Failure::Read)?;
            if count == 0 {
                break;
            }
            file.write_all(&self.buffer[..count]).map_err(|error| {
                let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
                on("write")(errno)
            })?;
        }
        self.file_bytes = self.file_bytes.saturating_add(entry.size);
        // A change of owner clears set-id bits and capabilities, a write the time: in this order.
        if let Some((uid, gid)) = owner {
            unistd::fchown(&file, Some(uid), Some(gid)).map_err(on("chown"))?;
        }
        stat::fchmod(&file, Mode::from_bits_truncate(entry.mode)).map_err(on("chmod"))?;
        set_xattrs(file.as_fd(), entry)?;
        let time = mtime(entry);
        stat::futimens(&file, &time, &time).map_err(on("set times of"))
    }

    fn hard_link(
        &mut self,
        recorder: &mut Recorder<'_>,
        entry: &Entry,
        path: &EntryPath,
    ) -> Result<(), Failure> {
        let target = EntryPath::parse(&entry.link, &self.options.limits)?;
        let missing = || Failure::from(EntryFault::LinkTarget);
        let name = target.name().ok_or_else(missing)?;
        if target.components() == path.components() {
            return Err(missing());
        }
        let dir = self.tree.existing(target.parent())?.ok_or_else(missing)?;
        let stat = match beneath::lstat(&dir, name) {
            Ok(stat) => stat,
            Err(BeneathError { source: Errno::ENOENT, .. }) => return Err(missing()),
            Err(error) => return Err(error.into()),
        };
        let kind = beneath::file_type(&stat);
        // Whiteouts, the only devices here, are no content of the image.
        if !matches!(kind, SFlag::S_IFREG | SFlag::S_IFLNK | SFlag::S_IFIFO) {
            return Err(missing());
        }
        let make = |to: BorrowedFd<'_>, new: &OsStr| beneath::link(&dir, name, to, new);
        match self.tree.place(recorder, path, make) {
            // Making room for the new name removed the target.
            Err(Failure::System { source: Errno::ENOENT, .. }) => return Err(missing()),
            result => result?,
        }
        if kind == SFlag::S_IFREG && stat.st_size > 0 {
            recorder.link(&path.joined()).map_err(Failure::recording)?;
        }
        Ok(())
    }

    /// Owner, mode and time of an entry that cannot be opened without consequences.
    fn own_and_date(&mut self, entry: &Entry, path: &EntryPath) -> Result<(), Failure> {
        let owner = self.owner(entry)?;
        let (dir, name) = self.tree.parent_of(path)?;
        if let Some((uid, gid)) = owner {
            beneath::chown(dir, name, uid, gid)?;
        }
        if entry.kind != Kind::Symlink {
            beneath::chmod(dir, name, Mode::from_bits_truncate(entry.mode))?;
        }
        let time = mtime(entry);
        Ok(beneath::set_times(dir, name, time, time)?)
    }

    /// The owner to set; `None` when it already is right.
    fn owner(&self, entry: &Entry) -> Result<Option<(Uid, Gid)>, Failure> {
        match self.options.ownership {
            Ownership::Squash => Ok(None),
            Ownership::Preserve if self.as_root && entry.uid == 0 && entry.gid == 0 => Ok(None),
            Ownership::Preserve => {
                let id = |id: u64| match u32::try_from(id) {
                    Ok(small) if id < MAPPED_IDS => Ok(small),
                    _ => Err(Failure::from(EntryFault::Owner)),
                };
                Ok(Some((Uid::from_raw(id(entry.uid)?), Gid::from_raw(id(entry.gid)?))))
            }
        }
    }
}

fn attributes(entry: &Entry) -> Attributes {
    Attributes { mode: Mode::from_bits_truncate(entry.mode), mtime: Some(mtime(entry)) }
}

fn mtime(entry: &Entry) -> TimeSpec {
    TimeSpec::new(entry.mtime.0, entry.mtime.1)
}

fn symlink_target(target: &[u8]) -> Result<OsString, EntryFault> {
    let fits = (1..=MAX_SYMLINK_BYTES).contains(&target.len());
    if fits && !target.contains(&0) {
        Ok(os_string(target))
    } else {
        Err(EntryFault::SymlinkTarget)
    }
}

/// Sets the entry's extended attributes as far as an image may have them and the kernel agrees.
fn set_xattrs(fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), Failure> {
    for (name, value) in &entry.xattrs {
        if !is_image_xattr(name) {
            continue;
        }
        match beneath::set_xattr(fd, name, value) {
            // ENOSPC is the file system's word for a value that is too large for it.
            Ok(())
            | Err(
                Errno::EOPNOTSUPP | Errno::EPERM | Errno::EINVAL | Errno::ENOSPC | Errno::ERANGE,
            ) => {}
            Err(errno) => return Err(on("set attribute of")(errno)),
        }
    }
    Ok(())
}

/// `user.overlay.*` would forge what only the unpacker and the kernel may say to overlayfs.
fn is_image_xattr(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let plain = !name.contains(&0);
    let user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
    plain && (user || name == b"security.capability" || name.starts_with(b"system.posix_acl_"))
}
