//! The show with the generated client.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use cri_api::v1::{
    ContainerConfig, ContainerState, ContainerStatusRequest, CreateContainerRequest,
    ExecSyncRequest, ListContainersRequest, ListPodSandboxRequest, PodSandboxConfig,
    PodSandboxState, RemoveContainerRequest, RemovePodSandboxRequest, RunPodSandboxRequest,
    StartContainerRequest, StopContainerRequest, StopPodSandboxRequest,
    runtime_service_client::RuntimeServiceClient,
};
use testkit::connect;
use tokio::runtime::Runtime;
use tonic::{Response, Status as RpcStatus, transport::Channel};

use crate::{
    client::{Client, Result, Status, short},
    config, screen,
};

/// A command of the show takes no time at all.
const EXEC_TIMEOUT_SECONDS: i64 = 10;

/// Calls the daemon itself.
#[derive(Debug)]
pub(crate) struct Grpc {
    socket: PathBuf,
    runtime: Runtime,
}

impl Grpc {
    pub(crate) fn new(socket: PathBuf) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { socket, runtime })
    }

    /// Connects and calls. A connection per call, because the show kills the daemon in between.
    fn call<T>(
        &self,
        rpc: impl AsyncFnOnce(
            &mut RuntimeServiceClient<Channel>,
        ) -> std::result::Result<Response<T>, RpcStatus>,
    ) -> Result<T> {
        self.runtime.block_on(async {
            let mut cri = connect(&self.socket).await?;
            Ok(rpc(&mut cri.runtime).await?.into_inner())
        })
    }
}

impl Client for Grpc {
    fn describe(&self) -> String {
        format!(
            "No crictl that the user can run is on PATH: a client of the show's own makes the calls at\n\
             unix://{}",
            self.socket.display()
        )
    }

    fn run_pod(&self, pod: &Path) -> Result<String> {
        screen::command(&format!("RunPodSandbox {}", pod.display()));
        let config = Some(pod_config(pod)?);
        let request = RunPodSandboxRequest { config, ..RunPodSandboxRequest::default() };
        Ok(self.call(async |cri| cri.run_pod_sandbox(request).await)?.pod_sandbox_id)
    }

    fn create(&self, pod_id: &str, container: &Path, pod: &Path) -> Result<String> {
        screen::command(&format!("CreateContainer {} {}", short(pod_id), container.display()));
        let request = CreateContainerRequest {
            pod_sandbox_id: pod_id.to_owned(),
            config: Some(container_config(container)?),
            sandbox_config: Some(pod_config(pod)?),
        };
        Ok(self.call(async |cri| cri.create_container(request).await)?.container_id)
    }

    fn start(&self, id: &str) -> Result<()> {
        screen::command(&format!("StartContainer {}", short(id)));
        let request = StartContainerRequest { container_id: id.to_owned() };
        self.call(async |cri| cri.start_container(request).await).map(drop)
    }

    fn exec(&self, id: &str, argv: &[&str]) -> Result<String> {
        screen::command(&format!("ExecSync {} {argv:?}", short(id)));
        let cmd = argv.iter().map(|&argument| argument.to_owned()).collect();
        let container_id = id.to_owned();
        let request = ExecSyncRequest { container_id, cmd, timeout: EXEC_TIMEOUT_SECONDS };
        let answer = self.call(async |cri| cri.exec_sync(request).await)?;
        let written = String::from_utf8(answer.stdout)? + &String::from_utf8(answer.stderr)?;
        if answer.exit_code == 0 {
            return Ok(written);
        }
        Err(format!("{argv:?} ended with {}: {written}", answer.exit_code).into())
    }

    fn logs(&self, id: &str) -> Result<String> {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = self.call(async |cri| cri.container_status(request).await)?;
        let path = answer.status.unwrap_or_default().log_path;
        screen::command(&format!("cut -d ' ' -f 4- {path}"));
        // Time, stream and tag come first.
        let text = fs::read_to_string(path)?;
        let lines = text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default());
        Ok(lines.collect::<Vec<_>>().join("\n"))
    }

    fn status(&self, id: &str) -> Result<Status> {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        let answer = self.call(async |cri| cri.container_status(request).await)?;
        let status = answer.status.unwrap_or_default();
        Ok(Status {
            state: status.state().as_str_name().to_owned(),
            exit_code: status.exit_code.into(),
            pid: answer.info.get("pid").and_then(|text| text.parse().ok()),
        })
    }

    fn list_pods(&self) -> Result<String> {
        screen::command("ListPodSandbox");
        let request = ListPodSandboxRequest::default();
        let answer = self.call(async |cri| cri.list_pod_sandbox(request).await)?;
        let mut table = format!("{:<16}{:<10}NAME\n", "POD ID", "STATE");
        for pod in answer.items {
            let state = match pod.state() {
                PodSandboxState::SandboxReady => "Ready",
                PodSandboxState::SandboxNotready => "NotReady",
            };
            let name = pod.metadata.unwrap_or_default().name;
            writeln!(table, "{:<16}{state:<10}{name}", short(&pod.id))?;
        }
        Ok(table)
    }

    fn list_containers(&self) -> Result<String> {
        screen::command("ListContainers");
        let request = ListContainersRequest::default();
        let answer = self.call(async |cri| cri.list_containers(request).await)?;
        let mut table = format!("{:<16}{:<10}{:<10}ATTEMPT\n", "CONTAINER", "STATE", "NAME");
        for container in answer.containers {
            let state = match container.state() {
                ContainerState::ContainerCreated => "Created",
                ContainerState::ContainerRunning => "Running",
                ContainerState::ContainerExited => "Exited",
                ContainerState::ContainerUnknown => "Unknown",
            };
            let metadata = container.metadata.unwrap_or_default();
            let (name, attempt) = (metadata.name, metadata.attempt);
            writeln!(table, "{:<16}{state:<10}{name:<10}{attempt}", short(&container.id))?;
        }
        Ok(table)
    }

    fn stop(&self, id: &str) -> Result<()> {
        screen::command(&format!("StopContainer {}", short(id)));
        let request = StopContainerRequest { container_id: id.to_owned(), timeout: 0 };
        self.call(async |cri| cri.stop_container(request).await).map(drop)
    }

    fn remove(&self, id: &str) -> Result<()> {
        screen::command(&format!("RemoveContainer {}", short(id)));
        let request = RemoveContainerRequest { container_id: id.to_owned() };
        self.call(async |cri| cri.remove_container(request).await).map(drop)
    }

    fn stop_pod(&self, id: &str) -> Result<()> {
        screen::command(&format!("StopPodSandbox {}", short(id)));
        let request = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.call(async |cri| cri.stop_pod_sandbox(request).await).map(drop)
    }

    fn remove_pod(&self, id: &str) -> Result<()> {
        screen::command(&format!("RemovePodSandbox {}", short(id)));
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.call(async |cri| cri.remove_pod_sandbox(request).await).map(drop)
    }
}

fn pod_config(file: &Path) -> Result<PodSandboxConfig> {
    Ok(config::pod(&fs::read_to_string(file)?)?)
}

fn container_config(file: &Path) -> Result<ContainerConfig> {
    Ok(config::container(&fs::read_to_string(file)?)?)
}
