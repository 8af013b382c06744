//! Unpacking a layer into the store: beside it first, then into its place.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::stat::{self, Mode};
use nix::unistd;
use sys::beneath;

use super::directory::{Directory, TemporaryDirectory};
use super::record::{self, LayerRecord};
use super::{LAYER_FS, Store};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::unpack::{Destination, LayerSummary, UnpackOptions};

/// The root directory of a container is for everyone, unless the image says otherwise.
const ROOT_MODE: u32 = 0o755;

/// What [`Store::export`] needs of the layer's archive besides its files.
pub(super) const TRANSCRIPT: &str = "transcript.zst";

/// A layer's blob, as whoever offers it describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerBlob {
    /// Its path in an archive, or its digest.
    pub name: String,
    /// Its digest, if the format says.
    pub digest: Option<Digest>,
    /// Its size in bytes.
    pub bytes: u64,
}

/// A layer that is being unpacked. Unless it is placed, what there is of it goes with this value.
#[derive(Debug)]
pub struct StagedLayer {
    layers: Arc<Directory>,
    temporary: TemporaryDirectory,
    root: Directory,
    transcript: OwnedFd,
    placed: bool,
}

impl StagedLayer {
    /// Where to unpack to.
    #[must_use]
    pub fn destination(&self) -> Destination<'_> {
        Destination { root: self.root.fd(), transcript: self.transcript.as_fd() }
    }
}

impl Drop for StagedLayer {
    /// Deletes a tree, so it may take a while.
    fn drop(&mut self) {
        if !self.placed {
            // What cannot be removed now is swept later.
            beneath::remove_tree(self.layers.fd(), &self.temporary.name).ok();
        }
    }
}

/// Keeps the collector away from layers until a record names them.
#[derive(Debug)]
pub struct Reservation {
    reserved: Arc<Mutex<Vec<Digest>>>,
    diff_ids: Vec<Digest>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        for diff_id in &self.diff_ids {
            if let Some(index) = reserved.iter().position(|known| known == diff_id) {
                reserved.swap_remove(index);
            }
        }
    }
}

impl Store {
    /// How layers are to be unpacked for this store.
    #[must_use]
    pub fn unpack_options(&self) -> &UnpackOptions {
        &self.unpack
    }

    /// Whether the layer is there, ready for use.
    #[must_use]
    pub fn has_layer(&self, diff_id: &Digest) -> bool {
        record::read_layer(&self.layers, diff_id).is_ok()
    }

    /// Keeps layers that are there or will be from being collected by this process, until a record
    /// names them or the reservation is dropped.
    #[must_use]
    pub fn reserve(&self, diff_ids: &[Digest]) -> Reservation {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        reserved.extend_from_slice(diff_ids);
        Reservation { reserved: Arc::clone(&self.reserved), diff_ids: diff_ids.to_vec() }
    }

    /// Makes a directory to unpack a layer into.
    ///
    /// # Errors
    /// [`ImageError::Beneath`] and [`ImageError::Io`] when the file system refuses.
    pub fn stage(&self) -> Result<StagedLayer, ImageError> {
        let temporary = {
            let _lock = self.root.lock()?;
            self.layers.make_temporary()?
        };
        let root = temporary.directory.subdirectory(LAYER_FS)?;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let transcript =
            beneath::create_file(temporary.directory.fd(), OsStr::new(TRANSCRIPT), mode)?;
        let layers = Arc::clone(&self.layers);
        let staged = StagedLayer { layers, temporary, root, transcript, placed: false };
        stat::fchmod(staged.root.fd(), Mode::from_bits_truncate(ROOT_MODE))
            .map_err(|source| failed("chmod", source))?;
        Ok(staged)
    }

    /// Puts an unpacked layer into its place, if it is what `blob` and `diff_id` promise. Whoever
    /// comes second with one layer throws its work away.
    ///
    /// # Errors
    /// [`ImageError::SizeMismatch`], [`ImageError::DigestMismatch`],
    /// [`ImageError::DiffIdMismatch`]; [`ImageError::Unpack`], [`ImageError::Beneath`] and
    /// [`ImageError::Io`] when the file system refuses.
    pub fn place(
        &self,
        mut staged: StagedLayer,
        summary: &LayerSummary,
        blob: &LayerBlob,
        diff_id: &Digest,
    ) -> Result<(), ImageError> {
        verify(summary, blob, diff_id)?;
        let layer = &staged.temporary.directory;
        let usage = beneath::usage(layer.fd())?;
        let mut record = LayerRecord::new(*diff_id);
        record.file_bytes = summary.file_bytes;
        record.disk_bytes = usage.bytes;
        // The layer's own directory and its record.
        record.inodes = usage.inodes + 2;
        record.opaque_root = summary.opaque_root;
        record.write(layer)?;
        // A name must not outlive a power loss that its content did not.
        unistd::syncfs(layer.fd()).map_err(|source| failed("sync", source))?;
        staged.placed = self.rename_layer(&staged.temporary.name, diff_id)?;
        Ok(())
    }

    /// Gives a directory the layer's name; false if there is one already.
    fn rename_layer(&self, temporary: &OsString, diff_id: &Digest) -> Result<bool, ImageError> {
        let _lock = self.root.lock()?;
        if self.has_layer(diff_id) {
            return Ok(false);
        }
        let name = diff_id.directory_name();
        // A broken layer of that name gives way; it is deleted at the next start.
        if self.layers.contains(&name)? {
            drop(self.layers.claim(name.as_ref())?);
        }
        beneath::rename(self.layers.fd(), temporary, self.layers.fd(), name.as_ref())?;
        self.layers.sync()?;
        Ok(true)
    }
}

fn failed(operation: &'static str, source: nix::errno::Errno) -> ImageError {
    ImageError::Unpack { operation, path: String::new(), source }
}

/// Compares what was read with what manifest and configuration promise.
fn verify(summary: &LayerSummary, blob: &LayerBlob, diff_id: &Digest) -> Result<(), ImageError> {
    if summary.blob_bytes != blob.bytes {
        let (name, expected) = (blob.name.clone(), blob.bytes);
        return Err(ImageError::SizeMismatch { name, expected, actual: summary.blob_bytes });
    }
    match blob.digest {
        Some(expected) if expected != summary.blob_digest => {
            return Err(ImageError::DigestMismatch { expected, actual: summary.blob_digest });
        }
        _ => {}
    }
    if summary.diff_id != *diff_id {
        return Err(ImageError::DiffIdMismatch { expected: *diff_id, actual: summary.diff_id });
    }
    Ok(())
}
