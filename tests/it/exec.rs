//! `ExecSync`: output, exit codes, time-outs, identity.

use cri_api::v1::{ContainerState, ExecSyncRequest, NamespaceMode};
use it::Scenario;
use testkit::pod;
use tonic::Code;

it::tests!("exec":
    output_and_exit_code,
    a_command_that_cannot_run_has_a_shells_exit_code,
    a_signal_is_128_and_its_number,
    it_runs_where_the_container_does,
    it_has_the_containers_environment,
    standard_input_is_empty,
    a_timeout_kills_the_whole_tree,
    a_timeout_kills_in_a_shared_pid_namespace_only_its_own,
    big_output_is_cut_and_is_no_error,
    an_orphan_that_holds_the_output_delays_nothing,
    it_needs_a_running_container,
    bad_requests_are_refused,
    many_at_once,
    it_leaves_the_container_running,
);

/// What gRPC lets through.
const MESSAGE_MAX_BYTES: usize = 16 << 20;

async fn output_and_exit_code(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    for code in [0, 3, 126, 127, 255] {
        let script = format!("echo out; echo err >&2; exit {code}");
        let executed = t.try_exec(&id, &["sh", "-c", &script], 10).await.expect("ExecSync");
        assert_eq!((executed.stdout.as_str(), executed.stderr.as_str()), ("out", "err"));
        assert_eq!(executed.code, code);
    }
}

async fn a_command_that_cannot_run_has_a_shells_exit_code(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    for (program, code) in
        [("no-such-program", 127), ("/no/such/program", 127), ("/etc/passwd", 126), ("/etc", 126)]
    {
        let executed = t.try_exec(&id, &[program], 0).await.expect("no error: a probe has failed");
        assert_eq!(executed.code, code, "{program}: {executed:?}");
        assert_ne!(executed.stderr, "", "{program}");
    }
}

async fn a_signal_is_128_and_its_number(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    let executed = t.try_exec(&id, &["sh", "-c", "kill -TERM $$"], 0).await.expect("ExecSync");
    assert_eq!(executed.code, 143);
}

async fn it_runs_where_the_container_does(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let volume = t.volume("v");
    let id = t.launch(&pod, t.sleeper("a").mount(&volume, "/v").working_dir("/tmp")).await;
    assert_eq!(t.exec(&id, "pwd; ls -d /v; cat /proc/1/comm").await, "/tmp\n/v\nsleep");
    for kind in testkit::processes::NAMESPACES {
        let script = format!("readlink /proc/self/ns/{kind}; readlink /proc/1/ns/{kind}");
        let links = t.exec(&id, &script).await;
        let (own, first) = links.split_once('\n').expect("two lines");
        assert_eq!(own, first);
    }
    let cgroups = t.exec(&id, "grep ^0:: /proc/self/cgroup; grep ^0:: /proc/1/cgroup").await;
    let (own, first) = cgroups.split_once('\n').expect("two lines");
    assert!(own.starts_with(first), "the container's cgroup or one below: {cgroups}");
}

async fn it_has_the_containers_environment(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a").env("A", "1")).await;
    let executed = t.try_exec(&id, &["env"], 0).await.expect("ExecSync");
    for line in ["A=1", "PATH=/bin", "HOME=/root"] {
        assert!(executed.stdout.lines().any(|shown| shown == line), "{executed:?}");
    }
}

async fn standard_input_is_empty(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    let executed = t.try_exec(&id, &["cat"], 10).await.expect("ExecSync");
    assert_eq!((executed.stdout.as_str(), executed.code), ("", 0));
}

async fn sleepers(t: &Scenario, id: &str) -> String {
    t.exec(id, "grep -l ^sleep /proc/[0-9]*/cmdline | wc -l").await
}

async fn a_timeout_kills_the_whole_tree(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    let tree = "sleep 100000 & (setsid sleep 100000 &) ; sleep 100000";
    let status = t.try_exec(&id, &["sh", "-c", tree], 1).await.expect_err("too slow");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert_eq!(sleepers(t, &id).await, "1", "only the container's own is left");
}

async fn a_timeout_kills_in_a_shared_pid_namespace_only_its_own(t: &mut Scenario) {
    let pod = t.run(pod("pod").pid(NamespaceMode::Pod)).await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    let other = t.launch(&pod, t.sleeper("b")).await;
    let tree = "sleep 100000 & (setsid sleep 100000 &) ; sleep 100000";
    let status = t.try_exec(&id, &["sh", "-c", tree], 1).await.expect_err("too slow");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert_eq!(sleepers(t, &other).await, "2");
}

async fn big_output_is_cut_and_is_no_error(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    let flood = "head -c 20971520 /dev/zero; head -c 20971520 /dev/zero >&2; exit 5";
    let request = ExecSyncRequest {
        container_id: id,
        cmd: ["sh", "-c", flood].map(str::to_owned).to_vec(),
        timeout: 50,
    };
    let response = t.cri.runtime.exec_sync(request).await.expect("ExecSync").into_inner();
    let total = response.stdout.len() + response.stderr.len();
    assert!((MESSAGE_MAX_BYTES / 2..MESSAGE_MAX_BYTES).contains(&total), "{total}");
    assert_eq!(response.exit_code, 5);
}

async fn an_orphan_that_holds_the_output_delays_nothing(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    let script = "echo done; (setsid sleep 100000 &)";
    let executed = t.try_exec(&id, &["sh", "-c", script], 30).await.expect("ExecSync");
    assert_eq!((executed.stdout.as_str(), executed.code), ("done", 0));
}

async fn it_needs_a_running_container(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.create(&pod, t.sleeper("a")).await;
    let refused = t.try_exec(&id, &["true"], 0).await.expect_err("created");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    t.try_start(&id).await.expect("StartContainer");
    t.stop(&id, 0).await;
    let refused = t.try_exec(&id, &["true"], 0).await.expect_err("exited");
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

async fn bad_requests_are_refused(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    let cases: [(&[&str], i64); 4] = [(&[], 0), (&[""], 0), (&["a\0b"], 0), (&["true"], -1)];
    for (argv, timeout) in cases {
        let refused = t.try_exec(&id, argv, timeout).await.expect_err("bad");
        assert_eq!(refused.code(), Code::InvalidArgument, "{argv:?} {timeout}: {refused:?}");
    }
}

async fn many_at_once(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..30 {
        let request = ExecSyncRequest {
            container_id: id.clone(),
            cmd: ["echo".to_owned(), number.to_string()].to_vec(),
            timeout: 30,
        };
        let mut cri = t.cri.clone();
        calls.spawn(async move { (number, cri.runtime.exec_sync(request).await) });
    }
    for (number, response) in calls.join_all().await {
        let stdout = response.expect("ExecSync").into_inner().stdout;
        assert_eq!(String::from_utf8_lossy(&stdout), format!("{number}\n"));
    }
}

async fn it_leaves_the_container_running(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    for _ in 0..20 {
        t.exec(&id, "exit 0").await;
    }
    assert_eq!(t.status(&id).await.state(), ContainerState::ContainerRunning);
    assert_eq!(sleepers(t, &id).await, "1");
}
