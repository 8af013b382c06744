//! What a CRI request may say, once it has been checked: identifiers, validated requests, state machines, records.
//!
//! Everything that enters the engine is one of these types, and a value that exists is valid: a [`ContainerPath`] is
//! absolute, a [`LogPath`] cannot climb. What a state needs, it carries.
//!
//! Never: I/O, a clock, tokio, nix. Whether a path exists or a user is known is found out elsewhere.
#![forbid(unsafe_code)]

mod capability;
mod container;
mod field;
mod id;
mod lookup;
mod path;
mod record;
mod resources;
mod sandbox;
mod signal;
mod state;
mod time;

pub use capability::{Capability, CapabilityRequest};
pub use container::{
    ContainerConfig, ContainerKey, ContainerMetadata, ContainerPid, ContainerSecurity, EnvVar,
    GroupPolicy, IMAGE_MOUNT_FAILED, ImageDefaults, ImageRequest, Mount, MountOptions,
    MountPropagation, MountSource, RunAs, SeccompProfile, parse_unix_id,
};
pub use field::{InvalidField, check_name, check_text};
pub use id::{ContainerId, SandboxId};
pub use lookup::{IdQuery, LookupError, lookup};
pub use path::{CgroupPath, ContainerPath, HostPath, LogPath, SubPath};
pub use record::{
    ContainerImage, ContainerRecord, ExitRecord, ImageVolume, ResolvedUser, SandboxRecord,
};
pub use resources::{HugepageLimit, LinuxResources};
pub use sandbox::{
    DnsConfig, Hostname, NamespaceMode, NetworkMode, PortMapping, Protocol, SandboxConfig,
    SandboxKey, SandboxMetadata, SandboxNamespaces, SandboxPid, Sysctl,
};
pub use signal::Signal;
pub use state::{
    ContainerEvent, ContainerState, ExitReason, SandboxEvent, SandboxState, TransitionError,
};
pub use time::UnixNanos;
