//! CRI `LinuxContainerResources`, checked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::InvalidField;

const CPU_QUOTA_MIN_US: i64 = 1_000;
const CPU_PERIOD_US: std::ops::RangeInclusive<i64> = 1_000..=1_000_000;
const OOM_SCORE_ADJ: std::ops::RangeInclusive<i64> = -1000..=1000;
/// Highest CPU or memory node number that is accepted; the kernel's own bound is lower.
const HIGHEST_NODE: u32 = 8191;

/// What a container or pod may use. A zero or an empty string means that nothing is said, as in the CRI.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxResources {
    /// Microseconds of one CFS period.
    pub cpu_period: i64,
    /// Microseconds of CPU time per period; −1 is without limit.
    pub cpu_quota: i64,
    /// Relative weight, 2 to 262144, 1024 being usual.
    pub cpu_shares: i64,
    /// Bytes; −1 is without limit.
    pub memory_limit_in_bytes: i64,
    /// Bytes of memory and swap together; −1 is without limit.
    pub memory_swap_limit_in_bytes: i64,
    /// −1000 to 1000.
    pub oom_score_adj: i64,
    /// CPUs, as `0-3,7`.
    pub cpuset_cpus: String,
    /// Memory nodes, as `0-1`.
    pub cpuset_mems: String,
    /// By page size.
    pub hugepage_limits: Vec<HugepageLimit>,
    /// cgroup v2 files and what is written into them.
    pub unified: BTreeMap<String, String>,
}

/// CRI `HugepageLimit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugepageLimit {
    /// As in the name of the cgroup file: `2MB`, `1GB`.
    pub page_size: String,
    /// Bytes.
    pub limit: u64,
}

impl LinuxResources {
    /// Checks every number against its range, and names against what could be a path.
    ///
    /// # Errors
    /// The first field that is out of range.
    pub fn checked(self) -> Result<Self, InvalidField> {
        self.check_cpu()?;
        self.check_memory()?;
        if !OOM_SCORE_ADJ.contains(&self.oom_score_adj) {
            return Err(number("oom_score_adj", self.oom_score_adj, "is outside -1000 to 1000"));
        }
        check_cpu_list("cpuset_cpus", &self.cpuset_cpus)?;
        check_cpu_list("cpuset_mems", &self.cpuset_mems)?;
        for limit in &self.hugepage_limits {
            check_page_size(&limit.page_size)?;
        }
        self.unified.iter().try_for_each(|(file, value)| check_unified(file, value))?;
        Ok(self)
    }

    fn check_cpu(&self) -> Result<(), InvalidField> {
        if self.cpu_period != 0 && !CPU_PERIOD_US.contains(&self.cpu_period) {
            return Err(number("cpu_period", self.cpu_period, "is outside 1000 to 1000000 µs"));
        }
        if self.cpu_quota < -1 || (1..CPU_QUOTA_MIN_US).contains(&self.cpu_quota) {
            let reason = "is neither -1 (no limit), 0 (unset) nor at least 1000 µs";
            return Err(number("cpu_quota", self.cpu_quota, reason));
        }
        if self.cpu_shares < 0 {
            return Err(number("cpu_shares", self.cpu_shares, "is negative"));
        }
        Ok(())
    }

    fn check_memory(&self) -> Result<(), InvalidField> {
        let (limit, swap) = (self.memory_limit_in_bytes, self.memory_swap_limit_in_bytes);
        let reason = "is neither -1 (no limit), 0 (unset) nor positive";
        if limit < -1 {
            return Err(number("memory_limit_in_bytes", limit, reason));
        }
        if swap < -1 {
            return Err(number("memory_swap_limit_in_bytes", swap, reason));
        }
        if swap > 0 && swap < limit {
            let reason = "is less than memory_limit_in_bytes, which it includes";
            return Err(number("memory_swap_limit_in_bytes", swap, reason));
        }
        Ok(())
    }
}

fn number(field: &str, value: i64, reason: &str) -> InvalidField {
    InvalidField::new(field, value.to_string(), reason)
}

/// Source: `cpuset(7)`, "List format".
fn check_cpu_list(field: &str, text: &str) -> Result<(), InvalidField> {
    let number = |text: &str| text.parse::<u32>().ok().filter(|n| *n <= HIGHEST_NODE);
    let is_range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        matches!((number(first), number(last)), (Some(first), Some(last)) if first <= last)
    };
    if text.is_empty() || text.split(',').all(is_range) {
        return Ok(());
    }
    Err(InvalidField::new(field, text, "is no list of numbers and ranges such as 0-3,7"))
}

fn check_page_size(text: &str) -> Result<(), InvalidField> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    if digits.parse::<u64>().is_ok() && matches!(unit, "KB" | "MB" | "GB") {
        return Ok(());
    }
    Err(InvalidField::new("hugepage_limits.page_size", text, "is no page size such as 2MB or 1GB"))
}

fn check_unified(file: &str, value: &str) -> Result<(), InvalidField> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_');
    let controller_file =
        file.contains('.') && file.chars().all(|c| plain(c) || c.is_ascii_uppercase());
    if !controller_file || file.starts_with("cgroup.") || file.starts_with('.') {
        let reason = "is no controller's file such as memory.high";
        return Err(InvalidField::new("unified", file, reason));
    }
    if value.trim_end_matches('\n').contains(['\0', '\n']) {
        let reason = "contains NUL or more than one line";
        return Err(InvalidField::new(format!("unified[{file}]"), value, reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut LinuxResources)) -> String {
        let mut resources = LinuxResources::default();
        change(&mut resources);
        resources.checked().expect_err("out of range").field
    }

    #[test]
    fn what_a_kubelet_sends_is_accepted() {
        let resources = LinuxResources {
            cpu_period: 100_000,
            cpu_quota: 0,
            cpu_shares: 2,
            memory_limit_in_bytes: 1 << 30,
            memory_swap_limit_in_bytes: 1 << 30,
            oom_score_adj: -997,
            cpuset_cpus: "0-1,3".to_owned(),
            hugepage_limits: vec![HugepageLimit { page_size: "2MB".to_owned(), limit: 0 }],
            unified: BTreeMap::from([("memory.oom.group".to_owned(), "1".to_owned())]),
            ..LinuxResources::default()
        };
        resources.clone().checked().expect("usual");
        LinuxResources::default().checked().expect("nothing said");
    }

    #[test]
    fn every_field_has_its_range() {
        assert_eq!(refused(|r| r.cpu_period = 999), "cpu_period");
        assert_eq!(refused(|r| r.cpu_quota = -2), "cpu_quota");
        assert_eq!(refused(|r| r.cpu_quota = 999), "cpu_quota");
        assert_eq!(refused(|r| r.cpu_shares = -1), "cpu_shares");
        assert_eq!(refused(|r| r.memory_limit_in_bytes = -2), "memory_limit_in_bytes");
        assert_eq!(
            refused(|r| (r.memory_limit_in_bytes, r.memory_swap_limit_in_bytes) = (10, 9)),
            "memory_swap_limit_in_bytes"
        );
        assert_eq!(refused(|r| r.oom_score_adj = 2000), "oom_score_adj");
        for bad in ["0-999999", "3-1", "a", "1,", "-1", "1-2-3"] {
            assert_eq!(refused(|r| r.cpuset_cpus = bad.to_owned()), "cpuset_cpus");
        }
        for bad in ["", "2", "MB", "2TB", "../2MB"] {
            let limit = HugepageLimit { page_size: bad.to_owned(), limit: 1 };
            assert_eq!(refused(|r| r.hugepage_limits = vec![limit]), "hugepage_limits.page_size");
        }
        for bad in ["cgroup.procs", "../memory.max", "memory", ".x", "memory.max/.."] {
            assert_eq!(
                refused(|r| r.unified = BTreeMap::from([(bad.to_owned(), "1".to_owned())])),
                "unified"
            );
        }
    }
}
