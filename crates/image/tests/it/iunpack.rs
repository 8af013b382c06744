//! The layers of `testkit::hostile`: each is refused or confined as it says, by the unpacker alone
//! and on the way through the store, and nothing outside its directory changes.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use image::{ImageError, Limits, Ownership, UnpackOptions, unpack_layer};
use nix::sys::resource::{Resource, setrlimit};
use serde_json::json;
use testkit::hostile::{self, Expect, Hostile, Shape};

use crate::arena::Arena;
use crate::fixture::{
    Compression, Digest, FILE, Fields, LAYER, Layer, Layout, MANIFEST, Place, arch, chain,
    config_of, owns_ids,
};

/// The hostile layers, aimed at the arena's `outside`. Those about owners need the ids of
/// containers, else everything belongs to whoever unpacks.
fn layers(arena: &Arena) -> Vec<Hostile> {
    let mut layers = hostile::layers(Path::new(&arena.outside()));
    if !owns_ids() {
        println!("skipped without the ids of containers: layers about owners");
        layers.retain(
            |layer| !matches!(layer.expect, Expect::Refused(text) if text.contains("owner")),
        );
    }
    layers
}

fn check_refusal(name: &str, error: &ImageError, text: &str) {
    assert!(chain(error).contains(text), "{name}: {}", chain(error));
}

/// What is in a layer's directory is what the layer may have.
fn check_confinement(name: &str, root: &Path, shapes: &[(&str, Shape)]) {
    for (path, shape) in shapes {
        let path = root.join(path);
        let metadata = fs::symlink_metadata(&path).ok();
        let has = |test: fn(&fs::Metadata) -> bool| metadata.as_ref().is_some_and(test);
        let right = match shape {
            Shape::Absent => metadata.is_none(),
            Shape::File(content) => {
                has(fs::Metadata::is_file) && fs::read(&path).unwrap() == content.as_bytes()
            }
            Shape::Directory => has(fs::Metadata::is_dir),
            Shape::Symlink => has(fs::Metadata::is_symlink),
            Shape::Fifo => has(|metadata| metadata.file_type().is_fifo()),
            Shape::Whiteout => has(is_whiteout),
        };
        assert!(right, "{name}: {} is no {shape:?} but {metadata:?}", path.display());
    }
    check_nothing_forbidden(name, root);
}

fn is_whiteout(metadata: &fs::Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

/// No devices but whiteouts, no owners that are not mapped, and no attributes that only the
/// unpacker or the host may set.
fn check_nothing_forbidden(name: &str, path: &Path) {
    let metadata = fs::symlink_metadata(path).unwrap();
    let kind = metadata.file_type();
    assert!(!kind.is_block_device() && !kind.is_socket(), "{name}: {}", path.display());
    assert!(!kind.is_char_device() || is_whiteout(&metadata), "{name}: {}", path.display());
    assert!(metadata.uid() < 65_536 && metadata.gid() < 65_536, "{name}: {}", path.display());
    if metadata.is_dir() || metadata.is_file() {
        let file = fs::File::open(path).unwrap();
        let attribute = |name: &str| sys::beneath::get_xattr(&file, name.as_ref()).unwrap();
        let what = ["redirect", "metacopy", "origin", "whiteout", "upper", "impure", "nlink"];
        let overlay = what
            .iter()
            .flat_map(|what| [format!("user.overlay.{what}"), format!("trusted.overlay.{what}")]);
        for forged in overlay.chain(["trusted.overlay.opaque".to_owned()]) {
            assert_eq!(attribute(&forged), None, "{name}: {forged} of {}", path.display());
        }
    }
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            check_nothing_forbidden(name, &entry.unwrap().path());
        }
    }
}

#[test]
fn iunpack_every_hostile_layer_is_refused_or_confined() {
    let count = layers(&Arena::new()).len();
    for number in 0..count {
        let arena = Arena::new();
        let layer = layers(&arena).swap_remove(number);
        let name = layer.name;
        // The arena walks the tree outside.
        match (arena.unpack(&layer.blob, Limits::default()), layer.expect) {
            (Err(error), Expect::Refused(text)) => check_refusal(name, &error, text),
            (Ok(summary), Expect::Confined(shapes)) => {
                assert_eq!(summary.diff_id, Digest::of(&layer.archive), "{name}");
                check_confinement(name, &arena.inside(), shapes);
            }
            (result, expect) => panic!("{name}: {expect:?}, but {result:?}"),
        }
        // Refused halfway or not: nothing that is there may be what the layer must not have.
        check_nothing_forbidden(name, &arena.inside());
    }
}

/// With one id for everything the owners do not matter, and all the rest holds as well.
#[test]
fn iunpack_every_hostile_layer_is_refused_or_confined_with_a_single_id() {
    let count = layers(&Arena::new()).len();
    for number in 0..count {
        let arena = Arena::new();
        let layer = layers(&arena).swap_remove(number);
        let result = arena.unpack_as(&layer.blob, Limits::default(), Ownership::Squash);
        match (result, layer.expect) {
            (Err(error), Expect::Refused(text)) => check_refusal(layer.name, &error, text),
            (Ok(_), Expect::Confined(shapes)) => {
                check_confinement(layer.name, &arena.inside(), shapes);
            }
            (Ok(_), Expect::Refused(text)) if text.contains("owner") => {}
            (result, expect) => panic!("{}: {expect:?}, but {result:?}", layer.name),
        }
    }
}

/// The same layers as images: a refused one leaves nothing, one that is confined is exported as it
/// came, and it is deleted without a trace or a change elsewhere.
#[test]
fn iunpack_every_hostile_layer_goes_through_the_store() {
    let arena = Arena::new();
    let place = Place::new();
    for layer in layers(&arena) {
        let name = layer.name;
        let mut layout = Layout::new();
        let config = layout.json_blob(
            crate::fixture::CONFIG,
            &config_of(&arch(), &[Digest::of(&layer.archive)], &json!({})),
        );
        let blob = layout.blob(LAYER, &layer.blob);
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [blob] });
        let manifest = layout.json_blob(MANIFEST, &manifest);
        layout.add(manifest, Some("test/hostile:1"));
        match (place.import(layout.path()), layer.expect) {
            (Err(error), Expect::Refused(text)) => check_refusal(name, &error, text),
            (Ok(images), Expect::Confined(shapes)) => {
                check_confinement(name, &place.store.layer_paths(&images[0])[0], shapes);
                place.store.export(&images[0], &[], Vec::new()).unwrap();
                place.store.remove("test/hostile:1", &Default::default()).unwrap();
            }
            (result, expect) => panic!("{name}: {expect:?}, but {result:?}"),
        }
        assert_eq!(place.layer_names(), Vec::<String>::new(), "{name}");
        arena.check_outside(name);
    }
    assert!(place.store.list().is_empty());
}

#[test]
fn iunpack_a_layer_with_another_diff_id_is_refused_and_leaves_nothing() {
    let place = Place::new();
    let mut layout = Layout::new();
    let archive = hostile::archive::Archive::new().file("f", "x").build();
    let config = config_of(&arch(), &[Digest::of(b"something else")], &json!({}));
    let config = layout.json_blob(crate::fixture::CONFIG, &config);
    let blob = layout.blob(LAYER, &hostile::gzip(&archive));
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [blob] });
    let manifest = layout.json_blob(MANIFEST, &manifest);
    layout.add(manifest, Some("test/hostile:1"));
    let error = place.import(layout.path()).unwrap_err();
    assert!(matches!(error, ImageError::DiffIdMismatch { .. }), "{error:?}");
    assert_eq!(place.layer_names(), Vec::<String>::new());
}

/// Image code must never run outside its container: not as a helper that is found by `PATH`, not as
/// a library that a lookup of users loads.
#[test]
fn r11_nothing_of_an_image_is_executed_or_mapped() {
    let place = Place::new();
    let trap = "#!/bin/sh\ntouch trapped\n";
    let program = Fields { mode: 0o755, ..FILE };
    let mut layer = Layer::new().file("etc/nsswitch.conf", "passwd: evil\n");
    for name in ["xz", "gzip", "zstd", "unpigz", "tar", "sh", "newuidmap"] {
        layer = layer.entry(program, &format!("usr/bin/{name}"), "", trap.as_bytes());
    }
    let layer = layer.entry(program, "lib/libnss_evil.so.2", "", b"\x7fELF").build();
    for how in [Compression::Gzip, Compression::Zstd] {
        let image = place.import(Layout::image("test/app:1", &[(layer.clone(), how)]).path());
        let image = image.unwrap().remove(0);
        place.store.export(&image, &[], Vec::new()).unwrap();
        let mapped = fs::read_to_string("/proc/self/maps").unwrap();
        assert!(!mapped.contains(place.root().to_str().unwrap()), "{mapped}");
        let root = &place.store.layer_paths(&image)[0];
        assert!(!root.join("trapped").exists() && !Path::new("trapped").exists());
        place.store.remove("test/app:1", &Default::default()).unwrap();
    }
}

#[test]
fn iunpack_limits_end_a_layer_while_it_streams() {
    let limits = Limits::default();
    assert_eq!((limits.entries, limits.depth, limits.path_bytes), (1_000_000, 256, 4_095));
    let refused = |blob: &[u8], limits: Limits, text: &str| {
        let arena = Arena::new();
        check_refusal(text, &arena.unpack(blob, limits).unwrap_err(), text);
    };
    let few = Limits { entries: 999, ..Limits::default() };
    refused(&hostile::gzip(&hostile::many_entries(1_000)), few, "entries");
    let ratio = || Limits { ratio_free_bytes: 1 << 20, ..Limits::default() };
    let bytes = || Limits { bytes: 2 << 20, ..Limits::default() };
    for bomb in [hostile::gzip_bomb(4 << 20), hostile::zstd_bomb(4 << 20)] {
        assert!(bomb.len() < (4 << 20) / 250, "{}", bomb.len());
        refused(&bomb, ratio(), "compression ratio");
        refused(&bomb, bytes(), "unpacked bytes");
        let slow = Limits { duration: std::time::Duration::ZERO, ..Limits::default() };
        refused(&bomb, slow, "time");
    }
}

/// containerd kept descriptors of layers that it refused.
#[test]
fn r34_ten_thousand_truncated_layers_leave_no_descriptor_open() {
    // A leak would end this test: the others need far fewer.
    setrlimit(Resource::RLIMIT_NOFILE, 1_024, 1_024).unwrap();
    let arena = Arena::new();
    let target = fs::File::open(arena.inside()).unwrap();
    let options =
        UnpackOptions { ownership: crate::fixture::ownership(), limits: Limits::default() };
    let mut refused = 0;
    for layer in hostile::truncated(10_000) {
        // What is cut between two entries is whole: an end is not required.
        match unpack_layer(layer.as_slice(), &target, &options) {
            Ok(_) => assert_eq!(layer.len() % 512, 0),
            Err(ImageError::LayerRead { .. } | ImageError::LayerArchive { .. }) => refused += 1,
            Err(error) => panic!("{} bytes: {error:?}", layer.len()),
        }
    }
    assert!(refused > 9_000, "{refused}");
    arena.check_outside("truncated");
}
