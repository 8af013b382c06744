//! Unpacks archives with GNU tar and with ours: the same tree, or we refuse what GNU tar took.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use image::{ImageError, Limits, UnpackOptions, unpack_layer};
use tempfile::TempDir;

use crate::fixture::{DIR, Digest, FILE, Fields, Layer, ownership, owns_ids};

/// Where the fields of a header are.
const UID: std::ops::Range<usize> = 108..116;
const SIZE: std::ops::Range<usize> = 124..136;
const MTIME: std::ops::Range<usize> = 136..148;
const MAGIC: std::ops::Range<usize> = 257..265;
const PREFIX: usize = 345;

/// What is below `path`. Directories that no entry describes have the time of their making, so
/// only the time of those in `described` counts.
fn describe(path: &Path, base: &Path, described: &[String]) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(base).unwrap().to_owned();
        let mode = if metadata.is_symlink() { 0 } else { metadata.mode() };
        let dir = metadata.is_dir();
        let size = if dir { 0 } else { metadata.len() };
        let links = if dir { 0 } else { metadata.nlink() };
        let owner = owns_ids().then(|| (metadata.uid(), metadata.gid()));
        let timed = !dir || described.iter().any(|path| Path::new(path) == name);
        let time = timed.then(|| (metadata.mtime(), metadata.mtime_nsec()));
        let target = fs::read_link(&path).ok();
        let content = metadata.is_file().then(|| Digest::of(&fs::read(&path).unwrap()));
        lines.push(format!(
            "{name:?} {mode:o} {size} {links} {owner:?} {time:?} {target:?} {content:?}"
        ));
        if dir {
            lines.extend(describe(&path, base, described));
        }
    }
    lines.sort();
    lines
}

/// Has GNU tar unpack an archive; the error is its complaint.
fn gnu_tar(archive: &[u8], dir: &Path) -> Result<(), String> {
    let mut tar = Command::new("tar")
        .args(["--numeric-owner", "--xattrs", "-xpf", "-", "-C"])
        .arg(dir)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end before it has read everything.
    tar.stdin.take().unwrap().write_all(archive).ok();
    let output = tar.wait_with_output().unwrap();
    let complaint = || String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(complaint()) }
}

fn ours(archive: &[u8], dir: &Path) -> Result<(), ImageError> {
    let target = fs::File::open(dir).unwrap();
    let options = UnpackOptions { ownership: ownership(), limits: Limits::default() };
    unpack_layer(archive, &target, &options).map(drop)
}

/// An archive, and the directories that it describes.
struct Case {
    name: String,
    archive: Vec<u8>,
    described: Vec<String>,
}

impl Case {
    fn new(name: &str, archive: Layer, described: &[&str]) -> Self {
        let described = described.iter().map(ToString::to_string).collect();
        Self { name: name.to_owned(), archive: archive.build(), described }
    }
}

/// Whether GNU tar and ours made the same tree; `false` when ours refused.
fn agree(case: &Case) -> bool {
    let (expected, found) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let name = &case.name;
    if ours(&case.archive, found.path()).is_err() {
        return false;
    }
    let complaint = gnu_tar(&case.archive, expected.path()).err();
    assert_eq!(complaint, None, "{name}: only GNU tar refuses");
    let tree = |dir: &TempDir| describe(dir.path(), dir.path(), &case.described);
    assert_eq!(tree(&found), tree(&expected), "{name}");
    true
}

/// Headers as different writers have them; all are good.
fn good() -> Vec<Case> {
    let forged = |name: &str, forge: fn(&mut [u8; 512])| {
        Case::new(name, Layer::new().forged(FILE, "f", "", b"content", forge), &[])
    };
    let long = "long/".repeat(40) + "f";
    vec![
        forged("ustar", |_| ()),
        forged("old tar without a magic", |header| header[MAGIC].fill(0)),
        forged("GNU magic", |header| header[MAGIC].copy_from_slice(b"ustar  \0")),
        forged("numbers after blanks", |header| header[UID].copy_from_slice(b"   1750 ")),
        forged("numbers without a terminator", |header| header[UID].copy_from_slice(b"00001750")),
        forged("size that ends with a blank", |header| {
            header[SIZE].copy_from_slice(b"          7 ");
        }),
        forged("owner in base 256", |header| {
            header[UID].copy_from_slice(b"\x80\0\0\0\0\0\xea\x60");
        }),
        forged("size in base 256", |header| {
            header[SIZE].copy_from_slice(b"\x80\0\0\0\0\0\0\0\0\0\0\x07");
        }),
        forged("time before 1970", |header| {
            header[MTIME].copy_from_slice(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xae\x80");
        }),
        forged("time after 2106", |header| {
            header[MTIME].copy_from_slice(b"\x80\0\0\0\0\0\0\x01\0\0\0\0");
        }),
        forged("a name in two parts", |header| header[PREFIX..PREFIX + 3].copy_from_slice(b"d/e")),
        forged("GNU tar has times where others have a prefix", |header| {
            header[MAGIC].copy_from_slice(b"ustar  \0");
            header[PREFIX..PREFIX + 12].copy_from_slice(b"14371573452\0");
        }),
        forged("an old regular file", |header| header[156] = 0),
        Case::new("a name of 100 bytes", Layer::new().file(&"n".repeat(100), "x"), &[]),
        Case::new("long name", Layer::new().long_name(&long).file("f", "x"), &[]),
        Case::new("PAX name", Layer::new().pax(&[("path", long.as_bytes())]).file("f", "x"), &[]),
        Case::new(
            "long link",
            Layer::new()
                .entry(
                    Fields { kind: b'K', ..FILE },
                    "././@LongLink",
                    "",
                    &[b"t".repeat(200).as_slice(), b"\0"].concat(),
                )
                .symlink("l", "short"),
            &[],
        ),
        Case::new(
            "PAX link",
            Layer::new().pax(&[("linkpath", &[b't'; 300])]).symlink("l", "short"),
            &[],
        ),
        Case::new(
            "PAX times and owners",
            Layer::new()
                .pax(&[("mtime", b"-86400.25"), ("uid", b"65535"), ("gid", b"7")])
                .file("f", "x")
                .pax(&[("mtime", b"1700000000.123456789")])
                .dir("d")
                .pax(&[("mtime", b"12.5")])
                .symlink("l", "f"),
            &["d"],
        ),
        Case::new(
            "PAX records that mean nothing",
            Layer::new()
                .global_pax(&[("comment", b"x")])
                .pax(&[("comment", b"y"), ("atime", b"1"), ("ctime", b"1"), ("uname", b"nobody")])
                .file("f", "x"),
            &[],
        ),
        Case::new("PAX size", Layer::new().pax(&[("size", b"1")]).file("f", "x"), &[]),
        Case::new(
            "hard links",
            Layer::new()
                .file("f", "x")
                .hard_link("a", "f")
                .hard_link("d/b", "./a")
                .symlink("s", "f")
                .hard_link("t", "s"),
            &[],
        ),
        Case::new(
            "one path several times",
            Layer::new()
                .file("f", "first")
                .file("f", "second")
                .hard_link("g", "f")
                .file("f", "third")
                .symlink("s", "a")
                .symlink("s", "b")
                .entry(Fields { mode: 0o700, ..DIR }, "d", "", b"")
                .entry(Fields { mode: 0o711, mtime: 5, ..DIR }, "d/", "", b""),
            &["d"],
        ),
        Case::new(
            "modes and owners",
            Layer::new()
                .entry(Fields { mode: 0o4755, uid: 1, gid: 2, ..FILE }, "su", "", b"x")
                .entry(Fields { mode: 0o2711, uid: 1, gid: 2, ..DIR }, "sg", "", b"")
                .entry(Fields { mode: 0o1777, uid: 65_535, gid: 65_535, ..DIR }, "t", "", b"")
                .entry(Fields { mode: 0o170_644, ..FILE }, "type bits", "", b"x")
                .entry(Fields { mode: 0, ..FILE }, "none", "", b"x")
                .entry(Fields { kind: b'6', mode: 0o620, uid: 3, ..FILE }, "fifo", "", b""),
            &["sg", "t"],
        ),
        Case::new(
            "a read-only directory before its files",
            Layer::new()
                .entry(Fields { mode: 0o555, mtime: 9, ..DIR }, "d", "", b"")
                .file("d/f", "x")
                .file("d/e/f", "x"),
            &["d"],
        ),
        Case::new("slashes and dots", Layer::new().file(".//a/./b", "x").dir("./c/."), &["c"]),
        Case::new("absolute", Layer::new().file("/a/b", "x").hard_link("/l", "/a/b"), &[]),
    ]
}

/// What readers disagree about: each is refused, or GNU tar and ours agree after all.
fn odd() -> Vec<Case> {
    let forged = |name: &str, forge: fn(&mut [u8; 512])| {
        let hidden = Layer::new().file("hidden", "").unfinished();
        Case::new(name, Layer::new().forged(FILE, "f", "", &hidden, forge), &[])
    };
    let archive = |name: &str, archive: Layer| Case::new(name, archive, &[]);
    vec![
        forged("size in base 64", |header| header[SIZE].copy_from_slice(b"+0000001000\0")),
        forged("leading NUL", |header| header[SIZE].copy_from_slice(b"\x0000000001000")),
        forged("octal, then garbage", |header| header[SIZE].copy_from_slice(b"1000 garbage")),
        forged("no size", |header| header[SIZE].fill(0)),
        forged("blank size", |header| header[SIZE].fill(b' ')),
        forged("size beyond 64 bits", |header| {
            header[SIZE].copy_from_slice(b"\x80\0\0\x01\0\0\0\0\0\0\x02\0");
        }),
        forged("contiguous file", |header| header[156] = b'7'),
        forged("directory with content", |header| header[156] = b'5'),
        forged("link with content", |header| header[156] = b'2'),
        forged("unknown type", |header| header[156] = b'Z'),
        forged("magic of nobody", |header| header[MAGIC].copy_from_slice(b"unknown\0")),
        archive("PAX size against the header's", {
            Layer::new().pax(&[("size", b"0")]).file("f", "x")
        }),
        archive("two names", {
            Layer::new().pax(&[("path", b"pax")]).long_name("gnu").file("f", "x")
        }),
        archive("global name", Layer::new().global_pax(&[("path", b"g")]).file("f", "x")),
        archive("NUL in a name", Layer::new().long_name("a\0b").file("f", "x")),
        archive("file with a slash", Layer::new().file("f/", "x")),
        archive("old file with a slash", {
            Layer::new().entry(Fields { kind: 0, ..DIR }, "f/", "", b"")
        }),
        archive("behind the end", Layer::new().file("f", "x").raw(&[0; 1024]).file("g", "x")),
        archive("behind half an end", Layer::new().file("f", "x").raw(&[0; 512]).file("g", "x")),
        archive("below a link", Layer::new().symlink("d", ".").file("d/f", "x")),
        archive("a link becomes a directory", Layer::new().symlink("d", ".").dir("d")),
        archive("dots inside", Layer::new().file("a/../b", "x")),
    ]
}

/// A pseudo-random archive of good entries with every kind of header.
fn random(seed: u32) -> Case {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut pick = move |below: u32| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state % below
    };
    let mut archive = Layer::new();
    let (mut files, mut described) = (Vec::new(), Vec::new());
    for number in 0..12 + pick(30) {
        let directory = ["", "./", "a/", "a/b/", "/", "c//"][usize::try_from(pick(6)).unwrap()];
        let name = format!("{directory}n{number}");
        let fields = Fields {
            mode: pick(0o10_000) | 0o600,
            uid: pick(65_536).into(),
            gid: pick(65_536).into(),
            mtime: pick(u32::MAX).into(),
            ..FILE
        };
        let shown = match pick(4) {
            0 => {
                archive = archive.long_name(&name);
                "short"
            }
            1 => {
                let time = format!("{}.{}", pick(2_000_000_000), pick(1_000));
                let uid = pick(65_536).to_string();
                let records = [("path", &name), ("mtime", &time), ("uid", &uid)];
                archive = archive.pax(&records.map(|(key, value)| (key, value.as_bytes())));
                "short"
            }
            _ => name.as_str(),
        };
        archive = match pick(8) {
            0 => {
                described.push(name.trim_start_matches(['.', '/']).replace("//", "/"));
                archive.entry(Fields { kind: b'5', ..fields }, shown, "", b"")
            }
            1 => archive.entry(Fields { kind: b'2', ..fields }, shown, "../to/nowhere", b""),
            2 => archive.entry(Fields { kind: b'6', ..fields }, shown, "", b""),
            3 if !files.is_empty() => {
                let target: &String = &files[usize::try_from(pick(100)).unwrap() % files.len()];
                archive.entry(Fields { kind: b'1', ..fields }, shown, target, b"")
            }
            _ => {
                let content = vec![b'x'; usize::try_from(pick(1_500)).unwrap()];
                files.push(name.clone());
                archive.entry(fields, shown, "", &content)
            }
        };
    }
    Case { name: format!("seed {seed}"), archive: archive.build(), described }
}

fn has_gnu_tar() -> bool {
    let version = Command::new("tar").arg("--version").output();
    let gnu = version.is_ok_and(|output| output.stdout.starts_with(b"tar (GNU tar)"));
    if !gnu {
        println!("skipped: no GNU tar here");
    }
    gnu
}

#[test]
fn r32_good_archives_become_what_gnu_tar_makes_of_them() {
    if !has_gnu_tar() {
        return;
    }
    for case in good() {
        assert!(agree(&case), "{} is refused", case.name);
    }
    for seed in 0..150 {
        assert!(agree(&random(seed)), "seed {seed} is refused");
    }
}

#[test]
fn r32_odd_archives_are_refused_or_become_the_same() {
    if !has_gnu_tar() {
        return;
    }
    for case in odd() {
        agree(&case);
    }
}

/// Header bytes of good archives are changed, and the checksum made right: whatever we still
/// take, GNU tar takes for the same.
#[test]
fn r32_archives_with_changed_headers_are_refused_or_become_the_same() {
    if !has_gnu_tar() {
        return;
    }
    let (mut taken, mut state) = (0, 7_u32);
    let mut pick = move |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        usize::try_from(state >> 8).unwrap() % below
    };
    // Values that mean something in some field.
    let values = [0, b' ', b'0', b'1', b'5', b'7', b'8', b'+', b'-', b'/', b'.', b'L', b'x', 0xff];
    for seed in 0..400 {
        let mut case = random(seed % 20);
        let mut headers = Vec::new();
        let mut at = 0;
        while case.archive[at] != 0 {
            headers.push(at);
            let size = std::str::from_utf8(&case.archive[at + 124..at + 135]).unwrap();
            let size = usize::from_str_radix(size, 8).unwrap();
            at += 512 + size.next_multiple_of(512);
        }
        for _ in 0..=pick(3) {
            let header = headers[pick(headers.len())];
            // Not the name nor the link: other names are other entries, which may be of one path.
            let offset = [100 + pick(48), 156, 257 + pick(8), 329 + pick(183)][pick(4)];
            case.archive[header + offset] = values[pick(values.len())];
            checksum(&mut case.archive[header..header + 512]);
        }
        case.name = format!("changed {seed}");
        // What was a directory may have become a file, and the other way round.
        case.described.clear();
        taken += i32::from(agree_but_for_devices(&case));
    }
    assert!(taken > 100, "{taken} of 400");
}

/// Devices are skipped by ours and made by GNU tar.
fn agree_but_for_devices(case: &Case) -> bool {
    let dir = TempDir::new().unwrap();
    let target = fs::File::open(dir.path()).unwrap();
    let options = UnpackOptions { ownership: ownership(), limits: Limits::default() };
    match unpack_layer(case.archive.as_slice(), &target, &options) {
        Ok(summary) if summary.skipped_devices == 0 => agree(case),
        _ => false,
    }
}

fn checksum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

#[test]
fn sparse_files_of_gnu_tar_are_refused_and_not_misread() {
    if !has_gnu_tar() {
        return;
    }
    let source = TempDir::new().unwrap();
    let file = fs::File::create(source.path().join("sparse")).unwrap();
    file.set_len(10 << 20).unwrap();
    for format in ["--format=gnu", "--format=posix", "--format=posix --sparse-version=0.1"] {
        let archive = Command::new("tar")
            .args(format.split(' '))
            .args(["--sparse", "-cf", "-", "-C"])
            .arg(source.path())
            .arg("sparse")
            .output()
            .unwrap();
        assert!(archive.status.success());
        let error = ours(&archive.stdout, TempDir::new().unwrap().path()).unwrap_err();
        let fault = matches!(error, ImageError::Entry { source: image::EntryFault::Type, .. });
        assert!(fault, "{format}: {error:?}");
    }
}
