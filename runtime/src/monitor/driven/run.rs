//! Runs of a runtime's program: each has a purpose, a time limit and an end.

use super::place::Places;
use super::program::{self, Program};
use super::start::{Pending, console_name, receive_terminal};
use super::{Driven, words};
use crate::events::Key;
use crate::init::{self, Stdio, Word};
use crate::monitor::Monitor;
use crate::refuse::{Explain, refusal};
use runtime::id::ContainerId;
use runtime::protocol::{Failure, Refusal, Response};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use sys::clone::{Spawn, Spawned};

/// What is at work, and what ended meanwhile that nobody had asked for.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    all: BTreeMap<Key, Run>,
    /// Children that ended while a program was at work: it may be about to name one of them.
    strays: BTreeMap<i32, i32>,
}

/// One run of a program, until it has ended.
#[derive(Debug)]
pub(crate) struct Run {
    program: Started,
    /// When it is killed; none once it has been.
    deadline: Option<Instant>,
    purpose: Purpose,
}

/// What is done when a program has ended.
#[derive(Debug)]
pub(crate) enum Purpose {
    /// A container's `create`.
    Create(Box<Pending>),
    /// A container's `start`.
    Start(Key),
    /// A container's `kill` with a signal that somebody asked for.
    Signal { container: Key, signal: i32, client: Key },
    /// A container's `update`.
    Update { client: Key },
    /// The end of all. Some may have asked for it to be told.
    Delete { clients: Vec<Key> },
    /// An exec, and where its terminal is sent to.
    Exec { exec: Key, console: Option<OwnedFd> },
}

/// What a run is made of.
pub(super) struct Order<'a> {
    pub(super) driven: &'a Driven,
    pub(super) command: &'static str,
    /// Behind the command, ahead of the container's name.
    pub(super) options: Vec<String>,
    /// Behind the container's name.
    pub(super) last: Option<String>,
    pub(super) stdio: Option<Stdio<'a>>,
    pub(super) places: Option<Places<'a>>,
    /// A sealed file that the program reads.
    pub(super) input: Option<(&'static str, BorrowedFd<'a>)>,
}

impl<'a> Order<'a> {
    pub(super) fn new(driven: &'a Driven, command: &'static str) -> Self {
        let (options, last) = (Vec::new(), None);
        Self { driven, command, options, last, stdio: None, places: None, input: None }
    }
}

/// What is somebody's call is done before that gives up, which is after ten seconds.
const CALL_PATIENCE: Duration = Duration::from_secs(6);
/// More children than can end while a program is at work, unless somebody floods the pod with orphans.
const MOST_STRAYS: usize = 4096;

/// A program that was started.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    /// On which the process says what failed before `execve`.
    channel: OwnedFd,
    driven: Driven,
    command: &'static str,
}

impl Monitor {
    /// Starts a program. [`Self::expect`] says what for.
    pub(super) fn run_program(&self, key: Key, order: Order<'_>) -> Result<Started, Refusal> {
        let arguments = arguments(key, &order);
        let Order { driven, command, stdio, places, input, .. } = order;
        let null = self.world.null.as_fd();
        let stdio = stdio.unwrap_or(Stdio { stdin: null, stdout: null, stderr: null });
        let (channel, theirs) = init::channel().step("make", "channel")?;
        let input = input.map(|(_, fd)| fd);
        let program = Program { driven, arguments: &arguments, stdio, places, input };
        let spawned = init::spawn(&self.world, &Spawn::default(), || {
            program::execute(&program, &self.world, &theirs)
        })?;
        let Spawned { pid, pidfd } = spawned;
        Ok(Started { pid, pidfd, channel, driven: driven.clone(), command })
    }

    /// Has what `purpose` says done when the program has ended, or has had its time.
    pub(super) fn expect(&mut self, key: Key, program: Started, purpose: Purpose) {
        let patience = program.driven.patience();
        let patience = match purpose {
            Purpose::Signal { .. } | Purpose::Update { .. } | Purpose::Delete { .. } => {
                patience.min(CALL_PATIENCE)
            }
            Purpose::Create(_) | Purpose::Start(_) | Purpose::Exec { .. } => patience,
        };
        let deadline = Some(Instant::now() + patience);
        self.runs.all.insert(key, Run { program, deadline, purpose });
    }

    /// Takes the end of a program, where this child is one.
    pub(crate) fn program_ended(&mut self, pid: Pid, code: i32) -> bool {
        let found =
            self.runs.all.iter().find(|(_, run)| run.program.pid == pid).map(|(key, _)| *key);
        let Some((key, run)) = found.and_then(|key| self.runs.all.remove_entry(&key)) else {
            return false;
        };
        let outcome = run.outcome(key, code);
        let driven = run.program.driven;
        match run.purpose {
            Purpose::Create(pending) => self.created(key, *pending, outcome),
            Purpose::Start(container) => self.start_ended(container, outcome),
            Purpose::Signal { container, signal, client } => {
                self.signalled(container, signal, client, outcome);
            }
            Purpose::Update { client } => {
                let done = |()| Response::Done;
                let failed = |refusal| Response::Failed(Failure::Step(refusal));
                self.answer(client, &outcome.map_or_else(failed, done));
            }
            // What it could not do ends with the container's cgroup and the daemon's sweep.
            Purpose::Delete { clients } => {
                clients.into_iter().for_each(|client| self.answer(client, &Response::Done));
            }
            Purpose::Exec { exec, console } => {
                let terminal = console.and_then(|console| {
                    driven.remove(&console_name(key));
                    receive_terminal(&console).ok()
                });
                self.exec_program_ended(key, exec, outcome.map(|()| terminal));
            }
        }
        if self.runs.all.is_empty() {
            self.runs.strays.clear();
        }
        true
    }

    /// Remembers the end of a child that nobody knows, in case that a program names it.
    pub(crate) fn stray_ended(&mut self, pid: Pid, code: i32) {
        if !self.runs.all.is_empty() && self.runs.strays.len() < MOST_STRAYS {
            self.runs.strays.insert(pid.as_raw_pid(), code);
        }
    }

    /// How a process ended that a program has named too late.
    pub(super) fn take_stray(&mut self, pid: Pid) -> Option<i32> {
        self.runs.strays.remove(&pid.as_raw_pid())
    }
}

impl Runs {
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// How long until the next program has had its time.
    pub(crate) fn patience(&self) -> Option<Duration> {
        let next = self.all.values().filter_map(|run| run.deadline).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Kills programs that have had their time.
    pub(crate) fn kill_overdue(&mut self) {
        let now = Instant::now();
        for run in self.all.values_mut() {
            if run.deadline.take_if(|deadline| *deadline <= now).is_some() {
                run.kill();
            }
        }
    }

    /// Kills all programs but those that tidy up, which take little time.
    pub(crate) fn end(&mut self) {
        for run in self.all.values_mut() {
            if !matches!(run.purpose, Purpose::Delete { .. }) {
                run.kill();
            }
        }
    }

    /// Has `client` told when the program has forgotten the container; says whether it is about to.
    pub(crate) fn tell_when_deleted(&mut self, id: &ContainerId, client: Key) -> bool {
        let mut deletes = self.all.values_mut().filter_map(|run| match &mut run.purpose {
            Purpose::Delete { clients } if run.program.driven.id() == id.as_str() => Some(clients),
            Purpose::Delete { .. }
            | Purpose::Create(_)
            | Purpose::Start(_)
            | Purpose::Signal { .. }
            | Purpose::Update { .. }
            | Purpose::Exec { .. } => None,
        });
        deletes.next().map(|clients| clients.push(client)).is_some()
    }

    /// Whether a container of that name is being made.
    pub(crate) fn is_making(&self, id: &ContainerId) -> bool {
        self.all.values().any(|run| match &run.purpose {
            Purpose::Create(pending) => pending.id == *id,
            Purpose::Start(_)
            | Purpose::Signal { .. }
            | Purpose::Update { .. }
            | Purpose::Delete { .. }
            | Purpose::Exec { .. } => false,
        })
    }
}

impl Run {
    /// The program leads a session and a process group of its own.
    fn kill(&self) {
        // What of it has ended already cannot be killed.
        sys::rights::kill_group(self.program.pid).ok();
        sys::rights::signal(&self.program.pidfd, Signal::KILL.as_raw()).ok();
    }

    /// Whether the program did what it was run for, and otherwise why not.
    fn outcome(&self, key: Key, code: i32) -> Result<(), Refusal> {
        let Started { channel, driven, command, .. } = &self.program;
        let logged = driven.take_error(&log_name(key));
        if let Ok(Some((Word::Failed(refusal), _))) = init::hear(channel) {
            return Err(refusal);
        }
        let step = format!("{} {command}", driven.0.drive.name);
        match (code, self.deadline) {
            (0, _) => Ok(()),
            (_, None) => {
                Err(refusal(&step, "took too long and was killed", Errno::TIMEDOUT.raw_os_error()))
            }
            (code, Some(_)) => {
                let said = logged.or_else(|| self.purpose.errors().and_then(words::last_line));
                let ended = || format!("ended with status {code}");
                Err(refusal(&step, &said.unwrap_or_else(ended), 0))
            }
        }
    }
}

impl Purpose {
    /// What the program wrote on standard error, where nobody else reads that.
    fn errors(&self) -> Option<&OwnedFd> {
        match self {
            Purpose::Create(pending) => pending.errors(),
            Purpose::Start(_)
            | Purpose::Signal { .. }
            | Purpose::Update { .. }
            | Purpose::Delete { .. }
            | Purpose::Exec { .. } => None,
        }
    }
}

impl Driven {
    pub(super) fn patience(&self) -> Duration {
        Duration::from_millis(self.0.drive.patience_ms)
    }

    pub(super) fn id(&self) -> &str {
        &self.0.id
    }
}

/// The log of a run, in the bundle.
fn log_name(key: Key) -> String {
    format!("{key}.log")
}

fn arguments(key: Key, order: &Order<'_>) -> Vec<String> {
    let drive = &order.driven.0.drive;
    let log = format!("{}/{}", drive.bundle, log_name(key));
    let ahead = ["--root", drive.state.as_str(), "--log", log.as_str(), "--log-format", "json"];
    let mut all: Vec<String> = ahead.map(str::to_owned).to_vec();
    all.extend(drive.options.iter().cloned());
    all.push(order.command.to_owned());
    all.extend(order.options.iter().cloned());
    if let Some((option, file)) = &order.input {
        all.push((*option).to_owned());
        all.push(format!("/proc/self/fd/{}", file.as_raw_fd()));
    }
    all.push(order.driven.id().to_owned());
    all.extend(order.last.clone());
    all
}
