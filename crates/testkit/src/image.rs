//! Images made on the spot from the distribution's static busybox.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
pub use tar::EntryType;
use tar::Header;

use crate::hostile::Hostile;

/// Where the package busybox-static puts it.
const BUSYBOX: &str = "/bin/busybox";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
                      app:x:1000:1000:app:/home/app:/bin/sh\n\
                      nobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\napp:x:1000:\nextra:x:2000:app\nnogroup:x:65534:\n";

/// How the layers are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compressed {
    /// Not at all.
    Plain,
    /// By gzip.
    Gzip,
    /// By zstd.
    Zstd,
}

/// One layer to be: entries of a tar archive.
pub struct Layer(tar::Builder<Vec<u8>>);

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Layer").field(&self.0.get_ref().len()).finish()
    }
}

impl Default for Layer {
    fn default() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }
}

impl Layer {
    /// Adds a regular file of root's.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(EntryType::Regular, path, mode, (0, 0), content, None)
    }

    /// Adds a directory of root's.
    #[must_use]
    pub fn directory(self, path: &str, mode: u32) -> Self {
        self.entry(EntryType::Directory, path, mode, (0, 0), &[], None)
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, 0o777, (0, 0), &[], Some(target))
    }

    /// Adds a hard link.
    #[must_use]
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Link, path, 0o777, (0, 0), &[], Some(target))
    }

    /// Adds any entry; `path` and `target` are written as they are, however malicious.
    #[must_use]
    pub fn entry(
        mut self,
        kind: EntryType,
        path: &str,
        mode: u32,
        (uid, gid): (u64, u64),
        content: &[u8],
        target: Option<&str>,
    ) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_size(u64::try_from(content.len()).expect("sizes fit"));
        let gnu = header.as_gnu_mut().expect("made as GNU");
        write_name(&mut gnu.name, path);
        write_name(&mut gnu.linkname, target.unwrap_or_default());
        header.set_cksum();
        self.0.append(&header, content).expect("write to memory");
        self
    }

    fn finish(self) -> Vec<u8> {
        self.0.into_inner().expect("write to memory")
    }
}

/// The tar crate refuses `..` and absolute paths, and tests need them.
fn write_name(field: &mut [u8], name: &str) {
    let target = field.get_mut(..name.len());
    target.expect("names in tests are short").copy_from_slice(name.as_bytes());
}

/// A layer's archive, and its blob if that is not to be made of it.
#[derive(Debug)]
struct LayerBytes {
    archive: Vec<u8>,
    blob: Option<Vec<u8>>,
}

/// An image to be.
#[derive(Debug)]
pub struct ImageBuilder {
    /// The object `config` of the image configuration, in its own spelling (`User`, `Entrypoint`, …).
    pub config: Value,
    layers: Vec<LayerBytes>,
    compressed: Compressed,
}

impl ImageBuilder {
    /// An image without files that runs nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self { config: json!({}), layers: Vec::new(), compressed: Compressed::Gzip }
    }

    /// Busybox with its applets, the users root and app (1000, also in group 2000), and a shell as entrypoint.
    #[must_use]
    pub fn busybox() -> Self {
        let program = fs::read(BUSYBOX)
            .unwrap_or_else(|error| panic!("{BUSYBOX} (package busybox-static): {error}"));
        let mut layer = Layer::default();
        for directory in ["bin", "dev", "etc", "home", "proc", "root", "sys", "usr", "var"] {
            layer = layer.directory(directory, 0o755);
        }
        layer = layer
            .directory("tmp", 0o1777)
            .entry(EntryType::Directory, "home/app", 0o755, (1000, 1000), &[], None)
            .file("bin/busybox", 0o755, &program)
            .file("etc/passwd", 0o644, PASSWD.as_bytes())
            .file("etc/group", 0o644, GROUP.as_bytes());
        for applet in applets().iter().filter(|applet| *applet != "busybox") {
            layer = layer.symlink(&format!("bin/{applet}"), "busybox");
        }
        Self::empty().layer(layer).with("Env", json!(["PATH=/bin"])).with("Cmd", json!(["sh"]))
    }

    /// Sets a field of the configuration.
    #[must_use]
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.config[field] = value;
        self
    }

    /// Adds a layer on top.
    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(LayerBytes { archive: layer.finish(), blob: None });
        self
    }

    /// Adds a hostile layer on top, byte by byte as it is.
    #[must_use]
    pub fn hostile(mut self, layer: &Hostile) -> Self {
        let (archive, blob) = (layer.archive.clone(), Some(layer.blob.clone()));
        self.layers.push(LayerBytes { archive, blob });
        self
    }

    /// How layers are packed; gzip by default.
    #[must_use]
    pub fn compressed(mut self, how: Compressed) -> Self {
        self.compressed = how;
        self
    }

    /// Writes an OCI layout below `directory` and returns the image id.
    ///
    /// Source: OCI image specification, image-layout.md.
    pub fn write_layout(&self, directory: &Path, reference: &str) -> String {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("make the layout");
        let layers: Vec<Value> =
            self.layers.iter().map(|layer| self.write_layer(&blobs, layer)).collect();
        let config = write_blob(&blobs, CONFIG_TYPE, &self.config_blob());
        let id = config["digest"].as_str().expect("a digest").to_owned();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers,
        });
        let mut manifest = write_blob(&blobs, MANIFEST_TYPE, manifest.to_string().as_bytes());
        manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": reference });
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        write(&directory.join("index.json"), index.to_string().as_bytes());
        write(&directory.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#);
        id
    }

    /// Writes the layout as one tar file and returns the image id.
    pub fn write_oci_archive(&self, file: &Path, reference: &str) -> String {
        let directory = tempfile::tempdir().expect("temporary directory");
        let id = self.write_layout(directory.path(), reference);
        let mut archive = tar::Builder::new(File::create(file).expect("create the archive"));
        archive.append_dir_all(".", directory.path()).expect("write the archive");
        archive.finish().expect("write the archive");
        id
    }

    /// Writes what `docker save` writes and returns the image id.
    pub fn write_docker_archive(&self, file: &Path, reference: &str) -> String {
        let config = self.config_blob();
        let digest = hex_digest(&config);
        let mut archive = tar::Builder::new(File::create(file).expect("create the archive"));
        let mut add = |name: &str, content: &[u8]| {
            let mut header = Header::new_gnu();
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(u64::try_from(content.len()).expect("sizes fit"));
            archive.append_data(&mut header, name, content).expect("write the archive");
        };
        let names: Vec<String> =
            (0..self.layers.len()).map(|index| format!("layer{index}/layer.tar")).collect();
        for (name, layer) in names.iter().zip(&self.layers) {
            add(name, layer.blob.as_ref().unwrap_or(&layer.archive));
        }
        add(&format!("{digest}.json"), &config);
        let manifest = json!([{
            "Config": format!("{digest}.json"), "RepoTags": [reference], "Layers": names,
        }]);
        add("manifest.json", manifest.to_string().as_bytes());
        archive.finish().expect("write the archive");
        format!("sha256:{digest}")
    }

    fn config_blob(&self) -> Vec<u8> {
        let diff_ids: Vec<String> = self
            .layers
            .iter()
            .map(|layer| format!("sha256:{}", hex_digest(&layer.archive)))
            .collect();
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = json!({
            "architecture": architecture, "os": "linux", "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        config.to_string().into_bytes()
    }

    fn write_layer(&self, blobs: &Path, layer: &LayerBytes) -> Value {
        let LayerBytes { archive: layer, blob } = layer;
        if let Some(blob) = blob {
            return write_blob(blobs, &format!("{LAYER_TYPE}+gzip"), blob);
        }
        match self.compressed {
            Compressed::Plain => write_blob(blobs, LAYER_TYPE, layer),
            Compressed::Gzip => {
                write_blob(blobs, &format!("{LAYER_TYPE}+gzip"), &gzip(layer).expect("to memory"))
            }
            Compressed::Zstd => {
                let packed = zstd::encode_all(layer.as_slice(), 1).expect("to memory");
                write_blob(blobs, &format!("{LAYER_TYPE}+zstd"), &packed)
            }
        }
    }
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// Stores `content` under its digest and returns its descriptor.
fn write_blob(blobs: &Path, media_type: &str, content: &[u8]) -> Value {
    let digest = hex_digest(content);
    write(&blobs.join(&digest), content);
    json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": content.len() })
}

fn write(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
}

fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn applets() -> Vec<String> {
    let output = Command::new(BUSYBOX).arg("--list").output().expect("run busybox");
    let names = String::from_utf8(output.stdout).expect("names of applets");
    names.lines().map(str::to_owned).collect()
}

/// Where the program comes from, for messages.
#[must_use]
pub fn busybox_path() -> PathBuf {
    PathBuf::from(BUSYBOX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_says_the_truth_about_its_blobs() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let layer = Layer::default().file("a", 0o644, b"text").symlink("b", "/../a");
        let id = ImageBuilder::empty().layer(layer).write_layout(directory.path(), "x:1");
        let blobs = fs::read_dir(directory.path().join("blobs/sha256")).expect("blobs");
        let mut names = Vec::new();
        for blob in blobs {
            let blob = blob.expect("readable");
            let name = blob.file_name().into_string().expect("hexadecimal");
            assert_eq!(hex_digest(&fs::read(blob.path()).expect("readable")), name);
            names.push(format!("sha256:{name}"));
        }
        assert_eq!(names.len(), 3, "layer, config and manifest");
        assert!(names.contains(&id));
    }

    #[test]
    fn malicious_names_arrive_unchanged() {
        let bytes = Layer::default().file("../../x", 0o644, b"").finish();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entry = archive.entries().expect("entries").next().expect("one").expect("readable");
        assert_eq!(&*entry.path_bytes(), b"../../x");
    }
}
