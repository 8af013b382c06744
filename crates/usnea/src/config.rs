//! `config.toml`: every key has a default, and a key that does not exist is an error.

mod images;

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
};

use images::{ImagesSection, RegistrySection};
pub(crate) use images::{UNPACK_LAYER, unpacker};
use nix::unistd::getuid;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Similarity, from 0 to 1, from which on a key is suggested for a misspelt one.
const SIMILAR: f64 = 0.7;

/// The configuration of one user's Usnea.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    /// What survives a reboot. Default: `$XDG_DATA_HOME/usnea`.
    pub(crate) data_dir: PathBuf,
    /// Sockets and what is gone at reboot. Default: `$XDG_RUNTIME_DIR/usnea`.
    pub(crate) runtime_dir: PathBuf,
    /// The `usnea-shim` binary. Default: beside `usnea`.
    pub(crate) shim: PathBuf,
    /// Section `[node]`.
    pub(crate) node: NodeSection,
    /// Section `[images]`.
    pub(crate) images: ImagesSection,
    /// Sections `[registry."DOMAIN"]`, by the registry's name in references.
    pub(crate) registry: BTreeMap<String, RegistrySection>,
}

/// How the node is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct NodeSection {
    /// Directories that can be written inside the node although the host's cannot; the data directory backs them.
    pub(crate) writable_dirs: Vec<PathBuf>,
    /// Whose network pods with `hostNetwork` use.
    pub(crate) host_network: HostNetwork,
}

/// Whose network pods with `hostNetwork` (CRI network mode NODE) use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum HostNetwork {
    /// The host's: what a person without a kubelet expects.
    #[default]
    Host,
    /// The node's, in which `usnea node exec` starts a kubelet.
    Node,
}

/// Why there is no configuration.
#[derive(Debug, Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file is not TOML, or a value has the wrong type.
    #[error("{}", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A key that does not exist.
    #[error("{}: unknown key `{key}`{}", path.display(), suggestion(nearest.as_deref()))]
    UnknownKey { path: PathBuf, key: String, nearest: Option<String> },
    /// A path that must be absolute is not.
    #[error("{key}: {} is not absolute", path.display())]
    Relative { key: String, path: PathBuf },
    /// A value that does not do.
    #[error("{key}: {value:?}: {reason}")]
    Value { key: String, value: String, reason: String },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |key| format!("; did you mean `{key}`?"))
}

impl Default for Config {
    fn default() -> Self {
        let home = env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let fallback = format!("/run/user/{}", getuid());
        Self {
            data_dir: directory("XDG_DATA_HOME", home.join(".local/share")),
            runtime_dir: directory("XDG_RUNTIME_DIR", PathBuf::from(fallback)),
            shim: beside_us("usnea-shim"),
            node: NodeSection::default(),
            images: ImagesSection::default(),
            registry: BTreeMap::new(),
        }
    }
}

impl Default for NodeSection {
    fn default() -> Self {
        let dirs = node::DEFAULT_WRITABLE_DIRS.iter();
        Self {
            writable_dirs: dirs.map(PathBuf::from).collect(),
            host_network: HostNetwork::default(),
        }
    }
}

/// `usnea` below the directory that `variable` names (XDG base directory specification: only if absolute).
fn directory(variable: &str, default: PathBuf) -> PathBuf {
    let named = env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    named.unwrap_or(default).join("usnea")
}

fn beside_us(name: &str) -> PathBuf {
    let exe = env::current_exe().unwrap_or_default();
    exe.parent().unwrap_or(Path::new("/")).join(name)
}

impl Config {
    /// Reads `path`, or the usual place, where the file may be absent.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let home = env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let usual = || directory("XDG_CONFIG_HOME", home.join(".config")).join("config.toml");
        let file = path.map_or_else(usual, Path::to_owned);
        match fs::read_to_string(&file) {
            Ok(text) => Self::parse(&file, &text),
            Err(error) if path.is_none() && error.kind() == io::ErrorKind::NotFound => {
                Self::default().checked()
            }
            Err(source) => Err(ConfigError::Read { path: file, source }),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let parse_error =
            |source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) };
        let mut unknown = None;
        let deserializer = toml::Deserializer::parse(text).map_err(parse_error)?;
        let config: Self = serde_ignored::deserialize(deserializer, |key| {
            unknown.get_or_insert_with(|| key.to_string());
        })
        .map_err(parse_error)?;
        match unknown {
            None => config.checked(),
            Some(key) => {
                let nearest = nearest(&key);
                Err(ConfigError::UnknownKey { path: path.to_owned(), key, nearest })
            }
        }
    }

    fn checked(self) -> Result<Self, ConfigError> {
        check_absolute("data_dir", &self.data_dir)?;
        check_absolute("runtime_dir", &self.runtime_dir)?;
        check_absolute("shim", &self.shim)?;
        for path in &self.node.writable_dirs {
            check_absolute("node.writable_dirs", path)?;
        }
        self.images.check()?;
        for (domain, registry) in &self.registry {
            registry.check(domain)?;
        }
        Ok(self)
    }
}

fn check_absolute(key: &str, path: &Path) -> Result<(), ConfigError> {
    if path.is_absolute() {
        Ok(())
    } else {
        Err(ConfigError::Relative { key: key.to_owned(), path: path.to_owned() })
    }
}

/// The existing key that looks most like `key`.
fn nearest(key: &str) -> Option<String> {
    // By default no registry has a section, so there is none to compare with.
    let (section, rest) = match key.strip_prefix("registry.").and_then(|rest| rest.rsplit_once('.'))
    {
        Some((domain, rest)) => (Some(domain), rest),
        None => (None, key),
    };
    match section {
        Some(domain) => {
            let table = toml::Table::try_from(RegistrySection::default()).ok()?;
            nearest_in(&table, rest).map(|known| format!("registry.{domain:?}.{known}"))
        }
        None => nearest_in(&toml::Table::try_from(Config::default()).ok()?, rest),
    }
}

fn nearest_in(table: &toml::Table, key: &str) -> Option<String> {
    let similarity = |known: &String| strsim::jaro_winkler(known, key);
    keys("", table)
        .into_iter()
        .filter(|known| similarity(known) >= SIMILAR)
        .max_by(|a, b| similarity(a).total_cmp(&similarity(b)))
}

fn keys(prefix: &str, table: &toml::Table) -> Vec<String> {
    let named = table.iter().map(|(key, value)| (format!("{prefix}{key}"), value));
    named
        .flat_map(|(key, value)| match value {
            toml::Value::Table(inner) => keys(&format!("{key}."), inner),
            _ => vec![key],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("config.toml"), text)
    }

    #[test]
    fn every_key_has_a_default() {
        assert_eq!(parse("").expect("empty"), Config::default());
        let config = parse("data_dir = \"/srv/usnea\"\n[node]\nwritable_dirs = [\"/x\"]");
        let config = config.expect("two keys");
        assert_eq!(config.data_dir, Path::new("/srv/usnea"));
        assert_eq!(config.node.writable_dirs, [Path::new("/x")]);
        assert_eq!(config.shim, Config::default().shim);
    }

    #[test]
    fn a_misspelt_key_is_named_with_the_nearest() {
        let error = parse("data_dirr = \"/x\"").expect_err("unknown");
        assert!(error.to_string().ends_with("did you mean `data_dir`?"), "{error}");
        let error = parse("[node]\nwriteable_dirs = []").expect_err("unknown");
        assert!(error.to_string().contains("`node.writable_dirs`"), "{error}");
        let error = parse("[registry.\"a.io\"]\nmirors = []").expect_err("unknown");
        assert!(error.to_string().contains("`registry.\"a.io\".mirrors`"), "{error}");
        let error = parse("zzz = 1").expect_err("unknown");
        assert!(error.to_string().ends_with("unknown key `zzz`"), "{error}");
    }

    #[test]
    fn relative_paths_and_wrong_types_are_refused() {
        parse("data_dir = \"x\"").expect_err("relative");
        parse("data_dir = 7").expect_err("number");
        parse("[node]\nwritable_dirs = [\"x\"]").expect_err("relative");
        parse("[images]\ncredential_files = [\"x\"]").expect_err("relative");
    }
}
