//! What containers use, as a kubelet asks for it.

use std::{collections::HashMap, path::Path};

use cri_api::v1::{
    ContainerStats, ContainerStatsFilter, ContainerStatsRequest, FilesystemUsage,
    ImageFsInfoRequest, ListContainerStatsRequest, StreamContainerStatsRequest,
};
use it::{Outcome, Scenario};
use testkit::Options;
use tonic::{Code, Status};

it::tests!("stats":
    only_running_containers_are_listed,
    filters_select,
    stream_and_list_agree,
    busy_containers_use_more_and_more,
    the_writable_layer_is_what_was_written,
    one_container_is_found_in_any_state,
    without_cgroups_the_layer_is_left,
);

async fn try_stats(t: &Scenario, id: &str) -> Result<ContainerStats, Status> {
    let request = ContainerStatsRequest { container_id: id.to_owned() };
    let response = t.cri.runtime.clone().container_stats(request).await?;
    Ok(response.into_inner().stats.expect("statistics"))
}

async fn stats(t: &Scenario, id: &str) -> ContainerStats {
    try_stats(t, id).await.expect("ContainerStats")
}

async fn list(t: &Scenario, filter: ContainerStatsFilter) -> Vec<ContainerStats> {
    let request = ListContainerStatsRequest { filter: Some(filter) };
    let response = t.cri.runtime.clone().list_container_stats(request).await;
    response.expect("ListContainerStats").into_inner().stats
}

fn of_pod(pod: &str) -> ContainerStatsFilter {
    ContainerStatsFilter { pod_sandbox_id: pod.to_owned(), ..Default::default() }
}

fn ids(stats: &[ContainerStats]) -> Vec<&str> {
    stats.iter().map(id_of).collect()
}

fn id_of(stats: &ContainerStats) -> &str {
    &stats.attributes.as_ref().expect("attributes").id
}

async fn only_running_containers_are_listed(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let running = t.launch(&pod, t.sleeper("running")).await;
    t.create(&pod, t.sleeper("created")).await;
    let exited = t.launch(&pod, t.sleeper("exited")).await;
    t.stop(&exited, 0).await;
    let all = list(t, of_pod(&pod)).await;
    assert_eq!(ids(&all), [&running]);
    let attributes = all[0].attributes.as_ref().expect("attributes");
    let status = t.status(&running).await;
    assert_eq!(attributes.metadata, status.metadata);
    assert_eq!(attributes.labels, status.labels);
    assert_eq!(attributes.annotations, status.annotations);
    t.stop_pod(&pod).await;
    assert_eq!(list(t, of_pod(&pod)).await, []);
}

async fn filters_select(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let labelled = |value: &str| HashMap::from([("stats".to_owned(), value.to_owned())]);
    let mut spec = t.sleeper("a");
    spec.config.labels = labelled("a");
    let a = t.launch(&pod, spec).await;
    let b = t.launch(&pod, t.sleeper("b")).await;
    assert_eq!(ids(&list(t, of_pod(&pod)).await), [&a, &b]);
    assert_eq!(list(t, of_pod(&a)).await, [], "the id of a container is none of a sandbox");
    let by_id = |id: &str| ContainerStatsFilter { id: id.to_owned(), ..of_pod(&pod) };
    assert_eq!(ids(&list(t, by_id(&b)).await), [&b]);
    assert_eq!(ids(&list(t, by_id(&b[..16])).await), [&b]);
    let by_label = |value| ContainerStatsFilter { label_selector: labelled(value), ..of_pod(&pod) };
    assert_eq!(ids(&list(t, by_label("a")).await), [&a]);
    assert_eq!(list(t, by_label("other")).await, []);
}

async fn stream_and_list_agree(t: &mut Scenario) {
    let pod = t.run_pod().await;
    t.launch(&pod, t.sleeper("a")).await;
    t.launch(&pod, t.sleeper("b")).await;
    let request = StreamContainerStatsRequest { filter: Some(of_pod(&pod)) };
    let response = t.cri.runtime.clone().stream_container_stats(request).await;
    let mut stream = response.expect("StreamContainerStats").into_inner();
    let mut streamed = Vec::new();
    while let Some(page) = stream.message().await.expect("a page") {
        streamed.extend(page.container_stats);
    }
    assert_eq!(ids(&streamed), ids(&list(t, of_pod(&pod)).await));
    assert_eq!(streamed.len(), 2);
}

async fn busy_containers_use_more_and_more(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let busy = t.launch(&pod, t.busybox("busy").script("while :; do :; done")).await;
    let idle = t.launch(&pod, t.sleeper("idle")).await;
    let first = cpu_nanos(&stats(t, &busy).await);
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    let later = stats(t, &busy).await;
    assert!(cpu_nanos(&later) > first, "{later:?}");
    let cpu = later.cpu.expect("cpu");
    let nano_cores = cpu.usage_nano_cores.expect("two looks").value;
    assert!(nano_cores > 10_000_000, "it has a share of a core: {nano_cores}");
    let idle = stats(t, &idle).await;
    assert!(cpu_nanos(&idle) < cpu_nanos(&stats(t, &busy).await), "{idle:?}");
    let cpu = idle.cpu.expect("cpu");
    assert_eq!(cpu.usage_nano_cores, None, "one look");
    // Which of these there are depends on the delegated controllers; a 0 would be made up.
    let memory = idle.memory.expect("memory");
    assert!(cpu.timestamp > 0 && memory.timestamp > 0, "{memory:?}");
    assert!(memory.usage_bytes.is_none_or(|usage| usage.value > 0), "{memory:?}");
    assert_eq!(memory.available_bytes, None, "there is no limit");
}

fn cpu_nanos(stats: &ContainerStats) -> u64 {
    let cpu = stats.cpu.as_ref().expect("cpu");
    cpu.usage_core_nano_seconds.as_ref().expect("every cgroup counts time").value
}

async fn the_writable_layer_is_what_was_written(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let empty = t.launch(&pod, t.sleeper("empty")).await;
    let script = "dd if=/dev/zero of=/tmp/file bs=1024 count=1024 2>&1; echo written; sleep 100000";
    let full = t.launch(&pod, t.busybox("full").script(script)).await;
    let written =
        async |t: &Scenario| t.printed(&t.status(&full).await).contains("written").then_some(());
    t.eventually("the container writes", written).await;
    let (empty, full) = (layer(t, &empty).await, layer(t, &full).await);
    let [empty_bytes, full_bytes] = [&empty, &full].map(|l| l.used_bytes.expect("bytes").value);
    assert!(empty_bytes < 1 << 20 && full_bytes >= 1 << 20, "{empty_bytes} {full_bytes}");
    let [empty_inodes, full_inodes] = [&empty, &full].map(|l| l.inodes_used.expect("inodes").value);
    assert!(empty_inodes < full_inodes, "{empty_inodes} {full_inodes}");
    assert!(full.timestamp > 0);
    let info = t.cri.images.clone().image_fs_info(ImageFsInfoRequest {}).await;
    let info = info.expect("ImageFsInfo").into_inner();
    assert_eq!(full.fs_id, info.container_filesystems[0].fs_id);
    assert!(Path::new(&full.fs_id.expect("a file system").mountpoint).is_absolute());
}

async fn layer(t: &Scenario, id: &str) -> FilesystemUsage {
    stats(t, id).await.writable_layer.expect("a layer")
}

async fn one_container_is_found_in_any_state(t: &mut Scenario) {
    let unknown = try_stats(t, &"0".repeat(64)).await.expect_err("unknown");
    assert_eq!(unknown.code(), Code::NotFound, "{unknown:?}");
    let pod = t.run_pod().await;
    let id = t.create(&pod, t.sleeper("a")).await;
    assert_eq!(id_of(&stats(t, &id).await), id);
    t.try_start(&id).await.expect("StartContainer");
    assert_eq!(id_of(&stats(t, &id[..12]).await), id);
    t.stop(&id, 0).await;
    let exited = stats(t, &id).await;
    assert_eq!((exited.cpu, exited.memory), (None, None), "nothing is made up");
    assert!(exited.writable_layer.is_some());
    t.remove(&id).await;
    let removed = try_stats(t, &id).await.expect_err("removed");
    assert_eq!(removed.code(), Code::NotFound, "{removed:?}");
}

async fn without_cgroups_the_layer_is_left(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options { cgroups: false, ..Options::default() }).await?;
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    let all = list(t, of_pod(&pod)).await;
    assert_eq!(ids(&all), [&id]);
    assert_eq!((&all[0].cpu, &all[0].memory), (&None, &None));
    assert!(all[0].writable_layer.as_ref().is_some_and(|layer| layer.timestamp > 0));
    Ok(())
}
