//! Where a request is led, one redirect at a time.

use reqwest::Response;
use reqwest::header::LOCATION;
use url::Url;

use crate::address::{Reach, refusal};

const MAX_REDIRECTS: usize = 5;

/// The places a request has been at.
#[derive(Debug)]
pub(crate) struct Trail {
    visited: Vec<Url>,
    /// Whether the request has been led to another server. Who was elsewhere stays a stranger,
    /// even when led back: another server has chosen the URL.
    strayed: bool,
}

/// A redirect that is not followed.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) target: Url,
    pub(crate) reason: &'static str,
}

impl Trail {
    pub(crate) fn new(start: Url) -> Self {
        Self { visited: vec![start], strayed: false }
    }

    /// Whether the request is still where it was meant to go, so that authorization may go too.
    pub(crate) fn is_home(&self) -> bool {
        !self.strayed
    }

    /// Follows an answer that is a redirect.
    pub(crate) fn next(
        &mut self,
        response: &Response,
        reach: Reach,
    ) -> Result<Option<Url>, Refused> {
        let moved = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let (true, Some(location)) = (moved, location) else { return Ok(None) };
        self.step(response.url(), location, reach).map(Some)
    }

    fn step(&mut self, from: &Url, location: &str, reach: Reach) -> Result<Url, Refused> {
        let refused = |target: &Url, reason| Err(Refused { target: target.clone(), reason });
        let Ok(target) = from.join(location).map(without_user) else {
            return refused(from, "it is no URL");
        };
        if from.scheme() == "https" && target.scheme() != "https" {
            return refused(&target, "it is not encrypted");
        }
        if let Some(reason) = refusal(&target, reach).filter(|_| !same_origin(&target, from)) {
            return refused(&target, reason);
        }
        if self.visited.contains(&target) {
            return refused(&target, "it leads in a circle");
        }
        if self.visited.len() > MAX_REDIRECTS {
            return refused(&target, "too many redirects");
        }
        self.strayed |= !same_origin(&target, from);
        self.visited.push(target.clone());
        Ok(target)
    }
}

/// A user in a URL would become an authorization that nobody meant.
pub(crate) fn without_user(mut url: Url) -> Url {
    // Both fail only for URLs without a host, which have no user.
    url.set_username("").ok();
    url.set_password(None).ok();
    url
}

/// Whether scheme, host and port are the same.
pub(crate) fn same_origin(one: &Url, other: &Url) -> bool {
    one.origin() == other.origin()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a request ends that is led from `https://a.io/0` to one place after the other.
    fn led(places: &[&str]) -> Result<(String, bool), &'static str> {
        let mut current: Url = "https://a.io/0".parse().unwrap();
        let mut trail = Trail::new(current.clone());
        for place in places {
            let next = trail.step(&current, place, Reach::Foreign);
            current = next.map_err(|refused| refused.reason)?;
        }
        Ok((current.to_string(), trail.is_home()))
    }

    #[test]
    fn only_the_same_scheme_host_and_port_are_home() {
        for (places, expected) in [
            (&["/1?a=%2F"][..], ("https://a.io/1?a=%2F", true)),
            (&["https://a.io:443/1"], ("https://a.io/1", true)),
            (&["https://a.io:444/1"], ("https://a.io:444/1", false)),
            (&["//b.io/1"], ("https://b.io/1", false)),
            (&["https://a.io@b.io/1"], ("https://b.io/1", false)),
            (&["https://u:p@a.io/1"], ("https://a.io/1", true)),
            (&["https://b.io/1", "https://a.io/2"], ("https://a.io/2", false)),
        ] {
            assert_eq!(led(places), Ok((expected.0.to_owned(), expected.1)), "{places:?}");
        }
    }

    #[test]
    fn bad_ways_are_refused() {
        for (places, reason) in [
            (&["http://a.io/1"][..], "it is not encrypted"),
            (&["https://127.0.0.1/1"], "it is an address of this machine"),
            (&["https://169.254.169.254/1"], "it is a link-local address"),
            (&["file:///etc/passwd"], "it is not encrypted"),
            (&["https://"], "it is no URL"),
            (&["/0"], "it leads in a circle"),
            (&["/1", "https://b.io/", "https://a.io/1"], "it leads in a circle"),
            (&["/1", "/2", "/3", "/4", "/5", "/6"], "too many redirects"),
        ] {
            assert_eq!(led(places), Err(reason), "{places:?}");
        }
        assert!(led(&["/1", "/2", "/3", "/4", "/5"]).is_ok());
    }
}
