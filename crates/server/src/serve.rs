//! The server on its socket.

use std::{convert::Infallible, future::Future, io, os::unix::net::UnixListener, time::Duration};

use cri_api::v1::{
    image_service_server::{self, ImageServiceServer},
    runtime_service_server::RuntimeServiceServer,
};
use engine::Engine;
use thiserror::Error;
use tokio::sync::Notify;
use tonic::{
    Code, Status,
    body::Body,
    codegen::{
        Service,
        http::{HeaderValue, Request, Response},
    },
    transport::Server,
};
use tower::service_fn;

use crate::{listen::Incoming, paging::MESSAGE_BYTES, service::Cri};

/// Calls that one connection may have open; the kubelet puts all of a node's on one.
const CALLS_PER_CONNECTION: u32 = 4096;
/// How long calls may go on after the daemon was told to end. Their work in pods goes on without them.
const GRACE: Duration = Duration::from_secs(5);

/// Why the server ended.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The listening socket cannot be used.
    #[error("watch the CRI socket")]
    Listen(#[source] io::Error),
    /// The server failed.
    #[error("serve the CRI")]
    Serve(#[source] tonic::transport::Error),
}

/// Answers CRI calls on `listener` until `shutdown` is done, and then lets open calls end for 5 s.
///
/// Only peers whose uid is `owner_uid` or 0, as the daemon's user namespace counts, are listened to. Must run inside a
/// tokio runtime.
///
/// # Errors
/// [`ServerError`] when the socket or the server fails; one connection's failure is not the server's.
pub async fn serve(
    listener: UnixListener,
    engine: Engine,
    owner_uid: u32,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServerError> {
    let incoming = Incoming::new(listener, owner_uid).map_err(ServerError::Listen)?;
    let cri = Cri::new(engine);
    let told = Notify::new();
    let served = Server::builder()
        .max_concurrent_streams(CALLS_PER_CONNECTION)
        .serve_with_incoming_shutdown(services(cri), incoming, async {
            shutdown.await;
            told.notify_one();
        });
    let overdue = async {
        told.notified().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        result = served => result.map_err(ServerError::Serve),
        () = overdue => {
            tracing::warn!("calls were still open at the end");
            Ok(())
        }
    }
}

/// Both services; the first part of a call's path names one. `RuntimeService` refuses what is neither's.
fn services(
    cri: Cri,
) -> impl Service<
    Request<Body>,
    Response = Response<Body>,
    Error = Infallible,
    Future: Future<Output = Result<Response<Body>, Infallible>> + Send,
> + Clone
+ Send {
    let runtime = RuntimeServiceServer::new(cri.clone())
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES);
    let images = ImageServiceServer::new(cri)
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES);
    service_fn(move |request: Request<Body>| {
        let (mut runtime, mut images) = (runtime.clone(), images.clone());
        async move {
            let named = request.uri().path().split('/').nth(1);
            let response = if named == Some(image_service_server::SERVICE_NAME) {
                images.call(request).await
            } else {
                runtime.call(request).await
            };
            response.map(too_large_is_exhausted)
        }
    })
}

/// tonic refuses a message above the limit with `OutOfRange`, which nothing else here says; gRPC's own word for it is
/// `ResourceExhausted`.
fn too_large_is_exhausted(mut response: Response<Body>) -> Response<Body> {
    let header =
        response.headers().get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()));
    if header == Some(Code::OutOfRange) {
        let code = HeaderValue::from(i32::from(Code::ResourceExhausted));
        response.headers_mut().insert(Status::GRPC_STATUS, code);
    }
    response
}
