//! What the shim itself wants to know of a container's specification.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Uid};
use oci_spec::runtime::Spec;

use crate::error::ShimError;

/// Reads `config.json` of the OCI bundle at `bundle`.
pub(crate) fn read_spec(bundle: &Path) -> Result<Spec, ShimError> {
    let path = bundle.join("config.json");
    let json = match fs::read(&path) {
        Ok(json) => json,
        Err(source) => return Err(ShimError::ReadBundle { path, source }),
    };
    serde_json::from_slice(&json).map_err(|source| ShimError::ParseSpec { path, source })
}

/// Where the root file system is mounted.
pub(crate) fn rootfs(bundle: &Path, spec: &Spec) -> Result<PathBuf, ShimError> {
    let incomplete =
        || ShimError::IncompleteSpec { path: bundle.join("config.json"), what: "root" };
    let root = spec.root().as_ref().ok_or_else(incomplete)?;
    // OCI: relative to the bundle, if it is relative at all.
    Ok(bundle.join(root.path()))
}

/// Whom the container's process runs as.
pub(crate) fn user(bundle: &Path, spec: &Spec) -> Result<(Uid, Gid), ShimError> {
    let incomplete =
        || ShimError::IncompleteSpec { path: bundle.join("config.json"), what: "process" };
    let user = spec.process().as_ref().ok_or_else(incomplete)?.user();
    Ok((Uid::from_raw(user.uid()), Gid::from_raw(user.gid())))
}

/// Whether programs in the container run under a seccomp filter.
pub(crate) fn has_seccomp(spec: &Spec) -> bool {
    spec.linux().as_ref().is_some_and(|linux| linux.seccomp().is_some())
}
