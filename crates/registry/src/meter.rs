//! Telling a slow registry from one that has stopped.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout};

/// What has to arrive in the time of a stall.
pub(crate) const PROGRESS_BYTES: u64 = 16 << 10;

/// Counts the time spent waiting for bytes, not that of whoever takes them.
#[derive(Debug)]
pub(crate) struct Meter {
    stall: Duration,
    waited: Duration,
    bytes: u64,
}

/// Too little has arrived for too long.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stalled {
    /// How long that was.
    pub(crate) waited: Duration,
}

impl Meter {
    pub(crate) fn new(stall: Duration) -> Self {
        Self { stall, waited: Duration::ZERO, bytes: 0 }
    }

    /// Waits for something from the network.
    pub(crate) async fn wait<T>(&mut self, arrival: impl Future<Output = T>) -> Result<T, Stalled> {
        let started = Instant::now();
        let arrived = timeout(self.stall.saturating_sub(self.waited), arrival).await;
        self.waited += started.elapsed();
        arrived.map_err(|_elapsed| Stalled { waited: self.stall })
    }

    /// Takes note of bytes that have arrived.
    pub(crate) fn arrived(&mut self, count: usize) {
        self.bytes += u64::try_from(count).unwrap_or(u64::MAX);
        if self.bytes >= PROGRESS_BYTES {
            *self = Self::new(self.stall);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_trickle_is_a_stall_and_a_slow_taker_is_none() {
        let mut meter = Meter::new(Duration::from_secs(10));
        let second = || tokio::time::sleep(Duration::from_secs(1));
        for _ in 0..9 {
            meter.wait(second()).await.unwrap();
            meter.arrived(1);
        }
        let waited = Duration::from_secs(10);
        let last = meter.wait(tokio::time::sleep(Duration::from_secs(2))).await;
        assert_eq!(last, Err(Stalled { waited }));

        let mut meter = Meter::new(Duration::from_secs(10));
        for _ in 0..50 {
            meter.wait(second()).await.unwrap();
            meter.arrived(16 << 10);
            // The taker's time does not count.
            tokio::time::sleep(Duration::from_secs(100)).await;
        }
    }
}
