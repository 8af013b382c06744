//! Pods and containers from run to remove: states, lists, repeated and concurrent calls.

use cri_api::v1::{
    CgroupDriver, ContainerFilter, ContainerState, ContainerStateValue, PodSandboxFilter,
    PodSandboxState, PodSandboxStateValue, RemoveContainerRequest, RunPodSandboxRequest,
    RuntimeConfigRequest, StatusRequest, StreamContainersRequest, StreamPodSandboxesRequest,
    VersionRequest,
};
use it::Scenario;
use testkit::pod;
use tonic::Code;

it::tests!("lifecycle":
    version_is_what_the_kubelet_wants,
    status_is_ready_and_names_the_default_handler,
    cgroups_are_driven_by_files,
    a_container_passes_through_its_states,
    a_pod_passes_through_its_states,
    a_bare_pod_runs,
    labels_and_annotations_come_back,
    pods_are_listed_by_filter,
    containers_are_listed_by_filter,
    streams_say_what_lists_say,
    stop_and_remove_can_be_repeated,
    unknown_things_are_stopped_and_removed_but_have_no_status,
    the_beginning_of_an_id_is_enough,
    one_name_is_one_pod,
    one_name_is_one_container,
    removing_a_pod_removes_its_running_containers,
    a_running_container_can_be_removed,
    containers_need_a_pod_that_is_ready,
    a_container_can_be_replaced_in_its_pod,
);

const UNKNOWN: &str = "00000000000000000000000000000000000000000000000000000000deadbeef";
const DASHED: &str = "6f3c2d3a-8d1f-4d62-9a4e-1f7b3f0f7a11";

async fn version_is_what_the_kubelet_wants(t: &mut Scenario) {
    let version = t.cri.runtime.version(VersionRequest::default()).await.expect("Version");
    let version = version.into_inner();
    assert_eq!(version.version, "0.1.0");
    assert_eq!(version.runtime_name, "usnea");
    assert_eq!(version.runtime_api_version, "v1");
    assert_eq!(version.runtime_version.split('.').count(), 3, "{version:?}");
}

async fn status_is_ready_and_names_the_default_handler(t: &mut Scenario) {
    let response = t.cri.runtime.status(StatusRequest { verbose: true }).await.expect("Status");
    let response = response.into_inner();
    let conditions = response.status.expect("a status").conditions;
    for wanted in ["RuntimeReady", "NetworkReady"] {
        let condition = conditions.iter().find(|condition| condition.r#type == wanted);
        assert!(condition.expect(wanted).status, "{conditions:?}");
    }
    let handlers: Vec<&str> =
        response.runtime_handlers.iter().map(|handler| handler.name.as_str()).collect();
    assert!(handlers.contains(&""), "{handlers:?}");
    assert!(handlers.contains(&"usnea"), "{handlers:?}");
    assert!(!response.info.is_empty());
}

async fn cgroups_are_driven_by_files(t: &mut Scenario) {
    let response = t.cri.runtime.runtime_config(RuntimeConfigRequest {}).await;
    let linux = response.expect("RuntimeConfig").into_inner().linux.expect("linux");
    assert_eq!(linux.cgroup_driver(), CgroupDriver::Cgroupfs);
}

async fn a_container_passes_through_its_states(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.create(&pod, t.sleeper("a")).await;
    let created = t.status(&id).await;
    assert_eq!(created.state(), ContainerState::ContainerCreated);
    assert!(created.created_at > 0);
    assert_eq!((created.started_at, created.finished_at), (0, 0));

    t.try_start(&id).await.expect("StartContainer");
    let running = t.status(&id).await;
    assert_eq!(running.state(), ContainerState::ContainerRunning);
    assert!(running.started_at >= created.created_at);
    assert_eq!(running.finished_at, 0);

    t.stop(&id, 0).await;
    let exited = t.status(&id).await;
    assert_eq!(exited.state(), ContainerState::ContainerExited);
    assert!(exited.finished_at >= running.started_at);
    assert_eq!(exited.exit_code, 137);

    t.remove(&id).await;
    assert_eq!(t.try_status(&id).await.expect_err("removed").code(), Code::NotFound);
    assert_eq!(t.containers(&pod).await, []);
}

async fn a_pod_passes_through_its_states(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let ready = t.pod_status(&pod).await;
    assert_eq!(ready.state(), PodSandboxState::SandboxReady);
    assert!(ready.created_at > 0);
    let metadata = ready.metadata.expect("metadata");
    assert_eq!((metadata.name.as_str(), metadata.uid.as_str()), ("pod", "uid-pod"));

    let container = t.launch(&pod, t.sleeper("a")).await;
    t.stop_pod(&pod).await;
    assert_eq!(t.pod_status(&pod).await.state(), PodSandboxState::SandboxNotready);
    let exited = t.status(&container).await;
    assert_eq!((exited.state(), exited.exit_code), (ContainerState::ContainerExited, 137));

    t.remove_pod(&pod).await;
    assert_eq!(t.try_pod_status(&pod).await.expect_err("removed").code(), Code::NotFound);
    assert_eq!(t.try_status(&container).await.expect_err("removed").code(), Code::NotFound);
    assert_eq!(t.pods().await, []);
}

/// Neither labels nor hostname, log directory, DNS or a `linux` message.
async fn a_bare_pod_runs(t: &mut Scenario) {
    let config = pod("bare").with(|config| config.linux = None).config;
    let mut metadata = config.metadata.expect("metadata");
    metadata.namespace = t.name().to_owned();
    let config = cri_api::v1::PodSandboxConfig { metadata: Some(metadata), ..Default::default() };
    let request = RunPodSandboxRequest { config: Some(config), ..Default::default() };
    let pod = t.cri.runtime.run_pod_sandbox(request).await.expect("RunPodSandbox");
    let id = t.launch(&pod.into_inner().pod_sandbox_id, t.sleeper("a")).await;
    assert_ne!(t.status(&id).await.log_path, "", "the kubelet removes log_path* one day");
}

async fn labels_and_annotations_come_back(t: &mut Scenario) {
    let odd = "ünïcödé \n\t\"quoted\"";
    let note = |map: &mut std::collections::HashMap<String, String>| {
        map.insert("k".to_owned(), odd.to_owned());
    };
    let spec = pod("pod").label("a/b", odd).with(|config| note(&mut config.annotations));
    let pod = t.run(spec).await;
    let spec = t.sleeper("a").label("a/b", odd).with(|config| note(&mut config.annotations));
    let id = t.create(&pod, spec).await;
    let status = t.pod_status(&pod).await;
    assert_eq!((&*status.labels["a/b"], &*status.annotations["k"]), (odd, odd));
    let status = t.status(&id).await;
    assert_eq!((&*status.labels["a/b"], &*status.annotations["k"]), (odd, odd));
    assert_eq!(t.pods().await[0].annotations["k"], odd);
    assert_eq!(t.containers(&pod).await[0].annotations["k"], odd);
}

async fn pods_are_listed_by_filter(t: &mut Scenario) {
    let key = t.name().to_owned();
    let first = t.run(pod("first").label(&key, "1")).await;
    let second = t.run(pod("second").label(&key, "2")).await;
    t.stop_pod(&second).await;
    let by_label = |value: &str| [(key.clone(), value.to_owned())].into();
    let by_state = |state: PodSandboxState| Some(PodSandboxStateValue { state: state.into() });
    let none = PodSandboxFilter::default();
    let filters = [
        (PodSandboxFilter { id: first.clone(), ..none.clone() }, vec![&first]),
        (PodSandboxFilter { id: first[..12].to_owned(), ..none.clone() }, vec![&first]),
        (PodSandboxFilter { id: "f".repeat(64), ..none.clone() }, vec![]),
        (PodSandboxFilter { label_selector: by_label("2"), ..none.clone() }, vec![&second]),
        (PodSandboxFilter { label_selector: by_label("3"), ..none.clone() }, vec![]),
        (
            PodSandboxFilter {
                label_selector: by_label("1"),
                state: by_state(PodSandboxState::SandboxNotready),
                ..none.clone()
            },
            vec![],
        ),
    ];
    for (filter, expected) in filters {
        let found = t.list_pods(filter.clone()).await;
        assert_eq!(found.iter().map(|pod| &pod.id).collect::<Vec<_>>(), expected, "{filter:?}");
    }
    // State READY is the enumeration's zero and filters all the same.
    let ready = PodSandboxFilter { state: by_state(PodSandboxState::SandboxReady), ..none };
    let ready: Vec<String> = t.list_pods(ready).await.into_iter().map(|pod| pod.id).collect();
    assert!(ready.contains(&first) && !ready.contains(&second));
    let mine: Vec<String> = t.pods().await.into_iter().map(|pod| pod.id).collect();
    assert_eq!(mine, [first, second], "in the order of their creation");
}

async fn containers_are_listed_by_filter(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let other = t.run(testkit::pod("other")).await;
    let running = t.launch(&pod, t.sleeper("running").label("l", "1")).await;
    let created = t.create(&pod, t.sleeper("created").label("l", "2")).await;
    let elsewhere = t.create(&other, t.sleeper("created").label("l", "2")).await;
    let in_pod = ContainerFilter { pod_sandbox_id: pod.clone(), ..Default::default() };
    let by_state = |state: ContainerState| Some(ContainerStateValue { state: state.into() });
    let filters = [
        (in_pod.clone(), vec![&running, &created]),
        (ContainerFilter { id: elsewhere.clone(), ..Default::default() }, vec![&elsewhere]),
        (ContainerFilter { id: elsewhere.clone(), ..in_pod.clone() }, vec![]),
        (
            ContainerFilter { state: by_state(ContainerState::ContainerCreated), ..in_pod.clone() },
            vec![&created],
        ),
        (
            ContainerFilter {
                label_selector: [("l".to_owned(), "1".to_owned())].into(),
                ..in_pod.clone()
            },
            vec![&running],
        ),
    ];
    for (filter, expected) in filters {
        let found = t.list_containers(filter.clone()).await;
        let ids: Vec<_> = found.iter().map(|container| &container.id).collect();
        assert_eq!(ids, expected, "{filter:?}");
        for container in &found {
            assert!(container.image.is_some(), "the kubelet drops containers without");
            assert_ne!(container.image_ref, "");
        }
    }
}

async fn streams_say_what_lists_say(t: &mut Scenario) {
    let pod = t.run_pod().await;
    t.create(&pod, t.sleeper("a")).await;
    for id in [pod.clone(), "f".repeat(64)] {
        let filter = PodSandboxFilter { id: id.clone(), ..Default::default() };
        let request = StreamPodSandboxesRequest { filter: Some(filter.clone()) };
        let stream = t.cri.runtime.stream_pod_sandboxes(request).await.expect("StreamPodSandboxes");
        let (mut stream, mut streamed) = (stream.into_inner(), Vec::new());
        while let Some(message) = stream.message().await.expect("a clean end") {
            streamed.extend(message.pod_sandboxes);
        }
        assert_eq!(streamed, t.list_pods(filter).await);

        let filter = ContainerFilter { pod_sandbox_id: id, ..Default::default() };
        let request = StreamContainersRequest { filter: Some(filter.clone()) };
        let stream = t.cri.runtime.stream_containers(request).await.expect("StreamContainers");
        let (mut stream, mut streamed) = (stream.into_inner(), Vec::new());
        while let Some(message) = stream.message().await.expect("a clean end") {
            streamed.extend(message.containers);
        }
        assert_eq!(streamed, t.list_containers(filter).await);
    }
}

async fn stop_and_remove_can_be_repeated(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    for _ in 0..2 {
        t.stop(&id, 0).await;
    }
    for _ in 0..2 {
        t.remove(&id).await;
    }
    for _ in 0..2 {
        t.stop_pod(&pod).await;
    }
    for _ in 0..2 {
        t.remove_pod(&pod).await;
    }
    t.stop_pod(&pod).await;
}

async fn unknown_things_are_stopped_and_removed_but_have_no_status(t: &mut Scenario) {
    for id in [UNKNOWN, DASHED] {
        t.stop(id, 1).await;
        t.remove(id).await;
        t.stop_pod(id).await;
        t.remove_pod(id).await;
        assert_eq!(t.try_status(id).await.expect_err("unknown").code(), Code::NotFound);
        assert_eq!(t.try_pod_status(id).await.expect_err("unknown").code(), Code::NotFound);
        assert_eq!(t.try_start(id).await.expect_err("unknown").code(), Code::NotFound);
        let exec = t.try_exec(id, &["true"], 0).await;
        assert_eq!(exec.expect_err("unknown").code(), Code::NotFound);
    }
}

async fn the_beginning_of_an_id_is_enough(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    assert_eq!(t.status(&id[..12]).await.id, id);
    assert_eq!(t.pod_status(&pod[..12]).await.id, pod);
    assert_eq!(t.try_exec(&id[..12], &["true"], 0).await.expect("ExecSync").code, 0);
    for short in [&id[..3], &id[..1]] {
        let status = t.try_status(short).await.expect_err("too short");
        assert_eq!(status.code(), Code::InvalidArgument);
        let request = RemoveContainerRequest { container_id: short.to_owned() };
        let removed = t.cri.runtime.remove_container(request).await;
        assert_eq!(removed.expect_err("too short").code(), Code::InvalidArgument);
    }
    assert_eq!(t.status(&id).await.state(), ContainerState::ContainerRunning);
}

async fn one_name_is_one_pod(t: &mut Scenario) {
    let config = t.placed(pod("pod"));
    let request = || RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (mut cri, request) = (t.cri.clone(), request());
        calls.spawn(async move { cri.runtime.run_pod_sandbox(request).await });
    }
    let responses = calls.join_all().await;
    let ids = responses.into_iter().map(|response| response.expect("RunPodSandbox").into_inner());
    let mut ids: Vec<String> = ids.map(|response| response.pod_sandbox_id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(t.pods().await.len(), 1);

    let other = t.try_run(pod("pod").hostname("other")).await.expect_err("taken");
    assert_eq!(other.code(), Code::AlreadyExists, "{other:?}");
    let next = t.run(pod("pod").attempt(1)).await;
    assert_ne!(next, ids[0]);
}

async fn one_name_is_one_container(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.create(&pod, t.sleeper("a")).await;
    assert_eq!(t.create(&pod, t.sleeper("a")).await, id, "the same request again");
    t.refused(&pod, t.sleeper("a").env("X", "1"), Code::AlreadyExists).await;
    t.try_start(&id).await.expect("StartContainer");
    t.refused(&pod, t.sleeper("a"), Code::AlreadyExists).await;
    let next = t.create(&pod, t.sleeper("a").attempt(1)).await;
    assert_ne!(next, id);
    t.remove(&id).await;
    t.create(&pod, t.sleeper("a")).await;
}

async fn removing_a_pod_removes_its_running_containers(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    t.remove_pod(&pod).await;
    assert_eq!(t.try_status(&id).await.expect_err("removed").code(), Code::NotFound);
}

async fn a_running_container_can_be_removed(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    t.remove(&id).await;
    assert_eq!(t.containers(&pod).await, []);
}

async fn containers_need_a_pod_that_is_ready(t: &mut Scenario) {
    t.refused(UNKNOWN, t.sleeper("a"), Code::NotFound).await;
    let pod = t.run_pod().await;
    t.stop_pod(&pod).await;
    t.refused(&pod, t.sleeper("a"), Code::FailedPrecondition).await;
}

async fn a_container_can_be_replaced_in_its_pod(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let volume = t.volume("v");
    let sidecar = t.launch(&pod, t.sleeper("sidecar").mount(&volume, "/v")).await;
    let spec = |attempt| t.sleeper("main").mount(&volume, "/v").attempt(attempt);
    let first = t.launch(&pod, spec(0)).await;
    t.exec(&first, "echo kept > /v/file; echo lost > /file").await;
    let network = t.exec(&first, "readlink /proc/self/ns/net").await;
    t.stop(&first, 0).await;
    let second = t.launch(&pod, spec(1)).await;
    assert_eq!(t.exec(&second, "cat /v/file; ls /file 2>/dev/null || true").await, "kept");
    assert_eq!(t.exec(&second, "readlink /proc/self/ns/net").await, network);
    assert_eq!(t.status(&sidecar).await.state(), ContainerState::ContainerRunning);
    assert_eq!(t.status(&first).await.exit_code, 137, "the first is remembered until removed");
}
