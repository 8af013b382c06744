//! CRI `PodSandboxConfig`, checked.

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{CgroupPath, HostPath, InvalidField, LinuxResources, check_name};

/// Which pod this is, and the how-manieth sandbox of it; CRI `PodSandboxMetadata`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SandboxMetadata {
    /// Name of the pod.
    pub name: String,
    /// Uid of the pod.
    pub uid: String,
    /// Namespace of the pod, in the sense of Kubernetes.
    pub namespace: String,
    /// Counts sandboxes of one pod.
    pub attempt: u32,
}

/// What two live sandboxes never have in common.
pub type SandboxKey = SandboxMetadata;

impl SandboxMetadata {
    /// Checks the three names.
    ///
    /// # Errors
    /// When one is empty or could be mistaken for a path.
    pub fn checked(self) -> Result<Self, InvalidField> {
        check_name("metadata.name", &self.name)?;
        check_name("metadata.uid", &self.uid)?;
        check_name("metadata.namespace", &self.namespace)?;
        Ok(self)
    }
}

/// A host name by RFC 1123, at most 64 bytes as `sethostname(2)` takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hostname(String);

impl Hostname {
    /// Checks a host name.
    ///
    /// # Errors
    /// When it is empty, too long, or not made of labels of letters, digits and inner `-`.
    pub fn parse(field: &str, text: &str) -> Result<Self, InvalidField> {
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if text.len() > 64 {
            return Err(InvalidField::new(field, text, "is longer than 64 bytes"));
        }
        if !text.split('.').all(is_label) {
            let reason = "is no host name by RFC 1123: labels of letters, digits and inner `-`";
            return Err(InvalidField::new(field, text, reason));
        }
        Ok(Self(text.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// CRI `DNSConfig`: the whole content of a pod's `resolv.conf(5)`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// Name servers, in order.
    pub servers: Vec<String>,
    /// Search list.
    pub searches: Vec<String>,
    /// Resolver options, such as `ndots:5`.
    pub options: Vec<String>,
}

impl DnsConfig {
    /// Checks that no entry can begin a second line.
    ///
    /// # Errors
    /// When a server is no address, or an entry is empty or contains white space or control characters.
    pub fn checked(self) -> Result<Self, InvalidField> {
        for server in &self.servers {
            // A scope (`fe80::1%eth0`) is resolv.conf's own extension.
            let address = server.split('%').next().unwrap_or_default();
            if address.parse::<IpAddr>().is_err() {
                return Err(InvalidField::new("dns_config.servers", server, "is no IP address"));
            }
        }
        let lists = [
            ("dns_config.servers", &self.servers),
            ("dns_config.searches", &self.searches),
            ("dns_config.options", &self.options),
        ];
        for (field, list) in lists {
            if let Some(bad) = list.iter().find(|entry| !is_word(entry)) {
                let reason = "is empty or contains white space or control characters";
                return Err(InvalidField::new(field, bad, reason));
            }
        }
        Ok(self)
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// CRI `Protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// CRI `PortMapping`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortMapping {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port in the pod, 1 to 65535.
    pub container_port: u16,
    /// Port on the host; 0 publishes nothing.
    pub host_port: u16,
    /// Address on the host; `None` is every address.
    pub host_ip: Option<IpAddr>,
}

/// Whose network a pod uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    /// Its own network namespace.
    Pod,
    /// The host's.
    Node,
}

/// Whose IPC namespace a pod uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// Its own.
    Pod,
    /// The node's.
    Node,
}

/// Whose PID namespace the containers of a pod use unless they say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxPid {
    /// One for all containers of the pod.
    Pod,
    /// Each its own.
    Container,
    /// The node's.
    Node,
}

/// CRI `NamespaceOption` of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxNamespaces {
    /// CRI `network`.
    pub network: NetworkMode,
    /// CRI `ipc`.
    pub ipc: NamespaceMode,
    /// CRI `pid`.
    pub pid: SandboxPid,
    /// CRI `userns_options` was given. It can only have said the node's; a status repeats it if it was said.
    #[serde(default)]
    pub names_user_namespace: bool,
}

/// A checked sysctl: dotted key in a namespace that the pod owns, and a value of one line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Sysctl {
    /// Such as `net.core.somaxconn`.
    pub key: String,
    /// What is written.
    pub value: String,
}

impl Sysctl {
    /// Checks one entry of CRI `sysctls` against the namespaces that the pod has for itself.
    ///
    /// # Errors
    /// When the key is malformed, not namespaced or belongs to a namespace of the node; when the value has more than
    /// one line.
    pub fn parse(
        key: &str,
        value: &str,
        namespaces: SandboxNamespaces,
    ) -> Result<Self, InvalidField> {
        const FIELD: &str = "linux.sysctls";
        let refuse = |reason: &str| Err(InvalidField::new(FIELD, key, reason));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
        let dotted = key.replace('/', ".");
        if !key.chars().all(plain) || dotted.split('.').any(str::is_empty) {
            return refuse("is no sysctl name");
        }
        if value.contains(['\n', '\0']) {
            let reason = "contains a line break or NUL";
            return Err(InvalidField::new(format!("{FIELD}[{key}]"), value, reason));
        }
        match owner(&dotted) {
            None => refuse(
                "belongs to no namespace of the pod; only net.*, IPC and fs.mqueue.* keys do",
            ),
            Some(Owner::Network) if namespaces.network == NetworkMode::Node => {
                refuse("belongs to the node's network namespace, which this pod uses")
            }
            Some(Owner::Ipc) if namespaces.ipc == NamespaceMode::Node => {
                refuse("belongs to the node's IPC namespace, which this pod uses")
            }
            Some(_) => Ok(Self { key: dotted, value: value.to_owned() }),
        }
    }
}

enum Owner {
    Network,
    Ipc,
    Uts,
}

/// Source: `namespaces(7)`, `sysctl/kernel` and `sysctl/net` of the kernel documentation.
fn owner(key: &str) -> Option<Owner> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    match key {
        _ if key.starts_with("net.") => Some(Owner::Network),
        _ if IPC.contains(&key) || key.starts_with("fs.mqueue.") => Some(Owner::Ipc),
        "kernel.domainname" => Some(Owner::Uts),
        _ => None,
    }
}

/// CRI `PodSandboxConfig`, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// Which pod.
    pub metadata: SandboxMetadata,
    /// CRI `runtime_handler`, as requested.
    pub runtime_handler: String,
    /// `None`: the beginning of the id.
    pub hostname: Option<Hostname>,
    /// Where container logs go; `None`: nowhere.
    pub log_directory: Option<HostPath>,
    /// `None`: the node's `resolv.conf`.
    pub dns: Option<DnsConfig>,
    /// What is published on the host.
    pub port_mappings: Vec<PortMapping>,
    /// Returned byte for byte; steer nothing.
    pub labels: BTreeMap<String, String>,
    /// Returned byte for byte; steer nothing.
    pub annotations: BTreeMap<String, String>,
    /// `None`: `/usnea/<id>`.
    pub cgroup_parent: Option<CgroupPath>,
    /// By key.
    pub sysctls: Vec<Sysctl>,
    /// Whose namespaces.
    pub namespaces: SandboxNamespaces,
    /// Its containers may be privileged.
    pub privileged: bool,
    /// CRI `overhead`, stored and shown.
    pub overhead: Option<LinuxResources>,
    /// CRI `resources`, stored and shown.
    pub resources: Option<LinuxResources>,
}

impl SandboxConfig {
    /// The file that a container of this pod logs to, for display; `None` without a log directory.
    #[must_use]
    pub fn log_file(&self, log_path: &Path) -> Option<PathBuf> {
        self.log_directory.as_ref().map(|directory| directory.as_path().join(log_path))
    }
}

impl fmt::Display for SandboxMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} ({}, attempt {})", self.namespace, self.name, self.uid, self.attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: SandboxNamespaces = SandboxNamespaces {
        network: NetworkMode::Pod,
        ipc: NamespaceMode::Pod,
        pid: SandboxPid::Container,
        names_user_namespace: false,
    };

    #[test]
    fn hostnames() {
        for good in ["a", "web-0", "web-0.default.svc", "1a"] {
            Hostname::parse("hostname", good).expect(good);
        }
        let long = format!("{}.b", "a".repeat(63));
        for bad in ["", "-a", "a-", "a..b", "a_b", "a b", "a\n", &"a".repeat(64), &long] {
            Hostname::parse("hostname", bad).expect_err(bad);
        }
    }

    #[test]
    fn sysctls_stay_in_the_pods_namespaces() {
        for good in [
            "net.core.somaxconn",
            "net/ipv4/ip_local_port_range",
            "kernel.msgmax",
            "fs.mqueue.msg_max",
        ] {
            Sysctl::parse(good, "1", OWN).expect(good);
        }
        for bad in [
            "kernel.core_pattern",
            "vm.swappiness",
            "net",
            "../net.x",
            "net..x",
            "",
            "kernel.hostname",
        ] {
            Sysctl::parse(bad, "1", OWN).expect_err(bad);
        }
        Sysctl::parse("kernel.shm_rmid_forced", "1\nx", OWN).expect_err("two lines");
        let node =
            SandboxNamespaces { network: NetworkMode::Node, ipc: NamespaceMode::Node, ..OWN };
        Sysctl::parse("net.core.somaxconn", "1", node).expect_err("node's network");
        Sysctl::parse("kernel.msgmax", "1", node).expect_err("node's ipc");
    }

    #[test]
    fn dns_entries_stay_on_their_line() {
        let dns = |server: &str, search: &str| {
            let (servers, searches) = (vec![server.to_owned()], vec![search.to_owned()]);
            DnsConfig { servers, searches, options: Vec::new() }.checked()
        };
        dns("10.0.0.10", "svc.cluster.local").expect("usual");
        dns("fe80::1%eth0", ".").expect("scoped");
        dns("dns.example", "a").expect_err("no address");
        dns("10.0.0.10", "a\nnameserver 1.1.1.1").expect_err("second line");
        dns("10.0.0.10", "").expect_err("empty");
    }
}
