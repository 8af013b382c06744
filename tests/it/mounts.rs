//! Bind mounts: modes, sources, targets.

use std::os::unix::fs::symlink;

use cri_api::v1::MountPropagation;
use it::Scenario;
use tonic::Code;

it::tests!("mounts":
    read_only_and_writable,
    files_can_be_mounted,
    targets_are_made,
    targets_below_dev_work,
    a_source_may_be_a_symbolic_link,
    a_missing_source_is_refused,
    links_in_the_image_do_not_lead_outside,
    submounts_of_a_read_only_mount_stay_writable,
    submounts_of_a_recursive_read_only_mount_do_not,
    recursive_read_only_excludes_other_wishes,
    options_restrict,
    the_status_shows_the_mounts_as_asked,
    a_volume_outlives_its_containers,
);

const PROBE: &str = "(: > /v/x) 2>/dev/null && echo writable || echo read-only";

async fn read_only_and_writable(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let volume = t.volume("v");
    let spec = |name| t.busybox(name).script(PROBE);
    assert_eq!(t.output(&pod, spec("ro").readonly_mount(&volume, "/v")).await, "read-only");
    assert_eq!(t.output(&pod, spec("rw").mount(&volume, "/v")).await, "writable");
    assert!(volume.join("x").exists());
}

async fn files_can_be_mounted(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let file = t.volume("v").join("file");
    t.instance().write(&file, b"content");
    let spec =
        t.busybox("a").readonly_mount(&file, "/etc/made").readonly_mount(&file, "/etc/passwd");
    let seen = t.output(&pod, spec.script("cat /etc/made /etc/passwd")).await;
    assert_eq!(seen, "contentcontent");
}

async fn targets_are_made(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let volume = t.volume("v");
    let spec = t.busybox("a").mount(&volume, "/a/b/c").mount(&volume, "/a/b/c/../d/");
    assert_eq!(t.output(&pod, spec.script("echo x > /a/b/c/f; cat /a/b/d/f")).await, "x");
}

/// The kubelet's default for termination messages.
async fn targets_below_dev_work(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let file = t.volume("v").join("log");
    t.instance().write(&file, b"");
    let spec = t.busybox("a").mount(&file, "/dev/termination-log");
    t.output(&pod, spec.script("echo bye > /dev/termination-log")).await;
    assert_eq!(std::fs::read_to_string(&file).expect("readable"), "bye\n");
}

async fn a_source_may_be_a_symbolic_link(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let (volume, links) = (t.volume("v"), t.volume("links"));
    t.instance().write(&volume.join("file"), b"content");
    symlink(&volume, links.join("directory")).expect("symlink");
    symlink(links.join("directory/file"), links.join("file")).expect("symlink");
    let spec =
        t.sleeper("a").mount(&links.join("directory"), "/d").mount(&links.join("file"), "/f");
    let id = t.launch(&pod, spec).await;
    assert_eq!(t.exec(&id, "cat /d/file /f").await, "contentcontent");
    let mounts = t.status(&id).await.mounts;
    assert_eq!(mounts[0].host_path, links.join("directory").to_str().expect("UTF-8"));
}

async fn a_missing_source_is_refused(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let volume = t.volume("v");
    symlink("/no/such", volume.join("dangling")).expect("symlink");
    for name in ["missing", "missing/deeper", "dangling"] {
        let spec = t.sleeper("a").mount(&volume.join(name), "/v");
        t.refused(&pod, spec, Code::FailedPrecondition).await;
        assert!(!volume.join("missing").exists(), "sources are not made");
    }
    assert_eq!(t.containers(&pod).await, []);
}

/// The target is looked up inside the container's root, whatever links the image has there.
async fn links_in_the_image_do_not_lead_outside(t: &mut Scenario) {
    let outside = t.volume("outside");
    let target = outside.to_str().expect("UTF-8");
    let layer = testkit::image::Layer::default()
        .symlink("absolute", target)
        .symlink("relative", &format!("../../../../../..{target}"))
        .symlink("etc/mtab", &format!("{target}/mtab"));
    let image = testkit::image::ImageBuilder::busybox().layer(layer);
    let image = crate::command::import(t, "links", &image);
    let pod = t.run_pod().await;
    let volume = t.volume("v");
    for (index, path) in ["/absolute/made", "/relative/made"].into_iter().enumerate() {
        let spec = testkit::container(&format!("c{index}"), &image).mount(&volume, path);
        // Refusing is as good as mounting inside.
        if let Ok(id) = t.try_create(&pod, spec.command(&["true"])).await {
            t.try_start(&id).await.expect("StartContainer");
            t.exited(&id).await;
        }
    }
    let left: Vec<_> = std::fs::read_dir(&outside).expect("readable").collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A volume with a tmpfs mounted at `sub`, which only the node sees.
fn nested_volume(t: &Scenario) -> std::path::PathBuf {
    let volume = t.volume("v");
    let sub = volume.join("sub");
    std::fs::create_dir(&sub).expect("make a directory");
    let path = sub.to_str().expect("UTF-8");
    let mount = ["node", "exec", "--", "mount", "-t", "tmpfs", "none", path];
    drop(t.instance().usnea_ok(&mount));
    volume
}

fn unmount(t: &Scenario, volume: &std::path::Path) {
    let sub = volume.join("sub");
    let path = sub.to_str().expect("UTF-8");
    drop(t.instance().usnea_ok(&["node", "exec", "--", "umount", path]));
}

const NESTED_PROBE: &str = "for f in /v/x /v/sub/x; do \
                            if (: > $f) 2>/dev/null; then echo $f; fi; done; stat -f -c %T /v/sub";

async fn submounts_of_a_read_only_mount_stay_writable(t: &mut Scenario) {
    let volume = nested_volume(t);
    let pod = t.run_pod().await;
    let spec = t.busybox("a").readonly_mount(&volume, "/v").script(NESTED_PROBE);
    assert_eq!(t.output(&pod, spec).await, "/v/sub/x\ntmpfs");
    t.remove_pod(&pod).await;
    unmount(t, &volume);
}

async fn submounts_of_a_recursive_read_only_mount_do_not(t: &mut Scenario) {
    let volume = nested_volume(t);
    let pod = t.run_pod().await;
    let spec = t.busybox("a").mount_with(&volume, "/v", |mount| {
        mount.readonly = true;
        mount.recursive_read_only = true;
    });
    assert_eq!(t.output(&pod, spec.script(NESTED_PROBE)).await, "tmpfs");
    t.remove_pod(&pod).await;
    unmount(t, &volume);
}

async fn recursive_read_only_excludes_other_wishes(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let volume = t.volume("v");
    let writable = t.sleeper("a").mount_with(&volume, "/v", |m| m.recursive_read_only = true);
    let propagated = t.sleeper("a").mount_with(&volume, "/v", |mount| {
        mount.recursive_read_only = true;
        mount.readonly = true;
        mount.propagation = MountPropagation::PropagationHostToContainer.into();
    });
    for spec in [writable, propagated] {
        t.refused(&pod, spec, Code::InvalidArgument).await;
    }
}

async fn options_restrict(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let volume = t.volume("v");
    let script = "cp /bin/busybox /v/busybox; chmod +x /v/busybox; \
                  /v/busybox true 2>/dev/null && echo ran || echo refused";
    let options = |list: &[&str]| list.iter().map(|&option| option.to_owned()).collect::<Vec<_>>();
    let spec = |name, list: &[&str]| {
        let list = options(list);
        t.busybox(name).mount_with(&volume, "/v", |mount| mount.mount_options = list).script(script)
    };
    assert_eq!(t.output(&pod, spec("none", &[])).await, "ran");
    assert_eq!(t.output(&pod, spec("noexec", &["noexec", "nodev", "nosuid"])).await, "refused");
    t.refused(&pod, spec("unknown", &["suid"]), Code::InvalidArgument).await;
}

async fn the_status_shows_the_mounts_as_asked(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let volume = t.volume("v");
    let spec = t.sleeper("a").mount(&volume, "/x/../a/").readonly_mount(&volume, "/b");
    let asked = spec.config.mounts.clone();
    let id = t.create(&pod, spec).await;
    assert_eq!(t.status(&id).await.mounts, asked);
}

async fn a_volume_outlives_its_containers(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let volume = t.volume("v");
    let id = t.launch(&pod, t.busybox("a").mount(&volume, "/v").script("echo x > /v/f")).await;
    t.exited(&id).await;
    t.remove_pod(&pod).await;
    assert_eq!(std::fs::read_to_string(volume.join("f")).expect("kept"), "x\n");
}
