use super::*;

fn at(seconds: u64, nanos: u32) -> SystemTime {
    UNIX_EPOCH + Duration::new(seconds, nanos)
}

fn timestamp(seconds: u64, nanos: u32) -> String {
    let header = header(at(seconds, nanos), Stream::Stdout, Tag::Full);
    String::from_utf8(header[..30].to_vec()).expect("ASCII")
}

/// The records that `chunks` make, the end of the stream last.
fn records(chunks: &[&[u8]]) -> Vec<(Tag, Vec<u8>)> {
    let mut records = Vec::new();
    let mut splitter = Splitter::default();
    for chunk in chunks {
        splitter.push(chunk, |tag, text| records.push((tag, text.to_vec())));
    }
    splitter.finish(|tag, text| records.push((tag, text.to_vec())));
    assert!(splitter.pending.is_empty());
    records
}

fn full(text: &[u8]) -> (Tag, Vec<u8>) {
    (Tag::Full, text.to_vec())
}

fn partial(text: &[u8]) -> (Tag, Vec<u8>) {
    (Tag::Partial, text.to_vec())
}

#[test]
fn a_header_is_what_the_cri_wants() {
    let header = header(at(1_136_214_245, 7), Stream::Stderr, Tag::Partial);
    assert_eq!(&header, b"2006-01-02T15:04:05.000000007Z stderr P ");
}

#[test]
fn timestamps_are_utc_with_nine_digits() {
    // Expected values from date(1).
    for (seconds, expected) in [
        (0, "1970-01-01T00:00:00"),
        (68_255_999, "1972-02-29T23:59:59"),
        (68_256_000, "1972-03-01T00:00:00"),
        (946_684_799, "1999-12-31T23:59:59"),
        (951_782_400, "2000-02-29T00:00:00"),
        (951_868_800, "2000-03-01T00:00:00"),
        (1_735_603_200, "2024-12-31T00:00:00"),
        (1_735_689_600, "2025-01-01T00:00:00"),
        (4_107_542_399, "2100-02-28T23:59:59"),
        (4_107_542_400, "2100-03-01T00:00:00"),
        (13_574_563_200, "2400-02-29T00:00:00"),
        (13_574_649_600, "2400-03-01T00:00:00"),
    ] {
        assert_eq!(timestamp(seconds, 999_999_999), format!("{expected}.999999999Z"));
    }
}

#[test]
fn each_day_follows_the_one_before() {
    let mut before = civil_date(0);
    for days in 1..200_000 {
        let date @ (year, month, day) = civil_date(days);
        let next_day = (before.0, before.1, before.2 + 1);
        let next_month = (before.0, before.1 + 1, 1);
        let next_year = (before.0 + 1, 1, 1);
        assert!(
            date == next_day || date == next_month || (date == next_year && before.1 == 12),
            "{date:?}"
        );
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days_in_month = match month {
            2 => 28 + u64::from(leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        assert!(month <= 12 && day <= days_in_month, "{date:?}");
        before = date;
    }
}

#[test]
fn lines_become_records_wherever_reads_cut_them() {
    let expected = [full(b"one"), full(b""), full(b"two"), full(b"three")];
    let input = b"one\n\ntwo\nthree\n";
    assert_eq!(records(&[input]), expected);
    for cut in 0..input.len() {
        assert_eq!(records(&[&input[..cut], &input[cut..]]), expected, "cut at {cut}");
    }
    let bytes: Vec<_> = input.chunks(1).collect();
    assert_eq!(records(&bytes), expected);
}

#[test]
fn a_rest_without_line_feed_is_partial() {
    assert_eq!(records(&[b"a\nb"]), [full(b"a"), partial(b"b")]);
    assert_eq!(records(&[]), []);
}

#[test]
fn carriage_returns_and_invalid_utf8_stay() {
    let text = b"\xff\xfe\0 progress 10%\r";
    assert_eq!(records(&[text, b"\n"]), [full(text)]);
}

#[test]
fn a_line_of_exactly_the_limit_is_one_record() {
    let text = vec![b'x'; TEXT_MAX_BYTES];
    assert_eq!(records(&[&text, b"\n"]), [full(&text)]);
    assert_eq!(records(&[&[text.as_slice(), b"\n"].concat()]), [full(&text)]);
}

#[test]
fn a_longer_line_is_cut_and_its_last_piece_is_full() {
    let text = vec![b'x'; 2 * TEXT_MAX_BYTES + 1];
    let (piece, end) = (&text[..TEXT_MAX_BYTES], &text[..1]);
    let whole = [text.as_slice(), b"\nnext\n"].concat();
    let expected = [partial(piece), partial(piece), full(end), full(b"next")];
    assert_eq!(records(&[&whole]), expected);
    for chunk in [1, 7, 4096, TEXT_MAX_BYTES - 1, TEXT_MAX_BYTES, TEXT_MAX_BYTES + 1] {
        let chunks: Vec<_> = whole.chunks(chunk).collect();
        assert_eq!(records(&chunks), expected, "in chunks of {chunk}");
    }
}

#[test]
fn a_flood_without_line_feeds_is_kept_to_one_record() {
    let mut splitter = Splitter::default();
    for _ in 0..100 {
        splitter.push(&[b'x'; 1000], |_, _| {});
        assert!(splitter.pending.len() <= TEXT_MAX_BYTES);
    }
}
