//! The daemon or a shim is killed: what goes on, and what is known afterwards.

use std::{
    collections::BTreeMap,
    fs::File,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cri_api::v1::{
    ContainerFilter, ContainerState, ContainerStatus, PodSandboxFilter, PodSandboxState,
};
use it::{LogLine, Outcome, Scenario, parse_log};
use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{self, AddressFamily, SockFlag, SockType, UnixAddr},
    },
    unistd::Pid,
};
use testkit::{Options, pod, processes::Process};
use tonic::Code;

use crate::cycles::Random;

it::tests!("restart":
    everything_is_listed_as_before,
    exits_in_the_meantime_are_told_with_code_and_time,
    logs_have_no_gap,
    everything_can_be_used_and_removed_afterwards,
    killed_at_any_moment_objects_are_whole_or_absent,
    a_killed_shim_ends_its_pod_and_no_other,
    a_shim_killed_in_the_meantime_is_noticed,
    a_broken_record_harms_nobody_else,
    a_silent_shim_is_waited_for,
    containers_of_a_silent_shim_can_be_stopped_and_removed,
    a_lost_connection_is_made_again,
    a_second_daemon_is_refused,
);

/// Times at which the daemon is killed during a loop of calls.
const KILLS: u32 = 12;
const RANDOM_MILLISECONDS: u64 = 120;

async fn restart(t: &mut Scenario) {
    t.instance().restart();
    t.reconnect().await;
}

async fn everything_is_listed_as_before(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let ready = t.run(pod("ready").label("a", "b")).await;
    let stopped = t.run(pod("stopped")).await;
    t.stop_pod(&stopped).await;
    t.launch(&ready, t.sleeper("running").label("a", "b")).await;
    t.create(&ready, t.sleeper("created")).await;
    let exited = t.launch(&ready, t.busybox("exited").script("exit 3")).await;
    t.exited(&exited).await;
    let before = everything(t).await;
    restart(t).await;
    assert_eq!(everything(t).await, before);
    restart(t).await;
    assert_eq!(everything(t).await, before);
    Ok(())
}

/// Both lists and every status, as text.
async fn everything(t: &Scenario) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for pod in t.list_pods(PodSandboxFilter::default()).await {
        let status = t.pod_status(&pod.id).await;
        all.insert(pod.id.clone(), format!("{pod:?} {status:?}"));
    }
    for container in t.list_containers(ContainerFilter::default()).await {
        let status = t.status(&container.id).await;
        all.insert(container.id.clone(), format!("{container:?} {status:?}"));
    }
    all
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_nanos()).expect("before 2262")
}

async fn exits_in_the_meantime_are_told_with_code_and_time(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let pod = t.run_pod().await;
    let volume = t.volume("v");
    let wait = "until [ -e /v/go ]; do sleep 0.05; done; exit 5";
    let exits = t.launch(&pod, t.busybox("exits").mount(&volume, "/v").script(wait)).await;
    let killed = t.launch(&pod, t.sleeper("killed")).await;
    let (killed_pid, exits_pid) = (t.pid(&killed).await, t.pid(&exits).await);
    t.instance().kill_daemon();
    let from = now();
    kill(Pid::from_raw(killed_pid), Signal::SIGKILL).expect("kill");
    t.instance().write(&volume.join("go"), b"");
    gone(t, &[killed_pid, exits_pid]).await;
    let until = now();
    t.instance().start_daemon();
    t.reconnect().await;
    for (id, code) in [(&exits, 5), (&killed, 137)] {
        let status = t.status(id).await;
        assert_eq!(status.state(), ContainerState::ContainerExited, "at once, not after a while");
        assert_eq!((status.exit_code, status.reason.as_str()), (code, "Error"));
        assert!((from..=until).contains(&status.finished_at), "{from} {until} {status:?}");
    }
    Ok(())
}

/// Waits until the processes are reaped: as zombies they have ended, but nobody has noted when.
async fn gone(t: &Scenario, pids: &[i32]) {
    let all_gone = async |_: &Scenario| {
        let there = pids.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists());
        (!there).then_some(())
    };
    t.eventually("the processes end", all_gone).await;
}

/// Waits until the processes have ended, though a stopped parent has not reaped them.
async fn ended(t: &Scenario, pids: &[i32]) {
    let all_ended = async |_: &Scenario| {
        let alive = pids.iter().any(|&pid| !Process { pid }.command_line().is_empty());
        (!alive).then_some(())
    };
    t.eventually("the processes end", all_ended).await;
}

async fn logs_have_no_gap(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let pod = t.run_pod().await;
    let count = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.005; done";
    let id = t.launch(&pod, t.busybox("a").script(count)).await;
    let path = t.status(&id).await.log_path;
    for _ in 0..3 {
        t.instance().kill_daemon();
        let before = parse_log(Path::new(&path)).len();
        let more =
            async |_: &Scenario| (parse_log(Path::new(&path)).len() > before + 20).then_some(());
        t.eventually("the container logs without a daemon", more).await;
        t.instance().start_daemon();
        t.reconnect().await;
    }
    t.stop(&id, 0).await;
    let lines = parse_log(Path::new(&path));
    let numbers = (1..).map(|number: u32| number.to_string());
    assert!(lines.iter().map(LogLine::text).eq(numbers.take(lines.len())), "{lines:?}");
    Ok(())
}

async fn everything_can_be_used_and_removed_afterwards(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let pod = t.run_pod().await;
    let running = t.launch(&pod, t.sleeper("running")).await;
    let created = t.create(&pod, t.sleeper("created")).await;
    restart(t).await;
    assert_eq!(t.exec(&running, "echo alive").await, "alive");
    t.try_start(&created).await.expect("StartContainer");
    assert_eq!(t.exec(&created, "echo alive").await, "alive");
    let new = t.launch(&pod, t.sleeper("new")).await;
    assert_eq!(t.exec(&new, "echo alive").await, "alive");
    assert_eq!(t.create(&pod, t.sleeper("later")).await, t.create(&pod, t.sleeper("later")).await);
    t.refused(&pod, t.sleeper("running"), Code::AlreadyExists).await;
    t.stop(&running, 0).await;
    t.remove(&running).await;
    t.remove_pod(&pod).await;
    assert_eq!(everything(t).await.len(), 0);
    Ok(())
}

/// Pods are made and removed in a loop while the daemon is killed; the loop's errors do not count.
async fn killed_at_any_moment_objects_are_whole_or_absent(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let mut random = Random::new(0x6b_69_6c_6c);
    for number in 0..KILLS {
        let wait = Duration::from_millis(random.below(RANDOM_MILLISECONDS));
        // Dropping the loop where it stands is part of the test.
        let unfinished = tokio::time::timeout(wait, churn(t, number)).await;
        drop(unfinished);
        restart(t).await;
        for pod in t.pods().await {
            t.pod_status(&pod.id).await;
            for container in t.containers(&pod.id).await {
                let status = t.status(&container.id).await;
                assert_ne!(status.state(), ContainerState::ContainerUnknown, "{status:?}");
            }
        }
        retry_succeeds(t, number).await;
    }
    Ok(())
}

async fn churn(t: &mut Scenario, number: u32) -> Result<(), tonic::Status> {
    for attempt in 0.. {
        let spec = pod(&format!("churn-{number}")).attempt(attempt);
        let pod = t.try_run(spec).await?;
        let id = t.try_create(&pod, t.sleeper("a")).await?;
        t.try_start(&id).await?;
        t.try_stop(&id, 0).await?;
        t.stop_pod(&pod).await;
        t.remove_pod(&pod).await;
    }
    Ok(())
}

/// What the kubelet does next: the same names again, then away with all.
async fn retry_succeeds(t: &mut Scenario, number: u32) {
    let again = t.run(pod(&format!("retry-{number}"))).await;
    let id = t.launch(&again, t.sleeper("a")).await;
    t.exec(&id, "true").await;
    for pod in t.pods().await {
        t.stop_pod(&pod.id).await;
        t.remove_pod(&pod.id).await;
    }
    assert_eq!(t.pods().await, []);
}

/// The shim that is an ancestor of a container's first process.
async fn shim_of(t: &Scenario, container: &str) -> Process {
    let shims = t.instance().shims();
    let mut pid = t.pid(container).await;
    for _ in 0..10 {
        if let Some(shim) = shims.iter().find(|shim| shim.pid == pid) {
            return *shim;
        }
        let parent = Process { pid }.status_field("PPid").and_then(|text| text.parse().ok());
        pid = parent.expect("a parent");
    }
    panic!("no shim among the ancestors of {container}: {shims:?}");
}

fn assert_lost(status: &ContainerStatus) {
    assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 137));
    assert!(matches!(status.reason.as_str(), "Unknown" | "Error"), "{status:?}");
    assert!(status.finished_at > 0, "{status:?}");
}

async fn assert_pod_is_lost_and_removable(t: &Scenario, pod: &str, container: &str) {
    let lost = async |t: &Scenario| {
        let state = t.pod_status(pod).await.state();
        (state == PodSandboxState::SandboxNotready).then_some(())
    };
    t.eventually("the pod is not ready", lost).await;
    assert_lost(&t.exited(container).await);
    t.refused(pod, t.sleeper("late"), Code::FailedPrecondition).await;
    t.stop(container, 0).await;
    t.remove_pod(pod).await;
}

async fn a_killed_shim_ends_its_pod_and_no_other(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let (victim, other) = (t.run(pod("victim")).await, t.run(pod("other")).await);
    let doomed = t.launch(&victim, t.sleeper("a")).await;
    let safe = t.launch(&other, t.sleeper("a")).await;
    let (shim, init) = (shim_of(t, &doomed).await, t.pid(&doomed).await);
    kill(Pid::from_raw(shim.pid), Signal::SIGKILL).expect("kill");
    assert_pod_is_lost_and_removable(t, &victim, &doomed).await;
    assert_eq!(Process { pid: init }.command_line(), "", "its processes are killed");
    assert_eq!(t.exec(&safe, "echo alive").await, "alive");
    assert_eq!(t.pod_status(&other).await.state(), PodSandboxState::SandboxReady);
    Ok(())
}

async fn a_shim_killed_in_the_meantime_is_noticed(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    let shim = shim_of(t, &id).await;
    t.instance().kill_daemon();
    kill(Pid::from_raw(shim.pid), Signal::SIGKILL).expect("kill");
    gone(t, &[shim.pid]).await;
    t.instance().start_daemon();
    t.reconnect().await;
    assert_pod_is_lost_and_removable(t, &pod, &id).await;
    Ok(())
}

/// A torn or flipped record costs its own object at most.
async fn a_broken_record_harms_nobody_else(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let (broken, whole) = (t.run(pod("broken")).await, t.run(pod("whole")).await);
    let safe = t.launch(&whole, t.sleeper("a")).await;
    t.instance().kill_daemon();
    let directory = t.instance().data_directory().join("pods").join(&broken);
    for entry in std::fs::read_dir(&directory).expect("a directory per pod") {
        let path = entry.expect("readable").path();
        if path.extension().is_some_and(|extension| extension == "json") {
            t.instance().write(&path, b"{\"torn\":");
        }
    }
    t.instance().start_daemon();
    t.reconnect().await;
    assert_eq!(t.exec(&safe, "echo alive").await, "alive");
    assert_eq!(t.pod_status(&whole).await.state(), PodSandboxState::SandboxReady);
    t.stop_pod(&broken).await;
    t.remove_pod(&broken).await;
    assert!(!t.pods().await.iter().any(|pod| pod.id == broken));
    Ok(())
}

/// A stopped process accepts connections, and says nothing.
async fn restart_with_silent_shim(t: &mut Scenario, shim: Process) {
    kill(Pid::from_raw(shim.pid), Signal::SIGSTOP).expect("stop the shim");
    restart(t).await;
}

async fn a_silent_shim_is_waited_for(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let pod = t.run_pod().await;
    let running = t.launch(&pod, t.sleeper("running")).await;
    let created = t.create(&pod, t.sleeper("created")).await;
    let (shim, init) = (shim_of(t, &running).await, t.pid(&running).await);
    let before = everything(t).await;
    restart_with_silent_shim(t, shim).await;
    assert_eq!(t.pod_status(&pod).await.state(), PodSandboxState::SandboxReady);
    for id in [&running, &created] {
        assert_eq!(t.status(id).await.state(), ContainerState::ContainerUnknown);
    }
    kill(Pid::from_raw(shim.pid), Signal::SIGCONT).expect("let the shim go on");
    let answers = async |t: &Scenario| {
        let state = t.status(&running).await.state();
        (state == ContainerState::ContainerRunning).then_some(())
    };
    t.eventually("the shim is heard of", answers).await;
    assert_eq!(everything(t).await, before);
    assert_eq!(t.pid(&running).await, init, "nothing was killed");
    assert_eq!(t.exec(&running, "echo alive").await, "alive");
    t.try_start(&created).await.expect("StartContainer");
    kill(Pid::from_raw(init), Signal::SIGKILL).expect("kill");
    t.exited(&running).await;
    Ok(())
}

async fn containers_of_a_silent_shim_can_be_stopped_and_removed(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let pod = t.run_pod().await;
    let (stopped, removed) =
        (t.launch(&pod, t.sleeper("a")).await, t.launch(&pod, t.sleeper("b")).await);
    let shim = shim_of(t, &stopped).await;
    let pids = [t.pid(&stopped).await, t.pid(&removed).await];
    restart_with_silent_shim(t, shim).await;
    t.stop(&stopped, 10).await;
    assert_lost(&t.status(&stopped).await);
    t.remove(&removed).await;
    ended(t, &pids).await;
    t.remove_pod(&pod).await;
    gone(t, &[shim.pid]).await;
    assert_eq!(everything(t).await.len(), 0);
    Ok(())
}

/// A connection to the shim that serves the pod with this directory.
fn connect(directory: &Path) -> OwnedFd {
    let directory = File::open(directory).expect("open the pod's directory");
    // A socket's path is short.
    let path = format!("/proc/self/fd/{}/shim.sock", directory.as_raw_fd());
    let address = UnixAddr::new(path.as_str()).expect("a short path");
    let (family, kind) = (AddressFamily::Unix, SockType::SeqPacket);
    let socket = socket::socket(family, kind, SockFlag::SOCK_CLOEXEC, None).expect("socket");
    socket::connect(socket.as_raw_fd(), &address).expect("connect to the shim");
    socket
}

/// Whoever connects to a shim takes the daemon's place; the daemon takes it back.
async fn a_lost_connection_is_made_again(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    let init = t.pid(&id).await;
    drop(connect(&t.instance().runtime_directory().join("pods").join(&pod)));
    let answers = async |t: &Scenario| t.try_exec(&id, &["true"], 0).await.ok();
    t.eventually("the daemon is connected again", answers).await;
    assert_eq!(t.pod_status(&pod).await.state(), PodSandboxState::SandboxReady);
    assert_eq!(t.pid(&id).await, init, "nothing was killed");
    t.stop(&id, 0).await;
    Ok(())
}

async fn a_second_daemon_is_refused(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    let second = t.instance().usnea(&["serve"]);
    let message = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success(), "{message}");
    let directory = t.instance().data_directory();
    assert!(message.contains(&directory.display().to_string()), "{message}");
    assert!(message.contains("another `usnea serve`"), "{message}");
    assert_eq!(t.exec(&id, "echo alive").await, "alive");
    // An ended one makes room.
    t.instance().stop();
    t.instance().start_daemon();
    t.reconnect().await;
    assert_eq!(t.exec(&id, "echo alive").await, "alive");
    Ok(())
}
