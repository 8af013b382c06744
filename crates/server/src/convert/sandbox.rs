//! CRI `PodSandboxConfig` → [`SandboxConfig`].

use std::{collections::HashSet, net::IpAddr};

use cri_api::v1 as cri;
use engine::{EngineError, SandboxClaim};
use model::{
    CgroupPath, DnsConfig, HostPath, Hostname, InvalidField, PortMapping, Protocol, SandboxConfig,
    SandboxMetadata, SandboxNamespaces, Sysctl,
};

use super::{
    HostTraits, check_handler, check_selinux, known, namespaces, refuse_windows, required,
    resources, sorted,
};

/// Checks a `RunPodSandboxRequest`.
///
/// # Errors
/// [`EngineError::Invalid`] for the first field that cannot be accepted, [`EngineError::Precondition`] for what
/// this host lacks.
pub(crate) fn sandbox_config(
    request: cri::RunPodSandboxRequest,
    host: HostTraits,
) -> Result<SandboxConfig, EngineError> {
    check_handler("runtime_handler", &request.runtime_handler)?;
    let config = required("config", request.config)?;
    checked(config, request.runtime_handler, host).map_err(in_config)
}

/// Checks what a `CreateContainerRequest` says about its sandbox: who it is and whether containers may be
/// privileged. Everything else was settled when the sandbox was made, and the kubelet only repeats it.
///
/// # Errors
/// When the metadata is missing or malformed.
pub(crate) fn sandbox_claim(config: cri::PodSandboxConfig) -> Result<SandboxClaim, InvalidField> {
    let metadata = metadata(config.metadata).map_err(|e| e.within("sandbox_config"))?;
    let security = config.linux.and_then(|linux| linux.security_context);
    let log_directory = match config.log_directory.as_str() {
        "" => None,
        path => Some(HostPath::parse("sandbox_config.log_directory", path)?),
    };
    let privileged = security.is_some_and(|s| s.privileged);
    Ok(SandboxClaim { metadata, privileged, log_directory })
}

fn in_config(error: EngineError) -> EngineError {
    match error {
        EngineError::Invalid(invalid) => invalid.within("config").into(),
        other => other,
    }
}

fn checked(
    config: cri::PodSandboxConfig,
    runtime_handler: String,
    host: HostTraits,
) -> Result<SandboxConfig, EngineError> {
    let metadata = metadata(config.metadata)?;
    refuse_windows(config.windows.as_ref())?;
    let linux = config.linux.unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    check_selinux(security.selinux_options.as_ref(), host)?;
    // The user, groups, root filesystem, seccomp and apparmor of `security` are for a process of the sandbox's own.
    // The only one is the pause program, which reads and opens nothing; so they are ignored.
    let namespaces = namespaces::of_sandbox(security.namespace_options.as_ref())?;
    Ok(SandboxConfig {
        metadata,
        runtime_handler,
        hostname: given(&config.hostname, |name| Hostname::parse("hostname", name))?,
        log_directory: given(&config.log_directory, |dir| HostPath::parse("log_directory", dir))?,
        dns: config.dns_config.map(dns).transpose()?,
        port_mappings: port_mappings(&config.port_mappings)?,
        labels: sorted(config.labels),
        annotations: sorted(config.annotations),
        cgroup_parent: given(&linux.cgroup_parent, |path| {
            CgroupPath::parse("linux.cgroup_parent", path)
        })?,
        sysctls: sysctls(linux.sysctls.into_iter().collect(), namespaces)?,
        namespaces,
        privileged: security.privileged,
        overhead: recorded("linux.overhead", linux.overhead)?,
        resources: recorded("linux.resources", linux.resources)?,
    })
}

fn metadata(metadata: Option<cri::PodSandboxMetadata>) -> Result<SandboxMetadata, InvalidField> {
    let cri::PodSandboxMetadata { name, uid, namespace, attempt } = required("metadata", metadata)?;
    SandboxMetadata { name, uid, namespace, attempt }.checked()
}

/// An empty string says nothing.
fn given<T>(
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, InvalidField>,
) -> Result<Option<T>, InvalidField> {
    if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
}

fn dns(config: cri::DnsConfig) -> Result<DnsConfig, InvalidField> {
    let cri::DnsConfig { servers, searches, options } = config;
    DnsConfig { servers, searches, options }.checked()
}

/// What is stored and shown must be as well-formed as what is applied.
fn recorded(
    field: &str,
    message: Option<cri::LinuxContainerResources>,
) -> Result<Option<model::LinuxResources>, InvalidField> {
    message.map(|message| resources::from_cri(field, message)).transpose()
}

fn sysctls(
    mut entries: Vec<(String, String)>,
    namespaces: SandboxNamespaces,
) -> Result<Vec<Sysctl>, InvalidField> {
    entries.sort();
    let parsed = entries.iter().map(|(key, value)| Sysctl::parse(key, value, namespaces));
    let parsed = parsed.collect::<Result<Vec<_>, _>>()?;
    // `net/x` and `net.x` are one key, and an order among them cannot be told.
    if let Some(twice) = parsed.windows(2).find(|pair| pair[0].key == pair[1].key) {
        return Err(InvalidField::new("linux.sysctls", &twice[0].key, "is given twice"));
    }
    Ok(parsed)
}

fn port_mappings(mappings: &[cri::PortMapping]) -> Result<Vec<PortMapping>, InvalidField> {
    let mut seen = HashSet::new();
    let mut parsed = Vec::with_capacity(mappings.len());
    for (index, mapping) in mappings.iter().enumerate() {
        let field = format!("port_mappings[{index}]");
        let mapping = port_mapping(mapping).map_err(|e| e.within(&field))?;
        // The kubelet lists a port that two containers expose twice.
        if seen.insert(mapping.clone()) {
            parsed.push(mapping);
        }
    }
    Ok(parsed)
}

fn port_mapping(mapping: &cri::PortMapping) -> Result<PortMapping, InvalidField> {
    let protocol = match known("protocol", mapping.protocol)? {
        cri::Protocol::Tcp => Protocol::Tcp,
        cri::Protocol::Udp => Protocol::Udp,
        cri::Protocol::Sctp => Protocol::Sctp,
    };
    let container_port = port("container_port", mapping.container_port)?;
    if container_port == 0 {
        return Err(InvalidField::new("container_port", "0", "is no port; give 1 to 65535"));
    }
    let host_port = port("host_port", mapping.host_port)?;
    if host_port != 0 {
        let reason = "publishing host ports is not supported yet; leave host_port at 0";
        return Err(InvalidField::new("host_port", host_port.to_string(), reason));
    }
    let host_ip = given(&mapping.host_ip, |text| {
        let address = text.parse::<IpAddr>().ok();
        address.ok_or_else(|| InvalidField::new("host_ip", text, "is no IP address"))
    })?;
    Ok(PortMapping { protocol, container_port, host_port, host_ip })
}

fn port(field: &str, number: i32) -> Result<u16, InvalidField> {
    u16::try_from(number)
        .ok()
        .ok_or_else(|| InvalidField::new(field, number.to_string(), "is no port; give 0 to 65535"))
}

#[cfg(test)]
mod tests;
