//! Manifests and indexes: what an image consists of, wherever it comes from.
//!
//! Source: OCI image specification, "Image Index" and "Image Manifest"; Docker's "Image Manifest
//! V 2, Schema 2", which differs in media types only.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType};
use serde_json::Value;

use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::platform;

/// The largest manifest, index or configuration in bytes; registries have the same limit.
pub const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// How deep indexes are followed: that of an archive, that of several platforms, and one more
/// level that some builders add.
pub const MAX_INDEX_DEPTH: usize = 3;
/// Every list of images repeats them.
const MAX_ANNOTATION_BYTES: usize = 16 << 10;
/// Overlayfs stacks that many lower directories (`OVL_MAX_STACK`).
const MAX_LAYERS: usize = 500;

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYERS: [&str; 4] = [
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// What a descriptor refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobRef {
    /// The blob's digest.
    pub digest: Digest,
    /// The blob's size in bytes.
    pub bytes: u64,
    /// What it is said to be.
    pub media_type: String,
}

impl BlobRef {
    pub(crate) fn of(descriptor: &Descriptor) -> Result<Self, ImageError> {
        Ok(Self {
            digest: descriptor.digest().to_string().parse()?,
            bytes: descriptor.size(),
            media_type: descriptor.media_type().to_string(),
        })
    }

    /// Checks that `bytes` are what the descriptor promises.
    ///
    /// # Errors
    /// [`ImageError::SizeMismatch`], [`ImageError::DigestMismatch`].
    pub fn verify(&self, bytes: &[u8]) -> Result<(), ImageError> {
        let actual = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if actual != self.bytes {
            let name = self.digest.to_string();
            return Err(ImageError::SizeMismatch { name, expected: self.bytes, actual });
        }
        match Digest::of(bytes) {
            actual if actual == self.digest => Ok(()),
            actual => Err(ImageError::DigestMismatch { expected: self.digest, actual }),
        }
    }
}

/// An image's parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The configuration, whose digest is the image's id.
    pub config: BlobRef,
    /// Base layer first.
    pub layers: Vec<BlobRef>,
    /// Free text by key.
    pub annotations: BTreeMap<String, String>,
}

/// A manifest or an index: never both (GHSA-5j5w-g665-5m35, GHSA-qq97-vm5h-rrhg).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// What of it may run on this machine, best first.
    Index(Vec<BlobRef>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Manifest,
    Index,
}

impl Kind {
    fn of(media_type: &MediaType) -> Option<Self> {
        match media_type {
            MediaType::ImageManifest => Some(Self::Manifest),
            MediaType::ImageIndex => Some(Self::Index),
            MediaType::Other(other) if other == DOCKER_MANIFEST => Some(Self::Manifest),
            MediaType::Other(other) if other == DOCKER_INDEX => Some(Self::Index),
            _ => None,
        }
    }
}

impl Document {
    /// Reads a manifest or index that somebody said to be `media_type`.
    ///
    /// # Errors
    /// [`ImageError::MediaType`] for anything but an image, [`ImageError::AmbiguousManifest`] when
    /// the content contradicts `media_type` or could be read as the other kind,
    /// [`ImageError::Json`], [`ImageError::InvalidDigest`].
    pub fn parse(bytes: &[u8], media_type: &str) -> Result<Self, ImageError> {
        let said = MediaType::from(media_type);
        let unsupported = || ImageError::MediaType { media_type: media_type.to_owned() };
        let kind = Kind::of(&said).ok_or_else(unsupported)?;
        refuse_ambiguous(bytes, kind, Some(&said))?;
        match kind {
            Kind::Manifest => manifest(bytes).map(Self::Manifest),
            Kind::Index => {
                let index: ImageIndex = parse_json("index", bytes)?;
                Ok(Self::Index(candidates(&index)?))
            }
        }
    }

    /// Reads what a registry answered with the header `Content-Type: <content_type>`.
    ///
    /// Some registries answer with a general type; then the document's own type counts.
    ///
    /// # Errors
    /// As [`Document::parse`].
    pub fn parse_answer(bytes: &[u8], content_type: Option<&str>) -> Result<Self, ImageError> {
        let said = content_type.map(|text| text.split(';').next().unwrap_or_default().trim());
        if let Some(said) = said.filter(|said| Kind::of(&MediaType::from(*said)).is_some()) {
            return Self::parse(bytes, said);
        }
        let document: Value = parse_json("manifest", bytes)?;
        let own = document.get("mediaType").and_then(Value::as_str);
        let said = said.unwrap_or_default().to_owned();
        Self::parse(bytes, own.ok_or(ImageError::MediaType { media_type: said })?)
    }
}

/// Reads the `index.json` of an OCI layout, whose type nobody says.
pub(crate) fn parse_layout_index(document: &str, bytes: &[u8]) -> Result<ImageIndex, ImageError> {
    refuse_ambiguous(bytes, Kind::Index, None)?;
    parse_json(document, bytes)
}

/// Refuses a document that another reader could take for the other kind.
fn refuse_ambiguous(bytes: &[u8], kind: Kind, said: Option<&MediaType>) -> Result<(), ImageError> {
    let document: Value = parse_json("manifest or index", bytes)?;
    let has = |key| document.get(key).is_some();
    let foreign = match kind {
        Kind::Manifest => has("manifests"),
        Kind::Index => has("layers") || has("config") || has("fsLayers"),
    };
    let contradicts = document.get("mediaType").is_some_and(|own| {
        let own = own.as_str().map(MediaType::from);
        match said {
            Some(said) => own.as_ref() != Some(said),
            None => own.as_ref().and_then(Kind::of) != Some(kind),
        }
    });
    let version = document.get("schemaVersion").and_then(Value::as_u64);
    if foreign || contradicts || version != Some(2) {
        return Err(ImageError::AmbiguousManifest { digest: Digest::of(bytes) });
    }
    Ok(())
}

fn candidates(index: &ImageIndex) -> Result<Vec<BlobRef>, ImageError> {
    let ranked = index.manifests().iter().filter_map(|one| Some((platform::rank(one)?, one)));
    let mut ranked: Vec<_> = ranked.collect();
    // Of two that suit alike the first is meant.
    ranked.sort_by_key(|(rank, _)| Reverse(*rank));
    ranked.into_iter().map(|(_, descriptor)| BlobRef::of(descriptor)).collect()
}

fn manifest(bytes: &[u8]) -> Result<Manifest, ImageError> {
    let manifest: ImageManifest = parse_json("manifest", bytes)?;
    let config_type = manifest.config().media_type();
    if !is_image_config(config_type) {
        return Err(ImageError::MediaType { media_type: config_type.to_string() });
    }
    let foreign = manifest.layers().iter().find(|layer| !is_layer(layer.media_type()));
    if let Some(layer) = foreign {
        return Err(ImageError::MediaType { media_type: layer.media_type().to_string() });
    }
    Ok(Manifest {
        config: BlobRef::of(manifest.config())?,
        layers: manifest.layers().iter().map(BlobRef::of).collect::<Result<_, _>>()?,
        annotations: annotations(&manifest),
    })
}

/// The annotations, unless they are so many that lists of images would become too large to send.
fn annotations(manifest: &ImageManifest) -> BTreeMap<String, String> {
    let all = BTreeMap::from_iter(manifest.annotations().clone().unwrap_or_default());
    let bytes: usize = all.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes <= MAX_ANNOTATION_BYTES { all } else { BTreeMap::new() }
}

fn is_image_config(media_type: &MediaType) -> bool {
    match media_type {
        MediaType::ImageConfig => true,
        MediaType::Other(other) => other == DOCKER_CONFIG,
        _ => false,
    }
}

fn is_layer(media_type: &MediaType) -> bool {
    match media_type {
        MediaType::ImageLayer
        | MediaType::ImageLayerGzip
        | MediaType::ImageLayerZstd
        | MediaType::ImageLayerNonDistributable
        | MediaType::ImageLayerNonDistributableGzip
        | MediaType::ImageLayerNonDistributableZstd => true,
        MediaType::Other(other) => DOCKER_LAYERS.contains(&other.as_str()),
        _ => false,
    }
}

/// The documents of an image, and what they say about its layers; verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    pub(crate) id: Digest,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Option<Vec<u8>>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) diff_ids: Vec<Digest>,
}

impl Documents {
    /// Takes the configuration of an image with `layers` layers, and its manifest's bytes if it
    /// has one.
    ///
    /// # Errors
    /// [`ImageError::Platform`] when the image is for other machines, [`ImageError::Json`] and
    /// [`ImageError::Config`] for a configuration that is refused, [`ImageError::LayerCount`],
    /// [`ImageError::TooManyLayers`].
    pub fn new(
        config: Vec<u8>,
        layers: usize,
        manifest: Option<(Vec<u8>, BTreeMap<String, String>)>,
    ) -> Result<Self, ImageError> {
        let id = Digest::of(&config);
        let parsed: ImageConfiguration = parse_json(&id.to_string(), &config)?;
        if !platform::runs_here(&parsed) {
            return Err(ImageError::no_platform());
        }
        ImageConfig::from_oci(&parsed)?;
        let diff_ids = parsed.rootfs().diff_ids().iter().map(|text| text.parse());
        let diff_ids: Vec<Digest> = diff_ids.collect::<Result<_, _>>()?;
        if layers != diff_ids.len() {
            return Err(ImageError::LayerCount { layers, diff_ids: diff_ids.len() });
        }
        if layers > MAX_LAYERS {
            return Err(ImageError::TooManyLayers { layers, limit: MAX_LAYERS });
        }
        let (manifest, annotations) = manifest.unzip();
        let annotations = annotations.unwrap_or_default();
        Ok(Self { id, config, manifest, annotations, diff_ids })
    }

    /// The image's id.
    #[must_use]
    pub fn id(&self) -> Digest {
        self.id
    }

    /// The unpacked layers, base layer first.
    #[must_use]
    pub fn diff_ids(&self) -> &[Digest] {
        &self.diff_ids
    }
}

pub(crate) fn parse_json<T: serde::de::DeserializeOwned>(
    document: &str,
    bytes: &[u8],
) -> Result<T, ImageError> {
    serde_json::from_slice(bytes)
        .map_err(|source| ImageError::Json { document: document.to_owned(), source })
}
