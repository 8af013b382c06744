//! Wall-clock time, for answers that say when something was measured.

use std::time::SystemTime;

use model::UnixNanos;

/// Now; at least 1, since 0 is unset.
pub(crate) fn now() -> UnixNanos {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixNanos(i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX).max(1))
}
