//! CRI log files, read.

use std::{fs, path::Path};

/// One record: `<time> <stream> <tag> <text>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// RFC 3339 with nine digits.
    pub time: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// Complete (`F`), not partial (`P`).
    pub full: bool,
    /// Without the line feed.
    pub text: Vec<u8>,
}

impl LogLine {
    /// The text, invalid UTF-8 replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }
}

/// Reads a log; every line must be a record.
///
/// # Panics
/// When the file cannot be read or a line is no record.
#[must_use]
pub fn parse_log(path: &Path) -> Vec<LogLine> {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    let Some(records) = bytes.strip_suffix(b"\n") else {
        assert!(bytes.is_empty(), "the log ends within a record");
        return Vec::new();
    };
    records.split(|byte| *byte == b'\n').map(parse_record).collect()
}

fn parse_record(record: &[u8]) -> LogLine {
    let mut fields = record.splitn(4, |byte| *byte == b' ');
    let mut next = || fields.next().unwrap_or_else(|| panic!("record too short: {record:?}"));
    let [time, stream, tag] =
        [next(), next(), next()].map(|field| String::from_utf8_lossy(field).into_owned());
    assert!(is_time(&time), "no time: {time}");
    assert!(matches!(stream.as_str(), "stdout" | "stderr"), "no stream: {stream}");
    assert!(matches!(tag.as_str(), "F" | "P"), "no tag: {tag}");
    LogLine { time, stream, full: tag == "F", text: next().to_vec() }
}

/// `2006-01-02T15:04:05.000000000Z`
fn is_time(text: &str) -> bool {
    let pattern = "0000-00-00T00:00:00.000000000Z";
    let same = |(c, p): (char, char)| if p == '0' { c.is_ascii_digit() } else { c == p };
    text.len() == pattern.len() && text.chars().zip(pattern.chars()).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        let line = parse_record(b"2006-01-02T15:04:05.000000000Z stderr P a b");
        assert_eq!(
            (line.stream.as_str(), line.full, line.text().as_str()),
            ("stderr", false, "a b")
        );
        assert!(!is_time("2006-01-02T15:04:05Z"));
    }
}
