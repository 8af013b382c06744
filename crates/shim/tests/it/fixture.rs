//! A pod that is up, with an image of busybox, logs and, where the kernel lets us, cgroups.

use std::{
    fs::{self, File},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::symlink,
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::{Value, json};
use shim_api::v1::{
    ContainerCreated, ContainerStarted, CreateContainer, Failure, KillContainer, Namespaces,
    PidNamespace, RemoveContainer, RootFs, SetUpPod, StartContainer, reply, request::Call,
};
use sys::{
    cgroup::Cgroup,
    mount::{FsContext, MountAttributes},
};

use crate::harness::Shim;

/// A static program that is a shell and all tools.
const BUSYBOX: &str = "/usr/bin/busybox";

/// A pod in a shim of its own.
pub(crate) struct Pod {
    pub(crate) shim: Shim,
    pub(crate) pause_pid: i32,
    pub(crate) cgroups: Option<TestCgroup>,
}

impl Pod {
    /// With cgroups where they are to be had.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(TestCgroup::new())
    }

    pub(crate) fn start_without_cgroups() -> Option<Self> {
        Self::start_with(None)
    }

    fn start_with(cgroups: Option<TestCgroup>) -> Option<Self> {
        if !Path::new(BUSYBOX).exists() {
            eprintln!("skipped: no {BUSYBOX}");
            return None;
        }
        let shim = Shim::start()?;
        let mut pod = Self { shim, pause_pid: 0, cgroups };
        pod.make_image();
        for directory in ["run", "logs", "shm"] {
            fs::create_dir_all(pod.shim.path(directory)).unwrap();
        }
        let request = SetUpPod {
            pod_id: "test".to_owned(),
            runtime_dir: pod.text("run"),
            namespaces: Some(Namespaces { network: true, ipc: true, uts: true, pid: true }),
            hostname: "pod-1".to_owned(),
            has_log_directory: true,
            has_cgroup_root: pod.cgroups.is_some(),
            pause_cgroup: "pause".to_owned(),
            ..SetUpPod::default()
        };
        let logs = File::open(pod.shim.path("logs")).unwrap();
        let mut fds = vec![logs.as_fd()];
        fds.extend(pod.cgroups.as_ref().map(|cgroups| cgroups.root.as_fd()));
        pod.pause_pid = pod.shim.set_up(request, &fds).0.pause_pid;
        Some(pod)
    }

    fn make_image(&self) {
        let layer = self.shim.path("layers/base");
        for directory in ["bin", "tmp", "proc", "dev", "sys"] {
            fs::create_dir_all(layer.join(directory)).unwrap();
        }
        fs::copy(BUSYBOX, layer.join("bin/busybox")).unwrap();
        for name in
            ["sh", "sleep", "cat", "echo", "kill", "ps", "yes", "head", "seq", "id", "touch"]
        {
            symlink("busybox", layer.join("bin").join(name)).unwrap();
        }
    }

    /// A path in the test's directory, as messages have it.
    pub(crate) fn text(&self, name: &str) -> String {
        self.shim.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn container(&self, id: &str, script: &str) -> Container {
        // A volatile overlay's directories serve one mount.
        static ATTEMPTS: AtomicU32 = AtomicU32::new(0);
        let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
        let capabilities = ["CAP_CHOWN", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"];
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["sh", "-c", script],
                "env": ["PATH=/bin", "HOME=/", "GREETING=hello"],
                "cwd": "/",
                "noNewPrivileges": true,
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                },
            },
            "root": {"path": self.text(&format!("{id}/rootfs"))},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            ],
            "linux": {
                "cgroupsPath": format!("/none/{id}"),
                "namespaces": [{"type": "mount"}, {"type": "pid"}],
            },
        });
        let request = CreateContainer {
            container_id: id.to_owned(),
            bundle: self.text(&format!("{id}/bundle")),
            rootfs: Some(RootFs {
                layers_dir: self.text("layers"),
                lower: vec!["base".to_owned()],
                upper_dir: self.text(&format!("{id}/upper{attempt}")),
                work_dir: self.text(&format!("{id}/work{attempt}")),
            }),
            cgroup: self.cgroups.as_ref().map_or(String::new(), |_| id.to_owned()),
            log_path: format!("{id}/0.log"),
            record_dir: self.text(&format!("{id}/record")),
            ..CreateContainer::default()
        };
        Container { spec, request }
    }

    pub(crate) fn create(&mut self, container: &Container) -> Result<i32, Failure> {
        let id = &container.request.container_id;
        for directory in ["bundle", "record", "rootfs"] {
            fs::create_dir_all(self.shim.path(id).join(directory)).unwrap();
        }
        let rootfs = container.request.rootfs.as_ref().unwrap();
        for directory in [&rootfs.upper_dir, &rootfs.work_dir] {
            fs::create_dir_all(directory).unwrap();
        }
        let config = self.shim.path(id).join("bundle/config.json");
        fs::write(config, container.spec.to_string()).unwrap();
        match self.shim.call(Call::CreateContainer(container.request.clone()), &[])? {
            (reply::Result::ContainerCreated(ContainerCreated { pid }), _) => Ok(pid),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn start_container(&mut self, id: &str) -> Result<i64, Failure> {
        let call = Call::StartContainer(StartContainer { container_id: id.to_owned() });
        match self.shim.call(call, &[])? {
            (reply::Result::ContainerStarted(ContainerStarted { started_at }), _) => Ok(started_at),
            other => panic!("{other:?}"),
        }
    }

    /// Makes and starts a container that runs `script`; returns its init.
    pub(crate) fn run(&mut self, id: &str, script: &str) -> i32 {
        let container = self.container(id, script);
        let pid = self.create(&container).expect("created");
        self.start_container(id).expect("started");
        pid
    }

    pub(crate) fn kill(&mut self, id: &str) -> Result<(), Failure> {
        self.shim
            .call(Call::KillContainer(KillContainer { container_id: id.to_owned() }), &[])
            .map(drop)
    }

    pub(crate) fn remove(&mut self, id: &str) -> Result<(), Failure> {
        self.shim
            .call(Call::RemoveContainer(RemoveContainer { container_id: id.to_owned() }), &[])
            .map(drop)
    }

    pub(crate) fn log_path(&self, id: &str) -> PathBuf {
        self.shim.path("logs").join(id).join("0.log")
    }

    /// Stream, tag and text of each record in a container's log.
    pub(crate) fn log(&self, id: &str) -> Vec<String> {
        records(&fs::read_to_string(self.log_path(id)).unwrap())
    }

    pub(crate) fn exit_record(&self, id: &str) -> Value {
        serde_json::from_slice(&fs::read(self.shim.path(id).join("record/exit.json")).unwrap())
            .unwrap()
    }

    /// Names of the cgroups that the shim has made.
    pub(crate) fn cgroup_names(&self) -> Vec<String> {
        let names = self.cgroups.iter().flat_map(|cgroups| cgroups.root.child_names().unwrap());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Mount points below the test's directory, in the pod.
    pub(crate) fn mounts(&self) -> Vec<String> {
        let mountinfo = self.shim.inside("cat /proc/self/mountinfo");
        let directory = self.text("");
        let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
        points.filter(|point| point.starts_with(&directory)).map(str::to_owned).collect()
    }
}

/// A container to make.
pub(crate) struct Container {
    pub(crate) spec: Value,
    pub(crate) request: CreateContainer,
}

impl Container {
    /// Joins a PID namespace instead of making one, or stays in the shim's.
    pub(crate) fn pid_namespace(mut self, which: PidNamespace) -> Self {
        self.request.set_pid_namespace(which);
        self.spec["linux"]["namespaces"] = match which {
            PidNamespace::Container => json!([{"type": "mount"}, {"type": "pid"}]),
            PidNamespace::Pod | PidNamespace::Target => {
                json!([{"type": "mount"}, {"type": "pid", "path": "/proc/self/fd/3"}])
            }
            PidNamespace::Node => json!([{"type": "mount"}]),
        };
        if which == PidNamespace::Node {
            // Only who has made a PID namespace may mount its processes.
            self.spec["mounts"][0] = json!({"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"]});
        }
        self
    }
}

/// What follows the timestamp of each record, which is checked.
pub(crate) fn records(log: &str) -> Vec<String> {
    assert!(log.is_empty() || log.ends_with('\n'), "a torn record ends {log:?}");
    let record = |line: &str| {
        let (timestamp, rest) = line.split_once(' ').expect("a timestamp");
        assert_eq!((timestamp.len(), timestamp.as_bytes()[29]), (30, b'Z'), "{line}");
        assert!(timestamp.starts_with("20"), "{line}");
        rest.to_owned()
    };
    log.lines().map(record).collect()
}

/// A cgroup in which a test's pod has its own, removed in the end.
pub(crate) struct TestCgroup {
    above: Cgroup,
    name: String,
    pub(crate) root: Cgroup,
}

impl TestCgroup {
    fn new() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "usnea-shim-test-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        match mount_cgroups()
            .and_then(|above| above.make(Path::new(&name)).map(|root| (above, root)))
        {
            Ok((above, root)) => Some(Self { above, name, root }),
            Err(errno) => {
                eprintln!("without cgroups: {errno}");
                None
            }
        }
    }
}

/// The cgroup file system, mounted for this descriptor alone.
fn mount_cgroups() -> nix::Result<Cgroup> {
    let mount: OwnedFd = FsContext::open(c"cgroup2")?.mount(MountAttributes::default())?;
    // Through the path, because the mount itself is an O_PATH descriptor.
    Cgroup::open(&sys::fd::proc_path(&mount).join("."))
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        self.root.kill().ok();
        self.root.wait_empty(std::time::Duration::from_secs(5)).ok();
        self.above.remove(&self.name).ok();
    }
}
