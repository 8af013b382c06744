//! Stopping and removing pod sandboxes, with a living shim or without.
//!
//! Every step can be repeated: a stop that was cut short is finished by the next one, or when the daemon starts.

use std::{
    fs, io,
    path::Path,
    sync::{Arc, PoisonError},
    time::Duration,
};

use model::{ContainerState, IdQuery, LookupError, SandboxEvent, SandboxId, SandboxState};
use shim_api::v1::{StopPod, request::Call};

use crate::{
    Engine, EngineError, Inner,
    error::internal,
    objects::{Container, Sandbox},
    places::{self, POD_CGROUPS, SHIM_CGROUPS},
    records,
    sandboxes::blocking,
};

/// How long the exits of killed containers may take to be reported.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a shim may take to kill its pod: its own limit, and some.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

impl Engine {
    /// Kills a sandbox's containers and takes its namespaces down. An unknown or stopped sandbox is stopped already.
    ///
    /// CRI `StopPodSandbox`.
    ///
    /// # Errors
    /// [`EngineError::Lookup`] for an ambiguous id; [`EngineError::Internal`] when something cannot be removed: the
    /// call may be repeated.
    pub async fn stop_sandbox(&self, query: &IdQuery) -> Result<(), EngineError> {
        match absent_is_none(self.inner.registry.find_sandbox(query))? {
            Some(sandbox) => Inner::stop(&self.inner, &sandbox).await,
            None => Ok(()),
        }
    }

    /// Removes a sandbox and its containers, running or not. An unknown sandbox is removed already. Logs stay.
    ///
    /// CRI `RemovePodSandbox`.
    ///
    /// # Errors
    /// As [`stop_sandbox`](Self::stop_sandbox).
    pub async fn remove_sandbox(&self, query: &IdQuery) -> Result<(), EngineError> {
        match absent_is_none(self.inner.registry.find_sandbox(query))? {
            Some(sandbox) => Inner::remove(&self.inner, &sandbox).await,
            None => Inner::remove_quarantined(&self.inner, query).await,
        }
    }
}

/// Lets calls succeed whose goal is absence.
pub(crate) fn absent_is_none<T>(found: Result<T, EngineError>) -> Result<Option<T>, EngineError> {
    match found {
        Ok(object) => Ok(Some(object)),
        Err(EngineError::Lookup { source: LookupError::NotFound { .. }, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Inner {
    /// Stops `sandbox` and returns when nothing of it runs.
    pub(crate) async fn stop(inner: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), EngineError> {
        let _gate = sandbox.gate.lock().await;
        Self::stop_locked(inner, sandbox).await
    }

    async fn stop_locked(inner: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), EngineError> {
        if matches!(sandbox.record().state, SandboxState::NotReady | SandboxState::Removing) {
            return Ok(());
        }
        let transition = |source| internal("stop the pod sandbox", source);
        let stopping = sandbox.apply(SandboxEvent::StopBegun).map_err(transition)?;
        inner.note_sandbox(&stopping).await;
        Self::end_processes(inner, sandbox).await?;
        let stopped = sandbox.apply(SandboxEvent::Stopped).map_err(transition)?;
        inner.note_sandbox(&stopped).await;
        tracing::info!(pod_sandbox_id = %stopped.id, "pod sandbox stopped");
        Ok(())
    }

    /// Ends shim and containers and removes what lives no longer than they do.
    async fn end_processes(inner: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), EngineError> {
        let record = sandbox.record();
        let containers = inner.registry.containers_of(&record.id);
        if let Some(shim) = sandbox.shim() {
            let stop = shim.call(Call::StopPod(StopPod {}), &[]);
            match tokio::time::timeout(STOP_TIMEOUT, stop).await {
                Ok(Ok(_done)) => wait_for_exits(&containers).await,
                Ok(Err(error)) => {
                    tracing::debug!(pod_sandbox_id = %record.id, %error, "stop by shim");
                }
                Err(_elapsed) => {
                    tracing::warn!(pod_sandbox_id = %record.id, "shim is silent; killing its pod");
                }
            }
            shim.ended().await;
            sandbox.take_shim();
        }
        for container in &containers {
            container.kill_init();
        }
        let (cleaner, id) = (Arc::clone(inner), record.id.clone());
        let names: Vec<String> = containers.iter().map(|c| c.record().id.to_string()).collect();
        let pod = places::pod_cgroup(&record.id, &record.config);
        let removed = blocking(move || {
            cleaner
                .remove_runtime(&id, &pod, &names)
                .map_err(|source| internal("remove what the pod sandbox ran in", source))
        })
        .await;
        for container in &containers {
            inner.container_lost(container);
        }
        removed
    }

    /// Tries everything and returns the first failure.
    fn remove_runtime(&self, id: &SandboxId, pod: &Path, containers: &[String]) -> io::Result<()> {
        let mut results = Vec::new();
        if let Some(cgroups) = &self.cgroups {
            let inside = containers.iter().map(String::as_str).chain([id.as_str()]);
            results.extend(inside.map(|name| cgroups.destroy(pod, name)));
            results.push(cgroups.destroy(Path::new(SHIM_CGROUPS), id.as_str()));
            if pod.starts_with(POD_CGROUPS) {
                results.push(cgroups.remove_empty(Path::new(POD_CGROUPS), id.as_str()));
            }
        }
        results.push(remove_tree(&self.places.runtime(id)));
        results.into_iter().collect()
    }

    async fn remove(inner: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), EngineError> {
        let _gate = sandbox.gate.lock().await;
        if !inner.registry.has_sandbox(&sandbox.record().id) {
            // Another call was faster, and the key may be somebody else's by now.
            return Ok(());
        }
        Self::stop_locked(inner, sandbox).await?;
        let record = sandbox.record();
        for container in inner.registry.containers_of(&record.id) {
            Self::remove_files(inner, &container).await?;
        }
        let removing = sandbox
            .apply(SandboxEvent::RemoveBegun)
            .map_err(|source| internal("remove the pod sandbox", source))?;
        let directory = inner.places.sandbox(&removing.id);
        blocking(move || {
            records::remove(&directory).map_err(|e| internal("remove the sandbox's directory", e))
        })
        .await?;
        inner.registry.remove_sandbox(&removing.id);
        inner.sandbox_keys.release(&removing.config.metadata);
        tracing::info!(pod_sandbox_id = %removing.id, "pod sandbox removed");
        Ok(())
    }

    /// Removes what was set aside under this name because its record could not be read.
    pub(crate) async fn remove_quarantined(
        inner: &Arc<Self>,
        query: &IdQuery,
    ) -> Result<(), EngineError> {
        let aside = inner.places.quarantine().join(query.as_str());
        let shown = aside.display().to_string();
        blocking(move || {
            remove_tree(&aside).map_err(|source| internal("remove what was set aside", source))
        })
        .await?;
        let mut quarantined = inner.quarantined.lock().unwrap_or_else(PoisonError::into_inner);
        quarantined.retain(|other| *other != shown);
        Ok(())
    }

    /// Undoes the making of a sandbox, however far it got.
    pub(crate) async fn discard_sandbox(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        let record = sandbox.record();
        // Its shim is ending on purpose: `notices` must not stop it a second time.
        if sandbox.apply(SandboxEvent::StopBegun).is_ok()
            && let Err(error) = Self::end_processes(self, sandbox).await
        {
            tracing::warn!(pod_sandbox_id = %record.id, %error, "undo pod sandbox");
        }
        let directory = self.places.sandbox(&record.id);
        let removed = blocking(move || {
            remove_tree(&directory).map_err(|e| internal("remove the sandbox's directory", e))
        });
        if let Err(error) = removed.await {
            tracing::warn!(pod_sandbox_id = %record.id, %error, "undo pod sandbox");
        }
        self.registry.remove_sandbox(&record.id);
    }
}

/// The exits come as notices, on another task; the shim sends them before its reply.
async fn wait_for_exits(containers: &[Arc<Container>]) {
    for container in containers {
        if !matches!(container.record().state, ContainerState::Exited { .. }) {
            container.exited(EXIT_TIMEOUT).await;
        }
    }
}

/// Removes a directory of ours with everything below it; absent is removed already.
///
/// Nobody else can write into these trees while they are removed: their processes are gone.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
