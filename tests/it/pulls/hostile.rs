//! Images that are attacks: nothing outside the store changes, and nothing of them stays in it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use it::{Outcome, Scenario};
use serde_json::json;
use testkit::{
    Options,
    hostile::{self, Expect, Hostile},
    image::{Compressed, ImageBuilder, Layer},
    registry::FakeRegistry,
};
use tonic::Code;

use super::support::{
    MIB, large_layer, list, prune, registry, remove, settled, small, status, store, try_pull,
};

it::tests!("pulls_hostile":
    hostile_layers_change_nothing_outside,
    limits_are_as_configured,
    hostile_configurations_leave_nothing,
);

/// Everything below `directory` that an attack could change.
fn tree(directory: &Path) -> BTreeMap<PathBuf, (u32, u32, i64, i64, Vec<u8>)> {
    let mut tree = BTreeMap::new();
    let mut paths = vec![directory.to_owned()];
    while let Some(path) = paths.pop() {
        let data = fs::symlink_metadata(&path).expect("metadata");
        let mut content = Vec::new();
        if data.is_dir() {
            let entries = fs::read_dir(&path).expect("readable");
            paths.extend(entries.map(|entry| entry.expect("readable").path()));
        } else if data.is_file() {
            content = fs::read(&path).expect("readable");
        }
        let key = (data.mode(), data.uid(), data.mtime(), data.mtime_nsec(), content);
        tree.insert(path, key);
    }
    tree
}

/// I-unpack
async fn hostile_layers_change_nothing_outside(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let (registry, empty) = (FakeRegistry::start(), store(t));
    // Short, because a name in a tar header has 100 bytes.
    let outside = t.instance().volume("o");
    t.instance().write(&outside.join("victim"), b"unharmed");
    let sub = t.instance().volume("o/sub");
    t.instance().write(&sub.join("inner"), b"unharmed");
    let before = tree(&outside);
    for layer in hostile::layers(&outside) {
        let Hostile { name, expect, .. } = &layer;
        let reference = registry.reference(&format!("{}:1", image_name(name)));
        registry.push(&ImageBuilder::empty().hostile(&layer), &format!("{}:1", image_name(name)));
        match (expect, try_pull(t, &reference).await) {
            (Expect::Confined(_), Ok(_)) => {}
            (Expect::Refused(text), Err(refused)) => {
                assert_eq!(refused.code(), Code::FailedPrecondition, "{name}: {refused:?}");
                assert!(refused.message().contains(text), "{name}: {refused:?}");
                assert_eq!(status(t, &reference).await, None, "{name}");
            }
            (_, result) => panic!("{name}: {result:?}, but expected {expect:?}"),
        }
        assert_eq!(tree(&outside), before, "{name}");
        remove(t, &reference).await;
    }
    settled(t).await;
    prune(t);
    assert_eq!(store(t), empty);
    Ok(())
}

/// A repository that is called like an attack.
fn image_name(attack: &str) -> String {
    let name = attack.to_lowercase();
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

async fn limits_are_as_configured(t: &mut Scenario) -> Outcome {
    let config = "[images.limits]\nlayer_bytes = 4194304\nratio = 10\nratio_free_bytes = 65536\n\
                  entries = 1000\ndepth = 8\npath_bytes = 60\n";
    t.own_daemon(Options { config: config.to_owned(), ..Options::default() }).await?;
    let (registry, empty) = (FakeRegistry::start(), store(t));
    let files = |count: usize| {
        (0..count).fold(Layer::default(), |layer, index| layer.file(&index.to_string(), 0o644, b""))
    };
    let nested = |depth: usize| {
        (1..=depth)
            .fold(Layer::default(), |layer, depth| layer.directory(&"d/".repeat(depth), 0o755))
    };
    let named = |bytes: usize| Layer::default().file(&"n".repeat(bytes), 0o644, b"");
    let zeros = |bytes: usize| Layer::default().file("zeros", 0o644, &vec![0; bytes]);
    let image = |layer: Layer, how| ImageBuilder::empty().layer(layer).compressed(how);
    let (plain, gzip) = (Compressed::Plain, Compressed::Gzip);
    for (limit, how, within, beyond) in [
        ("unpacked bytes", plain, large_layer(t, "a", 3 * MIB), large_layer(t, "a", 5 * MIB)),
        ("compression ratio", gzip, zeros(50_000), zeros(2 * MIB)),
        ("entries", plain, files(1000), files(1001)),
        ("directory depth", plain, nested(7), nested(9)),
        ("path length", plain, named(60), named(61)),
    ] {
        registry.push(&image(within, how), "within:1");
        registry.push(&image(beyond, how), "beyond:1");
        let [within, beyond] = ["within:1", "beyond:1"].map(|name| registry.reference(name));
        let pulled = try_pull(t, &within).await;
        pulled.unwrap_or_else(|status| panic!("{limit}: {status:?}"));
        let refused = try_pull(t, &beyond).await.expect_err(limit);
        assert_eq!(refused.code(), Code::FailedPrecondition, "{limit}: {refused:?}");
        assert!(refused.message().contains(limit), "{limit}: {refused:?}");
        remove(t, &within).await;
    }
    settled(t).await;
    assert_eq!(store(t), empty);
    Ok(())
}

async fn hostile_configurations_leave_nothing(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let registry = registry()?;
    let empty = store(t);
    for (index, (field, value)) in [
        ("Env", json!(["A\u{0}=B"])),
        ("Env", json!(["=x"])),
        ("Env", json!("no list")),
        ("Entrypoint", json!(7)),
        ("User", json!("a\nroot::0:0::/:")),
        ("WorkingDir", json!("a\u{0}b")),
        ("StopSignal", json!("SIGNOTHING")),
        ("Volumes", json!({ "/../../../etc": {} })),
        ("Labels", json!({ "io.kubernetes.container.hash": "forged" })),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("config:{index}");
        registry.push(&small(t, &index.to_string()).with(field, value.clone()), &name);
        let reference = registry.reference(&name);
        // Refused or shown without it.
        if let Err(refused) = try_pull(t, &reference).await {
            assert_eq!(refused.code(), Code::FailedPrecondition, "{field} {value}: {refused:?}");
            assert_eq!(list(t, &reference).await, [], "{field} {value}");
        }
        remove(t, &reference).await;
        settled(t).await;
        prune(t);
        assert_eq!(store(t), empty, "{field} {value}");
    }
    Ok(())
}
