//! Layers to unpack, and what has become of them.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write,
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::Path,
};

use image::{Destination, ImageError, LayerSummary, Limits, Ownership, Unpack, UnpackOptions};
use sys::beneath;
use tar::{EntryType, Header};
use unpacker::{ErrorKind, Unpacker, UnpackerError};

/// What lets a program listen on low ports, as `setcap(8)` writes it for a file.
const NET_BIND: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A directory, and a file that is not in it.
pub(crate) struct Place {
    root: File,
    transcript: File,
}

impl Place {
    pub(crate) fn new(directory: &Path) -> Self {
        let root = File::open(directory).expect("open");
        Self { root, transcript: tempfile::tempfile().expect("a file") }
    }

    pub(crate) fn destination(&self) -> Destination<'_> {
        Destination { root: self.root.as_fd(), transcript: self.transcript.as_fd() }
    }
}

/// An unpacker that is this program with the argument `mode`.
pub(crate) fn program(mode: &[&str]) -> Unpacker {
    let program = File::open("/proc/self/exe").expect("open this program");
    let mode = mode.iter().map(|text| std::ffi::CString::new(*text).expect("no NUL"));
    Unpacker::new(program.into(), [c"it".into()].into_iter().chain(mode).collect())
}

pub(crate) fn unpacker() -> Unpacker {
    program(&[crate::UNPACK])
}

pub(crate) fn options(change: impl FnOnce(&mut Limits)) -> UnpackOptions {
    let mut limits = Limits::default();
    change(&mut limits);
    UnpackOptions { ownership: Ownership::Squash, limits }
}

pub(crate) fn unpack(
    unpack: &dyn Unpack,
    mut blob: &[u8],
    directory: &Path,
    options: &UnpackOptions,
) -> Result<LayerSummary, ImageError> {
    unpack.unpack(&mut blob, Place::new(directory).destination(), options)
}

/// Whose fault the error is, and what it says.
pub(crate) fn kind(error: ImageError) -> (ErrorKind, String) {
    let ImageError::Unpacker { source } = error else { panic!("{error:?}") };
    let error = source.downcast_ref::<UnpackerError>().expect("an unpacker's error");
    (error.kind(), error.to_string())
}

/// An archive that is being written.
pub(crate) struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub(crate) fn add(
        mut self,
        path: &str,
        kind: EntryType,
        mode: u32,
        (uid, gid): (u64, u64),
        body: Body<'_>,
    ) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_mtime(1_700_000_000);
        let (content, link): (&[u8], _) = match body {
            Body::Nothing => (b"", None),
            Body::Content(content) => (content, None),
            Body::Link(target) => (b"", Some(target)),
        };
        header.set_size(u64::try_from(content.len()).expect("small"));
        if let Some(target) = link {
            header.set_link_name(target).expect("a link");
        }
        self.0.append_data(&mut header, path, content).expect("to memory");
        self
    }

    /// A file with an extended attribute.
    fn add_with(mut self, path: &str, mode: u32, attribute: (&str, &[u8])) -> Self {
        let key = format!("SCHILY.xattr.{}", attribute.0);
        self.0.append_pax_extensions([(&*key, attribute.1)]).expect("to memory");
        self.add(path, EntryType::Regular, mode, (0, 0), Body::Content(b"x"))
    }

    pub(crate) fn build(self) -> Vec<u8> {
        self.0.into_inner().expect("to memory")
    }
}

/// What an entry has besides its header.
#[derive(Clone, Copy)]
pub(crate) enum Body<'a> {
    Nothing,
    Content(&'a [u8]),
    Link(&'a str),
}

/// Something of everything that can be in a layer.
pub(crate) fn layer() -> Vec<u8> {
    use Body::{Content, Link, Nothing};
    use EntryType as E;
    let (root, user) = ((0, 0), (1000, 2000));
    Layer::new()
        .add("d", E::Directory, 0o2751, user, Nothing)
        .add("d/file", E::Regular, 0o6755, user, Content(&[7; 300_000]))
        .add("d/link", E::Symlink, 0o777, (5, 6), Link("../etc/passwd"))
        .add("e/hard", E::Link, 0o644, root, Link("d/file"))
        .add("fifo", E::Fifo, 0o640, (65_535, 65_535), Nothing)
        .add("null", E::Char, 0o666, root, Nothing)
        .add("d/.wh.gone", E::Regular, 0o644, root, Nothing)
        .add("opaque/.wh..wh..opq", E::Regular, 0o644, root, Nothing)
        .add("read-only", E::Directory, 0o500, user, Nothing)
        .add("read-only/inside", E::Regular, 0o400, user, Content(b"x"))
        .add_with("noted", 0o644, ("user.note", b"hello"))
        .add_with("server", 0o755, ("security.capability", &NET_BIND))
        .add("again/deep/er/file", E::Regular, 0o600, user, Content(b"old"))
        .add("again/deep", E::Directory, 0o700, user, Nothing)
        // Replaces a directory that has entries, then a file.
        .add("again", E::Regular, 0o600, root, Content(b"new"))
        .add("again", E::Regular, 0o644, root, Content(b"newest"))
        .build()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("to memory");
    encoder.finish().expect("to memory")
}

/// Every file with what is worth comparing.
pub(crate) fn tree(directory: &Path) -> Vec<String> {
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
                _ => format!("fifo {} device {}", kind.is_fifo(), data.rdev()),
            };
            let name = path.strip_prefix(directory).expect("below").display().to_string();
            let (mode, owner) = (data.mode(), (data.uid(), data.gid()));
            let links = data.nlink();
            // Implied directories and whiteouts have the time of their making.
            let time = if kind.is_dir() || kind.is_char_device() { 0 } else { data.mtime() };
            let more = if kind.is_dir() || kind.is_file() { xattrs(&path) } else { Vec::new() };
            found.push(format!("{name} {mode:o} {owner:?} {links} {time} {content} {more:?}"));
            if kind.is_dir() {
                pending.push(path);
            }
        }
    }
    found.sort();
    found
}

fn xattrs(path: &Path) -> Vec<String> {
    let file = File::open(path).expect("open");
    let names = ["user.note", "user.overlay.opaque", "security.capability"];
    let value = |name: &&str| beneath::get_xattr(&file, OsStr::new(name)).expect("readable");
    let found = names.iter().filter_map(|name| Some(format!("{name}={:?}", value(name)?)));
    found.collect()
}
