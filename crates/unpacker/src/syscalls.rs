//! The system calls that unpacking needs.

use std::collections::BTreeMap;

use nix::libc;
use nix::unistd::Pid;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Is, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};
use sys::beneath::SYS_FCHMODAT2;

/// Files below descriptors, memory, time, and the end.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fchmod,
    // Before Linux 6.6, instead of fchmodat2.
    libc::SYS_fchmodat,
    SYS_FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fsetxattr,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mkdirat,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    // Lists a directory that is replaced.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_read,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// What a descriptor may be asked: to be duplicated, and for its flags.
const FCNTL: [libc::c_int; 4] =
    [libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL];

/// Restricts this process to [`ALLOWED`] and [`restricted`].
///
/// Anything else fails with `EPERM`, rather than ending the process: an attack gets nothing by
/// either, and a C library that tries something newer first goes on with the older way, where
/// death would make layers fail after an update of it.
pub(crate) fn restrict() -> Result<(), seccompiler::Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    seccompiler::apply_filter(&program(arch, Pid::this())?)
}

/// The filter for the process `own`.
fn program(arch: TargetArch, own: Pid) -> Result<BpfProgram, seccompiler::Error> {
    let mut rules: BTreeMap<_, _> = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    rules.extend(restricted(own)?);
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, arch)?;
    Ok(BpfProgram::try_from(filter)?)
}

/// Calls that unpacking needs in some forms only, each of them with one of its rules.
fn restricted(
    own: Pid,
) -> Result<Vec<(libc::c_long, Vec<SeccompRule>)>, seccompiler::BackendError> {
    let number = |value: libc::c_int| u64::from(value.unsigned_abs());
    let kind = |mode| argument(2, Width::Dword, Is::MaskedEq(libc::S_IFMT.into()), u64::from(mode));
    // No memory that can be executed, but what the program brings.
    let executable = number(libc::PROT_EXEC);
    let data = || argument(2, Width::Qword, Is::MaskedEq(executable), 0);
    let commands = FCNTL.map(|command| all([argument(1, Width::Dword, Is::Eq, number(command))]));
    Ok(vec![
        (libc::SYS_fcntl, commands.into_iter().collect::<Result<_, _>>()?),
        (
            libc::SYS_mknodat,
            vec![
                all([kind(libc::S_IFIFO)])?,
                // A whiteout.
                all([kind(libc::S_IFCHR), argument(3, Width::Dword, Is::Eq, 0)])?,
            ],
        ),
        (libc::SYS_mmap, vec![all([data()])?]),
        (libc::SYS_mprotect, vec![all([data()])?]),
        // How a process aborts.
        (libc::SYS_tgkill, vec![all([argument(0, Width::Dword, Is::Eq, number(own.as_raw()))])?]),
    ])
}

type Condition = Result<SeccompCondition, seccompiler::BackendError>;

fn argument(index: u8, width: Width, is: Is, value: u64) -> Condition {
    SeccompCondition::new(index, width, is, value)
}

/// The rule that all of `conditions` hold.
fn all<const N: usize>(
    conditions: [Condition; N],
) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_filter_for_both_architectures() {
        for arch in [TargetArch::x86_64, TargetArch::aarch64] {
            let length = program(arch, Pid::this()).unwrap().len();
            // The kernel's limit.
            assert!((100..4096).contains(&length), "{length}");
        }
    }

    #[test]
    fn nothing_that_leads_out_is_allowed() {
        let restricted = restricted(Pid::this()).unwrap();
        for call in [
            libc::SYS_bpf,
            libc::SYS_chroot,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_connect,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_fsopen,
            libc::SYS_io_uring_setup,
            libc::SYS_ioctl,
            libc::SYS_keyctl,
            libc::SYS_kill,
            libc::SYS_mount,
            libc::SYS_move_mount,
            libc::SYS_open_by_handle_at,
            libc::SYS_open_tree,
            libc::SYS_perf_event_open,
            libc::SYS_pidfd_getfd,
            libc::SYS_pidfd_open,
            libc::SYS_prctl,
            libc::SYS_process_vm_writev,
            libc::SYS_ptrace,
            libc::SYS_setns,
            libc::SYS_setrlimit,
            libc::SYS_setuid,
            libc::SYS_socket,
            libc::SYS_socketpair,
            libc::SYS_timer_delete,
            libc::SYS_timer_settime,
            libc::SYS_umount2,
            libc::SYS_unshare,
            libc::SYS_userfaultfd,
        ] {
            assert!(!ALLOWED.contains(&call), "{call}");
            assert!(restricted.iter().all(|(other, _)| *other != call), "{call}");
        }
    }
}
