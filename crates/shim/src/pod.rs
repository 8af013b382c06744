//! What the containers of a pod share: namespaces, the pause process, `/dev/shm`, and directories.

use std::{
    collections::BTreeMap,
    ffi::CString,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::{
        stat::Mode,
        statfs::{CGROUP2_SUPER_MAGIC, statfs},
    },
    unistd::{Pid, sethostname},
};
use shim_api::v1::{Namespaces, SetUpPod};
use sys::{
    cgroup::Cgroup,
    mount::{FsContext, MountAttributes},
    ns::{self, Namespace},
    process::SingleThreaded,
};

use crate::{cgroups::OwnCgroup, error::ShimError, pause::Pause};

/// Where every node has its cgroups.
const CGROUP_MOUNT: &str = "/sys/fs/cgroup";

/// A pod that is up. The shim itself lives in its namespaces, so that what it starts does too.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) runtime_dir: PathBuf,
    /// What log paths are relative to.
    pub(crate) log_directory: Option<OwnedFd>,
    /// What cgroup paths are relative to.
    pub(crate) cgroup_root: Option<Cgroup>,
    pub(crate) pause: Option<Pause>,
    pause_cgroup: Option<OwnCgroup>,
}

impl Pod {
    /// Makes what `request` asks for. `fds` are the descriptors that came with it.
    ///
    /// After an error the shim may sit in some of the new namespaces already: it is good for another attempt, which
    /// makes them anew, but not for a pod in the old ones.
    pub(crate) fn set_up(
        request: &SetUpPod,
        mut fds: impl Iterator<Item = OwnedFd>,
        proof: &SingleThreaded,
    ) -> Result<Self, ShimError> {
        let mut descriptor = |wanted: bool, what| match wanted {
            true => fds.next().map(Some).ok_or(ShimError::MissingDescriptor { what }),
            false => Ok(None),
        };
        let log_directory = descriptor(request.has_log_directory, "log directory")?;
        let cgroup_root = descriptor(request.has_cgroup_root, "cgroup root")?.map(Cgroup::from_fd);
        let network = descriptor(request.has_network, "network namespace")?;
        let namespaces = request.namespaces.unwrap_or_default();

        enter_namespaces(namespaces, network)?;
        if namespaces.uts && !request.hostname.is_empty() {
            sethostname(&request.hostname).map_err(ShimError::SetHostname)?;
        }
        write_sysctls(&request.sysctls)?;
        protect_cgroups().map_err(ShimError::ProtectCgroups)?;

        let mut pod = Self {
            runtime_dir: request.runtime_dir.clone().into(),
            log_directory,
            cgroup_root,
            pause: None,
            pause_cgroup: None,
        };
        if namespaces.pid
            && let Err(error) = pod.start_pause(&request.pause_cgroup, proof)
        {
            pod.take_down();
            return Err(error);
        }
        if let Err(error) = mount_shm(request) {
            pod.take_down();
            return Err(error);
        }
        Ok(pod)
    }

    fn start_pause(&mut self, cgroup: &str, proof: &SingleThreaded) -> Result<(), ShimError> {
        if let Some(root) = &self.cgroup_root
            && !cgroup.is_empty()
        {
            self.pause_cgroup = Some(OwnCgroup::make(root, cgroup)?);
        }
        let cgroup = self.pause_cgroup.as_ref().map(|own| own.get().as_fd());
        self.pause = Some(Pause::start(proof, cgroup)?);
        Ok(())
    }

    /// Where libcontainer keeps what it knows of the pod's containers.
    pub(crate) fn state_root(&self) -> PathBuf {
        self.runtime_dir.join("oci")
    }

    /// Removes what was made for a container outside of its own directories: the mount of its root and libcontainer's
    /// state. Tries everything and returns what failed.
    pub(crate) fn forget(&self, container_id: &str, rootfs: &Path) -> Vec<ShimError> {
        let results = [
            runtime::create::unmount_rootfs(rootfs).map_err(ShimError::Runtime),
            runtime::create::forget(&self.state_root(), container_id).map_err(ShimError::Runtime),
        ];
        results.into_iter().filter_map(Result::err).collect()
    }

    /// 0 without pause.
    pub(crate) fn pause_pid(&self) -> i32 {
        self.pause.as_ref().map_or(0, |pause| pause.pid.as_raw())
    }

    /// Notes that a child has ended. When it was pause, no process of its namespace is left.
    pub(crate) fn reaped(&mut self, pid: Pid) {
        self.pause.take_if(|pause| pause.pid == pid);
    }

    /// The pod's network namespace.
    pub(crate) fn network_namespace() -> Result<OwnedFd, ShimError> {
        Namespace::Network.open(None).map_err(ShimError::OpenNetworkNamespace)
    }

    /// Ends pause. The namespaces and mounts go when the shim does.
    pub(crate) fn take_down(self) {
        if let Some(pause) = self.pause {
            pause.stop();
        }
        if let Some(cgroup) = self.pause_cgroup
            && let Err(error) = cgroup.remove()
        {
            error.report();
        }
    }
}

fn enter_namespaces(namespaces: Namespaces, network: Option<OwnedFd>) -> Result<(), ShimError> {
    let wanted = [
        (namespaces.network, CloneFlags::CLONE_NEWNET),
        (namespaces.ipc, CloneFlags::CLONE_NEWIPC),
        (namespaces.uts, CloneFlags::CLONE_NEWUTS),
    ];
    let flags = wanted.into_iter().filter(|(wanted, _)| *wanted).map(|(_, flag)| flag);
    unshare(flags.fold(CloneFlags::CLONE_NEWNS, CloneFlags::union)).map_err(ShimError::Unshare)?;
    if let Some(network) = network {
        setns(network, CloneFlags::CLONE_NEWNET).map_err(ShimError::JoinNetwork)?;
    }
    // What the node mounts later arrives here; what is mounted here stays here.
    let propagation = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, propagation, None::<&str>)
        .map_err(ShimError::Propagation)?;
    if namespaces.network {
        ns::loopback_up().map_err(ShimError::Loopback)?;
    }
    Ok(())
}

fn write_sysctls(sysctls: &BTreeMap<String, String>) -> Result<(), ShimError> {
    sysctls.iter().try_for_each(|(key, value)| {
        ns::write_sysctl(key, value)
            .map_err(|source| ShimError::Sysctl { key: key.clone(), source })
    })
}

/// Makes the cgroup file system read-only for what is started here.
///
/// Containers are placed by descriptor; libcontainer would move them elsewhere if it could, and takes `EROFS` for what
/// a rootless runtime has to live with.
fn protect_cgroups() -> Result<(), Errno> {
    match statfs(CGROUP_MOUNT) {
        Ok(stat) if stat.filesystem_type() == CGROUP2_SUPER_MAGIC => {}
        Ok(_) | Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    let mount = open(CGROUP_MOUNT, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let attributes = MountAttributes { read_only: true, ..MountAttributes::default() };
    sys::mount::set_attributes(mount, attributes, None, false)
}

/// Mounts the memory that the pod's containers share as `/dev/shm`.
fn mount_shm(request: &SetUpPod) -> Result<(), ShimError> {
    if request.shm_path.is_empty() {
        return Ok(());
    }
    let path = Path::new(&request.shm_path);
    mount_tmpfs(path, request.shm_bytes)
        .map_err(|source| ShimError::MountShm { path: path.into(), source })
}

fn mount_tmpfs(path: &Path, bytes: u64) -> Result<(), Errno> {
    let target = open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let context = FsContext::open(c"tmpfs")?;
    context.set(c"source", c"shm")?;
    context.set(c"mode", c"1777")?;
    // The kernel takes size=0 for no limit at all.
    if bytes > 0 {
        let bytes = CString::new(bytes.to_string()).map_err(|_no_digit| Errno::EINVAL)?;
        context.set(c"size", &bytes)?;
    }
    let attributes = MountAttributes {
        no_suid: true,
        no_dev: true,
        no_exec: true,
        ..MountAttributes::default()
    };
    sys::mount::attach(context.mount(attributes)?, target)
}
