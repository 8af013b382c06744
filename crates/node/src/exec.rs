//! `usnea node exec`: a command inside the node.

use std::{
    convert::Infallible,
    ffi::{CString, OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    unistd::{AccessFlags, access, execv},
};
use sys::process::{SingleThreaded, reset_signals};

use crate::{config::NodeConfig, error::NodeError, join::find_or_start, start::HolderCommand};

/// Becomes the command `argv` inside the node, its network included: `usnea node exec -- CMD`.
///
/// The holder is found or started as by [`find_or_start`]. Environment, working directory and descriptors 0 to 2 are
/// the caller's; without the right to leave its cgroup, the command stays there.
///
/// # Errors
/// [`NodeError::Exec`], whose [`exit_code`](NodeError::exit_code) is a shell's, and those of [`find_or_start`].
pub fn exec(
    config: &NodeConfig,
    holder: &HolderCommand,
    argv: &[OsString],
) -> Result<Infallible, NodeError> {
    let proof = SingleThreaded::prove()?;
    let program = argv.first().cloned().unwrap_or_default();
    let failed = |source| NodeError::Exec { program: program.clone(), source };
    let arguments = argv.iter().map(|text| CString::new(text.clone().into_vec()));
    let arguments: Vec<CString> =
        arguments.collect::<Result<_, _>>().or(Err(failed(Errno::EINVAL)))?;

    find_or_start(config, holder)?.enter_for_command(proof)?;
    reset_signals();
    let path = search_path(&program).map_err(failed)?;
    execv(&path, &arguments).map_err(failed)
}

/// Where a shell would find `program`. Unlike `execvp(3)`, a directory in `PATH` that may not be entered does not hide
/// that there is no such command.
fn search_path(program: &OsStr) -> Result<CString, Errno> {
    let c_string = |path: &Path| CString::new(path.as_os_str().as_bytes()).or(Err(Errno::EINVAL));
    if program.is_empty() {
        return Err(Errno::ENOENT);
    }
    if program.as_bytes().contains(&b'/') {
        return c_string(Path::new(program));
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    let files = std::env::split_paths(&path).map(|directory| directory.join(program));
    let files: Vec<PathBuf> = files.filter(|file| file.is_file()).collect();
    let runs = files.iter().find(|file| access(*file, AccessFlags::X_OK).is_ok());
    c_string(runs.or(files.first()).ok_or(Errno::ENOENT)?)
}
