//! Images, as far as pods and clients need them.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use globset::GlobSet;
use image::{Digest, FsUsage, Garbage, Image, ImageError, Reference};
use model::{ContainerId, ContainerRecord, InvalidField};

use crate::{
    Engine, EngineError, Inner, error::internal, places::Places, records, sandboxes::blocking,
};

impl Engine {
    /// All images.
    ///
    /// # Errors
    /// [`EngineError::Internal`] for a bug only.
    pub async fn images(&self) -> Result<Vec<Image>, EngineError> {
        // The store may have to read records, and wait for an import that is writing some.
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let images = inner.images.list().into_iter();
            Ok(images.map(|image| inner.with_pin(image)).collect())
        })
        .await
    }

    /// The image that `reference` names: id, prefix of an id, tag or digest.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] for what is no reference or an ambiguous one.
    pub async fn image(&self, reference: &str) -> Result<Option<Image>, EngineError> {
        let inner = Arc::clone(&self.inner);
        let reference = reference.to_owned();
        blocking(move || Ok(inner.find_image(&reference)?.map(|image| inner.with_pin(image)))).await
    }

    /// Removes the image that `reference` names with all its tags; layers that containers use stay until the next
    /// collection after their end. An unknown image is removed already.
    ///
    /// CRI `RemoveImage`.
    ///
    /// # Errors
    /// [`EngineError::Internal`] when the disk fails.
    pub async fn remove_image(&self, reference: &str) -> Result<(), EngineError> {
        let garbage = {
            // Whoever makes a container waits for this, but not for the trees to be deleted.
            let _gate = self.inner.image_gate.write().await;
            let (inner, reference) = (Arc::clone(&self.inner), reference.to_owned());
            blocking(move || inner.forget_image(&reference)).await?
        };
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let deleted = inner.images.delete(garbage);
            deleted.map(drop).map_err(|error| internal("delete the image's layers", error))
        })
        .await
    }

    /// Bytes and inodes that images take.
    ///
    /// # Errors
    /// [`EngineError::Internal`] when the disk fails.
    pub async fn image_usage(&self) -> Result<FsUsage, EngineError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.images.usage().map_err(|e| internal("measure the images", e))).await
    }
}

/// Diff-ids of the layers that the containers in `data_dir` are made of, for whoever changes images beside a daemon.
///
/// # Errors
/// As reading a directory; a container whose record cannot be read counts as made of nothing.
pub fn layers_in_use(data_dir: &Path) -> io::Result<HashSet<Digest>> {
    let ids = container_records(data_dir)?
        .into_iter()
        .flat_map(|record| record.diff_ids().map(str::to_owned).collect::<Vec<_>>());
    Ok(ids.filter_map(|id| id.parse().ok()).collect())
}

/// Ids of the images that the containers in `data_dir` are made from or mount, with these containers, for whoever changes
/// images beside a daemon.
///
/// # Errors
/// As [`layers_in_use`].
pub fn images_in_use(data_dir: &Path) -> io::Result<BTreeMap<String, BTreeSet<ContainerId>>> {
    let mut users: BTreeMap<String, BTreeSet<ContainerId>> = BTreeMap::new();
    for record in container_records(data_dir)? {
        let mounted = record.image_volumes.into_iter().map(|volume| volume.id);
        for image in std::iter::once(record.image.id).chain(mounted) {
            users.entry(image).or_default().insert(record.id.clone());
        }
    }
    Ok(users)
}

fn container_records(data_dir: &Path) -> io::Result<Vec<ContainerRecord>> {
    let containers = Places::new(data_dir.to_owned(), PathBuf::new()).containers();
    match records::load_all::<ContainerRecord>(&containers) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        loaded => Ok(loaded?.records.into_iter().map(|(_, record)| record).collect()),
    }
}

/// Whether garbage collection has to leave the image alone: its record says so, or one of `patterns` matches a name.
#[must_use]
pub fn is_pinned(image: &Image, patterns: &GlobSet) -> bool {
    let mut names = image.repo_tags.iter().chain(&image.repo_digests);
    image.pinned || names.any(|name| patterns.is_match(name))
}

/// The registry that a reference is of, such as `docker.io`; `None` for what is no reference.
#[must_use]
pub fn registry_of(reference: &str) -> Option<String> {
    Some(reference.parse::<Reference>().ok()?.domain().to_owned())
}

impl Inner {
    fn forget_image(&self, reference: &str) -> Result<Garbage, EngineError> {
        let (removed, garbage) = self
            .images
            .forget(reference, &self.layers_in_use())
            .map_err(|source| image_failure("remove the image", reference, source))?;
        if let Some(image) = removed {
            self.image_users.forget(&image.id.to_string());
            tracing::info!(image_ref = %image.id, "image removed");
        }
        Ok(garbage)
    }

    pub(crate) fn find_image(&self, reference: &str) -> Result<Option<Image>, EngineError> {
        self.images
            .find(reference)
            .map_err(|source| image_failure("find the image", reference, source))
    }

    /// The image as the configuration wants it shown: pinned when one of its names is.
    fn with_pin(&self, image: Image) -> Image {
        let pinned = is_pinned(&image, &self.pinned);
        Image { pinned, ..image }
    }

    /// Diff-ids of the layers that containers are made of.
    pub(crate) fn layers_in_use(&self) -> HashSet<Digest> {
        let containers = self.registry.all_containers();
        let ids = containers.iter().flat_map(|container| {
            container.record().diff_ids().map(str::to_owned).collect::<Vec<_>>()
        });
        ids.filter_map(|id| id.parse().ok()).collect()
    }
}

/// What clients can mend is theirs; a failing disk is ours.
pub(crate) fn image_failure(
    operation: &'static str,
    reference: &str,
    error: ImageError,
) -> EngineError {
    match error {
        ImageError::InvalidReference { .. }
        | ImageError::InvalidDigest { .. }
        | ImageError::AmbiguousId { .. } => {
            let reason = std::error::Error::source(&error)
                .map_or_else(|| error.to_string(), ToString::to_string);
            InvalidField::new("image", reference, reason).into()
        }
        error => internal(operation, error),
    }
}
