//! Whether a created container is what its specification says.
//!
//! libcontainer tolerates several failures silently. What confines the container is therefore read back from the
//! kernel before anything of the image runs.

use std::fs;

use caps::CapsHashSet;
use nix::unistd::Pid;
use oci_spec::runtime::{Process, Spec};

use crate::{
    capabilities::{CapabilitySets, mask},
    error::{Refusal, RuntimeError},
};

/// Compares the waiting init `pid` with `spec`: seccomp filter, no-new-privileges, capabilities, ids and groups, and
/// with the cgroup v2 path below the node's root where one is expected.
///
/// Source: `proc_pid_status(5)`, `proc_pid_cgroup(5)`.
///
/// # Errors
/// [`RuntimeError::Differs`] names the first difference; [`RuntimeError::File`] when the process is gone.
pub fn created(pid: Pid, spec: &Spec, expected_cgroup: Option<&str>) -> Result<(), RuntimeError> {
    let own = Status::read("self")?;
    let init = Status::read(&pid.to_string())?;
    compare(pid, spec, &own, &init)?;
    match expected_cgroup {
        Some(expected) => {
            let found = sys::cgroup::path_of(&pid.to_string()).unwrap_or_default();
            Check { pid, init: &init }.cgroup(expected, found)
        }
        None => Ok(()),
    }
}

fn compare(pid: Pid, spec: &Spec, own: &Status, init: &Status) -> Result<(), RuntimeError> {
    let process = spec.process().as_ref().ok_or(Refusal::Missing { what: "process" })?;
    let has_seccomp = spec.linux().as_ref().is_some_and(|linux| linux.seccomp().is_some());
    let check = Check { pid, init };
    check.privileges(process, has_seccomp, own)?;
    check.capabilities(process, own)?;
    check.identity(process)
}

/// `/proc/PID/status`.
#[derive(Debug)]
struct Status(String);

impl Status {
    fn read(pid: &str) -> Result<Self, RuntimeError> {
        let path = format!("/proc/{pid}/status");
        fs::read_to_string(&path).map(Self).map_err(RuntimeError::file("read", path))
    }

    /// The text after `field:`, with single spaces; empty when the kernel has no such field.
    fn field(&self, field: &str) -> String {
        let value = |line: &str| line.strip_prefix(field)?.strip_prefix(':').map(str::to_owned);
        let value = self.0.lines().find_map(value).unwrap_or_default();
        value.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn number(&self, field: &str) -> u64 {
        self.field(field).parse().unwrap_or(0)
    }

    fn hex(&self, field: &str) -> u64 {
        u64::from_str_radix(&self.field(field), 16).unwrap_or(0)
    }
}

struct Check<'a> {
    pid: Pid,
    init: &'a Status,
}

impl Check<'_> {
    fn equal(
        &self,
        field: &'static str,
        expected: String,
        found: String,
    ) -> Result<(), RuntimeError> {
        if expected == found {
            return Ok(());
        }
        Err(RuntimeError::Differs { pid: self.pid.as_raw(), field, expected, found })
    }

    fn privileges(
        &self,
        process: &Process,
        has_seccomp: bool,
        own: &Status,
    ) -> Result<(), RuntimeError> {
        if has_seccomp {
            self.equal("Seccomp", "2".to_owned(), self.init.field("Seccomp"))?;
            // This process may be filtered itself; the container has one filter more. Linux 5.9 counts them.
            let own_filters = own.field("Seccomp_filters");
            if !own_filters.is_empty() {
                let expected = (own.number("Seccomp_filters") + 1).to_string();
                self.equal("Seccomp_filters", expected, self.init.field("Seccomp_filters"))?;
            }
        }
        if process.no_new_privileges() == Some(true) {
            self.equal("NoNewPrivs", "1".to_owned(), self.init.field("NoNewPrivs"))?;
        }
        Ok(())
    }

    fn capabilities(&self, process: &Process, own: &Status) -> Result<(), RuntimeError> {
        let sets = CapabilitySets::of(process.capabilities().as_ref());
        // A node that itself lacks a capability cannot give it.
        let own_bounding = own.hex("CapBnd");
        let hex = |set: &CapsHashSet| format!("{:016x}", mask(set) & own_bounding);
        let fields = [
            ("CapBnd", &sets.bounding),
            ("CapEff", &sets.effective),
            ("CapPrm", &sets.permitted),
            ("CapInh", &sets.inheritable),
        ];
        for (field, set) in fields {
            self.equal(field, hex(set), self.init.field(field))?;
        }
        let ambient = &sets.ambient & &(&sets.inheritable & &sets.permitted);
        self.equal("CapAmb", hex(&ambient), self.init.field("CapAmb"))
    }

    fn identity(&self, process: &Process) -> Result<(), RuntimeError> {
        let user = process.user();
        let four = |id: u32| format!("{id} {id} {id} {id}");
        self.equal("Uid", four(user.uid()), self.init.field("Uid"))?;
        self.equal("Gid", four(user.gid()), self.init.field("Gid"))?;
        let Some(groups) = user.additional_gids().as_ref().filter(|groups| !groups.is_empty())
        else {
            return Ok(());
        };
        let text: Vec<String> = groups.iter().map(u32::to_string).collect();
        let text: Vec<&str> = text.iter().map(String::as_str).collect();
        self.equal("Groups", sorted(text), sorted(self.init.field("Groups").split(' ').collect()))
    }

    fn cgroup(&self, expected: &str, found: String) -> Result<(), RuntimeError> {
        let expected = expected.trim_matches('/');
        let inside = found.strip_suffix(expected).is_some_and(|above| above.ends_with('/'));
        if inside { Ok(()) } else { self.equal("cgroup", expected.to_owned(), found) }
    }
}

fn sorted(mut words: Vec<&str>) -> String {
    words.sort_unstable();
    words.dedup();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const INIT: &str = "Name:\tinit\nUid:\t7\t7\t7\t7\nGid:\t8\t8\t8\t8\nGroups:\t20 3 \n\
        CapInh:\t0000000000000000\nCapPrm:\t0000000000000001\nCapEff:\t0000000000000001\n\
        CapBnd:\t0000000000000021\nCapAmb:\t0000000000000000\n\
        NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t2\n";
    const OWN: &str = "CapBnd:\t000001ffffffffff\nSeccomp:\t2\nSeccomp_filters:\t1\n";

    fn spec() -> Spec {
        let value: Value = json!({
            "ociVersion": "1.0.2",
            "process": {
                "cwd": "/",
                "user": {"uid": 7, "gid": 8, "additionalGids": [3, 20]},
                "noNewPrivileges": true,
                "capabilities": {"bounding": ["CAP_CHOWN", "CAP_KILL"],
                                 "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]},
            },
            "linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}},
        });
        serde_json::from_value(value).expect("spec")
    }

    fn outcome(init: &str) -> Result<(), &'static str> {
        let (own, init) = (Status(OWN.to_owned()), Status(init.to_owned()));
        match compare(Pid::from_raw(9), &spec(), &own, &init) {
            Ok(()) => Ok(()),
            Err(RuntimeError::Differs { field, .. }) => Err(field),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn what_is_as_specified_passes() {
        assert_eq!(outcome(INIT), Ok(()));
    }

    #[test]
    fn every_difference_is_found() {
        for (from, to, field) in [
            ("Seccomp:\t2", "Seccomp:\t0", "Seccomp"),
            ("Seccomp_filters:\t2", "Seccomp_filters:\t1", "Seccomp_filters"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "NoNewPrivs"),
            ("CapBnd:\t0000000000000021", "CapBnd:\t0000000000000023", "CapBnd"),
            ("CapEff:\t0000000000000001", "CapEff:\t0000000000000000", "CapEff"),
            ("CapPrm:\t0000000000000001", "CapPrm:\t0000000000000021", "CapPrm"),
            ("CapInh:\t0000000000000000", "CapInh:\t0000000000000001", "CapInh"),
            ("CapAmb:\t0000000000000000", "CapAmb:\t0000000000000001", "CapAmb"),
            ("Uid:\t7\t7\t7\t7", "Uid:\t7\t7\t0\t7", "Uid"),
            ("Gid:\t8\t8\t8\t8", "Gid:\t0\t8\t8\t8", "Gid"),
            ("Groups:\t20 3", "Groups:\t20 3 0", "Groups"),
        ] {
            assert!(INIT.contains(from));
            assert_eq!(outcome(&INIT.replace(from, to)), Err(field));
        }
    }

    #[test]
    fn a_cgroup_is_compared_by_whole_names() {
        let init = Status(String::new());
        let check = Check { pid: Pid::from_raw(9), init: &init };
        let found = |path: &str| check.cgroup("/pod/c1", path.to_owned()).is_ok();
        assert!(found("/user.slice/pod/c1"));
        assert!(found("/pod/c1"));
        assert!(!found("/user.slice/apod/c1"));
        assert!(!found("/user.slice/pod/c1/inner"));
        assert!(!found("/none/c1"));
    }
}
