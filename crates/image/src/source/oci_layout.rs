//! The OCI image layout: `index.json` leads to manifests, all of them blobs named by digest.
//!
//! Source: OCI image specification, "Image Layout", "Image Index", "Image Manifest".

use oci_spec::image::{Descriptor, OciLayout};

use super::{FoundImage, blob_path};
use crate::archive::Archive;
use crate::document::{
    BlobRef, Document, Documents, MAX_DOCUMENT_BYTES, MAX_INDEX_DEPTH, Manifest, parse_json,
    parse_layout_index,
};
use crate::error::ImageError;
use crate::reference::{Reference, Selector};
use crate::store::LayerBlob;

const INDEX: &str = "index.json";
const LAYOUT_VERSION_PREFIX: &str = "1.";
/// A full name, as containerd and newer Docker releases write it.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// A full name or only a tag, depending on who wrote it.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

pub(super) fn read(archive: &Archive) -> Result<Vec<FoundImage>, ImageError> {
    let layout: OciLayout =
        parse_json("oci-layout", &archive.document("oci-layout", MAX_DOCUMENT_BYTES)?)?;
    if !layout.image_layout_version().starts_with(LAYOUT_VERSION_PREFIX) {
        return Err(ImageError::MalformedSource { name: "oci-layout".to_owned() });
    }
    let bytes = archive.document(INDEX, MAX_DOCUMENT_BYTES)?;
    let index = parse_layout_index(INDEX, &bytes)?;
    let mut images: Vec<FoundImage> = Vec::new();
    for descriptor in index.manifests() {
        let Some(mut image) = resolve(archive, &BlobRef::of(descriptor)?, 1)? else { continue };
        image.tags.extend(name_of(descriptor)?);
        // One image under several names is one descriptor each.
        match images.iter_mut().find(|known| known.manifest_digests == image.manifest_digests) {
            Some(known) => known.tags.extend(image.tags),
            None => images.push(image),
        }
    }
    if images.is_empty() { Err(ImageError::no_platform()) } else { Ok(images) }
}

/// Follows a descriptor to the image for this machine; `None` when there is none behind it.
fn resolve(
    archive: &Archive,
    blob: &BlobRef,
    depth: usize,
) -> Result<Option<FoundImage>, ImageError> {
    let bytes = read_blob(archive, blob)?;
    match Document::parse(&bytes, &blob.media_type)? {
        Document::Manifest(manifest) => image(archive, blob, bytes, manifest),
        Document::Index(_) if depth >= MAX_INDEX_DEPTH => {
            Err(ImageError::MalformedSource { name: blob.digest.to_string() })
        }
        Document::Index(candidates) => {
            for candidate in candidates {
                if let Some(mut image) = resolve(archive, &candidate, depth + 1)? {
                    // A registry knows the whole by the index, so that comes first.
                    image.manifest_digests.insert(0, blob.digest);
                    return Ok(Some(image));
                }
            }
            Ok(None)
        }
    }
}

/// Reads a document and verifies size and digest.
fn read_blob(archive: &Archive, blob: &BlobRef) -> Result<Vec<u8>, ImageError> {
    let bytes = archive.document(&blob_path(&blob.digest), MAX_DOCUMENT_BYTES)?;
    blob.verify(&bytes)?;
    Ok(bytes)
}

fn image(
    archive: &Archive,
    blob: &BlobRef,
    bytes: Vec<u8>,
    manifest: Manifest,
) -> Result<Option<FoundImage>, ImageError> {
    let config = read_blob(archive, &manifest.config)?;
    let described = Some((bytes, manifest.annotations));
    let documents = match Documents::new(config, manifest.layers.len(), described) {
        Err(ImageError::Platform { .. }) => return Ok(None),
        documents => documents?,
    };
    let layers = manifest.layers.iter().map(|layer| LayerBlob {
        name: blob_path(&layer.digest),
        digest: Some(layer.digest),
        bytes: layer.bytes,
    });
    let layers = layers.collect();
    Ok(Some(FoundImage {
        tags: Vec::new(),
        manifest_digests: vec![blob.digest],
        documents,
        layers,
    }))
}

/// The tagged name that a descriptor of `index.json` carries, if any.
///
/// A bare tag does not say of which repository and is no name.
fn name_of(descriptor: &Descriptor) -> Result<Option<Reference>, ImageError> {
    let annotation = |key| descriptor.annotations().as_ref().and_then(|all| all.get(key));
    let full = annotation(CONTAINERD_NAME)
        .or_else(|| annotation(REF_NAME).filter(|name| name.contains(['/', ':'])));
    let Some(name) = full else { return Ok(None) };
    let reference: Reference = name.parse()?;
    Ok(matches!(reference.selector(), Selector::Tag(_)).then_some(reference))
}
