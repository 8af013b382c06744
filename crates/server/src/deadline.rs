//! Deadlines of callers.
//!
//! A client that has set one stops waiting by itself. But others wait too, proxies for instance, and the gRPC library
//! here answers `Cancelled` when the time is over. So work that ends with its caller answers a moment before.

use std::{future::Future, time::Duration};

use tonic::metadata::MetadataMap;

use crate::status::CallError;

const HEADER: &str = "grpc-timeout";
/// The part of the time that is kept for the answer, and the most of it.
const RESERVED_PART: u32 = 20;
const RESERVED_MOST: Duration = Duration::from_millis(20);

/// How long a caller waits, if it says so.
///
/// Source: gRPC over HTTP/2, "Timeout": at most eight digits and a unit.
pub(crate) fn of(metadata: &MetadataMap) -> Option<Duration> {
    parse(metadata.get(HEADER)?.to_str().ok()?)
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count = digits.parse::<u64>().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Drops `work` when the caller's time is nearly over.
pub(crate) async fn within<T>(
    rpc: &'static str,
    deadline: Option<Duration>,
    work: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    let Some(whole) = deadline else { return work.await };
    let time = whole.saturating_sub((whole / RESERVED_PART).min(RESERVED_MOST));
    tokio::time::timeout(time, work).await.unwrap_or(Err(CallError::DeadlineExceeded { rpc }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("123456789n", None),
            ("-1S", None),
            ("S", None),
            ("", None),
            ("1", None),
            ("1ö", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn work_is_dropped_before_the_deadline() {
        let never = std::future::pending::<Result<(), CallError>>();
        let error = within("Test", Some(Duration::from_secs(1)), never).await;
        assert!(matches!(error, Err(CallError::DeadlineExceeded { rpc: "Test" })));
        let done = async { Ok(7) };
        assert_eq!(within("Test", None, done).await.expect("done"), 7);
    }
}
