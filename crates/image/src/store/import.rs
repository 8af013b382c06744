//! Importing images from files.

use std::path::Path;

use super::{Image, LayerBlob, Store};
use crate::archive::Archive;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::reference::Reference;
use crate::source::{self, FoundImage};

/// How often layers are unpacked again that a removal took away meanwhile.
const ATTEMPTS: usize = 3;

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
        let diff_ids = found.documents.diff_ids();
        let _reservation = self.reserve(diff_ids);
        let mut attempt = 1;
        loop {
            for (blob, diff_id) in found.layers.iter().zip(diff_ids) {
                self.ensure_layer(archive, blob, diff_id)?;
            }
            match self.commit(&found.documents, &found.tags, &found.manifest_digests) {
                Err(ImageError::LayerVanished { .. }) if attempt < ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    /// Unpacks a layer unless it is there.
    fn ensure_layer(
        &self,
        archive: &Archive,
        blob: &LayerBlob,
        diff_id: &Digest,
    ) -> Result<(), ImageError> {
        let missing = || ImageError::Missing { name: blob.name.clone() };
        let (mut content, actual) = archive.file(&blob.name)?.ok_or_else(missing)?;
        if actual != blob.bytes {
            let (name, expected) = (blob.name.clone(), blob.bytes);
            return Err(ImageError::SizeMismatch { name, expected, actual });
        }
        if self.has_layer(diff_id) {
            return Ok(());
        }
        let staged = self.stage()?;
        let summary = self.unpacker.unpack(&mut content, staged.destination(), &self.unpack)?;
        self.place(staged, &summary, blob, diff_id)
    }
}
