//! Sections `[images]` and `[registry."DOMAIN"]`: where images come from and what they may cost.

use std::{collections::BTreeMap, env, ffi::CString, fs::File, path::PathBuf, time::Duration};

use engine::ImageSettings;
use globset::{Glob, GlobSet};
use image::{Limits, Reference};
use pull::PullOptions;
use registry::{Client, ClientConfig, RegistryError, RegistrySettings};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use unpacker::Unpacker;
use url::Url;

use super::{Config, ConfigError, check_absolute};

/// The hidden command that unpacks one layer, confined.
pub(crate) const UNPACK_LAYER: &str = "unpack-layer";
/// Names of Docker's registry that no reference has after it was normalised.
const HUB_NAMES: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];
/// What registries see.
const USER_AGENT: &str = concat!("usnea/", env!("CARGO_PKG_VERSION"));

/// Images of all registries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ImagesSection {
    /// Layers of one image that are downloaded and unpacked at a time.
    pub(crate) parallel_layers: usize,
    /// Patterns of names that a kubelet's garbage collection leaves alone, such as `registry.k8s.io/pause*`.
    pub(crate) pinned: Vec<String>,
    /// A transfer that makes no progress for this long fails.
    pub(crate) stall_seconds: u64,
    /// Files in the format of Docker's `config.json`; the first that knows the registry counts.
    pub(crate) credential_files: Vec<PathBuf>,
    /// What one layer may cost.
    pub(crate) limits: LimitsSection,
}

/// What one layer may cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LimitsSection {
    /// Bytes of the uncompressed archive.
    pub(crate) layer_bytes: u64,
    /// Uncompressed bytes per compressed byte, once `ratio_free_bytes` have been read.
    pub(crate) ratio: u64,
    /// Uncompressed bytes for which the ratio does not matter.
    pub(crate) ratio_free_bytes: u64,
    /// Files, directories and links.
    pub(crate) entries: u64,
    /// Components of a path.
    pub(crate) depth: usize,
    /// Bytes of a path.
    pub(crate) path_bytes: usize,
    /// Bytes of one entry's extended headers.
    pub(crate) header_bytes: u64,
    /// Time for one layer.
    pub(crate) layer_seconds: u64,
}

/// One registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RegistrySection {
    /// URLs that are tried first, in order.
    pub(crate) mirrors: Vec<String>,
    /// Certificates of authorities (PEM), beside those of the system.
    pub(crate) ca_files: Vec<PathBuf>,
    /// Speak http. Registries on loopback addresses need no mention.
    pub(crate) plain_http: bool,
    /// Other hosts that credentials for this registry may be sent to, to get a token.
    pub(crate) auth_hosts: Vec<String>,
}

/// Why images cannot be had as configured.
#[derive(Debug, Error)]
pub(crate) enum ImagesError {
    /// A certificate or another setting of a registry is not usable.
    #[error("registries")]
    Registries(#[source] RegistryError),
    /// A pattern that was checked before; cannot happen.
    #[error("images.pinned")]
    Pattern(#[source] globset::Error),
    /// This program cannot be started again.
    #[error("open this program")]
    Program(#[source] std::io::Error),
    /// A value that was checked before; cannot happen.
    #[error("configuration")]
    Config(#[source] ConfigError),
}

impl Default for ImagesSection {
    fn default() -> Self {
        Self {
            parallel_layers: PullOptions::default().parallel_layers,
            pinned: Vec::new(),
            stall_seconds: ClientConfig::default().stall.as_secs(),
            credential_files: usual_credential_files(),
            limits: LimitsSection::default(),
        }
    }
}

impl Default for LimitsSection {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            layer_bytes: limits.bytes,
            ratio: limits.ratio,
            ratio_free_bytes: limits.ratio_free_bytes,
            entries: limits.entries,
            depth: limits.depth,
            path_bytes: limits.path_bytes,
            header_bytes: limits.header_bytes,
            layer_seconds: limits.duration.as_secs(),
        }
    }
}

/// Where Docker, Podman and skopeo look.
fn usual_credential_files() -> Vec<PathBuf> {
    // As for the directories of the XDG specification: only if absolute.
    let path =
        |variable: &str| env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let of = |variable: &str, file: &str| path(variable).map(|directory| directory.join(file));
    let docker = of("DOCKER_CONFIG", "config.json").or_else(|| of("HOME", ".docker/config.json"));
    let containers = of("XDG_RUNTIME_DIR", "containers/auth.json");
    [path("REGISTRY_AUTH_FILE"), containers, docker].into_iter().flatten().collect()
}

fn refused(key: impl Into<String>, value: &str, reason: impl Into<String>) -> ConfigError {
    ConfigError::Value { key: key.into(), value: value.to_owned(), reason: reason.into() }
}

impl ImagesSection {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.parallel_layers == 0 {
            return Err(refused("images.parallel_layers", "0", "must be at least 1"));
        }
        if self.stall_seconds == 0 {
            return Err(refused("images.stall_seconds", "0", "must be at least 1"));
        }
        for pattern in &self.pinned {
            Glob::new(pattern)
                .map_err(|error| refused("images.pinned", pattern, error.kind().to_string()))?;
        }
        self.credential_files
            .iter()
            .try_for_each(|path| check_absolute("images.credential_files", path))
    }
}

impl LimitsSection {
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            bytes: self.layer_bytes,
            ratio: self.ratio,
            ratio_free_bytes: self.ratio_free_bytes,
            entries: self.entries,
            depth: self.depth,
            path_bytes: self.path_bytes,
            header_bytes: self.header_bytes,
            duration: Duration::from_secs(self.layer_seconds),
        }
    }
}

impl RegistrySection {
    pub(super) fn check(&self, domain: &str) -> Result<(), ConfigError> {
        if HUB_NAMES.contains(&domain) {
            return Err(refused("registry", domain, "is docker.io in references; write that"));
        }
        let reference = format!("{domain}/image").parse::<Reference>();
        if !reference.is_ok_and(|reference| reference.domain() == domain) {
            let reason = "is no registry: write its name as references do, such as registry.k8s.io or localhost:5000";
            return Err(refused("registry", domain, reason));
        }
        for path in &self.ca_files {
            check_absolute(&format!("registry.{domain:?}.ca_files"), path)?;
        }
        for host in &self.auth_hosts {
            // As the URL of a token server has it.
            let url = Url::parse(&format!("https://{host}/"));
            let plain = url.is_ok_and(|url| url.as_str() == format!("https://{host}/"));
            if host.is_empty() || !plain {
                let reason = "must be a host, or host:port, in lower case";
                return Err(refused(format!("registry.{domain:?}.auth_hosts"), host, reason));
            }
        }
        self.mirror_urls(domain).map(drop)
    }

    fn mirror_urls(&self, domain: &str) -> Result<Vec<Url>, ConfigError> {
        let parse = |text: &String| {
            let url = Url::parse(text).ok().filter(|url| {
                matches!(url.scheme(), "http" | "https")
                    && url.has_host()
                    && url.username().is_empty()
                    && url.password().is_none()
                    && url.query().is_none()
            });
            let key = format!("registry.{domain:?}.mirrors");
            // What has a user may have a password, which is nothing to repeat.
            let (shown, reason) = if text.contains('@') {
                ("<hidden>", "must not contain a user; write credentials into a credentials file")
            } else {
                (text.as_str(), "must be a URL such as http://127.0.0.1:5000")
            };
            url.ok_or_else(|| refused(key, shown, reason))
        };
        self.mirrors.iter().map(parse).collect()
    }

    fn settings(&self, domain: &str) -> Result<RegistrySettings, ConfigError> {
        Ok(RegistrySettings {
            mirrors: self.mirror_urls(domain)?,
            ca_files: self.ca_files.clone(),
            plain_http: self.plain_http,
            auth_hosts: self.auth_hosts.clone(),
        })
    }
}

impl Config {
    /// What the engine needs to have images.
    pub(crate) fn image_settings(&self) -> Result<ImageSettings, ImagesError> {
        Ok(ImageSettings {
            registry: self.registry_client()?,
            unpacker: unpacker()?,
            pull: PullOptions { parallel_layers: self.images.parallel_layers },
            limits: self.images.limits.limits(),
            pinned: self.pinned_images()?,
        })
    }

    /// Names of images that are pinned.
    pub(crate) fn pinned_images(&self) -> Result<GlobSet, ImagesError> {
        let mut pinned = GlobSet::builder();
        for pattern in &self.images.pinned {
            pinned.add(Glob::new(pattern).map_err(ImagesError::Pattern)?);
        }
        pinned.build().map_err(ImagesError::Pattern)
    }

    fn registry_client(&self) -> Result<Client, ImagesError> {
        let registries = self.registry.iter().map(|(domain, section)| {
            Ok((domain.clone(), section.settings(domain).map_err(ImagesError::Config)?))
        });
        Client::new(ClientConfig {
            registries: registries.collect::<Result<BTreeMap<_, _>, ImagesError>>()?,
            stall: Duration::from_secs(self.images.stall_seconds),
            credential_files: self.images.credential_files.clone(),
            user_agent: USER_AGENT.to_owned(),
            ..ClientConfig::default()
        })
        .map_err(ImagesError::Registries)
    }
}

/// This program again, as the process that unpacks one layer.
pub(crate) fn unpacker() -> Result<Unpacker, ImagesError> {
    let program = File::open("/proc/self/exe").map_err(ImagesError::Program)?;
    let arguments = ["usnea", UNPACK_LAYER].map(CString::new);
    let arguments = arguments.into_iter().flatten().collect();
    Ok(Unpacker::new(program.into(), arguments))
}
