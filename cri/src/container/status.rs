//! What the API says of a container.

use super::{Container, ContainerError, Containers, State, signal};
use crate::host::blocking;
use crate::sandbox::status::has_labels;
use cri_api::runtime::v1::{
    Container as Row, ContainerFilter, ContainerResources, ContainerState, ContainerStatus,
    ContainerUser, ImageSpec, LinuxContainerUser, Signal,
};
use runtime::monitor::MonitorError;
use std::path::Path;
use std::sync::Arc;

impl Container {
    pub(crate) fn row(&self) -> Row {
        Row {
            id: self.id.to_string(),
            pod_sandbox_id: self.made.pod.to_string(),
            metadata: self.config.metadata.clone(),
            image: Some(self.image_spec()),
            image_ref: self.made.image.id.to_string(),
            state: api_state(&self.state()) as i32,
            created_at: self.made.created_at,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            image_id: self.made.image.id.to_string(),
        }
    }

    /// `log_directory` is the pod's.
    pub(crate) fn status(&self, log_directory: &str) -> ContainerStatus {
        let state = self.state();
        let mut status = ContainerStatus {
            id: self.id.to_string(),
            metadata: self.config.metadata.clone(),
            state: api_state(&state) as i32,
            created_at: self.made.created_at,
            image: Some(self.image_spec()),
            image_ref: self.made.image.id.to_string(),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            mounts: self.config.mounts.clone(),
            resources: self.resources(),
            image_id: self.made.image.id.to_string(),
            user: self.user(),
            stop_signal: self.stop_signal() as i32,
            ..Default::default()
        };
        if let Some(log) = &self.made.log {
            status.log_path = Path::new(log_directory).join(log).to_string_lossy().into_owned();
        }
        match state {
            State::Created => {}
            State::Running { started_at, .. } => status.started_at = started_at,
            State::Exited(exited) => {
                status.started_at = exited.started_at.unwrap_or_default();
                status.finished_at = exited.finished_at;
                status.exit_code = exited.code;
                status.reason = exited.reason.as_str().to_owned();
                status.message = exited.message;
            }
        }
        status
    }

    /// The process id, while it runs.
    pub(crate) fn pid(&self) -> Option<i32> {
        match self.state() {
            State::Running { pid, .. } => Some(pid),
            State::Created | State::Exited(_) => None,
        }
    }

    /// Whether a filter (all of its fields together) lets the container through; the id is matched before.
    pub(crate) fn passes(&self, filter: &ContainerFilter) -> bool {
        let wanted = filter.state.map(|wanted| wanted.state);
        wanted.is_none_or(|wanted| wanted == api_state(&self.state()) as i32)
            && self.made.pod.as_str().starts_with(&filter.pod_sandbox_id)
            && has_labels(&self.config.labels, &filter.label_selector)
    }

    /// The image as the client named it; kubelet compares this text.
    fn image_spec(&self) -> ImageSpec {
        self.config.image.clone().unwrap_or_default()
    }

    fn resources(&self) -> Option<ContainerResources> {
        let linux = self.resources_now()?;
        Some(ContainerResources { linux: Some(linux), windows: None })
    }

    fn user(&self) -> Option<ContainerUser> {
        let user = self.made.spec.process().as_ref()?.user();
        let groups = user.additional_gids().clone().unwrap_or_default();
        Some(ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: user.uid().into(),
                gid: user.gid().into(),
                supplemental_groups: groups.into_iter().map(Into::into).collect(),
            }),
        })
    }

    fn stop_signal(&self) -> Signal {
        signal::cri_name(&self.made.stop_signal)
            .and_then(|name| Signal::from_str_name(&name))
            .unwrap_or(Signal::RuntimeDefault)
    }
}

fn api_state(state: &State) -> ContainerState {
    match state {
        State::Created => ContainerState::ContainerCreated,
        State::Running { .. } => ContainerState::ContainerRunning,
        State::Exited(_) => ContainerState::ContainerExited,
    }
}

impl Containers {
    /// Gives a running container's monitor its log file, opened anew: after the old one was renamed.
    pub(crate) async fn reopen_log(self: &Arc<Self>, id: &str) -> Result<(), ContainerError> {
        let container = self.resolve(id)?;
        let sandbox = self.sandboxes.resolve(container.pod().as_str())?;
        let this = Arc::clone(self);
        blocking(move || {
            // Before the file is made: a container that does not run leaves no new file.
            let running = container.state().is_running();
            let monitor = sandbox.monitor().filter(|_| running);
            let monitor = monitor.ok_or_else(|| container.wrong_state("running"))?;
            let Some(log) = this.open_log(&sandbox, &container)? else { return Ok(()) };
            let failed = |source: MonitorError| ContainerError::Monitor {
                container: container.id.clone(),
                source,
            };
            monitor.reopen_log(&container.id, log).map_err(failed)
        })
        .await
    }
}
