//! Whiteouts of what is not the layer's.

use super::archive::{Archive, DIR, FILE, Fields};
use super::{Hostile, Shape, text};

pub(super) fn layers(outside: &str) -> Vec<Hostile> {
    let malformed = |name, path: &str| {
        Hostile::refused(name, Archive::new().file(path, "").build(), text::WHITEOUT)
    };
    let below_link = |name, path: &str| {
        let archive = Archive::new().symlink("d", outside).file(path, "");
        Hostile::refused(name, archive.build(), text::PARENT)
    };
    let of_type = |name, kind, path: &str| {
        let archive = Archive::new().entry(Fields { kind, ..FILE }, path, "target", b"");
        Hostile::refused(name, archive.build(), text::WHITEOUT)
    };
    vec![
        malformed("whiteout of nothing", ".wh."),
        malformed("whiteout of the directory", ".wh.."),
        malformed("whiteout of the parent", ".wh..."),
        malformed("whiteout of a directory's parent", "d/.wh..."),
        malformed("whiteout of a directory itself", "d/.wh.."),
        malformed("a file below a whiteout", ".wh.d/f"),
        below_link("whiteout of the victim below a link", "d/.wh.victim"),
        below_link("opaque directory below a link", "d/.wh..wh..opq"),
        below_link("whiteout deep below a link", "d/sub/.wh.f"),
        of_type("whiteout as a directory", b'5', ".wh.d"),
        of_type("whiteout as a link", b'2', ".wh.d"),
        of_type("opaque marker as a link", b'2', "d/.wh..wh..opq"),
        of_type("opaque marker as a device", b'3', "d/.wh..wh..opq"),
        Hostile::confined(
            "opaque root",
            Archive::new().file("f", "x").file(".wh..wh..opq", "").build(),
            &[("f", Shape::File("x")), (".wh..wh..opq", Shape::Absent)],
        ),
        Hostile::confined(
            "whiteout of a link to the victim",
            Archive::new().symlink("l", outside).file(".wh.l", "").build(),
            &[("l", Shape::Symlink), (".wh.l", Shape::Absent)],
        ),
        Hostile::confined(
            "whiteout, then a directory in its place",
            Archive::new().file(".wh.d", "").file("d/f", "x").build(),
            &[("d", Shape::Directory), ("d/f", Shape::File("x"))],
        ),
        Hostile::confined(
            "whiteout with content",
            Archive::new().file(".wh.gone", "content").build(),
            &[("gone", Shape::Whiteout), (".wh.gone", Shape::Absent)],
        ),
        Hostile::confined(
            "bookkeeping of aufs",
            Archive::new()
                .entry(DIR, ".wh..wh.plnk", "", b"")
                .symlink(".wh..wh.plnk/l", outside)
                .file(".wh..wh.plnk/l/f", "x")
                .build(),
            &[(".wh..wh.plnk", Shape::Absent)],
        ),
    ]
}
