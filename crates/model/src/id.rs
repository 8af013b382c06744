//! Identifiers of sandboxes and containers.

use serde::{Deserialize, Serialize};

/// Bytes of randomness in an identifier.
const ID_BYTES: usize = 32;

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Makes an identifier of 32 random bytes: 64 lower-case hexadecimal digits.
            #[must_use]
            pub fn from_random(bytes: [u8; ID_BYTES]) -> Self {
                Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
            }

            /// The 64 hexadecimal digits. Safe as a file name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 12 digits, for people.
            #[must_use]
            pub fn short(&self) -> &str {
                &self.0[..12]
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            /// Accepts exactly what [`from_random`](Self::from_random) makes.
            fn try_from(text: String) -> Result<Self, String> {
                if is_full_id(&text) { Ok(Self(text)) } else { Err(format!("{text:?} is no id")) }
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

identifier! {
    /// Identifier of a pod sandbox; CRI `pod_sandbox_id`. Shares one space with [`ContainerId`].
    SandboxId
}
identifier! {
    /// Identifier of a container; CRI `container_id`.
    ContainerId
}

fn is_full_id(text: &str) -> bool {
    text.len() == 2 * ID_BYTES && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_64_hex_digits() {
        let id = SandboxId::from_random([0xab; 32]);
        assert_eq!(id.as_str(), "ab".repeat(32));
        assert_eq!(id.short(), "abababababab");
        assert_eq!(SandboxId::try_from(id.to_string()), Ok(id));
    }

    #[test]
    fn nothing_else_is_an_id() {
        for bad in ["", "ab", "../../etc/passwd", &"AB".repeat(32), &"ab".repeat(33)] {
            ContainerId::try_from(bad.to_owned()).expect_err(bad);
        }
    }
}
