//! Pulls that run at the same time, and pulls that nobody waits for any more.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use cri_api::v1::AuthConfig;
use it::{Outcome, Scenario};
use testkit::{
    Options,
    docker_registry::{Access, DockerRegistry, PASSWORD, USER},
    image::ImageBuilder,
    valve::Valve,
};
use tokio::task::JoinSet;
use tonic::{Code, Request};

use super::support::{
    MIB, large_layer, layer, present, pull, pull_as, pull_meanwhile, registry, remove, request,
    send, settled, status, store,
};

it::tests!("pulls_joined":
    ten_pulls_of_one_image_are_one,
    layers_that_images_share_are_pulled_once,
    other_credentials_do_not_join,
    a_cancelled_pull_leaves_nothing,
    a_cancelled_pull_with_a_second_waiter_goes_on,
    a_deadline_leaves_nothing,
    a_retry_after_a_cancelled_pull_succeeds,
    the_command_line_pulls_beside_the_daemon,
);

/// How often each blob was sent.
fn blobs(registry: &DockerRegistry) -> BTreeMap<String, usize> {
    let mut blobs = BTreeMap::new();
    for answered in registry.answered() {
        if let Some((_, digest)) = answered.path.split_once("/blobs/") {
            *blobs.entry(digest.to_owned()).or_default() += 1;
        }
    }
    blobs
}

/// Waits for the registry's log, which is written after the answer.
async fn blobs_once_there_are(
    t: &Scenario,
    registry: &DockerRegistry,
    count: usize,
) -> BTreeMap<String, usize> {
    let enough = async |_: &Scenario| Some(blobs(registry)).filter(|blobs| blobs.len() >= count);
    t.eventually("all blobs are in the registry's log", enough).await
}

async fn ten_pulls_of_one_image_are_one(t: &mut Scenario) -> Outcome {
    let registry = registry()?;
    let image = ImageBuilder::empty().layer(large_layer(t, "first", 2 * MIB)).layer(large_layer(
        t,
        "second",
        2 * MIB,
    ));
    let id = registry.push(&image, "app:1");
    let valve = Valve::before(registry.domain(), MIB);
    let reference = valve.reference("app:1");
    let mut pulls = JoinSet::new();
    for _ in 0..10 {
        pulls.spawn(send(t.cri.images.clone(), request(&reference)));
    }
    t.eventually("the pull is under way", async |_| valve.is_shut().then_some(())).await;
    // Somebody who comes late.
    pulls.spawn(send(t.cri.images.clone(), request(&reference)));
    tokio::time::sleep(Duration::from_millis(100)).await;
    valve.open();
    while let Some(pulled) = pulls.join_next().await {
        assert_eq!(pulled.expect("no panic").expect("PullImage"), id);
    }
    let blobs = blobs_once_there_are(t, &registry, 3).await;
    assert_eq!(blobs.values().copied().collect::<Vec<_>>(), [1, 1, 1], "{blobs:?}");
    remove(t, &id).await;
    Ok(())
}

async fn layers_that_images_share_are_pulled_once(t: &mut Scenario) -> Outcome {
    let registry = registry()?;
    let shared = |name: &str| {
        ImageBuilder::empty()
            .layer(large_layer(t, "shared", 2 * MIB))
            .layer(large_layer(t, "also-shared", 2 * MIB))
            .layer(layer(t, name))
    };
    let names = ["one", "two", "three", "four"];
    let mut pulls = JoinSet::new();
    let valve = Valve::before(registry.domain(), MIB);
    for name in names {
        registry.push(&shared(name), &format!("{name}:1"));
    }
    for name in names {
        let reference = valve.reference(&format!("{name}:1"));
        pulls.spawn(send(t.cri.images.clone(), request(&reference)));
    }
    t.eventually("the pulls are under way", async |_| valve.is_shut().then_some(())).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    valve.open();
    let mut ids = Vec::new();
    while let Some(pulled) = pulls.join_next().await {
        ids.push(pulled.expect("no panic").expect("PullImage"));
    }
    // Per image a configuration and a layer of its own, and two layers for all.
    let blobs = blobs_once_there_are(t, &registry, 10).await;
    assert!(blobs.values().all(|count| *count == 1), "{blobs:?}");
    assert_eq!(blobs.len(), 10, "{blobs:?}");
    for id in &ids {
        remove(t, id).await;
    }
    Ok(())
}

async fn other_credentials_do_not_join(t: &mut Scenario) -> Outcome {
    let registry = DockerRegistry::start(Access { password: true, ..Access::default() })?;
    registry.push(&ImageBuilder::empty().layer(large_layer(t, "large", 2 * MIB)), "app:1");
    let valve = Valve::before(registry.domain(), MIB);
    let reference = valve.reference("app:1");
    let auth = |password: &str| AuthConfig {
        username: USER.to_owned(),
        password: password.to_owned(),
        ..AuthConfig::default()
    };
    let request =
        cri_api::v1::PullImageRequest { auth: Some(auth(PASSWORD)), ..request(&reference) };
    let pulling = tokio::spawn(send(t.cri.images.clone(), request));
    t.eventually("the pull is under way", async |_| valve.is_shut().then_some(())).await;
    let refused = pull_as(t, &reference, auth("wrong")).await.expect_err("not hers");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    assert!(!pulling.is_finished());
    valve.open();
    let id = pulling.await.expect("no panic").expect("PullImage");
    // What is here already must be got again with one's own credentials.
    let refused = pull_as(t, &reference, auth("wrong")).await.expect_err("not hers");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    remove(t, &id).await;
    Ok(())
}

async fn a_cancelled_pull_leaves_nothing(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let registry = registry()?;
    let empty = store(t);
    registry.push(&ImageBuilder::empty().layer(large_layer(t, "large", 4 * MIB)), "app:1");
    let valve = Valve::before(registry.domain(), 2 * MIB);
    let reference = valve.reference("app:1");
    let pulling = pull_meanwhile(t, &reference);
    t.eventually("the pull is under way", async |_| valve.is_shut().then_some(())).await;
    assert_ne!(store(t), empty, "half a layer");
    pulling.abort();
    settled(t).await;
    assert_eq!(store(t), empty);
    assert_eq!(status(t, &reference).await, None);
    Ok(())
}

/// C70
async fn a_cancelled_pull_with_a_second_waiter_goes_on(t: &mut Scenario) -> Outcome {
    let registry = registry()?;
    let image = ImageBuilder::empty().layer(large_layer(t, "large", 4 * MIB));
    let id = registry.push(&image, "app:1");
    let valve = Valve::before(registry.domain(), 2 * MIB);
    let reference = valve.reference("app:1");
    let first = pull_meanwhile(t, &reference);
    t.eventually("the pull is under way", async |_| valve.is_shut().then_some(())).await;
    let second = pull_meanwhile(t, &reference);
    tokio::time::sleep(Duration::from_millis(200)).await;
    first.abort();
    tokio::time::sleep(Duration::from_millis(200)).await;
    valve.open();
    assert_eq!(second.await.expect("no panic").expect("PullImage"), id);
    let blobs = blobs_once_there_are(t, &registry, 2).await;
    assert_eq!(blobs.values().copied().collect::<Vec<_>>(), [1, 1], "{blobs:?}");
    remove(t, &id).await;
    Ok(())
}

async fn a_deadline_leaves_nothing(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let registry = registry()?;
    let empty = store(t);
    registry.push(&ImageBuilder::empty().layer(large_layer(t, "large", 4 * MIB)), "app:1");
    let valve = Valve::before(registry.domain(), 2 * MIB);
    let reference = valve.reference("app:1");
    for milliseconds in [1, 10, 300] {
        let mut request = Request::new(request(&reference));
        request.set_timeout(Duration::from_millis(milliseconds));
        let late = t.cri.images.clone().pull_image(request).await.expect_err("too late");
        // Who is first: our client calls its own timeout a cancellation.
        assert!(
            matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled),
            "{milliseconds} ms: {late:?}"
        );
        settled(t).await;
        assert_eq!(status(t, &reference).await, None, "{milliseconds} ms");
        assert_eq!(store(t), empty, "{milliseconds} ms");
    }
    Ok(())
}

async fn a_retry_after_a_cancelled_pull_succeeds(t: &mut Scenario) -> Outcome {
    let registry = registry()?;
    let image = ImageBuilder::empty()
        .layer(large_layer(t, "large", 2 * MIB))
        .layer(layer(t, "small"))
        .layer(large_layer(t, "larger", 3 * MIB));
    let id = registry.push(&image, "app:1");
    for kilobytes in [1, 100, 1000, 2500] {
        let valve = Valve::before(registry.domain(), kilobytes << 10);
        let reference = valve.reference("app:1");
        let pulling = pull_meanwhile(t, &reference);
        t.eventually("the pull is under way", async |_| valve.is_shut().then_some(())).await;
        pulling.abort();
        // At once, while the cancelled one is being cleared away.
        valve.open();
        assert_eq!(pull(t, &reference).await, id, "{kilobytes} KiB");
        present(t, &reference).await;
        remove(t, &id).await;
    }
    Ok(())
}

async fn the_command_line_pulls_beside_the_daemon(t: &mut Scenario) -> Outcome {
    let registry = registry()?;
    let image =
        ImageBuilder::busybox().layer(large_layer(t, "large", 2 * MIB)).layer(layer(t, "app"));
    let id = registry.push(&image, "app:1");
    let valve = Valve::before(registry.domain(), MIB);
    let reference = valve.reference("app:1");
    let mut command = t.instance().command(&["image", "pull", "--quiet", &reference]);
    let command = command.stdout(Stdio::piped()).spawn().expect("run usnea");
    let pulling = pull_meanwhile(t, &reference);
    // Two processes with a connection each.
    let both = async |_: &Scenario| (valve.passed() >= 2 * MIB).then_some(());
    t.eventually("both are under way", both).await;
    valve.open();
    assert_eq!(pulling.await.expect("no panic").expect("PullImage"), id);
    let output = command.wait_with_output().expect("wait for usnea");
    assert!(output.status.success(), "{}", output.status);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), id);
    let pod = t.run_pod().await;
    let spec = testkit::container("a", &reference).command(&["cat", "/own/app"]);
    assert_eq!(t.output(&pod, spec).await, format!("app of {}", t.name()));
    t.remove_pod(&pod).await;
    remove(t, &id).await;
    Ok(())
}
