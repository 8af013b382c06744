//! What the child tells its parent: one JSON document.

use std::error::Error;

use image::{ImageError, LayerSummary};
use serde::{Deserialize, Serialize};

use crate::error::UnpackerError;

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
            Err(
                error
                @ (ImageError::Io { .. } | ImageError::Beneath(_) | ImageError::Unpack { .. }),
            ) => Self::Failed { message: chain(&error) },
            Err(error) => Self::Faulty { message: chain(&error) },
        }
    }

    /// The parent's view of it.
    pub(crate) fn into_result(self) -> Result<LayerSummary, UnpackerError> {
        match self {
            Self::Unpacked(summary) => Ok(summary),
            Self::Faulty { message } => Err(UnpackerError::Faulty { message }),
            Self::NoSpace { message } => Err(UnpackerError::NoSpace { message }),
            Self::Failed { message } => Err(UnpackerError::Failed { message }),
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
