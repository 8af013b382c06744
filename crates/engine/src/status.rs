//! What the daemon says of itself: CRI `Status`.

use std::{collections::BTreeMap, sync::PoisonError};

use nix::{sys::utsname::uname, unistd};
use serde::Serialize;

use crate::{Engine, HostCgroups, Inner, bundle::RECURSIVE_READ_ONLY};

/// One line of CRI `Status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Such as `RuntimeReady`.
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// One word; empty when it holds.
    pub reason: &'static str,
    /// For people, with the remedy; empty when it holds.
    pub message: String,
}

/// What the daemon can do on this host; CRI `Status`.
#[derive(Clone, Debug)]
pub struct EngineStatus {
    /// `RuntimeReady` and `NetworkReady` first.
    pub conditions: Vec<Condition>,
    /// Recursive read-only mounts work (Linux 5.12).
    pub recursive_read_only_mounts: bool,
    /// JSON by topic, for verbose answers.
    pub info: BTreeMap<String, String>,
}

/// The controllers that Kubernetes sets limits with.
const WANTED_CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

impl Condition {
    fn holding(kind: &'static str) -> Self {
        Self { kind, holds: true, reason: "", message: String::new() }
    }
}

impl Engine {
    /// The state of daemon and node. Answers from memory, but for one look at the data directory.
    #[must_use]
    pub fn status(&self) -> EngineStatus {
        let inner = &self.inner;
        let mut conditions = vec![
            inner.runtime_condition(),
            // Pods have loopback; that is all the network there is to be ready.
            Condition::holding("NetworkReady"),
            inner.cgroup_condition(),
        ];
        conditions.extend(inner.host.conditions.iter().cloned());
        EngineStatus {
            conditions,
            recursive_read_only_mounts: kernel_version().is_some_and(|v| v >= RECURSIVE_READ_ONLY),
            info: inner.info(),
        }
    }
}

impl Inner {
    fn runtime_condition(&self) -> Condition {
        let sandboxes = self.places.sandboxes();
        match unistd::access(&sandboxes, unistd::AccessFlags::W_OK) {
            Ok(()) => Condition::holding("RuntimeReady"),
            Err(errno) => Condition {
                kind: "RuntimeReady",
                holds: false,
                reason: "DataDirectoryNotWritable",
                message: format!("{}: {errno}", sandboxes.display()),
            },
        }
    }

    fn cgroup_condition(&self) -> Condition {
        const KIND: &str = "CgroupControllersReady";
        let not_ready = |reason, message| Condition { kind: KIND, holds: false, reason, message };
        match &self.host.cgroups {
            HostCgroups::Missing { reason } => not_ready("NoDelegatedCgroup", reason.clone()),
            HostCgroups::Delegated { controllers } => {
                let missing: Vec<&str> = WANTED_CONTROLLERS
                    .into_iter()
                    .filter(|wanted| !controllers.iter().any(|have| have == wanted))
                    .collect();
                if missing.is_empty() {
                    return Condition::holding(KIND);
                }
                let message = format!(
                    "delegated: {}; missing: {}; add Delegate=cpu cpuset io memory pids to user@.service",
                    controllers.join(" "),
                    missing.join(" "),
                );
                not_ready("ControllersMissing", message)
            }
        }
    }

    fn info(&self) -> BTreeMap<String, String> {
        let quarantined = self.quarantined.lock().unwrap_or_else(PoisonError::into_inner);
        let mut info = self.host.info.clone();
        let config = Config {
            state_dir: self.places.runtimes().display().to_string(),
            quarantined: &quarantined,
        };
        if let Ok(json) = serde_json::to_string(&config) {
            info.insert("config".to_owned(), json);
        }
        info
    }
}

/// The topic `config` of the verbose information.
#[derive(Serialize)]
struct Config<'a> {
    /// Where sandboxes have their runtime state.
    #[serde(rename = "stateDir")]
    state_dir: String,
    /// Records that could not be read and were set aside.
    quarantined: &'a [String],
}

/// Such as 6 and 18.
pub(crate) fn kernel_version() -> Option<(u32, u32)> {
    version(&uname().ok()?.release().to_string_lossy())
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_read_as_numbers() {
        assert_eq!(version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(version("5.4.0-generic"), Some((5, 4)));
        assert_eq!(version("nonsense"), None);
    }
}
