//! Removal of pulled images, and what the store weighs before and after.

use it::{Outcome, Scenario};
use testkit::{Options, image::ImageBuilder, valve::Valve};
use tokio::task::JoinSet;

use super::support::{
    MIB, large_layer, layer, list, present, prune, pull, pull_meanwhile, registry, remove,
    runnable, settled, small, spec, status, store, usage,
};

it::tests!("pulls_lifetime":
    one_tag_removes_all_of_all_registries,
    five_removals_at_once_succeed,
    a_removal_leaves_running_pulls_alone,
    a_container_keeps_the_layers_of_a_removed_image,
    the_store_grows_and_shrinks_back,
    layers_are_there_as_long_as_an_image_needs_them,
    pinned_images_are_marked_and_can_be_removed,
);

/// C68
async fn one_tag_removes_all_of_all_registries(t: &mut Scenario) -> Outcome {
    let registries = [registry()?, registry()?];
    let image = small(t, "app");
    let mut references = Vec::new();
    for registry in &registries {
        registry.push(&image, "app:1");
        registry.tag("app:1", "other/app:2");
        references.extend(["app:1", "other/app:2"].map(|name| registry.reference(name)));
    }
    for reference in &references {
        pull(t, reference).await;
    }
    let image = present(t, &references[0]).await;
    assert_eq!(image.repo_tags.len(), 4, "{image:?}");
    remove(t, &references[3]).await;
    for name in references.iter().chain(&image.repo_digests).chain([&image.id]) {
        assert_eq!(status(t, name).await, None, "{name}");
        assert_eq!(list(t, name).await, [], "{name}");
        remove(t, name).await;
    }
    Ok(())
}

async fn five_removals_at_once_succeed(t: &mut Scenario) -> Outcome {
    let registry = registry()?;
    let id = registry.push(&small(t, "app"), "app:1");
    let reference = registry.reference("app:1");
    for round in 0..5 {
        pull(t, &reference).await;
        let mut removals = JoinSet::new();
        for index in 0..5 {
            let mut images = t.cri.images.clone();
            let image = spec(if index % 2 == 0 { &id } else { &reference });
            removals.spawn(async move {
                images.remove_image(cri_api::v1::RemoveImageRequest { image }).await
            });
        }
        while let Some(removed) = removals.join_next().await {
            removed.expect("no panic").unwrap_or_else(|status| panic!("round {round}: {status:?}"));
        }
        assert_eq!(status(t, &reference).await, None, "round {round}");
    }
    Ok(())
}

async fn a_removal_leaves_running_pulls_alone(t: &mut Scenario) -> Outcome {
    let registry = registry()?;
    let shared = || ImageBuilder::busybox().layer(layer(t, "shared"));
    registry.push(&shared(), "old:1");
    registry.push(&shared().layer(large_layer(t, "large", 2 * MIB)), "new:1");
    let old = registry.reference("old:1");
    pull(t, &old).await;
    let valve = Valve::before(registry.domain(), MIB);
    let new = valve.reference("new:1");
    let pulling = pull_meanwhile(t, &new);
    t.eventually("the large layer is on its way", async |_| valve.is_shut().then_some(())).await;
    // Its layers are the running pull's, too; and the image that is being pulled is unknown yet.
    remove(t, &old).await;
    remove(t, &new).await;
    assert_eq!(status(t, &old).await, None);
    valve.open();
    let id = pulling.await.expect("no panic").expect("PullImage");
    assert_eq!(present(t, &new).await.id, id);
    let pod = t.run_pod().await;
    let spec = testkit::container("a", &new).command(&["cat", "/own/shared"]);
    assert_eq!(t.output(&pod, spec).await, format!("shared of {}", t.name()));
    t.remove_pod(&pod).await;
    remove(t, &new).await;
    Ok(())
}

/// C68
async fn a_container_keeps_the_layers_of_a_removed_image(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let registry = registry()?;
    let empty = store(t);
    let id = registry.push(&runnable(t, "app"), "app:1");
    let reference = registry.reference("app:1");
    pull(t, &reference).await;
    let pod = t.run_pod().await;
    let spec = testkit::container("a", &reference).command(&["sleep", "100000"]);
    let container = t.launch(&pod, spec).await;
    remove(t, &reference).await;
    assert_eq!((status(t, &id).await, list(t, &id).await), (None, vec![]));
    assert_eq!(t.exec(&container, "cat /own/app").await, format!("app of {}", t.name()));
    assert_eq!(t.status(&container).await.image_id, id);
    assert_ne!(store(t), empty, "layers in use stay");
    // The same layers serve the next pull.
    let blobs = registry.blobs_sent();
    pull(t, &reference).await;
    settled(t).await;
    assert!(registry.blobs_sent() <= blobs + 1, "the configuration at most");
    remove(t, &reference).await;
    t.stop(&container, 0).await;
    t.remove(&container).await;
    prune(t);
    assert_eq!(store(t), empty);
    Ok(())
}

async fn the_store_grows_and_shrinks_back(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let registry = registry()?;
    let (empty, before) = (store(t), usage(t).await);
    let files = (0..100).fold(layer(t, "files"), |layer, index| {
        layer.file(&format!("own/{index:03}"), 0o644, b"x")
    });
    let image = ImageBuilder::empty().layer(files).layer(large_layer(t, "large", 8 * MIB));
    registry.push(&image, "app:1");
    let reference = registry.reference("app:1");
    pull(t, &reference).await;
    let full = usage(t).await;
    let grown = usize::try_from(full.bytes - before.bytes).expect("sizes fit");
    // 8 MiB and a hundred blocks, but no compressed copy.
    assert!((8 * MIB..9 * MIB + MIB / 2).contains(&grown), "{before:?} {full:?}");
    assert!((102..130).contains(&(full.inodes - before.inodes)), "{before:?} {full:?}");
    let size = present(t, &reference).await.size;
    assert!(size >= 8 << 20, "{size}");
    remove(t, &reference).await;
    let shrunk = async |t: &Scenario| (usage(t).await == before).then_some(());
    t.eventually("bytes and inodes are what they were", shrunk).await;
    assert_eq!(store(t), empty);
    Ok(())
}

async fn layers_are_there_as_long_as_an_image_needs_them(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let registry = registry()?;
    let empty = store(t);
    let common = || ImageBuilder::busybox().layer(layer(t, "common"));
    for name in ["one", "two"] {
        registry.push(&common().layer(layer(t, name)), &format!("{name}:1"));
        pull(t, &registry.reference(&format!("{name}:1"))).await;
    }
    let [one, two] = ["one:1", "two:1"].map(|name| registry.reference(name));
    remove(t, &one).await;
    let pod = t.run_pod().await;
    let spec = testkit::container("a", &two).script("cat /own/common /own/two; ls /own");
    let expected = format!("common of {0}two of {0}common\ntwo", t.name());
    assert_eq!(t.output(&pod, spec).await, expected);
    t.remove_pod(&pod).await;
    remove(t, &two).await;
    t.eventually("the last layers go", async |t| (store(t) == empty).then_some(())).await;
    Ok(())
}

async fn pinned_images_are_marked_and_can_be_removed(t: &mut Scenario) -> Outcome {
    let registry = registry()?;
    let config = format!("[images]\npinned = [\"{}/pause*\"]\n", registry.domain());
    t.own_daemon(Options { config, ..Options::default() }).await?;
    for (name, pinned) in [("pause:3.9", true), ("other/pause:1", false), ("paus:1", false)] {
        registry.push(&small(t, &name.replace(['/', ':'], "-")), name);
        let reference = registry.reference(name);
        pull(t, &reference).await;
        assert_eq!(present(t, &reference).await.pinned, pinned, "{name}");
        assert_eq!(list(t, &reference).await[0].pinned, pinned, "{name}");
        remove(t, &reference).await;
        assert_eq!(status(t, &reference).await, None, "{name}");
    }
    Ok(())
}
