//! Names that lead elsewhere, or that are too long.

use super::archive::{Archive, FILE};
use super::{Hostile, Shape, text};

const ABSOLUTE: &[(&str, Shape)] = &[("x", Shape::File("x"))];

pub(super) fn layers(outside: &str) -> Vec<Hostile> {
    let victim = format!("{outside}/victim");
    let refused = |name, path: &str, text| {
        Hostile::refused(name, Archive::new().file(path, "x").build(), text)
    };
    let long = |name, path: &str, text| {
        Hostile::refused(name, Archive::new().long_name(path).file("f", "x").build(), text)
    };
    let pax = |name, path: &[u8], text| {
        let archive = Archive::new().pax(&[("path", path)]).file("f", "x");
        Hostile::refused(name, archive.build(), text)
    };
    let directory =
        |name, path| Hostile::refused(name, Archive::new().dir(path).build(), text::ESCAPES);
    vec![
        refused("dots first", "../x", text::ESCAPES),
        refused("dots to the victim", "../outside/victim", text::ESCAPES),
        refused("dots after a directory", "a/../../x", text::ESCAPES),
        refused("dots that stay inside", "a/../x", text::ESCAPES),
        refused("dots after a slash", "/../x", text::ESCAPES),
        refused("dots only", "..", text::ESCAPES),
        refused("dots last", "a/..", text::ESCAPES),
        directory("dots as a directory", "../sub/"),
        directory("dots only, as a directory", "../"),
        pax("dots in a PAX record", b"../../x", text::ESCAPES),
        long("dots in a long name", "../../x", text::ESCAPES),
        long("dots behind NUL", "f\0/../../x", text::NAME),
        pax("NUL in a PAX record", b"f\0/../../x", text::NAME),
        refused("no name", "", text::NAME),
        refused("the root as a file", ".", text::ROOT),
        Hostile::refused(
            "the root as a link",
            Archive::new().symlink("./", outside).build(),
            text::ROOT,
        ),
        Hostile::refused(
            "the root as a hard link",
            Archive::new().file("f", "x").hard_link("/", "f").build(),
            text::ROOT,
        ),
        Hostile::confined("absolute", Archive::new().file("/x", "x").build(), ABSOLUTE),
        Hostile::confined("absolute twice", Archive::new().file("//x", "x").build(), ABSOLUTE),
        Hostile::confined(
            "absolute to the victim",
            Archive::new().file(&victim, "overwritten").file("x", "x").build(),
            ABSOLUTE,
        ),
        long("a name of 256 bytes", &"n".repeat(256), text::NAME),
        long("a path of 5001 bytes", &below("directory/", 500), text::PATH_LENGTH),
        long("a thousand directories deep", &below("d/", 1_000), text::DEPTH),
        long("ten thousand directories deep", &below("d/", 10_000), text::PATH_LENGTH),
        Hostile::refused("deep, one directory after the other", deep(300).build(), text::DEPTH),
        Hostile::confined(
            "line break in a name",
            Archive::new().entry(FILE, "x", "", b"x").file("f\nroot::0:0", "y").build(),
            ABSOLUTE,
        ),
    ]
}

fn below(directory: &str, depth: usize) -> String {
    format!("{}f", directory.repeat(depth))
}

fn deep(depth: usize) -> Archive {
    (1..=depth)
        .fold(Archive::new(), |archive, depth| archive.long_name(&"d/".repeat(depth)).dir("d/"))
}
