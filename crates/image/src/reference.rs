//! Image references, normalised by the rules that Docker made the field's own.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;
use crate::error::{ImageError, ReferenceFault};

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const MAX_NAME_BYTES: usize = 255;
const MAX_TAG_BYTES: usize = 128;

/// What a reference picks in its repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// A name that may move.
    Tag(String),
    /// A manifest that never changes.
    Digest(Digest),
}

/// A normalised reference: `busybox` becomes `docker.io/library/busybox:latest`.
///
/// A reference with both tag and digest means the digest; its tag is dropped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    selector: Selector,
}

impl Reference {
    /// The repository, for instance `docker.io/library/busybox`.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The registry, for instance `docker.io` or `localhost:5000`.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository's path in its registry, for instance `library/busybox`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Tag or digest.
    #[must_use]
    pub fn selector(&self) -> &Selector {
        &self.selector
    }

    /// The same repository with a digest instead.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { selector: Selector::Digest(digest), ..self.clone() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        match &self.selector {
            Selector::Tag(tag) => write!(f, ":{tag}"),
            Selector::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

impl FromStr for Reference {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        parse(text)
            .map_err(|fault| ImageError::InvalidReference { text: shortened(text), source: fault })
    }
}

/// Error texts travel over gRPC; a hostile reference may have any length.
fn shortened(text: &str) -> String {
    text.chars().take(MAX_NAME_BYTES).collect()
}

fn parse(text: &str) -> Result<Reference, ReferenceFault> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            (rest, Some(digest.parse::<Digest>().or(Err(ReferenceFault::Digest))?))
        }
        None => (text, None),
    };
    // A colon before the last slash separates a port, not a tag.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(ReferenceFault::Tag);
    }
    let (domain, path) = parse_name(name)?;
    let selector = match (digest, tag) {
        (Some(digest), _) => Selector::Digest(digest),
        (None, tag) => Selector::Tag(tag.unwrap_or(DEFAULT_TAG).to_owned()),
    };
    Ok(Reference { domain, path, selector })
}

fn parse_name(name: &str) -> Result<(String, String), ReferenceFault> {
    if name.is_empty() {
        return Err(ReferenceFault::Empty);
    }
    // It would be taken for an image id.
    if Digest::from_hex(name).is_ok() {
        return Err(ReferenceFault::LooksLikeId);
    }
    let (domain, path) = match name.split_once('/') {
        Some((first, rest)) if looks_like_domain(first) => (first, rest),
        _ => (DEFAULT_DOMAIN, name),
    };
    let domain = if domain == LEGACY_DEFAULT_DOMAIN { DEFAULT_DOMAIN } else { domain };
    let official = domain == DEFAULT_DOMAIN && !path.contains('/');
    let path = if official { format!("{OFFICIAL_PREFIX}{path}") } else { path.to_owned() };
    if domain.len() + 1 + path.len() > MAX_NAME_BYTES {
        return Err(ReferenceFault::TooLong);
    }
    if !is_domain(domain) {
        return Err(ReferenceFault::Domain);
    }
    if path.contains(|c: char| c.is_ascii_uppercase()) {
        return Err(ReferenceFault::Uppercase);
    }
    if !path.split('/').all(is_path_component) {
        return Err(ReferenceFault::Path);
    }
    Ok((domain.to_owned(), path))
}

fn looks_like_domain(component: &str) -> bool {
    component == "localhost" || component.contains(|c: char| matches!(c, '.' | ':' | 'A'..='Z'))
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    port.is_none_or(|port| {
        port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    }) && is_host(host)
}

fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    host.split('.').all(|label| {
        let bytes = label.as_bytes();
        !bytes.is_empty()
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
            && bytes.first() != Some(&b'-')
            && bytes.last() != Some(&b'-')
    })
}

/// Lower-case words and digits, separated by one dot, one or two underscores or any hyphens.
fn is_path_component(component: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends_are_words =
        [bytes.first(), bytes.last()].iter().all(|byte| byte.is_some_and(|byte| is_word(*byte)));
    ends_are_words
        && component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).all(
            |separator| {
                matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
            },
        )
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = tag.as_bytes();
    bytes.len() <= MAX_TAG_BYTES
        && bytes.first().is_some_and(|first| is_word(*first))
        && bytes.iter().all(|byte| is_word(*byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn references_are_normalised() {
        for (text, expected) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/library/busybox", "docker.io/library/busybox:latest"),
            ("user/app", "docker.io/user/app:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
            ("quay.io/a/b_c/d__e/f--g.h:Tag_1.2-3", "quay.io/a/b_c/d__e/f--g.h:Tag_1.2-3"),
            ("Registry/app", "Registry/app:latest"),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), expected, "{text}");
            // What is normal stays as it is.
            assert_eq!(expected.parse::<Reference>().unwrap().to_string(), expected);
        }
    }

    #[test]
    fn a_digest_wins_over_a_tag() {
        for text in [format!("busybox@sha256:{HEX}"), format!("busybox:1.36@sha256:{HEX}")] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), format!("docker.io/library/busybox@sha256:{HEX}"));
            assert_eq!(reference.repository(), "docker.io/library/busybox");
        }
    }

    #[test]
    fn bad_references_are_refused_with_the_reason() {
        use ReferenceFault as F;
        let fault = |text: &str| match text.parse::<Reference>().unwrap_err() {
            ImageError::InvalidReference { source, .. } => source,
            other => panic!("{other:?}"),
        };
        let long = "a".repeat(300);
        for (text, expected) in [
            ("", F::Empty),
            (":", F::Tag),
            (":latest", F::Empty),
            ("busybox:", F::Tag),
            ("busybox:-a", F::Tag),
            (&format!("busybox:{}", "t".repeat(129)), F::Tag),
            ("Busybox", F::Uppercase),
            ("docker.io/Library/busybox", F::Uppercase),
            (&long, F::TooLong),
            (HEX, F::LooksLikeId),
            ("busybox@", F::Digest),
            ("busybox@sha256:../..", F::Digest),
            ("busybox@sha256:abcd", F::Digest),
            (&format!("busybox@md5:{HEX}"), F::Digest),
            (&format!("busybox@sha256:{HEX}@sha256:{HEX}"), F::Digest),
            ("../busybox", F::Domain),
            ("a/../b", F::Path),
            ("a//b", F::Path),
            ("/busybox", F::Path),
            ("busybox/", F::Path),
            ("a..b/c", F::Domain),
            ("-a.io/c", F::Domain),
            ("a.io:port/c", F::Domain),
            ("a.io:123456/c", F::Domain),
            ("a.io:/c", F::Domain),
            ("x/a___b", F::Path),
            ("x/a._b", F::Path),
            ("x/.a", F::Path),
            ("busy box", F::Path),
            ("busybox\n", F::Path),
            ("busybox:la\0test", F::Tag),
            ("bücher", F::Path),
        ] {
            assert_eq!(fault(text), expected, "{text:?}");
        }
    }
}
