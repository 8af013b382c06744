//! Making, starting, stopping and removing containers.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use image::Image;
use model::{
    ContainerConfig, ContainerEvent, ContainerId, ContainerImage, ContainerKey, ContainerPid,
    ContainerRecord, ContainerState, IdQuery, InvalidField, SandboxRecord, SandboxState, UnixNanos,
};
use shim_api::{
    client::ClientError,
    v1::{self, failure::Kind, reply, request::Call},
};

use crate::{
    Engine, EngineError, Inner, SandboxClaim,
    bundle::{Bundle, ROOTFS, pid_namespace},
    clock,
    error::{internal, shim_failure},
    keys::{Claim, join},
    objects::{Container, Sandbox},
    records::{self, Durability, RECORD},
    sandboxes::{blocking, text},
    shims::ShimHandle,
    stop::{absent_is_none, remove_tree},
};

/// How long a killed container may take to be reported as exited.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// Beyond any deadline that a client can mean; keeps additions of time from overflowing.
const LONGEST_STOP: Duration = Duration::from_secs(365 * 24 * 3600);

impl Engine {
    /// Makes a container that waits for its start; a repeated request for the same name and attempt gets the same one.
    ///
    /// CRI `CreateContainer`.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] and [`EngineError::Precondition`] for what cannot be had, [`EngineError::WrongState`]
    /// when the sandbox is not ready. When it fails, nothing is left.
    pub async fn create_container(
        &self,
        sandbox: &IdQuery,
        mut config: ContainerConfig,
        claim: Option<SandboxClaim>,
    ) -> Result<ContainerId, EngineError> {
        let sandbox = self.inner.registry.find_sandbox(sandbox)?;
        let record = sandbox.record();
        config.security.pid = config.security.pid.in_pod(record.config.namespaces.pid);
        check_sandbox(&record, &config, claim.as_ref())?;
        let key = ContainerKey { sandbox_id: record.id.clone(), metadata: config.metadata.clone() };
        match self.inner.container_keys.claim(&key) {
            Claim::Ours(ours) => {
                let made = Inner::make_container(&self.inner, &sandbox, config).await;
                self.inner.container_keys.settle(&key, &ours, made)
            }
            Claim::Theirs(theirs) => match join(theirs).await {
                Some(Ok(id)) => self.inner.same_container(id, &config),
                Some(Err(error)) => Err(EngineError::Shared(error)),
                None => Err(internal("create container", io::Error::other("the call ended early"))),
            },
        }
    }

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

fn wrong_state(operation: &'static str, id: &ContainerId, state: &'static str) -> EngineError {
    EngineError::WrongState { operation, id: id.to_string(), state }
}

fn check_sandbox(
    record: &SandboxRecord,
    config: &ContainerConfig,
    claim: Option<&SandboxClaim>,
) -> Result<(), EngineError> {
    if record.state != SandboxState::Ready {
        let (operation, id) = ("create a container in pod sandbox", record.id.to_string());
        return Err(EngineError::WrongState { operation, id, state: record.state.name() });
    }
    if let Some(claim) = claim {
        check_claim(record, claim)?;
    }
    let pod_is_privileged = claim.map_or(record.config.privileged, |claim| claim.privileged);
    if config.security.privileged && !pod_is_privileged {
        let field = "config.linux.security_context.privileged";
        let reason = "the pod sandbox is not privileged, so its containers cannot be";
        return Err(InvalidField::new(field, "true", reason).into());
    }
    Ok(())
}

fn check_claim(record: &SandboxRecord, claim: &SandboxClaim) -> Result<(), InvalidField> {
    if claim.metadata != record.config.metadata {
        let reason = format!("names another pod than sandbox {}", record.id);
        let field = "sandbox_config.metadata";
        return Err(InvalidField::new(field, claim.metadata.to_string(), reason));
    }
    match &claim.log_directory {
        Some(directory) if record.config.log_directory.as_ref() != Some(directory) => {
            let reason = format!("is not the log directory of sandbox {}", record.id);
            let field = "sandbox_config.log_directory";
            Err(InvalidField::new(field, directory.to_string(), reason))
        }
        _ => Ok(()),
    }
}

impl Inner {
    fn same_container(
        &self,
        id: ContainerId,
        config: &ContainerConfig,
    ) -> Result<ContainerId, EngineError> {
        let record = self.registry.container_by_id(id.as_str()).map(|c| c.record());
        match record {
            Some(r) if r.state == ContainerState::Created && r.config == *config => Ok(id),
            _ => {
                let metadata = &config.metadata;
                let key = format!("container {} (attempt {})", metadata.name, metadata.attempt);
                Err(EngineError::AlreadyExists { key, id: id.to_string() })
            }
        }
    }

    async fn make_container(
        inner: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        config: ContainerConfig,
    ) -> Result<ContainerId, EngineError> {
        let bytes = clock::random_bytes().map_err(|e| internal("make an id", e))?;
        let id = ContainerId::from_random(bytes);
        let target = inner.pid_target(sandbox, &config)?;
        // Until the registry says that its layers are in use, nobody may remove them.
        let images = inner.image_gate.read().await;
        let (record, bundle) = {
            let (inner, id, pod) = (Arc::clone(inner), id.clone(), sandbox.record());
            blocking(move || inner.prepare_container(&pod, id, config)).await?
        };
        let request = inner.create_request(&sandbox.record(), &record, &bundle, target);
        let container = Arc::new(Container::new(Arc::clone(sandbox), record, false));
        // Registered before it exists, because its exit may be reported before the reply.
        inner.registry.insert_container(id.clone(), Arc::clone(&container));
        drop(images);
        match Self::create_by_shim(sandbox, &container, request).await {
            Ok(()) => {
                container.list();
                tracing::info!(container_id = %id, "container created");
                Ok(id)
            }
            Err(error) => {
                if let Err(error) = Self::remove_files(inner, &container).await {
                    tracing::warn!(container_id = %id, %error, "undo container");
                }
                Err(error)
            }
        }
    }

    /// The running container of the same pod whose PID namespace is asked for; empty when none is.
    fn pid_target(
        &self,
        sandbox: &Sandbox,
        config: &ContainerConfig,
    ) -> Result<String, EngineError> {
        const FIELD: &str = "config.linux.security_context.namespace_options.target_id";
        let ContainerPid::Target(target) = &config.security.pid else { return Ok(String::new()) };
        let container = self.registry.find_container(&IdQuery::parse(FIELD, target)?)?;
        let record = container.record();
        if record.sandbox_id != sandbox.record().id {
            let reason = "is a container of another pod sandbox";
            return Err(InvalidField::new(FIELD, target, reason).into());
        }
        if !matches!(record.state, ContainerState::Running { .. }) {
            let operation = "join the PID namespace of container";
            return Err(wrong_state(operation, &record.id, record.state.name()));
        }
        Ok(record.id.to_string())
    }

    /// Resolves the request and makes directory, record and bundle.
    fn prepare_container(
        &self,
        sandbox: &SandboxRecord,
        id: ContainerId,
        config: ContainerConfig,
    ) -> Result<(ContainerRecord, Bundle), EngineError> {
        let reference = &config.image.image;
        let image = self
            .find_image(reference)?
            .ok_or_else(|| EngineError::ImageNotFound { reference: reference.clone() })?;
        let bundle = self.bundle(sandbox, &id, &config, &image)?;
        let directory = self.places.container(&id);
        let record = ContainerRecord {
            created_at: self.clock.unique(),
            sandbox_id: sandbox.id.clone(),
            image: container_image(&image),
            user: bundle.user.clone(),
            stop_signal: bundle.stop_signal,
            log_path: log_path(sandbox, &config, &directory),
            cgroup: bundle.cgroup.as_deref().map(text),
            state: ContainerState::Created,
            id,
            config,
        };
        make_directory(&directory, &record, &bundle).map_err(|source| {
            // The first cause is what counts; what is left is found when the daemon starts.
            remove_tree(&directory).ok();
            internal("make the container's directory", source)
        })?;
        Ok((record, bundle))
    }

    fn create_request(
        &self,
        sandbox: &SandboxRecord,
        record: &ContainerRecord,
        bundle: &Bundle,
        target_container_id: String,
    ) -> v1::CreateContainer {
        let directory = self.places.container(&record.id);
        // Without a log directory the pod's output is discarded.
        let log_path_in_pod =
            record.config.log_path.as_ref().filter(|_| sandbox.config.log_directory.is_some());
        v1::CreateContainer {
            container_id: record.id.to_string(),
            bundle: text(&directory),
            rootfs: Some(v1::RootFs {
                layers_dir: text(&self.places.layers()),
                lower: bundle.lower.clone(),
                upper_dir: text(&directory.join(UPPER)),
                work_dir: text(&directory.join(WORK)),
            }),
            pid_namespace: pid_namespace(&record.config.security.pid).into(),
            target_container_id,
            cgroup: record.cgroup.clone().unwrap_or_default(),
            cgroup_settings: bundle.cgroup_settings.clone(),
            log_path: log_path_in_pod.map(|path| text(path.as_path())).unwrap_or_default(),
            stdin: record.config.stdin,
            record_dir: text(&directory),
            seccomp_program: bundle.seccomp_program.as_deref().map(text).unwrap_or_default(),
        }
    }

    async fn create_by_shim(
        sandbox: &Sandbox,
        container: &Container,
        request: v1::CreateContainer,
    ) -> Result<(), EngineError> {
        let sandbox_id = &container.record().sandbox_id;
        let shim = sandbox.shim().ok_or(ClientError::Closed);
        let shim = shim.map_err(|error| shim_failure(sandbox_id, error))?;
        let answer = shim.call(Call::CreateContainer(request), &[]).await;
        match answer.map_err(|error| shim_failure(sandbox_id, error))?.result {
            reply::Result::ContainerCreated(created) => {
                container.set_init(created.pid);
                Ok(())
            }
            _ => Err(shim_failure(sandbox_id, ClientError::Unexpected)),
        }
    }

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
        let record = container.record();
        if let Some(shim) = container.sandbox.shim() {
            let id = record.id.to_string();
            let call = Call::KillContainer(v1::KillContainer { container_id: id });
            if let Err(error) = shim.ask(call).await {
                tracing::debug!(container_id = %record.id, %error, "kill by shim");
                self.kill_without_shim(container, &record);
            }
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

/// Where a container's changes go, and overlayfs's scratch directory beside it.
pub(crate) const UPPER: &str = "upper";
const WORK: &str = "work";

fn make_directory(directory: &Path, record: &ContainerRecord, bundle: &Bundle) -> io::Result<()> {
    fs::create_dir(directory)?;
    for name in [UPPER, WORK, ROOTFS] {
        fs::create_dir(directory.join(name))?;
    }
    fs::write(directory.join("config.json"), serde_json::to_vec(&bundle.spec)?)?;
    records::write(directory, RECORD, record, Durability::Synced)
}

fn container_image(image: &Image) -> ContainerImage {
    let id = image.id.to_string();
    ContainerImage {
        image_ref: image.repo_digests.first().cloned().unwrap_or_else(|| id.clone()),
        id,
        diff_ids: image.diff_ids.iter().map(ToString::to_string).collect(),
    }
}

/// The kubelet removes `log_path*` of a dead container, so an empty path would be everything: without a log it is a
/// file that never exists.
fn log_path(sandbox: &SandboxRecord, config: &ContainerConfig, directory: &Path) -> PathBuf {
    let file = config.log_path.as_ref().and_then(|path| sandbox.config.log_file(path.as_path()));
    file.unwrap_or_else(|| directory.join("no-log"))
}

/// The key that a container holds.
pub(crate) fn key_of(record: &ContainerRecord) -> ContainerKey {
    ContainerKey { sandbox_id: record.sandbox_id.clone(), metadata: record.config.metadata.clone() }
}
