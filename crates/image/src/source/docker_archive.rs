//! The docker-archive format: `manifest.json` lists configurations and layers by path.
//!
//! There is no manifest in the registry's sense, hence no manifest digest; configurations are
//! verified by their file's name and layers by their diff id.

use serde::Deserialize;

use super::FoundImage;
use crate::archive::Archive;
use crate::digest::Digest;
use crate::document::{Documents, MAX_DOCUMENT_BYTES, parse_json};
use crate::error::ImageError;
use crate::store::LayerBlob;

const MANIFEST: &str = "manifest.json";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ManifestEntry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

pub(super) fn read(archive: &Archive) -> Result<Vec<FoundImage>, ImageError> {
    let manifest = archive.document(MANIFEST, MAX_DOCUMENT_BYTES)?;
    let entries: Vec<ManifestEntry> = parse_json(MANIFEST, &manifest)?;
    if entries.is_empty() {
        return Err(ImageError::MalformedSource { name: MANIFEST.to_owned() });
    }
    entries.iter().map(|entry| image(archive, entry)).collect()
}

fn image(archive: &Archive, entry: &ManifestEntry) -> Result<FoundImage, ImageError> {
    let config = archive.document(&entry.config, MAX_DOCUMENT_BYTES)?;
    let actual = Digest::of(&config);
    match digest_in_name(&entry.config) {
        Some(expected) if expected != actual => {
            return Err(ImageError::DigestMismatch { expected, actual });
        }
        _ => {}
    }
    let layer = |path: &String| {
        let missing = || ImageError::Missing { name: path.clone() };
        let (_, bytes) = archive.file(path)?.ok_or_else(missing)?;
        // Only the blobs of a layout are named by their own digest; older names are chain ids.
        let digest = path.strip_prefix("blobs/sha256/").and_then(digest_in_name);
        Ok(LayerBlob { name: path.clone(), digest, bytes })
    };
    let layers = entry.layers.iter().flatten().map(layer);
    let layers = layers.collect::<Result<Vec<_>, ImageError>>()?;
    Ok(FoundImage {
        tags: entry.repo_tags.iter().flatten().map(|tag| tag.parse()).collect::<Result<_, _>>()?,
        manifest_digests: Vec::new(),
        documents: Documents::new(config, layers.len(), None)?,
        layers,
    })
}

/// `<hex>.json` and `blobs/sha256/<hex>` say what the file's digest is.
fn digest_in_name(path: &str) -> Option<Digest> {
    let name = path.rsplit('/').next()?;
    Digest::from_hex(name.strip_suffix(".json").unwrap_or(name)).ok()
}
