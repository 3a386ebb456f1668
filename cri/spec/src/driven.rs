//! A stored spec to the `config.json` of another runtime's bundle, and to the process of an exec in it.
//!
//! The spec is the runtime's as it is but for what only our monitor understands: places of the pod that the monitor
//! shows to the program alone are named by their path in the bundle.

use crate::error::SpecError;
use crate::mounts::POD_SHM;
use oci_spec::runtime::{
    LinuxNamespaceType, LinuxSeccompFilterFlag, PosixRlimitBuilder, PosixRlimitType, Process, Spec,
};
use plan::drive;
use std::path::Path;

/// What of a bundle's spec is the machine's.
#[derive(Clone, Copy, Debug)]
pub struct Bundle<'a> {
    /// The bundle's directory.
    pub path: &'a Path,
    /// Limits of open files, soft and hard, for a container whose spec has none.
    pub open_files: (u64, u64),
    /// Whether its PID namespace is one that the monitor shows in the bundle: the pod's, or another container's.
    pub joins_pids: bool,
    /// The lowest `oom_score_adj` that can be set; none where any can (CAP_SYS_RESOURCE).
    pub least_oom_score_adj: Option<i32>,
}

/// The version that every runtime takes: crun before 1.9 refuses later ones, though nothing here is of a later one that
/// it would not know.
const VERSION: &str = "1.0.2";

/// The spec for another runtime. What [`launch`](crate::launch) refuses, it must not be asked for.
#[must_use]
pub fn driven(spec: &Spec, bundle: &Bundle<'_>) -> Spec {
    let mut spec = spec.clone();
    spec.set_version(VERSION.to_owned());
    if let Some(root) = spec.root_mut() {
        root.set_path(bundle.path.join(drive::ROOT));
    }
    for mount in spec.mounts_mut().iter_mut().flatten() {
        if mount.source().as_ref().is_some_and(|source| source.as_os_str() == POD_SHM) {
            let options = mount.options().iter().flatten().cloned();
            let options = std::iter::once("rbind".to_owned()).chain(options).collect();
            mount
                .set_typ(Some("bind".to_owned()))
                .set_source(Some(bundle.path.join(drive::SHM)))
                .set_options(Some(options));
        }
    }
    if let Some(filter) = spec.linux_mut().as_mut().and_then(|linux| linux.seccomp_mut().as_mut()) {
        // It makes filtered programs faster and no filter different, and runc before 1.2 refuses any flag.
        let flags = filter.flags().iter().flatten().copied();
        let flags: Vec<_> = flags
            .filter(|flag| *flag != LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow)
            .collect();
        filter.set_flags((!flags.is_empty()).then_some(flags));
    }
    let namespaces = spec.linux_mut().as_mut().and_then(|linux| linux.namespaces_mut().as_mut());
    let mut joins_uts = false;
    for namespace in namespaces.into_iter().flatten() {
        if bundle.joins_pids && namespace.typ() == LinuxNamespaceType::Pid {
            namespace.set_path(Some(bundle.path.join(drive::PIDS)));
        }
        joins_uts |= namespace.typ() == LinuxNamespaceType::Uts && namespace.path().is_some();
    }
    if joins_uts {
        // The pod's namespace has the name already, and it is not this container's to set.
        spec.set_hostname(None);
    }
    if let Some(process) = spec.process_mut() {
        limit(process, bundle);
    }
    spec
}

/// The process of an exec in a container of that spec, with the rights of the container's own.
///
/// # Errors
///
/// [`SpecError`] where there is no command.
pub fn driven_exec(
    spec: &Spec,
    command: &[String],
    tty: bool,
    bundle: &Bundle<'_>,
) -> Result<Process, SpecError> {
    let process = spec.process().clone();
    let mut process = process.ok_or_else(|| SpecError::missing("process", "is needed"))?;
    if command.first().is_none_or(String::is_empty) {
        return Err(SpecError::missing("cmd", "a program is needed"));
    }
    if let Some(arg) = command.iter().find(|arg| arg.contains('\0')) {
        return Err(SpecError::invalid("cmd", arg, "must not have a NUL in it"));
    }
    let mut env = process.env().clone().unwrap_or_default();
    if tty && !env.iter().any(|entry| entry.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    process
        .set_args(Some(command.to_vec()))
        .set_terminal(Some(tty))
        .set_console_size(None)
        .set_env(Some(env));
    limit(&mut process, bundle);
    Ok(process)
}

fn limit(process: &mut Process, bundle: &Bundle<'_>) {
    let mut limits = process.rlimits().clone().unwrap_or_default();
    if !limits.iter().any(|limit| limit.typ() == PosixRlimitType::RlimitNofile) {
        let (soft, hard) = bundle.open_files;
        let open_files =
            PosixRlimitBuilder::default().typ(PosixRlimitType::RlimitNofile).soft(soft).hard(hard);
        // No field is left out, so there is always one.
        limits.extend(open_files.build());
    }
    process.set_rlimits(Some(limits));
    let score = process.oom_score_adj().map(|asked| match bundle.least_oom_score_adj {
        Some(least) => asked.max(least),
        None => asked,
    });
    process.set_oom_score_adj(score);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Request;
    use crate::{container, launch};
    use cri_api::runtime::v1::{self, NamespaceMode};
    use plan::PidNamespace;
    use serde_json::{Value, json};

    fn bundle(joins_pids: bool, least_oom_score_adj: Option<i32>) -> Bundle<'static> {
        let path = Path::new("/run/b");
        Bundle { path, open_files: (1024, 4096), joins_pids, least_oom_score_adj }
    }

    fn spec(request: &Request) -> Value {
        let input = request.input();
        let spec = container(&input).expect("a spec");
        let joins = launch(&spec, input.host).expect("a plan").plan.pids == PidNamespace::Pod;
        serde_json::to_value(driven(&spec, &bundle(joins, None))).expect("JSON")
    }

    fn with_pids(pid: NamespaceMode) -> Request {
        let mut request = Request::plain();
        request.context().namespace_options =
            Some(v1::NamespaceOption { pid: pid.into(), ..v1::NamespaceOption::default() });
        request
    }

    fn namespace<'a>(spec: &'a Value, kind: &str) -> Option<&'a Value> {
        let all = spec["linux"]["namespaces"].as_array()?;
        all.iter().find(|namespace| namespace["type"] == kind)
    }

    #[test]
    fn what_only_the_monitor_knows_is_named_by_its_place_in_the_bundle() {
        let spec = spec(&with_pids(NamespaceMode::Pod));
        assert_eq!(spec["root"]["path"], "/run/b/rootfs");
        let mounts = spec["mounts"].as_array().unwrap();
        let shm = mounts.iter().find(|mount| mount["destination"] == "/dev/shm").unwrap();
        assert_eq!(shm["type"], "bind");
        assert_eq!(shm["source"], "/run/b/shm");
        assert_eq!(shm["options"], json!(["rbind", "nosuid", "noexec", "nodev"]));
        assert_eq!(namespace(&spec, "pid").unwrap()["path"], "/run/b/pids");
        assert_eq!(spec.get("hostname"), None, "the pod's UTS namespace has it");
    }

    #[test]
    fn other_pid_namespaces_stay_as_they_are() {
        let own = spec(&with_pids(NamespaceMode::Container));
        assert_eq!(namespace(&own, "pid").unwrap().get("path"), None);
        assert_eq!(namespace(&spec(&with_pids(NamespaceMode::Node)), "pid"), None);
    }

    #[test]
    fn an_exec_has_the_containers_rights_and_limits() {
        let mut request = Request::plain();
        request.container.linux.get_or_insert_default().resources =
            Some(v1::LinuxContainerResources { oom_score_adj: -500, ..Default::default() });
        let spec = container(&request.input()).expect("a spec");
        let bundle = bundle(false, Some(-100));
        let process = driven_exec(&spec, &["id".into()], true, &bundle).unwrap();
        assert_eq!(process.args().as_deref(), Some(&["id".to_owned()][..]));
        assert_eq!(process.terminal(), Some(true));
        assert_eq!(process.oom_score_adj(), Some(-100));
        assert_eq!(process.capabilities(), spec.process().as_ref().unwrap().capabilities());
        let limits = process.rlimits().clone().unwrap();
        assert!(limits.iter().any(|limit| limit.soft() == 1024 && limit.hard() == 4096));
        assert!(driven_exec(&spec, &[], false, &bundle).is_err());
        assert!(driven_exec(&spec, &["a\0b".into()], false, &bundle).is_err());
    }
}
