//! Making containers.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use image::Image;
use model::{
    ContainerConfig, ContainerId, ContainerImage, ContainerKey, ContainerPid, ContainerRecord,
    ContainerState, IdQuery, InvalidField, SandboxRecord, SandboxState,
};
use shim_api::{
    client::ClientError,
    v1::{self, reply, request::Call},
};

use crate::{
    Engine, EngineError, Inner, SandboxClaim,
    bundle::{Bundle, ROOTFS, pid_namespace},
    clock,
    containers::wrong_state,
    error::{internal, shim_failure},
    keys::{Claim, join},
    objects::{Container, Sandbox},
    records::{self, Durability, RECORD},
    sandboxes::{blocking, text},
    stop::remove_tree,
};

/// Where a container's changes go, and overlayfs's scratch directory beside it.
pub(crate) const UPPER: &str = "upper";
const WORK: &str = "work";

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
            .ok_or_else(|| EngineError::image_not_found("", reference))?;
        let bundle = self.bundle(sandbox, &id, &config, &image)?;
        let directory = self.places.container(&id);
        let record = ContainerRecord {
            created_at: self.clock.unique(),
            sandbox_id: sandbox.id.clone(),
            image: container_image(&image),
            image_volumes: bundle.images.volumes.clone(),
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
            image_mounts: bundle.images.mounts.clone(),
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
}

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
