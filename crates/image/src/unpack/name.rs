//! Entry names: which path below the layer's root they mean, and what whiteouts they spell.
//!
//! Source: OCI image specification, "Image Layer Filesystem Changeset", "Whiteouts".

use std::ffi::{OsStr, OsString};

use super::Failure;
use crate::error::{EntryFault, LimitFault};
use crate::stream::Limits;
use crate::tar_reader::os_string;

const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// Names with this prefix are bookkeeping of aufs, apart from [`OPAQUE_NAME`].
const METADATA_PREFIX: &[u8] = b".wh..wh.";
const OPAQUE_NAME: &[u8] = b".wh..wh..opq";
const MAX_NAME_BYTES: usize = 255;

/// What an entry with this name does.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Make what the entry's type says.
    Make,
    /// Hide this name of the lower layers.
    Whiteout(OsString),
    /// Hide what lower layers have in the entry's directory.
    Opaque,
    /// Nothing.
    Ignore,
}

/// A path below the layer's root: components without `.`, `..`, slashes and NUL.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EntryPath {
    components: Vec<OsString>,
}

impl EntryPath {
    /// Parses a name of an archive. A leading slash means the layer's root.
    pub(super) fn parse(path: &[u8], limits: &Limits) -> Result<Self, Failure> {
        if path.is_empty() || path.contains(&0) {
            return Err(EntryFault::Name.into());
        }
        if path.len() > limits.path_bytes {
            return Err(Failure::Limit(LimitFault::PathLength));
        }
        let mut components = Vec::new();
        for component in path.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return Err(EntryFault::Escapes.into()),
                name if name.len() > MAX_NAME_BYTES => return Err(EntryFault::Name.into()),
                name => components.push(os_string(name)),
            }
        }
        if components.len() > limits.depth {
            return Err(Failure::Limit(LimitFault::Depth));
        }
        Ok(Self { components })
    }

    pub(super) fn components(&self) -> &[OsString] {
        &self.components
    }

    /// The components with slashes between them.
    pub(super) fn joined(&self) -> Vec<u8> {
        self.components.join(OsStr::new("/")).into_encoded_bytes()
    }

    pub(super) fn is_root(&self) -> bool {
        self.components.is_empty()
    }

    /// The last component; `None` for the root.
    pub(super) fn name(&self) -> Option<&OsStr> {
        self.components.last().map(OsString::as_os_str)
    }

    /// All components but the last.
    pub(super) fn parent(&self) -> &[OsString] {
        self.components.split_last().map_or(&[], |(_, parent)| parent)
    }

    pub(super) fn action(&self) -> Result<Action, EntryFault> {
        let starts = |name: &OsStr, prefix| name.as_encoded_bytes().starts_with(prefix);
        if self.parent().iter().any(|name| starts(name, METADATA_PREFIX)) {
            return Ok(Action::Ignore);
        }
        if self.parent().iter().any(|name| starts(name, WHITEOUT_PREFIX)) {
            return Err(EntryFault::Whiteout);
        }
        let name = self.name().map_or(&b""[..], OsStr::as_encoded_bytes);
        if name == OPAQUE_NAME {
            return Ok(Action::Opaque);
        }
        match name.strip_prefix(WHITEOUT_PREFIX) {
            None => Ok(Action::Make),
            Some(b"" | b"." | b"..") => Err(EntryFault::Whiteout),
            Some(_) if name.starts_with(METADATA_PREFIX) => Ok(Action::Ignore),
            Some(hidden) => Ok(Action::Whiteout(os_string(hidden))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str) -> Option<EntryPath> {
        EntryPath::parse(path.as_bytes(), &Limits::default()).ok()
    }

    #[test]
    fn names_stay_below_the_root() {
        for path in ["a/b", "./a/b", "/a/b", "//a//b/", "a/./b/."] {
            assert_eq!(parse(path).unwrap().components(), ["a", "b"], "{path}");
        }
        for path in [".", "/", "./", "//."] {
            assert!(parse(path).unwrap().is_root(), "{path}");
        }
        for path in ["", "..", "../x", "a/../x", "a/../../x", "/..", "a/..", "a\0b"] {
            assert!(parse(path).is_none(), "{path:?}");
        }
    }

    #[test]
    fn long_names_and_paths_are_refused() {
        assert!(parse(&"n".repeat(255)).is_some());
        assert!(parse(&"n".repeat(256)).is_none());
        let limit = |path: &str| match EntryPath::parse(path.as_bytes(), &Limits::default()) {
            Err(Failure::Limit(fault)) => Some(fault),
            _ => None,
        };
        assert_eq!(limit(&"d/".repeat(300)), Some(LimitFault::Depth));
        assert_eq!(limit(&"d/".repeat(10_000)), Some(LimitFault::PathLength));
    }

    #[test]
    fn whiteouts_are_recognised() {
        let action = |path: &str| parse(path).unwrap().action();
        assert_eq!(action("a/b"), Ok(Action::Make));
        assert_eq!(action("a/.wh.b"), Ok(Action::Whiteout("b".into())));
        assert_eq!(action(".wh..b"), Ok(Action::Whiteout(".b".into())));
        assert_eq!(action("a/.wh..wh..opq"), Ok(Action::Opaque));
        assert_eq!(action(".wh..wh.plnk/1.2"), Ok(Action::Ignore));
        assert_eq!(action("a/.wh..wh.aufs"), Ok(Action::Ignore));
        for bad in [".wh.", ".wh..", ".wh...", "a/.wh.", "a/.wh...", ".wh.a/b"] {
            assert_eq!(action(bad), Err(EntryFault::Whiteout), "{bad}");
        }
    }
}
