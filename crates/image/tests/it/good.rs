//! What a usual image becomes on disk.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use image::{Digest, ImportOptions, Limits, UnpackOptions, unpack_layer};
use serde_json::json;
use tempfile::TempDir;

use crate::fixture::{
    Compression, DIR, FILE, Fields, Layer, Layout, MANIFEST, Place, arch, compress, config_of,
    ownership, owns_ids,
};

fn unpack(blob: &[u8]) -> TempDir {
    let dir = TempDir::new().unwrap();
    let target = fs::File::open(dir.path()).unwrap();
    let options = UnpackOptions { ownership: ownership(), limits: Limits::default() };
    unpack_layer(blob, &target, &options).unwrap();
    dir
}

fn opaque(path: &Path) -> bool {
    let fd = fs::File::open(path).unwrap();
    let value = sys::beneath::get_xattr(&fd, "user.overlay.opaque".as_ref()).unwrap();
    value.as_deref() == Some(b"y")
}

fn is_whiteout(path: &Path) -> bool {
    let metadata = fs::symlink_metadata(path).unwrap();
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

#[test]
fn an_oci_layout_with_all_compressions_is_imported() {
    let layers = [
        (Layer::new().dir("etc/").file("etc/name", "base").build(), Compression::Gzip),
        (Layer::new().file("etc/name", "middle").build(), Compression::Zstd),
        (Layer::new().file("top", "12345").build(), Compression::Plain),
    ];
    let layout = Layout::image("quay.io/test/app:v1", &layers);
    let place = Place::new();
    let images = place.import(layout.path()).unwrap();

    let [image] = images.as_slice() else { panic!("{images:?}") };
    assert_eq!(image.repo_tags, ["quay.io/test/app:v1"]);
    assert_eq!(image.repo_digests.len(), 1);
    assert!(image.repo_digests[0].starts_with("quay.io/test/app@sha256:"));
    assert_eq!(image.config.cmd, ["/bin/sh"]);
    assert_eq!(image.created.as_deref(), Some("2026-01-02T03:04:05Z"));
    assert_eq!(image.annotations["made"], "here");
    assert!(image.size_bytes > 4 + 6 + 5);
    let paths = place.store.layer_paths(image);
    let contents: Vec<_> =
        paths.iter().map(|path| fs::read_to_string(path.join("etc/name")).ok()).collect();
    assert_eq!(contents, [Some("base".to_owned()), Some("middle".to_owned()), None]);
    assert_eq!(fs::read_to_string(paths[2].join("top")).unwrap(), "12345");
    assert_eq!(place.reopen().list(), images, "the records say the same");
}

#[test]
fn an_archive_of_a_layout_is_imported_plain_and_compressed() {
    let layer = Layer::new().file("f", "x").build();
    let layout = Layout::image("test/app:v1", &[(layer, Compression::Gzip)]);
    for how in [Compression::Plain, Compression::Gzip, Compression::Zstd] {
        let place = Place::new();
        let path = place.file("image.tar", &compress(&layout.archive(), how));
        let images = place.import(&path).unwrap();
        assert_eq!(images[0].repo_tags, ["docker.io/test/app:v1"]);
    }
}

#[test]
fn a_docker_archive_is_imported_with_its_linked_layers() {
    let layer = Layer::new().file("f", "x").build();
    let other = Layer::new().file("g", "y").build();
    let diff_ids = [Digest::of(&layer), Digest::of(&other), Digest::of(&layer)];
    let config = serde_json::to_vec(&config_of(&arch(), &diff_ids, &json!(null))).unwrap();
    let id = Digest::of(&config);
    let config_name = format!("{}.json", id.hex());
    let manifest = json!([{
        "Config": config_name, "RepoTags": ["busybox:1", "localhost:5000/b:2"],
        "Layers": ["aa/layer.tar", "bb/layer.tar", "cc/layer.tar"],
    }]);
    let archive = Layer::new()
        .entry(FILE, &config_name, "", &config)
        .entry(FILE, "aa/layer.tar", "", &layer)
        .entry(FILE, "bb/layer.tar", "", &compress(&other, Compression::Gzip))
        .symlink("cc/layer.tar", "../aa/layer.tar")
        .entry(FILE, "manifest.json", "", &serde_json::to_vec(&manifest).unwrap())
        .build();
    let place = Place::new();
    let image = place.import(&place.file("image.tar", &archive)).unwrap().remove(0);
    assert_eq!(image.id, id);
    assert_eq!(image.repo_tags, ["docker.io/library/busybox:1", "localhost:5000/b:2"]);
    assert!(image.repo_digests.is_empty(), "there is no manifest to take a digest of");
    let paths = place.store.layer_paths(&image);
    assert_eq!(paths.len(), 2, "overlayfs takes no directory twice");
    assert!(paths[0].join("g").exists() && paths[1].join("f").exists());
}

#[test]
fn the_given_reference_replaces_the_names_of_the_source() {
    let layer = Layer::new().file("f", "x").build();
    let layout = Layout::image("latest", &[(layer, Compression::Gzip)]);
    let place = Place::new();
    let unnamed = place.import(layout.path()).unwrap().remove(0);
    assert!(unnamed.repo_tags.is_empty() && unnamed.repo_digests.is_empty());
    let options = ImportOptions { reference: Some("busybox".to_owned()) };
    let named = place.store.import(layout.path(), &options).unwrap().remove(0);
    assert_eq!(named.id, unnamed.id);
    assert_eq!(named.repo_tags, ["docker.io/library/busybox:latest"]);
    assert_eq!(place.store.list().len(), 1);
}

#[test]
fn an_index_gives_this_machines_image() {
    let mut layout = Layout::new();
    let layer = |name: &str| [(Layer::new().file(name, "").build(), Compression::Gzip)];
    let with_platform = |mut descriptor: serde_json::Value, arch: &str, os: &str| {
        descriptor["platform"] = json!({ "architecture": arch, "os": os });
        descriptor
    };
    let other = layout.image_blobs("mips", &layer("other"), &json!(null));
    let ours = layout.image_blobs(&arch(), &layer("ours"), &json!(null));
    let attestation = layout.json_blob(MANIFEST, &json!({ "schemaVersion": 2 }));
    let index = json!({ "schemaVersion": 2, "manifests": [
        with_platform(other, "mips", "linux"),
        with_platform(attestation, "unknown", "unknown"),
        with_platform(ours.clone(), &arch(), "linux"),
    ]});
    let index = layout.json_blob(crate::fixture::INDEX, &index);
    layout.add(index.clone(), Some("test/multi:1"));
    let place = Place::new();
    let image = place.import(layout.path()).unwrap().remove(0);
    let digest_of = |descriptor: &serde_json::Value| {
        format!("docker.io/test/multi@{}", descriptor["digest"].as_str().unwrap())
    };
    assert_eq!(image.repo_digests, [digest_of(&index), digest_of(&ours)]);
    assert!(place.store.layer_paths(&image)[0].join("ours").exists());
}

#[test]
fn metadata_survives() {
    let target = "x".repeat(150);
    let layer = Layer::new()
        .entry(Fields { mode: 0o700, mtime: 77, ..DIR }, "./", "", b"")
        .entry(Fields { mode: 0o550, mtime: 42, ..DIR }, "d", "", b"")
        .entry(Fields { mode: 0o4755, uid: 1000, gid: 65_535, ..FILE }, "d/su", "", b"su")
        .pax(&[("mtime", b"123.5"), ("uid", b"7")])
        .file("d/f", "content")
        .hard_link("d/again", "d/f")
        .symlink("d/l", "/etc/passwd")
        .entry(Fields { kind: b'6', mode: 0o640, ..FILE }, "fifo", "", b"")
        .pax(&[("path", format!("deep/{target}").as_bytes())])
        .file("short", "pax")
        .long_name(&format!("deep/{target}2"))
        .file("short", "gnu")
        .build();
    let dir = unpack(&compress(&layer, Compression::Gzip));
    let stat = |path: &str| fs::symlink_metadata(dir.path().join(path)).unwrap();
    let mode = |path: &str| stat(path).permissions().mode() & 0o7777;
    assert_eq!((mode("."), stat(".").mtime()), (0o700, 77));
    assert_eq!((mode("d"), stat("d").mtime()), (0o550, 42), "set after the entries inside");
    assert_eq!(mode("d/su"), 0o4755);
    assert_eq!((stat("d/f").mtime(), stat("d/f").mtime_nsec()), (123, 500_000_000));
    assert_eq!(stat("d/f").ino(), stat("d/again").ino());
    assert_eq!(fs::read_link(dir.path().join("d/l")).unwrap(), Path::new("/etc/passwd"));
    assert!(stat("fifo").file_type().is_fifo());
    assert_eq!(mode("fifo"), 0o640);
    assert_eq!(fs::read_to_string(dir.path().join("deep").join(&target)).unwrap(), "pax");
    assert_eq!(fs::read_to_string(dir.path().join(format!("deep/{target}2"))).unwrap(), "gnu");
    assert_eq!(mode("deep"), 0o755, "a directory that is only implied");
    if owns_ids() {
        assert_eq!((stat("d/su").uid(), stat("d/su").gid()), (1000, 65_535));
        assert_eq!(stat("d/f").uid(), 7);
    } else {
        println!("not checked without the ids of containers: owners");
    }
}

#[test]
fn capabilities_are_kept_and_overlay_attributes_are_not() {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let layer = Layer::new()
        .pax(&[
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.user.note", b"a\nb"),
            ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ])
        .file("f", "x")
        .pax(&[("SCHILY.xattr.user.overlay.opaque", b"y")])
        .dir("d")
        .build();
    let dir = unpack(&layer);
    let file = fs::File::open(dir.path().join("f")).unwrap();
    let xattr = |name: &str| sys::beneath::get_xattr(&file, name.as_ref()).unwrap();
    assert_eq!(xattr("user.note").as_deref(), Some(&b"a\nb"[..]));
    assert_eq!(xattr("user.overlay.redirect"), None);
    assert_eq!(xattr("trusted.overlay.opaque"), None);
    assert!(!opaque(&dir.path().join("d")), "only the unpacker says what is opaque");
    if owns_ids() {
        assert_eq!(xattr("security.capability").as_deref(), Some(&capability[..]));
    } else {
        println!("not checked without the ids of containers: file capabilities");
    }
}

#[test]
fn whiteouts_and_opaque_directories_are_what_overlayfs_reads() {
    let layer = Layer::new()
        .file("a/.wh.gone", "")
        .file("b/.wh..wh..opq", "")
        .file("b/new", "x")
        .file(".wh.both", "")
        .file("both/later", "x")
        .dir("kept")
        .file("kept/f", "x")
        .file(".wh.kept", "")
        .file("own", "x")
        .file(".wh.own", "")
        .file(".wh..wh.plnk/1", "aufs")
        .build();
    let dir = unpack(&layer);
    let path = |name: &str| dir.path().join(name);
    assert!(is_whiteout(&path("a/gone")));
    assert!(opaque(&path("b")) && path("b/new").exists());
    assert!(!opaque(&path("a")));
    assert!(opaque(&path("both")) && path("both/later").exists(), "hidden below, then made");
    assert!(opaque(&path("kept")) && path("kept/f").exists(), "made, then hidden below");
    assert_eq!(fs::read_to_string(path("own")).unwrap(), "x");
    assert!(!path(".wh..wh.plnk").exists());
    assert!(!path("a/.wh.gone").exists());
}

#[test]
fn of_several_entries_of_one_path_the_last_wins() {
    let layer = Layer::new()
        .file("f", "first")
        .file("f", "second")
        .dir("d")
        .file("d/inner", "x")
        .file("d", "now a file")
        .file("g", "x")
        .dir("g")
        .file("g/inner", "x")
        .symlink("s", "d")
        .dir("s")
        .file("s/inner", "x")
        .entry(Fields { mode: 0o500, ..DIR }, "twice", "", b"")
        .file("twice/f", "x")
        .entry(Fields { mode: 0o711, ..DIR }, "twice", "", b"")
        .build();
    let dir = unpack(&layer);
    let read = |path: &str| fs::read_to_string(dir.path().join(path)).unwrap();
    assert_eq!(read("f"), "second");
    assert_eq!(read("d"), "now a file");
    assert_eq!(read("g/inner"), "x");
    assert_eq!(read("s/inner"), "x");
    assert!(fs::symlink_metadata(dir.path().join("s")).unwrap().is_dir());
    assert_eq!(read("twice/f"), "x", "a directory again only changes its attributes");
    let mode = fs::metadata(dir.path().join("twice")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o711);
}

#[test]
fn below_a_layer_that_hides_everything_nothing_is_stacked() {
    let layers = [
        (Layer::new().file("old", "x").build(), Compression::Gzip),
        (Layer::new().file(".wh..wh..opq", "").file("new", "x").build(), Compression::Gzip),
        (Layer::new().file("top", "x").build(), Compression::Gzip),
    ];
    let layout = Layout::image("test/app:v1", &layers);
    let place = Place::new();
    let image = place.import(layout.path()).unwrap().remove(0);
    let paths = place.store.layer_paths(&image);
    assert_eq!(paths.len(), 2);
    assert!(paths[0].join("new").exists() && paths[1].join("top").exists());
}

/// Runs a script in a new user and mount namespace; `None` where that is not possible.
fn in_user_namespace(script: &str) -> Option<std::process::Output> {
    let run = |script: &str| Command::new("unshare").args(["-Urm", "sh", "-ec", script]).output();
    match run("mount -t tmpfs none /mnt") {
        Ok(output) if output.status.success() => Some(run(script).unwrap()),
        other => {
            println!("skipped: no user and mount namespaces here: {other:?}");
            None
        }
    }
}

/// What is below `path`: type, mode, size, time, link target and content of everything.
fn describe(path: &Path, base: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        let mode = if metadata.is_symlink() { 0 } else { metadata.mode() };
        let name = path.strip_prefix(base).unwrap().to_owned();
        let size = if metadata.is_dir() { 0 } else { metadata.len() };
        let links = if metadata.is_dir() { 0 } else { metadata.nlink() };
        let target = fs::read_link(&path).ok();
        let content = metadata.is_file().then(|| Digest::of(&fs::read(&path).unwrap()));
        let time = (metadata.mtime(), metadata.mtime_nsec());
        lines.push(format!("{name:?} {mode:o} {size} {links} {time:?} {target:?} {content:?}"));
        if metadata.is_dir() {
            lines.extend(describe(&path, base));
        }
    }
    lines.sort();
    lines
}

#[test]
fn archives_of_gnu_tar_unpack_to_what_gnu_tar_makes_of_them() {
    let source = TempDir::new().unwrap();
    let root = source.path();
    let deep = root.join("a".repeat(60)).join("b".repeat(60));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("c".repeat(60)), vec![7; 70_000]).unwrap();
    fs::write(root.join("ümlaut\nline"), "x").unwrap();
    fs::hard_link(root.join("ümlaut\nline"), root.join("again")).unwrap();
    fs::set_permissions(deep.parent().unwrap(), fs::Permissions::from_mode(0o1750)).unwrap();
    for format in ["ustar", "gnu", "pax", "oldgnu"] {
        if format == "gnu" {
            // Too long for the first format.
            std::os::unix::fs::symlink("t".repeat(150), root.join("link")).unwrap();
        }
        let (archive, expected) = (source.path().with_extension("tar"), TempDir::new().unwrap());
        let tar = |arguments: &[&str], dir: &Path| {
            Command::new("tar").args(arguments).arg(&archive).arg("-C").arg(dir).arg(".").status()
        };
        match tar(&["--format", format, "-cf"], root) {
            Err(error) => return println!("skipped: no tar here: {error}"),
            Ok(status) => assert!(status.success()),
        }
        assert!(tar(&["-xpf"], expected.path()).unwrap().success());
        let dir = unpack(&fs::read(&archive).unwrap());
        let found = describe(dir.path(), dir.path());
        let wanted = describe(expected.path(), expected.path());
        assert_eq!(found, wanted, "{format}");
        assert!(found.len() >= 5);
        fs::remove_file(archive).unwrap();
    }
}

#[test]
fn overlayfs_in_a_user_namespace_shows_the_image() {
    let layers = [
        (
            Layer::new()
                .file("a/gone", "x")
                .file("a/stays", "x")
                .file("b/hidden", "x")
                .file("c/hidden", "x")
                .build(),
            Compression::Gzip,
        ),
        (
            Layer::new()
                .file("a/.wh.gone", "")
                .file("b/.wh..wh..opq", "")
                .file("b/new", "x")
                .file(".wh.c", "")
                .file("c/new", "x")
                .build(),
            Compression::Gzip,
        ),
    ];
    let layout = Layout::image("test/app:v1", &layers);
    let place = Place::new();
    let image = place.import(layout.path()).unwrap().remove(0);
    let paths = place.store.layer_paths(&image);
    let upper_first: Vec<_> = paths.iter().rev().map(|path| path.to_str().unwrap()).collect();
    let script = format!(
        "mount -t overlay overlay -o userxattr,lowerdir={} /mnt && cd /mnt && find . -type f | sort",
        upper_first.join(":")
    );
    let Some(output) = in_user_namespace(&script) else { return };
    let files = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(files, "./a/stays\n./b/new\n./c/new\n", "{errors}");
}

#[test]
fn layers_are_unpacked_once_and_go_with_their_last_image() {
    let shared = (Layer::new().file("shared", "x").build(), Compression::Gzip);
    let own = |name: &str| (Layer::new().file(name, "x").build(), Compression::Gzip);
    let first = Layout::image("test/first:1", &[shared.clone(), own("one")]);
    let second = Layout::image("test/second:1", &[shared, own("two")]);
    let place = Place::new();
    place.import(first.path()).unwrap();
    place.import(second.path()).unwrap();
    assert_eq!(place.layer_names().len(), 3);
    let nothing = HashSet::new();
    assert!(place.store.remove("test/first:1", &nothing).unwrap().is_some());
    assert_eq!(place.layer_names().len(), 2);
    assert!(place.store.remove("test/second:1", &nothing).unwrap().is_some());
    assert_eq!(place.layer_names(), Vec::<String>::new());
    let blobs = fs::read_dir(place.root().join("blobs/sha256")).unwrap();
    assert_eq!(blobs.count(), 0);
}

#[test]
fn numbers_that_a_header_leaves_out_are_zero() {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..4].copy_from_slice(b"file");
    header.set_mode(0o644);
    header.set_size(0);
    header.as_old_mut().uid = [0; 8];
    header.as_old_mut().gid = *b"        ";
    header.as_old_mut().mtime = [0; 12];
    header.set_cksum();
    let dir = unpack(&Layer::new().raw(header.as_bytes()).build());
    let metadata = fs::metadata(dir.path().join("file")).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (0o644, 0));
}
