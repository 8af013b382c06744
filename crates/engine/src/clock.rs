//! Wall-clock time that never repeats, and random identifiers.

use std::{
    fs::File,
    io::{self, Read},
    sync::atomic::{AtomicI64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use model::UnixNanos;

/// Gives out creation times: strictly increasing, because the kubelet sorts by them.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    last: AtomicI64,
}

impl Clock {
    /// Later times than `seen` only, even when the wall clock was set back.
    pub(crate) fn advance_past(&self, seen: UnixNanos) {
        self.last.fetch_max(seen.0, Ordering::Relaxed);
    }

    /// A time that is later than every one given out before.
    pub(crate) fn unique(&self) -> UnixNanos {
        let now = now().0;
        let next = |last: i64| now.max(last.saturating_add(1));
        let before =
            self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |l| Some(next(l)));
        UnixNanos(next(before.unwrap_or_else(|last| last)))
    }
}

/// The wall clock.
pub(crate) fn now() -> UnixNanos {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixNanos(i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX))
}

/// 32 bytes from the kernel's random source.
pub(crate) fn random_bytes() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_increase_even_when_the_clock_was_ahead() {
        let clock = Clock::default();
        let ahead = UnixNanos(now().0 + 1_000_000_000_000);
        clock.advance_past(ahead);
        let (a, b) = (clock.unique(), clock.unique());
        assert!(ahead < a && a < b);
    }

    #[test]
    fn random_bytes_differ() {
        assert_ne!(random_bytes().expect("urandom"), random_bytes().expect("urandom"));
    }
}
