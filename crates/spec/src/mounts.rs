//! What is mounted in a container, in which order, and how.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use model::{
    ContainerPid, InvalidField, MountPropagation, MountSource, NamespaceMode, NetworkMode,
};
use oci_spec::runtime::Mount;

use crate::Inputs;

/// Group `tty` of every distribution; terminals belong to it.
const TTY_GID: u32 = 5;

/// All mounts: the container's own, then the request's, by depth of the path, so that none hides one that came before.
/// A path of the request replaces what would be mounted there otherwise.
///
/// # Errors
/// When two mounts of the request have one path, or one is `/dev`.
pub(crate) fn mounts(inputs: &Inputs<'_>) -> Result<Vec<Mount>, InvalidField> {
    let requested = requested(inputs)?;
    let taken: BTreeSet<&Path> = requested.iter().map(|m| m.destination().as_path()).collect();
    let mut mounts = kernel_file_systems(inputs);
    mounts.extend(pod_files(inputs));
    mounts.retain(|mount| !taken.contains(mount.destination().as_path()));
    mounts.extend(requested);
    mounts.sort_by_key(|mount| mount.destination().components().count());
    Ok(mounts)
}

/// The propagation that libcontainer 0.7 applies to the whole mount tree of a container; it ignores that of the single
/// mount. The widest that any mount needs, so that none gets less than it asks for.
pub(crate) fn root_propagation(inputs: &Inputs<'_>) -> &'static str {
    let asked = |propagation| inputs.config.mounts.iter().any(|m| m.propagation == propagation);
    if asked(MountPropagation::Bidirectional) {
        "shared"
    } else if asked(MountPropagation::HostToContainer) {
        "slave"
    } else {
        "private"
    }
}

fn kernel_file_systems(inputs: &Inputs<'_>) -> Vec<Mount> {
    let mut mounts = vec![
        proc(inputs),
        mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        dev_pts(inputs.host.mapped_gids),
        bind("/dev/shm", &inputs.pod_files.shm, ["rprivate", "nosuid", "nodev", "noexec"]),
        sys(inputs),
    ];
    mounts.extend(mqueue(inputs));
    if inputs.host.cgroup_namespace {
        let options = ["nosuid", "noexec", "nodev"].into_iter().chain(read_only(inputs));
        mounts.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", options));
    }
    mounts
}

/// A new proc shows the PID namespace of the process that mounts it. The node's needs the node's own: a container may
/// not mount a proc of a PID namespace that the node does not own.
fn proc(inputs: &Inputs<'_>) -> Mount {
    let options = ["nosuid", "noexec", "nodev"];
    match inputs.config.security.pid {
        ContainerPid::Node => bind("/proc", Path::new("/proc"), options),
        ContainerPid::Pod | ContainerPid::Container | ContainerPid::Target(_) => {
            mount("/proc", "proc", "proc", options)
        }
    }
}

fn dev_pts(mapped_gids: u32) -> Mount {
    let fixed = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    // devpts refuses a gid that is not mapped (EINVAL).
    let gid = (TTY_GID < mapped_gids).then(|| format!("gid={TTY_GID}"));
    mount("/dev/pts", "devpts", "devpts", fixed.into_iter().map(str::to_owned).chain(gid))
}

/// Message queues belong to the IPC namespace; one that the node does not own can only be bound.
fn mqueue(inputs: &Inputs<'_>) -> Option<Mount> {
    let (target, options) = ("/dev/mqueue", ["nosuid", "noexec", "nodev"]);
    match inputs.sandbox.namespaces.ipc {
        NamespaceMode::Pod => Some(mount(target, "mqueue", "mqueue", options)),
        NamespaceMode::Node => {
            inputs.host.has_mqueue.then(|| bind(target, Path::new(target), options))
        }
    }
}

/// A new sysfs shows the network namespace of the process that mounts it; one that the node does not own can only be
/// bound. `rro`, because `ro` would leave the mounts below it writable.
fn sys(inputs: &Inputs<'_>) -> Mount {
    let fixed = ["nosuid", "noexec", "nodev"].into_iter();
    let foreign = inputs.sandbox.namespaces.network == NetworkMode::Node;
    if foreign && inputs.host.network_is_hosts {
        let recursive = read_only(inputs).map(|_| "rro");
        bind("/sys", Path::new("/sys"), fixed.chain(recursive))
    } else {
        mount("/sys", "sysfs", "sysfs", fixed.chain(read_only(inputs)))
    }
}

fn read_only(inputs: &Inputs<'_>) -> Option<&'static str> {
    (!inputs.config.security.privileged).then_some("ro")
}

fn pod_files(inputs: &Inputs<'_>) -> [Mount; 3] {
    let files = inputs.pod_files;
    let read_only = inputs.config.security.readonly_rootfs.then_some("ro");
    [
        ("/etc/hostname", &files.hostname),
        ("/etc/hosts", &files.hosts),
        ("/etc/resolv.conf", &files.resolv_conf),
    ]
    .map(|(target, source)| bind(target, source, ["rprivate"].into_iter().chain(read_only)))
}

fn requested(inputs: &Inputs<'_>) -> Result<Vec<Mount>, InvalidField> {
    let mut seen = BTreeSet::new();
    let mounts = inputs.config.mounts.iter().enumerate().map(|(index, mount)| {
        let path = mount.container_path.as_path();
        let refuse = |reason: &str| {
            InvalidField::new("mounts.container_path", &mount.container_path_as_given, reason)
                .recognised_by(mount.source.keyword())
        };
        if path == Path::new("/dev") {
            return Err(refuse(
                "would hide the container's own devices; mount single ones below it",
            ));
        }
        if !seen.insert(path) {
            return Err(refuse("is the container_path of two mounts"));
        }
        Ok(request_mount(mount, image_mount_point(inputs.image_mounts, index)))
    });
    mounts.collect()
}

/// Options that restrict, and no others: what the source's own mount forbids stays forbidden, and access times belong
/// to what a user namespace may not change (`mount_namespaces(7)`, "locked").
fn request_mount(request: &model::Mount, image: PathBuf) -> Mount {
    let propagation = match request.propagation {
        MountPropagation::Private => "rprivate",
        MountPropagation::HostToContainer => "rslave",
        MountPropagation::Bidirectional => "rshared",
    };
    let optional = [
        (request.readonly, "ro"),
        (request.recursive_read_only, "rro"),
        (request.options.no_suid, "nosuid"),
        (request.options.no_dev, "nodev"),
        (request.options.no_exec, "noexec"),
    ];
    let chosen = optional.into_iter().filter_map(|(asked, option)| asked.then_some(option));
    let (source, own) = match &request.source {
        MountSource::Host(source) => (source.as_path().to_owned(), None),
        MountSource::Image { .. } => (image, Some("nodev")),
    };
    let options = [propagation].into_iter().chain(chosen).chain(own);
    bind(request.container_path.as_path(), &source, options)
}

/// Where the image of the request's mount `index` is attached, to be bound into the container from there.
#[must_use]
pub fn image_mount_point(directory: &Path, index: usize) -> PathBuf {
    directory.join(index.to_string())
}

/// Binds with everything that is mounted below: a user namespace may not uncover what a mount hides.
fn bind<'a>(
    target: impl Into<PathBuf>,
    source: &Path,
    options: impl IntoIterator<Item = &'a str>,
) -> Mount {
    mount(target, "bind", source, ["rbind"].into_iter().chain(options))
}

fn mount(
    target: impl Into<PathBuf>,
    typ: &str,
    source: impl Into<PathBuf>,
    options: impl IntoIterator<Item = impl Into<String>>,
) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(target.into())
        .set_typ(Some(typ.to_owned()))
        .set_source(Some(source.into()))
        .set_options(Some(options.into_iter().map(Into::into).collect()));
    mount
}

#[cfg(test)]
mod tests;
