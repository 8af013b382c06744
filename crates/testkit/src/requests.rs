//! Requests that read like sentences: `pod("web").hostname("a").config`.

use std::path::Path;

use cri_api::v1::{
    Capability, ContainerConfig, ContainerMetadata, DnsConfig, ImageSpec, Int64Value, KeyValue,
    LinuxContainerConfig, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, Mount, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, SecurityProfile, security_profile::ProfileType,
};

/// A sandbox to be; begins as the kubelet's usual: own network and IPC, one PID namespace per container.
#[derive(Clone, Debug)]
pub struct PodSpec {
    /// What is sent.
    pub config: PodSandboxConfig,
}

/// Starts to describe a pod.
#[must_use]
pub fn pod(name: &str) -> PodSpec {
    let metadata = PodSandboxMetadata {
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        namespace: "default".to_owned(),
        attempt: 0,
    };
    let spec = PodSpec {
        config: PodSandboxConfig { metadata: Some(metadata), ..PodSandboxConfig::default() },
    };
    spec.pid(NamespaceMode::Container)
}

impl PodSpec {
    /// Changes whatever has no method here.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut PodSandboxConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// The how-manieth sandbox of this pod.
    #[must_use]
    pub fn attempt(self, attempt: u32) -> Self {
        self.with(|config| config.metadata.get_or_insert_default().attempt = attempt)
    }

    /// Host name.
    #[must_use]
    pub fn hostname(self, name: &str) -> Self {
        self.with(|config| config.hostname = name.to_owned())
    }

    /// Adds a label.
    #[must_use]
    pub fn label(self, key: &str, value: &str) -> Self {
        self.with(|config| drop(config.labels.insert(key.to_owned(), value.to_owned())))
    }

    /// Where its containers log.
    #[must_use]
    pub fn logs(self, directory: &Path) -> Self {
        self.with(|config| config.log_directory = text(directory))
    }

    /// The content of `resolv.conf`.
    #[must_use]
    pub fn dns(self, servers: &[&str], searches: &[&str], options: &[&str]) -> Self {
        let [servers, searches, options] = [servers, searches, options].map(strings);
        self.with(|config| config.dns_config = Some(DnsConfig { servers, searches, options }))
    }

    /// Adds a sysctl.
    #[must_use]
    pub fn sysctl(self, key: &str, value: &str) -> Self {
        let (key, value) = (key.to_owned(), value.to_owned());
        self.linux(|linux| drop(linux.sysctls.insert(key, value)))
    }

    /// Whose PID namespace.
    #[must_use]
    pub fn pid(self, mode: NamespaceMode) -> Self {
        self.namespaces(|options| options.pid = mode.into())
    }

    /// Whose network namespace.
    #[must_use]
    pub fn network(self, mode: NamespaceMode) -> Self {
        self.namespaces(|options| options.network = mode.into())
    }

    /// Changes the namespace options.
    #[must_use]
    pub fn namespaces(self, change: impl FnOnce(&mut NamespaceOption)) -> Self {
        self.security(|security| change(security.namespace_options.get_or_insert_default()))
    }

    /// Changes the security context.
    #[must_use]
    pub fn security(self, change: impl FnOnce(&mut LinuxSandboxSecurityContext)) -> Self {
        self.linux(|linux| change(linux.security_context.get_or_insert_default()))
    }

    /// Changes the part that is for Linux.
    #[must_use]
    pub fn linux(self, change: impl FnOnce(&mut LinuxPodSandboxConfig)) -> Self {
        self.with(|config| change(config.linux.get_or_insert_default()))
    }
}

/// A container to be.
#[derive(Clone, Debug)]
pub struct ContainerSpec {
    /// What is sent.
    pub config: ContainerConfig,
}

/// Starts to describe a container of `image`, which logs to `<name>.log`.
#[must_use]
pub fn container(name: &str, image: &str) -> ContainerSpec {
    let config = ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() }),
        log_path: format!("{name}.log"),
        ..ContainerConfig::default()
    };
    ContainerSpec { config }
}

impl ContainerSpec {
    /// Changes whatever has no method here.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut ContainerConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// The how-manieth container of this name; it logs to `<name>_<attempt>.log`.
    #[must_use]
    pub fn attempt(self, attempt: u32) -> Self {
        self.with(|config| {
            let metadata = config.metadata.get_or_insert_default();
            metadata.attempt = attempt;
            config.log_path = format!("{}_{attempt}.log", metadata.name);
        })
    }

    /// Replaces the image's entrypoint.
    #[must_use]
    pub fn command(self, argv: &[&str]) -> Self {
        self.with(|config| config.command = strings(argv))
    }

    /// Replaces the image's arguments.
    #[must_use]
    pub fn args(self, args: &[&str]) -> Self {
        self.with(|config| config.args = strings(args))
    }

    /// Runs a shell script.
    #[must_use]
    pub fn script(self, script: &str) -> Self {
        self.command(&["sh", "-c", script])
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(self, key: &str, value: &str) -> Self {
        let variable = KeyValue { key: key.to_owned(), value: value.as_bytes().to_vec() };
        self.with(|config| config.envs.push(variable))
    }

    /// Working directory.
    #[must_use]
    pub fn working_dir(self, path: &str) -> Self {
        self.with(|config| config.working_dir = path.to_owned())
    }

    /// Adds a label.
    #[must_use]
    pub fn label(self, key: &str, value: &str) -> Self {
        self.with(|config| drop(config.labels.insert(key.to_owned(), value.to_owned())))
    }

    /// Adds a writable bind mount.
    #[must_use]
    pub fn mount(self, host_path: &Path, container_path: &str) -> Self {
        self.mount_with(host_path, container_path, |_| {})
    }

    /// Adds a read-only bind mount.
    #[must_use]
    pub fn readonly_mount(self, host_path: &Path, container_path: &str) -> Self {
        self.mount_with(host_path, container_path, |mount| mount.readonly = true)
    }

    /// Adds a bind mount with the options that `change` sets.
    #[must_use]
    pub fn mount_with(
        self,
        host_path: &Path,
        container_path: &str,
        change: impl FnOnce(&mut Mount),
    ) -> Self {
        let mut mount = Mount {
            host_path: text(host_path),
            container_path: container_path.to_owned(),
            ..Mount::default()
        };
        change(&mut mount);
        self.with(|config| config.mounts.push(mount))
    }

    /// User by number.
    #[must_use]
    pub fn user(self, uid: i64) -> Self {
        self.security(|security| security.run_as_user = Some(Int64Value { value: uid }))
    }

    /// Primary group by number.
    #[must_use]
    pub fn group(self, gid: i64) -> Self {
        self.security(|security| security.run_as_group = Some(Int64Value { value: gid }))
    }

    /// Supplementary groups by number.
    #[must_use]
    pub fn groups(self, gids: &[i64]) -> Self {
        self.security(|security| security.supplemental_groups = gids.to_vec())
    }

    /// Adds and drops capabilities.
    #[must_use]
    pub fn capabilities(self, add: &[&str], drop: &[&str]) -> Self {
        let (add_capabilities, drop_capabilities) = (strings(add), strings(drop));
        let change = Capability { add_capabilities, drop_capabilities, ..Capability::default() };
        self.security(|security| security.capabilities = Some(change))
    }

    /// Seccomp profile; `localhost_ref` is for `Localhost`.
    #[must_use]
    pub fn seccomp(self, kind: ProfileType, localhost_ref: &str) -> Self {
        let profile =
            SecurityProfile { profile_type: kind.into(), localhost_ref: localhost_ref.to_owned() };
        self.security(|security| security.seccomp = Some(profile))
    }

    /// Changes the namespace options.
    #[must_use]
    pub fn namespaces(self, change: impl FnOnce(&mut NamespaceOption)) -> Self {
        self.security(|security| change(security.namespace_options.get_or_insert_default()))
    }

    /// Changes the security context.
    #[must_use]
    pub fn security(self, change: impl FnOnce(&mut LinuxContainerSecurityContext)) -> Self {
        self.linux(|linux| change(linux.security_context.get_or_insert_default()))
    }

    /// Changes the part that is for Linux.
    #[must_use]
    pub fn linux(self, change: impl FnOnce(&mut LinuxContainerConfig)) -> Self {
        self.with(|config| change(config.linux.get_or_insert_default()))
    }
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|&item| item.to_owned()).collect()
}

fn text(path: &Path) -> String {
    path.to_str().expect("test paths are UTF-8").to_owned()
}
