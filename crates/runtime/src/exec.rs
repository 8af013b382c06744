//! Running a further program in a container.
//!
//! libcontainer's own way loses the seccomp filter and the user namespace, so this is ours: a fork of the caller
//! enters the container's namespaces and forks once more, as a sibling, into its PID namespace. That process takes on
//! what the specification says of the container's process and becomes the program. It is a child of the caller.

use std::{
    fs::File,
    io::Write,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    sched::CloneFlags,
    sys::{signal::Signal, wait::waitpid},
    unistd::{Pid, pipe2},
};
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};
use sys::{
    ns::{self, Namespace},
    pidfd,
    process::{Forked, SingleThreaded, exit_now, fork},
};

use crate::{
    error::{Refusal, RuntimeError},
    program::Executable,
    start::read_within,
};

mod attributes;

use attributes::{Attributes, Step};

/// Everything up to exec takes some milliseconds; only a file system of the container could make it longer.
const WITHIN: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Debug)]
pub struct Program<'a> {
    /// Arguments, the program's name first.
    pub argv: &'a [String],
    /// The container's `config.json`: user, environment, working directory, capabilities, limits.
    pub spec: &'a Spec,
    /// The container's compiled seccomp profile.
    pub seccomp: Option<&'a [u8]>,
}

/// Where to run it.
#[derive(Debug)]
pub struct Target<'a> {
    /// Handle to the container's running init.
    pub init: BorrowedFd<'a>,
    /// Its number, which the caller has not reaped.
    pub init_pid: Pid,
    /// The cgroup that the program starts in; `None`: the caller's.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// The program's standard streams.
#[derive(Debug)]
pub struct Stdio<'a> {
    /// Descriptor 0.
    pub stdin: BorrowedFd<'a>,
    /// Descriptor 1.
    pub stdout: BorrowedFd<'a>,
    /// Descriptor 2.
    pub stderr: BorrowedFd<'a>,
}

/// What became of the program.
#[derive(Debug)]
pub enum Started {
    /// It runs, as a child of the caller.
    Running {
        /// In the caller's PID namespace.
        pid: Pid,
        /// Handle to it.
        pidfd: OwnedFd,
    },
    /// It could not be executed; why has been written to its standard error. No process is left.
    CannotRun {
        /// As a shell has it: 127 when it was not found, 126 when it is not executable.
        exit_code: i32,
    },
}

/// Starts `program` in the container.
///
/// The caller must have one thread, because the new processes run ordinary code before exec, and must be privileged
/// over the container's namespaces.
///
/// # Errors
/// [`RuntimeError::Exec`] when the container cannot be entered, for instance because it has just ended;
/// [`RuntimeError::Refused`] for arguments that no program can have.
pub fn start(
    proof: &SingleThreaded,
    program: &Program<'_>,
    target: &Target<'_>,
    stdio: &Stdio<'_>,
) -> Result<Started, RuntimeError> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(RuntimeError::system("pipe2"))?;
    let process = program.spec.process().as_ref().ok_or(Refusal::Missing { what: "process" })?;
    let env = process.env().as_deref().unwrap_or_default();
    let entrant = Entrant {
        proof,
        executable: Executable::new(program.argv, env)?,
        attributes: Attributes::of(process, program.seccomp),
        init: target.init,
        namespaces: differing_namespaces(target.init_pid)?,
        stdio,
        status: File::from(write),
    };
    let forked = fork(proof, CloneFlags::empty(), target.cgroup)
        .map_err(|source| RuntimeError::Exec { step: "clone3".to_owned(), source })?;
    match forked {
        Forked::Child => entrant.enter(),
        Forked::Parent { pid: entering, .. } => {
            drop(entrant);
            let messages = read_within(read, WITHIN, "exec in the container");
            conclude(entering, messages)
        }
    }
}

/// Which namespaces of the container are not the caller's: entering one's own is refused for some kinds.
fn differing_namespaces(init: Pid) -> Result<CloneFlags, RuntimeError> {
    let mut flags = CloneFlags::empty();
    for kind in Namespace::ALL {
        let differs = || ns::same(kind.open(None)?, kind.open(Some(init))?).map(|same| !same);
        let step = || format!("look at the {} namespace", kind.proc_name());
        if differs().map_err(|source| RuntimeError::Exec { step: step(), source })? {
            flags |= kind.flag();
        }
    }
    Ok(flags)
}

/// What the new processes tell the caller, each one line of JSON.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    /// The program's process exists.
    Forked { pid: i32 },
    /// It did not get as far as exec.
    Setup { step: String, errno: i32 },
    /// Exec was refused.
    Exec { errno: i32 },
}

/// Everything that the new processes need.
struct Entrant<'a> {
    proof: &'a SingleThreaded,
    executable: Executable,
    attributes: Attributes<'a>,
    init: BorrowedFd<'a>,
    namespaces: CloneFlags,
    stdio: &'a Stdio<'a>,
    status: File,
}

impl Entrant<'_> {
    /// The first new process: goes to the container and leaves a sibling there.
    fn enter(&self) -> ! {
        match self.fork_inside() {
            Ok(Forked::Child) => self.become_program(),
            Ok(Forked::Parent { pid, .. }) => self.tell(&Message::Forked { pid: pid.as_raw() }),
            Err((step, errno)) => self.tell_setup(step, errno),
        }
        exit_now(0)
    }

    fn fork_inside(&self) -> Result<Forked, (Step, Errno)> {
        self.attributes.apply_outside()?;
        pidfd::enter_namespaces(self.init, self.namespaces).map_err(|errno| ("setns", errno))?;
        fork(self.proof, CloneFlags::CLONE_PARENT, None).map_err(|errno| ("clone3", errno))
    }

    /// The second new process.
    fn become_program(&self) -> ! {
        if let Err((step, errno)) = self.attributes.apply_inside(self.stdio) {
            self.tell_setup(step, errno);
            exit_now(NOT_EXECUTABLE)
        }
        let errno = self.executable.exec();
        #[expect(clippy::as_conversions, reason = "a field-less enum's own number")]
        self.tell(&Message::Exec { errno: errno as i32 });
        let text = format!("{}\n", self.executable.failure(errno));
        // Whoever has closed the stream does not want to know.
        nix::unistd::write(self.stdio.stderr, text.as_bytes()).ok();
        exit_now(exit_code(errno))
    }

    fn tell_setup(&self, step: Step, errno: Errno) {
        #[expect(clippy::as_conversions, reason = "a field-less enum's own number")]
        self.tell(&Message::Setup { step: step.to_owned(), errno: errno as i32 });
    }

    fn tell(&self, message: &Message) {
        let mut line = serde_json::to_vec(message).unwrap_or_default();
        line.push(b'\n');
        // Without a reader there is nobody to tell.
        (&self.status).write_all(&line).ok();
    }
}

const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

fn exit_code(errno: Errno) -> i32 {
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    }
}

/// Makes a result of what the new processes have told, and leaves no process unless the program runs.
fn conclude(
    entering: Pid,
    messages: Result<Vec<u8>, RuntimeError>,
) -> Result<Started, RuntimeError> {
    // Without messages one of both still holds the pipe, and this one may be it.
    if messages.is_err() {
        nix::sys::signal::kill(entering, Signal::SIGKILL).ok();
    }
    // It has ended or is about to; nothing depends on how.
    waitpid(entering, None).ok();
    let messages = parse(&messages?)?;
    let pid = messages.iter().find_map(|message| match message {
        Message::Forked { pid } => Some(Pid::from_raw(*pid)),
        Message::Setup { .. } | Message::Exec { .. } => None,
    });
    let failure = messages.into_iter().find(|message| !matches!(message, Message::Forked { .. }));
    match (pid, failure) {
        (Some(pid), None) => {
            let pidfd = pidfd::open(pid).map_err(RuntimeError::system("pidfd_open"))?;
            Ok(Started::Running { pid, pidfd })
        }
        (pid, Some(failure)) => {
            if let Some(pid) = pid {
                reap(pid)?;
            }
            failed(failure)
        }
        (None, None) => Err(RuntimeError::Silent { what: "exec in the container" }),
    }
}

fn parse(messages: &[u8]) -> Result<Vec<Message>, RuntimeError> {
    serde_json::Deserializer::from_slice(messages)
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(|source| RuntimeError::Parse { what: "exec status", source })
}

/// Waits for a process that writes its last words and exits. Somebody must read them: it is killed after a while.
fn reap(pid: Pid) -> Result<(), RuntimeError> {
    const LAST_WORDS_MS: u16 = 1000;
    let pidfd = pidfd::open(pid).map_err(RuntimeError::system("pidfd_open"))?;
    if !pidfd::wait_exit(pidfd.as_fd(), Some(LAST_WORDS_MS))
        .map_err(RuntimeError::system("poll"))?
    {
        pidfd::send_signal(pidfd.as_fd(), Signal::SIGKILL).map_err(RuntimeError::system("kill"))?;
    }
    waitpid(pid, None).map(drop).map_err(RuntimeError::system("waitpid"))
}

fn failed(message: Message) -> Result<Started, RuntimeError> {
    match message {
        Message::Exec { errno } => {
            Ok(Started::CannotRun { exit_code: exit_code(Errno::from_raw(errno)) })
        }
        Message::Setup { step, errno } => {
            Err(RuntimeError::Exec { step, source: Errno::from_raw(errno) })
        }
        Message::Forked { .. } => Err(RuntimeError::Silent { what: "exec in the container" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_in_any_number() {
        let text = b"{\"exec\":{\"errno\":2}}\n{\"forked\":{\"pid\":7}}\n";
        let messages = parse(text).expect("messages");
        assert_eq!(messages, [Message::Exec { errno: 2 }, Message::Forked { pid: 7 }]);
        assert!(parse(b"").expect("none").is_empty());
        assert!(matches!(parse(b"{\"exec\""), Err(RuntimeError::Parse { .. })));
    }

    #[test]
    fn exit_codes_are_the_shells() {
        assert_eq!(exit_code(Errno::ENOENT), 127);
        assert_eq!(exit_code(Errno::EACCES), 126);
        assert_eq!(exit_code(Errno::ENOEXEC), 126);
    }
}
