//! Makes an archive again of its transcript and the unpacked tree.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use sys::beneath::{self, BeneathError, Resolve};

use super::reader::{Segment, TranscriptReader};
use super::{KEPT_BYTES, len};

/// What has to be known before the first byte is written.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Length of the archive.
    pub(crate) archive_bytes: u64,
    /// Content that later entries replaced, in the order of the entries, by path.
    replaced: HashMap<Vec<u8>, VecDeque<Vec<u8>>>,
}

/// Why an archive cannot be made again.
#[derive(Debug)]
pub(crate) enum ReplayError {
    /// The transcript ends early or is malformed.
    Transcript(io::Error),
    /// Content that a later entry replaced was not kept.
    Lost(Vec<u8>),
    /// A file of the tree is gone or has another length.
    Changed(Vec<u8>),
    /// A file of the tree cannot be opened.
    Open(BeneathError),
    /// The archive cannot be written.
    Write(io::Error),
}

impl Plan {
    /// Reads a transcript to its end.
    pub(crate) fn of(transcript: impl Read) -> Result<Self, ReplayError> {
        let mut reader = TranscriptReader::new(transcript).map_err(ReplayError::Transcript)?;
        let mut plan = Self::default();
        let (mut archive, mut kept) = (0_u64, 0_u64);
        let malformed = || ReplayError::Transcript(io::ErrorKind::InvalidData.into());
        loop {
            match reader.next().map_err(ReplayError::Transcript)? {
                Segment::Raw(bytes) => archive = archive.saturating_add(len(&bytes)),
                Segment::Content { bytes, .. } => archive = archive.saturating_add(bytes),
                Segment::Link { .. } => {}
                Segment::Replaced { path, content } => {
                    kept = kept.saturating_add(len(&content));
                    if kept > KEPT_BYTES {
                        return Err(malformed());
                    }
                    plan.replaced.entry(path).or_default().push_back(content);
                }
                Segment::Lost { path } => return Err(ReplayError::Lost(path)),
                Segment::End { archive_bytes } if archive_bytes == archive => {
                    plan.archive_bytes = archive;
                    return Ok(plan);
                }
                Segment::End { .. } => return Err(malformed()),
            }
        }
    }
}

/// Writes the archive to `out`; the tree is below `root`.
///
/// The caller compares the digest: files may have changed without changing their length.
pub(crate) fn replay(
    mut plan: Plan,
    transcript: impl Read,
    root: BorrowedFd<'_>,
    out: &mut dyn Write,
) -> Result<(), ReplayError> {
    let mut reader = TranscriptReader::new(transcript).map_err(ReplayError::Transcript)?;
    loop {
        match reader.next().map_err(ReplayError::Transcript)? {
            Segment::Raw(bytes) => out.write_all(&bytes).map_err(ReplayError::Write)?,
            Segment::Content { path, bytes } => match plan.take(&path) {
                Some(content) if len(&content) == bytes => {
                    out.write_all(&content).map_err(ReplayError::Write)?;
                }
                Some(_) => return Err(ReplayError::Changed(path)),
                None => copy_file(root, &path, bytes, out)?,
            },
            Segment::Link { path } => drop(plan.take(&path)),
            Segment::Replaced { .. } | Segment::Lost { .. } => {}
            Segment::End { .. } => return Ok(()),
        }
    }
}

impl Plan {
    /// What the name was when it was made now, unless it still is.
    fn take(&mut self, path: &[u8]) -> Option<Vec<u8>> {
        self.replaced.get_mut(path)?.pop_front()
    }
}

fn copy_file(
    root: BorrowedFd<'_>,
    path: &[u8],
    bytes: u64,
    out: &mut dyn Write,
) -> Result<(), ReplayError> {
    let changed = || ReplayError::Changed(path.to_vec());
    // Whatever is there by now must not make us wait.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
    let name = Path::new(std::ffi::OsStr::from_bytes(path));
    let file = match beneath::open(root, name, Resolve::NoSymlinks, flags, Mode::empty()) {
        Ok(file) => file,
        Err(error) if matches!(error.source, Errno::EACCES | Errno::EMFILE | Errno::ENFILE) => {
            return Err(ReplayError::Open(error));
        }
        Err(_) => return Err(changed()),
    };
    let mut file = File::from(file);
    let metadata = file.metadata().or(Err(changed()))?;
    if !metadata.is_file() || metadata.len() != bytes {
        return Err(changed());
    }
    let mut buffer = [0; 16 << 10];
    let mut left = bytes;
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = match file.read(&mut buffer[..wanted]) {
            Ok(0) | Err(_) => return Err(changed()),
            Ok(count) => count,
        };
        out.write_all(&buffer[..count]).map_err(ReplayError::Write)?;
        left -= u64::try_from(count).unwrap_or(left);
    }
    Ok(())
}
