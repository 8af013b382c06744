//! Exporting an image to a file that others can read.
//!
//! The archive is an OCI layout and, with `manifest.json`, also what `docker save` writes. Layers
//! are made again byte by byte of their trees and transcripts, so the image keeps its id. They are
//! not compressed: then a layer's digest is its diff id and its length is known beforehand, so
//! nothing has to be stored on the way, and the output may be a pipe.
//!
//! The manifest is a new one, because the compressed blobs that the old one names are gone. It
//! keeps the annotations; names by digest cannot be kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use serde_json::{Value, json};
use sys::beneath::{self, Resolve};
use tar::Header;

use super::directory::Directory;
use super::stage::TRANSCRIPT;
use super::{Image, LAYER_FS, Store};
use crate::digest::{Digest, Hashing};
use crate::error::ImageError;
use crate::reference::{Reference, Selector};
use crate::tar_reader::printable;
use crate::transcript::{Plan, ReplayError, replay};

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
const BLOCK_BYTES: u64 = 512;

impl Store {
    /// Writes `image` as one tar archive that [`Store::import`], containerd, Docker and skopeo
    /// read, named with the tags among `references`; returns the digest of its manifest.
    ///
    /// The image id and the diff ids stay what they are and are verified. After an error the
    /// output is incomplete: whoever writes to a file gives it its name afterwards.
    ///
    /// Source: OCI image specification, "Image Layout".
    ///
    /// # Errors
    /// [`ImageError::NoTranscript`] for a layer that was unpacked without one,
    /// [`ImageError::Transcript`] for a damaged one,
    /// [`ImageError::ContentLost`] when a layer has too much content that it replaces itself,
    /// [`ImageError::LayerChanged`] and [`ImageError::DiffIdMismatch`] when a layer's files are not
    /// what was unpacked, [`ImageError::Beneath`] when they may not be read: that takes the ids of
    /// containers, [`ImageError::Missing`] when the image is removed meanwhile,
    /// [`ImageError::Io`] when the output cannot be written.
    pub fn export(
        &self,
        image: &Image,
        references: &[Reference],
        out: impl Write,
    ) -> Result<Digest, ImageError> {
        let _reservation = self.reserve(&image.diff_ids);
        let missing = || ImageError::Missing { name: image.id.to_string() };
        let config = self.document(&image.id).ok_or_else(missing)?;
        match Digest::of(&config) {
            actual if actual == image.id => {}
            actual => return Err(ImageError::DigestMismatch { expected: image.id, actual }),
        }
        let layers = self.exported_layers(image)?;
        let manifest = manifest(image, &config, &layers).to_string();
        let tags = references.iter().filter(|name| matches!(name.selector(), Selector::Tag(_)));
        let tags: Vec<_> = tags.collect();
        let mut archive = Archive { out };
        archive
            .file("oci-layout", json!({ "imageLayoutVersion": "1.0.0" }).to_string().as_bytes())?;
        archive.file("index.json", index(manifest.as_bytes(), &tags).to_string().as_bytes())?;
        archive.file("manifest.json", docker_manifest(image, &tags).to_string().as_bytes())?;
        archive.file(&blob_name(&Digest::of(manifest.as_bytes())), manifest.as_bytes())?;
        archive.file(&blob_name(&image.id), &config)?;
        let mut written = BTreeSet::new();
        for layer in layers {
            if written.insert(layer.diff_id) {
                archive.layer(layer)?;
            }
        }
        archive.end()?;
        Ok(Digest::of(manifest.as_bytes()))
    }

    /// Opens the layers and finds out how long their archives are.
    fn exported_layers(&self, image: &Image) -> Result<Vec<ExportedLayer>, ImageError> {
        image.diff_ids.iter().map(|diff_id| ExportedLayer::open(&self.layers, *diff_id)).collect()
    }
}

/// A layer, ready to be made an archive again.
struct ExportedLayer {
    diff_id: Digest,
    directory: Directory,
    plan: Plan,
}

impl ExportedLayer {
    fn open(layers: &Directory, diff_id: Digest) -> Result<Self, ImageError> {
        let directory = layers.existing(&diff_id.directory_name())?;
        let plan = Plan::of(transcript(&directory, diff_id)?).map_err(|e| explain(e, diff_id))?;
        Ok(Self { diff_id, directory, plan })
    }

    fn bytes(&self) -> u64 {
        self.plan.archive_bytes
    }

    /// Writes the layer's archive.
    fn write(self, out: &mut dyn Write) -> Result<(), ImageError> {
        let Self { diff_id, directory, plan } = self;
        let root = directory.existing(LAYER_FS)?;
        let transcript = transcript(&directory, diff_id)?;
        let mut out = Hashing::new(out);
        replay(plan, transcript, root.fd(), &mut out).map_err(|e| explain(e, diff_id))?;
        match out.finish() {
            (actual, ..) if actual == diff_id => Ok(()),
            (actual, ..) => Err(ImageError::DiffIdMismatch { expected: diff_id, actual }),
        }
    }
}

fn transcript(layer: &Directory, diff_id: Digest) -> Result<File, ImageError> {
    let absent = || ImageError::NoTranscript { diff_id };
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
    let fd =
        beneath::open(layer.fd(), Path::new(TRANSCRIPT), Resolve::NoSymlinks, flags, Mode::empty());
    let file = File::from(fd.or(Err(absent()))?);
    match file.metadata() {
        Ok(metadata) if metadata.len() > 0 => Ok(file),
        _ => Err(absent()),
    }
}

fn explain(error: ReplayError, diff_id: Digest) -> ImageError {
    match error {
        ReplayError::Transcript(source) => ImageError::Transcript { diff_id, source },
        ReplayError::Lost(path) => ImageError::ContentLost { diff_id, path: printable(&path) },
        ReplayError::Changed(path) => ImageError::LayerChanged { diff_id, path: printable(&path) },
        ReplayError::Open(error) => error.into(),
        ReplayError::Write(source) => written(source),
    }
}

fn written(source: io::Error) -> ImageError {
    ImageError::Io { operation: "write", path: "exported image".into(), source }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn descriptor(media_type: &str, digest: &Digest, bytes: u64) -> Value {
    json!({ "mediaType": media_type, "digest": digest, "size": bytes })
}

fn manifest(image: &Image, config: &[u8], layers: &[ExportedLayer]) -> Value {
    let layers = layers.iter().map(|layer| descriptor(LAYER_TYPE, &layer.diff_id, layer.bytes()));
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor(CONFIG_TYPE, &image.id, length(config)),
        "layers": layers.collect::<Vec<_>>(),
    });
    if !image.annotations.is_empty() {
        manifest["annotations"] = json!(image.annotations);
    }
    manifest
}

/// One descriptor for each name, or one without a name.
fn index(manifest: &[u8], tags: &[&Reference]) -> Value {
    let descriptor = descriptor(MANIFEST_TYPE, &Digest::of(manifest), length(manifest));
    let named = |tag: &&Reference| {
        let mut named = descriptor.clone();
        named["annotations"] = json!(BTreeMap::from([
            ("io.containerd.image.name", tag.to_string()),
            ("org.opencontainers.image.ref.name", tag_of(tag)),
        ]));
        named
    };
    let mut manifests: Vec<_> = tags.iter().map(named).collect();
    if manifests.is_empty() {
        manifests.push(descriptor.clone());
    }
    json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests })
}

/// What readers of `docker save` archives look for.
fn docker_manifest(image: &Image, tags: &[&Reference]) -> Value {
    let tags: Vec<_> = tags.iter().map(ToString::to_string).collect();
    let layers: Vec<_> = image.diff_ids.iter().map(blob_name).collect();
    json!([{ "Config": blob_name(&image.id), "RepoTags": tags, "Layers": layers }])
}

fn tag_of(reference: &Reference) -> String {
    match reference.selector() {
        Selector::Tag(tag) => tag.clone(),
        Selector::Digest(digest) => digest.to_string(),
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// A tar archive being written.
struct Archive<W> {
    out: W,
}

impl<W: Write> Archive<W> {
    fn file(&mut self, name: &str, content: &[u8]) -> Result<(), ImageError> {
        self.header(name, length(content))?;
        self.out.write_all(content).map_err(written)?;
        self.pad(length(content))
    }

    fn layer(&mut self, layer: ExportedLayer) -> Result<(), ImageError> {
        let bytes = layer.bytes();
        self.header(&blob_name(&layer.diff_id), bytes)?;
        layer.write(&mut self.out)?;
        self.pad(bytes)
    }

    /// The same for the same image whenever it is exported: without times and owners.
    fn header(&mut self, name: &str, bytes: u64) -> Result<(), ImageError> {
        let mut header = Header::new_gnu();
        header.set_path(name).map_err(written)?;
        header.set_size(bytes);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.out.write_all(header.as_bytes()).map_err(written)
    }

    fn pad(&mut self, bytes: u64) -> Result<(), ImageError> {
        let padding = usize::try_from(bytes.next_multiple_of(BLOCK_BYTES) - bytes).unwrap_or(0);
        self.out.write_all(&[0; 512][..padding]).map_err(written)
    }

    fn end(mut self) -> Result<(), ImageError> {
        self.out.write_all(&[0; 1024]).and_then(|()| self.out.flush()).map_err(written)
    }
}
