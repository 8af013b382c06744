//! Starting another program from any process, threaded or not, without copying its memory.
//!
//! `posix_spawn(3)` cannot place the child in a cgroup, and moving it there afterwards waits for an RCU grace period
//! (14 ms were measured). So this is what `posix_spawn` does inside, with `clone3(2)`: the child borrows our memory
//! (`CLONE_VM`) while we stand still (`CLONE_VFORK`), runs on a stack of its own, makes only system calls, and execs.

use std::{
    arch::asm,
    ffi::{CString, c_char, c_int, c_long, c_void},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use nix::{errno::Errno, sched::CloneFlags, sys::signal::SigSet, unistd::Pid};
use thiserror::Error;

use crate::{
    fd::owned_fd,
    process::{CloneArgs, address},
};

/// A program to start.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// The executable, for instance a sealed memfd. Not a script: the interpreter could not open it.
    pub exe: BorrowedFd<'a>,
    /// Arguments, the program's name first.
    pub argv: &'a [CString],
    /// The whole environment.
    pub envp: &'a [CString],
    /// Which descriptors the program gets, and under which numbers. All others are closed by exec.
    pub fds: &'a [(BorrowedFd<'a>, RawFd)],
    /// The cgroup directory that the program starts in; `None`: the caller's.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Whether it becomes the leader of a new session, away from the caller's terminal.
    pub new_session: bool,
}

/// A started program; a child of the caller.
#[derive(Debug)]
pub struct Child {
    /// In the caller's PID namespace.
    pub pid: Pid,
    /// Handle that is not taken over by a later process.
    pub pidfd: OwnedFd,
}

/// Why a program could not be started.
#[derive(Debug, Error)]
pub enum SpawnError {
    /// A string contained NUL, or too many descriptors were given.
    #[error("arguments of the new program")]
    Arguments(#[source] Errno),
    /// The kernel made no process.
    #[error("clone3 for {program:?}")]
    Clone {
        /// `argv[0]`.
        program: CString,
        /// `EAGAIN` at a process limit, `EACCES` or `EBUSY` for the cgroup.
        source: Errno,
    },
    /// The process was made, but could not become the program.
    #[error("exec {program:?}")]
    Exec {
        /// `argv[0]`.
        program: CString,
        /// From `dup3(2)`, `close_range(2)` or `execveat(2)`.
        source: Errno,
    },
}

/// Where descriptors are parked before they get their final numbers, above every wanted number.
const PARKING: RawFd = 64;
const STACK_WORDS: usize = 4096;

/// Everything the child needs, prepared so that it allocates nothing.
struct Plan {
    exe: RawFd,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    /// (current number, wanted number)
    fds: Vec<(RawFd, RawFd)>,
    new_session: bool,
    /// Set by the child when it fails, read by the parent after the child has ended.
    errno: c_int,
}

/// Starts `spawn` and returns once it runs its own code.
///
/// # Errors
/// See [`SpawnError`]; when it fails, no process is left.
pub fn spawn(spawn: &Spawn<'_>) -> Result<Child, SpawnError> {
    let program = spawn.argv.first().cloned().unwrap_or_default();
    if spawn.fds.iter().any(|(_, wanted)| !(0..PARKING).contains(wanted)) {
        return Err(SpawnError::Arguments(Errno::EBADF));
    }
    let mut plan = Plan {
        exe: spawn.exe.as_raw_fd(),
        argv: pointers(spawn.argv),
        envp: pointers(spawn.envp),
        fds: spawn.fds.iter().map(|(fd, wanted)| (fd.as_raw_fd(), *wanted)).collect(),
        new_session: spawn.new_session,
        errno: 0,
    };
    let blocked = block_signals().map_err(SpawnError::Arguments)?;
    let cloned = clone_and_run(&mut plan, spawn.cgroup);
    // Restoring a mask that was in force before cannot fail.
    blocked.thread_set_mask().ok();
    let child = cloned.map_err(|source| SpawnError::Clone { program: program.clone(), source })?;
    if plan.errno == 0 {
        return Ok(child);
    }
    // The child has ended; without this it would stay a zombie.
    nix::sys::wait::waitpid(child.pid, None).ok();
    Err(SpawnError::Exec { program, source: Errno::from_raw(plan.errno) })
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Blocks all signals, so that no handler of ours runs in the child, on our memory; returns the mask before.
fn block_signals() -> Result<SigSet, Errno> {
    SigSet::all().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK)
}

fn clone_and_run(plan: &mut Plan, cgroup: Option<BorrowedFd<'_>>) -> Result<Child, Errno> {
    let mut stack = vec![0_u128; STACK_WORDS];
    let mut pidfd: c_int = -1;
    let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
    let mut args = CloneArgs::new(flags, cgroup, &mut pidfd)?;
    args.stack = address(stack.as_mut_ptr())?;
    args.stack_size =
        u64::try_from(size_of_val(stack.as_slice())).map_err(|_too_large| Errno::EINVAL)?;
    let plan: *mut Plan = plan;
    // SAFETY: `args`, `stack`, `pidfd` and `plan` outlive the call, because CLONE_VFORK holds us until the child has
    // ended or exec'd; `run_child` never returns and stays on `stack`.
    let ret = unsafe { clone3_on_stack(&mut args, run_child, plan.cast()) };
    if ret < 0 {
        return Err(Errno::from_raw(c_int::try_from(-ret).unwrap_or(libc::EINVAL)));
    }
    let pid = libc::pid_t::try_from(ret).map_err(|_out_of_range| Errno::EINVAL)?;
    // SAFETY: CLONE_PIDFD stored a new descriptor there.
    let pidfd = unsafe { owned_fd(pidfd.into()) }?;
    Ok(Child { pid: Pid::from_raw(pid), pidfd })
}

/// `clone3` whose child continues in `child` on the stack that `args` names. Returns a pid or a negated errno.
///
/// # Safety
/// `args.stack` must be a stack, 16-byte aligned at its end; `argument` must be what `child` expects; with `CLONE_VM`
/// both must stay valid until the child has exec'd or ended.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3_on_stack(
    args: &mut CloneArgs,
    child: extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> c_long {
    let ret: c_long;
    // SAFETY: in the parent this is an ordinary system call; in the child rax is 0 and rsp is the new stack, and the
    // call never comes back.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => ret,
            in("rdi") &raw mut *args,
            in("rsi") size_of::<CloneArgs>(),
            in("r12") child,
            in("r13") argument,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    ret
}

/// As on `x86_64`.
///
/// # Safety
/// As on `x86_64`.
#[cfg(target_arch = "aarch64")]
unsafe fn clone3_on_stack(
    args: &mut CloneArgs,
    child: extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> c_long {
    let ret: c_long;
    // SAFETY: in the parent this is an ordinary system call; in the child x0 is 0 and sp is the new stack, and the
    // call never comes back.
    unsafe {
        asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x21",
            "blr x20",
            "brk 1",
            "2:",
            in("x8") libc::SYS_clone3,
            inlateout("x0") &raw mut *args => ret,
            in("x1") size_of::<CloneArgs>(),
            in("x20") child,
            in("x21") argument,
        );
    }
    ret
}

/// The child: system calls only, no allocation, no panic, no return.
extern "C" fn run_child(plan: *mut c_void) -> ! {
    // SAFETY: `clone_and_run` passes a Plan that it keeps alive, and it stands still, so this is the only reference.
    let plan = unsafe { &mut *plan.cast::<Plan>() };
    plan.errno = match prepare_and_exec(plan) {
        Ok(never) => match never {},
        #[expect(clippy::as_conversions, reason = "a field-less enum's own number")]
        Err(errno) => errno as c_int,
    };
    crate::process::exit_now(127)
}

fn prepare_and_exec(plan: &mut Plan) -> Result<std::convert::Infallible, Errno> {
    crate::process::reset_signals();
    if plan.new_session {
        nix::unistd::setsid()?;
    }
    // Two rounds: first out of the way of every wanted number, then into place.
    for (current, _) in &mut plan.fds {
        *current = duplicate_above(*current)?;
    }
    plan.exe = duplicate_above(plan.exe)?;
    for (current, wanted) in &plan.fds {
        // SAFETY: integers only; what was open under `wanted` is ours to replace in the child's own table.
        Errno::result(unsafe { libc::dup3(*current, *wanted, 0) })?;
    }
    close_others(plan)?;
    // SAFETY: both arrays end with a null pointer and their strings live in the parent, which stands still.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            plan.exe,
            c"".as_ptr(),
            plan.argv.as_ptr(),
            plan.envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Err(Errno::last())
}

fn duplicate_above(fd: RawFd) -> Result<RawFd, Errno> {
    // SAFETY: integers only.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, PARKING) })
}

/// Marks everything but the wanted descriptors close-on-exec, 0 to 2 included.
fn close_others(plan: &Plan) -> Result<(), Errno> {
    crate::process::cloexec_from(0)?;
    for (_, wanted) in &plan.fds {
        // SAFETY: integers only.
        Errno::result(unsafe { libc::fcntl(*wanted, libc::F_SETFD, 0) })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::Read,
        os::fd::{AsFd, AsRawFd},
    };

    use super::*;

    fn shell(script: &str, wanted: RawFd) -> (Result<Child, SpawnError>, String) {
        let exe = File::open("/bin/sh").expect("sh");
        let (read, write) = nix::unistd::pipe().expect("pipe");
        let argv = ["sh", "-c", script].map(|s| CString::new(s).expect("no NUL"));
        let child = spawn(&Spawn {
            exe: exe.as_fd(),
            argv: &argv,
            envp: &[c"GREETING=hello".to_owned()],
            fds: &[(write.as_fd(), wanted)],
            cgroup: None,
            new_session: true,
        });
        drop(write);
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).expect("read");
        (child, text)
    }

    #[test]
    fn the_program_gets_its_environment_and_descriptors_only() {
        let script = "echo $GREETING; for fd in 0 1 2 3 4 5; do test -e /proc/$$/fd/$fd && echo $fd; done; :";
        let (child, text) = shell(script, 1);
        let child = child.expect("spawn");
        assert_eq!(text, "hello\n1\n");
        let status = nix::sys::wait::waitpid(child.pid, None).expect("wait");
        assert!(matches!(status, nix::sys::wait::WaitStatus::Exited(_, 0)), "{status:?}");
    }

    #[test]
    fn it_leads_a_session_with_no_signal_ignored() {
        let (child, text) = shell("grep SigIgn /proc/$$/status; cut -d' ' -f6 /proc/$$/stat", 1);
        let child = child.expect("spawn");
        assert_eq!(text, format!("SigIgn:\t0000000000000000\n{}\n", child.pid));
        nix::sys::wait::waitpid(child.pid, None).expect("wait");
    }

    #[test]
    fn a_failed_exec_is_an_error_and_leaves_no_child() {
        let not_a_program = File::open("/etc/passwd").expect("passwd");
        let error = spawn(&Spawn {
            exe: not_a_program.as_fd(),
            argv: &[c"x".to_owned()],
            envp: &[],
            fds: &[],
            cgroup: None,
            new_session: false,
        })
        .expect_err("not executable");
        assert!(matches!(error, SpawnError::Exec { source: Errno::EACCES, .. }), "{error:?}");
        assert!(not_a_program.as_raw_fd() >= 0);
    }
}
