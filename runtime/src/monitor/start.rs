//! Starts: from a request to a running program, without ever waiting for it.

use crate::container::{self, Cgroup, Container, First, Init, State};
use crate::events::{Event, Key};
use crate::init::{self, Start, Stdio, Word};
use crate::log::Log;
use crate::monitor::Monitor;
use crate::refuse::{Explain, refusal};
use crate::streams::{Ends, Streams};
use plan::{LaunchPlan, PidNamespace};
use runtime::cgroup::{Descriptors, Held};
use runtime::id::ContainerId;
use runtime::protocol::{self, Failure, MAX_PLAN, Refusal, Response};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use std::os::fd::{AsFd, OwnedFd};
use std::time::SystemTime;
use sys::clone::Spawn;

/// A request to start a container, taken apart.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) id: ContainerId,
    pub(crate) plan: OwnedFd,
    pub(crate) record: OwnedFd,
    pub(crate) log: Option<OwnedFd>,
    pub(crate) cgroup: Option<(Vec<String>, Vec<OwnedFd>)>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// A process that was started, and our ends of what it was given.
struct Launched {
    process: First,
    channel: OwnedFd,
    ends: Ends,
}

impl Request {
    /// Gives each descriptor its meaning; `None` where there are too few.
    pub(crate) fn new(
        id: ContainerId,
        log: bool,
        labels: Option<Vec<String>>,
        mut descriptors: Vec<OwnedFd>,
    ) -> Option<Self> {
        let cgroups = labels.as_ref().map_or(0, Vec::len);
        let ahead = 2 + usize::from(log) + cgroups;
        if descriptors.len() < ahead {
            return None;
        }
        let rest = descriptors.split_off(ahead);
        let mut descriptors = descriptors.into_iter();
        let (plan, record) = (descriptors.next()?, descriptors.next()?);
        let log = if log { Some(descriptors.next()?) } else { None };
        let cgroup = labels.map(|labels| (labels, descriptors.collect()));
        Some(Self { id, plan, record, log, cgroup, descriptors: rest })
    }
}

impl Monitor {
    /// Begins a start; the client hears when it is decided.
    pub(crate) fn start(&mut self, request: Request, client: Key) -> Result<(), Failure> {
        if self.ending {
            return Err(Failure::Ending);
        }
        if self.containers.values().any(|container| container.id == request.id) {
            return Err(Failure::Exists);
        }
        let plan = sys::sealed::read(&request.plan, MAX_PLAN).map_err(|_| Failure::Malformed)?;
        let plan: LaunchPlan =
            protocol::body(&plan, self.version_of(client)).map_err(|_| Failure::Malformed)?;
        let Request { id, record, log, cgroup, descriptors, .. } = request;
        let key = self.next_key();
        let launched = self.launch(key, &plan, cgroup, &descriptors);
        let since = SystemTime::now();
        let log = Log::new(log);
        match launched {
            Ok(Launched { process, channel, ends }) => {
                let client = Some(client);
                let init = Init { channel, client, helper: None, executing: false, refusal: None };
                let state = State::Alive { process, init: Some(init) };
                let streams = Streams::new(&plan.process, ends, log);
                let container = Container { id, state, since, streams, record, driving: None };
                self.containers.insert(key, container);
                Ok(())
            }
            Err(refusal) => {
                let exit = container::start_failed(&refusal);
                let state = State::Exited(exit.clone());
                let streams = Streams::none(log);
                let mut container = Container { id, state, since, streams, record, driving: None };
                let exit = container.record(exit);
                self.tell_watchers(&container.id.clone(), &exit);
                self.containers.insert(key, container);
                Err(Failure::Step(refusal))
            }
        }
    }

    fn launch(
        &mut self,
        key: Key,
        plan: &LaunchPlan,
        cgroup: Option<(Vec<String>, Vec<OwnedFd>)>,
        descriptors: &[OwnedFd],
    ) -> Result<Launched, Refusal> {
        let cgroup =
            cgroup.map(|(labels, fds)| hold(labels, fds)).transpose().step("use", "cgroup")?;
        let shared = matches!(plan.pids, PidNamespace::Pod | PidNamespace::Of(_));
        if shared && cgroup.is_none() {
            return Err(refusal("share PID namespace", "without a cgroup", 0));
        }
        if plan.pids == PidNamespace::Pod {
            self.share_pids(plan, descriptors)?;
        }
        let pipes = Pipes::new(plan).step("make", "pipes")?;
        let (channel, theirs) = init::channel().step("make", "channel")?;
        self.register(key, &channel, &pipes).step("watch", "pipes")?;
        let how = Spawn {
            mount_namespace: true,
            pid_namespace: plan.pids == PidNamespace::Own && plan.user.is_none(),
            cgroup: cgroup.as_ref().and_then(|cgroup| cgroup.held.clone_into()),
            ..Spawn::default()
        };
        let pids = match &plan.pids {
            PidNamespace::Own | PidNamespace::Host => None,
            PidNamespace::Pod => self.pids.as_ref().map(|pids| pids.pidfd.as_fd()),
            PidNamespace::Of(target) => Some(self.first_of(target)?.pidfd.as_fd()),
        };
        let stdio = pipes.theirs(&self.world.null);
        let start = Start { world: &self.world, plan, descriptors, stdio, pids };
        let spawned = init::spawn(&self.world, &how, || init::container(&start, &theirs))?;
        let process = First {
            pid: spawned.pid,
            pidfd: spawned.pidfd,
            cgroup,
            shares_pids: plan.pids != PidNamespace::Own,
            oom_score_adj: plan.process.oom_score_adj.unwrap_or(self.world.oom_score_adj),
            user: plan.user.as_ref().map(|user| (user.uids, user.gids)),
        };
        // A process that never hears to go on ends by itself when the channel is closed.
        if let Some(cgroup) = &process.cgroup {
            place(&cgroup.held, process.pid).step("enter", "cgroup")?;
        }
        init::go(&channel).step("start", "init")?;
        let ends = Ends {
            stdin: pipes.stdin.map(|(_, ours)| ours),
            stdout: pipes.stdout.map(|(ours, _)| ours),
            stderr: pipes.stderr.map(|(ours, _)| ours),
        };
        Ok(Launched { process, channel, ends })
    }

    fn register(&self, key: Key, channel: &OwnedFd, pipes: &Pipes) -> Result<(), Errno> {
        self.events.add(channel, Event::Start(key))?;
        if let Some((ours, _)) = &pipes.stdout {
            self.events.add(ours, Event::Output(key))?;
        }
        if let Some((ours, _)) = &pipes.stderr {
            self.events.add(ours, Event::Errors(key))?;
        }
        Ok(())
    }

    /// The first process of a running container, whose PID namespace another one asks for.
    pub(crate) fn first_of(&self, container: &str) -> Result<&First, Refusal> {
        let running = self.containers.values().find_map(|it| match &it.state {
            State::Alive { process, init: None } if it.id.as_str() == container => Some(process),
            State::Alive { .. } | State::Exited(_) => None,
        });
        running.ok_or_else(|| {
            refusal(
                "join PID namespace",
                &format!("of container {container}, which is not running"),
                0,
            )
        })
    }

    /// Hears what a container's init has to say. The end of the channel, if the process lives, is `execve`.
    pub(crate) fn hear_init(&mut self, key: Key) {
        loop {
            let Some(container) = self.containers.get_mut(&key) else { return };
            let State::Alive { process, init: Some(init) } = &mut container.state else { return };
            match init::hear(&init.channel) {
                Err(Errno::AGAIN) => return,
                Ok(Some((Word::Executing, _))) => init.executing = true,
                Ok(Some((Word::Failed(refusal), _))) => init.refusal = Some(refusal),
                Ok(Some((Word::Terminal, Some(terminal)))) => self.take_terminal(key, terminal),
                Ok(Some((Word::Forked { pid }, Some(pidfd)))) => {
                    // Killed before it was named, it was taken for an orphan; then the end of its maker is the answer.
                    if let (Some(pid), true) = (Pid::from_raw(pid), is_child(&pidfd)) {
                        init.helper = Some(std::mem::replace(&mut process.pid, pid));
                        process.pidfd = pidfd;
                    }
                }
                Ok(Some((
                    Word::Terminal
                    | Word::Forked { .. }
                    | Word::Reaps
                    | Word::Procfs
                    | Word::Namespace,
                    _,
                ))) => {}
                // An init that breaks the channel is no init of ours any more; its end will tell.
                Ok(None) | Err(_) => return self.init_silent(key),
            }
        }
    }

    fn take_terminal(&mut self, key: Key, terminal: OwnedFd) {
        let ready = rustix::io::ioctl_fionbio(&terminal, true)
            .and_then(|()| self.events.add(&terminal, Event::Output(key)));
        if let Some(container) = self.containers.get_mut(&key)
            && ready.is_ok()
        {
            container.streams.set_terminal(terminal);
        }
    }

    /// The channel has ended: by `execve`, or with the process.
    fn init_silent(&mut self, key: Key) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        let State::Alive { process, init } = &mut container.state else { return };
        let alive = lives(&process.pidfd);
        let runs = |init: &mut Init| init.refusal.is_none() && (init.executing || alive);
        // Otherwise the process is about to end, and that will be the answer.
        let Some(init) = init.take_if(runs) else { return };
        container.since = SystemTime::now();
        let started = Response::Started { pid: process.pid.as_raw_pid(), at: container.since };
        if let Some(client) = init.client {
            self.answer(client, &started);
        }
    }

    /// The process that made a container's first one has ended. That one may go on now: nobody else holds the channel,
    /// so that its end is `execve` again.
    pub(crate) fn helper_ended(&mut self, key: Key) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        if let State::Alive { init: Some(init), .. } = &mut container.state {
            init.helper = None;
            // It ends by itself where this fails.
            init::go(&init.channel).ok();
        }
    }

    /// Tells who asked for a start that it has failed.
    pub(crate) fn refuse_start(&mut self, client: Key, refusal: Refusal) {
        self.answer(client, &Response::Failed(Failure::Step(refusal)));
    }
}

/// Whether a child has not ended, so that the end of its channel can only be `execve`.
pub(crate) fn lives(child: &OwnedFd) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(waitid(WaitId::PidFd(child.as_fd()), options), Ok(None))
}

/// Whether it is a child that was not waited for yet.
pub(crate) fn is_child(process: &OwnedFd) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::PidFd(process.as_fd()), options).is_ok()
}

/// Puts a new process into its cgroup, unless it was made there.
pub(crate) fn place(held: &Held, pid: Pid) -> std::io::Result<()> {
    if held.clone_into().is_some() { Ok(()) } else { held.enter(pid.as_raw_pid()) }
}

pub(crate) fn hold(labels: Vec<String>, fds: Vec<OwnedFd>) -> std::io::Result<Cgroup> {
    let directories = fds.iter().map(OwnedFd::try_clone).collect::<Result<_, _>>()?;
    let held = Held::from_descriptors(Descriptors::from_parts(labels, fds)?)?;
    // The count is read before the start, so that no kill is missed and none of an earlier life is counted.
    let oom = match held.oom()? {
        Some(watch) => Some(watch.kills().map(|before| (watch, before))?),
        None => None,
    };
    Ok(Cgroup { held, directories, oom, left: Vec::new(), tries: 0 })
}

/// The pipes of a container, each as our end and theirs; none where a terminal or the null device stands in.
#[derive(Debug)]
pub(crate) struct Pipes {
    pub(crate) stdin: Option<(OwnedFd, OwnedFd)>,
    pub(crate) stdout: Option<(OwnedFd, OwnedFd)>,
    pub(crate) stderr: Option<(OwnedFd, OwnedFd)>,
}

impl Pipes {
    pub(crate) fn new(plan: &LaunchPlan) -> Result<Self, Errno> {
        if plan.process.terminal.is_some() {
            return Ok(Self { stdin: None, stdout: None, stderr: None });
        }
        let stdin = if plan.process.stdin { Some(inward()?) } else { None };
        Ok(Self { stdin, stdout: Some(outward()?), stderr: Some(outward()?) })
    }

    pub(crate) fn theirs<'a>(&'a self, null: &'a OwnedFd) -> Stdio<'a> {
        let theirs = |pipe: &'a Option<(OwnedFd, OwnedFd)>| {
            pipe.as_ref().map_or(null, |(_, theirs)| theirs).as_fd()
        };
        Stdio {
            stdin: self.stdin.as_ref().map_or(null, |(theirs, _)| theirs).as_fd(),
            stdout: theirs(&self.stdout),
            stderr: theirs(&self.stderr),
        }
    }
}

/// A pipe whose write end, ours, does not block: clients of the container write to it.
fn inward() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((theirs, ours))
}

/// A pipe whose read end, ours, does not block.
pub(crate) fn outward() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}
