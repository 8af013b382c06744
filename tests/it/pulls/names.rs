//! What is pulled for a reference, and what it is called afterwards.

use cri_api::v1::Image;
use it::{Outcome, Scenario};
use serde_json::{Value, json};
use testkit::{
    docker_registry::Format,
    image::{Compressed, ImageBuilder},
    registry::FakeRegistry,
};
use tonic::Code;

use super::support::{
    layer, list, present, pull, registry, remove, runnable, small, status, try_pull,
};

it::tests!("pulls_names":
    every_form_of_a_reference_is_pulled,
    the_digest_wins_over_the_tag,
    every_format_and_compression_runs,
    this_machines_image_of_an_index_is_taken,
    an_index_without_this_machine_has_no_image,
    a_repeated_pull_asks_for_the_manifest_only,
    a_tag_moves_to_another_image,
    one_image_has_one_id_everywhere,
    a_filter_takes_every_form,
    the_image_is_there_when_the_reply_is,
    what_is_no_reference_is_refused,
    layers_may_be_none_or_the_same,
);

fn names(image: &Image) -> (Vec<&str>, Vec<&str>) {
    let [tags, digests] = [&image.repo_tags, &image.repo_digests]
        .map(|names| names.iter().map(String::as_str).collect());
    (tags, digests)
}

async fn every_form_of_a_reference_is_pulled(t: &mut Scenario) -> Outcome {
    let registry = registry()?;
    let id = registry.push(&small(t, "latest"), "team/app:latest");
    let untagged = registry.reference("team/app");
    let tagged = format!("{untagged}:latest");
    let by_digest = format!("{untagged}@{}", registry.digest("team/app:latest"));
    for (reference, tags) in [
        (&by_digest, vec![]),
        (&untagged, vec![tagged.as_str()]),
        (&tagged, vec![tagged.as_str()]),
        (&format!("{tagged}@{}", registry.digest("team/app:latest")), vec![]),
    ] {
        assert_eq!(pull(t, reference).await, id, "{reference}");
        let image = present(t, reference).await;
        assert_eq!(image.id, id, "{reference}");
        assert_eq!(names(&image), (tags, vec![by_digest.as_str()]), "{reference}");
        assert_eq!(present(t, &id).await, image, "by id and as {reference}");
        remove(t, reference).await;
        assert_eq!(status(t, &id).await, None, "{reference}");
    }
    Ok(())
}

async fn the_digest_wins_over_the_tag(t: &mut Scenario) -> Outcome {
    let registry = registry()?;
    registry.push(&small(t, "old"), "app:1");
    let old = registry.digest("app:1");
    let new = registry.push(&small(t, "new"), "app:1");
    let reference = registry.reference("app:1");
    assert_ne!(pull(t, &format!("{reference}@{old}")).await, new);
    assert_eq!(status(t, &reference).await, None, "no tag is recorded");
    assert_eq!(pull(t, &reference).await, new);
    remove(t, &new).await;
    remove(t, &registry.reference(&format!("app@{old}"))).await;
    Ok(())
}

async fn every_format_and_compression_runs(t: &mut Scenario) -> Outcome {
    let registry = registry()?;
    let pod = t.run_pod().await;
    for (format, how, name) in [
        (Format::Oci, Compressed::Gzip, "gzip"),
        (Format::Oci, Compressed::Zstd, "zstd"),
        (Format::Oci, Compressed::Plain, "plain"),
        (Format::Docker, Compressed::Gzip, "docker"),
    ] {
        let tag = format!("{name}:1");
        let id = registry.push_as(format, &runnable(t, name).compressed(how), &tag);
        let reference = registry.reference(&tag);
        assert_eq!(pull(t, &reference).await, id, "{name}");
        let spec = testkit::container(name, &reference).command(&["cat", &format!("/own/{name}")]);
        assert_eq!(t.output(&pod, spec).await, format!("{name} of {}", t.name()));
        remove(t, &reference).await;
    }
    Ok(())
}

fn platform(os: &str, architecture: &str) -> Value {
    json!({ "os": os, "architecture": architecture })
}

/// Of this machine, as OCI calls it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

async fn this_machines_image_of_an_index_is_taken(t: &mut Scenario) -> Outcome {
    let registry = registry()?;
    for (format, name) in [(Format::Oci, "oci"), (Format::Docker, "docker")] {
        let [windows, other, ours] = ["windows", "other", "ours"].map(|kind| small(t, kind));
        let images = [
            (platform("windows", architecture()), &windows),
            (platform("linux", "s390x"), &other),
            (platform("linux", architecture()), &ours),
        ];
        let tag = format!("{name}:1");
        let ids = registry.push_index(format, &images, &tag);
        let id = pull(t, &registry.reference(&tag)).await;
        assert_eq!(Some(&id), ids.last(), "{name}");
        // The name by digest is what was asked for: the index.
        let digest = format!("{name}@{}", registry.digest(&tag));
        let image = present(t, &id).await;
        assert!(image.repo_digests.contains(&registry.reference(&digest)), "{name}: {image:?}");
        assert_eq!(pull(t, &registry.reference(&digest)).await, id, "{name}");
        remove(t, &id).await;
    }
    Ok(())
}

async fn an_index_without_this_machine_has_no_image(t: &mut Scenario) -> Outcome {
    let registry = registry()?;
    let image = small(t, "other");
    registry.push_index(Format::Oci, &[(platform("linux", "s390x"), &image)], "app:1");
    let refused = try_pull(t, &registry.reference("app:1")).await.expect_err("not for us");
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
    assert!(refused.message().contains(architecture()), "{refused:?}");
    Ok(())
}

async fn a_repeated_pull_asks_for_the_manifest_only(t: &mut Scenario) -> Outcome {
    let registry = registry()?;
    registry.push(&small(t, "app"), "app:1");
    let reference = registry.reference("app:1");
    let id = pull(t, &reference).await;
    let image = present(t, &reference).await;
    t.eventually("config and layer are in the log", async |_| {
        (registry.blobs_sent() == 2).then_some(())
    })
    .await;
    assert_eq!(pull(t, &reference).await, id);
    assert_eq!(present(t, &reference).await, image);
    t.eventually("the second request for the manifest is in the log", async |_| {
        let manifests = registry.answered().into_iter();
        let manifests = manifests.filter(|answered| answered.path.contains("/manifests/"));
        (manifests.count() == 2).then_some(())
    })
    .await;
    assert_eq!(registry.blobs_sent(), 2, "{:?}", registry.answered());
    remove(t, &reference).await;
    Ok(())
}

async fn a_tag_moves_to_another_image(t: &mut Scenario) -> Outcome {
    let registry = registry()?;
    let reference = registry.reference("app:1");
    let first = registry.push(&small(t, "first"), "app:1");
    let first_digest = registry.reference(&format!("app@{}", registry.digest("app:1")));
    pull(t, &reference).await;
    let second = registry.push(&small(t, "second"), "app:1");
    registry.tag("app:1", "app:2");
    pull(t, &registry.reference("app:2")).await;
    pull(t, &reference).await;
    let first = present(t, &first).await;
    assert_eq!(names(&first), (vec![], vec![first_digest.as_str()]), "it lost the tag");
    let found = present(t, &reference).await;
    assert_eq!((&found.id, found.repo_tags.len()), (&second, 2), "{found:?}");
    assert_eq!(found.repo_digests.len(), 1, "one repository: {found:?}");
    remove(t, &first.id).await;
    remove(t, &second).await;
    Ok(())
}

/// C26, C27
async fn one_image_has_one_id_everywhere(t: &mut Scenario) -> Outcome {
    let registries = [registry()?, registry()?];
    let image = runnable(t, "app");
    for registry in &registries {
        registry.push(&image, "app:1");
    }
    let [one, two] = registries.each_ref().map(|registry| registry.reference("app:1"));
    let id = pull(t, &one).await;
    assert_eq!(pull(t, &two).await, id);
    let found = present(t, &one).await;
    assert_eq!((&found.id, found.spec.clone().expect("given").image), (&id, id.clone()));
    assert_eq!((found.repo_tags.len(), found.repo_digests.len()), (2, 2), "{found:?}");
    let pod = t.run_pod().await;
    let container = t.create(&pod, testkit::container("a", &two)).await;
    let status = t.status(&container).await;
    assert_eq!(status.image_id, id);
    assert!(found.repo_digests.contains(&status.image_ref), "{status:?}");
    assert_ne!(status.image.expect("given").image, "");
    let listed = t.containers(&pod).await;
    assert_eq!((&listed[0].image_ref, &listed[0].image_id), (&status.image_ref, &id));
    t.remove(&container).await;
    remove(t, &one).await;
    assert_eq!(status_of_all(t, &[&one, &two, &id]).await, [None, None, None]);
    Ok(())
}

async fn status_of_all(t: &Scenario, names: &[&str]) -> Vec<Option<Image>> {
    let mut all = Vec::new();
    for name in names {
        all.push(status(t, name).await);
    }
    all
}

async fn a_filter_takes_every_form(t: &mut Scenario) -> Outcome {
    let registry = registry()?;
    let ids = ["1", "2"].map(|tag| registry.push(&small(t, tag), &format!("team/app:{tag}")));
    let other = registry.push(&small(t, "other"), "team/apps:1");
    for name in ["team/app:1", "team/app:2", "team/apps:1"] {
        pull(t, &registry.reference(name)).await;
    }
    let digest = format!("team/app@{}", registry.digest("team/app:2"));
    for (filter, mut expected) in [
        (registry.reference("team/app:1"), vec![&ids[0]]),
        (registry.reference("team/app"), vec![&ids[0], &ids[1]]),
        (registry.reference(&digest), vec![&ids[1]]),
        (ids[0].clone(), vec![&ids[0]]),
        (ids[0]["sha256:".len()..].to_owned(), vec![&ids[0]]),
        (registry.reference("team/apps"), vec![&other]),
        (registry.reference("team/app:3"), vec![]),
        (registry.reference("team"), vec![]),
        ("no reference at all".to_owned(), vec![]),
    ] {
        let listed = list(t, &filter).await;
        let mut found: Vec<&String> = listed.iter().map(|image| &image.id).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{filter}");
    }
    let all: Vec<String> = list(t, "").await.into_iter().map(|image| image.id).collect();
    assert!(ids.iter().chain([&other]).all(|id| all.contains(id)), "{all:?}");
    for id in ids.iter().chain([&other]) {
        remove(t, id).await;
    }
    Ok(())
}

async fn the_image_is_there_when_the_reply_is(t: &mut Scenario) -> Outcome {
    let registry = registry()?;
    for round in 0..10 {
        let tag = format!("app:{round}");
        registry.push(&small(t, &tag), &tag);
        let reference = registry.reference(&tag);
        let id = pull(t, &reference).await;
        let listed = list(t, &reference).await;
        assert_eq!(listed.first().map(|image| &image.id), Some(&id), "round {round}");
        let image = present(t, &reference).await;
        assert!(image.size > 0, "{image:?}");
        remove(t, &reference).await;
        assert_eq!((status(t, &reference).await, list(t, &reference).await), (None, vec![]));
    }
    Ok(())
}

async fn what_is_no_reference_is_refused(t: &mut Scenario) {
    let too_long = format!("127.0.0.1:1/{}", "a".repeat(300));
    for bad in [
        "",
        ":",
        "127.0.0.1:1/UPPER",
        "127.0.0.1:1/a:b:c",
        "127.0.0.1:1/a@md5:00",
        "127.0.0.1:1/a@sha256:00",
        "127.0.0.1:1/../a",
        "127.0.0.1:1/a b",
        "127.0.0.1:1/a\nb",
        "https://127.0.0.1:1/a",
        "127.0.0.1:1/a?b",
        &too_long,
    ] {
        let refused = try_pull(t, bad).await.expect_err(bad);
        assert_eq!(refused.code(), Code::InvalidArgument, "{bad:?}: {refused:?}");
    }
}

async fn layers_may_be_none_or_the_same(t: &mut Scenario) {
    let registry = FakeRegistry::start();
    let none = registry.push(&ImageBuilder::empty().with("Cmd", json!(["/none"])), "none:1");
    assert_eq!(pull(t, &registry.reference("none:1")).await, none.id);
    let twice = ImageBuilder::busybox().layer(layer(t, "same")).layer(layer(t, "same"));
    let twice = registry.push(&twice, "twice:1");
    let reference = registry.reference("twice:1");
    assert_eq!(pull(t, &reference).await, twice.id);
    assert_eq!(registry.count(&twice.layers[1].digest), 1, "asked for once");
    let pod = t.run_pod().await;
    let spec = testkit::container("a", &reference).command(&["cat", "/own/same"]);
    assert_eq!(t.output(&pod, spec).await, format!("same of {}", t.name()));
    t.remove_pod(&pod).await;
    remove(t, &none.id).await;
    remove(t, &twice.id).await;
}
