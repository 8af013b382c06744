//! List filters. All that is set must hold; what is unset or empty selects everything.

use std::collections::HashMap;

use cri_api::v1 as cri;

/// Selects sandboxes.
pub(crate) fn sandboxes(
    filter: Option<cri::PodSandboxFilter>,
) -> impl Fn(&cri::PodSandbox) -> bool {
    let filter = filter.unwrap_or_default();
    move |sandbox| {
        sandbox.id.starts_with(&filter.id)
            && filter.state.as_ref().is_none_or(|wanted| wanted.state == sandbox.state)
            && has_all(&sandbox.labels, &filter.label_selector)
    }
}

/// Selects containers.
pub(crate) fn containers(filter: Option<cri::ContainerFilter>) -> impl Fn(&cri::Container) -> bool {
    let filter = filter.unwrap_or_default();
    move |container| {
        container.id.starts_with(&filter.id)
            && container.pod_sandbox_id.starts_with(&filter.pod_sandbox_id)
            && filter.state.as_ref().is_none_or(|wanted| wanted.state == container.state)
            && has_all(&container.labels, &filter.label_selector)
    }
}

/// Selects images: the one with the id `named`, which is what the filter's text names as a reference, and all of the
/// repository that the text names without a tag. An empty text selects all.
pub(crate) fn images<'a>(
    text: &'a str,
    named: Option<&'a str>,
) -> impl Fn(&cri::Image) -> bool + 'a {
    move |image| {
        text.is_empty()
            || named == Some(image.id.as_str())
            || image.repo_tags.iter().any(|tag| is_repository(text, tag))
            || image.repo_digests.iter().any(|digest| is_repository(text, digest))
    }
}

/// Whether `text` is the repository of `name`, which is in full form, or what `docker.io` lets one leave out of it.
fn is_repository(text: &str, name: &str) -> bool {
    let tagged = name.split('@').next().unwrap_or_default();
    // A colon before the last slash separates a port, not a tag.
    let repository = match tagged.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => tagged,
    };
    let short = repository.strip_prefix("docker.io/");
    let official = short.and_then(|short| short.strip_prefix("library/"));
    [Some(repository), short, official].contains(&Some(text))
}

fn has_all(labels: &HashMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        convert::{container_status, image, sandbox_status},
        fixtures,
    };
    use model::{ContainerState, SandboxState, UnixNanos};

    fn labels(key: &str, value: &str) -> HashMap<String, String> {
        [(key.to_owned(), value.to_owned())].into()
    }

    fn selected_sandboxes(filter: cri::PodSandboxFilter) -> Vec<i64> {
        let all = [(1, SandboxState::Ready), (2, SandboxState::NotReady)];
        let all = all.map(|(n, state)| sandbox_status::listed(&fixtures::sandbox(n, state)));
        let select = sandboxes(Some(filter));
        all.iter().filter(|sandbox| select(sandbox)).map(|sandbox| sandbox.created_at).collect()
    }

    fn selected_containers(filter: cri::ContainerFilter) -> Vec<i64> {
        let running = ContainerState::Running { started_at: UnixNanos(9) };
        let all = [(3, 1, ContainerState::Created), (4, 1, running.clone()), (5, 2, running)];
        let all = all
            .map(|(n, pod, state)| container_status::listed(&fixtures::container(n, pod, state)));
        let select = containers(Some(filter));
        all.iter().filter(|c| select(c)).map(|c| c.created_at).collect()
    }

    #[test]
    fn nothing_set_selects_everything() {
        assert_eq!(selected_sandboxes(cri::PodSandboxFilter::default()), [1, 2]);
        assert_eq!(selected_containers(cri::ContainerFilter::default()), [3, 4, 5]);
        let ready = sandbox_status::listed(&fixtures::sandbox(1, SandboxState::Ready));
        assert!(sandboxes(None)(&ready));
    }

    /// C20
    #[test]
    fn state_zero_is_a_state() {
        let state = Some(cri::PodSandboxStateValue { state: 0 });
        assert_eq!(selected_sandboxes(cri::PodSandboxFilter { state, ..Default::default() }), [1]);
        let state = Some(cri::ContainerStateValue { state: 0 });
        assert_eq!(selected_containers(cri::ContainerFilter { state, ..Default::default() }), [3]);
    }

    #[test]
    fn ids_match_from_their_beginning() {
        let by_id = |id: &str| {
            let id = id.to_owned();
            selected_sandboxes(cri::PodSandboxFilter { id, ..Default::default() })
        };
        assert_eq!(by_id("0"), [1, 2]);
        assert_eq!(by_id("01"), [1]);
        assert_eq!(by_id("1"), [0; 0]);
        let pod_sandbox_id = "0101".to_owned();
        let of_pod = cri::ContainerFilter { pod_sandbox_id, ..Default::default() };
        assert_eq!(selected_containers(of_pod), [3, 4]);
    }

    #[test]
    fn labels_match_exactly_and_all_conditions_hold_at_once() {
        let labelled = |label_selector, state| {
            let state = Some(cri::PodSandboxStateValue { state });
            selected_sandboxes(cri::PodSandboxFilter {
                label_selector,
                state,
                ..Default::default()
            })
        };
        assert_eq!(labelled(labels("app", "web"), 1), [2]);
        assert_eq!(labelled(labels("app", "we"), 1), [0; 0]);
        assert_eq!(labelled(labels("none", ""), 1), [0; 0]);
        let label_selector = labels("app", "web");
        let state = Some(cri::ContainerStateValue { state: 1 });
        let both = cri::ContainerFilter { label_selector, state, ..Default::default() };
        assert_eq!(selected_containers(both), [4, 5]);
    }

    #[test]
    fn images_match_by_reference_or_repository() {
        let busybox = image::to_cri(&fixtures::image(1, &["docker.io/library/busybox:1.36"]));
        let local = image::to_cri(&fixtures::image(2, &["localhost:5000/busybox:1"]));
        let selected = |text: &str, named: Option<&str>| {
            let select = images(text, named);
            [&busybox, &local].map(select)
        };
        assert_eq!(selected("", None), [true, true]);
        assert_eq!(selected("busybox", None), [true, false]);
        assert_eq!(selected("docker.io/library/busybox", None), [true, false]);
        assert_eq!(selected("localhost:5000/busybox", None), [false, true]);
        assert_eq!(selected("localhost", None), [false, false]);
        assert_eq!(selected("busybox:1.36", Some(&busybox.id)), [true, false]);
        assert_eq!(selected("alpine", None), [false, false]);
    }
}
