//! Headers that readers would read differently, and sizes that are lies.

use super::archive::{Archive, DIR, FILE, Fields};
use super::{Hostile, Shape, text};

/// Where sizes are in a header.
const SIZE: std::ops::Range<usize> = 124..136;
/// Where the real size of a sparse file is in a GNU header.
const REAL_SIZE: std::ops::Range<usize> = 483..495;
const COMMENT: &[(&str, Shape)] = &[("f", Shape::File("x"))];

pub(super) fn layers() -> Vec<Hostile> {
    [sizes(), extensions(), types(), ends()].concat()
}

fn refused(name: &'static str, archive: Archive, text: &'static str) -> Hostile {
    Hostile::refused(name, archive.build(), text)
}

/// The header of a file that only some readers see.
fn smuggled() -> Vec<u8> {
    Archive::new().file("smuggled", "").unfinished()
}

fn sizes() -> Vec<Hostile> {
    let size = |name, field: &[u8; 12], text| {
        let forge = |header: &mut [u8; 512]| header[SIZE].copy_from_slice(field);
        let archive = Archive::new().forged(FILE, "f", "", &smuggled(), forge);
        refused(name, archive, text)
    };
    let pax = |name, pax: &[u8], content: &[u8]| {
        let archive = Archive::new().pax(&[("size", pax)]).entry(FILE, "f", "", content);
        refused(name, archive, text::AMBIGUOUS)
    };
    let huge = Fields { size: u64::try_from(i64::MAX).ok(), ..FILE };
    let with_content = |name, kind| {
        refused(
            name,
            Archive::new().entry(Fields { kind, ..FILE }, "f", "target", &smuggled()),
            text::AMBIGUOUS,
        )
    };
    vec![
        Hostile::refused(
            "8 EiB",
            Archive::new().entry(huge, "f", "", b"").unfinished(),
            text::BYTES,
        ),
        size("negative size", &[0xff; 12], text::MALFORMED),
        size("size 2^64 + 512", b"\x80\0\0\x01\0\0\0\0\0\0\x02\0", text::MALFORMED),
        size("size with a plus sign", b"+0000001000\0", text::MALFORMED),
        size("size with a minus sign", b"-0000001000\0", text::MALFORMED),
        size("size with digits behind NUL", b"000\x0000001000", text::MALFORMED),
        size("size that is no number", b"0x200\0\0\0\0\0\0\0", text::MALFORMED),
        pax("PAX size larger than the header's", b"1024", &smuggled()),
        pax("PAX size smaller than the header's", b"1", &smuggled()),
        pax("PAX size 0", b"0", &smuggled()),
        refused(
            "PAX size, and a header that says 0",
            Archive::new().pax(&[("size", b"512")]).entry(
                Fields { size: Some(0), ..FILE },
                "f",
                "",
                &smuggled(),
            ),
            text::AMBIGUOUS,
        ),
        pax("negative PAX size", b"-1", b""),
        pax("PAX size with a plus sign", b"+1", b"x"),
        pax("PAX size beyond 64 bits", b"18446744073709551617", b"x"),
        refused(
            "PAX size of 8 EiB",
            Archive::new().pax(&[("size", b"9223372036854775807")]).entry(FILE, "f", "", b""),
            text::BYTES,
        ),
        with_content("a directory with content", b'5'),
        with_content("a link with content", b'2'),
        with_content("a hard link with content", b'1'),
        with_content("a FIFO with content", b'6'),
        with_content("a device with content", b'3'),
    ]
}

fn extensions() -> Vec<Hostile> {
    let huge = |name, kind| {
        let fields = Fields { kind, size: Some(8 << 30), ..FILE };
        Hostile::refused(
            name,
            Archive::new().entry(fields, "h", "", b"").unfinished(),
            text::HEADER,
        )
    };
    vec![
        huge("long name of 8 GiB", b'L'),
        huge("long link of 8 GiB", b'K'),
        huge("PAX header of 8 GiB", b'x'),
        huge("global PAX header of 8 GiB", b'g'),
        refused(
            "two names",
            Archive::new().long_name("gnu").pax(&[("path", b"pax")]).file("f", "x"),
            text::AMBIGUOUS,
        ),
        refused(
            "two long names",
            Archive::new().long_name("a").long_name("b").file("f", "x"),
            text::AMBIGUOUS,
        ),
        refused(
            "two PAX headers",
            Archive::new().pax(&[("path", b"a")]).pax(&[("path", b"b")]).file("f", "x"),
            text::AMBIGUOUS,
        ),
        refused(
            "one PAX record twice",
            Archive::new().pax(&[("path", b"a"), ("path", b"b")]).file("f", "x"),
            text::AMBIGUOUS,
        ),
        refused(
            "a PAX record that deletes",
            Archive::new().pax(&[("path", b"")]).file("f", "x"),
            text::AMBIGUOUS,
        ),
        refused(
            "a PAX record with a false length",
            Archive::new().entry(Fields { kind: b'x', ..FILE }, "p", "", b"99 path=a\n"),
            text::AMBIGUOUS,
        ),
        refused(
            "a global name",
            Archive::new().global_pax(&[("path", b"../x")]).file("f", "x"),
            text::AMBIGUOUS,
        ),
        refused(
            "a global size",
            Archive::new().global_pax(&[("size", b"512")]).file("f", "x"),
            text::AMBIGUOUS,
        ),
        refused(
            "a global header between an entry and its name",
            Archive::new().pax(&[("path", b"a")]).global_pax(&[("comment", b"x")]).file("f", "x"),
            text::AMBIGUOUS,
        ),
        refused("a name without an entry", Archive::new().long_name("a"), text::MALFORMED),
        Hostile::confined(
            "a global comment",
            Archive::new().global_pax(&[("comment", b"x")]).file("f", "x").build(),
            COMMENT,
        ),
    ]
}

fn types() -> Vec<Hostile> {
    let of_type = |name, kind| {
        let archive = Archive::new().entry(Fields { kind, ..FILE }, "f", "", b"");
        refused(name, archive, text::TYPE)
    };
    let real_size = |header: &mut [u8; 512]| {
        header[257..265].copy_from_slice(b"ustar  \0");
        header[REAL_SIZE].copy_from_slice(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff");
    };
    vec![
        of_type("a contiguous file", b'7'),
        of_type("a directory with its list", b'D'),
        of_type("a part of several volumes", b'M'),
        of_type("a volume's name", b'V'),
        of_type("an old long name", b'N'),
        of_type("an unknown type", b'Z'),
        refused(
            "a sparse file of 8 EiB",
            Archive::new().forged(Fields { kind: b'S', ..FILE }, "f", "", b"", real_size),
            text::TYPE,
        ),
        refused(
            "a PAX sparse file of 8 EiB",
            Archive::new()
                .pax(&[
                    ("GNU.sparse.major", b"1"),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.name", b"../x"),
                    ("GNU.sparse.realsize", b"9223372036854775807"),
                ])
                .file("f", "1\n0\n1\n"),
            text::TYPE,
        ),
        refused("a file with a slash", Archive::new().file("f/", "x"), text::AMBIGUOUS),
        Hostile::confined(
            "an old file with a slash",
            Archive::new().entry(Fields { kind: 0, ..DIR }, "d/", "", b"").build(),
            &[("d", Shape::Directory)],
        ),
    ]
}

fn ends() -> Vec<Hostile> {
    let malformed =
        |name, archive: Archive| Hostile::refused(name, archive.unfinished(), text::MALFORMED);
    let mut corrupt = Archive::new().file("f", "x").build();
    corrupt[3] ^= 1;
    vec![
        malformed(
            "an archive behind the end",
            Archive::new().file("f", "x").raw(&[0; 1024]).raw(&smuggled()),
        ),
        malformed(
            "an archive behind one block of zeros",
            Archive::new().file("f", "x").raw(&[0; 512]).raw(&smuggled()),
        ),
        malformed("bytes behind the end", Archive::new().file("f", "x").raw(&[0; 1024]).raw(b"x")),
        Hostile::refused("a wrong checksum", corrupt, text::MALFORMED),
        Hostile::refused("no archive", b"no archive at all".repeat(50), text::MALFORMED),
        Hostile::refused(
            "a header cut off",
            Archive::new().file("f", "x").unfinished()[..100].to_vec(),
            text::READ,
        ),
        Hostile::refused(
            "content cut off",
            Archive::new().entry(FILE, "f", "", &[b'x'; 2_000]).unfinished()[..1_000].to_vec(),
            text::READ,
        ),
        Hostile::refused(
            "padding cut off",
            Archive::new().file("f", "x").unfinished()[..600].to_vec(),
            text::READ,
        ),
        Hostile::confined("nothing", Vec::new(), &[]),
        Hostile::confined(
            "padding that is not zero",
            {
                let mut archive = Archive::new().file("f", "x").build();
                archive[513..1024].fill(b'!');
                archive
            },
            COMMENT,
        ),
    ]
}
