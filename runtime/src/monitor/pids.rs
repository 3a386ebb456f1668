//! The PID namespace that containers of the pod share: made at the first start that asks for it.

use crate::init::{self, Start, Stdio, Word};
use crate::monitor::Monitor;
use crate::refuse::{Explain, refusal};
use crate::world::World;
use plan::LaunchPlan;
use runtime::protocol::Refusal;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use sys::clone::Spawn;

/// The namespace, by its process 1. When that ends, the kernel kills all others in it.
#[derive(Debug)]
pub(crate) struct Pids {
    pub(crate) init: Pid,
    pub(crate) pidfd: OwnedFd,
}

/// How long process 1 may take to be ready. It takes a millisecond, and this is the only time that the monitor waits
/// for anybody: the procfs must be there before the first container's mounts are copied.
const PATIENCE: Duration = Duration::from_secs(5);

impl Monitor {
    /// Makes the namespace where there is none, or where its process 1 is ending.
    pub(crate) fn share_pids(
        &mut self,
        plan: &LaunchPlan,
        descriptors: &[OwnedFd],
    ) -> Result<(), Refusal> {
        if self.pids.as_ref().is_some_and(|pids| !self.world.is_exiting(pids.init)) {
            return Ok(());
        }
        self.pids_ended();
        let (channel, theirs) = init::channel().step("make", "channel")?;
        let monitor = pidfd_open(getpid(), PidfdFlags::empty()).step("open", "own pidfd")?;
        let null = self.world.null.as_fd();
        let stdio = Stdio { stdin: null, stdout: null, stderr: null };
        let start = Start { world: &self.world, plan, descriptors, stdio, pids: None };
        let pid_namespace = plan.user.is_none();
        let how = Spawn { mount_namespace: true, pid_namespace, ..Spawn::default() };
        let init =
            init::spawn(&self.world, &how, || init::reaper(&start, monitor.as_fd(), &theirs))?;
        drop(theirs);
        let mut pids = Pids { init: init.pid, pidfd: init.pidfd };
        let shown = ready(&channel, &mut pids).and_then(|proc| {
            let step = "attach";
            self.world.show_processes(&proc).step(step, "the pod's procfs")
        });
        // Where this fails it is reaped like any orphan.
        shown.inspect_err(|_| pids.kill())?;
        self.pids = Some(pids);
        Ok(())
    }

    /// Process 1 has ended, or is about to.
    pub(crate) fn pids_ended(&mut self) {
        self.pids = None;
        self.world.hide_processes();
    }
}

impl Pids {
    /// Kills process 1, and with it all that is in the namespace.
    pub(crate) fn kill(&self) {
        // It may have ended.
        sys::rights::signal(&self.pidfd, Signal::KILL.as_raw()).ok();
    }
}

/// Waits until process 1 holds nothing any more, which is when its end of the channel is closed. Gives its procfs.
fn ready(channel: &OwnedFd, pids: &mut Pids) -> Result<OwnedFd, Refusal> {
    let mut procfs = None;
    let step = "make the pod's PID namespace";
    loop {
        match init::wait_for_word(channel, PATIENCE).step(step, "")? {
            Some((Word::Reaps, Some(proc))) => procfs = Some(proc),
            // Made by a process in between, which entered the pod's user namespace first.
            Some((Word::Forked { pid }, Some(pidfd))) => {
                pids.init = Pid::from_raw(pid).ok_or(Errno::SRCH).step(step, "")?;
                pids.pidfd = pidfd;
            }
            Some((Word::Failed(refusal), _)) => return Err(refusal),
            Some(_) => return Err(Errno::BADMSG).step(step, ""),
            None => return procfs.ok_or_else(|| refusal(step, "its process 1 has ended", 0)),
        }
    }
}

impl World {
    /// Whether a process has ended or is on its way out. What cannot be read is gone.
    fn is_exiting(&self, pid: Pid) -> bool {
        let stat = self.read(&format!("{}/stat", pid.as_raw_pid()));
        stat.map_or(true, |stat| flags(&stat).is_none_or(|flags| flags & PF_EXITING != 0))
    }
}

/// Of `<linux/sched.h>`: set before the first process of a namespace kills the others.
const PF_EXITING: u32 = 0x4;

/// The field `flags` of `/proc/PID/stat` (`proc_pid_stat(5)`); the second field, a name, can hold anything.
fn flags(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(6)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_a_process_are_found() {
        let cases = [
            ("running", "7 (sleep) S 1 7 7 0 -1 4194560 99 0", Some(0x0040_0100)),
            ("ending", "7 (sleep) Z 1 7 7 0 -1 4227340 99 0", Some(0x0040_810c)),
            ("a name to mislead", "7 (x) S 1 1 1 1 1 4) R 1 7 7 0 -1 64 99", Some(64)),
            ("cut short", "7 (sleep) S 1", None),
            ("nothing", "", None),
        ];
        for (name, stat, want) in cases {
            assert_eq!(flags(stat), want, "{name}");
        }
    }
}
