//! One container: its first process and its end.

use crate::driven::Driving;
use crate::events::{Events, Key};
use crate::streams::Streams;
use plan::IdRange;
use runtime::cgroup::{Held, OomWatch};
use runtime::exit::{self, Cause, Exit};
use runtime::id::ContainerId;
use runtime::protocol::{Refusal, Report, Reported};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use std::io;
use std::os::fd::OwnedFd;
use std::time::SystemTime;

/// A container that the monitor was asked to start, until it is told to forget it.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) state: State,
    pub(crate) since: SystemTime,
    pub(crate) streams: Streams,
    pub(crate) record: OwnedFd,
    /// Where another runtime's program made it.
    pub(crate) driving: Option<Driving>,
}

/// Where it is in its life.
#[derive(Debug)]
pub(crate) enum State {
    /// Its first process lives; while its init works on the plan, what is said about that.
    Alive { process: First, init: Option<Init> },
    /// The first process has ended, and with it the container.
    Exited(Exit),
}

/// What is said about a start that goes on.
#[derive(Debug)]
pub(crate) struct Init {
    /// Our end of the channel.
    pub(crate) channel: OwnedFd,
    /// Who asked for it, if they are still there.
    pub(crate) client: Option<Key>,
    /// The process that made the first one in the pod's PID namespace, until it has ended.
    pub(crate) helper: Option<Pid>,
    /// No step is left but the system call filter and `execve`.
    pub(crate) executing: bool,
    /// The step that failed.
    pub(crate) refusal: Option<Refusal>,
}

/// A container's first process, and what belongs to it while it lives.
#[derive(Debug)]
pub(crate) struct First {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) cgroup: Option<Cgroup>,
    /// Processes can outlive it, because it ends no PID namespace of its own.
    pub(crate) shares_pids: bool,
    /// What its execs get.
    pub(crate) oom_score_adj: i32,
    /// Its user namespace, where it has one: users, then groups.
    pub(crate) user: Option<(IdRange, IdRange)>,
}

/// How often the cgroup of an ended exec is looked at again: what was killed in it ends soon, what was left to run may
/// run for ever.
pub(crate) const SWEEPS: u8 = 40;

/// A container's cgroup.
#[derive(Debug)]
pub(crate) struct Cgroup {
    pub(crate) held: Held,
    /// Its directories once more, to remove those of execs that are empty.
    pub(crate) directories: Vec<OwnedFd>,
    /// The watch, and how many kills there were before the start.
    pub(crate) oom: Option<(OomWatch, u64)>,
    /// Cgroups of execs that have ended, where something still ran.
    pub(crate) left: Vec<String>,
    /// How often they are still looked at without another reason to.
    pub(crate) tries: u8,
}

impl Container {
    /// The process while it lives.
    pub(crate) fn process(&self) -> Option<&First> {
        match &self.state {
            State::Alive { process, .. } => Some(process),
            State::Exited(_) => None,
        }
    }

    pub(crate) fn process_mut(&mut self) -> Option<&mut First> {
        match &mut self.state {
            State::Alive { process, .. } => Some(process),
            State::Exited(_) => None,
        }
    }

    /// Whether this is its first process, or the one that made it.
    pub(crate) fn knows(&self, pid: Pid) -> bool {
        match &self.state {
            State::Alive { process, init } => {
                process.pid == pid || init.as_ref().is_some_and(|init| init.helper == Some(pid))
            }
            State::Exited(_) => false,
        }
    }

    pub(crate) fn report(&self) -> Report {
        let state = match &self.state {
            State::Alive { process, .. } => {
                Reported::Running { pid: process.pid.as_raw_pid(), since: self.since }
            }
            State::Exited(exit) => Reported::Exited(exit.clone()),
        };
        Report { container: self.id.clone(), state, lost_log_bytes: self.streams.log.lost() }
    }

    /// Records how the container ended, and lets go of all that belonged to it. Gives the record.
    pub(crate) fn end(&mut self, code: i32, buffer: &mut [u8], events: &Events) -> Exit {
        if let Some(process) = self.process()
            && process.shares_pids
        {
            // What else runs would go on without anybody who knows of it.
            process.kill().ok();
        }
        self.streams.end(buffer, events);
        let exit = match &self.state {
            State::Alive { init: Some(init), .. } => start_failed(&init.refusal(code)),
            State::Alive { process, init: None } => process.exit(code),
            State::Exited(exit) => return exit.clone(),
        };
        self.record(exit)
    }

    /// Records that its program never ran.
    pub(crate) fn end_unstarted(
        &mut self,
        refusal: &Refusal,
        buffer: &mut [u8],
        events: &Events,
    ) -> Exit {
        self.streams.end(buffer, events);
        self.record(start_failed(refusal))
    }

    /// Writes the exit record before anybody is told.
    pub(crate) fn record(&mut self, exit: Exit) -> Exit {
        // The file was made in full size and lives in memory; were it lost, those who ask are still told.
        exit::write(&self.record, &exit).ok();
        self.state = State::Exited(exit.clone());
        exit
    }
}

impl Init {
    /// The step that failed, or that the init was killed by somebody else.
    pub(crate) fn refusal(&self, code: i32) -> Refusal {
        let ended =
            || crate::refuse::refusal("run init", &format!("it ended with status {code}"), 0);
        self.refusal.clone().unwrap_or_else(ended)
    }
}

impl First {
    /// How it ended, once `wait` has said with which code. One that failed after the kernel had killed something in its
    /// cgroup for memory failed of that: a supervisor whose worker was killed ends with a code of its own.
    fn exit(&self, code: i32) -> Exit {
        let out_of_memory = code != 0 && self.was_out_of_memory();
        let cause = if out_of_memory { Cause::OutOfMemory } else { Cause::Ended };
        Exit { code, at: SystemTime::now(), cause, message: String::new() }
    }

    fn was_out_of_memory(&self) -> bool {
        let watch = self.cgroup.as_ref().and_then(|cgroup| cgroup.oom.as_ref());
        watch.is_some_and(|(watch, before)| watch.kills().is_ok_and(|now| now > *before))
    }

    /// Sends SIGKILL to it and to all that is in its cgroup.
    pub(crate) fn kill(&self) -> io::Result<()> {
        let all = self.cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.held.kill());
        // It may have ended, or the cgroup may not have been entered yet.
        sys::rights::signal(&self.pidfd, Signal::KILL.as_raw()).ok();
        all
    }
}

impl Cgroup {
    /// Removes the cgroups of ended execs in which nothing runs any more.
    pub(crate) fn sweep(&mut self) {
        let directories = &self.directories;
        self.left.retain(|name| {
            // Only one hierarchy has it; EBUSY says that something still runs there.
            directories.iter().any(|directory| {
                let removed = rustix::fs::unlinkat(directory, name, rustix::fs::AtFlags::REMOVEDIR);
                removed == Err(Errno::BUSY)
            })
        });
        if self.left.is_empty() {
            self.tries = 0;
        }
    }
}

/// The exit of a container whose program never ran.
pub(crate) fn start_failed(refusal: &Refusal) -> Exit {
    let reason = match refusal.errno {
        0 => String::new(),
        number => format!(": {}", io::Error::from_raw_os_error(number)),
    };
    let message = exit::cut_message(&format!("{} {}{reason}", refusal.step, refusal.object));
    Exit { code: exit::START_FAILED, at: SystemTime::now(), cause: Cause::StartFailed, message }
}
