//! Layers that an attacker builds. Each is refused or confined; nothing outside ever changes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use image::{EntryFault, ImageError, LimitFault, Limits, Ownership};

use crate::arena::Arena;
use crate::fixture::{Compression, DIR, FILE, Fields, Layer, chain, compress, owns_ids};

fn fault(layer: Layer) -> EntryFault {
    match Arena::new().unpack(&layer.build(), Limits::default()) {
        Err(ImageError::Entry { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

fn limit(blob: &[u8], limits: Limits) -> LimitFault {
    match Arena::new().unpack(blob, limits) {
        Err(ImageError::Limit { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

#[test]
fn dots_that_leave_the_root_are_refused() {
    for name in ["../x", "a/../../x", "..", "/../x", "a/..", "./../outside/victim"] {
        assert_eq!(fault(Layer::new().file(name, "x")), EntryFault::Escapes, "{name}");
        assert_eq!(fault(Layer::new().dir(name)), EntryFault::Escapes, "{name} as a directory");
        let pax = Layer::new().pax(&[("path", name.as_bytes())]).file("harmless", "x");
        assert_eq!(fault(pax), EntryFault::Escapes, "{name} in a PAX record");
        let gnu = Layer::new().long_name(name).file("harmless", "x");
        assert_eq!(fault(gnu), EntryFault::Escapes, "{name} as a long name");
    }
}

#[test]
fn absolute_names_stay_inside() {
    let arena = Arena::new();
    let name = format!("{}/victim", arena.outside());
    arena.unpack(&Layer::new().file(&name, "x").build(), Limits::default()).unwrap();
    assert!(arena.inside().join(&name[1..]).is_file());
}

#[test]
fn a_file_below_a_symlink_is_refused() {
    let arena = Arena::new();
    for target in [arena.outside(), "../outside".to_owned(), "/".to_owned(), "real".to_owned()] {
        for name in ["d/f", "d/sub/f", "d/../d/f"] {
            let layer = Layer::new().dir("real").symlink("d", &target).file(name, "x").build();
            let error = Arena::new().unpack(&layer, Limits::default()).unwrap_err();
            assert!(matches!(error, ImageError::Entry { .. }), "{target} {name}: {error:?}");
        }
        let error = arena
            .unpack(&Layer::new().symlink("d", &target).dir("d/sub").build(), Limits::default())
            .unwrap_err();
        assert!(chain(&error).contains("a parent is not a directory"), "{}", chain(&error));
        fs::remove_file(arena.inside().join("d")).unwrap();
    }
}

#[test]
fn a_directory_over_a_symlink_replaces_the_link() {
    let arena = Arena::new();
    let layer = Layer::new()
        .symlink("d", &arena.outside())
        .entry(Fields { mode: 0o777, mtime: 1, ..DIR }, "d", "", b"")
        .build();
    arena.unpack(&layer, Limits::default()).unwrap();
    assert!(fs::symlink_metadata(arena.inside().join("d")).unwrap().is_dir());
}

#[test]
fn a_file_over_a_symlink_replaces_the_link() {
    let arena = Arena::new();
    let victim = format!("{}/victim", arena.outside());
    let layer = Layer::new().symlink("f", &victim).file("f", "x").build();
    arena.unpack(&layer, Limits::default()).unwrap();
    assert_eq!(fs::read_to_string(arena.inside().join("f")).unwrap(), "x");
}

#[test]
fn whiteouts_below_a_symlink_are_refused() {
    let outside = Arena::new().outside();
    for name in ["d/.wh.victim", "d/.wh..wh..opq", "d/sub/.wh.f"] {
        let layer = Layer::new().symlink("d", &outside).file(name, "");
        assert_eq!(fault(layer), EntryFault::Parent, "{name}");
    }
}

#[test]
fn whiteouts_of_dots_and_of_nothing_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh..", "d/.wh...", ".wh.d/f"] {
        assert_eq!(fault(Layer::new().file(name, "")), EntryFault::Whiteout, "{name}");
    }
    assert_eq!(fault(Layer::new().dir(".wh.d")), EntryFault::Whiteout);
    assert_eq!(fault(Layer::new().symlink(".wh..wh..opq", "x")), EntryFault::Whiteout);
}

#[test]
fn an_opaque_root_is_reported_and_changes_nothing() {
    let arena = Arena::new();
    let layer = Layer::new().file("f", "x").file(".wh..wh..opq", "").build();
    assert!(arena.unpack(&layer, Limits::default()).unwrap().opaque_root);
    assert!(arena.inside().join("f").exists());
}

#[test]
fn hard_links_to_what_the_layer_does_not_have_are_refused() {
    let outside = Arena::new().outside();
    let absolute = format!("{outside}/victim");
    for target in ["../outside/victim", "a/../../outside/victim", ".."] {
        assert_eq!(fault(Layer::new().hard_link("l", target)), EntryFault::Escapes, "{target}");
    }
    for target in [absolute.as_str(), "/etc/passwd", "missing", "of/lower/layer", "l", ".", "/"] {
        assert_eq!(fault(Layer::new().hard_link("l", target)), EntryFault::LinkTarget, "{target}");
    }
    assert_eq!(fault(Layer::new().hard_link("l", "")), EntryFault::Name);
    let through_link = Layer::new().symlink("d", &outside).hard_link("l", "d/victim");
    assert_eq!(fault(through_link), EntryFault::LinkTarget);
    let directory = Layer::new().dir("d").hard_link("l", "d");
    assert_eq!(fault(directory), EntryFault::LinkTarget);
    let whiteout = Layer::new().file(".wh.gone", "").hard_link("l", "gone");
    assert_eq!(fault(whiteout), EntryFault::LinkTarget);
    let device =
        Layer::new().entry(Fields { kind: b'3', ..FILE }, "null", "", b"").hard_link("l", "null");
    assert_eq!(fault(device), EntryFault::LinkTarget);
    let below_itself = Layer::new().file("d/f", "x").hard_link("d", "d/f");
    assert_eq!(fault(below_itself), EntryFault::LinkTarget);
}

#[test]
fn a_hard_link_to_a_symlink_links_the_link() {
    let arena = Arena::new();
    let victim = format!("{}/victim", arena.outside());
    let layer = Layer::new()
        .symlink("s", &victim)
        .hard_link("l", "s")
        .entry(Fields { mode: 0o777, ..FILE }, "l", "", b"overwritten")
        .build();
    arena.unpack(&layer, Limits::default()).unwrap();
    assert_eq!(fs::read_to_string(arena.inside().join("l")).unwrap(), "overwritten");
    assert_eq!(fs::read_link(arena.inside().join("s")).unwrap(), Path::new(&victim));
}

#[test]
fn devices_are_never_made() {
    let arena = Arena::new();
    let mut layer = Layer::new();
    for (kind, name) in [(b'3', "char"), (b'4', "block"), (b'3', "dev/null")] {
        layer = layer.entry(Fields { kind, ..FILE }, name, "", b"");
    }
    let summary = arena.unpack(&layer.build(), Limits::default()).unwrap();
    assert_eq!(summary.skipped_devices, 3);
    assert_eq!(fs::read_dir(arena.inside()).unwrap().count(), 0);
}

#[test]
fn unknown_and_sparse_types_are_refused() {
    for kind in [b'S', b'7', b'D', b'M', b'V', b'Z', b's'] {
        let layer = Layer::new().entry(Fields { kind, ..FILE }, "f", "", b"");
        assert_eq!(fault(layer), EntryFault::Type, "{}", char::from(kind));
    }
    let sparse: &[(&str, &[u8])] =
        &[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"9223372036854775807")];
    assert_eq!(fault(Layer::new().pax(sparse).file("f", "x")), EntryFault::Type);
}

#[test]
fn owners_beyond_the_mapped_ids_are_refused() {
    if !owns_ids() {
        println!("skipped: this process has too few ids to preserve ownership");
        return;
    }
    for (uid, gid) in [(65_536, 0), (0, 65_536), (2_000_000, 0)] {
        let layer = || Layer::new().entry(Fields { uid, gid, ..FILE }, "f", "", b"");
        assert_eq!(fault(layer()), EntryFault::Owner);
        let squashed =
            Arena::new().unpack_as(&layer().build(), Limits::default(), Ownership::Squash);
        squashed.unwrap();
    }
    let huge = Layer::new().pax(&[("uid", b"18446744073709551615")]).file("f", "x");
    assert_eq!(fault(huge), EntryFault::Owner);
}

#[test]
fn names_and_paths_beyond_the_limits_are_refused() {
    let long = "n".repeat(256);
    assert_eq!(fault(Layer::new().long_name(&long).file("f", "x")), EntryFault::Name);
    let layer = |path: String| Layer::new().long_name(&path).file("f", "x").build();
    let deep = format!("{}f", "d/".repeat(10_000));
    assert_eq!(limit(&layer(deep), Limits::default()), LimitFault::PathLength);
    assert_eq!(
        limit(&layer(format!("{}f", "d/".repeat(1_000))), Limits::default()),
        LimitFault::Depth
    );
    let empty = Layer::new().entry(FILE, "", "", b"");
    assert_eq!(fault(empty), EntryFault::Name);
    let nul = Layer::new().pax(&[("path", b"a\0b")]).file("f", "x");
    assert_eq!(fault(nul), EntryFault::Name);
}

#[test]
fn the_root_can_only_be_a_directory() {
    for name in [".", "./", "/"] {
        let layer = Layer::new().symlink(name, "/");
        assert_eq!(fault(layer), EntryFault::Root, "{name}");
    }
    assert_eq!(fault(Layer::new().symlink("l", "")), EntryFault::SymlinkTarget);
}

#[test]
fn more_entries_than_the_limit_are_refused() {
    let mut layer = Layer::new();
    for _ in 0..11 {
        layer = layer.file("same", "");
    }
    let limits = Limits { entries: 10, ..Limits::default() };
    assert_eq!(limit(&layer.build(), limits), LimitFault::Entries);
}

#[test]
fn headers_that_would_fill_memory_are_refused() {
    for kind in [b'L', b'K', b'x', b'g'] {
        let fields = Fields { kind, size: Some(8 << 30), ..FILE };
        let layer = Layer::new().entry(fields, "h", "", b"").unfinished();
        assert_eq!(limit(&layer, Limits::default()), LimitFault::Header, "{}", char::from(kind));
    }
}

#[test]
fn an_8_eib_file_is_refused_before_anything_is_written() {
    let arena = Arena::new();
    let size = u64::try_from(i64::MAX).unwrap();
    let layer = Layer::new().entry(Fields { size: Some(size), ..FILE }, "f", "", b"").unfinished();
    let error = arena.unpack(&layer, Limits::default()).unwrap_err();
    assert!(matches!(error, ImageError::Limit { source: LimitFault::Bytes, .. }));
    assert_eq!(fs::read_dir(arena.inside()).unwrap().count(), 0);
}

#[test]
fn sizes_that_readers_would_disagree_about_are_refused() {
    let pax_and_ustar = Layer::new().pax(&[("size", b"1024")]).file("f", "x");
    assert_eq!(fault(pax_and_ustar), EntryFault::Ambiguous);
    for value in ["-1", "+1", "0x10", "1.5", "99999999999999999999"] {
        let layer = Layer::new().pax(&[("size", value.as_bytes())]).file("f", "");
        assert_eq!(fault(layer), EntryFault::Ambiguous, "{value}");
    }
    let twice = Layer::new().pax(&[("size", b"1"), ("size", b"2")]).file("f", "");
    assert_eq!(fault(twice), EntryFault::Ambiguous);
    for kind in [b'1', b'2', b'5', b'6'] {
        let layer = Layer::new().entry(Fields { kind, ..FILE }, "f", "t", b"smuggled");
        assert_eq!(fault(layer), EntryFault::Ambiguous, "content of {}", char::from(kind));
    }
    let slash = Layer::new().file("d/", "x");
    assert_eq!(fault(slash), EntryFault::Ambiguous);
}

#[test]
fn names_that_readers_would_disagree_about_are_refused() {
    let both = Layer::new().long_name("gnu").pax(&[("path", b"pax")]).file("f", "");
    assert_eq!(fault(both), EntryFault::Ambiguous);
    assert_eq!(
        fault(Layer::new().long_name("a").long_name("b").file("f", "")),
        EntryFault::Ambiguous
    );
    let global =
        Layer::new().entry(Fields { kind: b'g', ..FILE }, "g", "", b"11 path=../x\n").file("f", "");
    assert!(matches!(
        Arena::new().unpack(&global.build(), Limits::default()),
        Err(ImageError::Entry { source: EntryFault::Ambiguous, .. })
    ));
    let comment =
        Layer::new().entry(Fields { kind: b'g', ..FILE }, "g", "", b"13 comment=x\n").file("f", "");
    Arena::new().unpack(&comment.build(), Limits::default()).unwrap();
}

#[test]
fn a_negative_size_is_refused() {
    let mut layer = Layer::new().file("f", "").unfinished();
    // Base-256 with the sign bit set, and a checksum that fits.
    layer[124..136].fill(0xff);
    layer[148..156].fill(b' ');
    let sum: u32 = layer[..512].iter().map(|byte| u32::from(*byte)).sum();
    layer[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert!(Arena::new().unpack(&layer, Limits::default()).is_err());
}

#[test]
fn bombs_are_refused() {
    let zeros = vec![0; 3 << 20];
    let layer = Layer::new().entry(FILE, "f", "", &zeros).build();
    let small = Limits { ratio_free_bytes: 1 << 20, ..Limits::default() };
    for how in [Compression::Gzip, Compression::Zstd] {
        let blob = compress(&layer, how);
        assert_eq!(limit(&blob, small.clone()), LimitFault::Ratio);
        let limits = Limits { bytes: 1 << 20, ..Limits::default() };
        assert_eq!(limit(&blob, limits), LimitFault::Bytes);
    }
    let slow = Limits { duration: Duration::ZERO, ..Limits::default() };
    assert_eq!(limit(&layer, slow), LimitFault::Time);
}

#[test]
fn what_follows_the_end_of_the_archive_is_refused() {
    let hidden = Layer::new().file("hidden", "x").unfinished();
    let trailing = Layer::new().file("f", "x").raw(&[0; 1024]).raw(&hidden).unfinished();
    let error = Arena::new().unpack(&trailing, Limits::default()).unwrap_err();
    assert!(matches!(error, ImageError::LayerArchive { .. }), "{error:?}");
    let one_zero_block = Layer::new().raw(&[0; 512]).raw(&hidden).unfinished();
    let error = Arena::new().unpack(&one_zero_block, Limits::default()).unwrap_err();
    assert!(matches!(error, ImageError::LayerArchive { .. }), "{error:?}");
    let padded = Layer::new().file("f", "x").raw(&[0; 10_240]).unfinished();
    Arena::new().unpack(&padded, Limits::default()).unwrap();
}

#[test]
fn truncated_and_corrupt_archives_are_errors() {
    let content: String = (0..2_000).map(|number| format!("{number:x} ")).collect();
    let layer = Layer::new().file("a", &content).file("b", "x").build();
    for cut in [1, 511, 513, 1_000, 5_000, layer.len() - 1_500] {
        let error = Arena::new().unpack(&layer[..cut], Limits::default()).unwrap_err();
        assert!(matches!(error, ImageError::LayerRead { .. }), "plain {cut}: {error:?}");
    }
    for how in [Compression::Gzip, Compression::Zstd] {
        let blob = compress(&layer, how);
        for cut in [5, 20, blob.len() / 2, blob.len() - 1] {
            let error = Arena::new().unpack(&blob[..cut], Limits::default()).unwrap_err();
            assert!(matches!(error, ImageError::LayerRead { .. }), "{cut}: {error:?}");
        }
        let trailing = [blob.as_slice(), b"garbage"].concat();
        assert!(Arena::new().unpack(&trailing, Limits::default()).is_err());
    }
    let mut corrupt = layer.clone();
    corrupt[3] ^= 1;
    let error = Arena::new().unpack(&corrupt, Limits::default()).unwrap_err();
    assert!(matches!(error, ImageError::LayerArchive { offset: 0 }), "{error:?}");
    assert!(Arena::new().unpack(b"no archive at all, but long enough", Limits::default()).is_err());
    let lonely = Layer::new().long_name("a").build();
    assert!(Arena::new().unpack(&lonely, Limits::default()).is_err());
}
