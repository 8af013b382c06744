//! Pulls images: registry, unpacker and store in one pass.
//!
//! ```text
//! manifest → configuration → for each layer: download → confined unpacker → place → commit
//! ```
//!
//! A layer's bytes go from the registry's connection into the unpacker's pipe; no compressed copy
//! is kept, so the peak of disk use is the unpacked image. Layers are unpacked side by side. Pulls
//! of one image, and layers that images share, are joined while they run; a pull that everybody
//! has left ends and leaves nothing.
//!
//! Never: HTTP, tar, records; these are crates `registry`, `unpacker` and `image`.
#![forbid(unsafe_code)]

mod error;
mod joint;
mod layer;
mod observe;
mod puller;
mod resolve;

pub use error::{PullError, PullErrorKind};
pub use observe::{Layer, Observer, Unobserved};
pub use puller::{PullOptions, Puller};
pub use registry::Credentials;
