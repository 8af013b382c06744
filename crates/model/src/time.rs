//! Points in time as the CRI counts them.

use serde::{Deserialize, Serialize};

/// Wall-clock time in nanoseconds since the Unix epoch, as CRI `created_at` and its kin count it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct UnixNanos(pub i64);
