//! Client of OCI registries.
