//! What shims report: exits, and their own end.

use std::{error::Error, path::Path, sync::Arc, time::Duration};

use model::{ContainerEvent, ContainerState, ExitReason, ExitRecord, SandboxState, UnixNanos};
use shim_api::{
    client::{ClientError, Notice},
    v1,
};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::{
    Inner, clock,
    objects::{Container, Sandbox},
    records,
    shims::ShimHandle,
};

/// Exit code of what was killed without anybody seeing it end: 128 + SIGKILL.
const KILLED: i32 = 137;
/// How long a shim whose connection has ended may take to be gone itself.
const END_GRACE: Duration = Duration::from_millis(200);

impl Inner {
    /// Listens to a shim until it is gone, which ends its pod, or until the connection is lost, which does not.
    pub(crate) fn listen(
        inner: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        shim: &ShimHandle,
        mut notices: UnboundedReceiver<Notice>,
    ) {
        let (inner, sandbox, shim) = (Arc::clone(inner), Arc::clone(sandbox), Arc::clone(shim));
        tokio::spawn(async move {
            let end = inner.hear(&shim, &mut notices).await;
            shim.disconnected();
            let is_gone = shim.is_gone_within(END_GRACE).await;
            // Whoever stops the pod waits for the shim.
            if sandbox.record().state == SandboxState::Ready {
                let id = &sandbox.record().id;
                if is_gone {
                    tracing::warn!(pod_sandbox_id = %id, "shim ended unasked; stopping its pod");
                    if let Err(error) = Self::stop(&inner, &sandbox).await {
                        tracing::warn!(pod_sandbox_id = %id, %error, "stop pod after its shim");
                    }
                } else {
                    tracing::warn!(pod_sandbox_id = %id, error = %end, cause = ?end.source(), "lost the connection to a shim that lives");
                    sandbox.take_shim();
                    Self::reconnect(&inner, &sandbox).await;
                }
            }
            shim.outlive().await;
        });
    }

    /// Passes on what a shim reports, until the connection ends; returns why it has.
    async fn hear(
        &self,
        shim: &ShimHandle,
        notices: &mut UnboundedReceiver<Notice>,
    ) -> ClientError {
        while let Some(notice) = notices.recv().await {
            match notice {
                Notice::ContainerExited(exit) => self.container_exited(&exit),
                Notice::ExecExited(exit) => shim.exec_exited(exit),
                Notice::Disconnected(end) => return end,
            }
        }
        ClientError::Closed
    }

    /// Notes an exit that a shim reports.
    pub(crate) fn container_exited(&self, exit: &v1::ContainerExited) {
        if let Some(container) = self.registry.container_by_id(&exit.container_id) {
            let time = |nanos: i64| (nanos != 0).then_some(UnixNanos(nanos));
            exited(
                &container,
                &ExitRecord {
                    container_id: exit.container_id.clone(),
                    started_at: time(exit.started_at),
                    finished_at: UnixNanos(exit.finished_at),
                    exit_code: exit.exit_code,
                    oom_killed: exit.oom_killed,
                    start_error: exit.start_error.clone(),
                },
            );
        }
    }

    /// Notes the exit of a container whose shim is gone: from the shim's last words, else as lost.
    pub(crate) fn container_lost(&self, container: &Container) {
        let record = container.record();
        if matches!(record.state, ContainerState::Exited { .. }) {
            return;
        }
        match read_exit(&self.places.container(&record.id)) {
            Some(exit) => exited(container, &exit),
            None => {
                let event = ContainerEvent::Exited {
                    started_at: None,
                    at: clock::now(),
                    exit_code: KILLED,
                    reason: ExitReason::Unknown,
                    message: "the shim could not report the exit".to_owned(),
                };
                apply(container, event);
            }
        }
    }
}

impl Inner {
    /// Notes that it cannot be known how a container is, unless its shim has left word of the exit.
    pub(crate) fn container_unreachable(&self, container: &Container) {
        match read_exit(&self.places.container(&container.record().id)) {
            Some(exit) => exited(container, &exit),
            // Exited is exited, shim or not.
            None => drop(container.apply(ContainerEvent::Lost)),
        }
    }
}

/// The exit record in a container's directory, if there is a whole one.
pub(crate) fn read_exit(directory: &Path) -> Option<ExitRecord> {
    records::read(directory, records::EXIT).ok()
}

fn exited(container: &Container, exit: &ExitRecord) {
    let reason = match exit {
        ExitRecord { start_error, .. } if !start_error.is_empty() => ExitReason::CannotRun,
        ExitRecord { oom_killed: true, exit_code: KILLED, .. } => ExitReason::OomKilled,
        ExitRecord { exit_code: 0, .. } => ExitReason::Completed,
        ExitRecord { .. } => ExitReason::Error,
    };
    // A container that could not run has started and finished at the same moment, which is what the kubelet's
    // back-off looks at.
    let started_at = match reason {
        ExitReason::CannotRun => Some(exit.finished_at),
        _ => exit.started_at,
    };
    let event = ContainerEvent::Exited {
        started_at,
        at: exit.finished_at,
        exit_code: exit.exit_code,
        reason,
        message: exit.start_error.clone(),
    };
    apply(container, event);
}

fn apply(container: &Container, event: ContainerEvent) {
    container.clear_init();
    match container.apply(event) {
        Ok(record) => {
            if let ContainerState::Exited { exit_code, reason, .. } = &record.state {
                let reason = reason.as_str();
                tracing::info!(container_id = %record.id, exit_code, reason, "container exited");
            }
        }
        // Reported twice, by the reply to a call and by a notice.
        Err(transition) => tracing::debug!(%transition, "exit of an exited container"),
    }
}
