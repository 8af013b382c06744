//! Images that containers mount: CRI `Mount.image` and `image_sub_path`.

use cri_api::v1::{ImageSpec, Mount, RemoveImageRequest};
use it::Scenario;
use testkit::{
    ContainerSpec, Options, Skip,
    image::{EntryType, ImageBuilder, Layer},
    pod,
};
use tonic::Code;

use crate::command::import;

it::tests!("image_volumes":
    an_image_is_mounted_whole,
    nobody_writes_to_it,
    not_even_a_privileged_container_writes_to_it,
    layers_are_stacked,
    a_single_layer_shows_no_whiteouts,
    containers_share_an_image,
    nothing_stays_attached_in_the_pod,
    an_empty_image_is_an_empty_directory,
    a_sub_path_is_a_directory_or_a_file,
    a_sub_path_does_not_leave_the_image,
    what_cannot_be_mounted_is_refused_as_the_kubelet_knows_it,
    the_status_shows_the_id_that_was_sent,
    an_image_that_is_mounted_may_be_removed,
    a_restarted_daemon_knows_what_is_mounted,
);

const KUBELET_WORD: &str = "ImageVolumeMountFailed: ";

/// What the mounts of these tests show.
fn volume() -> ImageBuilder {
    let layer = Layer::default()
        .directory("data", 0o755)
        .file("data/file", 0o644, b"content")
        .file("data/run", 0o755, b"#!/bin/sh\necho ran\n")
        .symlink("inside", "data/file")
        .symlink("absolute", "/etc/passwd")
        .symlink("outside", "../../etc/passwd")
        .entry(EntryType::Fifo, "fifo", 0o666, (0, 0), &[], None);
    ImageBuilder::empty().layer(layer)
}

fn image_mount(image: &str, sub_path: &str) -> Mount {
    Mount {
        container_path: "/v".to_owned(),
        image: Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() }),
        image_sub_path: sub_path.to_owned(),
        readonly: true,
        ..Mount::default()
    }
}

fn with(spec: ContainerSpec, mount: Mount) -> ContainerSpec {
    spec.with(|config| config.mounts.push(mount))
}

async fn seen(t: &Scenario, pod: &str, mount: Mount, script: &str) -> String {
    t.output(pod, with(t.busybox("seen"), mount).script(script)).await
}

async fn an_image_is_mounted_whole(t: &mut Scenario) {
    let (image, pod) = (import(t, "volume", &volume()), t.run_pod().await);
    let script = "cat /v/data/file; cat /v/inside; /v/data/run";
    assert_eq!(seen(t, &pod, image_mount(&image, ""), script).await, "contentcontentran");
    assert_eq!(seen(t, &pod, image_mount(&image, "."), script).await, "contentcontentran");
}

async fn nobody_writes_to_it(t: &mut Scenario) {
    let (image, pod) = (import(t, "volume", &volume()), t.run_pod().await);
    let script =
        "(: > /v/new) 2>&1; (echo x >> /v/data/file) 2>&1; rm -f /v/inside 2>&1; cat /v/data/file";
    let output = seen(t, &pod, image_mount(&image, ""), script).await;
    assert_eq!(output.matches("Read-only file system").count(), 3, "{output}");
    assert!(output.ends_with("content"), "{output}");
}

/// One layer, so that nothing but its own mount would be in the way.
async fn not_even_a_privileged_container_writes_to_it(t: &mut Scenario) {
    let image = import(t, "volume", &volume());
    let pod = t.run(pod("pod").security(|security| security.privileged = true)).await;
    let script = "mount -o remount,bind,rw /v && (echo x > /v/data/file) 2>&1; \
                  mount -o remount,rw /v 2>/dev/null; (: > /v/new) 2>&1; cat /v/data/file";
    for sub_path in ["", "."] {
        let spec = with(t.busybox("privileged"), image_mount(&image, sub_path));
        let spec = spec.security(|security| security.privileged = true).script(script);
        let output = t.output(&pod, spec).await;
        assert_eq!(output.matches("Read-only file system").count(), 2, "{output}");
        assert!(output.ends_with("content"), "{output}");
    }
}

async fn layers_are_stacked(t: &mut Scenario) {
    let upper = Layer::default()
        .file("data/.wh.run", 0o644, b"")
        .file("data/file", 0o644, b"new")
        .file("more", 0o644, b"more");
    let image = import(t, "stacked", &volume().layer(upper));
    let pod = t.run_pod().await;
    let script = "ls /v/data; cat /v/data/file /v/more";
    assert_eq!(seen(t, &pod, image_mount(&image, ""), script).await, "file\nnewmore");
    assert_eq!(seen(t, &pod, image_mount(&image, "data"), "ls /v").await, "file");
}

async fn a_single_layer_shows_no_whiteouts(t: &mut Scenario) {
    let layer = Layer::default().file("here", 0o644, b"").file(".wh.gone", 0o644, b"");
    let image = import(t, "whiteout", &ImageBuilder::empty().layer(layer));
    let pod = t.run_pod().await;
    assert_eq!(seen(t, &pod, image_mount(&image, ""), "ls -A /v").await, "here");
    let mount = image_mount(&image, "gone");
    t.refused(&pod, with(t.busybox("refused"), mount), Code::FailedPrecondition).await;
}

async fn containers_share_an_image(t: &mut Scenario) {
    let (image, pod) = (import(t, "volume", &volume()), t.run_pod().await);
    let twice = |name| {
        let part = Mount { container_path: "/part".to_owned(), ..image_mount(&image, "data") };
        with(with(t.sleeper(name), image_mount(&image, "")), part)
    };
    let (a, b) = (t.launch(&pod, twice("a")).await, t.launch(&pod, twice("b")).await);
    t.remove(&a).await;
    assert_eq!(t.exec(&b, "cat /v/data/file /part/file").await, "contentcontent");
}

async fn nothing_stays_attached_in_the_pod(t: &mut Scenario) -> Result<(), Skip> {
    t.own_daemon(Options::default()).await?;
    let (image, pod) = (import(t, "volume", &volume()), t.run_pod().await);
    for (name, sub_path) in [("whole", ""), ("part", "data"), ("file", "data/file")] {
        t.launch(&pod, with(t.sleeper(name), image_mount(&image, sub_path))).await;
    }
    let shims = t.instance().shims();
    assert_eq!(shims.len(), 1, "{shims:?}");
    let mounts = shims[0].mounts();
    let overlays: Vec<_> = mounts.iter().filter(|line| line.contains("overlay")).collect();
    assert_eq!(overlays.len(), 3, "the roots of the containers: {overlays:?}");
    Ok(())
}

async fn an_empty_image_is_an_empty_directory(t: &mut Scenario) {
    let (image, pod) = (import(t, "empty", &ImageBuilder::empty()), t.run_pod().await);
    let script = "ls -A /v; (: > /v/new) 2>/dev/null || echo read-only";
    assert_eq!(seen(t, &pod, image_mount(&image, ""), script).await, "read-only");
}

async fn a_sub_path_is_a_directory_or_a_file(t: &mut Scenario) {
    let (image, pod) = (import(t, "volume", &volume()), t.run_pod().await);
    assert_eq!(seen(t, &pod, image_mount(&image, "data"), "cat /v/file").await, "content");
    assert_eq!(seen(t, &pod, image_mount(&image, "./data//file"), "cat /v").await, "content");
    assert_eq!(seen(t, &pod, image_mount(&image, "inside"), "cat /v").await, "content");
    let script = "(echo x > /v) 2>/dev/null || echo read-only";
    assert_eq!(seen(t, &pod, image_mount(&image, "data/file"), script).await, "read-only");
}

/// R9
async fn a_sub_path_does_not_leave_the_image(t: &mut Scenario) {
    let (image, pod) = (import(t, "volume", &volume()), t.run_pod().await);
    for (path, code) in [
        ("..", Code::InvalidArgument),
        ("data/../../etc", Code::InvalidArgument),
        ("/data", Code::InvalidArgument),
        ("absolute", Code::InvalidArgument),
        ("outside", Code::InvalidArgument),
        ("outside/x", Code::InvalidArgument),
    ] {
        let spec = with(t.busybox("refused"), image_mount(&image, path));
        let message = t.refused(&pod, spec, code).await;
        assert!(message.starts_with(KUBELET_WORD), "{path}: {message}");
    }
    assert_eq!(t.containers(&pod).await, []);
}

/// C29
async fn what_cannot_be_mounted_is_refused_as_the_kubelet_knows_it(t: &mut Scenario) {
    let (image, pod) = (import(t, "volume", &volume()), t.run_pod().await);
    let writable = Mount { readonly: false, ..image_mount(&image, "") };
    let both = Mount { host_path: "/tmp".to_owned(), ..image_mount(&image, "") };
    for (mount, code) in [
        (writable, Code::InvalidArgument),
        (both, Code::InvalidArgument),
        (image_mount("usnea.test/absent:1", ""), Code::NotFound),
        (image_mount("UPPER:CASE", ""), Code::InvalidArgument),
        (image_mount(&image, "no/such"), Code::FailedPrecondition),
        (image_mount(&image, "data/file/x"), Code::FailedPrecondition),
        (image_mount(&image, "fifo"), Code::FailedPrecondition),
    ] {
        let message = t.refused(&pod, with(t.busybox("refused"), mount.clone()), code).await;
        assert!(message.starts_with(KUBELET_WORD), "{mount:?}: {message}");
    }
    assert_eq!(t.containers(&pod).await, []);
}

/// C28
async fn the_status_shows_the_id_that_was_sent(t: &mut Scenario) {
    let (image, pod) = (import(t, "volume", &volume()), t.run_pod().await);
    let id = image_id(t, &image).await;
    for (name, sent) in [("by-name", &image), ("by-id", &id)] {
        let mut mount = image_mount(sent, "./data/");
        mount.image.as_mut().expect("an image").user_specified_image = "volume".to_owned();
        let spec = with(t.busybox(name), mount);
        let container = t.create(&pod, spec).await;
        let shown = t.status(&container).await.mounts.remove(0);
        let image = shown.image.expect("an image");
        assert_eq!((&image.image, &image.image_ref), (sent, &id));
        assert_eq!(image.user_specified_image, "volume");
        assert_eq!((shown.host_path.as_str(), shown.image_sub_path.as_str()), ("", "./data/"));
        assert!(shown.readonly);
    }
}

async fn image_id(t: &Scenario, image: &str) -> String {
    let shown = t.instance().usnea_ok(&["image", "inspect", image]);
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    shown["id"].as_str().expect("an id").to_owned()
}

async fn remove_image(t: &Scenario, image: &str) {
    let image = Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() });
    let request = RemoveImageRequest { image };
    t.cri.images.clone().remove_image(request).await.expect("RemoveImage");
}

fn layers(t: &Scenario) -> usize {
    std::fs::read_dir(t.instance().data_directory().join("layers")).expect("layers").count()
}

async fn an_image_that_is_mounted_may_be_removed(t: &mut Scenario) -> Result<(), Skip> {
    t.own_daemon(Options::default()).await?;
    let before = layers(t);
    let (image, pod) = (import(t, "volume", &volume()), t.run_pod().await);
    let id = t.launch(&pod, with(t.sleeper("a"), image_mount(&image, ""))).await;
    remove_image(t, &image).await;
    assert_eq!(t.exec(&id, "cat /v/data/file").await, "content");
    assert_eq!(layers(t), before + 1);
    t.remove(&id).await;
    // Any removal collects what nobody needs any more.
    remove_image(t, "usnea.test/absent:1").await;
    remove_image(t, &import(t, "other", &ImageBuilder::empty())).await;
    assert_eq!(layers(t), before);
    Ok(())
}

async fn a_restarted_daemon_knows_what_is_mounted(t: &mut Scenario) -> Result<(), Skip> {
    t.own_daemon(Options::default()).await?;
    let before = layers(t);
    let (image, pod) = (import(t, "volume", &volume()), t.run_pod().await);
    let id = t.launch(&pod, with(t.sleeper("a"), image_mount(&image, "data"))).await;
    let shown = t.status(&id).await.mounts;
    t.instance().restart();
    t.reconnect().await;
    assert_eq!(t.status(&id).await.mounts, shown);
    // Beside the daemon, by its records; then by the daemon.
    drop(t.instance().usnea_ok(&["image", "remove", &image]));
    remove_image(t, &import(t, "other", &ImageBuilder::empty())).await;
    assert_eq!(t.exec(&id, "cat /v/file").await, "content");
    assert_eq!(layers(t), before + 1);
    Ok(())
}
