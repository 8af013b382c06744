//! Requests for tests: what crictl sends at least.

use std::{collections::BTreeMap, path::PathBuf};

use model::{
    CapabilityRequest, ContainerConfig, ContainerId, ContainerMetadata, ContainerPath,
    ContainerPid, ContainerSecurity, GroupPolicy, HostPath, ImageDefaults, ImageRequest,
    LinuxResources, Mount, MountOptions, MountPropagation, MountSource, NamespaceMode, NetworkMode,
    ResolvedUser, SandboxConfig, SandboxMetadata, SandboxNamespaces, SandboxPid, SeccompProfile,
};
use oci_spec::runtime::{LinuxSeccomp, Spec};

use crate::{HostFacts, Inputs, PodFiles, SpecError, generate};

pub(crate) fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}

pub(crate) fn user() -> ResolvedUser {
    ResolvedUser { uid: 1000, gid: 1001, additional_gids: vec![1001, 50], home: "/home/app".into() }
}

pub(crate) fn image() -> ImageDefaults {
    ImageDefaults { entrypoint: strings(&["/entry"]), ..ImageDefaults::default() }
}

pub(crate) fn config() -> ContainerConfig {
    ContainerConfig {
        metadata: ContainerMetadata { name: "c".to_owned(), attempt: 0 },
        image: ImageRequest { image: "i".to_owned(), user_specified_image: String::new() },
        command: Vec::new(),
        args: Vec::new(),
        working_dir: None,
        envs: Vec::new(),
        mounts: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        log_path: None,
        stdin: false,
        stdin_once: false,
        stop_signal: None,
        resources: LinuxResources::default(),
        security: ContainerSecurity {
            capabilities: CapabilityRequest::default(),
            privileged: false,
            pid: ContainerPid::Pod,
            run_as: None,
            run_as_group: None,
            supplemental_groups: Vec::new(),
            group_policy: GroupPolicy::Merge,
            readonly_rootfs: false,
            no_new_privs: false,
            masked_paths: Vec::new(),
            readonly_paths: Vec::new(),
            seccomp: SeccompProfile::Unconfined,
        },
    }
}

pub(crate) fn sandbox() -> SandboxConfig {
    SandboxConfig {
        metadata: SandboxMetadata {
            name: "p".to_owned(),
            uid: "u".to_owned(),
            namespace: "n".to_owned(),
            attempt: 0,
        },
        runtime_handler: String::new(),
        hostname: None,
        log_directory: None,
        dns: None,
        port_mappings: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        cgroup_parent: None,
        sysctls: Vec::new(),
        namespaces: SandboxNamespaces {
            network: NetworkMode::Pod,
            ipc: NamespaceMode::Pod,
            pid: SandboxPid::Pod,
            names_user_namespace: false,
        },
        privileged: false,
        overhead: None,
        resources: None,
    }
}

pub(crate) fn mount(target: &str) -> Mount {
    Mount {
        container_path: ContainerPath::parse("container_path", target).expect("valid target"),
        container_path_as_given: target.to_owned(),
        source: MountSource::Host(HostPath::parse("host_path", "/srv/data").expect("absolute")),
        readonly: false,
        recursive_read_only: false,
        propagation: MountPropagation::Private,
        options: MountOptions::default(),
        selinux_relabel: false,
    }
}

/// Everything that a specification is made of, to be changed by a test.
pub(crate) struct Case {
    pub(crate) config: ContainerConfig,
    pub(crate) sandbox: SandboxConfig,
    pub(crate) image: ImageDefaults,
    pub(crate) user: ResolvedUser,
    pub(crate) seccomp: Option<LinuxSeccomp>,
    pub(crate) host: HostFacts,
}

impl Case {
    pub(crate) fn new() -> Self {
        let host = HostFacts {
            network_is_hosts: false,
            cgroup_namespace: true,
            has_mqueue: true,
            mapped_uids: 65_536,
            mapped_gids: 65_536,
            lowest_oom_score_adj: 0,
        };
        let (config, sandbox) = (config(), sandbox());
        Self { config, sandbox, image: image(), user: user(), seccomp: None, host }
    }

    pub(crate) fn spec(&self) -> Spec {
        self.try_spec().expect("a specification")
    }

    pub(crate) fn try_spec(&self) -> Result<Spec, SpecError> {
        let pod_file = |name: &str| PathBuf::from("/run/pod").join(name);
        generate(&Inputs {
            container_id: &ContainerId::from_random([7; 32]),
            config: &self.config,
            sandbox: &self.sandbox,
            image: &self.image,
            user: &self.user,
            hostname: "web-0",
            rootfs: "/run/rootfs".as_ref(),
            image_mounts: "/run/images".as_ref(),
            pod_files: &PodFiles {
                hostname: pod_file("hostname"),
                hosts: pod_file("hosts"),
                resolv_conf: pod_file("resolv.conf"),
                shm: pod_file("shm"),
            },
            seccomp: self.seccomp.clone(),
            host: &self.host,
        })
    }
}
