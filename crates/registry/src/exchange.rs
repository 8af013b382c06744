//! One request to one endpoint: scheme, redirects and authorization, but no second attempt.

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RANGE, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode};
use url::Url;

use crate::address::{Reach, is_loopback};
use crate::answer::Subject;
use crate::auth::challenge::{self, Challenge};
use crate::auth::{Grant, Grantee};
use crate::client::Shared;
use crate::credentials::Credentials;
use crate::endpoint::{Endpoint, host_and_port};
use crate::error::RegistryError;
use crate::meter::Meter;
use crate::redirect::{Refused, Trail, same_origin};
use crate::transport::Setup;

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Get {
    /// Repository and tag or digest, for messages.
    pub(crate) what: String,
    /// What follows the repository in the URL.
    pub(crate) tail: String,
    /// The header `Accept`.
    pub(crate) accept: Option<&'static str>,
    /// The first byte that is wanted.
    pub(crate) offset: u64,
}

/// An endpoint and everything that decides how it is talked to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchange<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) endpoint: &'a Endpoint,
    /// The repository's path.
    pub(crate) path: &'a str,
    /// For the registry itself.
    pub(crate) credentials: Option<&'a Credentials>,
}

impl Exchange<'_> {
    /// Sends a request and returns a successful answer.
    pub(crate) async fn send(
        &self,
        get: &Get,
        meter: &mut Meter,
    ) -> Result<Response, RegistryError> {
        let mut result = Err(self.protocol(&get.what, "it has no URL"));
        for base in self.endpoint.bases(self.shared) {
            result = self.send_to(&base, get, meter).await;
            self.note_scheme(&base, &result);
            match &result {
                Err(error) if error.is_other_scheme(&host_and_port(&base)) => {}
                _ => break,
            }
        }
        result
    }

    /// Remembers a scheme that works, and forgets it when it works no longer.
    fn note_scheme(&self, base: &Url, result: &Result<Response, RegistryError>) {
        if !self.endpoint.has_several_schemes() {
            return;
        }
        match result {
            Ok(_) => self.shared.remember_scheme(&self.endpoint.name, base.scheme()),
            // A server that expects TLS answers plain requests in one of these ways.
            Err(RegistryError::Connection { .. } | RegistryError::Protocol { .. }) => {
                self.shared.forget_scheme(&self.endpoint.name);
            }
            Err(_) => {}
        }
    }

    async fn send_to(
        &self,
        base: &Url,
        get: &Get,
        meter: &mut Meter,
    ) -> Result<Response, RegistryError> {
        let url = self.url(base, get);
        let known = match self.own_credentials() {
            Some(Credentials::RegistryToken(token)) => Some(Grant::registry_token(token)),
            _ => self.shared.grants.get(&self.grantee(base)),
        };
        let response = self.follow(&url, known.as_ref(), get, meter).await?;
        let challenged =
            response.status() == StatusCode::UNAUTHORIZED && same_origin(response.url(), base);
        let grant = match challenged {
            true => self.authorize(&challenges(response.headers()), base).await?,
            false => None,
        };
        let Some(grant) = grant else {
            return self.success(response, get, known.is_some(), meter).await;
        };
        let followed = self.follow(&url, Some(&grant), get, meter).await;
        let refused = matches!(&followed, Ok(it) if it.status() == StatusCode::UNAUTHORIZED);
        if !refused {
            self.shared.grants.put(self.grantee(base), grant);
        }
        self.success(followed?, get, true, meter).await
    }

    fn url(&self, base: &Url, get: &Get) -> Url {
        let prefix = base.path().trim_end_matches('/');
        let mut url = base.clone();
        // A proxy for several registries has each below a path of its own, such as `/v2/hub`.
        let api = if prefix == "/v2" || prefix.starts_with("/v2/") { "" } else { "/v2" };
        url.set_path(&format!("{prefix}{api}/{}/{}", self.path, get.tail));
        if self.endpoint.is_mirror {
            // As containerd tells a mirror for several registries which one is meant.
            url.query_pairs_mut().append_pair("ns", &self.endpoint.domain);
        }
        url
    }

    /// Sends a request and follows where it leads. Only the endpoint itself sees the authorization.
    async fn follow(
        &self,
        url: &Url,
        grant: Option<&Grant>,
        get: &Get,
        meter: &mut Meter,
    ) -> Result<Response, RegistryError> {
        let mut trail = Trail::new(url.clone());
        let mut current = url.clone();
        loop {
            let client = self.client(&current, trail.is_home())?;
            let mut request = client.get(current.clone()).headers(headers(get));
            if let Some(grant) = grant.filter(|_| trail.is_home()) {
                request = request.header(AUTHORIZATION, self.header(grant)?);
            }
            let name = host_and_port(&current);
            let subject = Subject { registry: &name, what: &get.what };
            let sent = meter.wait(request.send()).await;
            let sent = sent.map_err(|stalled| subject.stalled(stalled))?;
            let response = sent.map_err(|error| subject.connection(error))?;
            let next = trail.next(&response, self.reach());
            match next.map_err(|Refused { target, reason }| self.refused(&target, reason))? {
                Some(target) => current = target,
                None => return Ok(response),
            }
        }
    }

    /// The client for a URL: of what was named to us if `named`, else of what a server leads to.
    pub(crate) fn client(&self, url: &Url, named: bool) -> Result<reqwest::Client, RegistryError> {
        self.shared.transport.client(&Setup {
            ca_files: self.endpoint.ca_files.clone(),
            direct: is_loopback(url),
            reach: if named { Reach::Named } else { self.reach() },
        })
    }

    /// How far this endpoint may lead.
    pub(crate) fn reach(&self) -> Reach {
        if self.endpoint.loopback { Reach::ForeignOrLoopback } else { Reach::Foreign }
    }

    fn grantee(&self, base: &Url) -> Grantee {
        Grantee {
            endpoint: base.clone(),
            path: self.path.to_owned(),
            credentials: self.own_credentials().cloned(),
        }
    }

    fn header(&self, grant: &Grant) -> Result<HeaderValue, RegistryError> {
        let value = HeaderValue::from_str(&grant.header);
        let mut value = value.map_err(|_secret| RegistryError::Credentials {
            registry: self.endpoint.name.clone(),
            reason: "a token has characters that no HTTP header can carry",
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Lets a success through and makes an error of everything else.
    async fn success(
        &self,
        response: Response,
        get: &Get,
        authorized: bool,
        meter: &mut Meter,
    ) -> Result<Response, RegistryError> {
        if response.status().is_success() {
            return Ok(response);
        }
        let name = host_and_port(response.url());
        let subject = Subject { registry: &name, what: &get.what };
        Err(subject.failed(response, authorized, meter).await)
    }

    pub(crate) fn refused(&self, target: &Url, reason: &'static str) -> RegistryError {
        let target = format!("{}://{}", target.scheme(), host_and_port(target));
        RegistryError::Redirect { registry: self.endpoint.name.clone(), target, reason }
    }

    pub(crate) fn protocol(&self, what: &str, reason: &str) -> RegistryError {
        Subject { registry: &self.endpoint.name, what }.protocol(reason)
    }
}

fn headers(get: &Get) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(accept) = get.accept {
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
    }
    if get.offset > 0
        && let Ok(range) = HeaderValue::from_str(&format!("bytes={}-", get.offset))
    {
        headers.insert(RANGE, range);
    }
    headers
}

fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let lines = headers.get_all(WWW_AUTHENTICATE).iter();
    challenge::parse(lines.filter_map(|line| line.to_str().ok()))
}
