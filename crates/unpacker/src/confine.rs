//! What an unpacker gives up before it reads the first byte of a layer.
//!
//! In this order, because each step may need what a later one takes: no privileges by `execve`, no
//! core dump or tracer, an end, resource limits, the root directory, capabilities, Landlock, system
//! calls.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use caps::{CapSet, Capability, CapsHashSet};
use image::Limits;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigEvent, SigevNotify, Signal};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use nix::unistd::{chroot, fchdir};
use sys::beneath;
use sys::process::{SingleThreaded, set_undumpable};
use thiserror::Error;

use crate::syscalls;

/// The newest Landlock that is made use of; older kernels enforce what they know.
const LANDLOCK: ABI = ABI::V6;
/// What unpacking does below the directory: it makes and removes names, writes files that it has
/// just made, and reads files that it replaces. Of devices it makes whiteouts only.
const RIGHTS: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    MakeChar | MakeDir | MakeFifo | MakeReg | MakeSym | ReadDir | ReadFile | Refer | RemoveDir
        | RemoveFile | WriteFile
});
/// What unpacking does as root of the node: give files away and keep their set-id bits and
/// capabilities.
const NEEDED: [Capability; 5] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_SETFCAP,
];
/// A zstd window is 128 MiB at most, and the program itself takes a few tens.
const ADDRESS_SPACE_BYTES: u64 = 512 << 20;
/// Those that were inherited, and a few directories, however deep a tree is.
const DESCRIPTORS: u64 = 64;
/// For saying that the time is up, to whoever still can.
const GRACE: Duration = Duration::from_secs(3);

/// Why the process could not be confined.
#[derive(Debug, Error)]
pub enum ConfineError {
    /// A system call failed.
    #[error("confine the unpacker: {step}")]
    System {
        /// What was to be given up.
        step: &'static str,
        /// The cause.
        #[source]
        source: Errno,
    },
    /// Capabilities cannot be dropped.
    #[error("confine the unpacker: capabilities")]
    Capabilities(#[source] caps::errors::CapsError),
    /// The rules of Landlock are refused.
    #[error("confine the unpacker: landlock")]
    Landlock(#[source] landlock::RulesetError),
    /// The kernel has Landlock, but does not enforce the rules.
    #[error("confine the unpacker: landlock is not enforced")]
    NotEnforced,
    /// The directory's descriptor cannot be duplicated.
    #[error("confine the unpacker: directory")]
    Directory(#[source] io::Error),
    /// The filter of system calls is refused.
    #[error("confine the unpacker: system calls")]
    Seccomp(#[source] seccompiler::Error),
}

/// Leaves this process, for good, what unpacking below `target` needs.
///
/// # Errors
/// [`ConfineError`]; the process must end then, for it may be confined by half. A kernel without
/// Landlock is no error, see [`has_landlock`].
pub fn confine(
    _alone: SingleThreaded,
    target: &OwnedFd,
    limits: &Limits,
) -> Result<(), ConfineError> {
    let step = |step| move |source| ConfineError::System { step, source };
    prctl::set_no_new_privs().map_err(step("no_new_privs"))?;
    set_undumpable().map_err(step("dumpable"))?;
    let end = limits.duration.saturating_add(GRACE);
    end_after(end).map_err(step("time"))?;
    limit_resources(limits).map_err(step("resource limits"))?;
    let have = caps::read(None, CapSet::Permitted).map_err(ConfineError::Capabilities)?;
    if have.contains(&Capability::CAP_SYS_CHROOT) && !beneath::chmod_needs_proc() {
        change_root(target).map_err(step("root directory"))?;
    }
    drop_capabilities(&have).map_err(ConfineError::Capabilities)?;
    restrict_files(target)?;
    syscalls::restrict().map_err(ConfineError::Seccomp)
}

/// Whether this kernel confines unpackers to their directory. Without, what else [`confine`] takes
/// away still keeps a layer from running anything, and `unpack_layer` from leaving the directory.
#[must_use]
pub fn has_landlock() -> bool {
    ruleset(CompatLevel::HardRequirement).and_then(Ruleset::create).is_ok()
}

/// Has the kernel kill this process after `time`, whatever it does then.
///
/// Unpacking counts its own time, but neither while it waits for input nor once a layer has taken
/// over. The filter of system calls keeps both from the timer.
fn end_after(time: Duration) -> Result<(), Errno> {
    let signal = SigevNotify::SigevSignal { signal: Signal::SIGKILL, si_value: 0 };
    let timer = Timer::new(ClockId::CLOCK_MONOTONIC, SigEvent::new(signal))?;
    let mut timer = ManuallyDrop::new(timer);
    timer.set(Expiration::OneShot(time.into()), TimerSetTimeFlags::empty())
}

fn limit_resources(limits: &Limits) -> Result<(), Errno> {
    for (resource, limit) in [
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NPROC, 0),
        (Resource::RLIMIT_NOFILE, DESCRIPTORS),
        (Resource::RLIMIT_AS, ADDRESS_SPACE_BYTES),
        (Resource::RLIMIT_FSIZE, limits.bytes),
        // Processor time is no longer than time.
        (Resource::RLIMIT_CPU, limits.duration.as_secs().saturating_add(1)),
    ] {
        let (_, hard) = getrlimit(resource)?;
        let limit = limit.min(hard);
        setrlimit(resource, limit, limit)?;
    }
    Ok(())
}

/// Makes `target` all that a path can lead to. Landlock leaves owners, modes and times of files
/// everywhere to whoever may change them, and root of the node may those of its user.
fn change_root(target: &OwnedFd) -> Result<(), Errno> {
    fchdir(target)?;
    chroot(".")
}

fn drop_capabilities(have: &CapsHashSet) -> Result<(), caps::errors::CapsError> {
    let needed = CapsHashSet::from(NEEDED);
    if have.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::runtime::thread_all_supported().difference(&needed) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    let keep: CapsHashSet = have.intersection(&needed).copied().collect();
    caps::set(None, CapSet::Effective, &keep)?;
    caps::set(None, CapSet::Permitted, &keep)
}

/// Landlock: names and new files below `target` only, no TCP, no signals and abstract sockets to
/// others.
fn restrict_files(target: &OwnedFd) -> Result<(), ConfineError> {
    let directory = target.as_fd().try_clone_to_owned().map_err(ConfineError::Directory)?;
    let restrict = || {
        ruleset(CompatLevel::SoftRequirement)?
            .create()?
            .add_rule(PathBeneath::new(directory, RIGHTS))?
            .restrict_self()
    };
    let status = restrict().map_err(ConfineError::Landlock)?;
    if status.ruleset == RulesetStatus::NotEnforced && has_landlock() {
        return Err(ConfineError::NotEnforced);
    }
    Ok(())
}

/// What Landlock shall control; `refer` says what comes of it where that cannot include links and
/// renames between directories. Linux 5.13 to 5.18 always refuse them, and layers need them.
fn ruleset(refer: CompatLevel) -> Result<Ruleset, RulesetError> {
    Ruleset::default()
        .set_compatibility(refer)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))
}
