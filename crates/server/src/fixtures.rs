//! Objects as the engine shows them, for tests.

use std::{path::PathBuf, sync::Arc};

use engine::{ContainerView, Image, SandboxView};
use model::{
    CapabilityRequest, ContainerConfig, ContainerId, ContainerImage, ContainerMetadata,
    ContainerPid, ContainerRecord, ContainerSecurity, ContainerState, GroupPolicy, ImageRequest,
    LinuxResources, NamespaceMode, NetworkMode, ResolvedUser, SandboxConfig, SandboxId,
    SandboxMetadata, SandboxNamespaces, SandboxPid, SandboxRecord, SandboxState, SeccompProfile,
    Signal, UnixNanos,
};

/// A sandbox whose id repeats `n`, created at `n`, labelled `app=web`.
pub(crate) fn sandbox(n: u8, state: SandboxState) -> SandboxView {
    let metadata = SandboxMetadata {
        name: "web".to_owned(),
        uid: "6f1c".to_owned(),
        namespace: "default".to_owned(),
        attempt: 0,
    };
    let namespaces = SandboxNamespaces {
        network: NetworkMode::Pod,
        ipc: NamespaceMode::Pod,
        pid: SandboxPid::Container,
        names_user_namespace: false,
    };
    let config = SandboxConfig {
        metadata,
        runtime_handler: "usnea".to_owned(),
        hostname: None,
        log_directory: None,
        dns: None,
        port_mappings: Vec::new(),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        annotations: [].into(),
        cgroup_parent: None,
        sysctls: Vec::new(),
        namespaces,
        privileged: false,
        overhead: None,
        resources: None,
    };
    let record = SandboxRecord {
        id: SandboxId::from_random([n; 32]),
        created_at: UnixNanos(n.into()),
        config,
        state,
        pause_pid: 0,
    };
    SandboxView { record: Arc::new(record), shim_pid: Some(77) }
}

/// A container whose id repeats `n`, created at `n`, in the sandbox whose id repeats `pod`, labelled `app=web`.
pub(crate) fn container(n: u8, pod: u8, state: ContainerState) -> ContainerView {
    let image_ref = format!("docker.io/library/busybox@sha256:{}", "02".repeat(32));
    let record = ContainerRecord {
        id: ContainerId::from_random([n; 32]),
        sandbox_id: SandboxId::from_random([pod; 32]),
        created_at: UnixNanos(n.into()),
        config: container_config(),
        image: ContainerImage {
            id: format!("sha256:{}", "01".repeat(32)),
            image_ref,
            diff_ids: Vec::new(),
        },
        image_volumes: Vec::new(),
        user: ResolvedUser { uid: 1000, gid: 1001, additional_gids: vec![5], home: "/".to_owned() },
        stop_signal: Signal::TERM,
        log_path: PathBuf::from("/var/log/pods/web/main/0.log"),
        cgroup: Some("/usnea/x".to_owned()),
        state,
    };
    ContainerView { record: Arc::new(record), pid: Some(42) }
}

fn container_config() -> ContainerConfig {
    let image = ImageRequest { image: "busybox".to_owned(), user_specified_image: String::new() };
    ContainerConfig {
        metadata: ContainerMetadata { name: "main".to_owned(), attempt: 0 },
        image,
        command: Vec::new(),
        args: Vec::new(),
        working_dir: None,
        envs: Vec::new(),
        mounts: Vec::new(),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        annotations: [].into(),
        log_path: None,
        stdin: false,
        stdin_once: false,
        stop_signal: None,
        resources: LinuxResources { cpu_shares: 7, ..LinuxResources::default() },
        security: container_security(),
    }
}

fn container_security() -> ContainerSecurity {
    ContainerSecurity {
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
    }
}

/// An image whose id repeats `n`, with these names.
pub(crate) fn image(n: u8, repo_tags: &[&str]) -> Image {
    let id = format!("sha256:{}", format!("{n:02x}").repeat(32));
    Image {
        id: id.parse().expect("a digest"),
        repo_tags: repo_tags.iter().map(|&tag| tag.to_owned()).collect(),
        repo_digests: Vec::new(),
        size_bytes: 4096,
        config: Default::default(),
        created: None,
        annotations: [].into(),
        diff_ids: Vec::new(),
        pinned: false,
    }
}
