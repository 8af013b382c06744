//! CRI v1 as Rust types: the messages and the two services between kubelet and runtime.
//!
//! Everything here is generated from `proto/runtime/v1/api.proto`; this crate owns no logic.
//! Servers implement [`v1::runtime_service_server::RuntimeService`] and
//! [`v1::image_service_server::ImageService`]. The clients need the feature `client`.

/// Package `runtime.v1`.
#[allow(
    clippy::allow_attributes_without_reason,
    clippy::as_conversions,
    clippy::missing_errors_doc,
    missing_docs,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}
