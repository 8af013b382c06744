//! When to ask again.

use std::time::{Duration, SystemTime};

/// How often and when a request is repeated that may succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Requests in all.
    pub attempts: u32,
    /// The first pause; each further one is twice as long.
    pub pause: Duration,
    /// The longest pause that is our idea.
    pub longest_pause: Duration,
    /// The longest pause that a registry may ask for.
    pub longest_retry_after: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(5),
            longest_retry_after: Duration::from_secs(30),
        }
    }
}

impl RetryPolicy {
    /// The pause before attempt `next`, which counts from 2; `None` when it was enough.
    pub(crate) fn pause_before(&self, next: u32, asked: Option<Duration>) -> Option<Duration> {
        if next > self.attempts {
            return None;
        }
        let doubled = self.pause.saturating_mul(1 << next.saturating_sub(2).min(16));
        let own = doubled.min(self.longest_pause);
        // Many clients that failed together must not come back together.
        let own = own / 2 + own.mul_f64(fraction()) / 2;
        Some(asked.map_or(own, |asked| asked.min(self.longest_retry_after).max(own)))
    }
}

/// A number from 0 to 1 that differs from process to process.
fn fraction() -> f64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    f64::from(now.subsec_micros() % 1000) / 1000.0
}

/// Reads `Retry-After`: seconds or a date (RFC 9110, 10.2.3).
pub(crate) fn parse_retry_after(value: &str) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_capped() {
        let policy = RetryPolicy { attempts: 20, ..RetryPolicy::default() };
        for next in 2..=20 {
            let pause = policy.pause_before(next, None).unwrap();
            assert!(pause >= policy.pause / 2 && pause <= policy.longest_pause, "{pause:?}");
        }
        assert_eq!(policy.pause_before(21, None), None);
        let asked = policy.pause_before(2, Some(Duration::from_secs(1_000_000_000)));
        assert_eq!(asked, Some(policy.longest_retry_after));
        assert_eq!(policy.pause_before(2, Some(Duration::from_secs(3))).unwrap().as_secs(), 3);
    }

    #[test]
    fn both_forms_of_retry_after_are_read() {
        assert_eq!(parse_retry_after("120"), Some(Duration::from_secs(120)));
        assert_eq!(parse_retry_after("Fri, 31 Dec 1999 23:59:59 GMT"), Some(Duration::ZERO));
        assert_eq!(parse_retry_after("soon"), None);
        assert_eq!(parse_retry_after("-1"), None);
    }
}
