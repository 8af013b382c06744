//! What an unpacker makes, says and leaves.

use std::{
    fs::{self, File},
    io::Write,
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::Path,
    time::Duration,
};

use image::{
    Destination, ImageError, InProcess, LayerSummary, Limits, Ownership, Unpack, UnpackOptions,
};
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use tar::EntryType;
use tempfile::TempDir;
use unpacker::{ErrorKind, Unpacker, UnpackerError};

use crate::{UNPACK, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_layer_is_unpacked_as_in_process", a_layer_is_unpacked_as_in_process),
        trial("a_faulty_layer_is_told_from_a_failure", a_faulty_layer_is_told_from_a_failure),
        trial("limits_hold_in_the_unpacker", limits_hold_in_the_unpacker),
        trial("one_that_is_killed_is_an_error", one_that_is_killed_is_an_error),
        trial("one_that_is_dropped_ends", one_that_is_dropped_ends),
        trial("r34_broken_layers_leave_nothing", r34_broken_layers_leave_nothing),
        trial("nonsense_for_options_is_refused", nonsense_for_options_is_refused),
    ]
}

fn unpacker() -> Unpacker {
    let program = File::open("/proc/self/exe").expect("open this program");
    Unpacker::new(program.into(), vec![c"it".into(), c"unpack-layer".into()])
}

fn options(change: impl FnOnce(&mut Limits)) -> UnpackOptions {
    let mut limits = Limits::default();
    change(&mut limits);
    UnpackOptions { ownership: Ownership::Squash, limits }
}

fn layer() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: EntryType, mode: u32, content: &[u8], link: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_700_000_000);
        header.set_size(u64::try_from(content.len()).expect("small"));
        if !link.is_empty() {
            header.set_link_name(link).expect("a link");
        }
        archive.append_data(&mut header, path, content).expect("to memory");
    };
    add("d", EntryType::Directory, 0o751, b"", "");
    add("d/file", EntryType::Regular, 0o4755, &[7; 300_000], "");
    add("d/link", EntryType::Symlink, 0o777, b"", "../etc/passwd");
    add("d/hard", EntryType::Link, 0o644, b"", "d/file");
    add("fifo", EntryType::Fifo, 0o600, b"", "");
    add("d/.wh.gone", EntryType::Regular, 0o644, b"", "");
    add("opaque/.wh..wh..opq", EntryType::Regular, 0o644, b"", "");
    add("read-only", EntryType::Directory, 0o500, b"", "");
    add("read-only/inside", EntryType::Regular, 0o400, b"x", "");
    archive.into_inner().expect("to memory")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("to memory");
    encoder.finish().expect("to memory")
}

/// A directory, and a file that is not in it.
struct Place {
    root: File,
    transcript: File,
}

impl Place {
    fn new(directory: &Path) -> Self {
        let root = File::open(directory).expect("open");
        Self { root, transcript: tempfile::tempfile().expect("a file") }
    }

    fn destination(&self) -> Destination<'_> {
        Destination { root: self.root.as_fd(), transcript: self.transcript.as_fd() }
    }
}

fn unpack(
    unpack: &dyn Unpack,
    mut blob: &[u8],
    options: &UnpackOptions,
) -> (TempDir, Result<LayerSummary, ImageError>) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let place = Place::new(directory.path());
    (directory, unpack.unpack(&mut blob, place.destination(), options))
}

/// Every file with what is worth comparing.
fn tree(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(&next).expect("readable") {
            let path = entry.expect("readable").path();
            let data = fs::symlink_metadata(&path).expect("there");
            let kind = data.file_type();
            let content = match (kind.is_file(), kind.is_symlink()) {
                (true, _) => format!("{} bytes", fs::read(&path).expect("readable").len()),
                (_, true) => format!("{:?}", fs::read_link(&path).expect("a link")),
                _ => format!("fifo {} device {}", kind.is_fifo(), kind.is_char_device()),
            };
            let name = path.strip_prefix(directory).expect("below").to_owned();
            let (mode, links) = (data.permissions().mode(), data.nlink());
            // Unpackers make implied directories at different moments.
            let time = if kind.is_dir() { 0 } else { data.mtime() };
            found.push(format!("{name:?} {mode:o} {links} {time} {content}"));
            if kind.is_dir() {
                pending.push(path);
            }
        }
    }
    found.sort();
    found
}

fn a_layer_is_unpacked_as_in_process() {
    for blob in [layer(), gzip(&layer()), zstd::encode_all(&*layer(), 3).expect("to memory")] {
        let (here, expected) = unpack(&InProcess, &blob, &options(|_| ()));
        let (there, summary) = unpack(&unpacker(), &blob, &options(|_| ()));
        assert_eq!(summary.expect("unpacked"), expected.expect("unpacked"));
        assert_eq!(tree(there.path()), tree(here.path()));
        assert!(tree(there.path()).len() >= 9);
    }
}

fn kind(error: ImageError) -> (ErrorKind, String) {
    let ImageError::Unpacker { source } = error else { panic!("{error:?}") };
    let error = source.downcast_ref::<UnpackerError>().expect("an unpacker's error");
    (error.kind(), error.to_string())
}

fn a_faulty_layer_is_told_from_a_failure() {
    let layer = layer();
    for (blob, said) in [
        (gzip(&layer)[..1000].to_vec(), "read layer"),
        (vec![b'x'; 10_000], "malformed layer archive"),
    ] {
        let (_directory, result) = unpack(&unpacker(), &blob, &options(|_| ()));
        let (kind, text) = kind(result.expect_err("faulty"));
        assert_eq!(kind, ErrorKind::Faulty, "{text}");
        assert!(text.contains(said), "{text}");
    }
    let place = Place::new(Path::new("/proc/self"));
    let result = unpacker().unpack(&mut layer.as_slice(), place.destination(), &options(|_| ()));
    let (kind, text) = kind(result.expect_err("nobody writes to procfs"));
    assert_eq!(kind, ErrorKind::Internal, "{text}");
}

fn limits_hold_in_the_unpacker() {
    let bomb = gzip(&vec![0; 50_000_000]);
    let changes: [fn(&mut Limits); 3] = [
        |limits| limits.bytes = 1_000_000,
        |limits| (limits.ratio, limits.ratio_free_bytes) = (10, 1000),
        |limits| limits.duration = Duration::ZERO,
    ];
    for change in changes {
        let (_directory, result) = unpack(&unpacker(), &bomb, &options(change));
        let (kind, text) = kind(result.expect_err("a limit"));
        assert!(kind == ErrorKind::Faulty, "{text}");
    }
    let mut window = zstd::stream::Encoder::new(Vec::new(), 1).expect("an encoder");
    window.window_log(31).expect("2 GiB");
    window.write_all(&layer()).expect("to memory");
    let blob = window.finish().expect("to memory");
    let (_directory, result) = unpack(&unpacker(), &blob, &options(|_| ()));
    assert_eq!(kind(result.expect_err("2 GiB window")).0, ErrorKind::Faulty);
}

fn descendants() -> Vec<String> {
    let children = format!("/proc/self/task/{}/children", std::process::id());
    let text = fs::read_to_string(children).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

fn one_that_is_killed_is_an_error() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let place = Place::new(directory.path());
    let unpacking = unpacker().start(place.destination(), &options(|_| ())).expect("started");
    kill(unpacking.pid(), Signal::SIGKILL).expect("kill");
    let error = unpacking.wait().expect_err("killed");
    assert!(error.to_string().contains("SIGKILL"), "{error}");
}

fn one_that_is_dropped_ends() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let place = Place::new(directory.path());
    let unpacking = unpacker().start(place.destination(), &options(|_| ())).expect("started");
    let pid = unpacking.pid();
    drop(unpacking);
    // Reaped, so that nobody has the number.
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(!descendants().contains(&pid.to_string()));
}

fn r34_broken_layers_leave_nothing() {
    let blob = gzip(&layer());
    let directory = tempfile::tempdir().expect("temporary directory");
    let place = Place::new(directory.path());
    let open = || fs::read_dir("/proc/self/fd").expect("readable").count();
    let (program, options) = (unpacker(), options(|_| ()));
    let before = open();
    for round in 1..=100 {
        let cut = &blob[..round * blob.len() / 101];
        let result = program.unpack(&mut &*cut, place.destination(), &options);
        result.expect_err("truncated");
        for entry in fs::read_dir(directory.path()).expect("readable").flatten() {
            let path = entry.path();
            if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
                .expect("removed");
        }
    }
    // Other tests of this program have a few of their own open.
    assert!(open() < before + 50, "{before} {}", open());
}

fn nonsense_for_options_is_refused() {
    for arguments in [vec![], vec!["{}"], vec!["nonsense"], vec!["{}", "{}"]] {
        let program = std::env::current_exe().expect("this program");
        let output = std::process::Command::new(program).arg(UNPACK).args(&arguments).output();
        let answer = String::from_utf8(output.expect("run").stdout).expect("UTF-8");
        assert!(answer.starts_with(r#"{"failed""#), "{arguments:?}: {answer}");
    }
}
