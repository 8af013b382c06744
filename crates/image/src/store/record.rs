//! The records of images and layers on disk.

use std::collections::BTreeMap;
use std::path::PathBuf;

use nix::errno::Errno;
use oci_spec::image::ImageConfiguration;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sys::beneath::BeneathError;

use super::directory::Directory;
use super::{Image, LAYER_FS};
use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::document::parse_json;
use crate::error::ImageError;

const VERSION: u32 = 1;
const IMAGE_SUFFIX: &str = ".json";
pub(super) const LAYER_RECORD: &str = "layer.json";
/// Far more than any record or configuration has.
const MAX_RECORD_BYTES: u64 = 16 << 20;

/// What is kept of an image besides its documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImageRecord {
    version: u32,
    pub(super) id: Digest,
    /// Grows with every import; of two images with one tag the later has it.
    pub(super) sequence: u64,
    pub(super) repo_tags: Vec<String>,
    pub(super) repo_digests: Vec<String>,
    pub(super) manifest: Option<Digest>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) diff_ids: Vec<Digest>,
    pub(super) pinned: bool,
}

impl ImageRecord {
    pub(super) fn new(id: Digest, diff_ids: Vec<Digest>) -> Self {
        Self {
            version: VERSION,
            id,
            sequence: 0,
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            manifest: None,
            annotations: BTreeMap::new(),
            diff_ids,
            pinned: false,
        }
    }

    pub(super) fn write(&self, images: &Directory) -> Result<(), ImageError> {
        images.write(&file_name(&self.id), &to_json(self)?)
    }
}

/// What is known about an unpacked layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LayerRecord {
    version: u32,
    pub(super) diff_id: Digest,
    /// Bytes of the files' content.
    pub(super) file_bytes: u64,
    /// Allocated bytes.
    pub(super) disk_bytes: u64,
    pub(super) inodes: u64,
    /// The layer hides everything below it.
    pub(super) opaque_root: bool,
}

impl LayerRecord {
    pub(super) fn new(diff_id: Digest) -> Self {
        Self {
            version: VERSION,
            diff_id,
            file_bytes: 0,
            disk_bytes: 0,
            inodes: 0,
            opaque_root: false,
        }
    }

    /// Writes the record into the layer's directory.
    pub(super) fn write(&self, layer: &Directory) -> Result<(), ImageError> {
        layer.write(LAYER_RECORD, &to_json(self)?)
    }
}

fn to_json(record: &impl Serialize) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec(record)
        .map_err(|source| ImageError::Json { document: "record".to_owned(), source })
}

pub(super) fn file_name(id: &Digest) -> String {
    format!("{}{IMAGE_SUFFIX}", id.hex())
}

/// The image whose record has this file name.
pub(super) fn id_of(name: &str) -> Option<Digest> {
    Digest::from_hex(name.strip_suffix(IMAGE_SUFFIX)?).ok()
}

fn read<T: DeserializeOwned>(directory: &Directory, name: &str) -> Result<T, ImageError> {
    parse_json(name, &directory.read(name, MAX_RECORD_BYTES)?)
}

fn unusable(name: &str) -> ImageError {
    ImageError::Record { path: PathBuf::from(name) }
}

/// Reads the record in a layer's directory and checks that the layer is there.
pub(super) fn read_layer(layers: &Directory, diff_id: &Digest) -> Result<LayerRecord, ImageError> {
    let name = diff_id.directory_name();
    let layer = layers.existing(&name)?;
    let record: LayerRecord = read(&layer, LAYER_RECORD)?;
    let complete = layer.contains(LAYER_FS)?;
    if record.version == VERSION && record.diff_id == *diff_id && complete {
        Ok(record)
    } else {
        Err(unusable(&name))
    }
}

/// Reads an image's record and what it refers to.
pub(super) fn read_image(
    images: &Directory,
    blobs: &Directory,
    layers: &BTreeMap<Digest, LayerRecord>,
    name: &str,
) -> Result<(ImageRecord, Image), ImageError> {
    let record: ImageRecord = read(images, name)?;
    if record.version != VERSION || id_of(name) != Some(record.id) {
        return Err(unusable(name));
    }
    let config = blobs.read(&record.id.hex(), MAX_RECORD_BYTES).map_err(|error| match error {
        ImageError::Beneath(BeneathError { source: Errno::ENOENT, .. }) => {
            ImageError::Missing { name: record.id.to_string() }
        }
        other => other,
    })?;
    let actual = Digest::of(&config);
    if actual != record.id {
        return Err(ImageError::DigestMismatch { expected: record.id, actual });
    }
    let image = image(&record, &config, layers)?;
    Ok((record, image))
}

fn image(
    record: &ImageRecord,
    config: &[u8],
    layers: &BTreeMap<Digest, LayerRecord>,
) -> Result<Image, ImageError> {
    let oci: ImageConfiguration = parse_json(&record.id.to_string(), config)?;
    let mut size_bytes = u64::try_from(config.len()).unwrap_or(u64::MAX);
    for diff_id in &record.diff_ids {
        let layer = layers.get(diff_id);
        let layer = layer.ok_or_else(|| ImageError::Missing { name: diff_id.to_string() })?;
        size_bytes = size_bytes.saturating_add(layer.file_bytes);
    }
    Ok(Image {
        id: record.id,
        repo_tags: record.repo_tags.clone(),
        repo_digests: record.repo_digests.clone(),
        size_bytes,
        config: ImageConfig::from_oci(&oci)?,
        created: oci.created().clone(),
        annotations: record.annotations.clone(),
        diff_ids: record.diff_ids.clone(),
        pinned: record.pinned,
    })
}

/// The layers that a record names which cannot be used as a whole.
///
/// A newer version of this program may have written it; its layers have to outlive ours.
pub(super) fn claimed_layers(images: &Directory, name: &str) -> Vec<Digest> {
    let document: Option<Value> = read(images, name).ok();
    let diff_ids = document.as_ref().and_then(|document| document.get("diff_ids")?.as_array());
    diff_ids.into_iter().flatten().filter_map(|id| id.as_str()?.parse().ok()).collect()
}
