//! A container, from its specification to its end.

use std::{
    ffi::CString,
    fs::{self, File},
    io::Read,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    fcntl::{OFlag, open},
    sys::{signal::Signal, stat::Mode, wait::WaitStatus},
    unistd::{Pid, pipe2},
};
use oci_spec::runtime::Spec;
use runtime::{
    create::{ImageMount, Plan, Report, RootFs, fds, read_report},
    exec::{Program, Started, Stdio, Target},
    start::{ExecStatus, read_exec_status, release},
};
use serde_json::{Value, json};
use sys::{
    cgroup::Cgroup,
    memfd, pidfd,
    spawn::{Spawn, spawn},
};

use crate::node::{Node, make_image};

/// What goes into a container.
pub(crate) struct Recipe<'a> {
    node: &'a Node,
    pub(crate) id: String,
    pub(crate) spec: Value,
    pub(crate) directory: PathBuf,
    pub(crate) pid_namespace: Option<OwnedFd>,
    pub(crate) image_mounts: Vec<ImageMount>,
}

impl<'a> Recipe<'a> {
    pub(crate) fn new(node: &'a Node, id: &str, argv: &[&str]) -> Self {
        let directory = node.directory.path().join(id);
        for name in ["upper", "work", "bundle"] {
            fs::create_dir_all(directory.join(name)).unwrap();
        }
        make_image(&directory.join("layer"));
        Self {
            node,
            id: id.to_owned(),
            spec: specification(id, argv),
            directory,
            pid_namespace: None,
            image_mounts: Vec::new(),
        }
    }

    pub(crate) fn layer(&self) -> PathBuf {
        self.directory.join("layer")
    }

    /// Mounts `sub_path` of the image that consists of the directories `lower` at `/` and its own number.
    pub(crate) fn mount_image(&mut self, lower: &[&str], sub_path: Option<&str>) {
        let name = self.image_mounts.len().to_string();
        let mount_point = self.directory.join("images").join(&name);
        let mount = json!({"destination": format!("/{name}"), "type": "bind", "source": mount_point,
                           "options": ["rbind", "ro"]});
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
        self.image_mounts.push(ImageMount {
            lower: lower.iter().map(|&name| name.to_owned()).collect(),
            sub_path: sub_path.map(PathBuf::from),
            mount_point,
        });
    }

    fn plan(&self) -> Plan {
        Plan {
            container_id: self.id.clone(),
            bundle: self.directory.join("bundle"),
            state_root: self.node.state_root(),
            seccomp_program: Some(self.directory.join("seccomp.bpf")),
            rootfs: RootFs {
                layers_dir: self.directory.clone(),
                lower: vec!["layer".to_owned()],
                upper_dir: self.directory.join("upper"),
                work_dir: self.directory.join("work"),
            },
            image_mounts: self.image_mounts.clone(),
        }
    }

    pub(crate) fn create(self) -> Container<'a> {
        self.try_create().expect("created")
    }

    /// The report of a failure, or the created container.
    pub(crate) fn try_create(self) -> Result<Container<'a>, Report> {
        let json = serde_json::to_vec(&self.spec).unwrap();
        fs::write(self.directory.join("bundle/config.json"), json).unwrap();
        let (output, output_end) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let (report, report_end) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let (exec_status, status_end) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let cgroup = self.node.cgroup.make(Path::new(&self.id)).unwrap();
        let ends = [&output_end, &report_end, &status_end].map(AsFd::as_fd);
        let helper = self.spawn_helper(ends, &cgroup);
        drop((output_end, report_end, status_end));
        let report = read_report(&report).expect("a report");
        nix::sys::wait::waitpid(helper, None).unwrap();
        match report {
            Report::Created { pid } => Ok(Container {
                node: self.node,
                spec: serde_json::from_value(self.spec.clone()).unwrap(),
                seccomp: fs::read(self.directory.join("seccomp.bpf")).ok(),
                pid: Pid::from_raw(pid),
                pidfd: pidfd::open(Pid::from_raw(pid)).expect("a living init"),
                output: Some(output),
                exec_status: Some(exec_status),
                cgroup,
                recipe: self,
            }),
            failed @ Report::Failed { .. } => {
                self.node.cgroup.remove(&self.id).ok();
                Err(failed)
            }
        }
    }

    fn spawn_helper(&self, ends: [BorrowedFd<'_>; 3], cgroup: &Cgroup) -> Pid {
        let exe = File::open("/proc/self/exe").unwrap();
        let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
        let plan = serde_json::to_vec(&self.plan()).unwrap();
        let plan = memfd::sealed_copy(c"plan", plan.as_slice()).unwrap();
        let [output, report, status] = ends;
        let mut fds = vec![
            (null.as_fd(), 0),
            (null.as_fd(), 1),
            (null.as_fd(), 2),
            (null.as_fd(), fds::STDIN),
            (output, fds::STDOUT),
            (output, fds::STDERR),
            (plan.as_fd(), fds::PLAN),
            (report, fds::REPORT),
            (status, fds::EXEC_STATUS),
        ];
        fds.extend(self.pid_namespace.as_ref().map(|fd| (fd.as_fd(), fds::PID_NAMESPACE)));
        let argv: [CString; 2] = [c"it".into(), c"create".into()];
        let child = spawn(&Spawn {
            exe: exe.as_fd(),
            argv: &argv,
            envp: &[],
            fds: &fds,
            cgroup: Some(cgroup.as_fd()),
            new_session: true,
        });
        child.expect("spawn").pid
    }
}

/// A created container; killed and removed when dropped.
pub(crate) struct Container<'a> {
    node: &'a Node,
    pub(crate) recipe: Recipe<'a>,
    pub(crate) spec: Spec,
    pub(crate) seccomp: Option<Vec<u8>>,
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    output: Option<OwnedFd>,
    exec_status: Option<OwnedFd>,
    cgroup: Cgroup,
}

impl Container<'_> {
    pub(crate) fn cgroup_path(&self) -> String {
        format!("{}/{}", self.node.cgroup_path, self.recipe.id)
    }

    pub(crate) fn verify(&self) {
        let path = self.cgroup_path();
        runtime::verify::created(self.pid, &self.spec, Some(&path)).expect("as specified");
    }

    pub(crate) fn start(&mut self) -> ExecStatus {
        release(&self.node.state_root(), &self.recipe.id).expect("released");
        let pipe = self.exec_status.take().expect("not started yet");
        read_exec_status(pipe, Duration::from_secs(5)).expect("exec status")
    }

    /// Everything that the program writes, and its exit.
    pub(crate) fn finish(&mut self) -> (String, WaitStatus) {
        let mut text = String::new();
        File::from(self.output.take().expect("once")).read_to_string(&mut text).unwrap();
        assert!(pidfd::wait_exit(&self.pidfd, Some(5000)).unwrap(), "init ends");
        (text, pidfd::try_reap(&self.pidfd).unwrap().expect("ended"))
    }

    /// Runs a program in the container; its output and what became of it.
    pub(crate) fn exec(&self, argv: &[&str]) -> (String, Started) {
        let (text, started) = self.try_exec(&self.spec, argv);
        (text, started.expect("exec"))
    }

    pub(crate) fn try_exec(
        &self,
        spec: &Spec,
        argv: &[&str],
    ) -> (String, Result<Started, runtime::RuntimeError>) {
        let argv: Vec<String> = argv.iter().map(|&argument| argument.to_owned()).collect();
        let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let null = File::open("/dev/null").unwrap();
        let cgroup = self.cgroup.make(Path::new("exec-1")).unwrap();
        let started = runtime::exec::start(
            &self.node.proof,
            &Program { argv: &argv, spec, seccomp: self.seccomp.as_deref() },
            &Target { init: self.pidfd.as_fd(), init_pid: self.pid, cgroup: Some(cgroup.as_fd()) },
            &Stdio { stdin: null.as_fd(), stdout: write.as_fd(), stderr: write.as_fd() },
        );
        drop(write);
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).unwrap();
        if let Ok(Started::Running { pid, .. }) = &started {
            nix::sys::wait::waitpid(*pid, None).unwrap();
        }
        (text, started)
    }

    pub(crate) fn shell(&self, script: &str) -> String {
        self.exec(&["sh", "-c", script]).0
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // Wherever it is: a failed case may have found that it is not in its cgroup.
        pidfd::send_signal(&self.pidfd, Signal::SIGKILL).ok();
        self.cgroup.kill().unwrap();
        self.cgroup.wait_empty(Duration::from_secs(5)).unwrap();
        nix::sys::wait::waitpid(self.pid, None).ok();
        self.node.cgroup.remove(&self.recipe.id).ok();
        let rootfs = self.recipe.directory.join("bundle/rootfs");
        runtime::create::unmount_rootfs(&rootfs).unwrap();
        runtime::create::forget(&self.node.state_root(), &self.recipe.id).unwrap();
        assert!(fs::read_dir(&rootfs).unwrap().next().is_none(), "nothing mounted any more");
    }
}

fn specification(id: &str, argv: &[&str]) -> Value {
    let capabilities = json!(["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_NET_BIND_SERVICE"]);
    let plain = json!(["nosuid", "noexec", "nodev"]);
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": {
            "cwd": "/",
            "args": argv,
            "env": ["PATH=/bin", "HOME=/root", "B=2", "A=1"],
            "user": {"uid": 0, "gid": 0},
            "noNewPrivileges": true,
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities
            },
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": plain},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": {
            "cgroupsPath": format!("/none/{id}"),
            "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "cgroup"}],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger"],
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
            },
        },
    })
}
