//! What must be true of a container.

use std::{fs, os::unix::fs::symlink};

use nix::sys::wait::WaitStatus;
use runtime::{
    RuntimeError,
    create::{FailureKind, Report},
    exec::Started,
    start::ExecStatus,
};
use serde_json::json;

use crate::{
    fixture::{Container, Recipe},
    node::Node,
};

type Case = fn(&Node);

pub(crate) const ALL: [(&str, Case); 5] = [
    ("a_program_starts_as_specified", a_program_starts_as_specified),
    ("a_missing_program_is_told_at_start", a_missing_program_is_told_at_start),
    ("exec_is_confined_like_the_container", exec_is_confined_like_the_container),
    ("exec_of_nothing_is_told_on_stderr", exec_of_nothing_is_told_on_stderr),
    ("an_image_with_a_linked_dev_is_refused", an_image_with_a_linked_dev_is_refused),
];

fn line<'t>(text: &'t str, start: &str) -> &'t str {
    text.lines().find(|line| line.starts_with(start)).unwrap_or_default()
}

fn exited(status: WaitStatus) -> i32 {
    match status {
        WaitStatus::Exited(_, code) => code,
        other => panic!("{other:?}"),
    }
}

fn refused(recipe: Recipe<'_>) -> String {
    match recipe.try_create().map(|container| container.pid) {
        Err(Report::Failed { kind: FailureKind::Refused, message }) => message,
        other => panic!("{other:?}"),
    }
}

fn a_program_starts_as_specified(node: &Node) {
    let script = "hostname; cat /proc/$$/environ; echo; cat /proc/self/status; ls /proc/self/fd; umask; mkdir /x; \
                  cat /proc/self/cgroup; echo $$; ls /sys/fs/cgroup/cgroup.procs";
    let mut container = Recipe::new(node, "plain", &["sh", "-c", script]).create();
    container.verify();
    assert_eq!(container.start(), ExecStatus::Running);
    let (text, status) = container.finish();
    assert_eq!(exited(status), 0, "{text}");
    assert!(text.starts_with("pod-host\nPATH=/bin\0HOME=/root\0B=2\0A=1\0\n"), "{text}");
    assert_eq!(line(&text, "SigIgn"), "SigIgn:\t0000000000000000");
    assert_eq!(line(&text, "SigBlk"), "SigBlk:\t0000000000000000");
    assert_eq!(line(&text, "Seccomp:"), "Seccomp:\t2");
    assert_eq!(line(&text, "NoNewPrivs"), "NoNewPrivs:\t1");
    assert_eq!(line(&text, "Groups").trim_end(), "Groups:\t".trim_end());
    assert!(text.contains("\n0\n1\n2\n3\n0022\n"), "only ls has a fourth descriptor: {text}");
    assert!(text.contains("mkdir: can't create directory '/x': Operation not permitted"), "{text}");
    assert!(text.contains("\n0::/\n1\n/sys/fs/cgroup/cgroup.procs\n"), "{text}");
}

fn a_missing_program_is_told_at_start(node: &Node) {
    let mut container = Recipe::new(node, "missing", &["/no/such"]).create();
    let message = "exec \"/no/such\": No such file or directory (os error 2)".to_owned();
    assert_eq!(container.start(), ExecStatus::Failed { message });
    assert_eq!(container.finish().0, "");
}

fn running<'a>(node: &'a Node, id: &str, change: impl FnOnce(&mut Recipe<'a>)) -> Container<'a> {
    let mut recipe = Recipe::new(node, id, &["/bin/sleep", "1000"]);
    change(&mut recipe);
    let mut container = recipe.create();
    container.verify();
    assert_eq!(container.start(), ExecStatus::Running);
    container
}

fn exec_is_confined_like_the_container(node: &Node) {
    for (id, nnp) in [("nnp", json!(true)), ("no-nnp", json!(null))] {
        let container = running(node, id, |recipe| {
            recipe.spec["process"]["noNewPrivileges"] = nnp.clone();
            recipe.spec["process"]["user"] =
                json!({"uid": 1000, "gid": 1001, "additionalGids": [7, 5], "umask": 0o077});
            recipe.spec["process"]["cwd"] = json!("/work/here");
        });
        let init = fs::read_to_string(format!("/proc/{}/status", container.pid)).unwrap();
        let text = container
            .shell("pwd; id; umask; cat /proc/self/status; mkdir /tmp/x; ls /proc/self/fd");
        assert!(text.starts_with("/work/here\nuid=1000 gid=1001 groups=5,7"), "{text}");
        for field in [
            "CapBnd",
            "CapEff",
            "CapPrm",
            "CapInh",
            "CapAmb",
            "Seccomp:",
            "Seccomp_filters",
            "NoNewPrivs",
            "Uid",
            "Gid",
            "Groups",
            "SigIgn",
            "SigBlk",
        ] {
            assert_eq!(line(&text, field), line(&init, field), "exec and init");
        }
        assert!(text.contains("\n0077\n"), "{text}");
        assert!(text.contains("'/tmp/x': Operation not permitted"), "{text}");
        assert!(text.ends_with("\n0\n1\n2\n3\n"), "{text}");
    }
}

fn exec_of_nothing_is_told_on_stderr(node: &Node) {
    let container = running(node, "nothing", |_| {});
    for (argv, code, text) in [
        ("nonesuch", 127, "exec \"nonesuch\": No such file or directory (os error 2)\n"),
        ("/bin", 126, "exec \"/bin\": Permission denied (os error 13)\n"),
        ("/bin/text", 126, "exec \"/bin/text\": Exec format error (os error 8)\n"),
    ] {
        let (said, started) = container.exec(&[argv]);
        assert_eq!(said, text);
        assert!(matches!(started, Started::CannotRun { exit_code } if exit_code == code));
    }
    let mut elsewhere = container.spec.clone();
    elsewhere.process_mut().as_mut().unwrap().set_cwd("/proc/self/fd/3".into());
    let (_, started) = container.try_exec(&elsewhere, &["/bin/true"]);
    let error = started.expect_err("a magic link");
    assert!(matches!(error, RuntimeError::Exec { .. }), "{error:?}");
}

fn an_image_with_a_linked_dev_is_refused(node: &Node) {
    for name in ["dev", "proc", "sys"] {
        let recipe = Recipe::new(node, &format!("linked-{name}"), &["/bin/true"]);
        let victim = node.directory.path().join(format!("victim-{name}"));
        fs::create_dir(&victim).unwrap();
        fs::write(victim.join("ptmx"), "").unwrap();
        fs::remove_dir(recipe.layer().join(name)).unwrap();
        symlink(&victim, recipe.layer().join(name)).unwrap();
        assert_eq!(refused(recipe), format!("/{name} in the image is not a directory"));
        let left: Vec<_> = fs::read_dir(&victim).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["ptmx"]);
    }
}
