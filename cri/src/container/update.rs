//! UpdateContainerResources: all of a request or nothing of it.
//!
//! ```text
//!   refuse (pure) ─▶ cgroup ─▶ OOM scores ─▶ record ─▶ memory
//!                      └───────────┴── each goes back to what was when a later one fails
//! ```
//!
//! A container that has not started has no cgroup yet; its start takes what holds then.

use super::limits::limits;
use super::start::Ready;
use super::{Container, ContainerError, Containers, Detail, Record, State};
use crate::host::blocking;
use cri_api::runtime::v1::{LinuxContainerResources, UpdateContainerResourcesRequest};
use cri_spec::Update;
use oci_spec::runtime::Spec;
use runtime::cgroup::{Before, Cgroup};
use std::sync::{Arc, PoisonError};

/// What of a container an update can change.
#[derive(Clone, Debug)]
pub(super) struct Allowance {
    pub(super) spec: Arc<Spec>,
    /// What was asked for, at its creation and since.
    pub(super) resources: Option<LinuxContainerResources>,
}

impl Allowance {
    pub(super) fn of(record: &Record) -> Self {
        let linux = record.config.linux.as_ref();
        Self {
            spec: Arc::clone(&record.detail.spec),
            resources: linux.and_then(|linux| linux.resources.clone()),
        }
    }
}

impl Container {
    pub(super) fn allowance(&self) -> Allowance {
        self.allowance.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is asked for it now.
    pub(crate) fn resources_now(&self) -> Option<LinuxContainerResources> {
        self.allowance().resources
    }

    fn set_allowance(&self, allowance: Allowance) -> Allowance {
        let mut held = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut held, allowance)
    }

    /// What is recorded of it now.
    pub(super) fn record(&self) -> Record {
        let Allowance { spec, resources } = self.allowance();
        let mut config = self.config.clone();
        if resources.is_some() {
            config.linux.get_or_insert_default().resources = resources;
        }
        let detail = Detail { state: self.state(), spec, ..self.made.clone() };
        Record { id: self.id.clone(), config, detail }
    }
}

impl Containers {
    /// Changes the resources of a container that was created or runs; what the request leaves at 0 stays as it is.
    ///
    /// # Errors
    ///
    /// What cannot be is refused before anything is changed: numbers that no cgroup takes, a memory limit below what is
    /// in use. What fails later is taken back.
    pub(crate) async fn update(
        self: &Arc<Self>,
        request: UpdateContainerResourcesRequest,
    ) -> Result<(), ContainerError> {
        let container = self.resolve(&request.container_id)?;
        if request.windows.is_some() {
            return Err(ContainerError::Invalid("windows: this is Linux".into()));
        }
        let sandbox = self.sandboxes.resolve(container.pod().as_str())?;
        let guard = Arc::clone(&sandbox.lock).lock_owned().await;
        let this = Arc::clone(self);
        blocking(move || {
            let updated = this.update_now(&container, &request.linux.unwrap_or_default());
            drop(guard);
            updated
        })
        .await
    }

    fn update_now(
        &self,
        container: &Container,
        asked: &LinuxContainerResources,
    ) -> Result<(), ContainerError> {
        let is_running = match container.state() {
            State::Created => false,
            State::Running { .. } => true,
            State::Exited(_) => return Err(container.wrong_state("created or running")),
        };
        let Allowance { spec, resources } = container.allowance();
        let facts = &self.host.facts;
        let update = cri_spec::update(&spec, resources.as_ref(), asked, &facts.cgroup)?;
        let before = if is_running { self.enforce(container, &update)? } else { None };
        let old = container.set_allowance(Allowance {
            spec: Arc::new(update.spec),
            resources: Some(update.resources),
        });
        self.write(container).inspect_err(|_| {
            container.set_allowance(old);
            if let Some((cgroup, before)) = before {
                cgroup.restore(before);
            }
        })
    }

    /// Puts an update in force, and gives the way back. The end of a container that comes meanwhile is no failure: there
    /// is no cgroup then.
    fn enforce(
        &self,
        container: &Container,
        update: &Update,
    ) -> Result<Option<(Cgroup, Before)>, ContainerError> {
        let failed = |source| ContainerError::Cgroup { container: container.id.clone(), source };
        let path = self.cgroup_path(container)?;
        let change = limits(&update.change)?;
        let Some(cgroup) = self.host.cgroups.open(&path).map_err(failed)? else { return Ok(None) };
        let before = cgroup.apply(&change).map_err(failed)?;
        if let Some(score) = update.oom_score_adj
            && let Err(err) = cgroup.set_oom_score_adj(score)
        {
            cgroup.restore(before);
            return Err(failed(err));
        }
        Ok(Some((cgroup, before)))
    }

    /// Brings what a start has made ready up to date with an update that came since.
    pub(super) fn catch_up(
        &self,
        container: &Container,
        mut ready: Ready,
    ) -> Result<Ready, ContainerError> {
        let spec = container.spec();
        if Arc::ptr_eq(&spec, &ready.spec) {
            return Ok(ready);
        }
        self.cgroup_of(container, &spec)?;
        ready.plan.process.oom_score_adj = spec.process().as_ref().and_then(|p| p.oom_score_adj());
        ready.spec = spec;
        Ok(ready)
    }
}

/// A spec that is shared in memory and written out as itself.
pub(super) mod shared {
    use oci_spec::runtime::Spec;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::sync::Arc;

    pub(in crate::container) fn serialize<S: Serializer>(
        spec: &Arc<Spec>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        spec.as_ref().serialize(serializer)
    }

    pub(in crate::container) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<Spec>, D::Error> {
        Spec::deserialize(deserializer).map(Arc::new)
    }
}
