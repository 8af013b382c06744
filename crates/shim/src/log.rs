//! The text of a container's log: what the CRI wants a line to look like.
//!
//! `2006-01-02T15:04:05.000000000Z stdout F text`, in UTC with nine digits. A line of output becomes one record with
//! the tag `F`; one that is longer than [`TEXT_MAX_BYTES`] becomes several, all but the last with the tag `P`. What is
//! left without a line feed when the stream ends is `P` too, for the reader would add the line feed otherwise. Bytes
//! are taken as they are, whatever they mean.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The most output that one record holds.
pub(crate) const TEXT_MAX_BYTES: usize = 16 * 1024;

/// Where output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Whether the record ends where the line does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    /// `F`
    Full,
    /// `P`
    Partial,
}

/// Length of what [`header`] returns.
const HEADER_BYTES: usize = 40;

/// What precedes the text of a record, the space included.
pub(crate) fn header(at: SystemTime, stream: Stream, tag: Tag) -> [u8; HEADER_BYTES] {
    let mut header = *b"0000-00-00T00:00:00.000000000Z ...... . ";
    write_timestamp(&mut header, at);
    let stream = match stream {
        Stream::Stdout => b"stdout",
        Stream::Stderr => b"stderr",
    };
    header[31..37].copy_from_slice(stream);
    header[38] = match tag {
        Tag::Full => b'F',
        Tag::Partial => b'P',
    };
    header
}

/// A clock before 1970 shows as its beginning.
fn write_timestamp(header: &mut [u8; HEADER_BYTES], at: SystemTime) {
    let since_epoch = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let seconds = since_epoch.as_secs();
    let (year, month, day) = civil_date(seconds / 86_400);
    let of_day = seconds % 86_400;
    for (range, value) in [
        (0..4, year),
        (5..7, month),
        (8..10, day),
        (11..13, of_day / 3600),
        (14..16, of_day / 60 % 60),
        (17..19, of_day % 60),
        (20..29, since_epoch.subsec_nanos().into()),
    ] {
        write_digits(&mut header[range], value);
    }
}

fn write_digits(digits: &mut [u8], mut value: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789"[usize::try_from(value % 10).unwrap_or(0)];
        value /= 10;
    }
}

const DAYS_PER_400_YEARS: u64 = 146_097;
const DAYS_PER_100_YEARS: u64 = 36_524;
const DAYS_PER_4_YEARS: u64 = 1461;
/// From 1 March 1600, where a period of 400 years begins if years begin in March, to 1 January 1970.
const DAYS_FROM_1600_TO_1970: u64 = 135_080;
/// The first day of each month in a year that begins in March, so that a leap day is the year's last.
const MONTHS_FROM_MARCH: [u64; 12] = [0, 31, 61, 92, 122, 153, 184, 214, 245, 275, 306, 337];

/// Year, month and day in the Gregorian calendar, `days` after 1970-01-01.
fn civil_date(days: u64) -> (u64, u64, u64) {
    let days = days + DAYS_FROM_1600_TO_1970;
    let (periods, days) = (days / DAYS_PER_400_YEARS, days % DAYS_PER_400_YEARS);
    // The last century of a period and the last year of four may be a day longer: hence the `min`.
    let centuries = (days / DAYS_PER_100_YEARS).min(3);
    let days = days - centuries * DAYS_PER_100_YEARS;
    let (fours, days) = (days / DAYS_PER_4_YEARS, days % DAYS_PER_4_YEARS);
    let years = (days / 365).min(3);
    let day_of_year = days - years * 365;
    let year = 1600 + periods * 400 + centuries * 100 + fours * 4 + years;

    let (index, first) = (0..)
        .zip(MONTHS_FROM_MARCH)
        .take_while(|(_, first)| *first <= day_of_year)
        .last()
        .unwrap_or((0, 0));
    // January and February are the eleventh and twelfth month of the year before.
    let (year, month) = if index < 10 { (year, index + 3) } else { (year + 1, index - 9) };
    (year, month, day_of_year - first + 1)
}

/// Cuts one stream into records.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    /// The beginning of a line whose end has not been read, at most [`TEXT_MAX_BYTES`].
    pending: Vec<u8>,
}

impl Splitter {
    /// Takes what was read and passes each record that is complete to `record`.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut record: impl FnMut(Tag, &[u8])) {
        while !bytes.is_empty() {
            let room = TEXT_MAX_BYTES - self.pending.len();
            let window = &bytes[..bytes.len().min(room + 1)];
            let (tag, length, skip) = match window.iter().position(|byte| *byte == b'\n') {
                Some(length) => (Tag::Full, length, 1),
                None if window.len() > room => (Tag::Partial, room, 0),
                None => {
                    self.pending.extend_from_slice(bytes);
                    return;
                }
            };
            self.complete(tag, &bytes[..length], &mut record);
            bytes = &bytes[length + skip..];
        }
    }

    /// The stream has ended: passes what is left to `record`.
    pub(crate) fn finish(&mut self, mut record: impl FnMut(Tag, &[u8])) {
        if !self.pending.is_empty() {
            self.complete(Tag::Partial, &[], &mut record);
        }
    }

    fn complete(&mut self, tag: Tag, end: &[u8], record: &mut impl FnMut(Tag, &[u8])) {
        if self.pending.is_empty() {
            record(tag, end);
            return;
        }
        // Taken, not cleared: an idle container keeps no buffer.
        let mut text = std::mem::take(&mut self.pending);
        text.extend_from_slice(end);
        record(tag, &text);
    }
}

#[cfg(test)]
mod tests;
