//! Pods and containers at the daemon's socket.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use cri_api::v1::{
    CreateContainerRequest, ExecSyncRequest, NamespaceMode, PodSandboxConfig,
    RemoveContainerRequest, RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest,
    StopContainerRequest, StopPodSandboxRequest, security_profile::ProfileType,
};
use testkit::{ContainerSpec, Cri, Instance, connect, container, pod, processes::Process};

use crate::{IMAGE, Rounds, figures::Figure};

/// How many pods the memory is measured with.
const PODS: usize = 50;

/// A connection to a daemon, and what its pods have in common.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    instance: &'a Instance,
    cri: Cri,
    logs: PathBuf,
    rounds: Rounds,
}

/// A sandbox and the configuration that `CreateContainer` repeats.
#[derive(Debug)]
struct Pod {
    id: String,
    config: PodSandboxConfig,
}

/// How long the parts of one pod's life took.
#[derive(Clone, Copy, Debug)]
struct Life {
    run: Duration,
    create: Duration,
    start: Duration,
    end: Duration,
}

impl<'a> Bench<'a> {
    pub(crate) async fn new(instance: &'a Instance, rounds: Rounds) -> Self {
        let cri = connect(&instance.socket()).await.expect("connect to the daemon");
        Self { instance, cri, logs: instance.log_directory("bench"), rounds }
    }

    /// All figures, in the table's order.
    pub(crate) async fn figures(&mut self) -> Vec<Figure> {
        let mut figures = self.life().await;
        figures.push(self.exec().await);
        figures.extend(self.memory().await);
        figures
    }

    async fn life(&mut self) -> Vec<Figure> {
        let lives = self.lives("plain", &sleeper()).await;
        let profile = sleeper().seccomp(ProfileType::RuntimeDefault, "");
        let confined = self.lives("confined", &profile).await;
        let figure = |name: &str, lives: &[Life], time: fn(&Life) -> Duration| {
            Figure::times(name, &lives.iter().map(time).collect::<Vec<_>>())
        };
        let up = |life: &Life| life.create + life.start;
        vec![
            figure("RunPodSandbox", &lives, |life| life.run).target(8.0),
            figure("CreateContainer", &lives, |life| life.create),
            figure("StartContainer", &lives, |life| life.start),
            figure("Create+Start", &lives, up).target(12.0),
            figure("Create+Start, seccomp RuntimeDefault", &confined, up).target(12.0),
            figure("Stop+Remove, pod with a container, grace 0", &lives, |life| life.end)
                .target(15.0),
            figure("RunPodSandbox+Create+Start", &lives, |life| {
                life.run + life.create + life.start
            }),
        ]
    }

    async fn lives(&mut self, name: &str, spec: &ContainerSpec) -> Vec<Life> {
        let mut lives = Vec::new();
        for round in 0..self.rounds.all() {
            let life = self.live(&format!("{name}-{round}"), spec).await;
            lives.push(life);
        }
        lives.split_off(self.rounds.warm_up)
    }

    async fn live(&mut self, name: &str, spec: &ContainerSpec) -> Life {
        let begin = Instant::now();
        let pod = self.run_pod(name).await;
        let run = begin.elapsed();
        let begin = Instant::now();
        let container = self.create(&pod, spec).await;
        let create = begin.elapsed();
        let begin = Instant::now();
        self.start(&container).await;
        let start = begin.elapsed();
        let begin = Instant::now();
        self.stop_and_remove_container(container).await;
        self.stop_and_remove_pod(pod).await;
        Life { run, create, start, end: begin.elapsed() }
    }

    async fn exec(&mut self) -> Figure {
        let pod = self.run_pod("exec").await;
        let container = self.create(&pod, &sleeper()).await;
        self.start(&container).await;
        let request = ExecSyncRequest {
            container_id: container.clone(),
            cmd: vec!["/bin/true".to_owned()],
            timeout: 0,
        };
        let mut times = Vec::new();
        for _ in 0..self.rounds.all() {
            let request = request.clone();
            let begin = Instant::now();
            let response = self.cri.runtime.exec_sync(request).await.expect("ExecSync");
            times.push(begin.elapsed());
            assert_eq!(response.into_inner().exit_code, 0, "/bin/true has failed");
        }
        self.stop_and_remove_container(container).await;
        self.stop_and_remove_pod(pod).await;
        Figure::times("ExecSync of /bin/true", &times[self.rounds.warm_up..]).target(4.0)
    }

    /// Nothing for a caller who may not look into the shims and the daemon.
    async fn memory(&mut self) -> Vec<Figure> {
        let mut pods = Vec::new();
        for index in 0..PODS {
            pods.push(self.run_pod(&format!("idle-{index}")).await);
        }
        let idle = self.memory_now("50 idle pods");
        let mut containers = Vec::new();
        for pod in &pods {
            let container = self.create(pod, &sleeper()).await;
            self.start(&container).await;
            containers.push(container);
        }
        let busy = self.memory_now("50 pods with a container");
        for container in containers {
            self.stop_and_remove_container(container).await;
        }
        for pod in pods {
            self.stop_and_remove_pod(pod).await;
        }
        [idle, busy].into_iter().flatten().flatten().collect()
    }

    fn memory_now(&self, when: &str) -> Option<[Figure; 2]> {
        let shims = self.instance.shims();
        let shims: Option<Vec<u64>> = shims.into_iter().map(Process::pss_kilobytes).collect();
        let shims = shims.filter(|sizes| !sizes.is_empty())?;
        let daemon = self.instance.daemon().pss_kilobytes()?;
        assert_eq!(shims.len(), PODS, "one shim per pod");
        Some([
            Figure::kilobytes(&format!("PSS of a shim, {when}"), &shims).target(400.0),
            Figure::kilobytes(&format!("PSS of the daemon, {when}"), &[daemon]).target(20_000.0),
        ])
    }

    async fn run_pod(&mut self, name: &str) -> Pod {
        let config = pod(name).pid(NamespaceMode::Container).logs(&self.logs).config;
        let request =
            RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let response = self.cri.runtime.run_pod_sandbox(request).await.expect("RunPodSandbox");
        Pod { id: response.into_inner().pod_sandbox_id, config }
    }

    async fn create(&mut self, pod: &Pod, spec: &ContainerSpec) -> String {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(spec.config.clone()),
            sandbox_config: Some(pod.config.clone()),
        };
        let response = self.cri.runtime.create_container(request).await.expect("CreateContainer");
        response.into_inner().container_id
    }

    async fn start(&mut self, container: &str) {
        let request = StartContainerRequest { container_id: container.to_owned() };
        self.cri.runtime.start_container(request).await.expect("StartContainer");
    }

    async fn stop_and_remove_container(&mut self, container_id: String) {
        let request = StopContainerRequest { container_id: container_id.clone(), timeout: 0 };
        self.cri.runtime.stop_container(request).await.expect("StopContainer");
        let request = RemoveContainerRequest { container_id };
        self.cri.runtime.remove_container(request).await.expect("RemoveContainer");
    }

    async fn stop_and_remove_pod(&mut self, pod: Pod) {
        let request = StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() };
        self.cri.runtime.stop_pod_sandbox(request).await.expect("StopPodSandbox");
        let request = RemovePodSandboxRequest { pod_sandbox_id: pod.id };
        self.cri.runtime.remove_pod_sandbox(request).await.expect("RemovePodSandbox");
    }
}

/// A container that does nothing until it is killed.
fn sleeper() -> ContainerSpec {
    container("main", IMAGE).command(&["sleep", "3600"])
}
