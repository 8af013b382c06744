//! How to log in.

use std::fmt;

/// How to log in at a registry. Shown without secrets.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// A user's name and password, for the registry or its token server.
    Basic {
        /// The user.
        username: String,
        /// The password, or a token in its place.
        password: String,
    },
    /// What a token server exchanges for a token (OAuth 2 refresh token).
    IdentityToken(String),
    /// What the registry itself takes (bearer token).
    RegistryToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(f, "Basic({username}, …)"),
            Self::IdentityToken(_) => f.write_str("IdentityToken(…)"),
            Self::RegistryToken(_) => f.write_str("RegistryToken(…)"),
        }
    }
}
