//! What a registry has.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

/// Blobs of all repositories, manifests of each.
#[derive(Debug, Default)]
pub(super) struct Content {
    blobs: HashMap<String, Vec<u8>>,
    /// By repository and tag or digest.
    manifests: HashMap<(String, String), Manifest>,
}

#[derive(Clone, Debug)]
pub(super) struct Manifest {
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) content: Vec<u8>,
}

impl Content {
    pub(super) fn add_blob(&mut self, content: &[u8]) -> String {
        let digest = digest(content);
        self.blobs.insert(digest.clone(), content.to_owned());
        digest
    }

    pub(super) fn add_manifest(&mut self, name: &str, media_type: &str, content: &[u8]) -> String {
        let digest = digest(content);
        let (repository, tag) = name.split_once(':').expect("a name is repository:tag");
        let manifest = Manifest {
            media_type: media_type.to_owned(),
            digest: digest.clone(),
            content: content.to_owned(),
        };
        for reference in [tag, &digest] {
            let key = (repository.to_owned(), reference.to_owned());
            self.manifests.insert(key, manifest.clone());
        }
        digest
    }

    pub(super) fn blob(&self, digest: &str) -> Option<&[u8]> {
        self.blobs.get(digest).map(Vec::as_slice)
    }

    pub(super) fn manifest(&self, repository: &str, reference: &str) -> Option<&Manifest> {
        self.manifests.get(&(repository.to_owned(), reference.to_owned()))
    }
}

fn digest(content: &[u8]) -> String {
    let hex: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
