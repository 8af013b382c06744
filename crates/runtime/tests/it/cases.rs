//! What must be true of a container.

use std::{fs, os::unix::fs::symlink};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::wait::WaitStatus,
};
use runtime::{
    RuntimeError,
    create::{FailureKind, Report},
    exec::Started,
    start::ExecStatus,
};
use serde_json::json;
use sys::ns::Namespace;

use crate::{
    fixture::{Container, Recipe},
    node::{CGROUP_MOUNT, Node},
};

type Case = fn(&Node);

pub(crate) const ALL: [(&str, Case); 15] = [
    ("a_program_starts_as_specified", a_program_starts_as_specified),
    ("a_missing_program_is_told_at_start", a_missing_program_is_told_at_start),
    ("exec_is_confined_like_the_container", exec_is_confined_like_the_container),
    ("exec_of_nothing_is_told_on_stderr", exec_of_nothing_is_told_on_stderr),
    ("an_image_with_a_linked_dev_is_refused", an_image_with_a_linked_dev_is_refused),
    ("a_working_directory_in_procfs_is_refused", a_working_directory_in_procfs_is_refused),
    ("a_working_directory_is_made_where_it_lies", a_working_directory_is_made_where_it_lies),
    ("a_missing_mount_source_is_refused", a_missing_mount_source_is_refused),
    ("mounts_follow_links_inside_the_root_only", mounts_follow_links_inside_the_root_only),
    ("images_are_mounted_for_the_container_alone", images_are_mounted_for_the_container_alone),
    ("a_path_out_of_an_image_is_refused", a_path_out_of_an_image_is_refused),
    ("a_pid_namespace_is_joined_by_descriptor", a_pid_namespace_is_joined_by_descriptor),
    ("masked_comparisons_mean_what_they_say", masked_comparisons_mean_what_they_say),
    ("the_cgroup_is_kept_on_every_host", the_cgroup_is_kept_on_every_host),
    ("a_failure_of_libcontainer_has_its_cause", a_failure_of_libcontainer_has_its_cause),
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
            recipe.spec["process"]["cwd"] = json!("/job/here");
        });
        let init = fs::read_to_string(format!("/proc/{}/status", container.pid)).unwrap();
        let text = container
            .shell("pwd; id; umask; cat /proc/self/status; mkdir /tmp/x; ls /proc/self/fd");
        assert!(text.starts_with("/job/here\nuid=1000 gid=1001 groups=5,7"), "{text}");
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

fn a_working_directory_in_procfs_is_refused(node: &Node) {
    let mut direct = Recipe::new(node, "cwd-proc", &["/bin/true"]);
    direct.spec["process"]["cwd"] = json!("/proc/self/fd/7");
    assert!(refused(direct).contains("lies in procfs"));

    let mut linked = Recipe::new(node, "cwd-link", &["/bin/true"]);
    symlink("/proc/self/fd", linked.layer().join("w")).unwrap();
    linked.spec["process"]["cwd"] = json!("/w/7");
    assert_eq!(refused(linked), "working directory /w/7: lies in procfs");

    let mut file = Recipe::new(node, "cwd-file", &["/bin/true"]);
    file.spec["process"]["cwd"] = json!("/bin/busybox/x");
    assert!(refused(file).starts_with("working directory /bin/busybox/x: "));
}

fn a_working_directory_is_made_where_it_lies(node: &Node) {
    let mut recipe = Recipe::new(node, "cwd", &["sh", "-c", "pwd"]);
    let volume = recipe.directory.join("volume");
    fs::create_dir(&volume).unwrap();
    let mount =
        json!({"destination": "/data", "type": "bind", "source": volume, "options": ["rbind"]});
    recipe.spec["mounts"].as_array_mut().unwrap().push(mount);
    recipe.spec["process"]["cwd"] = json!("/data/a/b");
    let mut container = recipe.create();
    assert_eq!(container.start(), ExecStatus::Running);
    assert_eq!(container.finish().0, "/data/a/b\n");
    assert!(volume.join("a/b").is_dir());
}

fn a_missing_mount_source_is_refused(node: &Node) {
    let mut recipe = Recipe::new(node, "source", &["/bin/true"]);
    let mount =
        json!({"destination": "/data", "type": "bind", "source": "/no/such", "options": ["rbind"]});
    recipe.spec["mounts"].as_array_mut().unwrap().push(mount);
    assert_eq!(refused(recipe), "mount source /no/such does not exist");
}

fn mounts_follow_links_inside_the_root_only(node: &Node) {
    let mut recipe = Recipe::new(node, "links", &["sh", "-c", "cat /etc/resolv.conf /out/x"]);
    let outside = recipe.directory.join("outside");
    fs::create_dir(&outside).unwrap();
    symlink("../run/made/resolv.conf", recipe.layer().join("etc/resolv.conf")).unwrap();
    symlink(&outside, recipe.layer().join("out")).unwrap();
    let source = recipe.directory.join("source");
    fs::write(&source, "content\n").unwrap();
    for destination in ["/etc/resolv.conf", "/out/x"] {
        let mount = json!({"destination": destination, "type": "bind", "source": source,
                           "options": ["bind", "ro"]});
        recipe.spec["mounts"].as_array_mut().unwrap().push(mount);
    }
    let mut container = recipe.create();
    assert_eq!(container.start(), ExecStatus::Running);
    assert_eq!(container.finish().0, "content\ncontent\n");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "nothing was made outside");
}

fn images_are_mounted_for_the_container_alone(node: &Node) {
    let script = "ls /0 /1 /2; cat /3 /4/file; \
                  for n in 0 1 2 4; do (: > /$n/new) 2>&1 | grep -o 'Read-only.*'; done";
    let mut recipe = Recipe::new(node, "volumes", &["sh", "-c", script]);
    for layer in ["one", "two"] {
        fs::create_dir_all(recipe.directory.join(layer).join("dir")).unwrap();
        fs::write(recipe.directory.join(layer).join("dir/file"), layer).unwrap();
        fs::write(recipe.directory.join(layer).join(format!("only-{layer}")), "").unwrap();
    }
    recipe.mount_image(&["one"], None);
    recipe.mount_image(&["two", "one"], None);
    recipe.mount_image(&[], None);
    recipe.mount_image(&["two", "one"], Some("dir/file"));
    recipe.mount_image(&["one"], Some("dir"));
    let mut container = recipe.create();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("/images/"), "{mounts}");
    assert_eq!(container.start(), ExecStatus::Running);
    let listed = "/0:\ndir\nonly-one\n\n/1:\ndir\nonly-one\nonly-two\n\n/2:\n";
    let refused = "Read-only file system\n".repeat(4);
    assert_eq!(container.finish().0, format!("{listed}twoone{refused}"));
}

fn a_path_out_of_an_image_is_refused(node: &Node) {
    for (name, target) in [("image-root", "/"), ("image-up", "../.."), ("image-none", "none")] {
        let mut recipe = Recipe::new(node, name, &["/bin/true"]);
        fs::create_dir(recipe.directory.join("image")).unwrap();
        symlink(target, recipe.directory.join("image/link")).unwrap();
        recipe.mount_image(&["image"], Some("link"));
        let message = refused(recipe);
        assert!(message.starts_with("path link in the image: "), "{message}");
    }
}

fn a_pid_namespace_is_joined_by_descriptor(node: &Node) {
    let first = running(node, "first", |_| {});
    let mut second = Recipe::new(node, "second", &["sh", "-c", "cat /proc/1/cmdline; echo $$"]);
    second.pid_namespace = Some(Namespace::Pid.open(Some(first.pid)).unwrap());
    second.spec["linux"]["namespaces"][1] = json!({"type": "pid", "path": "/proc/self/fd/3"});
    let mut second = second.create();
    second.verify();
    assert_eq!(second.start(), ExecStatus::Running);
    let (text, _) = second.finish();
    assert!(text.starts_with("/bin/sleep\x001000\0"), "{text:?}");
    assert!(!text.ends_with("\x001\n"), "{text:?}");
}

fn masked_comparisons_mean_what_they_say(node: &Node) {
    const CLONE_NEWUSER: u64 = 0x1000_0000;
    const ENOSYS: u32 = 38;
    let container = running(node, "masked", |recipe| {
        recipe.spec["linux"]["seccomp"]["syscalls"] = json!([{
            "names": ["unshare"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS,
            "args": [{"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": CLONE_NEWUSER, "valueTwo": 0}],
        }]);
    });
    // No new user namespace: the filter's answer. A new one: past the filter.
    assert!(container.shell("busybox unshare -u true").contains("Function not implemented"));
    assert!(!container.shell("busybox unshare -U true").contains("Function not implemented"));

    let script = "busybox unshare -u true; busybox unshare -U true";
    let mut init = Recipe::new(node, "masked-init", &["sh", "-c", script]);
    init.spec["linux"]["seccomp"] =
        serde_json::to_value(container.spec.linux().as_ref().unwrap().seccomp()).unwrap();
    let mut init = init.create();
    init.start();
    let (text, _) = init.finish();
    assert_eq!(text.matches("Function not implemented").count(), 1, "{text}");
}

fn the_cgroup_is_kept_on_every_host(node: &Node) {
    let writable = node.directory.path().join("cgroups");
    let (none, bind) = (None::<&str>, MsFlags::MS_BIND);
    mount(Some(&writable), CGROUP_MOUNT, none, bind, none).unwrap();
    running(node, "writable", |_| {});
    assert!(!writable.join("none").exists(), "libcontainer has made no cgroup");
    umount2(CGROUP_MOUNT, MntFlags::MNT_DETACH).unwrap();

    mount(Some("v1"), CGROUP_MOUNT, Some("tmpfs"), MsFlags::empty(), none).unwrap();
    let container = running(node, "legacy", |_| {});
    assert_eq!(line(&container.shell("cat /proc/self/cgroup"), "0::"), "0::/exec-1");
    umount2(CGROUP_MOUNT, MntFlags::MNT_DETACH).unwrap();
}

fn a_failure_of_libcontainer_has_its_cause(node: &Node) {
    let mut recipe = Recipe::new(node, "unmapped", &["/bin/true"]);
    recipe.spec["process"]["user"]["uid"] = json!(70_000);
    let rootfs = recipe.directory.join("bundle/rootfs");
    match recipe.try_create().map(|container| container.pid) {
        Err(Report::Failed { kind: FailureKind::Internal, message }) => {
            assert!(message.contains("EINVAL") && message.contains("uid=70000"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read_dir(rootfs).unwrap().count(), 0, "nothing stays mounted");
    assert!(!node.state_root().join("unmapped").exists());
    assert!(!node.state_root().join("unmapped.bundle").exists());
}
