//! The store: names, removal, crashes, and several users at once.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use image::{Digest, Image, ImageError, ImportOptions};
use nix::fcntl::{Flock, FlockArg};
use serde_json::json;

use crate::fixture::{Compression, Layer, Layout, Place, arch, config_of};

fn layers(names: &[&str]) -> Vec<(Vec<u8>, Compression)> {
    names.iter().map(|name| (Layer::new().file(name, "x").build(), Compression::Gzip)).collect()
}

fn nothing() -> HashSet<Digest> {
    HashSet::new()
}

fn import(place: &Place, name: &str, layer_names: &[&str]) -> Image {
    place.import(Layout::image(name, &layers(layer_names)).path()).unwrap().remove(0)
}

#[test]
fn an_image_is_found_by_every_kind_of_name() {
    let place = Place::new();
    let image = import(&place, "busybox:1.36", &["a"]);
    let hex = image.id.hex();
    for query in [
        image.id.to_string(),
        hex.clone(),
        hex[..4].to_owned(),
        hex[..63].to_owned(),
        format!("sha256:{}", &hex[..10]),
        "busybox:1.36".to_owned(),
        "docker.io/library/busybox:1.36".to_owned(),
        image.repo_digests[0].clone(),
        image.repo_digests[0].replace('@', ":ignored@"),
    ] {
        assert_eq!(place.store.find(&query).unwrap().as_ref(), Some(&image), "{query}");
    }
    let other = Digest::of(b"other").to_string();
    for query in ["busybox", "busybox:1", "other", &hex[..3], &other, &other[7..]] {
        assert_eq!(place.store.find(query).unwrap(), None, "{query}");
    }
    for query in ["", "../x", "UPPER", "a b", "sha256:xyz/", "busybox@sha256:00"] {
        assert!(
            matches!(place.store.find(query), Err(ImageError::InvalidReference { .. })),
            "{query}"
        );
    }
    assert_eq!(
        place.store.select("busybox").unwrap(),
        std::slice::from_ref(&image),
        "the repository"
    );
    assert_eq!(place.store.select("busybox:2").unwrap(), []);
    assert_eq!(place.store.select(&hex).unwrap(), [image]);
}

#[test]
fn an_ambiguous_prefix_is_an_error() {
    // Users until the ids of two such images begin alike.
    let config = |user: u32| json!({ "User": user.to_string() });
    let prefix = |user: u32| {
        let document = serde_json::to_vec(&config_of(&arch(), &[], &config(user))).unwrap();
        Digest::of(&document).hex()[..4].to_owned()
    };
    let mut seen = HashMap::new();
    let (first, second) =
        (0..).find_map(|user| Some((seen.insert(prefix(user), user)?, user))).unwrap();

    let place = Place::new();
    let mut layout = Layout::new();
    for user in [first, second] {
        let manifest = layout.image_blobs(&arch(), &[], &config(user));
        layout.add(manifest, None);
    }
    place.import(layout.path()).unwrap();
    let prefix = prefix(first);
    for result in
        [place.store.find(&prefix).map(drop), place.store.remove(&prefix, &nothing()).map(drop)]
    {
        let Err(ImageError::AmbiguousId { candidates, .. }) = result else { panic!("{result:?}") };
        assert_eq!(candidates.len(), 2);
    }
    assert_eq!(place.store.list().len(), 2);
}

#[test]
fn a_name_exact_wins_over_an_id_prefix() {
    let place = Place::new();
    let first = import(&place, "test/first:1", &["a"]);
    let prefix = first.id.hex()[..6].to_owned();
    let second = import(&place, &format!("{prefix}:latest"), &["b"]);
    assert_eq!(place.store.find(&prefix).unwrap().unwrap().id, second.id);
}

#[test]
fn a_tag_moves_to_the_image_imported_last() {
    let place = Place::new();
    let old = import(&place, "test/app:1", &["a"]);
    let new = import(&place, "test/app:1", &["b"]);
    assert_ne!(old.id, new.id);
    assert_eq!(place.store.find("test/app:1").unwrap().unwrap().id, new.id);
    let left = place.store.find(&old.id.to_string()).unwrap().unwrap();
    assert!(left.repo_tags.is_empty());
    assert_eq!(left.repo_digests, old.repo_digests);
    place.store.remove("test/app:1", &nothing()).unwrap();
    assert_eq!(place.store.find("test/app:1").unwrap(), None, "it does not come back");
    assert_eq!(place.reopen().list().len(), 1);
}

#[test]
fn removal_by_one_tag_takes_all_and_is_repeatable() {
    let place = Place::new();
    let image = import(&place, "test/app:1", &["a"]);
    let layout = Layout::image("quay.io/other/app:2", &layers(&["a"]));
    let again = place.import(layout.path()).unwrap().remove(0);
    assert_eq!(again.id, image.id);
    assert_eq!(again.repo_tags, ["docker.io/test/app:1", "quay.io/other/app:2"]);
    assert_eq!(again.repo_digests.len(), 2);
    let removed = place.store.remove("quay.io/other/app:2", &nothing()).unwrap();
    assert_eq!(removed.map(|image| image.id), Some(image.id));
    assert_eq!(place.store.remove("test/app:1", &nothing()).unwrap(), None);
    assert!(place.store.list().is_empty() && place.reopen().list().is_empty());
}

#[test]
fn layers_of_containers_outlive_their_image() {
    let place = Place::new();
    let image = import(&place, "test/app:1", &["a", "b"]);
    let paths = place.store.layer_paths(&image);
    let in_use = HashSet::from([image.diff_ids[0]]);
    place.store.remove("test/app:1", &in_use).unwrap();
    assert!(paths[0].join("a").exists() && !paths[1].exists());
    assert!(place.store.usage().unwrap().bytes > 0, "what is kept counts");
    // A restart forgets nothing: the layer waits for a collection.
    let store = place.reopen();
    assert_eq!(store.collect_garbage(&in_use).unwrap().layers, 0);
    assert_eq!(store.collect_garbage(&nothing()).unwrap().layers, 1);
    assert!(!paths[0].exists());
}

#[test]
fn usage_grows_and_shrinks() {
    let place = Place::new();
    let empty = place.store.usage().unwrap();
    assert_eq!(empty.mountpoint, place.root().canonicalize().unwrap());
    let big = "x".repeat(100_000);
    let layer = Layer::new().file("big", &big).build();
    let layout = Layout::image("test/app:1", &[(layer, Compression::Gzip)]);
    let image = place.import(layout.path()).unwrap().remove(0);
    assert!(image.size_bytes > 100_000 && image.size_bytes < 101_000);
    let full = place.store.usage().unwrap();
    assert!(full.bytes >= empty.bytes + 100_000, "{full:?}");
    // The file; fs, layer.json, transcript and their directory; record, configuration, manifest.
    assert_eq!(full.inodes - empty.inodes, 1 + 4 + 3);
    place.store.remove("test/app:1", &nothing()).unwrap();
    assert_eq!(place.store.usage().unwrap(), empty);
}

#[test]
fn pinning_is_kept() {
    let place = Place::new();
    let image = import(&place, "test/app:1", &["a"]);
    assert!(!image.pinned);
    assert!(place.store.set_pinned("test/app:1", true).unwrap().unwrap().pinned);
    assert!(place.reopen().list()[0].pinned);
    assert!(import(&place, "test/app:1", &["a"]).pinned, "importing again changes nothing");
    assert_eq!(place.store.set_pinned("test/other:1", true).unwrap(), None);
}

/// Makes a record's bytes unusable.
type Damage = fn(Vec<u8>) -> Vec<u8>;

#[test]
fn broken_records_are_reported_and_the_others_work() {
    let place = Place::new();
    let good = import(&place, "test/good:1", &["a", "shared"]);
    let cases: [(&str, Damage); 5] = [
        ("empty", |_| Vec::new()),
        ("truncated", |bytes| bytes[..bytes.len() / 2].to_vec()),
        ("newer", |bytes| replaced(&bytes, "\"version\":1", "\"version\":9")),
        ("unknown field", |bytes| replaced(&bytes, "{\"version\"", "{\"new\":1,\"version\"")),
        ("other id", |bytes| replaced(&bytes, "\"id\":\"sha256:", "\"id\":\"sha256:00")),
    ];
    for (case, damage) in cases {
        let bad = import(&place, "test/bad:1", &["b", "shared"]);
        let record = place.root().join("images").join(format!("{}.json", bad.id.hex()));
        fs::write(&record, damage(fs::read(&record).unwrap())).unwrap();
        let store = place.reopen();
        assert_eq!(store.list(), std::slice::from_ref(&good), "{case}");
        let problems = store.problems();
        assert_eq!(problems.len(), 1, "{case}: {problems:?}");
        assert_eq!(problems[0].id, Some(bad.id));
        // A record of a newer version still keeps its layers.
        if case == "newer" {
            store.collect_garbage(&nothing()).unwrap();
            assert_eq!(place.layer_names().len(), 3);
        }
        assert_eq!(store.remove(&bad.id.to_string(), &nothing()).unwrap(), None);
        assert!(store.problems().is_empty(), "{case}: removed by its id");
        assert_eq!(place.layer_names().len(), 2, "{case}");
    }
}

fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = std::str::from_utf8(bytes).unwrap();
    assert!(text.contains(from), "{text}");
    text.replace(from, to).into_bytes()
}

#[test]
fn damaged_layers_and_documents_are_noticed_and_mended_by_an_import() {
    let place = Place::new();
    let layout = Layout::image("test/app:1", &layers(&["a"]));
    let image = place.import(layout.path()).unwrap().remove(0);
    let layer = place.store.layer_paths(&image)[0].parent().unwrap().to_owned();
    let config = place.root().join("blobs/sha256").join(image.id.hex());
    let damages: [&dyn Fn(); 4] = [
        &|| fs::write(layer.join("layer.json"), "{").unwrap(),
        &|| fs::remove_dir_all(layer.join("fs")).unwrap(),
        &|| fs::remove_dir_all(&layer).unwrap(),
        &|| fs::write(&config, "{}").unwrap(),
    ];
    for damage in damages {
        damage();
        let store = place.reopen();
        assert!(store.list().is_empty());
        assert!(!store.problems().is_empty());
        let mended = store.import(layout.path(), &ImportOptions::default()).unwrap();
        assert_eq!(mended, std::slice::from_ref(&image));
        assert!(store.problems().is_empty());
        assert!(layer.join("fs/a").exists());
    }
    drop(place.reopen());
    assert_eq!(place.layer_names().len(), 1, "broken layers are swept");
}

#[test]
fn what_a_crash_left_is_swept() {
    let place = Place::new();
    let image = import(&place, "test/app:1", &["a"]);
    let layers = place.root().join("layers");
    fs::create_dir_all(layers.join(".tmp-1-2-3/fs/deep")).unwrap();
    fs::write(layers.join(".tmp-1-2-3/fs/deep/file"), "x").unwrap();
    // What a running import fills is locked by it.
    fs::create_dir_all(layers.join(".tmp-4-5-6/fs")).unwrap();
    let running = fs::File::open(layers.join(".tmp-4-5-6")).unwrap();
    let running = Flock::lock(running, FlockArg::LockExclusive).unwrap();
    fs::write(place.root().join("images/.tmp-1-2-4"), "{").unwrap();
    fs::write(place.root().join("blobs/sha256/.tmp-1-2-5"), "{").unwrap();
    let store = place.reopen();
    assert!(!layers.join(".tmp-1-2-3").exists());
    assert!(layers.join(".tmp-4-5-6/fs").exists());
    drop(running);
    drop(place.reopen());
    assert_eq!(place.layer_names().len(), 1);
    assert_eq!(store.list(), [image]);
    for directory in ["images", "blobs/sha256"] {
        for entry in fs::read_dir(place.root().join(directory)).unwrap() {
            assert!(!entry.unwrap().file_name().to_str().unwrap().starts_with(".tmp-"));
        }
    }
}

#[test]
fn two_stores_on_one_directory_see_each_others_changes() {
    let place = Place::new();
    let other = place.reopen();
    let image = import(&place, "test/app:1", &["a"]);
    assert_eq!(other.list(), [image]);
    other.remove("test/app:1", &nothing()).unwrap();
    assert!(place.store.list().is_empty());
}

#[test]
fn imports_and_removals_at_once_leave_a_whole_store() {
    let place = Place::new();
    let other = place.reopen();
    let layouts: Vec<_> = (0..4)
        .map(|number| {
            let own = format!("own{number}");
            Layout::image(&format!("test/app:{number}"), &layers(&["shared", "too", &own]))
        })
        .collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                other.remove("test/app:0", &nothing()).unwrap();
                // Opening sweeps; it must leave running imports alone.
                place.reopen();
            }
        });
        let importers: Vec<_> = layouts
            .iter()
            .map(|layout| {
                let store = &place.store;
                scope.spawn(move || {
                    for _ in 0..10 {
                        match store.import(layout.path(), &ImportOptions::default()) {
                            // The other store took the layers away three times.
                            Ok(_) | Err(ImageError::LayerVanished { .. }) => {}
                            Err(error) => return Err(error),
                        }
                    }
                    Ok::<_, ImageError>(())
                })
            })
            .collect();
        let results: Vec<_> = importers.into_iter().map(|thread| thread.join().unwrap()).collect();
        stop.store(true, Ordering::Relaxed);
        for result in results {
            result.unwrap();
        }
    });
    for layout in &layouts {
        place.import(layout.path()).unwrap();
    }
    assert_eq!(place.store.list().len(), 4);
    assert_eq!(place.layer_names().len(), 2 + 4);
    for image in place.store.list() {
        assert!(place.store.layer_paths(&image).iter().all(|path| path.is_dir()));
    }
}
