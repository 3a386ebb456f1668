//! Process 1 of the PID namespace that a pod's containers share.
//!
//! It is there so that the namespace is, and that orphans have somebody to go to. Whoever shares its namespace can see
//! it, and with CAP_SYS_PTRACE even take it over. So it never executes anything, holds no descriptor, sees one empty
//! directory, has no capability and can get none, is in the namespaces of the pod (`/proc/1/net` is open to all), and
//! is as little dumpable as the monitor. The kernel gives it no signal from inside, because it handles none, and reaps
//! for it, because it ignores SIGCHLD. It ends with the monitor.

use super::{Channel, Start, Step, Word, identity, namespaces, root, session, tell, user};
use crate::refuse::{Explain, refusal};
use plan::{Capabilities, Identity, UserNamespace};
use rustix::mount::MountAttrFlags;
use rustix::process::Signal;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;
use sys::clone::Spawn;
use sys::mount;

/// Becomes process 1 of the pod's PID namespace, in the namespaces of `start`. `monitor` is a pidfd of the monitor.
///
/// Ends by SIGKILL only. Gives the exit status of a process that did not become it.
///
/// Where the pod has a user namespace, this process enters that first, and it is a second one that becomes process 1: the
/// PID namespace is to belong to it.
pub(crate) fn reaper(start: &Start<'_>, monitor: BorrowedFd<'_>, channel: &Channel) -> i32 {
    if let Some(user) = &start.plan.user {
        return tell(channel, hand_over(start, user, monitor, channel));
    }
    become_reaper(start, monitor, channel)
}

fn hand_over(
    start: &Start<'_>,
    user: &UserNamespace,
    monitor: BorrowedFd<'_>,
    channel: &Channel,
) -> Step<()> {
    let needed = start.needed(channel).into_iter().chain([monitor]).collect();
    session::keep_only(needed, &start.world.proof)?;
    user::vouch()?;
    user::join(start, user)?;
    let how =
        Spawn { mount_namespace: true, pid_namespace: true, sibling: true, ..Spawn::default() };
    let init = super::spawn(start.world, &how, || become_reaper(start, monitor, channel))?;
    channel.say_with(&Word::Forked { pid: init.pid.as_raw_pid() }, init.pidfd.as_fd())
}

fn become_reaper(start: &Start<'_>, monitor: BorrowedFd<'_>, channel: &Channel) -> i32 {
    let status = tell(channel, steps(start, monitor, channel));
    if status != 0 || sys::clone::close_all(&start.world.proof).is_err() {
        return 1;
    }
    loop {
        rustix::event::pause();
    }
}

fn steps(start: &Start<'_>, monitor: BorrowedFd<'_>, channel: &Channel) -> Step<()> {
    let needed = start.needed(channel).into_iter().chain([monitor]).collect();
    session::keep_only(needed, &start.world.proof)?;
    rustix::thread::set_name(c"berth-pod-init").step("set name", "")?;
    session::alone()?;
    sys::signals::ignore_children().step("ignore", "children")?;
    namespaces::join(start)?;
    let closed = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    // While nobody else is here to take over a process that may still do this.
    let proc = mount::new("proc", [], closed).step("make mount", "proc")?;
    root::enter_nothing()?;
    let root = Identity { uid: 0, gid: 0, groups: Vec::new(), umask: None };
    identity::assume(&root, Capabilities::default(), 0)?;
    rustix::thread::set_no_new_privs(true).step("set no_new_privs", "")?;
    end_with(monitor)?;
    channel.say_with(&Word::Reaps, proc.as_fd())
}

/// Without the monitor there is nobody to end this process, and with it the namespace.
fn end_with(monitor: BorrowedFd<'_>) -> Step<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .step("end with", "the monitor")?;
    // It may have ended before, and nobody tells then.
    let ended = sys::seqpacket::wait(&[monitor], Duration::ZERO).step("look at", "the monitor")?;
    if ended == [false] { Ok(()) } else { Err(refusal("end with", "the monitor", 0)) }
}
