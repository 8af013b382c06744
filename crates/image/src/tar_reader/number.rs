//! Numbers of tar headers, read so that every reader that accepts them agrees.
//!
//! Source: POSIX.1-2017, `pax`, "ustar Interchange Format" for octal digits; GNU tar's manual,
//! "Extensions to the archive format", for base 256.

/// The first byte of a number in base 256; the rest of it belongs to the number.
const BINARY: u8 = 0x80;
/// The sign of a number in base 256, in its first byte.
const SIGN: u8 = 0x40;

/// A header's field: octal digits between blanks, or base 256 with a sign.
///
/// A field of NULs and blanks is 0, as other readers have it. What is behind the terminator must
/// not look like more digits, and a number that does not fit is none at all: readers that cut it
/// or go on would see another archive.
pub(super) fn parse(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & BINARY != 0 => binary(field),
        _ => octal(field),
    }
}

/// Whether the writer left the number out.
pub(super) fn is_absent(field: &[u8]) -> bool {
    field.iter().all(is_blank)
}

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | 0)
}

fn octal(field: &[u8]) -> Option<i64> {
    let blanks = field.iter().take_while(|byte| **byte == b' ').count();
    let field = &field[blanks..];
    let digits = field.iter().take_while(|byte| (b'0'..=b'7').contains(*byte)).count();
    let (digits, rest) = field.split_at(digits);
    if !rest.iter().all(is_blank) {
        return None;
    }
    digits.iter().try_fold(0_i64, |number, digit| {
        number.checked_mul(8)?.checked_add(i64::from(digit - b'0'))
    })
}

/// Big-endian two's complement whose top bit is the mark instead of the sign.
fn binary(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    let negative = first & SIGN != 0;
    let top = if negative { *first } else { first & !BINARY };
    let start = if negative { -1 } else { 0 };
    std::iter::once(&top)
        .chain(rest)
        .try_fold(start, |number: i64, byte| number.checked_mul(256)?.checked_add(i64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(field: &[u8]) -> Option<i64> {
        parse(field)
    }

    #[test]
    fn octal_digits_may_have_blanks_around_them() {
        for field in [&b"0000644\0"[..], b"000644 \0", b"   644 \0", b"644", b"644\0\0\0\0\0"] {
            assert_eq!(parsed(field), Some(0o644), "{field:?}");
        }
        for empty in [&b"\0\0\0\0"[..], b"    ", b"  \0\0", b""] {
            assert_eq!(parsed(empty), Some(0), "{empty:?}");
            assert!(is_absent(empty), "{empty:?}");
        }
        assert_eq!(parsed(b"77777777777\0"), Some(0o777_7777_7777));
        assert_eq!(parsed(b"777777777777"), Some(0o7777_7777_7777), "without a terminator");
    }

    #[test]
    fn what_readers_take_for_different_numbers_is_none() {
        for field in [
            &b"+10"[..],
            b"-10",
            b"8",
            b"0x10",
            b"10\x00777",
            b"10 7",
            b"\x0010",
            b"1\t",
            b"7777777777777777777777777",
        ] {
            assert_eq!(parsed(field), None, "{field:?}");
        }
    }

    #[test]
    fn base_256_has_a_sign_and_does_not_wrap() {
        let field = |first: u8, last: i64| {
            let mut field = [if first & SIGN == 0 { 0 } else { 0xff }; 12];
            field[4..].copy_from_slice(&last.to_be_bytes());
            field[0] = first;
            field
        };
        assert_eq!(parsed(&field(0x80, 8 << 30)), Some(8 << 30));
        assert_eq!(parsed(&field(0x80, i64::MAX)), Some(i64::MAX));
        assert_eq!(parsed(&field(0xff, -1)), Some(-1));
        assert_eq!(parsed(&field(0xff, -86_400)), Some(-86_400));
        assert_eq!(parsed(&field(0xff, i64::MIN)), Some(i64::MIN));
        let mut large = field(0x80, 1);
        large[3] = 1;
        assert_eq!(parsed(&large), None, "2^64 + 1 is not 1");
        assert_eq!(parsed(&field(0x81, 1)), None);
        assert_eq!(parsed(&[0x80, 0, 0, 0, 0, 0, 3, 232]), Some(1_000), "eight bytes");
    }
}
