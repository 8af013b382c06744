//! Compiling seccomp profiles.
//!
//! libcontainer compiles a container's profile itself when it creates the container. Programs that are started in it
//! later get the same filter from the program that is compiled here, once.

use std::{
    fs::File,
    io::{Read, Seek},
};

use libcontainer::seccomp::SeccompError as LibcontainerSeccompError;
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};

use crate::error::{Refusal, RuntimeError};

/// Without its feature `libseccomp` libcontainer runs a container that has a profile unconfined and only warns. The
/// module exists with the feature only, so that such a build does not compile.
const _: fn(&LinuxSeccomp) -> Result<Option<i32>, LibcontainerSeccompError> =
    libcontainer::seccomp::initialize_seccomp;

/// Compiles `profile` to an array of `struct sock_filter` for [`sys::process::load_seccomp`].
///
/// System calls that this libseccomp does not know are skipped, as runc and libcontainer do. Filter flags do not
/// become part of the program.
///
/// # Errors
/// [`RuntimeError::Refused`] for `SCMP_ACT_NOTIFY`, [`RuntimeError::Seccomp`] for what libseccomp refuses.
pub fn compile(profile: &LinuxSeccomp) -> Result<Vec<u8>, RuntimeError> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut filter = ScmpFilterContext::new(default).map_err(refused("defaultAction"))?;
    for flag in profile.flags().iter().flatten() {
        if *flag == LinuxSeccompFilterFlag::SeccompFilterFlagLog {
            filter.set_ctl_log(true).map_err(refused("flags"))?;
        }
    }
    for arch in profile.architectures().iter().flatten() {
        filter.add_arch(architecture(*arch)).map_err(refused(arch))?;
    }
    for rule in profile.syscalls().iter().flatten() {
        add_rule(&mut filter, rule, default)?;
    }
    export(&filter)
}

fn add_rule(
    filter: &mut ScmpFilterContext,
    rule: &LinuxSyscall,
    default: ScmpAction,
) -> Result<(), RuntimeError> {
    let action = action(rule.action(), rule.errno_ret())?;
    // libseccomp refuses a rule that changes nothing.
    if action == default {
        return Ok(());
    }
    let comparisons: Vec<_> = rule.args().iter().flatten().map(comparison).collect();
    let known = |name: &String| Some((name.clone(), ScmpSyscall::from_name(name).ok()?));
    for (name, syscall) in rule.names().iter().filter_map(known) {
        for alternative in alternatives(rule.args().as_deref().unwrap_or_default(), &comparisons) {
            let added = filter.add_rule_conditional(action, syscall, alternative);
            added.map_err(refused(&name))?;
        }
    }
    Ok(())
}

/// One rule with all comparisons, or one rule for each when an argument is compared twice: libseccomp allows one
/// comparison per argument and rule, and runc reads such profiles this way.
fn alternatives<'a>(
    args: &[LinuxSeccompArg],
    comparisons: &'a [ScmpArgCompare],
) -> Vec<&'a [ScmpArgCompare]> {
    let repeated = |(at, arg): (usize, &LinuxSeccompArg)| {
        args.iter().take(at).any(|earlier| earlier.index() == arg.index())
    };
    if args.iter().enumerate().any(repeated) {
        comparisons.iter().map(std::slice::from_ref).collect()
    } else {
        vec![comparisons]
    }
}

fn export(filter: &ScmpFilterContext) -> Result<Vec<u8>, RuntimeError> {
    let memory = memfd_create("seccomp", MFdFlags::MFD_CLOEXEC)
        .map_err(RuntimeError::system("memfd_create"))?;
    filter.export_bpf(&memory).map_err(refused("export"))?;
    let mut file = File::from(memory);
    let mut program = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut program))
        .map_err(RuntimeError::file("read", "memfd:seccomp"))?;
    Ok(program)
}

fn refused(
    rule: impl std::fmt::Debug,
) -> impl FnOnce(libseccomp::error::SeccompError) -> RuntimeError {
    let rule = format!("{rule:?}");
    move |source| RuntimeError::Seccomp { rule, source }
}

fn comparison(arg: &LinuxSeccompArg) -> ScmpArgCompare {
    use LinuxSeccompOperator as Op;
    let op = match arg.op() {
        Op::ScmpCmpNe => ScmpCompareOp::NotEqual,
        Op::ScmpCmpLt => ScmpCompareOp::Less,
        Op::ScmpCmpLe => ScmpCompareOp::LessOrEqual,
        Op::ScmpCmpEq => ScmpCompareOp::Equal,
        Op::ScmpCmpGe => ScmpCompareOp::GreaterEqual,
        Op::ScmpCmpGt => ScmpCompareOp::Greater,
        // OCI: `value` is the mask, `valueTwo` what must remain under it.
        Op::ScmpCmpMaskedEq => ScmpCompareOp::MaskedEqual(arg.value()),
    };
    let datum = match arg.op() {
        Op::ScmpCmpMaskedEq => arg.value_two().unwrap_or(0),
        _ => arg.value(),
    };
    ScmpArgCompare::new(u32::try_from(arg.index()).unwrap_or(u32::MAX), op, datum)
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, Refusal> {
    use LinuxSeccompAction as A;
    const EPERM: u32 = 1;
    let errno = errno.unwrap_or(EPERM);
    let bad_errno = Refusal::Unsupported { what: "seccomp errnoRet", reason: "out of range" };
    Ok(match action {
        A::ScmpActKill | A::ScmpActKillThread => ScmpAction::KillThread,
        A::ScmpActKillProcess => ScmpAction::KillProcess,
        A::ScmpActTrap => ScmpAction::Trap,
        A::ScmpActErrno => ScmpAction::Errno(i32::try_from(errno).or(Err(bad_errno))?),
        A::ScmpActTrace => ScmpAction::Trace(u16::try_from(errno).or(Err(bad_errno))?),
        A::ScmpActLog => ScmpAction::Log,
        A::ScmpActAllow => ScmpAction::Allow,
        A::ScmpActNotify => {
            let reason = "nobody listens to notifications";
            return Err(Refusal::Unsupported { what: "SCMP_ACT_NOTIFY", reason });
        }
    })
}

fn architecture(arch: Arch) -> ScmpArch {
    match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        Arch::ScmpArchM68k => ScmpArch::M68k,
        Arch::ScmpArchSh => ScmpArch::Sh,
        Arch::ScmpArchSheb => ScmpArch::Sheb,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn compiled(profile: serde_json::Value) -> Result<Vec<u8>, RuntimeError> {
        compile(&serde_json::from_value(profile).expect("profile"))
    }

    #[test]
    fn a_profile_becomes_whole_instructions() {
        let profile = |names: serde_json::Value| {
            json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_NATIVE"],
                   "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]})
        };
        let one = compiled(profile(json!(["read"]))).expect("compiled");
        let two = compiled(profile(json!(["read", "write", "no_such_call"]))).expect("compiled");
        assert!(!one.is_empty() && one.len().is_multiple_of(8));
        assert!(two.len() > one.len());
    }

    #[test]
    fn notifications_and_bad_errnos_are_refused() {
        let default = |action: &str, errno: u32| {
            compiled(json!({"defaultAction": action, "defaultErrnoRet": errno}))
        };
        assert!(matches!(default("SCMP_ACT_NOTIFY", 1), Err(RuntimeError::Refused(_))));
        assert!(matches!(default("SCMP_ACT_TRACE", 70_000), Err(RuntimeError::Refused(_))));
        default("SCMP_ACT_ERRNO", 38).expect("compiled");
    }

    #[test]
    fn an_argument_that_is_compared_twice_makes_two_rules() {
        let args: Vec<LinuxSeccompArg> = serde_json::from_value(json!([
            {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
            {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"},
            {"index": 0, "value": 3, "op": "SCMP_CMP_EQ"},
        ]))
        .expect("args");
        let comparisons: Vec<_> = args.iter().map(comparison).collect();
        assert_eq!(alternatives(&args, &comparisons).len(), 3);
        assert_eq!(alternatives(&args[..2], &comparisons[..2]).len(), 1);
        assert_eq!(alternatives(&[], &[]).len(), 1);
    }
}
