//! Capabilities by name, and what a request adds and drops.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use crate::InvalidField;

/// The names of `capabilities(7)` without `CAP_`, at the index of their number; up to Linux 5.9.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container gets without asking: the set that the field's runtimes agree on.
const DEFAULTS: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// One capability of `capabilities(7)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Capability(u8);

impl Capability {
    /// Reads a name with or without `CAP_`, in any case.
    ///
    /// # Errors
    /// When the kernel has no such capability.
    pub fn parse(field: &str, text: &str) -> Result<Self, InvalidField> {
        Self::from_name(text)
            .ok_or_else(|| InvalidField::new(field, text, "is no capability of capabilities(7)"))
    }

    fn from_name(text: &str) -> Option<Self> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        (0..).zip(NAMES).find(|(_, known)| *known == name).map(|(number, _)| Self(number))
    }

    /// Every capability.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..).zip(NAMES).map(|(number, _)| Self(number))
    }

    /// The kernel's number, 0 to 40.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Capability {
    /// As the OCI runtime specification spells it: `CAP_CHOWN`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CAP_{}", NAMES[usize::from(self.0)])
    }
}

impl TryFrom<String> for Capability {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::from_name(&text).ok_or_else(|| format!("{text:?} is no capability"))
    }
}

impl From<Capability> for String {
    fn from(capability: Capability) -> Self {
        capability.to_string()
    }
}

/// CRI `Capability`: what a container asks for beyond and below the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilityRequest {
    /// `ALL` stands in `add_capabilities`.
    pub add_all: bool,
    /// `ALL` stands in `drop_capabilities`.
    pub drop_all: bool,
    /// Single names in `add_capabilities`.
    pub add: BTreeSet<Capability>,
    /// Single names in `drop_capabilities`.
    pub drop: BTreeSet<Capability>,
    /// `add_ambient_capabilities`: in all five sets, kept across exec by a user that is not root.
    pub add_ambient: BTreeSet<Capability>,
}

impl CapabilityRequest {
    /// Reads the three lists of the CRI message.
    ///
    /// # Errors
    /// When a name is unknown, or `ALL` is asked for as ambient.
    pub fn parse(
        add: &[String],
        drop: &[String],
        ambient: &[String],
    ) -> Result<Self, InvalidField> {
        let (add_all, add) = parse_list("capabilities.add_capabilities", add)?;
        let (drop_all, drop) = parse_list("capabilities.drop_capabilities", drop)?;
        let field = "capabilities.add_ambient_capabilities";
        let (ambient_all, add_ambient) = parse_list(field, ambient)?;
        if ambient_all {
            return Err(InvalidField::new(field, "ALL", "name the capabilities one by one"));
        }
        Ok(Self { add_all, drop_all, add, drop, add_ambient })
    }

    /// The permitted, effective and bounding set: defaults, then `ALL` added, `ALL` dropped, single names added
    /// (ambient ones too), single names dropped.
    #[must_use]
    pub fn effective(&self) -> BTreeSet<Capability> {
        let mut set: BTreeSet<Capability> = match (self.add_all, self.drop_all) {
            (_, true) => BTreeSet::new(),
            (true, false) => Capability::all().collect(),
            (false, false) => {
                DEFAULTS.iter().filter_map(|name| Capability::from_name(name)).collect()
            }
        };
        set.extend(&self.add);
        set.extend(&self.add_ambient);
        set.retain(|capability| !self.drop.contains(capability));
        set
    }

    /// The ambient set; never more than [`effective`](Self::effective).
    #[must_use]
    pub fn ambient(&self) -> BTreeSet<Capability> {
        &self.add_ambient - &self.drop
    }
}

fn parse_list(field: &str, names: &[String]) -> Result<(bool, BTreeSet<Capability>), InvalidField> {
    let (all, single): (Vec<_>, Vec<_>) =
        names.iter().partition(|name| name.eq_ignore_ascii_case("ALL"));
    let parsed = single.into_iter().map(|name| Capability::parse(field, name));
    Ok((!all.is_empty(), parsed.collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &[&str], drop: &[&str], ambient: &[&str]) -> Vec<String> {
        let owned = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        let request = CapabilityRequest::parse(&owned(add), &owned(drop), &owned(ambient));
        request.expect("known names").effective().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn numbers_are_the_kernels() {
        let number = |name| Capability::parse("f", name).expect("known").number();
        assert_eq!((number("CHOWN"), number("cap_sys_admin"), number("BPF")), (0, 21, 39));
    }

    #[test]
    fn the_defaults_are_fourteen() {
        assert_eq!(set(&[], &[], &[]).len(), 14);
    }

    #[test]
    fn all_and_single_names_combine() {
        assert_eq!(set(&["ALL"], &[], &[]).len(), 41);
        assert_eq!(set(&[], &["all"], &[]).len(), 0);
        assert_eq!(set(&["NET_ADMIN"], &["ALL"], &[]), ["CAP_NET_ADMIN"]);
        assert_eq!(set(&["ALL"], &["cap_net_raw"], &[]).len(), 40);
        assert_eq!(set(&[], &["ALL"], &["CAP_NET_BIND_SERVICE"]), ["CAP_NET_BIND_SERVICE"]);
    }

    #[test]
    fn unknown_names_are_refused() {
        for bad in ["", "CAP_", "CAP_NOPE", "SYS ADMIN", "CAP_CAP_CHOWN"] {
            Capability::parse("capabilities.add_capabilities", bad).expect_err(bad);
        }
        let all = ["ALL".to_owned()];
        CapabilityRequest::parse(&[], &[], &all).expect_err("all ambient");
    }
}
