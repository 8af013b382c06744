//! Coming back to a shim: when the daemon has started, and when the connection to a living one is lost.
//!
//! Only a shim that is gone ends its pod. One that says nothing may be stopped, or busy: its containers are unknown
//! until it answers, and somebody waits for that for as long as its socket accepts.

use std::{path::Path, sync::Arc, time::Duration};

use model::{ContainerEvent, SandboxState, UnixNanos};
use nix::errno::Errno;
use shim_api::{
    client::ClientError,
    v1::{self, GetState, container_state::State, reply, request::Call},
};

use crate::{
    EngineError, Inner,
    error::internal,
    objects::{Container, Sandbox},
    sandboxes::blocking,
    shims::{ANSWER_TIMEOUT, Shim, ShimError},
};

/// Between the first attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Between later ones.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a container's processes may take to die.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

impl Inner {
    /// Takes over what the shim of a ready sandbox knows, or stops the sandbox when there is none any more.
    ///
    /// Returns when that is done, or has taken too long: then the containers are unknown, and a task goes on.
    pub(crate) async fn reconnect(inner: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        let reaching = tokio::spawn(Self::reach(Arc::clone(inner), Arc::clone(sandbox)));
        if tokio::time::timeout(ANSWER_TIMEOUT, reaching).await.is_err() {
            inner.lose(sandbox).await;
        }
    }

    /// Tries until the shim answers, is gone, or is no longer wanted.
    async fn reach(inner: Arc<Self>, sandbox: Arc<Sandbox>) {
        let mut pause = FIRST_PAUSE;
        while sandbox.record().state == SandboxState::Ready {
            let id = &sandbox.record().id;
            match Self::attempt(&inner, &sandbox).await {
                Ok(()) => return,
                Err(error) if error.is_gone() => {
                    tracing::info!(pod_sandbox_id = %id, %error, "shim is gone; stopping its pod");
                    if let Err(error) = Self::stop(&inner, &sandbox).await {
                        tracing::warn!(pod_sandbox_id = %id, %error, "stop pod without shim");
                    }
                    return;
                }
                Err(error) => tracing::debug!(pod_sandbox_id = %id, %error, "reach shim"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Connects, waiting for the answer as long as it takes, and adopts.
    async fn attempt(inner: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), ShimError> {
        let id = &sandbox.record().id;
        let (shim, notices) = Shim::reconnect(&inner.places.runtime(id)).await?;
        let answer = shim.call(Call::GetState(GetState {}), &[]).await?;
        let reply::Result::State(state) = answer.result else {
            return Err(ClientError::Unexpected.into());
        };
        let _gate = sandbox.gate.lock().await;
        if sandbox.record().state != SandboxState::Ready {
            return Ok(());
        }
        let shim = Arc::new(shim);
        sandbox.set_shim(Arc::clone(&shim));
        if !state.pod_is_up {
            return Err(ShimError::NoPod);
        }
        sandbox.set_pause(state.pause_pid);
        Self::adopt_containers(inner, sandbox, &shim, state.containers).await;
        tracing::info!(pod_sandbox_id = %id, "connected to shim");
        Self::listen(inner, sandbox, &shim, notices);
        Ok(())
    }

    /// Says of the containers of a silent shim what is known, which is nothing.
    async fn lose(&self, sandbox: &Sandbox) {
        let _gate = sandbox.gate.lock().await;
        let record = sandbox.record();
        // It may have answered, or have been stopped, at the last moment.
        if sandbox.shim().is_some() || record.state != SandboxState::Ready {
            return;
        }
        tracing::warn!(pod_sandbox_id = %record.id, "shim is silent; waiting for it");
        for container in self.registry.containers_of(&record.id) {
            self.container_unreachable(&container);
        }
    }

    /// Takes over what the shim knows of containers.
    async fn adopt_containers(
        inner: &Arc<Self>,
        sandbox: &Sandbox,
        shim: &Shim,
        states: Vec<v1::ContainerState>,
    ) {
        let mut unknown = inner.registry.containers_of(&sandbox.record().id);
        for state in states {
            let id = state.container_id.as_str();
            unknown.retain(|other| other.record().id.as_str() != id);
            match inner.registry.container_by_id(id) {
                Some(container) => inner.adopt(&container, state),
                None => remove_unrecorded(shim, id).await,
            }
        }
        for container in unknown {
            if container.is_listed() {
                inner.container_lost(&container);
            } else if !sandbox.is_listed() {
                Self::remove_unfinished(inner, &container).await;
            }
            // Else it is being made just now.
        }
    }

    /// Removes what an earlier daemon was making, or removing, when it ended.
    async fn remove_unfinished(inner: &Arc<Self>, container: &Container) {
        if let Err(error) = Self::remove_files(inner, container).await {
            let id = &container.record().id;
            tracing::warn!(container_id = %id, %error, "remove unfinished container");
        }
    }

    fn adopt(&self, container: &Container, state: v1::ContainerState) {
        // A transition that is refused says what the record says already.
        match state.state {
            Some(State::Exited(exit)) => self.container_exited(&exit),
            Some(State::Running(running)) => {
                container.set_init(state.pid);
                container.apply(ContainerEvent::Started { at: UnixNanos(running.started_at) }).ok();
            }
            Some(State::Created(_)) => {
                container.set_init(state.pid);
                container.apply(ContainerEvent::FoundWaiting).ok();
            }
            None => {}
        }
    }

    /// Kills everything in a container whose shim cannot be reached, and notes its end.
    ///
    /// # Errors
    /// [`EngineError::Shim`] when only the shim could find its processes.
    pub(crate) async fn kill_unreachable(&self, container: &Container) -> Result<(), EngineError> {
        let record = container.record();
        let failed = |source: std::io::Error| internal("kill the container's cgroup", source);
        container.kill_init();
        match (&self.cgroups, &record.cgroup) {
            (Some(cgroups), Some(path)) => match cgroups.root().descend(Path::new(path)) {
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(failed(errno.into())),
                Ok(cgroup) => {
                    let kill = move || cgroup.kill().and_then(|()| cgroup.wait_empty(KILL_TIMEOUT));
                    blocking(move || kill().map_err(failed)).await?;
                }
            },
            _ if container.pid().is_some() => {}
            _ => {
                let source = ClientError::Silent { seconds: ANSWER_TIMEOUT.as_secs() };
                return Err(EngineError::Shim { id: record.sandbox_id.clone(), source });
            }
        }
        self.container_lost(container);
        Ok(())
    }
}

/// Ends and removes a container that was being removed, or whose making was given up.
async fn remove_unrecorded(shim: &Shim, id: &str) {
    let container_id = id.to_owned();
    let kill = Call::KillContainer(v1::KillContainer { container_id: container_id.clone() });
    let remove = Call::RemoveContainer(v1::RemoveContainer { container_id });
    for call in [kill, remove] {
        if let Err(error) = shim.ask(call).await {
            tracing::warn!(container_id = id, %error, "remove unrecorded container");
        }
    }
}
