//! Tokens of token servers.
//!
//! Source: Docker registry token specification; OAuth 2 (RFC 6749, 6).

use std::time::{Duration, Instant};

use reqwest::{Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use crate::answer::{Subject, hint};
use crate::credentials::Credentials;
use crate::error::RegistryError;
use crate::meter::Meter;

const CLIENT_ID: &str = "usnea";
const MAX_ANSWER_BYTES: u64 = 128 << 10;
/// The longest token that is taken; it is kept, and sent with every request.
const MAX_TOKEN_BYTES: usize = 64 << 10;
/// What a server means that does not say how long its token is good.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
const LONGEST_LIFETIME: Duration = Duration::from_secs(3600);
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
    /// The token server, for messages.
    pub(crate) subject: Subject<'a>,
    pub(crate) realm: Url,
    pub(crate) service: Option<&'a str>,
    pub(crate) scope: &'a str,
    pub(crate) credentials: Option<&'a Credentials>,
    pub(crate) stall: Duration,
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    /// Seconds.
    #[serde(default)]
    expires_in: Value,
}

impl TokenRequest<'_> {
    pub(crate) async fn send(&self) -> Result<Token, RegistryError> {
        let asked = Instant::now();
        let mut meter = Meter::new(self.stall);
        let sent = meter.wait(self.request().send()).await;
        let sent = sent.map_err(|stalled| self.subject.stalled(stalled))?;
        let response = sent.map_err(|error| self.subject.connection(error))?;
        let response = self.success(response, &mut meter).await?;
        let body = self.subject.read(response, MAX_ANSWER_BYTES, &mut meter).await?;
        let body = body.ok_or_else(|| self.subject.protocol("the answer is too long"))?;
        parse(&body, asked).ok_or_else(|| self.subject.protocol("the answer is no token"))
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

    async fn success(
        &self,
        response: Response,
        meter: &mut Meter,
    ) -> Result<Response, RegistryError> {
        let authorized = self.credentials.is_some();
        match response.status() {
            status if status.is_success() => Ok(response),
            // Refused, says OAuth 2 (RFC 6749, 5.2).
            StatusCode::BAD_REQUEST if authorized => Err(RegistryError::Denied {
                registry: self.subject.registry.to_owned(),
                what: self.scope.to_owned(),
                message: String::new(),
                hint: hint(authorized),
            }),
            // No image is missing, but the token server.
            StatusCode::NOT_FOUND => Err(self.subject.protocol("there is no token server")),
            _ => Err(self.subject.failed(response, authorized, meter).await),
        }
    }
}

/// Reads a token server's answer; `asked` is when the token's time began.
fn parse(body: &[u8], asked: Instant) -> Option<Token> {
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let value = answer.token.filter(|token| !token.is_empty()).or(answer.access_token)?;
    if value.is_empty()
        || value.len() > MAX_TOKEN_BYTES
        || value.contains(|c: char| !c.is_ascii_graphic())
    {
        return None;
    }
    let lifetime = answer.expires_in.as_u64().map_or(DEFAULT_LIFETIME, Duration::from_secs);
    // A clock that far ahead would overflow.
    let lifetime = lifetime.saturating_sub(SLACK).min(LONGEST_LIFETIME);
    Some(Token { value, good_until: asked + lifetime })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_names_of_a_token_and_any_lifetime_are_understood() {
        let now = Instant::now();
        for (answer, value, seconds) in [
            (r#"{"token":"a","access_token":"b","expires_in":300}"#, "a", 295),
            (r#"{"token":"","access_token":"b","issued_at":"2026-01-01T00:00:00Z"}"#, "b", 55),
            (r#"{"token":null,"access_token":"b","expires_in":null}"#, "b", 55),
            (r#"{"token":"a","expires_in":3}"#, "a", 0),
            (r#"{"token":"a","expires_in":-1}"#, "a", 55),
            (r#"{"token":"a","expires_in":18446744073709551615}"#, "a", 3600),
        ] {
            let token = parse(answer.as_bytes(), now).unwrap();
            assert_eq!(token.value, value, "{answer}");
            assert_eq!(token.good_until, now + Duration::from_secs(seconds), "{answer}");
        }
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for answer in [
            "",
            "{}",
            "[]",
            r#"{"token":""}"#,
            r#"{"token":"a
X: y"}"#,
            r#"{"token":7}"#,
        ] {
            assert!(parse(answer.as_bytes(), Instant::now()).is_none(), "{answer}");
        }
    }
}
