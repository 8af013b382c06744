//! This process: its threads, its attributes, and copies of itself.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use nix::{errno::Errno, sched::CloneFlags, unistd::Pid};
use thiserror::Error;

use crate::fd::owned_fd;

/// Why a process is not single-threaded, or why that is not known.
#[derive(Debug, Error)]
pub enum ThreadsError {
    /// The thread list of this process could not be read.
    #[error("read /proc/self/task")]
    Read(#[source] io::Error),
    /// Other threads run.
    #[error("{threads} threads run where only 1 may")]
    Multithreaded {
        /// Entries in `/proc/self/task`.
        threads: usize,
    },
}

/// Proof that this process had one thread when it was made. What forks, changes directory or enters libcontainer
/// asks for it.
#[derive(Debug)]
pub struct SingleThreaded(PhantomData<*const ()>);

impl SingleThreaded {
    /// Counts `/proc/self/task`.
    ///
    /// # Errors
    /// [`ThreadsError::Multithreaded`] when another thread runs; [`ThreadsError::Read`] without procfs.
    pub fn prove() -> Result<Self, ThreadsError> {
        let threads = std::fs::read_dir("/proc/self/task").map_err(ThreadsError::Read)?.count();
        if threads == 1 {
            Ok(Self(PhantomData))
        } else {
            Err(ThreadsError::Multithreaded { threads })
        }
    }
}

/// What [`fork`] returned, and to whom.
#[derive(Debug)]
pub enum Forked {
    /// To the caller.
    Parent {
        /// The child, in the caller's PID namespace.
        pid: Pid,
        /// Handle to the child.
        pidfd: OwnedFd,
    },
    /// To the new process. It must end by [`exit_now`] or exec, not by returning into the caller's code.
    Child,
}

/// `struct clone_args` of `linux/sched.h`, as of Linux 5.7.
#[derive(Debug, Default)]
#[repr(C, align(8))]
pub(crate) struct CloneArgs {
    pub(crate) flags: u64,
    pub(crate) pidfd: u64,
    pub(crate) child_tid: u64,
    pub(crate) parent_tid: u64,
    pub(crate) exit_signal: u64,
    pub(crate) stack: u64,
    pub(crate) stack_size: u64,
    pub(crate) tls: u64,
    pub(crate) set_tid: u64,
    pub(crate) set_tid_size: u64,
    pub(crate) cgroup: u64,
}

const CLONE_PIDFD: u64 = 0x1000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

impl CloneArgs {
    /// Arguments for a child in `cgroup`, in new namespaces of `flags`, whose pidfd the kernel stores in `pidfd`.
    ///
    /// With `CLONE_PARENT` the child's exit signal is the caller's own and must be left at 0.
    pub(crate) fn new(
        flags: CloneFlags,
        cgroup: Option<BorrowedFd<'_>>,
        pidfd: &mut libc::c_int,
    ) -> Result<Self, Errno> {
        let bits = u64::from(flags.bits().cast_unsigned()) | CLONE_PIDFD;
        let sigchld = if flags.contains(CloneFlags::CLONE_PARENT) { 0 } else { libc::SIGCHLD };
        let mut args = Self {
            flags: bits,
            pidfd: address(&raw mut *pidfd)?,
            exit_signal: u64::from(sigchld.cast_unsigned()),
            ..Self::default()
        };
        if let Some(cgroup) = cgroup {
            args.flags |= CLONE_INTO_CGROUP;
            args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
        }
        Ok(args)
    }
}

/// A pointer as the kernel's structures hold it.
pub(crate) fn address<T>(pointer: *mut T) -> Result<u64, Errno> {
    u64::try_from(pointer.addr()).map_err(|_too_wide| Errno::EINVAL)
}

/// Copies this process, as `fork(2)` does, into new namespaces (`flags`) and, when given, straight into `cgroup`.
///
/// The child runs ordinary Rust code, which is sound because no other thread can have held a lock: the proof is the
/// precondition. `CLONE_PARENT` makes the child a sibling.
///
/// Source: `clone3(2)`; `CLONE_INTO_CGROUP` since Linux 5.7.
///
/// # Errors
/// `EAGAIN` at a process limit, `EPERM` without the right to make a namespace, `EACCES` for a cgroup that the caller
/// may not move to, `EBUSY` for one that delegates domain controllers, `EOPNOTSUPP` for one of the wrong type.
pub fn fork(
    _proof: &SingleThreaded,
    flags: CloneFlags,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Forked, Errno> {
    let mut pidfd: libc::c_int = -1;
    let mut args = CloneArgs::new(flags, cgroup, &mut pidfd)?;
    // SAFETY: `args` and `pidfd` outlive the call; without CLONE_VM and a stack the child gets a copy of this
    // process and continues here. The proof says that no other thread's lock is copied in a locked state.
    let ret =
        unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, std::mem::size_of::<CloneArgs>()) };
    match Errno::result(ret)? {
        0 => Ok(Forked::Child),
        pid => {
            let pid = libc::pid_t::try_from(pid).map_err(|_out_of_range| Errno::EINVAL)?;
            // SAFETY: CLONE_PIDFD stored a new descriptor there.
            let pidfd = unsafe { owned_fd(pidfd.into()) }?;
            Ok(Forked::Parent { pid: Pid::from_raw(pid), pidfd })
        }
    }
}

/// Ends the process at once, without destructors or exit handlers: what a [`Forked::Child`] ends with.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no precondition and does not return.
    unsafe { libc::_exit(code) }
}

/// Makes the caller's descendants its children when their parents die.
///
/// Source: `prctl(2)` `PR_SET_CHILD_SUBREAPER`.
///
/// # Errors
/// None are documented.
pub fn become_subreaper() -> Result<(), Errno> {
    nix::sys::prctl::set_child_subreaper(true)
}

/// Hides `/proc/self` from other processes of the same user and refuses their ptrace.
///
/// Source: `prctl(2)` `PR_SET_DUMPABLE`.
///
/// # Errors
/// None for these arguments.
pub fn set_undumpable() -> Result<(), Errno> {
    nix::sys::prctl::set_dumpable(false)
}

/// Installs an already compiled seccomp filter for this thread and what it becomes.
///
/// `program` is an array of `struct sock_filter` (8 bytes each) in host byte order, as libseccomp exports it.
///
/// Source: `seccomp(2)` `SECCOMP_SET_MODE_FILTER`.
///
/// # Errors
/// `EACCES` without `no_new_privs` and without `CAP_SYS_ADMIN`; `EINVAL` for a program the kernel refuses.
pub fn load_seccomp(program: &[u8]) -> Result<(), Errno> {
    const INSTRUCTION_BYTES: usize = std::mem::size_of::<libc::sock_filter>();
    if !program.len().is_multiple_of(INSTRUCTION_BYTES) {
        return Err(Errno::EINVAL);
    }
    let mut filter: Vec<libc::sock_filter> = program
        .chunks_exact(INSTRUCTION_BYTES)
        .map(|b| libc::sock_filter {
            code: u16::from_ne_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        })
        .collect();
    let len = libc::c_ushort::try_from(filter.len()).map_err(|_too_long| Errno::EINVAL)?;
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    // SAFETY: `program` points at `len` instructions that outlive the call; the kernel copies them.
    let ret = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
    };
    Errno::result(ret).map(drop)
}

/// Gives every signal its default action and unblocks all: what a program expects at its start.
///
/// Rust's runtime ignores SIGPIPE, which would be inherited by exec.
pub fn reset_signals() {
    // struct kernel_sigaction of all zeroes: SIG_DFL, no flags, no restorer, empty mask. The raw call, because libc
    // keeps signals 32 and 33 from its callers.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // SAFETY: `default` is large enough for every architecture's kernel_sigaction and outlives the call.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
    }
    let empty = nix::sys::signal::SigSet::empty();
    // Setting a mask cannot fail for a valid `how`.
    empty.thread_set_mask().ok();
}

/// Gives the calling thread, and no other, the effective user id `uid`, for good.
///
/// libc's `seteuid(3)` changes all threads. Source: `setresuid(2)`, "C library/kernel differences" in `setuid(2)`.
///
/// # Errors
/// `EPERM` when `uid` is none of the thread's ids and it lacks `CAP_SETUID`.
pub fn set_thread_euid(uid: nix::unistd::Uid) -> Result<(), Errno> {
    const KEEP: libc::c_long = -1;
    // SAFETY: integers only; that the thread no longer matches libc's idea of the process is the point.
    let ret = unsafe { libc::syscall(libc::SYS_setresuid, KEEP, uid.as_raw(), KEEP) };
    Errno::result(ret).map(drop)
}

/// Ensures that no descriptor from `first` up survives exec.
///
/// Source: `close_range(2)` with `CLOSE_RANGE_CLOEXEC`, Linux 5.11.
///
/// # Errors
/// `ENOSYS` or `EINVAL` on older kernels.
pub fn cloexec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: integers only; marking descriptors close-on-exec breaks no owner.
    let ret =
        unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(ret).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_harness_is_not_single_threaded() {
        let error = SingleThreaded::prove().expect_err("harness threads");
        assert!(matches!(error, ThreadsError::Multithreaded { .. }), "{error:?}");
    }

    #[test]
    fn a_broken_filter_is_refused() {
        assert_eq!(load_seccomp(&[1, 2, 3]), Err(Errno::EINVAL));
        assert_eq!(load_seccomp(&[]), Err(Errno::EINVAL));
    }
}
