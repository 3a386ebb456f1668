//! Ending cgroups: killing everything inside without letting anything escape, and removing the directories.

use super::descriptors::Label;
use super::directory::{Directory, is_busy, is_gone};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long the processes of a cgroup get to stop at the freezer, per attempt.
const FREEZE: Duration = Duration::from_millis(100);
/// How long the processes of a cgroup that does not freeze are chased.
const CHASE: Duration = Duration::from_secs(2);
/// How many processes are handled at once: each takes a descriptor meanwhile.
const BATCH: usize = 128;
/// v1 tells nobody when a cgroup is frozen, nor when processes end that this PID namespace cannot name.
const PAUSE: Duration = Duration::from_millis(1);

/// What keeps the processes of a cgroup from forking while they are killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Brake {
    /// `cgroup.kill` (Linux 5.14), or `cgroup.freeze` before that.
    V2,
    /// v1's freezer.
    Freezer,
    /// A v1 hierarchy of another controller: the processes can only be chased.
    Missing,
}

impl Brake {
    pub(super) fn of(label: &Label) -> Self {
        if label.is_v2() {
            Self::V2
        } else if label.has("freezer") {
            Self::Freezer
        } else {
            Self::Missing
        }
    }
}

/// The place of the hierarchy that is used to say which processes belong to a cgroup, and to kill them.
pub(super) fn tracking<'a>(labels: impl Iterator<Item = &'a Label>) -> Option<usize> {
    let labels: Vec<_> = labels.collect();
    let freezer = labels.iter().position(|label| Brake::of(label) != Brake::Missing);
    freezer.or(if labels.is_empty() { None } else { Some(0) })
}

/// Sends SIGKILL to every process in `cgroup` and below, without waiting for their end.
pub(super) fn kill(cgroup: &Directory, brake: Brake) -> io::Result<()> {
    if brake == Brake::V2 {
        match cgroup.write("cgroup.kill", "1") {
            // Not there: an old kernel, or the cgroup is gone. Not supported: it is threaded, its domain is above.
            Err(err) if is_gone(&err) || is_unsupported(&err) => {}
            result => return result,
        }
    }
    kill_one_by_one(cgroup, brake)
}

fn kill_one_by_one(cgroup: &Directory, brake: Brake) -> io::Result<()> {
    let deadline = Instant::now() + CHASE;
    while Instant::now() < deadline {
        let grip = hold(cgroup, brake)?;
        let ending = signal_all(cgroup);
        let released = release(cgroup, brake);
        let ending = ending?;
        released?;
        match grip {
            // Nothing could fork between the freezing and the signal, so nothing is left.
            Grip::Still => return Ok(()),
            Grip::Loose if ending.is_empty() => return Ok(()),
            Grip::Loose => wait_for(&ending, Instant::now() + FREEZE)?,
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Kills what runs in `parent`'s child `name` and removes it with everything below.
///
/// The error of the last attempt is returned at the deadline: EBUSY if a process did not end.
pub(super) fn remove(
    parent: &Directory,
    name: &str,
    brake: Brake,
    deadline: Instant,
) -> io::Result<()> {
    let mut first = true;
    loop {
        match remove_empty(parent, name) {
            Err(err) if is_busy(&err) && Instant::now() < deadline => {}
            result => return result,
        }
        if !std::mem::take(&mut first) {
            pause();
        }
        let cgroup = match parent.child(name) {
            Err(err) if is_gone(&err) => return Ok(()),
            opened => opened?,
        };
        match kill(&cgroup, brake) {
            Err(err) if err.kind() == io::ErrorKind::TimedOut => {}
            result => result?,
        }
        wait_until_empty(&cgroup, brake, deadline)?;
    }
}

/// Whether all processes of a cgroup stand still.
enum Grip {
    Still,
    Loose,
}

fn hold(cgroup: &Directory, brake: Brake) -> io::Result<Grip> {
    let deadline = Instant::now() + FREEZE;
    let still = match brake {
        Brake::V2 => {
            unless_missing(cgroup.write("cgroup.freeze", "1"))?.is_some()
                && wait_for_event(cgroup, "frozen 1", deadline)?
        }
        Brake::Freezer => freeze_v1(cgroup, deadline)?,
        Brake::Missing => false,
    };
    Ok(if still { Grip::Still } else { Grip::Loose })
}

/// Kernel documentation, `cgroup-v1/freezer-subsystem.rst`: the state is FREEZING until every task has stopped, and
/// asking for it moves it on.
fn freeze_v1(cgroup: &Directory, deadline: Instant) -> io::Result<bool> {
    if unless_missing(cgroup.write("freezer.state", "FROZEN"))?.is_none() {
        return Ok(false);
    }
    loop {
        match unless_missing(cgroup.read("freezer.state"))? {
            Some(state) if state.trim_end() == "FROZEN" => return Ok(true),
            Some(_) if Instant::now() < deadline => pause(),
            _ => return Ok(false),
        }
    }
}

fn release(cgroup: &Directory, brake: Brake) -> io::Result<()> {
    let (file, value) = match brake {
        Brake::V2 => ("cgroup.freeze", "0"),
        Brake::Freezer => ("freezer.state", "THAWED"),
        Brake::Missing => return Ok(()),
    };
    // A workload may have frozen cgroups of its own below; on v1 nothing dies in there.
    below(cgroup, |parent, name| {
        unless_missing(parent.write(&format!("{name}/{file}"), value)).map(drop)
    })?;
    unless_missing(cgroup.write(file, value)).map(drop)
}

/// Sends SIGKILL to all in `cgroup` and below, and gives what to wait for: some of them at least, if there are any.
fn signal_all(cgroup: &Directory) -> io::Result<Vec<OwnedFd>> {
    let mut ending = Vec::new();
    below(cgroup, |parent, name| match unless_missing(parent.child(name))? {
        Some(child) => signal(&child, &mut ending),
        None => Ok(()),
    })?;
    signal(cgroup, &mut ending)?;
    Ok(ending)
}

fn signal(cgroup: &Directory, ending: &mut Vec<OwnedFd>) -> io::Result<()> {
    let members = unless_missing(cgroup.processes())?.unwrap_or_default();
    for batch in members.chunks(BATCH) {
        let opened = open_members(cgroup, batch)?;
        for process in &opened {
            match pidfd_send_signal(process, Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        if ending.len() < BATCH {
            ending.extend(opened);
        }
    }
    Ok(())
}

/// Descriptors of those processes among `pids` that are in `cgroup`.
///
/// A number may have passed to another process since it was read. So the list is read again once the descriptors are
/// open: a number that is still there belongs to a process of the cgroup, and the descriptor with that number stands
/// for that process or for a dead one.
fn open_members(cgroup: &Directory, pids: &[Pid]) -> io::Result<Vec<OwnedFd>> {
    let mut opened = Vec::with_capacity(pids.len());
    for pid in pids {
        match pidfd_open(*pid, PidfdFlags::empty()) {
            Ok(process) => opened.push((*pid, process)),
            // ESRCH: it ended. EINVAL, ENOENT since Linux 6.16: a thread; the domain above lists its process.
            Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    let members = unless_missing(cgroup.processes())?.unwrap_or_default();
    let members: BTreeSet<_> = members.into_iter().map(Pid::as_raw_nonzero).collect();
    let still =
        |(pid, process): (Pid, OwnedFd)| members.contains(&pid.as_raw_nonzero()).then_some(process);
    Ok(opened.into_iter().filter_map(still).collect())
}

/// Waits until no process is left, or until the deadline.
fn wait_until_empty(cgroup: &Directory, brake: Brake, deadline: Instant) -> io::Result<()> {
    if brake == Brake::V2 {
        return wait_for_event(cgroup, "populated 0", deadline).map(drop);
    }
    while Instant::now() < deadline {
        let ending = signal_all(cgroup)?;
        if ending.is_empty() {
            break;
        }
        wait_for(&ending, deadline)?;
    }
    Ok(())
}

/// Waits until all `processes` have ended, or until the deadline.
fn wait_for(processes: &[OwnedFd], deadline: Instant) -> io::Result<()> {
    for process in processes {
        if !wait_on(process, PollFlags::IN, deadline)? {
            break;
        }
    }
    Ok(())
}

/// Waits until `cgroup.events` has the line `wanted`, or until the deadline; says which. A cgroup that is gone counts
/// as having reached what was wanted.
fn wait_for_event(cgroup: &Directory, wanted: &str, deadline: Instant) -> io::Result<bool> {
    let Some(events) = unless_missing(cgroup.open_file("cgroup.events", OFlags::RDONLY))? else {
        return Ok(true);
    };
    loop {
        let mut text = [0_u8; 256];
        let Some(length) =
            unless_missing(rustix::io::pread(&events, &mut text, 0).map_err(Into::into))?
        else {
            return Ok(true);
        };
        if text[..length].split(|byte| *byte == b'\n').any(|line| line == wanted.as_bytes()) {
            return Ok(true);
        }
        if !wait_on(&events, PollFlags::PRI, deadline)? {
            return Ok(false);
        }
    }
}

/// Whether `events` happened before the deadline.
fn wait_on(descriptor: impl AsFd, events: PollFlags, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        match poll(&mut [PollFd::new(&descriptor, events)], Some(&left)) {
            Err(Errno::INTR) => {}
            result => return Ok(result? > 0),
        }
    }
}

/// Removes the child `name` and everything below, none of which may hold processes.
fn remove_empty(parent: &Directory, name: &str) -> io::Result<()> {
    match parent.remove_child(name) {
        Err(err) if is_busy(&err) => {}
        result => return result,
    }
    let Some(cgroup) = unless_missing(parent.child(name))? else { return Ok(()) };
    below(&cgroup, Directory::remove_child)?;
    parent.remove_child(name)
}

/// Calls `visit` with parent and name of every cgroup below `top`, children before parents.
///
/// Needs one descriptor however deep the tree is: a workload that may make cgroups chooses the depth.
fn below(
    top: &Directory,
    mut visit: impl FnMut(&Directory, &str) -> io::Result<()>,
) -> io::Result<()> {
    let children =
        |cgroup: &Directory| unless_missing(cgroup.children()).map(Option::unwrap_or_default);
    let mut here = top.try_clone()?;
    let mut way: Vec<String> = Vec::new();
    let mut unseen = vec![children(&here)?];
    while let Some(names) = unseen.last_mut() {
        if let Some(name) = names.pop() {
            if let Some(child) = unless_missing(here.child(&name))? {
                here = child;
                way.push(name);
                unseen.push(children(&here)?);
            }
        } else {
            unseen.pop();
            if let Some(name) = way.pop() {
                here = here.child("..")?;
                visit(&here, &name)?;
            }
        }
    }
    Ok(())
}

/// None where the file or cgroup is missing: it may end at any time by itself.
fn unless_missing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(err) if is_gone(&err) => Ok(None),
        result => result.map(Some),
    }
}

fn is_unsupported(err: &io::Error) -> bool {
    err.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error())
}

fn pause() {
    let request = Timespec { tv_sec: 0, tv_nsec: i64::from(PAUSE.subsec_nanos()) };
    // Cut short by a signal, it is merely shorter.
    drop(rustix::thread::nanosleep(&request));
}

#[cfg(test)]
mod tests;
