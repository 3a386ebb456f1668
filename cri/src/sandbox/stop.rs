//! StopPodSandbox and RemovePodSandbox, the pod's own part. The node kills and removes the containers first.

use super::cgroup;
use super::run::remove_directory;
use super::{Sandbox, SandboxError, Sandboxes, State, room};
use cri_api::runtime::v1::ContainerEventType;
use netns::PodNetwork;
use sys::pin;

impl Sandboxes {
    /// Gives back what the kernel holds for the pod: monitor, network, namespaces, cgroup.
    ///
    /// Every step is taken, also after one failed, and every step may be repeated: the next stop finishes what this one
    /// could not.
    ///
    /// # Errors
    ///
    /// The first failure.
    pub(crate) fn stop(&self, sandbox: &Sandbox) -> Result<(), SandboxError> {
        let host = &self.host;
        let pod = || sandbox.id.clone();
        let mut first = Ok(());
        let mut step = |result: Result<(), SandboxError>| {
            if first.is_ok() {
                first = result;
            }
        };
        sandbox.gauge.close();
        step(end_monitor(sandbox));
        step(self.detach(sandbox));
        step(
            pin::remove(&host.paths.pod_run(&sandbox.id))
                .map_err(|source| SandboxError::Unpin { pod: pod(), source }),
        );
        step(cgroup::remove(host, sandbox));
        if sandbox.is_ready() {
            step(sandbox.change(host, |detail| detail.state = State::NotReady));
        }
        first
    }

    fn detach(&self, sandbox: &Sandbox) -> Result<(), SandboxError> {
        let Some(attached) = sandbox.detail().network else { return Ok(()) };
        self.host
            .network
            .detach(&attached)
            .map_err(|source| SandboxError::Network { pod: sandbox.id.clone(), source })?;
        sandbox.change(&self.host, |detail| detail.network = None)
    }

    /// Forgets a stopped pod that has no containers.
    pub(crate) fn remove(&self, sandbox: &Sandbox) -> Result<(), SandboxError> {
        let id = &sandbox.id;
        let files = self.host.paths.pod_files(id);
        room::remove(&files).map_err(|source| SandboxError::Files {
            step: "remove files",
            path: files.clone(),
            source,
        })?;
        for path in [self.host.paths.pod_run(id), files] {
            remove_directory(&path).map_err(|source| SandboxError::Files {
                step: "remove directory",
                path,
                source,
            })?;
        }
        self.host
            .records
            .delete_pod(id.as_str())
            .map_err(|source| SandboxError::Record { pod: id.clone(), source })?;
        self.table.remove(id.as_str());
        self.host.events.tell(ContainerEventType::ContainerDeletedEvent, id.as_str(), sandbox);
        self.forget_flight(&sandbox.config);
        Ok(())
    }
}

fn end_monitor(sandbox: &Sandbox) -> Result<(), SandboxError> {
    let Some(monitor) = sandbox.monitor() else { return Ok(()) };
    monitor
        .shutdown()
        .map_err(|source| SandboxError::Monitor { pod: sandbox.id.clone(), source })?;
    sandbox.set_monitor(None);
    Ok(())
}
