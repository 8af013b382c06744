//! What containers use: CRI `ContainerStats`.
//!
//! Measured when somebody asks: a handful of cgroup files per container ([`usage`]), and now and then the directory
//! that takes its changes ([`layer`]).

mod layer;
mod usage;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use model::{ContainerRecord, ContainerState, IdQuery};
use sys::cgroup::Cgroup;

pub(crate) use layer::LAYER_WALKS;
pub use layer::LayerUsage;
pub use usage::{CgroupUsage, CpuUsage, MemoryUsage, Pressure, Stall, SwapUsage};

use crate::{
    ContainerView, Engine, EngineError, Inner, objects::Container, sandboxes::blocking,
    stats::layer::Layer, stats::usage::CpuRate,
};

/// What a container uses.
#[derive(Clone, Debug)]
pub struct ContainerStats {
    /// What was asked, and the state.
    pub record: Arc<ContainerRecord>,
    /// CPU, memory and waiting. `None` without a delegated cgroup, and for a container that has exited.
    pub cgroup: Option<CgroupUsage>,
    /// What it has written to its root file system; `None` when that could not be measured, or not soon enough.
    pub writable_layer: Option<LayerUsage>,
}

/// What is kept of a container's earlier measurements; it goes with the container.
#[derive(Debug, Default)]
pub(crate) struct Earlier {
    cpu: Mutex<CpuRate>,
    layer: Layer,
}

impl Earlier {
    fn measure(&self, cgroup: &Cgroup) -> Option<CgroupUsage> {
        let now = Instant::now();
        let mut usage = CgroupUsage::read(cgroup)?;
        let mut cpu = self.cpu.lock().unwrap_or_else(PoisonError::into_inner);
        usage.cpu.nano_cores = cpu.next(now, usage.cpu.core_nanos);
        Some(usage)
    }
}

impl Engine {
    /// What the container uses that `query` names, in whatever state it is.
    ///
    /// CRI `ContainerStats`.
    ///
    /// # Errors
    /// [`EngineError::Lookup`].
    pub async fn container_stats(&self, query: &IdQuery) -> Result<ContainerStats, EngineError> {
        let container = self.inner.registry.find_container(query)?;
        let cgroup = Inner::cgroup_usages(&self.inner, vec![Arc::clone(&container)]);
        let layer = Inner::layer_usage(Arc::clone(&self.inner), Arc::clone(&container));
        let (cgroup, writable_layer) = tokio::join!(cgroup, layer);
        let cgroup = cgroup?.pop().flatten();
        Ok(ContainerStats { record: container.record(), cgroup, writable_layer })
    }

    /// What the running containers use that are `wanted`, oldest first. One that ends meanwhile is left out.
    ///
    /// CRI `ListContainerStats`.
    ///
    /// # Errors
    /// [`EngineError::Internal`] for a bug only.
    pub async fn running_container_stats(
        &self,
        wanted: impl Fn(&ContainerView) -> bool,
    ) -> Result<Vec<ContainerStats>, EngineError> {
        let mut containers = self.inner.registry.containers();
        containers.retain(|c| is_running(&c.record()) && wanted(&ContainerView::from(c)));
        // All at once; how many directories are walked at a time is limited in there.
        let layers: Vec<_> = containers
            .iter()
            .map(|c| tokio::spawn(Inner::layer_usage(Arc::clone(&self.inner), Arc::clone(c))))
            .collect();
        let cgroups = Inner::cgroup_usages(&self.inner, containers.clone()).await?;
        let mut stats = Vec::with_capacity(containers.len());
        for ((container, cgroup), layer) in containers.iter().zip(cgroups).zip(layers) {
            let writable_layer = layer.await.ok().flatten();
            let record = container.record();
            // The shim removes the cgroup a moment before it reports the exit.
            let vanished = cgroup.is_none() && self.inner.cgroup_path(&record).is_some();
            if is_running(&record) && !vanished {
                stats.push(ContainerStats { record, cgroup, writable_layer });
            }
        }
        Ok(stats)
    }
}

fn is_running(record: &ContainerRecord) -> bool {
    matches!(record.state, ContainerState::Running { .. })
}

impl Inner {
    /// Reads the cgroups of `containers`, which takes the kernel longer than a lookup in memory.
    async fn cgroup_usages(
        inner: &Arc<Self>,
        containers: Vec<Arc<Container>>,
    ) -> Result<Vec<Option<CgroupUsage>>, EngineError> {
        let inner = Arc::clone(inner);
        blocking(move || Ok(containers.iter().map(|c| inner.cgroup_usage(c)).collect())).await
    }

    fn cgroup_usage(&self, container: &Container) -> Option<CgroupUsage> {
        let record = container.record();
        let path = self.cgroup_path(&record)?;
        let cgroup = self.cgroups.as_ref()?.root().descend(&path).ok()?;
        container.earlier.measure(&cgroup)
    }

    /// Where a container's cgroup is while it lives, if the daemon has cgroups.
    fn cgroup_path(&self, record: &ContainerRecord) -> Option<PathBuf> {
        let path = record.cgroup.as_deref().filter(|_| self.cgroups.is_some())?;
        Some(Path::new(path).to_owned())
    }
}
