//! PAX extended header records, read by their length.
//!
//! Source: POSIX.1-2017, `pax`, "pax Extended Header"; `SCHILY.xattr.` is how image builders
//! write extended attributes.

use std::ffi::OsString;

use super::os_string;
use crate::error::EntryFault;

const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";
const SPARSE_PREFIX: &[u8] = b"GNU.sparse.";
const NANOS_DIGITS: usize = 9;

/// The records that matter for a layer's entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct PaxRecords {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, i64)>,
    pub(super) xattrs: Vec<(OsString, Vec<u8>)>,
    /// The content is a map of a sparse file and its data.
    pub(super) sparse: bool,
}

impl PaxRecords {
    /// Parses `<length> <key>=<value>\n` records.
    ///
    /// A record that appears twice, is empty or malformed makes readers disagree: refused.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, EntryFault> {
        let mut records = Self::default();
        while !bytes.is_empty() {
            let (key, value, rest) = split_record(bytes).ok_or(EntryFault::Ambiguous)?;
            records.add(key, value)?;
            bytes = rest;
        }
        Ok(records)
    }

    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), EntryFault> {
        match key {
            b"path" => once(&mut self.path, non_empty(value)),
            b"linkpath" => once(&mut self.link, non_empty(value)),
            b"size" => once(&mut self.size, parse_number(value)),
            b"uid" => once(&mut self.uid, parse_number(value)),
            b"gid" => once(&mut self.gid, parse_number(value)),
            b"mtime" => once(&mut self.mtime, parse_time(value)),
            _ => {
                if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                    self.xattrs.push((os_string(name), value.to_vec()));
                }
                self.sparse |= key.starts_with(SPARSE_PREFIX);
                Ok(())
            }
        }
    }

    /// Whether these records, met in a global header, would change every entry after them.
    ///
    /// Some readers apply global headers, some do not; only comments are harmless.
    pub(super) fn changes_entries(&self) -> bool {
        *self != Self::default()
    }
}

fn once<T>(field: &mut Option<T>, value: Option<T>) -> Result<(), EntryFault> {
    match (field.is_none(), value) {
        (true, Some(value)) => {
            *field = Some(value);
            Ok(())
        }
        _ => Err(EntryFault::Ambiguous),
    }
}

fn non_empty(value: &[u8]) -> Option<Vec<u8>> {
    (!value.is_empty()).then(|| value.to_vec())
}

/// Key, value and the records after this one.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(parse_number(&bytes[..space])?).ok()?;
    let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    (equals > 0).then(|| (&record[..equals], &record[equals + 1..], &bytes[length..]))
}

/// Decimal digits only: no sign, no blanks.
fn parse_number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if digits { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

/// Seconds since 1970, possibly negative, with an optional fraction.
fn parse_time(text: &[u8]) -> Option<(i64, i64)> {
    let text = std::str::from_utf8(text).ok()?;
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds = i64::try_from(parse_number(seconds.as_bytes())?).ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(NANOS_DIGITS).collect();
    let nanos: i64 = digits.parse().ok()?;
    match (negative, nanos) {
        (false, nanos) => Some((seconds, nanos)),
        (true, 0) => Some((-seconds, 0)),
        // -1.25 is two seconds before and three quarters after.
        (true, nanos) => Some((-seconds - 1, 1_000_000_000 - nanos)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let mut length = body.len() + 1;
        while length.to_string().len() + body.len() != length {
            length += 1;
        }
        [length.to_string().as_bytes(), &body].concat()
    }

    #[test]
    fn records_are_read_by_their_length() {
        let value = b"\x02\n8 size=9\n=";
        let bytes = [
            record("SCHILY.xattr.security.capability", value),
            record("path", "ä/b\nc".as_bytes()),
            record("mtime", b"-1.25"),
            record("size", b"123"),
            record("comment", b""),
        ]
        .concat();
        let records = PaxRecords::parse(&bytes).unwrap();
        assert_eq!(records.xattrs, [(OsString::from("security.capability"), value.to_vec())]);
        assert_eq!(records.path.as_deref(), Some("ä/b\nc".as_bytes()));
        assert_eq!(records.mtime, Some((-2, 750_000_000)));
        assert_eq!(records.size, Some(123), "not the one inside the attribute's value");
    }

    #[test]
    fn malformed_and_repeated_records_are_refused() {
        let twice = |key| [record(key, b"1"), record(key, b"1")].concat();
        for bad in [
            b"x".to_vec(),
            b"7 a=b".to_vec(),
            b"99 a=b\n".to_vec(),
            b"0 a=b\n".to_vec(),
            b"6 a=bc\n".to_vec(),
            b"6 =ab\n".to_vec(),
            b"6 abc\n".to_vec(),
            b"+6 a=b\n".to_vec(),
            b"18446744073709551616 a=b\n".to_vec(),
            record("size", b"-1"),
            record("size", b"+1"),
            record("size", b" 1"),
            record("size", b"18446744073709551616"),
            record("uid", b"-1"),
            record("path", b""),
            record("mtime", b"1.x"),
            record("mtime", b"--1"),
            twice("path"),
            twice("linkpath"),
            twice("size"),
            twice("uid"),
        ] {
            assert_eq!(
                PaxRecords::parse(&bad),
                Err(EntryFault::Ambiguous),
                "{}",
                String::from_utf8_lossy(&bad)
            );
        }
    }

    #[test]
    fn sparse_files_and_global_changes_are_noticed() {
        assert!(PaxRecords::parse(&record("GNU.sparse.major", b"1")).unwrap().sparse);
        assert!(PaxRecords::parse(&record("uid", b"0")).unwrap().changes_entries());
        assert!(!PaxRecords::parse(&record("comment", b"abc")).unwrap().changes_entries());
    }
}
