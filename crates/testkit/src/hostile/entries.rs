//! Devices, privileges, forged attributes, and entries upon entries.

use super::archive::{Archive, DIR, FILE, Fields};
use super::{Hostile, Shape, text};

/// `CAP_SYS_ADMIN` permitted and effective, in the kernel's second format.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0, 32, 0, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Where device numbers are in a header.
const DEVICE_NUMBERS: std::ops::Range<usize> = 329..345;

pub(super) fn layers() -> Vec<Hostile> {
    [devices(), privileges(), duplicates()].concat()
}

fn devices() -> Vec<Hostile> {
    let device = |name, kind, numbers: &[u8; 16]| {
        let fields = Fields { kind, mode: 0o666, ..FILE };
        let forge = |header: &mut [u8; 512]| header[DEVICE_NUMBERS].copy_from_slice(numbers);
        let archive = Archive::new().forged(fields, "device", "", b"", forge).file("f", "x");
        Hostile::confined(
            name,
            archive.build(),
            &[("device", Shape::Absent), ("f", Shape::File("x"))],
        )
    };
    let forged = |name, key: &str, value: &[u8]| {
        let archive = Archive::new().pax(&[(key, value)]).dir("d").pax(&[(key, value)]);
        Hostile::confined(
            name,
            archive.file("d/f", "x").build(),
            &[("d", Shape::Directory), ("d/f", Shape::File("x"))],
        )
    };
    vec![
        device("block device", b'4', b"0000010\x000000000\x00"),
        device("character device", b'3', b"0000001\x000000001\x00"),
        device("a whiteout as overlayfs has it", b'3', b"0000000\x000000000\x00"),
        Hostile::confined(
            "FIFO",
            Archive::new().entry(Fields { kind: b'6', ..FILE }, "fifo", "", b"").build(),
            &[("fifo", Shape::Fifo)],
        ),
        Hostile::confined(
            "write to a FIFO",
            Archive::new()
                .entry(Fields { kind: b'6', ..FILE }, "f", "", b"")
                .file("f", "no reader needed")
                .build(),
            &[("f", Shape::File("no reader needed"))],
        ),
        forged("opaque directory by attribute", "SCHILY.xattr.trusted.overlay.opaque", b"y"),
        forged("redirect by attribute", "SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        forged("opaque directory by user attribute", "SCHILY.xattr.user.overlay.opaque", b"y"),
        forged("redirect by user attribute", "SCHILY.xattr.user.overlay.redirect", b"/etc"),
        forged("metacopy by user attribute", "SCHILY.xattr.user.overlay.metacopy", b""),
        forged("whiteout by user attribute", "SCHILY.xattr.user.overlay.whiteout", b"y"),
        forged("origin by user attribute", "SCHILY.xattr.user.overlay.origin", &[0; 30]),
        forged("label", "SCHILY.xattr.security.selinux", b"system_u:object_r:unlabeled_t:s0\0"),
        forged("attribute with NUL in its name", "SCHILY.xattr.user.a\0b", b"x"),
        forged("attribute without a name", "SCHILY.xattr.", b"x"),
        Hostile::refused(
            "attribute of 100 kB",
            Archive::new()
                .pax(&[("SCHILY.xattr.user.big", &[b'x'; 100_000])])
                .file("f", "x")
                .build(),
            "set attribute of",
        ),
    ]
}

fn privileges() -> Vec<Hostile> {
    let owner = |name, uid, gid| {
        let archive = Archive::new().entry(Fields { uid, gid, ..FILE }, "f", "", b"x");
        Hostile::refused(name, archive.build(), text::OWNER)
    };
    vec![
        Hostile::confined(
            "set-id bits and a capability",
            Archive::new()
                .pax(&[("SCHILY.xattr.security.capability", &CAPABILITY)])
                .entry(Fields { mode: 0o6755, ..FILE }, "f", "", b"x")
                .build(),
            &[("f", Shape::File("x"))],
        ),
        owner("owner 65536", 65_536, 0),
        owner("group 65536", 0, 65_536),
        owner("owner of the host", 2_000_000, 2_000_000),
        Hostile::refused(
            "owner 2^32",
            Archive::new().pax(&[("uid", b"4294967296")]).file("f", "x").build(),
            text::OWNER,
        ),
        Hostile::refused(
            "a directory's owner",
            Archive::new().entry(Fields { uid: 65_536, ..DIR }, "d", "", b"").build(),
            text::OWNER,
        ),
        Hostile::refused(
            "a link's owner",
            Archive::new().entry(Fields { uid: 65_536, kind: b'2', ..FILE }, "l", "f", b"").build(),
            text::OWNER,
        ),
        Hostile::refused(
            "the root's owner",
            Archive::new().entry(Fields { uid: 65_536, ..DIR }, "./", "", b"").build(),
            text::OWNER,
        ),
    ]
}

fn duplicates() -> Vec<Hostile> {
    vec![
        Hostile::confined(
            "one path twice",
            Archive::new().file("f", "first").file("./f", "second").build(),
            &[("f", Shape::File("second"))],
        ),
        Hostile::confined(
            "one path as everything",
            Archive::new()
                .dir("f")
                .file("f/inner", "x")
                .symlink("f", "/")
                .entry(Fields { kind: b'6', ..FILE }, "f", "", b"")
                .dir("f")
                .file("f/inner", "y")
                .file("f", "last")
                .build(),
            &[("f", Shape::File("last"))],
        ),
        Hostile::confined(
            "a directory nobody may enter",
            Archive::new().entry(Fields { mode: 0, ..DIR }, "d", "", b"").file("d/f", "x").build(),
            &[("d", Shape::Directory)],
        ),
    ]
}

/// An archive with `count` entries, all devices, which cost nothing but reading.
#[must_use]
pub fn many_entries(count: usize) -> Vec<u8> {
    let one = Archive::new().entry(Fields { kind: b'3', ..FILE }, "device", "", b"").unfinished();
    Archive::new().raw(&one.repeat(count)).build()
}

/// An ordinary archive, cut after each of `cuts` pseudo-random lengths.
pub fn truncated(cuts: u32) -> impl Iterator<Item = Vec<u8>> {
    let content: String = (0..500).map(|number| format!("{number:x} ")).collect();
    let whole = Archive::new()
        .dir("d")
        .file("d/f", &content)
        .pax(&[("mtime", b"1.5")])
        .file("d/g", "x")
        .long_name(&"n".repeat(200))
        .file("h", "x")
        .unfinished();
    let mut state = 1_u32;
    (0..cuts).map(move |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let cut = usize::try_from(state >> 8).unwrap_or(0) % whole.len();
        whole[..cut].to_vec()
    })
}
