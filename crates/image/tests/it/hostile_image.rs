//! Images whose documents or blobs lie.

use std::fs;
use std::os::unix::fs::symlink;

use image::{Digest, ImageError, ImportOptions, LimitFault};
use serde_json::{Value, json};

use crate::fixture::{
    CONFIG, Compression, FILE, INDEX, LAYER, Layer, Layout, MANIFEST, Place, arch, compress,
    config_of, descriptor,
};

fn layer() -> Vec<u8> {
    Layer::new().file("f", "x").build()
}

/// Imports a layout that has to be refused, and checks that nothing of it stays.
fn refused(layout: &Layout) -> ImageError {
    let place = Place::new();
    let error = place.import(layout.path()).unwrap_err();
    assert!(place.store.list().is_empty());
    let temporary: Vec<_> =
        place.layer_names().into_iter().filter(|name| name.starts_with('.')).collect();
    assert!(temporary.is_empty(), "{temporary:?}");
    error
}

/// A layout with one image whose documents the closures change.
fn changed(
    change_config: impl Fn(&mut Value),
    change_manifest: impl Fn(&mut Value),
    change_descriptor: impl Fn(&mut Value),
) -> Layout {
    let mut layout = Layout::new();
    let mut config = config_of(&arch(), &[Digest::of(&layer())], &json!({}));
    change_config(&mut config);
    let config = layout.json_blob(CONFIG, &config);
    let blob = layout.blob(LAYER, &compress(&layer(), Compression::Gzip));
    let mut manifest = json!({ "schemaVersion": 2, "config": config, "layers": [blob] });
    change_manifest(&mut manifest);
    let mut descriptor = layout.json_blob(MANIFEST, &manifest);
    change_descriptor(&mut descriptor);
    layout.add(descriptor, Some("test/app:v1"));
    layout
}

fn nothing(_: &mut Value) {}

#[test]
fn the_unchanged_layout_is_accepted() {
    let place = Place::new();
    place.import(changed(nothing, nothing, nothing).path()).unwrap();
}

#[test]
fn wrong_sizes_are_refused() {
    let sizes: [fn(&mut Value); 3] = [
        |manifest| manifest["layers"][0]["size"] = json!(1),
        |manifest| manifest["layers"][0]["size"] = json!(1_000_000),
        |manifest| manifest["config"]["size"] = json!(1),
    ];
    for change in sizes {
        let error = refused(&changed(nothing, change, nothing));
        assert!(matches!(error, ImageError::SizeMismatch { .. }), "{error:?}");
    }
    let error = refused(&changed(nothing, nothing, |descriptor| descriptor["size"] = json!(7)));
    assert!(matches!(error, ImageError::SizeMismatch { .. }), "{error:?}");
}

#[test]
fn wrong_digests_are_refused() {
    // Each blob in turn gets other bytes of the same length.
    let layout = changed(nothing, nothing, nothing);
    for entry in fs::read_dir(layout.path().join("blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        let original = fs::read(&path).unwrap();
        let mut corrupt = original.clone();
        let last = corrupt.len() - 1;
        corrupt[last] = corrupt[last].wrapping_add(1);
        fs::write(&path, corrupt).unwrap();
        let error = refused(&layout);
        let expected =
            matches!(error, ImageError::DigestMismatch { .. } | ImageError::LayerRead { .. });
        assert!(expected, "{error:?}");
        fs::write(&path, original).unwrap();
    }
}

#[test]
fn a_layer_blob_of_another_digest_is_refused_though_its_content_is_right() {
    let layout = changed(nothing, nothing, nothing);
    let blob = Digest::of(&compress(&layer(), Compression::Gzip));
    // The header's time stamp is not part of the content, nor of the checksum.
    let mut other = fs::read(layout.blob_path(blob)).unwrap();
    other[4] ^= 1;
    fs::write(layout.blob_path(blob), other).unwrap();
    let error = refused(&layout);
    assert!(matches!(error, ImageError::DigestMismatch { .. }), "{error:?}");
}

#[test]
fn a_wrong_diff_id_is_refused() {
    let wrong = |config: &mut Value| {
        config["rootfs"]["diff_ids"] = json!([Digest::of(b"something else")]);
    };
    let error = refused(&changed(wrong, nothing, nothing));
    assert!(matches!(error, ImageError::DiffIdMismatch { .. }), "{error:?}");
}

#[test]
fn manifest_and_index_in_one_are_refused() {
    let changes: [fn(&mut Value); 5] = [
        |manifest| manifest["manifests"] = json!([]),
        |manifest| manifest["mediaType"] = json!(INDEX),
        |manifest| manifest["mediaType"] = json!("application/json"),
        |manifest| manifest["mediaType"] = json!(7),
        |manifest| manifest["schemaVersion"] = json!(1),
    ];
    for change in changes {
        let error = refused(&changed(nothing, change, nothing));
        assert!(matches!(error, ImageError::AmbiguousManifest { .. }), "{error:?}");
    }
    // What the descriptor calls an index is a manifest.
    let error =
        refused(&changed(nothing, nothing, |descriptor| descriptor["mediaType"] = json!(INDEX)));
    assert!(matches!(error, ImageError::AmbiguousManifest { .. }), "{error:?}");
    let layout = changed(nothing, nothing, nothing);
    layout.write_index(&json!({ "schemaVersion": 2, "manifests": [], "layers": [] }));
    let error = refused(&layout);
    assert!(matches!(error, ImageError::AmbiguousManifest { .. }), "{error:?}");
}

#[test]
fn digests_that_are_paths_are_refused() {
    for digest in ["sha256:../../../../etc/passwd", "sha256:..", "../x", "md5:00", "sha512:00"] {
        let error = refused(&changed(nothing, nothing, |descriptor| {
            descriptor["digest"] = json!(digest);
        }));
        assert!(
            matches!(error, ImageError::Json { .. } | ImageError::InvalidDigest { .. }),
            "{digest}: {error:?}"
        );
        assert!(matches!(
            refused(&changed(
                |config| config["rootfs"]["diff_ids"] = json!([digest]),
                nothing,
                nothing
            )),
            ImageError::InvalidDigest { .. }
        ));
    }
}

#[test]
fn layer_counts_that_differ_are_refused() {
    for diff_ids in [json!([]), json!([Digest::of(b"a"), Digest::of(b"b")])] {
        let change = |config: &mut Value| config["rootfs"]["diff_ids"] = diff_ids.clone();
        let error = refused(&changed(change, nothing, nothing));
        assert!(matches!(error, ImageError::LayerCount { .. }), "{error:?}");
    }
    let many = |config: &mut Value| {
        config["rootfs"]["diff_ids"] = json!(vec![Digest::of(&layer()); 501]);
    };
    let layers = |manifest: &mut Value| {
        manifest["layers"] = json!(vec![manifest["layers"][0].clone(); 501]);
    };
    let error = refused(&changed(many, layers, nothing));
    assert!(matches!(error, ImageError::TooManyLayers { layers: 501, .. }), "{error:?}");
}

#[test]
fn hostile_configurations_are_refused() {
    for config in [
        json!({ "Env": ["FOO"] }),
        json!({ "Env": ["A=\0"] }),
        json!({ "Volumes": { "/../../../etc": {} } }),
    ] {
        let error =
            refused(&changed(|document| document["config"] = config.clone(), nothing, nothing));
        assert!(matches!(error, ImageError::Config { .. }), "{error:?}");
    }
}

#[test]
fn images_for_other_machines_are_refused() {
    for (key, value) in [("architecture", "mips"), ("os", "windows")] {
        let error = refused(&changed(|config| config[key] = json!(value), nothing, nothing));
        assert!(matches!(error, ImageError::Platform { .. }), "{error:?}");
    }
}

#[test]
fn artifacts_are_refused() {
    let error = refused(&changed(
        nothing,
        |manifest| manifest["config"]["mediaType"] = json!("application/vnd.oci.empty.v1+json"),
        nothing,
    ));
    assert!(matches!(error, ImageError::MediaType { .. }), "{error:?}");
    let error = refused(&changed(
        nothing,
        |manifest| manifest["layers"][0]["mediaType"] = json!("application/wasm"),
        nothing,
    ));
    assert!(matches!(error, ImageError::MediaType { .. }), "{error:?}");
}

#[test]
fn an_index_in_an_index_ends() {
    let mut layout = Layout::new();
    let mut inner = layout.image_blobs(&arch(), &[(layer(), Compression::Gzip)], &json!({}));
    for _ in 0..5 {
        inner = layout.json_blob(INDEX, &json!({ "schemaVersion": 2, "manifests": [inner] }));
    }
    layout.add(inner, None);
    assert!(matches!(refused(&layout), ImageError::MalformedSource { .. }));
}

#[test]
fn huge_documents_are_refused() {
    let layout = changed(nothing, nothing, nothing);
    let file = fs::File::create(layout.path().join("index.json")).unwrap();
    file.set_len(100 << 20).unwrap();
    assert!(matches!(refused(&layout), ImageError::DocumentTooLarge { .. }));
}

#[test]
fn blobs_that_are_links_out_of_the_layout_are_refused() {
    let layout = changed(nothing, nothing, nothing);
    let outside = tempfile::tempdir().unwrap();
    let blob = layout.blob_path(Digest::of(&compress(&layer(), Compression::Gzip)));
    fs::rename(&blob, outside.path().join("blob")).unwrap();
    symlink(outside.path().join("blob"), &blob).unwrap();
    assert!(matches!(refused(&layout), ImageError::Beneath(_)));
    fs::remove_file(&blob).unwrap();
    assert!(matches!(refused(&layout), ImageError::Missing { .. }));
    nix::unistd::mkfifo(&blob, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(matches!(refused(&layout), ImageError::MalformedSource { .. }), "and does not wait");
}

#[test]
fn several_images_cannot_share_one_given_name() {
    let mut layout = Layout::new();
    for content in ["a", "b"] {
        let layers = [(Layer::new().file("f", content).build(), Compression::Gzip)];
        let manifest = layout.image_blobs(&arch(), &layers, &json!({}));
        layout.add(manifest, None);
    }
    let place = Place::new();
    let options = ImportOptions { reference: Some("busybox".to_owned()) };
    let error = place.store.import(layout.path(), &options).unwrap_err();
    assert!(matches!(error, ImageError::SeveralImages { images: 2, .. }), "{error:?}");
    assert_eq!(place.import(layout.path()).unwrap().len(), 2);
}

#[test]
fn archives_that_lie_are_refused() {
    let place = Place::new();
    let import = |archive: Vec<u8>| place.import(&place.file("image.tar", &archive)).unwrap_err();
    let manifest = |config: &str, layers: &[&str]| {
        serde_json::to_vec(&json!([{ "Config": config, "RepoTags": null, "Layers": layers }]))
            .unwrap()
    };
    let config = config_of(&arch(), &[Digest::of(&layer())], &json!({}));
    let config = serde_json::to_vec(&config).unwrap();
    let wrong_name = format!("{}.json", Digest::of(b"other").hex());
    let archive = |manifest: &[u8], config_name: &str| {
        Layer::new()
            .entry(FILE, "manifest.json", "", manifest)
            .entry(FILE, config_name, "", &config)
            .entry(FILE, "l/layer.tar", "", &layer())
    };
    let lying = archive(&manifest(&wrong_name, &["l/layer.tar"]), &wrong_name).build();
    assert!(matches!(import(lying), ImageError::DigestMismatch { .. }));
    for path in ["missing/layer.tar", "../l/layer.tar", "/etc/passwd"] {
        let archive = archive(&manifest("config.json", &[path]), "config.json").build();
        assert!(matches!(import(archive), ImageError::Missing { .. }), "{path}");
    }
    let good = manifest("config.json", &["l/layer.tar"]);
    let twice = archive(&good, "config.json").file("manifest.json", "[]").build();
    assert!(matches!(import(twice), ImageError::MalformedSource { .. }));
    let circle = Layer::new().symlink("manifest.json", "b").symlink("b", "manifest.json").build();
    assert!(matches!(import(circle), ImageError::UnknownFormat { .. }));
    let whole = archive(&good, "config.json").build();
    let truncated = whole[..whole.len() - 2_000].to_vec();
    assert!(matches!(import(truncated), ImageError::LayerRead { .. }));
    assert!(place.store.list().is_empty());
    assert_eq!(place.import(&place.file("image.tar", &whole)).unwrap().len(), 1);
}

/// The names of a source are kept in memory, and a compressed one costs its maker little.
#[test]
fn sources_with_too_many_or_too_long_names_are_refused() {
    let place = Place::new();
    let import = |archive: Vec<u8>| place.import(&place.file("image.tar", &archive)).unwrap_err();
    let limit = |error| match error {
        ImageError::Limit { source, .. } => Some(source),
        _ => None,
    };
    let long = Layer::new().long_name(&"n/".repeat(600)).dir("d").build();
    assert_eq!(limit(import(long)), Some(LimitFault::PathLength));
    let long_link = Layer::new().pax(&[("linkpath", &[b'l'; 2_000])]).symlink("l", "x").build();
    assert_eq!(limit(import(long_link)), Some(LimitFault::PathLength));
    let many = testkit::hostile::gzip(&testkit::hostile::many_entries(20_001));
    assert_eq!(limit(import(many)), Some(LimitFault::Entries));
}

#[test]
fn what_is_no_image_is_refused() {
    let place = Place::new();
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(place.import(empty.path()), Err(ImageError::UnknownFormat { .. })));
    assert!(matches!(place.import(&empty.path().join("missing")), Err(ImageError::Io { .. })));
    let fifo = empty.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(place.import(&fifo), Err(ImageError::UnknownFormat { .. })));
    let unrelated = descriptor(MANIFEST, b"").to_string();
    assert!(place.import(&place.file("text", unrelated.as_bytes())).is_err());
    let nothing = place.import(&place.file("nothing", b""));
    assert!(matches!(nothing, Err(ImageError::UnknownFormat { .. })));
}
