//! Calls about containers.

use cri_api::v1 as cri;
use model::{IdQuery, InvalidField, check_text};

use crate::{
    convert::{container, container_status, sandbox, seconds},
    filter, paging,
    service::Cri,
    status::CallError,
};

/// `CreateContainer`
pub(crate) async fn create(
    cri: Cri,
    request: cri::CreateContainerRequest,
) -> Result<cri::CreateContainerResponse, CallError> {
    let query = IdQuery::parse("pod_sandbox_id", &request.pod_sandbox_id)?;
    let config = container::container_config(request.config, cri.host)?;
    let claim = request.sandbox_config.map(sandbox::sandbox_claim).transpose()?;
    let container_id = cri.engine.create_container(&query, config, claim).await?.to_string();
    Ok(cri::CreateContainerResponse { container_id })
}

/// `StartContainer`
pub(crate) async fn start(
    cri: Cri,
    request: cri::StartContainerRequest,
) -> Result<cri::StartContainerResponse, CallError> {
    cri.engine.start_container(&query(&request.container_id)?).await?;
    Ok(cri::StartContainerResponse {})
}

/// `StopContainer`
pub(crate) async fn stop(
    cri: Cri,
    request: cri::StopContainerRequest,
) -> Result<cri::StopContainerResponse, CallError> {
    let timeout = seconds("timeout", request.timeout)?;
    cri.engine.stop_container(&query(&request.container_id)?, timeout).await?;
    Ok(cri::StopContainerResponse {})
}

/// `RemoveContainer`
pub(crate) async fn remove(
    cri: Cri,
    request: cri::RemoveContainerRequest,
) -> Result<cri::RemoveContainerResponse, CallError> {
    cri.engine.remove_container(&query(&request.container_id)?).await?;
    Ok(cri::RemoveContainerResponse {})
}

/// `ReopenContainerLog`
pub(crate) async fn reopen_log(
    cri: Cri,
    request: cri::ReopenContainerLogRequest,
) -> Result<cri::ReopenContainerLogResponse, CallError> {
    cri.engine.reopen_log(&query(&request.container_id)?).await?;
    Ok(cri::ReopenContainerLogResponse {})
}

/// `ExecSync`
pub(crate) async fn exec_sync(
    cri: Cri,
    request: cri::ExecSyncRequest,
) -> Result<cri::ExecSyncResponse, CallError> {
    let query = query(&request.container_id)?;
    if request.cmd.first().is_none_or(String::is_empty) {
        return Err(InvalidField::new("cmd", "", "names no program").into());
    }
    request.cmd.iter().try_for_each(|word| check_text("cmd", word))?;
    let timeout = Some(seconds("timeout", request.timeout)?).filter(|limit| !limit.is_zero());
    let output = cri.engine.exec_sync(&query, request.cmd, timeout).await?;
    let engine::ExecOutput { stdout, stderr, exit_code } = output;
    Ok(cri::ExecSyncResponse { stdout, stderr, exit_code })
}

/// `ContainerStatus`
pub(crate) fn status(
    cri: &Cri,
    request: &cri::ContainerStatusRequest,
) -> Result<cri::ContainerStatusResponse, CallError> {
    let container = cri.engine.container(&query(&request.container_id)?)?;
    let info = if request.verbose { container_status::info(&container) } else { [].into() };
    Ok(cri::ContainerStatusResponse { status: Some(container_status::status(&container)), info })
}

/// `ListContainers`
pub(crate) fn list(
    cri: &Cri,
    filter: Option<cri::ContainerFilter>,
) -> Result<cri::ListContainersResponse, CallError> {
    let list = cri::ListContainersResponse { containers: selected(cri, filter) };
    paging::one_message("ListContainers", "StreamContainers", list)
}

/// `StreamContainers`
pub(crate) fn stream(
    cri: &Cri,
    filter: Option<cri::ContainerFilter>,
) -> paging::Pages<cri::StreamContainersResponse> {
    let message = |containers| cri::StreamContainersResponse { containers };
    paging::pages(selected(cri, filter), message)
}

fn selected(cri: &Cri, filter: Option<cri::ContainerFilter>) -> Vec<cri::Container> {
    let select = filter::containers(filter);
    cri.engine.containers().iter().map(container_status::listed).filter(select).collect()
}

fn query(container_id: &str) -> Result<IdQuery, InvalidField> {
    IdQuery::parse("container_id", container_id)
}
