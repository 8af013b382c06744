//! Making pod sandboxes.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use model::{
    IdQuery, NamespaceMode, NetworkMode, SandboxConfig, SandboxEvent, SandboxId, SandboxPid,
    SandboxRecord, SandboxState,
};
use shim_api::v1::{self, reply, request::Call};
use sys::cgroup::Cgroup;

use crate::{
    Engine, EngineError, Inner, clock,
    error::{internal, shim_failure},
    keys::{Claim, join},
    objects::Sandbox,
    places::{self, SHIM_CGROUPS, SHM},
    pod_files,
    records::{self, Durability, RECORD},
    shims::{Shim, Start},
};

/// Size of a pod's `/dev/shm`, as the field's runtimes have it.
const SHM_BYTES: u64 = 64 << 20;
/// A container may listen on every port of its pod, unless the pod says otherwise.
const PORT_SYSCTL: &str = "net.ipv4.ip_unprivileged_port_start";

impl Engine {
    /// Makes a sandbox; a repeated request for the same pod and attempt gets the same sandbox.
    ///
    /// CRI `RunPodSandbox`.
    ///
    /// # Errors
    /// [`EngineError::AlreadyExists`] when another sandbox has the key; when making it fails, nothing is left.
    pub async fn run_sandbox(&self, config: SandboxConfig) -> Result<SandboxId, EngineError> {
        let key = config.metadata.clone();
        match self.inner.sandbox_keys.claim(&key) {
            Claim::Ours(ours) => {
                let made = Inner::make_sandbox(&self.inner, config).await;
                self.inner.sandbox_keys.settle(&key, &ours, made)
            }
            Claim::Theirs(theirs) => match join(theirs).await {
                Some(Ok(id)) => self.inner.same_sandbox(id, &config),
                Some(Err(error)) => Err(EngineError::Shared(error)),
                None => Err(internal("run pod sandbox", io::Error::other("the call ended early"))),
            },
        }
    }
}

impl Inner {
    /// The result of a request whose key is taken: the holder, if it is what the request asks for and still new.
    fn same_sandbox(
        &self,
        id: SandboxId,
        config: &SandboxConfig,
    ) -> Result<SandboxId, EngineError> {
        let query = IdQuery::parse("id", id.as_str())?;
        let sandbox = self.registry.find_sandbox(&query)?;
        let record = sandbox.record();
        let unused =
            record.state == SandboxState::Ready && self.registry.containers_of(&id).is_empty();
        if unused && record.config == *config {
            return Ok(id);
        }
        let key = format!("pod sandbox {}", config.metadata);
        Err(EngineError::AlreadyExists { key, id: id.to_string() })
    }

    async fn make_sandbox(
        inner: &Arc<Self>,
        config: SandboxConfig,
    ) -> Result<SandboxId, EngineError> {
        let bytes = clock::random_bytes().map_err(|e| internal("make an id", e))?;
        let id = SandboxId::from_random(bytes);
        let created_at = inner.clock.unique();
        let record = SandboxRecord {
            id: id.clone(),
            created_at,
            config,
            state: SandboxState::Creating,
            pause_pid: 0,
        };
        let sandbox = Arc::new(Sandbox::new(record, false));
        inner.registry.insert_sandbox(id.clone(), Arc::clone(&sandbox));
        match Self::set_up_sandbox(inner, &sandbox).await {
            Ok(()) => Ok(id),
            Err(error) => {
                inner.discard_sandbox(&sandbox).await;
                Err(error)
            }
        }
    }

    async fn set_up_sandbox(inner: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), EngineError> {
        let record = sandbox.record();
        let prepared = {
            let inner = Arc::clone(inner);
            let record = Arc::clone(&record);
            blocking(move || inner.prepare_sandbox(&record)).await?
        };
        let directory = inner.places.runtime(&record.id);
        let (shim, notices) = Shim::start(&Start {
            program: &inner.shim_program,
            sandbox: &record.id,
            directory: &directory,
            log: &inner.places.sandbox(&record.id).join("shim.log"),
            cgroup: prepared.shim_cgroup.as_ref(),
        })
        .await
        .map_err(|source| internal("start the shim", source))?;
        let shim = Arc::new(shim);
        sandbox.set_shim(Arc::clone(&shim));
        Self::listen(inner, sandbox, &shim, notices);
        let call = Call::SetUpPod(inner.set_up_request(&record, &directory, &prepared));
        let answer = shim.call(call, &prepared.descriptors(inner, &record.config)).await;
        let answer = answer.map_err(|source| shim_failure(&record.id, source))?;
        let reply::Result::PodUp(up) = answer.result else {
            let source = shim_api::client::ClientError::Unexpected;
            return Err(EngineError::Shim { id: record.id.clone(), source });
        };
        sandbox.set_pause(up.pause_pid);
        let ready = sandbox
            .apply(SandboxEvent::SetUp)
            .map_err(|source| internal("set up the pod sandbox", source))?;
        inner.write_sandbox(&ready, Durability::Synced).await?;
        sandbox.list();
        tracing::info!(pod_sandbox_id = %ready.id, pod = %ready.config.metadata, "pod sandbox ready");
        Ok(())
    }

    /// Directories, files and cgroups, before the shim.
    fn prepare_sandbox(&self, record: &SandboxRecord) -> Result<Prepared, EngineError> {
        let log_directory = open_log_directory(&record.config)?;
        let io_error = |what: &'static str| move |source: io::Error| internal(what, source);
        let directory = self.places.sandbox(&record.id);
        fs::create_dir(&directory).map_err(io_error("make the sandbox's directory"))?;
        records::write(&directory, RECORD, record, Durability::Ordered)
            .map_err(io_error("write the sandbox's record"))?;
        pod_files::write(&directory, &record.config, &hostname(record))
            .map_err(io_error("write the pod's /etc files"))?;
        let runtime = self.places.runtime(&record.id);
        fs::create_dir(&runtime).map_err(io_error("make the sandbox's runtime directory"))?;
        fs::create_dir(runtime.join(SHM)).map_err(io_error("make the pod's /dev/shm"))?;
        let shim_cgroup = match &self.cgroups {
            None => None,
            Some(cgroups) => {
                let path = places::pod_cgroup(&record.id, &record.config);
                cgroups.make_parent(&path).map_err(io_error("make the pod's cgroup"))?;
                let path = Path::new(SHIM_CGROUPS).join(record.id.as_str());
                let made = cgroups.root().make(&path).map_err(io::Error::from);
                Some(made.map_err(io_error("make the shim's cgroup"))?)
            }
        };
        Ok(Prepared { log_directory, shim_cgroup })
    }

    fn set_up_request(
        &self,
        record: &SandboxRecord,
        directory: &Path,
        prepared: &Prepared,
    ) -> v1::SetUpPod {
        let config = &record.config;
        let namespaces = config.namespaces;
        let own_network = namespaces.network == NetworkMode::Pod;
        let own_ipc = namespaces.ipc == NamespaceMode::Pod;
        let shared_pid = namespaces.pid == SandboxPid::Pod;
        let mut sysctls: BTreeMap<_, _> =
            config.sysctls.iter().map(|s| (s.key.clone(), s.value.clone())).collect();
        if own_network {
            sysctls.entry(PORT_SYSCTL.to_owned()).or_insert_with(|| "0".to_owned());
        }
        let pause_cgroup = places::pod_cgroup(&record.id, config).join(record.id.as_str());
        let has_cgroup_root = self.cgroups.is_some();
        v1::SetUpPod {
            pod_id: record.id.to_string(),
            runtime_dir: text(directory),
            namespaces: Some(v1::Namespaces {
                network: own_network,
                ipc: own_ipc,
                uts: true,
                pid: shared_pid,
            }),
            hostname: hostname(record),
            sysctls,
            shm_path: if own_ipc { text(&directory.join(SHM)) } else { String::new() },
            shm_bytes: SHM_BYTES,
            has_log_directory: prepared.log_directory.is_some(),
            has_cgroup_root,
            has_network: self.network_to_join(config).is_some(),
            pause_cgroup: if shared_pid && has_cgroup_root {
                text(&pause_cgroup)
            } else {
                String::new()
            },
        }
    }

    /// The network namespace that the pod's shim joins, instead of making one or staying in the daemon's.
    fn network_to_join(&self, config: &SandboxConfig) -> Option<&OwnedFd> {
        let node = config.namespaces.network == NetworkMode::Node;
        self.node_network.as_ref().filter(|_| node)
    }

    /// Writes the record of a sandbox whose state changes whether or not the disk takes it: what must end, ends.
    pub(crate) async fn note_sandbox(&self, record: &Arc<SandboxRecord>) {
        if let Err(error) = self.write_sandbox(record, Durability::Ordered).await {
            tracing::warn!(pod_sandbox_id = %record.id, %error, "the record stays behind");
        }
    }

    /// Writes the record of a sandbox.
    async fn write_sandbox(
        &self,
        record: &Arc<SandboxRecord>,
        durability: Durability,
    ) -> Result<(), EngineError> {
        let directory = self.places.sandbox(&record.id);
        let record = Arc::clone(record);
        blocking(move || {
            records::write(&directory, RECORD, &*record, durability)
                .map_err(|source| internal("write the sandbox's record", source))
        })
        .await
    }
}

/// What the shim is handed beside the request.
struct Prepared {
    log_directory: Option<File>,
    shim_cgroup: Option<Cgroup>,
}

impl Prepared {
    /// In the order of the `SetUpPod` message.
    fn descriptors<'a>(&'a self, inner: &'a Inner, config: &SandboxConfig) -> Vec<BorrowedFd<'a>> {
        let log = self.log_directory.iter().map(AsFd::as_fd);
        let cgroup = inner.cgroups.iter().map(|cgroups| cgroups.root().as_fd());
        let network = inner.network_to_join(config).map(AsFd::as_fd);
        log.chain(cgroup).chain(network).collect()
    }
}

fn open_log_directory(config: &SandboxConfig) -> Result<Option<File>, EngineError> {
    let Some(path) = &config.log_directory else { return Ok(None) };
    let refuse = |verb: &str, error: &io::Error| EngineError::Precondition {
        what: format!(
            "config.log_directory: {verb} {path}: {error}; give a directory that the user of the daemon may write"
        ),
    };
    fs::create_dir_all(path.as_path()).map_err(|error| refuse("make", &error))?;
    let directory = File::open(path.as_path()).map_err(|error| refuse("open", &error))?;
    Ok(Some(directory))
}

/// The name that the pod's UTS namespace gets.
pub(crate) fn hostname(record: &SandboxRecord) -> String {
    match &record.config.hostname {
        Some(name) => name.as_str().to_owned(),
        None => record.id.short().to_owned(),
    }
}

/// Paths of ours are UTF-8, because the directories that the user configures must be.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Runs `work`, which waits for the disk, away from the threads that serve requests.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panicked) => Err(internal("work in the background", panicked)),
    }
}
