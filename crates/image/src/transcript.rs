//! What an archive has besides the content of its files, so that it can be made again byte by byte.
//!
//! Layers are kept unpacked only, and no unpacked tree tells how its archive spelled it: formats,
//! order, padding, owners that were not mapped. While a layer is unpacked all of that is written
//! down; content that is in a file of the tree is only referred to. The transcript and the tree
//! together make the archive again, with the same digest.
//!
//! A transcript is a zstd stream of segments: a byte that says which, then its fields. Numbers are
//! little-endian; bytes follow their length. Of a path there is how many bytes (u16) it begins with
//! like the path before, and the rest.
//!
//! ```text
//! 0 raw       u32, bytes         headers, padding, content that is no file of the tree
//! 1 content   path, u64          the content of a file, and its length
//! 2 link      path               a further name of a file; nothing of it is in the archive
//! 3 replaced  path, u32, bytes   a name from 1 or 2 is about to be reused: what it had
//! 4 lost      path               the same, but there was too much
//! 5 end       u64                length of the archive
//! 6 zeros     u32                as raw; the greater part of headers and padding
//! ```
//!
//! Empty files appear in none of them. So the first "replaced" of a path tells what its first
//! "content" or "link" was, and what has no "replaced" is in the tree.

use std::io::{self, BufWriter, IntoInnerError, Write};

use zstd::stream::write::Encoder;

mod reader;
mod replay;

pub(crate) use replay::{Plan, ReplayError, replay};

/// Quicker than the usual levels, and headers are so alike that more brings little.
const LEVEL: i32 = -3;
/// Raw bytes or zeros of one segment.
const RAW_BYTES: usize = 64 << 10;
const BUFFER_BYTES: usize = 128 << 10;
/// Zeros are looked for in pieces of this size.
const PIECE_BYTES: usize = 32;
/// Replaced content that is kept for one layer; whoever exports it has it in memory.
const KEPT_BYTES: u64 = 4 << 20;
/// The longest transcript, compressed: a million entries with long headers.
const MAX_BYTES: u64 = 256 << 20;

/// The tags of segments.
mod tag {
    pub(super) const RAW: u8 = 0;
    pub(super) const CONTENT: u8 = 1;
    pub(super) const LINK: u8 = 2;
    pub(super) const REPLACED: u8 = 3;
    pub(super) const LOST: u8 = 4;
    pub(super) const END: u8 = 5;
    pub(super) const ZEROS: u8 = 6;
}

/// Writes a transcript, or nothing.
pub(crate) struct Recorder<'w> {
    /// Buffered: each write to the encoder has its price.
    out: Option<BufWriter<Encoder<'static, Counting<&'w mut dyn Write>>>>,
    /// Raw bytes that are not written yet.
    raw: Vec<u8>,
    /// Bytes of the archive so far.
    archive_bytes: u64,
    kept_bytes: u64,
    /// The last path that was written.
    path: Vec<u8>,
}

impl<'w> Recorder<'w> {
    /// Writes down what happens.
    pub(crate) fn new(sink: &'w mut dyn Write) -> io::Result<Self> {
        let encoder = Encoder::new(Counting { inner: sink, bytes: 0 }, LEVEL)?;
        let out = Some(BufWriter::with_capacity(BUFFER_BYTES, encoder));
        Ok(Self { out, ..Self::silent() })
    }

    /// Writes nothing down.
    pub(crate) fn silent() -> Self {
        Self { out: None, raw: Vec::new(), archive_bytes: 0, kept_bytes: 0, path: Vec::new() }
    }

    /// Whether anything is written down.
    pub(crate) fn listens(&self) -> bool {
        self.out.is_some()
    }

    /// Bytes of the archive that the tree does not have.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.listens() {
            return Ok(());
        }
        self.archive_bytes = self.archive_bytes.saturating_add(len(bytes));
        self.raw.extend_from_slice(bytes);
        if self.raw.len() >= RAW_BYTES { self.flush_raw() } else { Ok(()) }
    }

    /// The next `bytes` of the archive are the content of the file `path`.
    pub(crate) fn content(&mut self, path: &[u8], bytes: u64) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.archive_bytes = self.archive_bytes.saturating_add(bytes);
        self.segment(tag::CONTENT, path, |out| out.write_all(&bytes.to_le_bytes()))
    }

    /// `path` became a further name of a file that is not empty.
    pub(crate) fn link(&mut self, path: &[u8]) -> io::Result<()> {
        self.segment(tag::LINK, path, |_| Ok(()))
    }

    /// How much of a file's content may be kept; `None` when it is too long.
    pub(crate) fn room_for(&self, bytes: u64) -> Option<usize> {
        let total = self.kept_bytes.checked_add(bytes)?;
        if total <= KEPT_BYTES { usize::try_from(bytes).ok() } else { None }
    }

    /// The file `path`, which is not empty, is about to go; this was its content.
    pub(crate) fn replaced(&mut self, path: &[u8], content: &[u8]) -> io::Result<()> {
        self.kept_bytes = self.kept_bytes.saturating_add(len(content));
        self.segment(tag::REPLACED, path, |out| write_bytes(out, content))
    }

    /// The file `path`, which is not empty, is about to go with its content.
    pub(crate) fn lost(&mut self, path: &[u8]) -> io::Result<()> {
        self.segment(tag::LOST, path, |_| Ok(()))
    }

    /// The archive is at its end.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.flush_raw()?;
        let Some(mut out) = self.out.take() else { return Ok(()) };
        out.write_all(&[tag::END])?;
        out.write_all(&self.archive_bytes.to_le_bytes())?;
        let encoder = out.into_inner().map_err(IntoInnerError::into_error)?;
        encoder.finish()?.flush()
    }

    fn segment(
        &mut self,
        tag: u8,
        path: &[u8],
        rest: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        self.flush_raw()?;
        let Some(out) = &mut self.out else { return Ok(()) };
        let same = self.path.iter().zip(path).take_while(|(last, now)| last == now).count();
        let same_bytes = u16::try_from(same).unwrap_or(0);
        let (_, new) = path.split_at(usize::from(same_bytes));
        out.write_all(&[tag])?;
        out.write_all(&same_bytes.to_le_bytes())?;
        write_bytes(out, new)?;
        self.path.truncate(usize::from(same_bytes));
        self.path.extend_from_slice(new);
        rest(out)
    }

    fn flush_raw(&mut self) -> io::Result<()> {
        let Some(out) = &mut self.out else { return Ok(()) };
        // Compressing costs far more than looking for zeros.
        let is_zeros = |piece: &[u8]| piece == &[0; PIECE_BYTES][..piece.len()];
        let mut rest = self.raw.as_slice();
        while !rest.is_empty() {
            let pieces = rest[..rest.len().min(RAW_BYTES)].chunks(PIECE_BYTES);
            let zeros = rest[..rest.len().min(PIECE_BYTES)] == [0; PIECE_BYTES];
            let run = pieces.take_while(|piece| is_zeros(piece) == zeros).map(<[u8]>::len).sum();
            let (run, after) = rest.split_at(run);
            if zeros {
                out.write_all(&[tag::ZEROS])?;
                out.write_all(&u32::try_from(run.len()).unwrap_or(0).to_le_bytes())?;
            } else {
                out.write_all(&[tag::RAW])?;
                write_bytes(out, run)?;
            }
            rest = after;
        }
        self.raw.clear();
        // A transcript that has no end is as good as none: the layer cannot be exported.
        if out.get_ref().get_ref().bytes > MAX_BYTES {
            self.out = None;
        }
        Ok(())
    }
}

fn write_bytes(out: &mut (impl Write + ?Sized), bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).or(Err(io::ErrorKind::InvalidInput))?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(bytes)
}

fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Counts what is written.
struct Counting<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buffer)?;
        self.bytes = self.bytes.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
