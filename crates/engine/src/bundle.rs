//! From a validated request to everything that the shim needs to make the container: user, mounts, specification.
//!
//! What can be known to fail is found out here, before anything is made.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use image::{Digest, Image};
use model::{
    ContainerConfig, ContainerId, ContainerPid, HostPath, ImageDefaults, InvalidField, MountSource,
    NamespaceMode, NetworkMode, ResolvedUser, SandboxRecord, SeccompProfile, Signal,
};
use oci_spec::runtime::{LinuxSeccomp, Spec};
use shim_api::v1;
use spec::{HostFacts as SpecHost, Inputs, PodFiles, cgroup, command, seccomp, user};

use crate::{
    EngineError, Inner,
    error::internal,
    image_volumes::{IMAGE_MOUNTS, ImageVolumes},
    places::{self, SHM},
    sandboxes::{hostname, text},
    status::kernel_version,
};

/// Largest seccomp profile that is read.
const PROFILE_MAX_BYTES: u64 = 1 << 20;

/// First kernel with `mount_setattr(2)`.
pub(crate) const RECURSIVE_READ_ONLY: (u32, u32) = (5, 12);

/// Everything that is known about a container before it is made.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) user: ResolvedUser,
    pub(crate) stop_signal: Signal,
    pub(crate) spec: Spec,
    /// Layers below the layer store's directory, topmost first.
    pub(crate) lower: Vec<String>,
    /// The images that it mounts.
    pub(crate) images: ImageVolumes,
    /// Relative to the node's cgroup root; `None` without cgroups.
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) cgroup_settings: Vec<v1::CgroupSetting>,
    /// Where the compiled seccomp filter is, or will be; `None` without a profile.
    pub(crate) seccomp_program: Option<PathBuf>,
}

impl Inner {
    /// Resolves the request against the image, the host's files and the host's abilities.
    pub(crate) fn bundle(
        &self,
        sandbox: &SandboxRecord,
        id: &ContainerId,
        config: &ContainerConfig,
        image: &Image,
    ) -> Result<Bundle, EngineError> {
        let defaults = image_defaults(image);
        // Checked first, because it is the most common mistake and costs nothing.
        command::argv(config, &defaults)?;
        let stop_signal = stop_signal(config, &defaults)?;
        let user = self.user(config, image, &defaults)?;
        let config = with_real_sources(config)?;
        let settings = self.cgroup_settings(&config)?;
        let image_mounts = self.places.container(id).join(IMAGE_MOUNTS);
        let cgroup = self
            .cgroups
            .as_ref()
            .map(|_| places::pod_cgroup(&sandbox.id, &sandbox.config).join(id.as_str()));
        let spec = spec::generate(&Inputs {
            container_id: id,
            config: &config,
            sandbox: &sandbox.config,
            image: &defaults,
            user: &user,
            hostname: &hostname(sandbox),
            rootfs: &self.places.container(id).join(ROOTFS),
            image_mounts: &image_mounts,
            pod_files: &self.pod_files(sandbox),
            seccomp: seccomp_profile(&config)?,
            host: &self.spec_host(sandbox),
        })
        .map_err(|error| match error {
            spec::SpecError::Invalid(invalid) => EngineError::Invalid(invalid),
            other @ spec::SpecError::Capability { .. } => internal("make the OCI spec", other),
        })?;
        let lower = self.lower(image);
        let images = self.image_volumes(&config, &image_mounts)?;
        let seccomp_program = self.seccomp_program(&spec)?;
        let cgroup_settings = settings;
        Ok(Bundle {
            user,
            stop_signal,
            spec,
            lower,
            images,
            cgroup,
            cgroup_settings,
            seccomp_program,
        })
    }

    /// Equal profiles share one program, which is named for the profile's digest.
    fn seccomp_program(&self, spec: &Spec) -> Result<Option<PathBuf>, EngineError> {
        let linux = spec.linux().as_ref();
        let Some(profile) = linux.and_then(|linux| linux.seccomp().as_ref()) else {
            return Ok(None);
        };
        let json = serde_json::to_vec(profile)
            .map_err(|source| internal("write down the seccomp profile", source))?;
        let name = format!("{}.bpf", Digest::of(&json).hex());
        Ok(Some(self.places.seccomp_programs().join(name)))
    }

    /// The image's layers below the layer store's directory, topmost first.
    pub(crate) fn lower(&self, image: &Image) -> Vec<String> {
        let store = self.places.layers();
        let layers = self.images.layer_paths(image);
        layers.iter().rev().map(|path| text(path.strip_prefix(&store).unwrap_or(path))).collect()
    }

    fn user(
        &self,
        config: &ContainerConfig,
        image: &Image,
        defaults: &ImageDefaults,
    ) -> Result<ResolvedUser, EngineError> {
        let files =
            self.image_users.of(image, &self.images.layer_paths(image)).map_err(|error| {
                EngineError::Precondition {
                    what: format!("image {}: users cannot be looked up: {error}", image.id),
                }
            })?;
        let limits = user::IdLimits { uids: self.host.mapped_uids, gids: self.host.mapped_gids };
        let (passwd, group) = (files.passwd.as_deref(), files.group.as_deref());
        user::resolve(&config.security, &defaults.user, passwd, group, limits).map_err(|error| {
            match error {
                user::UserError::Invalid(invalid) => EngineError::Invalid(invalid),
                not_mapped @ user::UserError::NotMapped { .. } => {
                    EngineError::Precondition { what: not_mapped.to_string() }
                }
            }
        })
    }

    fn cgroup_settings(
        &self,
        config: &ContainerConfig,
    ) -> Result<Vec<v1::CgroupSetting>, EngineError> {
        let controllers: BTreeSet<String> =
            self.cgroups.iter().flat_map(|c| c.controllers()).cloned().collect();
        let settings = cgroup::settings(&config.resources, &controllers, host_has_swap())
            .map_err(|missing| EngineError::Precondition { what: missing.to_string() })?;
        if !settings.ignored.is_empty() {
            tracing::info!(ignored = ?settings.ignored, "limits without a delegated controller");
        }
        let setting = |s: cgroup::Setting| v1::CgroupSetting { file: s.file, value: s.value };
        Ok(settings.settings.into_iter().map(setting).collect())
    }

    fn pod_files(&self, sandbox: &SandboxRecord) -> PodFiles {
        let directory = self.places.sandbox(&sandbox.id);
        PodFiles {
            hostname: directory.join("hostname"),
            hosts: directory.join("hosts"),
            resolv_conf: directory.join("resolv.conf"),
            shm: match sandbox.config.namespaces.ipc {
                NamespaceMode::Pod => self.places.runtime(&sandbox.id).join(SHM),
                NamespaceMode::Node => PathBuf::from("/dev/shm"),
            },
        }
    }

    fn spec_host(&self, sandbox: &SandboxRecord) -> SpecHost {
        let host_network = sandbox.config.namespaces.network == NetworkMode::Node;
        SpecHost {
            network_is_hosts: host_network && self.host.network_is_hosts,
            cgroup_namespace: self.cgroups.is_some(),
            has_mqueue: Path::new("/dev/mqueue").is_dir(),
            mapped_uids: self.host.mapped_uids,
            mapped_gids: self.host.mapped_gids,
            lowest_oom_score_adj: own_oom_score_adj(),
        }
    }
}

/// Name of the mount point of a container's root in its directory.
pub(crate) const ROOTFS: &str = "rootfs";

/// Which PID namespace the shim puts the container into.
pub(crate) fn pid_namespace(pid: &ContainerPid) -> v1::PidNamespace {
    match pid {
        ContainerPid::Container => v1::PidNamespace::Container,
        ContainerPid::Pod => v1::PidNamespace::Pod,
        ContainerPid::Target(_) => v1::PidNamespace::Target,
        ContainerPid::Node => v1::PidNamespace::Node,
    }
}

fn image_defaults(image: &Image) -> ImageDefaults {
    let config = image.config.clone();
    ImageDefaults {
        env: config.env,
        entrypoint: config.entrypoint,
        cmd: config.cmd,
        user: config.user,
        working_dir: config.working_dir,
        stop_signal: config.stop_signal,
    }
}

fn stop_signal(config: &ContainerConfig, defaults: &ImageDefaults) -> Result<Signal, InvalidField> {
    match (config.stop_signal, defaults.stop_signal.as_deref()) {
        (Some(signal), _) => Ok(signal),
        (None, Some(text)) => Signal::parse("image StopSignal", text),
        (None, None) => Ok(Signal::TERM),
    }
}

/// The same request with the mount sources that its symbolic links lead to.
fn with_real_sources(config: &ContainerConfig) -> Result<ContainerConfig, EngineError> {
    let mut config = config.clone();
    let kernel = kernel_version().unwrap_or_default();
    if kernel < RECURSIVE_READ_ONLY && config.mounts.iter().any(|m| m.recursive_read_only) {
        let what = "RROUnsupported: recursive_read_only needs Linux 5.12; use readonly";
        return Err(EngineError::Precondition { what: what.to_owned() });
    }
    for (index, mount) in config.mounts.iter_mut().enumerate() {
        let MountSource::Host(path) = &mount.source else { continue };
        let field = format!("config.mounts[{index}].host_path");
        let real = fs::canonicalize(path.as_path()).map_err(|error| EngineError::Precondition {
            what: format!("{field}: {path}: {error}; the source of a mount must exist"),
        })?;
        let real = real.to_str().ok_or_else(|| {
            InvalidField::new(&field, path.to_string(), "leads to a path that is not UTF-8")
        })?;
        mount.source = MountSource::Host(HostPath::parse(&field, real)?);
    }
    Ok(config)
}

fn seccomp_profile(config: &ContainerConfig) -> Result<Option<LinuxSeccomp>, EngineError> {
    let capabilities = config.security.capabilities.effective();
    match &config.security.seccomp {
        SeccompProfile::Unconfined => Ok(None),
        SeccompProfile::RuntimeDefault => Ok(Some(seccomp::runtime_default(&capabilities))),
        SeccompProfile::Localhost(path) => {
            const FIELD: &str = "config.linux.security_context.seccomp.localhost_ref";
            let refuse = |reason: String| InvalidField::new(FIELD, path.to_string(), reason);
            let text = read_profile(path.as_path()).map_err(|error| refuse(error.to_string()))?;
            let conditions = seccomp::Conditions {
                capabilities: &capabilities,
                kernel: kernel_version().unwrap_or_default(),
            };
            Ok(Some(seccomp::parse_profile(FIELD, &text, &conditions)?))
        }
    }
}

fn read_profile(path: &Path) -> io::Result<String> {
    // Looked at before it is opened, so that a FIFO cannot make us wait.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("is no regular file"));
    }
    let mut text = String::new();
    let length = File::open(path)?.take(PROFILE_MAX_BYTES + 1).read_to_string(&mut text)?;
    if u64::try_from(length).is_ok_and(|length| length > PROFILE_MAX_BYTES) {
        return Err(io::Error::other("is larger than 1 MiB"));
    }
    Ok(text)
}

/// Source: `proc(5)`, `/proc/meminfo`.
fn host_has_swap() -> bool {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("SwapTotal:"));
    total.is_some_and(|rest| !rest.trim_start().starts_with("0 "))
}

/// Children inherit it, and nobody without privileges gets below it.
fn own_oom_score_adj() -> i64 {
    let text = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_must_be_a_regular_file_of_bounded_size() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("profile.json");
        read_profile(&path).expect_err("missing");
        read_profile(dir.path()).expect_err("directory");
        fs::write(&path, "{}").expect("write");
        assert_eq!(read_profile(&path).expect("read"), "{}");
        File::create(&path).expect("create").set_len(PROFILE_MAX_BYTES + 1).expect("grow");
        read_profile(&path).expect_err("too large");
    }

    #[test]
    fn every_pid_mode_has_a_namespace() {
        let modes = [
            (ContainerPid::Container, v1::PidNamespace::Container),
            (ContainerPid::Pod, v1::PidNamespace::Pod),
            (ContainerPid::Target("x".to_owned()), v1::PidNamespace::Target),
            (ContainerPid::Node, v1::PidNamespace::Node),
        ];
        for (mode, expected) in modes {
            assert_eq!(pid_namespace(&mode), expected);
        }
    }
}
