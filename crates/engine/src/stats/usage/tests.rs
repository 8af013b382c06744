use std::{fs, fs::File};

use super::*;

/// A cgroup as the kernel shows one, with these files.
fn usage(files: &[(&str, &str)]) -> Option<CgroupUsage> {
    let directory = tempfile::tempdir().expect("temporary directory");
    for (name, text) in files {
        fs::write(directory.path().join(name), text).expect("write");
    }
    let fd = File::open(directory.path()).expect("open");
    CgroupUsage::read(&Cgroup::from_fd(fd.into()))
}

const CPU_STAT: (&str, &str) =
    ("cpu.stat", "usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\nnr_periods 3\n");
const MEMORY_STAT: (&str, &str) = (
    "memory.stat",
    "anon 4096\nfile 20480\ninactive_anon 1\nactive_file 4\ninactive_file 8192\npgfault 77\npgmajfault 5\n",
);
const PRESSURE: &str = "some avg10=1.50 avg60=0.25 avg300=0.00 total=4321\n\
                        full avg10=0.00 avg60=0.10 avg300=0.00 total=21\n";

#[test]
fn every_file_fills_its_fields() {
    let usage = usage(&[
        CPU_STAT,
        MEMORY_STAT,
        ("memory.current", "65536\n"),
        ("memory.max", "100000\n"),
        ("memory.swap.current", "300\n"),
        ("memory.swap.max", "1000\n"),
        ("cpu.pressure", PRESSURE),
        ("memory.pressure", PRESSURE),
        ("io.pressure", PRESSURE),
    ])
    .expect("a cgroup");
    let some = Stall { total_nanos: 4_321_000, avg10: 1.5, avg60: 0.25, avg300: 0.0 };
    let full = Stall { total_nanos: 21_000, avg10: 0.0, avg60: 0.1, avg300: 0.0 };
    let pressure = Some(Pressure { some: Some(some), full: Some(full) });
    assert!(usage.at.0 > 0);
    let cpu = CpuUsage { core_nanos: 1_234_567_000, nano_cores: None, pressure: pressure.clone() };
    assert_eq!(usage.cpu, cpu);
    let memory = MemoryUsage {
        usage_bytes: Some(65536),
        working_set_bytes: Some(57344),
        available_bytes: Some(42656),
        rss_bytes: Some(4096),
        page_faults: Some(77),
        major_page_faults: Some(5),
        pressure: pressure.clone(),
    };
    assert_eq!(usage.memory, memory);
    let swap = SwapUsage { usage_bytes: Some(300), available_bytes: Some(700) };
    assert_eq!(usage.swap, swap);
    assert_eq!(usage.io_pressure, pressure);
}

#[test]
fn what_is_missing_is_unset() {
    let usage = usage(&[CPU_STAT]).expect("a cgroup");
    assert_eq!(usage.cpu.core_nanos, 1_234_567_000);
    assert_eq!(usage.cpu.pressure, None);
    assert_eq!(usage.memory, MemoryUsage::default());
    assert_eq!(usage.swap, SwapUsage::default());
    assert_eq!(usage.io_pressure, None);
}

#[test]
fn a_cgroup_that_is_gone_has_no_usage() {
    assert_eq!(usage(&[]), None);
}

#[test]
fn without_a_limit_nothing_is_left_below_it() {
    let files = [CPU_STAT, MEMORY_STAT, ("memory.current", "65536\n"), ("memory.max", "max\n")];
    let memory = usage(&files).expect("a cgroup").memory;
    assert_eq!((memory.working_set_bytes, memory.available_bytes), (Some(57344), None));
}

#[test]
fn differences_do_not_go_below_zero() {
    let files = [CPU_STAT, MEMORY_STAT, ("memory.current", "4096\n"), ("memory.max", "0\n")];
    let memory = usage(&files).expect("a cgroup").memory;
    assert_eq!((memory.working_set_bytes, memory.available_bytes), (Some(0), Some(0)));
}

#[test]
fn older_kernels_have_no_line_for_full_cpu_pressure() {
    let line = "some avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
    let pressure = usage(&[CPU_STAT, ("cpu.pressure", line)]).expect("a cgroup").cpu.pressure;
    let pressure = pressure.expect("pressure");
    assert_eq!((pressure.some.map(|some| some.total_nanos), pressure.full), (Some(7000), None));
    let nonsense = usage(&[CPU_STAT, ("cpu.pressure", "some avg10=x\n")]).expect("a cgroup");
    assert_eq!(nonsense.cpu.pressure, None);
}

/// Feeds looks at these milliseconds and nanoseconds of CPU time, and tells the rates.
fn rates<const N: usize>(looks: [(u64, u64); N]) -> [Option<u64>; N] {
    let start = Instant::now();
    let mut rate = CpuRate::default();
    looks.map(|(ms, core_nanos)| rate.next(start + Duration::from_millis(ms), core_nanos))
}

#[test]
fn a_rate_needs_two_looks() {
    let half_a_core_then_idle = rates([(0, 500), (2000, 1_000_000_500), (4000, 1_000_000_500)]);
    assert_eq!(half_a_core_then_idle, [None, Some(500_000_000), Some(0)]);
}

#[test]
fn frequent_looks_do_not_keep_the_rate_from_being_known() {
    let looks = rates([(0, 0), (600, 600), (1200, 1200), (1800, 9999), (2400, 2400)]);
    assert_eq!(looks, [None, None, Some(1000), Some(1000), Some(1000)]);
}

#[test]
fn looks_too_far_apart_say_nothing() {
    assert_eq!(rates([(0, 0), (60_000, 60), (120_001, 120)]), [None, Some(1), None]);
}

#[test]
fn time_that_goes_back_is_no_rate() {
    assert_eq!(rates([(0, 10), (2000, 5), (4000, 2005)]), [None, None, Some(1000)]);
}
