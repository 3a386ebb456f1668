//! The procfs of another container's PID namespace, for a container that is to live there too.
//!
//! Only a process of that namespace can make it, and whoever is there can be seen from inside (CVE-2016-9962). So there
//! are two: one outside that gives everything up, and its child, which has nothing when it is born inside:
//!
//! ```text
//!   container's first ─clone3─▶ one: pod's namespaces, empty root, no descriptor ─clone3─▶ two: makes a procfs
//!                    ◀──────────────────────────── procfs ────────────────────────────────┘
//! ```

use super::{Channel, Start, Step, Word, channel, identity, namespaces, root, session, tell};
use crate::refuse::{Explain, refusal};
use plan::{Capabilities, Identity};
use rustix::mount::MountAttrFlags;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use sys::clone::{Spawn, Spawned};

/// What the mount of a procfs takes: CAP_SYS_ADMIN, 21.
const TO_MOUNT: u64 = 1 << 21;
const STEP: &str = "make the target's procfs";
/// It takes a millisecond; a namespace that is about to end may never let anybody in.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes a procfs, mounted nowhere, of the PID namespace of the process `pids`.
pub(super) fn procfs(start: &Start<'_>, pids: BorrowedFd<'_>) -> Step<OwnedFd> {
    let (ours, theirs) = channel().step("make", "channel")?;
    let how = Spawn { mount_namespace: true, ..Spawn::default() };
    let one = super::spawn(start.world, &how, || tell(&theirs, outside(start, pids, &theirs)))?;
    drop(theirs);
    let mut made = None;
    let heard = loop {
        match channel::wait_for_word(&ours, PATIENCE) {
            Ok(Some((Word::Procfs, Some(procfs)))) => made = Some(procfs),
            Ok(Some((Word::Failed(refusal), _))) => break Err(refusal),
            Ok(Some(_)) => break Err(refusal(STEP, "a word that does not belong here", 0)),
            Ok(None) => break Ok(()),
            Err(err) => break Err(err).step(STEP, ""),
        }
    };
    if heard.is_err() {
        // It may have ended, and nothing else ends one that waits for the namespace.
        sys::rights::signal(&one.pidfd, rustix::process::Signal::KILL.as_raw()).ok();
    }
    end_of(&one)?;
    heard?;
    made.ok_or_else(|| refusal(STEP, "the target has ended", 0))
}

fn outside(start: &Start<'_>, pids: BorrowedFd<'_>, channel: &Channel) -> Step<()> {
    // `/proc/PID/net` is open to all who see the process.
    namespaces::join(start)?;
    session::keep_only(vec![channel.as_fd(), pids], &start.world.proof)?;
    root::enter_nothing()?;
    namespaces::enter_pids(pids)?;
    session::keep_only(vec![channel.as_fd()], &start.world.proof)?;
    // Whoever may trace processes there gets no more than what the mount takes.
    let root = Identity { uid: 0, gid: 0, groups: Vec::new(), umask: None };
    identity::assume(&root, Capabilities::default(), TO_MOUNT)?;
    rustix::thread::set_no_new_privs(true).step("set no_new_privs", "")?;
    let two = super::spawn(start.world, &Spawn::default(), || tell(channel, inside(channel)))?;
    end_of(&two)
}

fn inside(channel: &Channel) -> Step<()> {
    let closed = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let procfs = sys::mount::new("proc", [], closed).step("make mount", "proc")?;
    channel.say_with(&Word::Procfs, procfs.as_fd())
}

fn end_of(process: &Spawned) -> Step<()> {
    waitid(WaitId::PidFd(process.pidfd.as_fd()), WaitIdOptions::EXITED).map(drop).step(STEP, "")
}
