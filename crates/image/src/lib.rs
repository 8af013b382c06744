//! Local images: import, the layer store, and what containers need of both.
//!
//! Owns the `images/`, `layers/` and `blobs/` directories: it imports OCI layouts and
//! docker-archives, verifies every digest, size and diff id, unpacks each layer once for
//! overlayfs in a user namespace, and finds, lists and removes images. Image bytes are hostile:
//! every path of a layer is resolved below the layer's own directory descriptor.
//!
//! Never: containers, CRI, tokio. All functions block.

mod archive;
mod config;
mod digest;
mod document;
mod error;
mod platform;
mod reference;
mod source;
mod store;
mod stream;
mod tar_reader;
mod transcript;
mod unpack;

pub use config::ImageConfig;
pub use digest::{Digest, Hasher};
pub use document::{BlobRef, Document, Documents, MAX_DOCUMENT_BYTES, MAX_INDEX_DEPTH, Manifest};
pub use error::{ConfigFault, EntryFault, ImageError, LimitFault, ReferenceFault};
pub use reference::{Reference, Selector};
pub use store::{
    Collected, FsUsage, Garbage, Image, ImportOptions, LayerBlob, Problem, Reservation,
    StagedLayer, Store,
};
pub use stream::Limits;
pub use unpack::{
    Destination, InProcess, LayerSummary, Ownership, Unpack, UnpackOptions, unpack_layer,
    unpack_layer_recording,
};
