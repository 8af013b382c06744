//! Pulling images, and collecting what pulls and removals have left.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use image::Reference;
use pull::{Credentials, Unobserved};

use crate::{
    Engine, EngineError, Inner, error::internal, images::image_failure, sandboxes::blocking,
};

/// How long layers may lie about that a failed pull has left, for its next attempt to use.
const COLLECTION_INTERVAL: Duration = Duration::from_secs(300);

impl Engine {
    /// Pulls the image that `reference` names; returns its id. What is being pulled already is joined.
    ///
    /// Dropping the future ends the pull, unless somebody else waits for it.
    ///
    /// CRI `PullImage`.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] for what is no reference, [`EngineError::Pull`].
    pub async fn pull_image(
        &self,
        reference: &str,
        credentials: Option<Credentials>,
    ) -> Result<String, EngineError> {
        let parsed = reference.parse::<Reference>();
        let name = parsed.map_err(|error| image_failure("pull an image", reference, error))?;
        let started = Instant::now();
        let pulled = self.inner.puller.pull(&name, credentials, Arc::new(Unobserved)).await;
        let image = pulled.map_err(EngineError::Pull)?;
        let seconds = started.elapsed().as_secs_f64();
        tracing::info!(image_ref = %image.id, %name, bytes = image.size_bytes, seconds, "image pulled");
        Ok(image.id.to_string())
    }

    /// Has unneeded layers removed as long as the engine lives.
    pub(crate) fn collect_image_garbage_now_and_then(&self) {
        let inner = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(COLLECTION_INTERVAL).await;
                let Some(inner) = Weak::upgrade(&inner) else { return };
                if let Err(error) = inner.collect_image_garbage().await {
                    tracing::warn!(?error, "image garbage is not collected");
                }
            }
        });
    }
}

impl Inner {
    /// Removes layers that neither an image nor a container needs, and what killed pulls have left.
    pub(crate) async fn collect_image_garbage(self: &Arc<Self>) -> Result<(), EngineError> {
        let failed = |error| internal("collect image garbage", error);
        let inner = Arc::clone(self);
        let garbage = {
            let _gate = self.image_gate.write().await;
            let inner = Arc::clone(self);
            blocking(move || inner.images.claim(&inner.layers_in_use()).map_err(failed)).await?
        };
        blocking(move || {
            let collected = inner.images.delete(garbage).map_err(failed)?;
            if collected.layers > 0 {
                let (layers, bytes) = (collected.layers, collected.bytes);
                tracing::info!(layers, bytes, "layers removed that nobody needs");
            }
            Ok(())
        })
        .await
    }
}
