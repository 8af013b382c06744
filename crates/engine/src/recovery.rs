//! Making the engine: from records, and from what the shims of an earlier daemon say.
//!
//! It is done before anybody is served, because a kubelet takes an object that a list lacks for gone.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use image::{Ownership, Store, UnpackOptions};
use model::{ContainerRecord, SandboxRecord, SandboxState};
use pull::Puller;
use shim_api::v1::{self, request::Call};
use tokio::sync::Semaphore;

use crate::{
    Engine, EngineConfig, EngineError, HostCgroups, ImageSettings, Inner,
    cgroups::Cgroups,
    clock::Clock,
    containers::key_of,
    error::internal,
    image_users::ImageUsers,
    keys::Keys,
    lock::{DaemonLock, LockError},
    objects::{Container, Registry, Sandbox},
    places::{POD_CGROUPS, Places, SHIM_CGROUPS},
    records::{self, Loaded},
    sandboxes::blocking,
    shims::{Shim, ShimProgram},
    stats::LAYER_WALKS,
    stop::remove_tree,
};

impl Engine {
    /// Opens the data directory, finds the shims that still run, and removes what nobody owns.
    ///
    /// Must run inside a tokio runtime.
    ///
    /// # Errors
    /// [`EngineError::Precondition`] when another daemon uses the data directory, [`EngineError::Internal`] when a
    /// directory or the shim's program cannot be used. Records that cannot be read
    /// are set aside and shown by [`status`](Self::status).
    pub async fn open(config: EngineConfig) -> Result<Self, EngineError> {
        let inner = blocking(move || Inner::open(config)).await?;
        let inner = Arc::new(inner);
        Inner::recover(&inner).await?;
        let engine = Self { inner };
        engine.collect_image_garbage_now_and_then();
        Ok(engine)
    }
}

/// What the records say.
struct Records {
    sandboxes: Vec<SandboxRecord>,
    containers: Vec<ContainerRecord>,
}

impl Inner {
    fn open(config: EngineConfig) -> Result<Self, EngineError> {
        let failed = |what: String| move |source: io::Error| internal(what, source);
        let data_dir = config.data_dir.display();
        make_private(&config.data_dir).map_err(failed(format!("make {data_dir}")))?;
        // Before anything is read or removed.
        let lock = DaemonLock::take(&config.data_dir).map_err(|error| not_ours(&config, error))?;
        let places = Places::new(config.data_dir.clone(), config.runtime_dir);
        let directories = [
            places.sandboxes(),
            places.containers(),
            places.runtimes(),
            places.seccomp_programs(),
            places.quarantine(),
        ];
        for directory in directories {
            make_private(&directory).map_err(failed(format!("make {}", directory.display())))?;
        }
        let program = ShimProgram::load(&config.shim_program);
        let what = format!("load the shim from {}", config.shim_program.display());
        let shim_program = program.map_err(failed(what))?;
        let ownership =
            if config.host.mapped_uids > 1 { Ownership::Preserve } else { Ownership::Squash };
        let ImageSettings { registry, unpacker, pull, limits, pinned } = config.images;
        let unpack = UnpackOptions { ownership, limits };
        let images = Store::open(&config.data_dir, unpack, Arc::new(unpacker.clone()))
            .map_err(|source| internal("open the image store", source))?;
        let images = Arc::new(images);
        let puller = Puller::new(Arc::clone(&images), registry, unpacker, pull);
        let controllers = match &config.host.cgroups {
            HostCgroups::Delegated { controllers } => controllers.clone(),
            HostCgroups::Missing { .. } => Vec::new(),
        };
        let cgroups = config.cgroup_root.map(|root| Cgroups::new(root, controllers));
        Ok(Self {
            places,
            host: config.host,
            cgroups,
            node_network: config.node_network,
            shim_program,
            images,
            puller,
            pinned,
            image_users: ImageUsers::default(),
            image_gate: tokio::sync::RwLock::default(),
            clock: Clock::default(),
            registry: Registry::default(),
            sandbox_keys: Keys::new(),
            container_keys: Keys::new(),
            layer_walks: Semaphore::new(LAYER_WALKS),
            _lock: lock,
            quarantined: Mutex::default(),
        })
    }

    async fn recover(inner: &Arc<Self>) -> Result<(), EngineError> {
        let loader = Arc::clone(inner);
        let records =
            blocking(move || loader.load().map_err(|source| internal("read the records", source)))
                .await?;
        let sandboxes = inner.register(records);
        // Each waits for its shim; a silent one must not hold up the others.
        let mut reconnecting = tokio::task::JoinSet::new();
        for sandbox in sandboxes {
            let inner = Arc::clone(inner);
            reconnecting.spawn(async move { Self::recover_sandbox(&inner, &sandbox).await });
        }
        while let Some(joined) = reconnecting.join_next().await {
            joined.map_err(|panicked| internal("recover a pod sandbox", panicked))?;
        }
        inner.end_stray_shims().await;
        let sweeper = Arc::clone(inner);
        blocking(move || {
            sweeper.sweep();
            Ok(())
        })
        .await
    }

    fn load(&self) -> io::Result<Records> {
        let aside = fs::read_dir(self.places.quarantine())?;
        let aside: io::Result<Vec<_>> =
            aside.map(|entry| Ok(entry?.path().display().to_string())).collect();
        *self.quarantined.lock().unwrap_or_else(PoisonError::into_inner) = aside?;
        let sandboxes = self.usable(records::load_all(&self.places.sandboxes())?);
        let containers = self.usable(records::load_all(&self.places.containers())?);
        Ok(Records { sandboxes, containers })
    }

    /// Removes what was never finished and sets aside what cannot be read.
    fn usable<T>(&self, loaded: Loaded<T>) -> Vec<T> {
        for directory in &loaded.unfinished {
            log_failure("remove unfinished", directory, remove_tree(directory));
        }
        for (directory, error) in &loaded.unreadable {
            tracing::warn!(directory = %directory.display(), %error, "unreadable record set aside");
            log_failure("set aside", directory, self.set_aside(directory));
        }
        loaded.records.into_iter().map(|(_, record)| record).collect()
    }

    fn set_aside(&self, directory: &Path) -> io::Result<()> {
        let name = directory.file_name().unwrap_or_default();
        let aside = self.places.quarantine().join(name);
        remove_tree(&aside)?;
        fs::rename(directory, &aside)?;
        let mut quarantined = self.quarantined.lock().unwrap_or_else(PoisonError::into_inner);
        quarantined.push(aside.display().to_string());
        Ok(())
    }

    /// Puts all objects into the registry; returns the sandboxes.
    fn register(&self, records: Records) -> Vec<Arc<Sandbox>> {
        let mut sandboxes = Vec::new();
        for record in records.sandboxes {
            self.clock.advance_past(record.created_at);
            self.sandbox_keys.restore(record.config.metadata.clone(), record.id.clone());
            let id = record.id.clone();
            let sandbox = Arc::new(Sandbox::new(record, false));
            self.registry.insert_sandbox(id, Arc::clone(&sandbox));
            sandboxes.push(sandbox);
        }
        for record in records.containers {
            self.clock.advance_past(record.created_at);
            let of = |sandbox: &&Arc<Sandbox>| sandbox.record().id == record.sandbox_id;
            let Some(sandbox) = sandboxes.iter().find(of) else {
                let directory = self.places.container(&record.id);
                log_failure("remove podless", &directory, self.remove_container_files(&record));
                continue;
            };
            self.container_keys.restore(key_of(&record), record.id.clone());
            let id = record.id.clone();
            let container = Arc::new(Container::new(Arc::clone(sandbox), record, false));
            self.registry.insert_container(id, container);
        }
        sandboxes
    }

    /// Brings one sandbox to what its record and its shim say together.
    async fn recover_sandbox(inner: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        let record = sandbox.record();
        let outcome = match record.state {
            SandboxState::Ready => {
                Self::reconnect(inner, sandbox).await;
                Ok(())
            }
            SandboxState::Stopping => Self::finish_stop(inner, sandbox).await,
            SandboxState::NotReady => {
                inner.lose_containers(&record);
                Ok(())
            }
            SandboxState::Creating | SandboxState::Removing => {
                Self::finish_removal(inner, sandbox).await;
                return;
            }
        };
        if let Err(error) = outcome {
            tracing::warn!(pod_sandbox_id = %record.id, %error, "recover pod sandbox");
        }
        sandbox.list();
        for container in inner.registry.containers_of(&record.id) {
            container.list();
        }
    }

    async fn finish_stop(inner: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), EngineError> {
        // Its shim may still be at it.
        if let Ok((shim, _)) =
            Shim::reconnect_soon(&inner.places.runtime(&sandbox.record().id)).await
        {
            sandbox.set_shim(Arc::new(shim));
        }
        Self::stop(inner, sandbox).await
    }

    async fn finish_removal(inner: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        let record = sandbox.record();
        if let Ok((shim, _)) = Shim::reconnect_soon(&inner.places.runtime(&record.id)).await {
            sandbox.set_shim(Arc::new(shim));
        }
        for container in inner.registry.containers_of(&record.id) {
            if let Err(error) = Self::remove_files(inner, &container).await {
                tracing::warn!(pod_sandbox_id = %record.id, %error, "finish removal");
            }
        }
        inner.discard_sandbox(sandbox).await;
        inner.sandbox_keys.release(&record.config.metadata);
    }

    fn lose_containers(&self, record: &SandboxRecord) {
        for container in self.registry.containers_of(&record.id) {
            self.container_lost(&container);
        }
    }

    /// Whether `name` is the id of a sandbox.
    fn owns(&self, name: &str) -> bool {
        let id = model::SandboxId::try_from(name.to_owned()).ok();
        id.is_some_and(|id| self.registry.has_sandbox(&id))
    }

    fn unowned_runtimes(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.places.runtimes()).into_iter().flatten().flatten();
        let unowned =
            entries.filter(|entry| !entry.file_name().to_str().is_some_and(|n| self.owns(n)));
        unowned.map(|entry| entry.path()).collect()
    }

    /// Ends shims whose record is gone: they have nobody to serve.
    async fn end_stray_shims(&self) {
        for directory in self.unowned_runtimes() {
            if let Ok((shim, _)) = Shim::reconnect_soon(&directory).await {
                if let Err(error) = shim.ask(Call::StopPod(v1::StopPod {})).await {
                    tracing::warn!(directory = %directory.display(), %error, "end stray shim");
                }
                shim.ended().await;
            }
        }
    }

    /// Removes runtime directories and cgroups that belong to no sandbox.
    fn sweep(&self) {
        for path in self.unowned_runtimes() {
            log_failure("remove unowned", &path, remove_tree(&path));
        }
        let Some(cgroups) = &self.cgroups else { return };
        for parent in [SHIM_CGROUPS, POD_CGROUPS].map(Path::new) {
            for name in cgroups.names(parent).unwrap_or_default() {
                if !self.owns(&name) {
                    log_failure("remove unowned cgroup", parent, cgroups.destroy(parent, &name));
                }
            }
        }
    }
}

fn not_ours(config: &EngineConfig, error: LockError) -> EngineError {
    let data_dir = config.data_dir.display();
    match error {
        LockError::Held => EngineError::Precondition {
            what: format!(
                "data_dir {data_dir}: another `usnea serve` uses it; end that one first, or give this one a data_dir and a runtime_dir of its own"
            ),
        },
        error @ LockError::File(_) => internal(format!("lock {data_dir}"), error),
    }
}

fn make_private(directory: &PathBuf) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

fn log_failure(action: &str, path: &Path, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(path = %path.display(), %error, "{action}");
    }
}
