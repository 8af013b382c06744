//! Tokens of token servers.
//!
//! Source: Docker registry token specification; OAuth 2 (RFC 6749, 6).

use std::time::{Duration, Instant};

use reqwest::{Response, StatusCode};
use serde::Deserialize;
use url::Url;

use crate::credentials::Credentials;
use crate::endpoint::host_and_port;
use crate::error::RegistryError;
use crate::exchange::{self, read_bounded};
use crate::meter::Meter;

const CLIENT_ID: &str = "usnea";
const MAX_ANSWER_BYTES: u64 = 1 << 20;
/// What a server means that does not say how long its token is good.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// A token is not used in its last seconds.
const SLACK: Duration = Duration::from_secs(5);

/// A token and its end.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) value: String,
    pub(crate) good_until: Instant,
}

/// What a token is asked for.
#[derive(Debug)]
pub(crate) struct TokenRequest<'a> {
    pub(crate) client: &'a reqwest::Client,
    pub(crate) realm: Url,
    pub(crate) service: Option<&'a str>,
    pub(crate) scope: &'a str,
    pub(crate) credentials: Option<&'a Credentials>,
    pub(crate) stall: Duration,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    expires_in: Option<u64>,
}

impl TokenRequest<'_> {
    pub(crate) async fn send(&self) -> Result<Token, RegistryError> {
        let asked = Instant::now();
        let server = host_and_port(&self.realm);
        let mut meter = Meter::new(self.stall);
        let stalled = || exchange::stalled(&server, self.stall);
        let sent = meter.wait(self.request().send()).await.map_err(|_stalled| stalled())?;
        let response = sent.map_err(|error| exchange::connection(&server, error))?;
        self.check(&server, &response)?;
        let protocol = |reason: &str| RegistryError::Protocol {
            registry: server.clone(),
            what: "a token request".to_owned(),
            reason: reason.to_owned(),
        };
        let body = read_bounded(response, MAX_ANSWER_BYTES, &mut meter, &server).await?;
        let body = body.ok_or_else(|| protocol("the answer is too long"))?;
        let answer: Answer =
            serde_json::from_slice(&body).map_err(|_secret| protocol("the answer is no token"))?;
        let value = if answer.token.is_empty() { answer.access_token } else { answer.token };
        if value.is_empty() || value.contains(|c: char| !c.is_ascii_graphic()) {
            return Err(protocol("the answer is no token"));
        }
        let lifetime = answer.expires_in.map_or(DEFAULT_LIFETIME, Duration::from_secs);
        // A clock that far ahead would overflow.
        let lifetime = lifetime.saturating_sub(SLACK).min(Duration::from_secs(86_400));
        Ok(Token { value, good_until: asked + lifetime })
    }

    fn request(&self) -> reqwest::RequestBuilder {
        let service = self.service.map(|service| ("service", service));
        let mut parameters: Vec<_> = service.into_iter().chain([("scope", self.scope)]).collect();
        match self.credentials {
            Some(Credentials::IdentityToken(token)) => {
                parameters.extend([
                    ("grant_type", "refresh_token"),
                    ("refresh_token", token),
                    ("client_id", CLIENT_ID),
                ]);
                self.client.post(self.realm.clone()).form(&parameters)
            }
            Some(Credentials::Basic { username, password }) => self
                .client
                .get(self.realm.clone())
                .query(&parameters)
                .basic_auth(username, Some(password)),
            Some(Credentials::RegistryToken(_)) | None => {
                self.client.get(self.realm.clone()).query(&parameters)
            }
        }
    }

    fn check(&self, server: &str, response: &Response) -> Result<(), RegistryError> {
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        if refused || status == StatusCode::BAD_REQUEST && self.credentials.is_some() {
            return Err(RegistryError::Denied {
                registry: server.to_owned(),
                what: self.scope.to_owned(),
                message: String::new(),
                hint: exchange::hint(self.credentials.is_some()),
            });
        }
        Err(exchange::unexpected(server, "a token request", response))
    }
}
