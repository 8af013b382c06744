//! Calls about pod sandboxes.

use cri_api::v1 as cri;
use model::IdQuery;

use crate::{
    clock::now,
    convert::{container_status, sandbox, sandbox_status},
    filter, paging,
    service::Cri,
    status::CallError,
};

const ID_FIELD: &str = "pod_sandbox_id";

/// `RunPodSandbox`
pub(crate) async fn run(
    cri: Cri,
    request: cri::RunPodSandboxRequest,
) -> Result<cri::RunPodSandboxResponse, CallError> {
    let config = sandbox::sandbox_config(request, cri.host)?;
    let pod_sandbox_id = cri.engine.run_sandbox(config).await?.to_string();
    Ok(cri::RunPodSandboxResponse { pod_sandbox_id })
}

/// `StopPodSandbox`
pub(crate) async fn stop(
    cri: Cri,
    request: cri::StopPodSandboxRequest,
) -> Result<cri::StopPodSandboxResponse, CallError> {
    cri.engine.stop_sandbox(&IdQuery::parse(ID_FIELD, &request.pod_sandbox_id)?).await?;
    Ok(cri::StopPodSandboxResponse {})
}

/// `RemovePodSandbox`
pub(crate) async fn remove(
    cri: Cri,
    request: cri::RemovePodSandboxRequest,
) -> Result<cri::RemovePodSandboxResponse, CallError> {
    cri.engine.remove_sandbox(&IdQuery::parse(ID_FIELD, &request.pod_sandbox_id)?).await?;
    Ok(cri::RemovePodSandboxResponse {})
}

/// `PodSandboxStatus`. The statuses of containers and the time come with `verbose` only: a kubelet that finds a time
/// takes the newest sandbox's containers for all of the pod's, and would start init containers again.
pub(crate) fn status(
    cri: &Cri,
    request: &cri::PodSandboxStatusRequest,
) -> Result<cri::PodSandboxStatusResponse, CallError> {
    let query = IdQuery::parse(ID_FIELD, &request.pod_sandbox_id)?;
    let sandbox = cri.engine.sandbox(&query)?;
    let status = Some(sandbox_status::status(&sandbox));
    if !request.verbose {
        return Ok(cri::PodSandboxStatusResponse { status, ..Default::default() });
    }
    let containers = cri.engine.containers();
    let of_sandbox = containers.iter().filter(|c| c.record.sandbox_id == sandbox.record.id);
    Ok(cri::PodSandboxStatusResponse {
        status,
        info: sandbox_status::info(&sandbox),
        containers_statuses: of_sandbox.map(container_status::status).collect(),
        timestamp: now().0,
    })
}

/// `ListPodSandbox`
pub(crate) fn list(
    cri: &Cri,
    filter: Option<cri::PodSandboxFilter>,
) -> Result<cri::ListPodSandboxResponse, CallError> {
    let list = cri::ListPodSandboxResponse { items: selected(cri, filter) };
    paging::one_message("ListPodSandbox", "StreamPodSandboxes", list)
}

/// `StreamPodSandboxes`
pub(crate) fn stream(
    cri: &Cri,
    filter: Option<cri::PodSandboxFilter>,
) -> paging::Pages<cri::StreamPodSandboxesResponse> {
    paging::pages(selected(cri, filter), |pod_sandboxes| cri::StreamPodSandboxesResponse {
        pod_sandboxes,
    })
}

fn selected(cri: &Cri, filter: Option<cri::PodSandboxFilter>) -> Vec<cri::PodSandbox> {
    let select = filter::sandboxes(filter);
    cri.engine.sandboxes().iter().map(sandbox_status::listed).filter(select).collect()
}
