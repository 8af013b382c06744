//! Setting a pod up and taking it down.

use std::{fs, os::unix::fs::MetadataExt};

use nix::{
    sys::{
        signal::{Signal, kill},
        stat::fstat,
    },
    unistd::Pid,
};
use shim_api::v1::{
    GetState, KillContainer, Namespaces, RemoveContainer, SetUpPod, StartContainer, failure::Kind,
    reply, request::Call, to_shim,
};

use crate::harness::{Shim, eventually, hello, lives};

/// Namespaces of its own, with or without pause.
fn request(shim: &Shim, pid: bool) -> SetUpPod {
    let (runtime_dir, shm) = (shim.path("run"), shim.path("shm"));
    fs::create_dir_all(&runtime_dir).unwrap();
    fs::create_dir_all(&shm).unwrap();
    SetUpPod {
        pod_id: "test".to_owned(),
        runtime_dir: runtime_dir.to_str().unwrap().to_owned(),
        namespaces: Some(Namespaces { network: true, ipc: true, uts: true, pid }),
        hostname: "pod-1".to_owned(),
        sysctls: [("net.ipv4.ip_unprivileged_port_start".to_owned(), "80".to_owned())].into(),
        shm_path: shm.to_str().unwrap().to_owned(),
        shm_bytes: 1 << 20,
        ..SetUpPod::default()
    }
}

fn namespace(pid: &str, name: &str) -> u64 {
    fs::metadata(format!("/proc/{pid}/ns/{name}")).unwrap().ino()
}

#[test]
fn a_pod_has_namespaces_of_its_own() {
    let Some(mut shim) = Shim::start() else { return };
    let (pod_up, network) = shim.set_up(request(&shim, false), &[]);
    assert_eq!(pod_up.pause_pid, 0);
    let pid = shim.pid.to_string();
    for name in ["net", "ipc", "uts", "mnt"] {
        assert_ne!(namespace(&pid, name), namespace("self", name), "{name}");
    }
    assert_eq!(fstat(&network).unwrap().st_ino, namespace(&pid, "net"));
    assert_eq!(shim.inside("uname -n"), "pod-1");
    assert_ne!(nix::unistd::gethostname().unwrap(), "pod-1");
    assert_eq!(shim.inside("cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "80");
    assert_eq!(
        shim.inside("cat /sys/class/net/lo/flags; ip -o address show lo | grep -c 127.0.0.1")
            .lines()
            .last(),
        Some("1")
    );
    assert_eq!(shim.stop(), 0);
}

#[test]
fn shared_memory_is_mounted_in_the_pod_alone() {
    let Some(mut shim) = Shim::start() else { return };
    shim.set_up(request(&shim, false), &[]);
    let shm = shim.path("shm");
    let shm = shm.to_str().unwrap();
    let mount = format!("grep ' {shm} ' /proc/self/mountinfo");
    let options = shim.inside(&mount);
    for option in ["nosuid", "nodev", "noexec", "- tmpfs shm", "size=1024k"] {
        assert!(options.contains(option), "{option} in {options}");
    }
    assert_eq!(shim.inside(&format!("stat -c %a {shm}")), "1777");
    let ours = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!ours.contains(shm));
    shim.stop();
}

#[test]
fn the_cgroup_file_system_cannot_be_written_in_a_pod() {
    let Some(mut shim) = Shim::start() else { return };
    if shim.inside("stat -f -c %T /sys/fs/cgroup") != "cgroup2fs" {
        eprintln!("skipped: no cgroup2 file system could be mounted");
        return;
    }
    shim.set_up(request(&shim, false), &[]);
    let refused = shim.inside("mkdir /sys/fs/cgroup/usnea-test 2>&1");
    assert!(refused.contains("Read-only file system"), "{refused}");
    shim.stop();
}

#[test]
fn pause_is_the_first_process_and_reaps_orphans() {
    let Some(mut shim) = Shim::start() else { return };
    let (pod_up, _) = shim.set_up(request(&shim, true), &[]);
    let pause = pod_up.pause_pid;
    let status = fs::read_to_string(format!("/proc/{pause}/status")).unwrap();
    let in_namespace = status.lines().find(|line| line.starts_with("NSpid:")).unwrap();
    assert!(in_namespace.ends_with("\t1"), "{in_namespace}");
    assert_eq!(fs::read_dir(format!("/proc/{pause}/fd")).unwrap().count(), 0, "open descriptors");

    // An orphan that ends: its parent has ended before.
    shim.inside(&format!("nsenter --target {pause} --pid sh -c '(sleep 0.1; exit 3) & exit 0'"));
    let children = format!("/proc/{pause}/task/{pause}/children");
    eventually("the orphan is reaped", || fs::read_to_string(&children).unwrap().is_empty());
    assert!(lives(pause));

    assert_eq!(shim.stop(), 0);
    assert!(!lives(pause));
}

#[test]
fn pause_dies_with_the_shim() {
    let Some(mut shim) = Shim::start() else { return };
    let (pod_up, _) = shim.set_up(request(&shim, true), &[]);
    assert!(lives(pod_up.pause_pid));
    kill(shim.pid, Signal::SIGKILL).unwrap();
    eventually("pause is gone", || !lives(pod_up.pause_pid));
}

#[test]
fn sigterm_stops_the_pod() {
    let Some(mut shim) = Shim::start() else { return };
    let (pod_up, _) = shim.set_up(request(&shim, true), &[]);
    kill(shim.pid, Signal::SIGTERM).unwrap();
    assert_eq!(shim.exit_code(), 0);
    assert!(!lives(pod_up.pause_pid));
}

#[test]
fn a_shim_without_pod_stops() {
    let Some(mut shim) = Shim::start() else { return };
    assert_eq!(shim.stop(), 0);
}

#[test]
fn a_second_set_up_is_refused_and_harmless() {
    let Some(mut shim) = Shim::start() else { return };
    let first = request(&shim, false);
    shim.set_up(first.clone(), &[]);
    let network = namespace(&shim.pid.to_string(), "net");
    let failure = shim.call(Call::SetUpPod(first), &[]).expect_err("twice");
    assert_eq!(failure.kind(), Kind::WrongState, "{failure:?}");
    assert_eq!(namespace(&shim.pid.to_string(), "net"), network);
    shim.stop();
}

#[test]
fn a_failed_set_up_leaves_nothing_running() {
    let Some(mut shim) = Shim::start() else { return };
    let mut broken = request(&shim, true);
    broken.shm_path = shim.path("missing").to_str().unwrap().to_owned();
    let failure = shim.call(Call::SetUpPod(broken), &[]).expect_err("no such directory");
    assert_eq!(failure.kind(), Kind::Internal, "{failure:?}");
    assert!(failure.message.starts_with("mount shared memory at "), "{failure:?}");
    let children = format!("/proc/{0}/task/{0}/children", shim.pid);
    assert_eq!(fs::read_to_string(children).unwrap(), "", "pause is left");

    let mut refused = request(&shim, false);
    refused.sysctls = [("net.ipv4.no_such_key".to_owned(), "1".to_owned())].into();
    let failure = shim.call(Call::SetUpPod(refused), &[]).expect_err("no such key");
    assert_eq!(failure.kind(), Kind::Refused, "{failure:?}");
    shim.set_up(request(&shim, false), &[]);
    shim.stop();
}

#[test]
fn missing_descriptors_are_refused() {
    let Some(mut shim) = Shim::start() else { return };
    let lacking = SetUpPod { has_log_directory: true, ..request(&shim, false) };
    let failure = shim.call(Call::SetUpPod(lacking), &[]).expect_err("no descriptor");
    assert_eq!(failure.kind(), Kind::Refused, "{failure:?}");
}

#[test]
fn unknown_containers_are_not_found_but_removed() {
    let Some(mut shim) = Shim::start() else { return };
    shim.set_up(request(&shim, false), &[]);
    let container_id = "nobody".to_owned();
    for call in [
        Call::StartContainer(StartContainer { container_id: container_id.clone() }),
        Call::KillContainer(KillContainer { container_id: container_id.clone() }),
    ] {
        assert_eq!(shim.call(call, &[]).expect_err("unknown").kind(), Kind::NotFound);
    }
    shim.call(Call::RemoveContainer(RemoveContainer { container_id }), &[])
        .expect("removed already");
    shim.stop();
}

#[test]
fn a_newer_daemon_replaces_the_older() {
    let Some(mut shim) = Shim::start() else { return };
    let (pod_up, _) = shim.set_up(request(&shim, true), &[]);
    shim.reconnect();
    let (result, _) = shim.call(Call::GetState(GetState {}), &[]).unwrap();
    let reply::Result::State(state) = result else { panic!("{result:?}") };
    assert!(state.pod_is_up);
    assert_eq!((state.pause_pid, state.containers.len()), (pod_up.pause_pid, 0));
    shim.stop();
}

#[test]
fn another_protocol_version_is_hung_up_on() {
    let Some(mut shim) = Shim::start_ungreeted() else { return };
    shim.send(to_shim::Message::Hello(hello(999)), &[]);
    assert!(shim.receive().is_some(), "its own Hello");
    assert!(shim.receive().is_none());
    shim.reconnect();
    shim.stop();
}

#[test]
fn a_request_before_hello_is_hung_up_on() {
    let Some(shim) = Shim::start_ungreeted() else { return };
    let call = Some(Call::GetState(GetState {}));
    shim.send(to_shim::Message::Request(shim_api::v1::Request { id: 1, call }), &[]);
    assert!(shim.receive().is_some(), "its own Hello");
    assert!(shim.receive().is_none());
    assert!(lives(shim.pid.as_raw()));
    assert_ne!(shim.pid, Pid::this());
}
