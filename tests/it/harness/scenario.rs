//! One test's view of a daemon: calls that must succeed, in few words.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cri_api::v1::{
    Container, ContainerFilter, ContainerState, ContainerStatus, ContainerStatusRequest,
    CreateContainerRequest, ExecSyncRequest, ListContainersRequest, ListPodSandboxRequest,
    PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxStatus, PodSandboxStatusRequest,
    RemoveContainerRequest, RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest,
    StopContainerRequest, StopPodSandboxRequest,
};
use testkit::{ContainerSpec, Cri, Instance, Options, PodSpec, Skip, connect};
use tonic::{Code, Status};

use crate::{BUSYBOX, LogLine, parse_log, suite::Ground};

/// How long anything that must happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// What a command left that ran in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// Without the last line feed.
    pub stdout: String,
    /// Without the last line feed.
    pub stderr: String,
    /// Exit code.
    pub code: i32,
}

/// A test, its daemon, and a connection to it.
#[derive(Debug)]
pub struct Scenario {
    /// The test's name as one word.
    name: String,
    ground: Arc<Ground>,
    /// Clients; calls take a clone.
    pub cri: Cri,
    /// Configurations of the sandboxes by id: `CreateContainer` repeats them.
    configs: HashMap<String, PodSandboxConfig>,
    owned: bool,
}

impl Scenario {
    pub(crate) async fn new(test: &str, ground: Arc<Ground>) -> Self {
        let cri = connect(&ground.instance.socket()).await.expect("connect to the daemon");
        let name = test.replace("::", ".").replace('_', "-");
        Self { name, ground, cri, configs: HashMap::new(), owned: false }
    }

    /// Exchanges the shared daemon for one of this test's own, which is audited when the test ends.
    ///
    /// # Errors
    /// When the machine does not offer it.
    pub async fn own_daemon(&mut self, options: Options) -> Result<(), Skip> {
        self.ground = Arc::new(Ground::new(options)?);
        self.owned = true;
        self.reconnect().await;
        Ok(())
    }

    /// Connects again, after the daemon was restarted.
    pub async fn reconnect(&mut self) {
        self.cri = connect(&self.instance().socket()).await.expect("connect to the daemon");
    }

    /// The daemon and its surroundings.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.ground.instance
    }

    /// A word that no other test uses.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A directory to mount.
    #[must_use]
    pub fn volume(&self, name: &str) -> PathBuf {
        self.instance().volume(&format!("{}-{name}", self.name))
    }

    /// A container of busybox.
    #[must_use]
    pub fn busybox(&self, name: &str) -> ContainerSpec {
        testkit::container(name, BUSYBOX)
    }

    /// A container that does nothing until it is killed.
    #[must_use]
    pub fn sleeper(&self, name: &str) -> ContainerSpec {
        self.busybox(name).command(&["sleep", "100000"])
    }

    /// What [`Self::run`] sends for `spec`: in the test's namespace, with a log directory.
    #[must_use]
    pub fn placed(&self, spec: PodSpec) -> PodSandboxConfig {
        let mut config = spec.config;
        if let Some(metadata) = &mut config.metadata {
            metadata.namespace.clone_from(&self.name);
            if config.log_directory.is_empty() {
                let name = format!("{}-{}", self.name, as_file_name(&metadata.name));
                let directory = self.instance().log_directory(&name);
                config.log_directory = directory.to_str().expect("UTF-8").to_owned();
            }
        }
        config
    }

    /// Runs a sandbox.
    ///
    /// # Errors
    /// What the daemon answers.
    pub async fn try_run(&mut self, spec: PodSpec) -> Result<String, Status> {
        let config = self.placed(spec);
        let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        let id = self.cri.runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        self.configs.insert(id.clone(), config);
        Ok(id)
    }

    /// Runs a sandbox, which must succeed.
    pub async fn run(&mut self, spec: PodSpec) -> String {
        self.try_run(spec).await.expect("RunPodSandbox")
    }

    /// Runs a usual sandbox.
    pub async fn run_pod(&mut self) -> String {
        self.run(testkit::pod("pod")).await
    }

    /// Creates a container.
    ///
    /// # Errors
    /// What the daemon answers.
    pub async fn try_create(&self, pod: &str, spec: ContainerSpec) -> Result<String, Status> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(spec.config),
            sandbox_config: self.configs.get(pod).cloned(),
        };
        let response = self.cri.runtime.clone().create_container(request).await?;
        Ok(response.into_inner().container_id)
    }

    /// Creates a container, which must succeed.
    pub async fn create(&self, pod: &str, spec: ContainerSpec) -> String {
        self.try_create(pod, spec).await.expect("CreateContainer")
    }

    /// Starts a container.
    ///
    /// # Errors
    /// What the daemon answers.
    pub async fn try_start(&self, id: &str) -> Result<(), Status> {
        let request = StartContainerRequest { container_id: id.to_owned() };
        self.cri.runtime.clone().start_container(request).await.map(drop)
    }

    /// Creates and starts a container.
    pub async fn launch(&self, pod: &str, spec: ContainerSpec) -> String {
        let id = self.create(pod, spec).await;
        self.try_start(&id).await.expect("StartContainer");
        id
    }

    /// Stops a container.
    ///
    /// # Errors
    /// What the daemon answers.
    pub async fn try_stop(&self, id: &str, timeout: i64) -> Result<(), Status> {
        let request = StopContainerRequest { container_id: id.to_owned(), timeout };
        self.cri.runtime.clone().stop_container(request).await.map(drop)
    }

    /// Stops a container, which must succeed.
    pub async fn stop(&self, id: &str, timeout: i64) {
        self.try_stop(id, timeout).await.expect("StopContainer");
    }

    /// Removes a container, which must succeed.
    pub async fn remove(&self, id: &str) {
        let request = RemoveContainerRequest { container_id: id.to_owned() };
        self.cri.runtime.clone().remove_container(request).await.expect("RemoveContainer");
    }

    /// Stops a sandbox, which must succeed.
    pub async fn stop_pod(&self, id: &str) {
        let request = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.cri.runtime.clone().stop_pod_sandbox(request).await.expect("StopPodSandbox");
    }

    /// Removes a sandbox, which must succeed.
    pub async fn remove_pod(&self, id: &str) {
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.cri.runtime.clone().remove_pod_sandbox(request).await.expect("RemovePodSandbox");
    }

    /// Status of a sandbox.
    ///
    /// # Errors
    /// What the daemon answers.
    pub async fn try_pod_status(&self, id: &str) -> Result<PodSandboxStatus, Status> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let response = self.cri.runtime.clone().pod_sandbox_status(request).await?;
        Ok(response.into_inner().status.expect("a status"))
    }

    /// Status of a sandbox, which must exist.
    pub async fn pod_status(&self, id: &str) -> PodSandboxStatus {
        self.try_pod_status(id).await.expect("PodSandboxStatus")
    }

    /// Status of a container.
    ///
    /// # Errors
    /// What the daemon answers.
    pub async fn try_status(&self, id: &str) -> Result<ContainerStatus, Status> {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let response = self.cri.runtime.clone().container_status(request).await?;
        Ok(response.into_inner().status.expect("a status"))
    }

    /// Status of a container, which must exist.
    pub async fn status(&self, id: &str) -> ContainerStatus {
        self.try_status(id).await.expect("ContainerStatus")
    }

    /// Host process id of a running container, from its verbose status.
    pub async fn pid(&self, id: &str) -> i32 {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        let response = self.cri.runtime.clone().container_status(request).await;
        let info = response.expect("ContainerStatus").into_inner().info;
        let pid = info.get("pid").and_then(|text| text.parse().ok());
        pid.unwrap_or_else(|| panic!("no pid in {info:?}"))
    }

    /// Sandboxes of this test.
    pub async fn pods(&self) -> Vec<PodSandbox> {
        let mut pods = self.list_pods(PodSandboxFilter::default()).await;
        pods.retain(|pod| pod.metadata.as_ref().is_some_and(|data| data.namespace == self.name));
        pods
    }

    /// Sandboxes that pass a filter.
    pub async fn list_pods(&self, filter: PodSandboxFilter) -> Vec<PodSandbox> {
        let request = ListPodSandboxRequest { filter: Some(filter) };
        let response = self.cri.runtime.clone().list_pod_sandbox(request).await;
        response.expect("ListPodSandbox").into_inner().items
    }

    /// Containers of a sandbox.
    pub async fn containers(&self, pod: &str) -> Vec<Container> {
        let filter = ContainerFilter { pod_sandbox_id: pod.to_owned(), ..Default::default() };
        self.list_containers(filter).await
    }

    /// Containers that pass a filter.
    pub async fn list_containers(&self, filter: ContainerFilter) -> Vec<Container> {
        let request = ListContainersRequest { filter: Some(filter) };
        let response = self.cri.runtime.clone().list_containers(request).await;
        response.expect("ListContainers").into_inner().containers
    }

    /// Waits until a container has exited.
    ///
    /// # Panics
    /// When it does not.
    pub async fn exited(&self, id: &str) -> ContainerStatus {
        let exited = async |scenario: &Self| {
            let status = scenario.status(id).await;
            (status.state() == ContainerState::ContainerExited).then_some(status)
        };
        self.eventually("the container exits", exited).await
    }

    /// Repeats a question until it has an answer.
    ///
    /// # Panics
    /// When it gets none for long.
    pub async fn eventually<T>(&self, what: &str, question: impl AsyncFn(&Self) -> Option<T>) -> T {
        let repeat = async {
            loop {
                if let Some(answer) = question(self).await {
                    return answer;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        let answer = tokio::time::timeout(PATIENCE, repeat).await;
        answer.unwrap_or_else(|_| panic!("this does not happen: {what}"))
    }

    /// Runs a command in a container.
    ///
    /// # Errors
    /// What the daemon answers.
    pub async fn try_exec(
        &self,
        id: &str,
        argv: &[&str],
        timeout: i64,
    ) -> Result<Executed, Status> {
        let cmd = argv.iter().map(|&arg| arg.to_owned()).collect();
        let request = ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
        let response = self.cri.runtime.clone().exec_sync(request).await?.into_inner();
        let [stdout, stderr] = [response.stdout, response.stderr]
            .map(|bytes| String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned());
        Ok(Executed { stdout, stderr, code: response.exit_code })
    }

    /// Runs a shell script in a container, which must succeed, and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub async fn exec(&self, id: &str, script: &str) -> String {
        let executed = self.try_exec(id, &["sh", "-c", script], 0).await.expect("ExecSync");
        assert_eq!(executed.code, 0, "{script}: {executed:?}");
        executed.stdout
    }

    /// Runs a container to its end, which must be good, and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub async fn output(&self, pod: &str, spec: ContainerSpec) -> String {
        let id = self.launch(pod, spec).await;
        let status = self.exited(&id).await;
        let text = self.printed(&status);
        assert_eq!(status.exit_code, 0, "{text}\n{status:?}");
        self.remove(&id).await;
        // The next container of this name would append.
        fs::remove_file(&status.log_path).expect("remove the log");
        text
    }

    /// What a container has printed, without the last line feed.
    #[must_use]
    pub fn printed(&self, status: &ContainerStatus) -> String {
        let mut text = String::new();
        for line in self.log(status) {
            text.push_str(&line.text());
            text.push_str(if line.full { "\n" } else { "" });
        }
        text.trim_end_matches('\n').to_owned()
    }

    /// The log of a container.
    #[must_use]
    pub fn log(&self, status: &ContainerStatus) -> Vec<LogLine> {
        parse_log(Path::new(&status.log_path))
    }

    /// Creating this container must fail with `code`; returns the message.
    ///
    /// # Panics
    /// When it does not.
    pub async fn refused(&self, pod: &str, spec: ContainerSpec, code: Code) -> String {
        let what = format!("{:?}", spec.config);
        match self.try_create(pod, spec).await {
            Ok(id) => panic!("created {id} from {what}"),
            Err(status) => {
                assert_eq!(status.code(), code, "{status:?} for {what}");
                status.message().to_owned()
            }
        }
    }

    /// Removes whatever the test has left.
    pub(crate) async fn clean_up(&mut self) {
        if !self.instance().runs() {
            self.instance().start_daemon();
        }
        self.reconnect().await;
        for pod in self.pods().await {
            self.stop_pod(&pod.id).await;
            self.remove_pod(&pod.id).await;
        }
    }

    /// Compares with the present when the test ends, because it has exchanged even the node.
    pub fn audit_from_now(&self) {
        self.ground.audit_from_now();
    }

    /// The audit of this test's own daemon; a shared one is audited when all tests are through.
    pub(crate) fn faults_of_own_daemon(&self) -> Vec<String> {
        if self.owned { self.ground.faults() } else { Vec::new() }
    }
}

/// Bad names are for requests, not for our own directories.
fn as_file_name(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).take(40).collect()
}
