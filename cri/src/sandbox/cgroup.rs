//! Where the cgroups of a pod's containers go: below the one that kubelet made for the pod, or below one of ours.

use super::resources::pod_limits;
use super::{Sandbox, SandboxError};
use crate::host::Host;
use cri_api::runtime::v1::PodSandboxConfig;
use runtime::cgroup::{BadCgroupPath, CgroupPath, Limits};
use runtime::id::PodId;
use std::sync::Arc;
use sys::Undo;

/// The cgroup that the cgroups of a pod's containers go into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) path: CgroupPath,
    /// Whether it is ours to make, to limit and to remove, rather than kubelet's.
    pub(super) is_ours: bool,
    limits: Limits,
}

impl Place {
    /// Where a pod goes; nothing is made.
    pub(super) fn of(
        host: &Host,
        id: &PodId,
        config: &PodSandboxConfig,
    ) -> Result<Self, SandboxError> {
        let linux = config.linux.as_ref();
        let parent = linux.map_or("", |linux| linux.cgroup_parent.as_str());
        let is_ours = parent.is_empty();
        let path = if is_ours {
            host.cgroup_parent.join(id.as_str())
        } else if parent.ends_with(".slice") && !parent.contains('/') {
            slice_path(parent)
        } else {
            parent.parse()
        };
        let overhead = linux.and_then(|linux| linux.overhead.as_ref());
        let resources = linux.and_then(|linux| linux.resources.as_ref());
        let limits = pod_limits(host, overhead, resources)?;
        Ok(Self { path: path.map_err(SandboxError::CgroupParent)?, is_ours, limits })
    }

    /// Makes the cgroup. Kubelet's own is there already and is not ours to change or to remove.
    pub(super) fn make(
        &self,
        host: &Arc<Host>,
        id: &PodId,
        undo: &mut Undo,
    ) -> Result<(), SandboxError> {
        if !self.is_ours {
            return Ok(());
        }
        let failed = |source| SandboxError::Cgroup { pod: id.clone(), source };
        host.cgroups.create(&self.path, &self.limits).map_err(failed)?;
        let (host, path) = (Arc::clone(host), self.path.clone());
        undo.push("remove cgroup of pod", move || host.cgroups.remove(&path));
        Ok(())
    }
}

/// Gives a pod's own cgroup back; one that is gone already is fine.
pub(super) fn remove(host: &Host, sandbox: &Sandbox) -> Result<(), SandboxError> {
    let detail = sandbox.detail();
    if !detail.owns_cgroup {
        return Ok(());
    }
    let path = detail.cgroup.parse().map_err(SandboxError::CgroupParent)?;
    host.cgroups
        .remove(&path)
        .map_err(|source| SandboxError::Cgroup { pod: sandbox.id.clone(), source })
}

/// The cgroup of a systemd slice: each dash is one level (`systemd.slice(5)`).
pub(crate) fn slice_path(slice: &str) -> Result<CgroupPath, BadCgroupPath> {
    let stem = slice.strip_suffix(".slice").unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":_.\\@".contains(&byte);
    let is_level = |level: &str| !level.is_empty() && level.bytes().all(plain);
    if !stem.split('-').all(is_level) {
        return Err(BadCgroupPath::new(slice));
    }
    let mut path = String::new();
    for (at, _) in stem.match_indices('-').chain([(stem.len(), "")]) {
        path.push('/');
        path.push_str(&stem[..at]);
        path.push_str(".slice");
    }
    path.parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_becomes_a_path_of_slices() {
        let cases = [
            ("one level", "kubepods.slice", Some("/kubepods.slice")),
            (
                "three levels",
                "kubepods-besteffort-pod1_2.slice",
                Some("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice"),
            ),
            ("the root slice", "-.slice", None),
            ("an empty level", "a--b.slice", None),
            ("a dash at the end", "a-.slice", None),
            ("no slice", "a.scope", None),
            ("upwards", "...slice", Some("/...slice")),
            ("a path", "a/b.slice", None),
            ("nothing", ".slice", None),
        ];
        for (name, slice, want) in cases {
            let got = slice_path(slice).ok();
            assert_eq!(got.as_ref().map(CgroupPath::as_str), want, "{name}");
        }
    }
}
