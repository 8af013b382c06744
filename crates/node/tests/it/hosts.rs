//! Hosts that offer less, or more.

use nix::unistd::geteuid;
use serde_json::Value;

use crate::sandbox::{Sandbox, as_root, error_of, need, text_of};

/// No login name, no subordinate ids.
const STRANGER: u32 = 54_321;

#[test]
fn the_machines_root_is_refused() {
    need!(as_root());
    let sandbox = Sandbox::of(0, 0);
    for command in ["hold", "facts", "enter"] {
        let (code, message) = error_of(&sandbox.output(&[command]));
        assert_eq!(code, Some(2), "{command}: {message}");
        assert!(message.contains("run it as an ordinary user"), "{message}");
    }
}

#[test]
fn without_subordinate_ids_there_is_one_id_and_the_facts_say_so() {
    need!(as_root());
    let sandbox = Sandbox::of(STRANGER, STRANGER);
    let inside = sandbox.json(&["enter"]);
    assert_eq!(inside["uid"], 0);
    let reason = inside["facts"]["ids"]["single_id"]["reason"].as_str().expect("a reason");
    assert!(reason.starts_with("54321 has no subordinate ids in /etc/subuid"), "{reason}");
    let map = sandbox.shell("cat /proc/self/uid_map /proc/self/setgroups");
    let words: Vec<_> = map.split_whitespace().collect();
    assert_eq!(words, ["0", "54321", "1", "deny"]);
}

#[test]
fn a_namespace_with_its_network_is_adopted() {
    let sandbox = need!(Sandbox::new());
    let unshare = ["unshare", "-Urn"];
    let output = sandbox.command_in(&unshare, &["enter"]).output().expect("unshare");
    let inside: Value = serde_json::from_str(&text_of(&output)).expect("JSON");
    assert_eq!(inside["facts"]["mode"], "adopted");
    assert_eq!(inside["facts"]["network"], "adopted");
    assert_eq!(inside["same_network"], true);
    assert_eq!(inside["network_is_the_nodes"], true);
    assert_eq!(inside["network_is_the_hosts"], true);
}

#[test]
fn a_namespace_without_a_network_gets_one() {
    let sandbox = need!(Sandbox::new());
    let output = sandbox.command_in(&["unshare", "-Ur"], &["enter"]).output().expect("unshare");
    let inside: Value = serde_json::from_str(&text_of(&output)).expect("JSON");
    assert_eq!(inside["facts"]["mode"], "adopted");
    assert_eq!(inside["facts"]["network"], "own");
    assert_eq!(inside["network_is_the_nodes"], false);
    assert_eq!(inside["network_is_the_hosts"], true);
}

/// Runs `script` as root with cgroup v2 at its place, in a cgroup that belongs to the sandbox's user: `$D`. `$N` runs
/// node-cli as that user. The cgroup is removed afterwards.
fn in_delegated_cgroup(sandbox: &Sandbox, script: &str) -> String {
    let name = format!("usnea-node-{}", sandbox.root.path().file_name().expect("name").display());
    let (uid, gid) = (sandbox.uid, sandbox.gid);
    let root = sandbox.root.path().display();
    let script = format!(
        "set -e; mount -t cgroup2 none /sys/fs/cgroup; D=/sys/fs/cgroup/{name}; mkdir $D
         chown {uid} $D $D/cgroup.procs $D/cgroup.subtree_control $D/cgroup.threads
         echo $$ > $D/cgroup.procs
         N=\"setpriv --reuid {uid} --regid {gid} --clear-groups {root}/node-cli {root}/run/usnea {root}/data/usnea /\"
         clean() {{
           echo $$ > /sys/fs/cgroup/cgroup.procs; echo 1 > $D/cgroup.kill
           for i in 1 2 3 4 5 6 7 8 9; do find $D -depth -type d -exec rmdir {{}} + 2>/dev/null && break; sleep 0.1; done
         }}
         trap clean EXIT
         {script}"
    );
    let output = std::process::Command::new("unshare").args(["-m", "sh", "-c", &script]).output();
    text_of(&output.expect("unshare"))
}

#[test]
fn a_delegated_cgroup_becomes_the_nodes_root() {
    need!(as_root());
    let sandbox = need!(Sandbox::new());
    let text = in_delegated_cgroup(
        &sandbox,
        "$N enter; cat $D/system/cgroup.procs | wc -l; $N exec grep ^0:: /proc/self/cgroup; $N exec mkdir /sys/fs/cgroup/kubepods; ls -d $D/kubepods | wc -l",
    );
    let lines: Vec<_> = text.lines().collect();
    let inside: Value = serde_json::from_str(lines[0]).expect("JSON");
    let path = inside["facts"]["cgroup"]["delegated"]["path"].as_str().expect("delegated");
    assert!(path.starts_with("/usnea-node-"), "{path}");
    assert_eq!(inside["cgroup"], "/system");
    assert_eq!(inside["placement_problem"], Value::Null);
    assert_eq!(lines[1..], ["1", "0::/exec", "1"], "{text}");
}

#[test]
fn who_comes_from_another_cgroup_is_told() {
    need!(as_root());
    let sandbox = need!(Sandbox::new());
    let text = in_delegated_cgroup(
        &sandbox,
        "$N facts; echo $$ > /sys/fs/cgroup/cgroup.procs; $N enter; $N exec true",
    );
    let inside: Value = serde_json::from_str(text.lines().nth(1).expect("two")).expect("JSON");
    let problem = inside["placement_problem"].as_str().expect("not allowed");
    assert!(problem.contains("start it in the same cgroup as the holder"), "{problem}");
}

#[test]
fn a_cgroup_that_is_not_the_users_is_not_used() {
    need!(as_root());
    let sandbox = need!(Sandbox::new());
    let text = in_delegated_cgroup(&sandbox, "chown 0 $D/cgroup.subtree_control; $N facts");
    let facts: Value = serde_json::from_str(&text).expect("JSON");
    let reason = facts["cgroup"]["missing"]["reason"].as_str().expect("missing");
    assert!(
        reason.contains("is not this user's to divide") && reason.contains("Delegate=yes"),
        "{reason}"
    );
}

#[test]
fn check_tries_what_a_node_needs_and_leaves_nothing() {
    let sandbox = need!(Sandbox::new());
    let output = sandbox.output(&["check"]);
    let checks: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let missing: Vec<_> = checks.iter().filter(|check| check["state"] == "missing").collect();
    assert_eq!(output.status.success(), missing.is_empty(), "{missing:?}");
    let state = |name: &str| {
        let check = checks.iter().find(|check| check["name"] == name);
        check.expect("checked")["state"].clone()
    };
    assert_eq!(
        state("user"),
        if geteuid().is_root() && sandbox.uid == 0 { "missing" } else { "ok" }
    );
    // A node can be made here, as the other tests show, so these must be found.
    for name in ["user namespaces", "subordinate uids", "subordinate gids", "newuidmap, newgidmap"]
    {
        assert_eq!(state(name), "ok", "{name}");
    }
    let left = std::fs::read_dir(sandbox.path("data")).expect("list").count();
    assert_eq!(left, 0);
}
