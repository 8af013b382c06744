//! Starting, stopping and removing containers.

use std::{
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use model::{
    ContainerEvent, ContainerId, ContainerKey, ContainerRecord, ContainerState, IdQuery, UnixNanos,
};
use shim_api::{
    client::ClientError,
    v1::{self, failure::Kind, reply, request::Call},
};

use crate::{
    Engine, EngineError, Inner,
    error::{internal, shim_failure},
    objects::Container,
    records::{self, Durability, RECORD},
    sandboxes::blocking,
    shims::ShimHandle,
    stop::absent_is_none,
};

/// How long a killed container may take to be reported as exited.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// Beyond any deadline that a client can mean; keeps additions of time from overflowing.
const LONGEST_STOP: Duration = Duration::from_secs(365 * 24 * 3600);

impl Engine {
    /// Starts a container that waits.
    ///
    /// CRI `StartContainer`.
    ///
    /// # Errors
    /// [`EngineError::WrongState`] for one that does not wait; [`EngineError::CannotRun`] when its program cannot be
    /// executed: it has exited then.
    pub async fn start_container(&self, query: &IdQuery) -> Result<(), EngineError> {
        let container = self.inner.registry.find_container(query)?;
        let _gate = container.gate.lock().await;
        self.inner.start(&container).await
    }

    /// Ends a container: its stop signal, and after `timeout` a kill. Of several calls the earliest deadline counts.
    /// An unknown or exited container is stopped already.
    ///
    /// CRI `StopContainer`.
    ///
    /// # Errors
    /// [`EngineError::Internal`] when it cannot be killed.
    pub async fn stop_container(
        &self,
        query: &IdQuery,
        timeout: Duration,
    ) -> Result<(), EngineError> {
        match absent_is_none(self.inner.registry.find_container(query))? {
            Some(container) => self.inner.stop_by(&container, timeout).await,
            None => Ok(()),
        }
    }

    /// Removes a container, killing it first when it runs. An unknown container is removed already. Its log stays.
    ///
    /// CRI `RemoveContainer`.
    ///
    /// # Errors
    /// [`EngineError::Internal`] when it cannot be killed or its files cannot be removed; the call may be repeated.
    pub async fn remove_container(&self, query: &IdQuery) -> Result<(), EngineError> {
        match absent_is_none(self.inner.registry.find_container(query))? {
            Some(container) => Inner::remove_files(&self.inner, &container).await,
            None => Inner::remove_quarantined(&self.inner, query).await,
        }
    }

    /// Has the container's log opened anew, after its file was renamed.
    ///
    /// CRI `ReopenContainerLog`.
    ///
    /// # Errors
    /// [`EngineError::WrongState`] unless it runs; [`EngineError::Precondition`] when the file cannot be made.
    pub async fn reopen_log(&self, query: &IdQuery) -> Result<(), EngineError> {
        let container = self.inner.registry.find_container(query)?;
        let (record, shim) = running(&container, "reopen the log of container")?;
        let call = Call::ReopenLog(v1::ReopenLog { container_id: record.id.to_string() });
        shim.call(call, &[]).await.map_err(|error| shim_failure(&record.sandbox_id, error))?;
        Ok(())
    }
}

/// The container's record and shim, if it runs.
pub(crate) fn running(
    container: &Container,
    operation: &'static str,
) -> Result<(Arc<ContainerRecord>, ShimHandle), EngineError> {
    let record = container.record();
    match (&record.state, container.sandbox.shim()) {
        (ContainerState::Running { .. }, Some(shim)) => Ok((record, shim)),
        (state, _) => Err(wrong_state(operation, &record.id, state.name())),
    }
}

/// The refusal of `operation` in the state that the container is in.
pub(crate) fn wrong_state(
    operation: &'static str,
    id: &ContainerId,
    state: &'static str,
) -> EngineError {
    EngineError::WrongState { operation, id: id.to_string(), state }
}

impl Inner {
    async fn start(&self, container: &Container) -> Result<(), EngineError> {
        let record = container.record();
        let refuse = |state| wrong_state("start container", &record.id, state);
        if record.state != ContainerState::Created {
            return Err(refuse(record.state.name()));
        }
        let shim = container.sandbox.shim().ok_or_else(|| refuse("without a shim"))?;
        let call = Call::StartContainer(v1::StartContainer { container_id: record.id.to_string() });
        match shim.call(call, &[]).await {
            Ok(answer) => {
                if let reply::Result::ContainerStarted(started) = answer.result {
                    self.started(container, UnixNanos(started.started_at)).await?;
                }
                tracing::info!(container_id = %record.id, "container started");
                Ok(())
            }
            Err(ClientError::Failed { kind: Kind::CannotRun, message }) => {
                container.exited(KILL_TIMEOUT).await;
                Err(EngineError::CannotRun { id: record.id.clone(), message })
            }
            Err(error) => Err(shim_failure(&record.sandbox_id, error)),
        }
    }

    async fn started(&self, container: &Container, at: UnixNanos) -> Result<(), EngineError> {
        // A program that ended at once may have been reported already; then the exit stands.
        let Ok(record) = container.apply(ContainerEvent::Started { at }) else { return Ok(()) };
        let directory = self.places.container(&record.id);
        blocking(move || {
            records::write(&directory, RECORD, &*record, Durability::Ordered)
                .map_err(|source| internal("write the container's record", source))
        })
        .await
    }

    async fn stop_by(&self, container: &Container, timeout: Duration) -> Result<(), EngineError> {
        let record = container.record();
        match record.state {
            ContainerState::Exited { .. } => return Ok(()),
            ContainerState::Created | ContainerState::Unknown => return self.kill(container).await,
            ContainerState::Running { .. } => {}
        }
        if timeout.is_zero() {
            return self.kill(container).await;
        }
        let (mut earliest, first) = container.stop_by(Instant::now() + timeout.min(LONGEST_STOP));
        if first && let Some(shim) = container.sandbox.shim() {
            let call = Call::SignalContainer(v1::SignalContainer {
                container_id: record.id.to_string(),
                signal: record.stop_signal.number(),
            });
            if let Err(error) = shim.ask(call).await {
                tracing::debug!(container_id = %record.id, %error, "signal container");
            }
        }
        loop {
            let deadline = *earliest.borrow_and_update();
            let left =
                deadline.map_or(Duration::ZERO, |d| d.saturating_duration_since(Instant::now()));
            tokio::select! {
                exited = container.exited(left) => {
                    return if exited { Ok(()) } else { self.kill(container).await };
                }
                // An earlier deadline: look again.
                Ok(()) = earliest.changed() => {}
            }
        }
    }

    /// Kills everything in the container and waits for its exit.
    async fn kill(&self, container: &Container) -> Result<(), EngineError> {
        let Some(shim) = container.sandbox.shim() else {
            return self.kill_unreachable(container).await;
        };
        let record = container.record();
        let id = record.id.to_string();
        let call = Call::KillContainer(v1::KillContainer { container_id: id });
        if let Err(error) = shim.ask(call).await {
            tracing::debug!(container_id = %record.id, %error, "kill by shim");
            self.kill_without_shim(container, &record);
        }
        if container.exited(KILL_TIMEOUT).await {
            return Ok(());
        }
        let silent = ClientError::Silent { seconds: KILL_TIMEOUT.as_secs() };
        Err(EngineError::Shim { id: record.sandbox_id.clone(), source: silent })
    }

    /// For a shim that is busy or stuck; it reports the exit when it comes round.
    fn kill_without_shim(&self, container: &Container, record: &ContainerRecord) {
        container.kill_init();
        if let (Some(cgroups), Some(path)) = (&self.cgroups, &record.cgroup)
            && let Err(error) = cgroups.kill(Path::new(path))
        {
            tracing::warn!(container_id = %record.id, %error, "kill by cgroup");
        }
    }

    /// Ends `container`, removes its files and forgets it.
    pub(crate) async fn remove_files(
        inner: &Arc<Self>,
        container: &Container,
    ) -> Result<(), EngineError> {
        let _gate = container.gate.lock().await;
        let record = container.record();
        if inner.registry.container_by_id(record.id.as_str()).is_none() {
            // Another call was faster, and the key may be somebody else's by now.
            return Ok(());
        }
        if let Some(shim) = container.sandbox.shim() {
            if container.pid().is_some() && !matches!(record.state, ContainerState::Exited { .. }) {
                inner.kill(container).await?;
            }
            let id = record.id.to_string();
            let call = Call::RemoveContainer(v1::RemoveContainer { container_id: id });
            match shim.ask(call).await {
                Ok(_) | Err(ClientError::Closed) => {}
                Err(error) => return Err(shim_failure(&record.sandbox_id, error)),
            }
        } else if record.state == ContainerState::Unknown {
            inner.kill_unreachable(container).await?;
        }
        let (inner_, removed) = (Arc::clone(inner), Arc::clone(&record));
        blocking(move || {
            inner_
                .remove_container_files(&removed)
                .map_err(|source| internal("remove the container's files", source))
        })
        .await?;
        inner.registry.remove_container(&record.id);
        inner.container_keys.release(&key_of(&record));
        tracing::info!(container_id = %record.id, "container removed");
        Ok(())
    }

    /// Removes cgroup and directory of a container that does not run.
    pub(crate) fn remove_container_files(&self, record: &ContainerRecord) -> io::Result<()> {
        if let (Some(cgroups), Some(path)) = (&self.cgroups, &record.cgroup)
            && let Some(parent) = Path::new(path).parent()
        {
            cgroups.destroy(parent, record.id.as_str())?;
        }
        records::remove(&self.places.container(&record.id))
    }
}

/// The key that a container holds.
pub(crate) fn key_of(record: &ContainerRecord) -> ContainerKey {
    ContainerKey { sandbox_id: record.sandbox_id.clone(), metadata: record.config.metadata.clone() }
}
