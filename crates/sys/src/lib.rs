//! Every system call that needs care, as safe functions.
//!
//! Owns all of the project's `unsafe`: raw system calls that nix does not wrap, process creation, descriptor
//! hand-over, and work below a directory that may not be left. Functions borrow descriptors (`AsFd`), return owned
//! ones, and report [`Errno`](nix::errno::Errno) together with what was asked for.
//!
//! Never: tokio, CRI, policy. What to mount or whom to kill is decided elsewhere.
#![expect(unsafe_code, reason = "the one crate that calls the kernel")]

pub mod beneath;
pub mod cgroup;
pub mod fd;
pub mod memfd;
pub mod mount;
pub mod ns;
pub mod pidfd;
pub mod process;
pub mod seqpacket;
pub mod spawn;
pub mod wait;
