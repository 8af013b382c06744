//! Stopping: which signal, how long, and who wins.

use std::time::{Duration, Instant};

use cri_api::v1::{ContainerState, Signal};
use it::Scenario;
use serde_json::json;
use testkit::image::ImageBuilder;
use tonic::Code;

use crate::command::import;

it::tests!("stops":
    a_container_may_end_itself_on_sigterm,
    one_that_does_not_is_killed_after_the_timeout,
    timeout_zero_asks_nobody,
    the_signal_is_the_requests_or_the_images,
    a_created_container_is_exited_by_stopping,
    the_shorter_of_two_stops_wins,
    stopping_ends_commands_too,
    a_negative_timeout_is_refused,
);

/// Answers `signal` with exit code 7 and ignores SIGTERM otherwise.
fn trap(signal: &str) -> String {
    let other = if signal == "TERM" { "" } else { "trap '' TERM;" };
    format!("{other} trap 'exit 7' {signal}; echo ready; while :; do sleep 0.05; done")
}

async fn launch_ready(t: &Scenario, pod: &str, spec: testkit::ContainerSpec) -> String {
    let id = t.launch(pod, spec).await;
    let ready = async |t: &Scenario| {
        let status = t.status(&id).await;
        t.printed(&status).contains("ready").then_some(())
    };
    t.eventually("the trap is set", ready).await;
    id
}

async fn a_container_may_end_itself_on_sigterm(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = launch_ready(t, &pod, t.busybox("a").script(&trap("TERM"))).await;
    t.stop(&id, 50).await;
    assert_eq!(t.status(&id).await.exit_code, 7, "it was not killed");
}

async fn one_that_does_not_is_killed_after_the_timeout(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = launch_ready(t, &pod, t.busybox("a").script(&trap("USR2"))).await;
    let begin = Instant::now();
    t.stop(&id, 1).await;
    assert!(begin.elapsed() >= Duration::from_secs(1), "it had no time to end itself");
    assert_eq!(t.status(&id).await.exit_code, 137);
}

async fn timeout_zero_asks_nobody(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = launch_ready(t, &pod, t.busybox("a").script(&trap("TERM"))).await;
    t.stop(&id, 0).await;
    assert_eq!(t.status(&id).await.exit_code, 137);
}

async fn the_signal_is_the_requests_or_the_images(t: &mut Scenario) {
    let image = ImageBuilder::busybox().with("StopSignal", json!("SIGUSR1"));
    let image = import(t, "usr1", &image);
    let pod = t.run_pod().await;
    let by_image = testkit::container("image", &image).script(&trap("USR1"));
    let id = launch_ready(t, &pod, by_image).await;
    assert_eq!(t.status(&id).await.stop_signal(), Signal::Sigusr1);
    t.stop(&id, 50).await;
    assert_eq!(t.status(&id).await.exit_code, 7);

    let by_request = testkit::container("request", &image)
        .script(&trap("USR2"))
        .with(|config| config.stop_signal = Signal::Sigusr2.into());
    let id = launch_ready(t, &pod, by_request).await;
    assert_eq!(t.status(&id).await.stop_signal(), Signal::Sigusr2);
    t.stop(&id, 50).await;
    assert_eq!(t.status(&id).await.exit_code, 7);
}

async fn a_created_container_is_exited_by_stopping(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.create(&pod, t.sleeper("a")).await;
    t.stop(&id, 10).await;
    let status = t.status(&id).await;
    assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 137));
}

async fn the_shorter_of_two_stops_wins(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = launch_ready(t, &pod, t.busybox("a").script(&trap("USR2"))).await;
    let request = cri_api::v1::StopContainerRequest { container_id: id.clone(), timeout: 100_000 };
    let mut cri = t.cri.clone();
    let patient = tokio::spawn(async move { cri.runtime.stop_container(request).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    t.stop(&id, 0).await;
    patient.await.expect("no panic").expect("the patient one ends, too");
    assert_eq!(t.status(&id).await.exit_code, 137);
}

async fn stopping_ends_commands_too(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    let request = cri_api::v1::ExecSyncRequest {
        container_id: id.clone(),
        cmd: ["sleep", "100000"].map(str::to_owned).to_vec(),
        timeout: 0,
    };
    let mut cri = t.cri.clone();
    let exec = tokio::spawn(async move { cri.runtime.exec_sync(request).await });
    t.eventually("the command runs", async |t| {
        let seen = t.exec(&id, "grep -l ^sleep /proc/[0-9]*/cmdline | wc -l").await;
        (seen == "2").then_some(())
    })
    .await;
    t.stop(&id, 0).await;
    if let Ok(response) = exec.await.expect("no panic") {
        assert_eq!(response.into_inner().exit_code, 137);
    }
}

async fn a_negative_timeout_is_refused(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    for timeout in [-1, i64::MIN] {
        let status = t.try_stop(&id, timeout).await.expect_err("negative");
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    assert_eq!(t.status(&id).await.state(), ContainerState::ContainerRunning);
    t.stop(&id, 0).await;
}
