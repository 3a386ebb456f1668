//! What a new process does on its way to becoming a container's program: it executes the plan and decides nothing.
//!
//! [`container`], [`exec`] and [`reaper`](reaper::reaper) are the three sequences, in the order that is the security
//! argument. Each step is a file of its own. All of it runs in a copy of the monitor, which holds nothing but what the
//! sequence needs.
//!
//! A process in a PID namespace that others are in can be seen by them, and with CAP_SYS_PTRACE be taken over. So it is
//! made as late as can be, by a first process outside, holds no descriptor of the host, and has no rights beyond those of
//! the program (CVE-2016-9962):
//!
//! ```text
//!   exec:      first: enters the container, rights ─clone─▶ second: execve
//!   container: first: namespaces, mounts, root ─┬──▶ goes on itself, as process 1: rights, execve
//!                  in the pod's PID namespace:  └──▶ rights ─clone─▶ second: execve
//!                  in a user namespace:  first: enters it ─clone3─▶ second, as process 1: all the rest
//! ```
//!
//! One exception: a system call filter that does not let the first process make the second one is loaded by the second,
//! which needs CAP_SYS_ADMIN for it unless it gives up gaining rights (`no_new_privs`).
//!
//! The second one is the monitor's child as well, so that the monitor gets its exit status.

mod channel;
mod devices;
mod identity;
mod masks;
mod mounts;
mod namespaces;
mod program;
mod reaper;
mod resolve;
mod root;
mod session;
mod target;
mod terminal;
mod user;

pub(crate) use channel::{Channel, Word, go, hear, pair as channel, wait_for_word};
pub(crate) use reaper::reaper;
pub(crate) use session::{alone, keep_only};
pub(crate) use user::maker;

use crate::refuse::Explain;
use crate::world::World;
use plan::{Fd, IdRange, LaunchPlan, PidNamespace, Process};
use program::Filter;
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
    /// A process of the PID namespace that the container is to live in: process 1 of the pod's, or the first one of
    /// another container.
    pub(crate) pids: Option<BorrowedFd<'a>>,
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
    /// The container's user namespace: users, then groups.
    pub(crate) user: Option<(IdRange, IdRange)>,
}

/// Becomes a container's first process, or makes it. Gives the exit status of a process that did not become it.
pub(crate) fn container(start: &Start<'_>, channel: &Channel) -> i32 {
    tell(channel, container_steps(start, channel))
}

fn container_steps(start: &Start<'_>, channel: &Channel) -> Step<()> {
    let (world, process) = (start.world, &start.plan.process);
    channel.wait_for_go()?;
    session::keep_only(start.needed(channel), &world.proof)?;
    session::begin(world, process)?;
    let mut ahead = Ahead::default();
    if let (PidNamespace::Of(_), Some(pids)) = (&start.plan.pids, start.pids) {
        ahead.proc = Some(target::procfs(start, pids)?);
    }
    if let Some(pids) = start.pids {
        // For children of this process. From inside a user namespace the kernel lets nobody in by a process of the host's.
        namespaces::enter_pids(pids)?;
    }
    let Some(user) = &start.plan.user else { return assemble(start, &ahead, channel) };
    ahead.dev = user::prepare(start, user)?;
    user::enter(start, user)?;
    if start.plan.pids != PidNamespace::Own {
        return assemble(start, &ahead, channel);
    }
    // Only a process that is made inside makes a PID namespace that is the user namespace's.
    let how = Spawn { pid_namespace: true, sibling: true, ..Spawn::default() };
    let second = || tell(channel, second_steps(start, &ahead, channel));
    let spawned = spawn(world, &how, second)?;
    channel.say_with(&Word::Forked { pid: spawned.pid.as_raw_pid() }, spawned.pidfd.as_fd())
}

/// What a container's first process has made ahead, of what cannot be made where the rest is.
#[derive(Debug, Default)]
struct Ahead {
    /// The root of the plan's `/dev`, with the devices.
    dev: Option<OwnedFd>,
    /// The procfs of the PID namespace that the container is to live in.
    proc: Option<OwnedFd>,
}

fn second_steps(start: &Start<'_>, ahead: &Ahead, channel: &Channel) -> Step<()> {
    channel.wait_for_go()?;
    rustix::process::setsid().step("start a session", "")?;
    assemble(start, ahead, channel)
}

fn assemble(start: &Start<'_>, ahead: &Ahead, channel: &Channel) -> Step<()> {
    let (world, process) = (start.world, &start.plan.process);
    namespaces::join(start)?;
    namespaces::own(start)?;
    let root = root::attach(start)?;
    let dev = mounts::make(start, ahead, root)?;
    if ahead.dev.is_none() {
        devices::nodes(start.plan, dev.as_ref(), None)?;
    }
    devices::links(start.plan, dev.as_ref())?;
    let terminal = terminal::open(process, root, channel)?;
    terminal.as_ref().map_or(Ok(()), |terminal| terminal.show(dev.as_ref()))?;
    masks::hide(&start.plan.masked, root)?;
    masks::protect(&start.plan.readonly, root)?;
    root::enter(start.plan, root)?;
    let program = Program { world, process, stdio: start.stdio, terminal: terminal.as_ref() };
    match start.pids {
        None => program.run(root, channel).map(|never| match never {}),
        Some(_) => program.hand_over(channel),
    }
}

impl Start<'_> {
    fn needed<'a>(&'a self, channel: &'a Channel) -> Vec<BorrowedFd<'a>> {
        let Stdio { stdin, stdout, stderr } = self.stdio;
        let always = [channel.as_fd(), self.world.proc.as_fd(), stdin, stdout, stderr];
        let plan = self.descriptors.iter().map(AsFd::as_fd);
        always.into_iter().chain(self.pids).chain(plan).collect()
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
    let Enter { world, process, container, stdio, oom_score_adj, user } = *enter;
    let Stdio { stdin, stdout, stderr } = stdio;
    channel.wait_for_go()?;
    let needed = vec![channel.as_fd(), world.proc.as_fd(), container, stdin, stdout, stderr];
    session::keep_only(needed, &world.proof)?;
    session::begin_with(world, process, oom_score_adj)?;
    if let Some((uids, gids)) = user {
        identity::limit(process)?;
        user::give(stdio, process, uids, gids)?;
    }
    namespaces::enter(container, user.is_some())?;
    if user.is_some() {
        user::become_root()?;
    }
    let terminal = match process.terminal {
        None => None,
        Some(_) => {
            let root = sys::mount::root().step("open", "/")?;
            terminal::open(process, root.as_fd(), channel)?
        }
    };
    Program { world, process, stdio, terminal: terminal.as_ref() }.hand_over(channel)
}

/// What is left to do once a process is where the program is to run.
#[derive(Debug)]
struct Program<'a> {
    world: &'a World,
    process: &'a Process,
    /// What it gets where it has no terminal.
    stdio: Stdio<'a>,
    terminal: Option<&'a terminal::Peer>,
}

impl Program<'_> {
    /// Runs it in this process, the leader of a session.
    fn run(&self, root: BorrowedFd<'_>, channel: &Channel) -> Step<Infallible> {
        self.terminal.map_or(Ok(()), terminal::Peer::control)?;
        let filter = program::prepare(self.process, root, self.stdio())?;
        program::finish(self.process, filter, channel)
    }

    /// Runs it in a new process, in the PID namespace that was entered for children. The monitor is its parent.
    ///
    /// This process ends here: it has closed what the callers believe to hold.
    fn hand_over(&self, channel: &Channel) -> ! {
        clone::exit(tell(channel, self.handed_over(channel)))
    }

    fn handed_over(&self, channel: &Channel) -> Step<()> {
        let Stdio { stdin, stdout, stderr } = self.stdio();
        session::keep_only(vec![channel.as_fd(), stdin, stdout, stderr], &self.world.proof)?;
        let root = sys::mount::root().step("open", "/")?;
        let filter = program::prepare(self.process, root.as_fd(), self.stdio())?;
        drop(root);
        let filter = program::restrict_early(self.process, filter)?;
        let entered = || tell(channel, self.entered_steps(filter, channel));
        let spawned = clone::sibling(&self.world.proof, entered).step("clone", "")?;
        channel.say_with(&Word::Forked { pid: spawned.pid.as_raw_pid() }, spawned.pidfd.as_fd())
    }

    fn entered_steps(&self, filter: Filter, channel: &Channel) -> Step<Infallible> {
        channel.wait_for_go()?;
        rustix::process::setsid().step("start a session", "")?;
        self.terminal.map_or(Ok(()), terminal::Peer::control)?;
        program::finish(self.process, filter, channel)
    }

    fn stdio(&self) -> Stdio<'_> {
        self.terminal.map_or(self.stdio, terminal::Peer::stdio)
    }
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
