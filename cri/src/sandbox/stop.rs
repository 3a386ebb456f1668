//! StopPodSandbox and RemovePodSandbox, the pod's own part. The node kills and removes the containers first.

use super::cgroup;
use super::run::remove_directory;
use super::{Sandbox, SandboxError, Sandboxes, State, room};
use cri_api::runtime::v1::ContainerEventType;
use netns::PodNetwork;
use runtime::monitor::{Monitor, MonitorError};
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
        step(self.end_monitor(sandbox));
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

    /// Ends the pod's monitor, also one that was never reached: it is known by its mark then, because who listens on the
    /// socket is not to be told from `SO_PEERCRED`, which names the daemon that made it (`unix(7)`). A failure keeps the
    /// pod's record, and with it the way to the monitor.
    fn end_monitor(&self, sandbox: &Sandbox) -> Result<(), SandboxError> {
        let failed = |source| SandboxError::Monitor { pod: sandbox.id.clone(), source };
        if let Some(monitor) = sandbox.monitor() {
            monitor.shutdown().map_err(failed)?;
            sandbox.set_monitor(None);
            return Ok(());
        }
        let detail = sandbox.detail();
        if detail.boot != self.host.boot {
            return Ok(()); // The number means another process now, if any.
        }
        let Some(mark) = detail.monitor else {
            return match Monitor::connect(&sandbox.id, &self.host.paths.pod_run(&sandbox.id)) {
                Ok(monitor) => monitor.shutdown().map_err(failed),
                Err(MonitorError::Gone { .. }) => Ok(()),
                Err(err) => Err(failed(err)),
            };
        };
        let killed = mark
            .kill()
            .map_err(|source| SandboxError::EndMonitor { pod: sandbox.id.clone(), source })?;
        if killed {
            tracing::warn!(pod = ?sandbox.id, "monitor was out of reach and was killed");
        }
        Ok(())
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
