//! What a container takes from an image's configuration, with hostile content refused.

use std::collections::BTreeMap;

use oci_spec::image::ImageConfiguration;

use crate::error::{ConfigFault, ImageError};

/// Labels with these prefixes steer runtimes; an image must not speak for them.
const RESERVED_LABELS: [&str; 3] = ["io.kubernetes.", "io.cri-containerd", "usnea."];

/// The part of an image's configuration that containers are made from.
///
/// Source: OCI image specification, "Image Configuration", property `config`. Everything in it is
/// free of NUL; [`ImageConfig::from_oci`] says what else is checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageConfig {
    /// `NAME=value` pairs with a non-empty name.
    pub env: Vec<String>,
    /// The first part of the command line.
    pub entrypoint: Vec<String>,
    /// What follows `entrypoint`, unless the container says otherwise.
    pub cmd: Vec<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`, not yet looked up; empty means root.
    pub user: String,
    /// Absolute, or empty for `/`.
    pub working_dir: String,
    /// A signal's name or number as the image wrote it.
    pub stop_signal: Option<String>,
    /// Absolute paths without `..`.
    pub volumes: Vec<String>,
    /// Labels without those that only a runtime may set.
    pub labels: BTreeMap<String, String>,
}

impl ImageConfig {
    /// Takes what containers need from an OCI configuration.
    ///
    /// # Errors
    /// [`ImageError::Config`] for a NUL anywhere, a line break in `User` or `StopSignal`, an
    /// `Env` entry without a name or `=`, a relative `WorkingDir`, a `Volumes` path that is
    /// relative or has `..`.
    pub fn from_oci(oci: &ImageConfiguration) -> Result<Self, ImageError> {
        let config = oci.config().clone().unwrap_or_default();
        let mut volumes = config.volumes().clone().unwrap_or_default();
        volumes.sort();
        let parsed = Self {
            env: config.env().clone().unwrap_or_default(),
            entrypoint: config.entrypoint().clone().unwrap_or_default(),
            cmd: config.cmd().clone().unwrap_or_default(),
            user: config.user().clone().unwrap_or_default(),
            working_dir: config.working_dir().clone().unwrap_or_default(),
            stop_signal: config.stop_signal().clone().filter(|signal| !signal.is_empty()),
            volumes,
            labels: config
                .labels()
                .iter()
                .flatten()
                .filter(|(key, _)| !RESERVED_LABELS.iter().any(|prefix| key.starts_with(prefix)))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        };
        parsed.check().map_err(|source| ImageError::Config { source })?;
        Ok(parsed)
    }

    fn check(&self) -> Result<(), ConfigFault> {
        for entry in &self.env {
            let named = entry.split_once('=').is_some_and(|(name, _)| !name.is_empty());
            if !named || has_nul(entry) {
                return Err(ConfigFault::Env { entry: entry.clone() });
            }
        }
        if self.entrypoint.iter().any(|word| has_nul(word)) {
            return Err(ConfigFault::Nul { property: "Entrypoint" });
        }
        if self.cmd.iter().any(|word| has_nul(word)) {
            return Err(ConfigFault::Nul { property: "Cmd" });
        }
        if self.labels.iter().any(|(key, value)| has_nul(key) || has_nul(value)) {
            return Err(ConfigFault::Nul { property: "Labels" });
        }
        if self.user.contains(char::is_control) {
            return Err(ConfigFault::User { user: self.user.clone() });
        }
        if let Some(signal) = self.stop_signal.as_ref().filter(|s| s.contains(char::is_control)) {
            return Err(ConfigFault::StopSignal { signal: signal.clone() });
        }
        let dir = &self.working_dir;
        if has_nul(dir) || !(dir.is_empty() || dir.starts_with('/')) {
            return Err(ConfigFault::WorkingDir { path: dir.clone() });
        }
        match self.volumes.iter().find(|path| !is_plain_absolute(path)) {
            Some(path) => Err(ConfigFault::Volume { path: path.clone() }),
            None => Ok(()),
        }
    }
}

fn has_nul(text: &str) -> bool {
    text.contains('\0')
}

fn is_plain_absolute(path: &str) -> bool {
    path.starts_with('/') && !has_nul(path) && path.split('/').all(|component| component != "..")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(config: &Value) -> Result<ImageConfig, ImageError> {
        let document = json!({
            "architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": []},
            "config": config,
        });
        ImageConfig::from_oci(&serde_json::from_value(document).unwrap())
    }

    #[test]
    fn a_usual_configuration_is_taken_over() {
        let config = parse(&json!({
            "Env": ["PATH=/bin", "EMPTY=", "A=b=c"], "Entrypoint": ["/init"], "Cmd": null,
            "User": "1000:1000", "WorkingDir": "/srv", "StopSignal": "SIGQUIT",
            "Volumes": {"/data": {}, "/cache": {}},
            "Labels": {"version": "1", "io.kubernetes.pod.name": "forged"},
        }))
        .unwrap();
        assert_eq!(config.env, ["PATH=/bin", "EMPTY=", "A=b=c"]);
        assert_eq!(config.entrypoint, ["/init"]);
        assert!(config.cmd.is_empty());
        assert_eq!(config.volumes, ["/cache", "/data"]);
        assert_eq!(config.stop_signal.as_deref(), Some("SIGQUIT"));
        assert_eq!(config.labels.keys().collect::<Vec<_>>(), ["version"]);
    }

    #[test]
    fn an_absent_configuration_is_empty() {
        assert_eq!(parse(&Value::Null).unwrap(), ImageConfig::default());
        assert_eq!(parse(&json!({"Volumes": null})).unwrap(), ImageConfig::default());
    }

    #[test]
    fn hostile_content_is_refused() {
        for bad in [
            json!({"Env": ["FOO"]}),
            json!({"Env": ["*"]}),
            json!({"Env": ["=value"]}),
            json!({"Env": ["A=b\0c"]}),
            json!({"Entrypoint": ["a\0"]}),
            json!({"Cmd": ["a\0"]}),
            json!({"User": "root\n"}),
            json!({"User": "a\0"}),
            json!({"StopSignal": "SIG\0"}),
            json!({"WorkingDir": "srv"}),
            json!({"WorkingDir": "/s\0"}),
            json!({"Volumes": {"/../../../etc": {}}}),
            json!({"Volumes": {"data": {}}}),
            json!({"Volumes": {"/data\0": {}}}),
            json!({"Labels": {"a": "\0"}}),
        ] {
            assert!(parse(&bad).is_err(), "{bad}");
        }
    }
}
