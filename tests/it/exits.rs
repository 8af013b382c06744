//! How containers end: exit codes, reasons, and what dies with them.

use cri_api::v1::{ContainerState, ContainerStatus};
use it::Scenario;
use tonic::Code;

it::tests!("exits":
    exit_codes_and_reasons,
    a_signal_is_128_and_its_number,
    a_missing_program_cannot_run,
    a_program_that_is_not_executable_cannot_run,
    starting_twice_is_refused,
    starting_after_the_exit_is_refused,
    what_the_first_process_leaves_is_killed,
    an_orphan_that_holds_the_output_delays_nothing,
    zombies_are_nobodys_problem,
);

async fn ended(t: &Scenario, pod: &str, name: &str, script: &str) -> ContainerStatus {
    let id = t.launch(pod, t.busybox(name).script(script)).await;
    t.exited(&id).await
}

fn outcome(status: &ContainerStatus) -> (i32, &str) {
    (status.exit_code, &status.reason)
}

async fn exit_codes_and_reasons(t: &mut Scenario) {
    let pod = t.run_pod().await;
    for (code, reason) in [(0, "Completed"), (1, "Error"), (3, "Error"), (255, "Error")] {
        let status = ended(t, &pod, &format!("c{code}"), &format!("exit {code}")).await;
        assert_eq!(outcome(&status), (code, reason));
        assert!(status.started_at >= status.created_at, "{status:?}");
        assert!(status.finished_at >= status.started_at, "{status:?}");
    }
}

async fn a_signal_is_128_and_its_number(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    let pid = nix::unistd::Pid::from_raw(t.pid(&id).await);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill");
    assert_eq!(outcome(&t.exited(&id).await), (137, "Error"));
}

async fn cannot_run(t: &Scenario, pod: &str, spec: testkit::ContainerSpec) {
    let id = t.create(pod, spec).await;
    let refusal = t.try_start(&id).await.expect_err("it cannot run");
    assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal:?}");
    let status = t.status(&id).await;
    assert_eq!(status.state(), ContainerState::ContainerExited);
    assert_eq!(outcome(&status), (128, "ContainerCannotRun"));
    assert!(status.finished_at > 0 && status.started_at > 0, "{status:?}");
    assert_ne!(status.message, "");
}

async fn a_missing_program_cannot_run(t: &mut Scenario) {
    let pod = t.run_pod().await;
    cannot_run(t, &pod, t.busybox("absolute").command(&["/no/such/program"])).await;
    cannot_run(t, &pod, t.busybox("searched").command(&["no-such-program"])).await;
}

async fn a_program_that_is_not_executable_cannot_run(t: &mut Scenario) {
    let pod = t.run_pod().await;
    cannot_run(t, &pod, t.busybox("file").command(&["/etc/passwd"])).await;
    cannot_run(t, &pod, t.busybox("directory").command(&["/etc"])).await;
}

async fn starting_twice_is_refused(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    let again = t.try_start(&id).await.expect_err("it runs");
    assert_eq!(again.code(), Code::FailedPrecondition);
    assert_eq!(t.status(&id).await.state(), ContainerState::ContainerRunning);
}

async fn starting_after_the_exit_is_refused(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.busybox("a").command(&["true"])).await;
    t.exited(&id).await;
    assert_eq!(t.try_start(&id).await.expect_err("ended").code(), Code::FailedPrecondition);
}

async fn what_the_first_process_leaves_is_killed(t: &mut Scenario) {
    for mode in [cri_api::v1::NamespaceMode::Container, cri_api::v1::NamespaceMode::Pod] {
        let pod = t.run(testkit::pod(&format!("{mode:?}").to_lowercase()).pid(mode)).await;
        let volume = t.volume(&format!("{mode:?}"));
        let script = "(setsid sh -c 'while :; do echo x >> /v/beat; sleep 0.05; done' &) ; \
                      until [ -s /v/beat ]; do sleep 0.05; done";
        let id = t.launch(&pod, t.busybox("a").mount(&volume, "/v").script(script)).await;
        t.exited(&id).await;
        let size = || std::fs::metadata(volume.join("beat")).expect("written").len();
        let before = size();
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert_eq!(size(), before, "{mode:?}: the orphan lives");
    }
}

async fn an_orphan_that_holds_the_output_delays_nothing(t: &mut Scenario) {
    let pod = t.run(testkit::pod("pod").pid(cri_api::v1::NamespaceMode::Pod)).await;
    let status = ended(t, &pod, "a", "(setsid sleep 100000 &); echo done; exit 4").await;
    assert_eq!(outcome(&status), (4, "Error"));
    assert_eq!(t.printed(&status), "done");
}

async fn zombies_are_nobodys_problem(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let script = "for i in $(seq 200); do (true &) ; done; exec sleep 100000";
    let id = t.launch(&pod, t.busybox("a").script(script)).await;
    assert_eq!(t.exec(&id, "echo alive").await, "alive");
    t.stop(&id, 0).await;
    assert_eq!(t.status(&id).await.exit_code, 137);
}
