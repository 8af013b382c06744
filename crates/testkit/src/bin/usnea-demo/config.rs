//! The show's pod and containers, as JSON files in crictl's format.

use std::path::{Path, PathBuf};

use cri_api::v1::{
    ContainerConfig, ContainerMetadata, ImageSpec, LinuxPodSandboxConfig, Mount, PodSandboxConfig,
    PodSandboxMetadata,
};
use serde_json::Value;
use testkit::Instance;

/// What the image is imported as.
pub(crate) const IMAGE: &str = "localhost/busybox:demo";

/// Writes the files for the pod, main and sidecar.
#[derive(Debug)]
pub(crate) struct Files<'a> {
    pub(crate) instance: &'a Instance,
    pub(crate) logs: PathBuf,
    pub(crate) volume: PathBuf,
}

impl Files<'_> {
    pub(crate) fn pod(&self) -> PathBuf {
        self.write("pod.json", include_str!("pod.json"), 0)
    }

    pub(crate) fn main(&self, attempt: u32) -> PathBuf {
        self.write(&format!("main_{attempt}.json"), include_str!("main.json"), attempt)
    }

    pub(crate) fn sidecar(&self) -> PathBuf {
        self.write("sidecar.json", include_str!("sidecar.json"), 0)
    }

    fn write(&self, name: &str, template: &str, attempt: u32) -> PathBuf {
        let text = template
            .replace("@LOGS@", &self.logs.to_string_lossy())
            .replace("@VOLUME@", &self.volume.to_string_lossy())
            .replace("@IMAGE@", IMAGE)
            .replace("@ATTEMPT@", &attempt.to_string());
        let path = self.instance.directory().join(name);
        self.instance.write(&path, text.as_bytes());
        path
    }
}

/// Reads the fields that the show's files use.
pub(crate) fn pod(json: &str) -> serde_json::Result<PodSandboxConfig> {
    let json: Value = serde_json::from_str(json)?;
    let metadata = PodSandboxMetadata {
        name: text(&json["metadata"]["name"]),
        uid: text(&json["metadata"]["uid"]),
        namespace: text(&json["metadata"]["namespace"]),
        attempt: 0,
    };
    Ok(PodSandboxConfig {
        metadata: Some(metadata),
        hostname: text(&json["hostname"]),
        log_directory: text(&json["log_directory"]),
        linux: Some(LinuxPodSandboxConfig::default()),
        ..PodSandboxConfig::default()
    })
}

/// Reads the fields that the show's files use.
pub(crate) fn container(json: &str) -> serde_json::Result<ContainerConfig> {
    let json: Value = serde_json::from_str(json)?;
    let attempt = json["metadata"]["attempt"].as_u64().unwrap_or_default();
    let metadata = ContainerMetadata {
        name: text(&json["metadata"]["name"]),
        attempt: u32::try_from(attempt).unwrap_or_default(),
    };
    Ok(ContainerConfig {
        metadata: Some(metadata),
        image: Some(ImageSpec { image: text(&json["image"]["image"]), ..ImageSpec::default() }),
        command: items(&json["command"]).map(text).collect(),
        mounts: items(&json["mounts"]).map(mount).collect(),
        log_path: text(&json["log_path"]),
        ..ContainerConfig::default()
    })
}

fn mount(json: &Value) -> Mount {
    Mount {
        host_path: text(&json["host_path"]),
        container_path: text(&json["container_path"]),
        ..Mount::default()
    }
}

fn items(json: &Value) -> impl Iterator<Item = &Value> {
    json.as_array().into_iter().flatten()
}

fn text(json: &Value) -> String {
    json.as_str().unwrap_or_default().to_owned()
}

/// The file name alone.
pub(crate) fn name(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
