//! Client of image registries.
//!
//! Speaks the OCI distribution protocol, which includes Docker's registry API v2. A [`Client`]
//! knows mirrors, certificates and credentials; a [`Repository`] fetches manifests and blobs of
//! one repository, from the first of its endpoints that has them. Everything that a registry says
//! is verified or bounded, and credentials go to nobody but the registry that they are for.
//!
//! Never: what is in a manifest, where a blob goes.
#![forbid(unsafe_code)]

mod address;
mod answer;
mod auth;
mod blob;
mod client;
mod credentials;
mod endpoint;
mod error;
mod exchange;
mod meter;
mod redirect;
mod repository;
mod retry;
mod transport;

pub use blob::Blob;
pub use client::{Client, ClientConfig, RegistrySettings};
pub use credentials::Credentials;
pub use error::{ErrorKind, RegistryError};
pub use repository::{Fetched, Repository};
pub use retry::RetryPolicy;
