//! The OCI image layout: `index.json` leads to manifests, all of them blobs named by digest.
//!
//! Source: OCI image specification, "Image Layout", "Image Index", "Image Manifest".

use std::collections::BTreeMap;

use oci_spec::image::{
    Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, OciLayout, Os,
};
use serde_json::Value;

use super::{
    FoundImage, LayerBlob, MAX_DOCUMENT_BYTES, blob_path, no_platform, parse_json, runs_here,
};
use crate::archive::Archive;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::reference::{Reference, Selector};

const INDEX: &str = "index.json";
const LAYOUT_VERSION_PREFIX: &str = "1.";
/// `index.json`, an index for several platforms, and one more level that some builders add.
const MAX_INDEX_DEPTH: usize = 3;
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYERS: [&str; 4] = [
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];
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
    refuse_ambiguous(&bytes, Kind::Index, None)?;
    let index: ImageIndex = parse_json(INDEX, &bytes)?;
    let mut images: Vec<FoundImage> = Vec::new();
    for descriptor in index.manifests() {
        let Some(mut image) = resolve(archive, descriptor, 1)? else { continue };
        image.tags.extend(name_of(descriptor)?);
        // One image under several names is one descriptor each.
        match images.iter_mut().find(|known| known.manifest_digests == image.manifest_digests) {
            Some(known) => known.tags.extend(image.tags),
            None => images.push(image),
        }
    }
    if images.is_empty() { Err(no_platform()) } else { Ok(images) }
}

/// A manifest or an index: never both (GHSA-5j5w-g665-5m35, GHSA-qq97-vm5h-rrhg).
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

/// Follows a descriptor to the image for this machine; `None` when there is none behind it.
fn resolve(
    archive: &Archive,
    descriptor: &Descriptor,
    depth: usize,
) -> Result<Option<FoundImage>, ImageError> {
    let media_type = descriptor.media_type();
    let Some(kind) = Kind::of(media_type) else {
        return Err(ImageError::MediaType { media_type: media_type.to_string() });
    };
    let (digest, bytes) = blob(archive, descriptor)?;
    refuse_ambiguous(&bytes, kind, Some((digest, media_type)))?;
    match kind {
        Kind::Manifest => manifest(archive, digest, bytes),
        Kind::Index if depth >= MAX_INDEX_DEPTH => {
            Err(ImageError::MalformedSource { name: digest.to_string() })
        }
        Kind::Index => {
            let index: ImageIndex = parse_json(&digest.to_string(), &bytes)?;
            for candidate in index.manifests().iter().filter(|one| may_run_here(one)) {
                if let Some(mut image) = resolve(archive, candidate, depth + 1)? {
                    // A registry knows the whole by the index, so that comes first.
                    image.manifest_digests.insert(0, digest);
                    return Ok(Some(image));
                }
            }
            Ok(None)
        }
    }
}

/// Whether a descriptor's platform, if it names one, is this machine's.
///
/// Attestations have the platform `unknown/unknown` and fall out here.
fn may_run_here(descriptor: &Descriptor) -> bool {
    descriptor.platform().as_ref().is_none_or(|platform| {
        *platform.os() == Os::Linux && *platform.architecture() == Arch::default()
    })
}

/// Reads a document blob and verifies size and digest.
fn blob(archive: &Archive, descriptor: &Descriptor) -> Result<(Digest, Vec<u8>), ImageError> {
    let expected: Digest = descriptor.digest().to_string().parse()?;
    let path = blob_path(&expected);
    let bytes = archive.document(&path, MAX_DOCUMENT_BYTES)?;
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if size != descriptor.size() {
        let name = expected.to_string();
        return Err(ImageError::SizeMismatch { name, expected: descriptor.size(), actual: size });
    }
    let actual = Digest::of(&bytes);
    if actual != expected {
        return Err(ImageError::DigestMismatch { expected, actual });
    }
    Ok((expected, bytes))
}

/// Refuses a document that another reader could take for the other kind.
fn refuse_ambiguous(
    bytes: &[u8],
    kind: Kind,
    descriptor: Option<(Digest, &MediaType)>,
) -> Result<(), ImageError> {
    let digest = descriptor.map_or_else(|| Digest::of(bytes), |(digest, _)| digest);
    let document: Value = parse_json(&digest.to_string(), bytes)?;
    let has = |key| document.get(key).is_some();
    let foreign = match kind {
        Kind::Manifest => has("manifests"),
        Kind::Index => has("layers") || has("config") || has("fsLayers"),
    };
    let contradicts = document.get("mediaType").is_some_and(|own| {
        let own = own.as_str().map(MediaType::from);
        match descriptor {
            Some((_, said)) => own.as_ref() != Some(said),
            None => own.as_ref().and_then(Kind::of) != Some(kind),
        }
    });
    let version = document.get("schemaVersion").and_then(Value::as_u64);
    if foreign || contradicts || version != Some(2) {
        return Err(ImageError::AmbiguousManifest { digest });
    }
    Ok(())
}

fn manifest(
    archive: &Archive,
    digest: Digest,
    bytes: Vec<u8>,
) -> Result<Option<FoundImage>, ImageError> {
    let manifest: ImageManifest = parse_json(&digest.to_string(), &bytes)?;
    let config_type = manifest.config().media_type();
    if !is_image_config(config_type) {
        return Err(ImageError::MediaType { media_type: config_type.to_string() });
    }
    let (config_digest, config) = blob(archive, manifest.config())?;
    let parsed: ImageConfiguration = parse_json(&config_digest.to_string(), &config)?;
    if !runs_here(&parsed) {
        return Ok(None);
    }
    let layers = manifest.layers().iter().map(layer).collect::<Result<_, _>>()?;
    Ok(Some(FoundImage {
        tags: Vec::new(),
        manifest_digests: vec![digest],
        manifest: Some(bytes),
        config,
        annotations: BTreeMap::from_iter(manifest.annotations().clone().unwrap_or_default()),
        layers,
    }))
}

fn is_image_config(media_type: &MediaType) -> bool {
    match media_type {
        MediaType::ImageConfig => true,
        MediaType::Other(other) => other == DOCKER_CONFIG,
        _ => false,
    }
}

fn layer(descriptor: &Descriptor) -> Result<LayerBlob, ImageError> {
    let known = match descriptor.media_type() {
        MediaType::ImageLayer
        | MediaType::ImageLayerGzip
        | MediaType::ImageLayerZstd
        | MediaType::ImageLayerNonDistributable
        | MediaType::ImageLayerNonDistributableGzip
        | MediaType::ImageLayerNonDistributableZstd => true,
        MediaType::Other(other) => DOCKER_LAYERS.contains(&other.as_str()),
        _ => false,
    };
    if !known {
        return Err(ImageError::MediaType { media_type: descriptor.media_type().to_string() });
    }
    let digest: Digest = descriptor.digest().to_string().parse()?;
    Ok(LayerBlob { path: blob_path(&digest), digest: Some(digest), bytes: descriptor.size() })
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
