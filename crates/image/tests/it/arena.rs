//! A place to unpack hostile layers in, with witnesses around it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use image::{ImageError, LayerSummary, Limits, Ownership, UnpackOptions, unpack_layer};
use tempfile::TempDir;

use crate::fixture::ownership;

/// A layer's directory `inside` and, beside it, files that must not change.
pub(crate) struct Arena {
    dir: TempDir,
    before: Vec<String>,
}

impl Arena {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("inside")).unwrap();
        fs::create_dir_all(dir.path().join("outside/sub")).unwrap();
        fs::write(dir.path().join("outside/victim"), "secret").unwrap();
        let before = describe(&dir.path().join("outside"));
        Self { dir, before }
    }

    pub(crate) fn outside(&self) -> String {
        self.dir.path().join("outside").to_str().unwrap().to_owned()
    }

    pub(crate) fn inside(&self) -> PathBuf {
        self.dir.path().join("inside")
    }

    pub(crate) fn unpack(&self, blob: &[u8], limits: Limits) -> Result<LayerSummary, ImageError> {
        self.unpack_as(blob, limits, ownership())
    }

    pub(crate) fn unpack_as(
        &self,
        blob: &[u8],
        limits: Limits,
        ownership: Ownership,
    ) -> Result<LayerSummary, ImageError> {
        let target = fs::File::open(self.inside()).unwrap();
        let result = unpack_layer(blob, &target, &UnpackOptions { ownership, limits });
        self.check_outside("unpacked");
        result
    }

    /// Walks the tree outside and compares it with what it was.
    pub(crate) fn check_outside(&self, what: &str) {
        assert_eq!(describe(&self.dir.path().join("outside")), self.before, "{what}");
        let entries = fs::read_dir(self.dir.path()).unwrap().count();
        assert_eq!(entries, 2, "{what}: only inside and outside");
    }
}

/// Everything below `path` with what an attacker could change of it.
fn describe(path: &Path) -> Vec<String> {
    let metadata = fs::symlink_metadata(path).unwrap();
    let mut lines = vec![format!(
        "{path:?} {:o} {} {} {} {} {}",
        metadata.mode(),
        metadata.uid(),
        metadata.nlink(),
        metadata.mtime_nsec(),
        metadata.ctime_nsec(),
        metadata.len(),
    )];
    if metadata.is_dir() {
        let mut children: Vec<_> =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        children.sort();
        lines.extend(children.iter().flat_map(|child| describe(child)));
    }
    lines
}
