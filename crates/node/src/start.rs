//! Starting a holder, away from the caller's terminal, and hearing why it failed.

use std::{
    ffi::{CString, OsStr, OsString},
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    },
    path::PathBuf,
};

use nix::{errno::Errno, sys::wait::WaitStatus};
use sys::{
    pidfd,
    spawn::{Child, Spawn, SpawnError, spawn},
};

use crate::{
    config::NodeConfig,
    error::{ALREADY_HELD, NodeError},
    join::Node,
    listen::private_directory,
};

/// How much of the holder's log an error repeats.
const MESSAGE_BYTES: u64 = 4096;
/// How long a superfluous holder is waited for; it ends as soon as it has tried the lock.
const GIVE_WAY_MS: u16 = 2000;

/// How to start a holder.
#[derive(Clone, Debug)]
pub struct HolderCommand {
    /// The program, usually this one.
    pub exe: PathBuf,
    /// Its arguments without its name, usually `node hold` and where the configuration is.
    pub arguments: Vec<OsString>,
}

/// A holder that was started here and may fail.
pub(crate) struct Started {
    child: Child,
    log: File,
    /// Where its own lines begin.
    log_start: u64,
}

impl Started {
    pub(crate) fn new(config: &NodeConfig, holder: &HolderCommand) -> Result<Self, NodeError> {
        private_directory(&config.data_dir)?;
        let path = config.log_file();
        let log = File::options().read(true).append(true).create(true).mode(0o600).open(&path);
        let mut log = log.map_err(NodeError::file("open", &path))?;
        let log_start = log.seek(SeekFrom::End(0)).map_err(NodeError::file("read", &path))?;
        let null = File::open("/dev/null").map_err(NodeError::file("open", "/dev/null"))?;
        let exe = File::open(&holder.exe).map_err(NodeError::file("open", &holder.exe))?;
        let argv = c_strings(
            [holder.exe.as_os_str()]
                .into_iter()
                .chain(holder.arguments.iter().map(OsString::as_os_str)),
        )?;
        let envp = environment()?;
        let child = spawn(&Spawn {
            exe: exe.as_fd(),
            argv: &argv,
            envp: &envp,
            fds: &[(null.as_fd(), 0), (log.as_fd(), 1), (log.as_fd(), 2)],
            cgroup: None,
            new_session: true,
        })
        .map_err(NodeError::Spawn)?;
        Ok(Self { child, log, log_start })
    }

    /// Fails when the holder has ended, unless it ended in favour of another one.
    pub(crate) fn check(&self, config: &NodeConfig) -> Result<(), NodeError> {
        let status = match pidfd::try_reap(&self.child.pidfd) {
            Ok(None) | Err(_) => return Ok(()),
            Ok(Some(WaitStatus::Exited(_, code))) if code == i32::from(ALREADY_HELD) => {
                return Ok(());
            }
            Ok(Some(WaitStatus::Exited(_, code))) => format!("exit code {code}"),
            Ok(Some(WaitStatus::Signaled(_, signal, _))) => format!("killed by {signal}"),
            Ok(Some(other)) => format!("{other:?}"),
        };
        Err(NodeError::HolderEnded { status, log: config.log_file(), message: self.message() })
    }

    /// Waits, when another holder was faster, until this one has seen that too: it could otherwise be so late that it
    /// finds the other one ended, and takes over with nobody knowing of it.
    pub(crate) fn give_way_to(&self, node: &Node) {
        if node.facts().pid == self.child.pid.as_raw() {
            return;
        }
        // When it takes longer than that, it is left to find out by itself.
        if pidfd::wait_exit(&self.child.pidfd, Some(GIVE_WAY_MS)).unwrap_or(false) {
            pidfd::try_reap(&self.child.pidfd).ok();
        }
    }

    fn message(&self) -> String {
        let mut text = Vec::new();
        let mut log = &self.log;
        // A log that cannot be read makes an empty message; the path is in the error.
        log.seek(SeekFrom::Start(self.log_start)).ok();
        log.take(MESSAGE_BYTES).read_to_end(&mut text).ok();
        String::from_utf8_lossy(&text).trim().to_owned()
    }
}

fn c_strings<'a>(texts: impl Iterator<Item = &'a OsStr>) -> Result<Vec<CString>, NodeError> {
    let invalid = || NodeError::Spawn(SpawnError::Arguments(Errno::EINVAL));
    texts.map(|text| CString::new(text.as_bytes()).or(Err(invalid()))).collect()
}

/// Secrets that are meant for one command, and must not stay in the environment of what lives on.
const SECRETS: [&str; 1] = ["USNEA_CREDS"];

fn environment() -> Result<Vec<CString>, NodeError> {
    let lasting =
        std::env::vars_os().filter(|(name, _)| !SECRETS.iter().any(|secret| name == secret));
    let variables = lasting.map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    });
    let variables: Vec<OsString> = variables.collect();
    c_strings(variables.iter().map(OsString::as_os_str))
}
