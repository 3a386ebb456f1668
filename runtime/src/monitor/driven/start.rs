//! The start of a driven container: `create`, its process taken over, `start`.

use super::place::Places;
use super::run::{Order, Purpose, Started};
use super::{Driven, Driving, Parts, Starting};
use crate::container::{self, Cgroup, Container, First, State};
use crate::events::{Event, Key};
use crate::log::Log;
use crate::monitor::Monitor;
use crate::refuse::{Explain, refusal};
use crate::start::{self, Pipes, is_child};
use crate::streams::{Ends, Streams};
use plan::{Drive, PidNamespace};
use runtime::id::ContainerId;
use runtime::protocol::{self, Failure, MAX_PLAN, Refusal, Response};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::SystemTime;

/// A container whose `create` is at work.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(super) id: ContainerId,
    client: Key,
    driven: Driven,
    cgroup: Option<Cgroup>,
    ends: Ends,
    /// The program's own standard error, where the container has a terminal.
    errors: Option<OwnedFd>,
    /// Where the program sends the terminal to.
    console: Option<OwnedFd>,
    log: Log,
    record: OwnedFd,
}

/// What a request said, but for the descriptors of the plan.
struct Wish {
    id: ContainerId,
    client: Key,
    driven: Driven,
    log: Log,
    record: OwnedFd,
}

impl Monitor {
    /// Begins the start of a container by another runtime's program; the client hears when it is decided.
    pub(crate) fn drive(&mut self, request: start::Request, client: Key) -> Result<(), Failure> {
        if self.ending {
            return Err(Failure::Ending);
        }
        let known = self.containers.values().any(|container| container.id == request.id);
        if known || self.runs.is_making(&request.id) {
            return Err(Failure::Exists);
        }
        let drive = sys::sealed::read(&request.plan, MAX_PLAN).map_err(|_| Failure::Malformed)?;
        let drive: Drive =
            protocol::body(&drive, self.version_of(client)).map_err(|_| Failure::Malformed)?;
        let start::Request { id, record, log, cgroup, descriptors, .. } = request;
        let mut descriptors = descriptors.into_iter();
        let (bundle, host) =
            descriptors.next().zip(descriptors.next()).ok_or(Failure::Malformed)?;
        let driven = Driven(Rc::new(Parts { drive, id: id.to_string(), bundle, host }));
        let wish = Wish { id, client, driven, log: Log::new(log), record };
        let descriptors: Vec<OwnedFd> = descriptors.collect();
        let cgroup = cgroup.map(|(labels, fds)| start::hold(labels, fds)).transpose();
        let made = cgroup
            .step("use", "cgroup")
            .map(|cgroup| (cgroup, Pipes::new(&wish.driven.0.drive.plan)));
        match made {
            Ok((cgroup, pipes)) => self.create(wish, cgroup, pipes, &descriptors),
            Err(refusal) => Err(self.never_started(wish, refusal)),
        }
    }

    fn create(
        &mut self,
        wish: Wish,
        cgroup: Option<Cgroup>,
        pipes: Result<Pipes, Errno>,
        descriptors: &[OwnedFd],
    ) -> Result<(), Failure> {
        let key = self.next_key();
        let begun = pipes.step("make", "pipes").and_then(|pipes| {
            let driven = wish.driven.clone();
            self.run_create(key, &driven, pipes, descriptors)
        });
        let Begun { program, ends, errors, console } = match begun {
            Ok(begun) => begun,
            Err(refusal) => return Err(self.never_started(wish, refusal)),
        };
        let Wish { id, client, driven, log, record } = wish;
        let pending = Pending { id, client, driven, cgroup, ends, errors, console, log, record };
        self.expect(key, program, Purpose::Create(Box::new(pending)));
        Ok(())
    }

    fn run_create(
        &mut self,
        key: Key,
        driven: &Driven,
        pipes: Pipes,
        descriptors: &[OwnedFd],
    ) -> Result<Begun, Refusal> {
        let plan = &driven.0.drive.plan;
        if plan.pids == PidNamespace::Pod {
            self.share_pids(plan, descriptors)?;
        }
        let root = descriptors.get(usize::from(plan.root.0));
        let root = root.ok_or(Errno::BADF).step("use descriptor", "of the root")?;
        let mut order = Order::new(driven, "create");
        order.options = vec!["--bundle".into(), driven.0.drive.bundle.clone()];
        order.options.extend(["--pid-file".into(), driven.path(&pid_name(key))]);
        let (mut console, mut errors) = (None, None);
        if plan.process.terminal.is_some() {
            let name = console_name(key);
            console = Some(driven.listen(&name).step("listen", "for the terminal")?);
            order.options.extend(["--console-socket".into(), name]);
            errors = Some(start::outward().step("make", "pipes")?);
        }
        let pids = match &plan.pids {
            PidNamespace::Own | PidNamespace::Host => None,
            PidNamespace::Pod => self.pids.as_ref().map(|pids| pids.init),
            PidNamespace::Of(target) => Some(self.first_of(target)?.pid),
        };
        order.places = Some(Places { root: root.as_fd(), pids });
        let mut stdio = pipes.theirs(&self.world.null);
        if let Some((_, theirs)) = &errors {
            stdio.stderr = theirs.as_fd();
        }
        order.stdio = Some(stdio);
        let program = self.run_program(key, order)?;
        let ends = Ends {
            stdin: pipes.stdin.map(|(_, ours)| ours),
            stdout: pipes.stdout.map(|(ours, _)| ours),
            stderr: pipes.stderr.map(|(ours, _)| ours),
        };
        Ok(Begun { program, ends, errors: errors.map(|(ours, _)| ours), console })
    }

    /// `create` has ended: well, and its process is the container's; or not, and nothing of it is left.
    pub(super) fn created(&mut self, key: Key, pending: Pending, outcome: Result<(), Refusal>) {
        let mut pending = pending;
        let asked = self.connections.contains_key(&pending.client);
        let process = outcome.and_then(|()| {
            if !asked {
                return Err(refusal("start", "nobody asks for it any more", 0));
            }
            self.take_over(key, &mut pending)
        });
        let Pending { id, client, driven, ends, log, record, cgroup, .. } = pending;
        match process {
            Ok(process) => {
                let starting = Some(Starting { client, refusal: None, ended: None });
                let driving = Some(Driving { driven: driven.clone(), starting });
                let state = State::Alive { process: First { cgroup, ..process }, init: None };
                let since = SystemTime::now();
                let streams = Streams::new(&driven.0.drive.plan.process, ends, log);
                let container = Container { id, state, since, streams, record, driving };
                let container_key = self.next_key();
                self.containers.insert(container_key, container);
                self.begin_start(container_key, &driven);
            }
            Err(refusal) => {
                if let Some(cgroup) = &cgroup {
                    // What the program may have left half-way.
                    cgroup.held.kill().ok();
                }
                self.delete(&driven);
                let wish = Wish { id, client, driven, log, record };
                let failure = self.never_started(wish, refusal);
                self.answer(client, &Response::Failed(failure));
            }
        }
    }

    /// The process that `create` has left is this monitor's child now. Its output is read from here on.
    fn take_over(&mut self, key: Key, pending: &mut Pending) -> Result<First, Refusal> {
        let plan = &pending.driven.0.drive.plan;
        let step = "take over";
        let pid = pending.driven.take_pid(&pid_name(key)).step(step, "process from pid file")?;
        let number = format!("process {}", pid.as_raw_pid());
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).step(step, &number)?;
        if !is_child(&pidfd) {
            return Err(refusal(step, &format!("{number}: is not the monitor's child"), 0));
        }
        if let Some(listener) = pending.console.take() {
            pending.driven.remove(&console_name(key));
            let terminal = receive_terminal(&listener).step("receive", "the terminal")?;
            pending.ends.stdout = Some(terminal);
        }
        Ok(First {
            pid,
            pidfd,
            cgroup: None,
            shares_pids: plan.pids != PidNamespace::Own,
            oom_score_adj: plan.process.oom_score_adj.unwrap_or(self.world.oom_score_adj),
            user: None,
        })
    }

    fn begin_start(&mut self, container: Key, driven: &Driven) {
        let watched = self.watch_output(container).step("watch", "pipes");
        let key = self.next_key();
        let program = watched.and_then(|()| self.run_program(key, Order::new(driven, "start")));
        match program {
            Ok(program) => self.expect(key, program, Purpose::Start(container)),
            Err(refusal) => self.start_ended(container, Err(refusal)),
        }
    }

    fn watch_output(&self, key: Key) -> Result<(), Errno> {
        let Some(container) = self.containers.get(&key) else { return Ok(()) };
        let (output, errors) = container.streams.pipes();
        output.map_or(Ok(()), |pipe| self.events.add(pipe, Event::Output(key)))?;
        errors.map_or(Ok(()), |pipe| self.events.add(pipe, Event::Errors(key)))
    }

    /// `start` has ended: the program runs, or has run; or the container is given up.
    pub(super) fn start_ended(&mut self, key: Key, outcome: Result<(), Refusal>) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        let Some(driving) = &mut container.driving else { return };
        let Some(starting) = driving.starting.take() else { return };
        match (outcome, starting.ended) {
            (Ok(()), ended) => {
                container.since = SystemTime::now();
                let pid = container.process().map_or(0, |process| process.pid.as_raw_pid());
                let at = container.since;
                self.answer(starting.client, &Response::Started { pid, at });
                if let Some(code) = ended {
                    self.container_ended(key, code);
                }
            }
            (Err(refusal), Some(_)) => self.give_up(key, starting.client, refusal),
            (Err(refusal), None) => {
                driving.starting = Some(Starting { refusal: Some(refusal), ..starting });
                if let Some(process) = container.process() {
                    // Its end is what the client waits for.
                    process.kill().ok();
                }
            }
        }
    }

    /// The process of a container has ended. Says whether its start is still to be decided, or was given up.
    pub(crate) fn ended_while_starting(&mut self, key: Key, code: i32) -> bool {
        let Some(container) = self.containers.get_mut(&key) else { return false };
        let Some(driving) = &mut container.driving else { return false };
        let Some(starting) = &mut driving.starting else { return false };
        match starting.refusal.take() {
            None => starting.ended = Some(code),
            Some(refusal) => {
                let client = starting.client;
                driving.starting = None;
                self.give_up(key, client, refusal);
            }
        }
        true
    }

    /// Records that the program of a container never ran.
    fn give_up(&mut self, key: Key, client: Key, refusal: Refusal) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        let exit = container.end_unstarted(&refusal, &mut self.buffer, &self.events);
        let (id, driving) = (container.id.clone(), container.driving.as_ref());
        if let Some(driven) = driving.map(|driving| driving.driven.clone()) {
            self.delete(&driven);
        }
        self.tell_of_streams(key);
        self.tell_watchers(&id, &exit);
        self.refuse_start(client, refusal);
    }

    /// As [`Self::give_up`], of a container that has not even a process.
    fn never_started(&mut self, wish: Wish, refusal: Refusal) -> Failure {
        let Wish { id, driven, log, record, .. } = wish;
        let exit = container::start_failed(&refusal);
        let state = State::Exited(exit.clone());
        let driving = Some(Driving { driven, starting: None });
        let since = SystemTime::now();
        let streams = Streams::none(log);
        let mut container = Container { id, state, since, streams, record, driving };
        let exit = container.record(exit);
        self.tell_watchers(&container.id.clone(), &exit);
        let key = self.next_key();
        self.containers.insert(key, container);
        Failure::Step(refusal)
    }

    /// Has the program forget a container, in its own time.
    pub(crate) fn delete(&mut self, driven: &Driven) {
        let key = self.next_key();
        let mut order = Order::new(driven, "delete");
        order.options = vec!["--force".into()];
        // What stays of it where this fails is swept by the daemon.
        if let Ok(program) = self.run_program(key, order) {
            self.expect(key, program, Purpose::Delete { clients: Vec::new() });
        }
    }
}

/// A `create` that is at work.
struct Begun {
    program: Started,
    ends: Ends,
    errors: Option<OwnedFd>,
    console: Option<OwnedFd>,
}

impl Pending {
    /// What the program writes on standard error, which until it has ended well is nobody else's.
    pub(super) fn errors(&self) -> Option<&OwnedFd> {
        self.errors.as_ref().or(self.ends.stderr.as_ref())
    }
}

impl Driven {
    /// A file of the bundle, as the program knows it.
    pub(super) fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.0.drive.bundle)
    }

    /// Listens as `name` in the bundle, which is where programs are run: a longer path would not fit an address.
    pub(super) fn listen(&self, name: &str) -> Result<OwnedFd, Errno> {
        use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::process::fchdir(&self.0.bundle)?;
        let bound = net::bind(&socket, &SocketAddrUnix::new(name)?);
        // Always there: it is the monitor's own.
        rustix::process::chdir("/")?;
        bound.and_then(|()| net::listen(&socket, 1)).map(|()| socket)
    }
}

/// The terminal that a program has sent before it ended.
pub(super) fn receive_terminal(listener: &OwnedFd) -> Result<OwnedFd, Errno> {
    let peer = rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&peer, true)?;
    let message = sys::seqpacket::receive(&peer, &mut [0; 4096])?;
    let terminal = message.and_then(|mut message| message.descriptors.pop()).ok_or(Errno::NOMSG)?;
    rustix::io::ioctl_fionbio(&terminal, true)?;
    Ok(terminal)
}

pub(super) fn pid_name(key: Key) -> String {
    format!("{key}.pid")
}

pub(super) fn console_name(key: Key) -> String {
    format!("{key}.tty")
}
