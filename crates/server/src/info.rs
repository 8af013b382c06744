//! Values of `info` in verbose answers: JSON, because clients such as crictl print them as such.

use serde_json::Value;

/// Writes a value down. What JSON cannot say, which no type here holds, is shown as null.
pub(crate) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).unwrap_or(Value::Null).to_string()
}
