//! Making an image of documents and layers that are there.

use std::collections::BTreeSet;

use super::record::ImageRecord;
use super::{Image, Store};
use crate::digest::Digest;
use crate::document::Documents;
use crate::error::ImageError;
use crate::reference::{Reference, Selector};

impl Store {
    /// Writes an image's record and documents, and takes its tags from other images.
    ///
    /// Every name, with a tag or not, also becomes a name by digest for each of
    /// `manifest_digests`: the manifest's, and that of an index it was found by. An image that is
    /// there already gains the new names. After a crash the image is there as a whole or not at
    /// all.
    ///
    /// # Errors
    /// [`ImageError::LayerVanished`] when a layer is not there: another process removed it, or it
    /// was never placed. [`ImageError::Beneath`] and [`ImageError::Io`] when the file system
    /// refuses.
    pub fn commit(
        &self,
        documents: &Documents,
        names: &[Reference],
        manifest_digests: &[Digest],
    ) -> Result<Image, ImageError> {
        let _lock = self.root.lock()?;
        let state = self.read_state()?;
        let Documents { id, diff_ids, .. } = documents;
        if let Some(diff_id) = diff_ids.iter().find(|layer| !state.layers.contains_key(layer)) {
            return Err(ImageError::LayerVanished { diff_id: *diff_id });
        }
        let known = state.images.get(id).map(|(record, _)| record.clone());
        let mut record = known.unwrap_or_else(|| ImageRecord::new(*id, diff_ids.clone()));
        let last = state.images.values().map(|(record, _)| record.sequence).max();
        record.sequence = last.map_or(0, |last| last.saturating_add(1));
        add_names(&mut record, names, manifest_digests);
        self.blobs.write(&id.hex(), &documents.config)?;
        if let Some(manifest) = &documents.manifest {
            let digest = Digest::of(manifest);
            self.blobs.write(&digest.hex(), manifest)?;
            record.manifest = Some(digest);
            record.annotations.clone_from(&documents.annotations);
        }
        record.write(&self.images)?;
        for (other, _) in state.images.values().filter(|(other, _)| other.id != *id) {
            let mut rest = other.clone();
            rest.repo_tags.retain(|tag| !record.repo_tags.contains(tag));
            if rest != *other {
                rest.write(&self.images)?;
            }
        }
        let state = self.reload_locked()?;
        let image = state.images.get(id).map(|(_, image)| image.clone());
        image.ok_or_else(|| ImageError::Missing { name: id.to_string() })
    }
}

fn add_names(record: &mut ImageRecord, names: &[Reference], manifest_digests: &[Digest]) {
    let mut tags = BTreeSet::from_iter(std::mem::take(&mut record.repo_tags));
    for name in names {
        if matches!(name.selector(), Selector::Tag(_)) {
            tags.insert(name.to_string());
        }
        for digest in manifest_digests {
            let name = name.with_digest(*digest).to_string();
            if !record.repo_digests.contains(&name) {
                record.repo_digests.push(name);
            }
        }
    }
    record.repo_tags = tags.into_iter().collect();
}
