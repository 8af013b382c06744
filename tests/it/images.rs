//! Images: the command line imports and removes, CRI lists and removes.

use std::{fs, path::Path};

use cri_api::v1::{
    Image, ImageFilter, ImageFsInfoRequest, ImageSpec, ImageStatusRequest, ListImagesRequest,
    RemoveImageRequest,
};
use it::{BUSYBOX, Scenario};
use serde_json::{Value, json};
use testkit::image::{Compressed, EntryType, ImageBuilder, Layer};
use tonic::{Code, Status};

use crate::command::import;

it::tests!("images":
    an_oci_layout_is_imported_from_a_directory,
    a_docker_archive_is_imported,
    every_compression_is_imported,
    the_command_line_lists_inspects_and_removes,
    cri_lists_and_tells,
    an_image_is_found_by_every_name,
    what_is_not_there_has_no_status,
    what_is_no_reference_is_refused,
    cri_removes_with_all_names,
    an_image_in_use_may_be_removed,
    layers_are_stacked_with_whiteouts,
    owners_and_modes_are_kept,
    broken_archives_are_refused,
    layers_that_lead_outside_change_nothing_there,
    the_store_has_a_size,
    containers_of_unknown_images_are_not_found,
);

fn small() -> ImageBuilder {
    ImageBuilder::empty()
        .layer(Layer::default().directory("etc", 0o755).file("etc/x", 0o644, b"x"))
        .with("Cmd", json!(["/etc/x"]))
}

fn spec(reference: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: reference.to_owned(), ..ImageSpec::default() })
}

async fn status(t: &Scenario, reference: &str) -> Result<Option<Image>, Status> {
    let request = ImageStatusRequest { image: spec(reference), verbose: false };
    Ok(t.cri.images.clone().image_status(request).await?.into_inner().image)
}

async fn list(t: &Scenario, filter: Option<ImageFilter>) -> Vec<Image> {
    let response = t.cri.images.clone().list_images(ListImagesRequest { filter }).await;
    response.expect("ListImages").into_inner().images
}

async fn remove(t: &Scenario, reference: &str) {
    let request = RemoveImageRequest { image: spec(reference) };
    t.cri.images.clone().remove_image(request).await.expect("RemoveImage");
}

/// A name of this test's own.
fn reference(t: &Scenario, name: &str) -> String {
    format!("usnea.test/{}-{name}:1", t.name().replace('.', "-"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

async fn an_oci_layout_is_imported_from_a_directory(t: &mut Scenario) {
    let directory = t.volume("layout");
    let reference = reference(t, "dir");
    let id = small().write_layout(&directory, &reference);
    let printed =
        t.instance().usnea_ok(&["image", "import", text(&directory), "--name", &reference]);
    assert!(printed.contains(&id), "{printed}");
    assert_eq!(status(t, &reference).await.expect("ImageStatus").expect("there").id, id);
    remove(t, &reference).await;
}

async fn a_docker_archive_is_imported(t: &mut Scenario) {
    let file = t.volume("archive").join("image.tar");
    let reference = reference(t, "docker");
    let image = ImageBuilder::busybox().layer(Layer::default().file("etc/docker", 0o644, b"yes"));
    let id = image.write_docker_archive(&file, &reference);
    drop(t.instance().usnea_ok(&["image", "import", text(&file)]));
    assert_eq!(status(t, &reference).await.expect("ImageStatus").expect("there").id, id);
    let pod = t.run_pod().await;
    let spec = testkit::container("a", &reference).command(&["cat", "/etc/docker"]);
    assert_eq!(t.output(&pod, spec).await, "yes");
    t.remove_pod(&pod).await;
    remove(t, &reference).await;
}

async fn every_compression_is_imported(t: &mut Scenario) {
    for (name, how) in
        [("plain", Compressed::Plain), ("gzip", Compressed::Gzip), ("zstd", Compressed::Zstd)]
    {
        let reference = import(t, name, &small().compressed(how));
        let image = status(t, &reference).await.expect("ImageStatus").expect("there");
        assert!(image.size > 0, "{name}");
        remove(t, &reference).await;
    }
}

async fn the_command_line_lists_inspects_and_removes(t: &mut Scenario) {
    let reference = import(t, "cli", &small().with("User", json!("7")));
    let usnea = |args: &[&str]| t.instance().usnea_ok(args);
    let id = status(t, &reference).await.expect("ImageStatus").expect("there").id;
    assert!(usnea(&["image", "list"]).contains(&reference));
    let listed: Value =
        serde_json::from_str(&usnea(&["image", "list", "--output", "json"])).expect("JSON");
    let is_ours = |image: &&Value| image["id"] == *id;
    assert!(listed.as_array().expect("an array").iter().any(|image| is_ours(&image)), "{listed}");
    let shown = usnea(&["image", "inspect", &reference]);
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!((&shown["id"], &shown["config"]["user"]), (&json!(id), &json!("7")));
    drop(usnea(&["image", "remove", &reference]));
    assert_eq!(status(t, &reference).await.expect("ImageStatus"), None, "the daemon sees it, too");
    for verb in ["inspect", "remove"] {
        let output = t.instance().usnea(&["image", verb, &reference]);
        assert_eq!(output.status.code(), Some(1), "{verb}");
    }
}

async fn cri_lists_and_tells(t: &mut Scenario) {
    let number = import(t, "number", &small().with("User", json!("1234:5")));
    let name = import(t, "name", &small().with("User", json!("app:extra")));
    let image = status(t, &number).await.expect("ImageStatus").expect("there");
    assert_eq!((image.uid.map(|uid| uid.value), image.username.as_str()), (Some(1234), ""));
    assert_eq!(image.repo_tags, std::slice::from_ref(&number));
    assert!(image.id.starts_with("sha256:") && image.size > 0, "{image:?}");
    let image = status(t, &name).await.expect("ImageStatus").expect("there");
    assert_eq!((image.uid, image.username.as_str()), (None, "app"));
    for (filter, expected) in [(None, true), (Some(ImageFilter { image: spec(&number) }), false)] {
        let listed = list(t, filter).await;
        assert!(listed.iter().any(|image| image.repo_tags.contains(&number)));
        assert_eq!(listed.iter().any(|image| image.repo_tags.contains(&name)), expected);
    }
    remove(t, &number).await;
    remove(t, &name).await;
}

async fn an_image_is_found_by_every_name(t: &mut Scenario) {
    let reference = import(t, "names", &small().with("Labels", json!({ "a": "b" })));
    let image = status(t, &reference).await.expect("ImageStatus").expect("there");
    let hexadecimal = image.id.strip_prefix("sha256:").expect("a digest");
    let mut names = vec![image.id.as_str(), hexadecimal, &hexadecimal[..12]];
    names.extend(image.repo_digests.iter().map(String::as_str));
    for name in names {
        assert_eq!(status(t, name).await.expect(name).as_ref(), Some(&image), "{name}");
    }
    remove(t, &image.id).await;
}

async fn what_is_not_there_has_no_status(t: &mut Scenario) {
    for name in
        ["usnea.test/none:1", "none", &"a".repeat(64), &format!("sha256:{}", "a".repeat(64))]
    {
        assert_eq!(status(t, name).await.expect(name), None, "{name}");
        remove(t, name).await;
    }
    assert_eq!(list(t, Some(ImageFilter { image: spec("usnea.test/none:1") })).await, []);
}

async fn what_is_no_reference_is_refused(t: &mut Scenario) {
    for bad in [
        "",
        ":",
        "library/UPPER",
        "a b",
        "../x",
        "x@sha256:12",
        "x@md5:aa",
        "a:b:c",
        &"x/".repeat(200),
    ] {
        let refused = status(t, bad).await.expect_err(bad);
        assert_eq!(refused.code(), Code::InvalidArgument, "{bad:?}: {refused:?}");
    }
}

async fn cri_removes_with_all_names(t: &mut Scenario) {
    let image = small().with("Labels", json!({ "removes": "all" }));
    let (first, second) = (import(t, "one", &image), import(t, "two", &image));
    let found = status(t, &first).await.expect("ImageStatus").expect("there");
    assert_eq!(found.repo_tags.len(), 2, "{found:?}");
    remove(t, &second).await;
    for name in [&first, &second, &found.id] {
        assert_eq!(status(t, name).await.expect("ImageStatus"), None);
    }
    remove(t, &first).await;
}

async fn an_image_in_use_may_be_removed(t: &mut Scenario) {
    let layer = Layer::default().file("etc/mine", 0o644, b"mine");
    let reference = import(t, "used", &ImageBuilder::busybox().layer(layer));
    let pod = t.run_pod().await;
    let id = t.launch(&pod, testkit::container("a", &reference).command(&["sleep", "1000"])).await;
    remove(t, &reference).await;
    assert_eq!(status(t, &reference).await.expect("ImageStatus"), None);
    assert_eq!(t.exec(&id, "cat /etc/mine").await, "mine");
    assert_ne!(t.status(&id).await.image_ref, "");
}

async fn layers_are_stacked_with_whiteouts(t: &mut Scenario) {
    let image = ImageBuilder::busybox()
        .layer(
            Layer::default()
                .directory("d", 0o755)
                .file("d/gone", 0o644, b"1")
                .file("d/kept", 0o644, b"1")
                .file("d/changed", 0o644, b"1")
                .directory("opaque", 0o755)
                .file("opaque/hidden", 0o644, b"1"),
        )
        .layer(
            Layer::default()
                .file("d/.wh.gone", 0o644, b"")
                .file("d/changed", 0o644, b"2")
                .file("opaque/.wh..wh..opq", 0o644, b"")
                .file("opaque/shown", 0o644, b"2")
                .hard_link("d/linked", "d/changed"),
        );
    let reference = import(t, "stacked", &image);
    let pod = t.run_pod().await;
    let look = "cd /; grep -r . d opaque | sort; stat -c %h d/linked";
    let spec = testkit::container("a", &reference).script(look);
    let expected = "d/changed:2\nd/kept:1\nd/linked:2\nopaque/shown:2\n2";
    assert_eq!(t.output(&pod, spec).await, expected);
    t.remove_pod(&pod).await;
    remove(t, &reference).await;
}

async fn owners_and_modes_are_kept(t: &mut Scenario) {
    let layer = Layer::default()
        .entry(EntryType::Regular, "owned", 0o640, (1000, 2000), b"x", None)
        .entry(EntryType::Regular, "setuid", 0o4755, (0, 0), b"x", None)
        .entry(EntryType::Directory, "last", 0o1770, (65_534, 65_534), b"", None);
    let reference = import(t, "owners", &ImageBuilder::busybox().layer(layer));
    let pod = t.run_pod().await;
    let spec = testkit::container("a", &reference);
    let shown = t.output(&pod, spec.script("stat -c '%n %a %u %g' /owned /setuid /last")).await;
    assert_eq!(shown, "/owned 640 1000 2000\n/setuid 4755 0 0\n/last 1770 65534 65534");
    t.remove_pod(&pod).await;
    remove(t, &reference).await;
}

fn import_fails(t: &Scenario, path: &Path, what: &str) {
    let output = t.instance().usnea(&["image", "import", text(path), "--name", "usnea.test/bad:1"]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{what}: {stderr}");
    assert!(!stderr.contains("panicked"), "{what}: {stderr}");
    assert_ne!(stderr, "", "{what}");
}

async fn broken_archives_are_refused(t: &mut Scenario) {
    let directory = t.volume("broken");
    let whole = directory.join("whole.tar");
    small().write_oci_archive(&whole, "usnea.test/bad:1");
    let bytes = fs::read(&whole).expect("readable");
    let cases: [(&str, &[u8]); 3] =
        [("empty", b""), ("text", b"no archive at all"), ("cut", &bytes[..bytes.len() / 2])];
    for (name, content) in cases {
        let path = directory.join(name);
        t.instance().write(&path, content);
        import_fails(t, &path, name);
    }
    import_fails(t, &directory.join("missing"), "missing");
    let layout = t.volume("layout");
    small().write_layout(&layout, "usnea.test/bad:1");
    for blob in fs::read_dir(layout.join("blobs/sha256")).expect("readable") {
        let path = blob.expect("readable").path();
        let good = fs::read(&path).expect("readable");
        let mut bad = good.clone();
        let last = bad.last_mut().expect("not empty");
        *last ^= 1;
        fs::write(&path, bad).expect("write");
        import_fails(t, &layout, &format!("bit flipped in {}", path.display()));
        fs::write(&path, good).expect("write");
    }
    assert_eq!(status(t, "usnea.test/bad:1").await.expect("ImageStatus"), None);
}

async fn layers_that_lead_outside_change_nothing_there(t: &mut Scenario) {
    // A short path, because a name in a tar header has 100 bytes.
    let outside = t.instance().volume("o");
    t.instance().write(&outside.join("victim"), b"unharmed");
    let target = text(&outside).to_owned();
    let up = format!("../../../../../../../../{target}");
    let attacks = [
        Layer::default().file(&format!("{up}/x"), 0o644, b"x"),
        Layer::default().file(&format!("{target}/x"), 0o644, b"x"),
        Layer::default().symlink("d", &target).file("d/victim", 0o644, b"x"),
        Layer::default().symlink("d", &target).file("d/x", 0o644, b"x"),
        Layer::default().symlink("d", &target).directory("d", 0o777).file("d/x", 0o644, b"x"),
        Layer::default().symlink("d", &target).file("d/.wh.victim", 0o644, b""),
        Layer::default().hard_link("h", &format!("{up}/victim")).file("h", 0o644, b"x"),
        Layer::default().hard_link("h", &format!("{target}/victim")).file("h", 0o644, b"x"),
    ];
    for (index, layer) in attacks.into_iter().enumerate() {
        let file = t.volume("archives").join(format!("{index}.tar"));
        let image = ImageBuilder::empty().layer(layer).with("Cmd", json!(["x"]));
        let name = reference(t, &index.to_string());
        image.write_oci_archive(&file, &name);
        // Refused or confined: either will do.
        let output = t.instance().usnea(&["image", "import", text(&file), "--name", &name]);
        assert!(matches!(output.status.code(), Some(0 | 1)), "{index}: {output:?}");
        let victim = fs::read(outside.join("victim")).expect("still there");
        assert_eq!(victim, b"unharmed", "attack {index}");
        assert_eq!(fs::read_dir(&outside).expect("readable").count(), 1, "attack {index}");
        remove(t, &name).await;
    }
}

async fn the_store_has_a_size(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let script = "cd /; dd if=/dev/zero of=large bs=1M count=2; mkdir d; for i in `seq 200`; do : > d/$i; done";
    let id = t.launch(&pod, t.busybox("writer").script(script)).await;
    t.exited(&id).await;
    let response = t.cri.images.image_fs_info(ImageFsInfoRequest {}).await.expect("ImageFsInfo");
    let response = response.into_inner();
    for list in [&response.image_filesystems, &response.container_filesystems] {
        let [usage] = &list[..] else { panic!("exactly one: {list:?}") };
        assert!(usage.timestamp > 0);
        assert!(usage.used_bytes.expect("the kubelet needs it").value > 500_000, "{usage:?}");
        assert!(usage.inodes_used.expect("as well").value > 200, "{usage:?}");
        let mountpoint = &usage.fs_id.as_ref().expect("fs_id").mountpoint;
        assert_eq!(Path::new(mountpoint), t.instance().data_directory());
    }
}

async fn containers_of_unknown_images_are_not_found(t: &mut Scenario) {
    let pod = t.run_pod().await;
    t.refused(&pod, testkit::container("a", "usnea.test/none:1"), Code::NotFound).await;
    t.refused(&pod, testkit::container("a", ""), Code::InvalidArgument).await;
    assert!(status(t, BUSYBOX).await.expect("ImageStatus").is_some());
}
