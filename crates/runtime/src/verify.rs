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
    let process = spec.process().as_ref().ok_or(Refusal::Missing { what: "process" })?;
    let has_seccomp = spec.linux().as_ref().is_some_and(|linux| linux.seccomp().is_some());
    let check = Check { pid, init: &init };
    check.privileges(process, has_seccomp, &own)?;
    check.capabilities(process, &own)?;
    check.identity(process)?;
    match expected_cgroup {
        Some(expected) => check.cgroup(expected),
        None => Ok(()),
    }
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

    fn cgroup(&self, expected: &str) -> Result<(), RuntimeError> {
        let expected = expected.trim_matches('/');
        let found = sys::cgroup::path_of(&self.pid.to_string()).unwrap_or_default();
        let inside = found.strip_suffix(expected).is_some_and(|above| above.ends_with('/'));
        if inside { Ok(()) } else { self.equal("cgroup", expected.to_owned(), found) }
    }
}

fn sorted(mut words: Vec<&str>) -> String {
    words.sort_unstable();
    words.dedup();
    words.join(" ")
}
