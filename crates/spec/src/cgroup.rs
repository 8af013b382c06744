//! CRI resources as writes to files of cgroup v2.
//!
//! Source: kernel documentation, "Control Group v2".

use std::collections::BTreeSet;

use model::LinuxResources;
use thiserror::Error;

/// What the kernel assumes, and the CRI where a quota comes without period; microseconds.
const DEFAULT_PERIOD_US: i64 = 100_000;
/// Range of `cpu_shares`, which were the weights of cgroup v1.
const SHARES: std::ops::RangeInclusive<i64> = 2..=262_144;

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Name in the cgroup's directory.
    pub file: String,
    /// What is written.
    pub value: String,
}

/// What can be applied of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// To be written, in order.
    pub settings: Vec<Setting>,
    /// Requests that a pod lives well without and that could not be applied, as `file=value`.
    pub ignored: Vec<String>,
}

/// A limit that nobody would enforce. CRI: `FailedPrecondition`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{resource} needs cgroup controller {controller:?}, which is not delegated to this user (have: {}); add \
     Delegate=cpu cpuset io memory pids to user@.service, see docs/cgroups", listed(.have)
)]
pub struct MissingController {
    /// The limit, in words.
    pub resource: String,
    /// Such as `memory`.
    pub controller: String,
    /// The delegated controllers.
    pub have: BTreeSet<String>,
}

fn listed(controllers: &BTreeSet<String>) -> String {
    if controllers.is_empty() {
        return "none".to_owned();
    }
    controllers.iter().map(String::as_str).collect::<Vec<_>>().join(" ")
}

/// Translates a request for a cgroup in which the controllers `available` are enabled. Where the request says nothing,
/// nothing is written. Typed fields win over `unified`.
///
/// # Errors
/// [`MissingController`] when a limit that the pod's author may rely on could not be enforced.
pub fn settings(
    resources: &LinuxResources,
    available: &BTreeSet<String>,
    swap_on_host: bool,
) -> Result<Settings, MissingController> {
    let typed = typed(resources);
    let unified = resources.unified.iter().map(|(file, value)| Wish {
        file: file.clone(),
        value: value.trim().to_owned(),
        resource: format!("unified {file}"),
        soft: is_soft(file, value.trim()),
    });
    let unified = unified.filter(|wish| typed.iter().all(|other| other.file != wish.file));
    let wishes: Vec<Wish> = unified.collect();
    let mut settings = Settings::default();
    for wish in typed.into_iter().chain(wishes) {
        let controller = wish.file.split('.').next().unwrap_or_default();
        // Without swap the file need not exist, and what it limits does not.
        let pointless = wish.file.starts_with("memory.swap.") && !swap_on_host;
        if available.contains(controller) && !pointless {
            settings.settings.push(Setting { file: wish.file, value: wish.value });
        } else if wish.soft || pointless {
            settings.ignored.push(format!("{}={}", wish.file, wish.value));
        } else {
            return Err(MissingController {
                controller: controller.to_owned(),
                resource: wish.resource,
                have: available.clone(),
            });
        }
    }
    Ok(settings)
}

struct Wish {
    file: String,
    value: String,
    /// In words.
    resource: String,
    /// A pod lives well without it.
    soft: bool,
}

/// The typed fields of the request.
fn typed(resources: &LinuxResources) -> Vec<Wish> {
    let wish = |file: &str, value: String, resource: &str| {
        let soft = is_soft(file, &value);
        Wish { file: file.to_owned(), value, resource: resource.to_owned(), soft }
    };
    let mut wishes = Vec::new();
    for (file, list, resource) in [
        ("cpuset.mems", &resources.cpuset_mems, "memory node binding"),
        ("cpuset.cpus", &resources.cpuset_cpus, "CPU binding"),
    ] {
        if !list.is_empty() {
            wishes.push(wish(file, list.clone(), resource));
        }
    }
    if resources.cpu_shares != 0 {
        wishes.push(wish("cpu.weight", cpu_weight(resources.cpu_shares), "cpu weight"));
    }
    if let Some(value) = cpu_max(resources) {
        wishes.push(wish("cpu.max", value, "cpu limit"));
    }
    if let Some(value) = bytes(resources.memory_limit_in_bytes) {
        wishes.push(wish("memory.max", value, "memory limit"));
    }
    if let Some(value) = swap_max(resources) {
        wishes.push(wish("memory.swap.max", value, "swap limit"));
    }
    wishes.extend(resources.hugepage_limits.iter().map(|limit| Wish {
        file: format!("hugetlb.{}.max", limit.page_size),
        value: limit.limit.to_string(),
        resource: format!("limit of {} huge pages", limit.page_size),
        // A kubelet sends 0 for every page size of the host with every pod.
        soft: limit.limit == 0,
    }));
    wishes
}

/// `cpu.weight` of `cpu_shares`: 2, 1024 and 262144, lowest, usual and highest of both, become 1, 100 and 10000; between
/// them the exponent is a quadratic of the logarithm. A weight is a whole number, rounded up.
fn cpu_weight(shares: i64) -> String {
    // What rounding may have put above a whole number.
    const EPSILON: f64 = 1e-9;
    let shares = shares.clamp(*SHARES.start(), *SHARES.end());
    let log = i32::try_from(shares).map_or(0.0, f64::from).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    format!("{:.0}", (10_f64.powf(exponent) - EPSILON).ceil())
}

/// A period alone limits nothing: a kubelet sends it with every container.
fn cpu_max(resources: &LinuxResources) -> Option<String> {
    let period = match resources.cpu_period {
        0 => DEFAULT_PERIOD_US,
        period => period,
    };
    match resources.cpu_quota {
        0 => None,
        -1 => Some(format!("max {period}")),
        quota => Some(format!("{quota} {period}")),
    }
}

/// cgroup v2 counts swap alone, the CRI swap and memory together.
fn swap_max(resources: &LinuxResources) -> Option<String> {
    match resources.memory_swap_limit_in_bytes {
        total @ 1.. => Some((total - resources.memory_limit_in_bytes.max(0)).max(0).to_string()),
        other => bytes(other),
    }
}

fn bytes(limit: i64) -> Option<String> {
    match limit {
        0 => None,
        -1 => Some("max".to_owned()),
        limit => Some(limit.to_string()),
    }
}

/// Whether a pod lives well without it: hints to the kernel, and what is the kernel's default anyway.
fn is_soft(file: &str, value: &str) -> bool {
    const HINTS: [&str; 4] = ["memory.low", "memory.min", "memory.high", "memory.oom.group"];
    const ZERO: [&str; 2] = ["cpu.idle", "cpu.max.burst"];
    let unlimited = file.ends_with(".max") || file == "memory.swap.high";
    HINTS.contains(&file)
        || file.ends_with(".weight")
        || (unlimited && value.split_whitespace().next() == Some("max"))
        || (ZERO.contains(&file) && value == "0")
}

#[cfg(test)]
mod tests;
