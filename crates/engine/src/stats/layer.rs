//! What a container has written to its root file system: a walk through a directory, which is kept rare.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use model::UnixNanos;
use sys::beneath;

use tokio::task::JoinSet;

use crate::{Engine, Inner, clock, create::UPPER, objects::Container};

/// How many directories are walked at the same time.
pub(crate) const LAYER_WALKS: usize = 2;
/// How old a measurement must be before the directory is walked again.
const MIN_AGE: Duration = Duration::from_secs(10);
/// How many times longer than a walk takes its result is good for: walking costs a tenth of a core at most.
const MIN_AGE_IN_WALKS: u32 = 10;
/// How long a caller waits for a walk; then the last result, which tells its own age, has to do.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a container has written to its root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerUsage {
    /// When it was measured.
    pub at: UnixNanos,
    /// Allocated bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
    /// The daemon's data directory, as for images.
    pub mountpoint: PathBuf,
}

/// A container's last measurement.
#[derive(Debug, Default)]
pub(super) struct Layer {
    kept: Mutex<Kept>,
    /// Held by whoever walks.
    gate: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct Kept {
    usage: Option<LayerUsage>,
    /// When it is measured again; `None` before the first time.
    due: Option<Instant>,
}

impl Kept {
    fn is_due(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| due <= now)
    }

    fn keep(&mut self, usage: Option<LayerUsage>, began: Instant, ended: Instant) {
        let took = ended.saturating_duration_since(began);
        self.due = Some(ended + MIN_AGE.max(took.saturating_mul(MIN_AGE_IN_WALKS)));
        self.usage = usage;
    }
}

impl Layer {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// What all containers have written to their root file systems, each as of the last walk or a new one.
    ///
    /// CRI `ImageFsInfo`, `container_filesystems`.
    pub async fn writable_layers_usage(&self) -> LayerUsage {
        let containers = self.inner.registry.containers().into_iter();
        let measured = containers.map(|c| Inner::layer_usage(Arc::clone(&self.inner), c));
        // All at once; how many directories are walked at a time is limited in there.
        let mut measured = JoinSet::from_iter(measured);
        let mountpoint = self.inner.places.data().to_owned();
        let mut sum = LayerUsage { at: clock::now(), bytes: 0, inodes: 0, mountpoint };
        while let Some(layer) = measured.join_next().await {
            let Ok(Some(layer)) = layer else { continue };
            sum.bytes = sum.bytes.saturating_add(layer.bytes);
            sum.inodes = sum.inodes.saturating_add(layer.inodes);
        }
        sum
    }
}

impl Inner {
    /// What `container` has written, as of the last walk or a new one.
    pub(super) async fn layer_usage(
        inner: Arc<Self>,
        container: Arc<Container>,
    ) -> Option<LayerUsage> {
        let renewed = Self::renew_layer(inner, &container);
        // Out of patience: the walk goes on for those who ask later.
        tokio::time::timeout(PATIENCE, renewed).await.ok();
        container.earlier.layer.kept().usage.clone()
    }

    async fn renew_layer(inner: Arc<Self>, container: &Arc<Container>) {
        let ours = Arc::clone(&container.earlier.layer.gate).lock_owned().await;
        if !container.earlier.layer.kept().is_due(Instant::now()) {
            return;
        }
        let container = Arc::clone(container);
        let walk = tokio::spawn(async move {
            let _ours = ours;
            let Ok(_permit) = inner.layer_walks.acquire().await else { return };
            let walker = Arc::clone(&inner);
            tokio::task::spawn_blocking(move || walker.walk_layer(&container)).await.ok();
        });
        walk.await.ok();
    }

    fn walk_layer(&self, container: &Container) {
        let began = Instant::now();
        let record = container.record();
        let measured = measure(&self.places.container(&record.id).join(UPPER), self.places.data());
        // The directory of a container that is being removed may be gone.
        let usage = measured
            .inspect_err(
                |error| tracing::debug!(container_id = %record.id, %error, "measure layer"),
            )
            .ok();
        container.earlier.layer.kept().keep(usage, began, Instant::now());
    }
}

fn measure(directory: &Path, mountpoint: &Path) -> std::io::Result<LayerUsage> {
    let usage = beneath::usage(File::open(directory)?).map_err(std::io::Error::other)?;
    Ok(LayerUsage {
        at: clock::now(),
        bytes: usage.bytes,
        inodes: usage.inodes,
        mountpoint: mountpoint.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_inodes_of_what_was_written() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let empty = measure(directory.path(), Path::new("/data")).expect("measured");
        assert_eq!((empty.bytes, empty.inodes), (0, 0));
        std::fs::write(directory.path().join("file"), vec![1; 100_000]).expect("write");
        let usage = measure(directory.path(), Path::new("/data")).expect("measured");
        assert!(usage.bytes >= 100_000, "{usage:?}");
        assert_eq!((usage.inodes, usage.mountpoint), (1, PathBuf::from("/data")));
        measure(&directory.path().join("gone"), Path::new("/data")).expect_err("nothing there");
    }

    #[test]
    fn a_walk_is_not_repeated_soon_and_a_slow_one_even_later() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut kept = Kept::default();
        assert!(kept.is_due(start), "never measured");
        kept.keep(None, start, start);
        assert!(!kept.is_due(after(9)) && kept.is_due(after(10)));
        kept.keep(None, start, after(3));
        assert!(!kept.is_due(after(32)) && kept.is_due(after(33)));
    }
}
