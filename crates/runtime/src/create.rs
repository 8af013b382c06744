//! Creating a container: what the helper process does between its plan and its report.
//!
//! The helper is a fresh process with one thread, because libcontainer forks without exec and changes its caller for
//! good: working directory, dumpable flag, out-of-memory score. It mounts the root file system, makes everything in
//! it that mounts need, and calls libcontainer, whose container init becomes a child of the helper's parent.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Seek, Write},
    os::{
        fd::{AsFd, OwnedFd, RawFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    process::ExitCode,
};

use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
    sys::stat::{Mode, umask},
    unistd::Gid,
};
use oci_spec::runtime::{LinuxSeccomp, Spec};
use serde::{Deserialize, Serialize};
use sys::{fd::adopt_inherited, process::SingleThreaded};

use crate::{
    error::{RuntimeError, chain},
    seccomp,
};

mod causes;
mod cgroups;
mod executor;
mod images;
mod init;
mod rootfs;
mod specification;

/// Everything that the helper needs to know; JSON on [`fds::PLAN`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Names the container's directory below `state_root`.
    pub container_id: String,
    /// The directory with `config.json`.
    pub bundle: PathBuf,
    /// Where libcontainer keeps its state, one directory per container.
    pub state_root: PathBuf,
    /// Where the compiled seccomp profile is, or will be, for programs that are started later; `None`: nowhere.
    pub seccomp_program: Option<PathBuf>,
    /// What is mounted at `root.path` of the specification.
    pub rootfs: RootFs,
    /// What the specification binds from where only the helper has it attached.
    #[serde(default)]
    pub image_mounts: Vec<ImageMount>,
}

/// An image that is mounted in a container, read-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMount {
    /// Directories relative to [`RootFs::layers_dir`], the topmost first; none for an empty image.
    pub lower: Vec<String>,
    /// What of it, if not all.
    pub sub_path: Option<PathBuf>,
    /// Where the specification binds it from; made when absent. The mounts of one container lie in one directory, and
    /// none of them is called `empty`.
    pub mount_point: PathBuf,
}

/// The overlay that becomes the container's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// The directory that `lower` is relative to.
    pub layers_dir: PathBuf,
    /// Read-only directories, the topmost first.
    pub lower: Vec<String>,
    /// Where changes go.
    pub upper_dir: PathBuf,
    /// The empty directory beside it that overlayfs needs.
    pub work_dir: PathBuf,
}

/// Descriptor numbers of the helper. 0 to 2 are `/dev/null`.
pub mod fds {
    use std::os::fd::RawFd;

    /// The PID namespace to join, which the specification then names `/proc/self/fd/3`; else not open.
    pub const PID_NAMESPACE: RawFd = 3;
    /// The container's standard input.
    pub const STDIN: RawFd = 4;
    /// The container's standard output.
    pub const STDOUT: RawFd = 5;
    /// The container's standard error.
    pub const STDERR: RawFd = 6;
    /// The plan: a pipe, or a file that is read from its beginning.
    pub const PLAN: RawFd = 7;
    /// Where the helper writes its report.
    pub const REPORT: RawFd = 8;
    /// Where the container's init writes why it could not become the program; it closes when it could.
    pub const EXEC_STATUS: RawFd = 9;
}

/// What the helper has achieved; one line of JSON on [`fds::REPORT`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The container waits to be started.
    Created {
        /// Its init, in the helper's PID namespace; a child of the helper's parent.
        pid: i32,
    },
    /// No process was left behind, but the root file system may be mounted: see [`unmount_rootfs`].
    Failed {
        /// Whose fault it is.
        kind: FailureKind,
        /// For people, causes joined by `: `.
        message: String,
    },
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Ours, or that of a kernel that refuses what it should grant.
    Internal,
    /// That of the request or the image.
    Refused,
}

/// What the helper process runs instead of `main`: its arguments are the descriptors of [`fds`], its result is the
/// [`Report`].
///
/// The process must be fresh: one thread, no descriptor open but those of the contract.
#[must_use]
pub fn helper_main() -> ExitCode {
    let Some(pipe) = adopt_inherited(fds::REPORT) else { return ExitCode::FAILURE };
    let report = match adopt_and_create() {
        Ok(pid) => Report::Created { pid },
        Err(error) => Report::Failed { kind: kind(&error), message: chain(&error) },
    };
    match send_report(pipe, &report) {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody is left who could be told.
        Err(_) => ExitCode::FAILURE,
    }
}

fn kind(error: &RuntimeError) -> FailureKind {
    match error {
        RuntimeError::Refused(_) => FailureKind::Refused,
        _ => FailureKind::Internal,
    }
}

fn send_report(pipe: OwnedFd, report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    File::from(pipe).write_all(&line)
}

/// Reads the report of a helper from the pipe whose other end it got as [`fds::REPORT`].
///
/// Blocks until the report is complete, not until the pipe is closed: a created init holds every descriptor of its
/// helper until it is started.
///
/// # Errors
/// [`RuntimeError::Silent`] when the helper died first.
pub fn read_report(pipe: impl AsFd) -> Result<Report, RuntimeError> {
    let pipe = pipe.as_fd().try_clone_to_owned();
    let mut line = String::new();
    pipe.and_then(|pipe| BufReader::new(File::from(pipe)).read_line(&mut line))
        .map_err(RuntimeError::file("read", "report pipe"))?;
    if !line.ends_with('\n') {
        return Err(RuntimeError::Silent { what: "the create helper" });
    }
    serde_json::from_str(&line).map_err(|source| RuntimeError::Parse { what: "report", source })
}

/// Takes the root file system away that the helper mounted at `rootfs`; one that is not mounted is gone already.
///
/// Source: `umount2(2)`, `MNT_DETACH`.
///
/// # Errors
/// `EPERM` in a mount namespace that is not ours.
pub fn unmount_rootfs(rootfs: &Path) -> Result<(), RuntimeError> {
    match umount2(rootfs, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(errno) => Err(RuntimeError::file("unmount", rootfs)(errno.into())),
    }
}

/// Removes what libcontainer keeps of a container; one that it does not know is forgotten already.
///
/// # Errors
/// [`RuntimeError::File`] when something of it cannot be removed.
pub fn forget(state_root: &Path, container_id: &str) -> Result<(), RuntimeError> {
    let directory = state_root.join(container_id);
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(RuntimeError::file("remove", directory)(error))
        }
        _ => Ok(()),
    }
}

/// The descriptors that become the container's.
#[derive(Debug)]
struct Streams {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    exec_status: OwnedFd,
}

fn adopt(number: RawFd) -> Result<OwnedFd, RuntimeError> {
    adopt_inherited(number).ok_or(RuntimeError::MissingDescriptor { number })
}

fn adopt_and_create() -> Result<i32, RuntimeError> {
    let proof = SingleThreaded::prove()?;
    // Stays open under its number for as long as the specification's path is needed: until this process ends.
    let _pid_namespace = adopt_inherited(fds::PID_NAMESPACE);
    let streams = Streams {
        stdin: adopt(fds::STDIN)?,
        stdout: adopt(fds::STDOUT)?,
        stderr: adopt(fds::STDERR)?,
        exec_status: adopt(fds::EXEC_STATUS)?,
    };
    let plan = read_plan(adopt(fds::PLAN)?)?;
    reset_own_attributes()?;
    create(&proof, &plan, streams)
}

fn read_plan(pipe: OwnedFd) -> Result<Plan, RuntimeError> {
    let mut plan = File::from(pipe);
    // Who has written it to a memory file has left the offset at its end; a pipe has none.
    plan.rewind().ok();
    let json = io::read_to_string(plan).map_err(RuntimeError::file("read", "plan"))?;
    serde_json::from_str(&json).map_err(|source| RuntimeError::Parse { what: "plan", source })
}

/// What libcontainer lets a container inherit: the file mode mask and, unless the specification lists some, the
/// supplementary groups.
fn reset_own_attributes() -> Result<(), RuntimeError> {
    umask(Mode::from_bits_truncate(DEFAULT_UMASK));
    let none: [Gid; 0] = [];
    match nix::unistd::setgroups(&none) {
        // Denied for the whole user namespace: then nobody in it can have others.
        Ok(()) | Err(Errno::EPERM) => Ok(()),
        Err(source) => Err(RuntimeError::System { operation: "setgroups", source }),
    }
}

/// Of a container's process, unless its specification says otherwise.
pub(crate) const DEFAULT_UMASK: nix::libc::mode_t = 0o022;

fn create(proof: &SingleThreaded, plan: &Plan, streams: Streams) -> Result<i32, RuntimeError> {
    let spec = read_spec(&plan.bundle)?;
    specification::check(&spec)?;
    let at = rootfs::mount_point(&plan.bundle, &spec)?;
    if let (Some(path), Some(profile)) = (&plan.seccomp_program, specification::seccomp(&spec)) {
        ensure_program(path, profile)?;
    }
    let images = images::prepare(proof, plan)?;
    let mount = rootfs::assemble(proof, &plan.rootfs, &spec)?;
    let spec = specification::fit(spec, &at)?;
    rootfs::attach(&mount, &at)?;
    // After the root is mounted: from here on this process may have a mount namespace that its parent does not share.
    let created =
        images::attach(proof, images).and_then(|()| call_libcontainer(proof, plan, &spec, streams));
    if created.is_err() {
        // The error at hand says more than one of these could, and the caller undoes them once more.
        unmount_rootfs(&at).ok();
        forget(&plan.state_root, &plan.container_id).ok();
    }
    created
}

fn call_libcontainer(
    proof: &SingleThreaded,
    plan: &Plan,
    spec: &Spec,
    streams: Streams,
) -> Result<i32, RuntimeError> {
    cgroups::make_read_only(proof)?;
    init::create(proof, plan, spec, streams)
}

fn read_spec(bundle: &Path) -> Result<Spec, RuntimeError> {
    let path = bundle.join("config.json");
    let json = fs::read(&path).map_err(RuntimeError::file("read", path))?;
    serde_json::from_slice(&json)
        .map_err(|source| RuntimeError::Parse { what: "config.json", source })
}

/// Compiles `profile` to `path` unless that was done before: it takes milliseconds, and most containers have the same.
///
/// Another helper may be doing the same at this moment; each renames a whole file into place.
fn ensure_program(path: &Path, profile: &LinuxSeccomp) -> Result<(), RuntimeError> {
    if path.exists() {
        return Ok(());
    }
    let program = seccomp::compile(profile)?;
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary);
    file.and_then(|mut file| file.write_all(&program))
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(RuntimeError::file("write", path))
}

#[cfg(test)]
mod tests {
    use nix::unistd::pipe;

    use super::*;

    #[test]
    fn a_report_is_read_while_the_pipe_stays_open() {
        let (read, write) = pipe().expect("pipe");
        let held = write.try_clone().expect("dup");
        let report = Report::Failed { kind: FailureKind::Refused, message: "a\nb".to_owned() };
        send_report(write, &report).expect("send");
        assert_eq!(read_report(&read).expect("report"), report);
        drop(held);
    }

    #[test]
    fn a_helper_that_dies_is_an_error() {
        let (read, write) = pipe().expect("pipe");
        File::from(write).write_all(b"{\"created\"").expect("write");
        assert!(matches!(read_report(&read), Err(RuntimeError::Silent { .. })));
    }

    #[test]
    fn what_is_not_there_is_forgotten() {
        let directory = tempfile::tempdir().expect("directory");
        forget(directory.path(), "none").expect("nothing to do");
        fs::create_dir_all(directory.path().join("some/inner")).expect("state");
        forget(directory.path(), "some").expect("removed");
        assert!(!directory.path().join("some").exists());
        unmount_rootfs(&directory.path().join("none")).expect("not there");
    }
}
