//! Reads a layer's tar archive strictly: what readers could disagree about is refused.
//!
//! Headers are decoded by the `tar` crate; putting long names and PAX records together is done
//! here, because those records have to be bounded and read by their length: a value may contain
//! line breaks, and a record that one reader sees and another does not is how archives smuggle.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;

use tar::{EntryType, Header};

use crate::error::{EntryFault, ImageError, LimitFault};
use crate::stream::{ArchiveSource, LayerStream, StreamError, StreamSummary};
use crate::transcript::Recorder;

mod number;
mod pax;

use pax::PaxRecords;

const BLOCK: usize = 512;
const BLOCK_BYTES: u64 = 512;
/// Where `typeflag` is in a header.
const TYPE_OFFSET: usize = 156;
/// Permission bits, set-id bits and the sticky bit.
const MODE_BITS: u64 = 0o7777;
/// The largest size that a header has as eleven octal digits.
const MAX_OCTAL_SIZE: u64 = 0o777_7777_7777;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Regular,
    Directory,
    Symlink,
    HardLink,
    Fifo,
    /// A character or block device.
    Device,
}

/// An entry's header with all extensions applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    /// The target of a symbolic or hard link.
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits including set-id and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    /// Seconds since 1970 and nanoseconds.
    pub(crate) mtime: (i64, i64),
    /// Bytes of content that follow.
    pub(crate) size: u64,
    pub(crate) xattrs: Vec<(OsString, Vec<u8>)>,
}

/// Long names and PAX records that were read before the entry they belong to.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Option<PaxRecords>,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.path.is_none() && self.link.is_none() && self.pax.is_none()
    }
}

/// The entries of an archive, one after the other.
pub(crate) struct TarReader<'w, S> {
    stream: S,
    recorder: Recorder<'w>,
    /// Bytes of the current entry's content that have not been read.
    remaining: u64,
    /// Bytes between the content and the next header.
    padding: u64,
    /// The current entry's name, for errors.
    current: String,
}

impl<'w, S: ArchiveSource> TarReader<'w, S> {
    pub(crate) fn new(stream: S) -> Self {
        Self::recording(stream, Recorder::silent())
    }

    /// Has `recorder` write down what [`TarReader::read`] does not return.
    pub(crate) fn recording(stream: S, recorder: Recorder<'w>) -> Self {
        Self { stream, recorder, remaining: 0, padding: 0, current: String::new() }
    }

    pub(crate) fn recorder(&mut self) -> &mut Recorder<'w> {
        &mut self.recorder
    }

    /// The next entry, whatever of the previous one's content was read; `None` at the end.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, ImageError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_content()?;
            let Some(header) = self.next_header()? else {
                return if extensions.is_empty() { Ok(None) } else { Err(self.malformed()) };
            };
            let entry_type = header.entry_type();
            let size = self.present(&header.as_old().size)?;
            let ambiguous = match entry_type {
                EntryType::GNULongName => {
                    let name = self.long_name(size)?;
                    extensions.path.replace(name).is_some()
                }
                EntryType::GNULongLink => {
                    let name = self.long_name(size)?;
                    extensions.link.replace(name).is_some()
                }
                EntryType::XHeader => {
                    let records = self.pax_records(size)?;
                    extensions.pax.replace(records).is_some()
                }
                // Between an entry and its extensions it makes some readers forget these.
                EntryType::XGlobalHeader => {
                    self.pax_records(size)?.changes_entries() || !extensions.is_empty()
                }
                _ => return self.entry(&header, size, extensions).map(Some),
            };
            if ambiguous {
                return Err(self.refused(EntryFault::Ambiguous));
            }
        }
    }

    /// Reads content of the current entry, which is not recorded; 0 at its end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ImageError> {
        let wanted = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.read_stream(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(truncated());
        }
        self.remaining -= u64::try_from(count).unwrap_or(self.remaining);
        Ok(count)
    }

    fn entry(
        &mut self,
        header: &Header,
        header_size: u64,
        extensions: Extensions,
    ) -> Result<Entry, ImageError> {
        let pax = extensions.pax.unwrap_or_default();
        let path = one_of(extensions.path, pax.path.clone());
        let link = one_of(extensions.link, pax.link.clone());
        let path_bytes = path.as_ref().ok().and_then(Clone::clone);
        let path_bytes = path_bytes.unwrap_or_else(|| header.path_bytes().into_owned());
        self.current = printable(&path_bytes);
        let ambiguous = |fault| self.refused(fault);
        path.map_err(ambiguous)?;
        let link = link.map_err(ambiguous)?;
        let kind = kind(header, &path_bytes, &pax).map_err(ambiguous)?;
        let size = match pax.size {
            // Whoever does not know the record takes the header's size, and what follows it for
            // the next header. Only a size that the header cannot have may differ.
            Some(size) if header_size == size || header_size == 0 && size > MAX_OCTAL_SIZE => size,
            Some(_) => return Err(self.refused(EntryFault::Ambiguous)),
            None => header_size,
        };
        // Some readers take content of links and directories for the next header, some skip it.
        if kind != Kind::Regular && size != 0 {
            return Err(self.refused(EntryFault::Ambiguous));
        }
        self.expect_content(size)?;
        let link = link.or_else(|| header.link_name_bytes().map(|bytes| bytes.into_owned()));
        let raw = header.as_old();
        let seconds = self.signed(&raw.mtime)?;
        let mode = self.unsigned(&raw.mode)?;
        let (uid, gid) = (self.unsigned(&raw.uid)?, self.unsigned(&raw.gid)?);
        Ok(Entry {
            path: path_bytes,
            link: link.unwrap_or_default(),
            kind,
            mode: u32::try_from(mode & MODE_BITS).unwrap_or(0),
            uid: pax.uid.unwrap_or(uid),
            gid: pax.gid.unwrap_or(gid),
            mtime: pax.mtime.unwrap_or((seconds, 0)),
            size,
            xattrs: pax.xattrs,
        })
    }

    /// A GNU long name without its terminating NUL.
    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, ImageError> {
        let mut name = self.extension(size)?;
        if name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn pax_records(&mut self, size: u64) -> Result<PaxRecords, ImageError> {
        let bytes = self.extension(size)?;
        PaxRecords::parse(&bytes).map_err(|fault| self.refused(fault))
    }

    /// The content of an extension header, which is kept in memory.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, ImageError> {
        if size > self.stream.limits().header_bytes {
            return Err(self.exceeded(LimitFault::Header));
        }
        self.expect_content(size)?;
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.read_exactly(&mut bytes)?;
        self.remaining = 0;
        Ok(bytes)
    }

    fn expect_content(&mut self, size: u64) -> Result<(), ImageError> {
        let budget = self.stream.limits().bytes.saturating_sub(self.stream.position());
        if size > budget {
            return Err(self.exceeded(LimitFault::Bytes));
        }
        self.remaining = size;
        self.padding = (BLOCK_BYTES - size % BLOCK_BYTES) % BLOCK_BYTES;
        Ok(())
    }

    fn skip_content(&mut self) -> Result<(), ImageError> {
        let mut count = self.remaining.saturating_add(self.padding);
        (self.remaining, self.padding) = (0, 0);
        if !self.recorder.listens() {
            return self.stream.skip(count).map_err(|error| stream_error(error, &self.current));
        }
        let mut passed = [0; 8 * BLOCK];
        while count > 0 {
            let wanted = usize::try_from(count).unwrap_or(usize::MAX).min(passed.len());
            self.read_exactly(&mut passed[..wanted])?;
            count -= u64::try_from(wanted).unwrap_or(count);
        }
        Ok(())
    }

    /// Where the current entry's content begins, in the uncompressed archive, if none was read.
    pub(crate) fn position(&self) -> u64 {
        self.stream.position()
    }

    /// The next block that is a header, its checksum verified; `None` at the end of the archive.
    fn next_header(&mut self) -> Result<Option<Header>, ImageError> {
        let mut block = [0; BLOCK];
        let count = self.read_some(&mut block)?;
        if count == 0 {
            return Ok(None);
        }
        self.read_exactly(&mut block[count..])?;
        if block == [0; BLOCK] {
            return self.end_of_archive().map(|()| None);
        }
        let header = Header::from_byte_slice(&block).clone();
        let unchecked = block.iter().enumerate().map(|(index, byte)| match index {
            148..156 => u64::from(b' '),
            _ => u64::from(*byte),
        });
        match self.present(&header.as_old().cksum)? {
            sum if sum == unchecked.sum::<u64>() => Ok(Some(header)),
            _ => Err(self.malformed()),
        }
    }

    /// After the first block of zeros nothing but zeros may follow.
    fn end_of_archive(&mut self) -> Result<(), ImageError> {
        let mut rest = vec![0; 128 * BLOCK];
        loop {
            match self.read_some(&mut rest)? {
                0 => return Ok(()),
                count if rest[..count].iter().all(|byte| *byte == 0) => {}
                _ => return Err(self.malformed()),
            }
        }
    }

    fn read_stream(&mut self, buffer: &mut [u8]) -> Result<usize, ImageError> {
        self.stream.read(buffer).map_err(|error| stream_error(error, &self.current))
    }

    /// Reads what is no content of a file.
    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, ImageError> {
        let count = self.read_stream(buffer)?;
        self.recorder.raw(&buffer[..count]).map_err(not_recorded)?;
        Ok(count)
    }

    fn read_exactly(&mut self, mut buffer: &mut [u8]) -> Result<(), ImageError> {
        while !buffer.is_empty() {
            match self.read_some(buffer)? {
                0 => return Err(truncated()),
                count => buffer = &mut buffer[count..],
            }
        }
        Ok(())
    }

    /// A number that no writer leaves out.
    fn present(&self, field: &[u8]) -> Result<u64, ImageError> {
        if number::is_absent(field) { Err(self.malformed()) } else { self.unsigned(field) }
    }

    fn unsigned(&self, field: &[u8]) -> Result<u64, ImageError> {
        let number = number::parse(field).and_then(|number| u64::try_from(number).ok());
        number.ok_or_else(|| self.malformed())
    }

    fn signed(&self, field: &[u8]) -> Result<i64, ImageError> {
        number::parse(field).ok_or_else(|| self.malformed())
    }

    fn malformed(&self) -> ImageError {
        ImageError::LayerArchive { offset: self.stream.position().saturating_sub(BLOCK_BYTES) }
    }

    fn refused(&self, source: EntryFault) -> ImageError {
        ImageError::Entry { path: self.current.clone(), source }
    }

    /// The error for a limit that the current entry exceeds.
    pub(crate) fn exceeded(&self, source: LimitFault) -> ImageError {
        ImageError::Limit { path: self.current.clone(), source }
    }
}

impl<R: Read> TarReader<'_, LayerStream<R>> {
    /// Reads to the end of the blob; to be called after [`TarReader::next_entry`] said `None`.
    pub(crate) fn finish(mut self) -> Result<StreamSummary, ImageError> {
        self.recorder.finish().map_err(not_recorded)?;
        let current = self.current;
        self.stream.finish().map_err(|error| stream_error(error, &current))
    }
}

/// Two extensions for the same field: which one counts depends on the reader.
fn one_of(gnu: Option<Vec<u8>>, pax: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, EntryFault> {
    match (gnu, pax) {
        (Some(_), Some(_)) => Err(EntryFault::Ambiguous),
        (gnu, pax) => Ok(gnu.or(pax)),
    }
}

fn kind(header: &Header, path: &[u8], pax: &PaxRecords) -> Result<Kind, EntryFault> {
    if pax.sparse {
        return Err(EntryFault::Type);
    }
    let old_style = header.as_bytes()[TYPE_OFFSET] == 0;
    match header.entry_type() {
        // Before there was a type for directories they were files with a slash at the end.
        EntryType::Regular if path.ends_with(b"/") && old_style => Ok(Kind::Directory),
        EntryType::Regular if path.ends_with(b"/") => Err(EntryFault::Ambiguous),
        EntryType::Regular => Ok(Kind::Regular),
        EntryType::Directory => Ok(Kind::Directory),
        EntryType::Symlink => Ok(Kind::Symlink),
        EntryType::Link => Ok(Kind::HardLink),
        EntryType::Fifo => Ok(Kind::Fifo),
        EntryType::Char | EntryType::Block => Ok(Kind::Device),
        _ => Err(EntryFault::Type),
    }
}

/// The error for a transcript that cannot be written.
pub(crate) fn not_recorded(source: io::Error) -> ImageError {
    ImageError::Io { operation: "write", path: "transcript of the layer".into(), source }
}

fn truncated() -> ImageError {
    ImageError::LayerRead { source: io::ErrorKind::UnexpectedEof.into() }
}

pub(crate) fn stream_error(error: StreamError, current: &str) -> ImageError {
    match error {
        StreamError::Read(source) => ImageError::LayerRead { source },
        StreamError::Limit(source) => ImageError::Limit { path: current.to_owned(), source },
    }
}

/// An entry's name for an error's text, whatever its length and bytes.
pub(crate) fn printable(path: &[u8]) -> String {
    const MAX_CHARS: usize = 200;
    let text = String::from_utf8_lossy(path);
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}

/// Bytes as a name of the file system.
pub(crate) fn os_string(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}
