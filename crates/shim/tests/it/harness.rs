//! Starts a shim in namespaces of its own and calls it.

use std::{
    collections::VecDeque,
    ffi::CString,
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{setsockopt, sockopt::ReceiveTimeout},
        time::TimeVal,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, Uid},
};
use shim_api::{
    PROTOCOL_VERSION, recv, send,
    v1::{
        ContainerExited, ExecExited, Failure, Hello, PodUp, Request, SetUpPod, StopPod, ToDaemon,
        ToShim, reply, request::Call, to_daemon, to_shim,
    },
};
use sys::{
    seqpacket,
    spawn::{Spawn, spawn},
};

/// Longer than anything that a shim does.
const PATIENCE: Duration = Duration::from_secs(20);

/// A reply and its descriptors.
pub(crate) type Answer = Result<(reply::Result, Vec<OwnedFd>), Failure>;

/// A running shim and a connection to it.
pub(crate) struct Shim {
    pub(crate) pid: Pid,
    pub(crate) directory: tempfile::TempDir,
    connection: OwnedFd,
    last_request: u64,
    notices: VecDeque<to_daemon::Message>,
    has_exited: bool,
}

impl Shim {
    /// `None` where the kernel or an administrator forbids namespaces; says so.
    pub(crate) fn start() -> Option<Self> {
        let mut shim = Self::start_ungreeted()?;
        shim.greet();
        Some(shim)
    }

    pub(crate) fn start_ungreeted() -> Option<Self> {
        if let Err(reason) = can_unshare() {
            eprintln!("skipped: {reason}");
            return None;
        }
        let directory = tempfile::tempdir().expect("directory");
        let socket = directory.path().join("shim.sock");
        let listener = seqpacket::listen_at(&socket).expect("listen");
        let pid = start_process(&listener);
        let connection = connect(&socket);
        Some(Self {
            pid,
            directory,
            connection,
            last_request: 0,
            notices: VecDeque::new(),
            has_exited: false,
        })
    }

    fn greet(&mut self) {
        self.send(to_shim::Message::Hello(hello(PROTOCOL_VERSION)), &[]);
        let theirs = match self.receive() {
            Some((to_daemon::Message::Hello(hello), _)) => hello,
            other => panic!("no Hello but {other:?}"),
        };
        assert_eq!((theirs.version, theirs.pid), (PROTOCOL_VERSION, self.pid.as_raw()));
    }

    /// Another daemon takes the place of this one.
    pub(crate) fn reconnect(&mut self) {
        self.connection = connect(&self.path("shim.sock"));
        self.greet();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn send(&self, message: to_shim::Message, fds: &[BorrowedFd<'_>]) {
        send(&self.connection, &ToShim { message: Some(message) }, fds).expect("send");
    }

    /// `None` when the shim has closed the connection.
    pub(crate) fn receive(&self) -> Option<(to_daemon::Message, Vec<OwnedFd>)> {
        let (message, fds) = recv::<ToDaemon>(&self.connection).expect("a message in time")?;
        Some((message.message.expect("a known message"), fds))
    }

    pub(crate) fn call(&mut self, call: Call, fds: &[BorrowedFd<'_>]) -> Answer {
        self.last_request += 1;
        let id = self.last_request;
        self.send(to_shim::Message::Request(Request { id, call: Some(call) }), fds);
        loop {
            match self.receive().expect("the shim lives") {
                (to_daemon::Message::Reply(reply), fds) => {
                    assert_eq!(reply.id, id);
                    return match reply.result.expect("a result") {
                        reply::Result::Failure(failure) => Err(failure),
                        result => Ok((result, fds)),
                    };
                }
                (notice, _) => self.notices.push_back(notice),
            }
        }
    }

    pub(crate) fn set_up(&mut self, request: SetUpPod, fds: &[BorrowedFd<'_>]) -> (PodUp, OwnedFd) {
        match self.call(Call::SetUpPod(request), fds) {
            Ok((reply::Result::PodUp(pod_up), mut fds)) => (pod_up, fds.remove(0)),
            other => panic!("{other:?}"),
        }
    }

    /// The next thing that the shim tells unasked.
    pub(crate) fn notice(&mut self) -> to_daemon::Message {
        self.notices.pop_front().unwrap_or_else(|| self.receive().expect("the shim lives").0)
    }

    pub(crate) fn container_exited(&mut self) -> ContainerExited {
        match self.notice() {
            to_daemon::Message::ContainerExited(exited) => exited,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn exec_exited(&mut self) -> ExecExited {
        match self.notice() {
            to_daemon::Message::ExecExited(exited) => exited,
            other => panic!("{other:?}"),
        }
    }

    /// Stops the pod and returns the shim's exit code.
    pub(crate) fn stop(&mut self) -> i32 {
        let (result, _) = self.call(Call::StopPod(StopPod {}), &[]).expect("stopped");
        assert!(matches!(result, reply::Result::Done(_)), "{result:?}");
        self.exit_code()
    }

    /// Waits for the shim's end.
    pub(crate) fn exit_code(&mut self) -> i32 {
        let mut code = None;
        eventually("the shim ends", || {
            match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)).expect("our child") {
                WaitStatus::Exited(_, exit_code) => code = Some(exit_code),
                WaitStatus::StillAlive => {}
                other => panic!("{other:?}"),
            }
            code.is_some()
        });
        self.has_exited = true;
        code.expect("exit code")
    }

    /// Runs a shell script in the pod's namespaces and returns what it prints.
    pub(crate) fn inside(&self, script: &str) -> String {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--target", &self.pid.to_string()]);
        nsenter.args(["--user", "--preserve-credentials", "--mount", "--uts", "--ipc", "--net"]);
        let output = nsenter.args(["sh", "-c", script]).output().expect("nsenter");
        String::from_utf8(output.stdout).expect("UTF-8").trim_end().to_owned()
    }
}

impl Drop for Shim {
    /// Stops the pod, so that a failed test leaves nothing either.
    fn drop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        if !self.has_exited {
            kill(self.pid, Signal::SIGTERM).ok();
        }
        while !self.has_exited && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
            self.has_exited =
                waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) != Ok(WaitStatus::StillAlive);
        }
        if !self.has_exited {
            kill(self.pid, Signal::SIGKILL).ok();
            waitpid(self.pid, None).ok();
        }
    }
}

pub(crate) fn hello(version: u32) -> Hello {
    Hello { version, release: "test".to_owned(), pid: 0 }
}

fn connect(socket: &Path) -> OwnedFd {
    let connection = seqpacket::connect_to(socket).expect("connect");
    let seconds = i64::try_from(PATIENCE.as_secs()).expect("i64");
    setsockopt(&connection, ReceiveTimeout, &TimeVal::new(seconds, 0)).expect("timeout");
    connection
}

/// In a user namespace, as on a node. An ordinary user can map itself alone, without further programs.
fn unshare_flags() -> &'static [&'static str] {
    if Uid::effective().is_root() {
        &["--user", "--mount", "--cgroup"]
    } else {
        &["--user", "--mount", "--cgroup", "--map-root-user"]
    }
}

fn can_unshare() -> Result<(), String> {
    let status = Command::new("unshare").args(unshare_flags()).arg("true").status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("unshare {}: {status}", unshare_flags().join(" "))),
        Err(error) => Err(format!("unshare: {error}")),
    }
}

/// By way of unshare(1), which becomes the shim: with a cgroup file system where nodes have it.
fn start_process(listener: &OwnedFd) -> Pid {
    let script = "until test $(id -u) = 0; do sleep 0.01; done
        mount -t cgroup2 none /sys/fs/cgroup
        exec \"$0\" pod test";
    let program = env!("CARGO_BIN_EXE_usnea-shim");
    let arguments = [&["unshare"], unshare_flags(), &["sh", "-c", script, program]].concat();
    let argv: Vec<CString> =
        arguments.into_iter().map(|a| CString::new(a).expect("no NUL")).collect();
    let exe = File::open("/usr/bin/unshare").expect("unshare");
    let null = File::options().read(true).write(true).open("/dev/null").expect("null");
    let stderr = std::io::stderr();
    let child = spawn(&Spawn {
        exe: exe.as_fd(),
        argv: &argv,
        envp: &[c"PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
        fds: &[(null.as_fd(), 0), (null.as_fd(), 1), (stderr.as_fd(), 2), (listener.as_fd(), 3)],
        cgroup: None,
        new_session: true,
    });
    let pid = child.expect("start the shim").pid;
    if Uid::effective().is_root() {
        map_ids(pid);
    }
    pid
}

/// Maps what a node has: 65536 ids.
fn map_ids(pid: Pid) {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/user")).ok();
    let own = namespace("self");
    eventually("a user namespace", || namespace(&pid.to_string()) != own);
    for file in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{pid}/{file}"), "0 0 65536").expect(file);
    }
}

/// Waits until `condition` holds, which it must within the tests' patience.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether `pid` lives; a zombie does not.
pub(crate) fn lives(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
