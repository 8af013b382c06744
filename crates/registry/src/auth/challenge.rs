//! The header `WWW-Authenticate`.
//!
//! Source: RFC 9110, 11.6.1; RFC 6750, 3; Docker registry token specification.

/// A way to authenticate that a registry offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User and password with each request.
    Basic,
    /// A token from a token server.
    Bearer {
        /// The token server's URL.
        realm: String,
        /// Who the token is for.
        service: Option<String>,
        /// What it is for.
        scope: Option<String>,
    },
}

/// Reads the offers of all header lines; those that are not known or not well-formed are left out.
pub(crate) fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    lines.flat_map(|line| Scanner { rest: line }.challenges()).collect()
}

struct Scanner<'a> {
    rest: &'a str,
}

impl Scanner<'_> {
    fn challenges(mut self) -> Vec<Challenge> {
        let mut found = Vec::new();
        let mut scheme = String::new();
        let mut parameters = Vec::new();
        while let Some(word) = self.word() {
            // A word is a parameter's name if `=` follows, else the next scheme.
            if self.accept('=') {
                parameters.push((word.to_ascii_lowercase(), self.value()));
            } else {
                found.extend(challenge(&scheme, &parameters));
                scheme = word;
                parameters.clear();
            }
            while self.accept(',') {}
        }
        found.extend(challenge(&scheme, &parameters));
        found
    }

    fn word(&mut self) -> Option<String> {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|c: char| !is_token(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!word.is_empty()).then(|| word.to_owned())
    }

    fn accept(&mut self, wanted: char) -> bool {
        let rest = self.rest.trim_start();
        match rest.strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// A token or a quoted string, in which a backslash quotes any character.
    fn value(&mut self) -> String {
        if !self.accept('"') {
            return self.word().unwrap_or_default();
        }
        let mut value = String::new();
        let mut characters = self.rest.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return value;
                }
                '\\' => value.extend(characters.next().map(|(_, quoted)| quoted)),
                other => value.push(other),
            }
        }
        self.rest = "";
        value
    }
}

/// Characters of tokens, and those that unquoted values have in practice.
fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~:/@".contains(c)
}

fn challenge(scheme: &str, parameters: &[(String, String)]) -> Option<Challenge> {
    let of = |name: &str| {
        let found = parameters.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    };
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if scheme.eq_ignore_ascii_case("bearer") {
        let (service, scope) = (of("service"), of("scope"));
        return Some(Challenge::Bearer { realm: of("realm")?, service, scope });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Challenge::Bearer { realm: realm.to_owned(), service: owned(service), scope: owned(scope) }
    }

    #[test]
    fn offers_of_real_registries_are_read() {
        for (line, expected) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/busybox:pull""#,
                vec![bearer(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    Some("repository:library/busybox:pull"),
                )],
            ),
            (r#"Basic realm="Registry Realm""#, vec![Challenge::Basic]),
            (
                r#"Negotiate, basic realm="a, b=\"c\"", BEARER  realm = https://a.io/token , error="x""#,
                vec![Challenge::Basic, bearer("https://a.io/token", None, None)],
            ),
            (r#"Bearer service="x""#, vec![]),
            (r#"Bearer realm="unterminated"#, vec![bearer("unterminated", None, None)]),
            ("", vec![]),
            ("=,=,,\"", vec![]),
        ] {
            assert_eq!(parse([line].into_iter()), expected, "{line}");
        }
    }

    #[test]
    fn any_text_is_survived() {
        for text in ["\\", "Bearer realm=\"\\", "Bearer realm=", "ä=\"ö\",ü", "a=b c=d \u{0}e"] {
            parse([text].into_iter());
        }
    }
}
