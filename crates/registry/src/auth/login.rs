//! Answering a registry's challenge.

use url::Url;

use crate::address::refusal;
use crate::answer::Subject;
use crate::auth::challenge::Challenge;
use crate::auth::token::TokenRequest;
use crate::auth::{Grant, files};
use crate::credentials::Credentials;
use crate::endpoint::host_and_port;
use crate::error::RegistryError;
use crate::exchange::Exchange;
use crate::redirect::without_user;

/// What a token request is called in messages.
const TOKEN: &str = "a token";

impl Exchange<'_> {
    /// The credentials of the call; a mirror does not get them.
    pub(crate) fn own_credentials(&self) -> Option<&Credentials> {
        self.credentials.filter(|_| !self.endpoint.is_mirror)
    }

    /// Answers a challenge of the server at `base`; `None` when there is nothing to answer with.
    pub(crate) async fn authorize(
        &self,
        challenges: &[Challenge],
        base: &Url,
    ) -> Result<Option<Grant>, RegistryError> {
        let credentials = match self.own_credentials() {
            // It was sent unasked, and refused.
            Some(Credentials::RegistryToken(_)) => return Ok(None),
            Some(credentials) => Some(credentials.clone()),
            None => {
                let name = self.endpoint.credentials_name();
                files::look_up(&self.shared.config.credential_files, name, self.path).await?
            }
        };
        if let Some(Credentials::RegistryToken(token)) = &credentials {
            return Ok((!challenges.is_empty()).then(|| Grant::registry_token(token)));
        }
        for challenge in challenges {
            match (challenge, &credentials) {
                (Challenge::Basic, Some(Credentials::Basic { username, password })) => {
                    return Ok(Some(Grant::basic(username, password)));
                }
                (Challenge::Bearer { realm, service, scope }, credentials) => {
                    let (service, scope) = (service.as_deref(), scope.as_deref());
                    let grant = self.token(realm, service, scope, credentials.as_ref(), base).await;
                    return grant.map(Some);
                }
                (Challenge::Basic, _) => {}
            }
        }
        match credentials {
            Some(Credentials::IdentityToken(_)) if !challenges.is_empty() => {
                Err(RegistryError::Credentials {
                    registry: self.endpoint.name.clone(),
                    reason: "it wants a user and a password instead of an identity token",
                })
            }
            _ => Ok(None),
        }
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
        credentials: Option<&Credentials>,
        base: &Url,
    ) -> Result<Grant, RegistryError> {
        let realm = parse_realm(realm, base)
            .ok_or_else(|| self.protocol(TOKEN, "the token server has no URL"))?;
        let fallback = format!("repository:{}:pull", self.path);
        let request = TokenRequest {
            client: &self.token_client(&realm, base, credentials.is_some())?,
            subject: Subject { registry: &host_and_port(&realm), what: TOKEN },
            realm,
            service,
            scope: scope.unwrap_or(&fallback),
            credentials,
            stall: self.shared.config.stall,
        };
        let sent = request.send().await.map(Grant::from);
        let posted = matches!(credentials, Some(Credentials::IdentityToken(_)));
        sent.map_err(|error| if posted { self.not_again(error) } else { error })
    }

    /// Only GETs are repeated: what was posted may have changed something.
    fn not_again(&self, error: RegistryError) -> RegistryError {
        if error.is_transient() && !error.is_unsent() {
            let (registry, source) = (self.endpoint.name.clone(), Box::new(error));
            return RegistryError::Exchange { registry, source };
        }
        error
    }

    /// The client for a token server, if what we have may go there.
    fn token_client(
        &self,
        realm: &Url,
        base: &Url,
        with_credentials: bool,
    ) -> Result<reqwest::Client, RegistryError> {
        let trusted = self.endpoint.trusts(realm);
        let may_be_plain = base.scheme() == "http" && (trusted || self.endpoint.loopback);
        if realm.scheme() != "https" && !may_be_plain {
            return Err(self.refused(realm, "it is not encrypted"));
        }
        if trusted {
            return self.client(realm, true);
        }
        if with_credentials {
            return Err(RegistryError::AuthHost {
                registry: self.endpoint.name.clone(),
                domain: self.endpoint.credentials_name().to_owned(),
                host: host_and_port(realm),
            });
        }
        match refusal(realm, self.reach()) {
            Some(reason) => Err(self.refused(realm, reason)),
            None => self.client(realm, false),
        }
    }
}

fn parse_realm(realm: &str, base: &Url) -> Option<Url> {
    let url = without_user(base.join(realm).ok()?);
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
}
