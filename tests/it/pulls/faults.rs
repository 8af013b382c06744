//! Registries, networks and disks that do not work as they should.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use it::{Outcome, Scenario};
use testkit::{
    Options,
    image::ImageBuilder,
    registry::{FakeRegistry, Fault},
    valve::Valve,
};
use tonic::{Code, Status};

use super::support::{
    MIB, large_layer, present, prune, pull, pull_meanwhile, registry, remove, settled, small,
    status, store, try_pull, usage,
};

it::tests!("pulls_faults":
    what_the_registry_does_not_have_is_not_found,
    an_unreachable_registry_is_unavailable,
    refusals_and_failures_have_their_codes,
    what_fails_for_a_while_is_asked_for_again,
    a_broken_connection_is_taken_up_again,
    a_registry_that_falls_silent_is_unavailable,
    a_registry_that_dies_is_unavailable,
    wrong_bytes_are_not_taken,
    a_full_disk_is_said_and_freed,
);

fn is_unavailable(failed: &Status, what: &str) {
    assert_eq!(failed.code(), Code::Unknown, "{what}: {failed:?}");
    assert!(failed.message().starts_with("RegistryUnavailable: "), "{what}: {failed:?}");
}

async fn what_the_registry_does_not_have_is_not_found(t: &mut Scenario) -> Outcome {
    let registry = registry()?;
    registry.push(&small(t, "app"), "app:1");
    let unknown = format!("app@sha256:{}", "0".repeat(64));
    for name in ["app:2", "other:1", "team/app:1", &unknown] {
        let reference = registry.reference(name);
        let missing = try_pull(t, &reference).await.expect_err(name);
        assert_eq!(missing.code(), Code::NotFound, "{name}: {missing:?}");
        assert!(missing.message().contains(name), "{name}: {missing:?}");
        assert_eq!(status(t, &reference).await, None, "{name}");
    }
    Ok(())
}

/// C67
async fn an_unreachable_registry_is_unavailable(t: &mut Scenario) {
    for reference in ["127.0.0.1:1/app:1", "localhost:1/app", "nowhere.invalid/app:1"] {
        let failed = try_pull(t, reference).await.expect_err(reference);
        is_unavailable(&failed, reference);
        let (domain, _) = reference.split_once('/').expect("a domain");
        assert!(failed.message().contains(domain), "{failed:?}");
        assert!(failed.message().len() < 2048, "{failed:?}");
    }
}

/// C67
async fn refusals_and_failures_have_their_codes(t: &mut Scenario) {
    for (answer, code, again) in [
        (503, Code::Unknown, true),
        (500, Code::Unknown, true),
        (429, Code::Unknown, true),
        (401, Code::PermissionDenied, false),
        (403, Code::PermissionDenied, false),
        (404, Code::NotFound, false),
        (418, Code::FailedPrecondition, false),
    ] {
        for path in ["/manifests/", "/blobs/"] {
            let what = format!("{answer} for {path}");
            let registry = FakeRegistry::start();
            registry.push(&small(t, &answer.to_string()), "app:1");
            registry.always_fail(path, Fault::Status(answer));
            let reference = registry.reference("app:1");
            let failed = try_pull(t, &reference).await.expect_err(&what);
            assert_eq!(failed.code(), code, "{what}: {failed:?}");
            if code == Code::Unknown {
                is_unavailable(&failed, &what);
            }
            let asked = registry.count(path);
            assert!(if again { asked > 1 } else { asked == 1 }, "{what}: {asked} times");
            assert_eq!(status(t, &reference).await, None, "{what}");
        }
    }
}

async fn what_fails_for_a_while_is_asked_for_again(t: &mut Scenario) {
    for fault in [
        Fault::Status(503),
        Fault::RetryAfter(429, "1".to_owned()),
        Fault::HangUp,
        Fault::Truncated(10),
    ] {
        let registry = FakeRegistry::start();
        let pushed = registry.push(&small(t, "app"), "app:1");
        for path in ["/manifests/", "/blobs/"] {
            registry.fail(path, [fault.clone(), fault.clone()]);
        }
        let reference = registry.reference("app:1");
        let pulled = try_pull(t, &reference).await;
        assert_eq!(pulled.unwrap_or_else(|status| panic!("{fault:?}: {status:?}")), pushed.id);
        remove(t, &reference).await;
    }
}

async fn a_broken_connection_is_taken_up_again(t: &mut Scenario) -> Outcome {
    let registry = registry()?;
    let image = ImageBuilder::empty().layer(large_layer(t, "large", 8 * MIB));
    let id = registry.push(&image, "app:1");
    let valve = Valve::before(registry.domain(), 3 * MIB);
    let reference = valve.reference("app:1");
    let pulling = pull_meanwhile(t, &reference);
    for _ in 0..2 {
        t.eventually("half is through", async |_| valve.is_shut().then_some(())).await;
        valve.break_connections();
        valve.allow(2 * MIB);
    }
    t.eventually("most is through", async |_| valve.is_shut().then_some(())).await;
    valve.open();
    assert_eq!(pulling.await.expect("no panic").expect("PullImage"), id);
    // What was lost on the way comes twice, but nothing begins anew.
    assert!(valve.passed() < 11 * MIB, "{} bytes", valve.passed());
    t.eventually("the log has it", async |_| {
        registry.answered().iter().any(|answered| answered.status == 206).then_some(())
    })
    .await;
    remove(t, &reference).await;
    Ok(())
}

async fn a_registry_that_falls_silent_is_unavailable(t: &mut Scenario) -> Outcome {
    let config = "[images]\nstall_seconds = 1\n".to_owned();
    t.own_daemon(Options { config, ..Options::default() }).await?;
    let registry = registry()?;
    let empty = store(t);
    registry.push(&ImageBuilder::empty().layer(large_layer(t, "large", 2 * MIB)), "app:1");
    for bytes in [0, 100, MIB] {
        let valve = Valve::before(registry.domain(), bytes);
        let begin = Instant::now();
        let failed = try_pull(t, &valve.reference("app:1")).await.expect_err("silence");
        is_unavailable(&failed, &format!("after {bytes} bytes"));
        assert!(begin.elapsed() < Duration::from_secs(40), "{:?}", begin.elapsed());
        settled(t).await;
        assert_eq!(store(t), empty, "after {bytes} bytes");
    }
    Ok(())
}

async fn a_registry_that_dies_is_unavailable(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let registry = registry()?;
    let empty = store(t);
    let image = ImageBuilder::empty().layer(large_layer(t, "one", 2 * MIB)).layer(large_layer(
        t,
        "two",
        2 * MIB,
    ));
    registry.push(&image, "app:1");
    let valve = Valve::before(registry.domain(), MIB);
    let pulling = pull_meanwhile(t, &valve.reference("app:1"));
    t.eventually("the pull is under way", async |_| valve.is_shut().then_some(())).await;
    drop(registry);
    drop(valve);
    let failed = pulling.await.expect("no panic").expect_err("no registry");
    is_unavailable(&failed, "dead");
    settled(t).await;
    assert_eq!(store(t), empty);
    Ok(())
}

/// Changes a file and returns what it was.
fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let good = fs::read(path).expect("a blob");
    let mut bad = good.clone();
    change(&mut bad);
    fs::write(path, bad).expect("write a blob");
    good
}

async fn wrong_bytes_are_not_taken(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let registry = registry()?;
    let empty = store(t);
    registry.push(&ImageBuilder::empty().layer(large_layer(t, "large", MIB)), "app:1");
    let manifest = registry.manifest("app:1");
    let digest = |value: &serde_json::Value| value["digest"].as_str().expect("given").to_owned();
    let blobs = [digest(&manifest["config"]), digest(&manifest["layers"][0])];
    let reference = registry.reference("app:1");
    for blob in blobs.map(|digest| registry.blob(&digest)) {
        let middle = fs::metadata(&blob).expect("a blob").len() / 2;
        let middle = usize::try_from(middle).expect("short");
        type Change = Box<dyn FnOnce(&mut Vec<u8>)>;
        let changes: [(&str, Change); 4] = [
            ("a bit is flipped", Box::new(move |bytes| bytes[middle] ^= 1)),
            ("the end is missing", Box::new(move |bytes| bytes.truncate(middle))),
            ("there is more", Box::new(|bytes| bytes.push(0))),
            ("it is empty", Box::new(Vec::clear)),
        ];
        for (what, damage) in changes {
            let good = change(&blob, damage);
            let what = format!("{what} in {}", blob.display());
            let refused = try_pull(t, &reference).await.expect_err(&what);
            assert_eq!(refused.code(), Code::FailedPrecondition, "{what}: {refused:?}");
            settled(t).await;
            assert_eq!(store(t), empty, "{what}");
            fs::write(&blob, good).expect("mend the blob");
        }
    }
    pull(t, &reference).await;
    Ok(())
}

async fn a_full_disk_is_said_and_freed(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options { data_mib: Some(24), ..Options::default() }).await?;
    let registry = registry()?;
    let before = usage(t).await;
    let image = ImageBuilder::empty().layer(large_layer(t, "first", 12 * MIB)).layer(large_layer(
        t,
        "second",
        12 * MIB,
    ));
    registry.push(&image, "large:1");
    registry.push(&small(t, "small"), "small:1");
    let (large, little) = (registry.reference("large:1"), registry.reference("small:1"));
    for _ in 0..3 {
        let full = try_pull(t, &large).await.expect_err("the disk is full");
        assert_eq!(full.code(), Code::ResourceExhausted, "{full:?}");
        assert_eq!(status(t, &large).await, None);
    }
    // What is complete of it waits for the next attempt; making room works with a full disk.
    remove(t, &large).await;
    prune(t);
    assert_eq!(usage(t).await, before);
    pull(t, &little).await;
    present(t, &little).await;
    remove(t, &little).await;
    Ok(())
}
