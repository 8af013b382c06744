//! Where a repository's images may come from: mirrors, then the registry itself.

use image::Reference;
use url::Url;

use crate::address::is_loopback;
use crate::client::{RegistrySettings, Shared};

/// Docker's registry, as references name it, where it is, and where it gives tokens.
const HUB: &str = "docker.io";
const HUB_HOST: &str = "registry-1.docker.io";
const HUB_AUTH_HOST: &str = "auth.docker.io";

/// A server that speaks the distribution protocol.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// Host and port, for messages and as the key of what is remembered.
    pub(crate) name: String,
    /// Base URLs by preference; several only when the scheme has to be found out.
    pub(crate) bases: Vec<Url>,
    /// The registry's name in references, told to mirrors.
    pub(crate) domain: String,
    pub(crate) is_mirror: bool,
    /// It is on this machine, and so may be what it leads to.
    pub(crate) loopback: bool,
}

/// Host and port of a URL, the port only where it is not the usual one.
pub(crate) fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The endpoints for `reference`, in the order in which they are tried.
pub(crate) fn endpoints(reference: &Reference, settings: &RegistrySettings) -> Vec<Endpoint> {
    let domain = reference.domain();
    let mirrors = settings.mirrors.iter().map(|url| Endpoint {
        name: host_and_port(url),
        bases: vec![url.clone()],
        domain: domain.to_owned(),
        is_mirror: true,
        loopback: is_loopback(url),
    });
    mirrors.chain(origin(domain, settings.plain_http)).collect()
}

fn origin(domain: &str, plain_http: bool) -> Option<Endpoint> {
    let host = if domain == HUB { HUB_HOST } else { domain };
    let base = |scheme: &str| Url::parse(&format!("{scheme}://{host}/")).ok();
    let https = base("https")?;
    let loopback = is_loopback(&https);
    let schemes: &[&str] = match (plain_http, loopback) {
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
    })
}

impl Endpoint {
    /// Under which name credentials for it are kept.
    pub(crate) fn credentials_name(&self) -> &str {
        if self.is_mirror { &self.name } else { &self.domain }
    }

    /// Base URLs, the scheme that worked before alone.
    pub(crate) fn bases(&self, shared: &Shared) -> Vec<Url> {
        match shared.scheme(&self.name) {
            Some(scheme) => {
                let known = self.bases.iter().filter(|base| base.scheme() == scheme);
                known.cloned().collect()
            }
            None => self.bases.clone(),
        }
    }

    /// Whether credentials for this endpoint may go to the token server at `realm`.
    pub(crate) fn trusts(&self, realm: &Url, auth_hosts: &[String]) -> bool {
        let own = self.bases.iter().any(|base| base.host() == realm.host());
        let host = realm.host_str().unwrap_or_default();
        let hub = !self.is_mirror && self.domain == HUB && host == HUB_AUTH_HOST;
        let name = host_and_port(realm);
        let listed = auth_hosts.iter().any(|listed| *listed == name || listed == host);
        own || hub || (!self.is_mirror && listed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(reference: &str, settings: &RegistrySettings) -> Vec<Vec<String>> {
        let endpoints = endpoints(&reference.parse().unwrap(), settings);
        let bases = endpoints.iter().map(|e| e.bases.iter().map(Url::to_string).collect());
        bases.collect()
    }

    #[test]
    fn mirrors_come_before_the_registry() {
        let mirrors = ["http://127.0.0.1:5000", "https://m.io/k8s"].map(|url| url.parse().unwrap());
        let settings = RegistrySettings { mirrors: mirrors.to_vec(), ..Default::default() };
        let expected: [&[&str]; 3] =
            [&["http://127.0.0.1:5000/"], &["https://m.io/k8s"], &["https://registry.k8s.io/"]];
        assert_eq!(of("registry.k8s.io/pause", &settings), expected);
    }

    #[test]
    fn http_is_for_loopback_and_what_is_set_so() {
        let none = RegistrySettings::default();
        assert_eq!(of("busybox", &none), [["https://registry-1.docker.io/"]]);
        assert_eq!(of("a.io:5000/x", &none), [["https://a.io:5000/"]]);
        let both = [["https://localhost:5000/", "http://localhost:5000/"]];
        assert_eq!(of("localhost:5000/x", &none), both);
        assert_eq!(of("[::1]:5000/x", &none), [["https://[::1]:5000/", "http://[::1]:5000/"]]);
        let plain = RegistrySettings { plain_http: true, ..Default::default() };
        assert_eq!(of("a.io/x", &plain), [["http://a.io/"]]);
    }

    #[test]
    fn credentials_go_to_few_token_servers() {
        let endpoint = |reference: &str| {
            endpoints(&reference.parse().unwrap(), &RegistrySettings::default()).remove(0)
        };
        let trusts = |reference: &str, realm: &str, hosts: &[&str]| {
            let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
            endpoint(reference).trusts(&realm.parse().unwrap(), &hosts)
        };
        assert!(trusts("busybox", "https://auth.docker.io/token", &[]));
        assert!(trusts("a.io/x", "https://a.io:5001/token", &[]));
        assert!(trusts("a.io/x", "https://auth.b.io/token", &["auth.b.io"]));
        assert!(!trusts("a.io/x", "https://auth.docker.io/token", &[]));
        assert!(!trusts("a.io/x", "https://auth.a.io/token", &[]));
        assert!(!trusts("a.io/x", "https://a.io.evil.io/token", &[]));
        assert!(!trusts("busybox", "https://docker.io.evil.io/token", &["auth.b.io"]));
    }
}
