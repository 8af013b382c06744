//! CRI clients over a Unix socket.

use std::{path::Path, time::Duration};

use cri_api::v1::{
    image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

/// A call that takes longer has hung.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// What the kubelet's client receives at most.
const MESSAGE_MAX_BYTES: usize = 16 << 20;

/// Both services of one daemon.
#[derive(Clone, Debug)]
pub struct Cri {
    /// Pods and containers.
    pub runtime: RuntimeServiceClient<Channel>,
    /// Images.
    pub images: ImageServiceClient<Channel>,
}

/// Connects to the daemon that listens at `socket`.
///
/// # Errors
/// When nobody listens there.
pub async fn connect(socket: &Path) -> Result<Cri, tonic::transport::Error> {
    let path = socket.to_owned();
    let connector = service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The address is for the HTTP header only; the connector knows the socket.
    let endpoint = Endpoint::from_static("http://localhost").timeout(CALL_TIMEOUT);
    let channel = endpoint.connect_with_connector(connector).await?;
    let runtime = RuntimeServiceClient::new(channel.clone())
        .max_decoding_message_size(MESSAGE_MAX_BYTES)
        .max_encoding_message_size(2 * MESSAGE_MAX_BYTES);
    let images = ImageServiceClient::new(channel).max_decoding_message_size(MESSAGE_MAX_BYTES);
    Ok(Cri { runtime, images })
}
