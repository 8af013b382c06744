//! Builds OCI layouts and docker-archives, and a store beside files that must not change.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use image::Digest;
use image::{ImportOptions, InProcess, Limits, Ownership, Store, UnpackOptions};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::hostile;
pub(crate) use testkit::hostile::archive::{Archive as Layer, DIR, FILE, Fields};

/// Whether this process can give files to the ids that containers have.
pub(crate) fn owns_ids() -> bool {
    let maps = fs::read_to_string("/proc/self/uid_map").unwrap();
    let lengths =
        maps.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
    nix::unistd::geteuid().is_root() && lengths.sum::<u64>() >= 65_536
}

pub(crate) fn ownership() -> Ownership {
    if owns_ids() { Ownership::Preserve } else { Ownership::Squash }
}

pub(crate) fn arch() -> String {
    oci_spec::image::Arch::default().to_string()
}

#[derive(Clone, Copy)]
pub(crate) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

pub(crate) fn compress(bytes: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::Plain => bytes.to_vec(),
        Compression::Gzip => hostile::gzip(bytes),
        Compression::Zstd => hostile::zstd(bytes),
    }
}

/// An OCI layout in a directory.
pub(crate) struct Layout {
    dir: TempDir,
    manifests: Vec<Value>,
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len() })
}

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The media type says gzip whatever the blob is: it must not matter.
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

pub(crate) fn config_of(arch: &str, diff_ids: &[Digest], config: &Value) -> Value {
    json!({
        "created": "2026-01-02T03:04:05Z", "architecture": arch, "os": "linux", "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
}

impl Layout {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
        fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { dir, manifests: Vec::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn blob_path(&self, digest: Digest) -> PathBuf {
        self.path().join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        fs::write(self.blob_path(Digest::of(bytes)), bytes).unwrap();
        descriptor(media_type, bytes)
    }

    pub(crate) fn json_blob(&self, media_type: &str, document: &Value) -> Value {
        self.blob(media_type, &serde_json::to_vec(document).unwrap())
    }

    /// Writes config, layers and manifest; returns the manifest's descriptor.
    pub(crate) fn image_blobs(
        &self,
        arch: &str,
        layers: &[(Vec<u8>, Compression)],
        config: &Value,
    ) -> Value {
        let diff_ids: Vec<_> = layers.iter().map(|(archive, _)| Digest::of(archive)).collect();
        let config = self.json_blob(CONFIG, &config_of(arch, &diff_ids, config));
        let layers: Vec<_> =
            layers.iter().map(|(tar, how)| self.blob(LAYER, &compress(tar, *how))).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
            "annotations": { "made": "here" },
        });
        self.json_blob(MANIFEST, &manifest)
    }

    /// Adds a descriptor to `index.json`, named with an annotation.
    pub(crate) fn add(&mut self, mut descriptor: Value, name: Option<&str>) {
        if let Some(name) = name {
            descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        }
        self.manifests.push(descriptor);
        self.write_index(&json!({ "schemaVersion": 2, "manifests": self.manifests }));
    }

    pub(crate) fn write_index(&self, index: &Value) {
        fs::write(self.path().join("index.json"), serde_json::to_vec(index).unwrap()).unwrap();
    }

    pub(crate) fn image(name: &str, layers: &[(Vec<u8>, Compression)]) -> Self {
        let mut layout = Self::new();
        let manifest = layout.image_blobs(&arch(), layers, &json!({ "Cmd": ["/bin/sh"] }));
        layout.add(manifest, Some(name));
        layout
    }

    /// The layout as one tar archive.
    pub(crate) fn archive(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_dir_all(".", self.path()).unwrap();
        builder.into_inner().unwrap()
    }
}

/// A directory with a store in it and a place for files.
pub(crate) struct Place {
    pub(crate) dir: TempDir,
    pub(crate) store: Store,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let store = open(&dir.path().join("store"));
        Self { dir, store }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub(crate) fn reopen(&self) -> Store {
        open(&self.root())
    }

    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        File::create(&path).unwrap().write_all(bytes).unwrap();
        path
    }

    pub(crate) fn import(&self, path: &Path) -> Result<Vec<image::Image>, image::ImageError> {
        self.store.import(path, &ImportOptions::default())
    }

    /// Names in `layers/`, temporary ones included.
    pub(crate) fn layer_names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root().join("layers")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

/// The error and its causes, joined.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Opens the store that is at `root` or will be.
fn open(root: &Path) -> Store {
    let unpack = UnpackOptions { ownership: ownership(), limits: Limits::default() };
    Store::open(root, unpack, Arc::new(InProcess)).unwrap()
}
