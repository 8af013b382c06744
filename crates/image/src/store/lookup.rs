//! Finding an image by id, id prefix or name.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};

use super::record::ImageRecord;
use super::{Image, Store};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::reference::{Reference, Selector};

const ID_PREFIX: &str = "sha256:";
const MIN_PREFIX_DIGITS: usize = 4;

impl Store {
    /// Finds an image by id (with or without `sha256:`), name with tag or digest, or a prefix of
    /// its id of at least four hex digits.
    ///
    /// # Errors
    /// [`ImageError::AmbiguousId`] when several ids begin with the prefix,
    /// [`ImageError::InvalidReference`] when `query` is nothing of all that.
    pub fn find(&self, query: &str) -> Result<Option<Image>, ImageError> {
        find(&self.state().images, query)
    }

    /// The images that a filter means: [`Store::find`]'s, or all tags and digests of a repository
    /// that is named without either.
    ///
    /// # Errors
    /// As [`Store::find`].
    pub fn select(&self, query: &str) -> Result<Vec<Image>, ImageError> {
        let state = self.state();
        if let Some(image) = find(&state.images, query)? {
            return Ok(vec![image]);
        }
        let Ok(reference) = query.parse::<Reference>() else { return Ok(Vec::new()) };
        let repository = reference.repository();
        // A query that names a tag or digest ends with it; the default tag was added by us.
        if query.contains('@') || query.rsplit('/').next().is_some_and(|end| end.contains(':')) {
            return Ok(Vec::new());
        }
        let in_repository = |name: &String| {
            name.parse::<Reference>().is_ok_and(|name| name.repository() == repository)
        };
        let images = state.images.values().map(|(_, image)| image);
        let matches =
            |image: &&Image| image.repo_tags.iter().chain(&image.repo_digests).any(in_repository);
        Ok(images.filter(matches).cloned().collect())
    }
}

type Images = BTreeMap<Digest, (ImageRecord, Image)>;

pub(super) fn find(images: &Images, query: &str) -> Result<Option<Image>, ImageError> {
    let hex = query.strip_prefix(ID_PREFIX).unwrap_or(query);
    if let Ok(id) = Digest::from_hex(hex) {
        return Ok(images.get(&id).map(|(_, image)| image.clone()));
    }
    let reference = query.parse::<Reference>();
    if let Ok(reference) = &reference
        && let Some(image) = by_name(images, reference)
    {
        return Ok(Some(image.clone()));
    }
    let lower_hex = hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if lower_hex && hex.len() >= MIN_PREFIX_DIGITS {
        return by_prefix(images, hex);
    }
    reference.map(|_| None)
}

fn by_name<'a>(images: &'a Images, reference: &Reference) -> Option<&'a Image> {
    let name = reference.to_string();
    let mut images = images.values().map(|(_, image)| image);
    images.find(|image| match reference.selector() {
        Selector::Tag(_) => image.repo_tags.contains(&name),
        Selector::Digest(_) => image.repo_digests.contains(&name),
    })
}

fn by_prefix(images: &Images, prefix: &str) -> Result<Option<Image>, ImageError> {
    let matches = images.iter().filter(|(id, _)| id.hex().starts_with(prefix));
    let matches: Vec<_> = matches.map(|(_, (_, image))| image).collect();
    match matches.as_slice() {
        [] => Ok(None),
        [image] => Ok(Some((*image).clone())),
        several => Err(ImageError::AmbiguousId {
            prefix: prefix.to_owned(),
            candidates: several.iter().map(|image| image.id.to_string()).collect(),
        }),
    }
}

/// Leaves each tag to the image that was imported last with it.
///
/// An import that was interrupted between two records may have left it to two.
pub(super) fn settle_tags(images: &mut Images) {
    let mut latest_first: Vec<_> = images.values_mut().collect();
    latest_first.sort_by_key(|(record, _)| Reverse(record.sequence));
    let mut taken = HashSet::new();
    for (record, image) in latest_first {
        record.repo_tags.retain(|tag| taken.insert(tag.clone()));
        image.repo_tags.clone_from(&record.repo_tags);
    }
}
