//! A daemon of the test's own, with its own directories, run by an ordinary user.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

use cri_api::v1::VersionRequest;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{
    Account, Skip,
    audit::Scope,
    connect,
    processes::{self, Process},
    stage::Stage,
};

/// Generous: other tests use the machine, too.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// What the daemon finds on its machine.
#[derive(Clone, Debug)]
pub struct Options {
    /// A delegated cgroup. Without, the machine is shown as it is.
    pub cgroups: bool,
    /// Its `config.toml`; empty: none.
    pub config: String,
    /// Environment variables besides those that name its directories, or instead of them.
    pub environment: Vec<(String, String)>,
    /// A file system of its own for the data directory, of this many MiB. Only root can make one.
    pub data_mib: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self { cgroups: true, config: String::new(), environment: Vec::new(), data_mib: None }
    }
}

/// A running daemon; dropping it ends everything that it made.
#[derive(Debug)]
pub struct Instance {
    account: Account,
    directory: TempDir,
    bin: PathBuf,
    daemon: Mutex<Option<Child>>,
    environment: Vec<(String, String)>,
    /// Only root can make one.
    stage: Option<Stage>,
}

impl Instance {
    /// Starts a daemon with directories of its own and waits until it answers.
    ///
    /// # Errors
    /// When no ordinary user is available.
    ///
    /// # Panics
    /// When the binaries are missing or the daemon does not come up; its log is in the message.
    pub fn start(options: Options) -> Result<Self, Skip> {
        let instance = Self::prepare(options)?;
        instance.start_daemon();
        Ok(instance)
    }

    fn prepare(options: Options) -> Result<Self, Skip> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let account = Account::ordinary()?;
        // Short, because a socket's path has at most 107 bytes.
        let directory = tempfile::Builder::new().prefix("usnea-").tempdir_in("/tmp");
        let directory = directory.expect("make a directory in /tmp");
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("chmod");
        for name in ["bin", "run", "data", "config", "home", "logs", "volumes"] {
            make_directory(&directory.path().join(name), &account);
        }
        let binaries = binaries();
        let mut bin = binaries.clone();
        let mut stage = None;
        if account.is_dedicated() {
            bin = directory.path().join("bin");
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("usnea-test-{}-{count}", std::process::id());
            stage = Some(Stage::new(&binaries, &bin, &account, options.cgroups.then_some(name)));
        }
        if let Some(mib) = options.data_mib {
            let stage = stage.as_ref().ok_or_else(|| Skip::because("only root can mount"))?;
            stage.mount_memory(&directory.path().join("data"), &account, mib);
        }
        let environment = options.environment;
        let instance =
            Self { account, directory, bin, daemon: Mutex::new(None), environment, stage };
        if !options.config.is_empty() {
            make_directory(&instance.config_directory(), &instance.account);
            instance
                .write(&instance.config_directory().join("config.toml"), options.config.as_bytes());
        }
        Ok(instance)
    }

    /// Who runs the daemon.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The directory that contains all others of this instance.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The CRI socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.runtime_directory().join("usnea.sock")
    }

    /// `$XDG_RUNTIME_DIR/usnea`.
    #[must_use]
    pub fn runtime_directory(&self) -> PathBuf {
        self.directory().join("run/usnea")
    }

    /// `$XDG_DATA_HOME/usnea`.
    #[must_use]
    pub fn data_directory(&self) -> PathBuf {
        self.directory().join("data/usnea")
    }

    /// `$XDG_CONFIG_HOME/usnea`.
    #[must_use]
    pub fn config_directory(&self) -> PathBuf {
        self.directory().join("config/usnea")
    }

    /// `$HOME`.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.directory().join("home")
    }

    /// Makes a directory for logs.
    #[must_use]
    pub fn log_directory(&self, name: &str) -> PathBuf {
        self.user_directory(&format!("logs/{name}"))
    }

    /// Makes a directory for mounting into containers.
    #[must_use]
    pub fn volume(&self, name: &str) -> PathBuf {
        self.user_directory(&format!("volumes/{name}"))
    }

    fn user_directory(&self, name: &str) -> PathBuf {
        let path = self.directory().join(name);
        make_directory(&path, &self.account);
        path
    }

    /// Writes a file that the user owns.
    pub fn write(&self, path: &Path, content: &[u8]) {
        fs::write(path, content)
            .unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        chown(path, Some(self.account.uid), Some(self.account.gid)).expect("chown");
    }

    /// The `usnea` command with `args`, as the user, ready to run.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        self.command_of(&self.bin.join("usnea"), args)
    }

    /// Any program with `args`, as the user and where the daemon is started, ready to run.
    #[must_use]
    pub fn command_of(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = match &self.stage {
            Some(stage) => {
                let mut command = stage.command(&self.account);
                command.arg(program);
                command
            }
            None => Command::new(program),
        };
        command.args(args).current_dir("/").stdin(Stdio::null()).env_clear();
        for (name, directory) in [
            ("HOME", "home"),
            ("XDG_RUNTIME_DIR", "run"),
            ("XDG_DATA_HOME", "data"),
            ("XDG_CONFIG_HOME", "config"),
        ] {
            command.env(name, self.directory().join(directory));
        }
        command.env("USER", &self.account.name);
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs the `usnea` command to its end.
    #[must_use]
    pub fn usnea(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("run usnea")
    }

    /// Runs the `usnea` command, which must succeed, and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn usnea_ok(&self, args: &[&str]) -> String {
        let output = self.usnea(args);
        let [stdout, stderr] = [output.stdout, output.stderr]
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(output.status.success(), "usnea {args:?}: {}\n{stdout}{stderr}", output.status);
        stdout
    }

    /// Starts the daemon and waits until it answers.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_daemon(&self) {
        let log = OpenOptions::new().create(true).append(true).open(self.daemon_log_path());
        let log = log.expect("open the daemon's log");
        let error_log = log.try_clone().expect("duplicate a descriptor");
        let mut command = self.command(&["serve"]);
        let child = command.stdout(log).stderr(error_log).spawn().expect("start usnea serve");
        *self.lock_daemon() = Some(child);
        self.wait_until_ready();
    }

    fn wait_until_ready(&self) {
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.answers() {
            let exited = self.lock_daemon().as_mut().and_then(|child| child.try_wait().ok()?);
            if exited.is_some() || Instant::now() > deadline {
                panic!("usnea serve does not answer ({exited:?}); its log:\n{}", self.daemon_log());
            }
            sleep(POLL);
        }
    }

    /// Whether the daemon answers `Version` now.
    #[must_use]
    pub fn answers(&self) -> bool {
        let ask = async {
            let Ok(mut cri) = connect(&self.socket()).await else { return false };
            cri.runtime.version(VersionRequest::default()).await.is_ok()
        };
        // In a thread of its own, because the caller's may have a runtime already.
        thread::scope(|scope| scope.spawn(|| block_on(ask)).join().expect("no panic"))
    }

    /// Whether the daemon has been started and has not ended.
    #[must_use]
    pub fn runs(&self) -> bool {
        let mut daemon = self.lock_daemon();
        daemon.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_none()))
    }

    /// The daemon's process id.
    ///
    /// # Panics
    /// When it has been killed.
    #[must_use]
    pub fn daemon(&self) -> Process {
        let daemon = self.lock_daemon();
        let id = daemon.as_ref().expect("the daemon runs").id();
        Process { pid: i32::try_from(id).expect("pids fit") }
    }

    /// Sends SIGKILL to the daemon and waits for its end.
    pub fn kill_daemon(&self) {
        self.end_daemon(Signal::SIGKILL);
    }

    /// Kills the daemon and starts it again.
    pub fn restart(&self) {
        self.kill_daemon();
        self.start_daemon();
    }

    /// Ends the daemon as a service manager would.
    pub fn stop(&self) {
        self.end_daemon(Signal::SIGTERM);
    }

    fn end_daemon(&self, signal: Signal) {
        let Some(mut child) = self.lock_daemon().take() else { return };
        let pid = i32::try_from(child.id()).expect("pids fit");
        signal_if_alive(pid, signal);
        let deadline = Instant::now() + STOP_TIMEOUT;
        while child.try_wait().expect("wait for the daemon").is_none() {
            if Instant::now() > deadline {
                signal_if_alive(pid, Signal::SIGKILL);
            }
            sleep(POLL);
        }
    }

    /// What the daemon has logged, with what earlier ones of this instance have.
    #[must_use]
    pub fn daemon_log(&self) -> String {
        fs::read_to_string(self.daemon_log_path()).unwrap_or_default()
    }

    fn daemon_log_path(&self) -> PathBuf {
        self.directory().join("daemon.log")
    }

    /// The `usnea node hold` of this instance: it says itself who it is, because only root may look into it.
    #[must_use]
    pub fn node_holder(&self) -> Option<Process> {
        let status = self.command(&["node", "status"]).output().ok()?;
        let facts: serde_json::Value = serde_json::from_slice(&status.stdout).ok()?;
        let pid = i32::try_from(facts["pid"].as_i64()?).ok()?;
        Some(Process { pid })
    }

    /// The shims of this instance.
    #[must_use]
    pub fn shims(&self) -> Vec<Process> {
        let is_shim = |process: &Process| {
            let line = process.command_line();
            line.split(' ').next().is_some_and(|program| program.contains("usnea-shim"))
        };
        self.scope().processes().into_iter().filter(is_shim).collect()
    }

    fn own_processes(&self) -> Vec<Process> {
        let run = self.directory().join("run");
        let run = run.to_str().expect("test paths are UTF-8");
        let is_ours = |process: &Process| process.has_env("XDG_RUNTIME_DIR", run);
        processes::all().into_iter().filter(is_ours).collect()
    }

    /// What belongs to this instance, for the leak audit.
    #[must_use]
    pub fn scope(&self) -> Scope {
        let holder = self.node_holder();
        let daemon = self.lock_daemon().as_ref().and_then(|child| i32::try_from(child.id()).ok());
        let daemon = daemon.map(|pid| Process { pid });
        Scope {
            directory: self.directory().to_owned(),
            cgroup: self.stage.as_ref().and_then(Stage::cgroup),
            user_namespace: holder.and_then(|process| process.namespace("user")),
            mount_views: holder.into_iter().chain(self.stage_process()).collect(),
            residents: holder.into_iter().chain(daemon).collect(),
        }
    }

    fn stage_process(&self) -> Option<Process> {
        self.stage.as_ref().map(|stage| Process { pid: stage.pid() })
    }

    fn lock_daemon(&self) -> MutexGuard<'_, Option<Child>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills whatever is left, first of all the holder, so that nothing starts anew.
    fn kill_leftovers(&self, scope: &Scope) {
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            let mut left = scope.processes();
            left.extend(self.own_processes());
            if left.is_empty() || Instant::now() > deadline {
                return;
            }
            for process in left {
                signal_if_alive(process.pid, Signal::SIGKILL);
            }
            sleep(POLL);
        }
    }

    /// Files of subordinate ids can only be removed by root or inside a user namespace that has these ids.
    fn remove_files(&self) {
        if !self.account.is_dedicated() {
            let data = self.data_directory();
            let command = ["unshare", "--map-root-user", "--map-auto", "rm", "-rf", "--"];
            let status = Command::new(command[0]).args(&command[1..]).arg(data).status();
            status.expect("run unshare(1)");
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let scope = self.scope();
        self.stop();
        if let Some(holder) = self.node_holder() {
            signal_if_alive(holder.pid, Signal::SIGTERM);
        }
        self.kill_leftovers(&scope);
        self.remove_files();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("start a runtime").block_on(future)
}

fn signal_if_alive(pid: i32, signal: Signal) {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
        Err(errno) => panic!("send {signal} to {pid}: {errno}"),
    }
}

fn make_directory(path: &Path, account: &Account) {
    if !path.exists() {
        fs::create_dir(path).unwrap_or_else(|error| panic!("make {}: {error}", path.display()));
        chown(path, Some(account.uid), Some(account.gid)).expect("chown");
    }
    let mode = Permissions::from_mode(0o755);
    fs::set_permissions(path, mode).expect("chmod");
}

/// The directory with `usnea` and `usnea-shim`: `$USNEA_BIN_DIR`, else where `scripts/build` puts them.
fn binaries() -> PathBuf {
    let directory = std::env::var_os("USNEA_BIN_DIR").map_or_else(default_binaries, PathBuf::from);
    for name in ["usnea", "usnea-shim"] {
        let path = directory.join(name);
        File::open(&path)
            .unwrap_or_else(|error| panic!("{} (made by scripts/build): {error}", path.display()));
    }
    directory
}

fn default_binaries() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target =
        target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"));
    target.join("usnea/debug")
}
