//! The error of every check: which field, which value, and what would be right.

use thiserror::Error;

/// Longest piece of a value that is repeated to the caller, in bytes.
const SHOWN_BYTES: usize = 120;

/// A field of a request that cannot be accepted. CRI: `InvalidArgument`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{keyword}{field}: {value:?}: {reason}")]
pub struct InvalidField {
    /// What clients recognise the message by: it begins with this. Mostly empty.
    pub keyword: &'static str,
    /// Path of the field as the CRI spells it, such as `config.mounts[2].container_path`.
    pub field: String,
    /// What was given, shortened.
    pub value: String,
    /// Why it is refused and what would be accepted.
    pub reason: String,
}

impl InvalidField {
    /// Describes the refusal of `value` in `field`.
    #[must_use]
    pub fn new(
        field: impl Into<String>,
        value: impl AsRef<str>,
        reason: impl Into<String>,
    ) -> Self {
        let value = shortened(value.as_ref());
        Self { keyword: "", field: field.into(), value, reason: reason.into() }
    }

    /// The same refusal with a message that begins with `keyword`.
    #[must_use]
    pub fn recognised_by(self, keyword: &'static str) -> Self {
        Self { keyword, ..self }
    }

    /// The same refusal, seen from the message that contains the field.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        self.field = format!("{outer}.{}", self.field);
        self
    }
}

fn shortened(value: &str) -> String {
    if value.len() <= SHOWN_BYTES {
        return value.to_owned();
    }
    let end = (0..=SHOWN_BYTES).rev().find(|i| value.is_char_boundary(*i)).unwrap_or(0);
    format!("{}…", &value[..end])
}

/// Longest name of a sandbox or container, in bytes.
const NAME_BYTES: usize = 253;

/// Checks a name that becomes part of a key and of file content, though never of a path.
///
/// # Errors
/// When it is empty, longer than 253 bytes, `.` or `..`, or contains `/`, NUL or a line break.
pub fn check_name(field: &str, value: &str) -> Result<(), InvalidField> {
    let refuse = |reason: &str| Err(InvalidField::new(field, value, reason));
    match value {
        "" => refuse("is required"),
        "." | ".." => refuse("is not a name"),
        _ if value.len() > NAME_BYTES => refuse("is longer than 253 bytes"),
        _ if value.contains(['/', '\0', '\n', '\r']) => {
            refuse("contains `/`, NUL or a line break; use letters, digits, `-`, `_` and `.`")
        }
        _ => Ok(()),
    }
}

/// Checks text that is handed to the kernel or to a program as a C string.
///
/// # Errors
/// When it contains NUL.
pub fn check_text(field: &str, value: &str) -> Result<(), InvalidField> {
    if value.contains('\0') {
        return Err(InvalidField::new(field, value, "contains NUL"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_paths_are_refused() {
        for bad in ["", ".", "..", "a/b", "../x", "a\0b", "a\nb", &"x".repeat(254)] {
            check_name("metadata.name", bad).expect_err(bad);
        }
        for good in ["a", "web-0", "A.b_c", "..x", &"x".repeat(253)] {
            check_name("metadata.name", good).expect(good);
        }
    }

    #[test]
    fn a_long_value_is_shown_shortened_at_a_character() {
        let error = InvalidField::new("f", "é".repeat(100), "too long");
        assert!(error.value.len() <= SHOWN_BYTES + "…".len());
        assert!(error.to_string().starts_with("f: \"éé"));
    }

    #[test]
    fn the_field_path_grows_outwards() {
        let error = InvalidField::new("hostname", "-", "no").within("config");
        assert_eq!(error.to_string(), "config.hostname: \"-\": no");
    }
}
