//! A request, an image and a machine to an OCI runtime spec.

use crate::cdi;
use crate::confinement::{self, is_privileged, security_context};
use crate::devices::devices;
use crate::error::SpecError;
use crate::input::Input;
use crate::mounts::mounts;
use crate::namespaces::{namespaces, pids};
use crate::process::{hostname, process};
use crate::resources;
use crate::seccomp;
use crate::users;
use cri_api::runtime::v1::LinuxContainerResources;
use oci_spec::runtime::{Linux, LinuxResources, Root, Spec};
use plan::PidNamespace;
use std::collections::HashMap;

/// Marks a container whose standard input stays open for attach. OCI has no word for it.
pub(crate) const STDIN: &str = "berth.stdin";
/// Marks a container whose standard input ends with its first attached client.
pub(crate) const STDIN_ONCE: &str = "berth.stdin-once";
/// Names the container whose PID namespace the spec's new one is in truth. Its path changes with each start of that one.
pub(crate) const TARGET_PIDS: &str = "berth.target.pids";
/// Says that the spec's new PID namespace is the one that the pod's containers share. There is no path to it before the
/// first of them starts.
pub(crate) const SHARED_PIDS: &str = "berth.pod.pids";

/// Translates a request to the spec of its container.
///
/// The spec is complete: [`launch`](crate::launch) and [`exec`](crate::exec) need no request any more, so a restarted
/// daemon goes on from the spec that it stored. None of the request's annotations is in it (CVE-2024-3154).
///
/// # Errors
///
/// [`SpecError`] for what cannot be and for what Berth cannot do; nothing that the request asks for is left out
/// silently.
pub fn container(input: &Input<'_>) -> Result<Spec, SpecError> {
    refuse_foreign_privilege(input)?;
    let process = process(input)?;
    let mounts = mounts(input)?;
    let mut devices = devices(input, &mounts.requested)?;

    let bounding = process.capabilities().as_ref().and_then(|sets| sets.bounding().clone());
    let filter = seccomp::profile(input, &bounding.unwrap_or_default())?;

    let user = users::of_container(input)?;
    user.map_or(Ok(()), |user| users::refuse_unmapped(input, user))?;
    let ids = |range: Option<plan::IdRange>| range.map(|range| vec![users::to_oci(range)]);
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(input)?))
        .set_uid_mappings(ids(user.map(|user| user.uids)))
        .set_gid_mappings(ids(user.map(|user| user.gids)))
        .set_cgroups_path(Some(input.cgroup.into()))
        .set_resources(Some(resources(input)?))
        .set_rootfs_propagation(mounts.root_propagation.map(str::to_owned))
        .set_masked_paths(Some(confinement::masked(input)?))
        .set_readonly_paths(Some(confinement::readonly(input)?))
        .set_devices(Some(std::mem::take(&mut devices.nodes)))
        .set_seccomp(filter);
    if let Some(resources) = linux.resources_mut() {
        resources.set_devices(Some(devices.rules));
    }

    let mut root = Root::default();
    root.set_path("rootfs".into()).set_readonly(Some(
        security_context(input.container).is_some_and(|context| context.readonly_rootfs),
    ));

    let mut spec = Spec::default();
    spec.set_version("1.2.0".to_owned())
        .set_root(Some(root))
        .set_process(Some(process))
        .set_mounts(Some(mounts.all))
        .set_hostname(input.namespaces.uts.as_ref().map(|_| hostname(input).to_owned()))
        .set_annotations(Some(annotations(input, &pids(input)?)))
        .set_linux(Some(linux));
    cdi::apply(input, &mut spec)?;
    Ok(spec)
}

fn refuse_foreign_privilege(input: &Input<'_>) -> Result<(), SpecError> {
    let pod = input.pod.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    if is_privileged(input.container) && !pod.is_some_and(|context| context.privileged) {
        let rule = "needs a privileged pod";
        return Err(SpecError::invalid("linux.security_context.privileged", "true", rule));
    }
    Ok(())
}

fn resources(input: &Input<'_>) -> Result<LinuxResources, SpecError> {
    let asked = input.container.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    resources::limits(asked.unwrap_or(&LinuxContainerResources::default()), &input.host.cgroup)
}

/// Ours only: who the container is, for people who read specs, and what OCI has no field for.
fn annotations(input: &Input<'_>, pids: &PidNamespace) -> HashMap<String, String> {
    let mut annotations = HashMap::new();
    let mut note = |key: &str, value: &str| annotations.insert(key.to_owned(), value.to_owned());
    if let Some(pod) = &input.pod.metadata {
        note("berth.pod.name", &pod.name);
        note("berth.pod.namespace", &pod.namespace);
        note("berth.pod.uid", &pod.uid);
    }
    if let Some(container) = &input.container.metadata {
        note("berth.container.name", &container.name);
    }
    if input.container.stdin {
        note(STDIN, "true");
    }
    if input.container.stdin && input.container.stdin_once {
        note(STDIN_ONCE, "true");
    }
    match pids {
        PidNamespace::Own | PidNamespace::Host => {}
        PidNamespace::Pod => drop(note(SHARED_PIDS, "true")),
        PidNamespace::Of(target) => drop(note(TARGET_PIDS, target)),
    }
    annotations
}
