//! Builds layers, OCI layouts and docker-archives, byte by byte where the test needs it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{Digest, ImportOptions, InProcess, Limits, Ownership, Store, UnpackOptions};
use serde_json::{Value, json};
use tempfile::TempDir;

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
        Compression::Gzip => {
            let level = flate2::Compression::best();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => zstd::stream::encode_all(bytes, 3).unwrap(),
    }
}

/// A tar archive that takes any name and any header.
#[derive(Default, Clone)]
pub(crate) struct Layer {
    bytes: Vec<u8>,
}

/// A header's fields; tests change what they are about.
#[derive(Clone, Copy)]
pub(crate) struct Fields {
    pub(crate) kind: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: u64,
    /// Overrides the size of the content.
    pub(crate) size: Option<u64>,
}

pub(crate) const FILE: Fields =
    Fields { kind: b'0', mode: 0o644, uid: 0, gid: 0, mtime: 1_000, size: None };
pub(crate) const DIR: Fields = Fields { kind: b'5', mode: 0o755, ..FILE };

impl Layer {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn entry(mut self, fields: Fields, name: &str, link: &str, content: &[u8]) -> Self {
        let length = u64::try_from(content.len()).unwrap();
        let mut header = tar::Header::new_ustar();
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        old.linkflag = [fields.kind];
        header.set_mode(fields.mode);
        header.set_uid(fields.uid);
        header.set_gid(fields.gid);
        header.set_mtime(fields.mtime);
        header.set_size(fields.size.unwrap_or(length));
        header.set_cksum();
        self.bytes.extend(header.as_bytes());
        self.bytes.extend(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        self.entry(FILE, name, "", content.as_bytes())
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.entry(DIR, name, "", b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(Fields { kind: b'2', ..FILE }, name, target, b"")
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(Fields { kind: b'1', ..FILE }, name, target, b"")
    }

    /// PAX records for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let content: Vec<u8> = records.iter().flat_map(|(k, v)| pax_record(k, v)).collect();
        self.entry(Fields { kind: b'x', ..FILE }, "pax", "", &content)
    }

    /// A GNU long name for the next entry.
    pub(crate) fn long_name(self, name: &str) -> Self {
        let content = [name.as_bytes(), b"\0"].concat();
        self.entry(Fields { kind: b'L', ..FILE }, "././@LongLink", "", &content)
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    /// The archive without its end.
    pub(crate) fn unfinished(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn build(mut self) -> Vec<u8> {
        self.bytes.extend([0; 1024]);
        self.bytes
    }
}

fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let mut length = body.len() + 1;
    while length.to_string().len() + body.len() != length {
        length += 1;
    }
    [length.to_string().as_bytes(), &body].concat()
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
