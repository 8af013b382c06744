use std::collections::BTreeMap;

use model::HugepageLimit;

use super::*;

fn controllers(names: &str) -> BTreeSet<String> {
    names.split_whitespace().map(str::to_owned).collect()
}

fn translated(resources: &LinuxResources, names: &str, swap: bool) -> (Vec<String>, Vec<String>) {
    let resources = resources.clone().checked().expect("in range");
    let result = settings(&resources, &controllers(names), swap).expect("controllers suffice");
    let written = result.settings.into_iter().map(|s| format!("{}={}", s.file, s.value));
    (written.collect(), result.ignored)
}

fn written(resources: &LinuxResources) -> Vec<String> {
    let (written, ignored) = translated(resources, "cpu cpuset hugetlb io memory pids", true);
    assert_eq!(ignored, [""; 0]);
    written
}

fn missing(resources: &LinuxResources, names: &str) -> String {
    settings(resources, &controllers(names), true).expect_err("hard").to_string()
}

fn unified(file: &str, value: &str) -> LinuxResources {
    let unified = BTreeMap::from([(file.to_owned(), value.to_owned())]);
    LinuxResources { unified, ..LinuxResources::default() }
}

#[test]
fn nothing_said_nothing_written() {
    assert_eq!(translated(&LinuxResources::default(), "", false), (vec![], vec![]));
}

#[test]
fn weights_of_shares() {
    let weight = |cpu_shares| written(&LinuxResources { cpu_shares, ..Default::default() });
    for (shares, expected) in [
        (1, 1),
        (2, 1),
        (3, 2),
        (102, 17),
        (256, 35),
        (512, 59),
        (1024, 100),
        (2048, 174),
        (262_144, 10_000),
        (i64::MAX, 10_000),
    ] {
        assert_eq!(weight(shares), [format!("cpu.weight={expected}")], "{shares}");
    }
}

#[test]
fn cpu_quota_and_period() {
    let max = |cpu_quota, cpu_period| {
        written(&LinuxResources { cpu_quota, cpu_period, ..Default::default() })
    };
    assert_eq!(max(50_000, 0), ["cpu.max=50000 100000"]);
    assert_eq!(max(50_000, 20_000), ["cpu.max=50000 20000"]);
    assert_eq!(max(-1, 0), ["cpu.max=max 100000"]);
}

#[test]
fn a_period_without_quota_limits_nothing_c47() {
    let resources = LinuxResources { cpu_period: 100_000, ..Default::default() };
    assert_eq!(translated(&resources, "", true), (vec![], vec![]));
}

#[test]
fn memory_and_swap() {
    let memory = |memory_limit_in_bytes, memory_swap_limit_in_bytes| {
        written(&LinuxResources {
            memory_limit_in_bytes,
            memory_swap_limit_in_bytes,
            ..Default::default()
        })
    };
    assert_eq!(memory(1 << 20, 0), ["memory.max=1048576"]);
    assert_eq!(memory(100, 100), ["memory.max=100", "memory.swap.max=0"]);
    assert_eq!(memory(100, 150), ["memory.max=100", "memory.swap.max=50"]);
    assert_eq!(memory(-1, -1), ["memory.max=max", "memory.swap.max=max"]);
    assert_eq!(memory(-1, 70), ["memory.max=max", "memory.swap.max=70"]);
}

#[test]
fn a_swap_limit_is_pointless_without_swap() {
    let resources = LinuxResources {
        memory_limit_in_bytes: 100,
        memory_swap_limit_in_bytes: 100,
        ..Default::default()
    };
    let expected = (vec!["memory.max=100".to_owned()], vec!["memory.swap.max=0".to_owned()]);
    assert_eq!(translated(&resources, "memory", false), expected);
    assert_eq!(translated(&unified("memory.swap.max", "0"), "", false).0, [""; 0]);
}

#[test]
fn cpusets() {
    let resources = LinuxResources {
        cpuset_cpus: "0-1".to_owned(),
        cpuset_mems: "0".to_owned(),
        ..Default::default()
    };
    assert_eq!(written(&resources), ["cpuset.mems=0", "cpuset.cpus=0-1"]);
    assert!(missing(&resources, "cpu memory").contains("\"cpuset\""));
}

#[test]
fn hugepage_limits_of_zero_are_soft_c41() {
    let limit = |limit| LinuxResources {
        hugepage_limits: vec![HugepageLimit { page_size: "2MB".to_owned(), limit }],
        ..Default::default()
    };
    assert_eq!(written(&limit(0)), ["hugetlb.2MB.max=0"]);
    assert_eq!(translated(&limit(0), "memory", true).1, ["hugetlb.2MB.max=0"]);
    assert!(missing(&limit(1), "memory").starts_with("limit of 2MB huge pages needs"));
}

#[test]
fn what_a_kubelet_puts_into_unified_is_soft_c42() {
    for (file, value) in [
        ("memory.high", "max"),
        ("memory.high", "500000"),
        ("memory.oom.group", "1"),
        ("memory.min", "0"),
        ("memory.low", "0"),
        ("io.bfq.weight", "10"),
        ("memory.max", "max\n"),
        ("cpu.max", "max 100000"),
        ("pids.max", "max"),
    ] {
        let ignored = translated(&unified(file, value), "", true).1;
        assert_eq!(ignored, [format!("{file}={}", value.trim())]);
    }
    for (file, value) in [("memory.max", "5"), ("pids.max", "10"), ("io.max", "8:0 rbps=1")] {
        assert!(missing(&unified(file, value), "").starts_with("unified "), "{file}");
    }
}

#[test]
fn typed_fields_win_over_unified() {
    let resources = LinuxResources { memory_limit_in_bytes: 100, ..unified("memory.max", "999") };
    assert_eq!(written(&resources), ["memory.max=100"]);
}

#[test]
fn a_hard_limit_without_controller_says_what_to_do_c43() {
    let memory = LinuxResources { memory_limit_in_bytes: 100, ..Default::default() };
    assert_eq!(
        missing(&memory, "pids cpu"),
        "memory limit needs cgroup controller \"memory\", which is not delegated to this user (have: cpu pids); add \
         Delegate=cpu cpuset io memory pids to user@.service, see docs/cgroups"
    );
    let cpu = LinuxResources { cpu_quota: 5_000, ..Default::default() };
    assert!(missing(&cpu, "").contains("(have: none)"));
}

#[test]
fn shares_without_controller_are_ignored() {
    let resources = LinuxResources { cpu_shares: 512, ..Default::default() };
    assert_eq!(translated(&resources, "", true), (vec![], vec!["cpu.weight=59".to_owned()]));
}
