//! Pods and containers: what the daemon does, apart from how it is asked.
//!
//! The engine keeps sandboxes and containers in memory, writes a record of each, and has shims do the rest. A living
//! shim is the truth about its pod; records find it and say what was asked.
//!
//! One call goes one way: [`Engine`]'s methods (`sandboxes`, `create`, `containers`, `stop`, `exec`, `images`) check the state, write
//! the record and call the shim; what a shim reports comes back through `notices`. `recovery` does the same from
//! records when the daemon starts. No lock is held while another pod's shim or disk is waited for.
//!
//! Never: gRPC, protobuf of the CRI, libcontainer.
#![forbid(unsafe_code)]

mod bundle;
mod cgroups;
mod clock;
mod config;
mod containers;
mod create;
mod error;
mod exec;
mod image_users;
mod image_volumes;
mod images;
mod keys;
mod lock;
mod notices;
mod objects;
mod places;
mod pod_files;
mod pulls;
mod reconnect;
mod records;
mod recovery;
mod sandboxes;
mod shims;
mod stats;
mod status;
mod stop;
mod views;

use std::sync::Arc;

pub use config::{EngineConfig, HostCgroups, HostFacts, ImageSettings};
pub use error::EngineError;
pub use image::{FsUsage, Image};
pub use images::{images_in_use, is_pinned, layers_in_use, registry_of};
pub use pull::{Credentials, PullError, PullErrorKind};
pub use stats::{
    CgroupUsage, ContainerStats, CpuUsage, LayerUsage, MemoryUsage, Pressure, Stall, SwapUsage,
};
pub use status::{Condition, EngineStatus};
pub use views::{ContainerView, ExecOutput, SandboxClaim, SandboxView};

use cgroups::Cgroups;
use clock::Clock;
use image_users::ImageUsers;
use keys::Keys;
use lock::DaemonLock;
use model::{ContainerId, ContainerKey, SandboxId, SandboxKey};
use objects::Registry;
use places::Places;
use shims::ShimProgram;

/// Handle to the daemon's state; clones share it.
#[derive(Clone, Debug)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    places: Places,
    host: HostFacts,
    cgroups: Option<Cgroups>,
    node_network: Option<std::os::fd::OwnedFd>,
    shim_program: ShimProgram,
    images: Arc<image::Store>,
    puller: pull::Puller,
    /// Names of images that are pinned.
    pinned: globset::GlobSet,
    image_users: ImageUsers,
    /// Held for writing by whoever removes an image, for reading while a container is being made of one.
    image_gate: tokio::sync::RwLock<()>,
    clock: Clock,
    registry: Registry,
    sandbox_keys: Keys<SandboxKey, SandboxId>,
    container_keys: Keys<ContainerKey, ContainerId>,
    /// Limits how many directories are walked for [`Engine::container_stats`] at a time.
    layer_walks: tokio::sync::Semaphore,
    /// Held for life.
    _lock: DaemonLock,
    /// What could not be read at start, for [`Engine::status`].
    quarantined: std::sync::Mutex<Vec<String>>,
}
