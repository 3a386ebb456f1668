//! Execs: one more process in a running container, which lives as long as its client's connection.

use crate::container::{SWEEPS, State};
use crate::events::{Event, Key};
use crate::init::{self, Enter, Stdio, Word};
use crate::monitor::Monitor;
use crate::refuse::{Explain, refusal};
use crate::start::{is_child, lives, place};
use plan::Process;
use runtime::cgroup::Held;
use runtime::id::ContainerId;
use runtime::protocol::{self, Failure, MAX_PLAN, Refusal, Response};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use std::os::fd::{AsFd, OwnedFd};
use sys::clone::Spawn;

/// A process that was asked for, until it has ended.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) container: Key,
    /// Its cgroup below the container's, and the name of that.
    cgroup: Option<(Held, String)>,
    pub(crate) client: Option<Key>,
    /// Our end of the channel, until `execve`.
    channel: Option<OwnedFd>,
    /// The process that enters the container, until it has ended.
    pub(crate) helper: Option<(Pid, OwnedFd)>,
    /// The process that runs the program, once there is one.
    pub(crate) process: Option<(Pid, OwnedFd)>,
    /// Its process group, where that is not its own: a program that began it may have kept its own.
    pub(crate) group: Option<Pid>,
    /// Our side of its terminal, until the client has it.
    pub(crate) terminal: Option<OwnedFd>,
    executing: bool,
    /// `execve` has happened.
    pub(crate) runs: bool,
    /// How the process has ended.
    code: Option<i32>,
    pub(crate) refusal: Option<Refusal>,
}

/// A request for an exec, taken apart.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) container: ContainerId,
    pub(crate) process: OwnedFd,
    /// None where the process has a terminal.
    pub(crate) pipes: Option<Pipes>,
}

/// What the process of an exec gets from its client.
#[derive(Debug)]
pub(crate) struct Pipes {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

impl Request {
    /// Gives each descriptor its meaning; `None` where their number is not right.
    pub(crate) fn new(
        container: ContainerId,
        stdin: bool,
        descriptors: Vec<OwnedFd>,
    ) -> Option<Self> {
        let many = descriptors.len();
        let mut descriptors = descriptors.into_iter();
        let process = descriptors.next()?;
        if many == 1 && !stdin {
            return Some(Self { container, process, pipes: None });
        }
        if many != 3 + usize::from(stdin) {
            return None;
        }
        let (stdout, stderr) = (descriptors.next()?, descriptors.next()?);
        let pipes = Pipes { stdin: descriptors.next(), stdout, stderr };
        Some(Self { container, process, pipes: Some(pipes) })
    }
}

impl Monitor {
    /// Begins an exec; the client hears when it runs, and when it has ended.
    pub(crate) fn exec(&mut self, request: &Request, client: Key) -> Result<Key, Failure> {
        if self.ending {
            return Err(Failure::Ending);
        }
        if let Some(driven) = self.driven(&request.container) {
            return self.exec_driven(&driven, request, client);
        }
        let process =
            sys::sealed::read(&request.process, MAX_PLAN).map_err(|_| Failure::Malformed)?;
        let version = self.version_of(client);
        let process: Process = protocol::body(&process, version).map_err(|_| Failure::Malformed)?;
        if process.terminal.is_some() == request.pipes.is_some() {
            return Err(Failure::Malformed);
        }
        let running = self.containers.iter().find(|(_, it)| it.id == request.container);
        let Some((container, it)) = running else { return Err(Failure::Unknown) };
        if !matches!(it.state, State::Alive { init: None, .. }) {
            return Err(Failure::NotRunning);
        }
        let container = *container;
        let key = self.next_key();
        let entered = self.enter(key, container, &process, request);
        let exec = match entered {
            Ok(exec) => exec,
            Err(refusal) => {
                self.leave_cgroup(container, exec_cgroup(key));
                return Err(Failure::Step(refusal));
            }
        };
        self.execs.insert(key, Exec { client: Some(client), ..exec });
        Ok(key)
    }

    fn enter(
        &self,
        key: Key,
        container: Key,
        process: &Process,
        request: &Request,
    ) -> Result<Exec, Refusal> {
        let first = self.containers.get(&container).and_then(|it| it.process());
        let first = first.ok_or(Errno::SRCH).step("enter", "the container")?;
        let cgroup = first.cgroup.as_ref().map(|cgroup| {
            let name = exec_cgroup(key);
            cgroup.held.child(&name).map(|held| (held, name))
        });
        let cgroup = cgroup.transpose().step("make", "cgroup")?;
        let (channel, theirs) = init::channel().step("make", "channel")?;
        self.events.add(&channel, Event::Exec(key)).step("watch", "channel")?;
        let null = &self.world.null;
        let stdio = match &request.pipes {
            Some(pipes) => Stdio {
                stdin: pipes.stdin.as_ref().unwrap_or(null).as_fd(),
                stdout: pipes.stdout.as_fd(),
                stderr: pipes.stderr.as_fd(),
            },
            None => Stdio { stdin: null.as_fd(), stdout: null.as_fd(), stderr: null.as_fd() },
        };
        let enter = Enter {
            world: &self.world,
            process,
            container: first.pidfd.as_fd(),
            stdio,
            oom_score_adj: first.oom_score_adj,
            user: first.user,
        };
        let held = cgroup.as_ref().map(|(held, _)| held);
        let how = Spawn { cgroup: held.and_then(Held::clone_into), ..Spawn::default() };
        let helper = init::spawn(&self.world, &how, || init::exec(&enter, &theirs))?;
        if let Some(held) = held {
            place(held, helper.pid).step("enter", "cgroup")?;
        }
        init::go(&channel).step("start", "exec")?;
        Ok(Exec {
            container,
            cgroup,
            client: None,
            channel: Some(channel),
            helper: Some((helper.pid, helper.pidfd)),
            process: None,
            group: None,
            terminal: None,
            executing: false,
            runs: false,
            code: None,
            refusal: None,
        })
    }

    /// Hears what an exec's processes have to say. The end of the channel is `execve`, or the end of both.
    pub(crate) fn hear_exec(&mut self, key: Key) {
        loop {
            let Some(exec) = self.execs.get_mut(&key) else { return };
            let Some(channel) = &exec.channel else { return };
            match init::hear(channel) {
                Err(Errno::AGAIN) => return,
                Ok(Some((Word::Forked { pid }, Some(pidfd)))) => {
                    exec.process = Pid::from_raw(pid).map(|pid| (pid, pidfd));
                    // It ends by itself where this fails.
                    init::go(channel).ok();
                }
                Ok(Some((Word::Executing, _))) => exec.executing = true,
                Ok(Some((Word::Failed(refusal), _))) => exec.refusal = Some(refusal),
                Ok(Some((Word::Terminal, Some(terminal)))) => {
                    // It blocks where this fails, and then the client is who waits.
                    rustix::io::ioctl_fionbio(&terminal, true).ok();
                    exec.terminal = Some(terminal);
                }
                Ok(Some((
                    Word::Terminal
                    | Word::Forked { .. }
                    | Word::Reaps
                    | Word::Procfs
                    | Word::Namespace,
                    _,
                ))) => {}
                Ok(None) | Err(_) => {
                    exec.channel = None;
                    self.exec_silent(key);
                    return;
                }
            }
        }
    }

    /// The channel has ended. If no step failed on the way, the program runs.
    fn exec_silent(&mut self, key: Key) {
        let Some(exec) = self.execs.get_mut(&key) else { return };
        let Some((pid, pidfd)) = &exec.process else { return };
        exec.runs = exec.refusal.is_none() && (exec.executing || lives(pidfd));
        let started = Response::ExecStarted { pid: pid.as_raw_pid() };
        // Only the client holds it from here on: when it leaves, the terminal is hung up.
        let terminal = exec.terminal.take();
        if let (Some(client), true) = (exec.client, exec.runs) {
            let with: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
            self.answer_with(client, &started, &with);
        }
    }

    /// One of the exec's two processes has ended.
    pub(crate) fn exec_child_ended(&mut self, key: Key, pid: Pid, code: i32) {
        self.hear_exec(key);
        let Some(exec) = self.execs.get_mut(&key) else { return };
        if exec.helper.take_if(|(helper, _)| *helper == pid).is_none() {
            exec.code = Some(code);
        }
        // The helper holds the channel open, and how that ends has to be known. Killed before the helper could name it,
        // the process was taken for an orphan.
        let expected = |(_, process): &(Pid, OwnedFd)| is_child(process);
        if exec.helper.is_some()
            || (exec.code.is_none() && exec.process.as_ref().is_some_and(expected))
        {
            return;
        }
        self.hear_exec(key);
        let Some(exec) = self.execs.remove(&key) else { return };
        let code = exec.code.unwrap_or(code);
        let answer = if exec.runs {
            Response::ExecEnded { code }
        } else {
            let ended = || refusal("enter container", &format!("ended with status {code}"), 0);
            Response::Failed(Failure::Step(exec.refusal.clone().unwrap_or_else(ended)))
        };
        let client = exec.client;
        // Who hears of the end finds nothing of it left.
        self.leave(exec);
        if let Some(client) = client {
            self.answer(client, &answer);
            self.connections.remove(&client);
        }
    }

    /// Its cgroup goes, unless something that it started still runs there.
    fn leave(&mut self, exec: Exec) {
        if let Some((_, name)) = exec.cgroup {
            self.leave_cgroup(exec.container, name);
        }
    }

    /// Gives an exec's cgroup back, also one that never held anything: an exec that a full container has no place for must
    /// not leave one behind each time.
    pub(super) fn leave_cgroup(&mut self, container: Key, name: String) {
        let container = self.containers.get_mut(&container);
        let cgroup = container.and_then(|it| it.process_mut()).and_then(|it| it.cgroup.as_mut());
        if let Some(cgroup) = cgroup {
            cgroup.left.push(name);
            cgroup.tries = SWEEPS;
            cgroup.sweep();
        }
    }

    /// The client is gone, and nobody else asks for the exec.
    pub(crate) fn abandon_exec(&mut self, key: Key) {
        if let Some(exec) = self.execs.get_mut(&key) {
            exec.client = None;
            exec.kill();
        }
    }
}

/// The name of an exec's cgroup below its container's.
pub(super) fn exec_cgroup(key: Key) -> String {
    format!("exec-{key}")
}

impl Exec {
    /// One that another runtime's program begins: `program` until it has named the process.
    pub(crate) fn by_program(
        container: Key,
        cgroup: Option<(Held, String)>,
        client: Key,
        program: (Pid, OwnedFd),
    ) -> Self {
        Self {
            container,
            cgroup,
            client: Some(client),
            channel: None,
            helper: Some(program),
            process: None,
            group: None,
            terminal: None,
            executing: false,
            runs: false,
            code: None,
            refusal: None,
        }
    }

    pub(crate) fn knows(&self, pid: Pid) -> bool {
        let is = |it: &Option<(Pid, OwnedFd)>| it.as_ref().is_some_and(|(own, _)| *own == pid);
        is(&self.helper) || is(&self.process)
    }

    /// Kills the process and all that it started: by their cgroup, or, in a container without one, by their group.
    pub(crate) fn kill(&self) {
        if let Some((cgroup, _)) = &self.cgroup {
            // The processes below are the ones we know.
            cgroup.kill().ok();
        } else if let Some((pid, _)) = &self.process {
            // Gone where it has ended; then its group is what it left behind.
            sys::rights::kill_group(self.group.unwrap_or(*pid)).ok();
        }
        for (_, pidfd) in self.helper.iter().chain(&self.process) {
            // It may have ended.
            sys::rights::signal(pidfd, Signal::KILL.as_raw()).ok();
        }
    }
}
