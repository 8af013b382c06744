//! Where a daemon and a command find themselves.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use nix::sys::signal::Signal;

use crate::sandbox::{Sandbox, error_of, link, need, text_of};

#[test]
fn a_daemon_is_root_of_the_node_in_the_hosts_network() {
    let sandbox = need!(Sandbox::new());
    let inside = sandbox.json(&["enter"]);
    assert_eq!(inside["uid"], 0);
    assert_eq!(inside["same_network"], true);
    assert_eq!(inside["network_is_the_hosts"], true);
    assert_eq!(inside["network_is_the_nodes"], false);
    assert_eq!(inside["directory"], "/");
    let socket = sandbox.path("run/usnea/usnea.sock");
    assert_eq!(inside["cri"], socket.to_str().expect("UTF-8"));
    let facts = &inside["facts"];
    assert_eq!((&facts["mode"], &facts["network"]), (&"own".into(), &"own".into()));
    let uids = &facts["ids"]["mapped"]["uids"];
    assert_eq!(
        uids[0],
        serde_json::json!({"container_id": 0, "host_id": sandbox.uid, "length": 1})
    );
    assert!(uids[1]["length"].as_u64() >= Some(65_536), "{uids}");
}

#[test]
fn a_daemon_can_enter_again_after_its_predecessor() {
    let sandbox = need!(Sandbox::new());
    let first = sandbox.json(&["enter"]);
    let second = sandbox.json(&["enter"]);
    assert_eq!(first["facts"]["pid"], second["facts"]["pid"]);
}

#[test]
fn a_command_is_in_the_nodes_network() {
    let sandbox = need!(Sandbox::new());
    let inside = sandbox.shell("id -u; readlink /proc/self/ns/net; cut -d: -f1 /proc/net/dev | tail -n +3; readlink /proc/self/ns/net");
    let lines: Vec<_> = inside.lines().map(str::trim).collect();
    assert_eq!(lines[0], "0");
    assert_eq!(lines[2], "lo");
    assert_eq!(lines.len(), 4, "only lo: {inside}");
    assert_ne!(lines[1], link("/proc/self/ns/net"));
    let again = sandbox.shell("readlink /proc/self/ns/net");
    assert_eq!(again, lines[1], "every command gets the same");
}

#[test]
fn a_command_can_use_all_ids() {
    let sandbox = need!(Sandbox::new());
    let script = "f=$(mktemp); chown 65535:65535 $f; stat -c %u:%g $f; rm $f; id -G";
    assert_eq!(sandbox.shell(script), "65535:65535\n0");
}

#[test]
fn a_command_keeps_environment_directory_and_descriptors() {
    let sandbox = need!(Sandbox::new());
    let script = "echo $GREETING $(pwd); ls /proc/self/fd";
    let mut inside = sandbox.command(&["exec", "sh", "-c", script]);
    let mut outside = Command::new("sh");
    outside.args(["-c", script]);
    let run = |command: &mut Command| {
        text_of(&command.env("GREETING", "hello").current_dir("/usr").output().expect("run"))
    };
    let text = run(&mut inside);
    assert!(text.starts_with("hello /usr\n0\n"), "{text}");
    assert_eq!(text, run(&mut outside), "none of the node's own descriptors");
}

#[test]
fn exit_codes_are_a_shells() {
    let sandbox = need!(Sandbox::new());
    assert_eq!(sandbox.output(&["exec", "sh", "-c", "exit 42"]).status.code(), Some(42));
    for (program, code) in [("no-such-command", 127), ("/no/such/file", 127), ("/etc/passwd", 126)]
    {
        let (found, message) = error_of(&sandbox.output(&["exec", program]));
        assert_eq!(found, Some(code), "{message}");
        assert!(message.contains(program), "{message}");
    }
    assert_eq!(error_of(&sandbox.output(&["exec"])).0, Some(127));
}

#[test]
fn a_command_outlives_the_holder() {
    let sandbox = need!(Sandbox::new());
    let script = "echo ready; read line; echo $line; id -u";
    let mut command = sandbox.command(&["exec", "sh", "-c", script]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start node-cli");
    let mut output = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut next = || output.next().map(|line| line.expect("read"));
    assert_eq!(next().as_deref(), Some("ready"));
    sandbox.end_holder(Signal::SIGKILL);
    child.stdin.take().expect("piped").write_all(b"alive\n").expect("write");
    assert_eq!((next().as_deref(), next().as_deref()), (Some("alive"), Some("0")));
    assert!(child.wait().expect("wait").success());
}
