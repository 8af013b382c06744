//! A machine without a delegated cgroup: pods run, and everything in them can be killed all the same.

use cri_api::v1::{ContainerState, NamespaceMode, StatusRequest};
use it::{Outcome, Scenario};
use testkit::{Options, pod};
use tonic::Code;

it::tests!("without_cgroups": pods_run_and_are_killed_whole);

async fn pods_run_and_are_killed_whole(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options { cgroups: false, ..Options::default() }).await?;
    let status = t.cri.runtime.status(StatusRequest { verbose: false }).await.expect("Status");
    let conditions = status.into_inner().status.expect("a status").conditions;
    let cgroups = conditions.iter().find(|condition| condition.r#type == "CgroupControllersReady");
    assert!(!cgroups.expect("a condition").status, "never pretend: {conditions:?}");
    for mode in [NamespaceMode::Container, NamespaceMode::Pod] {
        let pod = t.run(pod(&format!("{mode:?}").to_lowercase()).pid(mode)).await;
        runs_and_is_killed(t, &pod).await;
        limits_are_refused(t, &pod).await;
        t.remove_pod(&pod).await;
    }
    Ok(())
}

async fn runs_and_is_killed(t: &Scenario, pod: &str) {
    let script = "(setsid sleep 100000 &); sleep 100000 & exec sleep 100000";
    let id = t.launch(pod, t.busybox("a").script(script)).await;
    // An orphan in a session of its own could not be told from the container's.
    let tree = "sleep 100000 & sh -c 'sleep 100000; :'";
    let status = t.try_exec(&id, &["sh", "-c", tree], 1).await.expect_err("too slow");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    let count = "grep -l ^sleep /proc/[0-9]*/cmdline | wc -l";
    assert_eq!(t.exec(&id, count).await, "3", "the container's own");
    t.stop(&id, 0).await;
    assert_eq!(t.status(&id).await.state(), ContainerState::ContainerExited);
    let left: Vec<String> = t
        .instance()
        .scope()
        .processes()
        .iter()
        .map(|process| process.command_line())
        .filter(|line| line.starts_with("sleep"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

async fn limits_are_refused(t: &Scenario, pod: &str) {
    let spec = t.sleeper("limited").linux(|linux| {
        linux.resources.get_or_insert_default().memory_limit_in_bytes = 64 << 20;
    });
    let message = t.refused(pod, spec, Code::FailedPrecondition).await;
    assert!(message.contains("memory") && message.contains("Delegate"), "{message}");
}
