//! Images that try to reach the node: what they contain stays in their containers, or is refused.

use std::{fs, path::Path};

use cri_api::v1::LinuxContainerSecurityContext;
use it::Scenario;
use serde_json::json;
use testkit::image::{ImageBuilder, Layer};
use tonic::Status;

use crate::command::import;

it::tests!("hostile_images":
    r06_descriptors_of_the_image,
    r07_a_linked_cwd,
    r07_linked_pod_files,
    r08_volumes_that_climb_are_refused,
    r11_no_runtime_process_runs_code_of_the_image,
    r18_a_huge_passwd_is_refused_at_once,
    r24_labels_and_environment_do_not_steer,
);

/// A directory of the node that must stay as it is.
fn victim(t: &Scenario) -> std::path::PathBuf {
    let victim = t.volume("victim");
    t.instance().write(&victim.join("hosts"), b"untouched");
    victim
}

fn assert_untouched(victim: &Path) {
    let entries = fs::read_dir(victim).expect("readable");
    let names: Vec<_> = entries.map(|entry| entry.expect("readable").file_name()).collect();
    assert_eq!(names, ["hosts"]);
    assert_eq!(fs::read(victim.join("hosts")).expect("readable"), b"untouched");
}

/// Makes and starts a container of `image` that runs `script`; what it prints, or why it could not.
async fn attempt(
    t: &mut Scenario,
    image: &str,
    script: &str,
    change: fn(&mut LinuxContainerSecurityContext),
) -> Result<String, String> {
    let pod = t.run_pod().await;
    let spec = testkit::container("a", image).script(script).security(change);
    let printed = async {
        let id = t.try_create(&pod, spec).await?;
        t.try_start(&id).await?;
        let status = t.exited(&id).await;
        Ok(t.printed(&status))
    };
    let outcome = printed.await.map_err(|status: Status| status.message().to_owned());
    // The next attempt's pod has the same name.
    t.stop_pod(&pod).await;
    t.remove_pod(&pod).await;
    outcome
}

async fn r06_descriptors_of_the_image(t: &mut Scenario) {
    let victim = victim(t);
    let target = victim.to_str().expect("UTF-8");
    let layer = (0..20).fold(Layer::default().directory("proc/self/fd", 0o755), |layer, number| {
        layer.symlink(&format!("proc/self/fd/{number}"), target)
    });
    let image = import(t, "fds", &ImageBuilder::busybox().layer(layer));
    let script = "(: > /new) 2>/dev/null && echo writable || echo read-only";
    let seen = attempt(t, &image, script, |security| security.readonly_rootfs = true).await;
    assert!(seen.as_deref().is_ok_and(|seen| seen == "read-only") || seen.is_err(), "{seen:?}");
    t.instance().write(&victim.join("more"), b"the victim is writable still");
    fs::remove_file(victim.join("more")).expect("remove");
    assert_untouched(&victim);
}

async fn r07_a_linked_cwd(t: &mut Scenario) {
    let victim = victim(t);
    let layer = Layer::default().symlink("link", victim.to_str().expect("UTF-8"));
    let image = ImageBuilder::busybox().layer(layer).with("WorkingDir", json!("/link/made/here"));
    let image = import(t, "cwd", &image);
    let seen = attempt(t, &image, "pwd -P; : > file", |_| ()).await;
    if let Ok(seen) = &seen {
        assert!(seen.ends_with("/made/here"), "{seen}");
    }
    assert_untouched(&victim);
}

async fn r07_linked_pod_files(t: &mut Scenario) {
    let victim = victim(t);
    let target = victim.to_str().expect("UTF-8");
    let whole = Layer::default().file("etc/.wh..wh..opq", 0o644, b"").symlink("etc2", target);
    let single = Layer::default()
        .symlink("etc/hosts", &format!("{target}/hosts"))
        .symlink("etc/resolv.conf", &format!("{target}/new"))
        .symlink("etc/mtab", &format!("{target}/mtab"));
    let replaced = Layer::default().file(".wh.etc", 0o644, b"");
    let linked = Layer::default().symlink("etc", target);
    for (name, layers) in [("single", vec![whole, single]), ("etc", vec![replaced, linked])] {
        let image = layers.into_iter().fold(ImageBuilder::busybox(), ImageBuilder::layer);
        let image = import(t, name, &image);
        // Whether it works inside or is refused is not the question.
        drop(attempt(t, &image, "cat /etc/hosts; echo x >> /etc/hosts", |_| ()).await);
        assert_untouched(&victim);
    }
}

async fn r08_volumes_that_climb_are_refused(t: &mut Scenario) {
    let image = ImageBuilder::busybox().with("Volumes", json!({ "/../../../etc": {} }));
    let file = t.instance().directory().join("climbing.tar");
    image.write_oci_archive(&file, "usnea.test/climbing:1");
    let output = t.instance().usnea(&["image", "import", file.to_str().expect("UTF-8")]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("/../../../etc"), "{said}");
    fs::remove_file(file).expect("remove the archive");
}

async fn r11_no_runtime_process_runs_code_of_the_image(t: &mut Scenario) {
    let program = b"#!/bin/sh\ntouch /ran\n";
    let names = ["bin/xz", "bin/tar", "bin/zstd", "bin/gzip", "usr/bin/newuidmap", "sbin/ldconfig"];
    let layer = names.iter().fold(Layer::default(), |layer, name| layer.file(name, 0o755, program));
    let layer = layer
        .file("etc/nsswitch.conf", 0o644, b"passwd: probe\ngroup: probe\nhosts: probe\n")
        .file("lib/libnss_probe.so.2", 0o755, b"no library, but a name to look for")
        .file("etc/ld.so.preload", 0o644, b"/lib/libnss_probe.so.2\n");
    let image = import(t, "nss", &ImageBuilder::busybox().layer(layer));
    let pod = t.run_pod().await;
    let spec = testkit::container("a", &image).script("exec sleep 100000").env("HOME", "");
    let id = t.launch(&pod, spec).await;
    assert_eq!(t.exec(&id, "ls /ran 2>/dev/null; echo done").await, "done");
    let ours = t.instance().shims().into_iter().chain([t.instance().daemon()]);
    let mut looked_at = 0;
    for process in ours {
        let maps = fs::read_to_string(format!("/proc/{}/maps", process.pid)).unwrap_or_default();
        assert!(!maps.contains("libnss_probe") && !maps.contains("/layers/"), "{maps}");
        looked_at += usize::from(!maps.is_empty());
    }
    assert!(looked_at > 0, "no memory map could be read");
}

async fn r18_a_huge_passwd_is_refused_at_once(t: &mut Scenario) {
    let huge = vec![b'x'; 3 << 20];
    for (name, layer) in [
        ("huge", Layer::default().file("etc/passwd", 0o644, &huge)),
        ("zero", Layer::default().symlink("etc/passwd", "/dev/zero")),
    ] {
        let image = import(t, name, &ImageBuilder::busybox().layer(layer));
        let started = std::time::Instant::now();
        let seen = attempt(t, &image, "id -u", |security| {
            security.run_as_username = "app".to_owned();
        })
        .await;
        seen.expect_err("no such user can be found");
        assert!(started.elapsed().as_secs() < 20, "it waits");
    }
}

async fn r24_labels_and_environment_do_not_steer(t: &mut Scenario) {
    let labels = json!({ "io.kubernetes.pod.name": "forged", "usnea.x": "1", "mine": "kept" });
    let image = import(t, "labels", &ImageBuilder::busybox().with("Labels", labels));
    let shown = t.instance().usnea_ok(&["image", "inspect", &image]);
    assert!(shown.contains("\"mine\"") && !shown.contains("forged"), "{shown}");
    for env in ["NOVALUE", "=x", "*"] {
        let image = ImageBuilder::busybox().with("Env", json!([env]));
        let file = t.instance().directory().join("env.tar");
        image.write_oci_archive(&file, "usnea.test/env:1");
        let output = t.instance().usnea(&["image", "import", file.to_str().expect("UTF-8")]);
        assert!(!output.status.success(), "{env}");
        fs::remove_file(file).expect("remove the archive");
    }
}
