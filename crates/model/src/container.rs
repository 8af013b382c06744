//! CRI `ContainerConfig`, checked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    CapabilityRequest, ContainerPath, HostPath, InvalidField, LinuxResources, LogPath, SandboxId,
    SandboxPid, Signal, SubPath, check_name, check_text,
};

/// CRI `ContainerMetadata`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ContainerMetadata {
    /// Name within the pod.
    pub name: String,
    /// Counts containers of this name.
    pub attempt: u32,
}

/// What two containers never have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContainerKey {
    /// The sandbox.
    pub sandbox_id: SandboxId,
    /// Name and attempt in it.
    pub metadata: ContainerMetadata,
}

impl ContainerMetadata {
    /// Checks the name.
    ///
    /// # Errors
    /// When it is empty or could be mistaken for a path.
    pub fn checked(self) -> Result<Self, InvalidField> {
        check_name("metadata.name", &self.name)?;
        Ok(self)
    }
}

/// CRI `ImageSpec`: the image as the request names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRequest {
    /// Id, tag or digest.
    pub image: String,
    /// What the pod's author wrote.
    pub user_specified_image: String,
}

/// One environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvVar {
    /// Not empty, without `=` and NUL.
    pub key: String,
    /// Without NUL.
    pub value: String,
}

impl EnvVar {
    /// Checks one CRI `KeyValue`.
    ///
    /// # Errors
    /// When the key is empty or contains `=` or NUL; when the value contains NUL or is not UTF-8, which the OCI
    /// runtime specification cannot express.
    pub fn parse(key: &str, value: Vec<u8>) -> Result<Self, InvalidField> {
        let field = format!("envs[{key}]");
        if key.is_empty() || key.contains(['=', '\0']) {
            return Err(InvalidField::new("envs.key", key, "is empty or contains `=` or NUL"));
        }
        let value = String::from_utf8(value).map_err(|error| {
            InvalidField::new(&field, error.to_string(), "the value is not UTF-8")
        })?;
        check_text(&field, &value)?;
        Ok(Self { key: key.to_owned(), value })
    }
}

/// CRI `Mount`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where, cleaned.
    pub container_path: ContainerPath,
    /// `container_path` as the request spells it; the kubelet finds its mounts by it.
    pub container_path_as_given: String,
    /// What.
    pub source: MountSource,
    /// Of this mount; submounts stay as they are.
    pub readonly: bool,
    /// Of this mount and its submounts.
    pub recursive_read_only: bool,
    /// How mounts made later get in and out.
    pub propagation: MountPropagation,
    /// CRI `mount_options`.
    pub options: MountOptions,
    /// CRI `selinux_relabel`; without SELinux it says nothing.
    pub selinux_relabel: bool,
}

/// What the kubelet recognises errors about image mounts by, whatever their code: the message begins with it.
pub const IMAGE_MOUNT_FAILED: &str = "ImageVolumeMountFailed: ";

/// What a mount shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A file or directory of the node; CRI `host_path`.
    Host(HostPath),
    /// An image, or a part of it; read-only.
    Image {
        /// CRI `image`.
        image: ImageRequest,
        /// What of it, if not all; CRI `image_sub_path`.
        sub_path: Option<SubPath>,
    },
}

impl MountSource {
    /// What messages about such a mount begin with; mostly empty.
    #[must_use]
    pub fn keyword(&self) -> &'static str {
        match self {
            Self::Host(_) => "",
            Self::Image { .. } => IMAGE_MOUNT_FAILED,
        }
    }
}

/// CRI `MountPropagation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPropagation {
    /// Neither way.
    Private,
    /// From the node into the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// CRI `mount_options`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountOptions {
    /// `noexec`
    pub no_exec: bool,
    /// `nodev`
    pub no_dev: bool,
    /// `nosuid`
    pub no_suid: bool,
}

impl MountOptions {
    /// Reads the list.
    ///
    /// # Errors
    /// When an option is none of `noexec`, `nodev`, `nosuid`.
    pub fn parse(field: &str, options: &[String]) -> Result<Self, InvalidField> {
        let mut parsed = Self::default();
        for option in options {
            match option.as_str() {
                "noexec" => parsed.no_exec = true,
                "nodev" => parsed.no_dev = true,
                "nosuid" => parsed.no_suid = true,
                other => {
                    let reason = "is not one of noexec, nodev, nosuid";
                    return Err(InvalidField::new(field, other, reason));
                }
            }
        }
        Ok(parsed)
    }
}

/// Whose PID namespace a container uses; CRI `NamespaceOption.pid` of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerPid {
    /// The one that the pod's containers share.
    Pod,
    /// Its own.
    Container,
    /// The node's.
    Node,
    /// That of another container of the same pod; CRI `target_id` as given.
    Target(String),
}

impl ContainerPid {
    /// What is meant in a pod whose own mode is `pod`: `POD`, which is also what a request without namespace options
    /// says, is the pod's mode.
    #[must_use]
    pub fn in_pod(self, pod: SandboxPid) -> Self {
        match (self, pod) {
            (Self::Pod, SandboxPid::Container) => Self::Container,
            (Self::Pod, SandboxPid::Node) => Self::Node,
            (asked, _) => asked,
        }
    }
}

/// Who the container's first process is, as the request says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunAs {
    /// CRI `run_as_user`.
    Uid(u32),
    /// CRI `run_as_username`, to be found in the image's `/etc/passwd`.
    Name(String),
}

/// Reads a uid or gid of a request.
///
/// # Errors
/// When it is outside 0 to 2³¹−1: larger numbers wrap around somewhere on their way to the kernel.
pub fn parse_unix_id(field: &str, value: i64) -> Result<u32, InvalidField> {
    u32::try_from(value)
        .ok()
        .filter(|id| i32::try_from(*id).is_ok())
        .ok_or_else(|| InvalidField::new(field, value.to_string(), "is outside 0 to 2147483647"))
}

/// CRI `SupplementalGroupsPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupPolicy {
    /// Groups of the image's `/etc/group` are added.
    #[default]
    Merge,
    /// Only the request counts.
    Strict,
}

/// CRI `SecurityProfile` for seccomp.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompProfile {
    /// No filter; also when the request says nothing.
    #[default]
    Unconfined,
    /// Usnea's own list.
    RuntimeDefault,
    /// A file on the node.
    Localhost(HostPath),
}

/// CRI `LinuxContainerSecurityContext`, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSecurity {
    /// Beyond and below the defaults.
    pub capabilities: CapabilityRequest,
    /// All that the user has: all capabilities in the node, nothing masked, no seccomp.
    pub privileged: bool,
    /// Whose PID namespace.
    pub pid: ContainerPid,
    /// `None`: the image's user.
    pub run_as: Option<RunAs>,
    /// Only together with `run_as`.
    pub run_as_group: Option<u32>,
    /// In addition to the primary group.
    pub supplemental_groups: Vec<u32>,
    /// Whether the image's groups count.
    pub group_policy: GroupPolicy,
    /// The root file system cannot be written.
    pub readonly_rootfs: bool,
    /// `no_new_privs` of `prctl(2)`.
    pub no_new_privs: bool,
    /// Covered, so that nothing of them can be read.
    pub masked_paths: Vec<ContainerPath>,
    /// Made read-only.
    pub readonly_paths: Vec<ContainerPath>,
    /// System call filter.
    pub seccomp: SeccompProfile,
}

/// CRI `ContainerConfig`, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Name in the pod.
    pub metadata: ContainerMetadata,
    /// The image as named.
    pub image: ImageRequest,
    /// Replaces the image's entrypoint when not empty.
    pub command: Vec<String>,
    /// Replaces the image's command when not empty.
    pub args: Vec<String>,
    /// `None`: the image's.
    pub working_dir: Option<ContainerPath>,
    /// Added to the image's; the last of equal keys counts.
    pub envs: Vec<EnvVar>,
    /// In the order of the request.
    pub mounts: Vec<Mount>,
    /// Returned byte for byte; steer nothing.
    pub labels: BTreeMap<String, String>,
    /// Returned byte for byte; steer nothing.
    pub annotations: BTreeMap<String, String>,
    /// `None`: output is discarded.
    pub log_path: Option<LogPath>,
    /// Keep stdin open.
    pub stdin: bool,
    /// Close stdin when the first attached client goes.
    pub stdin_once: bool,
    /// `None`: the image's, else SIGTERM.
    pub stop_signal: Option<Signal>,
    /// Limits.
    pub resources: LinuxResources,
    /// Who and what it may be.
    pub security: ContainerSecurity,
}

/// What an image says about the containers that are made from it; OCI image specification, `config`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDefaults {
    /// `KEY=value`, in order.
    pub env: Vec<String>,
    /// `Entrypoint`
    pub entrypoint: Vec<String>,
    /// `Cmd`
    pub cmd: Vec<String>,
    /// `User`: `uid`, `name`, `uid:gid`, …; may be empty.
    pub user: String,
    /// `WorkingDir`; may be empty.
    pub working_dir: String,
    /// `StopSignal`
    pub stop_signal: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_would_wrap_are_refused() {
        assert_eq!(parse_unix_id("run_as_user", 65534), Ok(65534));
        for bad in [-1, 2_147_483_648, 4_294_967_296, i64::MAX, i64::MIN] {
            parse_unix_id("run_as_user", bad).expect_err("out of range");
        }
    }

    #[test]
    fn environment_keys() {
        let env = EnvVar::parse("A", b"x=y".to_vec()).expect("usual");
        assert_eq!((env.key.as_str(), env.value.as_str()), ("A", "x=y"));
        for bad in ["", "A=B", "A\0"] {
            EnvVar::parse(bad, Vec::new()).expect_err(bad);
        }
        EnvVar::parse("A", b"a\0b".to_vec()).expect_err("NUL");
        EnvVar::parse("A", vec![0xff]).expect_err("not UTF-8");
    }

    #[test]
    fn pod_is_what_the_pod_says() {
        use {ContainerPid as C, SandboxPid as S};
        assert_eq!(C::Pod.in_pod(S::Pod), C::Pod);
        assert_eq!(C::Pod.in_pod(S::Container), C::Container);
        assert_eq!(C::Pod.in_pod(S::Node), C::Node);
        assert_eq!(C::Container.in_pod(S::Pod), C::Container);
        assert_eq!(C::Node.in_pod(S::Pod), C::Node);
    }

    #[test]
    fn mount_options() {
        let options = ["noexec".to_owned(), "nosuid".to_owned()];
        let parsed = MountOptions::parse("mounts.mount_options", &options).expect("known");
        assert_eq!(parsed, MountOptions { no_exec: true, no_dev: false, no_suid: true });
        MountOptions::parse("mounts.mount_options", &["exec".to_owned()]).expect_err("unknown");
    }
}
