//! What a new process does on its way to becoming a container's program: it executes the plan and decides nothing.
//!
//! [`container`] and [`exec`] are the two sequences, in the order that is the security argument. Each step is a file of
//! its own. All of it runs in a copy of the monitor, which holds nothing but what the sequence needs.

mod channel;
mod devices;
mod identity;
mod masks;
mod mounts;
mod namespaces;
mod program;
mod resolve;
mod root;
mod session;
mod terminal;

pub(crate) use channel::{Channel, Word, go, hear, pair as channel};

use crate::refuse::Explain;
use crate::world::World;
use plan::{Fd, LaunchPlan, Process};
use runtime::protocol::Refusal;
use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use sys::clone::{self, Spawn};

/// A step's result: what could not be done is told to the daemon in words.
pub(crate) type Step<T> = Result<T, Refusal>;

/// What a process gets as its descriptors 0, 1 and 2.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stdio<'a> {
    pub(crate) stdin: BorrowedFd<'a>,
    pub(crate) stdout: BorrowedFd<'a>,
    pub(crate) stderr: BorrowedFd<'a>,
}

/// A container's start.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    pub(crate) world: &'a World,
    pub(crate) plan: &'a LaunchPlan,
    pub(crate) descriptors: &'a [OwnedFd],
    pub(crate) stdio: Stdio<'a>,
}

impl Start<'_> {
    fn descriptor(&self, fd: Fd) -> Step<BorrowedFd<'_>> {
        let held = self.descriptors.get(usize::from(fd.0)).map(AsFd::as_fd);
        held.ok_or(rustix::io::Errno::BADF).step("use descriptor", fd.0.to_string())
    }
}

/// An exec's start.
#[derive(Debug)]
pub(crate) struct Enter<'a> {
    pub(crate) world: &'a World,
    pub(crate) process: &'a Process,
    /// The container's first process.
    pub(crate) container: BorrowedFd<'a>,
    pub(crate) stdio: Stdio<'a>,
    /// The container's own, for a process that names none.
    pub(crate) oom_score_adj: i32,
}

/// Becomes a container's first process. Gives the exit status of a process that did not.
pub(crate) fn container(start: &Start<'_>, channel: &Channel) -> i32 {
    tell(channel, container_steps(start, channel))
}

fn container_steps(start: &Start<'_>, channel: &Channel) -> Step<Infallible> {
    let (world, process) = (start.world, &start.plan.process);
    channel.wait_for_go()?;
    session::keep_only(start.needed(channel), &world.proof)?;
    session::begin(world, process)?;
    namespaces::join(start)?;
    let root = root::attach(start)?;
    let dev = mounts::make(start, root)?;
    devices::make(start.plan, dev.as_ref())?;
    let terminal = terminal::open(process, root, dev.as_ref(), channel)?;
    masks::hide(&start.plan.masked, root)?;
    masks::protect(&start.plan.readonly, root)?;
    root::enter(start.plan, root)?;
    let stdio = terminal.as_ref().map_or(start.stdio, terminal::Peer::stdio);
    program::run(process, root, stdio, channel)
}

impl Start<'_> {
    fn needed<'a>(&'a self, channel: &'a Channel) -> Vec<BorrowedFd<'a>> {
        let Stdio { stdin, stdout, stderr } = self.stdio;
        let always = [channel.as_fd(), self.world.proc.as_fd(), stdin, stdout, stderr];
        always.into_iter().chain(self.descriptors.iter().map(AsFd::as_fd)).collect()
    }
}

/// Enters a container and has a second process run the program there. Gives the exit status of the first one.
///
/// Two processes, because whoever is in the container's PID namespace can be seen from inside it: this one gives up all
/// that is the host's first, and only then makes the one that is seen (CVE-2016-9962). That one is the monitor's child.
pub(crate) fn exec(enter: &Enter<'_>, channel: &Channel) -> i32 {
    tell(channel, exec_steps(enter, channel))
}

fn exec_steps(enter: &Enter<'_>, channel: &Channel) -> Step<()> {
    let Enter { world, process, container, stdio, oom_score_adj } = *enter;
    let Stdio { stdin, stdout, stderr } = stdio;
    channel.wait_for_go()?;
    let needed = vec![channel.as_fd(), world.proc.as_fd(), container, stdin, stdout, stderr];
    session::keep_only(needed, &world.proof)?;
    session::begin_with(world, process, oom_score_adj)?;
    namespaces::enter(container)?;
    session::keep_only(vec![channel.as_fd(), stdin, stdout, stderr], &world.proof)?;
    let spawn = Spawn { sibling: true, ..Spawn::default() };
    let entered = || tell(channel, entered_steps(process, stdio, channel));
    let spawned = spawn.run(&world.proof, entered).step("clone", "")?;
    channel.say_with(&Word::Forked { pid: spawned.pid.as_raw_pid() }, spawned.pidfd.as_fd())
}

fn entered_steps(process: &Process, stdio: Stdio<'_>, channel: &Channel) -> Step<Infallible> {
    channel.wait_for_go()?;
    rustix::process::setsid().step("start a session", "")?;
    let root = sys::mount::root().step("open", "/")?;
    program::run(process, root.as_fd(), stdio, channel)
}

fn tell<T>(channel: &Channel, result: Step<T>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(refusal) => {
            channel.say(&Word::Failed(refusal)).ok();
            // The monitor may be gone, and then nobody reads either.
            1
        }
    }
}

/// Runs `child` as a process of its own: see [`clone::Spawn::run`].
pub(crate) fn spawn(
    world: &World,
    how: &Spawn<'_>,
    child: impl FnOnce() -> i32,
) -> Step<clone::Spawned> {
    how.run(&world.proof, child).step("clone", "")
}
