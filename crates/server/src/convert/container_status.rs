//! [`ContainerView`] → CRI `Container` and `ContainerStatus`.

use std::collections::HashMap;

use cri_api::v1 as cri;
use engine::ContainerView;
use model::{ContainerRecord, ContainerState, ImageRequest, ResolvedUser};

use super::{mounts, resources, signal, unsorted};
use crate::info::json;

/// Shows a container as lists do.
pub(crate) fn listed(container: &ContainerView) -> cri::Container {
    let record = &container.record;
    cri::Container {
        id: record.id.to_string(),
        pod_sandbox_id: record.sandbox_id.to_string(),
        metadata: Some(metadata(record)),
        image: Some(image(&record.config.image)),
        image_ref: record.image.image_ref.clone(),
        state: Life::of(&record.state).state.into(),
        created_at: record.created_at.0,
        labels: unsorted(&record.config.labels),
        annotations: unsorted(&record.config.annotations),
        image_id: record.image.id.clone(),
    }
}

/// Shows all that `ContainerStatus` asks for.
pub(crate) fn status(container: &ContainerView) -> cri::ContainerStatus {
    let record = &container.record;
    let life = Life::of(&record.state);
    let linux = Some(resources::to_cri(&record.config.resources));
    cri::ContainerStatus {
        id: record.id.to_string(),
        metadata: Some(metadata(record)),
        state: life.state.into(),
        created_at: record.created_at.0,
        started_at: life.started_at,
        finished_at: life.finished_at,
        exit_code: life.exit_code,
        image: Some(image(&record.config.image)),
        image_ref: record.image.image_ref.clone(),
        reason: life.reason.to_owned(),
        message: life.message.to_owned(),
        labels: unsorted(&record.config.labels),
        annotations: unsorted(&record.config.annotations),
        mounts: mounts::all_to_cri(record),
        log_path: record.log_path.display().to_string(),
        resources: Some(cri::ContainerResources { linux, windows: None }),
        image_id: record.image.id.clone(),
        user: Some(cri::ContainerUser { linux: Some(user(&record.user)) }),
        stop_signal: signal::to_cri(record.stop_signal).into(),
    }
}

/// Shows what only people ask for, as JSON by topic.
pub(crate) fn info(container: &ContainerView) -> HashMap<String, String> {
    let record = &container.record;
    HashMap::from([
        ("config".to_owned(), json(&record.config)),
        ("pid".to_owned(), json(&container.pid)),
        ("cgroup".to_owned(), json(&record.cgroup)),
    ])
}

/// The fields of a status that follow from the state alone.
struct Life<'a> {
    state: cri::ContainerState,
    started_at: i64,
    finished_at: i64,
    exit_code: i32,
    reason: &'static str,
    message: &'a str,
}

impl<'a> Life<'a> {
    fn of(state: &'a ContainerState) -> Self {
        let nothing = |state| Self {
            state,
            started_at: 0,
            finished_at: 0,
            exit_code: 0,
            reason: "",
            message: "",
        };
        match state {
            ContainerState::Created => nothing(cri::ContainerState::ContainerCreated),
            ContainerState::Running { started_at } => {
                Self { started_at: started_at.0, ..nothing(cri::ContainerState::ContainerRunning) }
            }
            ContainerState::Exited { started_at, finished_at, exit_code, reason, message } => {
                Self {
                    state: cri::ContainerState::ContainerExited,
                    // Clients take 0 for unset: what never started began and ended at once.
                    started_at: started_at.map_or(finished_at.0, |at| at.0.min(finished_at.0)),
                    finished_at: finished_at.0,
                    exit_code: *exit_code,
                    reason: reason.as_str(),
                    message,
                }
            }
            ContainerState::Unknown => nothing(cri::ContainerState::ContainerUnknown),
        }
    }
}

pub(super) fn metadata(record: &ContainerRecord) -> cri::ContainerMetadata {
    let model::ContainerMetadata { name, attempt } = record.config.metadata.clone();
    cri::ContainerMetadata { name, attempt }
}

/// The kubelet asks by id, and shows people what they wrote.
fn image(request: &ImageRequest) -> cri::ImageSpec {
    let ImageRequest { image, user_specified_image } = request.clone();
    let shown = if user_specified_image.is_empty() { image } else { user_specified_image.clone() };
    cri::ImageSpec { image: shown, user_specified_image, ..Default::default() }
}

fn user(user: &ResolvedUser) -> cri::LinuxContainerUser {
    cri::LinuxContainerUser {
        uid: user.uid.into(),
        gid: user.gid.into(),
        supplemental_groups: user.additional_gids.iter().map(|gid| i64::from(*gid)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use model::{ExitReason, UnixNanos};

    use super::*;
    use crate::fixtures;

    fn exited(started_at: Option<i64>) -> ContainerState {
        ContainerState::Exited {
            started_at: started_at.map(UnixNanos),
            finished_at: UnixNanos(30),
            exit_code: 137,
            reason: ExitReason::OomKilled,
            message: "why".to_owned(),
        }
    }

    fn life(state: ContainerState) -> (i32, i64, i64, i32, String) {
        let status = status(&fixtures::container(1, 2, state));
        (status.state, status.started_at, status.finished_at, status.exit_code, status.reason)
    }

    #[test]
    fn a_status_says_what_the_state_knows() {
        let running = ContainerState::Running { started_at: UnixNanos(20) };
        assert_eq!(life(ContainerState::Created), (0, 0, 0, 0, String::new()));
        assert_eq!(life(running), (1, 20, 0, 0, String::new()));
        assert_eq!(life(exited(Some(20))), (2, 20, 30, 137, "OOMKilled".to_owned()));
        assert_eq!(life(ContainerState::Unknown), (3, 0, 0, 0, String::new()));
    }

    /// C31
    #[test]
    fn what_never_started_has_both_times() {
        assert_eq!(life(exited(None)).1, 30);
        assert_eq!(life(exited(Some(31))).1, 30, "a clock that was set back");
    }

    /// C24, C26
    #[test]
    fn nothing_that_clients_rely_on_is_empty() {
        let status = status(&fixtures::container(1, 2, ContainerState::Created));
        assert_eq!(status.log_path, "/var/log/pods/web/main/0.log");
        assert_eq!(status.stop_signal(), cri::Signal::Sigterm);
        assert_eq!(status.image.expect("given").image, "busybox");
        assert!(status.image_ref.contains("@sha256:"), "{}", status.image_ref);
        assert!(status.image_id.starts_with("sha256:"), "{}", status.image_id);
        let user = status.user.and_then(|user| user.linux).expect("given");
        assert_eq!((user.uid, user.gid, user.supplemental_groups), (1000, 1001, vec![5]));
        assert_eq!(status.resources.and_then(|r| r.linux).expect("given").cpu_shares, 7);
    }

    #[test]
    fn people_see_the_image_that_they_named() {
        let request = |user_specified_image: &str| ImageRequest {
            image: "sha256:0".to_owned(),
            user_specified_image: user_specified_image.to_owned(),
        };
        assert_eq!(image(&request("busybox:1")).image, "busybox:1");
        assert_eq!(image(&request("")).image, "sha256:0");
    }

    #[test]
    fn info_is_json() {
        let info = info(&fixtures::container(1, 2, ContainerState::Created));
        for (topic, text) in &info {
            serde_json::from_str::<serde_json::Value>(text).expect(topic);
        }
        assert_eq!((&*info["pid"], &*info["cgroup"]), ("42", "\"/usnea/x\""));
    }
}
