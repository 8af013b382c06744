//! SHA-256 digests: parsed strictly, because their text becomes a file name.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::ImageError;

const BYTES: usize = 32;
const PREFIX: &str = "sha256:";

/// The SHA-256 digest of a blob or an unpacked layer, written `sha256:<64 lower-case hex digits>`.
///
/// Source: OCI image specification, descriptor, "Digests". Other algorithms are refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; BYTES]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 64 hex digits without the algorithm.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Parses 64 lower-case hex digits without the algorithm.
    ///
    /// # Errors
    /// [`ImageError::InvalidDigest`].
    pub fn from_hex(text: &str) -> Result<Self, ImageError> {
        let invalid = || ImageError::InvalidDigest { text: text.to_owned() };
        let digits: Vec<u8> =
            text.bytes().map(hex_value).collect::<Option<_>>().ok_or_else(invalid)?;
        let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        if digits.len() != 2 * BYTES {
            return Err(invalid());
        }
        <[u8; BYTES]>::try_from(bytes).map(Self).or(Err(invalid()))
    }

    /// The name of the layer's directory in the store, `sha256-<hex>`.
    pub(crate) fn directory_name(&self) -> String {
        format!("sha256-{}", self.hex())
    }

    pub(crate) fn from_directory_name(name: &str) -> Option<Self> {
        Self::from_hex(name.strip_prefix("sha256-")?).ok()
    }
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl FromStr for Digest {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let hex = text
            .strip_prefix(PREFIX)
            .ok_or_else(|| ImageError::InvalidDigest { text: text.to_owned() })?;
        Self::from_hex(hex)
    }
}

impl TryFrom<String> for Digest {
    type Error = ImageError;

    fn try_from(text: String) -> Result<Self, ImageError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A reader or writer that hashes and counts what passes.
pub(crate) struct Hashing<R> {
    inner: R,
    hasher: Hasher,
    bytes: u64,
}

impl<R> Hashing<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hasher: Hasher::default(), bytes: 0 }
    }

    /// How many bytes have passed.
    pub(crate) fn count(&self) -> u64 {
        self.bytes
    }

    /// The reader whose bytes are hashed.
    pub(crate) fn get_ref(&self) -> &R {
        &self.inner
    }

    /// The digest of what has passed, and how many bytes that was; also the reader.
    pub(crate) fn finish(self) -> (Digest, u64, R) {
        (self.hasher.finish(), self.bytes, self.inner)
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.bytes = self.bytes.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        Ok(count)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.bytes = self.bytes.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Computes the digest of bytes that come one after the other.
#[derive(Clone, Debug, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of everything.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn text_and_digest_are_each_others_inverse() {
        let digest: Digest = EMPTY.parse().unwrap();
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(digest, Digest::of(b""));
        assert_eq!(Digest::from_directory_name(&digest.directory_name()), Some(digest));
        assert_eq!(serde_json::to_string(&digest).unwrap(), format!("\"{EMPTY}\""));
    }

    #[test]
    fn everything_but_64_lower_case_hex_digits_of_sha256_is_refused() {
        let hex = &EMPTY[PREFIX.len()..];
        for bad in [
            String::new(),
            "sha256:".to_owned(),
            "sha256:../../../../etc/passwd".to_owned(),
            "sha256:..".to_owned(),
            hex.to_owned(),
            format!("sha512:{hex}"),
            format!("SHA256:{hex}"),
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{hex}0"),
            format!("sha256:{hex}00"),
            format!("sha256:{}\0", &hex[1..]),
            format!(" sha256:{hex}"),
            format!("sha256:{}é", &hex[2..]),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?}");
            assert!(
                serde_json::from_value::<Digest>(serde_json::json!(bad)).is_err(),
                "{bad:?} in JSON"
            );
        }
    }

    #[test]
    fn hashing_counts_and_digests() {
        let mut reader = Hashing::new(&b"hello"[..]);
        io::copy(&mut reader, &mut io::sink()).unwrap();
        assert_eq!(reader.count(), 5);
        let (digest, bytes, _) = reader.finish();
        assert_eq!((digest, bytes), (Digest::of(b"hello"), 5));
    }
}
