//! What libcontainer may be asked for.

use std::path::Path;

use oci_spec::runtime::{
    LinuxNamespaceType, LinuxSeccomp, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, Mount, PosixRlimit, PosixRlimitBuilder, Process, Spec,
};

use crate::{
    error::{Refusal, RuntimeError},
    limits,
};

/// Refuses what libcontainer does wrongly or unsafely.
pub(super) fn check(spec: &Spec) -> Result<(), Refusal> {
    let process = spec.process().as_ref().ok_or(Refusal::Missing { what: "process" })?;
    check_process(process)?;
    let linux = spec.linux().as_ref().ok_or(Refusal::Missing { what: "linux" })?;
    let namespaces = || linux.namespaces().iter().flatten();
    // Without it libcontainer would mount in the caller's namespace and chroot.
    if !namespaces().any(|namespace| namespace.typ() == LinuxNamespaceType::Mount) {
        return Err(Refusal::Missing { what: "linux.namespaces mount" });
    }
    if namespaces().any(|namespace| namespace.typ() == LinuxNamespaceType::User) {
        let reason = "the node is a user namespace already";
        return Err(Refusal::Unsupported { what: "linux.namespaces user", reason });
    }
    if linux.resources().is_some() {
        // They would go to a cgroup that is not the container's.
        let reason = "limits are set before the container is created";
        return Err(Refusal::Unsupported { what: "linux.resources", reason });
    }
    // libcontainer makes devices and links in /dev whatever it is: it must be the container's own.
    let own_dev = |mount: &Mount| {
        mount.destination() == Path::new("/dev") && mount.typ().as_deref() == Some("tmpfs")
    };
    if spec.mounts().iter().flatten().any(own_dev) {
        Ok(())
    } else {
        Err(Refusal::Missing { what: "mounts tmpfs at /dev" })
    }
}

fn check_process(process: &Process) -> Result<(), Refusal> {
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(Refusal::Missing { what: "process.args" });
    }
    // libcontainer asks the C library for a missing or empty one after it has entered the root: glibc then believes
    // the image's nsswitch.conf and loads libraries from the image.
    let home = |entry: &String| entry.strip_prefix("HOME=").is_some_and(|home| !home.is_empty());
    if !process.env().iter().flatten().any(home) {
        return Err(Refusal::Missing { what: "process.env HOME" });
    }
    // libcontainer would load a seccomp filter after it has given up the right to.
    if process.no_new_privileges() == Some(false) {
        let reason = "leave it out instead of setting it to false";
        return Err(Refusal::Unsupported { what: "process.noNewPrivileges", reason });
    }
    if process.terminal() == Some(true) {
        let reason = "there is no console";
        return Err(Refusal::Unsupported { what: "process.terminal", reason });
    }
    Ok(())
}

/// The profile that programs of the container run under.
pub(super) fn seccomp(spec: &Spec) -> Option<&LinuxSeccomp> {
    spec.linux().as_ref()?.seccomp().as_ref()
}

/// Whether `mount` shows something of the node rather than a file system of its own.
pub(super) fn is_bind(mount: &Mount) -> bool {
    let bind = |option: &String| option == "bind" || option == "rbind";
    mount.typ().as_deref() == Some("bind") || mount.options().iter().flatten().any(bind)
}

/// Fits a specification to what this process may grant and to how libcontainer reads it.
pub(super) fn fit(mut spec: Spec, rootfs: &Path) -> Result<Spec, RuntimeError> {
    if let Some(root) = spec.root_mut() {
        root.set_path(rootfs.to_path_buf());
    }
    if let Some(process) = spec.process_mut() {
        fit_process(process)?;
    }
    if let Some(seccomp) = spec.linux_mut().as_mut().and_then(|linux| linux.seccomp_mut().as_mut())
    {
        swap_masks(seccomp)?;
    }
    Ok(spec)
}

fn fit_process(process: &mut Process) -> Result<(), RuntimeError> {
    if let Some(rlimits) = process.rlimits() {
        let fitted = rlimits.iter().map(fit_rlimit).collect::<Result<Vec<_>, _>>()?;
        process.set_rlimits(Some(fitted));
    }
    if let Some(score) = process.oom_score_adj() {
        process.set_oom_score_adj(Some(limits::clamp_oom_score_adj(score)));
    }
    Ok(())
}

fn fit_rlimit(limit: &PosixRlimit) -> Result<PosixRlimit, RuntimeError> {
    let (soft, hard) = limits::clamp(limit).map_err(RuntimeError::system("getrlimit"))?;
    PosixRlimitBuilder::default()
        .typ(limit.typ())
        .soft(soft)
        .hard(hard)
        .build()
        .map_err(RuntimeError::Fit)
}

/// libcontainer takes `valueTwo` for the mask of `SCMP_CMP_MASKED_EQ` and `value` for what must remain under it; in a
/// profile it is the other way round.
fn swap_masks(seccomp: &mut LinuxSeccomp) -> Result<(), RuntimeError> {
    let Some(mut syscalls) = seccomp.syscalls().clone() else { return Ok(()) };
    for syscall in &mut syscalls {
        if let Some(args) = syscall.args() {
            let swapped = args.iter().map(swap_mask).collect::<Result<Vec<_>, _>>()?;
            syscall.set_args(Some(swapped));
        }
    }
    seccomp.set_syscalls(Some(syscalls));
    Ok(())
}

fn swap_mask(arg: &LinuxSeccompArg) -> Result<LinuxSeccompArg, RuntimeError> {
    if arg.op() != LinuxSeccompOperator::ScmpCmpMaskedEq {
        return Ok(*arg);
    }
    LinuxSeccompArgBuilder::default()
        .index(arg.index())
        .op(arg.op())
        .value(arg.value_two().unwrap_or(0))
        .value_two(arg.value())
        .build()
        .map_err(RuntimeError::Fit)
}

#[cfg(test)]
mod tests;
