//! CRI `LinuxContainerResources` ⇄ [`LinuxResources`].

use cri_api::v1 as cri;
use model::{HugepageLimit, InvalidField, LinuxResources};

use super::{sorted, unsorted};

/// Checks every field of the message that stands in `field`.
///
/// # Errors
/// The first field that is out of range.
pub(crate) fn from_cri(
    field: &str,
    message: cri::LinuxContainerResources,
) -> Result<LinuxResources, InvalidField> {
    let limit = |cri::HugepageLimit { page_size, limit }| HugepageLimit { page_size, limit };
    let resources = LinuxResources {
        cpu_period: message.cpu_period,
        cpu_quota: message.cpu_quota,
        cpu_shares: message.cpu_shares,
        memory_limit_in_bytes: message.memory_limit_in_bytes,
        memory_swap_limit_in_bytes: message.memory_swap_limit_in_bytes,
        oom_score_adj: message.oom_score_adj,
        cpuset_cpus: message.cpuset_cpus,
        cpuset_mems: message.cpuset_mems,
        hugepage_limits: message.hugepage_limits.into_iter().map(limit).collect(),
        unified: sorted(message.unified),
    };
    resources.checked().map_err(|error| error.within(field))
}

/// Shows what was asked for, not what the kernel made of it.
pub(crate) fn to_cri(resources: &LinuxResources) -> cri::LinuxContainerResources {
    let limit = |limit: &HugepageLimit| cri::HugepageLimit {
        page_size: limit.page_size.clone(),
        limit: limit.limit,
    };
    cri::LinuxContainerResources {
        cpu_period: resources.cpu_period,
        cpu_quota: resources.cpu_quota,
        cpu_shares: resources.cpu_shares,
        memory_limit_in_bytes: resources.memory_limit_in_bytes,
        memory_swap_limit_in_bytes: resources.memory_swap_limit_in_bytes,
        oom_score_adj: resources.oom_score_adj,
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        hugepage_limits: resources.hugepage_limits.iter().map(limit).collect(),
        unified: unsorted(&resources.unified),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// C79: no field is lost or derived anew on the way in and out.
    #[test]
    fn what_was_asked_is_shown() {
        let message = cri::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 3,
            memory_limit_in_bytes: 1 << 20,
            oom_score_adj: -997,
            cpuset_cpus: "0-1".to_owned(),
            cpuset_mems: "0".to_owned(),
            hugepage_limits: vec![cri::HugepageLimit { page_size: "2MB".to_owned(), limit: 7 }],
            unified: [("memory.high".to_owned(), "max".to_owned())].into(),
            memory_swap_limit_in_bytes: 1 << 21,
        };
        let resources = from_cri("linux.resources", message.clone()).expect("in range");
        assert_eq!(to_cri(&resources), message);
    }

    #[test]
    fn a_refusal_names_the_whole_path() {
        let message = cri::LinuxContainerResources { oom_score_adj: 2000, ..Default::default() };
        let error = from_cri("linux.resources", message).expect_err("out of range");
        assert_eq!(error.field, "linux.resources.oom_score_adj");
    }
}
