//! Symbolic and hard links that lead outside.

use super::archive::{Archive, DIR, FILE, Fields};
use super::{Hostile, Shape, text};

const LINK_REPLACED_BY_DIRECTORY: &[(&str, Shape)] = &[("d", Shape::Directory)];
const LINK_REPLACED_BY_FILE: &[(&str, Shape)] = &[("f", Shape::File("overwritten"))];

pub(super) fn layers(outside: &str) -> Vec<Hostile> {
    [through(outside), replaced(outside), hard(outside)].concat()
}

/// Entries whose parent is a link.
fn through(outside: &str) -> Vec<Hostile> {
    let refused = |name, archive: Archive| Hostile::refused(name, archive.build(), text::PARENT);
    let link = |target: &str| Archive::new().symlink("d", target);
    vec![
        refused("a file below a link", link(outside).file("d/f", "x")),
        refused("the victim below a link", link(outside).file("d/victim", "x")),
        refused("a file below a relative link", link("../outside").file("d/f", "x")),
        refused("a file below a link to the root", link("/").file("d/tmp/f", "x")),
        refused("a file below a link to itself", link("d").file("d/f", "x")),
        refused("a file below a link inside", link("real").dir("real").file("d/f", "x")),
        refused("a file deep below a link", link(outside).file("d/sub/f", "x")),
        refused("a directory below a link", link(outside).dir("d/new")),
        refused(
            "chmod below a link",
            link(outside).entry(Fields { mode: 0o777, ..DIR }, "d/sub", "", b""),
        ),
        refused("a link below a link", link(outside).symlink("d/l", "victim")),
        refused("a hard link below a link", link(outside).file("f", "x").hard_link("d/l", "f")),
        refused(
            "a FIFO below a link",
            link(outside).entry(Fields { kind: b'6', ..FILE }, "d/fifo", "", b""),
        ),
        refused(
            "a file below a link to a link",
            Archive::new().symlink("a", "..").symlink("d", "a/outside").file("d/f", "x"),
        ),
        refused(
            "a directory in use becomes a link",
            Archive::new().dir("d").file("d/a", "x").symlink("d", outside).file("d/b", "x"),
        ),
        refused(
            "a directory above one in use becomes a link",
            Archive::new()
                .dir("d/sub")
                .file("d/sub/a", "x")
                .symlink("d", outside)
                .file("d/sub/b", "x"),
        ),
        refused(
            "a directory in use becomes a hard link to a link",
            Archive::new()
                .symlink("l", outside)
                .dir("d")
                .file("d/a", "x")
                .hard_link("d", "l")
                .file("d/b", "x"),
        ),
        refused("a file as a directory", Archive::new().file("d", "x").file("d/f", "x")),
    ]
}

/// Entries with the name of a link.
fn replaced(outside: &str) -> Vec<Hostile> {
    let victim = format!("{outside}/victim");
    let open = Fields { mode: 0o777, uid: 1, gid: 1, mtime: 1, ..DIR };
    let shapes = LINK_REPLACED_BY_DIRECTORY;
    let file = LINK_REPLACED_BY_FILE;
    vec![
        Hostile::confined(
            "chmod through a link",
            Archive::new().symlink("d", outside).entry(open, "d", "", b"").build(),
            shapes,
        ),
        Hostile::confined(
            "chmod through a link, with a slash",
            Archive::new().symlink("d", outside).entry(open, "d/", "", b"").build(),
            shapes,
        ),
        Hostile::confined(
            "chmod through a hard link to a link",
            Archive::new()
                .symlink("l", outside)
                .hard_link("d", "l")
                .entry(open, "d", "", b"")
                .build(),
            shapes,
        ),
        Hostile::confined(
            "write through a link",
            Archive::new().symlink("f", &victim).file("f", "overwritten").build(),
            file,
        ),
        Hostile::confined(
            "write through a hard link to a link",
            Archive::new()
                .symlink("l", &victim)
                .hard_link("f", "l")
                .file("f", "overwritten")
                .build(),
            file,
        ),
        Hostile::confined(
            "a link's own owner and time",
            Archive::new()
                .entry(
                    Fields { kind: b'2', mode: 0o777, uid: 1, gid: 1, mtime: 1, ..FILE },
                    "l",
                    &victim,
                    b"",
                )
                .build(),
            &[("l", Shape::Symlink)],
        ),
        Hostile::refused(
            "a link to nothing",
            Archive::new().symlink("l", "").build(),
            text::SYMLINK_TARGET,
        ),
        Hostile::refused(
            "a link with NUL",
            Archive::new().pax(&[("linkpath", b"a\0b")]).symlink("l", "x").build(),
            text::SYMLINK_TARGET,
        ),
        Hostile::refused(
            "a link of 5000 bytes",
            Archive::new().pax(&[("linkpath", &[b'a'; 5_000])]).symlink("l", "x").build(),
            text::SYMLINK_TARGET,
        ),
    ]
}

fn hard(outside: &str) -> Vec<Hostile> {
    let victim = format!("{outside}/victim");
    let refused = |name, archive: Archive, text| Hostile::refused(name, archive.build(), text);
    let to = |target: &str| Archive::new().hard_link("l", target);
    vec![
        refused("hard link with dots", to("../outside/victim"), text::ESCAPES),
        refused("hard link with dots later", to("a/../../outside/victim"), text::ESCAPES),
        refused("hard link to the directory above", to(".."), text::ESCAPES),
        refused("hard link to the victim", to(&victim), text::LINK_TARGET),
        refused("hard link to a file of the host", to("/etc/passwd"), text::LINK_TARGET),
        refused("hard link to an earlier layer", to("of/an/earlier/layer"), text::LINK_TARGET),
        refused("hard link to itself", to("l"), text::LINK_TARGET),
        refused("hard link to the root", to("/"), text::LINK_TARGET),
        refused("hard link to nothing", to(""), text::NAME),
        refused(
            "hard link through a link",
            Archive::new().symlink("d", outside).hard_link("l", "d/victim"),
            text::LINK_TARGET,
        ),
        refused(
            "hard link to a directory",
            Archive::new().dir("d").hard_link("l", "d"),
            text::LINK_TARGET,
        ),
        refused(
            "hard link to a device",
            Archive::new()
                .entry(Fields { kind: b'3', ..FILE }, "null", "", b"")
                .hard_link("l", "null"),
            text::LINK_TARGET,
        ),
        refused(
            "hard link to a whiteout",
            Archive::new().file(".wh.gone", "").hard_link("l", "gone"),
            text::LINK_TARGET,
        ),
        refused(
            "hard link over what it is in",
            Archive::new().file("d/f", "x").hard_link("d", "d/f"),
            text::LINK_TARGET,
        ),
        refused(
            "hard link with dots in a PAX record",
            Archive::new().pax(&[("linkpath", b"../outside/victim")]).hard_link("l", "f"),
            text::ESCAPES,
        ),
        Hostile::confined(
            "hard link to a link",
            Archive::new().symlink("s", &victim).hard_link("l", "s").build(),
            &[("l", Shape::Symlink), ("s", Shape::Symlink)],
        ),
    ]
}
