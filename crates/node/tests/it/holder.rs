//! One holder per runtime directory, found by its socket.

use std::{
    collections::HashSet,
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        net::UnixStream,
    },
};

use nix::{sys::signal::Signal, unistd::geteuid};
use sys::seqpacket;

use crate::sandbox::{Sandbox, as_root, error_of, need};

#[test]
fn clients_that_start_together_share_one_holder() {
    let sandbox = need!(Sandbox::new());
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let mut command = sandbox.command(&["facts"]);
            command.stdout(std::process::Stdio::piped()).spawn().expect("start node-cli")
        })
        .collect();
    let pids: HashSet<i64> = clients
        .into_iter()
        .map(|client| {
            let output = client.wait_with_output().expect("wait");
            let facts: serde_json::Value = serde_json::from_slice(&output.stdout).expect("facts");
            facts["pid"].as_i64().expect("pid")
        })
        .collect();
    assert_eq!(pids.len(), 1, "{pids:?}");
    // None of the others may come late and take over.
    sandbox.end_holder(Signal::SIGTERM);
    assert!(sys::seqpacket::connect_to(&sandbox.socket()).is_err(), "a second holder was waiting");
}

#[test]
fn a_second_holder_gives_way() {
    let sandbox = need!(Sandbox::new());
    sandbox.json(&["facts"]);
    let (code, message) = error_of(&sandbox.output(&["hold"]));
    assert_eq!(code, Some(3));
    assert!(message.contains("a node holder already runs for"), "{message}");
    sandbox.json(&["facts"]);
}

#[test]
fn a_dead_holder_is_replaced() {
    let sandbox = need!(Sandbox::new());
    let before = sandbox.json(&["facts"]);
    sandbox.end_holder(Signal::SIGKILL);
    assert!(sandbox.socket().exists(), "nobody removed it");
    let after = sandbox.json(&["facts"]);
    assert_ne!(before["pid"], after["pid"]);
    assert!(before["started_at"].as_i64() < after["started_at"].as_i64());
}

#[test]
fn an_ended_holder_leaves_no_sockets() {
    let sandbox = need!(Sandbox::new());
    sandbox.json(&["facts"]);
    sandbox.end_holder(Signal::SIGTERM);
    assert!(!sandbox.socket().exists());
    assert!(!sandbox.path("run/usnea/usnea.sock").exists());
}

#[test]
fn cri_clients_can_connect_while_no_daemon_runs() {
    let sandbox = need!(Sandbox::new());
    sandbox.json(&["facts"]);
    UnixStream::connect(sandbox.path("run/usnea/usnea.sock")).expect("the holder listens");
}

#[test]
fn only_the_user_can_reach_the_node() {
    let sandbox = need!(Sandbox::new());
    let pid = sandbox.json(&["facts"])["pid"].as_i64().expect("pid");
    let mode = |name: &str| fs::metadata(sandbox.path(name)).expect("stat").mode() & 0o777;
    assert_eq!(mode("run/usnea"), 0o700);
    assert_eq!(mode("run/usnea/node.sock"), 0o600);
    assert_eq!(mode("run/usnea/usnea.sock"), 0o600);
    assert_eq!(mode("data/usnea"), 0o700);
    // The kernel gives the files of a process that may not be inspected to root.
    let owner = fs::metadata(format!("/proc/{pid}/environ")).expect("stat").uid();
    assert_eq!(owner, 0);
}

#[test]
fn the_machines_root_is_not_served() {
    need!(as_root());
    let sandbox = need!(Sandbox::new());
    sandbox.json(&["facts"]);
    let connection = seqpacket::connect_to(&sandbox.socket()).expect("root may connect");
    // The holder may hang up first.
    seqpacket::send(&connection, br#"{"version":1,"call":"join"}"#, &[]).ok();
    let answer = seqpacket::recv(&connection, 4096);
    assert!(answer.map_or(true, |message| message.bytes.is_empty() && message.fds.is_empty()));
    sandbox.json(&["facts"]);
}

#[test]
fn another_users_listener_is_not_joined() {
    need!(as_root());
    let sandbox = need!(Sandbox::new());
    fs::create_dir(sandbox.path("run/usnea")).expect("mkdir");
    let _listener = seqpacket::listen_at(&sandbox.socket()).expect("listen");
    fs::set_permissions(sandbox.socket(), fs::Permissions::from_mode(0o666)).expect("chmod");
    let (code, message) = error_of(&sandbox.output(&["facts"]));
    assert_eq!(code, Some(1));
    assert!(message.starts_with("uid 0 listens at"), "{message}");
}

#[test]
fn another_users_runtime_directory_is_not_used() {
    need!(as_root());
    let sandbox = need!(Sandbox::new());
    fs::create_dir(sandbox.path("run/usnea")).expect("mkdir");
    let (code, message) = error_of(&sandbox.output(&["hold"]));
    assert_eq!(code, Some(1));
    assert!(message.contains("belongs to uid 0"), "{message}");
}

#[test]
fn a_release_that_it_does_not_know_is_told_so() {
    let sandbox = need!(Sandbox::new());
    sandbox.json(&["facts"]);
    if geteuid().as_raw() != sandbox.uid {
        // The holder talks to its user only, which this process is not.
        eprintln!("skipped: only the user of the node can talk to its holder");
        return;
    }
    let connection = seqpacket::connect_to(&sandbox.socket()).expect("connect");
    seqpacket::send(&connection, br#"{"version":99,"call":"join"}"#, &[]).expect("send");
    let answer = seqpacket::recv(&connection, 4096).expect("answer");
    let text = String::from_utf8(answer.bytes).expect("JSON");
    assert!(text.contains("the client 99") && answer.fds.is_empty(), "{text}");
}

#[test]
fn the_clients_error_is_the_holders() {
    let sandbox = need!(Sandbox::new());
    fs::create_dir_all(sandbox.path("run/usnea/node.lock")).expect("mkdir");
    chown(sandbox.path("run/usnea"), Some(sandbox.uid), Some(sandbox.gid)).expect("chown");
    let (code, message) = error_of(&sandbox.output(&["facts"]));
    assert_eq!(code, Some(1));
    assert!(message.starts_with("the node holder ended (exit code 1), see "), "{message}");
    assert!(message.contains("node.lock; check its owner"), "{message}");
}
