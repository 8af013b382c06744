//! How a pull tells what it does.

use image::Digest;

/// A layer of an image that is being pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// What identifies the unpacked layer.
    pub diff_id: Digest,
    /// The blob's digest.
    pub digest: Digest,
    /// The blob's size in bytes.
    pub bytes: u64,
    /// It is here already and will not be downloaded.
    pub present: bool,
}

/// Someone who is told what a pull does. A pull that joins another is told nothing.
pub trait Observer: Send + Sync {
    /// The image's layers are known, base layer first.
    fn layers(&self, layers: &[Layer]) {
        let _ = layers;
    }

    /// So many bytes of a layer's blob have arrived since the last call.
    fn received(&self, diff_id: &Digest, bytes: u64) {
        let _ = (diff_id, bytes);
    }

    /// A layer is in its place.
    fn finished(&self, diff_id: &Digest) {
        let _ = diff_id;
    }
}

/// Nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {}
