//! Removing images, and the layers and documents that nothing needs any more.

use std::collections::HashSet;
use std::ffi::OsString;
use std::sync::PoisonError;

use super::directory::Claimed;
use super::{Image, State, Store, lookup, record};
use crate::digest::Digest;
use crate::error::ImageError;

/// What a collection removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collected {
    /// Layers.
    pub layers: u64,
    /// Allocated bytes of these layers.
    pub bytes: u64,
    /// Configurations and manifests.
    pub documents: u64,
}

/// Layers that are out of use and still have to be deleted; dropped, they are at the next start.
#[derive(Debug, Default)]
pub struct Garbage {
    claimed: Vec<Claimed>,
    collected: Collected,
    inodes: u64,
}

impl Store {
    /// Removes the image that `query` finds, with all its names, and what only it needed.
    ///
    /// Layers in `in_use`, which are those of containers, stay until
    /// [`Store::collect_garbage`] is called without them. The image is gone even when its layers
    /// cannot be deleted. A broken record is removed by its id. `None` when nothing is found.
    ///
    /// # Errors
    /// As [`Store::find`]; [`ImageError::Io`] and [`ImageError::Beneath`] when files cannot be
    /// deleted.
    pub fn remove(
        &self,
        query: &str,
        in_use: &HashSet<Digest>,
    ) -> Result<Option<Image>, ImageError> {
        let (removed, garbage) = self.forget(query, in_use)?;
        self.delete(garbage)?;
        Ok(removed)
    }

    /// As [`Store::remove`], but leaves the layers for [`Store::delete`]: they are out of use, so that
    /// nobody has to wait while trees are deleted.
    ///
    /// # Errors
    /// As [`Store::remove`].
    pub fn forget(
        &self,
        query: &str,
        in_use: &HashSet<Digest>,
    ) -> Result<(Option<Image>, Garbage), ImageError> {
        let removed = {
            let _lock = self.root.lock()?;
            let state = self.read_state()?;
            let found = lookup::find(&state.images, query)?;
            let broken = || {
                let hex = query.strip_prefix("sha256:").unwrap_or(query);
                let id = Digest::from_hex(hex).ok()?;
                state.problems.iter().any(|problem| problem.id == Some(id)).then_some(id)
            };
            let Some(id) = found.as_ref().map(|image| image.id).or_else(broken) else {
                return Ok((None, Garbage::default()));
            };
            self.images.remove_file(&record::file_name(&id))?;
            self.images.sync()?;
            found
        };
        Ok((removed, self.claim(in_use)?))
    }

    /// Sets whether image garbage collection has to leave the image alone.
    ///
    /// # Errors
    /// As [`Store::find`]; [`ImageError::Io`] when the record cannot be written.
    pub fn set_pinned(&self, query: &str, pinned: bool) -> Result<Option<Image>, ImageError> {
        let id = {
            let _lock = self.root.lock()?;
            let state = self.read_state()?;
            let Some(image) = lookup::find(&state.images, query)? else { return Ok(None) };
            if let Some((known, _)) = state.images.get(&image.id) {
                let mut changed = known.clone();
                changed.pinned = pinned;
                changed.write(&self.images)?;
            }
            image.id
        };
        Ok(self.reload()?.images.get(&id).map(|(_, image)| image.clone()))
    }

    /// Deletes layers that neither an image nor `in_use` needs, unused documents, and what
    /// interrupted imports and pulls have left.
    ///
    /// # Errors
    /// The first failure; everything else has been tried.
    pub fn collect_garbage(&self, in_use: &HashSet<Digest>) -> Result<Collected, ImageError> {
        let garbage = self.claim(in_use)?;
        self.delete(garbage)
    }

    /// Takes layers out of use that neither an image nor `in_use` needs, and deletes unused documents.
    ///
    /// # Errors
    /// The first failure; what was claimed by then is deleted at the next start.
    pub fn claim(&self, in_use: &HashSet<Digest>) -> Result<Garbage, ImageError> {
        let garbage = {
            let _lock = self.root.lock()?;
            let state = self.read_state()?;
            self.claim_garbage(&state, in_use)?
        };
        // Before the trees vanish, so that readers miss nothing: they are counted apart.
        self.count_deleting(|deleting| {
            deleting.0 = deleting.0.saturating_add(garbage.collected.bytes);
            deleting.1 = deleting.1.saturating_add(garbage.inodes);
        });
        self.reload()?;
        Ok(garbage)
    }

    /// Deletes what was claimed, and what interrupted imports and pulls have left.
    ///
    /// # Errors
    /// The first failure; everything else has been tried.
    pub fn delete(&self, garbage: Garbage) -> Result<Collected, ImageError> {
        let Garbage { claimed, collected, inodes } = garbage;
        let removed = self.layers.remove_claimed(claimed).and(self.sweep());
        self.count_deleting(|deleting| {
            deleting.0 = deleting.0.saturating_sub(collected.bytes);
            deleting.1 = deleting.1.saturating_sub(inodes);
        });
        removed?;
        Ok(collected)
    }

    fn count_deleting(&self, change: impl FnOnce(&mut (u64, u64))) {
        change(&mut self.deleting.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes unneeded layers out of use and removes unneeded documents; the lock is held.
    fn claim_garbage(
        &self,
        state: &State,
        in_use: &HashSet<Digest>,
    ) -> Result<Garbage, ImageError> {
        let records = || state.images.values().map(|(record, _)| record);
        let mut needed: HashSet<Digest> = in_use | &state.claimed;
        needed.extend(records().flat_map(|record| record.diff_ids.iter().copied()));
        needed.extend(self.reserved.lock().unwrap_or_else(PoisonError::into_inner).iter());
        let mut claimed = Vec::new();
        let mut collected = Collected::default();
        let mut inodes = 0_u64;
        for entry in self.layers.list()? {
            let diff_id = entry.name.to_str().and_then(Digest::from_directory_name);
            let Some(diff_id) = diff_id.filter(|diff_id| !needed.contains(diff_id)) else {
                continue;
            };
            let Some(layer) = self.layers.claim(&entry.name)? else { continue };
            claimed.push(layer);
            collected.layers += 1;
            if let Some(layer) = state.layers.get(&diff_id) {
                collected.bytes = collected.bytes.saturating_add(layer.disk_bytes);
                inodes = inodes.saturating_add(layer.inodes);
            }
        }
        // A broken record may need any document.
        if state.problems.iter().all(|problem| problem.id.is_none()) {
            let kept: HashSet<OsString> = records()
                .flat_map(|record| [Some(record.id), record.manifest])
                .flatten()
                .map(|digest| digest.hex().into())
                .collect();
            for entry in self.blobs.list()? {
                if let Some(name) = entry.name.to_str().filter(|_| !kept.contains(&entry.name)) {
                    self.blobs.remove_file(name)?;
                    collected.documents += 1;
                }
            }
        }
        Ok(Garbage { claimed, collected, inodes })
    }
}
