//! What a pod as a whole may use: the sum of its containers and what it costs beside them.
//!
//! Kubelet limits the cgroups that it makes for pods, so there these figures are remembered and told. They are put in
//! force where the pod's cgroup is ours.

use super::{Sandbox, SandboxError, Sandboxes};
use crate::container::limits::{BadSpecLimit, limits};
use crate::host::{Host, blocking};
use cri_api::runtime::v1::{
    HugepageLimit, LinuxContainerResources, PodSandboxConfig, UpdatePodSandboxResourcesRequest,
};
use runtime::cgroup::Limits;
use std::sync::{Arc, PoisonError};

type Resources = LinuxContainerResources;

/// What of a pod an update can change.
#[derive(Clone, Debug, Default)]
pub(crate) struct Allowance {
    pub(crate) overhead: Option<Resources>,
    pub(crate) resources: Option<Resources>,
}

impl Allowance {
    pub(super) fn of(config: &PodSandboxConfig) -> Self {
        let linux = config.linux.as_ref();
        Self {
            overhead: linux.and_then(|linux| linux.overhead.clone()),
            resources: linux.and_then(|linux| linux.resources.clone()),
        }
    }
}

impl Sandbox {
    pub(crate) fn allowance(&self) -> Allowance {
        self.allowance.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_allowance(&self, allowance: Allowance) -> Allowance {
        let mut held = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut held, allowance)
    }

    /// The request that made it, with all updates in it.
    pub(super) fn config_now(&self) -> PodSandboxConfig {
        let mut config = self.config.clone();
        let Allowance { overhead, resources } = self.allowance();
        if overhead.is_some() || resources.is_some() {
            let linux = config.linux.get_or_insert_default();
            linux.overhead = overhead;
            linux.resources = resources;
        }
        config
    }
}

impl Sandboxes {
    /// Remembers what a pod may use from now on, and puts it in force where the pod's cgroup is ours. A part that the
    /// request leaves out stays as it is.
    pub(crate) async fn update(
        self: &Arc<Self>,
        request: UpdatePodSandboxResourcesRequest,
    ) -> Result<(), SandboxError> {
        let sandbox = self.resolve(&request.pod_sandbox_id)?;
        let guard = Arc::clone(&sandbox.lock).lock_owned().await;
        let this = Arc::clone(self);
        blocking(move || {
            let updated = this.update_now(&sandbox, request);
            drop(guard);
            updated
        })
        .await
    }

    fn update_now(
        &self,
        sandbox: &Sandbox,
        request: UpdatePodSandboxResourcesRequest,
    ) -> Result<(), SandboxError> {
        let now = sandbox.allowance();
        let overhead = request.overhead.or(now.overhead);
        let resources = request.resources.or(now.resources);
        let limits = pod_limits(&self.host, overhead.as_ref(), resources.as_ref())?;
        let detail = sandbox.detail();
        let mut undo = None;
        if sandbox.config.linux.as_ref().is_none_or(|linux| linux.cgroup_parent.is_empty()) {
            let failed = |source| SandboxError::Cgroup { pod: sandbox.id.clone(), source };
            let path = detail.cgroup.parse().map_err(SandboxError::CgroupParent)?;
            // There is none in a pod that was stopped.
            if let Some(cgroup) = self.host.cgroups.open(&path).map_err(failed)? {
                let before = cgroup.apply(&limits).map_err(failed)?;
                undo = Some((cgroup, before));
            }
        }
        let old = sandbox.set_allowance(Allowance { overhead, resources });
        sandbox.change(&self.host, |_| {}).inspect_err(|_| {
            sandbox.set_allowance(old);
            if let Some((cgroup, before)) = undo {
                cgroup.restore(before);
            }
        })
    }
}

/// The limits of a pod's own cgroup.
pub(super) fn pod_limits(
    host: &Host,
    overhead: Option<&Resources>,
    resources: Option<&Resources>,
) -> Result<Limits, SandboxError> {
    let none = Resources::default();
    let both = sum(overhead.unwrap_or(&none), resources.unwrap_or(&none));
    let both = cri_spec::limits(&both, &host.facts.cgroup)?;
    limits(&both).map_err(|BadSpecLimit(what)| SandboxError::Invalid(what))
}

/// Overhead on top of the containers' sum. Where the containers are not limited, the pod is not either.
fn sum(overhead: &Resources, resources: &Resources) -> Resources {
    let on_top =
        |limit: i64, more: i64| if limit > 0 { limit.saturating_add(more.max(0)) } else { limit };
    let mut both = resources.clone();
    both.cpu_shares = on_top(both.cpu_shares, overhead.cpu_shares);
    both.cpu_quota = on_top(both.cpu_quota, quota_in(overhead, both.cpu_period));
    both.memory_limit_in_bytes = on_top(both.memory_limit_in_bytes, overhead.memory_limit_in_bytes);
    // The containers' own limits say how much swap each may use; a limit of the pod's memory is none of its swap.
    both.memory_swap_limit_in_bytes = match both.memory_swap_limit_in_bytes {
        0 if both.memory_limit_in_bytes != 0 => -1,
        limit => on_top(limit, overhead.memory_limit_in_bytes),
    };
    for more in &overhead.hugepage_limits {
        let same = both.hugepage_limits.iter_mut().find(|own| own.page_size == more.page_size);
        match same {
            Some(own) => own.limit = own.limit.saturating_add(more.limit),
            None => both.hugepage_limits.push(HugepageLimit::clone(more)),
        }
    }
    both
}

/// The overhead's time in a period of `period` µs; 0 is the kernel's default.
fn quota_in(overhead: &Resources, period: i64) -> i64 {
    const DEFAULT: i64 = 100_000;
    let or_default = |period: i64| if period > 0 { period } else { DEFAULT };
    let scaled = i128::from(overhead.cpu_quota.max(0)) * i128::from(or_default(period))
        / i128::from(or_default(overhead.cpu_period));
    i64::try_from(scaled).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overhead_comes_on_top_of_what_is_limited() {
        let cpu =
            |cpu_quota, cpu_period| Resources { cpu_quota, cpu_period, ..Resources::default() };
        let cases = [
            ("no limit", cpu(10, 100), cpu(0, 0), 0),
            ("unlimited", cpu(10, 100), cpu(-1, 100_000), -1),
            ("the same period", cpu(10, 100), cpu(50, 100), 60),
            ("another period", cpu(10, 100), cpu(50, 1_000), 150),
            ("the default period", cpu(10, 0), cpu(50_000, 200_000), 50_020),
        ];
        for (name, overhead, resources, want) in cases {
            assert_eq!(sum(&overhead, &resources).cpu_quota, want, "{name}");
        }
        let memory =
            |memory_limit_in_bytes| Resources { memory_limit_in_bytes, ..Resources::default() };
        let both = sum(&memory(16), &memory(64));
        assert_eq!((both.memory_limit_in_bytes, both.memory_swap_limit_in_bytes), (80, -1));
        let none = sum(&memory(16), &memory(0));
        assert_eq!((none.memory_limit_in_bytes, none.memory_swap_limit_in_bytes), (0, 0));
    }
}
