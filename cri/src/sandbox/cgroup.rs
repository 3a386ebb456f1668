//! Where the cgroups of a pod's containers go: below the one that kubelet made for the pod, or below one of ours.

use super::resources::pod_limits;
use super::{Sandbox, SandboxError};
use crate::host::Host;
use cri_api::runtime::v1::PodSandboxConfig;
use runtime::cgroup::{BadCgroupPath, CgroupPath, Limits};
use runtime::id::PodId;
use std::sync::Arc;
use sys::Undo;

/// Where the process goes that keeps a unit's cgroup; no container is called that.
const HOLD: &str = "hold";

/// The cgroup that the cgroups of a pod's containers go into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) path: CgroupPath,
    /// Whether it is ours to make, to limit and to remove, rather than kubelet's.
    pub(super) is_ours: bool,
    /// The unit that systemd makes it for, and the slice that the unit goes into.
    unit: Option<(String, String)>,
    limits: Limits,
}

impl Place {
    /// Where a pod goes; nothing is made.
    pub(super) fn of(
        host: &Host,
        id: &PodId,
        config: &PodSandboxConfig,
    ) -> Result<Self, SandboxError> {
        let limits = limits_of(host, config)?;
        let linux = config.linux.as_ref();
        let parent = linux.map_or("", |linux| linux.cgroup_parent.as_str());
        let place = if host.systemd.is_some() {
            let slice = if parent.is_empty() { host.config.cgroup.slice() } else { parent };
            let unit = unit_of(id);
            named_slice(slice).and_then(|(slice, path)| Ok((slice, path.join(&unit)?))).map(
                |(slice, path)| Self {
                    path,
                    is_ours: true,
                    unit: Some((unit, slice.to_owned())),
                    limits,
                },
            )
        } else {
            let path = match parent {
                "" => host.cgroup_parent.join(id.as_str()),
                slice if slice.ends_with(".slice") && !slice.contains('/') => slice_path(slice),
                path => path.parse(),
            };
            path.map(|path| Self { path, is_ours: parent.is_empty(), unit: None, limits })
        };
        place.map_err(SandboxError::CgroupParent)
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
        if let (Some(systemd), Some((unit, slice))) = (&host.systemd, &self.unit) {
            let failed = |source| SandboxError::Systemd { pod: id.clone(), source };
            let (stop, of) = (systemd.clone(), unit.clone());
            // Also after a failure: a job that took too long may still be done.
            undo.push("stop unit of pod", move || stop.stop(&of));
            systemd.start(unit, slice, &format!("Berth pod {id}")).map_err(failed)?;
            let failed = |source| SandboxError::Cgroup { pod: id.clone(), source };
            host.cgroups.move_down(&self.path, HOLD).map_err(failed)?;
        }
        let failed = |source| SandboxError::Cgroup { pod: id.clone(), source };
        // On v1 systemd makes it in some of the hierarchies only.
        host.cgroups.create(&self.path, &self.limits).map_err(failed)?;
        let (host, path) = (Arc::clone(host), self.path.clone());
        undo.push("remove cgroup of pod", move || host.cgroups.remove(&path));
        Ok(())
    }

    /// Its unit's name, for the record.
    pub(super) fn unit(&self) -> Option<String> {
        self.unit.as_ref().map(|(unit, _)| unit.clone())
    }
}

/// What is put in force in a pod's cgroup. Where kubelet has one for the pod, that one has the limits.
fn limits_of(host: &Host, config: &PodSandboxConfig) -> Result<Limits, SandboxError> {
    let Some(linux) = &config.linux else { return Ok(Limits::default()) };
    let limits = pod_limits(host, linux.overhead.as_ref(), linux.resources.as_ref())?;
    Ok(if linux.cgroup_parent.is_empty() { limits } else { Limits::default() })
}

/// A slice and where it is. Kubelet names one by its whole path, which systemd derives from the last part alone.
fn named_slice(parent: &str) -> Result<(&str, CgroupPath), BadCgroupPath> {
    let slice = parent.rsplit('/').next().unwrap_or(parent);
    let path = slice_path(slice)?;
    // A path that is not where systemd would put the slice names another cgroup than the one that pods would get.
    if parent.contains('/')
        && parent.trim_start_matches('/') != path.to_string().trim_start_matches('/')
    {
        return slice_path(parent).map(|path| (parent, path));
    }
    Ok((slice, path))
}

/// The name of a pod's unit.
fn unit_of(id: &PodId) -> String {
    format!("berth-{id}.service")
}

/// Whose cgroup or unit it is that has this name below our parent.
pub(crate) fn owner(name: &str) -> Option<PodId> {
    let id = name.strip_prefix("berth-").and_then(|rest| rest.strip_suffix(".service"));
    id.unwrap_or(name).parse().ok()
}

/// Gives a pod's own cgroup back; one that is gone already is fine.
pub(super) fn remove(host: &Host, sandbox: &Sandbox) -> Result<(), SandboxError> {
    let detail = sandbox.detail();
    if !detail.owns_cgroup {
        return Ok(());
    }
    let path = detail.cgroup.parse().map_err(SandboxError::CgroupParent)?;
    // First, so that its process ends as it was asked to; killed with the cgroup, it would have failed.
    let stopped = match (&host.systemd, &detail.unit) {
        (Some(systemd), Some(unit)) => systemd
            .stop(unit)
            .map_err(|source| SandboxError::Systemd { pod: sandbox.id.clone(), source }),
        // The driver was changed since: systemd forgets a unit that nobody stops with the next boot.
        (None, Some(_)) | (_, None) => Ok(()),
    };
    host.cgroups
        .remove(&path)
        .map_err(|source| SandboxError::Cgroup { pod: sandbox.id.clone(), source })?;
    stopped
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
    fn pods_are_known_by_their_cgroups() {
        let id = PodId::generate();
        for name in [id.to_string(), unit_of(&id)] {
            assert_eq!(owner(&name), Some(id.clone()), "{name}");
        }
        for name in ["berth-x.service", "kubepods.slice", &format!("{id}.service")] {
            assert_eq!(owner(name), None, "{name}");
        }
    }

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
