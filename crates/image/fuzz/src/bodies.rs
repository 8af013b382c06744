//! What the fuzz targets do with their input, and what has to hold then. They panic when it does
//! not, and say whether the input was accepted.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use image::{Document, Limits, Ownership, Reference, UnpackOptions, unpack_layer};
use tempfile::TempDir;
use testkit::hostile;
use testkit::hostile::archive::{Archive, FILE, Fields};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// A reference that is accepted has one spelling, and no part of it is a path.
pub(crate) fn reference(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok(reference) = text.parse::<Reference>() else { return false };
    let full = reference.to_string();
    assert_eq!(full.parse::<Reference>().ok().as_ref(), Some(&reference), "{text:?}");
    assert!(full.bytes().all(|byte| byte.is_ascii_graphic()), "{text:?}");
    assert!(full.split('/').all(|part| !matches!(part, "" | "." | "..")), "{text:?}");
    true
}

/// No document is a manifest for one reader and an index for another, whatever the registry says.
pub(crate) fn document(data: &[u8]) -> bool {
    let parse = |media_type| Document::parse(data, media_type).ok();
    let mut kinds = Vec::new();
    for media_type in [MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_INDEX] {
        kinds.extend(parse(media_type).map(|document| matches!(document, Document::Index(_))));
    }
    for content_type in [None, Some(""), Some("application/json"), Some(INDEX), Some(MANIFEST)] {
        let answer = Document::parse_answer(data, content_type).ok();
        kinds.extend(answer.map(|document| matches!(document, Document::Index(_))));
    }
    assert!(kinds.windows(2).all(|pair| pair[0] == pair[1]), "manifest and index");
    !kinds.is_empty()
}

/// A directory to unpack in, and files beside it that nothing may change.
#[derive(Debug)]
pub(crate) struct Arena {
    dir: TempDir,
    before: Vec<(PathBuf, [i64; 6])>,
}

impl Arena {
    pub(crate) fn new() -> Self {
        let dir = match TempDir::new_in("/dev/shm") {
            Ok(dir) => dir,
            Err(_) => TempDir::new().unwrap(),
        };
        fs::create_dir_all(dir.path().join("outside/sub")).unwrap();
        fs::write(dir.path().join("outside/victim"), "secret").unwrap();
        let before = witness(&dir.path().join("outside"));
        Self { dir, before }
    }

    /// Unpacks a layer into an empty directory, and says whether it was accepted.
    fn unpack(&self, blob: &[u8]) -> bool {
        let parent = File::open(self.dir.path()).unwrap();
        let inside = self.dir.path().join("inside");
        fs::create_dir(&inside).unwrap();
        let limits = Limits {
            bytes: 8 << 20,
            ratio: 100,
            ratio_free_bytes: 4 << 20,
            entries: 200,
            header_bytes: 64 << 10,
            ..Limits::default()
        };
        let options = UnpackOptions { ownership: Ownership::Squash, limits };
        let target = File::open(&inside).unwrap();
        let accepted = unpack_layer(blob, target, &options).is_ok();
        sys::beneath::remove_tree(&parent, "inside".as_ref()).unwrap();
        assert_eq!(witness(&self.dir.path().join("outside")), self.before);
        let beside = fs::read_dir(self.dir.path()).unwrap().count();
        assert_eq!(beside, 1, "something is beside the layer");
        accepted
    }
}

/// Everything below `path` with what tells a change.
fn witness(path: &Path) -> Vec<(PathBuf, [i64; 6])> {
    let mut found = Vec::new();
    let mut pending = vec![path.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            pending.extend(entries.map(|entry| entry.unwrap().path()));
        }
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let times = [metadata.ctime(), metadata.ctime_nsec()];
        let numbers = [metadata.mode().into(), number(metadata.nlink()), number(metadata.size())];
        let [mode, links, size] = numbers;
        found.push((path, [mode, links, size, metadata.uid().into(), times[0], times[1]]));
    }
    found.sort();
    found
}

/// An archive whose checksums are made right, so that changed headers are looked at.
pub(crate) fn headers(arena: &Arena, data: &[u8]) -> bool {
    const BLOCK: usize = 512;
    let mut archive = data.to_vec();
    archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    let mut at = 0;
    while at < archive.len() && archive[at..at + BLOCK] != [0; BLOCK] {
        let header = &mut archive[at..at + BLOCK];
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let size = std::str::from_utf8(&header[124..135]).unwrap_or_default();
        let size = usize::from_str_radix(size.trim(), 8).unwrap_or(0);
        at = at.saturating_add(BLOCK).saturating_add(size.min(1 << 20).next_multiple_of(BLOCK));
    }
    arena.unpack(&archive)
}

/// Entries of any name and target; each line is a kind, a name and, behind NUL, a target.
pub(crate) fn names(arena: &Arena, data: &[u8]) -> bool {
    const KINDS: [u8; 8] = *b"01256053";
    let mut archive = Archive::new();
    for line in data.split(|byte| *byte == b'\n').take(100) {
        let Some((kind, rest)) = line.split_first() else { continue };
        let mut parts = rest.splitn(2, |byte| *byte == 0);
        let (name, target) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let kind = KINDS[usize::from(*kind) % KINDS.len()];
        let mut records: Vec<(&str, &[u8])> = Vec::new();
        records.extend((!name.is_empty()).then_some(("path", name)));
        records.extend((!target.is_empty()).then_some(("linkpath", target)));
        archive = archive.pax(&records).entry(Fields { kind, ..FILE }, "f", "f", b"");
    }
    arena.unpack(&archive.build())
}

/// A layer as a registry offers it, compressed or not.
pub(crate) fn layer(arena: &Arena, data: &[u8]) -> bool {
    arena.unpack(data)
}

/// What each target begins with.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let layers = hostile::layers(Path::new("/outside"));
    // Long ones take long and lead to nothing new.
    let small = |bytes: &&Vec<u8>| bytes.len() <= 16 << 10;
    let archives: Vec<_> = layers.iter().map(|layer| &layer.archive).filter(small).collect();
    let blobs = layers.iter().map(|layer| &layer.blob).filter(small);
    let packed = archives.iter().flat_map(|tar| [hostile::gzip(tar), hostile::zstd(tar)]);
    vec![
        ("reference", texts(REFERENCES)),
        ("document", texts(DOCUMENTS)),
        ("headers", archives.iter().map(|archive| archive.to_vec()).collect()),
        ("names", texts(NAMES)),
        ("layer", blobs.cloned().chain(packed.step_by(9)).collect()),
    ]
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

const REFERENCES: &[&str] = &[
    "busybox",
    "busybox:1.36",
    "docker.io/library/busybox:latest",
    "localhost:5000/a/b_c/d__e/f-g:v1.2.3-rc1_x",
    "[::1]:5000/x:1",
    "registry.example/p@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "a/b:t@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "../../etc/passwd",
    "a//b",
    "A/b:",
];

const NAMES: &[&str] = &[
    "0d/f\n0d/.wh.f\n0d/.wh..wh..opq\n3d\n4fifo\n1l\0d/f",
    "2d\0/outside\n0d/victim\n3d\n0d/.wh.victim\n1l\0d/victim",
    "3d\n0d/a\n2d\0../outside\n0d/b\n1d\0d/a",
    "0../x\n3a/..\n1x\0../outside/victim\n2x\0..\n0x/y",
    "0.wh.\n0.wh..\n0.wh...\n0.wh..wh.plnk/x\n2.wh..wh..opq\0x",
    "2a\0b\n2b\0a\n0a/f\n1c\0a\n3c\n0c/f",
    "3a/b/c\n0a/b/c/d\n0a\n3a\n0a/b\n1a/b/c\0a/b",
];

const DOCUMENTS: &[&str] = &[
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}],"annotations":{"a":"b"}}"#,
    r#"{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":2},"layers":[]}"#,
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":7,"platform":{"os":"linux","architecture":"amd64","variant":"v3"}}]}"#,
    r#"{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json","manifests":[]}"#,
    r#"{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}"#,
    r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#,
    r#"[[[[[[[[{"a":1e400,"b":"\ud800","c":-0}]]]]]]]]"#,
];
