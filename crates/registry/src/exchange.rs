//! One request to one endpoint: scheme, redirects and authorization, but no second attempt.

use std::time::Duration;

use reqwest::header::{
    ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use url::Url;

use crate::address::{Reach, is_loopback, refusal};
use crate::auth::challenge::{self, Challenge};
use crate::auth::token::TokenRequest;
use crate::auth::{Grant, Grantee, files};
use crate::client::{RegistrySettings, Shared};
use crate::credentials::Credentials;
use crate::endpoint::{Endpoint, host_and_port};
use crate::error::RegistryError;
use crate::meter::Meter;
use crate::retry::parse_retry_after;

const MAX_REDIRECTS: usize = 5;
/// What is read of an error's explanation, and shown of it.
const MAX_EXPLANATION_BYTES: u64 = 4 << 10;
const SHOWN_CHARACTERS: usize = 200;

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
    pub(crate) settings: &'a RegistrySettings,
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
        let bases = self.endpoint.bases(self.shared);
        let mut unreachable = None;
        for base in &bases {
            match self.send_to(base, get, meter).await {
                Err(RegistryError::Connection { registry, source }) if source.is_connect() => {
                    unreachable = Some(RegistryError::Connection { registry, source });
                }
                result => {
                    self.shared.remember_scheme(&self.endpoint.name, base.scheme());
                    return result;
                }
            }
        }
        self.shared.forget_scheme(&self.endpoint.name);
        Err(unreachable.unwrap_or_else(|| self.protocol(&get.what, "it has no URL")))
    }

    async fn send_to(
        &self,
        base: &Url,
        get: &Get,
        meter: &mut Meter,
    ) -> Result<Response, RegistryError> {
        let url = self.url(base, get)?;
        let known = match self.own_credentials() {
            Some(Credentials::RegistryToken(token)) => Some(Grant::registry_token(token)),
            _ => self.shared.grants.get(&self.grantee()),
        };
        let response = self.follow(&url, known.as_ref(), get, meter).await?;
        let challenged =
            response.status() == StatusCode::UNAUTHORIZED && same_origin(response.url(), base);
        if !challenged {
            return self.judge(response, get, known.is_some(), meter).await;
        }
        let challenges = challenges(response.headers());
        let Some(grant) = self.authorize(&challenges, base).await? else {
            return self.judge(response, get, known.is_some(), meter).await;
        };
        let response = self.follow(&url, Some(&grant), get, meter).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            self.shared.grants.put(self.grantee(), grant);
        }
        self.judge(response, get, true, meter).await
    }

    fn url(&self, base: &Url, get: &Get) -> Result<Url, RegistryError> {
        let prefix = base.path().trim_end_matches('/');
        let mut url = base.clone();
        url.set_path(&format!("{prefix}/v2/{}/{}", self.path, get.tail));
        if self.endpoint.is_mirror {
            // As containerd tells a mirror for several registries which one is meant.
            url.query_pairs_mut().append_pair("ns", &self.endpoint.domain);
        }
        Ok(url)
    }

    /// Sends a request and follows where it leads. Only the endpoint itself sees the authorization.
    async fn follow(
        &self,
        url: &Url,
        grant: Option<&Grant>,
        get: &Get,
        meter: &mut Meter,
    ) -> Result<Response, RegistryError> {
        let mut current = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let own = same_origin(&current, url);
            let client = self.client(&current, own)?;
            let mut request = client.get(current.clone()).headers(headers(get));
            if let Some(grant) = grant.filter(|_| own) {
                request = request.header(AUTHORIZATION, self.header(grant)?);
            }
            let name = host_and_port(&current);
            let sent = meter.wait(request.send()).await;
            let sent = sent.map_err(|_stalled| stalled(&name, meter.stall()))?;
            let response = sent.map_err(|error| connection(&name, error))?;
            match self.redirect(&response)? {
                Some(target) => current = target,
                None => return Ok(response),
            }
        }
        Err(self.refused(&current, "too many redirects"))
    }

    fn client(&self, url: &Url, own: bool) -> Result<reqwest::Client, RegistryError> {
        self.shared.transport.client(&crate::transport::Setup {
            ca_files: self.settings.ca_files.clone(),
            direct: is_loopback(url),
            reach: if own { Reach::Named } else { self.reach() },
        })
    }

    /// How far this endpoint may lead.
    fn reach(&self) -> Reach {
        if self.endpoint.loopback { Reach::ForeignOrLoopback } else { Reach::Foreign }
    }

    /// Where an answer leads, if it is a redirect.
    fn redirect(&self, response: &Response) -> Result<Option<Url>, RegistryError> {
        let moved = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let (true, Some(location)) = (moved, location) else { return Ok(None) };
        let from = response.url();
        let joined =
            from.join(location).map_err(|_unparsable| self.refused(from, "it is no URL"))?;
        let target = without_user(joined);
        if from.scheme() == "https" && target.scheme() != "https" {
            return Err(self.refused(&target, "it is not encrypted"));
        }
        match refusal(&target, self.reach()) {
            Some(reason) if !same_origin(&target, from) => Err(self.refused(&target, reason)),
            _ => Ok(Some(target)),
        }
    }

    fn grantee(&self) -> Grantee {
        Grantee {
            endpoint: self.endpoint.name.clone(),
            path: self.path.to_owned(),
            credentials: self.own_credentials().cloned(),
        }
    }

    /// The credentials of the call; a mirror does not get them.
    fn own_credentials(&self) -> Option<&Credentials> {
        self.credentials.filter(|_| !self.endpoint.is_mirror)
    }

    /// Answers a challenge; `None` when there is nothing to answer with.
    async fn authorize(
        &self,
        challenges: &[Challenge],
        base: &Url,
    ) -> Result<Option<Grant>, RegistryError> {
        let credentials = match self.own_credentials() {
            Some(credentials) => Some(credentials.clone()),
            None => {
                let name = self.endpoint.credentials_name();
                files::look_up(&self.shared.config.credential_files, name, self.path).await?
            }
        };
        for challenge in challenges {
            match (challenge, &credentials) {
                // It was refused, or comes from a file and was not tried yet.
                (_, Some(Credentials::RegistryToken(token))) => {
                    let tried = self.own_credentials().is_some();
                    return Ok((!tried).then(|| Grant::registry_token(token)));
                }
                (Challenge::Basic, Some(Credentials::Basic { username, password })) => {
                    return Ok(Some(Grant::basic(username, password)));
                }
                (Challenge::Bearer { realm, service, scope }, credentials) => {
                    let fallback = format!("repository:{}:pull", self.path);
                    let request = TokenRequest {
                        client: &self.token_client(realm, base, credentials.is_some())?,
                        realm: parse_realm(realm, base).ok_or_else(|| self.bad_realm())?,
                        service: service.as_deref(),
                        scope: scope.as_deref().unwrap_or(&fallback),
                        credentials: credentials.as_ref(),
                        stall: self.shared.config.stall,
                    };
                    return request.send().await.map(|token| Some(token.into()));
                }
                (Challenge::Basic, _) => {}
            }
        }
        Ok(None)
    }

    /// The client for a token server, if what we have may go there.
    fn token_client(
        &self,
        realm: &str,
        base: &Url,
        with_credentials: bool,
    ) -> Result<reqwest::Client, RegistryError> {
        let realm = parse_realm(realm, base).ok_or_else(|| self.bad_realm())?;
        if base.scheme() == "https" && realm.scheme() != "https" {
            return Err(self.refused(&realm, "it is not encrypted"));
        }
        let trusted = self.endpoint.trusts(&realm, &self.settings.auth_hosts);
        if trusted {
            return self.client(&realm, true);
        }
        if with_credentials {
            return Err(RegistryError::AuthHost {
                registry: self.endpoint.name.clone(),
                domain: self.endpoint.domain.clone(),
                host: host_and_port(&realm),
            });
        }
        match refusal(&realm, self.reach()) {
            Some(reason) => Err(self.refused(&realm, reason)),
            None => self.client(&realm, false),
        }
    }

    fn header(&self, grant: &Grant) -> Result<HeaderValue, RegistryError> {
        let value = HeaderValue::from_str(&grant.header);
        let mut value = value
            .map_err(|_secret| self.protocol("the credentials", "no HTTP header can carry them"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Lets a success through and makes an error of everything else.
    async fn judge(
        &self,
        response: Response,
        get: &Get,
        authorized: bool,
        meter: &mut Meter,
    ) -> Result<Response, RegistryError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let registry = host_and_port(response.url());
        let what = get.what.clone();
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let message = explanation(response, meter).await;
                RegistryError::Denied { registry, what, message, hint: hint(authorized) }
            }
            StatusCode::NOT_FOUND => {
                let message = explanation(response, meter).await;
                RegistryError::NotFound { registry, what, message }
            }
            _ => unexpected(&registry, &what, &response),
        })
    }

    fn refused(&self, target: &Url, reason: &'static str) -> RegistryError {
        let target = format!("{}://{}", target.scheme(), host_and_port(target));
        RegistryError::Redirect { registry: self.endpoint.name.clone(), target, reason }
    }

    fn bad_realm(&self) -> RegistryError {
        self.protocol("a request without authorization", "the token server has no URL")
    }

    pub(crate) fn protocol(&self, what: &str, reason: &str) -> RegistryError {
        let (registry, what, reason) =
            (self.endpoint.name.clone(), what.to_owned(), reason.to_owned());
        RegistryError::Protocol { registry, what, reason }
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

fn parse_realm(realm: &str, base: &Url) -> Option<Url> {
    let url = without_user(base.join(realm).ok()?);
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
}

/// A user in a URL would become an authorization that nobody meant.
fn without_user(mut url: Url) -> Url {
    // Both fail only for URLs without a host, which have no user.
    url.set_username("").ok();
    url.set_password(None).ok();
    url
}

fn same_origin(one: &Url, other: &Url) -> bool {
    one.origin() == other.origin()
}

/// What to do about a refusal.
pub(crate) fn hint(authorized: bool) -> &'static str {
    if authorized {
        "check the user, the password and what they may read"
    } else {
        "it needs credentials: an imagePullSecret, --creds, or `docker login`"
    }
}

pub(crate) fn connection(registry: &str, error: reqwest::Error) -> RegistryError {
    // The URL may carry a signature.
    RegistryError::Connection { registry: registry.to_owned(), source: error.without_url() }
}

pub(crate) fn stalled(registry: &str, waited: Duration) -> RegistryError {
    RegistryError::Stalled { registry: registry.to_owned(), waited }
}

/// The error for a status that is neither success nor a plain refusal.
pub(crate) fn unexpected(registry: &str, what: &str, response: &Response) -> RegistryError {
    let status = response.status();
    let registry = registry.to_owned();
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        return RegistryError::Failing {
            registry,
            status: status.as_u16(),
            message: format!(" to {what}"),
            retry_after: header.and_then(parse_retry_after),
        };
    }
    let (what, reason) = (what.to_owned(), format!("status {}", status.as_u16()));
    RegistryError::Protocol { registry, what, reason }
}

/// Reads an answer of at most `limit` bytes; `None` when there are more.
pub(crate) async fn read_bounded(
    mut response: Response,
    limit: u64,
    meter: &mut Meter,
    registry: &str,
) -> Result<Option<Vec<u8>>, RegistryError> {
    let mut body = Vec::new();
    loop {
        let chunk = meter.wait(response.chunk()).await;
        let chunk = chunk.map_err(|_stalled| stalled(registry, meter.stall()))?;
        let Some(chunk) = chunk.map_err(|error| connection(registry, error))? else {
            return Ok(Some(body));
        };
        meter.arrived(chunk.len());
        body.extend_from_slice(&chunk);
        if u64::try_from(body.len()).is_ok_and(|length| length > limit) {
            return Ok(None);
        }
    }
}

#[derive(Deserialize)]
struct Explanation {
    errors: Vec<Fault>,
}

#[derive(Deserialize)]
struct Fault {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What the registry says about a refusal, after a separator; empty when it says nothing.
///
/// Source: OCI distribution specification, "Error Codes".
async fn explanation(response: Response, meter: &mut Meter) -> String {
    let body = read_bounded(response, MAX_EXPLANATION_BYTES, meter, "").await;
    let Ok(Some(body)) = body else { return String::new() };
    let Ok(Explanation { errors }) = serde_json::from_slice(&body) else { return String::new() };
    let Some(Fault { code, message }) = errors.first() else { return String::new() };
    let text = format!(": {code} {message}");
    let plain = text.chars().filter(|c| !c.is_control()).take(SHOWN_CHARACTERS);
    plain.collect::<String>().trim_end().to_owned()
}
