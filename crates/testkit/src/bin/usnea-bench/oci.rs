//! What other runtimes take for comparable work: their commands, in the same node, as the same user.
//!
//! The commands are timed by this program inside the node, so that entering it does not count.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use testkit::{Instance, image::busybox_path};

use crate::{Rounds, figures::Figure};

/// The first argument of this program when it is started inside the node.
pub(crate) const INSIDE: &str = "inside-node";
/// The runtimes, which are also the names of their Debian packages.
const RUNTIMES: [&str; 2] = ["crun", "runc"];
/// What a container of a pod has for itself, and IPC, because the node has none that may be mounted as `/dev/mqueue`.
const OWN_NAMESPACES: [&str; 3] = ["pid", "mount", "ipc"];
/// What a pod and its container have for themselves.
const ALL_NAMESPACES: [&str; 5] = ["pid", "mount", "ipc", "uts", "network"];
const CAPABILITIES: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// The figures of each runtime that is installed, and a line about each that is not.
pub(crate) fn compare(instance: &Instance, rounds: Rounds) -> (Vec<Figure>, Vec<String>) {
    let mut figures = Vec::new();
    let mut remarks = Vec::new();
    // This program may lie where only its builder can read.
    let program = instance.volume("compare").join("usnea-bench");
    fs::copy(std::env::current_exe().expect("this program's path"), &program).expect("copy");
    for name in RUNTIMES {
        match find(name) {
            Some(runtime) => match run_inside(instance, &program, &runtime, rounds) {
                Ok(found) => figures.extend(found),
                Err(reason) => remarks.push(format!("{name} failed: {reason}")),
            },
            None => remarks.push(format!("{name} is not installed: apt-get install {name}")),
        }
    }
    (figures, remarks)
}

/// A program of the system, where distributions put it.
fn find(name: &str) -> Option<PathBuf> {
    let directories = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];
    directories.map(|directory| Path::new(directory).join(name)).into_iter().find(|it| it.exists())
}

fn run_inside(
    instance: &Instance,
    program: &Path,
    runtime: &Path,
    rounds: Rounds,
) -> Result<Vec<Figure>, String> {
    let name = runtime.file_name().and_then(|name| name.to_str()).expect("found by its name");
    let directory = instance.volume(name);
    let mut command = instance.command(&["node", "exec", "--"]);
    command.arg(program).arg(INSIDE).arg(runtime).arg(directory);
    let output = command.arg(rounds.counted.to_string()).output().expect("run usnea node exec");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let times: Value = serde_json::from_slice(&output.stdout).expect("times as JSON");
    let figure = |entry: &Value| {
        let what = entry["name"].as_str().expect("a name");
        let times = entry["nanoseconds"].as_array().expect("a list").iter();
        let times = times.map(|time| Duration::from_nanos(time.as_u64().expect("a number")));
        Figure::times(&format!("{name} {what}"), &times.collect::<Vec<_>>())
    };
    Ok(times.as_array().expect("a list").iter().map(figure).collect())
}

/// The part that runs inside the node: measures `runtime` with a bundle in `directory` and returns the times.
pub(crate) fn inside(runtime: &Path, directory: &Path, rounds: Rounds) -> Value {
    make_rootfs(&directory.join("rootfs"));
    let runtime = Runtime { program: runtime.to_owned(), directory: directory.to_owned() };
    let mut entries = Vec::new();
    let mut add = |name: &str, times: &[Duration]| {
        let times = times.get(rounds.warm_up..).unwrap_or_default();
        let nanoseconds: Vec<u64> =
            times.iter().map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)).collect();
        entries.push(json!({ "name": name, "nanoseconds": nanoseconds }));
    };
    let (up, down) = runtime.lives(&OWN_NAMESPACES, rounds);
    add("create, start; joins UTS, network", &up);
    add("delete --force of it", &down);
    let (up, down) = runtime.lives(&ALL_NAMESPACES, rounds);
    add("create, start; all namespaces new", &up);
    add("delete --force of it", &down);
    add("exec /bin/true", &runtime.execs(rounds));
    Value::Array(entries)
}

/// A runtime and where its bundle is.
#[derive(Debug)]
struct Runtime {
    program: PathBuf,
    directory: PathBuf,
}

impl Runtime {
    /// How long each container took to come up, and to be killed and deleted.
    fn lives(&self, namespaces: &[&str], rounds: Rounds) -> (Vec<Duration>, Vec<Duration>) {
        let live = |round: usize| {
            let id = format!("life-{}-{round}", namespaces.len());
            self.write_config(namespaces, &id);
            let up = self.up(&id);
            (up, time(|| self.run(&["delete", "--force", &id])))
        };
        (0..rounds.all()).map(live).unzip()
    }

    fn execs(&self, rounds: Rounds) -> Vec<Duration> {
        let id = "exec";
        self.write_config(&OWN_NAMESPACES, id);
        self.up(id);
        let times = (0..rounds.all()).map(|_| time(|| self.run(&["exec", id, "/bin/true"])));
        let times = times.collect();
        self.run(&["delete", "--force", id]);
        times
    }

    fn up(&self, id: &str) -> Duration {
        let bundle = self.directory.to_str().expect("the path is UTF-8");
        time(|| {
            self.run(&["create", "--bundle", bundle, id]);
            self.run(&["start", id]);
        })
    }

    fn run(&self, arguments: &[&str]) {
        let log = self.directory.join("log");
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.directory.join("state")).args(arguments);
        // The container inherits them: a pipe would be held open by it.
        let output = File::create(&log).expect("create the log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
        let status = command.status().expect("run the runtime");
        let said = || fs::read_to_string(&log).unwrap_or_default();
        assert!(status.success(), "{command:?}: {status}: {}", said());
    }

    fn write_config(&self, namespaces: &[&str], id: &str) {
        let config = config(namespaces, id).to_string();
        fs::write(self.directory.join("config.json"), config).expect("write the configuration");
    }
}

/// A container that is made like those of pods: same capabilities, same mounts, a cgroup.
///
/// Source: OCI runtime specification, config.md and config-linux.md.
fn config(namespaces: &[&str], id: &str) -> Value {
    let namespaces: Vec<Value> = namespaces.iter().map(|kind| json!({ "type": kind })).collect();
    let capabilities = json!({
        "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
    });
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "args": ["/bin/sleep", "3600"], "env": ["PATH=/bin"], "cwd": "/",
            "user": { "uid": 0, "gid": 0 }, "capabilities": capabilities, "noNewPrivileges": true,
        },
        "root": { "path": "rootfs" },
        "mounts": [
            mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "namespaces": namespaces, "cgroupsPath": format!("/bench/{id}"),
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"],
        },
    })
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": kind, "source": source, "options": options })
}

fn make_rootfs(root: &Path) {
    for name in ["bin", "dev", "proc", "sys"] {
        fs::create_dir_all(root.join(name)).expect("make the root");
    }
    fs::copy(busybox_path(), root.join("bin/busybox")).expect("copy busybox");
    for applet in ["sleep", "true"] {
        symlink("busybox", root.join("bin").join(applet)).expect("link an applet");
    }
}

fn time(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}
