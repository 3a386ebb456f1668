//! StartContainer: everything that the launch plan refers to is opened, and one request to the monitor does the rest.

use super::driven::Driven;
use super::limits::limits;
use super::{Container, ContainerError, Containers, Event, Exited, Reason, State, state};
use crate::chain::chain;
use crate::handlers::Runner;
use crate::host::{blocking, now_ns, to_ns};
use crate::metrics::Stage;
use crate::sandbox::{Sandbox, log_directory};
use oci_spec::runtime::Spec;
use runtime::cgroup::{Cgroup, CgroupPath, Descriptors, Limits};
use runtime::exit;
use runtime::monitor::{DriveLaunch, Launch, StartError, Started};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Everything that a start takes, open.
pub(super) struct Ready {
    /// What it was made of: an update may have come since.
    pub(super) spec: Arc<Spec>,
    pub(super) plan: plan::LaunchPlan,
    descriptors: Vec<OwnedFd>,
    cgroup: Descriptors,
    log: Option<OwnedFd>,
    exit_record: OwnedFd,
    /// Where another runtime's program is to do it.
    driven: Option<Driven>,
}

impl Containers {
    /// Starts a created container.
    ///
    /// A start that fails ends the container: its status says `StartError`, 128, and why.
    pub(crate) async fn start(self: &Arc<Self>, id: &str) -> Result<(), ContainerError> {
        let container = self.resolve(id)?;
        let sandbox = self.sandboxes.resolve(container.pod().as_str())?;
        if container.claimed.swap(true, Ordering::AcqRel) || container.state() != State::Created {
            return Err(container.wrong_state("created"));
        }
        // Volumes may be on file systems that hang; nobody else has to wait for that.
        let (this, of, pod) = (Arc::clone(self), Arc::clone(&container), Arc::clone(&sandbox));
        let prepared = blocking(move || this.prepare_start(&pod, &of)).await;
        let guard = Arc::clone(&sandbox.lock).lock_owned().await;
        let this = Arc::clone(self);
        blocking(move || {
            let started = prepared
                .and_then(|ready| this.catch_up(&container, ready))
                .and_then(|ready| this.launch(&sandbox, &container, ready));
            let result = this.note(&container, started);
            drop(guard);
            result
        })
        .await
    }

    /// Takes the outcome of a start down. That it cannot be recorded changes nothing of it: the monitor's record is there.
    fn note(
        &self,
        container: &Container,
        started: Result<Started, ContainerError>,
    ) -> Result<(), ContainerError> {
        match started {
            Ok(started) => {
                let at = to_ns(started.at);
                self.apply_or_log(container, Event::Started { pid: started.pid, at });
                Ok(())
            }
            Err(err) => {
                // The status is the container's own: it need not say of which one it tells.
                let message = if let ContainerError::Start { message, .. } = &err {
                    message.clone()
                } else {
                    chain(&err)
                };
                let exited = Exited {
                    started_at: None,
                    finished_at: now_ns(),
                    code: state::START_ERROR,
                    reason: Reason::StartError,
                    message,
                };
                self.apply_or_log(container, Event::Exited(exited));
                self.clean_up(container);
                Err(err)
            }
        }
    }

    fn apply_or_log(&self, container: &Container, event: Event) {
        if let Err(err) = self.apply(container, event) {
            tracing::error!(container = ?container.id, err = chain(&err), "record start");
        }
    }

    /// Opens everything that the launch plan refers to.
    fn prepare_start(
        &self,
        sandbox: &Sandbox,
        container: &Container,
    ) -> Result<Ready, ContainerError> {
        let id = &container.id;
        let spec = container.spec();
        let mut launch = self.host.filters.launch(&spec, &self.host.facts)?;
        let driven = match self.runner(sandbox)? {
            Runner::Own => None,
            Runner::Other(handler) => Some(self.bundle(container, &spec, &handler, &mut launch)?),
        };
        let cgroup = self.cgroup_of(container, &spec)?;
        let failed = |source| ContainerError::Cgroup { container: id.clone(), source };
        let held = cgroup.descriptors().map_err(failed)?;
        let descriptors = self.open_all(sandbox, container, &launch)?;
        self.limit_open_files(&mut launch.plan.process);
        let log = self.open_log(sandbox, container)?;
        let path = self.host.paths.exit_record(&sandbox.id, id);
        let exit_record = exit::create(&path).map_err(|source| ContainerError::Files {
            step: "create exit record",
            path,
            source,
        })?;
        let plan = launch.plan;
        Ok(Ready { spec, plan, descriptors, cgroup: held, log, exit_record, driven })
    }

    /// Containers get the limit of open files that the daemon was given, not the one that it gave itself.
    pub(super) fn limit_open_files(&self, process: &mut plan::Process) {
        let default = self.host.open_files;
        if !process.rlimits.iter().any(|limit| limit.resource == default.resource) {
            process.rlimits.push(default);
        }
    }

    fn launch(
        &self,
        sandbox: &Sandbox,
        container: &Container,
        ready: Ready,
    ) -> Result<Started, ContainerError> {
        let id = &container.id;
        if self.table.get(id.as_str()).is_none() {
            return Err(ContainerError::NotFound(id.to_string()));
        }
        let monitor =
            sandbox.monitor().ok_or_else(|| ContainerError::PodNotReady(sandbox.id.clone()))?;
        let Ready { plan, descriptors, cgroup, log, exit_record, driven, .. } = ready;
        let cgroup = Some(cgroup);
        let start = || match driven {
            None => {
                let plan = &plan;
                monitor.start(id, Launch { plan, descriptors, cgroup, log, exit_record })
            }
            Some(Driven { drive, bundle, host }) => {
                let drive = &drive;
                monitor.drive(
                    id,
                    DriveLaunch { drive, bundle, host, descriptors, cgroup, log, exit_record },
                )
            }
        };
        let started = self.host.instruments.stage(Stage::Spawn, start);
        started.map_err(|err| match err {
            StartError::Refused { step, message } => ContainerError::Start {
                container: id.clone(),
                message: format!("{step}: {message}"),
            },
            StartError::Monitor(source) => {
                ContainerError::Monitor { container: id.clone(), source }
            }
        })
    }

    pub(super) fn cgroup_of(
        &self,
        container: &Container,
        spec: &Spec,
    ) -> Result<Cgroup, ContainerError> {
        let failed = |source| ContainerError::Cgroup { container: container.id.clone(), source };
        let path = self.cgroup_path(container)?;
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().clone());
        let limits = match resources {
            Some(resources) => limits(&resources)?,
            None => Limits::default(),
        };
        self.host.cgroups.create(&path, &limits).map_err(failed)
    }

    pub(super) fn cgroup_path(&self, container: &Container) -> Result<CgroupPath, ContainerError> {
        container.cgroup().parse().map_err(|err| ContainerError::CgroupPath {
            container: container.id.clone(),
            source: err,
        })
    }

    /// The log file of a container, opened anew; nothing where it has none.
    pub(super) fn open_log(
        &self,
        sandbox: &Sandbox,
        container: &Container,
    ) -> Result<Option<OwnedFd>, ContainerError> {
        let Some(log) = &container.made.log else { return Ok(None) };
        log_directory::open(Path::new(&sandbox.config.log_directory), log)
            .map(Some)
            .map_err(|source| ContainerError::Log { container: container.id.clone(), source })
    }
}
