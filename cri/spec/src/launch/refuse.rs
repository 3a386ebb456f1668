//! What a spec can say and a plan cannot. A field that is not looked at here or used by a neighbour would be ignored
//! silently, and a container would run with less than it was given.

use crate::error::SpecError;
use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType, Process, Spec};

/// Refuses a spec that has anything that plans have no word for.
pub(super) fn unsupported(spec: &Spec) -> Result<(), SpecError> {
    let linux = spec.linux().as_ref();
    let joins_uts = linux.and_then(|linux| linux.namespaces().as_ref()).is_some_and(|all| {
        all.iter().any(|ns| ns.typ() == LinuxNamespaceType::Uts && ns.path().is_some())
    });
    // The name is in the pinned namespace already: the spec only repeats it.
    let renames = spec.hostname().is_some() && !joins_uts;
    let top = [
        ("hostname", renames, "host names outside of a pinned UTS namespace are"),
        ("domainname", spec.domainname().is_some(), "domain names are"),
        ("hooks", spec.hooks().is_some(), "hooks are"),
        ("solaris", spec.solaris().is_some(), "other systems are"),
        ("windows", spec.windows().is_some(), "other systems are"),
        ("zos", spec.zos().is_some(), "other systems are"),
        ("vm", spec.vm().is_some(), "virtual machines are"),
        ("uidMappings", spec.uid_mappings().is_some(), "id mappings are"),
        ("gidMappings", spec.gid_mappings().is_some(), "id mappings are"),
    ];
    first(&top)?;
    if let Some(linux) = linux {
        first(&of_linux(linux))?;
        namespaces(linux)?;
    }
    if let Some(process) = spec.process() {
        first(&of_process(process))?;
    }
    Ok(())
}

type Field = (&'static str, bool, &'static str);

fn first(fields: &[Field]) -> Result<(), SpecError> {
    match fields.iter().find(|(_, is_there, _)| *is_there) {
        Some((field, _, feature)) => Err(SpecError::unsupported(*field, feature)),
        None => Ok(()),
    }
}

fn of_linux(linux: &Linux) -> [Field; 9] {
    let is_user = |ns: &LinuxNamespace| ns.typ() == LinuxNamespaceType::User;
    let user = linux.namespaces().iter().flatten().any(is_user);
    let uids = !user && is_some_entry(linux.uid_mappings().as_ref());
    let gids = !user && is_some_entry(linux.gid_mappings().as_ref());
    [
        ("linux.uidMappings", uids, "ids outside of a user namespace are"),
        ("linux.gidMappings", gids, "ids outside of a user namespace are"),
        (
            "linux.sysctl",
            linux.sysctl().as_ref().is_some_and(|all| !all.is_empty()),
            "sysctls of one container are",
        ),
        ("linux.mountLabel", linux.mount_label().is_some(), "SELinux labels of mounts are"),
        ("linux.intelRdt", linux.intel_rdt().is_some(), "cache partitions are"),
        ("linux.memoryPolicy", linux.memory_policy().is_some(), "memory policies are"),
        ("linux.personality", linux.personality().is_some(), "personalities are"),
        ("linux.timeOffsets", linux.time_offsets().is_some(), "time namespaces are"),
        ("linux.netDevices", linux.net_devices().is_some(), "moved network devices are"),
    ]
}

fn is_some_entry<T>(list: Option<&Vec<T>>) -> bool {
    list.is_some_and(|list| !list.is_empty())
}

fn of_process(process: &Process) -> [Field; 5] {
    [
        ("process.commandLine", process.command_line().is_some(), "other systems are"),
        ("process.ioPriority", process.io_priority().is_some(), "I/O priorities are"),
        ("process.scheduler", process.scheduler().is_some(), "scheduling policies are"),
        ("process.execCPUAffinity", process.exec_cpu_affinity().is_some(), "CPU affinities are"),
        ("process.user.username", process.user().username().is_some(), "user names are"),
    ]
}

fn namespaces(linux: &Linux) -> Result<(), SpecError> {
    const FIELD: &str = "linux.namespaces";
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    let mut mount = false;
    for (at, namespace) in namespaces.iter().enumerate() {
        if namespaces[..at].iter().any(|other| other.typ() == namespace.typ()) {
            let kind = namespace.typ().to_string();
            return Err(SpecError::invalid(FIELD, kind, "is there twice"));
        }
        match (namespace.typ(), namespace.path()) {
            (LinuxNamespaceType::User, None) => {
                return Err(SpecError::unsupported(FIELD, "user namespaces but of pods are"));
            }
            (LinuxNamespaceType::Time, _) => {
                return Err(SpecError::unsupported(FIELD, "time namespaces are"));
            }
            (LinuxNamespaceType::Mount, Some(_)) => {
                return Err(SpecError::unsupported(FIELD, "joined mount namespaces are"));
            }
            (LinuxNamespaceType::Cgroup, Some(_)) => {
                return Err(SpecError::unsupported(FIELD, "joined cgroup namespaces are"));
            }
            (LinuxNamespaceType::Mount, None) => mount = true,
            (
                LinuxNamespaceType::Cgroup
                | LinuxNamespaceType::User
                | LinuxNamespaceType::Pid
                | LinuxNamespaceType::Network
                | LinuxNamespaceType::Ipc
                | LinuxNamespaceType::Uts,
                _,
            ) => {}
        }
    }
    if mount { Ok(()) } else { Err(SpecError::missing(FIELD, "a mount namespace is needed")) }
}
