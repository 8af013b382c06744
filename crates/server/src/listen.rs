//! Connections to the daemon's socket, from those who may have one.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    net::{UnixListener, UnixStream},
    time::{Sleep, sleep},
};
use tokio_stream::Stream;

/// How long accepting rests after an error such as `EMFILE`, which only time helps.
const REST: Duration = Duration::from_millis(100);
const ROOT: u32 = 0;

/// Accepts connections whose peer is the owner or root, as the user namespace of the daemon counts; drops others.
/// Never ends: no error of one connection is one of the next.
#[derive(Debug)]
pub(crate) struct Incoming {
    listener: UnixListener,
    owner_uid: u32,
    rest: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    /// Takes over a listening socket. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What `fcntl(2)` or `epoll_ctl(2)` say.
    pub(crate) fn new(
        listener: std::os::unix::net::UnixListener,
        owner_uid: u32,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener: UnixListener::from_std(listener)?, owner_uid, rest: None })
    }

    /// Source: `SO_PEERCRED` in `unix(7)`: the uid that the peer had when it connected.
    fn may_connect(&self, stream: &UnixStream) -> bool {
        match stream.peer_cred().map(|peer| peer.uid()) {
            Ok(uid) if is_allowed(uid, self.owner_uid) => true,
            Ok(uid) => {
                let owner_uid = self.owner_uid;
                tracing::warn!(uid, owner_uid, "connection of another user dropped");
                false
            }
            Err(error) => {
                tracing::warn!(%error, "connection without credentials dropped");
                false
            }
        }
    }
}

fn is_allowed(uid: u32, owner_uid: u32) -> bool {
    uid == owner_uid || uid == ROOT
}

impl Stream for Incoming {
    type Item = io::Result<UnixStream>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(rest) = &mut self.rest {
                ready!(rest.as_mut().poll(context));
                self.rest = None;
            }
            match ready!(self.listener.poll_accept(context)) {
                Ok((stream, _)) if self.may_connect(&stream) => {
                    return Poll::Ready(Some(Ok(stream)));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "accept failed; trying again");
                    self.rest = Some(Box::pin(sleep(REST)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::{
        fs::MetadataExt,
        net::{UnixListener as StdListener, UnixStream as StdStream},
    };

    use tokio_stream::StreamExt;

    use super::*;

    /// Connects once and tells whether the connection was accepted.
    async fn connects(owner_uid: impl FnOnce(u32) -> u32) -> bool {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("s");
        let listener = StdListener::bind(&path).expect("bind");
        let own_uid = std::fs::metadata(&path).expect("metadata").uid();
        let mut incoming = Incoming::new(listener, owner_uid(own_uid)).expect("register");
        let _client = StdStream::connect(&path).expect("connect");
        tokio::time::timeout(Duration::from_millis(200), incoming.next()).await.is_ok()
    }

    #[tokio::test]
    async fn the_owner_connects() {
        assert!(connects(|uid| uid).await);
    }

    /// Root is let in whoever owns the socket; as any other user this test meets a closed door.
    #[tokio::test]
    async fn another_user_does_not_connect() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let own_uid = std::fs::metadata(directory.path()).expect("metadata").uid();
        assert_eq!(connects(|uid| uid + 1).await, own_uid == ROOT);
    }

    #[test]
    fn owner_and_root_are_allowed() {
        assert!(is_allowed(1000, 1000) && is_allowed(ROOT, 1000));
        // 65534 is how users outside of the user namespace appear in it.
        assert!(!is_allowed(1001, 1000) && !is_allowed(65534, 0));
    }
}
