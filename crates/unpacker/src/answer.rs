//! What the child tells its parent: one JSON document.

use std::error::Error;

use image::{ImageError, LayerSummary};
use serde::{Deserialize, Serialize};

use crate::error::UnpackerError;

/// What of a message is passed on. Longer ones do not fit in an answer of gRPC, and no honest
/// child has more to say.
const MESSAGE_CHARS: usize = 2000;

/// The end of an unpacker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Unpacked(LayerSummary),
    Faulty { message: String },
    NoSpace { message: String },
    Failed { message: String },
}

impl Answer {
    /// What came of the layer.
    pub(crate) fn of(result: Result<LayerSummary, ImageError>) -> Self {
        match result {
            Ok(summary) => Self::Unpacked(summary),
            Err(error) if error.is_no_space() => Self::NoSpace { message: chain(&error) },
            Err(error) if error.is_impossible_entry() => Self::Faulty { message: chain(&error) },
            Err(
                error
                @ (ImageError::Io { .. } | ImageError::Beneath(_) | ImageError::Unpack { .. }),
            ) => Self::Failed { message: chain(&error) },
            Err(error) => Self::Faulty { message: chain(&error) },
        }
    }

    /// The parent's view of it: a layer may have taken over the child, and what it says then must
    /// neither fill nor forge a log.
    pub(crate) fn into_result(self) -> Result<LayerSummary, UnpackerError> {
        match self {
            Self::Unpacked(summary) => Ok(summary),
            Self::Faulty { message } => Err(UnpackerError::Faulty { message: plain(&message) }),
            Self::NoSpace { message } => Err(UnpackerError::NoSpace { message: plain(&message) }),
            Self::Failed { message } => Err(UnpackerError::Failed { message: plain(&message) }),
        }
    }
}

/// An error and its causes, which cannot travel as values.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// One line of bounded length, with everything escaped that is not to be seen or moves the rest.
fn plain(message: &str) -> String {
    let mut text = String::new();
    for character in message.chars().take(MESSAGE_CHARS) {
        if character.is_control() || is_format(character) {
            text.extend(character.escape_unicode());
        } else {
            text.push(character);
        }
    }
    if message.chars().nth(MESSAGE_CHARS).is_some() {
        text.push('…');
    }
    text
}

/// Line ends and changes of direction that are no control characters.
fn is_format(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    fn passed_on(message: &str) -> String {
        let answer = Answer::Faulty { message: message.to_owned() };
        answer.into_result().unwrap_err().to_string()
    }

    #[test]
    fn what_no_kernel_does_is_the_layers_fault() {
        let of = |path: &str, source| {
            let (operation, path) = ("set attribute of", path.to_owned());
            Answer::of(Err(ImageError::Unpack { operation, path, source }))
        };
        assert!(matches!(of("f", Errno::E2BIG), Answer::Faulty { .. }));
        assert!(matches!(of("f", Errno::EIO), Answer::Failed { .. }));
        assert!(matches!(of("f", Errno::ENOSPC), Answer::NoSpace { .. }));
        assert!(matches!(of("", Errno::EINVAL), Answer::Failed { .. }));
    }

    #[test]
    fn a_message_stays_one_line() {
        assert_eq!(passed_on("entry \"ü\" refused"), "entry \"ü\" refused");
        assert_eq!(passed_on("a\nb\u{1b}[31m"), "a\\u{a}b\\u{1b}[31m");
        assert_eq!(passed_on("a\u{2028}b\u{202e}c"), "a\\u{2028}b\\u{202e}c");
    }

    #[test]
    fn a_message_is_cut() {
        let text = passed_on(&"ü".repeat(MESSAGE_CHARS + 1));
        assert_eq!(text.chars().count(), MESSAGE_CHARS + 1);
        assert!(text.ends_with('…'));
        assert!(!passed_on(&"ü".repeat(MESSAGE_CHARS)).ends_with('…'));
    }
}
