//! Which addresses a registry may lead to.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

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
        let address = address.to_canonical();
        let link_local = match address {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        match self {
            Self::Named => None,
            // Cloud providers hand out credentials there.
            _ if link_local => Some("it is a link-local address"),
            Self::Foreign if address.is_loopback() || address.is_unspecified() => {
                Some("it is an address of this machine")
            }
            Self::Foreign | Self::ForeignOrLoopback => None,
        }
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
pub(crate) struct FilteredResolver(pub(crate) Reach);

impl Resolve for FilteredResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0;
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
        for url in ["http://169.254.169.254/", "http://[fe80::1]/", "http://[::ffff:169.254.1.1]/"]
        {
            assert!(refused(url, Reach::Foreign), "{url}");
            assert!(refused(url, Reach::ForeignOrLoopback), "{url}");
        }
        assert!(refused("ftp://example.com/", Reach::Named));
        assert!(!refused("https://10.0.0.1/", Reach::Foreign));
        assert!(!refused("https://example.com/", Reach::Foreign));
    }
}
