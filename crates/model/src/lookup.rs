//! Finding an object by what a client calls it: a whole identifier or the beginning of one.

use thiserror::Error;

use crate::InvalidField;

const LONGEST_QUERY_BYTES: usize = 128;
const SHORTEST_PREFIX: usize = 4;
const FULL_ID_DIGITS: usize = 64;

/// A checked reference to a sandbox or container. No reference that could be a path gets this far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdQuery(String);

impl IdQuery {
    /// Checks what a client sent in `field`.
    ///
    /// # Errors
    /// When it is empty, longer than 128 bytes, begins with `.`, or has a byte outside `[A-Za-z0-9_.-]`.
    pub fn parse(field: &str, text: &str) -> Result<Self, InvalidField> {
        let refuse = |reason: &str| Err(InvalidField::new(field, text, reason));
        match text {
            "" => refuse("is required"),
            _ if text.len() > LONGEST_QUERY_BYTES => refuse("is longer than 128 bytes"),
            _ if text.starts_with('.') => refuse("begins with `.`"),
            _ if !text.bytes().all(is_id_byte) => refuse("has a character outside [A-Za-z0-9_.-]"),
            _ => Ok(Self(text.to_owned())),
        }
    }

    /// As it was sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is_hex(&self) -> bool {
        self.0.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    }
}

fn is_id_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')
}

/// Why a reference names no single object.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LookupError {
    /// No object has this identifier. CRI: `NotFound`, or success where absence is the goal.
    #[error("{query:?} not found")]
    NotFound {
        /// As it was sent.
        query: String,
    },
    /// Several identifiers begin like this. CRI: `InvalidArgument`.
    #[error("{query:?} is ambiguous: it begins {first} and {second}; give more digits")]
    Ambiguous {
        /// As it was sent.
        query: String,
        /// One match.
        first: String,
        /// Another match.
        second: String,
    },
    /// Too short to be a prefix. CRI: `InvalidArgument`.
    #[error("{query:?} is too short for an id; give at least 4 digits")]
    TooShort {
        /// As it was sent.
        query: String,
    },
}

/// Picks the one of `ids` that `query` names: an exact match, else the only one that begins with its 4 to 63
/// hexadecimal digits.
///
/// # Errors
/// See [`LookupError`].
pub fn lookup<'a>(
    query: &IdQuery,
    ids: impl Iterator<Item = &'a str>,
) -> Result<&'a str, LookupError> {
    let text = query.as_str();
    let mut matches = Vec::new();
    for id in ids {
        if id == text {
            return Ok(id);
        }
        if id.starts_with(text) {
            matches.push(id);
        }
    }
    let owned = || text.to_owned();
    if text.len() < SHORTEST_PREFIX {
        return Err(LookupError::TooShort { query: owned() });
    }
    if !query.is_hex() || text.len() >= FULL_ID_DIGITS {
        return Err(LookupError::NotFound { query: owned() });
    }
    match matches[..] {
        [] => Err(LookupError::NotFound { query: owned() }),
        [only] => Ok(only),
        [first, second, ..] => Err(LookupError::Ambiguous {
            query: owned(),
            first: first.to_owned(),
            second: second.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: [&str; 3] = ["abcd1111", "abcd2222", "ef012345"];

    fn find(text: &str) -> Result<&'static str, LookupError> {
        lookup(&IdQuery::parse("id", text).expect("well-formed"), IDS.into_iter())
    }

    #[test]
    fn exact_then_unique_prefix() {
        assert_eq!(find("abcd1111"), Ok("abcd1111"));
        assert_eq!(find("ef01"), Ok("ef012345"));
    }

    #[test]
    fn a_shared_prefix_is_ambiguous() {
        assert!(matches!(find("abcd"), Err(LookupError::Ambiguous { .. })));
    }

    #[test]
    fn short_and_unknown_are_told_apart() {
        assert!(matches!(find("abc"), Err(LookupError::TooShort { .. })));
        assert!(matches!(find("1234"), Err(LookupError::NotFound { .. })));
        let dashed = "7f1b5c52-1f0e-4a53-9d62-0c5a7b5d0a11";
        assert!(matches!(find(dashed), Err(LookupError::NotFound { .. })));
    }

    #[test]
    fn what_could_be_a_path_is_refused() {
        for bad in ["", "../../etc", "a/b", ".hidden", "a\0b", "a\nb", "é", &"a".repeat(129)] {
            IdQuery::parse("pod_sandbox_id", bad).expect_err(bad);
        }
    }
}
