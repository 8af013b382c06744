//! What an image source contains, whatever its format.

use crate::archive::Archive;
use crate::digest::Digest;
use crate::document::Documents;
use crate::error::ImageError;
use crate::reference::Reference;
use crate::store::LayerBlob;

mod docker_archive;
mod oci_layout;

/// An image that a source offers; its documents are verified, its layers are not read yet.
#[derive(Debug)]
pub(crate) struct FoundImage {
    /// Names with tags.
    pub(crate) tags: Vec<Reference>,
    /// Digests under which a registry would know the image: manifest, and index if there is one.
    pub(crate) manifest_digests: Vec<Digest>,
    /// Configuration and manifest.
    pub(crate) documents: Documents,
    /// Base layer first.
    pub(crate) layers: Vec<LayerBlob>,
}

/// Reads what `archive` offers; `None` when it is in no known format.
pub(crate) fn read(archive: &Archive) -> Result<Option<Vec<FoundImage>>, ImageError> {
    // Newer `docker save` archives are both; the layout says more.
    if archive.contains("oci-layout")? {
        return oci_layout::read(archive).map(Some);
    }
    if archive.contains("manifest.json")? {
        return docker_archive::read(archive).map(Some);
    }
    Ok(None)
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
