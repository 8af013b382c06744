//! Where an image comes from: a directory, or a tar archive of one, read at random.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use sys::beneath::{self, BeneathError, Resolve};

use crate::error::{ImageError, LimitFault};
use crate::stream::{ArchiveSource, LayerStream, Limits, StreamError, is_compressed};
use crate::tar_reader::{Kind, TarReader, printable, stream_error};

/// An image source has a handful of files per layer. Their names are kept in memory.
const MAX_MEMBERS: u64 = 20_000;
/// `blobs/sha256/<digest>` and the like.
const MAX_NAME_BYTES: usize = 1024;
const MAX_LINKS: usize = 8;

/// The files of an image source, by their path in it.
#[derive(Debug)]
pub(crate) enum Archive {
    Directory(OwnedFd),
    Tar { file: File, members: HashMap<String, Member> },
}

#[derive(Debug, Clone)]
pub(crate) enum Member {
    File {
        offset: u64,
        size: u64,
    },
    /// Another name, as a path in the archive.
    Link(String),
}

impl Archive {
    /// Opens a directory or an archive; a compressed archive is first unpacked into a file
    /// without a name in `scratch`.
    pub(crate) fn open(path: &Path, scratch: impl AsFd) -> Result<Self, ImageError> {
        let on_source = |source| ImageError::Io { operation: "open", path: path.into(), source };
        // A FIFO must not make us wait for its writer.
        let flags = OFlag::O_NONBLOCK.bits();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let file = file.map_err(on_source)?;
        let metadata = file.metadata().map_err(on_source)?;
        if metadata.is_dir() {
            return Ok(Self::Directory(file.into()));
        }
        if !metadata.is_file() {
            return Err(ImageError::UnknownFormat { path: path.into() });
        }
        let file = if is_compressed(&file).map_err(on_source)? {
            decompress(file, scratch, path)?
        } else {
            file
        };
        let members = index(&file)?;
        Ok(Self::Tar { file, members })
    }

    pub(crate) fn contains(&self, name: &str) -> Result<bool, ImageError> {
        Ok(self.file(name)?.is_some())
    }

    /// A file's content and size; `None` when the source does not have it.
    pub(crate) fn file(&self, name: &str) -> Result<Option<(Content, u64)>, ImageError> {
        match self {
            Self::Directory(dir) => directory_file(dir, name),
            Self::Tar { file, members } => {
                let Some((offset, size)) = resolve(members, name) else { return Ok(None) };
                let file = file.try_clone().map_err(|source| ImageError::LayerRead { source })?;
                Ok(Some((Content { file, offset, remaining: size }, size)))
            }
        }
    }

    /// A whole file that fits into `limit` bytes.
    pub(crate) fn document(&self, name: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let missing = || ImageError::Missing { name: name.to_owned() };
        let (content, bytes) = self.file(name)?.ok_or_else(missing)?;
        if bytes > limit {
            return Err(ImageError::DocumentTooLarge { name: name.to_owned(), bytes, limit });
        }
        let mut document = Vec::new();
        content.take(limit).read_to_end(&mut document).map_err(|source| ImageError::Io {
            operation: "read",
            path: name.into(),
            source,
        })?;
        Ok(document)
    }
}

/// Reads a part of a file without moving its position, which others may use as well.
#[derive(Debug)]
pub(crate) struct Content {
    file: File,
    offset: u64,
    remaining: u64,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..wanted], self.offset)?;
        if count == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let passed = u64::try_from(count).unwrap_or(self.remaining);
        self.offset += passed;
        self.remaining -= passed;
        Ok(count)
    }
}

fn directory_file(dir: &OwnedFd, name: &str) -> Result<Option<(Content, u64)>, ImageError> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
    let fd = match beneath::open(dir, Path::new(name), Resolve::Beneath, flags, Mode::empty()) {
        Err(BeneathError { source: Errno::ENOENT | Errno::ENOTDIR, .. }) => return Ok(None),
        result => result?,
    };
    let file = File::from(fd);
    let metadata = file.metadata().map_err(|source| ImageError::Io {
        operation: "stat",
        path: name.into(),
        source,
    })?;
    if !metadata.is_file() {
        return Err(ImageError::MalformedSource { name: name.to_owned() });
    }
    let size = metadata.len();
    Ok(Some((Content { file, offset: 0, remaining: size }, size)))
}

fn resolve(members: &HashMap<String, Member>, name: &str) -> Option<(u64, u64)> {
    let mut name = name;
    for _ in 0..MAX_LINKS {
        match members.get(name)? {
            Member::File { offset, size } => return Some((*offset, *size)),
            Member::Link(target) => name = target,
        }
    }
    None
}

/// Reads an archive's headers once, passing over the content.
fn index(file: &File) -> Result<HashMap<String, Member>, ImageError> {
    let source = FileSource::new(file).map_err(|source| ImageError::LayerRead { source })?;
    let mut reader = TarReader::new(source);
    let mut members = HashMap::new();
    let mut entries = 0;
    while let Some(entry) = reader.next_entry()? {
        entries += 1;
        if entries > MAX_MEMBERS {
            return Err(reader.exceeded(LimitFault::Entries));
        }
        if entry.path.len().max(entry.link.len()) > MAX_NAME_BYTES {
            return Err(reader.exceeded(LimitFault::PathLength));
        }
        let malformed = || ImageError::MalformedSource { name: printable(&entry.path) };
        let path = std::str::from_utf8(&entry.path).or(Err(malformed()))?;
        let link = std::str::from_utf8(&entry.link).or(Err(malformed()))?;
        let member = match entry.kind {
            Kind::Regular => Member::File { offset: reader.position(), size: entry.size },
            Kind::Symlink => {
                let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
                Member::Link(lexical(&format!("{parent}/{link}")).ok_or_else(malformed)?)
            }
            Kind::HardLink => Member::Link(lexical(link).ok_or_else(malformed)?),
            Kind::Directory | Kind::Fifo | Kind::Device => continue,
        };
        let name = lexical(path).ok_or_else(malformed)?;
        // With two files of one name it depends on the reader which one is the image.
        if members.insert(name, member).is_some() {
            return Err(malformed());
        }
    }
    Ok(members)
}

/// A path in the archive without `.`, `..` and superfluous slashes; `None` when it leaves it.
///
/// These paths are keys of a map and are never given to the kernel.
fn lexical(path: &str) -> Option<String> {
    let mut components = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                components.pop()?;
            }
            name => components.push(name),
        }
    }
    Some(components.join("/"))
}

/// Unpacks a compressed archive, so that its files can be read in any order.
fn decompress(file: File, scratch: impl AsFd, path: &Path) -> Result<File, ImageError> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let scratch = beneath::open(scratch, Path::new("."), Resolve::NoSymlinks, flags, mode)?;
    let mut plain = File::from(scratch);
    let failed = |error| stream_error(error, &path.to_string_lossy());
    let mut stream = LayerStream::new(file, Limits::default()).map_err(failed)?;
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match stream.read(&mut buffer).map_err(failed)? {
            0 => return Ok(plain),
            count => plain.write_all(&buffer[..count]).map_err(|source| ImageError::Io {
                operation: "decompress",
                path: PathBuf::from(path),
                source,
            })?,
        }
    }
}

/// An archive in a file, whose content is passed over by seeking.
struct FileSource<'a> {
    file: &'a File,
    position: u64,
    length: u64,
    limits: Limits,
}

impl<'a> FileSource<'a> {
    fn new(mut file: &'a File) -> io::Result<Self> {
        let length = file.seek(SeekFrom::End(0))?;
        // The file's end is the limit; `skip` watches it.
        let limits = Limits { bytes: u64::MAX, ..Limits::default() };
        Ok(Self { file, position: 0, length, limits })
    }
}

impl ArchiveSource for FileSource<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        let count = self.file.read_at(buffer, self.position).map_err(StreamError::Read)?;
        self.position += u64::try_from(count).unwrap_or(0);
        Ok(count)
    }

    fn skip(&mut self, count: u64) -> Result<(), StreamError> {
        match self.position.checked_add(count).filter(|end| *end <= self.length) {
            Some(end) => {
                self.position = end;
                Ok(())
            }
            None => Err(StreamError::Read(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }
}
