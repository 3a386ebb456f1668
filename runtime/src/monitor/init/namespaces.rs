//! Namespaces: those of the sandbox, or all of a running container.

use super::{Start, Step};
use crate::refuse::Explain;
use plan::NamespaceKind;
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces,
};
use std::os::fd::BorrowedFd;

/// Enters the sandbox's namespaces. The new mount and PID namespaces are there since the process is.
pub(super) fn join(start: &Start<'_>) -> Step<()> {
    for join in &start.plan.join {
        let (kind, name) = match join.kind {
            NamespaceKind::Network => (LinkNameSpaceType::Network, "network"),
            NamespaceKind::Ipc => (LinkNameSpaceType::InterProcessCommunication, "ipc"),
            NamespaceKind::Uts => (LinkNameSpaceType::HostNameAndNISDomainName, "uts"),
        };
        let namespace = start.descriptor(join.fd)?;
        move_into_link_name_space(namespace, Some(kind)).step("join namespace", name)?;
    }
    Ok(())
}

/// Makes the cgroup namespace, where the plan wants one.
pub(super) fn own(start: &Start<'_>) -> Step<()> {
    if start.plan.cgroup_namespace {
        // Not by clone3: that would make the parent's cgroup the root, and not the one this process was put into.
        sys::rights::own_cgroup_namespace().step("make namespace", "cgroup")?;
    }
    Ok(())
}

/// Has the next children of this process live in the PID namespace of the process `pids`.
pub(super) fn enter_pids(pids: BorrowedFd<'_>) -> Step<()> {
    move_into_thread_name_spaces(pids, ThreadNameSpaceType::PROCESS_ID)
        .step("enter", "the shared PID namespace")
}

/// Enters all namespaces of the container whose first process this is; the PID namespace takes only children of this
/// process.
/// Its user namespace comes along where it is not the host's: nobody can enter the one they are in.
pub(super) fn enter(container: BorrowedFd<'_>, user: bool) -> Step<()> {
    let mut all = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::CONTROL_GROUP
        | ThreadNameSpaceType::PROCESS_ID;
    if user {
        all |= ThreadNameSpaceType::USER;
    }
    move_into_thread_name_spaces(container, all).step("enter", "the container's namespaces")
}
