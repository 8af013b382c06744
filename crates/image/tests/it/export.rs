//! Exporting: what comes out is the image that went in, to the last byte of its layers.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use image::{
    Destination, Digest, Image, ImageError, LayerSummary, Limits, Reference, Store, Unpack,
    UnpackOptions, unpack_layer,
};
use serde_json::json;

use crate::fixture::{
    Compression, DIR, FILE, Fields, Layer, Layout, Place, arch, chain, compress, config_of,
    ownership,
};

fn tags(image: &Image) -> Vec<Reference> {
    image.repo_tags.iter().map(|tag| tag.parse().unwrap()).collect()
}

fn export(place: &Place, image: &Image) -> Result<Vec<u8>, ImageError> {
    let mut archive = Vec::new();
    place.store.export(image, &tags(image), &mut archive).map(|_| archive)
}

/// Imports an image with one layer.
fn import(place: &Place, layer: &[u8]) -> Image {
    let layout = Layout::image("test/app:v1", &[(layer.to_vec(), Compression::Gzip)]);
    place.import(layout.path()).unwrap().remove(0)
}

/// The files of an archive, by name.
fn members(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(archive);
    let read = |mut entry: tar::Entry<'_, &[u8]>| {
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        (name, content)
    };
    archive.entries().unwrap().map(|entry| read(entry.unwrap())).collect()
}

/// Everything that a tree does not tell: formats, order, padding, owners, replaced content.
fn awkward_layers() -> Vec<(&'static str, Vec<u8>)> {
    let usual = Layer::new()
        .entry(Fields { mode: 0o700, mtime: 77, ..DIR }, "./", "", b"")
        .dir("d/")
        .entry(Fields { uid: 1_000, gid: 7, mtime: 99, ..FILE }, "./d/f", "", &[7; 70_000])
        .hard_link("d/again", "d/f")
        .symlink("l", "d/f")
        .entry(Fields { kind: b'6', ..FILE }, "fifo", "", b"")
        .entry(Fields { kind: b'3', ..FILE }, "null", "", b"")
        .file("empty", "")
        .file("d/.wh.gone", "")
        .pax(&[("mtime", b"123.5"), ("comment", b"x"), ("SCHILY.xattr.user.note", b"y")])
        .file("pax", "pax")
        .long_name(&format!("{}/f", "n".repeat(150)))
        .file("short", "gnu");
    let replaced = Layer::new()
        .file("f", "first")
        .hard_link("link", "f")
        .file("f", "second")
        .file("link", "no link any more")
        .file("f", "third")
        .dir("d")
        .file("d/a", "inside")
        .file("d/b/c", "deep inside")
        .hard_link("d/link", "link")
        .file("d", "a file")
        .dir("d")
        .file("d/a", "inside again")
        .file("e", "")
        .file("e", "not empty")
        .hard_link("e", "f")
        .symlink("e", "f");
    let ignored = Layer::new()
        .file(".wh..wh.plnk/1", "aufs's own")
        .file(".wh.x", "content of a whiteout")
        .file(".wh..wh..opq", "of an opaque directory");
    let garbage_in_padding = {
        let mut bytes = Layer::new().file("f", "x").unfinished();
        bytes[513..1024].fill(b'!');
        bytes
    };
    vec![
        ("without an end", usual.clone().unfinished()),
        ("long end", usual.clone().raw(&[0; 20 << 10]).unfinished()),
        ("usual", usual.build()),
        ("replaced", replaced.build()),
        ("ignored", ignored.build()),
        ("garbage in padding", garbage_in_padding),
        ("nothing but an end", Layer::new().build()),
        ("an odd end", Layer::new().file("f", "x").raw(&[0; 700]).unfinished()),
    ]
}

#[test]
fn an_exported_image_is_the_imported_one() {
    let mut layers: Vec<_> =
        awkward_layers().into_iter().map(|(_, layer)| (layer, Compression::Zstd)).collect();
    // An image may have a layer several times.
    layers.push(layers[0].clone());
    let layout = Layout::image("test/app:v1", &layers);
    let place = Place::new();
    let image = place.import(layout.path()).unwrap().remove(0);
    let archive = export(&place, &image).unwrap();

    let members = members(&archive);
    for (layer, _) in &layers {
        let name = format!("blobs/sha256/{}", Digest::of(layer).hex());
        let blobs: Vec<_> = members.iter().filter(|(member, _)| *member == name).collect();
        assert_eq!(blobs.len(), 1, "once");
        assert!(blobs[0].1 == *layer, "byte by byte");
    }
    let other = Place::new();
    let again = other.import(&other.file("image.tar", &archive)).unwrap().remove(0);
    assert_eq!((again.id, &again.diff_ids), (image.id, &image.diff_ids));
    assert_eq!(again.repo_tags, image.repo_tags);
    assert_eq!(again.annotations, image.annotations);
    assert_ne!(again.repo_digests, image.repo_digests, "the blobs are other ones");
    assert_eq!(export(&other, &again).unwrap(), archive, "the same whenever it is exported");
}

#[test]
fn each_awkward_layer_is_made_again() {
    for (case, layer) in awkward_layers() {
        let place = Place::new();
        let image = import(&place, &layer);
        let archive = export(&place, &image).unwrap_or_else(|error| panic!("{case}: {error:?}"));
        let name = format!("blobs/sha256/{}", Digest::of(&layer).hex());
        assert!(members(&archive).contains(&(name, layer)), "{case}");
    }
}

#[test]
fn the_references_name_the_exported_image() {
    let place = Place::new();
    let image = import(&place, &Layer::new().file("f", "x").build());
    let names = ["busybox", "localhost:5000/b:2"].map(|name| name.parse::<Reference>().unwrap());
    let mut archive = Vec::new();
    let digest = place.store.export(&image, &names, &mut archive).unwrap();
    let other = Place::new();
    let named = other.import(&other.file("image.tar", &archive)).unwrap();
    assert_eq!(named.len(), 1);
    assert_eq!(named[0].repo_tags, ["docker.io/library/busybox:latest", "localhost:5000/b:2"]);
    let by_digest = format!("docker.io/library/busybox@{digest}");
    assert_eq!(other.store.find(&by_digest).unwrap().unwrap().id, image.id);

    let mut archive = Vec::new();
    place.store.export(&image, &[], &mut archive).unwrap();
    let other = Place::new();
    let unnamed = other.import(&other.file("image.tar", &archive)).unwrap().remove(0);
    assert_eq!((unnamed.id, unnamed.repo_tags.len()), (image.id, 0));
}

#[test]
fn an_image_without_a_manifest_is_exported() {
    let layer = Layer::new().file("f", "x").build();
    let config = config_of(&arch(), &[Digest::of(&layer)], &json!({}));
    let config = serde_json::to_vec(&config).unwrap();
    let manifest = json!([{
        "Config": "config.json", "RepoTags": ["busybox:1"], "Layers": ["l/layer.tar"],
    }]);
    let docker_archive = Layer::new()
        .entry(FILE, "config.json", "", &config)
        .entry(FILE, "l/layer.tar", "", &layer)
        .entry(FILE, "manifest.json", "", &serde_json::to_vec(&manifest).unwrap())
        .build();
    let place = Place::new();
    let image = place.import(&place.file("image.tar", &docker_archive)).unwrap().remove(0);
    let archive = export(&place, &image).unwrap();
    let other = Place::new();
    let again = other.import(&other.file("image.tar", &archive)).unwrap().remove(0);
    assert_eq!((again.id, again.repo_tags), (image.id, image.repo_tags));
}

#[test]
fn skopeo_reads_it_as_both_formats() {
    let place = Place::new();
    let image = import(&place, &Layer::new().dir("d").file("d/f", "x").build());
    let path = place.file("image.tar", &export(&place, &image).unwrap());
    let copies = tempfile::tempdir().unwrap();
    // From one kind to the other skopeo would write a configuration of its own.
    for (format, to) in [("oci-archive", "oci"), ("docker-archive", "docker-archive")] {
        let target = copies.path().join(format);
        let copied = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "-q"])
            .arg(format!("{format}:{}", path.display()))
            .arg(format!("{to}:{}:test/app:v1", target.display()))
            .output();
        let Ok(copied) = copied else { return println!("skipped: no skopeo here") };
        assert!(copied.status.success(), "{format}: {}", String::from_utf8_lossy(&copied.stderr));
        let again = Place::new().import(&target).unwrap().remove(0);
        assert_eq!(again.id, image.id, "{format}");
    }
}

#[test]
fn what_is_not_as_it_was_is_not_exported() {
    let place = Place::new();
    let image = import(&place, &Layer::new().dir("d").file("d/f", "content").build());
    let layer = place.store.layer_paths(&image)[0].parent().unwrap().to_owned();
    let whole = export(&place, &image).unwrap();
    let file = layer.join("fs/d/f");

    fs::write(&file, "CONTENT").unwrap();
    let error = export(&place, &image).unwrap_err();
    assert!(matches!(error, ImageError::DiffIdMismatch { .. }), "{error:?}");
    fs::write(&file, "longer content").unwrap();
    let error = export(&place, &image).unwrap_err();
    assert!(matches!(&error, ImageError::LayerChanged { path, .. } if path == "d/f"), "{error:?}");
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
    let error = export(&place, &image).unwrap_err();
    assert!(matches!(error, ImageError::LayerChanged { .. }), "{error:?}");
    fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = export(&place, &image).unwrap_err();
    assert!(matches!(error, ImageError::LayerChanged { .. }), "{error:?}");
    fs::remove_file(&file).unwrap();
    fs::write(&file, "content").unwrap();
    assert_eq!(export(&place, &image).unwrap(), whole);

    let transcript = layer.join("transcript.zst");
    let bytes = fs::read(&transcript).unwrap();
    for cut in [1, 10, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&transcript, &bytes[..cut]).unwrap();
        let error = export(&place, &image).unwrap_err();
        assert!(matches!(error, ImageError::Transcript { .. }), "{cut}: {error:?}");
    }
    for damage in
        [|path: &_| fs::write(path, "").unwrap(), |path: &_| fs::remove_file(path).unwrap()]
    {
        damage(&transcript);
        let error = export(&place, &image).unwrap_err();
        assert!(matches!(error, ImageError::NoTranscript { .. }), "{error:?}");
        assert!(chain(&error).contains("pull"), "{}", chain(&error));
    }
}

/// Whatever a transcript says, only files of the layer are read, and only its archive comes out.
#[test]
fn a_forged_transcript_reads_nothing_outside() {
    let place = Place::new();
    let layer = Layer::new().symlink("out", "/etc").file("f", "content").build();
    let image = import(&place, &layer);
    let path = place.store.layer_paths(&image)[0].parent().unwrap().join("transcript.zst");
    let secret = place.file("secret", b"secret");
    let absolute = secret.to_str().unwrap().to_owned();
    for path_in_layer in ["../../../secret", absolute.as_str(), "out/passwd", "..", "", "f\0"] {
        let content = segment(1, path_in_layer.as_bytes(), &6_u64.to_le_bytes());
        fs::write(&path, compress(&[content, end_of(6)].concat(), Compression::Zstd)).unwrap();
        let mut out = Vec::new();
        let error = place.store.export(&image, &[], &mut out).unwrap_err();
        assert!(matches!(error, ImageError::LayerChanged { .. }), "{path_in_layer}: {error:?}");
        assert!(!String::from_utf8_lossy(&out).contains("secret"));
    }
    let huge = [&[0][..], &u32::MAX.to_le_bytes()].concat();
    for forged in [
        huge,
        segment(9, b"f", b""),
        segment(2, &[b'x'; 5_000], b""),
        end_of(1),
        vec![1, 9, 9],
        vec![],
    ] {
        fs::write(&path, compress(&forged, Compression::Zstd)).unwrap();
        let error = place.store.export(&image, &[], Vec::new()).unwrap_err();
        assert!(matches!(error, ImageError::Transcript { .. }), "{forged:?}: {error:?}");
    }
}

fn segment(tag: u8, path: &[u8], rest: &[u8]) -> Vec<u8> {
    let length = u32::try_from(path.len()).unwrap();
    [&[tag, 0, 0][..], &length.to_le_bytes(), path, rest].concat()
}

fn end_of(bytes: u64) -> Vec<u8> {
    [&[5][..], &bytes.to_le_bytes()].concat()
}

#[test]
fn more_replaced_content_than_is_kept_names_the_file() {
    let big = "x".repeat(5 << 20);
    let place = Place::new();
    let image = import(&place, &Layer::new().file("d/big", &big).file("d/big", "y").build());
    let error = export(&place, &image).unwrap_err();
    assert!(matches!(&error, ImageError::ContentLost { path, .. } if path == "d/big"), "{error:?}");
}

/// An unpacker that writes no transcript.
#[derive(Debug)]
struct WithoutTranscript;

impl Unpack for WithoutTranscript {
    fn unpack(
        &self,
        blob: &mut dyn std::io::Read,
        destination: Destination<'_>,
        options: &UnpackOptions,
    ) -> Result<LayerSummary, ImageError> {
        unpack_layer(blob, destination.root, options)
    }
}

#[test]
fn a_layer_without_a_transcript_can_be_used_but_not_exported() {
    let dir = tempfile::tempdir().unwrap();
    let options = UnpackOptions { ownership: ownership(), limits: Limits::default() };
    let store = Store::open(dir.path(), options, Arc::new(WithoutTranscript)).unwrap();
    let layer = Layer::new().file("f", "x").build();
    let layout = Layout::image("test/app:v1", &[(layer, Compression::Plain)]);
    let image = store.import(layout.path(), &image::ImportOptions::default()).unwrap().remove(0);
    assert!(store.layer_paths(&image)[0].join("f").exists());
    let error = store.export(&image, &[], Vec::new()).unwrap_err();
    assert!(matches!(error, ImageError::NoTranscript { .. }), "{error:?}");
}
