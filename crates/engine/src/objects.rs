//! Sandboxes and containers in memory, and the registry that finds them.
//!
//! An object's record sits in a watch channel: reading it takes no lock that is held over I/O, and whoever waits for a
//! state is woken by the change itself.

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use model::{
    ContainerEvent, ContainerId, ContainerRecord, ContainerState, IdQuery, LookupError,
    SandboxEvent, SandboxId, SandboxRecord, TransitionError, lookup,
};
use nix::unistd::Pid;
use sys::pidfd;
use tokio::sync::watch;

use crate::{EngineError, shims::ShimHandle, stats::Earlier};

/// A pod sandbox.
#[derive(Debug)]
pub(crate) struct Sandbox {
    record: watch::Sender<Arc<SandboxRecord>>,
    shim: Mutex<Option<ShimHandle>>,
    /// Held by whoever changes the sandbox as a whole.
    pub(crate) gate: tokio::sync::Mutex<()>,
    listed: AtomicBool,
}

impl Sandbox {
    pub(crate) fn new(record: SandboxRecord, listed: bool) -> Self {
        Self {
            record: watch::Sender::new(Arc::new(record)),
            shim: Mutex::new(None),
            gate: tokio::sync::Mutex::new(()),
            listed: AtomicBool::new(listed),
        }
    }

    pub(crate) fn record(&self) -> Arc<SandboxRecord> {
        self.record.borrow().clone()
    }

    /// Changes the record in memory; the caller has it written.
    pub(crate) fn apply(&self, event: SandboxEvent) -> Result<Arc<SandboxRecord>, TransitionError> {
        transition(&self.record, |record| record.state.apply(event), |record, to| record.state = to)
    }

    pub(crate) fn set_pause(&self, pid: i32) {
        self.record.send_modify(|record| Arc::make_mut(record).pause_pid = pid);
    }

    pub(crate) fn shim(&self) -> Option<ShimHandle> {
        self.shim_slot().clone()
    }

    pub(crate) fn set_shim(&self, shim: ShimHandle) {
        *self.shim_slot() = Some(shim);
    }

    pub(crate) fn take_shim(&self) -> Option<ShimHandle> {
        self.shim_slot().take()
    }

    pub(crate) fn list(&self) {
        self.listed.store(true, Ordering::Release);
    }

    pub(crate) fn is_listed(&self) -> bool {
        self.listed.load(Ordering::Acquire)
    }

    fn shim_slot(&self) -> MutexGuard<'_, Option<ShimHandle>> {
        self.shim.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A container's first process.
#[derive(Debug)]
struct Init {
    pid: i32,
    pidfd: OwnedFd,
}

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) sandbox: Arc<Sandbox>,
    record: watch::Sender<Arc<ContainerRecord>>,
    init: Mutex<Option<Init>>,
    /// Held by whoever starts or removes the container.
    pub(crate) gate: tokio::sync::Mutex<()>,
    /// When the earliest of all stop calls is going to kill.
    stop_deadline: watch::Sender<Option<Instant>>,
    pub(crate) earlier: Earlier,
    listed: AtomicBool,
}

impl Container {
    pub(crate) fn new(sandbox: Arc<Sandbox>, record: ContainerRecord, listed: bool) -> Self {
        Self {
            sandbox,
            record: watch::Sender::new(Arc::new(record)),
            init: Mutex::new(None),
            gate: tokio::sync::Mutex::new(()),
            stop_deadline: watch::Sender::new(None),
            earlier: Earlier::default(),
            listed: AtomicBool::new(listed),
        }
    }

    pub(crate) fn record(&self) -> Arc<ContainerRecord> {
        self.record.borrow().clone()
    }

    /// Changes the record in memory; the caller has it written if that matters.
    pub(crate) fn apply(
        &self,
        event: ContainerEvent,
    ) -> Result<Arc<ContainerRecord>, TransitionError> {
        transition(&self.record, |record| record.state.apply(event), |record, to| record.state = to)
    }

    /// Waits until the container has exited; returns whether it has within `limit`.
    pub(crate) async fn exited(&self, limit: Duration) -> bool {
        let mut changes = self.record.subscribe();
        let exit = changes.wait_for(|r| matches!(r.state, ContainerState::Exited { .. }));
        tokio::time::timeout(limit, exit).await.is_ok()
    }

    /// Notes a stop call; returns the channel that tells the earliest deadline, and whether this was the first call.
    pub(crate) fn stop_by(&self, deadline: Instant) -> (watch::Receiver<Option<Instant>>, bool) {
        let mut first = false;
        self.stop_deadline.send_if_modified(|earliest| {
            first = earliest.is_none();
            let sooner = earliest.is_none_or(|earliest| deadline < earliest);
            if sooner {
                *earliest = Some(deadline);
            }
            sooner
        });
        (self.stop_deadline.subscribe(), first)
    }

    /// Remembers the first process, so that it can be killed even without its shim.
    pub(crate) fn set_init(&self, pid: i32) {
        let opened = pidfd::open(Pid::from_raw(pid)).ok();
        *self.init_slot() = opened.map(|pidfd| Init { pid, pidfd });
    }

    pub(crate) fn pid(&self) -> Option<i32> {
        self.init_slot().as_ref().map(|init| init.pid)
    }

    /// Kills the first process and thereby, in a PID namespace of its own, all others.
    pub(crate) fn kill_init(&self) {
        if let Some(init) = self.init_slot().as_ref() {
            // Gone already is what is wanted.
            pidfd::send_signal(&init.pidfd, nix::sys::signal::Signal::SIGKILL).ok();
        }
    }

    pub(crate) fn clear_init(&self) {
        *self.init_slot() = None;
    }

    pub(crate) fn list(&self) {
        self.listed.store(true, Ordering::Release);
    }

    pub(crate) fn is_listed(&self) -> bool {
        self.listed.load(Ordering::Acquire)
    }

    fn init_slot(&self) -> MutexGuard<'_, Option<Init>> {
        self.init.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Changes a record's state in one step: the reply to a call and the notice of an exit arrive on different tasks.
fn transition<Record: Clone, State>(
    record: &watch::Sender<Arc<Record>>,
    next: impl FnOnce(&Record) -> Result<State, TransitionError>,
    set: impl FnOnce(&mut Record, State),
) -> Result<Arc<Record>, TransitionError> {
    let mut refused = None;
    record.send_if_modified(|record| match next(record) {
        Ok(state) => {
            set(Arc::make_mut(record), state);
            true
        }
        Err(error) => {
            refused = Some(error);
            false
        }
    });
    refused.map_or_else(|| Ok(record.borrow().clone()), Err)
}

/// All objects by id.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    sandboxes: Mutex<BTreeMap<SandboxId, Arc<Sandbox>>>,
    containers: Mutex<BTreeMap<ContainerId, Arc<Container>>>,
}

impl Registry {
    pub(crate) fn insert_sandbox(&self, id: SandboxId, sandbox: Arc<Sandbox>) {
        lock(&self.sandboxes).insert(id, sandbox);
    }

    pub(crate) fn insert_container(&self, id: ContainerId, container: Arc<Container>) {
        lock(&self.containers).insert(id, container);
    }

    pub(crate) fn remove_sandbox(&self, id: &SandboxId) {
        lock(&self.sandboxes).remove(id);
    }

    pub(crate) fn remove_container(&self, id: &ContainerId) {
        lock(&self.containers).remove(id);
    }

    /// Whether there is a sandbox with exactly this id, complete or not.
    pub(crate) fn has_sandbox(&self, id: &SandboxId) -> bool {
        lock(&self.sandboxes).contains_key(id)
    }

    /// The container with exactly this id, complete or not.
    pub(crate) fn container_by_id(&self, id: &str) -> Option<Arc<Container>> {
        lock(&self.containers).get(id).cloned()
    }

    /// The complete sandbox that `query` names.
    pub(crate) fn find_sandbox(&self, query: &IdQuery) -> Result<Arc<Sandbox>, EngineError> {
        let sandboxes = lock(&self.sandboxes);
        let listed = sandboxes.iter().filter(|(_, s)| s.is_listed()).map(|(id, _)| id.as_str());
        let found = lookup(query, listed).and_then(|id| get(&sandboxes, id, query));
        found.map_err(|source| EngineError::Lookup { kind: "pod sandbox", source })
    }

    /// The complete container that `query` names.
    pub(crate) fn find_container(&self, query: &IdQuery) -> Result<Arc<Container>, EngineError> {
        let containers = lock(&self.containers);
        let listed = containers.iter().filter(|(_, c)| c.is_listed()).map(|(id, _)| id.as_str());
        let found = lookup(query, listed).and_then(|id| get(&containers, id, query));
        found.map_err(|source| EngineError::Lookup { kind: "container", source })
    }

    /// Complete sandboxes, oldest first.
    pub(crate) fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        let mut listed: Vec<_> =
            lock(&self.sandboxes).values().filter(|s| s.is_listed()).cloned().collect();
        listed.sort_by_key(|sandbox| sandbox.record().created_at);
        listed
    }

    /// Complete containers, oldest first.
    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        let mut listed = self.all_containers();
        listed.retain(|container| container.is_listed());
        listed.sort_by_key(|container| container.record().created_at);
        listed
    }

    /// Containers of one sandbox, complete or not.
    pub(crate) fn containers_of(&self, id: &SandboxId) -> Vec<Arc<Container>> {
        let mut of = self.all_containers();
        of.retain(|container| container.record().sandbox_id == *id);
        of
    }

    /// All containers, complete or not.
    pub(crate) fn all_containers(&self) -> Vec<Arc<Container>> {
        lock(&self.containers).values().cloned().collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn get<Id: Ord + std::borrow::Borrow<str>, Object: Clone>(
    objects: &BTreeMap<Id, Object>,
    id: &str,
    query: &IdQuery,
) -> Result<Object, LookupError> {
    let missing = || LookupError::NotFound { query: query.as_str().to_owned() };
    objects.get(id).cloned().ok_or_else(missing)
}
