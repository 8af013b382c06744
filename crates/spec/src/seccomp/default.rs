//! The filter of `RuntimeDefault`: what programs need, by topic, and why the rest is missing.
//!
//! A call that is not listed fails with `ENOSYS`, as if the kernel lacked it, and libc or the program falls back to an
//! older one. `EPERM` would be taken for an answer: with a libseccomp that is older than the libc of an image, every new
//! call would then break what it was to replace. Calls that programs expect to be refused fail with `EPERM`.
//!
//! Missing on purpose:
//! - `clone3`: its flags are in memory, out of a filter's sight; `ENOSYS` makes libc use `clone`.
//! - `io_uring_*`, `userfaultfd`: a long row of kernel holes; users of both fall back.
//! - `add_key`, `keyctl`, `request_key`: keyrings belong to no namespace but the user's.
//! - `modify_ldt`, `vm86`, `vm86old`: for 16-bit programs only.
//! - `lookup_dcookie`, `nfsservctl`, `query_module`, `sysfs`, `_sysctl`, `uselib`, `ustat`: obsolete.

mod calls;

use std::collections::BTreeSet;

use model::Capability;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};

use super::argument;
use calls::{ALLOWED, GATED, REFUSED};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const EAFNOSUPPORT: u32 = 97;

/// Ordinary Linux, 32-bit Linux, either with a version number that begins with 2.6, and the question which it is.
/// Others bring back bugs of old systems or switch address space randomization off.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The lowest flag of `clone(2)` that makes a namespace, apart from `CLONE_NEWNS`. Threads and processes use lower ones
/// only. A comparison instead of a mask, which not all compilers of filters read alike; what it lets through,
/// `CLONE_NEWNS` alone, needs `CAP_SYS_ADMIN`.
const CLONE_NEWCGROUP: u64 = 0x0200_0000;

/// Address families that can be had: Unix, IPv4, IPv6, netlink, and packet, which needs `CAP_NET_RAW`. Each of the
/// others is a kernel module that a mere `socket(2)` would load, such as `AF_ALG` and `AF_VSOCK`.
const FAMILIES: [u64; 5] = [AF_UNIX, 2, 10, 16, AF_PACKET];
/// The highest of them.
const AF_PACKET: u64 = 17;
/// IPsec's key management.
const AF_KEY: u64 = 15;
const AF_UNIX: u64 = 1;

/// The filter for a container with the capabilities `effective`.
///
/// The x32 architecture is left out: few kernels have it, and it would open a second way to each call. Calls of an
/// architecture that is not listed kill the caller.
#[must_use]
pub fn runtime_default(effective: &BTreeSet<Capability>) -> LinuxSeccomp {
    let has = |short: &str| {
        effective.iter().any(|held| held.to_string().strip_prefix("CAP_") == Some(short))
    };
    let mut rules: Vec<LinuxSyscall> = sockets(has("NET_ADMIN"));
    rules.extend(ALLOWED.map(|names| allow(names, None)));
    rules.extend(GATED.map(|(capabilities, names)| {
        match capabilities.iter().any(|capability| has(capability)) {
            true => allow(names, None),
            false => refuse(names, None),
        }
    }));
    rules.push(refuse(REFUSED, None));
    rules.extend(clones(has("SYS_ADMIN")));
    rules.extend(PERSONALITIES.map(|value| allow("personality", Some(equal(value)))));
    let mut filter = LinuxSeccomp::default();
    filter
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(ENOSYS))
        .set_architectures(Some(architectures()))
        .set_syscalls(Some(rules));
    filter
}

/// `socketcall`, which 32-bit x86 has beside `socket`, hides its arguments in memory. libseccomp allows it along with
/// each rule for a call that it can stand for, unless an earlier rule refuses it; so it comes first, and with an errno
/// that differs from the default, because rules like the default are dropped.
fn sockets(net_admin: bool) -> Vec<LinuxSyscall> {
    let families = FAMILIES.into_iter().chain(net_admin.then_some(AF_KEY));
    let mut rules = vec![refuse("socketcall", None)];
    rules.extend(families.map(|family| allow("socket", Some(equal(family)))));
    let higher = argument(0, LinuxSeccompOperator::ScmpCmpGt, AF_PACKET, None);
    let (action, errno) = (LinuxSeccompAction::ScmpActErrno, Some(EAFNOSUPPORT));
    rules.push(rule("socket", action, errno, Some(higher)));
    rules.push(allow("socketpair", Some(equal(AF_UNIX))));
    rules
}

fn clones(sys_admin: bool) -> Vec<LinuxSyscall> {
    use LinuxSeccompOperator::{ScmpCmpGe, ScmpCmpLt};
    if sys_admin {
        return vec![allow("clone clone3", None)];
    }
    let flags = |op| Some(argument(0, op, CLONE_NEWCGROUP, None));
    vec![allow("clone", flags(ScmpCmpLt)), refuse("clone", flags(ScmpCmpGe))]
}

fn equal(value: u64) -> LinuxSeccompArg {
    argument(0, LinuxSeccompOperator::ScmpCmpEq, value, None)
}

fn allow(names: &str, condition: Option<LinuxSeccompArg>) -> LinuxSyscall {
    rule(names, LinuxSeccompAction::ScmpActAllow, None, condition)
}

fn refuse(names: &str, condition: Option<LinuxSeccompArg>) -> LinuxSyscall {
    rule(names, LinuxSeccompAction::ScmpActErrno, Some(EPERM), condition)
}

/// A rule for the calls in `names`, which white space separates.
fn rule(
    names: &str,
    action: LinuxSeccompAction,
    errno: Option<u32>,
    condition: Option<LinuxSeccompArg>,
) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.split_whitespace().map(str::to_owned).collect())
        .set_action(action)
        .set_errno_ret(errno)
        .set_args(condition.map(|argument| vec![argument]));
    rule
}

/// The machine's own and its 32-bit predecessor's.
fn architectures() -> Vec<Arch> {
    match std::env::consts::ARCH {
        "x86_64" => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86],
        "aarch64" => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        _ => vec![Arch::ScmpArchNative],
    }
}

#[cfg(test)]
mod tests;
