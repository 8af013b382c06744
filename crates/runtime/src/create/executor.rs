//! The last steps of a container's init, in our hands instead of libcontainer's.
//!
//! libcontainer's own executor leaves SIGPIPE ignored, puts the environment through a map, demands that a program is
//! executable for everybody, hands what the kernel does not recognise to a shell, and loses the errno.

use std::{collections::HashMap, fs::File, io::Write, os::fd::OwnedFd, rc::Rc};

use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use nix::sys::signal::Signal;
use oci_spec::runtime::Spec;
use sys::process::{cloexec_from, exit_now, reset_signals};

use crate::program::Executable;

/// What the shell calls a command that could not be run; the parent judges by the message, not by this.
const NOT_EXECUTED: i32 = 127;

/// Becomes the program of the specification, and tells `status` why when it cannot.
#[derive(Debug, Clone)]
pub(super) struct ProgramExecutor {
    status: Rc<File>,
}

impl ProgramExecutor {
    pub(super) fn new(status: OwnedFd) -> Self {
        Self { status: Rc::new(status.into()) }
    }
}

impl Executor for ProgramExecutor {
    /// Runs in init when everything else is done and before it waits. Whether the program can be executed is left to
    /// the kernel and `exec`: CRI wants that failure from StartContainer.
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        // The parent is the one that watches this container; without it nobody would.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
            .map_err(|errno| ExecutorValidationError::ArgValidationError(errno.to_string()))
    }

    /// The environment is handed to exec as it is specified.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let message = become_program(spec);
        // A failed write leaves an empty pipe: the container then counts as started and has exited at once.
        (&*self.status).write_all(message.as_bytes()).ok();
        exit_now(NOT_EXECUTED)
    }
}

/// Returns only on failure, with what to tell.
fn become_program(spec: &Spec) -> String {
    let empty = Vec::new();
    let process = spec.process().as_ref();
    let argv = process.and_then(|process| process.args().as_ref()).unwrap_or(&empty);
    let env = process.and_then(|process| process.env().as_ref()).unwrap_or(&empty);
    let program = match Executable::new(argv, env) {
        Ok(program) => program,
        Err(refusal) => return refusal.to_string(),
    };
    if let Err(errno) = cloexec_from(3) {
        return program.failure(errno);
    }
    reset_signals();
    program.failure(program.exec())
}
