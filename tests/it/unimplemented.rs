//! Calls that this release does not serve say so, by name.

use cri_api::v1::{
    AttachRequest, CheckpointContainerRequest, CheckpointPodRequest, ExecRequest, GetEventsRequest,
    ListMetricDescriptorsRequest, ListPodSandboxMetricsRequest, ListPodSandboxStatsRequest,
    PodSandboxStatsRequest, PortForwardRequest, RestorePodRequest, StreamPodSandboxMetricsRequest,
    StreamPodSandboxStatsRequest, UpdateContainerResourcesRequest,
    UpdatePodSandboxResourcesRequest,
};
use it::Scenario;
use tonic::{Code, Status};

it::tests!("unimplemented": calls_say_their_name);

/// Calls each method with an empty request: `(name, error)`.
macro_rules! answers {
    ($client:expr, $($name:literal $method:ident $request:ty),+ $(,)?) => {
        vec![$(($name, $client.$method(<$request>::default()).await.err())),+]
    };
}

async fn calls_say_their_name(t: &mut Scenario) {
    let runtime = &mut t.cri.runtime;
    let answers: Vec<(&str, Option<Status>)> = answers!(runtime,
        "UpdatePodSandboxResources" update_pod_sandbox_resources UpdatePodSandboxResourcesRequest,
        "UpdateContainerResources" update_container_resources UpdateContainerResourcesRequest,
        "Exec" exec ExecRequest,
        "Attach" attach AttachRequest,
        "PortForward" port_forward PortForwardRequest,
        "PodSandboxStats" pod_sandbox_stats PodSandboxStatsRequest,
        "ListPodSandboxStats" list_pod_sandbox_stats ListPodSandboxStatsRequest,
        "StreamPodSandboxStats" stream_pod_sandbox_stats StreamPodSandboxStatsRequest,
        "ListMetricDescriptors" list_metric_descriptors ListMetricDescriptorsRequest,
        "ListPodSandboxMetrics" list_pod_sandbox_metrics ListPodSandboxMetricsRequest,
        "StreamPodSandboxMetrics" stream_pod_sandbox_metrics StreamPodSandboxMetricsRequest,
        "GetContainerEvents" get_container_events GetEventsRequest,
        "CheckpointContainer" checkpoint_container CheckpointContainerRequest,
        "CheckpointPod" checkpoint_pod CheckpointPodRequest,
        "RestorePod" restore_pod RestorePodRequest,
    );
    for (name, answer) in answers {
        let status = answer.expect(name);
        assert_eq!(status.code(), Code::Unimplemented, "{name}: {status:?}");
        assert!(status.message().contains(name), "{name}: {status:?}");
    }
}
