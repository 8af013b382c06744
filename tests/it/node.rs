//! `usnea node`: the namespaces around everything.

use it::Scenario;
use serde_json::Value;
use testkit::Options;

it::tests!("node":
    commands_run_as_the_nodes_root,
    the_exit_code_is_the_commands,
    commands_are_in_the_nodes_namespaces,
    the_directories_of_a_kubelet_are_writable,
    the_status_describes_the_holder,
    a_second_holder_is_refused,
    sockets_are_for_their_owner_only,
    the_holder_outlives_the_daemon_and_ends_by_sigterm,
);

fn exec(t: &Scenario, script: &str) -> String {
    let printed = t.instance().usnea_ok(&["node", "exec", "--", "sh", "-c", script]);
    printed.trim_end().to_owned()
}

async fn commands_run_as_the_nodes_root(t: &mut Scenario) {
    assert_eq!(exec(t, "id -u; id -g"), "0\n0");
    let map = exec(t, "cat /proc/self/uid_map");
    let outside = map.split_whitespace().nth(1).expect("a mapping");
    assert_eq!(outside, t.instance().account().uid.to_string(), "{map}");
    assert!(map.lines().count() > 1, "with subordinate ids: {map}");
}

async fn the_exit_code_is_the_commands(t: &mut Scenario) {
    for code in [0, 7, 255] {
        let script = format!("exit {code}");
        let output = t.instance().usnea(&["node", "exec", "--", "sh", "-c", &script]);
        assert_eq!(output.status.code(), Some(code));
    }
    let missing = t.instance().usnea(&["node", "exec", "--", "/no/such/program"]);
    assert!(!missing.status.success());
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/no/such/program"), "{missing:?}");
}

async fn commands_are_in_the_nodes_namespaces(t: &mut Scenario) {
    let holder = t.instance().node_holder().expect("node hold runs");
    for kind in ["user", "mnt", "net", "cgroup"] {
        let seen = exec(t, &format!("readlink /proc/self/ns/{kind}"));
        assert_eq!(Some(seen), holder.namespace(kind), "{kind}");
    }
}

async fn the_directories_of_a_kubelet_are_writable(t: &mut Scenario) {
    for directory in ["/var/lib/kubelet", "/var/log/pods", "/etc/cni/net.d"] {
        let file = format!("{directory}/usnea-test");
        assert_eq!(exec(t, &format!("echo x > {file}; cat {file}; rm {file}")), "x");
        assert!(!std::path::Path::new(&file).exists(), "the machine's own is untouched");
    }
}

async fn the_status_describes_the_holder(t: &mut Scenario) {
    let printed = t.instance().usnea_ok(&["node", "status"]);
    let status: Value = serde_json::from_str(&printed).expect("JSON");
    let holder = t.instance().node_holder().expect("node hold runs");
    let pid = status.get("pid").or_else(|| status.get("holder_pid"));
    assert_eq!(pid.and_then(Value::as_i64), Some(i64::from(holder.pid)), "{status}");
}

async fn a_second_holder_is_refused(t: &mut Scenario) {
    let output = t.instance().usnea(&["node", "hold"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(t.instance().node_holder().is_some());
}

async fn sockets_are_for_their_owner_only(t: &mut Scenario) {
    use std::os::unix::fs::PermissionsExt;
    let run = t.instance().runtime_directory();
    for (path, expected) in [(run.clone(), 0o700), (t.instance().data_directory(), 0o700)] {
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, expected, "{}", path.display());
    }
    let mode = std::fs::metadata(run.join("usnea.sock")).expect("there").permissions().mode();
    assert_eq!(mode & 0o177, 0, "{mode:o}");
}

async fn the_holder_outlives_the_daemon_and_ends_by_sigterm(t: &mut Scenario) -> it::Outcome {
    t.own_daemon(Options::default()).await?;
    let holder = t.instance().node_holder().expect("node hold runs");
    t.instance().stop();
    assert_eq!(t.instance().node_holder(), Some(holder));
    t.instance().start_daemon();
    assert_eq!(t.instance().node_holder(), Some(holder), "the new daemon has found it");
    t.instance().stop();
    let pid = nix::unistd::Pid::from_raw(holder.pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("kill");
    t.eventually("the holder ends", async |t| t.instance().node_holder().is_none().then_some(()))
        .await;
    t.instance().start_daemon();
    assert_ne!(t.instance().node_holder(), Some(holder));
    t.audit_from_now();
    Ok(())
}
