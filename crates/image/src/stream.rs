//! A layer's bytes: decompressed, hashed on both sides, and counted against limits.

use std::fs::File;
use std::io::{self, BufReader, Chain, Cursor, Read};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use flate2::bufread::MultiGzDecoder;
use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Hashing};
use crate::error::LimitFault;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Frames that hold no data, `0x184d2a50` to `0x184d2a5f`; some writers put one first.
const ZSTD_SKIPPABLE_MAGIC_END: [u8; 3] = [0x2a, 0x4d, 0x18];
/// 2^27 bytes: what the zstd tool decodes without being asked to use more memory.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
const BUFFER_BYTES: usize = 64 * 1024;

/// What one layer may cost; counted while it streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of the uncompressed archive.
    pub bytes: u64,
    /// Uncompressed bytes per compressed byte, once `ratio_free_bytes` have been read.
    pub ratio: u64,
    /// Uncompressed bytes for which the ratio does not matter.
    pub ratio_free_bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// Components of an entry's path.
    pub depth: usize,
    /// Bytes of an entry's path.
    pub path_bytes: usize,
    /// Bytes of one entry's extended headers.
    pub header_bytes: u64,
    /// Time for one layer, its transfer included.
    pub duration: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        const GIB: u64 = 1 << 30;
        Self {
            bytes: 64 * GIB,
            ratio: 250,
            ratio_free_bytes: GIB,
            entries: 1_000_000,
            depth: 256,
            path_bytes: 4095,
            header_bytes: 1 << 20,
            duration: Duration::from_secs(6 * 3600),
        }
    }
}

/// Why a layer's bytes end early.
#[derive(Debug)]
pub(crate) enum StreamError {
    /// The blob is truncated, corrupt or unreadable.
    Read(io::Error),
    /// A limit is exceeded.
    Limit(LimitFault),
}

type Source<R> = BufReader<Chain<Cursor<Vec<u8>>, Hashing<R>>>;

enum Decoder<R: Read> {
    Plain(Source<R>),
    Gzip(Box<MultiGzDecoder<Source<R>>>),
    Zstd(zstd::stream::read::Decoder<'static, Source<R>>),
}

/// How bytes are compressed, judging by their beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// Judges by the first four bytes; a media type is only what somebody says.
    fn of(magic: &[u8]) -> Self {
        let skippable = magic.first().is_some_and(|first| first & 0xf0 == 0x50)
            && magic.ends_with(&ZSTD_SKIPPABLE_MAGIC_END);
        if magic.starts_with(&GZIP_MAGIC) {
            Self::Gzip
        } else if magic == ZSTD_MAGIC || skippable {
            Self::Zstd
        } else {
            Self::None
        }
    }
}

/// Whether a file begins like a compressed one.
pub(crate) fn is_compressed(file: &File) -> io::Result<bool> {
    let mut magic = [0; ZSTD_MAGIC.len()];
    let count = file.read_at(&mut magic, 0)?;
    Ok(Compression::of(&magic[..count]) != Compression::None)
}

impl<R: Read> Decoder<R> {
    fn detect(blob: R) -> io::Result<Self> {
        let mut hashing = Hashing::new(blob);
        let mut magic = Vec::with_capacity(ZSTD_MAGIC.len());
        let wanted = u64::try_from(ZSTD_MAGIC.len()).unwrap_or(0);
        hashing.by_ref().take(wanted).read_to_end(&mut magic)?;
        let compression = Compression::of(&magic);
        let source = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(magic).chain(hashing));
        match compression {
            Compression::None => Ok(Self::Plain(source)),
            Compression::Gzip => Ok(Self::Gzip(Box::new(MultiGzDecoder::new(source)))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Ok(Self::Zstd(decoder))
            }
        }
    }

    fn blob(&self) -> &Hashing<R> {
        let source = match self {
            Self::Plain(source) => source,
            Self::Gzip(decoder) => decoder.get_ref(),
            Self::Zstd(decoder) => decoder.get_ref(),
        };
        source.get_ref().get_ref().1
    }

    fn into_source(self) -> Source<R> {
        match self {
            Self::Plain(source) => source,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
        }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(source) => source.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// What has passed through a [`LayerStream`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamSummary {
    pub(crate) blob_digest: Digest,
    pub(crate) blob_bytes: u64,
    pub(crate) diff_id: Digest,
    pub(crate) archive_bytes: u64,
}

/// Where an archive's bytes come from.
pub(crate) trait ArchiveSource {
    /// Reads some bytes; 0 at the end.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, StreamError>;
    /// Passes over `count` bytes that have to exist.
    fn skip(&mut self, count: u64) -> Result<(), StreamError>;
    /// How many bytes have passed.
    fn position(&self) -> u64;
    /// What the archive may cost.
    fn limits(&self) -> &Limits;
}

/// The uncompressed bytes of a layer.
pub(crate) struct LayerStream<R: Read> {
    archive: Hashing<Decoder<R>>,
    limits: Limits,
    started: Instant,
}

impl<R: Read> LayerStream<R> {
    pub(crate) fn new(blob: R, limits: Limits) -> Result<Self, StreamError> {
        let archive = Hashing::new(Decoder::detect(blob).map_err(StreamError::Read)?);
        Ok(Self { archive, limits, started: Instant::now() })
    }

    fn check(&self) -> Result<(), LimitFault> {
        let limits = &self.limits;
        let unpacked = self.position();
        let packed = self.archive.get_ref().blob().count();
        if unpacked > limits.bytes {
            return Err(LimitFault::Bytes);
        }
        if unpacked > limits.ratio_free_bytes && unpacked / limits.ratio.max(1) > packed {
            return Err(LimitFault::Ratio);
        }
        if self.started.elapsed() > limits.duration {
            return Err(LimitFault::Time);
        }
        Ok(())
    }

    /// Reads the blob to its end, so that its digest covers all of it.
    pub(crate) fn finish(mut self) -> Result<StreamSummary, StreamError> {
        let mut rest = vec![0; BUFFER_BYTES];
        while self.read(&mut rest)? > 0 {}
        let (diff_id, archive_bytes, decoder) = self.archive.finish();
        let mut source = decoder.into_source();
        // The decoders stop only at the end of their input; this reads nothing unless one does not.
        io::copy(&mut source, &mut io::sink()).map_err(StreamError::Read)?;
        let (_, hashing) = source.into_inner().into_inner();
        let (blob_digest, blob_bytes, _) = hashing.finish();
        Ok(StreamSummary { blob_digest, blob_bytes, diff_id, archive_bytes })
    }
}

impl<R: Read> ArchiveSource for LayerStream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        let count = loop {
            match self.archive.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result.map_err(StreamError::Read)?,
            }
        };
        self.check().map_err(StreamError::Limit)?;
        Ok(count)
    }

    fn skip(&mut self, mut count: u64) -> Result<(), StreamError> {
        let mut passed = [0; 16 * 1024];
        while count > 0 {
            let wanted = usize::try_from(count).unwrap_or(usize::MAX).min(passed.len());
            match self.read(&mut passed[..wanted])? {
                0 => return Err(StreamError::Read(io::ErrorKind::UnexpectedEof.into())),
                read => count -= u64::try_from(read).unwrap_or(count),
            }
        }
        Ok(())
    }

    fn position(&self) -> u64 {
        self.archive.count()
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(bytes, 3).unwrap()
    }

    fn drain(blob: &[u8], limits: Limits) -> Result<StreamSummary, StreamError> {
        LayerStream::new(blob, limits)?.finish()
    }

    #[test]
    fn every_compression_gives_the_same_diff_id() {
        let content = vec![7_u8; 300_000];
        let mut skippable = vec![0x5a, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 1, 1];
        skippable.extend(zstd(&content));
        let halves = [gzip(&content[..1000]), gzip(&content[1000..])].concat();
        for blob in [content.clone(), gzip(&content), halves, zstd(&content), skippable] {
            let summary = drain(&blob, Limits::default()).unwrap();
            assert_eq!(summary.diff_id, Digest::of(&content));
            assert_eq!(summary.archive_bytes, 300_000);
            assert_eq!(summary.blob_digest, Digest::of(&blob));
            assert_eq!(summary.blob_bytes, u64::try_from(blob.len()).unwrap());
        }
    }

    #[test]
    fn truncated_and_trailing_bytes_are_errors() {
        let content: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        for blob in [gzip(&content), zstd(&content)] {
            for cut in [blob.len() - 1, blob.len() / 2, 10, 5] {
                let result = drain(&blob[..cut], Limits::default());
                assert!(matches!(result, Err(StreamError::Read(_))), "{cut}: {result:?}");
            }
            let trailing = [blob.as_slice(), b"trailing garbage"].concat();
            assert!(matches!(drain(&trailing, Limits::default()), Err(StreamError::Read(_))));
        }
    }

    #[test]
    fn a_huge_zstd_window_is_refused() {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(31).unwrap();
        encoder.write_all(&[0; 1000]).unwrap();
        let blob = encoder.finish().unwrap();
        assert!(matches!(drain(&blob, Limits::default()), Err(StreamError::Read(_))));
    }

    #[test]
    fn limits_hold_while_streaming() {
        let bomb = gzip(&vec![0; 1_000_000]);
        let limited = |change: fn(&mut Limits)| {
            let mut limits = Limits { ratio: 100, ratio_free_bytes: 10_000, ..Limits::default() };
            change(&mut limits);
            drain(&bomb, limits)
        };
        let limit = |result| match result {
            Err(StreamError::Limit(fault)) => Some(fault),
            _ => None,
        };
        assert_eq!(limit(limited(|_| ())), Some(LimitFault::Ratio));
        assert_eq!(limit(limited(|limits| limits.bytes = 5_000)), Some(LimitFault::Bytes));
        assert_eq!(limit(limited(|l| l.duration = Duration::ZERO)), Some(LimitFault::Time));
        assert!(limited(|limits| limits.ratio = 2_000).is_ok());
    }
}
