//! The call into libcontainer.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use libcontainer::{
    container::{Container, builder::ContainerBuilder},
    error::LibcontainerError,
    syscall::syscall::SyscallType,
};
use oci_spec::runtime::Spec;
use sys::process::SingleThreaded;

use super::{Plan, Streams, causes::Causes, executor::ProgramExecutor};
use crate::error::RuntimeError;

/// Creates the container of `spec` and returns its waiting init, a child of this process's parent.
pub(super) fn create(
    _proof: &SingleThreaded,
    plan: &Plan,
    spec: &Spec,
    streams: Streams,
) -> Result<i32, RuntimeError> {
    let causes = Causes::collect()?;
    let bundle = Bundle::write(plan, spec)?;
    let container = build(plan, &bundle.0, streams).map_err(|source| {
        RuntimeError::Libcontainer { log: causes.text(), source: Box::new(source) }
    })?;
    container.pid().map(|pid| pid.as_raw()).ok_or(RuntimeError::NoInit)
}

fn build(plan: &Plan, bundle: &Path, streams: Streams) -> Result<Container, LibcontainerError> {
    ContainerBuilder::new(plan.container_id.clone(), SyscallType::Linux)
        .validate_id()?
        .with_root_path(&plan.state_root)?
        .with_executor(ProgramExecutor::new(streams.exec_status))
        .with_stdin(streams.stdin)
        .with_stdout(streams.stdout)
        .with_stderr(streams.stderr)
        .as_init(bundle)
        .with_systemd(false)
        .with_detach(true)
        .as_sibling(true)
        .build()
}

/// The bundle that libcontainer gets: it reads the specification from a file only, and ours differs from the
/// daemon's. Removed when it has been read.
struct Bundle(PathBuf);

impl Bundle {
    fn write(plan: &Plan, spec: &Spec) -> Result<Self, RuntimeError> {
        // Container ids have no dot of their own, so that this is no container's state directory.
        let directory = plan.state_root.join(format!("{}.bundle", plan.container_id));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(RuntimeError::file("create", &directory))?;
        let bundle = Self(directory);
        let path = bundle.0.join("config.json");
        let json = serde_json::to_vec(spec)
            .map_err(|source| RuntimeError::Parse { what: "fitted config.json", source })?;
        fs::write(&path, json).map_err(RuntimeError::file("write", path))?;
        Ok(bundle)
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        // What is left is replaced by the next attempt and goes with the pod's runtime directory.
        fs::remove_dir_all(&self.0).ok();
    }
}
