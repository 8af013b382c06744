//! What an image source contains, whatever its format.

use std::collections::BTreeMap;

use oci_spec::image::{Arch, ImageConfiguration, Os};

use crate::archive::Archive;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::reference::Reference;

mod docker_archive;
mod oci_layout;

/// The largest manifest, index or configuration; registries have the same limit.
const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

/// An image that a source offers; its documents are verified, its layers are not read yet.
#[derive(Debug)]
pub(crate) struct FoundImage {
    /// Names with tags.
    pub(crate) tags: Vec<Reference>,
    /// Digests under which a registry would know the image: manifest, and index if there is one.
    pub(crate) manifest_digests: Vec<Digest>,
    /// The manifest's bytes, unless the format has none.
    pub(crate) manifest: Option<Vec<u8>>,
    /// The configuration's bytes; their digest is the image id.
    pub(crate) config: Vec<u8>,
    /// The manifest's annotations.
    pub(crate) annotations: BTreeMap<String, String>,
    /// Base layer first.
    pub(crate) layers: Vec<LayerBlob>,
}

/// A layer's blob in a source.
#[derive(Debug, Clone)]
pub(crate) struct LayerBlob {
    /// Its path in the source.
    pub(crate) path: String,
    /// Its digest, if the format says.
    pub(crate) digest: Option<Digest>,
    /// Its size in bytes.
    pub(crate) bytes: u64,
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

/// Whether the image is for this machine.
fn runs_here(config: &ImageConfiguration) -> bool {
    *config.os() == Os::Linux && *config.architecture() == Arch::default()
}

fn no_platform() -> ImageError {
    ImageError::Platform { platform: format!("linux/{}", Arch::default()) }
}

pub(crate) fn parse_json<T: serde::de::DeserializeOwned>(
    document: &str,
    bytes: &[u8],
) -> Result<T, ImageError> {
    serde_json::from_slice(bytes)
        .map_err(|source| ImageError::Json { document: document.to_owned(), source })
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
