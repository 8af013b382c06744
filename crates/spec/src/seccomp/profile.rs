//! Profiles from files: the OCI runtime specification's `seccomp` object and the extensions that Docker's profiles use.
//!
//! A filter is security policy, so nothing is guessed: a key, action, operator or condition that is not understood makes
//! the profile invalid, and never weaker.

use std::collections::BTreeSet;

use model::{Capability, InvalidField};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};
use serde::Deserialize;

use super::argument;

/// `MAX_ERRNO` of the kernel; a filter cannot return more.
const HIGHEST_ERRNO: u32 = 4095;
/// A system call has six arguments.
const HIGHEST_ARGUMENT: usize = 5;
/// Errnos by name, as far as published profiles use names.
const ERRNOS: [(&str, u32); 8] = [
    ("EPERM", 1),
    ("ENOENT", 2),
    ("EACCES", 13),
    ("EEXIST", 17),
    ("EINVAL", 22),
    ("ENOSYS", 38),
    ("EOPNOTSUPP", 95),
    ("EAFNOSUPPORT", 97),
];

/// What the conditions of rules refer to.
#[derive(Clone, Copy, Debug)]
pub struct Conditions<'a> {
    /// The container's bounding set.
    pub capabilities: &'a BTreeSet<Capability>,
    /// Running kernel, as 6 and 18 of `6.18.3`.
    pub kernel: (u32, u32),
}

/// Reads a profile and drops the rules whose conditions are not met.
///
/// # Errors
/// [`InvalidField`] for `field` when the text is no profile or asks for what is not offered: a listener
/// (`SCMP_ACT_NOTIFY`, `listenerPath`).
pub fn parse_profile(
    field: &str,
    json: &str,
    conditions: &Conditions<'_>,
) -> Result<LinuxSeccomp, InvalidField> {
    let refuse = |reason: String| InvalidField::new(field, json.trim(), reason);
    let profile: Profile = serde_json::from_str(json)
        .map_err(|error| refuse(format!("is no seccomp profile: {error}")))?;
    profile.into_filter(conditions).map_err(|reason| refuse(format!("seccomp profile: {reason}")))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    default_errno: Option<String>,
    #[serde(default)]
    architectures: Option<Vec<Arch>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMapping>>,
    #[serde(default)]
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ArchMapping {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    names: Option<Vec<String>>,
    name: Option<String>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    errno: Option<String>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default, rename = "comment")]
    _comment: Option<String>,
    #[serde(default)]
    includes: Option<Filter>,
    #[serde(default)]
    excludes: Option<Filter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Argument {
    index: usize,
    value: u64,
    value_two: Option<u64>,
    op: LinuxSeccompOperator,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Filter {
    #[serde(default)]
    caps: Option<Vec<String>>,
    /// As Go calls them: `amd64`.
    #[serde(default)]
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

impl Profile {
    fn into_filter(self, conditions: &Conditions<'_>) -> Result<LinuxSeccomp, String> {
        if self.listener_path.is_some() || self.listener_metadata.is_some() {
            return Err("listenerPath: no listener is supported".to_owned());
        }
        let default_errno =
            errno(self.default_action, self.default_errno_ret, self.default_errno.as_deref())?;
        let mut rules = Vec::new();
        for rule in self.syscalls.unwrap_or_default() {
            rules.extend(rule.into_syscall(conditions)?);
        }
        let mut filter = LinuxSeccomp::default();
        filter
            .set_default_action(self.default_action)
            .set_default_errno_ret(default_errno)
            .set_architectures(architectures(self.architectures, self.arch_map)?)
            .set_flags(self.flags)
            .set_syscalls(Some(rules));
        Ok(filter)
    }
}

/// Without architectures, only the machine's own calls are let in.
fn architectures(
    listed: Option<Vec<Arch>>,
    map: Option<Vec<ArchMapping>>,
) -> Result<Option<Vec<Arch>>, String> {
    let (listed, map) = (listed.unwrap_or_default(), map.unwrap_or_default());
    if !listed.is_empty() && !map.is_empty() {
        return Err("architectures and archMap exclude each other".to_owned());
    }
    if !listed.is_empty() {
        return Ok(Some(listed));
    }
    let own = map.into_iter().find(|entry| Some(entry.architecture) == native().map(|(a, _)| a));
    Ok(own.map(|entry| {
        [entry.architecture]
            .into_iter()
            .chain(entry.sub_architectures.unwrap_or_default())
            .collect()
    }))
}

/// This machine's architecture, as libseccomp and as Go call it.
fn native() -> Option<(Arch, &'static str)> {
    match std::env::consts::ARCH {
        "x86_64" => Some((Arch::ScmpArchX86_64, "amd64")),
        "aarch64" => Some((Arch::ScmpArchAarch64, "arm64")),
        _ => None,
    }
}

impl Rule {
    /// `None` when its conditions are not met.
    fn into_syscall(self, conditions: &Conditions<'_>) -> Result<Option<LinuxSyscall>, String> {
        let names = self.names()?;
        let errno = errno(self.action, self.errno_ret, self.errno.as_deref())?;
        let args: Vec<LinuxSeccompArg> = self
            .args
            .unwrap_or_default()
            .iter()
            .map(Argument::checked)
            .collect::<Result<_, _>>()?;
        let included = match &self.includes {
            Some(filter) => filter.all_hold(conditions)?,
            None => true,
        };
        let excluded = match &self.excludes {
            Some(filter) => filter.any_holds(conditions)?,
            None => false,
        };
        if !included || excluded {
            return Ok(None);
        }
        let mut syscall = LinuxSyscall::default();
        syscall
            .set_names(names)
            .set_action(self.action)
            .set_errno_ret(errno)
            .set_args(Some(args).filter(|args| !args.is_empty()));
        Ok(Some(syscall))
    }

    fn names(&self) -> Result<Vec<String>, String> {
        let names = match (&self.name, self.names.as_deref().unwrap_or_default()) {
            (Some(name), []) => vec![name.clone()],
            (None, names @ [_, ..]) => names.to_vec(),
            (Some(_), [_, ..]) => return Err("name and names exclude each other".to_owned()),
            (None, []) => return Err("a rule names no system call".to_owned()),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        match names.iter().find(|name| name.is_empty() || !name.chars().all(plain)) {
            Some(bad) => Err(format!("{bad:?} is no name of a system call")),
            None => Ok(names),
        }
    }
}

impl Argument {
    fn checked(&self) -> Result<LinuxSeccompArg, String> {
        if self.index > HIGHEST_ARGUMENT {
            return Err(format!("argument index {} is outside 0 to 5", self.index));
        }
        Ok(argument(self.index, self.op, self.value, self.value_two))
    }
}

impl Filter {
    /// For `includes`.
    fn all_hold(&self, conditions: &Conditions<'_>) -> Result<bool, String> {
        Ok(self.capabilities(conditions)?.into_iter().all(|held| held)
            && self.here().is_none_or(|here| here)
            && self.kernel_is_new_enough(conditions)?.is_none_or(|new_enough| new_enough))
    }

    /// For `excludes`.
    fn any_holds(&self, conditions: &Conditions<'_>) -> Result<bool, String> {
        Ok(self.capabilities(conditions)?.into_iter().any(|held| held)
            || self.here().is_some_and(|here| here)
            || self.kernel_is_new_enough(conditions)?.is_some_and(|new_enough| new_enough))
    }

    /// For each capability that is named, whether the container has it.
    fn capabilities(&self, conditions: &Conditions<'_>) -> Result<Vec<bool>, String> {
        let names = self.caps.iter().flatten();
        let held = names.map(|name| {
            let capability = Capability::parse("caps", name).map_err(|error| error.to_string())?;
            Ok(conditions.capabilities.contains(&capability))
        });
        held.collect()
    }

    /// Whether this machine is among the architectures, if there are any.
    fn here(&self) -> Option<bool> {
        let arches = self.arches.as_ref().filter(|arches| !arches.is_empty())?;
        let own = native().map(|(_, go_name)| go_name);
        Some(arches.iter().any(|arch| Some(arch.as_str()) == own))
    }

    fn kernel_is_new_enough(&self, conditions: &Conditions<'_>) -> Result<Option<bool>, String> {
        let Some(text) = &self.min_kernel else {
            return Ok(None);
        };
        let version = text
            .split_once('.')
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        let version: (u32, u32) =
            version.ok_or_else(|| format!("minKernel {text:?} is no version such as 4.8"))?;
        Ok(Some(conditions.kernel >= version))
    }
}

/// The errno of an action, or a refusal of both.
fn errno(
    action: LinuxSeccompAction,
    number: Option<u32>,
    name: Option<&str>,
) -> Result<Option<u32>, String> {
    use LinuxSeccompAction as A;
    let named = match name.filter(|name| !name.is_empty()) {
        None => None,
        Some(name) => {
            let known = ERRNOS.iter().find(|(known, _)| *known == name).map(|(_, errno)| *errno);
            Some(
                known
                    .or(number)
                    .ok_or_else(|| format!("errno {name:?} is not known; give errnoRet"))?,
            )
        }
    };
    let errno = match (number, named) {
        (Some(number), Some(named)) if number != named => {
            return Err(format!("errno {name:?} and errnoRet {number} differ"));
        }
        (number, named) => number.or(named),
    };
    match (action, errno) {
        (A::ScmpActNotify, _) => Err("SCMP_ACT_NOTIFY: no listener is supported".to_owned()),
        (_, Some(errno)) if errno > HIGHEST_ERRNO => Err(format!("errno {errno} is above 4095")),
        (A::ScmpActErrno | A::ScmpActTrace, errno) => Ok(errno),
        (_, Some(_)) => Err(format!("{action} returns no errno")),
        (_, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests;
