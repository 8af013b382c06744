use model::{NamespaceMode, NetworkMode, SandboxPid};

use super::*;

const PLAIN: HostTraits = HostTraits { selinux: false };

fn usual() -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: "web".to_owned(),
            uid: "6f1c".to_owned(),
            namespace: "default".to_owned(),
            attempt: 2,
        }),
        ..Default::default()
    }
}

fn parsed(change: impl FnOnce(&mut cri::PodSandboxConfig)) -> Result<SandboxConfig, EngineError> {
    let mut config = usual();
    change(&mut config);
    let request =
        cri::RunPodSandboxRequest { config: Some(config), runtime_handler: "usnea".to_owned() };
    sandbox_config(request, PLAIN)
}

#[track_caller]
fn assert_invalid(field: &str, change: impl FnOnce(&mut cri::PodSandboxConfig)) {
    let error = parsed(change).expect_err("refused");
    let EngineError::Invalid(invalid) = error else { panic!("{error:?}") };
    assert_eq!(invalid.field, field);
}

fn linux(config: &mut cri::PodSandboxConfig) -> &mut cri::LinuxPodSandboxConfig {
    config.linux.get_or_insert_default()
}

fn security(config: &mut cri::PodSandboxConfig) -> &mut cri::LinuxSandboxSecurityContext {
    linux(config).security_context.get_or_insert_default()
}

/// C10, C11
#[test]
fn metadata_is_enough() {
    let config = parsed(|_| ()).expect("usual");
    assert_eq!(config.metadata.to_string(), "default/web (6f1c, attempt 2)");
    assert_eq!(config.runtime_handler, "usnea");
    assert_eq!((config.hostname, config.log_directory, config.dns), (None, None, None));
    assert_eq!(config.namespaces.network, NetworkMode::Pod);
    assert_eq!(config.namespaces.ipc, NamespaceMode::Pod);
    assert_eq!(config.namespaces.pid, SandboxPid::Pod);
}

#[test]
fn every_field_is_taken_over() {
    let config = parsed(|config| {
        config.hostname = "web-0".to_owned();
        config.log_directory = "/var/log/pods/x".to_owned();
        config.dns_config = Some(cri::DnsConfig {
            servers: vec!["10.0.0.10".to_owned()],
            searches: vec!["svc".to_owned()],
            options: vec!["ndots:5".to_owned()],
        });
        config.labels = [("app".to_owned(), "web".to_owned())].into();
        config.annotations = [("note".to_owned(), "x".to_owned())].into();
        linux(config).cgroup_parent = "/kubepods/pod6f1c".to_owned();
        linux(config).sysctls = [("net/core/somaxconn".to_owned(), "9".to_owned())].into();
        let resources = cri::LinuxContainerResources { cpu_shares: 7, ..Default::default() };
        linux(config).overhead = Some(resources.clone());
        linux(config).resources = Some(resources);
        security(config).privileged = true;
    })
    .expect("usual");
    assert_eq!(config.hostname.expect("given").as_str(), "web-0");
    assert_eq!(config.log_directory.expect("given").to_string(), "/var/log/pods/x");
    let dns = config.dns.expect("given");
    assert_eq!(
        (&*dns.servers[0], &*dns.searches[0], &*dns.options[0]),
        ("10.0.0.10", "svc", "ndots:5")
    );
    assert_eq!((&*config.labels["app"], &*config.annotations["note"]), ("web", "x"));
    assert_eq!(config.cgroup_parent.expect("given").to_string(), "/kubepods/pod6f1c");
    assert_eq!(config.sysctls[0].key, "net.core.somaxconn");
    assert_eq!(config.overhead.expect("given").cpu_shares, 7);
    assert_eq!(config.resources.expect("given").cpu_shares, 7);
    assert!(config.privileged);
}

#[test]
fn metadata_must_be_whole_and_harmless() {
    assert_invalid("config.metadata", |config| config.metadata = None);
    for bad in ["", "a/b", "..", "a\nb", "a\0"] {
        assert_invalid("config.metadata.name", |config| {
            config.metadata.get_or_insert_default().name = bad.to_owned();
        });
        assert_invalid("config.metadata.uid", |config| {
            config.metadata.get_or_insert_default().uid = bad.to_owned();
        });
        assert_invalid("config.metadata.namespace", |config| {
            config.metadata.get_or_insert_default().namespace = bad.to_owned();
        });
    }
}

#[test]
fn handlers_and_a_missing_config() {
    for good in ["", "usnea"] {
        let runtime_handler = good.to_owned();
        let request = cri::RunPodSandboxRequest { config: Some(usual()), runtime_handler };
        assert_eq!(sandbox_config(request, PLAIN).expect("known").runtime_handler, good);
    }
    let runtime_handler = "runc".to_owned();
    let request = cri::RunPodSandboxRequest { config: Some(usual()), runtime_handler };
    sandbox_config(request, PLAIN).expect_err("unknown handler");
    sandbox_config(cri::RunPodSandboxRequest::default(), PLAIN).expect_err("no config");
}

#[test]
fn strings_that_reach_the_kernel_or_the_disk() {
    assert_invalid("config.hostname", |config| config.hostname = "a".repeat(65));
    assert_invalid("config.hostname", |config| config.hostname = "a_b".to_owned());
    assert_invalid("config.log_directory", |config| config.log_directory = "logs".to_owned());
    for bad in ["/a/../b", "kubepods.slice", "/a\0"] {
        assert_invalid("config.linux.cgroup_parent", |config| {
            linux(config).cgroup_parent = bad.to_owned();
        });
    }
    assert_invalid("config.dns_config.servers", |config| {
        let servers = vec!["10.0.0.10\nnameserver 1.1.1.1".to_owned()];
        config.dns_config = Some(cri::DnsConfig { servers, ..Default::default() });
    });
    assert_invalid("config.linux.resources.cpu_quota", |config| {
        let resources = cri::LinuxContainerResources { cpu_quota: -2, ..Default::default() };
        linux(config).resources = Some(resources);
    });
}

/// R22
#[test]
fn sysctls_of_the_node_are_refused() {
    let sysctl = |config: &mut cri::PodSandboxConfig, key: &str, value: &str| {
        linux(config).sysctls = [(key.to_owned(), value.to_owned())].into();
    };
    assert_invalid("config.linux.sysctls", |config| sysctl(config, "kernel.core_pattern", "|x"));
    assert_invalid("config.linux.sysctls[kernel.msgmax]", |config| {
        sysctl(config, "kernel.msgmax", "1\nkernel.core_pattern=|x");
    });
    assert_invalid("config.linux.sysctls", |config| {
        sysctl(config, "net.core.somaxconn", "1");
        let network = cri::NamespaceMode::Node.into();
        let options = cri::NamespaceOption { network, ..Default::default() };
        security(config).namespace_options = Some(options);
    });
    assert_invalid("config.linux.sysctls", |config| {
        sysctl(config, "net.core.somaxconn", "1");
        linux(config).sysctls.insert("net/core/somaxconn".to_owned(), "2".to_owned());
    });
}

/// C13
#[test]
fn ports() {
    let mapping = |host_port, container_port, protocol, host_ip: &str| {
        let host_ip = host_ip.to_owned();
        cri::PortMapping { protocol, container_port, host_port, host_ip }
    };
    let with =
        |mapping| move |config: &mut cri::PodSandboxConfig| config.port_mappings = vec![mapping];
    let listed = parsed(with(mapping(0, 80, 0, "10.1.1.1"))).expect("publishes nothing");
    assert_eq!(
        (listed.port_mappings[0].container_port, listed.port_mappings[0].host_port),
        (80, 0)
    );
    let twice = parsed(|config| config.port_mappings = vec![mapping(0, 80, 0, ""); 2]);
    assert_eq!(twice.expect("one port").port_mappings.len(), 1);
    for (field, bad) in [
        ("host_port", mapping(8080, 80, 0, "")),
        ("host_port", mapping(65536, 80, 0, "")),
        ("host_port", mapping(-1, 80, 0, "")),
        ("container_port", mapping(0, 0, 0, "")),
        ("container_port", mapping(0, 65536, 0, "")),
        ("protocol", mapping(0, 80, 3, "")),
        ("host_ip", mapping(0, 80, 0, "localhost")),
    ] {
        assert_invalid(&format!("config.port_mappings[0].{field}"), with(bad));
    }
}

/// C12: a pod that only has `runAsGroup` reaches the runtime like this.
#[test]
fn what_concerns_a_process_of_the_sandbox_is_ignored() {
    let config = parsed(|config| {
        let security = security(config);
        security.run_as_group = Some(cri::Int64Value { value: 1000 });
        security.readonly_rootfs = true;
        security.supplemental_groups = vec![-1];
        let localhost = cri::security_profile::ProfileType::Localhost.into();
        security.seccomp =
            Some(cri::SecurityProfile { profile_type: localhost, localhost_ref: String::new() });
    });
    assert_eq!(config.expect("ignored"), parsed(|_| ()).expect("usual"));
}

#[test]
fn selinux_windows_and_user_namespaces() {
    let labelled = |config: &mut cri::PodSandboxConfig| {
        let options = cri::SeLinuxOption { level: "s0".to_owned(), ..Default::default() };
        security(config).selinux_options = Some(options);
    };
    parsed(labelled).expect("ignored without SELinux");
    let mut config = usual();
    labelled(&mut config);
    let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    let error = sandbox_config(request, HostTraits { selinux: true }).expect_err("with SELinux");
    assert!(matches!(error, EngineError::Precondition { .. }), "{error:?}");

    parsed(|config| config.windows = Some(cri::WindowsPodSandboxConfig::default())).expect("empty");
    assert_invalid("config.windows", |config| {
        let security_context = Some(cri::WindowsSandboxSecurityContext::default());
        config.windows = Some(cri::WindowsPodSandboxConfig { security_context });
    });
    assert_invalid(
        "config.linux.security_context.namespace_options.userns_options.mode",
        |config| {
            let userns = Some(cri::UserNamespace::default());
            let options = cri::NamespaceOption { userns_options: userns, ..Default::default() };
            security(config).namespace_options = Some(options);
        },
    );
}

#[test]
fn a_claim_says_who_and_whether_privileged() {
    let mut config = usual();
    security(&mut config).privileged = true;
    let claim = sandbox_claim(config).expect("usual");
    assert_eq!((claim.metadata.uid.as_str(), claim.privileged), ("6f1c", true));
    assert!(!sandbox_claim(usual()).expect("usual").privileged);
    let error = sandbox_claim(cri::PodSandboxConfig::default()).expect_err("no metadata");
    assert_eq!(error.field, "sandbox_config.metadata");
}
