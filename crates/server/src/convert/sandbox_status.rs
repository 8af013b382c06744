//! [`SandboxView`] → CRI `PodSandbox` and `PodSandboxStatus`.

use std::collections::HashMap;

use cri_api::v1 as cri;
use engine::SandboxView;
use model::{NetworkMode, SandboxMetadata, SandboxState};

use super::{namespaces, unsorted};
use crate::info::json;

/// Shows a sandbox as lists do.
pub(crate) fn listed(sandbox: &SandboxView) -> cri::PodSandbox {
    let record = &sandbox.record;
    cri::PodSandbox {
        id: record.id.to_string(),
        metadata: Some(metadata(&record.config.metadata)),
        state: state(record.state).into(),
        created_at: record.created_at.0,
        labels: unsorted(&record.config.labels),
        annotations: unsorted(&record.config.annotations),
        runtime_handler: record.config.runtime_handler.clone(),
    }
}

/// Shows all that `PodSandboxStatus` asks for.
pub(crate) fn status(sandbox: &SandboxView) -> cri::PodSandboxStatus {
    let cri::PodSandbox { id, metadata, state, created_at, labels, annotations, runtime_handler } =
        listed(sandbox);
    let options = Some(namespaces::to_cri(sandbox.record.config.namespaces));
    cri::PodSandboxStatus {
        id,
        metadata,
        state,
        created_at,
        // A pod has no address but loopback's, at which nobody else reaches it; so none is shown.
        network: Some(cri::PodSandboxNetworkStatus::default()),
        linux: Some(cri::LinuxPodSandboxStatus { namespaces: Some(cri::Namespace { options }) }),
        labels,
        annotations,
        runtime_handler,
    }
}

/// Shows what only people ask for, as JSON by topic.
pub(crate) fn info(sandbox: &SandboxView) -> HashMap<String, String> {
    let record = &sandbox.record;
    let pause_pid = Some(record.pause_pid).filter(|pid| *pid != 0);
    let default_cgroup = || format!("/usnea/{}", record.id);
    let cgroup = record
        .config
        .cgroup_parent
        .as_ref()
        .map_or_else(default_cgroup, |parent| parent.to_string());
    let own_network = record.config.namespaces.network == NetworkMode::Pod;
    let netns = sandbox.shim_pid.filter(|_| own_network).map(|pid| format!("/proc/{pid}/ns/net"));
    HashMap::from([
        ("config".to_owned(), json(&record.config)),
        ("pid".to_owned(), json(&pause_pid.or(sandbox.shim_pid))),
        ("shim".to_owned(), json(&sandbox.shim_pid)),
        ("cgroup".to_owned(), json(&cgroup)),
        ("netns".to_owned(), json(&netns)),
    ])
}

fn metadata(metadata: &SandboxMetadata) -> cri::PodSandboxMetadata {
    let SandboxMetadata { name, uid, namespace, attempt } = metadata.clone();
    cri::PodSandboxMetadata { name, uid, namespace, attempt }
}

/// Only a sandbox that takes containers is READY.
fn state(state: SandboxState) -> cri::PodSandboxState {
    match state {
        SandboxState::Ready => cri::PodSandboxState::SandboxReady,
        SandboxState::Creating
        | SandboxState::Stopping
        | SandboxState::NotReady
        | SandboxState::Removing => cri::PodSandboxState::SandboxNotready,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[test]
    fn a_status_repeats_what_was_asked() {
        let sandbox = fixtures::sandbox(1, SandboxState::Ready);
        let status = status(&sandbox);
        assert_eq!(status.id, "01".repeat(32));
        assert_eq!(status.metadata.expect("given").name, "web");
        assert_eq!((status.state, status.created_at), (0, 1));
        assert_eq!(status.labels["app"], "web");
        assert_eq!(status.runtime_handler, "usnea");
        let options = status.linux.and_then(|l| l.namespaces).and_then(|n| n.options);
        assert_eq!(options.expect("given").network, 0);
        assert_eq!(status.network, Some(cri::PodSandboxNetworkStatus::default()));
    }

    #[test]
    fn only_ready_is_ready() {
        use SandboxState as S;
        let ready = |state| listed(&fixtures::sandbox(1, state)).state == 0;
        let states = [S::Creating, S::Ready, S::Stopping, S::NotReady, S::Removing];
        assert_eq!(states.map(ready), [false, true, false, false, false]);
    }

    #[test]
    fn info_is_json() {
        let info = info(&fixtures::sandbox(1, SandboxState::Ready));
        for (topic, text) in &info {
            serde_json::from_str::<serde_json::Value>(text).expect(topic);
        }
        assert_eq!(info["pid"], "77");
        assert_eq!(info["netns"], "\"/proc/77/ns/net\"");
        assert!(info["cgroup"].starts_with("\"/usnea/0101"));
    }
}
