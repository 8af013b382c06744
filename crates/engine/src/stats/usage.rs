//! One look at a cgroup's accounting, and what two of them tell.
//!
//! Source: kernel documentation `admin-guide/cgroup-v2` and `accounting/psi`.

use std::time::{Duration, Instant};

use model::UnixNanos;
use sys::cgroup::Cgroup;

use crate::clock;

/// What the processes of a cgroup have used. A file that the kernel does not offer leaves its fields `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct CgroupUsage {
    /// When it was read.
    pub at: UnixNanos,
    /// Time on CPUs.
    pub cpu: CpuUsage,
    /// Memory.
    pub memory: MemoryUsage,
    /// Swap.
    pub swap: SwapUsage,
    /// Waiting for block I/O.
    pub io_pressure: Option<Pressure>,
}

/// Time on CPUs.
#[derive(Clone, Debug, PartialEq)]
pub struct CpuUsage {
    /// Nanoseconds since the cgroup was made, all cores together.
    pub core_nanos: u64,
    /// Nanoseconds per second, between the last two looks that were 1 to 60 s apart.
    pub nano_cores: Option<u64>,
    /// Waiting for a CPU.
    pub pressure: Option<Pressure>,
}

/// Memory, which is accounted only where the controller `memory` is delegated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryUsage {
    /// All of it, page cache included.
    pub usage_bytes: Option<u64>,
    /// Without the page cache that could be dropped at once.
    pub working_set_bytes: Option<u64>,
    /// What is left below the cgroup's own limit; `None` without one.
    pub available_bytes: Option<u64>,
    /// Anonymous memory.
    pub rss_bytes: Option<u64>,
    /// Since the cgroup was made.
    pub page_faults: Option<u64>,
    /// Those of them that waited for a disk.
    pub major_page_faults: Option<u64>,
    /// Waiting for memory.
    pub pressure: Option<Pressure>,
}

/// Swap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SwapUsage {
    /// What is swapped out.
    pub usage_bytes: Option<u64>,
    /// What is left below the cgroup's own limit; `None` without one.
    pub available_bytes: Option<u64>,
}

/// How long tasks waited for a resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Pressure {
    /// At least one task waited.
    pub some: Option<Stall>,
    /// All tasks waited at the same time.
    pub full: Option<Stall>,
}

/// One line of a pressure file.
#[derive(Clone, Debug, PartialEq)]
pub struct Stall {
    /// Nanoseconds of waiting since the cgroup was made.
    pub total_nanos: u64,
    /// Percentage of the last 10 seconds.
    pub avg10: f64,
    /// Percentage of the last 60 seconds.
    pub avg60: f64,
    /// Percentage of the last 300 seconds.
    pub avg300: f64,
}

impl CgroupUsage {
    /// Reads all there is; `None` when the cgroup is gone, because every cgroup has `cpu.stat`.
    pub(super) fn read(cgroup: &Cgroup) -> Option<Self> {
        let cpu_stat = cgroup.read("cpu.stat").ok()?;
        let usage_usec = flat_keyed(&cpu_stat, "usage_usec")?;
        let cpu = CpuUsage {
            core_nanos: usage_usec.saturating_mul(1000),
            nano_cores: None,
            pressure: pressure(cgroup, "cpu.pressure"),
        };
        Some(Self {
            at: clock::now(),
            cpu,
            memory: MemoryUsage::read(cgroup),
            swap: SwapUsage::read(cgroup),
            io_pressure: pressure(cgroup, "io.pressure"),
        })
    }
}

impl MemoryUsage {
    fn read(cgroup: &Cgroup) -> Self {
        let stat = cgroup.read("memory.stat").unwrap_or_default();
        let usage_bytes = number(cgroup, "memory.current");
        let inactive_file = flat_keyed(&stat, "inactive_file");
        // The two files are not read at the same instant, so the difference may be below 0.
        let working_set_bytes = usage_bytes.zip(inactive_file).map(|(u, i)| u.saturating_sub(i));
        Self {
            usage_bytes,
            working_set_bytes,
            available_bytes: left(number(cgroup, "memory.max"), working_set_bytes),
            rss_bytes: flat_keyed(&stat, "anon"),
            page_faults: flat_keyed(&stat, "pgfault"),
            major_page_faults: flat_keyed(&stat, "pgmajfault"),
            pressure: pressure(cgroup, "memory.pressure"),
        }
    }
}

impl SwapUsage {
    fn read(cgroup: &Cgroup) -> Self {
        let usage_bytes = number(cgroup, "memory.swap.current");
        let available_bytes = left(number(cgroup, "memory.swap.max"), usage_bytes);
        Self { usage_bytes, available_bytes }
    }
}

fn left(limit: Option<u64>, used: Option<u64>) -> Option<u64> {
    limit.zip(used).map(|(limit, used)| limit.saturating_sub(used))
}

/// A file that holds one number; `None` for the word `max`, which is no limit.
fn number(cgroup: &Cgroup, file: &str) -> Option<u64> {
    cgroup.read(file).ok()?.trim_end().parse().ok()
}

fn flat_keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
}

/// A pressure file. It is absent, or cannot be read, when the kernel does not keep this information.
fn pressure(cgroup: &Cgroup, file: &str) -> Option<Pressure> {
    let text = cgroup.read(file).ok()?;
    let line = |kind| text.lines().find_map(|line| line.strip_prefix(kind)).and_then(stall);
    let pressure = Pressure { some: line("some "), full: line("full ") };
    (pressure.some.is_some() || pressure.full.is_some()).then_some(pressure)
}

/// Such as `avg10=0.12 avg60=0.00 avg300=0.00 total=1234`, in microseconds.
fn stall(line: &str) -> Option<Stall> {
    let value = |key| {
        line.split(' ')
            .find_map(|field| field.split_once('=').filter(|(k, _)| *k == key))
            .map(|f| f.1)
    };
    let total_usec: u64 = value("total")?.parse().ok()?;
    Some(Stall {
        total_nanos: total_usec.saturating_mul(1000),
        avg10: value("avg10")?.parse().ok()?,
        avg60: value("avg60")?.parse().ok()?,
        avg300: value("avg300")?.parse().ok()?,
    })
}

/// Looks closer together than this say too little.
const NEAREST: Duration = Duration::from_secs(1);
/// Looks farther apart than this say nothing of now.
const FARTHEST: Duration = Duration::from_secs(60);

/// CPU time per second, between looks.
#[derive(Debug, Default)]
pub(super) struct CpuRate {
    last: Option<(Instant, u64)>,
    nano_cores: Option<u64>,
}

impl CpuRate {
    /// Takes a look into account and tells the rate. Soon after the last look it is still that look's rate.
    pub(super) fn next(&mut self, now: Instant, core_nanos: u64) -> Option<u64> {
        let elapsed = self.last.map(|(then, _)| now.saturating_duration_since(then));
        if elapsed.is_some_and(|elapsed| elapsed < NEAREST) {
            return self.nano_cores;
        }
        let before = self.last.replace((now, core_nanos)).map(|(_, before)| before);
        let used = before.and_then(|before| core_nanos.checked_sub(before));
        let elapsed = elapsed.filter(|elapsed| *elapsed <= FARTHEST);
        self.nano_cores = used.zip(elapsed).and_then(|(used, elapsed)| per_second(used, elapsed));
        self.nano_cores
    }
}

fn per_second(nanos: u64, elapsed: Duration) -> Option<u64> {
    const NANOS_PER_SECOND: u128 = 1_000_000_000;
    (u128::from(nanos) * NANOS_PER_SECOND).checked_div(elapsed.as_nanos())?.try_into().ok()
}

#[cfg(test)]
mod tests;
