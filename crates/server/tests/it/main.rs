//! The server on a socket, asked through the generated client. What pods do is tested with the built daemon.
#![expect(clippy::expect_used, reason = "a test stops at the first thing that does not hold")]
#![expect(clippy::tests_outside_test_module, reason = "the whole crate is a test")]

use std::{
    collections::BTreeMap,
    os::unix::{fs::MetadataExt, net::UnixListener},
    path::{Path, PathBuf},
    time::Duration,
};

use cri_api::v1::{
    image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient, *,
};
use engine::{Engine, EngineConfig, HostCgroups, HostFacts, ImageSettings};
use globset::GlobSet;
use hyper_util::rt::TokioIo;
use image::Limits;
use pull::PullOptions;
use registry::{Client, ClientConfig};
use tokio::{net::UnixStream, sync::oneshot, task::JoinHandle};
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint, Uri},
};
use unpacker::Unpacker;

const FACTS: &str = include_str!("../../../../vendor/cri/fields.tsv");
const LARGEST_MESSAGE: usize = 16 << 20;

/// No image is pulled here.
fn images() -> ImageSettings {
    let nothing = std::fs::File::open("/dev/null").expect("open");
    ImageSettings {
        registry: Client::new(ClientConfig::default()).expect("a client"),
        unpacker: Unpacker::new(nothing.into(), Vec::new()),
        pull: PullOptions::default(),
        limits: Limits::default(),
        pinned: GlobSet::empty(),
    }
}

/// A server whose engine has nothing to do.
struct Server {
    directory: tempfile::TempDir,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), server::ServerError>>,
}

impl Server {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let shim_program = directory.path().join("shim");
        std::fs::write(&shim_program, "no pod is started").expect("write");
        let config = EngineConfig {
            data_dir: directory.path().join("data"),
            runtime_dir: directory.path().join("run"),
            shim_program,
            cgroup_root: None,
            node_network: None,
            host: host(),
            images: images(),
        };
        let engine = Engine::open(config).await.expect("an engine");
        let listener = UnixListener::bind(socket(directory.path())).expect("bind");
        let owner_uid = std::fs::metadata(directory.path()).expect("metadata").uid();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            stopped.await.unwrap_or(());
        };
        let served = tokio::spawn(server::serve(listener, engine, owner_uid, shutdown));
        Self { directory, stop, served }
    }

    async fn channel(&self) -> Channel {
        let path = socket(self.directory.path());
        let connect = move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        };
        let endpoint = Endpoint::from_static("http://usnea");
        endpoint.connect_with_connector(tower::service_fn(connect)).await.expect("connect")
    }

    async fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel().await)
            .max_encoding_message_size(2 * LARGEST_MESSAGE)
    }

    async fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel().await)
    }
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("usnea.sock")
}

fn host() -> HostFacts {
    HostFacts {
        mapped_uids: 1,
        mapped_gids: 1,
        cgroups: HostCgroups::Missing { reason: "not needed".to_owned() },
        network_is_hosts: false,
        conditions: Vec::new(),
        info: BTreeMap::new(),
    }
}

fn code<T>(reply: Result<Response<T>, Status>) -> Code {
    reply.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// Calls every RPC with an empty request and tells the codes. What this release serves says something else than
/// `Unimplemented`; a missing id or config is `InvalidArgument`.
macro_rules! codes {
    ($client:ident: $($rpc:literal $method:ident $request:ident),* $(,)?) => {
        vec![$(($rpc, code($client.$method($request::default()).await)),)*]
    };
}

#[tokio::test]
async fn of_the_43_rpcs_these_are_served() {
    let server = Server::start().await;
    let (mut runtime, mut images) = (server.runtime().await, server.images().await);
    let mut codes = codes![runtime:
        "Version" version VersionRequest,
        "RunPodSandbox" run_pod_sandbox RunPodSandboxRequest,
        "StopPodSandbox" stop_pod_sandbox StopPodSandboxRequest,
        "RemovePodSandbox" remove_pod_sandbox RemovePodSandboxRequest,
        "PodSandboxStatus" pod_sandbox_status PodSandboxStatusRequest,
        "ListPodSandbox" list_pod_sandbox ListPodSandboxRequest,
        "StreamPodSandboxes" stream_pod_sandboxes StreamPodSandboxesRequest,
        "UpdatePodSandboxResources" update_pod_sandbox_resources UpdatePodSandboxResourcesRequest,
        "CreateContainer" create_container CreateContainerRequest,
        "StartContainer" start_container StartContainerRequest,
        "StopContainer" stop_container StopContainerRequest,
        "RemoveContainer" remove_container RemoveContainerRequest,
        "ListContainers" list_containers ListContainersRequest,
        "StreamContainers" stream_containers StreamContainersRequest,
        "ContainerStatus" container_status ContainerStatusRequest,
        "UpdateContainerResources" update_container_resources UpdateContainerResourcesRequest,
        "ReopenContainerLog" reopen_container_log ReopenContainerLogRequest,
        "ExecSync" exec_sync ExecSyncRequest,
        "Exec" exec ExecRequest,
        "Attach" attach AttachRequest,
        "PortForward" port_forward PortForwardRequest,
        "ContainerStats" container_stats ContainerStatsRequest,
        "ListContainerStats" list_container_stats ListContainerStatsRequest,
        "StreamContainerStats" stream_container_stats StreamContainerStatsRequest,
        "PodSandboxStats" pod_sandbox_stats PodSandboxStatsRequest,
        "ListPodSandboxStats" list_pod_sandbox_stats ListPodSandboxStatsRequest,
        "StreamPodSandboxStats" stream_pod_sandbox_stats StreamPodSandboxStatsRequest,
        "ListMetricDescriptors" list_metric_descriptors ListMetricDescriptorsRequest,
        "ListPodSandboxMetrics" list_pod_sandbox_metrics ListPodSandboxMetricsRequest,
        "StreamPodSandboxMetrics" stream_pod_sandbox_metrics StreamPodSandboxMetricsRequest,
        "GetContainerEvents" get_container_events GetEventsRequest,
        "Status" status StatusRequest,
        "RuntimeConfig" runtime_config RuntimeConfigRequest,
        "UpdateRuntimeConfig" update_runtime_config UpdateRuntimeConfigRequest,
        "CheckpointContainer" checkpoint_container CheckpointContainerRequest,
        "CheckpointPod" checkpoint_pod CheckpointPodRequest,
        "RestorePod" restore_pod RestorePodRequest,
    ];
    codes.extend(codes![images:
        "ListImages" list_images ListImagesRequest,
        "StreamImages" stream_images StreamImagesRequest,
        "ImageStatus" image_status ImageStatusRequest,
        "PullImage" pull_image PullImageRequest,
        "RemoveImage" remove_image RemoveImageRequest,
        "ImageFsInfo" image_fs_info ImageFsInfoRequest,
    ]);
    let mut called: Vec<_> = codes.iter().map(|(rpc, _)| *rpc).collect();
    let mut known: Vec<_> = FACTS.lines().filter_map(rpc_name).collect();
    called.sort_unstable();
    known.sort_unstable();
    assert_eq!(called, known);

    let with = |wanted| {
        codes
            .iter()
            .filter(move |(_, code)| *code == wanted)
            .map(|(rpc, _)| *rpc)
            .collect::<Vec<_>>()
    };
    let answered = [
        "Version",
        "ListPodSandbox",
        "StreamPodSandboxes",
        "ListContainers",
        "StreamContainers",
        "ListContainerStats",
        "StreamContainerStats",
        "Status",
        "RuntimeConfig",
        "UpdateRuntimeConfig",
        "ListImages",
        "StreamImages",
        "ImageFsInfo",
    ];
    let missing_something = [
        "RunPodSandbox",
        "StopPodSandbox",
        "RemovePodSandbox",
        "PodSandboxStatus",
        "CreateContainer",
        "StartContainer",
        "StopContainer",
        "RemoveContainer",
        "ContainerStatus",
        "ReopenContainerLog",
        "ExecSync",
        "ContainerStats",
        "ImageStatus",
        "PullImage",
        "RemoveImage",
    ];
    assert_eq!(with(Code::Ok), answered);
    assert_eq!(with(Code::InvalidArgument), missing_something);
    assert_eq!(with(Code::Unimplemented).len(), 43 - answered.len() - missing_something.len());
}

fn rpc_name(fact: &'static str) -> Option<&'static str> {
    let mut columns = fact.split('\t');
    (columns.next() == Some("rpc")).then(|| columns.nth(1)).flatten()
}

#[tokio::test]
async fn what_is_not_served_says_what_to_do() {
    let server = Server::start().await;
    let message = server.runtime().await.attach(AttachRequest::default()).await;
    assert_eq!(message.expect_err("not served").message(), "Attach is not implemented");
}

/// C17, C19
#[tokio::test]
async fn ids_that_name_nothing() {
    let server = Server::start().await;
    let mut runtime = server.runtime().await;
    let unknown = "7f1b5c52-1f0e-4a53-9d62-0c5a7b5d0a11";
    for (id, stop, status) in [
        (unknown, Code::Ok, Code::NotFound),
        ("abcdef", Code::Ok, Code::NotFound),
        ("abc", Code::InvalidArgument, Code::InvalidArgument),
        ("../../etc", Code::InvalidArgument, Code::InvalidArgument),
        (&"a".repeat(10_000), Code::InvalidArgument, Code::InvalidArgument),
    ] {
        let pod_sandbox_id = id.to_owned();
        let reply = runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id }).await;
        assert_eq!(code(reply), stop, "stop sandbox {id:.70}");
        let container_id = id.to_owned();
        let reply = runtime.remove_container(RemoveContainerRequest { container_id }).await;
        assert_eq!(code(reply), stop, "remove container {id:.70}");
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        assert_eq!(code(runtime.pod_sandbox_status(request).await), status, "sandbox {id:.70}");
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        assert_eq!(code(runtime.container_status(request).await), status, "container {id:.70}");
        let request = ContainerStatsRequest { container_id: id.to_owned() };
        assert_eq!(code(runtime.container_stats(request).await), status, "statistics {id:.70}");
    }
}

#[tokio::test]
async fn times_and_commands_are_checked() {
    let server = Server::start().await;
    let mut runtime = server.runtime().await;
    let container_id = || "abcdef".to_owned();
    let stop = StopContainerRequest { container_id: container_id(), timeout: -1 };
    assert_eq!(code(runtime.stop_container(stop).await), Code::InvalidArgument);
    let stop = StopContainerRequest { container_id: container_id(), timeout: i64::MAX };
    assert_eq!(code(runtime.stop_container(stop).await), Code::Ok, "unknown, and no overflow");
    for (cmd, timeout, expected) in [
        (vec![], 1, Code::InvalidArgument),
        (vec!["a\0b"], 1, Code::InvalidArgument),
        (vec!["true"], -1, Code::InvalidArgument),
        (vec!["true"], 0, Code::NotFound),
        (vec!["true"], i64::MAX, Code::NotFound),
    ] {
        let cmd = cmd.into_iter().map(str::to_owned).collect();
        let request = ExecSyncRequest { container_id: container_id(), cmd, timeout };
        assert_eq!(code(runtime.exec_sync(request).await), expected);
    }
}

/// C2, C69
#[tokio::test]
async fn an_empty_image_store_answers() {
    let server = Server::start().await;
    let mut images = server.images().await;
    let info = images.image_fs_info(ImageFsInfoRequest {}).await.expect("a size").into_inner();
    let [filesystem] = &info.image_filesystems[..] else { panic!("{info:?}") };
    assert!(filesystem.used_bytes.is_some() && filesystem.timestamp > 0, "{filesystem:?}");
    let spec = |image: &str| Some(ImageSpec { image: image.to_owned(), ..Default::default() });
    let request = ImageStatusRequest { image: spec("busybox"), verbose: true };
    let status = images.image_status(request).await.expect("no error").into_inner();
    assert_eq!(status, ImageStatusResponse::default());
    let request = ImageStatusRequest { image: spec("UPPER:::"), verbose: false };
    assert_eq!(code(images.image_status(request).await), Code::InvalidArgument);
    let filter = Some(ImageFilter { image: spec("UPPER:::") });
    let list = images.list_images(ListImagesRequest { filter }).await.expect("no error");
    assert_eq!(list.into_inner().images, []);
    let remove = RemoveImageRequest { image: spec("busybox") };
    assert_eq!(code(images.remove_image(remove).await), Code::Ok);
}

#[tokio::test]
async fn a_message_above_the_limit_is_refused_and_the_next_is_not() {
    let server = Server::start().await;
    let mut runtime = server.runtime().await;
    let pod_sandbox_id = "a".repeat(LARGEST_MESSAGE + 1);
    let reply = runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id }).await;
    assert_eq!(code(reply), Code::ResourceExhausted);
    assert_eq!(code(runtime.version(VersionRequest::default()).await), Code::Ok);
}

#[tokio::test]
async fn a_server_ends_when_told_to() {
    let server = Server::start().await;
    let mut runtime = server.runtime().await;
    assert_eq!(code(runtime.version(VersionRequest::default()).await), Code::Ok);
    server.stop.send(()).expect("it runs");
    let ended = tokio::time::timeout(Duration::from_secs(10), server.served).await;
    ended.expect("in time").expect("no panic").expect("no error");
}
