//! Pulling an image as a whole.

use std::collections::HashSet;
use std::sync::Arc;

use image::{Image, ImageError, Reference, Store};
use registry::{Client, Credentials, Repository};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};
use unpacker::Unpacker;

use crate::error::{PullError, PullErrorKind};
use crate::joint::{Joint, Outcome};
use crate::layer::Fetch;
use crate::observe::{Layer, Observer};
use crate::resolve::{Resolved, Resolver};

/// How often layers are pulled again that a removal took away meanwhile, and how often work of
/// another pull may fail that this one joined.
const ATTEMPTS: usize = 3;

/// Layers of all images that are unpacked at a time.
const MAX_UNPACKERS: usize = 16;

/// How images are pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PullOptions {
    /// Layers of one image that are downloaded and unpacked at a time, each by a process.
    pub parallel_layers: usize,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self { parallel_layers: 4 }
    }
}

/// Pulls images into a store; clones share what is running.
#[derive(Clone, Debug)]
pub struct Puller {
    shared: Arc<Shared>,
}

type Shareable<T> = Result<T, Arc<PullError>>;

/// A layer as one registry offers it: pulls from elsewhere must not wait for a registry that trickles.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct LayerKey {
    domain: String,
    digest: image::Digest,
    diff_id: image::Digest,
}

#[derive(Debug)]
struct Shared {
    store: Arc<Store>,
    registry: Client,
    unpacker: Unpacker,
    options: PullOptions,
    pulls: Joint<(Reference, Option<Credentials>), Shareable<Image>>,
    layers: Joint<LayerKey, Shareable<()>>,
    /// Unpackers of all pulls; each has its memory and a pipe.
    unpackers: Semaphore,
}

/// One pull.
struct Pull {
    shared: Arc<Shared>,
    reference: Reference,
    repository: Repository,
    observer: Arc<dyn Observer>,
}

impl Puller {
    /// Makes a puller for `store`.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        registry: Client,
        unpacker: Unpacker,
        options: PullOptions,
    ) -> Self {
        let (pulls, layers) = (Joint::default(), Joint::default());
        let unpackers = Semaphore::new(MAX_UNPACKERS);
        let shared = Shared { store, registry, unpacker, options, pulls, layers, unpackers };
        Self { shared: Arc::new(shared) }
    }

    /// Brings the image into the store under the name `reference`.
    ///
    /// A tag is always looked up anew; layers that are here are not downloaded. A pull with the
    /// same reference and credentials that is running is joined, and `observer` is told nothing.
    /// Dropping the future leaves the pull; when the last one leaves, the work ends. Layers that
    /// were complete by then stay until the next [`Store::collect_garbage`].
    ///
    /// # Errors
    /// See [`PullError`]; the store has no part of the image then.
    pub async fn pull(
        &self,
        reference: &Reference,
        credentials: Option<Credentials>,
        observer: Arc<dyn Observer>,
    ) -> Result<Image, Arc<PullError>> {
        let key = (reference.clone(), credentials.clone());
        let begin = || {
            let pull = Pull {
                repository: self.shared.registry.repository(reference, credentials),
                shared: Arc::clone(&self.shared),
                reference: reference.clone(),
                observer,
            };
            async move { pull.run().await }
        };
        match self.shared.pulls.run(key, begin).await {
            Outcome::Own(result) | Outcome::Joined(result) => result,
            Outcome::Interrupted => Err(interrupted(reference)),
        }
    }
}

fn interrupted(reference: &Reference) -> Arc<PullError> {
    Arc::new(PullError::Interrupted { reference: reference.to_string() })
}

impl Pull {
    async fn run(self) -> Shareable<Image> {
        let resolver = Resolver {
            reference: &self.reference,
            repository: &self.repository,
            store: &self.shared.store,
        };
        let resolved = Arc::new(resolver.resolve().await?);
        // Until the image's record names its layers.
        let _reservation = self.shared.store.reserve(resolved.documents.diff_ids());
        let mut attempt = 1;
        loop {
            self.fetch_layers(&resolved).await?;
            match self.commit(&resolved).await? {
                Err(ImageError::LayerVanished { .. }) if attempt < ATTEMPTS => attempt += 1,
                result => return result.map_err(|source| self.failed(source)),
            }
        }
    }

    /// Fetches the layers that are not here, side by side. The first failure ends all.
    async fn fetch_layers(&self, resolved: &Resolved) -> Shareable<()> {
        let layers = self.layers(resolved).await?;
        self.observer.layers(&layers);
        let mut wanted: Vec<Layer> = layers.into_iter().filter(|layer| !layer.present).collect();
        // The largest first, so that none is left alone at the end.
        wanted.sort_by_key(|layer| std::cmp::Reverse(layer.bytes));
        let mut once = HashSet::new();
        wanted.retain(|layer| once.insert(layer.diff_id));
        let permits = Arc::new(Semaphore::new(self.shared.options.parallel_layers.max(1)));
        let mut fetches = JoinSet::new();
        for layer in wanted {
            let (fetch, permits) = (self.fetch(&layer), Arc::clone(&permits));
            let shared = Arc::clone(&self.shared);
            fetches.spawn(async move {
                let _permit = permits.acquire_owned().await;
                shared.fetch_layer(fetch).await
            });
        }
        while let Some(fetched) = fetches.join_next().await {
            fetched.unwrap_or_else(|_| Err(interrupted(&self.reference)))?;
        }
        Ok(())
    }

    async fn layers(&self, resolved: &Resolved) -> Shareable<Vec<Layer>> {
        let pairs = resolved.layers.iter().zip(resolved.documents.diff_ids());
        let layers = pairs.map(|(blob, diff_id)| Layer {
            diff_id: *diff_id,
            digest: blob.digest,
            bytes: blob.bytes,
            present: false,
        });
        let (mut layers, store) = (layers.collect::<Vec<_>>(), Arc::clone(&self.shared.store));
        let looked_up = spawn_blocking(move || {
            for layer in &mut layers {
                layer.present = store.has_layer(&layer.diff_id);
            }
            layers
        });
        looked_up.await.map_err(|_ending| interrupted(&self.reference))
    }

    fn fetch(&self, layer: &Layer) -> Fetch {
        Fetch {
            reference: self.reference.clone(),
            repository: self.repository.clone(),
            store: Arc::clone(&self.shared.store),
            unpacker: self.shared.unpacker.clone(),
            observer: Arc::clone(&self.observer),
            layer: layer.clone(),
        }
    }

    async fn commit(&self, resolved: &Arc<Resolved>) -> Shareable<Result<Image, ImageError>> {
        let (store, resolved) = (Arc::clone(&self.shared.store), Arc::clone(resolved));
        let names = [self.reference.clone()];
        let committed =
            spawn_blocking(move || store.commit(&resolved.documents, &names, &resolved.digests));
        committed.await.map_err(|_ending| interrupted(&self.reference))
    }

    fn failed(&self, source: ImageError) -> Arc<PullError> {
        Arc::new(PullError::Image { reference: self.reference.to_string(), source })
    }
}

impl Shared {
    /// Fetches a layer, or waits for another pull that is fetching it. What fails for the other,
    /// which may have other credentials, need not fail here.
    async fn fetch_layer(self: &Arc<Self>, fetch: Fetch) -> Shareable<()> {
        let key = LayerKey {
            domain: fetch.reference.domain().to_owned(),
            digest: fetch.layer.digest,
            diff_id: fetch.layer.diff_id,
        };
        for _ in 1..ATTEMPTS {
            let (shared, own) = (Arc::clone(self), fetch.clone());
            let begin = || async move { shared.fetch_alone(own).await };
            match self.layers.run(key.clone(), begin).await {
                Outcome::Own(result) | Outcome::Joined(result @ Ok(())) => return result,
                Outcome::Joined(Err(_)) => {}
                Outcome::Interrupted => return Err(interrupted(&fetch.reference)),
            }
        }
        self.fetch_alone(fetch).await
    }

    /// Fetches a layer; once more from the registry itself if a mirror's bytes were not the layer's.
    async fn fetch_alone(&self, fetch: Fetch) -> Shareable<()> {
        let reference = fetch.reference.clone();
        let turn = self.unpackers.acquire().await;
        let _turn = turn.map_err(|_closed| interrupted(&reference))?;
        let again = fetch.repository.without_mirrors();
        let again = again.map(|repository| Fetch { repository, ..fetch.clone() });
        match (fetch.run().await, again) {
            (Err(error), Some(again)) if error.kind() == PullErrorKind::Faulty => {
                tracing::info!(?error, "a mirror's layer is faulty; asking the registry itself");
                again.run().await.map_err(Arc::new)
            }
            (result, _) => result.map_err(Arc::new),
        }
    }
}
