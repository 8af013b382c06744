//! Reading answers: bounded bodies, and what a status that is no success means.

use reqwest::header::RETRY_AFTER;
use reqwest::{Response, StatusCode};
use serde::Deserialize;

use crate::error::RegistryError;
use crate::meter::{Meter, Stalled};
use crate::retry::parse_retry_after;

/// What is read of an error's explanation, and shown of it.
const MAX_EXPLANATION_BYTES: u64 = 4 << 10;
const SHOWN_CHARACTERS: usize = 200;

/// Who was asked for what, for messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    /// Host and port.
    pub(crate) registry: &'a str,
    /// Repository and tag or digest, or the token.
    pub(crate) what: &'a str,
}

impl Subject<'_> {
    pub(crate) fn connection(self, error: reqwest::Error) -> RegistryError {
        let (registry, what) = (self.registry.to_owned(), self.what.to_owned());
        // The URL may carry a signature.
        RegistryError::Connection { registry, what, source: error.without_url() }
    }

    pub(crate) fn stalled(self, Stalled { waited }: Stalled) -> RegistryError {
        let (registry, what) = (self.registry.to_owned(), self.what.to_owned());
        RegistryError::Stalled { registry, what, waited }
    }

    pub(crate) fn protocol(self, reason: impl Into<String>) -> RegistryError {
        let (registry, what) = (self.registry.to_owned(), self.what.to_owned());
        RegistryError::Protocol { registry, what, reason: reason.into() }
    }

    /// Makes an error of a status that is no success. `authorized` says whether credentials or
    /// a token were sent.
    pub(crate) async fn failed(
        self,
        response: Response,
        authorized: bool,
        meter: &mut Meter,
    ) -> RegistryError {
        let status = response.status();
        let (registry, what) = (self.registry.to_owned(), self.what.to_owned());
        let retry_after = retry_after(&response);
        let message = self.explanation(response, meter).await;
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                RegistryError::Denied { registry, what, message, hint: hint(authorized) }
            }
            StatusCode::NOT_FOUND => RegistryError::NotFound { registry, what, message },
            status
                if status.is_server_error()
                    || status == StatusCode::TOO_MANY_REQUESTS
                    || status == StatusCode::REQUEST_TIMEOUT =>
            {
                let status = status.as_u16();
                RegistryError::Failing { registry, what, status, message, retry_after }
            }
            status => self.protocol(format!("status {}{message}", status.as_u16())),
        }
    }

    /// Reads an answer of at most `limit` bytes; `None` when there are more.
    pub(crate) async fn read(
        self,
        mut response: Response,
        limit: u64,
        meter: &mut Meter,
    ) -> Result<Option<Vec<u8>>, RegistryError> {
        if response.content_length().is_some_and(|length| length > limit) {
            return Ok(None);
        }
        let mut body = Vec::new();
        loop {
            let chunk = meter.wait(response.chunk()).await;
            let chunk = chunk.map_err(|stalled| self.stalled(stalled))?;
            let Some(chunk) = chunk.map_err(|error| self.connection(error))? else {
                return Ok(Some(body));
            };
            meter.arrived(chunk.len());
            body.extend_from_slice(&chunk);
            if u64::try_from(body.len()).is_ok_and(|length| length > limit) {
                return Ok(None);
            }
        }
    }

    /// What the registry says about a refusal, after a separator; empty when it says nothing.
    ///
    /// Source: OCI distribution specification, "Error Codes".
    async fn explanation(self, response: Response, meter: &mut Meter) -> String {
        let body = self.read(response, MAX_EXPLANATION_BYTES, meter).await;
        let Ok(Some(body)) = body else { return String::new() };
        let Ok(Explanation { errors }) = serde_json::from_slice(&body) else {
            return String::new();
        };
        let Some(Fault { code, message }) = errors.first() else { return String::new() };
        let text = format!(": {code} {message}");
        let plain = text.chars().filter(|c| !c.is_control()).take(SHOWN_CHARACTERS);
        plain.collect::<String>().trim_end().to_owned()
    }
}

fn retry_after(response: &Response) -> Option<std::time::Duration> {
    let header = response.headers().get(RETRY_AFTER)?;
    parse_retry_after(header.to_str().ok()?)
}

/// What to do about a refusal.
pub(crate) fn hint(authorized: bool) -> &'static str {
    if authorized {
        "check the user, the password and what they may read"
    } else {
        "it needs credentials: an imagePullSecret, --creds, or `docker login`"
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
