//! CRI clients over a Unix socket.

use std::{
    io,
    os::unix::{fs::MetadataExt, net::UnixStream as StdUnixStream},
    path::Path,
    thread,
    time::Duration,
};

use cri_api::v1::{
    image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use hyper_util::rt::TokioIo;
use nix::unistd::Uid;
use sys::process::set_thread_euid;
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

/// Connects to the daemon that listens at `socket`, as the user who owns the socket: it serves nobody else.
///
/// # Errors
/// When nobody listens there.
pub async fn connect(socket: &Path) -> Result<Cri, tonic::transport::Error> {
    let path = socket.to_owned();
    let connector = service_fn(move |_| {
        let path = path.clone();
        async move { connect_as_owner(&path).map(TokioIo::new) }
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

/// The credentials of a connection are those of the thread that made it.
fn connect_as_owner(socket: &Path) -> io::Result<UnixStream> {
    let owner = Uid::from_raw(std::fs::metadata(socket)?.uid());
    let stream = thread::scope(|scope| {
        let connecting = scope.spawn(|| {
            set_thread_euid(owner)?;
            StdUnixStream::connect(socket)
        });
        connecting.join().unwrap_or_else(|_panic| Err(io::Error::other("connecting panicked")))
    })?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}
