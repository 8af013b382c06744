//! From a reference to the documents of the image for this machine.

use std::collections::HashSet;
use std::sync::Arc;

use image::{BlobRef, Digest, Document, Documents, ImageError, MAX_INDEX_DEPTH, Manifest};
use image::{Reference, Selector, Store};
use registry::{Fetched, Repository};
use tokio::task::spawn_blocking;

use crate::error::PullError;

/// An image, as far as its documents tell.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) documents: Documents,
    /// The blobs of the layers, base layer first.
    pub(crate) layers: Vec<BlobRef>,
    /// The manifest's digest, after those of the indexes that led to it.
    pub(crate) digests: Vec<Digest>,
}

/// How many documents of one image are looked at; honest indexes have a few for each platform.
const MAX_DOCUMENTS: usize = 32;

/// A document to be looked at.
struct Candidate {
    /// `None` for what the reference names.
    blob: Option<BlobRef>,
    /// Digests of the indexes above it.
    above: Vec<Digest>,
}

pub(crate) struct Resolver<'a> {
    pub(crate) reference: &'a Reference,
    pub(crate) repository: &'a Repository,
    pub(crate) store: &'a Arc<Store>,
}

impl Resolver<'_> {
    /// Follows the reference to an image for this machine; the first one that suits is taken.
    pub(crate) async fn resolve(&self) -> Result<Resolved, PullError> {
        let mut refused = None;
        let mut seen = HashSet::new();
        let mut candidates = vec![Candidate { blob: None, above: Vec::new() }];
        while let Some(Candidate { blob, above }) = candidates.pop() {
            if blob.as_ref().is_some_and(|blob| !seen.insert(blob.digest)) {
                continue;
            }
            if seen.len() > MAX_DOCUMENTS {
                let reference = self.reference.to_string();
                return Err(PullError::TooManyDocuments { reference, limit: MAX_DOCUMENTS });
            }
            let (document, fetched) = match self.document(blob.as_ref()).await {
                // An index may list other things beside images.
                Err(PullError::Image { source: error @ ImageError::MediaType { .. }, .. })
                    if blob.is_some() =>
                {
                    refused = Some(error);
                    continue;
                }
                found => found?,
            };
            let mut digests = above;
            digests.push(fetched.digest);
            match document {
                Document::Manifest(manifest) => {
                    match self.image(fetched.bytes, manifest, digests).await {
                        Err(PullError::Image {
                            source: error @ ImageError::Platform { .. },
                            ..
                        }) => {
                            refused = Some(error);
                        }
                        result => return result,
                    }
                }
                Document::Index(_) if digests.len() >= MAX_INDEX_DEPTH => {
                    let reference = self.reference.to_string();
                    return Err(PullError::Nested { reference, digest: fetched.digest });
                }
                // The last one is looked at first.
                Document::Index(found) => candidates.extend(
                    found
                        .into_iter()
                        .rev()
                        .map(|blob| Candidate { blob: Some(blob), above: digests.clone() }),
                ),
            }
        }
        Err(self.failed(refused.unwrap_or_else(ImageError::no_platform)))
    }

    /// Fetches a manifest or index.
    async fn document(&self, blob: Option<&BlobRef>) -> Result<(Document, Fetched), PullError> {
        let selector = match blob {
            None => self.reference.selector().clone(),
            Some(blob) => Selector::Digest(blob.digest),
        };
        let fetched = self.repository.manifest(&selector).await;
        let fetched = fetched.map_err(|source| self.unavailable(source))?;
        let parsed = match blob {
            None => Document::parse_answer(&fetched.bytes, fetched.media_type.as_deref()),
            Some(blob) => blob
                .verify(&fetched.bytes)
                .and_then(|()| Document::parse(&fetched.bytes, &blob.media_type)),
        };
        Ok((parsed.map_err(|source| self.failed(source))?, fetched))
    }

    async fn image(
        &self,
        bytes: Vec<u8>,
        manifest: Manifest,
        digests: Vec<Digest>,
    ) -> Result<Resolved, PullError> {
        let config = self.config(&manifest.config).await?;
        let described = Some((bytes, manifest.annotations));
        let documents = Documents::new(config, manifest.layers.len(), described);
        let documents = documents.map_err(|source| self.failed(source))?;
        Ok(Resolved { documents, layers: manifest.layers, digests })
    }

    /// The configuration: from the store when an image has it already.
    async fn config(&self, config: &BlobRef) -> Result<Vec<u8>, PullError> {
        let (store, wanted) = (Arc::clone(self.store), config.clone());
        let known = spawn_blocking(move || {
            store.document(&wanted.digest).filter(|bytes| wanted.verify(bytes).is_ok())
        });
        if let Ok(Some(bytes)) = known.await {
            return Ok(bytes);
        }
        let bytes = self.repository.document(&config.digest, config.bytes).await;
        bytes.map_err(|source| self.unavailable(source))
    }

    fn failed(&self, source: ImageError) -> PullError {
        PullError::Image { reference: self.reference.to_string(), source }
    }

    fn unavailable(&self, source: registry::RegistryError) -> PullError {
        PullError::Registry { reference: self.reference.to_string(), source }
    }
}
