//! The daemon or an unpacker is killed while an image is pulled.

use std::time::{Duration, Instant};

use it::{Outcome, Scenario};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use testkit::{Options, image::ImageBuilder, valve::Valve};
use tonic::Code;

use super::support::{
    MIB, large_layer, layer, list, present, prune, pull, pull_meanwhile, registry, remove, settled,
    status, store, unfinished, unpackers,
};

it::tests!("pulls_killed":
    a_pull_killed_at_any_moment_succeeds_on_retry,
    a_killed_unpacker_fails_its_pull_only,
    a_stopped_daemon_leaves_no_unpacker,
    a_killed_command_leaves_what_a_prune_removes,
);

/// Moments, spread over the time that a pull takes.
const KILLS: u32 = 20;

fn image(t: &Scenario) -> ImageBuilder {
    let files = (0..200).fold(layer(t, "files"), |layer, index| {
        layer.file(&format!("own/{index:03}"), 0o644, b"x")
    });
    ["one", "two", "three", "four"]
        .into_iter()
        .fold(ImageBuilder::busybox().layer(files), |image, name| {
            image.layer(large_layer(t, name, 2 * MIB))
        })
}

async fn restart(t: &mut Scenario) {
    t.instance().restart();
    t.reconnect().await;
}

async fn a_pull_killed_at_any_moment_succeeds_on_retry(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let registry = registry()?;
    let empty = store(t);
    let id = registry.push(&image(t), "app:1");
    let reference = registry.reference("app:1");
    let begin = Instant::now();
    pull(t, &reference).await;
    let whole = begin.elapsed();
    let full = store(t);
    remove(t, &reference).await;
    let mut unfinished_pulls = 0;
    for moment in 0..KILLS {
        t.eventually("the store is empty", async |t| (store(t) == empty).then_some(())).await;
        let pulling = pull_meanwhile(t, &reference);
        tokio::time::sleep(whole * moment / KILLS).await;
        t.instance().kill_daemon();
        unfinished_pulls += u32::from(pulling.await.expect("no panic").is_err());
        t.instance().start_daemon();
        t.reconnect().await;
        let what = format!("killed after {moment}/{KILLS} of {whole:?}");
        assert_eq!(unfinished(t), Vec::<String>::new(), "{what}");
        settled(t).await;
        // All or nothing.
        if let Some(image) = status(t, &reference).await {
            assert_eq!((&image.id, store(t)), (&id, full.clone()), "{what}");
        }
        assert_eq!(pull(t, &reference).await, id, "{what}");
        assert_eq!(store(t), full, "{what}");
        let pod = t.run_pod().await;
        let spec = testkit::container("a", &reference).script("cat /own/files; ls /own | wc -l");
        let expected = format!("files of {}201", t.name());
        assert_eq!(t.output(&pod, spec).await, expected, "{what}");
        t.stop_pod(&pod).await;
        t.remove_pod(&pod).await;
        remove(t, &reference).await;
    }
    assert!(unfinished_pulls >= KILLS / 2, "only {unfinished_pulls} kills met a pull");
    Ok(())
}

async fn a_killed_unpacker_fails_its_pull_only(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let registry = registry()?;
    let empty = store(t);
    registry.push(&image(t), "app:1");
    registry.push(&ImageBuilder::empty().layer(layer(t, "other")), "other:1");
    let valve = Valve::before(registry.domain(), 2 * MIB);
    let reference = valve.reference("app:1");
    let pulling = pull_meanwhile(t, &reference);
    t.eventually("the pull is under way", async |_| valve.is_shut().then_some(())).await;
    let mut killed = t.instance().scope().processes().into_iter();
    let killed = killed.find(|process| process.command_line().contains("unpack-layer"));
    kill(Pid::from_raw(killed.expect("an unpacker").pid), Signal::SIGKILL).expect("kill");
    valve.open();
    let failed = pulling.await.expect("no panic").expect_err("no unpacker");
    assert_eq!(failed.code(), Code::Internal, "{failed:?}");
    assert_eq!(list(t, &reference).await, []);
    pull(t, &registry.reference("other:1")).await;
    pull(t, &reference).await;
    remove(t, &reference).await;
    remove(t, &registry.reference("other:1")).await;
    settled(t).await;
    assert_eq!(store(t), empty);
    Ok(())
}

async fn a_stopped_daemon_leaves_no_unpacker(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let registry = registry()?;
    let empty = store(t);
    registry.push(&image(t), "app:1");
    let valve = Valve::before(registry.domain(), 2 * MIB);
    let reference = valve.reference("app:1");
    let pulling = pull_meanwhile(t, &reference);
    t.eventually("the pull is under way", async |_| valve.is_shut().then_some(())).await;
    t.instance().stop();
    pulling.await.expect("no panic").expect_err("no daemon");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !unpackers(t).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", unpackers(t));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    restart(t).await;
    assert_eq!((status(t, &reference).await, unfinished(t)), (None, vec![]));
    valve.open();
    pull(t, &reference).await;
    present(t, &reference).await;
    remove(t, &reference).await;
    t.eventually("the store is empty", async |t| (store(t) == empty).then_some(())).await;
    Ok(())
}

async fn a_killed_command_leaves_what_a_prune_removes(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let registry = registry()?;
    let empty = store(t);
    registry.push(&image(t), "app:1");
    let valve = Valve::before(registry.domain(), MIB);
    let reference = valve.reference("app:1");
    let mut command = t.instance().command(&["image", "pull", "--quiet", &reference]);
    let mut command = command.spawn().expect("run usnea");
    t.eventually("the pull is under way", async |_| valve.is_shut().then_some(())).await;
    command.kill().expect("kill usnea");
    command.wait().expect("wait for usnea");
    t.eventually("its unpackers end", async |t| unpackers(t).is_empty().then_some(())).await;
    prune(t);
    assert_eq!(store(t), empty);
    valve.open();
    pull(t, &reference).await;
    remove(t, &reference).await;
    Ok(())
}
