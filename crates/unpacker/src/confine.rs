//! What an unpacker gives up before it reads the first byte of a layer.
//!
//! In this order, because each step may need what a later one takes: no privileges by `execve`, no
//! core dump or tracer, resource limits, capabilities, Landlock, system calls.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use caps::{CapSet, Capability, CapsHashSet};
use image::Limits;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreatedAttr, Scope,
};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use sys::process::{SingleThreaded, set_undumpable};
use thiserror::Error;

use crate::syscalls;

/// The newest Landlock that is made use of; older kernels enforce what they know.
const LANDLOCK: ABI = ABI::V6;
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
/// Descriptors: the five that were inherited, and a directory for each level of a tree.
const DESCRIPTORS: u64 = 512;

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
    limit_resources(limits).map_err(step("resource limits"))?;
    drop_capabilities().map_err(ConfineError::Capabilities)?;
    restrict_files(target)?;
    syscalls::restrict().map_err(ConfineError::Seccomp)
}

/// Whether this kernel confines unpackers to their directory. Without, what else [`confine`] takes
/// away still keeps a layer from running anything, and `unpack_layer` from leaving the directory.
#[must_use]
pub fn has_landlock() -> bool {
    let asked = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1));
    asked.and_then(Ruleset::create).is_ok()
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
        let (_, hard) = nix::sys::resource::getrlimit(resource)?;
        let limit = limit.min(hard);
        setrlimit(resource, limit, limit)?;
    }
    Ok(())
}

fn drop_capabilities() -> Result<(), caps::errors::CapsError> {
    let needed = CapsHashSet::from(NEEDED);
    let have = caps::read(None, CapSet::Permitted)?;
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

/// Landlock: files below `target` only, no TCP, no signals and abstract sockets to others.
fn restrict_files(target: &OwnedFd) -> Result<(), ConfineError> {
    let directory = target.as_fd().try_clone_to_owned().map_err(ConfineError::Directory)?;
    let restrict = || {
        Ruleset::default()
            .handle_access(AccessFs::from_all(LANDLOCK))?
            .handle_access(AccessNet::from_all(LANDLOCK))?
            .scope(Scope::from_all(LANDLOCK))?
            .create()?
            .add_rule(PathBeneath::new(directory, unpacking()))?
            .restrict_self()
    };
    restrict().map(drop).map_err(ConfineError::Landlock)
}

/// What unpacking does below the directory: anything but running programs and making devices and
/// sockets. Whiteouts are character devices.
fn unpacking() -> BitFlags<AccessFs> {
    let refused = AccessFs::Execute | AccessFs::MakeBlock | AccessFs::MakeSock | AccessFs::IoctlDev;
    AccessFs::from_all(LANDLOCK) & !refused
}
