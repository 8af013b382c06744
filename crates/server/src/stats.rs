//! Calls about what containers use.

use cri_api::v1 as cri;
use model::IdQuery;

use crate::{
    convert::{container_status, stats},
    filter, paging,
    service::Cri,
    status::CallError,
};

/// `ContainerStats`
pub(crate) async fn container(
    cri: Cri,
    request: cri::ContainerStatsRequest,
) -> Result<cri::ContainerStatsResponse, CallError> {
    let query = IdQuery::parse("container_id", &request.container_id)?;
    let stats = stats::to_cri(&cri.engine.container_stats(&query).await?);
    Ok(cri::ContainerStatsResponse { stats: Some(stats) })
}

/// `ListContainerStats`
pub(crate) async fn list_containers(
    cri: Cri,
    filter: Option<cri::ContainerStatsFilter>,
) -> Result<cri::ListContainerStatsResponse, CallError> {
    let list = cri::ListContainerStatsResponse { stats: selected(&cri, filter).await? };
    paging::one_message("ListContainerStats", "StreamContainerStats", list)
}

/// `StreamContainerStats`
pub(crate) async fn stream_containers(
    cri: Cri,
    filter: Option<cri::ContainerStatsFilter>,
) -> Result<paging::Pages<cri::StreamContainerStatsResponse>, CallError> {
    let message = |container_stats| cri::StreamContainerStatsResponse { container_stats };
    Ok(paging::pages(selected(&cri, filter).await?, message))
}

async fn selected(
    cri: &Cri,
    filter: Option<cri::ContainerStatsFilter>,
) -> Result<Vec<cri::ContainerStats>, CallError> {
    let cri::ContainerStatsFilter { id, pod_sandbox_id, label_selector } =
        filter.unwrap_or_default();
    let filter = cri::ContainerFilter { id, pod_sandbox_id, label_selector, state: None };
    let select = filter::containers(Some(filter));
    let wanted = |container: &_| select(&container_status::listed(container));
    let running = cri.engine.running_container_stats(wanted).await?;
    Ok(running.iter().map(stats::to_cri).collect())
}
