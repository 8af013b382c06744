//! CRI `RuntimeService`, call by call: which lets its work end with the caller, and what its span shows.

use cri_api::v1::{runtime_service_server::RuntimeService, *};
use tokio_stream::Empty;
use tonic::{Request, Status};
use tracing::{debug_span, info_span};

use crate::{
    call::{Reply, at_once, shown, to_its_end, while_wanted},
    containers, node,
    paging::Pages,
    sandboxes,
    service::Cri,
    stats,
    unsupported::unsupported,
};

/// The stream of an RPC that has none.
type NoStream<M> = Empty<Result<M, Status>>;

#[tonic::async_trait]
impl RuntimeService for Cri {
    type StreamPodSandboxesStream = Pages<StreamPodSandboxesResponse>;
    type StreamContainersStream = Pages<StreamContainersResponse>;
    type StreamContainerStatsStream = Pages<StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = NoStream<StreamPodSandboxStatsResponse>;
    type StreamPodSandboxMetricsStream = NoStream<StreamPodSandboxMetricsResponse>;
    type GetContainerEventsStream = NoStream<ContainerEventResponse>;

    async fn version(&self, _: Request<VersionRequest>) -> Reply<VersionResponse> {
        let span = debug_span!("Version");
        at_once("Version", &span, || Ok(node::version()))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<RunPodSandboxRequest>,
    ) -> Reply<RunPodSandboxResponse> {
        let request = request.into_inner();
        let metadata = request.config.as_ref().and_then(|config| config.metadata.as_ref());
        let (namespace, name) = metadata.map_or(("", ""), |m| (&m.namespace, &m.name));
        let span = info_span!("RunPodSandbox", namespace = shown(namespace), name = shown(name));
        to_its_end("RunPodSandbox", span, sandboxes::run(self.clone(), request)).await
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> Reply<StopPodSandboxResponse> {
        let request = request.into_inner();
        let span = info_span!("StopPodSandbox", pod_sandbox_id = shown(&request.pod_sandbox_id));
        to_its_end("StopPodSandbox", span, sandboxes::stop(self.clone(), request)).await
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> Reply<RemovePodSandboxResponse> {
        let request = request.into_inner();
        let span = info_span!("RemovePodSandbox", pod_sandbox_id = shown(&request.pod_sandbox_id));
        to_its_end("RemovePodSandbox", span, sandboxes::remove(self.clone(), request)).await
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Reply<PodSandboxStatusResponse> {
        let request = request.into_inner();
        let span = debug_span!("PodSandboxStatus", pod_sandbox_id = shown(&request.pod_sandbox_id));
        at_once("PodSandboxStatus", &span, || sandboxes::status(self, &request))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Reply<ListPodSandboxResponse> {
        let request = request.into_inner();
        let span = debug_span!("ListPodSandbox");
        at_once("ListPodSandbox", &span, || sandboxes::list(self, request.filter))
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<StreamPodSandboxesRequest>,
    ) -> Reply<Self::StreamPodSandboxesStream> {
        let request = request.into_inner();
        let span = debug_span!("StreamPodSandboxes");
        at_once("StreamPodSandboxes", &span, || Ok(sandboxes::stream(self, request.filter)))
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Reply<CreateContainerResponse> {
        let request = request.into_inner();
        let span = info_span!("CreateContainer", pod_sandbox_id = shown(&request.pod_sandbox_id));
        to_its_end("CreateContainer", span, containers::create(self.clone(), request)).await
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Reply<StartContainerResponse> {
        let request = request.into_inner();
        let span = info_span!("StartContainer", container_id = shown(&request.container_id));
        to_its_end("StartContainer", span, containers::start(self.clone(), request)).await
    }

    async fn stop_container(
        &self,
        request: Request<StopContainerRequest>,
    ) -> Reply<StopContainerResponse> {
        let request = request.into_inner();
        let span = info_span!("StopContainer", container_id = shown(&request.container_id));
        to_its_end("StopContainer", span, containers::stop(self.clone(), request)).await
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Reply<RemoveContainerResponse> {
        let request = request.into_inner();
        let span = info_span!("RemoveContainer", container_id = shown(&request.container_id));
        to_its_end("RemoveContainer", span, containers::remove(self.clone(), request)).await
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Reply<ListContainersResponse> {
        let request = request.into_inner();
        let span = debug_span!("ListContainers");
        at_once("ListContainers", &span, || containers::list(self, request.filter))
    }

    async fn stream_containers(
        &self,
        request: Request<StreamContainersRequest>,
    ) -> Reply<Self::StreamContainersStream> {
        let request = request.into_inner();
        let span = debug_span!("StreamContainers");
        at_once("StreamContainers", &span, || Ok(containers::stream(self, request.filter)))
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> Reply<ContainerStatusResponse> {
        let request = request.into_inner();
        let span = debug_span!("ContainerStatus", container_id = shown(&request.container_id));
        at_once("ContainerStatus", &span, || containers::status(self, &request))
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Reply<ReopenContainerLogResponse> {
        let request = request.into_inner();
        let span = info_span!("ReopenContainerLog", container_id = shown(&request.container_id));
        to_its_end("ReopenContainerLog", span, containers::reopen_log(self.clone(), request)).await
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Reply<ExecSyncResponse> {
        let request = request.into_inner();
        let span = info_span!("ExecSync", container_id = shown(&request.container_id));
        while_wanted("ExecSync", span, containers::exec_sync(self.clone(), request)).await
    }

    async fn status(&self, request: Request<StatusRequest>) -> Reply<StatusResponse> {
        let request = request.into_inner();
        let span = debug_span!("Status");
        at_once("Status", &span, || Ok(node::status(self, request)))
    }

    async fn runtime_config(
        &self,
        _: Request<RuntimeConfigRequest>,
    ) -> Reply<RuntimeConfigResponse> {
        let span = debug_span!("RuntimeConfig");
        at_once("RuntimeConfig", &span, || Ok(node::runtime_config()))
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Reply<UpdateRuntimeConfigResponse> {
        let request = request.into_inner();
        let span = info_span!("UpdateRuntimeConfig");
        at_once("UpdateRuntimeConfig", &span, || node::update_runtime_config(request))
    }

    async fn update_pod_sandbox_resources(
        &self,
        _: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Reply<UpdatePodSandboxResourcesResponse> {
        Err(unsupported("UpdatePodSandboxResources"))
    }

    async fn update_container_resources(
        &self,
        _: Request<UpdateContainerResourcesRequest>,
    ) -> Reply<UpdateContainerResourcesResponse> {
        Err(unsupported("UpdateContainerResources"))
    }

    async fn exec(&self, _: Request<ExecRequest>) -> Reply<ExecResponse> {
        Err(unsupported("Exec"))
    }

    async fn attach(&self, _: Request<AttachRequest>) -> Reply<AttachResponse> {
        Err(unsupported("Attach"))
    }

    async fn port_forward(&self, _: Request<PortForwardRequest>) -> Reply<PortForwardResponse> {
        Err(unsupported("PortForward"))
    }

    async fn container_stats(
        &self,
        request: Request<ContainerStatsRequest>,
    ) -> Reply<ContainerStatsResponse> {
        let request = request.into_inner();
        let span = debug_span!("ContainerStats", container_id = shown(&request.container_id));
        while_wanted("ContainerStats", span, stats::container(self.clone(), request)).await
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Reply<ListContainerStatsResponse> {
        let filter = request.into_inner().filter;
        let span = debug_span!("ListContainerStats");
        while_wanted("ListContainerStats", span, stats::list_containers(self.clone(), filter)).await
    }

    async fn stream_container_stats(
        &self,
        request: Request<StreamContainerStatsRequest>,
    ) -> Reply<Self::StreamContainerStatsStream> {
        let filter = request.into_inner().filter;
        let span = debug_span!("StreamContainerStats");
        while_wanted("StreamContainerStats", span, stats::stream_containers(self.clone(), filter))
            .await
    }

    async fn pod_sandbox_stats(
        &self,
        _: Request<PodSandboxStatsRequest>,
    ) -> Reply<PodSandboxStatsResponse> {
        Err(unsupported("PodSandboxStats"))
    }

    async fn list_pod_sandbox_stats(
        &self,
        _: Request<ListPodSandboxStatsRequest>,
    ) -> Reply<ListPodSandboxStatsResponse> {
        Err(unsupported("ListPodSandboxStats"))
    }

    async fn stream_pod_sandbox_stats(
        &self,
        _: Request<StreamPodSandboxStatsRequest>,
    ) -> Reply<Self::StreamPodSandboxStatsStream> {
        Err(unsupported("StreamPodSandboxStats"))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<ListMetricDescriptorsRequest>,
    ) -> Reply<ListMetricDescriptorsResponse> {
        Err(unsupported("ListMetricDescriptors"))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<ListPodSandboxMetricsRequest>,
    ) -> Reply<ListPodSandboxMetricsResponse> {
        Err(unsupported("ListPodSandboxMetrics"))
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<StreamPodSandboxMetricsRequest>,
    ) -> Reply<Self::StreamPodSandboxMetricsStream> {
        Err(unsupported("StreamPodSandboxMetrics"))
    }

    async fn get_container_events(
        &self,
        _: Request<GetEventsRequest>,
    ) -> Reply<Self::GetContainerEventsStream> {
        Err(unsupported("GetContainerEvents"))
    }

    async fn checkpoint_container(
        &self,
        _: Request<CheckpointContainerRequest>,
    ) -> Reply<CheckpointContainerResponse> {
        Err(unsupported("CheckpointContainer"))
    }

    async fn checkpoint_pod(
        &self,
        _: Request<CheckpointPodRequest>,
    ) -> Reply<CheckpointPodResponse> {
        Err(unsupported("CheckpointPod"))
    }

    async fn restore_pod(&self, _: Request<RestorePodRequest>) -> Reply<RestorePodResponse> {
        Err(unsupported("RestorePod"))
    }
}
