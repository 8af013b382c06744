//! Importing images from files.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::sync::PoisonError;

use nix::sys::stat::{self, Mode};
use nix::unistd;
use oci_spec::image::ImageConfiguration;
use sys::beneath::{self, BeneathError};

use super::directory::Directory;
use super::record::{self, ImageRecord, LayerRecord};
use super::{Image, LAYER_FS, Store};
use crate::archive::Archive;
use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::reference::{Reference, Selector};
use crate::source::{self, FoundImage, LayerBlob, parse_json};
use crate::unpack::{LayerSummary, unpack_layer};

/// Overlayfs stacks that many lower directories (`OVL_MAX_STACK`).
const MAX_LAYERS: usize = 500;
/// How often layers are unpacked again that a removal took away meanwhile.
const ATTEMPTS: usize = 3;
/// The root directory of a container is for everyone, unless the image says otherwise.
const ROOT_MODE: u32 = 0o755;

/// How an import goes beyond what the source says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportOptions {
    /// The image's name, instead of the names in the source.
    pub reference: Option<String>,
}

impl Store {
    /// Imports all images for this machine from an OCI layout or docker-archive.
    ///
    /// `path` is a directory or an archive of it, which may be compressed. Digests, sizes and
    /// diff ids are verified; an image is in the store as a whole or not at all, also after a
    /// crash. An image that is there already gains the new names.
    ///
    /// # Errors
    /// [`ImageError::UnknownFormat`], [`ImageError::Platform`], [`ImageError::SeveralImages`] when
    /// one name is given for several images, and all that is wrong with the source's content. The
    /// images before the failing one stay.
    pub fn import(&self, path: &Path, options: &ImportOptions) -> Result<Vec<Image>, ImageError> {
        let name: Option<Reference> = options.reference.as_deref().map(str::parse).transpose()?;
        let archive = Archive::open(path, self.layers.fd())?;
        let mut found = source::read(&archive)?
            .ok_or_else(|| ImageError::UnknownFormat { path: path.into() })?;
        if let Some(name) = name {
            let [image] = found.as_mut_slice() else {
                let (reference, images) = (name.to_string(), found.len());
                return Err(ImageError::SeveralImages { reference, images });
            };
            image.tags = vec![name];
        }
        found.into_iter().map(|image| self.import_image(&archive, &image)).collect()
    }

    fn import_image(&self, archive: &Archive, found: &FoundImage) -> Result<Image, ImageError> {
        let id = Digest::of(&found.config);
        let config: ImageConfiguration = parse_json(&id.to_string(), &found.config)?;
        ImageConfig::from_oci(&config)?;
        let diff_ids = config.rootfs().diff_ids().iter().map(|text| text.parse());
        let diff_ids: Vec<Digest> = diff_ids.collect::<Result<_, _>>()?;
        let layers = found.layers.len();
        if layers != diff_ids.len() {
            return Err(ImageError::LayerCount { layers, diff_ids: diff_ids.len() });
        }
        if layers > MAX_LAYERS {
            return Err(ImageError::TooManyLayers { layers, limit: MAX_LAYERS });
        }
        let _importing = Importing::new(self, &diff_ids);
        let mut attempt = 1;
        loop {
            for (blob, diff_id) in found.layers.iter().zip(&diff_ids) {
                self.ensure_layer(archive, blob, diff_id)?;
            }
            match self.commit(id, found, &diff_ids) {
                Err(ImageError::LayerVanished { .. }) if attempt < ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    /// Unpacks a layer unless it is there. Whoever finishes second throws its work away.
    fn ensure_layer(
        &self,
        archive: &Archive,
        blob: &LayerBlob,
        diff_id: &Digest,
    ) -> Result<(), ImageError> {
        let missing = || ImageError::Missing { name: blob.path.clone() };
        let (content, actual) = archive.file(&blob.path)?.ok_or_else(missing)?;
        if actual != blob.bytes {
            let (name, expected) = (blob.path.clone(), blob.bytes);
            return Err(ImageError::SizeMismatch { name, expected, actual });
        }
        if record::read_layer(&self.layers, diff_id).is_ok() {
            return Ok(());
        }
        let temporary = {
            let _lock = self.root.lock()?;
            self.layers.make_temporary()?
        };
        let result = self
            .fill_layer(content, &temporary.directory, blob, diff_id)
            .and_then(|()| self.place_layer(&temporary.name, diff_id));
        if !matches!(result, Ok(Placed::Here)) {
            // What cannot be removed now is swept later; the first error is the one to report.
            beneath::remove_tree(self.layers.fd(), &temporary.name).ok();
        }
        result.map(drop)
    }

    fn fill_layer(
        &self,
        content: impl Read,
        layer: &Directory,
        blob: &LayerBlob,
        diff_id: &Digest,
    ) -> Result<(), ImageError> {
        let root = layer.subdirectory(LAYER_FS)?;
        let failed = |errno: nix::errno::Errno| ImageError::Unpack {
            operation: "chmod",
            path: String::new(),
            source: errno,
        };
        stat::fchmod(root.fd(), Mode::from_bits_truncate(ROOT_MODE)).map_err(failed)?;
        let summary = unpack_layer(content, root.fd(), &self.unpack)?;
        verify(&summary, blob, diff_id)?;
        let usage = beneath::usage(layer.fd())?;
        let mut record = LayerRecord::new(*diff_id);
        record.file_bytes = summary.file_bytes;
        record.disk_bytes = usage.bytes;
        // The layer's own directory and its record.
        record.inodes = usage.inodes + 2;
        record.opaque_root = summary.opaque_root;
        record.write(layer)?;
        // A name must not outlive a power loss that its content did not.
        unistd::syncfs(layer.fd()).map_err(|source| ImageError::Unpack {
            operation: "sync",
            path: String::new(),
            source,
        })
    }

    fn place_layer(
        &self,
        temporary: &std::ffi::OsStr,
        diff_id: &Digest,
    ) -> Result<Placed, ImageError> {
        let _lock = self.root.lock()?;
        let name = diff_id.directory_name();
        if record::read_layer(&self.layers, diff_id).is_ok() {
            return Ok(Placed::BySomeoneElse);
        }
        // A broken layer of that name gives way; it is deleted at the next start.
        if self.layers.contains(&name)? {
            drop(self.layers.claim(name.as_ref())?);
        }
        let layers = self.layers.fd();
        beneath::rename(layers, temporary, layers, name.as_ref())
            .map_err(|error: BeneathError| ImageError::from(error))?;
        self.layers.sync()?;
        Ok(Placed::Here)
    }

    /// Writes documents and record, and takes the tags from other images.
    fn commit(
        &self,
        id: Digest,
        found: &FoundImage,
        diff_ids: &[Digest],
    ) -> Result<Image, ImageError> {
        let _lock = self.root.lock()?;
        let state = self.read_state()?;
        if let Some(diff_id) = diff_ids.iter().find(|layer| !state.layers.contains_key(layer)) {
            return Err(ImageError::LayerVanished { diff_id: *diff_id });
        }
        let known = state.images.get(&id).map(|(record, _)| record.clone());
        let mut record = known.unwrap_or_else(|| ImageRecord::new(id, diff_ids.to_vec()));
        let last = state.images.values().map(|(record, _)| record.sequence).max();
        record.sequence = last.map_or(0, |last| last.saturating_add(1));
        add_names(&mut record, found);
        self.blobs.write(&id.hex(), &found.config)?;
        if let Some(manifest) = &found.manifest {
            let digest = Digest::of(manifest);
            self.blobs.write(&digest.hex(), manifest)?;
            record.manifest = Some(digest);
            record.annotations.clone_from(&found.annotations);
        }
        record.write(&self.images)?;
        for (other, _) in state.images.values().filter(|(other, _)| other.id != id) {
            let mut rest = other.clone();
            rest.repo_tags.retain(|tag| !record.repo_tags.contains(tag));
            if rest != *other {
                rest.write(&self.images)?;
            }
        }
        let state = self.reload_locked()?;
        let image = state.images.get(&id).map(|(_, image)| image.clone());
        image.ok_or_else(|| ImageError::Missing { name: id.to_string() })
    }
}

fn add_names(record: &mut ImageRecord, found: &FoundImage) {
    let mut tags = BTreeSet::from_iter(std::mem::take(&mut record.repo_tags));
    let mut digests = Vec::new();
    for name in &found.tags {
        if matches!(name.selector(), Selector::Tag(_)) {
            tags.insert(name.to_string());
        }
        let digest_names = found.manifest_digests.iter().map(|digest| name.with_digest(*digest));
        digests.extend(digest_names.map(|name| name.to_string()));
    }
    record.repo_tags = tags.into_iter().collect();
    for digest in digests {
        if !record.repo_digests.contains(&digest) {
            record.repo_digests.push(digest);
        }
    }
}

enum Placed {
    Here,
    BySomeoneElse,
}

/// Compares what was read with what manifest and configuration promise.
fn verify(summary: &LayerSummary, blob: &LayerBlob, diff_id: &Digest) -> Result<(), ImageError> {
    if summary.blob_bytes != blob.bytes {
        let (name, expected) = (blob.path.clone(), blob.bytes);
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

/// Keeps the collector away from layers until a record names them.
struct Importing<'a> {
    store: &'a Store,
    diff_ids: &'a [Digest],
}

impl<'a> Importing<'a> {
    fn new(store: &'a Store, diff_ids: &'a [Digest]) -> Self {
        let mut importing = store.importing.lock().unwrap_or_else(PoisonError::into_inner);
        importing.extend_from_slice(diff_ids);
        Self { store, diff_ids }
    }
}

impl Drop for Importing<'_> {
    fn drop(&mut self) {
        let mut importing = self.store.importing.lock().unwrap_or_else(PoisonError::into_inner);
        for diff_id in self.diff_ids {
            if let Some(index) = importing.iter().position(|known| known == diff_id) {
                importing.swap_remove(index);
            }
        }
    }
}
