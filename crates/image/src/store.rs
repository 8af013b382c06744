//! The store: images, their layers and their documents on disk, and a view of them in memory.
//!
//! ```text
//! .lock                     taken while records change and directories are renamed
//! images/<hex>.json         one record per image
//! layers/sha256-<hex>/      one directory per diff id: fs/, transcript.zst, layer.json
//! layers/.tmp-*             being unpacked or deleted; swept unless its maker lives
//! blobs/sha256/<hex>        configurations and manifests
//! ```
//!
//! Records are the truth. Several processes may use one store: each change happens under the lock,
//! and readers notice changed directories. A layer that no record needs is garbage, unless the
//! caller says that a container uses it.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use sys::beneath::{self, DirEntry};

use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::document::MAX_DOCUMENT_BYTES;
use crate::error::ImageError;
use crate::unpack::{Unpack, UnpackOptions};

mod collect;
mod commit;
mod directory;
mod export;
mod import;
mod lookup;
mod record;
mod stage;

pub use collect::{Collected, Garbage};
pub use import::ImportOptions;
pub use stage::{LayerBlob, Reservation, StagedLayer};

use directory::Directory;
use record::{ImageRecord, LayerRecord};

const IMAGES: &str = "images";
const LAYERS: &str = "layers";
const BLOBS: &str = "blobs";
const ALGORITHM: &str = "sha256";
const LAYER_FS: &str = "fs";
/// File systems may stamp two changes within one tick of the clock alike.
const STAMP_GRANULARITY: Duration = Duration::from_millis(50);

/// A local image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The digest of the configuration; CRI `Image.id`.
    pub id: Digest,
    /// Names with tag in full form.
    pub repo_tags: Vec<String>,
    /// Names with manifest digest in full form; empty for what came from a docker-archive.
    pub repo_digests: Vec<String>,
    /// Bytes of the unpacked files of all layers and of the configuration.
    pub size_bytes: u64,
    /// What containers take from the image.
    pub config: ImageConfig,
    /// When the image was built, as its maker wrote it (RFC 3339).
    pub created: Option<String>,
    /// The manifest's annotations.
    pub annotations: BTreeMap<String, String>,
    /// The layers, base layer first.
    pub diff_ids: Vec<Digest>,
    /// Not to be removed by image garbage collection.
    pub pinned: bool,
}

/// What the store occupies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsUsage {
    /// Allocated bytes of layers, documents and records, trees being deleted included.
    pub bytes: u64,
    /// Inodes of the same.
    pub inodes: u64,
    /// The store's directory.
    pub mountpoint: PathBuf,
}

/// A record that cannot be used; all others can.
#[derive(Debug, Clone)]
pub struct Problem {
    /// The image, when the record's name tells it; [`Store::remove`] takes it.
    pub id: Option<Digest>,
    /// The record's file or the layer's directory.
    pub path: PathBuf,
    /// Why it cannot be used.
    pub error: Arc<ImageError>,
}

/// What the records say.
#[derive(Debug, Default)]
struct State {
    images: BTreeMap<Digest, (ImageRecord, Image)>,
    layers: BTreeMap<Digest, LayerRecord>,
    problems: Vec<Problem>,
    /// Layers that broken records still name.
    claimed: HashSet<Digest>,
    document_bytes: u64,
    document_inodes: u64,
}

#[derive(Debug)]
struct View {
    state: Arc<State>,
    stamp: [SystemTime; 2],
    /// Loaded long enough after the last change that the stamp tells later ones apart.
    settled: bool,
}

/// Local images and their layers.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    root: Directory,
    images: Directory,
    layers: Arc<Directory>,
    blobs: Directory,
    unpack: UnpackOptions,
    unpacker: Arc<dyn Unpack>,
    view: RwLock<View>,
    /// Layers of running imports and pulls, which no record names yet.
    reserved: Arc<Mutex<Vec<Digest>>>,
    /// What trees that are being deleted still occupy.
    deleting: Mutex<(u64, u64)>,
}

impl Store {
    /// Opens the store at `root`, which is made when missing, and sweeps what interrupted
    /// imports and removals have left. Imports have `unpacker` unpack their layers.
    ///
    /// # Errors
    /// [`ImageError::Io`] and [`ImageError::Beneath`] when its directories cannot be made or
    /// read. Broken records are no error, see [`Store::problems`].
    pub fn open(
        root: &Path,
        unpack: UnpackOptions,
        unpacker: Arc<dyn Unpack>,
    ) -> Result<Self, ImageError> {
        fs::create_dir_all(root).map_err(|source| ImageError::Io {
            operation: "make",
            path: root.into(),
            source,
        })?;
        let path = root.canonicalize();
        let path =
            path.map_err(|source| ImageError::Io { operation: "find", path: root.into(), source })?;
        let root = Directory::root(&path)?;
        let images = root.subdirectory(IMAGES)?;
        let layers = Arc::new(root.subdirectory(LAYERS)?);
        let blobs = root.subdirectory(BLOBS)?.subdirectory(ALGORITHM)?;
        let stamp = [SystemTime::UNIX_EPOCH; 2];
        let view = View { state: Arc::default(), stamp, settled: false };
        let store = Self {
            path,
            root,
            images,
            layers,
            blobs,
            unpack,
            unpacker,
            view: RwLock::new(view),
            reserved: Arc::default(),
            deleting: Mutex::default(),
        };
        store.sweep()?;
        store.reload()?;
        Ok(store)
    }

    /// All images, by id.
    #[must_use]
    pub fn list(&self) -> Vec<Image> {
        self.state().images.values().map(|(_, image)| image.clone()).collect()
    }

    /// A manifest or configuration that an image of the store has; not verified.
    #[must_use]
    pub fn document(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.blobs.read(&digest.hex(), MAX_DOCUMENT_BYTES).ok()
    }

    /// Records that cannot be used.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        self.state().problems.clone()
    }

    /// What the store occupies.
    ///
    /// # Errors
    /// [`ImageError::Io`] when its directory is gone.
    pub fn usage(&self) -> Result<FsUsage, ImageError> {
        let mountpoint = self.path.clone();
        fs::symlink_metadata(&mountpoint).map_err(|source| ImageError::Io {
            operation: "stat",
            path: mountpoint.clone(),
            source,
        })?;
        let state = self.state();
        let deleting = *self.deleting.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = |total: u64, layer: &LayerRecord| total.saturating_add(layer.disk_bytes);
        let inodes = |total: u64, layer: &LayerRecord| total.saturating_add(layer.inodes);
        Ok(FsUsage {
            bytes: state.layers.values().fold(state.document_bytes + deleting.0, bytes),
            inodes: state.layers.values().fold(state.document_inodes + deleting.1, inodes),
            mountpoint,
        })
    }

    /// The directories to stack for `image`, lowest first.
    ///
    /// Overlayfs takes no directory twice and ignores an opaque root. Of a layer that an image
    /// has several times only the uppermost is left, which shows the same; below a layer that
    /// hides everything nothing is left.
    #[must_use]
    pub fn layer_paths(&self, image: &Image) -> Vec<PathBuf> {
        let state = self.state();
        let mut seen = HashSet::new();
        let mut upper_first = Vec::new();
        for diff_id in image.diff_ids.iter().rev() {
            if seen.insert(*diff_id) {
                let layer = self.path.join(LAYERS).join(diff_id.directory_name());
                upper_first.push(layer.join(LAYER_FS));
            }
            if state.layers.get(diff_id).is_some_and(|layer| layer.opaque_root) {
                break;
            }
        }
        upper_first.into_iter().rev().collect()
    }

    /// The current view; re-read when a directory changed. If that fails, the last one.
    fn state(&self) -> Arc<State> {
        let current = {
            let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
            let fresh = view.settled && self.stamp().is_ok_and(|stamp| stamp == view.stamp);
            (fresh, Arc::clone(&view.state))
        };
        match current {
            (true, state) => state,
            (false, last) => self.reload().unwrap_or(last),
        }
    }

    fn stamp(&self) -> Result<[SystemTime; 2], ImageError> {
        Ok([self.images.modified()?, self.layers.modified()?])
    }

    /// Reads all records, at a moment when nobody changes them. The caller holds no lock.
    fn reload(&self) -> Result<Arc<State>, ImageError> {
        let _lock = self.root.lock()?;
        self.reload_locked()
    }

    /// Reads all records while the caller holds the lock.
    fn reload_locked(&self) -> Result<Arc<State>, ImageError> {
        let stamp = self.stamp()?;
        let newest = stamp.iter().max().copied().unwrap_or(SystemTime::UNIX_EPOCH);
        let settled =
            SystemTime::now().duration_since(newest).is_ok_and(|age| age > STAMP_GRANULARITY);
        let state = Arc::new(self.read_state()?);
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        *view = View { state: Arc::clone(&state), stamp, settled };
        Ok(state)
    }

    fn read_state(&self) -> Result<State, ImageError> {
        let mut state = State::default();
        for DirEntry { name, .. } in self.layers.list()? {
            let Some(diff_id) = name.to_str().and_then(Digest::from_directory_name) else {
                continue;
            };
            match record::read_layer(&self.layers, &diff_id) {
                Ok(record) => drop(state.layers.insert(diff_id, record)),
                Err(error) => state.problems.push(Problem {
                    id: None,
                    path: self.path.join(LAYERS).join(name),
                    error: Arc::new(error),
                }),
            }
        }
        for DirEntry { name, .. } in self.images.list()? {
            let Some(name) = name.to_str().filter(|name| !directory::is_temporary(name)) else {
                continue;
            };
            let loaded = record::read_image(&self.images, &self.blobs, &state.layers, name);
            match loaded {
                Ok((record, image)) => drop(state.images.insert(image.id, (record, image))),
                Err(error) => {
                    state.claimed.extend(record::claimed_layers(&self.images, name));
                    state.problems.push(Problem {
                        id: record::id_of(name),
                        path: self.path.join(IMAGES).join(name),
                        error: Arc::new(error),
                    });
                }
            }
        }
        lookup::settle_tags(&mut state.images);
        for documents in [&self.images, &self.blobs] {
            let usage = beneath::usage(documents.fd())?;
            state.document_bytes += usage.bytes;
            state.document_inodes += usage.inodes;
        }
        Ok(state)
    }

    /// Removes the leftovers of imports and removals whose process is gone.
    fn sweep(&self) -> Result<(), ImageError> {
        let abandoned = {
            let _lock = self.root.lock()?;
            self.images.remove_temporary_files()?;
            self.blobs.remove_temporary_files()?;
            self.layers.claim_abandoned()?
        };
        // The locks in `abandoned` keep other sweepers away while this one works.
        self.layers.remove_claimed(abandoned)
    }
}
