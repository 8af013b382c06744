//! One layer: download, unpack and place it in one pass.

use std::io;
use std::sync::Arc;

use image::{Digest, Hasher, ImageError, LayerBlob, Reference, StagedLayer, Store};
use registry::Repository;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::task::spawn_blocking;
use unpacker::{Unpacker, Unpacking};

use crate::error::PullError;
use crate::observe::{Layer, Observer};

/// What fetching a layer takes.
#[derive(Clone)]
pub(crate) struct Fetch {
    pub(crate) reference: Reference,
    pub(crate) repository: Repository,
    pub(crate) store: Arc<Store>,
    pub(crate) unpacker: Unpacker,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) layer: Layer,
}

/// A layer that is being unpacked. The unpacker ends before its directory goes.
struct InProgress {
    unpacking: Unpacking,
    staged: StagedLayer,
}

/// Ending a process and deleting a tree take a while, and the task that is dropped must not.
struct DroppedElsewhere(Option<InProgress>);

impl Drop for DroppedElsewhere {
    fn drop(&mut self) {
        let Some(value) = self.0.take() else { return };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(value))),
            Err(_) => drop(value),
        }
    }
}

impl Fetch {
    /// Brings the layer into the store.
    pub(crate) async fn run(self) -> Result<(), PullError> {
        let mut work = DroppedElsewhere(Some(self.begin().await?));
        let input = work.0.as_mut().and_then(|work| work.unpacking.take_input());
        let fed = match input.map(pipe::Sender::from_owned_fd) {
            Some(Ok(input)) => self.feed(input).await,
            Some(Err(error)) => Err(Stopped::Pipe(error)),
            None => Ok(()),
        };
        match fed {
            Ok(()) => self.finish(work).await,
            // The unpacker has given up, and says why.
            Err(Stopped::Pipe(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.finish(work).await
            }
            Err(Stopped::Pipe(source)) => {
                let (reference, digest) = (self.reference.to_string(), self.layer.digest);
                Err(PullError::Pipe { reference, digest, source })
            }
            Err(Stopped::Digest { expected, actual }) => {
                Err(self.store_failed(ImageError::DigestMismatch { expected, actual }))
            }
            Err(Stopped::Registry(source)) => {
                Err(PullError::Registry { reference: self.reference.to_string(), source })
            }
        }
    }

    /// Makes the layer's directory and starts the process that fills it.
    async fn begin(&self) -> Result<InProgress, PullError> {
        let (store, unpacker) = (Arc::clone(&self.store), self.unpacker.clone());
        let begun = spawn_blocking(move || {
            let staged = store.stage().map_err(Begin::Store)?;
            let unpacking = unpacker
                .start(staged.destination(), store.unpack_options())
                .map_err(Begin::Unpacker)?;
            Ok(InProgress { unpacking, staged })
        });
        match begun.await {
            Ok(Ok(work)) => Ok(work),
            Ok(Err(Begin::Store(source))) => Err(self.store_failed(source)),
            Ok(Err(Begin::Unpacker(source))) => Err(self.unpacker_failed(source)),
            Err(_) => Err(self.interrupted()),
        }
    }

    /// Passes the blob's bytes on to the unpacker, and verifies them: whoever parses hostile bytes is not the one to
    /// say what they were.
    async fn feed(&self, mut input: pipe::Sender) -> Result<(), Stopped> {
        let mut hasher = Hasher::default();
        let blob = self.repository.blob(&self.layer.digest, self.layer.bytes).await;
        let mut blob = blob.map_err(Stopped::Registry)?;
        while let Some(chunk) = blob.chunk().await.map_err(Stopped::Registry)? {
            hasher.update(&chunk);
            input.write_all(&chunk).await.map_err(Stopped::Pipe)?;
            self.observer
                .received(&self.layer.diff_id, u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        }
        let (expected, actual) = (self.layer.digest, hasher.finish());
        if actual == expected { Ok(()) } else { Err(Stopped::Digest { expected, actual }) }
    }

    /// Waits for the unpacker and places what it made. Goes on when the caller leaves: the layer
    /// is complete by then, and without a record it is garbage.
    async fn finish(&self, mut work: DroppedElsewhere) -> Result<(), PullError> {
        let Some(InProgress { unpacking, staged }) = work.0.take() else { return Ok(()) };
        let (store, layer) = (Arc::clone(&self.store), self.layer.clone());
        let placed = spawn_blocking(move || {
            let summary = unpacking.wait().map_err(Begin::Unpacker)?;
            let (name, digest) = (layer.digest.to_string(), Some(layer.digest));
            let blob = LayerBlob { name, digest, bytes: layer.bytes };
            store.place(staged, &summary, &blob, &layer.diff_id).map_err(Begin::Store)
        });
        match placed.await {
            Ok(Ok(())) => {
                self.observer.finished(&self.layer.diff_id);
                Ok(())
            }
            Ok(Err(Begin::Store(source))) => Err(self.store_failed(source)),
            Ok(Err(Begin::Unpacker(source))) => Err(self.unpacker_failed(source)),
            Err(_) => Err(self.interrupted()),
        }
    }

    fn store_failed(&self, source: image::ImageError) -> PullError {
        PullError::Image { reference: self.reference.to_string(), source }
    }

    fn unpacker_failed(&self, source: unpacker::UnpackerError) -> PullError {
        let (reference, digest) = (self.reference.to_string(), self.layer.digest);
        PullError::Layer { reference, digest, source }
    }

    fn interrupted(&self) -> PullError {
        PullError::Interrupted { reference: self.reference.to_string() }
    }
}

/// Whose failure it was.
enum Begin {
    Store(image::ImageError),
    Unpacker(unpacker::UnpackerError),
}

/// Why not all bytes reached the unpacker.
enum Stopped {
    Registry(registry::RegistryError),
    Digest { expected: Digest, actual: Digest },
    Pipe(io::Error),
}
