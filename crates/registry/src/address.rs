//! Which addresses a registry may lead to.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// How far a registry may lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reach {
    /// Anywhere: what the configuration or a reference names itself.
    Named,
    /// What another host names: no loopback addresses.
    Foreign,
    /// What a registry on this machine names: loopback addresses too.
    ForeignOrLoopback,
}

impl Reach {
    /// Why the address is out of reach.
    fn refusal(self, address: IpAddr) -> Option<&'static str> {
        let address = embedded(address).to_canonical();
        let link_local = match address {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        match self {
            Self::Named => None,
            // Cloud providers hand out credentials there.
            _ if link_local => Some("it is a link-local address"),
            _ if METADATA.contains(&address) => Some("it serves the metadata of a cloud"),
            Self::Foreign if address.is_loopback() || address.is_unspecified() => {
                Some("it is an address of this machine")
            }
            Self::Foreign | Self::ForeignOrLoopback => None,
        }
    }
}

/// Where Amazon and Alibaba serve what others have at a link-local address.
const METADATA: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
];

/// The IPv4 address that NAT64 makes of an address in 64:ff9b::/96 (RFC 6052).
fn embedded(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6)
            if v6.octets().starts_with(&[0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0]) =>
        {
            let [.., a, b, c, d] = v6.octets();
            Ipv4Addr::new(a, b, c, d).into()
        }
        other => other,
    }
}

/// Whether the URL names this machine by a loopback address or as `localhost`.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::from(address).to_canonical().is_loopback(),
        None => false,
    }
}

/// Why a URL is out of reach, as far as the URL tells; [`FilteredResolver`] looks behind names.
pub(crate) fn refusal(url: &Url, reach: Reach) -> Option<&'static str> {
    if !matches!(url.scheme(), "http" | "https") {
        return Some("it is no http URL");
    }
    match url.host() {
        Some(Host::Domain(_)) if is_loopback(url) => reach.refusal(Ipv4Addr::LOCALHOST.into()),
        Some(Host::Domain(_)) => None,
        Some(Host::Ipv4(address)) => reach.refusal(address.into()),
        Some(Host::Ipv6(address)) => reach.refusal(address.into()),
        None => Some("it names no host"),
    }
}

/// Resolves names to addresses within reach.
#[derive(Debug)]
pub(crate) struct FilteredResolver {
    pub(crate) reach: Reach,
    /// Names of proxies, which are set here and may be anywhere.
    pub(crate) proxies: Vec<String>,
}

impl Resolve for FilteredResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let named = self.proxies.iter().any(|proxy| proxy == name.as_str());
        let reach = if named { Reach::Named } else { self.reach };
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> =
                found.filter(|address| reach.refusal(address.ip()).is_none()).collect();
            if allowed.is_empty() {
                return Err(io::Error::other("it resolves to addresses that are refused").into());
            }
            Ok::<Addrs, _>(Box::new(allowed.into_iter()))
        })
    }
}

/// The host in the value of a variable like `https_proxy`, which may lack a scheme.
pub(crate) fn proxy_host(value: &str) -> Option<String> {
    let with_scheme = || Url::parse(&format!("http://{value}"));
    let url = Url::parse(value).ok().filter(Url::has_host);
    let url = url.or_else(|| with_scheme().ok())?;
    url.host_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_reach_is_refused() {
        let refused = |url: &str, reach| refusal(&Url::parse(url).unwrap(), reach).is_some();
        for url in [
            "http://127.0.0.1:5000/",
            "http://localhost/",
            "http://a.localhost/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://0.0.0.0/",
        ] {
            assert!(refused(url, Reach::Foreign), "{url}");
            assert!(!refused(url, Reach::ForeignOrLoopback), "{url}");
            assert!(!refused(url, Reach::Named), "{url}");
        }
        for url in [
            "http://169.254.169.254/",
            "http://[fe80::1]/",
            "http://[::ffff:169.254.1.1]/",
            "http://[64:ff9b::a9fe:a9fe]/",
            "http://[fd00:ec2::254]/",
            "http://100.100.100.200/",
        ] {
            assert!(refused(url, Reach::Foreign), "{url}");
            assert!(refused(url, Reach::ForeignOrLoopback), "{url}");
        }
        assert!(refused("ftp://example.com/", Reach::Named));
        assert!(!refused("https://10.0.0.1/", Reach::Foreign));
        assert!(!refused("https://example.com/", Reach::Foreign));
    }

    #[tokio::test]
    async fn names_are_looked_behind() {
        let resolves = async |reach, proxies: &[&str]| {
            let proxies = proxies.iter().map(|name| (*name).to_owned()).collect();
            let resolver = FilteredResolver { reach, proxies };
            resolver.resolve("localhost".parse().unwrap()).await.is_ok()
        };
        assert!(!resolves(Reach::Foreign, &[]).await);
        assert!(!resolves(Reach::Foreign, &["proxy.example"]).await);
        assert!(resolves(Reach::Foreign, &["localhost"]).await);
        assert!(resolves(Reach::ForeignOrLoopback, &[]).await);
        assert!(resolves(Reach::Named, &[]).await);
    }

    #[test]
    fn proxies_are_written_in_two_ways() {
        for (value, expected) in [
            ("http://user:secret@proxy.example:3128/", Some("proxy.example")),
            ("socks5://10.0.0.1:1080", Some("10.0.0.1")),
            ("localhost:3128", Some("localhost")),
            ("proxy.example", Some("proxy.example")),
            ("", None),
            (":", None),
        ] {
            assert_eq!(proxy_host(value).as_deref(), expected, "{value}");
        }
    }
}
