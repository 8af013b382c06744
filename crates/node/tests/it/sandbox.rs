//! A place for one node and a user to make it.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Output},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Uid, geteuid},
};
use serde_json::Value;
use sys::{pidfd, seqpacket};
use tempfile::TempDir;
use testkit::Account;

/// Ends the test with a printed reason where the machine does not offer what it needs.
macro_rules! need {
    ($offered:expr) => {
        match $offered {
            Ok(offered) => offered,
            Err(reason) => {
                eprintln!("skipped: {reason}");
                return;
            }
        }
    };
}
pub(crate) use need;

/// Directories, program and user of one node; the holder ends with it.
pub(crate) struct Sandbox {
    pub(crate) root: TempDir,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// As `WRITABLE_DIRS`.
    pub(crate) writable: String,
}

impl Sandbox {
    /// For a user with subordinate ids.
    pub(crate) fn new() -> Result<Self, String> {
        let account = Account::ordinary().map_err(|skip| skip.0)?;
        Ok(Self::of(account.uid, account.gid))
    }

    /// For any user; another one than the caller needs root.
    pub(crate) fn of(uid: u32, gid: u32) -> Self {
        let root = tempfile::Builder::new().prefix("usnea-node-").tempdir().expect("tempdir");
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(root.path(), open).expect("chmod");
        for name in ["run", "data", "home"] {
            let path = root.path().join(name);
            fs::create_dir(&path).expect("mkdir");
            chown(&path, Some(uid), Some(gid)).expect("chown");
        }
        // The build directory may be closed to the user. Not copied by this process: a child that another test
        // forks meanwhile would hold the file open for writing, and it could not be run (ETXTBSY).
        let copied = Command::new("cp").arg(built("node-cli")).arg(root.path()).status();
        assert!(copied.expect("cp").success(), "copy the program");
        Self { root, uid, gid, writable: String::new() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("run/usnea/node.sock")
    }

    /// `node-cli … arguments`, run by the user.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.command_in(&[], arguments)
    }

    /// `wrapper … node-cli … arguments`, run by the user.
    pub(crate) fn command_in(&self, wrapper: &[&str], arguments: &[&str]) -> Command {
        let program = self.path("node-cli");
        let mut line = wrapper.iter().map(PathBuf::from).chain([program]);
        let mut command = Command::new(line.next().expect("never empty"));
        command.args(line).arg(self.path("run/usnea")).arg(self.path("data/usnea"));
        command.arg(&self.writable).args(arguments).current_dir("/");
        if Uid::from_raw(self.uid) != geteuid() {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("start node-cli")
    }

    /// What a successful command wrote.
    pub(crate) fn text(&self, arguments: &[&str]) -> String {
        text_of(&self.output(arguments))
    }

    /// What a successful command wrote, as JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.text(arguments)).expect("JSON")
    }

    /// Runs `script` in the node.
    pub(crate) fn shell(&self, script: &str) -> String {
        self.text(&["exec", "sh", "-ec", script])
    }

    /// Sends `signal` to the holder and waits until it has ended; nothing when there is none.
    pub(crate) fn end_holder(&self, signal: Signal) {
        let Ok(connection) = seqpacket::connect_to(&self.socket()) else { return };
        let pid = seqpacket::peer(&connection).expect("peer").pid();
        let pid = nix::unistd::Pid::from_raw(pid);
        let Ok(holder) = pidfd::open(pid) else { return };
        kill(pid, signal).expect("signal the holder");
        assert!(
            pidfd::wait_exit(&holder, Some(5000)).expect("poll"),
            "the holder ignores {signal}"
        );
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.end_holder(Signal::SIGKILL);
    }
}

/// Cargo builds examples with the tests, in a directory beside theirs.
fn built(example: &str) -> PathBuf {
    let test = std::env::current_exe().expect("own path");
    let build = test.ancestors().nth(2).expect("…/deps/it-…");
    build.join("examples").join(example)
}

pub(crate) fn text_of(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    String::from_utf8(output.stdout.clone()).expect("UTF-8").trim_end().to_owned()
}

pub(crate) fn error_of(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
}

/// For what only root can set up.
pub(crate) fn as_root() -> Result<(), String> {
    if geteuid().is_root() { Ok(()) } else { Err("only root can prepare this".to_owned()) }
}

pub(crate) fn link(path: impl AsRef<Path>) -> String {
    fs::read_link(path).expect("link").display().to_string()
}
