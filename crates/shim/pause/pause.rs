//! PID 1 of a pod's shared PID namespace: reaps orphans and ends on SIGTERM or SIGINT.
//!
//! A program of its own, about 1 kB, without libc, heap or Rust's runtime: every pod with a shared PID namespace
//! keeps one for as long as it lives. `build.rs` compiles it; the shim starts it from memory.
#![no_std]
#![no_main]

use core::arch::{asm, naked_asm};

/// System call numbers of `asm/unistd_64.h`.
#[cfg(target_arch = "x86_64")]
mod number {
    pub const RT_SIGPROCMASK: usize = 14;
    pub const WAIT4: usize = 61;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const EXIT_GROUP: usize = 231;
}

/// System call numbers of `asm-generic/unistd.h`.
#[cfg(target_arch = "aarch64")]
mod number {
    pub const EXIT_GROUP: usize = 94;
    pub const RT_SIGPROCMASK: usize = 135;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const WAIT4: usize = 260;
}

const SIG_BLOCK: usize = 0;
const SIGINT: isize = 2;
const SIGTERM: isize = 15;
const SIGCHLD: isize = 17;
/// A `sigset_t` as the kernel has it: bit n - 1 stands for signal n.
static AWAITED: u64 = 1 << (SIGINT - 1) | 1 << (SIGTERM - 1) | 1 << (SIGCHLD - 1);
const WNOHANG: usize = 1;
const ANY_CHILD: usize = usize::MAX;

#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// # Safety
/// The arguments must be what the system call `number` expects.
#[cfg(target_arch = "x86_64")]
unsafe fn syscall(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result;
    // SAFETY: the kernel clobbers rcx and r11 only; the caller vouches for the arguments.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

/// # Safety
/// The arguments must be what the system call `number` expects.
#[cfg(target_arch = "aarch64")]
unsafe fn syscall(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result;
    // SAFETY: the kernel changes x0 only; the caller vouches for the arguments.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c, in("x3") d);
    }
    result
}

#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn _start() -> ! {
    // The stack is aligned to 16 bytes here, which a call instruction makes what a function expects.
    naked_asm!("call {run}", "ud2", run = sym run)
}

#[cfg(target_arch = "aarch64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn _start() -> ! {
    naked_asm!("bl {run}", "brk 1", run = sym run)
}

extern "C" fn run() -> ! {
    let awaited = (&raw const AWAITED).addr();
    let set_bytes = size_of::<u64>();
    // Blocked signals reach even a PID 1 that has no handler for them.
    // SAFETY: `awaited` points at a signal set of `set_bytes`; the old set is not asked for.
    unsafe { syscall(number::RT_SIGPROCMASK, SIG_BLOCK, awaited, 0, set_bytes) };
    loop {
        // SAFETY: as above; neither siginfo nor a timeout is passed.
        let signal = unsafe { syscall(number::RT_SIGTIMEDWAIT, awaited, 0, 0, set_bytes) };
        if signal == SIGTERM || signal == SIGINT {
            // SAFETY: integers only.
            unsafe { syscall(number::EXIT_GROUP, 0, 0, 0, 0) };
        }
        // SAFETY: neither a status nor usage is asked for.
        while unsafe { syscall(number::WAIT4, ANY_CHILD, 0, WNOHANG, 0) } > 0 {}
    }
}
