//! `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf` of a pod.

use std::{fs, io, path::Path};

use model::{DnsConfig, SandboxConfig};

const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
/// Most of the node's `resolv.conf` that is copied; the resolver itself reads far less.
const RESOLV_CONF_MAX_BYTES: usize = 1 << 20;

/// Writes the three files into `directory`.
pub(crate) fn write(directory: &Path, config: &SandboxConfig, hostname: &str) -> io::Result<()> {
    fs::write(directory.join("hostname"), format!("{hostname}\n"))?;
    fs::write(directory.join("hosts"), format!("{HOSTS}127.0.1.1\t{hostname}\n"))?;
    let resolv_conf = match &config.dns {
        Some(dns) => resolv_conf(dns),
        None => nodes_resolv_conf()?,
    };
    fs::write(directory.join("resolv.conf"), resolv_conf)
}

/// Source: `resolv.conf(5)`.
fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    for (keyword, words) in [("search", &dns.searches), ("options", &dns.options)] {
        if !words.is_empty() {
            text.push_str(&format!("{keyword} {}\n", words.join(" ")));
        }
    }
    text
}

/// The node's own file; a node without one has no name servers, and so have its pods.
fn nodes_resolv_conf() -> io::Result<String> {
    match fs::read("/etc/resolv.conf") {
        Ok(mut bytes) => {
            bytes.truncate(RESOLV_CONF_MAX_BYTES);
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_has_exactly_what_was_asked() {
        let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect();
        let dns = DnsConfig {
            servers: words(&["10.0.0.10", "10.0.0.11"]),
            searches: words(&["svc.cluster.local", "cluster.local"]),
            options: words(&["ndots:5"]),
        };
        let expected = "nameserver 10.0.0.10\nnameserver 10.0.0.11\n\
                        search svc.cluster.local cluster.local\noptions ndots:5\n";
        assert_eq!(resolv_conf(&dns), expected);
        assert_eq!(resolv_conf(&DnsConfig::default()), "");
    }
}
