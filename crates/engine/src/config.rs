//! What the engine is told when it is made.

use std::{collections::BTreeMap, os::fd::OwnedFd, path::PathBuf};

use globset::GlobSet;
use image::Limits;
use pull::PullOptions;
use sys::cgroup::Cgroup;
use unpacker::Unpacker;

use crate::Condition;

/// Where the engine works, and on what kind of host.
#[derive(Debug)]
pub struct EngineConfig {
    /// Survives a reboot; absolute, 0700.
    pub data_dir: PathBuf,
    /// Gone at reboot; absolute, 0700.
    pub runtime_dir: PathBuf,
    /// The `usnea-shim` binary.
    pub shim_program: PathBuf,
    /// The delegated part of the cgroup tree; `None` without one.
    pub cgroup_root: Option<Cgroup>,
    /// The network namespace of pods with network mode NODE; `None`: the one that the daemon is in.
    pub node_network: Option<OwnedFd>,
    /// The host.
    pub host: HostFacts,
    /// Images.
    pub images: ImageSettings,
}

/// Where images come from, and what they may cost.
#[derive(Debug)]
pub struct ImageSettings {
    /// Talks to registries.
    pub registry: registry::Client,
    /// Unpacks layers.
    pub unpacker: Unpacker,
    /// How images are pulled.
    pub pull: PullOptions,
    /// What one layer may cost.
    pub limits: Limits,
    /// Images whose names match are not to be removed by a kubelet's garbage collection.
    pub pinned: GlobSet,
}

/// What the node offers.
#[derive(Clone, Debug)]
pub struct HostFacts {
    /// How many user ids are mapped, from 0; 1 in single-id mode.
    pub mapped_uids: u32,
    /// How many group ids are mapped, from 0.
    pub mapped_gids: u32,
    /// cgroups.
    pub cgroups: HostCgroups,
    /// Pods with network mode NODE get a network namespace that the node does not own, so that its sysfs cannot be
    /// mounted.
    pub network_is_hosts: bool,
    /// Conditions that the node itself reports, beside the engine's own.
    pub conditions: Vec<Condition>,
    /// JSON by topic, shown by a verbose `Status`.
    pub info: BTreeMap<String, String>,
}

/// What the node has of the cgroup tree.
#[derive(Clone, Debug)]
pub enum HostCgroups {
    /// A part of it is ours.
    Delegated {
        /// Such as `cpu` and `memory`.
        controllers: Vec<String>,
    },
    /// Nothing is.
    Missing {
        /// Why, and the way out.
        reason: String,
    },
}
