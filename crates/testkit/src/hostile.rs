//! Layers that an attacker builds, byte by byte, with what has to become of each.
//!
//! Each is refused or confined, and nothing outside the layer's own directory changes: not the
//! directory [`layers`] is told of, which the layers aim at, and nothing else either.

use std::path::Path;

pub mod archive;
mod compression;
mod entries;
mod headers;
mod links;
mod names;
mod whiteouts;

pub use compression::{gzip, gzip_bomb, zstd, zstd_bomb};
pub use entries::{many_entries, truncated};

/// A layer, and what has to become of it.
#[derive(Clone, Debug)]
pub struct Hostile {
    /// Which attack it is; unique.
    pub name: &'static str,
    /// The layer as a registry would offer it.
    pub blob: Vec<u8>,
    /// The uncompressed archive, of which the diff id is the digest.
    pub archive: Vec<u8>,
    /// What has to become of it.
    pub expect: Expect,
}

/// What has to become of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// It is refused with an error that contains this text.
    Refused(&'static str),
    /// It is unpacked, and then has these paths.
    Confined(&'static [(&'static str, Shape)]),
}

/// What is at a path of an unpacked layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Nothing.
    Absent,
    /// A regular file with this content.
    File(&'static str),
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A FIFO.
    Fifo,
    /// What overlayfs takes for a whiteout.
    Whiteout,
}

impl Hostile {
    fn refused(name: &'static str, archive: Vec<u8>, text: &'static str) -> Self {
        Self { name, blob: archive.clone(), archive, expect: Expect::Refused(text) }
    }

    fn confined(
        name: &'static str,
        archive: Vec<u8>,
        shapes: &'static [(&'static str, Shape)],
    ) -> Self {
        Self { name, blob: archive.clone(), archive, expect: Expect::Confined(shapes) }
    }

    fn compressed(self, blob: Vec<u8>) -> Self {
        Self { blob, ..self }
    }
}

/// Parts of error messages.
mod text {
    pub(super) const ESCAPES: &str = "it leaves the layer's root";
    pub(super) const PARENT: &str = "a parent is not a directory of this layer";
    pub(super) const NAME: &str = "the name is malformed";
    pub(super) const ROOT: &str = "the layer's root is not a directory";
    pub(super) const WHITEOUT: &str = "the whiteout is malformed";
    pub(super) const LINK_TARGET: &str = "the hard link's target is not a file of this layer";
    pub(super) const SYMLINK_TARGET: &str = "the symbolic link's target is malformed";
    pub(super) const OWNER: &str = "the owner is not mapped";
    pub(super) const TYPE: &str = "the entry type is not supported";
    pub(super) const AMBIGUOUS: &str = "the header is ambiguous";
    pub(super) const MALFORMED: &str = "malformed layer archive";
    pub(super) const READ: &str = "read layer";
    pub(super) const BYTES: &str = "unpacked bytes";
    pub(super) const DEPTH: &str = "directory depth";
    pub(super) const PATH_LENGTH: &str = "path length";
    pub(super) const HEADER: &str = "header size";
}

/// All layers that are small; they aim at the directory `outside` with the file `victim` and the
/// directory `sub`. Its path has at most 80 bytes.
#[must_use]
pub fn layers(outside: &Path) -> Vec<Hostile> {
    let outside = outside.to_str().expect("a path in UTF-8");
    [
        names::layers(outside),
        links::layers(outside),
        whiteouts::layers(outside),
        entries::layers(),
        headers::layers(),
        compression::layers(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_attack_has_a_name_of_its_own() {
        let layers = layers(Path::new("/outside"));
        let names: HashSet<_> = layers.iter().map(|layer| layer.name).collect();
        assert_eq!(names.len(), layers.len());
        assert!(layers.len() > 100, "{}", layers.len());
    }
}
