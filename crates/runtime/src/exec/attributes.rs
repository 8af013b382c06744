//! What a program in a container gets from the container's specification.

use std::{os::fd::BorrowedFd, path::Path};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::{
        prctl,
        signal::Signal,
        stat::{Mode, umask},
    },
    unistd::{self, Gid, Uid},
};
use oci_spec::runtime::Process;
use sys::{
    beneath::{self, Resolve},
    process::{cloexec_from, load_seccomp, reset_signals, set_undumpable},
};

use super::Stdio;
use crate::{
    capabilities::{CapabilitySets, reset_effective},
    create::DEFAULT_UMASK,
    limits,
};

/// What is being done when something fails.
pub(super) type Step = &'static str;
type Outcome = Result<(), (Step, Errno)>;

/// Of the new process.
#[derive(Debug)]
pub(super) struct Attributes<'a> {
    process: &'a Process,
    capabilities: CapabilitySets,
    seccomp: Option<&'a [u8]>,
}

impl<'a> Attributes<'a> {
    pub(super) fn of(process: &'a Process, seccomp: Option<&'a [u8]>) -> Self {
        let capabilities = CapabilitySets::of(process.capabilities().as_ref());
        Self { process, capabilities, seccomp }
    }

    /// What must be done before the container's namespaces are entered.
    pub(super) fn apply_outside(&self) -> Outcome {
        if let Some(score) = self.process.oom_score_adj() {
            limits::apply_oom_score_adj(score).map_err(at("set oom_score_adj"))?;
        }
        // From here on nothing in the container may look into us: our descriptors are the caller's until exec.
        set_undumpable().map_err(at("set dumpable"))
    }

    /// Everything else; afterwards only exec is left to do.
    pub(super) fn apply_inside(&self, stdio: &Stdio<'_>) -> Outcome {
        unistd::setsid().map_err(at("setsid"))?;
        reset_signals();
        self.set_streams(stdio).map_err(at("set standard streams"))?;
        for limit in self.process.rlimits().iter().flatten() {
            limits::apply(limit).map_err(at("set rlimits"))?;
        }
        change_directory(self.process.cwd()).map_err(at("change to the working directory"))?;
        let mode = self.process.user().umask().unwrap_or(DEFAULT_UMASK);
        umask(Mode::from_bits_truncate(mode));
        self.set_identity()?;
        self.confine()
    }

    fn set_streams(&self, stdio: &Stdio<'_>) -> Result<(), Errno> {
        // Copies first, which get numbers above 2: one of the three may sit on another's place.
        let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().or(Err(Errno::EMFILE));
        let (stdin, stdout, stderr) =
            (copy(stdio.stdin)?, copy(stdio.stdout)?, copy(stdio.stderr)?);
        unistd::dup2_stdin(stdin)?;
        unistd::dup2_stdout(stdout)?;
        unistd::dup2_stderr(stderr)?;
        cloexec_from(3)
    }

    fn set_identity(&self) -> Outcome {
        let user = self.process.user();
        let groups: Vec<Gid> =
            user.additional_gids().iter().flatten().map(|gid| Gid::from_raw(*gid)).collect();
        match unistd::setgroups(&groups) {
            // Denied to the whole user namespace: then there are none to be rid of.
            Err(Errno::EPERM) if groups.is_empty() => {}
            result => result.map_err(at("setgroups"))?,
        }
        prctl::set_keepcaps(true).map_err(at("keep capabilities"))?;
        let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
        unistd::setresgid(gid, gid, gid).map_err(at("setresgid"))?;
        unistd::setresuid(uid, uid, uid).map_err(at("setresuid"))?;
        prctl::set_keepcaps(false).map_err(at("keep capabilities"))?;
        // After the change of ids, which clears it. The parent is the one that watches this program.
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(at("set the parent death signal"))?;
        reset_effective().map_err(|_not_an_errno| ("raise capabilities", Errno::EPERM))
    }

    /// Without no-new-privileges a filter needs `CAP_SYS_ADMIN`, so it precedes the loss of capabilities; with it the
    /// filter comes last, so that it need not allow what is done here.
    fn confine(&self) -> Outcome {
        let no_new_privileges = self.process.no_new_privileges() == Some(true);
        if !no_new_privileges {
            self.load_filter()?;
        }
        self.capabilities.apply().map_err(|_not_an_errno| ("set capabilities", Errno::EPERM))?;
        if no_new_privileges {
            prctl::set_no_new_privs().map_err(at("set no_new_privs"))?;
            self.load_filter()?;
        }
        Ok(())
    }

    fn load_filter(&self) -> Outcome {
        self.seccomp.map_or(Ok(()), load_seccomp).map_err(at("load the seccomp filter"))
    }
}

fn at(step: Step) -> impl FnOnce(Errno) -> (Step, Errno) {
    move |errno| (step, errno)
}

/// Changes to `cwd`, which no magic link of procfs may be part of: it could lead to a descriptor of ours, outside.
fn change_directory(cwd: &Path) -> Result<(), Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let root = nix::fcntl::open("/", flags | OFlag::O_CLOEXEC, Mode::empty())?;
    let directory = beneath::open(&root, cwd, Resolve::InRoot, flags, Mode::empty());
    unistd::fchdir(directory.map_err(|error| error.source)?)
}
