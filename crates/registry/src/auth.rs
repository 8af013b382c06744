//! Getting a registry to trust us, without trusting it with more than it needs.

pub(crate) mod challenge;
pub(crate) mod files;
mod login;
pub(crate) mod token;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::credentials::Credentials;
use token::Token;
use url::Url;

/// How long credentials are sent unasked after they were asked for. Short, because the file that
/// they are from may change: after `docker logout` nobody is let in by what is remembered here.
const BASIC_LIFETIME: Duration = Duration::from_secs(60);
/// How many are remembered: whoever names images decides how many there could be.
const MAX_GRANTS: usize = 256;

/// What an answer to a challenge was, to begin with it the next time.
#[derive(Debug, Default)]
pub(crate) struct Grants(Mutex<HashMap<Grantee, Grant>>);

/// Who got it: an endpoint, a repository, someone's credentials.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Grantee {
    /// Its URL: what goes to https does not go to http on the same host.
    pub(crate) endpoint: Url,
    pub(crate) path: String,
    pub(crate) credentials: Option<Credentials>,
}

/// The value of the header `Authorization`, and how long it is good.
#[derive(Clone)]
pub(crate) struct Grant {
    pub(crate) header: String,
    good_until: Instant,
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grant").field("good_until", &self.good_until).finish_non_exhaustive()
    }
}

impl Grant {
    pub(crate) fn basic(username: &str, password: &str) -> Self {
        let pair = STANDARD.encode(format!("{username}:{password}"));
        Self { header: format!("Basic {pair}"), good_until: Instant::now() + BASIC_LIFETIME }
    }

    pub(crate) fn registry_token(token: &str) -> Self {
        Self { header: format!("Bearer {token}"), good_until: Instant::now() + BASIC_LIFETIME }
    }
}

impl From<Token> for Grant {
    fn from(token: Token) -> Self {
        Self { header: format!("Bearer {}", token.value), good_until: token.good_until }
    }
}

impl Grants {
    pub(crate) fn get(&self, grantee: &Grantee) -> Option<Grant> {
        let grants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        grants.get(grantee).filter(|grant| grant.good_until > Instant::now()).cloned()
    }

    pub(crate) fn put(&self, grantee: Grantee, grant: Grant) {
        let mut grants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        grants.retain(|_, grant| grant.good_until > now);
        if grants.len() >= MAX_GRANTS {
            let soonest = grants.iter().min_by_key(|(_, grant)| grant.good_until);
            if let Some(soonest) = soonest.map(|(grantee, _)| grantee.clone()) {
                grants.remove(&soonest);
            }
        }
        grants.insert(grantee, grant);
    }
}
