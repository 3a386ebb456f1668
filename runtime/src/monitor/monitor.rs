//! The loop: waits for events, and gives each to those it concerns. Nothing else in the monitor waits for anybody.

use crate::container::{Cgroup, Container, State};
use crate::driven::Runs;
use crate::events::{Event, Events, Key};
use crate::exec::Exec;
use crate::pids::Pids;
use crate::serve::Connection;
use crate::streams::Voice;
use crate::world::World;
use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// All that a monitor knows.
#[derive(Debug)]
pub(crate) struct Monitor {
    pub(crate) world: World,
    pub(crate) events: Events,
    pub(crate) connections: BTreeMap<Key, Connection>,
    pub(crate) containers: BTreeMap<Key, Container>,
    pub(crate) execs: BTreeMap<Key, Exec>,
    /// Programs of other runtimes at work.
    pub(crate) runs: Runs,
    /// The PID namespace that containers share, once there is one.
    pub(crate) pids: Option<Pids>,
    /// It was asked to end, and does so when nothing runs any more.
    pub(crate) ending: bool,
    /// For messages, and for what containers say.
    pub(crate) buffer: Vec<u8>,
    listener: OwnedFd,
    children: OwnedFd,
    last_key: Key,
}

/// A pipe is read by at most this much at a time; no message is longer either.
const BUFFER: usize = runtime::protocol::MAX_MESSAGE;
/// Between two looks at cgroups that something was killed in.
const SWEEP_PAUSE: Duration = Duration::from_millis(50);
/// A daemon has a few connections at a time, and one for each exec and each attached client.
const MAX_CONNECTIONS: usize = 2048;

impl Monitor {
    pub(crate) fn new(world: World, listener: OwnedFd) -> std::io::Result<Self> {
        let events = Events::new()?;
        let children = sys::signals::children_ended()?;
        rustix::io::ioctl_fionbio(&listener, true)?;
        events.add(&listener, Event::Listener)?;
        events.add(&children, Event::Children)?;
        Ok(Self {
            world,
            events,
            connections: BTreeMap::new(),
            containers: BTreeMap::new(),
            execs: BTreeMap::new(),
            runs: Runs::default(),
            pids: None,
            ending: false,
            buffer: vec![0; BUFFER],
            listener,
            children,
            last_key: 0,
        })
    }

    /// Serves until it was asked to end and nothing runs any more.
    pub(crate) fn run(mut self) -> Result<(), Errno> {
        while !(self.ending && self.is_idle()) {
            for event in self.events.wait(self.patience().as_ref())? {
                self.serve(event);
            }
            self.runs.kill_overdue();
            self.sweep();
        }
        Ok(())
    }

    /// How long nothing has to be done unless something happens; nothing is for ever.
    fn patience(&self) -> Option<Timespec> {
        let sweep = self.to_sweep().then_some(SWEEP_PAUSE);
        let overdue = self.runs.patience();
        let next = sweep.into_iter().chain(overdue).min()?;
        // A millisecond too late is never a moment too early.
        Timespec::try_from(next + Duration::from_millis(1)).ok()
    }

    /// Whether a cgroup of an ended exec is still worth looking at again: the kernel tells nobody when what was killed in it
    /// has ended.
    fn to_sweep(&self) -> bool {
        self.cgroups().any(|cgroup| cgroup.tries > 0)
    }

    fn sweep(&mut self) {
        for container in self.containers.values_mut() {
            let cgroup = container.process_mut().and_then(|process| process.cgroup.as_mut());
            if let Some(cgroup) = cgroup.filter(|cgroup| cgroup.tries > 0) {
                cgroup.tries -= 1;
                cgroup.sweep();
            }
        }
    }

    fn cgroups(&self) -> impl Iterator<Item = &Cgroup> {
        let processes = self.containers.values().filter_map(Container::process);
        processes.filter_map(|process| process.cgroup.as_ref())
    }

    fn is_idle(&self) -> bool {
        self.execs.is_empty()
            && self.runs.is_empty()
            && self.pids.is_none()
            && self.containers.values().all(|container| container.process().is_none())
    }

    fn serve(&mut self, event: Event) {
        match event {
            Event::Listener => self.accept(),
            Event::Children => self.reap(),
            Event::Connection(key) => self.hear_client(key),
            Event::Start(key) => self.hear_init(key),
            Event::Exec(key) => self.hear_exec(key),
            Event::Output(key) => self.read(key, Voice::Output),
            Event::Errors(key) => self.read(key, Voice::Errors),
        }
    }

    pub(crate) fn next_key(&mut self) -> Key {
        self.last_key += 1;
        self.last_key
    }

    fn accept(&mut self) {
        // Without descriptors the caller waits, and is served when there are some again: its request is an event still.
        let Ok(Some(socket)) = sys::seqpacket::accept(&self.listener) else { return };
        // The directory is root's; this is the second lock.
        let root =
            rustix::net::sockopt::socket_peercred(&socket).is_ok_and(|peer| peer.uid.is_root());
        if !root || self.connections.len() >= MAX_CONNECTIONS {
            return;
        }
        let key = self.next_key();
        if self.events.add(&socket, Event::Connection(key)).is_ok() {
            self.connections.insert(key, Connection::new(socket));
        }
    }

    fn read(&mut self, key: Key, voice: Voice) {
        if let Some(container) = self.containers.get_mut(&key) {
            container.streams.read(voice, &mut self.buffer, &self.events);
            self.tell_of_streams(key);
        }
    }

    /// Takes every child that has ended: containers, execs, helpers of execs, and orphans, of whom nobody asks.
    fn reap(&mut self) {
        let mut told = [0; 128];
        // How many signals there were says nothing about how many children.
        while rustix::io::read(&self.children, &mut told).is_ok() {}
        // Execs say their process's number before anybody here may learn that it has ended.
        for key in self.execs.keys().copied().collect::<Vec<_>>() {
            self.hear_exec(key);
        }
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            self.child_ended(pid, code(status));
        }
    }

    fn child_ended(&mut self, pid: Pid, code: i32) {
        if self.pids.as_ref().is_some_and(|pids| pids.init == pid) {
            self.pids_ended();
            return;
        }
        if self.program_ended(pid, code) {
            return;
        }
        let container = self.containers.iter().find(|(_, container)| container.knows(pid));
        if let Some((key, _)) = container {
            self.child_of_container_ended(*key, pid, code);
            return;
        }
        let exec = self.execs.iter().find(|(_, exec)| exec.knows(pid)).map(|(key, _)| *key);
        match exec {
            Some(key) => self.exec_child_ended(key, pid, code),
            None => self.stray_ended(pid, code),
        }
    }

    fn child_of_container_ended(&mut self, key: Key, pid: Pid, code: i32) {
        // `execve` may have happened just before, or a second process been made: the channel knows.
        self.hear_init(key);
        let first = self.containers.get(&key).and_then(Container::process);
        if first.is_some_and(|first| first.pid == pid) {
            self.container_ended(key, code);
        } else {
            self.helper_ended(key);
        }
    }

    pub(crate) fn container_ended(&mut self, key: Key, code: i32) {
        if self.ended_while_starting(key, code) {
            return;
        }
        let Some(container) = self.containers.get_mut(&key) else { return };
        let asked = match &container.state {
            State::Alive { init: Some(init), .. } => {
                init.client.map(|client| (client, init.refusal(code)))
            }
            State::Alive { init: None, .. } | State::Exited(_) => None,
        };
        container.sweep();
        let exit = container.end(code, &mut self.buffer, &self.events);
        let id = container.id.clone();
        let driven = container.driving.as_ref().map(|driving| driving.driven.clone());
        self.tell_of_streams(key);
        self.tell_watchers(&id, &exit);
        if let Some(driven) = driven {
            self.delete(&driven);
        }
        if let Some((client, refusal)) = asked {
            self.refuse_start(client, refusal);
        }
    }

    /// Ends everything that runs; the loop goes on until it has.
    pub(crate) fn end(&mut self) {
        self.ending = true;
        for process in self.containers.values().filter_map(Container::process) {
            // What cannot be killed through its cgroup is killed by itself.
            process.kill().ok();
        }
        for exec in self.execs.values() {
            exec.kill();
        }
        self.runs.end();
        if let Some(pids) = &self.pids {
            pids.kill();
        }
    }
}

impl Container {
    fn sweep(&mut self) {
        if let Some(cgroup) = self.process_mut().and_then(|process| process.cgroup.as_mut()) {
            cgroup.sweep();
        }
    }
}

/// The code of CRI: what the process returned, or 128 + the signal that ended it.
fn code(status: WaitStatus) -> i32 {
    let signal = || status.terminating_signal().map(|signal| 128 + signal);
    status.exit_status().or_else(signal).unwrap_or(255)
}
