//! Compressed streams that are bombs, cut off, or more than they seem.

use std::io::{self, Write};

use flate2::{Compression, write::GzEncoder};
use zstd::stream::Encoder;

use super::archive::{Archive, FILE};
use super::{Hostile, Shape, text};

/// What a tool decodes only when asked to use more memory.
const HUGE_WINDOW_LOG: u32 = 31;
const WHOLE: &[(&str, Shape)] = &[("f", Shape::File("x")), ("g", Shape::File("y"))];

pub(super) fn layers() -> Vec<Hostile> {
    let archive = Archive::new().file("f", "x").file("g", "y").build();
    let refused = |name, blob| Hostile::refused(name, archive.clone(), text::READ).compressed(blob);
    let confined = |name, blob| Hostile::confined(name, archive.clone(), WHOLE).compressed(blob);
    let gz = gzip(&archive);
    let zst = zstd(&archive);
    let halves = |compress: fn(&[u8]) -> Vec<u8>| {
        [compress(&archive[..700]), compress(&archive[700..])].concat()
    };
    let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"skip", &zst].concat();
    let mut corrupt = gz.clone();
    let crc = corrupt.len() - 8;
    corrupt[crc] ^= 1;
    vec![
        refused("gzip cut off in its header", gz[..5].to_vec()),
        refused("gzip cut off", gz[..gz.len() / 2].to_vec()),
        refused("gzip cut off in its trailer", gz[..gz.len() - 1].to_vec()),
        refused("gzip with a wrong checksum", corrupt),
        refused("gzip and garbage", [gz.as_slice(), b"trailing garbage"].concat()),
        refused("gzip and zeros", [gz.as_slice(), &[0; 512]].concat()),
        refused("zstd cut off in its header", zst[..5].to_vec()),
        refused("zstd cut off", zst[..zst.len() / 2].to_vec()),
        refused("zstd cut off at its end", zst[..zst.len() - 1].to_vec()),
        refused("zstd and garbage", [zst.as_slice(), b"trailing garbage"].concat()),
        refused("zstd with a window of 2 GiB", windowed(&archive).expect("write to memory")),
        Hostile::refused("gzip in gzip", gz.clone(), text::READ).compressed(gzip(&gz)),
        confined("gzip in two members", halves(gzip)),
        confined("zstd in two frames", halves(zstd)),
        confined("zstd behind a frame to skip", skippable),
        confined("gzip and a member of nothing", [gz.as_slice(), &gzip(b"")].concat()),
    ]
}

/// Compresses by gzip.
#[must_use]
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("write to memory")
}

/// Compresses by zstd.
#[must_use]
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).expect("read and write memory")
}

fn windowed(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = Encoder::new(Vec::new(), 1)?;
    encoder.window_log(HUGE_WINDOW_LOG)?;
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// A layer with a file of `bytes` zeros, a thousandth of that as gzip.
#[must_use]
pub fn gzip_bomb(bytes: usize) -> Vec<u8> {
    gzip(&zeros(bytes))
}

/// A layer with a file of `bytes` zeros, far less than a thousandth of that as zstd.
#[must_use]
pub fn zstd_bomb(bytes: usize) -> Vec<u8> {
    zstd(&zeros(bytes))
}

fn zeros(bytes: usize) -> Vec<u8> {
    Archive::new().entry(FILE, "zeros", "", &vec![0; bytes]).build()
}
