//! The node's root writes where only the host's root may, and the host sees nothing of it.

use std::{
    fs,
    os::unix::fs::{chown, symlink},
};

use nix::sys::signal::Signal;

use crate::sandbox::{Sandbox, as_root, need};

/// A tree of the host's root with what a covered directory must still show.
fn host_tree() -> Result<Sandbox, String> {
    as_root()?;
    let mut sandbox = Sandbox::new()?;
    let host = sandbox.path("host");
    fs::create_dir_all(host.join("sub")).expect("mkdir");
    fs::create_dir(host.join("existing")).expect("mkdir");
    fs::write(host.join("file"), "content").expect("write");
    fs::write(host.join("existing/hosts-own"), "").expect("write");
    fs::write(sandbox.path("beside"), "beside").expect("write");
    symlink("../beside", host.join("up")).expect("link");
    symlink("../../beside", host.join("sub/climbs")).expect("link");
    sandbox.writable = ["host/missing/deep", "host/existing", "host/other", "home/made"]
        .map(|name| sandbox.path(name).display().to_string())
        .join(":");
    Ok(sandbox)
}

#[test]
fn the_host_stays_visible() {
    let sandbox = need!(host_tree());
    let host = sandbox.path("host").display().to_string();
    assert_eq!(sandbox.shell(&format!("cat {host}/file")), "content");
    assert_eq!(sandbox.shell(&format!("cat {host}/up")), "beside");
    assert_eq!(sandbox.shell(&format!("cat {host}/sub/climbs")), "beside");
    assert_eq!(sandbox.shell(&format!("ls {host}")), "existing\nfile\nmissing\nother\nsub\nup");
    fs::write(sandbox.path("host/file"), "changed").expect("write");
    assert_eq!(sandbox.shell(&format!("cat {host}/file")), "changed");
}

#[test]
fn what_the_node_writes_is_kept_and_not_seen_outside() {
    let sandbox = need!(host_tree());
    let host = sandbox.path("host").display().to_string();
    let facts = sandbox.json(&["facts"]);
    for directory in facts["directories"].as_array().expect("list") {
        assert_eq!(directory["problem"], serde_json::Value::Null, "{directory}");
    }
    let touch = "for d in missing/deep existing other; do echo x >";
    sandbox.shell(&format!(
        "{touch} {host}/$d/new; done; touch {}",
        sandbox.path("home/made/new").display()
    ));
    assert_eq!(sandbox.shell(&format!("ls {host}/existing")), "new");

    assert!(!sandbox.path("host/missing").exists());
    assert!(!sandbox.path("host/other").exists());
    let names: Vec<_> = fs::read_dir(sandbox.path("host/existing")).expect("list").collect();
    assert_eq!(names.len(), 1, "{names:?}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!mounts.contains(&host), "{mounts}");

    sandbox.end_holder(Signal::SIGKILL);
    assert_eq!(sandbox.shell(&format!("cat {host}/missing/deep/new {host}/existing/new")), "x\nx");
}

#[test]
fn an_ancestor_costs_two_mounts_and_a_directory_one() {
    let sandbox = need!(host_tree());
    let count = format!("grep -c {} /proc/self/mountinfo", sandbox.root.path().display());
    assert_eq!(sandbox.shell(&count), (2 + 4).to_string());
}

#[test]
fn a_directory_inside_another_is_not_hidden() {
    let mut sandbox = need!(host_tree());
    let outer = sandbox.path("host/existing").display().to_string();
    sandbox.writable = format!("{outer}/inner:{outer}");
    sandbox.shell(&format!("echo inner > {outer}/inner/file; echo outer > {outer}/file"));
    let kept = |name: &str| {
        let backing = sandbox.path("data/usnea/node");
        let entries = fs::read_dir(backing).expect("list").filter_map(Result::ok);
        let paths: Vec<_> = entries.map(|entry| entry.path().join("file")).collect();
        paths.iter().any(|path| fs::read_to_string(path).is_ok_and(|text| text.trim() == name))
    };
    assert!(kept("inner") && kept("outer"));
}

#[test]
fn a_mount_in_a_writable_directory_reaches_pods() {
    let sandbox = need!(host_tree());
    let volume = sandbox.path("host/other").display().to_string();
    // What a pod's shim does: a mount namespace of its own that receives mounts.
    let pod = format!(
        "unshare -m --propagation slave sh -c 'read go; ls {volume}/v' <&3 & \
         sleep 0.3; mkdir {volume}/v; mount -t tmpfs none {volume}/v; touch {volume}/v/seen; echo go >&4; wait"
    );
    let script = format!("f=$(mktemp -u); mkfifo $f; exec 3<>$f 4>$f; rm $f; {pod}");
    assert_eq!(sandbox.shell(&script), "seen");
}

#[test]
fn what_cannot_be_made_is_reported_and_the_rest_made() {
    let mut sandbox = need!(Sandbox::new());
    fs::write(sandbox.path("home/file"), "").expect("write");
    chown(sandbox.path("home/file"), Some(sandbox.uid), None).expect("chown");
    let good = sandbox.path("home/good").display().to_string();
    let file = sandbox.path("home/file").display().to_string();
    let data = sandbox.path("data").display().to_string();
    sandbox.writable = [&good, &file, &data, "relative", "/no-such-top/x"].join(":");
    let facts = sandbox.json(&["facts"]);
    let problems: Vec<_> = facts["directories"]
        .as_array()
        .expect("list")
        .iter()
        .map(|d| (d["path"].as_str().expect("path"), d["problem"].as_str().unwrap_or_default()))
        .collect();
    let problem = |path: &str| problems.iter().find(|(p, _)| *p == path).expect("listed").1;
    assert_eq!(problem(&good), "");
    assert!(problem(&file).starts_with("it is a file"), "{problems:?}");
    assert!(problem(&data).starts_with("Usnea's own data"), "{problems:?}");
    assert!(problem("relative").starts_with("the path is not absolute"), "{problems:?}");
    assert!(problem("/no-such-top/x").contains("create that directory as root"), "{problems:?}");
    sandbox.shell(&format!("touch {good}/x"));
}
