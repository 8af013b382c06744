//! Reads transcripts. Whoever wrote one had the layer's hostile bytes: nothing in it is believed.

use std::io::{self, BufReader, Read};

use zstd::stream::read::Decoder;

use super::{KEPT_BYTES, RAW_BYTES, tag};

/// As in entry names.
const PATH_BYTES: usize = 4095;

/// One segment of a transcript.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// Bytes of the archive as they are; zeros as well.
    Raw(Vec<u8>),
    Content {
        path: Vec<u8>,
        bytes: u64,
    },
    Link {
        path: Vec<u8>,
    },
    Replaced {
        path: Vec<u8>,
        content: Vec<u8>,
    },
    Lost {
        path: Vec<u8>,
    },
    End {
        archive_bytes: u64,
    },
}

/// The segments of a transcript, one after the other.
pub(super) struct TranscriptReader<R: Read> {
    decoder: Decoder<'static, BufReader<R>>,
    /// The last path that was read.
    path: Vec<u8>,
}

impl<R: Read> TranscriptReader<R> {
    pub(super) fn new(transcript: R) -> io::Result<Self> {
        Ok(Self { decoder: Decoder::new(transcript)?, path: Vec::new() })
    }

    /// The next segment; an error also where the transcript ends without its last one.
    pub(super) fn next(&mut self) -> io::Result<Segment> {
        let [tag] = self.array()?;
        Ok(match tag {
            tag::RAW => Segment::Raw(self.bytes(RAW_BYTES)?),
            tag::ZEROS => Segment::Raw(vec![0; self.length(RAW_BYTES)?]),
            tag::CONTENT => Segment::Content { path: self.path()?, bytes: self.u64()? },
            tag::LINK => Segment::Link { path: self.path()? },
            tag::REPLACED => {
                let path = self.path()?;
                let limit = usize::try_from(KEPT_BYTES).unwrap_or(usize::MAX);
                Segment::Replaced { path, content: self.bytes(limit)? }
            }
            tag::LOST => Segment::Lost { path: self.path()? },
            tag::END => Segment::End { archive_bytes: self.u64()? },
            _ => return Err(io::ErrorKind::InvalidData.into()),
        })
    }

    fn path(&mut self) -> io::Result<Vec<u8>> {
        let same = usize::from(u16::from_le_bytes(self.array()?));
        let new = self.bytes(PATH_BYTES)?;
        if same > self.path.len() || same + new.len() > PATH_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.path.truncate(same);
        self.path.extend(new);
        Ok(self.path.clone())
    }

    fn length(&mut self, limit: usize) -> io::Result<usize> {
        let length = usize::try_from(u32::from_le_bytes(self.array()?)).unwrap_or(usize::MAX);
        if length <= limit { Ok(length) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    fn bytes(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.length(limit)?];
        self.decoder.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u64(&mut self) -> io::Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.decoder.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}
