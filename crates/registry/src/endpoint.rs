//! Where a repository's images may come from: mirrors, then the registry itself.

use std::collections::BTreeMap;
use std::path::PathBuf;

use image::Reference;
use url::Url;

use crate::address::is_loopback;
use crate::client::{RegistrySettings, Shared};

/// Settings by the registries' names in references.
type Registries = BTreeMap<String, RegistrySettings>;

/// Docker's registry, as references name it, where it is, and where it gives tokens.
const HUB: &str = "docker.io";
const HUB_HOST: &str = "registry-1.docker.io";
/// Registries whose tokens are known to come from another host.
const KNOWN_AUTH_HOSTS: [(&str, &str); 2] =
    [(HUB, "auth.docker.io"), ("registry.gitlab.com", "gitlab.com")];

/// A server that speaks the distribution protocol.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// Host and port, for messages.
    pub(crate) name: String,
    /// Base URLs by preference; several only when the scheme has to be found out.
    pub(crate) bases: Vec<Url>,
    /// The registry's name in references, told to mirrors.
    pub(crate) domain: String,
    pub(crate) is_mirror: bool,
    /// It is on this machine, and so may be what it leads to.
    pub(crate) loopback: bool,
    /// Certificate authorities beside the system's.
    pub(crate) ca_files: Vec<PathBuf>,
    /// Token servers on other hosts that may get its credentials.
    auth_hosts: Vec<String>,
}

/// Host and port of a URL, the port only where it is not the usual one.
pub(crate) fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The endpoints for `reference`, in the order in which they are tried.
pub(crate) fn endpoints(reference: &Reference, registries: &Registries) -> Vec<Endpoint> {
    let domain = reference.domain();
    let settings = registries.get(domain).cloned().unwrap_or_default();
    let mirrors = settings.mirrors.iter().map(|url| mirror(domain, url, &settings, registries));
    mirrors.chain(origin(domain, &settings)).collect()
}

/// A mirror that is a registry with settings of its own keeps them.
fn mirror(
    domain: &str,
    url: &Url,
    settings: &RegistrySettings,
    registries: &Registries,
) -> Endpoint {
    let name = host_and_port(url);
    let own = registries.get(&name);
    Endpoint {
        ca_files: own.unwrap_or(settings).ca_files.clone(),
        auth_hosts: own.map(|own| own.auth_hosts.clone()).unwrap_or_default(),
        bases: vec![url.clone()],
        domain: domain.to_owned(),
        is_mirror: true,
        loopback: is_loopback(url),
        name,
    }
}

fn origin(domain: &str, settings: &RegistrySettings) -> Option<Endpoint> {
    let host = if domain == HUB { HUB_HOST } else { domain };
    let base = |scheme: &str| Url::parse(&format!("{scheme}://{host}/")).ok();
    let https = base("https")?;
    let loopback = is_loopback(&https);
    let schemes: &[&str] = match (settings.plain_http, loopback) {
        (true, _) => &["http"],
        (false, true) => &["https", "http"],
        (false, false) => &["https"],
    };
    Some(Endpoint {
        name: host.to_owned(),
        bases: schemes.iter().filter_map(|scheme| base(scheme)).collect(),
        domain: domain.to_owned(),
        is_mirror: false,
        loopback,
        ca_files: settings.ca_files.clone(),
        auth_hosts: settings.auth_hosts.clone(),
    })
}

impl Endpoint {
    /// Under which name credentials for it are kept.
    pub(crate) fn credentials_name(&self) -> &str {
        if self.is_mirror { &self.name } else { &self.domain }
    }

    /// Base URLs, the scheme that worked before alone.
    pub(crate) fn bases(&self, shared: &Shared) -> Vec<Url> {
        match shared.scheme(&self.name).filter(|_| self.has_several_schemes()) {
            Some(scheme) => {
                let known = self.bases.iter().filter(|base| base.scheme() == scheme);
                known.cloned().collect()
            }
            None => self.bases.clone(),
        }
    }

    /// Whether the scheme has to be found out. Only a registry itself has this, so its name says
    /// which one it is.
    pub(crate) fn has_several_schemes(&self) -> bool {
        self.bases.len() > 1
    }

    /// Whether credentials for this endpoint may go to the token server at `realm`.
    pub(crate) fn trusts(&self, realm: &Url) -> bool {
        let own = self.bases.iter().any(|base| base.host() == realm.host());
        let host = realm.host_str().unwrap_or_default();
        let known = KNOWN_AUTH_HOSTS.contains(&(self.domain.as_str(), host)) && !self.is_mirror;
        let name = host_and_port(realm);
        own || known || self.auth_hosts.iter().any(|listed| *listed == name || listed == host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registries(domain: &str, settings: RegistrySettings) -> Registries {
        BTreeMap::from([(domain.to_owned(), settings)])
    }

    fn of(reference: &str, registries: &Registries) -> Vec<Vec<String>> {
        let endpoints = endpoints(&reference.parse().unwrap(), registries);
        let bases = endpoints.iter().map(|e| e.bases.iter().map(Url::to_string).collect());
        bases.collect()
    }

    #[test]
    fn mirrors_come_before_the_registry() {
        let mirrors = ["http://127.0.0.1:5000", "https://m.io/k8s"].map(|url| url.parse().unwrap());
        let settings = RegistrySettings { mirrors: mirrors.to_vec(), ..Default::default() };
        let registries = registries("registry.k8s.io", settings);
        let expected: [&[&str]; 3] =
            [&["http://127.0.0.1:5000/"], &["https://m.io/k8s"], &["https://registry.k8s.io/"]];
        assert_eq!(of("registry.k8s.io/pause", &registries), expected);
        assert_eq!(of("a.io/pause", &registries), [["https://a.io/"]]);
    }

    #[test]
    fn a_mirror_has_settings_of_its_own_or_the_registrys_authorities() {
        let mirrors = ["https://m.io", "https://n.io"].map(|url| url.parse().unwrap()).to_vec();
        let set = |name: &str, mirrors| RegistrySettings {
            mirrors,
            ca_files: vec![name.into()],
            auth_hosts: vec![name.to_owned()],
            plain_http: false,
        };
        let mut registries = registries("a.io", set("a", mirrors));
        registries.insert("m.io".to_owned(), set("m", Vec::new()));
        let endpoints = endpoints(&"a.io/x".parse().unwrap(), &registries);
        let found = endpoints.iter().map(|e| (e.ca_files[0].to_str().unwrap(), &e.auth_hosts[..]));
        let [a, m] = ["a", "m"].map(str::to_owned);
        assert_eq!(found.collect::<Vec<_>>(), [("m", &[m][..]), ("a", &[]), ("a", &[a])]);
    }

    #[test]
    fn http_is_for_loopback_and_what_is_set_so() {
        let none = Registries::new();
        assert_eq!(of("busybox", &none), [["https://registry-1.docker.io/"]]);
        assert_eq!(of("a.io:5000/x", &none), [["https://a.io:5000/"]]);
        let both = [["https://localhost:5000/", "http://localhost:5000/"]];
        assert_eq!(of("localhost:5000/x", &none), both);
        assert_eq!(of("[::1]:5000/x", &none), [["https://[::1]:5000/", "http://[::1]:5000/"]]);
        let plain = RegistrySettings { plain_http: true, ..Default::default() };
        assert_eq!(of("a.io/x", &registries("a.io", plain)), [["http://a.io/"]]);
    }

    #[test]
    fn credentials_go_to_few_token_servers() {
        let trusts = |reference: &str, realm: &str, hosts: &[&str]| {
            let auth_hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
            let settings = RegistrySettings { auth_hosts, ..Default::default() };
            let reference: Reference = reference.parse().unwrap();
            let registries = registries(reference.domain(), settings);
            endpoints(&reference, &registries).remove(0).trusts(&realm.parse().unwrap())
        };
        assert!(trusts("busybox", "https://auth.docker.io/token", &[]));
        assert!(trusts("a.io/x", "https://a.io:5001/token", &[]));
        assert!(trusts("a.io/x", "https://auth.b.io/token", &["auth.b.io"]));
        assert!(trusts("a.io/x", "https://auth.b.io:1/token", &["auth.b.io:1"]));
        assert!(!trusts("a.io/x", "https://auth.b.io:2/token", &["auth.b.io:1"]));
        assert!(!trusts("a.io/x", "https://auth.docker.io/token", &[]));
        assert!(!trusts("a.io/x", "https://auth.a.io/token", &[]));
        assert!(!trusts("a.io/x", "https://a.io.evil.io/token", &[]));
        assert!(!trusts("busybox", "https://docker.io.evil.io/token", &["auth.b.io"]));
    }
}
