//! What the engine shows of its objects, and what it takes beside a validated configuration.

use std::sync::Arc;

use model::{ContainerRecord, HostPath, IdQuery, SandboxMetadata, SandboxRecord};

use crate::{
    Engine, EngineError,
    objects::{Container, Sandbox},
};

/// A sandbox as it is now.
#[derive(Clone, Debug)]
pub struct SandboxView {
    /// What was asked, and the state.
    pub record: Arc<SandboxRecord>,
    /// The shim; `None` when it is gone.
    pub shim_pid: Option<i32>,
}

/// A container as it is now.
#[derive(Clone, Debug)]
pub struct ContainerView {
    /// What was asked, and the state.
    pub record: Arc<ContainerRecord>,
    /// Its first process in the daemon's PID namespace, while it lives.
    pub pid: Option<i32>,
}

/// What a request says again about a sandbox that exists; CRI `CreateContainerRequest.sandbox_config`.
#[derive(Clone, Debug)]
pub struct SandboxClaim {
    /// Must name the sandbox that the container is made in.
    pub metadata: SandboxMetadata,
    /// Overrides what the sandbox was made with.
    pub privileged: bool,
    /// Must be the sandbox's, if given: its shim holds the directory open.
    pub log_directory: Option<HostPath>,
}

/// What a command that was run in a container left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    /// Captured, cut at the limit of a CRI message.
    pub stdout: Vec<u8>,
    /// Captured, cut at the limit of a CRI message.
    pub stderr: Vec<u8>,
    /// 0 to 255; 128 + signal number when killed.
    pub exit_code: i32,
}

impl From<&Arc<Sandbox>> for SandboxView {
    fn from(sandbox: &Arc<Sandbox>) -> Self {
        Self { record: sandbox.record(), shim_pid: sandbox.shim().map(|shim| shim.pid) }
    }
}

impl From<&Arc<Container>> for ContainerView {
    fn from(container: &Arc<Container>) -> Self {
        Self { record: container.record(), pid: container.pid() }
    }
}

impl Engine {
    /// The sandbox that `query` names.
    ///
    /// # Errors
    /// [`EngineError::Lookup`].
    pub fn sandbox(&self, query: &IdQuery) -> Result<SandboxView, EngineError> {
        Ok(SandboxView::from(&self.inner.registry.find_sandbox(query)?))
    }

    /// All sandboxes, oldest first.
    #[must_use]
    pub fn sandboxes(&self) -> Vec<SandboxView> {
        self.inner.registry.sandboxes().iter().map(SandboxView::from).collect()
    }

    /// The container that `query` names.
    ///
    /// # Errors
    /// [`EngineError::Lookup`].
    pub fn container(&self, query: &IdQuery) -> Result<ContainerView, EngineError> {
        Ok(ContainerView::from(&self.inner.registry.find_container(query)?))
    }

    /// All containers, oldest first.
    #[must_use]
    pub fn containers(&self) -> Vec<ContainerView> {
        self.inner.registry.containers().iter().map(ContainerView::from).collect()
    }
}
